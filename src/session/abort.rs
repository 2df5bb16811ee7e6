//! Ends all sessions at once, or has them pause.

use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::Left;
use crate::net::relay::Interrupt;
use crate::util::lock::locked;

/// A signal to all sessions. A token of tokio-util does the same, but takes a lock
/// whenever a byte moves.
#[derive(Debug, Default)]
pub struct Abort {
    interrupt: AtomicU8,
    notify: Notify,
    /// Connections are to end as soon as they are idle.
    closing: AtomicBool,
    /// Those that cannot pause are.
    finishing: AtomicBool,
    closes: Notify,
    /// How many cannot pause.
    fixed: AtomicUsize,
    /// The sessions that have paused.
    left: Mutex<Vec<Left>>,
}

const NONE: u8 = 0;
const RESET: u8 = 1;
const PAUSE: u8 = 2;

impl Abort {
    /// Triggers it.
    pub fn trigger(&self, interrupt: Interrupt) {
        let interrupt = match interrupt {
            Interrupt::Reset => RESET,
            Interrupt::Pause => PAUSE,
        };
        self.interrupt.store(interrupt, Ordering::SeqCst);
        self.notify.notify_waiters();
    }

    /// Has connections end as soon as they are idle.
    pub fn close_idle(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.finish_fixed();
    }

    /// Has those end as soon as they are idle that cannot pause.
    pub fn finish_fixed(&self) {
        self.finishing.store(true, Ordering::SeqCst);
        self.closes.notify_waiters();
    }

    /// How many there are that cannot pause.
    pub fn fixed(&self) -> usize {
        self.fixed.load(Ordering::SeqCst)
    }

    /// One more that cannot pause, until this is dropped.
    pub(super) fn fix(&self) -> Fixed<'_> {
        self.fixed.fetch_add(1, Ordering::SeqCst);
        Fixed(self)
    }

    /// Whether connections are to end as soon as they are idle.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Waits until connections are to end as soon as they are idle; to be polled by one task.
    pub(super) fn closing(&self) -> Closing<'_> {
        self.told(&self.closing)
    }

    /// The same, for one that cannot pause.
    pub(super) fn finishing(&self) -> Closing<'_> {
        self.told(&self.finishing)
    }

    fn told<'a>(&'a self, closing: &'a AtomicBool) -> Closing<'a> {
        Closing {
            closing,
            notified: Box::pin(self.closes.notified()),
            listening: false,
        }
    }

    /// Those that have paused. Sessions that begin from now on do not.
    pub fn left(&self) -> Vec<Left> {
        self.interrupt.store(NONE, Ordering::SeqCst);
        std::mem::take(&mut *locked(&self.left))
    }

    /// One has paused.
    pub(super) fn keep(&self, session: Left) {
        locked(&self.left).push(session);
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

/// A connection that cannot pause.
#[derive(Debug)]
pub(super) struct Fixed<'a>(&'a Abort);

impl Drop for Fixed<'_> {
    fn drop(&mut self) {
        self.0.fixed.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Ready when connections are to end as soon as they are idle.
#[derive(Debug)]
pub(super) struct Closing<'a> {
    closing: &'a AtomicBool,
    notified: Pin<Box<Notified<'a>>>,
    listening: bool,
}

impl Future for Closing<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.listening {
            self.listening = self.notified.as_mut().poll(cx).is_pending();
        }
        match self.closing.load(Ordering::SeqCst) {
            true => Poll::Ready(()),
            false => Poll::Pending,
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
    type Output = Interrupt;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Interrupt> {
        if !self.listening {
            // From now on a trigger is heard; one that came before is seen.
            self.listening = self.notified.as_mut().poll(cx).is_pending();
        }
        match self.abort.interrupt.load(Ordering::SeqCst) {
            RESET => Poll::Ready(Interrupt::Reset),
            PAUSE => Poll::Ready(Interrupt::Pause),
            _ => Poll::Pending,
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
        abort.trigger(Interrupt::Pause);
        assert_eq!(abort.triggered().await, Interrupt::Pause);
        tasks.close();
        tasks.wait().await;
        assert!(abort.left().is_empty());
        let later = timeout(Duration::from_millis(1), abort.triggered()).await;
        assert!(later.is_err(), "those that come later go on");
    }
}
