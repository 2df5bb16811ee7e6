//! What was given for each option, by flags, variables and a file: texts with their origin, and
//! which of them counts. A key is the long option without its dashes.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::UnitName;
use crate::util::text::escape_controls;

/// Where something was given; in the order of weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In a file.
    File(Place),
    /// By a variable of the environment.
    Variable,
    /// On the command line.
    Flag,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    file: Arc<str>,
    line: usize,
    column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// What is wrong with a file, and where: one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Where it is.
    pub place: Place,
    /// What is wrong, and the remedy.
    pub message: String,
}

impl Invalid {
    /// What is wrong at `place`.
    pub fn new(place: &Place, message: impl Into<String>) -> Self {
        Self {
            place: place.clone(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys and values may hold anything.
        let line = format!("{}: {}", self.place, self.message);
        f.write_str(&escape_controls(&line))
    }
}

/// What was given for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Where the key is.
    pub origin: Origin,
    /// The values, each with its place; none takes back what weighs less.
    pub values: Vec<(String, Origin)>,
}

impl Setting {
    /// These values, all of one origin.
    pub fn new(origin: Origin, values: impl IntoIterator<Item = String>) -> Self {
        let values = values.into_iter().filter(|value| !value.is_empty());
        Self {
            values: values.map(|value| (value, origin.clone())).collect(),
            origin,
        }
    }
}

/// What was given, by key: the one raw form of all sources.
pub type Settings = BTreeMap<String, Setting>;

/// What `upper` gives, and of `lower` what it does not.
pub fn over(mut upper: Settings, lower: &Settings) -> Settings {
    for (key, setting) in lower {
        upper.entry(key.clone()).or_insert_with(|| setting.clone());
    }
    upper
}

/// A file with its drop-ins: what it says for all services, and for each.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// What is said for all services.
    pub defaults: Settings,
    services: BTreeMap<String, (Place, Settings)>,
}

/// The table for all services.
const DEFAULTS: &str = "defaults";
/// The table of the services' tables.
const SERVICE: &str = "service";

impl File {
    /// Reads a file that is called `name`, on top of what was read before: later keys win, and
    /// services are added. Whether there is an option for each key is for the caller to say.
    pub fn read(&mut self, name: &str, bytes: &[u8]) -> Result<(), Invalid> {
        let (text, all) = match bytes.utf8_chunks().next() {
            Some(chunk) => (chunk.valid(), chunk.invalid().is_empty()),
            None => ("", true),
        };
        let source = Source {
            file: name.into(),
            text,
        };
        if !all {
            let place = source.place(text.len());
            return Err(Invalid::new(&place, "not UTF-8; save the file as UTF-8"));
        }
        let document = DeTable::parse(text).map_err(|error| {
            let place = source.place(error.span().map_or(text.len(), |span| span.start));
            Invalid::new(&place, format!("not TOML: {}", error.message()))
        })?;
        for (key, value) in document.get_ref() {
            let place = source.place_of(key);
            let table = |what: &str| {
                value.get_ref().as_table().ok_or_else(|| {
                    Invalid::new(&place, format!("`{what}` is not a table; write `[{what}]`"))
                })
            };
            match text_of(key) {
                DEFAULTS => {
                    let given = source.settings(table(DEFAULTS)?)?;
                    self.defaults = over(given, &self.defaults);
                }
                SERVICE => {
                    for (name, value) in table("service.NAME")? {
                        self.service(&source, name, value)?;
                    }
                }
                other => {
                    let message = match table(other) {
                        Ok(_) => format!(
                            "unknown table `{other}`; a file has `[defaults]` and `[service.NAME]`"
                        ),
                        Err(_) => format!(
                            "`{other}` belongs to a table; put it below `[defaults]` or `[service.NAME]`"
                        ),
                    };
                    return Err(Invalid::new(&place, message));
                }
            }
        }
        Ok(())
    }

    fn service<'a>(
        &mut self,
        source: &Source<'_>,
        name: &Spanned<impl Borrow<str>>,
        value: &'a Spanned<DeValue<'a>>,
    ) -> Result<(), Invalid> {
        let place = source.place_of(name);
        let name: &str = text_of(name);
        let wrong = |reason: String| {
            Err(Invalid::new(
                &place,
                format!("`{name}` cannot be the name of a service: {reason}"),
            ))
        };
        if let Err(reason) = name.parse::<UnitName>() {
            return wrong(reason);
        }
        if name.starts_with('.') || name.len() > LONGEST_NAME {
            return wrong(format!(
                "it has at most {LONGEST_NAME} characters and does not begin with a dot"
            ));
        }
        let table = value.get_ref().as_table().ok_or_else(|| {
            let message = format!("`{name}` is not a table; write `[service.{name}]`");
            Invalid::new(&place, message)
        })?;
        let given = source.settings(table)?;
        let settings = match self.services.remove(name) {
            Some((_, before)) => over(given, &before),
            None => given,
        };
        self.services.insert(name.to_owned(), (place, settings));
        Ok(())
    }

    /// The services in the order of their names: where each is, and what is said for it alone.
    pub fn services(&self) -> impl Iterator<Item = (&str, &Place, &Settings)> {
        let services = self.services.iter();
        services.map(|(name, (place, settings))| (name.as_str(), place, settings))
    }
}

/// It is part of a file's name, beside the instance's.
const LONGEST_NAME: usize = 100;

/// A text, to say where in it something is.
struct Source<'a> {
    file: Arc<str>,
    text: &'a str,
}

impl Source<'_> {
    fn place(&self, at: usize) -> Place {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        Place {
            file: self.file.clone(),
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
        }
    }

    fn place_of<T>(&self, item: &Spanned<T>) -> Place {
        self.place(item.span().start)
    }

    fn settings(&self, table: &DeTable<'_>) -> Result<Settings, Invalid> {
        let mut settings = Settings::default();
        for (key, value) in table {
            let origin = Origin::File(self.place_of(key));
            let key = text_of(key);
            let items = match value.get_ref().as_array() {
                Some(items) => items.iter().collect(),
                None => vec![value],
            };
            let mut values = Vec::new();
            for item in items {
                let place = self.place_of(item);
                let text = scalar(item.get_ref()).ok_or_else(|| {
                    let message = format!(
                        "`{key}` takes a string, a number, true or false, or a list of strings"
                    );
                    Invalid::new(&place, message)
                })?;
                if !text.is_empty() {
                    values.push((text, Origin::File(place)));
                }
            }
            settings.insert(key.to_owned(), Setting { origin, values });
        }
        Ok(settings)
    }
}

fn text_of(key: &Spanned<impl Borrow<str>>) -> &str {
    key.get_ref().borrow()
}

/// The value as it would be typed.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .map(|number| number.to_string()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(switch) => Some(switch.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}
