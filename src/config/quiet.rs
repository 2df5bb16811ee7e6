//! Requests that neither wake a service nor keep it awake: health checks, scrapers, icons.

use std::fmt;
use std::str::FromStr;

use super::access::{AccessList, Networks};
use super::address::Peer;
use super::host::PathPrefix;

/// What tells such a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Its path, or with `*` how that begins.
    Path(String, bool),
    /// Its method.
    Method(String),
    /// A part of its User-Agent, in any case.
    Agent(String),
    /// Where its client is.
    From(String, AccessList),
}

/// What is known of a request.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path, without the query.
    pub path: &'a str,
    /// Its User-Agent.
    pub agent: Option<&'a [u8]>,
    /// Its client.
    pub client: Peer,
    /// A browser fetches it in advance (Sec-Purpose).
    pub is_prefetch: bool,
}

/// Which requests of a service are quiet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quiet {
    /// Those that one of these tells,
    pub rules: Vec<Rule>,
    /// and if there are any here, those that none of these tells,
    pub wake_only: Vec<Rule>,
    /// and those that nobody means: icons, robots.txt, prefetches, `OPTIONS *`, and those of crawlers.
    pub defaults: bool,
    /// The status with which they are answered while the service sleeps.
    pub answer: u16,
}

impl Rule {
    fn tells(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Path(path, false) => facts.path == path,
            Self::Path(start, true) => facts.path.starts_with(start),
            Self::Method(method) => facts.method == method,
            Self::Agent(part) => facts.agent.is_some_and(|agent| {
                let agent = String::from_utf8_lossy(agent).to_ascii_lowercase();
                agent.contains(part)
            }),
            // Clients of Unix sockets have no address.
            Self::From(_, networks) => {
                matches!(facts.client, Peer::Tcp(_)) && networks.admits(facts.client)
            }
        }
    }
}

impl Rule {
    /// Whether it tells every request that `other` tells.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Path(start, true), Self::Path(path, _)) => path.starts_with(start),
            (Self::Agent(part), Self::Agent(longer)) => longer.contains(part),
            (Self::Path(..) | Self::Method(_) | Self::Agent(_) | Self::From(..), _) => {
                self == other
            }
        }
    }
}

/// The paths that nobody means, and whether they only begin so.
const ICONS: [(&str, bool); 3] = [
    ("/favicon.ico", false),
    ("/robots.txt", false),
    ("/apple-touch-icon", true),
];

impl Quiet {
    /// Whether no request at all could wake a service that has the paths with these beginnings: none that
    /// may wake it is left.
    pub fn is_all(&self, paths: &[PathPrefix]) -> bool {
        let icons = ICONS.map(|(path, is_start)| Rule::Path(path.to_owned(), is_start));
        let icons = if self.defaults { &icons[..] } else { &[] };
        let is_quiet = |rule: &Rule| {
            let mut rules = self.rules.iter().chain(icons);
            let is_elsewhere =
                |path: &str, is_start| !paths.iter().any(|prefix| prefix.may_have(path, is_start));
            let elsewhere =
                matches!(rule, Rule::Path(path, is_start) if is_elsewhere(path, *is_start));
            elsewhere || rules.any(|quiet| quiet.covers(rule))
        };
        let mut whole = paths.iter().map(|path| Rule::Path(path.to_string(), true));
        let wake_only = &self.wake_only;
        whole.all(|path| is_quiet(&path))
            || (!wake_only.is_empty() && wake_only.iter().all(is_quiet))
    }

    /// Whether a request neither wakes nor keeps awake.
    pub fn is_quiet(&self, facts: &Facts<'_>) -> bool {
        let told = |rules: &[Rule]| rules.iter().any(|rule| rule.tells(facts));
        let by_default = || {
            let icon = ICONS.iter().any(|(path, is_start)| match is_start {
                true => facts.path.starts_with(path),
                false => facts.path == *path,
            });
            let is_known = icon || (facts.method == "OPTIONS" && facts.path == "*");
            is_known || facts.is_prefetch || facts.agent.is_some_and(is_crawler)
        };
        told(&self.rules)
            || (!self.wake_only.is_empty() && !told(&self.wake_only))
            || (self.defaults && by_default())
    }
}

/// Whether a User-Agent says that no person asks, and where more is said of it; browsers and programs that
/// people use name no address.
fn is_crawler(agent: &[u8]) -> bool {
    let has = |agent: &[u8], part: &[u8]| agent.windows(part.len()).any(|it| it == part);
    if !has(agent, b"http") {
        return false;
    }
    let agent = agent.to_ascii_lowercase();
    let kinds = ["bot", "crawl", "spider", "slurp", "externalhit"];
    kinds.iter().any(|kind| has(&agent, kind.as_bytes()))
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            let (path, is_start) = match text.strip_suffix('*') {
                Some(start) => (start, true),
                None => (text, false),
            };
            if path.contains(['*', '?', '#']) || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err("a path has one `*` at most, at its end, and no query".into());
            }
            return Ok(Self::Path(path.to_owned(), is_start));
        }
        match text.split_once(':') {
            Some(("method", method))
                if !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase()) =>
            {
                Ok(Self::Method(method.to_owned()))
            }
            Some(("agent", part)) if !part.is_empty() => Ok(Self::Agent(part.to_ascii_lowercase())),
            Some(("from", network)) => {
                let networks: Networks = network.parse()?;
                let list = AccessList::new(&[networks], &[]);
                Ok(Self::From(network.to_owned(), list))
            }
            _ => Err(
                "write `/path`, `/start/*`, `method:HEAD`, `agent:NAME` or `from:192.0.2.0/24`"
                    .into(),
            ),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path, is_start) => write!(f, "{path}{}", if *is_start { "*" } else { "" }),
            Self::Method(method) => write!(f, "method:{method}"),
            Self::Agent(part) => write!(f, "agent:{part}"),
            Self::From(network, _) => write!(f, "from:{network}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(words: &[&str]) -> Vec<Rule> {
        let rule = |word: &&str| word.parse().expect("a rule");
        words.iter().map(rule).collect()
    }

    fn get(path: &str) -> Facts<'_> {
        Facts {
            method: "GET",
            path,
            agent: Some(b"Mozilla/5.0 (compatible; UptimeRobot/2.0)"),
            client: Peer::Tcp(([192, 0, 2, 7], 1).into()),
            is_prefetch: false,
        }
    }

    #[test]
    fn rules_tell_by_path_method_agent_and_network() {
        let is_quiet = |words: &[&str], facts: Facts<'_>| {
            let quiet = Quiet {
                rules: rules(words),
                wake_only: Vec::new(),
                defaults: false,
                answer: 503,
            };
            quiet.is_quiet(&facts)
        };
        for (word, is_told, is_not) in [
            ("/healthz", "/healthz", "/healthz/x"),
            ("/metrics*", "/metrics/cpu", "/metric"),
            ("/a/*", "/a/b", "/a"),
        ] {
            assert!(is_quiet(&[word], get(is_told)), "{word}");
            assert!(!is_quiet(&[word], get(is_not)), "{word}");
            assert_eq!(rules(&[word])[0].to_string(), word);
        }
        let head = Facts {
            method: "HEAD",
            ..get("/")
        };
        assert!(is_quiet(&["method:HEAD"], head) && !is_quiet(&["method:HEAD"], get("/")));
        assert!(is_quiet(&["agent:uptimerobot"], get("/")));
        assert!(!is_quiet(&["agent:kube-probe"], get("/")));
        assert!(is_quiet(&["from:192.0.2.0/24"], get("/")));
        assert!(!is_quiet(&["from:198.51.100.0/24"], get("/")));
        let local = Facts {
            client: Peer::Unix,
            ..get("/")
        };
        assert!(!is_quiet(&["from:any"], local));
        for word in [
            "", "healthz", "/a?b", "/a*b", "method:", "verb:X", "from:x", "agent:",
        ] {
            let rule = word.parse::<Rule>();
            assert!(rule.is_err(), "{word}");
        }
    }

    #[test]
    fn crawlers_are_told_from_people() {
        for agent in [
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm) Chrome/116.0.1938.76 Safari/537.36",
            "Mozilla/5.0 (compatible; Baiduspider/2.0; +http://www.baidu.com/search/spider.html)",
            "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
        ] {
            assert!(is_crawler(agent.as_bytes()), "{agent}");
        }
        for agent in [
            "",
            "curl/7.88.1",
            "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
            "Mozilla/5.0 (Linux; Android 9; CUBOT_X18_Plus) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/99.0",
            "Feeds/3 (https://example.org/feeds)",
        ] {
            assert!(!is_crawler(agent.as_bytes()), "{agent}");
        }
    }

    #[test]
    fn what_is_not_to_wake_is_quiet() {
        let mut quiet = Quiet {
            rules: Vec::new(),
            wake_only: rules(&["/app*"]),
            defaults: true,
            answer: 503,
        };
        assert!(quiet.is_quiet(&get("/")) && !quiet.is_quiet(&get("/app/x")));
        quiet.wake_only.clear();
        for path in [
            "/favicon.ico",
            "/robots.txt",
            "/apple-touch-icon-120x120.png",
        ] {
            assert!(quiet.is_quiet(&get(path)), "{path}");
        }
        assert!(!quiet.is_quiet(&get("/")));
        let prefetch = Facts {
            is_prefetch: true,
            ..get("/")
        };
        let options = Facts {
            method: "OPTIONS",
            ..get("*")
        };
        assert!(quiet.is_quiet(&prefetch) && quiet.is_quiet(&options));
        quiet.defaults = false;
        assert!(!quiet.is_quiet(&prefetch) && !quiet.is_quiet(&get("/favicon.ico")));
    }

    #[test]
    fn rules_that_leave_nothing_to_wake_are_told() {
        let all = |quiet: &[&str], wake_only: &[&str], paths: &[&str]| {
            let paths: Vec<_> = paths
                .iter()
                .map(|path| path.parse().expect("a path"))
                .collect();
            let quiet = Quiet {
                rules: rules(quiet),
                wake_only: rules(wake_only),
                defaults: true,
                answer: 503,
            };
            quiet.is_all(&paths)
        };
        for (quiet, wake_only, paths) in [
            (&["/*"][..], &[][..], &["/"][..]),
            (&["/app*"], &[], &["/app"]),
            (&["/app*", "/x*"], &[], &["/app", "/x"]),
            (&["/app*"], &["method:POST"], &["/app"]),
            (&["/app*"], &["/app/*", "/app/x"], &["/"]),
            (
                &["method:HEAD", "agent:bot"],
                &["method:HEAD", "agent:UptimeBot"],
                &["/"],
            ),
            (&["from:192.0.2.0/24"], &["from:192.0.2.0/24"], &["/"]),
            (&[], &["/favicon.ico"], &["/"]),
            (&[], &["/other/*", "/application"], &["/app"]),
        ] {
            assert!(
                all(quiet, wake_only, paths),
                "{quiet:?} {wake_only:?} {paths:?}"
            );
        }
        for (quiet, wake_only, paths) in [
            (&[][..], &[][..], &["/"][..]),
            (&["/healthz", "method:HEAD", "agent:bot"], &[], &["/"]),
            (&["/app*"], &[], &["/"]),
            (&["/app*"], &[], &["/app", "/x"]),
            (&["/app/*"], &["/app*"], &["/"]),
            (&["/app/*"], &["/app/*", "/b"], &["/"]),
            (&[], &["/a*"], &["/app"]),
            (&[], &["/app/x"], &["/app"]),
            (&[], &["method:POST"], &["/app"]),
        ] {
            assert!(
                !all(quiet, wake_only, paths),
                "{quiet:?} {wake_only:?} {paths:?}"
            );
        }
    }
}
