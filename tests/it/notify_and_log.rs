//! Notifications to the service manager, and the log: neither delays a client.

use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{
    Client, HookService, Place, Run, Server, Trace, Wakeport, directory, echo, now, script,
    throughout, until,
};

#[test]
fn the_status_shows_every_state() {
    let stage = HookService::direct(echo, |scene, call| {
        match call.event.as_str() {
            "start" => scene.up(),
            _ => scene.down(),
        }
        0
    });
    let front = Place::tcp();
    let listener = front.listen();
    let client = front.connect();
    let mut wakeport = stage.run().inherit("web", &listener).cooldown("2s").start();
    client.echoes("hello");
    wakeport.is("awake: 1 client, 1 served since ");
    let time = wakeport
        .status()
        .rsplit(' ')
        .next()
        .unwrap_or_default()
        .to_owned();
    assert!(
        time.len() == 5 && time.as_bytes()[2] == b':',
        "{time} is no time of day"
    );
    let other = front.connect();
    other.echoes("hello");
    wakeport.is("awake: 2 clients, 2 served since ");
    drop((client, other));
    wakeport.ends();
    let said = wakeport.said();
    let cooling = "STATUS=cooling: stopping in 2s, 2 served since ";
    assert!(
        said.iter().any(|line| line.starts_with(cooling)),
        "{said:#?}"
    );
    assert_eq!(said.first().map(String::as_str), Some("READY=1"));
    assert_eq!(said.last().map(String::as_str), Some("STOPPING=1"));
    let waking = "STATUS=waking: starting the service, 1 client waiting";
    assert!(said.iter().any(|line| line == waking), "{said:#?}");
    let stopping = "STATUS=stopping: the service is stopping";
    assert!(said.iter().any(|line| line == stopping), "{said:#?}");
    let asleep = said
        .iter()
        .position(|line| line.starts_with("STATUS=asleep, 2 served since "));
    assert!(asleep.is_some(), "{said:#?}");
    assert!(said.len() < 20, "not a word too many: {said:#?}");
}

#[test]
fn a_log_in_json_is_an_object_a_line_with_the_name_of_the_message() {
    let stage = HookService::new();
    let front = Place::tcp();
    let run = stage.run().listen(&front).option("--log-format", "json");
    let mut wakeport = run.start();
    let client = front.connect();
    client.echoes("hello");
    drop(client);
    wakeport.signal(Signal::TERM);
    wakeport.ends();
    let log = wakeport.whole_log();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let awake = lines.iter().find(|line| line["event"] == "awake");
    let awake = awake.unwrap_or_else(|| panic!("no wake in {log}"));
    assert_eq!(
        (&awake["level"], &awake["state"]),
        (&"info".into(), &"awake".into())
    );
    assert!(
        awake["wake_usec"].as_u64().is_some_and(|usec| usec > 0),
        "{awake}"
    );
    assert!(
        awake["time"]
            .as_str()
            .is_some_and(|time| time.ends_with('Z')),
        "{awake}"
    );
}

#[test]
fn a_failure_is_in_the_status_with_its_reason() {
    let front = Place::tcp();
    let wakeport = Run::new()
        .to(Place::tcp())
        .listen(&front)
        .option("--start-hook", "false")
        .start();
    front.connect().is_reset();
    wakeport
        .was("failed: the start hook `false` failed (exit status: 1); refusing connections for ");
    wakeport
        .is("failed: the start hook `false` failed (exit status: 1); the next connection retries");
}

#[test]
fn the_log_on_a_terminal_is_coloured_unless_no_color_is_set() {
    let (dir, binary) = (directory(), env!("CARGO_BIN_EXE_wakeport"));
    for (no_color, shown) in [("", "\x1b[32m INFO\x1b[0m waking"), ("1", " INFO waking")] {
        // Each has a path of its own: the hook of one that was killed holds its listener up to the exec.
        let front = dir.path().join(format!("front{no_color}"));
        let line = format!(
            "echo $$; exec {binary} run --listen {} --to {} --start-hook true",
            front.display(),
            dir.path().join("back").display()
        );
        // A terminal as stderr; the number of the process comes first.
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        let script = script.env("NO_COLOR", no_color).stdin(Stdio::null());
        let mut script = script.stdout(Stdio::piped()).spawn().expect("util-linux");
        let mut lines = BufReader::new(script.stdout.take().expect("a pipe")).lines();
        let pid = lines.next().expect("a line").expect("a pipe");
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw);
        let mut client = None;
        until("it listens", || {
            client = UnixStream::connect(&front).ok();
            client.is_some()
        });
        let waking = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("waking")));
        let waking = waking.expect("a line").expect("a pipe");
        assert!(waking.contains(shown), "NO_COLOR={no_color}: {waking:?}");
        drop(client);
        kill_process(pid.expect("a process ID"), Signal::KILL).expect("it runs");
        drop(lines);
        let _ = script.wait();
    }
}

#[test]
fn the_watchdog_is_notified_twice_within_its_limit() {
    let target = Place::tcp();
    let began = now();
    let mut wakeport = Run::new()
        .to(&target)
        .listen(Place::tcp())
        .variable("WATCHDOG_USEC", 400_000)
        .start();
    let fed = || {
        wakeport
            .said()
            .iter()
            .filter(|line| *line == "WATCHDOG=1")
            .count()
    };
    until("it is fed", || fed() >= 6);
    assert!(
        began.elapsed() >= Duration::from_millis(900),
        "not more often than needed"
    );
    assert!(wakeport.is_running());
    // Meant for another process.
    let other = Run::new()
        .to(&target)
        .listen(Place::tcp())
        .variable("WATCHDOG_USEC", 400_000)
        .variable("WATCHDOG_PID", 1)
        .start();
    throughout(Duration::from_millis(500), "it says nothing", || {
        !other.has_said("WATCHDOG=1")
    });
    wakeport = other;
    drop(wakeport);
}

#[test]
fn while_draining_it_extends_the_stop_timeout() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let _server = Server::echo(&target);
    let mut wakeport = Run::new().to(&target).listen(&front).start();
    let client = front.connect();
    client.echoes("hello");
    wakeport.signal(Signal::TERM);
    until("it asks", || {
        wakeport.has_said("EXTEND_TIMEOUT_USEC=15000000")
    });
    drop(client);
    wakeport.ends();
}

#[test]
fn a_service_manager_that_does_not_read_delays_no_client() {
    let dir = directory();
    let path = dir.path().join("notify");
    let _deaf = UnixDatagram::bind(&path).expect("a socket of ours");
    let stage = HookService::new();
    let front = Place::tcp();
    let listener = front.listen();
    let run = || {
        stage
            .run()
            .inherit("web", &listener)
            .cooldown("0")
            .variable("NOTIFY_SOCKET", path.display())
            .variable("WATCHDOG_USEC", 1000)
    };
    let mut wakeport = run().flag("--stay").spawn();
    for round in 0..30 {
        // Each round changes the state more often than the socket's queue is long.
        front.connect().echoes(&format!("round {round}"));
    }
    wakeport.signal(Signal::TERM);
    wakeport.ends();
    // Nor does it delay the exit of an idle one.
    let client = front.connect();
    let mut wakeport = run().spawn();
    client.echoes("hello");
    drop(client);
    wakeport.ends();
}

#[test]
fn without_a_notifier_thread_the_manager_is_notified_from_the_main_thread() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let _server = Server::echo(&target);
    let calls = "clone,clone3";
    // The first thread is the log's.
    let trace = Trace::of(calls).inject(&format!("{calls}:error=EAGAIN:when=2"));
    let mut wakeport = trace.around(Run::new().to(&target).listen(&front)).start();
    front.connect().echoes("hello");
    wakeport.is("cooling");
    wakeport.signal(Signal::TERM);
    wakeport.ends();
    until("it is told", || wakeport.has_said("STOPPING=1"));
}

#[test]
fn a_service_manager_that_is_away_delays_no_client() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let _server = Server::echo(&target);
    let listener = front.listen();
    for nowhere in ["/no/such/socket", "@wakeport-no-such-socket", ""] {
        let client = front.connect();
        let mut wakeport = Run::new()
            .to(&target)
            .inherit("web", &listener)
            .cooldown("0")
            .variable("NOTIFY_SOCKET", nowhere)
            .spawn();
        client.echoes("hello");
        drop(client);
        wakeport.ends();
    }
}

/// A log that is not read, and a start hook that prints ten times as much as fits into it.
fn verbose(dir: &TempDir, front: &Place, target: &Place) -> (Wakeport, Client) {
    let hook = script(
        &dir.path().join("hook"),
        "#!/bin/sh\n: >\"$0.runs\"\nseq 100000\n",
    );
    let wakeport = Run::new()
        .to(target)
        .listen(front)
        .option("--start-hook", hook)
        .unread()
        .start();
    let client = front.connect();
    until("the hook runs", || dir.path().join("hook.runs").exists());
    (wakeport, client)
}

#[test]
fn a_log_that_is_not_read_delays_no_client() {
    let (dir, front, target) = (directory(), Place::tcp(), Place::tcp());
    let (mut wakeport, client) = verbose(&dir, &front, &target);
    let _server = Server::echo(&target);
    for number in 0..50 {
        client.echoes(&format!("{number}"));
        front.connect().echoes("another");
    }
    drop(client);
    wakeport.signal(Signal::TERM);
    wakeport.ends();
    let mut log = BufReader::new(wakeport.unread()).lines();
    assert!(log.any(|line| line.expect("text").ends_with("start hook: 1")));
}

#[test]
fn dropped_log_messages_are_counted() {
    let (dir, front, target) = (directory(), Place::tcp(), Place::tcp());
    let (mut wakeport, client) = verbose(&dir, &front, &target);
    let _server = Server::echo(&target);
    client.echoes("hello");
    // From now on the log is read.
    let mut log = BufReader::new(wakeport.unread()).lines();
    let lost = " log messages dropped: queue full";
    assert!(log.any(|line| line.expect("text").contains(lost)));
}
