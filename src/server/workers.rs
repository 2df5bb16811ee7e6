//! The threads that accept and relay, each with an event loop of its own: both directions of a
//! connection stay on one of them, and control, which has the main thread to itself, never waits
//! behind data.

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::util::lock::locked;

/// The threads. There are as many as are of use: the first one starts with the first connection, the
/// second one when two are open at once, and so on.
#[derive(Debug)]
pub struct Workers {
    started: Mutex<Vec<Worker>>,
    /// How many there may be. The cores that we may use are only counted when it matters, since
    /// the first client waits for as little as possible.
    most: OnceLock<NonZeroUsize>,
    /// Notified when a thread has started.
    grown: Notify,
    end: CancellationToken,
    _end: DropGuard,
}

/// One thread, and how many connections it has.
#[derive(Clone, Debug)]
struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
    /// It has a thread of its own.
    is_thread: bool,
}

impl Workers {
    /// At most so many threads; `None` is one for each core that we may use.
    pub fn new(most: Option<NonZeroUsize>) -> Self {
        let end = CancellationToken::new();
        Self {
            started: Mutex::default(),
            most: most.map_or_else(OnceLock::new, OnceLock::from),
            grown: Notify::new(),
            _end: end.clone().drop_guard(),
            end,
        }
    }

    /// A slot for a connection that was accepted on thread number `own`, if on one of these, and
    /// where its tasks are to be spawned: there, unless another thread has clearly less to do.
    pub fn slot(&self, own: Option<usize>) -> (WorkerSlot, Handle) {
        let mut started = locked(&self.started);
        let free = started.iter().any(|worker| worker.connections() == 0);
        if !free && self.may_start_after(started.len()) {
            match Worker::start(&self.end) {
                Ok(worker) => {
                    started.push(worker);
                    self.grown.notify_one();
                }
                Err(error) if started.is_empty() => {
                    tracing::warn!("cannot start a thread ({error}); relaying on the main one");
                    started.push(Worker::main());
                }
                // It is tried again with the next connection.
                Err(_) => (),
            }
        }
        let least = started.iter().min_by_key(|worker| worker.connections());
        let least = least.expect("there is one by now");
        let own = own.and_then(|own| started.get(own));
        let enough = |least: usize| least + least.div_ceil(4);
        let own = own.filter(|own| own.connections() <= enough(least.connections()));
        let worker = own.unwrap_or(least);
        worker.connections.fetch_add(1, Ordering::Relaxed);
        (
            WorkerSlot(worker.connections.clone()),
            worker.runtime.clone(),
        )
    }

    /// Waits until there are more threads than `known`; the event loops of the new ones.
    pub async fn grown(&self, known: usize) -> Vec<Handle> {
        loop {
            let mut threads = locked(&self.started).clone();
            threads.retain(|worker| worker.is_thread);
            if threads.len() > known {
                let new = threads.into_iter().skip(known);
                return new.map(|worker| worker.runtime).collect();
            }
            self.grown.notified().await;
        }
    }

    /// Whether there may be one more thread than `started`.
    fn may_start_after(&self, started: usize) -> bool {
        let cores = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        started == 0 || started < self.most.get_or_init(cores).get()
    }
}

impl Worker {
    fn start(end: &CancellationToken) -> io::Result<Self> {
        let runtime = RuntimeGuard(Some(Builder::new_current_thread().enable_all().build()?));
        let handle = runtime.runtime().handle().clone();
        let end = end.clone();
        thread::Builder::new()
            .name("relay".into())
            .spawn(move || runtime.runtime().block_on(end.cancelled()))?;
        Ok(Self {
            runtime: handle,
            connections: Arc::default(),
            is_thread: true,
        })
    }

    /// The thread that calls.
    fn main() -> Self {
        Self {
            runtime: Handle::current(),
            connections: Arc::default(),
            is_thread: false,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// An event loop that may be dropped anywhere: where no thread can be started for it, that is within
/// another one, and there tokio forbids to wait for what it still does.
struct RuntimeGuard(Option<Runtime>);

impl RuntimeGuard {
    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("it is taken in the end only")
    }
}

impl Drop for RuntimeGuard {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A connection's slot on a thread; dropping it leaves.
#[derive(Debug)]
pub struct WorkerSlot(Arc<AtomicUsize>);

impl Drop for WorkerSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
