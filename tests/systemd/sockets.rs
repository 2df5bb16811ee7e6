//! More than one TCP port: names, Unix sockets, and a user's own service manager.

use crate::rig::{Client, GoneAs, Rig};
use crate::services::{PORT, SOON, TARGET, URL, nginx, nginx_with};

const ADMIN_PORT: &str = "127.0.0.1:8081";
const ADMIN_TARGET: &str = "127.0.0.1:18081";

/// A second socket of `wakeport@nginx.service`, by the name `admin`; a socket unit has one name.
fn admin_socket(rig: &Rig) {
    rig.unit(
        "nginx-admin.socket",
        &format!(
            "[Socket]\nListenStream={ADMIN_PORT}\nFileDescriptorName=admin\nService=wakeport@nginx.service\n\
             TriggerLimitIntervalSec=0\n"
        ),
    );
    rig.drop_in(
        "wakeport@nginx.service",
        "sockets",
        "[Service]\nSockets=nginx-admin.socket\n",
    );
    rig.systemctl("start nginx-admin.socket");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn two_named_sockets_have_two_targets_and_share_one_life_cycle() {
    let rig = Rig::boot();
    nginx_with(
        &rig,
        &format!("server {{ listen {ADMIN_TARGET}; return 200 admin; }}"),
    );
    admin_socket(&rig);
    rig.instance(
        "nginx",
        PORT,
        &format!("nginx={TARGET} admin={ADMIN_TARGET}"),
        &[SOON],
    );

    // Either of them wakes the service, and finds its own target.
    assert_eq!(Client::asks(ADMIN_PORT).page(), "admin");
    assert_eq!(Client::asks(PORT).page(), "hello");
    rig.wait_until_asleep("nginx");
    assert!(rig.is("active", "nginx-admin.socket"));
    let before = rig.starts("nginx.service");
    assert_eq!(Client::asks(PORT).page(), "hello");
    rig.wait_until_asleep("nginx");
    assert_eq!(rig.starts("nginx.service"), before + 1);

    // A client of the one keeps the service awake for the other.
    let mut stays = Client::connect(ADMIN_PORT);
    assert_eq!(stays.ask_again(), "admin");
    for _ in 0..3 {
        assert_eq!(Client::asks(PORT).page(), "hello");
    }
    assert_eq!(stays.ask_again(), "admin");
    assert_eq!(rig.starts("nginx.service"), before + 2);
    drop(stays);
    rig.wait_until_asleep("nginx");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_target_that_never_listens_does_not_affect_clients_of_the_other() {
    let rig = Rig::boot();
    nginx(&rig);
    admin_socket(&rig);
    rig.instance(
        "nginx",
        PORT,
        &format!("nginx={TARGET} admin={ADMIN_TARGET}"),
        &[SOON, "WAKEPORT_START_TIMEOUT=10s"],
    );
    // The one in vain comes first, and it is its connection that wakes the service.
    let in_vain = Client::asks(ADMIN_PORT);
    let mut stays = Client::connect(PORT);
    assert_eq!(stays.ask_again(), "hello");
    assert_eq!(Client::asks(PORT).page(), "hello");
    assert_eq!(in_vain.reads(), (String::new(), GoneAs::Reset));
    assert_eq!(stays.ask_again(), "hello");
    assert_eq!(rig.starts("nginx.service"), 1);
    drop(stays);
    rig.wait_until_asleep("nginx");
    assert!(rig.is("active", "nginx-admin.socket"));
    assert_eq!(rig.curl(URL), "hello");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn unix_sockets_work_on_both_sides_under_systemd() {
    let rig = Rig::boot();
    nginx_with(
        &rig,
        "server { listen unix:/run/nginx.sock; return 200 unix; }",
    );
    rig.instance("nginx", "/run/web.sock", "/run/nginx.sock", &[SOON]);
    for wakes in 1..=2 {
        assert_eq!(
            rig.run("curl -sS --fail --unix-socket /run/web.sock http://localhost/"),
            "unix"
        );
        rig.wait_until_asleep("nginx");
        assert_eq!(rig.starts("nginx.service"), wakes);
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_user_manager_runs_instances_for_its_own_services() {
    let rig = Rig::boot();
    rig.run("useradd --home-dir /var/lib/alice --create-home --shell /bin/sh alice");
    rig.run("loginctl enable-linger alice");
    let manager = format!("user@{}.service", rig.run("id -u alice").trim());
    rig.wait_until("active", &manager);
    let config = "/var/lib/alice/.config/systemd/user";
    rig.write(
        &format!("{config}/notes.service"),
        "[Service]\nExecStart=python3 -m http.server --bind 127.0.0.1 18080\n",
    );
    rig.write("/var/lib/alice/index.html", "hers");
    rig.write(
        &format!("{config}/wakeport@notes.socket.d/listen.conf"),
        &format!("[Socket]\nListenStream={PORT}\n"),
    );
    rig.write(
        &format!("{config}/wakeport@notes.service.d/target.conf"),
        &format!("[Service]\nEnvironment=WAKEPORT_TO={TARGET} {SOON}\n"),
    );
    rig.run("chown -R alice: /var/lib/alice");
    let as_alice = |command: &str| {
        rig.ask(&format!(
            "runuser -u alice -- env XDG_RUNTIME_DIR=/run/user/$(id -u alice) systemctl --user {command}"
        ))
    };
    let is = |state: &str, unit: &str| as_alice(&format!("is-active {unit}")).trim() == state;
    as_alice("daemon-reload");
    as_alice("start wakeport@notes.socket");

    for _ in 0..2 {
        assert_eq!(rig.curl(URL), "hers");
        rig.wait_for("notes.service and wakeport sleep", || {
            is("inactive", "notes.service") && is("inactive", "wakeport@notes.service")
        });
        assert!(is("active", "wakeport@notes.socket"));
        assert_eq!(rig.processes("wakeport"), 0);
    }
}

/// Serves `--listen` of these addresses by hand, with nothing but these address families.
fn by_hand(rig: &Rig, families: &str, options: &str) {
    rig.run(&format!(
        "systemd-run --quiet --unit=hand --service-type=notify --property='RestrictAddressFamilies={families}' \
         wakeport run --to {TARGET} --unit nginx {options}"
    ));
}

/// The instance is well, and is removed; then the same is served by hand.
fn instead_by_hand(rig: &Rig, options: &str) {
    let said = rig.run("wakeport check nginx");
    assert!(said.contains("ok: wakeport@nginx"), "{said}");
    rig.run("wakeport init nginx --remove");
    by_hand(rig, "AF_UNIX AF_INET AF_INET6", options);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn both_families_of_a_port_written_out_are_served_in_either_order() {
    let rig = Rig::boot();
    nginx(&rig);
    let both = |port: u16| {
        for host in ["127.0.0.1", "[::1]"] {
            assert_eq!(rig.curl(&format!("http://{host}:{port}/")), "hello");
        }
    };
    for (one, other) in [("0.0.0.0", "[::]"), ("[::]", "0.0.0.0")] {
        rig.run(&format!(
            "wakeport init nginx --listen {one}:8080 --listen {other}:8080 --listen 8081 --to {TARGET} --cooldown 300ms --write --enable"
        ));
        both(8080);
        both(8081);
        rig.wait_until_asleep("nginx");
        instead_by_hand(&rig, &format!("--listen {one}:8080 --listen {other}:8080"));
        both(8080);
        rig.systemctl("stop hand.service");
    }
    // As one writes it by hand.
    rig.instance("nginx", "0.0.0.0:8080", TARGET, &[SOON]);
    rig.drop_in(
        "wakeport@nginx.socket",
        "six",
        "[Socket]\nListenStream=[::]:8080\n",
    );
    rig.attempt("systemctl restart wakeport@nginx.socket");
    let said = rig.ask("wakeport check nginx");
    let wrong = said.lines().filter(|line| line.starts_with("error: "));
    let wrong: Vec<_> = wrong.collect();
    assert!(
        wrong.len() == 1
            && wrong[0].contains("`systemctl edit wakeport@nginx.socket`: BindIPv6Only=ipv6-only"),
        "{said}"
    );
    rig.drop_in(
        "wakeport@nginx.socket",
        "only",
        "[Socket]\nBindIPv6Only=ipv6-only\n",
    );
    rig.systemctl("restart wakeport@nginx.socket");
    both(8080);
    assert!(
        rig.run("wakeport check nginx")
            .contains("ok: wakeport@nginx")
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn an_address_with_a_zone_is_understood_in_either_spelling() {
    let rig = Rig::boot();
    nginx(&rig);
    rig.run(
        "ip link add d0 type veth peer name d1 && ip link set d1 up && ip addr add fe80::42/64 dev d0 nodad && ip link set d0 up",
    );
    let page = || rig.curl("http://[fe80::42%25d0]:8080/");
    for address in ["[fe80::42]:8080%d0", "[fe80::42%d0]:8080"] {
        rig.run(&format!(
            "wakeport init nginx --listen {address} --to {TARGET} --cooldown 300ms --write --enable"
        ));
        assert_eq!(page(), "hello");
        rig.wait_until_asleep("nginx");
        instead_by_hand(&rig, &format!("--listen {address}"));
        assert_eq!(page(), "hello");
        rig.systemctl("stop hand.service");
    }
    let run = rig.attempt(&format!(
        "wakeport run --listen [fe80::42%gone]:8080 --to {TARGET} 2>&1"
    ));
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(
        said.contains("cannot listen on `[fe80::42]:8080%gone`: No such device"),
        "{said}"
    );
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn without_ipv6_a_port_alone_is_served_over_ipv4() {
    let rig = Rig::boot();
    nginx(&rig);
    by_hand(&rig, "AF_UNIX AF_INET", "--listen 8080 --metrics 8081");
    assert_eq!(rig.curl(URL), "hello");
    assert!(
        rig.curl("http://127.0.0.1:8081/metrics")
            .contains("wakeport_state")
    );
    rig.systemctl("stop hand.service");
    let run = "wakeport run --listen [::1]:8080 --to 127.0.0.1:1";
    rig.attempt(&format!(
        "systemd-run --quiet --unit=six --service-type=notify --property='RestrictAddressFamilies=AF_UNIX AF_INET' {run}"
    ));
    assert_eq!(
        rig.said(
            "six.service",
            "cannot listen on `[::1]:8080`: Address family not supported"
        ),
        1
    );
}
