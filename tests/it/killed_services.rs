//! A service that is killed in the midst of an exchange: what its client is told, and how often the request has reached
//! the service. 503 says that it never has; what may not be sent twice never is.

use std::fs;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{Client, Place, Run, Wakeport, directory, runs, script, soon, until};

/// Is killed where a file of that name says so, once for each file, and notes each request whose head it has read.
const SERVER: &str = include_str!("killed_services/server.py");

/// What a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Get,
    /// A body that comes with its head.
    Put,
    Post,
    /// The end of the body is sent when the service has the head.
    PutInPieces,
    PostInPieces,
}

impl Kind {
    /// Whether it may be sent again as a whole.
    fn may_be_repeated(self) -> bool {
        matches!(self, Self::Get | Self::Put)
    }

    fn pieces(self, path: &str, more: &str) -> (String, &'static str) {
        let (method, body, rest) = match self {
            Self::Get => ("GET", "\r\n", ""),
            Self::Put => ("PUT", "Content-Length: 4\r\n\r\nbody", ""),
            Self::Post => ("POST", "Content-Length: 4\r\n\r\nbody", ""),
            Self::PutInPieces => (
                "PUT",
                "Transfer-Encoding: chunked\r\n\r\n4\r\nbo",
                "dy\r\n0\r\n\r\n",
            ),
            Self::PostInPieces => (
                "POST",
                "Transfer-Encoding: chunked\r\n\r\n4\r\nbo",
                "dy\r\n0\r\n\r\n",
            ),
        };
        (
            format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{more}{body}"),
            rest,
        )
    }
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Status(u16),
    /// It sees that the response is not whole.
    Reset,
}

struct Stage {
    dir: TempDir,
    front: Place,
    wakeport: Wakeport,
    requests: usize,
}

impl Stage {
    fn new() -> Self {
        let (dir, front, target) = (directory(), Place::tcp(), Place::tcp());
        let server = script(&dir.path().join("server"), SERVER);
        let run = Run::new().to(&target).listen(&front).flag("--http");
        let wakeport = run.option("--exec", format!("{server} {target}")).start();
        Self {
            dir,
            front,
            wakeport,
            requests: 0,
        }
    }

    fn lines(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// How often the service has had the request.
    fn reached(&self, path: &str) -> usize {
        self.lines("seen")
            .iter()
            .filter(|line| *line == path)
            .count()
    }

    /// Has it be killed there from now on, once for each of these.
    fn is_killed(&self, phases: &[&str]) {
        for phase in phases {
            fs::write(self.dir.path().join(phase), "").expect("a file of ours");
        }
    }

    /// Ends the service, and waits until wakeport knows.
    fn kill(&self) {
        let pids = self.lines("pids");
        let pid: u32 = pids
            .last()
            .and_then(|pid| pid.parse().ok())
            .expect("a service");
        let known = self.crashes();
        if runs(pid) {
            kill_process(
                Pid::from_raw(pid.cast_signed()).expect("a process ID"),
                Signal::KILL,
            )
            .expect("it runs");
            until("it is gone", || !runs(pid) && self.crashes() > known);
        }
    }

    fn crashes(&self) -> usize {
        self.wakeport.log().matches("exited unexpectedly").count()
    }

    fn path(&mut self) -> String {
        self.requests += 1;
        format!("/{}", self.requests)
    }

    /// Sends a request on this connection, and returns what comes up to the end, which is asked for.
    fn asks(&self, client: &Client, path: &str, kind: Kind) -> Told {
        let (first, rest) = kind.pieces(path, "Connection: close\r\n");
        client.send(first);
        if !rest.is_empty() {
            until("the service has the head, or is gone", || {
                self.reached(path) > 0 || !client.is_silent()
            });
            let _ = client.try_send(rest);
        }
        let (bytes, end) = client.rest();
        let text = String::from_utf8(bytes).expect("text");
        // The last response is the one that counts.
        let response = text.rfind("HTTP/1.1 ").map(|at| &text[at..]);
        let status = response.and_then(|response| response.get(9..12)?.parse().ok());
        match (status, end) {
            (Some(200), Ok(())) if text.ends_with("\r\n\r\nabcdef") => Told::Status(200),
            (Some(status), Ok(())) if status != 200 => Told::Status(status),
            (_, Err(_)) => Told::Reset,
            (_, Ok(())) => panic!("{path}: an end that looks orderly: {text:?}"),
        }
    }

    /// The service can be had.
    fn goes_on(&mut self) {
        soon("it is answered", || {
            let path = self.path();
            (self.asks(&self.front.connect(), &path, Kind::Get) == Told::Status(200)).then_some(())
        });
    }
}

/// What may come of a request when the service is killed there, and how often it may have reached it.
fn outcomes(phase: &str, kind: Kind) -> &'static [(Told, usize)] {
    const AGAIN: (Told, usize) = (Told::Status(200), 2);
    const ONCE: (Told, usize) = (Told::Status(200), 1);
    match (phase, kind.may_be_repeated()) {
        ("waking", _) => &[(Told::Status(503), 0)],
        // Without a connection that was accepted, the wake has failed.
        ("connect" | "unread", true) => &[ONCE, (Told::Status(503), 0)],
        // It is known of some connections that nothing can have been sent on them.
        ("connect" | "unread", false) => &[(Told::Status(502), 0), (Told::Status(503), 0), ONCE],
        ("head" | "body" | "before", true) => &[AGAIN],
        ("head" | "body" | "before" | "interim", _) => &[(Told::Status(502), 1)],
        _ => &[(Told::Reset, 1)],
    }
}

fn is_killed_in_every_phase(kind: Kind) {
    let mut stage = Stage::new();
    for phase in [
        "waking",
        "connect",
        "unread",
        "head",
        "body",
        "before",
        "interim",
        "response-head",
        "response-body",
    ] {
        if phase == "body" && kind == Kind::Get {
            continue;
        }
        if ["waking", "connect", "unread"].contains(&phase) && stage.requests > 0 {
            stage.kill();
        }
        stage.is_killed(&[phase]);
        let path = stage.path();
        let told = stage.asks(&stage.front.connect(), &path, kind);
        let outcome = (told, stage.reached(&path));
        let expected = outcomes(phase, kind);
        assert!(
            expected.contains(&outcome),
            "{kind:?}, killed at `{phase}`: {outcome:?} instead of {expected:?}"
        );
        assert!(
            !stage.dir.path().join(phase).exists(),
            "it was not killed at `{phase}`"
        );
        stage.goes_on();
        assert_eq!(
            stage.reached(&path),
            outcome.1,
            "{kind:?}, killed at `{phase}`: it came later"
        );
    }
}

#[test]
fn a_get_survives_a_service_that_is_killed() {
    is_killed_in_every_phase(Kind::Get);
}

#[test]
fn a_put_survives_a_service_that_is_killed() {
    is_killed_in_every_phase(Kind::Put);
}

#[test]
fn a_post_is_never_sent_twice_to_a_service_that_is_killed() {
    is_killed_in_every_phase(Kind::Post);
}

#[test]
fn an_upload_is_never_sent_twice_to_a_service_that_is_killed() {
    thread::scope(|scope| {
        scope.spawn(|| is_killed_in_every_phase(Kind::PutInPieces));
        is_killed_in_every_phase(Kind::PostInPieces);
    });
}

#[test]
fn a_service_that_is_killed_again_is_not_asked_a_third_time() {
    let mut stage = Stage::new();
    for phase in ["head", "before"] {
        // On a connection of its own.
        stage.goes_on();
        stage.kill();
        stage.is_killed(&[phase, &format!("{phase}.again")]);
        let path = stage.path();
        let told = stage.asks(&stage.front.connect(), &path, Kind::Get);
        let outcome = (told, stage.reached(&path));
        assert_eq!(outcome, (Told::Status(502), 2), "killed at `{phase}`");
        stage.goes_on();
    }
}

#[test]
fn a_service_that_is_killed_between_two_requests_costs_none() {
    let mut stage = Stage::new();
    for kind in [
        Kind::Get,
        Kind::Put,
        Kind::Post,
        Kind::PutInPieces,
        Kind::PostInPieces,
    ] {
        let client = stage.front.connect();
        let path = stage.path();
        client.send(Kind::Get.pieces(&path, "").0);
        let kept = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nKeep-Alive: timeout=145\r\n\r\nabcdef";
        assert_eq!(String::from_utf8_lossy(&client.take(kept.len())), kept);
        stage.kill();
        let path = stage.path();
        assert_eq!(
            stage.asks(&client, &path, kind),
            Told::Status(200),
            "{kind:?}"
        );
        assert_eq!(stage.reached(&path), 1, "{kind:?}");
    }
}

#[test]
fn an_upgraded_connection_ends_with_a_service_that_is_killed() {
    let mut stage = Stage::new();
    let path = stage.path();
    let client = stage.front.connect();
    client.send(format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    ));
    let told = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&client.take(told.len())), told);
    client.echoes("hello");
    stage.is_killed(&["upgraded"]);
    client.send("bye");
    let (last, _) = client.rest();
    assert!(last.is_empty() || last == b"bye", "{last:?}");
    stage.goes_on();
    assert_eq!(stage.reached(&path), 1);
}
