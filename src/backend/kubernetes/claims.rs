//! What several wakeports in front of one workload agree on, as the annotations of a Lease. Pure.
//!
//! Each write says what version of the Lease it comes after, so that they are all in one order. A wakeport has a
//! *claim* as long as it has a connection, and for its cooldown: it is written before the first one is let
//! through. The one that drops the last claim stops the workload: it writes that it does so with the same step,
//! and while that stands there is no new claim. A claim is void only when its pod is gone, and never for its age.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// A wakeport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// The UID of its pod; one that is none, outside of pods.
    pub(super) uid: String,
    /// NAMESPACE/NAME of its pod; empty outside of pods.
    pub(super) pod: String,
}

/// What becomes of the workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is up, or on its way up.
    Awake,
    /// This one scales it to zero: its order may be under way.
    Sleeping(Holder),
    /// It was scaled to zero.
    Asleep,
}

/// What a Lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Agreement {
    pub(super) stage: Stage,
    /// How many pods each workload had before the last stop.
    pub(super) replicas: BTreeMap<String, u32>,
    /// The pod of each claim, by its UID.
    pub(super) claims: BTreeMap<String, String>,
}

/// How a claim is to be had.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is ours already.
    Held,
    /// By writing this.
    Write(Agreement),
    /// Not while this one stops the workload.
    Fenced(Holder),
}

/// What the end of a claim comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// We stop the workload already.
    Ours,
    /// It has ended, and is not ours to stop.
    Over,
    /// By writing this; others have claims.
    Others(Agreement),
    /// By writing this; then the workload is ours to stop.
    Last(Agreement),
}

const STATE: &str = "wakeport/state";
const REPLICAS: &str = "wakeport/replicas";
const CLAIM: &str = "wakeport/claim.";

impl Agreement {
    /// What this Lease says. One that says nothing, as it is when new, is that of a workload without claims.
    pub(super) fn read(lease: &Value) -> Self {
        let annotations = &lease["metadata"]["annotations"];
        let text = |key: &str| annotations[key].as_str().unwrap_or_default();
        let mut words = text(STATE).split_whitespace();
        let stage = match words.next() {
            Some("awake") => Stage::Awake,
            Some("sleeping") => {
                let mut word = || words.next().unwrap_or_default().to_owned();
                let (uid, pod) = (word(), word());
                Stage::Sleeping(Holder { uid, pod })
            }
            _ => Stage::Asleep,
        };
        let pairs = text(REPLICAS).split_whitespace().filter_map(|pair| {
            let (workload, number) = pair.rsplit_once('=')?;
            Some((workload.to_owned(), number.parse().ok()?))
        });
        let all = annotations.as_object().into_iter().flatten();
        let claims = all.filter_map(|(key, pod)| {
            let uid = key.strip_prefix(CLAIM)?.to_owned();
            Some((uid, pod.as_str().unwrap_or_default().to_owned()))
        });
        Self {
            stage,
            replicas: pairs.collect(),
            claims: claims.collect(),
        }
    }

    /// The same Lease, saying this; what was read may be anything.
    pub(super) fn write(&self, lease: &Value) -> Value {
        let mut lease = lease.as_object().cloned().unwrap_or_default();
        let metadata = lease.get("metadata").and_then(Value::as_object);
        let mut metadata = metadata.cloned().unwrap_or_default();
        let before = metadata.get("annotations").and_then(Value::as_object);
        let mut annotations: Map<_, _> = before.cloned().unwrap_or_default();
        annotations.retain(|key, _| !key.starts_with(CLAIM));
        let state = match &self.stage {
            Stage::Awake => "awake".to_owned(),
            Stage::Sleeping(by) => format!("sleeping {} {}", by.uid, by.pod)
                .trim_end()
                .to_owned(),
            Stage::Asleep => "asleep".to_owned(),
        };
        annotations.insert(STATE.into(), state.into());
        if !self.replicas.is_empty() {
            let pairs = self.replicas.iter();
            let pairs: Vec<_> = pairs
                .map(|(workload, number)| format!("{workload}={number}"))
                .collect();
            annotations.insert(REPLICAS.into(), pairs.join(" ").into());
        }
        for (uid, pod) in &self.claims {
            annotations.insert(format!("{CLAIM}{uid}"), pod.clone().into());
        }
        metadata.insert("annotations".into(), annotations.into());
        lease.insert("metadata".into(), metadata.into());
        lease.into()
    }

    /// Whether `me` may let connections through.
    pub(super) fn is_held(&self, me: &Holder) -> bool {
        self.stage == Stage::Awake && self.claims.contains_key(&me.uid)
    }

    /// How `me` gets a claim.
    pub(super) fn claim(&self, me: &Holder) -> Claim {
        match &self.stage {
            _ if self.is_held(me) => Claim::Held,
            Stage::Sleeping(by) => Claim::Fenced(by.clone()),
            Stage::Awake | Stage::Asleep => Claim::Write(self.claimed(me)),
        }
    }

    /// With a claim of `me`, whatever the stage was: an order that was under way has come to its end.
    pub(super) fn claimed(&self, me: &Holder) -> Self {
        let mut next = self.clone();
        next.stage = Stage::Awake;
        next.claims.insert(me.uid.clone(), me.pod.clone());
        next
    }

    /// The claims of others.
    pub(super) fn others(&self, me: &Holder) -> impl Iterator<Item = Holder> {
        let others = self.claims.iter().filter(move |(uid, _)| **uid != me.uid);
        others.map(|(uid, pod)| Holder {
            uid: uid.clone(),
            pod: pod.clone(),
        })
    }

    /// What comes of it when `me` has no claim any more, and those in `void` have none. `replicas` is what there
    /// is of each workload.
    pub(super) fn release(
        &self,
        me: &Holder,
        void: &BTreeSet<String>,
        replicas: &BTreeMap<String, u32>,
    ) -> Release {
        match &self.stage {
            Stage::Sleeping(by) if by.uid == me.uid => return Release::Ours,
            // It has been taken from us, as from one that is gone.
            Stage::Sleeping(_) => return Release::Over,
            Stage::Awake | Stage::Asleep => (),
        }
        let mut next = self.clone();
        let had_one = next.claims.remove(&me.uid).is_some();
        next.claims.retain(|uid, _| !void.contains(uid));
        if !next.claims.is_empty() {
            return match had_one {
                true => Release::Others(next),
                false => Release::Over,
            };
        }
        next.stage = Stage::Sleeping(me.clone());
        let some = replicas.iter().filter(|(_, number)| **number > 0);
        next.replicas
            .extend(some.map(|(workload, number)| (workload.clone(), *number)));
        Release::Last(next)
    }

    /// Without a claim of `me`, the workload left as it is.
    pub(super) fn dropped(&self, me: &Holder) -> Option<Self> {
        let mut next = self.clone();
        next.claims.remove(&me.uid)?;
        Some(next)
    }

    /// The stop by `me` is over; `None` if it was taken from us.
    pub(super) fn stopped(&self, me: &Holder) -> Option<Self> {
        match &self.stage {
            Stage::Sleeping(by) if by.uid == me.uid => Some(Self {
                stage: Stage::Asleep,
                ..self.clone()
            }),
            Stage::Sleeping(_) | Stage::Awake | Stage::Asleep => None,
        }
    }
}

#[cfg(test)]
mod tests;
