//! Says to all sessions at once that they are to end.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use tokio::sync::Notify;

/// Tells whoever waits for it, once and for good. A token of tokio-util does the same, but takes a
/// lock whenever a byte moves.
#[derive(Debug, Default)]
pub(super) struct Cut {
    made: AtomicBool,
    bell: Notify,
}

impl Cut {
    /// Makes it.
    pub(super) fn make(&self) {
        self.made.store(true, Ordering::SeqCst);
        self.bell.notify_waiters();
    }

    /// Waits until it is made; to be polled by one task.
    pub(super) async fn made(&self) {
        let mut bell = pin!(self.bell.notified());
        let mut listening = false;
        poll_fn(|cx| {
            if !listening {
                // What is made from now on is heard; what was made before is seen.
                listening = bell.as_mut().poll(cx).is_pending();
            }
            if self.made.load(Ordering::SeqCst) {
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
    async fn whoever_waits_and_whoever_comes_later_is_told() {
        let cut = Arc::new(Cut::default());
        let tasks = TaskTracker::new();
        for _ in 0..3 {
            let cut = cut.clone();
            tasks.spawn(async move { cut.made().await });
        }
        let early = timeout(Duration::from_millis(1), cut.made()).await;
        assert!(early.is_err(), "nobody has made it yet");
        cut.make();
        cut.made().await;
        tasks.close();
        tasks.wait().await;
    }
}
