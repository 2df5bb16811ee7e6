//! What is followed while a service exists: its pods' addresses, its workloads, and the Lease.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::task::Poll;

use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::claims::Agreement;
use super::follow::{Followed, Objects};
use super::{REASON_EVERY, Workloads, reason, slices};
use crate::backend::Awaited;
use crate::config::kubernetes::{ServicePods, Workload};
use crate::kubernetes::trouble::{Object, Retry, Trouble, Verb};
use crate::util::lock::locked;

impl Workloads {
    /// Calls `changed` whenever the workloads, their pods or the claims of others may have changed, and keeps the
    /// addresses of the pods. Never returns.
    pub async fn watch(&self, changed: impl Fn() + Send + Sync) {
        let changed = &changed;
        let mut all: Vec<Pin<Box<dyn Future<Output = ()> + Send + '_>>> = Vec::new();
        for (service, restart) in &self.services {
            all.push(Box::pin(self.follow_pods(service, restart, changed)));
        }
        for workload in &self.scale.workloads {
            all.push(Box::pin(self.follow_workload(workload, changed)));
        }
        all.push(Box::pin(self.follow_lease(changed)));
        all.push(Box::pin(self.tell_reason(changed)));
        poll_fn(|cx| {
            all.retain_mut(|one| one.as_mut().poll(cx).is_pending());
            Poll::<()>::Pending
        })
        .await;
    }

    async fn follow_pods(
        &self,
        service: &ServicePods,
        restart: &Notify,
        changed: &(impl Fn() + Send + Sync),
    ) {
        let told = Mutex::new(String::new());
        let mut retry = Retry::default();
        // The number of a port is the Service's own affair: its slices have names.
        let number = loop {
            match self.port_name(service).await {
                Ok(name) => break name,
                Err(trouble) => {
                    self.tell(&told, &trouble);
                    self.endpoints.explain(service, &trouble.to_string());
                    sleep(retry.pause(trouble.after())).await;
                }
            }
        };
        let version = |version: &str| Object {
            group: "discovery.k8s.io".into(),
            version: version.into(),
            plural: "endpointslices".into(),
            part: None,
            namespace: String::new(),
            name: None,
        };
        let Some(namespace) = self.patient_namespace().await else {
            return;
        };
        let objects = ["v1", "v1beta1"].map(|it| Object {
            namespace: namespace.clone(),
            ..version(it)
        });
        let followed = Followed {
            api: &self.api,
            objects: objects.into(),
            selector: format!(
                "labelSelector=kubernetes.io/service-name%3D{}",
                service.name
            ),
            restart,
        };
        let seen = |slices: &Objects| {
            locked(&told).clear();
            let ready = slices::addresses(slices.values(), service, number.as_deref());
            match ready {
                Ok(ready) => {
                    let before = self.endpoints.is_ready(service);
                    if before == ready.is_empty() {
                        changed();
                    }
                    self.endpoints.set(service, ready);
                }
                Err(why) => {
                    self.tell(&told, &Trouble::Final(why.clone()));
                    self.endpoints.explain(service, &why);
                    self.endpoints.set(service, Vec::new());
                }
            }
        };
        followed
            .run(seen, |trouble| self.tell(&told, trouble))
            .await;
    }

    async fn follow_workload(&self, workload: &Workload, changed: &(impl Fn() + Send + Sync)) {
        let told = Mutex::new(String::new());
        let mut retry = Retry::default();
        let object = loop {
            match self.object(workload, None).await {
                Ok(object) => break object,
                Err(trouble) => {
                    self.tell(&told, &trouble);
                    sleep(retry.pause(trouble.after())).await;
                }
            }
        };
        let selector = format!("fieldSelector=metadata.name%3D{}", workload.name);
        self.follow_one(
            object,
            selector,
            |it| it.map(|it| it["spec"]["replicas"].clone()),
            changed,
        )
        .await;
    }

    async fn follow_lease(&self, changed: &(impl Fn() + Send + Sync)) {
        let Some(namespace) = self.patient_namespace().await else {
            return;
        };
        let object = self.lease_object(namespace);
        let selector = format!("fieldSelector=metadata.name%3D{}", self.scale.lease);
        self.follow_one(
            object,
            selector,
            |it| {
                *locked(&self.claims) = it.map(|it| Agreement::read(it).claims).unwrap_or_default();
                it.map(|it| it["metadata"]["annotations"].clone())
            },
            changed,
        )
        .await;
    }

    async fn follow_one(
        &self,
        object: Object,
        selector: String,
        part: impl Fn(Option<&Value>) -> Option<Value> + Send,
        changed: &(impl Fn() + Send + Sync),
    ) {
        let (told, never) = (Mutex::new(String::new()), Notify::new());
        let followed = Followed {
            api: &self.api,
            objects: vec![object],
            selector,
            restart: &never,
        };
        let mut before = None;
        let seen = |objects: &Objects| {
            locked(&told).clear();
            let now = part(objects.values().next());
            if before.as_ref() != Some(&now) {
                before = Some(now);
                changed();
            }
        };
        followed
            .run(seen, |trouble| self.tell(&told, trouble))
            .await;
    }

    /// While it is being woken, says what its pods wait for, once for each change.
    async fn tell_reason(&self, changed: &(impl Fn() + Send + Sync)) {
        loop {
            sleep(REASON_EVERY).await;
            if !self.waking.load(Ordering::Relaxed) {
                continue;
            }
            let Ok(scales) = self.scales().await else {
                continue;
            };
            if self.are_ready(&scales).await == Ok(true) {
                self.waking.store(false, Ordering::Relaxed);
                continue;
            }
            let Ok(Some(reason)) = self.look_for_reason(scales).await else {
                continue;
            };
            for (service, _) in &self.services {
                self.endpoints.explain(service, &reason.why);
            }
            let before = locked(&self.reason).replace(reason.clone());
            if before.as_ref() != Some(&reason) {
                tracing::info!("`{}` is not ready yet: {}", self.names(), reason.why);
                changed();
            }
        }
    }

    async fn look_for_reason(&self, scales: Vec<Value>) -> Result<Option<Awaited>, Trouble> {
        for (workload, scale) in self.scale.workloads.iter().zip(scales) {
            let pods = self.pods(&scale).await?;
            let reason = match pods.is_empty() {
                false => reason::of_pods(&pods),
                true => {
                    let object = self.object(workload, None).await?;
                    reason::of_owner(&self.api.call(Verb::Get, &object, "", None).await?)
                }
            };
            if reason.is_some() {
                return Ok(reason);
            }
        }
        Ok(None)
    }

    /// Logs a trouble, unless it is the one that was logged last.
    pub(super) fn tell(&self, told: &Mutex<String>, trouble: &Trouble) {
        let line = trouble.to_string();
        let mut told = locked(told);
        if *told != line {
            tracing::warn!("{line}");
            *told = line;
        }
    }
}
