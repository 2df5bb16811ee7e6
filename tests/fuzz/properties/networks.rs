//! Access lists: lines with the words of `--allow`, those of `--deny`, and an address of a client.

use std::net::{IpAddr, Ipv6Addr};

use wakeport::config::access::{AccessList, Networks};
use wakeport::config::address::Peer;

pub(super) fn property(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let mut lines = text.splitn(3, '\n');
    let (allow, deny) = (networks(lines.next()), networks(lines.next()));
    let Some(ip) = lines.next().and_then(|line| line.parse().ok()) else {
        return;
    };
    let list = AccessList::new(&allow, &deny);
    let admitted = list.admits(peer(ip));
    assert!(list.admits(Peer::Unix));
    assert!(admitted || !list.is_empty(), "no client was to be refused");
    // Neither the notation of the address nor the order of the words matters.
    if let IpAddr::V4(four) = ip.to_canonical() {
        assert_eq!(list.admits(peer(four.to_ipv6_mapped().into())), admitted);
    }
    let backwards = |words: &[Networks]| words.iter().rev().cloned().collect::<Vec<_>>();
    let other = AccessList::new(&backwards(&allow), &backwards(&deny));
    assert_eq!(other.admits(peer(ip)), admitted);
    // Nothing is more specific than the address itself.
    let own = networks(Some(&ip.to_string()));
    let refused = AccessList::new(&allow, &[deny, own.clone()].concat());
    assert!(!refused.admits(peer(ip)));
    let any = networks(Some("any"));
    assert!(AccessList::new(&[allow, own].concat(), &any).admits(peer(ip)));
    borders(ip.to_canonical(), bytes.len());
}

/// The valid words of a list.
fn networks(line: Option<&str>) -> Vec<Networks> {
    let words = line.unwrap_or_default().split_whitespace();
    let parsed = words.filter_map(|word| match word.parse::<Networks>() {
        Ok(networks) => Some(networks),
        Err(reason) => {
            assert!(super::is_one_line(&reason), "{reason:?}");
            None
        }
    });
    parsed.collect()
}

/// A network around this address ends where its fixed bits end.
fn borders(ip: IpAddr, any: usize) {
    let all = if ip.is_ipv4() { 32 } else { 128 };
    let (length, flipped) = (any % (all + 1), any / 7 % all);
    let list = AccessList::new(&networks(Some(&format!("{ip}/{length}"))), &[]);
    assert!(list.admits(peer(ip)), "{ip}/{length}");
    let bit = 1 << (all - 1 - flipped);
    let neighbour: IpAddr = match ip {
        IpAddr::V4(ip) => (u32::from(ip) ^ bit as u32).to_be_bytes().into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) ^ bit).into(),
    };
    // It may be one of IPv4 now, and those are others.
    if neighbour.to_canonical().is_ipv4() == ip.is_ipv4() {
        let inside = flipped >= length;
        assert_eq!(
            list.admits(peer(neighbour)),
            inside,
            "{ip}/{length}, {neighbour}"
        );
    }
}

fn peer(ip: IpAddr) -> Peer {
    Peer::Tcp((ip, 1).into())
}
