//! `wakeport status`, the metrics in a real Prometheus, and `journalctl -x`.

use serde_json::Value;

use crate::rig::{Client, GoneAs, Rig};
use crate::services::{NEVER, PORT, SOON, TARGET, URL, nginx, python};

const NAME: &str = "wakeport@nginx.service";
const METRICS: &str = "http://127.0.0.1:19752/metrics";
/// Where the instance of a service that cannot start listens.
const BROKEN: &str = "127.0.0.1:8081";

/// The view of an unprivileged user.
fn status(rig: &Rig, words: &str) -> String {
    rig.run(&format!("runuser -u nobody -- wakeport status {words}"))
}

fn instances(rig: &Rig) -> Vec<Value> {
    let mut seen: Value = serde_json::from_str(&status(rig, "--json")).expect("JSON");
    assert_eq!(seen["problems"], Value::Array(Vec::new()));
    let instances = seen["instances"].as_array_mut();
    std::mem::take(instances.expect("a list"))
}

fn instance(rig: &Rig, name: &str) -> Value {
    let mut instances = instances(rig);
    instances.retain(|instance| instance["name"] == name);
    assert_eq!(instances.len(), 1, "`{name}` is there once");
    instances.remove(0)
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn status_shows_every_instance_to_every_user_and_wakes_none() {
    let rig = Rig::boot();
    nginx(&rig);
    assert!(status(&rig, "").starts_with("no instance"));
    rig.instance("nginx", PORT, TARGET, &[SOON]);
    // One that never ran is known by its socket, whatever it is called.
    python(&rig);
    rig.unit(
        "door.socket",
        "[Socket]\nListenStream=127.0.0.1:8081\n[Install]\nWantedBy=sockets.target\n",
    );
    rig.unit(
        "door.service",
        "[Service]\nType=notify\nExecStart=/usr/local/bin/wakeport run --unit web --to 127.0.0.1:18080\nStateDirectory=wakeport\nStateDirectoryMode=0711\nUser=wakeport\n",
    );
    rig.systemctl("start door.socket");
    let door = instance(&rig, "door");
    assert_eq!(
        (&door["state"], &door["since"]),
        (&"asleep".into(), &Value::Null)
    );
    assert_eq!(door["sockets"][0]["listen"][0], "127.0.0.1:8081");
    assert_eq!(door["sockets"][0]["enabled"], "disabled");

    let mut client = Client::connect(PORT);
    assert_eq!(client.ask_again(), "hello");
    rig.wait_for("nginx is awake", || {
        instance(&rig, "nginx")["state"] == "awake"
    });
    let nginx = instance(&rig, "nginx");
    assert_eq!(nginx["clients"]["active"], 1);
    assert_eq!(nginx["unit"], NAME);
    assert_eq!(nginx["units"][0], "nginx.service");
    assert_eq!(nginx["sockets"][0]["state"], "active");
    drop(client);
    rig.wait_until_asleep("nginx");

    let nginx = instance(&rig, "nginx");
    assert_eq!(nginx["state"], "asleep");
    assert_eq!(nginx["wakes"]["total"], 1);
    assert_eq!(nginx["sleeps"], 1);
    // Memory is not accounted in a rig.
    assert_eq!(nginx["memory_freed_bytes"], Value::Null);
    let table = status(&rig, "");
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(
        lines[1].starts_with("door ") && lines[2].starts_with("nginx "),
        "{table}"
    );
    assert!(status(&rig, "nginx.service").contains("wakeport@nginx.socket, active, enabled"));

    rig.systemctl("stop wakeport@nginx.socket");
    assert!(status(&rig, "").contains("`systemctl start wakeport@nginx.socket` opens it"));
    assert_eq!(rig.starts("nginx.service"), 1);
    assert_eq!(rig.starts(NAME), 1);
    assert_eq!(rig.starts("door.service"), 0);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_record_is_readable_by_all_and_files_of_hooks_are_not() {
    let rig = Rig::boot();
    rig.script(
        "/usr/local/bin/hook",
        "#!/bin/sh\necho secret >/var/lib/wakeport/token\nexit 1\n",
    );
    rig.drop_in(
        "wakeport@game.service",
        "target",
        "[Service]\nEnvironment=WAKEPORT_UNIT= WAKEPORT_TO=127.0.0.1:18080 WAKEPORT_START_HOOK=hook\n",
    );
    rig.listen("game", PORT);
    assert_eq!(Client::asks(PORT).reads().1, GoneAs::Reset);
    rig.wait_for("the failure is known", || {
        instance(&rig, "game")["last_failure"]["kind"] == "start"
    });
    assert!(rig.path("/var/lib/wakeport/token").exists());
    for forbidden in ["ls /var/lib/wakeport", "cat /var/lib/wakeport/token"] {
        let output = rig.attempt(&format!("runuser -u nobody -- {forbidden}"));
        assert!(!output.status.success(), "{forbidden}");
    }
    assert_eq!(
        rig.run(
            "stat -c '%a %U' /var/lib/wakeport/instances /var/lib/wakeport/instances/game.json"
        ),
        "755 wakeport\n644 wakeport\n"
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_record_of_an_instance_with_another_user_is_found() {
    let rig = Rig::boot();
    rig.drop_in(
        "wakeport@game.service",
        "target",
        "[Service]\nUser=games\nStateDirectory=\nStateDirectory=game\n\
         Environment=WAKEPORT_UNIT= WAKEPORT_TO=127.0.0.1:18080 WAKEPORT_START_HOOK=false\n",
    );
    rig.listen("game", PORT);
    assert_eq!(Client::asks(PORT).reads().1, GoneAs::Reset);
    rig.wait_for("the failure is known", || {
        instance(&rig, "game")["failures"]["start"] == 1
    });
    assert!(rig.path("/var/lib/game/instances/game.json").exists());
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_full_disk_costs_no_client_and_no_record() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[SOON]);
    rig.run(
        "mkdir -p /var/lib/wakeport && mount -t tmpfs -o size=64k tmpfs /var/lib/wakeport && chown wakeport: /var/lib/wakeport",
    );
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_until_asleep("nginx");
    rig.run("dd if=/dev/zero of=/var/lib/wakeport/full bs=1k count=1000 2>/dev/null; :");
    for _ in 0..2 {
        assert_eq!(rig.curl(URL), "hello");
        rig.wait_until_asleep("nginx");
    }
    assert_eq!(
        instance(&rig, "nginx")["wakes"]["total"],
        1,
        "the old record"
    );
    let complaints = rig.said(NAME, "No space left on device");
    assert_eq!(complaints, 2, "one in each life");
    assert_eq!(rig.show("Result", NAME), "success");
    rig.run("rm /var/lib/wakeport/full");
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_until_asleep("nginx");
    assert_eq!(instance(&rig, "nginx")["wakes"]["total"], 2);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn after_a_stop_of_wakeport_the_service_is_unattended_until_it_is_down() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[NEVER]);
    assert_eq!(rig.curl(URL), "hello");
    rig.systemctl("stop wakeport@nginx.service");
    assert_eq!(instance(&rig, "nginx")["state"], "unattended");
    rig.systemctl("stop nginx.service");
    assert_eq!(instance(&rig, "nginx")["state"], "asleep");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_user_sees_their_own_instances_as_well() {
    let rig = Rig::boot();
    rig.run(
        "mount -t tmpfs -o mode=755 tmpfs /home
         useradd --create-home --shell /bin/sh alice && loginctl enable-linger alice",
    );
    rig.wait_for("the user's manager runs", || {
        let uid = rig.ask("id -u alice");
        rig.is("active", &format!("user@{}.service", uid.trim()))
    });
    let uid = rig.run("id -u alice");
    let user = |command: &str| {
        let uid = uid.trim();
        rig.run(&format!(
            "runuser -u alice -- env XDG_RUNTIME_DIR=/run/user/{uid} HOME=/home/alice {command}"
        ))
    };
    rig.write("/run/rig/www/index.html", "hello");
    let units = "/home/alice/.config/systemd/user";
    rig.write(
        &format!("{units}/web.service"),
        "[Service]\nExecStart=python3 -m http.server --bind 127.0.0.1 --directory /run/rig/www 18080\n",
    );
    rig.write(
        &format!("{units}/wakeport@web.socket.d/listen.conf"),
        &format!("[Socket]\nListenStream={PORT}\n"),
    );
    rig.write(
        &format!("{units}/wakeport@web.service.d/target.conf"),
        "[Service]\nEnvironment=WAKEPORT_TO=127.0.0.1:18080 WAKEPORT_COOLDOWN=300ms\n",
    );
    rig.run("chown -R alice: /home/alice/.config");
    user("systemctl --user daemon-reload");
    user("systemctl --user start wakeport@web.socket");
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_for("it is asleep again", || {
        let seen: Value = serde_json::from_str(&user("wakeport status --json")).expect("JSON");
        let web = &seen["instances"][0];
        web["name"] == "web" && web["manager"] == "user" && web["sleeps"] == 1
    });
    assert!(user("wakeport status").contains("web (user)"));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_real_prometheus_reads_the_metrics_and_wakes_nothing() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[NEVER]);
    rig.unit("broken.service", "[Service]\nExecStart=/bin/false\n");
    rig.instance("broken", BROKEN, "127.0.0.1:18081", &[]);
    python(&rig);
    let http = ["WAKEPORT_HOST=127.0.0.1", "WAKEPORT_ACCESS_LOG=yes", SOON];
    rig.instance("web", "127.0.0.1:8082", "127.0.0.1:18080", &http);
    // One is awake, one sleeps after having been woken, one cannot be woken.
    assert_eq!(Client::asks(BROKEN).reads().1, GoneAs::Reset);
    rig.drop_in("nginx.service", "order", "[Unit]\nConflicts=web.service\n");
    assert_eq!(rig.curl("http://127.0.0.1:8082/"), "hello");
    rig.wait_until_asleep("web");
    let mut client = Client::connect(PORT);
    assert_eq!(client.ask_again(), "hello");
    let starts = || {
        [NAME, "nginx.service", "wakeport@web.service", "web.service"].map(|unit| rig.starts(unit))
    };
    let before = starts();

    rig.systemctl("enable --quiet --now wakeport-exporter.socket");
    let page = rig.curl(METRICS);
    assert!(
        page.contains("wakeport_state{name=\"web\",state=\"asleep\"} 1\n"),
        "{page}"
    );
    rig.run(&format!("curl -sS {METRICS} | promtool check metrics"));
    prometheus(&rig);
    // Two states at once, as one sees them in one query.
    for (name, state) in [("nginx", "awake"), ("web", "asleep"), ("broken", "failed")] {
        let query = format!("wakeport_state{{name=\"{name}\",state=\"{state}\"}} == 1");
        rig.wait_for(&query, || !values(&rig, &query).is_empty());
    }
    assert_eq!(value(&rig, "wakeport_clients_active{name=\"nginx\"}"), 1.0);
    assert_eq!(
        value(&rig, "wakeport_wake_duration_seconds_count{name=\"web\"}"),
        1.0
    );
    assert_eq!(
        value(&rig, "sum(wakeport_failures_total{name=\"broken\"})"),
        1.0
    );
    // Its requests are known although its process has gone.
    let requests = r#"sum by (host) (wakeport_http_requests_total{name="web",code="2xx"})"#;
    assert_eq!(value(&rig, requests), 1.0);
    assert_eq!(
        value(
            &rig,
            r#"wakeport_http_wait_seconds_count{host="127.0.0.1"}"#
        ),
        1.0
    );
    let keda = rig.read("/run/rig/source/examples/keda/scaledobject.yml");
    let (_, rest) = keda.split_once("query: >-\n").expect("a query");
    let (asked, _) = rest.split_once('#').expect("a comment behind it");
    let asked = asked.replace("shop.example.org", "127.0.0.1");
    assert_eq!(value(&rig, asked.trim()), 0.0);
    assert_eq!(
        rig.said("wakeport@web.service", "GET 127.0.0.1:8082/: 200 in "),
        1
    );
    let asleep = "wakeport_state_seconds_total{name=\"web\",state=\"asleep\"}";
    let first = value(&rig, asleep);
    rig.wait_for("its sleep goes on", || value(&rig, asleep) > first);

    // Failures that come later are alerts.
    rig.wait_for("the next attempt fails as well", || {
        let _ = Client::asks(BROKEN).reads();
        value(&rig, "sum(wakeport_failures_total{name=\"broken\"})") > 1.0
    });
    let alert =
        "ALERTS{alertname=\"WakeportServiceCannotBeWoken\",name=\"broken\",alertstate=\"firing\"}";
    rig.wait_for(alert, || !values(&rig, alert).is_empty());

    every_expression_of_the_dashboard_is_answered(&rig);
    assert_eq!(starts(), before, "nothing was woken");
    assert!(rig.is("active", "wakeport@web.socket"));

    rig.systemctl("stop prometheus.service");
    rig.wait_until("inactive", "wakeport-exporter.service");
    rig.wait_until("active", "wakeport-exporter.socket");
    assert_eq!(rig.show("Result", "wakeport-exporter.service"), "success");
    drop(client);
}

/// Debian's Prometheus with what examples/monitoring says, but quicker.
fn prometheus(rig: &Rig) {
    const EXAMPLE: &str = "/run/rig/source/examples/monitoring";
    let config = rig.read(&format!("{EXAMPLE}/prometheus.yml"));
    let quick = config.replace(
        "scrape_interval: 15s",
        "scrape_interval: 500ms\n  evaluation_interval: 500ms",
    );
    assert_ne!(config, quick);
    rig.write("/etc/prometheus/prometheus.yml", &quick);
    rig.run(&format!("cp {EXAMPLE}/wakeport.rules.yml /etc/prometheus/"));
    rig.run("promtool check config /etc/prometheus/prometheus.yml");
    rig.systemctl("start prometheus.service");
    rig.wait_for("Prometheus has scraped", || {
        values(rig, "up{job=\"wakeport\"} == 1").len() == 1
    });
}

/// What Prometheus answers to a query, or why it does not.
fn query(rig: &Rig, expression: &str) -> Result<Value, String> {
    let output = rig
        .command([
            "curl",
            "-sS",
            "--data-urlencode",
            &format!("query={expression}"),
            "http://127.0.0.1:9090/api/v1/query",
        ])
        .output()
        .expect("curl can be run");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut answer: Value =
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
    match answer["status"] == "success" {
        true => Ok(answer["data"]["result"].take()),
        false => Err(answer.to_string()),
    }
}

/// The values of all series; none while Prometheus does not answer.
fn values(rig: &Rig, expression: &str) -> Vec<f64> {
    let result = query(rig, expression).unwrap_or_default();
    let series = result.as_array().cloned().unwrap_or_default();
    let values = series.iter().map(|series| series["value"][1].as_str());
    values
        .map(|value| {
            value
                .and_then(|value| value.parse().ok())
                .expect("a number")
        })
        .collect()
}

#[track_caller]
fn value(rig: &Rig, expression: &str) -> f64 {
    let mut seen = Vec::new();
    // A scrape that is late leaves a gap.
    rig.wait_for(expression, || {
        seen = values(rig, expression);
        seen.len() == 1
    });
    seen[0]
}

/// Grafana puts its variables in, and asks.
fn every_expression_of_the_dashboard_is_answered(rig: &Rig) {
    let text = rig.read("/run/rig/source/examples/monitoring/grafana.json");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut asked = 0;
    for target in panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().expect("targets"))
    {
        let expression = target["expr"].as_str().expect("an expression");
        let expression = expression
            .replace("$name", ".*")
            .replace("$__rate_interval", "1m")
            .replace("$__range", "1h");
        // Memory is not accounted in a rig.
        let may_be_empty = expression.contains("memory_freed");
        rig.wait_for(&expression, || {
            let answer =
                query(rig, &expression).unwrap_or_else(|why| panic!("{expression}: {why}"));
            may_be_empty || answer.as_array().is_some_and(|series| !series.is_empty())
        });
        asked += 1;
    }
    assert!(asked > 12, "only {asked} expressions were found");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn journalctl_explains_every_message() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[SOON]);
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_until_asleep("nginx");
    rig.unit("broken.service", "[Service]\nExecStart=/bin/false\n");
    rig.instance("broken", BROKEN, "127.0.0.1:18081", &[]);
    assert_eq!(Client::asks(BROKEN).reads().1, GoneAs::Reset);
    let mut told = String::new();
    rig.wait_for("the last message is there", || {
        told = rig.run(
            "journalctl --sync
             journalctl -q -x --no-pager -u wakeport@nginx -u wakeport@broken _COMM=wakeport",
        );
        told.contains("systemctl status broken.service")
    });
    for subject in [
        "A client wakes nginx.service",
        "nginx.service is awake",
        "nginx.service has no connections",
        "nginx.service is stopping",
        "nginx.service stopped",
        "wakeport is idle and exits",
        "broken.service failed to wake",
    ] {
        assert!(told.contains(subject), "`{subject}` is not in:\n{told}");
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn each_request_is_in_the_journal_with_its_fields() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance(
        "nginx",
        PORT,
        TARGET,
        &["WAKEPORT_HTTP=yes", "WAKEPORT_ACCESS_LOG=yes"],
    );
    for (path, id) in [("/?secret", "first"), ("/again", "second")] {
        rig.run(&format!(
            "curl -sS -H 'X-Request-Id: {id}' -H 'X-Forwarded-For: 192.0.2.7' '{URL}{}'",
            path.trim_start_matches('/')
        ));
    }
    let mut entries = Vec::<Value>::new();
    rig.wait_for("both are in the journal", || {
        let lines = rig.run(&format!(
            "journalctl --sync; journalctl -q -o json --no-pager -u {NAME} WAKEPORT_METHOD=GET"
        ));
        let parsed = lines.lines().map(serde_json::from_str);
        entries = parsed.collect::<Result<_, _>>().expect("JSON");
        entries.len() == 2
    });
    for (entry, (path, id)) in entries.iter().zip([("/", "first"), ("/again", "second")]) {
        for (field, value) in [
            ("WAKEPORT_PATH", path),
            ("WAKEPORT_STATUS", "200"),
            ("WAKEPORT_REQUEST_ID", id),
            ("WAKEPORT_HOST", PORT),
            ("WAKEPORT_CLIENT", "192.0.2.7:0"),
            ("PRIORITY", "6"),
            ("_SYSTEMD_UNIT", NAME),
        ] {
            assert_eq!(entry[field], value, "{field} in {entry}");
        }
        let number = |field: &str| -> u64 {
            let value = entry[field].as_str().and_then(|value| value.parse().ok());
            value.unwrap_or_else(|| panic!("{field} in {entry}"))
        };
        assert!(number("WAKEPORT_USEC") >= number("WAKEPORT_WAIT_USEC"));
        // Only the first one woke it.
        assert_eq!(number("WAKEPORT_WAIT_USEC") > 0, id == "first");
        assert!(number("WAKEPORT_BYTES_UP") > 0 && number("WAKEPORT_BYTES_DOWN") > 0);
        assert!(!entry.to_string().contains("secret"), "{entry}");
    }
    let explained = rig.run(&format!("journalctl -q -x --no-pager -u {NAME}"));
    assert!(explained.contains("A request has ended"), "{explained}");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_log_has_one_line_for_each_change() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[SOON]);
    for _ in 0..3 {
        assert_eq!(rig.curl(URL), "hello");
        // Connections that reset are not logged.
        for _ in 0..5 {
            drop(Client::asks(PORT));
        }
        rig.wait_until_asleep("nginx");
    }
    rig.run("journalctl --sync");
    let told = rig.run(&format!(
        "journalctl -q -o cat --no-pager -p info _SYSTEMD_UNIT={NAME} _COMM=wakeport"
    ));
    let rounds = told
        .lines()
        .filter(|line| line.starts_with("waking "))
        .count();
    assert!(rounds >= 3, "{told}");
    let known = [
        "waking ",
        "nginx.service answers after ",
        "last connection to ",
        "nginx.service is in use again",
        "stopping nginx.service",
        "nginx.service stopped",
        "idle; exiting",
    ];
    for line in told.lines() {
        assert!(
            known.iter().any(|known| line.starts_with(known)),
            "{line}\n{told}"
        );
    }
}
