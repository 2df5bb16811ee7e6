//! Each system call fails once, in each documented way: at its first call, its second, ... No client hangs, no byte is
//! wrong, and the port answers.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use socket2::Socket;
use tempfile::TempDir;

use crate::support::{
    Client, HookService, Pattern, Place, Run, Trace, Wakeport, directory, now, until,
};

/// What may go wrong with a call, as its manual page has it.
const FAULTS: [(&str, &str); 44] = [
    (
        "accept4",
        "EMFILE ENFILE ENOBUFS ENOMEM ECONNABORTED EPROTO EINTR EPERM EHOSTUNREACH",
    ),
    ("access", "EACCES ENOMEM ENOENT"),
    ("chmod", "EPERM EROFS"),
    ("clone", "EAGAIN ENOMEM EPERM"),
    ("clone3", "EAGAIN ENOMEM EPERM"),
    ("close", "EINTR"),
    (
        "connect",
        "ECONNREFUSED ETIMEDOUT ENETUNREACH EADDRNOTAVAIL EHOSTUNREACH EAGAIN ENOBUFS",
    ),
    ("epoll_create1", "EMFILE ENFILE ENOMEM"),
    ("epoll_ctl", "ENOMEM ENOSPC"),
    ("epoll_pwait", "EINTR"),
    ("epoll_wait", "EINTR"),
    ("eventfd2", "EMFILE ENFILE ENOMEM"),
    ("faccessat", "EACCES ENOMEM ENOENT"),
    ("fchmod", "EPERM EIO EROFS"),
    ("fcntl", "EMFILE EPERM EINVAL"),
    ("fdatasync", "EIO ENOSPC EDQUOT"),
    ("futex", "EINTR"),
    ("getdents64", "ENOENT"),
    ("getrandom", "EINTR"),
    ("getsockname", "ENOBUFS"),
    ("getsockopt", "ENOBUFS ENOMEM"),
    ("ioctl", "ENOTTY"),
    ("mkdir", "EACCES ENOSPC EROFS"),
    ("newfstatat", "EACCES ENOENT ENOMEM"),
    (
        "openat",
        "EMFILE ENFILE ENOMEM EACCES ENOENT ENOSPC EROFS EIO EINTR",
    ),
    ("pidfd_open", "ENOSYS EMFILE ENFILE ENOMEM"),
    ("pipe2", "EMFILE ENFILE"),
    ("poll", "EINTR"),
    ("ppoll", "EINTR"),
    ("prctl", "EPERM"),
    ("read", "EINTR"),
    ("readlink", "EACCES ENOENT"),
    ("rename", "EACCES ENOSPC EIO"),
    ("sched_getaffinity", "EPERM"),
    ("setsockopt", "ENOMEM EPERM ENOPROTOOPT"),
    ("socket", "EMFILE ENFILE ENOBUFS ENOMEM EACCES"),
    ("splice", "EINVAL ENOMEM EPERM ENOSYS EINTR"),
    ("statx", "EACCES ENOENT ENOMEM"),
    ("sysinfo", "EFAULT"),
    ("uname", "EFAULT"),
    ("unlink", "EACCES EROFS"),
    ("vfork", "EAGAIN ENOMEM"),
    ("wait4", "ECHILD EINTR"),
    ("waitid", "ECHILD EINTR"),
];

/// The others, and why they are left out.
const LEFT_OUT: [(&str, &str); 7] = [
    (
        "cannot fail as they are used here, with our own memory, threads, signals and limits",
        "arch_prctl clock_nanosleep exit exit_group getpid gettid kill lseek prlimit64 restart_syscall rseq rt_sigaction \
         rt_sigprocmask rt_sigreturn sched_yield set_robust_list set_tid_address sigaltstack tgkill",
    ),
    (
        "without memory the process is aborted, and the next instance takes over as after a kill",
        "brk madvise mmap mprotect mremap munmap",
    ),
    (
        "what it says of a connection has to be true of it: real peers see to that in random_traffic.rs and dead_peers.rs, and \
         limits.rs to the want of memory",
        "recvfrom sendto shutdown sendmsg recvmsg",
    ),
    (
        "tokio panics without it, so it is tried before: limits.rs",
        "socketpair",
    ),
    (
        "to an eventfd, which is never full; what is written to files and logs is in observe.rs and manager.rs",
        "write",
    ),
    (
        "before the program begins, or on the way to another one",
        "execve pread64 dup2 dup3 setpgid chdir",
    ),
    ("opened before anything else", "listen bind"),
];

/// At most so many calls of a kind fail, one in each round.
const ROUNDS: usize = 5;
/// As many bytes as go through a pipe at the latest.
const BULK: u64 = 1 << 20;
/// How many rounds are played at once. They mostly wait.
const AT_ONCE: usize = 8;

/// Which call fails, and how.
#[derive(Clone, Debug)]
struct Fault {
    call: &'static str,
    error: &'static str,
    number: usize,
}

impl Fault {
    /// Plays a round with it; otherwise says what went wrong.
    fn is_survived(&self) -> Result<(), String> {
        let what = format!("{}:error={}:when={}", self.call, self.error, self.number);
        let trace = Trace::of(self.call).alone().inject(&what);
        let played = catch_unwind(AssertUnwindSafe(|| Round::new().is_played(&trace)));
        played.map_err(|why| format!("{what}: {}", said(why.as_ref())))
    }
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Served,
    /// By a reset, or a refused connection.
    Refused,
}

/// A service behind `wakeport`, and the test as systemd: a connection in the backlog starts it.
struct Round {
    stage: HookService,
    front: Place,
    listener: Socket,
    state: TempDir,
    over: AtomicBool,
}

impl Round {
    fn new() -> Self {
        let front = Place::tcp();
        Self {
            stage: HookService::new(),
            listener: front.listen(),
            front,
            state: directory(),
            over: AtomicBool::new(false),
        }
    }

    fn run(&self) -> Run {
        // By a name that needs the resolver and that nothing else uses.
        let target = self.stage.scene().place.tcp_address();
        let address = target.to_string();
        let parts: Vec<_> = address.split(['.', ':']).collect();
        let [a, b, c] = [1, 2, 3].map(|part| parts[part].parse::<u32>().expect("a number"));
        let hook = self.stage.hook();
        Run::new()
            .option("--start-hook", &hook)
            .option("--stop-hook", &hook)
            .to(format!(
                "127.{}:{}",
                (a << 16) + (b << 8) + c,
                target.port()
            ))
            .inherit("web", &self.listener)
            .option("--state-dir", self.state.path().display())
            .option("--name", "sweep")
            .option("--start-timeout", "4s")
            .option("--stop-timeout", "4s")
            .option("--threads", 2)
            .cooldown("100ms")
    }

    /// Plays a round in which `trace` sees to the first instance. What went wrong is a panic.
    fn is_played(&self, trace: &Trace) {
        let outcomes = thread::scope(|scope| {
            let manager = scope.spawn(|| self.manage(trace));
            let connections = scope.spawn(|| self.connections()).join();
            self.over.store(true, Ordering::SeqCst);
            [manager.join(), connections]
        });
        for outcome in outcomes {
            outcome.unwrap_or_else(|why| resume_unwind(why));
        }
        self.leaves_a_record_that_can_be_read();
    }

    fn manage(&self, trace: &Trace) {
        let mut wakeport = trace.around(self.run()).spawn();
        loop {
            while wakeport.is_running() {
                if self.over.load(Ordering::SeqCst) {
                    wakeport.signal(Signal::TERM);
                    break;
                }
                thread::sleep(Duration::from_millis(5));
            }
            ends_as_it_may(&mut wakeport);
            if !self.wants_another() {
                return;
            }
            wakeport = self.run().spawn();
        }
    }

    /// Waits until a connection is in the backlog, or the round is over.
    fn wants_another(&self) -> bool {
        while !self.over.load(Ordering::SeqCst) {
            let mut ends = [PollFd::new(&self.listener, PollFlags::IN)];
            let short = Timespec {
                tv_sec: 0,
                tv_nsec: 10_000_000,
            };
            if poll(&mut ends, Some(&short)) == Ok(1) {
                return true;
            }
        }
        false
    }

    /// One that has it started, some at once, and one after its service has slept.
    fn connections(&self) {
        self.is_served(1);
        thread::scope(|scope| {
            for seed in 2..4 {
                scope.spawn(move || self.connect(seed));
            }
            let broken = self.front.connect();
            let _ = broken.try_send("never read");
            broken.reset();
        });
        let began = now();
        while self.stage.count("stop") == 0 && began.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_millis(5));
        }
        self.is_served(5);
    }

    /// Visits until it is served.
    fn is_served(&self, seed: u64) {
        until("a client is served", || {
            let outcome = self.connect(seed);
            if outcome == Outcome::Refused {
                thread::sleep(Duration::from_millis(20));
            }
            outcome == Outcome::Served
        });
    }

    /// Bulk: all of it is echoed, or the client sees an error.
    fn connect(&self, seed: u64) -> Outcome {
        let client = self.front.connect();
        let pattern = Pattern::new(seed);
        let (sent, (read, got)) = thread::scope(|scope| {
            let sender = scope.spawn(|| send(&client, &pattern));
            let back = read_back(&client, &pattern);
            // A sender need not go on.
            let _ = client.socket().shutdown(Shutdown::Both);
            (sender.join().expect("no panic"), back)
        });
        // The kernel reports a reset only once: after an error in sending, a read returns an end of file.
        match got.and(sent) {
            Err(error) => {
                assert_ne!(
                    error.kind(),
                    io::ErrorKind::WouldBlock,
                    "no error was reported"
                );
                Outcome::Refused
            }
            Ok(()) => {
                assert_eq!(read, BULK, "an end like any other");
                Outcome::Served
            }
        }
    }

    fn leaves_a_record_that_can_be_read(&self) {
        let path = self.state.path().join("instances/sweep.json");
        if let Ok(text) = fs::read_to_string(path) {
            let record = serde_json::from_str::<serde_json::Value>(&text);
            record.expect("a whole record");
        }
    }
}

fn send(client: &Client, pattern: &Pattern) -> io::Result<()> {
    let mut sent = 0;
    while sent < BULK {
        let piece = pattern.at(sent, (BULK - sent) as usize);
        client.try_send(piece)?;
        sent += piece.len() as u64;
    }
    client.socket().shutdown(Shutdown::Write)
}

/// Reads to the end. What is read is what was sent.
fn read_back(client: &Client, pattern: &Pattern) -> (u64, io::Result<()>) {
    let mut read = 0;
    loop {
        match client.some() {
            Ok(bytes) if bytes.is_empty() => return (read, Ok(())),
            Ok(bytes) => {
                pattern.check(read, &bytes);
                read += bytes.len() as u64;
            }
            Err(error) => return (read, Err(error)),
        }
    }
}

/// Idle, a signal, or an internal error: never a panic.
fn ends_as_it_may(wakeport: &mut Wakeport) {
    let status = wakeport.wait();
    let log = wakeport.whole_log();
    assert!(!log.contains("panicked"), "{log}");
    assert!(matches!(status.code(), Some(0 | 70 | 78)), "{status}");
}

/// What a round calls, in the thread that does so most often: how often before our first own call, by the loader of the
/// program, and how often in all.
fn learned() -> BTreeMap<String, (usize, usize)> {
    let trace = Trace::of("all").alone();
    Round::new().is_played(&trace);
    let text = trace.text();
    let main = text.split(' ').next().expect("a thread");
    let mut counts = BTreeMap::<&str, BTreeMap<&str, usize>>::new();
    let mut loaded = BTreeMap::new();
    for line in text.lines() {
        let Some((thread, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start().split('(').next().unwrap_or_default();
        if call.is_empty()
            || !call
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            continue;
        }
        // The first thing that Rust does.
        if thread == main && call == "poll" && loaded.is_empty() {
            loaded = counts.get(main).cloned().unwrap_or_default();
        }
        *counts.entry(thread).or_default().entry(call).or_default() += 1;
    }
    let mut learned = BTreeMap::<String, (usize, usize)>::new();
    for (call, count) in counts.into_values().flatten() {
        let seen = learned.entry(call.to_owned()).or_default();
        *seen = (
            loaded.get(call).copied().unwrap_or_default(),
            seen.1.max(count),
        );
    }
    learned
}

/// The rounds to be played: of each call some that it does, and each of its errors at least once.
fn faults(learned: &BTreeMap<String, (usize, usize)>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (call, errors) in FAULTS {
        let Some(&(before, all)) = learned.get(call) else {
            continue;
        };
        let count = (all - before).max(1);
        let errors: Vec<_> = errors.split(' ').collect();
        for round in 0..errors.len().max(ROUNDS.min(count)) {
            faults.push(Fault {
                call,
                error: errors[round % errors.len()],
                number: before + 1 + round % count,
            });
        }
    }
    faults
}

/// What a panic said.
fn said(why: &(dyn Any + Send)) -> &str {
    let text = why.downcast_ref::<String>().map(String::as_str);
    text.or(why.downcast_ref::<&str>().copied()).unwrap_or("?")
}

#[test]
fn after_any_failed_system_call_no_client_hangs_no_byte_is_wrong_and_the_port_answers() {
    let learned = learned();
    let known = FAULTS.map(|(call, _)| call).into_iter();
    let known: BTreeSet<_> = known
        .chain(
            LEFT_OUT
                .into_iter()
                .flat_map(|(_, calls)| calls.split_whitespace()),
        )
        .collect();
    let unknown = learned.keys().filter(|call| !known.contains(call.as_str()));
    let unknown: Vec<_> = unknown.collect();
    assert!(unknown.is_empty(), "what may go wrong with {unknown:?}?");
    let faults = faults(&learned);
    assert!(faults.len() > 100, "only {}", faults.len());
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(fault) = faults.get(next.fetch_add(1, Ordering::SeqCst)) {
                    if let Err(why) = fault.is_survived() {
                        failed.lock().expect("no panic").push(why);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic");
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}
