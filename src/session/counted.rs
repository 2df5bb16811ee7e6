//! A request, from its head to the end of its response: counted, and logged where that is asked for.
//! Each protocol begins one, says the status, and drops it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Route;
use crate::config::address::Peer;
use crate::service::{Access, Front, Requests};
use crate::util::per_thread::{Local, References};

/// A request under way. What has no status when this is dropped has got no response: 499.
#[derive(Debug)]
pub(super) struct Counted {
    requests: Option<Local<Requests>>,
    how: How,
    since: Option<Instant>,
    status: u16,
    /// What the access log needs, if there is one.
    entry: Option<Box<Entry>>,
}

/// How a request is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// It enters at once.
    Enters,
    /// It waits until [`Counted::is_let_through`].
    Waits,
    /// It is quiet.
    Quiet,
    /// It belongs to no service.
    Unrouted,
}

#[derive(Debug)]
struct Entry {
    begun: Instant,
    access: Access,
}

/// The status of a request without a response: the client went away, or all connections were reset.
const NO_RESPONSE: u16 = 499;

impl Counted {
    /// A request that goes by `route` begins; `access` says what the log has of it.
    pub(super) fn begin(route: &Route, how: How, access: impl FnOnce() -> Access) -> Self {
        let requests = route.requests.as_ref().map(References::local);
        if let Some(requests) = &requests {
            match how {
                How::Enters => requests.begins(),
                How::Waits => requests.waits(),
                How::Quiet | How::Unrouted => (),
            }
        }
        let http = route.context.http.as_ref();
        let is_logged = http.is_some_and(|http| http.access_log);
        Self {
            requests,
            how,
            since: (how == How::Waits).then(Instant::now),
            status: 0,
            entry: is_logged.then(|| {
                Box::new(Entry {
                    begun: Instant::now(),
                    access: access(),
                })
            }),
        }
    }

    /// One that an earlier process has begun.
    pub(super) fn resume(route: &Route, client: Peer) -> Self {
        Self::begin(route, How::Enters, || Access::of(client))
    }

    /// The service answers it now: it waits no more.
    pub(super) fn is_let_through(&mut self) {
        let Some(since) = self.since.take() else {
            return;
        };
        let waited = since.elapsed();
        self.tell(|requests| requests.waited(waited));
        if let Some(entry) = &mut self.entry {
            // What has waited is told from what has not, however coarse the clock.
            entry.access.waited += waited.max(Duration::from_micros(1));
        }
    }

    /// The status of its response.
    pub(super) fn status(&mut self, status: u16) {
        self.status = status;
    }

    /// What it has carried by now, each way.
    pub(super) fn carries(&mut self, up: u64, down: u64) {
        if let Some(Entry { access, .. }) = self.entry.as_deref_mut() {
            (access.up, access.down) = (up, down);
        }
    }

    /// It is sent once more.
    pub(super) fn retry(&self) {
        self.tell(Requests::retry);
    }

    /// It is answered with the waiting page.
    pub(super) fn page(&self) {
        self.tell(Requests::page);
    }

    /// It is answered by us, with this status, because the service fails it.
    pub(super) fn failure(&self, status: u16) {
        self.tell(|requests| requests.failure(status));
    }

    /// It goes on in the next process, or as another one, and counts there.
    pub(super) fn leave(mut self) {
        if self.since.take().is_some() {
            self.tell(Requests::leaves_waiting);
        } else if self.how != How::Quiet {
            self.tell(Requests::leaves);
        }
        self.requests = None;
        self.entry = None;
    }

    fn tell(&self, what: impl FnOnce(&Requests)) {
        if let (Some(requests), How::Enters | How::Waits) = (&self.requests, self.how) {
            what(requests);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.is_let_through();
        let status = match self.status {
            0 => NO_RESPONSE,
            status => status,
        };
        if let Some(requests) = &self.requests {
            match self.how {
                How::Enters | How::Waits => requests.ends(status),
                How::Quiet => requests.quiet(),
                How::Unrouted => requests.front.unrouted(),
            }
        }
        if let Some(Entry { begun, access }) = self.entry.as_deref_mut() {
            (access.status, access.took) = (status, begun.elapsed());
            access.log();
        }
    }
}

/// A connection over which requests come.
#[derive(Debug)]
pub(super) struct Connected {
    front: Option<Arc<Front>>,
    is_active: bool,
}

impl Connected {
    /// One that comes by this route.
    pub(super) fn by(route: &Route) -> Self {
        let requests = route.requests.as_ref();
        let front = requests.map(|requests| requests.front.clone());
        front.iter().for_each(|front| front.connects());
        Self {
            front,
            is_active: false,
        }
    }

    /// Whether it has a request now.
    pub(super) fn active(&mut self, active: bool) {
        if let Some(front) = &self.front
            && active != std::mem::replace(&mut self.is_active, active)
        {
            match active {
                true => front.activates(),
                false => front.rests(),
            }
        }
    }
}

/// A request that has upgraded its connection, until that ends.
#[derive(Debug)]
pub(super) struct Upgraded {
    pub(super) counted: Counted,
    _connected: Connected,
}

impl Upgraded {
    pub(super) fn new(mut counted: Counted, mut connected: Connected) -> Self {
        counted.status(101);
        connected.active(true);
        Self {
            counted,
            _connected: connected,
        }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.active(false);
        self.front.iter().for_each(|front| front.closes());
    }
}
