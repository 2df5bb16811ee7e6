//! One client's connection from accept to close: identify it, enter or wait, dial, relay, report.

mod abort;
mod client_hello;
mod counted;
pub mod flow;
mod held;
mod http;
mod lead;
mod proxy_header;
mod waiting_page;

use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::config::access::AccessList;
use crate::config::address::Peer;
use crate::config::{Admission, Http, Liveness, span};
use crate::http::exchange;
use crate::net::dial::{Dialer, Target};
use crate::net::proxy_header::Origin;
use crate::net::relay::{self, Ended, Interrupt, Paused};
use crate::net::stream::{AsyncStream, RawStream};
use crate::service::probe::Answer;
use crate::service::{Entrance, Permit, Queued, Requests, Traffic, Verdict};
use crate::util::per_thread::References;

pub use abort::Abort;
use abort::Triggered;
use counted::{Connected, Counted, Upgraded};
use flow::FlowRules;
pub use held::Holding;
pub use lead::{Lead, Leader, Leads, Way};
use proxy_header::{HeaderOutcome, ProxyHeaderReader};

/// Where the connections of one listener go.
#[derive(Debug)]
pub struct Route {
    /// The listener's name.
    pub listener: Arc<str>,
    /// The service's.
    pub service: Arc<str>,
    /// The way to a target of a service.
    pub entrance: Entrance,
    /// That target,
    pub target: Arc<Target>,
    /// as a client that names no host is taken to mean it.
    pub authority: String,
    /// Where its requests are counted, if it is requests that go by it.
    pub requests: Option<References<Requests>>,
    /// What all sessions of the service share.
    pub context: Arc<SessionContext>,
}

/// What all sessions of a service share.
#[derive(Debug)]
pub struct SessionContext {
    dialer: Dialer,
    access: AccessList,
    header: Option<ProxyHeaderReader>,
    wake_on_data: bool,
    http: Option<Http>,
    /// Connections begin with a ClientHello that names the service.
    tls: bool,
    liveness: Liveness,
    flows: FlowRules,
    /// Triggered when the connections that are left are to end, or to pause.
    abort: Arc<Abort>,
}

impl SessionContext {
    /// Connections count as clients' as `admission` says, and are dialled on by `dialer`.
    pub fn new(
        dialer: Dialer,
        admission: Admission,
        liveness: Liveness,
        flows: FlowRules,
        abort: Arc<Abort>,
    ) -> Self {
        Self {
            dialer,
            access: admission.access,
            header: admission.accept_proxy.then(ProxyHeaderReader::new),
            wake_on_data: admission.wake_on_data,
            tls: admission.tls.is_some(),
            http: admission.http,
            liveness,
            flows,
            abort,
        }
    }

    /// Whether every connection is a client's from the beginning.
    fn identifies_at_once(&self) -> bool {
        self.header.is_none() && !self.wake_on_data && !self.is_by_host()
    }

    /// Whether it is known only by what a client says which service it means.
    fn is_by_host(&self) -> bool {
        self.http.is_some() || self.tls
    }
}

/// Room for what waits.
#[derive(Debug)]
pub struct Waits {
    /// How many may wait.
    pub room: Arc<Semaphore>,
    /// Notified when an idle connection is to make room for another one.
    pub wanted: Arc<Notify>,
    /// That this one does, until it is relayed.
    pub slot: Option<OwnedSemaphorePermit>,
}

/// A connection that was accepted. The service knows of it, or `P` counts it as pending.
#[derive(Debug)]
pub struct Session<P> {
    /// Where it goes.
    pub route: Arc<Route>,
    /// The client's socket.
    pub client: RawStream,
    /// Which client.
    pub arrival: Arrival,
    /// How far it is.
    pub entry: Entry<P>,
    /// What was read of the client and not used yet.
    pub said: Vec<u8>,
}

/// A session that has paused, on no thread.
pub type Left = Session<()>;

/// Which client a connection is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its address.
    pub peer: Peer,
    /// The PROXY header that was read; once it is identified, only one that names a client.
    pub header: Option<Origin>,
    /// It is a client's.
    pub identified: bool,
}

/// How far a connection is.
#[derive(Debug)]
pub enum Entry<P> {
    /// It may turn out to be no client's.
    Pending(P),
    /// Requests come over it.
    Http(P, Turn, Leads),
    /// It begins with a ClientHello.
    Hello(P, Leads),
    /// It is a client's, of which the service does not know.
    Identified,
    /// It waits for the verdict.
    Waiting(Box<Queued>),
    /// It was let through.
    Inside(Permit),
    /// It was relayed already.
    Relayed(Box<Relayed>),
}

/// How far a connection is over which requests come.
#[derive(Debug)]
pub enum Turn {
    /// Between two of them, or in the head of one.
    Between,
    /// One waits for the verdict; it was not taken from what was read.
    Waiting(Box<Queued>),
    /// One is under way.
    Exchanging(Box<Relayed>, Box<exchange::Paused>),
}

/// A connection that was relayed, and has paused.
#[derive(Debug)]
pub struct Relayed {
    /// The target's socket.
    pub target: RawStream,
    /// How far both ways are.
    pub paused: Paused,
    /// What it has carried, counted where it ends.
    pub traffic: Traffic,
    permit: Permit,
}

impl Route {
    /// Whether it is requests that go by it.
    pub fn speaks_http(&self) -> bool {
        self.context.http.is_some()
    }

    /// Takes in a connection, or resets one that is denied. The service knows of it when this
    /// returns; until one is identified, what `pending` returns is held.
    pub fn accept<P>(
        self: &Arc<Self>,
        client: RawStream,
        peer: Peer,
        leads: impl FnOnce() -> Leads,
        pending: impl FnOnce() -> P,
    ) -> Option<Session<P>> {
        let context = &self.context;
        // Behind a balancer the client's address is not known yet, and before a request or a ClientHello its
        // service is not.
        let is_known = context.header.is_none() && !context.is_by_host();
        if is_known && !context.access.admits(peer) {
            client.reset();
            self.entrance.denied(&self.listener, peer);
            return None;
        }
        let identified = context.identifies_at_once();
        let entry = match (&context.http, identified) {
            (Some(_), _) => Entry::Http(pending(), Turn::Between, leads()),
            (None, _) if context.tls => Entry::Hello(pending(), leads()),
            (None, true) => self.enter(peer),
            (None, false) => Entry::Pending(pending()),
        };
        let arrival = Arrival {
            peer,
            header: None,
            identified,
        };
        Some(self.session(client, arrival, entry, Vec::new()))
    }

    /// A connection that has paused in an earlier process, and was not relayed yet.
    pub fn waited(
        self: &Arc<Self>,
        client: RawStream,
        arrival: Arrival,
        said: Vec<u8>,
        leads: Leads,
    ) -> Left {
        let entry = match (&self.context.http, arrival.identified) {
            (Some(_), _) => Entry::Http((), Turn::Between, leads),
            // Its service may be another one by now.
            (None, _) if self.context.tls => Entry::Hello((), leads),
            (None, true) => Entry::Identified,
            (None, false) => Entry::Pending(()),
        };
        self.session(client, arrival, entry, said)
    }

    /// A connection that has paused in an earlier process, and is inside: it keeps the service from
    /// being stopped.
    pub fn relayed(
        self: &Arc<Self>,
        client: RawStream,
        arrival: Arrival,
        relayed: (RawStream, Paused, Traffic),
        exchange: Option<(exchange::Paused, Vec<u8>, Leads)>,
    ) -> Left {
        let (target, paused, traffic) = relayed;
        let relayed = Box::new(Relayed {
            target,
            paused,
            traffic,
            permit: self.entrance.resume(),
        });
        let (entry, said) = match exchange {
            Some((paused, said, leads)) => {
                let turn = Turn::Exchanging(relayed, Box::new(paused));
                (Entry::Http((), turn, leads), said)
            }
            None => (Entry::Relayed(relayed), Vec::new()),
        };
        self.session(client, arrival, entry, said)
    }

    fn session<P>(
        self: &Arc<Self>,
        client: RawStream,
        arrival: Arrival,
        entry: Entry<P>,
        said: Vec<u8>,
    ) -> Session<P> {
        Session {
            route: self.clone(),
            client,
            arrival,
            entry,
            said,
        }
    }

    /// Enters while the gate is open, and waits otherwise.
    fn enter<P>(&self, peer: Peer) -> Entry<P> {
        match self.permit_or_queue(peer) {
            Ok(permit) => Entry::Inside(permit),
            Err(queued) => Entry::Waiting(queued),
        }
    }

    /// The same, for what is no connection.
    fn permit_or_queue(&self, peer: Peer) -> Result<Permit, Box<Queued>> {
        let queued = || Box::new(self.entrance.arrive(&self.listener, peer));
        self.entrance.enter().ok_or_else(queued)
    }
}

/// A connection whose target is at hand. In small boxes it takes less memory than in a large one: they
/// fit between tokio's, which are aligned to 128 bytes.
struct Served {
    sockets: Box<Sockets>,
    /// Where to go on.
    paused: Option<Box<Paused>>,
    peer: Peer,
    route: Arc<Route>,
    /// It leaves when its sockets are closed.
    permit: Permit,
}

struct Sockets {
    client: AsyncStream,
    target: AsyncStream,
    /// The request that has upgraded the connection. Beside the sockets it takes no more memory.
    upgraded: Option<Box<Upgraded>>,
}

/// What has ended the wait for the target.
enum Reached {
    Target(AsyncStream, Vec<u8>, Permit),
    ClientGone,
    ClientIdle,
    Rejected,
    Paused,
}

impl Left {
    /// Goes on where it has paused. The service knows of it when this returns, or what `pending`
    /// returns is held.
    pub fn resume<P>(self, pending: impl FnOnce() -> P) -> Session<P> {
        let entry = match self.entry {
            Entry::Pending(()) => Entry::Pending(pending()),
            Entry::Http((), turn, leads) => Entry::Http(pending(), turn, leads),
            Entry::Hello((), leads) => Entry::Hello(pending(), leads),
            Entry::Identified => self.route.enter(self.arrival.peer),
            Entry::Waiting(queued) => Entry::Waiting(queued),
            Entry::Inside(permit) => Entry::Inside(permit),
            Entry::Relayed(relayed) => Entry::Relayed(relayed),
        };
        Session {
            route: self.route,
            client: self.client,
            arrival: self.arrival,
            entry,
            said: self.said,
        }
    }

    /// What it was relayed to already, if it was.
    pub fn relayed(&self) -> Option<&Relayed> {
        match &self.entry {
            Entry::Relayed(relayed) | Entry::Http((), Turn::Exchanging(relayed, _), _) => {
                Some(relayed)
            }
            Entry::Pending(())
            | Entry::Http((), Turn::Between | Turn::Waiting(_), _)
            | Entry::Hello(..)
            | Entry::Identified
            | Entry::Waiting(_)
            | Entry::Inside(_) => None,
        }
    }

    /// The request that is under way on it.
    pub fn exchange(&self) -> Option<&exchange::Paused> {
        if let Entry::Http((), Turn::Exchanging(_, paused), _) = &self.entry {
            return Some(paused);
        }
        None
    }

    /// Resets it.
    pub fn reset(self) {
        self.client.reset();
        if let Some(relayed) = self.relayed() {
            relayed.target.reset();
        }
    }

    /// Leaves the session, on no thread, to what has paused it.
    fn keep(
        route: Arc<Route>,
        client: AsyncStream,
        arrival: Arrival,
        entry: Entry<()>,
        said: Vec<u8>,
    ) {
        match client.unwatch() {
            Ok(client) => route.context.abort.clone().keep(Self {
                route,
                client,
                arrival,
                entry,
                said,
            }),
            Err(error) => lost(arrival.peer, &error),
        }
    }
}

impl<P: Send + 'static> Session<P> {
    /// Serves the connection to its end; `held` is dropped then. Most of the connections that are open
    /// just relay, so what is needed only until then, and `waits` with it, is in a box of its own.
    pub fn run<H: Send + 'static>(self, waits: Waits, held: H) -> impl Future<Output = ()> + Send {
        let waiting: Pin<Box<dyn Future<Output = Option<Box<Served>>> + Send>> = match self.entry {
            Entry::Http(..) => {
                drop(waits.slot);
                Box::pin(self.converse(waits.room, waits.wanted))
            }
            Entry::Hello(..) => Box::pin(async move {
                let _waits = waits;
                self.find_by_name().await?.wait().await
            }),
            Entry::Pending(_)
            | Entry::Identified
            | Entry::Waiting(_)
            | Entry::Inside(_)
            | Entry::Relayed(_) => Box::pin(async move {
                let _waits = waits;
                self.wait().await
            }),
        };
        async move {
            if let Some(served) = waiting.await {
                served.relay().await;
            }
            drop(held);
        }
    }

    /// Waits until the target can be had, or the client does not want it any more.
    async fn wait(self) -> Option<Box<Served>> {
        let Self {
            route,
            client,
            mut arrival,
            entry,
            said,
        } = self;
        let peer = arrival.peer;
        let watch = |socket: RawStream| {
            let watched = socket.watch();
            watched.inspect_err(|error| lost(peer, error)).ok()
        };
        let client = watch(client)?;
        if let Entry::Relayed(relayed) = entry {
            let Relayed {
                target,
                paused,
                traffic,
                mut permit,
            } = *relayed;
            permit.traffic = traffic;
            let target = watch(target)?;
            let upgraded = route.requests.is_some().then(|| {
                let counted = Counted::resume(&route, peer);
                Box::new(Upgraded::new(counted, Connected::by(&route)))
            });
            return Some(Box::new(Served {
                permit,
                sockets: Box::new(Sockets {
                    client,
                    target,
                    upgraded,
                }),
                paused: Some(Box::new(paused)),
                peer,
                route,
            }));
        }
        // What counts the connection is dropped after the client's socket was reset.
        let mut queued = None;
        let reached = tokio::select! {
            // A client that closes when its target is at hand closes there, too.
            biased;
            reached = route.reach(&client, &mut arrival, entry, &mut queued) => reached,
            () = client.gone() => Reached::ClientGone,
            interrupt = route.context.abort.triggered() => match interrupt {
                Interrupt::Reset => Reached::Rejected,
                Interrupt::Pause => Reached::Paused,
            },
        };
        let peer = arrival.peer;
        match reached {
            Reached::Target(target, answer, permit) => Some(Box::new(Served {
                permit,
                sockets: Box::new(Sockets {
                    client,
                    target,
                    upgraded: None,
                }),
                paused: Paused::after(said, answer),
                peer,
                route,
            })),
            Reached::Paused => {
                let entry = match queued {
                    Some(queued) => Entry::Waiting(queued),
                    None if arrival.identified => Entry::Identified,
                    None => Entry::Pending(()),
                };
                Left::keep(route, client, arrival, entry, said);
                None
            }
            Reached::Rejected => {
                client.reset();
                drop(client);
                None
            }
            Reached::ClientIdle => {
                route.entrance.closed_idle();
                tracing::debug!(client = %peer, "{peer} closed: idle before its first byte");
                None
            }
            Reached::ClientGone => {
                tracing::debug!(client = %peer, "{peer} closed before it was served");
                None
            }
        }
    }
}

impl Route {
    /// Identifies the client, waits for the verdict, and dials.
    async fn reach<P>(
        &self,
        client: &AsyncStream,
        arrival: &mut Arrival,
        entry: Entry<P>,
        queued: &mut Option<Box<Queued>>,
    ) -> Reached {
        let entry = match entry {
            Entry::Pending(pending) => {
                if let Err(no_client) = Box::pin(self.identify(client, arrival)).await {
                    return no_client;
                }
                let entry = self.enter(arrival.peer);
                // The service knows of it before it is pending no more.
                drop::<P>(pending);
                entry
            }
            Entry::Identified => self.enter(arrival.peer),
            entry @ (Entry::Http(..)
            | Entry::Hello(..)
            | Entry::Waiting(_)
            | Entry::Inside(_)
            | Entry::Relayed(_)) => entry,
        };
        let permit = match entry {
            Entry::Inside(permit) => Some(permit),
            Entry::Waiting(waiting) => {
                *queued = Some(waiting);
                None
            }
            Entry::Pending(_)
            | Entry::Identified
            | Entry::Relayed(_)
            | Entry::Http(..)
            | Entry::Hello(..) => None,
        };
        self.dialled(client, arrival, permit, queued).await
    }

    /// Waits for the verdict unless it has entered, and dials.
    async fn dialled(
        &self,
        client: &AsyncStream,
        arrival: &Arrival,
        permit: Option<Permit>,
        queued: &mut Option<Box<Queued>>,
    ) -> Reached {
        let peer = arrival.peer;
        let origin = match arrival.header {
            Some(named) => named,
            None => self.origin(client, peer),
        };
        let mut permit = permit.map(|permit| (permit, None));
        loop {
            let (permit, answer) = match (permit.take(), queued.as_mut()) {
                (Some(entered), _) => entered,
                (None, Some(waiting)) => match waiting.verdict().await {
                    Verdict::Admitted(permit, answer) => (permit, answer),
                    Verdict::Rejected => return Reached::Rejected,
                },
                (None, None) => return Reached::Rejected,
            };
            *queued = None;
            let answer = match answer {
                Some(answer) => answer.rebind(),
                None => self
                    .context
                    .dialer
                    .dial(&self.target)
                    .await
                    .map(Answer::from),
            };
            let announced = answer
                .and_then(|Answer { connection, said }| Ok((connection.announce(origin)?, said)));
            match announced {
                Ok((target, said)) => return Reached::Target(target, said, permit),
                Err(error) => {
                    let waiting = permit.refused(&self.listener, peer, error.to_string());
                    *queued = Some(Box::new(waiting));
                }
            }
        }
    }

    /// Finds out whether the connection is a client's, and which client the PROXY header names.
    async fn identify(&self, client: &AsyncStream, arrival: &mut Arrival) -> Result<(), Reached> {
        let context = &self.context;
        let mut named = arrival.header;
        if let Some(header) = &context.header {
            named = match header.receive(client, &self.listener, arrival).await {
                HeaderOutcome::Read(named) => named,
                HeaderOutcome::Left => return Err(Reached::ClientGone),
                HeaderOutcome::Missing => return Err(Reached::Rejected),
            };
            let peer = named.and_then(Origin::client).unwrap_or(arrival.peer);
            if !context.is_by_host() && !context.access.admits(peer) {
                self.entrance.denied(&self.listener, peer);
                return Err(Reached::Rejected);
            }
        }
        // A request is data, and so is a ClientHello.
        if context.wake_on_data && !context.is_by_host() {
            let limit = context.liveness.idle_timeout;
            match timeout(limit, client.wait_first_byte()).await {
                Ok(true) => (),
                Ok(false) => return Err(Reached::ClientGone),
                Err(_) => return Err(Reached::ClientIdle),
            }
        }
        let peer = named.and_then(Origin::client).unwrap_or(arrival.peer);
        *arrival = Arrival {
            peer,
            header: named,
            identified: true,
        };
        Ok(())
    }

    /// The client that the target is told of, if it is told of any.
    fn origin(&self, client: &AsyncStream, peer: Peer) -> Origin {
        if !self.context.dialer.announces() {
            return Origin::Unknown;
        }
        match (peer, client.local_addr()) {
            (Peer::Tcp(client), Ok(Peer::Tcp(server))) => Origin::tcp(client, server),
            (Peer::Unix, _) => Origin::Unix,
            _ => Origin::Unknown,
        }
    }
}

impl Served {
    /// Relays to the end, or until it is to pause. The future is what an open connection takes in
    /// memory, beside its two sockets.
    async fn relay(mut self: Box<Self>) {
        let ended = {
            let Self {
                sockets,
                paused,
                permit,
                route,
                ..
            } = &mut *self;
            let Liveness { idle_timeout, .. } = route.context.liveness;
            let Traffic { up, down, .. } = &mut permit.traffic;
            let (client, target) = (&sockets.client, &sockets.target);
            let abort = route.context.abort.triggered();
            relay::relay(
                client,
                target,
                paused.take(),
                idle_timeout,
                abort,
                (up, down),
            )
            .await
        };
        let ended = match ended {
            Ok(ended) => ended,
            Err(paused) => return self.keep(*paused),
        };
        let traffic = &mut self.permit.traffic;
        traffic.idle = u32::from(ended == Ended::Idle);
        traffic.vanished = u32::from(ended == Ended::Vanished);
        if let Some(Upgraded { counted, .. }) = self.sockets.upgraded.as_deref_mut() {
            counted.carries(traffic.up, traffic.down);
        }
        report(
            self.peer,
            *traffic,
            ended,
            self.route.context.liveness.idle_timeout,
        );
        match ended {
            Ended::Closed | Ended::Idle => (),
            Ended::Reset | Ended::Vanished => {
                self.sockets.client.reset();
                self.sockets.target.reset();
            }
        }
    }

    /// Leaves the session to what has paused it.
    fn keep(self, paused: Paused) {
        let Self {
            sockets,
            peer,
            route,
            mut permit,
            ..
        } = self;
        let Sockets {
            client,
            target,
            upgraded,
        } = *sockets;
        if let Some(upgraded) = upgraded {
            upgraded.counted.leave();
        }
        let arrival = Arrival {
            peer,
            header: None,
            identified: true,
        };
        match target.unwatch() {
            Ok(target) => {
                let relayed = Relayed {
                    target,
                    paused,
                    traffic: mem::take(&mut permit.traffic),
                    permit,
                };
                let entry = Entry::Relayed(Box::new(relayed));
                Left::keep(route, client, arrival, entry, Vec::new());
            }
            Err(error) => lost(peer, &error),
        }
    }
}

/// Logs that a socket cannot be used.
fn lost(peer: Peer, error: &io::Error) {
    tracing::warn!(client = %peer, "{peer} is lost: {error}");
}

/// Logs how a connection has ended.
fn report(peer: Peer, traffic: Traffic, ended: Ended, idle_timeout: Duration) {
    let Traffic { up, down, .. } = traffic;
    match ended {
        Ended::Closed | Ended::Reset => tracing::debug!(
            client = %peer,
            bytes_up = up,
            bytes_down = down,
            "{peer} closed"
        ),
        Ended::Idle => tracing::info!(
            client = %peer,
            bytes_up = up,
            bytes_down = down,
            "{peer} closed: idle for {}",
            span::show(idle_timeout)
        ),
        Ended::Vanished => tracing::info!(
            client = %peer,
            bytes_up = up,
            bytes_down = down,
            "{peer} closed: peer timed out"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An open connection takes this, its boxes and what tokio has for two sockets: docs/benchmark.md
    /// has the sum.
    #[test]
    fn an_open_connection_is_small() {
        fn size<A, F>(_: impl Fn(A) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size(Served::relay) <= 320, "{}", size(Served::relay));
        assert!(size_of::<Served>() <= 104, "{}", size_of::<Served>());
        assert!(size_of::<Sockets>() <= 88, "{}", size_of::<Sockets>());
    }
}
