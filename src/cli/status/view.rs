//! What there is to show of an instance, from its record and what its manager says. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::admin::instance_name;
use crate::admin::machine::inventory::{self, Inventory, Socket};
use crate::config::{Manager, UnitName};
use crate::report::record::http::Http;
use crate::report::record::{
    Bytes, Clients, Kind, LastFailure, Moment, Record, RecordedState, WaitsFor, Work,
};

/// One instance, as `--json` prints it. docs/observing.md says what the fields mean.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct View {
    pub(super) name: String,
    pub(super) manager: Manager,
    pub(super) unit: Option<String>,
    /// Not known where no manager answers.
    pub(super) sockets: Option<Vec<Socket>>,
    pub(super) service: Option<String>,
    pub(super) units: Vec<String>,
    /// Not known where wakeport runs and keeps no record.
    pub(super) state: Option<RecordedState>,
    pub(super) since: Option<Timestamp>,
    pub(super) for_seconds: Option<f64>,
    pub(super) left_seconds: Option<f64>,
    pub(super) kept_awake: BTreeMap<Work, String>,
    pub(super) waits_for: Option<WaitsFor>,
    pub(super) holds: Vec<String>,
    pub(super) clients: Clients,
    pub(super) bytes: Bytes,
    /// Datagrams that were not passed on, by reason.
    pub(super) datagrams_dropped: BTreeMap<String, u64>,
    /// Only where it speaks HTTP.
    pub(super) http: Option<Http>,
    pub(super) wakes: Wakes,
    pub(super) thaws: Thaws,
    pub(super) sleeps: u64,
    pub(super) asleep_share: Option<f64>,
    pub(super) memory_freed_bytes: Option<u64>,
    pub(super) failures: BTreeMap<Kind, u64>,
    pub(super) last_failure: Option<LastFailure>,
    pub(super) remark: Option<String>,
    pub(super) counting_since: Option<Timestamp>,
}

/// How long wakes took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Wakes {
    pub(super) total: u64,
    pub(super) median_seconds: Option<f64>,
    pub(super) last_seconds: Option<f64>,
    /// Until when there is none, by `--wake-rate`.
    pub(super) not_before: Option<Timestamp>,
}

/// How long it took from thaws to the first answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Thaws {
    pub(super) total: u64,
    pub(super) median_seconds: Option<f64>,
    pub(super) last_seconds: Option<f64>,
}

impl View {
    /// An instance that has a record; `alive` is whether its process runs.
    pub(super) fn of(
        record: &Record,
        alive: bool,
        inventory: Option<&Inventory>,
        now: Moment,
    ) -> Self {
        let mut state = record.state(alive);
        if state == RecordedState::Unattended
            && inventory.is_some_and(|inventory| all_down(record, inventory))
        {
            state = RecordedState::Asleep;
        }
        let sockets = inventory
            .zip(record.unit.as_ref())
            .map(|(inventory, unit)| {
                let service = inventory.services.get(unit);
                service.map_or_else(Vec::new, |service| service.sockets.clone())
            });
        let (mut clients, mut kept_awake) = (record.clients, record.kept_awake.clone());
        let (mut http, mut holds) = (record.http.clone(), record.holds.clone());
        if !alive {
            holds.clear();
            (clients.active, clients.waiting) = (0, 0);
            http.iter_mut().for_each(Http::end);
            kept_awake.clear();
        }
        Self {
            name: record.name.clone(),
            manager: record.manager,
            unit: record.unit.clone(),
            sockets,
            service: Some(record.service.clone()),
            units: record.units.clone(),
            state: Some(state),
            since: Some(record.since(alive)),
            for_seconds: Some(record.stretch(alive, now)),
            left_seconds: record.left(alive, now),
            kept_awake,
            waits_for: record.waits_for.clone().filter(|_| alive),
            holds,
            clients,
            bytes: record.bytes,
            datagrams_dropped: record.datagrams_dropped.clone(),
            http,
            wakes: Wakes {
                total: record.wakes.total,
                median_seconds: record.wakes.median(),
                last_seconds: record.wakes.last(),
                not_before: record.wakes.not_before.filter(|at| *at > now.wall),
            },
            thaws: Thaws {
                total: record.thaws.total,
                median_seconds: record.thaws.median(),
                last_seconds: record.thaws.last(),
            },
            sleeps: record.sleeps,
            asleep_share: record.share_asleep(alive, now),
            memory_freed_bytes: record.memory_freed,
            failures: record.failures.clone(),
            last_failure: record.last_failure.clone(),
            remark: record.remark.clone(),
            counting_since: Some(record.first_seen),
        }
    }

    /// An instance that only its manager knows: it had no client yet, or keeps no record.
    pub(super) fn unknown(unit: &str, manager: Manager, service: &inventory::Service) -> Self {
        Self {
            name: instance_name(unit).to_owned(),
            manager,
            unit: Some(unit.to_owned()),
            sockets: Some(service.sockets.clone()),
            state: (!service.active).then_some(RecordedState::Asleep),
            ..Self::default()
        }
    }

    /// The same for one of several services, which wakes these units.
    pub(super) fn of_service(self, name: &str, units: &[UnitName]) -> Self {
        Self {
            name: format!("{}/{name}", self.name),
            units: units.iter().map(ToString::to_string).collect(),
            ..self
        }
    }

    /// Whether `word` names this instance.
    pub(super) fn answers_to(&self, word: &str) -> bool {
        let sockets = self.sockets.iter().flatten().map(|socket| &socket.unit);
        let units = self.unit.iter().chain(&self.units).chain(sockets);
        let service = format!("{word}.service");
        let instance = self.name.split('/').next();
        self.name == word
            || instance == Some(word)
            || units
                .into_iter()
                .any(|unit| *unit == word || *unit == service)
    }
}

/// Whether a service is down although its last instance was killed.
fn all_down(record: &Record, inventory: &Inventory) -> bool {
    let down = |unit| {
        let state = inventory.units.get(unit);
        state.is_some_and(|state| state == "inactive" || state == "failed")
    };
    !record.units.is_empty() && record.units.iter().all(down)
}
