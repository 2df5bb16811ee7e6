//! docs/troubleshooting.md: each symptom is provoked, and diagnosed as the page says.

use super::{cooldown, server};
use crate::page_runner::PageRunner;
use crate::rig::{Client, GoneAs, Rig};
use crate::services::{NEVER, PORT, SOON, URL};

/// A machine with the page's myapp, asleep behind port 8080.
fn machine() -> Rig {
    let rig = super::machine();
    server(&rig, "myapp", "127.0.0.1:18080");
    rig.run("wakeport init myapp --listen 8080 --to 127.0.0.1:18080 --write --enable");
    cooldown(&rig, "myapp", SOON);
    rig
}

/// One client is served, and the service sleeps.
fn a_round(rig: &Rig) {
    assert_eq!(rig.curl(URL), "myapp\n");
    rig.wait_until_asleep("myapp");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_client_and_the_wake_time_are_shown() {
    let rig = machine();
    a_round(&rig);
    let runner = PageRunner::new(&rig);
    runner.run_section("docs/troubleshooting.md#where-to-look-first");
    runner.run_section("docs/troubleshooting.md#the-service-sleeps-under-its-work");
    runner.run_section("docs/troubleshooting.md#it-wakes-by-itself");
    runner.run_section("docs/troubleshooting.md#the-first-answer-is-slow");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_client_hangs_when_the_service_listens_elsewhere() {
    let rig = machine();
    server(&rig, "myapp", "127.0.0.1:9999");
    let _client = Client::asks(PORT);
    PageRunner::new(&rig).run_section("docs/troubleshooting.md#a-client-hangs");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_client_is_reset_when_the_service_fails() {
    let rig = machine();
    rig.unit(
        "myapp.service",
        "[Service]\nExecStart=sh -c 'sleep 0.1; exit 3'\n",
    );
    let runner = PageRunner::new(&rig);
    assert_eq!(Client::asks(PORT).reads().1, GoneAs::Reset);
    runner.run_section("docs/troubleshooting.md#a-client-is-reset");
    runner.run_section("docs/troubleshooting.md#status-says-failed");
    rig.drop_in(
        "myapp.service",
        "limit",
        "[Unit]\nStartLimitBurst=1\nStartLimitIntervalSec=1h\n",
    );
    rig.wait_for("the start limit", || {
        let _ = Client::asks(PORT).reads();
        rig.said("wakeport@myapp.service", "start-limit-hit") > 0
    });
    server(&rig, "myapp", "127.0.0.1:18080");
    runner.run_section("docs/troubleshooting.md#the-start-limit");
    rig.wait_for("a client is served", || rig.try_curl(URL).is_ok());
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_that_never_sleeps_and_an_unattended_one() {
    let rig = machine();
    cooldown(&rig, "myapp", NEVER);
    let runner = PageRunner::new(&rig);
    let client = Client::connect(PORT);
    rig.wait_until("active", "myapp.service");
    runner.run_section("docs/troubleshooting.md#the-service-never-sleeps");
    drop(client);
    cooldown(&rig, "myapp", SOON);
    rig.systemctl("stop wakeport@myapp.service");
    runner.run_section("docs/troubleshooting.md#status-says-unattended");
    rig.wait_until_asleep("myapp");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_port_that_is_closed_or_in_use() {
    let rig = machine();
    let runner = PageRunner::new(&rig);
    rig.systemctl("disable --quiet --now wakeport@myapp.socket");
    runner.run_section("docs/troubleshooting.md#the-port-is-dead-after-boot");
    a_round(&rig);
    rig.systemctl("stop wakeport@myapp.socket");
    server(&rig, "other", "0.0.0.0:8080");
    rig.systemctl("start other.service");
    rig.wait_for("it has the port", || rig.try_curl(URL).is_ok());
    let _ = rig.attempt("systemctl start wakeport@myapp.socket");
    assert!(rig.is("failed", "wakeport@myapp.socket"));
    runner.run_section("docs/troubleshooting.md#address-already-in-use");
    a_round(&rig);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn an_access_denied_by_polkit_is_reported() {
    let rig = machine();
    // A filter that refuses no client has wakeport start the service, and not systemd along with it.
    rig.run(
        "wakeport init myapp --listen 8080 --to 127.0.0.1:18080 --deny 192.0.2.1 --write --enable",
    );
    rig.run("rm /etc/polkit-1/rules.d/50-wakeport-myapp.rules");
    rig.systemctl("try-restart polkit.service");
    assert_eq!(Client::asks(PORT).reads().1, GoneAs::Reset);
    PageRunner::new(&rig).run_section("docs/troubleshooting.md#access-is-denied");
    rig.wait_for("a client is served", || rig.try_curl(URL).is_ok());
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn an_invalid_setting_and_one_that_is_not_loaded() {
    let rig = machine();
    let runner = PageRunner::new(&rig);
    cooldown(&rig, "myapp", "WAKEPORT_COOLDOWN=soon");
    assert_eq!(Client::asks(PORT).reads().1, GoneAs::Reset);
    runner.run_section("docs/troubleshooting.md#wakeport-itself-fails");
    rig.write(
        "/etc/systemd/system/wakeport@myapp.service.d/zz-scenario.conf",
        &format!("[Service]\nEnvironment={SOON}\n"),
    );
    runner.run_section("docs/troubleshooting.md#a-change-has-no-effect");
    a_round(&rig);
}
