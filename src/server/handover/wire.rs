//! How connections are written down that go from one process to the next: a line of JSON, followed
//! by nothing; their sockets go along with it. Pure: what is read may come from another version.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::net::proxy_header::Origin;
use crate::net::relay::End;

/// The version of the format. One that reads another one's lines keeps its number.
pub const VERSION: u64 = 4;

/// Earlier versions, which know nothing of datagrams, of the control socket, or of HTTP either. Connections
/// that they know are written for them.
const WITHOUT_FLOWS: u64 = 3;
const WITHOUT_CONTROL: u64 = 2;
const WITHOUT_HTTP: u64 = 1;

/// Connections of one message at most: the kernel takes 253 descriptors at once (SCM_MAX_FD), and
/// each connection has two.
pub const MOST: usize = 100;

/// No line is longer: more would be split by the kernel (`unix_stream_sendmsg`).
pub const LONGEST: usize = 16 * 1024;

/// One connection. Its descriptors are the client's socket, then the target's if it is relayed. A flow of
/// datagrams has the target's alone, and none while it waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// The name of the listener that it came in by.
    pub listener: String,
    /// The client's address; none over a Unix socket.
    pub peer: Option<SocketAddr>,
    /// The PROXY header that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<Origin>,
    /// It is known to be a client's.
    pub identified: bool,
    /// The name of its service, if that has one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub service: String,
    /// How many bytes of the client were read and not used yet: they are in the file, too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub said: u64,
    /// How many bytes there are in it about the request that is under way; that one is relayed, too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub exchange: u64,
    /// How far it is; none while it waits for its target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relayed: Option<Relayed>,
    /// It is one of the control socket; with what it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Control>,
    /// It is a flow of datagrams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<Flow>,
}

/// What is known of a flow. What it holds is in the file as what the client has said: each datagram behind its
/// length, two bytes with the higher one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The address that the client sends to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<IpAddr>,
    /// It has a socket that is connected to the target.
    pub connected: bool,
    /// How many bytes of the client were passed on.
    pub up: u64,
    /// How many of the target.
    pub down: u64,
}

/// The datagrams that a flow holds, as they are written.
pub fn write_held(held: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for datagram in held {
        let length = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
        bytes.extend(length.to_be_bytes());
        bytes.extend(&datagram[..length.into()]);
    }
    bytes
}

/// The datagrams that are written so; what is not is left out.
pub fn read_held(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut held = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let Some((datagram, rest)) = rest.split_at_checked(u16::from_be_bytes(*length).into())
        else {
            break;
        };
        held.push(datagram.to_vec());
        bytes = rest;
    }
    held
}

/// What is known of a connection of the control socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// It holds its service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
}

/// How it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Why.
    pub reason: String,
    /// For how many milliseconds more; none is for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<u64>,
    /// The end is to be told.
    #[serde(default, skip_serializing_if = "is_default")]
    pub replies: bool,
}

/// How far a relayed connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relayed {
    /// From the client to the target.
    pub up: Way,
    /// From the target to the client.
    pub down: Way,
    /// How long no byte had moved, in milliseconds.
    pub idle: u64,
}

/// How far one of its ways is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// How many bytes were passed on.
    pub total: u64,
    /// How many were read and not passed on: they are in a file, one connection's after the other's,
    /// that is the last descriptor of a message if it has any.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rest: u64,
    /// How it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    /// Bytes were still unsent then.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unsent: bool,
}

/// Why a line cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Another version has written it.
    #[error("they are of version {0} of the format, and this wakeport reads up to {VERSION}")]
    Version(u64),
    /// It is no line of ours.
    #[error("they are not written as wakeport does")]
    Malformed,
}

#[derive(Serialize, Deserialize)]
struct Line<T> {
    version: u64,
    connections: T,
}

#[derive(Deserialize)]
struct AnyLine {
    version: u64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Connection {
    /// How many sockets it has.
    pub fn sockets(&self) -> usize {
        match self.flow {
            Some(flow) => usize::from(flow.connected),
            None => 1 + usize::from(self.relayed.is_some()),
        }
    }

    /// How many bytes it has in the file: of the client, of both ways, about the request.
    pub fn rests(&self) -> [u64; 4] {
        let way = |way: fn(Relayed) -> Way| self.relayed.map_or(0, |relayed| way(relayed).rest);
        [
            self.said,
            way(|relayed| relayed.up),
            way(|relayed| relayed.down),
            self.exchange,
        ]
    }

    /// The version that knows all about it.
    fn version(&self) -> u64 {
        match (self.said, self.exchange, &self.control) {
            _ if self.flow.is_some() => VERSION,
            (_, _, Some(_)) => WITHOUT_FLOWS,
            (0, 0, None) => WITHOUT_HTTP,
            (_, _, None) => WITHOUT_CONTROL,
        }
    }
}

/// How many descriptors go along with these connections.
pub fn descriptors(connections: &[Connection]) -> usize {
    let sockets: usize = connections.iter().map(Connection::sockets).sum();
    let has_rest = |connection: &Connection| connection.rests() != [0; 4];
    sockets + usize::from(connections.iter().any(has_rest))
}

/// The line for these connections, of one version, its end included.
pub fn write(connections: &[Connection]) -> Vec<u8> {
    let line = Line {
        version: connections.first().map_or(VERSION, Connection::version),
        connections,
    };
    let mut line = serde_json::to_vec(&line).unwrap_or_default();
    line.push(b'\n');
    line
}

/// How many of these connections, from the first one on, go into one message: at least one, and of one
/// version.
pub fn fitting(connections: &[Connection]) -> usize {
    let most = connections.chunk_by(|a, b| a.version() == b.version());
    let most = most.map(<[_]>::len).next().unwrap_or(0).min(MOST);
    let sizes = connections[..most].iter().map(|connection| {
        let text = serde_json::to_vec(connection);
        text.map_or(0, |text| text.len() + 1)
    });
    let room = LONGEST - write(&[]).len();
    let ends = sizes.scan(0, |end, size| {
        *end += size;
        Some(*end)
    });
    ends.take_while(|&end| end <= room).count().max(1).min(most)
}

/// The connections of a line, which may have its end or not.
pub fn read(line: &[u8]) -> Result<Vec<Connection>, Unreadable> {
    let malformed = |_| Unreadable::Malformed;
    let AnyLine { version } = serde_json::from_slice(line).map_err(malformed)?;
    if !(WITHOUT_HTTP..=VERSION).contains(&version) {
        return Err(Unreadable::Version(version));
    }
    let Line { connections, .. } = serde_json::from_slice(line).map_err(malformed)?;
    Ok(connections)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::relay::Cause;

    fn connection(listener: &str) -> Connection {
        let way = Way {
            total: 1 << 40,
            rest: 65_536,
            end: Some(End::SourceBroken(Cause::TimedOut)),
            unsent: true,
        };
        Connection {
            listener: listener.into(),
            peer: Some(([192, 0, 2, 1], 4711).into()),
            header: Some(Origin::Tcp {
                client: ([192, 0, 2, 1], 4711).into(),
                server: ([192, 0, 2, 2], 443).into(),
            }),
            identified: true,
            service: String::new(),
            said: 0,
            exchange: 0,
            control: None,
            flow: None,
            relayed: Some(Relayed {
                up: way,
                down: Way {
                    end: Some(End::Finished),
                    ..way
                },
                idle: 1500,
            }),
        }
    }

    /// What is written now is what later versions find.
    #[test]
    fn the_format_is_as_it_always_was() {
        let waits = Connection {
            peer: None,
            header: None,
            identified: false,
            relayed: None,
            ..connection("web")
        };
        let line = write(&[waits.clone(), connection("web")]);
        let expected = concat!(
            r#"{"version":1,"connections":[{"listener":"web","peer":null,"identified":false},"#,
            r#"{"listener":"web","peer":"192.0.2.1:4711","#,
            r#""header":{"tcp":{"client":"192.0.2.1:4711","server":"192.0.2.2:443"}},"#,
            r#""identified":true,"relayed":{"up":{"total":1099511627776,"rest":65536,"#,
            r#""end":{"source-broken":"timed-out"},"unsent":true},"#,
            r#""down":{"total":1099511627776,"rest":65536,"end":"finished","unsent":true},"#,
            r#""idle":1500}}]}"#,
            "\n"
        );
        assert_eq!(String::from_utf8_lossy(&line), expected);
        let connections = [waits, connection("web")];
        assert_eq!(read(&line).as_deref(), Ok(&connections[..]));
        assert_eq!(descriptors(&connections), 4, "three sockets and the file");
    }

    /// The version before reads the lines of those that it knows.
    #[test]
    fn connections_of_two_versions_go_into_two_messages() {
        let asks = Connection {
            relayed: None,
            said: 17,
            ..connection("web")
        };
        let exchanges = Connection {
            exchange: 90,
            ..connection("web")
        };
        let all = [connection("web"), connection("web"), asks, exchanges];
        assert_eq!((fitting(&all), fitting(&all[2..])), (2, 2));
        let new = String::from_utf8(write(&all[2..])).expect("text");
        assert!(new.starts_with(r#"{"version":2,"#), "{new}");
        assert_eq!(read(new.as_bytes()).as_deref(), Ok(&all[2..]));
        assert_eq!(descriptors(&all[2..]), 4);
    }

    /// Earlier versions keep the other connections.
    #[test]
    fn connections_of_the_control_socket_are_of_a_version_of_their_own() {
        let control = |held| Connection {
            peer: None,
            header: None,
            relayed: None,
            control: Some(Control { held }),
            ..connection("wakeport-control")
        };
        let held = Held {
            reason: "backup".into(),
            left: Some(1500),
            replies: true,
        };
        let all = [connection("web"), control(Some(held)), control(None)];
        assert_eq!((fitting(&all), fitting(&all[1..])), (1, 2));
        let expected = concat!(
            r#"{"version":3,"connections":[{"listener":"wakeport-control","peer":null,"#,
            r#""identified":true,"control":{"held":{"reason":"backup","left":1500,"#,
            r#""replies":true}}},{"listener":"wakeport-control","peer":null,"#,
            r#""identified":true,"control":{}}]}"#,
            "\n"
        );
        assert_eq!(String::from_utf8_lossy(&write(&all[1..])), expected);
        assert_eq!(read(expected.as_bytes()).as_deref(), Ok(&all[1..]));
        assert_eq!(descriptors(&all[1..]), 2);
    }

    #[test]
    fn flows_are_of_a_version_of_their_own() {
        let flow = |connected| Connection {
            header: None,
            relayed: None,
            flow: Some(Flow {
                local: Some(IpAddr::from([192, 0, 2, 2])),
                connected,
                up: 7,
                down: 9,
            }),
            ..connection("game")
        };
        let waits = Connection {
            said: 12,
            ..flow(false)
        };
        let all = [connection("web"), flow(true), waits];
        assert_eq!((fitting(&all), fitting(&all[1..])), (1, 2));
        let expected = concat!(
            r#"{"version":4,"connections":[{"listener":"game","peer":"192.0.2.1:4711","#,
            r#""identified":true,"flow":{"local":"192.0.2.2","connected":true,"up":7,"down":9}},"#,
            r#"{"listener":"game","peer":"192.0.2.1:4711","identified":true,"said":12,"#,
            r#""flow":{"local":"192.0.2.2","connected":false,"up":7,"down":9}}]}"#,
            "\n"
        );
        assert_eq!(String::from_utf8_lossy(&write(&all[1..])), expected);
        assert_eq!(read(expected.as_bytes()).as_deref(), Ok(&all[1..]));
        assert_eq!(descriptors(&all[1..]), 2, "a socket and the file");
        let held = [b"one".to_vec(), Vec::new(), vec![7; 65_507]];
        let bytes = write_held(&held);
        assert_eq!(read_held(&bytes), held);
        assert_eq!(read_held(&bytes[..bytes.len() - 1]), held[..2]);
    }

    #[test]
    fn another_version_is_named_whatever_its_lines_hold() {
        for (line, why) in [
            (
                &b"{\"version\":5,\"sessions\":7}\n"[..],
                Unreadable::Version(5),
            ),
            (
                b"{\"version\":0,\"connections\":[]}",
                Unreadable::Version(0),
            ),
            (b"{\"version\":1}", Unreadable::Malformed),
            (
                b"{\"version\":-1,\"connections\":[]}",
                Unreadable::Malformed,
            ),
            (b"\xff\xfe", Unreadable::Malformed),
            (b"", Unreadable::Malformed),
        ] {
            assert_eq!(read(line), Err(why));
        }
    }

    #[test]
    fn a_message_is_no_larger_than_the_kernel_passes_on_whole() {
        for name in ["w", &"long-name".repeat(28)] {
            let connections = vec![connection(name); 1000];
            let (mut rest, mut messages) = (&connections[..], 0);
            while !rest.is_empty() {
                let (these, others) = rest.split_at(fitting(rest));
                assert!(write(these).len() <= LONGEST && descriptors(these) <= 253);
                (rest, messages) = (others, messages + 1);
            }
            assert!(messages < 60, "{messages} messages");
        }
        assert_eq!(fitting(&vec![connection("w"); 1]), 1);
        let short = Connection {
            header: None,
            relayed: None,
            ..connection("w")
        };
        assert_eq!(fitting(&vec![short; 1000]), MOST);
    }
}
