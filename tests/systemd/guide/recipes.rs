//! docs/recipes.md

use super::{docker, far_server, machine, server, sleeps, switch};
use crate::fronts::upgrades;
use crate::page_runner::PageRunner;
use crate::rig::Rig;
use crate::services::{SOON, URL, postgresql, psql};

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_web_application() {
    let rig = machine();
    server(&rig, "myapp", "127.0.0.1:18000");
    rig.systemctl("enable --quiet --now myapp.service");
    PageRunner::new(&rig).run_section("docs/recipes.md#a-web-application");
    sleeps(&rig, "myapp", "http://127.0.0.1:8000/");
    PageRunner::new(&rig).run_section("docs/recipes.md#changing-it-and-taking-it-away");
    assert!(rig.try_curl("http://127.0.0.1:8000/").is_err());
    rig.wait_for("the service is as it was", || {
        rig.try_curl("http://127.0.0.1:18000/").as_deref() == Ok("myapp\n")
    });
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_cluster_of_postgresql() {
    let rig = Rig::boot();
    let unit = postgresql(&rig);
    let cluster = unit.trim_start_matches("postgresql@").to_owned();
    rig.systemctl(&format!("start {unit}"));
    let runner = PageRunner::new(&rig).with_edits(move |text| {
        text.replace("15-main", &cluster)
            .replace("15/main", &cluster.replace('-', "/"))
            .replace("15 main", &cluster.replace('-', " "))
    });
    runner.run_section("docs/recipes.md#postgresql");
    super::cooldown(&rig, &unit, SOON);
    rig.systemctl(&format!("stop wakeport@{unit}"));
    for _ in 0..2 {
        assert_eq!(psql(&rig, "select 6 * 7"), "42");
        rig.wait_until_asleep(&unit);
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_container_as_a_unit() {
    let rig = machine();
    docker(&rig);
    PageRunner::new(&rig).run_section("docs/recipes.md#a-container");
    sleeps(&rig, "whoami", URL);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_game_server() {
    let rig = machine();
    server(&rig, "minecraft", "127.0.0.1:25566");
    PageRunner::new(&rig).run_section("docs/recipes.md#a-game-server");
    sleeps(&rig, "minecraft", "http://127.0.0.1:25565/");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_virtual_machine_in_the_cloud() {
    let rig = machine();
    far_server(&rig, "gamebox", "192.0.2.10:7777");
    switch(
        &rig,
        "gcloud",
        "gamebox",
        "instances start gamebox",
        "instances stop gamebox",
    );
    // Its machine is this one as well, so not every address is wakeport's.
    let runner = PageRunner::new(&rig)
        .with_edits(|text| text.replace("--listen 7777", "--listen 127.0.0.1:7777"));
    runner.run_section("docs/recipes.md#a-virtual-machine-in-the-cloud");
    sleeps(&rig, "gamebox", "http://127.0.0.1:7777/");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_virtual_machine_of_libvirt() {
    let rig = machine();
    far_server(&rig, "devbox", "192.168.122.10:22");
    rig.unit(
        "devbox.service",
        "[Service]\nExecStart=python3 -c \"import socket\\nserver = socket.create_server(('192.168.122.10', 22))\\n\
         while True:\\n    server.accept()[0].sendall(b'SSH-2.0-devbox\\\\n')\"\n",
    );
    switch(
        &rig,
        "virsh",
        "devbox",
        "start devbox",
        "managedsave devbox",
    );
    rig.run("getent group libvirt || groupadd libvirt");
    PageRunner::new(&rig).run_section("docs/recipes.md#a-virtual-machine-of-libvirt");
    super::cooldown(&rig, "devbox", SOON);
    for _ in 0..2 {
        let banner = rig.run("curl -sS --max-time 60 telnet://127.0.0.1:2222 </dev/null");
        assert_eq!(banner, "SSH-2.0-devbox\n");
        rig.wait_until_asleep("devbox");
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_language_model_server() {
    let rig = machine();
    server(&rig, "ollama", "127.0.0.1:0");
    rig.run("mkdir -p /srv/ollama/api && echo '{}' >/srv/ollama/api/version");
    rig.script(
        "/usr/local/bin/ollama",
        "#!/bin/sh\nexec python3 -m http.server --bind \"${OLLAMA_HOST%:*}\" --directory /srv/ollama \"${OLLAMA_HOST#*:}\"\n",
    );
    rig.unit(
        "ollama.service",
        "[Service]\nEnvironment=OLLAMA_HOST=127.0.0.1:11434\nExecStart=ollama serve\n[Install]\nWantedBy=multi-user.target\n",
    );
    rig.systemctl("enable --quiet --now ollama.service");
    PageRunner::new(&rig).run_section("docs/recipes.md#a-language-model-server");
    sleeps(&rig, "ollama", "http://127.0.0.1:11434/");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_pod_of_kubernetes() {
    let rig = machine();
    far_server(&rig, "shop", "192.0.2.20:80");
    rig.run(&format!(
        "echo 192.0.2.20 shop.internal >>/etc/hosts; echo config >{}/kubeconfig",
        crate::page_runner::CLONE
    ));
    switch(&rig, "kubectl", "shop", "--replicas=1", "--replicas=0");
    PageRunner::new(&rig).run_section("docs/recipes.md#a-pod-of-kubernetes");
    sleeps(&rig, "shop", URL);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_program_without_a_unit() {
    let rig = machine();
    PageRunner::new(&rig).run_section("docs/recipes.md#a-program-without-a-unit");
    rig.run("echo files >/srv/files/index.html");
    sleeps(&rig, "files", URL);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn two_ports_with_one_life_cycle() {
    let rig = machine();
    server(&rig, "app", "127.0.0.1:18080");
    rig.drop_in(
        "app.service",
        "admin",
        "[Service]\nExecStartPre=-/bin/true\nExecStart=\nExecStart=sh -c \
         'python3 -m http.server --bind 127.0.0.1 -d /srv/app 18080 & exec python3 -m http.server --bind 127.0.0.1 -d /srv/app 19090'\n",
    );
    PageRunner::new(&rig).run_section("docs/recipes.md#two-ports-one-life-cycle");
    sleeps(&rig, "app", "http://127.0.0.1:9090/");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn behind_a_balancer() {
    let rig = machine();
    server(&rig, "myapp", "127.0.0.1:18000");
    PageRunner::new(&rig).run_section("docs/recipes.md#behind-haproxy-or-nginx");
    // The last file is for a balancer on another machine, and this one is not.
    rig.systemctl("daemon-reload");
    rig.systemctl("restart wakeport@myapp.socket");
    assert!(rig.try_curl("http://127.0.0.1/").is_err(), "not 192.0.2.5");
    rig.run("rm /etc/systemd/system/wakeport@myapp.socket.d/balancer.conf");
    rig.systemctl("daemon-reload");
    rig.systemctl("restart wakeport@myapp.socket");
    sleeps(&rig, "myapp", "http://127.0.0.1/");
    assert!(
        rig.try_curl("http://127.0.0.1:8000/").is_err(),
        "without a header"
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_that_needs_the_client_address() {
    let rig = machine();
    PageRunner::new(&rig).run_section("docs/recipes.md#a-service-that-must-know-its-clients");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn as_an_ordinary_user() {
    let rig = machine();
    // Allowed to logged-in users; there is no login in a rig.
    rig.write(
        "/etc/polkit-1/rules.d/linger.rules",
        "polkit.addRule(function(action, subject) { \
         if (action.id == 'org.freedesktop.login1.set-self-linger') return polkit.Result.YES; });\n",
    );
    rig.systemctl("try-restart polkit.service");
    rig.run("useradd --home-dir /var/lib/alice --create-home --shell /bin/sh alice");
    let manager = "/var/lib/alice/.config/systemd/user";
    rig.write(
        &format!("{manager}/notes.service"),
        "[Service]\nExecStart=python3 -m http.server --bind 127.0.0.1 18080\n",
    );
    rig.write(
        &format!("{manager}/wakeport@notes.service.d/zz-scenario.conf"),
        &format!("[Service]\nEnvironment={}\n", SOON),
    );
    rig.run("chown -R alice: /var/lib/alice");
    PageRunner::user(&rig, "alice").run_section("docs/recipes.md#as-an-ordinary-user");
    rig.wait_for("it sleeps", || {
        rig.processes("wakeport") == 0 && rig.processes("python3") == 0
    });
    rig.curl(URL);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_that_keeps_its_port() {
    let rig = machine();
    rig.run("ip address add 192.0.2.5/32 dev lo");
    server(&rig, "stubborn", "0.0.0.0:8080");
    rig.systemctl("start stubborn.service");
    PageRunner::new(&rig).run_section("docs/recipes.md#a-service-that-keeps-its-port");
    sleeps(&rig, "stubborn", "http://192.0.2.5:8080/");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn without_any_privilege() {
    let rig = machine();
    server(&rig, "jellyfin", "127.0.0.1:18096");
    PageRunner::new(&rig).run_section("docs/recipes.md#without-any-privilege");
    sleeps(&rig, "jellyfin", "http://127.0.0.1:8096/");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn without_systemd() {
    let rig = machine();
    let runner = PageRunner::new(&rig);
    let _wakeport = runner.run_in_background("docs/recipes.md#without-systemd");
    rig.wait_for("the port is open", || rig.try_curl(URL).is_ok());
    assert!(
        rig.curl("http://127.0.0.1:19752/metrics")
            .contains("wakeport_state")
    );
}

/// The services of the recipes for many hosts, and one more.
fn hosts(rig: &Rig) {
    server(rig, "paperless", "127.0.0.1:18000");
    server(rig, "jellyfin", "127.0.0.1:18096");
    server(rig, "gitea", "127.0.0.1:13000");
    rig.run("echo 127.0.0.1 docs.example.org films.example.org auth.example.org >>/etc/hosts");
}

/// What curl prints for a page of a host, by way of `port`.
fn page(rig: &Rig, host: &str, port: u16, more: &str) -> String {
    rig.run(&format!(
        "curl -sS --fail --noproxy '*' --max-time 120 -H 'Host: {host}' {more} http://127.0.0.1:{port}/"
    ))
}

/// Each host wakes its own service alone, which sleeps again, twice.
fn each_sleeps(rig: &Rig, port: u16) {
    super::cooldown(rig, "web", SOON);
    rig.systemctl("stop wakeport@web.service");
    let all = [
        ("docs.example.org", "paperless"),
        ("films.example.org", "jellyfin"),
    ];
    for (_, unit) in all {
        rig.systemctl(&format!("stop {unit}.service"));
    }
    for (host, unit) in all.iter().cycle().take(4) {
        let other = all.iter().find(|(_, other)| other != unit).expect("two").1;
        let before = rig.starts(&format!("{other}.service"));
        assert_eq!(page(rig, host, port, ""), format!("{unit}\n"));
        rig.wait_until("inactive", &format!("{unit}.service"));
        assert_eq!(rig.starts(&format!("{other}.service")), before);
    }
}

/// The instance of the recipes, on the address that is behind a proxy.
fn behind(rig: &Rig) {
    let runner = PageRunner::new(rig).with_edits(|text| {
        text.replace("--listen 80", "--listen 127.0.0.1:8000")
            .replace("http://localhost/", "http://localhost:8000/")
    });
    runner.run_section("docs/recipes.md#many-hosts-on-one-port");
    rig.systemctl("try-restart polkit.service");
}

/// The commands of a page without TLS, since there are no certificates here.
fn without_tls(rig: &Rig) -> PageRunner<'_> {
    PageRunner::new(rig).with_edits(|text| {
        text.replace("https://", "http://")
            .replace(
                "docs.example.org, films.example.org {",
                "http://docs.example.org, http://films.example.org {",
            )
            .replace("\nauth.example.org {", "\nhttp://auth.example.org {")
    })
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn many_hosts_on_one_port() {
    let rig = machine();
    hosts(&rig);
    PageRunner::new(&rig).run_section("docs/recipes.md#many-hosts-on-one-port");
    each_sleeps(&rig, 80);
    assert_eq!(page(&rig, "git.example.org", 80, ""), "gitea\n");
    let answer = rig.run("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1/");
    assert_eq!(answer, "404");
}

/// By way of the proxy each service is woken and sleeps, and connections are upgraded.
fn serves_behind(rig: &Rig) {
    each_sleeps(rig, 80);
    upgrades(
        rig,
        "paperless.service",
        "docs.example.org",
        "127.0.0.1:18000",
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn behind_caddy() {
    let rig = machine();
    hosts(&rig);
    behind(&rig);
    without_tls(&rig).run_section("docs/recipes.md#behind-caddy");
    serves_behind(&rig);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn behind_nginx() {
    let rig = machine();
    hosts(&rig);
    behind(&rig);
    PageRunner::new(&rig).run_section("docs/recipes.md#behind-nginx");
    serves_behind(&rig);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn behind_haproxy() {
    let rig = machine();
    hosts(&rig);
    behind(&rig);
    PageRunner::new(&rig).run_section("docs/recipes.md#behind-haproxy");
    serves_behind(&rig);
}

/// An auth service that knows one session, and takes four seconds to start: longer than a request waits for a page.
fn auth(rig: &Rig) {
    rig.write(
        "/run/rig/auth.py",
        "import http.server, time\n\
         class Auth(http.server.BaseHTTPRequestHandler):\n\
         \x20   def do_GET(self):\n\
         \x20       known = self.path == '/verify' and 'session=1' in self.headers.get('Cookie', '')\n\
         \x20       self.send_response(200 if known else 401)\n\
         \x20       self.end_headers()\n\
         time.sleep(4)\n\
         http.server.ThreadingHTTPServer(('127.0.0.1', 19091), Auth).serve_forever()\n",
    );
    rig.unit(
        "auth.service",
        "[Service]\nExecStart=python3 /run/rig/auth.py\n",
    );
}

/// Only who is logged in wakes what is behind the proxy; the auth service sleeps before.
fn only_a_login_wakes(rig: &Rig) {
    super::cooldown(rig, "web", SOON);
    rig.systemctl("stop wakeport@web.service");
    rig.systemctl("stop paperless.service auth.service");
    let starts = |unit: &str| rig.starts(&format!("{unit}.service"));
    let (before, of_auth) = (starts("paperless"), starts("auth"));
    // As a browser does, for which a waiting page would do.
    let browser =
        "-H 'Accept: text/html' -H 'Sec-Fetch-Mode: navigate' -H 'Sec-Fetch-Dest: document'";
    let status = rig.run(&format!(
        "curl -s --noproxy '*' --max-time 120 -o /dev/null -w '%{{http_code}}' -H 'Host: docs.example.org' {browser} http://127.0.0.1/"
    ));
    assert_eq!(status, "401");
    assert_eq!((starts("paperless"), starts("auth")), (before, of_auth + 1));
    rig.wait_until("inactive", "auth.service");
    let login = "-H 'Cookie: session=1'";
    let said = page(rig, "docs.example.org", 80, &format!("{browser} {login}"));
    assert_eq!(said, "paperless\n");
    assert_eq!(
        (starts("paperless"), starts("auth")),
        (before + 1, of_auth + 2)
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn forward_auth() {
    let rig = machine();
    hosts(&rig);
    auth(&rig);
    behind(&rig);
    without_tls(&rig).run_section("docs/recipes.md#forward-auth-with-caddy");
    only_a_login_wakes(&rig);
    rig.systemctl("stop caddy.service");
    PageRunner::new(&rig).run_section("docs/recipes.md#forward-auth-with-nginx");
    only_a_login_wakes(&rig);
}
