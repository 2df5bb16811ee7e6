//! The same is done to the real driver and to the model of it that `tests/model` checks state by state:
//! what dice say, on a clock that is paused. Both must agree after each deed.

use std::mem;

use super::model::step::Step;
use super::model::world::{Client, Defect, End, Kind, Message as Told, Progress, Rules, Trouble};
use super::model::world::{Set, World as Model};
use super::*;

/// How many schedules are played, each with its number, from which the dice follow.
const SCHEDULES: u64 = 150;
/// How many deeds there are in each.
const DEEDS: u64 = 40;
/// The doors that clients come by.
const DOORS: [&[u8]; 4] = [&[0, 0, 0], &[0, 1, 0], &[1, 0, 0], &[0, 1, 1]];

/// What is done to both.
#[derive(Clone, Copy, Debug)]
enum Deed {
    /// The client comes, or comes again.
    Arrive(u8),
    /// It leaves, or is reset: whatever has become of it.
    Leave(u8),
    /// It was let through, and its target refuses it.
    Refuse(u8),
    /// Somebody else has changed the service, and this is heard of, or not.
    Becomes(Phase, bool),
    StartsFail(bool),
    StopsFail(bool),
}

/// A deed, and how long nothing else is done then.
type Schedule = Vec<(Deed, Duration)>;

/// splitmix64: the same numbers everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn deed(&mut self) -> Deed {
        let client = self.below(3) as u8;
        let phases = [Phase::Up, Phase::Starting, Phase::Stopping, Phase::Down];
        match self.below(12) {
            0..5 => Deed::Arrive(client),
            5..8 => Deed::Leave(client),
            8 => Deed::Refuse(client),
            9 => Deed::Becomes(phases[self.below(4) as usize], self.below(2) == 0),
            10 => Deed::StartsFail(self.below(3) == 0),
            _ => Deed::StopsFail(self.below(3) == 0),
        }
    }

    /// Odd numbers, so that hardly anything happens at the same time.
    fn pause(&mut self) -> Duration {
        let longest = [13, 2_003, 40_009, 400_009][self.below(4) as usize];
        Duration::from_millis(7 + self.below(longest))
    }

    fn schedule(&mut self) -> Schedule {
        (0..DEEDS).map(|_| (self.deed(), self.pause())).collect()
    }
}

/// What can be seen of either.
#[derive(Debug, PartialEq, Eq)]
struct Sight {
    state: String,
    starts: usize,
    stops: usize,
    /// Of each client: whether it was let through (or, `false`, turned away).
    clients: [Option<Option<bool>>; 3],
    may_exit: bool,
}

// -- the model, with a service as in src/backend/scripted.rs

struct Mirror {
    model: Model,
    starts: usize,
    stops: usize,
    starts_fail: bool,
    stops_fail: bool,
    /// When the order that is under way is over.
    over_at: Instant,
}

impl Mirror {
    fn new(clients: &'static [u8], defect: Option<Defect>) -> Self {
        let rules = Rules {
            clients,
            stop_on_exit: false,
            one_wake: false,
            defect,
        };
        let mut model = Model::new(rules, Trouble::default(), now());
        model.take(Step::Activate);
        Self {
            model,
            starts: 0,
            stops: 0,
            starts_fail: false,
            stops_fail: false,
            over_at: now(),
        }
    }

    fn perform(&mut self, deed: Deed) {
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
        }
    }

    /// Until `end`, everything at its time.
    fn pass(&mut self, end: Instant) {
        loop {
            self.rest();
            let next = self.next_timer().filter(|&at| at <= end);
            let at = next.unwrap_or(end);
            self.model.process().core.now = at;
            if next.is_none() {
                return;
            }
            self.tick(at);
        }
    }

    /// Whatever takes no time.
    fn rest(&mut self) {
        loop {
            if self.order_on() {
                continue;
            }
            if !self.model.process().inbox.is_empty() {
                self.model.take(Step::Receive);
            } else if self.model.process().look.is_some() {
                self.model.take(Step::Look);
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
        let over_at = self.over_at;
        let process = self.model.process();
        let order = process.orders.first().map(|_| over_at);
        let timers = [process.core.lifecycle.deadline(), process.look_at.0, order];
        let limits = process.limits.iter().map(|limit| limit.0);
        timers.into_iter().chain(limits).flatten().min()
    }

    fn tick(&mut self, at: Instant) {
        let deadline = self.model.process().core.lifecycle.deadline();
        if deadline.is_some_and(|deadline| deadline <= at) {
            self.model.tick_lifecycle(at);
        }
        if self.model.process().look_at.0.is_some_and(|due| due <= at) {
            self.model.tick_look();
        }
        for client in 0..3 {
            let limit = self.model.process().limits[usize::from(client)].0;
            if limit.is_some_and(|limit| limit <= at) {
                self.model.tick_limit(client);
            }
        }
    }

    /// Takes the order that is under way further; says whether it could be.
    fn order_on(&mut self) -> bool {
        let at = self.model.process().core.now;
        let Some(order) = self.model.process().orders.first().copied() else {
            return false;
        };
        let is_over = at >= self.over_at || order.given_up;
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
                let phase = if starts {
                    Phase::Starting
                } else {
                    Phase::Stopping
                };
                self.model.service.phase = phase;
                self.model.process().orders[0].progress = Progress::Going;
                self.over_at = at + SECOND;
            }
            _ if !is_over => return false,
            (Kind::Wake, _) => {
                let fails = self.starts_fail || order.given_up;
                self.model.service.phase = if fails { Phase::Down } else { Phase::Up };
                self.end(true, Told::Woken(if fails { Err(()) } else { Ok(()) }));
            }
            _ => {
                let fails = self.stops_fail;
                let phase = if fails { Phase::Up } else { Phase::Down };
                self.model.service.phase = phase;
                self.end(false, Told::Slept(if fails { Err(phase) } else { Ok(()) }));
            }
        }
        true
    }

    fn end(&mut self, started: bool, report: Told) {
        self.model.over(started);
        self.model.report(report);
    }

    fn sight(&mut self) -> Sight {
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

// -- the real one

struct Real {
    world: World,
    doors: &'static [u8],
    clients: [Option<(Permit, Option<bool>)>; 3],
}

impl Real {
    fn perform(&mut self, deed: Deed) {
        let service = &self.world.service;
        match deed {
            Deed::Arrive(client) => {
                let client = usize::from(client);
                let permit = self.world.arrive(self.doors[client].into());
                self.clients[client] = Some((permit, None));
            }
            Deed::Leave(client) => drop(mem::take(&mut self.clients[usize::from(client)])),
            Deed::Refuse(client) => {
                if let Some((permit, verdict)) = &mut self.clients[usize::from(client)] {
                    *verdict = None;
                    permit.refused("connection refused".into());
                }
            }
            Deed::Becomes(phase, true) => service.set(|script| script.phase = phase),
            Deed::Becomes(phase, false) => service.quietly(|script| script.phase = phase),
            Deed::StartsFail(fail) => service.quietly(|script| script.start_fails = fail),
            Deed::StopsFail(fail) => service.quietly(|script| script.stop_fails = fail),
        }
    }

    async fn sight(&mut self) -> Sight {
        for (permit, verdict) in self.clients.iter_mut().flatten() {
            if verdict.is_none() {
                tokio::select! {
                    biased;
                    given = permit.verdict() => {
                        *verdict = Some(matches!(given, Verdict::Admitted(_)));
                    }
                    () = std::future::ready(()) => (),
                }
            }
        }
        let clients = self.clients.each_ref().map(|client| {
            let (_, verdict) = client.as_ref()?;
            Some(*verdict)
        });
        let (starts, stops) = self.world.counts();
        let record = self.world.handle.record().await.unwrap();
        Sight {
            state: format!("{:?}", record.state),
            starts,
            stops,
            clients,
            may_exit: self.world.handle.may_exit().await,
        }
    }
}

/// Whether it makes sense: who is not here cannot leave, who waits cannot be refused.
fn is_possible(deed: Deed, sight: &Sight) -> bool {
    let of = |client: u8| sight.clients[usize::from(client)];
    match deed {
        Deed::Arrive(client) => of(client).is_none(),
        Deed::Leave(client) => of(client).is_some(),
        Deed::Refuse(client) => of(client) == Some(Some(true)),
        Deed::Becomes(..) | Deed::StartsFail(_) | Deed::StopsFail(_) => true,
    }
}

/// Plays a schedule on a clock of its own; says what has happened if they do not agree.
fn play(
    (doors, defect): (&'static [u8], Option<Defect>),
    schedule: &Schedule,
    seen: &mut Set,
) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut mirror = Mirror::new(doors, defect);
        let mut real = Real {
            world: World::new(Phase::Down),
            doors,
            clients: [const { None }; 3],
        };
        let mut story = String::new();
        let mut sight = real.sight().await;
        mirror.pass(now());
        for &(deed, pause) in schedule {
            if !is_possible(deed, &sight) {
                continue;
            }
            real.perform(deed);
            mirror.perform(deed);
            sleep(pause).await;
            mirror.pass(now());
            sight = real.sight().await;
            let expected = mirror.sight();
            story += &format!("{deed:?}, {pause:?}: {sight:?}\n");
            if sight != expected {
                return Err(format!("{story}but the model has {expected:?}"));
            }
            let states = ["Asleep", "Waking", "Awake", "Cooling", "Stopping", "Failed"];
            let state = states.iter().position(|&state| state == sight.state);
            seen.insert(state.unwrap() as u8);
        }
        Ok(())
    })
}

/// Schedule number so-and-so, and the doors that its clients come by.
fn draw(number: u64) -> (&'static [u8], Schedule) {
    let mut dice = Dice(number);
    let doors = DOORS[dice.below(4) as usize];
    (doors, dice.schedule())
}

/// The same disagreement with as few deeds as possible.
fn shortest(doors: &'static [u8], mut schedule: Schedule) -> String {
    let mut story = String::new();
    let mut at = 0;
    while at < schedule.len() {
        let mut shorter = schedule.clone();
        shorter.remove(at);
        match play((doors, None), &shorter, &mut Set::default()) {
            Err(why) => (schedule, story) = (shorter, why),
            Ok(()) => at += 1,
        }
    }
    story
}

#[test]
fn the_driver_does_as_the_model_of_it() {
    let mut seen = Set::default();
    for number in 0..SCHEDULES {
        let (doors, schedule) = draw(number);
        if let Err(story) = play((doors, None), &schedule, &mut seen) {
            let shortest = shortest(doors, schedule);
            panic!("schedule {number}, doors {doors:?}\n{story}\nor, in short\n{shortest}");
        }
    }
    assert_eq!(seen.len(), 6, "some states were never seen: {seen:?}");
}

#[test]
fn a_model_that_does_otherwise_is_found_out() {
    let defect = Defect::ForgetsToAdmit;
    let differs = |number| {
        let (doors, schedule) = draw(number);
        play((doors, Some(defect)), &schedule, &mut Set::default()).is_err()
    };
    assert!(
        (0..SCHEDULES).any(differs),
        "{defect:?} makes no difference"
    );
}
