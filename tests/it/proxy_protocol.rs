//! The PROXY protocol: the header to the target, and the header from a load balancer.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::support::{
    Client, HookService, Place, Run, Server, Wakeport, directory, echo, noise, script, throughout,
    until,
};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const VERSIONS: [&str; 2] = ["v1", "v2"];

/// A header of version 2 with this after the signature and the version.
fn block(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("a short header");
    [SIGNATURE, &[command, family], &length.to_be_bytes(), rest].concat()
}

/// The header for a connection from `client` to `server`, both in one family.
fn tcp(version: &str, client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let four = client.is_ipv4();
    if version == "v1" {
        let family = if four { "TCP4" } else { "TCP6" };
        let (from, to) = (client.ip(), server.ip());
        let (from_port, to_port) = (client.port(), server.port());
        return format!("PROXY {family} {from} {to} {from_port} {to_port}\r\n").into_bytes();
    }
    let mut rest = Vec::new();
    for address in [client, server] {
        match address {
            SocketAddr::V4(address) => rest.extend(address.ip().octets()),
            SocketAddr::V6(address) => rest.extend(address.ip().octets()),
        }
    }
    rest.extend(client.port().to_be_bytes());
    rest.extend(server.port().to_be_bytes());
    block(0x21, if four { 0x11 } else { 0x21 }, &rest)
}

/// The header of a connection that is the proxy's own.
fn local(version: &str) -> Vec<u8> {
    match version {
        "v1" => b"PROXY UNKNOWN\r\n".to_vec(),
        _ => block(0x20, 0, &[]),
    }
}

/// The address of a client of `place`, as seen from there.
fn of(client: &Client, place: &Place, version: &str) -> Vec<u8> {
    let server = place.tcp_address();
    tcp(version, own(client), server)
}

fn own(client: &Client) -> SocketAddr {
    let address = client.socket().local_addr().expect("an open connection");
    address.as_socket().expect("TCP")
}

/// An address that does not exist here.
fn far(port: u16) -> SocketAddr {
    ([203, 0, 113, 7], port).into()
}

fn far_server() -> SocketAddr {
    ([198, 51, 100, 1], 443).into()
}

/// What a server has received first on each connection.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<Vec<u8>>>>);

impl Heard {
    fn all(&self) -> Vec<Vec<u8>> {
        self.0.lock().expect("no panic").clone()
    }

    /// A server that reads a header on each connection before it sends.
    fn then<S>(&self, serve: S) -> impl Fn(Client) + Send + Sync + use<S>
    where
        S: Fn(Client) + Send + Sync,
    {
        let heard = self.0.clone();
        move |client: Client| {
            let (mut header, mut byte) = (Vec::new(), [0]);
            while !is_complete(&header) && matches!(client.read(&mut byte), Ok(1)) {
                header.extend(byte);
            }
            let complete = is_complete(&header);
            heard.lock().expect("no panic").push(header);
            if complete {
                serve(client);
            }
        }
    }
}

fn is_complete(header: &[u8]) -> bool {
    match header {
        [b'P', .., b'\r', b'\n'] => true,
        [b'\r', ..] if header.len() >= 16 => {
            let length = u16::from_be_bytes([header[14], header[15]]);
            header.len() == 16 + usize::from(length)
        }
        _ => false,
    }
}

// -- to the target

/// Every client has a header, the first one on the connection that proved the target.
fn each_client_is_announced(front: &Place, run: &Run, heard: &Heard, server: &Server, v: &str) {
    let _wakeport = run.start();
    for count in 1..=3 {
        let client = front.connect();
        let bytes = noise(count, 100_000);
        client.send(&bytes);
        client.finish();
        assert!(client.all() == bytes, "client {count}: other bytes");
        let heard = heard.all();
        assert_eq!(heard.len() as u64, count);
        let expected = match front {
            Place::Tcp(..) => of(&client, front, v),
            // There is no address to send.
            Place::Path(_) | Place::Abstract(_) => local(v),
        };
        assert_eq!(heard.last(), Some(&expected), "{front}, {v}");
        assert_eq!(server.connections() as u64, count, "none goes unannounced");
    }
}

#[test]
fn the_target_gets_the_proxy_header_first() {
    let dir = directory();
    for version in VERSIONS {
        let six = Place::free(Ipv6Addr::LOCALHOST);
        for front in [Place::tcp(), six, Place::path(&dir), Place::abstract_name()] {
            for target in [Place::tcp(), Place::path(&dir)] {
                let heard = Heard::default();
                let server = Server::at(&target, heard.then(echo));
                let run = Run::new().listen(&front).to(&target);
                let run = run.option("--send-proxy", version);
                each_client_is_announced(&front, &run, &heard, &server, version);
            }
        }
    }
}

#[test]
fn an_ipv4_client_on_an_ipv6_socket_is_announced_as_ipv4() {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).expect("a socket");
    socket.set_only_v6(false).expect("an option");
    let wildcard: SocketAddr = "[::]:0".parse().expect("an address");
    socket.bind(&wildcard.into()).expect("a free port");
    socket.listen(16).expect("a listener");
    let bound = socket.local_addr().expect("it is bound");
    let port = bound.as_socket().expect("TCP").port();
    for version in VERSIONS {
        let (target, heard) = (Place::tcp(), Heard::default());
        let server = Server::at(&target, heard.then(echo));
        let front = Place::from(([127, 0, 0, 1], port));
        let run = Run::new()
            .inherit("web", &socket)
            .flag("--stay")
            .to(&target);
        let run = run.variable("WAKEPORT_SEND_PROXY", version);
        each_client_is_announced(&front, &run, &heard, &server, version);
    }
}

#[test]
fn a_banner_probe_sends_the_header_first() {
    for version in VERSIONS {
        let (front, target, heard) = (Place::tcp(), Place::tcp(), Heard::default());
        let greet = |client: Client| {
            client.send("220 welcome\r\n");
            echo(client);
        };
        let _server = Server::at(&target, heard.then(greet));
        let _wakeport = Run::new()
            .to(&target)
            .listen(&front)
            .option("--ready", "banner")
            .option("--send-proxy", version)
            .start();
        let client = front.connect();
        assert_eq!(client.take(13), b"220 welcome\r\n");
        client.echoes("EHLO");
        let expected = [local(version), of(&client, &front, version)];
        assert_eq!(
            heard.all(),
            expected,
            "no client inherits a probe connection"
        );
    }
}

#[test]
fn an_http_probe_sends_the_header_to_the_target_only() {
    let answer = |client: Client| {
        let _ = client.some();
        let _ = client.try_send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    };
    let (front, target, health) = (Place::tcp(), Place::tcp(), Place::tcp());
    let (heard, asked) = (Heard::default(), Arc::<Mutex<Vec<Vec<u8>>>>::default());
    let _server = Server::at(&target, heard.then(answer));
    let _health = Server::at(&health, {
        let asked = asked.clone();
        move |client| {
            let request = client.some().unwrap_or_default();
            asked.lock().expect("no panic").push(request);
            let _ = client.try_send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    for (url, probes) in [
        ("http:///".to_owned(), 1),
        (format!("http://{target}/"), 1),
        (format!("http://{health}/"), 0),
    ] {
        heard.0.lock().expect("no panic").clear();
        let _wakeport = Run::new()
            .to(&target)
            .listen(&front)
            .option("--ready", &url)
            .option("--send-proxy", "v2")
            .start();
        let client = front.connect();
        client.send("GET / HTTP/1.1\r\n\r\n");
        assert!(client.all().starts_with(b"HTTP/1.1 200"), "{url}");
        let mut expected = vec![local("v2"); probes];
        expected.push(of(&client, &front, "v2"));
        assert_eq!(heard.all(), expected, "{url}");
    }
    let asked = asked.lock().expect("no panic");
    assert!(asked[0].starts_with(b"GET / "), "{asked:?}");
}

#[test]
fn a_probe_announces_itself_as_local() {
    for version in VERSIONS {
        let heard = Heard::default();
        let stage = HookService::direct(heard.then(echo), |scene, call| {
            match call.event.as_str() {
                "start" => scene.up(),
                _ => scene.down(),
            }
            0
        });
        let front = Place::tcp();
        let wakeport = stage
            .run()
            .listen(&front)
            .option("--send-proxy", version)
            .cooldown("100ms")
            .start();
        let client = front.connect();
        client.echoes("hello");
        let announced = of(&client, &front, version);
        // It is still there after the stop, kept by another process.
        stage.scene().up();
        drop(client);
        wakeport.is("asleep, 1 served");
        // A target that was started elsewhere: probed, and not stopped.
        stage.scene().up();
        let second = front.connect();
        second.echoes("hello again");
        let also_announced = of(&second, &front, version);
        until("the target was probed", || {
            heard.all().contains(&local(version))
        });
        let clients: Vec<_> = heard
            .all()
            .into_iter()
            .filter(|header| *header != local(version))
            .collect();
        assert_eq!(clients, [announced, also_announced], "each exactly once");
    }
}

#[test]
fn a_probe_connection_without_a_client_is_announced_as_local() {
    let (front, target, heard) = (Place::tcp(), Place::tcp(), Heard::default());
    let wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .option("--send-proxy", "v2")
        .start();
    let client = front.connect();
    wakeport.is("waking");
    client.reset();
    wakeport.is("waking: the target has started, but does not answer yet");
    until("the client is gone", || {
        !wakeport.status().contains("waiting")
    });
    let _server = Server::at(&target, heard.then(echo));
    until("the target has been asked", || heard.all() == [local("v2")]);
}

// -- from a balancer

/// Runs behind a load balancer.
fn behind(front: &Place, target: &Place) -> Run {
    Run::new().to(target).listen(front).flag("--accept-proxy")
}

/// The result of a header.
fn introduce(header: &[u8], pace: usize, expected: &str) {
    let (front, target) = (Place::tcp(), Place::tcp());
    let _server = Server::echo(&target);
    let wakeport = behind(&front, &target).start();
    let client = front.connect();
    for piece in header.chunks(pace) {
        client.send(piece);
        if pace < header.len() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    client.echoes("hello");
    // Nothing is lost when the payload comes along with the header, whatever it begins with.
    let second = front.connect();
    let payload = [b"\r\nPROXY ".to_vec(), noise(7, 300_000)].concat();
    second.send([header, &payload].concat());
    second.finish();
    assert!(second.all() == payload, "other bytes");
    let name = match expected {
        "" => own(&client).to_string(),
        name => name.to_owned(),
    };
    wakeport.logs(&format!("waking the target for {name}"));
    assert!(!wakeport.log().contains("WARN"));
}

#[test]
fn the_client_address_is_the_one_in_the_header() {
    let six: [SocketAddr; 2] = ["[2001:db8::7]:4711", "[2001:db8::1]:443"]
        .map(|address| address.parse().expect("an address"));
    let with_fields = {
        let mut header = tcp("v2", far(4711), far_server());
        header[14..16].copy_from_slice(&(12_u16 + 4000).to_be_bytes());
        header.extend(noise(1, 4000));
        header
    };
    for (header, name) in [
        (tcp("v1", far(4711), far_server()), "203.0.113.7:4711"),
        (tcp("v2", far(4711), far_server()), "203.0.113.7:4711"),
        (tcp("v1", six[0], six[1]), "[2001:db8::7]:4711"),
        (tcp("v2", six[0], six[1]), "[2001:db8::7]:4711"),
        (
            b"PROXY TCP6 ::ffff:203.0.113.7 ::ffff:198.51.100.1 4711 443\r\n".to_vec(),
            "203.0.113.7:4711",
        ),
        (with_fields, "203.0.113.7:4711"),
        (block(0x21, 0x31, &[0; 216]), "a client of a Unix socket"),
        // Without an address in the header, the connection's own counts.
        (local("v1"), ""),
        (local("v2"), ""),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), ""),
        (block(0x20, 0x11, &[7; 12]), ""),
        (block(0x21, 0x12, &[7; 12]), ""),
    ] {
        introduce(&header, header.len(), name);
        if header.len() < 300 {
            introduce(&header, 1, name);
        }
    }
}

#[test]
fn the_target_gets_the_address_in_the_header() {
    let dir = directory();
    for (accepted, sent) in [("v1", "v2"), ("v2", "v1"), ("v2", "v2")] {
        for front in [Place::tcp(), Place::path(&dir)] {
            let (target, heard) = (Place::tcp(), Heard::default());
            let _server = Server::at(&target, heard.then(echo));
            let _wakeport = behind(&front, &target).option("--send-proxy", sent).start();
            for port in [1, 65_535] {
                let client = front.connect();
                client.send(tcp(accepted, far(port), far_server()));
                client.echoes("hello");
                assert_eq!(
                    heard.all().last(),
                    Some(&tcp(sent, far(port), far_server()))
                );
            }
            // A connection of the load balancer itself: its own address counts.
            let client = front.connect();
            client.send(local(accepted));
            client.echoes("hello");
            let expected = match &front {
                Place::Tcp(..) => of(&client, &front, sent),
                Place::Path(_) | Place::Abstract(_) => local(sent),
            };
            assert_eq!(heard.all().last(), Some(&expected));
        }
    }
}

#[test]
fn hooks_get_the_address_in_the_header() {
    let (front, target, dir) = (Place::tcp(), Place::tcp(), directory());
    let told = dir.path().join("told");
    let hook = script(
        &dir.path().join("hook"),
        &format!("#!/bin/sh\necho \"$WAKEPORT_CLIENT\" >{}\n", told.display()),
    );
    let _wakeport = behind(&front, &target).option("--start-hook", hook).start();
    let client = front.connect();
    client.send(tcp("v1", far(4711), far_server()));
    until("the hook has been run", || {
        fs::read_to_string(&told).is_ok_and(|text| text == "203.0.113.7:4711\n")
    });
    let _server = Server::echo(&target);
    client.echoes("hello");
}

/// Asserts that nothing is woken and no connection made for a while.
fn still_asleep(wakeport: &Wakeport, server: &Server, span: Duration) {
    throughout(span, "the service sleeps", || {
        server.connections() == 0 && !wakeport.log().contains("waking")
    });
}

#[test]
fn a_connection_without_a_header_wakes_nothing() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let server = Server::echo(&target);
    let wakeport = behind(&front, &target)
        .option("--log-level", "debug")
        .start();
    // Health checks of a load balancer: it connects, may send a header, and closes.
    for header in [Vec::new(), local("v1"), local("v2")] {
        let polite = front.connect();
        polite.send(&header);
        polite.finish();
        assert!(polite.all().is_empty());
        let impolite = front.connect();
        impolite.send(&header);
        impolite.reset();
    }
    let unsure = front.connect();
    unsure.send("PROXY TCP4 203.0.113.7");
    still_asleep(&wakeport, &server, Duration::from_millis(500));
    unsure.send(" 198.51.100.1 4711 443\r\n");
    unsure.echoes("hello");
    assert!(!wakeport.log().contains("WARN"));
}

#[test]
fn a_connection_without_a_header_is_reset_and_logged_once() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let server = Server::echo(&target);
    let wakeport = behind(&front, &target).start();
    let silent = ["", "PROXY TCP4 203.0.113.7 198.51.100.1 4711 443\n"].map(|line| {
        let client = front.connect();
        client.send(line);
        client
    });
    let endless = [SIGNATURE, &[0x21, 0x11, 0x0f, 0xf1]].concat();
    for _ in 0..10 {
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"PROXY TCP4 203.0.113.7 198.51.100.1 4711 65536\r\nhello",
            &[b'P'; 4096],
            &[&b"PROXY UNKNOWN "[..], &[b'x'; 100]].concat(),
            &block(0x31, 0x11, &[0; 12]),
            &endless,
        ] {
            let client = front.connect();
            client.send(bytes);
            client.is_reset();
        }
    }
    silent.iter().for_each(Client::is_reset);
    still_asleep(&wakeport, &server, Duration::ZERO);
    wakeport.logs("reset: not a PROXY header; with `--accept-proxy` only");
    assert_eq!(wakeport.log().matches("WARN").count(), 1);
    // Other clients are served.
    let client = front.connect();
    client.send(local("v2"));
    client.echoes("hello");
}

#[test]
fn it_does_not_exit_while_a_header_is_being_read() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let server = Server::echo(&target);
    let listener = front.listen();
    let client = front.connect();
    let mut wakeport = Run::new()
        .to(&target)
        .inherit("web", &listener)
        .flag("--accept-proxy")
        .cooldown("100ms")
        .start();
    client.send("PROXY TCP4 203.0.113.7 ");
    throughout(Duration::from_secs(1), "it stays", || wakeport.is_running());
    assert_eq!(server.connections(), 0);
    client.send("198.51.100.1 4711 443\r\n");
    client.echoes("hello");
    drop(client);
    wakeport.ends();
}

#[test]
fn without_pending_headers_it_exits() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let listener = front.listen();
    let client = front.connect();
    let run = Run::new().to(&target).inherit("web", &listener);
    let mut wakeport = run.variable("WAKEPORT_ACCEPT_PROXY", "yes").start();
    drop(client);
    wakeport.ends();
    assert!(!wakeport.whole_log().contains("waking"));
}
