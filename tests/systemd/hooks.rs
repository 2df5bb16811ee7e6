//! Services without a unit: hooks and child processes.

use crate::rig::{Client, GoneAs, Rig};
use crate::services::{NEVER, PORT, SOON, TARGET, URL, python};

/// The name of the instance; with `WAKEPORT_UNIT` cleared it names nothing else.
const NAME: &str = "wakeport@machine.service";

/// A rig where web.service stands for a remote machine: wakeport starts it only through its hooks.
///
/// They are the user `wakeport`'s programs, like any other; what they may do here is what polkit lets this user do.
fn with_hooks(start: &str, stop: &str, settings: &[&str]) -> Rig {
    let rig = Rig::boot();
    python(&rig);
    rig.allow("web.service");
    rig.script(
        "/usr/local/bin/machine-start",
        &format!("#!/bin/sh\n{start}\n"),
    );
    rig.script(
        "/usr/local/bin/machine-stop",
        &format!("#!/bin/sh\n{stop}\n"),
    );
    rig.drop_in(
        NAME,
        "hooks",
        "[Service]\nEnvironment=WAKEPORT_UNIT= WAKEPORT_START_HOOK=machine-start WAKEPORT_STOP_HOOK=machine-stop\n",
    );
    rig.instance("machine", PORT, TARGET, settings);
    rig
}

const START: &str = "systemctl start web.service";
const STOP: &str = "systemctl stop web.service";

fn wait_until_asleep(rig: &Rig) {
    rig.wait_until("inactive", "web.service");
    rig.wait_until("inactive", NAME);
    rig.wait_until("active", "wakeport@machine.socket");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn slow_hooks_start_the_service_once_for_all_waiting_clients() {
    let rig = with_hooks(
        &format!("echo start $WAKEPORT_EVENT $WAKEPORT_TARGET; sleep 1; {START}"),
        &format!("sleep 1; {STOP}"),
        &[SOON],
    );
    for wakes in 1..=2 {
        let clients: Vec<_> = (0..20).map(|_| Client::asks(PORT)).collect();
        for client in clients {
            assert_eq!(client.page(), "hello");
        }
        wait_until_asleep(&rig);
        assert_eq!(
            rig.said(NAME, &format!("start start {TARGET}")),
            wakes,
            "the log has what hooks print"
        );
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_failing_start_hook_refuses_clients_until_it_is_fixed() {
    let rig = with_hooks("echo no such machine; exit 1", STOP, &[SOON]);
    for _ in 0..20 {
        assert_eq!(Client::asks(PORT).reads(), (String::new(), GoneAs::Reset));
        assert!(rig.is("active", "wakeport@machine.socket"));
    }
    rig.wait_for("it is logged", || rig.said(NAME, "no such machine") > 0);
    rig.script(
        "/usr/local/bin/machine-start",
        &format!("#!/bin/sh\n{START}\n"),
    );
    rig.wait_for("a client is served", || rig.try_curl(URL).is_ok());
    wait_until_asleep(&rig);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_hanging_start_hook_is_killed_with_its_children() {
    let rig = with_hooks(
        "trap '' TERM; sleep 12345 & sleep 12345; sleep 12345",
        STOP,
        &[NEVER, "WAKEPORT_START_TIMEOUT=10s"],
    );
    let client = Client::asks(PORT);
    rig.wait_for("the hook hangs", || rig.processes("sleep") == 2);
    assert_eq!(client.reads(), (String::new(), GoneAs::Reset));
    rig.wait_for("the hook and its children are gone", || {
        rig.processes("sleep") == 0
    });
    assert!(rig.is("active", "wakeport@machine.socket"));
    rig.script(
        "/usr/local/bin/machine-start",
        &format!("#!/bin/sh\n{START}\n"),
    );
    rig.wait_for("a client is served", || rig.try_curl(URL).is_ok());
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_start_hook_that_exits_75_is_retried_while_the_client_waits() {
    let rig = with_hooks(
        &format!(
            "echo this is attempt $WAKEPORT_ATTEMPT; [ $WAKEPORT_ATTEMPT -ge 3 ] || exit 75; {START}"
        ),
        STOP,
        &[SOON],
    );
    assert_eq!(rig.curl(URL), "hello");
    for attempt in 1..=3 {
        assert_eq!(rig.said(NAME, &format!("this is attempt {attempt}")), 1);
    }
    wait_until_asleep(&rig);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_failing_stop_hook_is_retried_until_the_service_sleeps() {
    let rig = with_hooks(START, "echo cannot stop it yet; exit 1", &[SOON]);
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_for("two attempts to stop", || {
        rig.said(NAME, "cannot stop it yet") >= 2
    });
    assert_eq!(
        rig.curl(URL),
        "hello",
        "a service that could not be stopped still serves"
    );
    rig.script(
        "/usr/local/bin/machine-stop",
        &format!("#!/bin/sh\n{STOP}\n"),
    );
    wait_until_asleep(&rig);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_machine_that_already_runs_is_adopted_without_its_start_hook() {
    let rig = with_hooks("echo started in vain", STOP, &[SOON]);
    rig.systemctl("start web.service");
    rig.wait_for("the machine answers", || {
        rig.try_curl(&format!("http://{TARGET}/")).is_ok()
    });
    assert_eq!(rig.curl(URL), "hello");
    assert_eq!(rig.said(NAME, "started in vain"), 0);
    wait_until_asleep(&rig);
}

/// A rig where wakeport runs Python's web server itself.
fn with_a_child(settings: &[&str]) -> Rig {
    let rig = Rig::boot();
    python(&rig);
    rig.drop_in(
        NAME,
        "exec",
        "[Service]\nEnvironment=WAKEPORT_UNIT=\n\
         Environment=\"WAKEPORT_EXEC=python3 -m http.server --bind 127.0.0.1 --directory /run/rig/www 18080\"\n",
    );
    rig.instance("machine", PORT, TARGET, settings);
    rig
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_child_process_serves_sleeps_and_serves_again() {
    let rig = with_a_child(&[SOON]);
    for _ in 0..2 {
        let stays = Client::connect(PORT);
        let clients: Vec<_> = (0..20).map(|_| Client::asks(PORT)).collect();
        for client in clients {
            assert_eq!(client.page(), "hello");
        }
        assert_eq!(rig.processes("python3"), 1);
        drop(stays);
        rig.wait_until("inactive", NAME);
        assert_eq!(rig.processes("python3"), 0);
        assert!(rig.is("active", "wakeport@machine.socket"));
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_child_process_never_outlives_wakeport() {
    let rig = with_a_child(&[NEVER]);
    for end in ["stop", "kill --signal=KILL"] {
        assert_eq!(rig.curl(URL), "hello");
        assert_eq!(rig.processes("python3"), 1);
        rig.systemctl(&format!("{end} {NAME}"));
        rig.wait_for("the child is gone", || rig.processes("python3") == 0);
    }
    assert_eq!(rig.curl(URL), "hello");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_foreign_process_at_the_target_is_used_but_never_stopped() {
    let rig = with_a_child(&[SOON]);
    rig.systemctl("start web.service");
    rig.wait_for("the stranger answers", || {
        rig.try_curl(&format!("http://{TARGET}/")).is_ok()
    });
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_until("inactive", NAME);
    assert!(rig.is("active", "web.service"));
}
