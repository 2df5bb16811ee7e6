//! What is wrong with a set-up, by the object that is looked at. `wakeport init` asks before it
//! writes anything, `wakeport check` asks about what is installed or typed.

pub mod http;
pub mod kubernetes;
pub mod port;
pub mod reclaim;
pub mod socket;
pub mod target;
pub mod udp;
pub mod unit;

use super::system::{Subject, System};
use super::unit_files::{self, Plan};
use super::{Finding, Instance};
use crate::config::address::Bound;
use crate::config::{Config, Manager, Named, ServiceKind};

/// What stands in the way of `instance`, before it is written.
pub fn preflight(instance: &Instance, system: &System, plan: &Plan) -> Vec<Finding> {
    let config = &instance.config;
    let mut findings = Vec::from_iter(unit::template(instance, system));
    findings.extend(unit::control(instance.stem(), instance.manager));
    if let Err(reason) = &system.units {
        findings.push(unit::not_checked(&instance.units(), reason));
    }
    let listeners = named(config, instance.stem());
    findings.extend(target::owners(&listeners, config));
    findings.extend(target::shared(config));
    let mut units = system.units.as_deref().unwrap_or_default();
    let mut hidden = system.hidden.iter();
    for service in &config.services {
        let names = service.units();
        let woken = units.split_off(..names.len()).unwrap_or_default();
        let mut found = target::hidden(hidden.next().map_or(&[], Vec::as_slice), &system.runs_as);
        for (name, unit) in names.iter().zip(woken) {
            found.extend(unit::woken(name.as_str(), unit, service));
            found.extend(unit::readiness(unit, service));
            found.extend(target::listened_on(unit, service, &system.listening));
        }
        found.extend(target::routes(&listeners, service));
        found.extend(http::requests(&listeners, service));
        found.extend(udp::datagrams(&listeners, service));
        let refused = |relay| target::refused(service, &[], relay, instance.manager);
        found.extend(system.service.iter().flat_map(refused));
        found.extend(unit::filters(service, system.service.as_ref(), woken));
        found.extend(unit::shared(names, woken, &system.elsewhere));
        let of_service = |finding: Finding| finding.of(service.name.as_deref());
        findings.extend(found.into_iter().map(of_service));
    }
    let ids = unit_files::ids(instance, system);
    let sockets = instance.sockets();
    let (listening, own) = (&system.listening, instance.service());
    for (_, at) in &listeners {
        findings.extend(port::taken(at, listening, &ids, &sockets, &own));
    }
    if instance.manager == Manager::System && !ids.is_empty() && !system.polkit {
        findings.push(unit::no_polkit());
    }
    findings.extend(unit::closed_rules(system.rules_closed.as_ref()));
    findings.extend(port::linger(system.linger));
    findings.extend(unit::drop_ins(instance, system, plan));
    findings.sort_by_key(|finding| finding.level);
    for finding in findings.iter_mut().filter(|it| it.service.is_some()) {
        *finding = finding.under(instance.stem());
    }
    findings
}

/// What is wrong with an instance, or a command line, as it is.
pub fn findings(subject: &Subject) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(installed) = &subject.instance {
        findings.extend(unit::installed(installed, subject.manager));
        findings.extend(unit::user(subject, installed));
        findings.extend(unit::access(installed, unit::is_denied(subject)));
    }
    findings.extend(ports(subject));
    let listeners = listeners(subject);
    if listeners.is_empty() && subject.instance.is_none() {
        findings.push(Finding::note(
            "no `--listen` was given, so the sockets have to come from systemd; `wakeport check UNIT` verifies an instance",
        ));
    }
    if !listeners.is_empty() {
        findings.extend(target::owners(&listeners, &subject.config));
    }
    findings.extend(target::shared(&subject.config));
    let relay = subject
        .instance
        .as_ref()
        .map(|installed| &installed.service);
    for (config, system) in subject.services() {
        let mut found = target::routes(&listeners, config);
        found.extend(http::requests(&listeners, config));
        found.extend(udp::datagrams(&listeners, config));
        found.extend(target::lookups(&system.lookups));
        found.extend(target::loops(&system.loops));
        found.extend(target::hidden(&system.hidden, &subject.user));
        let refused = |relay| target::refused(config, &system.lookups, relay, subject.manager);
        found.extend(relay.into_iter().flat_map(refused));
        if let Err(reason) = &system.units {
            found.push(unit::out_of_reach(reason));
        }
        let woken = system.units.as_deref().unwrap_or_default();
        for (name, unit) in config.units().iter().zip(woken) {
            found.extend(unit::woken(name.as_str(), unit, config));
            found.extend(unit::accounting(name, unit, config));
            found.extend(relay.iter().flat_map(|relay| unit::tied(name, unit, relay)));
            found.extend(relay.and_then(|relay| target::networks(unit, relay, config)));
        }
        found.extend(unit::busy_cpu(config, system.idle_cpu));
        if let (ServiceKind::Scale(scale), Some(cluster)) = (&config.kind, &system.cluster) {
            found.extend(kubernetes::workloads(scale, cluster));
        }
        if let Some(freezer) = &system.freezer {
            found.extend(unit::freezer(config, woken, relay, freezer));
            found.extend(freezer.reclaim.iter().flat_map(reclaim::findings));
        }
        found.extend(unit::filters(config, relay, woken));
        found.extend(unit::shared(config.units(), woken, &subject.elsewhere));
        found.extend(unit::permissions(subject, &system.permissions));
        found.extend(unit::programs(&subject.user, &system.programs));
        let of_service = |finding: Finding| finding.of(config.name.as_deref());
        findings.extend(found.into_iter().map(of_service));
    }
    findings.extend(port::open_files(subject));
    findings.extend(unit::store(subject));
    findings.extend(port::linger(subject.linger));
    findings.sort_by_key(|finding| finding.level);
    findings
}

/// Where clients come in: each listener by its name.
fn listeners(subject: &Subject) -> Vec<(&str, &Bound)> {
    let Some(installed) = &subject.instance else {
        // As `wakeport run` calls those that it binds without a name.
        return named(&subject.config, "listen");
    };
    let sockets = installed.sockets.iter();
    sockets
        .flat_map(|socket| socket.at.iter().map(|at| (socket.listener.as_str(), at)))
        .collect()
}

/// What was given with `--listen`; without a name it is called `default`.
fn named<'a>(config: &'a Config, default: &'a str) -> Vec<(&'a str, &'a Bound)> {
    let listen = config.process.listen.iter();
    listen
        .map(|Named { name, value }| (name.as_deref().unwrap_or(default), value))
        .collect()
}

/// Whether the ports are to be had: an active socket has its own.
fn ports(subject: &Subject) -> Vec<Finding> {
    let units = subject.services.iter().flat_map(|it| it.units.iter());
    let units: Vec<_> = units.flatten().map(|unit| unit.id.clone()).collect();
    let taken = |at: &Bound, service| port::taken(at, &subject.listening, &units, &[], service);
    let Some(installed) = &subject.instance else {
        let listen = subject.config.process.listen.iter();
        let taken = listen.filter_map(|listen| taken(&listen.value, "wakeport"));
        return taken.collect();
    };
    let sockets = installed.sockets.iter();
    let closed = sockets.filter(|socket| socket.unit.active != "active");
    let wanted = closed.flat_map(|socket| &socket.at);
    wanted
        .filter_map(|at| taken(at, &installed.service.id))
        .collect()
}
