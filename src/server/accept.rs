//! Takes clients from a listener, as long as there is room for them; the others stay in the
//! kernel's backlog.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::config::address::Peer;
use crate::net::listen::Listener;
use crate::net::stream::RawStream;
use crate::session::{ConnectionSlot, Route, Sessions};

/// A listener, and where its clients go.
#[derive(Debug)]
pub struct Acceptor {
    listener: Listener,
    entrance: Route,
    hall: Sessions,
    /// It was said that nobody can be accepted, and nobody was since.
    complained: AtomicBool,
}

/// How long to wait when a client cannot be accepted for want of something: descriptors, memory.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Acceptor {
    /// Lets the clients of `listener` into `hall`.
    pub fn new(listener: Listener, entrance: Route, hall: Sessions) -> Self {
        Self {
            listener,
            entrance,
            hall,
            complained: AtomicBool::new(false),
        }
    }

    /// Accepts until `stop` is cancelled. Every client that was accepted is known to the driver
    /// by then.
    pub async fn run(&self, stop: CancellationToken) {
        // Most likely somebody waits: that is why we were started. The driver then knows why, too,
        // before it does anything else.
        self.accept_now();
        tokio::select! {
            biased;
            () = stop.cancelled() => (),
            // Nothing is lost where it waits: a client that was accepted is let in at once.
            () = self.accept() => (),
        }
    }

    /// Accepts for ever.
    async fn accept(&self) {
        let mut pause = FIRST_PAUSE;
        let socket = loop {
            match self.listener.watch() {
                Ok(socket) => break socket,
                Err(error) => self.cannot(&error, &mut pause).await,
            }
        };
        loop {
            let room = self.hall.room().await;
            match socket.accept().await {
                Ok((client, peer)) => {
                    self.admit(client, peer, room);
                    pause = FIRST_PAUSE;
                }
                Err(error) if concerns_one_client(&error) => (),
                Err(error) => {
                    drop(room);
                    self.cannot(&error, &mut pause).await;
                }
            }
        }
    }

    fn admit(&self, client: RawStream, peer: Peer, room: ConnectionSlot) {
        self.complained.store(false, Ordering::Relaxed);
        self.hall.admit(client, peer, &self.entrance, room);
    }

    /// Waits until it may be tried again; says why, but not each time.
    async fn cannot(&self, error: &io::Error, pause: &mut Duration) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "cannot accept on `{}`: {error}; clients wait in the backlog",
                self.entrance.listener
            );
        }
        sleep(*pause).await;
        *pause = (*pause * 2).min(LONGEST_PAUSE);
    }

    /// Takes in a client that waits right now; says whether there was one.
    pub fn accept_now(&self) -> bool {
        let Some(room) = self.hall.room_now() else {
            return true;
        };
        match self.listener.try_accept() {
            Ok((client, peer)) => {
                self.admit(client, peer, room);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            // Somebody may wait; whoever does is found when accepting goes on.
            Err(_) => true,
        }
    }
}

/// Errors that accept(2) passes on from a connection that is over already; the next one is fine.
fn concerns_one_client(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errors = [
        Errno::CONNABORTED,
        Errno::INTR,
        Errno::PROTO,
        Errno::NETDOWN,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
        Errno::PERM,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| errors.contains(&Errno::from_raw_os_error(code)))
}
