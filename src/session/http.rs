//! A connection over which a client sends requests. Each of them enters or waits by itself; between two
//! the connection holds nothing but itself.

mod h2;
mod request;
mod under_way;

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::Interest;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::waiting_page::{Expected, Viewer};
use super::{
    Arrival, Entry, Lead, Leads, Left, Reached, Route, Served, Session, Sockets, Triggered, Turn,
    Way, abort, lost,
};
use crate::config::address::Peer;
use crate::config::host::Table;
use crate::config::quiet::Facts;
use crate::config::{Http, WaitingPage};
use crate::http::answer::answer;
use crate::http::body::Begun;
use crate::http::chunked::Malformed;
use crate::http::head::{self, Method, Origin, Received, Refusal, Request};
use crate::net::relay::direction::with_buffer;
use crate::net::relay::{self, Interrupt};
use crate::net::stream::AsyncStream;
use crate::service::{Permit, Queued};

/// How long a connection may be idle. Proxies in front of us keep theirs for less (Caddy: 2 min), so it
/// is they who close: a request that crosses our close would be lost.
const KEEP_ALIVE: Duration = Duration::from_secs(150);

/// What clients are told: less, for the same reason.
const KEEP_ALIVE_TOLD: u64 = 145;

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
    alarm: Pin<Box<Sleep>>,
    /// How many may wait.
    room: Arc<Semaphore>,
    /// Notified when an idle connection is to make room, the one that is idle for the longest time first.
    wanted: Arc<Notify>,
    /// No request has come over it, so that HTTP/2 may.
    is_new: bool,
}

/// What the client does next.
enum Next {
    Request(Asked),
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
    viewer: Option<Viewer>,
    entry: Entered,
}

enum Entered {
    Inside(Permit),
    /// The service does not know of it.
    Quiet,
    Waiting(Box<Queued>, Option<OwnedSemaphorePermit>),
}

/// Why a request is not taken.
enum NotEntered {
    Held,
    Refused(Refusal),
}

fn refused(status: u16, why: &'static str) -> NotEntered {
    NotEntered::Refused(Refusal::new(status, why))
}

/// Where a request goes, by which table.
struct Aim(Option<Arc<Table<Arc<Route>>>>, Arc<Route>);

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
    /// Answers the client's requests to the end, or until another protocol is to be relayed.
    pub(super) async fn converse(
        self,
        room: Arc<Semaphore>,
        wanted: Arc<Notify>,
    ) -> Option<Box<Served>> {
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
        // The process stays for the connection.
        let _pending = pending;
        let client = client.watch();
        let client = client.inspect_err(|error| lost(arrival.peer, error)).ok()?;
        let abort = route.context.abort.clone();
        let (mut interrupt, mut closing) = (abort.triggered(), abort.closing());
        let identified = match arrival.identified {
            true => Ok(()),
            false => tokio::select! {
                identified = Box::pin(route.identify(&client, &mut arrival)) => identified,
                () = client.gone() => Err(Reached::ClientGone),
                interrupt = &mut interrupt => Err(match interrupt {
                    Interrupt::Reset => Reached::Rejected,
                    Interrupt::Pause => Reached::Paused,
                }),
            },
        };
        let mut web = Web {
            leads,
            route,
            client,
            arrival,
            come: said,
            queued: None,
            expected: None,
            alarm: Box::pin(sleep(KEEP_ALIVE)),
            room,
            wanted,
            is_new: true,
        };
        let mut then = match (identified, turn) {
            (Ok(()), Turn::Between) => Then::Next,
            (Ok(()), Turn::Waiting(queued)) => {
                web.queued = Some(queued);
                Then::Next
            }
            (Ok(()), Turn::Exchanging(relayed, paused)) => {
                Box::pin(web.go_on(*relayed, *paused, &mut interrupt)).await
            }
            (Err(Reached::Paused), turn) => Then::Pause(turn),
            (Err(Reached::Rejected), _) => Then::Reset,
            (Err(Reached::ClientIdle), _) => {
                web.route.entrance.closed_idle();
                Then::Gone
            }
            (Err(Reached::ClientGone | Reached::Target(..)), _) => Then::Gone,
        };
        loop {
            then = match then {
                Then::Next => match web.next(&mut interrupt, &mut closing).await {
                    Next::Request(asked) => Box::pin(web.answer(asked, &mut interrupt)).await,
                    Next::Refused(refusal, method) => Then::Refuse(refusal, method),
                    Next::Over => Then::Close,
                    Next::Http2 => {
                        Box::pin(h2::serve(web, &abort, &mut interrupt)).await;
                        return None;
                    }
                    Next::Held => Box::pin(web.held(&mut interrupt)).await,
                    Next::Interrupted(Interrupt::Reset) => Then::Reset,
                    Next::Interrupted(Interrupt::Pause) => {
                        let queued = web.queued.take();
                        Then::Pause(queued.map_or(Turn::Between, Turn::Waiting))
                    }
                },
                Then::Refuse(refusal, method) => {
                    web.refuse(refusal, method).await;
                    Then::Close
                }
                Then::Say(response, persists) => {
                    let written = web.client.write_all(&response);
                    match timeout(LINGER, written).await {
                        Ok(Ok(())) if persists => Then::Next,
                        _ => Then::Close,
                    }
                }
                Then::Close => {
                    // It takes no longer than a pause may.
                    let reset = poll_fn(|cx| match Pin::new(&mut interrupt).poll(cx) {
                        Poll::Ready(Interrupt::Reset) => Poll::Ready(()),
                        Poll::Ready(Interrupt::Pause) | Poll::Pending => Poll::Pending,
                    });
                    tokio::select! {
                        () = Box::pin(web.close()) => (),
                        () = reset => (),
                    }
                    Then::Gone
                }
                Then::Reset => {
                    web.client.reset();
                    Then::Gone
                }
                Then::Gone => {
                    let Web {
                        client, expected, ..
                    } = web;
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
                    let entry = Entry::Http((), turn, web.leads);
                    Left::keep(web.route, web.client, web.arrival, entry, web.come);
                    return None;
                }
                Then::Relay(target, down, permit) => {
                    let client = web.client;
                    return Some(Box::new(Served {
                        sockets: Box::new(Sockets { client, target }),
                        paused: relay::Paused::after(web.come, down),
                        peer: web.arrival.peer,
                        route: web.route,
                        permit,
                    }));
                }
            };
        }
    }
}

impl Web {
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
            true => KEEP_ALIVE,
            false => HEAD_TIMEOUT,
        };
        self.alarm.as_mut().reset(Instant::now() + limit);
        let wanted = self.wanted.clone();
        let mut wanted = pin!(wanted.notified());
        poll_fn(|cx| match self.poll_next(cx, interrupt, closing) {
            Poll::Pending if self.come.is_empty() => wanted.as_mut().poll(cx).map(|()| Next::Over),
            next @ (Poll::Pending | Poll::Ready(_)) => next,
        })
        .await
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
        if self.alarm.as_mut().poll(cx).is_ready() {
            return Poll::Ready(match self.come.is_empty() {
                true => Next::Over,
                false => Next::Refused(Refusal::new(408, "the head takes too long"), Method::Other),
            });
        }
        // Those that have begun a request may end it.
        if self.come.is_empty() && Pin::new(closing).poll(cx).is_ready() {
            let soon = Instant::now() + LINGER;
            if soon < self.alarm.deadline() {
                self.alarm.as_mut().reset(soon);
                let _ = self.alarm.as_mut().poll(cx);
            }
        }
        Poll::Pending
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
                    self.alarm.as_mut().reset(Instant::now() + HEAD_TIMEOUT);
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
        let aim = match self.way(&received) {
            Ok(aim) => aim,
            Err(NotEntered::Held) => return self.hold(come),
            Err(NotEntered::Refused(refusal)) => return refused(refusal),
        };
        let Aim(_, route) = &aim;
        if h2::is_only(route) {
            self.come = come.to_vec();
            return Some(Next::Http2);
        }
        self.is_new = false;
        let Judged {
            origin,
            page,
            is_quiet,
        } = match judge(&received, route, self.arrival.peer) {
            Ok(judged) => judged,
            Err(refusal) => return refused(refusal),
        };
        let mut head = Vec::with_capacity(come.len() + 128);
        received.write(&origin, &mut head);
        let (begun, taken) = match Begun::new(head, &come[length..], request.length, true) {
            Ok(begun) => begun,
            Err(Malformed(why)) => return refused(Refusal::bad(why)),
        };
        let viewer = Viewer::of(&received, page, &route.service).filter(|_| begun.is_whole());
        let is_quiet = is_quiet && self.queued.is_none();
        let entered = match is_quiet {
            true => {
                self.route = route.clone();
                Ok(Entered::Quiet)
            }
            false => self.enter(aim),
        };
        let entry = match entered {
            Ok(entry) => entry,
            Err(NotEntered::Held) => return self.hold(come),
            Err(NotEntered::Refused(refusal)) => return refused(refusal),
        };
        let (raw, rest) = come.split_at(length + taken);
        let raw = raw.to_vec();
        self.come = rest.to_vec();
        Some(Next::Request(Asked {
            request,
            begun,
            raw,
            viewer,
            entry,
        }))
    }

    /// Leaves a request for later.
    fn hold(&mut self, come: &[u8]) -> Option<Next> {
        self.come = come.to_vec();
        Some(Next::Held)
    }

    /// Where a request goes: the table that says so, and the route.
    fn way(&self, request: &Received<'_, '_>) -> Result<Aim, NotEntered> {
        if self.queued.is_some() {
            return Ok(Aim(None, self.route.clone()));
        }
        aim(&self.leads, request)
    }

    /// Enters while the gate is open, and waits otherwise, if there is room.
    fn enter(&mut self, aim: Aim) -> Result<Entered, NotEntered> {
        if let Some(queued) = self.queued.take() {
            return Ok(Entered::Waiting(queued, None));
        }
        let (entered, route) = enter(&self.leads, &self.room, self.arrival.peer, aim)?;
        self.route = route;
        Ok(entered)
    }

    /// Waits until it is known where requests go from now on.
    async fn held(&mut self, interrupt: &mut Triggered<'_>) -> Then {
        let Self { leads, client, .. } = self;
        tokio::select! {
            biased;
            led = leads.wait_for(|lead| lead.held.is_empty()) => match led {
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
    async fn refuse(&self, refusal: Refusal, method: Method) {
        let Refusal { status, why } = refusal;
        tracing::debug!(client = %self.arrival.peer, status, "{why}");
        let answer = answer(status, why, method);
        let _ = timeout(LINGER, self.client.write_all(&answer)).await;
    }

    /// Ends the connection. What the client still sends is read for a while.
    async fn close(&self) {
        let client = &self.client;
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
}

/// Where a request goes: the table that says so, and the route.
fn aim(leads: &Leads, request: &Received<'_, '_>) -> Result<Aim, NotEntered> {
    let table = match &*leads.borrow() {
        Lead {
            way: Some(Way::ByHost(table)),
            ..
        } => table.clone(),
        Lead { .. } => return Err(refused(503, "this port is for something else now")),
    };
    let (host, path) = (request.host(), request.path());
    let Some(route) = table.find(host, path).cloned() else {
        return Err(match host {
            Some(_) => refused(404, "no service has this host and path"),
            None => refused(400, "no Host, and several services"),
        });
    };
    Ok(Aim(Some(table), route))
}

/// Enters while the gate is open, and waits otherwise, if there is room.
fn enter(
    leads: &Leads,
    room: &Arc<Semaphore>,
    peer: Peer,
    Aim(table, route): Aim,
) -> Result<(Entered, Arc<Route>), NotEntered> {
    // What is held after this has the request counted.
    let lead = leads.borrow();
    let is_current = |now: &Arc<_>| table.is_some_and(|table| Arc::ptr_eq(now, &table));
    let is_there = matches!(&lead.way, Some(Way::ByHost(now)) if is_current(now));
    if lead.holds(&route) || !is_there {
        return Err(NotEntered::Held);
    }
    let entered = match route.entrance.enter() {
        Some(permit) => Entered::Inside(permit),
        None => {
            let room = room.clone().try_acquire_owned();
            let room = room.map_err(|_| refused(503, "too many requests wait for the service"))?;
            let queued = route.entrance.arrive(&route.listener, peer);
            Entered::Waiting(Box::new(queued), Some(room))
        }
    };
    drop(lead);
    Ok((entered, route))
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
    peer: Peer,
) -> Result<Judged<'r>, Refusal> {
    let http = route.context.http.as_ref();
    let is_trusted = http.is_some_and(|http| trusts(http, peer));
    let client = match (http, is_trusted) {
        (Some(http), true) => received.client(|said| trusts(http, said)).unwrap_or(peer),
        _ => peer,
    };
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
            client: client_ip(peer),
            is_trusted,
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
