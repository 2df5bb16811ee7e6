//! Targets that cannot be reached, each for another reason, and networks that lose, duplicate and reorder packets.

use std::fs;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{
    Client, Flow, Network, Place, Run, Server, Wire, directory, noise, send_in_pieces, throughout,
};

const WAITS: &str = "waking: the target has started, but does not answer yet, 1 client waiting";

/// An echo service on the other host.
fn echo_there(network: &Network) -> Server {
    let listener = network.there(|| Network::far().listen());
    Server::on(listener, crate::support::echo)
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn clients_of_a_black_holed_target_are_reset_at_the_start_timeout_and_it_recovers() {
    let (network, front) = (Network::new(), Place::tcp());
    let _server = echo_there(&network);
    network.cut();
    let wakeport = Run::new()
        .to(Network::far())
        .listen(&front)
        .option("--start-timeout", "2s")
        .start();
    let client = front.connect();
    wakeport.was(WAITS);
    client.is_reset();
    wakeport.is("failed: it does not answer in time; the next connection retries");
    network.mend();
    front.connect().echoes("hello");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn clients_wait_while_their_target_is_black_holed_and_open_connections_stay() {
    let (network, front) = (Network::new(), Place::tcp());
    let _server = echo_there(&network);
    let wakeport = Run::new().to(Network::far()).listen(&front).start();
    let first = front.connect();
    first.echoes("hello");
    network.cut();
    let clients: Vec<_> = (0..5).map(|_| front.connect()).collect();
    clients.iter().for_each(|client| client.send("late"));
    first.send("late");
    wakeport.is("awake: 6 clients");
    throughout(Duration::from_secs(1), "they wait", || {
        clients.iter().chain([&first]).all(Client::is_silent)
    });
    network.mend();
    for client in clients.iter().chain([&first]) {
        assert_eq!(client.take(4), b"late");
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn after_any_network_error_clients_wait_until_the_target_is_reachable() {
    let network = Network::new();
    let _server = echo_there(&network);
    // EHOSTUNREACH, EACCES, EINVAL, ENETUNREACH (ip-route(8)).
    for kind in ["unreachable", "prohibit", "blackhole", "throw"] {
        let front = Place::tcp();
        let far = Network::far().tcp_address();
        network
            .ours
            .run(&format!("ip route add {kind} {}", far.ip()));
        if kind == "throw" {
            network.ours.run("ip route flush table main");
        }
        let wakeport = Run::new().to(far).listen(&front).start();
        let client = front.connect();
        client.send("hello");
        wakeport.is(WAITS);
        throughout(Duration::from_millis(300), "it waits", || {
            client.is_silent()
        });
        if kind != "throw" {
            network
                .ours
                .run(&format!("ip route del {kind} {}", far.ip()));
        } else {
            network.ours.run("ip route add 192.0.2.0/24 dev ours");
        }
        assert_eq!(client.take(5), b"hello");
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn without_ephemeral_ports_clients_wait_for_one() {
    let (network, dir) = (Network::new(), directory());
    let front = Place::path(&dir);
    // Only on loopback the kernel soon gives out a port again that was used.
    let target = Place::from(([127, 0, 0, 1], 8080));
    let _server = Server::echo(&target);
    network
        .ours
        .run("echo 40000 40009 >/proc/sys/net/ipv4/ip_local_port_range");
    let wakeport = Run::new().to(&target).listen(&front).start();
    let clients: Vec<_> = (0..10).map(|_| front.connect()).collect();
    clients.iter().for_each(|client| client.echoes("hello"));
    let late: Vec<_> = (0..3).map(|_| front.connect()).collect();
    late.iter().for_each(|client| client.send("late"));
    throughout(
        Duration::from_secs(1),
        "they wait, and the others go on",
        || {
            clients.iter().for_each(|client| client.echoes("hello"));
            late.iter().all(Client::is_silent)
        },
    );
    drop(clients);
    for client in late {
        assert_eq!(client.take(4), b"late");
    }
    wakeport.is("cooling");
}

/// What a name server does.
#[derive(Clone, Copy)]
enum Mood {
    Silent,
    /// It answers with an error.
    Broken,
    /// Every name is 127.0.0.1.
    Well,
}

/// The only name server of this network.
struct NameServer {
    mood: Arc<Mutex<Mood>>,
    dir: TempDir,
}

impl NameServer {
    fn new() -> Self {
        Self::asked("timeout:1 attempts:2")
    }

    /// `how`: the resolver's options.
    fn asked(how: &str) -> Self {
        let dir = directory();
        let socket = UdpSocket::bind("127.0.0.1:53").expect("a network of its own");
        let conf = format!("nameserver 127.0.0.1\noptions {how}\n");
        fs::write(dir.path().join("resolv.conf"), conf).expect("a file of ours");
        let mood = Arc::new(Mutex::new(Mood::Silent));
        // For as long as the test's process lives.
        thread::spawn({
            let mood = mood.clone();
            move || answers(&socket, &mood)
        });
        Self { mood, dir }
    }

    fn is(&self, mood: Mood) {
        *self.mood.lock().expect("no panic") = mood;
    }

    /// Makes the resolver use it.
    fn serves(&self, run: Run) -> Run {
        under_etc(run, &self.dir, "resolv.conf")
    }
}

/// Runs it with the file `name` in `dir` in the place of that in /etc.
fn under_etc(run: Run, dir: &TempDir, name: &str) -> Run {
    let mount = format!("mount --bind \"$1\" /etc/{name} && shift && exec \"$@\"");
    let file = dir.path().join(name).display().to_string();
    run.under(&["unshare", "--mount", "sh", "-c", &mount, "sh", &file])
}

/// Answers questions for addresses (RFC 1035, section 4).
fn answers(socket: &UdpSocket, mood: &Mutex<Mood>) {
    let mut question = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut question) {
        let is_for_ipv4 = question[length - 3] == 1;
        let (flags, answer): ([u8; 2], &[u8]) = match *mood.lock().expect("no panic") {
            Mood::Silent => continue,
            Mood::Broken => ([0x81, 0x82], &[]),
            Mood::Well if is_for_ipv4 => (
                [0x81, 0x80],
                b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04\x7f\0\0\x01",
            ),
            Mood::Well => ([0x81, 0x80], &[]),
        };
        let count = u8::from(!answer.is_empty());
        let head = [&question[..2], &flags, &[0, 1, 0, count, 0, 0, 0, 0]].concat();
        let _ = socket.send_to(&[&head, &question[12..length], answer].concat(), from);
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn an_unresolvable_name_delays_only_its_own_clients_until_it_resolves() {
    let _network = Network::new();
    let names = NameServer::new();
    let [named, known] = [8080, 8081].map(|port| Place::from(([127, 0, 0, 1], port)));
    let _servers = [Server::echo(&named), Server::echo(&known)];
    let (front, other_front) = (Place::tcp(), Place::tcp());
    let run = Run::new()
        .to("named=service.test:8080")
        .listen(format!("named={front}"))
        .to(format!("known={known}"))
        .listen(format!("known={other_front}"));
    let wakeport = names.serves(run).start();
    let client = front.connect();
    client.send("hello");
    let other = other_front.connect();
    for mood in [Mood::Silent, Mood::Broken] {
        names.is(mood);
        throughout(
            Duration::from_secs(3),
            "it waits, and another does not",
            || {
                other.echoes("hello");
                client.is_silent()
            },
        );
        // Each question that hangs has a thread.
        assert!(wakeport.threads() < 12, "{} threads", wakeport.threads());
    }
    names.is(Mood::Well);
    assert_eq!(client.take(5), b"hello");
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_pending_lookup_does_not_delay_the_exit() {
    let _network = Network::new();
    // A lookup takes two and a half minutes, longer than anything here is waited for.
    let names = NameServer::asked("timeout:30 attempts:5");
    let front = Place::tcp();
    let run = Run::new().to("service.test:8080").listen(&front);
    let mut wakeport = names.serves(run.option("--drain-timeout", 0)).start();
    let client = front.connect();
    wakeport.is(WAITS);
    wakeport.signal(Signal::TERM);
    client.is_reset();
    wakeport.ends();
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_silent_address_of_a_name_delays_no_client_and_the_one_that_answers_goes_first() {
    let (network, dir, front) = (Network::new(), directory(), Place::tcp());
    let _server = echo_there(&network);
    let good = Network::far().tcp_address();
    // What is for the others arrives at the other host, which is none of them.
    let silent = ["192.0.2.3", "192.0.2.6", "192.0.2.7"];
    let mut hosts = String::new();
    for address in silent {
        network.is_sent_there(address);
        hosts += &format!("{address} service.test\n");
    }
    hosts += &format!("{} service.test\n", good.ip());
    fs::write(dir.path().join("hosts"), hosts).expect("a file of ours");
    let run = Run::new()
        .to(format!("service.test:{}", good.port()))
        .listen(&front)
        // One silent address alone takes longer to be given up.
        .option("--start-timeout", "4s");
    let _wakeport = under_etc(run, &dir, "hosts").start();
    front.connect().echoes("hello");
    let tried = network.sent_elsewhere();
    assert!(tried > 0, "none of the silent addresses was tried");
    for _ in 0..20 {
        front.connect().echoes("hello");
    }
    assert_eq!(network.sent_elsewhere(), tried);
}

/// Runs traffic on a lossy network. (No resets: a lost one is not sent again.)
fn every_byte_arrives(wire: &Wire, connect: &(dyn Fn() -> Client + Sync)) {
    thread::scope(|scope| {
        for seed in 0..4 {
            let (client, server) = (connect(), wire.server());
            scope.spawn(move || {
                let (up, down) = (noise(seed, 300_000), noise(seed + 10, 500_000));
                let senders = [
                    send_in_pieces(&client, up.clone(), seed),
                    send_in_pieces(&server, down.clone(), seed),
                ];
                let answer = thread::spawn(move || client.all());
                assert!(server.all() == up);
                assert!(answer.join().expect("no panic") == down);
                for sender in senders {
                    sender.join().expect("no panic").expect("it is all sent");
                }
            });
        }
    });
    let (client, server) = (connect(), wire.server());
    let flows = [
        Flow::new(&client, &server, 1),
        Flow::new(&server, &client, 2),
    ];
    Flow::go_on(&flows, 1 << 19);
    let [up, down] = flows;
    up.ends();
    Flow::go_on([&down], 1 << 18);
    down.ends();
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_lossy_network_before_clients_costs_no_byte() {
    for (seed, (here, there)) in (1..).zip([(1500, 1500), (1500, 576), (9000, 1280)]) {
        let network = Network::badly_linked(seed, here, there);
        let wire = Wire::between(Network::here(), Place::tcp(), Run::new());
        every_byte_arrives(&wire, &|| network.there(|| wire.front.connect()));
    }
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_lossy_network_before_the_target_costs_no_byte() {
    for (seed, (here, there)) in (1..).zip([(1500, 1500), (552, 1500)]) {
        let network = Network::badly_linked(seed, here, there);
        let target = Network::far();
        let listener = network.there(|| target.listen());
        let front = Place::tcp();
        let run = Run::new().to(&target).listen(&front);
        let wire = Wire::on(front, listener, &run);
        every_byte_arrives(&wire, &|| wire.front.connect());
    }
}
