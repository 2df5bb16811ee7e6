//! The record of an instance over all its lives, and how each event changes it. Pure: neither clock
//! nor file is touched here.
//!
//! The text form is JSON with a version. Unknown fields are ignored, missing ones are empty; a
//! newer version is refused.

pub mod http;
pub(super) mod wakes;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::Manager;
use crate::config::busy::Percent;
use crate::config::host::{HostPattern, PathPrefix};
use crate::util::text::one_line;
use http::Http;
pub use wakes::{Bucket, Wakes};

/// The version that is written, and the newest that is read.
pub const VERSION: u32 = 1;

/// With larger counts sums would not fit, and the metrics would not be exact.
const MOST: u64 = 1 << 53;

/// So many of the latest stops tell what the units use when idle.
const RECENT: usize = 15;

/// A clock before this program was written is not set.
const CLOCK_IS_SET: Timestamp = Timestamp::constant(1_735_689_600, 0); // 2025-01-01

/// An enumeration whose variants have one name each: in the record, the metrics and the journal.
macro_rules! named {
    ($(#[$of_all:meta])* pub enum $Enum:ident {
        $($(#[$of_one:meta])* $Variant:ident = $name:literal,)*
    }) => {
        $(#[$of_all])*
        pub enum $Enum {
            $($(#[$of_one])* #[serde(rename = $name)] $Variant,)*
        }

        impl $Enum {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$Variant),*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$Variant => $name,)*
                }
            }
        }
    };
}

/// The record of an instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// The instance's name: `nginx`.
    pub name: String,
    /// Its own unit, if a manager runs it: `wakeport@nginx.service`.
    pub unit: Option<String>,
    /// Whose manager that is.
    pub manager: Manager,
    /// The service that sleeps, in words.
    pub service: String,
    /// The units that sleep, if it is units.
    pub units: Vec<String>,
    /// Whose manager starts and stops those.
    pub units_manager: Manager,
    /// The process that serves it, while there is one.
    pub process: Option<Process>,
    /// The service's state.
    pub state: RecordedState,
    /// Since when.
    pub since: Timestamp,
    /// Until when, where that is known: when a cooldown or a back-off is over.
    pub until: Option<Timestamp>,
    /// What keeps it awake although no client is here, and why.
    pub kept_awake: BTreeMap<Work, String>,
    /// What it waits for while it is being woken, where that is known.
    pub waits_for: Option<WaitsFor>,
    /// Why it is held awake, for each hold.
    pub holds: Vec<String>,
    /// When counting began.
    pub first_seen: Timestamp,
    /// When this was written.
    pub written: Timestamp,
    /// The clients.
    pub clients: Clients,
    /// The bytes relayed by connections that have ended.
    pub bytes: Bytes,
    /// The datagrams that were not passed on, by reason.
    pub datagrams_dropped: BTreeMap<String, u64>,
    /// The requests, if it speaks HTTP.
    pub http: Option<Http>,
    /// The wakes, and how long they took.
    pub wakes: Wakes,
    /// The thaws for clients, and how long it took from each to the first answer.
    pub thaws: Wakes,
    /// How often it was stopped.
    pub sleeps: u64,
    /// Seconds in each state, the present one not counted.
    pub seconds: BTreeMap<RecordedState, f64>,
    /// The memory of the units just before they were last stopped, in bytes.
    pub memory_freed: Option<u64>,
    /// The CPU that the units used before each of the latest stops, without clients or other work:
    /// what `--busy-cpu` would have been compared with.
    pub idle_cpu: Vec<Percent>,
    /// What has failed, and how often.
    pub failures: BTreeMap<Kind, u64>,
    /// The last time that something failed.
    pub last_failure: Option<LastFailure>,
    /// What is wrong although it works.
    pub remark: Option<String>,
}

/// The process that wrote a record. Its times tell how long the present state lasts, whatever
/// becomes of the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Its ID.
    pub pid: u32,
    /// When it began, in clock ticks since boot (proc(5)); unique together with the ID.
    pub started_ticks: u64,
    /// [`Record::since`] on the monotonic clock, in seconds, if that was in this life.
    pub since_monotonic: Option<f64>,
    /// [`Record::until`] on the same clock.
    pub until_monotonic: Option<f64>,
}

named! {
    /// The state of a service.
    #[derive(
        Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
    )]
    pub enum RecordedState {
        /// Down.
        #[default]
        Asleep = "asleep",
        /// Being started.
        Waking = "waking",
        /// Up, with clients.
        Awake = "awake",
        /// Up, without clients.
        Cooling = "cooling",
        /// Up, and frozen.
        Frozen = "frozen",
        /// Being stopped.
        Stopping = "stopping",
        /// It could not be woken; clients are rejected.
        Failed = "failed",
        /// wakeport was stopped while the service was up: it may run, and is not stopped until the next
        /// client comes.
        Unattended = "unattended",
    }
}

/// What a wake waits for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WaitsFor {
    /// One word: `ImagePullBackOff`.
    pub reason: String,
    /// One line for people.
    pub why: String,
}

named! {
    /// Work that is not that of a client of ours.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    pub enum Work {
        /// Connections that bypass wakeport.
        Direct = "direct",
        /// Units that would be stopped along.
        Units = "units",
        /// The busy hook objects.
        Hook = "hook",
        /// It uses CPU.
        Cpu = "cpu",
        /// It reads and writes.
        Io = "io",
        /// It sends and receives.
        Net = "net",
    }
}

impl Work {
    /// All that keeps a service awake, in words.
    pub fn told(work: &BTreeMap<Self, String>) -> String {
        work.values().cloned().collect::<Vec<_>>().join("; ")
    }
}

/// Counts of clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Clients {
    /// Connected, and admitted.
    pub active: u64,
    /// Connected, and waiting for the service.
    pub waiting: u64,
    /// Admitted so far.
    pub served: u64,
    /// Rejected because the service could not be woken.
    pub refused_failed: u64,
    /// Rejected because just their target was unreachable.
    pub refused_silent: u64,
    /// Rejected because the service was woken too often.
    pub refused_rate: u64,
    /// Denied because of their address.
    pub refused_address: u64,
    /// Left while they waited.
    pub gave_up: u64,
    /// Closed as idle.
    pub ended_idle: u64,
    /// Closed because a peer timed out.
    pub ended_vanished: u64,
}

/// Bytes relayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bytes {
    /// From clients to the service.
    pub up: u64,
    /// From the service to clients.
    pub down: u64,
}

named! {
    /// What can fail.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    pub enum Kind {
        /// The order to start failed.
        Start = "start",
        /// The service has started, but did not answer in time.
        Timeout = "timeout",
        /// The service stopped before it answered.
        Died = "died",
        /// The order to stop failed.
        Stop = "stop",
        /// The order to freeze failed.
        Freeze = "freeze",
        /// The order to thaw failed.
        Thaw = "thaw",
        /// The service was up, but one of its targets did not answer.
        Silent = "silent",
    }
}

/// The latest failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastFailure {
    /// What.
    pub kind: Kind,
    /// When.
    pub at: Timestamp,
    /// Its cause, in words.
    pub why: String,
}

/// A moment, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// For what outlives the process.
    pub wall: Timestamp,
    /// CLOCK_MONOTONIC in seconds, for spans within a life.
    pub monotonic: f64,
}

// -- the text

impl Record {
    /// Reads what [`Record::to_text`] of this or an earlier version has written; an error is one
    /// line.
    pub fn from_text(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        // What it quotes may hold anything.
        let damaged =
            |error: serde_json::Error| format!("it is damaged ({})", one_line(&error.to_string()));
        let Versioned { version } = serde_json::from_str(text).map_err(damaged)?;
        if version > VERSION {
            return Err(format!(
                "it is of version {version}, from a newer wakeport; this one reads up to {VERSION}"
            ));
        }
        let mut record: Self = serde_json::from_str(text).map_err(damaged)?;
        record.mend();
        Ok(record)
    }

    /// Limits what the file may hold to what can be counted with.
    fn mend(&mut self) {
        self.wakes.mend();
        self.thaws.mend();
        self.http.iter_mut().for_each(Http::mend);
        self.seconds.retain(|_, seconds| *seconds >= 0.0);
        let (clients, bytes) = (&mut self.clients, &mut self.bytes);
        let counts = [
            &mut clients.active,
            &mut clients.waiting,
            &mut clients.served,
            &mut clients.refused_failed,
            &mut clients.refused_silent,
            &mut clients.refused_rate,
            &mut clients.refused_address,
            &mut clients.gave_up,
            &mut clients.ended_idle,
            &mut clients.ended_vanished,
            &mut bytes.up,
            &mut bytes.down,
            &mut self.sleeps,
        ];
        for count in counts.into_iter().chain(self.failures.values_mut()) {
            *count = (*count).min(MOST);
        }
    }

    /// The record as text.
    pub fn to_text(&self) -> String {
        let text = serde_json::to_string_pretty(self);
        // Fails only for maps whose keys are not strings.
        text.unwrap_or_default() + "\n"
    }
}

// -- how events change it

impl Record {
    /// A process starts. Its first state is asleep, whatever was before.
    pub fn begin(&mut self, process: Process, now: Moment) {
        if self.first_seen == Timestamp::UNIX_EPOCH {
            (self.first_seen, self.since) = (now.wall, now.wall);
        }
        let before = self.state;
        if !self.rests() {
            // The process before was killed; what happened since is unknown.
            self.spend(before, gap(self.since, self.written));
            self.spend(RecordedState::Unattended, gap(self.written, now.wall));
            self.since = now.wall;
        } else if before != RecordedState::Asleep {
            self.spend(before, gap(self.since, now.wall));
            self.since = now.wall;
        }
        (self.version, self.state, self.until) = (VERSION, RecordedState::Asleep, None);
        self.kept_awake.clear();
        self.waits_for = None;
        self.leave();
        self.process = Some(process);
    }

    /// The state changes.
    pub fn transition(&mut self, state: RecordedState, now: Moment) {
        let lasted = self.lasted(now);
        self.spend(self.state, lasted);
        (self.state, self.since, self.until) = (state, now.wall, None);
        self.kept_awake.clear();
        self.waits_for = None;
        if let Some(process) = &mut self.process {
            process.since_monotonic = Some(now.monotonic);
            process.until_monotonic = None;
        }
    }

    /// When the state ends by itself.
    pub fn lasts(&mut self, left: Option<Duration>, now: Moment) {
        self.until = left.and_then(|left| now.wall.checked_add(left).ok());
        if let Some(process) = &mut self.process {
            process.until_monotonic = left.map(|left| now.monotonic + left.as_secs_f64());
        }
    }

    /// Something failed.
    pub fn fails(&mut self, kind: Kind, why: &str, at: Timestamp) {
        *self.failures.entry(kind).or_default() += 1;
        let why = why.chars().take(500).collect();
        self.last_failure = Some(LastFailure { kind, at, why });
    }

    /// It is about these units from now on. What others have used when idle says nothing about them.
    pub fn concerns(&mut self, units: Vec<String>, manager: Manager) {
        if (&self.units, self.units_manager) != (&units, manager) {
            self.idle_cpu.clear();
        }
        (self.units, self.units_manager) = (units, manager);
    }

    /// The units are stopped, and have used so much CPU before, without clients.
    pub fn idles(&mut self, cpu: Percent) {
        self.idle_cpu.push(cpu);
        let surplus = self.idle_cpu.len().saturating_sub(RECENT);
        self.idle_cpu.drain(..surplus);
    }

    /// The process exits.
    pub fn end(&mut self, now: Moment) {
        if !matches!(self.state, RecordedState::Asleep | RecordedState::Failed) {
            self.transition(RecordedState::Unattended, now);
        }
        self.until = None;
        self.process = None;
        self.leave();
    }

    /// Nothing is open any more.
    fn leave(&mut self) {
        (self.clients.active, self.clients.waiting) = (0, 0);
        self.holds.clear();
        self.http.iter_mut().for_each(Http::end);
    }

    /// It has these hosts from now on, if it speaks HTTP. What is counted of others is dropped.
    pub fn has_hosts(&mut self, hosts: Option<&[(HostPattern, PathPrefix)]>) {
        let Some(hosts) = hosts else {
            self.http = None;
            return;
        };
        let hosts: Vec<String> = hosts.iter().map(|(host, _)| host.to_string()).collect();
        if let Some(http) = &mut self.http {
            http.hosts.retain(|host, _| hosts.contains(host));
        }
    }

    fn spend(&mut self, state: RecordedState, seconds: f64) {
        *self.seconds.entry(state).or_default() += seconds;
    }
}

// -- what it tells

impl Record {
    /// The state, as far as the record knows; `alive` is whether its process runs.
    pub fn state(&self, alive: bool) -> RecordedState {
        if alive || self.rests() {
            self.state
        } else {
            RecordedState::Unattended
        }
    }

    /// Since when it is in that state.
    pub fn since(&self, alive: bool) -> Timestamp {
        if self.state(alive) == self.state {
            self.since
        } else {
            self.written
        }
    }

    /// For how many seconds the present state has lasted.
    pub fn stretch(&self, alive: bool, now: Moment) -> f64 {
        match alive {
            true => self.lasted(now),
            false => gap(self.since(alive), now.wall),
        }
    }

    /// How many seconds are left of it.
    pub fn left(&self, alive: bool, now: Moment) -> Option<f64> {
        let until = self.process.filter(|_| alive)?.until_monotonic?;
        Some((until - now.monotonic).max(0.0))
    }

    /// Seconds in each state, the present one included.
    pub fn seconds(&self, alive: bool, now: Moment) -> BTreeMap<RecordedState, f64> {
        let mut seconds: BTreeMap<_, _> = RecordedState::ALL
            .iter()
            .map(|state| (*state, 0.0))
            .collect();
        for (state, spent) in &self.seconds {
            seconds.insert(*state, *spent);
        }
        let state = self.state(alive);
        if state != self.state {
            *seconds.entry(self.state).or_default() += gap(self.since, self.written);
        }
        *seconds.entry(state).or_default() += self.stretch(alive, now);
        seconds
    }

    /// The share of the time asleep, from 0 to 1.
    pub fn share_asleep(&self, alive: bool, now: Moment) -> Option<f64> {
        let seconds = self.seconds(alive, now);
        let (asleep, all) = (
            seconds[&RecordedState::Asleep],
            seconds.values().sum::<f64>(),
        );
        (all > 0.0).then(|| asleep / all)
    }

    /// What the units use when idle: the median, since in some cooldowns they were at work, which
    /// says nothing about the others.
    pub fn usual_idle_cpu(&self) -> Option<Percent> {
        let mut sorted = self.idle_cpu.clone();
        sorted.sort();
        sorted.get(sorted.len() / 2).copied()
    }

    /// Whether the state goes on without a process.
    fn rests(&self) -> bool {
        match self.state {
            RecordedState::Asleep | RecordedState::Unattended => true,
            RecordedState::Failed => self.process.is_none(),
            RecordedState::Waking
            | RecordedState::Awake
            | RecordedState::Cooling
            | RecordedState::Frozen
            | RecordedState::Stopping => false,
        }
    }

    /// How long the present state has lasted for a process that runs.
    fn lasted(&self, now: Moment) -> f64 {
        match self.process.and_then(|process| process.since_monotonic) {
            Some(since) => (now.monotonic - since).max(0.0),
            None => gap(self.since, now.wall),
        }
    }
}

/// Seconds from one time to a later one; zero with a clock that was set back, or not set at all.
fn gap(from: Timestamp, to: Timestamp) -> f64 {
    if from < CLOCK_IS_SET || to < CLOCK_IS_SET {
        return 0.0;
    }
    to.duration_since(from).as_secs_f64().max(0.0)
}

#[cfg(test)]
mod tests;
