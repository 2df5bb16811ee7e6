//! The connection to a service manager: made when needed, made again when lost, and always
//! listened to. Knows what to ask, not what the answers mean.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use zbus::connection::Builder;
use zbus::fdo::{DBusProxy, PropertiesProxy};
use zbus::message::Type;
use zbus::names::InterfaceName;
use zbus::{Connection, MatchRule, Message, MessageStream, OwnedObjectPath, OwnedVariant, proxy};

use super::unit::{Row, Status};
use super::words::{self, BusError, Verb};
use crate::backend::Failure;
use crate::config::{Manager, UnitName};

const SYSTEMD: &str = "org.freedesktop.systemd1";

/// How long an answer may take: libdbus's own default. The manager answers nobody while it
/// reloads its units.
const ANSWER: Duration = Duration::from_secs(25);

/// Connections are at least so far apart, whatever happens to them.
const APART: Duration = Duration::from_millis(100);

/// Jobs whose ends are remembered; far more than one start or stop has.
const REMEMBERED: usize = 64;

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait ServiceManager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn list_units_by_names(&self, names: &[&str]) -> zbus::Result<Vec<Row>>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
}

/// A service manager, whether or not it can be reached just now.
#[derive(Debug)]
pub(super) struct Bus {
    manager: Manager,
    units: Vec<UnitName>,
    link: tokio::sync::Mutex<Option<Arc<Link>>>,
    heard: Arc<SignalLog>,
    gone_since: Mutex<Option<Instant>>,
}

/// A connection that listens.
#[derive(Debug)]
pub(super) struct Link {
    connection: Connection,
    manager: ServiceManagerProxy<'static>,
    opened: Instant,
    /// What it was told may no longer hold, or it is closed: a new one is needed.
    stale: CancellationToken,
    _listener: JoinSet<()>,
}

/// What the manager tells without being asked.
#[derive(Debug, Default)]
struct SignalLog {
    news: watch::Sender<()>,
    ended: Mutex<Vec<(OwnedObjectPath, String)>>,
}

/// Tells those who wait that something has changed.
pub(super) struct ChangeFeed(watch::Receiver<()>);

impl Bus {
    pub(super) fn new(manager: Manager, units: Vec<UnitName>) -> Self {
        Self {
            manager,
            units,
            link: tokio::sync::Mutex::default(),
            heard: Arc::default(),
            gone_since: Mutex::default(),
        }
    }

    pub(super) fn manager(&self) -> Manager {
        self.manager
    }

    /// ChangeFeed from now on.
    pub(super) fn news(&self) -> ChangeFeed {
        ChangeFeed(self.heard.news.subscribe())
    }

    /// How `job` ended, if that was heard.
    pub(super) fn outcome(&self, job: &OwnedObjectPath) -> Option<String> {
        let ended = locked(&self.heard.ended);
        ended
            .iter()
            .rev()
            .find(|(path, _)| path == job)
            .map(|(_, result)| result.clone())
    }

    /// The connection; a new one if there is none or the old one is of no use any more.
    pub(super) async fn link(&self) -> Result<Arc<Link>, BusError> {
        let mut link = self.link.lock().await;
        if let Some(old) = &*link {
            if !old.stale.is_cancelled() && !old.connection.is_closed() {
                return Ok(Arc::clone(old));
            }
            sleep_until(old.opened + APART).await;
        }
        let new = timeout(ANSWER, self.open()).await;
        let new = new.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()));
        let new = new.map_err(|error| self.trouble(error, Verb::Look, &in_a_row(&self.units)))?;
        let new = Arc::new(new);
        *link = Some(Arc::clone(&new));
        // Whatever happened in between went unheard.
        self.heard.news.send_replace(());
        Ok(new)
    }

    async fn open(&self) -> zbus::Result<Link> {
        let builder = match self.manager {
            Manager::System => Builder::system(),
            Manager::User => Builder::session(),
        };
        let connection = builder.method_timeout(ANSWER).build().await?;
        let manager = ServiceManagerProxy::new(&connection).await?;
        let stale = CancellationToken::new();
        let mut listener = JoinSet::new();
        let heard = Arc::clone(&self.heard);
        let over = stale.clone().drop_guard();
        let stream = MessageStream::from(&connection);
        listener.spawn(async move {
            heard.listen(stream).await;
            drop(over);
            heard.news.send_replace(());
        });

        let bus = DBusProxy::new(&connection).await?;
        let signal = |member| MatchRule::builder().msg_type(Type::Signal).member(member);
        let owner = signal("NameOwnerChanged")
            .sender("org.freedesktop.DBus")
            .arg(0, SYSTEMD);
        let reloading = signal("Reloading").sender(SYSTEMD);
        let names = strings(&self.units);
        let listen_to =
            async |rule: MatchRule<'_>| -> zbus::Result<()> { Ok(bus.add_match_rule(rule).await?) };
        // A client waits: one question does not wait for the answer to another.
        let (.., rows) = tokio::try_join!(
            listen_to(owner.build()?),
            listen_to(reloading.build()?),
            manager.subscribe(),
            manager.list_units_by_names(&names),
        )?;
        for row in rows {
            let unit = Status::from(row);
            let state = signal("PropertiesChanged").sender(SYSTEMD).path(unit.path);
            let job = signal("JobRemoved").sender(SYSTEMD).arg(2, unit.id);
            tokio::try_join!(listen_to(state.build()?), listen_to(job.build()?))?;
        }
        Ok(Link {
            connection,
            manager,
            opened: Instant::now(),
            stale,
            _listener: listener,
        })
    }

    /// What the manager says about `units`, all at the same moment and in the same order.
    pub(super) async fn statuses(&self, units: &[UnitName]) -> Result<Vec<Status>, BusError> {
        let link = self.link().await?;
        let names = strings(units);
        let rows = link.manager.list_units_by_names(&names).await;
        let rows = self.answer(&link, rows, Verb::Look, &in_a_row(units))?;
        if rows.len() != units.len() {
            return Err(self.trouble(zbus::Error::InvalidReply, Verb::Look, ""));
        }
        if locked(&self.gone_since).take().is_some() {
            tracing::info!("{} answers again", words::manager(self.manager));
        }
        Ok(rows.into_iter().map(Status::from).collect())
    }

    /// Queues a job that starts `unit`, in the place of one that does the opposite.
    pub(super) async fn start(&self, unit: &UnitName) -> Result<OwnedObjectPath, BusError> {
        let link = self.link().await?;
        let job = link.manager.start_unit(unit.as_str(), "replace").await;
        self.answer(&link, job, Verb::Start, unit.as_str())
    }

    /// Queues a job that stops `unit`, in the place of one that does the opposite.
    pub(super) async fn stop(&self, unit: &UnitName) -> Result<OwnedObjectPath, BusError> {
        let link = self.link().await?;
        let job = link.manager.stop_unit(unit.as_str(), "replace").await;
        self.answer(&link, job, Verb::Stop, unit.as_str())
    }

    /// Makes the manager forget how often the unit was started.
    pub(super) async fn reset_failed(&self, unit: &UnitName) -> Result<(), BusError> {
        let link = self.link().await?;
        let done = link.manager.reset_failed_unit(unit.as_str()).await;
        self.answer(&link, done, Verb::Reset, unit.as_str())
    }

    /// The properties of the unit at `path`, of one of its interfaces.
    pub(super) async fn properties(
        &self,
        path: &OwnedObjectPath,
        interface: &str,
    ) -> Result<HashMap<String, OwnedVariant>, BusError> {
        let link = self.link().await?;
        let ask = async {
            let builder = PropertiesProxy::builder(&link.connection).destination(SYSTEMD);
            let interface = InterfaceName::try_from(format!("{SYSTEMD}.{interface}"))?;
            Ok(builder
                .path(path.clone())
                .build()
                .await?
                .get_all(interface)
                .await?)
        };
        self.answer(&link, ask.await, Verb::Look, path.as_str())
    }

    /// Waits a little because of `trouble`, unless it is final or lasts for `patience` already.
    pub(super) async fn outlast(
        &self,
        trouble: BusError,
        patience: Duration,
    ) -> Result<(), Failure> {
        let failure = match trouble {
            BusError::Final(failure) => return Err(failure),
            BusError::Passing(failure) => failure,
        };
        let lasted = locked(&self.gone_since).map_or(Duration::ZERO, |since| since.elapsed());
        if lasted >= patience {
            return Err(failure);
        }
        sleep((lasted / 4).clamp(APART / 2, APART * 10)).await;
        Ok(())
    }

    fn answer<T>(
        &self,
        link: &Link,
        answer: zbus::Result<T>,
        verb: Verb,
        unit: &str,
    ) -> Result<T, BusError> {
        answer.map_err(|error| {
            let trouble = self.trouble(error, verb, unit);
            if matches!(trouble, BusError::Passing(_)) {
                link.stale.cancel();
            }
            trouble
        })
    }

    fn trouble(&self, error: zbus::Error, verb: Verb, unit: &str) -> BusError {
        let trouble = words::trouble(&error, verb, unit, self.manager);
        if let BusError::Passing(failure) = &trouble {
            let mut gone = locked(&self.gone_since);
            if gone.is_none() {
                *gone = Some(Instant::now());
                tracing::warn!("{failure}");
            }
        }
        trouble
    }
}

impl ChangeFeed {
    /// Waits for news, but no longer than `limit`.
    pub(super) async fn come(&mut self, limit: Duration) {
        // The sender lives as long as the bus, so it is news or the limit.
        let _ = timeout(limit, self.0.changed()).await;
    }

    /// Waits for news, however long it takes, and for those that come along with it.
    pub(super) async fn settle(&mut self, pause: Duration) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        sleep(pause).await;
        self.0.mark_unchanged();
    }
}

impl SignalLog {
    /// Takes every message at once, since zbus holds back all answers while one is not taken.
    /// Returns when the connection is lost, or no longer tells about the right units.
    async fn listen(&self, mut stream: MessageStream) {
        while let Some(Ok(message)) = poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)).await {
            if message.message_type() != Type::Signal {
                continue;
            }
            match message.header().member().map(|member| member.as_str()) {
                Some("PropertiesChanged") => (),
                Some("JobRemoved") => self.remember(&message),
                // The manager has another connection, and forgot us: `systemctl daemon-reexec`.
                Some("NameOwnerChanged") => return,
                // Names may belong to other units now.
                Some("Reloading") if matches!(message.body().deserialize(), Ok(false)) => return,
                _ => continue,
            }
            self.news.send_replace(());
        }
    }

    fn remember(&self, removed: &Message) {
        type JobRemoved = (u32, OwnedObjectPath, String, String);
        if let Ok((_, job, _, result)) = removed.body().deserialize::<JobRemoved>() {
            let mut ended = locked(&self.ended);
            if ended.len() == REMEMBERED {
                ended.remove(0);
            }
            ended.push((job, result));
        }
    }
}

/// Nothing panics while it holds one of these locks, and what they guard is never half done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn strings(units: &[UnitName]) -> Vec<&str> {
    units.iter().map(UnitName::as_str).collect()
}

pub(super) fn in_a_row(units: &[UnitName]) -> String {
    strings(units).join("`, `")
}
