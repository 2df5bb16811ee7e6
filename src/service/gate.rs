//! The gate of a target, by which connections enter and leave without a message. What a step does to a gate's word is decided in [`crate::core::gate`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::now;
use crate::core::gate::{Occupancy, Step, Word};
use crate::net::datagram::Dropped;
use crate::report::status::Tally;
use crate::util::per_thread::PerThread;

/// The gate of one target, and what has passed it.
#[derive(Debug)]
pub(super) struct Gate {
    word: AtomicU64,
    /// When a connection left last and none was inside then, in nanoseconds since `origin`; 0 is never.
    left_at: AtomicU64,
    origin: Instant,
    /// The last connection that leaves is told at once: the cooldown is short.
    tell_last: AtomicBool,
    /// Datagrams were not passed on since that was asked.
    has_dropped: AtomicBool,
    carried: PerThread<Carried>,
}

/// The sum of what connections have carried.
#[derive(Debug, Default)]
struct Carried {
    up: AtomicU64,
    down: AtomicU64,
    idle: AtomicU64,
    vanished: AtomicU64,
    dropped: [AtomicU64; Dropped::ALL.len()],
}

/// What a connection has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes from the client to the target.
    pub up: u64,
    /// Bytes from the target to the client.
    pub down: u64,
    /// Whether it was closed because no byte moved, as a number to be added.
    pub idle: u32,
    /// Whether it was closed because a peer had timed out, as a number to be added.
    pub vanished: u32,
}

impl Gate {
    /// A closed gate.
    pub(super) fn new(cooldown: Duration) -> Self {
        let gate = Self {
            word: AtomicU64::new(0),
            left_at: AtomicU64::new(0),
            origin: now(),
            tell_last: AtomicBool::new(false),
            has_dropped: AtomicBool::new(false),
            carried: PerThread::default(),
        };
        gate.follow(cooldown);
        gate
    }

    /// Tells of the last connection that leaves if a sample would be late for the cooldown.
    pub(super) fn follow(&self, cooldown: Duration) {
        let tell_last = cooldown < Duration::from_secs(10);
        self.tell_last.store(tell_last, Ordering::Relaxed);
    }

    /// A connection enters if the gate is open; whether the service has to be told.
    pub(super) fn enter(&self) -> Option<bool> {
        Some(self.step(Word::enter)?.tells)
    }

    /// A connection leaves; whether the service has to be told.
    pub(super) fn leave(&self, traffic: Traffic) -> bool {
        self.count(traffic);
        let tell_last = self.tell_last.load(Ordering::Relaxed);
        let mut word = self.word();
        loop {
            let step = word.leave(tell_last);
            if step.word.inside() == 0 {
                // First: a gate that is seen empty tells since when.
                self.is_left();
            }
            let (from, to) = (word.0, step.word.0);
            let left =
                (self.word).compare_exchange_weak(from, to, Ordering::AcqRel, Ordering::Acquire);
            match left {
                Ok(_) => return step.tells,
                Err(other) => word = Word(other),
            }
        }
    }

    /// The last connection leaves.
    fn is_left(&self) {
        let nanos = now().saturating_duration_since(self.origin).as_nanos();
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX).max(1);
        self.left_at.fetch_max(nanos, Ordering::Release);
    }

    /// Closes the gate unless a connection is inside; whether it is closed now.
    pub(super) fn close_empty(&self) -> bool {
        self.update(Word::close_empty).is_some()
    }

    pub(super) fn is_open(&self) -> bool {
        self.word().is_open()
    }

    pub(super) fn inside(&self) -> usize {
        self.word().inside()
    }

    /// When a connection left last and none was inside then.
    fn left_at(&self) -> Option<Instant> {
        match self.left_at.load(Ordering::Acquire) {
            0 => None,
            nanos => Some(self.origin + Duration::from_nanos(nanos)),
        }
    }

    fn word(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    /// Counts what a connection has carried.
    pub(super) fn count(&self, traffic: Traffic) {
        let add = |counter: &AtomicU64, n: u64| {
            if n > 0 {
                counter.fetch_add(n, Ordering::Relaxed);
            }
        };
        let own = self.carried.own();
        add(&own.up, traffic.up);
        add(&own.down, traffic.down);
        add(&own.idle, traffic.idle.into());
        add(&own.vanished, traffic.vanished.into());
    }

    /// Counts datagrams that were not passed on; whether the service has to be told, which it is once until it asks.
    pub(super) fn dropped(&self, why: Dropped, count: u64) -> bool {
        self.carried.own().dropped[why as usize].fetch_add(count, Ordering::Relaxed);
        !self.has_dropped.swap(true, Ordering::AcqRel)
    }

    pub(super) fn has_dropped(&self) -> bool {
        self.has_dropped.load(Ordering::Relaxed)
    }

    /// The next datagram that is not passed on tells again. Those before are in the totals that are read then.
    pub(super) fn hear_of_drops(&self) {
        self.has_dropped.swap(false, Ordering::AcqRel);
    }

    /// Makes one step, if there is one; what it was.
    fn step(&self, step: impl Fn(Word) -> Option<Step>) -> Option<Step> {
        let before = self.update(|word| step(word).map(|step| step.word))?;
        step(before)
    }

    /// Makes a step that nothing refuses.
    pub(super) fn set(&self, to: impl Fn(Word) -> Word) {
        self.update(|word| Some(to(word)));
    }

    /// The word before, unless it is left as it is.
    fn update(&self, to: impl Fn(Word) -> Option<Word>) -> Option<Word> {
        let to = |word| to(Word(word)).map(|word| word.0);
        let updated = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, to);
        updated.ok().map(Word)
    }
}

/// What several gates say together.
pub(super) fn occupancy<'a>(gates: impl Iterator<Item = &'a Gate> + Clone) -> Occupancy {
    // What is read first is never newer than what is read then.
    let words: Vec<Word> = gates.clone().map(Gate::word).collect();
    Occupancy::of(words, gates.filter_map(Gate::left_at).max())
}

/// How many connections have entered several gates, modulo 2^31, and what else there is in a tally of
/// these gates.
pub(super) fn totals<'a>(gates: impl Iterator<Item = &'a Gate>) -> (u32, Tally) {
    let (mut entered, mut totals) = (0_u32, Tally::default());
    for gate in gates {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        entered = entered.wrapping_add(gate.word().entered());
        for carried in gate.carried.all() {
            totals.up += read(&carried.up);
            totals.down += read(&carried.down);
            totals.idle += read(&carried.idle);
            totals.vanished += read(&carried.vanished);
            for (total, counter) in totals.dropped.iter_mut().zip(&carried.dropped) {
                *total += read(counter);
            }
        }
    }
    (entered, totals)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;

    /// Connections come and go on two threads while a third closes the gate and opens it again: none
    /// is ever inside a gate that has closed empty.
    #[test]
    fn a_gate_that_has_closed_empty_stays_empty() {
        let gate = Arc::new(Gate::new(Duration::MAX));
        let (inside, rounds) = (Arc::new(AtomicUsize::new(0)), 20_000);
        gate.set(Word::open);
        let visitors: Vec<_> = (0..2)
            .map(|_| {
                let (gate, inside) = (gate.clone(), inside.clone());
                thread::spawn(move || {
                    let mut entered = 0;
                    while entered < rounds {
                        if gate.enter().is_some() {
                            inside.fetch_add(1, Ordering::SeqCst);
                            entered += 1;
                            inside.fetch_sub(1, Ordering::SeqCst);
                            gate.leave(Traffic::default());
                        } else {
                            // Not each time: on a busy machine others run for a while then.
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        while visitors.iter().any(|visitor| !visitor.is_finished()) {
            if gate.close_empty() {
                assert_eq!(inside.load(Ordering::SeqCst), 0);
                assert_eq!(occupancy([&*gate].into_iter()).inside, 0);
                gate.set(Word::open);
            }
        }
        for visitor in visitors {
            visitor.join().unwrap();
        }
        let occupancy = occupancy([&*gate].into_iter());
        assert_eq!((occupancy.inside, occupancy.entered), (0, 2 * rounds));
        assert!(occupancy.left_at.is_some());
    }
}
