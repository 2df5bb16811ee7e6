//! What a service manager says of the units that run wakeport: which there are, and whether their
//! ports are open. Only asks; nothing is started, woken or changed by that.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::timeout;
use zbus::connection::Builder;
use zbus::fdo::PropertiesProxy;
use zbus::names::InterfaceName;
use zbus::{Connection, OwnedObjectPath, OwnedVariant, proxy};

use crate::config::Manager;

const SYSTEMD: &str = "org.freedesktop.systemd1";

/// People wait for this.
const ANSWER: Duration = Duration::from_secs(3);

/// One row of `ListUnitsByPatterns`: name, description, load state, active state, sub state,
/// followed unit, path, and the queued job's number, type and path.
type Row = (
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

/// A command of `ExecStart=`: path, arguments, whether failure is ignored, and how it went last.
type Command = (String, Vec<String>, bool, u64, u64, u64, u64, u32, i32, i32);

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait ServiceManager {
    fn list_units_by_patterns(&self, states: &[&str], patterns: &[&str]) -> zbus::Result<Vec<Row>>;
    fn list_units_by_names(&self, names: &[&str]) -> zbus::Result<Vec<Row>>;
}

/// What a manager says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The services that run wakeport when a socket starts them, by name.
    pub services: BTreeMap<String, Service>,
    /// The `ActiveState` of the units that were asked for.
    pub units: BTreeMap<String, String>,
}

/// A service that runs wakeport, now or when a client comes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Whether it runs now.
    pub active: bool,
    /// The sockets that start it.
    pub sockets: Vec<Socket>,
    /// Its `StateDirectory=`s, where the manager is the system's.
    pub state_directories: Vec<PathBuf>,
}

/// A socket unit that starts wakeport.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Socket {
    /// Its name.
    pub unit: String,
    /// Its `ActiveState`: `active` is open.
    pub state: String,
    /// Its `UnitFileState`: `enabled` is open after the next boot as well.
    pub enabled: String,
    /// Its addresses.
    pub listen: Vec<String>,
}

/// Asks `manager`, also for the state of `units`. Nobody who answers in time is nobody.
pub async fn survey(manager: Manager, units: &[String]) -> Option<Survey> {
    match timeout(ANSWER, ask(manager, units)).await {
        Ok(Ok(survey)) => Some(survey),
        Ok(Err(error)) => {
            tracing::debug!("the service manager does not say: {error}");
            None
        }
        Err(_) => None,
    }
}

async fn ask(manager: Manager, units: &[String]) -> zbus::Result<Survey> {
    let builder = match manager {
        Manager::System => Builder::system(),
        Manager::User => Builder::session(),
    };
    let bus = builder.method_timeout(ANSWER).build().await?;
    let proxy = ServiceManagerProxy::new(&bus).await?;
    let mut survey = Survey::default();
    let mut others = Vec::new();
    for row in proxy.list_units_by_patterns(&[], &["*.socket"]).await? {
        let (unit, state, path) = (row.0, row.3, row.6);
        let triggers: Vec<String> = get(&bus, &path, "Unit", "Triggers").await?;
        let Some(service) = triggers.into_iter().next() else {
            continue;
        };
        if others.contains(&service) {
            continue;
        }
        if !survey.services.contains_key(&service) {
            match wakeport(&bus, &proxy, &service, manager).await? {
                Some(found) => drop(survey.services.insert(service.clone(), found)),
                None => {
                    others.push(service);
                    continue;
                }
            }
        }
        let listen: Vec<(String, String)> = get(&bus, &path, "Socket", "Listen").await?;
        let socket = Socket {
            unit,
            state,
            enabled: get(&bus, &path, "Unit", "UnitFileState").await?,
            listen: listen.into_iter().map(|(_, address)| address).collect(),
        };
        if let Some(found) = survey.services.get_mut(&service) {
            found.sockets.push(socket);
        }
    }
    let names: Vec<&str> = units.iter().map(String::as_str).collect();
    if !names.is_empty() {
        let rows = proxy.list_units_by_names(&names).await?;
        let states = rows.into_iter().map(|row| row.3);
        survey.units = units.iter().cloned().zip(states).collect();
    }
    Ok(survey)
}

/// The service with that name, if it is one of ours.
async fn wakeport(
    bus: &Connection,
    proxy: &ServiceManagerProxy<'_>,
    name: &str,
    manager: Manager,
) -> zbus::Result<Option<Service>> {
    // Some sockets start units that are no services.
    if !name.ends_with(".service") {
        return Ok(None);
    }
    let Some(row) = proxy.list_units_by_names(&[name]).await?.pop() else {
        return Ok(None);
    };
    let (state, path) = (row.3, row.6);
    let commands: Vec<Command> = get(bus, &path, "Service", "ExecStart").await?;
    let ours = commands.iter().any(|(path, arguments, ..)| {
        path.rsplit('/').next() == Some("wakeport")
            && arguments.get(1).is_some_and(|argument| argument == "run")
    });
    if !ours {
        return Ok(None);
    }
    let directories: Vec<String> = match manager {
        Manager::System => get(bus, &path, "Service", "StateDirectory").await?,
        Manager::User => Vec::new(),
    };
    let base = PathBuf::from("/var/lib");
    Ok(Some(Service {
        active: state == "active" || state == "deactivating",
        sockets: Vec::new(),
        state_directories: directories.iter().map(|name| base.join(name)).collect(),
    }))
}

async fn get<T>(
    bus: &Connection,
    path: &OwnedObjectPath,
    interface: &str,
    name: &str,
) -> zbus::Result<T>
where
    T: TryFrom<OwnedVariant>,
{
    let interface = InterfaceName::try_from(format!("{SYSTEMD}.{interface}"))?;
    let proxy = PropertiesProxy::builder(bus)
        .destination(SYSTEMD)
        .path(path.clone())
        .build()
        .await?;
    let value = proxy.get(interface, name).await?;
    T::try_from(value).map_err(|_| zbus::Error::InvalidReply)
}
