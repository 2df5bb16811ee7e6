//! `STATUS=` as `systemctl status` shows it, the fields of the journal, and the watchdog.

use std::thread;
use std::time::Duration;

use crate::rig::{Client, Rig};
use crate::services::{NEVER, PORT, SOON, TARGET, URL, nginx};

const NAME: &str = "wakeport@nginx.service";

#[test]
#[ignore = "needs root: tests/run runs it"]
fn systemctl_status_shows_the_state_in_words() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[NEVER]);
    let mut client = Client::connect(PORT);
    assert_eq!(client.ask_again(), "hello");
    let says = |words: &str| {
        rig.wait_for(&format!("STATUS= says `{words}`"), || {
            rig.show("StatusText", NAME).starts_with(words)
        });
    };
    says("awake: 1 client, 1 served since ");
    let other = Client::connect(PORT);
    says("awake: 2 clients, 2 served since ");
    drop((client, other));
    says("cooling: stopping in ");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_journal_has_each_change_of_state_in_fields() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[SOON]);
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_until_asleep("nginx");
    let kinds = ["waking", "awake", "cooling", "stopping", "asleep"].map(|state| {
        let found = rig.run(&format!(
            "journalctl --sync; journalctl -q -o cat --output-fields=MESSAGE_ID --no-pager \
             WAKEPORT_STATE={state} WAKEPORT_UNIT=nginx.service _SYSTEMD_UNIT={NAME}"
        ));
        assert_eq!(
            found.trim().len(),
            32,
            "one entry with a MESSAGE_ID for `{state}`: {found}"
        );
        found
    });
    for (at, kind) in kinds.iter().enumerate() {
        assert!(
            !kinds[..at].contains(kind),
            "each kind of change has a MESSAGE_ID of its own"
        );
    }
    let number = |field: &str| {
        let values = rig.run(&format!("journalctl --field {field}"));
        values
            .lines()
            .last()
            .and_then(|value| value.parse::<u64>().ok())
            .unwrap_or(0)
    };
    assert!(number("WAKEPORT_WAKE_USEC") > 0);
    assert!(number("WAKEPORT_BYTES_UP") > "GET / HTTP/1.1".len() as u64);
    assert!(number("WAKEPORT_BYTES_DOWN") > "hello".len() as u64);
    assert!(
        rig.run("journalctl --field WAKEPORT_CLIENT")
            .contains("127.0.0.1")
    );
}

/// After some seconds without a message the journal looks up anew which unit a process belongs to, and finds
/// nothing if the process has gone by the time its message is read.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_last_message_before_the_exit_is_found_by_the_unit() {
    let rig = Rig::boot();
    nginx(&rig);
    let names: Vec<_> = (0..8).map(|number| format!("relay{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        let address = format!("127.0.0.1:{}", 8080 + number);
        let settings = ["WAKEPORT_UNIT=", "WAKEPORT_COOLDOWN=8s"];
        rig.instance(name, &address, TARGET, &settings);
    }
    rig.systemctl("start nginx");
    for number in 0..names.len() {
        let url = format!("http://127.0.0.1:{}/", 8080 + number);
        assert_eq!(rig.curl(&url), "hello");
    }
    let asleep = || {
        let units = names.iter().map(|name| format!("wakeport@{name}.service"));
        let units = units.collect::<Vec<_>>().join(" ");
        let states = rig.ask(&format!("systemctl is-active {units}"));
        states.lines().all(|state| state == "inactive")
    };
    // A journal that is always a little late.
    rig.wait_for("all have exited", || {
        rig.freeze("systemd-journald.service");
        let asleep = asleep();
        thread::sleep(Duration::from_millis(100));
        rig.thaw("systemd-journald.service");
        asleep
    });
    for name in names {
        let unit = format!("wakeport@{name}.service");
        assert_eq!(rig.said(&unit, "idle; exiting"), 1, "{unit}");
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_watchdog_is_notified_while_idle() {
    let rig = Rig::boot();
    nginx(&rig);
    // The cooldown is the clock: four of the watchdog's limits pass without a client.
    rig.drop_in(NAME, "watchdog", "[Service]\nWatchdogSec=10s\n");
    rig.instance("nginx", PORT, TARGET, &["WAKEPORT_COOLDOWN=40s"]);
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_until_asleep("nginx");
    assert_eq!(rig.starts(NAME), 1);
    assert_eq!(rig.show("Result", NAME), "success");
}
