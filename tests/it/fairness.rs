//! What one connection costs the others: stalled readers, endless streams.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Client, Flow, Place, Run, Trace, Wire, directory, kinds, noise, until};

const SECOND: Duration = Duration::from_secs(1);

/// Connections with bulk both ways and stalled readers.
fn stalled(wire: &Wire, count: u64, is_bulk: impl Fn() -> bool) -> Vec<Flow> {
    let pairs: Vec<_> = (0..count).map(|_| wire.pair()).collect();
    let flows: Vec<_> = (0..)
        .zip(&pairs)
        .flat_map(|(seed, (client, server))| {
            [
                Flow::new(client, server, seed),
                Flow::new(server, client, seed + count),
            ]
        })
        .collect();
    wire.bulk(&flows, is_bulk);
    Flow::go_on(&flows, 1 << 20);
    flows.iter().for_each(|flow| flow.hold(true));
    Flow::stand_still(&flows, &wire.wakeport);
    flows
}

/// Asserts that stalled readers cost neither time nor memory between all kinds of sockets. Bulk shows as `call`
/// in the trace.
fn cost_nothing(trace: impl Fn() -> Trace + Sync, call: &str) {
    let dir = directory();
    thread::scope(|scope| {
        for (front, target) in kinds(&dir) {
            scope.spawn(|| {
                let trace = trace();
                let wire = Wire::between(front, target, trace.around(Run::new()));
                let before = wire.wakeport.memory();
                let flows = stalled(&wire, 4, || trace.count(&[call]) > 0);
                wire.wakeport.is_quiet(SECOND);
                let memory = wire.wakeport.memory() - before;
                assert!(memory < 4096, "{memory} KiB more");
                // All readers at once: where a socket's receive queue stays over its limit, Linux drops what
                // comes in, and with it the acknowledgements of what the same socket sends.
                flows.iter().for_each(|flow| flow.hold(false));
                flows.into_iter().for_each(Flow::ends);
            });
        }
    });
}

#[test]
fn stalled_readers_cost_nothing_while_bulk_waits_in_pipes() {
    cost_nothing(|| Trace::of("splice"), "splice(");
}

#[test]
fn stalled_readers_cost_nothing_where_bulk_is_copied() {
    cost_nothing(|| Trace::of("pipe2").inject("pipe2:error=EMFILE"), "pipe2(");
}

/// A bulk answer to a stalled reader: as much as there is room for, and some more that is not read from the
/// target.
fn more_than_there_is_room_for(wire: &Wire) -> (Client, Client, Vec<u8>) {
    let (client, server) = wire.pair();
    until("bulk goes through a pipe", || {
        wire.wakeport.signal(Signal::STOP);
        server.send(noise(1, 400_000));
        wire.wakeport.signal(Signal::CONT);
        client.take(400_000);
        wire.wakeport.pipes() > 0
    });
    let here = server.socket().local_addr().expect("it is open");
    let legs = wire.wakeport.connections().into_iter();
    let mut leg = legs.filter(|leg| leg.peer_addr().is_ok_and(|peer| peer == here));
    let leg = leg.next().expect("a leg to the target");
    let mut answer = Vec::new();
    let unread = || rustix::io::ioctl_fionread(&leg).expect("it is open");
    loop {
        let more = noise(answer.len() as u64, 30_000);
        server.send(&more);
        answer.extend(more);
        until("it has arrived", || server.unsent() == 0);
        let before = unread();
        if before > 0 {
            thread::sleep(Duration::from_millis(100));
            if unread() == before {
                return (client, server, answer);
            }
        }
    }
}

#[test]
fn an_end_of_file_behind_a_stalled_reader_costs_nothing_and_arrives_in_order() {
    let wire = Wire::new();
    let (client, server, answer) = more_than_there_is_room_for(&wire);
    server.finish();
    wire.wakeport.is_quiet(SECOND);
    assert!(client.all() == answer);
    client.finish();
    assert!(server.all().is_empty());
}

#[test]
fn a_reset_behind_a_stalled_reader_costs_nothing_and_arrives_in_order() {
    let wire = Wire::new();
    let (client, server, answer) = more_than_there_is_room_for(&wire);
    server.reset();
    wire.wakeport.is_quiet(SECOND);
    let (got, end) = client.rest();
    assert_eq!(got.len(), answer.len());
    assert!(got == answer);
    end.expect_err("a reset");
}

/// A stream that always has more to read and room to write, since `wakeport` is slow, and another connection on
/// the same thread. How fast they are does not matter: it is enough that the other one gets on before the stream ends.
fn starves_nobody(front: Place, trace: &Trace, slow: &str) {
    let run = trace.around(Run::new().option("--threads", 1));
    let wire = Wire::between(front, Place::tcp(), run);
    let (source, sink) = wire.pair();
    let stream = Flow::new(&source, &sink, 1);
    wire.bulk([&stream], || trace.count(&[slow]) > 0);
    Flow::go_on([&stream], 1 << 20);
    let before = stream.arrived();
    for _ in 0..2 {
        let (client, server) = wire.pair();
        client.send("ping");
        assert_eq!(server.take(4), b"ping");
        server.send("pong");
        assert_eq!(client.take(4), b"pong");
    }
    assert!(stream.arrived() > before, "it still runs");
    stream.ends();
}

#[test]
fn an_endless_copied_stream_does_not_starve_other_connections_on_its_thread() {
    let trace = Trace::of("pipe2,recvfrom,sendto").inject("pipe2:error=EMFILE");
    // A Unix socket holds more than is read at once.
    let dir = directory();
    let trace = trace.inject("sendto:delay_enter=4000");
    starves_nobody(Place::path(&dir), &trace, "sendto(");
}

#[test]
fn an_endless_spliced_stream_does_not_starve_other_connections_on_its_thread() {
    let trace = Trace::of("splice").inject("splice:delay_enter=4000");
    starves_nobody(Place::tcp(), &trace, "splice(");
}
