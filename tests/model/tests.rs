//! How large a world is looked at, and what must be found in one that is broken.

use std::time::{Duration, Instant};

use crate::check::{Counterexample, Graph};
use crate::world::{Defect, Rules, Trouble, World};

const NO_TROUBLE: Trouble = Trouble {
    failures: 0,
    admin: 0,
    freezes: 0,
    bus: 0,
    kills: 0,
    terms: 0,
    restarts: 0,
    leaves: 0,
    works: 0,
};

/// Clients of one target each, and so many.
const ONE: &[u8] = &[0];
const TWO: &[u8] = &[0, 0];
const THREE: &[u8] = &[0, 0, 0];
/// One for each of two targets.
const BOTH: &[u8] = &[0, 1];
/// The same, and one that comes when the other gate may be closed already.
const BOTH_AND_ONE: &[u8] = &[0, 1, 1];

fn sound(clients: &'static [u8]) -> Rules {
    Rules {
        clients,
        stop_on_exit: false,
        one_wake: false,
        can_tell: true,
        eager: false,
        tell_last: false,
        freezes: false,
        guarded: false,
        busy_limit: Duration::MAX,
        defect: None,
    }
}

fn explore(rules: Rules, trouble: Trouble) -> Result<Graph, Counterexample> {
    let start = World::new(rules, trouble, Instant::now());
    let graph = Graph::explore(&start)?;
    graph.comes_to_rest(&start)?;
    Ok(graph)
}

/// Nothing goes wrong in this world, which has at least so many states.
fn holds(rules: Rules, trouble: Trouble, at_least: usize, sights: &[&str]) {
    let began = Instant::now();
    let graph = explore(rules, trouble).unwrap_or_else(|why| panic!("{why}"));
    let (states, steps) = (graph.states(), graph.steps);
    println!(
        "{rules:?}, {trouble:?}: {states} states, {steps} steps, {:?}",
        began.elapsed()
    );
    assert!(states >= at_least, "only {states} states are left");
    for sight in sights {
        assert!(
            graph.sights.contains(*sight),
            "{sight} is never seen: {:?}",
            graph.sights
        );
    }
}

const ALL_STATES: [&str; 6] = [
    "Asleep",
    "Waking",
    "Awake",
    "Cooling",
    "Stopping(Ours)",
    "Served",
];

#[test]
fn clients_come_whenever_they_like_and_leave_before_they_are_served() {
    let trouble = Trouble {
        leaves: 1,
        ..NO_TROUBLE
    };
    holds(sound(THREE), trouble, 380_000, &ALL_STATES);
}

#[test]
fn the_service_fails() {
    let trouble = Trouble {
        failures: 1,
        leaves: 1,
        ..NO_TROUBLE
    };
    let sights = ["Failed", "Rejected", "Left", "Stopping(Again)"];
    holds(sound(TWO), trouble, 1_900_000, &sights);
}

#[test]
fn the_service_fails_again_and_again() {
    let trouble = Trouble {
        failures: 3,
        ..NO_TROUBLE
    };
    holds(sound(ONE), trouble, 500_000, &["Failed", "Rejected"]);
}

#[test]
fn one_of_two_targets_is_asked_for_by_each_client() {
    let trouble = Trouble {
        failures: 1,
        ..NO_TROUBLE
    };
    holds(sound(BOTH), trouble, 1_100_000, &["Failed", "Rejected"]);
}

#[test]
fn two_gates_are_closed_one_after_the_other() {
    holds(sound(BOTH_AND_ONE), NO_TROUBLE, 190_000, &ALL_STATES);
}

#[test]
fn only_the_target_tells_whether_the_service_is_up() {
    let rules = Rules {
        can_tell: false,
        ..sound(TWO)
    };
    holds(rules, A_FAILURE, 870_000, &["Failed", "Rejected"]);
}

#[test]
fn targets_of_datagrams_are_asked_without_a_client() {
    let rules = Rules {
        eager: true,
        ..sound(BOTH)
    };
    let trouble = Trouble {
        admin: 1,
        kills: 1,
        ..NO_TROUBLE
    };
    holds(rules, trouble, 1_850_000, &ALL_STATES);
}

#[test]
fn the_last_client_that_leaves_is_told() {
    let rules = Rules {
        tell_last: true,
        ..sound(TWO)
    };
    holds(rules, A_FAILURE, 880_000, &["Failed", "Rejected"]);
}

#[test]
fn an_administrator_freezes_the_service() {
    let trouble = Trouble {
        freezes: 1,
        ..NO_TROUBLE
    };
    holds(sound(TWO), trouble, 10_000, &ALL_STATES);
    let one_wake = Rules {
        one_wake: true,
        ..sound(TWO)
    };
    holds(one_wake, trouble, 100_000, &["Rejected"]);
    let stops = Trouble {
        admin: 1,
        ..trouble
    };
    holds(sound(ONE), stops, 240_000, &["Stopping(Theirs)"]);
}

#[test]
fn an_administrator_starts_and_stops_the_service() {
    let trouble = Trouble {
        admin: 2,
        ..NO_TROUBLE
    };
    holds(
        sound(TWO),
        trouble,
        1_550_000,
        &["Failed", "Stopping(Theirs)"],
    );
}

#[test]
fn an_administrator_interferes_with_a_service_that_fails() {
    let trouble = Trouble {
        failures: 1,
        admin: 2,
        ..NO_TROUBLE
    };
    holds(
        sound(ONE),
        trouble,
        1_400_000,
        &["Failed", "Stopping(Theirs)"],
    );
}

#[test]
fn the_bus_is_lost() {
    let trouble = Trouble {
        bus: 1,
        ..NO_TROUBLE
    };
    holds(sound(TWO), trouble, 820_000, &["Failed", "Stopping(Again)"]);
}

#[test]
fn the_bus_is_lost_while_the_service_fails() {
    let trouble = Trouble {
        failures: 1,
        bus: 1,
        ..NO_TROUBLE
    };
    holds(sound(ONE), trouble, 600_000, &["Failed", "Stopping(Again)"]);
}

#[test]
fn wakeport_is_killed() {
    let trouble = Trouble {
        failures: 1,
        kills: 1,
        ..NO_TROUBLE
    };
    holds(sound(TWO), trouble, 1_900_000, &["Cut", "Failed"]);
}

#[test]
fn wakeport_is_stopped() {
    let trouble = Trouble {
        terms: 1,
        failures: 1,
        ..NO_TROUBLE
    };
    holds(sound(TWO), trouble, 3_200_000, &["Cut", "Failed"]);
}

#[test]
fn wakeport_is_stopped_and_takes_the_service_along() {
    let rules = Rules {
        stop_on_exit: true,
        ..sound(ONE)
    };
    let trouble = Trouble {
        terms: 1,
        failures: 1,
        admin: 1,
        ..NO_TROUBLE
    };
    holds(rules, trouble, 2_200_000, &["Cut", "Failed"]);
}

#[test]
fn wakeport_is_restarted_and_goes_on_with_its_connections() {
    let trouble = Trouble {
        restarts: 1,
        failures: 1,
        ..NO_TROUBLE
    };
    holds(sound(TWO), trouble, 1_900_000, &["Failed", "Served"]);
}

#[test]
fn the_service_may_be_woken_only_so_often() {
    let limited = |clients| Rules {
        one_wake: true,
        ..sound(clients)
    };
    let admin = Trouble {
        admin: 1,
        ..NO_TROUBLE
    };
    let failure = Trouble {
        failures: 1,
        ..admin
    };
    holds(limited(TWO), admin, 750_000, &["Rejected"]);
    holds(limited(ONE), failure, 950_000, &["Failed", "Rejected"]);
}

/// What keeps the service awake is asked.
fn guarded(clients: &'static [u8]) -> Rules {
    Rules {
        guarded: true,
        ..sound(clients)
    }
}

/// The service is frozen before it is stopped.
fn freezing(clients: &'static [u8]) -> Rules {
    Rules {
        freezes: true,
        ..sound(clients)
    }
}

const FROZEN_STATES: [&str; 5] = ["Freezing", "Frozen", "Thawing", "Stopping(Ours)", "Served"];

#[test]
fn a_service_is_frozen_before_it_is_stopped() {
    holds(freezing(TWO), NO_TROUBLE, 43_000, &FROZEN_STATES);
    holds(freezing(BOTH), NO_TROUBLE, 74_000, &FROZEN_STATES);
    let works = Trouble {
        works: 1,
        ..NO_TROUBLE
    };
    let guarded = Rules {
        guarded: true,
        ..freezing(TWO)
    };
    holds(guarded, works, 215_000, &FROZEN_STATES);
}

#[test]
fn a_service_that_is_frozen_dies_or_does_not_freeze_or_thaw() {
    holds(freezing(TWO), A_FAILURE, 1_200_000, &["Failed", "Frozen"]);
}

#[test]
fn an_administrator_interferes_with_a_service_that_is_frozen() {
    let admin = Trouble {
        admin: 1,
        freezes: 1,
        ..NO_TROUBLE
    };
    holds(
        freezing(ONE),
        admin,
        390_000,
        &["Frozen", "Stopping(Theirs)"],
    );
}

#[test]
fn wakeport_ends_while_the_service_is_being_frozen_or_thawed() {
    let ends = |terms, kills, restarts, bus| Trouble {
        terms,
        kills,
        restarts,
        bus,
        ..NO_TROUBLE
    };
    holds(freezing(TWO), ends(1, 0, 0, 0), 265_000, &["Frozen", "Cut"]);
    holds(freezing(TWO), ends(0, 1, 0, 0), 100_000, &["Frozen", "Cut"]);
    holds(freezing(TWO), ends(0, 0, 1, 0), 98_000, &["Frozen"]);
    holds(
        freezing(ONE),
        ends(1, 0, 0, 1),
        580_000,
        &["Frozen", "Failed"],
    );
    let stops = Rules {
        stop_on_exit: true,
        ..freezing(ONE)
    };
    let failure = Trouble {
        failures: 1,
        ..ends(1, 0, 0, 0)
    };
    holds(stops, failure, 690_000, &["Frozen"]);
}

#[test]
fn work_keeps_the_service_awake_for_as_long_as_it_is_there() {
    let trouble = Trouble {
        works: 2,
        ..NO_TROUBLE
    };
    holds(guarded(TWO), trouble, 160_000, &ALL_STATES);
    holds(guarded(BOTH), trouble, 280_000, &ALL_STATES);
    let failing = Trouble {
        failures: 1,
        works: 1,
        ..NO_TROUBLE
    };
    holds(
        guarded(ONE),
        failing,
        160_000,
        &["Failed", "Stopping(Again)"],
    );
}

#[test]
fn work_keeps_the_service_awake_for_no_longer_than_the_limit() {
    let trouble = Trouble {
        works: 3,
        ..NO_TROUBLE
    };
    for seconds in [0, 1, 40] {
        let rules = Rules {
            busy_limit: Duration::from_secs(seconds),
            ..guarded(TWO)
        };
        holds(rules, trouble, 30_000, &ALL_STATES);
    }
}

#[test]
#[ignore = "takes minutes and gigabytes: for changes of the core"]
fn more_of_everything() {
    let failures = |failures| Trouble {
        failures,
        ..NO_TROUBLE
    };
    let admin = |trouble| Trouble {
        admin: 1,
        ..trouble
    };
    let bus = |trouble| Trouble { bus: 1, ..trouble };
    let kills = |trouble| Trouble {
        kills: 1,
        ..trouble
    };
    let limited = Rules {
        one_wake: true,
        ..sound(TWO)
    };
    holds(
        sound(TWO),
        admin(failures(1)),
        5_900_000,
        &["Stopping(Theirs)"],
    );
    holds(
        limited,
        admin(failures(1)),
        6_000_000,
        &["Failed", "Rejected"],
    );
    holds(sound(THREE), failures(1), 2_400_000, &[]);
    holds(sound(THREE), admin(NO_TROUBLE), 600_000, &[]);
    holds(sound(THREE), admin(failures(1)), 15_000_000, &[]);
    holds(sound(TWO), admin(failures(2)), 8_000_000, &[]);
    holds(sound(TWO), bus(failures(1)), 3_200_000, &[]);
    holds(sound(TWO), bus(kills(NO_TROUBLE)), 1_200_000, &[]);
    holds(sound(TWO), admin(kills(failures(1))), 5_000_000, &[]);
    holds(sound(BOTH), admin(failures(1)), 2_800_000, &[]);
    holds(limited, kills(failures(1)), 2_000_000, &[]);
    holds(sound(ONE), bus(admin(failures(2))), 2_000_000, &[]);
}

// -- a checker that finds nothing proves nothing

/// In this world something is wrong, and it is found.
fn finds(defect: Defect, trouble: Trouble, what: &str) {
    finds_in(sound(TWO), defect, trouble, what);
}

fn finds_in(rules: Rules, defect: Defect, trouble: Trouble, what: &str) {
    let rules = Rules {
        defect: Some(defect),
        ..rules
    };
    let Err(found) = explore(rules, trouble) else {
        panic!("{defect:?} was not found");
    };
    println!("{defect:?}\n{found}");
    assert!(
        found.why.contains(what),
        "{defect:?} was found to be: {}",
        found.why
    );
}

const A_FAILURE: Trouble = Trouble {
    failures: 1,
    ..NO_TROUBLE
};

#[test]
fn finds_clients_that_are_forgotten() {
    let what = "never comes to rest";
    finds(Defect::ForgetsWhoWaited, NO_TROUBLE, what);
    finds(
        Defect::NeverPolls,
        Trouble {
            admin: 1,
            ..NO_TROUBLE
        },
        what,
    );
}

#[test]
fn finds_clients_that_are_rejected_without_need() {
    let what = "rejected though the service could be had";
    finds(Defect::RejectsDuringAStop, NO_TROUBLE, what);
}

#[test]
fn finds_orders_that_get_in_each_others_way() {
    let what = "while another was under way";
    finds(Defect::StartsForEach, NO_TROUBLE, what);
    finds(Defect::StartsDuringAStop, NO_TROUBLE, what);
}

#[test]
fn finds_news_that_is_taken_for_more_than_a_hint() {
    finds(
        Defect::BelievesOldQueries,
        NO_TROUBLE,
        "wake failed though nothing was wrong",
    );
}

#[test]
fn finds_services_that_are_never_stopped() {
    let trouble = Trouble {
        kills: 1,
        ..NO_TROUBLE
    };
    finds(Defect::NeverCools, NO_TROUBLE, "never comes to rest");
    finds(Defect::NeverAdopts, trouble, "never comes to rest");
    finds(Defect::ExitsBlindly, trouble, "left a service running");
}

#[test]
fn finds_clients_of_a_service_that_is_frozen() {
    let trouble = Trouble {
        freezes: 1,
        ..NO_TROUBLE
    };
    finds(Defect::IgnoresFreezes, trouble, "seen frozen");
}

#[test]
fn finds_services_that_answer_no_client_and_go_on() {
    // The administrator starts a service that hangs; wakeport is started anew, and finds it up.
    let trouble = Trouble {
        admin: 1,
        kills: 1,
        ..A_FAILURE
    };
    let what = "answers no client goes on";
    finds_in(sound(ONE), Defect::KeepsTheSilent, trouble, what);
}

#[test]
fn finds_exits_with_a_client_accepted() {
    let what = "exited with a client accepted";
    finds(Defect::ForgetsToAdmit, NO_TROUBLE, what);
    finds(Defect::AsksWithOpenListeners, NO_TROUBLE, what);
    finds(Defect::ExitsUnderRejected, A_FAILURE, what);
}

#[test]
fn finds_ports_that_are_dead() {
    finds(Defect::NeverForgets, A_FAILURE, "never comes to rest");
    finds(
        Defect::KeepsListenersClosed,
        A_FAILURE,
        "never comes to rest",
    );
}

#[test]
fn finds_stops_under_clients() {
    finds(
        Defect::StopsWithoutClosing,
        NO_TROUBLE,
        "stopped with a gate open",
    );
    finds(
        Defect::ClosesOnClients,
        NO_TROUBLE,
        "stopped with a client inside",
    );
}

#[test]
fn finds_stops_under_work() {
    let works = Trouble {
        works: 1,
        ..NO_TROUBLE
    };
    let what = "stopped under work";
    finds_in(guarded(ONE), Defect::IgnoresWork, works, what);
    finds_in(guarded(TWO), Defect::BelievesLateAnswers, works, what);
}

#[test]
fn finds_questions_without_an_answer() {
    let what = "never comes to rest";
    finds_in(guarded(ONE), Defect::WaitsForAnswers, NO_TROUBLE, what);
}

#[test]
fn finds_what_goes_wrong_with_a_service_that_is_frozen() {
    let (never, term) = (
        "never comes to rest",
        Trouble {
            terms: 1,
            ..NO_TROUBLE
        },
    );
    let finds = |defect, trouble, what| finds_in(freezing(ONE), defect, trouble, what);
    let forgets = Defect::ForgetsWhoCameToTheFreeze;
    finds_in(freezing(TWO), forgets, NO_TROUBLE, never);
    finds(Defect::KeepsItFrozen, NO_TROUBLE, never);
    let what = "left a slice frozen";
    finds(Defect::ForgetsTheSlice, A_FAILURE, what);
    finds(Defect::ExitsFrozen, term, "left a service frozen");
    let what = "that wakeport froze";
    finds_in(freezing(TWO), Defect::BelievesThaws, A_FAILURE, what);
    let what = "stopped with a gate open";
    finds(Defect::StopsWithoutClosing, NO_TROUBLE, what);
    let guarded = Rules {
        guarded: true,
        ..freezing(ONE)
    };
    let works = Trouble {
        works: 1,
        ..NO_TROUBLE
    };
    finds_in(guarded, Defect::IgnoresWork, works, "stopped under work");
}

#[test]
fn finds_gates_that_stay_closed() {
    let what = "a gate stays closed though its target answers";
    finds_in(
        sound(BOTH_AND_ONE),
        Defect::KeepsGatesClosed,
        NO_TROUBLE,
        what,
    );
}

#[test]
fn finds_gates_that_do_not_tell() {
    // Where the state is queried now and then, the gates are read on that occasion, too.
    let quiet = Rules {
        can_tell: false,
        ..sound(ONE)
    };
    let what = "never comes to rest";
    finds_in(quiet, Defect::LeavesSilently, NO_TROUBLE, what);
    finds_in(quiet, Defect::WatchesTooLate, NO_TROUBLE, what);
}

#[test]
fn finds_connections_that_are_miscounted() {
    finds(Defect::LeavesTwice, A_FAILURE, "counts other connections");
    let restart = Trouble {
        restarts: 1,
        ..NO_TROUBLE
    };
    let forgets = Defect::ForgetsWhoWasConnected;
    finds(forgets, restart, "counts other connections");
}
