//! The model's side of it: the model, with a service as in src/backend/scripted.rs.

use super::super::model::step::Step;
use super::super::model::world::{Client, Defect, End, Kind, Message as Told, Progress, Rules};
use super::super::model::world::{Sight as Eye, Trouble, World as Model};
use super::*;

pub(super) struct Mirror {
    model: Model,
    starts: usize,
    stops: usize,
    starts_fail: bool,
    stops_fail: bool,
    starts_take: Duration,
    giving_up_takes: Duration,
    looks_take: Duration,
    /// When the order that is under way is over,
    over_at: Instant,
    /// which was given up in the meantime.
    given_up: bool,
    /// When the look that is under way is told.
    told_at: Instant,
    /// It has just been told, and nobody had been asked before.
    probe_is_first: bool,
    /// The deadline that was heard of last, or a model that ignores it would hear of it for ever.
    heard: Option<Instant>,
    /// When time has brought something about last.
    pub(super) ticked_at: Option<Instant>,
}

impl Mirror {
    pub(super) fn new(cast: Cast, defect: Option<Defect>) -> Self {
        let rules = Rules {
            clients: cast.doors,
            stop_on_exit: false,
            one_wake: cast.limited,
            defect,
        };
        let mut model = Model::new(rules, Trouble::default(), now());
        model.take(Step::Activate);
        if let Some(WakeRate { wakes, per }) = cast.wake_rate() {
            let lifecycle = &mut model.process().core.lifecycle;
            *lifecycle = lifecycle.clone().limited(WakeLimiter::new(wakes, per, []));
        }
        Self {
            model,
            starts: 0,
            stops: 0,
            starts_fail: false,
            stops_fail: false,
            starts_take: SECOND,
            giving_up_takes: Duration::ZERO,
            looks_take: Duration::ZERO,
            over_at: now(),
            given_up: false,
            told_at: now(),
            probe_is_first: false,
            heard: None,
            ticked_at: None,
        }
    }

    pub(super) fn perform(&mut self, deed: Deed) {
        match deed {
            Deed::Arrive(client) => {
                self.model.clients[usize::from(client)] = Client::Waiting;
                self.model.post(Told::Arrived(client));
            }
            Deed::Leave(client) => self.model.leave(client, End::Left),
            Deed::Refuse(client) => {
                self.model.clients[usize::from(client)] = Client::Waiting;
                self.model.post(Told::Refused(client));
            }
            Deed::Becomes(phase, heard) => {
                self.model.service.phase = phase;
                if heard {
                    self.model.receive(Told::Changed);
                }
            }
            Deed::StartsFail(fail) => self.starts_fail = fail,
            Deed::StopsFail(fail) => self.stops_fail = fail,
            Deed::Takes(What::Start, time) => self.starts_take = time,
            Deed::Takes(What::GivingUp, time) => self.giving_up_takes = time,
            Deed::Takes(What::Look, time) => self.looks_take = time,
        }
    }

    /// Until `end`, everything at its time.
    pub(super) fn pass(&mut self, end: Instant) {
        loop {
            self.rest();
            let next = self.next_timer().filter(|&at| at <= end);
            // What was to be over before somebody could hear of it is over now.
            let now = &mut self.model.process().core.now;
            let at = next.unwrap_or(end).max(*now);
            *now = at;
            if next.is_none() {
                return;
            }
            self.tick(at);
        }
    }

    /// Whatever takes no time.
    fn rest(&mut self) {
        loop {
            if self.order_on() || self.probe_first() || self.look_on() {
                continue;
            }
            if !self.model.process().inbox.is_empty() {
                self.model.take(Step::Receive);
            } else if self.model.process().doors[ANSWERING].asking {
                self.model.take(Step::Probe(ANSWERING as u8));
            } else if !self.model.process().settled {
                self.model.take(Step::Settle);
            } else {
                return;
            }
        }
    }

    fn next_timer(&mut self) -> Option<Instant> {
        let (over_at, told_at, heard) = (self.over_at, self.told_at, self.heard);
        let process = self.model.process();
        let deadline = process.core.lifecycle.deadline();
        let timers = [
            deadline.filter(|_| deadline != heard),
            process.look_at.0,
            process.stays.0,
            process.orders.first().map(|_| over_at),
            process.look.map(|_| told_at),
        ];
        let limits = process.limits.iter().map(|limit| limit.0);
        timers.into_iter().chain(limits).flatten().min()
    }

    /// How long that still takes.
    pub(super) fn left_of(&mut self, span: Span) -> Option<Duration> {
        let at = match span {
            Span::State => self.model.process().core.lifecycle.deadline(),
            Span::Order => Some(self.over_at),
            Span::Any => self.next_timer(),
        };
        at?.checked_duration_since(now())
    }

    fn tick(&mut self, at: Instant) {
        self.ticked_at = Some(at);
        let deadline = self.model.process().core.lifecycle.deadline();
        if deadline != self.heard && deadline.is_some_and(|deadline| deadline <= at) {
            self.heard = deadline;
            self.model.tick_lifecycle(at);
        }
        if self.model.process().look_at.0.is_some_and(|due| due <= at) {
            self.model.tick_look();
        }
        if self.model.process().stays.0.is_some_and(|due| due <= at) {
            self.model.tick_stay();
        }
        for client in 0..3 {
            let limit = self.model.process().limits[usize::from(client)].0;
            if limit.is_some_and(|limit| limit <= at) {
                self.model.tick_limit(client);
            }
        }
    }

    /// If a look has let a client ask its target, and another look follows, that one comes later; says
    /// whether it is so.
    fn probe_first(&mut self) -> bool {
        let is_first = mem::take(&mut self.probe_is_first);
        let is_first = is_first && self.model.process().doors[ANSWERING].asking;
        if is_first {
            self.model.take(Step::Probe(ANSWERING as u8));
        }
        is_first
    }

    /// Takes the look that is under way further; says whether it could be.
    fn look_on(&mut self) -> bool {
        let at = self.model.process().core.now;
        match self.model.process().look {
            None => return false,
            Some(look) if look.sight == Eye::Unread => self.told_at = at + self.looks_take,
            Some(_) if at < self.told_at => return false,
            Some(_) => self.probe_is_first = !self.model.process().doors[ANSWERING].asking,
        }
        self.model.take(Step::Look);
        true
    }

    /// The same for the order.
    fn order_on(&mut self) -> bool {
        let at = self.model.process().core.now;
        let Some(order) = self.model.process().orders.first().copied() else {
            return false;
        };
        if order.given_up && order.progress == Progress::Going && !self.given_up {
            self.given_up = true;
            self.over_at = at + self.giving_up_takes;
        }
        match (order.kind, order.progress) {
            (Kind::Wake, Progress::Begun) if self.model.service.phase == Phase::Up => {
                self.end(false, Told::Woken(Ok(())));
            }
            (Kind::GiveUp { undo: false }, _) => {
                let started = self.model.process().started;
                self.model.over(started);
            }
            (Kind::GiveUp { .. }, Progress::Begun) if !self.model.process().started => {
                self.end(false, Told::Slept(Ok(())));
            }
            (kind, Progress::Begun) => {
                let starts = kind == Kind::Wake;
                self.starts += usize::from(starts);
                self.stops += usize::from(!starts);
                let (phase, takes) = if starts {
                    (Phase::Starting, self.starts_take)
                } else {
                    (Phase::Stopping, SECOND)
                };
                self.model.service.phase = phase;
                self.model.process().orders[0].progress = Progress::Going;
                (self.over_at, self.given_up) = (at + takes, false);
            }
            _ if at < self.over_at => return false,
            (Kind::Wake, _) => {
                let fails = self.starts_fail || order.given_up;
                self.model.service.phase = if fails { Phase::Down } else { Phase::Up };
                self.end(true, Told::Woken(if fails { Err(()) } else { Ok(()) }));
            }
            (_, Progress::Slept(result)) => self.end(false, Told::Slept(result)),
            _ => {
                let fails = self.stops_fail;
                let phase = if fails { Phase::Up } else { Phase::Down };
                self.model.service.phase = phase;
                // Somebody looks whether it has failed because nothing was left to be done.
                let (result, takes) = if fails {
                    (Err(phase), self.looks_take)
                } else {
                    (Ok(()), Duration::ZERO)
                };
                self.model.process().orders[0].progress = Progress::Slept(result);
                self.over_at = at + takes;
            }
        }
        true
    }

    fn end(&mut self, started: bool, report: Told) {
        self.model.over(started);
        self.model.report(report);
    }

    pub(super) fn sight(&mut self) -> Sight {
        let clients = self.model.clients.map(|client| match client {
            Client::Away | Client::Backlog | Client::Gone(_) => None,
            Client::Waiting => Some(None),
            Client::Admitted | Client::Connected => Some(Some(true)),
            Client::TurnedAway => Some(Some(false)),
        });
        let state = match self.model.process().state() {
            State::Asleep => record::State::Asleep,
            State::Waking { .. } => record::State::Waking,
            State::Awake => record::State::Awake,
            State::Cooling { .. } => record::State::Cooling,
            State::Stopping(_) => record::State::Stopping,
            State::Failed { .. } => record::State::Failed,
        };
        Sight {
            state: format!("{state:?}"),
            starts: self.starts,
            stops: self.stops,
            clients,
            may_exit: self.model.is_idle(),
        }
    }
}
