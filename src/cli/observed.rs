//! How an instance lets itself be observed: what it is called, where its record is kept, and who
//! may read its metrics.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::Fatal;
use crate::config::address::Bound;
use crate::config::{Manager, Named, ServiceConfig, ServiceKind};
use crate::net::listen::{self, Listener};
use crate::report::metrics::{self, Instance};
use crate::report::record::{Owner, Record};
use crate::report::scrape::{self, Source};
use crate::report::state_file::{self, Closing, StateWriter};
use crate::service::{Handle, Recorder};
use crate::systemd::unit;

/// What an instance is called in `status`, in the metrics, and as a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InstanceName(String);

impl FromStr for InstanceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |c: char| "/+".contains(c) || c.is_control();
        if text.is_empty() || text.len() > 200 || text.starts_with('.') || text.contains(bad) {
            return Err("a name is a file's name as well: 1 to 200 bytes, without `/` and `+`, not beginning with a dot".into());
        }
        Ok(Self(text.to_owned()))
    }
}

/// What is wrong with `--metrics` under socket activation.
pub(super) const METRICS_GO_WITH_LISTEN: &str = "`--metrics` goes with `--listen`: we are not always here; `wakeport-exporter.socket` serves the metrics of all instances, sleeping ones included";

/// What was asked for.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) name: Option<InstanceName>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) metrics: Option<Bound>,
}

impl Observed {
    /// Where the metrics are served, if they are. To be called before anything is served.
    pub(super) fn listen(&mut self, activated: bool) -> Result<Option<Listener>, Fatal> {
        let Some(value) = self.metrics.take() else {
            return Ok(None);
        };
        if activated {
            return Err(Fatal::usage(METRICS_GO_WITH_LISTEN));
        }
        Ok(listen::bind_all(&[Named { name: None, value }])?.pop())
    }

    /// The books of this instance, and what has them closed in the end.
    ///
    /// Where nobody has said where to keep a record, as when run by hand, nothing is written.
    pub(super) fn books(
        self,
        config: &ServiceConfig,
        stays: bool,
        service: String,
    ) -> (Recorder, Closing) {
        let unit = unit::own();
        let label = unit.as_ref().map(unit::Unit::label);
        let name = match (self.name, label) {
            (Some(InstanceName(name)), _) => name,
            (None, label) => label.unwrap_or("wakeport").to_owned(),
        };
        let directory = self.state_dir.or_else(given_by_systemd);
        let record = directory
            .as_deref()
            .map(|directory| state_file::open(directory, &name));
        let (keeper, closing) = match directory.as_deref() {
            Some(directory) => StateWriter::start(directory, &name),
            None => StateWriter::none(),
        };
        if config.wake_rate.is_some() && directory.is_none() && !stays {
            tracing::warn!(
                "`--wake-rate` counts only the wakes since wakeport was started, and it exits when \
                 idle: give it a `StateDirectory=` or `--state-dir`, or `--stay`"
            );
        }
        let (units, units_manager) = match &config.kind {
            ServiceKind::Units { units, manager } => (
                units.iter().map(ToString::to_string).collect(),
                match manager {
                    Manager::System => Owner::System,
                    Manager::User => Owner::User,
                },
            ),
            ServiceKind::Relay | ServiceKind::Hooks { .. } | ServiceKind::Exec(_) => {
                Default::default()
            }
        };
        let of_a_user = unit.as_ref().is_some_and(|unit| unit.of_a_user);
        let record = Record {
            name,
            unit: unit.map(|unit| unit.name),
            manager: if of_a_user {
                Owner::User
            } else {
                Owner::System
            },
            service,
            units,
            units_manager,
            ..record.unwrap_or_default()
        };
        (Recorder::open(record, keeper), closing)
    }
}

/// Serves the metrics of this instance alone, as long as its driver lives.
pub(super) async fn serve_metrics(listener: Listener, driver: Handle) {
    let source: Source = Arc::new(move || {
        let driver = driver.clone();
        Box::pin(async move {
            let record = driver.record().await;
            let instance = record.map(|record| Instance {
                record,
                alive: true,
            });
            metrics::page(instance.as_slice(), 0, state_file::moment())
        })
    });
    if let Err(error) = scrape::serve(vec![listener], Duration::MAX, source).await {
        tracing::warn!("cannot serve the metrics: {error}");
    }
}

/// `StateDirectory=` of our unit (systemd.exec(5)); if there are several, the first one.
fn given_by_systemd() -> Option<PathBuf> {
    let given = std::env::var("STATE_DIRECTORY").ok()?;
    let first = Path::new(given.split(':').next()?);
    first.is_absolute().then(|| first.to_owned())
}
