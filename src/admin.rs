//! What `wakeport init` writes and does, and what is wrong with a set-up: from what was typed and
//! from what the [`system`] is like. Pure, except for [`machine`], which looks at the system.

pub mod checks;
pub mod machine;
pub mod sandbox;
pub mod schedule;
pub mod system;
pub mod unit_files;
pub mod unit_text;

#[cfg(test)]
mod tests;

use std::fmt;

use self::unit_files::Change;
use crate::config::address::Bound;
use crate::config::{Config, Manager, Named, ServiceConfig, UnitName};

/// An instance of `wakeport@`, as it was typed.
#[derive(Clone, Debug)]
pub struct Instance {
    /// What it is called: by default the unit that it wakes.
    pub name: UnitName,
    /// What `wakeport run` would make of the options.
    pub config: Config,
    /// The options as variables, in the order of `--help`; without those that the units say.
    pub settings: Vec<(String, String)>,
    /// Whose units these are.
    pub manager: Manager,
    /// Whether its units are complete, rather than drop-ins for the installed ones.
    pub standalone: bool,
    /// When it is held, and when it is stopped.
    pub schedule: schedule::Schedule,
    /// What is added to the file of its services, if anything.
    pub added: Option<Added>,
}

/// What is added to the file of an instance.
#[derive(Clone, Debug)]
pub struct Added {
    /// The file.
    pub file: Change,
    /// Whether its sockets and its service stay as they are.
    pub only: bool,
}

/// A file's name has 255 bytes (NAME_MAX), and the directory of a unit's drop-ins two more than the
/// unit.
const LONGEST_UNIT: usize = 253;

/// The directory that systemd makes for `PrivateTmp=` is called after the boot and the unit, with 56
/// bytes more than the unit has.
const LONGEST_WITH_TMP: usize = 199;

/// What there is to say about a set-up: one line, with the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// The service that it is about, where the instance has several.
    pub service: Option<String>,
    /// The line.
    pub text: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// It would not work like this.
    Error,
    /// It works, but perhaps not as wanted.
    Warning,
    /// What was not verified, or is good to know.
    Note,
}

impl Finding {
    /// It would not work like this.
    pub fn error(text: impl Into<String>) -> Self {
        Self::new(Level::Error, text)
    }

    /// It works, but perhaps not as wanted.
    pub fn warning(text: impl Into<String>) -> Self {
        Self::new(Level::Warning, text)
    }

    /// What was not verified, or is good to know.
    pub fn note(text: impl Into<String>) -> Self {
        Self::new(Level::Note, text)
    }

    fn new(level: Level, text: impl Into<String>) -> Self {
        // Names and errors of others may hold anything (a program calls itself as it likes); a
        // finding is one line all the same, and steers no terminal.
        let text = text.into();
        let words = text.split(|c: char| c.is_whitespace() || c.is_control());
        let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
        let text = words.join(" ");
        let service = None;
        Self {
            level,
            service,
            text,
        }
    }

    /// The same, below the name of its instance.
    pub fn under(&self, what: &str) -> Self {
        let name = what.strip_prefix("wakeport@").unwrap_or(what);
        let text = match &self.service {
            Some(service) => format!("{name}/{service}: {}", self.text),
            None if what.is_empty() => self.text.clone(),
            None => format!("{what}: {}", self.text),
        };
        Self {
            text,
            ..self.clone()
        }
    }

    /// The same, about one service of several.
    fn of(self, service: Option<&str>) -> Self {
        match service {
            None => self,
            // In a file options are keys.
            Some(service) => Self {
                level: self.level,
                service: Some(service.to_owned()),
                text: self.text.replace("`--", "`"),
            },
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

impl Instance {
    /// The name of the instance in the names of its units: `nginx`, or `media.target`.
    pub fn stem(&self) -> &str {
        stem(&self.name)
    }

    /// The service that relays.
    pub fn service(&self) -> String {
        format!("wakeport@{}.service", self.stem())
    }

    /// The socket units, the service's own one first.
    pub fn sockets(&self) -> Vec<String> {
        self.groups().into_iter().map(|group| group.unit).collect()
    }

    /// The units that its services wake, in the order of the services.
    pub fn units(&self) -> Vec<UnitName> {
        let services = self.config.services.iter();
        let units = services.flat_map(ServiceConfig::units);
        units.cloned().collect()
    }

    /// Why no unit files can be written for it, if so.
    pub fn unwritable(&self) -> Option<String> {
        let listen = self.config.process.listen.iter();
        let mut words = listen.flat_map(|Named { name, value }| {
            [name.clone().unwrap_or_default(), value.to_string()]
        });
        if let Some(word) = words.find(|word| word.ends_with('\\')) {
            return Some(format!(
                "`{word}` ends with a backslash, which continues the line in a unit file; use another name"
            ));
        }
        let sockets = self.sockets();
        let twice = sockets
            .iter()
            .enumerate()
            .find(|(index, unit)| sockets[..*index].contains(unit));
        if let Some((_, unit)) = twice {
            return Some(format!(
                "`{unit}` would be for streams and for datagrams; give one of the two listeners another name, as in `--listen-udp NAME=PORT`"
            ));
        }
        let longest = match self.manager {
            Manager::System => LONGEST_WITH_TMP,
            Manager::User => LONGEST_UNIT,
        };
        let units = [(self.service(), longest)].into_iter();
        let mut units = units.chain(sockets.into_iter().map(|unit| (unit, LONGEST_UNIT)));
        let (long, _) = units.find(|(unit, longest)| unit.len() > *longest)?;
        Some(format!(
            "`{long}` is too long for a unit's name; use a shorter name for the instance or the listener, and `--unit` for the unit"
        ))
    }

    /// The listeners, one group for each name and kind: `FileDescriptorName=` and `ReceiveBuffer=` belong to a
    /// whole unit.
    fn groups(&self) -> Vec<Group<'_>> {
        let mut groups: Vec<Group<'_>> = Vec::new();
        for Named { name, value } in &self.config.process.listen {
            let name = name.as_deref();
            let same =
                |group: &&mut Group<'_>| group.name == name && group.is_udp == value.is_udp();
            match groups.iter_mut().find(same) {
                Some(group) => group.addresses.push(value),
                None => groups.push(Group {
                    unit: String::new(),
                    name,
                    is_udp: value.is_udp(),
                    addresses: vec![value],
                }),
            }
        }
        // The service requires the socket of its own name; those without a name belong there.
        groups.sort_by_key(|group| group.name.is_some());
        for (index, group) in groups.iter_mut().enumerate() {
            let stem = self.stem();
            group.unit = match group.name.map(unit_text::escape) {
                Some(name) if index > 0 => format!("wakeport@{stem}-{name}.socket"),
                _ => format!("wakeport@{stem}.socket"),
            };
        }
        groups
    }
}

/// Listeners that share a socket unit.
struct Group<'a> {
    unit: String,
    name: Option<&'a str>,
    is_udp: bool,
    addresses: Vec<&'a Bound>,
}

/// A unit's name as part of the name of its instance: as short as it still means that unit.
pub fn stem(name: &UnitName) -> &str {
    let short = name.as_str().strip_suffix(".service");
    let short = short.filter(|short| short.parse().as_ref() == Ok(name));
    short.unwrap_or(name.as_str())
}

/// The name of the instance with this service.
pub fn instance_name(service: &str) -> &str {
    let name = service.strip_suffix(".service").unwrap_or(service);
    name.strip_prefix("wakeport@").unwrap_or(name)
}

/// Names in a list.
pub fn in_a_row(names: &[impl fmt::Display]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}
