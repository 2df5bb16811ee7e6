//! A restart of wakeport cuts no connection and stops no service: all of them go on in the next process.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use crate::echo_service::{Echo, Exchange, Over, Random};
use crate::rig::{Client, Rig};
use crate::services::{NEVER, PORT, SOON, TARGET, alice, nginx, nginx_does};

/// How many clients there are at once, and how often they are handed over; descriptors are scarce where tests run.
const CLIENTS: usize = 1000;
const RESTARTS: usize = 50;

/// The longest wait for a byte: a client that hangs fails its scenario.
const ANSWER: Duration = Duration::from_secs(120);

/// Relays from [`PORT`] to a listener of the test's own, in the rig's network.
fn relay(rig: &Rig, settings: &[&str]) -> TcpListener {
    let target = TcpListener::bind(TARGET).expect("a free port");
    let settings = [&["WAKEPORT_UNIT="], settings].concat();
    rig.instance("relay", PORT, TARGET, &settings);
    target
}

const RELAY: &str = "wakeport@relay.service";

fn connect() -> TcpStream {
    let stream = TcpStream::connect(PORT).expect("the port is open");
    limited(stream)
}

fn limited(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(ANSWER)).expect("an option");
    stream.set_write_timeout(Some(ANSWER)).expect("an option");
    stream
}

fn accept(target: &TcpListener) -> TcpStream {
    limited(target.accept().expect("a connection").0)
}

/// A connection, both ends of which are the test's: the client's, and the one at the target.
fn pair(target: &TcpListener) -> (TcpStream, TcpStream) {
    let client = connect();
    (client, accept(target))
}

fn restart(rig: &Rig, unit: &str) {
    let before = rig.show("MainPID", unit);
    rig.systemctl(&format!("restart {unit}"));
    assert_ne!(rig.show("MainPID", unit), before, "it is another process");
}

/// Bytes without a pattern.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..length).map(|_| random.next() as u8).collect()
}

/// What the reader at the other end does until all is over; then it reads everything.
#[derive(Clone, Copy)]
enum Reader {
    Stalls,
    /// It reads less than there is, so that bytes are always on their way.
    IsSlow,
}

/// Bytes that flow one way, as many as there is room for; each is compared when it arrives.
struct Flow {
    /// The sender's port and its peer's, and those of the stream that is read.
    ends: [Ports; 2],
    sent: Arc<AtomicU64>,
    read: Arc<AtomicU64>,
}

impl Flow {
    /// No buffer has this length, which is a prime.
    const PERIOD: usize = 262_139;

    /// Sends until it is `over`, and then says the end.
    fn new<'scope>(
        scope: &'scope Scope<'scope, '_>,
        over: &'scope AtomicBool,
        reader: Reader,
        [source, sink]: [&TcpStream; 2],
    ) -> Self {
        let ends = [source, sink].map(|stream| {
            let ends = [stream.local_addr(), stream.peer_addr()];
            ends.map(|end| end.expect("a TCP stream").port())
        });
        let [mut source, mut sink] =
            [source, sink].map(|stream| stream.try_clone().expect("a descriptor"));
        // One that waits for room returns then, and says how many bytes it has sent.
        let soon = Some(Duration::from_millis(50));
        source.set_write_timeout(soon).expect("an option");
        // Where both ends have stalled for long, the kernel may be slow to find that there is room again.
        let patient = Some(ANSWER * 10);
        sink.set_read_timeout(patient).expect("an option");
        let bytes: Arc<[u8]> = noise(u64::from(ends[1][0] ^ ends[0][0]), Self::PERIOD).into();
        let [sent, read] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
        scope.spawn({
            let (bytes, sent) = (bytes.clone(), sent.clone());
            move || {
                let mut at = 0;
                while !over.load(SeqCst) {
                    let written = match source.write(&bytes[at..]) {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                        written => written.expect("it is read in the end"),
                    };
                    at = (at + written) % Self::PERIOD;
                    sent.fetch_add(written as u64, SeqCst);
                }
                source.shutdown(Shutdown::Write).expect("it is open");
            }
        });
        scope.spawn({
            let (sent, read) = (sent.clone(), read.clone());
            move || {
                let (mut at, mut buffer) = (0, vec![0; 65_536]);
                loop {
                    if !over.load(SeqCst) {
                        thread::sleep(Duration::from_millis(50));
                        if let Reader::Stalls = reader {
                            continue;
                        }
                    }
                    let room = buffer.len().min(Self::PERIOD - at);
                    let length = sink.read(&mut buffer[..room]).expect("an orderly end");
                    if length == 0 {
                        break;
                    }
                    assert!(
                        buffer[..length] == bytes[at..at + length],
                        "other bytes after {read:?}"
                    );
                    at = (at + length) % Self::PERIOD;
                    read.fetch_add(length as u64, SeqCst);
                }
                assert_eq!(read.load(SeqCst), sent.load(SeqCst), "the end is early");
            }
        });
        Self { ends, sent, read }
    }

    /// One both ways, between the ends of a connection.
    fn both_ways<'scope>(
        scope: &'scope Scope<'scope, '_>,
        over: &'scope AtomicBool,
        reader: Reader,
        (client, service): &(TcpStream, TcpStream),
    ) -> [Self; 2] {
        [[client, service], [service, client]].map(|ends| Self::new(scope, over, reader, ends))
    }

    /// How many bytes are neither read nor in a socket: wakeport has them, in a pipe or in its memory.
    fn held(&self, sockets: &BTreeMap<Ports, [u64; 2]>) -> u64 {
        let queued = |ports, way: usize| sockets.get(&ports).map_or(0, |queues| queues[way]);
        let turned = |[own, peer]: Ports| [peer, own];
        let [source, sink] = self.ends;
        let sent = queued(source, 0) + queued(turned(sink), 0);
        let received = queued(turned(source), 1) + queued(sink, 1);
        let on_their_way = self.sent.load(SeqCst) - self.read.load(SeqCst);
        on_their_way.saturating_sub(sent + received)
    }

    /// Waits until stalled readers have brought everything before them to a standstill: wakeport has bytes of each, and
    /// nothing moves any more.
    fn stand_still(rig: &Rig, flows: &[Self]) {
        let look = || {
            let sockets = sockets();
            let flows = flows.iter();
            let each = flows.map(|flow| (flow.sent.load(SeqCst), flow.held(&sockets)));
            each.collect::<Vec<_>>()
        };
        let (mut seen, mut alike) = (look(), 0);
        rig.wait_for("a standstill", || {
            let before = std::mem::replace(&mut seen, look());
            alike = if before == seen { alike + 1 } else { 0 };
            alike >= 5 && seen.iter().all(|&(_, held)| held > 0)
        });
    }
}

/// A socket's port, and that of its peer.
type Ports = [u16; 2];

/// The TCP sockets of the rig's network: how many bytes of each are not yet acknowledged, and not yet read.
fn sockets() -> BTreeMap<Ports, [u64; 2]> {
    // That of this thread.
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").expect("a table");
    let row = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let port = |word: &str| u16::from_str_radix(word.rsplit_once(':')?.1, 16).ok();
        let (unsent, unread) = words.get(4)?.split_once(':')?;
        let queues = [unsent, unread].map(|bytes| u64::from_str_radix(bytes, 16));
        let [Ok(unsent), Ok(unread)] = queues else {
            return None;
        };
        Some(([port(words[1])?, port(words[2])?], [unsent, unread]))
    };
    table.lines().filter_map(row).collect()
}

/// A connection that one end has half-closed; the other end goes on.
struct HalfClosed {
    ended: TcpStream,
    open: TcpStream,
}

impl HalfClosed {
    fn new(mut ended: TcpStream, mut open: TcpStream) -> Self {
        ended.write_all(b"question").expect("it is open");
        ended.shutdown(Shutdown::Write).expect("it is open");
        let mut question = String::new();
        open.read_to_string(&mut question).expect("an orderly end");
        assert_eq!(question, "question");
        Self { ended, open }
    }

    /// The other way has been open all the time.
    fn ends(mut self) {
        self.open.write_all(b"answer").expect("it is open");
        drop(self.open);
        let mut answer = String::new();
        self.ended
            .read_to_string(&mut answer)
            .expect("an orderly end");
        assert_eq!(answer, "answer");
    }
}

/// Connections in each state in which a restart may meet them, beside those that are at rest or busy.
struct Special {
    half_closed: Vec<HalfClosed>,
    stalled: Vec<Flow>,
}

impl Special {
    /// How many connections these are.
    const COUNT: usize = 12;

    /// All that stall stand still when this returns.
    fn new<'scope>(
        rig: &Rig,
        target: &TcpListener,
        scope: &'scope Scope<'scope, '_>,
        over: &'scope AtomicBool,
    ) -> Self {
        let (mut half_closed, mut stalled) = (Vec::new(), Vec::new());
        for _ in 0..Self::COUNT / 6 {
            let two = || [(); 2].map(|()| pair(target));
            let [(client, service), (other_client, other_service)] = two();
            half_closed.push(HalfClosed::new(client, service));
            half_closed.push(HalfClosed::new(other_service, other_client));

            let [stalls, is_slow] = two();
            stalled.extend(Flow::both_ways(scope, over, Reader::Stalls, &stalls));
            Flow::both_ways(scope, over, Reader::IsSlow, &is_slow);

            // One way has ended, and the other one is full.
            let [(client, service), (other_client, other_service)] = two();
            for (ended, open) in [(client, service), (other_service, other_client)] {
                let HalfClosed { ended, open } = HalfClosed::new(ended, open);
                let flow = Flow::new(scope, over, Reader::Stalls, [&open, &ended]);
                stalled.push(flow);
            }
        }
        Flow::stand_still(rig, &stalled);
        Self {
            half_closed,
            stalled,
        }
    }

    /// All are as they were; then the half-closed ones end. The flows do so when all is over.
    fn end(self, rig: &Rig) {
        Flow::stand_still(rig, &self.stalled);
        self.half_closed.into_iter().for_each(HalfClosed::ends);
    }
}

/// Echoes what comes, to the end.
fn echo(mut stream: &TcpStream) {
    std::io::copy(&mut { stream }, &mut stream).expect("an orderly end");
}

/// A thread that needs little.
fn small<'scope>(scope: &'scope Scope<'scope, '_>, work: impl FnOnce() + Send + 'scope) {
    let named = thread::Builder::new().stack_size(256 * 1024);
    named.spawn_scoped(scope, work).expect("a thread");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
#[expect(
    clippy::disallowed_methods,
    reason = "how long a client waits is told, and not judged"
)]
#[expect(
    clippy::print_stderr,
    reason = "the test harness shows it with --nocapture"
)]
fn fifty_restarts_under_a_thousand_clients_change_no_byte() {
    let rig = Rig::boot();
    // The clients' other ends are in this process.
    rig.unit("relay.service", "[Service]\nExecStart=sleep infinity\n");
    let target = TcpListener::bind(TARGET).expect("a free port");
    rig.instance("relay", PORT, TARGET, &[NEVER]);
    let (over, longest) = (AtomicBool::new(false), AtomicU64::new(0));
    let connected = Barrier::new(CLIENTS + 1);
    thread::scope(|scope| {
        let over_at_last = Over(&over);
        let special = Special::new(&rig, &target, scope, &over);
        scope.spawn(|| {
            for _ in 0..CLIENTS {
                // Until all are connected, and while all others are served, it may take long.
                let stream = accept(&target);
                stream.set_read_timeout(None).expect("an option");
                small(scope, move || echo(&stream));
            }
        });
        for number in 0..CLIENTS {
            let (over, connected, longest) = (&over, &connected, &longest);
            small(scope, move || {
                let stream = TcpStream::connect(PORT).expect("the port is open");
                let mut exchange = Exchange {
                    seed: number as u64,
                    // Some carry as much as they can.
                    bytes: if number % 100 == 0 { 4_000_000 } else { 1_000 },
                    times: 1,
                    pause: Duration::from_millis(200),
                    ends_first: false,
                };
                let mut random = Random::new(number as u64);
                let mut talk = |last| {
                    exchange.ends_first = last;
                    exchange.seed = random.next();
                    let stream = stream.try_clone().expect("a descriptor");
                    let began = Instant::now();
                    assert_eq!(exchange.talk(stream), Ok(()), "client {number}");
                    let took = began.elapsed().saturating_sub(exchange.pause);
                    if exchange.bytes < 10_000 {
                        longest.fetch_max(took.as_micros() as u64, SeqCst);
                    }
                };
                talk(false);
                connected.wait();
                while !over.load(SeqCst) {
                    talk(false);
                }
                talk(true);
            });
        }
        connected.wait();
        longest.store(0, SeqCst);
        let began = Instant::now();
        for _ in 0..RESTARTS {
            restart(&rig, RELAY);
        }
        eprintln!(
            "{RESTARTS} restarts in {:?}, the longest pause was {:?}",
            began.elapsed(),
            Duration::from_micros(longest.load(SeqCst))
        );
        special.end(&rig);
        drop(over_at_last);
    });
    let all = CLIENTS + Special::COUNT;
    let handed = rig.said(RELAY, &format!("handed {all} connections over"));
    assert_eq!(handed, RESTARTS);
    assert_eq!(
        (rig.starts("relay.service"), rig.stops("relay.service")),
        (1, 0)
    );
    rig.wait_for("the store is empty", || {
        rig.show("NFileDescriptorStore", RELAY) == "0"
    });
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn half_closed_and_stalled_connections_go_on_after_restarts() {
    let rig = Rig::boot();
    let target = relay(&rig, &[]);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let over_at_last = Over(&over);
        let special = Special::new(&rig, &target, scope, &over);
        for _ in 0..3 {
            restart(&rig, RELAY);
            rig.systemctl("daemon-reexec");
        }
        special.end(&rig);
        drop(over_at_last);
    });
    let handed = format!("handed {} connections over", Special::COUNT);
    assert_eq!(rig.said(RELAY, &handed), 3);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_reset_after_a_restart_reaches_the_other_end() {
    let rig = Rig::boot();
    let target = relay(&rig, &[]);
    let (mut client, service) = pair(&target);
    restart(&rig, RELAY);
    // A stream that is closed with bytes unread is reset.
    client.write_all(b"unread").expect("it is open");
    rig.wait_for("the bytes are there", || service.peek(&mut [0]).is_ok());
    drop(service);
    let error = client.read(&mut [0]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // Without connections nothing is kept.
    rig.wait_for("it exits", || rig.is("inactive", RELAY));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn clients_that_wait_during_a_restart_are_served_by_the_next_process() {
    let rig = Rig::boot();
    nginx(&rig);
    nginx_does(
        &rig,
        "ExecStartPre=/bin/sh -c 'until [ -e /run/go ]; do sleep 0.1; done'",
    );
    rig.instance("nginx", PORT, TARGET, &[NEVER]);
    let clients: Vec<_> = (0..20).map(|_| Client::asks(PORT)).collect();
    rig.wait_until("activating", "nginx.service");
    for _ in 0..3 {
        restart(&rig, "wakeport@nginx.service");
    }
    rig.run("touch /run/go");
    for client in clients {
        assert_eq!(client.page(), "hello");
    }
    assert_eq!(rig.starts("nginx.service"), 1);
    assert_eq!(
        rig.said("wakeport@nginx.service", "handed 20 connections over"),
        3
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_with_a_short_cooldown_is_not_stopped_by_restarts() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance(
        "nginx",
        PORT,
        TARGET,
        &["WAKEPORT_COOLDOWN=0", "WAKEPORT_STOP_ON_EXIT=yes"],
    );
    let mut client = Client::connect(PORT);
    for _ in 0..10 {
        assert_eq!(client.ask_again(), "hello");
        restart(&rig, "wakeport@nginx.service");
    }
    assert_eq!(client.ask_again(), "hello");
    assert_eq!(rig.stops("nginx.service"), 0);
    drop(client);
    rig.wait_until_asleep("nginx");
    assert_eq!(
        (rig.starts("nginx.service"), rig.stops("nginx.service")),
        (1, 1)
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn unix_sockets_are_handed_over() {
    let rig = Rig::boot();
    let target = TcpListener::bind(TARGET).expect("a free port");
    rig.instance("relay", "/run/relay.sock", TARGET, &["WAKEPORT_UNIT="]);
    let mut client = UnixStream::connect(rig.path("/run/relay.sock")).expect("the socket is there");
    let mut service = accept(&target);
    for _ in 0..3 {
        restart(&rig, RELAY);
        client.write_all(b"hello").expect("it is open");
        let mut bytes = [0; 5];
        service.read_exact(&mut bytes).expect("it is open");
        service.write_all(&bytes).expect("it is open");
        client.read_exact(&mut bytes).expect("it is open");
        assert_eq!(&bytes, b"hello");
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn connections_to_a_child_process_drain_and_its_waiting_clients_are_handed_over() {
    let rig = Rig::boot();
    let settings = [
        NEVER,
        "WAKEPORT_DRAIN_TIMEOUT=1s",
        "WAKEPORT_START_TIMEOUT=1h",
        "WAKEPORT_READY_HOOK=test -e /run/ready",
    ];
    let echo = Echo::child(&rig, "child", &settings);
    rig.run("touch /run/ready");
    let client = TcpStream::connect(&echo.address).expect("the port is open");
    let mut exchange = Exchange::short();
    exchange.ends_first = false;
    assert_eq!(
        exchange.talk(client.try_clone().expect("a descriptor")),
        Ok(())
    );
    rig.run("rm /run/ready");
    restart(&rig, &echo.wakeport());
    let error = limited(client).read(&mut [0]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);

    // This one has sent all that it says before the child is ready.
    let mut client = limited(TcpStream::connect(&echo.address).expect("the port is open"));
    let said = noise(3, 10_000);
    client.write_all(&said).expect("it is open");
    rig.wait_for("the child starts", || {
        rig.show("StatusText", &echo.wakeport()).contains("waking")
    });
    for _ in 0..2 {
        restart(&rig, &echo.wakeport());
    }
    let handed = rig.said(&echo.wakeport(), "handed 1 connection over");
    assert_eq!(handed, 2);
    rig.run("touch /run/ready");
    let mut heard = vec![0; said.len()];
    client.read_exact(&mut heard).expect("it is echoed");
    assert!(heard == said);
    echo.serves(&Exchange::short());
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn connections_of_a_service_with_hooks_are_handed_over() {
    let rig = Rig::boot();
    rig.script(
        "/usr/local/bin/on",
        "#!/bin/sh\nsleep 5; touch /var/lib/wakeport/on\n",
    );
    rig.script("/usr/local/bin/off", "#!/bin/sh\nrm /var/lib/wakeport/on\n");
    let settings = [
        "WAKEPORT_UNIT=",
        "WAKEPORT_START_HOOK=on",
        "WAKEPORT_STOP_HOOK=off",
        SOON,
    ];
    rig.instance("relay", PORT, TARGET, &settings);
    let mut client = connect();
    rig.wait_for("the hook runs", || rig.processes("on") > 0);
    // The hook is not cut off, and the client waits for what it starts.
    restart(&rig, RELAY);
    assert!(rig.path("/var/lib/wakeport/on").exists());
    let target = TcpListener::bind(TARGET).expect("a free port");
    let mut service = accept(&target);
    restart(&rig, RELAY);
    client.write_all(b"hello").expect("it is open");
    let mut bytes = [0; 5];
    service.read_exact(&mut bytes).expect("it is open");
    assert_eq!(&bytes, b"hello");
    assert!(rig.path("/var/lib/wakeport/on").exists());
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_small_store_has_room_for_many_connections() {
    let rig = Rig::boot();
    let target = relay(&rig, &[]);
    rig.drop_in(RELAY, "small", "[Service]\nFileDescriptorStoreMax=2\n");
    let mut pairs: Vec<_> = (0..10).map(|_| pair(&target)).collect();
    for _ in 0..2 {
        restart(&rig, RELAY);
        serve(&mut pairs);
    }
    assert_eq!(rig.said(RELAY, "handed 10 connections over"), 2);
    assert_eq!(rig.said(RELAY, "cannot be handed over"), 0);
}

/// What is written down of a connection has the name of its listener, which systemd limits to 255 bytes and wakeport does
/// not: with a long one, few connections fill a queue.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_full_queue_is_followed_by_another_one_or_without_room_all_connections_drain() {
    const NAME: usize = 4000;
    let rig = Rig::boot();
    let unit = "wakeport@nginx.service";
    nginx(&rig);
    nginx_does(
        &rig,
        "ExecStartPre=/bin/sh -c 'until [ -e /run/go ]; do sleep 0.1; done'",
    );
    rig.instance(
        "nginx",
        PORT,
        TARGET,
        &[NEVER, "WAKEPORT_DRAIN_TIMEOUT=2min"],
    );
    rig.script(
        "/usr/local/bin/with-a-long-name",
        &format!(
            "#!/bin/sh\nname=$(printf %0{NAME}d 0)\nLISTEN_FDNAMES=$(echo \"$LISTEN_FDNAMES\" | sed \"s/nginx/$name/\")\nexec wakeport run\n"
        ),
    );
    let store = |most: usize| {
        let service = format!(
            "[Service]\nExecStart=\nExecStart=with-a-long-name\nFileDescriptorStoreMax={most}\n"
        );
        rig.drop_in(unit, "store", &service);
    };
    store(2);
    // The kernel makes a queue twice as large as it is asked for.
    let most = std::fs::read_to_string("/proc/sys/net/core/wmem_max").expect("a setting");
    let most: usize = most.trim().parse().expect("a number of bytes");
    let count = 2 * most.min(4 << 20) / NAME;
    let clients: Vec<_> = (0..count).map(|_| Client::asks(PORT)).collect();
    let all_wait = || {
        rig.wait_for("all clients wait", || {
            rig.show("StatusText", unit)
                .contains(&format!(", {count} clients waiting"))
        });
    };
    all_wait();
    restart(&rig, unit);
    let handed = format!("handed {count} connections over");
    let taken = format!("took {count} connections over from the process before");
    all_wait();
    assert_eq!((rig.said(unit, &handed), rig.said(unit, &taken)), (1, 1));

    store(1);
    let process = rig.show("MainPID", unit);
    rig.systemctl(&format!("restart --no-block {unit}"));
    let why = format!(
        "{count} connections cannot be handed over: FileDescriptorStoreMax=1 of the unit is too small; set it to 64"
    );
    rig.wait_for(&why, || rig.said(unit, &why) == 1);
    assert_eq!(rig.show("NFileDescriptorStore", unit), "0");
    assert_eq!(rig.show("MainPID", unit), process);
    // The process that has had them all the time serves them.
    rig.run("touch /run/go");
    for client in clients {
        assert_eq!(client.page(), "hello");
    }
    // Without a client it exits soon: only the journal tells of it for sure.
    rig.wait_for("the next process", || rig.starts(unit) == 3);
    assert_eq!((rig.said(unit, &handed), rig.said(unit, &taken)), (1, 1));
    assert_eq!(rig.starts("nginx.service"), 1);
}

/// The kernel lets the processes of a user without privileges have as many descriptors on their way as each may have open
/// files (ETOOMANYREFS). An instance alone stays below that; others of the same user count as well.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn where_too_many_descriptors_are_on_their_way_connections_drain() {
    let rig = Rig::boot();
    // A number that no user of another rig has: the kernel would count their descriptors as well.
    let number = 100_000 + std::process::id();
    rig.run(&format!("useradd --system --uid {number} other"));
    let target = relay(&rig, &["WAKEPORT_DRAIN_TIMEOUT=2min"]);
    rig.drop_in(RELAY, "few", "[Service]\nUser=other\nLimitNOFILE=512\n");
    rig.write("/run/rig/sends.py", SENDS);
    rig.unit(
        "sends@.service",
        "[Service]\nUser=other\nExecStart=python3 -IS /run/rig/sends.py %i\n",
    );
    let why = "cannot be handed over: the limit on open files is too small; raise LimitNOFILE=";
    // What fails is the first notification, the second message, and the notification that has the queue stored.
    let cases = [(600, 10), (400, 110), (400, 80)];
    for (told, (sent, connections)) in (1..).zip(cases) {
        let sends = format!("sends@{sent}.service");
        rig.systemctl(&format!("restart {sends}"));
        rig.wait_for("they are on their way", || {
            rig.said(&sends, "sent") == rig.starts(&sends)
        });
        let mut pairs: Vec<_> = (0..connections).map(|_| pair(&target)).collect();
        let process = rig.show("MainPID", RELAY);
        rig.systemctl(&format!("restart --no-block {RELAY}"));
        rig.wait_for(why, || rig.said(RELAY, why) == told);
        let these = format!("{connections} connections {why}");
        assert_eq!(rig.said(RELAY, &these), 1);
        assert_eq!(rig.show("MainPID", RELAY), process);
        rig.wait_for("the store is empty", || {
            rig.show("NFileDescriptorStore", RELAY) == "0"
        });
        serve(&mut pairs);
        drop(pairs);
        rig.wait_for("the process ends", || rig.stops(RELAY) == told);
        rig.systemctl(&format!("stop {sends}"));
    }
    let mut pairs: Vec<_> = (0..110).map(|_| pair(&target)).collect();
    restart(&rig, RELAY);
    serve(&mut pairs);
    assert_eq!(rig.said(RELAY, "handed 110 connections over"), 1);
}

/// Sends so many descriptors, in hundreds, and receives none.
const SENDS: &str = "\
import socket, sys, threading

ends = socket.socketpair()
for _ in range(int(sys.argv[1]) // 100):
    socket.send_fds(ends[0], [b'.'], [0] * 100)
print('sent', flush=True)
threading.Event().wait()
";

/// Every connection carries bytes from end to end.
fn serve(pairs: &mut [(TcpStream, TcpStream)]) {
    for (client, service) in pairs {
        let mut bytes = [0; 5];
        client.write_all(b"hello").expect("it is open");
        service.read_exact(&mut bytes).expect("it is open");
        assert_eq!(&bytes, b"hello");
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_user_manager_keeps_the_connections_of_its_instances() {
    let rig = Rig::boot();
    let as_alice = alice(&rig);
    as_alice(&format!(
        "wakeport init notes --user --listen {PORT} --to {TARGET} --cooldown 300ms --write --enable"
    ));
    let show = |property: &str, unit: &str| {
        as_alice(&format!(
            "systemctl --user show --value -p {property} {unit}"
        ))
        .trim()
        .to_owned()
    };
    let unit = "wakeport@notes.service";
    let mut client = Client::connect(PORT);
    rig.wait_for("the client is connected", || {
        show("StatusText", unit).contains("awake: 1 client")
    });
    let service = show("MainPID", "notes.service");
    for _ in 0..3 {
        let process = show("MainPID", unit);
        as_alice(&format!("systemctl --user restart {unit}"));
        assert_ne!(show("MainPID", unit), process);
    }
    assert_eq!(client.ask_again(), "hers");
    assert_eq!(show("MainPID", "notes.service"), service);
    let journal = rig.run(&format!(
        "journalctl --sync; journalctl -q -o cat --no-pager _SYSTEMD_USER_UNIT={unit}"
    ));
    let handed = journal.matches("handed 1 connection over").count();
    assert_eq!(handed, 3, "{journal}");
    drop(client);
    rig.wait_for("notes.service and wakeport sleep", || {
        rig.processes("wakeport") == 0 && rig.processes("python3") == 0
    });
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn without_a_store_or_a_bus_a_restart_drains() {
    let rig = Rig::boot();
    let target = relay(&rig, &["WAKEPORT_DRAIN_TIMEOUT=1s"]);
    // Without a bus it is not known whether it is a restart.
    let without = [
        ("FileDescriptorStoreMax=0", 1),
        ("Environment=DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/none", 0),
    ];
    let (mut drained, mut told) = (0, 0);
    for (setting, tells) in without {
        rig.drop_in(RELAY, "without", &format!("[Service]\n{setting}\n"));
        rig.systemctl(&format!("stop {RELAY}"));
        let (mut client, _service) = pair(&target);
        restart(&rig, RELAY);
        let error = client.read(&mut [0]).expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        drained += 1;
        told += tells;
        assert_eq!(rig.said(RELAY, "SIGTERM: draining 1 connection"), drained);
        let why = "1 connection cannot be handed over: FileDescriptorStoreMax=0 of the unit is too small; set it to 64";
        assert_eq!(rig.said(RELAY, why), told);
    }
}
