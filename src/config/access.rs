//! Who may come, by network: CIDR, and the words of `IPAddressAllow=` (systemd.resource-control(5)).

use std::cmp::Reverse;
use std::net::IpAddr;
use std::str::FromStr;

use super::address::Peer;

/// Addresses that begin alike, in one of the two families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    is_v4: bool,
    /// The first bits, the others are 0.
    bits: u128,
    length: u8,
}

/// What one word stands for: `192.0.2.0/24`, `::1`, `any`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

/// The networks whose clients are admitted, and those whose clients are refused. Without any,
/// all are admitted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessList {
    /// The first one that contains an address decides: the most specific, and `--deny` first.
    rules: Vec<Rule>,
    /// Who is in none of them is refused.
    closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    network: Network,
    allow: bool,
}

impl AccessList {
    /// Lets clients from `allow` in, and refuses those from `deny`.
    pub fn new(allow: &[Networks], deny: &[Networks]) -> Self {
        let rules = |list: &[Networks], allow| {
            let networks = list.iter().flat_map(|Networks(networks)| networks.clone());
            networks
                .map(move |network| Rule { network, allow })
                .collect::<Vec<_>>()
        };
        let mut rules = [rules(allow, true), rules(deny, false)].concat();
        rules.sort_by_key(|rule| (Reverse(rule.network.length), rule.allow));
        Self {
            rules,
            closed: !allow.is_empty(),
        }
    }

    /// Whether all are admitted, because no rule was given.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a rule for all addresses of a family lets them in.
    pub fn admits_all(&self) -> bool {
        let mut rules = self.rules.iter();
        rules.any(|rule| rule.allow && rule.network.length == 0)
    }

    /// Whether this client is let in. Those of Unix sockets always are: they have no address, and
    /// the socket's own owner and mode.
    pub fn admits(&self, peer: Peer) -> bool {
        match peer {
            Peer::Tcp(address) if !self.rules.is_empty() => self.admits_ip(address.ip()),
            Peer::Tcp(_) | Peer::Unix => true,
        }
    }

    fn admits_ip(&self, ip: IpAddr) -> bool {
        let mut rules = self.rules.iter();
        match rules.find(|rule| rule.network.contains(ip)) {
            Some(rule) => rule.allow,
            None => !self.closed,
        }
    }
}

impl Network {
    fn new(ip: IpAddr, length: u8) -> Self {
        // An IPv4 address in IPv6 clothing is one of IPv4, as long as that much is fixed.
        let (ip, length) = match ip.to_canonical() {
            plain if plain.is_ipv4() && ip.is_ipv6() && length >= 96 => (plain, length - 96),
            _ => (ip, length),
        };
        Self {
            is_v4: ip.is_ipv4(),
            bits: bits(ip) & mask(length),
            length,
        }
    }

    fn contains(self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.is_v4 && bits(ip) & mask(self.length) == self.bits
    }
}

/// An address as a number, its first bit the highest one.
fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)) << 96,
        IpAddr::V6(ip) => ip.into(),
    }
}

/// The first `length` bits.
fn mask(length: u8) -> u128 {
    let rest = 128 - u32::from(length);
    u128::MAX.checked_shl(rest).unwrap_or(0)
}

impl Networks {
    /// Whether an address is in one of them.
    pub fn contain(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(ip))
    }
}

impl FromStr for Networks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: &[&str] = match text {
            "any" => &["0.0.0.0/0", "::/0"],
            "localhost" => &["127.0.0.0/8", "::1"],
            "link-local" => &["169.254.0.0/16", "fe80::/64"],
            _ => &[text],
        };
        let networks = words.iter().map(|word| network(word));
        networks.collect::<Result<_, _>>().map(Self)
    }
}

fn network(text: &str) -> Result<Network, String> {
    let (ip, length) = match text.split_once('/') {
        Some((ip, length)) => (ip, Some(length)),
        None => (text, None),
    };
    let ip: IpAddr = ip.parse().map_err(|_| {
        "write a network like `192.0.2.0/24` or `2001:db8::/32`, an address, or one of `any`, `localhost`, `link-local`"
    })?;
    let whole = if ip.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => whole,
        Some(digits) => digits
            .parse()
            .ok()
            .filter(|length| *length <= whole && digits.starts_with(|c: char| c.is_ascii_digit()))
            .ok_or_else(|| format!("after the `/` comes a number of bits from 0 to {whole}"))?,
    };
    Ok(Network::new(ip, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(allow: &str, deny: &str) -> AccessList {
        let words = |text: &str| -> Vec<Networks> {
            let words = text.split_whitespace();
            words.map(|word| word.parse().unwrap()).collect()
        };
        AccessList::new(&words(allow), &words(deny))
    }

    fn from(ip: &str) -> Peer {
        // Not `Peer::tcp`, which would make it canonical.
        Peer::Tcp((ip.parse::<IpAddr>().unwrap(), 1).into())
    }

    #[track_caller]
    fn check(list: &AccessList, admitted: &[&str], refused: &[&str]) {
        for ip in admitted {
            assert!(list.admits(from(ip)), "{ip} is refused by {list:?}");
        }
        for ip in refused {
            assert!(!list.admits(from(ip)), "{ip} is admitted by {list:?}");
        }
        assert!(list.admits(Peer::Unix));
    }

    #[test]
    fn without_a_list_every_client_is_allowed() {
        assert!(list("", "").is_empty());
        let all = ["any", "0.0.0.0/0", "10.0.0.0/8 ::/0"];
        assert!(all.iter().all(|words| list(words, "").admits_all()));
        assert!(!list("localhost 10.0.0.0/8", "any").admits_all());
        check(&list("", ""), &["192.0.2.1", "::1"], &[]);
    }

    #[test]
    fn a_client_outside_all_allowed_networks_is_denied() {
        let allowed = list("192.0.2.0/24 2001:db8::/32", "");
        check(
            &allowed,
            &["192.0.2.0", "192.0.2.255", "2001:db8:ffff::1"],
            &["192.0.1.255", "192.0.3.0", "2001:db9::", "::1"],
        );
        let denied = list("", "192.0.2.0/24");
        check(&denied, &["192.0.3.0", "::1"], &["192.0.2.7"]);
    }

    #[test]
    fn the_most_specific_network_decides_and_deny_between_equal_ones() {
        let nested = list("10.0.0.0/8 10.1.2.3", "10.1.0.0/16");
        check(
            &nested,
            &["10.0.0.1", "10.1.2.3", "10.2.0.0"],
            &["10.1.2.4", "11.0.0.0"],
        );
        let equal = list("10.0.0.0/8 any", "10.0.0.0/8");
        check(&equal, &["11.0.0.1", "::1"], &["10.0.0.1"]);
        let mostly = list("192.0.2.7", "any");
        check(&mostly, &["192.0.2.7"], &["192.0.2.8", "::1"]);
    }

    #[test]
    fn an_ipv4_address_is_one_however_it_is_written() {
        let four = list("192.0.2.0/24", "");
        check(
            &four,
            &["::ffff:192.0.2.1"],
            &["::192.0.2.1", "::ffff:1.2.3.4"],
        );
        let mapped = list("::ffff:192.0.2.0/120", "");
        assert_eq!(mapped, four);
        // All of IPv6 is not all of IPv4, and the other way round.
        check(
            &list("::/0", ""),
            &["::1"],
            &["::ffff:192.0.2.1", "192.0.2.1"],
        );
        check(&list("0.0.0.0/0", ""), &["192.0.2.1"], &["2001:db8::1"]);
    }

    #[test]
    fn words_are_those_of_systemd() {
        check(
            &list("localhost link-local", ""),
            &["127.255.0.1", "::1", "169.254.1.1", "fe80::1"],
            &["128.0.0.1", "::2", "169.255.0.1", "fe80:0:0:1::1"],
        );
        check(&list("", "any"), &[], &["192.0.2.1", "2001:db8::1"]);
        // What follows the fixed bits does not matter, as there.
        assert_eq!(list("192.0.2.99/24", ""), list("192.0.2.0/24", ""));
    }

    #[test]
    fn an_invalid_network_names_the_remedy() {
        for text in [
            "",
            "example.org",
            "10.0.0/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/8/8",
            "2001:db8::/129",
            "fe80::1%eth0",
            "[::1]",
            "192.0.2.1:80",
            "Any",
            "multicast",
        ] {
            let error = text.parse::<Networks>().unwrap_err();
            assert!(
                error.contains("`192.0.2.0/24`") || error.contains("bits"),
                "{text}: {error}"
            );
        }
    }
}
