//! The service manager as one that is always there: connected when needed, again when the
//! connection is lost, and always listened to.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use zbus::message::Type;
use zbus::{MatchRule, Message, MessageStream, OwnedObjectPath, OwnedVariant};

use super::explain::{self, BusError, Verb};
use crate::backend::Failure;
use crate::config::{Manager, UnitName};
use crate::systemd::dbus::{self, Bus, Properties, SYSTEMD, UnitStatus};
use crate::util::lock::locked;
use crate::util::proc;

/// How long an answer may take: libdbus's own default. The manager does not answer while it
/// reloads its units.
const REPLY_TIMEOUT: Duration = Duration::from_secs(25);

/// The shortest time between two connections.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Jobs whose results are kept; far more than one start or stop has.
const JOB_RESULTS: usize = 64;

/// A service manager, whether or not it can be reached just now.
#[derive(Debug)]
pub(super) struct Monitor {
    pub(super) manager: Manager,
    units: Vec<UnitName>,
    link: tokio::sync::Mutex<Option<Arc<Link>>>,
    signals: Arc<SignalLog>,
    lost_since: Mutex<Option<Instant>>,
}

/// A connection that listens.
#[derive(Debug)]
pub(super) struct Link {
    bus: Bus,
    opened: Instant,
    /// Its match rules may no longer hold, or it is closed: a new one is needed.
    stale: CancellationToken,
    _listener: JoinSet<()>,
}

/// What the manager has signalled.
#[derive(Debug, Default)]
struct SignalLog {
    changes: watch::Sender<()>,
    /// A job was refused since its unit is frozen.
    refused: AtomicBool,
    job_results: Mutex<Vec<(OwnedObjectPath, String)>>,
}

/// Tells that something has changed.
pub(super) struct ChangeFeed(watch::Receiver<()>);

impl Monitor {
    pub(super) fn new(manager: Manager, units: Vec<UnitName>) -> Self {
        Self {
            manager,
            units,
            link: tokio::sync::Mutex::default(),
            signals: Arc::default(),
            lost_since: Mutex::default(),
        }
    }

    /// Changes from now on.
    pub(super) fn changes(&self) -> ChangeFeed {
        ChangeFeed(self.signals.changes.subscribe())
    }

    /// The result of `job`, if it was signalled.
    pub(super) fn job_result(&self, job: &OwnedObjectPath) -> Option<String> {
        let results = locked(&self.signals.job_results);
        let mut latest = results.iter().rev();
        let (_, result) = latest.find(|(path, _)| path == job)?;
        Some(result.clone())
    }

    /// The connection; a new one if there is none or the old one is of no use any more.
    pub(super) async fn link(&self) -> Result<Arc<Link>, BusError> {
        let mut link = self.link.lock().await;
        if let Some(old) = &*link {
            if !old.stale.is_cancelled() && !old.bus.is_closed() {
                return Ok(Arc::clone(old));
            }
            sleep_until(old.opened + RECONNECT_PAUSE).await;
        }
        let new = timeout(REPLY_TIMEOUT, self.open()).await;
        let new = new.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()));
        let new = new.map_err(|error| self.failed(error, Verb::Query, &joined(&self.units)))?;
        let new = Arc::new(new);
        *link = Some(Arc::clone(&new));
        // Changes in between were not signalled.
        self.signals.changes.send_replace(());
        Ok(new)
    }

    async fn open(&self) -> zbus::Result<Link> {
        let bus = Bus::open(self.manager, REPLY_TIMEOUT).await?;
        let stale = CancellationToken::new();
        let mut listener = JoinSet::new();
        let signals = Arc::clone(&self.signals);
        let over = stale.clone().drop_guard();
        let messages = bus.messages();
        listener.spawn(async move {
            signals.listen(messages).await;
            drop(over);
            signals.changes.send_replace(());
        });

        let signal = |member| MatchRule::builder().msg_type(Type::Signal).member(member);
        let owner = signal("NameOwnerChanged")
            .sender("org.freedesktop.DBus")
            .arg(0, SYSTEMD);
        let reloading = signal("Reloading").sender(SYSTEMD);
        let names = strings(&self.units);
        // A client waits: no request waits for the reply to another.
        let (.., units) = tokio::try_join!(
            bus.add_match(owner.build()?),
            bus.add_match(reloading.build()?),
            bus.systemd.subscribe(),
            bus.systemd.list_units_by_names(&names),
        )?;
        for unit in units {
            let state = signal("PropertiesChanged").sender(SYSTEMD).path(unit.path);
            let job = signal("JobRemoved").sender(SYSTEMD).arg(2, unit.id);
            tokio::try_join!(bus.add_match(state.build()?), bus.add_match(job.build()?))?;
        }
        Ok(Link {
            bus,
            opened: Instant::now(),
            stale,
            _listener: listener,
        })
    }

    /// What the manager says about `units`, all at the same moment and in the same order.
    pub(super) async fn statuses(&self, units: &[UnitName]) -> Result<Vec<UnitStatus>, BusError> {
        let link = self.link().await?;
        let names = strings(units);
        let statuses = link.bus.systemd.list_units_by_names(&names).await;
        let statuses = self.reply(&link, statuses, Verb::Query, &joined(units))?;
        if statuses.len() != units.len() {
            return Err(self.failed(zbus::Error::InvalidReply, Verb::Query, ""));
        }
        if locked(&self.lost_since).take().is_some() {
            tracing::info!("{} answers again", explain::manager(self.manager));
        }
        Ok(statuses)
    }

    /// Whether a socket unit that is active starts one of `units`.
    pub(super) async fn has_socket(&self, units: &[UnitStatus]) -> Result<bool, BusError> {
        let link = self.link().await?;
        let mut sockets = Vec::new();
        for unit in units {
            let triggers = link.bus.property(&unit.path, "Unit", "TriggeredBy").await;
            let triggers: Vec<String> = self.reply(&link, triggers, Verb::Query, &unit.id)?;
            sockets.extend(
                triggers
                    .into_iter()
                    .filter(|name| name.ends_with(".socket")),
            );
        }
        let names: Vec<_> = sockets.iter().map(String::as_str).collect();
        let sockets = link.bus.systemd.list_units_by_names(&names).await;
        let sockets = self.reply(&link, sockets, Verb::Query, &names.join("`, `"))?;
        Ok(sockets.iter().any(|socket| socket.active == "active"))
    }

    /// Queues a job that starts `unit`, in the place of one that does the opposite.
    pub(super) async fn start(&self, unit: &UnitName) -> Result<OwnedObjectPath, BusError> {
        let link = self.link().await?;
        let job = link.bus.systemd.start_unit(unit.as_str(), "replace").await;
        self.reply(&link, job, Verb::Start, unit.as_str())
    }

    /// Queues a job that stops `unit`, in the place of one that does the opposite.
    pub(super) async fn stop(&self, unit: &UnitName) -> Result<OwnedObjectPath, BusError> {
        let link = self.link().await?;
        let job = link.bus.systemd.stop_unit(unit.as_str(), "replace").await;
        self.reply(&link, job, Verb::Stop, unit.as_str())
    }

    /// Makes the manager forget how often the unit was started.
    pub(super) async fn reset_failed(&self, unit: &UnitName) -> Result<(), BusError> {
        let link = self.link().await?;
        let done = link.bus.systemd.reset_failed_unit(unit.as_str()).await;
        self.reply(&link, done, Verb::Reset, unit.as_str())
    }

    /// Ends a freeze of `unit`.
    pub(super) async fn thaw(&self, unit: &UnitName) -> Result<(), BusError> {
        let link = self.link().await?;
        let done = link.bus.systemd.thaw_unit(unit.as_str()).await;
        self.reply(&link, done, Verb::Thaw, unit.as_str())
    }

    /// Freezes all that is in `slice`.
    pub(super) async fn freeze(&self, slice: &UnitName) -> Result<(), BusError> {
        let link = self.link().await?;
        let done = link.bus.systemd.freeze_unit(slice.as_str()).await;
        self.reply(&link, done, Verb::Freeze, slice.as_str())
    }

    /// Whether a job was refused, since the last time that this was asked, because its unit is frozen.
    pub(super) fn has_refused(&self) -> bool {
        self.signals.refused.swap(false, Ordering::Relaxed)
    }

    /// The manager's version: `257.13-1~deb13u1`.
    pub(super) async fn version(&self) -> Result<String, BusError> {
        let link = self.link().await?;
        let version = link.bus.systemd.version().await;
        self.reply(&link, version, Verb::Query, "the version of systemd")
    }

    /// What the freezer of `unit` does, in systemd's words.
    pub(super) async fn freezer_state(&self, unit: &UnitName) -> Result<String, BusError> {
        match &self.statuses(std::slice::from_ref(unit)).await?[..] {
            [unit] => self.property(unit, "Unit", "FreezerState").await,
            _ => Ok(String::new()),
        }
    }

    /// One property of a unit.
    pub(super) async fn property<T: TryFrom<OwnedVariant>>(
        &self,
        unit: &UnitStatus,
        interface: &str,
        name: &str,
    ) -> Result<T, BusError> {
        let link = self.link().await?;
        let value = link.bus.property(&unit.path, interface, name).await;
        self.reply(&link, value, Verb::Query, &unit.id)
    }

    /// Whether the processes of a unit are frozen.
    pub(super) async fn is_frozen(&self, unit: &UnitStatus) -> Result<bool, BusError> {
        let Some(interface) = dbus::interface(&unit.id) else {
            return Ok(false);
        };
        let property = async |interface, name| -> Result<String, BusError> {
            match self.property(unit, interface, name).await {
                // This systemd or this kind of unit knows no freezer.
                Err(BusError::Final(_)) => Ok(String::new()),
                value => value,
            }
        };
        if !property("Unit", "FreezerState").await?.starts_with("fr") {
            return Ok(false);
        }
        // A unit that was killed while it was frozen keeps that state (seen with systemd 252).
        Ok(!proc::is_thawed(
            &property(interface, "ControlGroup").await?,
        ))
    }

    /// The properties of one of the interfaces of the unit at `path`.
    pub(super) async fn properties(
        &self,
        path: &OwnedObjectPath,
        interface: &str,
    ) -> Result<Properties, BusError> {
        let link = self.link().await?;
        let properties = link.bus.properties(path, interface).await;
        self.reply(&link, properties, Verb::Query, path.as_str())
    }

    /// Waits before a retry, unless `error` is final or the bus is lost for `patience` already.
    pub(super) async fn ride_out(
        &self,
        error: BusError,
        patience: Duration,
    ) -> Result<(), Failure> {
        let failure = match error {
            BusError::Final(failure) => return Err(failure),
            BusError::Transient(failure) => failure,
        };
        let lasted = locked(&self.lost_since).map_or(Duration::ZERO, |since| since.elapsed());
        if lasted >= patience {
            return Err(failure);
        }
        sleep((lasted / 4).clamp(RECONNECT_PAUSE / 2, RECONNECT_PAUSE * 10)).await;
        Ok(())
    }

    fn reply<T>(
        &self,
        link: &Link,
        reply: zbus::Result<T>,
        verb: Verb,
        unit: &str,
    ) -> Result<T, BusError> {
        reply.map_err(|error| {
            let error = self.failed(error, verb, unit);
            if matches!(error, BusError::Transient(_)) {
                link.stale.cancel();
            }
            error
        })
    }

    fn failed(&self, error: zbus::Error, verb: Verb, unit: &str) -> BusError {
        let error = explain::bus_error(&error, verb, unit, self.manager);
        if let BusError::Transient(failure) = &error {
            let mut lost = locked(&self.lost_since);
            if lost.is_none() {
                *lost = Some(Instant::now());
                tracing::warn!("{failure}");
            }
        }
        error
    }
}

impl Link {
    /// Queues a job that starts `unit` of the system's manager, or says why that cannot be.
    pub(super) async fn start(&self, unit: &str) -> Result<(), Failure> {
        let job = self.bus.systemd.start_unit(unit, "replace").await;
        let failure = |error| explain::bus_error(&error, Verb::Start, unit, Manager::System);
        match job.map_err(failure) {
            Ok(_) => Ok(()),
            Err(BusError::Final(failure) | BusError::Transient(failure)) => Err(failure),
        }
    }
}

impl ChangeFeed {
    /// Waits for a change, but no longer than `limit`.
    pub(super) async fn wait(&mut self, limit: Duration) {
        // The sender lives as long as the monitor.
        let _ = timeout(limit, self.0.changed()).await;
    }

    /// Waits for a change, and `pause` more for those that come along with it.
    pub(super) async fn settle(&mut self, pause: Duration) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        sleep(pause).await;
        self.0.mark_unchanged();
    }
}

impl SignalLog {
    /// Takes every message at once, since zbus holds back all replies while one is not taken.
    /// Returns when the connection is lost, or its match rules no longer name the right units.
    async fn listen(&self, mut messages: MessageStream) {
        while let Some(Ok(message)) = poll_fn(|cx| Pin::new(&mut messages).poll_next(cx)).await {
            if message.message_type() != Type::Signal {
                continue;
            }
            match message.header().member().map(|member| member.as_str()) {
                Some("PropertiesChanged") => (),
                Some("JobRemoved") => self.keep_result(&message),
                // The manager has another connection, and forgot us: `systemctl daemon-reexec`.
                Some("NameOwnerChanged") => return,
                // Names may belong to other units now.
                Some("Reloading") if matches!(message.body().deserialize(), Ok(false)) => return,
                _ => continue,
            }
            self.changes.send_replace(());
        }
    }

    fn keep_result(&self, removed: &Message) {
        type JobRemoved = (u32, OwnedObjectPath, String, String);
        if let Ok((_, job, _, result)) = removed.body().deserialize::<JobRemoved>() {
            if result == "frozen" {
                self.refused.store(true, Ordering::Relaxed);
            }
            let mut results = locked(&self.job_results);
            if results.len() == JOB_RESULTS {
                results.remove(0);
            }
            results.push((job, result));
        }
    }
}

fn strings(units: &[UnitName]) -> Vec<&str> {
    units.iter().map(UnitName::as_str).collect()
}

/// The units' names, to be put between backticks.
pub(super) fn joined(units: &[UnitName]) -> String {
    strings(units).join("`, `")
}
