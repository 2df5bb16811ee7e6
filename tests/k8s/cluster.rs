//! The control plane that `tests/k8s/run` has booted, and what a test has in it: a namespace of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// How long a condition may take to come true; far more than it ever needs, on the slowest machine.
const CONDITION_TIMEOUT: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);

/// The time; these tests have no clock that they could pause.
#[expect(clippy::disallowed_methods)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits until a condition is true.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = now();
    while !condition() {
        assert!(began.elapsed() < CONDITION_TIMEOUT, "{what}: still not");
        thread::sleep(POLL);
    }
}

/// Where the control plane has its files.
pub(crate) fn folder() -> PathBuf {
    let folder = std::env::var_os("WAKEPORT_K8S");
    folder.expect("`tests/k8s/run` runs these tests").into()
}

/// A program of the control plane, stopped until this is dropped.
pub(crate) struct Stopped(Pid);

impl Stopped {
    pub(crate) fn program(name: &str) -> Self {
        let pid = fs::read_to_string(folder().join(format!("{name}.pid"))).expect("it runs");
        let pid = Pid::from_raw(pid.trim().parse().expect("a number")).expect("a process");
        kill_process(pid, Signal::STOP).expect("it is ours");
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// What the API server answers to an administrator: its status, and JSON.
pub(crate) fn api(method: &str, path: &str, body: &Value) -> (u16, Value) {
    let kind = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    call(method, path, kind, body)
}

/// Applies a manifest, as `kubectl apply --server-side` does. With `force` in the path, as GitOps
/// controllers do.
pub(crate) fn apply(path: &str, manifest: &Value) {
    let (status, answer) = call("PATCH", path, "application/apply-patch+yaml", manifest);
    assert_eq!(status, 200, "{answer}");
}

fn call(method: &str, path: &str, kind: &str, body: &Value) -> (u16, Value) {
    let token = fs::read_to_string(folder().join("tokens/admin")).expect("a token");
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--noproxy",
        "*",
        "--max-time",
        "30",
        "--write-out",
        "\n%{http_code}",
    ])
    .arg("--cacert")
    .arg(folder().join("ca.crt"))
    .args(["--header", &format!("Authorization: Bearer {token}")])
    .args(["--request", method]);
    if !body.is_null() {
        curl.args(["--header", &format!("Content-Type: {kind}")]);
        curl.args(["--data", &body.to_string()]);
    }
    let answer = curl
        .arg(format!("https://127.0.0.1:6443{path}"))
        .stderr(Stdio::inherit());
    let answer = answer.output().expect("curl");
    let text = String::from_utf8(answer.stdout).expect("UTF-8");
    let (text, status) = text.rsplit_once('\n').expect("a status");
    (
        status.parse().expect("a number"),
        serde_json::from_str(text).unwrap_or_default(),
    )
}

/// What a server of ours answers.
pub(crate) fn get(url: &str) -> String {
    let mut curl = Command::new("curl");
    let curl = curl.args(["--silent", "--noproxy", "*", "--max-time", "10", url]);
    let answer = curl.output().expect("curl").stdout;
    String::from_utf8(answer).expect("UTF-8")
}

/// What the API server answers, for what has to succeed.
pub(crate) fn done(method: &str, path: &str, body: &Value) -> Value {
    let (status, answer) = api(method, path, body);
    assert!(
        (200..300).contains(&status),
        "{method} {path}: {status} {answer}"
    );
    answer
}

/// A namespace; what is in it ends with it.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    /// A new one, with the pod that wakeport is taken for: it is called as this machine.
    pub(crate) fn new(name: &str) -> Self {
        let body = json!({"metadata": {"name": name}});
        done("POST", "/api/v1/namespaces", &body);
        let namespace = Self { name: name.into() };
        until("a ServiceAccount", || {
            let account = namespace.core("serviceaccounts/default");
            api("GET", &account, &Value::Null).1["secrets"].is_array()
        });
        namespace.pod("wakeport-test");
        namespace
    }

    pub(crate) fn core(&self, rest: &str) -> String {
        format!("/api/v1/namespaces/{}/{rest}", self.name)
    }

    pub(crate) fn apps(&self, rest: &str) -> String {
        format!("/apis/apps/v1/namespaces/{}/{rest}", self.name)
    }

    fn leases(&self, name: &str) -> String {
        format!(
            "/apis/coordination.k8s.io/v1/namespaces/{}/leases/{name}",
            self.name
        )
    }

    /// A pod without ports.
    pub(crate) fn pod(&self, name: &str) -> String {
        let container = json!({"name": "c", "image": "none"});
        let pod = json!({"metadata": {"name": name}, "spec": {"containers": [container]}});
        let pod = done("POST", &self.core("pods"), &pod);
        pod["metadata"]["uid"].as_str().expect("a UID").into()
    }

    /// A Deployment called `web`, or a StatefulSet, behind a Service of that name with port 80.
    pub(crate) fn workload(&self, plural: &str, replicas: u32, notes: &[(&str, &str)]) {
        let notes: BTreeMap<_, _> = notes.iter().copied().collect();
        let labels = json!({"app": "web"});
        let service = json!({
            "metadata": {"name": "web"},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
        });
        done("POST", &self.core("services"), &service);
        let container = json!({"name": "c", "image": "none", "ports": [{"containerPort": 8080}]});
        let workload = json!({
            "metadata": {"name": "web"},
            "spec": {
                "replicas": replicas,
                "serviceName": "web",
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels, "annotations": notes},
                    "spec": {"containers": [container]},
                },
            },
        });
        let mut workload = workload;
        if plural == "deployments" {
            workload["spec"]
                .as_object_mut()
                .expect("a spec")
                .remove("serviceName");
        }
        done("POST", &self.apps(plural), &workload);
    }

    /// How many pods it is to have.
    pub(crate) fn replicas(&self, plural: &str) -> u64 {
        let scale = done(
            "GET",
            &self.apps(&format!("{plural}/web/scale")),
            &Value::Null,
        );
        scale["spec"]["replicas"].as_u64().unwrap_or_default()
    }

    /// The pods of the workload.
    pub(crate) fn pods(&self) -> Vec<Value> {
        let mut list = done(
            "GET",
            &self.core("pods?labelSelector=app%3Dweb"),
            &Value::Null,
        );
        serde_json::from_value(list["items"].take()).expect("a list")
    }

    /// How many pods of it are ready.
    pub(crate) fn ready(&self) -> usize {
        let is_ready = |pod: &&Value| {
            let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
            let mut ready = conditions.filter(|it| it["type"] == "Ready" && it["status"] == "True");
            ready.next().is_some()
        };
        self.pods().iter().filter(is_ready).count()
    }

    /// Waits until it is scaled to zero, and no pod is left.
    pub(crate) fn sleeps(&self, plural: &str) {
        until("scaled to zero", || self.replicas(plural) == 0);
        until("no pod", || self.pods().is_empty());
    }

    /// What the Lease says, by the ends of its annotations' names.
    pub(crate) fn lease(&self, name: &str) -> BTreeMap<String, String> {
        let lease = api("GET", &self.leases(name), &Value::Null).1;
        let notes = lease["metadata"]["annotations"].as_object().cloned();
        let notes = notes.into_iter().flatten().filter_map(|(key, value)| {
            let key = key.strip_prefix("wakeport/")?.to_owned();
            Some((key, value.as_str().unwrap_or_default().to_owned()))
        });
        notes.collect()
    }

    /// How many claims there are on the Lease of `deployment/web`.
    pub(crate) fn claims(&self) -> usize {
        let lease = self.lease(crate::LEASE);
        lease.keys().filter(|key| key.starts_with("claim.")).count()
    }

    /// A Lease with these annotations.
    pub(crate) fn new_lease(&self, name: &str, notes: &Value) {
        let lease = json!({"metadata": {"name": name, "annotations": notes}});
        done("POST", &self.leases(""), &lease);
    }

    /// Gives the user `limited` these rights, and no others.
    pub(crate) fn allow(&self, rules: &[Value]) {
        let path = format!(
            "/apis/rbac.authorization.k8s.io/v1/namespaces/{}",
            self.name
        );
        let role = json!({"metadata": {"name": "wakeport"}, "rules": rules});
        // That creates it where there is none.
        done("PUT", &format!("{path}/roles/wakeport"), &role);
        let binding = json!({
            "metadata": {"name": "wakeport"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "wakeport"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "limited"}],
        });
        done("PUT", &format!("{path}/rolebindings/wakeport"), &binding);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = api(
            "DELETE",
            &format!("/api/v1/namespaces/{}", self.name),
            &Value::Null,
        );
    }
}
