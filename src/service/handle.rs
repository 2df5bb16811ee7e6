//! A connection's side of a service: how it comes in, waits, and leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::gate::{Gate, Traffic};
use super::guard;
use super::holds::Holds;
use super::probe::Answer;
use super::sleepers::Sleeper;
use super::{Service, Settings};
#[cfg(feature = "kubernetes")]
use crate::backend::Backend;
use crate::backend::Failure;
use crate::config::address::Peer;
use crate::config::host::HostPattern;
use crate::core::lifecycle::Phase;
use crate::core::service::{Input, Ticket};
use crate::net::datagram::Dropped;
use crate::net::pool::Pool;
use crate::report::record::{Record, RecordedState};
use crate::report::requests::{Counts, Requests};
use crate::util::per_thread::{Local, References};

/// What a service is told. Messages are taken in the order in which they were sent, and that order
/// is the only one there is.
pub(super) enum Message {
    /// A connection waits.
    Arrived(Waiter),
    /// A connection that was let through could not reach the target, for this reason, and waits
    /// again.
    Refused(Waiter, Permit, String),
    /// A connection that waited, or was rejected, is closed.
    Left(Ticket),
    /// A connection was denied for its address: the listener, and the address.
    Denied(Arc<str>, Peer),
    /// A gate tells of a change.
    Gate,
    /// The service is to be stopped.
    Sleep(Sleeper),
    /// The question with this number is answered.
    Busy(u64, guard::Answer),
    /// What comes of the orders with this number.
    Reported(u64, Report),
    /// A target answers this probe; with the connection that proved it, if a client can have it.
    Answered(usize, u64, Option<Answer>),
    /// A target does not answer this probe yet, and why.
    Missed(usize, u64, String),
    /// What is known by now, everything before this message counted.
    Ask(Box<dyn FnOnce(&mut Service) + Send>),
    /// Go on with other settings: finish what is under way by those before, then answer.
    Reconfigure(Arc<Settings>, LastOrder, oneshot::Sender<Vec<Entrance>>),
    /// The process ends, or the service is not wanted any more: finish what is under way.
    Close(LastOrder),
}

/// What comes of what is asked of the backend.
pub(super) enum Report {
    /// An order to start has ended.
    Started(Result<(), Failure>),
    /// An order to stop has ended; after a failure with what the service does now.
    Stopped(Result<Stopped, (Failure, Phase)>),
    /// An order to freeze has ended.
    Froze(Result<(), Failure>),
    /// An order to thaw has ended; after a failure with what the service does now.
    Thawed(Result<(), (Failure, Phase)>),
    /// What is wrong with the service right now.
    Remark(String),
    /// The service may have changed by itself.
    Changed,
    /// A query has ended; if the service is down, with the reason.
    Queried(Result<Phase, Failure>, Option<String>),
}

/// How what a service does by its settings ends.
#[derive(Clone, Copy, Debug)]
pub struct LastOrder {
    /// What may run by them is stopped then.
    pub stop: bool,
    /// What they have frozen is thawed then.
    pub thaw: bool,
    /// How long what is under way, and the stop, may take.
    pub limit: Duration,
}

/// What is known of a service that was stopped.
#[derive(Debug)]
pub(super) struct Stopped {
    /// What it had used by the order.
    pub(super) measured: Option<guard::Measured>,
    /// What is wrong nevertheless.
    pub(super) remark: Option<String>,
}

/// A connection in a queue.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) ticket: Ticket,
    /// The listener it came in by.
    pub(super) listener: Arc<str>,
    /// Its address.
    pub(super) peer: Peer,
    /// It counts as a client's.
    pub(super) is_client: bool,
    /// Where the verdict goes.
    pub(super) reply: oneshot::Sender<Verdict>,
}

impl Waiter {
    /// Lets it through. One that has just left returns the answer; the next one gets it.
    pub(super) fn admit(self, permit: Permit, answer: Option<Answer>) -> Option<Answer> {
        match self.reply.send(Verdict::Admitted(permit, answer)) {
            Err(Verdict::Admitted(_, answer)) => answer,
            Ok(()) | Err(Verdict::Rejected) => None,
        }
    }
}

/// Reaches a service.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inbox: mpsc::UnboundedSender<Message>,
    next: AtomicU64,
    counts: Arc<Counts>,
    holds: Holds,
}

/// Reaches one target of a service. Permits have references of their own.
#[derive(Clone, Debug)]
pub struct Entrance(pub(super) Arc<Target>, Arc<References<Target>>);

#[derive(Debug)]
pub(super) struct Target {
    pub(super) service: Handle,
    pub(super) index: usize,
    gate: Gate,
    pool: Pool,
}

/// How a wake comes along.
#[derive(Clone, Debug)]
pub struct Outlook {
    /// How long the latest ones took, the last one last; of thaws, if it is one.
    pub took: Vec<Duration>,
    /// How long this one takes already.
    pub elapsed: Duration,
    /// What has failed last.
    pub failure: Option<String>,
    /// What it waits for, where that is known.
    pub waits_for: Option<String>,
}

/// The service's answer to a connection that waits.
#[derive(Debug)]
pub enum Verdict {
    /// Go on; with a connection to the target where one is at hand.
    Admitted(Permit, Option<Answer>),
    /// The service cannot be had.
    Rejected,
}

/// A connection that was let through. Dropping it *is* leaving.
#[derive(Debug)]
pub struct Permit {
    target: Local<Target>,
    /// What the connection has carried, counted in the end.
    pub traffic: Traffic,
}

/// A connection that waits for the verdict, or has been rejected. Dropping it *is* leaving.
#[derive(Debug)]
pub struct Queued {
    service: Handle,
    ticket: Ticket,
    verdict: oneshot::Receiver<Verdict>,
    admitted: bool,
}

impl Handle {
    pub(super) fn new(inbox: mpsc::UnboundedSender<Message>) -> Self {
        let next = AtomicU64::new(0);
        let service = inbox.clone();
        // After each message it looks at what there is to be recorded.
        let counts = Arc::new(Counts::new(move || {
            let _ = service.send(Message::Ask(Box::new(|_| ())));
        }));
        Self(Arc::new(Shared {
            inbox,
            next,
            counts,
            holds: Holds::default(),
        }))
    }

    /// The way to target number `index`, through a closed gate.
    pub(super) fn entrance(&self, index: usize, cooldown: Duration) -> Entrance {
        let (service, gate) = (self.clone(), Gate::new(cooldown));
        let target = Arc::new(Target {
            service,
            index,
            gate,
            pool: Pool::default(),
        });
        let references = Arc::new(References::new(&target));
        Entrance(target, references)
    }

    /// Whether nothing runs, and no connection is inside.
    pub async fn is_down(&self) -> bool {
        let is_down = self.ask(|service| service.core.is_down(service.targets.occupancy()));
        is_down.await.unwrap_or(true)
    }

    /// Whether no connection is here and the service is down, everything sent before counted.
    pub async fn may_exit(&self) -> bool {
        let is_idle = self.ask(|service| service.core.is_idle(service.targets.occupancy()));
        is_idle.await.unwrap_or(true)
    }

    /// Whether an order to start or stop is under way.
    pub async fn has_order(&self) -> bool {
        let has_order = self.ask(|service| service.orders.is_under_way());
        has_order.await.unwrap_or(false)
    }

    /// What is known of the instance by now, unless the service has ended.
    pub async fn record(&self) -> Option<Record> {
        self.ask(|service| {
            service.reporter.carried(service.targets.totals());
            service.reporter.recorder.record()
        })
        .await
    }

    /// What starts and stops the service, unless it has ended.
    #[cfg(feature = "kubernetes")]
    pub async fn backend(&self) -> Option<Backend> {
        self.ask(|service| service.settings.backend.clone()).await
    }

    /// Has the service go on with other settings, after the last order by those before. The ways to
    /// its targets then, unless the service has ended.
    pub async fn reconfigure(
        &self,
        settings: Arc<Settings>,
        last: LastOrder,
    ) -> Option<Vec<Entrance>> {
        let (reply, entrances) = oneshot::channel();
        self.post(Message::Reconfigure(settings, last, reply));
        entrances.await.ok()
    }

    /// Has the service stopped: when work no longer keeps it awake, at once by `force`. Returns when it is
    /// down, or with the reason why it is not.
    pub async fn sleep(&self, forced: bool) -> Result<(), String> {
        let (reply, outcome) = oneshot::channel();
        self.post(Message::Sleep(Sleeper {
            forced,
            told: false,
            thaws: false,
            reply,
        }));
        let ended = || Err("wakeport exits".into());
        outcome.await.unwrap_or_else(|_| ended())
    }

    /// Has the service look at what has come and gone without a message.
    pub fn look(&self) {
        self.post(Message::Ask(Box::new(|_| ())));
    }

    /// Has the service thawed, and not frozen any more: the process is about to end.
    pub fn ending(&self) {
        let ending = |service: &mut Service| service.handle_input(Input::Ending);
        self.post(Message::Ask(Box::new(ending)));
    }

    pub(super) fn holds(&self) -> &Holds {
        &self.0.holds
    }

    /// Has the service end, after its last order.
    pub fn close(&self, last: LastOrder) {
        self.post(Message::Close(last));
    }

    /// What the service says, unless it has ended.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Service) -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.post(Message::Ask(Box::new(|service| {
            let _ = reply.send(question(service));
        })));
        answer.await.ok()
    }

    /// A number that nothing else of the service has.
    pub(super) fn unique(&self) -> u64 {
        self.0.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn post(&self, message: Message) {
        // Fails only when the service has ended, and the process is about to.
        let _ = self.0.inbox.send(message);
    }
}

impl Entrance {
    /// A connection enters without asking, if the gate is open.
    pub fn enter(&self) -> Option<Permit> {
        if self.0.gate.enter()? {
            self.0.service.post(Message::Gate);
        }
        Some(self.permit())
    }

    /// A connection is inside already, gate open or not: it was let through by an earlier process,
    /// or keeps the service from being stopped.
    pub fn resume(&self) -> Permit {
        self.0.gate.set(|word| word.admit(false));
        self.0.service.post(Message::Gate);
        self.permit()
    }

    /// Whether connections enter without asking: the service is awake.
    pub fn is_open(&self) -> bool {
        self.0.gate.is_open()
    }

    /// How many connections are inside.
    pub fn inside(&self) -> usize {
        self.0.gate.inside()
    }

    /// Its idle connections. One is given back before the permit it was used with.
    pub fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// Where the requests for a host are counted.
    pub fn requests(&self, host: &HostPattern) -> Arc<Requests> {
        self.counts().of(&host.to_string())
    }

    pub(super) fn counts(&self) -> &Arc<Counts> {
        &self.0.service.0.counts
    }

    /// A connection came in by `listener` and waits.
    pub fn arrive(&self, listener: &Arc<str>, peer: Peer) -> Queued {
        let (queued, waiter) = self.0.queue(listener, peer);
        self.0.service.post(Message::Arrived(waiter));
        queued
    }

    /// Something waits that is to keep the service awake and is no client, whether the gate is open or
    /// not.
    pub fn hold(&self, listener: &Arc<str>) -> Queued {
        let (queued, mut waiter) = self.0.queue(listener, Peer::Unix);
        waiter.is_client = false;
        self.0.service.post(Message::Arrived(waiter));
        queued
    }

    /// How its wake comes along, unless the service has ended.
    pub async fn outlook(&self) -> Option<Outlook> {
        let record = self.0.service.record().await?;
        let wakes = record.state == RecordedState::Waking;
        let took = match record.state {
            // A client waits only where that is being frozen.
            RecordedState::Frozen | RecordedState::Cooling => &record.thaws,
            RecordedState::Asleep | RecordedState::Waking | RecordedState::Awake => &record.wakes,
            RecordedState::Stopping | RecordedState::Failed | RecordedState::Unattended => {
                &record.wakes
            }
        };
        let took = took.recent.iter();
        Some(Outlook {
            took: took
                .filter_map(|&seconds| Duration::try_from_secs_f64(seconds).ok())
                .collect(),
            elapsed: match wakes {
                true => Duration::try_from(Timestamp::now().duration_since(record.since))
                    .unwrap_or_default(),
                false => Duration::ZERO,
            },
            failure: record.last_failure.map(|failure| failure.why),
            waits_for: record.waits_for.map(|waits_for| waits_for.why),
        })
    }

    /// A connection that came in by `listener` was denied, and reset.
    pub fn denied(&self, listener: &Arc<str>, peer: Peer) {
        let denied = Message::Denied(listener.clone(), peer);
        self.0.service.post(denied);
    }

    /// A connection was closed as idle before it was known to be a client's.
    pub fn closed_idle(&self) {
        self.0.gate.count(Traffic {
            idle: 1,
            ..Traffic::default()
        });
    }

    /// So many datagrams were not passed on.
    pub fn dropped(&self, why: Dropped, count: u64) {
        if self.0.gate.dropped(why, count) {
            self.0.service.post(Message::Gate);
        }
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.0.gate
    }

    /// A connection that is inside already, as the gate counts it.
    pub(super) fn permit(&self) -> Permit {
        Permit {
            target: self.1.local(),
            traffic: Traffic::default(),
        }
    }
}

impl Target {
    fn queue(&self, listener: &Arc<str>, peer: Peer) -> (Queued, Waiter) {
        let (reply, verdict) = oneshot::channel();
        let service = self.service.clone();
        let ticket = Ticket {
            target: self.index,
            number: service.unique(),
        };
        let queued = Queued {
            service,
            ticket,
            verdict,
            admitted: false,
        };
        let waiter = Waiter {
            ticket,
            listener: listener.clone(),
            peer,
            is_client: true,
            reply,
        };
        (queued, waiter)
    }
}

impl Queued {
    /// Waits for the verdict. A connection that is rejected counts until this is dropped.
    pub async fn verdict(&mut self) -> Verdict {
        let verdict = (&mut self.verdict).await.unwrap_or(Verdict::Rejected);
        self.admitted = matches!(verdict, Verdict::Admitted(..));
        verdict
    }
}

impl Permit {
    pub(super) fn service(&self) -> &Handle {
        &self.target.service
    }

    /// Goes back to the queue: the target could not be reached, for the reason given.
    pub fn refused(self, listener: &Arc<str>, peer: Peer, why: String) -> Queued {
        let (queued, waiter) = self.target.queue(listener, peer);
        let service = self.target.service.clone();
        // It is inside until the service knows that it waits.
        service.post(Message::Refused(waiter, self, why));
        queued
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Target { service, gate, .. } = &***self.target;
        if gate.leave(self.traffic) {
            service.post(Message::Gate);
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if !self.admitted {
            self.service.post(Message::Left(self.ticket));
        }
    }
}
