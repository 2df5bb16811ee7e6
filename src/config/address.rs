//! Addresses as they are typed: where to relay to, what to bind, what to ask over HTTP.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::str::FromStr;

use super::Named;
use super::kubernetes::ServicePods;

/// Where a target listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host, by name or number. Without a port it means the listener's own port.
    Tcp {
        /// A name or a number, without brackets.
        host: String,
        /// The port, if one was given.
        port: Option<u16>,
    },
    /// The same for datagrams, written `udp:HOST:PORT`.
    Udp {
        /// As for TCP.
        host: String,
        /// As for TCP.
        port: Option<u16>,
    },
    /// A Unix socket.
    Unix(UnixAddress),
    /// The ready pods of a Service of Kubernetes.
    Service(ServicePods),
}

/// What an address for datagrams begins with.
const UDP: &str = "udp:";

/// The address of a Unix socket (unix(7)).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UnixAddress {
    /// A file.
    Path(PathBuf),
    /// A name in the abstract name space, written `@NAME`.
    Abstract(Vec<u8>),
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP address, an IPv4 one written as such even where it came in over IPv6.
    Tcp(SocketAddr),
    /// A peer on a Unix socket, which has no address.
    Unix,
}

/// What to bind ourselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A TCP socket.
    Tcp(SocketAddr),
    /// One on an address that is an interface's, whose name or number is the zone.
    Zoned(SocketAddrV6, String),
    /// A UDP socket.
    Udp(SocketAddr),
    /// A Unix socket.
    Unix(UnixAddress),
}

/// Whom a readiness probe asks, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl {
    /// Host and port; `None` (an empty host, as in `http:///health`) asks the target itself.
    pub host: Option<Address>,
    /// The path with its query.
    pub path: String,
}

impl Peer {
    /// The peer with this address.
    pub fn tcp(address: SocketAddr) -> Self {
        Self::Tcp(canonical(address))
    }
}

/// An IPv4 address as such, even where it is written as one of IPv6.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Where a connection to this address goes: to no address is to this machine (`ip(7)`).
pub fn connected(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

impl Address {
    /// This address, with the listener's port where none was given.
    pub fn with_port(self, listener: Option<u16>) -> Option<Self> {
        match self {
            Self::Tcp { host, port } => Some(Self::Tcp {
                host,
                port: Some(port.or(listener)?),
            }),
            Self::Udp { host, port } => Some(Self::Udp {
                host,
                port: Some(port.or(listener)?),
            }),
            Self::Unix(_) | Self::Service(_) => Some(self),
        }
    }

    /// This address, for the connections of the listener with this name.
    pub fn for_listener(self, name: &str) -> Self {
        match self {
            Self::Service(service) if service.port.is_none() => Self::Service(ServicePods {
                listener: Some(name.to_owned()),
                ..service
            }),
            Self::Tcp { .. } | Self::Udp { .. } | Self::Unix(_) | Self::Service(_) => self,
        }
    }

    /// The host, with its port, by which an HTTP client would ask for it.
    pub fn authority(&self) -> String {
        match self {
            Self::Tcp { .. } | Self::Udp { .. } => self.to_string(),
            Self::Unix(_) => "localhost".into(),
            Self::Service(service) => service.name.clone(),
        }
    }

    /// The addresses that its host has without asking a resolver: a number, or those of `localhost`.
    pub fn ips(&self) -> Vec<IpAddr> {
        match self {
            Self::Tcp { host, .. } | Self::Udp { host, .. } if host == "localhost" => {
                vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
            }
            Self::Tcp { host, .. } | Self::Udp { host, .. } => host.parse().into_iter().collect(),
            Self::Unix(_) | Self::Service(_) => Vec::new(),
        }
    }

    /// Whether it takes datagrams.
    pub fn is_udp(&self) -> bool {
        matches!(self, Self::Udp { .. })
    }

    /// The same place for datagrams, if it has one.
    pub fn over_udp(self) -> Option<Self> {
        match self {
            Self::Tcp { host, port } | Self::Udp { host, port } => Some(Self::Udp { host, port }),
            Self::Unix(_) | Self::Service(_) => None,
        }
    }
}

impl Bound {
    /// The TCP address.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Zoned(address, _) => Some((*address).into()),
            Self::Udp(_) | Self::Unix(_) => None,
        }
    }

    /// The UDP address.
    pub fn udp(&self) -> Option<SocketAddr> {
        match self {
            Self::Udp(address) => Some(*address),
            Self::Tcp(_) | Self::Zoned(..) | Self::Unix(_) => None,
        }
    }

    /// Whether it takes datagrams.
    pub fn is_udp(&self) -> bool {
        matches!(self, Self::Udp(_))
    }

    /// The port, of TCP or UDP.
    pub fn port(&self) -> Option<u16> {
        Some(self.tcp().or(self.udp())?.port())
    }

    /// Whether it is every address, IPv6 or not, of a port.
    pub fn is_dual_wildcard(&self) -> bool {
        matches!(self, Self::Tcp(at) | Self::Udp(at) if at.is_ipv6() && at.ip().is_unspecified())
    }

    /// Whether it is every address of a port of which `all` name IPv4 addresses as well: these are
    /// theirs, and its own are those of IPv6 alone.
    pub fn leaves_ipv4<'a>(&self, all: impl IntoIterator<Item = &'a Self>) -> bool {
        let same = |other: &Self| {
            matches!(other, Self::Tcp(at) | Self::Udp(at) if at.is_ipv4())
                && self.is_udp() == other.is_udp()
                && self.port() == other.port()
        };
        self.is_dual_wildcard() && all.into_iter().any(same)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(unix) = unix(text)? {
            return Ok(Self::Unix(unix));
        }
        if let Some(service) = text.strip_prefix("service/") {
            return service.parse().map(Self::Service);
        }
        if let Some(text) = text.strip_prefix(UDP) {
            let (host, port) = host_and_port(text)?;
            return Ok(Self::Udp { host, port });
        }
        let (host, port) = host_and_port(text)?;
        Ok(Self::Tcp { host, port })
    }
}

impl FromStr for Bound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(unix) = unix(text)? {
            return Ok(Self::Unix(unix));
        }
        if let Some(text) = text.strip_prefix(UDP) {
            return match text.parse()? {
                Self::Tcp(address) if !text.starts_with(UDP) => Ok(Self::Udp(address)),
                Self::Zoned(..) => Err("write a UDP address without a zone".into()),
                Self::Tcp(_) | Self::Udp(_) | Self::Unix(_) => {
                    Err("behind `udp:` comes `ADDRESS:PORT` or `PORT`".into())
                }
            };
        }
        // As in a .socket unit's ListenStream=: a port alone means every address.
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(Self::Tcp((Ipv6Addr::UNSPECIFIED, port(text)?).into()));
        }
        let (host, port) = host_and_port(text)?;
        if let Some((ip, zone)) = host.split_once('%') {
            let ip: Ipv6Addr = ip.parse().map_err(|_| "only an IPv6 address has a zone")?;
            let port = port.ok_or("the port is missing, as in `[fe80::1]:8080%eth0`")?;
            let address = SocketAddrV6::new(ip, port, 0, 0);
            return Ok(Self::Zoned(address, zone.to_owned()));
        }
        let ip: IpAddr = match host.as_str() {
            "localhost" => IpAddr::from([127, 0, 0, 1]),
            host => host
                .parse()
                .map_err(|_| "write the address in numbers, like `127.0.0.1:8080`")?,
        };
        let port = port.ok_or("the port is missing, as in `127.0.0.1:8080`")?;
        Ok(Self::Tcp((ip, port).into()))
    }
}

impl FromStr for HttpUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text
            .strip_prefix("http://")
            .ok_or("only `http://` can be asked")?;
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        if path.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("a URL has no white space".into());
        }
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        let host = match authority {
            "" => None,
            _ => {
                let (host, port) = host_and_port(authority)?;
                let port = port.or(Some(80));
                if UDP.strip_suffix(':') == Some(&*host) {
                    return Err("`udp:` before a port stands for datagrams; write `udp.` for a host of this name".into());
                }
                Some(Address::Tcp { host, port })
            }
        };
        Ok(Self { host, path })
    }
}

impl<T: FromStr<Err = String>> FromStr for Named<T> {
    type Err = String;

    /// Takes `NAME=VALUE` or `VALUE`. A path may hold `=`, so what begins as a path has no name.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !text.starts_with(['/', '@', '[']) => {
                // sd_listen_fds_with_names(3): at most 255 characters, no colon, no control.
                let bad = |c: char| !c.is_ascii() || c.is_ascii_control() || c == ':';
                if name.is_empty() || name.len() > 255 || name.contains(bad) {
                    return Err(format!("`{name}` cannot be a FileDescriptorName="));
                }
                Ok(Self {
                    name: Some(name.to_owned()),
                    value: value.parse()?,
                })
            }
            _ => Ok(Self {
                name: None,
                value: text.parse()?,
            }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } | Self::Udp { host, port } => {
                if self.is_udp() {
                    f.write_str(UDP)?;
                }
                let (open, close) = if host.contains(':') {
                    ("[", "]")
                } else {
                    ("", "")
                };
                write!(f, "{open}{host}{close}")?;
                port.map_or(Ok(()), |port| write!(f, ":{port}"))
            }
            Self::Unix(unix) => unix.fmt(f),
            Self::Service(service) => service.fmt(f),
        }
    }
}

impl fmt::Display for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Abstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Udp(address) => write!(f, "{UDP}{address}"),
            // As systemd.socket(5) writes it.
            Self::Zoned(address, zone) => write!(f, "{address}%{zone}"),
            Self::Unix(unix) => unix.fmt(f),
        }
    }
}

/// `sun_path` has 108 bytes (unix(7)); one is the closing, or for an abstract name the opening, NUL.
pub const LONGEST_UNIX: usize = 107;

fn unix(text: &str) -> Result<Option<UnixAddress>, String> {
    let address = if let Some(name) = text.strip_prefix('@') {
        if name.is_empty() {
            return Err("the abstract name after `@` is missing".into());
        }
        UnixAddress::Abstract(name.as_bytes().to_vec())
    } else if text.starts_with('/') {
        UnixAddress::Path(OsString::from_vec(text.as_bytes().to_vec()).into())
    } else {
        return Ok(None);
    };
    if text.len() > LONGEST_UNIX || text.contains('\0') {
        return Err(format!(
            "a Unix socket's address has at most {LONGEST_UNIX} bytes"
        ));
    }
    Ok(Some(address))
}

/// Splits `host`, `host:port`, `[v6]` and `[v6]:port`; `[v6%zone]:port` is `[v6]:port%zone` as well.
fn host_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    let mut zone = None;
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, tail) = rest.split_once(']').ok_or("the closing `]` is missing")?;
            let number = host.split_once('%').map_or(host, |(number, _zone)| number);
            number
                .parse::<Ipv6Addr>()
                .map_err(|_| format!("`{host}` is not an IPv6 address"))?;
            let tail = match tail.split_once('%') {
                Some((tail, name)) if number == host => {
                    zone = Some(name);
                    tail
                }
                _ => tail,
            };
            let port = match tail {
                "" => None,
                _ => Some(
                    tail.strip_prefix(':')
                        .ok_or("after `]` comes `:PORT` or nothing")?,
                ),
            };
            (host, port)
        }
        None => match text.split_once(':') {
            Some((_, tail)) if tail.contains(':') => {
                return Err("write an IPv6 address in brackets, like `[::1]:8080`".into());
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty()
        || host.len() > 253
        || host.contains(|c: char| c.is_whitespace() || c.is_control() || "/@".contains(c))
    {
        return Err("the host is missing or malformed; write `host:port`, `[v6]:port`, `host`, `/path` or `@abstract`".into());
    }
    let host = zone.map_or(host.to_owned(), |zone| format!("{host}%{zone}"));
    // As `dev_valid_name` of the kernel (net/core/dev.c), and nothing that ends it in one of the spellings.
    let no_name = |c: char| c.is_whitespace() || c.is_control() || "/@%:]".contains(c);
    if let Some((_, zone)) = host.split_once('%')
        && (zone.is_empty() || zone.contains(no_name))
    {
        return Err("the zone after `%` is the name or the number of an interface".into());
    }
    if port.is_none() && host.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!(
            "`{host}` is a port without a host; write `127.0.0.1:{host}`"
        ));
    }
    Ok((host, port.map(self::port).transpose()?))
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(number) if number > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(number),
        _ => Err(format!("`{text}` is not a port; ports go from 1 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: Option<u16>) -> Address {
        Address::Tcp {
            host: host.into(),
            port,
        }
    }

    #[test]
    fn targets_are_read_in_every_spelling() {
        for (text, address) in [
            ("localhost:80", tcp("localhost", Some(80))),
            ("10.0.0.1:5432", tcp("10.0.0.1", Some(5432))),
            ("[::1]:80", tcp("::1", Some(80))),
            ("[fe80::1%eth0]:80", tcp("fe80::1%eth0", Some(80))),
            ("[::1]", tcp("::1", None)),
            ("db.example", tcp("db.example", None)),
            (
                "/run/x.sock",
                Address::Unix(UnixAddress::Path("/run/x.sock".into())),
            ),
            ("@x", Address::Unix(UnixAddress::Abstract(b"x".to_vec()))),
        ] {
            assert_eq!(text.parse(), Ok(address.clone()), "{text}");
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn an_address_of_datagrams_begins_with_udp() {
        for (text, host, port) in [
            ("udp:10.0.0.1:53", "10.0.0.1", Some(53)),
            ("udp:[::1]:53", "::1", Some(53)),
            ("udp:localhost", "localhost", None),
        ] {
            let address: Address = text.parse().expect(text);
            let host = host.to_owned();
            assert_eq!(address, Address::Udp { host, port });
            assert_eq!(address.to_string(), text);
        }
        for (text, shown) in [
            ("udp:53", "udp:[::]:53"),
            ("udp:127.0.0.1:53", "udp:127.0.0.1:53"),
            ("udp:[::1]:53", "udp:[::1]:53"),
        ] {
            let bound: Bound = text.parse().expect(text);
            assert!(bound.is_udp() && bound.port() == Some(53) && bound.tcp().is_none());
            assert_eq!(bound.to_string(), shown);
            assert_eq!(shown.parse(), Ok(bound));
        }
        for text in [
            "udp:",
            "udp:53",
            "udp:/x",
            "udp:@x",
            "udp:a:b",
            "udp:udp:h:1",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        for text in [
            "udp:",
            "udp:/x",
            "udp:@x",
            "udp:udp:53",
            "udp:[fe80::1]:53%eth0",
            "udp:h:1",
        ] {
            assert!(text.parse::<Bound>().is_err(), "{text}");
        }
        let named: Named<Bound> = "game=udp:19132".parse().expect("parses");
        assert!(named.value.is_udp() && named.name.as_deref() == Some("game"));
    }

    #[test]
    fn a_wildcard_leaves_addresses_to_others_of_its_kind_alone() {
        let bound = |text: &str| text.parse::<Bound>().expect(text);
        assert!(bound("udp:53").leaves_ipv4(&[bound("udp:127.0.0.1:53")]));
        assert!(!bound("udp:53").leaves_ipv4(&[bound("127.0.0.1:53")]));
        assert!(!bound("53").leaves_ipv4(&[bound("udp:127.0.0.1:53")]));
    }

    #[test]
    fn a_zone_may_stand_behind_the_port() {
        let address = "[fe80::1]:80%eth0".parse();
        assert_eq!(address, Ok(tcp("fe80::1%eth0", Some(80))));
    }

    #[test]
    fn what_cannot_be_a_target_is_refused() {
        let long = format!("/{}", "x".repeat(108));
        for text in [
            "",
            ":80",
            "80",
            "::1",
            "::1:80",
            "[::1",
            "[::1]80",
            "[x]:1",
            "a b:1",
            "a\0b:1",
            "h:",
            "h:0",
            "h:+1",
            "h:65536",
            "@",
            "h:1:2",
            "[fe80::]:801%eth0]:80",
            "[fe80::%a%b]:80",
            &long,
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_ties_an_address_to_a_listener() {
        let named: Named<Address> = "web=localhost:80".parse().expect("parses");
        assert_eq!(
            (named.name.as_deref(), named.value),
            (Some("web"), tcp("localhost", Some(80)))
        );
        let path: Named<Address> = "/run/a=b".parse().expect("parses");
        assert_eq!(path.name, None);
        assert!("=h:1".parse::<Named<Address>>().is_err());
        assert!("a:b=h:1".parse::<Named<Address>>().is_err());
    }

    #[test]
    fn a_url_may_leave_out_host_port_and_path() {
        for (text, host, path) in [
            ("http://h:8080/x?y=1", Some(tcp("h", Some(8080))), "/x?y=1"),
            ("http://h", Some(tcp("h", Some(80))), "/"),
            ("http://[::1]:81?q", Some(tcp("::1", Some(81))), "/?q"),
            ("http:///health", None, "/health"),
        ] {
            assert_eq!(
                text.parse(),
                Ok(HttpUrl {
                    host,
                    path: path.into()
                }),
                "{text}"
            );
        }
        for text in [
            "https://h/",
            "http://h:0/",
            "http://h/a b",
            "http://udp/",
            "h",
        ] {
            assert!(text.parse::<HttpUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_ipv6_wildcard_leaves_ipv4_to_an_address_of_the_same_port() {
        for (wildcard, other, leaves) in [
            ("[::]:80", "0.0.0.0:80", true),
            ("80", "192.0.2.1:80", true),
            ("[::]:80", "0.0.0.0:81", false),
            ("[::1]:80", "0.0.0.0:80", false),
            ("[::]:80", "[::1]:80", false),
            ("0.0.0.0:80", "0.0.0.0:80", false),
        ] {
            let [wildcard, other]: [Bound; 2] = [wildcard, other].map(|it| it.parse().unwrap());
            assert_eq!(wildcard.leaves_ipv4([&other]), leaves, "{wildcard} {other}");
        }
    }

    #[test]
    fn what_to_bind_is_given_in_numbers() {
        for (text, shown) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("8080", "[::]:8080"),
            ("localhost:1", "127.0.0.1:1"),
            ("/run/x", "/run/x"),
            ("@x", "@x"),
            ("[fe80::1%eth0]:80", "[fe80::1]:80%eth0"),
            ("[fe80::1]:80%eth0", "[fe80::1]:80%eth0"),
            ("[fe80::1]:80%2", "[fe80::1]:80%2"),
        ] {
            assert_eq!(
                text.parse::<Bound>().map(|bound| bound.to_string()),
                Ok(shown.into()),
                "{text}"
            );
        }
        for text in [
            "example.org:80",
            "127.0.0.1",
            "",
            "0",
            "+80",
            "65536",
            "[fe80::1%]:80",
            "[fe80::1]:80%",
            "[fe80::1%a]:80%b",
            "[fe80::1]:80%a b",
            "127.0.0.1%lo:80",
            "[fe80::1%eth0]",
        ] {
            assert!(text.parse::<Bound>().is_err(), "{text}");
        }
    }
}
