//! KEDA's calls, as its source makes them (keda.py), and its ScaledObjects.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::{Namespace, api, done, until};
use crate::program::{Client, Wakeport};

/// What calls.
struct Keda {
    child: Child,
    dir: TempDir,
}

impl Keda {
    fn asks(address: &str, metadata: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let said = File::create(dir.path().join("said")).expect("a file");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/k8s/keda.py");
        let mut command = Command::new("/usr/bin/python3");
        let command = command.args([script, address]).args(metadata);
        let child = command.stdin(Stdio::null()).stdout(said);
        let child = child.spawn().expect("python3");
        Self { child, dir }
    }

    /// All lines that begin so, by now.
    fn lines(&self, word: &str) -> Vec<String> {
        let said = fs::read_to_string(self.dir.path().join("said")).unwrap_or_default();
        let lines = said.lines().filter_map(|line| line.strip_prefix(word));
        lines.map(|line| line.trim_start().to_owned()).collect()
    }

    fn last(&self, word: &str) -> String {
        self.lines(word).pop().unwrap_or_default()
    }

    /// Waits for a line that comes from now on.
    fn says(&self, word: &str, line: &str) {
        let before = self.lines(word).len();
        until(&format!("`{word} {line}`"), || {
            self.lines(word)
                .iter()
                .skip(before)
                .any(|said| said == line)
        });
    }
}

impl Drop for Keda {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the pod's wakeport is asked.
fn address(space: &Namespace, pod: &str) -> String {
    let pod = space.core(&format!("pods/{pod}"));
    let mut ip = Value::Null;
    until("an address", || {
        ip = done("GET", &pod, &Value::Null)["status"]["podIP"].clone();
        ip.is_string()
    });
    format!("{}:9091", ip.as_str().expect("a string"))
}

#[test]
#[ignore = "tests/k8s/run"]
fn keda_finds_it_active_from_the_first_client_until_it_is_at_zero() {
    let space = Namespace::new("keda");
    space.workload("deployments", 0, &[("test/delay", "4")]);
    let address = address(&space, "wakeport-test");
    let wakeport = Wakeport::start(&space, &["--keda", &address]);
    let keda = Keda::asks(
        &address,
        &["scalerAddress=x", "metric=connections", "target=2.5"],
    );
    keda.says("active", "False");
    assert_eq!(keda.last("spec"), "wakeport-connections 3 2.5");
    assert_eq!(keda.lines("stream"), ["False"]);

    let mut clients: Vec<Client> = (0..5).map(|_| wakeport.connect()).collect();
    keda.says("active", "True");
    keda.says("metric", "wakeport-connections 5");
    // KEDA drops what it is told just after it has scaled to zero itself.
    until("`true`, again and again", || keda.lines("stream").len() > 3);
    for client in &mut clients {
        client.greeted();
    }
    assert_eq!(space.replicas("deployments"), 1);
    // One may be under way.
    thread::sleep(Duration::from_millis(1500));
    let told = keda.lines("stream").len();
    keda.says("active", "True");
    keda.says("active", "True");
    assert_eq!(
        keda.lines("stream").len(),
        told,
        "each would refresh KEDA's cooldown"
    );
    let left = clients.split_off(2);
    clients.into_iter().for_each(Client::closes);
    keda.says("metric", "wakeport-connections 3");
    left.into_iter().for_each(Client::closes);
    until("scaled to zero", || space.replicas("deployments") == 0);
    keda.says("active", "False");
    keda.says("metric", "wakeport-connections 0");
    let streamed = keda.lines("stream");
    assert!(
        streamed[1..].iter().all(|said| said == "True"),
        "{streamed:?}"
    );
    assert_eq!(keda.lines("end"), Vec::<String>::new());
    assert_eq!(keda.lines("error"), Vec::<String>::new());

    // The next rise is told again.
    let mut client = wakeport.connect();
    until("a rise", || keda.lines("stream").len() > told);
    client.greeted();
}

#[test]
#[ignore = "tests/k8s/run"]
fn a_stream_of_keda_ends_with_status_0_on_sigterm_and_questions_are_answered_until_the_end() {
    let space = Namespace::new("keda-end");
    space.workload("deployments", 0, &[]);
    let address = address(&space, "wakeport-test");
    let wakeport = Wakeport::start(&space, &["--keda", &address]);
    let keda = Keda::asks(&address, &[]);
    let mut client = wakeport.connect();
    client.greeted();
    keda.says("active", "True");
    wakeport.signal(Signal::TERM);
    until("its stream ends", || !keda.lines("end").is_empty());
    keda.says("active", "True");
    client.echoes("still here");
    // Opened again while we drain, it says what there is and ends in the same way.
    until("its next stream ends", || keda.lines("end").len() > 1);
    assert!(
        keda.lines("end").iter().all(|end| end == "OK"),
        "{:?}",
        keda.lines("end")
    );
    client.closes();
    until("nobody answers", || {
        keda.last("error").starts_with("UNAVAILABLE")
    });
}

#[test]
#[ignore = "tests/k8s/run"]
fn an_idle_wakeport_ends_its_streams_before_it_exits() {
    let space = Namespace::new("keda-idle");
    space.workload("deployments", 0, &[]);
    let address = address(&space, "wakeport-test");
    let wakeport = Wakeport::start(&space, &["--keda", &address]);
    let keda = Keda::asks(&address, &[]);
    keda.says("active", "False");
    wakeport.signal(Signal::TERM);
    until("its stream ends", || !keda.lines("end").is_empty());
    assert_eq!(keda.lines("end")[0], "OK");
}

#[test]
#[ignore = "tests/k8s/run"]
fn whichever_wakeport_keda_asks_tells_of_the_clients_of_all() {
    let space = Namespace::new("keda-two");
    space.workload("deployments", 0, &[]);
    space.pod("other");
    let [ours, theirs] = ["wakeport-test", "other"].map(|pod| address(&space, pod));
    let start = |pod: &str, keda: &str| {
        let options = [
            "--scale",
            "deployment/web",
            "--to",
            "service/web",
            "--keda",
            keda,
        ];
        Wakeport::of("admin", pod, &space, &options)
    };
    let (one, two) = (start("", &ours), start("other", &theirs));
    let keda = Keda::asks(&ours, &["metric=connections"]);
    keda.says("active", "False");
    let mut clients: Vec<Client> = (0..3).map(|_| two.connect()).collect();
    clients.iter_mut().for_each(|client| _ = client.greeted());
    keda.says("active", "True");
    keda.says("metric", "wakeport-connections 3");
    let mut own = one.connect();
    own.greeted();
    keda.says("metric", "wakeport-connections 4");
    // One that does not answer still has the clients that it had.
    two.signal(Signal::STOP);
    keda.says("metric", "wakeport-connections 4");
    two.signal(Signal::CONT);
    own.closes();
    clients.into_iter().for_each(Client::closes);
    until("scaled to zero", || space.replicas("deployments") == 0);
    keda.says("active", "False");
    keda.says("metric", "wakeport-connections 0");
}

#[test]
#[ignore = "tests/k8s/run"]
fn a_trigger_that_is_wrong_is_told_so_and_not_that_nothing_is_active() {
    let space = Namespace::new("keda-wrong");
    space.workload("deployments", 0, &[]);
    let address = address(&space, "wakeport-test");
    let wakeport = Wakeport::start(&space, &["--keda", &address]);
    for (metadata, why) in [
        (
            "service=shop",
            "INVALID_ARGUMENT there is no service `shop` here",
        ),
        (
            "metric=requests",
            "INVALID_ARGUMENT `metric: requests` needs a wakeport with `--http`",
        ),
        ("target=-1", "INVALID_ARGUMENT `target` is how many"),
    ] {
        let keda = Keda::asks(&address, &[metadata]);
        until(why, || keda.last("error").starts_with(why));
        assert_eq!(keda.lines("active"), Vec::<String>::new());
    }
    assert!(!wakeport.log().contains("panicked"), "{}", wakeport.log());
}

/// The fields of KEDA's own definition that wakeport's pages use, and the types that it gives them.
fn definition() -> Value {
    let of = |kind: &str| json!({"type": kind});
    let trigger = json!({
        "type": "object", "required": ["metadata", "type"],
        "properties": {
            "type": of("string"), "name": of("string"), "metricType": of("string"),
            "metadata": {"type": "object", "additionalProperties": of("string")},
        },
    });
    let spec = json!({
        "type": "object", "required": ["scaleTargetRef", "triggers"],
        "properties": {
            "scaleTargetRef": {
                "type": "object", "required": ["name"],
                "properties": {"name": of("string"), "kind": of("string"), "apiVersion": of("string")},
            },
            "minReplicaCount": {"type": "integer", "format": "int32"},
            "maxReplicaCount": {"type": "integer", "format": "int32"},
            "pollingInterval": {"type": "integer", "format": "int32"},
            "cooldownPeriod": {"type": "integer", "format": "int32"},
            "triggers": {"type": "array", "items": trigger},
        },
    });
    let properties = json!({
        "apiVersion": of("string"), "kind": of("string"), "metadata": of("object"), "spec": spec,
    });
    let schema = json!({"type": "object", "required": ["spec"], "properties": properties});
    json!({
        "metadata": {"name": "scaledobjects.keda.sh"},
        "spec": {
            "group": "keda.sh", "scope": "Namespaced",
            "names": {"plural": "scaledobjects", "singular": "scaledobject", "kind": "ScaledObject"},
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}},
            }],
        },
    })
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// KEDA's kinds, as long as this lives.
pub(crate) struct Kinds;

impl Kinds {
    pub(crate) fn new(space: &Namespace) -> Self {
        // Those of another test may not be gone yet.
        until("the kind is made", || {
            api("POST", DEFINITIONS, &definition()).0 == 201
        });
        until("the kind is served", || {
            api("GET", &objects(space), &Value::Null).0 == 200
        });
        Self
    }
}

impl Drop for Kinds {
    fn drop(&mut self) {
        let _ = api(
            "DELETE",
            &format!("{DEFINITIONS}/scaledobjects.keda.sh"),
            &Value::Null,
        );
    }
}

pub(crate) fn objects(space: &Namespace) -> String {
    format!(
        "/apis/keda.sh/v1alpha1/namespaces/{}/scaledobjects",
        space.name
    )
}

/// Reads YAML, of which a page has some.
fn yaml(text: &str) -> Value {
    let script = "import json, sys, yaml\nprint(json.dumps(yaml.safe_load(sys.argv[1])))";
    let mut command = Command::new("/usr/bin/python3");
    let read = command
        .args(["-c", script, text])
        .output()
        .expect("python3");
    let problem = String::from_utf8_lossy(&read.stderr).into_owned();
    serde_json::from_slice(&read.stdout).unwrap_or_else(|_| panic!("{text}\n{problem}"))
}

#[test]
#[ignore = "tests/k8s/run"]
fn the_api_server_takes_the_scaled_objects_of_the_page_as_they_are() {
    let space = Namespace::new("keda-page");
    let _kinds = Kinds::new(&space);
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/kubernetes.md"));
    let page = page.expect("the page");
    let blocks = page.split("```").skip(1).step_by(2);
    let objects_of_page: Vec<Value> = blocks
        .filter_map(|block| Some(block.split_once('\n')?.1))
        .filter(|block| block.contains("kind: ScaledObject"))
        .map(yaml)
        .collect();
    assert!(
        objects_of_page.len() >= 3,
        "{} are there",
        objects_of_page.len()
    );
    for object in objects_of_page {
        let taken = done("POST", &objects(&space), &object);
        // It leaves out what it does not know.
        assert_eq!(taken["spec"], object["spec"]);
        let name = object["metadata"]["name"].as_str().expect("a name");
        done(
            "DELETE",
            &format!("{}/{name}", objects(&space)),
            &Value::Null,
        );
    }
}
