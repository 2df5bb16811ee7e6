//! What is seen of workloads, and what it means. Pure.

use serde_json::Value;

use crate::core::lifecycle::Phase;

/// What is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The claim is ours.
    pub(super) claimed: bool,
    /// We scale it to zero.
    pub(super) stopping: bool,
    /// Every workload is to have pods.
    pub(super) all_scaled: bool,
    /// One of them is.
    pub(super) any_scaled: bool,
    /// There are pods; asked for only where nothing is to have any.
    pub(super) pods_left: bool,
    /// Every target has a ready pod.
    pub(super) ready: bool,
}

/// What that means. Without a claim of ours it is down, as far as this wakeport goes: others may have it up.
pub(super) fn phase(seen: Seen) -> Phase {
    match seen {
        Seen { stopping: true, .. } => Phase::Stopping,
        Seen { claimed: false, .. } => Phase::Down,
        Seen {
            any_scaled: false,
            pods_left,
            ..
        } => match pods_left {
            true => Phase::Stopping,
            // Something else has scaled it: the next client wakes it.
            false => Phase::Down,
        },
        Seen {
            all_scaled: true,
            ready: true,
            ..
        } => Phase::Up,
        Seen { .. } => Phase::Starting,
    }
}

/// How many pods a scale asks for; a zero is left out.
pub(super) fn replicas(scale: &Value) -> u32 {
    let replicas = scale["spec"]["replicas"].as_u64().unwrap_or_default();
    replicas.try_into().unwrap_or(u32::MAX)
}

/// Which pods a scale is about, as a query says it.
pub(super) fn selector(scale: &Value) -> Option<&str> {
    let selector = scale["status"]["selector"].as_str();
    selector.filter(|selector| !selector.is_empty())
}

/// Whether a pod still runs, or may.
pub(super) fn is_there(pod: &Value) -> bool {
    !matches!(
        pod["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    )
}

/// Whether a pod is ready for connections.
pub(super) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let mut ready = conditions.filter(|it| it["type"] == "Ready" && it["status"] == "True");
    pod["metadata"]["deletionTimestamp"].is_null() && ready.next().is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_seen_tells_the_phase() {
        let seen = |claimed, stopping, all, any, pods_left, ready| Seen {
            claimed,
            stopping,
            all_scaled: all,
            any_scaled: any,
            pods_left,
            ready,
        };
        for (seen, expected) in [
            (seen(false, false, true, true, true, true), Phase::Down),
            (seen(false, false, false, false, false, false), Phase::Down),
            (seen(false, true, true, true, false, true), Phase::Stopping),
            (
                seen(true, false, false, false, true, false),
                Phase::Stopping,
            ),
            (seen(true, false, false, false, true, true), Phase::Stopping),
            (seen(true, false, false, false, false, true), Phase::Down),
            (seen(true, false, true, true, false, false), Phase::Starting),
            (seen(true, false, false, true, false, true), Phase::Starting),
            (seen(true, false, true, true, false, true), Phase::Up),
        ] {
            assert_eq!(phase(seen), expected, "{seen:?}");
        }
    }

    #[test]
    fn a_scale_leaves_a_zero_out() {
        assert_eq!(replicas(&json!({"spec": {}})), 0);
        assert_eq!(replicas(&json!({"spec": {"replicas": 3}})), 3);
        assert_eq!(replicas(&json!({"spec": {"replicas": -3}})), 0);
        assert_eq!(
            selector(&json!({"status": {"selector": "app=web"}})),
            Some("app=web")
        );
        // That would be all pods of the namespace.
        assert_eq!(selector(&json!({"status": {"selector": ""}})), None);
        assert_eq!(selector(&json!({})), None);
    }

    #[test]
    fn a_pod_that_goes_is_there_and_not_ready() {
        let mut pod = json!({"metadata": {}, "status": {
            "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]
        }});
        assert!(is_there(&pod) && is_ready(&pod));
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(is_there(&pod) && !is_ready(&pod));
        pod["status"]["phase"] = json!("Failed");
        assert!(!is_there(&pod));
    }
}
