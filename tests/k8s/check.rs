//! `wakeport check --scale`: the rights of whoever runs it, the workload, and what else scales it.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Namespace, done};
use crate::keda::{Kinds, objects};
use crate::program::{WEB, check};

const LEASE: &str = "wakeport-deployment-web";

/// The Role of docs/kubernetes.md, and how each of its lines is shown.
fn role() -> Vec<(Value, &'static str)> {
    let rule = |group: &str, resource: &str, name: Option<&str>, verbs: &[&str]| {
        let mut rule = json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
        if let Some(name) = name {
            rule["resourceNames"] = json!([name]);
        }
        rule
    };
    let (scale, web) = (&["get", "patch"][..], &["get", "list", "watch"][..]);
    let lease = &["get", "list", "watch", "update"][..];
    vec![
        (
            rule("apps", "deployments/scale", Some("web"), scale),
            "{apiGroups: [\"apps\"], resources: [deployments/scale], resourceNames: [web], verbs: [get, patch]}",
        ),
        (
            rule("apps", "deployments", Some("web"), web),
            "{apiGroups: [\"apps\"], resources: [deployments], resourceNames: [web], verbs: [get, list, watch]}",
        ),
        (
            rule("discovery.k8s.io", "endpointslices", None, &web[1..]),
            "{apiGroups: [\"discovery.k8s.io\"], resources: [endpointslices], verbs: [list, watch]}",
        ),
        (
            rule("", "pods", None, &["list"]),
            "{apiGroups: [\"\"], resources: [pods], verbs: [list]}",
        ),
        (
            rule("coordination.k8s.io", "leases", Some(LEASE), lease),
            "{apiGroups: [\"coordination.k8s.io\"], resources: [leases], resourceNames: [wakeport-deployment-web], verbs: [get, list, watch, update]}",
        ),
    ]
}

#[test]
#[ignore = "tests/k8s/run"]
fn each_right_that_is_missing_is_one_line_with_the_rule_to_add() {
    let space = Namespace::new("check-rights");
    space.workload("deployments", 0, &[]);
    space.new_lease(LEASE, &json!({}));
    let allowed = |rules: &[(Value, &str)]| {
        let rules: Vec<Value> = rules.iter().map(|(rule, _)| rule.clone()).collect();
        space.allow(&rules);
        // The API server takes a moment to take note of it.
        thread::sleep(Duration::from_millis(500));
    };
    let options = WEB;
    allowed(&role());
    let (code, said) = check("limited", &space, &options);
    assert!(code == 0 && !said.contains("error"), "{said}");
    for (index, (_, line)) in role().into_iter().enumerate() {
        let mut fewer = role();
        fewer.remove(index);
        allowed(&fewer);
        let (code, said) = check("limited", &space, &options);
        let errors: Vec<_> = said.lines().filter(|line| line.contains("error")).collect();
        let expected = format!("a right is missing; add to the Role: {line}");
        assert!(
            code == 1 && errors.len() == 1 && errors[0].contains(&expected),
            "{line}:\n{said}"
        );
    }
    // Half of a line.
    let mut fewer = role();
    fewer[0].0["verbs"] = json!(["get"]);
    allowed(&fewer);
    let said = check("limited", &space, &options).1;
    assert!(
        said.contains("resourceNames: [web], verbs: [patch]}"),
        "{said}"
    );
    // Without one it would have to be created.
    allowed(&role());
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/check-rights/leases/{LEASE}");
    done("DELETE", &lease, &Value::Null);
    let (code, said) = check("limited", &space, &options);
    let expected =
        "error: there is no Lease `wakeport-deployment-web`, and wakeport may not create it";
    assert!(code == 1 && said.contains(expected), "{said}");
    assert!(
        said.contains("resources: [leases], verbs: [create]}"),
        "{said}"
    );
}

#[test]
#[ignore = "tests/k8s/run"]
fn what_stands_in_the_way_of_a_workload_is_found() {
    let space = Namespace::new("check-workload");
    space.workload("deployments", 1, &[]);
    let said = |options: &[&str]| check("admin", &space, options);
    let found = |options: &[&str], code: i32, text: &str| {
        let (ended, said) = said(options);
        assert!(
            ended == code && said.contains(text),
            "{options:?}: {ended}\n{said}"
        );
    };
    let (code, text) = said(&WEB);
    assert!(code == 0 && !text.contains("warning"), "{text}");
    found(
        &["--scale", "deployment/shop", "--to", "service/web"],
        1,
        "there is no `deployment/shop`",
    );
    found(
        &["--scale", "deployment/web", "--to", "service/shop"],
        1,
        "there is no Service `shop`",
    );
    found(
        &["--scale", "deployment/web", "--to", "service/web:81"],
        1,
        "has no port `81`; it has 80",
    );
    found(
        &["--scale", "gizmos.example.org/web", "--to", "service/web"],
        1,
        "no API group",
    );

    let template = json!({
        "metadata": {"labels": {"app": "each"}},
        "spec": {"containers": [{"name": "c", "image": "none"}]},
    });
    let each = json!({
        "metadata": {"name": "each"},
        "spec": {"selector": {"matchLabels": {"app": "each"}}, "template": template},
    });
    done("POST", &space.apps("daemonsets"), &each);
    found(
        &["--scale", "daemonsets.v1.apps/each", "--to", "service/web"],
        1,
        "has no scale",
    );

    // As `kubectl apply` leaves it.
    let last = json!({"spec": {"replicas": 1}}).to_string();
    let notes = json!({"kubectl.kubernetes.io/last-applied-configuration": last});
    let patch = json!({"metadata": {"annotations": notes}});
    done("PATCH", &space.apps("deployments/web"), &patch);
    found(
        &WEB,
        0,
        "`kubectl apply` sets the `replicas` of `deployment/web`",
    );

    let unready = json!({"spec": {"publishNotReadyAddresses": true}});
    done("PATCH", &space.core("services/web"), &unready);
    found(&WEB, 1, "`publishNotReadyAddresses`");
}

#[test]
#[ignore = "tests/k8s/run"]
fn what_else_scales_the_same_is_found() {
    let space = Namespace::new("check-scalers");
    space.workload("deployments", 0, &[]);
    let web = [
        "--scale",
        "deployment/web",
        "--to",
        "service/web",
        "--replicas",
        "1",
    ];
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let autoscaler = json!({
        "metadata": {"name": "pods"},
        "spec": {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 3},
    });
    let path = "/apis/autoscaling/v1/namespaces/check-scalers/horizontalpodautoscalers";
    done("POST", path, &autoscaler);
    let (code, said) = check("admin", &space, &web);
    let raised =
        "HorizontalPodAutoscaler `pods` leaves `deployment/web` at zero, and raises it to 2";
    assert!(code == 0 && said.contains(raised), "{said}");

    let _kinds = Kinds::new(&space);
    let trigger = json!({"type": "external-push", "metadata": {"scalerAddress": "x:1"}});
    let scaled = json!({
        "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "shop"},
        "spec": {"scaleTargetRef": {"name": "web"}, "minReplicaCount": 1, "triggers": [trigger]},
    });
    done("POST", &objects(&space), &scaled);
    let said = check("admin", &space, &web).1;
    let warned = "warning: ScaledObject `shop` has `minReplicaCount: 1`";
    assert!(said.contains(warned), "{said}");
    let none = json!({"spec": {"minReplicaCount": 0}});
    done("PATCH", &format!("{}/shop", objects(&space)), &none);
    let said = check("admin", &space, &web).1;
    assert!(!said.contains("ScaledObject"), "{said}");
    space.allow(&role().into_iter().map(|(rule, _)| rule).collect::<Vec<_>>());
    thread::sleep(Duration::from_millis(500));
    let said = check("limited", &space, &web).1;
    assert!(
        said.contains("note: whether a ScaledObject scales the same was not verified"),
        "{said}"
    );
}
