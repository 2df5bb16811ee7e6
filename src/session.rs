//! One client from accept to close: find out who it is, ask for a permit, dial, relay, report.

mod cut;
mod introduction;

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::config::access::AccessList;
use crate::config::address::Peer;
use crate::config::{Admission, Liveness, span};
use crate::net::dial::{Dialer, Target};
use crate::net::proxy_header::Origin;
use crate::net::relay::{self, Ended};
use crate::net::stream::{AsyncStream as Stream, RawStream};
use crate::server::workers::{WorkerSlot, Workers};
use crate::service::probe::Answer;
use crate::service::{Handle, Permit, Traffic, Verdict};

use cut::Cut;
use introduction::{HeaderOutcome, ProxyHeaderReader};

/// What all sessions of a service share.
#[derive(Clone, Debug)]
pub struct Sessions {
    driver: Handle,
    seats: Arc<Semaphore>,
    bench: Arc<Semaphore>,
    workers: Arc<Workers>,
    tasks: TaskTracker,
    house: Arc<SessionContext>,
}

/// What a session needs of its surroundings.
#[derive(Debug)]
struct SessionContext {
    dialer: Dialer,
    access: AccessList,
    reception: Option<ProxyHeaderReader>,
    wake_on_data: bool,
    liveness: Liveness,
    /// Made when the connections that are left are to end.
    cut: Cut,
}

/// ConnectionSlot for one more client: a connection, and a place to wait.
#[derive(Debug)]
pub struct ConnectionSlot {
    seat: OwnedSemaphorePermit,
    bench: OwnedSemaphorePermit,
}

/// What the listener knows of the clients it lets in.
#[derive(Clone, Debug)]
pub struct Route {
    /// The listener's name.
    pub listener: Arc<str>,
    /// The index of the target behind it.
    pub door: usize,
    /// The target behind it.
    pub target: Arc<Target>,
}

impl Sessions {
    /// A hall with so many seats, and so many places to wait, for whom `admission` takes for a
    /// client.
    pub fn new(
        driver: Handle,
        dialer: Dialer,
        workers: Workers,
        (seats, bench): (usize, usize),
        liveness: Liveness,
        admission: Admission,
    ) -> Self {
        let semaphore = |n: usize| Arc::new(Semaphore::new(n.clamp(1, Semaphore::MAX_PERMITS)));
        Self {
            driver,
            seats: semaphore(seats),
            bench: semaphore(bench),
            workers: Arc::new(workers),
            tasks: TaskTracker::new(),
            house: Arc::new(SessionContext {
                dialer,
                access: admission.access,
                reception: admission.accept_proxy.then(ProxyHeaderReader::new),
                wake_on_data: admission.wake_on_data,
                liveness,
                cut: Cut::default(),
            }),
        }
    }

    /// Waits until there is room for one more client.
    pub async fn room(&self) -> ConnectionSlot {
        let free = "semaphores are never closed";
        ConnectionSlot {
            seat: self.seats.clone().acquire_owned().await.expect(free),
            bench: self.bench.clone().acquire_owned().await.expect(free),
        }
    }

    /// ConnectionSlot for one more client, if there is some right now.
    pub fn room_now(&self) -> Option<ConnectionSlot> {
        Some(ConnectionSlot {
            seat: self.seats.clone().try_acquire_owned().ok()?,
            bench: self.bench.clone().try_acquire_owned().ok()?,
        })
    }

    /// Takes in a client, or resets one that may not come in. The driver knows of it when this
    /// returns.
    pub fn admit(&self, client: RawStream, peer: Peer, entrance: &Route, room: ConnectionSlot) {
        let Route {
            listener,
            door,
            target,
        } = entrance;
        let house = &self.house;
        // Behind a balancer it is not known yet who it is.
        if house.reception.is_none() && !house.access.admits(peer) {
            client.reset();
            self.driver.barred(listener, peer);
            return;
        }
        let permit = match house.knows_at_once() {
            true => self.driver.arrive(*door, listener, peer),
            false => self.driver.knock(*door, listener, peer),
        };
        let (house, target) = (self.house.clone(), target.clone());
        let (place, thread) = self.workers.place();
        let session = house.serve(client, target, permit, room, place);
        self.tasks.spawn_on(session, &thread);
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
        self.house.cut.make();
        self.empty().await;
    }
}

/// A client whose target is at hand.
struct Served {
    permit: Box<Permit>,
    client: Stream,
    target: Stream,
    /// What the target has said already.
    said: Vec<u8>,
}

/// Who ended the wait for the target.
enum Reached {
    Target(Stream, Vec<u8>),
    ClientGone,
    ClientIdle,
    TurnedAway,
}

impl SessionContext {
    /// Serves a client to its end. Most of the connections that are open just relay, so what is
    /// needed only until then is in a box of its own.
    fn serve(
        self: Arc<Self>,
        client: RawStream,
        target: Arc<Target>,
        permit: Permit,
        room: ConnectionSlot,
        place: WorkerSlot,
    ) -> impl Future<Output = ()> + Send {
        let ConnectionSlot { seat, bench } = room;
        let waiting = Box::pin(self.clone().wait(client, target, Box::new(permit), bench));
        async move {
            if let Some(mut served) = waiting.await {
                self.relay(&mut served).await;
            }
            drop((seat, place));
        }
    }

    /// Waits until the target can be had, or the client does not want it any more.
    async fn wait(
        self: Arc<Self>,
        client: RawStream,
        target: Arc<Target>,
        mut permit: Box<Permit>,
        _bench: OwnedSemaphorePermit,
    ) -> Option<Box<Served>> {
        let peer = permit.peer();
        let client = client
            .watch()
            .inspect_err(|error| tracing::warn!(client = %peer, "{peer} is lost: {error}"))
            .ok()?;
        let reached = tokio::select! {
            // A client that breaks off when its target is at hand breaks off there, too.
            biased;
            reached = self.reach(&client, &target, &mut permit) => reached,
            () = client.gone() => Reached::ClientGone,
            () = self.cut.made() => Reached::TurnedAway,
        };
        match reached {
            Reached::Target(target, said) => Some(Box::new(Served {
                permit,
                client,
                target,
                said,
            })),
            Reached::TurnedAway => {
                client.reset();
                None
            }
            Reached::ClientIdle => {
                permit.traffic.idle = 1;
                tracing::debug!(client = %peer, "{peer} was ended: it has said nothing");
                None
            }
            Reached::ClientGone => {
                tracing::debug!(client = %peer, "a client left before it was served");
                None
            }
        }
    }

    async fn reach(&self, client: &Stream, target: &Target, permit: &mut Permit) -> Reached {
        let origin = match self.find_out(client, permit).await {
            Ok(origin) => origin,
            Err(no_client) => return no_client,
        };
        loop {
            let answer = match permit.verdict().await {
                Verdict::TurnedAway => return Reached::TurnedAway,
                Verdict::Admitted(Some(answer)) => answer.rebind(),
                Verdict::Admitted(None) => self.dialer.dial(target).await.map(Answer::from),
            };
            let announced = answer.and_then(|Answer { connection, said }| {
                Ok(Reached::Target(connection.announce(origin)?, said))
            });
            match announced {
                Ok(reached) => return reached,
                Err(error) => permit.refused(error.to_string()),
            }
        }
    }

    /// Whether everybody who is let in is a client from the beginning.
    fn knows_at_once(&self) -> bool {
        self.reception.is_none() && !self.wake_on_data
    }

    /// Finds out whether it is a client, and on whose behalf it comes; the driver knows then.
    async fn find_out(&self, client: &Stream, permit: &mut Permit) -> Result<Origin, Reached> {
        let mut origin = self.origin(client, permit.peer());
        let mut introduced = None;
        if let Some(reception) = &self.reception {
            introduced = match reception.receive(client, permit).await {
                HeaderOutcome::Made(introduced) => introduced,
                HeaderOutcome::Left => return Err(Reached::ClientGone),
                HeaderOutcome::Missing => return Err(Reached::TurnedAway),
            };
            origin = introduced.unwrap_or(origin);
        }
        let introduced = introduced.and_then(Origin::client);
        let peer = introduced.unwrap_or(permit.peer());
        if self.reception.is_some() && !self.access.admits(peer) {
            permit.barred(peer);
            return Err(Reached::TurnedAway);
        }
        if self.wake_on_data {
            match timeout(self.liveness.idle_timeout, client.wait_first_byte()).await {
                Ok(true) => (),
                Ok(false) => return Err(Reached::ClientGone),
                Err(_) => return Err(Reached::ClientIdle),
            }
        }
        if !self.knows_at_once() {
            permit.introduce(introduced);
        }
        Ok(origin)
    }

    /// On whose behalf the target is connected to, if it is told at all, for a client that nobody
    /// introduces.
    fn origin(&self, client: &Stream, peer: Peer) -> Origin {
        if !self.dialer.announces() {
            return Origin::Unknown;
        }
        match (peer, client.local_addr()) {
            (Peer::Tcp(client), Ok(Peer::Tcp(server))) => Origin::tcp(client, server),
            (Peer::Unix, _) => Origin::Unix,
            _ => Origin::Unknown,
        }
    }

    async fn relay(&self, served: &mut Served) {
        let Served {
            permit,
            client,
            target,
            said,
        } = served;
        let idle_timeout = self.liveness.idle_timeout;
        let Traffic { up, down, .. } = &mut permit.traffic;
        let relay = relay::relay(client, target, mem::take(said), idle_timeout, (up, down));
        let ended = tokio::select! {
            ended = relay => ended,
            () = self.cut.made() => Ended::Reset,
        };
        permit.traffic.idle = u32::from(ended == Ended::Idle);
        permit.traffic.vanished = u32::from(ended == Ended::Vanished);
        report(permit, ended, idle_timeout);
        match ended {
            Ended::Closed | Ended::Idle => (),
            Ended::Reset | Ended::Vanished => {
                client.reset();
                target.reset();
            }
        }
    }
}

/// Says in the log how a client's connection ended.
fn report(permit: &Permit, ended: Ended, idle_timeout: Duration) {
    let (peer, Traffic { up, down, .. }) = (permit.peer(), permit.traffic);
    match ended {
        Ended::Closed | Ended::Reset => tracing::debug!(
            client = %peer,
            bytes_up = up,
            bytes_down = down,
            "{peer} has left"
        ),
        Ended::Idle => tracing::info!(
            client = %peer,
            bytes_up = up,
            bytes_down = down,
            "{peer} was ended: it moved no byte for {}",
            span::show(idle_timeout)
        ),
        Ended::Vanished => tracing::info!(
            client = %peer,
            bytes_up = up,
            bytes_down = down,
            "{peer} was ended: it or its target is not there any more"
        ),
    }
}
