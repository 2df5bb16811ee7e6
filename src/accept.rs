//! Takes clients from a listener, as long as there is room for them; the others stay in the
//! kernel's backlog.

use std::io;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::listen::Listener;
use crate::session::{Entrance, Hall};
use crate::stream::Stream;

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
        let socket = self.listener.watched()?;
        let mut pause = FIRST_PAUSE;
        let mut in_want = false;
        loop {
            let room = tokio::select! {
                room = self.hall.room() => room,
                () = stop.cancelled() => return Ok(()),
            };
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok(client) => {
                    self.hall.admit(client, &self.entrance, room);
                    pause = FIRST_PAUSE;
                    in_want = false;
                }
                Err(error) if concerns_one_client(&error) => (),
                Err(error) => {
                    drop(room);
                    if !std::mem::replace(&mut in_want, true) {
                        tracing::warn!(
                            "cannot accept on `{}`: {error}; clients wait in the backlog",
                            self.entrance.listener
                        );
                    }
                    tokio::select! {
                        () = sleep(pause) => (),
                        () = stop.cancelled() => return Ok(()),
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Takes in a client that waits right now, accepting done; says whether there was one.
    pub fn last_call(&self) -> bool {
        let Some(room) = self.hall.room_now() else {
            return true;
        };
        match self
            .listener
            .try_accept()
            .map(|client| client.map(Stream::from_fd))
        {
            Ok(Some(Ok(client))) => {
                self.hall.admit(client, &self.entrance, room);
                true
            }
            Ok(None) => false,
            // Somebody may wait; whoever does is found when accepting goes on.
            Ok(Some(Err(_))) | Err(_) => true,
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
