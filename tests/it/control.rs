//! The control socket: `wakeport wake`, `hold` and `sleep`, and what speaks varlink badly.

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use socket2::Socket;
use tempfile::TempDir;

use crate::support::{
    Client, HookService, Place, Run, Wakeport, directory, noise, soon, throughout, until,
};

/// An instance: its port, its control socket, and a service that hooks start and stop.
struct Instance {
    dir: TempDir,
    front: Place,
    listener: Socket,
    control: Place,
    requests: Socket,
    service: HookService,
}

/// A cooldown longer than any test.
const LONG: &str = "1h";

impl Instance {
    fn new() -> Self {
        Self::of(HookService::new())
    }

    fn of(service: HookService) -> Self {
        let (dir, front) = (directory(), Place::tcp());
        let control = Place::path(&dir);
        Self {
            listener: front.listen(),
            requests: control.listen(),
            dir,
            front,
            control,
            service,
        }
    }

    /// It stays: without systemd nothing starts it again for the next request.
    fn run(&self, cooldown: &str) -> Run {
        self.run_once(cooldown).flag("--stay")
    }

    fn run_once(&self, cooldown: &str) -> Run {
        self.service
            .run()
            .cooldown(cooldown)
            .inherit("web", &self.listener)
            .inherit("wakeport-control", &self.requests)
    }

    fn path(&self) -> PathBuf {
        match &self.control {
            Place::Path(path) => path.clone(),
            other @ (Place::Tcp(..) | Place::Abstract(_)) => panic!("{other} is no file"),
        }
    }

    /// `wakeport VERB web OPTIONS`, with this control socket.
    fn command(&self, verb: &str, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wakeport"));
        command.args([verb, "web", "--control"]).arg(self.path());
        command
            .args(options)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("TZ", "UTC")
            .stdin(Stdio::null());
        command
    }

    /// The same, to its end: the exit code, and what it says.
    fn ask(&self, verb: &str, options: &[&str]) -> (i32, String) {
        let output = self.command(verb, options).output().expect("the binary");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        (output.status.code().expect("it was not killed"), said)
    }

    fn hold(&self, options: &[&str]) -> Holder {
        let mut command = self.command("hold", options);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Holder(command.spawn().expect("the binary"))
    }

    /// A connection that speaks varlink.
    fn varlink(&self) -> Varlink {
        Varlink {
            client: self.control.connect(),
        }
    }
}

/// `wakeport hold`, until it is dropped.
struct Holder(Child);

impl Holder {
    /// Waits until it says that the service is held.
    fn holds(mut self) -> Self {
        let stderr = self.0.stderr.take().expect("a pipe");
        let mut lines = BufReader::new(stderr);
        let mut line = String::new();
        lines.read_line(&mut line).expect("it says something");
        assert!(line.starts_with("`web` is held"), "{line}");
        // It goes on to say what happens.
        thread::spawn(move || lines.lines().for_each(drop));
        self
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.0.id().cast_signed()).expect("a process ID");
        kill_process(pid, signal).expect("it runs");
    }

    fn ends(&mut self) -> ExitStatus {
        soon("the holder ends", || self.0.try_wait().expect("it is ours"))
    }

    fn runs(&mut self) -> bool {
        self.0.try_wait().expect("it is ours").is_none()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Varlink {
    client: Client,
}

impl Varlink {
    fn send(&self, call: &Value) {
        self.client
            .send([call.to_string().as_bytes(), b"\0"].concat());
    }

    fn reply(&self) -> Value {
        let mut bytes = Vec::new();
        loop {
            match self.client.take(1)[0] {
                0 => return serde_json::from_slice(&bytes).expect("JSON"),
                byte => bytes.push(byte),
            }
        }
    }

    /// Calls a method of our interface.
    fn call(&self, method: &str, parameters: Value) -> Value {
        let method = format!("io.wakeport.Instance.{method}");
        self.send(&json!({ "method": method, "parameters": parameters }));
        self.reply()
    }

    /// Waits until the other side has closed it.
    fn sees_the_end(self) {
        assert_eq!(self.client.rest().0, b"");
    }

    fn state(&self) -> String {
        let reply = self.call("Describe", json!({}));
        let state = &reply["parameters"]["services"][0]["state"];
        state.as_str().expect("a state").to_owned()
    }
}

/// The service is up while a client sees its echo.
fn serves(instance: &Instance) {
    instance.front.connect().echoes("hello");
}

#[test]
fn wake_returns_when_the_service_answers_and_the_cooldown_runs() {
    let instance = Instance::of(HookService::play(|_, call| {
        if call.event == "start" {
            thread::sleep(Duration::from_millis(100));
        }
    }));
    let wakeport = instance.run("300ms").start();
    assert_eq!(instance.ask("wake", &[]), (0, String::new()));
    assert!(instance.service.scene().place.answers());
    instance.service.reaches("stop", 1);
    wakeport.is("asleep");
    wakeport.was("cooling: stopping in");
    // That is no client.
    let served = wakeport
        .said()
        .iter()
        .any(|said| said.contains(" 1 served"));
    assert!(!served, "{:?}", wakeport.said());
    assert_eq!(instance.service.count("start"), 1);
}

#[test]
fn wake_begins_the_cooldown_anew() {
    let instance = Instance::new();
    let wakeport = instance.run(LONG).start();
    assert_eq!(instance.ask("wake", &[]).0, 0);
    wakeport.is("cooling: stopping in ");
    let before = wakeport.said().len();
    assert_eq!(instance.ask("wake", &[]).0, 0);
    until("it was in use, and is not", || {
        let said = wakeport.said().split_off(before);
        let at = |state: &str| said.iter().position(|said| said.starts_with(state));
        let (used, cools) = (at("STATUS=awake: "), at("STATUS=cooling: stopping in "));
        used.is_some() && cools > used
    });
    assert_eq!(instance.service.count("start"), 1);
}

#[test]
fn a_service_that_cannot_be_started_is_named_with_the_reason() {
    let failing = HookService::direct(|_| (), |_, call| i32::from(call.event == "start"));
    let instance = Instance::of(failing);
    let _wakeport = instance.run(LONG).start();
    for verb in ["wake", "hold"] {
        let (code, said) = instance.ask(verb, &[]);
        assert_eq!(code, 69, "{said}");
        assert!(said.starts_with("error: cannot wake `web`: "), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let (code, said) = instance.ask("hold", &["--", "echo", "it ran"]);
    assert!(code == 69 && !said.contains("it ran"), "{code}: {said}");
}

#[test]
fn a_hold_keeps_the_service_awake_until_its_process_ends() {
    for how in [Signal::TERM, Signal::INT, Signal::KILL] {
        let instance = Instance::new();
        let wakeport = instance.run("10ms").start();
        let mut holder = instance.hold(&["--reason", "backup"]).holds();
        wakeport.is("awake: 1 hold (backup)");
        throughout(Duration::from_millis(300), "it is held", || {
            instance.service.count("stop") == 0
        });
        serves(&instance);
        holder.signal(how);
        let status = holder.ends();
        assert!(status.success() || how == Signal::KILL, "{how:?}: {status}");
        instance.service.reaches("stop", 1);
        wakeport.is("asleep");
    }
}

#[test]
fn two_holds_and_a_client_add_up() {
    let instance = Instance::new();
    let wakeport = instance.run("10ms").start();
    let backup = instance.hold(&["--reason", "backup"]).holds();
    let other = instance.hold(&[]).holds();
    wakeport.is("awake: 2 holds (backup), 0 served");
    let client = instance.front.connect();
    client.echoes("hello");
    wakeport.is("awake: 1 client, 2 holds (backup), 1 served");
    drop(backup);
    wakeport.is("awake: 1 client, 1 hold, 1 served");
    drop(client);
    wakeport.is("awake: 1 hold, 1 served");
    assert_eq!(instance.service.count("stop"), 0);
    drop(other);
    instance.service.reaches("stop", 1);
    wakeport.is("asleep");
}

#[test]
fn a_hold_ends_when_its_time_is_over() {
    let instance = Instance::new();
    let wakeport = instance.run("10ms").start();
    let mut holder = instance.hold(&["--for", "300ms"]).holds();
    assert!(holder.ends().success());
    instance.service.reaches("stop", 1);
    wakeport.is("asleep");
    // By the clock.
    let now = clock() + 2;
    let wakeport = instance.run("10ms").start();
    let until = format!(
        "{:02}:{:02}:{:02}",
        now / 3600 % 24,
        now / 60 % 60,
        now % 60
    );
    let mut holder = instance.hold(&["--until", &until]).holds();
    assert!(holder.ends().success());
    wakeport.is("asleep");
}

/// Seconds since 1970, in UTC as the holders have it.
fn clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("a clock that is set").as_secs()
}

#[test]
fn a_hold_of_which_the_time_is_over_already_is_none() {
    let instance = Instance::new();
    // Nothing runs that could be asked.
    let until = ["--until", "2026-01-01 00:00"];
    let (code, said) = instance.ask("hold", &until);
    assert_eq!((code, &*said), (0, "`web` is not held: that time is over"));
    // 8:00 on New Year's Day was not yesterday, or its evening is over; at the turn of the year it is held.
    let (code, said) = instance.ask("hold", &["--since", "2001-01-01 08:00", "--until", "18:00"]);
    assert_eq!((code, &*said), (0, "`web` is not held: that time is over"));
    let (code, said) = instance.ask("hold", &["--since", "sometimes", "--until", "18:00"]);
    assert_eq!(code, 64, "{said}");
    assert!(
        said.contains("`sometimes` is not a calendar event"),
        "{said}"
    );
}

#[test]
fn an_event_that_is_not_over_holds() {
    let instance = Instance::new();
    let wakeport = instance.run("10ms").start();
    // Each second, until the end of the minute that comes in ten or eleven hours.
    let soon = clock() + 11 * 3600;
    let until = format!("{:02}:{:02}", soon / 3600 % 24, soon / 60 % 60);
    let holder = instance
        .hold(&["--since", "*-*-* *:*:00", "--until", &until])
        .holds();
    wakeport.is("awake: 1 hold");
    drop(holder);
}

#[test]
fn the_exit_code_of_the_command_is_passed_on() {
    let instance = Instance::new();
    let wakeport = instance.run("10ms").start();
    let target = instance.service.scene().place.tcp_address();
    // The service is there for the command.
    let connects = format!(
        "exec 3<>/dev/tcp/{}/{} && exit 7",
        target.ip(),
        target.port()
    );
    assert_eq!(instance.ask("hold", &["--", "bash", "-c", &connects]).0, 7);
    for (command, code) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 255"], 255),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["sh", "-c", "kill -KILL $$"], 137),
        (&["/no/such/program"], 127),
        (&["/"], 126),
    ] {
        let options = [&["--"], command].concat();
        assert_eq!(instance.ask("hold", &options).0, code, "{command:?}");
    }
    wakeport.is("asleep");
}

#[test]
fn signals_go_to_the_command() {
    let instance = Instance::new();
    let wakeport = instance.run("10ms").start();
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::USR1, "USR1"),
    ] {
        let script = format!("trap 'exit 9' {name}; echo ready; while :; do sleep 0.05; done");
        let mut holder = instance.hold(&["--", "sh", "-c", &script]);
        let stdout = holder.0.stdout.take().expect("a pipe");
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("it says something");
        assert_eq!(line, "ready\n");
        wakeport.is("awake: 1 hold");
        holder.signal(signal);
        assert_eq!(holder.ends().code(), Some(9), "{name}");
    }
    wakeport.is("asleep");
}

#[test]
fn sleep_ends_the_cooldown() {
    let instance = Instance::new();
    let wakeport = instance.run(LONG).start();
    serves(&instance);
    wakeport.is("cooling");
    assert_eq!(instance.ask("sleep", &[]), (0, String::new()));
    assert_eq!(instance.service.count("stop"), 1);
    assert!(!instance.service.scene().place.answers());
    wakeport.is("asleep");
}

#[test]
fn sleep_of_a_service_that_is_down_starts_nothing() {
    let instance = Instance::new();
    let wakeport = instance.run(LONG).start();
    assert_eq!(instance.ask("sleep", &[]).0, 0);
    wakeport.is("asleep");
    assert_eq!(instance.service.count("start"), 0);
}

#[test]
fn sleep_is_refused_while_the_service_is_in_use() {
    let instance = Instance::new();
    let wakeport = instance.run(LONG).start();
    let client = instance.front.connect();
    client.echoes("hello");
    let holder = instance.hold(&["--reason", "backup"]).holds();
    wakeport.is("awake: 1 client, 1 hold");
    let (code, said) = instance.ask("sleep", &[]);
    assert_eq!(code, 75, "{said}");
    let expected =
        "error: `web` is not stopped: 1 client, 1 hold (backup); `--force` stops it all the same";
    assert_eq!(said, expected);
    client.echoes("it was not stopped");
    drop(holder);
    wakeport.is("awake: 1 client, 1 served");
    let (code, said) = instance.ask("sleep", &[]);
    assert!(code == 75 && said.contains(": 1 client;"), "{said}");
    drop(client);
    until("it may sleep", || instance.ask("sleep", &[]).0 == 0);
    wakeport.is("asleep");
}

#[test]
fn work_refuses_a_sleep_and_force_does_not_ask() {
    let instance = Instance::new();
    let busy = crate::support::script(&instance.dir.path().join("busy"), "#!/bin/sh\nexit 1\n");
    let wakeport = instance.run(LONG).option("--busy-hook", &busy).start();
    assert_eq!(instance.ask("wake", &[]).0, 0);
    let (code, said) = instance.ask("sleep", &[]);
    assert_eq!(code, 75, "{said}");
    assert!(said.contains("the busy hook says so"), "{said}");
    wakeport.is("cooling, kept awake: the busy hook says so");
    assert_eq!(instance.service.count("stop"), 0);
    assert_eq!(instance.ask("sleep", &["--force"]).0, 0);
    assert_eq!(instance.service.count("stop"), 1);
    wakeport.is("asleep");
}

#[test]
fn what_is_frozen_is_thawed_for_a_request() {
    for options in [&[][..], &["--force"]] {
        let instance = Instance::new();
        let run = instance.run(LONG).option("--freeze-after", "50ms");
        let run = run.option("--freeze-hook", "true");
        let wakeport = run.option("--thaw-hook", "true").start();
        serves(&instance);
        wakeport.is("frozen: ");
        assert_eq!(instance.ask("wake", &[]), (0, String::new()));
        wakeport.is("frozen: ");
        let holder = instance.hold(&[]).holds();
        wakeport.is("awake: 1 hold");
        drop(holder);
        wakeport.is("frozen: ");
        assert_eq!(instance.service.count("start"), 1);
        assert_eq!(instance.ask("sleep", options), (0, String::new()));
        assert_eq!(instance.service.count("stop"), 1);
        wakeport.is("asleep");
    }
}

#[test]
fn a_thaw_that_fails_is_said() {
    let instance = Instance::new();
    let may = instance.dir.path().join("may");
    std::fs::write(&may, "").expect("a file");
    let run = instance.run(LONG).option("--freeze-after", "50ms");
    let run = run.option("--freeze-hook", "true");
    let run = run.option("--thaw-hook", format!("test -e {}", may.display()));
    let wakeport = run.start();
    serves(&instance);
    wakeport.is("frozen: ");
    std::fs::remove_file(&may).expect("it is there");
    let (code, said) = instance.ask("sleep", &[]);
    assert_eq!(code, 75, "{said}");
    assert!(
        said.contains("it cannot be thawed: the thaw hook"),
        "{said}"
    );
    assert_eq!(instance.service.count("stop"), 0);
    std::fs::write(&may, "").expect("a file");
    until("it may sleep", || instance.ask("sleep", &[]).0 == 0);
    wakeport.is("asleep");
}

#[test]
fn force_ends_holds_and_stops_under_clients() {
    let instance = Instance::of(HookService::play(|scene, call| {
        if call.event == "stop" {
            scene.crash();
        }
    }));
    let wakeport = instance.run(LONG).start();
    let client = instance.front.connect();
    client.echoes("hello");
    let mut holder = instance.hold(&[]);
    wakeport.is("awake: 1 client, 1 hold");
    let command = ["--", "sh", "-c", "echo ready; read _; exit 3"];
    let mut beside = instance.command("hold", &command);
    let beside = beside.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut beside = Holder(beside.spawn().expect("the binary"));
    wakeport.is("awake: 1 client, 2 holds");
    assert_eq!(instance.ask("sleep", &["--force"]).0, 0);
    assert_eq!(instance.service.count("stop"), 1);
    assert_eq!(holder.ends().code(), Some(75));
    // However the service takes leave of it.
    let _ = client.rest();
    // A command goes on.
    assert!(beside.runs());
    drop(beside.0.stdin.take());
    assert_eq!(beside.ends().code(), Some(3));
    // The next client starts it again.
    serves(&instance);
    assert_eq!(instance.service.count("start"), 2);
    assert_eq!(instance.ask("sleep", &["--force"]).0, 0);
    wakeport.is("asleep");
}

#[test]
fn sleep_waits_for_a_stop_and_a_wake_for_the_start_after_it() {
    let instance = Instance::of(HookService::play(|_, call| {
        if call.event == "stop" {
            thread::sleep(Duration::from_millis(300));
        }
    }));
    let wakeport = instance.run("10ms").start();
    serves(&instance);
    instance.service.reaches("stop", 1);
    let (slept, woken) = thread::scope(|scope| {
        let slept = scope.spawn(|| instance.ask("sleep", &[]).0);
        let woken = scope.spawn(|| instance.ask("wake", &[]).0);
        (
            slept.join().expect("it ends"),
            woken.join().expect("it ends"),
        )
    });
    // It may have been woken by the other one before it could be said that it sleeps.
    assert!(slept == 0 || slept == 75, "{slept}");
    assert_eq!(woken, 0);
    instance.service.reaches("start", 2);
    wakeport.is("asleep");
}

#[test]
fn a_stop_that_fails_is_said() {
    let instance = Instance::of(HookService::direct(crate::support::echo, |scene, call| {
        match call.event.as_str() {
            "start" => scene.up(),
            _ => return 1,
        }
        0
    }));
    let _wakeport = instance.run(LONG).start();
    assert_eq!(instance.ask("wake", &[]).0, 0);
    let (code, said) = instance.ask("sleep", &[]);
    assert_eq!(code, 75, "{said}");
    assert!(said.starts_with("error: `web` is not stopped: "), "{said}");
}

#[test]
fn a_hold_outlives_a_wakeport_that_is_killed() {
    let instance = Instance::new();
    let mut first = instance.run("3s").start();
    let mut holder = instance.hold(&["--reason", "backup"]).holds();
    first.is("awake: 1 hold (backup)");
    first.signal(Signal::KILL);
    first.wait();
    // systemd starts the next one.
    let second = instance.run("3s").start();
    second.is("awake: 1 hold (backup)");
    assert!(holder.runs());
    serves(&instance);
    assert_eq!(instance.service.count("stop"), 0);
    holder.signal(Signal::TERM);
    assert!(holder.ends().success());
    second.is("asleep");
}

#[test]
fn holds_do_not_delay_the_end_of_wakeport() {
    let instance = Instance::new();
    let mut wakeport = instance.run(LONG).option("--drain-timeout", "1h").start();
    let _holder = instance.hold(&[]).holds();
    wakeport.is("awake: 1 hold");
    wakeport.signal(Signal::TERM);
    wakeport.ends();
    assert_eq!(
        instance.service.count("stop"),
        0,
        "the service stays as it is"
    );
}

#[test]
fn a_closed_socket_and_a_forbidden_one_are_named() {
    let instance = Instance::new();
    let path = instance.path();
    let shown = path.display();
    std::fs::remove_file(&path).expect("a file of ours");
    let (code, said) = instance.ask("wake", &[]);
    assert_eq!(code, 69, "{said}");
    let remedy = "`systemctl start wakeport-control@web.socket` opens it";
    assert!(
        said.contains(&format!("`{shown}` is closed; {remedy}")),
        "{said}"
    );
    if rustix::process::geteuid().is_root() {
        // That may do all; tests/systemd has the others.
        return;
    }
    let closed = instance.control.listen();
    let nothing = std::os::unix::fs::PermissionsExt::from_mode(0o000);
    std::fs::set_permissions(&path, nothing).expect("a file of ours");
    let (code, said) = instance.ask("wake", &[]);
    assert_eq!(code, 77, "{said}");
    assert!(
        said.contains("usermod --append --groups wakeport"),
        "{said}"
    );
    drop(closed);
}

// -- varlink

#[test]
fn the_service_describes_itself() {
    let instance = Instance::new();
    let _wakeport = instance.run(LONG).start();
    let varlink = instance.varlink();
    varlink.send(&json!({ "method": "org.varlink.service.GetInfo" }));
    let info = varlink.reply();
    assert_eq!(info["parameters"]["product"], "wakeport");
    for interface in ["org.varlink.service", "io.wakeport.Instance"] {
        let all = info["parameters"]["interfaces"].as_array().expect("a list");
        assert!(all.contains(&json!(interface)), "{info}");
        varlink.send(&json!({
            "method": "org.varlink.service.GetInterfaceDescription",
            "parameters": { "interface": interface },
        }));
        let reply = varlink.reply();
        let text = reply["parameters"]["description"].as_str().expect("a text");
        assert!(text.contains(&format!("interface {interface}\n")), "{text}");
    }
    for (method, error) in [
        (
            "org.varlink.service.Reboot",
            "org.varlink.service.MethodNotFound",
        ),
        (
            "io.wakeport.Instance.Freeze",
            "org.varlink.service.MethodNotFound",
        ),
        (
            "io.systemd.Manager.Reboot",
            "org.varlink.service.InterfaceNotFound",
        ),
        ("", "org.varlink.service.InterfaceNotFound"),
    ] {
        varlink.send(&json!({ "method": method }));
        assert_eq!(varlink.reply()["error"], error, "{method}");
    }
    let reply = varlink.call("Hold", json!({ "for": "soon" }));
    assert_eq!(reply["error"], "org.varlink.service.InvalidParameter");
    assert_eq!(reply["parameters"]["parameter"], "for");
    assert_eq!(varlink.state(), "asleep");
    assert_eq!(instance.service.count("start"), 0);
}

#[test]
fn a_connection_holds_one_service_until_it_ends() {
    let instance = Instance::new();
    let wakeport = instance.run("10ms").start();
    let varlink = instance.varlink();
    let held = varlink.call("Hold", json!({ "reason": "by hand" }));
    assert_eq!(held, json!({ "parameters": { "state": "held" } }));
    let again = varlink.call("Hold", json!({}));
    assert_eq!(again["error"], "io.wakeport.Instance.AlreadyHeld");
    let described = varlink.call("Describe", json!({}));
    let service = &described["parameters"]["services"][0];
    assert_eq!(service["holds"], json!(["by hand"]));
    assert_eq!(
        (&service["state"], &service["clients"]),
        (&json!("awake"), &json!(0))
    );
    drop(varlink);
    instance.service.reaches("stop", 1);
    // With `more`, the end is told.
    let varlink = instance.varlink();
    varlink.send(&json!({
        "method": "io.wakeport.Instance.Hold", "more": true, "parameters": { "for": "200ms" },
    }));
    let held = json!({ "continues": true, "parameters": { "state": "held" } });
    assert_eq!(varlink.reply(), held);
    assert_eq!(
        varlink.reply(),
        json!({ "parameters": { "state": "over" } })
    );
    assert_ne!(varlink.state(), "awake");
    drop(varlink);
    // Without, the connection is closed.
    let varlink = instance.varlink();
    varlink.call("Hold", json!({ "for": "200ms" }));
    varlink.sees_the_end();
    wakeport.is("asleep");
}

#[test]
fn a_request_without_a_reply_is_carried_out() {
    let instance = Instance::new();
    let wakeport = instance.run("10ms").start();
    let varlink = instance.varlink();
    varlink.send(&json!({ "method": "io.wakeport.Instance.Wake", "oneway": true }));
    varlink.send(&json!({ "method": "io.wakeport.Instance.Nothing", "oneway": true }));
    // The first reply is this one's.
    varlink.state();
    assert_eq!(instance.service.count("start"), 1);
    drop(varlink);
    wakeport.is("asleep");
}

#[test]
fn one_that_hangs_up_while_it_waits_holds_nothing() {
    let (started, start) = std::sync::mpsc::channel::<()>();
    let start = std::sync::Mutex::new(start);
    let instance = Instance::of(HookService::play(move |_, call| {
        if call.event == "start" {
            let _ = start.lock().expect("one at a time").recv();
        }
    }));
    let wakeport = instance.run("10ms").start();
    let varlink = instance.varlink();
    varlink.send(&json!({ "method": "io.wakeport.Instance.Hold" }));
    instance.service.reaches("start", 1);
    drop(varlink);
    started.send(()).expect("the hook waits");
    instance.service.reaches("stop", 1);
    drop(started);
    wakeport.is("asleep");
    assert!(!wakeport.log().contains("is held"), "{}", wakeport.log());
}

#[test]
fn what_is_no_message_is_closed_and_the_port_works_on() {
    let instance = Instance::new();
    let wakeport = instance.run(LONG).start();
    let deep = "{\"method\":\"a\",\"parameters\":{".to_owned() + &"\"a\":{".repeat(1500);
    for bytes in [
        &b"\0"[..],
        b"GET / HTTP/1.1\r\n\r\n\0",
        b"{}\0",
        b"[]\0",
        b"{\"method\":7}\0",
        b"\xff\xfe\0",
        &[deep.as_bytes(), b"\0"].concat(),
        // Longer than any request, with an end and without.
        &[&vec![b' '; 9000][..], b"\0"].concat(),
        &noise(7, 200_000)
            .into_iter()
            .map(|byte| byte | 1)
            .collect::<Vec<_>>(),
    ] {
        let client = instance.control.connect();
        // It may be closed before all was taken.
        let _ = client.try_send(bytes);
        let (said, _) = client.rest();
        assert_eq!(
            said,
            b"",
            "{:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(40)])
        );
    }
    assert_eq!(instance.service.count("start"), 0);
    serves(&instance);
    assert_eq!(instance.ask("sleep", &[]).0, 0);
    wakeport.is("asleep");
}

#[test]
fn half_a_message_does_not_keep_wakeport_from_exiting() {
    let instance = Instance::new();
    let half = instance.control.connect();
    half.send(b"{\"method\":");
    let silent = instance.control.connect();
    let client = instance.front.connect();
    let mut wakeport = instance.run_once("10ms").start();
    client.echoes("hello");
    drop(client);
    // Both are closed in the end, and not by us.
    wakeport.ends();
    assert_eq!(half.rest().0, b"");
    assert_eq!(silent.rest().0, b"");
}

#[test]
fn many_connections_are_refused_and_keep_nothing_from_working() {
    let instance = Instance::new();
    let wakeport = instance.run("10ms").start();
    let mut all: Vec<Client> = (0..300).map(|_| instance.control.connect()).collect();
    let refused = |client: &Client| !client.is_silent();
    until("most are refused", || {
        all.iter().filter(|it| refused(it)).count() > 200
    });
    let error = all
        .iter()
        .find(|client| refused(client))
        .map(|client| client.rest().0);
    let error = String::from_utf8(error.expect("one was refused")).expect("text");
    assert!(
        error.contains("io.wakeport.Instance.TooManyConnections"),
        "{error}"
    );
    serves(&instance);
    let (code, said) = instance.ask("wake", &[]);
    assert_eq!(code, 75, "{said}");
    assert!(said.contains("no room for another connection"), "{said}");
    // As soon as there is room, it goes on.
    all.clear();
    until("there is room", || instance.ask("wake", &[]).0 == 0);
    wakeport.is("asleep");
}

#[test]
fn one_that_reads_no_reply_is_closed() {
    let instance = Instance::new();
    let wakeport = instance.run("10ms").start();
    let client = instance.control.connect();
    let call = b"{\"method\":\"org.varlink.service.GetInfo\"}\0";
    let more = || {
        let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
        rustix::net::send(client.socket(), call, flags)
    };
    // Until both ways are full, and then until it is closed.
    until("it is closed", || {
        matches!(
            more(),
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET)
        )
    });
    serves(&instance);
    wakeport.is("asleep");
}

// -- several services

#[test]
fn where_there_are_several_services_one_is_named() {
    let (dir, a, b) = (directory(), HookService::new(), HookService::new());
    let (control, front) = (Place::path(&dir), Place::tcp());
    let (requests, listener) = (control.listen(), front.listen());
    let file = dir.path().join("web.toml");
    let service = |name: &str, stage: &HookService, host: &str| {
        format!(
            "[service.{name}]\nlistener = 'web'\nhttp = true\nhost = ['{host}']\nto = '{}'\ncooldown = '1h'\n\
             start-hook = '{hook}'\nstop-hook = '{hook}'\n",
            stage.scene().place,
            hook = stage.hook()
        )
    };
    let all = [service("a", &a, "a.example"), service("b", &b, "b.example")];
    std::fs::write(&file, all.concat()).expect("a file of ours");
    let wakeport = Run::new()
        .option("--config", file.display())
        .inherit("web", &listener)
        .inherit("wakeport-control", &requests)
        .flag("--stay")
        .start();
    let Place::Path(path) = &control else {
        panic!("a path")
    };
    let ask = |verb: &str, name: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wakeport"));
        let command = command.args([verb, name, "--control"]).arg(path);
        let output = command.output().expect("the binary");
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        (output.status.code(), said)
    };
    let several = "error: `web` has several services; name one of `web/a`, `web/b`";
    for verb in ["wake", "hold", "sleep"] {
        assert_eq!(ask(verb, "web"), (Some(64), several.to_owned()));
    }
    let (code, said) = ask("wake", "web/c");
    assert_eq!(code, Some(64), "{said}");
    assert!(
        said.contains("has no service `c`; there is `web/a`, `web/b`"),
        "{said}"
    );
    assert_eq!(ask("wake", "web/b").0, Some(0));
    assert_eq!((a.count("start"), b.count("start")), (0, 1));
    wakeport.is("2 services: 1 cooling, 1 asleep");
    assert_eq!(ask("sleep", "web/b").0, Some(0));
    assert_eq!(b.count("stop"), 1);
}

// -- the next process

/// The line for a connection of the control socket, with more about it.
fn line(more: &str) -> String {
    format!(
        "{{\"version\":3,\"connections\":[{{\"listener\":\"wakeport-control\",\"peer\":null,\
         \"identified\":true,{more}}}]}}\n"
    )
}

fn stored(text: &str, socket: &impl AsFd) -> UnixStream {
    crate::handover::queue(&[(text, &[socket.as_fd()])])
}

/// Both ends of a connection.
fn pair() -> (Varlink, UnixStream) {
    let (ours, theirs) =
        Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).expect("two sockets");
    let client = Client::from(ours);
    (
        Varlink { client },
        std::os::fd::OwnedFd::from(theirs).into(),
    )
}

fn inherits(instance: &Instance, queue: &UnixStream) -> Wakeport {
    instance
        .service
        .run()
        .cooldown("10ms")
        .inherit("web", &instance.listener)
        .inherit("wakeport-connections", queue)
        .start()
}

#[test]
fn a_hold_of_an_earlier_process_goes_on() {
    let instance = Instance::new();
    instance.service.scene().up();
    let (varlink, accepted) = pair();
    let held = line("\"control\":{\"held\":{\"reason\":\"backup\",\"replies\":true}}");
    let queue = stored(&held, &accepted);
    drop(accepted);
    let mut wakeport = inherits(&instance, &queue);
    wakeport.logs("took 1 connection over from the process before");
    wakeport.is("awake: 1 hold (backup), 0 served");
    throughout(Duration::from_millis(300), "it is held", || {
        instance.service.count("stop") == 0
    });
    assert_eq!(instance.service.count("start"), 0);
    assert_eq!(varlink.state(), "awake");
    drop(varlink);
    instance.service.reaches("stop", 1);
    wakeport.ends();
}

#[test]
fn a_request_of_an_earlier_process_is_answered() {
    let instance = Instance::new();
    let (varlink, accepted) = pair();
    let call = b"{\"method\":\"io.wakeport.Instance.Wake\"}\0{\"meth";
    let file = crate::handover::rest(call);
    let text = line(&format!("\"said\":{},\"control\":{{}}", call.len()));
    let queue = crate::handover::queue(&[(&text, &[accepted.as_fd(), file.as_fd()])]);
    drop(accepted);
    let mut wakeport = inherits(&instance, &queue);
    assert_eq!(varlink.reply(), json!({ "parameters": {} }));
    assert_eq!(instance.service.count("start"), 1);
    varlink
        .client
        .send(b"od\":\"org.varlink.service.GetInfo\"}\0");
    assert_eq!(varlink.reply()["parameters"]["product"], "wakeport");
    drop(varlink);
    wakeport.ends();
}

#[test]
fn a_hold_that_was_over_meanwhile_ends_and_one_of_an_unknown_service_is_closed() {
    let instance = Instance::new();
    instance.service.scene().up();
    for (service, left) in [("", 1), ("gone", 3_600_000)] {
        let (varlink, accepted) = pair();
        let held = format!("\"control\":{{\"held\":{{\"reason\":\"\",\"left\":{left}}}}}");
        let text = line(&format!("\"service\":\"{service}\",{held}"));
        let queue = stored(&text, &accepted);
        drop(accepted);
        let mut wakeport = inherits(&instance, &queue);
        varlink.sees_the_end();
        wakeport.ends();
    }
}
