//! Half-closes and resets of both ends in every order, in tiny segments and with tiny buffers.

use std::io;
use std::thread;

use socket2::Socket;

use crate::support::{
    Client, Flow, Place, Run, Wire, directory, in_tiny_segments, is_tcp, kinds,
    with_hardly_any_room,
};

/// A wire whose ends send tiny segments.
fn tiny(front: Place, target: &Place) -> Wire {
    let run = Run::new().to(target).listen(&front);
    let listener = target.listen();
    in_tiny_segments(&listener);
    Wire::on(front, listener, &run)
}

/// A connection with bulk both ways, up and down.
struct Busy {
    client: Client,
    server: Client,
    up: Flow,
    down: Flow,
}

impl Busy {
    fn on(wire: &Wire) -> Self {
        let client = wire.front.connect_with(in_tiny_segments);
        let server = wire.server();
        let (up, down) = (
            Flow::new(&client, &server, 1),
            Flow::new(&server, &client, 2),
        );
        let busy = Self {
            client,
            server,
            up,
            down,
        };
        for (flow, source) in busy.flows().into_iter().zip([&busy.client, &busy.server]) {
            if is_tcp(source.socket()) {
                flow.pieces(100);
            } else {
                // Here small pieces are never bulk: each takes the room of a large one.
                source
                    .socket()
                    .set_send_buffer_size(1 << 20)
                    .expect("an option");
            }
        }
        wire.bulk(busy.flows(), || wire.wakeport.pipes() > 0);
        Flow::go_on(busy.flows(), 1 << 20);
        busy
    }

    fn flows(&self) -> [&Flow; 2] {
        [&self.up, &self.down]
    }

    /// From here on single bytes, with tiny buffers on the way.
    fn dwindles(&self, wire: &Wire) {
        Flow::rest(self.flows());
        let legs = wire.wakeport.files(|link| link.starts_with("socket:"));
        legs.into_iter()
            .map(Socket::from)
            .filter(|leg| leg.peer_addr().is_ok())
            .for_each(|leg| with_hardly_any_room(&leg));
        with_hardly_any_room(self.client.socket());
        with_hardly_any_room(self.server.socket());
        for flow in self.flows() {
            flow.pieces(1);
            flow.resumes();
        }
        Flow::go_on(self.flows(), 5_000);
    }

    fn ends(self, order: Order) {
        let Self {
            client,
            server,
            up,
            down,
        } = self;
        let knows_resets = is_tcp(client.socket()) && is_tcp(server.socket());
        match order {
            Order::ClientFirst => {
                up.ends();
                Flow::go_on([&down], 1000);
                down.ends();
            }
            Order::TargetFirst => {
                down.ends();
                Flow::go_on([&up], 1000);
                up.ends();
            }
            Order::AtOnce => thread::scope(|scope| {
                scope.spawn(|| up.ends());
                scope.spawn(|| down.ends());
            }),
            Order::ClientThenBreaks => {
                up.ends();
                drop(breaks_off(client, down));
            }
            Order::TargetThenBreaks => {
                down.ends();
                drop(breaks_off(server, up));
            }
            Order::ClientBreaks => {
                Flow::rest([&up]);
                let told = up.stops();
                let sent = breaks_off(client, down);
                is_told(told, sent, knows_resets);
            }
            Order::TargetBreaks => {
                Flow::rest([&down]);
                let told = down.stops();
                let sent = breaks_off(server, up);
                is_told(told, sent, knows_resets);
            }
        }
    }
}

/// How a connection is closed.
#[derive(Clone, Copy, Debug)]
enum Order {
    ClientFirst,
    TargetFirst,
    AtOnce,
    /// It half-closes, and resets while data is unread.
    ClientThenBreaks,
    TargetThenBreaks,
    ClientBreaks,
    TargetBreaks,
}

/// The receiving end of `flow` resets; its last handle is `end`. Returns the sender's error.
fn breaks_off(end: Client, flow: Flow) -> io::Error {
    let sender = flow.leaves();
    end.reset();
    let sent = sender.join().expect("no panic");
    sent.expect_err("an error, not a stop")
}

/// The other end gets a reset, not an end of file: by reading or by sending, since the kernel reports it once.
/// A Unix socket has no resets.
fn is_told(reader: thread::JoinHandle<io::Result<()>>, sent: io::Error, knows_resets: bool) {
    let read = reader.join().expect("no other bytes");
    let mut told = [Some(sent), read.err()].into_iter().flatten();
    assert!(!knows_resets || told.any(|error| error.kind() == io::ErrorKind::ConnectionReset));
}

#[test]
fn tiny_segments_and_single_bytes_arrive_in_every_order_of_closes() {
    let dir = directory();
    thread::scope(|scope| {
        for (front, target) in kinds(&dir) {
            scope.spawn(move || {
                let wire = tiny(front, &target);
                for order in [
                    Order::ClientFirst,
                    Order::TargetFirst,
                    Order::AtOnce,
                    Order::ClientThenBreaks,
                    Order::TargetThenBreaks,
                    Order::ClientBreaks,
                    Order::TargetBreaks,
                ] {
                    let busy = Busy::on(&wire);
                    busy.dwindles(&wire);
                    busy.ends(order);
                    wire.wakeport.is("cooling");
                }
            });
        }
    });
}
