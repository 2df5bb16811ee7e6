//! The heads of requests and responses: what they say, and how they are passed on. No byte of a head is
//! passed on as it came: it is parsed, judged, and written anew in one form (RFC 9112).

use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};

use httparse::Header;
use serde::{Deserialize, Serialize};

use super::framing::{Declared, Length};
use crate::config::address::Peer;

/// How long a head may be: with its fields, and the target in its first line.
pub const LONGEST: usize = 32 * 1024;
const LONGEST_TARGET: usize = 16 * 1024;

/// How many fields it may have.
const MOST_FIELDS: usize = 100;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// What a request asks for, as far as that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// A response without a body.
    Head,
    /// GET, which may ask for another protocol.
    Get,
    /// Another one that may be repeated (RFC 9110, section 9.2.2).
    Idempotent,
    /// One that may not.
    Other,
}

/// Why a message is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status with which it is answered.
    pub status: u16,
    /// What is wrong.
    pub why: &'static str,
}

impl Refusal {
    /// Answered with `status`.
    pub const fn new(status: u16, why: &'static str) -> Self {
        Self { status, why }
    }

    /// A request that is none.
    pub const fn bad(why: &'static str) -> Self {
        Self::new(400, why)
    }

    /// A response that is none.
    pub const fn gateway(why: &'static str) -> Self {
        Self::new(502, why)
    }
}

/// A head, and how long it was.
pub type Read<T> = Result<Option<(T, usize)>, Refusal>;

/// What a request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What it asks for.
    pub method: Method,
    /// The version in which the response is written.
    pub version: Version,
    /// Where its body ends.
    pub length: Length,
    /// Whether the client may send another one afterwards.
    pub persists: bool,
    /// Whether it asks for another protocol on this connection.
    pub upgrades: bool,
    /// Whether it proves who sends it for the whole connection, so that no other client may have that.
    pub is_private: bool,
}

impl Request {
    /// Whether it may be sent twice.
    pub fn is_idempotent(&self) -> bool {
        self.method != Method::Other
    }
}

/// What a response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Where its body ends.
    pub length: Length,
    /// Whether the target may be asked again on this connection.
    pub persists: bool,
    /// Whether the client's connection ends with it.
    pub closes: bool,
}

impl Response {
    /// Whether another one follows for the same request.
    pub fn is_interim(&self) -> bool {
        matches!(self.status, 100..200) && !self.upgrades()
    }

    /// Whether the connection has another protocol from now on.
    pub fn upgrades(&self) -> bool {
        self.status == 101
    }
}

/// Where a request comes from, for the fields that tell the target.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The client's address; over a Unix socket it has none.
    pub client: Option<IpAddr>,
    /// Whether what it says of others is passed on: it is a proxy of ours.
    pub is_trusted: bool,
    /// The target's address, for a client that names no host.
    pub target: &'a str,
}

/// What is written to a client beside what the target says.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    /// The connection ends with this response.
    pub closes: bool,
    /// How long it may be idle afterwards, in seconds, as the client is told.
    pub keep_alive: u64,
}

/// Fields that are not simply passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Host,
    Connection,
    ContentLength,
    TransferEncoding,
    Upgrade,
    Te,
    /// Of this connection only, and dropped.
    Hop,
    Forwarded,
    ForwardedFor,
    ForwardedProto,
    ForwardedHost,
    /// Others that a proxy of ours may tell.
    FromProxy,
    /// Passed on even if Connection names them.
    Kept,
    Other,
}

impl Field {
    /// What a name means. `_` counts as `-`, since applications take one for the other (CGI).
    fn of(name: &str) -> Self {
        // Of what is as long, or longer.
        let is = |known: &str| {
            let same = |(a, b): (u8, u8)| a.to_ascii_lowercase() == b || (a == b'_' && b == b'-');
            name.len() >= known.len() && name.bytes().zip(known.bytes()).all(same)
        };
        let known: &[(&str, Self)] = match name.len() {
            2 => &[("te", Self::Te)],
            4 => &[("host", Self::Host)],
            6 => &[("cookie", Self::Kept)],
            7 => &[("upgrade", Self::Upgrade)],
            9 => &[
                ("forwarded", Self::Forwarded),
                ("x-real-ip", Self::FromProxy),
            ],
            10 => &[("connection", Self::Connection), ("keep-alive", Self::Hop)],
            13 => &[("authorization", Self::Kept)],
            14 => &[
                ("content-length", Self::ContentLength),
                ("http2-settings", Self::Hop),
            ],
            15 => &[("x-forwarded-for", Self::ForwardedFor)],
            16 => &[
                ("proxy-connection", Self::Hop),
                ("x-forwarded-host", Self::ForwardedHost),
            ],
            17 => &[
                ("transfer-encoding", Self::TransferEncoding),
                ("x-forwarded-proto", Self::ForwardedProto),
            ],
            19 => &[("proxy-authorization", Self::Hop)],
            _ => &[],
        };
        match known.iter().find(|(known, _)| is(known)) {
            Some((_, field)) => *field,
            None if is("x-forwarded-") => Self::FromProxy,
            None => Self::Other,
        }
    }
}

/// Whether a field's value is about a scheme that authenticates connections, not requests (RFC 4559, section 6).
fn authenticates_connections(value: &[u8]) -> bool {
    ["ntlm", "negotiate"].iter().any(|scheme| {
        let start = value.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
    })
}

/// What the `Connection` fields of a head say.
#[derive(Debug, Default)]
struct Connection<'a> {
    values: Vec<&'a [u8]>,
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    /// It names fields.
    names: bool,
}

impl<'a> Connection<'a> {
    fn of(fields: &[Header<'a>]) -> Self {
        let mut this = Self::default();
        let connection = |field: &&Header<'_>| Field::of(field.name) == Field::Connection;
        for field in fields.iter().filter(connection) {
            for token in tokens(field.value) {
                match () {
                    () if token.eq_ignore_ascii_case(b"close") => this.close = true,
                    () if token.eq_ignore_ascii_case(b"keep-alive") => this.keep_alive = true,
                    () if token.eq_ignore_ascii_case(b"upgrade") => this.upgrade = true,
                    () => this.names = true,
                }
            }
            this.values.push(field.value);
        }
        this
    }

    /// Whether the field belongs to this connection only.
    fn drops(&self, name: &str) -> bool {
        let mut all = self.values.iter().copied().flat_map(tokens);
        self.names && all.any(|token| token.eq_ignore_ascii_case(name.as_bytes()))
    }

    fn persists(&self, version: Version) -> bool {
        match version {
            Version::Http10 => self.keep_alive && !self.close,
            Version::Http11 => !self.close,
        }
    }
}

/// The elements of a list (RFC 9110, section 5.6.1).
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let elements = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    elements.filter(|element| !element.is_empty())
}

/// HTTP/2 by an upgrade: it would be another protocol for the requests that follow.
fn is_h2c(protocol: &[u8]) -> bool {
    protocol.eq_ignore_ascii_case(b"h2c")
}

/// Room for the fields of a head.
pub type Room<'b> = [MaybeUninit<Header<'b>>; MOST_FIELDS];

/// Room that is empty.
pub const fn room<'b>() -> Room<'b> {
    [const { MaybeUninit::uninit() }; MOST_FIELDS]
}

/// A request as it came.
#[derive(Debug)]
pub struct Received<'h, 'b> {
    /// What it says.
    pub request: Request,
    method: &'b str,
    target: Target<'b>,
    host: Option<&'b [u8]>,
    fields: &'h [Header<'b>],
    connection: Connection<'b>,
    declared: Declared,
    /// The protocols that it asks for.
    protocols: Vec<&'b [u8]>,
    takes_trailers: bool,
}

/// Reads the head of a request. `None` is a part of one.
pub fn request<'h, 'b>(bytes: &'b [u8], room: &'h mut Room<'b>) -> Read<Received<'h, 'b>> {
    let mut head = httparse::Request::new(&mut []);
    let length = match head.parse_with_uninit_headers(bytes, room) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < LONGEST => return Ok(None),
        Ok(httparse::Status::Partial) if !bytes.contains(&b'\n') => {
            return Err(Refusal::new(414, "the target is too long"));
        }
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::new(431, "the head is too large"));
        }
        Err(httparse::Error::Version) => return Err(Refusal::new(505, "not HTTP/1.0 or HTTP/1.1")),
        Err(_) => return Err(Refusal::bad("not HTTP")),
    };
    if length > LONGEST {
        return Err(Refusal::new(431, "the head is too large"));
    }
    if !has_clean_lines(&bytes[..length]) {
        return Err(Refusal::bad("a line feed without a carriage return"));
    }
    let version = version(head.version);
    let method = head.method.unwrap_or_default();
    let target = target(method, head.path.unwrap_or_default())?;
    let declared = Declared::default();
    let received = judge(method, target, version, &*head.headers, declared)?;
    Ok(Some((received, length)))
}

/// A request whose head hyper has read.
#[derive(Clone, Copy, Debug)]
pub struct Parsed<'b> {
    /// Its method.
    pub method: &'b str,
    /// Its target: a path, except in HTTP/1 as in [`request`].
    pub target: &'b str,
    /// What is known of its version: HTTP/2 counts as HTTP/1.1.
    pub version: Version,
    /// Whether a body follows.
    pub has_body: bool,
}

/// Judges it as [`request`] does. It asks for no other protocol.
pub fn parsed<'h, 'b>(
    parsed: &Parsed<'b>,
    fields: &'h [Header<'b>],
) -> Result<Received<'h, 'b>, Refusal> {
    if fields.len() > MOST_FIELDS {
        return Err(Refusal::new(431, "the head is too large"));
    }
    let target = target(parsed.method, parsed.target)?;
    let frames = [Field::ContentLength, Field::TransferEncoding];
    let mut declared = Declared::default();
    if parsed.has_body && !fields.iter().any(|it| frames.contains(&Field::of(it.name))) {
        declared.transfer_encoding(b"chunked");
    }
    let mut received = judge(parsed.method, target, parsed.version, fields, declared)?;
    received.protocols.clear();
    received.request.upgrades = false;
    Ok(received)
}

fn judge<'h, 'b>(
    method: &'b str,
    target: Target<'b>,
    version: Version,
    fields: &'h [Header<'b>],
    mut declared: Declared,
) -> Result<Received<'h, 'b>, Refusal> {
    let connection = Connection::of(fields);
    let (mut hosts, mut protocols, mut takes_trailers) = (Vec::new(), Vec::new(), false);
    let mut is_private = false;
    for field in fields {
        match Field::of(field.name) {
            // Such a name is not the field's.
            kind if kind != Field::Other && field.name.contains('_') => (),
            Field::Host => hosts.push(field.value),
            Field::ContentLength => declared.content_length(field.value),
            Field::TransferEncoding => declared.transfer_encoding(field.value),
            Field::Upgrade => protocols.extend(tokens(field.value).filter(|it| !is_h2c(it))),
            Field::Te => takes_trailers |= tokens(field.value).any(|it| it == b"trailers"),
            Field::Kept if field.name.eq_ignore_ascii_case("Authorization") => {
                is_private |= authenticates_connections(field.value);
            }
            Field::Connection
            | Field::Hop
            | Field::Forwarded
            | Field::ForwardedFor
            | Field::ForwardedProto
            | Field::ForwardedHost
            | Field::FromProxy
            | Field::Kept
            | Field::Other => (),
        }
    }
    let body = declared.request(version)?;
    let host = match hosts[..] {
        // Also where the target names one (RFC 9112, section 3.2).
        [] if version == Version::Http11 => {
            return Err(Refusal::bad("no Host"));
        }
        [] => None,
        [host] if is_host(host) => Some(host),
        [_] => return Err(Refusal::bad("Host is no host")),
        _ => return Err(Refusal::bad("more than one Host")),
    };
    let may_upgrade = connection.upgrade && version == Version::Http11 && method == "GET";
    if !may_upgrade || body != Length::Exact(0) {
        protocols.clear();
    }
    let request = Request {
        method: match method {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "OPTIONS" | "TRACE" | "PUT" | "DELETE" => Method::Idempotent,
            _ => Method::Other,
        },
        version,
        length: body,
        persists: connection.persists(version),
        upgrades: !protocols.is_empty(),
        is_private,
    };
    Ok(Received {
        request,
        method,
        host: target.host.map(str::as_bytes).or(host),
        target,
        fields,
        connection,
        declared,
        protocols,
        takes_trailers,
    })
}

impl Received<'_, '_> {
    /// The method.
    pub fn method(&self) -> &str {
        self.method
    }

    /// The host that it asks for, with its port; a client of HTTP/1.0 need not say it.
    pub fn host(&self) -> Option<&[u8]> {
        self.host
    }

    /// The path that it asks for, without the query.
    pub fn path(&self) -> &str {
        let (before, path) = self.target.path;
        match before {
            "" => path.split('?').next().unwrap_or_default(),
            before => before,
        }
    }

    /// What it asks for, as seen from there (RFC 3986, section 4.2): also right behind a proxy that takes a
    /// prefix away.
    pub fn reference(&self) -> String {
        let (before, path) = self.target.path;
        let target = path.split('#').next().unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        let start = match before {
            "" => path.rfind('/').map_or(0, |at| at + 1),
            _ => 0,
        };
        format!("./{}", &target[start..])
    }

    /// The first field of this name.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        let mut fields = self.fields.iter();
        let field = fields.find(|field| field.name.eq_ignore_ascii_case(name))?;
        Some(field.value)
    }

    /// The client that it comes from, as a proxy of ours tells: the last one in X-Forwarded-For that is
    /// none of these proxies itself.
    pub fn client(&self, is_proxy: impl Fn(Peer) -> bool) -> Option<Peer> {
        let told = self.fields.iter().rev();
        let told = told.filter(|field| field.name.eq_ignore_ascii_case("X-Forwarded-For"));
        let mut earliest = None;
        for field in told {
            let addresses: Vec<&[u8]> = tokens(field.value).collect();
            for address in addresses.into_iter().rev() {
                // Behind what is no address nothing is known.
                let Ok(address) = std::str::from_utf8(address) else {
                    return earliest;
                };
                let bare = address.trim_matches(['[', ']']);
                let client = match (bare.parse::<IpAddr>(), address.parse::<SocketAddr>()) {
                    (Ok(ip), _) => Peer::Tcp(SocketAddr::new(ip, 0)),
                    (_, Ok(address)) => Peer::Tcp(address),
                    (Err(_), Err(_)) => return earliest,
                };
                if !is_proxy(client) {
                    return Some(client);
                }
                earliest = Some(client);
            }
        }
        earliest
    }

    /// The path that it asks for, with the query.
    pub fn target(&self) -> String {
        let (before, path) = self.target.path;
        format!("{before}{path}")
    }

    /// Writes what is passed on to the target.
    pub fn write(&self, origin: &Origin<'_>, out: &mut Vec<u8>) {
        let (before, path) = self.target.path;
        for piece in [self.method, " ", before, path, " HTTP/1.1\r\n"] {
            out.extend_from_slice(piece.as_bytes());
        }
        self.pass(origin, |name, value| write_field(out, name, value));
        out.extend_from_slice(b"\r\n");
    }

    /// Hands out the fields that are passed on to the target, `Host` first.
    pub fn pass(&self, origin: &Origin<'_>, mut give: impl FnMut(&str, &[u8])) {
        let give = &mut give;
        let host = self.host.unwrap_or(origin.target.as_bytes());
        give("Host", host);
        for field in self.fields {
            let kind = Field::of(field.name);
            let is_passed = match kind {
                Field::Other => !self.connection.drops(field.name),
                Field::Kept => !field.name.contains('_'),
                Field::FromProxy => origin.is_trusted && !field.name.contains('_'),
                Field::Host
                | Field::Connection
                | Field::ContentLength
                | Field::TransferEncoding
                | Field::Upgrade
                | Field::Te
                | Field::Hop
                | Field::Forwarded
                | Field::ForwardedFor
                | Field::ForwardedProto
                | Field::ForwardedHost => false,
            };
            if is_passed {
                give(field.name, field.value);
            }
        }
        give_length(give, self.declared, self.request.length);
        if !self.protocols.is_empty() {
            give("Connection", b"upgrade");
            give("Upgrade", &self.protocols.join(&b", "[..]));
        } else if self.takes_trailers {
            give("Connection", b"te");
            give("TE", b"trailers");
        }
        forward(give, self.fields, origin, host);
    }
}

/// Tells the target the client's address, and what the client has asked for.
fn forward(
    give: &mut impl FnMut(&str, &[u8]),
    fields: &[Header<'_>],
    origin: &Origin<'_>,
    host: &[u8],
) {
    let told = |kind: Field| {
        let of_kind = move |field: &&Header<'_>| {
            origin.is_trusted && Field::of(field.name) == kind && !field.name.contains('_')
        };
        fields.iter().filter(of_kind).map(|field| field.value)
    };
    let mut chain = told(Field::ForwardedFor)
        .collect::<Vec<_>>()
        .join(&b", "[..]);
    if let Some(client) = origin.client {
        if !chain.is_empty() {
            chain.extend_from_slice(b", ");
        }
        chain.extend_from_slice(client.to_string().as_bytes());
    }
    if !chain.is_empty() {
        give("X-Forwarded-For", &chain);
    }
    let protocol = told(Field::ForwardedProto).next().unwrap_or(b"http");
    give("X-Forwarded-Proto", protocol);
    let named = told(Field::ForwardedHost).next().unwrap_or(host);
    give("X-Forwarded-Host", named);
    // RFC 7239 takes the place of these three where a proxy of ours uses it.
    let mut elements: Vec<&[u8]> = told(Field::Forwarded).collect();
    if !elements.is_empty() {
        let own = match origin.client {
            Some(IpAddr::V6(client)) => format!("for=\"[{client}]\";proto=http"),
            Some(IpAddr::V4(client)) => format!("for={client};proto=http"),
            None => "for=unknown;proto=http".to_owned(),
        };
        elements.push(own.as_bytes());
        give("Forwarded", &elements.join(&b", "[..]));
    }
}

/// Reads the head of a target's response to `request`, and writes what is passed on to the client.
/// `None` is a part of one.
pub fn response(
    bytes: &[u8],
    request: &Request,
    reply: &Reply,
    out: &mut Vec<u8>,
) -> Read<Response> {
    let mut room = room();
    let mut head = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut head, bytes, &mut room);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) if length <= LONGEST => length,
        Ok(httparse::Status::Partial) if bytes.len() < LONGEST => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::gateway("the head of its response is too large"));
        }
        Err(_) => return Err(Refusal::gateway("its response is not HTTP/1")),
    };
    let theirs = version(head.version);
    let status = head.code.unwrap_or_default();
    let fields = &*head.headers;
    let connection = Connection::of(fields);
    let mut declared = Declared::default();
    let (mut protocol, mut is_private) = (None, false);
    for field in fields {
        match Field::of(field.name) {
            _ if field.name.contains('_') => (),
            Field::ContentLength => declared.content_length(field.value),
            Field::TransferEncoding => declared.transfer_encoding(field.value),
            Field::Upgrade => protocol = Some(field.value),
            Field::Other if field.name.eq_ignore_ascii_case("WWW-Authenticate") => {
                is_private |= authenticates_connections(field.value);
            }
            Field::Host
            | Field::Connection
            | Field::Te
            | Field::Hop
            | Field::Forwarded
            | Field::ForwardedFor
            | Field::ForwardedProto
            | Field::ForwardedHost
            | Field::FromProxy
            | Field::Kept
            | Field::Other => (),
        }
    }
    let body = declared.response(theirs, status, request.method)?;
    let switches = status == 101;
    let names_one = protocol.is_some_and(|protocol| !is_h2c(protocol));
    if switches && !(request.upgrades && connection.upgrade && names_one) {
        return Err(Refusal::gateway(
            "it switches to a protocol that it was not asked for",
        ));
    }
    // To a client that knows no chunks the end of the connection is the end of the body.
    let ends = match body {
        Length::Exact(_) => false,
        Length::Chunked => request.version == Version::Http10,
        Length::UntilClose => true,
    };
    let response = Response {
        status,
        length: body,
        persists: connection.persists(theirs) && body != Length::UntilClose && !is_private,
        closes: reply.closes || ends,
    };

    let digits = [100, 10, 1].map(|unit| b'0' + (status / unit % 10) as u8);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(&digits);
    out.push(b' ');
    out.extend_from_slice(head.reason.unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    for field in fields {
        if is_returned(field.name, &connection) {
            write_field(out, field.name, field.value);
        }
    }
    match (request.version, body) {
        (Version::Http10, Length::Chunked) => (),
        // What a body would have; where there can be none, it may not be said (RFC 9110, section 8.6).
        (_, Length::Exact(0)) if !matches!(status, 100..200 | 204) => {
            if let Some(length) = declared.length() {
                write_number(out, "Content-Length", length);
            }
        }
        (_, Length::Exact(0)) => (),
        _ => give_length(
            &mut |name, value| write_field(out, name, value),
            declared,
            body,
        ),
    }
    match (
        switches,
        response.is_interim(),
        response.closes,
        request.version,
    ) {
        (true, ..) => {
            write_field(out, "Connection", b"upgrade");
            write_field(out, "Upgrade", protocol.unwrap_or_default());
        }
        (_, true, ..) => (),
        (_, _, true, _) => write_field(out, "Connection", b"close"),
        (_, _, false, version) => {
            if version == Version::Http10 {
                write_field(out, "Connection", b"keep-alive");
            }
            let timeout = format!("timeout={}", reply.keep_alive);
            write_field(out, "Keep-Alive", timeout.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
    Ok(Some((response, length)))
}

/// Whether the field of a response is passed on to the client as it is.
fn is_returned(name: &str, connection: &Connection<'_>) -> bool {
    match Field::of(name) {
        Field::Hop | Field::Connection | Field::ContentLength | Field::TransferEncoding => false,
        Field::Upgrade => false,
        Field::Other => !connection.drops(name),
        Field::Host
        | Field::Te
        | Field::Forwarded
        | Field::ForwardedFor
        | Field::ForwardedProto
        | Field::ForwardedHost
        | Field::FromProxy
        | Field::Kept => true,
    }
}

/// Hands out the fields that are passed on of a target's response, whose head hyper has read, to a
/// request with this method.
pub fn returned(
    (status, version): (u16, Version),
    fields: &[Header<'_>],
    method: Method,
    mut give: impl FnMut(&str, &[u8]),
) -> Result<(), Refusal> {
    let mut declared = Declared::default();
    for field in fields {
        match field.name.to_ascii_lowercase().as_str() {
            "content-length" => declared.content_length(field.value),
            "transfer-encoding" => declared.transfer_encoding(field.value),
            _ => (),
        }
    }
    declared.response(version, status, method)?;
    if status == 101 {
        return Err(Refusal::gateway(
            "it switches to a protocol that it was not asked for",
        ));
    }
    let connection = Connection::of(fields);
    let returned = fields.iter();
    for field in returned.filter(|field| is_returned(field.name, &connection)) {
        give(field.name, field.value);
    }
    if let Some(length) = declared.length().filter(|_| status != 204) {
        give("Content-Length", length.to_string().as_bytes());
    }
    Ok(())
}

/// A request's target, as it is passed on.
#[derive(Debug)]
struct Target<'a> {
    /// The host that it names itself (absolute form).
    host: Option<&'a str>,
    /// The path, in two pieces.
    path: (&'static str, &'a str),
}

/// Takes apart the target of a request (RFC 9112, section 3.2).
fn target<'a>(method: &str, target: &'a str) -> Result<Target<'a>, Refusal> {
    if target.len() > LONGEST_TARGET {
        return Err(Refusal::new(414, "the target is too long"));
    }
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Refusal::bad("the target has characters that a URI has not"));
    }
    if method == "CONNECT" {
        return Err(Refusal::new(405, "CONNECT is for other proxies"));
    }
    let of_path = |path| Target {
        host: None,
        path: ("", path),
    };
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok(of_path(target));
    }
    let schemes = ["http://", "https://"];
    let rest = schemes.iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    });
    let rest = rest.ok_or(Refusal::bad("the target is no path"))?;
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if !is_host(host.as_bytes()) {
        return Err(Refusal::bad("the target has no host"));
    }
    let path = match path {
        "" if method == "OPTIONS" => ("*", ""),
        _ if path.starts_with('/') => ("", path),
        _ => ("/", path),
    };
    Ok(Target {
        host: Some(host),
        path,
    })
}

/// Whether this can be a host with its port (RFC 3986, section 3.2): a name or a number, and nothing that
/// another reader may take for a user, a path or a second host.
fn is_host(text: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(byte);
    !text.is_empty() && text.iter().all(allowed)
}

fn version(minor: Option<u8>) -> Version {
    match minor {
        Some(0) => Version::Http10,
        _ => Version::Http11,
    }
}

/// Whether every line ends with CR LF: where some take a lone LF for an end, others do not.
pub(super) fn has_clean_lines(head: &[u8]) -> bool {
    let before = std::iter::once(&0).chain(head);
    head.iter()
        .zip(before)
        .all(|(&byte, &before)| byte != b'\n' || before == b'\r')
}

/// Whether a field may follow a body (RFC 9110, section 6.5.1): nothing that says where messages end,
/// where they go, who sends them or how they are to be read.
pub fn may_trail(name: &str) -> bool {
    const NEVER: [&str; 22] = [
        "age",
        "authorization",
        "cache-control",
        "content-encoding",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "expect",
        "expires",
        "location",
        "max-forwards",
        "pragma",
        "proxy-authenticate",
        "range",
        "retry-after",
        "set-cookie",
        "trailer",
        "vary",
        "via",
        "warning",
        "www-authenticate",
    ];
    let never = NEVER.iter().any(|never| name.eq_ignore_ascii_case(never));
    let is_conditional = name
        .get(..3)
        .is_some_and(|start| start.eq_ignore_ascii_case("if-"));
    Field::of(name) == Field::Other && !never && !is_conditional
}

/// Says where the body ends.
fn give_length(give: &mut impl FnMut(&str, &[u8]), declared: Declared, body: Length) {
    match body {
        // A body of length 0 is not the same as none, to some servers.
        Length::Exact(length) if length > 0 || declared.length().is_some() => {
            give("Content-Length", length.to_string().as_bytes());
        }
        Length::Chunked => give("Transfer-Encoding", b"chunked"),
        Length::Exact(_) | Length::UntilClose => (),
    }
}

fn write_number(out: &mut Vec<u8>, name: &str, number: u64) {
    write_field(out, name, number.to_string().as_bytes());
}

/// Writes one field, in one form.
pub(super) fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.trim_ascii());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
