//! nginx, Caddy and HAProxy in front of wakeport: their connections stay open while services sleep, and no client sees an
//! error through a thousand wakes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::echo_service::Over;
use crate::rig::{Client, Rig};
use crate::services::PORT;

/// Where the front listens.
const FRONT: &str = "127.0.0.1:80";
const INSTANCE: &str = "wakeport@web.service";

/// A web server that starts in a few milliseconds: keep-alive, a process for each connection. A file is there from its
/// start to the order to stop.
const PROGRAM: &str = r#"
use strict; use Socket;
$SIG{CHLD} = 'IGNORE';
socket(my $server, PF_INET, SOCK_STREAM, 0) or die "socket: $!";
setsockopt($server, SOL_SOCKET, SO_REUSEADDR, 1) or die "setsockopt: $!";
bind($server, sockaddr_in($ARGV[0], INADDR_LOOPBACK)) or die "bind: $!";
listen($server, 1024) or die "listen: $!";
my $up = "/run/rig/up-$ARGV[0]";
open(my $file, '>', $up) or die "open: $!";
$SIG{TERM} = sub { unlink $up; exit };
while (1) {
    accept(my $client, $server) or die "accept: $!";
    my $child = fork;
    die "fork: $!" unless defined $child;
    next if $child;
    close $server;
    $SIG{TERM} = 'DEFAULT';
    my $come = '';
    while (1) {
        until ($come =~ s/^(.*?\r\n\r\n)//s) { sysread($client, $come, 65536, length $come) or exit }
        my $body = $1 =~ /content-length: *(\d+)/i ? $1 : 0;
        while (length $come < $body) { sysread($client, $come, 65536, length $come) or exit }
        substr($come, 0, $body) = '';
        syswrite $client, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    }
}
"#;

/// nginx that keeps its connections to wakeport; the client's own has no limit of requests.
const NGINX: &str = "\
pid /run/nginx.pid;
error_log stderr;
events { worker_connections 1024; }
http {
    access_log off;
    keepalive_requests 1000000;
    upstream wakeport { server 127.0.0.1:8080; keepalive 64; keepalive_requests 1000000; }
    server {
        listen 80;
        location / {
            proxy_pass http://wakeport;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Connection '';
            proxy_next_upstream off;
        }
    }
}
";

const CADDY: &str = "\
{
    admin off
    auto_https off
}
:80 {
    reverse_proxy 127.0.0.1:8080
}
";

/// So many services, each with two clients, of which one sends what nothing in between may repeat.
const SERVICES: usize = 8;

/// The wakes of all services together, as wakeport counts them.
fn wakes(rig: &Rig) -> u64 {
    let seen: Value = serde_json::from_str(&rig.run("wakeport status --json")).expect("JSON");
    let instances = seen["instances"].as_array().expect("a list");
    let wakes = instances.iter().map(|it| it["wakes"]["total"].as_u64());
    wakes.map(Option::unwrap_or_default).sum()
}

/// A thousand wakes behind `front`, whose configuration is `text` at `path`: each service sleeps as soon as it has no
/// request, and each request has to be answered.
fn a_thousand_wakes(front: &str, path: &str, text: &str) {
    let rig = Rig::boot();
    rig.write("/run/rig/app.pl", PROGRAM);
    let mut add = String::new();
    for number in 0..SERVICES {
        let port = 18100 + number;
        rig.unit(
            &format!("app{number}.service"),
            &format!(
                "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=perl /run/rig/app.pl {port}\n"
            ),
        );
        add += &format!(" --add app{number}.example=app{number}:{port}");
    }
    rig.write("/etc/wakeport/web.toml", "[defaults]\ncooldown = 0\n");
    rig.run(&format!(
        "wakeport init web --listen {PORT} --write --enable{add}"
    ));
    // As for `Rig::allow`.
    rig.systemctl("try-restart polkit.service");
    rig.write(path, text);
    rig.systemctl(&format!("start {front}"));
    let over = AtomicBool::new(false);
    let ask = |number: usize, method: &str| {
        let up = rig.path(&format!("/run/rig/up-{}", 18100 + number));
        let mut client = Client::connect(FRONT);
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: app{number}.example\r\nContent-Length: 4\r\n\r\nbody"
        );
        for round in 0_u64.. {
            if over.load(SeqCst) {
                break;
            }
            assert_eq!(client.sends(&request), "hello", "{method} {number}");
            // The next one comes while it stops or when it sleeps, or joins the other client's wake.
            rig.wait_for("it is told to stop", || over.load(SeqCst) || !up.exists());
            thread::sleep(Duration::from_millis((round * 7 + number as u64) % 41));
        }
    };
    let ask = &ask;
    thread::scope(|scope| {
        for number in 0..SERVICES {
            scope.spawn(move || ask(number, "GET"));
            scope.spawn(move || ask(number, "POST"));
        }
        let _over = Over(&over);
        for hundred in 1..=10 {
            let what = format!("{hundred}00 wakes");
            rig.wait_for(&what, || over.load(SeqCst) || wakes(&rig) >= hundred * 100);
        }
    });
    // The front has kept connections open all the time: for these, wakeport stays while all services sleep.
    assert_eq!(rig.starts(INSTANCE), 1);
    let starts: usize = (0..SERVICES)
        .map(|number| rig.starts(&format!("app{number}.service")))
        .sum();
    assert!(starts >= 1000, "{starts}");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn no_client_of_nginx_sees_an_error_in_a_thousand_wakes() {
    a_thousand_wakes("nginx.service", "/etc/nginx/nginx.conf", NGINX);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn no_client_of_caddy_sees_an_error_in_a_thousand_wakes() {
    a_thousand_wakes("caddy.service", "/etc/caddy/Caddyfile", CADDY);
}

/// A WebSocket through the front to `target`: bytes pass both ways, and the unit, which sleeps before, is awake as long as
/// it is open.
pub(crate) fn upgrades(rig: &Rig, unit: &str, host: &str, target: &str) {
    // In its place the test listens.
    rig.unit(unit, "[Service]\nExecStart=sleep infinity\n");
    let target = TcpListener::bind(target).expect("it sleeps");
    let mut client = TcpStream::connect(FRONT).expect("the port is open");
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    write!(
        client,
        "GET / HTTP/1.1\r\nHost: {host}\r\n{upgrade}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .expect("it is open");
    // Other connections are probes.
    let mut service = loop {
        let (mut service, _) = target.accept().expect("a connection");
        let head = head(&mut service);
        if head.to_ascii_lowercase().contains("upgrade: websocket") {
            break service;
        }
    };
    write!(
        service,
        "HTTP/1.1 101 Switching Protocols\r\n{upgrade}Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )
    .expect("it is open");
    let answer = head(&mut client);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    for (from, to) in [(&client, &service), (&service, &client)] {
        let (mut from, mut to) = (from, to);
        from.write_all(b"hello").expect("it is open");
        let mut bytes = [0; 5];
        to.read_exact(&mut bytes).expect("it is open");
        assert_eq!(&bytes, b"hello");
    }
    assert!(rig.is("active", unit));
    drop(client);
    assert_eq!(service.read(&mut [0]).expect("an end"), 0);
    drop((service, target));
    rig.wait_until("inactive", unit);
}

/// Reads up to the end of a head, or of the connection.
fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|length| length > 0) {
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("heads are text")
}
