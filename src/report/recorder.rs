//! The record of a service, brought up to date with each event and handed to the writer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::record::{Kind, Record, RecordedState, WaitsFor, Work};
use super::requests::Counts;
use super::state_file::{self, StateWriter};
use super::status::{PACE, Tally, deadline};
use crate::config::ServiceConfig;
use crate::config::busy::Percent;
use crate::core::lifecycle::{self, ClientCounts};
use crate::net::datagram::Dropped;

/// The record of one service.
#[derive(Debug)]
pub struct Recorder {
    record: Record,
    writer: StateWriter,
    /// Something is in the record that is not with the keeper yet; and it is another state.
    changed: bool,
    turned: bool,
    /// When the present state ends, as the record says it.
    deadline: Option<Instant>,
    kept_at: Option<Instant>,
    keep_at: Option<Instant>,
    tally: Tally,
    /// The requests of this process; in the record are those before.
    counts: Option<Arc<Counts>>,
}

impl Recorder {
    /// Goes on with `record`, of this process from now on, for `writer`.
    pub fn open(mut record: Record, writer: StateWriter) -> Self {
        record.begin(state_file::this_process(), state_file::moment());
        // Said anew, if it still is so.
        record.wakes.not_before = None;
        Self {
            record,
            writer,
            changed: true,
            turned: true,
            deadline: None,
            kept_at: None,
            keep_at: None,
            tally: Tally::default(),
            counts: None,
        }
    }

    /// What the service is, and the units that it is.
    pub fn about(&mut self, config: &ServiceConfig) {
        let record = self.change();
        record.service = config.label();
        let units = config.units().iter().map(ToString::to_string);
        record.concerns(units.collect(), config.manager());
        let http = config.admission.http.as_ref();
        record.has_hosts(http.map(|http| &http.hosts[..]));
    }

    /// The record as it is now.
    pub fn record(&self) -> Record {
        let mut record = self.record.clone();
        if let Some(counts) = &self.counts {
            counts.add_to(&mut record.http);
        }
        record.written = state_file::moment().wall;
        record
    }

    /// The record, to be changed.
    pub fn change(&mut self) -> &mut Record {
        self.changed = true;
        &mut self.record
    }

    /// The service is in another state.
    pub fn turn(&mut self, state: lifecycle::State) {
        let state = RecordedState::from(state);
        if self.record.state != state {
            self.change().transition(state, state_file::moment());
            self.deadline = None;
            self.turned = true;
        }
    }

    /// What keeps the service awake now.
    pub fn kept_awake(&mut self, work: &BTreeMap<Work, String>) {
        if self.record.kept_awake != *work {
            self.change().kept_awake.clone_from(work);
        }
    }

    /// What the wake waits for now.
    pub fn waits_for(&mut self, waits_for: Option<&WaitsFor>) {
        if self.record.waits_for.as_ref() != waits_for {
            self.change().waits_for = waits_for.cloned();
        }
    }

    /// What holds the service awake now.
    pub fn held(&mut self, holds: Vec<String>) {
        if self.record.holds != holds {
            self.change().holds = holds;
        }
    }

    /// An order to start is given; so many of the latest ones count.
    pub fn wakes(&mut self, keep: usize) {
        let now = state_file::moment().wall;
        self.change().wakes.order(now, keep);
    }

    /// How long ago the wakes of earlier lives were ordered.
    pub fn earlier_wakes(&self) -> Vec<Duration> {
        self.record.wakes.ages(state_file::moment().wall)
    }

    /// There may be no wake for so long, or there may be one.
    pub fn no_wake_for(&mut self, left: Option<Duration>) {
        let now = state_file::moment().wall;
        let until = left.and_then(|left| now.checked_add(left).ok());
        self.change().wakes.not_before = until;
    }

    /// The service was stopped; with the memory that it took until then, and the CPU without clients.
    pub fn slept(&mut self, freed: Option<u64>, idle: Option<Percent>) {
        let record = self.change();
        record.sleeps += 1;
        record.memory_freed = freed;
        if let Some(cpu) = idle {
            record.idles(cpu);
        }
    }

    /// What is wrong with the service although it works; whether that is news.
    pub fn remark(&mut self, remark: Option<String>) -> bool {
        let is_news = self.record.remark != remark;
        self.record.remark = remark;
        self.changed |= is_news;
        is_news
    }

    /// What is wrong with the service although it works.
    pub fn remarked(&self) -> Option<&str> {
        self.record.remark.as_deref()
    }

    /// Something has failed.
    pub fn failed(&mut self, kind: Kind, why: &str) {
        self.change().fails(kind, why, state_file::moment().wall);
    }

    /// What connections have come to in this process, and where their requests are counted.
    pub fn carried(&mut self, tally: Tally, counts: Option<&Arc<Counts>>) {
        if let Some(counts) = counts {
            self.changed |= counts.have_news();
            self.counts.get_or_insert_with(|| counts.clone());
        }
        let before = std::mem::replace(&mut self.tally, tally);
        let Record {
            clients,
            bytes,
            datagrams_dropped,
            ..
        } = &mut self.record;
        let counts = tally.dropped.iter().zip(&before.dropped);
        for (why, (now, before)) in Dropped::ALL.iter().zip(counts) {
            if now > before {
                *datagrams_dropped.entry(why.name().into()).or_default() += now - before;
            }
        }
        clients.served += tally.served - before.served;
        bytes.up += tally.up - before.up;
        bytes.down += tally.down - before.down;
        clients.ended_idle += tally.idle - before.idle;
        clients.ended_vanished += tally.vanished - before.vanished;
        self.changed |= before != tally;
    }

    /// When there is something to be kept next.
    pub fn next(&self) -> Option<Instant> {
        self.keep_at
    }

    /// Has the record kept if something has changed: another state at once, numbers at most as
    /// often as STATUS= follows them.
    pub fn publish(&mut self, state: lifecycle::State, counts: ClientCounts, now: Instant) {
        // Until when work takes is not known.
        let deadline = deadline(state).filter(|_| self.record.kept_awake.is_empty());
        if deadline != self.deadline {
            let left = deadline.map(|at| at.saturating_duration_since(now));
            self.record.lasts(left, state_file::moment());
            self.deadline = deadline;
            self.changed = true;
        }
        let clients = &mut self.record.clients;
        let here = (counts.connected as u64, counts.waiting as u64);
        self.changed |= here != (clients.active, clients.waiting);
        (clients.active, clients.waiting) = here;

        self.keep_at = None;
        if !self.changed || !self.writer.keeps() {
            return;
        }
        let quiet_until = self.kept_at.map(|at| at + PACE);
        if !self.turned && quiet_until.is_some_and(|at| now < at) {
            self.keep_at = quiet_until;
            return;
        }
        (self.changed, self.turned) = (false, false);
        self.kept_at = Some(now);
        self.counts.iter().for_each(|counts| counts.take_news());
        self.writer.keep(self.record());
    }

    /// The process ends; `asleep` is whether the service is known to be down.
    pub fn close(&mut self, asleep: bool) {
        if asleep {
            self.turn(lifecycle::State::Asleep);
        }
        // Asleep with a process that is gone is asleep as well: nothing needs to be written for that,
        // and no client to wait for it who comes just now.
        if self.changed || self.record.state != RecordedState::Asleep {
            self.record.end(state_file::moment());
            self.writer.keep(self.record());
        }
    }
}

impl From<lifecycle::State> for RecordedState {
    fn from(state: lifecycle::State) -> Self {
        match state {
            lifecycle::State::Asleep => Self::Asleep,
            lifecycle::State::Waking { .. } => Self::Waking,
            lifecycle::State::Awake => Self::Awake,
            lifecycle::State::Cooling { .. } | lifecycle::State::Freezing { .. } => Self::Cooling,
            lifecycle::State::Frozen { .. } | lifecycle::State::Thawing { .. } => Self::Frozen,
            lifecycle::State::Stopping(_) => Self::Stopping,
            lifecycle::State::Failed { .. } => Self::Failed,
        }
    }
}
