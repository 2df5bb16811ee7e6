//! One connected socket, TCP or Unix: its options, its half-close, its reset.

use std::io::{self, IoSlice};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketType, sendmsg,
};
use tokio::io::{Interest, Ready};
use tokio::net::{TcpStream, UnixStream};

use crate::config::Liveness;
use crate::config::address::Peer;
use crate::net::endpoints::InUse;
use crate::util::backoff::Backoff;

/// A connected stream socket.
#[derive(Debug)]
pub enum AsyncStream {
    /// Over TCP.
    Tcp(Counted<TcpStream>),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// How often a Unix client that waits is polled for a hang-up: the kernel reports a close that
/// follows a half-close by no event that tokio passes on alone.
const HANG_UP_POLL: Duration = Duration::from_millis(250);

/// How often a peer that sends what is not read any more is polled for its end.
const EOF_POLL: Duration = Duration::from_millis(50);

/// A connected, non-blocking stream socket that no event loop watches yet.
#[derive(Debug)]
pub enum RawStream {
    /// Over TCP.
    Tcp(Counted<std::net::TcpStream>),
    /// Over a Unix socket.
    Unix(std::os::unix::net::UnixStream),
}

/// A stream that may be counted where connections are balanced, as long as it lives.
#[derive(Debug)]
pub struct Counted<S> {
    stream: S,
    in_use: Option<Box<InUse>>,
}

impl<S> Counted<S> {
    fn map<T>(self, next: impl FnOnce(S) -> io::Result<T>) -> io::Result<Counted<T>> {
        let stream = next(self.stream)?;
        let in_use = self.in_use;
        Ok(Counted { stream, in_use })
    }

    /// The stream alone.
    pub fn into_inner(self) -> S {
        self.stream
    }
}

impl<S> Deref for Counted<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsFd> AsFd for Counted<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl From<OwnedFd> for Counted<std::net::TcpStream> {
    fn from(socket: OwnedFd) -> Self {
        Self {
            stream: socket.into(),
            in_use: None,
        }
    }
}

/// Sets the options of every relayed TCP connection: TCP_NODELAY, keepalive, TCP_USER_TIMEOUT. A
/// connection that is broken already is noticed when bytes are to move.
pub fn tune(socket: impl AsFd, liveness: &Liveness) {
    let _ = sockopt::set_tcp_nodelay(&socket, true);
    let _ = sockopt::set_socket_keepalive(&socket, true);
    let _ = sockopt::set_tcp_keepidle(&socket, liveness.keepalive_time);
    let _ = sockopt::set_tcp_keepintvl(&socket, liveness.keepalive_interval);
    let _ = sockopt::set_tcp_keepcnt(&socket, liveness.keepalive_probes);
    if liveness.user_timeout < Duration::MAX {
        let millis = liveness.user_timeout.as_millis();
        let _ = sockopt::set_tcp_user_timeout(&socket, millis.try_into().unwrap_or(u32::MAX));
    }
}

impl RawStream {
    /// The connected stream socket that this descriptor is, without blocking from now on.
    pub fn from_socket(socket: OwnedFd) -> io::Result<Self> {
        let unsupported = || Err(io::ErrorKind::Unsupported.into());
        if sockopt::socket_type(&socket)? != SocketType::STREAM
            || sockopt::socket_acceptconn(&socket)?
        {
            return unsupported();
        }
        rustix::io::ioctl_fionbio(&socket, true)?;
        match sockopt::socket_domain(&socket)? {
            AddressFamily::INET | AddressFamily::INET6 => Ok(Self::Tcp(socket.into())),
            AddressFamily::UNIX => Ok(Self::Unix(socket.into())),
            _ => unsupported(),
        }
    }

    /// Has the event loop of this thread watch it.
    pub fn watch(self) -> io::Result<AsyncStream> {
        Ok(match self {
            Self::Tcp(stream) => AsyncStream::Tcp(stream.map(TcpStream::from_std)?),
            Self::Unix(stream) => AsyncStream::Unix(UnixStream::from_std(stream)?),
        })
    }

    /// The port of this end, over TCP.
    pub fn local_port(&self) -> Option<u16> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok().map(|address| address.port()),
            Self::Unix(_) => None,
        }
    }

    /// See [`AsyncStream::reset`].
    pub fn reset(&self) {
        let _ = sockopt::set_socket_linger(self, Some(Duration::ZERO));
    }
}

impl AsFd for RawStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncStream {
    /// Has the event loop of this thread watch it, and not the one of another thread.
    pub fn rebind(self) -> io::Result<Self> {
        self.unwatch()?.watch()
    }

    /// Has no event loop watch it.
    pub fn unwatch(self) -> io::Result<RawStream> {
        Ok(match self {
            Self::Tcp(stream) => RawStream::Tcp(stream.map(TcpStream::into_std)?),
            Self::Unix(stream) => RawStream::Unix(stream.into_std()?),
        })
    }

    /// This end's address: for a client that was accepted, what it connected to.
    pub fn local_addr(&self) -> io::Result<Peer> {
        Ok(match self {
            Self::Tcp(stream) => Peer::tcp(stream.local_addr()?),
            Self::Unix(_) => Peer::Unix,
        })
    }

    /// The other end's address.
    pub fn peer_addr(&self) -> io::Result<Peer> {
        Ok(match self {
            Self::Tcp(stream) => Peer::tcp(stream.peer_addr()?),
            Self::Unix(_) => Peer::Unix,
        })
    }

    /// The same, and `in_use` is kept with it.
    pub fn counted(mut self, in_use: InUse) -> Self {
        if let Self::Tcp(stream) = &mut self {
            stream.in_use = Some(Box::new(in_use));
        }
        self
    }

    /// Waits for one of the conditions in `interest`.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Self::Tcp(stream) => stream.ready(interest).await,
            Self::Unix(stream) => stream.ready(interest).await,
        }
    }

    /// Waits until there may be something to read, for one task at a time.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    /// Waits until there may be room to write, for one task at a time.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Unix(stream) => stream.poll_write_ready(cx),
        }
    }

    /// Reads what is there; `WouldBlock` when nothing is.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.try_io(Interest::READABLE, || self.receive(buffer))
    }

    /// As [`AsyncStream::try_read`], but takes a read that did not fill `buffer` as one that took all
    /// there is, which saves asking once more: what comes later is announced anew (epoll(7)).
    pub fn try_read_all(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self::Tcp(stream) = self else {
            // Here a read may also stop at a boundary between two messages.
            return self.try_read(buffer);
        };
        let mut short = None;
        let full = stream.try_io(Interest::READABLE, || {
            let count = self.receive(buffer)?;
            if count == 0 || count == buffer.len() {
                return Ok(count);
            }
            // Within `try_io`, so that an event at this moment is not forgotten.
            short = Some(count);
            Err(io::ErrorKind::WouldBlock.into())
        });
        match short {
            Some(count) => Ok(count),
            None => full,
        }
    }

    /// Whether the peer has half-closed and all that it sent was read; `WouldBlock` while nothing has
    /// come.
    pub fn has_ended(&self) -> io::Result<bool> {
        self.try_io(Interest::READABLE, || {
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            let (_, seen) = rustix::net::recv(self, &mut [0; 1], flags)?;
            Ok(seen == 0)
        })
    }

    /// Peeks at what has come until `find` has something: each time from the beginning, as far as
    /// the buffer goes.
    pub async fn peek<T>(
        &self,
        buffer: &mut [u8],
        mut find: impl FnMut(&[u8]) -> Option<T>,
    ) -> io::Result<T> {
        loop {
            let ready = self.ready(Interest::READABLE).await?;
            // Not found is not ready, so that only an event ends the next wait; within `try_io`, or
            // an event in between would be lost.
            let peek = || {
                let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
                let (_, seen) = rustix::net::recv(self, &mut *buffer, flags)?;
                find(&buffer[..seen]).ok_or_else(|| io::ErrorKind::WouldBlock.into())
            };
            match self.try_io(Interest::READABLE, peek) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                // All that will come had come before the peek.
                Err(_) if ready.is_read_closed() => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Err(_) => (),
                Ok(found) => return Ok(found),
            }
        }
    }

    /// Waits for the first byte, which stays where it is; says whether there is one before the end.
    pub async fn wait_first_byte(&self) -> bool {
        let first = |seen: &[u8]| seen.first().copied();
        self.peek(&mut [0], first).await.is_ok()
    }

    /// Reads exactly as much as the buffer holds.
    pub async fn read_exact(&self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.try_read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => buffer = &mut buffer[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready(Interest::READABLE).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes what fits; `WouldBlock` when nothing does.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        self.try_io(Interest::WRITABLE, || {
            Ok(rustix::net::send(self, bytes, flags)?)
        })
    }

    /// As [`AsyncStream::try_write`], of several pieces.
    pub fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        self.try_io(Interest::WRITABLE, || {
            let mut control = SendAncillaryBuffer::default();
            Ok(sendmsg(self, pieces, &mut control, flags)?)
        })
    }

    /// Closes both ways, whoever still holds it.
    pub fn shut_down(&self) {
        let _ = rustix::net::shutdown(self, Shutdown::Both);
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(self, buffer, RecvFlags::DONTWAIT)?.0)
    }

    /// Does `io` on this socket if `interest` is ready; `WouldBlock` from it means that it is not,
    /// after all, so it may only come from this socket.
    pub fn try_io<T>(
        &self,
        interest: Interest,
        io: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        match self {
            Self::Tcp(stream) => stream.try_io(interest, io),
            Self::Unix(stream) => stream.try_io(interest, io),
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

    /// Half-closes: no more bytes will come; the other direction goes on.
    pub fn finish_writing(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self, Shutdown::Write)?)
    }

    /// Waits until an attempt to connect has ended.
    pub async fn connected(&self) -> io::Result<()> {
        self.ready(Interest::WRITABLE).await?;
        Ok(sockopt::socket_error(self)??)
    }

    /// Waits until the connection is broken, by a reset or a time-out.
    pub async fn broken(&self) -> io::Error {
        match self.ready(Interest::ERROR).await {
            Err(error) => error,
            Ok(_) => match sockopt::socket_error(self) {
                Ok(Err(error)) | Err(error) => error.into(),
                // The error was read before.
                Ok(Ok(())) => io::ErrorKind::ConnectionReset.into(),
            },
        }
    }

    /// Waits until a client that is held is surely gone. One that half-closed is not: it may wait
    /// for its answer, and a TCP client that closed looks the same.
    pub async fn gone(&self) {
        match self {
            Self::Tcp(_) => drop(self.broken().await),
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

    /// Waits, at most `limit`, until the kernel has sent what was written.
    pub async fn flush(&self, limit: Duration) {
        let Self::Tcp(stream) = self else { return };
        if socket2::SockRef::from(stream)
            .set_tcp_notsent_lowat(1)
            .is_err()
        {
            return;
        }
        let sent = async {
            let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(100));
            while !self.is_writable() {
                tokio::time::sleep(backoff.pause()).await;
            }
        };
        let _ = tokio::time::timeout(limit, sent).await;
    }

    /// Whether something that was written is not sent yet. Nothing may be written afterwards.
    pub fn has_unsent(&self) -> bool {
        let Self::Tcp(stream) = self else {
            return false;
        };
        let socket = socket2::SockRef::from(stream);
        socket.set_tcp_notsent_lowat(1).is_ok() && !self.is_writable()
    }

    /// Waits, at most `limit`, until the peer has read up to the end that it was sent, and closes
    /// as well: how much is still to be sent the kernel does not say any more.
    pub async fn wait_peer_eof(&self, limit: Duration) {
        let ended = async {
            while let Ok(ready) = self.ready(Interest::READABLE | Interest::ERROR).await {
                if ready.is_read_closed() || ready.is_error() {
                    return;
                }
                tokio::time::sleep(EOF_POLL).await;
            }
        };
        let _ = tokio::time::timeout(limit, ended).await;
    }

    fn is_writable(&self) -> bool {
        let mut fds = [PollFd::new(self, PollFlags::OUT)];
        !matches!(poll(&mut fds, Some(&Timespec::default())), Ok(0))
    }

    /// Has the connection end with a reset when this is dropped; what was not sent is dropped too.
    /// On a Unix socket the peer sees an end, and an error if it had written what was not read.
    pub fn reset(&self) {
        let _ = sockopt::set_socket_linger(self, Some(Duration::ZERO));
    }
}

impl AsFd for AsyncStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}
