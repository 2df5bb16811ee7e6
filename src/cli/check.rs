//! `wakeport check`: verifies an instance, or a command line. Starts nothing.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::timeout;

use super::options::Options;
use super::{Exit, Fatal, output};
use crate::admin::checks::{self, target, unit};
use crate::admin::machine::{self, Bus, Found, Identity};
use crate::admin::system::{
    Lookup, Loop, Permission, Program, ServiceSystem, Subject, Unit, VERBS,
};
use crate::admin::{Finding, Level, stem};
use crate::config::address::{Address, Bound};
use crate::config::{CommandLine, Config, Manager, Named, ServiceConfig, ServiceKind, UnitName};
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
    /// The name of the instance, as for `wakeport init`
    #[arg(value_name = "UNIT")]
    instance: Option<UnitName>,

    #[command(flatten)]
    options: Options,
}

/// A name that takes longer to resolve keeps clients waiting as well.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs to the end.
pub(super) fn run(check: Check) -> ExitCode {
    check.verify().unwrap_or_else(|fatal| output::fatal(&fatal))
}

impl Check {
    fn verify(self) -> Result<ExitCode, Fatal> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let code = runtime.block_on(self.findings());
        // Does not wait for a name that is still being resolved.
        runtime.shutdown_background();
        code
    }

    async fn findings(self) -> Result<ExitCode, Fatal> {
        let options = self.options;
        let settings = options.as_variables();
        let manager = options.manager();
        let others = settings.iter().any(|(name, _)| name != "WAKEPORT_USER");
        match self.instance {
            Some(_) if others => Err(Fatal::usage(
                "give either UNIT, to verify an instance, or the options of `wakeport run`",
            )),
            None if others || std::env::var_os("WAKEPORT_TO").is_some() => {
                let config = options.load()?;
                let bus = Bus::connect(manager).await;
                let subject = subject(config, None, manager, &bus).await;
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
                    let findings = instance(&bus, &service, manager).await;
                    found.push((service, findings));
                }
                Ok(report(&found))
            }
        }
    }
}

fn out_of_reach(reason: String) -> Fatal {
    Fatal {
        message: format!("cannot reach systemd ({reason}); is it running, and is `--user` right?"),
        exit: Exit::Findings,
    }
}

/// The service of the instance `name`, which may be typed in several ways.
fn service_of(name: &UnitName) -> String {
    let name = stem(name);
    let name = name.strip_suffix(".socket").unwrap_or(name);
    match name.strip_prefix("wakeport@") {
        Some(_) => format!("{name}.service"),
        None => format!("wakeport@{name}.service"),
    }
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

/// What is wrong with the instance that has this service.
async fn instance(bus: &Bus, service: &str, manager: Manager) -> Vec<Finding> {
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
    let config = match config_of(&found) {
        Ok(config) => config,
        Err(message) => {
            let mut findings = unit::installed(&found.units, manager);
            findings.insert(0, Finding::error(message));
            return findings;
        }
    };
    found.units.unknown = Options::unknown(&found.variables);
    let bus = Bus::connect(manager).await;
    let subject = subject(config, Some(found), manager, &bus).await;
    checks::findings(&subject)
}

/// What `wakeport run` would make of an instance's command line and variables.
fn config_of(found: &Found) -> Result<Config, String> {
    let id = &found.units.service.id;
    let words = &found.command;
    let at = words
        .windows(2)
        .position(|pair| pair[0].ends_with("wakeport") && pair[1] == "run");
    let Some(at) = at else {
        return Err(format!(
            "`{id}` does not run `wakeport run`, so it was not verified further; see its ExecStart="
        ));
    };
    let options = Options::read(&words[at + 2..], &found.variables);
    let config = options.and_then(|options| {
        let suits = options.suit_an_instance();
        let config = suits.and_then(|()| options.load());
        config.map_err(|fatal| fatal.message)
    });
    config.map_err(|message| format!("`{id}` would exit at once: {message}"))
}

/// Reads all that matters to `config`.
async fn subject(
    config: Config,
    found: Option<Found>,
    manager: Manager,
    bus: &Result<Bus, String>,
) -> Subject {
    let found = found.as_ref();
    let identity = found.map_or_else(|| Some(Identity::own()), Found::identity);
    let listeners = listeners(&config, found);
    let others = match bus {
        Ok(bus) => instances(bus, found).await,
        Err(_) => Vec::new(),
    };
    let mut services = Vec::new();
    for service in &config.services {
        let units = woken(service, manager, bus).await;
        let lookups = lookups(&service.routes).await;
        services.push(ServiceSystem {
            permissions: permissions(service, &units, found).await,
            units,
            programs: programs(service, identity.as_ref()),
            loops: loops(service, &lookups, &listeners, &others),
            lookups,
        });
    }
    Subject {
        services,
        user: found.map_or_else(machine::own_name, |found| found.user.clone()),
        user_exists: identity.is_some() || found.is_some_and(|found| found.dynamic_user),
        open_files: found.map_or_else(machine::open_files, |found| found.open_files),
        polkit: machine::has_polkit(bus.as_ref().ok()).await,
        listening: machine::listening(manager, bus.as_ref().ok()).await,
        linger: found.and_then(|_| machine::linger(manager)),
        instance: found.map(|found| found.units.clone()),
        config,
        manager,
    }
}

/// The units to wake, from the manager that has them.
async fn woken(
    service: &ServiceConfig,
    manager: Manager,
    bus: &Result<Bus, String>,
) -> Result<Vec<Unit>, String> {
    let ServiceKind::Units {
        units,
        manager: theirs,
    } = &service.kind
    else {
        return Ok(Vec::new());
    };
    let other;
    let bus = match *theirs == manager {
        true => bus,
        false => {
            other = Bus::connect(*theirs).await;
            &other
        }
    };
    machine::units(bus.as_ref().map_err(Clone::clone)?, units).await
}

/// What polkit says about the units that are there. A user's own manager does not ask it.
async fn permissions(
    service: &ServiceConfig,
    units: &Result<Vec<Unit>, String>,
    found: Option<&Found>,
) -> Vec<Permission> {
    let (
        ServiceKind::Units {
            manager: Manager::System,
            ..
        },
        Ok(units),
    ) = (&service.kind, units)
    else {
        return Vec::new();
    };
    let units = units.iter().filter(|unit| unit.load == "loaded");
    let ids: Vec<_> = units.map(|unit| unit.id.clone()).collect();
    let unknown = |reason: &str| {
        let permission = |unit: &String| Permission {
            unit: unit.clone(),
            verb: VERBS[0],
            allowed: Err(reason.to_owned()),
        };
        ids.iter().map(permission).collect()
    };
    match found {
        Some(found) if found.dynamic_user => {
            unknown("with DynamicUser= it is there only while it runs")
        }
        Some(found) => match found.ids() {
            Some(user) => machine::permissions(&ids, user).await,
            None => Vec::new(),
        },
        None => machine::permissions(&ids, machine::own_ids()).await,
    }
}

/// What is wrong with the programs that would be run.
fn programs(service: &ServiceConfig, identity: Option<&Identity>) -> Vec<Program> {
    let Some(identity) = identity else {
        return Vec::new();
    };
    let mut programs: Vec<(&str, &CommandLine)> = Vec::new();
    match &service.kind {
        ServiceKind::Hooks { start, stop } => {
            programs.extend(start.as_ref().map(|start| ("start hook", start)));
            programs.extend(stop.as_ref().map(|stop| ("stop hook", stop)));
        }
        ServiceKind::Exec(command) => programs.push(("child process", command)),
        ServiceKind::Relay | ServiceKind::Units { .. } => (),
    }
    let ready = service.readiness.hook.as_ref();
    programs.extend(ready.map(|hook| ("ready hook", hook)));
    let outcome = |(what, command): (&'static str, &CommandLine)| {
        (what, command.program.clone(), identity.can_run(command))
    };
    programs.into_iter().map(outcome).collect()
}

/// What the targets' addresses are, right now.
async fn lookups(routes: &[Named<Address>]) -> Vec<Lookup> {
    let mut lookups: Vec<Lookup> = Vec::new();
    for Named { value, .. } in routes {
        let Address::Tcp { host, port } = value else {
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

/// Where clients come in.
fn listeners(config: &Config, found: Option<&Found>) -> Vec<Bound> {
    match found {
        None => config
            .process
            .listen
            .iter()
            .map(|listen| listen.value.clone())
            .collect(),
        Some(found) => found
            .units
            .sockets
            .iter()
            .flat_map(|socket| socket.at.clone())
            .collect(),
    }
}

/// Whether a target is one of these listeners.
fn leads_to(target: &Address, found: &[SocketAddr], listeners: &[Bound]) -> bool {
    let ips: Vec<_> = found.iter().map(SocketAddr::ip).collect();
    listeners
        .iter()
        .any(|listener| reaches(target, &ips, listener))
}

/// The targets by which clients come back to us.
fn loops(
    service: &ServiceConfig,
    lookups: &[Lookup],
    listeners: &[Bound],
    others: &[Other],
) -> Vec<Loop> {
    let mut loops = Vec::new();
    for Named { value, .. } in &service.routes {
        // An instance that is on the way already leads nowhere new.
        let mut way: Vec<String> = Vec::new();
        let mut next = vec![(value.clone(), resolved(value, lookups))];
        while let Some((address, places)) = next.pop() {
            if leads_to(&address, &places, listeners) {
                // `target::routes` has those that need no resolver.
                if !way.is_empty() || !target::is_local(value) {
                    loops.push((value.clone(), way));
                }
                break;
            }
            let through = others.iter().find(|other| {
                leads_to(&address, &places, &other.listeners) && !way.contains(&other.service)
            });
            if let Some(other) = through {
                way.push(other.service.clone());
                next.extend(
                    other
                        .targets
                        .iter()
                        .map(|(target, found)| (target.clone(), found.clone().unwrap_or_default())),
                );
            }
        }
    }
    loops
}

fn resolved(address: &Address, lookups: &[Lookup]) -> Vec<SocketAddr> {
    let found = lookups.iter().find(|(known, _)| known == address);
    found
        .and_then(|(_, found)| found.clone().ok())
        .unwrap_or_default()
}

/// Another instance, as something that clients pass through.
struct Other {
    service: String,
    listeners: Vec<Bound>,
    targets: Vec<Lookup>,
}

async fn instances(bus: &Bus, except: Option<&Found>) -> Vec<Other> {
    let mut others = Vec::new();
    for service in machine::all(bus).await.unwrap_or_default() {
        if except.is_some_and(|found| found.units.service.id == service) {
            continue;
        }
        let Ok(found) = machine::instance(bus, &service).await else {
            continue;
        };
        let Ok(config) = config_of(&found) else {
            continue;
        };
        let listeners = listeners(&config, Some(&found));
        let routes = config.services.iter().flat_map(|it| it.routes.clone());
        let targets = lookups(&routes.collect::<Vec<_>>()).await;
        others.push(Other {
            service,
            listeners,
            targets,
        });
    }
    others
}
