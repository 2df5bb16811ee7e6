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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_a_terminal() {
        assert_eq!(escape_controls("a\tb ü"), "a\tb ü");
        assert_eq!(escape_controls("a\x1b[31m\n"), "a\\u{1b}[31m\\n");
        assert_eq!(one_line("a\x1b[31mb\n"), "a [31mb ");
    }
}
