//! What hooks get, and how their output and exit codes are handled.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::support::{HookService, Place, Run, Server, directory, echo, script, until};

/// A hook that records its environment and its limits, and succeeds.
fn recorder(dir: &Path) -> String {
    script(
        &dir.join("recorder"),
        &format!(
            "#!/bin/sh\nf={}/$WAKEPORT_EVENT\nenv >\"$f.new\"\necho \"soft=$(ulimit -Sn)\" >>\"$f.new\"\nls -l /proc/self/fd >\"$f.files\"\nmv \"$f.new\" \"$f\"\n",
            dir.display()
        ),
    )
}

fn recorded(dir: &Path, event: &str) -> BTreeMap<String, String> {
    let file = dir.join(event);
    until(&format!("the {event} hook has been run"), || file.exists());
    let text = fs::read_to_string(file).expect("a file");
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn a_target_that_refuses_is_reported_with_the_addresses_of_its_name() {
    let (front, port) = (Place::tcp(), Place::tcp().port());
    let wakeport = Run::new()
        .to(format!("localhost:{port}"))
        .listen(&front)
        .option("--start-hook", "true")
        .option("--start-timeout", "1s")
        .start();
    wakeport.refuses(&front, "Connection refused (os error 111) (tried ");
    wakeport.logs(&format!("127.0.0.1:{port}"));
}

#[test]
fn hooks_get_their_variables_and_no_others() {
    let (dir, front, target) = (directory(), Place::tcp(), Place::tcp());
    let hook = recorder(dir.path());
    let listener = front.listen();
    let client = front.connect();
    let mut wakeport = Run::new()
        .to(&target)
        .inherit("web", &listener)
        .option("--start-hook", format!("{hook} 'one word' two"))
        .option("--stop-hook", &hook)
        .option("--ready-hook", &hook)
        .option("--start-timeout", "20s")
        .option("--stop-timeout", "infinity")
        .cooldown("0")
        .variable("WATCHDOG_USEC", "60000000")
        .variable("MY_OWN", "kept")
        .variable("WAKEPORT_EVENT", "not this one")
        .variable("JOURNAL_STREAM", "1:2")
        .under(&["prlimit", "--nofile=300:4000"])
        .start();
    let start = recorded(dir.path(), "start");
    let server = Server::echo(&target);
    client.echoes("hello");
    let ready = recorded(dir.path(), "ready");
    let address = client.socket().local_addr().expect("an address");
    let address = address.as_socket().expect("over TCP").to_string();
    drop((client, server));
    let stop = recorded(dir.path(), "stop");
    wakeport.ends();

    let of = |set: &BTreeMap<String, String>, name: &str| set.get(name).cloned();
    assert_eq!(of(&start, "WAKEPORT_TARGET"), Some(target.to_string()));
    assert_eq!(of(&start, "WAKEPORT_LISTENER").as_deref(), Some("web"));
    assert_eq!(of(&start, "WAKEPORT_CLIENT"), Some(address));
    assert_eq!(of(&start, "WAKEPORT_ATTEMPT").as_deref(), Some("1"));
    assert_eq!(of(&start, "WAKEPORT_TIMEOUT_SEC").as_deref(), Some("20"));
    assert_eq!(of(&stop, "WAKEPORT_TARGET"), Some(target.to_string()));
    assert_eq!(of(&stop, "WAKEPORT_TIMEOUT_SEC"), None);
    assert_eq!(of(&stop, "WAKEPORT_CLIENT"), None);
    assert_eq!(of(&ready, "WAKEPORT_TARGET"), Some(target.to_string()));
    for (event, set) in [("start", &start), ("ready", &ready), ("stop", &stop)] {
        assert_eq!(of(set, "WAKEPORT_EVENT").as_deref(), Some(event));
        assert_eq!(of(set, "MY_OWN").as_deref(), Some("kept"));
        assert_eq!(of(set, "soft").as_deref(), Some("300"), "{event}");
        let leaked: Vec<_> = set
            .keys()
            .filter(|name| {
                ["LISTEN_", "NOTIFY_", "WATCHDOG_", "JOURNAL_"]
                    .iter()
                    .any(|prefix| name.starts_with(prefix))
            })
            .collect();
        assert!(leaked.is_empty(), "{event}: {leaked:?}");
        let files = fs::read_to_string(dir.path().join(format!("{event}.files"))).expect("a file");
        assert!(!files.contains("socket:"), "{event}: {files}");
    }
}

#[test]
fn hook_output_is_in_the_log_line_by_line() {
    let (dir, front) = (directory(), Place::tcp());
    let hook = script(
        &dir.path().join("hook"),
        "#!/bin/sh\necho out; echo err >&2\nprintf 'red \\033[31m\\a\\n\\n  \\nno end'\nexit 1\n",
    );
    let wakeport = Run::new()
        .to(Place::tcp())
        .listen(&front)
        .option("--start-hook", hook)
        .start();
    front.connect().is_reset();
    wakeport.logs("cannot start");
    let log = wakeport.log();
    let said: Vec<_> = log
        .lines()
        .filter_map(|line| line.split_once("start hook: "))
        .collect();
    let said: Vec<_> = said.into_iter().map(|(_, said)| said).collect();
    assert_eq!(said, ["out", "err", "red \\u{1b}[31m\\u{7}", "no end"]);
}

#[test]
fn a_hook_that_is_missing_is_named_in_one_line() {
    let (dir, front) = (directory(), Place::tcp());
    let plain = dir.path().join("plain");
    fs::write(&plain, "").expect("a file of ours");
    for (hook, why) in [
        ("/no/such/hook", "No such file or directory"),
        ("no-such-hook", "not found"),
        (&plain.display().to_string(), "Permission denied"),
    ] {
        let wakeport = Run::new()
            .to(Place::tcp())
            .listen(&front)
            .option("--start-hook", hook)
            .start();
        front.connect().is_reset();
        wakeport.logs("cannot start");
        let log = wakeport.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
        assert_eq!(lines.len(), 1, "{log}");
        let line = lines[0].to_lowercase();
        assert!(
            line.contains(hook) || line.contains(&hook.to_lowercase()),
            "{line}"
        );
        assert!(line.contains(&why.to_lowercase()), "{line}");
    }
}

#[test]
fn a_ready_hook_decides_when_the_first_client_is_admitted() {
    let dir = directory();
    let go = dir.path().join("go");
    let ready = script(
        &dir.path().join("ready"),
        &format!("#!/bin/sh\ntest -e {}\n", go.display()),
    );
    let stage = HookService::new();
    let front = Place::tcp();
    let wakeport = stage
        .run()
        .listen(&front)
        .option("--ready-hook", ready)
        .start();
    let client = front.connect();
    client.send("hello");
    wakeport.is("waking: the service has started, but does not answer yet");
    assert_eq!(stage.scene().connections(), 0);
    assert!(client.is_silent());
    fs::write(go, "").expect("a file of ours");
    assert_eq!(client.take(5), b"hello");
}

#[test]
fn a_service_without_a_stop_hook_does_not_hold_up_the_exit() {
    // A start hook alone: the service stops by itself, like a machine that suspends itself.
    let stage = HookService::new();
    let front = Place::tcp();
    let listener = front.listen();
    let client = front.connect();
    let mut wakeport = Run::new()
        .to(&stage.scene().place)
        .option("--start-hook", stage.hook())
        .inherit("web", &listener)
        .cooldown("100ms")
        .start();
    client.echoes("hello");
    drop(client);
    wakeport.ends();
    assert!(stage.scene().place.answers());
}

#[test]
fn a_stop_hook_alone_stops_a_service_that_is_started_elsewhere() {
    let stage = HookService::new();
    let front = Place::tcp();
    let wakeport = Run::new()
        .to(&stage.scene().place)
        .option("--stop-hook", stage.hook())
        .listen(&front)
        .cooldown("0")
        .start();
    let client = front.connect();
    wakeport.is("waking");
    stage.scene().up();
    client.echoes("hello");
    drop(client);
    wakeport.is("asleep, 1 served");
    assert_eq!(stage.count("stop"), 1);
}

#[test]
fn a_target_that_still_answers_after_the_stop_hook_gets_no_client_before_it_is_down() {
    let stage = HookService::direct(echo, |scene, call| {
        match call.event.as_str() {
            "start" => scene.up(),
            // The hook returns at once; the machine starts slowly.
            _ => {
                let scene = scene.clone();
                std::thread::spawn(move || {
                    std::thread::sleep(std::time::Duration::from_millis(400));
                    scene.crash();
                });
            }
        }
        0
    });
    let front = Place::tcp();
    let _wakeport = stage.run().listen(&front).cooldown("0").start();
    front.connect().echoes("first");
    stage.reaches("stop", 1);
    front.connect().echoes("second");
    assert_eq!(stage.count("start"), 2);
}

#[test]
fn what_a_successful_hook_leaves_in_the_background_goes_on() {
    let (dir, front, target) = (directory(), Place::tcp(), Place::tcp());
    let pid = dir.path().join("pid");
    let hook = script(
        &dir.path().join("hook"),
        &format!(
            "#!/bin/sh\nsleep 1000 >/dev/null 2>&1 & echo $! >{}\n",
            pid.display()
        ),
    );
    let _server = {
        let _wakeport = Run::new()
            .to(&target)
            .listen(&front)
            .option("--start-hook", hook)
            .start();
        let client = front.connect();
        until("the hook is done", || {
            fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n'))
        });
        let server = Server::echo(&target);
        client.echoes("hello");
        server
    };
    let text = fs::read_to_string(&pid).expect("a file");
    let pid: u32 = text.trim().parse().expect("a number");
    assert!(crate::support::runs(pid));
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process ID");
    rustix::process::kill_process(pid, Signal::KILL).expect("it runs");
}

#[test]
fn hooks_freeze_and_thaw_around_clients_and_thaw_what_an_earlier_wakeport_may_have_frozen() {
    let (dir, front, target) = (directory(), Place::tcp(), Place::tcp());
    let file = dir.path().join("events");
    let text = format!("#!/bin/sh\necho $WAKEPORT_EVENT >>{}\n", file.display());
    let hook = script(&dir.path().join("hook"), &text);
    let events = || fs::read_to_string(&file).unwrap_or_default();
    let _server = Server::echo(&target);
    let run = Run::new()
        .to(&target)
        .listen(&front)
        .option("--start-hook", &hook)
        .option("--stop-hook", &hook)
        .option("--freeze-hook", &hook)
        .option("--thaw-hook", &hook)
        .option("--freeze-after", "50ms")
        .cooldown("infinity");
    let mut wakeport = run.start();
    // It runs already, and may be frozen: that is not known.
    front.connect().echoes("hello");
    let mut expected = "thaw\nfreeze\n".to_owned();
    until("it is frozen", || events() == expected);
    front.connect().echoes("hello");
    expected += "thaw\nfreeze\n";
    until("it is frozen", || events() == expected);
    wakeport.signal(Signal::TERM);
    assert!(wakeport.wait().success());
    assert_eq!(events(), expected + "thaw\n");
}

#[test]
fn a_service_whose_thaw_hook_fails_refuses_clients_until_it_succeeds() {
    let (dir, front, target) = (directory(), Place::tcp(), Place::tcp());
    let may = dir.path().join("may");
    let _server = Server::echo(&target);
    let wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .option("--stop-hook", "true")
        .option("--freeze-hook", "true")
        .option("--thaw-hook", format!("test -e {}", may.display()))
        .option("--freeze-after", "50ms")
        .cooldown("infinity")
        .start();
    front.connect().is_reset();
    wakeport.logs("cannot thaw the service: the thaw hook `test` failed (exit status: 1)");
    fs::write(&may, "").expect("a file");
    until("a client is served", || {
        front.connect().try_echo("hello").is_ok()
    });
}
