//! Wake and sleep, as clients and the service see it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Client, HookService, Place, Run, Server, directory, echo, now, runs, script, throughout, until,
};

#[test]
fn the_first_client_wakes_the_service_and_it_sleeps_after_the_last() {
    let stage = HookService::new();
    let front = Place::tcp();
    let wakeport = stage.run().listen(&front).cooldown("100ms").start();
    assert!(stage.calls().is_empty(), "no client yet");
    for round in 1..=3 {
        let client = front.connect();
        client.echoes("hello");
        assert_eq!(stage.count("start"), round);
        drop(client);
        stage.reaches("stop", round);
        wakeport.is(&format!("asleep, {round} served since "));
        assert!(!stage.scene().place.answers());
    }
    assert_eq!(stage.count("start"), 3);
}

#[test]
fn a_hundred_clients_at_once_start_the_service_once() {
    let stage = HookService::play(|_, call| {
        if call.event == "start" {
            thread::sleep(Duration::from_millis(300));
        }
    });
    let front = Place::tcp();
    let _wakeport = stage.run().listen(&front).start();
    let together = Arc::new(Barrier::new(100));
    let clients: Vec<_> = (0..100)
        .map(|number| {
            let (front, together) = (front.clone(), together.clone());
            thread::spawn(move || {
                together.wait();
                front.connect().echoes(&format!("client {number}"));
            })
        })
        .collect();
    for client in clients {
        client.join().expect("every client is served");
    }
    assert_eq!(stage.count("start"), 1);
}

#[test]
fn the_service_stays_awake_while_a_silent_client_is_connected() {
    let stage = HookService::new();
    let front = Place::tcp();
    let wakeport = stage.run().listen(&front).cooldown("0").start();
    let (quiet, other) = (front.connect(), front.connect());
    quiet.echoes("I say nothing more");
    other.echoes("and I leave");
    drop(other);
    wakeport.is("awake: 1 client,");
    throughout(Duration::from_millis(300), "awake", || {
        stage.count("stop") == 0
    });
    quiet.echoes("here I am");
    drop(quiet);
    stage.reaches("stop", 1);
}

#[test]
fn a_start_hook_that_exits_with_75_is_run_again() {
    let stage = HookService::direct(echo, |scene, call| match call.event.as_str() {
        "start" if call.attempt < 3 => 75,
        "start" => {
            scene.up();
            0
        }
        _ => 0,
    });
    let front = Place::tcp();
    let _wakeport = stage.run().listen(&front).start();
    front.connect().echoes("at last");
    let attempts: Vec<_> = stage.calls().iter().map(|call| call.attempt).collect();
    assert_eq!(attempts, [1, 2, 3]);
}

/// When a hook was at some place.
type Times = Arc<Mutex<Vec<Instant>>>;

#[test]
fn when_the_start_fails_clients_are_reset_and_later_ones_retry() {
    let [go, mended] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let (starts, failures) = (Times::default(), Times::default());
    let stage = HookService::direct(echo, {
        let (go, mended) = (go.clone(), mended.clone());
        let (starts, failures) = (starts.clone(), failures.clone());
        move |scene, call| {
            if call.event != "start" {
                return 0;
            }
            starts.lock().expect("no panic").push(now());
            if mended.load(Ordering::SeqCst) {
                scene.up();
                return 0;
            }
            until("the go", || go.load(Ordering::SeqCst));
            failures.lock().expect("no panic").push(now());
            7
        }
    });
    let front = Place::tcp();
    let wakeport = stage.run().listen(&front).start();
    let clients: Vec<_> = (0..5).map(|_| front.connect()).collect();
    wakeport.is("waking: starting the service, 5 clients waiting");
    stage.reaches("start", 1);
    go.store(true, Ordering::SeqCst);
    clients.iter().for_each(Client::is_reset);
    wakeport.logs("cannot start the service: the start hook");
    wakeport.logs("failed (exit status: 7)");
    front.connect().is_reset();
    mended.store(true, Ordering::SeqCst);
    until("a client that is served", || {
        front.connect().try_echo("and now?").is_ok()
    });
    // For a second after a failure no start is tried.
    let [starts, failures] =
        [starts, failures].map(|times| times.lock().expect("no panic").clone());
    assert_eq!(starts.len(), failures.len() + 1);
    for (start, failure) in starts[1..].iter().zip(&failures) {
        assert!(start.duration_since(*failure) >= Duration::from_secs(1));
    }
}

#[test]
fn a_start_hook_that_hangs_is_killed_with_its_children_and_the_client_is_reset() {
    let dir = directory();
    let pids = dir.path().join("pids");
    let hook = script(
        &dir.path().join("hook"),
        &format!(
            "#!/bin/sh\ntrap '' TERM\nsleep 1000 & echo $! $$ >{}\nwhile :; do sleep 1000; done\n",
            pids.display()
        ),
    );
    let (front, target) = (Place::tcp(), Place::tcp());
    let wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .option("--start-hook", hook)
        .option("--start-timeout", "500ms")
        .start();
    let mut text = String::new();
    until("the hook has begun, and is given up", || {
        front.connect().is_reset();
        text = std::fs::read_to_string(&pids).unwrap_or_default();
        text.split_whitespace().count() == 2
    });
    wakeport.logs("cannot start the service: ");
    let pids: Vec<u32> = text
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect();
    assert_eq!(pids.len(), 2);
    until("the hook and its child are gone", || {
        !pids.iter().any(|&pid| runs(pid))
    });
}

#[test]
fn a_stop_hook_that_fails_is_retried_until_it_succeeds() {
    let stage = HookService::direct(echo, {
        let tries = std::sync::atomic::AtomicUsize::new(0);
        move |scene, call| match call.event.as_str() {
            "start" => {
                scene.up();
                0
            }
            _ if tries.fetch_add(1, Ordering::SeqCst) < 2 => 1,
            _ => {
                scene.down();
                0
            }
        }
    });
    let front = Place::tcp();
    let wakeport = stage.run().listen(&front).cooldown("0").start();
    front.connect().echoes("hello");
    wakeport.logs("failed to stop the service: the stop hook");
    wakeport.logs("the service is running without connections; stopping in ");
    wakeport.is("asleep, 1 served");
    assert_eq!(stage.count("stop"), 3);
}

#[test]
fn a_client_that_comes_while_the_stop_hook_runs_is_served_after_a_new_start() {
    let stage = HookService::play(|_, call| {
        if call.event == "stop" {
            thread::sleep(Duration::from_millis(500));
        }
    });
    let front = Place::tcp();
    let _wakeport = stage.run().listen(&front).cooldown("0").start();
    front.connect().echoes("first");
    stage.reaches("stop", 1);
    let client = front.connect();
    client.echoes("second");
    let events: Vec<_> = stage.calls().into_iter().map(|call| call.event).collect();
    assert_eq!(events, ["start", "stop", "start"]);
}

#[test]
fn clients_at_every_phase_of_a_stop_are_served() {
    let stage = HookService::play(|_, call| {
        if call.event == "stop" {
            thread::sleep(Duration::from_millis(60));
        }
    });
    let front = Place::tcp();
    // Without the question what else uses the service: the phases are those of the stop.
    let run = stage.run().option("--direct-connections", "ignore");
    let _wakeport = run.listen(&front).cooldown("20ms").start();
    let mut round = 0;
    until("it has been stopped in between", || {
        front.connect().echoes(&format!("round {round}"));
        thread::sleep(Duration::from_millis(round % 25 * 5));
        round += 1;
        round >= 25 && stage.count("start") > 1
    });
}

#[test]
fn a_slow_hook_does_not_delay_another_connection() {
    let stage = HookService::direct(echo, |scene, call| {
        // The ready hook of a target that was started elsewhere, and then the stop hook.
        if call.event == "start" {
            scene.up();
        }
        0
    });
    let second = Place::tcp();
    let dir = directory();
    let go = dir.path().join("go");
    let slow = script(
        &dir.path().join("slow"),
        &format!(
            "#!/bin/sh\n[ \"$WAKEPORT_TARGET\" = {second} ] || exit 0\nwhile ! [ -e {} ]; do sleep 0.05; done\n",
            go.display()
        ),
    );
    let (front, other_front) = (Place::tcp(), Place::tcp());
    let wakeport = stage
        .run()
        .listen(format!("one={front}"))
        .listen(format!("two={other_front}"))
        .to(format!("two={second}"))
        .option("--ready-hook", slow)
        .start();
    let client = front.connect();
    client.echoes("hello");
    let _server = Server::echo(&second);
    let waiting = other_front.connect();
    waiting.send("patience");
    wakeport.is("awake: 1 client, 1 client waiting");
    for number in 0..100 {
        client.echoes(&format!("{number} while a hook runs"));
    }
    assert!(waiting.is_silent());
    std::fs::write(&go, "").expect("a file of ours");
    assert_eq!(waiting.take(8), b"patience");
}

#[test]
fn a_running_service_is_adopted_and_stopped_later() {
    let stage = HookService::new();
    stage.scene().up();
    let front = Place::tcp();
    let wakeport = stage.run().listen(&front).cooldown("300ms").start();
    wakeport.logs("the service is running without connections; stopping in ");
    // It says `asleep` before it knows as well.
    stage.reaches("stop", 1);
    wakeport.is("asleep");
    assert_eq!((stage.count("start"), stage.count("stop")), (0, 1));
}

#[test]
fn a_target_that_answers_already_is_used_without_the_start_hook() {
    let stage = HookService::new();
    let front = Place::tcp();
    let wakeport = stage.run().listen(&front).cooldown("100ms").start();
    wakeport.is("asleep");
    // Started elsewhere in the meantime.
    stage.scene().up();
    front.connect().echoes("hello");
    stage.reaches("stop", 1);
    assert_eq!(stage.count("start"), 0);
}

#[test]
fn a_service_that_crashes_under_clients_is_woken_by_the_next_one() {
    let stage = HookService::new();
    let front = Place::tcp();
    let _wakeport = stage.run().listen(&front).start();
    let client = front.connect();
    client.echoes("hello");
    stage.scene().crash();
    assert!(client.rest().0.is_empty());
    front.connect().echoes("still there?");
    assert_eq!((stage.count("start"), stage.count("stop")), (2, 0));
}

#[test]
fn a_client_that_half_closes_while_it_waits_gets_its_answer() {
    let stage = HookService::play(|_, call| {
        if call.event == "start" {
            thread::sleep(Duration::from_millis(300));
        }
    });
    for front in [Place::tcp(), Place::abstract_name()] {
        let wakeport = stage.run().listen(&front).cooldown("0").start();
        let client = front.connect();
        client.send("printf | nc -N");
        client.finish();
        assert_eq!(client.all(), b"printf | nc -N");
        drop(client);
        wakeport.is("asleep, 1 served");
    }
}

#[test]
fn a_client_that_resets_while_it_waits_is_dropped() {
    let go = Arc::new(AtomicBool::new(false));
    let begin = go.clone();
    let stage = HookService::play(move |_, call| {
        if call.event == "start" {
            until("the go", || begin.load(Ordering::SeqCst));
        }
    });
    let front = Place::tcp();
    let wakeport = stage.run().listen(&front).cooldown("0").start();
    let client = front.connect();
    wakeport.is("waking: starting the service, 1 client waiting");
    client.reset();
    until("no client waits", || !wakeport.status().contains("waiting"));
    go.store(true, Ordering::SeqCst);
    stage.reaches("stop", 1);
    wakeport.is("asleep, 0 served since ");
    assert_eq!((stage.count("start"), stage.count("stop")), (1, 1));
}

#[test]
fn a_target_that_opens_its_port_late_is_waited_for() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let wakeport = Run::new().to(&target).listen(&front).start();
    let client = front.connect();
    client.send("hello");
    wakeport.is("waking: the target has started, but does not answer yet");
    assert!(client.is_silent());
    let _server = Server::echo(&target);
    assert_eq!(client.take(5), b"hello");
}

#[test]
fn a_target_that_never_listens_resets_its_client_at_the_start_timeout() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .option("--start-timeout", "300ms")
        .start();
    let began = now();
    front.connect().is_reset();
    assert!(began.elapsed() >= Duration::from_millis(300));
    let why = "cannot start the target: it does not answer in time: Connection refused";
    wakeport.refuses(&front, why);
}

#[test]
fn one_client_is_one_connection_at_the_target() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let _wakeport = Run::new().to(&target).listen(&front).start();
    let server = Server::echo(&target);
    for number in 1..=5 {
        let client = front.connect();
        client.echoes("hello");
        assert_eq!(server.connections(), number);
    }
}
