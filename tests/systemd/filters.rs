//! Refused clients, in any number: they are reset, the port stays open and nothing is started.

use crate::rig::{Client, GoneAs, Rig};
use crate::services::{PORT, SOON, TARGET, URL, nginx};

const SERVICE: &str = "wakeport@nginx.service";

/// As many clients at once as a socket unit with systemd's own limits would not survive.
fn flood() {
    for _ in 0..20 {
        let clients: Vec<_> = (0..20).map(|_| Client::asks(PORT)).collect();
        for client in clients {
            assert_eq!(client.reads(), (String::new(), GoneAs::Reset));
        }
    }
}

/// What must be true after a flood.
#[track_caller]
fn all_is_well(rig: &Rig, lives: usize) {
    assert!(rig.is("active", "wakeport@nginx.socket"));
    assert!(!rig.is("failed", SERVICE));
    let started = rig.starts(SERVICE);
    assert!(started <= lives, "wakeport was started {started} times");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_flood_from_a_denied_network_starts_nothing_and_closes_nothing() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[SOON, "WAKEPORT_DENY=localhost"]);
    // systemd's own limit, which our units lift: refused clients cause too few starts to reach it.
    rig.drop_in(
        "wakeport@nginx.socket",
        "limit",
        "[Socket]\nTriggerLimitIntervalSec=2s\nTriggerLimitBurst=20\n",
    );
    rig.systemctl("restart wakeport@nginx.socket");
    flood();
    // A client during the exit starts another process; more would mean one for each client.
    all_is_well(&rig, 2);
    assert_eq!(rig.starts("nginx.service"), 0);
    assert_eq!(rig.said(SERVICE, "denied by `--allow` and `--deny`"), 1);
    rig.wait_until_asleep("nginx");
    assert!(rig.run("wakeport status nginx").contains("400 refused"));

    rig.settings("nginx", &[SOON, "WAKEPORT_ALLOW=localhost"]);
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_until_asleep("nginx");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_flood_beyond_the_wake_rate_starts_nothing() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[SOON, "WAKEPORT_WAKE_RATE=2/1h"]);
    for _ in 0..2 {
        assert_eq!(rig.curl(URL), "hello");
        rig.wait_until_asleep("nginx");
    }
    let lives = rig.starts(SERVICE);
    flood();
    all_is_well(&rig, lives + 2);
    assert_eq!(rig.starts("nginx.service"), 2);
    assert_eq!(rig.said(SERVICE, "would exceed `--wake-rate 2/1h`"), 1);
    let status = rig.run("wakeport status");
    assert!(
        status.contains("woken too often: no wake before"),
        "{status}"
    );
    assert!(rig.show("StatusText", SERVICE).contains("no wake before"));
    let explained = rig.run(&format!("journalctl -x -u {SERVICE}"));
    assert!(
        explained.contains("nginx.service exceeds its wake rate"),
        "{explained}"
    );

    // Asleep as well it is still known.
    rig.wait_until_asleep("nginx");
    assert!(rig.run("wakeport status").contains("woken too often"));
    rig.systemctl("start nginx.service");
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_until_asleep("nginx");
    assert_eq!(Client::asks(PORT).reads(), (String::new(), GoneAs::Reset));
    assert_eq!(rig.starts("nginx.service"), 3, "that was by hand");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_silent_connection_starts_no_service_and_with_defer_accept_no_wakeport() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[SOON, "WAKEPORT_WAKE_ON_DATA=yes"]);
    let mut silent = Client::connect(PORT);
    for _ in 0..20 {
        drop(Client::connect(PORT));
    }
    rig.wait_until("active", SERVICE);
    assert_eq!(Client::asks(PORT).page(), "hello");
    rig.wait_until("inactive", "nginx.service");
    assert!(
        rig.is("active", SERVICE),
        "it does not exit under the silent one"
    );
    assert_eq!(rig.starts("nginx.service"), 1);
    assert_eq!(silent.ask_again(), "hello");
    drop(silent);
    rig.wait_until_asleep("nginx");
    let lives = rig.starts(SERVICE);

    rig.drop_in(
        "wakeport@nginx.socket",
        "defer",
        "[Socket]\nDeferAcceptSec=60\n",
    );
    rig.systemctl("restart wakeport@nginx.socket");
    let mut silent: Vec<_> = (0..20).map(|_| Client::connect(PORT)).collect();
    // systemd has had the time to start a dozen of us.
    rig.run("sleep 1");
    assert_eq!(rig.starts(SERVICE), lives);
    assert_eq!(silent[0].ask_again(), "hello");
    // Those that close in order are handed over then, and are no clients either.
    drop(silent);
    rig.wait_until_asleep("nginx");
    assert_eq!(rig.starts("nginx.service"), 3);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn check_reports_filters_that_unit_dependencies_bypass() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[SOON, "WAKEPORT_DENY=192.0.2.1"]);
    let check = || rig.ask("wakeport check nginx 2>&1");
    assert!(!check().contains("pulls in"), "{}", check());
    rig.drop_in(SERVICE, "both", "[Unit]\nWants=nginx.service\n");
    let words = "warning: wakeport@nginx: `wakeport@nginx.service` pulls in `nginx.service`";
    assert!(check().contains(words), "{}", check());
    rig.drop_in(
        SERVICE,
        "both",
        "[Unit]\nWants=nginx.service\nAfter=nginx.service\n[Service]\nEnvironment=WAKEPORT_UNIT=\n",
    );
    assert!(check().contains(words), "{}", check());
}
