//! What a unit's state means. Pure.

use crate::core::lifecycle::Phase;
use crate::systemd::dbus::UnitStatus;

impl UnitStatus {
    /// What this unit does.
    pub(super) fn phase(&self) -> Phase {
        phase(&self.active, &self.sub, &self.job)
    }

    /// Whether nothing more will come of an order to start, and the unit did not end up down.
    pub(super) fn is_started(&self) -> bool {
        match self.phase() {
            Phase::Up | Phase::Frozen => true,
            // It restarts by itself, or its job was cancelled: it goes on without one.
            Phase::Starting => self.job.is_empty() && self.active == "activating",
            Phase::Stopping | Phase::Down => false,
        }
    }

    /// The state as `systemctl status` shows it.
    pub(super) fn state(&self) -> String {
        format!("{} ({})", self.active, self.sub)
    }
}

/// What a unit does, from its state and the type of its job.
///
/// A job tells the future and so comes first: with a stop job the unit is `Stopping`, whatever
/// it does now, and with a restart job `Starting` (this is `systemctl restart`, in its stopping
/// half as well). Without these, a unit that is active, reloading or refreshing is `Up`, and one
/// that is deactivating is `Stopping`. It is `Down` when it is inactive or failed, has no job
/// at all and is not about to restart by itself. Everything else, unknown states included, is
/// `Starting`: neither up nor down, so that nothing starts, stops or exits because of it.
fn phase(active: &str, sub: &str, job: &str) -> Phase {
    match (active, job) {
        (_, "stop") => Phase::Stopping,
        (_, "restart" | "try-restart") => Phase::Starting,
        ("active" | "reloading" | "refreshing", _) => Phase::Up,
        ("deactivating", "") => Phase::Stopping,
        // systemd 254 and later pass through these on the way to `auto-restart`.
        ("inactive" | "failed", "") if !sub.ends_with("-before-auto-restart") => Phase::Down,
        _ => Phase::Starting,
    }
}

/// What the service does, from what its units do: `Up` and `Down` when all of them are,
/// `Stopping` when some are and the rest is down, and `Starting` otherwise: a service that
/// partly runs is neither.
pub(super) fn of_all(units: &[UnitStatus]) -> Phase {
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

    fn status(active: &str, sub: &str, job: &str) -> UnitStatus {
        UnitStatus {
            active: active.into(),
            sub: sub.into(),
            job: job.into(),
            ..UnitStatus::default()
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
            assert_eq!(of_all(&units), expected, "{units:?}");
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
