//! Services behind wakeport: Debian's nginx and PostgreSQL, and Python's web server.

use crate::rig::Rig;

/// The port of every scenario's clients, which stays open.
pub(crate) const PORT: &str = "127.0.0.1:8080";
/// [`PORT`] as an address for curl.
pub(crate) const URL: &str = "http://127.0.0.1:8080/";
/// Where the web servers listen when they are awake.
pub(crate) const TARGET: &str = "127.0.0.1:18080";
/// A cooldown longer than any scenario.
pub(crate) const NEVER: &str = "WAKEPORT_COOLDOWN=1h";
/// A cooldown that a scenario waits out.
pub(crate) const SOON: &str = "WAKEPORT_COOLDOWN=300ms";

/// Debian's nginx.service. It listens on [`TARGET`] and answers `/?words` with `hello` and the words.
pub(crate) fn nginx(rig: &Rig) {
    nginx_with(rig, "");
}

/// The same, with more servers; `more` goes into nginx's `http` block.
pub(crate) fn nginx_with(rig: &Rig, more: &str) {
    rig.write(
        "/etc/nginx/nginx.conf",
        &format!(
            "pid /run/nginx.pid;
             error_log stderr;
             worker_rlimit_nofile 8192;
             events {{ worker_connections 4096; }}
             http {{
                 access_log off;
                 server {{ listen {TARGET} backlog=1024; return 200 hello$args; }}
                 {more}
             }}"
        ),
    );
}

/// Adds to nginx.service what it does before it starts, or to stop, in the `[Service]` section.
pub(crate) fn nginx_does(rig: &Rig, service: &str) {
    rig.drop_in(
        "nginx.service",
        "scenario",
        &format!("[Service]\n{service}\n"),
    );
}

/// A web.service of one line: up as far as systemd knows long before it answers. It listens on [`TARGET`].
pub(crate) const PYTHON: &str =
    "[Service]\nExecStart=python3 -m http.server --bind 127.0.0.1 --directory /run/rig/www 18080\n";

/// Makes [`PYTHON`] web.service, and `hello` its only page.
pub(crate) fn python(rig: &Rig) {
    rig.write("/run/rig/www/index.html", "hello");
    rig.unit("web.service", PYTHON);
}

/// A fresh PostgreSQL cluster on port 15432, whatever the host has, without passwords. Returns its unit's name.
pub(crate) fn postgresql(rig: &Rig) -> String {
    postgresql_on(rig, "15432", "trust")
}

/// The same on another port; those who do not come as its own user by the Unix socket are asked by `auth`.
pub(crate) fn postgresql_on(rig: &Rig, port: &str, auth: &str) -> String {
    let version = rig.run("ls /usr/lib/postgresql | sort --version-sort | tail -n 1");
    let version = version.trim();
    rig.run(
        "mkdir -p /etc/postgresql /var/lib/postgresql
         for dir in /etc/postgresql /var/lib/postgresql; do
             mount -t tmpfs tmpfs $dir && chown postgres: $dir || exit
         done",
    );
    rig.run(&format!(
        "pg_createcluster --port {port} {version} main -- --auth-local={} --auth-host={auth} --no-sync",
        if auth == "trust" { auth } else { "peer" }
    ));
    format!("postgresql@{version}-main")
}

/// What PostgreSQL on port 5432 answers to a query.
pub(crate) fn psql(rig: &Rig, query: &str) -> String {
    rig.run(&format!(
        "psql --host=127.0.0.1 --port=5432 --username=postgres -tAc '{query}'"
    ))
    .trim()
    .to_owned()
}

/// A user whose manager runs without her, and her own notes.service on [`TARGET`], whose only page is `hers`. Returns
/// what runs a command as her.
pub(crate) fn alice(rig: &Rig) -> impl Fn(&str) -> String {
    rig.run("useradd --home-dir /var/lib/alice --create-home --shell /bin/sh alice; loginctl enable-linger alice");
    let manager = format!("user@{}.service", rig.run("id -u alice").trim());
    rig.wait_until("active", &manager);
    rig.write(
        "/var/lib/alice/.config/systemd/user/notes.service",
        "[Service]\nExecStart=python3 -m http.server --bind 127.0.0.1 18080\n",
    );
    rig.write("/var/lib/alice/index.html", "hers");
    rig.run("chown -R alice: /var/lib/alice");
    let as_alice = |command: &str| {
        rig.run(&format!(
            "runuser -u alice -- env HOME=/var/lib/alice XDG_RUNTIME_DIR=/run/user/$(id -u alice) {command} 2>&1"
        ))
    };
    as_alice("systemctl --user daemon-reload");
    as_alice
}
