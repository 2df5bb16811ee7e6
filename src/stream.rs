//! One connected socket, TCP or Unix: its options, its half-close, its reset.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use rustix::net::{AddressFamily, Shutdown};
use tokio::io::{Interest, Ready};
use tokio::net::{TcpStream, UnixStream};

/// A connected stream socket.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// Who is at the other end. An unnamed Unix peer is just `unix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP address, an IPv4 one written as such even where it came in over IPv6.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// After a minute of silence ask every 10 s, and give up after six questions (tcp(7)), so that a
/// peer that has vanished does not keep the service awake.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 6;

/// How often a Unix client is asked whether it has hung up while it waits: there the kernel
/// reports a close that follows a half-close by no event that tokio would pass on alone.
const HANG_UP_POLL: Duration = Duration::from_millis(250);

impl Stream {
    /// Takes over a socket that `accept` or `connect` returned.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(match sockopt::socket_domain(&fd)? {
            AddressFamily::UNIX => Self::Unix(UnixStream::from_std(fd.into())?),
            _ => Self::Tcp(TcpStream::from_std(fd.into())?),
        })
    }

    /// Who is at the other end, as far as the kernel still knows.
    pub fn peer(&self) -> io::Result<Peer> {
        match self {
            Self::Tcp(stream) => {
                let peer = stream.peer_addr()?;
                Ok(Peer::Tcp(SocketAddr::new(
                    peer.ip().to_canonical(),
                    peer.port(),
                )))
            }
            Self::Unix(_) => Ok(Peer::Unix),
        }
    }

    /// Sets what every relayed connection has: no delay for small writes, and keepalive.
    /// A peer that is already gone is found out when the bytes are to move.
    pub fn tune(&self) {
        if let Self::Tcp(stream) = self {
            let _ = sockopt::set_tcp_nodelay(stream, true);
            let _ = sockopt::set_socket_keepalive(stream, true);
            let _ = sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE);
            let _ = sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL);
            let _ = sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES);
        }
    }

    /// Whether this is a TCP connection to itself: the kernel grants one to whoever connects to
    /// a free local port that it happens to pick as the source port, too.
    pub fn is_to_itself(&self) -> bool {
        match self {
            Self::Tcp(stream) => {
                matches!((stream.local_addr(), stream.peer_addr()), (Ok(here), Ok(there)) if here == there)
            }
            Self::Unix(_) => false,
        }
    }

    /// Waits for one of the conditions in `interest`.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Self::Tcp(stream) => stream.ready(interest).await,
            Self::Unix(stream) => stream.ready(interest).await,
        }
    }

    /// Reads what is there; `WouldBlock` when nothing is.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Unix(stream) => stream.try_read(buffer),
        }
    }

    /// Writes what fits; `WouldBlock` when nothing does.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// Writes all of `bytes`.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready(Interest::WRITABLE).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says that no more bytes will come; the other direction goes on.
    pub fn finish_writing(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self, Shutdown::Write)?)
    }

    /// Waits until the connection is broken: reset, or timed out by keepalive.
    pub async fn broken(&self) {
        let _ = self.ready(Interest::ERROR).await;
    }

    /// Waits until a client that we hold is surely gone. One that only sent its end of file is
    /// not: it may well wait for the answer, and a TCP client that closed looks the same.
    pub async fn gone(&self) {
        match self {
            Self::Tcp(_) => self.broken().await,
            Self::Unix(_) => {
                while !self.hung_up() {
                    tokio::time::sleep(HANG_UP_POLL).await;
                }
            }
        }
    }

    fn hung_up(&self) -> bool {
        let mut fds = [PollFd::new(self, PollFlags::empty())];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..))
    }

    /// Waits, at most `limit`, until the kernel has sent off what was written.
    pub async fn flush(&self, limit: Duration) {
        let Self::Tcp(stream) = self else { return };
        if socket2::SockRef::from(stream)
            .set_tcp_notsent_lowat(1)
            .is_err()
        {
            return;
        }
        let sent_off = async {
            let mut pause = Duration::from_millis(1);
            while !self.is_writable() {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(100));
            }
        };
        let _ = tokio::time::timeout(limit, sent_off).await;
    }

    fn is_writable(&self) -> bool {
        let mut fds = [PollFd::new(self, PollFlags::OUT)];
        !matches!(poll(&mut fds, Some(&Timespec::default())), Ok(0))
    }

    /// Ends the connection with a reset, dropping what was not sent. On a Unix socket the peer
    /// sees its end, and an error when it had written something that nobody read.
    pub fn reset(self) {
        let _ = sockopt::set_socket_linger(&self, Some(Duration::ZERO));
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}
