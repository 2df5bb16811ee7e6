//! Two units behind one instance, by a file; and rounds of waking and sleeping under clients at every moment.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::rig::{Client, Rig};
use crate::services::{PORT, TARGET, URL, nginx, python};

const INSTANCE: &str = "wakeport@front.service";
/// The second listener, and the target behind it.
const OTHER: &str = "127.0.0.1:8081";
const OTHER_URL: &str = "http://127.0.0.1:8081/";
const OTHER_TARGET: &str = "127.0.0.1:18081";

/// web.service and other.service behind the instance `front`, each with a socket and these settings of its own.
fn front(rig: &Rig, web: &str, other: &str) {
    python(rig);
    rig.unit(
        "other.service",
        "[Service]\nExecStart=python3 -m http.server --bind 127.0.0.1 --directory /run/rig/www 18081\n",
    );
    rig.allow("web.service");
    rig.allow("other.service");
    file(rig, web, other);
    rig.drop_in(
        INSTANCE,
        "sockets",
        "[Service]\nSockets=wakeport@front.socket front-other.socket\n",
    );
    rig.unit(
        "front-other.socket",
        &format!(
            "[Socket]\nListenStream={OTHER}\nFileDescriptorName=other\nService={INSTANCE}\nTriggerLimitIntervalSec=0\n"
        ),
    );
    rig.listen("front", PORT);
    rig.systemctl("start front-other.socket");
}

fn file(rig: &Rig, web: &str, other: &str) {
    rig.write(
        "/etc/wakeport/front.toml",
        &format!(
            "[service.web]\nlistener = 'front'\nto = '{TARGET}'\n{web}\n\
             [service.other]\nlistener = 'other'\nto = '{OTHER_TARGET}'\n{other}\n"
        ),
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn each_unit_sleeps_by_itself_and_the_process_exits_when_both_sleep() {
    let rig = Rig::boot();
    front(&rig, "cooldown = '1h'", "cooldown = '300ms'");
    for round in 1..=3 {
        assert_eq!(rig.curl(OTHER_URL), "hello");
        rig.wait_until("inactive", "other.service");
        assert_eq!(rig.starts("other.service"), round);
    }
    assert_eq!(rig.starts("web.service"), 0);
    rig.wait_until("inactive", INSTANCE);
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_for("the summary", || {
        rig.show("StatusText", INSTANCE) == "2 services: 1 cooling, 1 asleep"
    });
    let status = rig.run("wakeport status");
    assert!(
        status.contains("front/web") && status.contains("front/other"),
        "{status}"
    );
    // A wrong file changes nothing, a right one at once.
    file(&rig, "cooldown = 'soon'", "cooldown = '300ms'");
    rig.systemctl(&format!("reload {INSTANCE}"));
    rig.wait_for("it is named", || {
        rig.said(INSTANCE, "front.toml:4:12: `cooldown` cannot be `soon`") == 1
    });
    assert!(rig.is("active", "web.service"));
    file(&rig, "cooldown = '300ms'", "cooldown = '300ms'");
    rig.systemctl(&format!("reload {INSTANCE}"));
    rig.wait_until("inactive", "web.service");
    rig.wait_until("inactive", INSTANCE);
    assert_eq!(rig.starts("web.service"), 1);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_second_instance_of_a_unit_relays_and_never_stops_it() {
    let rig = Rig::boot();
    python(&rig);
    rig.instance("web", PORT, TARGET, &["WAKEPORT_COOLDOWN=1h"]);
    rig.drop_in(
        "wakeport@second.service",
        "settings",
        &format!(
            "[Service]\nEnvironment=WAKEPORT_UNIT=web.service WAKEPORT_TO={TARGET} WAKEPORT_COOLDOWN=0\n"
        ),
    );
    rig.listen("second", OTHER);
    let client = Client::connect(PORT);
    rig.wait_until("active", "web.service");
    for _ in 0..3 {
        assert_eq!(rig.curl(OTHER_URL), "hello");
    }
    let second = "wakeport@second.service";
    let said = rig.said(
        second,
        "`web.service` is woken and stopped by `web` already",
    );
    assert_eq!(said, rig.starts(second), "once in each life");
    assert!(rig.is("active", "web.service"));
    assert_eq!(rig.stops("web.service"), 0);
    drop(client);
}

/// As often the service is woken; more with `WAKEPORT_ROUNDS`.
const ROUNDS: usize = 100;
const CLIENTS: usize = 8;

#[test]
#[ignore = "needs root: tests/run runs it"]
fn rounds_with_cooldowns_from_0_to_200_ms_lose_no_client() {
    let rounds =
        std::env::var("WAKEPORT_ROUNDS").map_or(ROUNDS, |text| text.parse().expect("a number"));
    let rig = Rig::boot();
    nginx(&rig);
    let served = AtomicUsize::new(0);
    let mut woken = 0;
    for (share, cooldown) in (1..).zip([0, 1, 20, 75, 200]) {
        let setting = format!("WAKEPORT_COOLDOWN={cooldown}ms");
        if share == 1 {
            rig.instance("nginx", PORT, TARGET, &[&setting]);
        } else {
            rig.settings("nginx", &[&setting]);
        }
        while woken < rounds * share / 5 {
            let (served, together) = (&served, &Barrier::new(CLIENTS));
            thread::scope(|scope| {
                for client in 0..CLIENTS as u64 {
                    scope.spawn(move || {
                        for turn in 0..10 {
                            together.wait();
                            // At every moment of a stop: some before the cooldown is over, some after.
                            let pause = cooldown + (client * 7 + turn * 11) % 60;
                            thread::sleep(Duration::from_millis(pause.saturating_sub(5)));
                            assert_eq!(Client::asks_for("/", PORT).page(), "hello");
                            served.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
            woken = rig.starts("nginx.service");
        }
        rig.wait_until_asleep("nginx");
    }
    let served = served.load(Ordering::Relaxed);
    assert_eq!(
        rig.stops("nginx.service"),
        woken,
        "{served} clients, none lost"
    );
}
