//! Which connections wake the service: `--allow` and `--deny`, `--wake-on-data`, `--wake-rate`.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::support::{
    Client, HookService, Place, Run, Server, Wakeport, directory, now, throughout, until,
};

const HOLD_TIME: Duration = Duration::from_millis(500);

/// A client with this address.
fn from(ip: &str, front: &Place) -> Client {
    let ip: IpAddr = ip.parse().expect("an address");
    front.connect_with(|socket| {
        let any_port = SocketAddr::new(ip, 0);
        socket.bind(&any_port.into()).expect("it is ours");
    })
}

/// The value of `field` in the record of the instance `app`.
fn recorded(state: &Path, field: &str) -> u64 {
    let text = fs::read_to_string(state.join("instances/app.json")).unwrap_or_default();
    let field = format!("\"{field}\": ");
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(&field));
    let number = line.and_then(|line| line.trim_end_matches(',').parse().ok());
    number.unwrap_or_default()
}

fn keeping(run: Run, state: &Path) -> Run {
    run.option("--state-dir", state.display())
        .option("--name", "app")
}

// -- by network

#[test]
fn a_client_from_a_denied_network_is_reset_and_wakes_nothing() {
    let (stage, front, state) = (HookService::new(), Place::tcp(), directory());
    let run = keeping(stage.run().listen(&front), state.path())
        .option("--deny", "127.9.0.0/16")
        .option("--allow", "127.9.9.9");
    let wakeport = run.start();
    for _ in 0..20 {
        from("127.9.9.8", &front).is_reset();
    }
    assert_eq!(stage.count("start"), 0);
    // One line for any number of clients.
    wakeport.logs("127.9.9.8:");
    assert_eq!(wakeport.log().matches("denied by").count(), 1);
    assert!(!wakeport.log().contains("waking"), "{}", wakeport.log());
    until("they are in the record", || {
        recorded(state.path(), "refused_address") == 20
    });
    from("127.9.9.9", &front).echoes("hello");
    assert_eq!(stage.count("start"), 1);
    // With `--allow`, an address in none of the networks is refused.
    from("127.8.0.1", &front).is_reset();
}

#[test]
fn refused_clients_do_not_keep_the_service_awake() {
    let (stage, front) = (HookService::new(), Place::tcp());
    let _wakeport = stage
        .run()
        .listen(&front)
        .variable("WAKEPORT_DENY", "127.9.0.0/16 ::1")
        .cooldown("300ms")
        .start();
    front.connect().echoes("hello");
    until("it is put to sleep among those who are refused", || {
        from("127.9.9.9", &front).is_reset();
        stage.count("stop") == 1
    });
    assert_eq!(stage.count("start"), 1);
}

#[test]
fn ipv4_and_ipv6_rules_apply_on_one_socket() {
    let target = Place::tcp();
    let _server = Server::echo(&target);
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).expect("a socket");
    socket.set_only_v6(false).expect("an option");
    let wildcard: SocketAddr = "[::]:0".parse().expect("an address");
    socket.bind(&wildcard.into()).expect("a free port");
    socket.listen(16).expect("a listener");
    let bound = socket.local_addr().expect("it is bound");
    let port = bound.as_socket().expect("TCP").port();
    let four = Place::from(([127, 0, 0, 1], port));
    let six = Place::from((Ipv6Addr::LOCALHOST, port));
    for (allow, deny, four_may, six_may) in [
        ("127.0.0.0/8", "", true, false),
        ("::1", "", false, true),
        ("", "::ffff:127.0.0.0/104", false, true),
        ("localhost", "127.0.0.1", false, true),
        ("any", "", true, true),
        ("", "any", false, false),
    ] {
        let _wakeport = Run::new()
            .inherit("web", &socket)
            .to(&target)
            .variable("WAKEPORT_ALLOW", allow)
            .variable("WAKEPORT_DENY", deny)
            .start();
        for (place, may) in [(&four, four_may), (&six, six_may)] {
            match may {
                true => place.connect().echoes("hello"),
                false => place.connect().is_reset(),
            }
        }
    }
}

#[test]
fn clients_of_unix_sockets_are_allowed() {
    let (dir, target) = (directory(), Place::tcp());
    let _server = Server::echo(&target);
    for front in [Place::path(&dir), Place::abstract_name()] {
        let run = Run::new().to(&target).listen(&front);
        let _wakeport = run.option("--deny", "any").start();
        front.connect().echoes("hello");
    }
}

#[test]
fn behind_a_load_balancer_the_address_in_the_header_decides() {
    let (stage, front) = (HookService::new(), Place::tcp());
    let wakeport = stage
        .run()
        .listen(&front)
        .flag("--accept-proxy")
        .option("--allow", "203.0.113.0/24")
        .start();
    let by_way = |header: &str| {
        let client = front.connect();
        client.send(header);
        client
    };
    by_way("PROXY TCP4 203.0.114.7 198.51.100.1 4711 443\r\nhello").is_reset();
    by_way("PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n").is_reset();
    // The load balancer's own connections count with its address.
    by_way("PROXY UNKNOWN\r\nhello").is_reset();
    assert_eq!(stage.count("start"), 0);
    wakeport.logs("connection from 203.0.114.7:4711");
    by_way("PROXY TCP6 ::ffff:203.0.113.7 ::1 4711 443\r\n").echoes("hello");
    assert_eq!(stage.count("start"), 1);
}

#[test]
fn many_refused_clients_take_one_process() {
    let (stage, front) = (HookService::new(), Place::tcp());
    let listener = front.listen();
    let run = stage
        .run()
        .inherit("web", &listener)
        .option("--deny", "127.9.0.0/16");
    let refused = from("127.9.9.9", &front);
    let mut wakeport = run.start();
    refused.is_reset();
    let began = now();
    throughout(Duration::from_secs(1), "it stays", || {
        from("127.9.9.9", &front).is_reset();
        wakeport.is_running()
    });
    wakeport.ends();
    assert!(began.elapsed() > Duration::from_secs(5), "it had to stay");
    assert_eq!(stage.calls(), [], "nothing was woken");
}

#[test]
fn an_invalid_network_or_rate_gets_one_line() {
    for (variable, value, remedy) in [
        ("WAKEPORT_ALLOW", "192.0.2.0/33", "0 to 32"),
        ("WAKEPORT_ALLOW", "::1 example.org", "`192.0.2.0/24`"),
        ("WAKEPORT_DENY", "fe80::1%eth0", "`link-local`"),
        ("WAKEPORT_DENY", "10.0.0.0/8,::1", "0 to 32"),
        ("WAKEPORT_WAKE_RATE", "6", "`6/1h`"),
        ("WAKEPORT_WAKE_RATE", "0/1h", "1 to 1000"),
        ("WAKEPORT_WAKE_RATE", "6/infinity", "1s to a year"),
    ] {
        let run = Run::new().to("127.0.0.1:9").option("--start-hook", "true");
        let (log, code) = run.variable(variable, value).fails();
        assert_eq!(code, 64, "{value}: {log}");
        assert!(
            log.contains(variable) && log.contains(remedy),
            "{value}: {log}"
        );
        assert_eq!(log.trim().lines().count(), 1, "{value}: {log}");
    }
    let (log, code) = Run::new()
        .to("127.0.0.1:9")
        .option("--wake-rate", "6/1h")
        .fails();
    assert_eq!(code, 64);
    assert!(log.contains("starts nothing without `--unit`"), "{log}");
}

// -- by data

/// With `--wake-on-data`, for a service with hooks.
fn on_data(stage: &HookService, front: &Place) -> Run {
    stage.run().listen(front).flag("--wake-on-data")
}

/// Asserts that nothing is woken for a while.
fn nobody_is_woken(stage: &HookService, wakeport: &Wakeport) {
    throughout(HOLD_TIME, "nothing is woken", || {
        stage.calls().is_empty() && !wakeport.log().contains("waking")
    });
}

#[test]
fn a_port_scan_wakes_nothing_and_a_first_byte_does() {
    let dir = directory();
    for front in [Place::tcp(), Place::path(&dir)] {
        let stage = HookService::new();
        let wakeport = on_data(&stage, &front).start();
        for _ in 0..10 {
            drop(front.connect());
            front.connect().reset();
            let polite = front.connect();
            polite.finish();
            assert!(polite.all().is_empty());
        }
        let silent = front.connect();
        nobody_is_woken(&stage, &wakeport);
        assert!(silent.is_silent());
        silent.echoes("hello");
        assert_eq!(stage.count("start"), 1);
        // Data that arrives together with its end of file is served as well.
        let hasty = front.connect();
        hasty.send("all of it");
        hasty.finish();
        assert_eq!(hasty.all(), b"all of it");
    }
}

#[test]
fn a_silent_connection_prevents_the_exit_and_nothing_else() {
    let (stage, front) = (HookService::new(), Place::tcp());
    let listener = front.listen();
    let silent = front.connect();
    let mut wakeport = stage
        .run()
        .inherit("web", &listener)
        .flag("--wake-on-data")
        .cooldown("100ms")
        .start();
    front.connect().echoes("hello");
    // It does not keep the service awake.
    stage.reaches("stop", 1);
    throughout(Duration::from_secs(1), "it stays", || wakeport.is_running());
    let second = front.connect();
    silent.echoes("hello after all");
    assert_eq!(stage.count("start"), 2);
    drop(silent);
    stage.reaches("stop", 2);
    drop(second);
    wakeport.ends();
    assert_eq!(stage.count("start"), 2);
}

#[test]
fn a_silent_connection_takes_a_slot_until_its_idle_timeout() {
    let (stage, front, state) = (HookService::new(), Place::tcp(), directory());
    let wakeport = keeping(on_data(&stage, &front), state.path())
        .option("--max-connections", 1)
        .option("--client-idle-timeout", "5s")
        .option("--log-level", "debug")
        .start();
    let silent = front.connect();
    let second = front.connect();
    second.send("hello");
    assert!(silent.all().is_empty(), "an orderly end");
    assert_eq!(second.take(5), b"hello");
    wakeport.logs("closed: idle before its first byte");
    assert!(second.all().is_empty());
    until("both are in the record", || {
        recorded(state.path(), "ended_idle") == 2
    });
}

#[test]
fn a_silent_connection_is_reset_when_draining_ends() {
    let (stage, front) = (HookService::new(), Place::tcp());
    let mut wakeport = on_data(&stage, &front)
        .option("--drain-timeout", "500ms")
        .start();
    let silent = front.connect();
    wait_until_in(&wakeport);
    wakeport.signal(Signal::TERM);
    silent.is_reset();
    wakeport.ends();
    assert_eq!(stage.calls(), []);
}

#[test]
fn a_silent_connection_that_sends_during_draining_is_served() {
    let (stage, front) = (HookService::new(), Place::tcp());
    let run = on_data(&stage, &front).option("--drain-timeout", "30s");
    let mut wakeport = run.start();
    let late = front.connect();
    wait_until_in(&wakeport);
    wakeport.signal(Signal::TERM);
    wakeport.logs("draining 1 connection");
    late.echoes("hello");
    drop(late);
    wakeport.ends();
}

/// Waits until a silent connection has been accepted.
fn wait_until_in(wakeport: &Wakeport) {
    until("the client is in", || !wakeport.connections().is_empty());
}

#[test]
fn behind_a_load_balancer_the_first_byte_is_the_one_after_the_header() {
    for header in [
        "PROXY TCP4 203.0.113.7 198.51.100.1 4711 443\r\n",
        "PROXY UNKNOWN\r\n",
    ] {
        let (stage, front) = (HookService::new(), Place::tcp());
        let run = on_data(&stage, &front).flag("--accept-proxy");
        let wakeport = run.start();
        let gone = front.connect();
        gone.send(header);
        gone.finish();
        assert!(gone.all().is_empty());
        let client = front.connect();
        client.send(header);
        nobody_is_woken(&stage, &wakeport);
        client.echoes("hello");
        assert_eq!(stage.count("start"), 1);
        if header.contains("203") {
            wakeport.logs("for 203.0.113.7:4711");
        }
    }
}

// -- by rate

/// Wakes the service and waits until it sleeps again.
fn round(stage: &HookService, front: &Place, count: usize) {
    let client = front.connect();
    client.echoes("hello");
    drop(client);
    stage.reaches("stop", count);
}

#[test]
fn a_service_is_woken_as_often_as_allowed() {
    let (stage, front, state) = (HookService::new(), Place::tcp(), directory());
    let wakeport = keeping(stage.run().listen(&front), state.path())
        .cooldown("0")
        .option("--wake-rate", "2/1h")
        .start();
    for count in [1, 2] {
        round(&stage, &front, count);
    }
    for _ in 0..10 {
        front.connect().is_reset();
    }
    assert_eq!(stage.count("start"), 2);
    wakeport.is("asleep, no wake before ");
    wakeport.logs("exceed `--wake-rate 2/1h`");
    assert_eq!(wakeport.log().matches("would exceed").count(), 1);
    until("they are in the record", || {
        recorded(state.path(), "refused_rate") == 10
    });
}

#[test]
fn when_the_window_is_over_it_is_woken_again() {
    let (stage, front) = (HookService::new(), Place::tcp());
    let run = stage.run().listen(&front).cooldown("0");
    let wakeport = run.option("--wake-rate", "1/4s").start();
    let began = now();
    round(&stage, &front, 1);
    until("a client is served again", || {
        front.connect().try_echo("hello").is_ok()
    });
    assert!(began.elapsed() >= Duration::from_secs(4), "too early");
    assert_eq!(stage.count("start"), 2);
    stage.reaches("stop", 2);
    until("the status says no more of it", || {
        wakeport.status().starts_with("asleep, ") && !wakeport.status().contains("no wake")
    });
}

#[test]
fn wakes_count_over_restarts_of_wakeport() {
    let (stage, front, state) = (HookService::new(), Place::tcp(), directory());
    let listener = front.listen();
    let run = keeping(stage.run().inherit("web", &listener), state.path())
        .cooldown("0")
        .option("--wake-rate", "2/1h");
    for count in [1, 2] {
        let client = front.connect();
        let mut wakeport = run.start();
        client.echoes("hello");
        drop(client);
        stage.reaches("stop", count);
        wakeport.ends();
    }
    let waiting = front.connect();
    let wakeport = run.start();
    waiting.is_reset();
    front.connect().is_reset();
    wakeport.is("asleep, no wake before ");
    assert_eq!(stage.count("start"), 2);
    drop(wakeport);
    // The clock was set back by years: wakes in the future are dropped.
    let path = state.path().join("instances/app.json");
    let text = fs::read_to_string(&path).expect("a record");
    let ahead: Vec<_> = text
        .lines()
        .map(|line| match line.trim_start().strip_prefix("\"20") {
            Some(rest) if line.starts_with("      \"20") => format!("      \"29{rest}"),
            _ => line.to_owned(),
        })
        .collect();
    assert_ne!(text.trim(), ahead.join("\n"));
    fs::write(&path, ahead.join("\n")).expect("a file of ours");
    let client = front.connect();
    let _wakeport = run.start();
    client.echoes("hello");
    assert_eq!(stage.count("start"), 3);
}

#[test]
fn the_wake_rate_does_not_concern_a_running_service() {
    let (stage, front) = (HookService::new(), Place::tcp());
    let wakeport = stage
        .run()
        .listen(&front)
        .cooldown("200ms")
        .option("--wake-rate", "1/1h")
        .start();
    let first = front.connect();
    for _ in 0..5 {
        front.connect().echoes("hello");
    }
    drop(first);
    stage.reaches("stop", 1);
    front.connect().is_reset();
    wakeport.is("asleep, no wake before");
    // The query that follows the stop may be under way: this one is refused by it, the next one asks anew.
    front.connect().is_reset();
    // It is started elsewhere, without a signal, and the next client finds out.
    stage.scene().up();
    front.connect().echoes("hello");
    assert_eq!(stage.count("start"), 1);
    stage.reaches("stop", 2);
    front.connect().is_reset();
}

#[test]
fn a_client_during_the_stop_is_reset_if_the_wake_rate_is_exceeded() {
    let (begin, go) = std::sync::mpsc::channel::<()>();
    let go = std::sync::Mutex::new(go);
    let stage = HookService::play(move |_, call| {
        if call.event == "stop" {
            let _ = go.lock().expect("no panic").recv();
        }
    });
    let front = Place::tcp();
    let wakeport = stage
        .run()
        .listen(&front)
        .cooldown("0")
        .option("--wake-rate", "1/1h")
        .start();
    front.connect().echoes("hello");
    wakeport.is("stopping");
    let waiting = front.connect();
    wakeport.is("stopping: the service is stopping, 1 client waiting");
    assert!(
        waiting.is_silent(),
        "the stop may fail: it can be served then"
    );
    begin.send(()).expect("the hook runs");
    waiting.is_reset();
    wakeport.is("asleep, no wake before ");
    assert_eq!(stage.count("start"), 1);
}

#[test]
fn starts_that_fail_count_as_well() {
    let stage = HookService::direct(|_| (), |_, call| i32::from(call.event == "start"));
    let front = Place::tcp();
    let run = stage.run().listen(&front).option("--wake-rate", "2/1h");
    let wakeport = run.start();
    until("it is not tried any more", || {
        front.connect().is_reset();
        wakeport.log().contains("would exceed")
    });
    assert_eq!(stage.count("start"), 2);
    wakeport.is("failed: ");
    until("the status tells when", || {
        wakeport.status().contains("no wake before")
    });
}

#[test]
fn without_a_record_a_warning_says_that_earlier_wakes_do_not_count() {
    let (stage, front) = (HookService::new(), Place::tcp());
    let listener = front.listen();
    let run = stage.run().option("--wake-rate", "2/1h");
    let wakeport = run.inherit("web", &listener).start();
    wakeport.logs("`--wake-rate` counts only the wakes since wakeport was started");
}
