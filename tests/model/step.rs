//! What can happen next, each step at once and by itself. What a task reads and what it then tells
//! are two steps, so anything may come in between.

use super::world::{
    CLIENTS, Client, Defect, End, Kind, Message, Process, Progress, Query, Stage, Verdict, World,
};
use crate::core::lifecycle::{Phase, State};
use crate::core::service::{Input, Timer};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    // -- happens by itself, sooner or later
    /// The first connection in the backlog is accepted, and enters by the gate or waits.
    Accept,
    /// The service takes a message from its inbox.
    Receive,
    /// It receives that a gate has told.
    Told,
    /// It receives what an order has come to.
    Report,
    /// It has emptied its inbox.
    Settle,
    /// It gets on with the gates.
    Gates,
    /// Gates that were to be watched are armed, too late.
    ArmLate,
    /// The lifecycle's deadline is over.
    Due,
    /// A failure's back-off is over; the core is not told.
    Retry,
    /// The pause before the next query is over,
    Poll,
    /// or that before the gates are read again,
    Sample,
    /// or the stay after a client was refused,
    Lingered,
    /// or the time that an answer may take.
    NoAnswer,
    /// A wake is left again.
    Refill,
    /// A client's limit is over.
    Limit(u8),
    /// An order gets further.
    Order,
    /// A query gets further.
    Query,
    /// The probe has an answer (src/service/probe.rs).
    Probe(u8),
    /// The unit gets further in what it does.
    Unit,
    /// A client's session gets further (src/session.rs).
    Session(u8),
    /// The process gets further on its way out (src/server.rs).
    Exit,
    /// `--drain-timeout` is over.
    Drain,
    /// systemd starts wakeport because a client is in the backlog,
    Activate,
    /// or because it was killed.
    Restart,
    /// The bus is back.
    BusBack,
    // -- may happen, or not
    /// A question is answered: no work keeps the service awake.
    Answer(u8),
    /// A signal tells that the service has changed, or that the bus is back.
    News,
    /// The next client connects.
    Come,
    /// Trouble, of which there is only so much.
    Wrong(Wrong),
}

/// What may go wrong, or just differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// A client leaves before it is served.
    Leave(u8),
    /// A question is answered: work keeps the service awake.
    Work(u8),
    /// A start takes too long, though it gets further.
    TooSlow,
    /// systemd refuses to start the service: polkit, a unit that is masked, a start limit.
    StartRefused,
    /// A start fails, is cancelled or times out.
    StartFails,
    /// It was given up before its reply said that it began.
    StartUnheard,
    /// A stop is refused, or takes too long.
    StopFails,
    /// The service is not frozen, or is, but that is not known.
    FreezeFails,
    /// It is not thawed.
    ThawFails,
    /// The service dies,
    Dies,
    /// or restarts itself,
    RestartsItself,
    /// or gets no further.
    Hangs,
    /// The administrator starts the service,
    AdminStarts,
    /// or stops it,
    AdminStops,
    /// or freezes it.
    AdminFreezes,
    BusGone,
    /// SIGKILL
    Kill,
    /// SIGTERM
    Term,
    /// SIGTERM for a restart
    HandOver,
}

impl Step {
    /// What is not kept waiting even if something else comes in between each time: timers, since time
    /// passes, and what the service does as soon as its inbox is empty. So are clients' limits.
    pub(crate) const INSISTENT: [Self; 7] = [
        Self::Due,
        Self::Retry,
        Self::Poll,
        Self::Sample,
        Self::NoAnswer,
        Self::Drain,
        Self::Settle,
    ];

    /// For steps that happen by themselves: of which kind they are. No kind is kept waiting for
    /// ever.
    pub(crate) fn kind(self) -> Option<u8> {
        Some(match self {
            Self::Accept => 0,
            Self::Receive => 1,
            Self::Settle => 2,
            Self::Due => 3,
            Self::Retry => 4,
            Self::Poll => 5,
            Self::Order => 6,
            Self::Query => 7,
            Self::Unit => 8,
            Self::Exit => 9,
            Self::Drain => 10,
            Self::Activate => 11,
            Self::Restart => 12,
            Self::BusBack => 13,
            Self::Limit(client) => 14 + client,
            Self::Session(client) => 18 + client,
            Self::Probe(target) => 22 + target,
            Self::Refill => 24,
            Self::Lingered => 25,
            Self::Gates => 26,
            Self::Told => 27,
            Self::Sample => 28,
            Self::Report => 29,
            Self::ArmLate => 30,
            Self::NoAnswer => 31,
            Self::News | Self::Answer(_) | Self::Come | Self::Wrong(_) => return None,
        })
    }

    /// Whether it takes nothing from what may go wrong.
    pub(crate) fn is_possible_for_ever(self) -> bool {
        self.kind().is_some() || matches!(self, Self::News | Self::Answer(_))
    }
}

impl World {
    /// All that can happen next.
    pub(crate) fn steps(&self, steps: &mut Vec<Step>) {
        steps.clear();
        let mut may = |holds: bool, step: Step| {
            if holds {
                steps.push(step);
            }
        };
        self.outside(&mut may);
        self.trouble(&mut may);
        if let Some(process) = &self.process {
            self.inside(process, &mut may);
        }
    }

    fn outside(&self, may: &mut impl FnMut(bool, Step)) {
        let unit = &self.unit;
        let backlog = self.clients.contains(&Client::Backlog);
        let gets_further = match unit.phase {
            Phase::Down => false,
            // One that hangs while it starts fails in the end.
            Phase::Starting | Phase::Stopping => true,
            Phase::Up => !unit.answers && !unit.hung,
            // The administrator thaws it for those that are connected.
            Phase::Frozen => self.clients.contains(&Client::Connected),
        };
        may(gets_further, Step::Unit);
        may(self.process.is_none() && backlog, Step::Activate);
        may(self.process.is_none() && self.restarts, Step::Restart);
        may(!self.bus, Step::BusBack);
        may(self.next_client().is_some(), Step::Come);
        may(self.spent, Step::Refill);
    }

    fn inside(&self, process: &Process, may: &mut impl FnMut(bool, Step)) {
        let backlog = self.clients.contains(&Client::Backlog);
        may(self.accepts(process) && backlog, Step::Accept);
        for (client, state) in self.clients() {
            let at_work = matches!(
                state,
                Client::Admitted | Client::Rejected | Client::Connected
            );
            may(at_work, Step::Session(client));
        }
        may(self.order_goes_on(), Step::Order);
        may(self.exits(process), Step::Exit);
        may(process.stage == Stage::Draining, Step::Drain);
        may(process.query == Some(Query::Unread), Step::Query);
        may(process.arms_late, Step::ArmLate);
        if process.stage == Stage::Stopping {
            return;
        }
        if process.doing.is_some() {
            may(true, Step::Gates);
            return;
        }
        may(!process.inbox.is_empty(), Step::Receive);
        may(!process.reports.is_empty(), Step::Report);
        may(process.told, Step::Told);
        for index in 0..process.questions.len() {
            may(true, Step::Answer(index as u8));
        }
        may(matches!(process.query, Some(Query::Read(_))), Step::Query);
        for (index, probing) in (0..).zip(process.probing) {
            may(probing && self.unit.answers, Step::Probe(index));
        }
        // Where one query is under way, a second signal would not be told from the first.
        may(self.bus && !process.core.will_query_again(), Step::News);
        if process.inbox.is_empty() {
            may(!process.settled, Step::Settle);
            self.timers(process, may);
        }
    }

    fn timers(&self, process: &Process, may: &mut impl FnMut(bool, Step)) {
        let hung = self.unit.hung;
        for (timer, _) in process.core.timers() {
            match timer {
                Timer::Lifecycle => match process.state() {
                    State::Waking { .. } => {
                        let dead = !self.rules.0.can_tell && self.unit.phase == Phase::Down;
                        let forgotten = self.unit.phase == Phase::Frozen
                            && !self.clients.contains(&Client::Waiting);
                        let stuck = hung || forgotten || dead && process.orders.is_empty();
                        may(stuck, Step::Due);
                        may(
                            !stuck && self.left.failures > 0,
                            Step::Wrong(Wrong::TooSlow),
                        );
                    }
                    State::Failed { .. } => {
                        // It takes a minute; a start that is given up ends within seconds.
                        let over = process.orders.is_empty() && process.reports.is_empty();
                        may(over, Step::Due);
                    }
                    State::Asleep | State::Awake | State::Cooling { .. } | State::Stopping(_) => {
                        may(true, Step::Due);
                    }
                    State::Freezing { .. } | State::Frozen { .. } | State::Thawing { .. } => {
                        may(true, Step::Due);
                    }
                },
                Timer::Query => may(!self.has(Defect::NeverPolls), Step::Poll),
                Timer::Sample => may(true, Step::Sample),
                Timer::Answer => may(true, Step::NoAnswer),
                Timer::Linger => may(true, Step::Lingered),
                Timer::Limit(ticket) => {
                    let client = (ticket.number % CLIENTS as u64) as u8;
                    may(hung || !self.bus, Step::Limit(client));
                }
            }
        }
        if let State::Failed { retry_at, .. } = process.state() {
            may(process.now < retry_at, Step::Retry);
        }
    }

    fn trouble(&self, may: &mut impl FnMut(bool, Step)) {
        let (left, unit) = (self.left, &self.unit);
        let fails = left.failures > 0;
        let runs = matches!(unit.phase, Phase::Up | Phase::Starting | Phase::Frozen);
        may(
            fails && unit.phase == Phase::Starting,
            Step::Wrong(Wrong::StartFails),
        );
        may(
            fails && (unit.phase == Phase::Up || unit.ours),
            Step::Wrong(Wrong::Dies),
        );
        may(
            fails && unit.phase == Phase::Up,
            Step::Wrong(Wrong::RestartsItself),
        );
        may(
            fails && runs && !unit.answers && !unit.hung && !unit.ours,
            Step::Wrong(Wrong::Hangs),
        );
        let starts = unit.phase == Phase::Down || unit.phase == Phase::Stopping && !unit.again;
        may(left.admin > 0 && starts, Step::Wrong(Wrong::AdminStarts));
        may(
            left.admin > 0 && (runs || unit.again),
            Step::Wrong(Wrong::AdminStops),
        );
        may(
            left.freezes > 0 && unit.phase == Phase::Up,
            Step::Wrong(Wrong::AdminFreezes),
        );
        may(left.bus > 0 && self.bus, Step::Wrong(Wrong::BusGone));
        let Some(process) = &self.process else {
            return;
        };
        if let Some(order) = process.orders.first() {
            let begun = order.progress == Progress::Begun;
            let going = order.progress == Progress::Going;
            let begun_to_fail = order.progress == Progress::Failing;
            match order.kind {
                Kind::Start => {
                    may(
                        fails && begun && !order.given_up,
                        Step::Wrong(Wrong::StartRefused),
                    );
                    may(
                        begun && order.given_up && self.bus,
                        Step::Wrong(Wrong::StartUnheard),
                    );
                }
                Kind::Freeze => may(fails, Step::Wrong(Wrong::FreezeFails)),
                Kind::Thaw => may(fails && !begun_to_fail, Step::Wrong(Wrong::ThawFails)),
                Kind::Close { stop: false } => (),
                Kind::Stop | Kind::GiveUp { undo: true } | Kind::Close { stop: true } => {
                    may(fails && (begun || going), Step::Wrong(Wrong::StopFails));
                }
                Kind::GiveUp { undo: false } => (),
            }
        }
        if left.leaves > 0 {
            for (client, state) in self.clients() {
                let may_leave = matches!(state, Client::Waiting | Client::Admitted);
                may(may_leave, Step::Wrong(Wrong::Leave(client)));
            }
        }
        if left.works > 0 && process.doing.is_none() && process.stage != Stage::Stopping {
            for index in 0..process.questions.len() {
                may(true, Step::Wrong(Wrong::Work(index as u8)));
            }
        }
        may(left.kills > 0, Step::Wrong(Wrong::Kill));
        may(
            left.terms > 0 && process.stage == Stage::Serving,
            Step::Wrong(Wrong::Term),
        );
        may(
            left.restarts > 0 && process.stage == Stage::Serving,
            Step::Wrong(Wrong::HandOver),
        );
    }

    fn accepts(&self, process: &Process) -> bool {
        match process.stage {
            Stage::Serving => true,
            Stage::Asking | Stage::Answered(true) => self.has(Defect::AsksWithOpenListeners),
            Stage::Answered(false)
            | Stage::Closing
            | Stage::Draining
            | Stage::Drained
            | Stage::Stopping => false,
        }
    }

    /// Whether the process can get further on its way out.
    fn exits(&self, process: &Process) -> bool {
        match process.stage {
            Stage::Serving => process.idle,
            Stage::Answered(_) => true,
            Stage::Draining => !self.clients.iter().any(|client| client.is_accepted()),
            Stage::Stopping => process.orders.is_empty(),
            Stage::Asking | Stage::Closing | Stage::Drained => false,
        }
    }

    fn clients(&self) -> impl Iterator<Item = (u8, Client)> {
        (0..).zip(self.clients[..self.rules.0.clients.len()].iter().copied())
    }

    fn next_client(&self) -> Option<u8> {
        let mut clients = self.clients();
        let next = clients.find(|&(_, client)| client == Client::Away);
        next.map(|(client, _)| client)
    }

    /// Does it.
    pub(crate) fn take(&mut self, step: Step) {
        match step {
            Step::Accept => _ = self.accept(),
            Step::Receive => {
                let message = self.process().inbox.remove(0);
                self.receive(message);
            }
            Step::Told => {
                self.process().told = false;
                self.feed(Input::Gate);
            }
            Step::Report => {
                let input = self.process().reports.remove(0);
                self.feed(input);
            }
            Step::Settle => self.settle(),
            Step::Gates => self.gates_on(),
            Step::ArmLate => {
                let process = self.process();
                process.arms_late = false;
                process.gates = process.gates.map(|gate| gate.watch());
            }
            Step::Due => self.due(Timer::Lifecycle),
            Step::Retry => {
                if let State::Failed { retry_at, .. } = self.process().state() {
                    self.process().pass(retry_at);
                }
            }
            Step::Poll => self.feed(Input::Due(Timer::Query)),
            Step::Sample => self.feed(Input::Due(Timer::Sample)),
            Step::Lingered => self.feed(Input::Due(Timer::Linger)),
            Step::Answer(index) => self.answer(usize::from(index), false),
            Step::NoAnswer => {
                self.process().verdict = Verdict::Free;
                self.due(Timer::Answer);
            }
            Step::Refill => self.refill(),
            Step::Limit(client) => self.due(Timer::Limit(self.ticket(client))),
            Step::Order => self.order_on(),
            Step::Query => self.query_on(),
            Step::Probe(target) => self.feed(Input::Answered(usize::from(target))),
            Step::Unit => self.unit_on(),
            Step::Session(client) => self.session_on(client),
            Step::Exit => self.exit_on(),
            Step::Drain => self.cut(),
            Step::Activate | Step::Restart => {
                self.restarts = false;
                self.handed_on = false;
                self.process = Some(Process::new(self.rules.0, self.limiter(), self.now.0));
            }
            Step::BusBack => self.bus = true,
            Step::News => self.feed(Input::Changed),
            Step::Come => {
                let next = self.next_client().expect("one is left");
                self.clients[usize::from(next)] = Client::Backlog;
            }
            Step::Wrong(wrong) => self.go_wrong(wrong),
        }
        self.check_counts();
    }

    fn go_wrong(&mut self, wrong: Wrong) {
        let left = &mut self.left;
        match wrong {
            Wrong::Leave(_) => left.leaves -= 1,
            Wrong::Work(_) => left.works -= 1,
            Wrong::AdminStarts | Wrong::AdminStops => left.admin -= 1,
            Wrong::AdminFreezes => left.freezes -= 1,
            Wrong::BusGone => left.bus -= 1,
            Wrong::Kill => left.kills -= 1,
            Wrong::Term => left.terms -= 1,
            Wrong::HandOver => left.restarts -= 1,
            Wrong::StartUnheard => (),
            Wrong::TooSlow
            | Wrong::StartRefused
            | Wrong::StartFails
            | Wrong::StopFails
            | Wrong::FreezeFails
            | Wrong::ThawFails
            | Wrong::Dies
            | Wrong::RestartsItself
            | Wrong::Hangs => left.failures -= 1,
        }
        let excuses = !matches!(
            wrong,
            Wrong::Leave(_)
                | Wrong::Work(_)
                | Wrong::AdminStarts
                | Wrong::AdminFreezes
                | Wrong::BusGone
                | Wrong::Kill
                | Wrong::Term
                | Wrong::HandOver
                | Wrong::StartUnheard
        );
        self.excuse |= excuses && self.is_waking();
        match wrong {
            Wrong::Leave(client) => self.leave(client, End::Left),
            Wrong::Work(index) => self.answer(usize::from(index), true),
            Wrong::TooSlow => self.take(Step::Due),
            Wrong::StartRefused => self.started(Err(())),
            Wrong::StartUnheard => {
                self.unit.start();
                self.started(Err(()));
            }
            Wrong::StopFails | Wrong::ThawFails => {
                self.process().orders[0].progress = Progress::Failing;
            }
            Wrong::FreezeFails => {
                let order = &mut self.process().orders[0];
                let late = order.progress == Progress::Going;
                order.progress = Progress::Failing;
                if late {
                    self.unit.freeze();
                }
            }
            Wrong::StartFails | Wrong::Dies => self.unit.becomes(Phase::Down),
            Wrong::RestartsItself => {
                self.unit.becomes(Phase::Starting);
                self.unit.by_itself = true;
            }
            Wrong::Hangs => self.unit.hung = true,
            Wrong::AdminStarts => {
                self.unit.start();
                self.unit.by_admin = true;
                self.unit.known = false;
                self.handed_on |= self.process.is_none() && !self.restarts;
            }
            // From systemd 256 on.
            Wrong::AdminStops if self.unit.ours => self.unit.refused = true,
            Wrong::AdminStops => self.unit.stop(),
            // What listens goes on to accept connections.
            Wrong::AdminFreezes => self.unit.phase = Phase::Frozen,
            Wrong::BusGone => self.bus = false,
            Wrong::Kill => {
                for client in &mut self.clients {
                    if client.is_accepted() {
                        *client = Client::Gone(End::Cut);
                    }
                }
                self.process = None;
                self.replaced.0 = true;
                self.restarts = true;
                self.excuse = false;
            }
            Wrong::Term => {
                self.process().stage = Stage::Draining;
                if self.rules.0.freezes {
                    self.post(Message::Ending);
                }
            }
            Wrong::HandOver => self.hand_over(),
        }
    }

    /// `handover::hand_over`, and `handover::take` of the next process, which finds everything else as
    /// it is. A client whose verdict was not received yet waits anew.
    fn hand_over(&mut self) {
        let mut next = Process::new(self.rules.0, self.limiter(), self.now.0);
        for client in 0..self.rules.0.clients.len() as u8 {
            let target = self.target_of(client);
            let state = &mut self.clients[usize::from(client)];
            match state {
                Client::Connected
                    if self.rules.0.defect == Some(Defect::ForgetsWhoWasConnected) => {}
                Client::Connected => next.gates[target] = next.gates[target].admit(false),
                Client::Waiting | Client::Admitted | Client::Rejected => {
                    *state = Client::Waiting;
                    next.inbox.push(Message::Arrived(client));
                }
                Client::Away | Client::Backlog | Client::Gone(_) => (),
            }
        }
        self.process = Some(next);
        self.replaced.0 = true;
    }

    /// A wake is under way, so what goes wrong may make it fail.
    fn is_waking(&self) -> bool {
        let state = self.process.as_ref().map(Process::state);
        matches!(state, Some(State::Waking { .. } | State::Thawing { .. }))
    }

    fn due(&mut self, timer: Timer) {
        let process = self.process();
        if let Some(at) = process.at(timer) {
            process.pass(at);
        }
        let expected = self.unit.hung || !self.bus;
        self.expect(
            expected || !matches!(timer, Timer::Limit(_)),
            "a client was rejected by a target that answers",
        );
        let targets = self.rules.0.targets();
        let process = self.process();
        let silent = matches!(timer, Timer::Limit(_))
            && process.state() == State::Awake
            && process.inside() == 0
            && process.probing[..targets].iter().all(|&asked| asked);
        let mut occupancy = process.occupancy();
        occupancy.inside += usize::from(silent && self.has(Defect::KeepsTheSilent));
        self.feed_with(Input::Due(timer), occupancy);
        let stops = matches!(self.process().state(), State::Stopping(_));
        self.expect(!silent || stops, "a service that answers no client goes on");
    }

    fn unit_on(&mut self) {
        let unit = &mut self.unit;
        match unit.phase {
            Phase::Starting if unit.hung => {
                unit.becomes(Phase::Down);
                self.excuse |= self.is_waking();
            }
            Phase::Starting => unit.becomes(Phase::Up),
            Phase::Up => unit.answers = true,
            Phase::Frozen => unit.thaw(),
            Phase::Stopping if unit.again => {
                unit.again = false;
                unit.becomes(Phase::Starting);
            }
            Phase::Stopping => unit.becomes(Phase::Down),
            Phase::Down => (),
        }
    }

    fn query_on(&mut self) {
        let mut seen = self.bus.then_some(self.unit.phase);
        if self.process().query == Some(Query::Unread)
            && self.bus
            && std::mem::take(&mut self.unit.refused)
        {
            seen = Some(Phase::Starting);
        }
        match self.process().query {
            Some(Query::Unread) => self.process().query = Some(Query::Read(seen)),
            Some(Query::Read(seen)) => self.queried(seen),
            None => (),
        }
    }

    /// Time passes, of which the core is not told.
    fn refill(&mut self) {
        self.spent = false;
        let limiter = self.limiter();
        if let Some(process) = &mut self.process {
            process.core.limit_wakes(limiter);
        }
    }

    // -- clients

    /// `Route::accept`; whether there was a client.
    fn accept(&mut self) -> bool {
        let first = self.clients().find(|&(_, state)| state == Client::Backlog);
        let Some((client, _)) = first else {
            return false;
        };
        let target = self.target_of(client);
        let enters = self.enter_gate(target);
        self.clients[usize::from(client)] = match enters {
            true => Client::Admitted,
            false => Client::Waiting,
        };
        if !enters {
            self.post(Message::Arrived(client));
        }
        true
    }

    /// `Route::reach` and `Served::relay`.
    fn session_on(&mut self, client: u8) {
        let answers = self.unit.answers;
        let state = &mut self.clients[usize::from(client)];
        match state {
            Client::Admitted if answers => *state = Client::Connected,
            Client::Admitted => {
                *state = Client::Waiting;
                self.post(Message::Refused(client));
            }
            Client::Rejected => self.leave(client, End::Rejected),
            Client::Connected => self.leave(client, End::Served),
            Client::Away | Client::Backlog | Client::Waiting | Client::Gone(_) => (),
        }
    }

    /// Its permit is dropped, or its place in the queue.
    fn leave(&mut self, client: u8, end: End) {
        let state = &mut self.clients[usize::from(client)];
        let before = std::mem::replace(state, Client::Gone(end));
        match before {
            Client::Admitted | Client::Connected => self.leave_gate(self.target_of(client)),
            Client::Waiting | Client::Rejected => self.post(Message::Left(client)),
            Client::Away | Client::Backlog | Client::Gone(_) => (),
        }
    }

    fn cut(&mut self) {
        for client in 0..self.rules.0.clients.len() {
            if self.clients[client].is_accepted() {
                self.leave(client as u8, End::Cut);
            }
        }
    }

    // -- the process

    fn exit_on(&mut self) {
        let stage = self.process().stage;
        match stage {
            Stage::Serving => {
                self.process().stage = Stage::Asking;
                self.post(Message::MayExit);
            }
            Stage::Answered(true) => {
                if self.accept() {
                    self.process().stage = Stage::Serving;
                } else {
                    self.process().stage = Stage::Closing;
                    self.post(Message::Close { stop: false });
                }
            }
            Stage::Answered(false) if self.has(Defect::KeepsListenersClosed) => (),
            Stage::Answered(false) => self.process().stage = Stage::Serving,
            Stage::Draining => {
                self.process().stage = Stage::Drained;
                let stop = self.rules.0.stop_on_exit;
                self.post(Message::Close { stop });
            }
            Stage::Stopping => self.end(),
            Stage::Asking | Stage::Closing | Stage::Drained => (),
        }
    }

    /// The process is gone.
    pub(crate) fn end(&mut self) {
        let told = self.process().stage != Stage::Closing;
        let stop = told && self.rules.0.stop_on_exit;
        let empty = self.process().inside() == 0;
        let unit = self.unit;
        let runs = unit.phase != Phase::Down;
        let none = empty && !self.clients.iter().any(|client| client.is_accepted());
        self.expect(none, "wakeport has exited with a client accepted");
        self.expect(
            !unit.ours || self.excuse,
            "wakeport has left a service frozen",
        );
        // One that died before its new wakeport has looked is thawed by its next start.
        let looked_after = told || !unit.stuck || self.replaced.0;
        self.expect(looked_after, "wakeport has left a slice frozen");
        let unknown = unit.by_admin && !unit.known;
        let left_behind = told && (!stop || self.excuse);
        self.expect(
            !runs || unknown || left_behind,
            "wakeport has left a service running that nothing will stop",
        );
        self.handed_on = runs;
        self.excuse = false;
        self.process = None;
    }
}
