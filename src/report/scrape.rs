//! Serves the metrics over HTTP. Every request gets a connection of its own and a time limit; any
//! other request gets an answer of one line.

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

/// Serves `source` on `listeners` until no request has come for `idle`. Later ones wait in the
/// backlog.
pub async fn serve(listeners: Vec<Listener>, idle: Duration, source: Source) -> io::Result<()> {
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
                let scrape = answer(connection, source.clone());
                scrapes.spawn(async move { drop(timeout(SCRAPE_TIMEOUT, scrape).await) });
            }
            Some(_) = scrapes.join_next() => (),
            Some(Ok(Err(error))) = accepts.join_next() => return Err(error),
            () = sleep(idle), if scrapes.is_empty() => return Ok(()),
        }
    }
}

async fn accept(listener: Listener, sender: mpsc::Sender<RawStream>) -> io::Result<()> {
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

async fn answer(connection: RawStream, source: Source) -> io::Result<()> {
    match connection.watch()? {
        AsyncStream::Tcp(tcp) => speak(TokioIo::new(tcp), source).await,
        AsyncStream::Unix(unix) => speak(TokioIo::new(unix), source).await,
    }
    Ok(())
}

async fn speak(stream: impl Read + Write + Unpin, source: Source) {
    let service = service_fn(|request: Request<Incoming>| {
        let source = source.clone();
        async move { Ok::<_, Infallible>(respond(&request, &source).await) }
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

async fn respond(request: &Request<Incoming>, source: &Source) -> Response<String> {
    let plain = "text/plain; charset=utf-8";
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            (StatusCode::OK, metrics::CONTENT_TYPE, source().await)
        }
        (&Method::GET | &Method::HEAD, "/") => {
            let text = "wakeport: the metrics are at /metrics\n".into();
            (StatusCode::OK, plain, text)
        }
        (_, "/metrics" | "/") => {
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
