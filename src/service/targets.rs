//! The targets of a service, each with its gate and its probe.

use std::sync::Arc;

use super::gate::{self, Gate};
use super::handle::{Entrance, Handle};
use super::probe::Probed;
use super::settings::Settings;
use crate::core::gate::{Occupancy, Word};
use crate::net::dial::Target;
use crate::net::pool::Pool;
use crate::report::requests::Counts;
use crate::report::status::Tally;

/// What has come to all of them in this process.
pub(super) struct Totals<'a> {
    /// Connections that have entered, modulo 2^31.
    pub(super) entered: u32,
    /// What else there is in a tally of the gates.
    pub(super) tally: Tally,
    /// Where requests are counted.
    pub(super) counts: Option<&'a Arc<Counts>>,
}

/// All that the service has had, by the index that the core knows them by.
#[derive(Debug, Default)]
pub(super) struct Targets(pub(super) Vec<Probed>);

impl Targets {
    /// Goes on with the targets of the settings, their gates closed. Those that are gone from the
    /// settings stay: they may have connections inside.
    pub(super) fn follow(&mut self, settings: &Settings, handle: &Handle) {
        let timing = settings.config.timing;
        let cooldown = timing.cooldown.min(timing.freeze_after);
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

    /// Whether datagrams were not passed on since [`hear_of_drops`](Self::hear_of_drops).
    pub(super) fn have_dropped(&self) -> bool {
        self.gates().any(Gate::has_dropped)
    }

    /// The next datagram that is not passed on tells the service again.
    pub(super) fn hear_of_drops(&self) {
        self.gates().for_each(Gate::hear_of_drops);
    }

    pub(super) fn totals(&self) -> Totals<'_> {
        let (entered, tally) = gate::totals(self.gates());
        let first = self.0.first();
        Totals {
            entered,
            tally,
            counts: first.map(|known| known.entrance.counts()),
        }
    }
}
