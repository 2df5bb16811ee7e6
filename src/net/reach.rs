//! Which addresses lead to which listeners.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::config::address::{Address, Bound, connected};

/// Whether a connection to `target` ends at `listener`. `ips` are the addresses of the target's
/// host; without a port it means the listener's own.
pub fn reaches(target: &Address, ips: &[IpAddr], listener: &Bound) -> bool {
    let (port, listener) = match target {
        Address::Unix(target) => return *listener == Bound::Unix(target.clone()),
        Address::Tcp { port, .. } => (port, listener.tcp()),
        Address::Udp { port, .. } => (port, listener.udp()),
        // Its pods are not known yet; who connects to them looks again.
        Address::Service(_) => return false,
    };
    listener.is_some_and(|listener| {
        let port = port.unwrap_or(listener.port());
        let mut there = ips.iter().map(|&ip| SocketAddr::new(ip, port));
        there.any(|there| reaches_over_tcp(there, listener))
    })
}

/// The same for socket addresses, of TCP or both of UDP, wildcards counted (ipv6(7): the IPv6 wildcard takes IPv4
/// connections as well, unless told otherwise).
pub fn reaches_over_tcp(target: SocketAddr, listener: SocketAddr) -> bool {
    let (there, here) = (connected(target.ip()), listener.ip().to_canonical());
    if target.port() != listener.port() {
        return false;
    }
    let family = listener.is_ipv6() || there.is_ipv4();
    there == here || here.is_unspecified() && family && is_local(there)
}

/// Whether `ip` belongs to this machine: only then can a socket be bound to it.
fn is_local(ip: IpAddr) -> bool {
    ip.is_unspecified() || ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_reaches_a_listener_by_its_address_or_by_a_wildcard() {
        for (target, listener, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("127.0.0.1", "80", true),
            ("[::1]:80", "0.0.0.0:80", false),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("[::]:80", "[::1]:80", true),
            ("[::]:80", "127.0.0.1:80", false),
            ("0.0.0.0:80", "80", true),
            ("localhost:80", "[::1]:80", true),
            ("192.0.2.1:80", "80", false),
            ("example.org:80", "80", false),
            ("/run/x", "/run/x", true),
            ("@x", "/run/x", false),
            ("127.0.0.1:80", "/run/x", false),
            ("udp:127.0.0.1:80", "udp:80", true),
            ("udp:127.0.0.1", "udp:127.0.0.1:80", true),
            ("udp:127.0.0.1:80", "80", false),
            ("127.0.0.1:80", "udp:80", false),
        ] {
            let target: Address = target.parse().expect("parses");
            let found = reaches(&target, &target.ips(), &listener.parse().expect("parses"));
            assert_eq!(found, expected, "{target} {listener}");
        }
    }
}
