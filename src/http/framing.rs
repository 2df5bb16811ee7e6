//! How the body of a message is delimited (RFC 9112, section 6). What two readers may take in two ways
//! is refused: the difference is how requests are smuggled.

use serde::{Deserialize, Serialize};

use super::head::{Method, Refusal, Version};

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Length {
    /// After so many bytes; without a body after none.
    Exact(u64),
    /// With its last chunk and the trailers.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// What the fields of a head say about its body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    length: Said<u64>,
    coding: Said<()>,
}

/// What a field says that may be there once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Said<T> {
    #[default]
    Nothing,
    This(T),
    Nonsense,
}

impl<T> Said<T> {
    fn once(&mut self, value: Option<T>) {
        *self = match (&*self, value) {
            (Self::Nothing, Some(value)) => Self::This(value),
            _ => Self::Nonsense,
        };
    }
}

impl Declared {
    /// Takes in a `Content-Length`.
    pub fn content_length(&mut self, value: &[u8]) {
        self.length.once(number(value));
    }

    /// Takes in a `Transfer-Encoding`.
    pub fn transfer_encoding(&mut self, value: &[u8]) {
        let chunked = value.eq_ignore_ascii_case(b"chunked");
        self.coding.once(chunked.then_some(()));
    }

    /// The body of a request.
    pub fn request(self, version: Version) -> Result<Length, Refusal> {
        match (self.length, self.coding) {
            (Said::Nothing, Said::Nothing) => Ok(Length::Exact(0)),
            (Said::This(length), Said::Nothing) => Ok(Length::Exact(length)),
            (Said::Nonsense, Said::Nothing) => {
                Err(Refusal::bad("Content-Length is not one number"))
            }
            (_, Said::This(()) | Said::Nonsense) if version == Version::Http10 => {
                Err(Refusal::bad("HTTP/1.0 has no Transfer-Encoding"))
            }
            (Said::Nothing, Said::This(())) => Ok(Length::Chunked),
            (Said::Nothing, Said::Nonsense) => {
                Err(Refusal::new(501, "a Transfer-Encoding other than chunked"))
            }
            (Said::This(_) | Said::Nonsense, Said::This(()) | Said::Nonsense) => {
                Err(Refusal::bad("Content-Length and Transfer-Encoding at once"))
            }
        }
    }

    /// The body of a response with this status to a request with this method.
    pub fn response(self, version: Version, status: u16, to: Method) -> Result<Length, Refusal> {
        let length = match (self.length, self.coding) {
            (Said::Nothing, Said::Nothing) => Length::UntilClose,
            (Said::This(length), Said::Nothing) => Length::Exact(length),
            (Said::Nothing, Said::This(())) if version == Version::Http11 => Length::Chunked,
            (Said::Nonsense, Said::Nothing) => {
                return Err(Refusal::gateway("its Content-Length is not one number"));
            }
            (Said::Nothing, _) => {
                return Err(Refusal::gateway("a Transfer-Encoding that it may not have"));
            }
            (Said::This(_) | Said::Nonsense, _) => {
                return Err(Refusal::gateway(
                    "Content-Length and Transfer-Encoding at once",
                ));
            }
        };
        let has_none = to == Method::Head || matches!(status, 100..200 | 204 | 304);
        Ok(if has_none { Length::Exact(0) } else { length })
    }

    /// The number that `Content-Length` has.
    pub fn length(self) -> Option<u64> {
        match self.length {
            Said::This(length) => Some(length),
            Said::Nothing | Said::Nonsense => None,
        }
    }
}

/// A number without a sign, in digits only, up to 2^63 - 1.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number <= i64::MAX as u64).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of a head, the way they are read.
    fn declared(lengths: &[&str], codings: &[&str]) -> Declared {
        let mut declared = Declared::default();
        for length in lengths {
            declared.content_length(length.as_bytes());
        }
        for coding in codings {
            declared.transfer_encoding(coding.as_bytes());
        }
        declared
    }

    const LENGTHS: [(&[&str], Said<u64>); 11] = [
        (&[], Said::Nothing),
        (&["0"], Said::This(0)),
        (&["17"], Said::This(17)),
        (&["9223372036854775807"], Said::This(i64::MAX as u64)),
        (&["9223372036854775808"], Said::Nonsense),
        (&["+1"], Said::Nonsense),
        (&["-1"], Said::Nonsense),
        (&["0x1"], Said::Nonsense),
        (&[""], Said::Nonsense),
        (&["1, 1"], Said::Nonsense),
        (&["1", "1"], Said::Nonsense),
    ];

    const CODINGS: [(&[&str], Said<()>); 7] = [
        (&[], Said::Nothing),
        (&["chunked"], Said::This(())),
        (&["Chunked"], Said::This(())),
        (&["gzip, chunked"], Said::Nonsense),
        (&["chunked", "chunked"], Said::Nonsense),
        (&["identity"], Said::Nonsense),
        (&["\u{b}chunked"], Said::Nonsense),
    ];

    /// Every combination of what the two fields may say, for requests: a body has one length, or the
    /// request is refused.
    #[test]
    fn the_table_of_requests() {
        for (lengths, length) in LENGTHS {
            for (codings, coding) in CODINGS {
                let declared = declared(lengths, codings);
                for version in [Version::Http10, Version::Http11] {
                    let expected = match (length, coding, version) {
                        (Said::Nothing, Said::Nothing, _) => Ok(Length::Exact(0)),
                        (Said::This(n), Said::Nothing, _) => Ok(Length::Exact(n)),
                        (Said::Nothing, Said::This(()), Version::Http11) => Ok(Length::Chunked),
                        (Said::Nothing, Said::Nonsense, Version::Http11) => Err(501),
                        _ => Err(400),
                    };
                    let found = declared.request(version).map_err(|refusal| refusal.status);
                    assert_eq!(found, expected, "{lengths:?} {codings:?} {version:?}");
                }
            }
        }
    }

    /// The same for responses: one that has no body has none, whatever it says; nonsense is an error
    /// in any case, since it cannot be passed on.
    #[test]
    fn the_table_of_responses() {
        for (lengths, length) in LENGTHS {
            for (codings, coding) in CODINGS {
                let declared = declared(lengths, codings);
                for version in [Version::Http10, Version::Http11] {
                    let with_body = match (length, coding, version) {
                        (Said::Nothing, Said::Nothing, _) => Ok(Length::UntilClose),
                        (Said::This(n), Said::Nothing, _) => Ok(Length::Exact(n)),
                        (Said::Nothing, Said::This(()), Version::Http11) => Ok(Length::Chunked),
                        _ => Err(502),
                    };
                    let found = |status, to| {
                        let length = declared.response(version, status, to);
                        length.map_err(|refusal| refusal.status)
                    };
                    for status in [200, 201, 206, 400, 404, 500] {
                        assert_eq!(
                            found(status, Method::Get),
                            with_body,
                            "{lengths:?} {codings:?}"
                        );
                    }
                    let without = with_body.map(|_| Length::Exact(0));
                    assert_eq!(found(200, Method::Head), without);
                    for status in [100, 103, 199, 204, 304] {
                        assert_eq!(found(status, Method::Get), without);
                    }
                }
            }
        }
    }
}
