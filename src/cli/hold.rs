//! `wakeport hold`: keeps a service awake for a while, or as long as a command runs.

mod command;
pub(super) mod deadline;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::control::{Problem, Subject};
use super::{Exit, Fatal, output, runtime};
use crate::config::span;
use crate::control::client::Client;
use crate::util::backoff::Backoff;
use command::{Running, Signals};
use deadline::{Deadline, Moment};

/// How long it is tried to hold a service again whose wakeport has ended.
const RETRY_FOR: Duration = Duration::from_secs(90);

/// The pauses between the attempts.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// Keep a service awake until a time, or as long as a command runs
///
/// Starts the service as for a client, and keeps it from being stopped until the time is over, the
/// command ends, or this is ended by a signal. Several holds add up. A hold outlives restarts of wakeport.
/// Needs root or the group wakeport.
#[derive(Debug, Args)]
pub(super) struct Hold {
    #[command(flatten)]
    subject: Subject,

    /// Hold it for so long: 9h, 5min 20s
    #[arg(long = "for", value_name = "TIME", value_parser = span::parse)]
    span: Option<Duration>,

    /// Hold it until then: 18:00, 2026-12-24 18:00
    #[arg(long, value_name = "TIME", conflicts_with = "span")]
    until: Option<Moment>,

    /// Hold it only if the first --until after this calendar event (systemd.time(7)) is still to come
    ///
    /// A timer with Persistent=yes may be late by days.
    #[arg(long, value_name = "CALENDAR", requires = "until")]
    since: Option<String>,

    /// Why, for `wakeport status`
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,

    /// Run this once the service answers, and hold it until this has ended; its exit code is passed on
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs to the end.
pub(super) fn run(hold: Hold) -> ExitCode {
    let runtime = runtime().map_err(Fatal::from);
    let held = runtime.and_then(|runtime| runtime.block_on(hold.hold()));
    held.unwrap_or_else(|fatal| output::fatal(&fatal))
}

/// What has ended a hold.
enum End {
    /// Its time.
    Time,
    /// Something else.
    Lost(Fatal),
}

impl Hold {
    async fn hold(self) -> Result<ExitCode, Fatal> {
        let label = self.subject.label();
        let Some(deadline) = self.deadline()? else {
            output::error(&format!("`{label}` is not held: that time is over"));
            return Ok(ExitCode::SUCCESS);
        };
        let mut signals = Signals::new()?;
        let client = tokio::select! {
            granted = self.grant(&deadline) => granted?,
            // A command was to run, and did not.
            signal = signals.next() => return Ok(match self.command.is_empty() {
                true => ExitCode::SUCCESS,
                false => signal.exit(),
            }),
        };
        let over = self.over(client, &deadline);
        tokio::pin!(over);
        let Some((program, arguments)) = self.command.split_first() else {
            output::error(&format!("`{label}` is held{}", deadline.shown()));
            return tokio::select! {
                end = &mut over => match end {
                    End::Time => Ok(ExitCode::SUCCESS),
                    End::Lost(fatal) => Err(fatal),
                },
                _ = signals.next() => Ok(ExitCode::SUCCESS),
            };
        };
        let mut running = match Running::start(program, arguments) {
            Ok(running) => running,
            Err(code) => return Ok(code),
        };
        let mut held = true;
        loop {
            tokio::select! {
                ended = running.ended() => return Ok(ended),
                signal = signals.next() => running.signal(signal),
                end = &mut over, if held => {
                    held = false;
                    let why = match end {
                        End::Time => format!("`{label}` is held no more: the time is over"),
                        End::Lost(fatal) => fatal.message,
                    };
                    output::error(&format!("{why}; the command goes on"));
                }
            }
        }
    }

    /// When the hold ends; `None` if it is over already.
    fn deadline(&self) -> Result<Option<Deadline>, Fatal> {
        match (&self.until, self.span) {
            (Some(until), _) => {
                let at = until.after(self.since.as_deref());
                let at = at.map_err(Fatal::usage)?;
                Ok(Some(Deadline::At(at)).filter(|deadline| !deadline.is_over()))
            }
            (None, Some(span)) => Ok(Some(Deadline::In(Instant::now().checked_add(span)))),
            (None, None) => Ok(Some(Deadline::In(None))),
        }
    }

    fn parameters(&self, deadline: &Deadline) -> serde_json::Value {
        let mut parameters = json!({ "reason": self.reason });
        if let Some(left) = deadline.left() {
            // The other side knows only spans: it is the one that lets go if we cannot.
            parameters["for"] = json!(format!("{}us", left.as_micros()));
        }
        parameters
    }

    /// Waits until the service is held.
    async fn grant(&self, deadline: &Deadline) -> Result<Client, Fatal> {
        let parameters = self.parameters(deadline);
        let (client, _) = self.subject.ask("Hold", &parameters, true).await?;
        Ok(client)
    }

    /// Waits until the hold has ended. If its wakeport does, the next one is asked to hold the service.
    async fn over(&self, mut client: Client, deadline: &Deadline) -> End {
        loop {
            let reply = tokio::select! {
                reply = client.reply() => reply,
                () = deadline.over() => return End::Time,
            };
            match reply.map(|reply| self.subject.error(&reply)) {
                Ok(Some(fatal)) => return End::Lost(fatal),
                // It is over, as we see it a little later.
                Ok(None) => return End::Time,
                Err(error) => {
                    client = match self.again(&error, deadline).await {
                        Ok(client) => client,
                        Err(fatal) => return End::Lost(fatal),
                    }
                }
            }
        }
    }

    /// Holds it again after the connection broke: at once, since the next process stops the service after
    /// a cooldown.
    async fn again(&self, error: &io::Error, deadline: &Deadline) -> Result<Client, Fatal> {
        let mut last = self.subject.broken(error);
        let until = Instant::now() + RETRY_FOR;
        let mut pauses = PAUSES;
        while Instant::now() < until && !deadline.is_over() {
            let parameters = self.parameters(deadline);
            last = match self.subject.ask_once("Hold", &parameters, true).await {
                Ok((client, _)) => return Ok(client),
                Err(Problem::Final(fatal)) if fatal.exit == Exit::NoPermission => {
                    return Err(fatal);
                }
                Err(problem) => problem.into(),
            };
            sleep(pauses.pause()).await;
        }
        Err(last)
    }
}
