//! What the API server of Kubernetes says of what a service scales. Nothing is changed: a review of access is a
//! question, though it is sent as something to be created.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::admin::system::{Autoscaler, Cluster, Scaled, Selected};
use crate::config::address::Address;
use crate::config::kubernetes::{Scale, ServicePods, Workload};
use crate::config::{ServiceConfig, ServiceKind};
use crate::kubernetes::api::Api;
use crate::kubernetes::trouble::{Object, Trouble, Verb};

/// All of that; nothing where the service is none of Kubernetes.
pub async fn cluster(service: &ServiceConfig) -> Option<Cluster> {
    let ServiceKind::Scale(scale) = &service.kind else {
        return None;
    };
    let api = Api::new(scale.access.clone());
    let asked = ask(&api, scale, service).await;
    Some(asked.unwrap_or_else(|trouble| Cluster {
        silent: Some(trouble.to_string()),
        ..Cluster::default()
    }))
}

async fn ask(api: &Api, scale: &Scale, service: &ServiceConfig) -> Result<Cluster, Trouble> {
    let namespace = match &scale.namespace {
        Some(namespace) => namespace.clone(),
        None => api.namespace().await?,
    };
    let mut asks = Asks {
        api,
        namespace,
        found: Cluster {
            in_pod: api.is_in_pod().await?,
            ..Cluster::default()
        },
    };
    for workload in &scale.workloads {
        asks.workload(workload).await?;
    }
    let mut services: Vec<&ServicePods> = Vec::new();
    for route in &service.routes {
        if let Address::Service(pods) = &route.value
            && !services.contains(&pods)
        {
            services.push(pods);
        }
    }
    for service in &services {
        asks.service(service).await?;
    }
    if !services.is_empty() {
        let slices = asks.object("discovery.k8s.io", "v1", "endpointslices", None);
        asks.needs(&slices, &[Verb::List, Verb::Watch]).await?;
    }
    let pods = asks.object("", "v1", "pods", None);
    asks.needs(&pods, &[Verb::List]).await?;
    asks.lease(&scale.lease).await?;
    asks.autoscalers().await?;
    Ok(asks.found)
}

struct Asks<'a> {
    api: &'a Api,
    namespace: String,
    found: Cluster,
}

impl Asks<'_> {
    fn object(&self, group: &str, version: &str, plural: &str, name: Option<&str>) -> Object {
        Object {
            group: group.into(),
            version: version.into(),
            plural: plural.into(),
            part: None,
            namespace: self.namespace.clone(),
            name: name.map(str::to_owned),
        }
    }

    /// Finds out which of these are not allowed, and notes the rule that allows them.
    async fn needs(&mut self, object: &Object, verbs: &[Verb]) -> Result<(), Trouble> {
        let mut missing = Vec::new();
        for verb in verbs {
            if !self.may(object, *verb).await? {
                missing.push(*verb);
            }
        }
        if !missing.is_empty() {
            self.found.missing.push(object.rule(&missing));
        }
        Ok(())
    }

    async fn may(&self, object: &Object, verb: Verb) -> Result<bool, Trouble> {
        let reviews = Object {
            group: "authorization.k8s.io".into(),
            version: "v1".into(),
            plural: "selfsubjectaccessreviews".into(),
            part: None,
            namespace: String::new(),
            name: None,
        };
        let mut attributes = json!({
            "namespace": object.namespace,
            "verb": verb.to_string(),
            "group": object.group,
            "resource": object.plural,
        });
        if let Some(part) = object.part {
            attributes["subresource"] = part.into();
        }
        if let Some(name) = object.name.as_ref().filter(|_| verb != Verb::Create) {
            attributes["name"] = name.as_str().into();
        }
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        });
        let answer = self
            .api
            .call(Verb::Create, &reviews, "", Some(&review))
            .await?;
        Ok(answer["status"]["allowed"] == true)
    }

    /// What there is under this name, or why that is not known.
    async fn get(&self, object: &Object) -> Result<Result<Value, Absent>, Trouble> {
        match self.api.call(Verb::Get, object, "", None).await {
            Ok(found) => Ok(Ok(found)),
            Err(Trouble::Missing(_)) => Ok(Err(Absent::Missing)),
            // What is not allowed is told as a right that is missing.
            Err(Trouble::Final(_)) => Ok(Err(Absent::Unknown)),
            Err(trouble) => Err(trouble),
        }
    }

    async fn workload(&mut self, workload: &Workload) -> Result<(), Trouble> {
        let kind = &workload.kind;
        let version = match &kind.version {
            Some(version) => version.clone(),
            None => match self.api.preferred_version(&kind.group).await {
                Ok(version) => version,
                Err(Trouble::Missing(_)) => {
                    let scaled = Scaled::NoKind;
                    self.found.workloads.insert(workload.to_string(), scaled);
                    return Ok(());
                }
                Err(trouble) => return Err(trouble),
            },
        };
        let object = self.object(&kind.group, &version, &kind.plural, Some(&workload.name));
        let scale = Object {
            part: Some("scale"),
            ..object.clone()
        };
        self.needs(&scale, &[Verb::Get, Verb::Patch]).await?;
        self.needs(&object, &[Verb::Get, Verb::List, Verb::Watch])
            .await?;
        let scaled = match (self.get(&object).await?, self.get(&scale).await?) {
            (Err(Absent::Missing), _) => Scaled::Missing,
            (Ok(_), Err(Absent::Missing)) => Scaled::NoScale,
            (_, Ok(scale))
                if scale["status"]["selector"]
                    .as_str()
                    .unwrap_or_default()
                    .is_empty() =>
            {
                Scaled::NoSelector
            }
            (Ok(found), _) => Scaled::Found {
                appliers: appliers(&found),
            },
            (Err(Absent::Unknown), _) => Scaled::Unknown,
        };
        self.found.workloads.insert(workload.to_string(), scaled);
        Ok(())
    }

    async fn service(&mut self, pods: &ServicePods) -> Result<(), Trouble> {
        let object = self.object("", "v1", "services", Some(&pods.name));
        if pods.port_number().is_some() {
            self.needs(&object, &[Verb::Get]).await?;
        }
        let selected = match self.get(&object).await? {
            Err(Absent::Missing) => Selected::Missing,
            Err(Absent::Unknown) => Selected::Unknown,
            Ok(found) => {
                let ports = found["spec"]["ports"].as_array().into_iter().flatten();
                Selected::Found {
                    unready_too: found["spec"]["publishNotReadyAddresses"] == true,
                    ports: ports
                        .map(|port| {
                            let name = port["name"].as_str().unwrap_or_default();
                            (name.to_owned(), port["port"].as_u64().unwrap_or_default())
                        })
                        .collect(),
                }
            }
        };
        self.found.services.push((pods.clone(), selected));
        Ok(())
    }

    async fn lease(&mut self, name: &str) -> Result<(), Trouble> {
        let object = self.object("coordination.k8s.io", "v1", "leases", Some(name));
        let verbs = [Verb::Get, Verb::List, Verb::Watch, Verb::Update];
        self.needs(&object, &verbs).await?;
        if matches!(self.get(&object).await?, Err(Absent::Missing))
            && !self.may(&object, Verb::Create).await?
        {
            self.found.no_lease = Some(name.to_owned());
        }
        Ok(())
    }

    /// Those that scale the same workloads. A Role of wakeport's does not let it list them.
    async fn autoscalers(&mut self) -> Result<(), Trouble> {
        let kinds = [
            (
                "autoscaling",
                "v1",
                "horizontalpodautoscalers",
                "HorizontalPodAutoscaler",
                "minReplicas",
                1,
            ),
            (
                "keda.sh",
                "v1alpha1",
                "scaledobjects",
                "ScaledObject",
                "minReplicaCount",
                0,
            ),
        ];
        for (group, version, plural, kind, least, otherwise) in kinds {
            let object = self.object(group, version, plural, None);
            let list = match self.api.call(Verb::List, &object, "", None).await {
                Ok(list) => list,
                // There is no KEDA.
                Err(Trouble::Missing(_)) => continue,
                Err(Trouble::Final(_)) => {
                    self.found.not_listed.push(kind);
                    continue;
                }
                Err(trouble) => return Err(trouble),
            };
            for item in list["items"].as_array().into_iter().flatten() {
                let (metadata, spec) = (&item["metadata"], &item["spec"]);
                let target = &spec["scaleTargetRef"];
                let text =
                    |value: &Value, otherwise: &str| value.as_str().unwrap_or(otherwise).to_owned();
                let mut owners = metadata["ownerReferences"].as_array().into_iter().flatten();
                self.found.autoscalers.push(Autoscaler {
                    kind,
                    name: text(&metadata["name"], ""),
                    is_kedas: owners.any(|owner| owner["kind"] == "ScaledObject"),
                    target: (
                        text(&target["kind"], "Deployment").to_lowercase(),
                        text(&target["name"], ""),
                    ),
                    least: spec[least].as_u64().unwrap_or(otherwise),
                    triggers: triggers(spec),
                });
            }
        }
        Ok(())
    }
}

/// Why there is nothing to look at.
enum Absent {
    Missing,
    Unknown,
}

fn triggers(spec: &Value) -> Vec<String> {
    let triggers = spec["triggers"].as_array().into_iter().flatten();
    let kinds = triggers.filter_map(|trigger| trigger["type"].as_str());
    kinds.map(str::to_owned).collect()
}

/// Who sets the number of pods with each apply of a manifest.
fn appliers(workload: &Value) -> Vec<String> {
    let metadata = &workload["metadata"];
    let mut all = BTreeSet::new();
    for entry in metadata["managedFields"].as_array().into_iter().flatten() {
        let manager = entry["manager"].as_str().unwrap_or_default();
        if entry["operation"] == "Apply" && entry["fieldsV1"]["f:spec"]["f:replicas"].is_object() {
            all.insert(manager.to_owned());
        }
    }
    // What `kubectl apply` has applied last; it sets what it finds there anew.
    let last = &metadata["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    let last: Value = last
        .as_str()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    if last["spec"]["replicas"].is_number() {
        all.insert("kubectl apply".into());
    }
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_applies_a_number_of_pods_is_known_by_its_fields_or_its_annotation() {
        let replicas = json!({"f:spec": {"f:replicas": {}}});
        let workload = json!({"metadata": {
            "managedFields": [
                {"manager": "argocd", "operation": "Apply", "fieldsV1": replicas},
                {"manager": "wakeport", "operation": "Update", "fieldsV1": replicas},
                {"manager": "flux", "operation": "Apply", "fieldsV1": {"f:spec": {}}},
            ],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{\"spec\":{\"replicas\":1}}"},
        }});
        assert_eq!(appliers(&workload), ["argocd", "kubectl apply"]);
        for nothing in [json!({}), json!(7), json!({"metadata": {"annotations": 7}})] {
            assert_eq!(appliers(&nothing), Vec::<String>::new());
        }
    }
}
