//! What docs/internals/threat-model.md claims of a booted machine: what polkit grants, what a hook may do, and that the
//! sandbox denies wakeport nothing that it needs.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::rig::{Client, Rig};
use crate::services::{NEVER, PORT, PYTHON, SOON, TARGET, URL, python};

/// One call of a method of systemd's, as the user that wakeport runs as: what became of it.
fn call(rig: &Rig, words: &str) -> Result<(), String> {
    let output = rig.attempt(&format!(
        "runuser -u wakeport -- busctl --allow-interactive-authorization=no call org.freedesktop.systemd1 \
         /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager {words}"
    ));
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[track_caller]
fn granted(rig: &Rig, words: &str) {
    assert_eq!(call(rig, words), Ok(()), "{words}");
}

#[track_caller]
fn denied(rig: &Rig, words: &str) {
    let why = call(rig, words).expect_err(words).to_lowercase();
    let denials = ["access denied", "authentication required", "not authorized"];
    assert!(
        denials.iter().any(|denial| why.contains(denial)),
        "{words} failed for another reason: {why}"
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn polkit_grants_three_verbs_for_the_listed_units_and_nothing_else() {
    let rig = Rig::boot();
    python(&rig);
    // So that it could be mounted on.
    rig.drop_in("web.service", "mounts", "[Service]\nPrivateMounts=yes\n");
    rig.unit("secret.service", "[Service]\nExecStart=sleep infinity\n");
    rig.systemctl("start secret.service");
    rig.allow("web.service");

    granted(&rig, "StartUnit ss web.service replace");
    granted(&rig, "ResetFailedUnit s web.service");
    for other in [
        "RestartUnit ss web.service replace",
        "TryRestartUnit ss web.service replace",
        "ReloadUnit ss web.service replace",
        "ReloadOrRestartUnit ss web.service replace",
        "KillUnit ssi web.service all 9",
        "SetUnitProperties 'sba(sv)' web.service true 1 CPUWeight t 1",
        "FreezeUnit s web.service",
        "ThawUnit s secret.service",
        "CleanUnit sas web.service 1 state",
        "BindMountUnit sssbb web.service /etc /mnt true false",
        "EnableUnitFiles asbb 1 web.service true false",
        "DisableUnitFiles asb 1 web.service true",
        "MaskUnitFiles asbb 1 web.service true false",
        "StartTransientUnit 'ssa(sv)a(sa(sv))' web.service replace 0 0",
        "StartTransientUnit 'ssa(sv)a(sa(sv))' other.service replace 0 0",
        "SetDefaultTarget sb rescue.target true",
        "SetEnvironment as 1 LD_PRELOAD=/tmp/x.so",
        "ResetFailed",
        "ClearJobs",
        "Reload",
        "Reexecute",
        "Reboot",
        "PowerOff",
        "Halt",
        "StartUnit ss secret.service replace",
        "StopUnit ss dbus.service replace",
        "ResetFailedUnit s secret.service",
        "StartUnit ss rescue.target isolate",
    ] {
        denied(&rig, other);
    }
    granted(&rig, "StopUnit ss web.service replace");
    rig.wait_until("inactive", "web.service");
    // The rule grants nothing to other users.
    let other_user = "runuser -u nobody -- busctl --allow-interactive-authorization=no call org.freedesktop.systemd1 \
                  /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager StartUnit ss web.service replace";
    assert!(!rig.attempt(other_user).status.success());
}

/// systemd 252 does not ask for these with the unit's name, so here polkit is asked as systemd 257 asks it.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_rule_tells_other_requests_from_starts_and_stops() {
    let rig = Rig::boot();
    python(&rig);
    rig.allow("web.service");
    rig.unit("notes.service", PYTHON);
    rig.run("wakeport init notes --listen 127.0.0.1:8090 --to 127.0.0.1:18090 --write");
    rig.systemctl("restart polkit.service");
    rig.unit(
        "foreign.service",
        "[Service]\nUser=wakeport\nExecStart=sleep infinity\n",
    );
    rig.systemctl("start foreign.service");
    let pid = rig.show("MainPID", "foreign.service");
    for unit in ["web.service", "notes.service"] {
        let asks = |verb: &str, what: &str| {
            let message = format!("Authentication is required to {what}");
            let mut check = rig.command(["pkcheck", "--process", &pid, "--action-id"]);
            check.arg("org.freedesktop.systemd1.manage-units");
            for (name, value) in [("unit", unit), ("verb", verb), ("polkit.message", &message)] {
                check.args(["--detail", name, value]);
            }
            check.output().expect("pkcheck runs").status.success()
        };
        assert!(asks("start", "start '$(unit)'."), "{unit}");
        assert!(asks("stop", "stop '$(unit)'."), "{unit}");
        let freezes_or_thaws = "freeze or thaw the processes of '$(unit)' unit.";
        assert!(asks("start", freezes_or_thaws), "{unit} may be thawed");
        assert!(
            asks("reset-failed", "reset the \"failed\" state of '$(unit)'."),
            "{unit}"
        );
        for (verb, what) in [
            ("start", "start transient unit '$(unit)'."),
            ("start", "mount on '$(unit)'."),
            ("stop", freezes_or_thaws),
        ] {
            assert!(!asks(verb, what), "{unit}: {verb}: {what}");
        }
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_unit_with_an_unusual_name_is_granted_by_the_rule_that_init_writes_and_no_other_is() {
    let rig = Rig::boot();
    let unit = r"we\x2dird:a_b@1.2.service";
    for name in [
        r"we\x2dird:a_b@.service",
        "weird.service",
        "we-ird:a_b@1.2.service",
    ] {
        rig.unit(name, "[Service]\nExecStart=sleep infinity\n");
    }
    rig.run(&format!(
        "wakeport init '{unit}' --listen 127.0.0.1:8090 --to 127.0.0.1:18090 --write"
    ));
    rig.systemctl("try-restart polkit.service");
    granted(&rig, &format!("StartUnit ss '{unit}' replace"));
    denied(&rig, "StartUnit ss weird.service replace");
    denied(&rig, "StartUnit ss we-ird:a_b@1.2.service replace");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_hook_inherits_nothing_of_wakeport_and_cannot_notify_systemd() {
    let rig = Rig::boot();
    python(&rig);
    rig.allow("web.service");
    rig.script(
        "/usr/local/bin/machine-start",
        "#!/bin/sh\n\
         env | grep -E '^(NOTIFY|LISTEN|WATCHDOG|FDSTORE|JOURNAL)' && echo leaked\n\
         echo files: $(ls /proc/self/fd)\n\
         printf '\\033[31mred\\033[0m <3>forged\\r\\nMESSAGE=forged\\n'\n\
         export NOTIFY_SOCKET=/run/systemd/notify\n\
         for word in STATUS=forged STOPPING=1 MAINPID=1 WATCHDOG=trigger; do systemd-notify $word; done\n\
         echo told\n\
         systemctl start web.service\n",
    );
    rig.drop_in(
        "wakeport@machine.service",
        "hooks",
        "[Service]\nEnvironment=WAKEPORT_UNIT= WAKEPORT_START_HOOK=machine-start\n",
    );
    rig.instance("machine", PORT, TARGET, &[NEVER]);
    assert_eq!(Client::asks(PORT).page(), "hello");
    let name = "wakeport@machine.service";
    rig.wait_for("it is logged", || rig.said(name, "start hook: told") > 0);
    let log = rig.journal(name);
    assert!(!log.contains("leaked"), "{log}");
    // The fourth one is the directory that `ls` looks into.
    assert!(log.contains("start hook: files: 0 1 2 3\n"), "{log}");
    assert!(!log.contains('\x1b') && !log.contains('\r'), "{log:?}");
    assert!(log.contains("start hook: MESSAGE=forged"), "{log}");
    let fields = rig.run(&format!(
        "journalctl -q -o json --no-pager -u {name} MESSAGE=forged"
    ));
    assert_eq!(fields, "", "an entry of a hook's making");
    // Four times nothing.
    assert!(rig.is("active", name), "{}", rig.state(name));
    rig.wait_for("its own status", || {
        rig.show("StatusText", name).starts_with("cooling")
    });
    let pid = rig.show("MainPID", name);
    assert_eq!(rig.run(&format!("cat /proc/{pid}/comm")).trim(), "wakeport");
    assert_eq!(rig.show("NRestarts", name), "0");
    assert_eq!(Client::asks(PORT).page(), "hello");
}

// -- the sandbox under load

/// An echo server for any number of clients.
const ECHO: &str = r#"
import socketserver, sys

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(1 << 18):
            self.request.sendall(data)

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024

Server(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
"#;

/// `count` bytes there, and the same back at the same time.
fn bulk(port: &str, count: usize) {
    let mut stream = TcpStream::connect(port).expect("an open port");
    stream
        .set_read_timeout(Some(Duration::from_secs(120)))
        .expect("a limit can be set");
    let mut writer = stream.try_clone().expect("a descriptor");
    thread::scope(|scope| {
        scope.spawn(move || {
            let block = vec![b'x'; 1 << 18];
            for _ in 0..count / block.len() {
                writer.write_all(&block).expect("a reader");
            }
            writer.shutdown(Shutdown::Write).expect("a connection");
        });
        let mut heard = 0;
        let mut block = vec![0; 1 << 18];
        while let Ok(length @ 1..) = stream.read(&mut block) {
            heard += length;
        }
        assert_eq!(heard, count);
    });
}

/// A few bytes there and back, many times.
fn chat(port: &str, times: usize) {
    let mut stream = TcpStream::connect(port).expect("an open port");
    stream
        .set_read_timeout(Some(Duration::from_secs(120)))
        .expect("a limit can be set");
    let mut heard = [0; 5];
    for _ in 0..times {
        stream.write_all(b"hello").expect("a reader");
        stream.read_exact(&mut heard).expect("an echo");
    }
}

/// All that clients do, all at once.
fn everything(port: &str) {
    thread::scope(|scope| {
        for number in 0..24 {
            scope.spawn(move || match number % 3 {
                0 => bulk(port, 8 << 20),
                1 => chat(port, 300),
                // Broken off with an answer on its way.
                _ => {
                    for _ in 0..20 {
                        let mut stream = TcpStream::connect(port).expect("an open port");
                        let _ = stream.write_all(&[b'x'; 1 << 16]);
                        let _ = stream.read(&mut [0; 1]);
                    }
                }
            });
        }
    });
}

/// Every denied system call kills the process, so that none goes unnoticed.
const KILL_ON_DENIED_CALL: &str = "[Service]\nSystemCallErrorNumber=kill\nLimitCORE=0\n";

#[test]
#[ignore = "needs root: tests/run runs it"]
fn under_full_load_the_sandbox_denies_nothing() {
    const PORTS: [(&str, &str); 3] = [
        ("unit", "127.0.0.1:8081"),
        ("hooks", "127.0.0.1:8082"),
        ("exec", "127.0.0.1:8083"),
    ];
    let rig = Rig::boot();
    rig.write("/run/rig/echo.py", ECHO);
    rig.drop_in(
        "wakeport@.service",
        "kill-on-denied-call",
        KILL_ON_DENIED_CALL,
    );
    rig.drop_in(
        "wakeport-exporter.service",
        "kill-on-denied-call",
        KILL_ON_DENIED_CALL,
    );
    rig.drop_in(
        "wakeport@.service",
        "watchdog",
        "[Service]\nWatchdogSec=8s\n",
    );
    for (name, port) in [("unit", 18081), ("far", 18082)] {
        rig.unit(
            &format!("{name}.service"),
            &format!("[Service]\nExecStart=python3 /run/rig/echo.py {port}\n"),
        );
    }
    for (name, verb) in [("hook-start", "start"), ("hook-stop", "stop")] {
        rig.script(
            &format!("/usr/local/bin/{name}"),
            &format!("#!/bin/sh\nset -e\nenv >\"$STATE_DIRECTORY/{name}\"\ngetent hosts localhost\nsystemctl {verb} far.service\n"),
        );
    }
    rig.allow("far.service");
    rig.drop_in(
        "wakeport@hooks.service",
        "hooks",
        "[Service]\nEnvironment=WAKEPORT_UNIT= WAKEPORT_START_HOOK=hook-start WAKEPORT_STOP_HOOK=hook-stop\n\
         Environment=\"WAKEPORT_READY_HOOK=getent hosts localhost\"\n",
    );
    rig.drop_in(
        "wakeport@exec.service",
        "exec",
        "[Service]\nEnvironment=WAKEPORT_UNIT= \"WAKEPORT_EXEC=/usr/bin/python3 /run/rig/echo.py 18083\"\n",
    );
    let settings = [SOON, "WAKEPORT_LOG_LEVEL=debug"];
    rig.instance("unit", PORTS[0].1, "localhost:18081", &settings);
    rig.instance("hooks", PORTS[1].1, "localhost:18082", &settings);
    rig.instance("exec", PORTS[2].1, "127.0.0.1:18083", &settings);
    rig.systemctl("start wakeport-exporter.socket");

    let spliced = AtomicBool::new(false);
    for _ in 0..2 {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let loads: Vec<_> = PORTS
                .iter()
                .map(|(_, port)| scope.spawn(move || everything(port)))
                .collect();
            // Meanwhile they are looked at.
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let page = rig.curl("http://127.0.0.1:19752/metrics");
                    assert!(page.contains("wakeport_build_info"));
                    let pid = rig.show("MainPID", "wakeport@unit.service");
                    if rig
                        .ask(&format!("readlink /proc/{pid}/fd/*"))
                        .contains("pipe:")
                    {
                        spliced.store(true, Ordering::Relaxed);
                    }
                }
            });
            let ended: Vec<_> = loads
                .into_iter()
                .map(thread::ScopedJoinHandle::join)
                .collect();
            over.store(true, Ordering::Relaxed);
            assert!(ended.iter().all(Result::is_ok), "a load has failed");
        });
        // Long enough for watchdog notifications.
        let quiet = PORTS.map(|(_, port)| TcpStream::connect(port).expect("an open port"));
        thread::sleep(Duration::from_millis(4500));
        for (name, _) in PORTS {
            assert!(rig.is("active", &format!("wakeport@{name}.service")));
        }
        drop(quiet);
        for (name, _) in PORTS {
            rig.wait_until("inactive", &format!("wakeport@{name}.service"));
        }
    }
    assert!(spliced.into_inner(), "bulk went through pipes");
    for (name, _) in PORTS {
        let unit = format!("wakeport@{name}.service");
        assert_eq!(rig.said(&unit, "SYS"), 0, "{}", rig.journal(&unit));
        assert_eq!(rig.show("Result", &unit), "success");
        assert_eq!(rig.show("NRestarts", &unit), "0");
        assert!(rig.is("active", &format!("wakeport@{name}.socket")));
    }
    rig.wait_until("inactive", "wakeport-exporter.service");
    assert_eq!(rig.said("wakeport-exporter.service", "SYS"), 0);

    // The counter-check: this one makes a denied call.
    rig.script(
        "/usr/local/bin/hook-start",
        "#!/bin/sh\nexec nice -n 5 true\n",
    );
    let denied = Client::connect(PORTS[1].1);
    rig.wait_for("the hook is killed", || {
        rig.said("wakeport@hooks.service", "SIGSYS") > 0
    });
    drop(denied);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn instances_share_a_user_unless_configured_otherwise() {
    let rig = Rig::boot();
    python(&rig);
    rig.instance("web", PORT, TARGET, &[NEVER]);
    rig.run("useradd --system other");
    rig.drop_in(
        "wakeport@web.service",
        "user",
        "[Service]\nUser=other\nStateDirectory=\nStateDirectory=other\n",
    );
    // What the rule grants, it grants to `wakeport`.
    assert!(rig.try_curl(URL).is_err());
    assert!(rig.is("active", "wakeport@web.socket"));
    rig.wait_for("it is logged", || {
        rig.said("wakeport@web.service", "polkit") > 0
    });
}
