//! Workloads that are scaled to zero: the rights of wakeport, and what else decides about their pods.

use super::Finding;
use crate::admin::system::{Autoscaler, Cluster, Scaled, Selected};
use crate::config::kubernetes::{Replicas, Scale, ServicePods, Workload};

/// What the API server says against it.
pub fn workloads(scale: &Scale, cluster: &Cluster) -> Vec<Finding> {
    if let Some(why) = &cluster.silent {
        return vec![Finding::error(format!("cannot ask the API server: {why}"))];
    }
    let mut findings = Vec::new();
    for rule in &cluster.missing {
        findings.push(Finding::error(format!(
            "a right is missing; add to the Role: {rule}"
        )));
    }
    if let Some(lease) = &cluster.no_lease {
        findings.push(Finding::error(format!(
            "there is no Lease `{lease}`, and wakeport may not create it; create it, as in `kubectl create -f`, or \
             add to the Role: {{apiGroups: [\"coordination.k8s.io\"], resources: [leases], verbs: [create]}}"
        )));
    }
    for (workload, scaled) in &cluster.workloads {
        findings.extend(scaled_to_zero(workload, scaled));
    }
    for (service, selected) in &cluster.services {
        findings.extend(target(service, selected));
    }
    for autoscaler in &cluster.autoscalers {
        let is_ours = |workload: &&_| is_about(autoscaler, workload);
        if let Some(workload) = scale.workloads.iter().find(is_ours) {
            findings.extend(beside(autoscaler, &workload.to_string(), scale.replicas));
        }
    }
    for kind in &cluster.not_listed {
        findings.push(Finding::note(format!(
            "whether a {kind} scales the same was not verified: these credentials may not list them, and wakeport need not"
        )));
    }
    if !cluster.in_pod {
        findings.push(Finding::note(
            "the rights are those of your kubeconfig; for those of wakeport, run this in its pod, or give `--kube-api` and `--kube-credentials`",
        ));
    }
    findings
}

fn scaled_to_zero(workload: &str, scaled: &Scaled) -> Vec<Finding> {
    let error = |why: String| vec![Finding::error(why)];
    match scaled {
        Scaled::NoKind => error(format!(
            "the API server has no API group for `{workload}`; install what brings it, or correct `--scale`"
        )),
        Scaled::Missing => error(format!(
            "there is no `{workload}` in the namespace; create it, or correct `--scale` or `--namespace`"
        )),
        Scaled::NoScale => error(format!(
            "`{workload}` has no scale; use a Deployment, a StatefulSet or another kind that has one"
        )),
        Scaled::NoSelector => error(format!(
            "the scale of `{workload}` does not say which pods it has (`status.selector`); without that it is not known when they are gone"
        )),
        Scaled::Unknown => Vec::new(),
        Scaled::Found { appliers } => {
            let wakes = |applier: &String| {
                Finding::warning(format!(
                    "`{applier}` sets the `replicas` of `{workload}` with each apply, which wakes it; leave `replicas` out of the manifest, with Argo CD ignore `/spec/replicas`"
                ))
            };
            appliers.iter().map(wakes).collect()
        }
    }
}

fn target(service: &ServicePods, selected: &Selected) -> Option<Finding> {
    let name = &service.name;
    match selected {
        Selected::Unknown => None,
        Selected::Missing => Some(Finding::error(format!(
            "there is no Service `{name}` in the namespace; create it, or correct `--to`"
        ))),
        Selected::Found {
            unready_too: true, ..
        } => Some(Finding::error(format!(
            "Service `{name}` publishes pods that are not ready (`publishNotReadyAddresses`), and clients would get them; use another Service"
        ))),
        Selected::Found { ports, .. } => {
            let is = |(name, number): &(String, u64), port: &str| {
                name == port || port.parse() == Ok(*number)
            };
            let port = service.port.as_deref()?;
            let there = ports.iter().any(|it| is(it, port));
            (!there).then(|| {
                let known: Vec<_> = ports
                    .iter()
                    .map(|(name, number)| match name.as_str() {
                        "" => number.to_string(),
                        name => format!("{name} ({number})"),
                    })
                    .collect();
                Finding::error(format!(
                    "Service `{name}` has no port `{port}`; it has {}",
                    known.join(", ")
                ))
            })
        }
    }
}

fn is_about(autoscaler: &Autoscaler, workload: &Workload) -> bool {
    let (kind, name) = &autoscaler.target;
    let singular = workload.kind.plural.trim_end_matches('s');
    *name == workload.name && singular == kind.trim_end_matches('s')
}

/// What another one that scales the same comes to.
fn beside(autoscaler: &Autoscaler, workload: &str, replicas: Replicas) -> Option<Finding> {
    let Autoscaler {
        kind, name, least, ..
    } = autoscaler;
    let feeds = |kind: &str| autoscaler.triggers.iter().any(|it| it == kind);
    match (*kind, *least) {
        // KEDA's own is as its ScaledObject says.
        ("HorizontalPodAutoscaler", _) if autoscaler.is_kedas => None,
        ("HorizontalPodAutoscaler", least) => {
            let enough = match replicas {
                Replicas::Exactly(number) => u64::from(number) >= least,
                Replicas::Remembered => true,
            };
            (!enough).then(|| {
                Finding::note(format!(
                    "HorizontalPodAutoscaler `{name}` leaves `{workload}` at zero, and raises it to {least} after each wake; `--replicas {least}` asks for as many at once"
                ))
            })
        }
        (_, 1..) => Some(Finding::warning(format!(
            "ScaledObject `{name}` has `minReplicaCount: {least}`, so that each of KEDA's questions wakes `{workload}`; make it 0"
        ))),
        _ if feeds("external-push") || feeds("external") => None,
        _ => Some(Finding::note(format!(
            "ScaledObject `{name}` scales `{workload}` to zero by its own triggers, also under clients that they do not count; `--keda` and a trigger `external-push` tell it of wakeport's"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::kubernetes::Access;

    fn scale(replicas: Replicas) -> Scale {
        Scale {
            workloads: vec!["deployment/web".parse().expect("a workload")],
            namespace: None,
            replicas,
            overlap: false,
            lease: "wakeport-deployment-web".into(),
            access: Access::default(),
        }
    }

    fn found(cluster: Cluster, replicas: Replicas) -> Vec<(String, String)> {
        let findings = workloads(&scale(replicas), &cluster).into_iter();
        findings
            .map(|finding| (finding.level.to_string(), finding.text))
            .collect()
    }

    fn in_pod() -> Cluster {
        Cluster {
            in_pod: true,
            ..Cluster::default()
        }
    }

    fn autoscaler(kind: &'static str, least: u64, triggers: &[&str]) -> Autoscaler {
        Autoscaler {
            kind,
            name: "a".into(),
            is_kedas: false,
            target: ("deployment".into(), "web".into()),
            least,
            triggers: triggers.iter().map(|&it| it.into()).collect(),
        }
    }

    #[track_caller]
    fn one(cluster: Cluster, level: &str, text: &str) {
        let found = found(cluster, Replicas::Remembered);
        assert!(found.len() == 1 && found[0].0 == level, "{found:?}");
        assert!(found[0].1.contains(text), "{found:?}");
    }

    #[test]
    fn each_thing_that_is_wrong_is_one_line_with_its_remedy() {
        assert_eq!(found(in_pod(), Replicas::Remembered), []);
        let silent = Cluster {
            silent: Some("no credentials".into()),
            ..Cluster::default()
        };
        one(silent, "error", "cannot ask the API server: no credentials");
        one(Cluster::default(), "note", "those of your kubeconfig");
        let workload = |scaled| Cluster {
            workloads: [("deployment/web".into(), scaled)].into(),
            ..in_pod()
        };
        for (scaled, level, text) in [
            (Scaled::NoKind, "error", "no API group"),
            (Scaled::Missing, "error", "correct `--scale`"),
            (Scaled::NoScale, "error", "has no scale"),
            (Scaled::NoSelector, "error", "status.selector"),
            (
                Scaled::Found {
                    appliers: vec!["argocd".into()],
                },
                "warning",
                "`argocd` sets the `replicas`",
            ),
        ] {
            one(workload(scaled), level, text);
        }
        let service = |port: Option<&str>, selected| {
            let text = port.map_or("web".into(), |port| format!("web:{port}"));
            Cluster {
                services: vec![(text.parse().expect("a Service"), selected)],
                ..in_pod()
            }
        };
        let has = |unready_too| Selected::Found {
            unready_too,
            ports: vec![("http".into(), 80)],
        };
        one(
            service(None, Selected::Missing),
            "error",
            "no Service `web`",
        );
        one(
            service(None, has(true)),
            "error",
            "publishNotReadyAddresses",
        );
        one(
            service(Some("81"), has(false)),
            "error",
            "no port `81`; it has http (80)",
        );
        for port in [None, Some("80"), Some("http")] {
            assert_eq!(found(service(port, has(false)), Replicas::Remembered), []);
        }
    }

    #[test]
    fn what_else_scales_the_same_is_told_apart() {
        let with = |autoscaler| Cluster {
            autoscalers: vec![autoscaler],
            ..in_pod()
        };
        let hpa = autoscaler("HorizontalPodAutoscaler", 2, &[]);
        assert_eq!(found(with(hpa.clone()), Replicas::Remembered), []);
        assert_eq!(found(with(hpa.clone()), Replicas::Exactly(2)), []);
        let fewer = found(with(hpa), Replicas::Exactly(1));
        assert!(
            fewer[0].0 == "note" && fewer[0].1.contains("`--replicas 2`"),
            "{fewer:?}"
        );
        let keda = |least, triggers: &[&str]| with(autoscaler("ScaledObject", least, triggers));
        one(
            keda(1, &["external-push"]),
            "warning",
            "`minReplicaCount: 1`",
        );
        one(keda(0, &["cron"]), "note", "by its own triggers");
        assert_eq!(
            found(keda(0, &["cron", "external-push"]), Replicas::Remembered),
            []
        );
        let mut of_another = autoscaler("ScaledObject", 1, &[]);
        of_another.target.1 = "db".into();
        assert_eq!(found(with(of_another), Replicas::Remembered), []);
    }
}
