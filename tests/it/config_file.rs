//! Services from a file: what a mistake in it costs, and what weighs how much.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::support::{HookService, Place, Run, directory};

const USAGE: i32 = 64;
const CONFIG: i32 = 78;

/// A file `web.toml`, with a folder for drop-ins beside it.
struct File {
    dir: TempDir,
}

impl File {
    fn new(text: &str) -> Self {
        let file = Self { dir: directory() };
        fs::write(file.path(), text).expect("a file of ours");
        file
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("web.toml")
    }

    fn drop_in(&self, name: &str, text: &str) {
        let folder = self.dir.path().join("web.toml.d");
        fs::create_dir_all(&folder).expect("a folder of ours");
        fs::write(folder.join(name), text).expect("a file of ours");
    }

    fn run(&self) -> Run {
        Run::new().option("--config", self.path().display())
    }
}

/// A service of a file that the hooks of `stage` start and stop.
fn service(name: &str, listener: &str, stage: &HookService) -> String {
    format!(
        "[service.{name}]\nlistener = '{listener}'\nto = '{}'\nstart-hook = '{hook}'\nstop-hook = '{hook}'\n",
        stage.scene().place,
        hook = stage.hook()
    )
}

/// Exits with `code` after one line that contains all of `parts`.
fn refused(run: &Run, code: i32, parts: &[&str]) {
    let (log, status) = run.fails();
    assert_eq!(log.lines().count(), 1, "not one line:\n{log}");
    for part in parts {
        assert!(log.contains(part), "no `{part}` in: {log}");
    }
    assert_eq!(status, code, "{log}");
}

#[test]
fn a_mistake_in_a_file_costs_one_line_with_its_place() {
    for (text, parts) in [
        ("[service.a]\nto =", &["web.toml:2:5: not TOML"][..]),
        (
            "[service.a]\n  cooldwon = 1\n",
            &["web.toml:2:3: unknown key `cooldwon`; is it `cooldown`?"],
        ),
        (
            "[service.a]\nto = 'h:1'\ncooldown = 'soon'\n",
            &["web.toml:3:12: `cooldown` cannot be `soon`", "`5min 20s`"],
        ),
        (
            "[service.a]\nmax-waiting = 5\n",
            &["web.toml:2:1", "`--max-waiting`", "WAKEPORT_MAX_WAITING="],
        ),
        (
            "[service.a]\nlistener = 'x'\n",
            &["web.toml:1:10: service `a`: `to` is missing"],
        ),
        (
            "# nothing\n",
            &["web.toml` has no service", "[service.NAME]"],
        ),
        (
            "[service.a]\nlistener = 'x'\nto = '127.0.0.1:9'\n",
            &["service `a` has the listener `x`", "there are `web`"],
        ),
    ] {
        let file = File::new(text);
        let run = file.run().inherit("web", &Place::tcp().listen());
        refused(&run, CONFIG, parts);
    }
}

#[test]
fn a_mistake_in_a_drop_in_names_the_drop_in() {
    let file = File::new("[service.a]\nto = '127.0.0.1:9'\n");
    file.drop_in("10-fine.toml", "[service.a]\ncooldown = 1\n");
    file.drop_in("20-wrong.toml", "[defaults]\nunit = 'b'\n");
    let run = file.run().inherit("web", &Place::tcp().listen());
    refused(&run, CONFIG, &["web.toml.d/20-wrong.toml:2:1: `unit`"]);
}

#[test]
fn a_file_that_is_not_there_is_a_mistake_unless_it_may_be_missing() {
    let (dir, stage, front) = (directory(), HookService::new(), Place::tcp());
    let path = dir.path().join("no.toml");
    let missing = Run::new().option("--config", path.display());
    refused(
        &missing.inherit("web", &front.listen()),
        CONFIG,
        &["cannot read `", "no.toml`", "WAKEPORT_CONFIG"],
    );
    let front = Place::tcp();
    let run = stage.run().listen(&front);
    let _wakeport = run
        .variable("WAKEPORT_CONFIG", format!("-{}", path.display()))
        .start();
    front.connect().echoes("hello");
}

#[test]
fn what_a_single_service_is_cannot_be_given_beside_a_file() {
    let file = File::new("[service.a]\nto = '127.0.0.1:9'\n");
    let run = || file.run().inherit("web", &Place::tcp().listen());
    refused(
        &run().to("127.0.0.1:9"),
        USAGE,
        &["`--to` is for a single service", "web.toml"],
    );
    refused(
        &run().variable("WAKEPORT_EXEC", "true"),
        USAGE,
        &["the variable WAKEPORT_EXEC", "web.toml"],
    );
}

#[test]
fn with_a_broken_file_waiting_clients_are_reset_and_the_port_stays_open() {
    let front = Place::tcp();
    let listener = front.listen();
    let client = front.connect();
    client.send("a request");
    let file = File::new("[service.a\n");
    let run = file.run().inherit("web", &listener);
    refused(&run, CONFIG, &["web.toml:1:11: not TOML"]);
    client.is_reset();
    // The socket is systemd's, so that the next client starts the next attempt.
    let (stage, client) = (HookService::new(), front.connect());
    fs::write(file.path(), service("a", "web", &stage)).expect("a file of ours");
    let _wakeport = run.start();
    client.echoes("hello");
}

#[test]
fn a_service_of_a_file_is_woken_and_stopped_as_its_keys_say() {
    let (stage, front) = (HookService::new(), Place::tcp());
    let file = File::new(&(service("shop", "web", &stage) + "cooldown = '1h'\n"));
    // As the template has it, for an instance without a file.
    let listener = front.listen();
    let run = || {
        file.run()
            .inherit("web", &listener)
            .variable("WAKEPORT_UNIT", "web")
    };
    let client = front.connect();
    let wakeport = run().start();
    client.echoes("hello");
    drop(client);
    wakeport.is("cooling: stopping");
    drop(wakeport);
    // What weighs more: a drop-in, a variable, a flag.
    file.drop_in("local.toml", "[service.shop]\ncooldown = 'infinity'\n");
    let wakeport = run().start();
    wakeport.is("cooling: never stopping");
    drop(wakeport);
    let client = front.connect();
    let mut wakeport = run().variable("WAKEPORT_COOLDOWN", "10ms").start();
    client.echoes("hello");
    drop(client);
    stage.reaches("stop", 1);
    wakeport.ends();
    let client = front.connect();
    let wakeport = run()
        .variable("WAKEPORT_COOLDOWN", "10ms")
        .cooldown("1h")
        .start();
    client.echoes("hello");
    drop(client);
    wakeport.is("cooling: stopping");
}
