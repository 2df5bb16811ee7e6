//! The driver's loop, line by line as in src/service.rs, but for what it says and writes down. The
//! methods have the names of those that they stand for.

use std::time::{Duration, Instant};

use super::world::{
    Client, Defect, Door, Kind, Look, Message, Order, Progress, START_TIMEOUT, Sight, Stage, Timer,
    World,
};
use crate::core::lifecycle::{Action, ClientCounts, Event, Phase, State, Stop};

const SLOW_POLL: Duration = Duration::from_secs(30);
const QUICK_POLL: Duration = Duration::from_secs(1);
const A_WHILE: Duration = Duration::from_secs(10);

impl World {
    pub(crate) fn receive(&mut self, message: Message) {
        self.process().settled = false;
        match message {
            Message::Arrived(client) => {
                let door = self.door_of(client);
                self.process().doors[door].waiting.insert(client);
                self.tell(Event::Arrived);
                if self.wants_query() && self.process().look.is_none() {
                    self.look();
                }
            }
            Message::Refused(client) => {
                let door = self.door_of(client);
                let process = self.process();
                process.connected.remove(client);
                close(&mut process.doors[door]);
                process.doors[door].waiting.insert(client);
                self.look();
                self.tell(Event::Arrived);
            }
            Message::Left(client) => {
                self.forget(client);
                self.process().connected.remove(client);
                self.process().leaving.remove(client);
                self.tell(Event::Left);
            }
            Message::Woken(result) => {
                self.new_epoch();
                match result {
                    Ok(()) => {
                        self.tell(Event::Started);
                        self.look();
                    }
                    Err(()) => self.tell(Event::WakeFailed),
                }
            }
            Message::Slept(result) => {
                self.new_epoch();
                match result {
                    Ok(()) => self.tell(Event::Slept),
                    Err(phase) => self.tell(Event::SleepFailed(phase)),
                }
            }
            Message::Answered(index) => {
                let door = &mut self.process().doors[usize::from(index)];
                door.asking = false;
                door.open = true;
                door.answer = true;
                self.tell(Event::Ready);
                self.serve();
            }
            Message::Changed => self.look(),
            Message::Looked(seen) => {
                let again = std::mem::take(&mut self.process().look_again);
                let fresh = self.process().look.take().is_some_and(|look| look.fresh);
                if fresh || self.has(Defect::BelievesOldLooks) {
                    self.looked(seen);
                }
                if again || !fresh {
                    self.look();
                }
            }
            Message::MayExit => {
                let may = self.is_idle();
                self.process().stage = Stage::Answered(may);
            }
            Message::Close { sleep } => self.close(sleep),
        }
    }

    fn tell(&mut self, event: Event) {
        if self.is_deaf_to(event) {
            return;
        }
        let crowd = self.crowd();
        let process = self.process();
        let before = process.state();
        let now = process.core.now;
        let action = process.core.lifecycle.handle(event, crowd, now);
        let after = process.state();
        if before != after {
            self.enter(event, before, after);
        }
        match self.distorted(event, action) {
            Some(Action::Wake) => {
                self.spent = self.rules.0.one_wake;
                self.wake();
            }
            Some(Action::Sleep) => self.order(Kind::Sleep),
            Some(Action::Admit) => self.serve(),
            Some(Action::TurnAway) => {
                let failed = matches!(after, State::Failed { retry_at, .. } if now < retry_at);
                if self.rules.0.one_wake && !failed {
                    self.process().stays = Timer(now.checked_add(A_WHILE));
                }
                self.turn_all_away();
            }
            Some(Action::GiveUp { undo }) => {
                self.turn_all_away();
                self.give_up(undo);
            }
            None => (),
        }
    }

    /// What a driver with a defect does not tell.
    fn is_deaf_to(&mut self, event: Event) -> bool {
        let Some(defect) = self.rules.0.defect else {
            return false;
        };
        match self.process().state() {
            State::Asleep => {
                defect == Defect::NeverAdopts && matches!(event, Event::Seen(Phase::Up))
            }
            State::Cooling { .. } => defect == Defect::NeverCools && event == Event::Due,
            State::Failed { .. } => defect == Defect::NeverForgets && event == Event::Due,
            State::Waking { .. } | State::Awake | State::Stopping(_) => false,
        }
    }

    /// What a driver with a defect makes of what it is told to do.
    fn distorted(&mut self, event: Event, action: Option<Action>) -> Option<Action> {
        let Some(defect) = self.rules.0.defect else {
            return action;
        };
        let arrived = event == Event::Arrived;
        match (defect, self.process().state(), action) {
            (Defect::WakesForEach, State::Waking { .. }, None) if arrived => Some(Action::Wake),
            (Defect::WakesDuringAStop, State::Stopping(_), None) if arrived => Some(Action::Wake),
            (Defect::TurnsAwayDuringAStop, State::Stopping(_), None) if arrived => {
                Some(Action::TurnAway)
            }
            (Defect::ForgetsWhoWaited, _, Some(Action::Wake)) if event == Event::Slept => None,
            (_, _, action) => action,
        }
    }

    fn enter(&mut self, event: Event, before: State, after: State) {
        if let State::Failed { .. } = after
            && !matches!(before, State::Failed { .. })
        {
            let may_fail = self.excuse || self.service.hung;
            self.expect(may_fail, "a wake failed though nothing was wrong");
        }
        if !matches!(after, State::Waking { .. }) {
            self.excuse = false;
        }
        let process = self.process();
        if !matches!(after, State::Awake | State::Cooling { .. }) {
            process.doors.iter_mut().for_each(close);
        }
        if after != State::Asleep || !matches!(event, Event::Seen(_)) {
            process.seen_down = false;
        }
        process.look_at = Timer(None);
    }

    pub(crate) fn crowd(&self) -> ClientCounts {
        let process = self.wakeport.as_ref().expect("wakeport runs");
        ClientCounts {
            waiting: process.doors.iter().map(|door| door.waiting.len()).sum(),
            connected: process.connected.len(),
        }
    }

    fn wants_query(&self) -> bool {
        let process = self.wakeport.as_ref().expect("wakeport runs");
        process.core.lifecycle.wants_query(self.crowd())
    }

    // -- clients

    fn serve(&mut self) {
        let (awake, probing) = match self.process().state() {
            State::Awake => (true, true),
            State::Waking { started, .. } => (false, started),
            State::Asleep | State::Cooling { .. } | State::Stopping(_) | State::Failed { .. } => {
                (false, false)
            }
        };
        let waits_for_a_look = self.wants_query();
        for index in 0..self.process().doors.len() {
            if awake {
                self.admit(index);
            }
            if awake || waits_for_a_look {
                self.set_limits(index);
            }
            let process = self.process();
            let woken_for = process.woken_for;
            let door = &mut process.doors[index];
            if !awake {
                door.answer = false;
            }
            let wanted = door.waiting.len() > 0 || !awake && index == usize::from(woken_for);
            door.asking = probing && wanted && !door.open;
        }
    }

    fn admit(&mut self, index: usize) {
        if !self.process().doors[index].open || self.has(Defect::ForgetsToAdmit) {
            return;
        }
        let mut answer = std::mem::take(&mut self.process().doors[index].answer);
        for client in self.process().doors[index].waiting.iter() {
            self.forget(client);
            self.process().connected.insert(client);
            let client = &mut self.clients[usize::from(client)];
            if *client == Client::Waiting {
                // With the connection that proved it. If the service has died since, the client sees what
                // it would have seen without us.
                let connected = std::mem::take(&mut answer);
                *client = if connected {
                    Client::Connected
                } else {
                    Client::Admitted
                };
            }
        }
    }

    /// Gives those who wait though the service is up a limit.
    fn set_limits(&mut self, index: usize) {
        let process = self.process();
        let limit = process.core.now.checked_add(START_TIMEOUT);
        for client in process.doors[index].waiting.iter() {
            let Timer(at) = &mut process.limits[usize::from(client)];
            *at = at.or(limit);
        }
    }

    /// It waits no more.
    fn forget(&mut self, client: u8) {
        let process = self.process();
        for door in &mut process.doors {
            door.waiting.remove(client);
        }
        process.limits[usize::from(client)] = Timer(None);
    }

    fn turn_all_away(&mut self) {
        let state = self.process().state();
        let failed = matches!(state, State::Failed { .. });
        let may = failed || self.spent;
        for index in 0..self.process().doors.len() {
            for client in self.process().doors[index].waiting.iter() {
                self.expect(may, "a client was turned away from a service to be had");
                self.turn_away(client);
            }
        }
    }

    fn turn_away(&mut self, client: u8) {
        self.forget(client);
        self.process().leaving.insert(client);
        let client = &mut self.clients[usize::from(client)];
        if *client == Client::Waiting {
            *client = Client::TurnedAway;
        }
    }

    // -- looks

    fn look(&mut self) {
        let process = self.process();
        process.look_at = Timer(None);
        if process.look.is_some() {
            process.look_again = true;
            return;
        }
        process.look = Some(Look {
            fresh: true,
            sight: Sight::Unread,
        });
    }

    fn looked(&mut self, seen: Option<Phase>) {
        let now = self.process().core.now;
        match seen {
            Some(phase) => {
                // Once it has said that it may exit, it is as if it had.
                let exits = matches!(self.process().stage, Stage::Answered(true) | Stage::Closing);
                self.service.known |= phase != Phase::Down && !exits;
                self.process().seen_down = phase == Phase::Down;
                self.tell(Event::Seen(phase));
                let waited_for = self.wants_query();
                let process = self.process();
                if waited_for || process.state() == State::Asleep && !process.seen_down {
                    process.look_at = Timer(now.checked_add(QUICK_POLL));
                }
            }
            None => self.process().look_at = Timer(now.checked_add(QUICK_POLL)),
        }
    }

    /// An order was begun or is over.
    pub(crate) fn new_epoch(&mut self) {
        if let Some(look) = &mut self.process().look {
            look.fresh = false;
        }
    }

    pub(crate) fn is_idle(&mut self) -> bool {
        let blindly = self.has(Defect::ExitsBlindly);
        let rudely = self.has(Defect::ExitsUnderThoseWhoLeave);
        let process = self.process();
        let nothing_to_do = match process.state() {
            State::Asleep => process.seen_down || blindly,
            State::Failed { .. }
            | State::Waking { .. }
            | State::Awake
            | State::Cooling { .. }
            | State::Stopping(_) => false,
        };
        let gone = process.leaving.len() == 0 || rudely;
        let gone = gone && process.stays.0.is_none();
        nothing_to_do && gone && self.crowd().is_empty()
    }

    // -- time

    /// The lifecycle's deadline is over.
    pub(crate) fn tick_lifecycle(&mut self, at: Instant) {
        let process = self.process();
        process.settled = false;
        process.core.now = process.core.now.max(at);
        self.tell(Event::Due);
    }

    pub(crate) fn tick_look(&mut self) {
        self.process().settled = false;
        self.look();
    }

    pub(crate) fn tick_stay(&mut self) {
        self.process().settled = false;
        self.process().stays = Timer(None);
    }

    /// A client whose target is silent, while the service is up, has waited long enough.
    pub(crate) fn tick_limit(&mut self, client: u8) {
        self.process().settled = false;
        let silent = self.service.hung || !self.bus;
        self.expect(
            silent,
            "a client was turned away from a target that answers",
        );
        self.turn_away(client);
        self.tell(Event::Left);
    }

    pub(crate) fn settle(&mut self) {
        self.serve();
        let polls = !self.has(Defect::NeverPolls);
        let process = self.process();
        let (state, now) = (process.state(), process.core.now);
        if process.look.is_some() {
            // What comes of it is known in a moment.
        } else if state == State::Asleep && !process.seen_down && process.look_at.0.is_none() {
            self.look();
        } else if polls {
            let anxious = matches!(
                state,
                State::Waking { started: true, .. } | State::Stopping(Stop::Theirs)
            );
            let at = now + if anxious { QUICK_POLL } else { SLOW_POLL };
            let Timer(look_at) = process.look_at;
            process.look_at = Timer(Some(look_at.map_or(at, |earlier| earlier.min(at))));
        }
        let idle = self.is_idle();
        let process = self.process();
        process.idle = idle;
        process.settled = true;
    }

    // -- orders: the first half of src/service/orders.rs

    fn wake(&mut self) {
        let doors = &self.process().doors;
        let Some(door) = doors.iter().position(|door| door.waiting.len() > 0) else {
            return;
        };
        let process = self.process();
        process.woken_for = u8::try_from(door).expect("few doors");
        process.limits = Default::default();
        self.order(Kind::Wake);
    }

    fn give_up(&mut self, undo: bool) {
        for order in &mut self.process().orders {
            order.given_up |= order.kind == Kind::Wake;
        }
        self.order(Kind::GiveUp { undo });
    }

    fn close(&mut self, sleep: bool) {
        for order in &mut self.process().orders {
            order.given_up |= order.kind == Kind::Wake;
        }
        if sleep {
            self.process().orders.push(order(Kind::Close));
            self.process().stage = Stage::Stopping;
        } else {
            self.end();
        }
    }

    fn order(&mut self, kind: Kind) {
        let live = |order: &Order| match order.kind {
            Kind::Wake => !order.given_up,
            Kind::Sleep | Kind::Close => true,
            Kind::GiveUp { undo } => undo,
        };
        let alone = !self.process().orders.iter().any(live);
        self.expect(alone, "an order was given while another was under way");
        self.new_epoch();
        self.process().orders.push(order(kind));
    }

    pub(crate) fn door_of(&self, client: u8) -> usize {
        usize::from(self.rules.0.clients[usize::from(client)])
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

fn close(door: &mut Door) {
    *door = Door {
        waiting: door.waiting,
        ..Door::default()
    };
}
