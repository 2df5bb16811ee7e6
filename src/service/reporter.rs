//! What happens to a service, told to the log, to STATUS= and to the record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::guard::Answer;
use super::handle::Stopped;
use super::settings::Settings;
use super::targets::Totals;
use crate::backend::Failure;
use crate::config::WakeRate;
use crate::config::address::Peer;
use crate::config::busy::Percent;
use crate::core::lifecycle::{Event, State};
use crate::core::service::{self as core, Fact, Rejection, Ticket};
use crate::report::log::Log;
use crate::report::record::{Kind, WaitsFor, Work};
use crate::report::recorder::Recorder;
use crate::report::status::{Status, Tally};
use crate::report::text;

pub use crate::report::access::Access;
pub use crate::report::requests::{Front, Requests};

/// Where STATUS= goes: its text, and the state in one word.
pub type Say = Box<dyn Fn(&str, State) + Send>;

/// The three places.
pub struct Reporter {
    log: Log,
    status: Status,
    pub(super) recorder: Recorder,
    say: Say,
    settings: Arc<Settings>,
    frozen: bool,
    /// Connections let through, as the gates have counted them.
    entered: u32,
    tally: Tally,
}

/// Connections rejected because of one input; each kind is reported once.
#[derive(Debug, Default)]
pub(super) struct Rejected {
    failed: u64,
    wake_rate: u64,
    /// By the index of the target.
    silent: BTreeMap<usize, u64>,
}

impl Rejected {
    pub(super) fn count(&mut self, ticket: Ticket, why: Rejection) {
        match why {
            Rejection::Failed => self.failed += 1,
            Rejection::WakeRate => self.wake_rate += 1,
            Rejection::Silent => *self.silent.entry(ticket.target).or_default() += 1,
        }
    }
}

impl Reporter {
    /// Reports on the service with these settings.
    pub fn new(settings: Arc<Settings>, mut recorder: Recorder, say: Say) -> Self {
        recorder.about(&settings.config);
        Self {
            log: Log::new(settings.config.label()),
            status: Status::new(settings.config.label()),
            settings,
            recorder,
            say,
            frozen: false,
            entered: 0,
            tally: Tally::default(),
        }
    }

    /// The service goes on under other settings.
    pub(super) fn reconfigured(&mut self, settings: Arc<Settings>) {
        self.recorder.about(&settings.config);
        self.log = Log::new(settings.config.label());
        self.status = Status::new(settings.config.label());
        self.settings = settings;
    }

    /// What the gates have counted by now.
    pub(super) fn carried(&mut self, totals: Totals<'_>) {
        let Totals {
            entered,
            tally,
            counts,
        } = totals;
        // The count is modulo 2^31.
        let more = entered.wrapping_sub(self.entered) & 0x7fff_ffff;
        let served = self.tally.served + u64::from(more);
        self.tally = Tally { served, ..tally };
        self.entered = entered;
        self.recorder.carried(self.tally, counts);
    }

    /// Why the order to freeze fails that is about to fail.
    pub(super) fn freeze_fails(&mut self, why: String) {
        self.recorder.failed(Kind::Freeze, &why);
        self.log.freeze_failure = Some(why);
    }

    /// Why the order to thaw fails that is about to fail.
    pub(super) fn thaw_fails(&mut self, why: String) {
        self.recorder.failed(Kind::Thaw, &why);
        self.log.why = Some(why);
    }

    /// A client that has waited is let through: the service answers.
    pub(super) fn admits(&mut self, now: Instant) {
        if let Some(took) = self.log.answered(now) {
            self.recorder.change().thaws.add(took);
        }
    }

    /// A change of state; `first` is what has waited longest, and whether it is a client.
    pub(super) fn fact(&mut self, fact: &Fact, first: Option<(Peer, bool)>, now: Instant) {
        self.recorder.turn(fact.to);
        if !matches!(fact.cause, Event::Busy(_)) {
            self.status.kept_awake(None);
        }
        match self.log.fact(fact, first, self.tally, now) {
            None => (),
            Some(Ok(took)) => self.recorder.change().wakes.add(took),
            // It was counted when the order ended.
            Some(Err(_)) if matches!(fact.cause, Event::ThawFailed(_)) => (),
            Some(Err(why)) => {
                let kind = if fact.cause == Event::Due {
                    Kind::Timeout
                } else if matches!(fact.cause, Event::Seen(_)) {
                    Kind::Died
                } else {
                    Kind::Start
                };
                self.recorder.failed(kind, &why);
            }
        }
    }

    /// What keeps the service awake, which was just asked.
    pub(super) fn busy(&mut self, answer: Answer) {
        let Answer { work, unknown } = answer;
        for why in unknown {
            self.log.unknown(&why);
        }
        let told = (!work.is_empty()).then(|| Work::told(&work));
        self.log.busy(told.as_deref());
        self.status.kept_awake(told);
        self.recorder.kept_awake(&work);
    }

    /// Why the start fails that is about to fail.
    pub(super) fn start_fails(&mut self, why: String) {
        self.log.why = Some(why);
    }

    /// Why the stop fails that is about to fail.
    pub(super) fn stop_fails(&mut self, why: String) {
        self.recorder.failed(Kind::Stop, &why);
        self.log.stop_failure = Some(why);
    }

    /// The service was stopped, in this state; `idle` is what it used before, if that is known.
    pub(super) fn stopped(&mut self, state: State, stopped: Stopped, idle: Option<Percent>) {
        let Stopped { measured, remark } = stopped;
        if let State::Stopping(_) = state {
            let freed = measured.and_then(|measured| measured.usage.memory);
            self.recorder.slept(freed, idle);
        }
        self.remark(remark);
    }

    fn frozen(&mut self, frozen: bool) {
        if std::mem::replace(&mut self.frozen, frozen) != frozen {
            let service = self.settings.config.label();
            self.remark(frozen.then(|| format!("{service} is frozen (`systemctl freeze`)")));
        }
    }

    /// What is wrong with the service although it works. Logged when it is news, in whichever life.
    pub(super) fn remark(&mut self, remark: Option<String>) {
        if self.recorder.remark(remark) {
            self.log.remark(self.recorder.remarked());
        }
    }

    /// The state of the service was read, or could not be; `why` is why it is down.
    pub(super) fn queried(&mut self, failure: Option<&Failure>, why: Option<String>) {
        self.log.queried(failure.map(|failure| &*failure.0));
        if let Some(why) = why {
            self.start_fails(why);
        }
    }

    /// The service is about to be started.
    pub(super) fn starts(&mut self) {
        if let Some(WakeRate { wakes, .. }) = self.settings.config.wake_rate {
            self.recorder.wakes(wakes);
        }
    }

    pub(super) fn denied(&mut self, listener: &str, peer: Peer) {
        self.recorder.change().clients.refused_address += 1;
        self.log.denied(listener, peer);
    }

    /// Connections were rejected: because of the wake rate `until` then, or because the target with
    /// an index is silent, for a reason that `silence` knows.
    pub(super) fn rejections(
        &mut self,
        rejected: Rejected,
        until: Option<Instant>,
        now: Instant,
        silence: impl Fn(usize) -> String,
    ) {
        if rejected.failed > 0 {
            self.recorder.change().clients.refused_failed += rejected.failed;
            self.log.rejected(rejected.failed);
        }
        if rejected.wake_rate > 0 {
            self.no_wake_until(until, now);
            self.recorder.change().clients.refused_rate += rejected.wake_rate;
            if let Some(rate) = self.settings.config.wake_rate {
                let until = self.status.no_wake(now);
                self.log.rate_limited(rejected.wake_rate, rate, until);
            }
        }
        for (index, connections) in rejected.silent {
            let failure = silence(index);
            self.recorder.change().clients.refused_silent += connections;
            self.recorder.failed(Kind::Silent, &failure);
            self.log.silent(connections, &failure);
        }
    }

    /// Until when there is no wake, because there were too many.
    fn no_wake_until(&mut self, until: Option<Instant>, now: Instant) {
        if self.status.no_wake_until(until) {
            let left = until.map(|at| at.saturating_duration_since(now));
            self.recorder.no_wake_for(left);
        }
    }

    /// When there is something to report next.
    pub(super) fn next(&self) -> Option<Instant> {
        let times = [self.status.next(), self.recorder.next()];
        times.into_iter().flatten().min()
    }

    /// Reports what is due.
    pub(super) fn publish(&mut self, core: &core::Service, holds: Vec<String>, now: Instant) {
        self.no_wake_until(core.no_wake_until(now), now);
        self.frozen(core.is_frozen());
        let (state, mut clients) = (core.state(), core.clients());
        clients.connected = clients.connected.saturating_sub(holds.len());
        self.status.held(text::holds(&holds));
        self.recorder.held(holds);
        let is_waking = matches!(state, State::Waking { .. });
        let awaited = is_waking.then(|| self.settings.backend.awaited()).flatten();
        let waits_for = awaited.map(|it| WaitsFor {
            reason: it.reason,
            why: it.why,
        });
        self.status.waits_for(waits_for.as_ref().map(|it| &*it.why));
        self.recorder.waits_for(waits_for.as_ref());
        self.recorder.publish(state, clients, now);
        let failure = self.log.why.as_deref();
        let text = self.status.publish(
            state,
            clients,
            self.tally,
            failure,
            self.recorder.remarked(),
            now,
        );
        if let Some(text) = text {
            (self.say)(text, state);
        }
    }
}
