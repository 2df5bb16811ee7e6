//! Parsing of the command line and of variables.

use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::support::{HookService, Place, Run, Wakeport, throughout};

const USAGE: i32 = 64;

/// Exits with a usage error in one line that contains all of `parts`.
fn refused(run: Run, parts: &[&str]) {
    let (log, code) = run.fails();
    assert_eq!(log.lines().count(), 1, "not one line:\n{log}");
    for part in parts {
        assert!(log.contains(part), "no `{part}` in: {log}");
    }
    assert_eq!(code, USAGE, "{log}");
}

fn by_hand() -> Run {
    Run::new().listen(Place::tcp())
}

fn served() -> Run {
    by_hand().to("127.0.0.1:9")
}

#[test]
fn an_invalid_option_gets_one_line_that_names_it() {
    const BOTH: &str = "give only one of `--unit`, hooks and `--exec`";
    let mistakes: Vec<(Run, &[&str])> = vec![
        (by_hand(), &["`--to` is missing", "WAKEPORT_TO="]),
        (served().flag("--cool-down=5"), &["--cool-down"]),
        (served().flag("more"), &["more"]),
        (
            served().cooldown("soon"),
            &["soon", "--cooldown", "`5min 20s`"],
        ),
        (
            served().option("--start-timeout", "5 parsecs"),
            &["5 parsecs", "--start-timeout"],
        ),
        (served().option("--stop-timeout", ""), &["--stop-timeout"]),
        (
            served().option("--drain-timeout", "-1s"),
            &["--drain-timeout"],
        ),
        (
            served().to("127.0.0.1:10"),
            &["two targets are given for every listener", "NAME="],
        ),
        (
            served().to("web=127.0.0.1:1").to("web=127.0.0.1:2"),
            &["two targets are given for web"],
        ),
        (by_hand().to("127.0.0.1:0"), &["127.0.0.1:0"]),
        (
            by_hand().to("service/web"),
            &["`--to service/web` are pods of Kubernetes", "--scale"],
        ),
        (by_hand().to("service/Web"), &["service/Web", "lower-case"]),
        (
            served().option("--scale", "daemonset/web"),
            &["daemonset", "a pod on each node"],
        ),
        (
            served().option("--scale", "job/web"),
            &["job", "runs to its end"],
        ),
        (served().option("--scale", "web"), &["KIND/NAME"]),
        (
            served().option("--namespace", "shop"),
            &["`--namespace` means nothing without `--scale`"],
        ),
        (served().option("--replicas", "0"), &["--replicas"]),
        (
            served().option("--kube-api", "ftp://x"),
            &["--kube-api", "https://HOST:PORT"],
        ),
        (
            served()
                .option("--scale", "deployment/web")
                .option("--unit", "web"),
            &["give only one of `--scale`, `--unit`"],
        ),
        (by_hand().to("127.0.0.1:http"), &["127.0.0.1:http"]),
        (by_hand().to("::1:80"), &["::1:80"]),
        (by_hand().to("@"), &["abstract name"]),
        (
            by_hand().to(format!("/{}", "x".repeat(200))),
            &["107 bytes"],
        ),
        (
            Run::new().to("127.0.0.1:9").listen("example.org:80"),
            &["example.org:80", "in numbers"],
        ),
        (served().option("--ready", "soon"), &["soon", "`banner`"]),
        (
            served().option("--ready", "https://x/"),
            &["https://x/", "http://"],
        ),
        (
            served().option("--unit", "a/b"),
            &["`/` cannot be part of a unit's name"],
        ),
        (
            served().option("--unit", "u".repeat(250)),
            &["a unit's name has 1 to 255 characters"],
        ),
        (
            served().option("--exec", "'open"),
            &["--exec", "a quote is not closed"],
        ),
        (
            served().option("--start-hook", " "),
            &["--start-hook", "no program"],
        ),
        (
            served().option("--max-connections", "0"),
            &["--max-connections"],
        ),
        (served().option("--max-waiting", "many"), &["--max-waiting"]),
        (served().option("--stay", "perhaps"), &["perhaps", "--stay"]),
        (served().option("--log-level", "loud"), &["loud", "debug"]),
        (
            served().option("--unit", "a").option("--start-hook", "b"),
            &[BOTH, "WAKEPORT_UNIT="],
        ),
        (
            served().option("--unit", "a").option("--exec", "b"),
            &[BOTH],
        ),
        (
            served().option("--stop-hook", "a").option("--exec", "b"),
            &[BOTH],
        ),
    ];
    // None of them exits within a quarter of a second.
    thread::scope(|scope| {
        for (run, parts) in mistakes {
            scope.spawn(move || refused(run, parts));
        }
    });
}

#[cfg(not(feature = "kubernetes"))]
#[test]
fn a_build_without_kubernetes_says_which_one_has_it() {
    refused(
        by_hand()
            .to("service/web")
            .option("--scale", "deployment/web"),
        &[
            "`--scale` needs a wakeport that is built with Kubernetes",
            "--features kubernetes",
        ],
    );
}

#[cfg(feature = "kubernetes")]
#[test]
fn options_that_do_not_go_with_a_workload_are_refused_with_the_reason() {
    let scaled = || served().option("--scale", "deployment/web");
    refused(
        scaled().option("--freeze-after", "1min"),
        &["`--freeze-after 1min`", "pods"],
    );
    refused(scaled().flag("--stop-on-exit"), &["`--stop-on-exit`"]);
    refused(
        scaled().option("--scale", "deploy/web"),
        &["`--scale deployment/web` is given twice"],
    );
    refused(
        scaled().option("--kube-credentials", "/x"),
        &["add `--kube-api`"],
    );
}

#[test]
fn an_invalid_variable_gets_one_line_too() {
    refused(
        served().variable("WAKEPORT_COOLDOWN", "soon"),
        &["soon", "--cooldown", "the variable WAKEPORT_COOLDOWN"],
    );
    refused(
        served().variable("WAKEPORT_STAY", "perhaps"),
        &["perhaps", "--stay"],
    );
    refused(
        by_hand().variable("WAKEPORT_TO", "web=127.0.0.1:9 web=127.0.0.1:8"),
        &["two targets are given for web"],
    );
}

#[test]
fn every_option_can_be_a_variable() {
    let stage = HookService::new();
    let (one, two) = (Place::tcp(), Place::tcp());
    let target = &stage.scene().place;
    let wakeport = Run::new()
        .variable(
            "WAKEPORT_TO",
            format!(
                "{target}
  two={target} "
            ),
        )
        .variable("WAKEPORT_LISTEN", format!(" one={one} two={two}"))
        .variable("WAKEPORT_START_HOOK", stage.hook())
        .variable("WAKEPORT_STOP_HOOK", stage.hook())
        .variable("WAKEPORT_COOLDOWN", "infinity")
        .variable("WAKEPORT_STOP_ON_EXIT", "yes")
        .start();
    one.connect().echoes("hello");
    two.connect().echoes("hello");
    wakeport.is("cooling: never stopping");
    wakeport.signal(rustix::process::Signal::TERM);
    stage.reaches("stop", 1);
}

#[test]
fn an_empty_variable_counts_as_unset_and_the_command_line_has_precedence() {
    let stage = HookService::new();
    let front = Place::tcp();
    let run = stage
        .run()
        .listen(&front)
        .cooldown("0")
        .variable("WAKEPORT_COOLDOWN", "1h")
        .variable("WAKEPORT_STOP_TIMEOUT", "")
        .variable("WAKEPORT_UNIT", "")
        .variable("WAKEPORT_EXEC", "")
        .variable("WAKEPORT_USER", "")
        .variable("WAKEPORT_STAY", "")
        .variable("WAKEPORT_READY", "")
        .variable("WAKEPORT_MAX_CONNECTIONS", "")
        .variable("WAKEPORT_LOG_LEVEL", "");
    let wakeport = run.start();
    front.connect().echoes("hello");
    wakeport.is("asleep, 1 served");
}

#[test]
fn a_switch_takes_yes_and_no() {
    let target = Place::tcp();
    let listener = Place::tcp().listen();
    let run = |value: &str| {
        let run = Run::new().to(&target).inherit("web", &listener);
        run.variable("WAKEPORT_STAY", value)
    };
    let mut staying = ["yes", "true", "1", "on"].map(|value| run(value).start());
    let mut ending = ["no", "false", "0", "off"].map(|value| run(value).start());
    let mut overruled = run("yes").option("--stay", "no").start();
    ending.iter_mut().for_each(Wakeport::ends);
    overruled.ends();
    throughout(Duration::from_millis(500), "they stay", || {
        staying.iter_mut().all(Wakeport::is_running)
    });
}

#[test]
fn help_and_version_go_to_stdout() {
    let wakeport = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_wakeport"))
            .args(arguments)
            .output();
        let output = output.expect("the binary");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (code, version, _) = wakeport(&["--version"]);
    assert_eq!(
        (code, version),
        (Some(0), format!("wakeport {}\n", env!("CARGO_PKG_VERSION")))
    );
    let (code, help, _) = wakeport(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(help.contains("run") && !help.contains("child"), "{help}");
    let (code, help, _) = wakeport(&["run", "--help"]);
    assert_eq!(code, Some(0));
    for line in help.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    // Without a command the help is printed as well, but it is an error.
    let (code, _, help) = wakeport(&[]);
    assert_eq!(code, Some(USAGE));
    assert!(help.contains("Usage: wakeport"), "{help}");
}
