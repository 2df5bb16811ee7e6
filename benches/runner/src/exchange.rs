//! What clients ask and services answer, over and over on one connection: the same bytes there and back, or HTTP.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// The longest head that a proxy may make of ours.
const HEAD: usize = 4096;

/// A request with HTTP.
pub(crate) const GET: &str =
    "GET /some/page HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";

/// A request and its response.
pub(crate) struct Exchange {
    pub(crate) request: Vec<u8>,
    pub(crate) asked: Form,
    pub(crate) response: Vec<u8>,
    pub(crate) answered: Form,
}

/// How a message ends.
#[derive(Clone, Copy)]
pub(crate) enum Form {
    /// After so many bytes.
    Bytes(usize),
    /// After a head and a body of so many bytes.
    Http(usize),
}

impl Exchange {
    /// So many bytes, sent back.
    pub(crate) fn echo(size: usize) -> Self {
        Self {
            request: vec![b'.'; size],
            asked: Form::Bytes(size),
            response: vec![b'.'; size],
            answered: Form::Bytes(size),
        }
    }

    /// A GET, answered with a body of so many bytes.
    pub(crate) fn get(size: usize) -> Self {
        let mut response = head(size);
        response.resize(response.len() + size, b'.');
        Self {
            request: GET.into(),
            asked: Form::Http(0),
            response,
            answered: Form::Http(size),
        }
    }

    /// A buffer that takes in any message of it at once.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        vec![0; self.request.len().max(self.response.len()) + HEAD]
    }

    /// Sends the request and waits for the response.
    pub(crate) fn ask(&self, stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
        stream.write_all(&self.request)?;
        receive(stream, buffer, self.answered)
    }

    /// Waits for a request and answers it.
    pub(crate) fn answer(&self, stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
        receive(stream, buffer, self.asked)?;
        stream.write_all(&self.response)
    }
}

/// The head of a response with a body of so many bytes.
pub(crate) fn head(size: usize) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nServer: bench\r\nDate: Sat, 28 Nov 2026 12:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n\r\n"
    )
    .into()
}

/// Waits for a whole message.
pub(crate) fn receive(stream: &mut TcpStream, buffer: &mut [u8], form: Form) -> io::Result<()> {
    let mut incoming = Incoming::default();
    loop {
        match stream.read(buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length if incoming.take(&buffer[..length], form)? => return Ok(()),
            _ => {}
        }
    }
}

/// How much of a message has come.
#[derive(Default)]
pub(crate) struct Incoming {
    /// A head that has not ended yet.
    head: Vec<u8>,
    /// How much of the body is missing, or of a message without a head.
    rest: Option<usize>,
}

impl Incoming {
    /// Takes what has come; says whether the message has ended, and begins anew then.
    pub(crate) fn take(&mut self, bytes: &[u8], form: Form) -> io::Result<bool> {
        let (expected, come) = match (self.rest, form) {
            (Some(rest), _) => (rest, bytes.len()),
            (None, Form::Bytes(size)) => (size, bytes.len()),
            (None, Form::Http(size)) => {
                // Nearly always the head comes in one piece, and is not copied.
                if !self.head.is_empty() {
                    self.head.extend_from_slice(bytes);
                }
                let come = if self.head.is_empty() {
                    bytes
                } else {
                    &self.head
                };
                match end_of_head(come) {
                    Some(end) => {
                        let body = come.len() - end;
                        check(&come[..end], size)?;
                        self.head.clear();
                        (size, body)
                    }
                    None => {
                        if self.head.is_empty() {
                            self.head.extend_from_slice(bytes);
                        }
                        return Ok(false);
                    }
                }
            }
        };
        let rest = expected
            .checked_sub(come)
            .ok_or_else(|| io::Error::other("more came than was asked for"))?;
        self.rest = (rest > 0).then_some(rest);
        Ok(rest == 0)
    }

    /// How much of the body is missing; `None` until the head has ended.
    pub(crate) fn rest(&self) -> Option<usize> {
        self.rest
    }
}

/// Where the body begins.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let blank = b"\r\n\r\n";
    let at = bytes.windows(blank.len()).position(|four| four == blank)?;
    Some(at + blank.len())
}

/// Whether it is a request or the service's own response, with a body of this size.
fn check(head: &[u8], size: usize) -> io::Result<()> {
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let length = lines.find_map(|line| {
        let (name, value) = line.split_at_checked("content-length:".len())?;
        let value = name
            .eq_ignore_ascii_case(b"content-length:")
            .then_some(value)?;
        str::from_utf8(value.trim_ascii()).ok()?.parse().ok()
    });
    let known = first.starts_with(b"GET ") || first.starts_with(b"HTTP/1.1 200 ");
    if known && length.unwrap_or(0) == size {
        return Ok(());
    }
    let first = String::from_utf8_lossy(first.trim_ascii());
    Err(io::Error::other(format!(
        "`{first}` with a Content-Length of {length:?}, not {size}"
    )))
}

#[cfg(test)]
mod tests {
    use super::{Exchange, Form, Incoming};

    #[test]
    fn a_message_ends_with_its_last_byte_however_it_comes() {
        for exchange in [Exchange::echo(64), Exchange::get(0), Exchange::get(64)] {
            for (message, form) in [
                (&exchange.request, exchange.asked),
                (&exchange.response, exchange.answered),
            ] {
                for step in 1..=message.len() {
                    let mut incoming = Incoming::default();
                    for _ in 0..2 {
                        let pieces = message.chunks(step);
                        let last = pieces.len() - 1;
                        for (index, piece) in pieces.enumerate() {
                            let whole = incoming.take(piece, form).expect("a message of ours");
                            assert_eq!(whole, index == last, "{index} of {last}, {step}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn another_answer_than_the_services_is_an_error() {
        let take = |text: &str| Incoming::default().take(text.as_bytes(), Form::Http(2));
        assert!(take("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n..").is_ok_and(|whole| whole));
        assert!(take("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\n").is_err());
        assert!(take("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(take("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n...").is_err());
    }
}
