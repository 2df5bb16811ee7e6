//! Several services in one process: each is woken and stopped by itself, and a reload cuts none.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use rustix::process::Signal;
use socket2::Socket;
use tempfile::TempDir;

use crate::support::{HookService, Place, Run, Wakeport, directory, script, until};

/// A file, and the sockets of the listeners `a` and `b`.
struct Front {
    dir: TempDir,
    places: [Place; 2],
    sockets: [Socket; 2],
}

impl Front {
    fn new() -> Self {
        let places = [Place::tcp(), Place::tcp()];
        let sockets = [places[0].listen(), places[1].listen()];
        let dir = directory();
        Self {
            dir,
            places,
            sockets,
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("web.toml")
    }

    fn write(&self, services: &[String]) {
        fs::write(self.path(), services.concat()).expect("a file of ours");
    }

    fn run(&self) -> Run {
        Run::new()
            .option("--config", self.path().display())
            .inherit("a", &self.sockets[0])
            .inherit("b", &self.sockets[1])
    }
}

/// A service that the hooks of `stage` start and stop.
fn service(name: &str, stage: &HookService, cooldown: &str) -> String {
    format!(
        "[service.{name}]\nlistener = '{name}'\nto = '{}'\ncooldown = '{cooldown}'\nstart-hook = '{hook}'\nstop-hook = '{hook}'\n",
        stage.scene().place,
        hook = stage.hook()
    )
}

#[test]
fn each_is_woken_and_stopped_by_itself_and_the_process_exits_when_all_sleep() {
    let (front, a, b) = (Front::new(), HookService::new(), HookService::new());
    front.write(&[service("a", &a, "10ms"), service("b", &b, "10ms")]);
    let client = front.places[0].connect();
    let mut wakeport = front.run().start();
    client.echoes("to a");
    assert_eq!((a.count("start"), b.count("start")), (1, 0));
    wakeport.is("2 services: 1 awake, 1 asleep");
    for round in 1..=5 {
        front.places[1].connect().echoes("to b");
        b.reaches("stop", round);
    }
    client.echoes("a has not noticed");
    assert_eq!((a.count("start"), a.count("stop")), (1, 0));
    drop(client);
    a.reaches("stop", 1);
    wakeport.ends();
    // The next client begins again.
    let again = front.places[1].connect();
    let mut wakeport = front.run().start();
    again.echoes("to b");
    drop(again);
    wakeport.ends();
    assert_eq!((a.count("start"), b.count("start")), (1, 6));
}

#[test]
fn one_that_fails_does_not_concern_the_clients_of_another() {
    let (front, a) = (Front::new(), HookService::new());
    let b = HookService::direct(|_| (), |_, call| i32::from(call.event == "start"));
    front.write(&[service("a", &a, "10ms"), service("b", &b, "10ms")]);
    let client = front.places[0].connect();
    let wakeport = front.run().start();
    for _ in 0..20 {
        client.echoes("to a");
        front.places[1].connect().is_reset();
    }
    client.echoes("to a");
    wakeport.is("2 services: 1 failed, 1 awake");
    assert_eq!((a.count("start"), a.count("stop")), (1, 0));
}

/// Clients that come and go while `change` is done, each served.
fn under_load(place: &Place, change: impl FnOnce()) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    place.connect().echoes("all the time");
                }
            });
        }
        change();
        over.store(true, Ordering::Relaxed);
    });
}

fn reload(wakeport: &Wakeport) {
    let before = wakeport.log().matches("reloaded: ").count();
    wakeport.signal(Signal::HUP);
    until("it has reloaded", || {
        wakeport.log().matches("reloaded: ").count() > before
    });
}

#[test]
fn a_reload_adds_changes_and_removes_a_service_under_load() {
    let (front, a, b) = (Front::new(), HookService::new(), HookService::new());
    front.write(&[service("a", &a, "1h")]);
    let stays = front.places[0].connect();
    let wakeport = front.run().start();
    wakeport.logs("listener `b` belongs to no service");
    front.places[1].connect().is_reset();
    stays.echoes("before");
    under_load(&front.places[0], || {
        for cooldown in ["2h", "3h", "10ms"] {
            front.write(&[service("a", &a, cooldown), service("b", &b, "10ms")]);
            reload(&wakeport);
        }
        let leaves = front.places[1].connect();
        leaves.echoes("added");
        front.write(&[service("a", &a, "10ms")]);
        reload(&wakeport);
        front.places[1].connect().is_reset();
        // Its connection goes on, and it is stopped when that has closed.
        leaves.echoes("removed");
        assert_eq!(b.count("stop"), 0);
        drop(leaves);
        b.reaches("stop", 1);
        wakeport.logs("service `b` is idle and no longer in the file: removed");
    });
    stays.echoes("after");
    assert_eq!((a.count("start"), a.count("stop")), (1, 0));
    drop(stays);
    // The changed cooldown holds.
    a.reaches("stop", 1);
}

/// A service whose first start waits until something is sent, or the sender is dropped.
fn slow_first_start() -> (HookService, Sender<()>) {
    let (begin, begins) = channel::<()>();
    let begins = Mutex::new(Some(begins));
    let slow = HookService::play(move |_, call| {
        let begins = begins.lock().expect("no panic").take();
        if let ("start", Some(begins)) = (call.event.as_str(), begins) {
            let _ = begins.recv();
        }
    });
    (slow, begin)
}

#[test]
fn clients_that_wait_are_served_after_a_reload() {
    let (front, a) = (Front::new(), HookService::new());
    let (slow, begin) = slow_first_start();
    front.write(&[service("a", &a, "1h"), service("b", &slow, "1h")]);
    let waiting = front.places[1].connect();
    let wakeport = front.run().start();
    waiting.send("hello");
    slow.reaches("start", 1);
    begin.send(()).expect("the hook runs");
    front.write(&[service("a", &a, "2h"), service("b", &slow, "2h")]);
    reload(&wakeport);
    assert_eq!(waiting.take(5), b"hello");
}

/// The start that is under way when the settings change is given up: that is no failure of the one
/// that follows.
#[test]
fn a_client_is_served_whose_start_a_reload_gives_up() {
    let (front, a) = (Front::new(), HookService::new());
    let (slow, _begin) = slow_first_start();
    front.write(&[service("a", &a, "1h"), service("b", &slow, "1h")]);
    let waiting = front.places[1].connect();
    let wakeport = front.run().start();
    waiting.send("hello");
    slow.reaches("start", 1);
    front.write(&[service("a", &a, "1h"), service("b", &slow, "2h")]);
    reload(&wakeport);
    assert_eq!(waiting.take(5), b"hello");
}

/// An echo server that notes each of its starts.
const CHILD: &str = r#"#!/usr/bin/python3
import socket, sys, threading
host, port = sys.argv[1].rsplit(":", 1)
listener = socket.create_server((host, int(port)))
with open(sys.argv[0] + ".starts", "a") as starts:
    print(sys.argv[2], file=starts)
def serve(client):
    while data := client.recv(65536):
        client.sendall(data)
    client.close()
while True:
    client, _ = listener.accept()
    threading.Thread(target=serve, args=(client,), daemon=True).start()
"#;

#[test]
fn a_changed_child_process_is_started_when_the_one_before_has_ended() {
    let (front, a) = (Front::new(), HookService::new());
    let program = front.dir.path().join("child");
    script(&program, CHILD);
    let child = |word: &str| {
        // Each has a place of its own.
        let (place, program) = (Place::tcp(), program.display());
        let exec = format!("exec = '{program} {place} {word}'");
        format!("[service.b]\nlistener = 'b'\nto = '{place}'\ncooldown = '10ms'\n{exec}\n")
    };
    let starts = || fs::read_to_string(program.with_extension("starts")).unwrap_or_default();
    let change = |word: &str| front.write(&[service("a", &a, "1h"), child(word)]);
    change("one");
    let stays = front.places[0].connect();
    let wakeport = front.run().start();
    let sleeps = |times: usize| {
        until(&format!("`b` has been stopped {times} times"), || {
            wakeport.log().matches(" stopped").count() >= times
        });
        wakeport.is("2 services: 1 awake, 1 asleep");
    };
    stays.echoes("to a");
    let inside = front.places[1].connect();
    inside.echoes("to the first child");
    change("two");
    reload(&wakeport);
    wakeport.logs("service `b` is in use: its new settings apply when it sleeps");
    inside.echoes("it goes on");
    front.places[1].connect().echoes("and takes clients");
    assert_eq!(starts(), "one\n");
    drop(inside);
    wakeport.logs("service `b` reconfigured");
    front.places[1].connect().echoes("to the second child");
    assert_eq!(starts(), "one\ntwo\n");
    // Asleep, it is changed at once.
    sleeps(2);
    change("three");
    reload(&wakeport);
    front.places[1].connect().echoes("to the third child");
    assert_eq!(starts(), "one\ntwo\nthree\n");
    // After a failure as well.
    sleeps(3);
    front.write(&[
        service("a", &a, "1h"),
        child("four").replace("/child ", "/missing "),
    ]);
    reload(&wakeport);
    front.places[1].connect().is_reset();
    wakeport.is("2 services: 1 failed, 1 awake");
    change("four");
    reload(&wakeport);
    front.places[1].connect().echoes("to the fourth child");
    assert_eq!(wakeport.log().matches(" is in use").count(), 1);
    stays.echoes("a has not noticed");
    assert_eq!((a.count("start"), a.count("stop")), (1, 0));
}

#[test]
fn a_wrong_file_changes_nothing_and_is_named_in_one_line() {
    let (front, a) = (Front::new(), HookService::new());
    front.write(&[service("a", &a, "1h")]);
    let client = front.places[0].connect();
    let wakeport = front.run().start();
    client.echoes("before");
    front.write(&[service("a", &a, "soon")]);
    wakeport.signal(Signal::HUP);
    wakeport.logs("cannot reload: ");
    wakeport.logs("web.toml:4:12: `cooldown` cannot be `soon`");
    wakeport.logs("nothing was changed");
    client.echoes("after");
    front.places[0].connect().echoes("and the next one");
    assert_eq!((a.count("start"), a.count("stop")), (1, 0));
}
