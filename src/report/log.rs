//! The log lines of a service: one for each change of state.

use std::time::{Duration, Instant, SystemTime};

use super::record::RecordedState;
use super::status::Tally;
use super::text::{count, left, precise, rests, time_of_day};
use crate::config::WakeRate;
use crate::config::address::Peer;
use crate::core::lifecycle::{Event, Phase, State, Stop};
use crate::core::service::Fact;
use crate::systemd::message_id as message;

/// What was logged, as far as the next line depends on it.
#[derive(Debug)]
pub struct Log {
    service: String,
    woken_at: Option<Instant>,
    /// When it was told to thaw, for clients that no answer has come for yet.
    thawed_at: Option<Instant>,
    /// What was served before the last wake, and when that was.
    round: (u64, SystemTime),
    /// Since that wake, it was logged that the last connection has closed.
    cooled: bool,
    /// Why the last start has failed, or the next one is about to.
    pub why: Option<String>,
    /// Why the stop fails that is about to fail.
    pub stop_failure: Option<String>,
    /// Why the service was not frozen; and what was logged of that.
    pub freeze_failure: Option<String>,
    not_frozen: Option<String>,
    blind: bool,
    rate_limited: Option<Instant>,
    denied: bool,
    /// What keeps the service awake without a client; it was logged.
    busy: Option<String>,
}

impl Log {
    /// The log of `service`.
    pub fn new(service: String) -> Self {
        Self {
            service,
            woken_at: None,
            thawed_at: None,
            round: (0, SystemTime::now()),
            cooled: false,
            why: None,
            stop_failure: None,
            freeze_failure: None,
            not_frozen: None,
            blind: false,
            rate_limited: None,
            denied: false,
            busy: None,
        }
    }

    /// A change of state; `first` is what has waited longest, and whether it is a client. If a wake has ended: how long
    /// it took, or why it has failed.
    pub fn fact(
        &mut self,
        fact: &Fact,
        first: Option<(Peer, bool)>,
        tally: Tally,
        now: Instant,
    ) -> Option<Result<Duration, String>> {
        let Fact {
            from, to, cause, ..
        } = *fact;
        let (service, state) = (self.service.as_str(), RecordedState::from(to).name());
        macro_rules! log {
            ($level:ident, $id:ident, $($line:tt)+) => {
                tracing::$level!(message_id = message::$id, state, unit = service, $($line)+)
            };
        }
        if !matches!(to, State::Thawing { .. } | State::Awake) {
            self.thawed_at = None;
        }
        let asked = matches!(cause, Event::Busy(_));
        let busy = if asked { None } else { self.busy.take() };
        if let (Event::SleepFailed(_), Some(why)) = (cause, self.stop_failure.take()) {
            let mut retry = String::new();
            if let (State::Stopping(_) | State::Cooling { .. }, Some(at)) = (to, to.deadline()) {
                retry = format!("; retrying in {}", left(at, now));
            }
            tracing::warn!(
                message_id = message::SLEEP_FAILED,
                unit = service,
                "failed to stop {service}: {why}{retry}"
            );
        }
        match (from, to) {
            (State::Waking { .. }, State::Waking { .. })
            | (State::Stopping(_), State::Stopping(_))
            | (State::Failed { .. }, State::Failed { .. })
            | (State::Cooling { .. }, State::Cooling { .. })
            | (State::Frozen { .. }, State::Frozen { .. }) => (),
            (_, State::Waking { .. }) => {
                self.woken_at = Some(now);
                self.round = (tally.served, SystemTime::now());
                self.cooled = false;
                self.why = None;
                let client = first.map(|(peer, _)| peer.to_string());
                let client = client.as_deref();
                let whom = match first {
                    Some((_, false)) => "a request on the control socket",
                    Some((Peer::Unix, true)) => "a client of a Unix socket",
                    Some((Peer::Tcp(_), true)) | None => client.unwrap_or("a client"),
                };
                log!(info, WAKING, client, "waking {service} for {whom}");
            }
            (State::Waking { .. }, State::Awake | State::Cooling { .. }) => {
                let took = self.woken_at.map_or(Duration::ZERO, |at| now - at);
                let wake_usec = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                let shown = precise(took);
                log!(info, AWAKE, wake_usec, "{service} answers after {shown}");
                return Some(Ok(took));
            }
            // A connection now and then is no news; how many there were is logged in the end.
            (State::Cooling { .. }, State::Awake) => {
                log!(debug, AWAKE, "{service} is in use again");
            }
            (State::Awake, State::Cooling { .. }) => {
                let (bytes_up, bytes_down) = (tally.up, tally.down);
                let rests = rests(to, now);
                let what = format!("last connection to {service} closed; {rests}");
                if std::mem::replace(&mut self.cooled, true) {
                    log!(debug, COOLING, bytes_up, bytes_down, "{what}");
                } else {
                    log!(info, COOLING, bytes_up, bytes_down, "{what}");
                }
            }
            (State::Thawing { .. }, State::Cooling { .. }) => {
                log!(debug, COOLING, "{service} is thawed");
            }
            (_, State::Cooling { .. }) => {
                let rests = rests(to, now);
                log!(
                    info,
                    COOLING,
                    "{service} is running without connections; {rests}"
                );
            }
            (_, State::Freezing { .. }) => log!(debug, COOLING, "freezing {service}"),
            (State::Thawing { .. }, State::Frozen { sleep_at }) => {
                let why = self.why.take().unwrap_or_default();
                let retry = sleep_at.map_or_else(String::new, |at| left(at, now));
                log!(
                    warn,
                    THAW_FAILED,
                    "cannot thaw {service}: {why}; retrying in {retry}"
                );
            }
            (_, State::Frozen { .. }) => {
                self.not_frozen = None;
                let rests = rests(to, now);
                log!(info, FROZEN, "{service} is frozen; {rests}");
            }
            (_, State::Thawing { .. }) if cause == Event::FreezeFailed => {
                let why = self.freeze_failure.take().unwrap_or_default();
                if self.not_frozen.as_ref() != Some(&why) {
                    log!(warn, FREEZE_FAILED, "{service} is not frozen: {why}");
                }
                self.not_frozen = Some(why);
            }
            (_, State::Thawing { .. }) => {
                let client = first.map(|(peer, _)| peer.to_string());
                let client = client.as_deref();
                self.thawed_at = client.map(|_| now);
                let whom = match first {
                    Some((_, false)) => " for a request on the control socket".to_owned(),
                    Some((Peer::Unix, true)) => " for a client of a Unix socket".to_owned(),
                    Some((Peer::Tcp(_), true)) => format!(" for {}", client.unwrap_or_default()),
                    None if matches!(cause, Event::Due | Event::CutShort | Event::Forced) => {
                        " to stop it".to_owned()
                    }
                    None => String::new(),
                };
                let again = if cause == Event::Seen(Phase::Starting) {
                    ": an order that it has refused can be given again"
                } else {
                    ""
                };
                log!(info, THAWING, client, "thawing {service}{whom}{again}");
            }
            (State::Thawing { .. }, State::Awake) => log!(debug, AWAKE, "{service} is thawed"),
            (_, State::Awake) => log!(info, AWAKE, "{service} is running"),
            (_, State::Stopping(_)) if cause == Event::Silent => log!(
                warn,
                STOPPING,
                "{service} runs, but does not answer; stopping it for a new start"
            ),
            (_, State::Stopping(stop)) => {
                let served = tally.served - self.round.0;
                let what = match (stop, busy) {
                    (Stop::Theirs, _) => format!("{service} is being stopped, not by wakeport"),
                    (Stop::Ours | Stop::Again { .. }, Some(work)) => format!(
                        "stopping {service} in spite of its work: `--busy-limit` is over ({work})"
                    ),
                    (Stop::Ours | Stop::Again { .. }, None) if served == 0 => {
                        format!("stopping {service}")
                    }
                    (Stop::Ours | Stop::Again { .. }, None) => format!(
                        "stopping {service}; {} served since {}",
                        count(served, "connection"),
                        time_of_day(self.round.1)
                    ),
                };
                log!(info, STOPPING, "{what}");
            }
            (_, State::Asleep) => {
                let what = match from {
                    State::Failed { .. } => "is down; its failure is no longer held against it",
                    State::Stopping(_) => "stopped",
                    State::Asleep | State::Waking { .. } => "stopped unexpectedly",
                    State::Awake | State::Cooling { .. } => "stopped unexpectedly",
                    State::Freezing { .. } | State::Frozen { .. } | State::Thawing { .. } => {
                        "stopped unexpectedly"
                    }
                };
                log!(info, ASLEEP, "{service} {what}");
            }
            (_, State::Failed { retry_at, .. }) => {
                let why = match (self.why.take(), cause) {
                    (Some(why), _) => why,
                    (None, Event::Due) => "it does not answer in time".into(),
                    (None, _) => "it went down before it answered".into(),
                };
                let left = left(retry_at, now);
                if let State::Thawing { .. } = from {
                    log!(
                        error,
                        THAW_FAILED,
                        "cannot thaw {service}: {why}; refusing connections for {left}"
                    );
                } else {
                    log!(
                        error,
                        WAKE_FAILED,
                        "cannot start {service}: {why}; refusing connections for {left}"
                    );
                }
                self.why = Some(why.clone());
                return Some(Err(why));
            }
        }
        None
    }

    /// A client that has waited is let through; how long ago the service was told to thaw for it, if that
    /// is the first one since.
    pub fn answered(&mut self, now: Instant) -> Option<Duration> {
        let took = now.saturating_duration_since(self.thawed_at.take()?);
        let thaw_usec = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let (unit, shown) = (self.service.as_str(), precise(took));
        tracing::info!(
            message_id = message::AWAKE,
            state = RecordedState::Awake.name(),
            unit,
            thaw_usec,
            "{unit} answers {shown} after the order to thaw"
        );
        Some(took)
    }

    /// Work that keeps the service awake without a client, if there is any. Loud when it begins only.
    pub fn busy(&mut self, work: Option<&str>) {
        let unit = self.service.as_str();
        let (message_id, state) = (message::KEPT_AWAKE, "cooling");
        match (work, &self.busy) {
            (None, _) => (),
            (Some(work), None) => {
                tracing::info!(message_id, state, unit, "{unit} is kept awake: {work}");
            }
            (Some(work), Some(_)) => {
                tracing::debug!(message_id, state, unit, "{unit} is kept awake: {work}");
            }
        }
        self.busy = work.map(str::to_owned);
    }

    /// It could not be found out whether there is work, for this reason.
    pub fn unknown(&self, why: &str) {
        let unit = self.service.as_str();
        tracing::warn!(
            unit,
            "cannot tell whether {unit} has work to do, so it may be stopped: {why}"
        );
    }

    /// What is wrong with the service although it works.
    pub fn remark(&self, remark: Option<&str>) {
        if let Some(remark) = remark {
            let unit = self.service.as_str();
            tracing::warn!(unit, "{remark}");
        }
    }

    /// The state of the service was read, or could not be, for this reason. Logged once, until it
    /// can be read again.
    pub fn queried(&mut self, failure: Option<&str>) {
        let was_blind = std::mem::replace(&mut self.blind, failure.is_some());
        if let (Some(why), false) = (failure, was_blind) {
            let unit = self.service.as_str();
            tracing::warn!(unit, "cannot read the state of {unit}: {why}");
        }
    }

    /// Connections were rejected because the service could not be started.
    pub fn rejected(&self, connections: u64) {
        let unit = self.service.as_str();
        tracing::debug!(unit, "{} rejected", count(connections, "connection"));
    }

    /// Connections were rejected because the service was woken too often; `until` is when it may be
    /// woken again, and what the clock shows then. Logged once, until it was woken again.
    pub fn rate_limited(
        &mut self,
        connections: u64,
        rate: WakeRate,
        until: Option<(Instant, &str)>,
    ) {
        let unit = self.service.as_str();
        tracing::debug!(
            unit,
            "{} rejected: {unit} was woken too often",
            count(connections, "connection")
        );
        if let Some((until, shown)) = until
            && self.rate_limited.replace(until) != Some(until)
        {
            tracing::warn!(
                message_id = message::WOKEN_TOO_OFTEN,
                unit,
                "{unit} is not woken before {shown}: that would exceed `--wake-rate {rate}`; \
                 refusing connections"
            );
        }
    }

    /// A connection was denied. Loud the first time only: every client that can reach the port can
    /// cause this line.
    pub fn denied(&mut self, listener: &str, peer: Peer) {
        tracing::debug!(client = %peer, "connection from {peer} to `{listener}` denied");
        if !std::mem::replace(&mut self.denied, true) {
            tracing::info!(
                client = %peer,
                "connection from {peer} to `{listener}` denied by `--allow` and `--deny` (logged \
                 once; from now on at log level debug)"
            );
        }
    }

    /// Connections were rejected because just their target is silent.
    pub fn silent(&self, connections: u64, failure: &str) {
        let unit = self.service.as_str();
        tracing::warn!(
            unit,
            "{} rejected: {failure}",
            count(connections, "connection")
        );
    }
}
