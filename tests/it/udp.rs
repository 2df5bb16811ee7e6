//! Datagrams: what wakes, what is held, where replies come from, what is dropped.

use std::fs;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::process::Signal;
use serde_json::{Value, json};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::support::{
    HookService, Network, Place, Run, Server, directory, now, soon, throughout, until,
};

const CONFIG: i32 = 78;

/// A place for a server of datagrams: its port is ours, and nothing listens there yet.
struct UdpPlace {
    address: SocketAddr,
    _reserved: Socket,
}

impl UdpPlace {
    fn new(ip: &str) -> Self {
        let ip: IpAddr = ip.parse().expect("an address");
        let reserved = shared((ip, 0).into());
        let address = reserved.local_addr().expect("it is bound");
        let address = address.as_socket().expect("an address");
        // It gets datagrams from nowhere else: those of others are refused.
        reserved
            .connect(&SocketAddr::new(ip, 1).into())
            .expect("connected");
        Self {
            address,
            _reserved: reserved,
        }
    }

    fn to(&self) -> String {
        format!("udp:{}", self.address)
    }

    fn bind(&self) -> UdpSocket {
        shared(self.address).into()
    }

    fn echo(&self) -> Echo {
        Echo::on(self.bind(), |_| true)
    }
}

fn shared(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("an option");
    socket.bind(&address.into()).expect("a port of ours");
    socket
}

/// A server that sends things back, until it is dropped.
struct Echo {
    end: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Echo {
    fn on(socket: UdpSocket, answers: impl Fn(&[u8]) -> bool + Send + 'static) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("an option");
        let thread = thread::spawn({
            let end = end.clone();
            move || {
                let mut bytes = vec![0; 65_536];
                while !end.load(Ordering::SeqCst) {
                    if let Ok((count, from)) = socket.recv_from(&mut bytes)
                        && answers(&bytes[..count])
                    {
                        let _ = socket.send_to(&bytes[..count], from);
                    }
                }
            }
        });
        Self {
            end,
            thread: Some(thread),
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        self.thread.take().map(thread::JoinHandle::join);
    }
}

/// A service of datagrams that hooks start and stop.
fn service(place: &Arc<UdpPlace>) -> HookService {
    let place = place.clone();
    let running = std::sync::Mutex::new(None);
    HookService::direct(
        |_| (),
        move |_, call| {
            let mut running = running.lock().expect("no panic");
            match call.event.as_str() {
                "start" => *running = Some(place.echo()),
                "stop" => *running = None,
                _ => (),
            }
            0
        },
    )
}

/// One whose start takes until it is told that its clients have sent.
fn starts_when_told(place: &Arc<UdpPlace>) -> (HookService, Arc<AtomicBool>) {
    let sent = Arc::new(AtomicBool::new(false));
    let echo = std::sync::Mutex::new(None);
    let stage = HookService::direct(|_| (), {
        let (place, sent) = (place.clone(), sent.clone());
        move |_, call| {
            if call.event == "start" {
                until("the clients have sent", || sent.load(Ordering::SeqCst));
                *echo.lock().expect("no panic") = Some(place.echo());
            }
            0
        }
    });
    (stage, sent)
}

fn hooks(service: &HookService, place: &UdpPlace) -> Run {
    Run::new()
        .to(place.to())
        .option("--start-hook", service.hook())
        .option("--stop-hook", service.hook())
}

/// A socket that the program inherits.
fn front(ip: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((ip, 0)).expect("a free port");
    let address = socket.local_addr().expect("it is bound");
    (socket, address)
}

fn client(ip: &str, to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).expect("a free port");
    socket.connect(to).expect("connected");
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("an option");
    socket
}

fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut bytes = vec![0; 65_536];
    let count = loop {
        match client.recv(&mut bytes) {
            // With a time limit it is not begun again after a signal (signal(7)).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            received => break received.expect("a datagram in time"),
        }
    };
    bytes.truncate(count);
    bytes
}

#[track_caller]
fn echoes(client: &UdpSocket, text: &[u8]) {
    client.send(text).expect("it is sent");
    assert_eq!(receive(client), text);
}

/// Whether nothing comes for a moment.
fn is_silent(client: &UdpSocket) -> bool {
    client.set_nonblocking(true).expect("an option");
    let mut silent = true;
    throughout(Duration::from_millis(300), "nothing comes", || {
        silent &= client
            .recv(&mut [0; 9])
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        silent
    });
    client.set_nonblocking(false).expect("an option");
    silent
}

#[test]
fn the_first_datagram_wakes_the_service_and_it_sleeps_after_the_last() {
    let place = Arc::new(UdpPlace::new("127.0.0.1"));
    let service = service(&place);
    let (socket, address) = front("127.0.0.1");
    let wakeport = hooks(&service, &place)
        .inherit("game", &socket)
        .flag("--stay")
        .option("--udp-idle-timeout", "1s")
        .cooldown("100ms")
        .start();
    assert!(service.calls().is_empty(), "no client yet");
    for round in 1..=2 {
        let client = client("127.0.0.1", address);
        echoes(&client, b"hello");
        echoes(&client, b"");
        assert_eq!(service.count("start"), round);
        wakeport.logs(&format!("for {}", client.local_addr().expect("bound")));
        service.reaches("stop", round);
        wakeport.is(&format!("asleep, {round} served since "));
    }
}

#[test]
fn replies_come_from_the_address_that_the_client_has_sent_to() {
    for (bound, addresses) in [
        ("0.0.0.0", &["127.0.0.1", "127.0.0.2"][..]),
        ("::", &["127.0.0.1", "127.0.0.2", "::1"]),
    ] {
        let place = UdpPlace::new("127.0.0.1");
        let _echo = place.echo();
        let (socket, address) = front(bound);
        let run = Run::new().to(place.to()).inherit("dns", &socket);
        let _wakeport = run.flag("--stay").start();
        let one = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let six = UdpSocket::bind("[::1]:0").expect("a free port");
        for ip in addresses {
            let to = SocketAddr::new(ip.parse().expect("an address"), address.port());
            let client = if to.is_ipv4() { &one } else { &six };
            let limit = Some(Duration::from_secs(30));
            client.set_read_timeout(limit).expect("an option");
            client.send_to(ip.as_bytes(), to).expect("it is sent");
            let mut bytes = [0; 99];
            let (count, from) = client.recv_from(&mut bytes).expect("a reply");
            assert_eq!((&bytes[..count], from), (ip.as_bytes(), to));
        }
    }
}

/// Receives one datagram, with its ECN bits.
fn receive_ecn(socket: &UdpSocket, state: &UdpSocketState) -> (RecvMeta, Vec<u8>) {
    let mut bytes = vec![0; 65_536];
    soon("a datagram", || {
        let mut metas = [RecvMeta::default()];
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        state.recv(socket.into(), &mut buffers, &mut metas).ok()?;
        Some((metas[0], bytes[..metas[0].len].to_vec()))
    })
}

#[test]
fn congestion_is_told_both_ways() {
    let place = UdpPlace::new("127.0.0.1");
    let server = place.bind();
    let (socket, address) = front("127.0.0.1");
    let run = Run::new().to(place.to()).inherit("quic", &socket);
    let _wakeport = run.flag("--stay").start();
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let states = [&client, &server].map(|it| UdpSocketState::new(it.into()).expect("a socket"));
    for ecn in [EcnCodepoint::Ect0, EcnCodepoint::Ect1, EcnCodepoint::Ce] {
        let mut transmit = Transmit {
            destination: address,
            ecn: Some(ecn),
            contents: b"marked",
            segment_size: None,
            src_ip: None,
        };
        let sent = states[0].try_send((&client).into(), &transmit);
        sent.expect("it is sent");
        let (there, bytes) = receive_ecn(&server, &states[1]);
        assert_eq!((there.ecn, &bytes[..]), (Some(ecn), &b"marked"[..]));
        transmit.destination = there.addr;
        let sent = states[1].try_send((&server).into(), &transmit);
        sent.expect("it is sent");
        assert_eq!(receive_ecn(&client, &states[0]).0.ecn, Some(ecn));
    }
}

#[test]
fn datagrams_that_are_sent_together_arrive_one_by_one_and_in_order() {
    let place = UdpPlace::new("127.0.0.1");
    let _echo = place.echo();
    let (socket, address) = front("127.0.0.1");
    let run = Run::new().to(place.to()).inherit("quic", &socket);
    let _wakeport = run.flag("--stay").start();
    let client = client("127.0.0.1", address);
    let state = UdpSocketState::new((&client).into()).expect("a socket");
    client.set_nonblocking(false).expect("an option");
    for round in 0..20_u8 {
        let mut all: Vec<u8> = (0..10).flat_map(|n| vec![round * 10 + n; 1200]).collect();
        all.truncate(9 * 1200 + 7);
        let transmit = Transmit {
            destination: address,
            ecn: None,
            contents: &all,
            segment_size: Some(1200),
            src_ip: None,
        };
        let sent = state.try_send((&client).into(), &transmit);
        sent.expect("it is sent");
        let mut arrived = Vec::new();
        while arrived.len() < all.len() {
            arrived.extend(receive(&client));
        }
        assert_eq!(arrived, all);
    }
}

#[test]
fn of_what_is_held_the_newest_arrives_and_in_order() {
    let place = Arc::new(UdpPlace::new("127.0.0.1"));
    let (stage, sent) = starts_when_told(&place);
    let (socket, address) = front("127.0.0.1");
    let dir = directory();
    let wakeport = hooks(&stage, &place)
        .inherit("game", &socket)
        .flag("--stay")
        .option("--state-dir", dir.path().display())
        .start();
    let client = client("127.0.0.1", address);
    for number in 0..20_u8 {
        client.send(&[number]).expect("it is sent");
    }
    stage.reaches("start", 1);
    // What was sent is read: the buffer is empty.
    until("all are read", || is_empty(&socket));
    sent.store(true, Ordering::SeqCst);
    let arrived: Vec<u8> = (0..16).map(|_| receive(&client)[0]).collect();
    assert_eq!(arrived, (4..20).collect::<Vec<u8>>());
    wakeport.logs("answers after");
}

#[test]
fn all_flows_together_hold_four_mebibytes_and_the_oldest_makes_room() {
    let place = Arc::new(UdpPlace::new("127.0.0.1"));
    let (stage, sent) = starts_when_told(&place);
    let (socket, address) = front("127.0.0.1");
    let dir = directory();
    let run = hooks(&stage, &place)
        .inherit("game", &socket)
        .flag("--stay");
    let _wakeport = run
        .option("--state-dir", dir.path().display())
        .option("--name", "game")
        .start();
    let clients: Vec<_> = (0..120).map(|_| client("127.0.0.1", address)).collect();
    for client in &clients {
        for _ in 0..2 {
            client.send(&[7; 30_000]).expect("it is sent");
        }
        // The buffer holds no more than a few of these.
        until("they are read", || is_empty(&socket));
    }
    stage.reaches("start", 1);
    sent.store(true, Ordering::SeqCst);
    // All that is held is sent at once, of which the service's own buffer may not take all.
    until("one that is held is answered", || {
        clients[50..].iter().any(|client| !is_empty(client))
    });
    // Each takes 128 bytes more, so that 139 of the 240 fit.
    until("the oldest are dropped", || {
        let record = record(dir.path()).unwrap_or_default();
        record["datagrams_dropped"]["held"] == 101
    });
    assert!(is_silent(&clients[0]), "the oldest is dropped");
    assert!(clients[..50].iter().all(is_empty));
}

/// The only record in this state directory, as far as there is one.
fn record(dir: &Path) -> Option<Value> {
    let file = dir.join("instances").read_dir().ok()?.flatten().next()?;
    let text = fs::read_to_string(file.path()).ok()?;
    serde_json::from_str(&text).ok()
}

/// Whether nothing waits in the buffer.
fn is_empty(socket: &UdpSocket) -> bool {
    socket.set_nonblocking(true).expect("an option");
    socket.peek(&mut [0; 1]).is_err()
}

#[test]
fn a_target_that_opens_its_port_late_gets_what_was_held() {
    let place = Arc::new(UdpPlace::new("127.0.0.1"));
    // The service is started at once, and listens later.
    let stage = HookService::direct(|_| (), |_, _| 0);
    let (socket, address) = front("127.0.0.1");
    let wakeport = hooks(&stage, &place)
        .inherit("game", &socket)
        .flag("--stay")
        .start();
    let client = client("127.0.0.1", address);
    client.send(b"one").expect("it is sent");
    wakeport.logs("answers after");
    client.send(b"two").expect("it is sent");
    let _echo = place.echo();
    assert_eq!(receive(&client), b"one");
    assert_eq!(receive(&client), b"two");
}

#[test]
fn a_service_that_dies_is_started_again_by_the_same_client() {
    let place = Arc::new(UdpPlace::new("127.0.0.1"));
    let running = Arc::new(std::sync::Mutex::new(None));
    let stage = HookService::direct(|_| (), {
        let (place, running) = (place.clone(), running.clone());
        move |_, call| {
            if call.event == "start" {
                *running.lock().expect("no panic") = Some(place.echo());
            }
            0
        }
    });
    let (socket, address) = front("127.0.0.1");
    let run = hooks(&stage, &place).inherit("game", &socket);
    let _wakeport = run.flag("--stay").start();
    let client = client("127.0.0.1", address);
    echoes(&client, b"hello");
    running.lock().expect("no panic").take();
    client
        .set_read_timeout(Some(Duration::from_millis(50)))
        .expect("an option");
    until("it answers again", || {
        client.send(b"again").is_ok() && client.recv(&mut [0; 9]).is_ok()
    });
    assert!(stage.count("start") >= 2);
}

/// A ping of a server list, and a request to open a connection.
const MAGIC: [u8; 16] = [
    0x00, 0xff, 0xff, 0x00, 0xfe, 0xfe, 0xfe, 0xfe, 0xfd, 0xfd, 0xfd, 0xfd, 0x12, 0x34, 0x56, 0x78,
];

fn ping() -> Vec<u8> {
    [&[0x01; 1][..], &[0; 8], &MAGIC, &[0; 8]].concat()
}

fn open_request() -> Vec<u8> {
    [&[0x05; 1][..], &MAGIC, &[11], &[0; 100]].concat()
}

#[test]
fn a_ping_neither_wakes_the_service_nor_keeps_it_awake() {
    let place = Arc::new(UdpPlace::new("127.0.0.1"));
    let service = service(&place);
    let (socket, address) = front("127.0.0.1");
    let _wakeport = hooks(&service, &place)
        .inherit("bedrock", &socket)
        .flag("--stay")
        .option("--udp-wake", "raknet")
        .option("--udp-idle-timeout", "1s")
        .cooldown("100ms")
        .start();
    let list = client("127.0.0.1", address);
    list.send(&ping()).expect("it is sent");
    assert!(is_silent(&list));
    assert!(service.calls().is_empty());
    let player = client("127.0.0.1", address);
    echoes(&player, &open_request());
    // Once it is awake it gets them all; and they go on, and it sleeps.
    echoes(&list, &ping());
    until("it sleeps", || {
        list.send(&ping()).expect("it is sent");
        service.count("stop") == 1
    });
    assert_eq!(service.count("start"), 1);
}

#[test]
fn when_it_exits_a_ping_stays_outside_and_a_request_does_not() {
    let place = Arc::new(UdpPlace::new("127.0.0.1"));
    let service = service(&place);
    let (socket, address) = front("127.0.0.1");
    let run = hooks(&service, &place)
        .inherit("bedrock", &socket)
        .option("--udp-wake", "raknet")
        .option("--udp-idle-timeout", "1s")
        .cooldown("100ms");
    let player = client("127.0.0.1", address);
    for round in 1..=2 {
        player.send(&open_request()).expect("it is sent");
        let mut wakeport = run.start();
        assert_eq!(receive(&player), open_request());
        service.reaches("stop", round);
        wakeport.ends();
        player.send(&ping()).expect("it is sent");
        assert!(is_empty(&socket), "the kernel keeps no ping");
        player.send(&open_request()).expect("it is sent");
        assert!(!is_empty(&socket), "and keeps a request");
        socket.recv(&mut [0; 999]).expect("it is there");
    }
}

#[test]
fn the_flow_that_is_quiet_for_long_makes_room_and_no_other() {
    let place = UdpPlace::new("127.0.0.1");
    let _echo = place.echo();
    let (socket, address) = front("127.0.0.1");
    let _wakeport = Run::new()
        .to(place.to())
        .inherit("game", &socket)
        .flag("--stay")
        .option("--max-connections", "2")
        .start();
    let [one, two, three] = [0; 3].map(|_| client("127.0.0.1", address));
    echoes(&one, b"one");
    echoes(&two, b"two");
    three.send(b"three").expect("it is sent");
    assert!(is_silent(&three), "there is no room");
    three
        .set_read_timeout(Some(Duration::from_millis(50)))
        .expect("an option");
    let began = now();
    until("there is room", || {
        echoes(&two, b"two");
        three.send(b"three").is_ok() && three.recv(&mut [0; 9]).is_ok()
    });
    assert!(began.elapsed() > Duration::from_secs(8));
    echoes(&two, b"two");
}

#[test]
fn listeners_of_both_kinds_have_one_life_cycle() {
    let place = Arc::new(UdpPlace::new("127.0.0.1"));
    let echo = std::sync::Mutex::new(None);
    let stage = HookService::play({
        let place = place.clone();
        move |_, call| {
            let mut echo = echo.lock().expect("no panic");
            *echo = (call.event == "start").then(|| place.echo());
        }
    });
    let (socket, address) = front("127.0.0.1");
    let tcp = Place::tcp();
    let wakeport = stage
        .run()
        .to(format!("game={}", place.to()))
        .inherit("game", &socket)
        .inherit("web", &tcp.listen())
        .flag("--stay")
        .option("--udp-idle-timeout", "1s")
        .cooldown("100ms")
        .start();
    let player = client("127.0.0.1", address);
    echoes(&player, b"hello");
    let web = tcp.connect();
    web.echoes("hello");
    assert_eq!(stage.count("start"), 1);
    // The connection keeps it awake when the flow is over.
    wakeport.is("awake: 1 client, 2 served");
    assert_eq!(stage.count("stop"), 0);
    drop(web);
    stage.reaches("stop", 1);
    drop(Server::echo(&Place::tcp()));
}

#[test]
fn a_datagram_that_is_too_long_is_dropped_and_the_flow_goes_on() {
    let place = UdpPlace::new("127.0.0.1");
    let _echo = place.echo();
    let (socket, address) = front("::1");
    let run = Run::new().to(place.to()).inherit("game", &socket);
    let _wakeport = run.flag("--stay").start();
    let client = client("::1", address);
    echoes(&client, &vec![7; 65_000]);
    // IPv4 takes no more than 65,507 bytes.
    client.send(&vec![7; 65_520]).expect("it is sent");
    echoes(&client, b"small");
}

#[test]
fn clients_that_are_denied_wake_nothing() {
    let place = Arc::new(UdpPlace::new("127.0.0.1"));
    let service = service(&place);
    let (socket, address) = front("0.0.0.0");
    let wakeport = hooks(&service, &place)
        .inherit("game", &socket)
        .flag("--stay")
        .option("--allow", "127.0.0.2")
        .start();
    let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port());
    let stranger = client("127.0.0.3", to);
    for _ in 0..100 {
        stranger.send(b"?").expect("it is sent");
    }
    assert!(is_silent(&stranger));
    assert!(service.calls().is_empty());
    echoes(&client("127.0.0.2", to), b"hello");
    wakeport.logs("127.0.0.3");
}

#[test]
fn a_signal_leaves_what_it_does_not_serve_in_the_buffer() {
    let place = UdpPlace::new("127.0.0.1");
    let _echo = place.echo();
    let (socket, address) = front("127.0.0.1");
    let mut wakeport = Run::new()
        .to(place.to())
        .inherit("game", &socket)
        .option("--drain-timeout", "1s")
        .flag("--stay")
        .start();
    let client = client("127.0.0.1", address);
    echoes(&client, b"hello");
    wakeport.signal(Signal::TERM);
    wakeport.logs("draining 1 connection");
    echoes(&client, b"a flow goes on");
    wakeport.ends();
    client.send(b"for the next one").expect("it is sent");
    assert!(!is_empty(&socket));
    let _next = Run::new()
        .to(place.to())
        .inherit("game", &socket)
        .flag("--stay")
        .start();
    assert_eq!(receive(&client), b"for the next one");
}

#[test]
fn a_flood_of_senders_takes_little_memory() {
    let place = UdpPlace::new("127.0.0.1");
    // It never answers.
    let silent = place.bind();
    let (socket, address) = front("0.0.0.0");
    let wakeport = Run::new()
        .to(place.to())
        .inherit("game", &socket)
        .flag("--stay")
        .start();
    let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port());
    client("127.0.0.1", to).send(b"first").expect("it is sent");
    silent.recv(&mut [0; 9]).expect("the first one");
    let before = wakeport.memory();
    for number in 0..100_000_u32 {
        let [_, a, b, c] = (number + 0x0100).to_be_bytes();
        let sender = UdpSocket::bind((Ipv4Addr::new(127, a, b, c), 0)).expect("a free port");
        let _ = sender.send_to(&[0; 1000], to);
    }
    until("all are read", || is_empty(&socket));
    // 4,096 flows without an answer, with a socket each.
    let grown = wakeport.memory().saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more");
}

/// How many senders a flood has, and how many send before the buffer is to be empty.
const FLOOD: usize = 100_000;
/// So many at a time: the kernel's queue of packets, which all tests share, has 1,000 (net.core.netdev_max_backlog).
const BURST: usize = 100;

/// Addresses all over the Internet, none of them twice, and none that no host can have.
fn strangers() -> impl Iterator<Item = SocketAddrV4> {
    let all = (1..u32::MAX).map(|number| Ipv4Addr::from_bits(number.wrapping_mul(2_654_435_761)));
    let strange = all.filter(|ip| {
        let [first, second, ..] = ip.octets();
        (1..224).contains(&first) && first != 127 && (first, second) != (192, 0)
    });
    strange.map(|ip| SocketAddrV4::new(ip, 1024 + (ip.to_bits() >> 8) as u16 % 60_000))
}

/// A datagram in a packet of IPv4, as if `from` had sent it. The kernel adds the checksum; UDP needs none (RFC 768).
fn spoofed(from: SocketAddrV4, to: SocketAddrV4, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).expect("a short one");
    let mut packet = vec![0x45, 0];
    packet.extend((20 + length).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    for word in [from.port(), to.port(), length, 0] {
        packet.extend(word.to_be_bytes());
    }
    packet.extend(data);
    packet
}

/// Packets of the whole machine for which there was no room before the network saw them: /proc/net/softnet_stat.
fn dropped_packets() -> u64 {
    let stat = fs::read_to_string("/proc/net/softnet_stat").expect("Linux");
    let column = |line: &str| u64::from_str_radix(line.split(' ').nth(1)?, 16).ok();
    stat.lines().filter_map(column).sum()
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_flood_from_false_addresses_takes_little_memory_and_no_client_is_lost_in_it() {
    let network = Network::new();
    // Replies could go everywhere, and so can what comes be from everywhere.
    network.ours.run("ip route add default via 192.0.2.2");
    let place = UdpPlace::new("127.0.0.1");
    // It takes strangers for what they are.
    let _server = Echo::on(place.bind(), |bytes| bytes.starts_with(b"client"));
    let (socket, address) = front("192.0.2.1");
    set_socket_recv_buffer_size_force(&socket, 4 << 20).expect("root");
    let dir = directory();
    let mut wakeport = Run::new()
        .to(place.to())
        .inherit("game", &socket)
        .flag("--stay")
        .option("--state-dir", dir.path().display())
        .option("--name", "game")
        .option("--drain-timeout", "1s")
        .start();
    let SocketAddr::V4(to) = address else {
        panic!("{address}")
    };
    let (player, raw) = network.there(|| {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)));
        (client("192.0.2.2", address), raw.expect("root"))
    });
    echoes(&player, b"client before");
    let (before, lost) = (wakeport.memory(), dropped_packets());
    let all: Vec<_> = strangers().take(FLOOD).collect();
    for (number, senders) in all.chunks(BURST).enumerate() {
        for sender in senders {
            let packet = spoofed(*sender, to, &[0; 200]);
            raw.send_to(&packet, &address.into()).expect("it is sent");
        }
        // In the midst of it, each is sent once.
        echoes(&player, format!("client {number}").as_bytes());
        until("all are read", || is_empty(&socket));
    }
    let grown = wakeport.most_memory().saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more");
    // A new client gets in as soon as strangers have been quiet for 10 s.
    let late = network.there(|| client("192.0.2.2", address));
    late.set_read_timeout(Some(Duration::from_millis(500)))
        .expect("an option");
    thread::sleep(Duration::from_secs(10));
    let mut sent = 0;
    until("a new client is served", || {
        sent += 1;
        late.send(b"client").is_ok() && late.recv(&mut [0; 9]).is_ok()
    });
    echoes(&player, b"client after");
    // None got lost on the way: each began a flow, or there was no room for it. What other tests do may fill the
    // kernel's queue.
    wakeport.signal(Signal::TERM);
    wakeport.ends();
    let record = record(dir.path()).unwrap_or_default();
    let dropped = &record["datagrams_dropped"];
    let room = dropped["room"].as_u64().unwrap_or_default();
    let counted = room + record["clients"]["served"].as_u64().unwrap_or_default();
    let lost = dropped_packets() - lost;
    let all = FLOOD as u64 + 1;
    assert!(
        (all + 1 - lost..=all + sent).contains(&counted),
        "{record}, {lost} lost, {sent} sent by the last one"
    );
    assert!(room > FLOOD as u64 / 2, "{dropped}");
    assert_eq!(
        dropped.as_object().map(|reasons| reasons.len()),
        Some(1),
        "{dropped}"
    );
}

#[test]
fn what_is_sent_to_many_starts_nothing_and_reaches_no_service() {
    let place = Arc::new(UdpPlace::new("127.0.0.1"));
    let service = service(&place);
    let (socket, address) = front("0.0.0.0");
    let group = Ipv4Addr::new(239, 1, 2, 3);
    socket
        .join_multicast_v4(&group, &Ipv4Addr::LOCALHOST)
        .expect("a group");
    let dir = directory();
    let _wakeport = hooks(&service, &place)
        .inherit("game", &socket)
        .flag("--stay")
        .option("--state-dir", dir.path().display())
        .start();
    let search = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    search.set_broadcast(true).expect("an option");
    SockRef::from(&search)
        .set_multicast_if_v4(&Ipv4Addr::LOCALHOST)
        .expect("an option");
    let searches = || {
        for many in [Ipv4Addr::new(127, 255, 255, 255), group] {
            let sent = search.send_to(b"who is there?", (many, address.port()));
            sent.expect("it is sent");
        }
        assert!(is_silent(&search));
    };
    searches();
    assert!(service.calls().is_empty());
    let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port());
    let player = client("127.0.0.1", to);
    echoes(&player, b"hello");
    // Awake or not.
    searches();
    echoes(&player, b"hello again");
    until("all four are counted", || {
        let record = record(dir.path()).unwrap_or_default();
        record["datagrams_dropped"] == json!({"broadcast": 4})
    });
    assert_eq!(
        record(dir.path()).unwrap_or_default()["clients"]["served"],
        1
    );
}

#[test]
fn what_does_not_go_together_is_one_line() {
    let (socket, address) = front("127.0.0.1");
    let one_line = |run: Run, parts: &[&str]| {
        let (log, code) = run.fails();
        assert_eq!((log.lines().count(), code), (1, CONFIG), "{log}");
        for part in parts {
            assert!(log.contains(part), "no `{part}` in: {log}");
        }
    };
    let udp = || Run::new().inherit("dns", &socket);
    let sent = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    sent.send_to(b"?", address).expect("it is sent");
    one_line(
        udp().to("127.0.0.1:9").flag("--accept-proxy"),
        &["`dns`", "`--accept-proxy`"],
    );
    assert!(is_empty(&socket), "nothing is left to start it again");
    one_line(
        udp().to("127.0.0.1:9").option("--send-proxy", "v1"),
        &["`dns`", "`--send-proxy`"],
    );
    one_line(udp().to("/run/x"), &["`dns`"]);
    one_line(
        udp().to(format!("udp:{address}")),
        &["is our own listener `dns`"],
    );
    let web = Place::tcp();
    one_line(
        Run::new()
            .inherit("web", &web.listen())
            .to("udp:127.0.0.1:9"),
        &["`web`"],
    );
    let unix = UnixDatagram::unbound().expect("a socket");
    one_line(
        Run::new().to("127.0.0.1:9").inherit("log", &unix),
        &["`log`", "`ListenDatagram=`"],
    );
}
