//! What the process is called, and where the records of its services are kept.

use std::path::{Path, PathBuf};

use crate::config::ServiceConfig;
use crate::report::record::Record;
use crate::report::recorder::Recorder;
use crate::report::state_file::{self, Closing, StateWriter};
use crate::systemd::unit::{self, Unit};

/// The name of the instance, and its state directory.
#[derive(Clone, Debug)]
pub struct Instance {
    name: String,
    /// The unit that we are, if we are one.
    pub unit: Option<Unit>,
    /// Where records are kept, if they are.
    pub state_dir: Option<PathBuf>,
}

impl Instance {
    /// The instance called `name`, or after its unit, with its records in `state_dir` or where
    /// systemd says. When run by hand, none are kept.
    pub fn new(name: Option<String>, state_dir: Option<PathBuf>) -> Self {
        let unit = unit::own();
        let label = unit.as_ref().map(Unit::label).map(str::to_owned);
        Self {
            name: name.or(label).unwrap_or_else(|| "wakeport".into()),
            unit,
            state_dir: state_dir.or_else(given_by_systemd),
        }
    }

    /// What a service of the instance is called.
    pub fn shown(&self, config: &ServiceConfig) -> String {
        match &config.name {
            Some(service) => format!("{}/{service}", self.name),
            None => self.name.clone(),
        }
    }

    /// The record of a service, and what waits until it is written.
    pub fn recorder(&self, config: &ServiceConfig) -> (Recorder, Closing) {
        let name = self.shown(config);
        let directory = self.state_dir.as_deref();
        let record = directory.map(|directory| state_file::open(directory, &name));
        let start = |directory| StateWriter::start(directory, &name);
        let (writer, closing) = directory.map_or_else(StateWriter::none, start);
        let unit = self.unit.as_ref();
        let record = Record {
            name,
            unit: unit.map(|unit| unit.name.clone()),
            manager: unit.map(|unit| unit.manager).unwrap_or_default(),
            ..record.unwrap_or_default()
        };
        (Recorder::open(record, writer), closing)
    }
}

/// `StateDirectory=` of our unit (systemd.exec(5)); if there are several, the first one.
fn given_by_systemd() -> Option<PathBuf> {
    let given = std::env::var("STATE_DIRECTORY").ok()?;
    let first = Path::new(given.split(':').next()?);
    first.is_absolute().then(|| first.to_owned())
}
