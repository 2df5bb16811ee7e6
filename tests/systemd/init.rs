//! `wakeport init` on a booted machine: first use, what is in the way, removal.

use crate::rig::{Client, Rig};
use crate::services::{PORT, TARGET, URL, alice, nginx, postgresql, psql, python};

/// What `wakeport WORDS` prints, and how it ends.
fn wakeport(rig: &Rig, words: &str) -> (String, i32) {
    let output = rig.attempt(&format!("wakeport {words} 2>&1"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (said, output.status.code().expect("it was not killed"))
}

/// The same, when all goes well.
#[track_caller]
fn does(rig: &Rig, words: &str) -> String {
    let (said, code) = wakeport(rig, words);
    assert_eq!(code, 0, "wakeport {words}:\n{said}");
    said
}

/// Exits with a code, and prints all of this.
#[track_caller]
fn says(rig: &Rig, words: &str, code: i32, parts: &[&str]) {
    let (said, ended) = wakeport(rig, words);
    assert_eq!(ended, code, "wakeport {words}:\n{said}");
    for part in parts {
        assert!(
            said.contains(part),
            "no `{part}` from wakeport {words}:\n{said}"
        );
    }
}

/// Every file in /etc and what starts at boot.
fn machine(rig: &Rig) -> String {
    rig.run(
        "find /etc/systemd /etc/polkit-1 -printf '%p %m %l\\n' | sort; find /etc/systemd /etc/polkit-1 -type f | sort | xargs cat; \
         systemctl list-units --all --plain --no-legend 'wakeport@*' | cut -d' ' -f1",
    )
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_new_user_puts_nginx_behind_wakeport_with_one_line() {
    let rig = Rig::boot();
    // As Debian has it, with the port that its site comes with.
    rig.run(
        "rm -rf /var/www/html && mkdir -p /var/www/html && echo hello >/var/www/html/index.html",
    );
    rig.write(
        "/etc/nginx/nginx.conf",
        "pid /run/nginx.pid; error_log stderr; events {} http { access_log off; include /etc/nginx/site; }",
    );
    rig.write(
        "/etc/nginx/site",
        "server { listen 80; root /var/www/html; }",
    );
    rig.systemctl("enable --quiet --now nginx.service");
    let before = machine(&rig);
    let line = "init nginx --listen 80 --to 127.0.0.1:8080 --cooldown 300ms --write --enable";

    // nginx has the port itself: that is reported, and nothing is written.
    says(
        &rig,
        line,
        1,
        &[
            "error: `nginx.service` itself listens on 0.0.0.0:80",
            "JoinsNamespaceOf=nginx.service",
            "warning: `nginx.service` is enabled",
            "nothing was written",
        ],
    );
    assert_eq!(machine(&rig), before);

    // What it asks for: the port is moved, and nginx is not started at boot any more.
    rig.write(
        "/etc/nginx/site",
        "server { listen 127.0.0.1:8080; root /var/www/html; }",
    );
    rig.systemctl("restart nginx.service");
    rig.systemctl("disable --quiet nginx.service");
    let before = machine(&rig);
    let said = does(&rig, line);
    assert!(
        said.contains("create  /etc/polkit-1/rules.d/50-wakeport-nginx.rules"),
        "{said}"
    );
    assert!(
        said.contains("run     systemctl enable --now wakeport@nginx.socket"),
        "{said}"
    );
    assert!(
        !said.contains("error") && !said.contains("warning"),
        "{said}"
    );
    for _ in 0..2 {
        assert_eq!(rig.curl("http://127.0.0.1/"), "hello\n");
        rig.wait_until_asleep("nginx");
    }

    // Again, and with another address.
    let again = does(&rig, line);
    assert!(again.contains("nothing to do"), "{again}");
    let moved = line.replace("80 --to", "127.0.0.1:81 --to");
    assert!(does(&rig, &moved).contains("run     systemctl restart wakeport@nginx.socket"));
    assert_eq!(rig.curl("http://127.0.0.1:81/"), "hello\n");
    assert!(rig.try_curl("http://127.0.0.1/").is_err());
    rig.wait_until_asleep("nginx");

    // Removal.
    does(&rig, "init nginx --remove");
    assert_eq!(machine(&rig), before);
    assert!(rig.try_curl("http://127.0.0.1:81/").is_err());
    let nothing = does(&rig, "init nginx --remove");
    assert!(nothing.contains("nothing to do"), "{nothing}");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn whatever_the_umask_polkit_can_read_what_init_writes_and_a_wrong_mode_is_repaired() {
    let rig = Rig::boot();
    python(&rig);
    let line = format!("init web --listen {PORT} --to {TARGET} --cooldown 300ms --write --enable");
    let rule = "/etc/polkit-1/rules.d/50-wakeport-web.rules";
    rig.run(&format!("umask 077; wakeport {line}"));
    assert_eq!(rig.curl(URL), "hello");
    rig.wait_until_asleep("web");

    // As a copy made by hand under such a umask, or a restored backup.
    for (spoil, defect) in [
        ("chmod 640", "has the mode 640 instead of 644"),
        ("chown 4242", "belongs to the user with the ID 4242"),
    ] {
        rig.run(&format!("{spoil} {rule}; systemctl restart polkit"));
        // A rule that another user owns is read all the same.
        let denied = spoil.starts_with("chmod");
        says(
            &rig,
            "check web",
            i32::from(denied),
            &[&format!("`{rule}` {defect}")],
        );
        says(&rig, &line, 0, &[&format!("repair  {rule}: ")]);
        assert_eq!(rig.run(&format!("stat -c '%a %u' {rule}")), "644 0\n");
        does(&rig, "check web");
        assert_eq!(rig.curl(URL), "hello");
        rig.wait_until_asleep("web");
        assert!(does(&rig, &line).contains("nothing to do"));
    }

    // The directory is not ours.
    rig.run("cd /etc/polkit-1 && chown 0:0 rules.d && chmod 700 rules.d; systemctl restart polkit");
    let closed = "polkit cannot read its rules: the mode of `/etc/polkit-1/rules.d` is 700; `chmod 755 /etc/polkit-1/rules.d`";
    says(&rig, "check web", 1, &[closed]);
    says(&rig, &line, 1, &[closed, "nothing was written"]);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn each_obstacle_on_a_real_machine_is_reported() {
    let rig = Rig::boot();
    python(&rig);
    let init = "init web --listen 8080 --to 127.0.0.1:18080";
    let trap = |settings: &str, words: &str| {
        rig.drop_in("web.service", "trap", settings);
        let said = does(&rig, init);
        assert!(said.contains(words), "no `{words}`:\n{said}");
        rig.drop_in("web.service", "trap", "");
    };
    let clean = does(&rig, init);
    assert!(
        !clean.contains("error:") && !clean.contains("warning:"),
        "{clean}"
    );
    assert!(
        clean.contains("note: `web.service` is Type=simple"),
        "{clean}"
    );
    trap(
        "[Unit]\nStopWhenUnneeded=yes\n",
        "error: `web.service` has StopWhenUnneeded=yes",
    );
    trap(
        "[Service]\nRestart=always\n",
        "warning: `web.service` has Restart=always",
    );
    trap(
        "[Service]\nType=oneshot\n",
        "error: `web.service` is Type=oneshot",
    );
    trap(
        "[Unit]\nRefuseManualStart=yes\n",
        "error: `web.service` has RefuseManualStart=",
    );
    trap(
        "[Unit]\nStartLimitIntervalSec=1h\n",
        "note: `web.service` may be started 5 times in 1h",
    );
    trap(
        "[Unit]\nStartLimitAction=reboot\n",
        "warning: `web.service` has StartLimitAction=reboot",
    );
    trap(
        "[Service]\nTimeoutStartSec=10min\n",
        "warning: `web.service` may take 10min to start",
    );
    trap("[Install]\nWantedBy=multi-user.target\n", "");
    rig.unit("web.timer", "[Timer]\nOnCalendar=daily\n");
    rig.systemctl("start web.timer");
    trap("", "warning: `web.timer` starts `web.service` as well");
    rig.systemctl("stop web.timer");
    rig.unit("always.target", "[Unit]\nUpholds=web.service\n");
    rig.systemctl("start always.target");
    trap(
        "",
        "error: `web.service` is started again whenever it stops, by Upholds= of `always.target`",
    );
    rig.systemctl("stop always.target web.service");
    rig.run("rm /etc/systemd/system/always.target");

    says(
        &rig,
        "init gone --listen 8080 --to 127.0.0.1:1",
        0,
        &["error: unit `gone.service` does not exist"],
    );
    rig.systemctl("mask --quiet --runtime nginx.service");
    says(
        &rig,
        "init nginx --listen 8080 --to 127.0.0.1:1",
        0,
        &["error: `nginx.service` is masked"],
    );
    rig.systemctl("unmask --quiet --runtime nginx.service");

    // The owner of the port is named: another service, a socket of systemd, a program without a unit.
    nginx(&rig);
    rig.systemctl("start nginx.service");
    let taken = "init web --listen 18080 --to 127.0.0.1:18081";
    says(
        &rig,
        taken,
        0,
        &["error: 127.0.0.1:18080 is in use by `nginx.service`"],
    );
    // An ordinary user gets what is visible to him.
    says(
        &rig,
        &format!("run --help >/dev/null; runuser -u daemon -- wakeport {taken}"),
        0,
        &["is in use by a process of the user with the ID 0 (run this as root to see which)"],
    );
    rig.systemctl("stop nginx.service");
    rig.unit(
        "other.socket",
        "[Socket]\nListenStream=127.0.0.1:18080\nService=web.service\n",
    );
    rig.systemctl("start other.socket");
    says(
        &rig,
        &format!("run --help >/dev/null; runuser -u daemon -- wakeport {taken}"),
        0,
        &["is in use by `other.socket`"],
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_template_instance_with_two_addresses_works_with_one_line() {
    let rig = Rig::boot();
    let unit = postgresql(&rig);
    does(
        &rig,
        &format!(
            "init {unit} --listen 127.0.0.1:5432 --to 127.0.0.1:15432 --cooldown 300ms --write --enable"
        ),
    );
    for _ in 0..2 {
        assert_eq!(psql(&rig, "select 6 * 7"), "42");
        rig.wait_until_asleep(&unit);
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_child_process_and_hooks_work_with_one_line_each() {
    let rig = Rig::boot();
    let before = machine(&rig);
    rig.write("/var/www/index.html", "hello");
    does(
        &rig,
        "init files --listen 8080 --to 127.0.0.1:18080 --cooldown 300ms --write --enable \
         --exec 'python3 -m http.server --bind 127.0.0.1 --directory /var/www 18080'",
    );
    // What is hard to quote reaches the hook as it was typed.
    rig.script(
        "/usr/local/bin/odd",
        "#!/bin/sh\nprintf '%s\\n' \"odd: $*\"\n",
    );
    does(
        &rig,
        r#"init odd --listen 8081 --to 127.0.0.1:18080 --cooldown 1h --start-timeout 10s --write --enable --start-hook 'odd "100% $HOME" "it'\''s" "\\" ü'"#,
    );
    let held = Client::connect(PORT);
    assert_eq!(rig.curl(URL), "hello");
    assert_eq!(rig.curl("http://127.0.0.1:8081/"), "hello");
    drop(held);
    rig.wait_until("inactive", "wakeport@files.service");
    // The target is gone, so this client starts it by the hook, in vain.
    let _ = rig.try_curl("http://127.0.0.1:8081/");
    rig.wait_for("the hook has run", || {
        rig.said("wakeport@odd.service", "odd: 100% $HOME it's \\ ü") > 0
    });
    does(&rig, "init files --remove");
    does(&rig, "init odd --remove");
    assert_eq!(machine(&rig), before);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn two_named_listeners_and_two_units_share_one_life_cycle() {
    let rig = Rig::boot();
    let before = machine(&rig);
    rig.write("/run/rig/www/index.html", "hello");
    let server = |port: &str| {
        format!(
            "[Service]\nExecStart=python3 -m http.server --bind 127.0.0.1 --directory /run/rig/www {port}\n"
        )
    };
    rig.write("/run/systemd/system/shop-web.service", &server("18080"));
    rig.write("/run/systemd/system/shop-admin.service", &server("18081"));
    rig.systemctl("daemon-reload");
    does(
        &rig,
        "init shop --unit shop-web --unit shop-admin --listen web=8080 --listen admin=/run/shop.sock \
         --to web=127.0.0.1:18080 --to admin=127.0.0.1:18081 --cooldown 300ms --write --enable",
    );
    for _ in 0..2 {
        assert_eq!(
            rig.run("curl -sS --fail --unix-socket /run/shop.sock http://x/"),
            "hello"
        );
        assert_eq!(rig.curl(URL), "hello");
        rig.wait_until("inactive", "shop-web.service");
        rig.wait_until("inactive", "shop-admin.service");
        rig.wait_until("inactive", "wakeport@shop.service");
    }
    // With one listener less, its socket goes.
    does(
        &rig,
        "init shop --unit shop-web --listen web=8080 --to web=127.0.0.1:18080 --cooldown 300ms --write --enable",
    );
    assert!(rig.is("inactive", "wakeport@shop-admin.socket"));
    assert_eq!(rig.curl(URL), "hello");
    does(&rig, "init shop --remove");
    assert_eq!(machine(&rig), before);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn complete_units_need_nothing_but_the_program() {
    let rig = Rig::bare();
    let before = machine(&rig);
    python(&rig);
    rig.run("userdel wakeport 2>/dev/null; mkdir /usr/lib/wakeport; cp /run/rig/wakeport /usr/lib/wakeport/");
    let init = "/usr/lib/wakeport/wakeport init web";
    let line = format!(
        "{init} --standalone --listen {PORT} --to {TARGET} --cooldown 300ms --write --enable"
    );
    rig.run(&line);
    for _ in 0..2 {
        assert_eq!(rig.curl(URL), "hello");
        rig.wait_until_asleep("web");
    }
    // Without the installed units, drop-ins are of no use: it is said.
    rig.run(&format!("{init} --remove"));
    let said = rig.ask(&format!("{init} --listen {PORT} --to {TARGET} 2>&1"));
    assert!(
        said.contains(
            "error: the units `wakeport@.socket` and `wakeport@.service` are not installed"
        ),
        "{said}"
    );
    rig.run("rm /etc/systemd/system/web.service; systemctl daemon-reload");
    assert_eq!(machine(&rig), before);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_user_puts_a_service_of_the_user_manager_behind_wakeport_with_one_line() {
    let rig = Rig::boot();
    let as_alice = alice(&rig);
    // All but the record, which systemd keeps in the one place or the other (from 254 on).
    let files = "find /var/lib/alice -not -path */.config/wakeport* -not -path */.local* | sort";
    let before = as_alice(files);
    let line = format!(
        "wakeport init notes --user --listen {PORT} --to {TARGET} --cooldown 300ms --write --enable"
    );
    let said = as_alice(&line);
    assert!(
        !said.contains("polkit") && !said.contains("error") && !said.contains("warning"),
        "{said}"
    );
    assert_eq!(rig.curl(URL), "hers");
    rig.wait_for("notes.service sleeps", || {
        rig.processes("wakeport") == 0 && rig.processes("python3") == 0
    });
    assert_eq!(rig.curl(URL), "hers");
    assert!(as_alice(&line).contains("nothing to do"));

    as_alice("wakeport init notes --user --remove");
    assert!(rig.try_curl(URL).is_err());
    let after = as_alice(files);
    assert_eq!(after, before);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn without_a_session_a_user_reaches_her_manager_or_nothing_is_written() {
    let rig = Rig::boot();
    let as_alice = alice(&rig);
    // As su(1) and cron(8) leave it: no XDG_RUNTIME_DIR.
    let wakeport = format!(
        "runuser -u alice -- env HOME=/var/lib/alice wakeport init notes --user --listen {PORT} --to {TARGET} --cooldown 300ms --write --enable 2>&1"
    );
    let said = rig.run(&wakeport);
    assert!(
        said.contains("run     systemctl --user enable --now wakeport@notes.socket"),
        "{said}"
    );
    assert_eq!(rig.curl(URL), "hers");
    rig.run("runuser -u alice -- env HOME=/var/lib/alice wakeport init notes --user --remove");
    let before = as_alice("find /var/lib/alice/.config | sort");

    let manager = format!("user@{}.service", rig.run("id -u alice").trim());
    rig.run("loginctl disable-linger alice");
    rig.wait_until("inactive", &manager);
    let refused = rig.attempt(&wakeport);
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("(`loginctl enable-linger`)") && said.contains("nothing was written"),
        "{said}"
    );
    assert_eq!(rig.run("find /var/lib/alice/.config | sort"), before);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_with_a_network_of_its_own_keeps_its_port() {
    let rig = Rig::boot();
    rig.write("/run/rig/www/index.html", "hello");
    // It takes the port on every address, and can do nothing else.
    rig.unit(
        "web.service",
        "[Service]\nExecStart=python3 -m http.server --directory /run/rig/www 8080\n",
    );
    let network =
        |other: &str| format!("[Unit]\nJoinsNamespaceOf={other}\n[Service]\nPrivateNetwork=yes\n");
    rig.drop_in("web.service", "network", &network("wakeport@web.service"));
    rig.drop_in("wakeport@web.service", "network", &network("web.service"));
    // The rig has no other address than these.
    let front = "127.0.0.2:8080";
    let line = format!("init web --listen {front} --to {PORT} --cooldown 300ms --write --enable");
    does(&rig, &line);
    for _ in 0..2 {
        assert_eq!(rig.curl(&format!("http://{front}/")), "hello");
        rig.wait_until_asleep("web");
    }
    does(&rig, "check web");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_service_is_added_to_an_instance_that_runs() {
    let rig = Rig::boot();
    python(&rig);
    rig.unit(
        "docs.service",
        "[Service]\nExecStart=python3 -m http.server --bind 127.0.0.1 --directory /run/rig/www 18081\n",
    );
    let ask = |host: &str| {
        rig.ask(&format!(
            "curl -s --noproxy '*' --max-time 120 -w ' %{{http_code}}' -H 'Host: {host}' {URL}"
        ))
    };
    let listen = "init front --listen 127.0.0.1:8080";
    says(
        &rig,
        &format!("{listen} --add web.example=web:18080"),
        0,
        &[
            "# /etc/wakeport/front.toml\n[service.web]\n",
            "next: systemctl daemon-reload && systemctl enable --now",
        ],
    );
    does(
        &rig,
        &format!("{listen} --add web.example=web:18080 --write --enable"),
    );
    // As for `Rig::allow`.
    rig.systemctl("try-restart polkit.service");
    let unknown = ask("docs.example");
    assert!(unknown.ends_with(" 404"), "{unknown}");
    assert_eq!(ask("web.example"), "hello 200");
    let idle = Client::connect(PORT);
    let pid = rig.show("MainPID", "wakeport@front.service");

    let more = "init front --add docs.example/=docs:18081";
    says(
        &rig,
        &format!("{more} --write"),
        0,
        &[
            "change  /etc/wakeport/front.toml",
            "      + [service.docs]",
            "change  /etc/polkit-1/rules.d/50-wakeport-front.rules",
            "\"docs.service\", \"web.service\"",
            "next: systemctl try-reload-or-restart wakeport@front.service, or the same with --write --enable",
        ],
    );
    rig.systemctl("try-restart polkit.service");
    rig.systemctl("reload wakeport@front.service");
    rig.wait_for("the next request goes to the new service", || {
        ask("docs.example") == "hello 200"
    });
    assert_eq!(rig.show("MainPID", "wakeport@front.service"), pid);
    says(&rig, "check front", 0, &["ok: wakeport@front"]);

    // By itself with `--enable`.
    rig.unit("third.service", "[Service]\nExecStart=sleep infinity\n");
    let third = "init front --add third.example=third:18082 --write --enable";
    says(
        &rig,
        third,
        0,
        &["run     systemctl try-reload-or-restart wakeport@front.service"],
    );
    // Quiet requests are answered without a wake.
    let icon = format!(
        "curl -s -o /dev/null -w '%{{http_code}}' -H 'Host: third.example' {URL}favicon.ico"
    );
    rig.wait_for("it is known", || rig.ask(&icon) == "503");
    assert_eq!(rig.show("MainPID", "wakeport@front.service"), pid);
    says(
        &rig,
        third,
        64,
        &["there is a service `third` already (/etc/wakeport/front.toml:"],
    );
    drop(idle);

    // A page that only root can read.
    rig.write("/etc/wakeport/page.html", "{{name}}");
    rig.run("chmod 600 /etc/wakeport/page.html");
    rig.write(
        "/etc/wakeport/front.toml.d/page.toml",
        "[service.web]\npage = '/etc/wakeport/page.html'\n",
    );
    says(
        &rig,
        "check front",
        1,
        &[
            "error: front/web: the waiting page `/etc/wakeport/page.html` cannot be reached by user `wakeport`: its mode is 600",
        ],
    );
    does(&rig, "init front --remove");
    assert!(rig.path("/etc/wakeport/front.toml").exists());
}
