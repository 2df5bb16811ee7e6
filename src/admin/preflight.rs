//! What often goes wrong: with the unit that is to be woken, and with the port that we take.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::checks::NOT_INSTALLED;
use super::filters;
use super::system::{Facts, Holder, Listening, Unit};
use super::unit_files::{self, Plan};
use super::{Finding, Instance, systemctl};
use crate::config::address::{Address, Bound};
use crate::config::{Manager, Named, ReadyKind, ServiceConfig, span};

/// All that `wakeport init` warns of before it does anything.
pub fn of(instance: &Instance, facts: &Facts, plan: &Plan) -> Vec<Finding> {
    let (process, config) = (&instance.config.process, &instance.config.services[0]);
    let mut findings = Vec::from_iter(template(instance, facts));
    match &facts.units {
        Err(reason) => findings.push(unasked(instance, reason)),
        Ok(units) => {
            for (name, unit) in instance.units().iter().zip(units) {
                findings.extend(woken(name.as_str(), unit, config, instance.manager));
                findings.extend(readiness(unit, config));
                findings.extend(place(unit, config, &facts.listening));
            }
        }
    }
    let listeners: Vec<_> = process
        .listen
        .iter()
        .map(|Named { name, value }| (name.as_deref().unwrap_or(instance.stem()), value))
        .collect();
    findings.extend(routes(&listeners, config));
    let ids = unit_files::ids(instance, facts);
    let sockets = instance.sockets();
    for listen in &process.listen {
        findings.extend(port(
            &listen.value,
            &facts.listening,
            &ids,
            &sockets,
            &instance.service(),
        ));
    }
    if instance.manager == Manager::System && !ids.is_empty() && !facts.polkit {
        findings.push(no_polkit());
    }
    findings.extend(linger(facts.linger));
    let woken = facts.units.as_deref().unwrap_or_default();
    findings.extend(filters::of(config, facts.service.as_ref(), woken));
    findings.extend(beside(instance, facts, plan));
    findings.sort_by_key(|finding| finding.level);
    findings
}

/// What is wrong with a unit that is to be started and stopped by `name`.
pub fn woken(name: &str, unit: &Unit, config: &ServiceConfig, manager: Manager) -> Vec<Finding> {
    let ctl = systemctl(manager);
    let mut findings = Vec::new();
    match unit.load.as_str() {
        "loaded" => (),
        "masked" => {
            let text = format!("`{name}` is masked; `{ctl} unmask {name}` if it may run");
            return vec![Finding::error(text)];
        }
        "not-found" => {
            let text = format!(
                "there is no unit `{name}`; is the name right? `{ctl} list-unit-files` has them all, and after adding a file, `{ctl} daemon-reload`"
            );
            return vec![Finding::error(text)];
        }
        state => {
            let text = format!(
                "`{name}` cannot be loaded ({state}: {}); `systemd-analyze verify {name}` says why",
                unit.load_error
            );
            return vec![Finding::error(text)];
        }
    }
    let mut error = |text: String| findings.push(Finding::error(text));
    if unit.refuse_manual_start || unit.refuse_manual_stop {
        error(format!(
            "`{name}` has RefuseManualStart= or RefuseManualStop=, so nobody may start and stop it; name a unit that requires it"
        ));
    }
    if unit.stop_when_unneeded {
        error(format!(
            "`{name}` has StopWhenUnneeded=yes, and stops as soon as it has started, since no unit needs it; `{ctl} edit {name}`: StopWhenUnneeded=no"
        ));
    }
    if unit.kind == "oneshot" && !unit.remain_after_exit {
        error(format!(
            "`{name}` is Type=oneshot, and down as soon as its program is done; it needs RemainAfterExit=yes, or another Type="
        ));
    }
    if !unit.upheld_by.is_empty() {
        error(format!(
            "`{name}` is started again whenever it stops, by Upholds= of {}; take that away",
            in_a_row(&unit.upheld_by)
        ));
    }
    findings.extend(habits(name, unit, ctl));
    findings.extend(times(name, unit, config));
    findings
}

/// What a unit does by itself, and need not any more.
fn habits(name: &str, unit: &Unit, ctl: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut warning = |text: String| findings.push(Finding::warning(text));
    match unit.file_state.as_str() {
        "enabled" => warning(format!(
            "`{name}` is enabled, so it starts at boot without any client; `{ctl} disable {name}`"
        )),
        // There `systemctl disable` changes nothing.
        "enabled-runtime" => warning(format!(
            "`{name}` is enabled by a generator (/run/systemd/generator), or by hand until the next boot; if it starts at boot it does so without any client, until its own configuration says otherwise (a cluster of Debian's PostgreSQL: `manual` in its start.conf)"
        )),
        _ => (),
    }
    let others: Vec<_> = unit
        .triggered_by
        .iter()
        .filter(|trigger| !trigger.starts_with("wakeport@"))
        .cloned()
        .collect();
    if !others.is_empty() {
        warning(format!(
            "{} starts `{name}` as well, and nobody puts it to sleep before its next client has left; `{ctl} disable --now` it, unless that is wanted",
            in_a_row(&others)
        ));
    }
    if unit.restart == "always" || unit.restart == "on-success" {
        warning(format!(
            "`{name}` has Restart={}: when it ends by itself it comes back, and stays awake without any client; Restart=on-failure suits it better",
            unit.restart
        ));
    }
    if !["", "none"].contains(&unit.start_limit_action.as_str()) {
        warning(format!(
            "`{name}` has StartLimitAction={}: {} wakes within {} would do that to the machine; `{ctl} edit {name}`: StartLimitIntervalSec=0",
            unit.start_limit_action,
            unit.start_limit_burst,
            span::show(unit.start_limit_interval)
        ));
    }
    findings
}

/// Limits of the unit's own that do not go with ours.
fn times(name: &str, unit: &Unit, config: &ServiceConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    let timing = &config.timing;
    for (what, theirs, ours, option) in [
        (
            "start",
            unit.start_timeout,
            timing.start_timeout,
            "--start-timeout",
        ),
        (
            "stop",
            unit.stop_timeout,
            timing.stop_timeout,
            "--stop-timeout",
        ),
    ] {
        // Without a limit it may take long, or it is only not said.
        if theirs > ours && theirs != Duration::MAX {
            let (theirs, ours) = (span::show(theirs), span::show(ours));
            findings.push(Finding::warning(format!(
                "`{name}` may take {theirs} to {what}, and wakeport waits {ours}; `{option} '{theirs}'`"
            )));
        }
    }
    let (burst, interval) = (unit.start_limit_burst, unit.start_limit_interval);
    let rounds = interval.checked_div(burst).unwrap_or_default();
    if interval != Duration::MAX && timing.cooldown < rounds && unit.start_limit_action == "none" {
        findings.push(Finding::note(format!(
            "`{name}` may be started {burst} times in {}, and quick rounds may be more; wakeport resets that count after good ones, and after failed ones it holds",
            span::show(interval)
        )));
    }
    findings
}

/// Whether the unit says when it is ready.
fn readiness(unit: &Unit, config: &ServiceConfig) -> Option<Finding> {
    let says_nothing = ["simple", "exec", "idle"].contains(&unit.kind.as_str());
    let only_connects = config.readiness.kind == ReadyKind::Connect;
    (says_nothing && only_connects && config.readiness.hook.is_none()).then(|| {
        Finding::note(format!(
            "`{}` is Type={}, which does not say when it is ready: wakeport waits until it accepts; if it does that before it can serve, `--ready http:///PATH`, `--ready banner` or a `--ready-hook`",
            unit.id, unit.kind
        ))
    })
}

/// Whether a unit that runs listens where it is to be found.
fn place(unit: &Unit, config: &ServiceConfig, listening: &[Listening]) -> Vec<Finding> {
    if unit.load != "loaded" || unit.private_network {
        return Vec::new();
    }
    let id = &unit.id;
    if unit.active != "active" {
        return vec![Finding::note(format!(
            "`{id}` does not run, so where it listens was not seen; it must be at {}",
            in_a_row(
                &config
                    .routes
                    .iter()
                    .map(|route| route.value.to_string())
                    .collect::<Vec<_>>()
            )
        ))];
    }
    let routes = config.routes.iter().map(|route| &route.value);
    let empty = routes.filter(|address| {
        let places = local(address);
        !places.is_empty()
            && !listening
                .iter()
                .any(|there| places.iter().any(|place| overlap(place, &there.at)))
    });
    empty
        .map(|address| {
            Finding::warning(format!(
                "`{id}` runs, and nobody listens on `{address}`; let it listen there, or correct `--to`"
            ))
        })
        .collect()
}

/// Whether every listener, by its name and address, leads somewhere, and not back to us. Names of
/// hosts are not resolved here, but for `localhost`.
pub fn routes(listeners: &[(&str, &Bound)], config: &ServiceConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, at) in listeners {
        let port = match at {
            Bound::Tcp(tcp) => Some(tcp.port()),
            Bound::Unix(_) => None,
        };
        let Some(route) = config.route(name) else {
            findings.push(Finding::error(format!(
                "listener `{name}` has no target; add `--to {name}=ADDR`"
            )));
            continue;
        };
        let Some(target) = route.clone().with_port(port) else {
            findings.push(Finding::error(format!(
                "target `{route}` needs a port: listener `{name}` is a Unix socket and has none to lend"
            )));
            continue;
        };
        let back = listeners
            .iter()
            .find(|(_, at)| local(&target).iter().any(|place| overlap(place, at)));
        if let Some((own, at)) = back {
            findings.push(Finding::error(format!(
                "target `{target}` is our own listener `{own}` on {at}; let the service listen somewhere else"
            )));
        }
    }
    for Named { name, value } in &config.routes {
        let Some(name) = name else { continue };
        if !listeners.iter().any(|(listener, _)| listener == name) {
            findings.push(Finding::warning(format!(
                "no listener is called `{name}`, so `--to {name}={value}` is not used; see FileDescriptorName= in the .socket units"
            )));
        }
    }
    findings
}

/// Who has the port that we want to take.
pub fn port(
    wanted: &Bound,
    listening: &[Listening],
    units: &[String],
    sockets: &[String],
    service: &str,
) -> Option<Finding> {
    let there = listening.iter().find(|there| {
        let ours = matches!(&there.holder, Holder::Unit(unit) if sockets.contains(unit));
        overlap(wanted, &there.at) && !ours
    })?;
    let at = &there.at;
    Some(Finding::error(match &there.holder {
        Holder::Unit(unit) if units.contains(unit) => {
            let elsewhere = match wanted {
                Bound::Tcp(_) => format!(
                    "another port (then `--to` that), a Unix socket (`--to /PATH`), or a network that only wakeport reaches, with `--listen` on a single address: PrivateNetwork=yes in both, JoinsNamespaceOf={service} in `{unit}`, JoinsNamespaceOf={unit} in `{service}`"
                ),
                Bound::Unix(_) => "another path (then `--to` that)".to_owned(),
            };
            format!(
                "`{unit}` itself listens on {at}, which wakeport is to take; move it: {elsewhere}"
            )
        }
        holder @ (Holder::Unit(_) | Holder::Program(_) | Holder::User(_) | Holder::Somebody) => {
            format!(
                "{at}, which wakeport is to take, is taken by {holder}; stop that, or give `--listen` another address"
            )
        }
    }))
}

/// Whether the units that the drop-ins belong to are there.
fn template(instance: &Instance, facts: &Facts) -> Option<Finding> {
    let service = facts.service.as_ref().filter(|_| !instance.standalone)?;
    // The socket without an address is no valid unit, so the service tells.
    (service.load == "not-found").then(|| Finding::error(NOT_INSTALLED))
}

fn unasked(instance: &Instance, reason: &str) -> Finding {
    let units: Vec<_> = instance.units().iter().map(ToString::to_string).collect();
    let unknown = match units.is_empty() {
        true => "whether wakeport's own units are installed is not known".to_owned(),
        false => format!(
            "nothing is known of {}: whether it is there, starts at boot or restarts itself",
            in_a_row(&units)
        ),
    };
    Finding::note(format!("systemd cannot be asked ({reason}), so {unknown}"))
}

/// polkit is what lets an unprivileged user start and stop units.
pub fn no_polkit() -> Finding {
    Finding::error(
        "polkit is not installed, and without it wakeport may start no unit; install it (Debian: polkitd), or see \"Without any privilege\" in docs/recipes.md",
    )
}

/// Without a login of its user, a user's manager ends, and so does everything in it.
pub fn linger(linger: Option<bool>) -> Option<Finding> {
    (linger == Some(false)).then(|| {
        Finding::warning(
            "the ports are open only while you are logged in; `loginctl enable-linger` keeps them open",
        )
    })
}

/// Files of somebody else's that are in the way, or that add to ours.
fn beside(instance: &Instance, facts: &Facts, plan: &Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    for change in plan
        .changes
        .iter()
        .filter(|change| change.foreign && change.is_one())
    {
        findings.push(Finding::error(format!(
            "`{}` is there, and `wakeport init` has not written it for this instance; move it away, or overwrite it with `--force`",
            change.path.display()
        )));
    }
    let mut units = instance.sockets();
    units.push(instance.service());
    for file in &facts.present {
        let folder = file.path.parent().and_then(Path::file_name);
        let folder = folder
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let ours = file
            .text
            .as_ref()
            .is_ok_and(|text| instance.mark().is_on(text));
        let planned = plan.changes.iter().any(|change| change.path == file.path);
        let unit = folder.strip_suffix(".d").unwrap_or_default();
        if !ours && !planned && units.iter().any(|name| name == unit) {
            findings.push(Finding::note(format!(
                "`{}` is there as well, and adds to what `wakeport init` writes; remove it if it says the same",
                file.path.display()
            )));
        }
    }
    findings
}

/// Whether an address tells by itself that it is this machine's.
pub fn is_plain(address: &Address) -> bool {
    !local(
        &address
            .clone()
            .with_port(Some(1))
            .unwrap_or_else(|| address.clone()),
    )
    .is_empty()
}

/// The sockets of this machine that an address may mean. A name may mean anything.
fn local(address: &Address) -> Vec<Bound> {
    match address {
        Address::Unix(unix) => vec![Bound::Unix(unix.clone())],
        Address::Tcp {
            host,
            port: Some(port),
        } => {
            let loopback = |ip: &IpAddr| ip.is_loopback();
            let ips = match host.as_str() {
                "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
                host => host.parse().ok().filter(loopback).into_iter().collect(),
            };
            ips.into_iter()
                .map(|ip| Bound::Tcp(SocketAddr::new(ip, *port)))
                .collect()
        }
        Address::Tcp { port: None, .. } => Vec::new(),
    }
}

/// Whether two sockets cannot both listen. An IPv6 one for every address takes the IPv4 ones too.
pub fn overlap(one: &Bound, other: &Bound) -> bool {
    match (one, other) {
        (Bound::Unix(one), Bound::Unix(other)) => one == other,
        (Bound::Tcp(one), Bound::Tcp(other)) => {
            let (a, b) = (one.ip(), other.ip());
            let everywhere = |ip: IpAddr, other: IpAddr| {
                ip.is_unspecified() && (ip.is_ipv6() || other.is_ipv4())
            };
            one.port() == other.port() && (a == b || everywhere(a, b) || everywhere(b, a))
        }
        _ => false,
    }
}

/// Names, as people list them.
pub fn in_a_row(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}
