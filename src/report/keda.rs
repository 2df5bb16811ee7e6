//! KEDA's external scaler, served by gRPC: what it asks of a service, and what it is told.
//!
//! The messages are written from the field numbers of KEDA's documented interface, `externalscaler.ExternalScaler`.
//! How KEDA takes the answers decides what is said: each `true` on a stream refreshes its own cooldown, so that one is
//! only sent on a rise, and again while a client waits and nothing runs; an error is not "inactive"; and a stream
//! that ends otherwise than with status 0 is opened again after a pause that grows.

mod messages;

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use prost::Message;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::scrape::accept;
use crate::net::listen::Listener;
use crate::net::stream::{AsyncStream, RawStream};
use crate::util::text::decoded;
use messages::{
    IsActiveResponse, MetricSpec, MetricSpecs, MetricValue, MetricValues, MetricsRequest,
    ScaledObjectRef,
};

/// Connections at once; the others wait in the backlog. KEDA needs one for each of its replicas, and each peer of
/// ours one at a time.
const MOST_CONNECTIONS: usize = 64;

/// More than a trigger's metadata has.
const LONGEST_MESSAGE: usize = 64 * 1024;

/// Nobody else notices that a stream is open on one side only.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the head of a request may take, where it is HTTP/1.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a stream repeats that a client waits: KEDA may have dropped what it was told.
const REPEAT_EVERY: Duration = Duration::from_secs(1);

/// How often a stream looks whether another wakeport has woken the service.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The key of a trigger's metadata that says which service is meant.
const SERVICE: &str = "service";

/// What there is of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// It is not at zero by our order: a client waits, or it runs or stops, here or behind another wakeport.
    #[serde(skip)]
    pub is_active: bool,
    /// A client waits, and nothing is ready.
    #[serde(skip)]
    pub is_held: bool,
    /// Clients that wait.
    pub waiting: u64,
    /// Clients that are served.
    pub active: u64,
    /// Requests that wait or are served; `None` where there are none, without `--http`.
    pub requests: Option<u64>,
}

/// What knows of the services.
pub trait Scaler: Clone + Send + Sync + 'static {
    /// What there is of the service with this name, or of the only one; of all wakeports in front of it, if
    /// `whole`. Otherwise why that is not known.
    fn load(&self, service: &str, whole: bool)
    -> impl Future<Output = Result<Load, String>> + Send;

    /// Returns when a client has come to a service without any.
    fn rises(&self, service: &str) -> impl Future<Output = ()> + Send;
}

/// Serves KEDA on `listener`, and peers of ours at `/load`. From the cancellation of `ending` on, streams end and
/// connections are given up as soon as they have been answered; those from before are in `tasks`.
pub async fn serve(
    listener: Listener,
    scaler: impl Scaler,
    ending: CancellationToken,
    tasks: TaskTracker,
) -> io::Result<()> {
    let (sender, mut accepted) = mpsc::channel(1);
    let mut accepting = JoinSet::new();
    accepting.spawn(accept(listener, sender));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(connection) = accepted.recv(), if connections.len() < MOST_CONNECTIONS => {
                let answered = answer(connection, scaler.clone(), ending.clone());
                match ending.is_cancelled() {
                    true => _ = connections.spawn(answered),
                    false => _ = connections.spawn(tasks.track_future(answered)),
                }
            }
            Some(_) = connections.join_next() => (),
            Some(Ok(Err(error))) = accepting.join_next() => return Err(error),
        }
    }
}

async fn answer(connection: RawStream, scaler: impl Scaler, ending: CancellationToken) {
    match connection.watch() {
        Ok(AsyncStream::Tcp(tcp)) => {
            speak(TokioIo::new(tcp.into_inner()), scaler, ending).await;
        }
        Ok(AsyncStream::Unix(unix)) => speak(TokioIo::new(unix), scaler, ending).await,
        Err(_) => (),
    }
}

async fn speak<Io>(stream: Io, scaler: impl Scaler, ending: CancellationToken)
where
    Io: Read + Write + Unpin + Send + 'static,
{
    let late = ending.is_cancelled();
    let service = service_fn(|request| {
        let (scaler, ending) = (scaler.clone(), ending.clone());
        async move { Ok::<_, Infallible>(respond(request, scaler, ending).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(stream, service));
    // A peer that resets, or speaks something else, needs no report.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = ending.cancelled(), if !late => (),
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

async fn respond(
    request: Request<Incoming>,
    scaler: impl Scaler,
    ending: CancellationToken,
) -> Response<Body> {
    let path = request.uri().path();
    let method = path.strip_prefix("/externalscaler.ExternalScaler/");
    match method {
        Some("IsActive") => {
            unary(request, async move |of: ScaledObjectRef| {
                let load = load(&scaler, &of, false).await?;
                Ok(IsActiveResponse {
                    result: load.is_active,
                })
            })
            .await
        }
        Some("StreamIsActive") => stream(request, scaler, ending).await,
        Some("GetMetricSpec") => {
            unary(request, async move |of: ScaledObjectRef| {
                let metric = Metric::of(&of)?;
                // That there is such a service, and such a metric of it.
                metric.value(load(&scaler, &of, false).await?)?;
                let target = metric.target;
                Ok(MetricSpecs {
                    all: vec![MetricSpec {
                        metric_name: metric.name(),
                        target_size: target.ceil() as i64,
                        target_size_float: target,
                    }],
                })
            })
            .await
        }
        Some("GetMetrics") => {
            unary(request, async move |asked: MetricsRequest| {
                let of = asked.scaled_object.unwrap_or_default();
                let metric = Metric::of(&of)?;
                let value = metric.value(load(&scaler, &of, true).await?)?;
                Ok(MetricValues {
                    all: vec![MetricValue {
                        metric_name: asked.metric_name,
                        metric_value: value.try_into().unwrap_or(i64::MAX),
                        metric_value_float: value as f64,
                    }],
                })
            })
            .await
        }
        Some(_) => Status::unimplemented("wakeport has no such method").into_http(),
        None if path == "/load" && request.method() == Method::GET => {
            let query = request.uri().query().unwrap_or_default();
            let service = decoded(query.strip_prefix("service=").unwrap_or_default());
            match scaler.load(&service, false).await {
                Ok(load) => plain(
                    StatusCode::OK,
                    serde_json::to_string(&load).unwrap_or_default(),
                ),
                Err(why) => plain(StatusCode::NOT_FOUND, format!("wakeport: {why}\n")),
            }
        }
        None => plain(
            StatusCode::NOT_FOUND,
            "wakeport: this port is KEDA's, for gRPC\n".into(),
        ),
    }
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let kind = match status {
        StatusCode::OK => "application/json",
        _ => "text/plain; charset=utf-8",
    };
    let mut response = Response::new(Body::new(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, kind.parse().expect("a header's value"));
    response
}

/// Answers a call with one message.
async fn unary<Q, A, F>(
    request: Request<Incoming>,
    answer: impl FnOnce(Q) -> F + Send,
) -> Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: Future<Output = Result<A, Status>> + Send,
{
    let mut answer = Some(answer);
    let service = tower::service_fn(move |asked: tonic::Request<Q>| {
        let answered = answer.take().map(|answer| answer(asked.into_inner()));
        async move {
            let again = Status::internal("a call with two messages");
            let answered = answered.ok_or(again)?;
            Ok(tonic::Response::new(answered.await?))
        }
    });
    let mut grpc =
        Grpc::new(ProstCodec::<A, Q>::default()).max_decoding_message_size(LONGEST_MESSAGE);
    grpc.unary(service, request).await
}

/// Answers a call with messages as there is something to say.
async fn stream(
    request: Request<Incoming>,
    scaler: impl Scaler,
    ending: CancellationToken,
) -> Response<Body> {
    let service = tower::service_fn(|asked: tonic::Request<ScaledObjectRef>| {
        let (of, scaler, ending) = (asked.into_inner(), scaler.clone(), ending.clone());
        async move {
            // A trigger that names no service of ours is told so, and not left without an answer.
            load(&scaler, &of, false).await?;
            let pushes = Pushes {
                service: service_of(&of).to_owned(),
                scaler,
                ending,
                said: Said::default(),
            };
            Ok(tonic::Response::new(Pushed(Box::pin(pushes.next()))))
        }
    });
    let codec = ProstCodec::<IsActiveResponse, ScaledObjectRef>::default();
    let mut grpc = Grpc::new(codec).max_decoding_message_size(LONGEST_MESSAGE);
    grpc.server_streaming(service, request).await
}

fn service_of(of: &ScaledObjectRef) -> &str {
    of.metadata.get(SERVICE).map_or("", String::as_str)
}

async fn load(scaler: &impl Scaler, of: &ScaledObjectRef, whole: bool) -> Result<Load, Status> {
    let load = scaler.load(service_of(of), whole).await;
    load.map_err(|why| Status::new(Code::InvalidArgument, why))
}

/// What a trigger asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Metric {
    kind: Kind,
    /// So much for each pod.
    target: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Clients, waiting or served.
    Connections,
    /// Those that wait.
    Waiting,
    /// Requests, waiting or served.
    Requests,
}

/// So many connections for each pod, where a trigger does not say.
const TARGET: f64 = 100.0;

impl Metric {
    fn of(of: &ScaledObjectRef) -> Result<Self, Status> {
        let wrong = |why: String| Err(Status::new(Code::InvalidArgument, why));
        let kind = match of.metadata.get("metric").map(String::as_str) {
            None | Some("connections") => Kind::Connections,
            Some("waiting") => Kind::Waiting,
            Some("requests") => Kind::Requests,
            Some(other) => {
                return wrong(format!(
                    "`metric: {other}` is none of wakeport's; write `connections`, `waiting` or `requests`"
                ));
            }
        };
        let target = match of.metadata.get("target").map(|target| target.parse()) {
            None => TARGET,
            Some(Ok(target)) if f64::is_finite(target) && target > 0.0 => target,
            Some(_) => {
                return wrong(
                    "`target` is how many there are to be for each pod; write a number above 0"
                        .into(),
                );
            }
        };
        Ok(Self { kind, target })
    }

    /// What KEDA and the autoscaler call it.
    fn name(self) -> String {
        let name = match self.kind {
            Kind::Connections => "connections",
            Kind::Waiting => "waiting",
            Kind::Requests => "requests",
        };
        format!("wakeport-{name}")
    }

    fn value(self, load: Load) -> Result<u64, Status> {
        match self.kind {
            Kind::Connections => Ok(load.waiting.saturating_add(load.active)),
            Kind::Waiting => Ok(load.waiting),
            Kind::Requests => load.requests.ok_or_else(|| {
                let why = "`metric: requests` needs a wakeport with `--http`; write `connections`";
                Status::new(Code::InvalidArgument, why)
            }),
        }
    }
}

/// What a stream has said.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    /// What it was when it was last looked at.
    last: Option<bool>,
}

impl Said {
    /// What is to be said, if anything is.
    fn next(&mut self, load: Load) -> Option<bool> {
        match self.last.replace(load.is_active) {
            None => Some(load.is_active),
            Some(was) => (load.is_active && !was || load.is_held).then_some(true),
        }
    }

    /// How long there is nothing to say, unless a client comes.
    fn pause(self) -> Duration {
        match self.last {
            None => Duration::ZERO,
            Some(true) => REPEAT_EVERY,
            Some(false) => LOOK_EVERY,
        }
    }
}

/// What is said on a stream.
struct Pushes<S> {
    service: String,
    scaler: S,
    ending: CancellationToken,
    said: Said,
}

impl<S: Scaler> Pushes<S> {
    /// The next message, and what comes after it; `None` when we end.
    async fn next(mut self) -> Option<(bool, Self)> {
        loop {
            let is_idle = self.said.last == Some(false);
            tokio::select! {
                () = sleep(self.said.pause()) => (),
                () = self.scaler.rises(&self.service), if is_idle => (),
                () = self.ending.cancelled(), if self.said.last.is_some() => return None,
            }
            // One that is not in the file any more says nothing.
            let Ok(load) = self.scaler.load(&self.service, false).await else {
                sleep(LOOK_EVERY).await;
                continue;
            };
            if let Some(result) = self.said.next(load) {
                return Some((result, self));
            }
        }
    }
}

type Next<S> = Pin<Box<dyn Future<Output = Option<(bool, Pushes<S>)>> + Send>>;

/// The same as a stream.
struct Pushed<S>(Next<S>);

impl<S: Scaler> Stream for Pushed<S> {
    type Item = Result<IsActiveResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some((result, pushes)) = ready!(self.0.as_mut().poll(cx)) else {
            self.0 = Box::pin(std::future::ready(None));
            return Poll::Ready(None);
        };
        self.0 = Box::pin(pushes.next());
        Poll::Ready(Some(Ok(IsActiveResponse { result })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&str, &str)]) -> ScaledObjectRef {
        let pairs = pairs.iter();
        ScaledObjectRef {
            metadata: pairs
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
            ..ScaledObjectRef::default()
        }
    }

    #[test]
    fn a_trigger_says_which_metric_it_wants_and_how_much_of_it() {
        let load = Load {
            waiting: 2,
            active: 3,
            requests: Some(7),
            ..Load::default()
        };
        for (pairs, name, target, value) in [
            (&[][..], "wakeport-connections", 100.0, 5),
            (
                &[("metric", "connections"), ("target", "2.5")],
                "wakeport-connections",
                2.5,
                5,
            ),
            (
                &[("metric", "waiting"), ("target", "1")],
                "wakeport-waiting",
                1.0,
                2,
            ),
            (
                &[("metric", "requests"), ("scalerAddress", "x")],
                "wakeport-requests",
                100.0,
                7,
            ),
        ] {
            let metric = Metric::of(&asked(pairs)).expect(name);
            assert_eq!((metric.name(), metric.target), (name.into(), target));
            assert_eq!(metric.value(load).expect("there is one"), value);
        }
        for (key, value, why) in [
            (
                "metric",
                "clients",
                "`connections`, `waiting` or `requests`",
            ),
            ("target", "0", "a number above 0"),
            ("target", "NaN", "a number above 0"),
            ("target", "inf", "a number above 0"),
            ("target", "many", "a number above 0"),
        ] {
            let status = Metric::of(&asked(&[(key, value)])).expect_err(value);
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains(why), "{status}");
        }
        let without = Metric::of(&asked(&[("metric", "requests")])).expect("a metric");
        let without = without.value(Load::default()).expect_err("no HTTP");
        assert!(without.message().contains("--http"), "{without}");
    }

    #[test]
    fn a_stream_says_true_on_a_rise_and_while_a_client_is_held_and_never_false_but_first() {
        let load = |is_active, is_held| Load {
            is_active,
            is_held,
            ..Load::default()
        };
        let mut said = Said::default();
        let looks = [
            (load(false, false), Some(false)),
            (load(false, false), None),
            (load(true, true), Some(true)),
            (load(true, true), Some(true)),
            (load(true, false), None),
            (load(true, false), None),
            (load(false, false), None),
            (load(true, false), Some(true)),
        ];
        for (step, (load, expected)) in looks.into_iter().enumerate() {
            assert_eq!(said.next(load), expected, "step {step}");
        }
        assert_eq!(Said::default().next(load(true, false)), Some(true));
    }
}
