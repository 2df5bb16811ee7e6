//! A service that is frozen before it is stopped: its clients, its administrator, its end.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::echo_service::{Echo, Exchange, Over, Random};
use crate::rig::Rig;
use crate::services::{postgresql, psql};

const SLICE: &str = r"'system-wakeport\x2decho.slice'";

/// It is stopped by no cooldown.
const FOR_EVER: &str = "--cooldown infinity --freeze-after 100ms";

fn frozen<'a>(rig: &'a Rig, service: &str) -> Echo<'a> {
    let echo = Echo::by_init(rig, "echo", service, FOR_EVER);
    echo.serves(&Exchange::short());
    freezes(&echo);
    echo
}

#[track_caller]
fn freezes(echo: &Echo<'_>) {
    let rig = echo.rig;
    // The record of a process that was killed says so as well.
    rig.wait_for("it is frozen", || {
        echo.state() == "frozen" && freezer(rig) == "frozen"
    });
}

fn freezer(rig: &Rig) -> String {
    rig.show("FreezerState", SLICE)
}

#[track_caller]
fn is_thawed(rig: &Rig) {
    rig.wait_for("the slice is thawed", || freezer(rig) == "running");
}

/// How many thaws there were for clients, by the record.
fn thaws(echo: &Echo<'_>) -> u64 {
    let record = echo.record().unwrap_or_default();
    record["thaws"]["total"].as_u64().unwrap_or(0)
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_frozen_service_answers_each_client_without_a_start() {
    let rig = Rig::boot();
    let echo = frozen(&rig, "");
    for round in 1..=3 {
        assert!(rig.is("active", "echo.service") && rig.is("active", &echo.wakeport()));
        echo.serves(&Exchange::short());
        rig.wait_for("it is counted", || thaws(&echo) == round);
        freezes(&echo);
    }
    assert_eq!(rig.starts("echo.service"), 1);
    let status = rig.run("wakeport status echo");
    assert!(
        status.contains("State: frozen") && status.contains("Thaws: 3, median "),
        "{status}"
    );
    let found = rig.run("wakeport check echo");
    assert!(found.contains("ok: wakeport@echo"), "{found}");
    let text = rig.show("StatusText", &echo.wakeport());
    assert!(text.starts_with("frozen: never stopping"), "{text}");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_frozen_service_is_stopped_well_at_the_end_of_its_cooldown() {
    let rig = Rig::boot();
    // Python ends by SIGTERM, and the marker is written afterwards.
    let marks = "ExecStop=touch /run/rig/stopping\nExecStopPost=sh -c 'echo $SERVICE_RESULT >/run/rig/result'";
    let echo = Echo::by_init(&rig, "echo", marks, "--cooldown 20s --freeze-after 100ms");
    echo.serves(&Exchange::short());
    freezes(&echo);
    rig.wait_until_asleep("echo");
    assert!(rig.path("/run/rig/stopping").exists());
    assert_eq!(rig.read("/run/rig/result"), "success\n");
    is_thawed(&rig);
    echo.serves(&Exchange::short());
    assert_eq!(rig.starts("echo.service"), 2);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_that_is_killed_while_it_is_frozen_starts_for_the_next_client() {
    let rig = Rig::boot();
    let echo = frozen(&rig, "");
    for starts in 2..=3 {
        rig.systemctl("kill --signal=KILL echo.service");
        rig.wait_until("inactive", &echo.wakeport());
        is_thawed(&rig);
        echo.serves(&Exchange::short());
        assert_eq!(rig.starts("echo.service"), starts);
        freezes(&echo);
    }
    // The client is there before it is noticed.
    rig.systemctl("kill --signal=KILL echo.service");
    echo.serves(&Exchange::short());
    assert_eq!(rig.starts("echo.service"), 4);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_frozen_service_obeys_an_administrator_who_gives_the_order_twice_at_most() {
    let rig = Rig::boot();
    let echo = frozen(&rig, "");
    let obeys = |order: &str| {
        // From systemd 256 on the first one is refused, and has it thawed.
        if !rig
            .attempt(&format!("systemctl {order} echo.service"))
            .status
            .success()
        {
            is_thawed(&rig);
            rig.systemctl(&format!("{order} echo.service"));
        }
    };
    obeys("restart");
    assert_eq!(rig.starts("echo.service"), 2);
    echo.serves(&Exchange::short());
    freezes(&echo);
    obeys("stop");
    rig.wait_until_asleep("echo");
    echo.serves(&Exchange::short());
    assert_eq!(rig.starts("echo.service"), 3);
    freezes(&echo);
    // Thawed by hand it is served, and frozen again.
    rig.systemctl(&format!("thaw {SLICE}"));
    echo.serves(&Exchange::short());
    freezes(&echo);
    assert_eq!(rig.starts("echo.service"), 3);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_slice_that_an_administrator_freezes_is_thawed_for_a_client() {
    let rig = Rig::boot();
    let echo = Echo::by_init(&rig, "echo", "", "--cooldown 1h --freeze-after 30min");
    echo.serves(&Exchange::short());
    rig.systemctl(&format!("freeze {SLICE}"));
    rig.wait_for("it is noticed", || echo.state() == "frozen");
    echo.serves(&Exchange::short());
    is_thawed(&rig);
    assert_eq!(rig.starts("echo.service"), 1);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_frozen_service_goes_on_behind_the_next_wakeport() {
    let rig = Rig::boot();
    let echo = frozen(&rig, "");
    let main_pid = || rig.show("MainPID", &echo.wakeport());
    // Killed, restarted, with another systemd behind it.
    for how in [
        "systemctl kill --signal=KILL wakeport@echo.service",
        "systemctl restart wakeport@echo.service",
        "systemctl daemon-reexec",
        "systemctl daemon-reload",
    ] {
        let before = main_pid();
        rig.run(how);
        if how.contains("wakeport@") {
            rig.wait_for("another one runs", || {
                let now = main_pid();
                now != before && now != "0"
            });
        }
        freezes(&echo);
        echo.serves(&Exchange::short());
        freezes(&echo);
    }
    assert_eq!(rig.starts("echo.service"), 1);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_wakeport_that_is_stopped_leaves_no_service_frozen() {
    let rig = Rig::boot();
    let echo = frozen(&rig, "");
    rig.systemctl(&format!("stop {}", echo.wakeport()));
    assert_eq!(freezer(&rig), "running");
    assert!(rig.is("active", "echo.service"));
    echo.serves(&Exchange::short());
    freezes(&echo);
    // Both at once, as at a shutdown.
    rig.drop_in(
        "echo.service",
        "mark",
        "[Service]\nExecStop=touch /run/rig/stopped\n",
    );
    rig.unit(
        "end.target",
        "[Unit]\nConflicts=echo.service wakeport@echo.service\n",
    );
    rig.systemctl("start end.target");
    rig.wait_until("inactive", "echo.service");
    assert!(rig.path("/run/rig/stopped").exists());
    echo.serves(&Exchange::short());
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_shutdown_stops_a_frozen_service_as_any_other() {
    let rig = Rig::boot();
    let marks = "ExecStop=sh -c 'echo stopped >/run/rig/marker'\nTimeoutStopSec=1h";
    let _echo = frozen(&rig, marks);
    rig.write("/run/rig/marker", "");
    // It outlives the machine.
    let mut marker = File::open(rig.path("/run/rig/marker")).expect("it was just written");
    let root = rig.path("/");
    rig.ask("systemctl poweroff");
    rig.wait_for("the machine is down", || !Path::new(&root).exists());
    let mut text = String::new();
    marker.read_to_string(&mut text).expect("an open file");
    assert_eq!(text, "stopped\n");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn clients_that_come_in_the_moment_of_a_freeze_are_served() {
    let rig = Rig::boot();
    let options = "--cooldown infinity --freeze-after 0";
    let echo = Echo::by_init(&rig, "echo", "", options);
    // The machine says how fast clients may come so that there is time for a freeze now and then.
    let (over, pause) = (AtomicBool::new(false), AtomicU64::new(100));
    thread::scope(|scope| {
        let _over = Over(&over);
        for seed in 0..3 {
            let (echo, over, pause) = (&echo, &over, &pause);
            scope.spawn(move || {
                let mut random = Random::new(seed);
                while !over.load(SeqCst) {
                    thread::sleep(random.millis(pause.load(SeqCst)));
                    echo.serves(&Exchange::short());
                }
            });
        }
        let mut seen = 0;
        rig.wait_for("it was often thawed", || {
            let now = thaws(&echo);
            let longer = if now > seen { 90 } else { 105 };
            let millis = pause.load(SeqCst) * longer / 100;
            pause.store(millis.clamp(20, 5_000), SeqCst);
            seen = now;
            seen >= 25
        });
    });
    freezes(&echo);
    assert_eq!(rig.starts("echo.service"), 1);
    assert_eq!(rig.said(&echo.wakeport(), "refusing connections"), 0);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn after_sigkill_around_freezes_and_thaws_only_open_connections_are_lost() {
    let rig = Rig::boot();
    let options = "--cooldown infinity --freeze-after 0";
    let echo = Echo::by_init(&rig, "echo", "", options);
    let (over, kills) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _over = Over(&over);
        for seed in 0..3 {
            let (echo, over, kills) = (&echo, &over, &kills);
            scope.spawn(move || {
                let mut random = Random::new(seed);
                while !over.load(SeqCst) {
                    thread::sleep(random.millis(100));
                    let before = kills.load(SeqCst);
                    let served = Exchange::short().run(&echo.address);
                    if served.is_err() {
                        let counted = || kills.load(SeqCst) > before;
                        echo.rig.wait_for("it was a kill", counted);
                    }
                }
            });
        }
        let mut random = Random::new(7);
        for _ in 0..40 {
            thread::sleep(random.millis(300));
            // One that dies just now is counted as well.
            kills.fetch_add(1, SeqCst);
            rig.ask("systemctl kill --signal=KILL wakeport@echo.service");
            kills.fetch_add(1, SeqCst);
        }
    });
    echo.serves(&Exchange::short());
    freezes(&echo);
    assert_eq!(rig.starts("echo.service"), 1);
    let socket = "wakeport@echo.socket";
    assert_eq!(rig.show("Result", socket), "success");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
#[expect(
    clippy::disallowed_methods,
    reason = "how long a client waits is told, and not judged"
)]
#[expect(
    clippy::print_stderr,
    reason = "the test harness shows it with --nocapture"
)]
fn a_database_and_a_service_with_much_memory_go_on_where_they_were() {
    // What a client sends first (PostgreSQL's protocol, SSLRequest); a process for it answers with one byte.
    const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];
    let rig = Rig::boot();
    let unit = postgresql(&rig);
    rig.run(&format!(
        "wakeport init {unit} --listen 127.0.0.1:5432 --to 127.0.0.1:15432 {FOR_EVER} --write --enable"
    ));
    rig.write(
        "/run/rig/heavy.py",
        "held = bytearray(range(250)) * 600_000\nexec(open('/run/rig/echo.py').read())\n",
    );
    let heavy = "ExecStart=\nExecStart=python3 -IS /run/rig/heavy.py 18100 0";
    let echo = Echo::by_init(&rig, "echo", heavy, FOR_EVER);
    psql(
        &rig,
        "create table numbers as select generate_series(1, 1000) as number",
    );
    let slice = unit.replace('@', r"\x40").replace('-', r"\x2d");
    let database = || {
        let slice = format!(r"'system-wakeport\x2d{slice}.slice'");
        rig.show("FreezerState", &slice)
    };
    for _ in 0..5 {
        rig.wait_for("the database is frozen", || database() == "frozen");
        let began = Instant::now();
        let mut client = TcpStream::connect(("127.0.0.1", 5432)).expect("the port is open");
        client.write_all(SSL_REQUEST).expect("it is sent");
        client.read_exact(&mut [0]).expect("an answer");
        let (database, began) = (began.elapsed(), Instant::now());
        echo.serves(&Exchange::short());
        let other = began.elapsed();
        eprintln!(
            "after the first SYN the database answered in {database:?}, the other in {other:?}"
        );
        assert_eq!(psql(&rig, "select sum(number) from numbers"), "500500");
        drop(client);
        freezes(&echo);
    }
    for (name, thaws) in [(unit.as_str(), 5), ("echo", 4)] {
        rig.wait_for("all is in the record", || {
            let status = rig.run(&format!("wakeport status {name}"));
            status.contains("Wakes: 1,") && status.contains(&format!("Thaws: {thaws},"))
        });
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn what_would_be_unsafe_to_freeze_runs_on_is_reported_once_and_found_by_check() {
    let rig = Rig::boot();
    let echo = Echo::by_init(&rig, "echo", "", "--cooldown 3s --freeze-after 100ms");
    let not_frozen = |remark: &str| {
        let before = rig.said(&echo.wakeport(), remark);
        echo.serves(&Exchange::short());
        rig.wait_until_asleep("echo");
        assert_eq!(rig.said(&echo.wakeport(), remark), before + 1, "{remark}");
        assert_eq!(freezer(&rig), "running");
    };
    // Another unit in its slice.
    let other = r"[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=true
Slice=system-wakeport\x2decho.slice
";
    rig.unit("other.service", other);
    rig.systemctl("start other.service");
    let found = rig.run("wakeport check echo");
    assert!(
        found.contains("`other.service` would be frozen along"),
        "{found}"
    );
    not_frozen("`other.service` is in `system-wakeport\\x2decho.slice` as well");
    rig.systemctl("stop other.service");
    rig.run("rm /etc/systemd/system/other.service && systemctl daemon-reload");
    // A slice that holds more than it.
    rig.drop_in(
        "echo.service",
        "20-slice",
        "[Service]\nSlice=system.slice\n",
    );
    let found = rig.run("wakeport check echo");
    assert!(
        found.contains("`echo.service` is in system.slice"),
        "{found}"
    );
    not_frozen("`echo.service` is in no slice of its own");
    rig.drop_in("echo.service", "20-slice", "");
    // Two authorizations: polkit's, and that of the bus, which from systemd 262 on is not needed.
    rig.run(
        "mv /etc/polkit-1/rules.d/50-wakeport-echo.rules /run/rig/ && systemctl restart polkit",
    );
    let found = rig.ask("wakeport check echo");
    assert!(
        found.contains("may not be frozen by wakeport's user"),
        "{found}"
    );
    rig.run(
        "mv /run/rig/50-wakeport-echo.rules /etc/polkit-1/rules.d/ && systemctl restart polkit",
    );
    echo.serves(&Exchange::short());
    freezes(&echo);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_with_a_watchdog_is_frozen_only_where_systemd_suspends_that() {
    let rig = Rig::boot();
    // As a daemon that says that it is alive.
    let watched = "Type=notify\nNotifyAccess=all\nWatchdogSec=2s\nExecStart=\n\
                   ExecStart=sh -c 'python3 -IS /run/rig/echo.py 18100 0 & systemd-notify --ready; \
                   while sleep 0.5; do systemd-notify WATCHDOG=1; done'";
    let echo = Echo::by_init(&rig, "echo", watched, FOR_EVER);
    echo.serves(&Exchange::short());
    let refused = || rig.said(&echo.wakeport(), "has WatchdogSec=") > 0;
    rig.wait_for("it is frozen, or that is refused", || {
        echo.state() == "frozen" || refused()
    });
    // Longer than the watchdog's limit.
    thread::sleep(Duration::from_secs(5));
    echo.serves(&Exchange::short());
    assert_eq!(rig.starts("echo.service"), 1);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_user_wakeport_may_freeze_and_thaw_its_slice_and_nothing_else() {
    let rig = Rig::boot();
    let _echo = Echo::by_init(&rig, "echo", "", "--cooldown 1h --freeze-after 30min");
    rig.unit("other.slice", "[Unit]\nDescription=of others\n");
    rig.systemctl("start other.slice echo.service");
    let may = |method: &str, unit: &str| {
        let manager =
            "org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager";
        let call = format!("runuser -u wakeport -- busctl call {manager} {method} s {unit}");
        rig.attempt(&call).status.success()
    };
    for unit in ["system.slice", "other.slice", "echo.service"] {
        assert!(!may("FreezeUnit", unit), "{unit}");
    }
    assert!(may("FreezeUnit", SLICE));
    assert_eq!(freezer(&rig), "frozen");
    let stops = "runuser -u wakeport -- systemctl --no-ask-password stop";
    assert!(!rig.attempt(&format!("{stops} {SLICE}")).status.success());
    assert!(may("ThawUnit", SLICE));
    assert_eq!(freezer(&rig), "running");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_user_manager_freezes_its_services_without_any_privilege() {
    let rig = Rig::boot();
    let as_alice = crate::services::alice(&rig);
    let line = "wakeport init notes --user --listen 127.0.0.1:8080 --to 127.0.0.1:18080 \
                --cooldown infinity --freeze-after 100ms --write --enable";
    as_alice(line);
    assert_eq!(rig.curl("http://127.0.0.1:8080/"), "hers");
    let slice = r"'app-wakeport\x2dnotes.slice'";
    let state = || {
        as_alice(&format!(
            "systemctl --user show --value -p FreezerState {slice}"
        ))
    };
    for _ in 0..2 {
        rig.wait_for("it is frozen", || state() == "frozen\n");
        assert_eq!(rig.curl("http://127.0.0.1:8080/"), "hers");
    }
    as_alice("wakeport init notes --user --remove");
    let left = rig.ask("ls /var/lib/alice/.config/systemd/user");
    assert_eq!(left, "notes.service\n");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn init_writes_what_a_freeze_takes_and_removes_all_of_it() {
    let rig = Rig::boot();
    let files = || rig.run("find /etc/systemd /etc/polkit-1 /etc/dbus-1 -type f | sort");
    let port = Echo::unit_of(&rig, "echo", "");
    let before = files();
    let line = format!(
        "wakeport init echo --listen 127.0.0.1:{port} --to 127.0.0.1:{} --cooldown 1h --write",
        port + 10_000
    );
    rig.run(&format!("{line} --freeze-after 1min"));
    let with = files();
    for file in [
        r"/etc/systemd/system/system-wakeport\x2decho.slice",
        "/etc/systemd/system/echo.service.d/10-wakeport.conf",
        "/etc/dbus-1/system.d/wakeport-echo.conf",
    ] {
        assert!(with.contains(file), "no {file} in\n{with}");
    }
    // Without the option what it takes goes again.
    rig.run(&line);
    let without = files();
    assert!(
        !without.contains("wakeport-echo.conf") && !without.contains(".slice"),
        "{without}"
    );
    rig.run(&format!("{line} --freeze-after 1min"));
    rig.run("wakeport init echo --remove");
    assert_eq!(files(), before);
}

/// What stands for the control group of the slice, both for wakeport and for the unit that reclaims from it: the
/// kernel here may have no memory controller of version 2.
fn stands_for_the_group(rig: &Rig) {
    for (file, text) in [
        ("memory.current", "1000\n"),
        ("cgroup.freeze", "1\n"),
        ("memory.reclaim", ""),
    ] {
        rig.write(&format!("{GROUP}/{file}"), text);
    }
    // That of its own group is not there, either; 252 does not know the setting.
    let stand_in = "[Service]\nBindPaths=/run/rig/cgroup:/sys/fs/cgroup\nMemoryPressureWatch=no\n";
    rig.drop_in("wakeport@echo.service", "30-group", stand_in);
    rig.drop_in(RECLAIMER, "30-group", stand_in);
}

const GROUP: &str = r"/run/rig/cgroup/system.slice/system-wakeport\x2decho.slice";
const RECLAIMER: &str = "wakeport-reclaim@echo.service";
const RECLAIMS: &str = "--cooldown infinity --freeze-after 100ms --freeze-reclaim";

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_memory_of_a_stand_in_for_its_group_is_reclaimed_after_each_freeze() {
    let rig = Rig::boot();
    let echo = Echo::by_init(&rig, "echo", "", RECLAIMS);
    stands_for_the_group(&rig);
    for round in 1..=2 {
        echo.serves(&Exchange::short());
        freezes(&echo);
        let said = || rig.said(RECLAIMER, "reclaimed 0 of 1000 bytes: that is all");
        rig.wait_for("it was reclaimed", || said() == round);
        rig.wait_until("inactive", RECLAIMER);
        assert_eq!(rig.read(&format!("{GROUP}/memory.reclaim")), "1000\n");
    }
    assert_eq!(rig.said(&echo.wakeport(), "is not reclaimed"), 0);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn no_client_waits_for_memory_that_is_being_reclaimed() {
    let rig = Rig::boot();
    let echo = Echo::by_init(&rig, "echo", "", RECLAIMS);
    stands_for_the_group(&rig);
    // A pipe without a reader: the kernel takes for ever.
    rig.run(&format!(
        "cd '{GROUP}' && rm memory.reclaim && mkfifo memory.reclaim"
    ));
    for _ in 0..3 {
        echo.serves(&Exchange::short());
        freezes(&echo);
        rig.wait_until("activating", RECLAIMER);
    }
    assert_eq!(rig.starts("echo.service"), 1);
    rig.run(&format!(
        "cd '{GROUP}' && echo 0 >cgroup.freeze && timeout 60 cat memory.reclaim"
    ));
    rig.wait_until("inactive", RECLAIMER);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_freeze_whose_memory_cannot_be_reclaimed_holds_which_is_logged_once() {
    let rig = Rig::boot();
    let echo = Echo::by_init(&rig, "echo", "", RECLAIMS);
    stands_for_the_group(&rig);
    rig.run(&format!("rm '{GROUP}/memory.reclaim'"));
    for _ in 0..3 {
        echo.serves(&Exchange::short());
        freezes(&echo);
    }
    let said = |words: &str| rig.said(&echo.wakeport(), words);
    assert_eq!(said("is not reclaimed: there is no `/sys/fs/cgroup/"), 1);
    assert_eq!(rig.starts(RECLAIMER), 0);
    // Nor if polkit denies it.
    rig.write(&format!("{GROUP}/memory.reclaim"), "");
    rig.run("rm /etc/polkit-1/rules.d/50-wakeport-echo.rules && systemctl restart polkit");
    let found = rig.ask("wakeport check echo");
    assert!(
        found.contains(&format!("`{RECLAIMER}` may not be started")),
        "{found}"
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_unit_that_reclaims_may_write_to_its_group_only_and_wakeport_only_start_it() {
    let rig = Rig::boot();
    let echo = Echo::by_init(&rig, "echo", "", RECLAIMS);
    echo.serves(&Exchange::short());
    freezes(&echo);
    let group = r"/sys/fs/cgroup/system.slice/system-wakeport\\x2decho.slice";
    rig.drop_in(
        RECLAIMER,
        "40-writes",
        &format!(
            "[Service]\nExecStart=\nExecStart=sh -c 'echo max >\"{group}/cgroup.max.depth\" && \
             ! echo max >/sys/fs/cgroup/system.slice/cgroup.max.depth && ! touch /run/x && ! touch /etc/x'\n"
        ),
    );
    rig.systemctl(&format!("start {RECLAIMER}"));
    let by_user = |what: &str| {
        let line = format!("runuser -u wakeport -- systemctl --no-ask-password {what}");
        rig.attempt(&line).status.success()
    };
    assert!(by_user(&format!("start {RECLAIMER}")));
    assert!(!by_user(&format!("stop {RECLAIMER}")));
    assert!(!by_user("start wakeport-reclaim@other.service"));
}
