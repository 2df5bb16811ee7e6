//! The ClientHello, the first message of a TLS connection, read for the host that it names: TLS 1.3 is
//! RFC 8446, the name is RFC 6066. Pure: bytes in, bytes out.
//!
//! With Encrypted Client Hello it is the outer name. What the client wants to speak (ALPN) does not
//! matter: `acme-tls/1`, by which an authority checks a certificate (RFC 8737), goes by the name, too.

use std::net::Ipv4Addr;

/// What begins a connection is never longer, the headers of records included. A browser's has some
/// 1.8 kB, with keys against quantum computers, and comes in two segments.
pub const LONGEST: usize = 16 * 1024;

/// A whole ClientHello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The host, as it is written there; `None` if there is none, or something that is no host.
    pub name: Option<String>,
    version: [u8; 2],
}

/// Why a connection ends, as the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert {
    /// In one line.
    pub why: &'static str,
    description: u8,
    version: [u8; 2],
}

/// What is wrong: RFC 8446, section 6.
const UNEXPECTED_MESSAGE: u8 = 10;
const RECORD_OVERFLOW: u8 = 22;
const ILLEGAL_PARAMETER: u8 = 47;
const DECODE_ERROR: u8 = 50;
const PROTOCOL_VERSION: u8 = 70;
const UNRECOGNIZED_NAME: u8 = 112;

/// Types of records, messages, extensions, and names.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: &[u8] = &[0, 0];
const HOST_NAME: &[u8] = &[0];

const FATAL: u8 = 2;
/// What a record says that begins no connection, whatever is spoken (RFC 8446, section 5.1).
const TLS_1_2: [u8; 2] = [3, 3];
const LONGEST_RECORD: usize = 1 << 14;
const LONGEST_SESSION_ID: usize = 32;

impl Alert {
    const fn new(description: u8, why: &'static str) -> Self {
        Self {
            why,
            description,
            version: TLS_1_2,
        }
    }

    /// The record that says so.
    pub fn record(&self) -> [u8; 7] {
        let [major, minor] = self.version;
        [ALERT, major, minor, 0, 2, FATAL, self.description]
    }
}

impl ClientHello {
    /// The answer if no service has the name.
    pub fn unrecognized_name(&self) -> Alert {
        Alert {
            // One that knows only older versions would not understand it otherwise.
            version: self.version.min(TLS_1_2),
            ..Alert::new(UNRECOGNIZED_NAME, "no service has this name")
        }
    }
}

const MALFORMED: Alert = Alert::new(DECODE_ERROR, "the ClientHello is malformed");
const TOO_LONG: Alert = Alert::new(DECODE_ERROR, "the ClientHello is too long");

/// The ClientHello at the beginning of `bytes`, in one record or in several; `None` while it is
/// incomplete.
pub fn read(bytes: &[u8]) -> Result<Option<ClientHello>, Alert> {
    let mut rest = &bytes[..bytes.len().min(LONGEST)];
    let mut message = Vec::new();
    while let Some(&kind) = rest.first() {
        if kind != HANDSHAKE {
            return Err(Alert::new(UNEXPECTED_MESSAGE, "not TLS"));
        }
        if rest.get(1).is_some_and(|&major| major != 3) {
            return Err(Alert::new(PROTOCOL_VERSION, "not a version of TLS"));
        }
        let Some((&[_, _, _, high, low], body)) = rest.split_first_chunk() else {
            break;
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        match length {
            0 => return Err(Alert::new(UNEXPECTED_MESSAGE, "an empty record")),
            1..=LONGEST_RECORD => (),
            _ => return Err(Alert::new(RECORD_OVERFLOW, "a record is too long")),
        }
        let (fragment, after) = body.split_at(length.min(body.len()));
        message.extend_from_slice(fragment);
        if let Some(hello) = read_message(&message)? {
            return Ok(Some(hello));
        }
        rest = after;
    }
    if bytes.len() >= LONGEST {
        return Err(TOO_LONG);
    }
    Ok(None)
}

/// The ClientHello at the beginning of these fragments; `None` while it is incomplete.
fn read_message(message: &[u8]) -> Result<Option<ClientHello>, Alert> {
    if message.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
        return Err(Alert::new(UNEXPECTED_MESSAGE, "not a ClientHello"));
    }
    let Some((&[_, a, b, c], body)) = message.split_first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, a, b, c]);
    match usize::try_from(length) {
        Ok(length) if length <= LONGEST => body.get(..length).map(read_body).transpose(),
        _ => Err(TOO_LONG),
    }
}

fn read_body(body: &[u8]) -> Result<ClientHello, Alert> {
    let (version, extensions) = read_fields(body).ok_or(MALFORMED)?;
    let mut rest = extensions;
    let mut name = None;
    while !rest.is_empty() {
        let (kind, data) = read_extension(&mut rest).ok_or(MALFORMED)?;
        if kind != SERVER_NAME {
            continue;
        }
        let host = read_name(data).ok_or(MALFORMED)?;
        if name.replace(host).is_some() {
            return Err(Alert::new(ILLEGAL_PARAMETER, "two extensions have names"));
        }
    }
    Ok(ClientHello {
        name: name.and_then(host),
        version,
    })
}

/// The version, and the extensions: those before TLS 1.2 may have none.
fn read_fields(mut body: &[u8]) -> Option<([u8; 2], &[u8])> {
    let version = take(&mut body, 2)?.try_into().ok()?;
    let _random = take(&mut body, 32)?;
    let session_id = take_vector(&mut body, 1)?;
    let cipher_suites = take_vector(&mut body, 2)?;
    let compressions = take_vector(&mut body, 1)?;
    let is_valid = session_id.len() <= LONGEST_SESSION_ID
        && !cipher_suites.is_empty()
        && cipher_suites.len().is_multiple_of(2)
        && !compressions.is_empty();
    let extensions = match body.is_empty() {
        true => body,
        false => take_vector(&mut body, 2)?,
    };
    (is_valid && body.is_empty()).then_some((version, extensions))
}

/// The type of an extension, and what is in it.
fn read_extension<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    Some((take(rest, 2)?, take_vector(rest, 2)?))
}

/// The only name in a list, as others are read by none.
fn read_name(mut extension: &[u8]) -> Option<&[u8]> {
    let mut list = take_vector(&mut extension, 2)?;
    let kind = take(&mut list, 1)?;
    let name = take_vector(&mut list, 2)?;
    let is_only = list.is_empty() && extension.is_empty();
    (is_only && kind == HOST_NAME && !name.is_empty()).then_some(name)
}

/// The name, if it is a host: addresses are not allowed (RFC 6066, section 3).
fn host(name: &[u8]) -> Option<String> {
    let name = str::from_utf8(name).ok()?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_host = name.bytes().all(allowed) && name.parse::<Ipv4Addr>().is_err();
    is_host.then(|| name.to_owned())
}

/// The next bytes.
fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(taken)
}

/// The next bytes, behind their count, which has so many bytes itself.
fn take_vector<'a>(rest: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    let count = take(rest, width)?;
    let count = count
        .iter()
        .fold(0, |sum, &byte| sum << 8 | usize::from(byte));
    take(rest, count)
}

#[cfg(test)]
mod tests;
