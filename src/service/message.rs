//! What the driver is told.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::door::Waiter;
use crate::backend::Failure;
use crate::config::address::Peer;
use crate::core::lifecycle::Phase;
use crate::report::record::Record;
use crate::service::probe::Answer;

/// What the driver is told. Messages are taken in the order in which they were sent, and that
/// order is the only one there is.
#[derive(Debug)]
pub enum Message {
    /// Somebody came in, of whom it is not known yet whether it is a client: nobody wakes for it,
    /// but nobody exits under it.
    Knocked(Ticket),
    /// Somebody was reset before anything else, because of where it comes from: the listener, and
    /// its address.
    Barred(Arc<str>, Peer),
    /// A client came in.
    Arrived(Waiter),
    /// A client that was let through could not reach the target, and waits again.
    Refused(Waiter, String),
    /// A client is gone.
    Left(Ticket, Traffic),
    /// Order number so-and-so, to start, has ended.
    Woken(u64, Result<(), Failure>),
    /// Order number so-and-so, to stop, has ended: with the memory that it freed, if that is known;
    /// after a failure with what the service does now.
    Slept(u64, Result<Option<u64>, (Failure, Phase)>),
    /// A target answers; with the connection that proved it, if a client can have it.
    Answered(usize, u64, Option<Answer>),
    /// A target does not answer yet, and why.
    Missed(usize, u64, String),
    /// The service may have changed by itself.
    Changed,
    /// Somebody looked, and if the service is down, why. Only counts if no order was begun or
    /// ended in the meantime.
    Looked(u64, Result<Phase, Failure>, Option<String>),
    /// Whether we may exit, everything before this message counted.
    MayExit(oneshot::Sender<bool>),
    /// What is known by now.
    Record(oneshot::Sender<Record>),
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
    /// Whether it was ended because no byte moved, as a number to be added.
    pub idle: u32,
    /// Whether it was ended because a peer had vanished, as a number to be added.
    pub vanished: u32,
}
