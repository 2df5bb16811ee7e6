//! Inherited and bound sockets, and what is wrong with them.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Child, Command, Stdio};
use std::thread;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::support::{
    Client, Place, Run, Server, directory, noise, now, script, send_in_pieces, soon, until,
};

const USAGE: i32 = 64;
const CONFIG: i32 = 78;

/// Exits with `code` after one line that contains all of `parts`.
fn refused(run: &Run, code: i32, parts: &[&str]) {
    let (log, status) = run.fails();
    assert_eq!(log.lines().count(), 1, "not one line:\n{log}");
    for part in parts {
        assert!(log.contains(part), "no `{part}` in: {log}");
    }
    assert_eq!(status, code, "{log}");
}

fn anywhere() -> Run {
    Run::new().to("127.0.0.1:9")
}

#[test]
fn each_listener_has_its_own_target_by_name() {
    let dir = directory();
    let (web, api) = (Place::tcp(), Place::path(&dir));
    let (web_target, other_target) = (Place::tcp(), Place::abstract_name());
    let _servers = [
        Server::at(&web_target, |client| client.send("web")),
        Server::at(&other_target, |client| client.send("other")),
    ];
    let _wakeport = Run::new()
        .inherit("web", &web.listen())
        .inherit("api", &api.listen())
        .flag("--stay")
        .to(&other_target)
        .to(format!("web={web_target}"))
        .start();
    assert_eq!(web.connect().all(), b"web");
    assert_eq!(api.connect().all(), b"other");
}

#[test]
fn a_listener_without_a_name_leaves_the_others_theirs() {
    let (nameless, web) = (Place::tcp(), Place::tcp());
    let (web_target, other_target) = (Place::tcp(), Place::tcp());
    let _servers = [
        Server::at(&web_target, |client| client.send("web")),
        Server::at(&other_target, |client| client.send("other")),
    ];
    let _wakeport = Run::new()
        .inherit("", &nameless.listen())
        .inherit("web", &web.listen())
        .flag("--stay")
        .to(&other_target)
        .to(format!("web={web_target}"))
        .start();
    assert_eq!(nameless.connect().all(), b"other");
    assert_eq!(web.connect().all(), b"web");
}

#[test]
fn a_listener_over_ipv6_accepts_ipv4_and_ipv6_clients() {
    let target = Place::tcp();
    let _server = Server::echo(&target);
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).expect("a socket");
    socket.set_only_v6(false).expect("an option");
    let wildcard: SocketAddr = "[::]:0".parse().expect("an address");
    socket.bind(&wildcard.into()).expect("a free port");
    socket.listen(16).expect("a listener");
    let port = socket
        .local_addr()
        .expect("it is bound")
        .as_socket()
        .expect("TCP")
        .port();
    let run = Run::new().to(&target).inherit("web", &socket);
    let wakeport = run.flag("--stay").start();
    for ip in ["127.0.0.1", "[::1]"] {
        let address: SocketAddr = format!("{ip}:{port}").parse().expect("an address");
        let place = Place::from(address);
        place.connect().echoes("hello");
    }
    // Whatever the socket, an IPv4 client is named as such.
    wakeport.logs("waking the target for 127.0.0.1:");
}

#[test]
fn a_target_without_a_port_gets_the_listeners() {
    let front = Place::tcp();
    let target: TcpListener = TcpListener::bind(("127.77.0.1", front.port())).expect("a free port");
    let _wakeport = Run::new()
        .to("127.77.0.1")
        .inherit("web", &front.listen())
        .flag("--stay")
        .start();
    let client = front.connect();
    client.send("hello");
    let mut bytes = [0; 5];
    target
        .accept()
        .expect("a connection")
        .0
        .read_exact(&mut bytes)
        .expect("five bytes");
    assert_eq!(&bytes, b"hello");
    refused(
        &Run::new()
            .to("127.77.0.1")
            .inherit("web", &Place::abstract_name().listen()),
        CONFIG,
        &["target `127.77.0.1` needs a port", "`web`"],
    );
}

#[test]
fn without_sockets_the_error_says_where_to_get_them() {
    refused(
        &anywhere(),
        USAGE,
        &["no sockets were passed in", "`.socket`", "--listen"],
    );
    let empty = anywhere()
        .variable("LISTEN_FDS", "")
        .variable("LISTEN_PID", "");
    refused(&empty, USAGE, &["no sockets were passed in"]);
}

#[test]
fn an_invalid_listen_fds_is_rejected() {
    for count in ["0", "-1", "many", "1 ", "99999999999"] {
        let run = anywhere()
            .variable("LISTEN_FDS", count)
            .variable("LISTEN_PID", "1");
        refused(&run, CONFIG, &[&format!("LISTEN_FDS={count}")]);
    }
}

#[test]
fn sockets_for_another_process_are_refused() {
    let place = Place::tcp();
    let run = anywhere().inherit("web", &place.listen());
    refused(
        &run.variable("LISTEN_PID", "1"),
        CONFIG,
        &["for process `1`", "without a shell"],
    );
}

#[test]
fn a_datagram_socket_without_a_port_is_refused() {
    let unix = UnixDatagram::unbound().expect("a socket");
    refused(
        &anywhere().inherit("log", &unix),
        CONFIG,
        &["`log`", "`ListenStream=`"],
    );
    // What is left there would make systemd start wakeport again and again.
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let to = udp.local_addr().expect("it is bound");
    for _ in 0..20 {
        UdpSocket::bind("127.0.0.1:0")
            .expect("a free port")
            .send_to(b"?", to)
            .expect("it is sent");
    }
    let run = anywhere().flag("--accept-proxy");
    refused(&run.inherit("dns", &udp), CONFIG, &["`dns`"]);
    udp.set_nonblocking(true).expect("an option");
    assert!(udp.recv(&mut [0; 9]).is_err(), "nothing is left");
}

#[test]
fn a_socket_over_vsock_is_refused() {
    let Ok(socket) = Socket::new(Domain::VSOCK, Type::STREAM, None) else {
        // Skipped on a kernel without it.
        return;
    };
    socket
        .bind(&SockAddr::vsock(u32::MAX, u32::MAX))
        .expect("any port");
    socket.listen(1).expect("a listener");
    let run = anywhere().inherit("web", &socket);
    refused(&run, CONFIG, &["`web` is neither TCP nor a Unix socket"]);
}

#[test]
fn a_listener_over_mptcp_accepts_clients_with_and_without_mptcp() {
    let Ok(listener) = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)) else {
        // Skipped on a kernel without it.
        return;
    };
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    listener.bind(&any_port.into()).expect("a free port");
    listener.listen(128).expect("a listener");
    let front = listener.local_addr().expect("it is bound");
    let target = Place::tcp();
    let server = Server::echo(&target);
    let run = Run::new().to(&target).inherit("web", &listener);
    let _wakeport = run.flag("--stay").start();
    for protocol in [Protocol::MPTCP, Protocol::TCP] {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(protocol)).expect("a socket");
        socket.connect(&front).expect("a listener");
        let (client, bytes) = (Client::from(socket), noise(1, 1_000_000));
        let sender = send_in_pieces(&client, bytes.clone(), 1);
        assert!(client.all() == bytes);
        sender.join().expect("no panic").expect("it is all sent");
    }
    assert!(server.connections() >= 2);
}

#[test]
fn a_file_in_place_of_a_socket_is_refused() {
    let dir = directory();
    let file = fs::File::create(dir.path().join("file")).expect("a file");
    refused(&anywhere().inherit("file", &file), CONFIG, &["`file`"]);
}

#[test]
fn a_connection_in_place_of_a_listener_is_refused() {
    let (_ours, theirs) = UnixStream::pair().expect("two sockets");
    refused(
        &anywhere().inherit("connection", &theirs),
        CONFIG,
        &["`connection`", "`Accept=yes`"],
    );
    let place = Place::tcp();
    let listener = place.listen();
    let _client = place.connect();
    let (connection, _) = listener.accept().expect("a client");
    refused(
        &anywhere().inherit("connection", &connection),
        CONFIG,
        &["`Accept=yes`"],
    );
}

#[test]
fn descriptors_that_another_version_has_stored_are_ignored_and_removed() {
    let target = Place::tcp();
    let _server = Server::echo(&target);
    let (ours, stream) = UnixStream::pair().expect("two sockets");
    let datagram = UnixDatagram::unbound().expect("a socket");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let dir = directory();
    let file = fs::File::create(dir.path().join("file")).expect("a file");
    let odd: [(&str, &dyn AsFd); 6] = [
        ("wakeport-tomorrow", &stream),
        ("wakeport-tomorrow", &datagram),
        ("wakeport-", &udp),
        ("wakeport-file", &file),
        ("stored", &ours),
        ("stored", &file),
    ];
    for (name, descriptor) in odd {
        let front = Place::tcp();
        let wakeport = Run::new()
            .to(&target)
            .inherit("web", &front.listen())
            .inherit(name, &descriptor)
            .flag("--stay")
            .start();
        front.connect().echoes("hello");
        // It would come again with each start.
        until("it is removed", || {
            wakeport.has_said("FDSTOREREMOVE=1") && wakeport.has_said(&format!("FDNAME={name}"))
        });
        wakeport.logs(&format!("WARN `{name}` in the file descriptor store"));
    }
}

#[test]
fn a_listener_that_no_target_serves_is_refused_and_a_target_without_a_listener_is_not() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let listener = front.listen();
    let run = Run::new()
        .to(format!("web={target}"))
        .inherit("api", &listener);
    refused(
        &run,
        CONFIG,
        &["listener `api` has no target", "`--to api=ADDR`"],
    );
    let _server = Server::echo(&target);
    let wakeport = Run::new()
        .to(&target)
        .to("web=127.0.0.1:9")
        .inherit("api", &listener)
        .flag("--stay")
        .start();
    wakeport.logs("WARN no listener is called `web`, so `--to web=127.0.0.1:9` is not used");
    front.connect().echoes("hello");
}

#[test]
fn a_target_that_is_its_own_listener_is_rejected() {
    let port_of = |listener: &TcpListener| listener.local_addr().expect("it is bound").port();
    for (listen, targets) in [
        (
            "127.0.0.1:0",
            &["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"][..],
        ),
        (
            "0.0.0.0:0",
            &["127.0.0.1", "127.9.9.9", "0.0.0.0", "localhost"],
        ),
        (
            "[::]:0",
            &[
                "127.0.0.1",
                "[::1]",
                "[::]",
                "localhost",
                "[::ffff:127.0.0.1]",
            ],
        ),
        ("[::1]:0", &["[::1]", "localhost"]),
    ] {
        let listener = TcpListener::bind(listen).expect("a free port");
        thread::scope(|scope| {
            for target in targets {
                let target = format!("{target}:{}", port_of(&listener));
                let run = Run::new().to(&target).inherit("web", &listener);
                let why = format!("target `{target}` is our own listener `web`");
                scope.spawn(move || refused(&run, CONFIG, &[&why]));
            }
        });
    }
    let dir = directory();
    for place in [Place::path(&dir), Place::abstract_name()] {
        let run = Run::new().to(&place).inherit("web", &place.listen());
        refused(
            &run,
            CONFIG,
            &[&format!("target `{place}` is our own listener `web`")],
        );
    }
    // The other listener's target would connect to this one.
    let (one, two) = (Place::tcp(), Place::tcp());
    let run = Run::new()
        .to(&one)
        .inherit("one", &one.listen())
        .inherit("two", &two.listen());
    refused(&run, CONFIG, &["is our own listener `one`"]);
}

#[test]
fn a_name_that_resolves_to_its_own_listener_is_never_dialled() {
    // Names are resolved only for a connection; this machine has its own.
    let listener = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let name = fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux");
    let run = Run::new()
        .to(format!("{}:{port}", name.trim()))
        .inherit("web", &listener)
        .flag("--stay")
        .option("--start-timeout", "300ms");
    let wakeport = run.start();
    Place::from(([127, 0, 0, 1], port)).connect().is_reset();
    wakeport.logs("cannot start the target");
    wakeport.is("failed: it does not answer in time");
}

#[test]
fn with_an_invalid_configuration_the_backlog_is_reset() {
    let place = Place::tcp();
    let listener = place.listen();
    for run in [
        Run::new().inherit("web", &listener),
        Run::new().to(&place).inherit("web", &listener),
        Run::new().to("api=127.0.0.1:9").inherit("web", &listener),
        Run::new()
            .to("127.0.0.1:9")
            .inherit("web", &listener)
            .flag("--no-such-flag"),
        Run::new()
            .to("127.0.0.1:9")
            .inherit("web", &listener)
            .cooldown("soon"),
    ] {
        let clients: Vec<_> = (0..20).map(|_| place.connect()).collect();
        let began = now();
        let (log, code) = run.fails();
        assert!(matches!(code, USAGE | CONFIG), "{log}");
        // systemd counts the starts.
        assert!(began.elapsed().as_millis() >= 250);
        clients.iter().for_each(Client::is_reset);
    }
}

#[test]
fn listening_by_hand_is_refused_together_with_sockets_passed_in() {
    let run = anywhere()
        .listen("127.0.0.1:9")
        .inherit("web", &Place::tcp().listen());
    refused(&run, USAGE, &["--listen", "one or the other"]);
}

#[test]
fn an_address_that_cannot_be_listened_on_is_named() {
    let taken = Place::tcp();
    let _listener = taken.listen();
    refused(
        &anywhere().listen(&taken),
        CONFIG,
        &[
            &format!("cannot listen on `{taken}`"),
            "Address already in use",
        ],
    );
    refused(
        &anywhere().listen("192.0.2.1:80"),
        CONFIG,
        &["cannot listen on `192.0.2.1:80`"],
    );
    refused(
        &anywhere().listen("/no/such/directory/x"),
        CONFIG,
        &["cannot listen on `/no/such/directory/x`"],
    );
    let dir = directory();
    let file = dir.path().join("precious");
    fs::write(&file, "data").expect("a file");
    refused(
        &anywhere().listen(file.display()),
        CONFIG,
        &["cannot listen on `/"],
    );
    assert_eq!(fs::read(&file).expect("it is still there"), b"data");
}

#[test]
fn a_socket_file_left_behind_is_replaced_and_our_own_is_removed() {
    let dir = directory();
    let (front, target) = (Place::path(&dir), Place::tcp());
    let _server = Server::echo(&target);
    drop(front.listen());
    let Place::Path(path) = &front else {
        unreachable!()
    };
    assert!(path.exists());
    let mut wakeport = Run::new().to(&target).listen(&front).start();
    front.connect().echoes("hello");
    // A second one does not take the first one's socket away.
    refused(
        &Run::new().to(&target).listen(&front),
        CONFIG,
        &["Address already in use"],
    );
    front.connect().echoes("hello again");
    wakeport.signal(rustix::process::Signal::TERM);
    wakeport.ends();
    assert!(!path.exists());
}

#[test]
fn one_wakeport_listens_in_many_places_by_hand() {
    let dir = directory();
    let (tcp, path, name, target) = (
        Place::tcp(),
        Place::path(&dir),
        Place::abstract_name(),
        Place::tcp(),
    );
    let _server = Server::echo(&target);
    let other = Place::tcp();
    let _other_server = Server::at(&other, |client| client.send("other"));
    let _wakeport = Run::new()
        .to(&target)
        .to(format!("named={other}"))
        .listen(&tcp)
        .listen(&path)
        .listen(format!("named={name}"))
        .start();
    tcp.connect().echoes("hello");
    path.connect().echoes("hello");
    assert_eq!(name.connect().all(), b"other");
}

// -- systemd's own tool

/// `systemd-socket-activate`, killed at the end; it executes the program.
struct Activated(Child);

impl Activated {
    fn new(arguments: &[&str], run: &Run) -> Self {
        let inner = run.command();
        let mut command = Command::new("systemd-socket-activate");
        for (name, value) in inner.get_envs() {
            let value = value.expect("none is removed");
            command
                .env(name, value)
                .arg(format!("--setenv={}", name.display()));
        }
        command.args(arguments);
        command.arg(inner.get_program()).args(inner.get_args());
        let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
        Self(child.expect("`systemd-socket-activate`: install systemd (tests/run does)"))
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_first_connection_starts_it_and_it_exits_when_the_service_sleeps() {
    let stage = crate::support::HookService::new();
    let (one, two) = (Place::tcp(), Place::tcp());
    let run = stage.run().cooldown("100ms").to("two=127.0.0.1:9");
    let listen = [format!("--listen={one}"), format!("--listen={two}")];
    let mut activated = Activated::new(&[&listen[0], &listen[1], "--fdname=one:two"], &run);
    let client = soon("it listens", || one.try_connect().ok());
    client.echoes("hello");
    drop(client);
    let status = soon("it exits", || activated.0.try_wait().expect("it is ours"));
    assert!(status.success(), "{status}");
    assert_eq!((stage.count("start"), stage.count("stop")), (1, 1));
    let mut log = String::new();
    activated
        .0
        .stderr
        .take()
        .expect("piped")
        .read_to_string(&mut log)
        .expect("text");
    assert!(log.contains("idle; exiting"), "{log}");
}

#[test]
fn each_of_sixty_four_sockets_has_its_target_and_equal_names_share_one() {
    let dir = directory();
    let fronts: Vec<_> = (0..64).map(|_| Place::path(&dir)).collect();
    let targets: Vec<_> = (0..32).map(|_| Place::path(&dir)).collect();
    let servers = targets.iter().enumerate().map(|(number, target)| {
        Server::at(target, move |client| {
            client.send(format!("target {number}"));
        })
    });
    let _servers: Vec<_> = servers.collect();
    let mut run = Run::new();
    for (number, target) in targets.iter().enumerate() {
        run = run.to(format!("name{number}={target}"));
    }
    let name = |number: usize| format!("name{}", number % 32);
    let mut arguments: Vec<_> = fronts
        .iter()
        .map(|front| format!("--listen={front}"))
        .collect();
    let names: Vec<_> = (0..64).map(name).collect();
    arguments.push(format!("--fdname={}", names.join(":")));
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let _activated = Activated::new(&arguments, &run);
    for (number, front) in fronts.iter().enumerate() {
        let client = soon("it listens", || front.try_connect().ok());
        assert_eq!(client.all(), format!("target {}", number % 32).as_bytes());
    }
}

#[test]
fn a_socket_unit_with_accept_yes_is_refused() {
    let place = Place::tcp();
    let listen = format!("--listen={place}");
    let dir = directory();
    let log = dir.path().join("log");
    let wrapper = script(
        &dir.path().join("wrapper"),
        &format!(
            "#!/bin/sh\nexec 2>>{}\nexport LISTEN_PID=$$\nexec \"$@\"\n",
            log.display()
        ),
    );
    let run = anywhere().under(&[&wrapper]);
    let _activated = Activated::new(&[&listen, "--accept"], &run);
    let client = soon("it listens", || place.try_connect().ok());
    let _ = client.rest();
    until("it says so", || {
        fs::read_to_string(&log).is_ok_and(|log| log.contains("remove `Accept=yes`"))
    });
}
