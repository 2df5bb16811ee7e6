//! Those that have asked for a service to be stopped, and hear what comes of it.

use tokio::sync::oneshot;

use super::{Service, now};
use crate::core::lifecycle::{State, Stop};
use crate::core::service::Input;
use crate::report::record::Work;
use crate::report::text;

/// One of them.
#[derive(Debug)]
pub(super) struct Sleeper {
    pub(super) forced: bool,
    /// The core knows of it.
    pub(super) told: bool,
    /// It has been told to thaw the service.
    pub(super) thaws: bool,
    pub(super) reply: oneshot::Sender<Result<(), String>>,
}

impl Service {
    /// Has the core know of them as soon as it knows what the service does, and answers those for which
    /// it is decided.
    pub(super) fn answer_sleepers(&mut self) {
        for mut sleeper in std::mem::take(&mut self.sleepers) {
            let may_run = matches!(self.core.state(), State::Awake | State::Cooling { .. });
            // What is frozen is thawed first.
            let frozen = matches!(self.core.state(), State::Frozen { .. });
            if frozen && !std::mem::replace(&mut sleeper.thaws, true)
                || may_run && !std::mem::replace(&mut sleeper.told, true)
            {
                self.handle_input(Input::Sleep(sleeper.forced));
            }
            match self.outcome() {
                Some(outcome) => _ = sleeper.reply.send(outcome),
                None => self.sleepers.push(sleeper),
            }
        }
    }

    /// What has come of the order to stop, if that is decided.
    fn outcome(&self) -> Option<Result<(), String>> {
        match self.core.state() {
            State::Asleep => self.core.was_seen_down().then_some(Ok(())),
            State::Failed { undoing, .. } => (!undoing).then_some(Ok(())),
            State::Stopping(Stop::Ours | Stop::Theirs) => None,
            State::Stopping(Stop::Again { .. }) => {
                Some(Err(format!("it fails to stop{}; retrying", self.why())))
            }
            State::Waking { .. } => Some(Err("it is being started".into())),
            State::Awake => Some(Err(self.users())),
            // The question is under way, or about to be.
            State::Freezing { .. } | State::Thawing { .. } => None,
            State::Frozen { .. } => {
                Some(Err(format!("it cannot be thawed{}; retrying", self.why())))
            }
            State::Cooling { sleep_at, .. } if sleep_at.is_some_and(|at| at <= now()) => None,
            State::Cooling { .. } => {
                let work = self.reporter.recorder.record().kept_awake;
                Some(Err(match work.is_empty() {
                    true => "a client has come and left".into(),
                    false => Work::told(&work),
                }))
            }
        }
    }

    /// The last failure, to go on with.
    fn why(&self) -> String {
        let failure = self.reporter.recorder.record().last_failure;
        failure.map_or_else(String::new, |failure| format!(": {}", failure.why))
    }

    /// What uses the service.
    fn users(&self) -> String {
        let (clients, holds) = (self.core.clients(), self.handle.holds().reasons());
        let all = clients.connected + clients.waiting;
        let clients = match all.saturating_sub(holds.len()) {
            0 => None,
            n => Some(text::count(n as u64, "client")),
        };
        let holds = text::holds(&holds);
        let users: Vec<_> = clients.into_iter().chain(holds).collect();
        users.join(", ")
    }
}
