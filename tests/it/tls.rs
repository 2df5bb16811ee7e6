//! TLS that is passed through: the name in the ClientHello says which service is woken, and every byte reaches it as it
//! was sent.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{
    Call, Client, HookService, Place, Run, Scene, directory, in_tiny_segments, throughout,
};

/// Behind its count, of so many bytes.
fn vector(width: usize, bytes: &[u8]) -> Vec<u8> {
    let count = bytes.len().to_be_bytes();
    [&count[count.len() - width..], bytes].concat()
}

/// A ClientHello, without the headers of records, that names this host and has so many bytes more.
fn message(name: Option<&str>, padding: usize) -> Vec<u8> {
    let entry = |name: &str| [&[0], &vector(2, name.as_bytes())[..]].concat();
    let name = name.map(|name| [&[0, 0], &vector(2, &vector(2, &entry(name)))[..]].concat());
    let padding = [&[0, 21], &vector(2, &vec![0; padding])[..]].concat();
    let extensions = [name.unwrap_or_default(), padding].concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &vector(2, &[0x13, 1]),
        &[1, 0],
        &vector(2, &extensions),
    ]
    .concat();
    [&[1], &vector(3, &body)[..]].concat()
}

/// In records of so many bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[22, 3, 1], &vector(2, part)[..]].concat();
    message.chunks(size).flat_map(record).collect()
}

pub(crate) fn hello(name: &str) -> Vec<u8> {
    records(&message(Some(name), 0), 1 << 14)
}

/// The alert that ends a connection.
fn alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

const UNRECOGNIZED_NAME: u8 = 112;

impl Client {
    /// Every byte comes back.
    fn is_relayed(&self, bytes: &[u8]) {
        assert!(self.take(bytes.len()) == bytes, "other bytes");
    }

    fn is_told(&self, description: u8) {
        assert_eq!(self.all(), alert(description));
    }
}

fn pass(stage: &HookService, place: &Place) -> Run {
    stage.run().listen(place).option("--tls", "pass")
}

/// A service that answers the first bytes of a connection with its name, and keeps it open.
fn named(name: &'static str) -> HookService {
    let serve = move |client: Client| {
        if client.some().is_ok_and(|bytes| !bytes.is_empty()) {
            client.send(name);
            let _ = client.rest();
        }
    };
    HookService::direct(serve, |scene: &Scene, call: &Call| {
        match call.event.as_str() {
            "start" => scene.up(),
            "stop" => scene.down(),
            _ => (),
        }
        0
    })
}

/// A service of a file that the hooks of `stage` start and stop.
fn table(name: &str, stage: &HookService, more: &str) -> String {
    format!(
        "[service.{name}]\nto = '{}'\nstart-hook = '{hook}'\nstop-hook = '{hook}'\n{more}\n",
        stage.scene().place,
        hook = stage.hook()
    )
}

fn reaches(place: &Place, name: &str, service: &str) -> Client {
    let client = place.connect();
    client.send(hello(name));
    assert_eq!(
        String::from_utf8_lossy(&client.take(service.len())),
        service
    );
    client
}

// -- with real programs

fn program(dir: &TempDir, words: &str) -> Output {
    let mut words = words.split(' ');
    let mut command = Command::new(words.next().expect("a program"));
    let output = command.args(words).current_dir(dir).stdin(Stdio::null());
    output.output().expect("tests/run installs it")
}

/// An HTTPS server for `name`, with a certificate of its own in NAME.crt: the rest of its table in a file.
fn https(dir: &TempDir, name: &str, place: &Place) -> String {
    let made = program(
        dir,
        &format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name} \
             -addext subjectAltName=DNS:{name} -keyout {name}.key -out {name}.crt"
        ),
    );
    assert!(made.status.success(), "{made:?}");
    let base = dir.path().join(name);
    format!(
        "host = '{name}'\nto = '{place}'\nexec = 'openssl s_server -quiet -www -accept {place} -cert {base}.crt -key {base}.key'\n",
        base = base.display()
    )
}

#[test]
fn two_https_servers_share_a_port_and_each_is_woken_by_its_name() {
    let (dir, front) = (directory(), Place::tcp());
    let (docs, films) = (Place::tcp(), Place::tcp());
    let tables = [
        "[service.docs]\n".to_owned(),
        https(&dir, "docs.example.org", &docs),
        "[service.films]\n".to_owned(),
        https(&dir, "films.example.org", &films),
    ];
    let path = dir.path().join("https.toml");
    fs::write(&path, tables.concat()).expect("a file of ours");
    let run = Run::new().option("--config", path.display()).listen(&front);
    let _wakeport = run.option("--tls", "pass").start();
    let (ip, port) = (front.tcp_address().ip(), front.port());
    for (name, version) in [
        ("docs.example.org", "--tlsv1.3"),
        ("docs.example.org", "--tls-max 1.2"),
        ("films.example.org", "--tlsv1.3"),
    ] {
        // Only the right certificate will do.
        let page = program(
            &dir,
            &format!(
                "curl -sS --noproxy * --max-time 60 {version} --cacert {name}.crt --connect-to {name}:443:{ip}:{port} https://{name}/"
            ),
        );
        let text = String::from_utf8_lossy(&page.stdout);
        assert!(
            page.status.success() && text.contains("s_server"),
            "{page:?}"
        );
        assert!(docs.answers() && films.answers() == name.starts_with("films"));
    }
    for name in ["-servername other.example.org", "-noservername"] {
        for version in ["-tls1_3", "-tls1_2"] {
            let refused = program(
                &dir,
                &format!("openssl s_client -connect {front} {name} {version}"),
            );
            let said = String::from_utf8_lossy(&refused.stderr);
            assert!(said.contains("SSL alert number 112"), "{refused:?}");
        }
    }
    // An authority that checks a certificate asks the service itself.
    let asked = program(
        &dir,
        &format!("openssl s_client -connect {front} -servername docs.example.org -alpn acme-tls/1"),
    );
    // Some versions have blanks there.
    let said = String::from_utf8_lossy(&asked.stdout).replace(' ', "");
    assert!(said.contains("CN=docs.example.org"), "{asked:?}");
}

// -- byte by byte

#[test]
fn a_hello_in_any_pieces_reaches_the_service_as_it_was_sent() {
    let (stage, place) = (HookService::new(), Place::tcp());
    let _wakeport = pass(&stage, &place).start();
    let message = message(Some("docs.example.org"), 1700);
    for size in [1, 4, 100, 1000, 1 << 14] {
        let bytes = records(&message, size);
        let whole = place.connect();
        whole.send(&bytes);
        whole.is_relayed(&bytes);
        let two = place.connect();
        let (first, second) = bytes.split_at(1400);
        two.send(first);
        throughout(Duration::from_millis(50), "it waits", || two.is_silent());
        two.send(second);
        two.is_relayed(&bytes);
    }
    let bytes = [&records(&message, 1000)[..], b"and what follows"].concat();
    let tiny = place.connect_with(in_tiny_segments);
    for byte in &bytes {
        tiny.send([*byte]);
    }
    tiny.is_relayed(&bytes);
    tiny.echoes("hello");
    // The longest.
    let most = 16 * 1024 - records(&self::message(Some("a"), 0), 1 << 14).len();
    let longest = records(&self::message(Some("a"), most), 1 << 14);
    let client = place.connect();
    client.send(&longest);
    client.is_relayed(&longest);
    assert_eq!(stage.count("start"), 1);
}

#[test]
fn what_is_not_tls_or_names_no_service_is_told_so_and_wakes_nothing() {
    let (stage, place) = (HookService::new(), Place::tcp());
    let _wakeport = pass(&stage, &place)
        .option("--host", "docs.example.org")
        .start();
    let mut upload = b"POST / HTTP/1.1\r\nHost: docs.example.org\r\n\r\n".to_vec();
    upload.resize(200_000, b'x');
    let no_name = records(&message(None, 0), 1 << 14);
    for (bytes, description) in [
        (&b"GET / HTTP/1.1\r\nHost: docs.example.org\r\n\r\n"[..], 10),
        (&upload, 10),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 10),
        (b"\x16\x03\x01\x00\x05\x02\0\0\x01\0", 10),
        (b"\x16\x02\x00", 70),
        (b"\x16\x03\x01\x00\x05\x01\0\0\x01\0", 50),
        (b"\x16\x03\x01\x00\x05\x01\0\xff\xff\0", 50),
        (&hello("films.example.org"), UNRECOGNIZED_NAME),
        (&hello("example.org"), UNRECOGNIZED_NAME),
        (&hello("192.0.2.1"), UNRECOGNIZED_NAME),
        (&hello("docs.example.org:443"), UNRECOGNIZED_NAME),
        (&no_name, UNRECOGNIZED_NAME),
    ] {
        let client = place.connect();
        let _ = client.try_send(bytes);
        client.is_told(description);
    }
    // Those that leave are told nothing.
    for bytes in [&b""[..], &hello("docs.example.org")[..20]] {
        let client = place.connect();
        client.send(bytes);
        client.finish();
        assert_eq!(client.all(), b"");
    }
    assert_eq!(stage.count("start"), 0);
}

#[test]
fn names_lead_where_hosts_do_and_after_a_reload_by_the_new_file() {
    let [docs, films, rest] = ["docs", "films", "rest"].map(named);
    let dir = directory();
    let path = dir.path().join("https.toml");
    let file = |films_has: &str, rest_has: &str| {
        let tables = [
            "[defaults]\ntls = 'pass'\n".to_owned(),
            table("docs", &docs, "host = 'docs.example.org'"),
            table("films", &films, films_has),
            table("rest", &rest, rest_has),
        ];
        fs::write(&path, tables.concat()).expect("a file of ours");
    };
    file(
        "host = ['films.example.org', '*.films.example.org']",
        "host = '*.example.org'",
    );
    let place = Place::tcp();
    let run = Run::new().option("--config", path.display()).listen(&place);
    let wakeport = run.cooldown("10ms").start();
    let unknown = |name: &str| {
        let client = place.connect();
        client.send(hello(name));
        client.is_told(UNRECOGNIZED_NAME);
    };
    reaches(&place, "docs.example.org", "docs");
    docs.reaches("stop", 1);
    assert_eq!((films.count("start"), rest.count("start")), (0, 0));
    reaches(&place, "DOCS.Example.ORG.", "docs");
    reaches(&place, "a.b.films.example.org", "films");
    let open = reaches(&place, "x.example.org", "rest");
    for name in ["example.org", "docs.example.com", ""] {
        match name {
            "" => {
                let client = place.connect();
                client.send(records(&message(None, 0), 99));
                client.is_told(UNRECOGNIZED_NAME);
            }
            name => unknown(name),
        }
    }
    // One that has said half of it goes by what is true when it has said all.
    let bytes = hello("films.example.org");
    let half = place.connect();
    half.send(&bytes[..bytes.len() / 2]);
    file("host = 'docs.example.com'", "");
    wakeport.signal(Signal::HUP);
    wakeport.logs("reloaded: 3 services");
    half.send(&bytes[bytes.len() / 2..]);
    assert_eq!(half.take(4), b"rest");
    reaches(&place, "docs.example.com", "films");
    reaches(&place, "docs.example.org", "docs");
    // The one without a host has all others, and those without a name.
    reaches(&place, "192.0.2.1", "rest");
    let client = place.connect();
    client.send(records(&message(None, 0), 99));
    assert_eq!(client.take(4), b"rest");
    assert!(open.is_silent(), "it was not cut");
}

#[test]
fn a_connection_holds_the_service_and_half_a_hello_only_the_process() {
    let (stage, place) = (HookService::new(), Place::tcp());
    let socket = place.listen();
    let run = stage.run().inherit("https", &socket);
    let client = place.connect();
    let bytes = hello("docs.example.org");
    let (first, second) = bytes.split_at(20);
    client.send(first);
    let mut wakeport = run.option("--tls", "pass").cooldown("0").start();
    throughout(Duration::from_millis(300), "it waits", || {
        stage.count("start") == 0 && wakeport.is_running()
    });
    client.send(second);
    client.is_relayed(&bytes);
    throughout(Duration::from_millis(300), "it is awake", || {
        stage.count("stop") == 0
    });
    drop(client);
    wakeport.ends();
    assert_eq!((stage.count("start"), stage.count("stop")), (1, 1));
}

#[test]
fn a_client_that_does_not_say_whom_it_wants_is_closed_after_ten_seconds() {
    let (stage, place) = (HookService::new(), Place::tcp());
    let _wakeport = pass(&stage, &place).start();
    let (silent, half) = (place.connect(), place.connect());
    half.send(&hello("docs.example.org")[..20]);
    assert_eq!((silent.all(), half.all()), (Vec::new(), Vec::new()));
    assert_eq!(stage.count("start"), 0);
}

#[test]
fn one_that_has_not_said_its_name_takes_the_room_of_one_that_waits() {
    let (stage, place) = (HookService::new(), Place::tcp());
    let _wakeport = pass(&stage, &place).option("--max-waiting", 1).start();
    let bytes = hello("docs.example.org");
    let (first, second) = (place.connect(), place.connect());
    first.send(&bytes[..20]);
    second.send(&bytes);
    throughout(Duration::from_millis(300), "it is in the backlog", || {
        second.is_silent() && stage.count("start") == 0
    });
    first.send(&bytes[20..]);
    first.is_relayed(&bytes);
    second.is_relayed(&bytes);
}

#[test]
fn each_service_judges_its_own_clients() {
    let (docs, films, dir) = (named("docs"), named("films"), directory());
    let path = dir.path().join("https.toml");
    let tables = [
        table(
            "docs",
            &docs,
            "host = 'docs.example.org'\ndeny = 'localhost'",
        ),
        table("films", &films, "host = 'films.example.org'"),
    ];
    fs::write(&path, tables.concat()).expect("a file of ours");
    let place = Place::tcp();
    let run = Run::new().option("--config", path.display()).listen(&place);
    let _wakeport = run.option("--tls", "pass").start();
    let denied = place.connect();
    denied.send(hello("docs.example.org"));
    denied.is_reset();
    reaches(&place, "films.example.org", "films");
    assert_eq!(docs.count("start"), 0);
}

#[test]
fn proxy_headers_come_before_the_hello_on_both_sides() {
    let (stage, place) = (HookService::new(), Place::tcp());
    let _wakeport = pass(&stage, &place)
        .flag("--accept-proxy")
        .option("--send-proxy", "v1")
        .option("--deny", "203.0.113.0/24")
        .start();
    let bytes = hello("docs.example.org");
    let with = |client: &str| {
        let header = format!("PROXY TCP4 {client} 198.51.100.1 4711 443\r\n");
        [header.as_bytes(), &bytes].concat()
    };
    let denied = place.connect();
    denied.send(with("203.0.113.7"));
    denied.is_reset();
    let told = with("192.0.2.7");
    let client = place.connect();
    client.send(&told);
    client.is_relayed(&told);
    client.echoes("hello");
}

#[test]
fn what_does_not_go_with_tls_is_named_with_the_remedy() {
    for (flags, line) in [
        (vec!["--tls=end"], "write `pass`"),
        (vec!["--tls=pass", "--http"], "`--http` is about requests"),
        (
            vec!["--tls=pass", "--path=/app"],
            "`--path` is about requests",
        ),
        (
            vec!["--tls=pass", "--page-status=200"],
            "`--page-status` is about requests",
        ),
        (
            vec!["--tls=pass", "--trust=any"],
            "`--trust` is about requests",
        ),
        (
            vec!["--tls=pass", "--host=192.0.2.1"],
            "`192.0.2.1` is an address",
        ),
        (
            vec!["--tls=pass", "--host=[2001:db8::1]"],
            "`[2001:db8::1]` is an address",
        ),
        (
            vec!["--tls=pass", "--ready=banner"],
            "use `--ready connect`",
        ),
    ] {
        let run = Run::new().listen(Place::tcp()).to(Place::tcp());
        let run = flags.into_iter().fold(run, Run::flag);
        let (log, code) = run.fails();
        assert!(log.contains(line) && log.lines().count() == 1, "{log}");
        assert_eq!(code, 64, "{log}");
    }
    let dir = directory();
    let path = dir.path().join("https.toml");
    for (a, b, line) in [
        (
            "tls = 'pass'\nhost = 'a'",
            "host = 'b'",
            "https.toml:5:10: service `b`: a listener has either TLS or not",
        ),
        ("tls = 'pass'", "", "service `b`: `listener` is missing"),
        (
            "tls = 'pass'\nhost = 'a'",
            "tls = 'pass'\nhost = 'A.'",
            "the host `a` is that of service `a` already; give one of them another host",
        ),
        (
            "tls = 'pass'",
            "tls = 'pass'\nhost = '*'",
            "the host `*` is that of service `a` already",
        ),
    ] {
        let file = format!("[service.a]\nto = 'x:2'\n{a}\n[service.b]\nto = 'x:1'\n{b}\n");
        fs::write(&path, file).expect("a file of ours");
        let run = Run::new().listen(Place::tcp());
        let (log, code) = run.option("--config", path.display()).fails();
        assert!(log.contains(line) && log.lines().count() == 1, "{log}");
        assert_eq!(code, 78, "{log}");
    }
}
