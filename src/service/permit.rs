//! A client's side of the driver: how it comes in, waits, and leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::door::Waiter;
use super::{Message, Ticket, Traffic};
use crate::config::address::Peer;
use crate::report::record::Record;
use crate::service::probe::Answer;

/// Reaches a driver.
#[derive(Clone, Debug)]
pub struct Handle {
    post: mpsc::UnboundedSender<Message>,
    next: Arc<AtomicU64>,
}

/// The driver's answer to a client that waits.
#[derive(Debug)]
pub enum Verdict {
    /// Go on; with a connection to the target where one is at hand.
    Admitted(Option<Answer>),
    /// The service cannot be had.
    TurnedAway,
}

/// A client's place, from its arrival on. Dropping it *is* leaving.
#[derive(Debug)]
pub struct Permit {
    ticket: Ticket,
    listener: Arc<str>,
    peer: Peer,
    post: mpsc::UnboundedSender<Message>,
    verdict: oneshot::Receiver<Verdict>,
    /// What the connection has carried, told to the driver in the end.
    pub traffic: Traffic,
}

impl Handle {
    pub(super) fn new(post: mpsc::UnboundedSender<Message>) -> Self {
        Self {
            post,
            next: Arc::default(),
        }
    }

    /// A client came in by `listener` for the target behind `door`.
    pub fn arrive(&self, door: usize, listener: &Arc<str>, peer: Peer) -> Permit {
        let (reply, verdict) = oneshot::channel();
        let permit = self.permit(door, listener, peer, verdict);
        self.post(Message::Arrived(permit.waiter(reply)));
        permit
    }

    /// The same, but whether it is a client is found out later: see [`Permit::introduce`].
    pub fn knock(&self, door: usize, listener: &Arc<str>, peer: Peer) -> Permit {
        let (_, verdict) = oneshot::channel();
        let permit = self.permit(door, listener, peer, verdict);
        self.post(Message::Knocked(permit.ticket));
        permit
    }

    /// Somebody came in by `listener` who may not, and was reset.
    pub fn barred(&self, listener: &Arc<str>, peer: Peer) {
        self.post(Message::Barred(listener.clone(), peer));
    }

    fn permit(
        &self,
        door: usize,
        listener: &Arc<str>,
        peer: Peer,
        verdict: oneshot::Receiver<Verdict>,
    ) -> Permit {
        let ticket = Ticket {
            door,
            number: self.next.fetch_add(1, Ordering::Relaxed),
        };
        Permit {
            ticket,
            listener: listener.clone(),
            peer,
            post: self.post.clone(),
            verdict,
            traffic: Traffic::default(),
        }
    }

    /// Whether nobody is here and the service is down, everything sent before counted.
    pub async fn may_exit(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        self.post(Message::MayExit(reply));
        answer.await.unwrap_or(true)
    }

    /// What is known of the instance by now, unless the driver has ended.
    pub async fn record(&self) -> Option<Record> {
        let (reply, answer) = oneshot::channel();
        self.post(Message::Record(reply));
        answer.await.ok()
    }

    /// Has the driver end; see [`Message::Close`].
    pub fn close(&self, sleep: bool, limit: Duration) {
        self.post(Message::Close { sleep, limit });
    }

    pub(super) fn post(&self, message: Message) {
        // Fails only when the driver has ended, and the process is about to.
        let _ = self.post.send(message);
    }
}

impl Permit {
    /// It is a client; with `peer` one that is not who it seemed to be.
    pub fn introduce(&mut self, peer: Option<Peer>) {
        if let Some(peer) = peer {
            self.peer = peer;
        }
        let (reply, verdict) = oneshot::channel();
        self.verdict = verdict;
        let _ = self.post.send(Message::Arrived(self.waiter(reply)));
    }

    /// It may not come in, as whoever it turned out to be.
    pub fn barred(&self, peer: Peer) {
        let _ = self.post.send(Message::Barred(self.listener.clone(), peer));
    }

    /// Waits for the driver's verdict.
    pub async fn verdict(&mut self) -> Verdict {
        (&mut self.verdict).await.unwrap_or(Verdict::TurnedAway)
    }

    /// Goes back to waiting: the target could not be reached, for the reason given.
    pub fn refused(&mut self, why: String) {
        let (reply, verdict) = oneshot::channel();
        self.verdict = verdict;
        let _ = self.post.send(Message::Refused(self.waiter(reply), why));
    }

    /// The listener it came in by.
    pub fn listener(&self) -> &str {
        &self.listener
    }

    /// Who the client is.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    fn waiter(&self, reply: oneshot::Sender<Verdict>) -> Waiter {
        Waiter {
            ticket: self.ticket,
            listener: self.listener.clone(),
            peer: self.peer,
            reply,
            limit: None,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let _ = self.post.send(Message::Left(self.ticket, self.traffic));
    }
}
