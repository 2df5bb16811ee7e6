//! wakeport on a real control plane of Kubernetes, with a stand-in for the kubelet. `tests/k8s/run` runs them.

mod check;
mod cluster;
mod deploy;
mod deployed;
mod examples;
mod faults;
mod keda;
mod kills;
#[path = "../docs/pages.rs"]
#[allow(dead_code, reason = "other tests read more of them")]
mod pages;
mod program;

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use cluster::{Namespace, Stopped, api, done, get, now, until};
use program::{Client, KUBECONFIG, WEB, Wakeport};

const LEASE: &str = "wakeport-deployment-web";

#[test]
#[ignore = "tests/k8s/run"]
fn a_deployment_is_woken_for_clients_that_are_held_and_sleeps_after_them() {
    let space = Namespace::new("deployment");
    space.workload("deployments", 0, &[("test/delay", "1")]);
    let wakeport = Wakeport::start(&space, &[]);
    let mut clients: Vec<Client> = (0..20).map(|_| wakeport.connect()).collect();
    for client in &mut clients {
        assert!(client.greeted().starts_with("web-"));
        client.echoes("hello");
    }
    assert_eq!(space.replicas("deployments"), 1);
    let lease = space.lease(LEASE);
    let pod = done("GET", &space.core("pods/wakeport-test"), &Value::Null);
    let claim = format!("claim.{}", pod["metadata"]["uid"].as_str().expect("a UID"));
    assert_eq!(
        lease.get(&claim).map(String::as_str),
        Some("deployment/wakeport-test")
    );
    assert_eq!(lease["state"], "awake");
    clients.into_iter().for_each(Client::closes);
    space.sleeps("deployments");
    until("the claim is dropped", || {
        let lease = space.lease(LEASE);
        lease["state"] == "asleep" && !lease.contains_key(&claim)
    });
    assert_eq!(space.lease(LEASE)["replicas"], "deployment/web=1");
}

#[test]
#[ignore = "tests/k8s/run"]
fn a_statefulset_that_runs_is_taken_over_and_gets_back_as_many_pods_as_it_had() {
    let space = Namespace::new("statefulset");
    space.workload("statefulsets", 2, &[]);
    until("two pods", || space.ready() == 2);
    let options = ["--scale", "statefulset/web", "--to", "service/web"];
    let wakeport = Wakeport::of("admin", "", &space, &options);
    wakeport.logs("no wakeport has a claim: taken over");
    space.sleeps("statefulsets");
    let mut client = wakeport.connect();
    assert!(client.greeted().starts_with("web-"));
    until("as many pods as before", || {
        space.replicas("statefulsets") == 2 && space.ready() == 2
    });
    client.closes();
    space.sleeps("statefulsets");
}

#[test]
#[ignore = "tests/k8s/run"]
fn connections_are_balanced_over_the_ready_pods_by_count() {
    let space = Namespace::new("balance");
    space.workload("deployments", 0, &[]);
    let wakeport = Wakeport::start(&space, &["--replicas", "3"]);
    let mut first = wakeport.connect();
    first.greeted();
    until("three pods", || space.ready() == 3);
    first.closes();
    // The watch follows: until a connection has reached each of them.
    let mut seen = BTreeMap::new();
    until("a connection to each", || {
        let mut probes: Vec<Client> = (0..6).map(|_| wakeport.connect()).collect();
        for probe in &mut probes {
            *seen.entry(probe.greeted()).or_insert(0) += 1;
        }
        probes.into_iter().for_each(Client::closes);
        seen.len() == 3
    });
    let mut counts = BTreeMap::new();
    let mut clients: Vec<Client> = (0..12).map(|_| wakeport.connect()).collect();
    for client in &mut clients {
        *counts.entry(client.greeted()).or_insert(0) += 1;
    }
    // One of the probes may have ended here a little later than there.
    let counts: Vec<i32> = counts.into_values().collect();
    assert!(
        counts.len() == 3 && counts.iter().all(|count| (3..=5).contains(count)),
        "{counts:?}"
    );
}

fn is_terminating(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_string()
}

#[test]
#[ignore = "tests/k8s/run"]
fn a_wake_waits_until_the_pods_before_are_gone() {
    let space = Namespace::new("overlap");
    space.workload("deployments", 0, &[("test/grace", "3")]);
    let wakeport = Wakeport::start(&space, &["--cooldown", "100ms"]);
    let mut client = wakeport.connect();
    let before = client.greeted();
    client.closes();
    until("a pod that terminates", || {
        space.pods().iter().any(is_terminating)
    });
    let mut client = wakeport.connect();
    let both = || {
        let pods = space.pods();
        let going = pods.iter().filter(|pod| is_terminating(pod)).count();
        going > 0 && going < pods.len()
    };
    while client.is_silent(Duration::from_millis(20)) {
        assert!(!both(), "a new pod started while one terminated");
    }
    assert_ne!(client.greeted(), before);
}

#[test]
#[ignore = "tests/k8s/run"]
fn with_overlap_it_does_not_wait_for_pods_that_terminate() {
    let space = Namespace::new("with-overlap");
    space.workload("deployments", 0, &[("test/grace", "60")]);
    let wakeport = Wakeport::start(&space, &["--cooldown", "100ms", "--overlap"]);
    let mut client = wakeport.connect();
    let before = client.greeted();
    client.closes();
    until("a pod that terminates", || {
        space.pods().iter().any(is_terminating)
    });
    let mut client = wakeport.connect();
    assert_ne!(client.greeted(), before);
    let names: Vec<_> = space
        .pods()
        .iter()
        .map(|pod| pod["metadata"]["name"].clone())
        .collect();
    assert!(
        names.contains(&before.into()),
        "it is there still: {names:?}"
    );
}

#[test]
#[ignore = "tests/k8s/run"]
fn no_client_is_lost_through_200_rounds_of_wake_and_sleep() {
    let space = Namespace::new("rounds");
    space.workload("deployments", 0, &[("test/grace", "0.2")]);
    let wakeport = Wakeport::start(&space, &["--cooldown", "50ms"]);
    let rounds = || wakeport.log().matches("waking deployment/web for").count();
    let mut served = 0;
    while rounds() < 200 {
        // At every phase of the stop.
        served += wakeport.serves_four(|number| Duration::from_millis(number * (served % 11)));
        thread::sleep(Duration::from_millis(served * 7 % 400));
    }
    assert!(served >= 200, "{served} clients");
}

#[test]
#[ignore = "tests/k8s/run"]
fn the_role_is_enough_and_each_right_that_is_missing_is_named() {
    let space = Namespace::new("rights");
    space.workload("deployments", 0, &[]);
    space.new_lease(LEASE, &json!({}));
    let rule = |group: &str, resource: &str, name: Option<&str>, verbs: &[&str]| {
        let mut rule = json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
        if let Some(name) = name {
            rule["resourceNames"] = json!([name]);
        }
        rule
    };
    let rules = [
        rule("apps", "deployments/scale", Some("web"), &["get", "patch"]),
        rule(
            "apps",
            "deployments",
            Some("web"),
            &["get", "list", "watch"],
        ),
        rule(
            "discovery.k8s.io",
            "endpointslices",
            None,
            &["list", "watch"],
        ),
        rule("", "pods", None, &["list"]),
        rule(
            "coordination.k8s.io",
            "leases",
            Some(LEASE),
            &["get", "list", "watch", "update"],
        ),
    ];
    let start = || {
        let options = [
            "--scale",
            "deployment/web",
            "--to",
            "service/web",
            "--start-timeout",
            "5s",
        ];
        Wakeport::of("limited", "", &space, &options)
    };
    let allowed = |rules: &[Value]| {
        space.allow(rules);
        // The API server takes a moment to take note of it.
        thread::sleep(Duration::from_millis(500));
    };
    allowed(&rules);
    let wakeport = start();
    let mut client = wakeport.connect();
    client.greeted();
    client.closes();
    space.sleeps("deployments");
    assert!(!wakeport.log().contains("forbidden"), "{}", wakeport.log());
    drop(wakeport);
    for (index, resource) in [
        "deployments/scale",
        "deployments",
        "endpointslices",
        "pods",
        "leases",
    ]
    .into_iter()
    .enumerate()
    {
        let mut fewer = rules.to_vec();
        fewer.remove(index);
        allowed(&fewer);
        let wakeport = start();
        let _client = wakeport.connect();
        wakeport.logs(&format!(
            "forbidden; the Role needs {{apiGroups: [\"{}\"], resources: [{resource}]",
            rules[index]["apiGroups"][0].as_str().expect("a group")
        ));
    }
}

#[test]
#[ignore = "tests/k8s/run"]
fn while_the_api_server_hangs_connections_go_on_and_new_ones_are_served() {
    let space = Namespace::new("hanging");
    space.workload("deployments", 0, &[]);
    let wakeport = Wakeport::start(&space, &["--cooldown", "2s"]);
    let mut client = wakeport.connect();
    client.greeted();
    let hanging = Stopped::program("kube-apiserver");
    for _ in 0..3 {
        let mut other = wakeport.connect();
        other.greeted();
        other.echoes("hello");
        client.echoes("hello");
        other.closes();
    }
    // Its cooldown is over while it hangs: it can only be stopped later.
    client.closes();
    wakeport.logs("stopping");
    drop(hanging);
    space.sleeps("deployments");
    let mut again = wakeport.connect();
    again.greeted();
}

#[test]
#[ignore = "tests/k8s/run"]
fn a_client_that_comes_while_the_api_server_is_away_waits_for_it() {
    let space = Namespace::new("away");
    space.workload("deployments", 0, &[]);
    let wakeport = Wakeport::start(&space, &[]);
    let hanging = Stopped::program("kube-apiserver");
    let mut client = wakeport.connect();
    assert!(client.is_silent(Duration::from_secs(2)));
    drop(hanging);
    client.greeted();
    client.echoes("hello");
}

#[test]
#[ignore = "tests/k8s/run"]
fn the_last_of_two_wakeports_stops_it_and_not_the_first() {
    let space = Namespace::new("two");
    space.workload("deployments", 0, &[]);
    space.pod("other");
    let options = [&WEB[..], &["--cooldown", "200ms"]].concat();
    let [one, two] = ["", "other"].map(|pod| Wakeport::of("admin", pod, &space, &options));
    let (mut first, mut second) = (one.connect(), two.connect());
    first.greeted();
    second.greeted();
    assert_eq!(space.claims(), 2);
    first.closes();
    one.logs("other wakeports have connections to it: it stays up");
    until("one claim is dropped", || space.claims() == 1);
    assert_eq!(space.replicas("deployments"), 1);
    second.echoes("still here");
    // It comes back to a service that runs.
    let mut first = one.connect();
    first.greeted();
    second.closes();
    two.logs("other wakeports have connections to it: it stays up");
    first.echoes("still here");
    first.closes();
    space.sleeps("deployments");
}

#[test]
#[ignore = "tests/k8s/run"]
fn two_wakeports_that_wait_for_the_same_pods_to_go_are_both_served_by_the_next_ones() {
    let space = Namespace::new("both");
    space.workload("deployments", 0, &[("test/grace", "3")]);
    space.pod("other");
    let options = [&WEB[..], &["--cooldown", "1s"]].concat();
    let [one, two] = ["", "other"].map(|pod| Wakeport::of("admin", pod, &space, &options));
    let mut client = one.connect();
    client.greeted();
    client.closes();
    until("pods that terminate", || {
        space.replicas("deployments") == 0 && space.pods().iter().any(is_terminating)
    });
    let mut first = one.connect();
    // Their looks at what is left are not to coincide.
    thread::sleep(Duration::from_millis(700));
    let mut second = two.connect();
    first.greeted();
    second.greeted();
}

#[test]
#[ignore = "tests/k8s/run"]
fn the_claim_of_a_pod_that_is_gone_is_void_and_one_that_is_there_is_not() {
    let space = Namespace::new("void");
    space.workload("deployments", 0, &[]);
    space.pod("other");
    let options = WEB;
    let two = Wakeport::of("admin", "other", &space, &options);
    two.connect().greeted();
    let mut second = two.connect();
    second.greeted();
    // As if its node was lost: nothing drops its claim.
    two.signal(Signal::KILL);
    let one = Wakeport::start(&space, &["--cooldown", "200ms"]);
    let mut client = one.connect();
    client.greeted();
    client.closes();
    one.logs("other wakeports have connections to it: it stays up");
    assert_eq!(space.replicas("deployments"), 1);
    done("DELETE", &space.core("pods/other"), &Value::Null);
    until("the pod is gone", || {
        api("GET", &space.core("pods/other"), &Value::Null).0 == 404
    });
    let mut client = one.connect();
    client.greeted();
    client.closes();
    space.sleeps("deployments");
}

#[test]
#[ignore = "tests/k8s/run"]
fn a_stop_that_was_begun_by_a_pod_that_is_gone_is_waited_for() {
    let space = Namespace::new("fence");
    space.workload("deployments", 1, &[]);
    until("a pod", || space.ready() == 1);
    let notes = json!({"wakeport/state": "sleeping 0-0-0 fence/gone"});
    space.new_lease(LEASE, &notes);
    let began = now();
    let wakeport = Wakeport::start(&space, &[]);
    let mut client = wakeport.connect();
    client.greeted();
    // Its order could be carried out until then, under the client.
    assert!(
        began.elapsed() >= Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
}

/// What the fence goes by: an order that the store did not take within its time is not carried out later.
#[test]
#[ignore = "tests/k8s/run"]
fn an_order_with_a_time_limit_is_not_carried_out_after_it() {
    let space = Namespace::new("late-order");
    space.workload("deployments", 1, &[]);
    until("a pod", || space.ready() == 1);
    let stopped = Stopped::program("etcd");
    let path = space.apps("deployments/web/scale?fieldManager=wakeport&timeout=10s");
    let began = now();
    let (status, answer) = api("PATCH", &path, &json!({"spec": {"replicas": 0}}));
    assert!(status >= 500, "{status} {answer}");
    // As late as a wakeport goes by.
    thread::sleep(Duration::from_secs(15).saturating_sub(began.elapsed()));
    drop(stopped);
    until("the API server works again", || {
        api("GET", &space.core("pods"), &Value::Null).0 == 200
    });
    let again = now();
    while again.elapsed() < Duration::from_secs(5) {
        assert_eq!(space.replicas("deployments"), 1);
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
#[ignore = "tests/k8s/run"]
fn one_that_is_killed_and_starts_again_in_its_pod_takes_its_claim_over_and_sleeps() {
    let space = Namespace::new("killed");
    space.workload("deployments", 0, &[]);
    let wakeport = Wakeport::start(&space, &[]);
    let mut client = wakeport.connect();
    client.greeted();
    wakeport.signal(Signal::KILL);
    drop((client, wakeport));
    assert_eq!(space.replicas("deployments"), 1);
    let next = Wakeport::start(&space, &[]);
    next.connect().greeted();
    space.sleeps("deployments");
    until("it is asleep", || space.lease(LEASE)["state"] == "asleep");
}

#[test]
#[ignore = "tests/k8s/run"]
fn a_stop_that_is_refused_leaves_the_service_to_its_clients() {
    let space = Namespace::new("refused");
    space.workload("deployments", 1, &[]);
    until("a pod", || space.ready() == 1);
    let all = |verbs: &[&str]| {
        json!([
            {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": verbs},
            {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
             "verbs": ["get", "list", "watch", "update", "create"]},
        ])
    };
    let allow = |verbs: &[&str]| space.allow(all(verbs).as_array().expect("a list"));
    allow(&["get"]);
    let options = [&WEB[..], &["--cooldown", "200ms"]].concat();
    let wakeport = Wakeport::of("limited", "", &space, &options);
    wakeport.logs("resources: [deployments/scale], resourceNames: [web], verbs: [patch]");
    let mut client = wakeport.connect();
    client.greeted();
    assert_eq!(space.lease(LEASE)["state"], "awake");
    allow(&["get", "patch"]);
    client.closes();
    space.sleeps("deployments");
}

#[test]
#[ignore = "tests/k8s/run"]
fn any_resource_with_a_scale_is_woken_by_the_credentials_of_a_kubeconfig() {
    let space = Namespace::new("custom");
    let version = json!({
        "name": "v1beta3", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
        "subresources": {"status": {}, "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }},
    });
    let kind = json!({
        "metadata": {"name": "gadgets.wakeport.test"},
        "spec": {
            "group": "wakeport.test", "scope": "Namespaced", "versions": [version],
            "names": {"plural": "gadgets", "singular": "gadget", "kind": "Gadget"},
        },
    });
    let kinds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    done("POST", kinds, &kind);
    let gadgets = "/apis/wakeport.test/v1beta3/namespaces/custom/gadgets";
    let gadget = json!({
        "apiVersion": "wakeport.test/v1beta3", "kind": "Gadget",
        "metadata": {"name": "web"}, "spec": {"replicas": 0},
    });
    until("the kind is served", || {
        api("POST", gadgets, &gadget).0 == 201
    });
    let status = json!({"status": {"replicas": 0, "selector": "app=web"}});
    done("PATCH", &format!("{gadgets}/web/status"), &status);
    space.workload("deployments", 0, &[]);
    let options = [
        "--scale",
        "gadgets.wakeport.test/web",
        "--to",
        "service/web:80",
        "--replicas",
        "2",
    ];
    let wakeport = Wakeport::of(KUBECONFIG, "", &space, &options);
    let mut client = wakeport.connect();
    let wanted = || {
        let gadget = done("GET", &format!("{gadgets}/web"), &Value::Null);
        gadget["spec"]["replicas"].clone()
    };
    until("two are asked for", || wanted() == 2);
    // The Deployment does what the gadget's controller would.
    let scale = |replicas: u32| {
        let patch = json!({"spec": {"replicas": replicas}});
        done("PATCH", &space.apps("deployments/web/scale"), &patch);
    };
    scale(2);
    client.greeted();
    client.closes();
    until("none is asked for", || wanted() == 0);
    scale(0);
    let asleep = || space.lease("wakeport-gadgets-web").get("state").cloned();
    until("it is asleep", || asleep().as_deref() == Some("asleep"));
    done(
        "DELETE",
        &format!("{kinds}/gadgets.wakeport.test"),
        &Value::Null,
    );
}

#[test]
#[ignore = "tests/k8s/run"]
fn a_token_that_is_not_accepted_is_read_anew_while_clients_wait() {
    let space = Namespace::new("token");
    space.workload("deployments", 0, &[]);
    let options = WEB;
    let wakeport = Wakeport::of("nobody", "", &space, &options);
    let mut client = wakeport.connect();
    wakeport.logs("does not accept the credentials (401)");
    assert!(client.is_silent(Duration::from_secs(1)));
    wakeport.takes_the_token_of("admin");
    client.greeted();
}

#[test]
#[ignore = "tests/k8s/run"]
fn an_autoscaler_leaves_its_zero_alone_and_raises_what_is_woken() {
    let space = Namespace::new("autoscaler");
    space.workload("deployments", 0, &[]);
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let autoscaler = json!({
        "metadata": {"name": "web"},
        "spec": {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 3},
    });
    let path = "/apis/autoscaling/v1/namespaces/autoscaler/horizontalpodautoscalers";
    done("POST", path, &autoscaler);
    let wakeport = Wakeport::start(&space, &[]);
    let mut client = wakeport.connect();
    client.greeted();
    until("the autoscaler's minimum", || {
        space.replicas("deployments") == 2
    });
    client.echoes("hello");
    client.closes();
    space.sleeps("deployments");
    // Longer than its period.
    let began = now();
    while began.elapsed() < Duration::from_secs(20) {
        assert_eq!(space.replicas("deployments"), 0);
        thread::sleep(Duration::from_secs(1));
    }
    // As many as there were before.
    let mut client = wakeport.connect();
    client.greeted();
    assert_eq!(space.replicas("deployments"), 2);
}

#[test]
#[ignore = "tests/k8s/run"]
fn what_a_pod_waits_for_is_in_the_log_and_the_metrics_and_on_the_waiting_page() {
    let space = Namespace::new("reason");
    space.workload("deployments", 0, &[("test/stuck", "ImagePullBackOff")]);
    let options = [
        "--start-timeout",
        "30s",
        "--metrics",
        "127.0.0.1:9090",
        "--name",
        "web",
    ];
    let options = [
        &options[..],
        &["--http", "--page-after", "5s", "--page-details"],
    ]
    .concat();
    let wakeport = Wakeport::start(&space, &options);
    let mut client = wakeport.connect();
    client.asks("GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n");
    wakeport.logs("container `c`: ImagePullBackOff: a test says so");
    let mut page = String::new();
    until("a waiting page", || {
        page += &client.line();
        page.contains("It waits for pod `web-")
    });
    until("a metric", || {
        let metrics = get("http://127.0.0.1:9090/metrics");
        metrics.contains("wakeport_waking_reason{name=\"web\",reason=\"ImagePullBackOff\"} 1")
    });
    // What it has started is stopped again.
    wakeport.logs("no pod is ready (pod `web-");
    space.sleeps("deployments");
}

#[test]
#[ignore = "tests/k8s/run"]
fn what_a_person_scales_up_sleeps_a_cooldown_later_and_what_is_scaled_down_wakes() {
    let space = Namespace::new("person");
    space.workload("deployments", 0, &[]);
    let wakeport = Wakeport::start(&space, &[]);
    let scale = |replicas: u32| {
        let patch = json!({"spec": {"replicas": replicas}});
        done("PATCH", &space.apps("deployments/web/scale"), &patch);
    };
    scale(2);
    wakeport.logs("no wakeport has a claim: taken over");
    space.sleeps("deployments");
    let mut client = wakeport.connect();
    client.greeted();
    assert_eq!(space.replicas("deployments"), 2);
    scale(0);
    until("no pod", || space.pods().is_empty());
    let mut client = wakeport.connect();
    client.greeted();
    client.echoes("hello");
}
