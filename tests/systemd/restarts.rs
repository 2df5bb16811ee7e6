//! A restart of wakeport cuts no connection and stops no service: all of them go on in the next process.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::echo_service::{Echo, Exchange, Over, Random};
use crate::rig::{Client, Rig};
use crate::services::{NEVER, PORT, SOON, TARGET, nginx, nginx_does};

/// How many clients there are at once, and how often they are handed over; descriptors are scarce where tests run.
const CLIENTS: usize = 1000;
const RESTARTS: usize = 50;

/// The longest wait for a byte: a client that hangs fails its scenario.
const ANSWER: Duration = Duration::from_secs(120);

/// Relays from [`PORT`] to a listener of the test's own, in the rig's network.
fn relay(rig: &Rig, settings: &[&str]) -> TcpListener {
    let target = TcpListener::bind(TARGET).expect("a free port");
    let settings = [&["WAKEPORT_UNIT="], settings].concat();
    rig.instance("relay", PORT, TARGET, &settings);
    target
}

const RELAY: &str = "wakeport@relay.service";

fn connect() -> TcpStream {
    let stream = TcpStream::connect(PORT).expect("the port is open");
    limited(stream)
}

fn limited(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(ANSWER)).expect("an option");
    stream.set_write_timeout(Some(ANSWER)).expect("an option");
    stream
}

fn accept(target: &TcpListener) -> TcpStream {
    limited(target.accept().expect("a connection").0)
}

fn restart(rig: &Rig, unit: &str) {
    let before = rig.show("MainPID", unit);
    rig.systemctl(&format!("restart {unit}"));
    assert_ne!(rig.show("MainPID", unit), before, "it is another process");
}

/// Bytes without a pattern.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..length).map(|_| random.next() as u8).collect()
}

#[test]
#[ignore = "needs root: tests/run runs it"]
#[expect(
    clippy::disallowed_methods,
    reason = "how long a client waits is told, and not judged"
)]
#[expect(
    clippy::print_stderr,
    reason = "the test harness shows it with --nocapture"
)]
fn fifty_restarts_under_a_thousand_clients_change_no_byte() {
    let rig = Rig::boot();
    let echo = Echo::asleep(&rig, "echo", "", &[NEVER]);
    let (over, longest) = (AtomicBool::new(false), AtomicU64::new(0));
    let connected = Barrier::new(CLIENTS + 1);
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (echo, over, connected, longest) = (&echo, &over, &connected, &longest);
            let client = move || {
                let stream = TcpStream::connect(&echo.address).expect("the port is open");
                let mut exchange = Exchange {
                    seed: number as u64,
                    // Some carry as much as they can.
                    bytes: if number % 100 == 0 { 4_000_000 } else { 1_000 },
                    times: 1,
                    pause: Duration::from_millis(200),
                    ends_first: false,
                };
                let mut random = Random::new(number as u64);
                let mut talk = |last| {
                    exchange.ends_first = last;
                    exchange.seed = random.next();
                    let stream = stream.try_clone().expect("a descriptor");
                    let began = Instant::now();
                    assert_eq!(exchange.talk(stream), Ok(()), "client {number}");
                    let took = began.elapsed().saturating_sub(exchange.pause);
                    if exchange.bytes < 10_000 {
                        longest.fetch_max(took.as_micros() as u64, SeqCst);
                    }
                };
                talk(false);
                connected.wait();
                while !over.load(SeqCst) {
                    talk(false);
                }
                talk(true);
            };
            let named = thread::Builder::new().stack_size(256 * 1024);
            named.spawn_scoped(scope, client).expect("a thread");
        }
        connected.wait();
        let _over = Over(&over);
        longest.store(0, SeqCst);
        let began = Instant::now();
        for _ in 0..RESTARTS {
            restart(&rig, &echo.wakeport());
        }
        eprintln!(
            "{RESTARTS} restarts in {:?}, the longest pause was {:?}",
            began.elapsed(),
            Duration::from_micros(longest.load(SeqCst))
        );
    });
    let handed = rig.said(
        &echo.wakeport(),
        &format!("handed {CLIENTS} connections over"),
    );
    assert_eq!(handed, RESTARTS);
    assert_eq!(
        (rig.starts(&echo.service()), rig.stops(&echo.service())),
        (1, 0)
    );
    rig.wait_for("the store is empty", || {
        rig.show("NFileDescriptorStore", &echo.wakeport()) == "0"
    });
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn half_closed_and_stalled_connections_go_on_after_restarts() {
    let rig = Rig::boot();
    let target = relay(&rig, &[]);
    let mut pairs: Vec<_> = (0..3)
        .map(|_| {
            let client = connect();
            (client, accept(&target))
        })
        .collect();
    let (mut stalled, mut stalled_target) = pairs.pop().expect("one of three");
    let (mut asked, mut answers) = pairs.pop().expect("one of three");
    let (mut reads, mut said) = pairs.pop().expect("one of three");
    let (up, down) = (noise(1, 30_000_000), noise(2, 30_000_000));
    thread::scope(|scope| {
        // Nobody reads at the other end: all buffers and pipes are full, both ways.
        let sender = |stream: &TcpStream, bytes: &'static [u8]| {
            let mut stream = stream.try_clone().expect("a descriptor");
            scope.spawn(move || {
                stream.write_all(bytes).expect("it is read in the end");
                stream.shutdown(Shutdown::Write).expect("it is open");
            });
        };
        let (up, down): (&'static [u8], &'static [u8]) = (up.leak(), down.leak());
        sender(&stalled, up);
        sender(&stalled_target, down);
        asked.write_all(b"question").expect("it is open");
        asked.shutdown(Shutdown::Write).expect("it is open");
        said.write_all(b"greeting").expect("it is open");
        said.shutdown(Shutdown::Write).expect("it is open");
        let (mut question, mut greeting) = (String::new(), String::new());
        answers
            .read_to_string(&mut question)
            .expect("an orderly end");
        reads.read_to_string(&mut greeting).expect("an orderly end");
        assert_eq!((&*question, &*greeting), ("question", "greeting"));

        for _ in 0..3 {
            restart(&rig, RELAY);
            rig.systemctl("daemon-reexec");
        }
        let hears = scope.spawn(move || {
            let mut heard = Vec::new();
            stalled.read_to_end(&mut heard).expect("an orderly end");
            assert!(heard == down);
        });
        let mut heard_up = Vec::new();
        stalled_target
            .read_to_end(&mut heard_up)
            .expect("an orderly end");
        assert!(heard_up == up);
        hears.join().expect("it is read in the end");
        answers.write_all(b"answer").expect("it is open");
        reads.write_all(b"more").expect("it is open");
        drop(answers);
        reads.shutdown(Shutdown::Write).expect("it is open");
        let (mut answer, mut more) = (String::new(), String::new());
        asked.read_to_string(&mut answer).expect("an orderly end");
        said.read_to_string(&mut more).expect("an orderly end");
        assert_eq!((&*answer, &*more), ("answer", "more"));
    });
    assert_eq!(rig.said(RELAY, "handed 3 connections over"), 3);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_reset_after_a_restart_reaches_the_other_end() {
    let rig = Rig::boot();
    let target = relay(&rig, &[]);
    let mut client = connect();
    let service = accept(&target);
    restart(&rig, RELAY);
    // A stream that is closed with bytes unread is reset.
    client.write_all(b"unread").expect("it is open");
    rig.wait_for("the bytes are there", || service.peek(&mut [0]).is_ok());
    drop(service);
    let error = client.read(&mut [0]).expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    // Without connections nothing is kept.
    rig.wait_for("it exits", || rig.is("inactive", RELAY));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn clients_that_wait_during_a_restart_are_served_by_the_next_process() {
    let rig = Rig::boot();
    nginx(&rig);
    nginx_does(
        &rig,
        "ExecStartPre=/bin/sh -c 'until [ -e /run/go ]; do sleep 0.1; done'",
    );
    rig.instance("nginx", PORT, TARGET, &[NEVER]);
    let clients: Vec<_> = (0..20).map(|_| Client::asks(PORT)).collect();
    rig.wait_until("activating", "nginx.service");
    for _ in 0..3 {
        restart(&rig, "wakeport@nginx.service");
    }
    rig.run("touch /run/go");
    for client in clients {
        assert_eq!(client.page(), "hello");
    }
    assert_eq!(rig.starts("nginx.service"), 1);
    assert_eq!(
        rig.said("wakeport@nginx.service", "handed 20 connections over"),
        3
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_with_a_short_cooldown_is_not_stopped_by_restarts() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance(
        "nginx",
        PORT,
        TARGET,
        &["WAKEPORT_COOLDOWN=0", "WAKEPORT_STOP_ON_EXIT=yes"],
    );
    let mut client = Client::connect(PORT);
    for _ in 0..10 {
        assert_eq!(client.ask_again(), "hello");
        restart(&rig, "wakeport@nginx.service");
    }
    assert_eq!(client.ask_again(), "hello");
    assert_eq!(rig.stops("nginx.service"), 0);
    drop(client);
    rig.wait_until_asleep("nginx");
    assert_eq!(
        (rig.starts("nginx.service"), rig.stops("nginx.service")),
        (1, 1)
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn unix_sockets_are_handed_over() {
    let rig = Rig::boot();
    let target = TcpListener::bind(TARGET).expect("a free port");
    rig.instance("relay", "/run/relay.sock", TARGET, &["WAKEPORT_UNIT="]);
    let mut client = UnixStream::connect(rig.path("/run/relay.sock")).expect("the socket is there");
    let mut service = accept(&target);
    for _ in 0..3 {
        restart(&rig, RELAY);
        client.write_all(b"hello").expect("it is open");
        let mut bytes = [0; 5];
        service.read_exact(&mut bytes).expect("it is open");
        service.write_all(&bytes).expect("it is open");
        client.read_exact(&mut bytes).expect("it is open");
        assert_eq!(&bytes, b"hello");
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn connections_to_a_child_process_drain_and_its_waiting_clients_are_handed_over() {
    let rig = Rig::boot();
    let settings = [
        NEVER,
        "WAKEPORT_DRAIN_TIMEOUT=1s",
        "WAKEPORT_START_TIMEOUT=1h",
        "WAKEPORT_READY_HOOK=test -e /run/ready",
    ];
    let echo = Echo::child(&rig, "child", &settings);
    rig.run("touch /run/ready");
    let client = TcpStream::connect(&echo.address).expect("the port is open");
    let mut exchange = Exchange::short();
    exchange.ends_first = false;
    assert_eq!(
        exchange.talk(client.try_clone().expect("a descriptor")),
        Ok(())
    );
    rig.run("rm /run/ready");
    restart(&rig, &echo.wakeport());
    let error = limited(client).read(&mut [0]).expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    // This one has sent all that it says before the child is ready.
    let mut client = limited(TcpStream::connect(&echo.address).expect("the port is open"));
    let said = noise(3, 10_000);
    client.write_all(&said).expect("it is open");
    rig.wait_for("the child starts", || {
        rig.show("StatusText", &echo.wakeport()).contains("waking")
    });
    for _ in 0..2 {
        restart(&rig, &echo.wakeport());
    }
    let handed = rig.said(&echo.wakeport(), "handed 1 connection over");
    assert_eq!(handed, 2);
    rig.run("touch /run/ready");
    let mut heard = vec![0; said.len()];
    client.read_exact(&mut heard).expect("it is echoed");
    assert!(heard == said);
    echo.serves(&Exchange::short());
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn connections_of_a_service_with_hooks_are_handed_over() {
    let rig = Rig::boot();
    rig.script(
        "/usr/local/bin/on",
        "#!/bin/sh\nsleep 5; touch /var/lib/wakeport/on\n",
    );
    rig.script("/usr/local/bin/off", "#!/bin/sh\nrm /var/lib/wakeport/on\n");
    let settings = [
        "WAKEPORT_UNIT=",
        "WAKEPORT_START_HOOK=on",
        "WAKEPORT_STOP_HOOK=off",
        SOON,
    ];
    rig.instance("relay", PORT, TARGET, &settings);
    let mut client = connect();
    rig.wait_for("the hook runs", || rig.processes("on") > 0);
    // The hook is not cut off, and the client waits for what it starts.
    restart(&rig, RELAY);
    assert!(rig.path("/var/lib/wakeport/on").exists());
    let target = TcpListener::bind(TARGET).expect("a free port");
    let mut service = accept(&target);
    restart(&rig, RELAY);
    client.write_all(b"hello").expect("it is open");
    let mut bytes = [0; 5];
    service.read_exact(&mut bytes).expect("it is open");
    assert_eq!(&bytes, b"hello");
    assert!(rig.path("/var/lib/wakeport/on").exists());
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_small_store_has_room_for_many_connections() {
    let rig = Rig::boot();
    let target = relay(&rig, &[]);
    rig.drop_in(RELAY, "small", "[Service]\nFileDescriptorStoreMax=2\n");
    let mut pairs: Vec<_> = (0..10)
        .map(|_| {
            let client = connect();
            (client, accept(&target))
        })
        .collect();
    for _ in 0..2 {
        restart(&rig, RELAY);
        for (client, service) in &mut pairs {
            let mut bytes = [0; 5];
            client.write_all(b"hello").expect("it is open");
            service.read_exact(&mut bytes).expect("it is open");
            assert_eq!(&bytes, b"hello");
        }
    }
    assert_eq!(rig.said(RELAY, "handed 10 connections over"), 2);
    assert_eq!(rig.said(RELAY, "cannot be handed over"), 0);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn without_a_store_or_a_bus_a_restart_drains() {
    let rig = Rig::boot();
    let target = relay(&rig, &["WAKEPORT_DRAIN_TIMEOUT=1s"]);
    // Without a bus it is not known whether it is a restart.
    let without = [
        ("FileDescriptorStoreMax=0", 1),
        ("Environment=DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/none", 0),
    ];
    let (mut drained, mut told) = (0, 0);
    for (setting, tells) in without {
        rig.drop_in(RELAY, "without", &format!("[Service]\n{setting}\n"));
        rig.systemctl(&format!("stop {RELAY}"));
        let mut client = connect();
        let _service = accept(&target);
        restart(&rig, RELAY);
        let error = client.read(&mut [0]).expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        drained += 1;
        told += tells;
        assert_eq!(rig.said(RELAY, "SIGTERM: draining 1 connection"), drained);
        let why = "1 connection cannot be handed over: FileDescriptorStoreMax=0 of the unit is too small; set it to 64";
        assert_eq!(rig.said(RELAY, why), told);
    }
}
