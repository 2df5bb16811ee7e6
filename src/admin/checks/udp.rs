//! Datagrams: which of them wake a service, and what cannot be known of their targets.

use super::target;
use crate::admin::Finding;
use crate::config::address::Bound;
use crate::config::udp_wake::UdpWake;
use crate::config::{ServiceConfig, ServiceKind};

/// Ports whose protocol is known, with the kind of `--udp-wake` that is made for it.
const KNOWN: [(u16, UdpWake); 6] = [
    (443, UdpWake::Quic),
    (2457, UdpWake::Source),
    (19_132, UdpWake::Raknet),
    (19_133, UdpWake::Raknet),
    (27_015, UdpWake::Source),
    (51_820, UdpWake::Wireguard),
];

/// What is to be said of the datagrams of a service, whose listeners are among `all`.
pub fn datagrams(all: &[(&str, &Bound)], service: &ServiceConfig) -> Vec<Finding> {
    let wake = &service.udp.wake;
    let mut findings = Vec::new();
    let own = all
        .iter()
        .filter(|(name, at)| service.owns(name) && at.is_udp());
    let own: Vec<_> = own.collect();
    if own.is_empty() && !all.is_empty() {
        if !wake.is_any() {
            findings.push(Finding::warning(format!(
                "`--udp-wake {wake}` is about datagrams, and there is no listener for them; add one (`wakeport init` with `--listen-udp`), or leave it out"
            )));
        }
        let unused = service.routes.iter().filter(|route| route.value.is_udp());
        findings.extend(unused.map(|route| {
            Finding::warning(format!(
                "target `{}` is for datagrams, and there is no listener for them; add one (`wakeport init` with `--listen-udp`), or leave it out",
                route.value
            ))
        }));
    }
    findings.extend((!own.is_empty()).then(|| unasked(service)).flatten());
    let mut said = Vec::new();
    for (name, at) in own {
        let mut known = KNOWN.iter();
        let fitting = known.find(|(port, _)| Some(*port) == at.port());
        match (wake, fitting) {
            (UdpWake::Any, Some((port, fits))) => findings.push(Finding::note(format!(
                "port {port} of listener `{name}` is that of a protocol for which there is `--udp-wake {fits}`; without it every datagram wakes the service, pings and scans of ports, too"
            ))),
            (UdpWake::Any | UdpWake::Begins(_), _) | (_, None) => (),
            (_, Some((port, fits))) if fits != wake => findings.push(Finding::warning(format!(
                "port {port} of listener `{name}` is that of a protocol for which there is `--udp-wake {fits}`, and with `--udp-wake {wake}` its clients may not wake the service; use that, or `any`"
            ))),
            _ => (),
        }
        let Ok(to) = service.target(name, at) else {
            continue;
        };
        if !target::is_local(&to) && !said.contains(&to) {
            findings.push(Finding::note(format!(
                "whether anything takes datagrams on `{to}` was not verified: UDP does not tell"
            )));
            said.push(to);
        }
    }
    findings
}

/// Whether a service that hooks start and stop can be asked whether it runs: only where it accepts connections.
fn unasked(service: &ServiceConfig) -> Option<Finding> {
    let is_stopped = matches!(service.kind, ServiceKind::Hooks { stop: Some(_), .. });
    let all = service.routes.iter().all(|route| route.value.is_udp());
    (is_stopped && all).then(|| {
        Finding::note(
            "whether the service runs cannot be asked: hooks start it, and no target accepts connections; after a restart, a kill or a changed file it runs on until the next client has come and left, and the start hook has to bear that; a unit (`--unit`) can be asked",
        )
    })
}
