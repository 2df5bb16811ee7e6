//! Whether work that is not that of a client keeps the service awake.

use std::time::{Duration, Instant};

use super::{Effect, Event, Service, State};

/// How long the service is kept awake before it is asked again what does that.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(30);
/// How long the answer may take: those that are asked have 10 s, and a little more to say so.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);

impl Service {
    /// Whether the answer to the question with this number still says something.
    pub fn is_asked(&self, number: u64) -> bool {
        self.question.is_some_and(|(asked, _)| asked == number)
    }

    /// Whether the cooldown is over, or that part of it after which the service is frozen.
    pub(super) fn is_due(&self) -> bool {
        let due = self.state().deadline().is_some_and(|at| at <= self.now);
        due && matches!(self.state(), State::Cooling { .. })
    }

    /// Asks whether work keeps the service awake, unless that has lasted for too long; connections
    /// come in as before.
    pub(super) fn ask(&mut self) {
        self.asked_at = self.asked_at.or(Some(self.now));
        if self.limit_is_over(self.now) {
            self.close_from(0);
            return;
        }
        self.questions += 1;
        self.question = Some((self.questions, self.now + ANSWER_TIMEOUT));
        self.effects.push(Effect::AskBusy(self.questions));
    }

    /// A late answer, and one to a question that was asked before a connection came, says nothing.
    pub(super) fn answered(&mut self, number: u64, busy: bool) {
        self.observe();
        let asked = |(asked, _): &mut (u64, Instant)| *asked == number;
        if self.question.take_if(asked).is_none() {
            return;
        }
        if busy {
            let left = self.limit_left(self.now).unwrap_or(Duration::MAX);
            self.tell(Event::Busy(ASK_AGAIN.min(left)), self.now);
        } else if self.is_due() {
            // The order to stop or to freeze follows when no connection can come in any more.
            self.close_from(0);
        }
    }

    /// How much longer work may keep the service awake.
    fn limit_left(&self, now: Instant) -> Option<Duration> {
        let until = self.asked_at?.checked_add(self.rules.busy_limit)?;
        Some(until.saturating_duration_since(now))
    }

    pub(super) fn limit_is_over(&self, now: Instant) -> bool {
        self.limit_left(now) == Some(Duration::ZERO)
    }
}
