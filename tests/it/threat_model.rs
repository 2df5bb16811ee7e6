//! Malicious clients, services, hooks and records: what docs/internals/threat-model.md claims about each.

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;

use crate::repository::text;
use crate::support::{
    Client, HookService, Place, Run, Server, Wakeport, directory, runs, script, soon, throughout,
    until,
};

const WAKEPORT: &str = env!("CARGO_BIN_EXE_wakeport");

/// Text that controls a terminal, or forges a line.
const EVIL: &str = "\x1b[2J\x1b]0;owned\x07\r\n2026-01-01 00:00:00.000 ERROR forged\u{9b}31m\u{7f}";

/// How much more memory than at the beginning may be in use, in KiB, whatever happens.
const BOUND: u64 = 48 << 10;

/// Nothing but text, in lines.
fn is_clean(text: &str) {
    let bad = text
        .chars()
        .find(|&c| c.is_control() && c != '\n' && c != '\t');
    assert_eq!(bad, None, "{text:?}");
}

/// The log is text, and every line of it is one of ours.
fn log_is_clean(wakeport: &Wakeport) {
    let log = wakeport.log();
    is_clean(&log);
    // The last one may be on its way.
    let lines = log.rsplit_once('\n').unwrap_or_default().0;
    for line in lines.lines() {
        let level = line.split_whitespace().nth(2).unwrap_or_default();
        let ours = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level);
        assert!(ours && !line.starts_with("2026-01-01"), "{line:?}");
    }
}

// -- clients

#[test]
fn a_flood_of_reset_connections_leaks_nothing() {
    let (front, target) = (Place::tcp(), Place::tcp());
    let _server = Server::echo(&target);
    let wakeport = Run::new().to(&target).listen(&front).start();
    front.connect().echoes("warm");
    let memory = wakeport.memory();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for round in 0..500 {
                    let client = front.connect();
                    if round % 2 == 0 {
                        let _ = client.try_send("never to be answered");
                    }
                    client.reset();
                }
            });
        }
    });
    until("all of them are gone", || wakeport.connections().is_empty());
    let more = wakeport.memory().saturating_sub(memory);
    assert!(more < BOUND, "{more} KiB more");
    front.connect().echoes("hello");
    log_is_clean(&wakeport);
}

#[test]
fn clients_of_a_service_that_never_starts_cost_bounded_memory_and_leak_nothing() {
    let (front, dir) = (Place::tcp(), directory());
    let hook = script(&dir.path().join("hook"), "#!/bin/sh\nexec sleep 3600\n");
    let wakeport = Run::new()
        .to(Place::tcp())
        .listen(&front)
        .option("--start-hook", hook)
        .option("--start-timeout", "infinity")
        .option("--max-waiting", "50")
        .start();
    let memory = wakeport.memory();
    let clients: Vec<_> = (0..300)
        .map(|_| {
            let client = front.connect();
            let _ = client.try_send(vec![b'x'; 65_536]);
            client
        })
        .collect();
    wakeport.is("waking");
    until("fifty of them wait", || {
        wakeport.status().contains("50 clients waiting")
    });
    // The others, and all that they have sent, are in the kernel.
    assert!(wakeport.connections().len() <= 50);
    let more = wakeport.memory().saturating_sub(memory);
    assert!(more < BOUND, "{more} KiB more");
    clients.into_iter().for_each(Client::reset);
    until("all of them are gone", || wakeport.connections().is_empty());
}

#[test]
fn huge_or_endless_headers_cost_bounded_memory_and_delay_no_client() {
    let (front, stage) = (Place::tcp(), HookService::new());
    let run = stage.run().listen(&front).flag("--accept-proxy");
    let wakeport = run.option("--log-level", "trace").start();
    let memory = wakeport.memory();
    let drips: Vec<_> = (0..300)
        .map(|_| {
            let client = front.connect();
            client.send("PROXY TCP4 ");
            client
        })
        .collect();
    // As long as one can say, and all of it.
    let huge = [
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".as_slice(),
        &[b'A'; 65_535],
    ]
    .concat();
    let many: Vec<_> = (0..100)
        .map(|_| {
            let client = front.connect();
            let _ = client.try_send(&huge);
            client
        })
        .collect();
    let client = front.connect();
    client.send("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
    client.echoes("hello");
    let more = wakeport.memory().saturating_sub(memory);
    assert!(more < BOUND, "{more} KiB more");
    for client in many {
        client.is_reset();
    }
    for client in drips {
        client.is_reset();
    }
    client.echoes("still here");
    log_is_clean(&wakeport);
}

#[test]
fn no_byte_of_a_client_reaches_the_log_or_a_hook() {
    let (dir, front) = (directory(), Place::tcp());
    let told = dir.path().join("told");
    let hook = script(
        &dir.path().join("hook"),
        &format!("#!/bin/sh\nenv >{0}\nexit 1\n", told.display()),
    );
    let wakeport = Run::new()
        .to(Place::tcp())
        .listen(&front)
        .option("--start-hook", hook)
        .option("--log-level", "trace")
        .flag("--accept-proxy")
        .start();
    for header in [
        format!("PROXY TCP4 1.2.3.4{EVIL} 5.6.7.8 1 2\r\n"),
        format!(
            "PROXY TCP4 $(touch${{IFS}}{0}) 5.6.7.8 1 2\r\n",
            told.display()
        ),
        "PROXY TCP6 fe80::1%eth0\x1b[31m ::1 1 2\r\n".into(),
        format!("PROXY {EVIL}\r\n"),
        format!("{EVIL}\r\n\r\n"),
    ] {
        let client = front.connect();
        client.send(&header);
        client.is_reset();
    }
    assert!(
        !told.exists(),
        "a hook was run for a client without a good header"
    );
    // What means nothing is not passed on either.
    let client = front.connect();
    client.send(format!("PROXY UNKNOWN {}\r\n{EVIL}", "$(id)\x1b[31m"));
    client.is_reset();
    let told = fs::read_to_string(told).expect("the hook was run");
    is_clean(&told);
    assert!(
        !told.contains("$(id)") && !told.contains("forged"),
        "{told}"
    );
    let client = told
        .lines()
        .find_map(|line| line.strip_prefix("WAKEPORT_CLIENT="));
    let client = client.and_then(|client| client.parse::<SocketAddr>().ok());
    assert!(
        client.is_some_and(|client| client.ip().is_loopback()),
        "{told}"
    );
    wakeport.logs("cannot start");
    log_is_clean(&wakeport);
}

// -- services

/// What a service does with a connection.
type Behaviour = Box<dyn Fn(Client) + Send + Sync>;

/// Sends `text` again and again on each connection, until it is closed.
fn endlessly(start: &str, text: &str) -> impl Fn(Client) + Send + Sync + 'static {
    let (start, text) = (start.to_owned(), text.repeat(1000));
    move |client| {
        let _ = client.try_send(&start);
        while client.try_send(&text).is_ok() {}
    }
}

#[test]
fn a_service_with_an_endless_or_invalid_answer_is_not_ready_and_costs_bounded_memory() {
    let silent = |client: Client| drop(client.rest());
    let behaviours: Vec<(&str, Behaviour)> = vec![
        (
            "http",
            Box::new(endlessly("HTTP/1.1 200 OK\r\n", "X-A: b\r\n")),
        ),
        ("http", Box::new(endlessly("HTTP/1.1 200 ", EVIL))),
        (
            "http",
            Box::new(endlessly("", "HTTP/1.1 100 Continue\r\n\r\n")),
        ),
        ("http", Box::new(endlessly("", EVIL))),
        ("http", Box::new(silent)),
        ("http", Box::new(drop)),
        ("http", Box::new(Client::reset)),
        ("banner", Box::new(silent)),
        ("banner", Box::new(drop)),
        ("banner", Box::new(Client::reset)),
    ];
    thread::scope(|scope| {
        for (kind, behaviour) in behaviours {
            scope.spawn(move || {
                let (front, target) = (Place::tcp(), Place::tcp());
                let server = Server::at(&target, behaviour);
                let ready = if kind == "http" { "http:///" } else { kind };
                let wakeport = Run::new()
                    .to(&target)
                    .listen(&front)
                    .option("--ready", ready)
                    .option("--start-timeout", "5s")
                    .option("--log-level", "trace")
                    .start();
                let memory = wakeport.memory();
                front.connect().is_reset();
                let more = wakeport.memory().saturating_sub(memory);
                assert!(more < BOUND, "{more} KiB more");
                assert!(server.connections() > 0);
                log_is_clean(&wakeport);
            });
        }
    });
}

#[test]
fn a_service_that_sends_unasked_fills_no_memory() {
    for ready in ["connect", "banner"] {
        let (front, target) = (Place::tcp(), Place::tcp());
        let _server = Server::at(&target, endlessly("", EVIL));
        let run = Run::new().to(&target).listen(&front);
        let wakeport = run.option("--ready", ready).start();
        let memory = wakeport.memory();
        let readers: Vec<_> = (0..50).map(|_| front.connect()).collect();
        for reader in &readers {
            assert_eq!(reader.take(4), &EVIL.as_bytes()[..4]);
        }
        let more = wakeport.memory().saturating_sub(memory);
        assert!(more < BOUND, "{more} KiB more");
        log_is_clean(&wakeport);
    }
}

// -- hooks

#[test]
fn a_hook_with_endless_output_fills_no_memory_and_delays_no_client() {
    let prints = [
        "exec yes",
        "exec tr '\\0' x </dev/zero",
        "exec cat /dev/urandom",
        "exec cat /dev/zero",
    ];
    thread::scope(|scope| {
        for print in prints {
            scope.spawn(move || prints_without_end(print));
        }
    });
}

fn prints_without_end(print: &str) {
    let (dir, front, metrics) = (directory(), Place::tcp(), Place::tcp());
    let hook = script(&dir.path().join("hook"), &format!("#!/bin/sh\n{print}\n"));
    // The log is not read either.
    let wakeport = Run::new()
        .to(Place::tcp())
        .listen(&front)
        .option("--start-hook", hook)
        .option("--start-timeout", "infinity")
        .option("--metrics", &metrics)
        .unread()
        .start();
    let memory = wakeport.memory();
    let client = front.connect();
    wakeport.is("waking");
    throughout(Duration::from_secs(1), "it answers and stays small", || {
        let page = get(&metrics, "/metrics");
        page.contains("state=\"waking\"} 1") && wakeport.memory() < memory + BOUND
    });
    assert!(client.is_silent());
}

#[test]
fn a_hook_that_closes_its_outputs_is_waited_for() {
    let (dir, front) = (directory(), Place::tcp());
    let go = dir.path().join("go");
    let hook = script(
        &dir.path().join("hook"),
        &format!(
            "#!/bin/sh\nexec >&- 2>&-\nuntil test -e {}; do sleep 0.05; done\nexit 3\n",
            go.display()
        ),
    );
    let wakeport = Run::new()
        .to(Place::tcp())
        .listen(&front)
        .option("--start-hook", hook)
        .start();
    let client = front.connect();
    wakeport.is("waking");
    let cpu = wakeport.cpu();
    throughout(Duration::from_millis(500), "the client waits", || {
        client.is_silent()
    });
    assert!(
        wakeport.cpu() - cpu < Duration::from_millis(300),
        "it waits idly"
    );
    fs::write(go, "").expect("a file of ours");
    client.is_reset();
    wakeport.logs("exit status: 3");
}

#[test]
fn what_a_hook_leaves_behind_delays_no_client() {
    let (dir, front) = (directory(), Place::tcp());
    let note = dir.path().join("pid");
    // It leaves the process group as daemons do, deaf to SIGTERM, with our pipe as its output.
    let hook = script(
        &dir.path().join("hook"),
        &format!(
            "#!/bin/sh\nsetsid sh -c 'trap \"\" TERM; echo $$ >{0}.new; mv {0}.new {0}; exec sleep 60' &\nuntil test -e {0}; do sleep 0.01; done\nexit 1\n",
            note.display()
        ),
    );
    let mut wakeport = Run::new()
        .to(Place::tcp())
        .listen(&front)
        .option("--start-hook", hook)
        .start();
    front.connect().is_reset();
    let daemon: u32 = fs::read_to_string(&note)
        .expect("a file")
        .trim()
        .parse()
        .expect("a number");
    assert!(
        runs(daemon),
        "out of our reach; under systemd it goes with the unit"
    );
    wakeport.signal(Signal::TERM);
    wakeport.ends();
    let pid = rustix::process::Pid::from_raw(daemon.cast_signed()).expect("a process ID");
    let _ = rustix::process::kill_process(pid, Signal::KILL);
}

/// As under systemd: descriptors inherited from the caller of the tests are closed.
const ONLY_FOUR: &str = r#"for fd in /proc/$$/fd/*; do n=${fd##*/}; [ "$n" -le 3 ] || eval "exec $n>&-"; done; exec "$@""#;

#[test]
fn a_hook_has_three_descriptors_and_none_of_wakeport() {
    let front = Place::tcp();
    let listener = front.listen();
    let (client, _other) = (front.connect(), front.connect());
    let wakeport = Run::new()
        .to(Place::tcp())
        .inherit("web", &listener)
        .option("--start-hook", "/bin/ls /proc/self/fd /not/there")
        .under(&["bash", "-c", ONLY_FOUR, "bash"])
        .start();
    client.is_reset();
    wakeport.logs("cannot start");
    let log = wakeport.log();
    let files: Vec<_> = log
        .lines()
        .filter_map(|line| line.split_once("start hook: "))
        .map(|(_, file)| file)
        .filter(|file| file.bytes().all(|byte| byte.is_ascii_digit()))
        .collect();
    // The fourth one is the directory that `ls` looks into.
    assert_eq!(files, ["0", "1", "2", "3"], "{log}");
}

// -- records

/// A directory with hostile files.
fn trapped(dir: &Path) {
    let records = dir.join("instances");
    fs::create_dir_all(&records).expect("a directory of ours");
    let at = |name: &str| records.join(format!("{name}.json"));
    mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a fifo");
    symlink("/dev/zero", at("zero")).expect("a link");
    symlink("/etc/shadow", at("shadow")).expect("a link");
    symlink(at("loop"), at("loop")).expect("a link");
    fs::create_dir(at("directory")).expect("a directory");
    fs::write(at("deep"), "[".repeat(900_000)).expect("a file");
    fs::write(at("locked"), "{}").expect("a file");
    fs::set_permissions(at("locked"), Permissions::from_mode(0o000)).expect("a file of ours");
    let vast = fs::File::create(at("vast")).expect("a file");
    vast.set_len(1 << 40).expect("a file without content");
    let evil = serde_json::json!({
        "version": 1, "name": EVIL, "unit": EVIL, "service": EVIL, "units": [EVIL], "state": "failed",
        "process": {"pid": std::process::id(), "started_ticks": 1},
        "last_failure": {"kind": "start", "at": "2026-01-01T00:00:00Z", "why": EVIL},
        "seconds": {"awake": 1e308},
    });
    fs::write(at("evil"), evil.to_string()).expect("a file");
    fs::write(at("evil\x1b[31m\nname"), evil.to_string()).expect("a file");
    let state = serde_json::json!({"version": 1, "state": EVIL});
    fs::write(at("state"), state.to_string()).expect("a file");
}

/// `wakeport WORDS` with the memory of a small machine.
fn confined(words: &[&str], dir: &Path) -> Command {
    let mut command = Command::new("prlimit");
    command
        .args(["--as=400000000", WAKEPORT])
        .args(words)
        .arg("--state-dir")
        .arg(dir)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null());
    command
}

/// Runs it to its end, which has to come.
fn ends(command: &mut Command) -> Output {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("util-linux");
    let mut out = child.stdout.take().expect("a pipe");
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        out.read_to_end(&mut bytes).map(|_| bytes)
    });
    let status = soon("it ends", || child.try_wait().expect("it is ours"));
    let mut stderr = Vec::new();
    let _ = child
        .stderr
        .take()
        .expect("a pipe")
        .read_to_end(&mut stderr);
    Output {
        status,
        stdout: reader.join().expect("a thread of ours").expect("a pipe"),
        stderr,
    }
}

#[test]
fn with_invalid_files_among_the_records_status_shows_the_rest_and_no_control_characters() {
    let dir = directory();
    trapped(dir.path());
    for words in [
        &["status"][..],
        &["status", "evil"],
        &["status", "no\x1bsuch"],
    ] {
        let output = ends(&mut confined(words, dir.path()));
        is_clean(&text(&output));
        let shown = String::from_utf8_lossy(&output.stdout);
        for line in shown.lines() {
            assert!(!line.starts_with("2026-01-01"), "a forged line: {line:?}");
        }
        if words == ["status"] {
            assert!(output.status.success(), "{}", text(&output));
            assert!(
                shown.lines().any(|line| line.starts_with("evil ")),
                "{shown}"
            );
            for name in [
                "fifo",
                "zero",
                "shadow",
                "loop",
                "directory",
                "deep",
                "vast",
                "state",
            ] {
                assert!(shown.contains(&format!("{name}.json")), "{name}: {shown}");
            }
            assert!(!shown.contains("root:"), "{shown}");
        }
    }
}

#[test]
fn with_invalid_files_among_the_records_the_metrics_have_the_rest() {
    let (dir, place) = (directory(), Place::tcp());
    trapped(dir.path());
    let listen = format!("--listen={place}");
    let mut child = confined(&["exporter", &listen], dir.path())
        .stderr(Stdio::null())
        .spawn()
        .expect("util-linux");
    for _ in 0..3 {
        let answer = get(&place, "/metrics");
        let (_, page) = answer.split_once("\r\n\r\n").expect("a head and a page");
        is_clean(page);
        assert!(page.contains("{name=\"evil\""), "{page}");
        let unreadable = page
            .lines()
            .find(|line| line.starts_with("wakeport_unreadable_records "));
        let unreadable = unreadable
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|n| n.parse::<u32>().ok());
        assert!(unreadable.is_some_and(|count| count >= 8), "{page}");
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn a_record_replaces_whatever_file_is_at_its_path_and_touches_no_other() {
    let precious = directory();
    let precious = precious.path().join("precious");
    for trap in ["fifo", "symlink", "hard link", "file"] {
        let (dir, front, target) = (directory(), Place::tcp(), Place::tcp());
        let _server = Server::echo(&target);
        let records = dir.path().join("instances");
        fs::create_dir(&records).expect("a directory of ours");
        fs::write(&precious, "precious").expect("a file");
        let draft = records.join(".app.json.new");
        let set = match trap {
            "fifo" => mknodat(CWD, &draft, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                .map_err(io::Error::from),
            "symlink" => symlink(&precious, &draft),
            "hard link" => fs::hard_link(&precious, &draft),
            _ => fs::write(&draft, "left by a crash"),
        };
        set.expect("a trap");
        let mut wakeport = Run::new()
            .to(&target)
            .listen(&front)
            .option("--name", "app")
            .option("--state-dir", dir.path().display())
            .start();
        front.connect().echoes("hello");
        until(trap, || {
            fs::read_to_string(records.join("app.json"))
                .is_ok_and(|text| text.contains("\"served\": 1"))
        });
        assert_eq!(
            fs::read_to_string(&precious).expect("a file"),
            "precious",
            "{trap}"
        );
        wakeport.signal(Signal::TERM);
        wakeport.ends();
    }
}

#[test]
fn a_forged_record_forges_no_line_in_the_log() {
    let (dir, front) = (directory(), Place::tcp());
    trapped(dir.path());
    for name in ["state", "fifo", "directory", "zero", "vast", "evil"] {
        let wakeport = Run::new()
            .to(Place::tcp())
            .listen(&front)
            .option("--name", name)
            .option("--state-dir", dir.path().display())
            .start();
        wakeport.is("asleep");
        log_is_clean(&wakeport);
        for said in wakeport.said() {
            is_clean(&said);
        }
    }
}

// -- the metrics

fn get(place: &Place, path: &str) -> String {
    let mut stream = soon("a connection", || {
        TcpStream::connect(place.tcp_address()).ok()
    });
    let request = format!("GET {path} HTTP/1.1\r\nHost: wakeport\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a peer");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn slow_requests_for_metrics_delay_others_for_a_bounded_time() {
    let (front, target, metrics) = (Place::tcp(), Place::tcp(), Place::tcp());
    let _server = Server::echo(&target);
    let run = Run::new().to(&target).listen(&front);
    let wakeport = run.option("--metrics", &metrics).start();
    let memory = wakeport.memory();
    let slow: Vec<_> = (0..40)
        .map(|number| {
            let client = metrics.connect();
            let _ = client.try_send("GET /metrics HTTP/1.1\r\nHost: ");
            if number % 2 == 0 {
                let _ = client.try_send("x\r\n\r\n");
            }
            client
        })
        .collect();
    // Clients are not affected.
    front.connect().echoes("hello");
    assert!(get(&metrics, "/metrics").contains(" 200 OK"));
    let more = wakeport.memory().saturating_sub(memory);
    assert!(more < BOUND, "{more} KiB more");
    drop(slow);
}

// -- init

#[test]
fn no_name_and_no_address_breaks_out_of_what_init_writes() {
    for typed in [
        &["a\"; x(\"", "--listen=8080"][..],
        &["a\n[Service]", "--listen=8080"],
        &["a'b", "--listen=8080"],
        &["a*/b", "--listen=8080"],
        &["../../a", "--listen=8080"],
        &["ä", "--listen=8080"],
        &["a", "--unit=b\",\"c", "--listen=8080"],
        &["a", "--listen=/run/a\nService=evil.service"],
        &["a", "--listen=@a\nService=evil.service"],
        &["a", "--listen=x\nService=evil=8080"],
        &["a", "--listen=8080", "--name=x\nUser=root"],
    ] {
        let output = Command::new(WAKEPORT)
            .arg("init")
            .args(typed)
            .arg("--to=127.0.0.1:18080")
            .env_clear()
            .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
            .output()
            .expect("the binary");
        assert_eq!(
            output.status.code(),
            Some(64),
            "{typed:?}: {}",
            text(&output)
        );
        assert!(output.stdout.is_empty(), "{typed:?}: {}", text(&output));
    }
}

#[test]
fn the_name_of_a_program_on_the_port_cannot_control_the_terminal() {
    let place = Place::tcp();
    let program = "import socket, sys\nopen('/proc/self/comm', 'w').write('\\x1b[31mevil\\n\\x07')\n\
         s = socket.socket()\ns.setsockopt(1, 2, 1)\ns.bind(('%s', %s))\ns.listen()\nprint(flush=True)\nsys.stdin.read()";
    let address = place.tcp_address();
    let program = program
        .replacen("%s", &address.ip().to_string(), 1)
        .replacen("%s", &address.port().to_string(), 1);
    let mut holder = Command::new("python3")
        .args(["-c", &program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut ready = [0];
    holder
        .stdout
        .as_mut()
        .expect("a pipe")
        .read_exact(&mut ready)
        .expect("it listens");
    let output = Command::new(WAKEPORT)
        .args([
            "init",
            "app",
            "--to=127.0.0.1:1",
            &format!("--listen={place}"),
        ])
        .env_clear()
        .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
        .output()
        .expect("the binary");
    drop(holder.stdin.take());
    let _ = holder.wait();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("is in use by"), "{said}");
    is_clean(&said);
    assert!(
        said.lines()
            .any(|line| line.contains("is in use by") && line.contains("evil")),
        "{said}"
    );
}

#[test]
fn init_follows_no_link_when_it_writes() {
    let dir = directory();
    let precious = dir.path().join("precious");
    fs::write(&precious, "precious").expect("a file");
    let units = dir.path().join(".config/systemd/user");
    for folder in ["wakeport@app.socket.d", "wakeport@app.service.d"] {
        fs::create_dir_all(units.join(folder)).expect("a directory of ours");
        symlink(&precious, units.join(folder).join("10-init.conf")).expect("a link");
    }
    let output = Command::new(WAKEPORT)
        .args([
            "init",
            "app",
            "--user",
            "--write",
            "--force",
            "--to=127.0.0.1:1",
            "--listen=8080",
        ])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", dir.path())
        .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent")
        .output()
        .expect("the binary");
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(fs::read_to_string(&precious).expect("a file"), "precious");
    let written = units.join("wakeport@app.socket.d/10-init.conf");
    assert!(fs::symlink_metadata(written).expect("a file").is_file());
}
