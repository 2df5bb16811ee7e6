//! When a target counts as ready, and what becomes of the connection that proved it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::{Client, Place, Run, Server, echo, until};

/// A target that sends a banner on every connection, and then echoes.
fn greet(client: Client) {
    client.send("220 welcome\r\n");
    echo(client);
}

#[test]
fn a_banner_reaches_each_client_exactly_once() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let server = Server::at(&target, greet);
    let _wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .option("--ready", "banner")
        .start();
    for count in 1..=3 {
        let client = front.connect();
        assert_eq!(client.take(13), b"220 welcome\r\n");
        client.echoes("EHLO");
        client.finish();
        assert!(client.all().is_empty());
        assert_eq!(
            server.connections(),
            count,
            "no connection is made for the proof alone"
        );
    }
}

#[test]
fn a_target_that_accepts_before_it_speaks_is_waited_for() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let tries = Arc::new(AtomicUsize::new(0));
    let _server = Server::at(&target, {
        let tries = tries.clone();
        move |client| {
            // As Docker's proxy does for a container that does not listen yet.
            if tries.fetch_add(1, Ordering::SeqCst) >= 3 {
                greet(client);
            }
        }
    });
    let _wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .option("--ready", "banner")
        .start();
    let client = front.connect();
    assert_eq!(client.take(13), b"220 welcome\r\n");
    client.echoes("EHLO");
    assert_eq!(tries.load(Ordering::SeqCst), 4);
}

/// Answers HTTP requests with what `status` says, and anything else with an echo.
fn http(
    status: impl Fn() -> u16 + Send + Sync + 'static,
    seen: Arc<Mutex<Vec<String>>>,
) -> impl Fn(Client) + Send + Sync {
    move |client: Client| {
        let first = client.some().unwrap_or_default();
        let text = String::from_utf8_lossy(&first).into_owned();
        if !text.starts_with("GET ") {
            let _ = client.try_send(&first);
            return echo(client);
        }
        seen.lock().expect("no panic").push(text);
        let status = status();
        // In two pieces, after an interim status.
        let _ = client.try_send("HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\nHTTP/1.1 ");
        let _ = client.try_send(format!("{status} Whatever\r\nContent-Length: 2\r\n\r\nok"));
    }
}

#[test]
fn over_http_a_target_is_ready_when_it_answers_below_500() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let (healthy, seen) = (
        Arc::new(AtomicBool::new(false)),
        Arc::<Mutex<Vec<String>>>::default(),
    );
    let status = {
        let healthy = healthy.clone();
        move || {
            if healthy.load(Ordering::SeqCst) {
                404
            } else {
                503
            }
        }
    };
    let server = Server::at(&target, http(status, seen.clone()));
    let wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .option("--ready", "http:///healthz?deep=1")
        .start();
    let client = front.connect();
    client.send("hello");
    wakeport.is("waking: the target has started, but does not answer yet");
    until("it has asked twice", || {
        seen.lock().expect("no panic").len() >= 2
    });
    assert!(client.is_silent());
    healthy.store(true, Ordering::SeqCst);
    assert_eq!(client.take(5), b"hello");
    let seen = seen.lock().expect("no panic");
    assert_eq!(
        server.connections(),
        seen.len() + 1,
        "the client has a connection of its own"
    );
    let request = &seen[0];
    assert!(
        request.starts_with("GET /healthz?deep=1 HTTP/1.1\r\nHost: "),
        "{request}"
    );
    assert!(
        request.contains("\r\nConnection: close\r\n") && request.ends_with("\r\n\r\n"),
        "{request}"
    );
}

#[test]
fn an_http_probe_may_ask_another_address() {
    let (front, target, health) = (Place::tcp(), Place::tcp(), Place::tcp());
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let server = Server::echo(&target);
    let health_server = Server::at(&health, http(|| 200, seen.clone()));
    let _wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .option("--ready", format!("http://{health}"))
        .start();
    front.connect().echoes("hello");
    assert_eq!((server.connections(), health_server.connections()), (1, 1));
    let seen = seen.lock().expect("no panic");
    assert!(
        seen[0].starts_with(&format!("GET / HTTP/1.1\r\nHost: {health}\r\n")),
        "{}",
        seen[0]
    );
}

#[test]
fn a_target_that_does_not_speak_http_is_not_ready_over_http() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let _server = Server::at(&target, greet);
    let wakeport = Run::new()
        .to(&target)
        .listen(&front)
        .option("--ready", "http:///")
        .option("--start-timeout", "300ms")
        .start();
    let why = "cannot start the target: it does not answer in time: invalid HTTP version";
    wakeport.refuses(&front, why);
}

#[test]
fn a_target_that_never_answers_does_not_concern_the_clients_of_another() {
    let (web, api, target) = (Place::tcp(), Place::tcp(), Place::tcp());
    let _server = Server::echo(&target);
    let wakeport = Run::new()
        .to(format!("web={target}"))
        .to(format!("api={}", Place::tcp()))
        .listen(format!("web={web}"))
        .listen(format!("api={api}"))
        .option("--start-timeout", "3s")
        .start();
    let first = web.connect();
    first.echoes("hello");
    let lost = api.connect();
    wakeport.was("awake: 1 client, 1 client waiting");
    for number in 0..20 {
        web.connect().echoes(&format!("client {number}"));
        first.echoes("still here");
    }
    lost.is_reset();
    wakeport.logs("1 connection rejected: target `");
    first.echoes("still here");
}
