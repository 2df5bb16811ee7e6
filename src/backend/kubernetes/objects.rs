//! The objects of the API server that belong to a service: who we are, the Lease, scales and pods.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tokio::sync::MutexGuard;
use tokio::time::{Instant, sleep};

use super::claims::{Agreement, Holder};
use super::{FENCE, ORDER, Workloads, follow, phase, slices};
use crate::config::kubernetes::{Kind, ServicePods, Workload};
use crate::kubernetes::trouble::{Object, Retry, Trouble, Verb};
use crate::util::lock::locked;
use crate::util::text::encoded;

impl Workloads {
    pub(super) async fn namespace(&self) -> Result<String, Trouble> {
        match &self.scale.namespace {
            Some(namespace) => Ok(namespace.clone()),
            None => self.api.namespace().await,
        }
    }

    /// The same, for what can wait until there are credentials.
    pub(super) async fn patient_namespace(&self) -> Option<String> {
        let (mut retry, told) = (Retry::default(), Mutex::default());
        loop {
            match self.namespace().await {
                Ok(namespace) => return Some(namespace),
                Err(trouble) => {
                    self.tell(&told, &trouble);
                    if !trouble.is_passing() {
                        return None;
                    }
                    sleep(retry.pause(trouble.after())).await;
                }
            }
        }
    }

    /// Who we are: the pod that is called as this machine; outside of pods, this machine.
    pub(super) async fn me(&self) -> Result<&Holder, Trouble> {
        self.me
            .get_or_try_init(|| async {
                let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
                let host = host.trim();
                if self.api.is_in_pod().await? {
                    let namespace = self.api.namespace().await?;
                    let pod = format!("{namespace}/{host}");
                    for found in self.pods_called(&pod).await? {
                        if let Some(uid) = found["metadata"]["uid"].as_str() {
                            let uid = uid.to_owned();
                            return Ok(Holder { uid, pod });
                        }
                    }
                    tracing::warn!(
                        "no pod in namespace `{namespace}` is called `{host}`, as this machine is: the claim in \
                         the Lease `{}` is that of the machine, and stays if it is lost for good",
                        self.scale.lease
                    );
                }
                let known = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
                let host: String = host.chars().filter(|&c| known(c)).take(40).collect();
                Ok(Holder {
                    uid: format!("outside.{host}x"),
                    pod: String::new(),
                })
            })
            .await
    }

    pub(super) fn lease_object(&self, namespace: String) -> Object {
        Object {
            group: "coordination.k8s.io".into(),
            version: "v1".into(),
            plural: "leases".into(),
            part: None,
            namespace,
            name: Some(self.scale.lease.clone()),
        }
    }

    /// The Lease; a new one where there is none.
    pub(super) async fn lease(&self) -> Result<Value, Trouble> {
        let object = self.lease_object(self.namespace().await?);
        match self.api.call(Verb::Get, &object, "", None).await {
            Err(Trouble::Missing(_)) => {
                let lease = json!({
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": self.scale.lease},
                });
                let created = self.api.call(Verb::Create, &object, "", Some(&lease)).await;
                created.map_err(|trouble| {
                    if let Trouble::Final(why) = trouble {
                        return Trouble::Final(format!(
                            "there is no Lease `{}`, and it cannot be created here: {why}",
                            self.scale.lease
                        ));
                    }
                    trouble
                })
            }
            other => other,
        }
    }

    /// Writes what was agreed, if the Lease is still the one that was read.
    pub(super) async fn write(
        &self,
        _order: &MutexGuard<'_, ()>,
        lease: &Value,
        next: &Agreement,
    ) -> Result<(), Trouble> {
        let me = self.me().await?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        if !next.is_held(me) {
            self.claimed.store(false, Ordering::Relaxed);
        }
        let object = self.lease_object(self.namespace().await?);
        let written = next.write(lease);
        let written = self.api.call(
            Verb::Update,
            &object,
            "fieldManager=wakeport",
            Some(&written),
        );
        written.await.map(drop)
    }

    /// A workload, or a part of it.
    pub(super) async fn object(
        &self,
        workload: &Workload,
        part: Option<&'static str>,
    ) -> Result<Object, Trouble> {
        let Kind {
            plural,
            group,
            version,
        } = &workload.kind;
        let version = match version {
            Some(version) => version.clone(),
            None => self.version(&workload.kind).await?,
        };
        Ok(Object {
            group: group.clone(),
            version,
            plural: plural.clone(),
            part,
            namespace: self.namespace().await?,
            name: Some(workload.name.clone()),
        })
    }

    /// The version that the API server prefers.
    pub(super) async fn version(&self, kind: &Kind) -> Result<String, Trouble> {
        if let Some(version) = locked(&self.versions).get(kind) {
            return Ok(version.clone());
        }
        let version = self.api.preferred_version(&kind.group).await?;
        locked(&self.versions).insert(kind.clone(), version.clone());
        Ok(version)
    }

    pub(super) async fn scales(&self) -> Result<Vec<Value>, Trouble> {
        let mut scales = Vec::new();
        for workload in &self.scale.workloads {
            let object = self.object(workload, Some("scale")).await?;
            scales.push(self.api.call(Verb::Get, &object, "", None).await?);
        }
        Ok(scales)
    }

    /// Scales to so many, if nothing has changed since `scale` was read.
    pub(super) async fn patch(
        &self,
        object: &Object,
        scale: &Value,
        replicas: u32,
    ) -> Result<(), Trouble> {
        let patch = json!({
            "metadata": {"resourceVersion": follow::version(scale)},
            "spec": {"replicas": replicas},
        });
        let patched = self.api.call(Verb::Patch, object, ORDER, Some(&patch));
        patched.await.map(drop)
    }

    /// The pods that a scale is about.
    pub(super) async fn pods(&self, scale: &Value) -> Result<Vec<Value>, Trouble> {
        let Some(selector) = phase::selector(scale) else {
            return Err(Trouble::Final(format!(
                "the scale of `{}` does not say which pods it has (`status.selector`); without that it is not known when they are gone",
                self.names()
            )));
        };
        let query = format!("labelSelector={}", encoded(selector));
        self.list_pods(self.namespace().await?, &query).await
    }

    pub(super) async fn list_pods(
        &self,
        namespace: String,
        query: &str,
    ) -> Result<Vec<Value>, Trouble> {
        let object = Object {
            group: String::new(),
            version: "v1".into(),
            plural: "pods".into(),
            part: None,
            namespace,
            name: None,
        };
        let mut list = self.api.call(Verb::List, &object, query, None).await?;
        // A LIST that is none must not be taken for "there are none".
        let Some(Value::Array(items)) = list.get_mut("items").map(Value::take) else {
            return Err(Trouble::away(format!(
                "cannot list {object}: the answer is no list"
            )));
        };
        Ok(items)
    }

    /// The pod with this namespace and name, if it is there and may run.
    pub(super) async fn pods_called(&self, pod: &str) -> Result<Vec<Value>, Trouble> {
        let (namespace, name) = pod.split_once('/').unwrap_or_default();
        let query = format!("fieldSelector=metadata.name%3D{}", encoded(name));
        let mut pods = self.list_pods(namespace.to_owned(), &query).await?;
        pods.retain(phase::is_there);
        Ok(pods)
    }

    /// Whether no pod is left that could do anything; with `--overlap`, none that is ready.
    pub(super) async fn are_gone(&self, scales: &[Value]) -> Result<bool, Trouble> {
        for scale in scales {
            let pods = self.pods(scale).await?;
            let is_in_the_way = match self.scale.overlap {
                true => phase::is_ready,
                false => phase::is_there,
            };
            if pods.iter().any(is_in_the_way) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn services_are_ready(&self) -> bool {
        let mut services = self.services.iter();
        services.all(|(service, _)| self.endpoints.is_ready(service))
    }

    /// Whether every target has a ready pod; where no target is a Service, every workload.
    pub(super) async fn are_ready(&self, scales: &[Value]) -> Result<bool, Trouble> {
        if !self.services.is_empty() {
            return Ok(self.services_are_ready());
        }
        for scale in scales {
            if !self.pods(scale).await?.iter().any(phase::is_ready) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The name that the port with the given number has in slices.
    pub(super) async fn port_name(&self, service: &ServicePods) -> Result<Option<String>, Trouble> {
        let Some(number) = service.port_number() else {
            return Ok(None);
        };
        let object = Object {
            group: String::new(),
            version: "v1".into(),
            plural: "services".into(),
            part: None,
            namespace: self.namespace().await?,
            name: Some(service.name.clone()),
        };
        let found = self.api.call(Verb::Get, &object, "", None).await?;
        let name = slices::port_name(&found, number).ok_or_else(|| {
            Trouble::Final(format!(
                "service `{}` has no port {number}; `kubectl get service {0}` shows those that it has",
                service.name
            ))
        })?;
        Ok(Some(name.to_owned()))
    }

    /// Whether other wakeports have claims, as far as is known.
    pub fn is_claimed_by_others(&self) -> bool {
        let me = self.me.get();
        let claims = locked(&self.claims);
        claims.keys().any(|uid| me.is_none_or(|me| me.uid != *uid))
    }

    /// The addresses of the other wakeports that have claims: of those without one, none has a client.
    pub async fn others(&self) -> Vec<IpAddr> {
        let Ok(me) = self.me().await else {
            return Vec::new();
        };
        let mut claims = locked(&self.claims).clone();
        claims.remove(&me.uid);
        locked(&self.addresses).retain(|uid, _| claims.contains_key(uid));
        let mut all = Vec::new();
        for (uid, pod) in claims {
            let known = locked(&self.addresses).get(&uid).copied();
            let found = match known {
                Some(known) => Some(known),
                None => {
                    let pods = self.pods_called(&pod).await.unwrap_or_default();
                    let its = pods.iter().find(|pod| pod["metadata"]["uid"] == *uid);
                    its.and_then(|pod| pod["status"]["podIP"].as_str()?.parse().ok())
                }
            };
            if let Some(address) = found {
                locked(&self.addresses).insert(uid, address);
                all.push(address);
            }
        }
        all
    }

    /// The claims of others whose pods are gone.
    pub(super) async fn void_claims(
        &self,
        agreement: &Agreement,
        me: &Holder,
    ) -> Result<BTreeSet<String>, Trouble> {
        let mut void = BTreeSet::new();
        for other in agreement.others(me) {
            if self.is_gone(&other).await? {
                tracing::info!("the claim of pod `{}`, which is gone, is void", other.pod);
                void.insert(other.uid);
            }
        }
        Ok(void)
    }

    /// Whether the pod of a wakeport is gone. One outside of pods never is, as far as is known.
    pub(super) async fn is_gone(&self, holder: &Holder) -> Result<bool, Trouble> {
        if holder.uid.is_empty() {
            return Ok(true);
        }
        if !holder.pod.contains('/') {
            return Ok(false);
        }
        let pods = self.pods_called(&holder.pod).await?;
        Ok(!pods.iter().any(|pod| pod["metadata"]["uid"] == *holder.uid))
    }

    /// Whether an order to scale to zero, which one that is gone or a process before us may have given, is sure to
    /// be over: we have waited for so long. Our own clock counts that.
    pub(super) async fn is_past_fence(
        &self,
        lease: &Value,
        by: &Holder,
        me: &Holder,
    ) -> Result<bool, Trouble> {
        if by.uid != me.uid && !self.is_gone(by).await? {
            return Ok(false);
        }
        let which = format!("{} {}", by.uid, follow::version(lease));
        let mut fence = locked(&self.fence);
        match &*fence {
            Some((known, since)) if *known == which => Ok(since.elapsed() >= FENCE),
            _ => {
                *fence = Some((which, Instant::now()));
                Ok(false)
            }
        }
    }
}
