//! What the READMEs tell their readers to do, done as they say it: the commands are taken from the files.

use crate::asleep::{NEVER, SOON, URL, postgresql, psql};
use crate::rig::Rig;

/// The checkout, as a rig sees it.
const SOURCE: &str = "/run/rig/source";

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_four_lines_of_the_readme_put_a_service_behind_wakeport() {
    let rig = Rig::bare();
    rig.write("/run/rig/www/index.html", "hello");
    rig.unit(
        "myapp.service",
        "[Service]\nExecStart=python3 -m http.server --bind 127.0.0.1 --directory /run/rig/www 18000\n\
         [Install]\nWantedBy=multi-user.target\n",
    );
    rig.systemctl("enable --quiet --now myapp.service");
    // What the lines need of a clone; cargo does not run in here.
    rig.run(&format!(
        "mkdir /run/rig/clone && cp -r {SOURCE}/systemd /run/rig/clone/"
    ));
    rig.script(
        "/usr/local/sbin/cargo",
        "#!/bin/sh\n[ \"$*\" = 'build --release' ] && install -D /run/rig/wakeport target/release/wakeport\n",
    );
    cooldown(&rig, "myapp", SOON);

    let readme = rig.read(&format!("{SOURCE}/README.md"));
    let (_, section) = readme
        .split_once("\n## On systemd, in four lines\n")
        .expect("the section");
    let block = section
        .split("```")
        .nth(1)
        .and_then(|block| block.strip_prefix("sh\n"))
        .expect("a block of commands");
    assert_eq!(block.lines().count(), 4);
    obey(&rig, "/run/rig/clone", block);

    let written = rig.ask("find /etc/systemd/system /etc/polkit-1 -name '*init.conf' -o -name '*wakeport-myapp.rules' | sort");
    assert_eq!(written.lines().count(), 3, "{written}");
    assert_eq!(
        rig.ask("systemctl is-enabled myapp.service wakeport@myapp.socket"),
        "disabled\nenabled\n"
    );
    assert!(rig.is("inactive", "myapp.service"));
    let url = "http://127.0.0.1:8000/";
    for _ in 0..2 {
        assert_eq!(rig.curl(url), "hello");
        rig.wait_until_asleep("myapp");
    }
    assert_eq!(rig.starts("myapp.service"), 3, "once by hand");

    // And away again: the port is closed, and the service is as it was last.
    cooldown(&rig, "myapp", NEVER);
    assert_eq!(rig.curl(url), "hello");
    rig.run("/run/rig/clone/systemd/uninstall");
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
fn the_example_of_a_web_app_is_true() {
    let rig = Rig::boot();
    follow(&rig, "web-app", "myapp", str::to_owned);
    rig.write("/srv/myapp/index.html", "my app");
    for wakes in 1..=2 {
        assert_eq!(rig.curl(URL), "my app");
        rig.wait_until_asleep("myapp");
        assert_eq!(rig.starts("myapp.service"), wakes);
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_example_of_two_ports_is_true() {
    let rig = Rig::boot();
    follow(&rig, "two-ports", "app", str::to_owned);
    rig.write("/srv/app/index.html", "my app");
    for (wakes, url) in [URL, "http://127.0.0.1:9090/"].iter().enumerate() {
        assert_eq!(rig.curl(url), "my app");
        rig.wait_until_asleep("app");
        rig.wait_until("active", "wakeport@app-admin.socket");
        assert_eq!(rig.starts("app.service"), wakes + 1);
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_example_of_a_child_process_is_true() {
    let rig = Rig::boot();
    follow(&rig, "child-process", "files", str::to_owned);
    rig.write("/srv/files/index.html", "my files");
    for _ in 0..2 {
        assert_eq!(rig.curl(URL), "my files");
        assert_eq!(rig.processes("python3"), 1);
        rig.wait_until_asleep("files");
        assert_eq!(rig.processes("python3"), 0);
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_example_of_postgresql_is_true() {
    let rig = Rig::boot();
    let unit = postgresql(&rig);
    // As it says: "For another version or cluster, change `15-main` and `15/main` everywhere."
    let cluster = unit.strip_prefix("postgresql@").expect("Debian's name");
    follow(&rig, "postgresql", &unit, |text| {
        text.replace("15-main", cluster)
            .replace("15/main", &cluster.replace('-', "/"))
    });
    let by_socket = "psql --host=/run/postgresql --port=5432 --username=postgres -tAc";
    for wakes in 0..2 {
        assert_eq!(psql(&rig, "select 6 * 7"), "42");
        rig.wait_until_asleep(&unit);
        assert_eq!(
            rig.run(&format!("{by_socket} 'show port'")).trim(),
            "5433",
            "woken by the Unix socket of the old port"
        );
        rig.wait_until_asleep(&unit);
        assert_eq!(rig.starts(&format!("{unit}.service")), 2 * wakes + 2);
        assert_eq!(rig.processes("postgres"), 0);
    }
}

/// Does what an example's README says first, for `wakeport@NAME.socket`: its commands up to the first client.
/// `changed` is what its reader changes everywhere.
fn follow(rig: &Rig, example: &str, name: &str, changed: impl Fn(&str) -> String) {
    // `/` is read-only in a rig.
    rig.run("mount -t tmpfs tmpfs /srv");
    let clone = "/run/rig/clone";
    rig.run(&format!("mkdir -p {clone}/examples/{example}"));
    let original = format!("{SOURCE}/examples/{example}");
    for path in rig.run(&format!("cd {original} && find . -type f")).lines() {
        let text = rig.read(&format!("{original}/{path}"));
        rig.write(
            &format!("{clone}/examples/{example}/{}", changed(path)),
            &changed(&text),
        );
    }
    cooldown(rig, name, SOON);

    let readme = rig.read(&format!("{clone}/examples/{example}/README.md"));
    let commands = readme
        .lines()
        .skip_while(|line| !line.starts_with("    "))
        .map_while(|line| line.strip_prefix("    "))
        .filter(|command| command.starts_with("sudo"));
    let mut enabled = false;
    for command in commands {
        match command.strip_prefix("sudoedit /etc/polkit-1/rules.d/50-wakeport.rules") {
            Some(what) => rig.allow(what.split('"').nth(1).expect("a line to add")),
            None => obey(rig, clone, command),
        }
        enabled |= command.contains("enable --now");
    }
    assert!(enabled, "the commands of {example} are not all there");
}

/// Runs commands that a README shows, in the root of the checkout.
fn obey(rig: &Rig, checkout: &str, commands: &str) {
    rig.script("/usr/local/sbin/sudo", "#!/bin/sh\nexec \"$@\"\n");
    rig.run(&format!("set -e; cd {checkout}\n{commands}"));
}

/// Makes the cooldown one that a scenario can do with, whatever the example says.
fn cooldown(rig: &Rig, name: &str, setting: &str) {
    rig.drop_in(
        &format!("wakeport@{name}.service"),
        "zz-scenario",
        &format!("[Service]\nEnvironment={setting}\n"),
    );
}
