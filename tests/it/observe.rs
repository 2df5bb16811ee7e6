//! The record of an instance, `wakeport status`, and the metrics.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::repository::{repo, run, text};
use crate::support::{HookService, Place, Run, Wakeport, directory, soon, until};

/// An instance with its record here.
struct Kept {
    dir: TempDir,
    stage: HookService,
    front: Place,
}

impl Kept {
    fn new() -> Self {
        Self {
            dir: directory(),
            stage: HookService::new(),
            front: Place::tcp(),
        }
    }

    fn run(&self) -> Run {
        let run = self.stage.run().listen(&self.front);
        run.option("--name", "app")
            .option("--state-dir", self.dir.path().display())
    }

    fn status(&self, words: &[&str]) -> Output {
        status(self.dir.path(), words)
    }

    /// The only instance, as `--json` shows it.
    fn seen(&self) -> Value {
        let output = self.status(&["--json"]);
        let seen: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(seen["version"], 1);
        assert_eq!(seen["problems"], Value::Array(Vec::new()));
        seen["instances"].get(0).cloned().unwrap_or_default()
    }

    fn comes_to(&self, what: &str, condition: impl Fn(&Value) -> bool) {
        until(what, || condition(&self.seen()));
    }

    fn is(&self, state: &str) {
        self.comes_to(state, |seen| seen["state"] == state);
    }
}

fn status(dir: &Path, words: &[&str]) -> Output {
    let output = command(&["status", "--state-dir"])
        .arg(dir)
        .args(words)
        .output();
    output.expect("the binary")
}

pub(crate) fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wakeport"));
    command.args(words).env_clear().env("TZ", "UTC");
    command.stdin(Stdio::null());
    command
}

#[test]
fn status_knows_an_instance_awake_and_asleep() {
    let kept = Kept::new();
    let mut wakeport = kept.run().cooldown("100ms").start();
    let client = kept.front.connect();
    client.echoes("hello");
    kept.is("awake");
    let seen = kept.seen();
    assert_eq!(seen["clients"]["active"], 1);
    assert_eq!(seen["wakes"]["total"], 1);
    drop(client);
    kept.comes_to("asleep again", |seen| {
        seen["state"] == "asleep" && seen["sleeps"] == 1
    });
    wakeport.signal(Signal::TERM);
    wakeport.ends();

    let seen = kept.seen();
    assert_eq!(seen["state"], "asleep");
    assert_eq!(seen["clients"]["served"], 1);
    assert_eq!(seen["bytes"]["up"], "hello".len());
    assert_eq!(seen["failures"], serde_json::json!({}));
    assert!(
        seen["asleep_share"]
            .as_f64()
            .is_some_and(|share| share > 0.0)
    );
    // In a pipe it is plain lines, which fit in 80 columns.
    let table = text(&kept.status(&[]));
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(
        lines[0].starts_with("NAME") && lines[1].starts_with("app  "),
        "{table}"
    );
    assert!(
        lines.iter().all(|line| line.chars().count() <= 80),
        "{table}"
    );
    assert!(!table.contains('\x1b'), "{table}");
}

#[test]
fn every_field_of_the_json_is_documented() {
    let kept = Kept::new();
    let _wakeport = kept.run().start();
    kept.is("asleep");
    let docs = fs::read_to_string(repo("docs/observing.md")).expect("a file of ours");
    let (_, rest) = docs.split_once("## The JSON").expect("a chapter");
    let chapter = rest.split("\n## ").next().unwrap_or_default();
    let mut undocumented = Vec::new();
    let mut look = |fields: &Value| {
        for name in fields.as_object().expect("an object").keys() {
            if !chapter.contains(&format!("`{name}`")) {
                undocumented.push(name.clone());
            }
        }
    };
    let seen = kept.seen();
    look(&seen);
    for part in ["clients", "bytes", "wakes"] {
        look(&seen[part]);
    }
    assert!(undocumented.is_empty(), "{undocumented:?}");
}

#[test]
fn counters_continue_in_the_next_process() {
    let kept = Kept::new();
    for lives in 1..=3 {
        let mut wakeport = kept.run().cooldown("10ms").start();
        kept.front.connect().echoes("hello");
        kept.comes_to("put to sleep", |seen| seen["sleeps"] == lives);
        wakeport.signal(Signal::TERM);
        wakeport.ends();
    }
    let seen = kept.seen();
    assert_eq!(seen["wakes"]["total"], 3);
    assert_eq!(seen["clients"]["served"], 3);
}

#[test]
fn after_sigkill_the_service_is_unattended_and_the_next_instance_adopts_it() {
    let kept = Kept::new();
    let mut wakeport = kept.run().start();
    let client = kept.front.connect();
    client.echoes("hello");
    kept.is("awake");
    wakeport.signal(Signal::KILL);
    wakeport.wait();
    let seen = kept.seen();
    assert_eq!(seen["state"], "unattended");
    assert_eq!(seen["clients"]["active"], 0);
    assert!(text(&kept.status(&[])).contains("wakeport was terminated"));

    let _wakeport = kept.run().start();
    kept.is("cooling");
    let left = kept.seen()["left_seconds"].as_f64();
    assert!(
        left.is_some_and(|left| left > 200.0 && left <= 300.0),
        "{left:?}"
    );
    assert_eq!(kept.seen()["wakes"]["total"], 1);
}

#[test]
fn a_failure_is_shown_with_its_reason() {
    let kept = Kept {
        stage: HookService::direct(crate::support::echo, |_, call| {
            i32::from(call.event == "start")
        }),
        ..Kept::new()
    };
    let _wakeport = kept.run().start();
    kept.front.connect().is_reset();
    kept.is("failed");
    let seen = kept.seen();
    assert_eq!(seen["failures"]["start"], 1);
    assert_eq!(seen["clients"]["refused_failed"], 1);
    assert_eq!(seen["last_failure"]["kind"], "start");
    for words in [&[][..], &["app"]] {
        let shown = text(&kept.status(words));
        assert!(shown.contains("the start hook"), "{shown}");
    }
}

#[test]
fn a_record_is_readable_by_all_and_writable_by_its_owner() {
    let kept = Kept::new();
    // As under systemd, which gives the unit `UMask=0077`.
    let _wakeport = kept
        .run()
        .under(&["/bin/sh", "-c", "umask 077; exec \"$@\"", "sh"])
        .start();
    let records = kept.dir.path().join("instances");
    let mode = |path: &Path| {
        let file = soon("a record", || fs::metadata(path).ok());
        file.permissions().mode() & 0o777
    };
    assert_eq!(mode(&records.join("app.json")), 0o644);
    assert_eq!(mode(&records), 0o755);
}

#[test]
fn a_record_that_cannot_be_written_costs_no_client() {
    let kept = Kept::new();
    fs::write(kept.dir.path().join("instances"), "in the way").expect("a file of ours");
    let wakeport = kept.run().cooldown("10ms").start();
    for count in 1..=3 {
        kept.front.connect().echoes("hello");
        wakeport.is(&format!("asleep, {count} served"));
    }
    wakeport.logs("cannot write");
    assert_eq!(
        wakeport.log().matches("cannot write").count(),
        1,
        "{}",
        wakeport.log()
    );
}

#[test]
fn a_record_that_cannot_be_read_is_put_aside_with_one_line() {
    let kept = Kept::new();
    let records = kept.dir.path().join("instances");
    fs::create_dir(&records).expect("a directory of ours");
    fs::write(records.join("app.json"), "{\"version\": 7}").expect("a file of ours");
    let shown = text(&kept.status(&[]));
    assert!(
        shown.contains("app.json") && shown.contains("version 7"),
        "{shown}"
    );
    let wakeport = kept.run().start();
    wakeport.logs("starting a new record");
    kept.comes_to("a new record", |seen| seen["name"] == "app");
    assert!(records.join("app.json.old").exists());
}

#[test]
fn status_of_an_unknown_name_lists_the_known_ones() {
    let kept = Kept::new();
    assert!(text(&kept.status(&[])).starts_with("no instance"));
    let _wakeport = kept.run().start();
    kept.is("asleep");
    for known in ["app", "--json"] {
        assert!(kept.status(&[known]).status.success());
    }
    let output = kept.status(&["other"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output).contains("no instance has the name `other`; there is `app`"));
}

#[test]
fn each_service_of_an_instance_has_a_row() {
    let kept = Kept::new();
    let mut wakeport = kept.run().start();
    kept.is("asleep");
    wakeport.signal(Signal::TERM);
    wakeport.ends();
    let records = kept.dir.path().join("instances");
    for file in ["web+films.json", "web+docs.json"] {
        fs::copy(records.join("app.json"), records.join(file)).expect("a record");
    }
    let rows = |words: &[&str]| {
        let output = kept.status(&[words, &["--json"]].concat());
        let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let rows = shown["instances"].as_array().expect("a list").clone();
        let names = rows
            .iter()
            .map(|row| row["name"].as_str().expect("a name").to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(rows(&[]), ["app", "web/docs", "web/films"]);
    assert_eq!(rows(&["web"]), ["web/docs", "web/films"]);
    assert_eq!(rows(&["web/films"]), ["web/films"]);
    let table = text(&kept.status(&[]));
    assert!(table.contains("\nweb/films  "), "{table}");
    let all = text(&kept.status(&["web"]));
    assert!(
        all.contains("web/docs - ") && all.contains("\nweb/films - "),
        "{all}"
    );
}

#[test]
fn a_name_that_is_no_file_name_is_rejected() {
    for name in ["", "../etc/passwd", ".hidden", "web+jellyfin"] {
        let run = Run::new().to(Place::tcp()).listen(Place::tcp());
        let (log, code) = run.option("--name", name).fails();
        assert_eq!(code, 64, "{log}");
        assert!(log.contains("--name") && log.lines().count() == 1, "{log}");
    }
}

#[test]
fn a_watch_ends_when_its_reader_closes() {
    let kept = Kept::new();
    let mut watch = command(&["status", "--watch", "--json", "--state-dir"])
        .arg(kept.dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary");
    let mut line = [0; 16];
    let mut pipe = watch.stdout.take().expect("a pipe");
    pipe.read_exact(&mut line).expect("a line");
    assert!(
        line.starts_with(b"{\"version\":1"),
        "one line a look: {line:?}"
    );
    drop(pipe);
    assert!(watch.wait().expect("it is ours").success());
}

#[test]
fn a_watch_gives_the_terminal_back_as_it_was() {
    let kept = Kept::new();
    let _wakeport = kept.run().start();
    kept.is("asleep");
    let binary = env!("CARGO_BIN_EXE_wakeport");
    let dir = kept.dir.path().display();
    // A terminal to write to; the number of the process comes first.
    let line = format!("echo $$; exec {binary} status --watch --state-dir {dir}");
    for no_color in [None, Some("1")] {
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        script.env("TERM", "xterm").env_remove("NO_COLOR");
        script.envs(no_color.map(|value| ("NO_COLOR", value)));
        let mut script = script
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("util-linux");
        let mut out = script.stdout.take().expect("a pipe");
        let mut said = String::new();
        let mut read = |until: &str| {
            while !said.contains(until) {
                let mut bytes = [0; 4096];
                let count = out.read(&mut bytes).expect("a pipe");
                assert!(count > 0, "`{until}` is not in {said:?}");
                said += &String::from_utf8_lossy(&bytes[..count]);
            }
            said.clone()
        };
        let shown = read("asleep");
        let pid = shown.lines().next().and_then(|pid| pid.trim().parse().ok());
        let pid = pid.and_then(Pid::from_raw).expect("a process ID");
        assert!(shown.contains("\x1b[?1049h\x1b[?25l"), "{shown:?}");
        assert_eq!(
            shown.contains("\x1b[34masleep"),
            no_color.is_none(),
            "{shown:?}"
        );
        kill_process(pid, Signal::INT).expect("it runs");
        read("\x1b[?25h\x1b[?1049l");
        assert!(script.wait().expect("it is ours").success());
    }
}

// -- metrics

/// The whole answer to a request.
fn ask(place: &Place, request: &str) -> String {
    let address = place.tcp_address();
    let mut stream = soon("a connection", || TcpStream::connect(address).ok());
    stream.write_all(request.as_bytes()).expect("a peer");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

pub(crate) fn get(place: &Place, path: &str) -> String {
    ask(
        place,
        &format!("GET {path} HTTP/1.1\r\nHost: wakeport\r\n\r\n"),
    )
}

#[test]
fn with_listen_the_metrics_are_served_in_process_and_wake_nothing() {
    let (kept, metrics) = (Kept::new(), Place::tcp());
    let _wakeport = kept.run().option("--metrics", &metrics).start();
    let page = get(&metrics, "/metrics");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(
        page.contains("content-type: text/plain; version=0.0.4"),
        "{page}"
    );
    assert!(
        page.contains("\nwakeport_state{name=\"app\",state=\"asleep\"} 1\n"),
        "{page}"
    );
    assert_eq!(kept.stage.count("start"), 0);
    let client = kept.front.connect();
    client.echoes("hello");
    until("a client in the metrics", || {
        get(&metrics, "/metrics").contains("\nwakeport_clients_active{name=\"app\"} 1\n")
    });
    promtool_has_nothing_to_say(&get(&metrics, "/metrics"));
}

#[test]
fn a_cluster_is_told_whether_it_is_ready_and_alive_and_how_many_clients_there_are() {
    let (kept, metrics) = (Kept::new(), Place::tcp());
    let run = kept.run().option("--metrics", &metrics);
    let mut wakeport = run.option("--drain-delay", "1min").start();
    let says = |path: &str, status: &str, body: &str| {
        let answer = get(&metrics, path);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{path}: {answer}"
        );
        assert!(
            answer.ends_with(&format!("\r\n\r\n{body}\n")),
            "{path}: {answer}"
        );
    };
    says("/readyz", "200 OK", "ok");
    says("/livez", "200 OK", "ok");
    says(
        "/load",
        "200 OK",
        r#"{"waiting":0,"active":0,"connections":0}"#,
    );
    assert_eq!(kept.stage.count("start"), 0);
    let client = kept.front.connect();
    client.echoes("hello");
    let one = r#"{"waiting":0,"active":1,"connections":1}"#;
    until("a client in the load", || {
        get(&metrics, "/load").ends_with(&format!("{one}\n"))
    });
    let post = ask(
        &metrics,
        "POST /readyz HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    );
    assert!(post.contains("405 Method Not Allowed"), "{post}");
    // It ends, and is alive: only new connections are to go elsewhere.
    wakeport.signal(Signal::TERM);
    until("not ready", || {
        get(&metrics, "/readyz").contains("503 Service Unavailable")
    });
    says("/livez", "200 OK", "ok");
    client.echoes("still here");
    wakeport.signal(Signal::TERM);
    wakeport.ends();
}

#[test]
fn the_exporter_is_not_asked_whether_one_process_is_ready() {
    let (dir, place) = (directory(), Place::tcp());
    let mut exporter = Command::new(env!("CARGO_BIN_EXE_wakeport"))
        .args(["exporter", "--listen", &place.to_string(), "--state-dir"])
        .arg(dir.path())
        .stderr(Stdio::null())
        .spawn()
        .expect("wakeport");
    let answer = get(&place, "/readyz");
    let _ = exporter.kill();
    let _ = exporter.wait();
    assert!(answer.contains("404 Not Found"), "{answer}");
}

#[test]
fn invalid_requests_are_answered_in_one_line() {
    let (kept, metrics) = (Kept::new(), Place::tcp());
    let _wakeport = kept.run().option("--metrics", &metrics).start();
    for (request, status) in [
        ("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK"),
        ("GET /metrics HTTP/1.0\r\n\r\n", "200 OK"),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK"),
        (
            "GET /favicon.ico HTTP/1.1\r\nHost: x\r\n\r\n",
            "404 Not Found",
        ),
        (
            "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi",
            "405 Method Not Allowed",
        ),
        (
            "\x16\x03\x01\x02\x00 what is this\r\n\r\n",
            "400 Bad Request",
        ),
    ] {
        let answer = ask(&metrics, request);
        let first = answer.lines().next().unwrap_or_default();
        assert!(first.ends_with(status), "{request:?}: {answer}");
    }
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(100_000));
    let address = metrics.tcp_address();
    let mut stream = TcpStream::connect(address).expect("a listener");
    // It may close before all is sent.
    let _ = stream.write_all(long.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.len() < 1000);
    // And it goes on.
    assert!(get(&metrics, "/metrics").contains("wakeport_build_info"));
}

#[test]
fn under_systemd_the_exporter_serves_the_metrics() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let socket = front.listen();
    let run = Run::new().to(&target).inherit("app", &socket);
    let (log, code) = run.option("--metrics", Place::tcp()).fails();
    assert_eq!(code, 64, "{log}");
    assert!(log.contains("wakeport-exporter.socket"), "{log}");
}

/// Runs the exporter on a socket that it inherits.
fn exporter(place: &Place, kept: &Kept, idle: &str) -> std::process::Child {
    let socket = place.listen();
    let mut command = Command::new("/bin/sh");
    command
        .args([
            "-c",
            "exec 3<&0 0</dev/null; export LISTEN_PID=$$; exec \"$@\"",
            "sh",
        ])
        .args([
            env!("CARGO_BIN_EXE_wakeport"),
            "exporter",
            "--idle-timeout",
            idle,
        ])
        .arg("--state-dir")
        .arg(kept.dir.path())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "metrics")
        .stdin(std::os::fd::OwnedFd::from(socket))
        .stdout(Stdio::null());
    command.spawn().expect("the binary")
}

#[test]
fn the_exporter_serves_all_records_and_exits_when_idle() {
    let (kept, metrics) = (Kept::new(), Place::tcp());
    let mut wakeport = kept.run().start();
    kept.front.connect().echoes("hello");
    kept.is("cooling");
    fs::write(kept.dir.path().join("instances/broken.json"), "{").expect("a file of ours");
    let mut exporter = exporter(&metrics, &kept, "5s");
    let page = get(&metrics, "/metrics");
    for line in [
        "wakeport_state{name=\"app\",state=\"cooling\"} 1",
        "wakeport_unreadable_records 1",
        "wakeport_clients_served_total{name=\"app\"} 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    wakeport.signal(Signal::KILL);
    wakeport.wait();
    let later = get(&metrics, "/metrics");
    assert!(
        later.contains("wakeport_state{name=\"app\",state=\"unattended\"} 1\n"),
        "{later}"
    );
    promtool_has_nothing_to_say(&page);
    // A silent connection keeps it running for a while, but not for ever.
    assert!(exporter.wait().expect("it is ours").success());
}

#[test]
fn many_concurrent_scrapes_are_served() {
    let (kept, metrics) = (Kept::new(), Place::tcp());
    let _wakeport: Wakeport = kept.run().option("--metrics", &metrics).start();
    thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| assert!(get(&metrics, "/metrics").contains(" 200 OK")));
        }
    });
}

/// Prometheus accepts the page without its head.
pub(crate) fn promtool_has_nothing_to_say(answer: &str) {
    let (_, page) = answer.split_once("\r\n\r\n").expect("a head and a page");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("`promtool`, from Debian's package prometheus");
    let mut pipe = promtool.stdin.take().expect("a pipe");
    pipe.write_all(page.as_bytes()).expect("a reader");
    drop(pipe);
    let output = promtool.wait_with_output().expect("it is ours");
    assert!(
        output.status.success() && text(&output).is_empty(),
        "{}",
        text(&output)
    );
}

#[test]
fn every_alert_is_raised_when_it_should_be() {
    let dir = repo("examples/monitoring");
    let promtool = |words: &[&str]| {
        let output = run(
            Command::new("promtool").args(words).current_dir(&dir),
            "prometheus",
        );
        assert!(
            output.status.success(),
            "promtool {words:?}: {}",
            text(&output)
        );
    };
    promtool(&["check", "rules", "wakeport.rules.yml"]);
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["test", "rules", "wakeport.rules.test.yml"]);
    let tests = fs::read_to_string(dir.join("wakeport.rules.test.yml")).expect("a file of ours");
    let rules = fs::read_to_string(dir.join("wakeport.rules.yml")).expect("a file of ours");
    for alert in rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
    {
        let raised = format!("alertname: {alert}\n        exp_alerts:");
        assert!(tests.contains(&raised), "{alert} is never raised");
    }
}
