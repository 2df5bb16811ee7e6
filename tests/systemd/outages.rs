//! Dependencies restart, fail or stall in each state of the service: the bus, the journal, process 1, the whole
//! machine, wakeport itself. All clients are served, and the service sleeps at the end.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::echo_service::{Echo, Exchange, Over, Random};
use crate::rig::{Client, GoneAs, Rig};

const BUS: &str = "dbus.service";
const POLKIT: &str = "polkit.service";
const JOURNAL: &str = "systemd-journald.service";
const JOURNALS_SOCKETS: &str =
    "systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket";
const WAKEPORT: &str = "wakeport@echo.service";

/// How long an outage lasts, in milliseconds: longer than the cooldown, and than a start or a stop.
const LASTS: (&str, u64) = ("WAKEPORT_TEST_OUTAGE", 900);
/// The longest wait for a bus that is gone; then clients may be refused.
const BUS_TIMEOUT: Duration = Duration::from_secs(10);

fn lasts() -> Duration {
    let (variable, default) = LASTS;
    let millis = std::env::var(variable).ok();
    let millis = millis.map_or(default, |millis| millis.parse().expect(variable));
    Duration::from_millis(millis)
}

/// Asserts the result of a client that waited.
#[track_caller]
fn is_served(client: thread::JoinHandle<Result<(), usize>>, when: &str) {
    let exchange = client.join().expect("no wrong byte");
    let refused = lasts() > BUS_TIMEOUT && exchange == Err(0);
    assert!(exchange.is_ok() || refused, "{when}: {exchange:?}");
}

/// A fault, and how it is undone.
struct Outage {
    begin: fn(&Rig),
    end: fn(&Rig),
    /// Clients of a service that is awake notice nothing; otherwise they wait for the end.
    serves_on: bool,
    /// Without a process there is nothing to stall.
    asleep_as_well: bool,
}

/// Something that is over at once.
const fn event(begin: fn(&Rig)) -> Outage {
    outage(begin, |_| ())
}

const fn outage(begin: fn(&Rig), end: fn(&Rig)) -> Outage {
    Outage {
        begin,
        end,
        serves_on: true,
        asleep_as_well: true,
    }
}

/// An outage that lasts until this is dropped, so that the journal can be read if the scenario fails.
struct Lasting<'a>(&'a Rig, &'a Outage);

impl Drop for Lasting<'_> {
    fn drop(&mut self) {
        (self.1.end)(self.0);
    }
}

impl Outage {
    fn begins<'a>(&'a self, rig: &'a Rig) -> Lasting<'a> {
        let lasting = Lasting(rig, self);
        (self.begin)(rig);
        lasting
    }

    /// Takes place in each state, one after the other.
    fn disturbs_nobody(&self) {
        let rig = Rig::boot();
        let echo = Echo::asleep(
            &rig,
            "echo",
            "ExecStartPre=sleep 0.3\nExecStop=sleep 0.3",
            &["WAKEPORT_COOLDOWN=400ms"],
        );
        if self.asleep_as_well {
            self.takes_place(&echo, "asleep");
            self.sleeps_again(&echo);
        }
        for state in ["waking", "cooling", "stopping"] {
            let first = echo.connect();
            self.takes_place(&echo, state);
            is_served(first, state);
            self.sleeps_again(&echo);
        }
        // This one stays for longer than the outage, and is not quiet.
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let ends = Over(&over);
            let long = scope.spawn(|| {
                let stream = TcpStream::connect(&echo.address).expect("the port is open");
                let mut talks = Exchange {
                    pause: lasts() / 5,
                    ends_first: false,
                    ..Exchange::short()
                };
                let talk = |exchange: &Exchange| {
                    let stream = stream.try_clone().expect("a descriptor");
                    assert_eq!(exchange.talk(stream), Ok(()));
                };
                while !over.load(SeqCst) {
                    talk(&talks);
                }
                talks.ends_first = true;
                talk(&talks);
            });
            self.takes_place(&echo, "awake");
            drop(ends);
            long.join().expect("no wrong byte");
        });
        self.sleeps_again(&echo);
        // Nothing is left of it.
        echo.serves(&Exchange::short());
        self.sleeps_again(&echo);
    }

    /// Begins in a state, and lasts for a while. One client comes at once, another one towards its end.
    fn takes_place(&self, echo: &Echo<'_>, state: &str) {
        let rig = echo.rig;
        // A state that has passed unseen comes again with another client.
        let mut again = Vec::new();
        if state != "asleep" {
            rig.wait_for(state, || {
                let now = echo.state();
                if now == "asleep" {
                    again.push(echo.connect());
                }
                now == state
            });
        }
        let outage = self.begins(rig);
        let used = rig.cpu(WAKEPORT);
        let early = echo.connect();
        let early = match state == "awake" && self.serves_on {
            true => {
                assert_eq!(early.join().expect("no wrong byte"), Ok(()), "meanwhile");
                None
            }
            false => Some(early),
        };
        thread::sleep(lasts());
        // Whatever it waits for, it does so at rest. It may be another process by now.
        let used = rig.cpu(WAKEPORT).saturating_sub(used);
        assert!(used < lasts() / 3, "{used:?} of work while {state}");
        let late = echo.connect();
        drop(outage);
        for client in again.into_iter().chain(early).chain([late]) {
            is_served(client, state);
        }
    }

    fn sleeps_again(&self, echo: &Echo<'_>) {
        echo.rig.wait_until_asleep(&echo.name);
        let record = echo.record().expect("there were clients");
        assert_eq!(record["state"], "asleep");
        let refused = record["clients"]["refused_failed"].as_u64();
        assert!(refused == Some(0) || lasts() > BUS_TIMEOUT, "{record:#}");
    }
}

impl Echo<'_> {
    /// Starts a client; its result is known when its thread ends.
    fn connect(&self) -> thread::JoinHandle<Result<(), usize>> {
        let address = self.address.clone();
        thread::spawn(move || Exchange::short().run(&address))
    }
}

/// A random dependency restarts or stalls for a moment.
pub(crate) fn something_happens(rig: &Rig, random: &mut Random) -> String {
    let stands_still = |unit: &str, for_so_long| {
        rig.freeze(unit);
        thread::sleep(for_so_long);
        rig.thaw(unit);
    };
    let (what, span) = (random.below(8), random.millis(400));
    match what {
        0 => rig.systemctl(&format!("restart {BUS}")),
        1 => drop(rig.kill(BUS)),
        2 if !rig.pids(BUS).is_empty() => stands_still(BUS, span),
        3 => drop(rig.kill(JOURNAL)),
        4 if !rig.pids(JOURNAL).is_empty() => stands_still(JOURNAL, span),
        5 => rig.systemctl("daemon-reexec"),
        6 => rig.systemctl("daemon-reload"),
        7 => {
            rig.signal_init(Signal::STOP);
            thread::sleep(span);
            rig.signal_init(Signal::CONT);
        }
        _ => (),
    }
    format!("{what} for {span:?}")
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn clients_survive_a_restart_of_the_bus() {
    event(|rig| rig.systemctl(&format!("restart {BUS}"))).disturbs_nobody();
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn clients_survive_a_sigkill_of_the_bus() {
    event(|rig| assert!(rig.kill(BUS), "there is a bus")).disturbs_nobody();
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn clients_survive_a_bus_that_is_away_for_a_while() {
    outage(
        |rig| rig.systemctl(&format!("stop dbus.socket {BUS}")),
        |rig| rig.systemctl(&format!("start dbus.socket {BUS}")),
    )
    .disturbs_nobody();
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn clients_survive_a_stalled_bus() {
    outage(|rig| rig.freeze(BUS), |rig| rig.thaw(BUS)).disturbs_nobody();
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn clients_survive_a_stalled_polkit() {
    outage(
        |rig| {
            // It may not have been activated yet.
            rig.systemctl(&format!("start {POLKIT}"));
            rig.freeze(POLKIT);
        },
        |rig| rig.thaw(POLKIT),
    )
    .disturbs_nobody();
}

/// No service can be woken then; clients are reset, and the port stays open.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn clients_are_refused_while_the_bus_stays_away() {
    let rig = Rig::boot();
    let echo = Echo::asleep(&rig, "echo", "", &[]);
    rig.systemctl(&format!("stop dbus.socket {BUS}"));
    for _ in 0..3 {
        let refused = Client::asks(&echo.address).reads();
        assert_eq!(refused, (String::new(), GoneAs::Reset));
        assert!(rig.is("active", "wakeport@echo.socket"));
    }
    rig.wait_for("it is logged", || rig.said(WAKEPORT, "does not answer") > 0);
    rig.systemctl(&format!("start dbus.socket {BUS}"));
    rig.wait_for("a client is served", || {
        Exchange::short().run(&echo.address).is_ok()
    });
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn clients_survive_a_stop_of_the_journal() {
    outage(
        |rig| rig.systemctl(&format!("stop {JOURNALS_SOCKETS} {JOURNAL}")),
        // With its sockets, which it requires: started one by one, the first one may activate it before the others open.
        |rig| rig.systemctl(&format!("start {JOURNAL}")),
    )
    .disturbs_nobody();
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn clients_survive_a_sigkill_of_the_journal() {
    event(|rig| assert!(rig.kill(JOURNAL), "there is a journal")).disturbs_nobody();
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn clients_survive_a_stalled_journal() {
    outage(
        |rig| {
            rig.freeze(JOURNAL);
            fill(rig, "/run/systemd/journal/socket");
        },
        |rig| rig.thaw(JOURNAL),
    )
    .disturbs_nobody();
}

/// Sends to a socket of datagrams until it takes no more.
fn fill(rig: &Rig, path: &str) {
    let fill = "\
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.setblocking(False)
s.connect(sys.argv[1])
try:
    while True:
        s.send(b'MESSAGE=nothing\\n')
except BlockingIOError:
    pass
";
    rig.write("/run/rig/fill.py", fill);
    rig.run(&format!("python3 -IS /run/rig/fill.py {path}"));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn clients_survive_a_reexecution_of_systemd() {
    event(|rig| rig.systemctl("daemon-reexec")).disturbs_nobody();
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn clients_survive_a_reload_of_systemd() {
    event(|rig| (0..5).for_each(|_| rig.systemctl("daemon-reload"))).disturbs_nobody();
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn clients_survive_a_stalled_systemd() {
    outage(
        |rig| rig.signal_init(Signal::STOP),
        |rig| rig.signal_init(Signal::CONT),
    )
    .disturbs_nobody();
}

/// Like a suspended machine, except that the clock goes on.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn no_client_is_lost_to_a_suspended_machine() {
    Outage {
        serves_on: false,
        ..outage(|rig| rig.freeze_all(), |rig| rig.thaw_all())
    }
    .disturbs_nobody();
}

/// All connections go on in the next process, and those that come meanwhile wait for it.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn clients_survive_a_restart_of_wakeport() {
    Outage {
        serves_on: false,
        asleep_as_well: false,
        ..event(|rig| rig.systemctl(&format!("try-restart {WAKEPORT}")))
    }
    .disturbs_nobody();
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn no_client_is_lost_to_a_stopped_wakeport() {
    Outage {
        serves_on: false,
        asleep_as_well: false,
        ..outage(|rig| rig.freeze(WAKEPORT), |rig| rig.thaw(WAKEPORT))
    }
    .disturbs_nobody();
}

/// systemd's watchdog kills it; open connections break, and the next instance adopts the service.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_wakeport_that_hangs_is_killed_by_the_watchdog_and_restarted() {
    let rig = Rig::boot();
    let echo = Echo::asleep(&rig, "echo", "", &["WAKEPORT_COOLDOWN=300ms"]);
    rig.drop_in(
        WAKEPORT,
        "watchdog",
        "[Service]\nWatchdogSec=10s\nTimeoutAbortSec=1s\n",
    );
    let connected = TcpStream::connect(&echo.address).expect("the port is open");
    rig.wait_for("it is awake", || echo.state() == "awake");
    rig.freeze(WAKEPORT);
    let waits = echo.connect();
    assert!(Exchange::short().talk(connected).is_err());
    assert_eq!(waits.join().expect("no wrong byte"), Ok(()));
    rig.wait_until_asleep("echo");
    assert!(rig.said(WAKEPORT, "watchdog") > 0);
    assert_eq!(rig.starts("echo.service"), 1, "it was adopted");
}
