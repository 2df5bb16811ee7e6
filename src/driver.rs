//! The one loop of a service: events in, the lifecycle asked, actions performed. Owns the
//! waiting clients, the clock and all that is known of the service; everybody else sends it a
//! [`Message`] or holds a [`Permit`].

mod door;
mod permit;
mod story;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::{Backend, Extent, Failure, WakeOrder};
use crate::config::Timing;
use crate::dial::Target;
use crate::lifecycle::{Action, Crowd, Event, Lifecycle, Phase, State, Stop, Times};
use crate::probe::{Answer, Prober};

use door::{Door, Waiter};
pub use permit::{Handle, Permit, Verdict};
pub use story::Story;

/// What the driver is told. Messages are taken in the order in which they were sent, and that
/// order is the only one there is.
#[derive(Debug)]
pub enum Message {
    /// A client came in.
    Arrived(Waiter),
    /// A client that was let through could not reach the target, and waits again.
    Refused(Waiter, String),
    /// A client is gone.
    Left(Ticket, Traffic),
    /// The order to start has ended.
    Woken(Result<(), Failure>),
    /// The order to stop has ended; after a failure with what the service does now.
    Slept(Result<(), (Failure, Phase)>),
    /// A target answers.
    Answered(usize, u64, Answer),
    /// A target does not answer yet, and why.
    Missed(usize, u64, String),
    /// The service may have changed by itself.
    Changed,
    /// Somebody looked, and if the service is down, why. Only counts if nothing was ordered in
    /// the meantime.
    Looked(u64, Result<Phase, Failure>, Option<String>),
    /// Whether we may exit, everything before this message counted.
    MayExit(oneshot::Sender<bool>),
    /// The process ends: finish what is under way, sleep if told to, and answer.
    Close {
        /// Put the service to sleep first.
        sleep: bool,
        /// How long what is under way may take.
        limit: Duration,
    },
}

/// A client, as long as it is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// The door it came in by: the index of its target.
    pub door: usize,
    /// Smaller is earlier.
    pub number: u64,
}

/// What a client's connection has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes from the client to the target.
    pub up: u64,
    /// Bytes from the target to the client.
    pub down: u64,
}

/// How often a look is taken where signals should have told: a lost one costs no more.
const SLOW_POLL: Duration = Duration::from_secs(30);
/// The same, while somebody waits for the answer.
const QUICK_POLL: Duration = Duration::from_secs(1);

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
    connected: HashSet<Ticket>,
    /// The door of the client that the service was woken for.
    woken_for: usize,
    /// The order under way or last carried out; the next one waits for it.
    order: Option<JoinHandle<Extent>>,
    given_up: CancellationToken,
    /// Counts orders begun and ended: a look taken across one of them says nothing.
    epoch: u64,
    looking: bool,
    look_at: Option<Instant>,
    /// The service was seen down since it fell asleep.
    seen_down: bool,
    story: Story,
}

impl Driver {
    /// A driver for the service behind `backend`, with one door for each of `targets`.
    pub fn new(
        backend: Backend,
        targets: Vec<Arc<Target>>,
        prober: Prober,
        timing: &Timing,
        tasks: TaskTracker,
        story: Story,
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
            connected: HashSet::new(),
            woken_for: 0,
            order: None,
            given_up: CancellationToken::new(),
            epoch: 0,
            looking: false,
            look_at: None,
            seen_down: false,
            story,
        }
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
        self.look();
        loop {
            let timer = self.next_timer();
            let message = tokio::select! {
                biased;
                message = self.inbox.recv() => message,
                () = until(timer) => None,
            };
            match message {
                Some(Message::Close { sleep, limit }) => return self.close(sleep, limit).await,
                Some(message) => self.receive(message),
                None => (),
            }
            self.tick();
            self.settle();
        }
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Arrived(waiter) => {
                self.doors[waiter.ticket.door].wait(waiter);
                self.tell(Event::Arrived);
            }
            Message::Refused(waiter, why) => {
                self.connected.remove(&waiter.ticket);
                let door = &mut self.doors[waiter.ticket.door];
                door.missed(why);
                door.close();
                door.wait(waiter);
                self.look();
                self.tell(Event::Arrived);
            }
            Message::Left(ticket, traffic) => {
                self.doors[ticket.door].leave(ticket);
                if self.connected.remove(&ticket) {
                    self.story.left(traffic);
                }
                self.tell(Event::Left);
            }
            Message::Woken(result) => {
                self.epoch += 1;
                match result {
                    Ok(()) => self.tell(Event::Started),
                    Err(why) => {
                        self.story.wake_fails(why.0);
                        self.tell(Event::WakeFailed);
                    }
                }
                // A service may be gone again by the time its start job has ended.
                if self.backend.can_tell() {
                    self.look();
                }
            }
            Message::Slept(result) => {
                self.epoch += 1;
                match result {
                    Ok(()) => self.tell(Event::Slept),
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
                self.looking = false;
                if epoch == self.epoch {
                    self.looked(seen, why);
                } else {
                    self.look();
                }
            }
            Message::MayExit(reply) => {
                let _ = reply.send(self.is_idle());
            }
            Message::Close { .. } => (),
        }
    }

    /// Reports an event to the lifecycle and does what it says.
    fn tell(&mut self, event: Event) {
        let before = self.lifecycle.state();
        let action = self.lifecycle.handle(event, self.crowd(), now());
        let after = self.lifecycle.state();
        if before != after {
            self.enter(event, before, after);
        }
        match action {
            Some(Action::Wake) => self.wake(),
            Some(Action::Sleep) => self.sleep(),
            Some(Action::Admit) => self.serve(),
            Some(Action::TurnAway) => self.turn_all_away(),
            Some(Action::GiveUp { undo }) => {
                self.turn_all_away();
                self.give_up(undo);
            }
            None => (),
        }
    }

    fn enter(&mut self, event: Event, before: State, after: State) {
        if !matches!(after, State::Awake | State::Cooling { .. }) {
            self.doors.iter_mut().for_each(Door::close);
        }
        if after != State::Asleep {
            self.seen_down = false;
        }
        let first = self.doors.iter().find_map(Door::first);
        self.story.turn(event, before, after, first, now());
        self.look_at = None;
    }

    fn crowd(&self) -> Crowd {
        let waiting = self.doors.iter().map(Door::waiting).sum();
        Crowd {
            waiting,
            connected: self.connected.len(),
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
        for (index, door) in self.doors.iter_mut().enumerate() {
            if awake {
                let before = self.connected.len();
                door.admit(&mut self.connected);
                self.story.admitted(self.connected.len() - before);
                door.set_limits(now().checked_add(self.start_timeout));
            }
            let wanted = door.waiting() > 0 || !awake && index == self.woken_for;
            if !(probing && wanted && !door.is_open()) {
                door.stop_asking();
            } else if !door.is_asking() {
                door.ask(index, &self.prober, &self.handle, &self.tasks);
            }
        }
    }

    fn turn_all_away(&mut self) {
        let turned_away = self.doors.iter_mut().map(Door::turn_all_away).sum();
        self.story.turned_away(turned_away);
    }

    // -- orders

    fn wake(&mut self) {
        let Some((door, first)) = self
            .doors
            .iter()
            .enumerate()
            .find_map(|(index, door)| Some((index, door.first()?)))
        else {
            return;
        };
        self.given_up = CancellationToken::new();
        self.woken_for = door;
        let order = WakeOrder {
            target: self.doors[door].target(),
            listener: first.listener.clone(),
            client: first.peer.clone(),
            limit: self.start_timeout,
            given_up: self.given_up.clone(),
        };
        self.doors.iter_mut().for_each(Door::forget_limits);
        let (backend, handle) = (self.backend.clone(), self.handle.clone());
        self.order(|previous| async move {
            previous.await;
            let woken = backend.wake(order).await;
            handle.post(Message::Woken(woken.result));
            woken.started
        });
    }

    fn sleep(&mut self) {
        let (backend, handle) = (self.backend.clone(), self.handle.clone());
        self.order(|previous| async move {
            previous.await;
            stop(&backend, &handle, Extent::All).await
        });
    }

    /// Ends the start that is under way, and with `undo` stops what it has started.
    fn give_up(&mut self, undo: bool) {
        self.given_up.cancel();
        if undo {
            let (backend, handle) = (self.backend.clone(), self.handle.clone());
            self.order(|previous| async move {
                let started = previous.await;
                stop(&backend, &handle, started).await
            });
        }
    }

    /// Begins an order when the one before is over.
    fn order<F, T>(&mut self, begin: F)
    where
        F: FnOnce(std::pin::Pin<Box<dyn Future<Output = Extent> + Send>>) -> T,
        T: Future<Output = Extent> + Send + 'static,
    {
        self.epoch += 1;
        let previous = self.order.take();
        let over = Box::pin(async move {
            match previous {
                Some(order) => order.await.unwrap_or(Extent::Nothing),
                None => Extent::Nothing,
            }
        });
        self.order = Some(self.tasks.spawn(begin(over)));
    }

    /// Ends what is under way; with `sleep` the service sleeps then, whatever its state.
    async fn close(mut self, sleep: bool, limit: Duration) {
        self.given_up.cancel();
        let backend = self.backend.clone();
        self.order(|previous| async move {
            previous.await;
            if sleep && let Err(why) = backend.sleep(Extent::All).await {
                tracing::warn!("could not put the service to sleep: {why}");
            }
            Extent::Nothing
        });
        if let Some(order) = self.order.take() {
            let _ = tokio::time::timeout(limit, order).await;
        }
    }

    // -- looks

    /// Has somebody look at the service. One look at a time; a later one says as much.
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
            // The one under way may have passed by the change: its result is not taken.
            self.epoch += 1;
            return;
        }
        self.looking = true;
        let (backend, handle, epoch) = (self.backend.clone(), self.handle.clone(), self.epoch);
        self.tasks.spawn(async move {
            let seen = backend.look().await;
            let why = match seen {
                Ok(Phase::Down) if started => backend.last_words().await,
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
                self.look_at = now()
                    .checked_add(SLOW_POLL)
                    .filter(|_| self.backend.can_tell());
            }
            Err(why) => {
                self.story.look_failed(&why.0);
                self.look_at = now().checked_add(QUICK_POLL);
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.lifecycle.state() == State::Asleep && self.seen_down && self.crowd().is_empty()
    }

    // -- time

    fn next_timer(&self) -> Option<Instant> {
        let limits = self.doors.iter().filter_map(Door::limit);
        let others = [
            self.lifecycle.deadline(),
            self.look_at,
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
        for index in 0..self.doors.len() {
            let turned_away = self.doors[index].turn_away_at(now);
            if turned_away > 0 {
                self.story.gave_up(&self.doors[index], turned_away);
                self.tell(Event::Left);
            }
        }
    }

    /// After every event: what follows from the state as it is now.
    fn settle(&mut self) {
        self.serve();
        let state = self.lifecycle.state();
        if state == State::Asleep && !self.seen_down && self.look_at.is_none() && !self.looking {
            self.look();
        }
        let waits_for_news = matches!(
            state,
            State::Waking { started: true, .. } | State::Stopping(Stop::Theirs)
        );
        if waits_for_news && self.backend.can_tell() && !self.looking {
            let soon = now() + QUICK_POLL;
            self.look_at = Some(self.look_at.map_or(soon, |at| at.min(soon)));
        }
        self.idle
            .send_if_modified(|idle| std::mem::replace(idle, self.is_idle()) != self.is_idle());
        self.story.publish(state, self.crowd(), now());
    }
}

/// Stops what `extent` names, and reports.
async fn stop(backend: &Backend, handle: &Handle, extent: Extent) -> Extent {
    let result = match backend.sleep(extent).await {
        Ok(()) => Ok(()),
        // If nobody can tell, it may well be running still.
        Err(why) => Err((why, backend.look().await.unwrap_or(Phase::Stopping))),
    };
    handle.post(Message::Slept(result));
    Extent::Nothing
}

/// Tokio's clock, so that tests can pause it. The only place that reads it.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
