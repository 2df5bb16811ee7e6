//! How wakeport ends: by itself when nobody is left, and when it is told to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Place, Run, Server, Stage, echo, noise, now, runs, throughout, until};

#[test]
fn with_sockets_passed_in_it_exits_when_the_service_sleeps() {
    let stage = Stage::new();
    let front = Place::tcp();
    let listener = front.listen();
    let run = stage.run().inherit("web", &listener).cooldown("100ms");
    for round in 1..=3 {
        let client = front.connect();
        let mut wakeport = run.start();
        client.echoes("hello");
        drop(client);
        wakeport.ends();
        assert_eq!(stage.count("stop"), round);
        assert!(wakeport.whole_log().contains("exiting: nobody is here"));
        assert_eq!(
            wakeport.said().last().map(String::as_str),
            Some("STOPPING=1")
        );
    }
}

#[test]
fn it_lives_for_a_quarter_of_a_second_at_least() {
    let listener = Place::tcp().listen();
    let began = now();
    Run::new()
        .to(Place::tcp())
        .inherit("web", &listener)
        .start()
        .ends();
    assert!(began.elapsed() >= Duration::from_millis(250));
}

#[test]
fn it_stays_when_told_to_and_when_it_listens_itself() {
    let target = Place::tcp();
    let _server = Server::echo(&target);
    let listener = Place::tcp().listen();
    let mut wakeports = [
        Run::new()
            .to(&target)
            .inherit("web", &listener)
            .flag("--stay")
            .start(),
        Run::new().to(&target).listen(Place::tcp()).start(),
    ];
    throughout(Duration::from_secs(1), "both stay", || {
        wakeports.iter_mut().all(|wakeport| wakeport.is_running())
    });
}

#[test]
fn whenever_a_client_comes_while_it_exits_this_instance_or_the_next_serves_it() {
    let stage = Stage::new();
    let front = Place::tcp();
    let listener = front.listen();
    let over = Arc::new(AtomicBool::new(false));
    // We are systemd: whoever waits in the backlog makes us start it again.
    let manager = thread::spawn({
        let (run, over, listener) = (
            stage.run().inherit("web", &listener).cooldown("0"),
            over.clone(),
            listener.try_clone(),
        );
        let listener = listener.expect("a descriptor");
        move || {
            let mut instances = 0;
            while !over.load(Ordering::SeqCst) {
                let mut fds = [rustix::event::PollFd::new(
                    &listener,
                    rustix::event::PollFlags::IN,
                )];
                let limit = rustix::event::Timespec {
                    tv_sec: 0,
                    tv_nsec: 10_000_000,
                };
                if rustix::event::poll(&mut fds, Some(&limit)) == Ok(1) {
                    instances += 1;
                    run.start().ends();
                }
            }
            instances
        }
    });
    for round in 0..20 {
        front.connect().echoes(&format!("round {round}"));
        // The exit comes 250 ms after the start; this passes over it in small steps.
        thread::sleep(Duration::from_millis(200 + round * 6 % 120));
    }
    over.store(true, Ordering::SeqCst);
    let instances = manager.join().expect("every instance ends well");
    assert!(instances > 1, "{instances} instances");
}

#[test]
fn told_to_end_it_goes_on_until_the_last_client_has_left_and_takes_no_other() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let stage = Stage::new();
        let front = Place::tcp();
        let listener = front.listen();
        let mut wakeport = stage.run().inherit("web", &listener).start();
        let client = front.connect();
        client.echoes("before");
        wakeport.signal(signal);
        wakeport.logs(": waiting until 1 client");
        let late = front.connect();
        late.send("for the next instance");
        client.echoes("after");
        assert!(late.is_silent() && wakeport.is_running());
        drop(client);
        wakeport.ends();
        assert_eq!(
            wakeport.said().last().map(String::as_str),
            Some("STOPPING=1")
        );
        // The service stays as it is, and the next instance takes over.
        assert_eq!(stage.count("stop"), 0);
        assert!(late.is_silent());
        let _next = stage.run().inherit("web", &listener).start();
        assert_eq!(late.take(21), b"for the next instance");
        assert_eq!(stage.count("start"), 1);
    }
}

#[test]
fn when_the_drain_timeout_is_over_the_clients_that_are_left_are_reset() {
    let stage = Stage::new();
    let front = Place::tcp();
    let mut wakeport = stage
        .run()
        .listen(&front)
        .option("--drain-timeout", "300ms")
        .start();
    let (one, two) = (front.connect(), front.connect());
    one.echoes("hello");
    two.echoes("hello");
    wakeport.signal(Signal::TERM);
    one.is_reset();
    two.is_reset();
    wakeport.ends();
    assert!(
        wakeport
            .whole_log()
            .contains("resetting 2 clients that have not left in time")
    );
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let stage = Stage::new();
    let front = Place::tcp();
    let mut wakeport = stage
        .run()
        .listen(&front)
        .option("--drain-timeout", "infinity")
        .start();
    let client = front.connect();
    client.echoes("hello");
    wakeport.signal(Signal::TERM);
    wakeport.logs("SIGTERM: waiting until 1 client");
    client.echoes("still here");
    wakeport.signal(Signal::INT);
    wakeport.ends();
    assert!(
        wakeport
            .whole_log()
            .contains("SIGINT once more: ending at once")
    );
    let _ = client.rest();
}

#[test]
fn clients_that_wait_are_served_before_it_ends() {
    let go = Arc::new(AtomicBool::new(false));
    let stage = Stage::play({
        let go = go.clone();
        move |_, call| {
            if call.event == "start" {
                until("the go", || go.load(Ordering::SeqCst));
            }
        }
    });
    let front = Place::tcp();
    let mut wakeport = stage.run().listen(&front).start();
    let clients: Vec<_> = (0..5).map(|_| front.connect()).collect();
    wakeport.is("waking: the service starts, 5 clients waiting");
    wakeport.signal(Signal::TERM);
    wakeport.logs("SIGTERM: waiting until 5 clients have left");
    go.store(true, Ordering::SeqCst);
    clients.iter().for_each(|client| client.echoes("hello"));
    drop(clients);
    wakeport.ends();
    assert_eq!((stage.count("start"), stage.count("stop")), (1, 0));
}

#[test]
fn asked_for_it_puts_the_service_to_sleep_after_draining() {
    let stage = Stage::new();
    let front = Place::tcp();
    let mut wakeport = stage.run().listen(&front).flag("--stop-on-exit").start();
    let client = front.connect();
    client.echoes("hello");
    wakeport.signal(Signal::TERM);
    wakeport.logs("waiting until 1 client");
    client.echoes("goodbye");
    assert_eq!(stage.count("stop"), 0);
    drop(client);
    wakeport.ends();
    assert_eq!(stage.count("stop"), 1);
    assert!(!stage.scene().place.answers());
}

#[test]
fn with_nobody_to_wait_for_it_ends_at_once() {
    let stage = Stage::new();
    let front = Place::tcp();
    let mut wakeport = stage
        .run()
        .listen(&front)
        .option("--drain-timeout", "infinity")
        .start();
    front.connect().echoes("hello");
    wakeport.is("cooling");
    wakeport.signal(Signal::TERM);
    wakeport.ends();
    assert!(
        wakeport
            .whole_log()
            .contains("SIGTERM: ending, nobody is here")
    );
    assert_eq!(stage.count("stop"), 0);
}

#[test]
fn a_stop_hook_that_runs_is_not_cut_off_by_the_end() {
    let ended = Arc::new(AtomicBool::new(false));
    let stage = Stage::play({
        let ended = ended.clone();
        move |_, call| {
            if call.event == "stop" {
                thread::sleep(Duration::from_millis(500));
                ended.store(true, Ordering::SeqCst);
            }
        }
    });
    let front = Place::tcp();
    let mut wakeport = stage.run().listen(&front).cooldown("0").start();
    front.connect().echoes("hello");
    stage.reaches("stop", 1);
    wakeport.signal(Signal::TERM);
    wakeport.ends();
    assert!(ended.load(Ordering::SeqCst));
}

#[test]
fn a_start_hook_that_nobody_waits_for_any_more_ends_with_it() {
    let pid = Arc::new(Mutex::new(0));
    let stage = Stage::direct(echo, {
        let pid = pid.clone();
        move |_, call| {
            *pid.lock().expect("no panic") = call.pid;
            until("the hook is ended", || !runs(call.pid));
            0
        }
    });
    let front = Place::tcp();
    let mut wakeport = stage
        .run()
        .listen(&front)
        .option("--drain-timeout", "300ms")
        .start();
    let client = front.connect();
    stage.reaches("start", 1);
    wakeport.signal(Signal::TERM);
    client.is_reset();
    wakeport.ends();
    assert!(!runs(*pid.lock().expect("no panic")));
}

#[test]
fn bytes_on_their_way_arrive_although_it_is_told_to_end() {
    let target = Place::tcp();
    let bytes = Arc::new(noise(1, 20_000_000));
    let _server = Server::at(&target, {
        let bytes = bytes.clone();
        move |client| {
            let _ = client.try_send(&*bytes);
        }
    });
    let front = Place::tcp();
    let mut wakeport = Run::new().to(&target).listen(&front).start();
    let client = front.connect();
    client.take(1);
    wakeport.signal(Signal::TERM);
    assert!(client.all() == bytes[1..]);
    drop(client);
    wakeport.ends();
}

#[test]
fn killed_it_leaves_the_service_to_the_next_instance() {
    let stage = Stage::new();
    let front = Place::tcp();
    let listener = front.listen();
    let run = stage.run().inherit("web", &listener).cooldown("300ms");
    let mut wakeport = run.start();
    let client = front.connect();
    client.echoes("hello");
    wakeport.signal(Signal::KILL);
    wakeport.wait();
    let _ = client.rest();
    let mut next = run.start();
    next.logs("the service runs already and nobody uses it");
    next.ends();
    assert_eq!((stage.count("start"), stage.count("stop")), (1, 1));
}

#[test]
fn a_failure_is_remembered_by_staying_alive() {
    let stage = Stage::direct(echo, |_, call| i32::from(call.event == "start"));
    let front = Place::tcp();
    let listener = front.listen();
    let mut wakeport = stage.run().inherit("web", &listener).start();
    front.connect().is_reset();
    wakeport.is("failed");
    throughout(Duration::from_secs(2), "it stays", || wakeport.is_running());
    front.connect().is_reset();
    wakeport.signal(Signal::TERM);
    wakeport.ends();
}
