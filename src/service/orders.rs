//! What is asked of the backend: orders, one at a time, and queries. Each is a task that reports to
//! the inbox.

use std::pin::Pin;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::handle::{Handle, Message, Stopped};
use crate::backend::{Backend, StopScope, WakeOrder};
use crate::core::lifecycle::Phase;

/// The order before, which is to be waited for; it says what it has started.
type Previous = Pin<Box<dyn Future<Output = StopScope> + Send>>;

/// The order under way or last carried out; the next one waits for it.
#[derive(Debug)]
pub(super) struct Orders {
    backend: Backend,
    handle: Handle,
    tasks: TaskTracker,
    last: Option<JoinHandle<StopScope>>,
    given_up: CancellationToken,
    watch: Option<AbortOnDropHandle<()>>,
}

impl Orders {
    pub(super) fn new(backend: Backend, handle: Handle, tasks: TaskTracker) -> Self {
        Self {
            backend,
            handle,
            tasks,
            last: None,
            given_up: CancellationToken::new(),
            watch: None,
        }
    }

    /// Has changes of the service reported from now on.
    pub(super) fn watch(&mut self) {
        let (backend, handle) = (self.backend.clone(), self.handle.clone());
        let watch = async move { backend.watch(move || handle.post(Message::Changed)).await };
        self.watch = Some(AbortOnDropHandle::new(self.tasks.spawn(watch)));
    }

    /// Finds out what the service does; with `explain` also why, if it is down.
    pub(super) fn query(&self, explain: bool) {
        let (backend, handle) = (self.backend.clone(), self.handle.clone());
        self.tasks.spawn(async move {
            let seen = backend.query().await;
            let why = match seen {
                Ok(Phase::Down) if explain => backend.failure_reason().await,
                _ => None,
            };
            handle.post(Message::Queried(seen, why));
        });
    }

    /// A token for the next start, which is cancelled when that is given up.
    pub(super) fn next_start(&mut self) -> CancellationToken {
        self.given_up = CancellationToken::new();
        self.given_up.clone()
    }

    /// Has the service started.
    pub(super) fn start(&mut self, order: WakeOrder) {
        self.begin(|previous, backend, handle| async move {
            previous.await;
            let woken = backend.wake(order).await;
            handle.post(Message::Started(woken.result));
            woken.started
        });
    }

    /// Has the service stopped.
    pub(super) fn stop(&mut self) {
        self.begin(|previous, backend, handle| async move {
            previous.await;
            stop(&backend, &handle, StopScope::All).await
        });
    }

    /// Ends the start that is under way, and with `undo` has stopped what it started.
    pub(super) fn give_up(&mut self, undo: bool) {
        self.given_up.cancel();
        self.begin(move |previous, backend, handle| async move {
            let started = previous.await;
            match undo {
                true => stop(&backend, &handle, started).await,
                false => started,
            }
        });
    }

    /// Ends what is under way, within `limit`; with `stop` the service is stopped then, whatever its
    /// state. Whether it is known to be down.
    pub(super) async fn close(mut self, stop: bool, limit: Duration) -> bool {
        self.given_up.cancel();
        self.begin(move |previous, backend, _| async move {
            previous.await;
            if !stop {
                return StopScope::All;
            }
            match backend.sleep(StopScope::All).await {
                Ok(_) => StopScope::Nothing,
                Err(why) => {
                    tracing::warn!("failed to stop the service: {why}");
                    StopScope::All
                }
            }
        });
        let mut running = StopScope::All;
        if let Some(order) = self.last.take()
            && let Ok(Ok(rest)) = timeout(limit, order).await
        {
            running = rest;
        }
        // Without us, systemd's own dependencies stop what they have started.
        running == StopScope::Nothing || !self.backend.can_start()
    }

    /// Begins an order, which is to wait for the one before, whatever that was.
    fn begin<F, T>(&mut self, order: F)
    where
        F: FnOnce(Previous, Backend, Handle) -> T,
        T: Future<Output = StopScope> + Send + 'static,
    {
        let previous = self.last.take();
        let previous: Previous = Box::pin(async move {
            match previous {
                Some(order) => order.await.unwrap_or(StopScope::Nothing),
                None => StopScope::Nothing,
            }
        });
        let (backend, handle) = (self.backend.clone(), self.handle.clone());
        self.last = Some(self.tasks.spawn(order(previous, backend, handle)));
    }
}

/// Stops what `scope` names, and reports.
async fn stop(backend: &Backend, handle: &Handle, scope: StopScope) -> StopScope {
    let freed = match scope {
        StopScope::All => backend.memory().await,
        StopScope::Units(_) | StopScope::Nothing => None,
    };
    let result = match backend.sleep(scope).await {
        Ok(remark) => Ok(Stopped { freed, remark }),
        // If it cannot be read, it may well be running still.
        Err(why) => Err((why, backend.query().await.unwrap_or(Phase::Stopping))),
    };
    handle.post(Message::Stopped(result));
    StopScope::Nothing
}
