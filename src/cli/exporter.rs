//! `wakeport exporter`: the metrics of all instances, for Prometheus. Reads their records, wakes
//! nothing, and exits when idle.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::run::{BOTH, fail};
use super::{Fatal, runtime};
use crate::config::address::Bound;
use crate::config::{Named, span};
use crate::net::listen::{self, Inherited};
use crate::report::metrics::{self, Instance};
use crate::report::scrape::{self, Pages, Source};
use crate::report::state_file;
use crate::systemd::journal::{self, LogFormat, LogLevel};

/// Serve the metrics of every instance to Prometheus, at /metrics
///
/// Each scrape reads the records of all instances, and wakes nothing. Started by
/// wakeport-exporter.socket, the exporter exits when idle.
#[derive(Debug, Args)]
pub(super) struct Exporter {
    /// Read records from this directory; may be repeated [default: the system's and the user's]
    #[arg(long, value_name = "DIR")]
    state_dir: Vec<PathBuf>,

    /// Exit after this long without a scrape
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = span::parse)]
    idle_timeout: Duration,

    /// Bind this address, and do not exit: ADDRESS:PORT, PORT, /path, @abstract
    #[arg(long, value_name = "ADDR")]
    listen: Option<Bound>,
}

/// Serves to the end.
pub(super) fn run(exporter: Exporter) -> ExitCode {
    let mut inherited = listen::inherit();
    let _log = journal::start(LogFormat::Auto, LogLevel::Info);
    match serve(exporter, &mut inherited) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => fail(&fatal, &inherited),
    }
}

fn serve(exporter: Exporter, inherited: &mut Inherited) -> Result<(), Fatal> {
    if let Some(error) = inherited.errors.pop() {
        return Err(Fatal::config(error));
    }
    let (listeners, idle) = match (exporter.listen, inherited.listeners.is_empty()) {
        (Some(_), false) => return Err(Fatal::usage(BOTH)),
        (None, true) => {
            return Err(Fatal::usage(
                "no sockets were passed in; start `wakeport-exporter.socket`, or give `--listen ADDR` to run by hand",
            ));
        }
        (None, false) => (
            std::mem::take(&mut inherited.listeners),
            exporter.idle_timeout,
        ),
        (Some(value), true) => {
            let wanted = Named { name: None, value };
            let bound = listen::bind_all(&[wanted]).map_err(Fatal::config)?;
            (bound, Duration::MAX)
        }
    };
    let directories = match exporter.state_dir {
        none if none.is_empty() => state_file::usual_places(),
        some => some,
    };
    let metrics: Source = Arc::new(move || {
        let page = page(&directories);
        Box::pin(async { page })
    });
    let pages = Pages {
        metrics,
        answers: None,
    };
    Ok(runtime()?.block_on(scrape::serve(listeners, idle, pages))?)
}

/// The page as the records are now. There is nothing else to do, so this may block.
fn page(directories: &[PathBuf]) -> String {
    let (records, problems) = state_file::records(directories);
    let instance = |record| Instance {
        alive: state_file::is_alive(&record),
        record,
    };
    let instances: Vec<_> = records.into_iter().map(instance).collect();
    metrics::page(&instances, problems.len(), state_file::moment())
}
