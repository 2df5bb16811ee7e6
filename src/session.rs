//! One client from accept to close: find out who it is, ask for a permit, dial, relay, report.

mod introduction;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Liveness, span};
use crate::dial::{Dialer, Target};
use crate::driver::{Handle, Permit, Traffic, Verdict};
use crate::probe::Answer;
use crate::proxy_header::Origin;
use crate::relay::{self, Ended, Totals};
use crate::stream::{Peer, Stream};

use introduction::{Introduction, Reception};

/// What all sessions of a service share.
#[derive(Clone, Debug)]
pub struct Hall {
    driver: Handle,
    dialer: Dialer,
    reception: Option<Reception>,
    tasks: TaskTracker,
    /// Cancelled when the connections that are left are to end.
    cut: CancellationToken,
    seats: Arc<Semaphore>,
    bench: Arc<Semaphore>,
    liveness: Liveness,
}

/// Room for one more client: a connection, and a place to wait.
#[derive(Debug)]
pub struct Room {
    seat: OwnedSemaphorePermit,
    bench: OwnedSemaphorePermit,
}

/// What the listener knows of the clients it lets in.
#[derive(Clone, Debug)]
pub struct Entrance {
    /// The listener's name.
    pub listener: String,
    /// The index of the target behind it.
    pub door: usize,
    /// The target behind it.
    pub target: Arc<Target>,
}

impl Hall {
    /// A hall with so many seats, and so many places to wait.
    pub fn new(
        driver: Handle,
        dialer: Dialer,
        seats: usize,
        bench: usize,
        liveness: Liveness,
    ) -> Self {
        let semaphore = |n: usize| Arc::new(Semaphore::new(n.clamp(1, Semaphore::MAX_PERMITS)));
        Self {
            driver,
            dialer,
            reception: None,
            tasks: TaskTracker::new(),
            cut: CancellationToken::new(),
            seats: semaphore(seats),
            bench: semaphore(bench),
            liveness,
        }
    }

    /// The same, but where `accept` says so, each client has to be introduced by a PROXY header.
    pub fn introduced(self, accept: bool) -> Self {
        Self {
            reception: accept.then(Reception::new),
            ..self
        }
    }

    /// Waits until there is room for one more client.
    pub async fn room(&self) -> Room {
        let free = "semaphores are never closed";
        Room {
            seat: self.seats.clone().acquire_owned().await.expect(free),
            bench: self.bench.clone().acquire_owned().await.expect(free),
        }
    }

    /// Room for one more client, if there is some right now.
    pub fn room_now(&self) -> Option<Room> {
        Some(Room {
            seat: self.seats.clone().try_acquire_owned().ok()?,
            bench: self.bench.clone().try_acquire_owned().ok()?,
        })
    }

    /// Takes in a client. The driver knows of it when this returns.
    pub fn admit(&self, client: Stream, entrance: &Entrance, room: Room) {
        client.tune(&self.liveness);
        let peer = client
            .peer()
            .map_or_else(|_| "unknown".into(), |peer| peer.to_string());
        let origin = if self.dialer.announces() {
            origin(&client)
        } else {
            Origin::Unknown
        };
        let permit = match &self.reception {
            None => self.driver.arrive(entrance.door, &entrance.listener, peer),
            Some(_) => self.driver.knock(entrance.door, &entrance.listener, peer),
        };
        let session = Session {
            reception: self.reception.clone(),
            origin,
            target: entrance.target.clone(),
            dialer: self.dialer.clone(),
            cut: self.cut.clone(),
            idle_timeout: self.liveness.idle_timeout,
            permit,
        };
        self.tasks.spawn(session.run(client, room));
    }

    /// Waits until every client has left.
    pub async fn empty(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }

    /// How many clients are here.
    pub fn clients(&self) -> usize {
        self.tasks.len()
    }

    /// Resets the connections that are left.
    pub async fn cut(&self) {
        self.cut.cancel();
        self.empty().await;
    }
}

struct Session {
    reception: Option<Reception>,
    /// On whose behalf the target is connected to, if it is told at all.
    origin: Origin,
    target: Arc<Target>,
    dialer: Dialer,
    cut: CancellationToken,
    idle_timeout: Duration,
    permit: Permit,
}

/// Who ended the wait for the target.
enum Reached {
    /// With what it has said already.
    Target(Stream, Vec<u8>),
    ClientGone,
    TurnedAway,
}

impl Session {
    async fn run(mut self, client: Stream, room: Room) {
        let Room { seat: _seat, bench } = room;
        let reached = {
            let (cut, target) = (self.cut.clone(), self.reach(&client));
            tokio::select! {
                // A client that breaks off when its target is at hand breaks off there, too.
                biased;
                reached = target => reached,
                () = client.gone() => Reached::ClientGone,
                () = cut.cancelled() => Reached::TurnedAway,
            }
        };
        drop(bench);
        match reached {
            Reached::Target(target, said) => self.relay(client, target, said).await,
            Reached::ClientGone => {
                tracing::debug!(
                    client = self.permit.peer(),
                    "a client left before it was served"
                );
            }
            Reached::TurnedAway => client.reset(),
        }
    }

    /// Waits until the target can be had.
    async fn reach(&mut self, client: &Stream) -> Reached {
        if let Some(reception) = &self.reception {
            match reception.receive(client, &self.permit).await {
                Introduction::Made(origin) => {
                    self.origin = origin.unwrap_or(self.origin);
                    self.permit.introduce(origin.and_then(Origin::client));
                }
                Introduction::Left => return Reached::ClientGone,
                Introduction::Missing => return Reached::TurnedAway,
            }
        }
        loop {
            let answer = match self.permit.verdict().await {
                Verdict::TurnedAway => return Reached::TurnedAway,
                Verdict::Admitted(Some(answer)) => Ok(answer),
                Verdict::Admitted(None) => self.dialer.dial(&self.target).await.map(Answer::from),
            };
            let announced = answer.and_then(|Answer { connection, said }| {
                Ok(Reached::Target(connection.announce(self.origin)?, said))
            });
            match announced {
                Ok(reached) => return reached,
                Err(error) => self.permit.refused(error.to_string()),
            }
        }
    }

    async fn relay(&mut self, client: Stream, target: Stream, said: Vec<u8>) {
        let mut totals = Totals::default();
        let ended = tokio::select! {
            ended = relay::relay(&client, &target, said, self.idle_timeout, &mut totals) => ended,
            () = self.cut.cancelled() => Ended::Reset,
        };
        let Totals { up, down } = totals;
        self.permit.traffic = Traffic {
            up,
            down,
            idle: u64::from(ended == Ended::Idle),
            vanished: u64::from(ended == Ended::Vanished),
        };
        let peer = self.permit.peer();
        match ended {
            Ended::Closed | Ended::Reset => {
                tracing::debug!(
                    client = peer,
                    bytes_up = up,
                    bytes_down = down,
                    "{peer} has left"
                );
            }
            Ended::Idle => tracing::info!(
                client = peer,
                bytes_up = up,
                bytes_down = down,
                "{peer} was ended: it moved no byte for {}",
                span::show(self.idle_timeout)
            ),
            Ended::Vanished => tracing::info!(
                client = peer,
                bytes_up = up,
                bytes_down = down,
                "{peer} was ended: it or its target is not there any more"
            ),
        }
        match ended {
            Ended::Closed | Ended::Idle => (),
            Ended::Reset | Ended::Vanished => {
                client.reset();
                target.reset();
            }
        }
    }
}

/// On whose behalf the target is connected to for a client that nobody introduces.
fn origin(client: &Stream) -> Origin {
    match (client.peer(), client.here()) {
        (Ok(Peer::Tcp(client)), Ok(Peer::Tcp(server))) => Origin::tcp(client, server),
        (Ok(Peer::Unix), _) => Origin::Unix,
        _ => Origin::Unknown,
    }
}
