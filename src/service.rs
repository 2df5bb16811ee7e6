//! The one loop of a service: events in, the lifecycle asked, actions performed. Owns the
//! waiting clients, the clock and all that is known of the service; everybody else sends it a
//! [`Message`] or holds a [`Permit`].

mod books;
mod door;
mod guests;
mod message;
mod orders;
mod permit;
pub mod probe;
mod story;
#[cfg(test)]
mod tests;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::{Backend, Failure, StopScope};
use crate::config::{Timing, WakeRate};
use crate::core::lifecycle::{Action, ClientCounts, Event, Lifecycle, Phase, State, Stop, Times};
use crate::core::wake_limiter::WakeLimiter;
use crate::net::dial::Target;
use crate::service::probe::Prober;

pub use books::Recorder;
use door::Door;
pub use door::Waiter;
use guests::ConnectionTable;
pub use message::{Message, Ticket, Traffic};
pub use permit::{Handle, Permit, Verdict};
pub use story::Reporter;

/// How often a look is taken where signals should have told: a lost one costs no more.
const SLOW_POLL: Duration = Duration::from_secs(30);
/// The same, while somebody waits for the answer.
const QUICK_POLL: Duration = Duration::from_secs(1);

/// How long after somebody was refused we stay at least.
const REFUSED_LINGER: Duration = Duration::from_secs(10);

/// Drives one service through its life.
pub struct Driver {
    lifecycle: Lifecycle,
    backend: Backend,
    prober: Prober,
    start_timeout: Duration,
    tasks: TaskTracker,
    inbox: mpsc::UnboundedReceiver<Message>,
    handle: Handle,
    idle: watch::Sender<bool>,
    doors: Vec<Door>,
    guests: ConnectionTable,
    /// The door of the client that the service was woken for.
    woken_for: usize,
    /// The order under way or last carried out; the next one waits for it.
    order: Option<JoinHandle<StopScope>>,
    given_up: CancellationToken,
    /// The number of that order.
    orders: u64,
    /// Counts orders begun and ended: a look taken across one of them says nothing.
    epoch: u64,
    looking: bool,
    look_again: bool,
    look_at: Option<Instant>,
    /// The service was seen down since it fell asleep.
    seen_down: bool,
    wake_rate: Option<WakeRate>,
    /// Somebody was refused, and others may follow: as long as that we stay.
    stay_until: Option<Instant>,
    story: Reporter,
}

impl Driver {
    /// A driver for the service behind `backend`, with one door for each of `targets`.
    pub fn new(
        backend: Backend,
        targets: Vec<Arc<Target>>,
        prober: Prober,
        timing: &Timing,
        tasks: TaskTracker,
        story: Reporter,
    ) -> Self {
        let times = Times {
            cooldown: timing.cooldown,
            start_timeout: timing.start_timeout,
        };
        let (post, inbox) = mpsc::unbounded_channel();
        Self {
            lifecycle: Lifecycle::new(times),
            backend,
            prober,
            start_timeout: timing.start_timeout,
            tasks,
            inbox,
            handle: Handle::new(post),
            idle: watch::Sender::new(false),
            doors: targets.into_iter().map(Door::new).collect(),
            guests: ConnectionTable::default(),
            woken_for: 0,
            order: None,
            given_up: CancellationToken::new(),
            orders: 0,
            epoch: 0,
            looking: false,
            look_again: false,
            look_at: None,
            seen_down: false,
            wake_rate: None,
            stay_until: None,
            story,
        }
    }

    /// Wakes the service at most so often, what is known of earlier lives included.
    pub fn waking_at_most(mut self, rate: Option<WakeRate>) -> Self {
        if let Some(WakeRate { wakes, per }) = rate {
            let (now, ages) = (now(), self.story.earlier_wakes());
            let spent = ages.into_iter().filter_map(|age| now.checked_sub(age));
            let budget = WakeLimiter::new(wakes, per, spent);
            self.lifecycle = self.lifecycle.limited(budget);
            self.wake_rate = rate;
        }
        self
    }

    /// How clients reach this driver.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Says when the process might exit; [`Handle::may_exit`] then says whether it may.
    pub fn idle(&self) -> watch::Receiver<bool> {
        self.idle.subscribe()
    }

    /// Runs until told to close.
    pub async fn run(mut self) {
        let (backend, handle) = (self.backend.clone(), self.handle.clone());
        let watch = self.tasks.spawn(async move {
            backend.watch(move || handle.post(Message::Changed)).await;
        });
        let _watch = tokio_util::task::AbortOnDropHandle::new(watch);
        // One alarm for all timers: arming it anew costs a wake-up of this very thread.
        let mut alarm = pin!(sleep(Duration::ZERO));
        let mut next = self.inbox.try_recv().ok();
        loop {
            while let Some(message) = next {
                if let Message::Close { sleep, limit } = message {
                    return self.close(sleep, limit).await;
                }
                self.receive(message);
                next = self.inbox.try_recv().ok();
            }
            self.tick();
            self.settle();
            let timer = self.next_timer().map(Into::into);
            if let Some(at) = timer.filter(|&at| at != alarm.deadline()) {
                alarm.as_mut().reset(at);
            }
            next = tokio::select! {
                biased;
                message = self.inbox.recv() => message,
                () = alarm.as_mut(), if timer.is_some() => None,
            };
        }
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Knocked(ticket) => self.guests.knocks(ticket),
            Message::Barred(listener, peer) => {
                self.story.barred(&listener, peer);
                self.stay();
            }
            Message::Arrived(waiter) => {
                self.guests.waits(waiter.ticket);
                self.doors[waiter.ticket.door].wait(waiter);
                self.tell(Event::Arrived);
                // What a look under way says is as good.
                if self.lifecycle.wants_a_look(self.crowd()) && !self.looking {
                    self.look();
                }
            }
            Message::Refused(waiter, why) => {
                self.guests.returns(waiter.ticket);
                let door = &mut self.doors[waiter.ticket.door];
                door.missed(why);
                door.close();
                door.wait(waiter);
                self.look();
                self.tell(Event::Arrived);
            }
            Message::Left(ticket, traffic) => {
                if self.doors[ticket.door].leave(ticket) {
                    self.story.gone();
                }
                // Who was ended as idle may have been no client yet.
                if self.guests.leaves(ticket) || traffic.idle > 0 {
                    self.story.left(traffic);
                }
                self.tell(Event::Left);
            }
            // One that was given up has been answered for already, but has ended only now.
            Message::Woken(number, _) | Message::Slept(number, _) if number != self.orders => {
                self.epoch += 1;
            }
            Message::Woken(_, result) => {
                self.epoch += 1;
                match result {
                    Ok(()) => {
                        self.tell(Event::Started);
                        // It may be gone again by the time its start job has ended.
                        self.look();
                    }
                    Err(why) => {
                        self.story.wake_fails(why.0);
                        self.tell(Event::WakeFailed);
                    }
                }
            }
            Message::Slept(_, result) => {
                self.epoch += 1;
                match result {
                    Ok(freed) => {
                        if let State::Stopping(_) = self.lifecycle.state() {
                            self.story.slept(freed);
                        }
                        self.tell(Event::Slept);
                    }
                    Err((why, phase)) => {
                        self.story.sleep_failed(&why.0);
                        self.tell(Event::SleepFailed(phase));
                    }
                }
            }
            Message::Answered(door, probe, answer) => {
                if self.doors[door].answered(probe, answer) {
                    self.tell(Event::Ready);
                    self.serve();
                }
            }
            Message::Missed(door, probe, why) => self.doors[door].missed_by(probe, why),
            Message::Changed => self.look(),
            Message::Looked(epoch, seen, why) => {
                let again = std::mem::take(&mut self.look_again);
                self.looking = false;
                let is_fresh = epoch == self.epoch;
                if is_fresh {
                    self.looked(seen, why);
                }
                if again || !is_fresh {
                    self.look();
                }
            }
            Message::MayExit(reply) => {
                let _ = reply.send(self.is_idle());
            }
            Message::Record(reply) => {
                let _ = reply.send(self.story.record());
            }
            Message::Close { .. } => (),
        }
    }

    /// Reports an event to the lifecycle and does what it says.
    fn tell(&mut self, event: Event) {
        let before = self.lifecycle.state();
        let action = self.lifecycle.handle(event, self.crowd(), now());
        let after = self.lifecycle.state();
        self.keep_count(action);
        if before != after {
            self.enter(event, before, after);
        }
        match action {
            Some(Action::Wake) => self.wake(),
            Some(Action::Sleep) => self.sleep(),
            Some(Action::Admit) => self.serve(),
            Some(Action::TurnAway) => {
                let turned_away = self.turn_all_away();
                let failed = matches!(after, State::Failed { retry_at, .. } if now() < retry_at);
                match self.wake_rate.filter(|_| !failed) {
                    Some(rate) => {
                        self.story.rationed(turned_away, rate, now());
                        self.stay();
                    }
                    None => self.story.turned_away(turned_away),
                }
            }
            Some(Action::GiveUp { undo }) => {
                let turned_away = self.turn_all_away();
                self.story.turned_away(turned_away);
                self.give_up(undo);
            }
            None => (),
        }
    }

    fn enter(&mut self, event: Event, before: State, after: State) {
        if !matches!(after, State::Awake | State::Cooling { .. }) {
            self.doors.iter_mut().for_each(Door::close);
        }
        // What was seen before it fell asleep may be over.
        if after != State::Asleep || !matches!(event, Event::Seen(_)) {
            self.seen_down = false;
        }
        let first = self.doors.iter().find_map(Door::first);
        self.story.turn(event, before, after, first, now());
        self.look_at = None;
    }

    fn crowd(&self) -> ClientCounts {
        let waiting = self.doors.iter().map(Door::waiting).sum();
        ClientCounts {
            waiting,
            connected: self.guests.connected(),
        }
    }

    // -- clients

    /// Lets clients through where their target answers, and asks it where somebody waits.
    fn serve(&mut self) {
        let (awake, probing) = match self.lifecycle.state() {
            State::Awake => (true, true),
            State::Waking { started, .. } => (false, started),
            State::Asleep | State::Cooling { .. } | State::Stopping(_) | State::Failed { .. } => {
                (false, false)
            }
        };
        // That ends as well, should nobody ever see the service.
        let waits_for_a_look = self.lifecycle.wants_a_look(self.crowd());
        for (index, door) in self.doors.iter_mut().enumerate() {
            if awake {
                self.story.admitted(door.admit(&mut self.guests));
            }
            if awake || waits_for_a_look {
                door.set_limits(now().checked_add(self.start_timeout));
            }
            if !awake {
                door.hang_up();
            }
            let wanted = door.waiting() > 0 || !awake && index == self.woken_for;
            if !(probing && wanted && !door.is_open()) {
                door.stop_asking();
            } else if !door.is_asking() {
                door.ask(index, &self.prober, &self.handle, &self.tasks);
            }
        }
    }

    fn turn_all_away(&mut self) -> usize {
        let (doors, guests) = (self.doors.iter_mut(), &mut self.guests);
        doors.map(|door| door.turn_all_away(guests)).sum()
    }

    /// Keeps the count of wakes, where they are limited.
    fn keep_count(&mut self, action: Option<Action>) {
        let Some(WakeRate { wakes, .. }) = self.wake_rate else {
            return;
        };
        if action == Some(Action::Wake) {
            self.story.wakes(wakes);
        }
        let now = now();
        let until = self.lifecycle.no_wake_until(now);
        self.story.no_wake_until(until, now);
    }

    /// Stays for a while: one process for all who are refused, and not one for each.
    fn stay(&mut self) {
        self.stay_until = now().checked_add(REFUSED_LINGER);
    }

    // -- looks

    /// Has somebody look at the service. One look at a time.
    fn look(&mut self) {
        self.look_at = None;
        let (waking, started) = match self.lifecycle.state() {
            State::Waking { started, .. } => (true, started),
            State::Asleep | State::Awake | State::Cooling { .. } => (false, false),
            State::Stopping(_) | State::Failed { .. } => (false, false),
        };
        // Where only an answer tells that the service is up, the probe asks already.
        if waking && !self.backend.can_tell() {
            return;
        }
        if self.looking {
            // The one under way may have passed by the change.
            self.look_again = true;
            return;
        }
        self.looking = true;
        let (backend, handle, epoch) = (self.backend.clone(), self.handle.clone(), self.epoch);
        self.tasks.spawn(async move {
            let seen = backend.query().await;
            let why = match seen {
                Ok(Phase::Down) if started => backend.failure_reason().await,
                _ => None,
            };
            handle.post(Message::Looked(epoch, seen, why));
        });
    }

    fn looked(&mut self, seen: Result<Phase, Failure>, why: Option<String>) {
        match seen {
            Ok(phase) => {
                self.story.looked();
                if let Some(why) = why {
                    self.story.wake_fails(why);
                }
                self.seen_down = phase == Phase::Down;
                self.tell(Event::Seen(phase));
                // Somebody else is at it: what comes of it is asked for, but not all the time.
                let waited_for = self.lifecycle.wants_a_look(self.crowd());
                if waited_for || self.lifecycle.state() == State::Asleep && !self.seen_down {
                    self.look_at = now().checked_add(QUICK_POLL);
                }
            }
            Err(why) => {
                self.story.look_failed(&why.0);
                self.look_at = now().checked_add(QUICK_POLL);
            }
        }
    }

    fn is_idle(&self) -> bool {
        let nothing_to_do = match self.lifecycle.state() {
            State::Asleep => self.seen_down,
            // systemd tries again for the next client, if that one starts us as well.
            State::Failed { undoing, .. } => !undoing && !self.backend.can_start(),
            State::Waking { .. } | State::Awake | State::Cooling { .. } | State::Stopping(_) => {
                false
            }
        };
        nothing_to_do && self.guests.is_empty() && self.stay_until.is_none()
    }

    // -- time

    fn next_timer(&self) -> Option<Instant> {
        let limits = self.doors.iter().filter_map(Door::limit);
        let others = [
            self.lifecycle.deadline(),
            self.look_at,
            self.stay_until,
            self.story.next_word(),
        ];
        others.into_iter().flatten().chain(limits).min()
    }

    fn tick(&mut self) {
        let now = now();
        if self.lifecycle.deadline().is_some_and(|at| at <= now) {
            if matches!(self.lifecycle.state(), State::Waking { .. })
                && let Some(why) = self.doors[self.woken_for].why_not()
            {
                self.story
                    .wake_fails(format!("it does not answer in time: {why}"));
            }
            self.tell(Event::Due);
        }
        if self.look_at.is_some_and(|at| at <= now) {
            self.look();
        }
        self.stay_until = self.stay_until.filter(|&at| at > now);
        for index in 0..self.doors.len() {
            let turned_away = self.doors[index].turn_away_at(now, &mut self.guests);
            if turned_away > 0 {
                self.story.gave_up(&self.doors[index], turned_away);
                self.tell(Event::Left);
            }
        }
    }

    /// After every event: what follows from the state as it is now.
    fn settle(&mut self) {
        self.serve();
        self.keep_count(None);
        let state = self.lifecycle.state();
        if self.looking {
            // What comes of it is known in a moment.
        } else if state == State::Asleep && !self.seen_down && self.look_at.is_none() {
            self.look();
        } else if self.backend.can_tell() {
            let anxious = matches!(
                state,
                State::Waking { started: true, .. } | State::Stopping(Stop::Theirs)
            );
            let at = now() + if anxious { QUICK_POLL } else { SLOW_POLL };
            self.look_at = Some(self.look_at.map_or(at, |earlier| earlier.min(at)));
        }
        let is_idle = self.is_idle();
        self.idle
            .send_if_modified(|idle| std::mem::replace(idle, is_idle) != is_idle);
        self.story.publish(state, self.crowd(), now());
    }
}

/// Tokio's clock, so that tests can pause it.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
