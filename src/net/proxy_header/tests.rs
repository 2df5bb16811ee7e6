use std::net::SocketAddr;

use super::{LONGEST, Origin, SIGNATURE, read, write};
use crate::config::ProxyVersion::{self, V1, V2};

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn tcp(client: &str, server: &str) -> Origin {
    Origin::tcp(address(client), address(server))
}

fn four() -> Origin {
    tcp("192.0.2.1:56324", "192.0.2.11:443")
}

fn six() -> Origin {
    tcp("[2001:db8::1]:56324", "[2001:db8::11]:443")
}

/// A block with this after the signature.
fn block(rest: &[u8]) -> Vec<u8> {
    [SIGNATURE, rest].concat()
}

const FOUR: &[u8] = b"\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x0b\xdc\x04\x01\xbb";
const SIX: &[u8] = b"\x21\x21\0\x24\
    \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\
    \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x11\
    \xdc\x04\x01\xbb";

#[test]
fn every_origin_has_its_header() {
    let mixed = tcp("192.0.2.1:1", "[2001:db8::11]:2");
    let unknown = "PROXY UNKNOWN\r\n";
    for (origin, line, rest) in [
        (
            four(),
            "PROXY TCP4 192.0.2.1 192.0.2.11 56324 443\r\n",
            FOUR,
        ),
        (
            tcp("[::ffff:192.0.2.1]:56324", "[::ffff:192.0.2.11]:443"),
            "PROXY TCP4 192.0.2.1 192.0.2.11 56324 443\r\n",
            FOUR,
        ),
        (
            six(),
            "PROXY TCP6 2001:db8::1 2001:db8::11 56324 443\r\n",
            SIX,
        ),
        (
            mixed,
            "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::11 1 2\r\n",
            b"\x21\x21\0\x24\
            \0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\x01\
            \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x11\
            \0\x01\0\x02",
        ),
        (Origin::Local, unknown, b"\x20\0\0\0"),
        (Origin::Unknown, unknown, b"\x20\0\0\0"),
        (Origin::Unix, unknown, b"\x20\0\0\0"),
    ] {
        assert_eq!(
            String::from_utf8_lossy(&write(V1, origin)),
            line,
            "{origin:?}"
        );
        assert_eq!(write(V2, origin), block(rest), "{origin:?}");
        for version in [V1, V2] {
            let header = write(version, origin);
            let told = as_told(version, origin);
            assert_eq!(read(&header), Ok(Some((told, header.len()))));
        }
    }
}

/// What is left of an origin in a header that we write.
fn as_told(version: ProxyVersion, origin: Origin) -> Origin {
    match (version, origin) {
        (_, Origin::Tcp { .. }) => origin,
        (V1, Origin::Local | Origin::Unknown | Origin::Unix) => Origin::Unknown,
        (V2, Origin::Local | Origin::Unknown | Origin::Unix) => Origin::Local,
    }
}

#[test]
fn a_header_ends_where_it_ends_and_not_a_byte_earlier() {
    let with_more = |header: &[u8], more: &[u8]| {
        let mut bytes = block(header);
        let length = (header.len() - 4 + more.len()) as u16;
        bytes[14..16].copy_from_slice(&length.to_be_bytes());
        [bytes, more.to_vec()].concat()
    };
    let unix = block(&[&b"\x21\x31\0\xd8"[..], &[0; 216]].concat());
    for (header, origin) in [
        (write(V1, four()), four()),
        (write(V1, six()), six()),
        (write(V1, Origin::Local), Origin::Unknown),
        (
            b"PROXY UNKNOWN ffff::1 \xff\xfe 65535 65535\r\n".to_vec(),
            Origin::Unknown,
        ),
        (
            format!("PROXY UNKNOWN{}\r\n", " ffff".repeat(18)).into_bytes(),
            Origin::Unknown,
        ),
        (
            b"PROXY TCP6 ::ffff:192.0.2.1 ::FFFF:192.0.2.11 56324 443\r\n".to_vec(),
            four(),
        ),
        (
            b"PROXY TCP4 192.0.2.1 192.0.2.11 0 65535\r\n".to_vec(),
            tcp("192.0.2.1:0", "192.0.2.11:65535"),
        ),
        (write(V2, four()), four()),
        (write(V2, six()), six()),
        (unix, Origin::Unix),
        (write(V2, Origin::Local), Origin::Local),
        (block(b"\x21\0\0\0"), Origin::Unknown),
        // Further fields are passed by, the longest ones too.
        (with_more(FOUR, b"\x04\0\x01x"), four()),
        (with_more(SIX, &vec![0; LONGEST - 52]), six()),
        (with_more(b"\x20\x99\0\0", b"whatever"), Origin::Local),
        // Families and protocols that are none of ours.
        (block(b"\x21\x12\0\x01x"), Origin::Unknown),
        (block(b"\x21\x02\0\0"), Origin::Unknown),
        (block(b"\x21\x30\0\0"), Origin::Unknown),
    ] {
        for end in 0..header.len() {
            assert_eq!(read(&header[..end]), Ok(None), "{end} of {header:?}");
        }
        let length = header.len();
        assert_eq!(read(&header), Ok(Some((origin, length))), "{header:?}");
        let with_payload = [&header[..], b"\r\n\r\nPROXY "].concat();
        assert_eq!(read(&with_payload), Ok(Some((origin, length))));
    }
}

#[test]
fn malformed_headers_are_refused() {
    let long = format!("PROXY UNKNOWN{}\r\n", " ffff".repeat(19));
    for line in [
        "GET / HTTP/1.1\r\n",
        "proxy TCP4 192.0.2.1 192.0.2.11 56324 443\r\n",
        "PROXY\r\n",
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP5 192.0.2.1 192.0.2.11 56324 443\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.11 56324\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.11 56324 443 \r\n",
        "PROXY TCP4  192.0.2.1 192.0.2.11 56324 443\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.11 56324 443\n\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.011 56324 443\r\n",
        "PROXY TCP4 192.0.2.1 ::1 56324 443\r\n",
        "PROXY TCP6 ::1 192.0.2.1 56324 443\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.11 056324 443\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.11 +56324 443\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.11 65536 443\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.11 00 443\r\n",
        &long,
        &long[..107],
    ] {
        assert!(read(line.as_bytes()).is_err(), "{line}");
    }
    for rest in [
        // Versions 1 and 3, and an unknown command.
        &b"\x11\x11\0\0"[..],
        b"\x31\x11\0\0",
        b"\x22\x11\0\0",
        // An unknown family, an unknown protocol.
        b"\x21\x41\0\0",
        b"\x21\x13\0\0",
        // Too little room for the addresses.
        b"\x21\x11\0\x0b\xc0\0\x02\x01\xc0\0\x02\x0b\xdc\x04\x01",
        b"\x21\x21\0\x01x",
        b"\x21\x31\0\0",
        // One byte too long.
        b"\x21\x11\x0f\xf1",
    ] {
        assert!(read(&block(rest)).is_err(), "{rest:?}");
    }
    assert!(read(b"\r\n\r\nx").is_err());
}

/// What another implementation makes of a header.
fn by_ppp(version: ProxyVersion, header: &[u8]) -> Origin {
    let four = |ip: &ppp::v2::IPv4| {
        Origin::tcp(
            (ip.source_address, ip.source_port).into(),
            (ip.destination_address, ip.destination_port).into(),
        )
    };
    let six = |ip: &ppp::v2::IPv6| {
        Origin::tcp(
            (ip.source_address, ip.source_port).into(),
            (ip.destination_address, ip.destination_port).into(),
        )
    };
    match version {
        V1 => match ppp::v1::Header::try_from(header).unwrap().addresses {
            ppp::v1::Addresses::Unknown => Origin::Unknown,
            ppp::v1::Addresses::Tcp4(ip) => four(&ip),
            ppp::v1::Addresses::Tcp6(ip) => six(&ip),
        },
        V2 => {
            let parsed = ppp::v2::Header::try_from(header).unwrap();
            assert_eq!(parsed.len(), header.len());
            match (parsed.command, parsed.addresses) {
                (ppp::v2::Command::Local, _) => Origin::Local,
                (ppp::v2::Command::Proxy, ppp::v2::Addresses::Unspecified) => Origin::Unknown,
                (ppp::v2::Command::Proxy, ppp::v2::Addresses::IPv4(ip)) => four(&ip),
                (ppp::v2::Command::Proxy, ppp::v2::Addresses::IPv6(ip)) => six(&ip),
                (ppp::v2::Command::Proxy, ppp::v2::Addresses::Unix(_)) => Origin::Unix,
            }
        }
    }
}

#[test]
fn another_implementation_reads_what_is_written() {
    for origin in origins() {
        for version in [V1, V2] {
            let told = as_told(version, origin);
            assert_eq!(by_ppp(version, &write(version, origin)), told);
        }
    }
}

#[test]
fn what_another_implementation_writes_is_read() {
    use ppp::v2::{AddressFamily, Builder, Command, Protocol, Type, Version};
    for origin in origins() {
        let (line, block) = match origin {
            Origin::Tcp { client, server } => (
                ppp::v1::Addresses::from((client, server)).to_string(),
                Builder::with_addresses(
                    Version::Two | Command::Proxy,
                    Protocol::Stream,
                    (client, server),
                ),
            ),
            Origin::Unix => (
                ppp::v1::Addresses::Unknown.to_string(),
                Builder::with_addresses(
                    Version::Two | Command::Proxy,
                    Protocol::Stream,
                    ppp::v2::Unix::new([1; 108], [2; 108]),
                ),
            ),
            Origin::Local | Origin::Unknown => {
                let command = if origin == Origin::Local {
                    Command::Local
                } else {
                    Command::Proxy
                };
                let family = AddressFamily::Unspecified | Protocol::Unspecified;
                (
                    ppp::v1::Addresses::Unknown.to_string(),
                    Builder::new(Version::Two | command, family),
                )
            }
        };
        let in_line = as_told(V1, origin);
        assert_eq!(
            read(line.as_bytes()),
            Ok(Some((in_line, line.len()))),
            "{line}"
        );
        let block = block.write_tlv(Type::NoOp, &[42; 300]).unwrap();
        let block = block.build().unwrap();
        assert_eq!(read(&block), Ok(Some((origin, block.len()))), "{origin:?}");
    }
}

/// Many of each kind.
fn origins() -> impl Iterator<Item = Origin> {
    let fixed = [Origin::Local, Origin::Unknown, Origin::Unix, four(), six()];
    let some = (0..1000_u32).map(|n| {
        let n = n.wrapping_mul(0x9e37_79b9) ^ n;
        let (low, high) = (n as u16, (n >> 16) as u16);
        if n.is_multiple_of(2) {
            let [a, b, c, d] = n.to_be_bytes();
            Origin::tcp(([a, b, c, d], low).into(), ([d, c, b, a], high).into())
        } else {
            let ip = |n: u16| [n, 0, 0, n.rotate_left(3), !n, 0, low, high];
            Origin::tcp((ip(low), high).into(), (ip(high), low).into())
        }
    });
    fixed.into_iter().chain(some)
}
