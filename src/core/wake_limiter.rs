//! How often the service may be woken.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Wakes that there may be in a time, and those that there were. Without a limit nothing is
/// counted.
#[derive(Clone, Debug, Default)]
pub struct WakeLimiter {
    limit: Option<(usize, Duration)>,
    /// The latest ones, the oldest first; never more than the limit.
    spent: VecDeque<Instant>,
}

/// No time is longer, so that a moment so much later always exists.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

impl WakeLimiter {
    /// At most so many `wakes` within any `span`, of which some were `spent` in earlier lives.
    pub fn new(wakes: usize, span: Duration, spent: impl IntoIterator<Item = Instant>) -> Self {
        let mut spent: Vec<_> = spent.into_iter().collect();
        spent.sort();
        let mut limiter = Self {
            limit: Some((wakes.max(1), span.min(LONGEST))),
            spent: VecDeque::new(),
        };
        spent.into_iter().for_each(|at| limiter.spend(at));
        limiter
    }

    /// From when on there is a wake left, if there is none now.
    pub fn empty_until(&self, now: Instant) -> Option<Instant> {
        let (wakes, span) = self.limit?;
        let first = self.spent.front().filter(|_| self.spent.len() >= wakes)?;
        Some(*first + span).filter(|at| *at > now)
    }

    /// One wake more.
    pub fn spend(&mut self, now: Instant) {
        let Some((wakes, _)) = self.limit else { return };
        self.spent.push_back(now);
        if self.spent.len() > wakes {
            self.spent.pop_front();
        }
    }
}
