//! What `wakeport check` finds: whether an instance, or a command line, would work as it is.

use std::net::SocketAddr;
use std::time::Duration;

use super::preflight::{self, in_a_row};
use super::system::{Listening, Unit};
use super::{Finding, filters, stem, systemctl};
use crate::config::address::{Address, Bound};
use crate::config::{Config, Manager, ServiceKind, UnitName};

/// All that was found out about an instance or a command line.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What would be done.
    pub config: Config,
    /// Whose units these are.
    pub manager: Manager,
    /// The instance; `None` is a command line.
    pub instance: Option<Relay>,
    /// The units that are woken, or why systemd cannot be asked.
    pub units: Result<Vec<Unit>, String>,
    /// Who listens on this machine.
    pub listening: Vec<Listening>,
    /// The user that all this runs as.
    pub user: String,
    /// Whether there is such a user.
    pub user_exists: bool,
    /// Whether that user may start, stop and reset the units, for each in turn.
    pub permissions: Vec<Permission>,
    /// The programs that are run, with what is wrong with each.
    pub programs: Vec<(&'static str, String, Result<(), String>)>,
    /// What the names of the targets are, right now.
    pub lookups: Vec<(Address, Result<Vec<SocketAddr>, String>)>,
    /// Addresses of ours that a target leads to, in the end, with the instances on the way.
    pub circles: Vec<(Address, Vec<String>)>,
    /// The hard limit on open files.
    pub open_files: u64,
    /// Whether polkit is there.
    pub polkit: bool,
    /// Whether the user's manager runs without a login; `None` where that does not matter.
    pub linger: Option<bool>,
}

/// The units of an instance.
#[derive(Clone, Debug, Default)]
pub struct Relay {
    /// Its `wakeport@….service`.
    pub service: Unit,
    /// Its sockets.
    pub sockets: Vec<Port>,
    /// Variables that `wakeport run` does not know.
    pub unknown: Vec<String>,
    /// Files with variables that cannot be read, and why.
    pub unread: Vec<(String, String)>,
}

/// A socket unit.
#[derive(Clone, Debug, Default)]
pub struct Port {
    /// What it was asked for by.
    pub name: String,
    /// The unit itself.
    pub unit: Unit,
    /// Its streams.
    pub at: Vec<Bound>,
    /// Listeners that are no streams, or none that we know.
    pub others: Vec<String>,
    /// `FileDescriptorName=`.
    pub listener: String,
    /// `Accept=yes`.
    pub accept: bool,
    /// `FlushPending=yes`.
    pub flush: bool,
    /// `TriggerLimitIntervalSec=`, if there is one.
    pub trigger_limit: Duration,
}

/// Whether somebody may do something with a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// The unit.
    pub unit: String,
    /// The verb: `start`, `stop`, `reset-failed`.
    pub verb: &'static str,
    /// Whether it is allowed, or why that is not known.
    pub allowed: Result<bool, String>,
}

/// The verbs that wakeport needs.
pub const VERBS: [&str; 3] = ["start", "stop", "reset-failed"];

/// A limit below this one lets in fewer clients than anybody expects.
const FEW_FILES: u64 = 1024;

/// As in `wakeport run`: descriptors that are not clients'.
const SPARE_FILES: u64 = 64;

/// Everything that is wrong.
pub fn findings(subject: &Subject) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(relay) = &subject.instance {
        findings.extend(units(relay, subject.manager));
        if !subject.user_exists {
            findings.push(Finding::error(format!(
                "there is no user `{}`, as which `{}` runs; `systemd-sysusers` makes it, as systemd/install does",
                subject.user, relay.service.id
            )));
        }
    }
    findings.extend(ports(subject));
    findings.extend(targets(subject));
    match &subject.units {
        Err(reason) => findings.push(Finding::error(format!(
            "systemd cannot be asked ({reason}), and neither can `wakeport run`; does it run here?"
        ))),
        Ok(units) => findings.extend(woken(subject, units)),
    }
    let relay = subject.instance.as_ref().map(|relay| &relay.service);
    let woken_units = subject.units.as_deref().unwrap_or_default();
    findings.extend(filters::of(&subject.config.services[0], relay, woken_units));
    findings.extend(permissions(subject));
    for (what, program, outcome) in &subject.programs {
        if let Err(reason) = outcome {
            findings.push(Finding::error(format!(
                "the {what} `{program}` cannot be run by the user `{}`: {reason}",
                subject.user
            )));
        }
    }
    findings.extend(open_files(subject));
    findings.extend(preflight::linger(subject.linger));
    findings.sort_by_key(|finding| finding.level);
    findings
}

/// What is wrong with the units of an instance, whatever it is to do.
pub fn units(relay: &Relay, manager: Manager) -> Vec<Finding> {
    let mut findings = service(relay, manager);
    for port in &relay.sockets {
        findings.extend(socket(port, manager));
    }
    findings
}

/// What is wrong with the service that relays, apart from what it is to do.
fn service(relay: &Relay, manager: Manager) -> Vec<Finding> {
    let (unit, ctl) = (&relay.service, systemctl(manager));
    let mut findings = Vec::from_iter(reload(unit, manager));
    for name in &relay.unknown {
        findings.push(Finding::warning(format!(
            "`{}` sets {name}, which `wakeport run` does not know; `wakeport run --help` has all of them",
            unit.id
        )));
    }
    for (file, reason) in &relay.unread {
        findings.push(Finding::note(format!(
            "`{file}` was not read ({reason}), and what it sets is not known; as root one sees it"
        )));
    }
    if unit.active == "failed" {
        findings.push(Finding::warning(format!(
            "`{}` has failed the last time ({}); `journalctl -u {}` says why, and the next client starts it again",
            unit.id, unit.result, unit.id
        )));
    }
    if !unit.start_limit_interval.is_zero() && unit.start_limit_burst > 0 {
        findings.push(Finding::warning(format!(
            "`{}` may be started only {} times in {}, and then its port closes for good; `{ctl} edit {}`: StartLimitIntervalSec=0",
            unit.id,
            unit.start_limit_burst,
            crate::config::span::show(unit.start_limit_interval),
            unit.id
        )));
    }
    findings
}

/// What makes an instance one that cannot be looked at any further.
pub fn unusable(name: &str, relay: &Relay, manager: Manager) -> Option<Finding> {
    let (unit, ctl) = (&relay.service, systemctl(manager));
    let text = match unit.load.as_str() {
        "loaded" => {
            let empty = |port: &&Port| port.at.is_empty() && port.others.is_empty();
            let masked = |port: &&Port| port.unit.load == "masked";
            let mut sockets = relay.sockets.iter();
            let first = sockets.next().filter(empty).filter(|port| !masked(port))?;
            if !sockets.all(|port| empty(&port)) {
                return None;
            }
            format!(
                "`{}` has no address; `wakeport init` makes the instance, with `--listen ADDR` and `--to ADDR`, or a drop-in with ListenStream= does",
                first.name
            )
        }
        "not-found" => NOT_INSTALLED.to_owned(),
        "masked" => format!("`{name}` is masked; `{ctl} unmask {name}` if it may run"),
        state => format!(
            "`{name}` cannot be loaded ({state}: {}); `systemd-analyze verify {name}` says why",
            unit.load_error
        ),
    };
    Some(Finding::error(text))
}

/// Drop-ins are of no use without what they add to.
pub const NOT_INSTALLED: &str = "the units `wakeport@.socket` and `wakeport@.service` are not installed; run `systemd/install` of wakeport's source, or use `wakeport init --standalone`";

fn reload(unit: &Unit, manager: Manager) -> Option<Finding> {
    unit.needs_reload.then(|| {
        Finding::warning(format!(
            "the files of `{}` have changed, and systemd has not read them yet; `{} daemon-reload`",
            unit.id,
            systemctl(manager)
        ))
    })
}

/// What is wrong with a socket unit.
fn socket(port: &Port, manager: Manager) -> Vec<Finding> {
    let (name, unit, ctl) = (&port.name, &port.unit, systemctl(manager));
    let mut findings = Vec::from_iter(reload(unit, manager));
    let mut error = |text: String| findings.push(Finding::error(text));
    if unit.load == "masked" {
        error(format!("`{name}` is masked; `{ctl} unmask {name}`"));
        return findings;
    }
    if port.at.is_empty() && port.others.is_empty() {
        error(format!(
            "`{name}` has no address; `wakeport init` with `--listen ADDR` gives it one, or a drop-in with ListenStream="
        ));
        return findings;
    }
    if unit.load != "loaded" {
        let (load, why) = (&unit.load, &unit.load_error);
        error(format!(
            "`{name}` cannot be loaded ({load}: {why}); `systemd-analyze verify {name}` says why"
        ));
        return findings;
    }
    for other in &port.others {
        error(format!(
            "`{name}` listens on {other}, and wakeport relays streams of TCP and Unix sockets; use ListenStream="
        ));
    }
    if port.accept {
        error(format!(
            "`{name}` has Accept=yes, and wakeport accepts by itself; `{ctl} edit {name}`: Accept=no"
        ));
    }
    match unit.active.as_str() {
        "active" => (),
        "failed" => error(format!(
            "`{name}` has failed ({}), and its port is closed; `{ctl} reset-failed {name} && {ctl} start {name}`",
            unit.result
        )),
        _ => error(format!(
            "`{name}` is not started, and its port is closed; `{ctl} start {name}`"
        )),
    }
    let mut warning = |text: String| findings.push(Finding::warning(text));
    if unit.file_state == "disabled" {
        warning(format!(
            "`{name}` is not enabled, so its port stays closed after the next boot; `{ctl} enable {name}`"
        ));
    }
    if port.flush {
        warning(format!(
            "`{name}` has FlushPending=yes, which drops clients that come while wakeport exits; `{ctl} edit {name}`: FlushPending=no"
        ));
    }
    if !port.trigger_limit.is_zero() {
        warning(format!(
            "`{name}` has a trigger limit, by which a burst of clients closes the port for good; `{ctl} edit {name}`: TriggerLimitIntervalSec=0"
        ));
    }
    findings
}

/// Whether the ports are to be had: an active socket has its own.
fn ports(subject: &Subject) -> Vec<Finding> {
    let units: Vec<_> = subject
        .units
        .iter()
        .flatten()
        .map(|unit| unit.id.clone())
        .collect();
    let mut findings = Vec::new();
    let mut port = |at: &Bound, service: &str| {
        findings.extend(preflight::port(
            at,
            &subject.listening,
            &units,
            &[],
            service,
        ));
    };
    match &subject.instance {
        None => subject
            .config
            .process
            .listen
            .iter()
            .for_each(|listen| port(&listen.value, "wakeport")),
        Some(relay) => {
            let closed = relay
                .sockets
                .iter()
                .filter(|port| port.unit.active != "active");
            closed.for_each(|socket| socket.at.iter().for_each(|at| port(at, &relay.service.id)));
        }
    }
    findings
}

/// Whether every listener leads somewhere else.
fn targets(subject: &Subject) -> Vec<Finding> {
    let listeners: Vec<(&str, &Bound)> = match &subject.instance {
        None => {
            // As `wakeport run` calls those that it binds without a name.
            let listen = subject.config.process.listen.iter();
            listen
                .map(|listen| (listen.name.as_deref().unwrap_or("listen"), &listen.value))
                .collect()
        }
        Some(relay) => {
            let ports = relay.sockets.iter();
            ports
                .flat_map(|port| port.at.iter().map(|at| (port.listener.as_str(), at)))
                .collect()
        }
    };
    let mut findings = preflight::routes(&listeners, &subject.config.services[0]);
    if listeners.is_empty() && subject.instance.is_none() {
        findings.push(Finding::note(
            "no `--listen` was given, so the sockets have to come from systemd; `wakeport check UNIT` looks at an instance",
        ));
    }
    for (address, found) in &subject.lookups {
        match found {
            Err(reason) => findings.push(Finding::error(format!(
                "target `{address}` cannot be resolved ({reason}); is the name right, and does `getent hosts` know it?"
            ))),
            Ok(found) if found.is_empty() => findings.push(Finding::error(format!("target `{address}` has no address; is the name right?"))),
            Ok(_) => (),
        }
    }
    for (address, way) in &subject.circles {
        findings.push(Finding::error(match way.is_empty() {
            true => format!("target `{address}` is our own listener; let the service listen somewhere else"),
            false => format!(
                "target `{address}` leads in a circle, by way of {}; let one of them lead to the service itself",
                in_a_row(way)
            ),
        }));
    }
    findings
}

/// Whether the units are there and let themselves be started and stopped.
fn woken(subject: &Subject, units: &[Unit]) -> Vec<Finding> {
    let ServiceKind::Units {
        units: names,
        manager,
    } = &subject.config.services[0].kind
    else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for (name, unit) in names.iter().zip(units) {
        findings.extend(preflight::woken(
            name.as_str(),
            unit,
            &subject.config.services[0],
            *manager,
        ));
        let Some(relay) = &subject.instance else {
            continue;
        };
        if relay.service.id == unit.id {
            findings.push(Finding::error(format!(
                "`{name}` is to wake itself; name the service that it is for, with WAKEPORT_UNIT="
            )));
        }
        if relay.service.bound_to.contains(&unit.id) {
            findings.push(Finding::error(format!(
                "`{}` cannot be without `{name}` (Requires=, BindsTo=, Requisite= or PartOf=): each time that is put to sleep, wakeport is stopped as well; take that line away",
                relay.service.id
            )));
        }
    }
    findings
}

/// Whether the units may be started and stopped.
fn permissions(subject: &Subject) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !subject.permissions.is_empty() && !subject.polkit {
        return vec![preflight::no_polkit()];
    }
    let Subject {
        user, permissions, ..
    } = subject;
    let mut units: Vec<&str> = permissions
        .iter()
        .map(|permission| permission.unit.as_str())
        .collect();
    units.dedup();
    for unit in units {
        let of = permissions
            .iter()
            .filter(|permission| permission.unit == unit);
        let denied: Vec<_> = of
            .clone()
            .filter(|permission| permission.allowed == Ok(false))
            .collect();
        if !denied.is_empty() {
            let verbs: Vec<_> = denied
                .iter()
                .map(|permission| permission.verb.to_owned())
                .collect();
            findings.push(Finding::error(format!(
                "polkit does not let the user `{user}` do {} with `{unit}`; {}",
                in_a_row(&verbs),
                remedy(subject, unit)
            )));
        }
        if let Some(Err(reason)) = of
            .clone()
            .map(|permission| &permission.allowed)
            .find(|allowed| allowed.is_err())
        {
            findings.push(Finding::note(format!(
                "whether polkit lets the user `{user}` start and stop `{unit}` is not known: {reason}"
            )));
        }
    }
    findings
}

fn remedy(subject: &Subject, unit: &str) -> String {
    let name: Option<UnitName> = unit.parse().ok();
    let name = name.as_ref().map_or(unit, stem);
    match subject.user.as_str() {
        "wakeport" => format!(
            "`wakeport init {name} … --write` writes the rule, or add the unit to the list in /etc/polkit-1/rules.d/50-wakeport.rules"
        ),
        user => {
            format!("write a rule for `{user}` like the one that `wakeport init {name} …` prints")
        }
    }
}

/// Whether as many files may be open as clients come.
fn open_files(subject: &Subject) -> Option<Finding> {
    let seats = subject.open_files.saturating_sub(SPARE_FILES) / 2;
    let wanted = subject
        .config
        .process
        .limits
        .max_connections
        .map(|wanted| wanted as u64);
    match wanted {
        Some(wanted) if wanted > seats => Some(Finding::warning(format!(
            "`--max-connections {wanted}` needs more open files than the limit of {}, which is enough for {seats}; raise LimitNOFILE=",
            subject.open_files
        ))),
        None if subject.open_files < FEW_FILES => Some(Finding::warning(format!(
            "the limit of {} open files is enough for {seats} clients at once; raise LimitNOFILE=",
            subject.open_files
        ))),
        Some(_) | None => None,
    }
}
