//! How long a client waits for a service that is frozen, beside a cold start of the same service: on a real systemd.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::asleep::first_answer;
use crate::rig::Rig;

/// No freeze takes longer than this.
const STALLED: Duration = Duration::from_secs(10);

/// It is frozen at once, and never stopped.
const FREEZES: &str = "--freeze-after 50ms --cooldown infinity";

/// A service with something in memory.
#[derive(Clone, Copy)]
pub(crate) enum Sleeper {
    /// PostgreSQL: the answer is that to a first query.
    Database,
    /// A Python program that holds 150 MB: it answers with a byte.
    Memory,
}

impl Sleeper {
    pub(crate) const ALL: [(&'static str, Self); 2] = [
        ("thaw-postgresql", Self::Database),
        ("thaw-150m", Self::Memory),
    ];

    fn entrance(self) -> SocketAddr {
        let port = match self {
            Self::Database => 8100,
            Self::Memory => 8101,
        };
        ([127, 0, 0, 1], port).into()
    }

    /// Sets the service up on the port a thousand above; the name of its unit.
    fn install(self, rig: &Rig) -> Result<String, Box<dyn Error>> {
        let port = self.entrance().port() + 1000;
        match self {
            Self::Database => {
                let version =
                    rig.run("ls /usr/lib/postgresql | sort --version-sort | tail -n 1")?;
                let version = version.trim();
                rig.run(&format!(
                    "mkdir -p /etc/postgresql /var/lib/postgresql && \
                     for dir in /etc/postgresql /var/lib/postgresql; do \
                         mount -t tmpfs tmpfs $dir && chown postgres: $dir || exit; \
                     done && \
                     pg_createcluster --port {port} {version} main -- --auth-host=trust --no-sync"
                ))?;
                Ok(format!("postgresql@{version}-main"))
            }
            Self::Memory => {
                let program = format!(
                    "import socket\n\
                     held = bytearray(range(250)) * 600_000\n\
                     listener = socket.create_server(('127.0.0.1', {port}))\n\
                     while True:\n    client, _ = listener.accept()\n    client.sendall(b'!')\n    client.close()\n"
                );
                std::fs::write(rig.path("/run/rig/memory.py"), program)?;
                let unit = "[Service]\nExecStart=python3 -IS /run/rig/memory.py\n";
                rig.unit("memory.service", unit)?;
                Ok("memory".into())
            }
        }
    }

    /// Sends what there is to ask, and takes the answer.
    fn ask(self, stream: &mut TcpStream) -> io::Result<()> {
        match self {
            Self::Database => query(stream),
            Self::Memory => stream.read_exact(&mut [0]),
        }
    }
}

/// `select 1` and its result, in the protocol of PostgreSQL (chapter "Message Formats" of its manual).
fn query(stream: &mut TcpStream) -> io::Result<()> {
    let startup = b"\x00\x03\x00\x00user\0postgres\0database\0postgres\0\0";
    stream.write_all(&[&(startup.len() as u32 + 4).to_be_bytes(), &startup[..]].concat())?;
    until_ready(stream)?;
    let select = b"select 1\0";
    let length = (select.len() as u32 + 4).to_be_bytes();
    stream.write_all(&[b"Q", &length[..], &select[..]].concat())?;
    until_ready(stream)
}

/// Takes messages up to ReadyForQuery.
fn until_ready(stream: &mut TcpStream) -> io::Result<()> {
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let length = u32::from_be_bytes(length).saturating_sub(4);
        let mut body = vec![0; length as usize];
        stream.read_exact(&mut body)?;
        match kind {
            b'Z' => return Ok(()),
            b'E' => {
                return Err(io::Error::other(
                    String::from_utf8_lossy(&body).into_owned(),
                ));
            }
            _ => (),
        }
    }
}

/// How long a client waits from its first packet to the answer, in milliseconds: so many cold starts, each with a thaw
/// after it. Each time goes to `note`, with the round and what it was.
pub(crate) fn thaws(
    wakeport: &Path,
    sleeper: Sleeper,
    rounds: u32,
    mut note: impl FnMut(u32, &str, f64),
) -> Result<(), Box<dyn Error>> {
    let rig = Rig::boot(wakeport)?;
    let unit = sleeper.install(&rig)?;
    let (entrance, port) = (sleeper.entrance(), sleeper.entrance().port());
    rig.run(&format!(
        "systemctl daemon-reload && wakeport init {unit} --listen 127.0.0.1:{port} --to 127.0.0.1:{} {FREEZES} --write --enable",
        port + 1000
    ))?;
    let slice = unit.replace('@', r"\x40").replace('-', r"\x2d");
    let slice = format!(r"'system-wakeport\x2d{slice}.slice'");
    let ask = || first_answer(&rig, entrance, move |stream| sleeper.ask(stream));
    for round in 0..=rounds {
        let cold = ask()?;
        let frozen = || -> Result<bool, Box<dyn Error>> {
            let state = rig.run(&format!(
                "systemctl show --property=FreezerState --value {slice}"
            ))?;
            Ok(state.trim() == "frozen")
        };
        let deadline = Instant::now() + STALLED;
        while !frozen()? {
            if Instant::now() > deadline {
                return Err("it is not frozen".into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        let thaw = ask()?;
        // The first one of each finds nothing in memory yet.
        if round > 0 {
            note(round, "wakeport, cold start", cold.as_secs_f64() * 1e3);
            note(round, "wakeport, frozen", thaw.as_secs_f64() * 1e3);
        }
        rig.run(&format!(
            "systemctl stop 'wakeport@{unit}.service' && systemctl stop {unit}"
        ))?;
    }
    Ok(())
}
