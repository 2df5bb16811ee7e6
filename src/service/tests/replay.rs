//! The same is done to the real driver and to the model of it that `tests/model` checks state by state:
//! what dice say, on a clock that is paused. Both must agree after each deed. Pauses often end just
//! before or after something is over by itself, since that is where it is hard.

mod mirror;

use std::mem;

use super::model::world::{Defect, Set};
use super::*;
use mirror::Mirror;

/// How many schedules are played, each with its number, from which the dice follow.
const SCHEDULES: u64 = 300;
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
    /// So long from now on.
    Takes(What, Duration),
}

#[derive(Clone, Copy, Debug)]
enum What {
    Start,
    GivingUp,
    Look,
}

/// How long nothing else is done then.
#[derive(Clone, Copy, Debug)]
enum Pause {
    For(Duration),
    /// Until just before, or just after, something is over.
    Around(Span, i64),
}

/// What passes by itself.
#[derive(Clone, Copy, Debug)]
enum Span {
    /// The state that the lifecycle is in.
    State,
    /// The order that is under way.
    Order,
    /// Whatever is over first.
    Any,
}

/// Deeds, each with what comes then.
type Schedule = Vec<(Deed, Pause)>;

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

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    fn deed(&mut self) -> Deed {
        let client = self.below(3) as u8;
        let ms = Duration::from_millis;
        match self.below(14) {
            0..5 => Deed::Arrive(client),
            5..8 => Deed::Leave(client),
            8 => Deed::Refuse(client),
            9 => {
                let phases = [Phase::Up, Phase::Starting, Phase::Stopping, Phase::Down];
                Deed::Becomes(self.of(&phases), self.below(2) == 0)
            }
            10 => Deed::StartsFail(self.below(3) == 0),
            11 => Deed::StopsFail(self.below(3) == 0),
            12 => Deed::Takes(What::Look, ms(self.of(&[0, 0, 103, 3_301, 70_207]))),
            _ => match self.below(2) {
                0 => Deed::Takes(What::Start, ms(self.of(&[1_000, 1_000, 100_109]))),
                _ => Deed::Takes(What::GivingUp, ms(self.of(&[0, 7_411, 65_003]))),
            },
        }
    }

    /// Odd numbers, so that hardly anything happens at the same time.
    fn pause(&mut self) -> Pause {
        if self.below(2) == 0 {
            let span = self.of(&[Span::State, Span::Order, Span::Any]);
            return Pause::Around(span, self.of(&[-13, -5, 5, 13, 401]));
        }
        let longest = self.of(&[13, 2_003, 40_009, 400_009]);
        Pause::For(Duration::from_millis(7 + self.below(longest)))
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
            Deed::Takes(What::Start, time) => service.quietly(|script| script.start_takes = time),
            Deed::Takes(What::GivingUp, time) => {
                service.quietly(|script| script.giving_up_takes = time);
            }
            Deed::Takes(What::Look, time) => service.quietly(|script| script.look_takes = time),
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
        Deed::Becomes(..) | Deed::StartsFail(_) | Deed::StopsFail(_) | Deed::Takes(..) => true,
    }
}

/// Who plays.
#[derive(Clone, Copy, Debug)]
struct Cast {
    /// The door that each client comes by.
    doors: &'static [u8],
    /// Whether the service may be woken only so often.
    limited: bool,
}

impl Cast {
    fn wake_rate(self) -> Option<WakeRate> {
        self.limited.then_some(WakeRate {
            wakes: 2,
            per: COOLDOWN * 4,
        })
    }
}

/// Plays a schedule on a clock of its own; says what has happened if they do not agree.
fn play(
    cast: Cast,
    defect: Option<Defect>,
    schedule: &Schedule,
    seen: &mut Set,
) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut mirror = Mirror::new(cast, defect);
        let mut real = Real {
            world: World::with(Phase::Down, cast.wake_rate()),
            doors: cast.doors,
            clients: [const { None }; 3],
        };
        let mut story = format!("{cast:?}\n");
        let mut sight = real.sight().await;
        mirror.pass(now());
        for &(deed, pause) in schedule {
            if !is_possible(deed, &sight) {
                continue;
            }
            real.perform(deed);
            mirror.perform(deed);
            // What takes no time follows at once.
            mirror.pass(now());
            let pause = match pause {
                Pause::For(time) => time,
                Pause::Around(span, by) => {
                    let left = mirror.left_of(span).unwrap_or_default().as_millis() as i64;
                    Duration::from_millis((left + by).max(3) as u64)
                }
            };
            sleep(pause).await;
            mirror.pass(now());
            // Of what happens at this very moment, the real one may have done half.
            while mirror.ticked_at == Some(now()) {
                sleep(Duration::from_millis(1)).await;
                mirror.pass(now());
            }
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

/// Schedule number so-and-so, and who plays it.
fn draw(number: u64) -> (Cast, Schedule) {
    let mut dice = Dice(number);
    let cast = Cast {
        doors: dice.of(&DOORS),
        limited: dice.below(4) == 0,
    };
    (cast, dice.schedule())
}

/// The same disagreement with as few deeds as possible.
fn shortest(cast: Cast, defect: Option<Defect>, mut schedule: Schedule) -> String {
    let mut story = String::new();
    let mut at = 0;
    while at < schedule.len() {
        let mut shorter = schedule.clone();
        shorter.remove(at);
        match play(cast, defect, &shorter, &mut Set::default()) {
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
        let (cast, schedule) = draw(number);
        if let Err(story) = play(cast, None, &schedule, &mut seen) {
            let shortest = shortest(cast, None, schedule);
            panic!("schedule {number}\n{story}\nor, in short\n{shortest}");
        }
    }
    assert_eq!(seen.len(), 6, "some states were never seen: {seen:?}");
}

/// A model that does otherwise is found out.
#[allow(clippy::print_stdout, reason = "for whoever wants to see how")]
fn notices(defect: Defect) {
    let differs = |number: &u64| {
        let (cast, schedule) = draw(*number);
        play(cast, Some(defect), &schedule, &mut Set::default()).is_err()
    };
    let Some(number) = (0..SCHEDULES).find(differs) else {
        panic!("{defect:?} makes no difference");
    };
    let (cast, schedule) = draw(number);
    let shortest = shortest(cast, Some(defect), schedule);
    println!("{defect:?}, schedule {number}\n{shortest}");
}

macro_rules! notices {
    ($($test:ident: $defect:ident,)*) => {
        $(#[test]
        fn $test() {
            notices(Defect::$defect);
        })*
    };
}

// All but those in which the driver has no part: what the process does on its way out.
notices! {
    notices_clients_that_are_not_let_through: ForgetsToAdmit,
    notices_clients_that_are_forgotten_after_a_stop: ForgetsWhoWaited,
    notices_clients_that_are_turned_away_during_a_stop: TurnsAwayDuringAStop,
    notices_a_wake_for_each_client: WakesForEach,
    notices_a_wake_during_a_stop: WakesDuringAStop,
    notices_services_that_are_not_adopted: NeverAdopts,
    notices_services_that_are_not_stopped: NeverCools,
    notices_failures_that_are_not_forgotten: NeverForgets,
    notices_old_looks_that_are_believed: BelievesOldLooks,
    notices_looks_that_are_not_taken: NeverPolls,
    notices_exits_without_a_look: ExitsBlindly,
    notices_exits_under_those_who_leave: ExitsUnderThoseWhoLeave,
}
