//! Mixed load over many rounds of wake and sleep: every byte is compared, and at the end no resource has leaked.
//! `WAKEPORT_SOAK=10min` sets the length.

use std::env;
use std::fmt;
use std::net::Shutdown;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::{
    Client, HookService, Pattern, Place, Run, Server, Wakeport, directory, echo, noise, now,
};

/// How long the load lasts unless `WAKEPORT_SOAK` says otherwise.
const SPAN: Duration = Duration::from_secs(45);
/// What is compared with the end comes after so many rounds: by then everything has been used once.
const WARM: u64 = 10;
/// How many clients connect at once in a round.
const CLIENTS: u64 = 12;
/// How much more memory may be resident in the end, in KiB: what the allocator keeps varies.
const SLACK: u64 = 2048;
/// How long nothing moves in the end.
const QUIET: Duration = Duration::from_secs(2);

/// What wakeport holds while its service sleeps.
#[derive(Debug)]
struct Held {
    memory: u64,
    threads: usize,
    sockets: usize,
    /// Files that are neither sockets nor pipes.
    others: usize,
    pipes: usize,
}

impl Held {
    fn by(wakeport: &Wakeport) -> Self {
        let (sockets, pipes) = (wakeport.sockets(), wakeport.pipes());
        Self {
            memory: wakeport.memory(),
            threads: wakeport.threads(),
            sockets,
            others: wakeport.open_files() - sockets - 2 * pipes,
            pipes,
        }
    }
}

/// Counts of connections and bytes.
#[derive(Default)]
struct Tally {
    rounds: AtomicU64,
    connections: AtomicU64,
    bytes: AtomicU64,
}

impl Tally {
    fn count(&self, bytes: u64) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [rounds, connections, bytes] =
            [&self.rounds, &self.connections, &self.bytes].map(|n| n.load(Ordering::Relaxed));
        write!(
            f,
            "{rounds} rounds, {connections} connections, {} MiB each way",
            bytes >> 20
        )
    }
}

/// A service with three targets, and their listeners.
struct Load {
    stage: HookService,
    fronts: [Place; 3],
    targets: [Place; 3],
    _dir: TempDir,
    tally: Tally,
}

impl Load {
    /// It starts and stops slowly.
    fn new() -> Self {
        let dir = directory();
        let targets = [Place::tcp(), Place::path(&dir), Place::tcp()];
        let servers = Mutex::new(Vec::new());
        let stage = HookService::direct(echo, {
            let targets = targets.clone();
            move |_, call| {
                thread::sleep(Duration::from_millis(u64::from(call.pid % 30)));
                let mut servers = servers.lock().expect("no panic");
                servers.clear();
                if call.event == "start" {
                    let [one, two, three] = &targets;
                    *servers = vec![
                        Server::echo(one),
                        Server::echo(two),
                        Server::at(three, is_brief),
                    ];
                }
                0
            }
        });
        Self {
            stage,
            fronts: [Place::tcp(), Place::tcp(), Place::path(&dir)],
            targets,
            _dir: dir,
            tally: Tally::default(),
        }
    }

    fn run(&self) -> Run {
        let hook = self.stage.hook();
        let mut run = Run::new()
            .option("--start-hook", &hook)
            .option("--stop-hook", &hook);
        for (name, (front, target)) in ["a", "b", "c"]
            .iter()
            .zip(self.fronts.iter().zip(&self.targets))
        {
            run = run
                .listen(format!("{name}={front}"))
                .to(format!("{name}={target}"));
        }
        run.cooldown("20ms").option("--threads", 2)
    }

    /// Clients that each do something else.
    fn round(&self, number: u64) {
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                scope.spawn(move || self.connect(number * CLIENTS + client));
            }
        });
        self.tally.rounds.fetch_add(1, Ordering::Relaxed);
    }

    fn connect(&self, seed: u64) {
        let dice = noise(seed, 8);
        let size = u64::from(dice[1]) * u64::from(dice[2]);
        thread::sleep(Duration::from_millis(u64::from(dice[3]) / 8));
        let front = &self.fronts[usize::from(dice[4]) % 2];
        let bytes = match dice[0] % 8 {
            0 | 1 => ping_pong(&front.connect(), seed, size),
            2 => comes_back(front.connect(), seed, size * 64, 65_536),
            // A reader with hardly any room.
            3 => comes_back(front.connect_with_little_room(), seed, size * 8, 4_000),
            4 => comes_back(front.connect(), seed, size / 100, 100),
            5 => breaks_off(front.connect(), seed),
            6 => says_nothing(&front.connect()),
            _ => is_cut_short(&self.fronts[2].connect(), seed),
        };
        self.tally.count(bytes);
    }

    /// Fifty at once, each with a short message.
    fn burst(&self) {
        let clients: Vec<_> = (0..50).map(|n| self.fronts[n % 2].connect()).collect();
        for client in clients {
            client.echoes("hello");
            self.tally.count(5);
        }
    }

    /// The processor time of silent connections.
    fn is_quiet(&self, wakeport: &Wakeport) -> Duration {
        let clients: Vec<_> = (0..50).map(|n| self.fronts[n % 2].connect()).collect();
        clients.iter().for_each(|client| client.echoes("hello"));
        wakeport.is_quiet(QUIET)
    }
}

/// A server that echoes the first message and closes.
fn is_brief(client: Client) {
    if let Ok(bytes) = client.some() {
        let _ = client.try_send(bytes);
    }
}

fn ping_pong(client: &Client, seed: u64, size: u64) -> u64 {
    let message = noise(seed, size as usize / 20 + 1);
    for _ in 0..20 {
        client.send(&message);
        assert!(client.take(message.len()) == message);
    }
    20 * message.len() as u64
}

/// Sends in pieces and reads it all back, up to an orderly end.
fn comes_back(client: Client, seed: u64, size: u64, piece: usize) -> u64 {
    let pattern = Pattern::new(seed);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut sent = 0;
            while sent < size {
                let piece = pattern.at(sent, piece.min((size - sent) as usize));
                client.send(piece);
                sent += piece.len() as u64;
            }
            client.finish();
        });
        let mut read = 0;
        loop {
            let bytes = client.some().expect("all of it comes back");
            if bytes.is_empty() {
                break;
            }
            pattern.check(read, &bytes);
            read += bytes.len() as u64;
        }
        assert_eq!(read, size);
    });
    size
}

fn breaks_off(client: Client, seed: u64) -> u64 {
    client.send(noise(seed, 50_000));
    if seed.is_multiple_of(2) {
        client.take(1);
    }
    client.reset();
    50_000
}

fn says_nothing(client: &Client) -> u64 {
    thread::sleep(Duration::from_millis(50));
    assert!(client.is_silent());
    0
}

/// What the server sent before it closed is a prefix of what it received.
fn is_cut_short(client: &Client, seed: u64) -> u64 {
    let message = noise(seed, 200_000);
    let _ = client.try_send(&message);
    let _ = client.socket().shutdown(Shutdown::Write);
    let (bytes, _) = client.rest();
    assert!(message.starts_with(&bytes));
    bytes.len() as u64
}

fn span() -> Duration {
    let Ok(text) = env::var("WAKEPORT_SOAK") else {
        return SPAN;
    };
    wakeport::config::span::parse(&text).expect("WAKEPORT_SOAK is a time, as in 10min")
}

#[expect(
    clippy::print_stderr,
    reason = "what was measured is for docs/internals/proof.md"
)]
fn say(what: fmt::Arguments<'_>) {
    eprintln!("soak: {what}");
}

#[test]
#[ignore = "takes a minute: tests/run runs it"]
fn after_many_rounds_of_mixed_load_no_resource_has_leaked() {
    let load = Load::new();
    let wakeport = load.run().start();
    let (began, span) = (now(), span());
    let mut first = None;
    let mut number = 0;
    while began.elapsed() < span || first.is_none() {
        load.round(number);
        number += 1;
        // Mostly the next round wakes it again; sometimes it comes while the service goes to sleep, or before.
        match number % 5 {
            0 => thread::sleep(Duration::from_millis(number % 40)),
            1 => load.burst(),
            _ => wakeport.is("asleep"),
        }
        if number == WARM {
            wakeport.is("asleep");
            first = Some(Held::by(&wakeport));
        }
    }
    let awake = load.is_quiet(&wakeport);
    wakeport.is("asleep");
    let asleep = wakeport.is_quiet(QUIET);
    let (first, last) = (first.expect("it was warm"), Held::by(&wakeport));
    let (starts, took) = (load.stage.count("start") as u64, began.elapsed());
    say(format_args!(
        "{} in {took:.0?}, {starts} starts; at first {first:?}, in the end {last:?}; \
         in {QUIET:?} with 50 quiet clients {awake:?}, asleep {asleep:?}",
        load.tally
    ));
    assert!(starts > number / 4, "{starts} starts in {number} rounds");
    assert_eq!((last.sockets, last.others), (first.sockets, first.others));
    // Each thread keeps a few pipes for the next connections.
    assert!(last.threads <= first.threads && last.pipes <= 16);
    assert!(last.memory <= first.memory + SLACK);
}
