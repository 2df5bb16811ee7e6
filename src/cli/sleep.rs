//! `wakeport sleep`: ends a cooldown now.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::control::Subject;
use super::{Fatal, output, runtime};

/// Stop a service now, without waiting for the end of its cooldown
///
/// Returns when the service is stopped. Clients, holds and work keep it awake, and are named then. Needs
/// root or the group wakeport.
#[derive(Debug, Args)]
pub(super) struct Sleep {
    #[command(flatten)]
    subject: Subject,

    /// Stop it under its clients as well, end its holds, and ask no busy hook
    #[arg(long)]
    force: bool,
}

/// Runs to the end.
pub(super) fn run(sleep: &Sleep) -> ExitCode {
    let runtime = runtime().map_err(Fatal::from);
    let slept = runtime.and_then(|runtime| {
        let parameters = json!({ "force": sleep.force });
        let asked = sleep.subject.ask("Sleep", &parameters, false);
        runtime.block_on(asked)
    });
    match slept {
        Ok(_) => ExitCode::SUCCESS,
        Err(fatal) => output::fatal(&fatal),
    }
}
