//! The commands of `examples/container`, with Podman's quadlets and Docker's daemon.
//!
//! The roots have both engines (`roots`): there everything runs for real, but for the image, which is imported and
//! not pulled. The host need not have them: there stand-ins do what the engines would.

use std::io::{self, Write};

use crate::guide::{cooldown, server, sleeps};
use crate::page_runner::PageRunner;
use crate::rig::{self, Rig};
use crate::services::URL;

/// Frozen at once, and stopped by no cooldown.
const FROZEN: &str = "WAKEPORT_FREEZE_AFTER=300ms WAKEPORT_COOLDOWN=1h";
/// Frozen at once, and stopped soon after.
const FROZEN_THEN_STOPPED: &str = "WAKEPORT_FREEZE_AFTER=300ms WAKEPORT_COOLDOWN=5s";

/// What the whole image runs: a server of one page, which ends well when it is told to stop.
const SERVER: &str = "trap 'exit 0' TERM
/busybox httpd -f -p 80 -h /www &
wait
";
const IMPORT: &str = "tar -C /run/rig/image -c . | \
                      /usr/bin/ENGINE import --change 'CMD [\"/busybox\", \"sh\", \"/server\"]' -";

/// A stand-in for Docker's command: a unit is the container, and a file says whether it is paused.
const DOCKER: &str = "#!/bin/sh
cd /var/lib/wakeport
case $1 in
start | stop) exec systemctl --no-ask-password $1 whoami ;;
pause) touch paused ;;
unpause) rm paused ;;
inspect) test -e paused && echo true || echo false ;;
esac
";

/// Whether this machine has the engines; if so, prepares what both need.
fn has_engines(rig: &Rig) -> bool {
    if rig::root().is_none() {
        // Past the harness, which shows what a test prints only when it fails.
        let _ = writeln!(
            io::stderr(),
            "containers: stand-ins; the roots have Podman and Docker, and the host's are left alone"
        );
        return false;
    }
    rig.write("/run/rig/image/server", SERVER);
    rig.write("/run/rig/image/www/index.html", "whoami\n");
    rig.run("cp /usr/bin/busybox /run/rig/image/");
    // The engines set up forwarding and their bridge. Of all settings only those of the rig's own network.
    rig.run("mkdir /run/rig/proc && mount -t proc proc /run/rig/proc && mount --bind /run/rig/proc/sys/net /proc/sys/net");
    true
}

/// Podman, which pulls every image from a folder; `false` without it, with a unit instead of the container.
fn podman(rig: &Rig) -> bool {
    if !has_engines(rig) {
        // Debian 12's Podman knows no quadlets: this is what one would make of the file.
        server(rig, "whoami", "127.0.0.1:18080");
        rig.script("/usr/local/bin/podman", "#!/bin/sh\n");
        return false;
    }
    // A rig has no layers above those of its root, and may have no controller that limits processes.
    rig.write(
        "/etc/containers/storage.conf",
        "[storage]\ndriver = 'vfs'\nrunroot = '/run/containers/storage'\ngraphroot = '/var/lib/containers/storage'\n",
    );
    rig.write(
        "/etc/containers/containers.conf",
        "[containers]\npids_limit = 0\n",
    );
    let import = IMPORT.replace("ENGINE", "podman");
    rig.script(
        "/usr/local/bin/podman",
        &format!("#!/bin/sh\nif [ \"$1\" = pull ]; then {import} \"$2\"; exit; fi\nexec /usr/bin/podman \"$@\"\n"),
    );
    // `boot` leaves it out, since each reload of systemd runs it.
    rig.run("rm -f /run/systemd/system-generators/podman-*");
    true
}

/// Docker with the image; `false` without it, with a command that starts and stops a unit.
fn docker(rig: &Rig) -> bool {
    if !has_engines(rig) {
        server(rig, "whoami", "127.0.0.1:18080");
        rig.allow("whoami.service");
        rig.run("getent group docker || groupadd docker");
        rig.script("/usr/local/bin/docker", DOCKER);
        return false;
    }
    rig.systemctl("start docker.service");
    let import = IMPORT.replace("ENGINE", "docker");
    rig.run(&format!("{import} traefik/whoami:v1.10"));
    true
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn example_quadlet_works() {
    let rig = Rig::boot();
    let runner = PageRunner::new(&rig);
    let real = podman(&rig);
    runner.run_section("examples/container/README.md#podman-a-quadlet");
    assert!(!real || rig.run("podman ps").contains("127.0.0.1:18080->80/tcp"));
    sleeps(&rig, "whoami", URL);
    assert_eq!(rig.run("podman ps --all --quiet"), "");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn example_docker_hooks_works() {
    let rig = Rig::boot();
    let runner = PageRunner::new(&rig);
    let real = docker(&rig);
    runner.run_section("examples/container/README.md#docker-its-own-commands-as-hooks");
    sleeps(&rig, "whoami", URL);
    if real {
        assert_eq!(docker_says(&rig, "Status"), "exited");
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_quadlet_is_frozen_by_its_slice_and_stopped_after_the_cooldown() {
    let rig = Rig::boot();
    let runner = PageRunner::new(&rig);
    podman(&rig);
    runner.run_section("examples/container/README.md#podman-a-quadlet");
    runner.run_section("examples/container/README.md#podman-frozen-between-clients");
    rig.systemctl("stop wakeport@whoami.service whoami.service");
    let state = || rig.show("FreezerState", r"'system-wakeport\x2dwhoami.slice'");
    let starts = || rig.starts("whoami.service").to_string();
    stays_frozen_and_serves(&rig, || state() == "frozen", starts);
    assert_eq!(state(), "running");
    assert_eq!(rig.run("podman ps --all --quiet"), "");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_container_of_docker_is_paused_by_hooks_and_stopped_after_the_cooldown() {
    let rig = Rig::boot();
    let runner = PageRunner::new(&rig);
    let real = docker(&rig);
    runner.run_section("examples/container/README.md#docker-its-own-commands-as-hooks");
    runner.run_section("examples/container/README.md#docker-frozen-between-clients");
    let paused = || docker_says(&rig, "Paused") == "true";
    stays_frozen_and_serves(&rig, paused, || match real {
        true => docker_says(&rig, "StartedAt"),
        false => rig.starts("whoami.service").to_string(),
    });
    assert_eq!(docker_says(&rig, "Paused"), "false");
    assert!(!real || docker_says(&rig, "Status") == "exited");
}

/// It is frozen after each client and thawed for the next one, by the same wakeport or the one that follows it, and
/// is the same all the time; at the end of the cooldown it is stopped.
#[track_caller]
fn stays_frozen_and_serves(rig: &Rig, is_frozen: impl Fn() -> bool, is: impl Fn() -> String) {
    cooldown(rig, "whoami", FROZEN);
    rig.systemctl("stop wakeport@whoami.service");
    let serves_and_freezes = || {
        assert_eq!(rig.curl(URL), "whoami\n");
        let status = || rig.run("wakeport status whoami");
        rig.wait_for("it is frozen", || {
            status().contains("State: frozen") && is_frozen()
        });
        status()
    };
    serves_and_freezes();
    let first = is();
    for thaws in 1..=3 {
        let status = serves_and_freezes();
        assert!(status.contains(&format!("Thaws: {thaws},")), "{status}");
    }
    rig.ask("systemctl kill --signal=KILL wakeport@whoami.service");
    serves_and_freezes();
    assert_eq!(is(), first);
    cooldown(rig, "whoami", FROZEN_THEN_STOPPED);
    rig.systemctl("restart wakeport@whoami.service");
    // It may be asleep again before it is seen frozen, but the log has that.
    assert_eq!(rig.curl(URL), "whoami\n");
    rig.wait_until_asleep("whoami");
    assert!(rig.said("wakeport@whoami.service", "to stop it") > 0);
}

fn docker_says(rig: &Rig, what: &str) -> String {
    let format = format!("docker inspect -f '{{{{.State.{what}}}}}' whoami");
    rig.run(&format).trim().to_owned()
}
