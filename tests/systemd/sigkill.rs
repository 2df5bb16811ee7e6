//! wakeport killed by SIGKILL in every state, hundreds of times, under load: open connections break without a wrong
//! byte, all other clients are served, the service sleeps at the end, and the counters add up.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::echo_service::{Echo, Exchange, Random};
use crate::outages;
use crate::rig::Rig;

/// How many kills there are, and what chance begins with; the same run again by the same two variables.
const KILLS: (&str, usize) = ("WAKEPORT_TEST_KILLS", 240);
const SEED: (&str, usize) = ("WAKEPORT_TEST_SEED", 1);

/// Instances that are killed at the same time, and what sleeps behind them.
const INSTANCES: [Kind; 4] = [Kind::Unit, Kind::Unit, Kind::Unit, Kind::Child];

/// When to kill: what is waited for, and for how many milliseconds at most after that.
const MOMENTS: [(Moment, u64); 6] = [
    (Moment::Begun, 30),
    (Moment::Is("waking"), 250),
    (Moment::Is("awake"), 150),
    (Moment::Is("cooling"), 150),
    (Moment::Is("stopping"), 150),
    (Moment::AsleepAgain, 3),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    /// The process is there; it may not even have been executed.
    Begun,
    /// The service does this.
    Is(&'static str),
    /// The service has just fallen asleep: the process is about to exit.
    AsleepAgain,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Unit,
    /// It is killed with wakeport.
    Child,
}

/// An instance that is killed again and again.
struct Target<'a> {
    echo: Echo<'a>,
    kind: Kind,
    /// Kills that have begun, and those that are over: who came and left between the same two of them was not
    /// touched by any.
    begun: AtomicUsize,
    over: AtomicUsize,
    clients: AtomicUsize,
    broken: AtomicUsize,
    /// How often it was killed in which state.
    killed: Mutex<BTreeMap<String, usize>>,
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn after_sigkill_in_every_state_only_open_connections_are_lost() {
    let rig = Rig::boot();
    let killed = under_fire(&rig, chosen(KILLS), None);
    for state in ["asleep", "waking", "awake", "cooling", "stopping"] {
        assert!(killed.contains_key(state), "never killed when {state}");
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn after_sigkill_during_outages_only_open_connections_are_lost() {
    let rig = Rig::boot();
    let happens = |random: &mut Random| {
        thread::sleep(random.millis(1000));
        outages::something_happens(&rig, random);
    };
    under_fire(&rig, chosen(KILLS) / 4, Some(&happens));
}

fn chosen((variable, default): (&str, usize)) -> usize {
    let value = std::env::var(variable).ok();
    value.map_or(default, |value| value.parse().expect(variable))
}

/// Has instances killed so many times in all. Says how often in which state. What happens meanwhile may keep the
/// journal from knowing everything.
fn under_fire(
    rig: &Rig,
    kills: usize,
    happens: Option<&dyn Fn(&mut Random)>,
) -> BTreeMap<String, usize> {
    let seed = chosen(SEED);
    let targets: Vec<_> = INSTANCES
        .iter()
        .enumerate()
        .map(|(number, &kind)| Target::new(rig, &format!("echo{number}"), kind))
        .collect();
    let over = AtomicUsize::new(0);
    thread::scope(|scope| {
        for (number, target) in targets.iter().enumerate() {
            let random = Random::new((seed + number) as u64);
            let over = OnEnd(&over);
            scope.spawn(move || {
                let _over = over;
                target.endure(kills.div_ceil(INSTANCES.len()), random);
            });
        }
        let mut random = Random::new((seed + INSTANCES.len()) as u64);
        while over.load(SeqCst) < INSTANCES.len() {
            match happens {
                Some(happens) => happens(&mut random),
                None => thread::sleep(Duration::from_millis(10)),
            }
        }
    });
    let mut killed = BTreeMap::new();
    for target in &targets {
        for (state, count) in &*target.killed.lock().expect("no thread has panicked") {
            *killed.entry(state.clone()).or_insert(0) += count;
        }
        target.balances(happens.is_none());
    }
    say(&format!("killed {killed:?} by seed {seed}"));
    killed
}

/// Counts one more when it goes, come what may.
struct OnEnd<'a>(&'a AtomicUsize);

impl Drop for OnEnd<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn after_sigkill_and_a_failed_start_it_serves_as_soon_as_the_unit_is_fixed() {
    const ROUNDS: u64 = 8;
    let rig = Rig::boot();
    let service = "ExecStartPre=test ! -e /run/rig/broken";
    let echo = Echo::asleep(&rig, "echo", service, &["WAKEPORT_COOLDOWN=100ms"]);
    let mut random = Random::new(SEED.1 as u64);
    let (mut refused, mut served) = (0, 0);
    for round in 0..ROUNDS {
        rig.write("/run/rig/broken", "");
        for _ in 0..2 {
            refused += 1;
            assert_eq!(
                Exchange::short().run(&echo.address),
                Err(0),
                "round {round}"
            );
            rig.wait_for("it has failed", || echo.state() == "failed");
            thread::sleep(random.millis(100));
            assert!(rig.kill(&echo.wakeport()), "it stays to remember");
        }
        rig.run("rm /run/rig/broken");
        // A killed process forgets its failures; the next one may be in the middle of one.
        rig.wait_for("a client is served", || {
            let paid = Exchange::short().run(&echo.address);
            refused += u64::from(paid.is_err());
            paid.is_ok()
        });
        served += 1;
        rig.wait_until_asleep("echo");
    }
    assert_eq!(rig.show("Result", "wakeport@echo.socket"), "success");
    let record = echo.record().expect("there were clients");
    let clients = &record["clients"];
    assert_eq!(clients["served"], served, "{record:#}");
    for (count, at_least, at_most) in [
        (&clients["refused_failed"], 1, refused),
        (&record["failures"]["start"], 2 * ROUNDS, refused),
    ] {
        let count = count.as_u64().expect("a number");
        assert!((at_least..=at_most).contains(&count), "{record:#}");
    }
    whole_time_is_accounted_for(&record);
}

/// What each of two services does when their wakeport is killed.
const STATES: [&str; 6] = ["asleep", "waking", "awake", "cooling", "stopping", "failed"];
/// What keeps them in such a state: their start and their stop wait for files to be removed, and another one lets the
/// start fail.
const HELD: &str = "\
ExecStartPre=sh -c 'while test -e /run/rig/NAME.waking; do sleep 0.02; done; test ! -e /run/rig/NAME.failed'
ExecStop=sh -c 'while test -e /run/rig/NAME.stopping; do sleep 0.02; done'";

#[test]
#[ignore = "needs root: tests/run runs it"]
fn after_sigkill_in_any_two_states_of_two_services_the_next_clients_of_both_are_served() {
    killed_in_any_two_states(&|_, both| {
        thread::scope(|scope| {
            for echo in both {
                scope.spawn(|| echo.serves(&Exchange::short()));
            }
            // The start and the stop go on only now.
            release(both);
        });
    });
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn after_sigkill_in_any_two_states_of_two_services_both_sleep_although_no_client_comes() {
    killed_in_any_two_states(&|states, both| {
        let starts = || both.each_ref().map(|echo| echo.rig.starts(&echo.service()));
        // A start that was under way goes on, and no other one begins.
        let under_way = states.map(|state| usize::from(state == "waking"));
        let [first, second] = starts();
        release(both);
        Echo::both_sleep(both);
        let expected = [first + under_way[0], second + under_way[1]];
        assert_eq!(starts(), expected, "{states:?}");
    });
}

/// Kills the wakeport of two services in every pair of their states; what comes `then` ends with both asleep.
fn killed_in_any_two_states(then: &dyn Fn([&str; 2], &[Echo; 2])) {
    let rig = Rig::boot();
    let both = Echo::two(&rig, "pair", HELD, "cooldown = '100ms'");
    let pairs = STATES.map(|first| STATES.map(|second| [first, second]));
    for states in pairs.into_iter().flatten() {
        // A client that has not said anything keeps the process, and wakes nothing.
        let keys = states.map(|state| match state {
            "cooling" => "cooldown = '1h'",
            _ => "cooldown = '100ms'\nwake-on-data = true",
        });
        Echo::configure(&both, keys);
        let held = [0, 1].map(|index| hold(&both[index], states[index]));
        for (echo, state) in both.iter().zip(states) {
            rig.wait_for(&format!("{} is {state}", echo.name), || {
                echo.state() == state
            });
            match state {
                "waking" => rig.wait_until("activating", &echo.service()),
                "stopping" => rig.wait_until("deactivating", &echo.service()),
                _ => (),
            }
        }
        Echo::configure(&both, ["cooldown = '100ms'"; 2]);
        rig.run("rm -f /run/rig/*.failed");
        assert!(rig.kill(&both[0].wakeport()), "{states:?}: it runs");
        drop(held);
        // One that has failed is down as well, but does not look the same.
        rig.ask("systemctl reset-failed first.service second.service");
        then(states, &both);
        Echo::both_sleep(&both);
        for echo in &both {
            rig.wait_for("the record says so", || echo.state() == "asleep");
        }
    }
}

/// Has a service go into a state, and stay there. Returns the client that it takes.
fn hold(echo: &Echo, state: &str) -> Option<TcpStream> {
    echo.rig
        .write(&format!("/run/rig/{}.{state}", echo.name), "");
    let exchange = Exchange {
        ends_first: state != "awake",
        ..Exchange::short()
    };
    let stream = TcpStream::connect(&echo.address).expect("the port is open");
    let client = stream.try_clone().expect("there are files");
    match state {
        "asleep" => Some(stream),
        "waking" => {
            (&stream).write_all(b"hello").expect("the port is open");
            Some(stream)
        }
        "failed" => {
            assert_eq!(exchange.talk(client), Err(0));
            None
        }
        _ => {
            assert_eq!(exchange.talk(client), Ok(()));
            (state == "awake").then_some(stream)
        }
    }
}

/// Lets starts and stops go on.
fn release(both: &[Echo; 2]) {
    both[0]
        .rig
        .run("rm -f /run/rig/*.waking /run/rig/*.stopping");
}

/// How often each of the next two kills.
const FREEZES: u64 = 6;

#[test]
#[ignore = "needs root: tests/run runs it"]
fn after_sigkill_while_the_service_is_frozen_the_next_client_has_it_thawed() {
    let rig = Rig::boot();
    let options = "--cooldown infinity --freeze-after 50ms";
    let echo = Echo::by_init(&rig, "echo", "", options);
    let mut random = Random::new(SEED.1 as u64);
    for round in 0..FREEZES {
        is_killed_when_frozen(&echo, &mut random);
        // The next process runs already, or it is this client that has it started.
        if round % 2 == 0 {
            rig.wait_until("active", &echo.wakeport());
        }
    }
    echo.serves(&Exchange::short());
    assert_eq!(rig.starts("echo.service"), 1);
    assert_eq!(rig.show("Result", "wakeport@echo.socket"), "success");
    whole_time_is_accounted_for(&echo.record().expect("there were clients"));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn after_sigkill_while_the_service_is_frozen_it_is_stopped_although_no_client_comes() {
    let rig = Rig::boot();
    // Long enough that it is seen frozen on a busy machine.
    let options = "--cooldown 5s --freeze-after 50ms";
    let echo = Echo::by_init(&rig, "echo", "", options);
    let mut random = Random::new(SEED.1 as u64);
    for _ in 0..FREEZES / 2 {
        is_killed_when_frozen(&echo, &mut random);
        let starts = rig.starts("echo.service");
        rig.wait_until_asleep("echo");
        let slice = rig.show("FreezerState", r"'system-wakeport\x2decho.slice'");
        assert_eq!(slice, "running");
        assert_eq!(rig.starts("echo.service"), starts);
    }
    let record = echo.record().expect("there were clients");
    assert!(record["sleeps"].as_u64() >= Some(FREEZES / 2), "{record:#}");
    assert_eq!(record["failures"], serde_json::json!({}), "{record:#}");
}

/// Serves a client, and kills wakeport when the service is frozen after that.
fn is_killed_when_frozen(echo: &Echo<'_>, random: &mut Random) {
    let rig = echo.rig;
    let slice = r"'system-wakeport\x2decho.slice'";
    echo.serves(&Exchange::short());
    rig.wait_for("it is killed when it is frozen", || {
        // On a busy machine the moment may be missed.
        if echo.state() == "asleep" {
            echo.serves(&Exchange::short());
        }
        if echo.state() != "frozen" || rig.show("FreezerState", slice) != "frozen" {
            return false;
        }
        thread::sleep(random.millis(50));
        rig.kill(&echo.wakeport())
    });
}

/// The next process finds a service that is deactivating, by an order whose result it cannot see.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn after_sigkill_during_a_hanging_stop_the_next_instance_waits_without_spinning() {
    let rig = Rig::boot();
    let deaf = "KillSignal=SIGWINCH\nTimeoutStopSec=infinity";
    let echo = Echo::asleep(&rig, "echo", deaf, &["WAKEPORT_COOLDOWN=100ms"]);
    echo.serves(&Exchange::short());
    rig.wait_until("deactivating", "echo.service");
    assert!(rig.kill(&echo.wakeport()), "it waits for the end");
    rig.wait_until("active", &echo.wakeport());
    let used = rig.cpu(&echo.wakeport());
    thread::sleep(Duration::from_secs(2));
    let used = rig.cpu(&echo.wakeport()) - used;
    assert!(rig.is("deactivating", "echo.service"));
    assert!(used < Duration::from_millis(200), "{used:?} of work in 2 s");
    thread::scope(|scope| {
        let next = scope.spawn(|| echo.serves(&Exchange::short()));
        rig.wait_for("it waits", || {
            let status = rig.show("StatusText", &echo.wakeport());
            status.contains("1 client waiting")
        });
        assert!(rig.kill("echo.service"), "it hangs");
        next.join().expect("it is served");
    });
    assert_eq!(rig.starts("echo.service"), 2);
}

impl<'a> Target<'a> {
    fn new(rig: &'a Rig, name: &str, kind: Kind) -> Self {
        let service = "ExecStartPre=sleep 0.1\nExecStop=sleep 0.15";
        let settings = &["WAKEPORT_COOLDOWN=150ms"];
        Self {
            echo: match kind {
                Kind::Unit => Echo::asleep(rig, name, service, settings),
                Kind::Child => Echo::child(rig, name, settings),
            },
            kind,
            begun: AtomicUsize::new(0),
            over: AtomicUsize::new(0),
            clients: AtomicUsize::new(0),
            broken: AtomicUsize::new(0),
            killed: Mutex::default(),
        }
    }

    /// Is killed so many times, and has clients all the while.
    fn endure(&self, kills: usize, mut random: Random) {
        let mut rounds = 0;
        while self.over.load(SeqCst) < kills {
            rounds += 1;
            assert!(rounds <= 4 * kills, "too few rounds end with a kill");
            let (moment, at_most) = MOMENTS[rounds % MOMENTS.len()];
            let later = random.millis(at_most);
            if matches!(moment, Moment::Begun | Moment::Is("waking")) {
                self.echo.rig.wait_for("nothing runs", || !self.runs());
            }
            let clients = clients_of_a_round(&mut random);
            thread::scope(|scope| {
                let clients: Vec<_> = clients
                    .into_iter()
                    .map(|(comes, exchange)| {
                        scope.spawn(move || {
                            thread::sleep(comes);
                            self.serve_client(&exchange);
                        })
                    })
                    .collect();
                let over = || clients.iter().all(|client| client.is_finished());
                if self.reaches(moment, over) {
                    thread::sleep(later);
                    self.kill(&format!("{moment:?} and {later:?}"));
                    // Every other time a client connects at once; otherwise the rest of the clients, or none.
                    if random.below(2) == 0 {
                        self.serve_client(&Exchange::short());
                    }
                }
            });
        }
    }

    /// Waits for the moment. It may be missed: then nothing will come of it any more.
    fn reaches(&self, moment: Moment, clients_are_done: impl Fn() -> bool) -> bool {
        let mut was_up = false;
        loop {
            let nothing_comes = clients_are_done();
            let (state, runs) = (self.echo.state(), self.runs());
            was_up |= ["awake", "cooling", "stopping"].contains(&state.as_str());
            let reached = match moment {
                Moment::Begun => runs,
                Moment::Is(wanted) => runs && state == wanted,
                Moment::AsleepAgain => runs && was_up && state == "asleep",
            };
            if reached || nothing_comes && !runs {
                return reached;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn runs(&self) -> bool {
        !self.echo.rig.pids(&self.echo.wakeport()).is_empty()
    }

    fn kill(&self, when: &str) {
        let before = self.echo.record();
        self.begun.fetch_add(1, SeqCst);
        let state = self.echo.state();
        let killed = self.echo.rig.kill(&self.echo.wakeport());
        self.over.fetch_add(1, SeqCst);
        if !killed {
            // It has exited by itself in the meantime.
            self.begun.fetch_sub(1, SeqCst);
            self.over.fetch_sub(1, SeqCst);
            return;
        }
        *self
            .killed
            .lock()
            .expect("no thread has panicked")
            .entry(state)
            .or_default() += 1;
        if let (Some(before), Some(after)) = (before, self.echo.record()) {
            for (name, count) in counters(&before) {
                assert!(counters(&after)[&name] >= count, "{name} after {when}");
            }
        }
    }

    /// A client is served whole, unless wakeport is killed while it is connected.
    fn serve_client(&self, exchange: &Exchange) {
        let before = self.over.load(SeqCst);
        self.clients.fetch_add(1, SeqCst);
        if let Err(good) = exchange.run(&self.echo.address) {
            let kills = self.begun.load(SeqCst) - before;
            assert!(
                kills > 0,
                "{exchange:?} broke after {good} bytes without a kill"
            );
            self.broken.fetch_add(1, SeqCst);
        }
    }

    /// No more clients: the service sleeps, the port is open, and the record adds up.
    fn balances(&self, journal_is_whole: bool) {
        let Echo { rig, name, .. } = &self.echo;
        rig.wait_until_asleep(name);
        let socket = format!("wakeport@{name}.socket");
        assert_eq!(rig.show("Result", &socket), "success");
        let before = self.echo.record().expect("there were clients");
        let (clients, kills) = (self.clients.load(SeqCst), self.over.load(SeqCst));
        let (starts, stops) = match self.kind {
            Kind::Unit if journal_is_whole => {
                let service = self.echo.service();
                (rig.starts(&service), rig.stops(&service))
            }
            Kind::Unit | Kind::Child => (clients, clients),
        };
        for (count, at_most) in [
            (total(&before, "clients"), clients),
            // To an instance that finds clients waiting, a service that runs already is woken at once.
            (total(&before, "wakes"), starts + kills),
            (total(&before, "sleeps"), stops),
        ] {
            assert!(count <= at_most as u64, "{before:#}");
            assert!(count > 0, "{before:#}");
        }
        assert_eq!(before["clients"]["refused_failed"], 0, "{before:#}");
        assert_eq!(before["failures"], serde_json::json!({}), "{before:#}");

        // After a round without kills nothing is missing.
        let exchanges = [100, 5_000, 300_000];
        // All wait for one start: one after the other, a busy machine may take longer than the cooldown.
        let streams =
            exchanges.map(|_| TcpStream::connect(&self.echo.address).expect("the port is open"));
        thread::scope(|scope| {
            for (bytes, stream) in exchanges.into_iter().zip(streams) {
                let exchange = Exchange {
                    bytes,
                    ..Exchange::short()
                };
                scope.spawn(move || assert_eq!(exchange.talk(stream), Ok(()), "{bytes} bytes"));
            }
        });
        rig.wait_until_asleep(name);
        let after = self.echo.record().expect("there were clients");
        let more = |path: &str| {
            let [before, after] = [&before, &after]
                .map(|record| record.pointer(path).and_then(Value::as_u64).unwrap_or(0));
            after - before
        };
        let bytes = exchanges.iter().sum::<usize>() as u64;
        assert_eq!(more("/clients/served"), 3, "{after:#}");
        assert_eq!(total(&after, "clients") - total(&before, "clients"), 3);
        assert_eq!((more("/bytes/up"), more("/bytes/down")), (bytes, bytes));
        assert_eq!(total(&after, "wakes") - total(&before, "wakes"), 1);
        assert_eq!(more("/sleeps"), 1);
        assert_eq!(after["clients"]["active"], 0);
        assert_eq!(after["clients"]["waiting"], 0);
        whole_time_is_accounted_for(&after);
    }
}

/// The time that each state has taken is all the time that has passed, kills or not.
fn whole_time_is_accounted_for(record: &Value) {
    let time = |field: &str| -> jiff::Timestamp {
        let text = record[field].as_str().expect("a time");
        text.parse().expect("a time")
    };
    let passed = time("since")
        .duration_since(time("first_seen"))
        .as_secs_f64();
    let states = record["seconds"].as_object().expect("states");
    let spent: f64 = states.values().filter_map(Value::as_f64).sum();
    assert!(
        (passed - spent).abs() < 0.5,
        "{spent} s of {passed} s are accounted for: {record:#}"
    );
}

/// Everything that is counted in a record.
fn counters(record: &Value) -> BTreeMap<String, u64> {
    let groups = ["clients", "bytes", "wakes", "failures"];
    let groups = groups.iter().filter_map(|group| record[group].as_object());
    let mut counters: BTreeMap<_, _> = groups
        .flatten()
        .filter(|(name, _)| !["active", "waiting"].contains(&name.as_str()))
        .filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)))
        .collect();
    counters.insert("sleeps".into(), total(record, "sleeps"));
    counters
}

/// How many there were in all.
fn total(record: &Value, what: &str) -> u64 {
    let count = |path: &str| record.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    match what {
        "clients" => {
            let ends = ["served", "refused_failed", "refused_silent", "gave_up"];
            ends.iter()
                .map(|end| count(&format!("/clients/{end}")))
                .sum()
        }
        "wakes" => count("/wakes/total"),
        _ => count(&format!("/{what}")),
    }
}

/// The clients of a round, and when: some together, some later, one of them with bulk or a long connection.
fn clients_of_a_round(random: &mut Random) -> Vec<(Duration, Exchange)> {
    let mut clients = Vec::new();
    for _ in 0..=random.below(4) {
        let exchange = Exchange {
            seed: random.next(),
            bytes: 1 + random.below(20_000) as usize,
            times: 1 + random.below(3) as usize,
            pause: random.millis(20),
            ends_first: random.below(2) == 0,
        };
        clients.push((random.millis(150), exchange));
    }
    let stays = random.below(2) == 0;
    clients[0] = (
        Duration::ZERO,
        Exchange {
            bytes: if stays { 64 } else { 4 << 20 },
            times: if stays { 8 } else { 1 },
            ..clients[0].1.clone()
        },
    );
    clients
}

#[expect(
    clippy::print_stderr,
    reason = "the test harness shows it with a failure"
)]
fn say(words: &str) {
    eprintln!("{words}");
}
