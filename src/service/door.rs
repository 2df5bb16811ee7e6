//! One target as the driver sees it: who waits for it, and whether it answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::guests::ConnectionTable;
use super::{Handle, Message, Ticket, Verdict};
use crate::config::address::Peer;
use crate::net::dial::Target;
use crate::service::probe::{Answer, Prober};

/// A client that waits.
#[derive(Debug)]
pub struct Waiter {
    /// Which client.
    pub ticket: Ticket,
    /// The listener it came in by.
    pub listener: Arc<str>,
    /// Its address.
    pub peer: Peer,
    /// Where the verdict goes.
    pub reply: oneshot::Sender<Verdict>,
    /// When it is turned away; only while the service is up and just its target is silent.
    pub limit: Option<Instant>,
}

/// One target, and who waits for it.
#[derive(Debug)]
pub(super) struct Door {
    target: Arc<Target>,
    waiting: BTreeMap<Ticket, Waiter>,
    /// The target answered, and has refused nobody since.
    open: bool,
    /// The connection that proved it, for the first client.
    answer: Option<Answer>,
    /// The probe that asks it, and the number of the latest one.
    asking: Option<AbortOnDropHandle<()>>,
    probe: u64,
    why_not: Option<String>,
}

impl Door {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self {
            target,
            waiting: BTreeMap::new(),
            open: false,
            answer: None,
            asking: None,
            probe: 0,
            why_not: None,
        }
    }

    pub(super) fn target(&self) -> Arc<Target> {
        self.target.clone()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Who has waited longest.
    pub(super) fn first(&self) -> Option<&Waiter> {
        self.waiting.values().next()
    }

    pub(super) fn wait(&mut self, waiter: Waiter) {
        self.waiting.insert(waiter.ticket, waiter);
    }

    /// Forgets a client if it waited here; says whether it did.
    pub(super) fn leave(&mut self, ticket: Ticket) -> bool {
        self.waiting.remove(&ticket).is_some()
    }

    // -- does it answer?

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// Takes it that the target does not answer, until it does again.
    pub(super) fn close(&mut self) {
        self.open = false;
        self.answer = None;
        self.stop_asking();
    }

    /// Begins to ask the target, again and again.
    pub(super) fn ask(
        &mut self,
        index: usize,
        prober: &Prober,
        handle: &Handle,
        tasks: &TaskTracker,
    ) {
        self.probe += 1;
        let (prober, target) = (prober.clone(), self.target.clone());
        let (handle, probe) = (handle.clone(), self.probe);
        self.asking = Some(AbortOnDropHandle::new(tasks.spawn(async move {
            let mut last = String::new();
            let missed = |why: String| {
                if why != last {
                    last.clone_from(&why);
                    handle.post(Message::Missed(index, probe, why));
                }
            };
            let answer = prober.answer(&target, missed).await;
            handle.post(Message::Answered(index, probe, answer));
        })));
    }

    pub(super) fn stop_asking(&mut self) {
        self.asking = None;
    }

    /// Takes note that probe number `probe` had an answer; says whether it was the current one.
    pub(super) fn answered(&mut self, probe: u64, answer: Option<Answer>) -> bool {
        let current = probe == self.probe && self.asking.is_some();
        if current {
            self.asking = None;
            self.open = true;
            self.answer = answer;
            self.why_not = None;
        }
        current
    }

    /// Lets go of the connection that nobody has taken: by the next client it would be stale.
    pub(super) fn hang_up(&mut self) {
        self.answer = None;
    }

    pub(super) fn missed(&mut self, why: String) {
        self.why_not = Some(why);
    }

    pub(super) fn missed_by(&mut self, probe: u64, why: String) {
        if probe == self.probe {
            self.missed(why);
        }
    }

    /// Why the target did not answer when it was asked last.
    pub(super) fn why_not(&self) -> Option<&str> {
        self.why_not.as_deref()
    }

    // -- verdicts

    /// Lets everybody through if the target answers; says how many for the first time.
    pub(super) fn admit(&mut self, guests: &mut ConnectionTable) -> usize {
        if !self.open {
            return 0;
        }
        let mut count = 0;
        let mut answer = self.answer.take();
        while let Some((ticket, waiter)) = self.waiting.pop_first() {
            count += usize::from(guests.is_admitted(ticket));
            // A client that has just left returns what it was given; the next one gets it.
            if let Err(Verdict::Admitted(returned)) =
                waiter.reply.send(Verdict::Admitted(answer.take()))
            {
                answer = returned;
            }
        }
        count
    }

    /// Turns everybody away; says how many.
    pub(super) fn turn_all_away(&mut self, guests: &mut ConnectionTable) -> usize {
        self.turn_away(guests, |_| true)
    }

    /// The same for those whose limit has passed.
    pub(super) fn turn_away_at(&mut self, now: Instant, guests: &mut ConnectionTable) -> usize {
        let is_over = |limit| limit <= now;
        self.turn_away(guests, |waiter| waiter.limit.is_some_and(is_over))
    }

    fn turn_away(
        &mut self,
        guests: &mut ConnectionTable,
        which: impl Fn(&Waiter) -> bool,
    ) -> usize {
        let mut count = 0;
        for (ticket, waiter) in self.waiting.extract_if(.., |_, waiter| which(waiter)) {
            guests.is_turned_away(ticket);
            let _ = waiter.reply.send(Verdict::TurnedAway);
            count += 1;
        }
        count
    }

    /// Gives everybody who has no limit yet this one.
    pub(super) fn set_limits(&mut self, limit: Option<Instant>) {
        for waiter in self.waiting.values_mut() {
            waiter.limit = waiter.limit.or(limit);
        }
    }

    /// The service is woken: its time-out is the one that counts.
    pub(super) fn forget_limits(&mut self) {
        self.waiting
            .values_mut()
            .for_each(|waiter| waiter.limit = None);
    }

    /// The next limit to pass.
    pub(super) fn limit(&self) -> Option<Instant> {
        self.waiting
            .values()
            .filter_map(|waiter| waiter.limit)
            .min()
    }
}
