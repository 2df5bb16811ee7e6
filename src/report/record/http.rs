//! The requests of a service that speaks HTTP.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::MOST;
use super::wakes::{BOUNDS, Bucket};

/// What is counted of requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Http {
    /// By the host as it is configured: hosts that only clients name would be without number.
    pub hosts: BTreeMap<String, Requests>,
    /// The connections that came by this service's listeners.
    pub connections: Connections,
    /// What came over them and belongs to no service.
    pub unrouted: u64,
}

/// The requests for one host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requests {
    /// Let through, or being answered by us.
    pub active: u64,
    /// Waiting for the service.
    pub waiting: u64,
    /// Ended so far, by the class of their status: `2xx`.
    pub codes: BTreeMap<String, u64>,
    /// How long those have waited that did.
    pub waits: Waits,
    /// Answered with the waiting page.
    pub pages: u64,
    /// Quiet ones, which are in no other count.
    pub quiet: u64,
    /// Sent once more.
    pub retries: u64,
    /// Answered by us because the service failed them, by status.
    pub upstream_errors: BTreeMap<String, u64>,
}

/// How long requests have waited.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Waits {
    /// How many.
    pub total: u64,
    /// All together, in seconds.
    pub seconds: f64,
    /// By duration; one beyond the last bound is in none.
    pub buckets: Vec<Bucket>,
}

/// Connections over which requests come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connections {
    /// Without a request.
    pub idle: u64,
    /// With at least one.
    pub active: u64,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            total: 0,
            seconds: 0.0,
            buckets: BOUNDS.map(|le| Bucket { le, count: 0 }).to_vec(),
        }
    }
}

impl Http {
    /// What is there only while a process is, is there no more.
    pub fn end(&mut self) {
        self.connections = Connections::default();
        for requests in self.hosts.values_mut() {
            (requests.active, requests.waiting) = (0, 0);
        }
    }

    /// Limits what a file may hold to what can be counted with.
    pub(super) fn mend(&mut self) {
        let Self {
            hosts,
            connections,
            unrouted,
        } = self;
        for count in [&mut connections.idle, &mut connections.active, unrouted] {
            *count = (*count).min(MOST);
        }
        hosts.values_mut().for_each(Requests::mend);
    }
}

impl Requests {
    /// How many have ended.
    pub fn total(&self) -> u64 {
        self.codes.values().sum()
    }

    fn mend(&mut self) {
        self.codes.retain(|code, _| CODES.contains(&&**code));
        self.upstream_errors
            .retain(|code, _| FAILURES.contains(&&**code));
        let counts = [
            &mut self.active,
            &mut self.waiting,
            &mut self.pages,
            &mut self.quiet,
            &mut self.retries,
            &mut self.waits.total,
        ];
        let by_code = self
            .codes
            .values_mut()
            .chain(self.upstream_errors.values_mut());
        for count in counts.into_iter().chain(by_code) {
            *count = (*count).min(MOST);
        }
        let waits = &self.waits;
        let counted = waits.buckets.iter().map(|bucket| u128::from(bucket.count));
        let sane = waits.buckets.iter().map(|bucket| bucket.le).eq(BOUNDS)
            && counted.sum::<u128>() <= waits.total.into()
            && waits.seconds >= 0.0;
        if !sane {
            self.waits = Waits::default();
        }
    }
}

/// The classes of a status.
pub const CODES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The statuses with which we answer because the service failed a request.
pub const FAILURES: [&str; 3] = ["502", "503", "504"];
