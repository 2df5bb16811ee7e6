//! What is known of an instance over all its lives: the file that outlives the process, and how
//! each event changes it. Pure: neither clock nor file is touched here.
//!
//! The text form is JSON with a version in it. Fields that are not known are left alone, fields
//! that are missing have their empty value; a version that is not known is not read at all.

mod wakes;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::util::text::one_line;
pub use wakes::{Bucket, Wakes};

/// The version that is written, and the newest that is read.
pub const VERSION: u32 = 1;

/// Nobody counts that far: with more, sums would not fit, and the metrics would not be exact.
const MOST: u64 = 1 << 53;

/// No clock that is set shows a time before this program was written.
const CLOCK_IS_SET: Timestamp = Timestamp::constant(1_735_689_600, 0); // 2025-01-01

/// All that is known of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// [`VERSION`] of the one who wrote it.
    pub version: u32,
    /// What the instance is called: `nginx`.
    pub name: String,
    /// Its own unit, if a manager runs it: `wakeport@nginx.service`.
    pub unit: Option<String>,
    /// Whose manager that is.
    pub manager: Owner,
    /// What sleeps, in words.
    pub service: String,
    /// The units that sleep, if it is units.
    pub units: Vec<String>,
    /// Whose manager starts and stops those.
    pub units_manager: Owner,
    /// Who runs it, while it runs.
    pub process: Option<Process>,
    /// What the service does.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// Until when, where that is known: when a cooldown or a back-off is over.
    pub until: Option<Timestamp>,
    /// When counting began.
    pub first_seen: Timestamp,
    /// When this was written.
    pub written: Timestamp,
    /// Who came.
    pub clients: Clients,
    /// What the connections that have ended have carried.
    pub bytes: Bytes,
    /// How often the service was woken, and how long that took.
    pub wakes: Wakes,
    /// How often it was put to sleep.
    pub sleeps: u64,
    /// Seconds in each state, the present stretch not counted.
    pub seconds: BTreeMap<State, f64>,
    /// What the units took just before they were last put to sleep, in bytes.
    pub memory_freed: Option<u64>,
    /// What has failed, and how often.
    pub failures: BTreeMap<Kind, u64>,
    /// The last time that something failed.
    pub last_failure: Option<Mishap>,
}

/// Whose service manager.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// The system's.
    #[default]
    System,
    /// The user's.
    User,
}

/// The process that wrote a record. Its times tell how long the present stretch lasts whatever
/// becomes of the wall clock meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it began, as proc(5) has it: in clock ticks since boot. With the number it is unique.
    pub started_ticks: u64,
    /// [`Record::since`] on the monotonic clock, in seconds, if that was in this life.
    pub since_monotonic: Option<f64>,
    /// [`Record::until`] on the same clock.
    pub until_monotonic: Option<f64>,
}

/// What a service does.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Down.
    #[default]
    Asleep,
    /// On its way up.
    Waking,
    /// Up, and somebody is here.
    Awake,
    /// Up, and nobody is here.
    Cooling,
    /// On its way down.
    Stopping,
    /// It could not be woken; clients are turned away.
    Failed,
    /// wakeport was ended while the service was up: it may run, and nobody puts it to sleep until
    /// the next client comes.
    Unattended,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Asleep,
        Self::Waking,
        Self::Awake,
        Self::Cooling,
        Self::Stopping,
        Self::Failed,
        Self::Unattended,
    ];

    /// Its name, as in the journal's `WAKEPORT_STATE`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Asleep => "asleep",
            Self::Waking => "waking",
            Self::Awake => "awake",
            Self::Cooling => "cooling",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
            Self::Unattended => "unattended",
        }
    }
}

/// Who came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Clients {
    /// Here, and let through.
    pub active: u64,
    /// Here, and waiting for the service.
    pub waiting: u64,
    /// Let through so far.
    pub served: u64,
    /// Turned away because the service could not be woken.
    pub refused_failed: u64,
    /// Turned away because just their target was silent.
    pub refused_silent: u64,
    /// Turned away because the service was woken too often.
    pub refused_rate: u64,
    /// Turned away because of where they come from.
    pub refused_address: u64,
    /// Gone while they waited.
    pub gave_up: u64,
    /// Ended because they moved no byte for too long.
    pub ended_idle: u64,
    /// Ended because a peer had vanished.
    pub ended_vanished: u64,
}

/// What was carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bytes {
    /// From clients to the service.
    pub up: u64,
    /// From the service to clients.
    pub down: u64,
}

/// What can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The order to start failed.
    Start,
    /// The service has started, but did not answer in time.
    Timeout,
    /// The service went down before it answered.
    Died,
    /// The order to stop failed.
    Stop,
    /// The service was up, but one of its targets did not answer.
    Silent,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Start,
        Self::Timeout,
        Self::Died,
        Self::Stop,
        Self::Silent,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Timeout => "timeout",
            Self::Died => "died",
            Self::Stop => "stop",
            Self::Silent => "silent",
        }
    }
}

/// Something that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mishap {
    /// What.
    pub kind: Kind,
    /// When.
    pub at: Timestamp,
    /// In words.
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

/// Why a text is no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each variant's message says what it is")]
pub enum Unreadable {
    #[error("it is damaged ({0})")]
    Damaged(String),
    #[error("it is of version {0}, from a newer wakeport; this one reads up to {VERSION}")]
    Newer(u32),
}

impl Default for Record {
    fn default() -> Self {
        Self {
            version: VERSION,
            name: String::new(),
            unit: None,
            manager: Owner::System,
            service: String::new(),
            units: Vec::new(),
            units_manager: Owner::System,
            process: None,
            state: State::Asleep,
            since: Timestamp::UNIX_EPOCH,
            until: None,
            first_seen: Timestamp::UNIX_EPOCH,
            written: Timestamp::UNIX_EPOCH,
            clients: Clients::default(),
            bytes: Bytes::default(),
            wakes: Wakes::default(),
            sleeps: 0,
            seconds: BTreeMap::new(),
            memory_freed: None,
            failures: BTreeMap::new(),
            last_failure: None,
        }
    }
}

// -- the text

impl Record {
    /// Reads what [`Record::to_text`] has written, now or with an earlier version.
    pub fn from_text(text: &str) -> Result<Self, Unreadable> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        // What it quotes may hold anything.
        let damaged = |error: serde_json::Error| Unreadable::Damaged(one_line(&error.to_string()));
        let Versioned { version } = serde_json::from_str(text).map_err(damaged)?;
        if version > VERSION {
            return Err(Unreadable::Newer(version));
        }
        let mut record: Self = serde_json::from_str(text).map_err(damaged)?;
        record.mend();
        Ok(record)
    }

    /// Puts right what somebody else has written.
    fn mend(&mut self) {
        self.wakes.mend();
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
        // Nothing in it is a map with keys that are no strings, the only thing that can fail.
        text.unwrap_or_default() + "\n"
    }
}

// -- how events change it

impl Record {
    /// A process begins, whose first state is asleep, whatever was before.
    pub fn begin(&mut self, process: Process, now: Moment) {
        if self.first_seen == Timestamp::UNIX_EPOCH {
            (self.first_seen, self.since) = (now.wall, now.wall);
        }
        let before = self.state;
        if !self.rests() {
            // Whoever kept it was ended; what happened then, nobody knows.
            self.spend(before, gap(self.since, self.written));
            self.spend(State::Unattended, gap(self.written, now.wall));
            self.since = now.wall;
        } else if before != State::Asleep {
            self.spend(before, gap(self.since, now.wall));
            self.since = now.wall;
        }
        (self.version, self.state, self.until) = (VERSION, State::Asleep, None);
        (self.clients.active, self.clients.waiting) = (0, 0);
        self.process = Some(process);
    }

    /// The state is another one now.
    pub fn turn(&mut self, state: State, now: Moment) {
        let lasted = self.lasted(now);
        self.spend(self.state, lasted);
        (self.state, self.since, self.until) = (state, now.wall, None);
        if let Some(process) = &mut self.process {
            process.since_monotonic = Some(now.monotonic);
            process.until_monotonic = None;
        }
    }

    /// The state is over in so long a time, if nothing happens first.
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
        self.last_failure = Some(Mishap { kind, at, why });
    }

    /// The process ends, in order.
    pub fn end(&mut self, now: Moment) {
        if !matches!(self.state, State::Asleep | State::Failed) {
            self.turn(State::Unattended, now);
        }
        self.until = None;
        self.process = None;
        (self.clients.active, self.clients.waiting) = (0, 0);
    }

    fn spend(&mut self, state: State, seconds: f64) {
        *self.seconds.entry(state).or_default() += seconds;
    }
}

// -- what it tells

impl Record {
    /// What the service does, as far as the record knows; `alive` is whether its process runs.
    pub fn state(&self, alive: bool) -> State {
        if alive || self.rests() {
            self.state
        } else {
            State::Unattended
        }
    }

    /// Since when it does that.
    pub fn since(&self, alive: bool) -> Timestamp {
        if self.state(alive) == self.state {
            self.since
        } else {
            self.written
        }
    }

    /// For how many seconds the present stretch has lasted.
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

    /// Seconds in each state, the present stretch included.
    pub fn seconds(&self, alive: bool, now: Moment) -> BTreeMap<State, f64> {
        let mut seconds: BTreeMap<_, _> = State::ALL.map(|state| (state, 0.0)).into();
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
        let (asleep, all) = (seconds[&State::Asleep], seconds.values().sum::<f64>());
        (all > 0.0).then(|| asleep / all)
    }

    /// Whether the state goes on without a process.
    fn rests(&self) -> bool {
        match self.state {
            State::Asleep | State::Unattended => true,
            State::Failed => self.process.is_none(),
            State::Waking | State::Awake | State::Cooling | State::Stopping => false,
        }
    }

    /// How long the present stretch has lasted for a process that runs.
    fn lasted(&self, now: Moment) -> f64 {
        match self.process.and_then(|process| process.since_monotonic) {
            Some(since) => (now.monotonic - since).max(0.0),
            None => gap(self.since, now.wall),
        }
    }
}

/// Seconds from one time to a later one. A clock that was set back, or not set at all, counts for
/// nothing.
fn gap(from: Timestamp, to: Timestamp) -> f64 {
    if from < CLOCK_IS_SET || to < CLOCK_IS_SET {
        return 0.0;
    }
    to.duration_since(from).as_secs_f64().max(0.0)
}

#[cfg(test)]
mod tests;
