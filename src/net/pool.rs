//! Connections to a target that are idle between two requests, each for the thread that watches it.

use std::sync::atomic::{AtomicUsize, Ordering};
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

/// The idle connections to one target.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    parts: Arc<[Part; PARTS]>,
    /// Those that carry several requests at once.
    pub shared: Shared,
}

/// How many parts it has.
const PARTS: usize = 8;

/// The connections of a thread, or of several if there are many, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Part(Mutex<Kept>);

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

/// Which part is this thread's.
fn own_part() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: usize = THREADS.fetch_add(1, Ordering::Relaxed) % PARTS;
    }
    OWN.with(|own| *own)
}

impl Pool {
    /// The connection of this thread that was used last, unless that is longer ago than `oldest`. For what
    /// `may_repeat` it may turn out to be closed.
    pub fn take(&self, oldest: Duration, may_repeat: bool) -> Option<AsyncStream> {
        loop {
            let mut kept = locked(&self.parts[own_part()].0);
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
        let (thread, part) = (thread::current().id(), own_part());
        let mut kept = locked(&self.parts[part].0);
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
            let parts = Arc::downgrade(&self.parts);
            kept.sweeper.spawn(sweep(parts, part));
        }
    }

    /// Closes all.
    pub fn clear(&self) {
        for Part(kept) in &*self.parts {
            locked(kept).idle.clear();
        }
        self.shared.clear();
    }
}

/// Closes the connections that no request takes, until none is left.
async fn sweep(parts: Weak<[Part; PARTS]>, part: usize) {
    loop {
        sleep(LONGEST).await;
        let Some(parts) = parts.upgrade() else {
            return;
        };
        let mut kept = locked(&parts[part].0);
        kept.idle.retain(|idle| idle.since.elapsed() < LONGEST);
        if kept.idle.is_empty() {
            kept.is_swept = false;
            return;
        }
    }
}
