//! Takes clients from a listener, as long as there is room for them; the others stay in the
//! kernel's backlog.

use std::io;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::listen::{Listener, Watched};
use crate::session::{Entrance, Hall};

/// A listener, and where its clients go.
#[derive(Debug)]
pub struct Acceptor {
    listener: Listener,
    entrance: Entrance,
    hall: Hall,
}

/// How long to wait when a client cannot be accepted for want of something: descriptors, memory.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Acceptor {
    /// Lets the clients of `listener` into `hall`.
    pub fn new(listener: Listener, entrance: Entrance, hall: Hall) -> Self {
        Self {
            listener,
            entrance,
            hall,
        }
    }

    /// Accepts until `stop` is cancelled. Every client that was accepted is known to the driver
    /// by then.
    pub async fn run(&self, stop: CancellationToken) -> io::Result<()> {
        // Most likely somebody waits: that is why we were started. The driver then knows why, too,
        // before it does anything else.
        self.accept_now();
        let socket = self.listener.watch()?;
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            // Nothing is lost where it waits: a client that was accepted is let in at once.
            () = self.accept(&socket) => Ok(()),
        }
    }

    /// Accepts for ever.
    async fn accept(&self, socket: &Watched<'_>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let room = self.hall.room().await;
            match socket.accept().await {
                Ok((client, peer)) => {
                    self.hall.admit(client, peer, &self.entrance, room);
                    pause = FIRST_PAUSE;
                }
                Err(error) if concerns_one_client(&error) => (),
                Err(error) => {
                    drop(room);
                    if pause == FIRST_PAUSE {
                        tracing::warn!(
                            "cannot accept on `{}`: {error}; clients wait in the backlog",
                            self.entrance.listener
                        );
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Takes in a client that waits right now; says whether there was one.
    pub fn accept_now(&self) -> bool {
        let Some(room) = self.hall.room_now() else {
            return true;
        };
        match self.listener.try_accept() {
            Ok((client, peer)) => {
                self.hall.admit(client, peer, &self.entrance, room);
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
