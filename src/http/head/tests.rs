//! Heads as they come, and as they are passed on.

use super::*;

const STRANGER: Origin<'_> = Origin {
    client: Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7))),
    is_trusted: false,
    target: "127.0.0.1:8080",
};

const FORWARDED: &str = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\n";

/// Reads a request, and writes what is passed on.
fn request(bytes: &[u8], origin: &Origin<'_>, out: &mut Vec<u8>) -> Read<Request> {
    let mut room = room();
    Ok(super::request(bytes, &mut room)?.map(|(received, length)| {
        received.write(origin, out);
        (received.request, length)
    }))
}

/// What comes of a request, and what is passed on without what is told of the client.
fn passed(head: &str) -> Result<(Request, String), u16> {
    let mut out = Vec::new();
    let read = request(head.as_bytes(), &STRANGER, &mut out).map_err(|refusal| refusal.status)?;
    let (request, length) = read.expect("it is complete");
    assert_eq!(length, head.len(), "{head:?}");
    let text = String::from_utf8(out).expect("it was text");
    let (before, _) = text
        .split_once("X-Forwarded-For")
        .expect("the target is told");
    Ok((request, before.to_owned()))
}

fn status(head: &str) -> u16 {
    match passed(head) {
        Ok((_, text)) => panic!("{head:?} is passed on as {text:?}"),
        Err(status) => status,
    }
}

/// A GET request with these lines.
fn get(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
}

#[test]
fn a_request_is_written_anew() {
    let head = "\r\nPOST /a?b=%2f HTTP/1.1\r\nhOST:  example.org:8080 \r\nAccept:*/*\r\nX-Empty:\r\n\
                content-length: 0012\r\nCookie: a=\"b c\"\r\n\r\n";
    let (request, text) = passed(head).expect("it is one");
    assert_eq!(
        text,
        "POST /a?b=%2f HTTP/1.1\r\nHost: example.org:8080\r\nAccept: */*\r\nX-Empty: \r\n\
         Cookie: a=\"b c\"\r\nContent-Length: 12\r\n"
    );
    let expected = Request {
        method: Method::Other,
        version: Version::Http11,
        length: Length::Exact(12),
        persists: true,
        upgrades: false,
        is_private: false,
    };
    assert_eq!(request, expected);
}

/// What was written is read as the same request, and written as the same bytes.
#[test]
fn what_is_passed_on_reads_as_the_same() {
    for head in [
        "GET / HTTP/1.0\r\n\r\n",
        "HEAD * HTTP/1.1\r\nHost: a\r\n\r\n"
            .replace("HEAD", "OPTIONS")
            .as_str(),
        "GET http://b:1/c HTTP/1.1\r\nHost: a\r\n\r\n",
        "PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\nTE: trailers, gzip\r\n\r\n",
        &get("Connection: Upgrade, x\r\nUpgrade: websocket\r\nX: 1\r\nY: 2\r\n"),
    ] {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let proxy = Origin {
            client: None,
            is_trusted: true,
            ..STRANGER
        };
        let one = request(head.as_bytes(), &STRANGER, &mut first).expect("it is one");
        let two = request(&first, &proxy, &mut second).expect("it is one");
        let (one, two) = (one.expect("complete").0, two.expect("complete").0);
        assert_eq!(
            Request {
                version: two.version,
                persists: two.persists,
                ..one
            },
            two,
            "{head:?}"
        );
        let sorted = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&first), sorted(&second), "{head:?}");
    }
}

#[test]
fn a_part_of_a_head_is_none_yet() {
    let head = get("A: b\r\n");
    for end in 0..head.len() {
        let read = request(&head.as_bytes()[..end], &STRANGER, &mut Vec::new());
        assert_eq!(read, Ok(None), "{:?}", &head[..end]);
    }
}

#[test]
fn what_two_readers_may_take_in_two_ways_is_refused() {
    for head in [
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\u{fc} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http:///b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://u@a/b HTTP/1.1\r\nHost: a\r\n\r\n",
        "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        &get("X : b\r\n"),
        &get("X: b\r\n c\r\n"),
        &get(" X: b\r\n"),
        &get("X: b\0c\r\n"),
        &get("X: b\rc\r\n"),
        &get(": b\r\n"),
        &get("no field\r\n"),
        &get("Content-Length: 1\r\nContent-Length: 1\r\n"),
        &get("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
        &get("Content-Length: 1, 1\r\n"),
        &get("Content-Length: +1\r\n"),
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        assert_eq!(status(head), 400, "{head:?}");
    }
    assert_eq!(status(&get("Transfer-Encoding: gzip, chunked\r\n")), 501);
    assert_eq!(
        status(&get(
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"
        )),
        501
    );
    assert_eq!(status("GET / HTTP/1.2\r\nHost: a\r\n\r\n"), 505);
    assert_eq!(status("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
    assert_eq!(status("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"), 405);
}

#[test]
fn what_is_too_long_is_refused_as_that() {
    let target = format!(
        "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
        "x".repeat(LONGEST_TARGET)
    );
    assert_eq!(status(&target), 414);
    assert_eq!(status(&format!("GET /{}", "x".repeat(LONGEST))), 414);
    let field = format!("X: {}\r\n", "x".repeat(LONGEST));
    assert_eq!(status(&get(&field)), 431);
    assert_eq!(status(get(&field).trim_end()), 431);
    assert_eq!(status(&get(&"X: y\r\n".repeat(MOST_FIELDS))), 431);
}

#[test]
fn what_belongs_to_one_connection_stays_there() {
    let head = get(
        "Connection: close, X-Own, Host, COOKIE, Authorization, X-Forwarded-For, Content-Length\r\n\
         x-own: 1\r\nCookie: c\r\nAuthorization: d\r\nContent-Length: 0\r\nKeep-Alive: 5\r\n\
         Proxy-Connection: keep-alive\r\nProxy-Authorization: e\r\nUpgrade: h2c\r\nTE: gzip\r\n\
         HTTP2-Settings: AAMAAABk\r\n\
         Expect: 100-continue\r\n",
    );
    let (request, text) = passed(&head).expect("it is one");
    assert_eq!(
        text,
        "GET / HTTP/1.1\r\nHost: a\r\nCookie: c\r\nAuthorization: d\r\nExpect: 100-continue\r\n\
         Content-Length: 0\r\n"
    );
    assert!(!request.persists && !request.upgrades);
}

/// Applications that know fields by the names of environment variables take `_` for `-`.
#[test]
fn a_name_with_an_underscore_does_not_pass_for_another_one() {
    let head = get(
        "Content_Length: 5\r\nX_Forwarded_For: b\r\nTransfer_Encoding: chunked\r\nX_Own: c\r\n",
    );
    let (request, text) = passed(&head).expect("it is one");
    assert_eq!(text, "GET / HTTP/1.1\r\nHost: a\r\nX_Own: c\r\n");
    assert_eq!(request.length, Length::Exact(0));
}

#[test]
fn only_a_plain_get_asks_for_another_protocol() {
    let lines = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n";
    let (request, text) = passed(&get(lines)).expect("it is one");
    assert!(request.upgrades);
    let expected = "GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: k\r\nConnection: upgrade\r\n\
                    Upgrade: websocket\r\n";
    assert_eq!(text, expected);
    let several = lines.replace("websocket", "h2c, websocket, x/1");
    let (_, text) = passed(&get(&several)).expect("it is one");
    assert!(text.ends_with("Upgrade: websocket, x/1\r\n"), "{text}");
    for head in [
        get(lines).replace("GET", "POST"),
        get(lines).replace("HTTP/1.1", "HTTP/1.0"),
        get(&format!("{lines}Content-Length: 1\r\n")),
        get(&format!("{lines}Transfer-Encoding: chunked\r\n")),
        get(&lines.replace("websocket", "h2c")),
        get("Upgrade: websocket\r\n"),
    ] {
        let (request, text) = passed(&head).expect("it is one");
        assert!(
            !request.upgrades && !text.contains("pgrade"),
            "{head:?}: {text:?}"
        );
    }
}

#[test]
fn a_target_is_seen_from_itself() {
    for (target, here) in [
        ("/", "./"),
        ("/a", "./a"),
        ("/a/b:c?d=/e", "./b:c?d=/e"),
        ("/a/?b", "./?b"),
        ("/a#b?c", "./a"),
        ("http://b", "./"),
        ("http://b?c", "./?c"),
        ("http://b/c/d", "./d"),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut room = room();
        let read = super::request(head.as_bytes(), &mut room).expect("a request");
        assert_eq!(read.expect("a whole one").0.reference(), here, "{target}");
    }
}

#[test]
fn the_host_of_the_target_counts() {
    let (_, text) =
        passed("GET http://B.example:81?q HTTP/1.1\r\nHost: a\r\n\r\n").expect("it is one");
    assert_eq!(text, "GET /?q HTTP/1.1\r\nHost: B.example:81\r\n");
    let (_, text) = passed("OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n").expect("it is one");
    assert_eq!(text, "OPTIONS * HTTP/1.1\r\nHost: b\r\n");
    let (request, text) = passed("GET / HTTP/1.0\r\n\r\n").expect("it is one");
    assert_eq!(text, "GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n");
    assert!(!request.persists);
    let (request, _) =
        passed("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").expect("it is one");
    assert!(request.persists);
}

/// What is passed on of what a proxy tells, and of what anyone could.
#[test]
fn only_a_proxy_of_ours_tells_of_others() {
    let head = get(
        "X-Forwarded-For: 198.51.100.1\r\nx-forwarded-for: 198.51.100.2\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: shop\r\nX-Forwarded-Port: 443\r\nX-Real-IP: 198.51.100.1\r\n\
         Forwarded: for=198.51.100.1\r\n",
    );
    let told = |origin: &Origin<'_>| {
        let mut out = Vec::new();
        request(head.as_bytes(), origin, &mut out).expect("it is one");
        let text = String::from_utf8(out).expect("it was text");
        text.strip_prefix("GET / HTTP/1.1\r\nHost: a\r\n")
            .expect("it begins so")
            .to_owned()
    };
    assert_eq!(
        told(&STRANGER),
        format!("{FORWARDED}X-Forwarded-Host: a\r\n\r\n")
    );
    let proxy = Origin {
        is_trusted: true,
        ..STRANGER
    };
    assert_eq!(
        told(&proxy),
        "X-Forwarded-Port: 443\r\nX-Real-IP: 198.51.100.1\r\n\
         X-Forwarded-For: 198.51.100.1, 198.51.100.2, 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: shop\r\nForwarded: for=198.51.100.1, for=192.0.2.7;proto=http\r\n\r\n"
    );
    let unix = Origin {
        client: None,
        ..proxy
    };
    assert!(told(&unix).contains("X-Forwarded-For: 198.51.100.1, 198.51.100.2\r\n"));
}

/// A request whose response is at stake.
const ASKED: Request = Request {
    method: Method::Get,
    version: Version::Http11,
    length: Length::Exact(0),
    persists: true,
    upgrades: false,
    is_private: false,
};

/// What comes of a response, and what is passed on.
fn answered(head: &str, asked: &Request, closes: bool) -> Result<(Response, String), u16> {
    let mut out = Vec::new();
    let reply = Reply {
        closes,
        keep_alive: 145,
    };
    let read = response(head.as_bytes(), asked, &reply, &mut out);
    let (response, length) = read
        .map_err(|refusal| refusal.status)?
        .expect("it is complete");
    assert_eq!(length, head.len());
    Ok((response, String::from_utf8(out).expect("it was text")))
}

#[test]
fn a_response_is_written_anew() {
    let head = "HTTP/1.1 200 Fine\r\ndate: x\r\nConnection: X-Own\r\nX-Own: 1\r\nKeep-Alive: timeout=5\r\n\
                Set-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 007\r\nUpgrade: h2c\r\n\r\n";
    let (response, text) = answered(head, &ASKED, false).expect("it is one");
    assert_eq!(
        text,
        "HTTP/1.1 200 Fine\r\ndate: x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\
         Content-Length: 7\r\nKeep-Alive: timeout=145\r\n\r\n"
    );
    let expected = Response {
        status: 200,
        length: Length::Exact(7),
        persists: true,
        closes: false,
    };
    assert_eq!(response, expected);
}

#[test]
fn where_a_response_ends() {
    let old = Request {
        version: Version::Http10,
        ..ASKED
    };
    let chunked = "HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n";
    for (head, asked, closes, expected) in [
        (
            "HTTP/1.1 204 \r\nContent-Length: 5\r\n\r\n",
            &ASKED,
            false,
            "HTTP/1.1 204 \r\nKeep-Alive: timeout=145\r\n\r\n",
        ),
        (
            "HTTP/1.1 304 \r\nContent-Length: 5\r\n\r\n",
            &ASKED,
            true,
            "HTTP/1.1 304 \r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
        ),
        (
            chunked,
            &ASKED,
            false,
            "HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=145\r\n\r\n",
        ),
        (
            chunked,
            &old,
            false,
            "HTTP/1.1 200 \r\nConnection: close\r\n\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\n\r\n",
            &ASKED,
            false,
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            &old,
            false,
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\nKeep-Alive: timeout=145\r\n\r\n",
        ),
        (
            "HTTP/1.1 103 Early\r\nLink: a\r\n\r\n",
            &ASKED,
            true,
            "HTTP/1.1 103 Early\r\nLink: a\r\n\r\n",
        ),
    ] {
        let (_, text) = answered(head, asked, closes).expect("it is one");
        assert_eq!(text, expected);
    }
    let head = Request {
        method: Method::Head,
        ..ASKED
    };
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
    let (response, text) = answered(length, &head, true).expect("it is one");
    assert_eq!(response.length, Length::Exact(0));
    assert_eq!(
        text,
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n"
    );
    for bad in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 101 \r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
    ] {
        assert_eq!(answered(bad, &ASKED, false), Err(502), "{bad:?}");
    }
}

#[test]
fn a_protocol_is_switched_only_when_asked_for() {
    let asked = Request {
        upgrades: true,
        is_private: false,
        ..ASKED
    };
    let head =
        "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX: y\r\n\r\n";
    let (response, text) = answered(head, &asked, false).expect("it is one");
    assert!(response.upgrades() && !response.is_interim());
    assert_eq!(
        text,
        "HTTP/1.1 101 Switching\r\nX: y\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    assert_eq!(
        answered(&head.replace("Connection: Upgrade\r\n", ""), &asked, false),
        Err(502)
    );
}

/// RFC 4559, section 6: whoever has such a connection is taken for the one who has proved to be it.
#[test]
fn a_connection_that_is_authenticated_is_not_for_others() {
    for scheme in ["NTLM TlRM", "negotiate YII"] {
        let head = get(&format!("Authorization: {scheme}\r\n"));
        assert!(passed(&head).expect("it is one").0.is_private);
    }
    let head = get("Authorization: Basic YTpi\r\nCookie: ntlm\r\n");
    assert!(!passed(&head).expect("it is one").0.is_private);
    let head = "HTTP/1.1 401 No\r\nWWW-Authenticate: Negotiate\r\nContent-Length: 0\r\n\r\n";
    let reply = Reply {
        closes: false,
        keep_alive: 5,
    };
    let read = response(head.as_bytes(), &ASKED, &reply, &mut Vec::new()).expect("it is one");
    assert!(!read.expect("it is complete").0.persists);
}
