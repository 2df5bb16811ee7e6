//! A connection over which a client sends requests. Each of them enters or waits by itself; between two
//! the connection holds nothing but itself.

mod h2;
mod request;
mod under_way;

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::Interest;
use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::counted::{Connected, Counted, How, Upgraded};
use super::waiting_page::{Expected, Viewer};
use super::{
    Abort, Arrival, Entry, Lead, Leads, Left, Reached, Route, Served, Session, Sockets, Triggered,
    Turn, Way, abort, lost,
};
use crate::config::address::Peer;
use crate::config::quiet::Facts;
use crate::config::{Http, WaitingPage};
use crate::http::answer::{answer, dated};
use crate::http::body::Begun;
use crate::http::chunked::Malformed;
use crate::http::head::{self, Method, Origin, Received, Refusal, Request};
use crate::net::relay::direction::with_buffer;
use crate::net::relay::{self, Interrupt};
use crate::net::stream::AsyncStream;
use crate::service::{Access, Permit, Queued};

/// How long a connection may be idle. Proxies in front of us keep theirs for less (Caddy: 2 min), so it
/// is they who close: a request that crosses our close would be lost.
const KEEP_ALIVE: Duration = Duration::from_secs(150);

/// What clients are told: less, for the same reason.
const KEEP_ALIVE_TOLD: u64 = 145;

/// How long after a request a connection counts as one that is used: it does not make room for another one.
const BUSY: Duration = Duration::from_millis(100);

/// How long a head may take from its first byte.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that was used this long ago the target is not about to close. A request that may not be
/// repeated takes no older one.
const FRESH: Duration = Duration::from_millis(100);

/// How long, and for how many bytes, what a client still sends is read after our end: a reset would
/// overtake the response.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

/// A connection.
struct Web {
    /// Where its listener leads.
    leads: Leads,
    /// The way of its latest request.
    route: Arc<Route>,
    client: AsyncStream,
    arrival: Arrival,
    /// What was read and is not used yet.
    come: Vec<u8>,
    /// A request that waited before it paused.
    queued: Option<Box<Queued>>,
    /// The client has seen the waiting page.
    expected: Option<Expected>,
    connected: Connected,
    /// The request under way.
    counted: Option<Counted>,
    /// When it has been idle for a while, or for too long, or its head takes too long.
    due: Instant,
    /// Rings then, or before.
    alarm: Pin<Box<Sleep>>,
    /// How many may wait.
    room: Arc<Semaphore>,
    /// Notified when an idle connection is to make room, the one that is idle for the longest time first.
    wanted: Arc<Notify>,
    /// Ready then. One that was busy a moment ago does not listen.
    makes_room: Option<Pin<Box<OwnedNotified>>>,
    /// No request has come over it, so that HTTP/2 may.
    is_new: bool,
}

/// What the client does next.
enum Next {
    Request(Box<Asked>),
    Refused(Refusal, Method),
    /// Nothing more.
    Over,
    /// HTTP/2, or a request for a target that speaks only that.
    Http2,
    /// A request, but it is not known where it goes from now on.
    Held,
    Interrupted(Interrupt),
}

/// A request, of which the service knows.
struct Asked {
    request: Request,
    begun: Begun,
    /// As it came, until it has its target.
    raw: Vec<u8>,
    /// Who asks, where the waiting page may be an answer.
    viewer: Option<Box<Viewer>>,
    entry: Entered,
}

enum Entered {
    Inside(Permit),
    /// The service does not know of it.
    Quiet,
    Waiting(Box<Queued>, Option<OwnedSemaphorePermit>),
}

impl Entered {
    /// How it is counted.
    fn how(&self) -> How {
        match self {
            Self::Inside(_) => How::Enters,
            Self::Waiting(..) => How::Waits,
            Self::Quiet => How::Quiet,
        }
    }
}

/// Why a request is not taken.
enum NotEntered {
    Held,
    Refused(Refusal),
}

/// What follows.
enum Then {
    /// Perhaps another request.
    Next,
    /// A response that is not the target's, and the end.
    Refuse(Refusal, Method),
    /// The same in other bytes; perhaps another request.
    Say(Vec<u8>, bool),
    /// The end of the connection, when the client has got all.
    Close,
    /// A reset.
    Reset,
    /// The end: the client is gone.
    Gone,
    /// The next process goes on.
    Pause(Turn),
    /// The connection has another protocol; the target has sent this already.
    Relay(AsyncStream, Vec<u8>, Permit),
}

impl<P: Send + 'static> Session<P> {
    /// Answers the client's requests to the end, or until another protocol is to be relayed. Most of the
    /// connections that are open wait for the next request, so that what is needed only before or after that is
    /// in boxes of its own.
    pub(super) fn converse(
        self,
        room: Arc<Semaphore>,
        wanted: Arc<Notify>,
    ) -> impl Future<Output = Option<Box<Served>>> + Send {
        let begun = Box::pin(self.begin(room, wanted));
        async move {
            // The process stays for the connection.
            let (web, then, _pending) = begun.await?;
            let abort = web.route.context.abort.clone();
            web.go_on(then, &abort).await
        }
    }

    /// Finds out whose the connection is, and goes on with the request that was under way when it paused.
    async fn begin(self, room: Arc<Semaphore>, wanted: Arc<Notify>) -> Option<(Box<Web>, Then, P)> {
        let Self {
            route,
            client,
            mut arrival,
            entry,
            said,
        } = self;
        let Entry::Http(pending, turn, leads) = entry else {
            return None;
        };
        let client = client.watch();
        let client = client.inspect_err(|error| lost(arrival.peer, error)).ok()?;
        let abort = route.context.abort.clone();
        let mut interrupt = abort.triggered();
        let identified = match arrival.identified {
            true => Ok(()),
            false => tokio::select! {
                identified = route.identify(&client, &mut arrival) => identified,
                () = client.gone() => Err(Reached::ClientGone),
                interrupt = &mut interrupt => Err(match interrupt {
                    Interrupt::Reset => Reached::Rejected,
                    Interrupt::Pause => Reached::Paused,
                }),
            },
        };
        let mut web = Box::new(Web {
            leads,
            connected: Connected::by(&route),
            counted: None,
            route,
            client,
            arrival,
            come: said,
            queued: None,
            expected: None,
            due: Instant::now() + KEEP_ALIVE,
            alarm: Box::pin(sleep(KEEP_ALIVE)),
            room,
            wanted,
            makes_room: None,
            is_new: true,
        });
        let then = match (identified, turn) {
            (Ok(()), Turn::Between) => Then::Next,
            (Ok(()), Turn::Waiting(queued)) => {
                web.queued = Some(queued);
                Then::Next
            }
            (Ok(()), Turn::Exchanging(relayed, paused)) => {
                web.resume(*relayed, *paused, &mut interrupt).await
            }
            (Err(Reached::Paused), turn) => Then::Pause(turn),
            (Err(Reached::Rejected), _) => Then::Reset,
            (Err(Reached::ClientIdle), _) => {
                web.route.entrance.closed_idle();
                Then::Gone
            }
            (Err(Reached::ClientGone | Reached::Target(..)), _) => Then::Gone,
        };
        Some((web, then, pending))
    }
}

impl Web {
    /// Has one thing follow the other, to the end of the connection.
    fn go_on(
        mut self: Box<Self>,
        mut then: Then,
        abort: &Abort,
    ) -> impl Future<Output = Option<Box<Served>>> + Send {
        let (mut interrupt, mut closing) = (abort.triggered(), abort.closing());
        // An `async fn` would keep its arguments twice.
        async move {
            loop {
                self.counts(&then);
                then = match then {
                    Then::Next => match self.next(&mut interrupt, &mut closing).await {
                        Next::Request(asked) => {
                            self.connected.active(true);
                            Box::pin(self.answer(*asked, &mut interrupt)).await
                        }
                        Next::Refused(refusal, method) => Then::Refuse(refusal, method),
                        Next::Over => Then::Close,
                        Next::Http2 => {
                            Box::pin(h2::serve(*self, abort, &mut interrupt)).await;
                            return None;
                        }
                        Next::Held => Box::pin(self.held(&mut interrupt)).await,
                        Next::Interrupted(Interrupt::Reset) => Then::Reset,
                        Next::Interrupted(Interrupt::Pause) => {
                            let queued = self.queued.take();
                            Then::Pause(queued.map_or(Turn::Between, Turn::Waiting))
                        }
                    },
                    Then::Refuse(refusal, method) => {
                        Box::pin(self.refuse(refusal, method)).await;
                        Then::Close
                    }
                    Then::Say(response, persists) => match Box::pin(self.say(response)).await {
                        true if persists => Then::Next,
                        _ => Then::Close,
                    },
                    Then::Close => {
                        Box::pin(self.close(&mut interrupt)).await;
                        Then::Gone
                    }
                    Then::Reset => {
                        self.client.reset();
                        Then::Gone
                    }
                    Then::Gone => {
                        let Self {
                            client, expected, ..
                        } = *self;
                        drop(client);
                        if let Some(expected) = expected {
                            tokio::select! {
                                () = expected => (),
                                _ = &mut interrupt => (),
                            }
                        }
                        return None;
                    }
                    Then::Pause(turn) => {
                        let entry = Entry::Http((), turn, self.leads);
                        Left::keep(self.route, self.client, self.arrival, entry, self.come);
                        return None;
                    }
                    Then::Relay(target, down, permit) => {
                        let (client, connected) = (self.client, self.connected);
                        let upgraded = self
                            .counted
                            .map(|counted| Upgraded::new(counted, connected));
                        return Some(Box::new(Served {
                            sockets: Box::new(Sockets {
                                client,
                                target,
                                upgraded: upgraded.map(Box::new),
                            }),
                            paused: relay::Paused::after(self.come, down),
                            peer: self.arrival.peer,
                            route: self.route,
                            permit,
                        }));
                    }
                };
            }
        }
    }

    /// Ends the connection when the client has got all.
    async fn close(&self, interrupt: &mut Triggered<'_>) {
        // It takes no longer than a pause may.
        let reset = poll_fn(|cx| match Pin::new(&mut *interrupt).poll(cx) {
            Poll::Ready(Interrupt::Reset) => Poll::Ready(()),
            Poll::Ready(Interrupt::Pause) | Poll::Pending => Poll::Pending,
        });
        tokio::select! {
            () = close(&self.client) => (),
            () = reset => (),
        }
    }

    /// Waits for the next request.
    async fn next(
        &mut self,
        interrupt: &mut Triggered<'_>,
        closing: &mut abort::Closing<'_>,
    ) -> Next {
        let now = poll_fn(|cx| Poll::Ready(Pin::new(&mut *interrupt).poll(cx))).await;
        if let Poll::Ready(interrupt) = now {
            return Next::Interrupted(interrupt);
        }
        let come = std::mem::take(&mut self.come);
        if !come.is_empty()
            && let Some(next) = self.take(&come)
        {
            return next;
        }
        let limit = match self.come.is_empty() {
            true => BUSY,
            false => HEAD_TIMEOUT,
        };
        self.is_due_in(limit);
        let next = poll_fn(|cx| self.poll_next(cx, interrupt, closing)).await;
        self.makes_room = None;
        next
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        interrupt: &mut Triggered<'_>,
        closing: &mut abort::Closing<'_>,
    ) -> Poll<Next> {
        if let Poll::Ready(interrupt) = Pin::new(interrupt).poll(cx) {
            return Poll::Ready(Next::Interrupted(interrupt));
        }
        loop {
            match self.read() {
                Ok(Some(next)) => return Poll::Ready(next),
                Ok(None) => (),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match self.client.poll_readable(cx) {
                        Poll::Ready(Ok(())) => (),
                        Poll::Ready(Err(_)) => return Poll::Ready(Next::Over),
                        Poll::Pending => break,
                    }
                }
                Err(_) => return Poll::Ready(Next::Over),
            }
        }
        if let Some(expected) = &mut self.expected
            && expected.as_mut().poll(cx).is_ready()
        {
            self.expected = None;
        }
        while self.alarm.as_mut().poll(cx).is_ready() {
            if Instant::now() < self.due {
                self.alarm.as_mut().reset(self.due);
                continue;
            }
            if !self.come.is_empty() {
                let refusal = Refusal::new(408, "the head takes too long");
                return Poll::Ready(Next::Refused(refusal, Method::Other));
            }
            if self.makes_room.is_some() {
                return Poll::Ready(Next::Over);
            }
            let wanted = self.wanted.clone();
            self.makes_room = Some(Box::pin(wanted.notified_owned()));
            self.is_due_in(KEEP_ALIVE - BUSY);
        }
        if let Some(makes_room) = &mut self.makes_room
            && self.come.is_empty()
            && makes_room.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Next::Over);
        }
        // Those that have begun a request may end it.
        if self.come.is_empty() && Pin::new(closing).poll(cx).is_ready() {
            let soon = Instant::now() + LINGER;
            if soon < self.due {
                self.is_due_in(LINGER);
                let _ = self.alarm.as_mut().poll(cx);
            }
        }
        Poll::Pending
    }

    /// Sets the limit. Later than before costs nothing: when the alarm rings, it is seen to be too early.
    fn is_due_in(&mut self, limit: Duration) {
        self.due = Instant::now() + limit;
        if self.due < self.alarm.deadline() {
            self.alarm.as_mut().reset(self.due);
        }
    }

    /// Reads what has come, and takes it in.
    fn read(&mut self) -> io::Result<Option<Next>> {
        with_buffer(|buffer| {
            // What is behind a head stays with the kernel while the request waits.
            let buffer = &mut buffer[..head::LONGEST];
            let read = self.client.try_read_all(buffer)?;
            if read == 0 {
                return Ok(Some(Next::Over));
            }
            if self.come.is_empty() {
                let next = self.take(&buffer[..read]);
                if next.is_none() && !self.come.is_empty() {
                    self.is_due_in(HEAD_TIMEOUT);
                }
                return Ok(next);
            }
            self.come.extend_from_slice(&buffer[..read]);
            // A head ends with a line; looking at each byte again for each one more would take its time.
            if !buffer[..read].contains(&b'\n') && self.come.len() < head::LONGEST {
                return Ok(None);
            }
            let come = std::mem::take(&mut self.come);
            Ok(self.take(&come))
        })
    }

    /// Takes in what has come; what is not used stays.
    fn take(&mut self, mut come: &[u8]) -> Option<Next> {
        if self.is_new && h2::may_begin(come) {
            self.come = come.to_vec();
            return (come.len() >= h2::PREFACE.len()).then_some(Next::Http2);
        }
        // Some clients send an empty line more (RFC 9112, section 2.2). More of them are a part of a head.
        if let [b'\r', b'\n', rest @ ..] = come {
            come = rest;
        }
        if come.is_empty() {
            return None;
        }
        let mut room = head::room();
        let (received, length) = match head::request(come, &mut room) {
            Ok(Some(read)) => read,
            Ok(None) => {
                self.come = come.to_vec();
                return None;
            }
            Err(refusal) => return Some(Next::Refused(refusal, Method::Other)),
        };
        let request = received.request;
        let refused = |refusal| Some(Next::Refused(refusal, request.method));
        // What is held after this has the request counted.
        let lead = self.leads.look();
        let found = match self.queued {
            Some(_) => Ok(&self.route),
            None => aim(&lead, &received),
        };
        let route = match found {
            Ok(route) => route,
            Err(refusal) => {
                let access = || access(&received, &Asker::unknown(self.arrival.peer));
                self.counted = Some(Counted::begin(&self.route, How::Unrouted, access));
                return refused(refusal);
            }
        };
        if h2::is_only(route) {
            self.come = come.to_vec();
            return Some(Next::Http2);
        }
        self.is_new = false;
        let asker = Asker::of(&received, route, self.arrival.peer);
        let access = || access(&received, &asker);
        let Judged {
            origin,
            page,
            is_quiet,
        } = match judge(&received, route, &asker) {
            Ok(judged) => judged,
            Err(refusal) => {
                self.counted = Some(Counted::begin(route, How::Enters, access));
                return refused(refusal);
            }
        };
        let mut head = Vec::with_capacity(come.len() + 128);
        received.write(&origin, &mut head);
        let (begun, taken) = match Begun::new(head, &come[length..], request.length, true) {
            Ok(begun) => begun,
            Err(Malformed(why)) => {
                self.counted = Some(Counted::begin(route, How::Enters, access));
                return refused(Refusal::bad(why));
            }
        };
        let viewer = Viewer::of(&received, page, &route.service)
            .filter(|_| begun.is_whole())
            .map(Box::new);
        let entered = match self.queued.take() {
            Some(queued) => Ok(Entered::Waiting(queued, None)),
            None if is_quiet => Ok(Entered::Quiet),
            None => enter(&lead, &self.room, self.arrival.peer, route),
        };
        let entry = match entered {
            Ok(entry) => entry,
            Err(NotEntered::Held) => {
                self.come = come.to_vec();
                return Some(Next::Held);
            }
            Err(NotEntered::Refused(refusal)) => {
                self.counted = Some(Counted::begin(route, How::Enters, access));
                return refused(refusal);
            }
        };
        self.counted = Some(Counted::begin(route, entry.how(), access));
        if !Arc::ptr_eq(&self.route, route) {
            let route = route.clone();
            self.route = route;
        }
        let (raw, rest) = come.split_at(length + taken);
        let raw = raw.to_vec();
        self.come = rest.to_vec();
        Some(Next::Request(Box::new(Asked {
            request,
            begun,
            raw,
            viewer,
            entry,
        })))
    }

    /// Waits until it is known where requests go from now on.
    async fn held(&mut self, interrupt: &mut Triggered<'_>) -> Then {
        let Self { leads, client, .. } = self;
        tokio::select! {
            biased;
            led = leads.released() => match led {
                Ok(_) => Then::Next,
                // The listener has gone.
                Err(_) => Then::Close,
            },
            () = client.gone() => Then::Gone,
            interrupt = interrupt => match interrupt {
                Interrupt::Reset => Then::Reset,
                Interrupt::Pause => Then::Pause(Turn::Between),
            },
        }
    }

    /// Answers in the place of the target.
    async fn refuse(&mut self, refusal: Refusal, method: Method) {
        let Refusal { status, why } = refusal;
        tracing::debug!(client = %self.arrival.peer, "{why}: {status}");
        // What is not even a request belongs to no service.
        let peer = self.arrival.peer;
        let unrouted = || Counted::begin(&self.route, How::Unrouted, || Access::of(peer));
        self.counted.get_or_insert_with(unrouted);
        self.say(answer(status, why, method)).await;
    }

    /// Counts what has become of the request under way when something follows.
    fn counts(&mut self, then: &Then) {
        match then {
            Then::Next | Then::Close | Then::Reset | Then::Gone => self.counted = None,
            Then::Pause(_) => self.leaves(),
            Then::Refuse(..) | Then::Say(..) | Then::Relay(..) => (),
        }
        self.connected.active(self.counted.is_some());
    }

    /// The request under way is counted elsewhere.
    fn leaves(&mut self) {
        if let Some(counted) = self.counted.take() {
            counted.leave();
        }
    }

    /// Sends a response that is ours; whether the client has taken it.
    async fn say(&mut self, response: Vec<u8>) -> bool {
        let response = dated(response, Timestamp::now());
        self.says(&response);
        let written = self.client.write_all(&response);
        matches!(timeout(LINGER, written).await, Ok(Ok(())))
    }

    /// Counts such a response.
    fn says(&mut self, response: &[u8]) {
        let Some(counted) = &mut self.counted else {
            return;
        };
        // `HTTP/1.1 503 ...`
        let status = response.get(9..12).map(String::from_utf8_lossy);
        let status = status.and_then(|status| status.parse().ok()).unwrap_or(0);
        counted.status(status);
        counted.carries(0, response.len() as u64);
        if matches!(status, 502 | 504) {
            counted.failure(status);
        }
    }
}

/// Ends a connection. What the client still sends is read for a while.
pub(super) async fn close(client: &AsyncStream) {
    if client.finish_writing().is_err() {
        return;
    }
    let drained = async {
        let mut left = LINGER_BYTES;
        while left > 0 {
            let read = with_buffer(|buffer| client.try_read_all(buffer));
            match read {
                Ok(0) => return,
                Ok(read) => left = left.saturating_sub(read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if client.ready(Interest::READABLE).await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    };
    let _ = timeout(LINGER, drained).await;
}

/// Who asks.
struct Asker {
    /// The address that the connection is from.
    peer: Peer,
    /// The client's, as a proxy of ours tells it.
    client: Peer,
    /// Whether it is such a proxy.
    is_trusted: bool,
}

impl Asker {
    fn of(received: &Received<'_, '_>, route: &Route, peer: Peer) -> Self {
        let Some(http) = route
            .context
            .http
            .as_ref()
            .filter(|http| trusts(http, peer))
        else {
            return Self::unknown(peer);
        };
        Self {
            peer,
            client: received.client(|said| trusts(http, said)).unwrap_or(peer),
            is_trusted: true,
        }
    }

    /// Nothing is known but the address.
    fn unknown(peer: Peer) -> Self {
        Self {
            peer,
            client: peer,
            is_trusted: false,
        }
    }
}

/// What the access log has of a request.
fn access(request: &Received<'_, '_>, asker: &Asker) -> Access {
    let text = |bytes: Option<&[u8]>| bytes.map(|text| String::from_utf8_lossy(text).into_owned());
    let request_id = request.field("X-Request-Id").filter(|_| asker.is_trusted);
    let mut access = Access::of(asker.client);
    access.host = text(request.host()).unwrap_or(access.host);
    access.method = request.method().to_owned();
    access.path = request.path().to_owned();
    access.request_id = text(request_id);
    access
}

/// Where a request goes.
fn aim<'l>(lead: &'l Lead, request: &Received<'_, '_>) -> Result<&'l Arc<Route>, Refusal> {
    let Some(Way::ByHost(table)) = &lead.way else {
        return Err(Refusal::new(503, "this port is for something else now"));
    };
    let (host, path) = (request.host(), request.path());
    table.find(host, path).ok_or_else(|| match host {
        Some(_) => Refusal::new(404, "no service has this host and path"),
        None => Refusal::new(400, "no Host, and several services"),
    })
}

/// Enters while the gate is open, and waits otherwise, if there is room.
fn enter(
    lead: &Lead,
    room: &Arc<Semaphore>,
    peer: Peer,
    route: &Arc<Route>,
) -> Result<Entered, NotEntered> {
    if lead.holds(route) {
        return Err(NotEntered::Held);
    }
    Ok(match route.entrance.enter() {
        Some(permit) => Entered::Inside(permit),
        None => {
            let room = room.clone().try_acquire_owned();
            let full = |_| Refusal::new(503, "too many requests wait for the service");
            let room = room.map_err(|error| NotEntered::Refused(full(error)))?;
            let queued = route.entrance.arrive(&route.listener, peer);
            Entered::Waiting(Box::new(queued), Some(room))
        }
    })
}

/// What is known of a request whose client may ask.
struct Judged<'r> {
    origin: Origin<'r>,
    page: Option<&'r WaitingPage>,
    is_quiet: bool,
}

/// Whether the client may ask, and whether the request counts.
fn judge<'r>(
    received: &Received<'_, '_>,
    route: &'r Route,
    asker: &Asker,
) -> Result<Judged<'r>, Refusal> {
    let http = route.context.http.as_ref();
    let client = asker.client;
    if !route.context.access.admits(client) {
        route.entrance.denied(&route.listener, client);
        return Err(Refusal::new(403, "this address is not allowed here"));
    }
    let facts = Facts {
        method: received.method(),
        path: received.path(),
        agent: received.field("User-Agent"),
        client,
        is_prefetch: received.field("Sec-Purpose").is_some_and(names_prefetch),
    };
    let is_quiet = http.is_some_and(|http| http.quiet.is_quiet(&facts));
    Ok(Judged {
        origin: Origin {
            client: client_ip(asker.peer),
            is_trusted: asker.is_trusted,
            target: &route.authority,
        },
        page: http.and_then(|http| http.page.as_ref()),
        is_quiet: is_quiet && !received.request.upgrades,
    })
}

/// The address that the target is told.
fn client_ip(peer: Peer) -> Option<IpAddr> {
    match peer {
        Peer::Tcp(address) => Some(address.ip()),
        Peer::Unix => None,
    }
}

/// Whether a browser fetches something that nobody may look at (`Sec-Purpose: prefetch;prerender`).
fn names_prefetch(purpose: &[u8]) -> bool {
    purpose.starts_with(b"prefetch")
}

/// Whether what it says of its own clients is passed on.
fn trusts(http: &Http, peer: Peer) -> bool {
    match peer {
        Peer::Tcp(_) => !http.trust.is_empty() && http.trust.admits(peer),
        Peer::Unix => true,
    }
}
