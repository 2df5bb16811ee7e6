//! Notifications to the service manager: READY, STATUS, STOPPING, WATCHDOG (sd_notify(3)). They may
//! block when it hangs, so a thread of its own sends them.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pipe::{PipeFlags, pipe_with};
use sd_notify::NotifyState;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

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
    /// A text; whoever waits for it is told when it was sent.
    Text(String, Option<SyncSender<()>>),
    /// Descriptors to be stored by this name.
    Store(&'static str, Vec<OwnedFd>, oneshot::Sender<io::Result<()>>),
}

/// Messages that wait to be sent; only when the manager hangs are there more, which are dropped.
const QUEUE: usize = 64;

/// EXTEND_TIMEOUT_USEC: how often the manager is told that stopping takes so much longer.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
const EXTEND_BY: Duration = Duration::from_secs(15);

/// How long the manager may take until it has received what it is to store.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

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
        self.tell("READY=1");
    }

    /// STATUS: what is going on.
    pub fn status(&self, text: &str) {
        // A newline would end the field, and the manager takes 4096 bytes in all.
        let text: String = one_line(text).chars().take(512).collect();
        self.tell(format!("STATUS={text}"));
    }

    /// Tells the manager that the event loop runs, twice within its limit, if it has one.
    pub async fn feed_watchdog(self) {
        let limit = sd_notify::watchdog_enabled();
        while let Some(limit) = limit.filter(|limit| !limit.is_zero()) {
            self.tell("WATCHDOG=1");
            sleep(limit / 2).await;
        }
    }

    /// Has the manager wait for us until this is dropped.
    pub async fn keep_extending(&self) {
        loop {
            self.tell(format!("EXTEND_TIMEOUT_USEC={}", EXTEND_BY.as_micros()));
            sleep(EXTEND_EVERY).await;
        }
    }

    /// FDSTORE: has the manager keep these for the next process, by this name. Returns when it has
    /// received them, and all that it was told before; whether it keeps them it does not say.
    pub async fn store(
        &self,
        name: &'static str,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let copies = descriptors.iter().map(BorrowedFd::try_clone_to_owned);
        let copies = copies.collect::<io::Result<_>>()?;
        let (reply, received) = oneshot::channel();
        if !self.notify(Message::Store(name, copies, reply)) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let sent = timeout(STORE_TIMEOUT, received).await;
        sent?.map_err(|_| io::ErrorKind::NotConnected)?
    }

    /// FDSTOREREMOVE: what is stored by these names is not wanted any more.
    pub fn forget(&self, names: Vec<String>) {
        for name in names {
            self.tell(format!("FDSTOREREMOVE=1\nFDNAME={name}"));
        }
    }

    /// STOPPING: the process exits. Returns when that is sent.
    pub fn stopping(&self) {
        let (sent, done) = sync_channel(1);
        if self.notify(Message::Text("STOPPING=1".into(), Some(sent))) {
            let _ = done.recv_timeout(STOPPING_TIMEOUT);
        }
    }

    fn tell(&self, text: impl Into<String>) {
        self.notify(Message::Text(text.into(), None));
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
    match message {
        Message::Text(text, sent) => {
            // A failure could only be reported to the manager.
            let _ = sd_notify::notify(&[NotifyState::Custom(&text)]);
            if let Some(sent) = sent {
                let _ = sent.send(());
            }
        }
        Message::Store(name, descriptors, reply) => {
            let _ = reply.send(store(name, &descriptors));
        }
    }
}

/// Sends what is to be stored. Returns when the manager has it (BARRIER).
fn store(name: &str, descriptors: &[OwnedFd]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    let path = std::env::var_os("NOTIFY_SOCKET").ok_or(io::ErrorKind::NotConnected)?;
    match path.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(&path)?,
    }
    // Without FDPOLL=0, it would be removed when its other end closes.
    let text = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n");
    for descriptor in descriptors {
        send_with(&socket, &text, descriptor.as_fd())?;
    }
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    send_with(&socket, "BARRIER=1\n", theirs.as_fd())?;
    drop(theirs);
    let limit = Timespec::try_from(STORE_TIMEOUT).map_err(io::Error::other)?;
    let mut fds = [PollFd::new(&ours, PollFlags::empty())];
    match poll(&mut fds, Some(&limit))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

fn send_with(socket: &UnixDatagram, text: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let text = [IoSlice::new(text.as_bytes())];
    sendmsg(socket, &text, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
