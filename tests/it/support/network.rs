//! Network namespaces: another host, and faults on the way to it. Needs root.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::Place;

/// Another host on our network. What is called ours is this thread, and what it starts from now on.
pub(crate) struct Network {
    pub(crate) ours: Host,
    theirs: Host,
    /// What carries packets between them, if the kernel does not.
    link: Option<Child>,
    /// Where this thread came from.
    home: File,
}

/// Not used anywhere (RFC 5737), and nothing leaves the two namespaces.
const OURS: &str = "192.0.2.1";
const THEIRS: &str = "192.0.2.2";
const ADDRESS: &str = "02:00:00:00:00:02";

fn place(host: &str) -> Place {
    Place::from((host.parse::<IpAddr>().expect("an address"), 8080))
}

impl Network {
    /// Where `wakeport` or a target listens on our side.
    pub(crate) fn here() -> Place {
        place(OURS)
    }

    /// The same on the other host.
    pub(crate) fn far() -> Place {
        place(THEIRS)
    }

    pub(crate) fn new() -> Self {
        let (ours, theirs) = (Host::new(), Host::new());
        ours.run(&format!(
            "ip link add ours type veth peer name theirs address {ADDRESS} netns {}",
            theirs.process.id()
        ));
        ours.run(&format!("ip address add {OURS}/24 dev ours"));
        ours.run("ip link set ours up");
        theirs.run(&format!("ip address add {THEIRS}/24 dev theirs"));
        theirs.run("ip link set theirs up");
        Self::of(ours, theirs, None)
    }

    fn of(ours: Host, theirs: Host, link: Option<Child>) -> Self {
        let home = File::open("/proc/thread-self/ns/net").expect("Linux");
        ours.enter();
        Self {
            ours,
            theirs,
            link,
            home,
        }
    }

    /// Does something on the other host.
    pub(crate) fn there<T: Send>(&self, something: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.theirs.enter();
                something()
            });
            thread.join().expect("no panic")
        })
    }

    /// From here on no packet reaches the other host or leaves it, without an error.
    pub(crate) fn cut(&self) {
        self.is_sent_there(THEIRS);
        self.theirs.run(&format!("ip route add blackhole {OURS}"));
    }

    /// Packets for `address` go to the other host, as if that were a router to it.
    pub(crate) fn is_sent_there(&self, address: &str) {
        self.ours.run(&format!(
            "ip neighbour replace {address} lladdr {ADDRESS} nud permanent dev ours"
        ));
    }

    /// How many packets have reached the other host that were for none of its addresses.
    pub(crate) fn sent_elsewhere(&self) -> u64 {
        // proc_net_snmp: `Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ...`
        let snmp = self.theirs.run("cat /proc/net/snmp");
        let numbers = snmp.lines().nth(1).and_then(|line| line.split(' ').nth(5));
        numbers.expect("Linux").parse().expect("a number")
    }

    /// The link is up again.
    pub(crate) fn mend(&self) {
        self.theirs.run(&format!("ip route del blackhole {OURS}"));
    }

    /// The same, but its address no longer resolves.
    pub(crate) fn switch_off(&self) {
        self.theirs.run("ip link set theirs arp off");
        self.theirs.run(&format!("ip route add blackhole {OURS}"));
        self.ours.run("ip neighbour flush dev ours");
    }
}

/// A network namespace, for as long as a process of ours lives.
pub(crate) struct Host {
    process: Child,
}

impl Host {
    fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "only root can make networks; `tests/run` as root runs this"
        );
        let mut process =
            begin(Command::new("unshare").args(["--net", "sh", "-c", "echo made; exec cat"]));
        is_made(&mut process);
        let host = Self { process };
        host.run("ip link set lo up");
        host
    }

    /// Begins a program here.
    fn inside(&self, program: &[&str]) -> Child {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.process.id()));
        begin(command.arg("--net").args(program))
    }

    /// Runs a command line here, and says what it printed.
    pub(crate) fn run(&self, command: &str) -> String {
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
    pub(crate) fn enter(&self) {
        let network = format!("/proc/{}/ns/net", self.process.id());
        enter(&File::open(network).expect("it lives"));
    }
}

/// It ends at the latest when we do, with its input.
fn begin(command: &mut Command) -> Child {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().expect("util-linux")
}

fn is_made(process: &mut Child) {
    let output = process.stdout.as_mut().expect("a pipe");
    output.read_exact(&mut [0; 5]).expect("it is made");
}

fn end(process: &mut Child) {
    drop(process.stdin.take());
    let _ = process.wait();
}

fn enter(network: &File) {
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).expect("root");
}

impl Drop for Network {
    fn drop(&mut self) {
        enter(&self.home);
        if let Some(link) = &mut self.link {
            end(link);
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// A link that loses, doubles, delays and reorders packets, as the dice of its seed say, between two network devices that
/// the kernel leaves to programs (tun). Prints a line when they are there.
const BAD_LINK: &str = r#"
import fcntl, heapq, os, random, select, struct, sys, time

def device(name):
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, 0x400454CA, struct.pack("16sH22x", name, 0x1001))  # TUNSETIFF: IFF_TUN, IFF_NO_PI
    return file

near, far = device(b"near"), device(b"far")
print("made", flush=True)
random.seed(int(sys.argv[1]))
other, under_way, number = {near: far, far: near}, [], 0
while True:
    wait = max(0, under_way[0][0] - time.monotonic()) if under_way else None
    ready, _, _ = select.select([near, far, sys.stdin], [], [], wait)
    if sys.stdin in ready:
        sys.exit()
    for source in ready:
        try:
            packet = os.read(source, 65536)
        except BlockingIOError:
            continue
        for copy in range(random.choices([0, 1, 2], [2, 96, 2])[0]):
            late = 0.002 + (0.004 if random.random() < 0.05 else 0)
            number += 1
            heapq.heappush(under_way, (time.monotonic() + late, number, other[source], packet))
    while under_way and under_way[0][0] <= time.monotonic():
        try:
            os.write(under_way[0][2], under_way[0][3])
        except OSError:
            pass  # not up yet
        heapq.heappop(under_way)
"#;

impl Network {
    /// The other host behind a bad link, which carries packets of up to `here` bytes from us and of up to `there` from
    /// them.
    pub(crate) fn badly_linked(seed: u64, here: u32, there: u32) -> Self {
        let (ours, theirs) = (Host::new(), Host::new());
        let mut link = ours.inside(&["python3", "-c", BAD_LINK, &seed.to_string()]);
        is_made(&mut link);
        let them = theirs.process.id();
        ours.run(&format!("ip link set far netns {them}"));
        ours.run(&format!(
            "ip address add {OURS}/24 dev near && ip link set near mtu {here} up"
        ));
        theirs.run(&format!(
            "ip address add {THEIRS}/24 dev far && ip link set far mtu {there} up"
        ));
        Self::of(ours, theirs, Some(link))
    }
}
