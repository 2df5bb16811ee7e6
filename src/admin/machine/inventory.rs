//! The units that run wakeport, from a service manager: which there are, and whether their ports
//! are open. Nothing is started, woken or changed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::timeout;

use super::Bus;
use super::instance::{Start, variables};
use crate::config::Manager;

/// `wakeport status --watch` asks every second.
const BUS_TIMEOUT: Duration = Duration::from_secs(3);

/// The units of a manager.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
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
    /// Its command line.
    pub command: Vec<String>,
    /// Its variables, as far as they can be read.
    pub variables: Vec<(String, String)>,
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

/// Asks `manager`, also for the state of `units`; `None` without an answer in time.
pub async fn inventory(manager: Manager, units: &[String]) -> Option<Inventory> {
    match timeout(BUS_TIMEOUT, ask(manager, units)).await {
        Ok(Ok(inventory)) => Some(inventory),
        Ok(Err(error)) => {
            tracing::debug!("cannot read units from the service manager: {error}");
            None
        }
        Err(_) => None,
    }
}

async fn ask(manager: Manager, units: &[String]) -> Result<Inventory, String> {
    let bus = Bus::connect(manager).await?;
    read(&bus, units).await.map_err(|error| error.to_string())
}

async fn read(bus: &Bus, units: &[String]) -> zbus::Result<Inventory> {
    // Those that are not ours are not asked about again.
    let mut services: BTreeMap<String, Option<Service>> = BTreeMap::new();
    for unit in bus.loaded("*.socket").await? {
        // No port.
        if super::is_control(&unit.id) {
            continue;
        }
        let triggers: Vec<String> = bus.property(&unit.path, "Unit", "Triggers").await?;
        let Some(service) = triggers.into_iter().next() else {
            continue;
        };
        if !services.contains_key(&service) {
            services.insert(service.clone(), wakeport(bus, &service).await?);
        }
        let Some(Some(ours)) = services.get_mut(&service) else {
            continue;
        };
        let listen: Vec<(String, String)> = bus.property(&unit.path, "Socket", "Listen").await?;
        let enabled = bus.property(&unit.path, "Unit", "UnitFileState").await?;
        ours.sockets.push(Socket {
            unit: unit.id,
            state: unit.active,
            enabled,
            listen: listen.into_iter().map(address).collect(),
        });
    }
    let names: Vec<&str> = units.iter().map(String::as_str).collect();
    let states = match names.is_empty() {
        true => Vec::new(),
        false => bus.named(&names).await?,
    };
    let states = states.into_iter().map(|unit| unit.active);
    let ours = services.into_iter();
    let ours = ours.filter_map(|(name, service)| Some((name, service?)));
    Ok(Inventory {
        services: ours.collect(),
        units: units.iter().cloned().zip(states).collect(),
    })
}

/// Where a socket unit listens, as it is written for wakeport.
fn address((kind, address): (String, String)) -> String {
    match kind.as_str() {
        "Datagram" => format!("udp:{address}"),
        _ => address,
    }
}

/// The service with that name, if it is one of ours.
async fn wakeport(bus: &Bus, name: &str) -> zbus::Result<Option<Service>> {
    // Some sockets start units that are no services.
    if !name.ends_with(".service") {
        return Ok(None);
    }
    let Some(unit) = bus.named(&[name]).await?.pop() else {
        return Ok(None);
    };
    let path = &unit.path;
    let commands: Vec<Start> = bus.property(path, "Service", "ExecStart").await?;
    let ours = commands.into_iter().find(|(path, arguments, ..)| {
        path.rsplit('/').next() == Some("wakeport")
            && arguments.get(1).is_some_and(|argument| argument == "run")
    });
    let Some((_, command, ..)) = ours else {
        return Ok(None);
    };
    let pairs = bus.property(path, "Service", "Environment").await?;
    let files = bus.property(path, "Service", "EnvironmentFiles");
    let (variables, _) = variables(pairs, files.await?);
    let directories: Vec<String> = match bus.manager {
        Manager::System => bus.property(path, "Service", "StateDirectory").await?,
        Manager::User => Vec::new(),
    };
    let base = PathBuf::from("/var/lib");
    Ok(Some(Service {
        active: unit.active == "active" || unit.active == "deactivating",
        sockets: Vec::new(),
        command,
        variables,
        state_directories: directories.iter().map(|name| base.join(name)).collect(),
    }))
}
