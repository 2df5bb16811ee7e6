//! What an order does once it is its turn: the second half of src/service/orders.rs, with
//! src/backend/systemd.rs below it. One unit; systemd does as it is told, if it hears of it.

use super::world::{Kind, Message, Progress, Stage, World};
use crate::core::lifecycle::Phase;

impl World {
    /// Whether the order that is under way can go on.
    pub(crate) fn order_goes_on(&self) -> bool {
        let Some(order) = self.wakeport.as_ref().and_then(|p| p.orders.first()) else {
            return false;
        };
        let service = &self.service;
        match (order.kind, order.progress) {
            (Kind::Wake, Progress::Going) => {
                order.given_up
                    || !self.bus
                    || service.phase == Phase::Up
                    || service.phase == Phase::Down
                    || service.phase == Phase::Starting && service.by_itself
                    || service.phase == Phase::Stopping && !service.again
            }
            (_, Progress::Going) => !self.bus || service.phase != Phase::Stopping,
            _ => true,
        }
    }

    /// Takes it a step further.
    pub(crate) fn order_on(&mut self) {
        let order = self.process().orders[0];
        let progress = match (order.kind, order.progress) {
            (Kind::Wake, Progress::Begun) => self.begin_wake(order.given_up),
            (Kind::Wake, Progress::Going) => self.go_on_waking(order.given_up),
            (Kind::GiveUp { undo: false }, Progress::Begun) => {
                let before = self.process().started;
                return self.over(before);
            }
            (Kind::GiveUp { undo: true }, Progress::Begun) if !self.process().started => {
                Progress::Slept(Ok(()))
            }
            (_, Progress::Begun) => self.begin_stop(),
            (_, Progress::Going) => match self.service.phase {
                _ if !self.bus => Progress::Failing,
                Phase::Down => Progress::Slept(Ok(())),
                Phase::Up | Phase::Starting => Progress::Failing,
                Phase::Stopping => Progress::Going,
            },
            (Kind::Close, Progress::Failing) => {
                self.excuse = true;
                return self.over(false);
            }
            (_, Progress::Failing) => {
                let seen = if self.bus {
                    self.service.phase
                } else {
                    Phase::Stopping
                };
                Progress::Slept(Err(seen))
            }
            (_, Progress::Woken(result)) => {
                self.over(order.started);
                return self.report(Message::Woken(result));
            }
            (_, Progress::Slept(result)) => {
                self.over(false);
                return self.report(Message::Slept(result));
            }
        };
        self.process().orders[0].progress = progress;
    }

    fn begin_wake(&mut self, given_up: bool) -> Progress {
        if given_up {
            return Progress::Woken(Err(()));
        }
        if !self.bus {
            self.excuse = true;
            return Progress::Woken(Err(()));
        }
        if self.service.phase == Phase::Up {
            return Progress::Woken(Ok(()));
        }
        self.service.start();
        self.process().orders[0].started = true;
        Progress::Going
    }

    fn go_on_waking(&mut self, given_up: bool) -> Progress {
        if given_up {
            return Progress::Woken(Err(()));
        }
        if !self.bus {
            self.excuse = true;
            return Progress::Woken(Err(()));
        }
        match self.service.phase {
            Phase::Up => Progress::Woken(Ok(())),
            Phase::Starting if self.service.by_itself => Progress::Woken(Ok(())),
            Phase::Down => Progress::Woken(Err(())),
            Phase::Starting | Phase::Stopping => Progress::Going,
        }
    }

    fn begin_stop(&mut self) -> Progress {
        if !self.bus {
            return Progress::Failing;
        }
        if self.service.phase == Phase::Down {
            return Progress::Slept(Ok(()));
        }
        self.service.stop();
        Progress::Going
    }

    /// Only the latest order has the number that counts; and there may be no driver any more.
    pub(crate) fn report(&mut self, message: Message) {
        let is_latest = self.process().orders.is_empty();
        if self.process().stage == Stage::Stopping {
            return;
        }
        if is_latest {
            self.receive(message);
        } else {
            self.new_epoch();
        }
    }

    /// It is over, and has started something, or nothing.
    pub(crate) fn over(&mut self, started: bool) {
        let process = self.process();
        process.orders.remove(0);
        process.started = started;
    }
}
