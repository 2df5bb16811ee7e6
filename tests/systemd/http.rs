//! HTTP in front of nginx: idle connections stay open while it sleeps, and requests go on through restarts.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use crate::echo_service::Over;
use crate::page_runner::PageRunner;
use crate::rig::{Client, Rig};
use crate::services::{NEVER, PORT, SOON, TARGET, nginx, nginx_does};

const HTTP: &str = "WAKEPORT_HTTP=yes";
const UNIT: &str = "wakeport@nginx.service";

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_client_that_stays_connected_does_not_keep_nginx_awake() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[HTTP, SOON]);
    let mut client = Client::connect(PORT);
    for wakes in 1..=3 {
        assert_eq!(client.ask_again(), "hello");
        rig.wait_until("inactive", "nginx.service");
        assert_eq!(rig.starts("nginx.service"), wakes);
        assert!(rig.is("active", UNIT), "it stays for the connection");
    }
    drop(client);
    rig.wait_until_asleep("nginx");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn every_request_is_answered_through_restarts() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[HTTP, NEVER]);
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = Client::connect(PORT);
                while !over.load(SeqCst) {
                    assert_eq!(client.ask_again(), "hello");
                    answered.fetch_add(1, SeqCst);
                }
            });
        }
        let _over = Over(&over);
        for _ in 0..10 {
            let before = answered.load(SeqCst);
            rig.wait_for("requests are answered", || {
                answered.load(SeqCst) > before + 20
            });
            rig.systemctl(&format!("restart {UNIT}"));
        }
    });
    assert_eq!(rig.starts("nginx.service"), 1);
    assert_eq!(rig.said(UNIT, "handed 4 connections over"), 10);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn requests_that_wait_during_a_restart_are_answered_by_the_next_process() {
    let rig = Rig::boot();
    nginx(&rig);
    nginx_does(
        &rig,
        "ExecStartPre=/bin/sh -c 'until [ -e /run/go ]; do sleep 0.1; done'",
    );
    rig.instance("nginx", PORT, TARGET, &[HTTP, NEVER]);
    let clients: Vec<_> = (0..20).map(|_| Client::asks(PORT)).collect();
    rig.wait_until("activating", "nginx.service");
    for _ in 0..3 {
        rig.systemctl(&format!("restart {UNIT}"));
    }
    rig.run("touch /run/go");
    for client in clients {
        assert_eq!(client.page(), "hello");
    }
    assert_eq!(rig.starts("nginx.service"), 1);
    assert_eq!(rig.said(UNIT, "handed 20 connections over"), 3);
}

/// Reads up to the end of a head.
fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a whole head");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("heads are text")
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn an_upgraded_connection_goes_on_after_restarts() {
    let rig = Rig::boot();
    let target = TcpListener::bind(TARGET).expect("a free port");
    rig.instance("relay", PORT, TARGET, &["WAKEPORT_UNIT=", HTTP]);
    let mut client = TcpStream::connect(PORT).expect("the port is open");
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    write!(client, "GET / HTTP/1.1\r\nHost: a\r\n{upgrade}").expect("it is open");
    let (mut service, _) = target.accept().expect("a connection");
    assert!(head(&mut service).contains("Upgrade: websocket"));
    write!(service, "HTTP/1.1 101 Switching Protocols\r\n{upgrade}").expect("it is open");
    assert!(head(&mut client).starts_with("HTTP/1.1 101 "));
    for _ in 0..3 {
        rig.systemctl("restart wakeport@relay.service");
        for (from, to) in [(&client, &service), (&service, &client)] {
            let (mut from, mut to) = (from, to);
            from.write_all(b"hello").expect("it is open");
            let mut bytes = [0; 5];
            to.read_exact(&mut bytes).expect("it is open");
            assert_eq!(&bytes, b"hello");
        }
    }
}

/// Both ends of an exchange: what either sends is what the other one gets, through a restart of wakeport.
fn passes(rig: &Rig, from: &mut TcpStream, to: &mut TcpStream, pieces: &[&[u8]], expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    thread::scope(|scope| {
        scope.spawn(|| {
            for piece in pieces {
                from.write_all(piece).expect("it is open");
                rig.systemctl("restart wakeport@relay.service");
            }
        });
        to.read_exact(&mut got).expect("all of it");
    });
    let text = String::from_utf8_lossy(&got[..got.len().min(500)]);
    assert!(got == expected, "{text:?}");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn messages_under_way_go_on_after_restarts() {
    let rig = Rig::boot();
    let target = TcpListener::bind(TARGET).expect("a free port");
    rig.instance("relay", PORT, TARGET, &["WAKEPORT_UNIT=", HTTP]);
    let mut client = TcpStream::connect(PORT).expect("the port is open");
    for round in 0..2 {
        // The first piece of the request reaches the service only when the head is whole.
        client
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ")
            .expect("it is open");
        rig.wait_until("active", "wakeport@relay.service");
        rig.systemctl("restart wakeport@relay.service");
        client
            .write_all(b"chunked\r\n\r\n4\r\nab")
            .expect("it is open");
        let (mut service, _) = target.accept().expect("a connection");
        let head = head(&mut service);
        assert!(head.contains("Transfer-Encoding: chunked\r\n"), "{head}");
        let pieces: [&[u8]; 4] = [
            b"cd\r",
            b"\n1",
            b"0;x=y\r\n0123456789abcdef\r\n0\r\nETag: ",
            b"x\r\n\r\n",
        ];
        let expected = b"4\r\nabcd\r\n10\r\n0123456789abcdef\r\n0\r\nETag: x\r\n\r\n";
        passes(&rig, &mut client, &mut service, &pieces, expected);

        let body = vec![b'x'; 3_000_000];
        let length = format!("Content-Length: {}\r\n", body.len());
        let start = format!("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n{length}\r\n");
        let (early, late) = start.split_at(40);
        let pieces = [
            early.as_bytes(),
            late.as_bytes(),
            &body[..1_000_000],
            &body[1_000_000..],
        ];
        let told = format!(
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n{length}Keep-Alive: timeout=145\r\n\r\n"
        );
        let expected = [told.as_bytes(), &body].concat();
        passes(&rig, &mut service, &mut client, &pieces, &expected);
        assert_eq!(
            rig.said("wakeport@relay.service", "handed 1 connection over"),
            9 * (round + 1)
        );
    }
}

/// A service and its client, of gRPC's four kinds of calls. `Chat` goes on when /run/go is there.
const GRPC_SERVICE: &str = r#"
import grpc
from concurrent import futures
unary = grpc.unary_unary_rpc_method_handler(lambda request, _: b"hi " + request)
down = grpc.unary_stream_rpc_method_handler(lambda request, _: (request + b"%d" % n for n in range(3)))
up = grpc.stream_unary_rpc_method_handler(lambda requests, _: b"".join(requests))
both = grpc.stream_stream_rpc_method_handler(lambda requests, _: (b"re:" + it for it in requests))
def fails(_, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "none")
kinds = {"Unary": unary, "Down": down, "Up": up, "Both": both, "Fails": grpc.unary_unary_rpc_method_handler(fails)}
class Kinds(grpc.GenericRpcHandler):
    def service(self, call):
        return kinds[call.method.split("/")[-1]]
server = grpc.server(futures.ThreadPoolExecutor(9), handlers=[Kinds()])
assert server.add_insecure_port("127.0.0.1:18080")
server.start()
server.wait_for_termination()
"#;

const GRPC_CLIENT: &str = r#"
import grpc, os, sys, time
channel = grpc.insecure_channel("127.0.0.1:8080")
def chat():
    yield b"one"
    while not os.path.exists("/run/go"):
        time.sleep(0.05)
    yield b"two"
def say(kind):
    path = "/test.Kinds/" + kind
    if kind == "Unary": return channel.unary_unary(path)(b"x", timeout=60)
    if kind == "Down": return list(channel.unary_stream(path)(b"n", timeout=60))
    if kind == "Up": return channel.stream_unary(path)(iter([b"a", b"b"]), timeout=60)
    if kind == "Both": return list(channel.stream_stream(path)(iter([b"a", b"b" * 99999]), timeout=60))[0]
    if kind == "Chat":
        for answer in channel.stream_stream("/test.Kinds/Both")(chat(), timeout=60):
            print(answer, flush=True)
        return "over"
    try: return channel.unary_unary(path)(b"x", timeout=60)
    except grpc.RpcError as error: return error.code().name, error.details()
for kind in sys.argv[1:]:
    print(say(kind), flush=True)
"#;

/// A service of gRPC on `target`, whose clients call `port`.
fn greeter(rig: &Rig, port: &str, target: &str) {
    rig.write("/run/rig/service.py", &GRPC_SERVICE.replace(TARGET, target));
    rig.write("/run/rig/client.py", &GRPC_CLIENT.replace(PORT, port));
    let unit = "[Service]\nExecStart=/usr/bin/python3 /run/rig/service.py\n";
    rig.unit("greeter.service", unit);
}

fn grpc(rig: &Rig, more: &[&str]) {
    greeter(rig, PORT, TARGET);
    let settings = [HTTP, "WAKEPORT_TARGET_PROTOCOL=h2c"];
    rig.instance("greeter", PORT, TARGET, &[&settings, more].concat());
}

const CALLS: &str = "/usr/bin/python3 /run/rig/client.py";

#[test]
#[ignore = "needs root: tests/run runs it"]
fn calls_of_grpc_wake_a_service_and_hold_it() {
    let rig = Rig::boot();
    grpc(&rig, &[SOON]);
    for (wakes, (kind, answer)) in [
        ("Unary", "b'hi x'"),
        ("Down", "[b'n0', b'n1', b'n2']"),
        ("Up", "b'ab'"),
        ("Both", "b're:a'"),
        ("Fails", "('NOT_FOUND', 'none')"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(rig.run(&format!("{CALLS} {kind}")).trim(), answer);
        rig.wait_until("inactive", "greeter.service");
        assert_eq!(rig.starts("greeter.service"), wakes + 1);
    }
    rig.run(&format!("{CALLS} Chat >/run/chat 2>&1 &"));
    rig.wait_for("it is answered", || rig.read("/run/chat") == "b're:one'\n");
    // Longer than the cooldown.
    rig.run("sleep 1; touch /run/go");
    rig.wait_for("it ends", || rig.read("/run/chat").ends_with("over\n"));
    assert_eq!(rig.read("/run/chat"), "b're:one'\nb're:two'\nover\n");
    assert_eq!(rig.starts("greeter.service"), 6);
    rig.wait_until_asleep("greeter");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_recipe_for_grpc_has_a_call_wake_the_service() {
    let rig = Rig::boot();
    greeter(&rig, "127.0.0.1:50051", "127.0.0.1:15051");
    PageRunner::new(&rig).run_section("docs/recipes.md#a-server-of-grpc");
    assert_eq!(rig.starts("greeter.service"), 0);
    assert_eq!(rig.run(&format!("{CALLS} Unary")).trim(), "b'hi x'");
    assert!(rig.is("active", "greeter.service"));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_call_of_grpc_ends_before_a_restart_does() {
    let rig = Rig::boot();
    grpc(&rig, &[NEVER]);
    rig.run(&format!("{CALLS} Chat >/run/chat 2>&1 &"));
    rig.wait_for("it is answered", || rig.read("/run/chat") == "b're:one'\n");
    let unit = "wakeport@greeter.service";
    rig.systemctl(&format!("restart --no-block {unit}"));
    rig.wait_until("deactivating", unit);
    rig.run("touch /run/go");
    rig.wait_for("it ends", || rig.read("/run/chat").ends_with("over\n"));
    assert_eq!(rig.read("/run/chat"), "b're:one'\nb're:two'\nover\n");
    assert_eq!(rig.run(&format!("{CALLS} Unary")).trim(), "b'hi x'");
    assert_eq!(rig.starts("greeter.service"), 1);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn clients_of_http2_reach_nginx() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[HTTP, SOON]);
    for client in ["curl -s --http2-prior-knowledge", "nghttp"] {
        let page = rig.run(&format!("{client} http://127.0.0.1:8080/"));
        assert_eq!(page, "hello", "{client}");
        rig.wait_until("inactive", "nginx.service");
    }
    let load = rig.run("h2load -n 2000 -c 20 -m 20 http://127.0.0.1:8080/");
    assert!(
        load.contains("2000 succeeded, 0 failed, 0 errored"),
        "{load}"
    );
    rig.wait_until_asleep("nginx");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_unit_that_is_killed_in_an_exchange_costs_no_request_that_may_be_repeated() {
    const DIR: &str = "/run/rig/killed";
    let rig = Rig::boot();
    let server = include_str!("../it/killed_services/server.py");
    rig.write(&format!("{DIR}/server"), server);
    rig.run(&format!("chmod 755 {DIR}/server"));
    rig.unit(
        "web.service",
        &format!("[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart={DIR}/server {TARGET}\n"),
    );
    rig.instance(
        "web",
        PORT,
        TARGET,
        &["WAKEPORT_UNIT=web.service", HTTP, NEVER],
    );
    let mut requests = 0;
    let mut asks = |phase: &str, curl: &str| {
        requests += 1;
        rig.write(&format!("{DIR}/{phase}"), "");
        let said = rig.ask(&format!(
            "curl -s --max-time 60 -w '%{{http_code}}' {curl} http://{PORT}/{requests}"
        ));
        let was_killed = rig
            .ask(&format!("ls {DIR}/{phase} 2>&1"))
            .contains("No such");
        assert!(was_killed, "not killed at `{phase}`");
        let reached = rig.read(&format!("{DIR}/seen"));
        let reached = reached
            .lines()
            .filter(|line| *line == format!("/{requests}"));
        (said, reached.count())
    };
    for phase in ["head", "before"] {
        assert_eq!(asks(phase, ""), ("abcdef200".into(), 2), "GET: {phase}");
    }
    for phase in ["head", "body", "before"] {
        let put = asks(phase, "-X PUT -d body");
        assert_eq!(put, ("abcdef200".into(), 2), "PUT: {phase}");
        let (said, reached) = asks(phase, "-d body");
        assert!(said.ends_with("502"), "POST: {phase}: {said}");
        assert_eq!(reached, 1, "POST: {phase}");
    }
    // The client sees that the response is not whole.
    for phase in ["response-head", "response-body"] {
        let (said, reached) = asks(phase, "");
        assert!(
            !said.contains("abcdef") && reached == 1,
            "{phase}: {said}, {reached} times"
        );
    }
    assert!(
        rig.starts("web.service") >= requests,
        "it was killed each time"
    );
}
