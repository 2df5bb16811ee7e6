//! An echo service, and clients that compare every byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::rig::Rig;

/// Starts in no time, and serves each client on a thread of its own.
const PROGRAM: &str = "\
import socket, sys, threading, time

def echo(client):
    try:
        while data := client.recv(65536):
            client.sendall(data)
    except OSError:
        pass
    client.close()

time.sleep(float(sys.argv[2]))
server = socket.create_server(('127.0.0.1', int(sys.argv[1])), backlog=1024)
while True:
    threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()
";

/// The longest wait for a byte: a client that hangs fails its scenario.
const ANSWER: Duration = Duration::from_secs(120);

/// An instance of wakeport, and the service behind it.
pub(crate) struct Echo<'a> {
    pub(crate) rig: &'a Rig,
    pub(crate) name: String,
    /// What the instance is called; it may have more services.
    instance: String,
    /// Where clients connect.
    pub(crate) address: String,
}

impl<'a> Echo<'a> {
    /// Puts the service NAME.service behind wakeport. It opens its port 50 ms after it has started; `service` is
    /// more for its `[Service]` section.
    pub(crate) fn asleep(rig: &'a Rig, name: &str, service: &str, settings: &[&str]) -> Self {
        let port = Self::unit_of(rig, name, service);
        Self::behind(rig, name, port, settings)
    }

    /// The same by `wakeport init` with these `options`.
    pub(crate) fn by_init(rig: &'a Rig, name: &str, service: &str, options: &str) -> Self {
        let port = Self::unit_of(rig, name, service);
        let (address, target) = (format!("127.0.0.1:{port}"), port + 10_000);
        rig.run(&format!(
            "wakeport init {name} --listen {address} --to 127.0.0.1:{target} {options} --write --enable"
        ));
        // As for `Rig::allow`.
        rig.systemctl("try-restart polkit.service");
        Self {
            rig,
            name: name.to_owned(),
            instance: name.to_owned(),
            address,
        }
    }

    /// Its unit, and the port before which it belongs.
    pub(crate) fn unit_of(rig: &Rig, name: &str, service: &str) -> usize {
        let port = Self::port(rig, name);
        let command = Self::command(port);
        rig.unit(
            &format!("{name}.service"),
            &format!("[Service]\nExecStart={command}\n{service}\n"),
        );
        port
    }

    /// The same as a child of wakeport, without a unit of its own.
    pub(crate) fn child(rig: &'a Rig, name: &str, settings: &[&str]) -> Self {
        let port = Self::port(rig, name);
        let command = format!("WAKEPORT_EXEC={}", Self::command(port));
        let settings = [&["WAKEPORT_UNIT=", &command], settings].concat();
        Self::behind(rig, name, port, &settings)
    }

    /// Two services behind one instance, by a file. `service` is for the `[Service]` section of each, with `NAME` for
    /// its name; `keys` are for both in the file.
    pub(crate) fn two(rig: &'a Rig, instance: &str, service: &str, keys: &str) -> [Self; 2] {
        let both = ["first", "second"].map(|name| {
            let port = Self::port(rig, name);
            let service = service.replace("NAME", name);
            let command = Self::command(port);
            rig.unit(
                &format!("{name}.service"),
                &format!("[Service]\nExecStart={command}\n{service}\n"),
            );
            Self {
                rig,
                name: name.to_owned(),
                instance: instance.to_owned(),
                address: format!("127.0.0.1:{port}"),
            }
        });
        Self::configure(&both, [keys, keys]);
        let listen = both
            .each_ref()
            .map(|echo| format!("--listen {}={}", echo.name, echo.address));
        rig.run(&format!(
            "wakeport init {instance} {} --write --enable",
            listen.join(" ")
        ));
        // As for `Rig::allow`.
        rig.systemctl("try-restart polkit.service");
        both
    }

    /// Writes the file of two services.
    pub(crate) fn configure(both: &[Self; 2], keys: [&str; 2]) {
        let table = |(echo, keys): (&Self, &str)| {
            let Self { name, address, .. } = echo;
            let target = address.replace(":8", ":18");
            format!("[service.{name}]\nlistener = '{name}'\nto = '{target}'\n{keys}\n")
        };
        let tables: Vec<_> = both.iter().zip(keys).map(table).collect();
        let Self { rig, instance, .. } = &both[0];
        rig.write(&format!("/etc/wakeport/{instance}.toml"), &tables.concat());
    }

    /// Waits until both services and their instance have gone, the ports staying open.
    #[track_caller]
    pub(crate) fn both_sleep(both: &[Self; 2]) {
        let Self { rig, instance, .. } = &both[0];
        for echo in both {
            rig.wait_until("inactive", &echo.service());
        }
        rig.wait_until("inactive", &both[0].wakeport());
        for socket in [
            format!("wakeport@{instance}.socket"),
            format!("wakeport@{instance}-{}.socket", both[1].name),
        ] {
            rig.wait_until("active", &socket);
            assert_eq!(rig.show("Result", &socket), "success");
        }
    }

    /// The next port, and what is needed to listen there.
    fn port(rig: &Rig, name: &str) -> usize {
        let port = 8100 + rig.ask("ls /run/rig/echo").lines().count();
        rig.write("/run/rig/echo.py", PROGRAM);
        rig.write(&format!("/run/rig/echo/{name}"), "");
        port
    }

    fn command(port: usize) -> String {
        format!("python3 -IS /run/rig/echo.py {} 0.05", port + 10_000)
    }

    fn behind(rig: &'a Rig, name: &str, port: usize, settings: &[&str]) -> Self {
        let address = format!("127.0.0.1:{port}");
        let target = format!("127.0.0.1:{}", port + 10_000);
        rig.instance(name, &address, &target, settings);
        Self {
            rig,
            name: name.to_owned(),
            instance: name.to_owned(),
            address,
        }
    }

    pub(crate) fn service(&self) -> String {
        format!("{}.service", self.name)
    }

    pub(crate) fn wakeport(&self) -> String {
        format!("wakeport@{}.service", self.instance)
    }

    /// A client that is served: its message is echoed.
    #[track_caller]
    pub(crate) fn serves(&self, exchange: &Exchange) {
        assert_eq!(exchange.run(&self.address), Ok(()), "{exchange:?}");
    }

    /// Has clients while `happens`, one of them all the time, and each is served; `happens` can wait until more were.
    pub(crate) fn under_clients(&self, happens: impl FnOnce(&dyn Fn())) {
        let (over, long, short) = (
            AtomicBool::new(false),
            AtomicUsize::new(0),
            AtomicUsize::new(0),
        );
        let exchange = Exchange {
            pause: Duration::from_millis(5),
            ..Exchange::short()
        };
        let until_over = |served: &AtomicUsize, one: &dyn Fn() -> Result<(), usize>| {
            while !over.load(SeqCst) {
                assert_eq!(one(), Ok(()), "a client of {}", self.name);
                served.fetch_add(1, SeqCst);
            }
        };
        let stream = TcpStream::connect(&self.address).expect("the port is open");
        thread::scope(|scope| {
            // Also when a condition does not come true.
            let _over = Over(&over);
            scope.spawn(|| {
                let exchange = Exchange {
                    ends_first: false,
                    ..exchange.clone()
                };
                until_over(&long, &|| {
                    exchange.talk(stream.try_clone().expect("there are files"))
                });
            });
            scope.spawn(|| until_over(&short, &|| exchange.run(&self.address)));
            let more = || {
                let before = [&long, &short].map(|served| served.load(SeqCst));
                self.rig.wait_for("clients of the other are served", || {
                    let now = [&long, &short].map(|served| served.load(SeqCst));
                    now.iter()
                        .zip(before)
                        .all(|(now, before)| *now >= before + 10)
                });
            };
            more();
            happens(&more);
        });
    }

    /// The record of the service; nothing before its first client.
    pub(crate) fn record(&self) -> Option<Value> {
        let name = match self.instance == self.name {
            true => self.name.clone(),
            false => format!("{}+{}", self.instance, self.name),
        };
        let path = format!("/var/lib/wakeport/instances/{name}.json");
        let text = std::fs::read_to_string(self.rig.path(&path)).ok()?;
        Some(serde_json::from_str(&text).expect("a record is whole at any time"))
    }

    /// What the service does, as far as the record says.
    pub(crate) fn state(&self) -> String {
        let record = self.record().unwrap_or_default();
        record["state"].as_str().unwrap_or_default().to_owned()
    }
}

/// Says that it is over when it goes, come what may.
pub(crate) struct Over<'a>(pub(crate) &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// A connection to an echo service: how much is sent, and how.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    /// Decides about the bytes.
    pub(crate) seed: u64,
    pub(crate) bytes: usize,
    /// How often, on the same connection.
    pub(crate) times: usize,
    /// Between the times, and after the last one.
    pub(crate) pause: Duration,
    /// The client says that it has no more to say before it reads the last answer.
    pub(crate) ends_first: bool,
}

impl Exchange {
    /// Sends a short message and closes.
    pub(crate) fn short() -> Self {
        Self {
            seed: 1,
            bytes: 100,
            times: 1,
            pause: Duration::ZERO,
            ends_first: true,
        }
    }

    /// Connects, and returns after how many correct bytes the connection broke, if it did. A wrong byte, and one that
    /// does not arrive, fail the scenario.
    #[track_caller]
    pub(crate) fn run(&self, address: &str) -> Result<(), usize> {
        let stream =
            TcpStream::connect(address).unwrap_or_else(|why| panic!("connect to {address}: {why}"));
        self.talk(stream)
    }

    /// The same, on a connection that is there already.
    #[track_caller]
    pub(crate) fn talk(&self, stream: TcpStream) -> Result<(), usize> {
        stream
            .set_read_timeout(Some(ANSWER))
            .and_then(|()| stream.set_write_timeout(Some(ANSWER)))
            .expect("a limit can be set");
        let said = words(self.seed, self.bytes);
        for time in 1..=self.times {
            let last = time == self.times;
            let heard = thread::scope(|scope| {
                scope.spawn(|| self.say(&stream, &said, last));
                hear(&stream, &said)
            });
            if heard < said.len() {
                return Err((time - 1) * said.len() + heard);
            }
            thread::sleep(self.pause);
        }
        if self.ends_first {
            match (&stream).read(&mut [0]) {
                Ok(0) => (),
                Ok(_) => panic!("more was heard than was said"),
                Err(why) if is_broken(&why) => return Err(self.times * said.len()),
                Err(why) => panic!("waiting for the end: {why}"),
            }
        }
        Ok(())
    }

    fn say(&self, mut stream: &TcpStream, said: &[u8], last: bool) {
        match stream.write_all(said) {
            Ok(()) if last && self.ends_first => {
                let _ = stream.shutdown(Shutdown::Write);
            }
            Ok(()) => (),
            Err(why) => assert!(is_broken(&why), "saying something: {why}"),
        }
    }
}

/// How much of `said` comes back.
fn hear(mut stream: &TcpStream, said: &[u8]) -> usize {
    let mut buffer = vec![0; 65_536];
    let mut heard = 0;
    while heard < said.len() {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                let expected = said.get(heard..heard + length);
                assert!(
                    expected == Some(&buffer[..length]),
                    "wrong bytes after {heard} good ones"
                );
                heard += length;
            }
            Err(why) if is_broken(&why) => break,
            Err(why) => panic!("after {heard} of {} bytes: {why}", said.len()),
        }
    }
    heard
}

fn is_broken(why: &std::io::Error) -> bool {
    matches!(
        why.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}

/// Bytes that do not occur by accident.
pub(crate) fn words(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut words = Vec::with_capacity(length + 8);
    while words.len() < length {
        words.extend(random.next().to_le_bytes());
    }
    words.truncate(length);
    words
}

/// Reproducible random numbers (xorshift64*).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 to `below - 1`.
    pub(crate) fn below(&mut self, below: u64) -> u64 {
        (self.next() >> 16) % below
    }

    pub(crate) fn millis(&mut self, below: u64) -> Duration {
        Duration::from_micros(self.below(below * 1000 + 1))
    }
}
