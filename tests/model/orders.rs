//! What an order does once it is its turn: the second half of src/service/orders.rs, with
//! src/backend/systemd.rs below it. One unit; systemd does as it is told, if it hears of it.

use super::world::{Defect, Kind, Order, Progress, Stage, World};
use crate::core::lifecycle::Phase;
use crate::core::service::Input;

impl World {
    /// Whether the order that is under way can go on.
    pub(crate) fn order_goes_on(&self) -> bool {
        let Some(order) = self.process.as_ref().and_then(|p| p.orders.first()) else {
            return false;
        };
        let unit = &self.unit;
        match (order.kind, order.progress) {
            (Kind::Start, Progress::Going) => {
                order.given_up
                    || !self.bus
                    || matches!(unit.phase, Phase::Up | Phase::Frozen)
                    || unit.phase == Phase::Down
                    || unit.phase == Phase::Starting && unit.by_itself
                    || unit.phase == Phase::Stopping && !unit.again
            }
            (Kind::Freeze | Kind::Thaw, _) => true,
            (_, Progress::Going) => !self.bus || unit.phase != Phase::Stopping,
            _ => true,
        }
    }

    /// Takes it a step further.
    pub(crate) fn order_on(&mut self) {
        let order = self.process().orders[0];
        let progress = match (order.kind, order.progress) {
            (Kind::Freeze | Kind::Thaw, _) => return self.pause_on(order),
            (Kind::Close { stop: false }, _) => {
                self.excuse |= !self.bus;
                if self.bus {
                    self.unit.thaw();
                }
                return self.over(false);
            }
            (Kind::Start, Progress::Begun) => return self.begin_start(order),
            (Kind::Start, _) => return self.start_on(order),
            (Kind::GiveUp { undo: false }, Progress::Begun) => {
                let before = self.process().started;
                return self.over(before);
            }
            (Kind::GiveUp { undo: true }, Progress::Begun) if !self.process().started => {
                return self.stopped(Ok(()));
            }
            (_, Progress::Begun) => match self.unit.phase {
                _ if !self.bus => Progress::Failing,
                Phase::Down => return self.stopped(Ok(())),
                Phase::Up | Phase::Frozen | Phase::Starting | Phase::Stopping => {
                    self.unit.stop();
                    Progress::Going
                }
            },
            (_, Progress::Going) => match self.unit.phase {
                _ if !self.bus => Progress::Failing,
                Phase::Down => return self.stopped(Ok(())),
                Phase::Up | Phase::Frozen | Phase::Starting => Progress::Failing,
                Phase::Stopping => Progress::Going,
            },
            (Kind::Close { stop: true }, Progress::Failing) => {
                self.excuse = true;
                return self.over(false);
            }
            (_, Progress::Failing) => {
                let seen = match self.bus {
                    true => self.unit.phase,
                    false => Phase::Stopping,
                };
                return self.stopped(Err(seen));
            }
        };
        self.process().orders[0].progress = progress;
    }

    /// Freezes or thaws.
    fn pause_on(&mut self, order: Order) {
        let freezes = order.kind == Kind::Freeze;
        let progress = match order.progress {
            Progress::Failing if freezes => return self.froze(Err(())),
            Progress::Failing => {
                let seen = match self.bus {
                    true => self.unit.phase,
                    false => Phase::Frozen,
                };
                return self.thawed(Err(seen));
            }
            _ if !self.bus => {
                self.excuse |= !freezes;
                Progress::Failing
            }
            // What is not up is not frozen, unless it has gone down meanwhile.
            Progress::Begun if freezes && self.unit.phase != Phase::Up => Progress::Failing,
            Progress::Begun if freezes => Progress::Going,
            Progress::Going if freezes => {
                self.unit.freeze();
                return self.froze(Ok(()));
            }
            Progress::Begun | Progress::Going => {
                if self.unit.phase != Phase::Down || !self.has(Defect::ForgetsTheSlice) {
                    self.unit.thaw();
                }
                return self.thawed(Ok(()));
            }
        };
        self.process().orders[0].progress = progress;
    }

    fn froze(&mut self, result: Result<(), ()>) {
        self.over(false);
        self.report(Input::Froze(result));
    }

    fn thawed(&mut self, result: Result<(), Phase>) {
        self.over(false);
        self.report(Input::Thawed(result));
    }

    fn begin_start(&mut self, order: Order) {
        if order.given_up {
            return self.started(Err(()));
        }
        if !self.bus {
            self.excuse = true;
            return self.started(Err(()));
        }
        self.unit.thaw();
        if self.unit.phase == Phase::Up {
            return self.started(Ok(()));
        }
        self.unit.start();
        let order = &mut self.process().orders[0];
        (order.started, order.progress) = (true, Progress::Going);
    }

    fn start_on(&mut self, order: Order) {
        if order.given_up {
            return self.started(Err(()));
        }
        if !self.bus {
            self.excuse = true;
            return self.started(Err(()));
        }
        match self.unit.phase {
            Phase::Up | Phase::Frozen => self.started(Ok(())),
            Phase::Starting if self.unit.by_itself => self.started(Ok(())),
            Phase::Down => self.started(Err(())),
            Phase::Starting | Phase::Stopping => (),
        }
    }

    /// A start has ended, which is reported some time.
    pub(crate) fn started(&mut self, result: Result<(), ()>) {
        let started = self.process().orders[0].started;
        self.over(started);
        self.report(Input::Started(result));
    }

    /// The same for a stop.
    fn stopped(&mut self, result: Result<(), Phase>) {
        self.over(false);
        self.report(Input::Stopped(result));
    }

    /// There may be nothing any more that could be told.
    fn report(&mut self, input: Input) {
        if self.process().stage != Stage::Stopping {
            self.process().reports.push(input);
        }
    }

    /// It is over, and has started something, or nothing.
    fn over(&mut self, started: bool) {
        let process = self.process();
        process.orders.remove(0);
        process.started = started;
    }
}
