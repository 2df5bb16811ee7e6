//! Services that do not follow orders, and administrators who interfere: no client hangs, the port stays open, and
//! everything works again once the cause is gone.

use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::echo_service::{Echo, Exchange, Random};
use crate::rig::{Client, GoneAs, Rig};

/// It is open, but does not react to the order to stop.
const IGNORES_SIGTERM: &str = "KillSignal=SIGWINCH\nTimeoutStopSec=2s";
const SOON: &str = "WAKEPORT_COOLDOWN=200ms";

impl Echo<'_> {
    fn refuses(&self) -> bool {
        Exchange::short().run(&self.address) == Err(0)
    }

    #[track_caller]
    fn is_mended_and_sleeps(&self) {
        let serves = || !self.refuses();
        self.rig.wait_for("a client is served again", serves);
        self.rig.wait_until_asleep(&self.name);
        let socket = format!("wakeport@{}.socket", self.name);
        assert_eq!(self.rig.show("Result", &socket), "success");
    }

    /// Changes the unit as an editor would.
    fn edit(&self, service: &str) {
        let drop_in = format!("[Service]\n{service}\n");
        self.rig.drop_in(&self.service(), "edited", &drop_in);
    }
}

// -- the stop

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_client_during_a_hanging_stop_is_served_when_systemd_has_killed_the_service() {
    a_hanging_stop(&[SOON]);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_client_during_a_stop_beyond_the_stop_timeout_is_served() {
    a_hanging_stop(&[SOON, "WAKEPORT_STOP_TIMEOUT=1s"]);
}

/// A stop that has passed unseen comes again with another client.
fn is_told_to_stop(echo: &Echo<'_>) {
    echo.rig.wait_for("it is told to stop", || {
        let now = echo.state();
        if now == "asleep" {
            echo.serves(&Exchange::short());
        }
        now == "stopping"
    });
}

fn a_hanging_stop(settings: &[&str]) {
    let rig = Rig::boot();
    let echo = Echo::asleep(&rig, "echo", IGNORES_SIGTERM, settings);
    for round in 1..=2 {
        echo.serves(&Exchange::short());
        is_told_to_stop(&echo);
        // It still answers, and a connection relayed to it would be cut.
        thread::scope(|scope| {
            for number in 0..20 {
                let echo = &echo;
                scope.spawn(move || {
                    thread::sleep(Duration::from_millis(150 * number));
                    echo.serves(&Exchange::short());
                });
            }
        });
        assert!(rig.starts("echo.service") > round);
    }
    rig.wait_until("failed", "echo.service"); // by the result `timeout`
    rig.wait_until("inactive", "wakeport@echo.service");
    echo.edit("KillSignal=SIGTERM");
    echo.is_mended_and_sleeps();
}

/// What a JVM does on SIGTERM.
const EXITS_WITH_143: &str = "ExecStart=
ExecStart=sh -c 'trap \"exit 143\" TERM; python3 -IS /run/rig/echo.py 18100 0.05 & wait'";

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_unit_that_ends_as_failed_when_it_is_stopped_is_reported_once_with_the_remedy() {
    const REMARK: &str =
        "`echo.service` stopped, but ended as failed (status 143); set SuccessExitStatus=143";
    let rig = Rig::boot();
    let echo = Echo::asleep(&rig, "echo", EXITS_WITH_143, &[SOON]);
    for _ in 0..3 {
        echo.serves(&Exchange::short());
        rig.wait_until("failed", "echo.service");
        rig.wait_until("inactive", "wakeport@echo.service");
    }
    assert_eq!(rig.said("wakeport@echo.service", REMARK), 1);
    assert!(rig.run("wakeport status echo").contains(REMARK));
    echo.edit("SuccessExitStatus=143");
    echo.is_mended_and_sleeps();
    assert!(!rig.run("wakeport status echo").contains(REMARK));
}

/// systemd ends the shell, and not the server. The shell forgets it.
const LEAVES_ITS_SERVER: &str = "ExecStart=
ExecStart=sh -c 'python3 -IS /run/rig/echo.py 18100 0.05 & wait'";

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_client_waits_until_a_server_that_outlives_its_unit_has_ended() {
    let rig = Rig::boot();
    let service = format!("{LEAVES_ITS_SERVER}\nKillMode=process");
    let echo = Echo::asleep(&rig, "echo", &service, &[SOON]);
    for mode in ["process", "none"] {
        echo.edit(&format!("KillMode={mode}"));
        let starts = rig.starts("echo.service");
        let before = rig.said("wakeport@echo.service", "still answers");
        echo.serves(&Exchange::short());
        rig.wait_until("inactive", "echo.service");
        rig.wait_for("it is said", || {
            rig.said("wakeport@echo.service", "still answers") > before
        });
        thread::scope(|scope| {
            scope.spawn(|| echo.serves(&Exchange::short()));
            rig.wait_for("the client waits", || {
                echo.record()
                    .is_some_and(|record| record["clients"]["waiting"] == 1)
            });
            assert_eq!(echo.state(), "stopping");
            // It has saved what it had to save.
            rig.run("kill $(cat /sys/fs/cgroup/system.slice/echo.service/cgroup.procs)");
        });
        assert_eq!(rig.starts("echo.service"), starts + 2);
        rig.wait_until("inactive", "echo.service");
        rig.ask("kill $(cat /sys/fs/cgroup/system.slice/echo.service/cgroup.procs)");
        rig.wait_until_asleep("echo");
    }
    assert!(!rig.run("wakeport status echo").contains("answers"));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_target_that_leaves_its_services_running_is_reported_and_clients_wait_for_the_stop_timeout() {
    let rig = Rig::boot();
    let settings = [SOON, "WAKEPORT_UNIT=app.target", "WAKEPORT_STOP_TIMEOUT=2s"];
    rig.unit("app.target", "[Unit]\nWants=echo.service\n");
    rig.allow("app.target");
    let echo = Echo::asleep(&rig, "echo", "", &settings);
    for _ in 0..2 {
        echo.serves(&Exchange::short());
        rig.wait_until("inactive", "app.target");
        is_told_to_stop(&echo);
        // It waits, and is served: what answers has nothing to do with the unit that was stopped.
        echo.serves(&Exchange::short());
        rig.wait_until("inactive", "wakeport@echo.service");
    }
    assert!(rig.run("wakeport status echo").contains("PartOf="));
    assert_eq!(rig.starts("echo.service"), 1);
    rig.drop_in("echo.service", "part", "[Unit]\nPartOf=app.target\n");
    echo.is_mended_and_sleeps();
    assert!(!rig.run("wakeport status echo").contains("PartOf="));
}

/// A connection to it would start the service.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_behind_a_socket_of_its_own_is_not_woken_by_its_stop() {
    let rig = Rig::boot();
    let socket = "[Socket]\nListenStream=127.0.0.1:18100\nAccept=no\n";
    let serves = "ExecStart=\nExecStart=/usr/lib/systemd/systemd-socket-proxyd 127.0.0.1:18101";
    let echo = Echo::asleep(&rig, "echo", serves, &[SOON]);
    rig.unit(
        "server.service",
        "[Service]\nExecStart=python3 -IS /run/rig/echo.py 18101 0\n",
    );
    rig.systemctl("start server.service");
    rig.unit("echo.socket", socket);
    rig.systemctl("start echo.socket");
    // systemd's proxy does not pass half-closes on.
    let exchange = Exchange {
        ends_first: false,
        ..Exchange::short()
    };
    echo.serves(&exchange);
    rig.wait_until_asleep("echo");
    assert_eq!(rig.starts("echo.service"), 1);
    assert_eq!(rig.said("wakeport@echo.service", "still answers"), 0);
}

/// Active for systemd, whatever becomes of the server: so it is with containers behind a oneshot unit.
const OUTLIVES_ITS_SERVER: &str = "Type=oneshot
RemainAfterExit=yes
ExecStart=
ExecStart=sh -c 'python3 -IS /run/rig/echo.py 18100 0.05 &'";

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_unit_that_is_active_and_silent_is_started_anew_for_the_next_client() {
    let rig = Rig::boot();
    let settings = ["WAKEPORT_COOLDOWN=1h", "WAKEPORT_START_TIMEOUT=6s"];
    let echo = Echo::asleep(&rig, "echo", OUTLIVES_ITS_SERVER, &settings);
    for round in 1..=2 {
        echo.serves(&Exchange::short());
        assert_eq!(rig.starts("echo.service"), round);
        rig.run("kill $(cat /sys/fs/cgroup/system.slice/echo.service/cgroup.procs)");
        rig.wait_for("the server is gone", || rig.processes("python3") == 0);
        assert!(rig.is("active", "echo.service"));
        assert!(echo.refuses());
        let line = "echo.service runs, but does not answer; stopping it for a new start";
        rig.wait_for("it is said", || {
            rig.said("wakeport@echo.service", line) == round
        });
    }
    echo.serves(&Exchange::short());
}

// -- a freeze

const FROZEN: &str = "`systemctl freeze`";
const NEVER: &str = "WAKEPORT_COOLDOWN=1h";

/// The number of the systemd of the rig.
fn version(rig: &Rig) -> u32 {
    let version = rig.run("systemctl show --value --property=Version");
    let number = version.split(|part: char| !part.is_ascii_digit()).next();
    let number = number.and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("`{version}` begins with no number"))
}

fn frozen<'a>(rig: &'a Rig, settings: &[&str]) -> Echo<'a> {
    let echo = Echo::asleep(rig, "echo", "", settings);
    echo.serves(&Exchange::short());
    rig.systemctl("freeze echo.service");
    echo
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_frozen_unit_is_thawed_for_a_client() {
    let rig = Rig::boot();
    rig.drop_in("wakeport@echo.service", "root", "[Service]\nUser=root\n");
    let echo = frozen(&rig, &[NEVER]);
    let status = || rig.run("wakeport status echo");
    rig.wait_for("it is reported", || status().contains(FROZEN));
    echo.serves(&Exchange::short());
    assert_eq!(rig.show("FreezerState", "echo.service"), "running");
    let thawed = "`echo.service` was frozen; thawed for a client";
    rig.wait_for("it is logged", || {
        rig.said("wakeport@echo.service", thawed) == 1
    });
    rig.wait_for("it is reported no more", || !status().contains(FROZEN));
    assert_eq!(rig.starts("echo.service"), 1);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_frozen_unit_that_may_not_be_thawed_refuses_clients_with_the_remedy() {
    let rig = Rig::boot();
    let echo = frozen(&rig, &[NEVER]);
    rig.wait_for("it is reported", || {
        rig.run("wakeport status echo").contains(FROZEN)
    });
    if version(&rig) >= 262 {
        // polkit is asked, and the rule of the unit grants it.
        echo.serves(&Exchange::short());
        assert_eq!(rig.starts("echo.service"), 1);
        return;
    }
    assert!(echo.refuses());
    let line = "cannot thaw `echo.service`: not authorized: before systemd 262 only root may; `systemctl thaw echo.service`";
    rig.wait_for("it is logged", || {
        rig.said("wakeport@echo.service", line) == 1
    });
    assert_eq!(rig.show("FreezerState", "echo.service"), "frozen");
    rig.systemctl("thaw echo.service");
    rig.wait_for("a client is served again", || !echo.refuses());
    assert_eq!(rig.starts("echo.service"), 1);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_frozen_unit_sleeps_at_the_end_of_its_cooldown() {
    let rig = Rig::boot();
    let echo = frozen(&rig, &["WAKEPORT_COOLDOWN=10s"]);
    if version(&rig) == 257 {
        // It stops nothing that is frozen, and only root may thaw.
        let line = "`echo.service` cannot be stopped while it is frozen; `systemctl thaw echo.service`; retrying";
        rig.wait_for("it is logged", || {
            rig.said("wakeport@echo.service", line) >= 1
        });
        assert!(rig.is("active", "echo.service"));
        rig.systemctl("thaw echo.service");
    }
    rig.wait_until_asleep("echo");
    echo.serves(&Exchange::short());
    assert_eq!(rig.starts("echo.service"), 2);
}

// -- the start

/// It is in the middle of its start until [`GO`] exists.
const STARTS_WHEN_TOLD: &str =
    "ExecStartPre=sh -c 'until test -e /run/rig/go; do sleep 0.02; done'";
const GO: &str = "/run/rig/go";

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_hanging_start_fails_at_its_timeout_and_the_unit_is_stopped() {
    let rig = Rig::boot();
    let hangs = "Type=notify\nTimeoutStartSec=infinity";
    let settings = [SOON, "WAKEPORT_START_TIMEOUT=1s"];
    let echo = Echo::asleep(&rig, "echo", hangs, &settings);
    let waiting: Vec<_> = (0..5).map(|_| Client::asks(&echo.address)).collect();
    for client in waiting {
        assert_eq!(client.reads(), (String::new(), GoneAs::Reset));
    }
    rig.wait_until("inactive", "echo.service");
    assert_eq!(rig.processes("python3"), 0);
    assert!(rig.is("active", "wakeport@echo.socket"));
    echo.edit("Type=simple");
    echo.is_mended_and_sleeps();
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn after_a_cancelled_start_job_the_unit_is_still_waited_for() {
    let rig = Rig::boot();
    let echo = Echo::asleep(&rig, "echo", STARTS_WHEN_TOLD, &[SOON]);
    thread::scope(|scope| {
        let client = scope.spawn(|| Exchange::short().run(&echo.address));
        rig.wait_until("activating", "echo.service");
        rig.systemctl("cancel");
        rig.write(GO, "");
        assert_eq!(client.join().expect("no wrong byte"), Ok(()));
    });
    echo.is_mended_and_sleeps();
    assert_eq!(rig.processes("python3"), 0);
    let record = echo.record().expect("there were clients");
    assert_eq!(record["clients"]["refused_failed"], 0, "{record:#}");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_stopped_during_its_start_refuses_waiting_clients_and_starts_for_the_next() {
    let rig = Rig::boot();
    let echo = Echo::asleep(&rig, "echo", STARTS_WHEN_TOLD, &[SOON]);
    let client = Client::asks(&echo.address);
    rig.wait_until("activating", "echo.service");
    rig.systemctl("stop echo.service");
    assert_eq!(client.reads(), (String::new(), GoneAs::Reset));
    rig.wait_for("it is logged", || {
        rig.said("wakeport@echo.service", "cancelled by another process") > 0
    });
    rig.write(GO, "");
    echo.is_mended_and_sleeps();
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_restarted_during_its_start_is_waited_for() {
    let rig = Rig::boot();
    let echo = Echo::asleep(&rig, "echo", STARTS_WHEN_TOLD, &[SOON]);
    thread::scope(|scope| {
        let client = scope.spawn(|| Exchange::short().run(&echo.address));
        rig.wait_until("activating", "echo.service");
        rig.systemctl("restart --no-block echo.service");
        rig.write(GO, "");
        assert_eq!(client.join().expect("no wrong byte"), Ok(()));
    });
    echo.is_mended_and_sleeps();
}

/// It stops the service and wakeport, all at once, but not the socket.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn an_isolate_stops_the_service_and_wakeport_and_the_next_client_wakes_both() {
    let rig = Rig::boot();
    let echo = Echo::asleep(&rig, "echo", STARTS_WHEN_TOLD, &[SOON]);
    rig.write(GO, "");
    let connected = Client::connect(&echo.address);
    rig.wait_for("it is awake", || echo.state() == "awake");
    rig.systemctl("isolate multi-user.target");
    assert_eq!(connected.reads().0, "");
    echo.is_mended_and_sleeps();
    // In the middle of a start as well.
    rig.run(&format!("rm {GO}"));
    let waiting = Client::asks(&echo.address);
    rig.wait_until("activating", "echo.service");
    rig.systemctl("isolate multi-user.target");
    assert_eq!(waiting.reads(), (String::new(), GoneAs::Reset));
    rig.write(GO, "");
    echo.is_mended_and_sleeps();
}

// -- the unit

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_unit_that_is_masked_while_it_is_awake_serves_on_sleeps_and_starts_when_it_is_unmasked() {
    unit_goes(
        "systemctl mask --quiet --runtime echo.service",
        "systemctl unmask --quiet --runtime echo.service",
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_unit_that_is_removed_while_it_is_awake_serves_on_sleeps_and_starts_when_it_is_back() {
    unit_goes(
        "mv /usr/lib/systemd/system/echo.service /run/rig/ && systemctl daemon-reload",
        "mv /run/rig/echo.service /usr/lib/systemd/system/ && systemctl daemon-reload",
    );
}

fn unit_goes(goes: &str, comes_back: &str) {
    let rig = Rig::boot();
    let echo = Echo::asleep(&rig, "echo", "", &[SOON]);
    // A unit in /etc cannot be masked.
    rig.run(
        "mv /etc/systemd/system/echo.service /usr/lib/systemd/system/ && systemctl daemon-reload",
    );
    let stays = TcpStream::connect(&echo.address).expect("the port is open");
    rig.wait_for("it is awake", || echo.state() == "awake");
    rig.run(goes);
    echo.serves(&Exchange::short());
    assert_eq!(Exchange::short().talk(stays), Ok(()));
    rig.wait_until_asleep("echo");
    assert_eq!(rig.processes("python3"), 0);
    for _ in 0..3 {
        assert!(echo.refuses());
        assert!(rig.is("active", "wakeport@echo.socket"));
    }
    rig.run(comes_back);
    echo.is_mended_and_sleeps();
    // And while it sleeps.
    rig.run(goes);
    assert!(echo.refuses());
    rig.run(comes_back);
    echo.is_mended_and_sleeps();
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_unit_that_is_changed_while_it_is_awake_is_started_as_it_is_next_time() {
    let rig = Rig::boot();
    let echo = Echo::asleep(&rig, "echo", "", &[SOON]);
    let connected = Client::connect(&echo.address);
    rig.wait_for("it is awake", || echo.state() == "awake");
    echo.edit("ExecStartPre=touch /run/rig/changed");
    echo.serves(&Exchange::short());
    drop(connected);
    rig.wait_until_asleep("echo");
    assert!(!rig.path("/run/rig/changed").exists());
    echo.is_mended_and_sleeps();
    assert!(rig.path("/run/rig/changed").exists());
}

// -- the service itself

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_that_crashes_while_idle_is_asleep_and_the_next_client_wakes_it() {
    let rig = Rig::boot();
    let echo = Echo::asleep(&rig, "echo", "", &["WAKEPORT_COOLDOWN=1h"]);
    for starts in 1..=3 {
        echo.serves(&Exchange::short());
        rig.wait_for("it cools", || echo.state() == "cooling");
        assert_eq!(rig.starts("echo.service"), starts);
        assert!(rig.kill("echo.service"));
        rig.wait_until("inactive", "wakeport@echo.service");
    }
    assert!(rig.is("active", "wakeport@echo.socket"));
}

/// It never answers; systemd would restart it for ever.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_that_restarts_in_a_loop_fails_its_start_and_is_stopped() {
    let rig = Rig::boot();
    let settings = [SOON, "WAKEPORT_START_TIMEOUT=6s"];
    let echo = Echo::asleep(&rig, "echo", "", &settings);
    rig.drop_in(
        "echo.service",
        "edited",
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=always\nRestartSec=100ms\n\
         ExecStart=\nExecStart=sh -c 'sleep 0.2; exit 1'\n",
    );
    for _ in 0..2 {
        assert!(echo.refuses());
        rig.wait_for("nothing is left of the loop", || {
            ["inactive", "failed"].contains(&rig.state("echo.service").as_str())
        });
    }
    assert!(rig.said("echo.service", "Scheduled restart job") > 1);
    rig.run("rm /etc/systemd/system/echo.service.d/edited.conf && systemctl daemon-reload");
    echo.is_mended_and_sleeps();
}

/// It answers for a while each time: open connections are cut then, and all others wait for the next restart.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn clients_of_a_service_that_keeps_restarting_are_served_or_disconnected_and_it_sleeps() {
    let rig = Rig::boot();
    let echo = Echo::asleep(&rig, "echo", "", &[SOON]);
    rig.drop_in(
        "echo.service",
        "edited",
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=always\nRestartSec=100ms\nRuntimeMaxSec=2s\n",
    );
    let mut random = Random::new(3);
    let mut served = 0;
    let mut client = 0;
    rig.wait_for("half of sixty or more are served", || {
        thread::sleep(random.millis(60));
        let exchange = Exchange {
            bytes: 20_000,
            ..Exchange::short()
        };
        match exchange.run(&echo.address) {
            Ok(()) => served += 1,
            Err(good) => assert!(good < 20_000, "client {client}"),
        }
        client += 1;
        client >= 60 && 2 * served > client
    });
    rig.wait_for("it sleeps", || {
        ["inactive", "failed"].contains(&rig.state("echo.service").as_str())
            && rig.is("inactive", "wakeport@echo.service")
    });
    assert_eq!(rig.processes("python3"), 0);
    assert!(rig.is("active", "wakeport@echo.socket"));
}
