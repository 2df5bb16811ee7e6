//! The core of a service, told one thing after the other: two bytes for each input. Orders and
//! queries say what they like; gates, probes and closes are carried out as the core says.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use wakeport::core::gate::{Occupancy, Word};
use wakeport::core::lifecycle::{State, Stop, Times};
use wakeport::core::service::{Effect, Fact, Input, Rules, Service, Ticket, Timer};
use wakeport::core::wake_limiter::WakeLimiter;

const TARGETS: usize = 2;

/// The first byte says how long the states last, what queries are good for, and how often the
/// service may be woken.
pub(super) fn property(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let spans = [0, 1, 90, u64::MAX].map(Duration::from_secs);
    let rules = Rules {
        times: Times {
            cooldown: spans[usize::from(first & 3)],
            freeze_after: match first & 12 {
                4 => spans[usize::from(first & 3)] / 2,
                _ => Duration::MAX,
            },
            start_timeout: spans[usize::from(first >> 2 & 3)],
        },
        can_tell: first & 16 == 0,
        can_start: first & 32 == 0,
        busy_limit: spans[usize::from(first >> 2 & 3)],
    };
    let now = wakeport::service::now();
    let wakes = usize::from(first >> 6);
    let limiter = match wakes {
        0 => WakeLimiter::default(),
        wakes => WakeLimiter::new(wakes, Duration::from_secs(10), []),
    };
    let mut play = Play {
        // The second target takes datagrams.
        core: Service::new(rules, TARGETS, limiter, now).eager(1),
        gates: [Word::default(); TARGETS],
        left_at: None,
        now,
        next: 0,
        waiting: BTreeSet::new(),
        rejected: BTreeSet::new(),
        probing: [false; TARGETS],
        querying: false,
        asked: 0,
        may_stop: false,
        asked_at: None,
        busy_limit: rules.busy_limit,
        starts: 0,
        closing: None,
    };
    for pair in rest.chunks_exact(2) {
        play.step(pair[0], pair[1]);
    }
}

struct Play {
    core: Service,
    gates: [Word; TARGETS],
    left_at: Option<Instant>,
    now: Instant,
    /// The number of the next ticket.
    next: u64,
    waiting: BTreeSet<Ticket>,
    rejected: BTreeSet<Ticket>,
    probing: [bool; TARGETS],
    querying: bool,
    /// The number of the last question, and whether it may be stopped now.
    asked: u64,
    may_stop: bool,
    /// When it was asked first since the service has no client.
    asked_at: Option<Instant>,
    busy_limit: Duration,
    /// Orders to start that have not ended.
    starts: usize,
    closing: Option<usize>,
}

impl Play {
    fn step(&mut self, what: u8, value: u8) {
        let target = usize::from(value & 1);
        let phase = super::phase(value);
        match what % 16 {
            0 | 1 => {
                let ticket = self.ticket(target);
                self.tell(Input::Arrived(ticket));
            }
            2 => {
                if let Some(step) = self.gates[target].enter() {
                    self.gates[target] = step.word;
                }
            }
            3 => self.leave(target),
            4 if self.gates[target].inside() > 0 => {
                self.leave(target);
                let ticket = self.ticket(target);
                self.tell(Input::Refused(ticket));
            }
            5 => {
                let gone = self.waiting.pop_first().or(self.rejected.pop_first());
                if let Some(ticket) = gone {
                    self.tell(Input::Left(ticket));
                }
            }
            6 if value == u8::MAX => self.tell(Input::Ending),
            6 if value & 4 == 0 => self.tell(Input::Denied),
            6 => self.tell(Input::Sleep(false)),
            7 => {
                self.starts = self.starts.saturating_sub(1);
                self.tell(Input::Started(if value & 4 == 0 {
                    Ok(())
                } else {
                    Err(())
                }));
            }
            8 => {
                let result = if value & 4 == 0 { Ok(()) } else { Err(phase) };
                self.tell(match (self.core.state(), value & 16) {
                    (State::Freezing { .. }, 0) => Input::Froze(result.map_err(drop)),
                    (State::Thawing { .. }, 0) => Input::Thawed(result),
                    _ => Input::Stopped(result),
                });
            }
            9 if self.probing[target] => {
                self.probing[target] = false;
                self.tell(Input::Answered(target));
            }
            10 => self.tell(Input::Changed),
            11 if self.querying => {
                self.querying = false;
                self.tell(Input::Queried(if value & 4 == 0 {
                    Ok(phase)
                } else {
                    Err(())
                }));
            }
            12 if value & 8 == 0 => self.tell(Input::Gate),
            // One in four is late.
            12 => {
                let number = self.asked.saturating_sub(u64::from(value & 3 == 3));
                let busy = value & 4 == 0;
                self.may_stop |= number == self.asked && !busy;
                self.tell(Input::Busy(number, busy));
            }
            13 => {
                let due = self.core.deadline().unwrap_or(self.now);
                self.now = self.now.max(due);
                self.tick();
            }
            14 => self.tell(Input::Settle),
            _ => {
                self.now += Duration::from_millis(100) * u32::from(value);
                self.tick();
            }
        }
        // More than a few that were given up are never under way.
        while self.starts > 8 {
            self.starts -= 1;
            self.tell(Input::Started(Err(())));
        }
        assert_eq!(self.core.clients().waiting, self.waiting.len());
    }

    fn ticket(&mut self, target: usize) -> Ticket {
        let number = self.next;
        self.next += 1;
        let ticket = Ticket { target, number };
        self.waiting.insert(ticket);
        ticket
    }

    fn leave(&mut self, target: usize) {
        if self.gates[target].inside() > 0 {
            self.gates[target] = self.gates[target].leave(false).word;
            self.left_at = Some(self.now);
        }
    }

    /// Reports the timers that have run out; none of them runs on.
    fn tick(&mut self) {
        let due = |(timer, at): (Timer, Instant)| (at <= self.now).then_some(timer);
        let due: Vec<_> = self.core.timers().filter_map(due).collect();
        for timer in due {
            let before = self.core.state();
            self.may_stop |= timer == Timer::Answer;
            self.tell(Input::Due(timer));
            let mut timers = self.core.timers();
            let again = timers.any(|(other, at)| other == timer && at <= self.now);
            // A connection that has just left may have begun a cooldown that is over already.
            let begun = timer == Timer::Lifecycle && self.core.state() != before;
            assert!(!again || begun, "{timer:?} runs on in {before:?}");
        }
    }

    /// Tells the core, and carries out what it says.
    fn tell(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            let gates = Occupancy::of(self.gates, self.left_at);
            let effects = self.core.handle(input, gates, self.now);
            if let Input::Closed(..) = input {
                self.closing = None;
            }
            for effect in effects {
                next = self.carry_out(effect).or(next);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Report(Fact { from, to, .. }) => {
                assert_ne!(from, to);
                let stops = matches!(to, State::Stopping(Stop::Ours) | State::Freezing { .. });
                if stops && matches!(from, State::Cooling { .. }) {
                    let asked = self.asked_at.unwrap_or(self.now);
                    let over = self.now.duration_since(asked) >= self.busy_limit;
                    assert!(self.may_stop || over, "stopped under work");
                }
                if !matches!(to, State::Cooling { .. }) {
                    self.asked_at = None;
                }
            }
            Effect::AskBusy(number) => {
                assert!(number > self.asked, "an old question");
                (self.asked, self.may_stop) = (number, false);
                self.asked_at = self.asked_at.or(Some(self.now));
            }
            Effect::Admit { ticket, first } => {
                assert!(self.waiting.remove(&ticket), "{ticket:?} does not wait");
                let gate = &mut self.gates[ticket.target];
                *gate = gate.admit(first);
            }
            Effect::Reject(ticket, _) => {
                assert!(self.waiting.remove(&ticket), "{ticket:?} does not wait");
                self.rejected.insert(ticket);
            }
            Effect::Start(ticket) => {
                assert!(self.waiting.contains(&ticket), "{ticket:?} does not wait");
                self.starts += 1;
            }
            Effect::Thaw => {
                let closed = self.gates.iter().all(|gate| !gate.is_open());
                assert!(closed, "thawed with {:?}", self.gates);
            }
            Effect::Stop | Effect::Freeze => {
                let empty = self.gates.iter().all(|gate| gate.inside() == 0);
                let closed = self.gates.iter().all(|gate| !gate.is_open());
                assert!(empty && closed, "stopped with {:?}", self.gates);
            }
            Effect::GiveUp { undo } => {
                let empty = self.gates.iter().all(|gate| gate.inside() == 0);
                assert!(empty || !undo, "undone with {:?}", self.gates);
            }
            Effect::Query { .. } => {
                assert!(!std::mem::replace(&mut self.querying, true), "two queries");
            }
            Effect::Probe(target) => self.probing[target] = true,
            Effect::CancelProbe(target) => self.probing[target] = false,
            Effect::Open(target) => {
                let up = matches!(self.core.state(), State::Awake | State::Cooling { .. });
                assert!(up && self.closing.is_none(), "opened for no service");
                self.gates[target] = self.gates[target].open();
            }
            Effect::Close(target) => self.gates[target] = self.gates[target].close(),
            Effect::CloseEmpty(target) => {
                assert_eq!(self.closing.replace(target), None, "two at a time");
                let closed = self.gates[target].close_empty();
                self.gates[target] = closed.unwrap_or(self.gates[target]);
                return Some(Input::Closed(target, closed.is_some()));
            }
            Effect::Watch => {
                self.gates = self.gates.map(Word::watch);
                return Some(Input::Gate);
            }
        }
        None
    }
}
