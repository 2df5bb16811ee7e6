//! `wakeport check`: verifies an instance, or a command line. Starts nothing.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use tokio::time::timeout;

use super::instances::{self, Other};
use super::options::Options;
use super::{Exit, Fatal, output, runtime};
use crate::admin::checks::{self, target, unit};
use crate::admin::machine::{self, Bus, Found, Identity};
use crate::admin::system::{
    Cluster, Freezer, Lookup, Loop, Permission, Program, ServiceSystem, Subject, Unit,
};
use crate::admin::{Finding, Level, stem};
use crate::config::address::{Address, Bound};
use crate::config::{
    CommandLine, Config, Manager, Named, Pause, ServiceConfig, ServiceKind, UnitName, slice,
};
use crate::net::reach::reaches;

/// Verify an installed instance or a command line without starting anything
///
/// With UNIT it verifies the instance of wakeport@ with that name: sockets, variables, targets, the
/// units to wake, what polkit authorizes its user to do, hooks. With the options of `wakeport run`
/// it verifies that command line, and without any argument every instance. What only root can see
/// is a note otherwise.
///
/// The exit code is 1 if there is an error, and 0 otherwise.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The name of the instance, as for `wakeport init`, or the path of a file as for --config
    #[arg(value_name = "UNIT|FILE")]
    what: Option<What>,

    #[command(flatten)]
    options: Options,
}

/// What is to be verified.
#[derive(Clone, Debug)]
enum What {
    Instance(UnitName),
    File(PathBuf),
}

impl FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.starts_with(['/', '.']) || text.ends_with(".toml") {
            true => Ok(Self::File(text.into())),
            false => text.parse().map(Self::Instance),
        }
    }
}

/// A name that takes longer to resolve keeps clients waiting as well.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs to the end.
pub(super) fn run(check: Check) -> ExitCode {
    check.verify().unwrap_or_else(|fatal| output::fatal(&fatal))
}

impl Check {
    fn verify(self) -> Result<ExitCode, Fatal> {
        let runtime = runtime()?;
        let code = runtime.block_on(self.findings());
        // Does not wait for a name that is still being resolved.
        runtime.shutdown_background();
        code
    }

    async fn findings(self) -> Result<ExitCode, Fatal> {
        let mut options = self.options;
        let settings = options.as_variables();
        let manager = options.manager();
        let others = settings.iter().any(|(name, _)| name != "WAKEPORT_USER");
        let mut instance = None;
        match self.what {
            Some(What::Instance(_)) if others => {
                return Err(Fatal::usage(
                    "give either UNIT, to verify an instance, or the options of `wakeport run`",
                ));
            }
            Some(What::Instance(name)) => instance = Some(name),
            Some(What::File(path)) => options = options.with_config(&path),
            None => (),
        }
        let file = options.file().map(Path::to_owned);
        match instance {
            None if let Some(file) = file => {
                let config = options.load()?;
                let findings = file_of(&file, config, manager).await;
                Ok(report(&[findings]))
            }
            None if others || std::env::var_os("WAKEPORT_TO").is_some() => {
                let config = options.load()?;
                if let Some(wrong) = options.observed().wrong_keda(&config, false) {
                    return Err(Fatal::usage(wrong));
                }
                let bus = Bus::connect(manager).await;
                let subject = subject(config, None, None, manager, bus.as_ref()).await;
                Ok(report(&[(String::new(), checks::findings(&subject))]))
            }
            name => {
                let bus = Bus::connect(manager).await.map_err(out_of_reach)?;
                let services = match &name {
                    Some(name) => vec![service_of(name)],
                    None => machine::all(&bus).await.map_err(out_of_reach)?,
                };
                if services.is_empty() {
                    output::line("there is no instance of wakeport@; see `wakeport init --help`");
                }
                let mut found = Vec::new();
                for service in services {
                    let findings = instance_of(&bus, &service, manager).await;
                    found.push((service, findings));
                }
                Ok(report(&found))
            }
        }
    }
}

fn out_of_reach(reason: impl Display) -> Fatal {
    Fatal::findings(format!(
        "cannot reach systemd ({reason}); is it running, and is `--user` right?"
    ))
}

/// The service of the instance `name`, which may be typed in several ways.
fn service_of(name: &UnitName) -> String {
    let name = stem(name);
    let name = name.strip_suffix(".socket").unwrap_or(name);
    let name = name.strip_prefix("wakeport@").unwrap_or(name);
    format!("wakeport@{name}.service")
}

/// Prints the findings of each instance, and returns the exit code.
fn report(found: &[(String, Vec<Finding>)]) -> ExitCode {
    for (service, findings) in found {
        let what = service.trim_end_matches(".service");
        let of = |finding: &Finding| finding.under(what);
        output::report(&findings.iter().map(of).collect::<Vec<_>>());
        if findings.iter().all(|finding| finding.level == Level::Note) {
            output::line(format!("ok: {what}").trim_end_matches([':', ' ']));
        }
    }
    let mut all = found.iter().flat_map(|(_, findings)| findings);
    match all.any(|finding| finding.level == Level::Error) {
        true => ExitCode::from(Exit::Findings as u8),
        false => ExitCode::SUCCESS,
    }
}

/// What is wrong with `config`, which is that of a file: with the sockets of the instance that has
/// the name of the file, if it is installed and no others were given.
async fn file_of(path: &Path, config: Config, manager: Manager) -> (String, Vec<Finding>) {
    let name = path.file_stem().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    let service = format!("wakeport@{name}.service");
    let bus = Bus::connect(manager).await;
    let mut found = None;
    if let (Ok(bus), true) = (&bus, config.process.listen.is_empty()) {
        let all = machine::all(bus).await.unwrap_or_default();
        if all.contains(&service) {
            found = machine::instance(bus, &service).await.ok();
        }
    }
    let found = found.filter(|found| unit::missing(&service, &found.units, manager).is_none());
    let (found, bus) = (found.as_ref(), bus.as_ref());
    let subject = subject(config, found, Some(&service), manager, bus).await;
    (name, checks::findings(&subject))
}

/// What is wrong with the instance that has this service.
async fn instance_of(bus: &Bus, service: &str, manager: Manager) -> Vec<Finding> {
    let mut found = match machine::instance(bus, service).await {
        Ok(found) => found,
        Err(reason) => {
            return vec![Finding::error(format!(
                "cannot read the properties of `{service}`: {reason}"
            ))];
        }
    };
    if let Some(finding) = unit::missing(service, &found.units, manager) {
        return vec![finding];
    }
    let config = match instances::config_of(&found) {
        Ok(config) => config,
        Err(message) => {
            let mut findings = unit::installed(&found.units, manager);
            findings.insert(0, Finding::error(message));
            return findings;
        }
    };
    found.units.beside = machine::beside(bus, service).await;
    found.units.unknown = Options::unknown(&found.variables);
    found.units.closed = instances::closed(&found);
    found.units.files = machine::files_of(service, &found.units.sockets, manager);
    let subject = subject(config, Some(&found), Some(service), manager, Ok(bus)).await;
    checks::findings(&subject)
}

/// Reads all that matters to `config`. The instance with the service `except` is the same one.
async fn subject(
    config: Config,
    found: Option<&Found>,
    except: Option<&str>,
    manager: Manager,
    bus: Result<&Bus, &String>,
) -> Subject {
    let identity = found.map_or_else(|| Some(Identity::own()), Found::identity);
    let listeners = match found {
        Some(found) => found.listeners(),
        None => {
            let listen = config.process.listen.iter();
            listen.map(|it| it.value.clone()).collect()
        }
    };
    let (mut others, mut elsewhere) = (Vec::new(), Vec::new());
    if let Ok(bus) = bus {
        let all = instances::others(bus, except).await;
        // A command line may be meant to take the place of what is installed.
        if let Some(except) = except {
            elsewhere = instances::elsewhere(bus, &all, except).await;
        }
        for other in all {
            let services = other.config.services.iter();
            let routes: Vec<_> = services.flat_map(|it| it.routes.clone()).collect();
            let targets = lookups(&routes).await;
            others.push((other, targets));
        }
    }
    let mut services = Vec::new();
    let listening = machine::listening(manager, bus.ok()).await;
    let ours = found.map_or("wakeport", |found| found.units.service.id.as_str());
    for service in &config.services {
        let units = woken(service, manager, bus).await;
        let lookups = lookups(&service.routes).await;
        let known = units.as_deref().unwrap_or_default();
        let hidden = identity.as_ref();
        let hidden = hidden.map(|it| machine::hidden(service, known, it, ours, &listening));
        services.push(ServiceSystem {
            permissions: permissions(service, &units, machine::VERBS, found).await,
            freezer: freezer(service, known, found, bus).await,
            cluster: cluster(service).await,
            units,
            programs: programs(service, identity.as_ref()),
            hidden: hidden.unwrap_or_default(),
            loops: loops(service, &lookups, &listeners, &others),
            idle_cpu: instances::idle_cpu(ours, service, manager),
            lookups,
        });
    }
    Subject {
        services,
        elsewhere,
        user: found.map_or_else(machine::own_name, |found| found.user.clone()),
        user_exists: identity.is_some() || found.is_some_and(|found| found.dynamic_user),
        open_files: found.map_or_else(machine::open_files, |found| found.open_files),
        polkit: machine::has_polkit(bus.ok()).await,
        rules_closed: found.and_then(|_| machine::rules_closed(manager)),
        listening,
        linger: found.and_then(|_| machine::linger(manager)),
        instance: found.map(|found| found.units.clone()),
        config,
        manager,
    }
}

/// What the API server says, where there is one.
#[cfg(feature = "kubernetes")]
async fn cluster(service: &ServiceConfig) -> Option<Cluster> {
    machine::cluster(service).await
}

#[cfg(not(feature = "kubernetes"))]
fn cluster(_: &ServiceConfig) -> std::future::Ready<Option<Cluster>> {
    std::future::ready(None)
}

/// The units to wake, from the manager that has them.
async fn woken(
    service: &ServiceConfig,
    manager: Manager,
    bus: Result<&Bus, &String>,
) -> Result<Vec<Unit>, String> {
    let (units, theirs) = (service.units(), service.manager());
    if units.is_empty() {
        return Ok(Vec::new());
    }
    let other;
    let bus = match theirs == manager {
        true => bus,
        false => {
            other = Bus::connect(theirs).await;
            other.as_ref()
        }
    };
    match bus {
        Ok(bus) => machine::units(bus, units).await,
        Err(reason) => Err(reason.clone()),
    }
}

/// What polkit says about the units that are there. A user's own manager does not ask it.
async fn permissions(
    service: &ServiceConfig,
    units: &Result<Vec<Unit>, String>,
    verbs: &'static [&'static str],
    found: Option<&Found>,
) -> Vec<Permission> {
    let (Manager::System, Ok(units)) = (service.manager(), units) else {
        return Vec::new();
    };
    let units = units.iter().filter(|unit| unit.load == "loaded");
    let mut ids: Vec<_> = units.map(|unit| unit.id.clone()).collect();
    ids.dedup();
    match found {
        Some(found) if found.dynamic_user => {
            machine::unknown(&ids, "with DynamicUser= it is there only while it runs")
        }
        Some(found) => match found.ids() {
            Some(user) => machine::permissions(&ids, verbs, user).await,
            None => Vec::new(),
        },
        None => machine::permissions(&ids, verbs, machine::own_ids()).await,
    }
}

/// What there is to freeze these units.
async fn freezer(
    service: &ServiceConfig,
    units: &[Unit],
    found: Option<&Found>,
    bus: Result<&Bus, &String>,
) -> Option<Freezer> {
    let bus = bus
        .ok()
        .filter(|_| service.timing.freeze_after < Duration::MAX)?;
    let (slices, version) = machine::slices(bus, units).await;
    let ours = Ok(slices.clone());
    let mut permissions = match service.manager() {
        Manager::System => permissions(service, &ours, machine::FREEZER_VERBS, found).await,
        Manager::User => Vec::new(),
    };
    // Before systemd 262 the bus lets only root ask, but for a policy.
    let asks = slice::anyone_may_freeze(&version)
        || found.is_none_or(|found| {
            found.ids() == Some((0, 0)) || machine::has_policy(&found.units.service.id)
        });
    for permission in permissions.iter_mut().filter(|_| !asks) {
        permission.denied = Ok(machine::FREEZER_VERBS.to_vec());
    }
    let mut reclaim = None;
    if service.freeze_reclaim {
        let mut found_to_reclaim = machine::reclaim(bus, &slices).await;
        let units = Ok(found_to_reclaim.units.clone());
        found_to_reclaim.permissions =
            self::permissions(service, &units, machine::RECLAIM_VERBS, found).await;
        reclaim = Some(found_to_reclaim);
    }
    permissions.retain(|permission| slice::is_ours(&permission.unit, service.manager()));
    Some(Freezer {
        slices,
        version,
        permissions,
        reclaim,
    })
}

/// What is wrong with the programs that would be run.
fn programs(service: &ServiceConfig, identity: Option<&Identity>) -> Vec<Program> {
    let Some(identity) = identity else {
        return Vec::new();
    };
    let mut programs: Vec<(&str, &CommandLine)> = Vec::new();
    match &service.kind {
        ServiceKind::Hooks { start, stop, pause } => {
            programs.extend(start.as_ref().map(|start| ("start hook", start)));
            programs.extend(stop.as_ref().map(|stop| ("stop hook", stop)));
            if let Some(Pause { freeze, thaw }) = pause {
                programs.extend([("freeze hook", freeze), ("thaw hook", thaw)]);
            }
        }
        ServiceKind::Exec(command) => programs.push(("child process", command)),
        ServiceKind::Relay | ServiceKind::Units { .. } | ServiceKind::Scale(_) => (),
    }
    let ready = service.readiness.hook.as_ref();
    programs.extend(ready.map(|hook| ("ready hook", hook)));
    let busy = service.busy.hook.as_ref();
    programs.extend(busy.map(|hook| ("busy hook", hook)));
    let outcome = |(what, command): (&'static str, &CommandLine)| {
        (what, command.program.clone(), identity.can_run(command))
    };
    programs.into_iter().map(outcome).collect()
}

/// What the targets' addresses are, right now.
async fn lookups(routes: &[Named<Address>]) -> Vec<Lookup> {
    let mut lookups: Vec<Lookup> = Vec::new();
    for Named { value, .. } in routes {
        let (Address::Tcp { host, port } | Address::Udp { host, port }) = value else {
            continue;
        };
        if lookups.iter().any(|(address, _)| address == value) {
            continue;
        }
        let place = (host.as_str(), port.unwrap_or_default());
        let found = match timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host(place)).await {
            Ok(found) => found
                .map(Iterator::collect)
                .map_err(|error| error.to_string()),
            Err(_) => Err("the resolver timed out".to_owned()),
        };
        lookups.push((value.clone(), found));
    }
    lookups
}

/// Whether a target is one of these listeners.
fn leads_to((target, found): &Lookup, listeners: &[Bound]) -> bool {
    let ips: Vec<_> = found.iter().flatten().map(SocketAddr::ip).collect();
    let mut listeners = listeners.iter();
    listeners.any(|listener| reaches(target, &ips, listener))
}

/// The targets by which clients come back to us.
fn loops(
    service: &ServiceConfig,
    lookups: &[Lookup],
    listeners: &[Bound],
    others: &[(Other, Vec<Lookup>)],
) -> Vec<Loop> {
    let mut loops = Vec::new();
    for Named { value, .. } in &service.routes {
        // An instance that is on the way already leads nowhere new.
        let mut way: Vec<String> = Vec::new();
        let looked_up = lookups.iter().find(|(known, _)| known == value);
        let looked_up = looked_up.cloned();
        let mut next = vec![looked_up.unwrap_or_else(|| (value.clone(), Ok(Vec::new())))];
        while let Some(target) = next.pop() {
            if leads_to(&target, listeners) {
                // `target::routes` has those that need no resolver.
                if !way.is_empty() || !target::is_local(value) {
                    loops.push((value.clone(), way));
                }
                break;
            }
            let through = others.iter().find(|(other, _)| {
                leads_to(&target, &other.listeners) && !way.contains(&other.service)
            });
            if let Some((other, targets)) = through {
                way.push(other.service.clone());
                next.extend(targets.iter().cloned());
            }
        }
    }
    loops
}
