//! What people install: the chart and what kustomize renders, by the tools themselves, and on the control plane.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The versions whose schemas the manifests have to fit.
const VERSIONS: std::ops::RangeInclusive<u32> = 25..=37;

/// The sets of values in the repository.
const VALUES: [&str; 3] = [
    "examples/kubernetes-tcp/values.yaml",
    "examples/kubernetes-http/values.yaml",
    "tests/k8s/all-values.yaml",
];

pub(crate) fn repo(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A program of `tests/k8s/tools`.
pub(crate) fn tool(name: &str) -> Command {
    let tools = std::env::var_os("WAKEPORT_K8S_TOOLS").expect("`tests/k8s/run` runs these tests");
    let mut command = Command::new(Path::new(&tools).join("bin").join(name));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

fn run(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .expect("tests/k8s/tools has it")
}

/// What a command says, on both streams.
fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

fn printed(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What the chart makes of the values, as text of YAML.
fn rendered(options: &[&str]) -> Output {
    let mut helm = tool("helm");
    helm.args(["template", "wakeport", "deploy/helm/wakeport"]);
    helm.args(["--namespace", "shop", "--kube-version", "1.37.0"]);
    run(helm.args(options))
}

fn chart(options: &[&str]) -> String {
    let output = rendered(options);
    assert!(output.status.success(), "{options:?}: {}", said(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The documents of a text of YAML.
fn documents(yaml: &str) -> Vec<Value> {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("all.yaml");
    fs::write(&file, yaml).expect("a file");
    let output = tool("yaml-to-json")
        .stdin(fs::File::open(file).expect("a file"))
        .output()
        .expect("tests/k8s/tools has it");
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).expect("a list")
}

fn by_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let named = objects.into_iter().map(|object| {
        let part = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        (format!("{} {name}", part("kind")), object)
    });
    named.collect()
}

fn only<'a>(objects: &'a BTreeMap<String, Value>, kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|(name, _)| name.starts_with(kind));
    found.next().unwrap_or_else(|| panic!("no {kind}")).1
}

/// Whether the schemas of this version accept a text of YAML, and what they say.
fn validated(version: u32, yaml: &str) -> (bool, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("all.yaml");
    fs::write(&file, yaml).expect("a file");
    let mut validate = tool("kubernetes-validate");
    validate.args(["--strict", "--kubernetes-version", &format!("1.{version}")]);
    let output = run(validate.arg(file));
    (output.status.success(), said(&output))
}

#[test]
#[ignore = "tests/k8s/run"]
fn the_chart_passes_lint_and_the_schemas_of_each_version() {
    let mut all = String::new();
    for values in VALUES {
        let mut lint = tool("helm");
        printed(lint.args([
            "lint",
            "--strict",
            "deploy/helm/wakeport",
            "--values",
            values,
        ]));
        all += &chart(&["--values", values]);
    }
    for example in ["kubernetes-tcp", "kubernetes-http"] {
        all += "---\n";
        all += &printed(tool("kubectl").args(["kustomize", &format!("examples/{example}")]));
    }
    for version in VERSIONS {
        let (valid, why) = validated(version, &all);
        assert!(valid, "1.{version}: {why}");
    }
    // And these can say no.
    let wrong = all.replacen("maxUnavailable: 0", "maxUnavailabl: 0", 1);
    assert_ne!(wrong, all);
    let (valid, why) = validated(37, &wrong);
    assert!(!valid && why.contains("maxUnavailabl"), "{why}");
}

/// The same objects, as far as they are not what each tool says of itself.
fn comparable(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let mut objects = by_name(objects);
    let hashed: Vec<_> = objects
        .keys()
        .filter(|name| name.starts_with("ConfigMap"))
        .cloned()
        .collect();
    for name in hashed {
        let mut map = objects.remove(&name).expect("it is there");
        map["metadata"]["name"] = "wakeport".into();
        // Its comments and the order of its keys are for people.
        let file = map["data"]["wakeport.toml"].as_str().expect("a file");
        let lines = file
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default().trim());
        let mut section = String::new();
        let mut keys: Vec<String> = lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                if line.starts_with('[') {
                    section = line.to_owned();
                }
                format!("{section} {}", line.replace(['"', ' '], ""))
            })
            .collect();
        keys.sort();
        map["data"]["wakeport.toml"] = json!(keys);
        objects.insert("ConfigMap".into(), map);
    }
    for object in objects.values_mut() {
        let metadata = object["metadata"].as_object_mut().expect("metadata");
        metadata.remove("labels");
        metadata.remove("namespace");
    }
    let deployment = objects.get_mut("Deployment wakeport").expect("wakeport");
    let template = &mut deployment["spec"]["template"];
    template["metadata"]
        .as_object_mut()
        .expect("metadata")
        .remove("annotations");
    template["spec"]["volumes"][0]["configMap"]["name"] = "wakeport".into();
    let env = template["spec"]["containers"][0]["env"].as_array_mut();
    env.expect("variables")
        .sort_by_key(|one| one["name"].to_string());
    objects
}

#[test]
#[ignore = "tests/k8s/run"]
fn kustomize_renders_what_the_chart_renders() {
    for (example, theirs, namespace) in [
        ("kubernetes-tcp", "postgresql.yaml", "shop"),
        ("kubernetes-http", "apps.yaml", "sites"),
    ] {
        let folder = format!("examples/{example}");
        let kustomized = printed(tool("kubectl").args(["kustomize", &folder]));
        let values = format!("{folder}/values.yaml");
        let options = ["--values", &values, "--namespace", namespace];
        let mut charted = documents(&chart(&options));
        let theirs = fs::read_to_string(repo(&folder).join(theirs)).expect("a file");
        charted.extend(documents(&theirs));
        let (kustomized, charted) = (comparable(documents(&kustomized)), comparable(charted));
        let names = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&kustomized), names(&charted), "{example}");
        for (name, object) in kustomized {
            assert_eq!(object, charted[&name], "{example}: {name}");
        }
    }
}

#[test]
#[ignore = "tests/k8s/run"]
fn values_that_cannot_be_meant_are_refused() {
    let tcp = ["--values", VALUES[0]];
    for (set, why) in [
        ("services.db.cooldwon=1s", "cooldwon"),
        ("services.db.unit=db.service", "unit"),
        ("services.db.namespace=other", "namespace"),
        ("services.db.scale=db", "scale"),
        ("services.db.scale=gizmo/db", "PLURAL[.VERSION].GROUP"),
        ("services.db.to=null", "to"),
        ("replicas=0", "replicas"),
        ("drainTimeout=1min", "drainTimeout"),
        ("listeners[0].name=metrics", "listeners"),
        ("listeners=null", "no port for clients"),
        ("services=null", "nothing to wake"),
        ("imagee.tag=1", "imagee"),
    ] {
        let output = rendered(&[&tcp[..], &["--set", set]].concat());
        let said = said(&output);
        assert!(
            !output.status.success() && said.contains(why),
            "{set}: {said}"
        );
    }
}

fn rules(values: &str) -> Vec<Value> {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("values.yaml");
    fs::write(&file, values).expect("a file");
    let objects = by_name(documents(&chart(&["--values", &file.to_string_lossy()])));
    let rules = only(&objects, "Role ")["rules"].clone();
    serde_json::from_value(rules).expect("a list")
}

#[test]
#[ignore = "tests/k8s/run"]
fn the_role_has_what_the_services_need_and_no_more() {
    let values = r"
services:
  a: {scale: [deploy/a, sts/b], to: 'service/pods:80'}
  c: {scale: deployment/c, to: ['x=service/pods:http', 'v=service/others:443'], lease: mine, listener: [x, v]}
  d: {scale: rollouts.v1alpha1.argoproj.io/d, to: service/pods, listener: z}
  e: {scale: rc/e, to: service/pods, listener: w}
listeners: [{name: x, port: 8080}]
";
    let rule = |group: &str, resource: &str, names: &[&str], verbs: &[&str]| {
        let mut rule = json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
        if !names.is_empty() {
            rule["resourceNames"] = json!(names);
        }
        rule
    };
    let scaled = |group: &str, plural: &str, names: &[&str]| {
        [
            rule(group, &format!("{plural}/scale"), names, &["get", "patch"]),
            rule(group, plural, names, &["get", "list", "watch"]),
        ]
    };
    let leases = [
        "mine",
        "wakeport-deployment-a",
        "wakeport-replicationcontroller-e",
        "wakeport-rollouts-d",
    ];
    let mut expected = Vec::new();
    expected.extend(scaled("apps", "deployments", &["a", "c"]));
    expected.extend(scaled("", "replicationcontrollers", &["e"]));
    expected.extend(scaled("argoproj.io", "rollouts", &["d"]));
    expected.extend(scaled("apps", "statefulsets", &["b"]));
    expected.extend([
        rule(
            "discovery.k8s.io",
            "endpointslices",
            &[],
            &["list", "watch"],
        ),
        rule("", "pods", &[], &["list"]),
        rule("", "services", &["others", "pods"], &["get"]),
        rule(
            "coordination.k8s.io",
            "leases",
            &leases,
            &["get", "list", "watch", "update"],
        ),
    ]);
    let mut found = rules(values);
    let key = |rule: &Value| rule.to_string();
    found.sort_by_key(key);
    expected.sort_by_key(key);
    assert_eq!(found, expected);
}

/// What the pod needs to end in order.
#[test]
#[ignore = "tests/k8s/run"]
fn a_pod_has_the_time_that_its_drain_takes() {
    let set = ["--set", "drainDelay=7,drainTimeout=100"];
    let objects = by_name(documents(&chart(
        &[&["--values", VALUES[1]][..], &set].concat(),
    )));
    let pod = &only(&objects, "Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod["terminationGracePeriodSeconds"], 117);
    let env: BTreeMap<_, _> = environment(pod).collect();
    assert_eq!(env["WAKEPORT_DRAIN_DELAY"], "7s");
    assert_eq!(env["WAKEPORT_DRAIN_TIMEOUT"], "100s");
}

/// The variables of the first container of a pod.
pub(crate) fn environment(pod: &Value) -> impl Iterator<Item = (String, String)> + '_ {
    let all = pod["containers"][0]["env"].as_array().into_iter().flatten();
    all.map(|one| {
        let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
        (text("name"), text("value"))
    })
}

/// A clone of the repository, as far as pages use it, and the machine of an administrator.
pub(crate) struct Administrator {
    dir: TempDir,
}

impl Administrator {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for folder in ["deploy", "examples"] {
            let mut copy = Command::new("cp");
            printed(copy.arg("-r").arg(repo(folder)).arg(dir.path()));
        }
        Self { dir }
    }

    /// Changes a file of the clone, as a page asks its readers to or an old API server does.
    pub(crate) fn edit(&self, path: &str, from: &str, to: &str) {
        let path = self.dir.path().join(path);
        let text = fs::read_to_string(&path).expect("a file");
        assert!(text.contains(from), "{}: no `{from}`", path.display());
        fs::write(path, text.replace(from, to)).expect("a file");
    }

    /// Runs a command line there.
    pub(crate) fn types(&self, commands: &str) -> String {
        let tools = std::env::var("WAKEPORT_K8S_TOOLS").expect("`tests/k8s/run` runs these tests");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("bash");
        shell
            .args(["-euo", "pipefail", "-c", commands])
            .current_dir(self.dir.path())
            .env("PATH", format!("{tools}/bin:{path}"))
            .env("HOME", self.dir.path())
            .env(
                "KUBECONFIG",
                crate::cluster::folder().join("admin.kubeconfig"),
            );
        printed(&mut shell)
    }

    /// Runs the commands of a section of a page.
    pub(crate) fn follows(&self, place: &str) {
        let path = place.split('#').next().expect("a path");
        let sections = crate::pages::Page::at(Path::new(path)).sections();
        let section = sections.iter().find(|section| section.place == place);
        let section = section.unwrap_or_else(|| panic!("there is no {place}"));
        let blocks: Vec<_> = section.blocks.iter().filter(|it| it.is("sh")).collect();
        assert!(!blocks.is_empty(), "{place} has no commands");
        for block in blocks {
            self.types(&block.text);
        }
    }
}
