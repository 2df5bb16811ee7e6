//! `wakeport wake`, `hold` and `sleep` on a booted systemd: the control socket, restarts, permissions, timers.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::rig::{Client, Rig};
use crate::services::{NEVER, PORT, SOON, TARGET, URL, alice, nginx};

const INSTANCE: &str = "wakeport@nginx.service";
const CONTROL: &str = "wakeport-control@nginx.socket";

/// nginx behind an instance that `init` has made.
fn instance(rig: &Rig, options: &str) {
    nginx(rig);
    rig.run(&format!(
        "wakeport init nginx --listen {PORT} --to {TARGET} {options} --write --enable"
    ));
}

/// What `wakeport WORDS` prints, and how it ends.
fn wakeport(rig: &Rig, words: &str) -> (i32, String) {
    by(rig, "", words)
}

/// The same by another user.
fn by(rig: &Rig, user: &str, words: &str) -> (i32, String) {
    let user = match user {
        "" => String::new(),
        user => format!("runuser -u {user} -- "),
    };
    let output = rig.attempt(&format!("{user}wakeport {words} 2>&1"));
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.code().expect("it was not killed"), said)
}

/// `wakeport hold nginx WORDS`, until it is dropped.
struct Holder(Child);

impl Holder {
    fn start(rig: &Rig, words: &str) -> Self {
        let words = ["wakeport", "hold", "nginx"]
            .into_iter()
            .chain(words.split_whitespace());
        let mut command = rig.command(words);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("nsenter can be run"))
    }

    fn runs(&mut self) -> bool {
        self.0.try_wait().expect("it is ours").is_none()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // nsenter forks for the rig's processes: its child dies with the rig.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What STATUS= says of nginx's instance.
fn status(rig: &Rig) -> String {
    rig.show("StatusText", INSTANCE)
}

#[track_caller]
fn says(rig: &Rig, words: &str) {
    let mut said = String::new();
    rig.wait_for(&format!("`{words}` in STATUS="), || {
        said = status(rig);
        said.contains(words)
    });
}

/// A connection to the control socket that is never opened anew.
struct Varlink(UnixStream);

impl Varlink {
    fn connect(rig: &Rig) -> Self {
        let stream = UnixStream::connect(rig.path("/run/wakeport.control/nginx"));
        let stream = stream.expect("the control socket is open");
        let limit = Some(Duration::from_secs(120));
        stream.set_read_timeout(limit).expect("an option");
        Self(stream)
    }

    fn call(&mut self, method: &str, parameters: &str) -> String {
        let call = format!(
            "{{\"method\":\"io.wakeport.Instance.{method}\",\"parameters\":{parameters}}}\0"
        );
        self.0.write_all(call.as_bytes()).expect("it is open");
        let mut reply = Vec::new();
        loop {
            let mut byte = [0];
            self.0.read_exact(&mut byte).expect("a reply");
            match byte {
                [0] => return String::from_utf8(reply).expect("text"),
                [byte] => reply.push(byte),
            }
        }
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_sleeping_service_is_woken_held_for_a_command_and_stopped_by_order() {
    let rig = Rig::boot();
    instance(&rig, "--cooldown 1h");
    assert!(rig.is("active", CONTROL) && rig.is("inactive", INSTANCE));
    assert_eq!(wakeport(&rig, "wake nginx"), (0, String::new()));
    assert!(rig.is("active", "nginx.service"));
    assert_eq!(wakeport(&rig, "sleep nginx"), (0, String::new()));
    rig.wait_until_asleep("nginx");
    // A backup that bypasses wakeport.
    let fetch =
        format!("wakeport hold --reason backup nginx -- curl -sS --noproxy '*' http://{TARGET}/");
    assert_eq!(rig.run(&fetch), "hello");
    assert_eq!(wakeport(&rig, "hold nginx -- sh -c 'exit 7'").0, 7);
    assert_eq!(wakeport(&rig, "sleep nginx.service").0, 0);
    rig.wait_until_asleep("nginx");
    assert_eq!(rig.said(INSTANCE, "for a request on the control socket"), 2);
    assert!(rig.said(INSTANCE, "is held by process") >= 2);
    // All by name of the instance; an unknown one is named with the remedy.
    let (code, said) = wakeport(&rig, "wake apache2");
    assert_eq!(code, 69, "{said}");
    assert!(
        said.contains("`systemctl start wakeport-control@apache2.socket`"),
        "{said}"
    );
    assert!(
        wakeport(&rig, "check nginx")
            .1
            .contains("ok: wakeport@nginx")
    );
    rig.run("wakeport init nginx --remove");
    rig.wait_until("inactive", CONTROL);
    assert!(!rig.path("/run/wakeport.control/nginx").exists());
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn holds_are_shown_and_add_up_with_clients() {
    let rig = Rig::boot();
    instance(&rig, "--cooldown 300ms");
    let backup = Holder::start(&rig, "--reason backup");
    says(&rig, "awake: 1 hold (backup), 0 served");
    let mut client = Client::connect(PORT);
    assert_eq!(client.ask_again(), "hello");
    let _other = Holder::start(&rig, "");
    says(&rig, "awake: 1 client, 2 holds (backup), 1 served");
    let (code, said) = wakeport(&rig, "sleep nginx");
    assert!(
        code == 75 && said.contains("1 client, 2 holds (backup)"),
        "{said}"
    );
    assert!(wakeport(&rig, "status").1.contains("2 holds (backup)"));
    let json = wakeport(&rig, "status nginx --json").1;
    assert!(json.contains("\"holds\": [\n"), "{json}");
    // A holder that is killed lets go.
    rig.run("pkill --signal KILL --full '[h]old nginx --reason backup'");
    drop(backup);
    says(&rig, "awake: 1 client, 1 hold, 1 served");
    drop(client);
    says(&rig, "awake: 1 hold, 1 served");
    rig.run("pkill --signal TERM --full '[w]akeport hold nginx'");
    rig.wait_until_asleep("nginx");
    let record = rig.read("/var/lib/wakeport/instances/nginx.json");
    assert!(record.contains("\"served\": 1,"), "{record}");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_connection_of_a_hold_outlives_restarts_of_wakeport() {
    let rig = Rig::boot();
    instance(&rig, "--cooldown 300ms");
    let mut varlink = Varlink::connect(&rig);
    let held = varlink.call("Hold", "{\"reason\":\"backup\"}");
    assert!(held.contains("\"held\""), "{held}");
    let mut holder = Holder::start(&rig, "--reason other");
    says(&rig, "2 holds (backup, other)");
    for _ in 0..10 {
        let before = rig.show("MainPID", INSTANCE);
        rig.systemctl(&format!("restart {INSTANCE}"));
        assert_ne!(rig.show("MainPID", INSTANCE), before);
        says(&rig, "2 holds (backup, other)");
    }
    let state = varlink.call("Describe", "{}");
    assert!(
        state.contains("\"holds\":[\"backup\",\"other\"]"),
        "{state}"
    );
    assert!(holder.runs());
    assert_eq!(
        (rig.starts("nginx.service"), rig.stops("nginx.service")),
        (1, 0)
    );
    // Beside connections that are relayed, and one that waits for nothing.
    let mut client = Client::connect(PORT);
    assert_eq!(client.ask_again(), "hello");
    rig.systemctl(&format!("restart {INSTANCE}"));
    assert_eq!(client.ask_again(), "hello");
    says(&rig, "1 client, 2 holds (backup, other)");
    drop((client, varlink));
    rig.run("pkill --full '[w]akeport hold nginx'");
    rig.wait_until_asleep("nginx");
    assert_eq!(rig.stops("nginx.service"), 1);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_request_that_waits_during_a_restart_is_answered_by_the_next_process() {
    let rig = Rig::boot();
    nginx(&rig);
    crate::services::nginx_does(
        &rig,
        "ExecStartPre=sh -c 'until test -e /run/go; do sleep 0.05; done'",
    );
    rig.run(&format!(
        "wakeport init nginx --listen {PORT} --to {TARGET} --cooldown 1h --write --enable"
    ));
    let mut varlink = Varlink::connect(&rig);
    let call = b"{\"method\":\"io.wakeport.Instance.Wake\"}\0";
    varlink.0.write_all(call).expect("it is open");
    rig.wait_until("activating", "nginx.service");
    rig.systemctl(&format!("restart {INSTANCE}"));
    rig.write("/run/go", "");
    let mut reply = [0; 17];
    varlink.0.read_exact(&mut reply).expect("a reply");
    assert_eq!(&reply, b"{\"parameters\":{}}");
    assert!(rig.is("active", "nginx.service"));
    assert_eq!(rig.starts("nginx.service"), 1);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_hold_is_taken_up_again_after_a_sigkill_of_wakeport() {
    let rig = Rig::boot();
    instance(&rig, "--cooldown 10s");
    let mut holder = Holder::start(&rig, "--reason backup");
    says(&rig, "1 hold (backup)");
    for _ in 0..5 {
        let before = rig.show("MainPID", INSTANCE);
        rig.systemctl(&format!("kill --signal KILL {INSTANCE}"));
        rig.wait_for("another process has the hold", || {
            rig.show("MainPID", INSTANCE) != before && status(&rig).contains("1 hold (backup)")
        });
    }
    assert!(holder.runs());
    assert_eq!(
        (rig.starts("nginx.service"), rig.stops("nginx.service")),
        (1, 0)
    );
    assert_eq!(rig.curl(URL), "hello");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn the_group_may_and_others_are_told_how() {
    let rig = Rig::boot();
    instance(&rig, "--cooldown 1h");
    rig.run("useradd member; usermod --append --groups wakeport member; useradd stranger");
    for verb in ["wake", "hold", "sleep"] {
        let (code, said) = by(&rig, "stranger", &format!("{verb} nginx"));
        assert_eq!(code, 77, "{verb}: {said}");
        assert!(
            said.starts_with("error: permission denied: `/run/wakeport.control/nginx` is for root")
                && said.contains("and the group wakeport;")
                && said.contains("`usermod --append --groups wakeport stranger`"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert!(rig.is("inactive", "nginx.service") && rig.is("inactive", INSTANCE));
    assert_eq!(by(&rig, "member", "wake nginx"), (0, String::new()));
    assert_eq!(by(&rig, "member", "hold nginx -- true").0, 0);
    assert_eq!(by(&rig, "member", "sleep nginx").0, 0);
    rig.wait_until_asleep("nginx");
    let mode =
        rig.run("stat --format '%a %U %G' /run/wakeport.control/nginx /run/wakeport.control");
    assert_eq!(mode, "660 root wakeport\n755 root root\n");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn force_stops_a_service_under_its_clients_and_ends_holds() {
    let rig = Rig::boot();
    instance(&rig, "--cooldown 1h");
    let mut holder = Holder::start(&rig, "");
    says(&rig, "1 hold");
    let mut client = Client::connect(PORT);
    assert_eq!(client.ask_again(), "hello");
    assert_eq!(wakeport(&rig, "sleep --force nginx"), (0, String::new()));
    assert!(rig.is("inactive", "nginx.service"));
    rig.wait_for("the holder ends", || !holder.runs());
    drop(client);
    rig.wait_until_asleep("nginx");
    assert_eq!(rig.curl(URL), "hello");
}

/// A time of day in so many minutes, as in `--until`.
fn in_minutes(rig: &Rig, minutes: i32) -> String {
    let time = rig.run(&format!("date --date '{minutes} minutes' +%H:%M"));
    time.trim().to_owned()
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_schedule_holds_the_service_at_its_times_and_stops_it_at_others() {
    let rig = Rig::boot();
    let (began, ends) = (in_minutes(&rig, -90), in_minutes(&rig, 90));
    let line = format!("--cooldown 300ms --awake {began} --until {ends}");
    instance(&rig, &line);
    // It is time already.
    says(&rig, "awake: 1 hold (schedule)");
    assert!(
        wakeport(&rig, "status nginx")
            .1
            .contains("1 hold (schedule)")
    );
    assert!(
        wakeport(&rig, "check nginx")
            .1
            .contains("ok: wakeport@nginx")
    );
    let timer = "wakeport-awake@nginx.timer";
    assert!(rig.is("active", timer) && rig.show("Persistent", timer) == "yes");
    assert_eq!(rig.show("User", "wakeport-awake@nginx.service"), "wakeport");
    // As after a reboot.
    rig.systemctl(&format!("stop {timer} {INSTANCE} nginx.service"));
    rig.wait_until("inactive", "wakeport-awake@nginx.service");
    rig.systemctl(&format!("start {timer}"));
    says(&rig, "awake: 1 hold (schedule)");
    // Another time, which is over: the machine was off then.
    let (began, ends) = (in_minutes(&rig, -90), in_minutes(&rig, -30));
    instance(
        &rig,
        &format!("--cooldown 300ms --awake {began} --until {ends}"),
    );
    rig.wait_for("it is not held", || {
        rig.said(
            "wakeport-awake@nginx.service",
            "is not held: that time is over",
        ) > 0
    });
    rig.wait_until_asleep("nginx");
    assert!(rig.is("active", timer) && rig.is("inactive", "wakeport-awake@nginx.service"));
    // One that comes by itself, and one that stops it.
    let ends = in_minutes(&rig, 90);
    instance(
        &rig,
        &format!("--cooldown 1h --awake '*:*:0/2' --until {ends} --asleep-from '*:*:1/2'"),
    );
    for timer in [timer, "wakeport-asleep@nginx.timer"] {
        rig.drop_in(timer, "soon", "[Timer]\nAccuracySec=100ms\n");
        rig.systemctl(&format!("restart {timer}"));
    }
    says(&rig, "awake: 1 hold (schedule)");
    rig.wait_for("a stop is refused", || {
        rig.said(
            "wakeport-asleep@nginx.service",
            "is not stopped: 1 hold (schedule)",
        ) > 0
    });
    rig.wait_until("inactive", "wakeport-asleep@nginx.service");
    assert_eq!(
        rig.show("Result", "wakeport-asleep@nginx.service"),
        "success"
    );
    rig.systemctl("stop wakeport-awake@nginx.service");
    says(&rig, "awake: 1 hold (schedule)");
    rig.systemctl(&format!("stop {timer}"));
    rig.wait_until_asleep("nginx");
    let said = wakeport(&rig, "check nginx").1;
    assert!(
        said.contains(&format!(
            "warning: wakeport@nginx: `{timer}` is not started; `systemctl enable --now {timer}`"
        )),
        "{said}"
    );
    // Without the options there is no schedule.
    instance(&rig, "--cooldown 300ms");
    // But for the drop-ins of the scenario.
    let ours = "find /etc/systemd/system ! -type d -path '*/wakeport*' ! -name soon.conf";
    let left = rig.run(ours);
    assert!(
        left.contains("wakeport@") && !left.contains("wakeport-a"),
        "{left}"
    );
    instance(&rig, &line);
    rig.run("wakeport init nginx --remove");
    assert_eq!(rig.run(ours), "");
    rig.wait_until("inactive", "wakeport-awake@nginx.service");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_wrong_calendar_is_one_line_and_nothing_is_written() {
    let rig = Rig::boot();
    nginx(&rig);
    let line = format!("init nginx --listen {PORT} --to {TARGET} --write --enable");
    for (options, words) in [
        (
            "--awake 'Mon..Fra 08:00' --until 18:00",
            "`Mon..Fra 08:00` is not a calendar event",
        ),
        (
            "--awake 08:00 --until late",
            "not a time of day; write it like `18:00`",
        ),
        (
            "--asleep-from whenever",
            "`whenever` is not a calendar event",
        ),
        ("--awake 08:00", "--until"),
        ("--until 18:00", "--awake"),
    ] {
        let (code, said) = wakeport(&rig, &format!("{line} {options}"));
        assert_eq!(code, 64, "{options}: {said}");
        assert!(
            said.contains(words) && said.lines().count() == 1,
            "{options}: {said}"
        );
    }
    assert!(
        !rig.path("/etc/systemd/system/wakeport@nginx.socket.d")
            .exists()
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn an_instance_made_by_hand_has_its_control_socket_with_the_first_wake_or_a_restart() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.instance("nginx", PORT, TARGET, &[SOON]);
    assert!(rig.is("inactive", CONTROL));
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_until_asleep("nginx");
    assert!(rig.is("active", CONTROL));
    assert_eq!(wakeport(&rig, "wake nginx"), (0, String::new()));
    rig.wait_until_asleep("nginx");
    // As after an upgrade from a version without it, under a client.
    rig.settings("nginx", &[NEVER]);
    rig.systemctl(&format!("stop {CONTROL}"));
    rig.run(&format!("systemctl mask --runtime {CONTROL}"));
    let mut client = Client::connect(PORT);
    assert_eq!(client.ask_again(), "hello");
    assert!(!rig.is("active", CONTROL), "it is masked");
    rig.run(&format!("systemctl unmask --runtime {CONTROL}"));
    rig.systemctl(&format!("restart {INSTANCE}"));
    rig.wait_until("active", CONTROL);
    assert_eq!(client.ask_again(), "hello");
    assert_eq!(wakeport(&rig, "hold nginx -- true"), (0, String::new()));
    // It closes with the port, and opens with it where it is enabled.
    drop(client);
    rig.systemctl(&format!("enable --quiet {CONTROL}"));
    rig.systemctl("restart wakeport@nginx.socket");
    rig.wait_until("active", CONTROL);
    rig.systemctl("stop wakeport@nginx.socket");
    rig.wait_until("inactive", CONTROL);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn floods_of_the_control_socket_leave_the_port_open_and_wakeport_free_to_exit() {
    let rig = Rig::boot();
    instance(&rig, "--cooldown 300ms");
    let connect = || UnixStream::connect(rig.path("/run/wakeport.control/nginx"));
    for _ in 0..3 {
        let all: Vec<_> = (0..300).map(|_| connect().expect("it is open")).collect();
        for mut one in all.iter().step_by(3) {
            let _ = one.write_all(b"{\"method\":");
        }
        for mut one in all.iter().skip(1).step_by(3) {
            let _ = one.write_all(&[0; 20_000]);
        }
        assert_eq!(rig.curl(URL), "hello");
        drop(all);
        rig.wait_until_asleep("nginx");
        assert!(rig.is("active", CONTROL));
    }
    // Those that stay are closed.
    let half = connect().expect("it is open");
    rig.wait_until("active", INSTANCE);
    rig.wait_until_asleep("nginx");
    let mut rest = Vec::new();
    let read = (&half).read_to_end(&mut rest);
    assert!(read.is_ok() && rest.is_empty(), "{read:?}: {rest:?}");
    assert_eq!(wakeport(&rig, "wake nginx"), (0, String::new()));
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_user_holds_her_own_services() {
    let rig = Rig::boot();
    let as_alice = alice(&rig);
    as_alice(&format!(
        "wakeport init --user notes --listen {PORT} --to {TARGET} --cooldown 300ms --write --enable"
    ));
    let page = as_alice(&format!(
        "wakeport hold --user notes -- curl -sS --noproxy '*' http://{TARGET}/"
    ));
    assert_eq!(page, "hers");
    let inactive = |unit: &str| {
        as_alice(&format!(
            "systemctl --user show --value -p ActiveState {unit}"
        ))
        .trim()
            == "inactive"
    };
    rig.wait_for("it is stopped", || {
        inactive("notes.service") && inactive("wakeport@notes.service")
    });
    as_alice("wakeport wake --user notes");
    assert_eq!(rig.curl(URL), "hers");
}

/// The number of the version of systemd.
fn version(rig: &Rig) -> u32 {
    let said = rig.run("systemctl --version");
    let number = said.split_whitespace().nth(1).unwrap_or_default();
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn varlinkctl_introspects_and_calls() {
    let rig = Rig::boot();
    instance(&rig, "--cooldown 1h");
    let socket = "/run/wakeport.control/nginx";
    if version(&rig) < 255 {
        // There is none; the interface is as it is described all the same.
        let said = Varlink::connect(&rig).call("Describe", "{}");
        assert!(said.contains("\"state\":\"asleep\""), "{said}");
        return;
    }
    let info = rig.run(&format!("varlinkctl info {socket}"));
    for words in [
        "Product: wakeport",
        "io.wakeport.Instance",
        "org.varlink.service",
    ] {
        assert!(info.contains(words), "{info}");
    }
    let all = rig.run(&format!("varlinkctl list-interfaces {socket}"));
    assert!(all.contains("io.wakeport.Instance"), "{all}");
    for interface in ["io.wakeport.Instance", "org.varlink.service"] {
        let shown = rig.run(&format!("varlinkctl introspect {socket} {interface}"));
        assert!(shown.contains(&format!("interface {interface}")), "{shown}");
        // It understands what it shows.
        rig.write("/run/interface", &shown);
        rig.run("varlinkctl validate-idl /run/interface");
    }
    let shown = rig.run(&format!(
        "varlinkctl introspect {socket} io.wakeport.Instance"
    ));
    for words in [
        "method Wake",
        "method Hold",
        "method Sleep",
        "method Describe",
        "error InUse",
    ] {
        assert!(shown.contains(words), "no `{words}` in {shown}");
    }
    let call = |method: &str, parameters: &str| {
        rig.run(&format!(
            "varlinkctl call {socket} io.wakeport.Instance.{method} '{parameters}' 2>&1"
        ))
    };
    call("Wake", "{}");
    assert!(rig.is("active", "nginx.service"));
    let described = call("Describe", "{}");
    assert!(described.contains("cooling"), "{described}");
    let held = rig.run(&format!(
        "varlinkctl call --more {socket} io.wakeport.Instance.Hold '{{\"for\":\"1s\",\"reason\":\"varlink\"}}'"
    ));
    assert!(held.contains("held") && held.contains("over"), "{held}");
    let wrong =
        format!("varlinkctl call {socket} io.wakeport.Instance.Hold '{{\"for\":\"soon\"}}' 2>&1");
    let wrong = rig.attempt(&wrong);
    assert!(!wrong.status.success(), "{wrong:?}");
    // Later versions have words of their own for the error.
    let said = String::from_utf8_lossy(&wrong.stdout).into_owned();
    let names = ["InvalidParameter", "Invalid argument"];
    assert!(names.iter().any(|name| said.contains(name)), "{said}");
    call("Sleep", "{}");
    rig.wait_until_asleep("nginx");
}
