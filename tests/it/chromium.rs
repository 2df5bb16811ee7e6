//! Chromium opens sites that sleep: it sees the waiting page, and then the page itself. Needs root only since
//! Chromium's own sandbox is off then.

use std::fs;
use std::path::PathBuf;

use crate::repository::repo;
use crate::support::{Client, HookService, Place, Program, directory, until};

const BROWSER: &str = include_str!("chromium/browser.py");

/// A server of one page.
fn page(client: Client) {
    let mut asked = Vec::new();
    while let Ok(bytes @ [_, ..]) = client.some().as_deref() {
        asked.extend_from_slice(bytes);
        if asked.ends_with(b"\r\n\r\n") {
            asked.clear();
            let page = "<!doctype html><title>the page itself</title><p>hello";
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nCache-Control: no-store\r\n";
            client.send(format!(
                "{head}Content-Length: {}\r\n\r\n{page}",
                page.len()
            ));
        }
    }
}

/// Where the pictures of our own pages are kept: to be looked at.
fn pictures() -> PathBuf {
    let path = repo("target/tests/waiting-page");
    fs::create_dir_all(&path).expect("a directory of ours");
    path
}

/// Opens a site that sleeps, and goes to the page that wakeport shows; its service starts well when that has been seen.
fn opens(host: Option<&str>, mode: &str, shown: &str, takes_pictures: bool) {
    let (dir, front) = (directory(), Place::tcp());
    let go = dir.path().join("go");
    let fails = mode == "failing";
    let stage = HookService::direct(page, move |scene, call| {
        match call.event.as_str() {
            "start" if fails && !go.exists() => return 1,
            "start" => {
                until("it may start", || go.exists());
                scene.up();
            }
            "stop" => scene.down(),
            _ => (),
        }
        0
    });
    let run = stage.run().listen(&front).flag("--http");
    let _wakeport = run.option("--page-after", "0s").start();
    let address = front.tcp_address();
    let (ip, port) = (address.ip().to_string(), address.port());
    let url = format!("http://{}:{port}/films?x=y#part", host.unwrap_or(&ip));
    let rules = host.map_or(String::new(), |host| format!("MAP {host} {ip}"));
    let pictures = pictures().display().to_string();
    let mut command = vec!["/usr/bin/python3", "browser.py", &url, &rules, mode];
    if takes_pictures {
        command.push(&pictures);
    }
    let mut browser = Program::start(&command, &[("browser.py", BROWSER)]);
    browser.until(shown, |browser| browser.log().contains(shown).then_some(()));
    fs::write(dir.path().join("go"), "").expect("a file of ours");
    assert!(browser.output().ends_with("there\n"));
    assert!(fails || stage.count("start") == 1);
}

/// Over plain HTTP a browser does not say that it navigates.
const HOST: &str = "films.example.org";

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_browser_sees_that_a_service_starts_and_then_the_page_itself() {
    opens(Some(HOST), "with-scripts", "waiting\n", true);
    opens(None, "with-scripts", "waiting\n", false);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_browser_without_scripts_sees_the_same() {
    opens(None, "without-scripts", "waiting\n", false);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_browser_sees_that_a_start_has_failed_and_then_the_page_itself() {
    opens(Some(HOST), "failing", "failed\n", true);
}
