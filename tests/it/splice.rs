//! Bulk goes through pipes where pipes are available and the sockets allow it; otherwise it is copied.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::fs::fstat;
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;

use crate::support::{Flow, Place, Run, Trace, Wakeport, Wire, until};

/// As many bytes as surely are bulk.
const BULK: u64 = 8 << 20;

/// A user that no other process runs as.
struct User(u32);

impl User {
    fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "only root can switch users; `tests/run` as root runs this"
        );
        static USERS: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id() * 16 + USERS.fetch_add(1, Ordering::Relaxed);
        // Above ordinary users, below systemd's dynamic users.
        Self(50_000 + number % 10_000)
    }

    /// Runs it as this user.
    fn runs(&self, run: Run) -> Run {
        // The binary may be where only root has access: a descriptor works for every user.
        let script = format!(
            "exec 3<\"$1\" && shift && exec setpriv --reuid={0} --regid={0} --clear-groups /proc/self/fd/3 \"$@\"",
            self.0
        );
        run.under(&["sh", "-c", &script, "sh"])
    }

    /// Runs a function as this user.
    fn does<T: Send>(&self, something: impl FnOnce() -> T + Send) -> T {
        let uid = Uid::from_raw(self.0);
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                set_thread_res_uid(uid, uid, uid).expect("root");
                something()
            });
            thread.join().expect("no panic")
        })
    }

    /// Holds all pages that a user may have in pipes: the next one gets two (pipe(7)).
    fn takes_its_share(&self) -> Vec<OwnedFd> {
        assert!(share() > 0, "fs.pipe-user-pages-soft sets no limit here");
        self.does(|| {
            let mut held = Vec::new();
            loop {
                let (output, input) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
                let _ = fcntl_setpipe_size(&input, 1 << 20);
                let size = fcntl_getpipe_size(&input).expect("a size");
                held.extend([output, input]);
                if size <= 2 * rustix::param::page_size() {
                    return held;
                }
            }
        })
    }
}

/// How many bytes an unprivileged user may have in pipes.
fn share() -> usize {
    let pages = std::fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft").expect("Linux");
    pages.trim().parse::<usize>().expect("a number") * rustix::param::page_size()
}

/// How many bytes the pipes can hold of which it has both ends.
fn room_in_pipes(wakeport: &Wakeport) -> usize {
    let mut seen = BTreeSet::new();
    let ends = wakeport.files(|link| link.starts_with("pipe:"));
    let second = |end: &&OwnedFd| !seen.insert(fstat(end).expect("it is open").st_ino);
    let pipes: Vec<_> = ends.iter().filter(second).collect();
    let size = |pipe: &&OwnedFd| fcntl_getpipe_size(pipe).expect("it is a pipe");
    pipes.iter().map(size).sum()
}

/// Bulk both ways on one connection.
fn both_ways(wire: &Wire) -> [Flow; 2] {
    let (client, server) = wire.pair();
    [
        Flow::new(&client, &server, 1),
        Flow::new(&server, &client, 2),
    ]
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_user_who_gets_pipes_of_two_pages_gets_every_byte() {
    let user = User::new();
    let held = user.takes_its_share();
    let trace = Trace::of("fcntl,splice");
    let run = user.runs(trace.around(Run::new()));
    let wire = Wire::between(Place::tcp(), Place::tcp(), run);
    let flows = both_ways(&wire);
    wire.bulk(&flows, || trace.count(&["F_SETPIPE_SZ", "EPERM"]) > 0);
    Flow::go_on(&flows, BULK);
    assert_eq!(trace.count(&["splice("]), 0, "through two pages");
    flows.into_iter().for_each(Flow::ends);
    // Nothing else was the reason.
    drop(held);
    let flows = both_ways(&wire);
    wire.bulk(&flows, || trace.count(&["splice("]) > 0);
    Flow::go_on(&flows, BULK);
    flows.into_iter().for_each(Flow::ends);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn many_streams_use_a_part_of_the_users_pipe_budget_and_return_it() {
    for threads in [1, 4] {
        let user = User::new();
        let run = user.runs(Run::new().option("--threads", threads));
        let wire = Wire::between(Place::tcp(), Place::tcp(), run);
        let pairs: Vec<_> = (0..48).map(|_| wire.pair()).collect();
        let flows: Vec<_> = (0..)
            .zip(&pairs)
            .map(|(seed, (client, server))| Flow::new(server, client, seed))
            .collect();
        wire.bulk(&flows, || wire.wakeport.pipes() > 0);
        flows.iter().for_each(|flow| flow.hold(true));
        Flow::stand_still(&flows, &wire.wakeport);
        let (room, share) = (room_in_pipes(&wire.wakeport), share());
        assert!(0 < room && room <= share / 4, "{room} of {share} bytes");
        let size = user.does(|| {
            let (output, _input) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
            fcntl_getpipe_size(output).expect("a size")
        });
        assert!(size > 2 * rustix::param::page_size());

        Flow::rest(&flows);
        // Each thread keeps a few for the next connections.
        until("pipes are given back", || {
            wire.wakeport.pipes() <= 8 * threads
        });
        flows.into_iter().for_each(Flow::ends);
    }
}

#[test]
fn bytes_left_in_a_pipe_by_a_broken_connection_reach_no_other() {
    let wire = Wire::new();
    for round in 0..10 {
        let (client, server) = wire.pair();
        let broken = Flow::new(&server, &client, round);
        wire.bulk([&broken], || wire.wakeport.pipes() > 0);
        broken.hold(true);
        Flow::stand_still([&broken], &wire.wakeport);
        assert!(wire.wakeport.pipes() > 0);
        let sender = broken.leaves();
        client.reset();
        let told = sender.join().expect("no panic");
        told.expect_err("it cannot send any more");
        let flows = both_ways(&wire);
        Flow::go_on(&flows, BULK / 8);
        flows.into_iter().for_each(Flow::ends);
    }
}

#[test]
fn a_direction_that_cannot_be_spliced_is_copied_and_splice_is_not_retried() {
    let trace = Trace::of("splice").inject("splice:error=EINVAL");
    let wire = Wire::between(Place::tcp(), Place::tcp(), trace.around(Run::new()));
    for connection in 1..=3 {
        let flows = both_ways(&wire);
        wire.bulk(&flows, || trace.count(&["splice("]) >= 2 * connection);
        Flow::go_on(&flows, BULK);
        flows.into_iter().for_each(Flow::ends);
        assert_eq!(trace.count(&["splice("]), 2 * connection);
    }
}

#[test]
fn what_is_in_a_pipe_that_cannot_be_emptied_is_not_lost() {
    // The first call fills a pipe, the second would empty it.
    let trace = Trace::of("splice").inject("splice:error=EINVAL:when=2+");
    let wire = Wire::between(Place::tcp(), Place::tcp(), trace.around(Run::new()));
    let flows = both_ways(&wire);
    wire.bulk(&flows, || trace.count(&["INJECTED"]) > 0);
    Flow::go_on(&flows, BULK);
    flows.into_iter().for_each(Flow::ends);
}

#[test]
fn without_files_or_memory_for_a_pipe_bulk_is_copied() {
    for error in ["EMFILE", "ENFILE", "ENOMEM"] {
        let trace = Trace::of("pipe2,splice").inject(&format!("pipe2:error={error}"));
        let wire = Wire::between(Place::tcp(), Place::tcp(), trace.around(Run::new()));
        let flows = both_ways(&wire);
        wire.bulk(&flows, || trace.count(&["pipe2(", error]) > 0);
        Flow::go_on(&flows, BULK);
        flows.into_iter().for_each(Flow::ends);
        assert_eq!(trace.count(&["splice("]), 0);
    }
}

#[test]
fn where_the_sandbox_denies_splice_bulk_is_copied() {
    for error in ["EPERM", "ENOSYS"] {
        let trace = Trace::of("splice").inject(&format!("splice:error={error}"));
        let wire = Wire::between(Place::tcp(), Place::tcp(), trace.around(Run::new()));
        let flows = both_ways(&wire);
        wire.bulk(&flows, || trace.count(&["splice("]) > 0);
        Flow::go_on(&flows, BULK);
        flows.into_iter().for_each(Flow::ends);
    }
}
