//! Why pods are not ready yet. Pure.

use serde_json::Value;

use crate::backend::Awaited;
use crate::kubernetes::trouble::shortened;

/// A longer one is no reason.
const LONGEST_WORD: usize = 60;

/// What one pod waits for; `None` where all are ready, or there are none.
pub(super) fn of_pods<'a>(pods: impl IntoIterator<Item = &'a Value>) -> Option<Awaited> {
    let there = pods
        .into_iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    there.filter_map(of_pod).next()
}

fn of_pod(pod: &Value) -> Option<Awaited> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    if super::phase::is_ready(pod) {
        return None;
    }
    let status = &pod["status"];
    let containers = |key: &str| status[key].as_array().cloned().unwrap_or_default();
    let condition = |kind: &str| {
        let mut conditions = status["conditions"].as_array().into_iter().flatten();
        conditions.find(|it| it["type"] == kind && it["status"] == "False")
    };
    let why = condition("PodScheduled").map(|unscheduled| said(unscheduled, "not scheduled"));
    let why = why.or_else(|| {
        let init = containers("initContainerStatuses").into_iter();
        let init = init.filter_map(|it| Some(of_container(&it)?.after("init ")));
        let own = containers("containerStatuses").into_iter();
        let own = own.filter_map(|it| of_container(&it));
        init.chain(own).next()
    });
    let why = why.unwrap_or_else(|| match status["phase"].as_str() {
        Some("Running") => awaited("NotReady", "its readiness probe has not succeeded"),
        Some("Failed") => said(status, "failed"),
        _ => awaited("Pending", "pending"),
    });
    Some(why.after(&format!("pod `{name}`: ")))
}

/// What a container waits for.
fn of_container(status: &Value) -> Option<Awaited> {
    let name = status["name"].as_str().unwrap_or_default();
    let waiting = &status["state"]["waiting"];
    let ended = &status["state"]["terminated"];
    let before = &status["lastState"]["terminated"];
    let container = format!("container `{name}`: ");
    if waiting.is_object() {
        let mut why = said(waiting, "waiting");
        if before.is_object() {
            why.why = format!("{} (last: {})", why.why, how(before));
        }
        return Some(why.after(&container));
    }
    if ended.is_object() && ended["exitCode"] != 0 {
        let reason = ended["reason"].as_str().unwrap_or("ended");
        return Some(awaited(reason, &how(ended)).after(&container));
    }
    None
}

/// How a container has ended.
fn how(ended: &Value) -> String {
    let reason = ended["reason"].as_str().unwrap_or("ended");
    format!("{reason}, exit code {}", ended["exitCode"])
}

/// A reason with its message.
fn said(it: &Value, otherwise: &str) -> Awaited {
    let reason = it["reason"].as_str().unwrap_or(otherwise);
    match it["message"].as_str() {
        Some(message) if !message.is_empty() => {
            awaited(reason, &format!("{reason}: {}", shortened(message)))
        }
        _ => awaited(reason, reason),
    }
}

/// With the reason as one word: what writes to the API may write anything.
fn awaited(reason: &str, why: &str) -> Awaited {
    let is_word = |text: &str| {
        let known = |c: char| c.is_ascii_alphanumeric();
        (1..=LONGEST_WORD).contains(&text.len()) && text.chars().all(known)
    };
    Awaited {
        reason: match is_word(reason) {
            true => reason.into(),
            false => "Other".into(),
        },
        why: why.into(),
    }
}

impl Awaited {
    fn after(self, what: &str) -> Self {
        Self {
            why: format!("{what}{}", self.why),
            ..self
        }
    }
}

/// Why there are no pods, as their owner says it: a quota, an admission webhook.
pub(super) fn of_owner(owner: &Value) -> Option<Awaited> {
    let mut conditions = owner["status"]["conditions"].as_array()?.iter();
    let failure = conditions.find(|it| it["type"] == "ReplicaFailure" && it["status"] == "True")?;
    Some(said(failure, "ReplicaFailure"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_says_what_it_waits_for() {
        let unscheduled = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes\nare available"}
        ]});
        let pull = json!({"phase": "Pending", "containerStatuses": [
            {"name": "c", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off"}}}
        ]});
        let crash = json!({"phase": "Running", "containerStatuses": [
            {"name": "c", "state": {"waiting": {"reason": "CrashLoopBackOff"}},
             "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
        ]});
        let init = json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "done", "state": {"terminated": {"exitCode": 0}}},
            {"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}
        ], "containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "PodInitializing"}}}]});
        let running = json!({"phase": "Running", "containerStatuses": [{"name": "c", "state": {"running": {}}}]});
        for (status, reason, expected) in [
            (
                unscheduled,
                "Unschedulable",
                "Unschedulable: 0/3 nodes are available",
            ),
            (
                pull,
                "ImagePullBackOff",
                "container `c`: ImagePullBackOff: Back-off",
            ),
            (
                crash,
                "CrashLoopBackOff",
                "container `c`: CrashLoopBackOff (last: OOMKilled, exit code 137)",
            ),
            (init, "Error", "init container `i`: Error, exit code 1"),
            (running, "NotReady", "its readiness probe has not succeeded"),
            (json!({}), "Pending", "pending"),
            (
                json!({"phase": "Failed", "reason": "a\"} b"}),
                "Other",
                "a\"} b",
            ),
        ] {
            let pod = json!({"metadata": {"name": "web-0"}, "status": status});
            let awaited = of_pods([&pod]).expect(reason);
            assert_eq!(awaited.reason, reason);
            assert_eq!(awaited.why, format!("pod `web-0`: {expected}"));
        }
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(of_pods([&ready]), None);
        assert_eq!(
            of_pods([&json!({"metadata": {"deletionTimestamp": "x"}})]),
            None
        );
        assert_eq!(
            of_pods([&json!(7)]).map(|awaited| awaited.why),
            Some("pod ``: pending".into())
        );
    }

    #[test]
    fn an_owner_says_why_it_has_no_pods() {
        let owner = json!({"status": {"conditions": [
            {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}
        ]}});
        let why = of_owner(&owner).map(|awaited| awaited.why);
        assert_eq!(why, Some("FailedCreate: exceeded quota".into()));
        assert_eq!(of_owner(&json!({})), None);
    }
}
