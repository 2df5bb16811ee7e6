//! Random actions of both ends. Always: what arrives is a prefix of what was sent, and all of it if the connection
//! ended with an end of file; nothing hangs; nothing leaks.

use std::io::{self, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::support::{
    Client, LIMIT, Pattern, Run, Wire, directory, in_tiny_segments, is_tcp, kinds, now, until,
    with_hardly_any_room,
};

/// The seed of the first schedule; each schedule has its own.
const SEED: u64 = 20_000;
/// How many schedules run between each pair of kinds of sockets, and how many of them at once.
const SCHEDULES: u64 = 64;
const AT_ONCE: usize = 8;

/// splitmix64: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// Up to `limit`, small numbers as often as large ones.
    fn about(&mut self, limit: u64) -> u64 {
        let scale = self.below(u64::from(limit.ilog2()) + 1);
        (1 << scale) + self.below(1 << scale)
    }
}

/// An action of a sender.
#[derive(Clone, Copy, Debug)]
enum Action {
    /// So many bytes, at most so many at once.
    Send { bytes: u64, piece: usize },
    /// Wait until the other has read everything.
    Wait,
}

/// How an end closes after its actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Close {
    /// It half-closes, and reads to the end of file.
    EndOfFile,
    /// It resets.
    Reset,
    /// It half-closes, and resets when it has read so much.
    EndOfFileThenReset(u64),
}

/// What one end does.
#[derive(Clone, Debug)]
struct Part {
    actions: Vec<Action>,
    close: Close,
    /// It reads at most so much at once,
    bite: usize,
    /// and stalls when it has read so much, until nothing more is sent.
    stalls: Vec<u64>,
    cramped: bool,
}

impl Part {
    fn draw(random: &mut Random, cramped: bool) -> Self {
        // Through so little room it would take too long.
        let most = if cramped { 1 << 12 } else { 1 << 20 };
        let actions = (0..random.below(6))
            .map(|_| {
                if random.one_in(4) {
                    return Action::Wait;
                }
                let piece = random.about(1 << 18) as usize;
                // Only few large actions use small pieces: it would take too long.
                let bytes = random.about(most).min(piece as u64 * 2_000);
                Action::Send { bytes, piece }
            })
            .collect();
        Self {
            actions,
            close: Close::EndOfFile,
            bite: random.about(1 << 17) as usize + 100,
            stalls: {
                let mut stalls: Vec<_> = (0..random.below(3))
                    .map(|_| random.about(1 << 21))
                    .collect();
                stalls.sort_unstable();
                stalls
            },
            cramped,
        }
    }

    /// What it sends if no end resets.
    fn total(&self) -> u64 {
        let actions = self.actions.iter();
        actions
            .map(|action| match action {
                Action::Send { bytes, .. } => *bytes,
                Action::Wait => 0,
            })
            .sum()
    }
}

/// What happens on one connection.
#[derive(Clone, Debug)]
struct Schedule {
    number: u64,
    client: Part,
    server: Part,
}

impl Schedule {
    fn draw(number: u64) -> Self {
        let mut random = Random(number);
        let (close, cramped) = (random.below(6), random.one_in(3));
        // A reset can be lost behind segments that do not fit (RFC 5961): neither end would see it.
        let cramped = cramped && close > 1;
        let mut draw = || Part::draw(&mut random, cramped);
        let (mut client, mut server) = (draw(), draw());
        let who = if random.one_in(2) {
            &mut client
        } else {
            &mut server
        };
        match close {
            0 => who.close = Close::Reset,
            1 => who.close = Close::EndOfFileThenReset(random.about(1 << 20)),
            _ => (),
        }
        Self {
            number,
            client,
            server,
        }
    }
}

/// How far one direction is.
#[derive(Default)]
struct Way {
    sent: AtomicU64,
    read: AtomicU64,
    /// The reader has stopped.
    abandoned: AtomicBool,
}

impl Way {
    fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    fn read(&self) -> u64 {
        self.read.load(Ordering::SeqCst)
    }
}

/// How a connection was closed, as seen by one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// With the other's last byte.
    Well,
    /// It saw a reset, or a broken pipe.
    Badly,
    /// It reset the connection itself.
    ByItself,
}

/// A sender that has not sent for so long does not send.
const STANDSTILL: Duration = Duration::from_millis(20);

/// One end that runs its actions.
struct Player<'a> {
    number: u64,
    part: &'a Part,
    end: Client,
    out: (&'a Way, Pattern),
    back: (&'a Way, Pattern),
    actions: &'a [Action],
    /// How much of the first action is done.
    done: u64,
    finished: bool,
    at_end: bool,
    told: bool,
    stalls: &'a [u64],
    /// How much the other had sent, and when.
    still: (u64, Instant),
    moved: Instant,
}

impl<'a> Player<'a> {
    fn new(number: u64, part: &'a Part, end: Client, out: &'a Way, back: &'a Way) -> Self {
        let socket = end.socket();
        socket.set_nonblocking(true).expect("an option");
        if part.cramped {
            with_hardly_any_room(socket);
        }
        Self {
            number,
            part,
            end,
            out: (out, Pattern::new(number)),
            back: (back, Pattern::new(number)),
            actions: &part.actions,
            done: 0,
            finished: false,
            at_end: false,
            told: false,
            stalls: &part.stalls,
            still: (0, now()),
            moved: now(),
        }
    }

    fn run(mut self) -> Ended {
        let ended = loop {
            self.goes_on();
            if self.actions.is_empty() && self.is_closed() {
                self.end.reset();
                break Ended::ByItself;
            }
            if self.at_end && self.finished {
                break if self.told { Ended::Badly } else { Ended::Well };
            }
            let (reads, writes) = (!self.at_end && !self.is_stalled(), self.has_to_send());
            self.waits(reads, writes);
            if (reads && self.reads()) | (writes && self.writes()) {
                self.moved = now();
            }
            let hangs = self.moved.elapsed() > LIMIT;
            assert!(!hangs, "schedule {} hangs: {:?}", self.number, self.part);
        };
        self.back.0.abandoned.store(true, Ordering::SeqCst);
        ended
    }

    /// Drops the actions that are done.
    fn goes_on(&mut self) {
        let way = self.out.0;
        while let [action, others @ ..] = self.actions {
            let is_done = match action {
                Action::Send { bytes, .. } => self.done == *bytes,
                Action::Wait => way.sent() == way.read() || way.abandoned.load(Ordering::SeqCst),
            };
            if !is_done {
                return;
            }
            (self.actions, self.done) = (others, 0);
        }
        if !self.finished && self.part.close != Close::Reset {
            self.finished = true;
            let _ = self.end.socket().shutdown(Shutdown::Write);
        }
    }

    fn is_closed(&self) -> bool {
        match self.part.close {
            Close::EndOfFile => false,
            Close::Reset => !self.told,
            Close::EndOfFileThenReset(bytes) => self.at_end || self.back.0.read() >= bytes,
        }
    }

    fn has_to_send(&self) -> bool {
        matches!(self.actions, [Action::Send { .. }, ..])
    }

    fn is_stalled(&mut self) -> bool {
        let way = self.back.0;
        let [at, others @ ..] = self.stalls else {
            return false;
        };
        if way.read() < *at {
            self.still = (way.sent(), now());
            return false;
        }
        if self.still.0 != way.sent() {
            self.still = (way.sent(), now());
        }
        if self.still.1.elapsed() > STANDSTILL {
            self.stalls = others;
        }
        true
    }

    fn waits(&self, reads: bool, writes: bool) {
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, reads);
        events.set(PollFlags::OUT, writes);
        if events.is_empty() {
            thread::sleep(Duration::from_millis(1));
        } else {
            let mut ends = [PollFd::new(self.end.socket(), events)];
            let short = Timespec {
                tv_sec: 0,
                tv_nsec: 5_000_000,
            };
            poll(&mut ends, Some(&short)).expect("poll(2)");
        }
    }

    fn reads(&mut self) -> bool {
        let (way, pattern) = &self.back;
        let mut bytes = vec![0; self.part.bite];
        match self.end.read(&mut bytes) {
            Ok(0) => self.at_end = true,
            Ok(count) => {
                pattern.check(way.read(), &bytes[..count]);
                way.read.fetch_add(count as u64, Ordering::SeqCst);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => (self.at_end, self.told) = (true, true),
        }
        true
    }

    fn writes(&mut self) -> bool {
        let (way, pattern) = &self.out;
        let [Action::Send { bytes, piece }, ..] = self.actions else {
            return false;
        };
        let left = usize::try_from(bytes - self.done).expect("it is small");
        let piece = pattern.at(way.sent(), left.min(*piece));
        match self.end.socket().write(piece) {
            Ok(count) => {
                way.sent.fetch_add(count as u64, Ordering::SeqCst);
                self.done += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => (self.actions, self.finished, self.told) = (&[], true, true),
        }
        true
    }
}

impl Schedule {
    /// Runs it, and asserts that its result is allowed.
    fn check(&self, client: Client, server: Client) {
        let [client_tcp, server_tcp] = [&client, &server].map(|end| is_tcp(end.socket()));
        let (up, down) = (Way::default(), Way::default());
        let (at_client, at_server) = thread::scope(|scope| {
            let client = Player::new(self.number, &self.client, client, &up, &down);
            let server = Player::new(self.number, &self.server, server, &down, &up);
            let at_client = scope.spawn(|| client.run());
            let at_server = server.run();
            (at_client.join().expect("no panic"), at_server)
        });
        let well = [&self.client, &self.server].map(|part| part.close == Close::EndOfFile);
        let well = well == [true, true];
        for (part, way, ended, from_tcp, to_tcp) in [
            (&self.client, &up, at_server, client_tcp, server_tcp),
            (&self.server, &down, at_client, server_tcp, client_tcp),
        ] {
            let (sent, read) = (way.sent(), way.read());
            let report = format!("{self:#?}: {read} of {sent} bytes, and it ended {ended:?}");
            assert!(read <= sent, "{report}");
            if well {
                assert_eq!((ended, read), (Ended::Well, part.total()), "{report}");
            }
            // A Unix socket has no resets: one to pass on, or to receive, is an end of file.
            if ended == Ended::Well && to_tcp {
                assert_eq!(read, sent, "{report}");
                assert!(part.close != Close::Reset || !from_tcp, "{report}");
            }
        }
    }
}

#[test]
fn after_random_actions_of_both_ends_every_byte_arrives_or_the_connection_is_reset() {
    let dir = directory();
    thread::scope(|scope| {
        for (kind, (front, target)) in (0..).zip(kinds(&dir)) {
            scope.spawn(move || {
                let run = Run::new().to(&target).listen(&front);
                let listener = target.listen();
                if kind % 2 == 0 {
                    in_tiny_segments(&listener);
                }
                let wire = Wire::on(front, listener, &run);
                let numbers: Vec<_> = (0..SCHEDULES)
                    .map(|n| SEED + kind * SCHEDULES + n)
                    .collect();
                for numbers in numbers.chunks(AT_ONCE) {
                    run_batch(&wire, numbers);
                }
            });
        }
    });
}

/// Runs some schedules at once, and asserts that nothing leaks.
fn run_batch(wire: &Wire, numbers: &[u64]) {
    // Perhaps with one more, on which it still says that it is ready.
    let before = wire.wakeport.sockets();
    thread::scope(|scope| {
        for number in numbers {
            let schedule = Schedule::draw(*number);
            let client = wire.front.connect_with(|socket| {
                if number % 2 == 0 {
                    in_tiny_segments(socket);
                }
            });
            let server = wire.server();
            scope.spawn(move || schedule.check(client, server));
        }
    });
    wire.wakeport.is("cooling");
    until("every socket is closed", || {
        wire.wakeport.sockets() <= before
    });
}
