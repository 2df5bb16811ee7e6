//! What a service manager says about units, over D-Bus.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use zbus::connection::Builder;
use zbus::fdo::{DBusProxy, PropertiesProxy};
use zbus::names::{BusName, InterfaceName};
use zbus::{Connection, OwnedObjectPath, OwnedVariant, proxy};

use crate::admin::system::Unit;
use crate::config::Manager;
use crate::config::address::Bound;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const POLKIT: &str = "org.freedesktop.PolicyKit1";

/// How long an answer may take: somebody sits and waits.
const ANSWER: Duration = Duration::from_secs(10);

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait ServiceManager {
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn list_unit_files_by_patterns(
        &self,
        states: &[&str],
        patterns: &[&str],
    ) -> zbus::Result<Vec<(String, String)>>;
    fn list_units_by_patterns(&self, states: &[&str], patterns: &[&str]) -> zbus::Result<Vec<Row>>;
    fn list_units_by_names(&self, names: &[&str]) -> zbus::Result<Vec<Row>>;
}

/// Primary name, description, load state, active state, sub state, followed unit, path, and the
/// queued job's number, type and path.
pub(super) type Row = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);

/// A connection to a service manager.
#[derive(Debug)]
pub struct Bus {
    /// Whose manager it is.
    pub of: Manager,
    connection: Connection,
    manager: ServiceManagerProxy<'static>,
}

/// The properties of one unit.
#[derive(Debug, Default)]
pub struct Properties(HashMap<String, OwnedVariant>);

impl Bus {
    /// Connects, or says why that cannot be.
    pub async fn connect(manager: Manager) -> Result<Self, String> {
        // As sd_booted(3): without it there may be a bus, but nobody who starts units.
        if !Path::new("/run/systemd/system").is_dir() {
            return Err("it does not run here".to_owned());
        }
        let builder = match manager {
            Manager::System => Builder::system(),
            Manager::User => Builder::session(),
        };
        let connect = async {
            let connection = builder.method_timeout(ANSWER).build().await?;
            let of = manager;
            let manager = ServiceManagerProxy::new(&connection).await?;
            Ok(Self {
                of,
                connection,
                manager,
            })
        };
        match tokio::time::timeout(ANSWER, connect).await {
            Ok(bus) => bus.map_err(|error: zbus::Error| format!("no bus: {error}")),
            Err(_) => Err("its bus does not answer".to_owned()),
        }
    }

    /// What the manager says about the unit with this name. It may read the unit's files for it.
    pub async fn unit(&self, name: &str) -> Result<Unit, String> {
        Ok(self.properties(name).await?.unit())
    }

    /// All properties of the unit with this name.
    pub async fn properties(&self, name: &str) -> Result<Properties, String> {
        let ask = async {
            let path = self.manager.load_unit(name).await?;
            let mut properties = self.get_all(&path, "Unit").await?;
            let kind = name.rsplit_once('.').map_or("", |(_, kind)| kind);
            let interface = match kind {
                "service" => "Service",
                "socket" => "Socket",
                _ => return Ok(Properties(properties)),
            };
            properties.extend(self.get_all(&path, interface).await?);
            Ok(Properties(properties))
        };
        ask.await.map_err(|error: zbus::Error| error.to_string())
    }

    /// The sockets that systemd holds right now, with their addresses.
    pub async fn sockets(&self) -> Result<Vec<(String, Vec<Bound>)>, String> {
        let ask = async {
            let mut sockets = Vec::new();
            let rows = self
                .manager
                .list_units_by_patterns(&["active"], &["*.socket"])
                .await?;
            for (name, _, _, _, _, _, path, ..) in rows {
                let mut properties = Properties(self.get_all(&path, "Socket").await?);
                sockets.push((name, properties.listeners().0));
            }
            Ok(sockets)
        };
        ask.await.map_err(|error: zbus::Error| error.to_string())
    }

    /// The names of units like `pattern` that are loaded or have files.
    pub async fn known(&self, pattern: &str) -> Result<Vec<String>, String> {
        let ask = async {
            let loaded = self.loaded(pattern).await?;
            let files = self
                .manager
                .list_unit_files_by_patterns(&[], &[pattern])
                .await?;
            let loaded = loaded.into_iter().map(|(name, ..)| name);
            let files = files.into_iter().filter_map(|(path, _)| {
                Some(Path::new(&path).file_name()?.to_string_lossy().into_owned())
            });
            let mut names: Vec<String> = loaded.chain(files).collect();
            // The template is nobody's.
            names.retain(|name| !name.contains("@."));
            Ok(names)
        };
        ask.await.map_err(|error: zbus::Error| error.to_string())
    }

    /// The units like `pattern` that are loaded.
    pub(super) async fn loaded(&self, pattern: &str) -> zbus::Result<Vec<Row>> {
        self.manager.list_units_by_patterns(&[], &[pattern]).await
    }

    /// The units with these names, in their order.
    pub(super) async fn named(&self, names: &[&str]) -> zbus::Result<Vec<Row>> {
        self.manager.list_units_by_names(names).await
    }

    /// One property of a unit: cheaper for the manager than all of them.
    pub(super) async fn get<T>(&self, unit: &Row, interface: &str, name: &str) -> zbus::Result<T>
    where
        T: TryFrom<OwnedVariant>,
    {
        let interface = InterfaceName::try_from(format!("{SYSTEMD}.{interface}"))?;
        let value = self.about(&unit.6).await?.get(interface, name).await?;
        T::try_from(value).map_err(|_| zbus::Error::InvalidReply)
    }

    async fn get_all(
        &self,
        path: &OwnedObjectPath,
        interface: &str,
    ) -> zbus::Result<HashMap<String, OwnedVariant>> {
        let interface = InterfaceName::try_from(format!("{SYSTEMD}.{interface}"))?;
        Ok(self.about(path).await?.get_all(interface).await?)
    }

    async fn about(&self, path: &OwnedObjectPath) -> zbus::Result<PropertiesProxy<'_>> {
        let builder = PropertiesProxy::builder(&self.connection).destination(SYSTEMD);
        builder.path(path.clone()).build().await
    }
}

impl Properties {
    /// One property, which is gone then. `None` if there is none, or it is of another type.
    pub fn take<T: TryFrom<OwnedVariant>>(&mut self, name: &str) -> Option<T> {
        T::try_from(self.0.remove(name)?).ok()
    }

    /// The addresses of a socket unit's streams, and what else it listens on, in words.
    pub fn listeners(&mut self) -> (Vec<Bound>, Vec<String>) {
        let listen: Vec<(String, String)> = self.take("Listen").unwrap_or_default();
        let (mut streams, mut others) = (Vec::new(), Vec::new());
        for (kind, address) in listen {
            match address.parse() {
                Ok(at) if kind == "Stream" => streams.push(at),
                Ok(_) | Err(_) => others.push(format!("`{address}` ({kind})")),
            }
        }
        (streams, others)
    }

    /// A span of time, given in microseconds.
    pub fn span(&mut self, name: &str) -> Duration {
        self.take(name).map_or(Duration::ZERO, microseconds)
    }

    /// The unit, as far as it matters to us.
    pub fn unit(mut self) -> Unit {
        let mut text = |name| self.take::<String>(name).unwrap_or_default();
        let mut unit = Unit {
            id: text("Id"),
            load: text("LoadState"),
            active: text("ActiveState"),
            file_state: text("UnitFileState"),
            result: text("Result"),
            kind: text("Type"),
            restart: text("Restart"),
            start_limit_action: text("StartLimitAction"),
            ..Unit::default()
        };
        unit.load_error = self
            .take("LoadError")
            .map_or(String::new(), |(_, why): (String, String)| why);
        let mut is = |name| self.take(name).unwrap_or(false);
        unit.needs_reload = is("NeedDaemonReload");
        unit.remain_after_exit = is("RemainAfterExit");
        unit.stop_when_unneeded = is("StopWhenUnneeded");
        unit.refuse_manual_start = is("RefuseManualStart");
        unit.refuse_manual_stop = is("RefuseManualStop");
        unit.private_network = is("PrivateNetwork");
        unit.start_limit_burst = self.take("StartLimitBurst").unwrap_or_default();
        unit.start_limit_interval = self.span("StartLimitIntervalUSec");
        unit.start_timeout = self.span("TimeoutStartUSec");
        unit.stop_timeout = self.span("TimeoutStopUSec");
        let mut names = |name| self.take::<Vec<String>>(name).unwrap_or_default();
        unit.triggered_by = names("TriggeredBy");
        unit.upheld_by = names("UpheldBy");
        let required = [names("Requires"), names("BindsTo")].concat();
        unit.pulls_in = [names("Wants"), required.clone()].concat();
        unit.bound_to = [required, names("Requisite"), names("PartOf")].concat();
        unit
    }
}

fn microseconds(usec: u64) -> Duration {
    match usec {
        u64::MAX => Duration::MAX,
        _ => Duration::from_micros(usec),
    }
}

/// Whether polkit is there, or would be if somebody asked it. Nobody says that it is missing where
/// nobody can be asked.
pub async fn has_polkit(bus: Option<&Bus>) -> bool {
    let ask = async {
        let Some(bus) = bus else {
            return Ok(true);
        };
        let dbus = DBusProxy::new(&bus.connection).await?;
        let running = dbus.name_has_owner(BusName::try_from(POLKIT)?).await?;
        let startable = dbus.list_activatable_names().await?;
        Ok(running || startable.iter().any(|name| name.as_str() == POLKIT))
    };
    let answer: zbus::Result<bool> = ask.await;
    answer.unwrap_or(true)
}
