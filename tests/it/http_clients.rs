//! Clients and servers of other makes through wakes: curl, websockets, undici in front; node and its ws behind; and
//! slowhttptest, which attacks.

use std::fs;

use tempfile::TempDir;

use crate::support::{Place, Program, Run, Wakeport, directory, script};

const SERVER: &str = include_str!("http_clients/server.js");

/// node behind wakeport, as its child.
struct Site {
    dir: TempDir,
    front: Place,
    wakeport: Wakeport,
}

impl Site {
    fn new(cooldown: &str) -> Self {
        let (dir, front, target) = (directory(), Place::tcp(), Place::tcp());
        fs::write(dir.path().join("server.js"), SERVER).expect("a file of ours");
        let address = target.tcp_address();
        let server = format!(
            "#!/bin/sh\nNODE_PATH=/usr/share/nodejs exec node {dir}/server.js {} {}\n",
            address.ip(),
            address.port(),
            dir = dir.path().display()
        );
        let server = script(&dir.path().join("server"), &server);
        let run = Run::new().to(&target).listen(&front).flag("--http");
        let wakeport = run.option("--exec", server).cooldown(cooldown).start();
        Self {
            dir,
            front,
            wakeport,
        }
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Runs curl with these options, and returns what it has printed.
    fn curl(&self, options: &[&str], path: &str) -> String {
        let url = format!("http://{}{path}", self.front);
        let common = [
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            "--noproxy",
            "*",
        ];
        Program::start(&[&common, options, &[&url]].concat(), &[]).output()
    }

    /// It is down, and what comes next wakes it.
    fn sleeps(&self) {
        self.wakeport.is("asleep");
    }
}

#[test]
fn curl_gets_what_it_asks_for_through_wakes() {
    let site = Site::new("0");
    let upload = site.file("upload");
    fs::write(&upload, vec![b'x'; 3_000_000]).expect("a file of ours");
    let asks = |options: &[&str], expected: &str| {
        site.sleeps();
        assert_eq!(site.curl(options, "/x"), expected, "{options:?}");
    };
    asks(&[], "GET /x 0\n");
    asks(&["--http1.0"], "GET /x 0\n");
    asks(&["--range", "0-2"], "GET");
    let upload = format!("@{upload}");
    // The body is sent when the service says so.
    asks(
        &[
            "--data-binary",
            &upload,
            "--header",
            "Expect: 100-continue",
            "--expect100-timeout",
            "60",
        ],
        "POST /x 3000000\n",
    );
    asks(
        &[
            "--data-binary",
            &upload,
            "--header",
            "Transfer-Encoding: chunked",
        ],
        "POST /x 3000000\n",
    );
    asks(
        &["--upload-file", &upload[1..], "--header", "Expect:"],
        "PUT /x 3000000\n",
    );
    site.sleeps();
    let head = site.curl(&["--head"], "/x");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    site.sleeps();
    let raw = site.curl(
        &[
            "--raw",
            "--include",
            "--header",
            "TE: trailers",
            "--header",
            "Connection: TE",
        ],
        "/x",
    );
    assert!(
        raw.ends_with("\r\n9\r\nGET /x 0\n\r\n0\r\nX-Size: 0\r\n\r\n"),
        "{raw}"
    );
}

#[test]
fn a_websocket_passes_through_a_wake() {
    let site = Site::new("0");
    let url = format!("ws://{}/", site.front);
    let files = [("client.py", include_str!("http_clients/websockets.py"))];
    let client = Program::start(&["/usr/bin/python3", "client.py", &url], &files);
    assert!(client.output().ends_with("done\n"));
    site.sleeps();
}

#[test]
fn undici_keeps_its_connections_through_sleeps() {
    let site = Site::new("0");
    let url = format!("http://{}", site.front);
    let files = [("client.js", include_str!("http_clients/undici.js"))];
    let client = Program::start(
        &["node", "client.js", &url, "8", &site.file("stops")],
        &files,
    );
    assert!(client.output().ends_with("done\n"));
}

/// Runs an attack with 200 connections, during which another client is answered all the time.
fn attacks(mode: &[&str]) {
    let site = Site::new("5min");
    let url = format!("http://{}/", site.front);
    let attack = [
        "slowhttptest",
        "-c",
        "200",
        "-r",
        "100",
        "-l",
        "5",
        "-u",
        &url,
    ];
    let mut attack = Program::start(&[&attack, mode].concat(), &[]);
    let port = format!(":{:04X} ", site.front.port());
    attack.until("it has its connections", |_| {
        let table = fs::read_to_string("/proc/net/tcp").expect("Linux");
        (table.matches(&port).count() >= 200).then_some(())
    });
    for _ in 0..10 {
        assert_eq!(site.curl(&[], "/x"), "GET /x 0\n");
    }
    attack.wait();
    assert_eq!(site.curl(&[], "/x"), "GET /x 0\n");
}

#[test]
fn slow_heads_disturb_no_client() {
    attacks(&["-H", "-i", "1"]);
}

#[test]
fn slow_bodies_disturb_no_client() {
    attacks(&["-B", "-i", "1"]);
}

#[test]
fn slow_readers_disturb_no_client() {
    attacks(&["-X", "-w", "1", "-y", "2", "-n", "1", "-z", "1"]);
}

#[test]
fn heads_that_never_end_are_told_so_and_wake_nothing() {
    let site = Site::new("5min");
    let clients: Vec<_> = (0..100).map(|_| site.front.connect()).collect();
    for client in &clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n");
    }
    for client in &clients {
        let answer = String::from_utf8(client.all()).expect("text");
        assert!(
            answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
            "{answer}"
        );
    }
    assert!(
        !site.wakeport.log().contains("waking"),
        "{}",
        site.wakeport.log()
    );
    assert_eq!(site.curl(&[], "/x"), "GET /x 0\n");
}
