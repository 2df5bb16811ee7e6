//! HTTP: it is requests that wake the service and keep it awake. Each test says every byte that passes, on both sides.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Call, Client, HookService, Place, Run, Scene, noise, throughout};

/// A request as the target gets it: its head, and its body with all framing.
pub(crate) struct Asked<'a> {
    head: String,
    body: Vec<u8>,
    client: &'a Client,
}

impl Asked<'_> {
    pub(crate) fn path(&self) -> &str {
        self.head.split(' ').nth(1).expect("a request line")
    }

    pub(crate) fn says(&self, bytes: impl AsRef<[u8]>) {
        let _ = self.client.try_send(bytes);
    }
}

/// The value of a field.
fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// Reads up to the end of `mark`.
fn up_to(client: &Client, mark: &str) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    while !text.ends_with(mark.as_bytes()) {
        let mut byte = [0];
        match client.read(&mut byte)? {
            0 => return Ok(None),
            _ => text.push(byte[0]),
        }
    }
    Ok(Some(text))
}

fn head(client: &Client) -> Option<String> {
    let head = up_to(client, "\r\n\r\n").ok()??;
    Some(String::from_utf8(head).expect("heads are text"))
}

/// Reads a request or a response whose body is delimited as the head says.
pub(crate) fn message(client: &Client) -> Option<(String, Vec<u8>)> {
    let head = head(client)?;
    let body = if let Some(length) = field(&head, "Content-Length") {
        client.take(length.parse().expect("a number"))
    } else if field(&head, "Transfer-Encoding").is_some() {
        up_to(client, "0\r\n\r\n").ok()??
    } else {
        Vec::new()
    };
    Some((head, body))
}

/// A server that answers each request with `answer`, on each connection one after the other, as long as that says true.
pub(crate) fn server(answer: impl Fn(Asked<'_>) -> bool) -> impl Fn(Client) {
    move |client| {
        while let Some((head, body)) = message(&client) {
            let asked = Asked {
                head,
                body,
                client: &client,
            };
            if !answer(asked) {
                return;
            }
        }
    }
}

/// Answers with what was asked, as the target got it.
pub(crate) fn tells(asked: &Asked<'_>) -> bool {
    let body = [asked.head.as_bytes(), &asked.body].concat();
    let length = body.len();
    asked.says(
        [
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes(),
            &body,
        ]
        .concat(),
    );
    true
}

pub(crate) fn up_and_down(scene: &Scene, call: &Call) -> i32 {
    match call.event.as_str() {
        "start" => scene.up(),
        "stop" => scene.down(),
        _ => (),
    }
    0
}

/// A service that starts and stops at once, and answers with `answer`.
pub(crate) fn service(answer: impl Fn(Asked<'_>) -> bool + Send + Sync + 'static) -> HookService {
    HookService::direct(server(answer), up_and_down)
}

pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: example.org\r\n\r\n")
}

/// What the target gets of [`get`].
fn got(path: &str) -> String {
    let forwarded = "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: example.org\r\n";
    format!("GET {path} HTTP/1.1\r\nHost: example.org\r\n{forwarded}\r\n")
}

const KEPT: &str = "Keep-Alive: timeout=145\r\n\r\n";

/// The response with `body` on a connection that stays open.
fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{KEPT}{body}",
        body.len()
    )
}

pub(crate) fn front(stage: &HookService, place: &Place) -> Run {
    stage
        .run()
        .listen(place)
        .flag("--http")
        .option("--log-level", "debug")
}

impl Client {
    /// Exactly this comes.
    fn gets(&self, text: &str) {
        let bytes = self.take(text.len());
        assert_eq!(String::from_utf8_lossy(&bytes), text);
    }

    /// Asks for a path whose answer is what was asked.
    fn asks(&self, path: &str) {
        self.send(get(path));
        self.gets(&ok(&got(path)));
    }
}

#[test]
fn requests_hold_the_service_and_idle_connections_do_not() {
    let (stage, place) = (service(|asked| tells(&asked)), Place::tcp());
    let wakeport = front(&stage, &place).cooldown("0").start();
    let client = place.connect();
    // Neither a connection nor half a head wakes it.
    client.send("GET /1 HTTP/1.1\r\nHost: exam");
    throughout(Duration::from_millis(300), "it sleeps", || {
        stage.count("start") == 0
    });
    client.send("ple.org\r\n\r\n");
    client.gets(&ok(&got("/1")));
    for round in 1..=5 {
        stage.reaches("stop", round);
        wakeport.is("asleep");
        assert!(client.is_silent(), "it stays open");
        client.asks("/again");
        assert_eq!(stage.count("start"), round + 1);
    }
}

#[test]
fn the_process_exits_when_the_last_connection_has_closed() {
    let (stage, place) = (service(|asked| tells(&asked)), Place::tcp());
    let socket = place.listen();
    let run = stage
        .run()
        .inherit("web", &socket)
        .flag("--http")
        .cooldown("0");
    let client = place.connect();
    let mut wakeport = run.start();
    client.asks("/");
    stage.reaches("stop", 1);
    wakeport.is("asleep");
    client.asks("/");
    drop(client);
    wakeport.ends();
    assert_eq!((stage.count("start"), stage.count("stop")), (2, 2));
}

#[test]
fn a_request_is_under_way_until_its_response_has_ended() {
    let (go, goes) = std::sync::mpsc::channel::<()>();
    let goes = std::sync::Mutex::new(goes);
    let stage = service(move |asked| {
        asked.says("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab");
        let _ = goes.lock().expect("no panic").recv();
        asked.says("cd");
        true
    });
    let place = Place::tcp();
    let _wakeport = front(&stage, &place).cooldown("0").start();
    let client = place.connect();
    client.send(get("/"));
    client.gets(&format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n{KEPT}ab"));
    throughout(Duration::from_millis(300), "it stays awake", || {
        stage.count("stop") == 0
    });
    go.send(()).expect("it waits");
    client.gets("cd");
    stage.reaches("stop", 1);
}

#[test]
fn bodies_pass_both_ways() {
    let place = Place::tcp();
    let stage = service(|asked| {
        let Asked { head, body, .. } = &asked;
        let framing = match field(head, "Content-Length") {
            Some(length) => format!("Content-Length: {length}"),
            None => "Transfer-Encoding: chunked".to_owned(),
        };
        asked.says(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
        asked.says(body);
        true
    });
    let _wakeport = front(&stage, &place).start();
    let client = place.connect();
    for size in [0, 1, 1000, 65_536, 300_000, 20 << 20] {
        let body: Vec<u8> = noise(size as u64, size)
            .iter()
            .map(|byte| byte | 0x80)
            .collect();
        let exchanged = |head: &str, bytes: &[u8]| {
            thread::scope(|scope| {
                scope.spawn(|| client.send([head.as_bytes(), bytes].concat()));
                let (head, answer) = message(&client).expect("a response");
                assert!(
                    answer == bytes,
                    "{} instead of {} bytes: {head}",
                    answer.len(),
                    bytes.len()
                );
            });
        };
        let head = "POST / HTTP/1.1\r\nHost: a\r\n";
        exchanged(&format!("{head}Content-Length: {size}\r\n\r\n"), &body);
        let chunk =
            |piece: &[u8]| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        if size < 1 << 20 {
            let pieces = body.chunks(size.div_ceil(3).max(1));
            let mut chunks = pieces.flat_map(chunk).collect::<Vec<u8>>();
            chunks.extend(b"0\r\n\r\n");
            exchanged(
                &format!("{head}Transfer-Encoding: chunked\r\n\r\n"),
                &chunks,
            );
        }
    }
}

#[test]
fn requests_that_come_at_once_are_answered_one_after_the_other() {
    let (stage, place) = (service(|asked| tells(&asked)), Place::tcp());
    let _wakeport = front(&stage, &place).start();
    let client = place.connect();
    let paths: Vec<String> = (0..50).map(|number| format!("/{number}")).collect();
    client.send(paths.iter().map(|path| get(path)).collect::<String>());
    for path in &paths {
        client.gets(&ok(&got(path)));
    }
    assert!(
        stage.scene().connections() <= 2,
        "{}",
        stage.scene().connections()
    );
}

#[test]
fn what_is_not_http_is_refused_and_wakes_nothing() {
    let (stage, place) = (service(|asked| tells(&asked)), Place::tcp());
    let _wakeport = front(&stage, &place).start();
    for (request, status) in [
        (
            "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03",
            "400 Bad Request",
        ),
        ("GET / HTTP/1.1\nHost: a\n\n", "400 Bad Request"),
        ("GET / HTTP/1.1\r\n\r\n", "400 Bad Request"),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "400 Bad Request",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            "400 Bad Request",
        ),
        (
            "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
            "405 Method Not Allowed",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
            "501 Not Implemented",
        ),
        (
            "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
            "505 HTTP Version Not Supported",
        ),
    ] {
        let client = place.connect();
        client.send(request);
        client.send("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = String::from_utf8(client.all()).expect("text");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{request:?}: {answer}"
        );
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    }
    assert_eq!(stage.count("start"), 0);
}

#[test]
fn a_service_that_cannot_be_had_is_said_to_be_unavailable() {
    let stage = HookService::direct(|_| (), |_, call| i32::from(call.event == "start"));
    let place = Place::tcp();
    let _wakeport = front(&stage, &place).start();
    for method in ["GET", "POST"] {
        let client = place.connect();
        client.send(get("/").replace("GET", method));
        let answer = String::from_utf8(client.all()).expect("text");
        assert!(
            answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
            "{answer}"
        );
        assert!(answer.contains("\r\nRetry-After: 1\r\n"), "{answer}");
    }
}

#[test]
fn an_upgrade_is_relayed_and_holds_the_service() {
    let stage = HookService::direct(
        |client| {
            let Some((head, _)) = message(&client) else {
                return;
            };
            assert!(
                head.contains("Connection: upgrade\r\nUpgrade: websocket\r\n"),
                "{head}"
            );
            client.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello");
            crate::support::echo(client);
        },
        up_and_down,
    );
    let place = Place::tcp();
    let _wakeport = front(&stage, &place).cooldown("0").start();
    let client = place.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nearly");
    client.gets("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhelloearly");
    throughout(Duration::from_millis(300), "it stays awake", || {
        stage.count("stop") == 0
    });
    client.echoes("GET / HTTP/1.1\r\n\r\n");
    client.finish();
    assert_eq!(client.all(), b"");
    stage.reaches("stop", 1);
}

/// A server that closes a connection after `most` requests, without saying so.
fn closes_after(most: usize) -> HookService {
    HookService::direct(
        move |client| {
            for _ in 0..most {
                let Some((head, body)) = message(&client) else {
                    return;
                };
                tells(&Asked {
                    head,
                    body,
                    client: &client,
                });
            }
        },
        up_and_down,
    )
}

#[test]
fn a_connection_that_the_target_has_closed_costs_no_request() {
    for most in 1..4 {
        let (stage, place) = (closes_after(most), Place::tcp());
        let _wakeport = front(&stage, &place).start();
        let client = place.connect();
        for _ in 0..100 {
            client.asks("/");
        }
    }
}

/// A server that closes its first connections on the first request.
pub(crate) fn closes_first(count: usize) -> HookService {
    let seen = AtomicUsize::new(0);
    service(move |asked| seen.fetch_add(1, Ordering::SeqCst) >= count && tells(&asked))
}

#[test]
fn only_what_may_be_repeated_is_repeated() {
    let place = Place::tcp();
    let stage = closes_first(1);
    let wakeport = front(&stage, &place).start();
    place.connect().asks("/");
    drop(wakeport);

    let stage = closes_first(1);
    let _wakeport = front(&stage, &place).start();
    let client = place.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    let answer = String::from_utf8(client.all()).expect("text");
    assert!(
        answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"),
        "{answer}"
    );
}

#[test]
fn a_response_that_ends_early_is_seen_to() {
    let place = Place::tcp();
    let stage = service(|asked| {
        asked.says(match asked.path() {
            "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            "/chunk" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf",
            "/chunks" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "/nonsense" => {
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nx\r\n"
            }
            "/head" => "HTTP/1.1 200 OK\r\nContent-Le",
            _ => "SSH-2.0-OpenSSH_9.2\r\n",
        });
        false
    });
    let _wakeport = front(&stage, &place).start();
    for path in ["/length", "/chunk", "/chunks"] {
        let client = place.connect();
        client.send(get(path));
        client.is_reset();
    }
    for path in ["/head", "/nonsense", "/other"] {
        let client = place.connect();
        client.send(get(path));
        let answer = String::from_utf8(client.all()).expect("text");
        assert!(
            answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"),
            "{answer}"
        );
    }
}

#[test]
fn responses_of_every_kind_pass() {
    let place = Place::tcp();
    let stage = service(|asked| {
        asked.says(match asked.path() {
            "/none" => "HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
            "/same" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            "/hints" => "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "/trailers" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nX: y\r\nHost: z\r\n\r\n",
            _ => {
                asked.says("HTTP/1.1 200 OK\r\n\r\nto the end");
                return false;
            }
        });
        true
    });
    let _wakeport = front(&stage, &place).start();
    let client = place.connect();
    for (path, expected) in [
        (
            "/none",
            format!("HTTP/1.1 204 No Content\r\nX: y\r\n{KEPT}"),
        ),
        (
            "/same",
            format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n{KEPT}"),
        ),
        (
            "/hints",
            format!("HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n{}", ok("ok")),
        ),
        (
            "/trailers",
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{KEPT}2\r\nok\r\n0\r\nX: y\r\n\r\n"
            ),
        ),
    ] {
        client.send(get(path));
        client.gets(&expected);
    }
    client.send(get("/end"));
    let expected = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end";
    assert_eq!(String::from_utf8_lossy(&client.all()), expected);

    let old = place.connect();
    old.send("GET /trailers HTTP/1.0\r\n\r\n");
    assert_eq!(
        String::from_utf8_lossy(&old.all()),
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok"
    );
    let old = place.connect();
    old.send("GET /hints HTTP/1.0\r\n\r\n");
    let expected = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    assert_eq!(String::from_utf8_lossy(&old.all()), expected);
}

#[test]
fn a_client_that_expects_100_sends_its_body_when_the_target_says_so() {
    let place = Place::tcp();
    let stage = HookService::direct(
        |client| {
            let Some(head) = head(&client) else {
                return;
            };
            assert_eq!(field(&head, "Expect"), Some("100-continue"));
            client.send("HTTP/1.1 100 Continue\r\n\r\n");
            assert_eq!(client.take(4), b"body");
            client.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            let _ = client.some();
        },
        up_and_down,
    );
    let _wakeport = front(&stage, &place).start();
    let client = place.connect();
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    client.gets("HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body");
    client.gets(&ok("ok"));
}

#[test]
fn an_answer_before_the_end_of_an_upload_ends_the_connection() {
    let place = Place::tcp();
    let stage = HookService::direct(
        |client| {
            let _ = up_to(&client, "\r\n\r\n");
            client.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno\n");
            client.finish();
            while client.some().is_ok_and(|bytes| !bytes.is_empty()) {}
        },
        up_and_down,
    );
    let _wakeport = front(&stage, &place).start();
    let client = place.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
    client.send(vec![b'x'; 1000]);
    let expected =
        "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n";
    client.gets(expected);
    client.send(vec![b'x'; 1000]);
    assert_eq!(client.all(), b"");
}

#[test]
fn a_client_that_half_closes_gets_its_response() {
    let (stage, place) = (service(|asked| tells(&asked)), Place::tcp());
    let _wakeport = front(&stage, &place).start();
    let client = place.connect();
    client.send(get("/"));
    client.finish();
    assert_eq!(String::from_utf8_lossy(&client.all()), ok(&got("/")));
}

#[test]
fn at_a_stop_responses_end_and_idle_connections_are_closed() {
    let (go, goes) = std::sync::mpsc::channel::<()>();
    let goes = std::sync::Mutex::new(goes);
    let stage = service(move |asked| {
        if asked.path() == "/slow" {
            let _ = goes.lock().expect("no panic").recv();
        }
        tells(&asked)
    });
    let place = Place::tcp();
    let mut wakeport = front(&stage, &place).start();
    let (idle, slow) = (place.connect(), place.connect());
    idle.asks("/");
    slow.send(get("/slow"));
    wakeport.is("awake: 1 client");
    wakeport.signal(Signal::TERM);
    assert_eq!(idle.all(), b"");
    assert!(slow.is_silent());
    go.send(()).expect("it waits");
    let answer = String::from_utf8(slow.all()).expect("text");
    assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    assert!(answer.ends_with(&got("/slow")), "{answer}");
    wakeport.ends();
}

/// A service of a file that the hooks of `stage` start and stop.
pub(crate) fn table(name: &str, stage: &HookService, more: &str) -> String {
    format!(
        "[service.{name}]\nto = '{}'\nstart-hook = '{hook}'\nstop-hook = '{hook}'\n{more}\n",
        stage.scene().place,
        hook = stage.hook()
    )
}

/// A service that answers with its name.
pub(crate) fn named(name: &'static str) -> HookService {
    service(move |asked| {
        asked.says(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}",
            name.len()
        ));
        true
    })
}

pub(crate) fn ask(client: &Client, host: &str, path: &str) -> (u16, String) {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let (head, body) = message(client).expect("a response");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (
        status.expect("a status"),
        String::from_utf8(body).expect("text"),
    )
}

#[test]
fn each_request_goes_to_the_service_of_its_host() {
    let (docs, films, rest) = (named("docs"), named("films"), named("rest"));
    let dir = crate::support::directory();
    let path = dir.path().join("web.toml");
    let file = |films_has: &str| {
        let tables = [
            table("docs", &docs, "host = 'docs.example.org'"),
            table("films", &films, films_has),
            table("rest", &rest, "host = '*.example.org'\npath = '/app'"),
        ];
        std::fs::write(&path, tables.concat()).expect("a file of ours");
    };
    file("host = ['films.example.org', 'FILMS.local']");
    let (place, cooldown) = (Place::tcp(), "10ms");
    let run = Run::new().option("--config", path.display()).listen(&place);
    let wakeport = run.cooldown(cooldown).start();
    let client = place.connect();
    let text = |body: &str| (200, body.to_owned());
    assert_eq!(ask(&client, "docs.example.org", "/"), text("docs"));
    docs.reaches("stop", 1);
    assert_eq!((films.count("start"), rest.count("start")), (0, 0));
    // One connection for all of them.
    assert_eq!(ask(&client, "Films.Example.org:8080", "/"), text("films"));
    assert_eq!(ask(&client, "films.LOCAL.", "/x"), text("films"));
    assert_eq!(ask(&client, "x.example.org", "/app/y"), text("rest"));
    for (host, path) in [
        ("example.org", "/"),
        ("x.example.org", "/"),
        ("192.0.2.1", "/app"),
    ] {
        let client = place.connect();
        let (status, body) = ask(&client, host, path);
        assert_eq!(status, 404, "{body}");
    }
    let old = place.connect();
    old.send("GET / HTTP/1.0\r\n\r\n");
    assert!(old.all().starts_with(b"HTTP/1.1 400 "));
    films.reaches("stop", films.count("start"));
    rest.reaches("stop", rest.count("start"));
    assert_eq!((docs.count("start"), rest.count("start")), (1, 1));

    // The next request goes by the new table.
    file("host = 'docs.example.org'\npath = '/films'");
    wakeport.signal(Signal::HUP);
    wakeport.logs("reloaded: 3 services");
    assert_eq!(ask(&client, "docs.example.org", "/films"), text("films"));
    assert_eq!(ask(&client, "docs.example.org", "/"), text("docs"));
    assert_eq!(ask(&client, "films.example.org", "/").0, 404);
}

#[test]
fn addresses_are_judged_by_what_a_trusted_proxy_says() {
    let (stage, place) = (named("docs"), Place::tcp());
    let run = front(&stage, &place).option("--deny", "192.0.2.0/24");
    let wakeport = run.start();
    let forwarded = |list: &str| {
        let client = place.connect();
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {list}\r\n\r\n"
        ));
        let (head, _) = message(&client).expect("a response");
        head.split(' ').nth(1).expect("a status").to_owned()
    };
    assert_eq!(forwarded("192.0.2.7"), "403");
    assert_eq!(forwarded("198.51.100.1, 192.0.2.7, 127.0.0.1"), "403");
    assert_eq!(stage.count("start"), 0);
    // What others say of themselves does not count.
    assert_eq!(forwarded("192.0.2.7, 198.51.100.1"), "200");
    assert_eq!(forwarded("nonsense"), "200");
    drop(wakeport);
    let run = front(&stage, &place).option("--deny", "192.0.2.0/24");
    let _wakeport = run.option("--trust", "198.51.100.0/24").start();
    assert_eq!(forwarded("192.0.2.7"), "200");
}

/// A service that starts when `go` is there, and then answers with `body`.
pub(crate) fn starts_when_told(dir: &std::path::Path) -> HookService {
    let go = dir.join("go");
    HookService::direct(server(|asked| tells(&asked)), move |scene, call| {
        if call.event == "start" {
            crate::support::until("it may start", || go.exists());
        }
        up_and_down(scene, call)
    })
}

pub(crate) const BROWSER: &str =
    "GET /page HTTP/1.1\r\nHost: films.example.org\r\nAccept: text/html,*/*;q=0.8\r\n";

#[test]
fn a_browser_sees_a_page_while_the_service_starts_and_others_wait() {
    let dir = crate::support::directory();
    let (stage, place) = (starts_when_told(dir.path()), Place::tcp());
    let _wakeport = front(&stage, &place)
        .option("--page-after", "0s")
        .cooldown("0")
        .start();
    let (browser, program) = (place.connect(), place.connect());
    program.send(get("/data"));
    browser.send(format!("{BROWSER}\r\n"));
    let (head, page) = message(&browser).expect("a page");
    assert!(
        head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
        "{head}"
    );
    for field in [
        "Retry-After: ",
        "Cache-Control: no-store",
        "X-Wakeport-State: starting",
    ] {
        assert!(head.contains(field), "{head}");
    }
    let page = String::from_utf8(page).expect("text");
    assert!(page.contains("films.example.org: starting"), "{page}");
    assert!(program.is_silent());
    // What is no question of the page's goes to the service, whatever it says.
    let poster = place.connect();
    poster.send("POST / HTTP/1.1\r\nHost: a\r\nX-Wakeport-Wait: 1\r\nContent-Length: 1\r\n\r\nx");
    assert!(poster.is_silent());
    // The page asks on the same connection, and reloads when that is answered.
    browser.send(format!("{BROWSER}X-Wakeport-Wait: 1\r\n\r\n"));
    assert!(browser.is_silent());
    std::fs::write(dir.path().join("go"), "").expect("a file of ours");
    assert!(
        message(&browser)
            .expect("an answer")
            .0
            .starts_with("HTTP/1.1 204 ")
    );
    program.gets(&ok(&got("/data")));
    let (_, body) = message(&poster).expect("a response");
    assert!(
        String::from_utf8(body)
            .expect("text")
            .starts_with("POST / HTTP/1.1\r\n")
    );
    // Without any cooldown, too, it waits for the browser to come back.
    throughout(Duration::from_millis(300), "it stays awake", || {
        stage.count("stop") == 0
    });
    browser.send(format!("{BROWSER}\r\n"));
    let (head, body) = message(&browser).expect("the page itself");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(
        String::from_utf8(body)
            .expect("text")
            .starts_with("GET /page HTTP/1.1\r\n")
    );
    stage.reaches("stop", 1);
    assert_eq!(stage.count("start"), 1);
}

#[test]
fn a_wake_goes_on_for_a_browser_that_saw_the_page_and_closed() {
    let dir = crate::support::directory();
    let (stage, place) = (starts_when_told(dir.path()), Place::tcp());
    let wakeport = front(&stage, &place)
        .option("--page-after", "0s")
        .option("--page-status", "200")
        .start();
    let browser = place.connect();
    browser.send(format!("{BROWSER}\r\n"));
    let (head, _) = message(&browser).expect("a page");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    drop(browser);
    std::fs::write(dir.path().join("go"), "").expect("a file of ours");
    wakeport.is("awake: 1 client");
}

#[test]
fn a_service_that_fails_is_told_on_a_page_in_a_template() {
    let stage = HookService::direct(|_| (), |_, call| i32::from(call.event == "start"));
    let (dir, place) = (crate::support::directory(), Place::tcp());
    let template = dir.path().join("page.html");
    std::fs::write(&template, "<p>{{name}}: {{state}}: {{text}}").expect("a file of ours");
    let run = front(&stage, &place).option("--page", template.display());
    let wakeport = run.flag("--page-details").start();
    let page = || {
        let browser = place.connect();
        browser.send(format!("{BROWSER}\r\n"));
        String::from_utf8(browser.all()).expect("text")
    };
    let text = page();
    assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
    assert!(
        text.contains("\r\n\r\n<p>films.example.org: failed: "),
        "{text}"
    );
    assert!(text.contains("exit") || text.contains("status"), "{text}");
    drop(wakeport);
    let wakeport = front(&stage, &place)
        .option("--page-after", "infinity")
        .start();
    let text = page();
    assert!(text.contains("503 Service Unavailable: "), "{text}");
    drop(wakeport);
}

#[test]
fn a_template_that_cannot_be_read_is_named() {
    let (stage, place) = (service(|asked| tells(&asked)), Place::tcp());
    let (log, status) = front(&stage, &place)
        .option("--page", "/no/such.html")
        .fails();
    assert!(
        log.contains("cannot read the waiting page `/no/such.html`"),
        "{log}"
    );
    assert_eq!((log.lines().count(), status), (1, 64), "{log}");
}

#[test]
fn quiet_requests_neither_wake_nor_hold_and_are_passed_on_while_it_is_awake() {
    let (stage, place) = (service(|asked| tells(&asked)), Place::tcp());
    let run = front(&stage, &place).option("--quiet", "/healthz method:HEAD agent:probe");
    let wakeport = run
        .option("--quiet-answer", "204")
        .cooldown("300ms")
        .start();
    let client = place.connect();
    let agent = "GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-Probe/1.30\r\n\r\n".to_owned();
    let head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned();
    for request in [get("/healthz"), get("/favicon.ico"), agent, head] {
        client.send(request);
        let (head, _) = message(&client).expect("a response");
        assert!(head.starts_with("HTTP/1.1 204 No Content\r\n"), "{head}");
        assert!(head.contains("X-Wakeport-State: asleep\r\n"), "{head}");
    }
    assert_eq!(stage.count("start"), 0);
    client.asks("/");
    // They go through, and do not put off its sleep.
    let mut passed = 0;
    crate::support::until("it sleeps", || {
        client.send(get("/healthz"));
        let (head, _) = message(&client).expect("a response");
        passed += usize::from(head.starts_with("HTTP/1.1 200 OK\r\n"));
        stage.count("stop") == 1
    });
    assert!(passed > 0);
    wakeport.is("asleep");
    assert_eq!(stage.count("start"), 1);
}

#[test]
fn a_crawler_wakes_nothing_and_is_served_by_what_is_awake() {
    let (stage, place) = (service(|asked| tells(&asked)), Place::tcp());
    let wakeport = front(&stage, &place).start();
    let client = place.connect();
    let crawls =
        "GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: A-bot/1.0 (+https://bot.example.org/)\r\n\r\n";
    let status = || {
        client.send(crawls);
        let (head, _) = message(&client).expect("a response");
        head[9..12].to_owned()
    };
    assert_eq!(status(), "503");
    assert_eq!(stage.count("start"), 0);
    client.asks("/");
    wakeport.is("cooling");
    assert_eq!(status(), "200");
}

#[test]
fn only_what_is_meant_to_wake_wakes() {
    let (stage, place) = (service(|asked| tells(&asked)), Place::tcp());
    let run = front(&stage, &place).option("--wake-only", "/app*");
    let wakeport = run.option("--quiet-defaults", "no").start();
    let client = place.connect();
    client.send(get("/"));
    let (head, _) = message(&client).expect("a response");
    assert!(
        head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
        "{head}"
    );
    assert_eq!(stage.count("start"), 0);
    client.asks("/app/x");
    // The first client is let through just before all others are.
    wakeport.is("cooling");
    client.asks("/");
}

/// A service whose targets are asked whether they answer only if something is amiss.
#[test]
fn a_request_that_is_never_answered_concerns_no_other() {
    let (stage, place) = (
        service(|asked| asked.path() != "/closes" && tells(&asked)),
        Place::tcp(),
    );
    let wakeport = front(&stage, &place).start();
    let (client, other) = (place.connect(), place.connect());
    other.asks("/");
    wakeport.logs("answers after");
    let queries = wakeport.log().matches("answers after").count();
    for _ in 0..20 {
        let client = place.connect();
        client.send(get("/closes"));
        let answer = String::from_utf8(client.all()).expect("text");
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        other.asks("/");
    }
    client.asks("/");
    assert_eq!(wakeport.log().matches("answers after").count(), queries);
    assert_eq!((stage.count("start"), stage.count("stop")), (1, 0));
}

#[test]
fn an_upload_that_nobody_reads_ends_with_a_reset_of_the_client() {
    let stage = HookService::direct(
        |client| {
            let _ = up_to(&client, "\r\n\r\n");
            // Reads nothing of the body.
            crate::support::until("it is reset", || {
                !matches!(client.socket().take_error(), Ok(None))
            });
        },
        up_and_down,
    );
    let place = Place::tcp();
    let _wakeport = front(&stage, &place).cooldown("0").start();
    let client = place.connect();
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n");
    client.socket().set_nonblocking(true).expect("an option");
    crate::support::until("nobody reads", || {
        let _ = client.try_send([b'x'; 65_536]);
        client.is_full()
    });
    client.reset();
    stage.reaches("stop", 1);
}

#[test]
fn an_early_response_arrives_although_the_upload_breaks_off() {
    let (go, goes) = std::sync::mpsc::channel::<()>();
    let goes = std::sync::Mutex::new(goes);
    let stage = HookService::direct(
        move |client| {
            let _ = up_to(&client, "\r\n\r\n");
            client.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nno");
            let _ = goes.lock().expect("no panic").recv();
            client.send("!\n");
            while client.some().is_ok_and(|bytes| !bytes.is_empty()) {}
        },
        up_and_down,
    );
    let place = Place::tcp();
    let _wakeport = front(&stage, &place).start();
    let client = place.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx");
    client
        .gets("HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nno");
    client.finish();
    go.send(()).expect("it waits");
    assert_eq!(client.all(), b"!\n");
}

#[test]
fn empty_lines_are_no_requests_and_cost_no_thread() {
    let (stage, place) = (service(|asked| tells(&asked)), Place::tcp());
    let _wakeport = front(&stage, &place).start();
    let client = place.connect();
    client.send("\r\n");
    client.asks("/");
    let flood = place.connect();
    let _ = flood.try_send("\r\n".repeat(1 << 20));
    let answer = String::from_utf8(flood.rest().0).expect("text");
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
    client.asks("/");
}

#[test]
fn the_connection_that_was_idle_for_longest_makes_room_for_a_new_one() {
    let (stage, place) = (service(|asked| tells(&asked)), Place::tcp());
    let run = front(&stage, &place).option("--max-connections", "3");
    // With several, the second connection may be idle before the first one.
    let _wakeport = run.option("--threads", "1").start();
    let idle: Vec<Client> = (0..3).map(|_| place.connect()).collect();
    idle.iter().for_each(|client| client.asks("/"));
    place.connect().asks("/new");
    assert_eq!(idle[0].all(), b"");
    assert!(idle[1].is_silent() && idle[2].is_silent());
}
