//! How an instance lets itself be observed: what it is called, where its record is kept, and who
//! may read its metrics.

use std::path::PathBuf;

use super::Fatal;
use crate::config::address::Bound;
use crate::config::{Config, Named, ServiceKind};
use crate::net::listen::{self, Listener};
use crate::server::Instance;

/// Reads what an instance is called in `status`, in the metrics, and as a file.
fn instance_name(text: &str) -> Result<String, String> {
    let bad = |c: char| "/+".contains(c) || c.is_control();
    if text.is_empty() || text.len() > 200 || text.starts_with('.') || text.contains(bad) {
        return Err("a name is a file's name as well: 1 to 200 bytes, without `/` and `+`, not beginning with a dot".into());
    }
    Ok(text.to_owned())
}

/// What is wrong with `--metrics` under socket activation.
pub(super) const METRICS_GO_WITH_LISTEN: &str = "`--metrics` goes with `--listen`: we are not always here; `wakeport-exporter.socket` serves the metrics of all instances, sleeping ones included";

fn bind(value: Bound) -> Result<Option<Listener>, Fatal> {
    let bound = listen::bind_all(&[Named { name: None, value }]);
    Ok(bound.map_err(Fatal::config)?.pop())
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Observation")]
pub(super) struct Observed {
    /// What `wakeport status` and the metrics call this instance; by default as its unit is called,
    /// without wakeport@
    #[arg(long, value_name = "NAME", value_parser = instance_name)]
    name: Option<String>,

    /// Keep in this directory what `wakeport status` shows: instances/NAME.json, readable for all
    /// users [default: the unit's StateDirectory=; by hand nothing is kept]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// With --listen, serve metrics for Prometheus on this address, at /metrics: ADDRESS:PORT,
    /// PORT, /path, @abstract
    ///
    /// Under systemd wakeport-exporter.socket serves the metrics of all instances.
    #[arg(long, value_name = "ADDR")]
    pub(super) metrics: Option<Bound>,

    /// With --scale, serve KEDA's external-push scaler on this address: ADDRESS:PORT, PORT
    ///
    /// wakeport scales to zero and back itself; KEDA, which finds it active, decides about all above.
    #[arg(long, value_name = "ADDR", help_heading = "Kubernetes")]
    pub(super) keda: Option<Bound>,
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
        bind(value)
    }

    /// Where KEDA asks, if it does, for what `config` scales.
    pub(super) fn listen_for_keda(
        &mut self,
        config: &Config,
        activated: bool,
    ) -> Result<Option<Listener>, Fatal> {
        if let Some(wrong) = self.wrong_keda(config, activated) {
            return Err(Fatal::usage(wrong));
        }
        self.keda.take().map_or(Ok(None), bind)
    }

    /// What is wrong with `--keda`.
    pub(super) fn wrong_keda(&self, config: &Config, activated: bool) -> Option<&'static str> {
        self.keda.as_ref()?;
        let mut services = config.services.iter();
        if !services.any(|service| matches!(service.kind, ServiceKind::Scale(_))) {
            Some("`--keda` means nothing without `--scale`; add it, or leave it out")
        } else if activated {
            Some(
                "`--keda` goes with `--listen`: KEDA asks all the time, and we are not always here",
            )
        } else {
            None
        }
    }

    /// What the instance is called, and where its records are kept.
    pub(super) fn instance(self) -> Instance {
        Instance::new(self.name, self.state_dir)
    }
}
