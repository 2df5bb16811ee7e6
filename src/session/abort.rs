//! Ends all sessions at once.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use tokio::sync::Notify;

/// A signal to all sessions, once and for good. A token of tokio-util does the same, but takes a lock
/// whenever a byte moves.
#[derive(Debug, Default)]
pub struct Abort {
    triggered: AtomicBool,
    notify: Notify,
}

impl Abort {
    /// Triggers it.
    pub fn trigger(&self) {
        self.triggered.store(true, Ordering::SeqCst);
        self.notify.notify_waiters();
    }

    /// Waits until it is triggered; to be polled by one task.
    pub async fn triggered(&self) {
        let mut notify = pin!(self.notify.notified());
        let mut listening = false;
        poll_fn(|cx| {
            if !listening {
                // From now on a trigger is heard; one that came before is seen.
                listening = notify.as_mut().poll(cx).is_pending();
            }
            if self.triggered.load(Ordering::SeqCst) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::timeout;
    use tokio_util::task::TaskTracker;

    use super::*;

    #[tokio::test]
    async fn those_that_wait_and_those_that_come_later_are_told() {
        let abort = Arc::new(Abort::default());
        let tasks = TaskTracker::new();
        for _ in 0..3 {
            let abort = abort.clone();
            tasks.spawn(async move { abort.triggered().await });
        }
        let early = timeout(Duration::from_millis(1), abort.triggered()).await;
        assert!(early.is_err(), "it is not triggered yet");
        abort.trigger();
        abort.triggered().await;
        tasks.close();
        tasks.wait().await;
    }
}
