//! The rig itself: it is a real systemd, and nothing leaks out of it.

use crate::rig::{Client, Rig};

#[test]
#[ignore = "needs root: tests/run runs it"]
fn two_rigs_run_at_the_same_time_and_neither_sees_the_other() {
    let one = Rig::bare();
    one.unit("only-one.service", "[Service]\nExecStart=sleep infinity\n");
    one.systemctl("start only-one.service");
    let other = Rig::bare();
    assert!(one.is("active", "only-one.service"));
    assert!(other.is("inactive", "only-one.service"));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_socket_activates_a_service_for_a_client_from_outside() {
    let rig = Rig::bare();
    rig.write("/run/rig/www/index.html", "hello");
    rig.unit(
        "web.service",
        "[Service]\nExecStart=python3 -m http.server -b 127.0.0.1 -d /run/rig/www 18080\n",
    );
    rig.unit("relay.socket", "[Socket]\nListenStream=127.0.0.1:8080\n");
    rig.unit(
        "relay.service",
        "[Service]\nExecStart=/usr/lib/systemd/systemd-socket-proxyd 127.0.0.1:18080\n",
    );
    rig.systemctl("start web.service relay.socket");
    rig.wait_for("python answers", || {
        rig.try_curl("http://127.0.0.1:18080/").is_ok()
    });
    assert_eq!(rig.curl("http://127.0.0.1:8080/"), "hello");
    assert_eq!(Client::asks("127.0.0.1:8080").page(), "hello");
    assert_eq!(rig.starts("relay.service"), 1);
    rig.systemctl("stop web.service");
    assert_eq!(rig.stops("web.service"), 1);
}
