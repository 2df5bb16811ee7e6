//! Many clients during starts, stops and failures: none is lost.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::{
    Client, HookService, LIMIT, Place, Run, Server, directory, echo, noise, now, script, until,
};

/// Clients that connect and close for `span` and until so many are `enough`, with pauses of up to `pause`.
fn run_clients(
    front: &Place,
    count: u64,
    span: Duration,
    pause: u64,
    enough: impl Fn(usize) -> bool + Sync,
) {
    let (began, served) = (now(), AtomicUsize::new(0));
    thread::scope(|scope| {
        for id in 0..count {
            let (served, enough) = (&served, &enough);
            scope.spawn(move || {
                for number in noise(id, 100_000) {
                    if began.elapsed() > span && enough(served.load(Ordering::SeqCst)) {
                        return;
                    }
                    assert!(began.elapsed() < span + LIMIT, "{served:?} served");
                    thread::sleep(Duration::from_millis(u64::from(number) * pause / 255));
                    let client = front.connect();
                    client.echoes(&format!("message {number} of {id}"));
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
}

/// A service that starts and stops slowly, and counts how often.
fn sluggish() -> HookService {
    HookService::play(|_, call| {
        let lengths = noise(u64::from(call.pid), 1);
        thread::sleep(Duration::from_millis(u64::from(lengths[0]) / 10));
    })
}

/// Looks for no direct connections: on a machine with many sockets that takes longer than clients stay away here, and
/// they are to come at any moment of a stop.
fn without_direct(run: Run) -> Run {
    run.option("--direct-connections", "ignore")
}

#[test]
fn clients_that_come_and_go_at_any_time_are_all_served() {
    let stage = sluggish();
    let front = Place::tcp();
    let run = without_direct(stage.run()).cooldown("5ms");
    let _wakeport = run.listen(&front).start();
    run_clients(&front, 3, Duration::from_secs(4), 80, |served| {
        served > 10 && stage.count("start") > 3
    });
}

#[test]
fn clients_that_come_and_go_at_any_time_are_served_by_one_instance_or_another() {
    let stage = sluggish();
    let front = Place::tcp();
    let listener = front.listen();
    let over = Arc::new(AtomicBool::new(false));
    let instances = Arc::new(AtomicUsize::new(0));
    let manager = thread::spawn({
        let run = without_direct(stage.run()).inherit("web", &listener);
        let run = run.cooldown("0");
        let (over, instances) = (over.clone(), instances.clone());
        move || {
            while !over.load(Ordering::SeqCst) {
                // systemd would only start it for a connection in the backlog; it must not matter.
                run.start().ends();
                instances.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    run_clients(&front, 2, Duration::from_secs(5), 500, |served| {
        served > 10 && instances.load(Ordering::SeqCst) > 3
    });
    over.store(true, Ordering::SeqCst);
    manager.join().expect("every instance ends well");
}

#[test]
fn clients_of_a_service_that_keeps_crashing_are_served_or_disconnected_but_never_hang() {
    let stage = HookService::new();
    let front = Place::tcp();
    // A service that crashes between its start and the first probe is waited for that long.
    let run = stage.run().option("--start-timeout", "5s");
    let _wakeport = run.listen(&front).start();
    let served = Arc::new(AtomicUsize::new(0));
    let killer = thread::spawn({
        let (scene, served) = (stage.scene().clone(), served.clone());
        move || {
            for round in 0..20 {
                // At any moment, and then after a client has been served, however busy the machine is.
                thread::sleep(Duration::from_millis(50));
                scene.crash();
                let before = served.load(Ordering::SeqCst);
                until(&format!("a client of round {round} is served"), || {
                    served.load(Ordering::SeqCst) > before
                });
                scene.crash();
            }
        }
    });
    // A crash that makes a start fail is followed by a back-off, in which any number of clients are reset.
    let mut number = 0;
    while number < 150 || !killer.is_finished() {
        let outcome = front.connect().try_echo(&format!("client {number}"));
        let waited_in_vain =
            matches!(&outcome, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!waited_in_vain, "client {number}");
        served.fetch_add(usize::from(outcome.is_ok()), Ordering::SeqCst);
        if outcome.is_err() {
            thread::sleep(Duration::from_millis(20));
        }
        number += 1;
    }
    killer.join().expect("a client is served in every round");
    until("the last one is served", || {
        front.connect().try_echo("the last one").is_ok()
    });
}

#[test]
fn many_clients_are_served_by_a_target_with_a_short_backlog() {
    let dir = directory();
    for target in [Place::tcp(), Place::path(&dir)] {
        let front = Place::tcp();
        let _wakeport = Run::new().to(&target).listen(&front).start();
        let clients: Vec<_> = (0..300).map(|_| front.connect()).collect();
        let listener = target.listen_with_backlog(5);
        let server = thread::spawn(move || {
            for _ in 0..300 {
                let (socket, _) = listener.accept().expect("a client");
                thread::spawn(move || echo(Client::from(socket)));
            }
        });
        for (number, client) in clients.iter().enumerate() {
            client.echoes(&format!("client {number}"));
        }
        server.join().expect("no panic");
    }
}

#[test]
fn every_address_of_a_name_is_tried() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = server.local_addr().expect("it is bound").port();
    let front = Place::tcp();
    // Where `localhost` is ::1 as well, that comes first and refuses.
    let _wakeport = Run::new()
        .to(format!("localhost:{port}"))
        .listen(&front)
        .start();
    let client = front.connect();
    client.send("hello");
    let (end, _) = server.accept().expect("a connection");
    assert_eq!(Client::from(socket2::Socket::from(end)).take(5), b"hello");
}

#[test]
fn a_client_over_a_unix_socket_that_closes_while_it_waits_is_dropped() {
    let (dir, target) = (directory(), Place::tcp());
    let front = Place::path(&dir);
    let wakeport = Run::new().to(&target).listen(&front).start();
    for says_so_first in [false, true] {
        let client = front.connect();
        wakeport.is("waking: the target has started, but does not answer yet, 1 client waiting");
        if says_so_first {
            client.finish();
        }
        drop(client);
        until("no client waits", || !wakeport.status().contains("waiting"));
    }
    let server = Server::echo(&target);
    let client = front.connect();
    client.echoes("hello");
    assert!(server.connections() <= 2);
}

#[test]
fn a_stop_hook_that_hangs_is_killed_and_retried() {
    let first = Mutex::new(None);
    let seen = Arc::new(AtomicBool::new(false));
    let reached = seen.clone();
    let stage = HookService::direct(echo, move |scene, call| {
        if call.event == "start" {
            scene.up();
        } else if first.lock().expect("no panic").get_or_insert(call.pid) == &call.pid {
            until("it is ended", || !crate::support::runs(call.pid));
        } else if !reached.load(Ordering::SeqCst) {
            return 1;
        } else {
            scene.down();
        }
        0
    });
    let front = Place::tcp();
    let wakeport = stage
        .run()
        .listen(&front)
        .cooldown("0")
        .option("--stop-timeout", "2s")
        .start();
    front.connect().echoes("hello");
    wakeport.logs("failed to stop the service: the stop hook");
    wakeport.logs(" timed out after ");
    // Meanwhile it is reachable.
    front.connect().echoes("still there?");
    seen.store(true, Ordering::SeqCst);
    wakeport.is("asleep, 2 served");
    assert_eq!(stage.count("start"), 1);
}

#[test]
fn a_duration_of_zero_is_valid() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let mut wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .option("--start-timeout", 0)
        .option("--drain-timeout", 0)
        .option("--cooldown", 0)
        .start();
    front.connect().is_reset();
    wakeport.signal(rustix::process::Signal::TERM);
    wakeport.ends();
    let front = Place::tcp();
    let _server = Server::echo(&target);
    let mut wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .option("--drain-timeout", 0)
        .start();
    let client = front.connect();
    client.echoes("hello");
    wakeport.signal(rustix::process::Signal::TERM);
    client.is_reset();
    wakeport.ends();
}

#[test]
fn a_connection_to_itself_does_not_count_as_a_target() {
    // Where only a few ports are given out, the kernel soon connects a socket to itself.
    let dir = directory();
    let front = Place::path(&dir);
    let inside = script(
        &dir.path().join("inside"),
        "#!/bin/sh\nip link set lo up && echo 40000 40001 >/proc/sys/net/ipv4/ip_local_port_range && exec \"$@\"\n",
    );
    let unshare = ["unshare", "--user", "--map-root-user", "--net"];
    let possible = Command::new(unshare[0])
        .args(&unshare[1..])
        .args([&inside, "true"])
        .output();
    if !possible.is_ok_and(|output| output.status.success()) {
        // Without user namespaces there is nothing to test here.
        return;
    }
    let wakeport = Run::new()
        .to("127.0.0.1:40000")
        .listen(&front)
        .option("--start-timeout", "1s")
        .under(&unshare)
        .under(&[&inside])
        .start();
    // On a busy machine the first may be reset before there is an answer.
    until("the reason is in the log", || {
        let client = front.connect();
        let _ = client.try_send("who is there?");
        let (answer, _) = client.rest();
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
        let why = "cannot start the target: it does not answer in time: connected to itself";
        wakeport.log().contains(why)
    });
    wakeport.is("failed");
}
