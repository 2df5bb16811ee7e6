//! Connections through `wakeport` with both ends held by the test, and traffic on them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use socket2::{Domain, Socket};
use tempfile::TempDir;

use super::{Client, LIMIT, Place, Run, Server, Wakeport, noise, now, until};

/// A target whose ends of the connections the test holds itself, with `wakeport` in front.
pub(crate) struct Wire {
    pub(crate) wakeport: Wakeport,
    pub(crate) front: Place,
    _server: Server,
    arrived: Receiver<Client>,
}

impl Wire {
    pub(crate) fn new() -> Self {
        Self::between(Place::tcp(), Place::tcp(), Run::new())
    }

    pub(crate) fn between(front: Place, target: Place, run: Run) -> Self {
        let run = run.to(&target).listen(&front);
        Self::on(front, target.listen(), &run)
    }

    /// The same, where the target's listener is there already and `run` knows both places.
    pub(crate) fn on(front: Place, target: Socket, run: &Run) -> Self {
        let (arrive, arrived) = channel();
        let server = Server::on(target, move |end| {
            let _ = arrive.send(end);
        });
        Self {
            wakeport: run.start(),
            front,
            _server: server,
            arrived,
        }
    }

    /// A client, and the server's end of its connection.
    pub(crate) fn pair(&self) -> (Client, Client) {
        let client = self.front.connect();
        (client, self.server())
    }

    pub(crate) fn server(&self) -> Client {
        let end = self.arrived.recv_timeout(LIMIT);
        end.expect("a connection at the target")
    }

    /// Makes bulk of `flows` until it shows: `wakeport` is kept from reading until as much is sent as there is room for.
    pub(crate) fn bulk<'a>(
        &self,
        flows: impl IntoIterator<Item = &'a Flow> + Clone,
        shows: impl Fn() -> bool,
    ) {
        until("bulk is seen", || {
            self.wakeport.signal(Signal::STOP);
            for flow in flows.clone() {
                until("no room is left", || flow.source.is_full());
            }
            self.wakeport.signal(Signal::CONT);
            let began = now();
            while !shows() && began.elapsed() < Duration::from_millis(100) {
                thread::sleep(Duration::from_millis(1));
            }
            shows()
        });
    }
}

/// TCP and Unix on both sides.
pub(crate) fn kinds(dir: &TempDir) -> [(Place, Place); 4] {
    [
        (Place::tcp(), Place::tcp()),
        (Place::path(dir), Place::tcp()),
        (Place::tcp(), Place::path(dir)),
        (Place::path(dir), Place::path(dir)),
    ]
}

pub(crate) fn is_tcp(socket: &Socket) -> bool {
    socket.domain().expect("an option") != Domain::UNIX
}

/// Every write goes out on its own, in the smallest segments that there are (`TCP_MIN_MSS` in include/net/tcp.h).
pub(crate) fn in_tiny_segments(socket: &Socket) {
    if is_tcp(socket) {
        socket.set_tcp_nodelay(true).expect("an option");
        socket.set_tcp_mss(88).expect("an option");
    }
}

/// The kernel gives the least that it can.
pub(crate) fn with_hardly_any_room(socket: &Socket) {
    socket.set_recv_buffer_size(1).expect("an option");
    socket.set_send_buffer_size(1).expect("an option");
}

/// Sends in pieces of odd sizes, from a thread of its own.
pub(crate) fn send_in_pieces(
    end: &Client,
    bytes: Vec<u8>,
    seed: u64,
) -> thread::JoinHandle<io::Result<()>> {
    let end = end.clone();
    thread::spawn(move || {
        let sizes = noise(seed, bytes.len() / 100 + 16);
        let (mut rest, mut sizes) = (bytes.as_slice(), sizes.chunks_exact(2).cycle());
        while !rest.is_empty() {
            let size = sizes
                .next()
                .map_or(1, |two| usize::from(two[0]) * usize::from(two[1]));
            let (piece, others) = rest.split_at(size.clamp(1, rest.len()));
            end.try_send(piece)?;
            rest = others;
        }
        end.finish();
        Ok(())
    })
}

/// Bytes without an end: noise of a length that no buffer has, again and again.
#[derive(Clone)]
pub(crate) struct Pattern(Arc<[u8]>);

impl Pattern {
    /// A prime.
    const PERIOD: usize = 262_139;

    pub(crate) fn new(seed: u64) -> Self {
        let once = noise(seed, Self::PERIOD);
        Self([once.as_slice(), &once].concat().into())
    }

    /// So many bytes from `offset` on, or as many as there are in one piece.
    pub(crate) fn at(&self, offset: u64, count: usize) -> &[u8] {
        let start = (offset % Self::PERIOD as u64) as usize;
        &self.0[start..start + count.min(Self::PERIOD)]
    }

    /// Makes sure that `bytes` are those from `offset` on.
    pub(crate) fn check(&self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let expected = self.at(offset, bytes.len());
            let (piece, rest) = bytes.split_at(expected.len());
            assert!(piece == expected, "other bytes after {offset}");
            offset += piece.len() as u64;
            bytes = rest;
        }
    }
}

/// Bytes that flow from one end to the other until they are told to stop; each is looked at when it arrives.
pub(crate) struct Flow {
    source: Client,
    shared: Arc<Shared>,
    sender: thread::JoinHandle<io::Result<()>>,
    reader: thread::JoinHandle<io::Result<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    rest: AtomicBool,
    rests: AtomicBool,
    held: AtomicBool,
    leave: AtomicBool,
    piece: AtomicUsize,
    sent: AtomicU64,
    read: AtomicU64,
}

impl Flow {
    pub(crate) fn new(source: &Client, sink: &Client, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            piece: AtomicUsize::new(Pattern::PERIOD),
            ..Shared::default()
        });
        let pattern = Pattern::new(seed);
        // A reader may stall for as long as a busy machine takes to bring all others to a standstill.
        let patient = Some(LIMIT * 10);
        source
            .socket()
            .set_write_timeout(patient)
            .expect("an option");
        let sender = thread::spawn({
            let (source, shared, pattern) = (source.clone(), shared.clone(), pattern.clone());
            move || shared.send(&source, &pattern)
        });
        let reader = thread::spawn({
            let (sink, shared) = (sink.clone(), shared.clone());
            move || shared.receive(&sink, &pattern)
        });
        Self {
            source: source.clone(),
            shared,
            sender,
            reader,
        }
    }

    /// How many bytes have arrived.
    pub(crate) fn arrived(&self) -> u64 {
        self.shared.read.load(Ordering::SeqCst)
    }

    fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Waits until so many more bytes of each have arrived, however slowly.
    pub(crate) fn go_on<'a>(flows: impl IntoIterator<Item = &'a Self>, bytes: u64) {
        let goals = flows.into_iter().map(|flow| (flow, flow.arrived() + bytes));
        for (flow, goal) in goals.collect::<Vec<_>>() {
            let mut arrived = flow.arrived();
            while arrived < goal {
                until("the flow goes on", || {
                    assert!(!flow.reader.is_finished(), "the reader has ended");
                    flow.arrived() > arrived
                });
                arrived = flow.arrived();
            }
        }
    }

    /// Sends pieces of so many bytes from now on.
    pub(crate) fn pieces(&self, size: usize) {
        self.shared.piece.store(size, Ordering::SeqCst);
    }

    /// The reader stalls from now on, or goes on.
    pub(crate) fn hold(&self, held: bool) {
        self.shared.held.store(held, Ordering::SeqCst);
    }

    /// Waits until readers that stall have brought everything before them to a standstill.
    pub(crate) fn stand_still<'a>(
        flows: impl IntoIterator<Item = &'a Self> + Clone,
        wakeport: &Wakeport,
    ) {
        let look = || {
            let flows = flows.clone().into_iter();
            let moved = flows.map(|flow| (flow.sent(), flow.arrived()));
            (moved.collect::<Vec<_>>(), wakeport.cpu())
        };
        let mut seen = look();
        until("a standstill", || {
            thread::sleep(Duration::from_millis(100));
            let before = std::mem::replace(&mut seen, look());
            let mut flows = flows.clone().into_iter();
            before == seen && flows.all(|flow| flow.source.is_full())
        });
    }

    /// Sends no more, and makes sure that all that was sent arrives, and then its end.
    pub(crate) fn ends(self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.hold(false);
        let sent = self.sender.join().expect("no panic");
        sent.expect("everything is sent");
        self.source.finish();
        let end = self.reader.join().expect("no other bytes");
        end.expect("an orderly end");
        let Shared { sent, read, .. } = &*self.shared;
        assert_eq!(sent.load(Ordering::SeqCst), read.load(Ordering::SeqCst));
    }

    /// Waits until the sender sees that its connection is broken.
    pub(crate) fn breaks(self) {
        let sent = self.sender.join().expect("no panic");
        let error = sent.expect_err("an error, not a stop");
        assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "it was not told");
    }

    /// The reader stops, so that the holder of its end can reset. Returns the sender.
    pub(crate) fn leaves(self) -> thread::JoinHandle<io::Result<()>> {
        self.shared.leave.store(true, Ordering::SeqCst);
        let end = self.reader.join().expect("no other bytes");
        end.expect("no end so far");
        self.sender
    }

    /// The sender stops, so that the holder of its end can reset. Returns the reader.
    pub(crate) fn stops(self) -> thread::JoinHandle<io::Result<()>> {
        self.shared.stop.store(true, Ordering::SeqCst);
        let sent = self.sender.join().expect("no panic");
        sent.expect("everything is sent");
        self.reader
    }

    /// They send nothing for now. Waits until all that was sent has arrived.
    pub(crate) fn rest<'a>(flows: impl IntoIterator<Item = &'a Self> + Clone) {
        for flow in flows.clone() {
            flow.shared.rest.store(true, Ordering::SeqCst);
            flow.hold(false);
        }
        for flow in flows {
            until("everything arrives", || {
                let rests = flow.shared.rests.load(Ordering::SeqCst);
                rests && flow.arrived() == flow.sent()
            });
        }
    }

    /// Sends again.
    pub(crate) fn resumes(&self) {
        self.shared.rest.store(false, Ordering::SeqCst);
    }
}

impl Shared {
    fn send(&self, source: &Client, pattern: &Pattern) -> io::Result<()> {
        let mut sent = 0;
        while !self.stop.load(Ordering::SeqCst) {
            let rests = self.rest.load(Ordering::SeqCst);
            self.rests.store(rests, Ordering::SeqCst);
            if rests {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            let piece = pattern.at(sent, self.piece.load(Ordering::SeqCst));
            source.try_send(piece)?;
            sent += piece.len() as u64;
            self.sent.store(sent, Ordering::SeqCst);
        }
        Ok(())
    }

    fn receive(&self, sink: &Client, pattern: &Pattern) -> io::Result<()> {
        let mut read = 0;
        while !self.leave.load(Ordering::SeqCst) {
            if self.held.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            let bytes = sink.some()?;
            if bytes.is_empty() {
                return Ok(());
            }
            pattern.check(read, &bytes);
            read += bytes.len() as u64;
            self.read.store(read, Ordering::SeqCst);
        }
        Ok(())
    }
}
