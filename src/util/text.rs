//! Text from outside, made safe to show: without control characters, which steer terminals and end
//! lines.

use std::borrow::Cow;
use std::io::IsTerminal;

/// Control characters are escaped, but for tabs.
pub fn escape_controls(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && c != '\t';
    if !text.contains(steers) {
        return text.into();
    }
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match steers(c) {
            true => safe.extend(c.escape_default()),
            false => safe.push(c),
        }
    }
    safe.into()
}

/// Whether to print in colours: to a terminal, unless NO_COLOR (<https://no-color.org>) is set.
pub fn in_colours(out: &impl IsTerminal) -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && out.is_terminal()
}

/// Control characters become spaces.
pub fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// A part of a query (RFC 3986).
pub fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(byte.into());
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// What a part of a query says; what is no text in it is replaced.
pub fn decoded(part: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = part.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        let digit = |at: usize| char::from(*more.get(at)?).to_digit(16);
        let byte = digit(0)
            .zip(digit(1))
            .map(|(high, low)| (high * 16 + low) as u8);
        rest = match byte.filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                &more[2..]
            }
            None => {
                bytes.push(first);
                more
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_query_says_what_was_encoded() {
        let selector = "app=web,tier in (a, b)";
        assert_eq!(encoded(selector), "app%3Dweb%2Ctier%20in%20%28a%2C%20b%29");
        for text in [selector, "", "ü/100%", "a-b.c_d~e"] {
            assert_eq!(decoded(&encoded(text)), text);
        }
        for (part, text) in [
            ("%", "%"),
            ("a%4", "a%4"),
            ("%zz", "%zz"),
            ("%FF", "\u{fffd}"),
        ] {
            assert_eq!(decoded(part), text);
        }
    }

    #[test]
    fn nothing_steers_a_terminal() {
        assert_eq!(escape_controls("a\tb ü"), "a\tb ü");
        assert_eq!(escape_controls("a\x1b[31m\n"), "a\\u{1b}[31m\\n");
        assert_eq!(one_line("a\x1b[31mb\n"), "a [31mb ");
    }
}
