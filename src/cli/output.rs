//! Output of the commands, on a terminal or not.

use std::io::{self, Write};
use std::process::ExitCode;

use super::Fatal;
use crate::admin::{Finding, Level};
use crate::util::text::in_colours;

/// Prints findings, one line each, on standard error: beside what was asked for.
pub(super) fn findings(findings: &[Finding]) {
    lines(findings, in_colours(&io::stderr()))
        .iter()
        .for_each(|line| error(line));
}

/// The same on standard output: they are what was asked for.
pub(super) fn report(findings: &[Finding]) {
    lines(findings, in_colours(&io::stdout()))
        .iter()
        .for_each(|text| line(text));
}

fn lines(findings: &[Finding], colours: bool) -> Vec<String> {
    let line = |finding: &Finding| {
        let (level, text) = (finding.level, &finding.text);
        let colour = match level {
            Level::Error => "\x1b[1;31m",
            Level::Warning => "\x1b[1;33m",
            Level::Note => "\x1b[1;34m",
        };
        match colours {
            true => format!("{colour}{level}:\x1b[0m {text}"),
            false => format!("{level}: {text}"),
        }
    };
    findings.iter().map(line).collect()
}

/// Ends with an error.
pub(super) fn fatal(Fatal { message, exit }: &Fatal) -> ExitCode {
    findings(&[Finding::error(message)]);
    ExitCode::from(*exit as u8)
}

/// A line, or more, on standard output.
pub(super) fn line(text: &str) {
    // A reader that has closed the pipe needs no more.
    let _ = writeln!(io::stdout(), "{}", text.trim_end());
}

/// A line, or more, on standard error.
pub(super) fn error(text: &str) {
    let _ = writeln!(io::stderr(), "{}", text.trim_end());
}
