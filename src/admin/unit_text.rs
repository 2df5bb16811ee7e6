//! How things are written in unit files and polkit rules.

use std::fmt::Write;

use crate::config::address::Bound;

/// `NAME=VALUE` as one word of `Environment=`: quotes and escapes as in systemd.syntax(7), and a
/// `%` that is no specifier. A `$` means nothing there.
pub fn assignment(name: &str, value: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() && !"\"'\\".contains(c);
    let mut text = String::new();
    for c in value.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '%' => text.push_str("%%"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            _ if c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(text, "\\x{byte:02x}");
                }
            }
            _ => text.push(c),
        }
    }
    if value.chars().all(plain) {
        format!("{name}={text}")
    } else {
        format!("\"{name}={text}\"")
    }
}

/// A program's path as the first word of `ExecStart=`.
pub fn program(path: &str) -> String {
    let path = path.replace('%', "%%").replace('$', "$$");
    if path.contains(|c: char| !c.is_ascii_graphic() || "\"'\\;".contains(c)) {
        format!("\"{}\"", path.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        path
    }
}

/// Any text as one word of `ExecStart=`.
pub fn word(text: &str) -> String {
    let text = text.replace('%', "%%").replace('$', "$$");
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{text}\"")
}

/// An address as `ListenStream=`, or `ListenDatagram=`, takes it. A port alone is every address, IPv6 or not.
pub fn address(bound: &Bound) -> String {
    match bound {
        Bound::Tcp(tcp) if tcp.is_ipv6() && tcp.ip().is_unspecified() => tcp.port().to_string(),
        Bound::Udp(udp) if bound.is_dual_wildcard() => udp.port().to_string(),
        Bound::Udp(udp) => udp.to_string(),
        Bound::Tcp(_) | Bound::Zoned(..) | Bound::Unix(_) => bound.to_string().replace('%', "%%"),
    }
}

/// A name as part of a unit's name; without backslashes, which unit files take for escapes. No two
/// names become the same: an underscore that looks like an escape is escaped itself.
pub fn escape(name: &str) -> String {
    let mut text = String::new();
    let bytes = name.as_bytes();
    for (index, &byte) in bytes.iter().enumerate() {
        let next = bytes.get(index + 1..index + 3);
        let as_escape = next.is_some_and(|next| next.iter().all(u8::is_ascii_hexdigit));
        if byte.is_ascii_alphanumeric() || b"-.".contains(&byte) || byte == b'_' && !as_escape {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "_{byte:02x}");
        }
    }
    text
}

/// A string of JavaScript. Units' names have no other character that needs care.
pub fn script(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A unit file, or a drop-in: sections with their lines.
#[derive(Debug, Default)]
pub struct Sections(Vec<(String, Vec<String>)>);

impl Sections {
    /// The sections of one of our unit files, without comments and empty lines.
    pub fn read(text: &str) -> Self {
        let mut sections = Self::default();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            match line
                .strip_prefix('[')
                .and_then(|line| line.strip_suffix(']'))
            {
                Some(name) => sections.0.push((name.to_owned(), Vec::new())),
                None => {
                    let (_, lines) = sections.0.last_mut().expect("a line is in a section");
                    lines.push(line.to_owned());
                }
            }
        }
        sections
    }

    /// Adds `KEY=VALUE` to a section.
    pub fn add(&mut self, section: &str, key: &str, value: &str) {
        let line = format!("{key}={value}");
        if let Some((_, lines)) = self.0.iter_mut().find(|(name, _)| name == section) {
            lines.push(line);
        } else {
            self.0.push((section.to_owned(), vec![line]));
        }
    }

    /// The same, in the place of the line that sets `key` so far, if there is one.
    pub fn set(&mut self, section: &str, key: &str, value: &str) {
        let lines = self.0.iter_mut().filter(|(name, _)| name == section);
        let old = lines
            .flat_map(|(_, lines)| lines)
            .find(|line| line.split('=').next() == Some(key));
        match old {
            Some(line) => *line = format!("{key}={value}"),
            None => self.add(section, key, value),
        }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The file, below its first lines.
    pub fn write(&self, first: &str) -> String {
        let mut text = first.to_owned();
        for (index, (name, lines)) in self.0.iter().enumerate() {
            if index > 0 {
                text.push('\n');
            }
            let _ = writeln!(text, "[{name}]");
            for line in lines {
                let _ = writeln!(text, "{line}");
            }
        }
        text
    }
}

/// The variables that a unit file, or a drop-in, of this instance sets (systemd.exec(5)), in order.
pub fn environment(text: &str, instance: &str) -> Vec<(String, String)> {
    let values = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Environment="));
    let words = values.flat_map(|value| shlex::split(value).unwrap_or_default());
    let pair = |word: String| {
        let (name, value) = word.split_once('=')?;
        // A specifier that is not known here stays.
        let parts = value.split("%%").map(|part| part.replace("%i", instance));
        Some((name.to_owned(), parts.collect::<Vec<_>>().join("%")))
    };
    words.filter_map(pair).collect()
}

/// The variables of an `EnvironmentFile=` (systemd.exec(5)), in order.
pub fn environment_file(text: &str) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let mut line = line.trim().to_owned();
        if line.starts_with(['#', ';']) {
            continue;
        }
        while line.ends_with('\\') {
            line.pop();
            line.push_str(lines.next().unwrap_or_default().trim_end());
        }
        if let Some((name, value)) = line.split_once('=') {
            variables.push((name.trim().to_owned(), unquoted(value.trim())));
        }
    }
    variables
}

/// A value with its quotes taken off; outside of quotes, white space is kept as it is.
fn unquoted(value: &str) -> String {
    let (mut text, mut quote, mut chars) = (String::new(), None, value.chars());
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('"' | '\'', None) => quote = Some(c),
            _ if Some(c) == quote => quote = None,
            ('\\', None) => text.extend(chars.next()),
            ('\\', Some('"')) => match chars.next() {
                Some(c @ ('"' | '\\' | '`' | '$')) => text.push(c),
                other => text.extend(['\\'].into_iter().chain(other)),
            },
            _ => text.push(c),
        }
    }
    text
}
