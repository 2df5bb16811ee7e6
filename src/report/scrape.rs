//! Serves the metrics over HTTP, and what a cluster asks of one process: whether it is ready, alive and
//! loaded. Every request gets a connection of its own and a time limit; any other request gets an answer of one line.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::net::listen::Listener;
use crate::net::stream::{AsyncStream, RawStream};
use crate::report::metrics;

/// A scrape takes milliseconds.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);

/// Scrapes at once; the others wait in the backlog.
const MOST_SCRAPES: usize = 16;

/// More than a request from any Prometheus has.
const LONGEST_HEAD: usize = 16 * 1024;

/// After an accept(2) that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Makes the page for a scrape.
pub type Source = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = String> + Send>> + Send + Sync>;

/// Answers what a cluster asks, with whether all is well.
pub type Answers =
    Arc<dyn Fn(Question) -> Pin<Box<dyn Future<Output = (bool, String)> + Send>> + Send + Sync>;

/// What a cluster asks of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether connections are to come here.
    Ready,
    /// Whether it does anything.
    Live,
    /// How many clients there are.
    Load,
}

/// What is served.
#[derive(Clone)]
pub struct Pages {
    /// At `/metrics`.
    pub metrics: Source,
    /// At `/readyz`, `/livez` and `/load`, where one process is meant.
    pub answers: Option<Answers>,
}

/// Serves `pages` on `listeners` until no request has come for `idle`. Later ones wait in the
/// backlog.
pub async fn serve(listeners: Vec<Listener>, idle: Duration, pages: Pages) -> io::Result<()> {
    let (sender, mut accepted) = mpsc::channel(1);
    let mut accepts = JoinSet::new();
    for listener in listeners {
        accepts.spawn(accept(listener, sender.clone()));
    }
    let mut scrapes = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(connection) = accepted.recv(), if scrapes.len() < MOST_SCRAPES => {
                let scrape = answer(connection, pages.clone());
                scrapes.spawn(async move { drop(timeout(SCRAPE_TIMEOUT, scrape).await) });
            }
            Some(_) = scrapes.join_next() => (),
            Some(Ok(Err(error))) = accepts.join_next() => return Err(error),
            () = sleep(idle), if scrapes.is_empty() => return Ok(()),
        }
    }
}

pub(super) async fn accept(listener: Listener, sender: mpsc::Sender<RawStream>) -> io::Result<()> {
    let listener = listener.watch()?;
    loop {
        match listener.accept().await {
            Ok((connection, _)) => {
                if sender.send(connection).await.is_err() {
                    return Ok(());
                }
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn answer(connection: RawStream, pages: Pages) -> io::Result<()> {
    match connection.watch()? {
        AsyncStream::Tcp(tcp) => speak(TokioIo::new(tcp.into_inner()), pages).await,
        AsyncStream::Unix(unix) => speak(TokioIo::new(unix), pages).await,
    }
    Ok(())
}

async fn speak(stream: impl Read + Write + Unpin, pages: Pages) {
    let service = service_fn(|request: Request<Incoming>| {
        let pages = pages.clone();
        async move { Ok::<_, Infallible>(respond(&request, &pages).await) }
    });
    let connection = http1::Builder::new()
        // A kept connection would keep the process.
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(SCRAPE_TIMEOUT / 2)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(stream, service);
    // A peer that resets, or does not speak HTTP, needs no report.
    let _ = connection.await;
}

async fn respond(request: &Request<Incoming>, pages: &Pages) -> Response<String> {
    let plain = "text/plain; charset=utf-8";
    let path = request.uri().path();
    let asked = pages.answers.as_ref().and_then(|answers| {
        let question = match path {
            "/readyz" => Question::Ready,
            "/livez" => Question::Live,
            "/load" => Question::Load,
            _ => return None,
        };
        Some((answers, question))
    });
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let (status, kind, body) = match (request.method(), path) {
        (_, _) if let (Some((answers, question)), true) = (&asked, reads) => {
            let (is_well, body) = answers(*question).await;
            let status = match is_well {
                true => StatusCode::OK,
                false => StatusCode::SERVICE_UNAVAILABLE,
            };
            let kind = match question {
                Question::Load => "application/json",
                Question::Ready | Question::Live => plain,
            };
            (status, kind, body)
        }
        (&Method::GET | &Method::HEAD, "/metrics") => (
            StatusCode::OK,
            metrics::CONTENT_TYPE,
            (pages.metrics)().await,
        ),
        (&Method::GET | &Method::HEAD, "/") => {
            let text = "wakeport: the metrics are at /metrics\n".into();
            (StatusCode::OK, plain, text)
        }
        (_, path) if asked.is_some() || ["/metrics", "/"].contains(&path) => {
            let text = "wakeport: only GET and HEAD\n".into();
            (StatusCode::METHOD_NOT_ALLOWED, plain, text)
        }
        _ => {
            let text = "wakeport: not found; the metrics are at /metrics\n".into();
            (StatusCode::NOT_FOUND, plain, text)
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, kind.parse().expect("a header's value"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, "GET, HEAD".parse().expect("a header's value"));
    }
    response
}
