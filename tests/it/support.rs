//! Support for the whole-process tests: the real binary, with clients, servers and hooks around it. Everything is
//! observed from outside, and every condition is waited for.

mod network;
mod program;
mod trace;
mod wire;

pub(crate) use network::Network;
pub(crate) use program::Program;
pub(crate) use trace::Trace;
pub(crate) use wire::{
    Flow, Pattern, Wire, in_tiny_segments, is_tcp, kinds, send_in_pieces, with_hardly_any_room,
};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;

/// How long anything may take. Only a test that fails waits for it.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

#[expect(
    clippy::disallowed_methods,
    reason = "tests of whole processes live in real time"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits until `attempt` has something.
pub(crate) fn soon<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let began = now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(began.elapsed() < LIMIT, "in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `condition` holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    soon(what, || condition().then_some(()));
}

/// Asserts that `condition` keeps holding for a while.
pub(crate) fn throughout(span: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let began = now();
    while began.elapsed() < span {
        assert!(condition(), "not throughout: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A directory that is deleted with the test.
pub(crate) fn directory() -> TempDir {
    tempfile::Builder::new()
        .prefix("wakeport-")
        .tempdir()
        .expect("a scratch directory")
}

/// An executable script.
pub(crate) fn script(path: &Path, text: &str) -> String {
    // Written elsewhere first: a file that any process holds open for writing cannot be executed, and a process that
    // another test starts right now would hold it.
    let draft = path.with_extension("draft");
    fs::write(&draft, text).expect("a file of ours");
    let made = Command::new("install")
        .args(["-m", "755"])
        .args([&draft, path])
        .status()
        .expect("coreutils");
    assert!(made.success());
    path.display().to_string()
}

/// Bytes without a pattern.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

// -- places

static NUMBER: AtomicU32 = AtomicU32::new(0);

fn number() -> u32 {
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// An address to listen on.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// With a socket that is bound to it and does not listen, so that the kernel gives the port to no other,
    /// not to a listener on all addresses either. Sockets with `SO_REUSEADDR` may be bound to it as well,
    /// and one of them may listen (socket(7)).
    Tcp(
        SocketAddr,
        #[expect(dead_code, reason = "it keeps the port until it is dropped")] Option<Arc<Socket>>,
    ),
    Path(PathBuf),
    Abstract(String),
}

impl<A: Into<SocketAddr>> From<A> for Place {
    /// An address that the caller has.
    fn from(address: A) -> Self {
        Self::Tcp(address.into(), None)
    }
}

impl Place {
    /// A TCP address that nothing else uses: loopback has 16 million of them.
    pub(crate) fn tcp() -> Self {
        let (process, number) = (std::process::id(), number());
        let [a, b] = [process % 250 + 1, process / 250 % 250].map(|n| n as u8);
        let ip = Ipv4Addr::new(127, a, b ^ (number / 250) as u8, (number % 250) as u8 + 1);
        Self::free(ip)
    }

    /// A free port of `ip`, kept for as long as this or a clone of it lives.
    pub(crate) fn free(ip: impl Into<IpAddr>) -> Self {
        let any_port = SocketAddr::new(ip.into(), 0);
        let domain = Domain::for_address(any_port);
        let socket = Socket::new(domain, Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("an option");
        socket.bind(&any_port.into()).expect("a free port");
        let bound = socket.local_addr().expect("it is bound");
        Self::Tcp(bound.as_socket().expect("TCP"), Some(Arc::new(socket)))
    }

    /// The address of a TCP socket.
    pub(crate) fn tcp_address(&self) -> SocketAddr {
        match self {
            Self::Tcp(address, _) => *address,
            Self::Path(_) | Self::Abstract(_) => panic!("{self} is no TCP address"),
        }
    }

    /// The name of a socket file in `dir`.
    pub(crate) fn path(dir: &TempDir) -> Self {
        Self::Path(dir.path().join(format!("{}.sock", number())))
    }

    /// An abstract name that nothing else uses.
    pub(crate) fn abstract_name() -> Self {
        Self::Abstract(format!("wakeport-{}-{}", std::process::id(), number()))
    }

    pub(crate) fn port(&self) -> u16 {
        self.tcp_address().port()
    }

    fn socket(&self) -> Socket {
        let domain = match self {
            Self::Tcp(address, _) => Domain::for_address(*address),
            Self::Path(_) | Self::Abstract(_) => Domain::UNIX,
        };
        Socket::new(domain, Type::STREAM, None).expect("a socket")
    }

    fn address(&self) -> SockAddr {
        match self {
            Self::Tcp(address, _) => (*address).into(),
            Self::Path(path) => SockAddr::unix(path).expect("a short path"),
            Self::Abstract(name) => SockAddr::unix(format!("\0{name}")).expect("a short name"),
        }
    }

    /// Listens here, for this process or to be handed over.
    pub(crate) fn listen(&self) -> Socket {
        self.listen_with_backlog(4096)
    }

    pub(crate) fn listen_with_backlog(&self, backlog: i32) -> Socket {
        let socket = self.socket();
        if let Self::Tcp(..) = self {
            socket.set_reuse_address(true).expect("an option");
        }
        if let Self::Path(path) = self {
            let _ = fs::remove_file(path);
        }
        socket.bind(&self.address()).expect("a free address");
        socket.listen(backlog).expect("a listener");
        socket
    }

    /// Whether a connection succeeds right now.
    pub(crate) fn answers(&self) -> bool {
        self.socket().connect(&self.address()).is_ok()
    }

    /// A client that has connected here.
    pub(crate) fn connect(&self) -> Client {
        self.try_connect()
            .unwrap_or_else(|error| panic!("{self}: {error}"))
    }

    pub(crate) fn try_connect(&self) -> io::Result<Client> {
        let socket = self.socket();
        socket.connect(&self.address())?;
        Ok(Client::from(socket))
    }

    /// A client with a small receive buffer.
    pub(crate) fn connect_with_little_room(&self) -> Client {
        self.connect_with(|socket| socket.set_recv_buffer_size(4096).expect("an option"))
    }

    /// A client whose socket is prepared before it connects.
    pub(crate) fn connect_with(&self, prepare: impl FnOnce(&Socket)) -> Client {
        let socket = self.socket();
        prepare(&socket);
        socket.connect(&self.address()).expect("a listener");
        Client::from(socket)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address, _) => address.fmt(f),
            Self::Path(path) => path.display().fmt(f),
            Self::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

// -- one end of a connection

/// One end of a connection, a client's or a server's. Nothing it does takes longer than [`LIMIT`].
#[derive(Clone, Debug)]
pub(crate) struct Client(Arc<Socket>);

impl From<Socket> for Client {
    fn from(socket: Socket) -> Self {
        socket.set_read_timeout(Some(LIMIT)).expect("an option");
        socket.set_write_timeout(Some(LIMIT)).expect("an option");
        Self(Arc::new(socket))
    }
}

impl Client {
    pub(crate) fn socket(&self) -> &Socket {
        &self.0
    }

    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the other end reads");
    }

    pub(crate) fn try_send(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        (&*self.0).write_all(bytes.as_ref())
    }

    /// Reads what is there, at least a byte; 0 at the end of the stream. With a time limit any signal to the process
    /// interrupts that (signal(7)).
    pub(crate) fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&*self.0).read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                read => return read,
            }
        }
    }

    /// What is there, at least a byte; empty at the end of the stream.
    pub(crate) fn some(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; 65_536];
        let count = self.read(&mut bytes)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// Exactly so many bytes.
    pub(crate) fn take(&self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        (&*self.0)
            .read_exact(&mut bytes)
            .expect("the other end sends");
        bytes
    }

    /// Everything up to the end of the stream, or up to the error that came instead.
    pub(crate) fn rest(&self) -> (Vec<u8>, io::Result<()>) {
        let mut bytes = Vec::new();
        let end = (&*self.0).read_to_end(&mut bytes);
        (bytes, end.map(drop))
    }

    /// Everything up to an orderly end.
    pub(crate) fn all(&self) -> Vec<u8> {
        let (bytes, end) = self.rest();
        end.expect("an orderly end");
        bytes
    }

    /// Sends a message and waits for its echo.
    pub(crate) fn echoes(&self, text: &str) {
        let outcome = self.try_echo(text);
        assert!(
            matches!(&outcome, Ok(answer) if answer == text),
            "{outcome:?}"
        );
    }

    pub(crate) fn try_echo(&self, text: &str) -> io::Result<String> {
        self.try_send(text)?;
        let mut answer = vec![0; text.len()];
        (&*self.0).read_exact(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Half-closes; the other direction goes on.
    pub(crate) fn finish(&self) {
        self.0
            .shutdown(Shutdown::Write)
            .expect("an open connection");
    }

    /// Resets the connection.
    pub(crate) fn reset(self) {
        self.0
            .set_linger(Some(Duration::ZERO))
            .expect("an open connection");
    }

    /// Waits until the connection is reset, whatever comes before.
    pub(crate) fn is_reset(&self) {
        let (bytes, end) = self.rest();
        assert_eq!(
            end.as_ref().map_err(io::Error::kind),
            Err(io::ErrorKind::ConnectionReset),
            "after {} bytes",
            bytes.len()
        );
    }

    /// How many bytes wait to be sent, or to be acknowledged (proc_net_tcp(5)).
    pub(crate) fn unsent(&self) -> u64 {
        let port = |address: io::Result<SockAddr>| {
            let address = address.ok().and_then(|address| address.as_socket());
            address.map_or(0, |address| address.port())
        };
        let local = format!(":{:04X}", port(self.0.local_addr()));
        let remote = format!(":{:04X}", port(self.0.peer_addr()));
        let table = fs::read_to_string("/proc/net/tcp").expect("Linux");
        let queue = table.lines().find_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let ours = fields[1].ends_with(&local) && fields[2].ends_with(&remote);
            ours.then(|| fields[4].split(':').next().map(str::to_owned))?
        });
        u64::from_str_radix(&queue.expect("an open connection"), 16).expect("a number")
    }

    /// Whether there is no room to send anything.
    pub(crate) fn is_full(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut ends = [PollFd::new(&*self.0, PollFlags::OUT)];
        poll(&mut ends, Some(&Timespec::default())).expect("poll(2)") == 0
    }

    /// Whether nothing at all is there to be read, not even an end.
    pub(crate) fn is_silent(&self) -> bool {
        let flags = rustix::net::RecvFlags::DONTWAIT | rustix::net::RecvFlags::PEEK;
        rustix::net::recv(&*self.0, &mut [0; 1][..], flags)
            .is_err_and(|e| e == rustix::io::Errno::AGAIN)
    }
}

// -- servers

/// A server in this process: a thread for each connection.
pub(crate) struct Server {
    listener: Arc<Socket>,
    count: Arc<AtomicUsize>,
    open: Arc<Mutex<Vec<Weak<Socket>>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Serves every connection to `place` with `serve`.
    pub(crate) fn at(place: &Place, serve: impl Fn(Client) + Send + Sync + 'static) -> Self {
        Self::on(place.listen(), serve)
    }

    /// Serves every connection to `listener` with `serve`.
    pub(crate) fn on(listener: Socket, serve: impl Fn(Client) + Send + Sync + 'static) -> Self {
        let listener = Arc::new(listener);
        let (count, open) = (
            Arc::<AtomicUsize>::default(),
            Arc::<Mutex<Vec<_>>>::default(),
        );
        let thread = thread::spawn({
            let (listener, count, open) = (listener.clone(), count.clone(), open.clone());
            let serve = Arc::new(serve);
            move || {
                while let Ok((socket, _)) = listener.accept() {
                    let (client, serve) = (Client::from(socket), serve.clone());
                    lock(&open).push(Arc::downgrade(&client.0));
                    count.fetch_add(1, Ordering::SeqCst);
                    thread::spawn(move || serve(client));
                }
            }
        });
        Self {
            listener,
            count,
            open,
            thread: Some(thread),
        }
    }

    /// An echo server.
    pub(crate) fn echo(place: &Place) -> Self {
        Self::at(place, echo)
    }

    /// How many connections it has had.
    pub(crate) fn connections(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Resets all connections, like a service that is killed with data unread.
    pub(crate) fn crash(self) {
        for socket in lock(&self.open).drain(..).filter_map(|weak| weak.upgrade()) {
            let _ = socket.set_linger(Some(Duration::ZERO));
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.listener.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(crate) fn echo(client: Client) {
    while let Ok(bytes) = client.some() {
        if bytes.is_empty() {
            let _ = client.0.shutdown(Shutdown::Write);
            return;
        }
        if client.try_send(&bytes).is_err() {
            return;
        }
    }
}

// -- a service that hooks start and stop

/// What a hook was run for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) event: String,
    pub(crate) attempt: u32,
    pub(crate) pid: u32,
}

/// What there is to be started and stopped.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) place: Place,
    server: Arc<Mutex<Option<Server>>>,
    serve: Arc<dyn Fn(Client) + Send + Sync>,
}

impl Scene {
    pub(crate) fn up(&self) {
        let serve = self.serve.clone();
        lock(&self.server)
            .get_or_insert_with(|| Server::at(&self.place, move |client| serve(client)));
    }

    pub(crate) fn down(&self) {
        lock(&self.server).take();
    }

    /// Crashes with connections open.
    pub(crate) fn crash(&self) {
        if let Some(server) = lock(&self.server).take() {
            server.crash();
        }
    }

    /// How many connections the running service has had.
    pub(crate) fn connections(&self) -> usize {
        lock(&self.server).as_ref().map_or(0, Server::connections)
    }
}

/// A service whose hooks are real programs. What they do happens here: each hook says what it is run for, and ends with
/// the exit code that the play returns.
pub(crate) struct HookService {
    dir: TempDir,
    scene: Scene,
    calls: Arc<Mutex<Vec<Call>>>,
}

const HOOK: &str = r#"#!/bin/sh
d=${0%/*}
mkfifo "$d/$$" || exit 99
echo "$WAKEPORT_EVENT ${WAKEPORT_ATTEMPT:-0} $$" >"$d/calls"
read -r code <"$d/$$"
exit "$code"
"#;

impl HookService {
    /// An echo service that starts and stops at once.
    pub(crate) fn new() -> Self {
        Self::play(|_, _| ())
    }

    /// An echo service; `before` is what happens before it starts or stops.
    pub(crate) fn play(before: impl Fn(&Scene, &Call) + Send + Sync + 'static) -> Self {
        Self::direct(echo, move |scene, call| {
            before(scene, call);
            match call.event.as_str() {
                "start" => scene.up(),
                "stop" => scene.down(),
                _ => (),
            }
            0
        })
    }

    /// A service whose hooks do and return what `act` says.
    pub(crate) fn direct(
        serve: impl Fn(Client) + Send + Sync + 'static,
        act: impl Fn(&Scene, &Call) -> i32 + Send + Sync + 'static,
    ) -> Self {
        let (dir, calls) = (directory(), Arc::<Mutex<Vec<_>>>::default());
        let scene = Scene {
            place: Place::tcp(),
            server: Arc::default(),
            serve: Arc::new(serve),
        };
        script(&dir.path().join("hook"), HOOK);
        let fifo = dir.path().join("calls");
        let made = Command::new("mkfifo").arg(&fifo).status();
        assert!(made.expect("coreutils").success());
        // Open for both: it never ends, and opening it does not block.
        let fifo = both_ways(&fifo).expect("a fifo of ours");
        thread::spawn({
            let (scene, calls, act) = (scene.clone(), calls.clone(), Arc::new(act));
            let dir = dir.path().to_owned();
            move || {
                for line in BufReader::new(fifo).lines().map_while(Result::ok) {
                    let mut words = line.split(' ').map(str::to_owned);
                    let mut word = || words.next().unwrap_or_default();
                    let call = Call {
                        event: word(),
                        attempt: word().parse().unwrap_or_default(),
                        pid: word().parse().unwrap_or_default(),
                    };
                    if call.event == "end" {
                        return;
                    }
                    lock(&calls).push(call.clone());
                    let (scene, act, dir) = (scene.clone(), act.clone(), dir.clone());
                    thread::spawn(move || answer(&dir, &call, act(&scene, &call)));
                }
            }
        });
        Self { dir, scene, calls }
    }

    /// The options that make `wakeport` run these hooks.
    pub(crate) fn run(&self) -> Run {
        Run::new()
            .to(&self.scene.place)
            .option("--start-hook", self.hook())
            .option("--stop-hook", self.hook())
    }

    pub(crate) fn hook(&self) -> String {
        self.dir.path().join("hook").display().to_string()
    }

    pub(crate) fn scene(&self) -> &Scene {
        &self.scene
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        lock(&self.calls).clone()
    }

    /// How often a hook was run for `event`.
    pub(crate) fn count(&self, event: &str) -> usize {
        lock(&self.calls)
            .iter()
            .filter(|call| call.event == event)
            .count()
    }

    /// Waits until a hook has been run for `event` so many times.
    pub(crate) fn reaches(&self, event: &str, count: usize) {
        until(&format!("{count} times {event}"), || {
            self.count(event) >= count
        });
    }
}

impl Drop for HookService {
    fn drop(&mut self) {
        if let Ok(mut fifo) = both_ways(&self.dir.path().join("calls")) {
            let _ = fifo.write_all(b"end\n");
        }
    }
}

/// Has the hook end with `code`, if it still runs.
fn answer(dir: &Path, call: &Call, code: i32) {
    let fifo = dir.join(call.pid.to_string());
    if let Ok(mut file) = both_ways(&fifo) {
        let _ = writeln!(file, "{code}");
        // What is written is lost when no process has it open.
        while Path::new(&format!("/proc/{}", call.pid)).exists() && fifo.exists() {
            thread::sleep(Duration::from_millis(1));
        }
        let _ = fs::remove_file(&fifo);
    }
}

fn both_ways(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

// -- wakeport

/// How to run `wakeport run`. Can be started again and again.
#[derive(Debug, Default)]
pub(crate) struct Run {
    under: Vec<String>,
    arguments: Vec<String>,
    variables: BTreeMap<String, String>,
    inherited: Vec<(String, OwnedFd)>,
    names: Option<String>,
    nobody_reads: bool,
}

/// Hands over standard input and output as listeners, the way systemd does.
const HAND_OVER: &str = r#"
exec 3<&0
[ "$LISTEN_FDS" = 1 ] || exec 4<&1
exec 0</dev/null 1>&2
export LISTEN_PID=${LISTEN_PID-$$}
exec "$@"
"#;

impl Run {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn to(self, target: impl fmt::Display) -> Self {
        self.option("--to", target)
    }

    /// Makes it listen itself.
    pub(crate) fn listen(self, at: impl fmt::Display) -> Self {
        self.option("--listen", at)
    }

    /// Hands over a socket; it stays open here, too, as it does in systemd. There can be two.
    pub(crate) fn inherit(mut self, name: &str, socket: &impl AsFd) -> Self {
        let socket = socket.as_fd().try_clone_to_owned().expect("a descriptor");
        self.inherited.push((name.to_owned(), socket));
        self
    }

    pub(crate) fn option(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.arguments.push(format!("{name}={value}"));
        self
    }

    pub(crate) fn flag(mut self, name: &str) -> Self {
        self.arguments.push(name.to_owned());
        self
    }

    pub(crate) fn cooldown(self, span: &str) -> Self {
        self.option("--cooldown", span)
    }

    pub(crate) fn variable(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.variables.insert(name.to_owned(), value.to_string());
        self
    }

    /// Runs it through another program.
    pub(crate) fn under(mut self, program: &[&str]) -> Self {
        self.under
            .extend(program.iter().map(|&word| word.to_owned()));
        self
    }

    /// Leaves its log unread, until the test takes it from [`Wakeport::unread`].
    pub(crate) fn unread(mut self) -> Self {
        self.nobody_reads = true;
        self
    }

    /// Runs it, and waits until it is ready.
    pub(crate) fn start(&self) -> Wakeport {
        let mut wakeport = self.spawn();
        soon("READY=1", || {
            let running = wakeport.is_running();
            if !running {
                wakeport.stop_listening();
            }
            // It may have been idle, and have exited, by now.
            let ready = wakeport.has_said("READY=1");
            assert!(running || ready, "{}", wakeport.log());
            ready.then_some(())
        });
        wakeport
    }

    /// Runs it until it exits: its stderr and its exit code.
    pub(crate) fn fails(&self) -> (String, i32) {
        let mut wakeport = self.spawn();
        let code = wakeport.wait().code().expect("it was not killed");
        (wakeport.whole_log(), code)
    }

    pub(crate) fn command(&self) -> Command {
        let binary = env!("CARGO_BIN_EXE_wakeport");
        let mut words = self.under.clone();
        words.extend([binary.into(), "run".into()]);
        let mut command = match self.inherited.as_slice() {
            [] => {
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]);
                command.stdin(Stdio::null()).stdout(Stdio::null());
                command
            }
            [first, others @ ..] => {
                assert!(others.len() < 2, "only two sockets can be handed over");
                let mut command = Command::new("/bin/sh");
                command.args(["-c", HAND_OVER, "sh"]).args(&words);
                let socket = |socket: &OwnedFd| socket.try_clone().expect("a descriptor");
                command.stdin(socket(&first.1));
                if let Some(second) = others.first() {
                    command.stdout(socket(&second.1));
                }
                command
            }
        };
        command.args(&self.arguments).env_clear();
        command
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("TZ", "UTC");
        if !self.inherited.is_empty() {
            let names: Vec<_> = self
                .inherited
                .iter()
                .map(|(name, _)| name.as_str())
                .collect();
            command.env("LISTEN_FDS", names.len().to_string());
            command.env(
                "LISTEN_FDNAMES",
                self.names.clone().unwrap_or(names.join(":")),
            );
        }
        command.envs(&self.variables);
        command.stderr(Stdio::piped());
        command
    }

    pub(crate) fn spawn(&self) -> Wakeport {
        let dir = directory();
        let mut command = self.command();
        let said = Arc::<Mutex<Vec<String>>>::default();
        let mut ear = None;
        if !self.variables.contains_key("NOTIFY_SOCKET") {
            let path = dir.path().join("notify");
            let socket = UnixDatagram::bind(&path).expect("a socket of ours");
            // Whichever user it runs as.
            for path in [dir.path(), &path] {
                let all = fs::Permissions::from_mode(0o777);
                fs::set_permissions(path, all).expect("a file of ours");
            }
            command.env("NOTIFY_SOCKET", &path);
            ear = Some(thread::spawn({
                let said = said.clone();
                move || listen(&socket, &said)
            }));
        }
        let mut child = command.spawn().expect("the binary");
        let log = Arc::<Mutex<Vec<u8>>>::default();
        let stderr = if self.nobody_reads {
            None
        } else {
            child.stderr.take()
        };
        let reader = stderr.map(|mut stderr| {
            let log = log.clone();
            thread::spawn(move || {
                let mut bytes = vec![0; 65_536];
                while let Ok(count @ 1..) = stderr.read(&mut bytes) {
                    lock(&log).extend_from_slice(&bytes[..count]);
                }
            })
        });
        Wakeport {
            child,
            log,
            said,
            reader,
            ear,
            dir,
            listens: self.listens(),
        }
    }

    /// The TCP addresses that it opens itself.
    fn listens(&self) -> Vec<SocketAddr> {
        let arguments = self.arguments.iter();
        let listens = arguments.filter_map(|it| it.strip_prefix("--listen="));
        listens.filter_map(|it| it.parse().ok()).collect()
    }
}

/// Records the notifications to the service manager.
fn listen(socket: &UnixDatagram, said: &Mutex<Vec<String>>) {
    let mut bytes = vec![0; 8192];
    while let Ok(count @ 1..) = socket.recv(&mut bytes) {
        let text = String::from_utf8_lossy(&bytes[..count]);
        lock(said).extend(text.lines().map(str::to_owned));
    }
}

/// A running `wakeport`. It is killed when this is dropped, and its log shown if the test fails.
pub(crate) struct Wakeport {
    child: Child,
    log: Arc<Mutex<Vec<u8>>>,
    said: Arc<Mutex<Vec<String>>>,
    reader: Option<thread::JoinHandle<()>>,
    ear: Option<thread::JoinHandle<()>>,
    dir: TempDir,
    listens: Vec<SocketAddr>,
}

impl Wakeport {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is ours").is_none()
    }

    /// Waits until it exits; all its notifications have been received then.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let status = soon("its end", || self.child.try_wait().expect("it is ours"));
        self.stop_listening();
        status
    }

    fn stop_listening(&mut self) {
        if let Some(ear) = self.ear.take() {
            // An empty message ends it, after all that were sent before.
            let path = self.dir.path().join("notify");
            let _ = UnixDatagram::unbound().and_then(|socket| socket.send_to(&[], path));
            let _ = ear.join();
        }
    }

    /// Waits until it exits with 0.
    pub(crate) fn ends(&mut self) {
        let status = self.wait();
        assert!(status.success(), "{status}");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.id().cast_signed()).expect("a process ID");
        kill_process(pid, signal).expect("it runs");
    }

    // -- what it says

    /// Its log, if it has not been taken yet.
    pub(crate) fn unread(&mut self) -> ChildStderr {
        self.child
            .stderr
            .take()
            .expect("the log has not been taken")
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&lock(&self.log)).into_owned()
    }

    /// The whole log, once it has exited.
    pub(crate) fn whole_log(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.log()
    }

    /// Waits until the log has a line with this in it.
    pub(crate) fn logs(&self, text: &str) {
        until(&format!("`{text}` in the log"), || {
            self.log().contains(text)
        });
    }

    /// The notifications so far, in order.
    pub(crate) fn said(&self) -> Vec<String> {
        lock(&self.said).clone()
    }

    pub(crate) fn has_said(&self, line: &str) -> bool {
        lock(&self.said).iter().any(|said| said == line)
    }

    /// What `systemctl status` would show.
    pub(crate) fn status(&self) -> String {
        let said = lock(&self.said);
        let status = said
            .iter()
            .rev()
            .find_map(|line| line.strip_prefix("STATUS="));
        status.unwrap_or_default().to_owned()
    }

    /// Waits until a status has begun like this, whatever it is now.
    pub(crate) fn was(&self, status: &str) {
        let line = format!("STATUS={status}");
        until(&format!("a status `{status}`"), || {
            self.said().iter().any(|said| said.starts_with(&line))
        });
    }

    /// Waits until the log has the reason why clients of `front` are reset. On a busy machine the first may be before
    /// there is one.
    pub(crate) fn refuses(&self, front: &Place, why: &str) {
        until(why, || {
            front.connect().is_reset();
            self.log().contains(why)
        });
    }

    /// Waits until its status begins like this.
    pub(crate) fn is(&self, status: &str) {
        until(&format!("status `{status}`"), || {
            self.status().starts_with(status)
        });
    }

    // -- what it costs

    /// The processor time it has used.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).expect("it runs");
        let (_, fields) = stat.rsplit_once(") ").expect("proc_pid_stat(5)");
        let ticks: u64 = fields
            .split(' ')
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().expect("a number"))
            .sum();
        Duration::from_millis(ticks * 10)
    }

    /// The same, exactly: `/proc/PID/task/*/schedstat` (sched-stats.rst in the kernel's documentation).
    pub(crate) fn ran(&self) -> Duration {
        let nanos = self.tasks().into_iter().filter_map(|task| {
            let text = fs::read_to_string(task.join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanos.sum())
    }

    /// Asserts that it uses next to no processor time for `span`, and returns how much. A process that spins uses
    /// all there is; what the kernel still has to do, with its timers, may cost a little first.
    pub(crate) fn is_quiet(&self, span: Duration) -> Duration {
        soon("it uses no time", || {
            let before = self.ran();
            thread::sleep(span);
            let used = self.ran().saturating_sub(before);
            (used < Duration::from_millis(10)).then_some(used)
        })
    }

    /// How many threads it has.
    pub(crate) fn threads(&self) -> usize {
        self.tasks().len()
    }

    fn tasks(&self) -> Vec<PathBuf> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.id())).expect("it runs");
        tasks.flatten().map(|task| task.path()).collect()
    }

    /// Its memory, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        self.status_of("VmRSS:")
    }

    /// The most memory that it had at any time, in KiB.
    pub(crate) fn most_memory(&self) -> u64 {
        self.status_of("VmHWM:")
    }

    fn status_of(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let number = line
            .expect("proc_pid_status(5)")
            .trim()
            .trim_end_matches(" kB");
        number.parse().expect("a number")
    }

    /// Its connections; for a look at them, not to be used.
    pub(crate) fn connections(&self) -> Vec<Socket> {
        let connected = |socket: &Socket| socket.peer_addr().is_ok_and(|peer| peer.is_ipv4());
        let files = self.files(|_| true).into_iter();
        files.map(Socket::from).filter(connected).collect()
    }

    /// Its files, as far as `wanted` says so of where their links in proc(5) point to.
    pub(crate) fn files(&self, wanted: impl Fn(&str) -> bool) -> Vec<OwnedFd> {
        let pid = Pid::from_raw(self.id().cast_signed()).expect("a process ID");
        let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
        let process = process.expect("it runs");
        let wanted = self
            .links()
            .into_iter()
            .filter(|(_, target)| wanted(target));
        wanted
            .filter_map(|(number, _)| {
                let flags = rustix::process::PidfdGetfdFlags::empty();
                rustix::process::pidfd_getfd(&process, number, flags).ok()
            })
            .collect()
    }

    /// How many pipes it has made for itself: those of which it has both ends.
    pub(crate) fn pipes(&self) -> usize {
        let mut seen = BTreeSet::new();
        let links = self.links().into_iter().map(|(_, target)| target);
        links
            .filter(|target| target.starts_with("pipe:") && !seen.insert(target.clone()))
            .count()
    }

    /// How many sockets it has, whatever number of handles of each.
    pub(crate) fn sockets(&self) -> usize {
        let links = self.links().into_iter().map(|(_, target)| target);
        let sockets = links.filter(|target| target.starts_with("socket:"));
        sockets.collect::<BTreeSet<_>>().len()
    }

    /// Its files and where their links in proc(5) point to.
    fn links(&self) -> Vec<(i32, String)> {
        let files = fs::read_dir(format!("/proc/{}/fd", self.id())).expect("it runs");
        let links = files.filter_map(|file| {
            let path = file.ok()?.path();
            let target = fs::read_link(&path).ok()?.display().to_string();
            Some((path.file_name()?.to_str()?.parse().ok()?, target))
        });
        links.collect()
    }

    /// How many files it has open.
    pub(crate) fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.id()))
            .expect("it runs")
            .count()
    }
}

impl Drop for Wakeport {
    fn drop(&mut self) {
        let was_running = self.is_running();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if was_running && !thread::panicking() {
            self.listens.iter().for_each(is_closed);
        }
        if thread::panicking() {
            #[expect(clippy::print_stderr, reason = "only a test that fails says this")]
            {
                eprintln!(
                    "-- its log:\n{}-- its notifications: {:#?}",
                    self.log(),
                    self.said()
                );
            }
        }
        self.stop_listening();
    }
}

/// Waits until nothing listens: a process that is killed as it starts a program may leave its sockets to that
/// until it runs.
fn is_closed(address: &SocketAddr) {
    until(&format!("nothing listens on {address}"), || {
        let place = Place::from(*address);
        let socket = place.socket();
        let bound = socket
            .set_reuse_address(true)
            .and_then(|()| socket.bind(&place.address()));
        bound.and_then(|()| socket.listen(1)).is_ok()
    });
}

/// Whether a process runs; a zombie does not.
pub(crate) fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| {
            stat.rsplit_once(") ")
                .map(|(_, fields)| !fields.starts_with(['Z', 'X']))
        })
        .unwrap_or(false)
}
