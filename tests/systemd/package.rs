//! The Debian package: installed, upgraded under a live connection, removed and purged, by Debian's dpkg; and first
//! use.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use crate::rig::{Client, Rig, root};
use crate::services::{PORT, TARGET, URL, alice, nginx, postgresql_on, python};

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

/// The next version of it: the same program with bytes appended.
static SECOND: LazyLock<PathBuf> = LazyLock::new(|| {
    let package = FIRST.with_file_name("second.deb");
    let tree = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch directory");
    does(
        Command::new("dpkg-deb")
            .arg("-R")
            .arg(&*FIRST)
            .arg(tree.path()),
    );
    let script = "printf second >>usr/bin/wakeport
                  sed -i 's/^Version: .*/&.1/' DEBIAN/control";
    does(
        Command::new("sh")
            .args(["-ec", script])
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

/// `dpkg -i`.
fn install(rig: &Rig, package: &Path) {
    // Images of Debian for containers leave pages and documents out.
    rig.run("rm -f /etc/dpkg/dpkg.cfg.d/*");
    fs::copy(package, rig.path("/run/rig/wakeport.deb")).expect("a package");
    rig.run("DEBIAN_FRONTEND=noninteractive dpkg -i /run/rig/wakeport.deb 2>&1");
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

/// The process of web.service's wakeport.
fn relay(rig: &Rig) -> String {
    rig.show("MainPID", "wakeport@web.service")
}

/// Whether it is the second version of the program, and whether that is what lies in `/usr/bin`.
fn program(rig: &Rig, pid: &str) -> (bool, bool) {
    let end = rig.run(&format!("tail -c 6 /proc/{pid}/exe"));
    let path = rig.run(&format!("readlink /proc/{pid}/exe"));
    (end == "second", path.trim() == "/usr/bin/wakeport")
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
fn an_upgrade_interrupts_no_connection_and_the_next_wake_runs_the_new_program() {
    let rig = Rig::bare();
    install(&rig, &FIRST);
    python(&rig);
    // More than all buffers on its way hold.
    rig.write("/run/rig/www/big", &"0123456789abcdef\n".repeat(2 << 20));
    let page = rig.read("/run/rig/www/big");
    rig.run(&format!(
        "wakeport init web --listen {PORT} --to {TARGET} --cooldown 300ms --write --enable"
    ));

    let mut client = TcpStream::connect(PORT).expect("the port is open");
    client
        .write_all(b"GET /big HTTP/1.0\r\n\r\n")
        .expect("a request");
    let mut answer = vec![0; 100_000];
    client
        .read_exact(&mut answer)
        .expect("the beginning of the page");
    let pid = relay(&rig);
    assert_eq!(program(&rig, &pid), (false, true));
    install(&rig, &SECOND);
    assert_eq!(relay(&rig), pid);
    assert_eq!(
        program(&rig, &pid),
        (false, false),
        "it goes on with the program that it was started with"
    );
    client
        .read_to_end(&mut answer)
        .expect("the rest of the page");
    let head = answer
        .windows(4)
        .position(|end| end == b"\r\n\r\n")
        .expect("a head");
    assert!(
        &answer[head + 4..] == page.as_bytes(),
        "not the page byte for byte"
    );
    drop(client);

    rig.wait_until_asleep("web");
    assert_eq!(rig.starts("wakeport@web.service"), 1);
    let client = TcpStream::connect(PORT).expect("the port is open");
    rig.wait_for("it is woken", || {
        rig.is("active", "wakeport@web.service") && relay(&rig) != "0"
    });
    assert_eq!(program(&rig, &relay(&rig)), (true, true));
    drop(client);
    rig.wait_until_asleep("web");
    assert_eq!(rig.ask("systemctl --failed --plain --no-legend"), "");
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
        "wakeport init nginx --listen {PORT} --to {TARGET} --cooldown 300ms --drain-timeout 1h --write --enable"
    ));
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
