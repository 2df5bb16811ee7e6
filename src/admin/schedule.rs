//! The timers that hold and stop an instance at certain times, and their services.

use super::unit_files::{Places, SCHEDULES};
use super::unit_text::{self, Sections};
use super::{Instance, instance_name};
use crate::config::Manager;

/// When an instance is held, and when it is stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// It is held since this calendar event, until that time.
    pub awake: Option<(String, String)>,
    /// It is stopped at this calendar event.
    pub asleep_from: Option<String>,
}

/// The exit codes after which it is not tried again: a wrong command line, `sleep --force`, no permission.
const FINAL: &str = "64 75 77";

/// The services and timers of an instance, by name.
pub(super) fn units(instance: &Instance, places: &Places) -> Vec<(String, Sections)> {
    let [awake, asleep] = SCHEDULES;
    let Schedule {
        awake: held,
        asleep_from,
    } = &instance.schedule;
    let stem = instance.stem();
    let program = match places.program.as_ref().filter(|_| instance.standalone) {
        Some(path) => unit_text::program(path),
        None => "wakeport".into(),
    };
    let user = match instance.manager {
        Manager::System => "",
        Manager::User => " --user",
    };
    let mut units = Vec::new();
    if let Some((since, until)) = held {
        let description = "Hold of %i at certain times";
        let mut timer = timer(description, since);
        // At boot, and when it is enabled, the time may have come already: `--since` knows.
        timer.add("Timer", "OnActiveSec", "0");
        timer.add("Timer", "Persistent", "yes");
        units.push((format!("{awake}{stem}.timer"), timer));
        let command = format!(
            "{program} hold{user} --reason schedule --since {} --until {} %i",
            unit_text::word(since),
            unit_text::word(until),
        );
        let mut service = service(description, instance.manager, &command);
        // A change of the timer is one of the service; without the timer nothing is held.
        service.add("Unit", "PartOf", &format!("{awake}%i.timer"));
        service.add("Service", "Restart", "on-failure");
        service.add("Service", "RestartSec", "1min");
        service.add("Service", "RestartPreventExitStatus", FINAL);
        units.push((format!("{awake}{stem}.service"), service));
    }
    if let Some(event) = asleep_from {
        let description = "Stop of %i at certain times";
        let timer = timer(description, event);
        units.push((format!("{asleep}{stem}.timer"), timer));
        let command = format!("{program} sleep{user} %i");
        let mut service = service(description, instance.manager, &command);
        service.set("Service", "Type", "oneshot");
        // It is in use: that is no failure.
        service.add("Service", "SuccessExitStatus", "75");
        units.push((format!("{asleep}{stem}.service"), service));
    }
    units
}

fn timer(description: &str, event: &str) -> Sections {
    let mut timer = Sections::default();
    timer.add("Unit", "Description", description);
    timer.add("Unit", "Documentation", "man:wakeport-init(1)");
    timer.add("Timer", "OnCalendar", &event.replace('%', "%%"));
    timer.add("Install", "WantedBy", "timers.target");
    timer
}

fn service(description: &str, manager: Manager, command: &str) -> Sections {
    let mut service = Sections::default();
    service.add("Unit", "Description", description);
    service.add(
        "Unit",
        "Documentation",
        "man:wakeport-hold(1) man:wakeport-sleep(1)",
    );
    service.add("Service", "Type", "simple");
    service.add("Service", "ExecStart", command);
    if manager == Manager::System {
        // It needs the control socket, and nothing else.
        service.add("Service", "User", "wakeport");
    }
    service
}

/// The timers and services that an instance may have, by the name of its service.
pub fn names(service: &str) -> Vec<String> {
    let stem = instance_name(service);
    let names = SCHEDULES
        .into_iter()
        .flat_map(|schedule| ["timer", "service"].map(|kind| format!("{schedule}{stem}.{kind}")));
    names.collect()
}
