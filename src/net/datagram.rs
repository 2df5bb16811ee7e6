//! Datagram sockets: batches in and out, each datagram with the local address that it came to and its ECN
//! bits. What comes from one sender in a row stays together (GRO) and leaves as it came (GSO), which is
//! four times cheaper than one by one.

pub mod filter;

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, bind, connect, send, socket_with, sockopt,
};

/// How much a socket of ours may hold of what we have not read yet; the kernel grants `net.core.rmem_max`.
const RECEIVE_BUFFER: usize = 4 << 20;

/// The most that is received in one piece: 64 KiB, headers included.
const LONGEST: usize = 1 << 16;

thread_local! {
    /// What is received is sent on before anything else is. Pages that nothing was written to take no memory.
    static BUFFERS: RefCell<Vec<u8>> = RefCell::new(vec![0; BATCH_SIZE * LONGEST]);
}

/// A datagram socket.
#[derive(Debug)]
pub struct DatagramSocket {
    socket: UdpSocket,
    state: UdpSocketState,
    /// Where it is connected to.
    peer: Option<SocketAddr>,
}

/// Datagrams of one sender, in a row.
#[derive(Clone, Copy, Debug)]
pub struct Segments<'a> {
    /// All of them, one behind the other.
    pub bytes: &'a [u8],
    /// How long each is; the last one may be shorter.
    pub size: usize,
    /// Their ECN bits.
    pub ecn: Ecn,
}

/// The bits of explicit congestion notification (RFC 3168).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ecn(Option<EcnCodepoint>);

/// What was received.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Who has sent it.
    pub from: SocketAddr,
    /// The address that it was sent to.
    pub to: Option<IpAddr>,
    /// What was sent.
    pub segments: Segments<'a>,
}

/// Why a datagram was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// It is longer than the path takes: nothing is fragmented.
    TooLong,
    /// The send buffer is full.
    Full,
    /// There is no way to the address.
    Unreachable,
}

/// How a row of datagrams was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// How many were not, and why the last of them.
    pub unsent: Option<(u64, Unsent)>,
    /// Nothing listens where an earlier one was sent to.
    pub refused: bool,
}

impl<'a> Segments<'a> {
    /// One datagram.
    pub fn one(bytes: &'a [u8], ecn: Ecn) -> Self {
        let size = bytes.len();
        Self { bytes, size, ecn }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.datagrams().count() as u64
    }

    /// Each of them.
    pub fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        // One without a byte is one.
        let empty = self.bytes.is_empty().then_some(self.bytes);
        empty.into_iter().chain(self.bytes.chunks(self.size.max(1)))
    }
}

impl DatagramSocket {
    /// This socket, without blocking from now on.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = UdpSocket::from(socket);
        let state = UdpSocketState::new((&socket).into())?;
        let peer = None;
        Ok(Self {
            socket,
            state,
            peer,
        })
    }

    /// One that is bound to an address.
    pub fn bind(address: SocketAddr, ipv6_only: bool) -> io::Result<OwnedFd> {
        let socket = open(address)?;
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, ipv6_only)?;
        }
        bind(&socket, &address)?;
        enlarge(&socket);
        Ok(socket)
    }

    /// One that is connected to an address.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let socket = open(address)?;
        enlarge(&socket);
        connect(&socket, &address)?;
        let mut connected = Self::new(socket)?;
        connected.peer = Some(address);
        Ok(connected)
    }

    /// One that an earlier process has connected.
    pub fn connected(socket: OwnedFd) -> io::Result<Self> {
        if sockopt::socket_type(&socket)? != SocketType::DGRAM {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let peer = rustix::net::getpeername(&socket)?;
        let mut connected = Self::new(socket)?;
        connected.peer = Some(peer.ok_or(io::ErrorKind::NotConnected)?.try_into()?);
        Ok(connected)
    }

    /// Receives what is there, in at most `most` pieces; how many they were. `WouldBlock` if there is nothing.
    pub fn receive(&self, most: usize, mut each: impl FnMut(Received<'_>)) -> io::Result<usize> {
        BUFFERS.with_borrow_mut(|buffers| {
            let mut pieces = buffers.chunks_exact_mut(LONGEST);
            let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
                std::array::from_fn(|_| IoSliceMut::new(pieces.next().unwrap_or_default()));
            let mut metas = [RecvMeta::default(); BATCH_SIZE];
            let most = most.clamp(1, BATCH_SIZE);
            let socket = (&self.socket).into();
            let received = self
                .state
                .recv(socket, &mut slices[..most], &mut metas[..most])?;
            for (bytes, meta) in slices.iter().zip(&metas).take(received) {
                let bytes = bytes.get(..meta.len).unwrap_or_default();
                each(Received {
                    from: meta.addr,
                    to: meta.dst_ip,
                    segments: Segments {
                        bytes,
                        size: meta.stride,
                        ecn: Ecn(meta.ecn),
                    },
                });
            }
            Ok(received)
        })
    }

    /// Sends datagrams to where it is connected to.
    pub fn send(&self, segments: Segments<'_>) -> Sent {
        match self.peer {
            Some(peer) => self.send_to(peer, None, segments),
            None => Sent {
                unsent: Some((segments.count(), Unsent::Unreachable)),
                refused: false,
            },
        }
    }

    /// Sends datagrams from one of its addresses.
    pub fn send_to(&self, to: SocketAddr, from: Option<IpAddr>, segments: Segments<'_>) -> Sent {
        let mut sent = Sent::default();
        let one = segments.bytes.len() <= segments.size;
        // What cannot be sent in one piece may be sent in several.
        let together = one || self.state.max_gso_segments() as u64 >= segments.count();
        if together && (self.attempt(to, from, segments, &mut sent).is_ok() || one) {
            return sent;
        }
        sent.unsent = None;
        for datagram in segments.datagrams() {
            let _ = self.attempt(to, from, Segments::one(datagram, segments.ecn), &mut sent);
        }
        sent
    }

    fn attempt(
        &self,
        to: SocketAddr,
        from: Option<IpAddr>,
        segments: Segments<'_>,
        sent: &mut Sent,
    ) -> Result<(), ()> {
        let mut result = self.try_send(to, from, segments);
        // That is said once, of one before, and this one was not sent.
        if result == Err(Errno::CONNREFUSED) {
            sent.refused = true;
            result = self.try_send(to, from, segments);
        }
        let why = match result {
            Ok(()) => return Ok(()),
            Err(Errno::CONNREFUSED) => return Ok(()),
            Err(Errno::MSGSIZE) => Unsent::TooLong,
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Unsent::Full,
            Err(_) => Unsent::Unreachable,
        };
        let before = sent.unsent.map_or(0, |(count, _)| count);
        sent.unsent = Some((before + segments.count(), why));
        Err(())
    }

    fn try_send(
        &self,
        to: SocketAddr,
        from: Option<IpAddr>,
        segments: Segments<'_>,
    ) -> Result<(), Errno> {
        let Segments { bytes, size, ecn } = segments;
        if self.peer == Some(to) && ecn.0.is_none() && bytes.len() <= size {
            // The kernel knows the way already.
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            return send(&self.socket, bytes, flags).map(drop);
        }
        let transmit = Transmit {
            destination: to,
            ecn: ecn.0,
            contents: bytes,
            segment_size: (bytes.len() > size).then_some(size),
            src_ip: from,
        };
        let sent = self.state.try_send((&self.socket).into(), &transmit);
        sent.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    /// Whether it is known that nothing listens where one was sent to.
    pub fn is_refused(&self) -> bool {
        let error = sockopt::socket_error(&self.socket);
        error == Ok(Err(Errno::CONNREFUSED))
    }
}

impl AsRawFd for DatagramSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for DatagramSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether what was sent to this address was sent to one host, which is this one. A reply cannot come from
/// any other address.
pub fn is_unicast(to: IpAddr) -> bool {
    match to.to_canonical() {
        IpAddr::V4(Ipv4Addr::BROADCAST) => false,
        ip if ip.is_multicast() => false,
        // What is broadcast to a network is only known by its routes.
        ip @ IpAddr::V4(_) => {
            let connected = open((ip, 9).into()).and_then(|any| {
                connect(&any, &SocketAddr::from((ip, 9)))?;
                Ok(())
            });
            !connected.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        }
        IpAddr::V6(_) => true,
    }
}

fn open(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address.is_ipv6() {
        true => AddressFamily::INET6,
        false => AddressFamily::INET,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::DGRAM, flags, None)?)
}

fn enlarge(socket: &OwnedFd) {
    // Whether or not that is granted, there is some room.
    let _ = sockopt::set_socket_recv_buffer_size(socket, RECEIVE_BUFFER);
}

/// Why a datagram was not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Its sender is denied.
    Denied,
    /// It does not wake the service, which sleeps.
    Quiet,
    /// It was sent to many at once.
    Broadcast,
    /// There is no room for another flow.
    Room,
    /// Too much was held for the service: it was the oldest.
    Held,
    /// The service cannot be had.
    Failed,
    /// It is longer than the path takes.
    TooLong,
    /// A send buffer is full, or there is no way to the address.
    Unsent,
}

impl Dropped {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Denied,
        Self::Quiet,
        Self::Broadcast,
        Self::Room,
        Self::Held,
        Self::Failed,
        Self::TooLong,
        Self::Unsent,
    ];

    /// Its name in the record and the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Denied => "address",
            Self::Quiet => "quiet",
            Self::Broadcast => "broadcast",
            Self::Room => "room",
            Self::Held => "held",
            Self::Failed => "failed",
            Self::TooLong => "too-long",
            Self::Unsent => "unsent",
        }
    }
}

impl From<Unsent> for Dropped {
    fn from(why: Unsent) -> Self {
        match why {
            Unsent::TooLong => Self::TooLong,
            Unsent::Full | Unsent::Unreachable => Self::Unsent,
        }
    }
}
