//! Failing services: clients are reset at once, the port stays open, and a fixed service works again.

use crate::rig::{Client, GoneAs, Rig};
use crate::services::{NEVER, PORT, PYTHON, SOON, TARGET, URL, nginx, python};

/// The failure itself must end the wait, not a timeout of wakeport.
const NO_LIMIT: &str = "WAKEPORT_START_TIMEOUT=infinity";

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_failing_unit_refuses_its_clients_and_the_port_stays_open_until_it_is_fixed() {
    let rig = Rig::boot();
    python(&rig);
    rig.unit(
        "web.service",
        "[Service]\nExecStart=sh -c 'until [ -e /run/rig/go ]; do sleep 0.1; done; sleep 0.5; exit 3'\n",
    );
    rig.instance("web", PORT, TARGET, &[NO_LIMIT, SOON]);

    // The first ones wait for the same start, and fail with it.
    let waiting: Vec<_> = (0..10).map(|_| Client::asks(PORT)).collect();
    rig.wait_for("they wait", || {
        let status = rig.show("StatusText", "wakeport@web.service");
        status.contains("10 clients waiting")
    });
    rig.write("/run/rig/go", "");
    for client in waiting {
        assert_eq!(client.reads(), (String::new(), GoneAs::Reset));
    }
    assert_eq!(rig.said("web.service", "Failed with result"), 1);
    rig.wait_for("the reason is in the log", || {
        let log = rig.journal("wakeport@web.service");
        log.contains("exit-code") && log.contains('3')
    });

    // The others come during the back-off, or wait for the next start.
    let mut attempts = 0;
    rig.wait_for("fifty attempts, three of them starts", || {
        attempts += 1;
        assert_eq!(
            Client::asks(PORT).reads(),
            (String::new(), GoneAs::Reset),
            "attempt {attempts}"
        );
        assert!(
            rig.is("active", "wakeport@web.socket"),
            "attempt {attempts}"
        );
        attempts >= 50 && rig.said("web.service", "Failed with result") >= 3
    });
    assert!(
        rig.said("web.service", "Failed with result") < attempts,
        "there is a back-off"
    );

    rig.unit("web.service", PYTHON);
    rig.wait_for("a client is served again", || rig.try_curl(URL).is_ok());
    rig.wait_until_asleep("web");
    assert_eq!(rig.curl(URL), "hello");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_unit_that_is_done_before_it_answers_has_failed() {
    let rig = Rig::boot();
    rig.unit("web.service", "[Service]\nExecStart=true\n");
    rig.instance("web", PORT, TARGET, &[NO_LIMIT]);
    assert_eq!(Client::asks(PORT).reads(), (String::new(), GoneAs::Reset));
    assert!(rig.is("active", "wakeport@web.socket"));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_unit_that_restarts_itself_is_waited_for() {
    let rig = Rig::boot();
    python(&rig);
    rig.drop_in(
        "web.service",
        "stumbles",
        "[Service]\nRestart=on-failure\nRestartSec=500ms\n\
         ExecStartPre=sh -c 'test -e /run/rig/second || { touch /run/rig/second; exit 1; }'\n",
    );
    rig.instance("web", PORT, TARGET, &[NO_LIMIT]);
    assert_eq!(rig.curl(URL), "hello");
    assert_eq!(rig.said("web.service", "Failed with result"), 1);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_missing_and_a_masked_unit_are_each_named_in_the_log() {
    let rig = Rig::boot();
    rig.instance("gone", PORT, TARGET, &[NO_LIMIT]);
    python(&rig);
    rig.instance("web", "127.0.0.1:8081", TARGET, &[NO_LIMIT]);
    // A unit in /etc cannot be masked there; this is what `systemctl mask --runtime` of a packaged one does.
    rig.run("mv /etc/systemd/system/web.service /usr/lib/systemd/system/");
    rig.systemctl("mask --quiet --runtime web.service");

    assert_eq!(Client::asks(PORT).reads(), (String::new(), GoneAs::Reset));
    assert_eq!(
        Client::asks("127.0.0.1:8081").reads(),
        (String::new(), GoneAs::Reset)
    );
    for (instance, unit, why) in [
        ("wakeport@gone.service", "gone.service", "no such unit"),
        ("wakeport@web.service", "web.service", "masked"),
    ] {
        rig.wait_for(why, || {
            let log = rig.journal(instance);
            log.lines()
                .any(|line| line.contains(unit) && line.contains(why))
        });
    }

    rig.systemctl("unmask --quiet --runtime web.service");
    rig.wait_for("a client is served", || {
        rig.try_curl("http://127.0.0.1:8081/").is_ok()
    });
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_start_limit_of_a_failing_unit_is_named_and_leaves_the_port_open() {
    let rig = Rig::boot();
    rig.unit(
        "web.service",
        "[Unit]\nStartLimitBurst=1\nStartLimitIntervalSec=1h\n[Service]\nExecStart=false\n",
    );
    rig.instance("web", PORT, TARGET, &[NO_LIMIT]);
    rig.wait_for("wakeport says what is wrong", || {
        assert_eq!(Client::asks(PORT).reads(), (String::new(), GoneAs::Reset));
        rig.said("wakeport@web.service", "start-limit-hit") > 0
    });
    assert!(rig.is("active", "wakeport@web.socket"));

    python(&rig);
    rig.systemctl("reset-failed web.service");
    rig.wait_for("a client is served", || rig.try_curl(URL).is_ok());
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn after_a_crash_under_its_clients_the_next_one_wakes_the_service() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[NEVER]);
    for crashes in 1..=3 {
        let mut client = Client::connect(PORT);
        assert_eq!(client.ask_again(), "hello");
        rig.systemctl("kill --signal=KILL nginx.service");
        assert_eq!(client.reads().0, "", "a dead service says no more");
        rig.wait_for("the crash is over", || !rig.is("active", "nginx.service"));
        assert_eq!(rig.curl(URL), "hello");
        assert_eq!(rig.starts("nginx.service"), crashes + 1);
    }
    assert!(rig.is("active", "wakeport@nginx.socket"));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_misconfigured_wakeport_logs_it_and_the_port_stays_open_until_it_is_fixed() {
    let rig = Rig::boot();
    python(&rig);
    rig.instance("web", PORT, TARGET, &["WAKEPORT_COOLDOWN=soon"]);
    for attempt in 0..30 {
        assert_eq!(
            Client::asks(PORT).reads(),
            (String::new(), GoneAs::Reset),
            "attempt {attempt}"
        );
        assert!(rig.is("active", "wakeport@web.socket"), "attempt {attempt}");
    }
    rig.wait_until("failed", "wakeport@web.service");
    let status = rig.show("ExecMainStatus", "wakeport@web.service");
    assert!(
        ["64", "78"].contains(&status.as_str()),
        "exit status {status}"
    );
    assert!(
        rig.said("wakeport@web.service", "soon") > 0,
        "what is wrong is named"
    );
    rig.settings("web", &[SOON]);
    assert_eq!(rig.curl(URL), "hello");
}
