//! Between core and world: tells the core what has happened, and carries out what it says, as
//! src/service.rs does.

use super::world::{
    Client, Defect, Doing, Kind, Message, Order, Progress, Query, Stage, Verdict, World,
};
use crate::core::gate::Occupancy;
use crate::core::lifecycle::{Phase, State, Stop};
use crate::core::service::{Effect, Fact, Input, Rejection, Ticket};

impl World {
    pub(crate) fn receive(&mut self, message: Message) {
        match message {
            Message::Arrived(client) => self.feed(Input::Arrived(self.ticket(client))),
            Message::Refused(client) => {
                let target = self.target_of(client);
                if !self.has(Defect::KeepsGatesClosed) {
                    self.process().reachable[target] = false;
                }
                self.leave_gate(target);
                if self.has(Defect::LeavesTwice) && self.process().gates[target].inside() > 0 {
                    self.leave_gate(target);
                }
                self.feed(Input::Refused(self.ticket(client)));
            }
            Message::Left(client) => self.feed(Input::Left(self.ticket(client))),
            Message::Ending => self.feed(Input::Ending),
            Message::MayExit => {
                let may = self.is_idle();
                self.process().stage = Stage::Answered(may);
            }
            Message::Close { stop } => self.close(stop),
        }
    }

    /// Tells the core.
    pub(crate) fn feed(&mut self, input: Input) {
        let occupancy = self.process().occupancy();
        self.feed_with(input, occupancy);
    }

    /// The same, with what the gates have said.
    pub(crate) fn feed_with(&mut self, input: Input, occupancy: Occupancy) {
        let Some(input) = self.distorted_input(input) else {
            return;
        };
        if let Input::Stopped(result) | Input::Thawed(result) = input {
            self.process().seen_frozen = result == Err(Phase::Frozen);
        }
        if let Input::Froze(result) = input {
            self.process().seen_frozen = result.is_ok();
        }
        let process = self.process();
        let before = process.state();
        process.settled = false;
        let mut effects = process.core.handle(input, occupancy, process.now);
        self.distort(input, before, &mut effects);
        let mut answer = false;
        if let Input::Answered(target) = input {
            let process = self.process();
            process.probing[target] = false;
            process.reachable[target] = true;
            answer = true;
        }
        for effect in effects {
            self.carry_out(effect, &mut answer);
        }
        let process = self.process();
        let up = matches!(process.state(), State::Awake | State::Cooling { .. });
        let open = process.gates.iter().any(|gate| gate.is_open());
        let frozen = process.seen_frozen;
        if process.core.is_frozen() {
            process.reachable = Default::default();
        }
        self.expect(up || !open, "a gate is open though the service is not up");
        self.expect(
            !frozen || !open,
            "a gate is open though the service was seen frozen",
        );
    }

    fn carry_out(&mut self, effect: Effect, answer: &mut bool) {
        match effect {
            Effect::Report(fact) => self.note(fact),
            Effect::Admit { ticket, first } => self.admit(ticket, first, answer),
            Effect::Reject(ticket, why) => self.reject(ticket, why),
            Effect::Start(_) => {
                self.spent = self.rules.0.one_wake;
                self.order(Kind::Start);
            }
            Effect::Stop => {
                self.stops.0 += 1;
                self.expect_empty_gates();
                self.order(Kind::Stop);
            }
            Effect::Freeze => {
                self.expect_empty_gates();
                self.order(Kind::Freeze);
            }
            Effect::Thaw => self.order(Kind::Thaw),
            Effect::GiveUp { undo } => {
                if undo {
                    self.expect_empty_gates();
                }
                self.give_up_start();
                self.order(Kind::GiveUp { undo });
            }
            Effect::Query { .. } => {
                let process = self.process();
                let alone = process.query.replace(Query::Unread).is_none();
                self.expect(alone, "there are two queries at a time");
            }
            Effect::AskBusy(number) => {
                let process = self.process();
                process.verdict = Verdict::Asked;
                process.asked_at.0 = process.asked_at.0.or(Some(process.now));
                process.questions.push(number);
                // Those before the last two are never heard of again.
                let old = process.questions.len().saturating_sub(2);
                process.questions.drain(..old);
                if !self.rules.0.guarded {
                    self.answer(0, false);
                }
            }
            Effect::Probe(target) => self.process().probing[target] = true,
            Effect::CancelProbe(target) => self.process().probing[target] = false,
            Effect::Open(target) => {
                let gate = &mut self.process().gates[target];
                *gate = gate.open();
            }
            Effect::Close(target) => {
                let gate = &mut self.process().gates[target];
                *gate = gate.close();
            }
            Effect::CloseEmpty(target) => {
                let process = self.process();
                process.before.0 = process.occupancy();
                process.doing = Some(Doing::Close(target));
            }
            Effect::Watch if self.has(Defect::WatchesTooLate) => {
                self.process().arms_late = true;
                self.feed(Input::Gate);
            }
            Effect::Watch => self.process().doing = Some(Doing::Watch(0)),
        }
    }

    fn expect_empty_gates(&mut self) {
        let process = self.process();
        let empty = process.inside() == 0;
        let closed = !process.gates.iter().any(|gate| gate.is_open());
        self.expect(empty, "the service is stopped with a client inside");
        self.expect(closed, "the service is stopped with a gate open");
    }

    /// A question is answered.
    pub(crate) fn answer(&mut self, index: usize, busy: bool) {
        let trusting = self.has(Defect::BelievesLateAnswers);
        let process = self.process();
        let number = process.questions.remove(index);
        if process.core.is_asked(number) {
            process.verdict = match busy {
                true => Verdict::Busy,
                false => Verdict::Free,
            };
        }
        let latest = process.questions.last().copied();
        let number = latest.filter(|_| trusting).unwrap_or(number);
        self.feed(Input::Busy(number, busy));
    }

    fn note(&mut self, fact: Fact) {
        let limit = self.rules.0.busy_limit;
        let process = self.process();
        let rests = matches!(
            fact.to,
            State::Stopping(Stop::Ours) | State::Freezing { .. }
        );
        if matches!(fact.from, State::Cooling { .. }) && rests {
            let asked = process.asked_at.0.unwrap_or(process.now);
            let over = process.now.duration_since(asked) >= limit;
            let free = process.verdict == Verdict::Free;
            self.expect(free || over, "the service is stopped under work");
        }
        let process = self.process();
        if !matches!(fact.to, State::Cooling { .. }) {
            process.verdict = Verdict::Unasked;
            process.asked_at.0 = None;
        }
        let failed = |state| matches!(state, State::Failed { .. });
        if failed(fact.to) && !failed(fact.from) {
            let may_fail = self.excuse || self.unit.hung || self.unit.phase == Phase::Frozen;
            self.expect(may_fail, "a wake failed though nothing was wrong");
        }
        if !matches!(fact.to, State::Waking { .. } | State::Thawing { .. }) {
            self.excuse = false;
        }
        if !matches!(fact.to, State::Awake | State::Cooling { .. }) {
            self.process().reachable = Default::default();
        }
    }

    /// The client with this ticket, unless it is gone.
    fn waiting(&mut self, ticket: Ticket) -> Option<&mut Client> {
        let client = (ticket.number % self.clients.len() as u64) as u8;
        let current = self.ticket(client) == ticket;
        let client = &mut self.clients[usize::from(client)];
        (current && *client == Client::Waiting).then_some(client)
    }

    fn admit(&mut self, ticket: Ticket, first: bool, answer: &mut bool) {
        let frozen = self.process().seen_frozen;
        self.expect(
            !frozen,
            "a client was let through to a service that was seen frozen",
        );
        let ours = self.unit.ours;
        self.expect(
            !ours,
            "a client was let through to a service that wakeport froze",
        );
        let gate = &mut self.process().gates[ticket.target];
        *gate = gate.admit(first);
        match self.waiting(ticket) {
            // With the connection that proved it. If the service has died since, the client sees what
            // it would have seen without us.
            Some(client) if std::mem::take(answer) => *client = Client::Connected,
            Some(client) => *client = Client::Admitted,
            // It has just left, and returns what it was given.
            None => self.leave_gate(ticket.target),
        }
    }

    fn reject(&mut self, ticket: Ticket, why: Rejection) {
        let state = self.process().state();
        let (may, otherwise) = match why {
            Rejection::Failed | Rejection::WakeRate => (
                matches!(state, State::Failed { .. }) || self.spent,
                "a client was rejected though the service could be had",
            ),
            Rejection::Silent => (
                self.unit.hung || !self.bus,
                "a client was rejected by a target that answers",
            ),
        };
        self.expect(may, otherwise);
        if let Some(client) = self.waiting(ticket) {
            *client = Client::Rejected;
        }
        if self.has(Defect::ExitsUnderRejected) {
            self.feed(Input::Left(ticket));
        }
    }

    /// A connection leaves the gate of its target.
    pub(crate) fn leave_gate(&mut self, target: usize) {
        let tell_last = self.rules.0.tell_last;
        let silent = self.has(Defect::LeavesSilently);
        let process = self.process();
        // No two connections leave at the same time.
        process.now += std::time::Duration::from_nanos(1);
        process.left_at = Some(process.now);
        let step = process.gates[target].leave(tell_last);
        process.gates[target] = step.word;
        process.told |= step.tells && !silent;
    }

    /// A connection enters the gate of its target, if that is open.
    pub(crate) fn enter_gate(&mut self, target: usize) -> bool {
        let process = self.process();
        let Some(step) = process.gates[target].enter() else {
            return false;
        };
        process.gates[target] = step.word;
        process.told |= step.tells;
        let ours = self.unit.ours;
        self.expect(
            !ours,
            "a client was let through to a service that wakeport froze",
        );
        true
    }

    /// The service's thread gets on with the gates.
    pub(crate) fn gates_on(&mut self) {
        let ignores = self.has(Defect::ClosesOnClients);
        let pretends = self.has(Defect::StopsWithoutClosing);
        let targets = self.rules.0.targets();
        let process = self.process();
        match process.doing.take() {
            Some(Doing::Close(target)) => {
                let gate = &mut process.gates[target];
                let closed = match gate.close_empty() {
                    _ if pretends => true,
                    _ if ignores => {
                        *gate = gate.close();
                        true
                    }
                    Some(closed) => {
                        *gate = closed;
                        true
                    }
                    None => false,
                };
                process.doing = Some(Doing::Closed(target, closed));
                // Where there is no other gate, none can come in before that is reported.
                if closed && targets == 1 {
                    self.gates_on();
                }
            }
            Some(Doing::Closed(target, closed)) => {
                let occupancy = match ignores {
                    true => process.before.0,
                    false => process.occupancy(),
                };
                self.feed_with(Input::Closed(target, closed), occupancy);
            }
            Some(Doing::Watch(target)) => {
                process.gates[target] = process.gates[target].watch();
                let next = target + 1;
                match next < targets {
                    true => process.doing = Some(Doing::Watch(next)),
                    // What happens before the gates are read is told as well.
                    false => self.feed(Input::Gate),
                }
            }
            None => (),
        }
    }

    /// A query has ended.
    pub(crate) fn queried(&mut self, seen: Option<Phase>) {
        let process = self.process();
        process.query = None;
        // Once it has said that it may exit, it is as if it had.
        let exits = matches!(process.stage, Stage::Answered(true) | Stage::Closing);
        let fresh = process.core.query_is_fresh();
        if fresh {
            process.seen_frozen =
                seen == Some(Phase::Frozen) || seen.is_none() && process.seen_frozen;
        }
        if fresh && !exits {
            self.unit.known |= seen.is_some_and(|phase| phase != Phase::Down);
        }
        self.feed(Input::Queried(seen.ok_or(())));
        if !fresh && self.has(Defect::BelievesOldQueries) && self.process().query.is_some() {
            self.process().query = None;
            self.feed(Input::Queried(seen.ok_or(())));
        }
    }

    pub(crate) fn settle(&mut self) {
        self.feed(Input::Settle);
        let idle = self.is_idle();
        let process = self.process();
        process.idle = idle;
        process.settled = true;
        let up = matches!(process.state(), State::Awake | State::Cooling { .. });
        let mut targets = process.gates.iter().zip(process.reachable);
        let shut = targets.any(|(gate, reachable)| reachable && !gate.is_open());
        self.expect(
            !up || !shut,
            "a gate stays closed though its target answers",
        );
    }

    // -- orders: the first half of src/service/orders.rs

    fn give_up_start(&mut self) {
        for order in &mut self.process().orders {
            order.given_up |= order.kind == Kind::Start;
        }
    }

    fn close(&mut self, stop: bool) {
        self.give_up_start();
        let state = self.process().state();
        let frozen = matches!(
            state,
            State::Freezing { .. } | State::Frozen { .. } | State::Thawing { .. }
        );
        if stop || frozen && !self.has(Defect::ExitsFrozen) {
            self.process().orders.push(order(Kind::Close { stop }));
            self.process().stage = Stage::Stopping;
        } else {
            self.end();
        }
    }

    fn order(&mut self, kind: Kind) {
        let live = |order: &Order| match order.kind {
            Kind::Start => !order.given_up,
            Kind::Stop | Kind::Freeze | Kind::Thaw | Kind::Close { .. } => true,
            Kind::GiveUp { undo } => undo,
        };
        let alone = !self.process().orders.iter().any(live);
        self.expect(alone, "an order was given while another was under way");
        self.process().orders.push(order(kind));
    }
}

fn order(kind: Kind) -> Order {
    Order {
        kind,
        progress: Progress::Begun,
        given_up: false,
        started: false,
    }
}
