//! The targets of a service, each with its gate and its probe.

use std::sync::Arc;

use super::gate::{self, Gate};
use super::handle::{Entrance, Handle};
use super::probe::Probed;
use super::settings::Settings;
use crate::core::gate::{Occupancy, Word};
use crate::net::dial::Target;
use crate::net::pool::Pool;
use crate::report::status::Tally;

/// All that the service has had, by the index that the core knows them by.
#[derive(Debug, Default)]
pub(super) struct Targets(pub(super) Vec<Probed>);

impl Targets {
    /// Goes on with the targets of the settings, their gates closed. Those that are gone from the
    /// settings stay: they may have connections inside.
    pub(super) fn follow(&mut self, settings: &Settings, handle: &Handle) {
        let cooldown = settings.config.timing.cooldown;
        for known in &mut self.0 {
            known.cancel();
            known.entrance.gate().set(Word::close);
            known.entrance.gate().follow(cooldown);
        }
        for target in &settings.targets {
            if self.find(target).is_none() {
                let entrance = handle.entrance(self.0.len(), cooldown);
                self.0.push(Probed::new(target.clone(), entrance));
            }
        }
    }

    fn find(&self, target: &Arc<Target>) -> Option<&Probed> {
        self.0.iter().find(|known| known.target == *target)
    }

    /// The ways to these targets, in their order.
    pub(super) fn entrances(&self, targets: &[Arc<Target>]) -> Vec<Entrance> {
        let known = targets.iter().filter_map(|target| self.find(target));
        known.map(|known| known.entrance.clone()).collect()
    }

    pub(super) fn gate(&self, index: usize) -> &Gate {
        self.0[index].entrance.gate()
    }

    pub(super) fn gates(&self) -> impl Iterator<Item = &Gate> + Clone {
        self.0.iter().map(|known| known.entrance.gate())
    }

    /// Closes the idle connections to all.
    pub(super) fn clear_pools(&self) {
        let pools = self.0.iter().map(|known| known.entrance.pool());
        pools.for_each(Pool::clear);
    }

    pub(super) fn occupancy(&self) -> Occupancy {
        gate::occupancy(self.gates())
    }

    pub(super) fn totals(&self) -> (u32, Tally) {
        gate::totals(self.gates())
    }
}
