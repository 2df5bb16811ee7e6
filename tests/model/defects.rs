//! What a wakeport with a [`Defect`] makes of inputs and effects, between core and world.

use super::world::{Defect, World};
use crate::core::lifecycle::{Phase, State};
use crate::core::service::{Effect, Input, Rejection, Timer};

impl World {
    /// What the core is told instead of this, if it is told anything.
    pub(crate) fn distorted_input(&mut self, input: Input) -> Option<Input> {
        let Some(defect) = self.rules.0.defect else {
            return Some(input);
        };
        match (defect, self.process().state(), input) {
            (Defect::NeverAdopts, State::Asleep, Input::Queried(Ok(Phase::Up))) => {
                Some(Input::Queried(Err(())))
            }
            (Defect::NeverCools, State::Cooling { .. }, Input::Due(Timer::Lifecycle))
            | (Defect::NeverForgets, State::Failed { .. }, Input::Due(Timer::Lifecycle)) => None,
            (Defect::IgnoresFreezes, _, Input::Queried(Ok(Phase::Frozen))) => {
                Some(Input::Queried(Ok(Phase::Up)))
            }
            (Defect::IgnoresWork, _, Input::Busy(number, _)) => Some(Input::Busy(number, false)),
            (Defect::WaitsForAnswers, _, Input::Due(Timer::Answer)) => None,
            (Defect::BelievesThaws, _, Input::Thawed(_)) => Some(Input::Thawed(Ok(()))),
            (Defect::KeepsItFrozen, State::Frozen { .. }, Input::Due(Timer::Lifecycle)) => None,
            (Defect::ExitsFrozen, _, Input::Ending) => None,
            (_, _, input) => Some(input),
        }
    }

    /// Changes what the core has said to `input` in the state `before`.
    pub(crate) fn distort(&mut self, input: Input, before: State, effects: &mut Vec<Effect>) {
        let Some(defect) = self.rules.0.defect else {
            return;
        };
        let stopping = matches!(before, State::Stopping(_));
        let waking = matches!(before, State::Waking { .. });
        match (defect, input) {
            (Defect::ForgetsToAdmit, _) => {
                effects.retain(|effect| !matches!(effect, Effect::Admit { .. }));
            }
            (Defect::StartsForEach, Input::Arrived(ticket)) if waking => {
                effects.push(Effect::Start(ticket));
            }
            (Defect::StartsDuringAStop, Input::Arrived(ticket)) if stopping => {
                effects.push(Effect::Start(ticket));
            }
            (Defect::RejectsDuringAStop, Input::Arrived(ticket)) if stopping => {
                effects.push(Effect::Reject(ticket, Rejection::Failed));
            }
            (Defect::ForgetsWhoWaited, Input::Stopped(Ok(()))) => {
                effects.retain(|effect| !matches!(effect, Effect::Start(_)));
            }
            (Defect::ForgetsWhoCameToTheFreeze, Input::Froze(Ok(()))) => {
                effects.retain(|effect| !matches!(effect, Effect::Thaw));
            }
            (Defect::KeepsGatesClosed, Input::Closed(_, false)) => {
                effects.retain(|effect| !matches!(effect, Effect::Open(_)));
            }
            _ => (),
        }
    }

    /// Whether the process may exit.
    pub(crate) fn is_idle(&mut self) -> bool {
        let blindly = self.has(Defect::ExitsBlindly);
        let process = self.process();
        let no_client = process.core.clients().is_empty();
        process.core.is_idle(process.occupancy())
            || blindly && no_client && process.state() == State::Asleep
    }
}
