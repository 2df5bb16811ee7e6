//! The service as a child process, and the orphans of a container.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{Place, Run, Server, Wakeport, directory, runs, script, until};

/// A small echo server in a file of its own, run as a child.
struct Program {
    dir: TempDir,
    place: Place,
    front: Place,
}

const SERVER: &str = r#"#!/usr/bin/python3
import os, signal, socket, sys, threading
host, port = sys.argv[1].rsplit(":", 1)
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = socket.create_server((host, int(port)))
signal.signal(signal.SIGUSR1, lambda *_: listener.close())
with open(os.path.dirname(sys.argv[0]) + "/pids", "a") as pids:
    print(os.getpid(), file=pids)
print("listening")
def serve(client):
    while data := client.recv(65536):
        client.sendall(data)
    client.close()
while True:
    try:
        client, _ = listener.accept()
    except OSError:
        signal.pause()
    threading.Thread(target=serve, args=(client,), daemon=True).start()
"#;

impl Program {
    fn new() -> Self {
        let dir = directory();
        script(&dir.path().join("server"), SERVER);
        Self {
            dir,
            place: Place::tcp(),
            front: Place::tcp(),
        }
    }

    fn run(&self, arguments: &str) -> Run {
        let server = self.dir.path().join("server");
        let command = format!("{} {} {arguments}", server.display(), self.place);
        Run::new()
            .to(&self.place)
            .listen(&self.front)
            .option("--exec", command)
    }

    /// The children so far.
    fn children(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.dir.path().join("pids")).unwrap_or_default();
        text.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// The running child, once it has served a client.
    fn wake(&self) -> u32 {
        let client = self.front.connect();
        client.echoes("hello");
        let child = *self.children().last().expect("a child");
        assert!(runs(child));
        child
    }

    fn is_gone(&self, child: u32) {
        until("the child is gone", || !runs(child));
    }
}

#[test]
fn the_child_starts_for_the_first_client_and_ends_after_the_last() {
    let program = Program::new();
    let wakeport = program.run("").cooldown("100ms").start();
    assert!(program.children().is_empty());
    for count in 1..=2 {
        let child = program.wake();
        assert_eq!(program.children().len(), count);
        program.is_gone(child);
        wakeport.is(&format!("asleep, {count} served"));
    }
}

#[test]
fn a_child_that_ignores_sigterm_is_killed_after_the_stop_timeout() {
    let program = Program::new();
    let wakeport = program
        .run("deaf")
        .cooldown("0")
        .option("--stop-timeout", "300ms")
        .start();
    let child = {
        let client = program.front.connect();
        client.echoes("hello");
        program.children()[0]
    };
    wakeport.logs("stopping ");
    program.is_gone(child);
    wakeport.is("asleep, 1 served");
}

#[test]
fn on_sigterm_the_child_is_stopped() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let program = Program::new();
        let mut wakeport = program.run("").start();
        let child = program.wake();
        wakeport.signal(signal);
        wakeport.ends();
        assert!(!runs(child), "{signal:?}");
    }
}

#[test]
fn the_child_dies_when_wakeport_is_killed() {
    let program = Program::new();
    let mut wakeport = program.run("deaf").start();
    let child = program.wake();
    wakeport.signal(Signal::KILL);
    wakeport.wait();
    program.is_gone(child);
}

#[test]
fn a_foreign_process_at_the_target_is_used_and_never_stopped() {
    let program = Program::new();
    let mut wakeport = program.run("").cooldown("0").start();
    let server = Server::echo(&program.place);
    for _ in 0..2 {
        program.front.connect().echoes("hello");
        wakeport.is("asleep");
    }
    assert!(program.children().is_empty());
    wakeport.signal(Signal::TERM);
    wakeport.ends();
    let warnings = wakeport.whole_log().matches("answers already, so").count();
    assert_eq!(warnings, 1);
    assert!(program.place.answers());
    drop(server);
}

#[test]
fn a_child_that_exits_at_once_fails_its_client_at_once() {
    let front = Place::tcp();
    let program = directory();
    let child = script(
        &program.path().join("child"),
        "#!/bin/sh\necho no database\nexit 3\n",
    );
    let wakeport = Run::new()
        .to(Place::tcp())
        .listen(&front)
        .option("--exec", &child)
        .option("--start-timeout", "infinity")
        .start();
    front.connect().is_reset();
    wakeport.logs("service: no database");
    wakeport.logs(&format!(
        "cannot start {child}: `{child}` exited unexpectedly (exit status: 3)"
    ));
}

#[test]
fn a_child_that_crashes_under_clients_is_started_again_for_the_next_one() {
    let program = Program::new();
    let wakeport = program.run("").start();
    let client = program.front.connect();
    client.echoes("hello");
    let first = program.children()[0];
    let pid = Pid::from_raw(first.cast_signed()).expect("a process ID");
    kill_process(pid, Signal::KILL).expect("it runs");
    let _ = client.rest();
    wakeport.logs("exited unexpectedly (signal: 9 (SIGKILL))");
    let second = program.wake();
    assert_ne!(first, second);
}

#[test]
fn what_the_child_leaves_in_its_process_group_ends_with_it() {
    let (dir, front, target) = (directory(), Place::tcp(), Place::tcp());
    let pid = dir.path().join("pid");
    let child = script(
        &dir.path().join("child"),
        &format!(
            "#!/bin/sh\nsleep 1000 & echo $! >{0}.new; mv {0}.new {0}\nwait\n",
            pid.display()
        ),
    );
    let wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .option("--exec", child)
        .option("--stop-timeout", "10s")
        .cooldown("0")
        .start();
    let client = front.connect();
    until("the child's child", || pid.exists());
    let server = Server::echo(&target);
    client.echoes("hello");
    drop((client, server));
    wakeport.is("asleep, 1 served");
    let pid = fs::read_to_string(&pid)
        .expect("a file")
        .trim()
        .parse()
        .expect("a number");
    assert!(!runs(pid));
}

#[test]
fn the_exit_of_an_idle_wakeport_leaves_no_child() {
    let program = Program::new();
    let listener = program.front.listen();
    let run = Run::new()
        .to(&program.place)
        .inherit("web", &listener)
        .option(
            "--exec",
            format!(
                "{} {}",
                program.dir.path().join("server").display(),
                program.place
            ),
        )
        .cooldown("0");
    for _ in 0..2 {
        let client = program.front.connect();
        let mut wakeport: Wakeport = run.start();
        client.echoes("hello");
        drop(client);
        wakeport.ends();
        assert!(!program.children().into_iter().any(runs));
    }
}

#[test]
fn a_client_that_waits_at_sigterm_is_served_first() {
    let program = Program::new();
    // It would not end if it waited for anything but the client.
    let run = program.run("").cooldown("infinity");
    let mut wakeport = run.option("--drain-timeout", "infinity").start();
    let client = program.front.connect();
    wakeport.logs("waking ");
    wakeport.signal(Signal::TERM);
    client.echoes("hello");
    drop(client);
    wakeport.ends();
    assert!(!program.children().into_iter().any(runs));
}

#[test]
fn a_child_that_runs_but_has_stopped_listening_is_started_anew_for_the_next_client() {
    let program = Program::new();
    let wakeport = program.run("").option("--start-timeout", "5s").start();
    let child = program.wake();
    let pid = Pid::from_raw(child.cast_signed()).expect("a process ID");
    kill_process(pid, Signal::USR1).expect("it runs");
    until("it does not listen", || !program.place.answers());
    program.front.connect().is_reset();
    wakeport.logs("runs, but does not answer; stopping it for a new start");
    assert_ne!(program.wake(), child);
    assert!(!runs(child));
}

/// What makes wakeport the init process of a container.
const AS_INIT: [&str; 5] = ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child"];

/// The zombies whose parent is the init process below `unshare`.
fn zombies(wakeport: &Wakeport) -> Vec<u32> {
    let stats = fs::read_dir("/proc").expect("Linux").filter_map(|entry| {
        let path = entry.ok()?.path();
        let pid: u32 = path.file_name()?.to_str()?.parse().ok()?;
        let stat = fs::read_to_string(path.join("stat")).ok()?;
        let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
        Some((pid, fields[0] == "Z", fields[1].parse().ok()?))
    });
    let stats: Vec<(u32, bool, u32)> = stats.collect();
    let parent = |pid| stats.iter().find(|process| process.0 == pid);
    let children = stats.iter().filter(|(_, is_zombie, init)| {
        *is_zombie && parent(*init).is_some_and(|init| init.2 == wakeport.id())
    });
    children.map(|process| process.0).collect()
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn as_init_of_a_container_it_reaps_orphans_and_a_stop_hook_sees_its_daemon_end() {
    let program = Program::new();
    let dir = program.dir.path().display();
    // A daemon with a few helpers that end before it; $! is its process ID in the container.
    let start = format!(
        "#!/bin/sh\nfor helper in 1 2 3; do setsid sleep 0.05 & done\n\
         setsid {dir}/server {} </dev/null >/dev/null 2>&1 &\necho $! >{dir}/daemon\n",
        program.place
    );
    let stop = format!(
        "#!/bin/sh\nread -r pid <{dir}/daemon\nkill $pid\n\
         while kill -0 $pid; do sleep 0.02; done 2>/dev/null\n"
    );
    let wakeport = Run::new()
        .to(&program.place)
        .listen(&program.front)
        .option(
            "--start-hook",
            script(&program.dir.path().join("start"), &start),
        )
        .option(
            "--stop-hook",
            script(&program.dir.path().join("stop"), &stop),
        )
        .cooldown("0")
        .under(&AS_INIT)
        .start();
    for count in 1..=3 {
        program.front.connect().echoes("hello");
        wakeport.is(&format!("asleep, {count} served"));
    }
    until("no zombie is left", || zombies(&wakeport).is_empty());
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn as_init_of_a_container_it_knows_how_its_own_programs_end_among_orphans() {
    let program = Program::new();
    // Orphans end all the time, before the server and after it.
    let server = format!(
        "#!/bin/sh\n(for orphan in $(seq 100); do (setsid sleep 0.0$((orphan % 10)) &); done)\n\
         cd {}\n./server {} & until rm over 2>/dev/null; do sleep 0.05; done\nkill $!; wait $!\nexit 7\n",
        program.dir.path().display(),
        program.place
    );
    let over = program.dir.path().join("over");
    let hook = "#!/bin/sh\n(setsid sleep 0.01 &)\nexit 0\n";
    let server = script(&program.dir.path().join("child"), &server);
    let wakeport = Run::new()
        .to(&program.place)
        .listen(&program.front)
        .option("--exec", server)
        .option(
            "--ready-hook",
            script(&program.dir.path().join("ready"), hook),
        )
        .under(&AS_INIT)
        .start();
    for count in 1..=3 {
        program.front.connect().echoes("hello");
        fs::write(&over, "").expect("a directory of ours");
        until("its end is known", || {
            wakeport
                .log()
                .matches("exited unexpectedly (exit status: 7)")
                .count()
                == count
        });
        wakeport.is("asleep");
    }
    assert!(
        !wakeport.log().contains("cannot wait"),
        "{}",
        wakeport.log()
    );
    until("no zombie is left", || zombies(&wakeport).is_empty());
}

/// Whether a process is stopped, as by SIGSTOP: the third field of its stat.
fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
    state == Some(b'T')
}

#[test]
fn a_frozen_child_does_nothing_until_its_next_client_and_ends_with_wakeport() {
    let program = Program::new();
    let freezing = program.run("").option("--freeze-after", "50ms");
    let mut wakeport = freezing.cooldown("infinity").start();
    let child = program.wake();
    for _ in 0..3 {
        until("it is frozen", || is_stopped(child));
        program.front.connect().echoes("hello");
    }
    assert_eq!(program.children(), [child]);
    until("it is frozen", || is_stopped(child));
    wakeport.signal(Signal::TERM);
    assert!(wakeport.wait().success());
    program.is_gone(child);
}

#[test]
fn a_frozen_child_is_stopped_at_the_end_of_its_cooldown() {
    let program = Program::new();
    let freezing = program.run("").option("--freeze-after", "0");
    let wakeport = freezing.cooldown("1s").start();
    for count in 1..=2 {
        let child = program.wake();
        program.is_gone(child);
        wakeport.is(&format!("asleep, {count} served"));
    }
}
