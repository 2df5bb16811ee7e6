//! Who may wake the service, and what makes that of no use.

use super::Finding;
use super::system::Unit;
use crate::config::{ReadyKind, ServiceConfig, ServiceKind};

/// What is wrong with the filters of `config`. `relay` is the service that relays, `woken` what it
/// wakes.
pub fn of(config: &ServiceConfig, relay: Option<&Unit>, woken: &[Unit]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if config.admission.wake_on_data && config.readiness.kind == ReadyKind::Banner {
        findings.push(Finding::warning(
            "`--wake-on-data` is for clients that speak first, and `--ready banner` for servers that do: such clients wait for ever; give only one of them",
        ));
    }
    let filters = given(config);
    let Some(relay) = relay.filter(|_| !filters.is_empty()) else {
        return findings;
    };
    for name in &relay.pulls_in {
        // Without a unit of ours to wake, any that comes along is the one that is relayed to.
        let along = match config.kind {
            ServiceKind::Relay => name.ends_with(".service"),
            ServiceKind::Units { .. } | ServiceKind::Hooks { .. } | ServiceKind::Exec(_) => {
                woken.iter().any(|unit| unit.id == *name)
            }
        };
        if along {
            findings.push(Finding::warning(format!(
                "`{}` pulls in `{name}` (Wants= or the like), so systemd starts both at once, before {filters} can refuse anybody; take that line away, and let `--unit {name}` wake it",
                relay.id
            )));
        }
    }
    findings
}

/// The options that keep somebody from waking the service, as they are given.
fn given(config: &ServiceConfig) -> String {
    let given = [
        (!config.admission.access.is_empty(), "`--allow` or `--deny`"),
        (config.admission.wake_on_data, "`--wake-on-data`"),
        (config.wake_rate.is_some(), "`--wake-rate`"),
    ];
    let given = given
        .into_iter()
        .filter_map(|(is, name)| is.then_some(name));
    given.collect::<Vec<_>>().join(" and ")
}
