//! Datagrams on a booted systemd: none is lost to a sleep, a flow survives a restart, and SIGKILL.

use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use crate::rig::Rig;

/// The longest wait for an answer: a scenario that hangs fails with its place.
const ANSWER: Duration = Duration::from_secs(60);

/// How many services sleep side by side, and how often each: 200 sleeps in all.
const SERVICES: u16 = 8;
const SLEEPS: u32 = 25;

/// A service that sends everything back, behind the address that it came from.
const ECHO: &str = "#!/usr/bin/env python3\nimport socket, sys\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
    s.bind(('127.0.0.1', int(sys.argv[1])))\nwhile True:\n    data, client = s.recvfrom(65536)\n    \
    s.sendto(b'%d ' % client[1] + data, client)\n";

/// The service `name` behind a port of datagrams, with these settings.
fn service(rig: &Rig, name: &str, port: u16, settings: &[&str]) {
    let own = port + 10_000;
    rig.script("/usr/local/bin/echo-datagrams", ECHO);
    rig.unit(
        &format!("{name}.service"),
        &format!("[Service]\nExecStart=/usr/local/bin/echo-datagrams {own}\n"),
    );
    rig.allow(&format!("{name}.service"));
    let to = format!("WAKEPORT_TO=udp:127.0.0.1:{own}");
    rig.settings(name, &[settings, &[&to]].concat());
    rig.drop_in(
        &format!("wakeport@{name}.socket"),
        "listen",
        &format!("[Socket]\nListenDatagram=127.0.0.1:{port}\nReceiveBuffer=4M\n"),
    );
    rig.systemctl(&format!("enable --quiet --now wakeport@{name}.socket"));
}

fn client(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).expect("a free port");
    socket.connect(("127.0.0.1", port)).expect("connected");
    socket.set_read_timeout(Some(ANSWER)).expect("an option");
    socket
}

/// Sends one datagram, once; the port from which the service got it.
#[track_caller]
fn asks(client: &UdpSocket, text: &str) -> u16 {
    client.send(text.as_bytes()).expect("it is sent");
    answer(client, text)
}

#[track_caller]
fn answer(client: &UdpSocket, text: &str) -> u16 {
    let mut bytes = [0; 2048];
    let count = match client.recv(&mut bytes) {
        Ok(count) => count,
        Err(error) => panic!("`{text}` is lost: {error}"),
    };
    let answer = String::from_utf8_lossy(&bytes[..count]).into_owned();
    let (port, rest) = answer.split_once(' ').expect("a port, and what was sent");
    assert_eq!(rest, text);
    port.parse().expect("a port")
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn no_datagram_is_lost_over_two_hundred_sleeps() {
    let rig = Rig::boot();
    let settings = ["WAKEPORT_COOLDOWN=50ms", "WAKEPORT_UDP_IDLE_TIMEOUT=2s"];
    let name = |number: u16| format!("echo{number}");
    let port = |number: u16| 9100 + number;
    for number in 0..SERVICES {
        service(&rig, &name(number), port(number), &settings);
    }
    thread::scope(|scope| {
        for number in 0..SERVICES {
            scope.spawn(move || {
                let client = client(port(number));
                for round in 0..SLEEPS {
                    // Each is sent once, at a time that moves through the end of the flow, the cooldown, the stop
                    // and the exit.
                    for part in ["one", "two"] {
                        asks(&client, &format!("{part} {number} {round}"));
                    }
                    let moves = u64::from(round * 8 % SLEEPS) * 40;
                    thread::sleep(Duration::from_millis(1950 + moves));
                }
            });
        }
    });
    let sleeps: usize = (0..SERVICES)
        .map(|number| rig.starts(&format!("{}.service", name(number))))
        .sum();
    // Where a datagram came just before the end of its flow, that goes on.
    assert!(sleeps > 100, "{sleeps} starts");
    for number in 0..SERVICES {
        let unit = format!("wakeport@{}.service", name(number));
        assert_eq!(rig.show("Result", &unit), "success");
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_flow_goes_on_after_a_restart_from_the_same_port() {
    let rig = Rig::boot();
    service(&rig, "game", 9100, &["WAKEPORT_COOLDOWN=1h"]);
    let (one, two) = (client(9100), client(9100));
    let ports = [asks(&one, "hello"), asks(&two, "hello")];
    for round in 0..5 {
        // Some are in the buffer while nothing runs.
        let restarted = thread::scope(|scope| {
            let restart = scope.spawn(|| rig.systemctl("restart wakeport@game.service"));
            let mut count = 0;
            while !restart.is_finished() {
                assert_eq!(asks(&one, &format!("{round} {count}")), ports[0]);
                count += 1;
            }
            restart.join()
        });
        restarted.expect("it is restarted");
        assert_eq!(asks(&one, "one"), ports[0]);
        assert_eq!(asks(&two, "two"), ports[1]);
    }
    assert_eq!(rig.starts("game.service"), 1);
    assert!(rig.said("wakeport@game.service", "took 2 connections over") >= 5);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn after_sigkill_the_next_datagram_is_served() {
    let rig = Rig::boot();
    service(&rig, "game", 9100, &["WAKEPORT_COOLDOWN=1h"]);
    let client = client(9100);
    asks(&client, "hello");
    for round in 0..5 {
        rig.systemctl("kill --signal=SIGKILL wakeport@game.service");
        asks(&client, &format!("again {round}"));
    }
    assert_eq!(rig.starts("game.service"), 1);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn what_would_not_wake_starts_nothing_and_what_wakes_both() {
    let rig = Rig::boot();
    let settings = [
        "WAKEPORT_COOLDOWN=50ms",
        "WAKEPORT_UDP_IDLE_TIMEOUT=1s",
        "WAKEPORT_UDP_WAKE=6f70656e",
    ];
    service(&rig, "game", 9100, &settings);
    let (player, list) = (client(9100), client(9100));
    for round in 1..=3 {
        asks(&player, "open");
        rig.wait_for("both have ended", || {
            rig.is("inactive", "game.service") && rig.is("inactive", "wakeport@game.service")
        });
        let before = rig.starts("wakeport@game.service");
        for _ in 0..100 {
            list.send(b"ping").expect("it is sent");
        }
        for _ in 0..50 {
            assert!(rig.is("inactive", "wakeport@game.service"));
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(rig.starts("wakeport@game.service"), before);
        assert_eq!(rig.starts("game.service"), round);
    }
}
