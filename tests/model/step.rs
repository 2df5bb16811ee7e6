//! What can happen next, each step at once and by itself. What a task reads and what it then tells
//! are two steps, so anything may come in between.

use super::world::{Client, Defect, End, Kind, Message, Progress, Sight, Stage, Wakeport, World};
use crate::core::lifecycle::{Phase, State};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    // -- happens by itself, sooner or later
    /// `Acceptor::accept` takes the first client from the backlog (src/server/accept.rs).
    Accept,
    /// The driver takes a message from its inbox.
    Receive,
    /// It has emptied it.
    Settle,
    /// The lifecycle's deadline is over.
    Due,
    /// A failure's back-off is over; nobody is told.
    Retry,
    /// The time has come to look by oneself.
    Poll,
    /// A wake is left again.
    Refill,
    /// Those who were refused have had time to come again.
    StayedOn,
    /// A client's limit is over.
    Limit(u8),
    /// An order gets further.
    Order,
    /// A look gets further.
    Look,
    /// The probe has an answer (src/service/probe.rs).
    Probe(u8),
    /// The service gets further in what it does.
    Serve,
    /// A client's session gets further (src/session.rs).
    Session(u8),
    /// The process gets further on its way out (src/cli/run.rs).
    Exit,
    /// `--drain-timeout` is over.
    Drain,
    /// systemd starts wakeport because somebody is in the backlog,
    Activate,
    /// or because it was killed.
    Restart,
    /// The bus is back.
    BusBack,
    // -- may happen, or not
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
    /// A client does not want to wait.
    Leave(u8),
    /// A start takes too long, though it gets further.
    TooSlow,
    /// systemd refuses to start the service: polkit, a unit that is masked, a start limit.
    StartRefused,
    /// A start fails, is cancelled or times out.
    StartFails,
    /// It was given up before anybody knew that it began.
    StartUnheard,
    /// A stop is refused, or takes too long.
    StopFails,
    /// The service dies,
    Dies,
    /// or restarts itself,
    RestartsItself,
    /// or gets no further.
    Hangs,
    /// The administrator starts the service,
    AdminStarts,
    /// or stops it.
    AdminStops,
    BusGone,
    /// SIGKILL
    Kill,
    /// SIGTERM
    Term,
}

impl Step {
    /// What is not kept waiting even if something else comes in between each time: timers, since time
    /// passes, and what the driver does as soon as its inbox is empty. So are clients' limits.
    pub(crate) const INSISTENT: [Self; 5] = [
        Self::Due,
        Self::Retry,
        Self::Poll,
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
            Self::Look => 7,
            Self::Serve => 8,
            Self::Exit => 9,
            Self::Drain => 10,
            Self::Activate => 11,
            Self::Restart => 12,
            Self::BusBack => 13,
            Self::Refill => 24,
            Self::StayedOn => 25,
            Self::Limit(client) => 14 + client,
            Self::Session(client) => 18 + client,
            Self::Probe(door) => 22 + door,
            Self::News | Self::Come | Self::Wrong(_) => return None,
        })
    }

    /// Whether it takes from what may go wrong.
    pub(crate) fn is_possible_for_ever(self) -> bool {
        self.kind().is_some() || self == Self::News
    }
}

impl World {
    /// All that can happen next.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::with_capacity(16);
        let mut may = |holds: bool, step: Step| {
            if holds {
                steps.push(step);
            }
        };
        self.outside(&mut may);
        self.trouble(&mut may);
        if let Some(process) = &self.wakeport {
            self.inside(process, &mut may);
        }
        steps
    }

    fn outside(&self, may: &mut impl FnMut(bool, Step)) {
        let service = &self.service;
        let backlog = self.clients.contains(&Client::Backlog);
        let gets_further = match service.phase {
            Phase::Down => false,
            // One that hangs while it starts fails in the end.
            Phase::Starting | Phase::Stopping => true,
            Phase::Up => !service.answers && !service.hung,
        };
        may(gets_further, Step::Serve);
        may(self.wakeport.is_none() && backlog, Step::Activate);
        may(self.wakeport.is_none() && self.restarts, Step::Restart);
        may(!self.bus, Step::BusBack);
        may(self.next_client().is_some(), Step::Come);
        may(self.spent, Step::Refill);
    }

    fn inside(&self, process: &Wakeport, may: &mut impl FnMut(bool, Step)) {
        let backlog = self.clients.contains(&Client::Backlog);
        may(self.accepts(process) && backlog, Step::Accept);
        for (client, state) in (0..).zip(self.clients) {
            let at_work = matches!(
                state,
                Client::Admitted | Client::TurnedAway | Client::Connected
            );
            may(at_work, Step::Session(client));
        }
        may(self.order_goes_on(), Step::Order);
        may(self.exits(process), Step::Exit);
        may(process.stage == Stage::Draining, Step::Drain);
        if process.stage == Stage::Stopping {
            return;
        }
        may(!process.inbox.is_empty(), Step::Receive);
        may(process.look.is_some(), Step::Look);
        for (index, door) in (0..).zip(&process.doors) {
            may(door.asking && self.service.answers, Step::Probe(index));
        }
        // Another look than the next would not be told from that.
        may(self.bus && !process.look_again, Step::News);
        if process.inbox.is_empty() {
            may(!process.settled, Step::Settle);
            self.timers(process, may);
        }
    }

    fn timers(&self, process: &Wakeport, may: &mut impl FnMut(bool, Step)) {
        let hung = self.service.hung;
        let due = process.core.lifecycle.deadline().is_some();
        match process.state() {
            State::Waking { .. } => {
                may(due && hung, Step::Due);
                may(
                    due && !hung && self.left.failures > 0,
                    Step::Wrong(Wrong::TooSlow),
                );
            }
            State::Failed { retry_at, .. } => {
                may(process.core.now < retry_at, Step::Retry);
                // It takes a minute; a start that is given up ends within seconds.
                may(due && process.orders.is_empty(), Step::Due);
            }
            State::Asleep | State::Awake | State::Cooling { .. } | State::Stopping(_) => {
                may(due, Step::Due);
            }
        }
        may(process.look_at.0.is_some(), Step::Poll);
        may(process.stays.0.is_some(), Step::StayedOn);
        for (client, limit) in (0..).zip(process.limits) {
            may(
                limit.0.is_some() && (hung || !self.bus),
                Step::Limit(client),
            );
        }
    }

    fn trouble(&self, may: &mut impl FnMut(bool, Step)) {
        let (left, service) = (self.left, &self.service);
        let fails = left.failures > 0;
        let runs = matches!(service.phase, Phase::Up | Phase::Starting);
        may(
            fails && service.phase == Phase::Starting,
            Step::Wrong(Wrong::StartFails),
        );
        may(
            fails && service.phase == Phase::Up,
            Step::Wrong(Wrong::Dies),
        );
        may(
            fails && service.phase == Phase::Up,
            Step::Wrong(Wrong::RestartsItself),
        );
        may(
            fails && runs && !service.answers && !service.hung,
            Step::Wrong(Wrong::Hangs),
        );
        let starts =
            service.phase == Phase::Down || service.phase == Phase::Stopping && !service.again;
        may(left.admin > 0 && starts, Step::Wrong(Wrong::AdminStarts));
        may(
            left.admin > 0 && (runs || service.again),
            Step::Wrong(Wrong::AdminStops),
        );
        may(left.bus > 0 && self.bus, Step::Wrong(Wrong::BusGone));
        let Some(process) = &self.wakeport else {
            return;
        };
        if let Some(order) = process.orders.first() {
            let begun = order.progress == Progress::Begun;
            let going = order.progress == Progress::Going;
            match order.kind {
                Kind::Wake => {
                    may(
                        fails && begun && !order.given_up,
                        Step::Wrong(Wrong::StartRefused),
                    );
                    may(
                        begun && order.given_up && self.bus,
                        Step::Wrong(Wrong::StartUnheard),
                    );
                }
                Kind::Sleep | Kind::GiveUp { undo: true } | Kind::Close => {
                    may(fails && (begun || going), Step::Wrong(Wrong::StopFails));
                }
                Kind::GiveUp { undo: false } => (),
            }
        }
        for (client, state) in (0..).zip(self.clients) {
            may(
                left.leaves > 0 && state == Client::Waiting,
                Step::Wrong(Wrong::Leave(client)),
            );
        }
        may(left.kills > 0, Step::Wrong(Wrong::Kill));
        may(
            left.terms > 0 && process.stage == Stage::Serving,
            Step::Wrong(Wrong::Term),
        );
    }

    fn accepts(&self, process: &Wakeport) -> bool {
        match process.stage {
            Stage::Serving => true,
            Stage::Asking | Stage::Answered(true) => self.has(Defect::AsksWithOpenDoors),
            Stage::Answered(false)
            | Stage::Closing
            | Stage::Draining
            | Stage::Drained
            | Stage::Stopping => false,
        }
    }

    /// Whether the process can get further on its way out.
    fn exits(&self, process: &Wakeport) -> bool {
        match process.stage {
            Stage::Serving => process.idle,
            Stage::Answered(_) => true,
            Stage::Draining => !self.clients.iter().any(|client| client.is_accepted()),
            Stage::Stopping => process.orders.is_empty(),
            Stage::Asking | Stage::Closing | Stage::Drained => false,
        }
    }

    fn next_client(&self) -> Option<usize> {
        let clients = &self.clients[..self.rules.0.clients.len()];
        clients.iter().position(|&client| client == Client::Away)
    }

    /// Does it.
    pub(crate) fn take(&mut self, step: Step) {
        match step {
            Step::Accept => _ = self.accept(),
            Step::Receive => {
                let message = self.process().inbox.remove(0);
                self.receive(message);
            }
            Step::Settle => self.settle(),
            Step::Due => {
                let deadline = self.process().core.lifecycle.deadline();
                self.tick_lifecycle(deadline.expect("it has one"));
            }
            Step::Retry => {
                if let State::Failed { retry_at, .. } = self.process().state() {
                    self.process().core.now = retry_at;
                }
            }
            Step::Poll => self.tick_look(),
            Step::Refill => self.refill(),
            Step::StayedOn => self.tick_stay(),
            Step::Limit(client) => self.tick_limit(client),
            Step::Order => self.order_on(),
            Step::Look => self.look_on(),
            Step::Probe(door) => self.receive(Message::Answered(door)),
            Step::Serve => self.service_on(),
            Step::Session(client) => self.session_on(client),
            Step::Exit => self.exit_on(),
            Step::Drain => self.cut(),
            Step::Activate | Step::Restart => {
                self.restarts = false;
                self.heirloom = false;
                self.wakeport = Some(Wakeport::new(self.budget(), self.now.0));
            }
            Step::BusBack => self.bus = true,
            Step::News => self.receive(Message::Changed),
            Step::Come => {
                let next = self.next_client().expect("somebody is left");
                self.clients[next] = Client::Backlog;
            }
            Step::Wrong(wrong) => self.go_wrong(wrong),
        }
    }

    fn go_wrong(&mut self, wrong: Wrong) {
        let left = &mut self.left;
        match wrong {
            Wrong::Leave(_) => left.leaves -= 1,
            Wrong::AdminStarts | Wrong::AdminStops => left.admin -= 1,
            Wrong::BusGone => left.bus -= 1,
            Wrong::Kill => left.kills -= 1,
            Wrong::Term => left.terms -= 1,
            Wrong::StartUnheard => (),
            Wrong::TooSlow
            | Wrong::StartRefused
            | Wrong::StartFails
            | Wrong::StopFails
            | Wrong::Dies
            | Wrong::RestartsItself
            | Wrong::Hangs => left.failures -= 1,
        }
        let excuses = !matches!(
            wrong,
            Wrong::Leave(_)
                | Wrong::AdminStarts
                | Wrong::BusGone
                | Wrong::Kill
                | Wrong::Term
                | Wrong::StartUnheard
        );
        self.excuse |= excuses && self.is_waking();
        match wrong {
            Wrong::Leave(client) => self.leave(client, End::Left),
            Wrong::TooSlow => self.take(Step::Due),
            Wrong::StartRefused => {
                self.process().orders[0].progress = Progress::Woken(Err(()));
            }
            Wrong::StartUnheard => {
                self.service.start();
                self.process().orders[0].progress = Progress::Woken(Err(()));
            }
            Wrong::StopFails => self.process().orders[0].progress = Progress::Failing,
            Wrong::StartFails | Wrong::Dies => self.service.becomes(Phase::Down),
            Wrong::RestartsItself => {
                self.service.becomes(Phase::Starting);
                self.service.by_itself = true;
            }
            Wrong::Hangs => self.service.hung = true,
            Wrong::AdminStarts => {
                self.service.start();
                self.service.by_admin = true;
                self.service.known = false;
                self.heirloom |= self.wakeport.is_none() && !self.restarts;
            }
            Wrong::AdminStops => self.service.stop(),
            Wrong::BusGone => self.bus = false,
            Wrong::Kill => {
                self.cut_all();
                self.wakeport = None;
                self.restarts = true;
                self.excuse = false;
            }
            Wrong::Term => self.process().stage = Stage::Draining,
        }
    }

    /// A wake is under way, so what goes wrong may make it fail.
    fn is_waking(&self) -> bool {
        self.wakeport
            .as_ref()
            .is_some_and(|process| matches!(process.state(), State::Waking { .. }))
    }

    fn service_on(&mut self) {
        let service = &mut self.service;
        match service.phase {
            Phase::Starting if service.hung => {
                service.becomes(Phase::Down);
                self.excuse |= self.is_waking();
            }
            Phase::Starting => service.becomes(Phase::Up),
            Phase::Up => service.answers = true,
            Phase::Stopping if service.again => {
                service.again = false;
                service.becomes(Phase::Starting);
            }
            Phase::Stopping => service.becomes(Phase::Down),
            Phase::Down => (),
        }
    }

    fn look_on(&mut self) {
        let seen = self.bus.then_some(self.service.phase);
        let look = self.process().look.as_mut().expect("somebody looks");
        match look.sight {
            Sight::Unread => look.sight = Sight::Read(seen),
            Sight::Read(seen) => self.receive(Message::Looked(seen)),
        }
    }

    /// Time passes, and nobody is told.
    fn refill(&mut self) {
        self.spent = false;
        let budget = self.budget();
        if let Some(process) = &mut self.wakeport {
            let lifecycle = &mut process.core.lifecycle;
            *lifecycle = lifecycle.clone().limited(budget);
        }
    }

    // -- clients

    /// `Acceptor::accept_now` and `Hall::admit`; says whether there was somebody.
    fn accept(&mut self) -> bool {
        let first = self
            .clients
            .iter()
            .position(|&client| client == Client::Backlog);
        if let Some(index) = first {
            self.clients[index] = Client::Waiting;
            self.post(Message::Arrived(index as u8));
        }
        first.is_some()
    }

    /// `House::reach` and `House::relay`.
    fn session_on(&mut self, client: u8) {
        let answers = self.service.answers;
        let state = &mut self.clients[usize::from(client)];
        match state {
            Client::Admitted if answers => *state = Client::Connected,
            Client::Admitted => {
                *state = Client::Waiting;
                self.post(Message::Refused(client));
            }
            Client::TurnedAway => self.leave(client, End::TurnedAway),
            Client::Connected => self.leave(client, End::Served),
            Client::Away | Client::Backlog | Client::Waiting | Client::Gone(_) => (),
        }
    }

    /// Its permit is dropped.
    pub(crate) fn leave(&mut self, client: u8, end: End) {
        self.clients[usize::from(client)] = Client::Gone(end);
        self.post(Message::Left(client));
    }

    fn cut(&mut self) {
        for client in 0..self.clients.len() {
            if self.clients[client].is_accepted() {
                self.leave(client as u8, End::Cut);
            }
        }
    }

    fn cut_all(&mut self) {
        for client in &mut self.clients {
            if client.is_accepted() {
                *client = Client::Gone(End::Cut);
            }
        }
    }

    // -- the process

    fn exit_on(&mut self) {
        let backlog = self.clients.contains(&Client::Backlog);
        let stage = self.process().stage;
        match stage {
            Stage::Serving => {
                self.process().stage = Stage::Asking;
                self.post(Message::MayExit);
            }
            Stage::Answered(true) if backlog => {
                self.accept();
                self.process().stage = Stage::Serving;
            }
            Stage::Answered(true) => {
                self.process().stage = Stage::Closing;
                self.post(Message::Close { sleep: false });
            }
            Stage::Answered(false) if self.has(Defect::KeepsDoorsShut) => (),
            Stage::Answered(false) => self.process().stage = Stage::Serving,
            Stage::Draining => {
                self.process().stage = Stage::Drained;
                let sleep = self.rules.0.stop_on_exit;
                self.post(Message::Close { sleep });
            }
            Stage::Stopping => self.end(),
            Stage::Asking | Stage::Closing | Stage::Drained => (),
        }
    }

    /// The process is gone.
    pub(crate) fn end(&mut self) {
        let told = self.process().stage != Stage::Closing;
        let sleep = told && self.rules.0.stop_on_exit;
        let service = self.service;
        let runs = service.phase != Phase::Down;
        let nobody = !self.clients.iter().any(|client| client.is_accepted());
        self.expect(nobody, "wakeport has exited with a client accepted");
        let unknown = service.by_admin && !service.known;
        let left_behind = told && (!sleep || self.excuse);
        self.expect(
            !runs || unknown || left_behind,
            "wakeport has left a service running that nobody will stop",
        );
        self.heirloom = runs;
        self.excuse = false;
        self.wakeport = None;
    }
}
