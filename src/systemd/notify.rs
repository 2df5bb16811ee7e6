//! Notifications to the service manager: READY, STATUS, STOPPING, WATCHDOG (sd_notify(3)). They may
//! block when it hangs, so a thread of its own sends them.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::sleep;

use crate::util::text::one_line;

/// Notifies the service manager, if there is one.
#[derive(Clone, Debug)]
pub struct Notifier(Sink);

#[derive(Clone, Debug)]
enum Sink {
    /// There is no manager.
    None,
    /// By the thread.
    Thread(SyncSender<Message>),
    /// By the caller, where no thread could be started: a manager that is never told READY stops
    /// us.
    Caller,
}

#[derive(Debug)]
enum Message {
    Ready,
    Status(String),
    Alive,
    Extend(Duration),
    Forget(Vec<String>),
    Stopping(SyncSender<()>),
}

/// Messages that wait to be sent; only when the manager hangs are there more, which are dropped.
const QUEUE: usize = 64;

/// EXTEND_TIMEOUT_USEC: how often the manager is told that stopping takes so much longer.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
const EXTEND_BY: Duration = Duration::from_secs(15);

/// How long the exit waits for STOPPING to be sent.
const STOPPING_TIMEOUT: Duration = Duration::from_secs(1);

impl Notifier {
    /// Starts, if there is a `NOTIFY_SOCKET`.
    pub fn start() -> Self {
        if std::env::var_os("NOTIFY_SOCKET").is_none_or(|path| path.is_empty()) {
            return Self::silent();
        }
        let (queue, messages) = sync_channel(QUEUE);
        let started = thread::Builder::new()
            .name("notify".into())
            .spawn(move || send_all(&messages));
        Self(started.map_or(Sink::Caller, |_| Sink::Thread(queue)))
    }

    /// One that sends nothing.
    pub fn silent() -> Self {
        Self(Sink::None)
    }

    /// READY: the sockets are ours.
    pub fn ready(&self) {
        self.notify(Message::Ready);
    }

    /// STATUS: what is going on.
    pub fn status(&self, text: String) {
        self.notify(Message::Status(text));
    }

    /// Tells the manager that the event loop runs, twice within its limit, if it has one.
    pub async fn feed_watchdog(self) {
        let limit = sd_notify::watchdog_enabled();
        while let Some(limit) = limit.filter(|limit| !limit.is_zero()) {
            self.notify(Message::Alive);
            sleep(limit / 2).await;
        }
    }

    /// Has the manager wait for us until this is dropped.
    pub async fn keep_extending(&self) {
        loop {
            self.notify(Message::Extend(EXTEND_BY));
            sleep(EXTEND_EVERY).await;
        }
    }

    /// FDSTOREREMOVE: what is stored by these names is not known to this version.
    pub fn forget(&self, names: Vec<String>) {
        for name in &names {
            tracing::warn!(
                "`{name}` in the file descriptor store is not known to this version: removed"
            );
        }
        if !names.is_empty() {
            self.notify(Message::Forget(names));
        }
    }

    /// STOPPING: the process exits. Returns when that is sent.
    pub fn stopping(&self) {
        let (sent, done) = sync_channel(1);
        if self.notify(Message::Stopping(sent)) {
            let _ = done.recv_timeout(STOPPING_TIMEOUT);
        }
    }

    fn notify(&self, message: Message) -> bool {
        match &self.0 {
            Sink::None => false,
            Sink::Thread(queue) => queue.try_send(message).is_ok(),
            Sink::Caller => {
                send(message);
                true
            }
        }
    }
}

/// At first the manager is left alone: it starts the service that a client waits for.
const NOTIFY_DELAY: Duration = Duration::from_millis(20);

fn send_all(messages: &Receiver<Message>) {
    thread::sleep(NOTIFY_DELAY);
    while let Ok(message) = messages.recv() {
        send(message);
    }
}

fn send(message: Message) {
    // A failure could only be reported to the manager.
    let _ = match &message {
        Message::Ready => sd_notify::notify(&[NotifyState::Ready]),
        // A newline would end the field, and the manager takes 4096 bytes in all.
        Message::Status(text) => {
            let text: String = one_line(text).chars().take(512).collect();
            sd_notify::notify(&[NotifyState::Status(&text)])
        }
        Message::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
        Message::Extend(time) => {
            let usec = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
            sd_notify::notify(&[NotifyState::ExtendTimeoutUsec(usec)])
        }
        Message::Forget(names) => names.iter().try_for_each(|name| {
            let removal = format!("FDSTOREREMOVE=1\nFDNAME={name}");
            sd_notify::notify(&[NotifyState::Custom(&removal)])
        }),
        Message::Stopping(_) => sd_notify::notify(&[NotifyState::Stopping]),
    };
    if let Message::Stopping(sent) = message {
        let _ = sent.send(());
    }
}
