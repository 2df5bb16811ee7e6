//! Connections of an earlier process, taken from systemd's file descriptor store. The queue is written here by hand,
//! as any version might have written it; tests/systemd/restarts.rs has the whole of it.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use socket2::Socket;

use crate::support::{
    Client, HookService, Place, Run, Server, directory, noise, throughout, until,
};
use crate::tls::hello;

const NAME: &str = "wakeport-connections";

/// Both ends of a connection to a listener: the client's, and the one that was accepted.
fn pair(place: &Place, listener: &Socket) -> (Client, Socket) {
    let client = place.connect();
    let (accepted, _) = listener.accept().expect("a connection");
    (client, accepted)
}

/// A queue with these messages.
pub(crate) fn queue(messages: &[(&str, &[BorrowedFd<'_>])]) -> UnixStream {
    let (input, output) = UnixStream::pair().expect("two sockets");
    for (text, descriptors) in messages {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        let text = [IoSlice::new(text.as_bytes())];
        sendmsg(&input, &text, &mut control, SendFlags::empty()).expect("there is room");
    }
    output
}

fn line(connections: &[&str]) -> String {
    format!(
        "{{\"version\":1,\"connections\":[{}]}}\n",
        connections.join(",")
    )
}

/// A client that waits for its target.
const WAITS: &str = r#"{"listener":"web","peer":"192.0.2.7:4711","identified":true}"#;

/// One that is relayed; nothing is left over.
const RELAYED: &str = r#"{"listener":"web","peer":"192.0.2.7:4711","identified":true,"relayed":{"up":{"total":3},"down":{"total":4},"idle":0}}"#;

/// A file with what is left over.
pub(crate) fn rest(bytes: &[u8]) -> OwnedFd {
    let file = memfd_create("rest", MemfdFlags::CLOEXEC).expect("a file");
    File::from(file.try_clone().expect("a descriptor"))
        .write_all(bytes)
        .expect("there is memory");
    file
}

#[test]
fn relayed_connections_go_on_byte_by_byte() {
    let dir = directory();
    for (front, target) in [
        (Place::tcp(), Place::tcp()),
        (Place::path(&dir), Place::tcp()),
        (Place::tcp(), Place::path(&dir)),
    ] {
        let (listener, server) = (front.listen(), target.listen());
        let (client, accepted) = pair(&front, &listener);
        let (dialled, service) = pair(&target, &server);
        let service = Client::from(service);
        let (up, down) = (noise(1, 70_000), noise(2, 1_000_000));
        let text = line(&[
            r#"{"listener":"web","peer":null,"identified":true,"relayed":{"up":{"total":3,"rest":70000},"down":{"total":4,"rest":1000000},"idle":9}}"#,
        ]);
        let file = rest(&[&up[..], &down[..]].concat());
        let queue = queue(&[(
            &text,
            &[accepted.as_fd(), dialled.socket().as_fd(), file.as_fd()],
        )]);
        drop((accepted, dialled));
        let wakeport = Run::new()
            .to(&target)
            .inherit("web", &listener)
            .inherit(NAME, &queue)
            .start();
        wakeport.logs("took 1 connection over from the process before");
        assert!(service.take(up.len()) == up && client.take(down.len()) == down);
        for round in 0..3 {
            let text = format!("round {round}");
            client.send(&text);
            assert_eq!(service.take(text.len()), text.as_bytes());
            service.send(&text);
            assert_eq!(client.take(text.len()), text.as_bytes());
        }
        client.finish();
        assert_eq!(service.all(), b"");
        service.send("the last word");
        service.finish();
        assert_eq!(client.all(), b"the last word");
        until("the queue is not wanted any more", || {
            wakeport.has_said("FDSTOREREMOVE=1") && wakeport.has_said(&format!("FDNAME={NAME}"))
        });
    }
}

#[test]
fn a_way_that_has_ended_stays_ended_and_a_broken_one_breaks_the_other() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let (listener, server) = (front.listen(), target.listen());
    let (client, accepted) = pair(&front, &listener);
    let (dialled, service) = pair(&target, &server);
    let service = Client::from(service);
    client.finish();
    dialled.finish();
    let (broken, broken_accepted) = pair(&front, &listener);
    let (broken_dialled, broken_service) = pair(&target, &server);
    let ended = r#"{"listener":"web","peer":"192.0.2.7:1","identified":true,"relayed":{"up":{"total":3,"end":"finished"},"down":{"total":4},"idle":0}}"#;
    let reset = r#"{"listener":"web","peer":"192.0.2.7:2","identified":true,"relayed":{"up":{"total":3},"down":{"total":4,"rest":4,"end":{"source-broken":"reset"}},"idle":0}}"#;
    let text = line(&[ended, reset]);
    let file = rest(b"last");
    let queue = queue(&[(
        &text,
        &[
            accepted.as_fd(),
            dialled.socket().as_fd(),
            broken_accepted.as_fd(),
            broken_dialled.socket().as_fd(),
            file.as_fd(),
        ],
    )]);
    drop((
        accepted,
        dialled,
        broken_accepted,
        broken_dialled,
        broken_service,
    ));
    let _wakeport = Run::new()
        .to(&target)
        .inherit("web", &listener)
        .inherit(NAME, &queue)
        .start();
    assert_eq!(service.all(), b"");
    service.send("answer");
    service.finish();
    assert_eq!(client.all(), b"answer");
    broken.is_reset();
}

#[test]
fn waiting_clients_wake_the_service_and_are_served() {
    let stage = HookService::new();
    let front = Place::tcp();
    let listener = front.listen();
    let pairs: Vec<_> = (0..3).map(|_| pair(&front, &listener)).collect();
    for (client, _) in &pairs {
        client.send("hello");
    }
    let text = line(&[WAITS, WAITS, WAITS]);
    let sockets: Vec<_> = pairs.iter().map(|(_, accepted)| accepted.as_fd()).collect();
    let queue = queue(&[(&text, &sockets)]);
    let wakeport = stage
        .run()
        .inherit("web", &listener)
        .inherit(NAME, &queue)
        .start();
    for (client, _) in &pairs {
        assert_eq!(client.take(5), b"hello");
    }
    assert_eq!(stage.count("start"), 1);
    wakeport.is("awake: 3 clients, 3 served");
}

#[test]
fn a_client_of_a_load_balancer_keeps_its_header() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let (listener, server) = (front.listen(), target.listen());
    let (known, known_accepted) = pair(&front, &listener);
    let (new, new_accepted) = pair(&front, &listener);
    known.send("hello");
    let header = r#"{"listener":"web","peer":"192.0.2.7:4711","header":{"tcp":{"client":"192.0.2.7:4711","server":"192.0.2.8:80"}},"identified":true}"#;
    let unread = r#"{"listener":"web","peer":"127.0.0.1:1","identified":false}"#;
    let text = line(&[header, unread]);
    let queue = queue(&[(&text, &[known_accepted.as_fd(), new_accepted.as_fd()])]);
    let _wakeport = Run::new()
        .to(&target)
        .inherit("web", &listener)
        .inherit(NAME, &queue)
        .flag("--accept-proxy")
        .option("--send-proxy", "v1")
        .start();
    let next = || Client::from(server.accept().expect("a connection").0);
    let expected = "PROXY TCP4 192.0.2.7 192.0.2.8 4711 80\r\nhello";
    assert_eq!(next().take(expected.len()), expected.as_bytes());
    let expected = "PROXY TCP4 192.0.2.9 192.0.2.8 12 80\r\nhello";
    new.send(expected);
    assert_eq!(next().take(expected.len()), expected.as_bytes());
}

#[test]
fn half_a_client_hello_goes_on_in_the_next_process_by_its_name() {
    let (docs, films) = (HookService::new(), HookService::new());
    let dir = directory();
    let path = dir.path().join("https.toml");
    let table = |name: &str, stage: &HookService| {
        let (place, hook) = (&stage.scene().place, stage.hook());
        format!(
            "[service.{name}]\nhost = '{name}.example.org'\nto = '{place}'\nstart-hook = '{hook}'\nstop-hook = '{hook}'\n"
        )
    };
    let tables = [table("docs", &docs), table("films", &films)];
    std::fs::write(&path, tables.concat()).expect("a file of ours");
    let front = Place::tcp();
    let listener = front.listen();
    let (half, half_accepted) = pair(&front, &listener);
    let (waits, waits_accepted) = pair(&front, &listener);
    let bytes = hello("films.example.org");
    let (first, second) = bytes.split_at(30);
    // One has said half of it, the other all, and waited for a service that is not the first one.
    let connection = |service: &str, said: usize| {
        format!(
            r#"{{"listener":"web","peer":"192.0.2.7:4711","identified":true,"service":"{service}","said":{said}}}"#
        )
    };
    let all = [
        connection("docs", first.len()),
        connection("films", bytes.len()),
    ];
    let text = line(&all.each_ref().map(String::as_str));
    let text = text.replace("\"version\":1", "\"version\":2");
    let file = rest(&[first, &bytes].concat());
    let queue = queue(&[(
        &text,
        &[half_accepted.as_fd(), waits_accepted.as_fd(), file.as_fd()],
    )]);
    drop((half_accepted, waits_accepted));
    let wakeport = Run::new()
        .option("--config", path.display())
        .option("--tls", "pass")
        .inherit("web", &listener)
        .inherit(NAME, &queue)
        .start();
    wakeport.logs("took 2 connections over from the process before");
    assert!(waits.take(bytes.len()) == bytes);
    assert!(half.is_silent());
    half.send(second);
    assert!(half.take(bytes.len()) == bytes);
    assert_eq!((docs.count("start"), films.count("start")), (0, 1));
}

#[test]
fn the_service_is_not_stopped_and_the_process_stays_while_such_a_connection_is_open() {
    let stage = HookService::new();
    stage.scene().up();
    let front = Place::tcp();
    let listener = front.listen();
    let (client, accepted) = pair(&front, &listener);
    let dialled = stage.scene().place.connect();
    let text = line(&[RELAYED]);
    let queue = queue(&[(&text, &[accepted.as_fd(), dialled.socket().as_fd()])]);
    drop((accepted, dialled));
    let mut wakeport = stage
        .run()
        .inherit("web", &listener)
        .inherit(NAME, &queue)
        .cooldown("0")
        .start();
    wakeport.is("awake: 1 client");
    throughout(Duration::from_secs(1), "it is awake", || {
        stage.count("stop") == 0 && wakeport.is_running()
    });
    client.echoes("hello");
    drop(client);
    wakeport.ends();
    assert_eq!((stage.count("start"), stage.count("stop")), (0, 1));
}

#[test]
fn what_cannot_be_read_is_reset_and_new_clients_are_served() {
    let target = Place::tcp();
    let _server = Server::echo(&target);
    let stray = r#"{"listener":"elsewhere","peer":null,"identified":true}"#;
    let long = r#"{"listener":"web","peer":null,"identified":true,"relayed":{"up":{"total":3,"rest":18446744073709551615},"down":{"total":4,"rest":9},"idle":0}}"#;
    for (text, log) in [
        (
            "{\"version\":5,\"sessions\":{}}\n".to_owned(),
            "reset: they are of version 5 of the format, and this wakeport reads up to 4",
        ),
        (line(&[stray]), "1 connections to `elsewhere` were left"),
        (
            line(&[WAITS, WAITS]),
            "reset: they are not written as wakeport does",
        ),
        (
            line(&[RELAYED]),
            "reset: they are not written as wakeport does",
        ),
        (
            line(&[long]),
            "reset: they are not written as wakeport does",
        ),
        (
            line(&[WAITS]).trim_end().to_owned(),
            "reset: they are not written as wakeport does",
        ),
        (
            "\u{7f}ELF\n".to_owned(),
            "reset: they are not written as wakeport does",
        ),
    ] {
        let front = Place::tcp();
        let listener = front.listen();
        let (client, accepted) = pair(&front, &listener);
        let queue = queue(&[(&text, &[accepted.as_fd()])]);
        drop(accepted);
        let wakeport = Run::new()
            .to(&target)
            .inherit("web", &listener)
            .inherit(NAME, &queue)
            .flag("--stay")
            .start();
        wakeport.logs(log);
        client.is_reset();
        front.connect().echoes("hello");
    }
}

#[test]
fn odd_queues_are_ignored() {
    let target = Place::tcp();
    let _server = Server::echo(&target);
    let dir = directory();
    let file = File::create(dir.path().join("file")).expect("a file");
    let datagram = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let empty = queue(&[]);
    let (open, _other) = UnixStream::pair().expect("two sockets");
    let text = line(&[WAITS]);
    let no_socket = queue(&[(&text, &[file.as_fd()])]);
    let odd: [&dyn AsFd; 6] = [&file, &datagram, &udp, &empty, &open, &no_socket];
    for odd in odd {
        let front = Place::tcp();
        let wakeport = Run::new()
            .to(&target)
            .inherit("web", &front.listen())
            .inherit(NAME, &odd)
            .flag("--stay")
            .start();
        front.connect().echoes("hello");
        until("it is removed", || {
            wakeport.has_said("FDSTOREREMOVE=1") && wakeport.has_said(&format!("FDNAME={NAME}"))
        });
    }
}
