//! Idle connections and dead peers do not keep the service awake: idle timeout, keepalive, user timeout.

use std::time::Duration;

use rustix::net::sockopt;

use crate::support::{Flow, HookService, Place, Run, Server, Wire, now, throughout, until};

#[test]
fn an_idle_connection_is_closed_at_its_timeout_and_the_service_sleeps() {
    let stage = HookService::new();
    let front = Place::tcp();
    let wakeport = stage
        .run()
        .listen(&front)
        .cooldown("100ms")
        .option("--client-idle-timeout", "5s")
        .start();
    let client = front.connect();
    client.echoes("once");
    assert_eq!(client.all(), b"", "ended, and not by a reset");
    stage.reaches("stop", 1);
    until("it is counted", || {
        wakeport.status().ends_with("1 closed as idle")
    });
    wakeport.logs("idle for 5s");
}

#[test]
fn a_half_closed_idle_connection_is_closed_at_its_timeout() {
    for client_first in [true, false] {
        let run = Run::new().option("--client-idle-timeout", "5s");
        let wire = Wire::between(Place::tcp(), Place::tcp(), run);
        let (client, server) = wire.pair();
        let (ends, stays) = match client_first {
            true => (client, server),
            false => (server, client),
        };
        ends.send("the last word");
        ends.finish();
        assert_eq!(stays.all(), b"the last word");
        assert_eq!(ends.all(), b"");
        until("it is counted", || {
            wire.wakeport.status().ends_with("1 closed as idle")
        });
    }
}

#[test]
fn a_connection_that_moves_bytes_is_not_closed() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let _server = Server::echo(&target);
    let _wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .option("--client-idle-timeout", "2s")
        .start();
    let (mut client, mut began, mut last) = (front.connect(), now(), now());
    until("it is served for 5 s", || {
        let sent = now();
        if client.try_echo("and again").is_err() {
            // Only a test that is held up itself may see that.
            assert!(last.elapsed() >= Duration::from_secs(2), "bytes have moved");
            (client, began) = (front.connect(), now());
        }
        last = sent;
        began.elapsed() >= Duration::from_secs(5)
    });
}

#[test]
fn without_an_idle_timeout_a_connection_may_be_idle() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let _server = Server::echo(&target);
    let wakeport = Run::new().to(&target).listen(&front).start();
    let client = front.connect();
    client.echoes("once");
    throughout(Duration::from_secs(1), "it stays", || client.is_silent());
    client.echoes("and again");
    wakeport.is("awake: 1 client");
}

#[test]
fn keepalive_options_apply_to_both_legs() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let _server = Server::echo(&target);
    let wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .option("--keepalive-time", "17s")
        .option("--keepalive-interval", "3s")
        .option("--keepalive-probes", 4)
        .option("--user-timeout", "29s")
        .start();
    let client = front.connect();
    client.echoes("once");
    let legs = wakeport.connections();
    assert_eq!(legs.len(), 2);
    for leg in legs {
        let second = Duration::from_secs(1);
        assert!(sockopt::socket_keepalive(&leg).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&leg).unwrap(), 17 * second);
        assert_eq!(sockopt::tcp_keepintvl(&leg).unwrap(), 3 * second);
        assert_eq!(sockopt::tcp_keepcnt(&leg).unwrap(), 4);
        assert_eq!(sockopt::tcp_user_timeout(&leg).unwrap(), 29_000);
    }
}

#[test]
fn invalid_keepalive_times_are_rejected() {
    for (option, value) in [
        ("--keepalive-time", "500ms"),
        ("--keepalive-interval", "infinity"),
        ("--keepalive-probes", "0"),
    ] {
        let run = Run::new()
            .to("127.0.0.1:1")
            .listen("127.0.0.1:1")
            .option(option, value);
        let (said, code) = run.fails();
        assert_eq!(code, 64, "{said}");
        assert!(said.contains(option), "{said}");
    }
}

#[test]
fn the_first_client_gets_the_same_timeouts_as_any_other() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let _server = Server::echo(&target);
    let listener = front.listen();
    // The second process has the same socket and other options.
    for (life, idle, user_timeout) in [(1, 17, 29_000), (2, 18, 0)] {
        let run = Run::new().to(&target).inherit("web", &listener);
        let run = run.option("--keepalive-time", format!("{idle}s"));
        let first = front.connect();
        let wakeport = match user_timeout {
            0 => run.start(),
            millis => run.option("--user-timeout", format!("{millis}ms")).start(),
        };
        first.echoes("there first");
        let others = [(); 3].map(|()| front.connect());
        others.iter().for_each(|client| client.echoes("later"));
        let legs = wakeport.connections();
        assert_eq!(legs.len(), 8);
        for leg in legs {
            assert!(
                leg.tcp_nodelay().expect("an option"),
                "no delay in life {life}"
            );
            assert!(sockopt::socket_keepalive(&leg).unwrap());
            let seconds = sockopt::tcp_keepidle(&leg).unwrap().as_secs();
            assert_eq!(seconds, idle, "in life {life}");
            let millis = sockopt::tcp_user_timeout(&leg).unwrap();
            assert_eq!(millis, user_timeout, "in life {life}");
        }
    }
}

#[test]
fn a_reader_that_stalls_beyond_the_user_timeout_is_closed() {
    let run = Run::new().option("--user-timeout", "1s");
    let wire = Wire::between(Place::tcp(), Place::tcp(), run);
    let (client, server) = wire.pair();
    let answer = Flow::new(&server, &client, 1);
    answer.hold(true);
    answer.breaks();
    wire.wakeport.logs("peer timed out");
    until("it is counted", || {
        wire.wakeport.status().ends_with("1 closed as timed out")
    });
}
