//! How many connections there may be at once, and how many of them may wait; the others stay in the
//! kernel's backlog. And how many are pending: accepted, and not identified yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::config::Limits;
use crate::session::Waits;
use crate::session::flow::FlowRoom;

/// Descriptors that are not connections': the log, the bus, the listeners, a program's output, requests
/// on the control socket.
const SPARE_FILES: u64 = 64;

/// Room for connections.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    connections: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// Flows that were not answered yet: not to take the room of connections that wait.
    unanswered: Arc<Semaphore>,
    /// Notified when a connection has to wait for another one to close.
    wanted: Arc<Notify>,
    /// How many accept loops wait for that.
    seekers: Arc<AtomicUsize>,
}

/// An accept loop that waits for room, until it is dropped.
struct Seeker<'a> {
    all: &'a AtomicUsize,
    is_first: bool,
}

impl<'a> Seeker<'a> {
    fn new(all: &'a AtomicUsize) -> Self {
        let is_first = all.fetch_add(1, Ordering::SeqCst) == 0;
        Self { all, is_first }
    }
}

impl Drop for Seeker<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Room for one: a connection, and its wait for the target. One that was accepted by an earlier
/// process, or has paused, may be without.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    /// Held until the connection is closed.
    pub(super) connection: Option<OwnedSemaphorePermit>,
    /// Held until it is relayed. With HTTP it is requests that wait.
    pub(super) waiting: Option<OwnedSemaphorePermit>,
}

/// Which flows could make room for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lacking {
    /// All of them.
    Any,
    /// Those that were not answered yet.
    Unanswered,
}

impl Slots {
    /// Room for as many connections as `limits` and `open_files` allow: every one takes two files.
    pub(super) fn new(limits: &Limits, open_files: u64) -> Self {
        let enough = usize::try_from(open_files.saturating_sub(SPARE_FILES) / 2);
        let enough = enough.unwrap_or(usize::MAX).max(1);
        let wanted = limits.max_connections;
        let connections = wanted.unwrap_or(enough).min(enough);
        if let Some(wanted) = wanted.filter(|&wanted| wanted > connections) {
            tracing::warn!(
                "`--max-connections {wanted}` needs more open files than the limit of \
                 {open_files}; it is {connections} now: raise `LimitNOFILE=`"
            );
        }
        let semaphore = |n: usize| Arc::new(Semaphore::new(n.clamp(1, Semaphore::MAX_PERMITS)));
        Self {
            connections: semaphore(connections),
            waiting: semaphore(limits.max_waiting),
            unanswered: semaphore(limits.max_waiting),
            wanted: Arc::default(),
            seekers: Arc::default(),
        }
    }

    /// Waits until there is room for one more, which may have to wait itself.
    pub(super) async fn get(&self, waits: bool) -> ConnectionSlot {
        // Semaphores are never closed.
        let slot = async |room: &Arc<Semaphore>| room.clone().acquire_owned().await.ok();
        let connection = match self.connections.clone().try_acquire_owned() {
            Ok(connection) => Some(connection),
            Err(_) => {
                let seeker = Seeker::new(&self.seekers);
                // The others seek for the same.
                if seeker.is_first {
                    self.wanted.notify_one();
                }
                slot(&self.connections).await
            }
        };
        ConnectionSlot {
            connection,
            waiting: if waits {
                slot(&self.waiting).await
            } else {
                None
            },
        }
    }

    /// What room there is for one that was accepted by an earlier process, which is never refused.
    pub(super) fn resume(&self, waits: bool) -> ConnectionSlot {
        ConnectionSlot {
            connection: try_slot(&self.connections),
            waiting: waits.then(|| try_slot(&self.waiting)).flatten(),
        }
    }

    /// The room for what waits, of which one has this.
    pub(super) fn waits(&self, slot: Option<OwnedSemaphorePermit>) -> Waits {
        Waits {
            room: self.waiting.clone(),
            wanted: self.wanted.clone(),
            slot,
        }
    }

    /// Room for a flow, if there is some right now; otherwise which flows could make some.
    pub(super) fn try_get_flow(&self) -> Result<FlowRoom, Lacking> {
        let unanswered = try_slot(&self.unanswered).ok_or(Lacking::Unanswered)?;
        let connection = try_slot(&self.connections).ok_or(Lacking::Any)?;
        Ok(FlowRoom {
            connection: Some(connection),
            unanswered: Some(unanswered),
        })
    }

    /// Room for one more, if there is some right now.
    pub(super) fn try_get(&self, waits: bool) -> Option<ConnectionSlot> {
        let ConnectionSlot {
            connection,
            waiting,
        } = self.resume(waits);
        (connection.is_some() && waiting.is_some() == waits).then_some(ConnectionSlot {
            connection,
            waiting,
        })
    }
}

/// A part of this room, if there is some right now.
fn try_slot(room: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    room.clone().try_acquire_owned().ok()
}

/// Connections that were accepted and may turn out to be no client's. None of them wakes a service,
/// but the process does not exit under them.
#[derive(Clone, Debug)]
pub(super) struct PendingCount(Arc<Count>);

#[derive(Debug)]
struct Count {
    pending: AtomicUsize,
    /// Notified when none is left.
    changed: Arc<Notify>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Pending(Arc<Count>);

impl PendingCount {
    /// None yet; when none is left, `changed` is notified.
    pub(super) fn new(changed: Arc<Notify>) -> Self {
        let pending = AtomicUsize::new(0);
        Self(Arc::new(Count { pending, changed }))
    }

    /// One more.
    pub(super) fn register(&self) -> Pending {
        self.0.pending.fetch_add(1, Ordering::SeqCst);
        Pending(self.0.clone())
    }

    /// Whether there is none. One that was identified before is known to its service.
    pub(super) fn is_empty(&self) -> bool {
        self.0.pending.load(Ordering::SeqCst) == 0
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.0.pending.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.changed.notify_one();
        }
    }
}
