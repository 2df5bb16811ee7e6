//! What keeps a service awake although no client is here. What does that is asked again after 30 s; a test need not
//! wait for it, since a client that leaves begins a cooldown of its own.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use crate::repository::text;
use crate::support::{
    Client, HookService, Place, Run, Scene, Server, directory, echo, runs, script, soon,
    throughout, until,
};

/// Asserts that `stage` is not stopped for a while.
fn stays_up(stage: &HookService) {
    throughout(Duration::from_millis(300), "up", || {
        stage.count("stop") == 0
    });
}

/// A client comes, and leaves.
fn visit(front: &Place) {
    front.connect().echoes("a visit");
}

/// Direct connections to `target` keep the service of `stage` awake, until they end.
fn kept_awake_by_direct(stage: &HookService, run: Run, direct: &[&Client]) {
    let front = Place::tcp();
    let wakeport = run.listen(&front).cooldown("10ms").start();
    let shown = match direct.len() {
        1 => "1 direct connection".to_owned(),
        n => format!("{n} direct connections"),
    };
    visit(&front);
    wakeport.is(&format!("cooling, kept awake: {shown}; 1 served since "));
    wakeport.logs(&format!("the service is kept awake: {shown}"));
    stays_up(stage);
    direct
        .iter()
        .for_each(|client| client.echoes("still at work"));
    // Clients are served as ever.
    visit(&front);
    wakeport.is(&format!("cooling, kept awake: {shown}; 2 served since "));
    stays_up(stage);
}

#[test]
fn direct_connections_over_tcp_keep_the_service_awake_until_they_are_closed() {
    let stage = HookService::new();
    stage.scene().up();
    let direct = [(); 2].map(|()| stage.scene().place.connect());
    direct.iter().for_each(|client| client.echoes("hello"));
    kept_awake_by_direct(&stage, stage.run(), &direct.each_ref());

    drop(direct);
    let front = Place::tcp();
    let wakeport = stage.run().listen(&front).cooldown("0").start();
    visit(&front);
    stage.reaches("stop", 1);
    wakeport.is("asleep");
    assert!(!wakeport.log().contains("kept awake"), "{}", wakeport.log());
}

#[test]
fn direct_connections_to_a_server_on_all_addresses_count_on_each() {
    for wildcard in ["0.0.0.0:0", "[::]:0"] {
        let listener = std::net::TcpListener::bind(wildcard).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let _server = Server::on(listener.into(), echo);
        let direct = Place::from(([127, 0, 0, 2], port)).connect();
        direct.echoes("hello");
        let stage = HookService::direct(echo, |_, _| 0);
        let hook = stage.hook();
        let run = Run::new().to(format!("127.0.0.1:{port}"));
        let run = run
            .option("--start-hook", &hook)
            .option("--stop-hook", &hook);
        kept_awake_by_direct(&stage, run, &[&direct]);
    }
}

#[test]
fn direct_connections_to_a_unix_socket_keep_the_service_awake() {
    let dir = directory();
    for target in [Place::path(&dir), Place::abstract_name()] {
        let _server = Server::echo(&target);
        let direct = target.connect();
        direct.echoes("hello");
        let stage = HookService::direct(echo, |_, _| 0);
        let hook = stage.hook();
        let run = Run::new().to(&target).option("--start-hook", &hook);
        kept_awake_by_direct(&stage, run.option("--stop-hook", &hook), &[&direct]);
    }
}

#[test]
fn direct_connections_can_be_ignored() {
    let stage = HookService::new();
    stage.scene().up();
    let direct = stage.scene().place.connect();
    direct.echoes("hello");
    let front = Place::tcp();
    let run = stage.run().option("--direct-connections", "ignore");
    let _wakeport = run.listen(&front).cooldown("10ms").start();
    visit(&front);
    stage.reaches("stop", 1);
}

#[test]
fn clients_that_come_and_go_quickly_cost_few_threads() {
    // The sockets of the host take a while to read.
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = other.local_addr().expect("it is bound");
    let pair = |_| {
        let client = std::net::TcpStream::connect(at).expect("it listens");
        (client, other.accept().expect("one waits"))
    };
    let _sockets: Vec<_> = (0..1000).map(pair).collect();
    let stage = HookService::new();
    let front = Place::tcp();
    let run = stage.run().listen(&front).option("--threads", 1);
    let wakeport = run.cooldown("0").start();
    visit(&front);
    stage.reaches("stop", 1);
    wakeport.is("asleep");
    let asleep = wakeport.threads();
    let awake = (0..300).map(|_| {
        visit(&front);
        wakeport.threads()
    });
    let most = awake.max().expect("some");
    // One that reads, and one that ends.
    assert!(most <= asleep + 2, "{most} instead of {asleep}");
}

/// A service whose busy hook exits with the code that is here then.
fn hooked(code: &Arc<AtomicI32>) -> HookService {
    let code = code.clone();
    let act = move |scene: &Scene, call: &crate::support::Call| {
        match call.event.as_str() {
            "start" => scene.up(),
            "stop" => scene.down(),
            "busy" => return code.load(Ordering::SeqCst),
            _ => (),
        }
        0
    };
    HookService::direct(echo, act)
}

fn with_busy_hook(stage: &HookService, front: &Place) -> Run {
    let run = stage.run().option("--busy-hook", stage.hook());
    run.listen(front).cooldown("10ms")
}

#[test]
fn a_busy_hook_that_exits_with_1_keeps_the_service_awake_and_with_0_does_not() {
    let code = Arc::new(AtomicI32::new(1));
    let (stage, front) = (hooked(&code), Place::tcp());
    let wakeport = with_busy_hook(&stage, &front).start();
    visit(&front);
    wakeport.is("cooling, kept awake: the busy hook says so; 1 served since ");
    stays_up(&stage);
    code.store(0, Ordering::SeqCst);
    visit(&front);
    stage.reaches("stop", 1);
    wakeport.is("asleep");
    assert_eq!(stage.count("busy"), 2);
}

#[test]
fn a_busy_hook_that_fails_is_logged_and_keeps_nothing_awake() {
    for (code, words) in [
        (3, "failed (exit status: 3)"),
        (75, "failed (exit status: 75)"),
    ] {
        let (stage, front) = (hooked(&Arc::new(AtomicI32::new(code))), Place::tcp());
        let wakeport = with_busy_hook(&stage, &front).start();
        visit(&front);
        stage.reaches("stop", 1);
        wakeport.logs(words);
        wakeport.logs("cannot tell whether the service has work to do, so it may be stopped");
    }
    let (stage, front) = (HookService::new(), Place::tcp());
    let run = stage.run().option("--busy-hook", "/no/such/program");
    let wakeport = run.listen(&front).cooldown("10ms").start();
    visit(&front);
    stage.reaches("stop", 1);
    wakeport.logs("cannot run the busy hook `/no/such/program`");
}

#[test]
fn a_busy_hook_that_hangs_delays_the_stop_by_ten_seconds_and_no_client() {
    let (dir, stage, front) = (directory(), HookService::new(), Place::tcp());
    let pid = dir.path().join("pid");
    let hook = script(
        &dir.path().join("hangs"),
        &format!(
            "#!/bin/sh\necho $$ >{0}.new\nmv {0}.new {0}\nsleep 1000\n",
            pid.display()
        ),
    );
    let run = stage.run().option("--busy-hook", hook);
    let wakeport = run.listen(&front).cooldown("10ms").start();
    visit(&front);
    let hook = || {
        let written = fs::read_to_string(&pid).ok()?;
        Some(written.trim().parse().expect("a process ID"))
    };
    // A client that comes now is served before the hook ends, and asks for another cooldown. On a machine that is too
    // slow for that within ten seconds, the next one is.
    until("a client is served while the hook runs", || {
        let asked = soon("the hook runs", || hook().filter(|asked| runs(*asked)));
        let client = front.connect();
        client.echoes("a visit");
        runs(asked)
    });
    stage.reaches("stop", 1);
    wakeport.logs("no answer about the busy hook within 10s");
    let asked = hook().expect("it has been run");
    until("the hook is gone", || !runs(asked));
}

#[test]
fn a_busy_hook_has_the_variables_of_a_hook_and_no_others() {
    let (dir, stage, front) = (directory(), HookService::new(), Place::tcp());
    let (seen, target) = (dir.path().join("seen"), stage.scene().place.to_string());
    let hook = script(
        &dir.path().join("hook"),
        &format!("#!/bin/sh\nenv >{0}.new\nmv {0}.new {0}\n", seen.display()),
    );
    let run = stage.run().option("--busy-hook", hook);
    let _wakeport = run
        .listen(&front)
        .cooldown("0")
        .variable("MY_OWN", "kept")
        .start();
    visit(&front);
    stage.reaches("stop", 1);
    let seen = fs::read_to_string(&seen).expect("the hook has been run");
    let wanted = ["WAKEPORT_EVENT=busy".to_owned(), "MY_OWN=kept".to_owned()];
    for line in wanted
        .into_iter()
        .chain([format!("WAKEPORT_TARGET={target}")])
    {
        assert!(seen.lines().any(|found| found == line), "{line}\n{seen}");
    }
    for foreign in ["NOTIFY_SOCKET", "WAKEPORT_CLIENT", "LISTEN_"] {
        assert!(!seen.contains(foreign), "{seen}");
    }
}

#[test]
fn work_keeps_the_service_awake_for_no_longer_than_its_limit() {
    let (stage, front) = (hooked(&Arc::new(AtomicI32::new(1))), Place::tcp());
    let run = with_busy_hook(&stage, &front).option("--busy-limit", "5s");
    let wakeport = run.start();
    visit(&front);
    wakeport.was("cooling, kept awake: the busy hook says so");
    stage.reaches("stop", 1);
    wakeport.logs("in spite of its work: `--busy-limit` is over (the busy hook says so)");
    wakeport.is("asleep");
    // Without a time there is no question.
    let asked = stage.count("busy");
    drop(wakeport);
    let run = with_busy_hook(&stage, &front).option("--busy-limit", "0");
    let _wakeport = run.start();
    visit(&front);
    stage.reaches("stop", 2);
    assert_eq!(stage.count("busy"), asked);
}

#[test]
fn work_of_one_service_does_not_concern_another_in_the_same_process() {
    let (dir, idle) = (directory(), HookService::new());
    let busy = hooked(&Arc::new(AtomicI32::new(1)));
    let fronts = [Place::tcp(), Place::tcp()];
    let sockets = [fronts[0].listen(), fronts[1].listen()];
    let path = dir.path().join("web.toml");
    let service = |name: &str, stage: &HookService, more: &str| {
        let (hook, to) = (stage.hook(), &stage.scene().place);
        format!(
            "[service.{name}]\nlistener = '{name}'\nto = '{to}'\nstart-hook = '{hook}'\nstop-hook = '{hook}'\n{more}\n"
        )
    };
    let busy_hook = format!("busy-hook = '{}'", busy.hook());
    let services = [service("a", &busy, &busy_hook), service("b", &idle, "")];
    let text = format!("[defaults]\ncooldown = '10ms'\n{}", services.concat());
    fs::write(&path, text).expect("a file of ours");
    let first = fronts[0].connect();
    let wakeport = Run::new()
        .option("--config", path.display())
        .inherit("a", &sockets[0])
        .inherit("b", &sockets[1])
        .start();
    first.echoes("a visit");
    drop(first);
    wakeport.logs("kept awake: the busy hook says so");
    for round in 1..=3 {
        visit(&fronts[1]);
        idle.reaches("stop", round);
    }
    assert_eq!(busy.count("stop"), 0);
}

#[test]
fn wakeport_tells_what_keeps_a_service_awake_and_its_record_forgets_it_in_time() {
    let (dir, code) = (directory(), Arc::new(AtomicI32::new(1)));
    let (stage, front) = (hooked(&code), Place::tcp());
    let metrics = Place::tcp();
    let run = with_busy_hook(&stage, &front)
        .option("--name", "app")
        .option("--state-dir", dir.path().display())
        .option("--metrics", &metrics);
    let wakeport = run.start();
    visit(&front);
    wakeport.is("cooling, kept awake");
    let status = |json: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_wakeport"));
        command.args(["status", "--state-dir"]).arg(dir.path());
        text(&soon("a status", || {
            let output = command.args(json).output().ok()?;
            output.status.success().then_some(output)
        }))
    };
    let table = || status(&[]);
    until("the table says so", || {
        table().contains("  kept awake: the busy hook says so")
    });
    let page = || {
        let client = metrics.connect();
        client.send("GET /metrics HTTP/1.0\r\n\r\n");
        String::from_utf8(client.all()).expect("text")
    };
    let sample = r#"wakeport_kept_awake{name="app",reason="hook"}"#;
    assert!(page().contains(&format!("{sample} 1\n")), "{}", page());
    code.store(0, Ordering::SeqCst);
    visit(&front);
    stage.reaches("stop", 1);
    wakeport.is("asleep");
    until("it is forgotten", || !table().contains("kept awake"));
    assert!(page().contains(&format!("{sample} 0\n")), "{}", page());
}

#[test]
fn what_measures_units_says_so_where_there_are_none() {
    for (option, value) in [("busy-cpu", "1%"), ("busy-io", "1K"), ("busy-net", "1K")] {
        let run = Run::new().to("127.0.0.1:1").option("--exec", "true");
        let (log, code) = run.option(&format!("--{option}"), value).fails();
        assert_eq!(code, 64, "{log}");
        assert!(
            log.contains(&format!("`--{option}` measures units")),
            "{log}"
        );
    }
    for (option, value) in [
        ("--busy-cpu", "much"),
        ("--busy-io", "1k"),
        ("--direct-connections", "maybe"),
        ("--busy-limit", "-1"),
    ] {
        let run = Run::new().to("127.0.0.1:1").option(option, value);
        let (log, code) = run.fails();
        assert_eq!(code, 64, "{log}");
        assert!(log.contains(option), "{log}");
    }
}
