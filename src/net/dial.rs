//! Connecting to a target: resolve, connect, check that it is not ourselves, announce the client.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, send, socket_with,
};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::config::address::{Address, Peer, UnixAddress};
use crate::config::kubernetes::ServicePods;
use crate::config::{Liveness, ProxyVersion};
use crate::net::datagram::DatagramSocket;
use crate::net::endpoints::Endpoints;
use crate::net::proxy_header::{self, Origin};
use crate::net::reach::reaches_over_tcp;
use crate::net::stream::{AsyncStream, RawStream, tune};
use crate::util::backoff::Backoff;
use crate::util::lock::locked;

/// Where one or more listeners relay to; over TCP with its port.
pub type Target = Address;

/// Connects to targets: in order, and not too many at once.
#[derive(Clone, Debug)]
pub struct Dialer {
    in_flight: Arc<Semaphore>,
    liveness: Liveness,
    ours: Arc<HashSet<SocketAddr>>,
    ours_udp: Arc<HashSet<SocketAddr>>,
    preferred: Preferred,
    endpoints: Endpoints,
    header: Option<ProxyVersion>,
}

/// Addresses that answered in the place of others of the same name, and since when they go first.
#[derive(Clone, Debug, Default)]
struct Preferred(Arc<Mutex<HashMap<SocketAddr, Instant>>>);

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

/// How long an address has to itself before the next one of its name is tried as well (RFC 8305,
/// section 8).
const STAGGER: Duration = Duration::from_millis(250);

/// How long an address goes first that answered in the place of another.
const PREFERRED_FOR: Duration = Duration::from_secs(600);

/// How long a target may take to answer a probe: long enough to cross an ocean.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

impl Dialer {
    /// A dialer that refuses to connect to `ours`, the addresses of our own listeners. Its connections
    /// begin with `header`.
    pub fn new(
        ours: impl IntoIterator<Item = SocketAddr>,
        liveness: Liveness,
        header: Option<ProxyVersion>,
    ) -> Self {
        Self {
            liveness,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
            ours: Arc::new(ours.into_iter().collect()),
            ours_udp: Arc::default(),
            preferred: Preferred::default(),
            endpoints: Endpoints::default(),
            header,
        }
    }

    /// The same, that sends no datagrams to `ours` either.
    pub fn without_datagrams_to(self, ours: impl IntoIterator<Item = SocketAddr>) -> Self {
        let ours_udp = Arc::new(ours.into_iter().collect());
        Self { ours_udp, ..self }
    }

    /// A socket for datagrams to the target.
    pub async fn connect_datagrams(&self, target: &Target) -> io::Result<DatagramSocket> {
        let Address::Udp { host, port } = target else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        // A name takes a thread.
        let _permit = match host.parse::<IpAddr>() {
            Ok(_) => None,
            Err(_) => Some(self.in_flight.acquire().await.map_err(io::Error::other)?),
        };
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "name has no address");
        for address in resolve(host, port.unwrap_or_default()).await? {
            let mut ours = self.ours_udp.iter();
            if ours.any(|&ours| reaches_over_tcp(address, ours)) {
                failure = io::Error::other(format!("{address} is our own listener"));
                continue;
            }
            match DatagramSocket::connect(address) {
                Ok(socket) => return Ok(socket),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Where the addresses of Services are to be written.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
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
        match target {
            Address::Unix(address) => Box::pin(limited(connect_unix(address))).await,
            Address::Tcp { host, port } => self.connect_tcp(host, port.unwrap_or_default()).await,
            Address::Service(service) => Box::pin(self.connect_to_pod(service)).await,
            Address::Udp { .. } => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether the target accepts a connection.
    pub async fn answers(&self, target: &Target) -> bool {
        matches!(timeout(PROBE_TIMEOUT, self.dial(target)).await, Ok(Ok(_)))
    }

    async fn connect_tcp(&self, host: &str, port: u16) -> io::Result<AsyncStream> {
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "name has no address");
        let mut addresses = resolve(host, port).await?;
        addresses.retain(|&address| {
            let is_ours = self.is_ours(address);
            if is_ours {
                failure = io::Error::other(format!("{address} is our own listener"));
            }
            !is_ours
        });
        // A number says it already. A name may have other addresses here than elsewhere: a sandbox
        // hides what some of its sources ask.
        let tried = match host.parse::<IpAddr>() {
            Ok(_) => Vec::new(),
            Err(_) => addresses.clone(),
        };
        let connected = match addresses[..] {
            [] => Err(failure),
            [address] => connect_to(address, &self.liveness).await,
            _ => Box::pin(self.connect_to_any(self.preferred.order(addresses))).await,
        };
        connected.map_err(|error| match tried.is_empty() {
            true => error,
            false => {
                let tried: Vec<_> = tried.iter().map(ToString::to_string).collect();
                let text = format!("{error} (tried {})", tried.join(", "));
                io::Error::new(error.kind(), text)
            }
        })
    }

    /// Connects to the pod with the fewest connections, or to another one if that does not answer.
    async fn connect_to_pod(&self, service: &ServicePods) -> io::Result<AsyncStream> {
        let (mut addresses, in_use) = self.endpoints.order(service).map_err(io::Error::other)?;
        addresses.retain(|&address| !self.is_ours(address));
        let stream = match addresses[..] {
            [] => {
                return Err(io::Error::other(
                    "its pods are wakeport's own; give it the Service of the workload",
                ));
            }
            [address] => connect_to(address, &self.liveness).await?,
            _ => self.connect_to_any(addresses).await?,
        };
        Ok(match stream.peer_addr()? {
            Peer::Tcp(address) => stream.counted(in_use.moved(address)),
            Peer::Unix => stream,
        })
    }

    /// Tries one address after the other, the next one when those before have failed or a moment has
    /// passed (RFC 8305, section 5).
    async fn connect_to_any(&self, addresses: Vec<SocketAddr>) -> io::Result<AsyncStream> {
        let mut left = addresses.iter().copied();
        let mut attempts = JoinSet::new();
        let mut outcome = Err(io::ErrorKind::TimedOut.into());
        loop {
            let next = left.next();
            if let Some(address) = next {
                let liveness = self.liveness;
                attempts.spawn(async move { (address, connect_to(address, &liveness).await) });
            }
            tokio::select! {
                ended = attempts.join_next() => match ended {
                    None => return outcome,
                    Some(Ok((address, Ok(stream)))) => {
                        self.preferred.answered(address, &addresses);
                        return Ok(stream);
                    }
                    Some(Ok((_, failure))) => outcome = failure,
                    Some(Err(error)) => outcome = Err(io::Error::other(error)),
                },
                () = sleep(STAGGER), if next.is_some() => (),
            }
        }
    }

    /// Whether connecting to `address` would reach one of our own listeners.
    pub fn is_ours(&self, address: SocketAddr) -> bool {
        self.ours
            .iter()
            .any(|&ours| reaches_over_tcp(address, ours))
    }
}

impl Preferred {
    /// The addresses of a name in the order in which they are tried: those that answered go first,
    /// then the families take turns (RFC 8305, section 4).
    fn order(&self, addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let since = locked(&self.0);
        let preferred = |address: &SocketAddr| since.get(address).is_some_and(is_recent);
        let mut of_family = [0, 0];
        let ranked = addresses.into_iter().map(|address| {
            let rank = &mut of_family[usize::from(address.is_ipv4())];
            *rank += 1;
            (!preferred(&address), *rank, address)
        });
        let mut ranked: Vec<_> = ranked.collect();
        ranked.sort_by_key(|&(is_late, rank, _)| (is_late, rank));
        ranked.into_iter().map(|(_, _, address)| address).collect()
    }

    /// Takes note that `address` answered, of those that were tried in this order.
    fn answered(&self, address: SocketAddr, tried: &[SocketAddr]) {
        if tried.first() == Some(&address) {
            return;
        }
        let mut since = locked(&self.0);
        since.retain(|other, since| is_recent(since) && !tried.contains(other));
        since.insert(address, Instant::now());
    }
}

fn is_recent(since: &Instant) -> bool {
    since.elapsed() < PREFERRED_FOR
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
    Box::pin(limited(on_a_thread("resolve", lookup))).await
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

async fn connect_to(address: SocketAddr, liveness: &Liveness) -> io::Result<AsyncStream> {
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
        // In a box, since it is seldom needed: so with all that follow.
        Box::pin(limited(stream.connected())).await?;
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
    tune(&stream, liveness);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn families_take_turns_and_an_address_that_answered_goes_first_for_a_while() {
        let addresses = |texts: &[&str]| -> Vec<SocketAddr> {
            let texts = texts.iter();
            texts.map(|text| text.parse().expect("parses")).collect()
        };
        let resolved = addresses(&["[2001:db8::1]:1", "[2001:db8::2]:1", "192.0.2.1:1"]);
        let in_turn = addresses(&["[2001:db8::1]:1", "192.0.2.1:1", "[2001:db8::2]:1"]);
        let preferred = Preferred::default();
        assert_eq!(preferred.order(resolved.clone()), in_turn);
        // The first one to answer is no news: the order stays the resolver's.
        preferred.answered(in_turn[0], &in_turn);
        assert_eq!(preferred.order(resolved.clone()), in_turn);
        preferred.answered(in_turn[2], &in_turn);
        let order = preferred.order(resolved.clone());
        assert_eq!(order[0], resolved[1]);
        preferred.answered(resolved[2], &order);
        let order = preferred.order(resolved.clone());
        assert_eq!(order, [resolved[2], resolved[0], resolved[1]]);
        tokio::time::advance(PREFERRED_FOR).await;
        assert_eq!(preferred.order(resolved), in_turn);
    }
}
