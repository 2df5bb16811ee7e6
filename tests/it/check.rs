//! What `wakeport check` finds in a command line, on a machine without systemd.

use std::process::Command;

use crate::repository::text;
use crate::support::{Place, directory, script};

/// Its output and exit code.
fn check(words: &[&str], variables: &[(&str, &str)]) -> (String, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wakeport"));
    command.arg("check").args(words).env_clear();
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    for bus in ["DBUS_SYSTEM_BUS_ADDRESS", "DBUS_SESSION_BUS_ADDRESS"] {
        command.env(bus, "unix:path=/nonexistent");
    }
    let output = command
        .envs(variables.iter().copied())
        .output()
        .expect("the binary");
    (text(&output), output.status.code().expect("it ends"))
}

/// Reports nothing.
#[track_caller]
fn good(words: &[&str], variables: &[(&str, &str)]) {
    assert_eq!(check(words, variables), ("ok\n".into(), 0));
}

/// Reports one finding that contains these words.
#[track_caller]
fn finds(words: &[&str], code: i32, part: &str) {
    let (said, ended) = check(words, &[]);
    assert_eq!(
        (said.lines().count(), ended),
        (1, code),
        "{words:?}: {said}"
    );
    assert!(said.contains(part), "{words:?}: no `{part}` in {said}");
}

#[test]
fn a_command_line_that_works_is_ok() {
    let (front, dir) = (Place::tcp().to_string(), directory());
    let hook = script(
        &dir.path().join("hook"),
        "#!/bin/sh\ntouch \"${0%/*}/ran\"\n",
    );
    let words = [
        "--listen",
        &front,
        "--to",
        "127.0.0.1:9",
        "--start-hook",
        &hook,
    ];
    good(&words, &[]);
    good(
        &[],
        &[
            ("WAKEPORT_LISTEN", &front),
            ("WAKEPORT_TO", "localhost:9"),
            ("WAKEPORT_UNIT", ""),
        ],
    );
    assert!(!dir.path().join("ran").exists());
}

#[test]
fn a_command_line_that_cannot_work_is_an_error() {
    let (front, dir) = (Place::tcp().to_string(), directory());
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "#!/bin/sh\n").expect("a file of ours");
    let plain = plain.display().to_string();
    let taken = Place::tcp();
    let _listener = taken.listen();
    let taken = taken.to_string();
    let served = ["--listen", front.as_str(), "--to", "127.0.0.1:9"];
    let with = |more: &[&'static str]| [&served, more].concat();
    finds(
        &["--listen", &front, "--to", &front],
        1,
        "is our own listener `listen`",
    );
    finds(
        &["--listen", &taken, "--to", "127.0.0.1:9"],
        1,
        "is in use by ",
    );
    finds(
        &["--listen", &front, "--to", "nosuch.invalid:9"],
        1,
        "`nosuch.invalid:9` cannot be resolved",
    );
    finds(
        &["--listen", "/run/x.sock", "--to", "127.0.0.1"],
        1,
        "target `127.0.0.1` needs a port",
    );
    finds(
        &[
            "--listen",
            &format!("a={front}"),
            "--to",
            "b=127.0.0.1:9",
            "--to",
            "a=127.0.0.1:9",
        ],
        0,
        "warning: no listener is called `b`",
    );
    let (said, code) = check(&["--to", "127.0.0.1:9"], &[]);
    assert!(
        code == 0 && said.contains("note: no `--listen` was given"),
        "{said}"
    );
    finds(
        &with(&["--exec", "nosuchprogram --now"]),
        1,
        "the child process `nosuchprogram` cannot be run",
    );
    finds(
        &[
            "--listen",
            &front,
            "--to",
            "127.0.0.1:9",
            "--ready-hook",
            &plain,
        ],
        1,
        "the ready hook ",
    );
    finds(
        &with(&["--busy-hook", "nosuchprogram"]),
        1,
        "the busy hook `nosuchprogram` cannot be run",
    );
    finds(
        &with(&["--max-connections", "100000000"]),
        0,
        "warning: `--max-connections 100000000` needs more open files",
    );
    finds(&with(&["--unit", "x"]), 1, "error: cannot reach systemd (");
}

#[test]
fn invalid_input_gets_one_line() {
    for (words, part) in [
        (&["x", "--to", "127.0.0.1:9"][..], "give either UNIT"),
        (&["--listen", "1"], "`--to` is missing"),
        (&["--to", "1"], "127.0.0.1:1"),
        (&["a/b"], "`/` cannot be part of a unit's name"),
        (&["--to", "127.0.0.1:9", "--cooldown", "soon"], "soon"),
    ] {
        finds(words, 64, part);
    }
    // Without a service manager there is nothing to check of an instance.
    finds(&["x"], 1, "error: cannot reach systemd (");
}

#[test]
fn a_file_is_verified_without_starting_anything() {
    let dir = directory();
    let file = dir.path().join("web.toml");
    let path = file.display().to_string();
    let (films, docs) = (Place::tcp().to_string(), Place::tcp().to_string());
    let hook = script(
        &dir.path().join("hook"),
        "#!/bin/sh\ntouch \"${0%/*}/ran\"\n",
    );
    let write = |docs: &str| {
        let text = format!(
            "[service.films]\nlistener = \"films\"\nto = \"127.0.0.1:9\"\nexec = \"sleep 1\"\n\
             [service.docs]\nlistener = \"docs\"\nstart-hook = \"{hook}\"\n{docs}\n"
        );
        std::fs::write(&file, text).expect("a file of ours");
    };
    let (films, docs) = (format!("films={films}"), format!("docs={docs}"));
    let all = ["--config", &path, "--listen", &films, "--listen", &docs];
    let expect = |words: &[&str], code: i32, part: &str| {
        let (said, ended) = check(words, &[]);
        assert!(said.contains(part), "{words:?}: no `{part}` in {said}");
        assert_eq!(ended, code, "{words:?}: {said}");
    };
    write("to = \"127.0.0.1:8\"");
    expect(&all, 0, "ok: web\n");
    expect(
        &all[..4],
        1,
        "error: web: service `docs` has the listener `docs`, and no socket is called so",
    );
    // Without sockets it is the file alone.
    expect(&[&path], 0, "ok: web\n");
    expect(&[&path], 0, "note: web: no `--listen` was given");
    let (said, code) = check(&[], &[("WAKEPORT_CONFIG", &path)]);
    assert!(said.contains("ok: web\n") && code == 0, "{said}");

    write("to = \"nosuch.invalid:9\"");
    expect(
        &all,
        1,
        "error: web/docs: target `nosuch.invalid:9` cannot be resolved",
    );
    write(&format!("to = \"{}\"", docs.replace("docs=", "")));
    expect(&all, 1, "is our own listener `docs`");
    write("to = \"127.0.0.1:9\"");
    expect(
        &all,
        0,
        "warning: web/films: target `127.0.0.1:9` is that of the service `docs` as well",
    );
    write("to = \"127.0.0.1:8\"\nready-hook = \"nosuchprogram\"");
    expect(
        &all,
        1,
        "error: web/docs: the ready hook `nosuchprogram` cannot be run",
    );
    for (docs, part) in [
        ("", ":5:"),
        ("to = \"127.0.0.1:8\"\nlistener = \"films\"", ":9:1"),
        ("to = \"127.0.0.1:8\"\nfoo = 1", "unknown key `foo`"),
    ] {
        write(docs);
        let (said, code) = check(&[&path], &[]);
        let one = said.lines().count() == 1;
        assert!(
            one && code == 78 && said.contains(&path) && said.contains(part),
            "{said}"
        );
    }
    expect(&["/no/such.toml"], 78, "cannot read `/no/such.toml`");
    assert!(!dir.path().join("ran").exists());
}

#[test]
fn what_is_wrong_with_requests_is_found() {
    let front = Place::tcp().to_string();
    let port = front.rsplit_once(':').expect("a port").1;
    let open = format!("0.0.0.0:{port}");
    let dir = directory();
    let page = dir.path().join("page.html");
    let shown = page.display().to_string();
    let at = |listen: &str, more: &[&str]| {
        let words = ["--listen", listen, "--to", "127.0.0.1:9", "--http"];
        let words = words.iter().chain(more);
        words.map(|word| (*word).to_owned()).collect::<Vec<_>>()
    };
    let finds = |words: &[String], code: i32, part: &str| {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        finds(&words, code, part);
    };
    finds(
        &at(&front, &["--quiet", "/*"]),
        0,
        "warning: no request can wake it: `--quiet`, `--wake-only` and `--path` leave none",
    );
    finds(
        &at(&front, &["--wake-only", "/app/x", "--quiet", "/app*"]),
        0,
        "warning: no request can wake it",
    );
    finds(
        &at(&open, &["--trust", "any"]),
        0,
        "warning: `--trust` has every address, and other machines can connect to 0.0.0.0:",
    );
    finds(
        &at(&front, &["--trust", "192.0.2.7"]),
        0,
        "warning: only this machine can connect to 127.",
    );
    for (listen, more) in [
        (&open, &["--trust", "192.0.2.7"][..]),
        (&front, &["--trust", "any"]),
        (&front, &["--trust", "192.0.2.7", "--accept-proxy"]),
        (&front, &["--wake-only", "/app*", "--quiet", "/app/x"]),
    ] {
        let words = at(listen, more);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        good(&words, &[]);
    }
    let words = at(&front, &["--send-proxy", "v2"]);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let (said, code) = check(&words, &[]);
    assert!(
        code == 0
            && said.starts_with("note: `--send-proxy` is about one connection")
            && said.ends_with("\nok\n"),
        "{said}"
    );

    let with_page = ["--page", shown.as_str()];
    finds(
        &at(&front, &with_page),
        64,
        "cannot read the waiting page `",
    );
    std::fs::write(&page, "x".repeat(65_537)).expect("a file of ours");
    finds(&at(&front, &with_page), 64, "is longer than 64 KiB");
    std::fs::write(&page, "{{name}} {{nme}} {{").expect("a file of ours");
    finds(
        &at(&front, &with_page),
        0,
        "page.html` has `{{nme}}`, which is shown as it is; there are `{{name}}`, `{{state}}`",
    );
    // Without HTTP they would do nothing.
    for words in [
        ["--path", "/app"],
        ["--quiet", "/healthz"],
        ["--wake-only", "/app*"],
        ["--page", &shown],
    ] {
        let part = format!("`{}` is about requests; add `--host` or `--http`", words[0]);
        let served = ["--listen", front.as_str(), "--to", "127.0.0.1:9"];
        self::finds(&[&served[..], &words].concat(), 64, &part);
    }
}

#[test]
fn a_target_that_is_the_own_listener_is_found_however_it_is_written() {
    let front = Place::tcp().to_string();
    let port = front.rsplit_once(':').expect("a port").1;
    for (listen, target) in [
        ("127.0.0.1", "localhost"),
        ("127.0.0.1", "0.0.0.0"),
        ("127.0.0.1", "[::ffff:127.0.0.1]"),
        ("0.0.0.0", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("[::]", "127.0.0.2"),
        ("[::]", "[::]"),
        ("[::]", "[::1]"),
        ("[::1]", "localhost"),
        ("[::1]", "[::]"),
    ] {
        let (listen, target) = (format!("{listen}:{port}"), format!("{target}:{port}"));
        let words = ["--listen", &listen, "--to", &target, "--http"];
        finds(&words, 1, "is our own listener");
    }
}

#[test]
fn services_of_a_file_with_hosts_are_verified() {
    let dir = directory();
    let file = dir.path().join("web.toml");
    let path = file.display().to_string();
    let front = format!("web={}", Place::tcp());
    let words = ["--config", path.as_str(), "--listen", &front];
    let write = |text: &str| std::fs::write(&file, text).expect("a file of ours");
    let films =
        "[service.films]\nexec = \"sleep 1\"\nhost = \"films.example\"\nto = \"127.0.0.1:9\"\n";
    let docs = |more: &str| {
        write(&format!(
            "{films}[service.docs]\nexec = \"sleep 1\"\n{more}\n"
        ));
    };
    for (more, code, part) in [
        (
            "host = \"docs.example\"\nto = \"127.0.0.1:8\"",
            0,
            "ok: web\n",
        ),
        (
            "host = \"docs.example\"\nto = \"localhost:9\"",
            0,
            "warning: web/films: target `127.0.0.1:9` is that of the service `docs` as well",
        ),
        (
            "host = \"docs.example\"\nto = \"127.0.0.1:8\"\nwake-only = \"/a\"\nquiet = \"/a*\"",
            0,
            "warning: web/docs: no request can wake it: `quiet`, `wake-only` and `path`",
        ),
        (
            "host = \"FILMS.example\"\nto = \"127.0.0.1:8\"",
            78,
            "the host `films.example` with the path `/` is that of service",
        ),
        (
            "listener = \"db\"\nquiet = \"/a\"\nto = \"127.0.0.1:8\"",
            78,
            ":8:1: service `docs`: `quiet` is about requests; add `host` or `http`",
        ),
    ] {
        docs(more);
        let (said, ended) = check(&words, &[]);
        assert!(said.contains(part), "no `{part}` in {said}");
        assert_eq!((said.lines().count(), ended), (1, code), "{said}");
    }
    // What is said for all services is no mistake for those without HTTP.
    write(&format!(
        "[defaults]\nquiet = \"/a\"\n{films}[service.db]\nexec = \"sleep 1\"\nlistener = \"db\"\nto = \"127.0.0.1:8\"\n"
    ));
    let (said, code) = check(&[&path], &[]);
    assert!(code == 0 && said.contains("ok: web"), "{said}");
}
