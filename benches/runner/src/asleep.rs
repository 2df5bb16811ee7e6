//! What a sleeping service costs, and how long it takes to wake: on a real systemd.

use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::peers::{Peer, SOCKET_PROXYD};
use crate::rig::{OURSELVES, Rig};

/// No start takes longer than this.
const STALLED: Duration = Duration::from_secs(10);
/// Process 1 has tidied up after a stop.
const SETTLED: Duration = Duration::from_millis(60);

/// The service that is woken: sends one byte to whoever comes, and tells systemd when it listens. It listens on the
/// address, or on its standard input when there is none.
pub(crate) fn target(address: Option<String>) -> Result<(), Box<dyn Error>> {
    let listener = match address {
        Some(address) => TcpListener::bind(address)?,
        None => io::stdin().as_fd().try_clone_to_owned()?.into(),
    };
    if let Ok(path) = std::env::var("NOTIFY_SOCKET") {
        UnixDatagram::unbound()?.send_to(b"READY=1", path)?;
    }
    loop {
        let _ = listener.accept()?.0.write_all(b"!");
    }
}

/// A way to wake a service.
struct Way {
    name: &'static str,
    /// Who does it, as the command line names it.
    peer: &'static str,
    port: u16,
    /// Units and drop-ins, by name.
    units: Vec<(String, String)>,
    /// What writes the rest.
    init: Option<String>,
    socket: String,
    /// What is stopped to make it sleep, in this order.
    running: String,
}

impl Way {
    fn entrance(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }
}

/// What the woken service tells systemd, which decides when a unit that is ordered after it starts.
#[derive(Clone, Copy)]
pub(crate) enum Readiness {
    /// That it listens.
    Notify,
    /// Nothing: it counts as started from the fork on.
    Simple,
}

impl Readiness {
    pub(crate) const ALL: [(&'static str, Self); 2] =
        [("wake", Self::Notify), ("wake-simple", Self::Simple)];

    fn as_type(self) -> &'static str {
        match self {
            Self::Notify => "notify",
            Self::Simple => "simple",
        }
    }
}

/// All ways, each with a service of its own. No start limit applies to any of them.
fn ways(sandbox: &str, readiness: Readiness) -> Vec<Way> {
    let kind = readiness.as_type();
    let service = |port: u16| {
        format!(
            "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType={kind}\nExecStart={OURSELVES} target 127.0.0.1:{port}\n"
        )
    };
    let socket =
        |port: u16| format!("[Socket]\nListenStream=127.0.0.1:{port}\nTriggerLimitIntervalSec=0\n");
    let direct = Way {
        name: "direct",
        peer: "direct",
        port: 8000,
        units: vec![
            ("direct.socket".into(), socket(8000)),
            (
                "direct.service".into(),
                format!(
                    "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType={kind}\nExecStart={OURSELVES} target\nStandardInput=socket\n"
                ),
            ),
        ],
        init: None,
        socket: "direct.socket".into(),
        running: "direct.service".into(),
    };
    // One that is started by a socket of its own, in front of a service of its own.
    let pair = |name, peer, number: u16, unit: &str, exec: &str| {
        let (port, to) = (8000 + number, 9000 + number);
        let exec = exec
            .replace("PORT", &to.to_string())
            .replace("UNIT", &format!("target{number}.service"));
        let unit = unit.replace("UNIT", &format!("target{number}.service"));
        Way {
            name,
            peer,
            port,
            units: vec![
                (format!("proxy{number}.socket"), socket(port)),
                (
                    format!("proxy{number}.service"),
                    format!(
                        "[Unit]\nStartLimitIntervalSec=0\n{unit}[Service]\nType=notify\n{exec}\n"
                    ),
                ),
                (format!("target{number}.service"), service(to)),
            ],
            init: None,
            socket: format!("proxy{number}.socket"),
            running: format!("proxy{number}.service target{number}.service"),
        }
    };
    let proxyd = format!("ExecStart={SOCKET_PROXYD} 127.0.0.1:PORT");
    let wakeport = "ExecStart=/usr/local/bin/wakeport run --unit UNIT --to 127.0.0.1:PORT";
    let requires = "Requires=UNIT\nAfter=UNIT\n";
    // As an administrator has it: `wakeport init` writes all but the service itself.
    let installed = |name, number: u16, options: &str| Way {
        name,
        peer: "wakeport",
        port: 8000 + number,
        units: vec![(format!("asleep{number}.service"), service(9000 + number))],
        init: Some(format!(
            "wakeport init asleep{number} --listen 127.0.0.1:{} --to 127.0.0.1:{} {options} --write",
            8000 + number,
            9000 + number
        )),
        socket: format!("wakeport@asleep{number}.socket"),
        running: format!("wakeport@asleep{number}.service asleep{number}.service"),
    };
    vec![
        direct,
        pair("socket-proxyd", "socket-proxyd", 1, requires, &proxyd),
        pair("wakeport", "wakeport", 2, "", wakeport),
        pair("wakeport, Wants=", "wakeport", 3, "Wants=UNIT\n", wakeport),
        pair(
            "socket-proxyd, same sandbox",
            "socket-proxyd",
            4,
            requires,
            &format!("{proxyd}\n{sandbox}"),
        ),
        installed("wakeport, installed", 10, ""),
        installed("wakeport, installed, filter", 11, "--deny 192.0.2.1"),
    ]
}

/// The lines of our own unit that make its sandbox.
fn sandbox() -> io::Result<String> {
    let unit = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../systemd/wakeport@.service"
    ))?;
    let lines = unit
        .lines()
        .skip_while(|line| !line.starts_with("CapabilityBoundingSet="));
    let lines = lines
        .filter(|line| !line.starts_with('#'))
        .collect::<Vec<_>>();
    Ok(format!("User=wakeport\n{}", lines.join("\n")))
}

/// How long a client waits for the first byte when everything sleeps, in milliseconds: all ways in turn, so many
/// rounds. Each time goes to `note`, with the round and who it was.
pub(crate) fn wakes(
    wakeport: &Path,
    peers: &[Peer],
    readiness: Readiness,
    rounds: u32,
    mut note: impl FnMut(u32, &str, f64),
) -> Result<(), Box<dyn Error>> {
    let rig = Rig::boot(wakeport)?;
    let mut ways = ways(&sandbox()?, readiness);
    ways.retain(|way| peers.iter().any(|peer| peer.name == way.peer));
    for (name, text) in ways.iter().flat_map(|way| &way.units) {
        rig.unit(name, text)?;
    }
    rig.run("systemctl daemon-reload")?;
    for init in ways.iter().filter_map(|way| way.init.as_deref()) {
        rig.run(init)?;
    }
    rig.run("systemctl daemon-reload && systemctl try-restart polkit.service")?;
    for way in &ways {
        rig.run(&format!("systemctl start {}", way.socket))?;
    }
    // The first one of each finds nothing in memory yet.
    for round in 0..=rounds {
        for turn in 0..ways.len() {
            let way = &ways[(turn + round as usize) % ways.len()];
            let took = first_answer(&rig, way.entrance(), |stream| stream.read_exact(&mut [0]))
                .map_err(|error| format!("{}: {error}", way.name))?;
            if round > 0 {
                note(round, way.name, took.as_secs_f64() * 1e3);
            }
            for unit in way.running.split(' ') {
                rig.run(&format!("systemctl stop {unit}"))?;
            }
            thread::sleep(SETTLED);
        }
    }
    Ok(())
}

/// From the client's first packet to the end of what `ask` does.
pub(crate) fn first_answer(
    rig: &Rig,
    entrance: SocketAddr,
    ask: impl FnOnce(&mut TcpStream) -> io::Result<()> + Send + 'static,
) -> io::Result<Duration> {
    let network = rig.network()?;
    let client = thread::spawn(move || {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
        let began = Instant::now();
        let mut stream = TcpStream::connect(entrance)?;
        stream.set_read_timeout(Some(STALLED))?;
        ask(&mut stream)?;
        Ok(began.elapsed())
    });
    client
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the client panicked")))
}

/// What so many sleeping services cost: processes, and kB of process 1 for each of them.
pub(crate) fn sleepers(
    wakeport: &Path,
    peer: &str,
    count: usize,
) -> Result<Vec<(&'static str, f64)>, Box<dyn Error>> {
    const QUIET: Duration = Duration::from_secs(1);
    let rig = Rig::boot(wakeport)?;
    let proxy = if peer == "wakeport" {
        "wakeport"
    } else {
        "proxyd"
    };
    if peer != "wakeport" {
        rig.unit("proxyd@.socket", "[Socket]\nTriggerLimitIntervalSec=0\n")?;
        rig.unit(
            "proxyd@.service",
            &format!(
                "[Unit]\nRequires=target@%i.service\nAfter=target@%i.service\nStartLimitIntervalSec=0\n\
                 [Service]\nType=notify\nExecStart={SOCKET_PROXYD} 127.0.0.1:%i\n"
            ),
        )?;
    }
    rig.unit(
        "target@.service",
        &format!("[Service]\nType=notify\nExecStart={OURSELVES} target 127.0.0.1:%i\n"),
    )?;
    rig.run("systemctl daemon-reload")?;
    thread::sleep(QUIET);
    let (processes, memory) = (rig.processes(), rig.init_memory());
    for number in 0..count {
        let (port, name) = (10_000 + number, 20_000 + number);
        rig.unit(
            &format!("{proxy}@{name}.socket.d/listen.conf"),
            &format!("[Socket]\nListenStream=127.0.0.1:{port}\n"),
        )?;
        if peer == "wakeport" {
            let to = format!("[Service]\nEnvironment=WAKEPORT_TO=127.0.0.1:{name}\n");
            rig.unit(&format!("{proxy}@{name}.service.d/target.conf"), &to)?;
        }
    }
    rig.run("systemctl daemon-reload")?;
    rig.run(&format!(
        "seq -f '{proxy}@%.0f.socket' 20000 {} | xargs systemctl start",
        20_000 + count - 1
    ))?;
    thread::sleep(QUIET);
    let listening = rig.run(&format!(
        "systemctl list-units --plain --no-legend --state=listening '{proxy}@*.socket' | wc -l"
    ))?;
    if listening.trim() != count.to_string() {
        return Err(format!("only {} of {count} sockets listen", listening.trim()).into());
    }
    Ok(vec![
        ("kb", (rig.init_memory() - memory) / count as f64),
        ("processes", rig.processes() as f64 - processes as f64),
    ])
}
