//! What only the model of the core asks of a service (`tests/model`).

use std::hash::{Hash, Hasher};
use std::mem::discriminant;
use std::time::Instant;

use super::{Lifecycle, Occupancy, Service, State, WakeLimiter};

impl Service {
    /// Whether another query follows the one under way.
    pub fn will_query_again(&self) -> bool {
        self.query_again
    }

    /// Sets how often the service may be woken.
    pub fn limit_wakes(&mut self, limiter: WakeLimiter) {
        self.lifecycle = self.lifecycle.clone().limited(limiter);
    }

    /// What tells two services apart at `now`: all but how far away the instants are.
    pub fn fingerprint(&self, now: Instant, gates: Occupancy, hasher: &mut impl Hasher) {
        hash_lifecycle(&self.lifecycle, now, hasher);
        for target in &self.targets {
            for (ticket, waiting) in &target.queue {
                (ticket, waiting.limit.is_some(), waiting.again).hash(hasher);
            }
            target.queue.len().hash(hasher);
            (target.reachable, target.probing, target.open).hash(hasher);
        }
        self.rejected.hash(hasher);
        (self.woken_for, self.starting, self.given_up).hash(hasher);
        (self.query, self.query_again, self.query_at.is_some()).hash(hasher);
        (self.seen_down, self.frozen, self.closing).hash(hasher);
        self.linger_until.is_some().hash(hasher);
        let last = self.state().deadline().map(|at| self.limit_is_over(at));
        (self.question.is_some(), self.asked_at.is_some(), last).hash(hasher);
        (self.sample_at.is_some(), self.watching).hash(hasher);
        (gates == self.sampled, gates.entered == self.sampled.entered).hash(hasher);
    }
}

fn hash_lifecycle(lifecycle: &Lifecycle, now: Instant, hasher: &mut impl Hasher) {
    discriminant(&lifecycle.state()).hash(hasher);
    lifecycle.no_wake_until(now).is_some().hash(hasher);
    match lifecycle.state() {
        State::Asleep | State::Awake => (),
        State::Waking { started, .. } => started.hash(hasher),
        // Which of the two comes first is known by the times.
        State::Cooling {
            freeze_at,
            sleep_at,
        }
        | State::Thawing {
            freeze_at,
            sleep_at,
        } => {
            let first = freeze_at.is_some_and(|freeze| sleep_at.is_none_or(|sleep| freeze < sleep));
            (freeze_at.is_some(), sleep_at.is_some(), first).hash(hasher);
        }
        State::Freezing { sleep_at } | State::Frozen { sleep_at } => {
            (sleep_at.is_some(), sleep_at.is_some_and(|at| at <= now)).hash(hasher);
        }
        State::Stopping(stop) => discriminant(&stop).hash(hasher),
        State::Failed {
            retry_at, undoing, ..
        } => (now >= retry_at, undoing).hash(hasher),
    }
}
