//! What `wakeport init` writes where every client is welcome: systemd starts the service and wakeport in one
//! transaction (`Wants=`). To a user it is as if wakeport had started the service.

use crate::rig::{Client, GoneAs, Rig};
use crate::services::{PORT, PYTHON, TARGET, nginx, python};

/// `wakeport init`, with everything that makes the instance work.
fn init(rig: &Rig, name: &str, options: &str) {
    rig.run(&format!(
        "wakeport init {name} --listen {PORT} --to {TARGET} {options} --write --enable 2>&1"
    ));
    rig.systemctl("try-restart polkit.service");
}

fn pulls_in(rig: &Rig, name: &str) -> bool {
    let wants = rig.show("Wants", &format!("wakeport@{name}.service"));
    wants.contains(&format!("{name}.service"))
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn quick_rounds_count_as_wakes_and_meet_no_start_limit() {
    const ROUNDS: usize = 12;
    const SERVICE: &str = "wakeport@nginx.service";
    let rig = Rig::boot();
    nginx(&rig);
    init(&rig, "nginx", "--cooldown 100ms");
    assert!(pulls_in(&rig, "nginx"));
    assert!(!rig.show("After", SERVICE).contains("nginx.service"));
    assert_eq!(rig.show("StartLimitBurst", "nginx.service"), "5");
    for round in 1..=ROUNDS {
        assert_eq!(Client::asks(PORT).page(), "hello", "round {round}");
        rig.wait_until_asleep("nginx");
    }
    assert_eq!(rig.starts("nginx.service"), ROUNDS);
    assert_eq!(rig.starts(SERVICE), ROUNDS);
    assert_eq!(rig.said(SERVICE, "waking nginx.service for"), ROUNDS);
    assert_eq!(rig.said(SERVICE, "nginx.service answers after"), ROUNDS);
    assert!(rig.is("active", "wakeport@nginx.socket"));
    let status = rig.run("wakeport status nginx --json");
    let total = format!("\"total\": {ROUNDS}");
    assert!(status.contains(&total), "{status}");

    // Without a client it sleeps again.
    rig.systemctl(&format!("start {SERVICE}"));
    rig.wait_for("nginx starts", || rig.starts("nginx.service") > ROUNDS);
    rig.wait_until_asleep("nginx");

    // With a filter wakeport is first, and without one again it is not.
    init(&rig, "nginx", "--cooldown 100ms --deny localhost");
    assert!(!pulls_in(&rig, "nginx"));
    let starts = rig.starts("nginx.service");
    assert_eq!(Client::asks(PORT).reads(), (String::new(), GoneAs::Reset));
    assert_eq!(rig.starts("nginx.service"), starts);
    init(&rig, "nginx", "");
    assert!(pulls_in(&rig, "nginx"));
    rig.run("wakeport init nginx --remove");
    assert!(
        !rig.path(&format!("/etc/systemd/system/{SERVICE}.d"))
            .exists()
    );
}

/// Up before wakeport looks, and never an answer: of no use, whether wakeport or its transaction has started it.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_that_never_answers_is_stopped_again_unless_it_ran_before() {
    let rig = Rig::boot();
    rig.unit("web.service", "[Service]\nExecStart=sleep infinity\n");
    init(&rig, "web", "--start-timeout 2s --cooldown 1h");
    assert!(pulls_in(&rig, "web"));
    assert_eq!(Client::asks(PORT).reads(), (String::new(), GoneAs::Reset));
    rig.wait_until("inactive", "web.service");
    assert_eq!(rig.starts("web.service"), 1);
    rig.wait_until_asleep("web");

    rig.systemctl("start web.service");
    // Longer than a transaction takes.
    rig.wait_for("it has run for two seconds", || {
        rig.run("ps -o etimes= -p $(systemctl show --value -p MainPID web.service)")
            .trim()
            .parse::<u64>()
            .is_ok_and(|seconds| seconds >= 2)
    });
    assert_eq!(Client::asks(PORT).reads(), (String::new(), GoneAs::Reset));
    assert!(rig.is("active", "web.service"));
    assert_eq!(rig.starts("web.service"), 2);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_failing_service_resets_its_client_and_works_once_it_is_fixed() {
    let rig = Rig::boot();
    python(&rig);
    rig.unit("web.service", "[Service]\nExecStart=sh -c 'exit 3'\n");
    init(&rig, "web", "--cooldown 100ms");
    assert_eq!(Client::asks(PORT).reads(), (String::new(), GoneAs::Reset));
    let failures = rig.said("web.service", "Failed with result");
    assert!((1..=2).contains(&failures), "{failures}");
    let status = rig.run("wakeport status web");
    assert!(status.contains("exit-code"), "{status}");
    assert!(rig.is("active", "wakeport@web.socket"));

    rig.unit("web.service", PYTHON);
    rig.wait_for("a client is served again", || {
        Client::asks(PORT).reads().0.ends_with("hello")
    });
    rig.wait_until_asleep("web");
}
