//! Requests as they are counted and logged.

use std::sync::Mutex;
use std::sync::mpsc::channel;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{
    BROWSER, ask, closes_first, front, get, message, named, server, service, starts_when_told,
    table, tells, up_and_down,
};
use crate::observe::{self, promtool_has_nothing_to_say};
use crate::repository::{read, repo, text};
use crate::support::{Client, HookService, Place, Run, directory, until};

/// The page of metrics of an instance that is called `web`.
struct Metrics(Place);

impl Metrics {
    fn of(run: Run) -> (Run, Self) {
        let place = Place::tcp();
        let run = run.option("--name", "web").option("--metrics", &place);
        (run, Self(place))
    }

    fn page(&self) -> String {
        observe::get(&self.0, "/metrics")
    }

    /// The value of `wakeport_http_SAMPLE`.
    fn value(&self, sample: &str) -> Option<String> {
        let page = self.page();
        let start = format!("wakeport_http_{sample} ");
        let mut lines = page.lines();
        lines.find_map(|line| line.strip_prefix(&start).map(str::to_owned))
    }

    /// Waits until it has this value.
    #[track_caller]
    fn comes_to(&self, sample: &str, value: u32) {
        let value = value.to_string();
        until(&format!("{sample} is {value}"), || {
            self.value(sample).as_deref() == Some(&*value)
        });
    }
}

const ANY: &str = r#"{name="web",host="*"}"#;

fn of_code(code: &str) -> String {
    format!(r#"requests_total{{name="web",host="*",code="{code}"}}"#)
}

fn status_of(client: &Client) -> String {
    let (head, _) = message(client).expect("a response");
    head.split(' ').nth(1).expect("a status").to_owned()
}

#[test]
fn requests_are_counted_by_the_host_that_is_configured() {
    let docs = named("docs");
    let rest = service(|asked| {
        asked.says("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        true
    });
    let dir = directory();
    let path = dir.path().join("web.toml");
    let tables = [
        table("docs", &docs, "host = 'Docs.Example.org'"),
        table("rest", &rest, "host = '*.example.org'"),
    ];
    std::fs::write(&path, tables.concat()).expect("a file of ours");
    let place = Place::tcp();
    let run = Run::new().option("--config", path.display()).listen(&place);
    let run = run.option("--log-level", "debug");
    let (run, metrics) = Metrics::of(run);
    let _wakeport = run.start();
    let client = place.connect();
    for (host, path, status) in [
        ("docs.example.org", "/", 200),
        ("DOCS.example.org:8080", "/", 200),
        ("a.example.org", "/x", 404),
        ("b.example.org", "/y", 404),
        ("docs.example.org", "/favicon.ico", 200),
    ] {
        assert_eq!(ask(&client, host, path).0, status, "{host}{path}");
    }
    for unknown in ["secret.example.net", "192.0.2.1"] {
        assert_eq!(ask(&place.connect(), unknown, "/").0, 404);
    }
    let nonsense = place.connect();
    nonsense.send("GET / HTTP/1.1\r\nHost : a\r\n\r\n");
    assert!(nonsense.all().starts_with(b"HTTP/1.1 400 "));

    let docs = r#"{name="web/docs",host="docs.example.org""#;
    metrics.comes_to(&format!(r#"requests_total{docs},code="2xx"}}"#), 2);
    metrics.comes_to(&format!("quiet_total{docs}}}"), 1);
    let rest = r#"{name="web/rest",host="*.example.org""#;
    metrics.comes_to(&format!(r#"requests_total{rest},code="4xx"}}"#), 2);
    metrics.comes_to(r#"unrouted_total{name="web"}"#, 3);
    metrics.comes_to(r#"connections{name="web",state="idle"}"#, 1);
    metrics.comes_to(r#"connections{name="web",state="active"}"#, 0);
    let page = metrics.page();
    for unknown in ["secret", "192.0.2.1", "b.example.org"] {
        assert!(!page.contains(unknown), "{page}");
    }
    promtool_has_nothing_to_say(&page);
    drop(client);
    metrics.comes_to(r#"connections{name="web",state="idle"}"#, 0);
}

#[test]
fn a_request_is_waiting_then_active_then_counted() {
    let (go, goes) = channel::<()>();
    let goes = Mutex::new(goes);
    let dir = directory();
    let up = dir.path().join("go");
    let stage = HookService::direct(
        server(move |asked| {
            let _ = goes.lock().expect("no panic").recv();
            tells(&asked)
        }),
        move |scene, call| {
            if call.event == "start" {
                until("it may start", || up.exists());
            }
            up_and_down(scene, call)
        },
    );
    let place = Place::tcp();
    let (run, metrics) = Metrics::of(front(&stage, &place));
    let _wakeport = run.start();
    let (waiting, active) = (
        format!("requests_waiting{ANY}"),
        format!("requests_active{ANY}"),
    );
    let clients: Vec<_> = (0..3).map(|_| place.connect()).collect();
    clients.iter().for_each(|client| client.send(get("/")));
    metrics.comes_to(&waiting, 3);
    metrics.comes_to(&active, 0);
    metrics.comes_to(r#"connections{name="web",state="active"}"#, 3);
    std::fs::write(dir.path().join("go"), "").expect("a file of ours");
    metrics.comes_to(&waiting, 0);
    metrics.comes_to(&active, 3);
    assert_eq!(metrics.value(&of_code("2xx")).as_deref(), Some("0"));
    for _ in &clients {
        go.send(()).expect("a service");
    }
    for client in &clients {
        assert_eq!(status_of(client), "200");
    }
    metrics.comes_to(&of_code("2xx"), 3);
    metrics.comes_to(&active, 0);
    metrics.comes_to(&format!("wait_seconds_count{ANY}"), 3);
    // Those that need not wait are in no bucket.
    go.send(()).expect("a service");
    clients[0].send(get("/"));
    assert_eq!(status_of(&clients[0]), "200");
    metrics.comes_to(&of_code("2xx"), 4);
    metrics.comes_to(r#"wait_seconds_bucket{name="web",host="*",le="+Inf"}"#, 3);
    promtool_has_nothing_to_say(&metrics.page());
}

#[test]
fn an_upgraded_connection_is_an_active_request_until_it_ends() {
    let stage = HookService::direct(
        |client| {
            let _ = message(&client);
            client.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
            );
            crate::support::echo(client);
        },
        up_and_down,
    );
    let place = Place::tcp();
    let (run, metrics) = Metrics::of(front(&stage, &place));
    let _wakeport = run.start();
    let client = place.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(status_of(&client), "101");
    client.echoes("hello");
    metrics.comes_to(&format!("requests_active{ANY}"), 1);
    metrics.comes_to(r#"connections{name="web",state="active"}"#, 1);
    client.finish();
    assert_eq!(client.all(), b"");
    metrics.comes_to(&of_code("1xx"), 1);
    metrics.comes_to(&format!("requests_active{ANY}"), 0);
    metrics.comes_to(r#"connections{name="web",state="active"}"#, 0);
}

#[test]
fn pages_failures_and_retries_are_counted() {
    let dir = directory();
    let (stage, place) = (starts_when_told(dir.path()), Place::tcp());
    let run = front(&stage, &place).option("--page-after", "0s");
    let (run, metrics) = Metrics::of(run);
    let wakeport = run.start();
    let browser = place.connect();
    browser.send(format!("{BROWSER}\r\n"));
    assert_eq!(status_of(&browser), "503");
    metrics.comes_to(&format!("pages_total{ANY}"), 1);
    metrics.comes_to(&of_code("5xx"), 1);
    std::fs::write(dir.path().join("go"), "").expect("a file of ours");
    drop(wakeport);

    let stage = closes_first(2);
    let (run, metrics) = Metrics::of(front(&stage, &place));
    let wakeport = run.start();
    let client = place.connect();
    client.send(get("/"));
    assert_eq!(status_of(&client), "502");
    let failed = |code| format!(r#"upstream_errors_total{{name="web",host="*",code="{code}"}}"#);
    metrics.comes_to(&failed("502"), 1);
    metrics.comes_to(&format!("retries_total{ANY}"), 1);
    drop(wakeport);

    let stage = HookService::direct(|_| (), |_, call| i32::from(call.event == "start"));
    let (run, metrics) = Metrics::of(front(&stage, &place));
    let _wakeport = run.start();
    let client = place.connect();
    client.send(get("/"));
    assert_eq!(status_of(&client), "503");
    metrics.comes_to(&failed("503"), 1);
    metrics.comes_to(&failed("502"), 0);
}

fn shown(dir: &TempDir, words: &[&str]) -> String {
    let mut command = observe::command(&["status", "--state-dir"]);
    let output = command.arg(dir.path()).args(words).output();
    text(&output.expect("the binary"))
}

fn json(dir: &TempDir) -> Value {
    serde_json::from_str(&shown(dir, &["--json"])).expect("JSON")
}

#[test]
fn counts_go_on_in_the_next_process_and_status_shows_them() {
    let (dir, stage, place) = (directory(), named("docs"), Place::tcp());
    let run = |hosts: &str| {
        let run = front(&stage, &place).option("--state-dir", dir.path().display());
        // Each begins with a service that is down: one that is up may answer before the client waits.
        let run = run.flag("--stop-on-exit");
        run.option("--name", "web").option("--host", hosts)
    };
    for lives in 1..=3 {
        let mut wakeport = run("docs.example.org *.example.net").start();
        let client = place.connect();
        assert_eq!(ask(&client, "docs.example.org", "/").0, 200);
        // The gate opens after those that wait were admitted; the next one may be as quick.
        until("the next request does not wait", || {
            let state = &json(&dir)["instances"][0]["state"];
            ["awake", "cooling"].iter().any(|open| state == open)
        });
        assert_eq!(ask(&client, "a.example.net", "/").0, 200);
        assert_eq!(ask(&client, "192.0.2.1", "/").0, 404);
        drop(client);
        until("it is in the record", || {
            json(&dir)["instances"][0]["http"]["unrouted"] == lives
        });
        wakeport.signal(Signal::TERM);
        wakeport.ends();
    }
    let http = &json(&dir)["instances"][0]["http"];
    for host in ["docs.example.org", "*.example.net"] {
        let of_host = &http["hosts"][host];
        assert_eq!(of_host["codes"]["2xx"], 3, "{http}");
        assert_eq!(
            of_host["waits"]["total"],
            i32::from(host.starts_with('d')) * 3
        );
        assert_eq!(
            (&of_host["active"], &of_host["waiting"]),
            (&0.into(), &0.into())
        );
    }
    assert_eq!(http["connections"]["idle"], 0);
    let table = shown(&dir, &[]);
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0][..3], ["NAME", "HOST", "STATE"], "{table}");
    assert!(lines[0].contains(&"REQUESTS"), "{table}");
    assert_eq!(lines[1][..3], ["web", "*.example.net", "+1"], "{table}");
    assert!(lines[1].contains(&"6"), "{table}");
    let full = shown(&dir, &["web"]);
    assert!(
        full.contains("Requests: docs.example.org: 0 now, 0 waiting; 3 ended, 3 2xx\n"),
        "{full}"
    );
    // A host that is configured no more is not shown any more.
    let mut wakeport = run("docs.example.org").start();
    until("one host is left", || {
        let hosts = &json(&dir)["instances"][0]["http"]["hosts"];
        hosts.as_object().is_some_and(|hosts| hosts.len() == 1)
    });
    wakeport.signal(Signal::TERM);
    wakeport.ends();
}

#[test]
fn every_field_about_requests_is_documented() {
    let (dir, stage, place) = (directory(), named("docs"), Place::tcp());
    let run = front(&stage, &place).option("--state-dir", dir.path().display());
    let _wakeport = run.start();
    assert_eq!(ask(&place.connect(), "a", "/").0, 200);
    until("it is in the record", || {
        json(&dir)["instances"][0]["http"]["hosts"]["*"]["codes"]["2xx"] == 1
    });
    let docs = read(&repo("docs/observing.md"));
    let seen = json(&dir);
    let http = &seen["instances"][0]["http"];
    for fields in [
        http,
        &http["connections"],
        &http["hosts"]["*"],
        &http["hosts"]["*"]["waits"],
    ] {
        for name in fields.as_object().expect("an object").keys() {
            assert!(docs.contains(&format!("`{name}`")), "{name}");
        }
    }
}

#[test]
fn the_access_log_has_a_line_for_each_request() {
    let dir = directory();
    let (stage, place) = (starts_when_told(dir.path()), Place::tcp());
    let run = front(&stage, &place).flag("--access-log");
    let (run, metrics) = Metrics::of(run);
    let wakeport = run.start();
    let waits = place.connect();
    waits.send(get("/gone?secret=1"));
    metrics.comes_to(&format!("requests_waiting{ANY}"), 1);
    waits.reset();
    wakeport.logs("127.0.0.1");
    wakeport.logs("GET example.org/gone: 499 in ");
    wakeport.logs(" of it waiting");
    metrics.comes_to(&of_code("4xx"), 1);
    metrics.comes_to(&format!("requests_waiting{ANY}"), 0);
    std::fs::write(dir.path().join("go"), "").expect("a file of ours");
    let client = place.connect();
    client.send("GET /x?secret=2 HTTP/1.1\r\nHost: a:80\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n");
    assert_eq!(status_of(&client), "200");
    wakeport.logs("192.0.2.7:0 GET a:80/x: 200 in ");
    client.send(get("/favicon.ico?secret=3"));
    assert_eq!(status_of(&client), "200");
    wakeport.logs("GET example.org/favicon.ico: 200 in ");
    client.send("nonsense\r\n\r\n");
    assert_eq!(status_of(&client), "400");
    wakeport.logs(" - --: 400 in ");
    assert!(!wakeport.log().contains("secret"), "{}", wakeport.log());
    drop(wakeport);

    let wakeport = front(&stage, &place).start();
    assert_eq!(ask(&place.connect(), "a", "/unlogged").0, 200);
    wakeport.is("cooling");
    assert!(!wakeport.log().contains("unlogged"), "{}", wakeport.log());
}
