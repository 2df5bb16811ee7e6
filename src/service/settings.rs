//! What a service works with, and its core by that.

use std::sync::Arc;

use super::guard::Guard;
use super::now;
use super::probe::Prober;
use super::reporter::{About, Reporter};
use crate::backend::Backend;
use crate::config::Timing;
use crate::core::lifecycle::Times;
use crate::core::service::{Rules, Service};
use crate::core::wake_limiter::WakeLimiter;
use crate::net::dial::Target;

/// What a service does its work with, and may be replaced while it runs.
#[derive(Debug)]
pub struct Settings {
    /// What starts and stops it.
    pub backend: Backend,
    /// Where its connections go.
    pub targets: Vec<Arc<Target>>,
    /// What asks whether they answer.
    pub prober: Prober,
    /// What may keep it awake without clients.
    pub guard: Guard,
    /// How long things may take.
    pub timing: Timing,
    /// What it is called, and how often it may be woken.
    pub about: About,
}

impl Settings {
    /// A core for so many targets, that knows only how often its service was woken.
    pub(super) fn core(&self, targets: usize, reporter: &Reporter) -> Service {
        let rules = Rules {
            times: Times {
                cooldown: self.timing.cooldown,
                start_timeout: self.timing.start_timeout,
            },
            can_tell: self.backend.can_tell(),
            can_start: self.backend.can_start(),
            busy_limit: self.guard.limit(),
        };
        let limiter = reporter.wakes().map(|(rate, ages)| {
            let spent = ages.into_iter().filter_map(|age| now().checked_sub(age));
            WakeLimiter::new(rate.wakes, rate.per, spent)
        });
        Service::new(rules, targets, limiter.unwrap_or_default(), now())
    }
}
