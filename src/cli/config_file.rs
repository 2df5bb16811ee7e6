//! The file of several services: where it is, what is in it, and what that means together with
//! flags and variables, which weigh more.
//!
//! `FILE` comes first and `FILE.d/*.toml` after it, in the order of their names; later keys win.
//! What is wrong is one line that begins with `FILE:LINE:COLUMN`, and the exit code is 78.

pub(super) mod add;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, FromArgMatches};

use super::options::{self, Options, ServiceOptions};
use super::{Fatal, one_line, variable};
use crate::config::host::Twice;
use crate::config::settings::{self, File, Invalid, Origin, Place, Setting, Settings};
use crate::config::{Config, ServiceConfig, ServiceKind, hosts};

/// Where the file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConfigPath {
    pub(super) path: PathBuf,
    /// Whether there may be none, as with `EnvironmentFile=-…`.
    pub(super) optional: bool,
}

impl FromStr for ConfigPath {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let path = text.strip_prefix('-').unwrap_or(text);
        Ok(Self {
            path: path.into(),
            optional: path != text,
        })
    }
}

/// Longer than any such file; a device would have no end.
const LARGEST: u64 = 1 << 20;

impl ConfigPath {
    /// What is in the file and its drop-ins; `None` if there is neither, and need not be.
    pub(super) fn read(&self) -> Result<Option<File>, Fatal> {
        let mut file = File::default();
        let mut paths = self.drop_ins()?;
        match self.path.try_exists() {
            Ok(false) if self.optional && paths.is_empty() => return Ok(None),
            Ok(false) if self.optional => (),
            _ => paths.insert(0, self.path.clone()),
        }
        for path in paths {
            let bytes = read(&path).map_err(|error| unreadable(&path, &error))?;
            file.read(&path.to_string_lossy(), &bytes).map_err(fatal)?;
        }
        Ok(Some(file))
    }

    /// The files beside it, in the order of their names.
    fn drop_ins(&self) -> Result<Vec<PathBuf>, Fatal> {
        let mut folder = OsString::from(&self.path);
        folder.push(".d");
        let folder = PathBuf::from(folder);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unreadable(&folder, &error)),
        };
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let paths: io::Result<Vec<_>> = paths.collect();
        let mut paths = paths.map_err(|error| unreadable(&folder, &error))?;
        let hidden = |path: &Path| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with('.')
        };
        paths.retain(|path| path.extension().is_some_and(|end| end == "toml") && !hidden(path));
        paths.sort();
        Ok(paths)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(LARGEST + 1)
        .read_to_end(&mut bytes)?;
    match bytes.len() as u64 > LARGEST {
        true => Err(io::Error::other("it is larger than 1 MiB")),
        false => Ok(bytes),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Fatal {
    Fatal::config(format!(
        "cannot read `{}`: {error}; `--config` (WAKEPORT_CONFIG) names a file that wakeport's user may read",
        path.display()
    ))
}

fn fatal(invalid: Invalid) -> Fatal {
    Fatal::config(invalid.to_string())
}

/// What says which listener is a service's; not an option, since without a file it has them all.
const LISTENER: &str = "listener";

/// What only one service can be, so neither all of a file nor a flag for all can say it.
const DEFINING: [&str; 6] = ["to", "unit", "start-hook", "stop-hook", "exec", "scale"];

/// What `file`, which is at `path`, means together with `options`.
pub(super) fn config(options: &Options, path: &ConfigPath, file: &File) -> Result<Config, Fatal> {
    let given = given(options, &path.path)?;
    let services = services(&given, file).map_err(fatal)?;
    if services.is_empty() {
        return Err(Fatal::config(format!(
            "`{}` has no service; add a table `[service.NAME]`",
            path.path.display()
        )));
    }
    Ok(Config {
        process: options.process(),
        services,
    })
}

/// What flags and variables say for every service of the file.
fn given(options: &Options, path: &Path) -> Result<Settings, Fatal> {
    let mut given = options.given().clone();
    // That is what the template has for an instance without a file.
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let template = Setting::new(Origin::Variable, [name.into_owned()]);
    if given.get("unit") == Some(&template) {
        given.remove("unit");
    }
    for key in DEFINING {
        let what = match given.get(key) {
            Some(setting) if setting.origin == Origin::Variable => {
                format!("the variable {}", variable(key))
            }
            Some(_) => format!("`--{key}`"),
            None => continue,
        };
        return Err(Fatal::usage(format!(
            "{what} is for a single service, and `{}` has services of its own; write `{key} = \"…\"` there, below `[service.NAME]`, and leave it out here",
            path.display()
        )));
    }
    Ok(given)
}

fn services(given: &Settings, file: &File) -> Result<Vec<ServiceConfig>, Invalid> {
    let mut keys = Keys::new();
    keys.check(&file.defaults, true)?;
    let mut tables = Vec::new();
    for (name, place, own) in file.services() {
        keys.check(own, false)?;
        let settings = settings::over(own.clone(), &file.defaults);
        let listener = settings.get(LISTENER).cloned();
        let settings = keys.only(settings::over(given.clone(), &settings));
        tables.push(Table {
            name,
            place,
            listener,
            own,
            settings,
        });
    }
    let several = tables.len() > 1;
    let mut services = Vec::new();
    for table in &mut tables {
        services.push(table.service(&mut keys, several)?);
    }
    distinct(&tables, &services)?;
    Ok(services)
}

/// A service's table, with what weighs more and what weighs less.
struct Table<'a> {
    name: &'a str,
    place: &'a Place,
    listener: Option<Setting>,
    /// What it says itself.
    own: &'a Settings,
    settings: Settings,
}

impl Table<'_> {
    /// What is wrong, at the place of `setting` if that is in a file.
    fn wrong(&self, setting: Option<&Setting>, message: &str) -> Invalid {
        let place = match setting {
            Some(Setting {
                origin: Origin::File(place),
                ..
            }) => place,
            _ => self.place,
        };
        Invalid::new(place, format!("service `{}`: {message}", self.name))
    }

    fn service(&mut self, keys: &mut Keys, several: bool) -> Result<ServiceConfig, Invalid> {
        let ways = ["unit", "start-hook", "stop-hook", "exec", "scale"];
        if ways.iter().all(|key| !self.settings.contains_key(*key)) {
            let unit = Setting::new(Origin::File(self.place.clone()), [self.name.to_owned()]);
            self.settings.insert("unit".into(), unit);
        }
        let options = keys.parse(&self.settings);
        let options = options.map_err(|error| self.wrong(None, &one_line(&error)))?;
        let service = options.config(Some(self.name));
        let mut service =
            service.map_err(|wrong| self.wrong(self.settings.get(wrong.key), &wrong.message))?;
        let about_requests = ["quiet", "wake-only", "page", "target-protocol"];
        let about_requests = about_requests.map(|key| (key, self.own.get(key)));
        for (key, setting) in about_requests {
            let is_given = setting.is_some_and(|setting| !setting.values.is_empty());
            if is_given && service.admission.http.is_none() {
                let remedy = match service.admission.tls {
                    Some(_) => ", which are encrypted with `tls`; leave out one of the two",
                    None => "; add `host` or `http`",
                };
                let message = format!("`{key}` is about requests{remedy}");
                return Err(self.wrong(setting, &message));
            }
        }
        let named = |setting: &Setting| {
            let values = setting.values.iter();
            let names = values.flat_map(|(value, _)| value.split_whitespace());
            names.map(str::to_owned).collect::<Vec<_>>()
        };
        let listeners = self.listener.as_ref().map(named);
        service.listeners = listeners.filter(|all| !all.is_empty());
        let Some(listeners) = &service.listeners else {
            return match several && !service.admission.is_by_host() {
                true => Err(self.wrong(
                    self.listener.as_ref(),
                    "`listener` is missing, and there are several services; write the FileDescriptorName= of its socket, as in `listener = \"web\"`",
                )),
                false => Ok(service),
            };
        };
        let routes = service.routes.iter();
        let mut names = routes.filter_map(|route| route.name.as_ref());
        match names.find(|name| !listeners.contains(name)) {
            Some(foreign) => Err(self.wrong(
                self.settings.get("to"),
                &format!("`to` names the listener `{foreign}`, which is not its own; add it to `listener`"),
            )),
            None => Ok(service),
        }
    }
}

/// Whether every listener, host and unit is of one service alone.
fn distinct(tables: &[Table<'_>], services: &[ServiceConfig]) -> Result<(), Invalid> {
    // Those that name no listener have what others leave.
    let mut listeners: BTreeMap<Option<&str>, Vec<usize>> = BTreeMap::new();
    let mut all_units = BTreeMap::new();
    let (mut all_workloads, mut all_leases) = (BTreeMap::new(), BTreeMap::new());
    for (index, (table, service)) in tables.iter().zip(services).enumerate() {
        let own = service.listeners.as_ref();
        let names = own.map_or(vec![None], |own| {
            own.iter().map(|it| Some(it.as_str())).collect()
        });
        for listener in names {
            let others = listeners.entry(listener).or_default();
            others.push(index);
            shared(table, listener, others, services)?;
        }
        if let ServiceKind::Scale(scale) = &service.kind {
            for workload in &scale.workloads {
                let place = (scale.namespace.as_deref(), workload.to_string());
                if let Some(other) = all_workloads.insert(place, table.name) {
                    return Err(table.wrong(
                        table.settings.get("scale"),
                        &format!("`{workload}` is that of service `{other}` already, and each would scale it to zero under the other's clients; give one service both targets, with `NAME=`"),
                    ));
                }
            }
            // A claim says which wakeport has clients, and not which of its services.
            let place = (scale.namespace.as_deref(), scale.lease.as_str());
            if let Some(other) = all_leases.insert(place, table.name) {
                return Err(table.wrong(
                    table.settings.get("lease"),
                    &format!(
                        "the Lease `{}` is that of service `{other}` already; give each its own",
                        scale.lease
                    ),
                ));
            }
        }
        let ServiceKind::Units { units, manager } = &service.kind else {
            continue;
        };
        for unit in units {
            if let Some(other) = all_units.insert((unit.as_str(), *manager), table.name) {
                return Err(table.wrong(
                    table.settings.get("unit"),
                    &format!("the unit `{unit}` is that of service `{other}` already, and each would stop it under the other's clients; give one service both targets, with `NAME=`"),
                ));
            }
        }
    }
    Ok(())
}

/// Whether these services, of which `table` has the last one, can have one listener.
fn shared(
    table: &Table<'_>,
    listener: Option<&str>,
    all: &[usize],
    services: &[ServiceConfig],
) -> Result<(), Invalid> {
    let name = |index: usize| services[index].name.as_deref().unwrap_or_default();
    let is_by_host = |&&index: &&usize| services[index].admission.is_by_host();
    if let [other, .., last] = all
        && !all.iter().all(|index| is_by_host(&index))
    {
        let other = all.iter().find(|index| !is_by_host(index)).unwrap_or(other);
        let other = if other == last { &all[0] } else { other };
        let listener = listener.unwrap_or_default();
        return Err(table.wrong(
            table.listener.as_ref(),
            &format!(
                "the listener `{listener}` is that of service `{}` already; each one belongs to one service, or to several that have a `host`",
                name(*other)
            ),
        ));
    }
    let is_tls = |index: usize| services[index].admission.tls.is_some();
    if all.iter().any(|&index| is_tls(index) != is_tls(all[0])) {
        return Err(table.wrong(
            table.settings.get("tls"),
            &format!(
                "a listener has either TLS or not, before it is known whether service `{}` or this one is meant; set `tls` for both, or below `[defaults]`, or give each a `listener`",
                name(all[0])
            ),
        ));
    }
    if all.iter().any(|&index| {
        services[index].admission.accept_proxy != services[all[0]].admission.accept_proxy
    }) {
        return Err(table.wrong(
            table.settings.get("accept-proxy"),
            &format!(
                "`accept-proxy` is said before it is known whether service `{}` or this one is meant; set it for both, or below `[defaults]`",
                name(all[0])
            ),
        ));
    }
    match hosts(all, services) {
        Ok(_) => Ok(()),
        Err(twice) => {
            let [other, _] = twice.both.map(name);
            let Twice { host, path, .. } = &twice;
            let message = match is_tls(all[0]) {
                true => format!(
                    "the host `{host}` is that of service `{other}` already; give one of them another host"
                ),
                false => format!(
                    "the host `{host}` with the path `{path}` is that of service `{other}` already; give one of them another host or path"
                ),
            };
            Err(table.wrong(table.settings.get("host"), &message))
        }
    }
}

/// The keys that a service can have.
struct Keys {
    parser: clap::Command,
}

impl Keys {
    fn new() -> Self {
        Self {
            parser: options::parser(options::service_arguments()),
        }
    }

    fn find(&self, key: &str) -> Option<&Arg> {
        let mut arguments = self.parser.get_arguments();
        arguments.find(|argument| argument.get_long() == Some(key) && key != "help")
    }

    /// What a service can have, of all that was given.
    fn only(&self, settings: Settings) -> Settings {
        let settings = settings.into_iter();
        settings
            .filter(|(key, _)| self.find(key).is_some())
            .collect()
    }

    fn parse(&mut self, settings: &Settings) -> Result<ServiceOptions, clap::Error> {
        let typed = options::typed(settings);
        let matches = self.parser.try_get_matches_from_mut(typed)?;
        ServiceOptions::from_arg_matches(&matches)
    }

    /// Whether there is an option for each key of a table, and each value is one of its values.
    fn check(&mut self, table: &Settings, defaults: bool) -> Result<(), Invalid> {
        for (key, setting) in table {
            let Origin::File(place) = &setting.origin else {
                continue;
            };
            if defaults && [LISTENER, "unit", "exec", "scale", "lease"].contains(&key.as_str()) {
                let message = format!("`{key}` is for one service; move it to a `[service.NAME]`");
                return Err(Invalid::new(place, message));
            }
            if key == LISTENER {
                continue;
            }
            let Some(argument) = self.find(key) else {
                return Err(Invalid::new(place, self.unknown(key)));
            };
            let list = matches!(argument.get_action(), ArgAction::Append);
            if setting.values.len() > 1 && !list {
                return Err(Invalid::new(place, format!("`{key}` takes one value")));
            }
            for (value, origin) in &setting.values {
                let typed = [format!("--{key}={value}")];
                if let (Err(error), Origin::File(place)) =
                    (self.parser.try_get_matches_from_mut(typed), origin)
                {
                    let reason = match error.source() {
                        Some(reason) => reason.to_string(),
                        None => one_line(&error),
                    };
                    let message = format!("`{key}` cannot be `{value}`: {reason}");
                    return Err(Invalid::new(place, message));
                }
            }
        }
        Ok(())
    }

    /// What is wrong with a key that no service has.
    fn unknown(&mut self, key: &str) -> String {
        if Options::has(key) {
            return format!(
                "`{key}` is for the whole process; give it as `--{key}`, or as `Environment={}=` in a drop-in of the unit",
                variable(key)
            );
        }
        let typed = [format!("--{key}=")];
        if let Err(error) = self.parser.try_get_matches_from_mut(typed)
            && let Some(ContextValue::String(alike)) = error.get(ContextKind::SuggestedArg)
        {
            let alike = alike.trim_start_matches('-');
            return format!("unknown key `{key}`; is it `{alike}`?");
        }
        format!("unknown key `{key}`; wakeport-run(1) has all options, which are the keys")
    }
}
