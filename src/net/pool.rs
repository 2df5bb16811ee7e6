//! Connections to a target that are idle between two requests, each for the thread that watches it.

use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::net::http2::Shared;
use crate::net::stream::AsyncStream;
use crate::util::lock::locked;
use crate::util::per_thread::PerThread;

/// The idle connections to one target, those of each thread by themselves.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    parts: Arc<PerThread<Arc<Mutex<Kept>>>>,
    /// Those that carry several requests at once.
    pub shared: Shared,
}

/// The connections of a thread, or of several if there are many.
#[derive(Debug, Default)]
struct Kept {
    idle: Vec<Idle>,
    /// The task that closes those that are idle for too long, while there are any.
    sweeper: JoinSet<()>,
    is_swept: bool,
}

#[derive(Debug)]
struct Idle {
    thread: ThreadId,
    since: Instant,
    stream: AsyncStream,
}

/// How many a thread keeps for one target: as many as it seldom has requests under way at the same moment.
const MOST: usize = 128;

/// Servers keep idle connections for 5 s (Apache, Node.js) or longer; a short while is enough for a
/// client that goes on.
pub const LONGEST: Duration = Duration::from_secs(2);

/// No server closes a connection, or says anything on it, this soon after it has said that it keeps it. One
/// that ends does: a request that may be repeated is, and others have the kernel asked.
const SURE: Duration = Duration::from_millis(1);

impl Pool {
    /// The connection of this thread that was used last, unless that is longer ago than `oldest`. For what
    /// `may_repeat` it may turn out to be closed.
    pub fn take(&self, oldest: Duration, may_repeat: bool) -> Option<AsyncStream> {
        loop {
            let mut kept = locked(self.parts.own());
            let (idle, own) = (&mut kept.idle, thread::current().id());
            let last = idle.iter().rposition(|idle| idle.thread == own)?;
            let age = idle[last].since.elapsed();
            if age > oldest {
                return None;
            }
            let Idle { stream, .. } = idle.remove(last);
            drop(kept);
            let mut cx = Context::from_waker(Waker::noop());
            if may_repeat && age < SURE && stream.poll_readable(&mut cx).is_pending() {
                return Some(stream);
            }
            // The target has not closed it, nor has it sent anything out of turn. The kernel is asked:
            // the event loop may not have heard of it yet.
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            if rustix::net::recv(&stream, &mut [0; 1], flags) == Err(Errno::AGAIN) {
                return Some(stream);
            }
        }
    }

    /// Keeps a connection of this thread for a while.
    pub fn put(&self, stream: AsyncStream) {
        let (thread, part) = (thread::current().id(), self.parts.own());
        let mut kept = locked(part);
        let idle = &mut kept.idle;
        if idle.iter().filter(|idle| idle.thread == thread).count() == MOST {
            return;
        }
        let since = Instant::now();
        idle.push(Idle {
            thread,
            since,
            stream,
        });
        if !std::mem::replace(&mut kept.is_swept, true) {
            while kept.sweeper.try_join_next().is_some() {}
            kept.sweeper.spawn(sweep(Arc::downgrade(part)));
        }
    }

    /// Closes all.
    pub fn clear(&self) {
        for kept in self.parts.all() {
            locked(kept).idle.clear();
        }
        self.shared.clear();
    }
}

/// Closes the connections that no request takes, until none is left.
async fn sweep(part: Weak<Mutex<Kept>>) {
    loop {
        sleep(LONGEST).await;
        let Some(part) = part.upgrade() else {
            return;
        };
        let mut kept = locked(&part);
        kept.idle.retain(|idle| idle.since.elapsed() < LONGEST);
        if kept.idle.is_empty() {
            kept.is_swept = false;
            return;
        }
    }
}
