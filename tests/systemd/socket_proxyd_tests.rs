//! What systemd's own tests check of its proxy and of socket activation, with wakeport in the proxy's place.
//!
//! Each scenario says which of them it stands for (test/units in systemd's sources), and was written anew from what
//! that one checks.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use crate::rig::{Client, GoneAs, Rig};
use crate::services::{NEVER, PORT, PYTHON, SOON, TARGET, URL, nginx, nginx_does, python};

const BACKEND: &str = "/run/rig/backend.sock";

/// An echo server on a Unix socket, for any number of clients.
const ECHO: &str = r#"
import socketserver, sys

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)

class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 128

Server(sys.argv[1], Echo).serve_forever()
"#;

/// The proxy as systemd's test has it: two units of a few lines, and none of ours.
fn proxy(rig: &Rig, options: &str) {
    rig.unit("proxy.socket", &format!("[Socket]\nListenStream={PORT}\n"));
    rig.unit(
        "proxy.service",
        &format!("[Service]\nExecStart=wakeport run {options} --to={BACKEND}\n"),
    );
    rig.systemctl("start proxy.socket");
}

/// Says `text`, and no more, and hears what comes back until the end.
fn echo(text: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(PORT).expect("an open port");
    let mut writer = stream.try_clone().expect("a descriptor");
    thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(text).expect("a reader");
            writer.shutdown(Shutdown::Write).expect("a connection");
        });
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).expect("an orderly end");
        heard
    })
}

/// TEST-74-AUX-UTILS.socket-proxyd: bytes come back through a proxy that a socket starts, from a server on a Unix
/// socket: a few, a few more on a second connection, and 64 KiB at once. With at most one connection at a time the next
/// one has to do without while the first is held, and is served when that has gone; systemd-socket-proxyd closes it
/// meanwhile, and here it waits.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn socket_proxyd() {
    let rig = Rig::boot();
    rig.write("/run/rig/echo.py", ECHO);
    rig.unit(
        "backend.service",
        &format!("[Service]\nExecStart=python3 /run/rig/echo.py {BACKEND}\n"),
    );
    rig.systemctl("start backend.service");
    rig.wait_for("the backend listens", || rig.path(BACKEND).exists());
    proxy(&rig, "");

    assert_eq!(echo(b"hello"), b"hello");
    assert_eq!(echo(b"world"), b"world");
    let noise: Vec<u8> = (0..65_536_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    assert!(echo(&noise) == noise, "64 KiB come back as they were");

    rig.systemctl("stop proxy.socket proxy.service");
    proxy(&rig, "--max-connections=1");
    let mut held = TcpStream::connect(PORT).expect("an open port");
    let mut heard = [0; 4];
    held.write_all(b"held").expect("a reader");
    held.read_exact(&mut heard).expect("an echo");
    assert_eq!(&heard, b"held");
    thread::scope(|scope| {
        let waits = scope.spawn(|| echo(b"again"));
        rig.wait_for("the second one waits in the backlog", || {
            rig.run(&format!(
                "ss --no-header --listening --numeric --tcp 'src {PORT}'"
            ))
            .split_whitespace()
            .nth(1)
                == Some("1")
        });
        assert!(!waits.is_finished(), "no answer while the first is held");
        drop(held);
        assert_eq!(waits.join().expect("a client"), b"again");
    });
}

/// TEST-07-PID1.issue-2467: a connection to a service whose start condition does not hold makes systemd start it again
/// and again, until the limit for triggers fails the socket. Behind wakeport it is a failed wake: the client is reset
/// and the port stays open, under systemd's own limits, too, which our units switch off.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn issue_2467() {
    let rig = Rig::boot();
    python(&rig);
    rig.unit(
        "web.service",
        &format!("[Unit]\nConditionPathExists=/run/rig/not-yet\n{PYTHON}"),
    );
    rig.drop_in(
        "wakeport@web.socket",
        "limits",
        "[Socket]\nTriggerLimitIntervalSec=2s\nTriggerLimitBurst=20\n",
    );
    rig.drop_in(
        "wakeport@web.service",
        "limits",
        "[Unit]\nStartLimitIntervalSec=10s\nStartLimitBurst=5\n",
    );
    rig.instance("web", PORT, TARGET, &[SOON]);
    for _ in 0..50 {
        assert_eq!(Client::asks(PORT).reads(), (String::new(), GoneAs::Reset));
    }
    assert!(rig.is("active", "wakeport@web.socket"));
    assert_eq!(rig.show("Result", "wakeport@web.socket"), "success");
    assert_eq!(rig.starts("wakeport@web.service"), 1);
    let log = rig.journal("wakeport@web.service");
    assert!(
        log.to_lowercase().contains("condition"),
        "the log says why:\n{log}"
    );

    rig.write("/run/rig/not-yet", "");
    rig.wait_for("a client is served", || rig.try_curl(URL).is_ok());
}

/// TEST-07-PID1.socket-on-failure: a socket that cannot be opened is failed and its OnFailure= unit is started, be it
/// that nothing can be made in its directory or that something else is in its place; with that taken away it opens.
/// systemd 252 starts that unit only when the socket was not failed before, so here the first failure is forgotten first.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn socket_on_failure() {
    let rig = Rig::boot();
    python(&rig);
    rig.run("mkdir /run/rig/ports && mount -t tmpfs tmpfs /run/rig/ports");
    rig.unit(
        "mend.service",
        "[Service]\nType=oneshot\nExecStart=rmdir /run/rig/ports/web\nRemainAfterExit=yes\n",
    );
    rig.drop_in(
        "wakeport@web.socket",
        "failure",
        "[Unit]\nOnFailure=mend.service\n",
    );
    let page = "curl -sS --fail --unix-socket /run/rig/ports/web http://web/";
    rig.instance("web", "/run/rig/ports/web", TARGET, &[SOON]);
    assert_eq!(rig.run(page), "hello");
    rig.wait_until_asleep("web");
    rig.systemctl("stop wakeport@web.socket");

    rig.run("rm -f /run/rig/ports/web && mount -o remount,ro /run/rig/ports");
    assert!(
        !rig.attempt("systemctl start wakeport@web.socket")
            .status
            .success()
    );
    assert!(rig.is("failed", "wakeport@web.socket"));
    rig.wait_until("failed", "mend.service");

    rig.run("mount -o remount,rw /run/rig/ports && mkdir /run/rig/ports/web");
    rig.systemctl("reset-failed wakeport@web.socket");
    assert!(
        !rig.attempt("systemctl start wakeport@web.socket")
            .status
            .success()
    );
    assert!(rig.is("failed", "wakeport@web.socket"));
    rig.wait_until("active", "mend.service");

    rig.systemctl("start wakeport@web.socket");
    assert_eq!(rig.run(page), "hello");
    rig.wait_until_asleep("web");
}

/// TEST-07-PID1.poll-limit: a hundred connections at once to a socket that systemd accepts for, of which it takes three
/// in ten seconds. PollLimitIntervalSec= came with systemd 255; 252 says that it does not know it, and has no such
/// limit. With wakeport one look at the socket is enough for all hundred, so that with the limit and without it each
/// one is served, and the next hundred as well.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn poll_limit() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.drop_in(
        "wakeport@nginx.socket",
        "limits",
        "[Socket]\nPollLimitIntervalSec=10s\nPollLimitBurst=3\n",
    );
    nginx_does(&rig, "ExecStartPre=sleep 0.5");
    rig.instance("nginx", PORT, TARGET, &[SOON]);
    for flood in 1..=2 {
        let clients: Vec<_> = (0..100).map(|_| Client::asks(PORT)).collect();
        for client in clients {
            assert_eq!(client.page(), "hello");
        }
        rig.wait_until_asleep("nginx");
        assert_eq!(rig.starts("wakeport@nginx.service"), flood);
        assert_eq!(rig.show("Result", "wakeport@nginx.socket"), "success");
    }
}

/// TEST-07-PID1.socket-max-connection: a socket with a limit of connections goes on when the limit is reached, and takes
/// the next one when one has gone. systemd counts only what it accepts itself (Accept=yes) and closes what is too much;
/// behind wakeport's own limit it waits.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn socket_max_connection() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance(
        "nginx",
        PORT,
        TARGET,
        &[NEVER, "WAKEPORT_MAX_CONNECTIONS=2"],
    );
    let mut held = [Client::connect(PORT), Client::connect(PORT)];
    for client in &mut held {
        assert_eq!(client.ask_again(), "hello");
    }
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| Client::asks(PORT).page()))
            .collect();
        for client in &mut held {
            assert_eq!(client.ask_again(), "hello");
        }
        assert!(waiting.iter().all(|client| !client.is_finished()));
        let established = "state established";
        let command =
            format!("ss --no-header --numeric --tcp {established} 'dst {TARGET}' | wc -l");
        assert_eq!(rig.run(&command).trim(), "2", "nginx has two clients");
        drop(held);
        for client in waiting {
            assert_eq!(client.join().expect("a client"), "hello");
        }
    });
    assert_eq!(rig.show("Result", "wakeport@nginx.socket"), "success");
    assert!(rig.is("active", "wakeport@nginx.socket"));
}
