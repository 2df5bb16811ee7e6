//! The Debian package: installed, upgraded under live connections, removed and purged, by Debian's dpkg; and first
//! use.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use crate::rig::{Client, Rig, root};
use crate::services::{PORT, TARGET, URL, alice, nginx, postgresql_on, python};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Just as long.
static NEXT: LazyLock<String> =
    LazyLock::new(|| VERSION.replace(|character: char| character.is_ascii_digit(), "9"));

/// The package as `cargo deb` makes it of Cargo.toml, around the program that is tested.
static FIRST: LazyLock<PathBuf> = LazyLock::new(|| {
    // One for each root: their scenarios may run at the same time.
    let root = root().map_or_else(|| "host".into(), PathBuf::from);
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("package")
        .join(root.file_name().expect("a root has a name"));
    // Where cargo-deb looks for what cargo has built.
    let built = scratch.join("release");
    fs::create_dir_all(&built).expect("a scratch directory");
    let program = env!("CARGO_BIN_EXE_wakeport");
    does(
        Command::new("strip")
            .arg("-o")
            .arg(built.join("wakeport"))
            .arg(program),
    );
    let package = scratch.join("first.deb");
    does(
        Command::new(env!("CARGO"))
            .args([
                "deb",
                "--no-build",
                "--fast",
                "--locked",
                "--quiet",
                "--output",
            ])
            .arg(&package)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("CARGO_TARGET_DIR", &scratch),
    );
    package
});

/// The next version of it: a program that calls itself so.
static SECOND: LazyLock<PathBuf> = LazyLock::new(|| {
    let package = FIRST.with_file_name("second.deb");
    let tree = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch directory");
    does(
        Command::new("dpkg-deb")
            .arg("-R")
            .arg(&*FIRST)
            .arg(tree.path()),
    );
    let script = "LC_ALL=C sed -i \"s/$1/$2/g\" usr/bin/wakeport
                  sed -i 's/^Version: .*/&.1/' DEBIAN/control";
    does(
        Command::new("sh")
            .args(["-ec", script, "sh"])
            .args([&VERSION.replace('.', "\\."), &*NEXT])
            .current_dir(tree.path()),
    );
    does(
        Command::new("dpkg-deb")
            .args(["-Zgzip", "-z1", "--root-owner-group", "-b"])
            .arg(tree.path())
            .arg(&package),
    );
    package
});

#[track_caller]
fn does(command: &mut Command) {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .unwrap_or_else(|why| panic!("`{program}`: {why}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {said} (tests/run installs what is needed)"
    );
}

/// `dpkg -i`, and what it says.
fn install(rig: &Rig, package: &Path) -> String {
    // Images of Debian for containers leave pages and documents out.
    rig.run("rm -f /etc/dpkg/dpkg.cfg.d/*");
    fs::copy(package, rig.path("/run/rig/wakeport.deb")).expect("a package");
    rig.run("DEBIAN_FRONTEND=noninteractive dpkg -i /run/rig/wakeport.deb 2>&1")
}

/// `dpkg -r`, begun, with these ports closed.
fn removal(rig: &Rig, ports: &[&str]) -> Child {
    let mut removal = rig.command(["dpkg", "-r", "wakeport"]);
    let removal = removal.stdout(Stdio::null()).spawn();
    for port in ports {
        rig.wait_for("the port is closed", || TcpStream::connect(port).is_err());
    }
    removal.expect("dpkg can be run")
}

/// All that has our name, outside of what the rig and the journal keep.
fn files(rig: &Rig) -> String {
    rig.run("find /etc /usr /var /run -path /run/rig -prune -o -path /usr/src -prune -o -name '*wakeport*' -print | sort")
}

/// The process of an instance.
fn relay(rig: &Rig, name: &str) -> String {
    rig.show("MainPID", &format!("wakeport@{name}.service"))
}

/// The version of the program that a process runs.
fn program(rig: &Rig, pid: &str) -> String {
    let said = rig.run(&format!("/proc/{pid}/exe --version"));
    said.trim().replace("wakeport ", "")
}

/// A page that is more than all buffers on its way hold, on the server of `python`.
fn big_page(rig: &Rig) -> String {
    let page = "0123456789abcdef\n".repeat(2 << 20);
    rig.write("/run/rig/www/big", &page);
    page
}

/// A slow.service with the pages of `python` that waits for a file before it starts.
fn slow(rig: &Rig) {
    rig.unit(
        "slow.service",
        "[Service]\nTimeoutStartSec=10min\nExecStartPre=sh -c 'until [ -e /run/rig/go ]; do sleep 0.1; done'\n\
         ExecStart=python3 -m http.server --bind 127.0.0.1 --directory /run/rig/www 18081\n",
    );
}

/// Somebody who downloads the big page and has only read its beginning.
struct Download {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Download {
    fn begin() -> Self {
        let mut stream = TcpStream::connect(PORT).expect("the port is open");
        stream
            .write_all(b"GET /big HTTP/1.0\r\n\r\n")
            .expect("a request");
        let mut answer = vec![0; 100_000];
        stream
            .read_exact(&mut answer)
            .expect("the beginning of the page");
        Self { stream, answer }
    }

    /// Reads the rest.
    fn is(mut self, page: &str) {
        self.stream
            .read_to_end(&mut self.answer)
            .expect("the rest of the page");
        let mut ends = self.answer.windows(4);
        let head = ends.position(|end| end == b"\r\n\r\n").expect("a head");
        assert!(
            &self.answer[head + 4..] == page.as_bytes(),
            "not the page byte for byte"
        );
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_new_user_puts_postgresql_and_a_web_app_behind_wakeport_with_one_command_each() {
    let rig = Rig::bare();
    // What runs on the machine already, on 127.0.0.1 as Debian and Python's servers have it: nothing of it has to move.
    let postgresql = postgresql_on(&rig, "5432", "scram-sha-256");
    rig.systemctl("add-wants --quiet multi-user.target postgresql.service");
    rig.systemctl(&format!("start {postgresql}.service"));
    rig.run("runuser -u postgres -- psql -qc \"alter user postgres password 'secret'\"");
    rig.write(
        "/usr/lib/notes/app.py",
        "from wsgiref.simple_server import make_server\n\
         def app(environ, start_response):\n    \
             start_response('200 OK', [('Content-Type', 'text/plain')])\n    \
             return [b'my notes']\n\
         make_server('127.0.0.1', 8000, app).serve_forever()\n",
    );
    rig.unit(
        "notes.service",
        "[Service]\nExecStart=python3 /usr/lib/notes/app.py\n[Install]\nWantedBy=multi-user.target\n",
    );
    rig.systemctl("enable --quiet --now notes.service");
    rig.run("ip address add 192.0.2.5/24 dev lo");

    install(&rig, &FIRST);
    for (name, port) in [(&*postgresql, "5432"), ("notes", "8000")] {
        let said = rig.run(&format!(
            "wakeport init {name} --listen 192.0.2.5:{port} --to 127.0.0.1:{port} --cooldown 300ms --write --enable 2>&1"
        ));
        assert!(!said.contains("error"), "{said}");
        assert!(
            name == "notes" || said.contains("`manual` in its start.conf"),
            "{said}"
        );
    }
    // As at boot, where ports open before there is a network.
    let sockets = format!("wakeport@notes.socket wakeport@{postgresql}.socket");
    rig.systemctl(&format!("stop {sockets}"));
    rig.run("ip address del 192.0.2.5/24 dev lo");
    rig.systemctl(&format!("start {sockets}"));
    rig.run("ip address add 192.0.2.5/24 dev lo");
    for _ in 0..2 {
        assert_eq!(rig.curl("http://192.0.2.5:8000/"), "my notes");
        let query =
            "PGPASSWORD=secret psql --host=192.0.2.5 --username=postgres -tAc 'select 6 * 7'";
        assert_eq!(rig.run(query).trim(), "42");
        rig.wait_until_asleep("notes");
        rig.wait_until_asleep(&postgresql);
    }
    let _client = Client::connect("192.0.2.5:8000");
    let mut status = String::new();
    rig.wait_for("the app is awake", || {
        status = rig.run("wakeport status");
        status.contains("awake")
    });
    // Name, state, since when, clients, wakes.
    let says = |name: &str, state: &str, clients: &str, wakes: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        let words: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
        assert!(words.len() > 4, "{name} in:\n{status}");
        assert_eq!(
            [words[1], words[3], words[4]],
            [state, clients, wakes],
            "{status}"
        );
    };
    says("notes", "awake", "1", "3");
    says(&postgresql, "asleep", "-", "2");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn after_an_upgrade_all_connections_go_on_in_the_new_program() {
    let rig = Rig::bare();
    install(&rig, &FIRST);
    python(&rig);
    let page = big_page(&rig);
    slow(&rig);
    rig.run(&format!(
        "wakeport init web --listen {PORT} --to {TARGET} --cooldown 300ms --write --enable
         wakeport init slow --listen 127.0.0.1:8081 --to 127.0.0.1:18081 --start-timeout 10min --cooldown 300ms --write --enable"
    ));
    let download = Download::begin();
    let waits = Client::asks("127.0.0.1:8081");
    rig.wait_until("activating", "slow.service");
    rig.wait_until("active", "wakeport@slow.service");
    let before = ["web", "slow"].map(|name| relay(&rig, name));
    for pid in &before {
        assert_eq!(program(&rig, pid), VERSION);
    }
    rig.systemctl("enable --quiet --now wakeport-exporter.socket");
    let exporter_is = |version: &str| {
        let page = rig.curl("http://127.0.0.1:19752/metrics");
        assert!(
            page.contains(&format!("wakeport_build_info{{version=\"{version}\"}}")),
            "{page}"
        );
    };
    exporter_is(VERSION);

    install(&rig, &SECOND);
    exporter_is(&NEXT);
    for (name, before) in ["web", "slow"].into_iter().zip(before) {
        let pid = relay(&rig, name);
        assert_ne!(pid, before, "{name}");
        assert_eq!(program(&rig, &pid), *NEXT, "{name}");
        let handed = rig.said(
            &format!("wakeport@{name}.service"),
            "handed 1 connection over",
        );
        assert_eq!(handed, 1, "{name}");
    }
    rig.write("/run/rig/go", "");
    assert_eq!(waits.page(), "hello");
    assert_eq!(rig.stops("web.service"), 0);
    download.is(&page);

    for name in ["web", "slow"] {
        rig.wait_until_asleep(name);
        assert_eq!(rig.starts(&format!("{name}.service")), 1);
    }
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_until_asleep("web");
    assert_eq!(rig.ask("systemctl --failed --plain --no-legend"), "");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn an_upgrade_leaves_a_child_process_alone_and_does_not_fail_with_an_instance() {
    let rig = Rig::bare();
    install(&rig, &FIRST);
    python(&rig);
    let page = big_page(&rig);
    slow(&rig);
    rig.run(&format!(
        "wakeport init slow --listen 127.0.0.1:8081 --to 127.0.0.1:18081 --start-timeout 10min --write --enable
         wakeport init child --exec 'python3 -m http.server --bind 127.0.0.1 --directory /run/rig/www 18080' \
             --listen {PORT} --to {TARGET} --cooldown 300ms --write --enable"
    ));
    let download = Download::begin();
    let child = relay(&rig, "child");
    let _waits = Client::connect("127.0.0.1:8081");
    rig.wait_until("active", "wakeport@slow.service");
    rig.drop_in(
        "wakeport@slow.service",
        "wrong",
        "[Service]\nEnvironment=WAKEPORT_COOLDOWN=wrong\n",
    );

    let said = install(&rig, &SECOND);
    for words in [
        "wakeport@child.service keeps the old program until it exits",
        "wakeport: not every instance has restarted",
    ] {
        assert!(said.contains(words), "no `{words}`: {said}");
    }
    assert_eq!(
        rig.ask("systemctl --failed --plain --no-legend | cut -d' ' -f1")
            .trim(),
        "wakeport@slow.service"
    );
    assert_eq!(relay(&rig, "child"), child);
    assert_eq!(program(&rig, &child), VERSION);
    download.is(&page);

    rig.wait_until("inactive", "wakeport@child.service");
    let mut client = Download::begin();
    assert_eq!(program(&rig, &relay(&rig, "child")), *NEXT);
    client
        .stream
        .read_exact(&mut [0])
        .expect("more of the page");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn after_an_upgrade_the_connections_of_users_go_on_in_the_new_program() {
    let rig = Rig::bare();
    install(&rig, &FIRST);
    let as_alice = alice(&rig);
    as_alice(&format!(
        "wakeport init notes --user --listen {PORT} --to {TARGET} --cooldown 300ms --write --enable"
    ));
    let mut client = Client::connect(PORT);
    rig.wait_for("her notes are awake", || rig.processes("python3") == 1);
    let pid = || as_alice("systemctl --user show --value -p MainPID wakeport@notes.service");
    let before = pid();
    assert_eq!(program(&rig, before.trim()), VERSION);

    install(&rig, &SECOND);
    let after = pid();
    assert_ne!(after, before);
    assert_eq!(program(&rig, after.trim()), *NEXT);
    assert_eq!(client.ask_again(), "hers");
}

/// `systemd/install`, run again.
#[test]
#[ignore = "needs root: tests/run runs it"]
fn after_an_installation_anew_all_connections_go_on_in_the_new_program() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[]);
    let mut client = Client::connect(PORT);
    assert_eq!(client.ask_again(), "hello");
    let before = relay(&rig, "nginx");
    rig.run("/run/rig/source/systemd/install /run/rig/wakeport");
    assert_ne!(relay(&rig, "nginx"), before);
    assert_eq!(client.ask_again(), "hello");
    assert_eq!(rig.stops("nginx.service"), 0);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_removal_drains_and_a_purge_leaves_nothing_of_ours() {
    let rig = Rig::bare();
    rig.run("rm -rf /var/lib/wakeport; userdel wakeport 2>/dev/null || :");
    let before = files(&rig);
    install(&rig, &FIRST);
    // `systemd/install` with DESTDIR= yields the same files.
    rig.run(
        "DESTDIR=/run/rig/tree PREFIX=/usr /run/rig/source/systemd/install /usr/bin/wakeport
         cd /run/rig/tree && mv usr/share/zsh/site-functions usr/share/zsh/vendor-completions && gzip -r usr/share/man
         find . -type f | while read -r file; do
             case $file in *.gz) zcmp \"$file\" \"/$file\" ;; *) cmp \"$file\" \"/$file\" ;; esac || exit 1
         done",
    );
    nginx(&rig);
    rig.drop_in("wakeport@nginx.socket", "mine", "[Socket]\nBacklog=100\n");
    rig.run(&format!(
        "wakeport init nginx --listen {PORT} --to {TARGET} --cooldown 300ms --drain-timeout 1h --awake 00:00 --until 00:00 \
         --asleep-from 04:00 --write --enable"
    ));
    rig.wait_for("it is held", || {
        let status = rig.show("StatusText", "wakeport@nginx.service");
        status.contains("1 hold (schedule)")
    });
    rig.run("wakeport init other --exec 'sleep inf' --listen 127.0.0.1:8081 --to 127.0.0.1:1 --write --enable");
    rig.systemctl("enable --quiet --now wakeport-exporter.socket");
    rig.curl("http://127.0.0.1:19752/metrics");
    let mut client = Client::connect(PORT);
    assert_eq!(client.ask_again(), "hello");

    let mut removal = removal(&rig, &[PORT, "127.0.0.1:8081", "127.0.0.1:19752"]);
    assert_eq!(client.ask_again(), "hello", "who was there may finish");
    drop(client);
    assert!(removal.wait().expect("dpkg ends").success());
    assert_eq!(rig.processes("wakeport"), 0);
    assert!(
        rig.is("active", "nginx.service"),
        "services stay as they are"
    );
    assert_eq!(rig.ask("systemctl --failed --plain --no-legend"), "");
    assert_eq!(
        rig.ask("systemctl list-units --plain --no-legend 'wakeport*'"),
        ""
    );
    let left = files(&rig);
    assert!(!left.contains("/usr/"), "{left}");
    assert!(
        left.contains("/etc/polkit-1/rules.d/50-wakeport-nginx.rules"),
        "{left}"
    );

    // It comes back as it was.
    install(&rig, &SECOND);
    rig.systemctl("start sockets.target");
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_until_asleep("nginx");

    rig.run("dpkg --purge wakeport 2>&1");
    assert!(TcpStream::connect(PORT).is_err());
    let left = files(&rig);
    let ours: Vec<_> = left
        .lines()
        .filter(|line| !before.lines().any(|old| old == *line))
        .collect();
    assert_eq!(
        ours,
        ["/etc/systemd/system/wakeport@nginx.socket.d"],
        "but what an administrator has written"
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_removal_drains_the_instances_of_users_as_well() {
    let rig = Rig::bare();
    install(&rig, &FIRST);
    let as_alice = alice(&rig);
    as_alice(&format!(
        "wakeport init notes --user --listen {PORT} --to {TARGET} --cooldown 300ms --drain-timeout 1h --write --enable"
    ));
    let mut client = Client::connect(PORT);
    rig.wait_for("her notes are awake", || rig.processes("python3") == 1);

    let mut removal = removal(&rig, &[PORT]);
    assert_eq!(client.ask_again(), "hers", "who was there may finish");
    drop(client);
    assert!(removal.wait().expect("dpkg ends").success());
    assert_eq!(rig.processes("wakeport"), 0);
    assert_eq!(
        as_alice("systemctl --user --failed --plain --no-legend"),
        ""
    );
    assert_eq!(
        as_alice("systemctl --user list-units --plain --no-legend 'wakeport*'"),
        ""
    );
}
