//! `wakeport check`: whether an instance, or a command line, would work. Starts nothing.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::timeout;

use super::options::{Options, Typed};
use super::{Exit, Fatal, say};
use crate::admin::checks::{self, Permission, Subject, VERBS};
use crate::admin::machine::{self, Bus, Found, Identity};
use crate::admin::system::Unit;
use crate::admin::{Finding, Level, preflight, stem};
use crate::config::address::{Address, Bound};
use crate::config::{CommandLine, Config, Manager, Named, ServiceKind, UnitName};
use crate::net::dial::reaches;

/// Looks whether an instance, or a command line, would work; starts nothing
///
/// With UNIT it looks at the instance of wakeport@ that is called after it: sockets, variables,
/// targets, the units to wake, what polkit allows the user that it runs as, hooks. With the
/// options of `wakeport run` it looks at that command line, and with nothing at every instance.
/// Root sees the most; what could not be seen is said.
///
/// The exit code is 0 when nothing was found that would make it fail, and 1 otherwise.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The unit that the instance is called after, as for `wakeport init`
    #[arg(value_name = "UNIT")]
    instance: Option<UnitName>,

    #[command(flatten)]
    typed: Typed,
}

/// A name that takes longer to look up keeps clients waiting, too.
const LOOKUP: Duration = Duration::from_secs(5);

/// Runs to the end.
pub(super) fn run(check: Check) -> ExitCode {
    check.look().unwrap_or_else(|fatal| say::fatal(&fatal))
}

impl Check {
    fn look(self) -> Result<ExitCode, Fatal> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let code = runtime.block_on(self.findings());
        // A name that is still being resolved holds nobody up.
        runtime.shutdown_background();
        code
    }

    async fn findings(self) -> Result<ExitCode, Fatal> {
        let Typed { options, settings } = self.typed;
        let manager = options.manager();
        let others = settings.iter().any(|(name, _)| name != "WAKEPORT_USER");
        match self.instance {
            Some(_) if others => Err(Fatal::usage(
                "give either UNIT, to look at an instance, or the options of `wakeport run`",
            )),
            None if others || std::env::var_os("WAKEPORT_TO").is_some() => {
                let config = options.config()?;
                let bus = Bus::connect(manager).await;
                let subject = subject(config, None, manager, &bus).await;
                Ok(report(&[(String::new(), checks::findings(&subject))]))
            }
            name => {
                let bus = Bus::connect(manager).await.map_err(unasked)?;
                let services = match &name {
                    Some(name) => vec![service_of(name)],
                    None => machine::all(&bus).await.map_err(unasked)?,
                };
                if services.is_empty() {
                    say::line(
                        "there is no instance of wakeport@ to look at; `wakeport init --help` says how to make one",
                    );
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

fn unasked(reason: String) -> Fatal {
    Fatal {
        message: format!(
            "systemd cannot be asked ({reason}); is it running, and is `--user` right?"
        ),
        exit: Exit::Findings,
    }
}

/// The service of the instance that people call `name`.
fn service_of(name: &UnitName) -> String {
    let name = stem(name);
    let name = name.strip_suffix(".socket").unwrap_or(name);
    match name.strip_prefix("wakeport@") {
        Some(_) => format!("{name}.service"),
        None => format!("wakeport@{name}.service"),
    }
}

/// Says what was found, and with what exit code that ends.
fn report(found: &[(String, Vec<Finding>)]) -> ExitCode {
    for (service, findings) in found {
        let what = service.trim_end_matches(".service");
        let of = |finding: &Finding| Finding {
            level: finding.level,
            text: match what.is_empty() {
                true => finding.text.clone(),
                false => format!("{what}: {}", finding.text),
            },
        };
        say::report(&findings.iter().map(of).collect::<Vec<_>>());
        if findings.iter().all(|finding| finding.level == Level::Note) {
            say::line(format!("ok: {what}").trim_end_matches([':', ' ']));
        }
    }
    let mut all = found.iter().flat_map(|(_, findings)| findings);
    match all.any(|finding| finding.level == Level::Error) {
        true => ExitCode::from(Exit::Findings as u8),
        false => ExitCode::SUCCESS,
    }
}

/// What is wrong with the instance whose service this is.
async fn instance(bus: &Bus, service: &str, manager: Manager) -> Vec<Finding> {
    let mut found = match machine::instance(bus, service).await {
        Ok(found) => found,
        Err(reason) => {
            return vec![Finding::error(format!(
                "`{service}` cannot be looked at ({reason})"
            ))];
        }
    };
    if let Some(finding) = checks::unusable(service, &found.relay, manager) {
        return vec![finding];
    }
    let config = match config_of(&found) {
        Ok(config) => config,
        Err(message) => {
            let mut findings = checks::units(&found.relay, manager);
            findings.insert(0, Finding::error(message));
            return findings;
        }
    };
    found.relay.unknown = Options::unknown(&found.variables);
    let bus = Bus::connect(manager).await;
    let subject = subject(config, Some(found), manager, &bus).await;
    checks::findings(&subject)
}

/// What `wakeport run` would make of an instance's command line and variables.
fn config_of(found: &Found) -> Result<Config, String> {
    let id = &found.relay.service.id;
    let words = &found.command;
    let at = words
        .windows(2)
        .position(|pair| pair[0].ends_with("wakeport") && pair[1] == "run");
    let Some(at) = at else {
        return Err(format!(
            "`{id}` does not run `wakeport run`, so more cannot be said; see its ExecStart="
        ));
    };
    let options = Options::read(&words[at + 2..], &found.variables);
    let config = options.and_then(|options| {
        let suits = options.suit_an_instance();
        let config = suits.and_then(|()| options.config());
        config.map_err(|fatal| fatal.message)
    });
    config.map_err(|message| format!("`{id}` would end at once: {message}"))
}

/// Finds out all that matters to `config`.
async fn subject(
    config: Config,
    found: Option<Found>,
    manager: Manager,
    bus: &Result<Bus, String>,
) -> Subject {
    let units = woken(&config, manager, bus).await;
    let identity = found
        .as_ref()
        .map_or_else(|| Some(Identity::own()), Found::identity);
    let lookups = lookups(&config.services[0].routes).await;
    let listeners = listeners(&config, found.as_ref());
    let circles = circles(&config, &lookups, &listeners, found.as_ref(), bus).await;
    Subject {
        permissions: permissions(&config, &units, found.as_ref()).await,
        units,
        user: found
            .as_ref()
            .map_or_else(machine::own_name, |found| found.user.clone()),
        user_exists: identity.is_some() || found.as_ref().is_some_and(|found| found.dynamic_user),
        programs: programs(&config, identity.as_ref()),
        lookups,
        circles,
        open_files: found
            .as_ref()
            .map_or_else(machine::open_files, |found| found.open_files),
        polkit: machine::has_polkit(bus.as_ref().ok()).await,
        listening: machine::listening(manager, bus.as_ref().ok()).await,
        linger: found.as_ref().and_then(|_| machine::linger(manager)),
        instance: found.map(|found| found.relay),
        config,
        manager,
    }
}

/// The units to wake, from whichever manager has them.
async fn woken(
    config: &Config,
    manager: Manager,
    bus: &Result<Bus, String>,
) -> Result<Vec<Unit>, String> {
    let ServiceKind::Units {
        units,
        manager: theirs,
    } = &config.services[0].kind
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

/// What polkit says about the units that are there. A user's own manager asks nobody.
async fn permissions(
    config: &Config,
    units: &Result<Vec<Unit>, String>,
    found: Option<&Found>,
) -> Vec<Permission> {
    let (
        ServiceKind::Units {
            manager: Manager::System,
            ..
        },
        Ok(units),
    ) = (&config.services[0].kind, units)
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
fn programs(
    config: &Config,
    identity: Option<&Identity>,
) -> Vec<(&'static str, String, Result<(), String>)> {
    let Some(identity) = identity else {
        return Vec::new();
    };
    let mut programs: Vec<(&str, &CommandLine)> = Vec::new();
    match &config.services[0].kind {
        ServiceKind::Hooks { start, stop } => {
            programs.extend(start.as_ref().map(|start| ("start hook", start)));
            programs.extend(stop.as_ref().map(|stop| ("stop hook", stop)));
        }
        ServiceKind::Exec(command) => programs.push(("child process", command)),
        ServiceKind::Relay | ServiceKind::Units { .. } => (),
    }
    programs.extend(
        config.services[0]
            .readiness
            .hook
            .as_ref()
            .map(|hook| ("ready hook", hook)),
    );
    let look = |(what, command): (&'static str, &CommandLine)| {
        (what, command.program.clone(), identity.can_run(command))
    };
    programs.into_iter().map(look).collect()
}

type Lookup = (Address, Result<Vec<SocketAddr>, String>);

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
        let found = match timeout(LOOKUP, tokio::net::lookup_host(place)).await {
            Ok(found) => found
                .map(Iterator::collect)
                .map_err(|error| error.to_string()),
            Err(_) => Err("nobody answers".to_owned()),
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
            .relay
            .sockets
            .iter()
            .flat_map(|port| port.at.clone())
            .collect(),
    }
}

/// Whether a target is one of these listeners.
fn leads_to(target: &Address, found: &[SocketAddr], listeners: &[Bound]) -> bool {
    listeners.iter().any(|listener| match (target, listener) {
        (Address::Unix(target), Bound::Unix(listener)) => target == listener,
        (Address::Tcp { port, .. }, Bound::Tcp(listener)) => found.iter().any(|&place| {
            // Without a port it is the listener's own.
            let port = port.unwrap_or(listener.port());
            reaches(SocketAddr::new(place.ip(), port), *listener)
        }),
        _ => false,
    })
}

/// The targets by which clients come back to us, with the instances on the way.
async fn circles(
    config: &Config,
    lookups: &[Lookup],
    listeners: &[Bound],
    found: Option<&Found>,
    bus: &Result<Bus, String>,
) -> Vec<(Address, Vec<String>)> {
    let others = match bus {
        Ok(bus) => instances(bus, found).await,
        Err(_) => Vec::new(),
    };
    let mut circles = Vec::new();
    for Named { value, .. } in &config.services[0].routes {
        // Whoever is on the way already leads nowhere new.
        let mut way: Vec<String> = Vec::new();
        let mut next = vec![(value.clone(), resolved(value, lookups))];
        while let Some((address, places)) = next.pop() {
            if leads_to(&address, &places, listeners) {
                // Those that are seen at once are named at once.
                if !way.is_empty() || !preflight::is_plain(value) {
                    circles.push((value.clone(), way));
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
    circles
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
        if except.is_some_and(|found| found.relay.service.id == service) {
            continue;
        }
        let Ok(found) = machine::instance(bus, &service).await else {
            continue;
        };
        let Ok(config) = config_of(&found) else {
            continue;
        };
        let listeners = listeners(&config, Some(&found));
        let targets = lookups(&config.services[0].routes).await;
        others.push(Other {
            service,
            listeners,
            targets,
        });
    }
    others
}
