//! A service is not stopped under work: beside an instance as it is installed, sandbox and all.

use std::process::{Child, Stdio};

use crate::rig::{Client, Rig};
use crate::services::{PORT, SOON, TARGET, URL, postgresql, psql, python};

/// Much less than the work takes.
const SHORT: &str = "WAKEPORT_COOLDOWN=500ms";

/// Starts a command in the rig, which goes on.
fn begin(rig: &Rig, command: &str) -> Child {
    let mut command = rig.command(["/bin/sh", "-c", command]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("nsenter can be run")
}

/// Waits until the instance says that this keeps its service awake.
#[track_caller]
fn kept_awake(rig: &Rig, instance: &str, work: &str) {
    let expected = format!("kept awake: {work}; ");
    rig.wait_for(&expected, || {
        rig.show("StatusText", &format!("wakeport@{instance}.service"))
            .contains(&expected)
    });
}

/// A dump whose output is not read for now, over TCP to the target itself. After an objection the question comes again
/// after 30 s, or when the cooldown of the next client is over: ten clients make ten cooldowns.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_pg_dump_that_bypasses_wakeport_outlives_ten_cooldowns() {
    const ROWS: usize = 100_000;
    let rig = Rig::boot();
    let unit = postgresql(&rig);
    rig.instance(&unit, "127.0.0.1:5432", "127.0.0.1:15432", &[SHORT]);
    let service = format!("{unit}.service");
    let client = Client::connect("127.0.0.1:5432");
    // 100 MB, more than all buffers on the way hold.
    let filled = format!(
        "create table big as select repeat(md5(i::text), 32) from generate_series(1, {ROWS}) i"
    );
    psql(&rig, &filled);
    let dump = begin(
        &rig,
        "pg_dump --host=127.0.0.1 --port=15432 --username=postgres postgres",
    );
    // By a socket that is no target.
    let stalls = || {
        let query = "select wait_event from pg_stat_activity where application_name = $$pg_dump$$";
        let seen = rig.run(&format!(
            "psql --host=/run/postgresql --port=15432 --username=postgres -tAc '{query}'"
        ));
        seen.trim() == "ClientWrite"
    };
    rig.wait_for("the dump stalls", stalls);
    drop(client);
    kept_awake(&rig, &unit, "1 direct connection");
    let table = rig.run(&format!("wakeport status {unit}"));
    assert!(table.contains("kept awake: 1 direct connection"), "{table}");
    for cooldown in 2..=11 {
        assert_eq!(psql(&rig, "select 6 * 7"), "42");
        rig.wait_for("another cooldown is over", || {
            let objection = "is kept awake: 1 direct connection";
            rig.said(&format!("wakeport@{service}"), objection) == cooldown
        });
    }
    assert!(stalls());
    let output = dump.wait_with_output().expect("it was started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let dump = String::from_utf8_lossy(&output.stdout);
    assert!(dump.contains("PostgreSQL database dump complete"), "{said}");
    let rows = dump.lines().filter(|line| line.len() == 1024).count();
    assert_eq!(rows, ROWS);
    assert_eq!((rig.starts(&service), rig.stops(&service)), (1, 0));
    // With nothing left, the next cooldown ends as ever.
    assert_eq!(psql(&rig, "select 6 * 7"), "42");
    rig.wait_until_asleep(&unit);
    assert_eq!((rig.starts(&service), rig.stops(&service)), (1, 1));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_backup_that_requires_the_service_is_finished_before_the_stop() {
    // The last one is PropagatesStopTo= of the service, seen from here.
    for dependency in ["Requires", "BindsTo", "Requisite", "StopPropagatedFrom"] {
        let rig = Rig::boot();
        python(&rig);
        rig.unit(
            "backup.service",
            &format!(
                "[Unit]\n{dependency}=web.service\nAfter=web.service\n[Service]\nType=oneshot\nExecStart=sleep 15\n"
            ),
        );
        rig.instance("web", PORT, TARGET, &[SHORT]);
        let mut client = Client::connect(PORT);
        assert_eq!(client.ask_again(), "hello");
        rig.systemctl("start --no-block backup.service");
        rig.wait_until("activating", "backup.service");
        drop(client);
        kept_awake(&rig, "web", "backup.service is running");
        rig.wait_until("inactive", "backup.service");
        assert_eq!(rig.show("Result", "backup.service"), "success");
        assert_eq!(rig.stops("web.service"), 0);
        assert_eq!(rig.curl(URL), "hello");
        rig.wait_until_asleep("web");
        assert_eq!(
            (rig.starts("web.service"), rig.stops("web.service")),
            (1, 1)
        );
    }
}

/// Parts of the service, units that only want it or come after it, and wakeport's own, which requires it here.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn units_that_would_go_on_without_the_service_keep_nothing_awake() {
    let rig = Rig::boot();
    python(&rig);
    for (name, dependency) in [("part", "PartOf"), ("friend", "Wants"), ("later", "After")] {
        rig.unit(
            &format!("{name}.service"),
            &format!("[Unit]\n{dependency}=web.service\n[Service]\nExecStart=sleep 1000\n"),
        );
        rig.systemctl(&format!("start {name}.service"));
    }
    rig.instance("web", PORT, TARGET, &[SOON]);
    rig.drop_in(
        "wakeport@web.service",
        "tie",
        "[Unit]\nRequires=web.service\n",
    );
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_until_asleep("web");
    assert_eq!(rig.said("wakeport@web.service", "kept awake"), 0);
    assert_eq!(rig.said("wakeport@web.service", "cannot tell"), 0);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_that_uses_cpu_is_kept_awake_until_it_does_not() {
    let rig = Rig::boot();
    python(&rig);
    rig.drop_in(
        "web.service",
        "spins",
        "[Service]\nExecStart=\nExecStart=sh -c 'while [ ! -e /run/rig/enough ]; do :; done & exec python3 -m http.server --bind 127.0.0.1 --directory /run/rig/www 18080'\n",
    );
    rig.instance("web", PORT, TARGET, &[SOON, "WAKEPORT_BUSY_CPU=1%"]);
    assert_eq!(rig.curl(URL), "hello");
    kept_awake(&rig, "web", "CPU is being measured");
    rig.wait_for("it has been measured", || {
        rig.show("StatusText", "wakeport@web.service")
            .contains("%, more than 1%")
    });
    assert_eq!(rig.stops("web.service"), 0);
    rig.write("/run/rig/enough", "");
    rig.wait_until_asleep("web");
    assert_eq!(rig.said("wakeport@web.service", "cannot tell"), 0);
}

/// `--busy-io` is not here: systemd reads `IOReadBytes=` from the io controller of cgroup v2, which a rig lacks where its
/// machine has blkio of v1 instead; and what a rig writes stays in memory.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_that_uses_the_network_is_kept_awake_until_it_does_not() {
    let rig = Rig::boot();
    python(&rig);
    rig.write(
        "/run/rig/sends.py",
        "\
import os, socket, time

sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while not os.path.exists('/run/rig/enough'):
    sender.sendto(bytes(10_000), ('127.0.0.1', 9))
    time.sleep(0.01)
",
    );
    // Not to wakeport, nor over a connection to the target.
    rig.drop_in(
        "web.service",
        "sends",
        "[Service]\nIPAccounting=yes\nExecStart=\nExecStart=sh -c 'python3 /run/rig/sends.py & exec python3 -m http.server --bind 127.0.0.1 --directory /run/rig/www 18080'\n",
    );
    rig.instance("web", PORT, TARGET, &[SOON, "WAKEPORT_BUSY_NET=10K"]);
    assert_eq!(rig.curl(URL), "hello");
    kept_awake(&rig, "web", "network is being measured");
    rig.wait_for("it has been measured", || {
        let status = rig.show("StatusText", "wakeport@web.service");
        status.contains("kept awake: network ") && status.contains("/s, more than 10")
    });
    assert_eq!(rig.stops("web.service"), 0);
    rig.write("/run/rig/enough", "");
    rig.wait_until_asleep("web");
    assert_eq!(rig.said("wakeport@web.service", "cannot tell"), 0);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn check_proposes_a_limit_for_a_unit_that_has_been_idle() {
    let rig = Rig::boot();
    python(&rig);
    rig.instance("web", PORT, TARGET, &["WAKEPORT_COOLDOWN=30s"]);
    let proposal = "note: wakeport@web: idle, `web.service` used ";
    let found = || rig.ask("wakeport check web 2>&1");
    assert_eq!(rig.curl(URL), "hello");
    assert!(!found().contains(proposal), "{}", found());
    rig.wait_until_asleep("web");
    let told = found();
    assert!(told.contains(proposal), "{told}");
    assert!(
        told.contains("of a core; `--busy-cpu 1%` would keep the service awake"),
        "{told}"
    );
    rig.settings("web", &["WAKEPORT_BUSY_CPU=1%"]);
    assert!(!found().contains(proposal), "{}", found());
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn init_has_systemd_measure_what_keeps_the_unit_awake_and_check_misses_it() {
    let rig = Rig::boot();
    python(&rig);
    let init = format!("wakeport init web --listen {PORT} --to {TARGET} --cooldown 300ms");
    let measured = || ["IOAccounting", "IPAccounting"].map(|name| rig.show(name, "web.service"));
    rig.run(&format!(
        "{init} --busy-io 1M --busy-net 1M --write --enable"
    ));
    assert_eq!(measured(), ["yes", "yes"]);
    assert!(!rig.ask("wakeport check web").contains("is not measured"));
    rig.run("rm -r /etc/systemd/system/web.service.d && systemctl daemon-reload");
    let found = rig.ask("wakeport check web 2>&1");
    assert!(
        found.contains("`web.service` is not measured for `--busy-io`"),
        "{found}"
    );
    assert!(
        found.contains("`systemctl edit web.service`: IPAccounting=yes"),
        "{found}"
    );
    // What is not measured keeps nothing awake, and is told.
    rig.systemctl("try-restart polkit.service");
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_until_asleep("web");
    let told = rig.journal("wakeport@web.service");
    assert!(told.contains("set IPAccounting=yes"), "{told}");
    // Without the options there is nothing to be measured, and nothing is left behind.
    rig.run(&format!("{init} --busy-io 1M --write"));
    assert!(rig.path("/etc/systemd/system/web.service.d").exists());
    rig.run("wakeport init web --remove");
    assert!(!rig.path("/etc/systemd/system/web.service.d").exists());
    assert_eq!(measured(), ["no", "no"]);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn while_the_bus_is_lost_the_service_is_kept_for_ten_seconds_and_clients_are_served() {
    let rig = Rig::boot();
    python(&rig);
    rig.instance("web", PORT, TARGET, &[SOON]);
    let mut client = Client::connect(PORT);
    assert_eq!(client.ask_again(), "hello");
    rig.systemctl("stop dbus.socket dbus.service");
    drop(client);
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_for("it is told", || {
        let told = "cannot tell whether web.service has work to do";
        rig.said("wakeport@web.service", told) > 0
    });
    rig.systemctl("start dbus.socket dbus.service");
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_until_asleep("web");
}
