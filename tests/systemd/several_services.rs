//! Two units behind one instance, by a file; and rounds of waking and sleeping under clients at every moment.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::echo_service::{Echo, Exchange};
use crate::rig::{Client, GoneAs, Rig};
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
    let line = "`web.service` is woken and stopped by `web` already";
    rig.wait_for("it says so once in each life", || {
        rig.said(second, line) == rig.starts(second)
    });
    assert!(rig.is("active", "web.service"));
    assert_eq!(rig.stops("web.service"), 0);
    drop(client);
}

// -- one fails

/// The start and the stop of each wait while there is a file, and the start fails while there is another one.
const OBEYS: &str = "\
ExecStartPre=sh -c 'while test -e /run/rig/NAME.starts; do sleep 0.02; done; test ! -e /run/rig/NAME.broken'
ExecStop=sh -c 'while test -e /run/rig/NAME.stops; do sleep 0.02; done'";

/// Two services behind one instance. One of them does what `fails` says, and clients of the other notice nothing.
#[track_caller]
fn the_other_notices_nothing(fails: impl FnOnce(&Echo, &dyn Fn())) {
    let rig = Rig::boot();
    let both = Echo::two(&rig, "pair", OBEYS, "cooldown = '200ms'");
    let [one, other] = &both;
    other.under_clients(|others_are_served| {
        fails(one, others_are_served);
        others_are_served();
        rig.wait_for("it is mended", || {
            Exchange::short().run(&one.address) == Ok(())
        });
        rig.wait_until("inactive", &one.service());
        others_are_served();
    });
    Echo::both_sleep(&both);
    let other = other.service();
    assert_eq!((rig.starts(&other), rig.stops(&other)), (1, 1));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_unit_that_fails_to_start_does_not_concern_the_clients_of_the_other() {
    the_other_notices_nothing(|one, others_are_served| {
        one.rig.write("/run/rig/first.broken", "");
        for _ in 0..3 {
            assert_eq!(Exchange::short().run(&one.address), Err(0));
            one.rig
                .wait_for("it has failed", || one.state() == "failed");
            others_are_served();
        }
        one.rig.run("rm /run/rig/first.broken");
    });
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_unit_that_takes_its_time_to_start_and_stop_does_not_concern_the_clients_of_the_other() {
    the_other_notices_nothing(|one, others_are_served| {
        let rig = one.rig;
        thread::scope(|scope| {
            rig.write("/run/rig/first.starts", "");
            let waits = scope.spawn(|| one.serves(&Exchange::short()));
            rig.wait_until("activating", &one.service());
            others_are_served();
            rig.write("/run/rig/first.stops", "");
            rig.run("rm /run/rig/first.starts");
            waits.join().expect("it is served");
            rig.wait_until("deactivating", &one.service());
            let waits = scope.spawn(|| one.serves(&Exchange::short()));
            others_are_served();
            rig.run("rm /run/rig/first.stops");
            waits.join().expect("it is served");
        });
    });
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_unit_that_dies_while_it_is_awake_does_not_concern_the_clients_of_the_other() {
    the_other_notices_nothing(|one, others_are_served| {
        for _ in 0..3 {
            let client = Client::connect(&one.address);
            one.serves(&Exchange::short());
            assert!(one.rig.kill(&one.service()), "it runs");
            let _: (String, GoneAs) = client.reads();
            others_are_served();
        }
    });
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_unit_that_refuses_to_stop_does_not_concern_the_clients_of_the_other() {
    the_other_notices_nothing(|one, others_are_served| {
        let (rig, unit) = (one.rig, one.service());
        rig.drop_in(&unit, "trap", "[Unit]\nRefuseManualStop=yes\n");
        one.serves(&Exchange::short());
        rig.wait_for("the stop is refused", || {
            rig.said(&one.wakeport(), "RefuseManualStop=") > 0
        });
        others_are_served();
        // It goes on to serve.
        one.serves(&Exchange::short());
        assert_eq!(rig.starts(&unit), 1);
        rig.drop_in(&unit, "trap", "");
    });
}

// -- the file

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_broken_file_resets_the_clients_of_both_and_a_mended_one_serves_the_next() {
    let rig = Rig::boot();
    let keys = "cooldown = '200ms'";
    let both = Echo::two(&rig, "pair", "", keys);
    let instance = both[0].wakeport();
    for (broken, line) in [
        (
            "cooldown = 'soon'",
            "/etc/wakeport/pair.toml:8:12: `cooldown` cannot be `soon`",
        ),
        (
            "cool-down = '1s'",
            "/etc/wakeport/pair.toml:8:1: unknown key `cool-down`; is it `cooldown`?",
        ),
        (
            "unit = 'first'",
            "/etc/wakeport/pair.toml:8:1: service `second`: the unit `first.service` is that of service `first` already",
        ),
    ] {
        // The mistake is in the table of the second.
        Echo::configure(&both, [keys, broken]);
        for echo in &both {
            let [said, starts] = [rig.said(&instance, line), rig.starts(&instance)];
            assert_eq!(Client::asks(&echo.address).reads().1, GoneAs::Reset);
            rig.wait_until("failed", &instance);
            assert_eq!(rig.said(&instance, line), said + 1, "{line}");
            assert_eq!(rig.starts(&instance), starts, "it is never ready");
            assert_eq!(rig.show("ExecMainStatus", &instance), "78");
        }
        Echo::configure(&both, [keys, keys]);
        for echo in &both {
            echo.serves(&Exchange::short());
        }
        Echo::both_sleep(&both);
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_reload_that_changes_the_unit_of_a_service_leaves_none_running() {
    let rig = Rig::boot();
    let keys = "cooldown = '200ms'";
    let both = Echo::two(&rig, "pair", "", keys);
    let [first, second] = &both;
    let instance = first.wakeport();
    rig.run("cd /etc/systemd/system && cp second.service third.service");
    rig.systemctl("daemon-reload");
    rig.allow("third.service");
    let [stays, inside] = [first, second].map(|echo| {
        let client = Client::connect(&echo.address);
        echo.serves(&Exchange::short());
        client
    });
    Echo::configure(&both, [keys, "cooldown = '200ms'\nunit = 'third'"]);
    rig.systemctl(&format!("reload {instance}"));
    let line = "service `second` is in use: its new settings apply when it sleeps";
    rig.wait_for("it says so", || rig.said(&instance, line) == 1);
    // Its connection goes on, and so does the unit.
    second.serves(&Exchange::short());
    assert!(rig.is("active", "second.service"));
    drop(inside);
    rig.wait_until("inactive", "second.service");
    rig.wait_for("it has its new settings", || {
        rig.said(&instance, "service `second` reconfigured") == 1
    });
    second.serves(&Exchange::short());
    rig.wait_until("inactive", "third.service");
    // What an administrator starts is noticed, as ever.
    rig.systemctl("start third.service");
    rig.wait_until("inactive", "third.service");
    assert_eq!(
        (rig.starts("second.service"), rig.starts("third.service")),
        (1, 2)
    );
    drop(stays);
    Echo::both_sleep(&both);
    assert_eq!((rig.starts("first.service"), rig.starts(&instance)), (1, 1));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_unit_moves_to_another_service_by_a_restart_and_not_by_a_reload() {
    let rig = Rig::boot();
    let keys = "cooldown = '1s'";
    let both = Echo::two(&rig, "pair", "", keys);
    let [first, second] = &both;
    let instance = first.wakeport();
    let file = rig.read("/etc/wakeport/pair.toml");
    let moved = "[service.renamed]\nunit = 'second'";
    second.under_clients(|are_served| {
        rig.write("/etc/wakeport/pair.toml", &file.replace("[service.second]", moved));
        rig.systemctl(&format!("reload {instance}"));
        let line = "cannot reload: service `renamed` wakes `second.service`, which service `second` wakes; restart wakeport to give it to another service; nothing was changed";
        rig.wait_for("it is refused", || rig.said(&instance, line) == 1);
        are_served();
        first.serves(&Exchange::short());
    });
    rig.systemctl(&format!("restart {instance}"));
    for echo in &both {
        echo.serves(&Exchange::short());
    }
    let seen = instances(&rig);
    let names: Vec<_> = seen.iter().map(|view| &view["name"]).collect();
    assert!(names.contains(&&Value::from("pair/renamed")), "{names:?}");
    Echo::both_sleep(&both);
}

/// What `wakeport status --json` says of the services of `pair`.
fn instances(rig: &Rig) -> Vec<Value> {
    let seen: Value = serde_json::from_str(&rig.run("runuser -u nobody -- wakeport status --json"))
        .expect("JSON");
    assert_eq!(seen["problems"], Value::Array(Vec::new()));
    seen["instances"].as_array().expect("a list").clone()
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_second_service_is_added_by_init_and_seen_by_check_and_status() {
    let rig = Rig::boot();
    let both = Echo::two(&rig, "pair", "", "cooldown = '1h'");
    let [first, second] = &both;
    let init = |listen: &str| {
        rig.run(&format!(
            "wakeport init pair {listen} --write --enable 2>&1"
        ))
    };
    // As it was with a single one.
    let one = format!("--listen first={}", first.address);
    let two = format!("{one} --listen second={}", second.address);
    rig.run("wakeport init pair --remove");
    let file = rig.read("/etc/wakeport/pair.toml");
    let (table, _) = file.split_once("[service.second]").expect("two services");
    rig.write("/etc/wakeport/pair.toml", table);
    let said = init(&one);
    assert!(
        !said.contains("error:") && !said.contains("second"),
        "{said}"
    );
    assert_eq!(
        rig.run("wakeport check pair 2>&1").lines().last(),
        Some("ok: wakeport@pair")
    );

    // The second: `check` says what is missing, and `init` adds it.
    rig.write("/etc/wakeport/pair.toml", &file);
    let missing = rig.attempt("wakeport check pair 2>&1");
    assert_eq!(missing.status.code(), Some(1));
    let said = String::from_utf8_lossy(&missing.stdout).into_owned();
    assert!(
        said.contains("service `second` has the listener `second`"),
        "{said}"
    );
    let said = init(&two);
    assert!(said.contains("wakeport@pair-second.socket"), "{said}");
    rig.systemctl("try-restart polkit.service");
    let checked = || {
        let said = rig.run("wakeport check pair 2>&1");
        assert_eq!(said.lines().last(), Some("ok: wakeport@pair"), "{said}");
        assert_eq!(
            rig.run("wakeport check /etc/wakeport/pair.toml 2>&1")
                .lines()
                .last(),
            Some("ok: pair")
        );
    };
    let shows = |state: [&str; 2], wakes: [u64; 2]| {
        let seen = instances(&rig);
        assert_eq!(seen.len(), 2, "{seen:#?}");
        let table = rig.run("runuser -u nobody -- wakeport status");
        for (index, echo) in both.iter().enumerate() {
            let view = &seen[index];
            assert_eq!(view["name"], format!("pair/{}", echo.name));
            assert_eq!(view["unit"], "wakeport@pair.service");
            assert_eq!(view["units"][0], echo.service());
            assert_eq!(view["state"], state[index], "{view:#}");
            assert_eq!(view["wakes"]["total"], wakes[index]);
            assert_eq!(view["sockets"].as_array().map(Vec::len), Some(2));
            let row = format!("pair/{}", echo.name);
            let row = table.lines().find(|line| line.starts_with(&row));
            assert!(row.is_some_and(|row| row.contains(state[index])), "{table}");
        }
        assert_eq!(table.lines().count(), 3, "{table}");
    };

    // Before the first start.
    checked();
    shows(["asleep"; 2], [0; 2]);
    assert_eq!(rig.starts("wakeport@pair.service"), 0);
    // One is awake, the other one asleep.
    let client = Client::connect(&second.address);
    second.serves(&Exchange::short());
    rig.wait_for("it is awake", || second.state() == "awake");
    checked();
    shows(["asleep", "awake"], [0, 1]);
    drop(client);
    // Both asleep again.
    Echo::configure(&both, ["cooldown = '200ms'"; 2]);
    rig.systemctl("reload wakeport@pair.service");
    Echo::both_sleep(&both);
    checked();
    shows(["asleep"; 2], [0, 1]);
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
    // To read the sockets of the host takes longer than these clients leave the service alone.
    let quick = "WAKEPORT_DIRECT_CONNECTIONS=ignore";
    for (share, cooldown) in (1..).zip([0, 1, 20, 75, 200]) {
        let setting = format!("WAKEPORT_COOLDOWN={cooldown}ms");
        if share == 1 {
            rig.instance("nginx", PORT, TARGET, &[&setting, quick]);
        } else {
            rig.settings("nginx", &[&setting, quick]);
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
    assert_eq!(rig.stops("nginx.service"), woken);
    say(&format!(
        "{woken} rounds, {} clients, none lost",
        served.load(Ordering::Relaxed)
    ));
}

#[expect(
    clippy::print_stderr,
    reason = "the figures of a long run, shown by `--nocapture`"
)]
fn say(words: &str) {
    eprintln!("{words}");
}
