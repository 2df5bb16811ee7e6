//! docs/migrating.md

use super::{cooldown, docker, far_server, game_server, server, sleeps};
use crate::page_runner::PageRunner;
use crate::rig::Rig;
use crate::services::{SOON, URL};

#[test]
#[ignore = "needs root: tests/run runs it"]
fn from_systemd_socket_proxyd() {
    let rig = Rig::boot();
    let runner = PageRunner::new(&rig);
    server(&rig, "myapp", "127.0.0.1:18000");
    runner.run_section("docs/migrating.md#from-systemd-socket-proxyd");
    sleeps(&rig, "myapp", "http://127.0.0.1:8000/");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn from_sablier() {
    let rig = Rig::boot();
    let runner = PageRunner::new(&rig);
    docker(&rig);
    runner.run_section("docs/migrating.md#from-sablier");
    sleeps(&rig, "whoami", URL);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn from_lazymc() {
    let rig = Rig::boot();
    let runner = PageRunner::new(&rig);
    game_server(&rig);
    runner.run_section("docs/migrating.md#from-lazymc");
    cooldown(&rig, "minecraft", SOON);
    let answer = rig.run("printf hello | curl -sS --max-time 60 telnet://127.0.0.1:25565");
    assert!(answer.contains("{ }"), "{answer:?}");
    rig.wait_until_asleep("minecraft");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn from_the_two_with_hooks() {
    let rig = Rig::boot();
    let runner = PageRunner::new(&rig)
        .with_edits(|text| text.replace("--listen 7777", "--listen 127.0.0.1:7777"));
    far_server(&rig, "shop", "192.0.2.20:80");
    far_server(&rig, "terraria", "10.0.0.5:7777");
    rig.run("mount -t tmpfs tmpfs /opt; echo 192.0.2.20 shop.internal >>/etc/hosts");
    for (path, verb, unit) in [
        ("/opt/shop/up", "start", "shop"),
        ("/opt/shop/down", "stop", "shop"),
        ("/opt/terraria/hooks/start_server.sh", "start", "terraria"),
        ("/opt/terraria/hooks/stop_server.sh", "stop", "terraria"),
    ] {
        rig.script(
            path,
            &format!("#!/bin/sh\nexec systemctl --no-ask-password {verb} {unit}\n"),
        );
    }
    runner.run_section("docs/migrating.md#from-hibergate");
    sleeps(&rig, "shop", URL);
    runner.run_section("docs/migrating.md#from-tcp-proxy-with-hooks");
    sleeps(&rig, "terraria", "http://127.0.0.1:7777/");
}
