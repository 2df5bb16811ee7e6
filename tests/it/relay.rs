//! The relay as both ends see it: like a direct connection.

use std::io;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Place, Run, Wire, directory, noise, send_in_pieces, throughout, until};

#[test]
fn every_byte_arrives_both_ways_at_once_whatever_the_sizes() {
    let wire = Wire::new();
    for (round, size) in [
        0, 1, 2, 1000, 4096, 65_535, 65_536, 65_537, 300_001, 5_000_000,
    ]
    .into_iter()
    .enumerate()
    {
        let seed = round as u64;
        let (client, server) = wire.pair();
        let (up, down) = (noise(seed, size), noise(seed + 100, size * 3 / 2));
        let senders = [
            send_in_pieces(&client, up.clone(), seed),
            send_in_pieces(&server, down.clone(), seed),
        ];
        let answer = thread::spawn({
            let client = client.clone();
            move || client.all()
        });
        assert!(server.all() == up, "{size} bytes up");
        assert!(
            answer.join().expect("it arrives") == down,
            "{size} bytes down"
        );
        for sender in senders {
            sender.join().expect("no panic").expect("it is all sent");
        }
    }
}

#[test]
fn single_bytes_are_passed_on_one_by_one() {
    let wire = Wire::new();
    let (client, server) = wire.pair();
    for byte in noise(1, 300) {
        client.send([byte]);
        assert_eq!(server.take(1), [byte]);
        server.send([!byte]);
        assert_eq!(client.take(1), [!byte]);
    }
}

#[test]
fn a_client_that_stops_sending_still_gets_the_whole_answer() {
    let wire = Wire::new();
    let (client, server) = wire.pair();
    client.send("question");
    client.finish();
    assert_eq!(server.all(), b"question");
    let answer = noise(2, 3_000_000);
    let sender = send_in_pieces(&server, answer.clone(), 2);
    assert!(client.all() == answer);
    sender.join().expect("no panic").expect("it is all sent");
}

#[test]
fn a_server_that_stops_sending_still_gets_the_whole_upload() {
    let wire = Wire::new();
    let (client, server) = wire.pair();
    server.send("go on");
    server.finish();
    assert_eq!(client.all(), b"go on");
    let upload = noise(3, 3_000_000);
    let sender = send_in_pieces(&client, upload.clone(), 3);
    assert!(server.all() == upload);
    sender.join().expect("no panic").expect("it is all sent");
}

#[test]
fn a_reset_by_the_target_reaches_the_client_after_all_that_was_sent_before() {
    let wire = Wire::new();
    for size in [0, 1, 100_000] {
        let (client, server) = wire.pair();
        let bytes = noise(size as u64, size);
        server.send(&bytes);
        client.send("never read");
        // What a reset overtakes at its own end is lost without us, too: wait until it is sent off.
        until("everything has left the server", || server.unsent() == 0);
        server.reset();
        let (got, end) = client.rest();
        assert_eq!(got.len(), size);
        assert!(got == bytes);
        assert_eq!(
            end.expect_err("a reset").kind(),
            io::ErrorKind::ConnectionReset
        );
    }
}

#[test]
fn a_reset_never_becomes_an_end_of_file() {
    // The relay may learn of a reset by writing, and a read then finds an end like any other.
    let wire = Wire::new();
    for round in 0..20 {
        let (client, server) = wire.pair();
        let (breaks_off, stays) = match round % 2 {
            0 => (client, server),
            _ => (server, client),
        };
        breaks_off.send("I am here");
        stays.take(9);
        let limit = Some(Duration::from_millis(20));
        stays.socket().set_write_timeout(limit).expect("an option");
        while stays.try_send(noise(round, 100_000)).is_ok() {}
        breaks_off.reset();
        stays.is_reset();
    }
}

#[test]
fn a_slow_reader_gets_all_that_the_target_sent_before_its_reset() {
    let wire = Wire::new();
    let client = wire.front.connect_with_little_room();
    let server = wire.server();
    let bytes = noise(4, 400_000);
    server.send(&bytes);
    until("everything has left the server", || server.unsent() == 0);
    server.reset();
    let mut got = Vec::new();
    let end = loop {
        match client.some() {
            Ok(piece) if piece.is_empty() => break Ok(()),
            Ok(piece) => got.extend(piece),
            Err(error) => break Err(error.kind()),
        }
        thread::sleep(Duration::from_millis(2));
    };
    assert_eq!(
        (got.len(), end),
        (bytes.len(), Err(io::ErrorKind::ConnectionReset))
    );
    assert!(got == bytes);
}

#[test]
fn a_reset_after_the_end_of_file_costs_a_slow_reader_nothing() {
    let wire = Wire::new();
    let client = wire.front.connect_with_little_room();
    let server = wire.server();
    let bytes = noise(11, 400_000);
    server.send(&bytes);
    server.finish();
    until("everything has left the server", || server.unsent() == 0);
    server.reset();
    let mut got = Vec::new();
    let end = loop {
        match client.some() {
            Ok(piece) if piece.is_empty() => break Ok(()),
            Ok(piece) => got.extend(piece),
            Err(error) => break Err(error.kind()),
        }
        thread::sleep(Duration::from_millis(2));
    };
    // Whether it closes with an end of file or a reset.
    assert!(
        got == bytes,
        "{} of {} bytes, {end:?}",
        got.len(),
        bytes.len()
    );
}

#[test]
fn urgent_data_is_lost_and_the_bytes_behind_it_arrive_with_the_next_ones() {
    let wire = Wire::new();
    let (client, server) = wire.pair();
    // All of it is there when it is read.
    wire.wakeport.signal(Signal::STOP);
    client.send("before");
    let urgent = client.socket().send_out_of_band(b"!");
    assert_eq!(urgent.expect("room"), 1);
    client.send("after");
    until("it has left the client", || client.unsent() == 0);
    wire.wakeport.signal(Signal::CONT);
    assert_eq!(server.take(6), b"before");
    client.send("later");
    assert_eq!(server.take(10), b"afterlater");
}

#[test]
fn a_reset_by_the_client_reaches_the_target() {
    let wire = Wire::new();
    // Idle, in the middle of an unread answer, and after its end of file.
    let (client, server) = wire.pair();
    client.send("I am here");
    server.take(9);
    client.reset();
    server.is_reset();

    let (client, server) = wire.pair();
    let sender = send_in_pieces(&server, noise(5, 20_000_000), 5);
    client.take(1000);
    client.reset();
    assert!(sender.join().expect("no panic").is_err());

    let (client, server) = wire.pair();
    client.send("last word");
    client.finish();
    assert_eq!(server.all(), b"last word");
    client.reset();
    until("the server is told", || server.try_send("more?").is_err());
}

#[test]
fn a_client_that_closes_without_reading_ends_the_connection_at_the_target() {
    let wire = Wire::new();
    let (client, server) = wire.pair();
    server.send(noise(6, 1000));
    until("something to read", || !client.is_silent());
    drop(client);
    until("the server is told", || server.try_send("more?").is_err());
    wire.wakeport.is("cooling");
}

#[test]
fn a_stalled_reader_costs_neither_memory_nor_time_and_loses_nothing() {
    let wire = Wire::new();
    let (other, other_server) = wire.pair();
    // What the kernel holds for either side may be many megabytes (tcp_rmem); here it is little.
    let client = wire.front.connect_with_little_room();
    let server = wire.server();
    let before = wire.wakeport.memory();
    let bytes = noise(7, 60_000_000);
    let sender = send_in_pieces(&server, bytes.clone(), 7);
    let mut seen = 0;
    // The sender stalls when all buffers between the two are full.
    until("a standstill", || {
        let waits = server.unsent();
        thread::sleep(Duration::from_millis(100));
        std::mem::replace(&mut seen, waits) == waits && waits > 0
    });
    assert!(!sender.is_finished());
    let cpu = wire.wakeport.cpu();
    throughout(
        Duration::from_millis(500),
        "another connection goes on",
        || {
            other.send("ping");
            other_server.take(4) == b"ping"
        },
    );
    let (cpu, memory) = (wire.wakeport.cpu() - cpu, wire.wakeport.memory() - before);
    assert!(
        cpu < Duration::from_millis(200),
        "{cpu:?} of processor time"
    );
    assert!(memory < 4096, "{memory} KiB more");
    assert!(client.all() == bytes);
    sender.join().expect("no panic").expect("it is all sent");
}

#[test]
fn three_hundred_idle_connections_hold_no_buffers() {
    let wire = Wire::new();
    let (first, _first_server) = wire.pair();
    first.send("warm");
    let before = wire.wakeport.memory();
    let pairs: Vec<_> = (0..300)
        .map(|_| {
            let (client, server) = wire.pair();
            client.send(noise(8, 10_000));
            server.take(10_000);
            (client, server)
        })
        .collect();
    let each = wire.wakeport.memory().saturating_sub(before) / 300;
    assert!(each < 16, "{each} KiB for each connection");
    wire.wakeport.is("awake: 301 clients");
    let cpu = wire.wakeport.cpu();
    throughout(Duration::from_millis(500), "quiet", || true);
    assert!(wire.wakeport.cpu() - cpu < Duration::from_millis(100));
    for (client, server) in &pairs {
        server.send("still there");
        assert_eq!(client.take(11), b"still there");
    }
}

#[test]
fn unix_sockets_work_on_both_sides() {
    let dir = directory();
    let places = || [Place::tcp(), Place::path(&dir), Place::abstract_name()];
    for front in places() {
        for target in places() {
            let wire = Wire::between(front.clone(), target, Run::new());
            let (client, server) = wire.pair();
            let (up, down) = (noise(9, 700_000), noise(10, 500_000));
            let senders = [
                send_in_pieces(&client, up.clone(), 9),
                send_in_pieces(&server, down.clone(), 10),
            ];
            let answer = thread::spawn(move || client.all());
            assert!(server.all() == up);
            assert!(answer.join().expect("no panic") == down);
            for sender in senders {
                sender.join().expect("no panic").expect("it is all sent");
            }
        }
    }
}

#[test]
fn a_unix_target_that_resets_closes_its_client() {
    let wire = Wire::between(Place::tcp(), Place::abstract_name(), Run::new());
    let (client, server) = wire.pair();
    client.send("never read");
    until("something to read", || !server.is_silent());
    // A Unix socket that is closed with something unread resets its peer.
    drop(server);
    client.is_reset();
}

#[test]
fn nodelay_and_keepalive_are_set_on_both_legs() {
    let wire = Wire::new();
    let (client, server) = wire.pair();
    client.send("x");
    server.take(1);
    let legs = wire.wakeport.connections();
    assert_eq!(legs.len(), 2);
    for leg in legs {
        assert!(leg.tcp_nodelay().expect("an option"));
        assert!(leg.keepalive().expect("an option"));
        let idle = leg.tcp_keepalive_time().expect("an option");
        assert_eq!(idle, Duration::from_secs(60));
    }
}
