//! The lifecycle as scripts, and as a grid.

use super::*;

const TIMES: Times = Times {
    cooldown: Duration::from_secs(300),
    freeze_after: Duration::MAX,
    start_timeout: Duration::from_secs(90),
};

const FREEZING: Times = Times {
    freeze_after: Duration::from_secs(120),
    ..TIMES
};

/// Plays a script with a service whose wakes are not limited.
fn check(script: &str) {
    play(Lifecycle::new(TIMES), script);
}

/// The same with one that is frozen after two minutes.
fn check_freezing(script: &str) {
    play(Lifecycle::new(FREEZING), script);
}

/// Plays a script with one that may be woken twice an hour.
fn check_limited(script: &str) {
    let limiter = WakeLimiter::new(2, HOUR, []);
    play(Lifecycle::new(TIMES).limited(limiter), script);
}

const HOUR: Duration = Duration::from_secs(3600);

/// Plays a script. A line is `[+TIME] EVENT  STATE  [ACTION]`: what happens, how much later, and
/// what must come of it. Clients are counted as the caller would.
fn play(mut life: Lifecycle, script: &str) {
    let mut now = some_day();
    let mut clients = ClientCounts::default();
    for line in script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        if let Some(span) = words[0].strip_prefix('+') {
            now += crate::config::span::parse(span).unwrap();
            words.remove(0);
        }
        match words[0] {
            "arrived" => clients.waiting += 1,
            "left" => clients.connected -= 1,
            "hung-up" => clients.waiting -= 1,
            "refused" => {
                clients.connected -= 1;
                clients.waiting += 1;
            }
            _ => (),
        }
        let action = life.handle(event(words[0]), clients, now);
        match action {
            Some(Action::Admit) => clients.connected += std::mem::take(&mut clients.waiting),
            Some(Action::Reject | Action::GiveUp { .. }) => clients.waiting = 0,
            Some(Action::Wake | Action::Sleep | Action::Freeze | Action::Thaw) | None => (),
        }
        let got = format!("{} {}", name(life.state()), action.map_or("", called));
        assert_eq!(
            got.trim(),
            words[1..].join(" "),
            "after `{line}` in{script}"
        );
    }
}

/// Any time will do.
fn some_day() -> Instant {
    crate::service::now()
}

const EVENTS: [(&str, Event); 29] = [
    ("arrived", Event::Arrived),
    ("left", Event::Left),
    ("started", Event::Started),
    ("ready", Event::Ready),
    ("wake-failed", Event::WakeFailed),
    ("slept", Event::Slept),
    ("sleep-failed:up", Event::SleepFailed(Phase::Up)),
    ("sleep-failed:starting", Event::SleepFailed(Phase::Starting)),
    ("sleep-failed:stopping", Event::SleepFailed(Phase::Stopping)),
    ("sleep-failed:down", Event::SleepFailed(Phase::Down)),
    ("seen:up", Event::Seen(Phase::Up)),
    ("seen:starting", Event::Seen(Phase::Starting)),
    ("seen:stopping", Event::Seen(Phase::Stopping)),
    ("seen:down", Event::Seen(Phase::Down)),
    ("seen:frozen", Event::Seen(Phase::Frozen)),
    ("froze", Event::Froze),
    ("freeze-failed", Event::FreezeFailed),
    ("thawed", Event::Thawed),
    ("thaw-failed:up", Event::ThawFailed(Phase::Up)),
    ("thaw-failed:frozen", Event::ThawFailed(Phase::Frozen)),
    ("thaw-failed:stopping", Event::ThawFailed(Phase::Stopping)),
    ("thaw-failed:down", Event::ThawFailed(Phase::Down)),
    ("ending", Event::Ending),
    ("silent", Event::Silent),
    ("busy", Event::Busy(Duration::from_secs(30))),
    ("cut-short", Event::CutShort),
    ("forced", Event::Forced),
    ("due", Event::Due),
    ("early", Event::Due),
];

fn event(word: &str) -> Event {
    match word {
        "hung-up" => Event::Left,
        "refused" => Event::Arrived,
        _ => EVENTS.iter().find(|(name, _)| *name == word).expect(word).1,
    }
}

fn name(state: State) -> &'static str {
    match state {
        Asleep => "asleep",
        Waking { started: false, .. } => "waking",
        Waking { started: true, .. } => "waking(started)",
        Awake => "awake",
        Cooling { .. } => "cooling",
        Freezing { .. } => "freezing",
        Frozen { .. } => "frozen",
        Thawing { .. } => "thawing",
        Stopping(Stop::Ours) => "stopping",
        Stopping(Stop::Again { .. }) => "stopping(again)",
        Stopping(Stop::Theirs) => "stopping(theirs)",
        Failed { undoing: false, .. } => "failed",
        Failed { undoing: true, .. } => "failed(undoing)",
    }
}

fn called(action: Action) -> &'static str {
    match action {
        Action::Wake => "wake",
        Action::Admit => "admit",
        Action::Reject => "reject",
        Action::GiveUp { undo: true } => "give-up+undo",
        Action::GiveUp { undo: false } => "give-up",
        Action::Sleep => "sleep",
        Action::Freeze => "freeze",
        Action::Thaw => "thaw",
    }
}

#[test]
fn a_cooldown_is_cut_short_and_a_service_with_clients_only_by_force() {
    check(
        "
        arrived      waking           wake
        cut-short    waking
        forced       waking
        started      waking(started)
        ready        awake            admit
        cut-short    awake
        left         cooling
        cut-short    cooling
        due          stopping         sleep
        cut-short    stopping
        forced       stopping
        slept        asleep
        cut-short    asleep
        forced       asleep
        arrived      waking           wake
        started      waking(started)
        ready        awake            admit
        forced       stopping         sleep
        arrived      stopping
        slept        waking           wake
    ",
    );
}

#[test]
fn a_whole_day() {
    check(
        "
        arrived      waking           wake
        arrived      waking
        started      waking(started)
        ready        awake            admit
        left         awake
        left         cooling
        +4min due    cooling
        +1min due    stopping         sleep
        slept        asleep
        arrived      waking           wake
    ",
    );
}

#[test]
fn a_client_that_arrives_during_the_cooldown_stops_the_clock() {
    check(
        "
        seen:up      cooling
        +299s due    cooling
        arrived      awake            admit
        +300s due    awake
        left         cooling
        +299s due    cooling
        +1s due      stopping         sleep
    ",
    );
}

#[test]
fn a_client_that_arrives_during_the_stop_wakes_the_service_again() {
    check(
        "
        seen:up      cooling
        +5min due    stopping         sleep
        arrived      stopping
        slept        waking           wake
    ",
    );
}

#[test]
fn a_service_that_runs_already_is_adopted() {
    check(
        "
        seen:up      cooling
        arrived      awake            admit
    ",
    );
}

#[test]
fn a_service_that_answers_without_clients_cools() {
    check(
        "
        arrived      waking           wake
        hung-up      waking
        started      waking(started)
        ready        cooling          admit
    ",
    );
}

#[test]
fn a_failed_wake_rejects_clients_until_the_back_off_is_over() {
    check(
        "
        arrived      waking           wake
        wake-failed  failed(undoing)  give-up+undo
        slept        failed
        arrived      failed           reject
        +1s arrived  waking           wake
        wake-failed  failed(undoing)  give-up+undo
        slept        failed
        +1s arrived  failed           reject
        +1s arrived  waking           wake
        started      waking(started)
        ready        awake            admit
    ",
    );
}

#[test]
fn the_back_off_ends_at_thirty_seconds() {
    let waits = [1, 2, 4, 8, 16, 30, 30].map(Duration::from_secs);
    assert_eq!([0, 1, 2, 3, 4, 5, u32::MAX].map(backoff), waits);
}

#[test]
fn a_failure_is_forgotten_after_a_minute() {
    check(
        "
        arrived      waking           wake
        wake-failed  failed(undoing)  give-up+undo
        slept        failed
        +59s due     failed
        +1s due      asleep
        arrived      waking           wake
        wake-failed  failed(undoing)  give-up+undo
        slept        failed
        +1s arrived  waking           wake
    ",
    );
}

#[test]
fn a_client_that_may_try_again_waits_for_what_is_still_being_undone() {
    check(
        "
        arrived      waking           wake
        wake-failed  failed(undoing)  give-up+undo
        arrived      failed(undoing)  reject
        +2s arrived  failed(undoing)
        slept        waking           wake
    ",
    );
}

#[test]
fn a_service_that_does_not_answer_in_time_has_failed() {
    check(
        "
        arrived      waking           wake
        +10s started waking(started)
        +79s due     waking(started)
        +1s due      failed(undoing)  give-up+undo
    ",
    );
}

#[test]
fn a_service_that_goes_down_before_it_answers_has_failed() {
    check(
        "
        arrived      waking           wake
        seen:down    waking
        started      waking(started)
        seen:down    failed(undoing)  give-up+undo
    ",
    );
}

#[test]
fn a_service_that_restarts_itself_is_waited_for() {
    check(
        "
        arrived        waking           wake
        started        waking(started)
        seen:starting  waking(started)
        ready          awake            admit
        seen:starting  awake
        seen:up        awake
    ",
    );
}

#[test]
fn no_failure_stops_a_service_with_a_client() {
    check(
        "
        seen:up      cooling
        arrived      awake            admit
        seen:down    asleep
        arrived      waking           wake
        wake-failed  failed           give-up
    ",
    );
}

#[test]
fn a_service_that_goes_down_under_its_clients_is_woken_by_the_next() {
    check(
        "
        seen:up      cooling
        arrived      awake            admit
        seen:down    asleep
        left         asleep
        arrived      waking           wake
    ",
    );
}

#[test]
fn a_client_that_the_target_refuses_waits_for_a_query() {
    check(
        "
        seen:up      cooling
        arrived      awake            admit
        refused      awake            admit
        refused      awake            admit
    ",
    );
    check(
        "
        seen:up      cooling
        arrived      awake            admit
        seen:down    asleep
        refused      waking           wake
    ",
    );
}

#[test]
fn silence_stops_neither_a_service_with_a_client_nor_a_start() {
    check(
        "
        seen:up      cooling
        arrived      awake            admit
        refused      awake            admit
        silent       awake
        left         cooling
        silent       cooling
    ",
    );
    check(
        "
        arrived      waking           wake
        silent       waking
        started      waking(started)
        seen:up      waking(started)
        hung-up      waking(started)
        ready        cooling          admit
    ",
    );
}

#[test]
fn clients_wait_while_something_else_stops_or_restarts_the_service() {
    check(
        "
        seen:up        cooling
        arrived        awake             admit
        seen:stopping  stopping(theirs)
        arrived        stopping(theirs)
        seen:starting  stopping(theirs)
        seen:up        awake             admit
        seen:stopping  stopping(theirs)
        arrived        stopping(theirs)
        seen:down      waking            wake
    ",
    );
}

#[test]
fn a_service_stopped_by_something_else_is_asleep_if_no_client_waits() {
    check(
        "
        seen:up        cooling
        seen:stopping  stopping(theirs)
        seen:down      asleep
    ",
    );
}

#[test]
fn a_failed_stop_is_repeated_until_the_service_is_down() {
    check(
        "
        seen:up                cooling
        +5min due              stopping          sleep
        sleep-failed:up        cooling
        +1s due                stopping          sleep
        sleep-failed:up        cooling
        +1s due                cooling
        +1s due                stopping          sleep
        sleep-failed:stopping  stopping(again)
        +4s due                stopping          sleep
        sleep-failed:down      stopping(again)
        +8s due                stopping          sleep
        slept                  asleep
    ",
    );
}

#[test]
fn a_client_is_served_by_a_service_that_failed_to_stop() {
    check(
        "
        seen:up                cooling
        +5min due              stopping          sleep
        arrived                stopping
        sleep-failed:up        awake             admit
    ",
    );
    check(
        "
        seen:up                cooling
        +5min due              stopping          sleep
        sleep-failed:stopping  stopping(again)
        arrived                stopping          sleep
        slept                  waking            wake
    ",
    );
}

#[test]
fn a_service_is_frozen_and_later_thawed_to_be_stopped() {
    check_freezing(
        "
        seen:up       cooling
        +119s due     cooling
        +1s due       freezing         freeze
        froze         frozen
        +179s due     frozen
        +1s due       thawing          thaw
        thawed        cooling
        due           stopping         sleep
        slept         asleep
    ",
    );
}

#[test]
fn a_client_has_a_frozen_service_thawed_without_a_wake() {
    check_freezing(
        "
        seen:up       cooling
        +2min due     freezing         freeze
        froze         frozen
        +1min arrived thawing          thaw
        arrived       thawing
        thawed        awake            admit
        left          awake
        left          cooling
        +2min due     freezing         freeze
        arrived       freezing
        froze         thawing          thaw
        thawed        awake            admit
    ",
    );
    // One that does not wait begins the cooldown anew.
    check_freezing(
        "
        seen:up       cooling
        +2min due     freezing         freeze
        froze         frozen
        +1min arrived thawing          thaw
        hung-up       thawing
        thawed        cooling
        +119s due     cooling
        +1s due       freezing         freeze
    ",
    );
}

#[test]
fn a_service_that_cannot_be_frozen_is_thawed_and_cools_on() {
    check_freezing(
        "
        seen:up       cooling
        +2min due     freezing         freeze
        freeze-failed thawing          thaw
        thawed        cooling
        +2min due     cooling
        +1min due     stopping         sleep
    ",
    );
}

#[test]
fn work_puts_the_freeze_off_and_the_stop_only_where_it_is_due() {
    check_freezing(
        "
        seen:up       cooling
        +2min busy    cooling
        +29s due      cooling
        +1s due       freezing         freeze
        froze         frozen
        +150s due     thawing          thaw
        thawed        cooling
        busy          cooling
        +29s due      cooling
        +1s due       stopping         sleep
    ",
    );
}

#[test]
fn a_service_that_cannot_be_thawed_rejects_clients_and_is_never_forgotten() {
    check_freezing(
        "
        seen:frozen   frozen
        arrived       thawing          thaw
        thaw-failed:frozen failed      reject
        arrived       failed           reject
        seen:frozen   frozen
        +5min due     thawing          thaw
        thaw-failed:frozen frozen
        +1s due       frozen
        +1s due       thawing          thaw
        thaw-failed:up cooling
        due           stopping         sleep
    ",
    );
}

#[test]
fn a_frozen_service_that_something_else_stops_or_kills_is_thawed_first() {
    for seen in ["seen:stopping", "seen:starting", "seen:down"] {
        check_freezing(&format!(
            "
            seen:frozen   frozen
            {seen}        thawing          thaw
            thawed        cooling
            seen:down     asleep
            arrived       waking           wake
        "
        ));
    }
    check_freezing(
        "
        seen:frozen      frozen
        arrived          thawing       thaw
        thaw-failed:down waking        wake
    ",
    );
}

#[test]
fn a_service_that_something_else_thaws_is_frozen_again_and_stopped_in_time() {
    check_freezing(
        "
        seen:frozen   frozen
        +2min seen:up cooling
        +2min due     freezing         freeze
        froze         frozen
        +1min due     thawing          thaw
    ",
    );
}

#[test]
fn a_process_that_ends_thaws_and_freezes_no_more() {
    check_freezing(
        "
        seen:up       cooling
        +2min due     freezing         freeze
        froze         frozen
        ending        thawing          thaw
        thawed        cooling
        +2min due     cooling
        +1min due     stopping         sleep
    ",
    );
    check_freezing(
        "
        seen:up       cooling
        +2min due     freezing         freeze
        ending        freezing
        froze         thawing          thaw
        thawed        cooling
    ",
    );
    check_freezing(
        "
        seen:up       cooling
        ending        cooling
        +2min due     cooling
        +3min due     stopping         sleep
    ",
    );
}

#[test]
fn a_wake_too_many_is_rejected_once_the_service_is_known_to_be_down() {
    check_limited(
        "
        arrived        waking           wake
        started        waking(started)
        ready          awake            admit
        seen:down      asleep
        left           asleep
        +59min arrived waking           wake
        started        waking(started)
        ready          awake            admit
        left           cooling
        arrived        awake            admit
        left           cooling
        +5min due      stopping         sleep
        slept          asleep
        arrived        waking           wake
        started        waking(started)
        ready          awake            admit
        seen:down      asleep
        left           asleep
        arrived        asleep
        seen:stopping  asleep
        arrived        asleep
        seen:down      asleep           reject
        +54min arrived asleep
        +1min seen:down waking          wake
    ",
    );
}

#[test]
fn a_service_that_runs_anyway_is_used_however_often_it_was_woken() {
    check_limited(
        "
        arrived      waking           wake
        started      waking(started)
        seen:down    failed(undoing)  give-up+undo
        slept        failed
        +1s arrived  waking           wake
        wake-failed  failed(undoing)  give-up+undo
        slept        failed
        +1s arrived  failed           reject
        +1s arrived  failed
        seen:up        awake            admit
        left           cooling
        seen:down      asleep
        arrived        asleep
        seen:starting  asleep
        seen:up        awake            admit
    ",
    );
}

#[test]
fn a_client_that_waited_for_a_stop_is_rejected_if_the_service_may_not_be_woken() {
    for (stop, end, state) in [
        ("+5min due stopping sleep", "slept", "asleep"),
        ("seen:stopping stopping(theirs)", "seen:down", "asleep"),
        (
            "+5min due stopping sleep",
            "sleep-failed:down",
            "stopping(again)",
        ),
    ] {
        check_limited(&format!(
            "
            arrived      waking           wake
            wake-failed  failed(undoing)  give-up+undo
            slept        failed
            +2s arrived  waking           wake
            started      waking(started)
            ready        awake            admit
            left         cooling
            {stop}
            arrived      {}
            {end}        {state}          reject
        ",
            stop.split(' ')
                .rfind(|word| word.starts_with("stopping"))
                .unwrap()
        ));
    }
    check_limited(
        "
        arrived      waking           wake
        wake-failed  failed(undoing)  give-up+undo
        slept        failed
        +1s arrived  waking           wake
        wake-failed  failed(undoing)  give-up+undo
        +3s arrived  failed(undoing)
        slept        failed           reject
    ",
    );
}

#[test]
fn the_limiter_counts_the_wakes_of_any_such_time() {
    let begin = some_day();
    let at = |minutes: u64| begin + Duration::from_secs(60 * minutes);
    let mut limiter = WakeLimiter::new(3, HOUR, [at(20), at(0), at(10)]);
    assert_eq!(limiter.empty_until(at(59)), Some(at(60)));
    assert_eq!(limiter.empty_until(at(60)), None);
    limiter.spend(at(65));
    assert_eq!(limiter.empty_until(at(65)), Some(at(70)));
    assert_eq!(limiter.empty_until(at(70)), None);
    // Only the latest ones count.
    let limiter = WakeLimiter::new(2, HOUR, (0..10).map(at));
    assert_eq!(limiter.empty_until(at(10)), Some(at(68)));
    // Nothing is too long, and nothing too little.
    let limiter = WakeLimiter::new(0, Duration::MAX, [at(0)]);
    assert!(
        limiter
            .empty_until(at(10))
            .is_some_and(|until| until > at(1_000_000))
    );
    assert_eq!(WakeLimiter::new(1, HOUR, []).empty_until(at(0)), None);
    assert_eq!(WakeLimiter::default().empty_until(at(0)), None);
}

#[test]
fn no_time_is_too_long() {
    let forever = Times {
        cooldown: Duration::MAX,
        freeze_after: Duration::MAX,
        start_timeout: Duration::MAX,
    };
    let mut life = Lifecycle::new(forever);
    let now = some_day();
    life.handle(
        Event::Arrived,
        ClientCounts {
            waiting: 1,
            connected: 0,
        },
        now,
    );
    assert_eq!(
        (name(life.state()), life.state().deadline()),
        ("waking", None)
    );
    life.handle(Event::Started, ClientCounts::default(), now);
    life.handle(Event::Ready, ClientCounts::default(), now);
    assert_eq!(
        (name(life.state()), life.state().deadline()),
        ("cooling", None)
    );
}

/// The grid that the module's page shows is the truth. To change the page with the code:
/// `UPDATE_GRID=1 cargo test lifecycle`, and read the difference.
#[test]
fn the_grid_on_the_page_is_true() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/core/lifecycle/grid.txt");
    if std::env::var_os("UPDATE_GRID").is_some() {
        std::fs::write(file, grid()).unwrap();
    }
    assert_eq!(
        include_str!("grid.txt"),
        grid(),
        "UPDATE_GRID=1 writes the new one"
    );
}

fn grid() -> String {
    let now = some_day();
    let soon = now + Duration::from_secs(1);
    let states = [
        Asleep,
        Waking {
            started: false,
            fail_at: Some(now),
        },
        Waking {
            started: true,
            fail_at: Some(now),
        },
        Awake,
        Cooling {
            freeze_at: None,
            sleep_at: Some(now),
        },
        Cooling {
            freeze_at: Some(now),
            sleep_at: Some(soon),
        },
        Freezing {
            sleep_at: Some(soon),
        },
        Frozen {
            sleep_at: Some(now),
        },
        Thawing {
            freeze_at: None,
            sleep_at: Some(now),
        },
        Stopping(Stop::Ours),
        Stopping(Stop::Again { at: now }),
        Stopping(Stop::Theirs),
        Failed {
            retry_at: soon,
            forget_at: now,
            undoing: false,
        },
        Failed {
            retry_at: now,
            forget_at: now,
            undoing: false,
        },
        Failed {
            retry_at: soon,
            forget_at: now,
            undoing: true,
        },
        Failed {
            retry_at: now,
            forget_at: now,
            undoing: true,
        },
    ];
    let mut text = line(
        &[
            "state",
            "event",
            "no client",
            "one waits",
            "one is connected",
        ]
        .map(str::to_owned),
    );
    let plain = rows(&states, &WakeLimiter::default(), now);
    let happens = |cells: &[String; 5]| cells[2..].iter().any(|c| !c.is_empty() && c != "·");
    for cells in plain.iter().filter(|cells| happens(cells)) {
        text += &line(cells);
    }
    text += "\nwhere that is different after too many wakes:\n";
    let spent = rows(&states, &WakeLimiter::new(1, HOUR, [now]), now);
    for (cells, _) in spent
        .iter()
        .zip(&plain)
        .filter(|(cells, plain)| cells != plain)
    {
        text += &line(cells);
    }
    text
}

fn line(cells: &[String; 5]) -> String {
    let [state, event, none, waits, connected] = cells;
    let line = format!("{state:22} {event:22} {none:30} {waits:30} {connected}");
    line.trim_end().to_owned() + "\n"
}

/// For each state and event what comes of it: without a client, with one that waits, and with one
/// that is connected.
fn rows(states: &[State], limiter: &WakeLimiter, now: Instant) -> Vec<[String; 5]> {
    let counts =
        [(0, 0), (1, 0), (0, 1)].map(|(waiting, connected)| ClientCounts { waiting, connected });
    let mut rows = Vec::new();
    for &state in states {
        let retry = matches!(state, Failed { retry_at, .. } if retry_at <= now);
        let freezes = matches!(state, Cooling { freeze_at, .. } if freeze_at.is_some());
        let more = match (retry, freezes) {
            (true, _) => ", retry",
            (_, true) => ", freeze",
            (false, false) => "",
        };
        let title = format!("{}{more}", name(state));
        for (word, event) in EVENTS.into_iter().filter(|(word, _)| *word != "early") {
            let cells = counts.map(|clients| {
                let mut life = Lifecycle {
                    state,
                    ..Lifecycle::new(FREEZING).limited(limiter.clone())
                };
                // A client that has arrived is there; one that is not can only be an old one.
                let action = match (event, clients.waiting) {
                    (Event::Arrived, 0) => return "".to_owned(),
                    _ => life.handle(event, clients, now),
                };
                let same = life.state() == state;
                match (same, action) {
                    (true, None) => "·".to_owned(),
                    (true, Some(action)) => called(action).to_owned(),
                    (false, None) => name(life.state()).to_owned(),
                    (false, Some(action)) => format!("{}: {}", name(life.state()), called(action)),
                }
            });
            let [none, waits, connected] = cells;
            rows.push([title.clone(), word.to_owned(), none, waits, connected]);
        }
    }
    rows
}
