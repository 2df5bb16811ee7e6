//! The page that a browser shows while the service starts: for people who navigate there, and only if it
//! takes long enough to be read. All others are held.

use std::time::Duration;

use super::head::{Method, Received};

/// How long a wake takes is told by so many before.
const LATEST: usize = 20;

/// After how many seconds a page that tells a failure asks again: each time, the service is started anew.
const AFTER_FAILURE: u64 = 5;

/// The page of this program, and the one of the administrator's who gives another.
const TEMPLATE: &str = include_str!("page.html");

/// The field by which the page itself asks: held until the service answers, and answered by us.
pub const WAITS: &str = "X-Wakeport-Wait";

/// Whether a person navigates there with a browser, and would see a page.
pub fn is_navigation(received: &Received<'_, '_>) -> bool {
    let field = |name: &str| received.field(name);
    let is = |name: &str, values: &[&str]| {
        field(name).is_some_and(|value| values.iter().any(|it| value == it.as_bytes()))
    };
    let says = || match field("Sec-Fetch-Mode") {
        Some(_) => {
            is("Sec-Fetch-Mode", &["navigate"]) && is("Sec-Fetch-Dest", &["document", "iframe"])
        }
        // Browsers say so only over HTTPS and to this machine.
        None => field("Accept").is_some_and(names_html),
    };
    let programs = [
        "Range",
        "X-Requested-With",
        "HX-Request",
        "Sec-Purpose",
        WAITS,
    ];
    let is_programs = || programs.iter().any(|name| field(name).is_some());
    let is_bearers = || {
        let scheme = field("Authorization").and_then(|value| value.get(..6));
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer"))
    };
    let request = &received.request;
    // Most requests are none; they are asked for one field or two.
    let may_be = request.method == Method::Get && !request.upgrades;
    may_be && says() && !is_programs() && !is_bearers()
}

/// Whether an `Accept` names HTML, as browsers do and other programs do not.
fn names_html(accept: &[u8]) -> bool {
    let mut types = accept.split(|&byte| byte == b',').map(|range| {
        let name = range.split(|&byte| byte == b';').next();
        name.unwrap_or_default().trim_ascii()
    });
    types.any(|name| name.eq_ignore_ascii_case(b"text/html"))
}

/// How long a wake takes, by how long the latest ones took: nine of ten are faster.
pub fn expected(took: &[Duration]) -> Option<Duration> {
    let mut latest = took[took.len().saturating_sub(LATEST)..].to_vec();
    latest.sort_unstable();
    latest
        .get((latest.len() * 9).div_ceil(10).checked_sub(1)?)
        .copied()
}

/// After how long a client that has come `elapsed` after the wake began is shown the page: at once if what
/// is expected is far off, not at all while it is near.
pub fn due(expected: Option<Duration>, elapsed: Duration, after: Duration) -> Duration {
    match expected.map(|expected| expected.saturating_sub(elapsed)) {
        Some(rest) if rest > after => Duration::ZERO,
        // It takes longer than it should: the next guess is as good.
        Some(rest) => rest + after,
        None => after,
    }
}

/// What a page says.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// The service.
    pub name: &'a str,
    /// What the browser asks for, as seen from there: browsers do not load anew what has a fragment, unless
    /// they are told an address.
    pub here: &'a str,
    /// How long it is expected to take from now on.
    pub rest: Option<Duration>,
    /// Why it could not be started, if it could not.
    pub failure: Option<&'a str>,
    /// What it waits for, if that is to be said.
    pub waits_for: Option<&'a str>,
    /// The administrator's template.
    pub template: Option<&'a str>,
    /// Whether the connection stays open.
    pub persists: bool,
    /// The status: 503 unless proxies in front replace that.
    pub status: u16,
}

impl Page<'_> {
    /// The response. `nonce` is what nobody could guess.
    pub fn response(&self, nonce: &str) -> Vec<u8> {
        let refresh = self.refresh();
        let expected = match self.rest {
            Some(rest) => format!("about {} s", rest.as_secs().max(1)),
            None => "a moment".to_owned(),
        };
        let (state, text) = match self.failure {
            None => (
                "starting",
                match self.waits_for {
                    // How long that takes is not known.
                    Some(why) => format!("It waits for {why}."),
                    None => format!("It will be there in {expected}."),
                },
            ),
            Some(why) => ("failed", why.to_owned()),
        };
        let seconds = self.rest.map_or(10, |rest| rest.as_secs().max(1));
        let values = [
            ("{{name}}", escape(self.name)),
            ("{{state}}", state.to_owned()),
            ("{{text}}", escape(&text)),
            ("{{expected}}", escape(&expected)),
            ("{{seconds}}", seconds.to_string()),
            ("{{refresh}}", refresh.to_string()),
            ("{{here}}", escape(self.here)),
            ("{{nonce}}", escape(nonce)),
        ];
        let body = fill(self.template.unwrap_or(TEMPLATE), &values);
        let reason = if self.status == 200 {
            "OK"
        } else {
            "Service Unavailable"
        };
        let head = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
             Retry-After: {refresh}\r\nCache-Control: no-store\r\nX-Robots-Tag: noindex\r\n\
             X-Wakeport-State: {state}\r\n\
             Content-Security-Policy: default-src 'none'; style-src 'nonce-{nonce}'; \
             script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:\r\n\
             {}\r\n\r\n",
            self.status,
            body.len(),
            match self.persists {
                true => "Keep-Alive: timeout=145",
                false => "Connection: close",
            }
        );
        [head.into_bytes(), body.into_bytes()].concat()
    }

    /// After how many seconds a browser without JavaScript asks again; after a failure, all do.
    fn refresh(&self) -> u64 {
        if self.failure.is_some() {
            return AFTER_FAILURE;
        }
        self.rest.map_or(3, |rest| rest.as_secs()).clamp(1, 10)
    }
}

/// What the page itself is told, which asks by [`WAITS`]: 204 is a service that answers.
pub fn news(
    state: &str,
    elapsed: Duration,
    expected: Option<Duration>,
    waits_for: Option<&str>,
) -> Vec<u8> {
    let expected = expected.map_or("null".to_owned(), |it| format!("{:.1}", it.as_secs_f64()));
    let waits_for = waits_for.map_or(String::new(), |why| {
        format!(",\"waits_for\":{}", serde_json::Value::from(why))
    });
    let body = format!(
        "{{\"state\":\"{state}\",\"elapsed\":{:.1},\"expected\":{expected}{waits_for}}}\n",
        elapsed.as_secs_f64()
    );
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nKeep-Alive: timeout=145\r\n\r\n",
        body.len()
    );
    [head, body].concat().into_bytes()
}

/// The same, when the service answers.
pub const IT_ANSWERS: &str =
    "HTTP/1.1 204 No Content\r\nCache-Control: no-store\r\nKeep-Alive: timeout=145\r\n\r\n";

/// Puts values in the place of their names, once: what a value holds is no name.
fn fill(template: &str, values: &[(&str, String)]) -> String {
    let (mut filled, mut rest) = (String::new(), template);
    while let Some(at) = rest.find("{{") {
        let (before, from) = rest.split_at(at);
        filled.push_str(before);
        let known = values.iter().find(|(name, _)| from.starts_with(name));
        let (text, length) = known.map_or(("{{", 2), |(name, value)| (value.as_str(), name.len()));
        filled.push_str(text);
        rest = &from[length..];
    }
    filled.push_str(rest);
    filled
}

/// Text that is no HTML.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Template, WaitingPage};
    use crate::http::head;

    fn navigates(request: &str) -> bool {
        let text = format!(
            "{}\r\n\r\n",
            request
                .replacen('\n', "\r\nHost: a\n", 1)
                .replace('\n', "\r\n")
                .replace("\r\r", "\r")
        );
        let mut room = head::room();
        let read = head::request(text.as_bytes(), &mut room).expect("a request");
        is_navigation(&read.expect("a whole one").0)
    }

    #[test]
    fn a_page_says_what_a_wake_waits_for() {
        let page = Page {
            name: "shop",
            here: "./",
            rest: Some(Duration::from_secs(40)),
            failure: None,
            waits_for: Some("pod `web-0`: <Unschedulable>"),
            template: Some("{{state}} {{text}}"),
            status: 503,
            persists: true,
        };
        let text = String::from_utf8(page.response("n0")).expect("text");
        let body = "starting It waits for pod `web-0`: &lt;Unschedulable&gt;.";
        assert!(text.ends_with(body), "{text}");
    }

    #[test]
    fn only_people_who_navigate_see_a_page() {
        let browser = "GET / HTTP/1.1\nAccept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8";
        assert!(navigates(browser));
        assert!(navigates(
            "GET / HTTP/1.1\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document"
        ));
        for request in [
            "GET / HTTP/1.1\nAccept: */*",
            "GET / HTTP/1.1\nAccept: application/json",
            "GET /a.js HTTP/1.1\nSec-Fetch-Mode: no-cors\nSec-Fetch-Dest: script\nAccept: text/html",
            "GET / HTTP/1.1\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: embed",
            &browser.replace("GET", "POST"),
            &browser.replace("GET", "HEAD"),
            &format!("{browser}\nRange: bytes=0-"),
            &format!("{browser}\nX-Requested-With: XMLHttpRequest"),
            &format!("{browser}\nHX-Request: true"),
            &format!("{browser}\nAuthorization: bearer x"),
            &format!("{browser}\nSec-Purpose: prefetch"),
            &format!("{browser}\nX-Wakeport-Wait: 1"),
            &format!("{browser}\nConnection: upgrade\nUpgrade: websocket"),
        ] {
            assert!(!navigates(request), "{request}");
        }
        assert!(navigates(&format!("{browser}\nAuthorization: Basic x")));
    }

    #[test]
    fn what_is_expected_is_what_nine_of_ten_stay_below() {
        let seconds = |all: &[u64]| {
            all.iter()
                .map(|&s| Duration::from_secs(s))
                .collect::<Vec<_>>()
        };
        assert_eq!(expected(&[]), None);
        assert_eq!(expected(&seconds(&[4])), Some(Duration::from_secs(4)));
        let all: Vec<u64> = (1..=10).rev().collect();
        assert_eq!(expected(&seconds(&all)), Some(Duration::from_secs(9)));
        let old = [vec![1000; 50], vec![2; 20]].concat();
        assert_eq!(expected(&seconds(&old)), Some(Duration::from_secs(2)));
    }

    #[test]
    fn a_page_is_shown_when_there_is_time_to_read_it() {
        let s = Duration::from_secs;
        // (expected, elapsed): shown after.
        assert_eq!(due(Some(s(1)), s(0), s(3)), s(4));
        assert_eq!(due(Some(s(40)), s(0), s(3)), s(0));
        assert_eq!(due(Some(s(40)), s(38), s(3)), s(5));
        assert_eq!(due(Some(s(40)), s(60), s(3)), s(3));
        assert_eq!(due(None, s(0), s(3)), s(3));
        assert_eq!(due(Some(s(40)), s(0), s(60)), s(100));
    }

    #[test]
    fn nothing_in_a_page_is_taken_for_html() {
        let page = Page {
            name: "<b>{{nonce}}",
            here: "./?\"",
            rest: Some(Duration::from_secs(40)),
            failure: None,
            waits_for: None,
            template: Some("{{name}} {{expected}} {{refresh}} {{here}} {{other}} {{"),
            status: 503,
            persists: true,
        };
        let text = String::from_utf8(page.response("n0")).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert_eq!(
            body,
            "&lt;b&gt;{{nonce}} about 40 s 10 ./?&quot; {{other}} {{"
        );
        assert!(
            head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
            "{head}"
        );
        assert!(
            head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())),
            "{head}"
        );
        for field in [
            "Retry-After: 10",
            "Cache-Control: no-store",
            "X-Robots-Tag: noindex",
        ] {
            assert!(head.contains(field), "{head}");
        }
    }

    #[test]
    fn every_word_of_a_template_is_filled_in() {
        let words = WaitingPage::WORDS.map(|word| format!("{{{{{word}}}}}"));
        let page = Page {
            name: "films",
            here: "./",
            rest: None,
            failure: None,
            waits_for: None,
            template: Some(&words.concat()),
            status: 200,
            persists: false,
        };
        let text = String::from_utf8(page.response("n0")).expect("text");
        assert!(!text.contains("{{"), "{text}");
        let text = format!("{}{{{{nme}}}}{{{{ a.b }}}}", TEMPLATE);
        let path = "x".into();
        assert_eq!(Template { path, text }.unknown(), ["nme"]);
    }

    #[test]
    fn our_own_page_has_nothing_left_to_fill_in() {
        for failure in [None, Some("it is <masked>")] {
            let page = Page {
                name: "films",
                here: "./",
                rest: None,
                failure,
                waits_for: None,
                template: None,
                status: 200,
                persists: false,
            };
            let text = String::from_utf8(page.response("n0")).expect("text");
            assert!(
                !text.contains("{{") && text.contains("nonce=\"n0\""),
                "{text}"
            );
            assert!(text.len() < 8192, "{}", text.len());
        }
    }
}
