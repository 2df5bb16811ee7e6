//! The output of `wakeport init` on a machine without systemd. Each file in golden/ begins with the command line;
//! UPDATE_GOLDEN rewrites them.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::repository::{Tree, files, read, repo, run, text};
use crate::support::directory;

const WAKEPORT: &str = env!("CARGO_BIN_EXE_wakeport");

/// The golden files, each with its command line and its output.
fn golden() -> Vec<(PathBuf, String, String)> {
    let golden = files(&repo("tests/it/golden")).into_iter().map(|path| {
        let file = read(&path);
        let (typed, printed) = file.split_once('\n').expect("a first line");
        let typed = typed.strip_prefix("$ wakeport ").expect("a command");
        let (typed, printed) = (typed.to_owned(), printed.to_owned());
        (path, typed, printed)
    });
    golden.collect()
}

/// `wakeport` without a service manager, with an empty home.
fn wakeport(home: &Path) -> Command {
    let mut command = Command::new(WAKEPORT);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", home)
        .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
        .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent");
    command
}

/// The output of a command line: standard output, and all of it without what depends on this machine.
fn prints(typed: &str) -> (String, String) {
    let words = shlex::split(typed).expect("quotes that close");
    let output = wakeport(Path::new("/home/alice")).args(words).output();
    let output = output.expect("the binary");
    assert!(output.status.success(), "{typed}: {}", text(&output));
    let stdout = String::from_utf8(output.stdout).expect("text");
    let mut stderr = String::from_utf8(output.stderr).expect("text");
    if let (Some(from), Some(to)) = (stderr.find("systemd ("), stderr.find("), so")) {
        stderr.replace_range(from + "systemd (".len()..to, "REASON");
    }
    if let (Some(from), Some(to)) = (stderr.find("systemd-sysusers"), stderr.find("systemctl")) {
        stderr.replace_range(from..to, "");
    }
    let stdout = stdout.replace(WAKEPORT, "/opt/wakeport");
    let whole = format!("{stdout}--\n{stderr}");
    (stdout, whole)
}

#[test]
fn the_output_is_as_recorded() {
    for (path, typed, expected) in golden() {
        let (_, printed) = prints(&typed);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, format!("$ wakeport {typed}\n{printed}")).expect("a golden file");
        } else {
            assert_eq!(
                printed,
                expected,
                "{}; UPDATE_GOLDEN=1 writes it anew",
                path.display()
            );
        }
    }
}

#[test]
fn the_printed_units_are_valid_for_systemd() {
    let mut verified = 0;
    for (_, typed, _) in golden() {
        let tree = if typed.contains("--user") {
            Tree::user()
        } else {
            Tree::system()
        };
        let (printed, _) = prints(&typed);
        for file in printed.split("# /").skip(1) {
            let (path, file) = file.split_once('\n').expect("a path");
            let path = format!("/{path}").replace("/home/alice/.config", "");
            // Polkit rules are not units.
            let file = file.split("\n// /").next().expect("a file");
            let file = file.replace("/opt/wakeport", "/bin/sh");
            tree.write(&path, &file);
            verified += 1;
        }
        tree.verify();
    }
    assert!(verified > 25, "only {verified}");
}

/// A user's home, for init to write to.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(directory())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(".config/systemd/user").join(name)
    }

    fn init(&self, options: &[&str]) -> Output {
        let mut command = wakeport(self.0.path());
        command.args(["init", "notes", "--user"]).args(options);
        run(&mut command, "the program itself")
    }

    /// Its output on success.
    fn does(&self, options: &[&str]) -> String {
        let output = self.init(options);
        assert!(output.status.success(), "{options:?}: {}", text(&output));
        text(&output)
    }
}

const ADDRESSES: [&str; 4] = ["--listen", "127.0.0.1:8080", "--to", "127.0.0.1:18080"];
const SOCKET: &str = "wakeport@notes.socket.d/10-init.conf";
const SERVICE: &str = "wakeport@notes.service.d/10-init.conf";

fn with(more: &[&'static str]) -> Vec<&'static str> {
    [&ADDRESSES, more].concat()
}

#[test]
fn without_write_nothing_is_written() {
    let home = Home::new();
    home.does(&ADDRESSES);
    assert_eq!(files(home.0.path()), Vec::<PathBuf>::new());
}

#[test]
fn write_creates_what_was_printed_and_remove_deletes_it_all() {
    let home = Home::new();
    let printed = home.does(&ADDRESSES);
    let said = home.does(&with(&["--write"]));
    for name in [SOCKET, SERVICE] {
        let path = home.path(name);
        assert!(
            printed.contains(&format!("# {}\n{}", path.display(), read(&path))),
            "{printed}"
        );
        assert!(
            said.contains(&format!("create  {}\n", path.display())),
            "{said}"
        );
        let mode = fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
        assert_eq!(mode, 0o644);
    }
    assert!(
        said.contains("      + ListenStream=127.0.0.1:8080\n"),
        "{said}"
    );
    assert!(
        said.contains("next: systemctl --user daemon-reload &&"),
        "{said}"
    );
    assert_eq!(files(home.0.path()).len(), 2);

    assert!(home.does(&with(&["--write"])).contains("nothing to do"));
    let said = home.does(&with(&["--write", "--cooldown", "1h"]));
    assert!(
        said.contains("change  ") && said.contains("      + Environment=WAKEPORT_COOLDOWN=1h\n"),
        "{said}"
    );
    assert!(
        !said.contains("create") && !said.contains("ListenStream"),
        "{said}"
    );

    // Files that others add stay.
    let own = home.path("wakeport@notes.service.d/own.conf");
    fs::write(&own, "[Service]\nEnvironment=WAKEPORT_STAY=yes\n").expect("a file of ours");
    assert!(
        home.does(&with(&["--write"]))
            .contains("own.conf` exists as well")
    );
    let said = home.does(&["--remove"]);
    assert_eq!(said.matches("remove  ").count(), 2, "{said}");
    assert_eq!(files(home.0.path()), std::slice::from_ref(&own));
    assert!(!home.path("wakeport@notes.socket.d").exists());
    assert!(home.does(&["--remove"]).contains("nothing to do"));
    assert!(own.exists());
}

#[test]
fn a_file_with_another_mode_is_reported_and_repaired() {
    let home = Home::new();
    home.does(&with(&["--write"]));
    let (file, folder) = (home.path(SERVICE), home.path("wakeport@notes.socket.d"));
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    let mode = |path: &Path| {
        fs::metadata(path)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o777
    };
    set(&file, 0o640).expect("a file of ours");
    set(&folder, 0o775).expect("a directory of ours");
    let said = home.does(&ADDRESSES);
    for defect in [
        format!(
            "warning: `{}` has the mode 640 instead of 644; `--write` repairs it",
            file.display()
        ),
        format!(
            "warning: `{}` has the mode 775 instead of 755; `--write` repairs it",
            folder.display()
        ),
    ] {
        assert!(said.contains(&defect), "{said}");
    }
    let said = home.does(&with(&["--write"]));
    assert_eq!(said.matches("repair  ").count(), 2, "{said}");
    assert_eq!((mode(&file), mode(&folder)), (0o644, 0o755));
    assert!(home.does(&with(&["--write"])).contains("nothing to do"));
}

#[test]
fn a_listener_that_is_no_longer_given_is_removed() {
    let home = Home::new();
    home.does(&with(&["--listen", "admin=127.0.0.1:9090", "--write"]));
    let admin = home.path("wakeport@notes-admin.socket.d/10-init.conf");
    assert!(admin.exists());
    // Files of another instance stay, whatever its name.
    let other = home.path("wakeport@notes-too.socket.d/10-init.conf");
    fs::create_dir_all(other.parent().expect("a directory")).expect("a directory of ours");
    fs::write(
        &other,
        "# Written by `wakeport init notes-too --user`, and so on\n",
    )
    .expect("a file of ours");
    let said = home.does(&with(&["--write"]));
    assert!(
        said.contains(&format!("remove  {}", admin.display())),
        "{said}"
    );
    assert!(!admin.exists() && other.exists());
}

#[test]
fn an_instance_can_change_between_drop_ins_and_complete_units() {
    let home = Home::new();
    home.does(&with(&["--write"]));
    home.does(&with(&["--write", "--standalone"]));
    let names = [
        "wakeport-control@notes.socket",
        "wakeport@notes.service",
        "wakeport@notes.socket",
    ];
    assert_eq!(files(home.0.path()), names.map(|name| home.path(name)));
    home.does(&["--remove"]);
    assert_eq!(files(home.0.path()), Vec::<PathBuf>::new());
}

#[test]
fn files_of_others_are_kept() {
    let home = Home::new();
    let path = home.path(SOCKET);
    fs::create_dir_all(path.parent().expect("a directory")).expect("a directory of ours");
    fs::write(&path, "[Socket]\nListenStream=1\n").expect("a file of ours");
    let output = home.init(&with(&["--write"]));
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("10-init.conf` exists, and") && said.contains("--force"),
        "{said}"
    );
    assert_eq!(read(&path), "[Socket]\nListenStream=1\n");
    assert!(!home.path(SERVICE).exists(), "all or nothing");
    assert!(home.does(&["--remove"]).contains("nothing to do"));
    home.does(&with(&["--write", "--force"]));
    assert!(read(&path).contains("ListenStream=127.0.0.1:8080\n"));
}

#[test]
fn nothing_is_enabled_without_a_service_manager() {
    let home = Home::new();
    let output = home.init(&with(&["--write", "--enable"]));
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("error: cannot reach systemd") && said.contains("leave out `--enable`"),
        "{said}"
    );
    assert_eq!(files(home.0.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_port_in_use_is_reported() {
    let home = Home::new();
    let taken = crate::support::Place::tcp();
    let _listener = taken.listen();
    let said = home.does(&["--listen", &taken.to_string(), "--to", "127.0.0.1:18080"]);
    assert!(
        said.contains(&format!("error: {taken} is in use by ")),
        "{said}"
    );
    assert!(
        !said.contains("unknown process"),
        "we may look at ourselves: {said}"
    );
}

#[test]
fn a_udp_port_in_use_is_reported_and_a_tcp_port_of_the_same_number_is_none() {
    let home = Home::new();
    let taken = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let at = taken.local_addr().expect("an address").to_string();
    let init = |option: &str| home.does(&[option, &at, "--to", "127.0.0.1:18080"]);
    let said = init("--listen-udp");
    assert!(
        said.contains(&format!("error: udp:{at} is in use by ")),
        "{said}"
    );
    let said = init("--listen");
    assert!(!said.contains("udp:"), "{said}");
}

#[test]
fn invalid_input_gets_one_line() {
    let home = Home::new();
    let long = format!("a=1 {}=2", "/".repeat(100).replace('/', "a+"));
    for (options, words) in [
        (
            &with(&["--metrics", "127.0.0.1:9100"])[..],
            "`--metrics` goes with `--listen`",
        ),
        (&["--to", "127.0.0.1:1"][..], "`--listen` is missing"),
        (&["--listen", "1"], "`--to` is missing"),
        (
            &["--listen", "example.org:1", "--to", "127.0.0.1:1"],
            "in numbers",
        ),
        (
            &[
                "--listen",
                "1",
                "--to",
                "127.0.0.1:1",
                "--exec",
                "a",
                "--unit",
                "b",
            ],
            "give only one of",
        ),
        (
            &["--listen", "1", "--to", "127.0.0.1:2", "--enable"],
            "--write",
        ),
        (&["--remove", "--write"], "cannot be used with"),
        (
            &["--listen-udp", "/run/a", "--to", "127.0.0.1:2"],
            "behind `udp:` comes",
        ),
        (
            &["--listen-udp", "a=99999", "--to", "127.0.0.1:2"],
            "`99999` is not a port",
        ),
        (
            &[
                "--listen",
                "1",
                "--listen",
                "udp=2",
                "--listen-udp",
                "3",
                "--to",
                "127.0.0.1:2",
            ],
            "would be for streams and for datagrams",
        ),
        (
            &[
                "--listen-udp",
                "1",
                "--to",
                "127.0.0.1:2",
                "--udp-idle-timeout",
                "10ms",
            ],
            "write `1s` or more",
        ),
        (
            &[
                "--listen-udp",
                "1",
                "--to",
                "127.0.0.1:2",
                "--udp-wake",
                "ping",
            ],
            "write `any`, `raknet`, `source`, `quic`, `wireguard`",
        ),
        (
            &["--listen", "/run/a\\", "--to", "127.0.0.1:2"],
            "ends with a backslash",
        ),
        (
            &["--listen", &long, "--to", "127.0.0.1:2"],
            "too long for a unit's name",
        ),
        (
            &["--listen", "1", "--to", "127.0.0.1:2", "--cooldown", "soon"],
            "soon",
        ),
    ] {
        let output = home.init(options);
        assert_eq!(
            output.status.code(),
            Some(64),
            "{options:?}: {}",
            text(&output)
        );
        let said = text(&output);
        assert!(
            said.contains(words) && said.lines().count() == 1,
            "{options:?}: {said}"
        );
    }
    assert_eq!(files(home.0.path()), Vec::<PathBuf>::new());
}

#[test]
fn variables_of_the_environment_are_ignored_by_init() {
    let home = Home::new();
    let mut command = wakeport(home.0.path());
    command.args(["init", "notes", "--user"]).args(ADDRESSES);
    command
        .env("WAKEPORT_COOLDOWN", "soon")
        .env("WAKEPORT_STAY", "yes");
    let output = run(&mut command, "the program itself");
    assert!(output.status.success(), "{}", text(&output));
    assert!(
        !text(&output).contains("WAKEPORT_STAY"),
        "{}",
        text(&output)
    );
}

/// notes.toml: two services, each with a listener.
const FILE: &str = "[service.films]\nlistener = \"films\"\nunit = \"jellyfin\"\nto = \"127.0.0.1:18096\"\n\
                    [service.docs]\nlistener = \"docs\"\nto = \"127.0.0.1:18000\"\n";

impl Home {
    fn with_file(text: &str) -> Self {
        let home = Self::new();
        let folder = home.0.path().join(".config/wakeport");
        fs::create_dir_all(&folder).expect("a directory of ours");
        fs::write(folder.join("notes.toml"), text).expect("a file of ours");
        home
    }
}

#[test]
fn an_instance_with_a_file_has_a_socket_for_each_listener() {
    let home = Home::with_file(FILE);
    let before = files(home.0.path());
    let listen = [
        "--listen",
        "films=127.0.0.1:8096",
        "--listen",
        "docs=127.0.0.1:8000",
    ];
    let said = home.does(&[&listen[..], &["--write"]].concat());
    assert!(
        !said.contains("error: ") && !said.contains("Environment="),
        "{said}"
    );
    let docs = read(&home.path("wakeport@notes-docs.socket.d/10-init.conf"));
    for line in [
        "ListenStream=127.0.0.1:8000",
        "FileDescriptorName=docs",
        "Service=wakeport@notes.service",
    ] {
        assert!(docs.lines().any(|found| found == line), "{docs}");
    }
    assert!(read(&home.path(SOCKET)).contains("FileDescriptorName=films\n"));
    let service = read(&home.path(SERVICE));
    assert!(
        service.contains("Requires=wakeport@notes-docs.socket\n"),
        "{service}"
    );

    // What is for the whole process becomes a variable; what is for one service is not taken.
    let said = home.does(&[&listen[..], &["--max-connections", "50", "--write"]].concat());
    assert!(
        said.contains("+ Environment=WAKEPORT_MAX_CONNECTIONS=50"),
        "{said}"
    );
    for (options, words) in [
        (
            &[&listen[..], &["--to", "127.0.0.1:1"]].concat()[..],
            "`--to` is for a single service",
        ),
        (&["--write"], "as in `--listen docs=ADDR`"),
    ] {
        let output = home.init(options);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains(words) && said.lines().count() == 1, "{said}");
    }
    for (listen, words) in [
        (
            &listen[..2],
            "error: service `docs` has the listener `docs`, and no socket is called so",
        ),
        (
            &[&listen[..], &["--listen", "more=127.0.0.1:8001"]].concat(),
            "error: listener `more` belongs to no service",
        ),
    ] {
        let said = home.does(listen);
        assert!(said.contains(words), "{said}");
    }
    home.does(&["--remove"]);
    assert_eq!(files(home.0.path()), before);
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_line_and_column() {
    let home = Home::with_file("[service.films]\nto = \"127.0.0.1:9\"\ncooldown = \"soon\"\n");
    let output = home.init(&["--listen", "127.0.0.1:8096"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(
        said.contains("wakeport/notes.toml:3:") && said.lines().count() == 1,
        "{said}"
    );
}

#[test]
fn two_instances_that_wake_the_same_unit_are_refused() {
    let home = Home::with_file(FILE);
    let init = |name: &str, options: &[&str]| {
        let mut command = wakeport(home.0.path());
        command.args(["init", name, "--user"]).args(options);
        text(&run(&mut command, "the program itself"))
    };
    let jellyfin = ["--listen", "127.0.0.1:8096", "--to", "127.0.0.1:18096"];
    init("jellyfin", &[&jellyfin[..], &["--write"]].concat());
    let said = home.does(&[
        "--listen",
        "films=127.0.0.1:8097",
        "--listen",
        "docs=127.0.0.1:8000",
    ]);
    let words =
        "error: notes/films: `jellyfin.service` is woken by `wakeport@jellyfin.service` as well";
    assert!(
        said.contains(words) && said.contains("`wakeport init jellyfin --remove`"),
        "{said}"
    );
    // The other way round, and by a variable.
    init("jellyfin", &["--remove"]);
    home.does(&[
        "--listen",
        "films=127.0.0.1:8097",
        "--listen",
        "docs=127.0.0.1:8000",
        "--write",
    ]);
    for name in ["jellyfin", "media"] {
        let said = init(name, &[&jellyfin[..], &["--unit", "jellyfin"]].concat());
        let words = "error: `jellyfin.service` is woken by `wakeport@notes.service` as well";
        assert!(said.contains(words), "{said}");
    }
    assert!(!init("other", &jellyfin).contains("error: "));
}

impl Home {
    /// notes.toml.
    fn toml(&self) -> PathBuf {
        self.0.path().join(".config/wakeport/notes.toml")
    }
}

#[test]
fn services_are_added_to_a_file_that_is_made_if_need_be() {
    let home = Home::new();
    let docs = ["--add", "Docs.example.org=paperless:18000"];
    let add = [
        &["--listen", "127.0.0.1:8080"][..],
        &docs,
        &[
            "--add",
            "*.films.example.org/app=media.target:/run/films.sock",
        ],
    ];
    let printed = home.does(&add.concat());
    let expected = "[service.paperless]\nhost = \"docs.example.org\"\nto = \"127.0.0.1:18000\"\n\n\
                    [service.\"media.target\"]\nhost = \"*.films.example.org\"\npath = \"/app\"\nto = \"/run/films.sock\"\n";
    let file = home.toml();
    assert!(
        printed.contains(&format!("# {}\n{expected}", file.display())),
        "{printed}"
    );
    assert_eq!(files(home.0.path()), Vec::<PathBuf>::new());
    home.does(&[&add.concat()[..], &["--write"]].concat());
    assert_eq!(read(&file), expected);
    let mode = fs::metadata(&file).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode, 0o644);
    assert!(read(&home.path(SOCKET)).contains("ListenStream=127.0.0.1:8080\n"));

    // Later, without what is set up already; what an administrator has written stays.
    let own = format!("# mine\n[defaults]\ncooldown = 60 # s\n\n{expected}# the end");
    fs::write(&file, &own).expect("a file of ours");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("a file of ours");
    let target = home.0.path().join("elsewhere.toml");
    fs::rename(&file, &target).expect("a file of ours");
    std::os::unix::fs::symlink(&target, &file).expect("a link");
    let units = [SOCKET, SERVICE].map(|name| fs::read_to_string(home.path(name)).ok());
    let said = home.does(&["--add", "git.example.org=gitea:[::1]:3000", "--write"]);
    assert!(
        said.starts_with(&format!("change  {}\n", file.display()))
            && said.matches("change  ").count() == 1
            && !said.contains("create  ")
            && !said.contains("remove  ")
            && said.contains("      + [service.gitea]\n"),
        "{said}"
    );
    let added = "\n\n[service.gitea]\nhost = \"git.example.org\"\nto = \"[::1]:3000\"\n";
    assert_eq!(read(&file), own + added);
    assert!(file.is_symlink());
    let mode = fs::metadata(&file).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode, 0o640);
    let now = [SOCKET, SERVICE].map(|name| fs::read_to_string(home.path(name)).ok());
    assert_eq!(units, now);

    let said = home.does(&["--remove"]);
    assert!(
        said.contains(&format!("note: `{}` stays", file.display())),
        "{said}"
    );
    assert!(file.exists());
}

#[test]
fn what_is_added_names_the_listener_that_the_other_hosts_have() {
    let home = Home::with_file(
        "[service.films]\nlistener = \"web\"\nhost = \"films.example\"\nto = \"127.0.0.1:1\"\n\
         [service.db]\nlistener = \"db\"\nto = \"127.0.0.1:2\"\n",
    );
    let listen = [
        "--listen",
        "web=127.0.0.1:8080",
        "--listen",
        "db=127.0.0.1:5432",
        "--write",
    ];
    home.does(&listen);
    let said = home.does(&["--add", "docs.example=docs:3", "--write"]);
    assert!(!said.contains("error: "), "{said}");
    let expected =
        "\n[service.docs]\nlistener = \"web\"\nhost = \"docs.example\"\nto = \"127.0.0.1:3\"\n";
    assert!(
        read(&home.toml()).ends_with(expected),
        "{}",
        read(&home.toml())
    );
}

#[test]
fn what_cannot_be_added_costs_one_line_and_changes_nothing() {
    let file = "[service.films]\nhost = \"films.example\"\nto = \"127.0.0.1:1\"\n\
                [service.docs]\nunit = \"paperless\"\nhost = \"docs.example\"\npath = \"/a\"\nto = \"127.0.0.1:2\"\n";
    let home = Home::with_file(file);
    home.does(&["--listen", "127.0.0.1:8080", "--write"]);
    let before: Vec<_> = files(home.0.path()).iter().map(|path| read(path)).collect();
    for (add, code, words) in [
        (
            &["films.example"][..],
            64,
            "write HOST=UNIT:PORT or HOST/PATH=UNIT:PORT",
        ),
        (&["films.example=18000"], 64, "write HOST=UNIT:PORT"),
        (&["=a:1"], 64, "the host is empty"),
        (&["a:80=a:1"], 64, "without a port"),
        (&["a/b/../c=a:1"], 64, "`..`"),
        (
            &["a.example=a/b:1"],
            64,
            "`/` cannot be part of a unit's name",
        ),
        (&["a.example=a:0"], 64, "port"),
        (&["a.example=a:70000"], 64, "port"),
        (&["a.example=a:localhost"], 64, "`localhost` has no port"),
        (&["a.example=a:/run/a b"], 64, "no white space"),
        (
            &["FILMS.example.=a:3"],
            64,
            "the host `films.example` with the path `/` is that of service `a` already",
        ),
        (
            &["docs.example/a/=a:3"],
            64,
            "with the path `/a` is that of service `a` already",
        ),
        (
            &["x.example=a:3", "x.example=b:4"],
            64,
            "is that of service `a` already",
        ),
        (
            &["x.example=films:3"],
            64,
            "there is a service `films` already (",
        ),
        (&["x.example=films.service:3"], 64, "notes.toml:1:10)"),
        (
            &["x.example=a:3", "y.example=a:3"],
            64,
            "there is a service `a` already (`--add`)",
        ),
        (
            &["x.example=paperless:3"],
            64,
            "the unit `paperless.service` is that of service `docs` already",
        ),
    ] {
        let mut options = vec!["--write"];
        options.extend(add.iter().flat_map(|add| ["--add", add]));
        let output = home.init(&options);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{add:?}: {said}");
        assert!(
            said.contains(words) && said.lines().count() == 1,
            "{add:?}: no `{words}` in {said}"
        );
        let after: Vec<_> = files(home.0.path()).iter().map(|path| read(path)).collect();
        assert_eq!(before, after, "{add:?}");
    }
    // What is wrong already has its place; what only a new set-up can have needs a listener.
    for (text_of_file, options, code, words) in [
        (
            "[service.films\n",
            &["--add", "a=a:1"][..],
            78,
            "notes.toml:1:15: not TOML",
        ),
        (
            file,
            &["--add", "a=a:1", "--cooldown", "1h"],
            64,
            "`--listen` is missing",
        ),
        (
            file,
            &["--add", "a=a:1", "--remove"],
            64,
            "cannot be used with",
        ),
        (
            "[service.db]\nto = \"127.0.0.1:1\"\n",
            &["--add", "a=a:1"],
            64,
            "`listener` is missing, and there are several services",
        ),
    ] {
        fs::write(home.toml(), text_of_file).expect("a file of ours");
        let output = home.init(options);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{options:?}: {said}");
        assert!(
            said.contains(words) && said.lines().count() == 1,
            "{options:?}: no `{words}` in {said}"
        );
    }
    // One that is set up for a single service.
    let home = Home::new();
    home.does(&with(&["--write"]));
    let said = text(&home.init(&["--add", "a=a:1"]));
    assert!(
        said.contains("the variable WAKEPORT_TO is for a single service")
            && said.lines().count() == 1,
        "{said}"
    );
}
