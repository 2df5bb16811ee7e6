//! STATUS= of one service: always true to within a second.

use std::cell::OnceCell;
use std::time::{Duration, Instant, SystemTime};

use super::record::RecordedState;
use super::text::{count, in_so_long, left, rests, stops, time_of_day};
use crate::core::lifecycle::{ClientCounts, State, Stop};
use crate::net::datagram::Dropped;

/// STATUS= and the record follow the numbers at most that often: each one is a message to PID 1, or
/// a file.
pub const PACE: Duration = Duration::from_secs(1);

/// What the connections of this process have come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Let through.
    pub served: u64,
    /// Bytes from clients to targets.
    pub up: u64,
    /// Bytes from targets to clients.
    pub down: u64,
    /// Closed because no byte moved.
    pub idle: u64,
    /// Closed because a peer had timed out.
    pub vanished: u64,
    /// Datagrams that were not passed on, in the order of [`Dropped::ALL`].
    pub dropped: [u64; Dropped::ALL.len()],
}

/// The text, and when it is due again.
#[derive(Debug)]
pub struct Status {
    service: String,
    text: String,
    state: Option<State>,
    said_at: Option<Instant>,
    say_at: Option<Instant>,
    /// When this process began, and its time of day.
    began: SystemTime,
    since: OnceCell<String>,
    /// Until when there is no wake, because there were too many; and what the clock shows then, once
    /// that was asked for: it takes a walk through all time zones.
    no_wake: Option<(Instant, OnceCell<String>)>,
    /// What keeps the service awake although no client is here.
    kept_awake: Option<String>,
    /// What a wake waits for.
    waits_for: Option<String>,
    /// What holds it awake.
    holds: Option<String>,
}

impl Status {
    /// The status of `service`.
    pub fn new(service: String) -> Self {
        Self {
            service,
            text: String::new(),
            state: None,
            said_at: None,
            say_at: None,
            began: SystemTime::now(),
            since: OnceCell::new(),
            no_wake: None,
            kept_awake: None,
            waits_for: None,
            holds: None,
        }
    }

    /// What keeps the service awake now; said at once.
    pub fn kept_awake(&mut self, work: Option<String>) {
        if self.kept_awake != work {
            self.kept_awake = work;
            self.state = None;
        }
    }

    /// What the wake waits for now; said at once.
    pub fn waits_for(&mut self, why: Option<&str>) {
        if self.waits_for.as_deref() != why {
            self.waits_for = why.map(str::to_owned);
            self.state = None;
        }
    }

    /// What holds the service awake now.
    pub fn held(&mut self, holds: Option<String>) {
        self.holds = holds;
    }

    /// Until when there is no wake; whether that is news.
    pub fn no_wake_until(&mut self, until: Option<Instant>) -> bool {
        let news = self.no_wake.as_ref().map(|(until, _)| *until) != until;
        if news {
            self.no_wake = until.map(|until| (until, OnceCell::new()));
        }
        news
    }

    /// Until when there is no wake, and what the clock shows then.
    pub fn no_wake(&self, now: Instant) -> Option<(Instant, &str)> {
        let (until, shown) = self.no_wake.as_ref()?;
        let left = until.saturating_duration_since(now);
        Some((*until, shown.get_or_init(|| in_so_long(left))))
    }

    /// When there is something to say next.
    pub fn next(&self) -> Option<Instant> {
        let no_wake = self.no_wake.as_ref().map(|(until, _)| *until);
        [self.say_at, no_wake].into_iter().flatten().min()
    }

    /// The text, if it is due and has changed.
    pub fn publish(
        &mut self,
        state: State,
        clients: ClientCounts,
        tally: Tally,
        failure: Option<&str>,
        remark: Option<&str>,
        now: Instant,
    ) -> Option<&str> {
        let turned = self.state.map(RecordedState::from) != Some(state.into());
        self.state = Some(state);
        let quiet_until = self.said_at.map(|at| at + PACE);
        if !turned && let Some(at) = quiet_until.filter(|&at| now < at) {
            self.say_at = Some(self.say_at.map_or(at, |earlier| earlier.max(at)));
            return None;
        }
        let mut text = self.describe(state, clients, tally, failure, now);
        if let Some(remark) = remark {
            text = format!("{text}; {remark}");
        }
        let changed = text != self.text;
        if changed {
            self.text = text;
            self.said_at = Some(now);
        }
        // What is left of a span is shown anew when it has shrunk by a tenth.
        let until = deadline(state).filter(|at| self.kept_awake.is_none() && *at > now);
        self.say_at = until.map(|at| now + ((at - now) / 10).max(PACE));
        changed.then_some(&*self.text)
    }

    fn describe(
        &self,
        state: State,
        clients: ClientCounts,
        tally: Tally,
        failure: Option<&str>,
        now: Instant,
    ) -> String {
        let service = &self.service;
        let connected = count(clients.connected as u64, "client");
        let users = match (&self.holds, clients.connected) {
            (None, _) => connected,
            (Some(holds), 0) => holds.clone(),
            (Some(holds), _) => format!("{connected}, {holds}"),
        };
        let waiting = match clients.waiting {
            0 => String::new(),
            n => format!(", {} waiting", count(n as u64, "client")),
        };
        let closed = |n, how| match n {
            0 => String::new(),
            n => format!(", {n} closed as {how}"),
        };
        // Once, and not while a connection waits.
        let since = || self.since.get_or_init(|| time_of_day(self.began));
        let served = || {
            format!(
                "{} served since {}{}{}",
                tally.served,
                since(),
                closed(tally.idle, "idle"),
                closed(tally.vanished, "timed out")
            )
        };
        let no_wake = || match self.no_wake(now) {
            Some((_, shown)) => format!(", no wake before {shown} (woken too often)"),
            None => String::new(),
        };
        match state {
            State::Asleep => format!("asleep{}, {}", no_wake(), served()),
            State::Waking { started: false, .. } => format!("waking: starting {service}{waiting}"),
            State::Waking { started: true, .. } => match &self.waits_for {
                Some(why) => format!("waking: {service} is not ready yet{waiting}: {why}"),
                None => format!("waking: {service} has started, but does not answer yet{waiting}"),
            },
            State::Awake => format!("awake: {users}{waiting}, {}", served()),
            State::Cooling { .. } | State::Freezing { .. } => match &self.kept_awake {
                Some(work) => format!("cooling, kept awake: {work}; {}", served()),
                None => format!("cooling: {}, {}", rests(state, now), served()),
            },
            State::Frozen { sleep_at } => {
                format!("frozen: {}, {}", stops(sleep_at, now), served())
            }
            State::Thawing { .. } => format!("frozen: thawing {service}{waiting}"),
            State::Stopping(Stop::Again { .. }) => {
                format!("stopping: failed to stop {service}; retrying{waiting}")
            }
            State::Stopping(Stop::Ours | Stop::Theirs) => {
                format!("stopping: {service} is stopping{waiting}")
            }
            State::Failed { retry_at, .. } => {
                let why = failure.unwrap_or("it could not be started");
                if retry_at <= now && self.no_wake.is_some() {
                    format!("failed: {why}{}", no_wake())
                } else if retry_at <= now {
                    format!("failed: {why}; the next connection retries{waiting}")
                } else {
                    format!(
                        "failed: {why}; refusing connections for {}",
                        left(retry_at, now)
                    )
                }
            }
        }
    }
}

/// When a state ends that lasts for a time that people ask for.
pub(super) fn deadline(state: State) -> Option<Instant> {
    match state {
        State::Cooling { .. } | State::Frozen { .. } => state.deadline(),
        State::Failed { retry_at, .. } => Some(retry_at),
        State::Asleep | State::Waking { .. } | State::Awake | State::Stopping(_) => None,
        State::Freezing { .. } | State::Thawing { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_wake_waits_for_is_said_at_once() {
        let mut status = Status::new("deployment/web".into());
        let now = crate::service::now();
        let clients = ClientCounts {
            connected: 0,
            waiting: 2,
        };
        let state = State::Waking {
            started: true,
            fail_at: None,
        };
        let mut said = |why: Option<&str>| {
            status.waits_for(why);
            let text = status.publish(state, clients, Tally::default(), None, None, now);
            text.map(str::to_owned)
        };
        let first =
            "waking: deployment/web has started, but does not answer yet, 2 clients waiting";
        assert_eq!(said(None).as_deref(), Some(first));
        let why = "pod `web-0`: Unschedulable";
        let next = format!("waking: deployment/web is not ready yet, 2 clients waiting: {why}");
        assert_eq!(said(Some(why)), Some(next));
        assert_eq!(said(Some(why)), None);
    }
}
