//! What a service works with, and its core by that.

use std::sync::Arc;

use super::now;
use super::reporter::Reporter;
use super::targets::Targets;
use crate::backend::Backend;
use crate::config::ServiceConfig;
use crate::core::lifecycle::Times;
use crate::core::service::{Rules, Service};
use crate::core::wake_limiter::WakeLimiter;
use crate::net::dial::{Dialer, Target};
use crate::program::Launcher;

/// What a service does its work with, and may be replaced while it runs. What is under way with those
/// before keeps them, and their backend, until it ends.
#[derive(Debug)]
pub struct Settings {
    /// What was given.
    pub config: ServiceConfig,
    /// What starts and stops it.
    pub backend: Backend,
    /// Where its connections go.
    pub targets: Vec<Arc<Target>>,
    /// What connects to them.
    pub dialer: Dialer,
    /// What runs the hooks that are asked.
    pub launcher: Launcher,
}

impl Settings {
    /// A core for these targets, that knows only how often its service was woken.
    pub(super) fn core(&self, targets: &Targets, reporter: &Reporter) -> Service {
        let rules = Rules {
            times: Times {
                cooldown: self.config.timing.cooldown,
                freeze_after: self.config.timing.freeze_after,
                start_timeout: self.config.timing.start_timeout,
            },
            can_tell: self.backend.can_tell(),
            can_start: self.backend.can_start(),
            busy_limit: self.config.busy.limit,
        };
        let limiter = self.config.wake_rate.map(|rate| {
            let ages = reporter.recorder.earlier_wakes().into_iter();
            let spent = ages.filter_map(|age| now().checked_sub(age));
            WakeLimiter::new(rate.wakes, rate.per, spent)
        });
        let core = Service::new(rules, targets.0.len(), limiter.unwrap_or_default(), now());
        // Of datagrams, those that wake nothing are passed on while it is awake.
        let all = targets.0.iter().enumerate();
        let eager =
            all.filter(|(_, known)| known.target.is_udp() && self.targets.contains(&known.target));
        eager.fold(core, |core, (index, _)| core.eager(index))
    }
}
