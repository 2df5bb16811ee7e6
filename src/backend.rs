//! Starts and stops the service, and reports on it. One file per kind; none decides anything.

mod exec;
mod hooks;
#[cfg(feature = "kubernetes")]
mod kubernetes;
#[cfg(test)]
pub(crate) mod scripted;
mod systemd;

#[cfg(feature = "kubernetes")]
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::address::Peer;
use crate::config::{ServiceConfig, ServiceKind, UnitName};
use crate::core::lifecycle::Phase;
use crate::net::dial::{Dialer, Target};
use crate::program::Launcher;

use exec::Child;
use hooks::Hooks;
#[cfg(feature = "kubernetes")]
use kubernetes::Workloads;
use systemd::Units;

/// A handle on what starts and stops the service.
#[derive(Clone, Debug)]
pub enum Backend {
    /// Nothing of ours: systemd's own dependencies.
    Relay,
    /// Units, over D-Bus.
    Systemd(Arc<Units>),
    /// The administrator's programs.
    Hooks(Arc<Hooks>),
    /// A child process.
    Exec(Arc<Child>),
    /// Workloads of Kubernetes.
    #[cfg(feature = "kubernetes")]
    Kubernetes(Arc<Workloads>),
    /// Scripted by a test.
    #[cfg(test)]
    Scripted(Arc<scripted::Service>),
}

/// An order to start, and what is known about it.
#[derive(Clone, Debug)]
pub struct WakeOrder {
    /// The target that the first client asked for.
    pub target: Arc<Target>,
    /// The listener it came in by.
    pub listener: Arc<str>,
    /// The client's address.
    pub client: Peer,
    /// How long the start may take.
    pub limit: Duration,
    /// Cancelled when the start is given up.
    pub given_up: CancellationToken,
}

/// What has to be stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopScope {
    /// Nothing: this start did not start it.
    Nothing,
    /// These units.
    Units(Vec<UnitName>),
    /// All of the service.
    All,
}

/// How a start ended.
#[derive(Debug)]
pub struct Woken {
    /// What this start has started, failed or not.
    pub started: StopScope,
    /// Whether the service is up, or on its way.
    pub result: Result<(), Failure>,
}

/// What is known of a service that an order has stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slept {
    /// What is wrong nevertheless.
    pub remark: Option<String>,
    /// A process of it may run on and answer.
    pub may_answer: bool,
}

/// What a service has used since it was started, as far as that is accounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time, in nanoseconds.
    pub cpu_nanos: Option<u64>,
    /// Bytes from and to disks.
    pub io: Option<u64>,
    /// Bytes from and to networks.
    pub net: Option<u64>,
    /// The memory that it takes right now, in bytes.
    pub memory: Option<u64>,
}

/// What a service waits for while it is being started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// One word, as what it waits for calls it: `ImagePullBackOff`.
    pub reason: String,
    /// One line for people.
    pub why: String,
}

/// Why a service could not be started, stopped or queried: one line for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl Backend {
    /// The service that `config` describes, behind `targets`.
    pub fn new(
        config: &ServiceConfig,
        targets: &[Arc<Target>],
        dialer: &Dialer,
        launcher: &Launcher,
    ) -> Self {
        let stop_timeout = config.timing.stop_timeout;
        match config.kind.clone() {
            ServiceKind::Relay => Self::Relay,
            ServiceKind::Units { units, manager } => {
                let freezes = config.timing.freeze_after < Duration::MAX;
                let reclaims = config.freeze_reclaim;
                let units = Units::new(units, manager, stop_timeout, freezes, reclaims);
                Self::Systemd(Arc::new(units))
            }
            ServiceKind::Hooks { start, stop, pause } => Self::Hooks(Arc::new(Hooks {
                may_be_frozen: pause.is_some().into(),
                start,
                stop,
                pause,
                targets: targets.to_vec(),
                dialer: dialer.clone(),
                launcher: launcher.clone(),
                stop_timeout,
            })),
            ServiceKind::Exec(command) => {
                let (dialer, launcher) = (dialer.clone(), launcher.clone());
                Self::Exec(Arc::new(Child::new(
                    command,
                    dialer,
                    launcher,
                    stop_timeout,
                )))
            }
            #[cfg(feature = "kubernetes")]
            ServiceKind::Scale(scale) => {
                let targets = targets.iter().map(|target| &**target);
                let endpoints = dialer.endpoints().clone();
                let workloads = Workloads::new(*scale, targets, endpoints, stop_timeout);
                Self::Kubernetes(Arc::new(workloads))
            }
            // The options refuse it.
            #[cfg(not(feature = "kubernetes"))]
            ServiceKind::Scale(_) => Self::Relay,
        }
    }

    /// Whether the service runs, right now.
    pub async fn query(&self) -> Result<Phase, Failure> {
        match self {
            // Unknown: a client waits for the target.
            Self::Relay => Ok(Phase::Down),
            Self::Systemd(units) => units.query().await,
            Self::Hooks(hooks) => hooks.query().await,
            Self::Exec(child) => Ok(child.query().await),
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(workloads) => workloads.query().await,
            #[cfg(test)]
            Self::Scripted(service) => Ok(service.query().await),
        }
    }

    /// Starts the service. Returns when it is started, not when it answers.
    pub async fn wake(&self, order: WakeOrder) -> Woken {
        match self {
            Self::Relay => Woken {
                started: StopScope::Nothing,
                result: Ok(()),
            },
            Self::Systemd(units) => units.wake(order).await,
            Self::Hooks(hooks) => hooks.wake(order).await,
            Self::Exec(child) => child.wake(order).await,
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(workloads) => workloads.wake(order).await,
            #[cfg(test)]
            Self::Scripted(service) => service.wake(order).await,
        }
    }

    /// Stops what `scope` names. Returns when it is down, or with what prevents that.
    pub async fn sleep(&self, scope: StopScope) -> Result<Slept, Failure> {
        match self {
            // Even where nothing was started there is a claim to drop.
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(workloads) => return workloads.sleep(scope).await,
            _ if scope == StopScope::Nothing => Ok(()),
            Self::Relay => Ok(()),
            Self::Systemd(units) => return units.sleep(scope).await,
            Self::Hooks(hooks) => hooks.sleep().await,
            Self::Exec(child) => child.sleep().await,
            #[cfg(test)]
            Self::Scripted(service) => service.sleep().await,
        }
        .map(|()| Slept::default())
    }

    /// Freezes the service. Returns when nothing of it runs any more, or with what prevents that; it may be
    /// frozen in part then.
    pub async fn freeze(&self) -> Result<(), Failure> {
        match self {
            Self::Relay => Ok(()),
            Self::Systemd(units) => units.freeze().await,
            Self::Hooks(hooks) => hooks.freeze().await,
            Self::Exec(child) => child.freeze(),
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(_) => Ok(()),
            #[cfg(test)]
            Self::Scripted(service) => service.freeze().await,
        }
    }

    /// Thaws the service, if it is frozen.
    pub async fn thaw(&self) -> Result<(), Failure> {
        match self {
            Self::Relay => Ok(()),
            Self::Systemd(units) => units.thaw().await,
            Self::Hooks(hooks) => hooks.thaw().await,
            Self::Exec(child) => child.thaw(),
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(_) => Ok(()),
            #[cfg(test)]
            Self::Scripted(service) => service.thaw().await,
        }
    }

    /// What the service has used by now.
    pub async fn usage(&self) -> Result<Usage, Failure> {
        match self {
            Self::Systemd(units) => units.usage().await,
            Self::Relay | Self::Hooks(_) | Self::Exec(_) => Ok(Usage::default()),
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(_) => Ok(Usage::default()),
            #[cfg(test)]
            Self::Scripted(service) => Ok(service.script().usage),
        }
    }

    /// Units that would be stopped along with the service, and that run or start.
    pub async fn dependents(&self) -> Result<Vec<String>, Failure> {
        match self {
            Self::Systemd(units) => units.dependents().await,
            Self::Relay | Self::Hooks(_) | Self::Exec(_) => Ok(Vec::new()),
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(_) => Ok(Vec::new()),
            #[cfg(test)]
            Self::Scripted(service) => service.dependents().await,
        }
    }

    /// Calls `changed` whenever the service may have changed by itself. Never returns.
    pub async fn watch(&self, changed: impl Fn() + Send + Sync) {
        match self {
            Self::Relay | Self::Hooks(_) => std::future::pending().await,
            Self::Systemd(units) => units.watch(changed).await,
            Self::Exec(child) => child.watch(changed).await,
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(workloads) => workloads.watch(changed).await,
            #[cfg(test)]
            Self::Scripted(service) => service.watch(changed).await,
        }
    }

    /// Why the service went down, as far as is known.
    pub async fn failure_reason(&self) -> Option<String> {
        match self {
            Self::Systemd(units) => units.failure_reason().await,
            Self::Exec(child) => child.failure_reason().await,
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(workloads) => workloads.failure_reason(),
            Self::Relay | Self::Hooks(_) => None,
            #[cfg(test)]
            Self::Scripted(_) => None,
        }
    }

    /// What the service waits for while it is being started, as far as is known.
    pub fn awaited(&self) -> Option<Awaited> {
        match self {
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(workloads) => workloads.awaited(),
            Self::Relay | Self::Systemd(_) | Self::Hooks(_) | Self::Exec(_) => None,
            #[cfg(test)]
            Self::Scripted(service) => service.script().awaited,
        }
    }

    /// Whether others than this process keep the service up, as far as is known.
    #[cfg(feature = "kubernetes")]
    pub fn is_claimed_by_others(&self) -> bool {
        match self {
            Self::Kubernetes(workloads) => workloads.is_claimed_by_others(),
            Self::Relay | Self::Systemd(_) | Self::Hooks(_) | Self::Exec(_) => false,
            #[cfg(test)]
            Self::Scripted(_) => false,
        }
    }

    /// Where those are.
    #[cfg(feature = "kubernetes")]
    pub async fn others(&self) -> Vec<IpAddr> {
        match self {
            Self::Kubernetes(workloads) => workloads.others().await,
            Self::Relay | Self::Systemd(_) | Self::Hooks(_) | Self::Exec(_) => Vec::new(),
            #[cfg(test)]
            Self::Scripted(_) => Vec::new(),
        }
    }

    /// Whether a query tells more than a connection to the target would, and costs the service nothing.
    pub fn can_tell(&self) -> bool {
        !matches!(self, Self::Relay | Self::Hooks(_))
    }

    /// Whether a wake starts anything. If not, systemd starts the service along with our process.
    pub fn can_start(&self) -> bool {
        !matches!(self, Self::Relay)
    }
}
