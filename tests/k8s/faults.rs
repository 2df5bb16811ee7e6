//! An API server that refuses, sees conflicts and forgets, and one with newer EndpointSlices (faults.py).

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Namespace, apply, folder, until};
use crate::program::Wakeport;

/// What stands in between.
struct Between {
    child: Child,
    out: BufReader<ChildStdout>,
    url: String,
}

impl Between {
    fn with(faults: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/k8s/faults.py");
        let mut command = Command::new("/usr/bin/python3");
        command
            .args([script, "https://127.0.0.1:6443"])
            .arg(folder().join("ca.crt"));
        let piped = command
            .args(faults)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = piped.spawn().expect("python3");
        let mut out = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut port = String::new();
        out.read_line(&mut port).expect("a port");
        let url = format!("http://127.0.0.1:{}", port.trim());
        Self { child, out, url }
    }

    /// What it has done; it ends.
    fn counts(mut self) -> Value {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.out.read_to_string(&mut text).expect("what it counted");
        serde_json::from_str(&text).expect("JSON")
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Clients through some wakes and sleeps behind this fault: how often it was met.
fn rounds(name: &str, fault: &str) -> u64 {
    let space = Namespace::new(name);
    space.workload("deployments", 0, &[("test/grace", "0.2")]);
    let between = Between::with(&[fault]);
    let options = ["--kube-api", &between.url, "--cooldown", "200ms"];
    let wakeport = Wakeport::start(&space, &options);
    for round in 0..5 {
        wakeport.serves_four(|_| Duration::from_millis(37 * round));
        space.sleeps("deployments");
    }
    let lease = || space.lease("wakeport-deployment-web");
    until("it is asleep", || lease()["state"] == "asleep");
    drop(wakeport);
    between.counts()[fault].as_u64().expect("a number")
}

#[test]
#[ignore = "tests/k8s/run"]
fn no_client_is_lost_to_an_api_server_that_refuses_for_a_while() {
    assert!(rounds("refusing", "429") > 10);
}

#[test]
#[ignore = "tests/k8s/run"]
fn no_client_is_lost_to_conflicts() {
    assert!(rounds("conflicts", "409") > 10);
}

#[test]
#[ignore = "tests/k8s/run"]
fn no_client_is_lost_where_versions_are_too_old() {
    assert!(rounds("too-old", "410") > 2);
}

#[test]
#[ignore = "tests/k8s/run"]
fn endpoint_slices_of_either_version_do() {
    let space = Namespace::new("slices");
    space.workload("deployments", 0, &[]);
    let between = Between::with(&["v1"]);
    let newer = Wakeport::start(&space, &["--kube-api", &between.url]);
    newer.connect().greeted();
    drop(newer);
    assert!(between.counts()["v1"].as_u64().expect("a number") > 1);
    // This API server has the older one.
    Wakeport::start(&space, &[]).connect().greeted();
}

#[test]
#[ignore = "tests/k8s/run"]
fn an_apply_wakes_only_with_a_number_of_pods_and_then_sleeps_again() {
    let space = Namespace::new("applied");
    space.workload("deployments", 0, &[]);
    let wakeport = Wakeport::start(&space, &[]);
    let mut client = wakeport.connect();
    client.greeted();
    client.closes();
    space.sleeps("deployments");
    let manifest = |replicas: Option<u32>| {
        let labels = json!({"app": "web"});
        let container = json!({"name": "c", "image": "none", "ports": [{"containerPort": 8080}]});
        let mut manifest = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            },
        });
        if let Some(replicas) = replicas {
            manifest["spec"]["replicas"] = replicas.into();
        }
        manifest
    };
    let path = space.apps("deployments/web?fieldManager=ci&force=true");
    apply(&path, &manifest(None));
    thread::sleep(Duration::from_secs(2));
    assert_eq!(space.replicas("deployments"), 0);
    apply(&path, &manifest(Some(1)));
    wakeport.logs("no wakeport has a claim: taken over");
    space.sleeps("deployments");
    let mut client = wakeport.connect();
    client.greeted();
    client.echoes("hello");
}
