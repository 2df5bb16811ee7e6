//! The commands, their help, and their exit codes.

mod check;
pub mod child;
mod config_file;
mod control;
mod exporter;
mod hold;
mod init;
mod instances;
#[cfg(any(test, fuzzing))]
pub mod test_api;
mod observed;
mod options;
mod reclaim;
mod run;
mod output;
mod sleep;
mod status;
mod wake;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

use crate::net::listen;
use crate::systemd::journal::{self, LogFormat, LogLevel};

/// Start a service on its first connection, relay to it, and stop it when it is idle
///
/// systemd keeps the listening sockets and starts wakeport for the first client. wakeport starts
/// the service, holds the client until the service answers, relays, stops the service a cooldown
/// after the last connection closed, and exits.
#[derive(Debug, Parser)]
#[command(name = "wakeport", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Waits for clients, and wakes the service for them
    ///
    /// Every option can be given as a variable of the environment, so that a unit's drop-in can set
    /// it. There, lists are separated by white space, an empty value counts as unset, and switches
    /// take yes or no. Spans of time are written as in systemd: 90s, 5min 20s, infinity; a bare
    /// number counts seconds, and 0 means at once.
    Run(Box<options::Options>),
    Init(Box<init::Init>),
    Check(Box<check::Check>),
    Status(status::Status),
    Wake(wake::Wake),
    Hold(Box<hold::Hold>),
    Sleep(sleep::Sleep),
    Exporter(exporter::Exporter),
    #[command(hide = true)]
    Child(child::Child),
    #[command(hide = true)]
    Reclaim(reclaim::Reclaim),
}

/// Exit codes, as systemd names them (systemd.exec(5), "Process Exit Codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// `init` or `check` has found an error that must be fixed first.
    Findings = 1,
    /// The command line or a `WAKEPORT_…` variable is wrong.
    Usage = 64,
    /// The service cannot be had: it does not start, or its control socket is closed.
    Unavailable = 69,
    /// An internal error.
    Software = 70,
    /// Not now: the service is in use, or was stopped by force.
    Refused = 75,
    /// The control socket is for others.
    NoPermission = 77,
    /// The sockets, or what they have to do with the targets, are wrong.
    Config = 78,
}

/// An error that ends the process.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fatal {
    /// One line that names the object and the remedy.
    pub message: String,
    /// What the process ends with.
    pub exit: Exit,
}

impl Fatal {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { message, exit }
    }

    fn findings(message: impl Into<String>) -> Self {
        Self::new(Exit::Findings, message)
    }

    fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    fn software(message: impl Into<String>) -> Self {
        Self::new(Exit::Software, message)
    }

    fn config(message: impl Into<String>) -> Self {
        Self::new(Exit::Config, message)
    }
}

/// Reads the command line and carries it out. To be called before any thread exists.
pub fn main() -> ExitCode {
    match parse(std::env::args_os()) {
        Ok(Command::Run(options)) => run::run(*options),
        Ok(Command::Init(init)) => init::run(*init),
        Ok(Command::Check(check)) => check::run(*check),
        Ok(Command::Status(status)) => status::run(&status),
        Ok(Command::Wake(wake)) => wake::run(&wake),
        Ok(Command::Hold(hold)) => hold::run(*hold),
        Ok(Command::Sleep(sleep)) => sleep::run(&sleep),
        Ok(Command::Exporter(exporter)) => exporter::run(exporter),
        Ok(Command::Child(child)) => child::run(child),
        Ok(Command::Reclaim(reclaim)) => reclaim::run(&reclaim),
        Err(error) => complain(&error),
    }
}

/// All commands and options; `systemd/pages` makes man pages and completions of them.
pub fn command() -> clap::Command {
    Cli::command().mut_subcommand("init", init::adjust)
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    // In a unit's drop-in, `Environment=WAKEPORT_UNIT=` is the way to take a setting back.
    let command = command().mut_subcommands(|command| {
        command.mut_args(|argument| match argument.get_env() {
            Some(name) if std::env::var_os(name).is_some_and(|value| value.is_empty()) => {
                argument.env(Resettable::Reset)
            }
            _ => argument,
        })
    });
    Ok(Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)?.command)
}

/// Shows help where that was asked for, and an error in one line where it was not.
fn complain(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return match error.use_stderr() {
            true => ExitCode::from(Exit::Usage as u8),
            false => ExitCode::SUCCESS,
        };
    }
    let from_variable = |option: &str, variable: &str| {
        let typed = std::env::args().any(|typed| typed.split('=').next() == Some(option));
        std::env::var_os(variable).is_some() && !typed
    };
    let message = with_variable(error, from_variable);
    if std::env::args().nth(1).as_deref() != Some("run") {
        return output::fatal(&Fatal::usage(message));
    }
    let inherited = listen::inherit();
    let _log = journal::start(LogFormat::Auto, LogLevel::Info);
    run::fail(&Fatal::usage(message), &inherited)
}

/// What runs a command, on the thread that calls.
fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// What is wrong with a command line, in one line.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim);
    let lines = lines.take_while(|line| !line.starts_with("Usage:"));
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    let message = lines.join("; ");
    message.trim_start_matches("error: ").replace(":;", ":")
}

/// The variable of an option.
fn variable(option: &str) -> String {
    format!("WAKEPORT_{}", option.replace('-', "_").to_uppercase())
}

/// What is wrong with a command line, in one line that names the variable of its option if the value
/// `is_from` that.
fn with_variable(error: &clap::Error, is_from: impl Fn(&str, &str) -> bool) -> String {
    let message = one_line(error);
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return message;
    };
    let option = argument.split([' ', '=', '[']).next().unwrap_or_default();
    let variable = variable(option.trim_start_matches('-'));
    match is_from(option, &variable) {
        true => format!("{message} The value is that of the variable {variable}."),
        false => message,
    }
}
