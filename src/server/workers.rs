//! The threads that relay, each with an event loop of its own: a connection's both directions
//! stay on one of them, and control, which has the main thread to itself, never waits behind data.

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The threads. There are as many as are of use: the first one begins with the first client, the
/// second one when two are here at once, and so on.
#[derive(Debug)]
pub struct Workers {
    started: Mutex<Vec<Worker>>,
    /// How many there may be. The cores that we may use are only counted when it matters, since
    /// the first client waits for as little as possible.
    most: OnceLock<NonZeroUsize>,
    end: CancellationToken,
    _end: DropGuard,
}

/// One thread, and how many clients it has.
#[derive(Debug)]
struct Worker {
    runtime: Handle,
    clients: Arc<AtomicUsize>,
}

impl Workers {
    /// At most so many threads; `None` is one for each core that we may use.
    pub fn new(most: Option<NonZeroUsize>) -> Self {
        let end = CancellationToken::new();
        Self {
            started: Mutex::default(),
            most: most.map_or_else(OnceLock::new, OnceLock::from),
            _end: end.clone().drop_guard(),
            end,
        }
    }

    /// A place on the thread that has the fewest clients, and where its tasks are to be spawned.
    pub fn place(&self) -> (WorkerSlot, Handle) {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let free = started.iter().any(|worker| worker.clients() == 0);
        if !free && self.may_start_after(started.len()) {
            match Worker::start(&self.end) {
                Ok(worker) => started.push(worker),
                Err(error) if started.is_empty() => {
                    tracing::warn!("cannot start a thread ({error}); relaying on the main one");
                    started.push(Worker::here());
                }
                // It is tried again with the next client.
                Err(_) => (),
            }
        }
        let worker = started.iter().min_by_key(|worker| worker.clients());
        let worker = worker.expect("there is one by now");
        worker.clients.fetch_add(1, Ordering::Relaxed);
        (WorkerSlot(worker.clients.clone()), worker.runtime.clone())
    }

    /// Whether there may be one more thread than `started`.
    fn may_start_after(&self, started: usize) -> bool {
        let cores = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        started == 0 || started < self.most.get_or_init(cores).get()
    }
}

impl Worker {
    fn start(end: &CancellationToken) -> io::Result<Self> {
        let turns = RuntimeGuard(Some(Builder::new_current_thread().enable_all().build()?));
        let handle = turns.runtime().handle().clone();
        let end = end.clone();
        thread::Builder::new()
            .name("relay".into())
            .spawn(move || turns.runtime().block_on(end.cancelled()))?;
        Ok(Self {
            runtime: handle,
            clients: Arc::default(),
        })
    }

    /// The thread that calls.
    fn here() -> Self {
        Self {
            runtime: Handle::current(),
            clients: Arc::default(),
        }
    }

    fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
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

/// A client's place on a thread; dropping it leaves.
#[derive(Debug)]
pub struct WorkerSlot(Arc<AtomicUsize>);

impl Drop for WorkerSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
