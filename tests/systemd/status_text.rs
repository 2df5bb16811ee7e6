//! `STATUS=` as `systemctl status` shows it, the fields of the journal, and the watchdog.

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

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_watchdog_is_notified_while_idle() {
    let rig = Rig::boot();
    nginx(&rig);
    // The cooldown is the clock: four of the watchdog's limits pass without a client.
    rig.drop_in(NAME, "watchdog", "[Service]\nWatchdogSec=5s\n");
    rig.instance("nginx", PORT, TARGET, &["WAKEPORT_COOLDOWN=20s"]);
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_until_asleep("nginx");
    assert_eq!(rig.starts(NAME), 1);
    assert_eq!(rig.show("Result", NAME), "success");
}
