//! The commands of the READMEs, taken from the files. What cannot run here (a cloud, Java) has a stand-in;
//! containers are in `containers.rs`.

use crate::guide::{cooldown, far_server, game_server, server, sleeps};
use crate::page_runner::{CLONE, PageRunner};
use crate::rig::{Client, Rig};
use crate::services::{NEVER, PORT, SOON, URL, postgresql, psql};

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_readme_try_it_works() {
    let rig = Rig::bare();
    let _wakeport = PageRunner::new(&rig).run_in_background("README.md#try-it");
    rig.wait_for("a client is served", || rig.try_curl(URL).is_ok());
    rig.wait_for("it sleeps", || rig.processes("python3") == 0);
    rig.curl(URL);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_four_lines_of_the_readme_put_a_service_behind_wakeport() {
    let rig = Rig::bare();
    let runner = PageRunner::new(&rig);
    server(&rig, "myapp", "127.0.0.1:18000");
    rig.systemctl("enable --quiet --now myapp.service");
    cooldown(&rig, "myapp", SOON);
    runner.run_section("README.md#on-systemd-in-four-lines");

    let written = rig.ask("find /etc/systemd/system /etc/polkit-1 -name '*init.conf' -o -name '*wakeport-myapp.rules' | sort");
    assert_eq!(written.lines().count(), 3, "{written}");
    assert_eq!(
        rig.ask("systemctl is-enabled myapp.service wakeport@myapp.socket"),
        "disabled\nenabled\n"
    );
    assert!(rig.is("inactive", "myapp.service"));
    let url = "http://127.0.0.1:8000/";
    for _ in 0..2 {
        assert_eq!(rig.curl(url), "myapp\n");
        rig.wait_until_asleep("myapp");
    }
    assert_eq!(rig.starts("myapp.service"), 3, "once by hand");

    // Removal: the port is closed, and the service stays as it is.
    cooldown(&rig, "myapp", NEVER);
    assert_eq!(rig.curl(url), "myapp\n");
    rig.run(&format!("{CLONE}/systemd/uninstall"));
    assert!(rig.try_curl(url).is_err());
    assert!(rig.is("active", "myapp.service"));
    assert_eq!(
        rig.ask("systemctl list-units --all --plain --no-legend 'wakeport@*'"),
        ""
    );
    assert_eq!(
        rig.ask("find /usr/local /etc/systemd/system/*.wants -name '*wakeport*'"),
        ""
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn systemd_readme_works() {
    let rig = Rig::bare();
    let runner = PageRunner::new(&rig);
    runner.run_section("systemd/README.md");
    server(&rig, "jellyfin", "127.0.0.1:18096");
    rig.systemctl("enable --quiet --now jellyfin.service");
    rig.allow("jellyfin.service");
    runner.run_section("systemd/README.md#with-d-bus-wakeport-starts-and-stops-the-unit");
    sleeps(&rig, "jellyfin", "http://127.0.0.1:8096/");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn example_web_app_works() {
    let rig = Rig::boot();
    PageRunner::new(&rig).run_section("examples/web-app/README.md");
    rig.write("/srv/myapp/index.html", "myapp\n");
    sleeps(&rig, "myapp", URL);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn example_two_ports_works() {
    let rig = Rig::boot();
    PageRunner::new(&rig).run_section("examples/two-ports/README.md");
    rig.write("/srv/app/index.html", "app\n");
    sleeps(&rig, "app", URL);
    sleeps(&rig, "app", "http://127.0.0.1:9090/");
    assert!(rig.is("active", "wakeport@app-admin.socket"));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn example_child_process_works() {
    let rig = Rig::boot();
    PageRunner::new(&rig).run_section("examples/child-process/README.md");
    rig.write("/srv/files/index.html", "files\n");
    cooldown(&rig, "files", SOON);
    rig.systemctl("stop wakeport@files.service");
    for _ in 0..2 {
        let stays = Client::connect(PORT);
        assert_eq!(rig.curl(URL), "files\n");
        assert_eq!(rig.processes("python3"), 1);
        drop(stays);
        rig.wait_until_asleep("files");
        assert_eq!(rig.processes("python3"), 0);
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn example_postgresql_works() {
    let rig = Rig::boot();
    let unit = postgresql(&rig);
    // As it says: "For another version or cluster, change `15-main` and `15/main` everywhere."
    let cluster = unit.strip_prefix("postgresql@").expect("Debian's name");
    let (dashed, slashed) = (cluster.to_owned(), cluster.replace('-', "/"));
    let changed = move |text: &str| {
        text.replace("15-main", &dashed)
            .replace("15/main", &slashed)
    };
    let example = format!("{CLONE}/examples/postgresql");
    let runner = PageRunner::new(&rig);
    for path in rig
        .run(&format!("cd {example} && find etc -type f"))
        .lines()
    {
        let text = rig.read(&format!("{example}/{path}"));
        rig.write(&format!("{example}/{}", changed(path)), &changed(&text));
    }
    rig.systemctl(&format!("start {unit}"));
    cooldown(&rig, &unit, SOON);
    runner
        .with_edits(changed)
        .run_section("examples/postgresql/README.md");
    rig.wait_until_asleep(&unit);
    let by_socket = "psql --host=/run/postgresql --port=5432 --username=postgres -tAc";
    for _ in 0..2 {
        assert_eq!(psql(&rig, "select 6 * 7"), "42");
        rig.wait_until_asleep(&unit);
        assert_eq!(
            rig.run(&format!("{by_socket} 'show port'")).trim(),
            "5433",
            "woken by the Unix socket of the old port"
        );
        rig.wait_until_asleep(&unit);
        assert_eq!(rig.processes("postgres"), 0);
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn example_game_server_works() {
    let rig = Rig::boot();
    let runner = PageRunner::new(&rig);
    game_server(&rig);
    runner.run_section("examples/game-server/README.md");
    cooldown(&rig, "minecraft", SOON);
    rig.systemctl("stop wakeport@minecraft.service");
    for _ in 0..2 {
        let answer = rig.run("printf hello | curl -sS --max-time 60 telnet://127.0.0.1:25565");
        assert!(answer.contains("{ }"), "{answer:?}");
        rig.wait_until_asleep("minecraft");
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn example_cloud_vm_works() {
    let rig = Rig::boot();
    let runner = PageRunner::new(&rig);
    far_server(&rig, "gamebox", "192.0.2.10:7777");
    rig.run(&format!(
        "echo 192.0.2.10 gamebox.example.internal >>/etc/hosts; echo key >{CLONE}/key.json"
    ));
    rig.script(
        "/usr/local/bin/gcloud",
        "#!/bin/sh\ncase $* in\n*'instances describe gamebox'*) systemctl --quiet is-active gamebox && echo RUNNING || echo TERMINATED ;;\n\
         *'instances start gamebox'*) exec systemctl --no-ask-password start gamebox ;;\n\
         *'instances stop gamebox'*) exec systemctl --no-ask-password stop gamebox ;;\n\
         *activate-service-account*) test -r /var/lib/wakeport/key.json ;;\nesac\n",
    );
    // Its machine is this one as well, so not every address is wakeport's.
    rig.run(&format!(
        "sed -i s/=7777/=127.0.0.1:7777/ {CLONE}/examples/cloud-vm/etc/systemd/system/*/listen.conf"
    ));
    runner.run_section("examples/cloud-vm/README.md");
    sleeps(&rig, "gamebox", "http://127.0.0.1:7777/");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn example_libvirt_vm_works() {
    let rig = Rig::boot();
    let runner = PageRunner::new(&rig);
    far_server(&rig, "devbox", "192.168.122.10:22");
    rig.run("getent group libvirt || groupadd libvirt");
    rig.script(
        "/usr/local/bin/virsh",
        "#!/bin/sh\ncase $1 in\ndomstate) systemctl --quiet is-active devbox && echo running || echo 'shut off' ;;\n\
         start) exec systemctl --no-ask-password start devbox ;;\nshutdown) exec systemctl --no-ask-password stop devbox ;;\nesac\n",
    );
    runner.run_section("examples/libvirt-vm/README.md");
    // A web server does not speak first, and sshd does.
    rig.drop_in(
        "wakeport@devbox.service",
        "zy-scenario",
        "[Service]\nEnvironment=WAKEPORT_READY=connect\n",
    );
    sleeps(&rig, "devbox", "http://127.0.0.1:2222/");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn example_moving_from_hibergate_works() {
    let rig = Rig::boot();
    let runner = PageRunner::new(&rig);
    far_server(&rig, "shop", "192.0.2.20:80");
    rig.run("echo 192.0.2.20 shop.internal >>/etc/hosts");
    rig.script(
        "/usr/local/bin/kubectl",
        "#!/bin/sh\ncase $* in\n*--replicas=1) exec systemctl --no-ask-password start shop ;;\n\
         *--replicas=0) exec systemctl --no-ask-password stop shop ;;\n*readyReplicas*) echo 1 ;;\nesac\n",
    );
    runner.run_section("examples/moving-from-hibergate/README.md");
    sleeps(&rig, "shop", URL);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn example_moving_from_tcp_proxy_with_hooks_works() {
    let rig = Rig::boot();
    let runner = PageRunner::new(&rig);
    far_server(&rig, "terraria", "10.0.0.5:7777");
    rig.unit(
        "terraria-server.service",
        "[Service]\nExecStart=sleep infinity\n",
    );
    for verb in ["start", "stop"] {
        rig.run("mountpoint -q /opt || mount -t tmpfs tmpfs /opt");
        rig.script(
            &format!("/opt/terraria/hooks/{verb}_server.sh"),
            &format!("#!/bin/sh\nsystemctl --no-ask-password {verb} terraria\nsleep 1\n"),
        );
    }
    rig.run(&format!(
        "sed -i s/0.0.0.0:7777$/127.0.0.1:7777/ {CLONE}/examples/moving-from-tcp-proxy-with-hooks/etc/systemd/system/*/listen.conf"
    ));
    runner.run_section("examples/moving-from-tcp-proxy-with-hooks/README.md");
    sleeps(&rig, "terraria", "http://127.0.0.1:7777/");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn example_monitoring_works() {
    let rig = Rig::boot();
    let runner = PageRunner::new(&rig);
    rig.run(&format!(
        "cp {CLONE}/examples/monitoring/prometheus.yml /etc/prometheus/prometheus.yml"
    ));
    rig.systemctl("start prometheus.service");
    runner.run_section("examples/monitoring/README.md");
}
