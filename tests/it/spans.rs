//! Spans of time, as the real systemd reads them.

use std::fs;
use std::process::Command;
use std::time::Duration;

use wakeport::config::span::parse;

use crate::repository::{files, repo};

/// What `systemd-analyze` makes of a span, or `None` if nothing.
fn by_systemd(text: &str) -> Option<Duration> {
    let mut command = Command::new("systemd-analyze");
    let output = command
        .args(["timespan", "--", text])
        .env("LC_ALL", "C")
        .output();
    let output = output.expect("systemd-analyze, of the package systemd");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let micros = said
        .lines()
        .find_map(|line| line.trim().split_once("s: "))?
        .1;
    match micros.parse().ok()? {
        u64::MAX => Some(Duration::MAX),
        micros => Some(Duration::from_micros(micros)),
    }
}

#[test]
fn systemd_parses_every_span_to_the_same_value() {
    let kept = files(&repo("tests/fuzz/corpus/spans"));
    let kept = kept.iter().filter_map(|path| fs::read_to_string(path).ok());
    let mut both = 0;
    for text in kept.filter(|text| !text.contains('\0')) {
        if let (Ok(ours), Some(theirs)) = (parse(&text), by_systemd(&text)) {
            let far = ours.abs_diff(theirs);
            assert!(
                far < Duration::from_millis(1),
                "{text:?}: {ours:?}, {theirs:?}"
            );
            both += 1;
        }
    }
    assert!(both > 5, "they agree on {both} only");
}
