//! HTTP/2 with clients and targets: every stream is a request. Attacks are written frame by frame.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request, Response};
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::http::{front, named, server, service, table, tells, up_and_down};
use crate::support::{Client, HookService, LIMIT, Place, Run, now, throughout};

fn block<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async { timeout(LIMIT, work).await.expect("in time") })
}

/// Waits until `condition` holds, while connections go on.
async fn becomes(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn stream(client: &Client) -> TcpStream {
    let socket = client.socket().try_clone().expect("a descriptor");
    socket.set_nonblocking(true).expect("an option");
    TcpStream::from_std(socket.into()).expect("a socket")
}

/// A connection of HTTP/2: what sends requests, and how it ends.
type Opened = (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>);

async fn open(place: &Place) -> Opened {
    let io = stream(&place.connect());
    let (sender, connection) = h2::client::handshake(io).await.expect("HTTP/2");
    (sender, TaskTracker::new().spawn(connection))
}

fn get(path: &str) -> Request<()> {
    let uri = format!("http://example.org{path}");
    Request::get(uri).body(()).expect("a request")
}

async fn whole(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend(data);
    }
    Ok((all, body.trailers().await?))
}

async fn ask(sender: &SendRequest<Bytes>, request: Request<()>) -> (u16, String) {
    let mut sender = sender.clone().ready().await.expect("an open connection");
    let (response, _) = sender.send_request(request, true).expect("it is open");
    let response = response.await.expect("a response");
    let status = response.status().as_u16();
    let (body, _) = whole(response.into_body()).await.expect("a whole body");
    (status, String::from_utf8(body).expect("text"))
}

/// A target that speaks only HTTP/2: sends back what it gets as it gets it, then its fields as trailers.
fn echoes(client: &Client) {
    block(async {
        let Ok(mut connection) = h2::server::handshake(stream(client)).await else {
            return;
        };
        let streams = TaskTracker::new();
        while let Some(Ok((request, mut reply))) = connection.accept().await {
            streams.spawn(async move {
                let mut trailers = HeaderMap::new();
                let path = request.uri().path().to_owned();
                let authority = request.uri().authority().map(ToString::to_string);
                trailers.insert("x-path", path.parse().expect("a value"));
                let authority = authority.unwrap_or_default();
                trailers.insert("x-authority", authority.parse().expect("a value"));
                for name in ["te", "x-forwarded-for"] {
                    if let Some(value) = request.headers().get(name) {
                        trailers.insert(name_of(name), value.clone());
                    }
                }
                let mut body = request.into_body();
                let Ok(mut answer) = reply.send_response(Response::new(()), false) else {
                    return;
                };
                while let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                    if answer.send_data(data, false).is_err() {
                        return;
                    }
                }
                if let Ok(Some(theirs)) = body.trailers().await {
                    trailers.extend(theirs);
                }
                let _ = answer.send_trailers(trailers);
            });
        }
    });
}

fn name_of(field: &str) -> &'static str {
    match field {
        "te" => "x-te",
        _ => "x-for",
    }
}

fn grpc(place: &Place) -> (HookService, Run) {
    let stage = HookService::direct(|client| echoes(&client), up_and_down);
    let run = front(&stage, place).option("--target-protocol", "h2c");
    (stage, run)
}

#[test]
fn streams_hold_the_service_and_idle_connections_do_not() {
    let (stage, place) = (service(|asked| tells(&asked)), Place::tcp());
    let wakeport = front(&stage, &place).cooldown("0").start();
    block(async {
        let (sender, _connection) = open(&place).await;
        for round in 1..=3 {
            let mut request = get("/1?x");
            let fields = request.headers_mut();
            for (name, value) in [
                ("cookie", "a=1"),
                ("cookie", "b=2"),
                ("te", "trailers"),
                ("x-forwarded-proto", "https"),
                ("x_forwarded_host", "evil"),
            ] {
                fields.append(name, value.parse().expect("a value"));
            }
            let (status, told) = ask(&sender, request).await;
            assert_eq!(status, 200);
            let mut lines: Vec<_> = told.trim_end().split("\r\n").collect();
            lines[1..].sort_unstable();
            assert_eq!(
                lines,
                [
                    "GET /1?x HTTP/1.1",
                    "connection: te, close",
                    "cookie: a=1; b=2",
                    "host: example.org",
                    "te: trailers",
                    "x-forwarded-for: 127.0.0.1",
                    "x-forwarded-host: example.org",
                    // The client is on this machine, and may be a proxy of ours.
                    "x-forwarded-proto: https",
                ]
            );
            stage.reaches("stop", round);
            wakeport.is("asleep");
            assert_eq!(stage.count("start"), round);
        }
    });
}

#[test]
fn each_stream_goes_to_the_service_of_its_host() {
    let (docs, api) = (named("docs"), named("api"));
    let place = Place::tcp();
    let dir = crate::support::directory();
    let file = dir.path().join("web.toml");
    let text = [
        table("docs", &docs, "host = 'docs.example.org'"),
        table(
            "api",
            &api,
            "host = 'example.org'\npath = '/api'\nquiet = '/api/health'",
        ),
    ];
    std::fs::write(&file, text.concat()).expect("a file of ours");
    let _wakeport = Run::new()
        .listen(&place)
        .option("--config", file.display())
        .start();
    block(async {
        let (sender, _connection) = open(&place).await;
        let docs_of = Request::get("http://docs.example.org/").body(());
        let (to_docs, to_api) = tokio::join!(
            ask(&sender, docs_of.expect("a request")),
            ask(&sender, get("/api/x"))
        );
        assert_eq!(to_docs, (200, "docs".to_owned()));
        assert_eq!(to_api, (200, "api".to_owned()));
        let (status, why) = ask(&sender, get("/other")).await;
        assert!(why.contains("no service has this host and path"), "{why}");
        assert_eq!(status, 421);
    });
    assert_eq!((docs.count("start"), api.count("start")), (1, 1));
}

#[test]
fn what_wakes_nothing_is_answered_at_once() {
    let (stage, place) = (service(|asked| tells(&asked)), Place::tcp());
    let _wakeport = front(&stage, &place)
        .option("--quiet", "/health")
        .option("--quiet-answer", "204")
        .option("--page-after", "0")
        .start();
    block(async {
        let (sender, _connection) = open(&place).await;
        assert_eq!(ask(&sender, get("/health")).await, (204, String::new()));
        let connect = Request::connect("example.org:1")
            .body(())
            .expect("a request");
        assert_eq!(ask(&sender, connect).await.0, 405);
    });
    assert_eq!(stage.count("start"), 0);
}

/// Sends pieces, each when the one before has come back.
async fn converses(answer: &mut RecvStream, up: &mut SendStream<Bytes>, pieces: &[&'static str]) {
    for piece in pieces {
        up.send_data(Bytes::from_static(piece.as_bytes()), false)
            .expect("it is open");
        let mut come = Vec::new();
        while come.len() < piece.len() {
            let data = answer.data().await.expect("more").expect("data");
            let _ = answer.flow_control().release_capacity(data.len());
            come.extend(data);
        }
        assert_eq!(come, piece.as_bytes());
    }
}

#[test]
fn messages_pass_both_ways_at_once_and_end_with_trailers() {
    let place = Place::tcp();
    let (stage, run) = grpc(&place);
    let wakeport = run.cooldown("0").start();
    block(async {
        let (sender, _connection) = open(&place).await;
        for round in 1..=3 {
            let mut sender = sender.clone().ready().await.expect("an open connection");
            let request = Request::post("http://example.org/a.B/C").header("te", "trailers");
            let request = request.body(()).expect("a request");
            let (response, mut up) = sender.send_request(request, false).expect("it is open");
            let mut answer = response.await.expect("a response").into_body();
            converses(&mut answer, &mut up, &["one", "two"]).await;
            throughout(Duration::from_millis(100), "it stays awake", || {
                stage.count("stop") == round - 1
            });
            let trailers = [("x-own", "yes"), ("content-length", "7")];
            let trailers = trailers.map(|(name, value)| {
                (
                    name.parse().expect("a name"),
                    value.parse().expect("a value"),
                )
            });
            up.send_trailers(HeaderMap::from_iter(trailers))
                .expect("it is open");
            let (rest, trailers) = whole(answer).await.expect("a whole body");
            assert_eq!(rest, b"");
            let trailers = trailers.expect("trailers");
            let mut told: Vec<_> = trailers
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
                .collect();
            told.sort_unstable();
            assert_eq!(
                told,
                [
                    "x-authority: example.org",
                    "x-for: 127.0.0.1",
                    "x-own: yes",
                    "x-path: /a.B/C",
                    "x-te: trailers"
                ]
            );
            stage.reaches("stop", round);
            wakeport.is("asleep");
        }
    });
}

#[test]
fn all_streams_share_a_connection_to_the_target() {
    let place = Place::tcp();
    let (stage, run) = grpc(&place);
    let _wakeport = run.start();
    block(async {
        let clients = [open(&place).await, open(&place).await, open(&place).await];
        for (sender, _) in &clients {
            let mut under_way = Vec::new();
            for number in 0..30 {
                let mut sender = sender.clone().ready().await.expect("an open connection");
                let request = get(&format!("/{number}"));
                under_way.push(sender.send_request(request, true).expect("it is open").0);
            }
            for response in under_way {
                assert_eq!(response.await.expect("a response").status(), 200);
            }
        }
    });
    // The probe that found it ready was one, too, unless the first request got it.
    let connections = stage.scene().connections();
    assert!(connections <= 2, "{connections}");
}

#[test]
fn a_client_of_http1_reaches_a_target_of_http2() {
    let place = Place::tcp();
    let (_stage, run) = grpc(&place);
    let _wakeport = run.start();
    let client = place.connect();
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    let answer = String::from_utf8(client.all()).expect("text");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(answer.contains("\r\n5\r\nhello\r\n0\r\n"), "{answer}");
}

/// A service whose start ends when that is said.
fn slow(
    place: &Place,
) -> (
    HookService,
    Run,
    std::sync::mpsc::Sender<()>,
    Arc<AtomicUsize>,
) {
    let (go, goes) = channel::<()>();
    let goes: Mutex<Receiver<()>> = Mutex::new(goes);
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    let answer = server(move |asked| {
        count.fetch_add(1, Ordering::SeqCst);
        tells(&asked)
    });
    let stage = HookService::direct(answer, move |scene, call| {
        if call.event == "start" {
            let _ = goes.lock().expect("no panic").recv();
        }
        up_and_down(scene, call)
    });
    let run = front(&stage, place).cooldown("0");
    (stage, run, go, served)
}

#[test]
fn a_stream_that_is_reset_while_it_waits_has_left() {
    let place = Place::tcp();
    let (stage, run, go, served) = slow(&place);
    let _wakeport = run.start();
    block(async {
        let (sender, _connection) = open(&place).await;
        let mut ready = sender.clone().ready().await.expect("an open connection");
        let (response, mut up) = ready.send_request(get("/"), true).expect("it is open");
        becomes(|| stage.count("start") == 1).await;
        up.send_reset(Reason::CANCEL);
        drop(response);
        // Its answer comes after the reset.
        assert_eq!(
            ask(
                &sender,
                Request::connect("a:1").body(()).expect("a request")
            )
            .await
            .0,
            405
        );
    });
    go.send(()).expect("it waits");
    stage.reaches("stop", 1);
    assert_eq!(served.load(Ordering::SeqCst), 0);
}

#[test]
fn more_streams_than_may_wait_are_refused() {
    let place = Place::tcp();
    let (_stage, run, go, _) = slow(&place);
    let _wakeport = run.option("--max-waiting", "2").start();
    block(async {
        let (sender, _connection) = open(&place).await;
        let mut waiting = Vec::new();
        for _ in 0..2 {
            let mut ready = sender.clone().ready().await.expect("an open connection");
            waiting.push(ready.send_request(get("/"), true).expect("it is open").0);
        }
        let (status, why) = ask(&sender, get("/")).await;
        assert_eq!(status, 503, "{why}");
        assert!(why.contains("too many requests wait"), "{why}");
        go.send(()).expect("it waits");
        for response in waiting {
            assert_eq!(response.await.expect("a response").status(), 200);
        }
    });
}

#[test]
fn at_a_stop_streams_end_and_connections_are_told() {
    let (go, goes) = channel::<()>();
    let goes = Mutex::new(goes);
    let asked_slowly = Arc::new(AtomicUsize::new(0));
    let count = asked_slowly.clone();
    let stage = service(move |asked| {
        if asked.path() == "/slow" {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = goes.lock().expect("no panic").recv();
        }
        tells(&asked)
    });
    let place = Place::tcp();
    let mut wakeport = front(&stage, &place).start();
    block(async {
        let (idle, idle_ends) = open(&place).await;
        let (busy, busy_ends) = open(&place).await;
        ask(&idle, get("/")).await;
        let mut ready = busy.clone().ready().await.expect("an open connection");
        let (slow, _) = ready.send_request(get("/slow"), true).expect("it is open");
        becomes(|| asked_slowly.load(Ordering::SeqCst) == 1).await;
        wakeport.signal(Signal::TERM);
        // GOAWAY, without an error.
        idle_ends.await.expect("no panic").expect("an orderly end");
        go.send(()).expect("it waits");
        let response = slow.await.expect("a response");
        let (body, _) = whole(response.into_body()).await.expect("a whole body");
        assert!(body.starts_with(b"GET /slow "));
        busy_ends.await.expect("no panic").expect("an orderly end");
    });
    wakeport.ends();
}

#[test]
fn a_target_that_breaks_off_is_seen_to_have() {
    let place = Place::tcp();
    let stage = service(|asked| {
        if asked.path() == "/half" {
            asked.says("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
        }
        false
    });
    let _wakeport = front(&stage, &place).start();
    block(async {
        let (sender, _connection) = open(&place).await;
        let mut ready = sender.clone().ready().await.expect("an open connection");
        let (response, _) = ready.send_request(get("/half"), true).expect("it is open");
        let response = response.await.expect("a head");
        let cut = whole(response.into_body()).await.expect_err("it is cut");
        assert!(cut.is_reset(), "{cut}");
        let (status, _) = ask(&sender, get("/none")).await;
        assert_eq!(status, 502);
    });
}

#[test]
fn a_connection_that_broke_is_opened_anew() {
    let place = Place::tcp();
    let (stage, run) = grpc(&place);
    let _wakeport = run.start();
    block(async {
        let (sender, _connection) = open(&place).await;
        for round in 1..=3 {
            assert_eq!(ask(&sender, get("/")).await.0, 200);
            stage.scene().crash();
            becomes(|| !stage.scene().place.answers()).await;
            assert_eq!(ask(&sender, get("/")).await.0, 200);
            assert_eq!(stage.count("start"), round + 1);
        }
    });
}

/// The sockets of a process that is killed close one after the other, so that its listener may take the
/// second attempt as well.
#[test]
fn a_target_that_may_be_dying_gets_time_to_end() {
    let place = Place::tcp();
    let came = Arc::new(Mutex::new(Vec::new()));
    let times = came.clone();
    let stage = service(move |asked| {
        let mut times = times.lock().expect("no panic");
        times.push(now());
        times.len() > 1 && tells(&asked)
    });
    let _wakeport = front(&stage, &place).start();
    block(async {
        let (sender, _connection) = open(&place).await;
        assert_eq!(ask(&sender, get("/")).await.0, 200);
    });
    let times = came.lock().expect("no panic");
    let [first, second] = times[..] else {
        panic!("{times:?}");
    };
    assert!(second - first >= Duration::from_millis(250));
}

#[test]
fn an_idle_connection_makes_room_for_a_new_one() {
    let (stage, place) = (service(|asked| tells(&asked)), Place::tcp());
    let _wakeport = front(&stage, &place)
        .option("--max-connections", "1")
        .start();
    block(async {
        let (idle, ends) = open(&place).await;
        assert_eq!(ask(&idle, get("/")).await.0, 200);
        let (other, _connection) = open(&place).await;
        assert_eq!(ask(&other, get("/")).await.0, 200);
        ends.await.expect("no panic").expect("an orderly end");
    });
}

#[test]
fn who_navigates_sees_the_waiting_page() {
    let place = Place::tcp();
    let (stage, run, go, served) = slow(&place);
    let _wakeport = run.option("--page-after", "0").start();
    block(async {
        let (sender, _connection) = open(&place).await;
        let mut request = get("/");
        let html = "text/html".parse().expect("a value");
        request.headers_mut().insert("accept", html);
        let (status, page) = ask(&sender, request).await;
        assert_eq!(status, 503);
        assert!(page.contains("<html"), "{page}");
        go.send(()).expect("it waits");
        let mut news = get("/");
        let one = "1".parse().expect("a value");
        news.headers_mut().insert("x-wakeport-wait", one);
        assert_eq!(ask(&sender, news).await, (204, String::new()));
    });
    assert_eq!(
        (stage.count("start"), served.load(Ordering::SeqCst)),
        (1, 0)
    );
}

// -- frames by hand

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("a short frame")
        .to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

/// The fields of a request for `/`, without Huffman and without a table (RFC 7541, section 6).
fn block_of_fields() -> Vec<u8> {
    let authority: &[u8] = b"\x01\x0bexample.org";
    // :method GET, :scheme http, :path /.
    [&[0x82, 0x86, 0x84], authority].concat()
}

fn attacker(place: &Place) -> Client {
    let client = place.connect();
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    client.send(frame(SETTINGS, 0, 0, &[]));
    client
}

/// Reads to the end; whether a frame of this kind has come.
fn has_come(client: &Client, kind: u8) -> bool {
    let (bytes, _) = client.rest();
    let mut rest = &bytes[..];
    let mut come = false;
    while let [a, b, c, of, _, _, _, _, _, payload @ ..] = rest {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        come |= *of == kind;
        rest = payload.get(length..).unwrap_or_default();
    }
    come
}

#[test]
fn a_client_that_opens_and_resets_without_end_is_cut_off() {
    let place = Place::tcp();
    let (_stage, run, go, served) = slow(&place);
    let wakeport = run.start();
    let client = attacker(&place);
    let cancel = Reason::CANCEL;
    let cancel = u32::from(cancel).to_be_bytes();
    let flood = (0..10_000).flat_map(|number| {
        let stream = 2 * number + 1;
        let fields = frame(HEADERS, 0x5, stream, &block_of_fields());
        [fields, frame(RST_STREAM, 0, stream, &cancel)].concat()
    });
    let flood: Vec<u8> = flood.collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = client.try_send(&flood);
        });
        assert!(has_come(&client, GOAWAY), "it is told");
    });
    drop(client);
    // Others are served.
    go.send(()).expect("it can be told");
    block(async {
        let (sender, _connection) = open(&place).await;
        go.send(()).expect("it can be told");
        assert_eq!(ask(&sender, get("/")).await.0, 200);
    });
    assert_eq!(served.load(Ordering::SeqCst), 1);
    drop(wakeport);
}

#[test]
fn an_endless_head_is_cut_off_and_wakes_nothing() {
    let (stage, place) = (service(|asked| tells(&asked)), Place::tcp());
    let _wakeport = front(&stage, &place).start();
    let client = attacker(&place);
    let fields = [
        block_of_fields(),
        b"\x00\x01a\x7f".to_vec(),
        vec![b'x'; 127],
    ]
    .concat();
    let _ = client.try_send(frame(HEADERS, 0x1, 1, &block_of_fields()));
    let more = frame(CONTINUATION, 0, 1, &fields[block_of_fields().len()..]);
    let flood: Vec<u8> = more
        .iter()
        .copied()
        .cycle()
        .take(more.len() * 100_000)
        .collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = client.try_send(&flood);
        });
        let (_, _) = client.rest();
    });
    assert_eq!(stage.count("start"), 0);
    block(async {
        let (sender, _connection) = open(&place).await;
        assert_eq!(ask(&sender, get("/")).await.0, 200);
    });
}

#[test]
fn http2_begins_a_connection_and_nothing_else() {
    let (stage, place) = (service(|asked| tells(&asked)), Place::tcp());
    let _wakeport = front(&stage, &place).start();
    // In pieces.
    let client = place.connect();
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r" {
        client.send([*byte]);
    }
    assert!(client.is_silent());
    client.send([&b"\n"[..], &frame(SETTINGS, 0, 0, &[])].concat());
    assert_eq!(client.take(9)[3], SETTINGS);
    // Behind a request it is none.
    let client = place.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let answer = String::from_utf8(client.all()).expect("text");
    assert!(answer.contains("HTTP/1.1 505 "), "{answer}");
}
