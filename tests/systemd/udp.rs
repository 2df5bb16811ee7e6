//! Datagrams on a booted systemd: none is lost to a sleep, a flow survives a restart, and SIGKILL.

use std::fs;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::echo_service::Over;
use crate::rig::Rig;

/// The longest wait for an answer: a scenario that hangs fails with its place.
const ANSWER: Duration = Duration::from_secs(60);

/// How many services sleep side by side, and how often each: 200 sleeps in all.
const SERVICES: u16 = 8;
const SLEEPS: u32 = 25;

/// A service that sends everything back, behind its port and that from which it came.
const ECHO: &str = "#!/usr/bin/env python3\nimport socket, sys\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
    port = int(sys.argv[1])\ns.bind(('127.0.0.1', port))\nwhile True:\n    data, client = s.recvfrom(65536)\n    \
    s.sendto(b'%d-%d ' % (port, client[1]) + data, client)\n";

/// The service `name` behind a port of datagrams, with these settings.
fn service(rig: &Rig, name: &str, port: u16, settings: &[&str]) {
    let own = port + 10_000;
    rig.script("/usr/local/bin/echo-datagrams", ECHO);
    rig.unit(
        &format!("{name}.service"),
        &format!("[Service]\nExecStart=/usr/local/bin/echo-datagrams {own}\n"),
    );
    behind(rig, name, port, settings);
}

/// A port of datagrams before `name`, whose own port is higher by 10,000.
pub(crate) fn behind(rig: &Rig, name: &str, port: u16, settings: &[&str]) {
    rig.allow(&format!("{name}.service"));
    let to = format!("WAKEPORT_TO=udp:127.0.0.1:{}", port + 10_000);
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

/// Sends one datagram, once; the port of the service that got it, and that from which it came.
#[track_caller]
fn asks(client: &UdpSocket, text: &str) -> String {
    client.send(text.as_bytes()).expect("it is sent");
    let mut bytes = [0; 2048];
    let count = match client.recv(&mut bytes) {
        Ok(count) => count,
        Err(error) => panic!("`{text}` is lost: {error}"),
    };
    let answer = String::from_utf8_lossy(&bytes[..count]).into_owned();
    let (ports, rest) = answer.split_once(' ').expect("ports, and what was sent");
    assert_eq!(rest, text);
    ports.to_owned()
}

/// The record of a service.
fn record(rig: &Rig, name: &str) -> Value {
    let text = rig.read(&format!("/var/lib/wakeport/instances/{name}.json"));
    serde_json::from_str(&text).expect("a record is whole at any time")
}

/// What the kernel has dropped, of datagrams for all sockets of the rig, and at those that are open.
fn dropped_by_the_kernel() -> u64 {
    let read = |name: &str| {
        let path = format!("/proc/thread-self/net/{name}");
        fs::read_to_string(path).expect("Linux")
    };
    let snmp = read("snmp");
    let rows = snmp.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let rows: Vec<Vec<&str>> = rows.map(|row| row.split(' ').collect()).collect();
    let all = rows[0].iter().zip(&rows[1]);
    // Nobody listens (NoPorts) where a service has started and opens its port later: these are sent again.
    let errors = all.filter(|(name, _)| name.ends_with("Errors"));
    let errors: Vec<_> = errors.map(|(_, count)| *count).collect();
    assert!(errors.len() >= 4, "{snmp}");
    let sockets = read("udp");
    // The last column is called `drops`.
    let sockets = sockets.lines().skip(1);
    let drops = sockets.filter_map(|line| line.split_whitespace().last());
    let all = errors.into_iter().chain(drops);
    all.map(|count| count.parse::<u64>().expect("a number"))
        .sum()
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
    let carried: Vec<(u64, u64)> = thread::scope(|scope| {
        let clients: Vec<_> = (0..SERVICES)
            .map(|number| {
                scope.spawn(move || {
                    let client = client(port(number));
                    let (mut up, mut down) = (0, 0);
                    for round in 0..SLEEPS {
                        // Each is sent once, at a time that moves through the end of the flow, the cooldown, the
                        // stop and the exit.
                        for part in ["one", "two"] {
                            let text = format!("{part} {number} {round}");
                            let ports = asks(&client, &text);
                            up += text.len();
                            down += ports.len() + 1 + text.len();
                        }
                        let moves = u64::from(round * 8 % SLEEPS) * 40;
                        thread::sleep(Duration::from_millis(1950 + moves));
                    }
                    (up as u64, down as u64)
                })
            })
            .collect();
        let ended = clients.into_iter().map(thread::ScopedJoinHandle::join);
        ended
            .map(|carried| carried.expect("none is lost"))
            .collect()
    });
    for (number, (up, down)) in (0..SERVICES).zip(carried) {
        // Bytes are counted when their flow ends.
        rig.wait_until_asleep(&name(number));
        let record = record(&rig, &name(number));
        assert_eq!(
            (&record["bytes"]["up"], &record["bytes"]["down"]),
            (&up.into(), &down.into())
        );
        assert_eq!(record["datagrams_dropped"], json!({}));
    }
    assert_eq!(dropped_by_the_kernel(), 0);
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
fn what_does_not_wake_is_passed_on_while_the_service_is_up_also_after_a_restart_and_sigkill() {
    let rig = Rig::boot();
    let settings = ["WAKEPORT_COOLDOWN=1h", "WAKEPORT_UDP_WAKE=6f70656e"];
    service(&rig, "game", 9100, &settings);
    let player = client(9100);
    asks(&player, "open");
    asks(&player, "move");
    for (round, order) in ["restart", "kill --signal=SIGKILL", "stop"]
        .iter()
        .enumerate()
    {
        rig.systemctl(&format!("{order} wakeport@game.service"));
        if *order == "stop" {
            rig.systemctl("start wakeport@game.service");
        }
        // Another one, since the flow of the first may have been handed over. Until it is known that the service is
        // up its datagrams are dropped, as while it sleeps.
        let other = client(9100);
        let short = Duration::from_millis(100);
        other.set_read_timeout(Some(short)).expect("an option");
        rig.wait_for("the service gets what does not wake it", || {
            other.send(b"move").is_ok() && other.recv(&mut [0; 99]).is_ok()
        });
        assert_eq!(rig.starts("game.service"), 1, "round {round}");
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_reload_cuts_no_flow_and_its_settings_are_those_of_new_ones() {
    let rig = Rig::boot();
    rig.script("/usr/local/bin/echo-datagrams", ECHO);
    rig.unit(
        "game.service",
        "[Service]\nExecStart=sh -c 'echo-datagrams 19100 & exec echo-datagrams 19101'\n",
    );
    let configure = |settings: &str| {
        rig.write(
            "/etc/wakeport/games.toml",
            &format!("[service.game]\nlistener = 'game'\ncooldown = '1h'\n{settings}\n"),
        );
    };
    configure("to = 'udp:127.0.0.1:19100'\nudp-idle-timeout = '1h'");
    rig.run("wakeport init games --listen-udp game=127.0.0.1:9100 --write --enable");
    // As for `Rig::allow`.
    rig.systemctl("try-restart polkit.service");
    let (one, two) = (client(9100), client(9100));
    let before = [asks(&one, "hello"), asks(&two, "hello")];
    assert!(before.iter().all(|ports| ports.starts_with("19100-")));
    let status = || -> Value {
        let status = rig.run("wakeport status games --json");
        let status: Value = serde_json::from_str(&status).expect("JSON");
        status["instances"][0]["clients"].clone()
    };
    configure("to = 'udp:127.0.0.1:19101'\nudp-idle-timeout = '2s'\nudp-wake = '6f70656e'");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Its datagrams are on the way all the time, and each is sent once.
        let plays = scope.spawn(|| {
            while !over.load(SeqCst) {
                assert_eq!(asks(&one, "move"), before[0]);
            }
        });
        let _over = Over(&over);
        rig.systemctl("reload wakeport@games.service");
        rig.wait_for("it is reloaded", || {
            rig.said("wakeport@games.service", "reloaded: 1 service") == 1
        });
        over.store(true, SeqCst);
        plays.join().expect("none is lost");
    });
    assert_eq!(asks(&two, "move"), before[1]);
    // New ones go to the new target, whether or not they would wake it, and are gone soon.
    let (three, four) = (client(9100), client(9100));
    assert!(asks(&three, "open").starts_with("19101-"));
    assert!(asks(&four, "move").starts_with("19101-"));
    rig.wait_for("they count", || status()["served"] == 4);
    rig.wait_for("the new flows have ended", || status()["active"] == 2);
    assert_eq!(asks(&one, "move"), before[0]);
    assert_eq!(asks(&two, "move"), before[1]);
    assert_eq!(status()["served"], 4);
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
