//! docs/observing.md, docs/holds.md, docs/freezing.md, docs/tuning.md and docs/security.md.

use super::{cooldown, server};
use crate::page_runner::PageRunner;
use crate::rig::Rig;
use crate::services::{NEVER, URL, postgresql_on};

/// `name` is awake behind a port.
fn awake(rig: &Rig, name: &str, line: &str) {
    PageRunner::new(rig);
    server(rig, name, "127.0.0.1:18080");
    rig.run(&format!(
        "wakeport init {name} {line} --to 127.0.0.1:18080 --write --enable"
    ));
    cooldown(rig, name, NEVER);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_page_on_observing_works() {
    let rig = Rig::boot();
    awake(&rig, "nginx", "--listen 8080");
    rig.run(
        "wakeport init broken --listen 8081 --to 127.0.0.1:18081 --exec false --write --enable",
    );
    assert_eq!(rig.curl(URL), "nginx\n");
    assert!(rig.try_curl("http://127.0.0.1:8081/").is_err());
    let runner = PageRunner::new(&rig);
    runner.run_section("docs/observing.md#wakeport-status");
    runner.run_section("docs/observing.md#metrics");
    runner.run_section("docs/observing.md#the-journal");
    assert!(
        rig.curl("http://127.0.0.1:19752/metrics")
            .contains("name=\"nginx\"")
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_page_on_freezing_works() {
    let rig = Rig::boot();
    let runner = PageRunner::new(&rig);
    server(&rig, "myapp", "127.0.0.1:18000");
    runner.run_section("docs/freezing.md");
    assert_eq!(rig.curl("http://127.0.0.1:8000/"), "myapp\n");
    let slice = rig.show("Slice", "myapp.service");
    assert_eq!(slice, r"system-wakeport\x2dmyapp.slice");
    let found = rig.run("wakeport check myapp");
    assert!(found.contains("ok: wakeport@myapp"), "{found}");
    cooldown(&rig, "myapp", "WAKEPORT_FREEZE_AFTER=100ms");
    rig.systemctl("restart wakeport@myapp.service");
    let status = || rig.run("wakeport status myapp");
    rig.wait_for("it is frozen", || status().contains("State: frozen"));
    assert_eq!(rig.curl("http://127.0.0.1:8000/"), "myapp\n");
    runner.run_section("docs/freezing.md#memory");
    let slice = rig.show("MemoryAccounting", r"'system-wakeport\x2dmyapp.slice'");
    assert_eq!(slice, "yes");
    let rule = rig.read("/etc/polkit-1/rules.d/50-wakeport-myapp.rules");
    assert!(
        rule.contains("\"wakeport-reclaim@myapp.service\""),
        "{rule}"
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_pages_on_tuning_and_security_work() {
    let rig = Rig::boot();
    awake(&rig, "myapp", "--listen 8000");
    let url = "http://127.0.0.1:8000/";
    assert_eq!(rig.curl(url), "myapp\n");
    let runner = PageRunner::new(&rig);
    runner.run_section("docs/tuning.md");
    let variables = rig.show("Environment", "wakeport@myapp.service");
    assert!(
        variables.contains("WAKEPORT_START_TIMEOUT=3min"),
        "{variables}"
    );
    runner.run_section("docs/tuning.md#many-clients");
    runner.run_section("docs/tuning.md#memory");
    runner.run_section("docs/security.md#who-may-connect");
    runner.run_section("docs/security.md#what-wakeport-may-do");
    runner.run_section("docs/security.md#what-the-polkit-rule-allows");
    assert_eq!(rig.curl(url), "myapp\n");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_page_on_holds_works() {
    let rig = Rig::boot();
    let unit = postgresql_on(&rig, "5433", "trust");
    let cluster = unit.trim_start_matches("postgresql@").to_owned();
    rig.run(&format!(
        "wakeport init {unit} --listen 127.0.0.1:5432 --to 127.0.0.1:5433 --cooldown 300ms --write --enable"
    ));
    let runner = PageRunner::new(&rig).with_edits(move |text| text.replace("15-main", &cluster));
    runner.run_section("docs/holds.md#a-backup");
    rig.wait_until_asleep(&unit);
    let dump = rig.read("/var/lib/dump/all.sql");
    assert!(
        dump.contains("PostgreSQL database cluster dump complete"),
        "{dump}"
    );

    server(&rig, "myapp", "127.0.0.1:18000");
    rig.run(
        "wakeport init myapp --listen 8000 --to 127.0.0.1:18000 --cooldown 1h --write --enable",
    );
    runner.run_section("docs/holds.md#for-a-while");
    runner.run_section("docs/holds.md#a-schedule");
    for timer in ["wakeport-awake@myapp.timer", "wakeport-asleep@myapp.timer"] {
        assert!(rig.is("active", timer), "{timer}");
    }
    runner.run_section("docs/holds.md#the-control-socket");
    assert!(rig.is("active", "wakeport-control@myapp.socket"));
    assert_eq!(rig.curl("http://127.0.0.1:8000/"), "myapp\n");
}
