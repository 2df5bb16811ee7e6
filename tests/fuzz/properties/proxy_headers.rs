//! Headers of the PROXY protocol: the result does not depend on segmentation; a header ends at its
//! end; a written header parses to the same value, also in another implementation; both
//! implementations agree on what they accept.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use wakeport::config::ProxyVersion;
use wakeport::net::proxy_header::{LONGEST, Origin, read, write};

pub(super) fn property(bytes: &[u8]) {
    super::is_the_same_in_pieces(bytes, |seen| read(seen).transpose());
    if let Ok(Some((origin, length))) = read(bytes) {
        assert!(length <= LONGEST.min(bytes.len()));
        let header = &bytes[..length];
        assert_eq!(read(header), Ok(Some((origin, length))));
        assert_eq!(read(&header[..length - 1]), Ok(None));
        if let Some(theirs) = by_ppp(header) {
            assert_eq!(theirs, origin);
        }
        is_passed_on(origin);
    }
    if let Some((addresses, ports)) = bytes.split_first_chunk::<32>() {
        let ip = |at: usize| -> IpAddr {
            let mut octets = [0; 16];
            octets.copy_from_slice(&addresses[at..at + 16]);
            Ipv6Addr::from(octets).into()
        };
        let port = |at: usize| {
            let byte = |at| u16::from(ports.get(at).copied().unwrap_or_default());
            byte(at) << 8 | byte(at + 1)
        };
        let (client, server) = ((ip(0), port(0)), (ip(16), port(2)));
        is_passed_on(Origin::tcp(
            SocketAddr::from(client),
            SocketAddr::from(server),
        ));
    }
}

/// A written header parses to the same value.
fn is_passed_on(origin: Origin) {
    for (version, no_address) in [
        (ProxyVersion::V1, Origin::Unknown),
        (ProxyVersion::V2, Origin::Local),
    ] {
        let header = write(version, origin);
        let told = match origin {
            Origin::Tcp { .. } => origin,
            Origin::Local | Origin::Unknown | Origin::Unix => no_address,
        };
        assert_eq!(read(&header), Ok(Some((told, header.len()))), "{header:?}");
        assert_eq!(by_ppp(&header), Some(told), "{header:?}");
    }
}

/// The result of another implementation, if it takes all of it for a header.
fn by_ppp(header: &[u8]) -> Option<Origin> {
    use ppp::{v1, v2};

    if header.starts_with(b"PROXY") {
        let parsed = v1::Header::try_from(header).ok()?;
        if parsed.header.len() != header.len() {
            return None;
        }
        return Some(match parsed.addresses {
            v1::Addresses::Unknown => Origin::Unknown,
            v1::Addresses::Tcp4(ip) => Origin::tcp(
                (ip.source_address, ip.source_port).into(),
                (ip.destination_address, ip.destination_port).into(),
            ),
            v1::Addresses::Tcp6(ip) => Origin::tcp(
                (ip.source_address, ip.source_port).into(),
                (ip.destination_address, ip.destination_port).into(),
            ),
        });
    }
    let parsed = v2::Header::try_from(header).ok()?;
    if parsed.len() != header.len() {
        return None;
    }
    // Only streams are ours; of another family's client it is not said who it is.
    let stream = parsed.protocol == v2::Protocol::Stream;
    Some(match (parsed.command, parsed.addresses) {
        (v2::Command::Local, _) => Origin::Local,
        (v2::Command::Proxy, v2::Addresses::IPv4(ip)) if stream => Origin::tcp(
            (ip.source_address, ip.source_port).into(),
            (ip.destination_address, ip.destination_port).into(),
        ),
        (v2::Command::Proxy, v2::Addresses::IPv6(ip)) if stream => Origin::tcp(
            (ip.source_address, ip.source_port).into(),
            (ip.destination_address, ip.destination_port).into(),
        ),
        (v2::Command::Proxy, v2::Addresses::Unix(_)) if stream => Origin::Unix,
        (v2::Command::Proxy, _) => Origin::Unknown,
    })
}
