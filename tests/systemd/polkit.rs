//! wakeport runs as an unprivileged user; polkit grants it only the units in the list.

use crate::rig::{Client, GoneAs, Rig};
use crate::services::{PORT, PYTHON, SOON, TARGET, URL, python};

#[test]
#[ignore = "needs root: tests/run runs it"]
fn an_unprivileged_wakeport_wakes_the_unit_that_is_listed_and_is_refused_another() {
    let rig = Rig::boot();
    python(&rig);
    rig.unit("secret.service", PYTHON);
    rig.instance("web", PORT, TARGET, &[SOON]);

    // A silent connection keeps wakeport running for inspection.
    let quiet = Client::connect(PORT);
    assert_eq!(rig.curl(URL), "hello");
    let pid = rig.show("MainPID", "wakeport@web.service");
    assert_eq!(
        rig.run(&format!("stat --format=%U /proc/{pid}")).trim(),
        "wakeport"
    );
    drop(quiet);
    rig.wait_until_asleep("web");

    // The same set-up for another unit, not listed.
    rig.drop_in(
        "wakeport@secret.service",
        "target",
        &format!("[Service]\nEnvironment=WAKEPORT_TO={TARGET}\n"),
    );
    rig.listen("secret", "127.0.0.1:8081");
    assert_eq!(
        Client::asks("127.0.0.1:8081").reads(),
        (String::new(), GoneAs::Reset)
    );
    assert!(rig.is("inactive", "secret.service"));
    assert!(rig.is("active", "wakeport@secret.socket"));
    rig.wait_for("the log says who refused what", || {
        let log = rig.journal("wakeport@secret.service");
        log.lines()
            .any(|line| line.contains("secret.service") && line.contains("polkit"))
    });

    // What the message asks for: list it.
    rig.allow("secret.service");
    rig.wait_for("a client is served", || {
        rig.try_curl("http://127.0.0.1:8081/").is_ok()
    });
    // It has the port of the other one.
    rig.systemctl("stop wakeport@secret.service secret.service");
    assert_eq!(rig.curl(URL), "hello");
}
