//! What is wrong with a set-up, by the object that is looked at. `wakeport init` asks before it
//! writes anything, `wakeport check` asks about what is installed or typed.

pub mod port;
pub mod socket;
pub mod target;
pub mod unit;

use super::system::{Subject, System};
use super::unit_files::{self, Plan};
use super::{Finding, Instance};
use crate::config::address::Bound;
use crate::config::{Manager, Named};

/// What stands in the way of `instance`, before it is written.
pub fn preflight(instance: &Instance, system: &System, plan: &Plan) -> Vec<Finding> {
    let config = &instance.config;
    let mut findings = Vec::from_iter(unit::template(instance, system));
    if let Err(reason) = &system.units {
        findings.push(unit::not_checked(&instance.units(), reason));
    }
    let listeners: Vec<_> = config
        .process
        .listen
        .iter()
        .map(|Named { name, value }| (name.as_deref().unwrap_or(instance.stem()), value))
        .collect();
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
        let refused = |relay| target::refused(service, &[], relay, instance.manager);
        found.extend(system.service.iter().flat_map(refused));
        found.extend(unit::filters(service, system.service.as_ref(), woken));
        found.extend(unit::shared(names, woken, &system.elsewhere));
        let of_service = |finding: Finding| finding.of(service.name.as_deref());
        findings.extend(found.into_iter().map(of_service));
    }
    let ids = unit_files::ids(instance, system);
    let sockets = instance.sockets();
    for listen in &config.process.listen {
        findings.extend(port::taken(
            &listen.value,
            &system.listening,
            &ids,
            &sockets,
            &instance.service(),
        ));
    }
    if instance.manager == Manager::System && !ids.is_empty() && !system.polkit {
        findings.push(unit::no_polkit());
    }
    findings.extend(unit::closed_rules(system.rules_closed.as_ref()));
    findings.extend(port::linger(system.linger));
    findings.extend(unit::drop_ins(instance, system, plan));
    findings.sort_by_key(|finding| finding.level);
    let named = |finding: Finding| match finding.service {
        Some(_) => finding.under(instance.stem()),
        None => finding,
    };
    findings.into_iter().map(named).collect()
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
        found.extend(target::lookups(&system.lookups));
        found.extend(target::loops(&system.loops));
        found.extend(target::hidden(&system.hidden, &subject.user));
        let refused = |relay| target::refused(config, &system.lookups, relay, subject.manager);
        found.extend(relay.into_iter().flat_map(refused));
        match &system.units {
            Err(reason) => found.push(unit::out_of_reach(reason)),
            Ok(units) => {
                for (name, unit) in config.units().iter().zip(units) {
                    found.extend(unit::woken(name.as_str(), unit, config));
                    found.extend(unit::accounting(name, unit, config));
                    found.extend(relay.iter().flat_map(|relay| unit::tied(name, unit, relay)));
                    found.extend(relay.and_then(|relay| target::networks(unit, relay, config)));
                }
            }
        }
        found.extend(unit::busy_cpu(config, system.idle_cpu));
        let woken = system.units.as_deref().unwrap_or_default();
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
    match &subject.instance {
        None => {
            // As `wakeport run` calls those that it binds without a name.
            let listen = subject.config.process.listen.iter();
            listen
                .map(|listen| (listen.name.as_deref().unwrap_or("listen"), &listen.value))
                .collect()
        }
        Some(installed) => {
            let sockets = installed.sockets.iter();
            sockets
                .flat_map(|socket| socket.at.iter().map(|at| (socket.listener.as_str(), at)))
                .collect()
        }
    }
}

/// Whether the ports are to be had: an active socket has its own.
fn ports(subject: &Subject) -> Vec<Finding> {
    let units = subject.services.iter().flat_map(|it| it.units.iter());
    let units: Vec<_> = units.flatten().map(|unit| unit.id.clone()).collect();
    let taken = |at: &Bound, service| port::taken(at, &subject.listening, &units, &[], service);
    match &subject.instance {
        None => {
            let listen = subject.config.process.listen.iter();
            listen
                .filter_map(|listen| taken(&listen.value, "wakeport"))
                .collect()
        }
        Some(installed) => {
            let sockets = installed.sockets.iter();
            let closed = sockets.filter(|socket| socket.unit.active != "active");
            closed
                .flat_map(|socket| &socket.at)
                .filter_map(|at| taken(at, &installed.service.id))
                .collect()
        }
    }
}
