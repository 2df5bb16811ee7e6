//! Orders to the backend: one at a time, each a task that reports to the inbox.

use std::pin::Pin;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::door::Door;
use super::{Driver, Handle, Message};
use crate::backend::{Backend, StopScope, WakeOrder};
use crate::core::lifecycle::Phase;

/// The order before, which is to be waited for; it says what it has started.
type Previous = Pin<Box<dyn Future<Output = StopScope> + Send>>;

impl Driver {
    /// Has the service started, for the client that has waited longest.
    pub(super) fn wake(&mut self) {
        let first = self
            .doors
            .iter()
            .enumerate()
            .find_map(|(index, door)| Some((index, door.first()?)));
        let Some((door, first)) = first else { return };
        self.given_up = CancellationToken::new();
        self.woken_for = door;
        let order = WakeOrder {
            target: self.doors[door].target(),
            listener: first.listener.clone(),
            client: first.peer,
            limit: self.start_timeout,
            given_up: self.given_up.clone(),
        };
        self.doors.iter_mut().for_each(Door::forget_limits);
        self.order(|number, previous, backend, handle| async move {
            previous.await;
            let woken = backend.wake(order).await;
            handle.post(Message::Woken(number, woken.result));
            woken.started
        });
    }

    /// Has the service stopped.
    pub(super) fn sleep(&mut self) {
        self.order(|number, previous, backend, handle| async move {
            previous.await;
            stop(number, &backend, &handle, StopScope::All).await
        });
    }

    /// Ends the start that is under way, and with `undo` has stopped what it started.
    pub(super) fn give_up(&mut self, undo: bool) {
        self.given_up.cancel();
        self.order(|number, previous, backend, handle| async move {
            let started = previous.await;
            if undo {
                stop(number, &backend, &handle, started).await
            } else {
                started
            }
        });
    }

    /// Ends what is under way; with `sleep` the service sleeps then, whatever its state.
    pub(super) async fn close(mut self, sleep: bool, limit: Duration) {
        self.given_up.cancel();
        self.order(move |_, previous, backend, _| async move {
            previous.await;
            if !sleep {
                return StopScope::All;
            }
            match backend.sleep(StopScope::All).await {
                Ok(()) => StopScope::Nothing,
                Err(why) => {
                    tracing::warn!("could not put the service to sleep: {why}");
                    StopScope::All
                }
            }
        });
        let mut running = StopScope::All;
        if let Some(order) = self.order.take()
            && let Ok(Ok(rest)) = tokio::time::timeout(limit, order).await
        {
            running = rest;
        }
        // Without us, systemd's own dependencies stop what they have started.
        let asleep = running == StopScope::Nothing || !self.backend.can_start();
        self.story.close(asleep);
    }

    /// Begins an order, which is to wait for the one before, whatever that was.
    fn order<F, T>(&mut self, begin: F)
    where
        F: FnOnce(u64, Previous, Backend, Handle) -> T,
        T: Future<Output = StopScope> + Send + 'static,
    {
        self.epoch += 1;
        self.orders += 1;
        let previous = self.order.take();
        let previous: Previous = Box::pin(async move {
            match previous {
                Some(order) => order.await.unwrap_or(StopScope::Nothing),
                None => StopScope::Nothing,
            }
        });
        let (backend, handle) = (self.backend.clone(), self.handle.clone());
        self.order = Some(
            self.tasks
                .spawn(begin(self.orders, previous, backend, handle)),
        );
    }
}

/// Stops what `extent` names, and reports.
async fn stop(number: u64, backend: &Backend, handle: &Handle, extent: StopScope) -> StopScope {
    let freed = match extent {
        StopScope::All => backend.memory().await,
        StopScope::Units(_) | StopScope::Nothing => None,
    };
    let result = match backend.sleep(extent).await {
        Ok(()) => Ok(freed),
        // If nobody can tell, it may well be running still.
        Err(why) => Err((why, backend.query().await.unwrap_or(Phase::Stopping))),
    };
    handle.post(Message::Slept(number, result));
    StopScope::Nothing
}
