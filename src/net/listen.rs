//! The sockets we accept on: inherited from systemd by name, or bound by hand.

use std::env;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use listenfd::ListenFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, bind, ipproto, listen,
    netdevice, socket_with, sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::config::address::{Bound, Peer, UnixAddress};
use crate::config::{Liveness, Named};
use crate::net::datagram::DatagramSocket;
use crate::net::stream::{RawStream, tune};

/// A socket that clients connect to.
#[derive(Debug)]
pub struct Listener {
    /// Its `FileDescriptorName=`; for one of our own the name given with `--listen`.
    pub name: String,
    /// Where it listens.
    pub address: Bound,
    socket: OwnedFd,
    /// The same socket, if it is one of datagrams.
    datagrams: Option<Arc<DatagramSocket>>,
    /// The keepalive of its clients, over TCP.
    liveness: Option<Liveness>,
    /// All clients that came before its keepalive was set have been accepted.
    caught_up: AtomicBool,
    /// A socket file of our own, removed on drop.
    _file: Option<SocketFile>,
}

/// What systemd has passed to us.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The listeners that we can serve.
    pub listeners: Vec<Listener>,
    /// Those for requests of the administrator's: they are called [`CONTROL`].
    pub control: Vec<Listener>,
    /// What is wrong with the others, each in one line.
    pub errors: Vec<String>,
    /// What an earlier process has left in the file descriptor store.
    pub stored: Stored,
    others: Vec<OwnedFd>,
}

/// What an earlier process has left in the file descriptor store.
#[derive(Debug, Default)]
pub struct Stored {
    /// Those called [`CONNECTIONS`].
    pub queues: Vec<OwnedFd>,
    /// The names of those that are not known to this version.
    pub unknown: Vec<String>,
}

/// How descriptors are named that we leave in the file descriptor store, in this version or another.
const STORED: &str = "wakeport-";
/// Queues of connections for the next process.
pub const CONNECTIONS: &str = "wakeport-connections";
/// Listeners for requests.
pub const CONTROL: &str = "wakeport-control";
/// How systemd names those that were stored without a name.
const UNNAMED: &str = "stored";

/// Takes over the sockets that systemd has passed to us (sd_listen_fds(3)). To be called once,
/// before any thread exists: it changes the environment.
pub fn inherit() -> Inherited {
    let mut inherited = Inherited::default();
    let value = |name| env::var_os(name).unwrap_or_default();
    let value = |name| value(name).to_string_lossy().into_owned();
    let fds = value("LISTEN_FDS");
    if fds.is_empty() {
        return inherited;
    }
    let (pid, names) = (value("LISTEN_PID"), value("LISTEN_FDNAMES"));
    let names = match self::names(&fds, &pid, &names, std::process::id()) {
        Ok(names) => names,
        Err(error) => {
            inherited.errors.push(error);
            return inherited;
        }
    };
    // Those that are not taken must not go to a program of the administrator's.
    let _ = sd_notify::listen_fds();
    let mut fds = ListenFd::from_env();
    for (index, name) in names.into_iter().enumerate() {
        inherited.add(name, take(&mut fds, index));
    }
    inherited
}

/// The names of the sockets that `LISTEN_FDS=` counts, in their order; `pid` is ours.
pub fn names(fds: &str, to: &str, names: &str, pid: u32) -> Result<Vec<String>, String> {
    // No process has more than that many (fs/file.c: `sysctl_nr_open`).
    let count = fds.parse().ok().filter(|n| (1..=1 << 20).contains(n));
    let count: usize = count.ok_or_else(|| {
        let fds = fds.escape_debug();
        format!(
            "`LISTEN_FDS={fds}` is not a valid socket count; start wakeport from its `.socket` unit"
        )
    })?;
    if to != pid.to_string() {
        let to = to.escape_debug();
        return Err(format!(
            "the sockets passed in are for process `{to}` (LISTEN_PID=), not for this one; let \
             `ExecStart=` run wakeport itself, without a shell around it"
        ));
    }
    // As sd_listen_fds_with_names(3) names one without a valid name.
    let is_valid = |name: &str| !name.is_empty() && !name.contains(|c: char| c.is_control());
    let valid = |name| if is_valid(name) { name } else { "unknown" }.to_owned();
    let names = names.split(':').chain(std::iter::repeat(""));
    Ok(names.take(count).map(valid).collect())
}

/// Takes descriptor `index`, whatever socket it is.
fn take(fds: &mut ListenFd, index: usize) -> Option<OwnedFd> {
    let families = [
        AddressFamily::INET,
        AddressFamily::UNIX,
        AddressFamily::VSOCK,
    ];
    let types = [SocketType::STREAM, SocketType::DGRAM, SocketType::SEQPACKET];
    let mut take = |family: AddressFamily, kind: SocketType| {
        let (family, kind) = (i32::from(family.as_raw()), kind.as_raw() as i32);
        let taken = fds.take_custom(index, family, kind, "socket");
        taken.ok().flatten()
    };
    let mut families = families.into_iter();
    families.find_map(|family| types.into_iter().find_map(|kind| take(family, kind)))
}

impl Inherited {
    fn add(&mut self, name: String, socket: Option<OwnedFd>) {
        let checked = match &socket {
            Some(socket) => check(&name, socket),
            None => Err(not_a_stream(&name)),
        };
        match (checked, socket) {
            (Ok((address, datagrams)), Some(socket)) => {
                let mut listener = Listener::new(name, address, socket, None);
                listener.datagrams = datagrams;
                match listener.name == CONTROL {
                    true => self.control.push(listener),
                    false => self.listeners.push(listener),
                }
            }
            (Err(_), Some(queue)) if name == CONNECTIONS => self.stored.queues.push(queue),
            (Err(_), _) if name.starts_with(STORED) || name == UNNAMED => {
                if !self.stored.unknown.contains(&name) {
                    self.stored.unknown.push(name);
                }
            }
            (Err(error), socket) => {
                self.errors.push(error);
                self.others.extend(socket);
            }
            (Ok(_), None) => (),
        }
    }

    /// Resets all clients in the backlogs for `pause`: any that are left when we exit make systemd
    /// start us again at once, until the socket unit fails.
    pub fn reject_all(&self, pause: Duration) {
        let mut left = pause;
        loop {
            for listener in self.listeners.iter().chain(&self.control) {
                if let Some(datagrams) = &listener.datagrams {
                    while datagrams.receive(usize::MAX, |_| ()).is_ok() {}
                    continue;
                }
                while let Ok((client, _)) = listener.try_accept() {
                    client.reset();
                }
            }
            for other in &self.others {
                while rustix::net::recv(other, &mut [0; 16][..], RecvFlags::DONTWAIT)
                    .is_ok_and(|(n, _)| n > 0)
                {}
            }
            let all = [self.listeners.is_empty(), self.control.is_empty()];
            let no_sockets = self.others.is_empty() && all == [true; 2];
            if left.is_zero() || no_sockets {
                return;
            }
            let nap = left.min(Duration::from_millis(25));
            std::thread::sleep(nap);
            left -= nap;
        }
    }
}

/// The address of a socket that we can accept on, without blocking from now on.
fn check(name: &str, socket: &OwnedFd) -> Result<Usable, String> {
    let fail = |error: Errno| format!("cannot use listener `{name}`: {}", io::Error::from(error));
    let kind = sockopt::socket_type(socket).map_err(fail)?;
    if kind == SocketType::DGRAM
        && !name.starts_with(STORED)
        && name != UNNAMED
        && let Some(Bound::Tcp(address)) = address_of(socket).map_err(fail)?
    {
        let own = socket.try_clone().and_then(DatagramSocket::new);
        let own = own.map_err(|error| format!("cannot use listener `{name}`: {error}"))?;
        return Ok((Bound::Udp(address), Some(Arc::new(own))));
    }
    if kind != SocketType::STREAM {
        return Err(not_a_stream(name));
    }
    if !sockopt::socket_acceptconn(socket).map_err(fail)? {
        return Err(format!(
            "listener `{name}` is a connection, not a listener; remove `Accept=yes` from its \
             `.socket` unit"
        ));
    }
    rustix::io::ioctl_fionbio(socket, true).map_err(fail)?;
    let address = address_of(socket).map_err(fail)?;
    let address = address.ok_or_else(|| {
        format!("listener `{name}` is neither TCP nor a Unix socket; use another `ListenStream=`")
    })?;
    Ok((address, None))
}

/// Where a socket listens, and the socket if it is one of datagrams.
type Usable = (Bound, Option<Arc<DatagramSocket>>);

fn not_a_stream(name: &str) -> String {
    format!(
        "listener `{name}` is neither a stream socket nor UDP; use `ListenStream=`, or `ListenDatagram=` with a port, \
         in its `.socket` unit"
    )
}

fn address_of(socket: &OwnedFd) -> Result<Option<Bound>, Errno> {
    let address = rustix::net::getsockname(socket)?;
    if let Ok(tcp) = SocketAddr::try_from(address.clone()) {
        return Ok(Some(Bound::Tcp(tcp)));
    }
    let Ok(unix) = SocketAddrUnix::try_from(address) else {
        return Ok(None);
    };
    let unix = match (unix.path_bytes(), unix.abstract_name()) {
        (Some(path), _) => {
            let path = std::ffi::OsStr::new(std::str::from_utf8(path).unwrap_or_default());
            UnixAddress::Path(path.into())
        }
        (None, name) => UnixAddress::Abstract(name.unwrap_or_default().to_vec()),
    };
    Ok(Some(Bound::Unix(unix)))
}

/// Binds what `--listen` names.
pub fn bind_all(wanted: &[Named<Bound>]) -> Result<Vec<Listener>, String> {
    let bind = |Named { name, value }: &Named<Bound>| {
        let name = name.clone().unwrap_or_else(|| "listen".into());
        let ipv6_only = value.leaves_ipv4(wanted.iter().map(|other| &other.value));
        bind_one(name, value, ipv6_only)
            .map_err(|error| format!("cannot listen on `{value}`: {error}"))
    };
    wanted.iter().map(bind).collect()
}

/// As systemd's own default since version 256; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = i32::MAX;

fn bind_one(name: String, wanted: &Bound, ipv6_only: bool) -> io::Result<Listener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let open = |family| socket_with(family, SocketType::STREAM, flags, None);
    let mut file = None;
    let socket = match wanted {
        Bound::Tcp(_) | Bound::Zoned(..) => {
            let family = |address: &SocketAddr| match address.is_ipv6() {
                true => AddressFamily::INET6,
                false => AddressFamily::INET,
            };
            let mut address = tcp_address(wanted)?;
            let socket = match open(family(&address)) {
                // Every address of a machine without IPv6 is one of IPv4.
                Err(Errno::AFNOSUPPORT) if wanted.is_dual_wildcard() && !ipv6_only => {
                    address.set_ip(Ipv4Addr::UNSPECIFIED.into());
                    open(family(&address))
                }
                socket => socket,
            }?;
            sockopt::set_socket_reuseaddr(&socket, true)?;
            if address.is_ipv6() {
                sockopt::set_ipv6_v6only(&socket, ipv6_only)?;
            }
            bind(&socket, &address)?;
            socket
        }
        Bound::Udp(address) => return bind_datagrams(name, *address, ipv6_only),
        Bound::Unix(UnixAddress::Path(path)) => {
            remove_stale(path)?;
            let socket = open(AddressFamily::UNIX)?;
            bind(&socket, &SocketAddrUnix::new(path)?)?;
            file = Some(SocketFile(path.clone()));
            socket
        }
        Bound::Unix(UnixAddress::Abstract(name)) => {
            let socket = open(AddressFamily::UNIX)?;
            bind(&socket, &SocketAddrUnix::new_abstract_name(name)?)?;
            socket
        }
    };
    listen(&socket, BACKLOG)?;
    let address = address_of(&socket)?.ok_or(io::ErrorKind::Unsupported)?;
    Ok(Listener::new(name, address, socket, file))
}

fn bind_datagrams(name: String, wanted: SocketAddr, ipv6_only: bool) -> io::Result<Listener> {
    let socket = match DatagramSocket::bind(wanted, ipv6_only) {
        // Every address of a machine without IPv6 is one of IPv4.
        Err(error)
            if Errno::from_io_error(&error) == Some(Errno::AFNOSUPPORT)
                && Bound::Udp(wanted).is_dual_wildcard()
                && !ipv6_only =>
        {
            DatagramSocket::bind((Ipv4Addr::UNSPECIFIED, wanted.port()).into(), false)
        }
        socket => socket,
    }?;
    let address = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
    let own = DatagramSocket::new(socket.try_clone()?)?;
    let mut listener = Listener::new(name, Bound::Udp(address), socket, None);
    listener.datagrams = Some(Arc::new(own));
    Ok(listener)
}

/// The address to bind, with the number of its zone.
fn tcp_address(wanted: &Bound) -> io::Result<SocketAddr> {
    let mut address = wanted.tcp().ok_or(io::ErrorKind::Unsupported)?;
    if let (Bound::Zoned(_, zone), SocketAddr::V6(v6)) = (wanted, &mut address) {
        let any = socket_with(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let index = match zone.parse() {
            Ok(index) => index,
            Err(_) => netdevice::name_to_index(&any, zone)?,
        };
        v6.set_scope_id(index);
    }
    Ok(address)
}

/// Removes a socket file that has no listener any more. Anything else stays, and bind(2) fails.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket
        && std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Listener {
    fn new(name: String, address: Bound, socket: OwnedFd, file: Option<SocketFile>) -> Self {
        Self {
            name,
            address,
            socket,
            datagrams: None,
            liveness: None,
            caught_up: AtomicBool::new(false),
            _file: file,
        }
    }

    /// Sets the keepalive of its clients, over TCP. They inherit what is set on the listener, but
    /// for those in the backlog already, which get theirs when they are accepted.
    pub fn with_keepalive(self, liveness: Liveness) -> Self {
        if let Bound::Unix(_) | Bound::Udp(_) = self.address {
            return self;
        }
        self.set_keepalive(&liveness);
        Self {
            liveness: Some(liveness),
            ..self
        }
    }

    /// Sets another keepalive for the clients that are still to come.
    pub fn set_keepalive(&self, liveness: &Liveness) {
        if let Bound::Tcp(_) = self.address {
            set_keepalive(&self.socket, liveness);
        }
    }

    /// This listener, to be waited for on the thread that calls.
    pub fn watch(&self) -> io::Result<AsyncListener<'_>> {
        // Deprecated because a type could close what it lends; a borrowed descriptor cannot. The
        // replacement needs unsafe code.
        #[expect(deprecated)]
        let socket = AsyncFd::with_interest(self.socket.as_fd(), Interest::READABLE)?;
        Ok(AsyncListener {
            listener: self,
            socket,
        })
    }

    /// Its socket, if it is one of datagrams.
    pub fn datagrams(&self) -> Option<&Arc<DatagramSocket>> {
        self.datagrams.as_ref()
    }

    /// Accepts a connection; `WouldBlock` if none waits right now.
    pub fn try_accept(&self) -> io::Result<(RawStream, Peer)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accepted = rustix::net::acceptfrom_with(&self.socket, flags);
        let caught_up = self.caught_up.load(Ordering::Relaxed);
        if accepted.as_ref().err() == Some(&Errno::AGAIN) && !caught_up {
            // MPTCP has its own rules for what is inherited.
            let is_tcp = sockopt::socket_protocol(&self.socket) == Ok(Some(ipproto::TCP));
            self.caught_up.store(is_tcp, Ordering::Relaxed);
        }
        let (socket, peer) = accepted?;
        if let (Some(liveness), false) = (&self.liveness, caught_up) {
            set_keepalive(&socket, liveness);
        }
        if let Bound::Unix(_) = self.address {
            return Ok((RawStream::Unix(socket.into()), Peer::Unix));
        }
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        let peer = Peer::tcp(peer.ok_or(Errno::CONNABORTED)?);
        Ok((RawStream::Tcp(socket.into()), peer))
    }
}

/// Sets the keepalive of a connection, or of those that a listener will accept.
fn set_keepalive(socket: &OwnedFd, liveness: &Liveness) {
    // A listener may have it from an earlier process, with other settings.
    let _ = sockopt::set_tcp_user_timeout(socket, 0);
    tune(socket, liveness);
}

/// A listener that can be waited for. Dropping it leaves the listener open.
#[derive(Debug)]
pub struct AsyncListener<'a> {
    listener: &'a Listener,
    socket: AsyncFd<BorrowedFd<'a>>,
}

impl AsyncListener<'_> {
    /// Waits for a connection.
    pub async fn accept(&self) -> io::Result<(RawStream, Peer)> {
        self.socket
            .async_io(Interest::READABLE, |_| self.listener.try_accept())
            .await
    }

    /// Waits until a connection may be waiting.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket
            .readable()
            .await
            .map(|mut ready| ready.retain_ready())
    }

    /// Whether a connection waits right now. If not, the next event ends the next wait.
    pub fn has_waiting(&self) -> bool {
        let looked = self.socket.try_io(Interest::READABLE, |_| {
            let mut fds = [PollFd::new(&self.listener.socket, PollFlags::IN)];
            match poll(&mut fds, Some(&Timespec::default()))? {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(()),
            }
        });
        looked.is_ok()
    }

    /// Accepts a connection; `WouldBlock` if none waits right now.
    pub fn try_accept(&self) -> io::Result<(RawStream, Peer)> {
        self.socket
            .try_io(Interest::READABLE, |_| self.listener.try_accept())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_socket_has_a_name() {
        let called = |names| names_of("3", "7", names).unwrap();
        fn names_of(fds: &str, to: &str, names: &str) -> Result<Vec<String>, String> {
            super::names(fds, to, names, 7)
        }
        assert_eq!(called("a:b:c:d"), ["a", "b", "c"]);
        assert_eq!(called(":b\n"), ["unknown"; 3]);
        for (fds, to) in [
            ("0", "7"),
            ("", "7"),
            ("1\n", "7"),
            ("1048577", "7"),
            ("1", "8\n"),
        ] {
            let error = names_of(fds, to, "").unwrap_err();
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
