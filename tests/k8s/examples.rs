//! `examples/kubernetes-*`, as their pages say, and wakeport in the place of its pod.

use serde_json::Value;

use crate::cluster::until;
use crate::deploy::Administrator;
use crate::deployed::{Deployed, Made};

fn wakes_and_sleeps_postgresql(space: &Made) {
    let wakeport = Deployed::start(space, 0);
    // An apply has started it; nobody has a claim.
    space.sleeps("statefulsets", "db");
    let mut client = wakeport.connect();
    assert_eq!(client.greeted(), "db-0");
    client.echoes("select");
    assert_eq!(space.replicas("statefulsets", "db"), 1);
    client.closes();
    space.sleeps("statefulsets", "db");
    let log = wakeport.log();
    assert!(
        !log.contains("forbidden") && !log.contains("is called"),
        "{log}"
    );
}

#[test]
#[ignore = "tests/k8s/run"]
fn postgresql_behind_wakeport_by_kustomize() {
    let space = Made::new("shop");
    let administrator = Administrator::new();
    administrator.follows("examples/kubernetes-tcp/README.md#with-kustomize");
    wakes_and_sleeps_postgresql(&space);
    administrator.follows("examples/kubernetes-tcp/README.md#what-it-does");
}

#[test]
#[ignore = "tests/k8s/run"]
fn postgresql_behind_wakeport_by_helm() {
    let space = Made::new("shop");
    let administrator = Administrator::new();
    administrator.follows("examples/kubernetes-tcp/README.md#with-helm");
    wakes_and_sleeps_postgresql(&space);
    // An upgrade leaves what the Lease says alone, and the StatefulSet asleep.
    let before = lease(&administrator);
    assert_eq!(before["wakeport/state"], "asleep");
    administrator.types("helm upgrade wakeport deploy/helm/wakeport --namespace shop --reuse-values --set logLevel=debug");
    administrator
        .types("kubectl apply --namespace shop --filename examples/kubernetes-tcp/postgresql.yaml");
    assert_eq!(lease(&administrator), before);
    assert_eq!(space.replicas("statefulsets", "db"), 0);
}

fn lease(administrator: &Administrator) -> Value {
    let lease = "kubectl --namespace shop get lease wakeport-statefulset-db --output json";
    let lease: Value = serde_json::from_str(&administrator.types(lease)).expect("JSON");
    let mut notes = lease["metadata"]["annotations"].clone();
    notes
        .as_object_mut()
        .expect("annotations")
        .retain(|key, _| key.starts_with("wakeport/"));
    notes
}

fn wakes_sites_by_host(space: &Made) {
    let [one, two] = [0, 1].map(|number| Deployed::start(space, number));
    for name in ["shop", "shop-api", "wiki"] {
        space.sleeps("deployments", name);
    }
    assert!(one.asks("other.example.org").starts_with("404"));
    let answer = one.asks("shop.example.org");
    assert!(answer.starts_with("200 shop-"), "{answer}");
    assert_eq!(space.replicas("deployments", "shop-api"), 1);
    assert_eq!(space.replicas("deployments", "wiki"), 0);
    let answer = two.asks("wiki.example.org:80");
    assert!(answer.starts_with("200 wiki-"), "{answer}");
    for name in ["shop", "shop-api", "wiki"] {
        space.sleeps("deployments", name);
    }
    for log in [one.log(), two.log()] {
        assert!(
            !log.contains("forbidden") && !log.contains("is called"),
            "{log}"
        );
    }
}

#[test]
#[ignore = "tests/k8s/run"]
fn sites_behind_wakeport_by_kustomize() {
    let space = Made::new("sites");
    let administrator = Administrator::new();
    // That is its version here.
    administrator.edit(
        "examples/kubernetes-http/wakeport.yaml",
        "policy/v1",
        "policy/v1beta1",
    );
    administrator.follows("examples/kubernetes-http/README.md#with-kustomize");
    wakes_sites_by_host(&space);
    administrator.follows("examples/kubernetes-http/README.md#what-it-does");
}

#[test]
#[ignore = "tests/k8s/run"]
fn sites_behind_wakeport_by_helm() {
    let space = Made::new("sites");
    let administrator = Administrator::new();
    administrator.follows("examples/kubernetes-http/README.md#with-helm");
    wakes_sites_by_host(&space);
    until("two pods of wakeport", || {
        space.pods("app.kubernetes.io/name=wakeport").len() == 2
    });
}
