//! Which service a request is for: by its host, then by its path. And a TLS connection: by its name.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A host as it is given: `example.org`, `*.example.org` for all below it, `*` for all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// This one.
    Exact(String),
    /// Those that end so; with the dot.
    Below(String),
    /// Every one, and none.
    Any,
}

/// The beginning of a path, in whole segments: `/app` has `/app` and `/app/x`, and not `/apple`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathPrefix(String);

/// Hosts and paths, and what they lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table<T> {
    /// The most specific first.
    rules: Vec<(HostPattern, PathPrefix, T)>,
    /// All of them lead to the same.
    is_single: bool,
}

/// A host and a path that lead to two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twice<T> {
    /// The host.
    pub host: HostPattern,
    /// The path.
    pub path: PathPrefix,
    /// What they lead to.
    pub both: [T; 2],
}

impl<T> Table<T> {
    /// The same, with something else to lead to, as far as there is anything.
    pub fn filter_map<U>(self, mut to: impl FnMut(&HostPattern, T) -> Option<U>) -> Table<U> {
        let rules = self.rules.into_iter();
        let rules = rules.filter_map(|(host, path, it)| {
            let it = to(&host, it)?;
            Some((host, path, it))
        });
        Table {
            rules: rules.collect(),
            is_single: self.is_single,
        }
    }

    /// What its rules lead to.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.rules.iter().map(|(_, _, to)| to)
    }

    /// What this host and path lead to. The most specific host decides, also where none of its paths is
    /// meant. A client that names no host means the only one there is.
    pub fn find(&self, host: Option<&[u8]>, path: &str) -> Option<&T> {
        let is_for_all = matches!(self.rules[..], [(HostPattern::Any, ..)]);
        if is_for_all || (host.is_none() && self.is_single) {
            let mut rules = self.rules.iter();
            return rules
                .find(|(_, prefix, _)| prefix.matches(path))
                .map(|(_, _, to)| to);
        }
        let host = host.map(bare);
        let host = host.as_deref();
        let decides = self
            .rules
            .iter()
            .find(|(pattern, ..)| pattern.matches(host));
        let (decides, ..) = decides?;
        let of_host = self.rules.iter().filter(|(pattern, ..)| pattern == decides);
        let mut of_host = of_host.filter(|(_, prefix, _)| prefix.matches(path));
        of_host.next().map(|(_, _, to)| to)
    }
}

impl<T: Clone + PartialEq> Table<T> {
    /// The table with these rules, in any order.
    pub fn new(
        rules: impl IntoIterator<Item = (HostPattern, PathPrefix, T)>,
    ) -> Result<Self, Twice<T>> {
        let mut all: Vec<(HostPattern, PathPrefix, T)> = Vec::new();
        for (host, path, to) in rules {
            let same = all.iter().find(|(h, p, _)| (h, p) == (&host, &path));
            match same {
                None => all.push((host, path, to)),
                Some((_, _, before)) if *before == to => (),
                Some((_, _, before)) => {
                    let both = [before.clone(), to];
                    return Err(Twice { host, path, both });
                }
            }
        }
        // An exact host, then the longest, then the longest path.
        all.sort_by_key(|(host, path, _)| std::cmp::Reverse((host.rank(), path.0.len())));
        let first = all.first().map(|(_, _, to)| to.clone());
        Ok(Self {
            is_single: all.iter().all(|(_, _, to)| first.as_ref() == Some(to)),
            rules: all,
        })
    }
}

impl HostPattern {
    /// Whether it is an address, which a TLS client does not name (RFC 6066, section 3).
    pub fn is_address(&self) -> bool {
        let Self::Exact(host) = self else {
            return false;
        };
        host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok()
    }

    fn rank(&self) -> (u8, usize) {
        match self {
            Self::Exact(_) => (2, 0),
            Self::Below(suffix) => (1, suffix.len()),
            Self::Any => (0, 0),
        }
    }

    fn matches(&self, host: Option<&str>) -> bool {
        match (self, host) {
            (Self::Any, _) => true,
            (Self::Exact(own), Some(host)) => own == host,
            (Self::Below(suffix), Some(host)) => host
                .strip_suffix(suffix.as_str())
                .is_some_and(|rest| !rest.is_empty()),
            (Self::Exact(_) | Self::Below(_), None) => false,
        }
    }
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, pattern): (&str, fn(String) -> Self) = match text.strip_prefix('*') {
            Some("") => return Ok(Self::Any),
            Some(rest) if rest.starts_with('.') => (rest, Self::Below),
            Some(_) => {
                return Err("`*` stands alone, or before a dot, as in `*.example.org`".into());
            }
            None => (text, Self::Exact),
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:[]".contains(c);
        if let Some(bad) = name.chars().find(|&c| !allowed(c)) {
            let hint = if bad.is_ascii() {
                ""
            } else {
                "; write it as DNS has it (`xn--…`)"
            };
            return Err(format!("a host has no `{bad}`{hint}"));
        }
        if name.trim_matches('.').is_empty() {
            return Err("the host is empty".into());
        }
        let bare = bare(name.as_bytes());
        if bare.len() < name.trim_end_matches('.').len() {
            return Err("a host is given without a port: it is the socket's".into());
        }
        Ok(pattern(bare))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Below(suffix) => write!(f, "*{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl PathPrefix {
    /// Every path.
    pub fn all() -> Self {
        Self("/".into())
    }

    /// Whether it can have this path, or one that begins so.
    pub fn may_have(&self, path: &str, is_start: bool) -> bool {
        self.matches(path) || (is_start && self.0.starts_with(path))
    }

    fn matches(&self, path: &str) -> bool {
        if self.0 == "/" {
            return true;
        }
        // What leads elsewhere when it is resolved is none of these.
        let rest = path.strip_prefix(self.0.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) && !may_leave(path)
    }
}

impl FromStr for PathPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.trim_end_matches('/');
        if !text.starts_with('/') {
            return Err("a path begins with `/`".into());
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains(['?', '#', '*']) {
            return Err(
                "a path is the beginning of one, as in `/app`, in the characters of a URL".into(),
            );
        }
        if may_leave(bare) {
            return Err("a path has no empty segments, `.` or `..`".into());
        }
        Ok(Self(if bare.is_empty() { "/" } else { bare }.into()))
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host in lower case, without its port and a dot at the end.
fn bare(host: &[u8]) -> String {
    let host = String::from_utf8_lossy(host).to_ascii_lowercase();
    let port = host.rfind(':').filter(|&at| !host[at..].contains(']'));
    let host = port.map_or(&*host, |at| &host[..at]);
    host.strip_suffix('.').unwrap_or(host).to_owned()
}

/// Whether a path has segments that are empty, or go up or stay when they are resolved.
fn may_leave(path: &str) -> bool {
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        let plain = segment.to_ascii_lowercase().replace("%2e", ".");
        // Some take what is behind a semicolon for no part of the segment (RFC 3986, section 3.3), and
        // others a backslash for a slash.
        let plain = plain.replace("%3b", ";").replace("%5c", "\\");
        let (name, is_split) = (
            plain.split(';').next().unwrap_or_default(),
            plain.contains('\\'),
        );
        if is_split || name == "." || name == ".." || (plain.is_empty() && !is_last) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rules: &[(&str, &str, &'static str)]) -> Table<&'static str> {
        let rule = |&(host, path, to): &(&str, &str, &'static str)| {
            (
                host.parse().expect("a host"),
                path.parse().expect("a path"),
                to,
            )
        };
        Table::new(rules.iter().map(rule)).expect("no two are the same")
    }

    #[test]
    fn the_most_specific_host_and_path_decide() {
        let table = table(&[
            ("*", "/", "any"),
            ("*.example.org", "/", "below"),
            ("*.a.example.org", "/", "further below"),
            ("Docs.Example.org.", "/", "docs"),
            ("docs.example.org", "/api", "api"),
            ("docs.example.org", "/api/v2/", "v2"),
            ("only.example.org", "/app", "app"),
            ("[2001:db8::1]", "/", "number"),
        ]);
        for (host, path, expected) in [
            ("docs.example.org", "/", Some("docs")),
            ("DOCS.example.org:8080", "/x", Some("docs")),
            ("docs.example.org.", "/api", Some("api")),
            ("docs.example.org.:80", "/api/", Some("api")),
            ("docs.example.org", "/apis", Some("docs")),
            ("docs.example.org", "/api/v1", Some("api")),
            ("docs.example.org", "/api/v2", Some("v2")),
            ("docs.example.org", "/api/v2/x", Some("v2")),
            ("docs.example.org", "/api/v2/../x", Some("docs")),
            ("docs.example.org", "/api/%2E%2e/x", Some("docs")),
            ("docs.example.org", "/api/..;a/x", Some("docs")),
            ("docs.example.org", "/api/..%3Ba/x", Some("docs")),
            ("docs.example.org", "/api/x\\..\\..", Some("docs")),
            ("docs.example.org", "/api//v2", Some("docs")),
            ("docs.example.org", "//api", Some("docs")),
            ("docs.example.org", "*", Some("docs")),
            ("x.example.org", "/", Some("below")),
            ("x.y.example.org", "/", Some("below")),
            ("x.a.example.org", "/", Some("further below")),
            ("example.org", "/", Some("any")),
            ("xexample.org", "/", Some("any")),
            ("only.example.org", "/app/x", Some("app")),
            ("only.example.org", "/", None),
            ("[2001:DB8::1]:80", "/", Some("number")),
            ("[2001:db8::1]", "/", Some("number")),
        ] {
            let found = table.find(Some(host.as_bytes()), path);
            assert_eq!(found.copied(), expected, "{host}{path}");
        }
        assert_eq!(table.find(None, "/"), Some(&"any"));
    }

    #[test]
    fn an_unknown_host_leads_nowhere() {
        let table = table(&[("a", "/", "a"), ("*.b", "/", "b")]);
        for host in ["b", ".b", "c", "a.b.c", "127.0.0.1"] {
            assert_eq!(table.find(Some(host.as_bytes()), "/"), None);
        }
        assert_eq!(table.find(None, "/"), None);
    }

    #[test]
    fn no_rule_is_hidden_behind_others() {
        let words = ["*", "*.a", "*.b.a", "b.a", "c.b.a", "a"];
        let paths = ["/", "/x", "/x/y", "/xy"];
        let all: Vec<_> = words
            .iter()
            .flat_map(|host| paths.map(|path| (*host, path, (*host, path))))
            .map(|(host, path, to)| {
                (
                    host.parse().expect("a host"),
                    path.parse().expect("a path"),
                    to,
                )
            })
            .collect();
        let table = Table::new(all).expect("no two are the same");
        for (host, path) in words
            .iter()
            .flat_map(|host| paths.map(|path| (*host, path)))
        {
            let asked = host.replace('*', "z");
            let found = table.find(Some(asked.as_bytes()), path);
            assert_eq!(found, Some(&(host, path)), "{asked}{path}");
        }
    }

    #[test]
    fn two_of_the_same_are_told() {
        let rules = [("A", "/x/", 1), ("a.", "/x", 2)].map(|(host, path, to)| {
            (
                host.parse().expect("a host"),
                path.parse().expect("a path"),
                to,
            )
        });
        let twice = Table::new(rules).expect_err("they are the same");
        assert_eq!(
            (twice.host.to_string(), twice.path.to_string()),
            ("a".into(), "/x".into())
        );
    }

    #[test]
    fn what_is_no_host_or_path_is_refused() {
        for host in [
            "",
            ".",
            "a b",
            "a/b",
            "http://a",
            "*a",
            "a*",
            "a:80",
            "münchen.de",
            "u@a",
        ] {
            assert!(host.parse::<HostPattern>().is_err(), "{host}");
        }
        for path in [
            "", "a", "/a?b", "/a#b", "/a/../b", "/./a", "//a", "/a*", "/ä", "/a b",
        ] {
            assert!(path.parse::<PathPrefix>().is_err(), "{path}");
        }
    }
}
