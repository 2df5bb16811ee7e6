//! What the checks find, and what is done about the files that are there.

use std::path::Path;
use std::time::Duration;

use super::sandbox::{Filter, Sandbox};
use super::system::{
    Freezer, Holder, Installed, Listening, Permission, Present, Reclaim, ServiceSystem, SocketUnit,
    Subject, System, Unit,
};
use super::unit_files::{Places, Plan, in_words, set_up};
use super::unit_text::{assignment, environment_file, escape};
use super::*;
use crate::config::busy::Percent;
use crate::config::span;

/// `nginx` behind port 80, at 127.0.0.1:8080.
fn nginx() -> Instance {
    Instance {
        name: "nginx".parse().unwrap(),
        config: typed(&["--unit=nginx", "--listen=80", "--to=127.0.0.1:8080"]),
        settings: vec![("WAKEPORT_TO".into(), "127.0.0.1:8080".into())],
        manager: Manager::System,
        standalone: false,
        schedule: schedule::Schedule::default(),
        added: None,
    }
}

/// nginx.service as it should be: it runs, where it is to be found.
fn unit() -> Unit {
    Unit {
        id: "nginx.service".into(),
        load: "loaded".into(),
        active: "active".into(),
        file_state: "disabled".into(),
        kind: "forking".into(),
        restart: "no".into(),
        start_limit_action: "none".into(),
        start_limit_burst: 5,
        start_limit_interval: span::parse("10s").unwrap(),
        start_timeout: span::parse("90s").unwrap(),
        stop_timeout: span::parse("90s").unwrap(),
        ..Unit::default()
    }
}

fn listens(at: &str, holder: Holder) -> Listening {
    Listening {
        at: at.parse().unwrap(),
        holder,
    }
}

/// A machine on which nothing is wrong.
fn system() -> System {
    let own = |load: &str| Unit {
        load: load.into(),
        ..Unit::default()
    };
    System {
        units: Ok(vec![unit()]),
        service: Some(own("loaded")),
        sockets: vec![own("bad-setting")],
        timers: Vec::new(),
        listening: vec![listens(
            "127.0.0.1:8080",
            Holder::Unit("nginx.service".into()),
        )],
        elsewhere: Vec::new(),
        hidden: Vec::new(),
        present: Vec::new(),
        runs_as: "wakeport".into(),
        user: true,
        polkit: true,
        rules_closed: None,
        linger: None,
    }
}

fn plan(instance: &Instance, system: &System) -> Plan {
    let places = Places {
        units: "/units".into(),
        rules: "/rules".into(),
        policies: "/policies".into(),
        configs: "/configs".into(),
        program: None,
    };
    set_up(instance, &places, system, true)
}

fn found(instance: &Instance, system: &System) -> Vec<String> {
    let findings = checks::preflight(instance, system, &plan(instance, system));
    findings
        .iter()
        .map(|finding| format!("{}: {}", finding.level, finding.text))
        .collect()
}

/// What is found when one thing is wrong with the unit: one line, with these words.
#[track_caller]
fn defect(spoil: impl FnOnce(&mut Unit), words: &str) {
    let mut system = system();
    spoil(&mut system.units.as_mut().unwrap()[0]);
    let found = found(&nginx(), &system);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains(words), "no `{words}` in {found:#?}");
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    assert_eq!(found(&nginx(), &system()), Vec::<String>::new());
}

#[test]
fn each_defect_of_the_unit_is_named_with_its_remedy() {
    let text = str::to_owned;
    defect(
        |unit| unit.file_state = text("enabled"),
        "warning: `nginx.service` is enabled, so it starts at boot without any client; `systemctl disable nginx.service`",
    );
    defect(
        |unit| unit.file_state = text("enabled-runtime"),
        "warning: `nginx.service` is enabled by a generator (/run/systemd/generator), or until the next boot; a generator \
         starts it at boot without any client, unless its own configuration says otherwise (a cluster of Debian's \
         PostgreSQL: `manual` in its start.conf)",
    );
    defect(
        |unit| unit.restart = text("always"),
        "warning: `nginx.service` has Restart=always",
    );
    defect(
        |unit| unit.stop_when_unneeded = true,
        "error: `nginx.service` has StopWhenUnneeded=yes",
    );
    defect(
        |unit| unit.kind = text("simple"),
        "note: `nginx.service` is Type=simple",
    );
    defect(
        |unit| unit.kind = text("oneshot"),
        "error: `nginx.service` is Type=oneshot",
    );
    defect(
        |unit| unit.refuse_manual_start = true,
        "error: `nginx.service` has RefuseManualStart=",
    );
    defect(
        |unit| unit.start_limit_action = text("reboot"),
        "warning: `nginx.service` has StartLimitAction=reboot: 5 wakes within 10s",
    );
    defect(
        |unit| unit.start_limit_interval = span::parse("1h").unwrap(),
        "note: `nginx.service` may be started 5 times in 1h",
    );
    defect(
        |unit| unit.start_timeout = span::parse("5min").unwrap(),
        "warning: `nginx.service` may take 5min to start, and wakeport waits 1min 30s; `--start-timeout '5min'`",
    );
    defect(
        |unit| unit.stop_timeout = span::parse("2min").unwrap(),
        "`--stop-timeout '2min'`",
    );
    defect(
        |unit| unit.triggered_by = vec![text("nginx.timer"), text("wakeport@nginx.socket")],
        "warning: `nginx.timer` starts `nginx.service` as well",
    );
    defect(
        |unit| unit.upheld_by = vec![text("multi-user.target")],
        "error: `nginx.service` is started again whenever it stops, by Upholds= of `multi-user.target`",
    );
    defect(
        |unit| unit.load = text("masked"),
        "error: `nginx.service` is masked; `systemctl unmask nginx.service`",
    );
    defect(
        |unit| unit.load = text("not-found"),
        "error: unit `nginx.service` does not exist",
    );
    defect(
        |unit| {
            unit.load = text("bad-setting");
            unit.load_error = text("no\nExecStart=");
        },
        "error: `nginx.service` cannot be loaded (bad-setting: no ExecStart=); `systemd-analyze verify",
    );
    let failed = |result: &str, exit| {
        let (result, active) = (text(result), text("failed"));
        move |unit: &mut Unit| {
            (unit.result, unit.active, unit.exit) = (result, active, exit);
            unit.network = "PrivateNetwork=yes".into();
        }
    };
    defect(
        failed("exit-code", (1, 143)),
        "warning: `nginx.service` has failed the last time (exit-code, status 143); if it ends like this whenever it is \
         stopped, `systemctl edit nginx.service`: SuccessExitStatus=143",
    );
    defect(
        failed("exit-code", (1, 203)),
        "(exit-code, status 203/EXEC); `journalctl -u nginx.service` shows why",
    );
    defect(
        failed("signal", (2, 11)),
        "(signal, signal 11); `journalctl",
    );
    defect(
        failed("timeout", (2, 9)),
        "(timeout, signal 9); it exceeded TimeoutStartSec=, TimeoutStopSec= or RuntimeMaxSec=; `journalctl -u \
         nginx.service` shows which, and `systemctl edit nginx.service` sets a longer one",
    );
    defect(
        |unit| unit.freezer = text("frozen"),
        "warning: `nginx.service` is frozen, so connected clients wait; the next client has it thawed, or `systemctl thaw nginx.service`",
    );
    defect(
        |unit| unit.needs_reload = true,
        "warning: the files of `nginx.service` have changed on disk; `systemctl daemon-reload`",
    );
    defect(
        |unit| unit.kill_mode = text("none"),
        "warning: `nginx.service` has KillMode=none",
    );
    defect(
        |unit| unit.never_killed = true,
        "warning: `nginx.service` has SendSIGKILL=no",
    );
    defect(
        |unit| unit.runtime_max = span::parse("1h").unwrap(),
        "systemd ends it as failed after 1h, under its clients",
    );
    defect(
        |unit| unit.success_action = text("poweroff"),
        "error: `nginx.service` has SuccessAction=poweroff",
    );
    defect(
        |unit| unit.failure_action = text("reboot"),
        "warning: `nginx.service` has FailureAction=reboot",
    );
    defect(
        |unit| unit.required_by = vec![text("backup.service"), text("wakeport@nginx.service")],
        "warning: `nginx.service` is not stopped while `backup.service` runs, which would be stopped along (Requires=, \
         BindsTo=, PropagatesStopTo= or the like); use Wants= instead",
    );
    defect(
        |unit| unit.conflicts = vec![text("apache2.service")],
        "warning: each start of `nginx.service` stops `apache2.service`",
    );
    defect(
        |unit| unit.rivals = vec![text("apache2.service"), text("lighttpd.service")],
        "note: each start of `apache2.service`, `lighttpd.service`, not running now, would stop `nginx.service` under its \
         clients, and the other way round (Conflicts=); remove that line, or `systemctl mask apache2.service lighttpd.service`",
    );
    defect(
        |unit| unit.left_running = vec![text("php.service")],
        "warning: a stop of `nginx.service` leaves `php.service` running; add PartOf=nginx.service",
    );
    defect(
        |unit| unit.remain_after_exit = true,
        "warning: `nginx.service` has RemainAfterExit=yes",
    );
    defect(
        |unit| unit.active = text("inactive"),
        "note: `nginx.service` is not running, so its address was not verified; it must be `127.0.0.1:8080`",
    );
}

#[test]
fn a_service_that_signals_readiness_is_not_reported() {
    let mut system = system();
    system.units.as_mut().unwrap()[0].kind = "simple".into();
    let mut instance = nginx();
    instance.config.services[0].readiness.kind = "banner".parse().unwrap();
    assert_eq!(found(&instance, &system), Vec::<String>::new());
}

#[test]
fn what_has_the_port_is_named() {
    let at = |at: &str, holder: Holder| {
        let mut system = system();
        system.listening.push(listens(at, holder));
        found(&nginx(), &system)
    };
    let itself = at("0.0.0.0:80", Holder::Unit("nginx.service".into()));
    assert_eq!(itself.len(), 1, "{itself:#?}");
    for words in [
        "error: `nginx.service` itself listens on 0.0.0.0:80",
        "another port",
        "a Unix socket",
        "JoinsNamespaceOf=nginx.service",
    ] {
        assert!(itself[0].contains(words), "no `{words}` in {itself:#?}");
    }
    for (holder, words) in [
        (
            Holder::Unit("apache2.service".into()),
            "is in use by `apache2.service`",
        ),
        (
            Holder::Program("python3".into()),
            "is in use by the program `python3`",
        ),
        (
            Holder::User(33),
            "is in use by a process of the user with the ID 33 (run this as root to see which)",
        ),
        (Holder::Unknown, "is in use by an unknown process"),
    ] {
        let found = at("[::]:80", holder);
        assert!(
            found.len() == 1 && found[0].contains(words),
            "no `{words}` in {found:#?}"
        );
    }
    // Our own socket may have it, and others may have others.
    for (place, holder) in [
        ("udp:80", "apache2.service"),
        ("[::]:80", "wakeport@nginx.socket"),
        ("0.0.0.0:81", "apache2.service"),
        ("/run/80", "apache2.service"),
    ] {
        assert_eq!(at(place, Holder::Unit(holder.into())), Vec::<String>::new());
    }
}

#[test]
fn a_service_that_runs_somewhere_else_is_found() {
    let mut system = system();
    system.listening.clear();
    let found = found(&nginx(), &system);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].contains("nothing listens on `127.0.0.1:8080`"),
        "{found:#?}"
    );
}

#[test]
fn what_is_missing_on_the_machine_is_found() {
    let one = |spoil: fn(&mut System), words: &str| {
        let mut system = system();
        spoil(&mut system);
        let found = found(&nginx(), &system);
        assert!(
            found.len() == 1 && found[0].contains(words),
            "no `{words}` in {found:#?}"
        );
    };
    one(
        |system| system.polkit = false,
        "error: polkit is not installed",
    );
    one(
        |system| system.linger = Some(false),
        "`loginctl enable-linger`",
    );
    one(
        |system| system.service.as_mut().unwrap().load = "not-found".into(),
        "`systemd/install`",
    );
    one(
        |system| system.units = Err("no bus".into()),
        "note: cannot reach systemd (no bus), so it was not verified whether `nginx.service` exists",
    );
}

/// The files of an instance as they are when they were written.
fn written(instance: &Instance, system: &System) -> Vec<Present> {
    let changes = plan(instance, system).changes.into_iter();
    let files = changes.map(|change| Present {
        path: change.path,
        text: Ok(change.new.unwrap()),
        access: None,
    });
    files.collect()
}

#[test]
fn only_what_is_not_done_yet_is_done() {
    let instance = nginx();
    let mut system = system();
    let steps = |system: &System| {
        let plan = plan(&instance, system);
        plan.after
            .iter()
            .map(|step| in_words(step))
            .collect::<Vec<_>>()
    };
    let enable = "systemctl enable --now wakeport@nginx.socket";
    assert_eq!(steps(&system), ["systemctl daemon-reload", enable]);

    // As it is afterwards.
    system.present = written(&instance, &system);
    system.sockets = vec![Unit {
        active: "active".into(),
        file_state: "enabled".into(),
        ..Unit::default()
    }];
    assert!(plan(&instance, &system).is_empty());

    // Another address: the socket has to be opened anew.
    let socket = system.present.iter_mut().find(|file| {
        file.path.as_path() == Path::new("/units/wakeport@nginx.socket.d/10-init.conf")
    });
    let text = &mut socket.unwrap().text;
    *text = Ok(text.clone().unwrap().replace("=80", "=81"));
    assert_eq!(
        steps(&system),
        [
            "systemctl daemon-reload",
            "systemctl restart wakeport@nginx.socket"
        ]
    );
}

#[test]
fn what_is_left_beside_a_drop_in_is_removed_and_closes_no_socket() {
    let (instance, mut system) = (nginx(), system());
    system.present = written(&instance, &system);
    system.sockets = vec![Unit {
        active: "active".into(),
        file_state: "enabled".into(),
        ..Unit::default()
    }];
    let drop_in = Path::new("/units/wakeport@nginx.socket.d/10-init.conf");
    let copy = system.present.iter().find(|file| file.path == drop_in);
    let mut copy = copy.unwrap().clone();
    // As an editor leaves it.
    copy.path.set_file_name("10-init.conf~");
    let left = copy.path.clone();
    system.present.push(copy);
    let plan = plan(&instance, &system);
    let gone = plan.changes.iter().filter(|change| change.new.is_none());
    let gone: Vec<_> = gone.map(|change| &change.path).collect();
    assert_eq!(gone, [&left]);
    assert!(plan.before.is_empty(), "{:?}", plan.before);
}

#[test]
fn an_alias_is_allowed_by_its_own_name() {
    let mut system = system();
    system.units.as_mut().unwrap()[0].id = "nginx-full.service".into();
    let plan = plan(&nginx(), &system);
    let rule = plan
        .changes
        .iter()
        .find(|change| change.path.starts_with("/rules"))
        .unwrap();
    assert!(
        rule.new
            .as_ref()
            .unwrap()
            .contains("[\"nginx-full.service\"]")
    );
}

#[test]
fn both_families_of_a_port_can_be_written_out() {
    let sockets = |listen: &[&str]| {
        let mut instance = nginx();
        let listen = listen.iter().map(|text| text.parse().unwrap());
        instance.config.process.listen = listen.collect();
        let changes = plan(&instance, &system()).changes;
        let texts = changes.into_iter().filter_map(|change| change.new);
        let texts = texts.filter(|text| text.contains("[Socket]"));
        texts
            .map(|text| {
                let (_, socket) = text.split_once("[Socket]\n").expect("a section");
                let lines = socket.lines().filter(|line| !line.starts_with('F'));
                lines.map(str::to_owned).collect::<Vec<_>>()
            })
            .collect::<Vec<_>>()
    };
    let only = "BindIPv6Only=ipv6-only";
    let (four, six) = ("ListenStream=0.0.0.0:80", "ListenStream=[::]:80");
    assert_eq!(sockets(&["0.0.0.0:80", "[::]:80"]), [[four, six, only]]);
    assert_eq!(sockets(&["[::]:80", "0.0.0.0:80"]), [[six, four, only]]);
    assert_eq!(
        sockets(&["80", "192.0.2.1:80", "81"]),
        [[
            six,
            "ListenStream=192.0.2.1:80",
            "ListenStream=0.0.0.0:81",
            "ListenStream=[::]:81",
            only
        ]]
    );
    let named = sockets(&["six=[::]:80", "four=0.0.0.0:80"]);
    assert_eq!(named[0], [six, only]);
    assert_eq!(named[1][0], four);
    assert_eq!(sockets(&["80", "0.0.0.0:81"])[0][0], "ListenStream=80");
}

#[test]
fn a_value_is_written_as_systemd_reads_it() {
    for (value, expected) in [
        ("a", "X=a"),
        ("", "X="),
        ("50%", "X=50%%"),
        ("$HOME", "X=$HOME"),
        ("a b", "\"X=a b\""),
        ("it's", "\"X=it's\""),
        ("\"a\" \\ b", "\"X=\\\"a\\\" \\\\ b\""),
        ("a\nb\tc\u{1}", "\"X=a\\nb\\tc\\x01\""),
        ("ü", "\"X=ü\""),
    ] {
        assert_eq!(assignment("X", value), expected);
    }
}

#[test]
fn the_name_of_an_instance_means_its_unit() {
    for (unit, short) in [
        ("nginx.service", "nginx"),
        ("media.target", "media.target"),
        ("media.target.service", "media.target.service"),
        (".service", ".service"),
    ] {
        let unit: UnitName = unit.parse().unwrap();
        assert_eq!(stem(&unit), short);
        assert_eq!(stem(&unit).parse(), Ok(unit));
    }
}

#[test]
fn no_two_listeners_share_a_unit() {
    for (name, part) in [
        ("web", "web"),
        ("my_web", "my_web"),
        ("a b", "a_20b"),
        ("a_20b", "a_5f20b"),
        ("_/", "__2f"),
    ] {
        assert_eq!(escape(name), part);
    }
}

#[test]
fn an_environment_file_is_read_as_systemd_reads_it() {
    let text = "# a comment\n\n; another\nA=1\n B = two words \nC=\"a \\\"b\\\" $c\"\nD='single \\ quotes'\nE=one\\\ntwo\nnothing\nF=a\\ b\n";
    let expected = [
        ("A", "1"),
        ("B", "two words"),
        ("C", "a \"b\" $c"),
        ("D", "single \\ quotes"),
        ("E", "onetwo"),
        ("F", "a b"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(environment_file(text), expected);
}

/// nginx's instance as it should be: asleep, its port open.
fn subject() -> Subject {
    let own = |id: &str| Unit {
        id: id.into(),
        load: "loaded".into(),
        active: "active".into(),
        file_state: "enabled".into(),
        stored: 64,
        ..Unit::default()
    };
    let permission = Permission {
        unit: "nginx.service".into(),
        denied: Ok(Vec::new()),
    };
    let port = SocketUnit {
        name: "wakeport@nginx.socket".into(),
        unit: own("wakeport@nginx.socket"),
        at: vec!["[::]:80".parse().unwrap()],
        listener: "nginx".into(),
        ..SocketUnit::default()
    };
    Subject {
        config: nginx().config,
        manager: Manager::System,
        instance: Some(Installed {
            service: own("wakeport@nginx.service"),
            sockets: vec![port],
            ..Installed::default()
        }),
        services: vec![ServiceSystem {
            units: Ok(vec![unit()]),
            permissions: vec![permission],
            programs: Vec::new(),
            lookups: Vec::new(),
            loops: Vec::new(),
            hidden: Vec::new(),
            idle_cpu: None,
            freezer: None,
            cluster: None,
        }],
        listening: Vec::new(),
        elsewhere: Vec::new(),
        user: "wakeport".into(),
        user_exists: true,
        open_files: 1_048_576,
        polkit: true,
        rules_closed: None,
        linger: None,
    }
}

/// What is found when one thing is wrong: one line, with these words.
#[track_caller]
fn wrong(spoil: impl FnOnce(&mut Subject), words: &str) {
    let mut subject = subject();
    spoil(&mut subject);
    let found = checks::findings(&subject);
    let found: Vec<_> = found
        .iter()
        .map(|it| format!("{}: {}", it.level, it.text))
        .collect();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains(words), "no `{words}` in {found:#?}");
}

/// The same with one that is to be frozen, and has all that takes.
#[track_caller]
fn not_frozen(spoil: impl FnOnce(&mut Unit, &mut Freezer), words: &str) {
    const SLICE: &str = r"system-wakeport\x2dnginx.slice";
    wrong(
        |subject| {
            let ServiceSystem { units, freezer, .. } = &mut subject.services[0];
            let unit = &mut units.as_mut().unwrap()[0];
            unit.slice = SLICE.into();
            unit.before = vec!["wakeport@nginx.service".into()];
            let freezer = freezer.insert(Freezer {
                slices: vec![Unit {
                    id: SLICE.into(),
                    holds: vec!["nginx.service".into()],
                    ..Unit::default()
                }],
                version: "257.13-1".into(),
                permissions: vec![Permission {
                    unit: SLICE.into(),
                    denied: Ok(Vec::new()),
                }],
                reclaim: Some(Reclaim {
                    units: vec![Unit {
                        id: "wakeport-reclaim@nginx.service".into(),
                        load: "loaded".into(),
                        ..Unit::default()
                    }],
                    permissions: vec![Permission {
                        unit: "wakeport-reclaim@nginx.service".into(),
                        denied: Ok(Vec::new()),
                    }],
                    controller: true,
                    kernel: "6.1.0-40-amd64".into(),
                    swap: true,
                }),
            });
            spoil(unit, freezer);
        },
        words,
    );
}

#[test]
fn what_keeps_a_unit_from_being_frozen_is_one_line_with_the_remedy() {
    not_frozen(
        |unit, _| unit.slice = "system.slice".into(),
        "`nginx.service` is in system.slice",
    );
    not_frozen(
        |unit, _| unit.before.clear(),
        "no Before=wakeport@nginx.service",
    );
    let watchdog = |unit: &mut Unit, _: &mut Freezer| unit.watchdog = Duration::from_secs(9);
    not_frozen(watchdog, "`systemctl edit nginx.service`: WatchdogSec=0");
    not_frozen(
        |_, it| it.slices[0].never_frozen = true,
        "control groups of version 2",
    );
    not_frozen(
        |_, it| it.slices[0].default_dependencies = true,
        "DefaultDependencies=no",
    );
    not_frozen(
        |_, it| it.slices[0].holds.push("other.service".into()),
        "`other.service` would be frozen along",
    );
    not_frozen(
        |_, it| it.permissions[0].denied = Ok(vec!["freeze"]),
        "D-Bus and polkit deny to `freeze`",
    );
    not_frozen(
        |_, it| it.permissions[0].denied = Err("run it as root".into()),
        "is not known: run it as root",
    );
}

#[test]
fn what_keeps_memory_from_being_reclaimed_is_one_line_with_the_remedy() {
    let not_reclaimed = |spoil: fn(&mut Reclaim), words| {
        not_frozen(|_, it| spoil(it.reclaim.as_mut().unwrap()), words);
    };
    not_reclaimed(
        |it| it.controller = false,
        "boot with systemd.unified_cgroup_hierarchy=1",
    );
    not_reclaimed(|it| it.kernel = "5.15.0-1".into(), "and this is 5.15.0-1");
    not_reclaimed(
        |it| it.swap = false,
        "drops caches and keeps everything else",
    );
    not_reclaimed(
        |it| it.units[0].load = "not-found".into(),
        "`wakeport-reclaim@nginx.service` is not installed",
    );
    not_reclaimed(
        |it| it.permissions[0].denied = Ok(vec!["start"]),
        "may not be started by wakeport's user",
    );
}

#[test]
fn a_limit_is_proposed_for_units_that_were_seen_idle() {
    let idle = |subject: &mut Subject, cpu| subject.services[0].idle_cpu = Some(Percent(cpu));
    wrong(
        |subject| idle(subject, 30),
        "note: idle, `nginx.service` used 0.03% of a core; `--busy-cpu 1%` would keep the service awake while it computes",
    );
    wrong(|subject| idle(subject, 4_000), "`--busy-cpu 20%`");
    let mut subject = subject();
    idle(&mut subject, 40_000);
    assert_eq!(checks::findings(&subject), Vec::new());
    idle(&mut subject, 30);
    subject.config.services[0].busy.cpu = Some(Percent(5_000));
    assert_eq!(checks::findings(&subject), Vec::new());
}

#[test]
fn a_good_instance_has_no_findings() {
    assert_eq!(checks::findings(&subject()), Vec::new());
}

/// What `wakeport run` makes of these arguments.
fn typed(arguments: &[&str]) -> Config {
    let arguments: Vec<_> = arguments.iter().map(|&word| word.to_owned()).collect();
    crate::cli::test_api::run(&arguments, &[]).unwrap()
}

/// The same, with these options on top of those of `nginx()`.
#[track_caller]
fn filtered(options: &[&str], pulls_in: &str, words: &str) {
    let mut arguments = vec!["--to=127.0.0.1:8080"];
    arguments.extend(options);
    let mut subject = subject();
    subject.config = typed(&arguments);
    let relay = subject.instance.as_mut().unwrap();
    relay.service.pulls_in = vec!["sysinit.target".into(), pulls_in.into()];
    let found = checks::findings(&subject);
    let found: Vec<_> = found
        .iter()
        .map(|it| format!("{}: {}", it.level, it.text))
        .collect();
    match words {
        "" => assert_eq!(found, Vec::<String>::new(), "{options:?}"),
        _ => assert!(
            found.len() == 1 && found[0].contains(words),
            "{options:?}: {found:#?}"
        ),
    }
}

#[test]
fn filters_that_come_too_late_are_told() {
    let both = "warning: `wakeport@nginx.service` pulls in `nginx.service` (Wants= or the like), so systemd starts both at once, before ";
    let unit = "--unit=nginx";
    for (filter, named) in [
        ("--allow=::1", "`--allow` or `--deny` can"),
        ("--deny=::1", "`--allow` or `--deny` can"),
        ("--accept-proxy", "`--accept-proxy` can"),
        ("--wake-on-data", "`--wake-on-data` can"),
        ("--wake-rate=6/1h", "`--wake-rate` can"),
    ] {
        filtered(&[unit, filter], "nginx.service", &format!("{both}{named}"));
        filtered(&[unit, filter], "other.service", "");
        filtered(&[unit, filter], "wakeport@nginx.socket", "");
    }
    filtered(&[unit], "nginx.service", "");
    // Without privilege, whatever service it is.
    filtered(&["--deny=::1"], "other.service", "pulls in `other.service`");
    filtered(&["--deny=::1"], "wakeport@nginx.socket", "");
    let all = ["--deny=::1", "--wake-on-data"];
    filtered(
        &all,
        "other.service",
        "before `--allow` or `--deny` and `--wake-on-data` can",
    );

    let banner = ["--ready=banner", unit];
    filtered(&banner, "", "");
    filtered(
        &[&banner[..], &["--wake-on-data"]].concat(),
        "",
        "warning: `--wake-on-data` is for clients that speak first",
    );
}

#[test]
fn init_tells_of_filters_that_come_too_late() {
    let mut instance = nginx();
    let arguments = [
        "--unit=nginx",
        "--listen=80",
        "--to=127.0.0.1:8080",
        "--deny=::1",
    ];
    instance.config = typed(&arguments);
    let mut system = system();
    assert_eq!(found(&instance, &system), Vec::<String>::new());
    system.service.as_mut().unwrap().pulls_in = vec!["nginx.service".into()];
    let found = found(&instance, &system);
    assert!(
        found.len() == 1 && found[0].contains("systemd starts both at once"),
        "{found:?}"
    );
}

#[test]
fn each_thing_that_is_wrong_with_an_instance_is_one_line() {
    fn port(subject: &mut Subject) -> &mut SocketUnit {
        &mut subject.instance.as_mut().unwrap().sockets[0]
    }
    fn service(subject: &mut Subject) -> &mut Unit {
        &mut subject.instance.as_mut().unwrap().service
    }
    wrong(
        |it| port(it).accept = true,
        "error: `wakeport@nginx.socket` has Accept=yes",
    );
    wrong(
        |it| {
            port(it).at.push("0.0.0.0:80".parse().unwrap());
            port(it).unit.active = "failed".into();
        },
        "error: `wakeport@nginx.socket` listens on [::]:80, which takes the IPv4 addresses as well, and these are another \
         listener's; `systemctl edit wakeport@nginx.socket`: BindIPv6Only=ipv6-only",
    );
    wrong(
        |it| port(it).at.push("80".parse().unwrap()),
        "error: `wakeport@nginx.socket` listens on [::]:80 twice",
    );
    wrong(
        |it| port(it).unit.load = "masked".into(),
        "error: `wakeport@nginx.socket` is masked",
    );
    wrong(
        |it| port(it).unit.active = "failed".into(),
        "error: `wakeport@nginx.socket` has failed",
    );
    wrong(
        |it| port(it).unit.active = "inactive".into(),
        "`systemctl start wakeport@nginx.socket`",
    );
    wrong(
        |it| port(it).unit.file_state = "disabled".into(),
        "`systemctl enable wakeport@nginx.socket`",
    );
    wrong(
        |it| port(it).others.push("`x` (FIFO)".into()),
        "error: `wakeport@nginx.socket` listens on `x` (FIFO)",
    );
    wrong(
        |it| service(it).active = "failed".into(),
        "`journalctl -u wakeport@nginx.service`",
    );
    wrong(
        |it| {
            let unit = service(it);
            (unit.active, unit.sub) = ("activating".into(), "auto-restart".into());
            (unit.result, unit.exit, unit.restarts) = ("exit-code".into(), (1, 238), 7);
        },
        "error: `wakeport@nginx.service` cannot start, and its clients wait; it was restarted 7 times (exit-code, status \
         238/STATE_DIRECTORY): its StateDirectory= cannot be made",
    );
    wrong(
        |it| {
            let unit = service(it);
            (unit.active, unit.restarts) = ("activating".into(), 7);
            (unit.result, unit.exit) = ("watchdog".into(), (2, 6));
        },
        "error: `wakeport@nginx.service` fails again and again, and its clients wait; it was restarted 7 times (watchdog, \
         signal 6); `journalctl -u wakeport@nginx.service` shows why",
    );
    wrong(
        |it| {
            service(it).active = "failed".into();
            service(it).exit = (1, 217);
        },
        "error: `wakeport@nginx.service` cannot start (, status 217/USER): its User= does not exist",
    );
    wrong(
        |it| service(it).restarts = 1,
        "note: `wakeport@nginx.service` has failed and was restarted once since its first client",
    );
    wrong(
        |it| {
            service(it).id = format!("wakeport@{}.service", "n".repeat(183));
            service(it).private_tmp = true;
        },
        "with PrivateTmp=yes a unit's name has at most 199 bytes",
    );
    wrong(
        |it| service(it).needs_reload = true,
        "`systemctl daemon-reload`",
    );
    wrong(
        |it| service(it).bound_to = vec!["nginx.service".into()],
        "so each stop of `nginx.service` stops wakeport as well",
    );
    wrong(
        |it| it.services[0].units.as_mut().unwrap()[0].id = "wakeport@nginx.service".into(),
        "would wake itself",
    );
    wrong(
        |it| it.user_exists = false,
        "error: user `wakeport` (User= of `wakeport@nginx.service`) does not exist",
    );
    wrong(|it| it.polkit = false, "error: polkit is not installed");
    wrong(
        |it| it.services[0].permissions[0].denied = Ok(vec!["stop"]),
        "user `wakeport` is not authorized by polkit to `stop` `nginx.service`; `wakeport init nginx … --write`",
    );
    wrong(
        |it| it.services[0].permissions[0].denied = Err("why not".into()),
        "note: whether user `wakeport` is authorized by polkit to start and stop `nginx.service` is not known: why not",
    );
    wrong(
        |it| it.services[0].units = Err("no bus".into()),
        "error: cannot reach systemd (no bus)",
    );
    wrong(
        |it| it.open_files = 100,
        "warning: the limit of 100 open files is enough for 18 clients at once",
    );
    wrong(
        |it| service(it).stored = 0,
        "warning: `wakeport@nginx.service` has FileDescriptorStoreMax=0, so a restart of it cuts connections; \
         `systemctl edit wakeport@nginx.service`: FileDescriptorStoreMax=64",
    );
    wrong(
        |it| it.config.process.limits.max_connections = Some(100_000),
        "has FileDescriptorStoreMax=64, so a restart of it cuts connections; \
         `systemctl edit wakeport@nginx.service`: FileDescriptorStoreMax=100",
    );
    wrong(
        |it| it.services[0].lookups = vec![("db:1".parse().unwrap(), Ok(Vec::new()))],
        "target `db:1` has no address",
    );
    wrong(
        |it| {
            it.services[0].loops =
                vec![("db:1".parse().unwrap(), vec!["wakeport@b.service".into()])];
        },
        "loops back through `wakeport@b.service`",
    );
    wrong(|it| it.linger = Some(false), "`loginctl enable-linger`");
    wrong(
        |it| it.services[0].programs = vec![("stop hook", "x".into(), Err("no".into()))],
        "the stop hook `x` cannot be run by user `wakeport`: no",
    );
    wrong(
        |it| it.instance.as_mut().unwrap().unread = vec![("/x".into(), "no".into())],
        "note: `/x` was not read (no)",
    );
}

#[test]
fn a_name_that_is_too_long_for_a_control_socket_is_one_line() {
    // Of the 107 bytes of a path 22 are those of its folder.
    for (length, is_told) in [(85, false), (86, true)] {
        let name = "n".repeat(length);
        let mut subject = subject();
        let installed = subject.instance.as_mut().unwrap();
        installed.service.id = format!("wakeport@{name}.service");
        installed.sockets[0].name = format!("wakeport@{name}.socket");
        let found = checks::findings(&subject);
        let about = |finding: &&Finding| finding.text.starts_with("`wakeport-control@nnn");
        let told: Vec<_> = found.iter().filter(about).collect();
        assert_eq!(told.len(), usize::from(is_told), "{found:#?}");
        let mut instance = nginx();
        instance.name = name.parse().unwrap();
        let system = system();
        let before = checks::preflight(&instance, &system, &plan(&instance, &system));
        assert_eq!(before.iter().find(about), told.first().copied());
    }
}

/// What is found of an instance with a UDP port, and these options.
fn datagrams(port: &str, options: &[&str], spoil: impl FnOnce(&mut Subject)) -> Vec<String> {
    let mut arguments = vec!["--unit=nginx", "--to=127.0.0.1:8080"];
    arguments.extend(options);
    let mut subject = subject();
    subject.config = typed(&arguments);
    let installed = subject.instance.as_mut().unwrap();
    let mut socket = installed.sockets[0].clone();
    (socket.name, socket.listener) = ("wakeport@nginx-udp.socket".into(), "udp".into());
    socket.at = vec![format!("udp:{port}").parse().unwrap()];
    socket.receive_buffer = 4 << 20;
    installed.sockets.push(socket);
    spoil(&mut subject);
    let found = checks::findings(&subject);
    found
        .iter()
        .map(|it| format!("{}: {}", it.level, it.text))
        .collect()
}

#[test]
fn what_is_wrong_with_a_udp_port_is_one_line() {
    let nothing = |_: &mut Subject| ();
    assert_eq!(datagrams("8000", &[], nothing), Vec::<String>::new());
    assert_eq!(
        datagrams("19132", &["--udp-wake=raknet"], nothing),
        Vec::<String>::new()
    );
    assert_eq!(
        datagrams("19132", &["--udp-wake=05,18+"], nothing),
        Vec::<String>::new()
    );
    let one = |found: Vec<String>, words: &str| {
        assert!(
            found.len() == 1 && found[0].contains(words),
            "no `{words}` in {found:#?}"
        );
    };
    one(
        datagrams("19132", &[], nothing),
        "note: port 19132 of listener `udp` is that of a protocol for which there is `--udp-wake raknet`",
    );
    one(
        datagrams("51820", &["--udp-wake=quic"], nothing),
        "warning: port 51820 of listener `udp` is that of a protocol for which there is `--udp-wake wireguard`, and with `--udp-wake quic`",
    );
    one(
        datagrams("8000", &["--to=udp:192.0.2.1:8000"], nothing),
        "note: whether anything takes datagrams on `udp:192.0.2.1:8000` was not verified",
    );
    // Services of hooks: with streams as well they can be asked, and without a stop hook there is nothing to know.
    let hooks = |options: &[&str]| {
        datagrams("8000", &[], |subject| {
            subject.config = typed(options);
            subject.services[0].units = Ok(Vec::new());
            subject.services[0].permissions.clear();
            subject.instance.as_mut().unwrap().sockets.remove(0);
        })
    };
    let (start, stop) = ("--start-hook=/bin/true", "--stop-hook=/bin/true");
    let to = "--to=udp:127.0.0.1:8001";
    one(
        hooks(&[start, stop, to]),
        "note: whether the service runs cannot be asked: hooks start it",
    );
    assert_eq!(hooks(&[start, to]), Vec::<String>::new());
    assert_eq!(
        hooks(&[start, stop, "--to=127.0.0.1:8001"]),
        Vec::<String>::new()
    );
    one(
        datagrams("8000", &["--http"], nothing),
        "error: listener `udp` takes datagrams, and `--http` is about streams",
    );
    one(
        datagrams("8000", &["--send-proxy=v2"], nothing),
        "`--send-proxy` is about streams",
    );
    one(
        datagrams("8000", &["--to=udp:127.0.0.1:8000"], nothing),
        "error: target `udp:127.0.0.1:8000` is our own listener `udp` on udp:[::]:8000",
    );
    one(
        datagrams("8000", &[], |subject| {
            subject.instance.as_mut().unwrap().sockets[1].receive_buffer = 0;
        }),
        "warning: `wakeport@nginx-udp.socket` has the kernel's receive buffer",
    );
    one(
        datagrams("8000", &[], |subject| {
            let installed = subject.instance.as_mut().unwrap();
            installed.sockets[1].others = vec!["`/run/x` (Datagram)".into()];
        }),
        "error: `wakeport@nginx-udp.socket` listens on `/run/x` (Datagram), and wakeport relays streams of TCP and Unix sockets, and datagrams of UDP",
    );
    one(
        datagrams("8000", &[], |subject| {
            let installed = subject.instance.as_mut().unwrap();
            installed.sockets[1].unit.active = "inactive".into();
            // A stream of the same port is no matter.
            subject.listening = vec![listens("0.0.0.0:8000", Holder::Unknown)];
        }),
        "error: `wakeport@nginx-udp.socket` is not started",
    );
    let found = datagrams("8000", &[], |subject| {
        let installed = subject.instance.as_mut().unwrap();
        installed.sockets[1].unit.active = "inactive".into();
        subject.listening = vec![listens("udp:0.0.0.0:8000", Holder::Program("dig".into()))];
    });
    assert!(
        found
            .iter()
            .any(|line| line.contains("udp:0.0.0.0:8000 is in use by the program `dig`")),
        "{found:#?}"
    );
    // Without a listener for datagrams.
    let none = |options: &[&str]| {
        datagrams("8000", options, |subject| {
            subject.instance.as_mut().unwrap().sockets.truncate(1);
        })
    };
    one(
        none(&["--udp-wake=quic"]),
        "warning: `--udp-wake quic` is about datagrams, and there is no listener for them",
    );
    one(
        none(&["--to=udp:127.0.0.1:53"]),
        "warning: target `udp:127.0.0.1:53` is for datagrams, and there is no listener for them",
    );
}

#[test]
fn one_name_is_not_for_streams_and_for_datagrams() {
    let mut instance = nginx();
    instance.config = typed(&[
        "--listen=web=80",
        "--listen=web=udp:80",
        "--to=127.0.0.1:8080",
    ]);
    // The first one has the socket of the instance's own name.
    assert_eq!(instance.unwritable(), None);
    instance.config = typed(&[
        "--listen=80",
        "--listen=web=81",
        "--listen=web=udp:80",
        "--to=127.0.0.1:8080",
    ]);
    let why = instance.unwritable().expect("it cannot be written");
    assert!(
        why.starts_with("`wakeport@nginx-web.socket` would be for streams and for datagrams"),
        "{why}"
    );
}

#[test]
fn a_target_that_the_sandbox_refuses_is_named_with_the_setting_and_the_remedy() {
    fn sandbox(it: &mut Subject) -> &mut Sandbox {
        &mut it.instance.as_mut().unwrap().service.sandbox
    }
    fn filter(unit: &str, allow: &[&str], deny: &[&str]) -> Filter {
        let networks = |words: &[&str]| words.iter().map(|word| word.parse().unwrap()).collect();
        Filter {
            unit: unit.into(),
            allow: networks(allow),
            deny: networks(deny),
        }
    }
    let selection = |only, words: &[&str]| (only, words.iter().map(|&it| it.to_owned()).collect());
    let refused = "error: `wakeport@nginx.service` may not connect to target `127.0.0.1:8080`";
    let edit = "`systemctl edit wakeport@nginx.service`";
    let families =
        format!("{refused} (RestrictAddressFamilies=); {edit}: RestrictAddressFamilies=AF_INET");
    wrong(
        |it| sandbox(it).families = selection(true, &["AF_INET6", "AF_UNIX"]),
        &families,
    );
    wrong(
        |it| sandbox(it).families = selection(false, &["AF_INET"]),
        &families,
    );
    wrong(
        |it| sandbox(it).interfaces = selection(false, &["lo"]),
        &format!("{refused} (RestrictNetworkInterfaces=); {edit}: RestrictNetworkInterfaces=lo"),
    );
    wrong(
        |it| sandbox(it).filters = vec![filter("", &[], &["any"])],
        &format!("{refused} (IPAddressDeny=); {edit}: IPAddressAllow=127.0.0.1"),
    );
    // What a slice denies only that slice, or one above it, can allow.
    wrong(
        |it| {
            sandbox(it).filters = vec![
                filter("", &["127.0.0.1"], &[]),
                filter("app.slice", &[], &["localhost"]),
                filter("-.slice", &[], &[]),
            ];
        },
        &format!(
            "{refused} (IPAddressDeny= of `app.slice`); `systemctl edit app.slice`: IPAddressAllow=127.0.0.1"
        ),
    );
    wrong(
        |it| {
            it.config = typed(&["--unit=nginx", "--to=/run/app.sock"]);
            sandbox(it).families = selection(true, &["AF_INET", "AF_INET6"]);
        },
        "may not connect to target `/run/app.sock` (RestrictAddressFamilies=); \
         `systemctl edit wakeport@nginx.service`: RestrictAddressFamilies=AF_UNIX",
    );
    wrong(
        |it| sandbox(it).families = selection(true, &["AF_INET"]),
        "error: `wakeport@nginx.service` may not connect to the bus (RestrictAddressFamilies=); \
         `systemctl edit wakeport@nginx.service`: RestrictAddressFamilies=AF_UNIX",
    );
    let named = |it: &mut Subject, ips: &[&str]| {
        it.config = typed(&["--unit=nginx", "--to=db:5432"]);
        let at = |ip: &&str| std::net::SocketAddr::new(ip.parse().unwrap(), 5432);
        let ips = ips.iter().map(at);
        it.services[0].lookups = vec![("db:5432".parse().unwrap(), Ok(ips.collect()))];
        let sandbox = sandbox(it);
        sandbox.filters = vec![filter("", &[], &["192.0.2.0/24", "2001:db8::/32"])];
        sandbox.interfaces = selection(true, &["eth0"]);
    };
    wrong(
        |it| named(it, &["2001:db8::1", "192.0.2.1"]),
        "target `db:5432` (IPAddressDeny=); `systemctl edit wakeport@nginx.service`: IPAddressAllow=2001:db8::1",
    );

    let found = |spoil: &dyn Fn(&mut Subject)| {
        let mut subject = subject();
        spoil(&mut subject);
        checks::findings(&subject)
    };
    // One address that is left is enough. What is allowed weighs more than any denial.
    for spoil in [
        &|it: &mut Subject| named(it, &["2001:db8::1", "198.51.100.1"]) as _,
        &|it: &mut Subject| {
            sandbox(it).filters = vec![
                filter("", &[], &["any", "127.0.0.1"]),
                filter("system.slice", &["127.0.0.0/8"], &[]),
            ];
        },
        &|it: &mut Subject| {
            sandbox(it).families = selection(true, &["AF_INET", "AF_UNIX"]);
            sandbox(it).interfaces = selection(true, &["lo"]);
        },
    ] as [&dyn Fn(&mut Subject); 3]
    {
        assert_eq!(found(spoil), Vec::new());
    }
}

#[test]
fn a_target_in_another_network_is_named() {
    fn service(it: &mut Subject) -> &mut Unit {
        &mut it.instance.as_mut().unwrap().service
    }
    fn woken(it: &mut Subject) -> &mut Unit {
        &mut it.services[0].units.as_mut().unwrap()[0]
    }
    let private = || "PrivateNetwork=yes".to_owned();
    let at_path = || "NetworkNamespacePath=/run/netns/x".to_owned();
    wrong(
        |it| woken(it).network = private(),
        "error: `nginx.service` has a network of its own (PrivateNetwork=yes), where `wakeport@nginx.service` is not; \
         give both PrivateNetwork=yes, and JoinsNamespaceOf= of each other",
    );
    let other = "(NetworkNamespacePath=/run/netns/x), where";
    wrong(
        |it| service(it).network = at_path(),
        &format!(
            "warning: `wakeport@nginx.service` has a network of its own {other} `nginx.service` is not; give both the same NetworkNamespacePath="
        ),
    );
    wrong(|it| woken(it).network = at_path(), other);
    wrong(
        |it| (service(it).network, woken(it).network) = (at_path(), private()),
        "error: `nginx.service` has a network of its own (PrivateNetwork=yes), where",
    );
    let mut same = subject();
    (service(&mut same).network, woken(&mut same).network) = (at_path(), at_path());
    assert_eq!(checks::findings(&same), Vec::new());
    // It may be reached from outside.
    let mut outside = subject();
    woken(&mut outside).network = at_path();
    outside.config = typed(&["--unit=nginx", "--to=192.0.2.1:80"]);
    assert_eq!(checks::findings(&outside), Vec::new());
}

#[test]
fn the_deepest_mount_decides_what_is_seen_and_nothing_is_below_an_inaccessible_path() {
    let mut sandbox = Sandbox::installed();
    let text = ("it is hidden", "remove it");
    sandbox.mount("/", Some("/srv/root".into()), false, text);
    sandbox.mount("/run", None, false, text);
    sandbox.mount("/run/app", Some("/run/app".into()), false, text);
    sandbox.mount("/run/app/private", None, true, text);
    sandbox.mount("/run/app/private/more", Some("/more".into()), false, text);
    sandbox.mount("/tmp", Some("/srv/tmp".into()), false, text);
    for (path, at) in [
        ("/srv/app.sock", "/"),
        ("/run/app.sock", "/run"),
        ("/run/app/app.sock", "/run/app"),
        ("/run/app/private/app.sock", "/run/app/private"),
        ("/run/app/private/more/app.sock", "/run/app/private"),
        ("/home/app.sock", "/home"),
        ("/homes/app.sock", "/"),
    ] {
        let mount = sandbox.above(Path::new(path)).unwrap();
        assert_eq!(mount.at, Path::new(at), "{path}");
    }
    let mount = sandbox.above(Path::new("/tmp/app.sock")).unwrap();
    assert_eq!(mount.from.as_deref(), Some(Path::new("/srv/tmp")));
    let mounts = Sandbox::installed();
    assert_eq!(mounts.above(Path::new("/run/app.sock")), None);
}

/// `web` with two services: nginx, and docs.
const FILE: &str = "[service.nginx]\nlistener = \"web\"\nto = \"127.0.0.1:8080\"\n\
                    [service.docs]\nlistener = \"docs\"\nto = \"127.0.0.1:8081\"\n";

fn from_file(text: &str) -> Config {
    crate::cli::test_api::file(text.as_bytes(), &[]).unwrap()
}

/// An installed instance with a file, and sockets with these names.
fn web(text: &str, listeners: &[&str]) -> Subject {
    let mut subject = subject();
    subject.config = from_file(text);
    let installed = subject.instance.as_mut().unwrap();
    installed.service.id = "wakeport@web.service".into();
    let socket = installed.sockets[0].clone();
    let named = |(index, name): (usize, &&str)| SocketUnit {
        listener: (*name).to_owned(),
        at: vec![format!("[::]:8{index}").parse().unwrap()],
        ..socket.clone()
    };
    installed.sockets = listeners.iter().enumerate().map(named).collect();
    let service = subject.services[0].clone();
    let services = subject.config.services.iter().map(|config| {
        let mut service = service.clone();
        let name = config.units()[0].to_string();
        for permission in &mut service.permissions {
            permission.unit.clone_from(&name);
        }
        service.units.as_mut().unwrap()[0].id = name;
        service
    });
    subject.services = services.collect();
    subject
}

/// What is found, below the name of the instance.
fn verified(subject: &Subject) -> Vec<String> {
    let findings = checks::findings(subject);
    let findings = findings.iter().map(|it| it.under("wakeport@web"));
    findings
        .map(|it| format!("{}: {}", it.level, it.text))
        .collect()
}

#[track_caller]
fn one(found: &[String], words: &str) {
    assert!(
        found.len() == 1 && found[0].contains(words),
        "no `{words}` in {found:#?}"
    );
}

#[test]
fn each_service_of_a_file_is_verified_by_its_name() {
    let both = ["web", "docs"];
    assert_eq!(verified(&web(FILE, &both)), Vec::<String>::new());
    one(
        &verified(&web(FILE, &["web"])),
        "error: wakeport@web: service `docs` has the listener `docs`, and no socket is called so",
    );
    one(
        &verified(&web(FILE, &["web", "docs", "more"])),
        "error: wakeport@web: listener `more` belongs to no service",
    );
    let mut subject = web(FILE, &both);
    // In the order of their names: docs, nginx.
    let unit = &mut subject.services[1].units.as_mut().unwrap()[0];
    unit.start_timeout = span::parse("5min").unwrap();
    one(
        &verified(&subject),
        "warning: web/nginx: `nginx.service` may take 5min to start, and wakeport waits 1min 30s; `start-timeout '5min'`",
    );
    let mut subject = web(FILE, &both);
    subject.services[0].permissions[0].denied = Ok(vec!["start"]);
    one(
        &verified(&subject),
        "error: web/docs: user `wakeport` is not authorized by polkit to `start` `docs.service`; `wakeport init web … --write`",
    );
    let mut subject = web(FILE, &both);
    let installed = subject.instance.as_mut().unwrap();
    installed.closed = Some(("/etc/wakeport/web.toml".into(), "its mode is 600".into()));
    one(
        &verified(&subject),
        "error: wakeport@web: `/etc/wakeport/web.toml` cannot be read by the user of `wakeport@web.service`: its mode is 600",
    );
    one(
        &verified(&web(&FILE.replace("8081", "8080"), &both)),
        "warning: web/nginx: target `127.0.0.1:8080` is that of the service `docs` as well",
    );
    one(
        &verified(&web(&FILE.replace("8081", "80"), &both)),
        "error: web/docs: target `127.0.0.1:80` is our own listener `web`",
    );
}

#[test]
fn a_unit_that_another_instance_wakes_is_an_error() {
    let elsewhere = |unit: &str| {
        vec![system::Elsewhere {
            unit: unit.into(),
            instance: "wakeport@media.service".into(),
        }]
    };
    let words = "`nginx.service` is woken by `wakeport@media.service` as well";
    let mut subject = web(FILE, &["web", "docs"]);
    subject.elsewhere = elsewhere("nginx.service");
    one(&verified(&subject), &format!("error: web/nginx: {words}"));
    subject.elsewhere = elsewhere("other.service");
    assert_eq!(verified(&subject), Vec::<String>::new());
    // By its own name.
    subject.elsewhere = elsewhere("nginx-full.service");
    subject.services[1].units.as_mut().unwrap()[0].id = "nginx-full.service".into();
    one(&verified(&subject), &format!("error: web/nginx: {words}"));

    let mut system = system();
    system.elsewhere = elsewhere("nginx.service");
    let found = found(&nginx(), &system);
    one(&found, &format!("error: {words}"));
    one(&found, "`wakeport init media --remove`");
}

#[test]
fn one_rule_authorizes_all_units_of_a_file() {
    let mut instance = Instance {
        name: "web".parse().unwrap(),
        config: from_file(FILE),
        settings: Vec::new(),
        ..nginx()
    };
    let listen = ["web=80", "docs=81"].map(|text| text.parse().unwrap());
    instance.config.process.listen = listen.to_vec();
    let mut system = system();
    let docs = Unit {
        id: "docs.service".into(),
        ..unit()
    };
    system.units = Ok(vec![docs, unit()]);
    system.listening.push(listens(
        "127.0.0.1:8081",
        Holder::Unit("docs.service".into()),
    ));
    assert_eq!(found(&instance, &system), Vec::<String>::new());
    let changes = plan(&instance, &system).changes;
    let rule = changes.iter().find(|it| it.path.starts_with("/rules"));
    let rule = rule.and_then(|rule| rule.new.as_ref()).unwrap();
    assert!(
        rule.contains("[\"docs.service\", \"nginx.service\"]"),
        "{rule}"
    );
    let variables = changes.iter().filter_map(|it| it.new.as_ref());
    for text in variables {
        assert!(!text.contains("Environment="), "{text}");
    }
}

#[test]
fn the_variables_of_other_instances_are_read_from_their_files() {
    let file = |path: &str, text: &str| Present {
        path: path.into(),
        text: Ok(text.into()),
        access: None,
    };
    let present = [
        file(
            "/u/wakeport@a.socket.d/10-init.conf",
            "[Socket]\nListenStream=1\n",
        ),
        file(
            "/u/wakeport@a-more.socket.d/10-init.conf",
            "[Socket]\nListenStream=2\nService=wakeport@a.service\n",
        ),
        file(
            "/u/wakeport@a.service.d/10-init.conf",
            "[Service]\nEnvironment=WAKEPORT_UNIT=\nEnvironment=\"WAKEPORT_EXEC=50%% of %i \\\"x\\\"\" B=1\n",
        ),
        file(
            "/u/wakeport@b.service",
            "[Service]\nExecStart=wakeport run\n",
        ),
        file("/rules/50-wakeport-c.rules", ""),
    ];
    let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let found = unit_files::variables(&present, Manager::System);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(
        found["a"],
        [
            ("WAKEPORT_UNIT", "a"),
            ("WAKEPORT_CONFIG", "-%E/wakeport/a.toml"),
            ("WAKEPORT_UNIT", ""),
            ("WAKEPORT_EXEC", "50% of a \"x\""),
            ("B", "1"),
        ]
        .map(pair)
    );
    assert_eq!(found["b"][0], pair(("WAKEPORT_UNIT", "b")));
}
