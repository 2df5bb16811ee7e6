//! The instances of `wakeport@` on this machine, and what each would do: for `init` and `check`.

use std::collections::BTreeMap;

use super::options::Options;
use crate::admin::machine::{self, Bus, Found};
use crate::admin::system::{Elsewhere, Present};
use crate::admin::unit_files::{self, Places};
use crate::config::address::Bound;
use crate::config::busy::Percent;
use crate::config::{Config, Manager, ServiceConfig, UnitName};
use crate::report::record::Record;
use crate::report::state_file;

/// An installed instance.
pub(super) struct Other {
    /// Its service.
    pub(super) service: String,
    /// Where it listens.
    pub(super) listeners: Vec<Bound>,
    /// What it does.
    pub(super) config: Config,
}

/// Every installed instance but `except`, of those that would run.
pub(super) async fn others(bus: &Bus, except: Option<&str>) -> Vec<Other> {
    let mut others = Vec::new();
    for service in machine::all(bus).await.unwrap_or_default() {
        if except != Some(service.as_str())
            && let Ok(found) = machine::instance(bus, &service).await
            && let Ok(config) = config_of(&found)
        {
            others.push(Other {
                listeners: found.listeners(),
                service,
                config,
            });
        }
    }
    others
}

/// What `wakeport run` would make of an instance's command line, variables and file.
pub(super) fn config_of(found: &Found) -> Result<Config, String> {
    config(&found.units.service.id, &found.command, &found.variables)
}

/// The same of the service `id`, which has these.
pub(super) fn config(
    id: &str,
    words: &[String],
    variables: &[(String, String)],
) -> Result<Config, String> {
    let mut pairs = words.windows(2);
    let at = pairs.position(|pair| pair[0].ends_with("wakeport") && pair[1] == "run");
    let Some(at) = at else {
        return Err(format!(
            "`{id}` does not run `wakeport run`, so it was not verified further; see its ExecStart="
        ));
    };
    let options = Options::read(&words[at + 2..], variables);
    let config = options.and_then(|options| {
        let suits = options.suit_an_instance();
        let config = suits.and_then(|()| options.load());
        config.map_err(|fatal| fatal.message)
    });
    config.map_err(|message| format!("`{id}` would exit at once: {message}"))
}

/// The file of an instance, if the user that it runs as cannot read it, and why.
pub(super) fn closed(found: &Found) -> Option<(String, String)> {
    let options = Options::read(&[], &found.variables).ok()?;
    let path = options.file().filter(|path| path.exists())?;
    let reason = found.identity()?.can_read(path).err()?;
    Some((path.display().to_string(), reason))
}

/// The units that other instances than the one with this service wake: those that systemd knows,
/// and those that run by hand.
pub(super) async fn elsewhere(bus: &Bus, others: &[Other], except: &str) -> Vec<Elsewhere> {
    let mut elsewhere = Vec::new();
    for other in others {
        for name in units(&other.config, bus.manager) {
            // Both may name it by an alias.
            let unit = bus.unit(&name).await.map(|unit| unit.id);
            let unit = unit.ok().filter(|id| !id.is_empty());
            elsewhere.push(Elsewhere {
                unit: unit.unwrap_or(name),
                instance: other.service.clone(),
            });
        }
    }
    elsewhere.extend(running(bus.manager, except));
    elsewhere
}

/// The same where systemd is not there: from the files in `places`.
pub(super) fn in_files(
    present: &[Present],
    places: &Places,
    manager: Manager,
    except: &str,
) -> Vec<Elsewhere> {
    let mut elsewhere = Vec::new();
    for (stem, mut variables) in unit_files::variables(present, manager) {
        let service = format!("wakeport@{stem}.service");
        if service == except {
            continue;
        }
        // That of the template has a specifier.
        variables.retain(|(name, value)| name != "WAKEPORT_CONFIG" || !value.contains('%'));
        let options = Options::read(&[], &variables);
        let config = options.map(|options| options.with_file(&places.config(&stem)).load());
        let Ok(Ok(config)) = config else {
            continue;
        };
        let unit = |unit| Elsewhere {
            unit,
            instance: service.clone(),
        };
        elsewhere.extend(units(&config, manager).map(unit));
    }
    elsewhere.extend(running(manager, except));
    elsewhere
}

/// What the units of this service use when idle, by the record of the instance with the service `id`.
pub(super) fn idle_cpu(id: &str, service: &ServiceConfig, manager: Manager) -> Option<Percent> {
    let is_ours = |record: &Record| {
        let instance = (record.unit.as_deref(), record.manager) == (Some(id), manager);
        let names = service.units().iter().map(UnitName::as_str);
        instance && record.units_manager == service.manager() && names.eq(&record.units)
    };
    records().into_iter().find(is_ours)?.usual_idle_cpu()
}

/// The records that can be read, of the system and of the calling user.
fn records() -> Vec<Record> {
    state_file::records(&state_file::usual_places()).0
}

/// The units of this manager that an instance wakes.
fn units(config: &Config, manager: Manager) -> impl Iterator<Item = String> {
    let services = config.services.iter();
    let services = services.filter(move |service| service.manager() == manager);
    services.flat_map(|service| service.units().iter().map(ToString::to_string))
}

/// What the records of running processes tell.
fn running(manager: Manager, except: &str) -> Vec<Elsewhere> {
    let mut running = BTreeMap::new();
    for record in records() {
        let Record { name, unit, .. } = &record;
        let instance = unit.clone().unwrap_or_else(|| name.clone());
        let counts = instance != except && record.units_manager == manager;
        if counts && state_file::is_alive(&record) {
            let units = record.units.into_iter();
            running.extend(units.map(|unit| (unit, instance.clone())));
        }
    }
    let elsewhere = |(unit, instance)| Elsewhere { unit, instance };
    running.into_iter().map(elsewhere).collect()
}
