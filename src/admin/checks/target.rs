//! Where clients are relayed to.

use std::net::{IpAddr, SocketAddr};

use super::port::overlap;
use crate::admin::sandbox::Refusal;
use crate::admin::system::{Hidden, Listening, Lookup, Loop, Unit};
use crate::admin::{Finding, in_a_row};
use crate::config::address::{Address, Bound, UnixAddress, connected};
use crate::config::{Config, Manager, Named, ServiceConfig};

/// Whether every listener of `service`, by its name and address, leads somewhere, and not back to
/// any of `all`. Names of hosts are not resolved here, but for `localhost`.
pub fn routes(all: &[(&str, &Bound)], service: &ServiceConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    let own = all.iter().filter(|(name, _)| service.owns(name));
    for (name, at) in own {
        let target = match service.target(name, at) {
            Ok(target) => target,
            Err(why) => {
                findings.push(Finding::error(why));
                continue;
            }
        };
        let back = all
            .iter()
            .find(|(_, at)| local(&target).iter().any(|place| overlap(place, at)));
        if let Some((own, at)) = back {
            findings.push(Finding::error(format!(
                "target `{target}` is our own listener `{own}` on {at}; let the service listen somewhere else"
            )));
        }
    }
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    let unused = service.unused_routes(&names);
    findings.extend(unused.into_iter().map(Finding::warning));
    findings
}

/// Whether each listener has a service, and each service has its listeners.
pub fn owners(listeners: &[(&str, &Bound)], config: &Config) -> Option<Finding> {
    let names = listeners.iter().map(|(name, _)| *name);
    match config.owners(names) {
        Err(why) => Some(Finding::error(why)),
        Ok(owners) => {
            let orphan = owners.iter().position(Vec::is_empty)?;
            let name = listeners[orphan].0;
            Some(Finding::error(format!(
                "listener `{name}` belongs to no service, so its connections are reset; write `listener = \"{name}\"` below one `[service.NAME]`"
            )))
        }
    }
}

/// Targets that several services have. A service that starts would be taken for another one.
pub fn shared(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen: Vec<(&ServiceConfig, &Address)> = Vec::new();
    for service in &config.services {
        for Named { value, .. } in &service.routes {
            let places = local(value);
            let same = |(other, address): &&(&ServiceConfig, &Address)| {
                let is_place = || local(address).iter().any(|place| places.contains(place));
                other.name != service.name && (*address == value || is_place())
            };
            // Without a port it is the listener's own.
            let has_port = !matches!(
                value,
                Address::Tcp { port: None, .. } | Address::Udp { port: None, .. }
            );
            if let (Some((other, _)), true) = (seen.iter().find(same), has_port) {
                let other = other.name.as_deref().unwrap_or_default();
                let text = format!(
                    "target `{value}` is that of the service `{other}` as well, so either one can be taken for the other; give each its own address"
                );
                findings.push(Finding::warning(text).of(service.name.as_deref()));
            }
            seen.push((service, value));
        }
    }
    findings
}

/// Whether a unit that runs listens where it is to be found.
pub fn listened_on(unit: &Unit, service: &ServiceConfig, listening: &[Listening]) -> Vec<Finding> {
    if unit.load != "loaded" || !unit.network.is_empty() {
        return Vec::new();
    }
    let id = &unit.id;
    let routes = service.routes.iter().map(|route| &route.value);
    if unit.active != "active" {
        let routes: Vec<_> = routes.collect();
        return vec![Finding::note(format!(
            "`{id}` is not running, so its address was not verified; it must be {}",
            in_a_row(&routes)
        ))];
    }
    let unused = routes.filter(|address| {
        let places = local(address);
        let is_there = |place| listening.iter().any(|there| overlap(place, &there.at));
        !places.is_empty() && !places.iter().any(is_there)
    });
    unused
        .map(|address| {
            Finding::warning(format!(
                "`{id}` is running, but nothing listens on `{address}`; let it listen there, or correct `--to`"
            ))
        })
        .collect()
}

/// Whether the names of targets have addresses.
pub fn lookups(lookups: &[Lookup]) -> Vec<Finding> {
    let unknown = lookups.iter().filter_map(|(address, found)| match found {
        Err(reason) => Some(format!(
            "target `{address}` cannot be resolved ({reason}); verify the name with `getent hosts`"
        )),
        Ok(found) if found.is_empty() => Some(format!(
            "target `{address}` has no address; verify the name with `getent hosts`"
        )),
        Ok(_) => None,
    });
    unknown.map(Finding::error).collect()
}

/// Unix sockets that cannot be reached.
pub fn hidden(hidden: &[Hidden], user: &str) -> Vec<Finding> {
    let text = |(what, why): &Hidden| {
        Finding::error(format!("{what} cannot be reached by user `{user}`: {why}"))
    };
    hidden.iter().map(text).collect()
}

/// Targets that the sandbox of the service that relays refuses to connect to, at each address, and
/// the bus.
pub fn refused(
    service: &ServiceConfig,
    lookups: &[Lookup],
    relay: &Unit,
    manager: Manager,
) -> Vec<Finding> {
    let (id, ctl) = (&relay.id, manager.systemctl());
    let may_not = |what: &str, refusal: Refusal| {
        let (setting, allow) = (refusal.setting, refusal.allow);
        let remedy = setting.replace("Deny", "Allow");
        let (of, unit) = match refusal.slice {
            Some(slice) => (format!(" of `{slice}`"), slice),
            None => (String::new(), id.clone()),
        };
        Finding::error(format!(
            "`{id}` may not connect to {what} ({setting}={of}); `{ctl} edit {unit}`: {remedy}={allow}"
        ))
    };
    let mut findings = Vec::new();
    for Named { value, .. } in &service.routes {
        let found = lookups.iter().find(|(address, _)| address == value);
        let ips = match (value, found) {
            (Address::Unix(_) | Address::Service(_), _) => vec![None],
            (_, Some((_, Ok(found)))) => found.iter().map(|at| Some(at.ip())).collect(),
            (_, Some((_, Err(_))) | None) => value.ips().into_iter().map(Some).collect(),
        };
        let refused: Option<Vec<_>> = ips.iter().map(|ip| relay.sandbox.refuses(*ip)).collect();
        let refused = refused.and_then(|all| all.into_iter().next());
        let finding = refused.map(|refused| may_not(&format!("target `{value}`"), refused));
        findings.extend(finding.filter(|finding| !findings.contains(finding)));
    }
    if findings.is_empty() && !service.units().is_empty() {
        let refused = relay.sandbox.refuses(None);
        findings.extend(refused.map(|refused| may_not("the bus", refused)));
    }
    findings
}

/// Targets in another network than the service that relays: each `PrivateNetwork=` is one, unless
/// `JoinsNamespaceOf=` makes it the same. One with a path may be reached from outside, and programs
/// may enter it.
pub fn networks(unit: &Unit, relay: &Unit, service: &ServiceConfig) -> Option<Finding> {
    let is_private = |unit: &&Unit| unit.network == "PrivateNetwork=yes";
    let mut both = [relay, unit].into_iter();
    let own = both.clone().find(is_private);
    let own = own.or_else(|| both.find(|unit| !unit.network.is_empty()))?;
    let other = if own.id == relay.id { unit } else { relay };
    let concerned = service.routes.iter().any(|route| match &route.value {
        Address::Unix(UnixAddress::Path(_)) | Address::Service(_) => false,
        Address::Unix(UnixAddress::Abstract(_)) => true,
        address @ (Address::Tcp { .. } | Address::Udp { .. }) => {
            is_private(&own) || address.ips().iter().any(IpAddr::is_loopback)
        }
    });
    if own.network == other.network || !concerned {
        return None;
    }
    let (level, remedy): (fn(String) -> Finding, _) = match is_private(&own) {
        true => (
            Finding::error,
            "PrivateNetwork=yes, and JoinsNamespaceOf= of each other",
        ),
        false => (Finding::warning, "the same NetworkNamespacePath="),
    };
    Some(level(format!(
        "`{}` has a network of its own ({}), where `{}` is not; give both {remedy}",
        own.id, own.network, other.id
    )))
}

/// Targets by which clients come back to us.
pub fn loops(loops: &[Loop]) -> Vec<Finding> {
    let text = |(address, way): &Loop| match way.is_empty() {
        true => {
            format!("target `{address}` is our own listener; let the service listen somewhere else")
        }
        false => format!(
            "target `{address}` loops back through {}; one of them has to name the service itself",
            in_a_row(way)
        ),
    };
    loops.iter().map(text).map(Finding::error).collect()
}

/// Whether an address is this machine's without being resolved.
pub fn is_local(address: &Address) -> bool {
    let with_port = address.clone().with_port(Some(1));
    !local(&with_port.unwrap_or_else(|| address.clone())).is_empty()
}

/// The sockets of this machine that an address may mean. A name may mean anything.
fn local(address: &Address) -> Vec<Bound> {
    match address {
        Address::Unix(unix) => vec![Bound::Unix(unix.clone())],
        Address::Tcp { port, .. } | Address::Udp { port, .. } => {
            let bound = match address.is_udp() {
                true => Bound::Udp,
                false => Bound::Tcp,
            };
            let ips = address.ips().into_iter().map(connected);
            let ips = ips.filter(IpAddr::is_loopback);
            let at = |ip| Some(bound(SocketAddr::new(ip, (*port)?)));
            ips.filter_map(at).collect()
        }
        Address::Service(_) => Vec::new(),
    }
}
