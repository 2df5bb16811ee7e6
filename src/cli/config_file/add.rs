//! Services that `wakeport init --add` writes at the end of a file; all that is there stays as it is.

use std::fmt::Write;
use std::fs;
use std::io;
use std::str::FromStr;

use super::{ConfigPath, Fatal, File, Options, config, fatal, given, read, services, unreadable};
use crate::admin::stem;
use crate::admin::unit_files::Change;
use crate::config::address::Address;
use crate::config::host::{HostPattern, PathPrefix};
use crate::config::{Config, UnitName};

/// A service, as it is typed: `HOST[/PATH]=UNIT:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Addition {
    host: HostPattern,
    path: PathPrefix,
    unit: UnitName,
    to: Address,
}

const FORM: &str =
    "write HOST=UNIT:PORT or HOST/PATH=UNIT:PORT, as in `docs.example.org=paperless:18000`";

impl FromStr for Addition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (requests, service) = text.split_once('=').ok_or(FORM)?;
        let (unit, to) = service.split_once(':').ok_or(FORM)?;
        let (host, path) = match requests.find('/') {
            Some(at) => (&requests[..at], requests[at..].parse()?),
            None => (requests, PathPrefix::all()),
        };
        let to: Address = match !to.is_empty() && to.bytes().all(|byte| byte.is_ascii_digit()) {
            true => format!("127.0.0.1:{to}").parse()?,
            false => to.parse()?,
        };
        if to.is_udp() {
            return Err(format!(
                "`{to}` takes datagrams, and requests are for a host; {FORM}"
            ));
        }
        if matches!(to, Address::Tcp { port: None, .. }) {
            return Err(format!("`{to}` has no port; {FORM}"));
        }
        // In a list, which `to` is, that is the next one.
        if text.contains(char::is_whitespace) {
            return Err("an address has no white space here; write it into the file".to_owned());
        }
        Ok(Self {
            host: host.parse()?,
            path,
            unit: unit.parse()?,
            to,
        })
    }
}

impl Addition {
    /// What the service is called: its unit, as short as it means that.
    fn name(&self) -> &str {
        stem(&self.unit)
    }

    /// Its table, of which `listener` has the requests.
    fn table(&self, listener: &[String]) -> String {
        let bare = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        let name = match self.name().chars().all(bare) {
            true => self.name().to_owned(),
            false => quoted(self.name()),
        };
        let mut table = format!("[service.{name}]\n");
        let mut line = |key: &str, value: &str| {
            let _ = writeln!(table, "{key} = {value}");
        };
        match listener {
            [] => (),
            [one] => line("listener", &quoted(one)),
            several => {
                let names: Vec<_> = several.iter().map(|name| quoted(name)).collect();
                line("listener", &format!("[{}]", names.join(", ")));
            }
        }
        line("host", &quoted(&self.host.to_string()));
        if self.path != PathPrefix::all() {
            line("path", &quoted(&self.path.to_string()));
        }
        line("to", &quoted(&self.to.to_string()));
        table
    }
}

/// A string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => _ = write!(quoted, "\\u{:04x}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// What the file of `options` is with these services at its end, and what it means then.
pub(in crate::cli) fn add(options: &Options, all: &[Addition]) -> Result<(Config, Change), Fatal> {
    let path = options.file().unwrap_or("".as_ref());
    let path = ConfigPath {
        path: path.to_owned(),
        optional: true,
    };
    let shown = path.path.display();
    let before = path.read()?.unwrap_or_default();
    let mut listener = Vec::new();
    if before.services().next().is_some() {
        listener = listener_of_hosts(&config(options, &path, &before)?);
    }
    for (index, addition) in all.iter().enumerate() {
        let name = addition.name();
        let place = before.services().find(|(there, ..)| *there == name);
        let place = place.map(|(_, place, _)| place.to_string());
        let twice = all[..index].iter().any(|other| other.name() == name);
        if let Some(place) = place.or(twice.then(|| "`--add`".to_owned())) {
            return Err(Fatal::usage(format!(
                "there is a service `{name}` already ({place}); add to the `host` and the `path` of its table in `{shown}`"
            )));
        }
    }
    let old = match fs::read_to_string(&path.path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(unreadable(&path.path, &error)),
    };
    let mut new = old.clone().unwrap_or_default();
    for addition in all {
        if !new.is_empty() {
            let end = if new.ends_with('\n') { "\n" } else { "\n\n" };
            new.push_str(end);
        }
        new.push_str(&addition.table(&listener));
    }
    // What is wrong now is wrong with what was added, and has no place yet.
    let wrong = |message: &str| Fatal::usage(format!("cannot add to `{shown}`: {message}"));
    let mut file = File::default();
    let added = file.read(&shown.to_string(), new.as_bytes());
    added.map_err(|invalid| wrong(&invalid.message))?;
    for drop_in in path.drop_ins()? {
        let bytes = read(&drop_in).map_err(|error| unreadable(&drop_in, &error))?;
        file.read(&drop_in.to_string_lossy(), &bytes)
            .map_err(fatal)?;
    }
    let services = services(&given(options, &path.path)?, &file);
    let config = Config {
        process: options.process(),
        services: services.map_err(|invalid| wrong(&invalid.message))?,
    };
    let change = Change {
        path: path.path.clone(),
        old,
        new: Some(new),
        foreign: false,
        access: None,
    };
    Ok((config, change))
}

/// The listeners that all services with a host have named.
fn listener_of_hosts(config: &Config) -> Vec<String> {
    let services = config.services.iter();
    let mut named = services
        .filter(|service| service.admission.http.is_some())
        .map(|service| service.listeners.as_ref());
    match named.next().flatten() {
        Some(first) if named.all(|other| other == Some(first)) => first.clone(),
        _ => Vec::new(),
    }
}
