//! What the manager says about a unit, and what that means. Pure.

use zbus::OwnedObjectPath;

use crate::core::lifecycle::Phase;

/// One row of `ListUnitsByNames`: primary name, description, load state, active state, sub
/// state, followed unit, path, and the queued job's number, type and path.
pub(super) type Row = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);

/// What the manager says about one unit at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    /// The primary name; signals carry this one, whatever alias we were given.
    pub(super) id: String,
    /// Where the unit lives on the bus.
    pub(super) path: OwnedObjectPath,
    active: String,
    sub: String,
    /// The type of the job that is queued or runs.
    job: Option<String>,
}

impl From<Row> for Status {
    fn from((id, _, _, active, sub, _, path, number, job, _): Row) -> Self {
        let job = (number != 0).then_some(job);
        Self {
            id,
            path,
            active,
            sub,
            job,
        }
    }
}

impl Status {
    /// What this unit does.
    pub(super) fn phase(&self) -> Phase {
        phase(&self.active, &self.sub, self.job.as_deref())
    }

    /// Whether nothing more will come of an order to start, and the unit did not end up down.
    pub(super) fn is_started(&self) -> bool {
        match self.phase() {
            Phase::Up => true,
            // It restarts itself, or somebody took its job away: it goes on without one.
            Phase::Starting => self.job.is_none() && self.active == "activating",
            Phase::Stopping | Phase::Down => false,
        }
    }

    /// The interface on which a unit of this kind tells how its last run ended.
    pub(super) fn interface(&self) -> Option<&'static str> {
        match self.id.rsplit_once('.')?.1 {
            "service" => Some("Service"),
            "socket" => Some("Socket"),
            "mount" => Some("Mount"),
            "automount" => Some("Automount"),
            "swap" => Some("Swap"),
            "path" => Some("Path"),
            "timer" => Some("Timer"),
            "scope" => Some("Scope"),
            _ => None,
        }
    }

    /// The state as `systemctl status` shows it.
    pub(super) fn in_words(&self) -> String {
        format!("{} ({})", self.active, self.sub)
    }
}

/// What a unit does, from its state and the type of its job.
///
/// A job tells the future and so comes first: with a stop job the unit is `Stopping`, whatever
/// it does now, and with a restart job `Starting` (this is `systemctl restart`, in its stopping
/// half as well). Without these, a unit that is active, reloading or refreshing is `Up`, and one
/// that is deactivating is `Stopping`. It is `Down` when it is inactive or failed, has no job
/// at all and is not about to restart by itself. Everything else is `Starting`: neither up nor
/// down, so that nobody starts it, stops it or exits because of it. States that we do not know
/// end up there.
fn phase(active: &str, sub: &str, job: Option<&str>) -> Phase {
    match (active, job) {
        (_, Some("stop")) => Phase::Stopping,
        (_, Some("restart" | "try-restart")) => Phase::Starting,
        ("active" | "reloading" | "refreshing", _) => Phase::Up,
        ("deactivating", None) => Phase::Stopping,
        // systemd 254 and later pass through these on the way to `auto-restart`.
        ("inactive" | "failed", None) if !sub.ends_with("-before-auto-restart") => Phase::Down,
        _ => Phase::Starting,
    }
}

/// What the service does, from what its units do: `Up` and `Down` when all of them are,
/// `Stopping` when some are and the rest is down, and `Starting` otherwise: a service that
/// partly runs is neither.
pub(super) fn all_in_all(units: &[Status]) -> Phase {
    let all = |within: &[Phase]| units.iter().all(|unit| within.contains(&unit.phase()));
    if all(&[Phase::Up]) {
        Phase::Up
    } else if all(&[Phase::Down]) {
        Phase::Down
    } else if all(&[Phase::Stopping, Phase::Down]) {
        Phase::Stopping
    } else {
        Phase::Starting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(active: &str, sub: &str, job: &str) -> Status {
        Status {
            id: "x.service".into(),
            path: OwnedObjectPath::default(),
            active: active.into(),
            sub: sub.into(),
            job: (!job.is_empty()).then(|| job.into()),
        }
    }

    #[test]
    fn state_and_job_tell_the_phase() {
        use Phase::{Down, Starting, Stopping, Up};
        for (active, sub, job, expected) in [
            ("active", "running", "", Up),
            ("active", "exited", "", Up),
            ("active", "running", "start", Up),
            ("active", "running", "reload", Up),
            ("reloading", "reload", "reload", Up),
            ("refreshing", "refresh", "", Up),
            ("active", "running", "stop", Stopping),
            ("active", "running", "restart", Starting),
            ("inactive", "dead", "", Down),
            ("failed", "failed", "", Down),
            ("inactive", "dead", "start", Starting),
            ("failed", "failed", "start", Starting),
            ("inactive", "dead", "stop", Stopping),
            ("failed", "failed-before-auto-restart", "", Starting),
            ("inactive", "dead-before-auto-restart", "", Starting),
            ("activating", "start", "start", Starting),
            ("activating", "start", "", Starting),
            ("activating", "auto-restart", "", Starting),
            ("activating", "auto-restart-queued", "restart", Starting),
            ("activating", "start", "stop", Stopping),
            ("deactivating", "stop-sigterm", "", Stopping),
            ("deactivating", "stop-sigterm", "stop", Stopping),
            // `systemctl restart`, and a start that waits for the stop to end.
            ("deactivating", "stop-sigterm", "restart", Starting),
            ("deactivating", "stop-sigterm", "start", Starting),
            ("maintenance", "cleaning", "", Starting),
            ("levitating", "?", "", Starting),
            ("", "", "", Starting),
            ("inactive", "dead", "ponder", Starting),
        ] {
            let status = status(active, sub, job);
            assert_eq!(status.phase(), expected, "{active}/{sub} with job `{job}`");
        }
    }

    #[test]
    fn a_service_that_partly_runs_is_neither_up_nor_down() {
        use Phase::{Down, Starting, Stopping, Up};
        let up = || status("active", "running", "");
        let down = || status("inactive", "dead", "");
        let stopping = || status("deactivating", "stop-sigterm", "stop");
        let starting = || status("activating", "start", "start");
        for (units, expected) in [
            (vec![up(), up()], Up),
            (vec![down(), down()], Down),
            (vec![up(), down()], Starting),
            (vec![up(), starting()], Starting),
            (vec![starting(), down()], Starting),
            (vec![stopping(), down()], Stopping),
            (vec![stopping(), stopping()], Stopping),
            (vec![stopping(), up()], Starting),
            (vec![stopping(), starting()], Starting),
        ] {
            assert_eq!(all_in_all(&units), expected, "{units:?}");
        }
    }

    #[test]
    fn a_start_is_over_when_the_unit_goes_on_by_itself() {
        for (active, sub, job, expected) in [
            ("active", "running", "", true),
            ("activating", "auto-restart", "", true),
            ("activating", "start", "", true),
            ("activating", "start", "start", false),
            ("activating", "auto-restart", "restart", false),
            ("failed", "failed-before-auto-restart", "", false),
            ("deactivating", "stop-sigterm", "", false),
            ("inactive", "dead", "", false),
        ] {
            assert_eq!(
                status(active, sub, job).is_started(),
                expected,
                "{active}/{sub} `{job}`"
            );
        }
    }
}
