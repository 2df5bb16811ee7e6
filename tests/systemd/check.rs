//! `wakeport check` on a booted machine: silent for a correct set-up, one line for each error.

use crate::rig::{Client, Rig};
use crate::services::{NEVER, PORT, PYTHON, SOON, TARGET, URL, python};

/// Exits with a code, and prints exactly one line that is no note, with all of these words.
#[track_caller]
fn finds(rig: &Rig, words: &str, code: i32, parts: &[&str]) {
    let output = rig.attempt(&format!("wakeport check {words} 2>&1"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        output.status.code(),
        Some(code),
        "wakeport check {words}:\n{said}"
    );
    let lines = said.lines().filter(|line| !line.starts_with("note: "));
    let lines: Vec<_> = lines.collect();
    assert_eq!(lines.len(), 1, "wakeport check {words}:\n{said}");
    for part in parts {
        assert!(lines[0].contains(part), "no `{part}`:\n{said}");
    }
}

/// The findings with one more drop-in for the instance's service or socket, which is removed afterwards.
#[track_caller]
fn with(rig: &Rig, unit: &str, drop_in: &str, code: i32, parts: &[&str]) {
    rig.drop_in(unit, "zz-broken", drop_in);
    finds(rig, "web", code, parts);
    rig.run(&format!(
        "rm /etc/systemd/system/{unit}.d/zz-broken.conf; systemctl daemon-reload"
    ));
}

const SERVICE: &str = "wakeport@web.service";
const SOCKET: &str = "wakeport@web.socket";

fn good() -> Rig {
    let rig = Rig::boot();
    python(&rig);
    rig.instance("web", PORT, TARGET, &[SOON]);
    rig
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_good_set_up_is_ok_asleep_and_awake_and_nothing_is_started() {
    let rig = good();
    for name in [
        "web",
        "web.service",
        "wakeport@web",
        "wakeport@web.socket",
        "",
    ] {
        finds(&rig, name, 0, &["ok: wakeport@web"]);
    }
    assert_eq!(rig.starts("web.service") + rig.starts(SERVICE), 0);
    rig.settings("web", &[NEVER]);
    assert_eq!(rig.curl(URL), "hello");
    finds(&rig, "web", 0, &["ok: wakeport@web"]);

    // As `init` leaves it, which is the same.
    rig.run("wakeport init notes --listen 8081 --to 127.0.0.1:18081 --exec 'python3 -m http.server 18081' --write --enable");
    finds(&rig, "notes", 0, &["ok: wakeport@notes"]);

    // An ordinary user sees less, and the output says so.
    let said = rig.run("runuser -u daemon -- wakeport check web");
    assert!(said.contains("ok: wakeport@web"), "{said}");
    assert!(said.contains("note: wakeport@web: whether user `wakeport` is authorized by polkit to start and stop `web.service` is not known: polkit tells only root"), "{said}");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn each_error_in_the_units_is_reported() {
    let rig = good();
    with(
        &rig,
        SERVICE,
        "[Service]\nEnvironment=WAKEPORT_COOLDOWN=soon\n",
        1,
        &[
            "error: wakeport@web: `wakeport@web.service` would exit at once",
            "soon",
            "the variable WAKEPORT_COOLDOWN",
        ],
    );
    with(
        &rig,
        SERVICE,
        "[Service]\nEnvironment=WAKEPORT_COOLDWON=5min\n",
        0,
        &[
            "warning: ",
            "WAKEPORT_COOLDWON, which `wakeport run` does not know",
        ],
    );
    with(
        &rig,
        SERVICE,
        "[Unit]\nRequires=web.service\n",
        1,
        &["`wakeport@web.service` depends on `web.service`"],
    );
    with(
        &rig,
        SERVICE,
        "[Unit]\nStartLimitIntervalSec=10s\n",
        0,
        &[
            "warning: ",
            "may be started only 5 times in 10s",
            "StartLimitIntervalSec=0",
        ],
    );
    with(
        &rig,
        SERVICE,
        "[Service]\nUser=nosuch\n",
        1,
        &["user `nosuch` (User= of `wakeport@web.service`) does not exist"],
    );
    with(
        &rig,
        SERVICE,
        "[Service]\nExecStart=\nExecStart=sleep 1\n",
        1,
        &["does not run `wakeport run`"],
    );
    with(
        &rig,
        SERVICE,
        "[Service]\nLimitNOFILE=100\n",
        0,
        &["warning: ", "100 open files is enough for 18 clients"],
    );
    with(
        &rig,
        SERVICE,
        "[Service]\nFileDescriptorStoreMax=0\n",
        0,
        &["warning: ", "FileDescriptorStoreMax=64"],
    );
    with(
        &rig,
        SERVICE,
        "[Service]\nEnvironment=WAKEPORT_UNIT=web.socket.service\n",
        1,
        &["unit `web.socket.service` does not exist"],
    );
    with(
        &rig,
        SOCKET,
        "[Socket]\nTriggerLimitIntervalSec=2s\n",
        0,
        &["warning: ", "TriggerLimitIntervalSec=0"],
    );
    with(
        &rig,
        SOCKET,
        "[Socket]\nFlushPending=yes\n",
        0,
        &["warning: ", "FlushPending=no"],
    );
    with(
        &rig,
        SOCKET,
        "[Socket]\nListenDatagram=/run/web.datagrams\n",
        1,
        &["`/run/web.datagrams` (Datagram)", "use ListenStream="],
    );
    rig.write(
        "/etc/systemd/system/wakeport@web.service.d/zz-late.conf",
        "[Service]\nEnvironment=A=B\n",
    );
    finds(&rig, "web", 0, &["warning: ", "`systemctl daemon-reload`"]);
    rig.systemctl("daemon-reload");

    rig.systemctl("disable --quiet wakeport@web.socket");
    finds(
        &rig,
        "web",
        0,
        &["warning: ", "`systemctl enable wakeport@web.socket`"],
    );
    rig.systemctl("enable --quiet wakeport@web.socket");
    rig.systemctl("stop wakeport@web.socket");
    finds(
        &rig,
        "web",
        1,
        &["its port is closed; `systemctl start wakeport@web.socket`"],
    );
    rig.systemctl("start wakeport@web.socket");
    with(
        &rig,
        SOCKET,
        "[Socket]\nListenStream=\n",
        1,
        &["`wakeport@web.socket` has no address; `wakeport init`"],
    );
    finds(&rig, "web", 0, &["ok"]);
    finds(
        &rig,
        "never-made",
        1,
        &["`wakeport@never-made.socket` has no address"],
    );
    rig.run("/run/rig/source/systemd/uninstall");
    rig.run("rm -r /etc/systemd/system/wakeport@*; cp /run/rig/wakeport /usr/local/bin/; systemctl daemon-reload");
    finds(&rig, "web", 1, &["are not installed"]);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn each_error_in_the_service_is_reported() {
    let rig = good();
    let with_service =
        |drop_in: &str, code: i32, parts: &[&str]| with(&rig, "web.service", drop_in, code, parts);
    with_service(
        "[Unit]\nStopWhenUnneeded=yes\n",
        1,
        &["StopWhenUnneeded=yes"],
    );
    with_service("[Unit]\nRefuseManualStop=yes\n", 1, &["RefuseManualStop="]);
    with_service(
        "[Service]\nRestart=always\n",
        0,
        &["warning: ", "Restart=always"],
    );
    with_service("[Service]\nType=oneshot\n", 1, &["Type=oneshot"]);
    with_service(
        "[Service]\nExecStart=\n",
        1,
        &["`web.service` cannot be loaded (bad-setting: "],
    );
    // A unit in /etc cannot be masked there.
    rig.run("mv /etc/systemd/system/web.service /usr/lib/systemd/system/");
    rig.systemctl("mask --quiet --runtime web.service");
    finds(
        &rig,
        "web",
        1,
        &["`web.service` is masked; `systemctl unmask web.service`"],
    );
    rig.systemctl("unmask --quiet --runtime web.service");
    rig.run("mv /usr/lib/systemd/system/web.service /run/rig/; systemctl daemon-reload");
    finds(&rig, "web", 1, &["unit `web.service` does not exist"]);
    rig.run("mv /run/rig/web.service /etc/systemd/system/; systemctl daemon-reload");
    finds(&rig, "web", 0, &["ok"]);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn what_breaks_the_stop_of_the_service_is_reported() {
    let rig = good();
    let with_service =
        |drop_in: &str, code: i32, parts: &[&str]| with(&rig, "web.service", drop_in, code, parts);
    for setting in ["KillMode=process", "KillMode=none", "SendSIGKILL=no"] {
        with_service(
            &format!("[Service]\n{setting}\n"),
            0,
            &["warning: ", setting, "may have its port still"],
        );
    }
    with_service(
        "[Service]\nRuntimeMaxSec=1h\n",
        0,
        &[
            "warning: ",
            "ends it as failed after 1h",
            "RuntimeMaxSec=infinity",
        ],
    );
    with_service(
        "[Service]\nRemainAfterExit=yes\n",
        0,
        &[
            "warning: ",
            "counts as running when its processes have ended",
        ],
    );
    with_service(
        "[Unit]\nSuccessAction=reboot\n",
        1,
        &["SuccessAction=reboot, which each stop triggers"],
    );
    with_service(
        "[Unit]\nFailureAction=reboot\n",
        0,
        &["warning: ", "FailureAction=none"],
    );

    // Others that depend on it, or that it keeps away.
    rig.unit(
        "backup.service",
        "[Unit]\nRequires=web.service\n[Service]\nExecStart=true\n",
    );
    rig.unit("backup.timer", "[Timer]\nOnCalendar=yearly\n");
    rig.systemctl("start backup.timer");
    finds(
        &rig,
        "web",
        0,
        &[
            "warning: ",
            "`web.service` is not stopped while `backup.service` runs, which would be stopped along",
            "use Wants= instead",
        ],
    );
    rig.systemctl("stop backup.timer");
    rig.run("rm /etc/systemd/system/backup.*; systemctl daemon-reload");
    rig.unit(
        "rival.service",
        "[Unit]\nConflicts=web.service\n[Service]\nExecStart=sleep infinity\n",
    );
    rig.unit("rival.timer", "[Timer]\nOnCalendar=yearly\n");
    rig.systemctl("start rival.timer");
    // One that a timer will start; one that is missing never runs, and all conflict with shutdown.target.
    let notes = |rig: &Rig| {
        finds(rig, "web", 0, &["ok"]);
        rig.run("wakeport check web 2>&1 | grep ^note: || :")
    };
    rig.drop_in(
        "web.service",
        "rival",
        "[Unit]\nConflicts=missing.service\n",
    );
    let said = notes(&rig);
    for part in [
        "note: wakeport@web: each start of `rival.service`, not running now, would stop `web.service` under its clients",
        "`systemctl mask rival.service`",
    ] {
        assert!(said.contains(part), "no `{part}`:\n{said}");
    }
    assert_eq!(said.matches("Conflicts=").count(), 1, "{said}");
    for part in ["missing.service", "shutdown.target"] {
        assert!(!said.contains(part), "`{part}`:\n{said}");
    }
    rig.systemctl("start rival.service");
    finds(
        &rig,
        "web",
        0,
        &[
            "warning: ",
            "each start of `web.service` stops `rival.service`",
        ],
    );
    rig.run("rm /etc/systemd/system/rival.*; systemctl stop rival.service rival.timer; systemctl daemon-reload");
    assert!(!notes(&rig).contains("Conflicts="));
    rig.unit("media.target", "[Unit]\nWants=web.service\n");
    rig.allow("media.target");
    rig.settings("web", &["WAKEPORT_UNIT=media.target"]);
    finds(
        &rig,
        "web",
        0,
        &[
            "warning: ",
            "a stop of `media.target` leaves `web.service` running; add PartOf=media.target",
        ],
    );
    with_service("[Unit]\nPartOf=media.target\n", 0, &["ok"]);
    with_service("[Unit]\nStopWhenUnneeded=yes\n", 0, &["ok"]);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_state_that_the_service_is_in_is_reported() {
    let rig = good();
    rig.settings("web", &[NEVER]);
    assert_eq!(rig.curl(URL), "hello");
    rig.write(
        "/etc/systemd/system/web.service",
        &format!("{PYTHON}Environment=A=B\n"),
    );
    finds(
        &rig,
        "web",
        0,
        &[
            "warning: ",
            "the files of `web.service` have changed",
            "daemon-reload",
        ],
    );
    rig.systemctl("daemon-reload");
    finds(&rig, "web", 0, &["ok"]);
    rig.systemctl("freeze web.service");
    finds(
        &rig,
        "web",
        0,
        &["warning: ", "`systemctl thaw web.service`"],
    );
    rig.systemctl("thaw web.service");
    rig.systemctl("stop web.service");

    rig.unit(
        "web.service",
        "[Service]\nType=exec\nExecStart=sh -c 'trap \"exit 143\" TERM; sleep infinity & wait'\n",
    );
    rig.systemctl("start web.service");
    rig.wait_for("its trap is set", || rig.processes("sleep") == 1);
    rig.attempt("systemctl stop web.service");
    finds(
        &rig,
        "web",
        0,
        &[
            "warning: ",
            "`web.service` has failed the last time (exit-code, status 143); if it ends like this whenever it is stopped",
            "SuccessExitStatus=143",
        ],
    );
    rig.unit("web.service", "[Service]\nExecStart=sh -c 'exit 3'\n");
    rig.attempt("systemctl start web.service");
    rig.wait_until("failed", "web.service");
    finds(
        &rig,
        "web",
        0,
        &["(exit-code, status 3); `journalctl -u web.service` shows why"],
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn an_instance_that_cannot_start_or_restarts_over_and_over_is_an_error() {
    let rig = good();
    let mut client = None;
    let mut broken = |spoil: &str, mend: &str, parts: &[&str]| {
        rig.run(spoil);
        // The restarts of the last round are counted until the next start.
        rig.systemctl(&format!("reset-failed {SERVICE}"));
        client = Some(Client::asks(PORT));
        rig.wait_for("it has restarted twice", || {
            rig.show("NRestarts", SERVICE)
                .parse::<u32>()
                .is_ok_and(|times| times > 1)
        });
        let output = rig.attempt("/run/rig/wakeport check web 2>&1");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors: Vec<_> = said
            .lines()
            .filter(|line| line.starts_with("error: "))
            .collect();
        assert!(errors.len() == 1, "{said}");
        for part in parts {
            assert!(errors[0].contains(part), "no `{part}`:\n{said}");
        }
        rig.run(mend);
        let client = client.take().expect("it waits");
        assert_eq!(client.page(), "hello");
        rig.wait_until_asleep("web");
        finds(&rig, "web", 0, &["ok"]);
    };
    // As `cp` leaves it under a strict umask.
    let program = "/usr/local/bin/wakeport";
    broken(
        &format!("chmod 750 {program}"),
        &format!("chmod 755 {program}"),
        &[
            "error: wakeport@web: `wakeport@web.service` cannot start, and its clients wait; it was restarted ",
            "(exit-code, status 203/EXEC): its program is missing, or its user may not execute it",
            "`journalctl -u wakeport@web.service`",
        ],
    );
    broken(
        "rm -rf /var/lib/wakeport; touch /var/lib/wakeport",
        "rm /var/lib/wakeport",
        &["status 238/STATE_DIRECTORY): its StateDirectory= cannot be made"],
    );
    broken(
        "mkdir -p /etc/systemd/system/wakeport@web.service.d; \
         echo '[Service]\nReadWritePaths=/nowhere' >/etc/systemd/system/wakeport@web.service.d/zz.conf; systemctl daemon-reload",
        "rm /etc/systemd/system/wakeport@web.service.d/zz.conf; systemctl daemon-reload",
        &["status 226/NAMESPACE): its sandbox cannot be set up"],
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_name_that_systemd_can_start_nothing_by_is_refused() {
    let rig = Rig::boot();
    rig.unit("web.service", PYTHON);
    rig.write("/run/rig/www/index.html", "hello");
    let init = |length: usize| {
        let name = "n".repeat(length);
        let line = format!(
            "wakeport init {name} --unit web --listen {PORT} --to {TARGET} --cooldown 300ms --write --enable 2>&1"
        );
        (rig.attempt(&line), name)
    };
    let (longest, name) = init(182);
    assert!(longest.status.success(), "{longest:?}");
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_until("inactive", &format!("wakeport@{name}.service"));
    rig.run(&format!("wakeport init {name} --remove"));
    let (refused, _) = init(183);
    let said = String::from_utf8_lossy(&refused.stdout);
    assert!(
        refused.status.code() == Some(64) && said.contains("is too long for a unit's name"),
        "{refused:?}"
    );
    // By hand.
    let name = "n".repeat(183);
    rig.allow("web.service");
    rig.instance(&name, PORT, TARGET, &["WAKEPORT_UNIT=web.service"]);
    let said = rig.ask(&format!("wakeport check {name}"));
    let errors: Vec<_> = said
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert!(
        errors.len() == 1
            && errors[0].contains("with PrivateTmp=yes a unit's name has at most 199 bytes"),
        "{said}"
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn what_polkit_denies_the_user_of_the_instance_is_reported() {
    let rig = good();
    rig.unit("secret.service", "[Service]\nExecStart=sleep infinity\n");
    rig.settings("web", &["WAKEPORT_UNIT=web secret"]);
    let denied = "user `wakeport` is not authorized by polkit to `start`, `stop`, `reset-failed` `secret.service`; `wakeport init secret … --write`";
    finds(&rig, "web", 1, &[denied]);
    rig.allow("secret.service");
    finds(&rig, "web", 0, &["ok"]);
    // Another user has no rule.
    with(
        &rig,
        SERVICE,
        "[Service]\nUser=daemon\nEnvironment=WAKEPORT_UNIT=web\n",
        1,
        &["user `daemon`", "`web.service`", "a rule for `daemon`"],
    );
    // Root needs none.
    with(&rig, SERVICE, "[Service]\nUser=\n", 0, &["ok"]);
    // Part of it is not enough.
    rig.write(
        "/etc/polkit-1/rules.d/40-no.rules",
        "polkit.addRule(function(action, subject) { if (action.lookup(\"verb\") == \"reset-failed\") return polkit.Result.NO; });\n",
    );
    rig.settings("web", &[SOON]);
    rig.systemctl("try-restart polkit.service");
    finds(&rig, "web", 1, &["to `reset-failed` `web.service`"]);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn an_unreachable_target_and_a_loop_are_reported() {
    let rig = good();
    let to = |address: &str, code: i32, parts: &[&str]| {
        with(
            &rig,
            SERVICE,
            &format!("[Service]\nEnvironment=\"WAKEPORT_TO={address}\"\n"),
            code,
            parts,
        );
    };
    to(
        "127.0.0.1:8080",
        1,
        &["target `127.0.0.1:8080` is our own listener `web` on 127.0.0.1:8080"],
    );
    to("localhost", 1, &["is our own listener"]);
    to(
        "nosuch.invalid:80",
        1,
        &["target `nosuch.invalid:80` cannot be resolved"],
    );
    to(
        "127.0.0.1:18080 other=127.0.0.1:1",
        0,
        &["warning: ", "no listener is called `other`"],
    );
    rig.run("echo '127.0.0.1 me.example' >>/etc/hosts");
    to(
        "me.example:8080",
        1,
        &["target `me.example:8080` is our own listener"],
    );

    // Two instances that lead to each other: neither has to do with a service.
    rig.unit("b.service", "[Service]\nExecStart=sleep infinity\n");
    rig.instance("b", "127.0.0.1:8082", PORT, &[]);
    finds(&rig, "b", 0, &["ok"]);
    to(
        "127.0.0.1:8082",
        1,
        &["loops back through `wakeport@b.service`"],
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_port_in_use_and_a_hook_that_cannot_be_run_are_reported() {
    let rig = good();
    rig.systemctl("stop wakeport@web.socket");
    rig.unit(
        "thief.service",
        "[Service]\nExecStart=python3 -m http.server --bind 127.0.0.1 8080\n",
    );
    rig.systemctl("start thief.service");
    rig.wait_for("the port is taken", || rig.try_curl(URL).is_ok());
    let said = rig.ask("wakeport check web");
    assert!(
        said.contains("127.0.0.1:8080 is in use by `thief.service`"),
        "{said}"
    );
    rig.systemctl("stop thief.service");
    rig.systemctl("start wakeport@web.socket");

    rig.script("/usr/local/bin/wake", "#!/bin/sh\n");
    rig.script("/usr/local/bin/broken", "#!/no/such/interpreter\n");
    let hook = |hook: &str, code: i32, parts: &[&str]| {
        let settings =
            format!("[Service]\nEnvironment=WAKEPORT_UNIT= WAKEPORT_START_HOOK={hook}\n");
        with(&rig, SERVICE, &settings, code, parts);
    };
    hook("wake", 0, &["ok"]);
    hook("/usr/local/bin/wake", 0, &["ok"]);
    hook(
        "sleep-well",
        1,
        &["the start hook `sleep-well` cannot be run by user `wakeport`: it is not in PATH"],
    );
    hook("/root/wake", 1, &["the sandbox hides home directories"]);
    hook("/tmp/wake", 1, &["the sandbox has a /tmp of its own"]);
    hook(
        "broken",
        1,
        &["`/no/such/interpreter`, which does not exist"],
    );
    rig.run("chmod 750 /usr/local/bin/wake");
    hook(
        "wake",
        1,
        &["its mode is 750; `chmod 755 /usr/local/bin/wake`"],
    );
    rig.run("chgrp wakeport /usr/local/bin/wake");
    hook("wake", 0, &["ok"]);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn what_is_wrong_with_a_udp_port_is_reported() {
    let rig = good();
    rig.unit(
        "wakeport@web-udp.socket",
        "[Socket]\nListenDatagram=127.0.0.1:8080\nFileDescriptorName=udp\nReceiveBuffer=4M\nService=wakeport@web.service\n\
         TriggerLimitIntervalSec=0\n[Install]\nWantedBy=sockets.target\n",
    );
    rig.drop_in(
        SERVICE,
        "zz-sockets",
        "[Service]\nSockets=wakeport@web.socket wakeport@web-udp.socket\n",
    );
    rig.systemctl("enable --quiet --now wakeport@web-udp.socket");
    finds(&rig, "web", 0, &["ok: wakeport@web"]);
    assert!(
        rig.run("wakeport status web")
            .contains("udp:127.0.0.1:8080")
    );
    let udp = "wakeport@web-udp.socket";
    with(
        &rig,
        udp,
        "[Socket]\nReceiveBuffer=200K\n",
        0,
        &["warning", udp, "ReceiveBuffer=4M"],
    );
    with(
        &rig,
        udp,
        "[Socket]\nListenDatagram=/run/x\n",
        1,
        &["error", "`/run/x` (Datagram)"],
    );
    let http = "[Service]\nEnvironment=WAKEPORT_HTTP=yes\n";
    with(
        &rig,
        SERVICE,
        http,
        1,
        &["error", "listener `udp` takes datagrams", "`--http`"],
    );
    rig.systemctl(&format!("stop {udp}"));
    rig.unit(
        "thief.service",
        "[Service]\nExecStart=python3 -c 'import socket, time\\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\\n\
         s.bind((\"127.0.0.1\", 8080))\\ntime.sleep(1e6)'\n",
    );
    rig.systemctl("start thief.service");
    rig.wait_for("the port is taken", || {
        let said = rig.ask("wakeport check web");
        said.contains("udp:127.0.0.1:8080 is in use by `thief.service`")
    });
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_unix_target_that_the_user_of_the_instance_cannot_reach_is_reported() {
    let rig = good();
    rig.run("groupadd app; useradd --no-create-home app --gid app");
    let server = |path: &str, more: &str| {
        rig.systemctl("stop web.service");
        rig.unit(
            "web.service",
            &format!("[Service]\nUser=app\nRuntimeDirectory=app\n{more}\nExecStart=python3 /run/rig/serve.py {path}\n"),
        );
        let to = format!("[Service]\nEnvironment=WAKEPORT_TO={path}\n");
        rig.drop_in(SERVICE, "zz-to", &to);
    };
    rig.write(
        "/run/rig/serve.py",
        "import os, socket, sys\n\
         listener = socket.socket(socket.AF_UNIX)\n\
         if os.path.exists(sys.argv[1]): os.unlink(sys.argv[1])\n\
         listener.bind(sys.argv[1])\n\
         os.chmod(sys.argv[1], int(os.environ.get('MODE', '666'), 8))\n\
         listener.listen()\n\
         while True:\n    \
             client = listener.accept()[0]\n    \
             client.recv(999) and client.send(b'HTTP/1.0 200 OK\\r\\n\\r\\nhello')\n    \
             client.close()\n",
    );
    let hidden = |path: &str, parts: &[&str]| {
        let prefix =
            format!("error: wakeport@web: target `{path}` cannot be reached by user `wakeport`: ");
        finds(&rig, "web", 1, &[&[prefix.as_str()], parts].concat());
        let init = format!("wakeport init web --listen {PORT} --to {path} 2>&1");
        let said = rig.ask(&init);
        assert!(
            said.contains(&prefix.replace("wakeport@web: ", "")),
            "{said}"
        );
    };
    // The sandbox.
    server("/tmp/app.sock", "");
    hidden(
        "/tmp/app.sock",
        &["the sandbox has a /tmp of its own; let the service listen below /run, or PrivateTmp=no"],
    );
    server("/home/app.sock", "");
    hidden("/home/app.sock", &["the sandbox hides home directories"]);
    rig.run("ln -s /tmp/app.sock /run/link.sock");
    server("/run/link.sock", "");
    rig.run("touch /tmp/app.sock");
    hidden("/run/link.sock", &["/tmp of its own"]);
    rig.run("rm /tmp/app.sock /run/link.sock");

    // Its directory, asleep.
    let path = "/run/app/app.sock";
    server(path, "RuntimeDirectoryMode=0750");
    hidden(
        path,
        &[
            "the directory `/run/app` gets the mode 750; `systemctl edit web.service`: RuntimeDirectoryMode=0755, or `systemctl edit wakeport@web.service`: SupplementaryGroups=app",
        ],
    );
    rig.drop_in(SERVICE, "group", "[Service]\nSupplementaryGroups=app\n");
    finds(&rig, "web", 0, &["ok"]);
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_until_asleep("web");
    rig.drop_in(SERVICE, "group", "");

    // Its own mode, awake.
    server(path, "Environment=MODE=660");
    rig.systemctl("start web.service");
    rig.wait_for("it listens", || {
        rig.attempt(&format!("test \"$(stat -c %a {path})\" = 660"))
            .status
            .success()
    });
    hidden(
        path,
        &[
            "its mode is 660, and its group is `app`; let the service make it 666, or `systemctl edit wakeport@web.service`: SupplementaryGroups=app",
        ],
    );
    rig.drop_in(SERVICE, "group", "[Service]\nSupplementaryGroups=app\n");
    finds(&rig, "web", 0, &["ok"]);
    assert_eq!(rig.curl(URL), "hello");
    rig.drop_in(SERVICE, "group", "");
    server(path, "");
    assert_eq!(rig.curl(URL), "hello");
    finds(&rig, "web", 0, &["ok"]);

    // A network of its own.
    rig.drop_in(SERVICE, "zz-to", "");
    with(
        &rig,
        SERVICE,
        "[Service]\nPrivateNetwork=yes\n",
        1,
        &[
            "`wakeport@web.service` has a network of its own",
            "JoinsNamespaceOf= of each other",
        ],
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn each_setting_of_the_sandbox_that_keeps_a_target_out_of_reach_is_reported() {
    let rig = good();
    let service = |settings: &str, code: i32, parts: &[&str]| {
        with(
            &rig,
            SERVICE,
            &format!("[Service]\n{settings}\n"),
            code,
            parts,
        );
    };
    let refuses = |target: &str, settings: &str, remedy: &str| {
        let (setting, _) = remedy.split_once('=').expect("a setting");
        let setting = setting.replace("Allow", "Deny");
        let said = format!(
            "`wakeport@web.service` may not connect to target `{target}` ({setting}=); `systemctl edit wakeport@web.service`: {remedy}"
        );
        service(settings, 1, &[&format!("error: wakeport@web: {said}")]);
        service(&format!("{settings}\n{remedy}"), 0, &["ok"]);
    };
    // A network or a family that is refused.
    refuses(TARGET, "IPAddressDeny=any", "IPAddressAllow=127.0.0.1");
    refuses(
        TARGET,
        "IPAddressDeny=127.0.0.0/8",
        "IPAddressAllow=127.0.0.1",
    );
    service("IPAddressDeny=any\nIPAddressAllow=localhost", 0, &["ok"]);
    let slice = "system-wakeport.slice";
    with(
        &rig,
        slice,
        "[Slice]\nIPAddressDeny=localhost\n",
        1,
        &[
            "(IPAddressDeny= of `system-wakeport.slice`); `systemctl edit system-wakeport.slice`: IPAddressAllow=127.0.0.1",
        ],
    );
    let settings = "[Slice]\nIPAddressDeny=localhost\nIPAddressAllow=127.0.0.1\n";
    with(&rig, slice, settings, 0, &["ok"]);
    let family = "RestrictAddressFamilies=AF_INET";
    for families in ["AF_UNIX AF_INET6", "~AF_INET"] {
        // Instead of the installed list.
        let settings = format!("RestrictAddressFamilies=\nRestrictAddressFamilies={families}");
        refuses(TARGET, &settings, family);
    }
    refuses(TARGET, "RestrictAddressFamilies=~AF_INET", family);
    for interfaces in ["~lo", "eth0"] {
        let settings = format!("RestrictNetworkInterfaces={interfaces}");
        // Debian 12 builds systemd without it.
        match rig.run("systemctl --version").contains("+BPF_FRAMEWORK") {
            true => refuses(TARGET, &settings, "RestrictNetworkInterfaces=lo"),
            false => service(&settings, 0, &["ok"]),
        }
    }
    service(
        "NetworkNamespacePath=/run/netns/x",
        0,
        &[
            "warning: wakeport@web: `wakeport@web.service` has a network of its own (NetworkNamespacePath=/run/netns/x)",
            "where `web.service` is not; give both the same NetworkNamespacePath=",
        ],
    );
    rig.drop_in(SERVICE, "zz-deny", "[Service]\nIPAddressDeny=any\n");
    let init = |to: &str| rig.ask(&format!("wakeport init web --listen {PORT} --to {to} 2>&1"));
    let said = init(TARGET);
    assert!(
        said.contains("error: `wakeport@web.service` may not connect to target `127.0.0.1:18080` (IPAddressDeny=)"),
        "{said}"
    );
    rig.drop_in(SERVICE, "zz-deny", "");

    // The bus.
    let settings = "TemporaryFileSystem=/run\nBindPaths=/run/systemd";
    service(
        settings,
        1,
        &[
            "error: wakeport@web: the bus `/var/run/dbus/system_bus_socket` cannot be reached by user `wakeport`: TemporaryFileSystem=/run of `wakeport@web.service` hides it; BindPaths=/var/run/dbus, or remove that setting",
        ],
    );
    let bus = "BindPaths=/var/run/dbus";
    service(&format!("{settings}\n{bus}"), 0, &["ok"]);
    let settings = format!("[Service]\n{settings}\n{bus}\n");
    rig.drop_in(SERVICE, "zz-bus", &settings);
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_until_asleep("web");
    rig.drop_in(SERVICE, "zz-bus", "");
    service(
        "RestrictAddressFamilies=\nRestrictAddressFamilies=AF_INET",
        1,
        &[
            "may not connect to the bus (RestrictAddressFamilies=); `systemctl edit wakeport@web.service`: RestrictAddressFamilies=AF_UNIX",
        ],
    );

    // A path that is not in the sandbox.
    let path = "/run/app/app.sock";
    rig.drop_in(
        SERVICE,
        "zz-to",
        &format!("[Service]\nEnvironment=WAKEPORT_TO={path}\n"),
    );
    finds(&rig, "web", 0, &["ok"]);
    let settings = "RestrictAddressFamilies=\nRestrictAddressFamilies=AF_INET AF_INET6";
    refuses(path, settings, "RestrictAddressFamilies=AF_UNIX");
    let hides = |settings: &str, setting: &str| {
        let said = format!(
            "target `{path}` cannot be reached by user `wakeport`: {setting} of `wakeport@web.service` hides it; let the service listen somewhere else, or remove that setting"
        );
        let settings = format!("{settings}\n{bus}");
        service(&settings, 1, &[&format!("error: wakeport@web: {said}")]);
    };
    hides("InaccessiblePaths=-/run/app", "InaccessiblePaths=/run/app");
    hides(
        "InaccessiblePaths=-+/run/app\nBindPaths=/run/app/more",
        "InaccessiblePaths=/run/app",
    );
    hides("TemporaryFileSystem=/run:ro", "TemporaryFileSystem=/run");
    service(
        &format!("TemporaryFileSystem=/run\nBindReadOnlyPaths=/run/app\n{bus}"),
        0,
        &["ok"],
    );
    service("TemporaryFileSystem=/run/apps", 0, &["ok"]);
    hides("RootDirectory=/var/lib/root", "RootDirectory=/var/lib/root");
    let root = format!("RootDirectory=/var/lib/root\n{bus}");
    service(&format!("{root}\nBindPaths=/run"), 0, &["ok"]);
    rig.run("mkdir -p /var/lib/root/run/app");
    // There is an empty /run.
    hides("RootDirectory=/var/lib/root", "RootDirectory=/var/lib/root");
    service(&format!("{root}\nMountAPIVFS=no"), 0, &["ok"]);
    hides("RootImage=/srv/root.raw", "RootImage=/srv/root.raw");
    rig.drop_in(
        SERVICE,
        "zz-hide",
        "[Service]\nInaccessiblePaths=-/run/app\n",
    );
    let said = init(path);
    assert!(
        said.contains("error: target `/run/app/app.sock` cannot be reached by user `wakeport`: InaccessiblePaths=/run/app of `wakeport@web.service` hides it"),
        "{said}"
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn variables_from_a_file_count() {
    let rig = good();
    rig.write("/etc/web.env", "# how long\nWAKEPORT_COOLDOWN=\"ever\"\n");
    with(
        &rig,
        SERVICE,
        "[Service]\nEnvironmentFile=/etc/web.env\n",
        1,
        &["ever", "the variable WAKEPORT_COOLDOWN"],
    );
    rig.write("/etc/web.env", "WAKEPORT_COOLDOWN=5min 20s\n");
    with(
        &rig,
        SERVICE,
        "[Service]\nEnvironmentFile=/etc/web.env\nEnvironmentFile=-/etc/none.env\n",
        0,
        &["ok"],
    );
    rig.run("chmod 600 /etc/web.env");
    rig.drop_in(SERVICE, "file", "[Service]\nEnvironmentFile=/etc/web.env\n");
    let said = rig.run("runuser -u daemon -- wakeport check web");
    assert!(said.contains("`/etc/web.env` was not read"), "{said}");
}
