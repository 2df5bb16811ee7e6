//! Requests that readers take in different ways, through `wakeport` to servers of other makes: each of them sees the
//! requests that were meant, and no others.

mod corpus;
mod targets;

use crate::support::{Place, Run};
use corpus::{Case, broken_off, cases};
use targets::Target;

/// What a body holds; see [`corpus`].
const SMUGGLED: &str = "GET /@/smuggled HTTP/1.1\nHost: a\n\n";
const PROBE: &str = "GET /@/probe HTTP/1.1\nHost: a\nConnection: close\n\n";

/// A response, as the client got it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// The target's, to a request for this path, with this body if it says so.
    Seen(String, Option<String>),
    /// The target's, which has not taken the request.
    Theirs(u16),
    /// Of wakeport's own.
    Own(u16),
}

/// A case that was sent.
struct Sent {
    number: String,
    case: Case,
    answers: Vec<Answer>,
    /// The last one says that the connection ends.
    closes: bool,
}

/// The bytes of a text of the corpus.
fn bytes(text: &str, number: &str) -> Vec<u8> {
    let text = text
        .replace("{S}", SMUGGLED)
        .replace("/@/", &format!("/{number}/"));
    let text = text.replace('\n', "\r\n");
    text.replace('␊', "\n")
        .replace('␍', "\r")
        .replace('␀', "\0")
        .into_bytes()
}

/// Takes apart what has come; heads are text, and only responses of wakeport's own have bodies.
fn answers(text: &[u8]) -> Vec<Answer> {
    let text = String::from_utf8_lossy(text);
    let (mut rest, mut all) = (&*text, Vec::new());
    while let Some((head, behind)) = rest.split_once("\r\n\r\n") {
        let field = |name: &str| {
            let is_it = |line: &&str| line.to_ascii_lowercase().starts_with(name);
            head.lines()
                .find(is_it)
                .and_then(|line| line.split_once(": "))
                .map(|(_, value)| value.to_owned())
        };
        let status = head
            .get(9..12)
            .and_then(|status| status.parse().ok())
            .unwrap_or_default();
        rest = behind;
        match (status, field("x-seen:")) {
            (100..200, _) => (),
            (_, Some(path)) => all.push(Answer::Seen(path, field("x-body:"))),
            (_, None) if field("cache-control:").is_some_and(|it| it == "no-store") => {
                all.push(Answer::Own(status));
                return all;
            }
            (_, None) => {
                all.push(Answer::Theirs(status));
                // It may have a body.
                rest = rest.find("HTTP/1.1 ").map_or("", |at| &rest[at..]);
            }
        }
    }
    all
}

/// Sends a case, at once or byte by byte.
fn send(front: &Place, number: &str, case: &Case, is_whole: bool, probes: bool) -> Sent {
    let client = front.connect();
    client.socket().set_tcp_nodelay(true).expect("an option");
    let (_, request, _) = case;
    let mut request = bytes(request, number);
    if probes {
        request.extend(bytes(PROBE, number));
    }
    // What was refused is not read to its end.
    if is_whole || request.len() > 4096 {
        let _ = client.try_send(&request);
    } else {
        let _ = request.iter().try_for_each(|&byte| client.try_send([byte]));
    }
    if !probes {
        let _ = client.socket().shutdown(std::net::Shutdown::Write);
    }
    let (response, _) = client.rest();
    let last = String::from_utf8_lossy(&response).to_ascii_lowercase();
    let last = last
        .rfind("http/1.1 ")
        .map_or("", |at| &last[at..])
        .to_owned();
    Sent {
        number: number.to_owned(),
        case: case.clone(),
        answers: answers(&response),
        closes: last.contains("\r\nconnection: close\r\n"),
    }
}

/// What the target may have seen of a case, by what was meant and what the client got: each with whether it must have.
fn check(sent: &Sent) -> Result<Vec<(String, bool)>, String> {
    let (_, _, meant) = &sent.case;
    let (mut answers, mut seen) = (sent.answers.iter(), Vec::new());
    let mut has_body = false;
    let smuggled = bytes(SMUGGLED, &sent.number);
    let smuggled: String = smuggled.iter().map(|byte| format!("{byte:02x}")).collect();
    for token in meant.split_whitespace() {
        let (token, may_refuse) = match token.strip_suffix('?') {
            Some(token) => (token, true),
            None => (token, false),
        };
        let (name, body) = match token.split_once('=') {
            Some((name, _)) => (name, &*smuggled),
            None => (token, ""),
        };
        let path = |name: &str| format!("/{}/{name}", sent.number);
        if let Some(name) = token.strip_prefix('(') {
            let path = path(name.trim_end_matches(')'));
            // It may not have waited for the whole body.
            match answers.clone().next() {
                Some(Answer::Seen(found, _)) if *found == path && answers.len() == 1 => {
                    return Ok(vec![(path, true)]);
                }
                Some(Answer::Theirs(_)) if answers.len() == 1 => return Ok(vec![(path, false)]),
                _ => seen.push((path, false)),
            }
            continue;
        }
        let answer = answers.next();
        let had_body = std::mem::replace(&mut has_body, !body.is_empty());
        match (token.parse::<u16>(), answer) {
            (Ok(status), Some(Answer::Own(own))) if *own == status => (),
            (Err(_), Some(Answer::Seen(found, says))) if found.ends_with(&path(name)) => {
                if says.as_deref().is_some_and(|says| says != body) {
                    return Err(format!("another body: {says:?}"));
                }
                seen.push((path(name), true));
            }
            (Err(_), Some(Answer::Theirs(_))) if may_refuse => seen.push((path(name), false)),
            // It has answered before the body was there, and the client knows that the connection ends.
            (_, None) if sent.closes && had_body => return Ok(seen),
            _ => return Err(format!("{answer:?} instead of `{token}`")),
        }
    }
    match (answers.next(), meant.contains('(')) {
        // What breaks off may be told, or not.
        (None, _) | (Some(Answer::Own(400 | 502)), true) => Ok(seen),
        (more, _) => Err(format!("one more: {more:?}")),
    }
}

fn sees_what_was_meant(name: &str, target: Target) {
    let front = Place::tcp();
    let wakeport = Run::new()
        .to(&target.place)
        .listen(&front)
        .flag("--http")
        .start();
    let mut all = Vec::new();
    for (cases, probes) in [(cases(), true), (broken_off(), false)] {
        for case in cases {
            for is_whole in [true, false] {
                let number = format!("{:04}", all.len());
                all.push(send(&front, &number, &case, is_whole, probes));
            }
        }
    }
    drop(wakeport);
    let lines = target.end();
    let mut wrong = Vec::new();
    for sent in &all {
        let mut seen = lines
            .iter()
            .filter(|line| line.contains(&format!("/{}/", sent.number)));
        let verdict = check(sent).and_then(|meant| {
            for (path, must) in meant {
                let mut rest = seen.clone();
                match rest.next().is_some_and(|line| line.ends_with(&path)) {
                    true => seen = rest,
                    false if must => return Err(format!("it has not seen `{path}`")),
                    false => (),
                }
            }
            seen.next()
                .map_or(Ok(()), |more| Err(format!("it has seen `{more}`")))
        });
        if let Err(why) = verdict {
            let (case, request, meant) = &sent.case;
            let request: String = request.chars().take(300).collect();
            wrong.push(format!(
                "`{case}` ({request:?}, meant `{meant}`): {why}; {:?}",
                sent.answers
            ));
        }
    }
    let theirs = all.iter().flat_map(|sent| &sent.answers);
    let theirs = theirs
        .filter(|answer| matches!(answer, Answer::Theirs(_)))
        .count();
    let bad = lines
        .iter()
        .filter(|line| line.contains("BAD") && !line.starts_with("CR"))
        .count();
    if bad > theirs {
        wrong.push(format!(
            "{bad} requests are none to it, and {theirs} clients know"
        ));
    }
    assert!(
        wrong.is_empty(),
        "{name}, {} of {}:\n{}",
        wrong.len(),
        all.len(),
        wrong.join("\n")
    );
}

#[test]
fn hyper_sees_the_requests_that_were_meant() {
    sees_what_was_meant("hyper", Target::hyper());
}

#[test]
fn h11_sees_the_requests_that_were_meant() {
    sees_what_was_meant("h11", Target::h11());
}

#[test]
fn nginx_sees_the_requests_that_were_meant() {
    sees_what_was_meant("nginx", Target::nginx());
}

#[test]
fn haproxy_sees_the_requests_that_were_meant() {
    sees_what_was_meant("HAProxy", Target::haproxy());
}

#[test]
fn node_sees_the_requests_that_were_meant() {
    sees_what_was_meant("node", Target::node());
}
