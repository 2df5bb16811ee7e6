//! `wakeport wake`: starts a service as a client would, and waits until it answers.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::control::Subject;
use super::{Fatal, output, runtime};

/// Start a service, and return when it answers
///
/// The service starts as for a client: unless it runs already, and within its start time-out. The
/// cooldown begins when it answers. Needs root or the group wakeport.
#[derive(Debug, Args)]
pub(super) struct Wake {
    #[command(flatten)]
    subject: Subject,
}

/// Runs to the end.
pub(super) fn run(wake: &Wake) -> ExitCode {
    let runtime = runtime().map_err(Fatal::from);
    let woken = runtime.and_then(|runtime| {
        let parameters = json!({});
        let asked = wake.subject.ask("Wake", &parameters, false);
        runtime.block_on(asked)
    });
    match woken {
        Ok(_) => ExitCode::SUCCESS,
        Err(fatal) => output::fatal(&fatal),
    }
}
