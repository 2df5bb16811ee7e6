//! Each rule by itself; `tests/model` takes all of them through every order of events.

use std::hash::Hasher;

use super::work::ASK_AGAIN;
use super::*;
use crate::core::gate::Word;

const COOLDOWN: Duration = Duration::from_secs(300);
const FREEZE_AFTER: Duration = Duration::from_secs(120);
const START_TIMEOUT: Duration = Duration::from_secs(90);
const BUSY_LIMIT: Duration = Duration::from_secs(70);

/// A core with the gates of its targets, and a clock.
struct Bench {
    core: Service,
    gates: Vec<Word>,
    left_at: Option<Instant>,
    now: Instant,
}

fn ticket(target: usize, number: u64) -> Ticket {
    Ticket { target, number }
}

/// The only target's connection with this number.
fn client(number: u64) -> Ticket {
    ticket(0, number)
}

fn admitted(ticket: Ticket) -> Effect {
    let first = true;
    Effect::Admit { ticket, first }
}

impl Bench {
    /// A service with so many targets that was seen down.
    fn asleep(targets: usize) -> Self {
        Self::limited(targets, WakeLimiter::default())
    }

    fn limited(targets: usize, limiter: WakeLimiter) -> Self {
        Self::with(targets, limiter, Duration::MAX)
    }

    fn with(targets: usize, limiter: WakeLimiter, freeze_after: Duration) -> Self {
        let rules = Rules {
            times: Times {
                cooldown: COOLDOWN,
                freeze_after,
                start_timeout: START_TIMEOUT,
            },
            can_tell: true,
            can_start: true,
            busy_limit: BUSY_LIMIT,
        };
        let now = crate::service::now();
        let mut bench = Self {
            core: Service::new(rules, targets, limiter, now),
            gates: vec![Word::default(); targets],
            left_at: None,
            now,
        };
        assert_eq!(
            bench.tell(Input::Settle),
            [Effect::Query { explain: false }]
        );
        assert_eq!(bench.tell(Input::Queried(Ok(Phase::Down))), []);
        bench
    }

    /// A service that is up since this client of each target came; the clients are inside.
    fn awake(targets: usize) -> Self {
        Self::asleep(targets).woken(targets)
    }

    fn woken(self, targets: usize) -> Self {
        let mut bench = self;
        for target in 0..targets {
            bench.tell(Input::Arrived(ticket(target, target as u64)));
        }
        bench.tell(Input::Started(Ok(())));
        bench.tell(Input::Settle);
        for target in 0..targets {
            bench.tell(Input::Answered(target));
        }
        bench.tell(Input::Queried(Ok(Phase::Up)));
        bench.tell(Input::Settle);
        assert_eq!(bench.core.state(), State::Awake);
        assert!(bench.gates.iter().all(|gate| gate.is_open()));
        bench
    }

    /// The same when the clients have left.
    fn cooling(targets: usize) -> Self {
        Self::awake(targets).cooled_down(targets)
    }

    /// The same with one that has been frozen.
    fn frozen() -> Self {
        let bench = Self::with(1, WakeLimiter::default(), FREEZE_AFTER);
        let mut bench = bench.woken(1).cooled_down(1);
        assert_eq!(bench.cooled(), [Effect::CloseEmpty(0)]);
        assert_eq!(bench.close_empty(0), [Effect::Freeze]);
        let query = [Effect::Query { explain: false }];
        assert_eq!(bench.tell(Input::Froze(Ok(()))), query);
        assert_eq!(bench.tell(Input::Queried(Ok(Phase::Frozen))), []);
        bench.tell(Input::Settle);
        assert!(matches!(bench.core.state(), State::Frozen { .. }));
        bench
    }

    fn cooled_down(self, targets: usize) -> Self {
        let mut bench = self;
        (0..targets).for_each(|target| _ = bench.leave(target));
        bench.tell(Input::Settle);
        assert!(matches!(bench.core.state(), State::Cooling { .. }));
        bench
    }

    fn occupancy(&self) -> Occupancy {
        Occupancy::of(self.gates.iter().copied(), self.left_at)
    }

    /// What the core says to this, but for reports; the gates are opened and closed as it says.
    fn tell(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = self.core.handle(input, self.occupancy(), self.now);
        for &effect in &effects {
            if let Effect::Admit { ticket, first } = effect {
                self.set(ticket.target, |gate| gate.admit(first));
            } else if let Effect::Open(target) = effect {
                self.set(target, Word::open);
            } else if let Effect::Close(target) = effect {
                self.set(target, Word::close);
            }
        }
        effects.retain(|effect| !matches!(effect, Effect::Report(_)));
        effects
    }

    fn set(&mut self, target: usize, to: impl Fn(Word) -> Word) {
        self.gates[target] = to(self.gates[target]);
    }

    /// Carries out [`Effect::CloseEmpty`].
    fn close_empty(&mut self, target: usize) -> Vec<Effect> {
        let closed = self.gates[target].close_empty();
        self.gates[target] = closed.unwrap_or(self.gates[target]);
        self.tell(Input::Closed(target, closed.is_some()))
    }

    /// A connection enters without a message.
    fn enter(&mut self, target: usize) -> bool {
        let step = self.gates[target].enter().expect("the gate is open");
        self.gates[target] = step.word;
        step.tells
    }

    /// The same for one that leaves.
    fn leave(&mut self, target: usize) -> bool {
        let step = self.gates[target].leave(false);
        self.gates[target] = step.word;
        self.left_at = Some(self.now);
        step.tells
    }

    fn at(&self, wanted: Timer) -> Option<Instant> {
        let mut timers = self.core.timers();
        timers.find_map(|(timer, at)| (timer == wanted).then_some(at))
    }

    /// Waits until this timer has run out.
    fn due(&mut self, timer: Timer) -> Vec<Effect> {
        self.now = self.at(timer).expect("the timer runs");
        self.tell(Input::Due(timer))
    }

    /// The cooldown is over, or the pause before the next question; the number of the question.
    fn asked(&mut self) -> u64 {
        match self.due(Timer::Lifecycle)[..] {
            [Effect::AskBusy(number)] => number,
            ref other => panic!("{other:?}"),
        }
    }

    /// The same, and no work is found.
    fn cooled(&mut self) -> Vec<Effect> {
        let number = self.asked();
        self.tell(Input::Busy(number, false))
    }

    fn may_exit(&self) -> bool {
        self.core.is_idle(self.occupancy())
    }
}

#[test]
fn the_first_client_starts_the_service_and_is_let_through_when_its_target_answers() {
    let mut bench = Bench::asleep(1);
    let start = [Effect::Start(client(1))];
    assert_eq!(bench.tell(Input::Arrived(client(1))), start);
    let query = [Effect::Query { explain: true }];
    assert_eq!(bench.tell(Input::Started(Ok(()))), query);
    assert_eq!(bench.tell(Input::Settle), [Effect::Probe(0)]);
    let served = [admitted(client(1)), Effect::Open(0)];
    assert_eq!(bench.tell(Input::Answered(0)), served);
}

#[test]
fn clients_that_come_meanwhile_share_the_start_and_are_let_through_in_their_order() {
    let mut bench = Bench::asleep(1);
    bench.tell(Input::Arrived(client(1)));
    assert_eq!(bench.tell(Input::Arrived(client(2))), []);
    bench.tell(Input::Started(Ok(())));
    assert_eq!(bench.tell(Input::Arrived(client(3))), []);
    bench.tell(Input::Settle);
    let served = [1, 2, 3].map(|number| admitted(client(number)));
    assert_eq!(bench.tell(Input::Answered(0))[..3], served);
    assert_eq!(bench.core.clients().waiting, 0);
}

#[test]
fn the_service_is_started_for_the_client_that_has_waited_longest() {
    let mut bench = Bench::cooling(2);
    bench.cooled();
    (0..2).for_each(|target| _ = bench.close_empty(target));
    bench.tell(Input::Arrived(ticket(1, 7)));
    bench.tell(Input::Arrived(ticket(0, 8)));
    let start = [Effect::Start(ticket(1, 7))];
    assert_eq!(bench.tell(Input::Stopped(Ok(()))), start);
}

#[test]
fn a_refused_client_closes_the_gate_of_its_target_and_waits_for_its_answer() {
    let mut bench = Bench::awake(2);
    bench.leave(0);
    let effects = bench.tell(Input::Refused(ticket(0, 0)));
    let query = Effect::Query { explain: false };
    assert_eq!(effects, [Effect::Close(0), query, Effect::Probe(0)]);
    assert!(!bench.gates[0].is_open() && bench.gates[1].is_open());
    let again = Effect::Admit {
        ticket: ticket(0, 0),
        first: false,
    };
    assert_eq!(bench.tell(Input::Answered(0)), [again, Effect::Open(0)]);
}

#[test]
fn a_client_is_rejected_when_only_its_target_stays_silent() {
    let mut bench = Bench::awake(1);
    bench.leave(0);
    bench.tell(Input::Refused(client(0)));
    let limit = Timer::Limit(client(0));
    assert_eq!(bench.at(limit), Some(bench.now + START_TIMEOUT));
    let rejected = Effect::Reject(client(0), Rejection::Silent);
    assert_eq!(bench.due(limit)[0], rejected);
    assert!(bench.at(limit).is_none());
}

#[test]
fn a_service_with_no_connection_and_only_silent_targets_is_stopped() {
    let mut bench = Bench::awake(2);
    bench.leave(0);
    bench.tell(Input::Refused(ticket(0, 0)));
    // One is connected to the other target.
    let limit = Timer::Limit(ticket(0, 0));
    assert!(!bench.due(limit).contains(&Effect::Stop));
    bench.tell(Input::Settle);
    assert_eq!(bench.core.state(), State::Awake);

    bench.leave(1);
    let effects = bench.tell(Input::Refused(ticket(1, 1)));
    // Both are asked.
    assert_eq!(
        effects,
        [Effect::Close(1), Effect::Probe(0), Effect::Probe(1)]
    );
    let effects = bench.due(Timer::Limit(ticket(1, 1)));
    let rejected = Effect::Reject(ticket(1, 1), Rejection::Silent);
    assert_eq!(
        (effects[0], effects.last()),
        (rejected, Some(&Effect::Stop))
    );
    bench.tell(Input::Arrived(ticket(0, 2)));
    let start = [Effect::Start(ticket(0, 2))];
    assert_eq!(bench.tell(Input::Stopped(Ok(()))), start);
}

#[test]
fn a_target_that_answers_keeps_a_service_up_whose_other_is_silent() {
    let mut bench = Bench::awake(2);
    (0..2).for_each(|target| _ = bench.leave(target));
    bench.tell(Input::Refused(ticket(0, 0)));
    assert_eq!(bench.core.state(), State::Awake);
    assert!(
        !bench
            .due(Timer::Limit(ticket(0, 0)))
            .contains(&Effect::Stop)
    );
}

#[test]
fn a_start_that_takes_too_long_is_given_up_and_undone() {
    let mut bench = Bench::asleep(1);
    bench.tell(Input::Arrived(client(1)));
    let effects = bench.due(Timer::Lifecycle);
    let rejected = Effect::Reject(client(1), Rejection::Failed);
    assert_eq!(effects, [rejected, Effect::GiveUp { undo: true }]);
    // What comes of the start is known already, whenever it ends.
    assert_eq!(bench.tell(Input::Started(Ok(()))), []);
    assert!(matches!(
        bench.core.state(),
        State::Failed { undoing: true, .. }
    ));
    bench.tell(Input::Stopped(Ok(())));
    assert!(matches!(
        bench.core.state(),
        State::Failed { undoing: false, .. }
    ));
}

#[test]
fn an_answer_to_a_query_begun_before_an_order_says_nothing() {
    let mut bench = Bench::asleep(1);
    let query = Effect::Query { explain: false };
    assert_eq!(bench.tell(Input::Changed), [query]);
    bench.tell(Input::Arrived(client(1)));
    bench.tell(Input::Started(Ok(())));
    assert!(!bench.core.query_is_fresh());
    let effects = bench.tell(Input::Queried(Ok(Phase::Down)));
    assert_eq!(effects, [Effect::Query { explain: true }]);
    assert!(matches!(bench.core.state(), State::Waking { .. }));
    assert!(bench.core.query_is_fresh());
}

#[test]
fn there_is_one_query_at_a_time_and_a_change_meanwhile_asks_for_another() {
    let mut bench = Bench::awake(1);
    assert_eq!(bench.tell(Input::Changed).len(), 1);
    assert_eq!(bench.tell(Input::Changed), []);
    assert_eq!(bench.tell(Input::Queried(Ok(Phase::Up))).len(), 1);
    assert_eq!(bench.tell(Input::Queried(Ok(Phase::Up))), []);
}

#[test]
fn the_process_may_exit_when_the_service_was_seen_down_and_no_client_is_here() {
    let mut bench = Bench::cooling(1);
    assert!(!bench.may_exit());
    bench.cooled();
    assert_eq!(bench.close_empty(0), [Effect::Stop]);
    bench.tell(Input::Stopped(Ok(())));
    assert_eq!(bench.core.state(), State::Asleep);
    assert!(!bench.may_exit(), "it was not seen down yet");
    let query = [Effect::Query { explain: false }];
    assert_eq!(bench.tell(Input::Settle), query);
    bench.tell(Input::Queried(Ok(Phase::Down)));
    assert!(bench.may_exit());
    bench.tell(Input::Arrived(client(7)));
    assert!(!bench.may_exit());
}

#[test]
fn a_client_that_was_rejected_counts_until_it_is_closed() {
    let mut bench = Bench::limited(1, WakeLimiter::default());
    bench.tell(Input::Arrived(client(1)));
    bench.tell(Input::Started(Err(())));
    bench.tell(Input::Stopped(Ok(())));
    bench.due(Timer::Lifecycle);
    bench.tell(Input::Settle);
    bench.tell(Input::Queried(Ok(Phase::Down)));
    assert_eq!(bench.core.state(), State::Asleep);
    assert!(!bench.may_exit());
    bench.tell(Input::Left(client(1)));
    assert!(bench.may_exit());
}

#[test]
fn one_process_stays_for_all_that_are_denied() {
    let mut bench = Bench::asleep(1);
    bench.tell(Input::Denied);
    assert!(!bench.may_exit());
    bench.due(Timer::Linger);
    assert!(bench.may_exit());
}

#[test]
fn a_client_that_comes_too_often_is_rejected_unless_the_service_is_up_anyway() {
    let now = crate::service::now();
    let limiter = || WakeLimiter::new(1, Duration::MAX, [now]);
    let mut bench = Bench::limited(1, limiter());
    let query = [Effect::Query { explain: false }];
    assert_eq!(bench.tell(Input::Arrived(client(1))), query);
    let rejected = Effect::Reject(client(1), Rejection::WakeRate);
    assert_eq!(bench.tell(Input::Queried(Ok(Phase::Down))), [rejected]);
    assert!(bench.at(Timer::Linger).is_some());

    let mut bench = Bench::limited(1, limiter());
    bench.tell(Input::Arrived(client(1)));
    assert_eq!(
        bench.tell(Input::Queried(Ok(Phase::Up))),
        [Effect::Probe(0)]
    );
    assert_eq!(bench.core.state(), State::Awake);
}

#[test]
fn an_eager_target_is_asked_as_soon_as_the_service_is_up_and_no_sooner() {
    let bench = Bench::asleep(2);
    let mut bench = Bench {
        core: bench.core.eager(1),
        ..bench
    };
    assert_eq!(
        bench.tell(Input::Arrived(client(0))),
        [Effect::Start(client(0))]
    );
    bench.tell(Input::Started(Ok(())));
    assert_eq!(bench.tell(Input::Settle), [Effect::Probe(0)]);
    bench.tell(Input::Queried(Ok(Phase::Up)));
    bench.tell(Input::Left(client(0)));
    // No client is there.
    assert_eq!(
        bench.tell(Input::Answered(0)),
        [Effect::Open(0), Effect::Probe(1)]
    );
    assert!(matches!(bench.core.state(), State::Cooling { .. }));
    assert_eq!(bench.tell(Input::Answered(1)), [Effect::Open(1)]);
    // It is down, and something else starts it.
    bench.tell(Input::Changed);
    let closed = [Effect::Close(0), Effect::Close(1)];
    assert_eq!(bench.tell(Input::Queried(Ok(Phase::Down))), closed);
    bench.tell(Input::Changed);
    bench.tell(Input::Queried(Ok(Phase::Up)));
    assert_eq!(bench.tell(Input::Settle), [Effect::Probe(1)]);
    assert_eq!(bench.tell(Input::Answered(1)), [Effect::Open(1)]);
    assert_eq!(bench.cooled(), [Effect::CloseEmpty(1)]);
    assert_eq!(bench.close_empty(1), [Effect::Stop]);
}

#[test]
fn the_service_is_stopped_after_its_gates_were_closed_one_by_one() {
    let mut bench = Bench::cooling(2);
    assert_eq!(bench.cooled(), [Effect::CloseEmpty(0)]);
    assert_eq!(bench.at(Timer::Lifecycle), None, "it is being stopped");
    assert_eq!(bench.close_empty(0), [Effect::CloseEmpty(1)]);
    assert_eq!(bench.close_empty(1), [Effect::Stop]);
    assert_eq!(bench.core.state(), State::Stopping(Stop::Ours));
}

#[test]
fn a_gate_that_refuses_to_close_opens_those_that_have_closed() {
    let mut bench = Bench::cooling(2);
    bench.cooled();
    assert_eq!(bench.close_empty(0), [Effect::CloseEmpty(1)]);
    bench.enter(1);
    assert_eq!(bench.close_empty(1), [Effect::Open(0)]);
    assert_eq!(bench.core.state(), State::Awake);
}

#[test]
fn a_visit_without_a_message_begins_the_cooldown_anew() {
    let mut bench = Bench::cooling(1);
    bench.now += COOLDOWN / 2;
    bench.enter(0);
    bench.leave(0);
    let left_at = bench.now;
    assert_eq!(bench.due(Timer::Lifecycle), [], "not yet");
    assert_eq!(bench.at(Timer::Lifecycle), Some(left_at + COOLDOWN));
    assert_eq!(bench.cooled(), [Effect::CloseEmpty(0)]);
}

#[test]
fn work_keeps_the_service_awake_and_is_asked_for_again() {
    let mut bench = Bench::cooling(1);
    let number = bench.asked();
    assert_eq!(bench.tell(Input::Busy(number, true)), []);
    assert!(bench.gates[0].is_open());
    assert_eq!(bench.at(Timer::Lifecycle), Some(bench.now + ASK_AGAIN));
    assert_eq!(bench.cooled(), [Effect::CloseEmpty(0)]);
}

#[test]
fn work_keeps_the_service_awake_for_no_longer_than_its_limit() {
    let mut bench = Bench::cooling(1);
    let began = bench.at(Timer::Lifecycle).unwrap();
    for after in [30, 60, 70].map(Duration::from_secs) {
        let number = bench.asked();
        bench.tell(Input::Busy(number, true));
        assert_eq!(bench.at(Timer::Lifecycle), Some(began + after));
    }
    assert_eq!(bench.due(Timer::Lifecycle), [Effect::CloseEmpty(0)]);
    assert_eq!(bench.close_empty(0), [Effect::Stop]);
}

#[test]
fn a_client_that_comes_while_work_is_asked_for_enters_and_makes_the_answer_void() {
    let mut bench = Bench::cooling(1);
    let number = bench.asked();
    bench.enter(0);
    assert_eq!(bench.tell(Input::Busy(number, false)), []);
    assert_eq!(bench.core.state(), State::Awake);
    bench.leave(0);
    bench.tell(Input::Settle);
    // One that comes and goes between two readings begins the cooldown anew as well.
    let number = bench.asked();
    bench.enter(0);
    bench.leave(0);
    assert_eq!(bench.tell(Input::Busy(number, false)), []);
    assert_eq!(bench.at(Timer::Lifecycle), Some(bench.now + COOLDOWN));
    assert_eq!(bench.cooled(), [Effect::CloseEmpty(0)]);
}

#[test]
fn without_an_answer_the_service_may_be_stopped_and_a_late_one_says_nothing() {
    let mut bench = Bench::cooling(1);
    let late = bench.asked();
    assert_eq!(bench.due(Timer::Answer), [Effect::CloseEmpty(0)]);
    bench.enter(0);
    bench.close_empty(0);
    bench.leave(0);
    bench.tell(Input::Settle);
    let number = bench.asked();
    for busy in [true, false] {
        assert!(!bench.core.is_asked(late));
        assert_eq!(bench.tell(Input::Busy(late, busy)), []);
    }
    assert!(bench.core.is_asked(number));
    bench.tell(Input::Busy(number, true));
    assert_eq!(bench.tell(Input::Busy(number, false)), [], "answered twice");
}

#[test]
fn a_frozen_service_has_closed_gates_and_lets_a_client_in_when_it_is_thawed_and_answers() {
    let mut bench = Bench::frozen();
    assert!(!bench.gates[0].is_open() && !bench.may_exit() && !bench.core.is_frozen());
    assert_eq!(bench.tell(Input::Arrived(client(5))), [Effect::Thaw]);
    assert_eq!(bench.tell(Input::Arrived(client(6))), []);
    let effects = bench.tell(Input::Thawed(Ok(())));
    assert_eq!(
        effects,
        [Effect::Probe(0), Effect::Query { explain: false }]
    );
    assert!(!bench.gates[0].is_open());
    let served = [admitted(client(5)), admitted(client(6)), Effect::Open(0)];
    assert_eq!(bench.tell(Input::Answered(0)), served);
}

#[test]
fn a_client_that_comes_while_the_service_is_being_frozen_waits_for_the_thaw() {
    let bench = Bench::with(1, WakeLimiter::default(), FREEZE_AFTER);
    let mut bench = bench.woken(1).cooled_down(1);
    bench.cooled();
    assert_eq!(bench.close_empty(0), [Effect::Freeze]);
    assert_eq!(bench.tell(Input::Arrived(client(5))), []);
    let query = Effect::Query { explain: false };
    assert_eq!(bench.tell(Input::Froze(Ok(()))), [Effect::Thaw, query]);
    // It was begun before the thaw had ended.
    bench.tell(Input::Queried(Ok(Phase::Frozen)));
    assert!(matches!(bench.core.state(), State::Thawing { .. }));
}

#[test]
fn a_service_that_dies_while_it_is_frozen_is_thawed_before_the_process_may_exit() {
    let mut bench = Bench::frozen();
    bench.tell(Input::Changed);
    assert_eq!(bench.tell(Input::Queried(Ok(Phase::Down))), [Effect::Thaw]);
    bench.tell(Input::Thawed(Ok(())));
    bench.tell(Input::Queried(Ok(Phase::Down)));
    assert_eq!(bench.core.state(), State::Asleep);
    assert!(bench.may_exit());
}

#[test]
fn work_is_asked_for_again_after_the_thaw_before_the_stop() {
    let mut bench = Bench::frozen();
    assert_eq!(bench.due(Timer::Lifecycle), [Effect::Thaw]);
    bench.tell(Input::Thawed(Ok(())));
    bench.tell(Input::Queried(Ok(Phase::Up)));
    let number = bench.asked();
    bench.tell(Input::Busy(number, true));
    assert_eq!(bench.at(Timer::Lifecycle), Some(bench.now + ASK_AGAIN));
    // Its target was not asked again since, so there is no gate to be closed.
    assert_eq!(bench.cooled(), [Effect::Stop]);
}

#[test]
fn a_service_that_something_else_has_frozen_under_a_client_is_left_alone_until_another_comes() {
    let bench = Bench::with(1, WakeLimiter::default(), FREEZE_AFTER);
    let mut bench = bench.woken(1);
    bench.tell(Input::Changed);
    bench.tell(Input::Queried(Ok(Phase::Frozen)));
    assert!(bench.core.is_frozen() && bench.core.state() == State::Awake);
    assert!(!bench.gates[0].is_open());
    bench.tell(Input::Arrived(client(5)));
    let effects = bench.tell(Input::Queried(Ok(Phase::Frozen)));
    assert!(effects.contains(&Effect::Start(client(5))), "{effects:?}");
}

#[test]
fn gates_are_read_now_and_then_while_connections_come_and_go_and_watched_otherwise() {
    let mut bench = Bench::awake(1);
    bench.enter(0);
    assert_eq!(bench.due(Timer::Sample), [], "it has changed");
    assert_eq!(bench.due(Timer::Sample), [Effect::Watch]);
    bench.gates[0] = bench.gates[0].watch();
    bench.tell(Input::Gate);
    assert_eq!(bench.at(Timer::Sample), None);
    assert!(bench.leave(0), "the next change is told");
    bench.tell(Input::Gate);
    assert!(bench.at(Timer::Sample).is_some());
}

#[test]
fn two_services_that_differ_in_times_only_have_one_fingerprint() {
    let print = |bench: &Bench| {
        let mut hasher = std::hash::DefaultHasher::new();
        let gates = bench.occupancy();
        bench.core.fingerprint(bench.now, gates, &mut hasher);
        hasher.finish()
    };
    let (early, mut late) = (Bench::cooling(1), Bench::awake(1));
    assert_ne!(print(&early), print(&late));
    late.now += COOLDOWN;
    late.leave(0);
    late.tell(Input::Settle);
    assert_eq!(print(&early), print(&late));
}

#[test]
fn an_order_to_stop_asks_what_keeps_it_awake_and_force_asks_nothing() {
    let mut bench = Bench::awake(2);
    assert_eq!(bench.tell(Input::Sleep(false)), [], "clients are inside");
    assert_eq!(bench.core.state(), State::Awake);
    (0..2).for_each(|target| _ = bench.leave(target));
    bench.tell(Input::Sleep(false));
    let number = match bench.tell(Input::Due(Timer::Lifecycle))[..] {
        [Effect::AskBusy(number)] => number,
        ref other => panic!("{other:?}"),
    };
    assert_eq!(bench.tell(Input::Sleep(false)), [], "it is asked already");
    bench.tell(Input::Busy(number, true));
    assert!(matches!(bench.core.state(), State::Cooling { .. }));
    assert!(bench.tell(Input::Sleep(true)).contains(&Effect::Stop));
    assert!(bench.gates.iter().all(|gate| !gate.is_open()));

    let mut bench = Bench::awake(1);
    assert!(bench.tell(Input::Sleep(true)).contains(&Effect::Stop));
    assert!(!bench.gates[0].is_open() && bench.gates[0].inside() == 1);
    bench.tell(Input::Stopped(Ok(())));
    assert_eq!(bench.core.state(), State::Asleep);
}
