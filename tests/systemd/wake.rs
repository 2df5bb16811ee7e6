//! The main path: the first connection wakes the service, the last one lets it sleep, and no client is lost.

use std::thread;
use std::time::Duration;

use crate::rig::{Client, GoneAs, Rig};
use crate::services::{
    NEVER, PORT, SOON, TARGET, URL, nginx, nginx_does, postgresql, psql, python,
};

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_first_query_wakes_postgresql_and_after_the_cooldown_nothing_runs() {
    let rig = Rig::boot();
    let unit = postgresql(&rig);
    rig.instance(&unit, "127.0.0.1:5432", "127.0.0.1:15432", &[SOON]);
    for wakes in 1..=2 {
        assert_eq!(rig.processes("postgres"), 0);
        assert_eq!(psql(&rig, "select 6 * 7"), "42");
        assert_eq!(rig.starts(&format!("{unit}.service")), wakes);
        rig.wait_until_asleep(&unit);
        assert_eq!(rig.processes("postgres"), 0);
        assert_eq!(rig.processes("wakeport"), 0);
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_may_sleep_and_wake_two_hundred_times_in_a_row() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &["WAKEPORT_COOLDOWN=100ms"]);
    assert_eq!(rig.show("StartLimitBurst", "nginx.service"), "5");
    assert_eq!(rig.show("StartLimitIntervalUSec", "nginx.service"), "10s");
    for round in 0..200 {
        assert_eq!(rig.curl(URL), "hello", "round {round}");
        // Every other client finds wakeport still there, about to exit or not.
        match round % 2 {
            0 => rig.wait_until_asleep("nginx"),
            _ => rig.wait_until("inactive", "nginx.service"),
        }
        assert!(rig.is("active", "wakeport@nginx.socket"), "round {round}");
    }
    assert_eq!(rig.starts("nginx.service"), 200);
    assert_eq!(rig.stops("nginx.service"), 200);
    assert_eq!(rig.show("Result", "nginx.service"), "success");
    assert_eq!(rig.show("Result", "wakeport@nginx.socket"), "success");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_thousand_clients_at_once_wait_for_one_start() {
    let rig = Rig::boot();
    nginx(&rig);
    nginx_does(&rig, "ExecStartPre=sleep 3");
    rig.instance("nginx", PORT, TARGET, &[SOON]);
    let clients: Vec<_> = (0..1_000)
        .map(|number| Client::asks_for(&format!("/?{number}"), PORT))
        .collect();
    for (number, client) in clients.into_iter().enumerate() {
        assert_eq!(client.page(), format!("hello{number}"));
    }
    assert_eq!(rig.starts("nginx.service"), 1);
    rig.wait_until_asleep("nginx");
    assert_eq!(rig.starts("nginx.service"), 1);
}

/// nginx goes on answering for half a second and is then killed: a client relayed to it would be lost.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn no_client_is_lost_to_a_service_that_answers_until_its_stop_ends() {
    let rig = Rig::boot();
    nginx(&rig);
    nginx_does(&rig, "ExecStop=\nExecStop=sleep 0.5\nKillSignal=SIGTERM");
    clients_at_every_phase_of_a_stop(&rig, "nginx");
}

/// This one closes its port first and cleans up for half a second: nothing answers, and nothing may start yet.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn no_client_is_lost_to_a_service_that_closes_its_port_and_stops_slowly() {
    let rig = Rig::boot();
    python(&rig);
    rig.drop_in("web.service", "slow", "[Service]\nExecStopPost=sleep 0.5\n");
    clients_at_every_phase_of_a_stop(&rig, "web");
}

fn clients_at_every_phase_of_a_stop(rig: &Rig, name: &str) {
    const ROUNDS: u32 = 8;
    const CLIENTS: u32 = 32;
    const APART: Duration = Duration::from_millis(20);
    let service = format!("{name}.service");
    rig.instance(name, PORT, TARGET, &["WAKEPORT_COOLDOWN=100ms"]);
    for round in 0..ROUNDS {
        assert_eq!(Client::asks(PORT).page(), "hello");
        // On a busy machine the stop may be over before it was seen; the clients come then, too.
        rig.wait_for("the service stops", || {
            rig.is("deactivating", &service) || rig.stops(&service) > round as usize
        });
        thread::scope(|scope| {
            for number in 0..CLIENTS {
                // Spread evenly over the stop and what follows; each round fills in between the earlier ones.
                let offset = APART * number + APART * round / ROUNDS;
                scope.spawn(move || {
                    thread::sleep(offset);
                    assert_eq!(
                        Client::asks(PORT).page(),
                        "hello",
                        "{offset:?} into stop {round}"
                    );
                });
            }
        });
        assert!(
            rig.stops(&service) > round as usize,
            "the clients have come during a stop"
        );
    }
    rig.wait_until_asleep(name);
    assert_eq!(rig.starts(&service), rig.stops(&service));
}

/// What systemd-socket-proxyd users have: no privilege, no D-Bus, systemd alone starts and stops.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn without_a_unit_dependencies_start_and_stop_the_service() {
    let rig = Rig::boot();
    without_a_unit(&rig, &[SOON]);
    for wakes in 1..=2 {
        assert_eq!(rig.curl(URL), "hello");
        rig.wait_until_asleep("web");
        assert_eq!(rig.starts("web.service"), wakes);
    }
}

fn without_a_unit(rig: &Rig, settings: &[&str]) {
    python(rig);
    rig.drop_in("web.service", "unneeded", "[Unit]\nStopWhenUnneeded=yes\n");
    rig.drop_in(
        "wakeport@web.service",
        "needs",
        "[Unit]\nWants=web.service\nAfter=web.service\n[Service]\nEnvironment=WAKEPORT_UNIT=\n",
    );
    rig.instance("web", PORT, TARGET, settings);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn without_a_unit_a_service_that_died_is_started_by_the_next_client_but_one() {
    let rig = Rig::boot();
    without_a_unit(&rig, &[NEVER, "WAKEPORT_START_TIMEOUT=10s"]);
    assert_eq!(rig.curl(URL), "hello");
    rig.systemctl("kill --signal=KILL web.service");
    rig.wait_until("failed", "web.service");
    // It cannot be started for this client, whose failed wait is wakeport's last.
    assert_eq!(Client::asks(PORT).reads(), (String::new(), GoneAs::Reset));
    rig.wait_until("inactive", "wakeport@web.service");
    assert_eq!(
        rig.said("wakeport@web.service", "is forgotten"),
        0,
        "it does not stay for a minute to remember the failure"
    );
    assert_eq!(rig.curl(URL), "hello");
    assert_eq!(rig.starts("web.service"), 2);
}

/// systemd starts the service together with wakeport, which then finds it on its way up.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn with_wants_and_no_after_systemd_starts_both_at_once() {
    let rig = Rig::boot();
    nginx(&rig);
    nginx_does(&rig, "ExecStartPre=sleep 1");
    rig.drop_in(
        "wakeport@nginx.service",
        "faster",
        "[Unit]\nWants=nginx.service\n",
    );
    rig.instance("nginx", PORT, TARGET, &["WAKEPORT_COOLDOWN=100ms"]);
    for wakes in 1..=10 {
        assert_eq!(rig.curl(URL), "hello");
        assert_eq!(rig.starts("nginx.service"), wakes);
        rig.wait_until_asleep("nginx");
        assert_eq!(rig.stops("nginx.service"), wakes);
    }
    // A stop of wakeport does not stop the service.
    rig.instance("nginx", PORT, TARGET, &["WAKEPORT_COOLDOWN=1h"]);
    let client = Client::asks_for("/", PORT);
    assert_eq!(client.page(), "hello");
    rig.systemctl("stop wakeport@nginx.service");
    assert!(rig.is("active", "nginx.service"));
}
