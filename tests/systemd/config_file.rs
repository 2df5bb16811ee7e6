//! An instance whose services are in a file: found by its name, broken, mended, and a user's own.

use crate::rig::{Client, GoneAs, Rig};
use crate::services::{PORT, TARGET, URL, alice, python};

const FILE: &str = "/etc/wakeport/front.toml";
const INSTANCE: &str = "wakeport@front.service";

/// web.service behind the instance `front`, which has no other unit than the template.
fn front(rig: &Rig, more: &str) {
    python(rig);
    rig.allow("web.service");
    rig.write(FILE, &format!("[service.web]\nto = '{TARGET}'\n{more}"));
    rig.listen("front", PORT);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_file_named_after_the_instance_says_what_it_wakes() {
    let rig = Rig::boot();
    front(&rig, "cooldown = '1h'\n");
    rig.write(
        "/etc/wakeport/front.toml.d/quick.toml",
        "[service.web]\ncooldown = '300ms'\n",
    );
    for wakes in 1..=2 {
        assert_eq!(rig.curl(URL), "hello");
        rig.wait_until("inactive", "web.service");
        rig.wait_until("inactive", INSTANCE);
        assert_eq!(rig.starts("web.service"), wakes);
    }
    // What weighs more than the file.
    rig.settings("front", &["WAKEPORT_COOLDOWN=1h"]);
    rig.systemctl("daemon-reload");
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_for("its cooldown is the variable's", || {
        let status = rig.show("StatusText", INSTANCE);
        status.contains("stopping in 1h") || status.contains("stopping in 59min")
    });
    // Without the file it is an instance like any other, and wakes the unit of its name.
    rig.run(&format!("rm -r {FILE} {FILE}.d; systemctl stop {INSTANCE}"));
    rig.settings("front", &[&format!("WAKEPORT_TO={TARGET}")]);
    rig.systemctl("daemon-reload");
    rig.allow("front.service");
    rig.unit("front.service", "[Service]\nExecStart=sleep infinity\n");
    assert_eq!(rig.curl(URL), "hello");
    assert_eq!(rig.starts("front.service"), 1);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_broken_file_resets_clients_with_one_line_and_leaves_the_port_open() {
    let rig = Rig::boot();
    front(&rig, "cool-down = '1h'\n");
    for attempt in 1..=3 {
        assert_eq!(Client::asks(PORT).reads().1, GoneAs::Reset);
        rig.wait_until("failed", INSTANCE);
        let line = "front.toml:3:1: unknown key `cool-down`; is it `cooldown`?";
        assert_eq!(rig.said(INSTANCE, line), attempt);
        assert_eq!(rig.show("ExecMainStatus", INSTANCE), "78");
        assert!(rig.is("active", "wakeport@front.socket"));
    }
    rig.write(FILE, &format!("[service.web]\nto = '{TARGET}'\n"));
    assert_eq!(rig.curl(URL), "hello");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_user_has_files_of_her_own() {
    let rig = Rig::boot();
    let as_alice = alice(&rig);
    let config = "/var/lib/alice/.config";
    rig.write(
        &format!("{config}/wakeport/desk.toml"),
        &format!("[service.notes]\nto = '{TARGET}'\n"),
    );
    rig.write(
        &format!("{config}/systemd/user/wakeport@desk.socket.d/listen.conf"),
        &format!("[Socket]\nListenStream={PORT}\n"),
    );
    rig.run("chown -R alice: /var/lib/alice");
    as_alice("systemctl --user daemon-reload");
    as_alice("systemctl --user start wakeport@desk.socket");
    assert_eq!(rig.curl(URL), "hers");
    let active = as_alice("systemctl --user is-active notes.service wakeport@desk.service");
    assert_eq!(active, "active\nactive\n");
}
