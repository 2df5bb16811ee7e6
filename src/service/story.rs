//! What the driver says: one log line per change of state, a STATUS= that is always true, and what
//! goes into the books.

use std::cell::OnceCell;
use std::time::{Duration, Instant, SystemTime};

use super::Traffic;
use super::books::Recorder;
use super::door::{Door, Waiter};
use crate::config::address::Peer;
use crate::config::{WakeRate, span};
use crate::core::lifecycle::{ClientCounts, Event, State, Stop};
use crate::report::record::{Kind, Record};
use crate::systemd::message_id as message;
use crate::systemd::notify::Notifier;

/// What has happened so far, as far as it is told.
#[derive(Debug)]
pub struct Reporter {
    service: String,
    notifier: Notifier,
    books: Recorder,
    watchdog: Option<Duration>,
    fed_at: Option<Instant>,
    /// The last STATUS=, when it was said, and when the next word is due.
    status: String,
    state: Option<State>,
    said_at: Option<Instant>,
    say_at: Option<Instant>,
    /// When this process began, its time of day, and what it has served since.
    began: SystemTime,
    since: OnceCell<String>,
    served: u64,
    traffic: Traffic,
    woken_at: Option<Instant>,
    /// What was served before the last wake, and when that was.
    round: (u64, SystemTime),
    /// Since that wake, it was told that everybody has left.
    cooled: bool,
    why: Option<String>,
    blind: bool,
    /// Until when there is no wake, and for which such time it was said that clients are turned away.
    no_wake: Option<NoWake>,
    rationed: Option<Instant>,
    /// It was said that somebody comes from the wrong network.
    barred: bool,
}

/// For a while there is no wake.
#[derive(Debug)]
struct NoWake {
    until: Instant,
    /// What the clock shows then. Only when somebody asks: see [`time_of_day`].
    words: OnceCell<String>,
}

impl NoWake {
    fn words(&self, now: Instant) -> &str {
        let left = self.until.saturating_duration_since(now);
        self.words.get_or_init(|| in_so_long(left))
    }
}

/// STATUS= follows the numbers at most that often: each one is a message to PID 1.
pub(super) const PACE: Duration = Duration::from_secs(1);

impl Reporter {
    /// The story of `service`, written down in `books` and told to `notifier`, which wants a sign
    /// of life every `watchdog`.
    pub fn new(
        service: String,
        notifier: Notifier,
        books: Recorder,
        watchdog: Option<Duration>,
    ) -> Self {
        Self {
            service,
            notifier,
            books,
            watchdog,
            fed_at: None,
            status: String::new(),
            state: None,
            said_at: None,
            say_at: None,
            began: SystemTime::now(),
            since: OnceCell::new(),
            round: (0, SystemTime::now()),
            cooled: false,
            served: 0,
            traffic: Traffic::default(),
            woken_at: None,
            why: None,
            blind: false,
            no_wake: None,
            rationed: None,
            barred: false,
        }
    }

    // -- the log

    /// A change of state; `first` has waited longest.
    pub(super) fn turn(
        &mut self,
        event: Event,
        before: State,
        after: State,
        first: Option<&Waiter>,
        now: Instant,
    ) {
        self.books.turn(after);
        let service = self.service.as_str();
        let unit = service;
        match (before, after) {
            (State::Waking { .. }, State::Waking { .. })
            | (State::Stopping(_), State::Stopping(_))
            | (State::Failed { .. }, State::Failed { .. }) => (),
            (_, State::Waking { .. }) => {
                self.woken_at = Some(now);
                self.round = (self.served, SystemTime::now());
                self.cooled = false;
                self.why = None;
                let client = first.map(|first| first.peer.to_string());
                let whom = match first.map(|first| first.peer) {
                    Some(Peer::Unix) => "a client of a Unix socket",
                    Some(Peer::Tcp(_)) => client.as_deref().unwrap_or_default(),
                    None => "a client",
                };
                tracing::info!(
                    message_id = message::WAKING,
                    state = "waking",
                    unit,
                    client = client.as_deref(),
                    "waking {service} for {whom}"
                );
            }
            (State::Waking { .. }, State::Awake | State::Cooling { .. }) => {
                let took = self.woken_at.map_or(Duration::ZERO, |at| now - at);
                self.books.woke(took);
                tracing::info!(
                    message_id = message::AWAKE,
                    state = name(after),
                    unit,
                    wake_usec = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                    "{service} answers after {}",
                    precise(took)
                );
            }
            // A visitor now and then is no news; how many there were is told in the end.
            (State::Cooling { .. }, State::Awake) => {
                tracing::debug!(
                    message_id = message::AWAKE,
                    state = "awake",
                    unit,
                    "{service} is in use again"
                );
            }
            (State::Awake, State::Cooling { sleep_at }) => {
                let Traffic { up, down, .. } = self.traffic;
                macro_rules! tell {
                    ($level:ident) => {
                        tracing::$level!(
                            message_id = message::COOLING,
                            state = "cooling",
                            unit,
                            bytes_up = up,
                            bytes_down = down,
                            "the last client of {service} has left; it {}",
                            sleeps(sleep_at, now)
                        )
                    };
                }
                if std::mem::replace(&mut self.cooled, true) {
                    tell!(debug);
                } else {
                    tell!(info);
                }
            }
            (_, State::Cooling { sleep_at }) => {
                let failed = matches!(event, Event::SleepFailed(_));
                let why = if failed {
                    "could not be stopped"
                } else {
                    "runs already"
                };
                tracing::info!(
                    message_id = message::COOLING,
                    state = "cooling",
                    unit,
                    "{service} {why} and nobody uses it; it {}",
                    sleeps(sleep_at, now)
                );
            }
            (_, State::Awake) => {
                tracing::info!(
                    message_id = message::AWAKE,
                    state = "awake",
                    unit,
                    "{service} is up"
                );
            }
            (_, State::Stopping(stop)) => {
                let clients = self.served - self.round.0;
                let who = match stop {
                    Stop::Theirs => "is being stopped by somebody else".into(),
                    Stop::Ours | Stop::Again { .. } if clients == 0 => "goes to sleep".into(),
                    Stop::Ours | Stop::Again { .. } => format!(
                        "goes to sleep; {} served since {}",
                        count(usize::try_from(clients).unwrap_or(usize::MAX), "client"),
                        time_of_day(self.round.1)
                    ),
                };
                tracing::info!(
                    message_id = message::STOPPING,
                    state = "stopping",
                    unit,
                    "{service} {who}"
                );
            }
            (State::Failed { .. }, State::Asleep) => {
                tracing::info!(
                    message_id = message::ASLEEP,
                    state = "asleep",
                    unit,
                    "the failure of {service} is forgotten"
                );
            }
            (State::Stopping(_), State::Asleep) => {
                tracing::info!(
                    message_id = message::ASLEEP,
                    state = "asleep",
                    unit,
                    "{service} is asleep"
                );
            }
            (_, State::Asleep) => {
                tracing::info!(
                    message_id = message::ASLEEP,
                    state = "asleep",
                    unit,
                    "{service} went down by itself"
                );
            }
            (_, State::Failed { retry_at, .. }) => {
                let kind = if event == Event::Due {
                    Kind::Timeout
                } else if matches!(event, Event::Seen(_)) {
                    Kind::Died
                } else {
                    Kind::Start
                };
                let why = match (event, self.why.take()) {
                    (_, Some(why)) => why,
                    (Event::Due, None) => "it does not answer in time".into(),
                    (_, None) => "it went down before it answered".into(),
                };
                tracing::error!(
                    message_id = message::WAKE_FAILED,
                    state = "failed",
                    unit,
                    "could not wake {service}: {why}; clients are turned away for {}",
                    left(retry_at, now)
                );
                self.books.failed(kind, &why);
                self.why = Some(why);
            }
        }
    }

    /// Why the start that now fails does so.
    pub(super) fn wake_fails(&mut self, why: String) {
        self.why = Some(why);
    }

    /// The service was put to sleep; what it took until then, if that is known.
    pub(super) fn slept(&mut self, freed: Option<u64>) {
        self.books.slept(freed);
    }

    pub(super) fn sleep_failed(&mut self, why: &str) {
        self.books.failed(Kind::Stop, why);
        let unit = self.service.as_str();
        tracing::warn!(
            message_id = message::SLEEP_FAILED,
            unit,
            "could not put {unit} to sleep: {why}; this is tried again"
        );
    }

    /// The service cannot be looked at. Said once, until it can be again.
    pub(super) fn look_failed(&mut self, why: &str) {
        if !std::mem::replace(&mut self.blind, true) {
            tracing::warn!(
                unit = self.service.as_str(),
                "cannot tell whether {} runs: {why}",
                self.service
            );
        }
    }

    pub(super) fn looked(&mut self) {
        self.blind = false;
    }

    /// Clients were let through.
    pub(super) fn admitted(&mut self, clients: usize) {
        self.served += clients as u64;
        self.books.served(clients);
    }

    /// A client has left before it was let through.
    pub(super) fn gone(&mut self) {
        self.books.gave_up();
    }

    /// A client that was let through has left.
    pub(super) fn left(&mut self, traffic: Traffic) {
        self.traffic.up += traffic.up;
        self.traffic.down += traffic.down;
        self.traffic.idle += traffic.idle;
        self.traffic.vanished += traffic.vanished;
        self.books.carried(traffic);
    }

    /// Clients were turned away because the service could not be woken.
    pub(super) fn turned_away(&mut self, clients: usize) {
        self.books.refused_failed(clients);
        if clients > 0 {
            tracing::debug!(
                unit = self.service.as_str(),
                "{} turned away",
                count(clients, "client")
            );
        }
    }

    /// An order to start is given; so many of the latest ones count.
    pub(super) fn wakes(&mut self, keep: usize) {
        self.books.wakes(keep);
    }

    /// How long ago the wakes of earlier lives were ordered.
    pub(super) fn earlier_wakes(&self) -> Vec<Duration> {
        self.books.earlier_wakes()
    }

    /// Until when there is no wake, because there were too many.
    pub(super) fn no_wake_until(&mut self, until: Option<Instant>, now: Instant) {
        if self.no_wake.as_ref().map(|no_wake| no_wake.until) != until {
            let left = until.map(|at| at.saturating_duration_since(now));
            self.books.no_wake_for(left);
            self.no_wake = until.map(|until| NoWake {
                until,
                words: OnceCell::new(),
            });
        }
    }

    /// Clients were turned away because the service was woken too often. Said once, until it was
    /// woken again.
    pub(super) fn rationed(&mut self, clients: usize, rate: WakeRate, now: Instant) {
        self.books.refused_rate(clients);
        let (unit, turned_away) = (self.service.as_str(), count(clients, "client"));
        tracing::debug!(
            unit,
            "{turned_away} turned away: {unit} was woken too often"
        );
        if let Some(no_wake) = &self.no_wake
            && self.rationed.replace(no_wake.until) != Some(no_wake.until)
        {
            let words = no_wake.words(now);
            tracing::warn!(
                message_id = message::WOKEN_TOO_OFTEN,
                unit,
                "{unit} is not woken for its clients before {words}: that would be more than \
                 `--wake-rate {rate}` allows; they are turned away"
            );
        }
    }

    /// Somebody was turned away who comes from the wrong network. Loud the first time only:
    /// whoever can reach the port can make us say it.
    pub(super) fn barred(&mut self, listener: &str, peer: Peer) {
        self.books.refused_address();
        tracing::debug!(client = %peer, "resetting {peer}, a client of `{listener}`");
        if !std::mem::replace(&mut self.barred, true) {
            tracing::info!(
                client = %peer,
                "{peer} was reset: `--allow` and `--deny` do not let it in by `{listener}` (said \
                 once; from now on at log level debug)"
            );
        }
    }

    /// Clients were turned away because just their target is silent.
    pub(super) fn gave_up(&mut self, door: &Door, clients: usize) {
        let why = door.why_not().unwrap_or("it was not reached in time");
        let address = &door.target().address;
        self.books.refused_silent(clients);
        self.books.failed(
            Kind::Silent,
            &format!("target `{address}` does not answer: {why}"),
        );
        tracing::warn!(
            unit = self.service.as_str(),
            "{} turned away: target `{}` does not answer: {}",
            count(clients, "client"),
            address,
            why
        );
    }

    // -- STATUS= and the watchdog

    /// When there is something to say next.
    pub(super) fn next_word(&self) -> Option<Instant> {
        let feed_at = self
            .watchdog
            .zip(self.fed_at)
            .map(|(interval, fed_at)| fed_at + interval);
        let no_wake = self.no_wake.as_ref().map(|no_wake| no_wake.until);
        let times = [self.say_at, self.books.next(), feed_at, no_wake];
        times.into_iter().flatten().min()
    }

    /// Says what is due.
    pub(super) fn publish(&mut self, state: State, crowd: ClientCounts, now: Instant) {
        self.books.publish(state, crowd, now);
        if let Some(interval) = self.watchdog
            && self.fed_at.is_none_or(|fed_at| now >= fed_at + interval)
        {
            self.fed_at = Some(now);
            self.notifier.alive();
        }
        let turned = self.state.map(name) != Some(name(state));
        self.state = Some(state);
        let quiet_until = self.said_at.map(|at| at + PACE);
        if !turned && let Some(at) = quiet_until.filter(|&at| now < at) {
            self.say_at = Some(self.say_at.map_or(at, |earlier| earlier.max(at)));
            return;
        }
        let status = self.describe(state, crowd, now);
        if status != self.status {
            self.notifier.status(status.clone());
            self.status = status;
            self.said_at = Some(now);
        }
        // What is left of a span is told anew when it has shrunk by a tenth.
        let left = match state {
            State::Cooling { sleep_at: Some(at) } => Some(at.saturating_duration_since(now)),
            State::Failed { retry_at: at, .. } => Some(at.saturating_duration_since(now)),
            State::Asleep | State::Waking { .. } | State::Awake => None,
            State::Cooling { sleep_at: None } | State::Stopping(_) => None,
        };
        self.say_at = left
            .filter(|left| !left.is_zero())
            .map(|left| now + (left / 10).max(PACE));
    }

    // -- the record

    /// The record as it is now.
    pub(super) fn record(&self) -> Record {
        self.books.record()
    }

    /// The process ends; `asleep` is whether the service is known to be down.
    pub(super) fn close(&mut self, asleep: bool) {
        self.books.close(asleep);
    }

    fn describe(&self, state: State, crowd: ClientCounts, now: Instant) -> String {
        let clients = count(crowd.connected, "client");
        let waiting = match crowd.waiting {
            0 => String::new(),
            n => format!(", {} waiting", count(n, "client")),
        };
        let ended = |n, how| {
            if n == 0 {
                String::new()
            } else {
                format!(", {n} {how}")
            }
        };
        // Once, and not while somebody waits: it takes a walk through all time zones.
        let since = || self.since.get_or_init(|| time_of_day(self.began));
        let served = || {
            format!(
                "{} served since {}{}{}",
                self.served,
                since(),
                ended(self.traffic.idle, "ended as idle"),
                ended(self.traffic.vanished, "ended as vanished")
            )
        };
        let no_wake = || match &self.no_wake {
            Some(no_wake) => format!(", no wake before {} (woken too often)", no_wake.words(now)),
            None => String::new(),
        };
        match state {
            State::Asleep => format!("asleep{}, {}", no_wake(), served()),
            State::Waking { started: false, .. } => {
                format!("waking: {} starts{waiting}", self.service)
            }
            State::Waking { started: true, .. } => {
                format!(
                    "waking: {} has started, but does not answer yet{waiting}",
                    self.service
                )
            }
            State::Awake => format!("awake: {clients}{waiting}, {}", served()),
            State::Cooling { sleep_at } => {
                format!("cooling: {}, {}", sleeps(sleep_at, now), served())
            }
            State::Stopping(Stop::Again { .. }) => format!(
                "stopping: {} would not stop; tried again{waiting}",
                self.service
            ),
            State::Stopping(Stop::Ours | Stop::Theirs) => {
                format!("stopping: {} goes down{waiting}", self.service)
            }
            State::Failed { retry_at, .. } => {
                let why = self.why.as_deref().unwrap_or("it could not be started");
                if retry_at <= now && self.no_wake.is_some() {
                    format!("failed: {why}{}", no_wake())
                } else if retry_at <= now {
                    format!("failed: {why}; the next client tries again{waiting}")
                } else {
                    format!(
                        "failed: {why}; a client may try again in {}",
                        left(retry_at, now)
                    )
                }
            }
        }
    }
}

fn name(state: State) -> &'static str {
    match state {
        State::Asleep => "asleep",
        State::Waking { .. } => "waking",
        State::Awake => "awake",
        State::Cooling { .. } => "cooling",
        State::Stopping(_) => "stopping",
        State::Failed { .. } => "failed",
    }
}

fn time_of_day(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or_default();
    let local = time.to_zoned(jiff::tz::TimeZone::system());
    local.strftime("%H:%M").to_string()
}

/// What the clock will show then, never too early.
fn in_so_long(span: Duration) -> String {
    const HOUR: i64 = 3600;
    let seconds = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    let (step, format) = match seconds {
        0..HOUR => (1, "%H:%M:%S"),
        HOUR..43_200 => (60, "%H:%M"),
        _ => (60, "%Y-%m-%d %H:%M"),
    };
    let then = SystemTime::now().checked_add(span);
    let then = then.and_then(|then| jiff::Timestamp::try_from(then).ok());
    let then = then.unwrap_or(jiff::Timestamp::MAX).as_second();
    let rounded = jiff::Timestamp::from_second((then / step + 1).saturating_mul(step));
    let local = rounded
        .unwrap_or(jiff::Timestamp::MAX)
        .to_zoned(jiff::tz::TimeZone::system());
    local.strftime(format).to_string()
}

fn sleeps(sleep_at: Option<Instant>, now: Instant) -> String {
    match sleep_at {
        Some(at) => format!("sleeps in {}", left(at, now)),
        None => "never sleeps".into(),
    }
}

/// What is left until `at`. A countdown never says less than that.
fn left(at: Instant, now: Instant) -> String {
    let millis = at.saturating_duration_since(now).as_millis();
    // Whole seconds, but for the shortest spans.
    let step = if millis > 900 { 1000 } else { 10 };
    let rounded = u64::try_from(millis.div_ceil(step) * step).unwrap_or(u64::MAX);
    span::show(Duration::from_millis(rounded))
}

fn precise(span: Duration) -> String {
    match span.as_millis() {
        millis @ 0..10_000 => format!("{millis}ms"),
        _ => span::show(span),
    }
}

fn count(n: usize, thing: &str) -> String {
    if n == 1 {
        format!("1 {thing}")
    } else {
        format!("{n} {thing}s")
    }
}
