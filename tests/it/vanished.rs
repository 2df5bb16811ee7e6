//! Peers that are there no more and could not say so: the cable is cut.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::support::{Client, Flow, Place, Run, Wakeport, Wire, until};

/// Another host on our network. What is called ours is this thread, and what it starts from now on.
struct Network {
    ours: Host,
    theirs: Host,
    /// Where this thread came from.
    home: File,
}

/// Not used anywhere (RFC 5737), and nothing leaves the two namespaces.
const OURS: &str = "192.0.2.1";
const THEIRS: &str = "192.0.2.2";
const ADDRESS: &str = "02:00:00:00:00:02";

/// Where `wakeport` or a target listens on one of them.
fn place(host: &str) -> Place {
    Place::Tcp(SocketAddr::new(host.parse().expect("an address"), 8080))
}

impl Network {
    fn new() -> Self {
        let network = Self {
            ours: Host::new(),
            theirs: Host::new(),
            home: File::open("/proc/thread-self/ns/net").expect("Linux"),
        };
        let (ours, theirs) = (&network.ours, &network.theirs);
        ours.run(&format!(
            "ip link add ours type veth peer name theirs address {ADDRESS} netns {}",
            theirs.process.id()
        ));
        ours.run(&format!("ip address add {OURS}/24 dev ours"));
        ours.run("ip link set ours up");
        theirs.run(&format!("ip address add {THEIRS}/24 dev theirs"));
        theirs.run("ip link set theirs up");
        ours.enter();
        network
    }

    /// Does something on the other host.
    fn there<T: Send>(&self, something: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.theirs.enter();
                something()
            });
            thread.join().expect("no panic")
        })
    }

    /// From here on the other host neither hears nor says anything, and nobody learns why.
    fn cut(&self) {
        // As if it were behind a router: we know where to send what is for it.
        self.ours.run(&format!(
            "ip neighbour replace {THEIRS} lladdr {ADDRESS} nud permanent dev ours"
        ));
        self.theirs.run(&format!("ip route add blackhole {OURS}"));
    }

    /// The same, but nobody says any more where to send what is for it.
    fn switch_off(&self) {
        self.theirs.run("ip link set theirs arp off");
        self.theirs.run(&format!("ip route add blackhole {OURS}"));
        self.ours.run("ip neighbour flush dev ours");
    }
}

/// A network namespace, for as long as a process of ours lives.
struct Host {
    process: Child,
}

impl Host {
    fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "only root can make networks; `tests/run` as root runs this"
        );
        // It ends at the latest when we do, with its input.
        let mut process = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo made; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("util-linux");
        let output = process.stdout.as_mut().expect("a pipe");
        output.read_exact(&mut [0; 5]).expect("it is made");
        let host = Self { process };
        host.run("ip link set lo up");
        host
    }

    /// Runs a command line here, and says what it printed.
    fn run(&self, command: &str) -> String {
        let output = Command::new("nsenter")
            .arg(format!("--target={}", self.process.id()))
            .args(["--net", "sh", "-c", command])
            .output()
            .expect("util-linux");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{command}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Moves the calling thread here, and what it starts.
    fn enter(&self) {
        let network = format!("/proc/{}/ns/net", self.process.id());
        enter(&File::open(network).expect("it lives"));
    }
}

fn enter(network: &File) {
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).expect("root");
}

impl Drop for Network {
    fn drop(&mut self) {
        enter(&self.home);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Asks soon whether a silent peer is still there, and so many times.
fn keepalive(probes: u32) -> Run {
    Run::new()
        .option("--keepalive-probes", probes)
        .option("--keepalive-time", "1s")
        .option("--keepalive-interval", "1s")
}

/// Does not wait long for bytes to be acknowledged.
fn user_timeout() -> Run {
    Run::new().option("--user-timeout", "2s")
}

/// A client there whose target is here; their ends of the connection.
fn client_there(network: &Network, run: Run) -> (Wire, Client, Client) {
    let wire = Wire::between(place(OURS), Place::tcp(), run);
    let client = network.there(|| wire.front.connect());
    let server = wire.server();
    (wire, client, server)
}

/// A client here whose target is there.
fn target_there(network: &Network, run: Run) -> (Wire, Client, Client) {
    let (front, target) = (Place::tcp(), place(THEIRS));
    let listener = network.there(|| target.listen());
    let run = run.to(&target).listen(&front);
    let wire = Wire::on(front, listener, &run);
    let (client, server) = wire.pair();
    (wire, client, server)
}

/// Waits until the user is told that somebody has vanished.
fn tells(wakeport: &Wakeport) {
    wakeport.logs("it or its target is not there any more");
    until("it is counted", || {
        let status = wakeport.status();
        status.starts_with("cooling") && status.ends_with("1 ended as vanished")
    });
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_quiet_client_that_vanishes_is_found_out_and_its_target_told() {
    let network = Network::new();
    let (wire, client, server) = client_there(&network, keepalive(2));
    client.send("I am here");
    server.take(9);
    network.cut();
    server.is_reset();
    tells(&wire.wakeport);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_quiet_target_that_vanishes_is_found_out_and_its_client_told() {
    let network = Network::new();
    let (wire, client, server) = target_there(&network, keepalive(2));
    client.send("I am here");
    server.take(9);
    network.cut();
    client.is_reset();
    tells(&wire.wakeport);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_client_that_is_switched_off_on_our_own_network_has_vanished_too() {
    let network = Network::new();
    // Long enough for the kernel to ask in vain where it is.
    let (wire, client, server) = client_there(&network, keepalive(6));
    client.send("I am here");
    server.take(9);
    network.switch_off();
    server.is_reset();
    tells(&wire.wakeport);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_client_that_vanishes_in_the_middle_of_an_answer_is_found_out() {
    let network = Network::new();
    let (wire, client, server) = client_there(&network, user_timeout());
    let flow = Flow::new(&server, &client, 1);
    wire.bulk([&flow], || wire.wakeport.pipes() > 0);
    network.cut();
    flow.breaks();
    tells(&wire.wakeport);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_target_that_vanishes_in_the_middle_of_an_upload_is_found_out() {
    let network = Network::new();
    let (wire, client, server) = target_there(&network, user_timeout());
    let flow = Flow::new(&client, &server, 2);
    wire.bulk([&flow], || wire.wakeport.pipes() > 0);
    network.cut();
    flow.breaks();
    tells(&wire.wakeport);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_client_that_vanishes_with_an_answer_on_its_way_is_found_out() {
    let network = Network::new();
    let (wire, client, server) = client_there(&network, user_timeout());
    client.send("a question");
    server.take(10);
    network.cut();
    server.send("an answer");
    server.is_reset();
    tells(&wire.wakeport);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_target_that_vanishes_with_a_question_on_its_way_is_found_out() {
    let network = Network::new();
    let (wire, client, server) = target_there(&network, user_timeout());
    client.send("a question");
    server.take(10);
    network.cut();
    client.send("another question");
    client.is_reset();
    tells(&wire.wakeport);
}

#[test]
#[ignore = "needs root: tests/run runs it"]
fn a_client_that_vanishes_while_it_waits_is_not_waited_for() {
    let network = Network::new();
    let front = place(OURS);
    // Nobody listens there.
    let wakeport = keepalive(2).to(Place::tcp()).listen(&front).start();
    let client = network.there(|| front.connect());
    client.send("a question");
    wakeport.is("waking: the target has started, but does not answer yet, 1 client waiting");
    network.cut();
    until("nobody waits", || !wakeport.status().contains("waiting"));
}
