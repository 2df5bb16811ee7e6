//! Stops, kills and restarts of wakeport and of the service by an administrator: nothing hangs, and the service sleeps
//! a cooldown after its last connection.

use std::thread;

use crate::rig::{Client, GoneAs, Rig};
use crate::services::{NEVER, PORT, SOON, TARGET, URL, nginx, nginx_does};

#[test]
#[ignore = "needs root: tests/run runs it"]
fn stopping_wakeport_leaves_the_service_as_it_is_and_the_next_instance_adopts_it() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[NEVER]);
    assert_eq!(rig.curl(URL), "hello");
    rig.systemctl("stop wakeport@nginx.service");
    rig.wait_until("inactive", "wakeport@nginx.service");
    assert!(rig.is("active", "nginx.service"));

    rig.settings("nginx", &[SOON]);
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_until_asleep("nginx");
    assert_eq!(rig.starts("nginx.service"), 1, "it was adopted");
    assert_eq!(rig.stops("nginx.service"), 1);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_stop_of_wakeport_drains_its_connections() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[NEVER]);
    let mut client = Client::connect(PORT);
    assert_eq!(client.ask_again(), "hello");
    thread::scope(|scope| {
        let stop = scope.spawn(|| rig.systemctl("stop wakeport@nginx.service"));
        rig.wait_until("deactivating", "wakeport@nginx.service");
        assert_eq!(client.ask_again(), "hello");
        drop(client);
        stop.join().expect("the stop succeeds");
    });
    assert_eq!(rig.show("Result", "wakeport@nginx.service"), "success");
    assert!(rig.is("active", "nginx.service"));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_stop_of_wakeport_during_a_start_serves_waiting_clients() {
    let rig = Rig::boot();
    nginx(&rig);
    nginx_does(
        &rig,
        "ExecStartPre=sh -c 'until [ -e /run/rig/go ]; do sleep 0.1; done'",
    );
    rig.instance("nginx", PORT, TARGET, &[NEVER]);
    let client = Client::asks(PORT);
    rig.wait_until("activating", "nginx.service");
    rig.systemctl("stop --no-block wakeport@nginx.service");
    rig.wait_until("deactivating", "wakeport@nginx.service");
    rig.write("/run/rig/go", "");
    assert_eq!(client.page(), "hello");
    rig.wait_until("inactive", "wakeport@nginx.service");
    assert_eq!(rig.show("Result", "wakeport@nginx.service"), "success");
    assert!(rig.is("active", "nginx.service"));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_stop_of_wakeport_resets_connections_at_the_drain_timeout() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[NEVER, "WAKEPORT_DRAIN_TIMEOUT=1s"]);
    let mut client = Client::connect(PORT);
    assert_eq!(client.ask_again(), "hello");
    rig.systemctl("stop wakeport@nginx.service");
    assert_eq!(client.reads(), (String::new(), GoneAs::Reset));
    assert_eq!(rig.show("Result", "wakeport@nginx.service"), "success");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn with_stop_on_exit_the_service_stops_with_wakeport() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[NEVER, "WAKEPORT_STOP_ON_EXIT=yes"]);
    assert_eq!(rig.curl(URL), "hello");
    rig.systemctl("stop wakeport@nginx.service");
    assert!(rig.is("inactive", "nginx.service"));
    assert_eq!(rig.curl(URL), "hello");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_restart_of_wakeport_loses_no_new_client() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[NEVER]);
    assert_eq!(rig.curl(URL), "hello");
    thread::scope(|scope| {
        let restarts =
            scope.spawn(|| (0..10).for_each(|_| rig.systemctl("restart wakeport@nginx.service")));
        let mut served = 0;
        while !restarts.is_finished() || served < 100 {
            assert_eq!(Client::asks(PORT).page(), "hello");
            served += 1;
        }
        restarts.join().expect("all restarts succeed");
    });
    assert!(rig.starts("wakeport@nginx.service") > 10);
    assert_eq!(rig.starts("nginx.service"), 1);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_killed_wakeport_restarts_and_the_service_sleeps_later() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[SOON]);
    let mut client = Client::connect(PORT);
    assert_eq!(client.ask_again(), "hello");
    rig.systemctl("kill --signal=KILL wakeport@nginx.service");
    assert_eq!(client.reads().0, "");
    // No client connects any more.
    rig.wait_until_asleep("nginx");
    assert_eq!(rig.starts("nginx.service"), 1);
    assert_eq!(rig.starts("wakeport@nginx.service"), 2);
    assert_eq!(rig.curl(URL), "hello");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_stopped_by_hand_is_woken_by_the_next_client() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[NEVER]);
    let mut client = Client::connect(PORT);
    assert_eq!(client.ask_again(), "hello");
    rig.systemctl("stop nginx.service");
    assert_eq!(
        client.reads().0,
        "",
        "the client sees what it would have seen without wakeport"
    );
    // Nothing to stop: wakeport exits as well.
    rig.wait_until_asleep("nginx");
    assert_eq!(rig.curl(URL), "hello");
    assert_eq!(rig.starts("nginx.service"), 2);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_started_by_hand_is_adopted_by_the_next_client_and_sleeps_after_it() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[SOON]);
    rig.systemctl("start nginx.service");
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_until_asleep("nginx");
    assert_eq!(rig.starts("nginx.service"), 1);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_restarted_by_hand_goes_on_serving_and_sleeps_after_its_clients() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &["WAKEPORT_COOLDOWN=2s"]);
    assert_eq!(rig.curl(URL), "hello");
    for _ in 0..3 {
        rig.systemctl("restart nginx.service");
        assert_eq!(rig.curl(URL), "hello");
    }
    rig.wait_until_asleep("nginx");
    assert_eq!(rig.starts("nginx.service"), rig.stops("nginx.service"));
}
