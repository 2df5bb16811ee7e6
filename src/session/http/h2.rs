//! A connection over which a client speaks HTTP/2, or asks for a target that speaks only that: hyper
//! reads and writes it, and each request enters or waits by itself. It cannot pause; at a restart it
//! drains.

use std::mem;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use hyper_util::server::conn::auto::Builder;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep};

use super::super::abort::Abort;
use super::super::waiting_page::expected;
use super::super::{Arrival, Leads, Route, Triggered};
use super::{HEAD_TIMEOUT, KEEP_ALIVE, LINGER, Web};
use crate::config::TargetProtocol;
use crate::http::head;
use crate::net::http2::{Io, Tasks};
use crate::net::stream::AsyncStream;
use crate::service::Queued;
use crate::util::lock::locked;

/// With this a connection of HTTP/2 begins (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How many requests a client may have under way at once.
const MOST_STREAMS: u32 = 100;

/// How many requests it may have reset that were not even begun (CVE-2023-44487), and how many it may
/// have us reset (CVE-2025-8671), before the connection is closed.
const MOST_RESETS: usize = 20;
const MOST_OWN_RESETS: usize = 128;

/// How much of requests is read that their targets do not take yet: of one, and of all.
const STREAM_WINDOW: u32 = 256 * 1024;
const WINDOW: u32 = 1024 * 1024;

/// How much of a response is buffered that the client does not take.
const SEND_BUFFER: usize = 64 * 1024;

/// How often a client is asked whether it is still there, and how long it may take to answer.
const PING: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What the requests of a connection share.
#[derive(Debug)]
pub(super) struct Front {
    /// Where its listener leads.
    pub(super) leads: Leads,
    /// By what its requests are counted that belong to no service.
    pub(super) route: Arc<Route>,
    pub(super) client: Arc<AsyncStream>,
    pub(super) arrival: Arrival,
    /// How many may wait.
    pub(super) room: Arc<Semaphore>,
    pub(super) tasks: Tasks,
    /// The client that has seen the waiting page last.
    expected: Mutex<JoinSet<()>>,
    /// How many requests are under way.
    open: AtomicUsize,
    /// Notified when that changes.
    changed: Notify,
}

/// A request that is under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Open(Arc<Front>);

impl Open {
    pub(super) fn new(front: Arc<Front>) -> Self {
        front.open.fetch_add(1, Ordering::SeqCst);
        front.changed.notify_one();
        Self(front)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_one();
    }
}

impl Front {
    /// A client has seen the waiting page and is to come back; it waited as `queued`.
    pub(super) fn expect(&self, queued: Option<Box<Queued>>) {
        let mut expected_ones = JoinSet::new();
        if let Some(queued) = queued {
            expected_ones.spawn(expected(queued));
        }
        self.replace(expected_ones);
    }

    /// It has.
    pub(super) fn came(&self) {
        self.replace(JoinSet::new());
    }

    fn replace(&self, expected: JoinSet<()>) -> JoinSet<()> {
        let mut before = locked(&self.expected);
        mem::replace(&mut before, expected)
    }
}

/// Whether these first bytes are of HTTP/2, as far as can be told.
pub(super) fn may_begin(come: &[u8]) -> bool {
    !come.is_empty() && come.iter().zip(PREFACE).all(|(come, byte)| come == byte)
}

/// Whether what goes there is translated into HTTP/2.
pub(super) fn is_only(route: &Route) -> bool {
    let http = route.context.http.as_ref();
    http.is_some_and(|http| http.target == TargetProtocol::H2c)
}

/// How hyper is to serve it. One connection of HTTP/1 may lead to several services, so that the next
/// request may be none for hyper.
fn builder(tasks: Tasks) -> Builder<Tasks> {
    let mut builder = Builder::new(tasks);
    builder
        .http1()
        .keep_alive(false)
        .half_close(true)
        .auto_date_header(false)
        .max_buf_size(head::LONGEST)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .auto_date_header(false)
        .max_concurrent_streams(MOST_STREAMS)
        .max_pending_accept_reset_streams(MOST_RESETS)
        .max_local_error_reset_streams(MOST_OWN_RESETS)
        .max_header_list_size(head::LONGEST as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Answers the client's requests to the end.
pub(super) async fn serve(web: Web, abort: &Abort, interrupt: &mut Triggered<'_>) {
    let Web {
        leads,
        route,
        client,
        arrival,
        come,
        room,
        wanted,
        mut connected,
        ..
    } = web;
    let _fixed = abort.fix();
    let front = Arc::new(Front {
        leads,
        route,
        client: Arc::new(client),
        arrival,
        room,
        tasks: Tasks::default(),
        expected: Mutex::default(),
        open: AtomicUsize::new(0),
        changed: Notify::new(),
    });
    {
        let service = service_fn(|request| front.clone().answer(request));
        let builder = builder(front.tasks.clone());
        let io = Io::new(front.client.clone(), come);
        let mut connection = pin!(builder.serve_connection(io, service));
        let mut finishing = abort.finishing();
        let mut alarm = pin!(sleep(KEEP_ALIVE));
        let mut ends = false;
        loop {
            let is_idle = front.open.load(Ordering::SeqCst) == 0;
            connected.active(!is_idle);
            let ends_now = tokio::select! {
                biased;
                _ = connection.as_mut() => break,
                _ = &mut *interrupt => {
                    front.client.reset();
                    break;
                }
                () = front.changed.notified() => {
                    let limit = if ends { LINGER } else { KEEP_ALIVE };
                    alarm.as_mut().reset(Instant::now() + limit);
                    false
                }
                () = &mut finishing, if !ends => true,
                () = wanted.notified(), if is_idle && !ends => true,
                () = alarm.as_mut(), if is_idle => match ends {
                    true => break,
                    false => true,
                },
            };
            if ends_now {
                ends = true;
                // What has crossed the first GOAWAY is answered still.
                connection.as_mut().graceful_shutdown();
                alarm.as_mut().reset(Instant::now() + LINGER);
            }
        }
    }
    front.tasks.end().await;
    let mut expected = front.replace(JoinSet::new());
    tokio::select! {
        () = async { while expected.join_next().await.is_some() {} } => (),
        _ = interrupt => (),
    }
}
