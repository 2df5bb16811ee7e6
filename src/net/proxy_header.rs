//! The header of the PROXY protocol, in which a proxy names the client that it connects for: read
//! and written, version 1 (a line) and version 2 (a block). Pure: bytes in, bytes out.
//!
//! The specification is HAProxy's `doc/proxy-protocol.txt`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::ProxyVersion;
use crate::config::address::{Peer, canonical};

/// Whom a connection is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The proxy itself, as in a health check.
    Local,
    /// A client without an address.
    Unknown,
    /// A client on a Unix socket.
    Unix,
    /// A client over TCP. IPv4 addresses are written as such: see [`Origin::tcp`].
    Tcp {
        /// Where it comes from.
        client: SocketAddr,
        /// Where it went to.
        server: SocketAddr,
    },
}

/// No header may be longer. Without extensions it has at most 232 bytes; some add certificates.
pub const LONGEST: usize = 4096;

/// A line is never longer, its end included.
const LONGEST_LINE: usize = 107;
const LINE: &[u8] = b"PROXY ";

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The version and the command.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
/// The family and the protocol.
const UNSPEC: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const UNIX: u8 = 0x31;
/// The client's path and the server's, filled up with zeros.
const UNIX_ADDRESSES: usize = 2 * 108;

impl Origin {
    /// The client, if it has an address.
    pub fn client(self) -> Option<Peer> {
        match self {
            Self::Tcp { client, .. } => Some(Peer::Tcp(client)),
            Self::Unix => Some(Peer::Unix),
            Self::Local | Self::Unknown => None,
        }
    }

    /// A client over TCP; IPv4 addresses may be mapped into IPv6.
    pub fn tcp(client: SocketAddr, server: SocketAddr) -> Self {
        Self::Tcp {
            client: canonical(client),
            server: canonical(server),
        }
    }
}

/// The header for this client.
pub fn write(version: ProxyVersion, origin: Origin) -> Vec<u8> {
    match version {
        ProxyVersion::V1 => write_line(origin),
        ProxyVersion::V2 => write_block(origin),
    }
}

/// The client in the header at the beginning of `bytes`, and the header's length; `None` while it
/// is incomplete.
pub fn read(bytes: &[u8]) -> Result<Option<(Origin, usize)>, &'static str> {
    let begins_like = |start: &[u8]| bytes.iter().zip(start).all(|(a, b)| a == b);
    if begins_like(SIGNATURE) {
        read_block(bytes)
    } else if begins_like(LINE) {
        read_line(bytes)
    } else {
        Err("not a PROXY header")
    }
}

/// Both addresses in one family: a header has only one.
fn alike(client: IpAddr, server: IpAddr) -> (IpAddr, IpAddr) {
    match (client, server) {
        (IpAddr::V4(client), IpAddr::V6(_)) => (client.to_ipv6_mapped().into(), server),
        (IpAddr::V6(_), IpAddr::V4(server)) => (client, server.to_ipv6_mapped().into()),
        _ => (client, server),
    }
}

// -- version 1

fn write_line(origin: Origin) -> Vec<u8> {
    let line = match origin {
        Origin::Local | Origin::Unknown | Origin::Unix => "PROXY UNKNOWN\r\n".to_owned(),
        Origin::Tcp { client, server } => {
            let (from, to) = alike(client.ip(), server.ip());
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from_port, to_port) = (client.port(), server.port());
            format!("PROXY {family} {from} {to} {from_port} {to_port}\r\n")
        }
    };
    line.into_bytes()
}

fn read_line(bytes: &[u8]) -> Result<Option<(Origin, usize)>, &'static str> {
    let window = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return match bytes.len() {
            0..LONGEST_LINE => Ok(None),
            _ => Err("PROXY header without an end of line"),
        };
    };
    let words: Vec<_> = bytes[LINE.len()..end].split(|&byte| byte == b' ').collect();
    let origin = match words[..] {
        // What follows is ignored.
        [b"UNKNOWN", ..] => Some(Origin::Unknown),
        [b"TCP4", from, to, from_port, to_port] => {
            origin_in_words::<Ipv4Addr>([from, to], [from_port, to_port])
        }
        [b"TCP6", from, to, from_port, to_port] => {
            origin_in_words::<Ipv6Addr>([from, to], [from_port, to_port])
        }
        _ => None,
    };
    let origin = origin.ok_or("malformed PROXY header")?;
    Ok(Some((origin, end + 2)))
}

fn origin_in_words<A: FromStr + Into<IpAddr>>(
    ips: [&[u8]; 2],
    ports: [&[u8]; 2],
) -> Option<Origin> {
    let text = |word| str::from_utf8(word).ok();
    let address = |ip, port| {
        let ip: A = text(ip)?.parse().ok()?;
        // The specification allows neither a sign nor zeros in front.
        let port = text(port)
            .filter(|port| *port == "0" || port.starts_with(|c| ('1'..='9').contains(&c)))?;
        Some(SocketAddr::new(ip.into(), port.parse().ok()?))
    };
    Some(Origin::tcp(
        address(ips[0], ports[0])?,
        address(ips[1], ports[1])?,
    ))
}

// -- version 2

fn write_block(origin: Origin) -> Vec<u8> {
    let mut addresses = Vec::new();
    let (command, family) = match origin {
        // What every receiver takes without an address: HAProxy resets PROXY without one, and
        // nginx before 1.23 what is as long as a Unix address.
        Origin::Local | Origin::Unknown | Origin::Unix => (LOCAL, UNSPEC),
        Origin::Tcp { client, server } => {
            let (from, to) = alike(client.ip(), server.ip());
            for ip in [from, to] {
                match ip {
                    IpAddr::V4(ip) => addresses.extend(ip.octets()),
                    IpAddr::V6(ip) => addresses.extend(ip.octets()),
                }
            }
            addresses.extend(client.port().to_be_bytes());
            addresses.extend(server.port().to_be_bytes());
            (PROXY, if from.is_ipv4() { TCP4 } else { TCP6 })
        }
    };
    let length = (addresses.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, family], &length, &addresses].concat()
}

fn read_block(bytes: &[u8]) -> Result<Option<(Origin, usize)>, &'static str> {
    let Some((head, rest)) = bytes.split_first_chunk::<16>() else {
        return Ok(None);
    };
    let [.., command, family, high, low] = *head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if head.len() + length > LONGEST {
        return Err("PROXY header too long");
    }
    let Some(addresses) = rest.get(..length) else {
        return Ok(None);
    };
    let short = "PROXY header with truncated addresses";
    let origin = match (command, family) {
        (LOCAL, _) => Origin::Local,
        (PROXY, TCP4) => origin_in_bytes::<4>(addresses).ok_or(short)?,
        (PROXY, TCP6) => origin_in_bytes::<16>(addresses).ok_or(short)?,
        (PROXY, UNIX) if length < UNIX_ADDRESSES => return Err(short),
        (PROXY, UNIX) => Origin::Unix,
        // A family up to Unix with a protocol up to datagrams.
        (PROXY, _) if family >> 4 <= 3 && family & 15 <= 2 => Origin::Unknown,
        _ => return Err("PROXY header of an unknown kind"),
    };
    Ok(Some((origin, head.len() + length)))
}

fn origin_in_bytes<const N: usize>(addresses: &[u8]) -> Option<Origin>
where
    IpAddr: From<[u8; N]>,
{
    let (from, rest) = addresses.split_first_chunk::<N>()?;
    let (to, rest) = rest.split_first_chunk::<N>()?;
    let ([a, b, c, d], _) = rest.split_first_chunk()?;
    Some(Origin::tcp(
        SocketAddr::new((*from).into(), u16::from_be_bytes([*a, *b])),
        SocketAddr::new((*to).into(), u16::from_be_bytes([*c, *d])),
    ))
}

#[cfg(test)]
mod tests;
