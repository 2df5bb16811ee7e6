//! Workloads of Kubernetes, by their scale.
//!
//! wakeport alone decides about zero; how many pods there are above that is for others (an autoscaler, a person) to
//! say, and is remembered for the next wake. A connection is let through only while a claim of ours stands in the
//! Lease ([`claims`]), and the workload is scaled to zero only by the one that has dropped the last claim. Each
//! write says what version it comes after: one that was overtaken is refused, and what there is is read anew.
//!
//! What the API server says is read each time; watches only say when to read. While it is away, a wakeport with a
//! claim goes on with the pods that it knows: no other one stops the workload under it.

mod claims;
mod follow;
mod objects;
mod phase;
mod reason;
mod slices;
mod watches;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard, Notify, OnceCell};
use tokio::time::{Instant, sleep, timeout};

use crate::backend::{Awaited, Failure, Slept, StopScope, WakeOrder, Woken};
use crate::config::address::Address;
use crate::config::kubernetes::{Kind, Replicas, Scale, ServicePods};
use crate::config::span;
use crate::core::lifecycle::Phase;
use crate::kubernetes::api::Api;
use crate::kubernetes::trouble::{Retry, Trouble, Verb};
use crate::net::dial::Target;
use crate::net::endpoints::Endpoints;
use crate::util::backoff::Backoff;
use crate::util::lock::locked;
use claims::{Agreement, Claim, Holder, Release, Stage};
use phase::Seen;

/// An order to scale to zero tells the API server to give it up after 10 s. So long after that it has been carried
/// out, or never will be, whatever became of the one that gave it.
const FENCE: Duration = Duration::from_secs(15);

/// How the order says so.
const ORDER: &str = "fieldManager=wakeport&timeout=10s";

/// The pauses between two looks at pods that go.
const LEFT: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));

/// Between two looks at pods that do not come.
const REASON_EVERY: Duration = Duration::from_secs(2);

/// The order to stop goes out even where the limit leaves no time to wait for the result.
const SHORTEST_STOP: Duration = Duration::from_secs(1);

/// Workloads that are scaled together, with the Lease by which it is agreed who does.
#[derive(Debug)]
pub struct Workloads {
    scale: Scale,
    api: Api,
    /// The targets that are pods, each with what has its slices read anew.
    services: Vec<(ServicePods, Notify)>,
    endpoints: Endpoints,
    stop_timeout: Duration,
    me: OnceCell<Holder>,
    /// The versions that the API server prefers, of kinds that were given without one.
    versions: Mutex<HashMap<Kind, String>>,
    /// The claims that the Lease had when it was seen last: the pod of each, by its UID.
    claims: Mutex<BTreeMap<String, String>>,
    /// Where the pods of others are.
    addresses: Mutex<HashMap<String, IpAddr>>,
    /// Held by what writes to the Lease.
    order: AsyncMutex<()>,
    /// Our claim stood when the Lease was read last, and we have not dropped it since.
    claimed: AtomicBool,
    /// How often we have begun to write to the Lease: what was read before that says nothing of our claim.
    writes: AtomicU64,
    /// Since when an order of one that is gone, or of a process before us, is waited for, and which.
    fence: Mutex<Option<(String, Instant)>>,
    /// It is being woken: what it waits for is told.
    waking: AtomicBool,
    reason: Mutex<Option<Awaited>>,
}

/// Where an order stands, for the one who asks why it takes so long.
#[derive(Debug, Default)]
struct Progress {
    state: String,
    started: bool,
    /// It was this stop that dropped the last claim: there is no order to scale to zero but its own.
    dropped_last: bool,
    /// One of these has had no answer: it may be carried out later.
    unanswered: bool,
}

impl Workloads {
    /// What `scale` names, behind `targets`, whose addresses are written to `endpoints`. Connects when first asked
    /// for something.
    pub fn new<'a>(
        scale: Scale,
        targets: impl Iterator<Item = &'a Target>,
        endpoints: Endpoints,
        stop_timeout: Duration,
    ) -> Self {
        let services = targets.filter_map(|target| match target {
            Address::Service(service) => Some((service.clone(), Notify::new())),
            Address::Tcp { .. } | Address::Udp { .. } | Address::Unix(_) => None,
        });
        Self {
            api: Api::new(scale.access.clone()),
            services: services.collect(),
            endpoints,
            stop_timeout,
            me: OnceCell::new(),
            versions: Mutex::default(),
            claims: Mutex::default(),
            addresses: Mutex::default(),
            order: AsyncMutex::new(()),
            claimed: false.into(),
            writes: 0.into(),
            fence: Mutex::default(),
            waking: false.into(),
            reason: Mutex::default(),
            scale,
        }
    }

    /// Whether they run, for us: with a claim of ours. What runs without a claim of any wakeport is taken over.
    pub async fn query(&self) -> Result<Phase, Failure> {
        match self.try_query().await {
            Ok(phase) => Ok(phase),
            // No other wakeport stops it under our claim, and its pods are known.
            Err(trouble) if trouble.is_passing() && self.claimed.load(Ordering::Relaxed) => {
                Ok(match self.services_are_ready() {
                    true => Phase::Up,
                    false => Phase::Starting,
                })
            }
            Err(trouble) => Err(Failure(trouble.to_string())),
        }
    }

    async fn try_query(&self) -> Result<Phase, Trouble> {
        let me = self.me().await?;
        let writes = self.writes.load(Ordering::Relaxed);
        let lease = self.lease().await?;
        let mut agreement = Agreement::read(&lease);
        if self.writes.load(Ordering::Relaxed) == writes {
            self.note(&agreement, me);
        }
        // After the Lease: what it says of a stop is older.
        let scales = self.scales().await?;
        let scaled = scales
            .iter()
            .filter(|scale| phase::replicas(scale) > 0)
            .count();
        if scaled > 0 && !agreement.is_held(me) {
            // From here on we give no order to stop.
            let Ok(order) = self.order.try_lock() else {
                // One changes all of that right now.
                return Ok(Phase::Starting);
            };
            let next = self.abandoned(&lease, &agreement, me).await?;
            let taken = match &next {
                Some(next) => self.write(&order, &lease, next).await,
                None => Ok(()),
            };
            match (taken, next) {
                (Ok(()), None) => (),
                (Ok(()), Some(next)) => {
                    tracing::info!(
                        "`{}` runs and no wakeport has a claim: taken over",
                        self.names()
                    );
                    agreement = next;
                    self.note(&agreement, me);
                }
                (Err(Trouble::Conflict), _) => return Ok(Phase::Starting),
                (Err(trouble), _) => return Err(trouble),
            }
        }
        let claimed = agreement.is_held(me);
        let stopping = matches!(&agreement.stage, Stage::Sleeping(by) if by.uid == me.uid);
        let pods_left = claimed && scaled == 0 && !self.are_gone(&scales).await?;
        let all_scaled = scaled == scales.len();
        Ok(phase::phase(Seen {
            claimed,
            stopping: stopping && scaled > 0,
            all_scaled,
            any_scaled: scaled > 0,
            pods_left,
            ready: claimed && all_scaled && self.are_ready(&scales).await?,
        }))
    }

    /// The agreement with our claim, where no wakeport has one that stands.
    async fn abandoned(
        &self,
        lease: &Value,
        agreement: &Agreement,
        me: &Holder,
    ) -> Result<Option<Agreement>, Trouble> {
        if let Stage::Sleeping(by) = &agreement.stage
            && !self.is_past_fence(lease, by, me).await?
        {
            return Ok(None);
        }
        let void = self.void_claims(agreement, me).await?;
        let mut next = agreement.claimed(me);
        next.claims.retain(|uid, _| !void.contains(uid));
        Ok((next.claims.len() == 1).then_some(next))
    }

    /// Takes a claim, and scales up what is at zero. Returns when that is ordered.
    pub async fn wake(&self, order: WakeOrder) -> Woken {
        let mut progress = Progress::default();
        let result = tokio::select! {
            result = self.start(&mut progress) => result.map_err(|trouble| trouble.to_string()),
            () = order.given_up.cancelled() => Err(format!("{}; start cancelled", progress.state)),
        };
        self.waking.store(result.is_ok(), Ordering::Relaxed);
        Woken {
            started: match progress.started {
                true => StopScope::All,
                false => StopScope::Nothing,
            },
            result: result.map_err(Failure),
        }
    }

    async fn start(&self, progress: &mut Progress) -> Result<(), Trouble> {
        *locked(&self.reason) = None;
        let mut retry = Retry::default();
        while let Err(trouble) = self.try_start(progress).await {
            if !trouble.is_passing() {
                return Err(trouble);
            }
            progress.state = trouble.to_string();
            sleep(retry.pause(trouble.after())).await;
        }
        Ok(())
    }

    async fn try_start(&self, progress: &mut Progress) -> Result<(), Trouble> {
        let agreement = self.claim(progress).await?;
        for workload in &self.scale.workloads {
            let object = self.object(workload, Some("scale")).await?;
            let mut scale = self.api.call(Verb::Get, &object, "", None).await?;
            let mut pauses = LEFT;
            // Another wakeport may scale it up meanwhile: its pods are not those from before.
            while phase::replicas(&scale) == 0
                && !self.scale.overlap
                && !self.are_gone(std::slice::from_ref(&scale)).await?
            {
                progress.state = format!("pods of `{workload}` from before still terminate");
                sleep(pauses.pause()).await;
                scale = self.api.call(Verb::Get, &object, "", None).await?;
            }
            if phase::replicas(&scale) > 0 {
                continue;
            }
            progress.state = format!("`{workload}` is being scaled up");
            // What was known of its pods is over, and their addresses may be others' by now.
            for (service, restart) in self.services.iter().filter(|_| !progress.started) {
                self.endpoints.set(service, Vec::new());
                restart.notify_one();
            }
            progress.started = true;
            let replicas = match self.scale.replicas {
                Replicas::Exactly(number) => number,
                Replicas::Remembered => {
                    let known = agreement.replicas.get(&workload.to_string());
                    known.copied().unwrap_or(1)
                }
            };
            self.patch(&object, &scale, replicas).await?;
        }
        Ok(())
    }

    /// Takes a claim, unless we have it: not before a stop that is under way has come to its end.
    async fn claim(&self, progress: &mut Progress) -> Result<Agreement, Trouble> {
        let me = self.me().await?;
        let order = self.order.lock().await;
        let mut pauses = LEFT;
        loop {
            let lease = self.lease().await?;
            let agreement = Agreement::read(&lease);
            let next = match agreement.claim(me) {
                Claim::Held => {
                    self.note(&agreement, me);
                    return Ok(agreement);
                }
                Claim::Write(next) => next,
                Claim::Fenced(by) if self.is_past_fence(&lease, &by, me).await? => {
                    agreement.claimed(me)
                }
                Claim::Fenced(by) => {
                    progress.state = match by.pod.as_str() {
                        "" => format!("wakeport `{}` is scaling it to zero", by.uid),
                        pod => format!("the wakeport in pod `{pod}` is scaling it to zero"),
                    };
                    sleep(pauses.pause()).await;
                    continue;
                }
            };
            match self.write(&order, &lease, &next).await {
                Ok(()) => {
                    self.note(&next, me);
                    return Ok(next);
                }
                Err(Trouble::Conflict) => (),
                Err(trouble) => return Err(trouble),
            }
        }
    }

    /// Drops our claim, and scales to zero if it was the last one. Returns when no pod is left, or at once if
    /// others have claims.
    pub async fn sleep(&self, scope: StopScope) -> Result<Slept, Failure> {
        let mut progress = Progress::default();
        let limit = self.stop_timeout.max(SHORTEST_STOP);
        self.waking.store(false, Ordering::Relaxed);
        let stop = timeout(limit, self.stop(scope, &mut progress));
        match stop.await {
            Ok(Ok(slept)) => Ok(slept),
            Ok(Err(trouble)) => Err(Failure(trouble.to_string())),
            Err(_) => Err(Failure(format!(
                "{} {} after the order to stop",
                progress.state,
                span::show(limit)
            ))),
        }
    }

    async fn stop(&self, scope: StopScope, progress: &mut Progress) -> Result<Slept, Trouble> {
        progress.state = "the API server has not answered".into();
        let order = self.order.lock().await;
        let mut retry = Retry::default();
        loop {
            let stopped = match scope {
                StopScope::Nothing => self.drop_claim(&order).await.map(|()| Slept::default()),
                StopScope::All | StopScope::Units(_) => self.try_stop(&order, progress).await,
            };
            match stopped {
                Err(trouble) if trouble.is_passing() => {
                    if trouble != Trouble::Conflict {
                        progress.state = trouble.to_string();
                    }
                    sleep(retry.pause(trouble.after())).await;
                }
                ended => return ended,
            }
        }
    }

    /// Leaves the workload as it is, as we have found it.
    async fn drop_claim(&self, order: &MutexGuard<'_, ()>) -> Result<(), Trouble> {
        let me = self.me().await?;
        let lease = self.lease().await?;
        match Agreement::read(&lease).dropped(me) {
            Some(next) => self.write(order, &lease, &next).await,
            None => Ok(()),
        }
    }

    async fn try_stop(
        &self,
        order: &MutexGuard<'_, ()>,
        progress: &mut Progress,
    ) -> Result<Slept, Trouble> {
        let me = self.me().await?;
        let lease = self.lease().await?;
        let agreement = Agreement::read(&lease);
        let void = self.void_claims(&agreement, me).await?;
        let scales = self.scales().await?;
        let names = self.scale.workloads.iter().map(ToString::to_string);
        let replicas: BTreeMap<_, _> = names.zip(scales.iter().map(phase::replicas)).collect();
        match agreement.release(me, &void, &replicas) {
            Release::Ours => (),
            Release::Over => return Ok(others()),
            Release::Others(next) => {
                self.write(order, &lease, &next).await?;
                return Ok(others());
            }
            Release::Last(next) => {
                self.write(order, &lease, &next).await?;
                progress.dropped_last = true;
            }
        }
        for workload in &self.scale.workloads {
            progress.state = format!("`{workload}` is not scaled to zero");
            let object = self.object(workload, Some("scale")).await?;
            let scale = self.api.call(Verb::Get, &object, "", None).await?;
            if phase::replicas(&scale) > 0 {
                // From now on it may be carried out at any time.
                *locked(&self.fence) = None;
                let patched = self.patch(&object, &scale, 0).await;
                progress.unanswered |= matches!(patched, Err(Trouble::Away { .. }));
                if let Err(trouble) = &patched
                    && !trouble.is_passing()
                    && progress.dropped_last
                    && !progress.unanswered
                {
                    // It is not, and never will be: connections may go on to what runs.
                    let lease = self.lease().await?;
                    let next = Agreement::read(&lease).claimed(me);
                    self.write(order, &lease, &next).await?;
                    self.note(&next, me);
                }
                patched?;
            }
        }
        for (service, _) in &self.services {
            self.endpoints.explain(service, "");
        }
        let lease = self.lease().await?;
        if let Some(next) = Agreement::read(&lease).stopped(me) {
            self.write(order, &lease, &next).await?;
        }
        progress.state = format!("pods of `{}` are left", self.names());
        let mut pauses = LEFT;
        loop {
            let scales = self.scales().await?;
            // Pods that another wakeport has asked for since then are its own.
            if scales.iter().any(|scale| phase::replicas(scale) > 0) {
                return Ok(others());
            }
            if self.are_gone(&scales).await? {
                return Ok(Slept::default());
            }
            sleep(pauses.pause()).await;
        }
    }

    /// What the pods were last seen waiting for.
    pub fn failure_reason(&self) -> Option<String> {
        Some(locked(&self.reason).as_ref()?.why.clone())
    }

    /// The same, as long as it is waited for.
    pub fn awaited(&self) -> Option<Awaited> {
        let is_waking = self.waking.load(Ordering::Relaxed);
        locked(&self.reason).clone().filter(|_| is_waking)
    }

    fn names(&self) -> String {
        let names: Vec<_> = self
            .scale
            .workloads
            .iter()
            .map(ToString::to_string)
            .collect();
        names.join(" ")
    }

    /// Keeps in mind whether we may go on without the API server.
    fn note(&self, agreement: &Agreement, me: &Holder) {
        self.claimed.store(agreement.is_held(me), Ordering::Relaxed);
    }
}

/// What a stop comes to that others do not agree with.
fn others() -> Slept {
    Slept {
        remark: Some("other wakeports have connections to it: it stays up".into()),
        may_answer: false,
    }
}
