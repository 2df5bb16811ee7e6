//! Bodies in chunks (RFC 9112, section 7.1), read strictly and written anew: each chunk as large as it
//! came, without extensions, and trailers only of fields that may be there.

use serde::{Deserialize, Serialize};

use super::head;

/// How far a body is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Chunks {
    state: State,
    /// It is passed on in chunks; otherwise as what is in them.
    keeps_chunks: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum State {
    /// Of a chunk's size so many digits were read.
    Size {
        digits: u8,
        size: u64,
    },
    /// Behind it so many bytes of extensions.
    Extension {
        seen: u16,
        size: u64,
    },
    /// The line feed of that line is missing.
    SizeEnd(u64),
    /// So many bytes of the chunk are missing.
    Data(u64),
    /// The line feed behind them, and the carriage return before it if `false`.
    DataEnd(bool),
    /// The trailers, as far as they were read.
    Trailers(Vec<u8>),
    Done,
}

/// A body that is not one in chunks: why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// More digits than a size of up to 2^63 - 1 needs.
const MOST_DIGITS: u8 = 16;

/// Nothing is known that uses extensions; they are dropped.
const LONGEST_EXTENSION: u16 = 256;

/// How long all trailers of a body may be.
const LONGEST_TRAILERS: usize = 8 * 1024;

/// How many of them there may be.
const MOST_TRAILERS: usize = 32;

impl Chunks {
    /// A body that begins, passed on in chunks or as what is in them.
    pub fn new(keeps_chunks: bool) -> Self {
        Self {
            state: State::Size { digits: 0, size: 0 },
            keeps_chunks,
        }
    }

    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// How many bytes are missing in the chunk at hand. They are passed on as they are, so they may go
    /// another way: [`Chunks::skip`].
    pub fn data_left(&self) -> u64 {
        if let State::Data(left) = self.state {
            return left;
        }
        0
    }

    /// So many of them went another way.
    pub fn skip(&mut self, moved: u64) {
        if let State::Data(left) = self.state {
            self.state = after_data(left.saturating_sub(moved));
        }
    }

    /// Takes in what has come, and writes what is passed on. How much was of this body: all, unless it
    /// is complete.
    pub fn pass(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < input.len() && !self.is_done() {
            if let State::Data(left) = self.state {
                let left = usize::try_from(left).unwrap_or(usize::MAX);
                let data = &input[at..input.len().min(at.saturating_add(left))];
                out.extend_from_slice(data);
                self.skip(data.len() as u64);
                at += data.len();
            } else {
                self.take(input[at], out)?;
                at += 1;
            }
        }
        Ok(at)
    }

    /// Takes in one byte of what is no data.
    fn take(&mut self, byte: u8, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let keeps_chunks = self.keeps_chunks;
        self.state = match (&mut self.state, byte) {
            (&mut State::Size { digits, size }, _) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                let size = size << 4 | u64::from(digit);
                if digits == MOST_DIGITS || size > i64::MAX as u64 {
                    return Err(Malformed("a chunk is too large"));
                }
                State::Size {
                    digits: digits + 1,
                    size,
                }
            }
            (State::Size { digits: 0, .. }, _) => {
                return Err(Malformed("a chunk has no size"));
            }
            (&mut (State::Size { size, .. } | State::Extension { size, .. }), b'\r') => {
                State::SizeEnd(size)
            }
            (&mut State::Size { size, .. }, b';' | b' ' | b'\t') => {
                State::Extension { seen: 1, size }
            }
            (&mut State::Extension { seen, size }, b'\t' | 0x20..=0x7e | 0x80..) => {
                if seen == LONGEST_EXTENSION {
                    return Err(Malformed("a chunk's extensions are too long"));
                }
                State::Extension {
                    seen: seen + 1,
                    size,
                }
            }
            (State::Size { .. } | State::Extension { .. }, _) => {
                return Err(Malformed("a chunk's size is no number"));
            }
            (State::SizeEnd(0), b'\n') => State::Trailers(Vec::new()),
            (&mut State::SizeEnd(size), b'\n') => {
                if keeps_chunks {
                    out.extend_from_slice(format!("{size:x}\r\n").as_bytes());
                }
                State::Data(size)
            }
            (State::DataEnd(false), b'\r') => State::DataEnd(true),
            (State::DataEnd(true), b'\n') => {
                if keeps_chunks {
                    out.extend_from_slice(b"\r\n");
                }
                State::Size { digits: 0, size: 0 }
            }
            (State::Trailers(seen), _) => {
                seen.push(byte);
                if seen.len() > LONGEST_TRAILERS {
                    return Err(Malformed("the trailers are too long"));
                }
                if seen != b"\r\n" && !seen.ends_with(b"\r\n\r\n") {
                    return Ok(());
                }
                let trailers = passed_trailers(seen)?;
                if keeps_chunks {
                    out.extend_from_slice(b"0\r\n");
                    out.extend_from_slice(&trailers);
                    out.extend_from_slice(b"\r\n");
                }
                State::Done
            }
            (State::SizeEnd(_) | State::DataEnd(_) | State::Data(_) | State::Done, _) => {
                return Err(Malformed("a chunk does not end with CR LF"));
            }
        };
        Ok(())
    }
}

fn after_data(left: u64) -> State {
    match left {
        0 => State::DataEnd(false),
        left => State::Data(left),
    }
}

/// The trailers that may be passed on, as they are written.
fn passed_trailers(seen: &[u8]) -> Result<Vec<u8>, Malformed> {
    if !head::has_clean_lines(seen) {
        return Err(Malformed("a trailer has a line feed of its own"));
    }
    let mut fields = [httparse::EMPTY_HEADER; MOST_TRAILERS];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(seen, &mut fields)
    else {
        return Err(Malformed("the trailers are no fields"));
    };
    let mut passed = Vec::new();
    for field in fields.iter().filter(|field| head::may_trail(field.name)) {
        head::write_field(&mut passed, field.name, field.value);
    }
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is passed on of `body`, cut at `cut` into two pieces, and how much of it was the body.
    fn passed(
        body: &str,
        cut: usize,
        keeps_chunks: bool,
    ) -> Result<(String, usize, bool), Malformed> {
        let (mut chunks, mut out) = (Chunks::new(keeps_chunks), Vec::new());
        let (first, second) = body.as_bytes().split_at(cut);
        let mut taken = chunks.pass(first, &mut out)?;
        taken += chunks.pass(second, &mut out)?;
        let text = String::from_utf8(out).expect("it was text");
        Ok((text, taken, chunks.is_done()))
    }

    #[test]
    fn chunks_are_written_anew_wherever_they_are_cut() {
        let body = "5;name=\"v\"\r\nhello\r\n00A \r\n, world...\r\n0;x\r\nVia: x\r\nETag:  \"1\" \r\n\
                    Content-Length: 3\r\n\r\nGET /";
        let (end, anew) = (
            body.len() - 5,
            "5\r\nhello\r\na\r\n, world...\r\n0\r\nETag: \"1\"\r\n\r\n",
        );
        for cut in 0..=body.len() {
            let found = passed(body, cut, true);
            assert_eq!(found, Ok((anew.into(), end, true)), "cut at {cut}");
            let found = passed(body, cut, false);
            assert_eq!(
                found,
                Ok(("hello, world...".into(), end, true)),
                "cut at {cut}"
            );
        }
        for cut in 0..body.len() - 5 {
            let (_, taken, done) = passed(&body[..cut], cut / 2, true).expect("a part is no error");
            assert_eq!((taken, done), (cut, false));
        }
    }

    #[test]
    fn what_two_readers_may_take_in_two_ways_is_refused() {
        let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(300));
        let trailers = format!("0\r\nX: {}\r\n\r\n", "x".repeat(9000));
        for body in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+5\r\nhello",
            "0x5\r\nhello",
            " 5\r\nhello",
            "5\nhello",
            "5\r\rhello",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhellox\r\n",
            "5;a\nb\r\nhello",
            "8000000000000000\r\n",
            "00000000000000005\r\nhello",
            "0\r\nX: a\nY: b\r\n\r\n",
            "0\r\nX : a\r\n\r\n",
            "0\r\n fold\r\n\r\n",
            "0\r\nno field\r\n\r\n",
            "5;\0\r\nhello",
            &long,
            &trailers,
        ] {
            assert!(passed(body, 0, true).is_err(), "{body:?}");
        }
    }

    #[test]
    fn data_may_go_another_way() {
        let (mut chunks, mut out) = (Chunks::new(true), Vec::new());
        assert_eq!(chunks.pass(b"10\r\nabcd", &mut out), Ok(8));
        assert_eq!(chunks.data_left(), 12);
        chunks.skip(12);
        assert_eq!(chunks.data_left(), 0);
        assert_eq!(chunks.pass(b"\r\n0\r\n\r\nrest", &mut out), Ok(7));
        assert_eq!(out, b"10\r\nabcd\r\n0\r\n\r\n");
        assert!(chunks.is_done());
    }
}
