//! Which datagrams wake a service: what the first message of a client looks like, and what only asks
//! how it is. What the kernel is told of it is in `net/datagram/filter.rs`.

use std::fmt;
use std::str::FromStr;

/// Which datagrams wake a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UdpWake {
    /// Every one.
    #[default]
    Any,
    /// Of RakNet (Minecraft Bedrock) the two requests to open a connection, 0x05 and 0x07; not the
    /// pings of server lists, 0x01 and 0x02.
    Raknet,
    /// Of Valve's servers all but the queries of server lists: `FFFFFFFF`, then `T`, `U`, `V` or `W`.
    Source,
    /// Of QUIC a packet with a long header and a version, of at least 1200 bytes: all that carry a
    /// first Initial are (RFC 9000, section 14.1).
    Quic,
    /// Of WireGuard the initiation of a handshake.
    Wireguard,
    /// What begins with these bytes.
    Begins(Pattern),
}

/// How a datagram begins, and how long it is at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Each byte, as far as the mask says; what is outside of that is zero.
    bytes: Vec<u8>,
    /// As long as the bytes.
    mask: Vec<u8>,
    /// At least as many as there are bytes.
    least: usize,
}

/// Which datagrams wake, in terms that a filter of the kernel can say as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What is looked at first.
    pub pattern: Pattern,
    /// Whether those that it fits wake, or all the others.
    pub fits: bool,
    /// Whether the four bytes behind the first must not be zero.
    pub versioned: bool,
}

/// What RakNet's messages outside of a connection hold behind their first byte, or behind a time.
const RAKNET_MAGIC: [u8; 16] = [
    0x00, 0xff, 0xff, 0x00, 0xfe, 0xfe, 0xfe, 0xfe, 0xfd, 0xfd, 0xfd, 0xfd, 0x12, 0x34, 0x56, 0x78,
];

/// The first four bytes of a message of Valve's that belongs to no connection.
const CONNECTIONLESS: [u8; 4] = [0xff; 4];

impl Pattern {
    /// A filter has an instruction or three for four bytes, and is to have no more than 20.
    pub const LONGEST: usize = 20;
    /// The most that a datagram holds over IPv4.
    pub const MOST: usize = 65_507;

    fn new(bytes: &[u8], mask: Vec<u8>, least: usize) -> Self {
        let masked = bytes.iter().zip(&mask).map(|(byte, mask)| byte & mask);
        Self {
            bytes: masked.collect(),
            mask,
            least: least.max(bytes.len()),
        }
    }

    fn exact(bytes: &[u8], least: usize) -> Self {
        Self::new(bytes, vec![0xff; bytes.len()], least)
    }

    /// What the datagram begins with, and which bits of it count.
    pub fn bytes(&self) -> impl ExactSizeIterator<Item = (u8, u8)> {
        self.bytes.iter().copied().zip(self.mask.iter().copied())
    }

    /// How long it is at least.
    pub fn least(&self) -> usize {
        self.least
    }

    fn fits(&self, datagram: &[u8]) -> bool {
        let mut all = datagram.iter().zip(self.bytes());
        datagram.len() >= self.least && all.all(|(byte, (is, mask))| byte & mask == is)
    }
}

impl Rule {
    fn wakes(&self, datagram: &[u8]) -> bool {
        let version = datagram.get(1..5);
        let versioned = version.is_some_and(|version| version != [0; 4]);
        self.pattern.fits(datagram) == self.fits && (versioned || !self.versioned)
    }
}

impl UdpWake {
    /// Whether every datagram wakes.
    pub fn is_any(&self) -> bool {
        matches!(self, Self::Any)
    }

    /// Whether a datagram wakes the service.
    pub fn wakes(&self, datagram: &[u8]) -> bool {
        self.rule().is_none_or(|rule| rule.wakes(datagram))
    }

    /// Whether a datagram shows that a client is there, once the service is awake: what only asks how
    /// a server is does not. Most of what a client sends would not wake it: moves in a game, the packets
    /// of a QUIC connection, encrypted data.
    pub fn renews(&self, datagram: &[u8]) -> bool {
        match self {
            Self::Raknet => !matches!(datagram.first(), Some(0x01 | 0x02)),
            Self::Source => self.wakes(datagram),
            Self::Any | Self::Quic | Self::Wireguard | Self::Begins(_) => true,
        }
    }

    /// The rule; none if every datagram wakes.
    pub fn rule(&self) -> Option<Rule> {
        let rule = |pattern| Rule {
            pattern,
            fits: true,
            versioned: false,
        };
        Some(match self {
            Self::Any => return None,
            Self::Raknet => {
                // Behind the magic is at least the version of the protocol, or an address.
                let (mut bytes, mut mask) = (vec![0x05], vec![!0x02]);
                bytes.extend(RAKNET_MAGIC);
                mask.extend([0xff; RAKNET_MAGIC.len()]);
                rule(Pattern::new(&bytes, mask, 18))
            }
            Self::Source => {
                let mut bytes = CONNECTIONLESS.to_vec();
                bytes.push(b'T');
                // T, U, V and W.
                let mask = vec![0xff, 0xff, 0xff, 0xff, !0x03];
                Rule {
                    fits: false,
                    ..rule(Pattern::new(&bytes, mask, 5))
                }
            }
            Self::Quic => Rule {
                versioned: true,
                ..rule(Pattern::new(&[0x80], vec![0x80], 1200))
            },
            // Where the kernel joins datagrams of one sender (UDP_GRO), the filter sees a longer one.
            Self::Wireguard => rule(Pattern::exact(&[1, 0, 0, 0], 148)),
            Self::Begins(pattern) => rule(pattern.clone()),
        })
    }
}

impl FromStr for UdpWake {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "any" => Self::Any,
            "raknet" => Self::Raknet,
            "source" => Self::Source,
            "quic" => Self::Quic,
            "wireguard" => Self::Wireguard,
            _ => Self::Begins(text.parse()?),
        })
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (begins, least) = match text.split_once(',') {
            Some((begins, least)) => (begins, at_least(least)?),
            None => (text, 0),
        };
        let (bytes, mask) = match begins.split_once('/') {
            Some((bytes, mask)) => (hex(bytes)?, Some(hex(mask)?)),
            None => (hex(begins)?, None),
        };
        if let Some(mask) = mask.as_ref().filter(|mask| mask.len() != bytes.len()) {
            return Err(format!(
                "the mask has {} bytes and what it is for {}; write as many",
                mask.len(),
                bytes.len()
            ));
        }
        let mask = mask.unwrap_or_else(|| vec![0xff; bytes.len()]);
        Ok(Self::new(&bytes, mask, least))
    }
}

fn hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Option<Vec<_>> = text.chars().map(|c| c.to_digit(16)).collect();
    let Some(digits) = digits.filter(|digits| !digits.is_empty() && digits.len() % 2 == 0) else {
        return Err(
            "write `any`, `raknet`, `source`, `quic`, `wireguard`, or how a datagram begins, as in `05` or `80/80,1200+`"
                .into(),
        );
    };
    if digits.len() > 2 * Pattern::LONGEST {
        return Err(format!(
            "at most the first {} bytes of a datagram are looked at",
            Pattern::LONGEST
        ));
    }
    let byte = |pair: &[u32]| pair.iter().fold(0, |byte, digit| byte << 4 | digit);
    let bytes = digits.chunks(2).map(|pair| byte(pair) as u8);
    Ok(bytes.collect())
}

fn at_least(text: &str) -> Result<usize, String> {
    let number = text.strip_suffix('+');
    let number = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    let number = number.and_then(|number| number.parse().ok());
    number
        .filter(|number| (1..=Pattern::MOST).contains(number))
        .ok_or_else(|| {
            format!(
                "behind the comma comes how long a datagram is at least, from 1 to {}, and a `+`, as in `80/80,1200+`",
                Pattern::MOST
            )
        })
}

impl fmt::Display for UdpWake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any",
            Self::Raknet => "raknet",
            Self::Source => "source",
            Self::Quic => "quic",
            Self::Wireguard => "wireguard",
            Self::Begins(pattern) => return pattern.fmt(f),
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hex = |bytes: &[u8]| bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"));
        hex(&self.bytes)?;
        if self.mask.iter().any(|&byte| byte != 0xff) {
            f.write_str("/")?;
            self.mask
                .iter()
                .try_for_each(|byte| write!(f, "{byte:02x}"))?;
        }
        if self.least > self.bytes.len() {
            write!(f, ",{}+", self.least)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wake(text: &str) -> UdpWake {
        text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    fn message(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    fn every_spelling_is_shown_as_it_is_read() {
        for (text, shown) in [
            ("any", "any"),
            ("raknet", "raknet"),
            ("source", "source"),
            ("quic", "quic"),
            ("wireguard", "wireguard"),
            ("05", "05"),
            ("DEADbeef", "deadbeef"),
            ("80/80,1200+", "80/80,1200+"),
            ("ff/80", "80/80"),
            ("0000,65507+", "0000,65507+"),
            ("0500/FFFF", "0500"),
            ("0500,1+", "0500"),
            (
                "000102030405060708090a0b0c0d0e0f10111213",
                "000102030405060708090a0b0c0d0e0f10111213",
            ),
        ] {
            assert_eq!(wake(text).to_string(), shown);
            assert_eq!(wake(shown), wake(text));
        }
        assert!(UdpWake::default().is_any() && !wake("05").is_any());
    }

    #[test]
    fn what_is_no_pattern_is_refused_in_one_line() {
        for text in [
            "",
            "all",
            "Any",
            "5",
            "0x05",
            "05 06",
            "05/",
            "/05",
            "05/ff00",
            "0506/ff",
            "05,",
            "05,12",
            "05,+",
            "05,0+",
            "05,+5+",
            "05,65508+",
            "05,99999999999999999999+",
            "05,1+,2+",
            ",5+",
            "05/ff/ff",
            "000102030405060708090a0b0c0d0e0f1011121314",
            "٠٥",
        ] {
            let why = text.parse::<UdpWake>().expect_err(text);
            assert!(!why.contains('\n') && !why.is_empty(), "{text}: {why}");
        }
    }

    #[test]
    fn a_pattern_is_what_a_datagram_begins_with() {
        let version = wake("80/80,3+");
        assert!(version.wakes(&[0x80, 0, 0]) && version.wakes(&[0xff; 9]));
        assert!(!version.wakes(&[0x7f; 9]) && !version.wakes(&[0x80, 0]));
        assert!(!version.wakes(&[]) && !wake("00").wakes(&[]));
        assert!(wake("0102").wakes(&[1, 2, 3]) && !wake("0102").wakes(&[1]));
        assert!(wake("any").wakes(&[]));
    }

    #[test]
    fn of_raknet_a_request_to_open_a_connection_wakes_and_a_ping_does_not() {
        let raknet = wake("raknet");
        let first = message(&[&[0x05], &RAKNET_MAGIC, &[11], &[0; 1400]]);
        let second = message(&[
            &[0x07],
            &RAKNET_MAGIC,
            &[4, 0x80, 0xff, 0xff, 0xfe, 0x4a, 0xbc],
            &[5, 0xd4],
            &[0; 8],
        ]);
        let ping = |id: u8| message(&[&[id], &[0; 8], &RAKNET_MAGIC, &[0; 8]]);
        assert!(raknet.wakes(&first) && raknet.wakes(&second));
        for datagram in [
            ping(0x01),
            ping(0x02),
            message(&[&[0x06], &RAKNET_MAGIC, &[0; 8]]),
            message(&[&[0x05], &RAKNET_MAGIC]),
            message(&[&[0x05], &[0; 40]]),
            message(&[&[0x84], &[0; 40]]),
            vec![],
        ] {
            assert!(!raknet.wakes(&datagram), "{datagram:x?}");
        }
        // What a player sends renews the flow, and a ping does not.
        assert!(raknet.renews(&[0x84, 0, 0, 0]) && raknet.renews(&first));
        assert!(!raknet.renews(&ping(0x01)) && !raknet.renews(&ping(0x02)));
    }

    #[test]
    fn of_valves_servers_all_but_the_queries_wake() {
        let source = wake("source");
        for query in *b"TUVW" {
            let query = message(&[&CONNECTIONLESS, &[query], b"Source Engine Query\0"]);
            assert!(!source.wakes(&query) && !source.renews(&query));
        }
        for datagram in [
            message(&[&CONNECTIONLESS, b"q", &[0; 10]]),
            message(&[&CONNECTIONLESS, b"S"]),
            message(&[&CONNECTIONLESS, b"X"]),
            CONNECTIONLESS.to_vec(),
            vec![1, 2, 3],
        ] {
            assert!(
                source.wakes(&datagram) && source.renews(&datagram),
                "{datagram:x?}"
            );
        }
    }

    #[test]
    fn of_quic_a_first_packet_wakes() {
        let quic = wake("quic");
        let packet = |first: u8, version: [u8; 4], length: usize| {
            let mut packet = message(&[&[first], &version, &[7; 1500]]);
            packet.truncate(length);
            packet
        };
        let version = [0, 0, 0, 1];
        assert!(quic.wakes(&packet(0xc3, version, 1200)));
        assert!(quic.wakes(&packet(0xc3, [0x6b, 0x33, 0x43, 0xcf], 1350)));
        for datagram in [
            packet(0xc3, version, 1199),
            packet(0xc3, [0; 4], 1200),
            packet(0x43, version, 1200),
            packet(0xc3, version, 3),
        ] {
            assert!(!quic.wakes(&datagram), "{datagram:x?}");
            assert!(quic.renews(&datagram));
        }
    }

    #[test]
    fn of_wireguard_a_handshake_wakes() {
        let wireguard = wake("wireguard");
        let message = |kind: u8, reserved: u8, length: usize| {
            let mut message = vec![9; length];
            message[..4].copy_from_slice(&[kind, reserved, 0, 0]);
            message
        };
        assert!(wireguard.wakes(&message(1, 0, 148)));
        for datagram in [
            message(1, 0, 147),
            message(1, 1, 148),
            message(2, 0, 92),
            message(4, 0, 148),
        ] {
            assert!(!wireguard.wakes(&datagram), "{datagram:x?}");
            assert!(wireguard.renews(&datagram));
        }
    }
}
