//! A request that hyper has read: it is judged as those of HTTP/1 are, enters or waits, and is passed on
//! to its target, by HTTP/1 or HTTP/2.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use httparse::Header;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, COOKIE, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING};
use hyper::rt::Executor;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version, http};
use jiff::Timestamp;
use tokio::time::{sleep, sleep_until};

use super::super::Route;
use super::super::counted::{Counted, How};
use super::super::waiting_page::{self, Viewer};
use super::h2::{Front, Open, is_only};
use super::{Asker, Entered, Judged, NotEntered, access, aim, enter, judge};
use crate::config::{WaitingPage, span};
use crate::http::answer::{answer, dated, quiet_answer};
use crate::http::head::{self, Parsed, Refusal};
use crate::http::page;
use crate::http::repeat::{Repeats, Sent};
use crate::net::http2::{Error, Io, Upload, Use};
use crate::net::relay::IdleTimer;
use crate::service::probe::Answer;
use crate::service::{Access, Permit, Queued, Verdict};
use crate::util::lock::locked;

/// A request, of which the service knows.
struct Asked {
    route: Arc<Route>,
    /// What it says.
    says: head::Request,
    /// As it is passed on, without its body.
    method: Method,
    uri: Uri,
    fields: HeaderMap,
    /// Who asks, where the waiting page may be an answer.
    viewer: Option<Viewer>,
    entry: Entered,
}

/// A connection to a target.
enum Target {
    Http1(Io),
    Http2(Use),
}

/// A connection to a target, and how what goes by it is sent.
type Reached = (Target, Sent);

/// What a request holds until both messages have ended, or were reset.
#[derive(Debug)]
struct Held {
    /// Its part of a connection, which ends before the request leaves.
    used: Mutex<Option<Use>>,
    permit: Mutex<Option<Permit>>,
    up: AtomicU64,
    down: AtomicU64,
    counted: Mutex<Option<Counted>>,
    _open: Arc<Open>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(counted) = &mut *locked(&self.counted) {
            counted.carries(
                self.up.load(Ordering::Relaxed),
                self.down.load(Ordering::Relaxed),
            );
        }
        let permit = self.permit.get_mut();
        if let Some(permit) = permit.unwrap_or_else(PoisonError::into_inner) {
            permit.traffic.up += self.up.load(Ordering::Relaxed);
            permit.traffic.down += self.down.load(Ordering::Relaxed);
        }
    }
}

impl Held {
    fn moved(&self) -> u64 {
        self.up.load(Ordering::Relaxed) + self.down.load(Ordering::Relaxed)
    }
}

/// The body of a request as it comes.
#[derive(Debug)]
struct Source {
    body: Mutex<Incoming>,
    /// Something was taken of it, so that it cannot be sent again.
    is_touched: AtomicBool,
}

/// The body on its way to the target.
struct Passing(Arc<Source>, Arc<Held>);

/// The body of a response.
pub(super) enum Answered {
    /// Of ours.
    Own(Option<Bytes>),
    /// The target's.
    Passed(Box<Passed>),
}

pub(super) struct Passed {
    body: Incoming,
    held: Arc<Held>,
    idle: Option<Idle>,
}

/// Ready when no byte of a request or its response has moved for too long.
struct Idle {
    timer: Box<IdleTimer>,
    seen: u64,
}

/// Why there is no response.
enum Unanswered {
    /// The connection broke, or the target has reset the request.
    Broken {
        error: Error,
        /// The target has seen nothing of it.
        is_unseen: bool,
    },
    Idle,
}

/// A response of ours, which is written down as HTTP/1 has it.
fn ours(bytes: Vec<u8>) -> Response<Answered> {
    let bytes = dated(bytes, Timestamp::now());
    let mut room = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut room);
    let length = match head.parse(&bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) | Err(_) => 0,
    };
    let status = head.code.unwrap_or(500);
    let mut response = Response::new(Answered::Own(None));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    let fields = response.headers_mut();
    let version = head::Version::Http11;
    let _ = head::returned(
        (status, version),
        head.headers,
        head::Method::Get,
        put(fields),
    );
    let body = &bytes[length..];
    if !body.is_empty() {
        *response.body_mut() = Answered::Own(Some(Bytes::copy_from_slice(body)));
    }
    response
}

/// Takes fields that were judged.
fn put(fields: &mut HeaderMap) -> impl FnMut(&str, &[u8]) {
    |name, value| {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            fields.append(name, value);
        }
    }
}

/// Fields as the judges of HTTP/1 take them.
fn fields(fields: &HeaderMap) -> Vec<Header<'_>> {
    let fields = fields.iter().map(|(name, value)| Header {
        name: name.as_str(),
        value: value.as_bytes(),
    });
    fields.collect()
}

fn version(version: Version) -> head::Version {
    match version {
        Version::HTTP_09 | Version::HTTP_10 => head::Version::Http10,
        _ => head::Version::Http11,
    }
}

impl Front {
    /// Has a request answered.
    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Answered>, Error> {
        let open = Arc::new(Open::new(self.clone()));
        let (head, body) = request.into_parts();
        let has_body = !body.is_end_stream();
        let is_http2 = head.version == Version::HTTP_2;
        let asked = loop {
            match self.take(&head, has_body) {
                Ok(asked) => break asked,
                Err(NotEntered::Held) => {
                    let mut leads = self.leads.clone();
                    if leads.released().await.is_err() {
                        let gone = Refusal::new(503, "this port is closed");
                        return Ok(self.refuse(gone, head::Method::Get));
                    }
                }
                Err(NotEntered::Refused(refusal)) => {
                    let method = match head.method {
                        Method::HEAD => head::Method::Head,
                        _ => head::Method::Get,
                    };
                    return Ok(self.refuse(refusal, method));
                }
            }
        };
        let source = Arc::new(Source {
            body: Mutex::new(body),
            is_touched: AtomicBool::new(false),
        });
        let (asked, mut counted) = asked;
        let answered = self.answer_asked(asked, &mut counted, source, open, is_http2);
        let response = answered.await?;
        let status = response.status().as_u16();
        counted.status(status);
        match response.body() {
            Answered::Passed(passed) => *locked(&passed.held.counted) = Some(counted),
            Answered::Own(_) if matches!(status, 502 | 504) => counted.failure(status),
            Answered::Own(_) => (),
        }
        Ok(response)
    }

    /// Judges a request; it has entered then, or waits.
    fn take(
        &self,
        head: &http::request::Parts,
        has_body: bool,
    ) -> Result<(Asked, Counted), NotEntered> {
        let peer = self.arrival.peer;
        // Of a request that may be none of ours nothing else is known.
        let is_http2 = head.version == Version::HTTP_2;
        let target = match (is_http2, head.uri.path_and_query()) {
            (true, Some(path)) => path.to_string(),
            _ => head.uri.to_string(),
        };
        // HTTP/2 has a cookie in several fields, and HTTP/1 in one (RFC 9113, section 8.2.3).
        let crumbs = head.headers.get_all(COOKIE).into_iter();
        let crumbs: Vec<&[u8]> = crumbs.map(HeaderValue::as_bytes).collect();
        let cookie = crumbs.join(&b"; "[..]);
        let mut fields = fields(&head.headers);
        if crumbs.len() > 1 {
            let is_cookie = |field: &Header<'_>| field.name == COOKIE.as_str();
            fields.retain(|field| !is_cookie(field));
            fields.push(Header {
                name: COOKIE.as_str(),
                value: &cookie,
            });
        }
        // HTTP/2 has the host beside the fields, and it counts (RFC 9113, section 8.3.1).
        if let Some(authority) = head.uri.authority().filter(|_| is_http2) {
            fields.retain(|field| field.name != HOST.as_str());
            fields.push(Header {
                name: HOST.as_str(),
                value: authority.as_str().as_bytes(),
            });
        }
        let parsed = Parsed {
            method: head.method.as_str(),
            target: &target,
            version: version(head.version),
            has_body,
        };
        let counts = |route: &Route, how, refusal: Refusal, access: &dyn Fn() -> Access| {
            Counted::begin(route, how, access).status(refusal.status);
            NotEntered::Refused(refusal)
        };
        let received = head::parsed(&parsed, &fields)
            .map_err(|refusal| counts(&self.route, How::Unrouted, refusal, &|| Access::of(peer)))?;
        // What is held after this has the request counted.
        let lead = self.leads.look();
        let route = aim(&lead, &received).map_err(|mut refusal| {
            // What another connection may be for (RFC 9113, section 9.1.2).
            if is_http2 && refusal.status == 404 {
                refusal.status = 421;
            }
            let access = || access(&received, &Asker::unknown(peer));
            counts(&self.route, How::Unrouted, refusal, &access)
        })?;
        let asker = Asker::of(&received, route, peer);
        let access = || access(&received, &asker);
        let refused = |refusal| counts(route, How::Enters, refusal, &access);
        let judged = judge(&received, route, &asker).map_err(refused)?;
        let Judged {
            origin,
            page,
            is_quiet,
        } = judged;
        let mut passed = HeaderMap::with_capacity(fields.len() + 4);
        received.pass(&origin, put(&mut passed));
        let uri = Uri::builder();
        let uri = match is_only(route) {
            true => {
                let host = passed.remove(HOST);
                passed.remove(CONNECTION);
                let host = host.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
                uri.scheme("http").authority(host)
            }
            false => {
                let te = passed.contains_key(CONNECTION);
                let value = HeaderValue::from_static(if te { "te, close" } else { "close" });
                passed.insert(CONNECTION, value);
                uri
            }
        };
        // hyper says where the body ends.
        passed.remove(TRANSFER_ENCODING);
        let uri = uri.path_and_query(received.target()).build();
        let uri = uri.map_err(|_| refused(Refusal::bad("the target is no path")))?;
        let viewer = Viewer::of(&received, page, &route.service).filter(|_| !has_body);
        let says = received.request;
        let entry = match is_quiet {
            true => Ok(Entered::Quiet),
            false => enter(&lead, &self.room, peer, route),
        };
        let entry = entry.map_err(|why| match why {
            NotEntered::Held => NotEntered::Held,
            NotEntered::Refused(refusal) => refused(refusal),
        })?;
        let counted = Counted::begin(route, entry.how(), access);
        let asked = Asked {
            route: route.clone(),
            says,
            method: head.method.clone(),
            uri,
            fields: passed,
            viewer,
            entry,
        };
        Ok((asked, counted))
    }

    /// Answers in the place of the target.
    fn refuse(&self, refusal: Refusal, method: head::Method) -> Response<Answered> {
        let Refusal { status, why } = refusal;
        tracing::debug!(client = %self.arrival.peer, status, "{why}");
        ours(answer(status, why, method))
    }

    async fn answer_asked(
        &self,
        mut asked: Asked,
        counted: &mut Counted,
        source: Arc<Source>,
        open: Arc<Open>,
        is_http2: bool,
    ) -> Result<Response<Answered>, Error> {
        let route = asked.route.clone();
        let context = &route.context;
        let refuse = |status, why| Ok(self.refuse(Refusal::new(status, why), asked.says.method));
        let held = |permit, target: &mut Option<Target>| {
            let used = match target.take() {
                Some(Target::Http2(used)) => Some(used),
                it @ (Some(Target::Http1(_)) | None) => {
                    *target = it;
                    None
                }
            };
            Arc::new(Held {
                used: Mutex::new(used),
                permit: Mutex::new(permit),
                up: AtomicU64::new(0),
                down: AtomicU64::new(0),
                counted: Mutex::default(),
                _open: open.clone(),
            })
        };
        let (mut permit, mut queued, mut room) =
            match mem::replace(&mut asked.entry, Entered::Quiet) {
                Entered::Inside(permit) => (Some(permit), None, None),
                Entered::Waiting(queued, room) => (None, Some(queued), room),
                Entered::Quiet => {
                    let status = context.http.as_ref().map_or(503, |http| http.quiet.answer);
                    let asleep = || Ok(ours(quiet_answer(status, true)));
                    if !route.entrance.is_open() {
                        return asleep();
                    }
                    let Ok((target, _)) = self.connect(&route, None).await else {
                        return asleep();
                    };
                    let mut target = Some(target);
                    let held = held(None, &mut target);
                    return match self.exchange(&asked, target, &source, held).await {
                        Ok(response) => Ok(response),
                        Err(Unanswered::Broken { .. } | Unanswered::Idle) => asleep(),
                    };
                }
            };
        let page = context.http.as_ref().and_then(|http| http.page.as_ref());
        let viewer = asked.viewer.take();
        let page = page.zip(viewer.as_ref());
        if page.is_some_and(|(_, viewer)| viewer.is_the_page) {
            return Ok(ours(self.tell(&route, queued).await));
        }
        let mut repeats = Repeats::default();
        loop {
            let due = match (page, &queued) {
                (Some((page, viewer)), Some(_)) => viewer.due(page, &route.entrance).await,
                _ => None,
            };
            let is_due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let reached = tokio::select! {
                biased;
                reached = self.reach(&route, permit.take(), &mut queued) => reached,
                () = is_due => {
                    self.expect(queued);
                    counted.page();
                    return Ok(self.show(page, &route, false).await);
                }
            };
            let Some(((target, sent), inside)) = reached else {
                return match page {
                    _ if repeats.was_sent => {
                        refuse(502, "the service ended when it had the request")
                    }
                    Some(_) => {
                        counted.page();
                        Ok(self.show(page, &route, true).await)
                    }
                    None => refuse(503, "the service cannot be had"),
                };
            };
            drop(room.take());
            counted.is_let_through();
            self.came();
            let mut target = Some(target);
            let held = held(Some(inside), &mut target);
            let unanswered = match self.exchange(&asked, target, &source, held.clone()).await {
                Ok(response) => return Ok(response),
                Err(unanswered) => unanswered,
            };
            let (error, is_unseen) = match unanswered {
                Unanswered::Idle => {
                    if let Some(permit) = &mut *locked(&held.permit) {
                        permit.traffic.idle = 1;
                    }
                    let limit = span::show(context.liveness.idle_timeout);
                    let peer = self.arrival.peer;
                    tracing::info!(client = %peer, "request of {peer} ended: idle for {limit}");
                    return Err(io::Error::from(io::ErrorKind::TimedOut).into());
                }
                Unanswered::Broken { error, is_unseen } => (error, is_unseen),
            };
            let is_whole = !source.is_touched.load(Ordering::SeqCst);
            let may_repeat = is_whole && (is_unseen || asked.says.is_idempotent());
            // It is not in use any more.
            locked(&held.used).take();
            permit = locked(&held.permit).take();
            // One that was looked at and refused tells that the target goes on.
            let sent = if is_refused(&error) {
                Sent::Reused
            } else {
                sent
            };
            let Some(pause) = repeats.again(sent, may_repeat) else {
                let why = reason(&error);
                tracing::debug!(client = %self.arrival.peer, "no response: {error}");
                return match why {
                    // As the target has ended it.
                    Some(_) if is_http2 => Err(error),
                    _ => refuse(502, "the service closed the connection without a response"),
                };
            };
            counted.retry();
            sleep(pause).await;
        }
    }

    /// Waits for the verdict unless it has entered, and connects. `None` if the service cannot be had.
    async fn reach(
        &self,
        route: &Arc<Route>,
        inside: Option<Permit>,
        queued: &mut Option<Box<Queued>>,
    ) -> Option<(Reached, Permit)> {
        let mut inside = inside.map(|permit| (permit, None));
        loop {
            let (permit, answer) = match (inside.take(), queued.as_mut()) {
                (Some(entered), _) => entered,
                (None, Some(waiting)) => match waiting.verdict().await {
                    Verdict::Admitted(permit, answer) => (permit, answer),
                    Verdict::Rejected => return None,
                },
                (None, None) => return None,
            };
            *queued = None;
            match self.connect(route, answer).await {
                Ok(reached) => return Some((reached, permit)),
                Err(error) => {
                    let why = error.to_string();
                    let waiting = permit.refused(&route.listener, self.arrival.peer, why);
                    *queued = Some(Box::new(waiting));
                }
            }
        }
    }

    /// A connection to the target, by which one request may go.
    async fn connect(&self, route: &Route, answer: Option<Answer>) -> io::Result<Reached> {
        let dialer = &route.context.dialer;
        let is_http2 = is_only(route);
        // Each connection may tell another client.
        let is_shared = is_http2 && !dialer.announces();
        let shared = &route.entrance.pool().shared;
        let _opening = match is_shared {
            true => {
                if let Some(used) = shared.take() {
                    return Ok((Target::Http2(used), Sent::Reused));
                }
                let opening = shared.opening().await;
                if let Some(used) = shared.take() {
                    return Ok((Target::Http2(used), Sent::Reused));
                }
                Some(opening)
            }
            false => None,
        };
        let Answer { connection, said } = match answer {
            Some(answer) => answer.rebind()?,
            None => dialer.dial(&route.target).await?.into(),
        };
        let origin = match self.arrival.header {
            Some(named) => named,
            None => route.origin(&self.client, self.arrival.peer),
        };
        let io = Io::new(Arc::new(connection.announce(origin)?), said);
        let target = match is_http2 {
            true => Target::Http2(shared.open(io, is_shared).await?),
            false => Target::Http1(io),
        };
        Ok((target, Sent::Fresh))
    }

    /// Has the target answer.
    async fn exchange(
        &self,
        asked: &Asked,
        target: Option<Target>,
        source: &Arc<Source>,
        held: Arc<Held>,
    ) -> Result<Response<Answered>, Unanswered> {
        let unsent = |error: hyper::Error| Unanswered::Broken {
            error: error.into(),
            is_unseen: true,
        };
        let body: Upload = Box::pin(Passing(source.clone(), held.clone()));
        let mut request = Request::new(body);
        *request.method_mut() = asked.method.clone();
        *request.uri_mut() = asked.uri.clone();
        *request.headers_mut() = asked.fields.clone();
        let mut idle = Idle::new(&asked.route);
        let used = locked(&held.used).as_ref().map(Use::sender);
        let held_by_connection = held.clone();
        let sent = async move {
            match (target, used) {
                (_, Some(mut sender)) => sender.try_send_request(request).await,
                (Some(Target::Http1(io)), None) => {
                    let mut builder = http1::Builder::new();
                    let handshake = builder.max_buf_size(head::LONGEST).handshake(io).await;
                    let (mut sender, connection) = handshake.map_err(unsent)?;
                    self.tasks.execute(async move {
                        let _ = connection.await;
                        drop(held_by_connection);
                    });
                    sender.try_send_request(request).await
                }
                (_, None) => return Err(unsent_without_target()),
            }
            .map_err(|mut failed| {
                let is_unsent = failed.take_message().is_some();
                let error: Error = failed.into_error().into();
                let is_unseen = is_unsent || is_refused(&error);
                Unanswered::Broken { error, is_unseen }
            })
        };
        let mut sent = pin!(sent);
        let response = poll_fn(|cx| match (sent.as_mut().poll(cx), &mut idle) {
            (Poll::Ready(done), _) => Poll::Ready(done),
            (Poll::Pending, Some(idle)) => idle.poll(cx, &held).map(|()| Err(Unanswered::Idle)),
            (Poll::Pending, None) => Poll::Pending,
        });
        let (head, body) = response.await?.into_parts();
        let status = head.status.as_u16();
        let mut response = Response::new(Answered::Own(None));
        *response.status_mut() = head.status;
        let what = (status, version(head.version));
        let method = asked.says.method;
        let returned = head::returned(
            what,
            &fields(&head.headers),
            method,
            put(response.headers_mut()),
        );
        if let Err(refusal) = returned {
            return Ok(self.refuse(refusal, method));
        }
        tracing::debug!(client = %self.arrival.peer, status, "answered: {status}");
        *response.body_mut() = Answered::Passed(Box::new(Passed { body, held, idle }));
        Ok(response)
    }

    /// Shows the waiting page.
    async fn show(
        &self,
        page: Option<(&WaitingPage, &Viewer)>,
        route: &Route,
        failed: bool,
    ) -> Response<Answered> {
        match page {
            Some((page, viewer)) => {
                ours(viewer.response(page, &route.entrance, failed, true).await)
            }
            None => ours(answer(503, "the service cannot be had", head::Method::Get)),
        }
    }

    /// Tells the waiting page when the service answers, or how it comes along.
    async fn tell(&self, route: &Route, queued: Option<Box<Queued>>) -> Vec<u8> {
        let Some(mut queued) = queued else {
            return page::IT_ANSWERS.into();
        };
        tokio::select! {
            biased;
            verdict = queued.verdict() => match verdict {
                Verdict::Admitted(..) => page::IT_ANSWERS.into(),
                Verdict::Rejected => waiting_page::news(route, "failed").await,
            },
            () = sleep(waiting_page::NEWS) => {
                // The next question comes soon.
                self.expect(Some(queued));
                waiting_page::news(route, "starting").await
            }
        }
    }
}

fn unsent_without_target() -> Unanswered {
    Unanswered::Broken {
        error: io::Error::from(io::ErrorKind::NotConnected).into(),
        is_unseen: true,
    }
}

/// Why HTTP/2 has ended a request, if it has.
fn reason(error: &Error) -> Option<h2::Reason> {
    let mut cause = Some(error.as_ref() as &(dyn std::error::Error + 'static));
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason().filter(|_| error.is_reset());
        }
        cause = error.source();
    }
    None
}

/// Whether the target says that it has not looked at the request (RFC 9113, section 8.7).
fn is_refused(error: &Error) -> bool {
    reason(error) == Some(h2::Reason::REFUSED_STREAM)
}

impl Idle {
    fn new(route: &Route) -> Option<Self> {
        let limit = route.context.liveness.idle_timeout;
        let timer = IdleTimer::new(limit, std::time::Duration::ZERO)?;
        Some(Self { timer, seen: 0 })
    }

    fn poll(&mut self, cx: &mut Context<'_>, held: &Held) -> Poll<()> {
        let moved = held.moved();
        let has_moved = mem::replace(&mut self.seen, moved) != moved;
        self.timer.poll(cx, has_moved)
    }
}

/// Counts what passes, and has only such fields follow it that may.
fn passed(frame: Frame<Bytes>, total: &AtomicU64) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            let names: Vec<HeaderName> = trailers.keys().cloned().collect();
            for name in names
                .into_iter()
                .filter(|name| !head::may_trail(name.as_str()))
            {
                trailers.remove(name);
            }
            Frame::trailers(trailers)
        }
        Err(frame) => {
            let length = frame.data_ref().map_or(0, Bytes::len);
            total.fetch_add(length as u64, Ordering::Relaxed);
            frame
        }
    }
}

impl Body for Passing {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Self(source, held) = self.get_mut();
        let frame = ready!(Pin::new(&mut *locked(&source.body)).poll_frame(cx));
        source.is_touched.store(true, Ordering::SeqCst);
        Poll::Ready(frame.map(|frame| Ok(passed(frame?, &held.up))))
    }

    fn is_end_stream(&self) -> bool {
        locked(&self.0.body).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        locked(&self.0.body).size_hint()
    }
}

impl Body for Answered {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let passing = match self.get_mut() {
            Self::Own(bytes) => return Poll::Ready(bytes.take().map(|it| Ok(Frame::data(it)))),
            Self::Passed(passed) => passed,
        };
        let Passed { body, held, idle } = &mut **passing;
        match (Pin::new(body).poll_frame(cx), idle) {
            (Poll::Ready(frame), _) => {
                Poll::Ready(frame.map(|frame| Ok(passed(frame?, &held.down))))
            }
            (Poll::Pending, Some(idle)) => {
                ready!(idle.poll(cx, held));
                if let Some(permit) = &mut *locked(&held.permit) {
                    permit.traffic.idle = 1;
                }
                Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::TimedOut).into())))
            }
            (Poll::Pending, None) => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Passed(passed) => passed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Passed(passed) => passed.body.size_hint(),
        }
    }
}
