//! Connecting to a target: resolve, connect, make sure it is not ourselves, say for whom it is.

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
use crate::net::stream::{RawStream, Stream, tune};
use crate::util::backoff::Backoff;

/// Where one or more listeners relay to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Its address; a TCP one has its port.
    pub address: Address,
}

/// Connects to targets: first come, first served, and not too many at once.
#[derive(Clone, Debug)]
pub struct Dialer {
    turns: Arc<Semaphore>,
    liveness: Liveness,
    ours: Arc<HashSet<SocketAddr>>,
    header: Option<ProxyVersion>,
}

/// A connection to a target that does not know yet for whom it is. Dropped before that was said,
/// it says that it was only us.
#[derive(Debug)]
pub struct Connection {
    stream: Option<Stream>,
    header: Option<ProxyVersion>,
}

/// Many a server's backlog is 5 (and holds a few more): a herd that connects all at once makes
/// the kernel drop connection requests, and each of those costs its client a second.
const IN_FLIGHT: usize = 64;

/// How long one address may take to accept. A live host answers within a round trip; the
/// kernel sends its second and third request after 1 s and 3 s.
const ATTEMPT: Duration = Duration::from_secs(5);

/// How long a target may take to count as answering when we only look.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

impl Dialer {
    /// A dialer that never connects to `ours`, the addresses that we ourselves listen on.
    pub fn new(ours: impl IntoIterator<Item = SocketAddr>, liveness: Liveness) -> Self {
        Self {
            liveness,
            turns: Arc::new(Semaphore::new(IN_FLIGHT)),
            ours: Arc::new(ours.into_iter().collect()),
            header: None,
        }
    }

    /// The same, but its connections begin with a PROXY header, if with any.
    pub fn announcing(self, header: Option<ProxyVersion>) -> Self {
        Self { header, ..self }
    }

    /// Whether targets are told for whom a connection is.
    pub fn announces(&self) -> bool {
        self.header.is_some()
    }

    /// One attempt to connect, over all addresses that the target has right now.
    pub async fn dial(&self, target: &Target) -> io::Result<Connection> {
        Ok(Connection {
            stream: Some(self.connect(target).await?),
            header: self.header,
        })
    }

    /// As [`Dialer::dial`], to somebody who expects no header.
    pub async fn connect(&self, target: &Target) -> io::Result<Stream> {
        let _turn = self.turns.acquire().await.map_err(io::Error::other)?;
        match &target.address {
            Address::Unix(address) => limited(connect_unix(address)).await,
            Address::Tcp { host, port } => {
                let stream = self.connect_tcp(host, port.unwrap_or_default()).await?;
                tune(&stream, &self.liveness);
                Ok(stream)
            }
        }
    }

    /// Whether the target accepts a connection within a second: long enough to cross an ocean.
    pub async fn answers(&self, target: &Target) -> bool {
        matches!(timeout(PROBE_TIMEOUT, self.dial(target)).await, Ok(Ok(_)))
    }

    async fn connect_tcp(&self, host: &str, port: u16) -> io::Result<Stream> {
        let mut outcome = Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        ));
        for address in resolve(host, port).await? {
            if self.is_ours(address) {
                outcome = Err(io::Error::other(format!("{address} is a listener of ours")));
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
        self.ours.iter().any(|&ours| reaches(address, ours))
    }
}

impl Connection {
    /// Has the event loop of this thread watch it.
    pub fn rebind(mut self) -> io::Result<Self> {
        self.stream = self.stream.take().map(Stream::rebind).transpose()?;
        Ok(self)
    }

    /// Says for whom the connection is, where that is to be said.
    pub fn announce(mut self, origin: Origin) -> io::Result<Stream> {
        if let Some(version) = self.header.take() {
            self.say(&proxy_header::write(version, origin))?;
        }
        Ok(self.stream.take().expect("it is taken here only"))
    }

    /// Sends a header in one piece: there is room for it on a connection that has sent nothing.
    fn say(&self, header: &[u8]) -> io::Result<()> {
        let Some(stream) = &self.stream else {
            return Ok(());
        };
        match send(stream, header, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)? {
            sent if sent == header.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

impl From<Stream> for Connection {
    /// Nothing more is to be said of it.
    fn from(stream: Stream) -> Self {
        Self {
            stream: Some(stream),
            header: None,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(version) = self.header {
            let _ = self.say(&proxy_header::write(version, Origin::Local));
        }
    }
}

/// Whether a connection to `target` ends at a listener bound to `listener`, wildcards counted
/// (ipv6(7): the IPv6 wildcard takes IPv4 connections as well, unless told otherwise).
pub fn reaches(target: SocketAddr, listener: SocketAddr) -> bool {
    let (there, here) = (target.ip().to_canonical(), listener.ip().to_canonical());
    if target.port() != listener.port() {
        return false;
    }
    let family = listener.is_ipv6() || there.is_ipv4();
    there == here || here.is_unspecified() && family && is_local(there)
}

/// Whether `ip` belongs to this machine: only then can a socket be bound to it.
fn is_local(ip: IpAddr) -> bool {
    ip.is_unspecified() || ip.is_loopback() || std::net::UdpSocket::bind((ip, 0)).is_ok()
}

async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    // Numbers need no resolver, and so no thread.
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    limited(look_up(host.to_owned(), port)).await
}

/// As tokio does it, but that one panics where no thread can be started.
async fn look_up(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    let (reply, answer) = oneshot::channel();
    thread::Builder::new()
        .name("resolve".into())
        .spawn(move || {
            let found = (host.as_str(), port).to_socket_addrs();
            let _ = reply.send(found.map(Vec::from_iter));
        })?;
    answer.await.map_err(io::Error::other)?
}

async fn connect_to(address: SocketAddr) -> io::Result<Stream> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(family, SocketType::STREAM, FLAGS, None)?;
    // Within this machine a connection is made as it is asked for, though the first call does not
    // say so: to ask once more spares a turn of the event loop, and a timer.
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
    // The kernel grants a connection to itself to whoever connects to a free local port that it
    // happens to pick as the source port, too.
    if stream.here().is_ok_and(|here| here == Peer::tcp(address)) {
        stream.reset();
        return Err(io::Error::new(
            io::ErrorKind::ConnectionRefused,
            "connected to itself",
        ));
    }
    Ok(stream)
}

async fn connect_unix(address: &UnixAddress) -> io::Result<Stream> {
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
    timeout(ATTEMPT, attempt)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
