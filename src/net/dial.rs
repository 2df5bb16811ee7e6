//! Connecting to a target: resolve, connect, check that it is not ourselves, announce the client.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, send, socket_with,
};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use crate::config::address::{Address, Peer, UnixAddress};
use crate::config::{Liveness, ProxyVersion};
use crate::net::proxy_header::{self, Origin};
use crate::net::reach::reaches_over_tcp;
use crate::net::stream::{AsyncStream, RawStream, tune};
use crate::util::backoff::Backoff;

/// Where one or more listeners relay to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Its address; a TCP one has its port.
    pub address: Address,
}

/// Connects to targets: in order, and not too many at once.
#[derive(Clone, Debug)]
pub struct Dialer {
    in_flight: Arc<Semaphore>,
    liveness: Liveness,
    ours: Arc<HashSet<SocketAddr>>,
    header: Option<ProxyVersion>,
}

/// A connection to a target that has not been told its client. Dropped untold, it announces itself
/// as local.
#[derive(Debug)]
pub struct Connection {
    stream: Option<AsyncStream>,
    header: Option<ProxyVersion>,
}

/// A backlog is often 5 (and holds a few more): more connections at once make the kernel drop
/// requests, and each of those costs its client a second.
const IN_FLIGHT: usize = 64;

/// How long one address may take to accept. A live host answers within a round trip; the
/// kernel sends its second and third request after 1 s and 3 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a target may take to answer a probe: long enough to cross an ocean.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

impl Dialer {
    /// A dialer that refuses to connect to `ours`, the addresses of our own listeners.
    pub fn new(ours: impl IntoIterator<Item = SocketAddr>, liveness: Liveness) -> Self {
        Self {
            liveness,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
            ours: Arc::new(ours.into_iter().collect()),
            header: None,
        }
    }

    /// The same, but its connections begin with a PROXY header.
    pub fn announcing(self, header: Option<ProxyVersion>) -> Self {
        Self { header, ..self }
    }

    /// Whether targets are told their clients.
    pub fn announces(&self) -> bool {
        self.header.is_some()
    }

    /// One attempt to connect, over all addresses that the target has now.
    pub async fn dial(&self, target: &Target) -> io::Result<Connection> {
        Ok(Connection {
            stream: Some(self.connect(target).await?),
            header: self.header,
        })
    }

    /// As [`Dialer::dial`], to a server that expects no header.
    pub async fn connect(&self, target: &Target) -> io::Result<AsyncStream> {
        let _permit = self.in_flight.acquire().await.map_err(io::Error::other)?;
        match &target.address {
            Address::Unix(address) => limited(connect_unix(address)).await,
            Address::Tcp { host, port } => {
                let stream = self.connect_tcp(host, port.unwrap_or_default()).await?;
                tune(&stream, &self.liveness);
                Ok(stream)
            }
        }
    }

    /// Whether the target accepts a connection.
    pub async fn answers(&self, target: &Target) -> bool {
        matches!(timeout(PROBE_TIMEOUT, self.dial(target)).await, Ok(Ok(_)))
    }

    async fn connect_tcp(&self, host: &str, port: u16) -> io::Result<AsyncStream> {
        let mut outcome = Err(io::Error::new(
            io::ErrorKind::NotFound,
            "name has no address",
        ));
        for address in resolve(host, port).await? {
            if self.is_ours(address) {
                outcome = Err(io::Error::other(format!("{address} is our own listener")));
                continue;
            }
            outcome = connect_to(address).await;
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// Whether connecting to `address` would reach one of our own listeners.
    pub fn is_ours(&self, address: SocketAddr) -> bool {
        self.ours
            .iter()
            .any(|&ours| reaches_over_tcp(address, ours))
    }
}

impl Connection {
    /// Has the event loop of this thread watch it.
    pub fn rebind(mut self) -> io::Result<Self> {
        self.stream = self.stream.take().map(AsyncStream::rebind).transpose()?;
        Ok(self)
    }

    /// Sends the header, if one is to be sent.
    pub fn announce(mut self, origin: Origin) -> io::Result<AsyncStream> {
        if let Some(version) = self.header.take() {
            self.send(&proxy_header::write(version, origin))?;
        }
        Ok(self.stream.take().expect("it is taken here only"))
    }

    /// Sends a header in one piece: it fits, since nothing was sent before.
    fn send(&self, header: &[u8]) -> io::Result<()> {
        let Some(stream) = &self.stream else {
            return Ok(());
        };
        match send(stream, header, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)? {
            sent if sent == header.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

impl From<AsyncStream> for Connection {
    /// One that sends no header.
    fn from(stream: AsyncStream) -> Self {
        Self {
            stream: Some(stream),
            header: None,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(version) = self.header {
            let _ = self.send(&proxy_header::write(version, Origin::Local));
        }
    }
}

pub(super) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    // Numbers need no resolver, and so no thread.
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let host = host.to_owned();
    let lookup = move || Ok(Vec::from_iter((host.as_str(), port).to_socket_addrs()?));
    limited(on_a_thread("resolve", lookup)).await
}

/// What may block, on a thread of its own. As tokio does it, which panics where no thread can be
/// started.
pub(super) async fn on_a_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (reply, answer) = oneshot::channel();
    thread::Builder::new().name(name.into()).spawn(move || {
        let _ = reply.send(work());
    })?;
    answer.await.map_err(io::Error::other)?
}

async fn connect_to(address: SocketAddr) -> io::Result<AsyncStream> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(family, SocketType::STREAM, FLAGS, None)?;
    // Within this machine a connection is established at once, though the first call does not say
    // so: a second call spares a turn of the event loop, and a timer.
    let mut outcome = rustix::net::connect(&socket, &address);
    if outcome == Err(Errno::INPROGRESS) {
        outcome = rustix::net::connect(&socket, &address);
    }
    let under_way = match outcome {
        Ok(()) => false,
        Err(Errno::INPROGRESS | Errno::ALREADY) => true,
        Err(error) => return Err(error.into()),
    };
    let stream = RawStream::Tcp(socket.into()).watch()?;
    if under_way {
        limited(stream.connected()).await?;
    }
    // A connect(2) to a free local port that the kernel happens to pick as the source port, too,
    // connects the socket to itself.
    if stream
        .local_addr()
        .is_ok_and(|own| own == Peer::tcp(address))
    {
        stream.reset();
        return Err(io::Error::new(
            io::ErrorKind::ConnectionRefused,
            "connected to itself",
        ));
    }
    Ok(stream)
}

async fn connect_unix(address: &UnixAddress) -> io::Result<AsyncStream> {
    let address = match address {
        UnixAddress::Path(path) => SocketAddrUnix::new(path)?,
        UnixAddress::Abstract(name) => SocketAddrUnix::new_abstract_name(name)?,
    };
    let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(100));
    loop {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return RawStream::Unix(socket.into()).watch(),
            // The server's backlog is full (unix(7)): busy, not down.
            Err(Errno::AGAIN) => sleep(backoff.pause()).await,
            Err(error) => return Err(error.into()),
        }
    }
}

async fn limited<T>(attempt: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(CONNECT_TIMEOUT, attempt)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
