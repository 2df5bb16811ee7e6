//! Every kind of response that wakeport makes itself, as httplint sees it.

use std::io::Write;
use std::process::{Command, Stdio};

use jiff::fmt::rfc2822;
use jiff::{Timestamp, ToSpan};

use crate::support::{HookService, Place, Run};

/// Notes on what a status says of the request, and not on the response.
const ACCEPTED: [&str; 2] = [
    "The request HTTP version isn't supported.",
    "The server won't accept a URI this long .",
];

/// The notes of httplint that something is bad.
fn bad(response: &[u8]) -> Vec<String> {
    let linter = Command::new("httplint")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut linter = linter.expect("httplint; tests/run installs it");
    let mut input = linter.stdin.take().expect("a pipe");
    input.write_all(response).expect("it reads");
    drop(input);
    let output = linter.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", output.status);
    let notes = String::from_utf8(output.stdout).expect("text");
    assert!(notes.contains("### "), "these are no notes: {notes}");
    let bad = notes.lines().filter_map(|line| line.split_once("[BAD] "));
    let bad = bad.map(|(_, note)| note.to_owned());
    bad.filter(|note| !ACCEPTED.contains(&note.as_str()))
        .collect()
}

/// When it says that it was made.
fn date(response: &str) -> Timestamp {
    let date = response
        .lines()
        .find_map(|line| line.strip_prefix("Date: "));
    let date = rfc2822::parse(date.unwrap_or_else(|| panic!("no Date: {response}")));
    date.expect("a date").timestamp()
}

/// The request for `path` with these fields, the last one on its connection.
fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}Connection: close\r\n\r\n")
}

#[test]
#[ignore = "needs httplint: tests/run installs it"]
fn no_response_of_our_own_is_bad() {
    let failing = HookService::direct(|_| (), |_, call| i32::from(call.event == "start"));
    let silent = HookService::direct(
        |client| drop(client.some()),
        |scene, call| {
            match call.event.as_str() {
                "start" => scene.up(),
                "stop" => scene.down(),
                _ => (),
            }
            0
        },
    );
    let web = |stage: &HookService, options: &[(&str, &str)]| {
        let place = Place::tcp();
        let run = stage.run().listen(&place).option("--host", "a");
        let run = run.option("--deny", "192.0.2.0/24");
        let add = |run: Run, (name, value): &(&str, &str)| run.option(name, value);
        (options.iter().fold(run, add).start(), place)
    };
    let (_failing, down) = web(&failing, &[("--quiet", "/quiet")]);
    let (_paged, paged) = web(
        &failing,
        &[
            ("--page-after", "0s"),
            ("--quiet", "/quiet"),
            ("--quiet-answer", "204"),
        ],
    );
    let (_silent, up) = web(&silent, &[]);
    let page = "Accept: text/html\r\n";
    let long = "x".repeat(40_000);
    let cases = [
        (&down, "GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (&down, get("/", "X-Forwarded-For: 192.0.2.1\r\n"), 403),
        (&down, get("/", "").replace("Host: a", "Host: b"), 404),
        (&down, get("a:1", "").replace("GET", "CONNECT"), 405),
        (&down, "GET / HTTP/1.1\r\n".to_owned(), 408),
        (&down, get(&long, ""), 414),
        (&down, get("/", &format!("X: {long}\r\n")), 431),
        (&down, get("/", "Transfer-Encoding: x\r\n"), 501),
        (&down, get("/", "").replace("1.1", "3.0"), 505),
        (&down, get("/", ""), 503),
        (&down, get("/quiet", ""), 503),
        (&paged, get("/quiet", ""), 204),
        // That it starts, or has failed.
        (&paged, get("/", page), 503),
        (
            &paged,
            get("/", &format!("{page}X-Wakeport-Wait: 1\r\n")),
            200,
        ),
        (&up, get("/", ""), 502),
        (&up, get("/", &format!("{page}X-Wakeport-Wait: 1\r\n")), 204),
    ];
    for (place, request, expected) in cases {
        let client = place.connect();
        // In whole seconds.
        let before = Timestamp::now() - 1.second();
        let _ = client.try_send(&request);
        // What it says to the page leaves the connection open.
        let response = match request.contains("Wait") {
            true => client.some().expect("a response"),
            false => client.rest().0,
        };
        let text = String::from_utf8_lossy(&response);
        let request: String = request.chars().take(80).collect();
        assert!(
            text.starts_with(&format!("HTTP/1.1 {expected} ")),
            "{request:?}: {text}"
        );
        let dated = before..=Timestamp::now();
        assert!(dated.contains(&date(&text)), "{request:?}: {text}");
        assert_eq!(bad(&response), [""; 0], "{request:?}: {text}");
    }
}
