//! The guide: every block of commands in a page is run, section by section, on a machine that has what the section
//! assumes.

mod migrating;
mod reference;
mod recipes;
mod troubleshooting;
pub(crate) mod udp;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::page_runner::{NOT_RUN, PageRunner};
use crate::pages::Page;
use crate::rig::Rig;
use crate::services::SOON;

/// A machine prepared for a page.
fn machine() -> Rig {
    let rig = Rig::boot();
    PageRunner::new(&rig);
    rig
}

/// A page is run by scenarios that name its sections, as strings.
#[test]
fn every_command_of_every_page_is_run() {
    let mut sources = String::new();
    for dir in ["tests/systemd", "tests/systemd/guide", "tests/k8s"] {
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)).expect(dir) {
            let path = entry.expect("a listed file").path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                sources += &fs::read_to_string(&path).expect("a source file");
            }
        }
    }
    let (mut forgotten, mut left_out) = (Vec::new(), BTreeSet::new());
    for section in Page::all().iter().flat_map(Page::sections) {
        for block in section.blocks.iter().filter(|block| block.is("sh")) {
            let reason = NOT_RUN
                .iter()
                .find(|(begins, _)| block.text.starts_with(begins));
            match reason {
                Some((begins, _)) => drop(left_out.insert(*begins)),
                None if sources.contains(&format!("\"{}\"", section.place)) => (),
                None => forgotten.push(format!("{}:\n{}", section.place, block.text)),
            }
        }
    }
    assert!(
        forgotten.is_empty(),
        "commands that no scenario runs (`PageRunner::run_section`):\n{}",
        forgotten.join("\n")
    );
    assert_eq!(
        left_out.len(),
        NOT_RUN.len(),
        "NOT_RUN names what is not there"
    );
}

/// A web server's unit: it serves /srv/NAME, with one page that has its name.
pub(crate) fn server(rig: &Rig, name: &str, address: &str) {
    let (host, port) = address.rsplit_once(':').expect("an address");
    rig.run(&format!(
        "mkdir -p /srv/{name} && echo {name} >/srv/{name}/index.html"
    ));
    rig.unit(
        &format!("{name}.service"),
        &format!(
            "[Service]\nExecStart=python3 -m http.server --bind {host} --directory /srv/{name} {port}\n\
             [Install]\nWantedBy=multi-user.target\n"
        ),
    );
}

/// nginx as NAME.service, which answers NAME over TLS on this port, with a certificate for NAME.example.org.
pub(crate) fn https_server(rig: &Rig, name: &str, port: u16) {
    rig.run(&format!(
        "mkdir -p /etc/ssl && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
         -subj /CN={name}.example.org -addext subjectAltName=DNS:{name}.example.org -keyout /etc/ssl/{name}.key \
         -out /etc/ssl/{name}.crt 2>&1"
    ));
    rig.write(
        &format!("/etc/nginx/{name}.conf"),
        &format!(
            "pid /run/{name}.pid; error_log stderr; daemon off; events {{}}
             http {{
                 access_log off;
                 server {{
                     listen 127.0.0.1:{port} ssl;
                     ssl_certificate /etc/ssl/{name}.crt; ssl_certificate_key /etc/ssl/{name}.key;
                     return 200 {name};
                 }}
             }}"
        ),
    );
    rig.unit(
        &format!("{name}.service"),
        &format!(
            "[Service]\nExecStart=nginx -e stderr -c /etc/nginx/{name}.conf\n[Install]\nWantedBy=multi-user.target\n"
        ),
    );
}

/// The same, for a machine far away that programs switch on and off: they may start and stop its unit.
pub(crate) fn far_server(rig: &Rig, name: &str, address: &str) {
    let (host, _) = address.rsplit_once(':').expect("an address");
    rig.run(&format!("ip address add {host}/32 dev lo"));
    server(rig, name, address);
    rig.allow(&format!("{name}.service"));
}

/// A stand-in for a program that switches `name` on and off, by words in its command line.
pub(crate) fn switch(rig: &Rig, program: &str, name: &str, on: &str, off: &str) {
    rig.script(
        &format!("/usr/local/bin/{program}"),
        &format!(
            "#!/bin/sh\ncase $* in\n*'{on}'*) exec systemctl --no-ask-password start {name} ;;\n\
             *'{off}'*) exec systemctl --no-ask-password stop {name} ;;\nesac\n"
        ),
    );
}

/// A stand-in for Docker, which runs a web server as any container.
fn docker(rig: &Rig) {
    rig.write("/srv/whoami/index.html", "whoami\n");
    rig.script(
        "/usr/local/bin/docker",
        "#!/bin/sh\n[ \"$1\" != run ] || exec python3 -m http.server --bind 127.0.0.1 --directory /srv/whoami 18080\n",
    );
}

/// What examples/game-server takes for granted: a user, and Java, which stands for the whole game. It answers the game's own
/// question a second after its start.
pub(crate) fn game_server(rig: &Rig) {
    rig.run("useradd --system minecraft; mkdir /srv/minecraft");
    rig.script(
        "/usr/local/bin/java",
        "#!/usr/bin/env python3\nimport socket, time\nserver = socket.create_server(('127.0.0.1', 25566))\ntime.sleep(1)\n\
         while True:\n    client = server.accept()[0]\n    client.recv(64)\n    client.sendall(b'\\x05\\x00\\x03{ }')\n    client.close()\n",
    );
}

/// Overrides the cooldown for a scenario.
pub(crate) fn cooldown(rig: &Rig, name: &str, setting: &str) {
    rig.drop_in(
        &format!("wakeport@{name}.service"),
        "zz-scenario",
        &format!("[Service]\nEnvironment={setting}\n"),
    );
}

/// `name` is woken by a client of the port, serves its page, and sleeps, twice.
#[track_caller]
pub(crate) fn sleeps(rig: &Rig, name: &str, url: &str) {
    cooldown(rig, name, SOON);
    rig.systemctl(&format!("stop wakeport@{name}.service"));
    for _ in 0..2 {
        assert_eq!(rig.curl(url), format!("{name}\n"));
        rig.wait_until_asleep(name);
    }
}
