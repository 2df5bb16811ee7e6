//! The D-Bus client: a connection to a service manager, what is asked on it, and polkit.
//! Knows what to ask, not what the answers mean; states and results are strings, whatever they say.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use zbus::connection::Builder;
use zbus::fdo::{DBusProxy, PropertiesProxy};
use zbus::names::InterfaceName;
use zbus::{
    Connection, MatchRule, MessageStream, OwnedObjectPath, OwnedVariant, Type, Variant, proxy,
};

use crate::config::Manager;
use crate::config::address::Bound;

/// The name of a service manager on its bus.
pub const SYSTEMD: &str = "org.freedesktop.systemd1";

const POLKIT: &str = "org.freedesktop.PolicyKit1";

/// A unit stops along with those that it has one of these dependencies on: `Requires=`, `BindsTo=`,
/// `Requisite=`, `StopPropagatedFrom=` (systemd.unit(5)). One with `PartOf=` does as well, but is a
/// part, and no work of its own.
pub const STOPPED_ALONG: [&str; 4] = ["RequiredBy", "BoundBy", "RequisiteOf", "PropagatesStopTo"];

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
pub(crate) trait ServiceManager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn list_units_by_names(&self, names: &[&str]) -> zbus::Result<Vec<UnitStatus>>;
    fn list_units_by_patterns(
        &self,
        states: &[&str],
        patterns: &[&str],
    ) -> zbus::Result<Vec<UnitStatus>>;
    fn list_unit_files_by_patterns(
        &self,
        states: &[&str],
        patterns: &[&str],
    ) -> zbus::Result<Vec<(String, String)>>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn freeze_unit(&self, name: &str) -> zbus::Result<()>;
    fn thaw_unit(&self, name: &str) -> zbus::Result<()>;
    #[zbus(property)]
    fn version(&self) -> zbus::Result<String>;
}

type Subject<'a> = (&'a str, HashMap<&'a str, Variant<'a>>);

#[proxy(
    interface = "org.freedesktop.PolicyKit1.Authority",
    default_service = "org.freedesktop.PolicyKit1",
    default_path = "/org/freedesktop/PolicyKit1/Authority"
)]
trait Authority {
    fn check_authorization(
        &self,
        subject: &Subject<'_>,
        action_id: &str,
        details: HashMap<&str, &str>,
        flags: u32,
        cancellation_id: &str,
    ) -> zbus::Result<(bool, bool, HashMap<String, String>)>;
}

/// What a manager says about one unit at one moment: a row of `ListUnits…`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Type)]
#[allow(missing_docs, reason = "they are named as systemd names them")]
pub struct UnitStatus {
    /// The primary name; signals carry this one, whatever alias was asked for.
    pub id: String,
    pub description: String,
    pub load: String,
    pub active: String,
    pub sub: String,
    pub followed: String,
    /// Its object on the bus.
    pub path: OwnedObjectPath,
    pub job_id: u32,
    /// The type of the job that is queued or runs; empty without one.
    pub job: String,
    pub job_path: OwnedObjectPath,
}

/// A connection to a bus, and to the service manager on it.
#[derive(Debug)]
pub struct Bus {
    /// Whose service manager it is.
    pub manager: Manager,
    /// What is asked of it.
    pub(crate) systemd: ServiceManagerProxy<'static>,
    connection: Connection,
}

/// Properties of an object, by name.
#[derive(Debug, Default)]
pub struct Properties(pub HashMap<String, OwnedVariant>);

/// The process that polkit decides about.
#[derive(Clone, Copy, Debug)]
pub struct PolkitSubject {
    /// Its ID.
    pub pid: u32,
    /// When it began, in clock ticks since boot.
    pub started_ticks: u64,
    /// Its user.
    pub uid: u32,
}

impl Bus {
    /// Connects; each answer may take as long as `answer`.
    pub async fn open(manager: Manager, answer: Duration) -> zbus::Result<Self> {
        let builder = match manager {
            Manager::System => Builder::system(),
            Manager::User => Builder::session(),
        };
        let connection = builder.method_timeout(answer).build().await?;
        Ok(Self {
            manager,
            systemd: ServiceManagerProxy::new(&connection).await?,
            connection,
        })
    }

    /// Whether the connection is lost.
    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// All messages from now on.
    pub fn messages(&self) -> MessageStream {
        MessageStream::from(&self.connection)
    }

    /// Has the bus send us the signals that match.
    pub async fn add_match(&self, rule: MatchRule<'_>) -> zbus::Result<()> {
        let bus = DBusProxy::new(&self.connection).await?;
        Ok(bus.add_match_rule(rule).await?)
    }

    /// All properties of one of a unit's interfaces: `Unit`, `Service`, …
    pub async fn properties(
        &self,
        unit: &OwnedObjectPath,
        interface: &str,
    ) -> zbus::Result<Properties> {
        let (object, interface) = self.object(unit, interface).await?;
        Ok(Properties(object.get_all(interface).await?))
    }

    /// One property: cheaper for the manager than all of them.
    pub async fn property<T: TryFrom<OwnedVariant>>(
        &self,
        unit: &OwnedObjectPath,
        interface: &str,
        name: &str,
    ) -> zbus::Result<T> {
        let (object, interface) = self.object(unit, interface).await?;
        let value = object.get(interface, name).await?;
        T::try_from(value).map_err(|_| zbus::Error::InvalidReply)
    }

    async fn object(
        &self,
        path: &OwnedObjectPath,
        interface: &str,
    ) -> zbus::Result<(PropertiesProxy<'_>, InterfaceName<'static>)> {
        let builder = PropertiesProxy::builder(&self.connection).destination(SYSTEMD);
        let proxy = builder.path(path.clone()).build().await?;
        let interface = InterfaceName::try_from(format!("{SYSTEMD}.{interface}"))?;
        Ok((proxy, interface))
    }

    /// Whether polkit runs, or would when asked.
    pub async fn has_polkit(&self) -> zbus::Result<bool> {
        let bus = DBusProxy::new(&self.connection).await?;
        let running = bus.name_has_owner(POLKIT.try_into()?).await?;
        let startable = bus.list_activatable_names().await?;
        Ok(running || startable.iter().any(|name| name.as_str() == POLKIT))
    }

    /// Whether polkit lets the process do each of `verbs` with each of `units`, verbs first.
    pub async fn may_manage(
        &self,
        subject: PolkitSubject,
        units: &[String],
        verbs: &[&str],
    ) -> zbus::Result<Vec<bool>> {
        let authority = AuthorityProxy::new(&self.connection).await?;
        let process: HashMap<_, Variant<'_>> = HashMap::from([
            ("pid", subject.pid.into()),
            ("start-time", subject.started_ticks.into()),
            ("uid", subject.uid.cast_signed().into()),
        ]);
        let subject = ("unix-process", process);
        let action = "org.freedesktop.systemd1.manage-units";
        let mut answers = Vec::new();
        for unit in units {
            for verb in verbs {
                // As systemd asks: a rule may go by the message as well.
                let message = match *verb {
                    "freeze" | "thaw" => "Authentication is required to freeze or thaw the processes of '$(unit)' unit.".to_owned(),
                    "reset-failed" => "Authentication is required to reset the \"failed\" state of '$(unit)'.".to_owned(),
                    other => format!("Authentication is required to {other} '$(unit)'."),
                };
                // It has no verbs of their own for these.
                let verb = match *verb {
                    "freeze" => "stop",
                    "thaw" => "start",
                    other => other,
                };
                let details = HashMap::from([
                    ("unit", unit.as_str()),
                    ("verb", verb),
                    ("polkit.message", &message),
                ]);
                let answer = authority.check_authorization(&subject, action, details, 0, "");
                answers.push(answer.await?.0);
            }
        }
        Ok(answers)
    }
}

/// The interface of units of this kind, beside `Unit`.
pub fn interface(unit: &str) -> Option<&'static str> {
    match unit.rsplit_once('.')?.1 {
        "service" => Some("Service"),
        "socket" => Some("Socket"),
        "mount" => Some("Mount"),
        "automount" => Some("Automount"),
        "swap" => Some("Swap"),
        "path" => Some("Path"),
        "timer" => Some("Timer"),
        "scope" => Some("Scope"),
        _ => None,
    }
}

impl Properties {
    /// One property; `None` if there is none, or it is of another type.
    pub fn get<'a, T: TryFrom<&'a Variant<'a>>>(&'a self, name: &str) -> Option<T> {
        T::try_from(&**self.0.get(name)?).ok()
    }

    /// As [`Properties::get`]; the property is gone afterwards.
    pub fn take<T: TryFrom<OwnedVariant>>(&mut self, name: &str) -> Option<T> {
        T::try_from(self.0.remove(name)?).ok()
    }

    /// A span of time, given in microseconds.
    pub fn span(&self, name: &str) -> Duration {
        match self.get(name) {
            None => Duration::ZERO,
            Some(u64::MAX) => Duration::MAX,
            Some(usec) => Duration::from_micros(usec),
        }
    }

    /// The addresses of a socket unit's streams and of its UDP ports, and what else it listens on, in words.
    pub fn listeners(&mut self) -> (Vec<Bound>, Vec<String>) {
        let listen: Vec<(String, String)> = self.take("Listen").unwrap_or_default();
        let (mut known, mut others) = (Vec::new(), Vec::new());
        for (kind, address) in listen {
            match (kind.as_str(), address.parse()) {
                ("Stream", Ok(at)) => known.push(at),
                ("Datagram", Ok(Bound::Tcp(at))) => known.push(Bound::Udp(at)),
                _ => others.push(format!("`{address}` ({kind})")),
            }
        }
        (known, others)
    }
}
