//! How long wakes took.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The upper bounds of the buckets, in seconds: from a daemon to a virtual machine.
pub(in crate::report) const BOUNDS: [f64; 13] = [
    0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];

/// The median is that of the latest wakes.
const RECENT: usize = 100;

/// The wakes, and how long they took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wakes {
    /// Wakes that succeeded.
    pub total: u64,
    /// Their total time, in seconds.
    pub seconds: f64,
    /// The latest ones, in seconds, the last one last.
    pub recent: Vec<f64>,
    /// All of them by duration; one beyond the last bound is in none.
    pub buckets: Vec<Bucket>,
    /// When the latest starts were ordered, the last one last: as many as `--wake-rate` counts.
    pub ordered: Vec<Timestamp>,
    /// Before that there is no other one, as there were too many.
    pub not_before: Option<Timestamp>,
}

/// Wakes that took about as long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// So many seconds at most, and more than in the bucket before.
    pub le: f64,
    /// How many wakes.
    pub count: u64,
}

impl Default for Wakes {
    fn default() -> Self {
        Self {
            total: 0,
            seconds: 0.0,
            recent: Vec::new(),
            buckets: BOUNDS.map(|le| Bucket { le, count: 0 }).to_vec(),
            ordered: Vec::new(),
            not_before: None,
        }
    }
}

impl Wakes {
    /// One more, that took so long.
    pub fn add(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        self.total += 1;
        self.seconds += took;
        if let Some(bucket) = self.buckets.iter_mut().find(|bucket| took <= bucket.le) {
            bucket.count += 1;
        }
        self.recent.push((took * 1e6).round() / 1e6);
        let surplus = self.recent.len().saturating_sub(RECENT);
        self.recent.drain(..surplus);
    }

    /// An order to start; so many of the latest ones are kept.
    pub fn order(&mut self, at: Timestamp, keep: usize) {
        self.ordered.push(at);
        let surplus = self.ordered.len().saturating_sub(keep);
        self.ordered.drain(..surplus);
    }

    /// How long ago the latest starts were ordered. One in the future, as the clock was set back, is
    /// left out: it would count for too long.
    pub fn ages(&self, now: Timestamp) -> Vec<Duration> {
        let ages = self.ordered.iter().map(|at| now.duration_since(*at));
        ages.filter_map(|age| age.try_into().ok()).collect()
    }

    /// What the last one took, in seconds.
    pub fn last(&self) -> Option<f64> {
        self.recent.last().copied()
    }

    /// What half of the latest ones took at most, in seconds.
    pub fn median(&self) -> Option<f64> {
        let mut sorted = self.recent.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => None,
            n if n % 2 == 1 => Some(sorted[middle]),
            _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        }
    }

    /// Starts counting anew where the histogram does not add up.
    pub(super) fn mend(&mut self) {
        self.total = self.total.min(super::MOST);
        let counted = self.buckets.iter().map(|bucket| u128::from(bucket.count));
        let known = self.buckets.iter().map(|bucket| bucket.le).eq(BOUNDS);
        let sane = known
            && counted.sum::<u128>() <= self.total.into()
            && self.seconds >= 0.0
            && self.recent.iter().all(|took| *took >= 0.0);
        if !sane {
            *self = Self {
                ordered: std::mem::take(&mut self.ordered),
                not_before: self.not_before,
                ..Self::default()
            };
        }
        let surplus = self.recent.len().saturating_sub(RECENT);
        self.recent.drain(..surplus);
    }
}
