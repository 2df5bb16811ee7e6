//! Ends all sessions at once.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

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
    pub fn triggered(&self) -> Triggered<'_> {
        Triggered {
            abort: self,
            notified: Box::pin(self.notify.notified()),
            listening: false,
        }
    }
}

/// Ready when it is triggered.
#[derive(Debug)]
pub struct Triggered<'a> {
    abort: &'a Abort,
    notified: Pin<Box<Notified<'a>>>,
    listening: bool,
}

impl Future for Triggered<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.listening {
            // From now on a trigger is heard; one that came before is seen.
            self.listening = self.notified.as_mut().poll(cx).is_pending();
        }
        match self.abort.triggered.load(Ordering::SeqCst) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
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
