//! Carries out the effects of one service's [`core`](crate::core::service), and tells it what comes
//! of them: the one loop of a service. Connections hold a [`Permit`] or are [`Queued`]; all else
//! that happens is a message in its inbox.

mod gate;
mod guard;
mod handle;
mod holds;
mod orders;
pub mod probe;
mod reporter;
mod settings;
mod sleepers;
mod targets;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use crate::core::gate::Word;
use crate::core::lifecycle::State;
use crate::core::service::{self as core, Effect, Input, Ticket, Timer};
use crate::report::status::PACE;
use guard::Questions;
use handle::{Message, Report, Waiter};
use orders::Orders;
use probe::Answer;
use reporter::Rejected;
use sleepers::Sleeper;
use targets::Targets;

pub use gate::Traffic;
pub use handle::{Entrance, Handle, LastOrder, Outlook, Permit, Queued, Verdict};
pub use holds::Hold;
pub use reporter::{Access, Front, Reporter, Requests, Say};
pub use settings::Settings;

/// One service, as far as it acts.
pub struct Service {
    core: core::Service,
    settings: Arc<Settings>,
    tasks: TaskTracker,
    inbox: mpsc::UnboundedReceiver<Message>,
    handle: Handle,
    targets: Targets,
    /// The connections that the core knows as tickets.
    waiters: BTreeMap<Ticket, Waiter>,
    sleepers: Vec<Sleeper>,
    orders: Orders,
    questions: Questions,
    reporter: Reporter,
    idle: watch::Sender<bool>,
    /// Notified when the service has become idle.
    changed: Arc<Notify>,
    /// When datagrams that are not passed on may tell of themselves again: a flood of them does so once a second.
    drops_at: Instant,
}

impl Service {
    /// A service with these settings. When it becomes idle, `changed` is notified.
    pub fn new(
        settings: Arc<Settings>,
        reporter: Reporter,
        tasks: TaskTracker,
        changed: Arc<Notify>,
    ) -> Self {
        let (post, inbox) = mpsc::unbounded_channel();
        let handle = Handle::new(post);
        let mut targets = Targets::default();
        targets.follow(&settings, &handle);
        Self {
            core: settings.core(&targets, &reporter),
            orders: Orders::new(settings.clone(), handle.clone(), tasks.clone()),
            questions: Questions::new(settings.clone(), handle.clone(), tasks.clone()),
            settings,
            tasks,
            inbox,
            handle,
            targets,
            waiters: BTreeMap::new(),
            sleepers: Vec::new(),
            reporter,
            idle: watch::Sender::new(false),
            changed,
            drops_at: now(),
        }
    }

    /// Goes on with other settings. Those that wait, wait anew; those inside stay; the service is
    /// found as it is, or, if the last order says so, stopped unless it is down.
    async fn reconfigure(&mut self, settings: Arc<Settings>, mut last: LastOrder) {
        let (handle, tasks) = (self.handle.clone(), self.tasks.clone());
        self.questions = Questions::new(settings.clone(), handle.clone(), tasks.clone());
        let mut next = Orders::new(settings.clone(), handle, tasks);
        next.watch();
        let orders = std::mem::replace(&mut self.orders, next);
        last.stop &= !self.core.is_down(self.targets.occupancy());
        last.thaw &= self.may_be_frozen();
        orders.close(last).await;
        self.reporter.reconfigured(settings.clone());
        self.settings = settings;
        self.targets.follow(&self.settings, &self.handle);
        self.core = self.settings.core(&self.targets, &self.reporter);
        let tickets: Vec<Ticket> = self.waiters.keys().copied().collect();
        for ticket in tickets {
            self.handle_input(Input::Arrived(ticket));
        }
    }

    fn may_be_frozen(&self) -> bool {
        let state = self.core.state();
        matches!(
            state,
            State::Freezing { .. } | State::Frozen { .. } | State::Thawing { .. }
        )
    }

    /// The ways to the targets of the settings, in their order.
    pub fn entrances(&self) -> Vec<Entrance> {
        self.targets.entrances(&self.settings.targets)
    }

    /// How connections reach this service.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Says when the process might exit; [`Handle::may_exit`] then says whether it may.
    pub fn idle(&self) -> watch::Receiver<bool> {
        self.idle.subscribe()
    }

    /// Runs until told to close.
    pub async fn run(mut self) {
        self.orders.watch();
        // One alarm for all timers: arming it anew costs a wake-up of this very thread.
        let mut alarm = pin!(sleep(Duration::ZERO));
        let mut next = self.inbox.try_recv().ok();
        loop {
            while let Some(message) = next {
                if let Some(mut last) = self.receive(message).await {
                    last.thaw &= self.may_be_frozen();
                    self.reporter.carried(self.targets.totals());
                    let down = self.orders.close(last).await;
                    return self.reporter.recorder.close(down);
                }
                next = self.inbox.try_recv().ok();
            }
            self.tick();
            self.handle_input(Input::Settle);
            self.publish();
            let drops = self.targets.have_dropped().then_some(self.drops_at);
            let timers = [self.core.deadline(), self.reporter.next(), drops];
            let timer = timers.into_iter().flatten().min().map(Into::into);
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

    /// Tells the core what a message says. Returns the last order.
    async fn receive(&mut self, message: Message) -> Option<LastOrder> {
        match message {
            Message::Arrived(waiter) => {
                let input = Input::Arrived(waiter.ticket);
                self.waiters.insert(waiter.ticket, waiter);
                self.handle_input(input);
            }
            Message::Refused(waiter, permit, why) => {
                drop(permit);
                self.targets.0[waiter.ticket.target].failure = Some(why);
                let input = Input::Refused(waiter.ticket);
                self.waiters.insert(waiter.ticket, waiter);
                self.handle_input(input);
            }
            Message::Left(ticket) => {
                if self.waiters.remove(&ticket).is_some_and(|it| it.is_client) {
                    self.reporter.recorder.change().clients.gave_up += 1;
                }
                self.handle_input(Input::Left(ticket));
            }
            Message::Denied(listener, peer) => {
                self.reporter.denied(&listener, peer);
                self.handle_input(Input::Denied);
            }
            Message::Gate => self.handle_input(Input::Gate),
            Message::Sleep(sleeper) => {
                if sleeper.forced {
                    self.handle.holds().end();
                }
                self.sleepers.push(sleeper);
            }
            Message::Busy(number, answer) => {
                // What is under way may be another question, of other settings even.
                if self.questions.is_answered(number) && self.core.is_asked(number) {
                    let busy = !answer.work.is_empty();
                    self.reporter.busy(answer);
                    self.handle_input(Input::Busy(number, busy));
                }
            }
            Message::Reported(number, report) if self.orders.have(number) => self.reported(report),
            Message::Reported(..) => (),
            Message::Answered(index, number, answer) => {
                if self.targets.0[index].answered(number) {
                    self.handle_with(Input::Answered(index), answer);
                }
            }
            Message::Missed(index, number, why) => self.targets.0[index].missed(number, why),
            Message::Ask(ask) => ask(self),
            Message::Reconfigure(settings, last, reply) => {
                self.reconfigure(settings, last).await;
                let _ = reply.send(self.entrances());
            }
            Message::Close(last) => return Some(last),
        }
        None
    }

    /// Tells the core what has come of what was asked of the backend.
    fn reported(&mut self, report: Report) {
        let input = match report {
            Report::Started(result) => {
                Input::Started(result.map_err(|why| self.reporter.start_fails(why.0)))
            }
            Report::Stopped(Ok(stopped)) => {
                let idle = self.questions.idle_cpu(stopped.measured);
                self.reporter.stopped(self.core.state(), stopped, idle);
                Input::Stopped(Ok(()))
            }
            Report::Stopped(Err((why, phase))) => {
                self.reporter.stop_fails(why.0);
                Input::Stopped(Err(phase))
            }
            Report::Froze(result) => {
                Input::Froze(result.map_err(|why| self.reporter.freeze_fails(why.0)))
            }
            Report::Thawed(Ok(())) => Input::Thawed(Ok(())),
            Report::Thawed(Err((why, phase))) => {
                self.reporter.thaw_fails(why.0);
                Input::Thawed(Err(phase))
            }
            Report::Queried(result, why) => {
                if self.core.query_is_fresh() {
                    self.reporter.queried(result.as_ref().err(), why);
                }
                Input::Queried(result.map_err(drop))
            }
            Report::Remark(remark) => return self.reporter.remark(Some(remark)),
            Report::Changed => Input::Changed,
        };
        self.handle_input(input);
    }

    /// Reports the timers that have run out.
    fn tick(&mut self) {
        let now = now();
        let timers = self.core.timers().filter(|(_, at)| *at <= now);
        let due: Vec<Timer> = timers.map(|(timer, _)| timer).collect();
        for timer in due {
            if timer == Timer::Answer {
                self.reporter.busy(guard::Answer::late());
            }
            let woken_for = &self.targets.0[self.core.woken_for()];
            if let (Timer::Lifecycle, State::Waking { .. }, Some(why)) =
                (timer, self.core.state(), &woken_for.failure)
            {
                self.reporter
                    .start_fails(format!("it does not answer in time: {why}"));
            }
            self.handle_input(Input::Due(timer));
        }
    }

    fn handle_input(&mut self, input: Input) {
        self.handle_with(input, None);
    }

    /// Tells the core of `input`, and does what it says. `answer` is for the first connection that is
    /// let through; later it would be stale.
    fn handle_with(&mut self, input: Input, mut answer: Option<Answer>) {
        let mut rejected = Rejected::default();
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for effect in self.core.handle(input, self.targets.occupancy(), now()) {
                // A server that ends well waits for idle connections, and they would count as direct ones.
                if matches!(effect, Effect::Stop | Effect::Freeze | Effect::AskBusy(_)) {
                    self.targets.clear_pools();
                }
                match effect {
                    Effect::Report(fact) => {
                        let first = fact.first.and_then(|first| self.waiters.get(&first));
                        let first = first.map(|waiter| (waiter.peer, waiter.is_client));
                        self.reporter.carried(self.targets.totals());
                        self.reporter.fact(&fact, first, now());
                        self.questions.follow(&fact);
                    }
                    Effect::Admit { ticket, first } => {
                        let waiter = self.waiters.get(&ticket);
                        let served = first && waiter.is_none_or(|waiter| waiter.is_client);
                        let entrance = &self.targets.0[ticket.target].entrance;
                        entrance.gate().set(|word| word.admit(served));
                        let permit = entrance.permit();
                        if let Some(waiter) = self.waiters.remove(&ticket) {
                            self.reporter.admits(now());
                            answer = waiter.admit(permit, answer);
                        }
                    }
                    Effect::Reject(ticket, why) => {
                        let waiter = self.waiters.remove(&ticket);
                        if waiter.as_ref().is_none_or(|waiter| waiter.is_client) {
                            rejected.count(ticket, why);
                        }
                        if let Some(waiter) = waiter {
                            let _ = waiter.reply.send(Verdict::Rejected);
                        }
                    }
                    Effect::Start(ticket) => {
                        self.reporter.starts();
                        if let Some(waiter) = self.waiters.get(&ticket) {
                            self.orders
                                .start(self.targets.0[ticket.target].target.clone(), waiter);
                        }
                    }
                    Effect::Stop => self.orders.stop(),
                    Effect::Freeze => self.orders.freeze(),
                    Effect::Thaw => self.orders.thaw(),
                    Effect::GiveUp { undo } => self.orders.give_up(undo),
                    Effect::Query { explain } => self.orders.query(explain),
                    Effect::AskBusy(number) => self.questions.ask(number),
                    Effect::Probe(index) => {
                        self.targets.0[index].probe(&self.settings, &self.tasks);
                    }
                    Effect::CancelProbe(index) => self.targets.0[index].cancel(),
                    Effect::Open(index) => self.targets.gate(index).set(Word::open),
                    Effect::Close(index) => self.targets.gate(index).set(Word::close),
                    Effect::CloseEmpty(index) => {
                        let closed = self.targets.gate(index).close_empty();
                        inputs.push_back(Input::Closed(index, closed));
                    }
                    Effect::Watch => {
                        self.targets.gates().for_each(|gate| gate.set(Word::watch));
                        inputs.push_back(Input::Gate);
                    }
                }
            }
        }
        let until = self.core.no_wake_until(now());
        let silence = |index: usize| self.targets.0[index].silence();
        self.reporter.rejections(rejected, until, now(), silence);
    }

    /// What others may see.
    fn publish(&mut self) {
        self.answer_sleepers();
        let is_idle = self.core.is_idle(self.targets.occupancy());
        let turned = |idle: &mut bool| std::mem::replace(idle, is_idle) != is_idle;
        if self.idle.send_if_modified(turned) && is_idle {
            self.changed.notify_one();
        }
        let now = now();
        if self.drops_at <= now {
            self.targets.hear_of_drops();
            self.drops_at = now + PACE;
        }
        self.reporter.carried(self.targets.totals());
        let holds = self.handle.holds().reasons();
        self.reporter.publish(&self.core, holds, now);
    }
}

/// Tokio's clock, so that tests can pause it.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
