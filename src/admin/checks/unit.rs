//! Services: the one that relays, those that it wakes, and what their user may do.

use std::time::Duration;

use super::socket::socket;
use crate::admin::system::{
    Elsewhere, Freezer, Installed, Permission, Present, Program, Subject, System, Unit,
};
use crate::admin::unit_files::{CONTROL, Plan, drop_in_of, is_rule};
use crate::admin::{Finding, Instance, LONGEST_WITH_TMP, in_a_row, instance_name, stem};
use crate::config::address::LONGEST_UNIX;
use crate::config::busy::Percent;
use crate::config::{Manager, ReadyKind, ServiceConfig, ServiceKind, UnitName, slice, span};
use crate::systemd::restart::QUEUE_HOLDS;

/// Drop-ins are of no use without what they add to.
const NOT_INSTALLED: &str = "the units `wakeport@.socket` and `wakeport@.service` are not installed; run `systemd/install` of wakeport's source, or use `wakeport init --standalone`";

// -- the units that are woken

/// What is wrong with a unit that is to be started and stopped by `name`.
pub fn woken(name: &str, unit: &Unit, service: &ServiceConfig) -> Vec<Finding> {
    let ctl = service.manager().systemctl();
    if let Some(text) = unusable(name, unit, ctl) {
        return vec![Finding::error(text)];
    }
    let mut findings = Vec::new();
    let mut error = |text: String| findings.push(Finding::error(text));
    if unit.refuse_manual_start || unit.refuse_manual_stop {
        error(format!(
            "`{name}` has RefuseManualStart= or RefuseManualStop=, so it cannot be started and stopped on request; name a unit that requires it"
        ));
    }
    if unit.stop_when_unneeded {
        error(format!(
            "`{name}` has StopWhenUnneeded=yes, so systemd stops it right after its start; `{ctl} edit {name}`: StopWhenUnneeded=no"
        ));
    }
    if unit.kind == "oneshot" && !unit.remain_after_exit {
        error(format!(
            "`{name}` is Type=oneshot, and down as soon as its program exits; it needs RemainAfterExit=yes, or another Type="
        ));
    }
    if !unit.upheld_by.is_empty() {
        error(format!(
            "`{name}` is started again whenever it stops, by Upholds= of {}; remove that",
            in_a_row(&unit.upheld_by)
        ));
    }
    findings.extend(habits(name, unit, ctl));
    findings.extend(stops(name, unit, service, ctl));
    findings.extend(state(name, unit, service.manager()));
    findings.extend(times(name, unit, service));
    findings
}

/// What else a stop does, or does not do.
fn stops(name: &str, unit: &Unit, service: &ServiceConfig, ctl: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let harmless = |action: &str| ["", "none"].contains(&action);
    if !harmless(&unit.success_action) {
        findings.push(Finding::error(format!(
            "`{name}` has SuccessAction={}, which each stop triggers; `{ctl} edit {name}`: SuccessAction=none",
            unit.success_action
        )));
    }
    let mut warning = |text: String| findings.push(Finding::warning(text));
    if !harmless(&unit.failure_action) {
        warning(format!(
            "`{name}` has FailureAction={}, which a stop that ends as failed triggers; `{ctl} edit {name}`: FailureAction=none",
            unit.failure_action
        ));
    }
    if ["none", "process"].contains(&unit.kill_mode.as_str()) {
        warning(format!(
            "`{name}` has KillMode={}, so processes of it go on when it is stopped, and may have its port still; `{ctl} edit {name}`: KillMode=mixed",
            unit.kill_mode
        ));
    }
    if unit.never_killed {
        warning(format!(
            "`{name}` has SendSIGKILL=no, so a process that ignores the stop goes on, and may have its port still; `{ctl} edit {name}`: SendSIGKILL=yes"
        ));
    }
    let limit = unit.runtime_max;
    if !limit.is_zero() && limit != Duration::MAX {
        warning(format!(
            "`{name}` has RuntimeMaxSec=, so systemd ends it as failed after {}, under its clients; `{ctl} edit {name}`: RuntimeMaxSec=infinity",
            span::show(limit)
        ));
    }
    let together = |other: &&String| {
        let names = service.units().iter().map(UnitName::as_str);
        !other.starts_with("wakeport@") && !names.into_iter().any(|name| name == other.as_str())
    };
    let others: Vec<_> = unit.required_by.iter().filter(together).collect();
    if !others.is_empty() {
        warning(format!(
            "`{name}` is not stopped while {} runs, which would be stopped along (Requires=, BindsTo=, PropagatesStopTo= or the like); use Wants= instead if it can do without, or PartOf= if it is only a part",
            in_a_row(&others)
        ));
    }
    if !unit.conflicts.is_empty() {
        let others = in_a_row(&unit.conflicts);
        warning(format!(
            "each start of `{name}` stops {others}, and the other way round, under its clients (Conflicts=); remove that line, or stop {others} for good"
        ));
    }
    if !unit.left_running.is_empty() {
        warning(format!(
            "a stop of `{name}` leaves {} running; add PartOf={name} to each, or give them to `--unit` instead",
            in_a_row(&unit.left_running)
        ));
    }
    if unit.remain_after_exit && unit.kind != "oneshot" {
        warning(format!(
            "`{name}` has RemainAfterExit=yes, so it counts as running when its processes have ended; `{ctl} edit {name}`: RemainAfterExit=no"
        ));
    }
    if !unit.rivals.is_empty() {
        findings.push(Finding::note(format!(
            "each start of {}, not running now, would stop `{name}` under its clients, and the other way round (Conflicts=); remove that line, or `{ctl} mask {}`",
            in_a_row(&unit.rivals),
            unit.rivals.join(" ")
        )));
    }
    findings
}

/// The state that a unit is in.
fn state(name: &str, unit: &Unit, manager: Manager) -> Vec<Finding> {
    let mut findings = Vec::from_iter(reload(unit, manager));
    let ctl = manager.systemctl();
    let mut warning = |text: String| findings.push(Finding::warning(text));
    if unit.active == "failed" {
        let how = ending(unit);
        let remedy = match (unit.result.as_str(), unit.exit) {
            // As shells and JVMs tell of a signal.
            ("exit-code", (EXITED, status @ 128..=159)) => format!(
                "if it ends like this whenever it is stopped, `{ctl} edit {name}`: SuccessExitStatus={status}"
            ),
            ("timeout", _) => format!(
                "it exceeded TimeoutStartSec=, TimeoutStopSec= or RuntimeMaxSec=; `{}` shows which, and `{ctl} edit {name}` sets a longer one",
                manager.journalctl(name)
            ),
            _ => format!("`{}` shows why", manager.journalctl(name)),
        };
        warning(format!(
            "`{name}` has failed the last time ({how}); {remedy}"
        ));
    }
    // Its slice is frozen by wakeport, and is thawed by it.
    if unit.freezer == "frozen" && !slice::is_ours(&unit.slice, manager) {
        warning(format!(
            "`{name}` is frozen, so connected clients wait; the next client has it thawed, or `{ctl} thaw {name}`"
        ));
    }
    findings
}

/// `CLD_EXITED`, `CLD_KILLED` and `CLD_DUMPED` of waitid(2).
const EXITED: i32 = 1;
const KILLED: i32 = 2;
const DUMPED: i32 = 3;

/// How a unit has ended: its `Result`, and how its main process did.
fn ending(unit: &Unit) -> String {
    let result = &unit.result;
    match unit.exit {
        (EXITED, 0) => result.clone(),
        (EXITED, status) => match setup_failure(status) {
            Some((name, _)) => format!("{result}, status {status}/{name}"),
            None => format!("{result}, status {status}"),
        },
        (KILLED | DUMPED, signal) => format!("{result}, signal {signal}"),
        _ => result.clone(),
    }
}

/// What systemd could not do before it ran the program (systemd.exec(5), "Process Exit Codes"), and
/// where to look.
fn setup_failure(status: i32) -> Option<(&'static str, &'static str)> {
    Some(match status {
        200 => ("CHDIR", "its WorkingDirectory= cannot be entered"),
        203 => (
            "EXEC",
            "its program is missing, or its user may not execute it: mode 755, in directories of mode 755",
        ),
        205 => ("LIMITS", "one of its Limit…= is above what is allowed here"),
        209 => ("STDOUT", "its StandardOutput= cannot be opened"),
        214 => (
            "SETSCHEDULER",
            "its CPUSchedulingPolicy= is not allowed here",
        ),
        216 => ("GROUP", "its Group= or SupplementaryGroups= does not exist"),
        217 => ("USER", "its User= does not exist"),
        218 => ("CAPABILITIES", "its capabilities cannot be set here"),
        219 => ("CGROUP", "its control group cannot be set up"),
        225 => ("NETWORK", "its network namespace cannot be set up here"),
        226 => (
            "NAMESPACE",
            "its sandbox cannot be set up: a path of it is missing, or namespaces are not allowed here",
        ),
        228 => ("SECCOMP", "its SystemCallFilter= cannot be set up here"),
        233 => (
            "RUNTIME_DIRECTORY",
            "its RuntimeDirectory= cannot be made below /run",
        ),
        238 => (
            "STATE_DIRECTORY",
            "its StateDirectory= cannot be made: a file is in its place, or /var/lib is full or read-only",
        ),
        239 => (
            "CACHE_DIRECTORY",
            "its CacheDirectory= cannot be made below /var/cache",
        ),
        240 => (
            "LOGS_DIRECTORY",
            "its LogsDirectory= cannot be made below /var/log",
        ),
        241 => (
            "CONFIGURATION_DIRECTORY",
            "its ConfigurationDirectory= cannot be made below /etc",
        ),
        243 => ("CREDENTIALS", "its credentials cannot be read"),
        _ => return None,
    })
}

/// Why there is nothing to start, if so.
fn unusable(name: &str, unit: &Unit, ctl: &str) -> Option<String> {
    match unit.load.as_str() {
        "loaded" => None,
        "masked" => Some(format!(
            "`{name}` is masked; `{ctl} unmask {name}` if it may run"
        )),
        "not-found" => Some(format!(
            "unit `{name}` does not exist; `{ctl} list-unit-files` lists all, and `{ctl} daemon-reload` makes systemd read new files"
        )),
        _ => Some(not_loaded(name, unit)),
    }
}

pub(super) fn not_loaded(name: &str, unit: &Unit) -> String {
    let (load, load_error) = (&unit.load, &unit.load_error);
    format!(
        "`{name}` cannot be loaded ({load}: {load_error}); `systemd-analyze verify {name}` shows why"
    )
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
            "`{name}` is enabled by a generator (/run/systemd/generator), or until the next boot; a generator starts it at boot without any client, unless its own configuration says otherwise (a cluster of Debian's PostgreSQL: `manual` in its start.conf)"
        )),
        _ => (),
    }
    let others = unit.triggered_by.iter();
    let others: Vec<_> = others.filter(|it| !it.starts_with("wakeport@")).collect();
    if !others.is_empty() {
        warning(format!(
            "{} starts `{name}` as well, and it is not stopped before its next client has left; `{ctl} disable --now` it, unless that is intended",
            in_a_row(&others)
        ));
    }
    if unit.restart == "always" || unit.restart == "on-success" {
        warning(format!(
            "`{name}` has Restart={}, so it restarts after a clean exit and runs without any client; use Restart=on-failure",
            unit.restart
        ));
    }
    let (action, burst) = (&unit.start_limit_action, unit.start_limit_burst);
    if !["", "none"].contains(&action.as_str()) {
        let interval = span::show(unit.start_limit_interval);
        warning(format!(
            "`{name}` has StartLimitAction={action}: {burst} wakes within {interval} trigger it; `{ctl} edit {name}`: StartLimitIntervalSec=0",
        ));
    }
    findings
}

/// Limits of the unit's own that do not go with ours.
fn times(name: &str, unit: &Unit, service: &ServiceConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    let timing = &service.timing;
    for (what, theirs, ours) in [
        ("start", unit.start_timeout, timing.start_timeout),
        ("stop", unit.stop_timeout, timing.stop_timeout),
    ] {
        // Without a limit it may take long, or it is only not said.
        if theirs > ours && theirs != Duration::MAX {
            let (theirs, ours) = (span::show(theirs), span::show(ours));
            findings.push(Finding::warning(format!(
                "`{name}` may take {theirs} to {what}, and wakeport waits {ours}; `--{what}-timeout '{theirs}'`"
            )));
        }
    }
    let (burst, interval) = (unit.start_limit_burst, unit.start_limit_interval);
    let rounds = interval.checked_div(burst).unwrap_or_default();
    if interval != Duration::MAX && timing.cooldown < rounds && unit.start_limit_action == "none" {
        findings.push(Finding::note(format!(
            "`{name}` may be started {burst} times in {}, which a short cooldown can exceed; wakeport resets the count after successful wakes, not after failed ones",
            span::show(interval)
        )));
    }
    findings
}

/// Whether the unit says when it is ready.
pub fn readiness(unit: &Unit, service: &ServiceConfig) -> Option<Finding> {
    let says_nothing = ["simple", "exec", "idle"].contains(&unit.kind.as_str());
    let only_connects = service.readiness.kind == ReadyKind::Connect;
    (says_nothing && only_connects && service.readiness.hook.is_none()).then(|| {
        Finding::note(format!(
            "`{}` is Type={}, which does not signal readiness: wakeport waits until the target accepts; if that is too early, use `--ready http:///PATH`, `--ready banner` or `--ready-hook`",
            unit.id, unit.kind
        ))
    })
}

/// Whether systemd measures what keeps the unit awake.
pub fn accounting(name: &UnitName, unit: &Unit, service: &ServiceConfig) -> Vec<Finding> {
    let ctl = service.manager().systemctl();
    let needed = service.busy.accounting();
    let missing = needed.filter(|setting| !unit.accounting.contains(setting));
    let missing = missing.map(|setting| {
        let option = match setting {
            "IOAccounting" => "--busy-io",
            _ => "--busy-net",
        };
        Finding::warning(format!(
            "`{name}` is not measured for `{option}`, which does not keep it awake then; `{ctl} edit {name}`: {setting}=yes"
        ))
    });
    missing.collect()
}

/// What keeps the units from being frozen, or would make that unsafe. `relay` is the service that relays.
pub fn freezer(
    service: &ServiceConfig,
    units: &[Unit],
    relay: Option<&Unit>,
    freezer: &Freezer,
) -> Vec<Finding> {
    let (manager, ctl) = (service.manager(), service.manager().systemctl());
    let mut findings = Vec::new();
    let mut warning = |text: String| findings.push(Finding::warning(text));
    for unit in units {
        let (id, own) = (&unit.id, &unit.slice);
        if !slice::is_ours(own, manager) {
            let own = if own.is_empty() { "no slice" } else { own };
            warning(format!(
                "`{id}` is in {own}, so it is not frozen (`--freeze-after`); `wakeport init` with that option writes a slice for it, in which it is after its next start"
            ));
            continue;
        }
        if *own != units[0].slice {
            warning(format!(
                "`{id}` is in {own} and `{}` in {}, so they are not frozen (`--freeze-after`); put them into one slice",
                units[0].id, units[0].slice
            ));
        }
        let watched = ![Duration::ZERO, Duration::MAX].contains(&unit.watchdog);
        if watched && !slice::suspends_watchdogs(&freezer.version) {
            warning(format!(
                "`{id}` has WatchdogSec=, and this systemd kills what it does not hear of while it is frozen, so it is not frozen (`--freeze-after`); `{ctl} edit {id}`: WatchdogSec=0"
            ));
        }
        if let Some(relay) = relay.filter(|relay| !unit.before.contains(&relay.id)) {
            warning(format!(
                "`{id}` has no Before={}, so a shutdown may kill it while it is frozen, without ExecStop=; `wakeport init` with `--freeze-after` writes that line",
                relay.id
            ));
        }
    }
    for slice in freezer
        .slices
        .iter()
        .filter(|it| slice::is_ours(&it.id, manager))
    {
        let id = &slice.id;
        if slice.never_frozen {
            warning(format!(
                "`{id}` cannot be frozen (`--freeze-after`): that takes control groups of version 2; boot with systemd.unified_cgroup_hierarchy=1"
            ));
        }
        if slice.default_dependencies {
            warning(format!(
                "`{id}` has DefaultDependencies=yes, so a shutdown may kill what is frozen, without ExecStop=; `wakeport init` with `--freeze-after` writes DefaultDependencies=no"
            ));
        }
        let others = slice
            .holds
            .iter()
            .filter(|it| units.iter().all(|unit| unit.id != **it));
        let others: Vec<_> = others.collect();
        if !others.is_empty() {
            warning(format!(
                "{} would be frozen along, so nothing is frozen (`--freeze-after`); take Slice={id} out of it",
                in_a_row(&others)
            ));
        }
    }
    for Permission { unit, denied } in &freezer.permissions {
        match denied {
            Ok(denied) if denied.is_empty() => (),
            Ok(denied) => findings.push(Finding::warning(format!(
                "`{unit}` may not be frozen by wakeport's user (D-Bus and polkit deny to {}); `wakeport init` with `--freeze-after` writes what authorizes it",
                in_a_row(denied)
            ))),
            Err(reason) => findings.push(Finding::note(format!(
                "whether wakeport's user may freeze `{unit}` is not known: {reason}"
            ))),
        }
    }
    findings
}

/// Which limit would tell the work of units that use so much CPU when idle.
pub fn busy_cpu(service: &ServiceConfig, idle: Option<Percent>) -> Option<Finding> {
    let idle = idle.filter(|_| service.busy.cpu.is_none())?;
    let limit = idle.limit()?;
    Some(Finding::note(format!(
        "idle, {} used {idle} of a core; `--busy-cpu {limit}` would keep the service awake while it computes",
        in_a_row(service.units())
    )))
}

/// Whether a unit that is woken and the service that wakes it depend on each other.
pub fn tied(name: &UnitName, unit: &Unit, relay: &Unit) -> Vec<Finding> {
    let mut findings = Vec::new();
    if relay.id == unit.id {
        findings.push(Finding::error(format!(
            "`{name}` would wake itself; set WAKEPORT_UNIT= to the service behind it"
        )));
    }
    if relay.bound_to.contains(&unit.id) {
        findings.push(Finding::error(format!(
            "`{}` depends on `{name}` (Requires=, BindsTo=, Requisite= or PartOf=), so each stop of `{name}` stops wakeport as well; remove that line",
            relay.id
        )));
    }
    findings
}

/// Whether another instance wakes one of these units as well. `units` may not be known.
pub fn shared(names: &[UnitName], units: &[Unit], elsewhere: &[Elsewhere]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let id = units.get(index).map_or(name.as_str(), |unit| &unit.id);
        let mut others = elsewhere.iter();
        let other = others.find(|other| other.unit == id || other.unit == name.as_str());
        if let Some(Elsewhere { instance, .. }) = other {
            let stem = instance_name(instance);
            findings.push(Finding::error(format!(
                "`{name}` is woken by `{instance}` as well, and each would stop it under the other's clients; let one instance have it: `wakeport init {stem} --remove`, or remove the service from its file"
            )));
        }
    }
    findings
}

/// What makes the filters of `service` useless. `relay` is the service that relays, `woken` what
/// it wakes.
pub fn filters(service: &ServiceConfig, relay: Option<&Unit>, woken: &[Unit]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if service.admission.wake_on_data && service.readiness.kind == ReadyKind::Banner {
        findings.push(Finding::warning(
            "`--wake-on-data` is for clients that speak first, and `--ready banner` for servers that do: such clients wait for ever; give only one of them",
        ));
    }
    let filters = service.filters().join(" and ");
    let Some(relay) = relay.filter(|_| !filters.is_empty()) else {
        return findings;
    };
    for name in &relay.pulls_in {
        // Without a unit of ours to wake, any that comes along is the one that is relayed to.
        let along = match service.kind {
            ServiceKind::Relay => name.ends_with(".service"),
            ServiceKind::Units { .. }
            | ServiceKind::Hooks { .. }
            | ServiceKind::Exec(_)
            | ServiceKind::Scale(_) => woken.iter().any(|unit| unit.id == *name),
        };
        if along {
            findings.push(Finding::warning(format!(
                "`{}` pulls in `{name}` (Wants= or the like), so systemd starts both at once, before {filters} can refuse a client; remove that line, and let `--unit {name}` wake it",
                relay.id
            )));
        }
    }
    findings
}

/// Where systemd is not there to tell before `init` writes.
pub fn not_checked(units: &[UnitName], reason: &str) -> Finding {
    let what = match units.is_empty() {
        true => "whether wakeport's own units are installed".to_owned(),
        false => format!(
            "whether {} exists, starts at boot or restarts by itself",
            in_a_row(units)
        ),
    };
    Finding::note(format!(
        "cannot reach systemd ({reason}), so it was not verified {what}"
    ))
}

/// Where systemd is not there to start the units either.
pub fn out_of_reach(reason: &str) -> Finding {
    Finding::error(format!(
        "cannot reach systemd ({reason}), and neither can `wakeport run`; is it running here?"
    ))
}

// -- the service that relays

/// Whether the units that the drop-ins belong to are there.
pub fn template(instance: &Instance, system: &System) -> Option<Finding> {
    let service = system.service.as_ref().filter(|_| !instance.standalone)?;
    // The socket without an address is no valid unit, so the service tells.
    (service.load == "not-found").then(|| Finding::error(NOT_INSTALLED))
}

/// What is wrong with the units of an instance, whatever it is to do.
pub fn installed(installed: &Installed, manager: Manager) -> Vec<Finding> {
    let mut findings = relay(installed, manager);
    for unit in &installed.sockets {
        findings.extend(socket(unit, &installed.sockets, manager));
    }
    for unit in &installed.beside {
        findings.extend(beside(unit, manager));
    }
    findings
}

/// What is wrong with the control socket, a timer, or the service of one.
fn beside(unit: &Unit, manager: Manager) -> Vec<Finding> {
    let (id, ctl) = (&unit.id, manager.systemctl());
    let mut findings = Vec::from_iter(reload(unit, manager));
    let is_timer = id.ends_with(".timer");
    if unit.active == "failed" {
        findings.push(Finding::warning(format!(
            "`{id}` has failed ({}); `{ctl} reset-failed {id} && {ctl} start {id}`",
            unit.result
        )));
    } else if is_timer && unit.active != "active" && unit.load == "loaded" {
        findings.push(Finding::warning(format!(
            "`{id}` is not started; `{ctl} enable --now {id}`"
        )));
    } else if is_timer && unit.file_state == "disabled" {
        findings.push(Finding::warning(format!(
            "`{id}` is not enabled, so it does not run after the next boot; `{ctl} enable {id}`"
        )));
    }
    findings
}

/// What is wrong with the service that relays, apart from what it is to do.
fn relay(installed: &Installed, manager: Manager) -> Vec<Finding> {
    let (unit, ctl) = (&installed.service, manager.systemctl());
    let id = &unit.id;
    let mut findings = Vec::from_iter(reload(unit, manager));
    for name in &installed.unknown {
        findings.push(Finding::warning(format!(
            "`{id}` sets {name}, which `wakeport run` does not know; `wakeport run --help` lists all",
        )));
    }
    for (file, reason) in &installed.unread {
        findings.push(Finding::note(format!(
            "`{file}` was not read ({reason}), so its variables were not verified; run this as root"
        )));
    }
    if let Some((path, reason)) = &installed.closed {
        findings.push(Finding::error(format!(
            "`{path}` cannot be read by the user of `{id}`: {reason}"
        )));
    }
    findings.extend(failures(unit, manager));
    let control = || control(instance_name(id), manager);
    findings.extend(too_long(unit).or_else(control));
    let (burst, interval) = (unit.start_limit_burst, unit.start_limit_interval);
    if !interval.is_zero() && burst > 0 {
        let interval = span::show(interval);
        findings.push(Finding::warning(format!(
            "`{id}` may be started only {burst} times in {interval}, and then its port closes; `{ctl} edit {id}`: StartLimitIntervalSec=0",
        )));
    }
    findings
}

/// Whether a restart of the service that relays can hand all connections over.
pub fn store(subject: &Subject) -> Option<Finding> {
    let unit = &subject.instance.as_ref()?.service;
    let limit = subject.config.process.limits.max_connections;
    let clients = limit.unwrap_or(1);
    let needed = clients.div_ceil(QUEUE_HOLDS).max(64);
    let ctl = subject.manager.systemctl();
    (unit.stored as usize * QUEUE_HOLDS < clients).then(|| {
        Finding::warning(format!(
            "`{id}` has FileDescriptorStoreMax={}, so a restart of it cuts connections; `{ctl} edit {id}`: FileDescriptorStoreMax={needed}",
            unit.stored,
            id = unit.id,
        ))
    })
}

/// Whether the service that relays fails.
fn failures(unit: &Unit, manager: Manager) -> Option<Finding> {
    let (id, how) = (&unit.id, ending(unit));
    let cause = match unit.exit {
        (EXITED, status) => setup_failure(status).map(|(_, cause)| cause),
        _ => None,
    };
    let journal = manager.journalctl(id);
    let times = match unit.restarts {
        1 => "once".to_owned(),
        times => format!("{times} times"),
    };
    // Between two attempts it is one that starts.
    let restarts =
        unit.sub.starts_with("auto-restart") || unit.restarts > 1 && unit.active == "activating";
    Some(match (unit.active.as_str(), cause) {
        (_, Some(cause)) if restarts => Finding::error(format!(
            "`{id}` cannot start, and its clients wait; it was restarted {times} ({how}): {cause}; `{journal}`"
        )),
        (_, None) if restarts => Finding::error(format!(
            "`{id}` fails again and again, and its clients wait; it was restarted {times} ({how}); `{journal}` shows why"
        )),
        ("failed", Some(cause)) => {
            Finding::error(format!("`{id}` cannot start ({how}): {cause}; `{journal}`"))
        }
        ("failed", None) => Finding::warning(format!(
            "`{id}` has failed the last time ({how}); `{journal}` shows why, and the next client starts it again"
        )),
        (_, _) if unit.restarts > 0 => Finding::note(format!(
            "`{id}` has failed and was restarted {times} since its first client; `{journal}` shows why"
        )),
        _ => return None,
    })
}

/// Whether the name of the service that relays leaves room for the directory of `PrivateTmp=`.
fn too_long(unit: &Unit) -> Option<Finding> {
    let limit = LONGEST_WITH_TMP;
    (unit.private_tmp && unit.id.len() > limit).then(|| {
        Finding::error(format!(
            "`{}` cannot start: with PrivateTmp=yes a unit's name has at most {limit} bytes; use a shorter name for the instance, with WAKEPORT_UNIT= for the unit",
            unit.id
        ))
    })
}

/// Whether an instance of this name can have a control socket.
pub fn control(name: &str, manager: Manager) -> Option<Finding> {
    let runtime = match manager {
        Manager::System => "/run",
        Manager::User => "/run/user/1000",
    };
    let length = format!("{runtime}/wakeport.control/{name}").len();
    (length > LONGEST_UNIX).then(|| {
        Finding::warning(format!(
            "`{CONTROL}{name}.socket` cannot be opened, and `wakeport wake`, `hold` and `sleep` cannot reach this instance: the path of its socket would have {length} bytes, of at most {LONGEST_UNIX}; use a name for the instance that is shorter by {}, with `--unit` for the unit",
            length - LONGEST_UNIX,
        ))
    })
}

/// What makes an instance one that cannot be verified any further.
pub fn missing(name: &str, installed: &Installed, manager: Manager) -> Option<Finding> {
    let unit = &installed.service;
    if unit.load == "not-found" {
        return Some(Finding::error(NOT_INSTALLED));
    }
    if let Some(text) = unusable(name, unit, manager.systemctl()) {
        return Some(Finding::error(text));
    }
    let (first, others) = installed.sockets.split_first()?;
    let made = first.unit.load == "masked" || !first.is_empty();
    if made || others.iter().any(|socket| !socket.is_empty()) {
        return None;
    }
    Some(Finding::error(format!(
        "`{}` has no address; `wakeport init` with `--listen ADDR` makes the instance, or a drop-in with ListenStream=",
        first.name
    )))
}

pub(super) fn reload(unit: &Unit, manager: Manager) -> Option<Finding> {
    unit.needs_reload.then(|| {
        Finding::warning(format!(
            "the files of `{}` have changed on disk; `{} daemon-reload` makes systemd read them",
            unit.id,
            manager.systemctl()
        ))
    })
}

/// Files of other origin that are in the way, or that add to ours.
pub fn drop_ins(instance: &Instance, system: &System, plan: &Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    for change in plan.changes.iter().filter(|it| it.is_in_the_way()) {
        findings.push(Finding::error(format!(
            "`{}` exists, and `wakeport init` has not written it for this instance; move it away, or overwrite it with `--force`",
            change.path.display()
        )));
    }
    let mut units = instance.sockets();
    units.push(instance.service());
    for file in &system.present {
        let text = file.text.as_ref();
        let ours = text.is_ok_and(|text| instance.mark().is_on(text));
        let planned = plan.changes.iter().any(|change| change.path == file.path);
        let adds = drop_in_of(&file.path).is_some_and(|unit| units.contains(&unit));
        if adds && !ours && !planned {
            findings.push(Finding::note(format!(
                "`{}` exists as well, and adds to what `wakeport init` writes; remove it if it sets the same",
                file.path.display()
            )));
        }
    }
    findings
}

/// Files of ours that the next `wakeport init --write` repairs.
pub fn to_repair(plan: &Plan) -> Vec<Finding> {
    let defects = plan.changes.iter().filter_map(|it| it.access.as_ref());
    defects
        .map(|defect| Finding::warning(format!("{defect}; `--write` repairs it")))
        .collect()
}

/// Files that have another mode or owner than `wakeport init` gives them. Where polkit denies what
/// is needed, that line names its rules.
pub fn access(installed: &Installed, denied: bool) -> Vec<Finding> {
    let files = installed.files.iter();
    let wrong = files.filter(|file| !(denied && is_rule(&file.path)));
    let text = |file: &Present| Some(format!("{}; {}", file.access.as_ref()?, reset(file)));
    wrong.filter_map(text).map(Finding::warning).collect()
}

/// What gives a file its mode and its owner back.
fn reset(file: &Present) -> String {
    let path = file.path.display();
    match is_rule(&file.path) {
        // polkit reads a rule when it is written, not when its mode changes.
        true => format!("`chown 0:0 {path} && chmod 644 {path} && systemctl restart polkit`"),
        false => "the next `wakeport init` with `--write` repairs it".to_owned(),
    }
}

// -- their user

/// Whether the user that relays exists.
pub fn user(subject: &Subject, installed: &Installed) -> Option<Finding> {
    (!subject.user_exists).then(|| {
        Finding::error(format!(
            "user `{}` (User= of `{}`) does not exist; `systemd-sysusers` creates it, as systemd/install does",
            subject.user, installed.service.id
        ))
    })
}

/// polkit is what lets an unprivileged user start and stop units.
pub fn no_polkit() -> Finding {
    Finding::error(
        "polkit is not installed, and without it wakeport cannot start units; install it (Debian: polkitd), or see \"Without any privilege\" in docs/recipes.md",
    )
}

/// polkit knows only the rules that it can read.
pub fn closed_rules(reason: Option<&String>) -> Option<Finding> {
    let text = |reason| format!("polkit cannot read its rules: {reason}");
    reason.map(text).map(Finding::error)
}

/// Whether the units may be started and stopped.
pub fn permissions(subject: &Subject, permissions: &[Permission]) -> Vec<Finding> {
    if !permissions.is_empty() && !subject.polkit {
        return vec![no_polkit()];
    }
    let user = &subject.user;
    let finding = |Permission { unit, denied }: &Permission| match denied {
        Ok(denied) if denied.is_empty() => None,
        Ok(denied) => Some(Finding::error(format!(
            "user `{user}` is not authorized by polkit to {} `{unit}`; {}",
            in_a_row(denied),
            remedy(subject, unit)
        ))),
        Err(reason) => Some(Finding::note(format!(
            "whether user `{user}` is authorized by polkit to start and stop `{unit}` is not known: {reason}"
        ))),
    };
    permissions.iter().filter_map(finding).collect()
}

/// Whether polkit denies anything that is needed.
pub fn is_denied(subject: &Subject) -> bool {
    let services = subject.services.iter();
    let mut permissions = services.flat_map(|service| &service.permissions);
    permissions.any(|it| it.denied.as_ref().is_ok_and(|denied| !denied.is_empty()))
}

fn remedy(subject: &Subject, unit: &str) -> String {
    let installed = subject.instance.as_ref();
    if let Some(reason) = &subject.rules_closed {
        return format!("polkit cannot read its rules: {reason}");
    }
    let files = installed.iter().flat_map(|installed| &installed.files);
    let mut rules = files.filter(|file| is_rule(&file.path));
    if let Some((rule, defect)) = rules.find_map(|file| Some((file, file.access.as_ref()?))) {
        return format!("{defect}: {}", reset(rule));
    }
    let several = installed.filter(|_| subject.config.has_file());
    let name: Option<UnitName> = unit.parse().ok();
    let name = match several {
        Some(installed) => instance_name(&installed.service.id),
        None => name.as_ref().map_or(unit, stem),
    };
    match subject.user.as_str() {
        "wakeport" => format!(
            "`wakeport init {name} … --write` writes the rule, or add the unit to the list in /etc/polkit-1/rules.d/50-wakeport.rules"
        ),
        user => {
            format!("write a rule for `{user}` like the one that `wakeport init {name} …` prints")
        }
    }
}

/// Whether the hooks, or the child process, can be run.
pub fn programs(user: &str, programs: &[Program]) -> Vec<Finding> {
    let failing = programs.iter().filter_map(|(what, program, outcome)| {
        let reason = outcome.as_ref().err()?;
        Some(Finding::error(format!(
            "the {what} `{program}` cannot be run by user `{user}`: {reason}"
        )))
    });
    failing.collect()
}
