//! Heads of requests and their responses: the result does not depend on segmentation; what is passed
//! on is read as the same, and passed on as the same.

use wakeport::http::framing::Length;
use wakeport::http::head::{self, Method, Origin, Reply, Request, Version};

/// One that adds nothing to what it is told.
const PROXY: Origin<'_> = Origin {
    client: None,
    is_trusted: true,
    target: "127.0.0.1:80",
};

const REPLY: Reply = Reply {
    closes: false,
    keep_alive: 145,
};

pub(super) fn property(bytes: &[u8]) {
    let stranger = Origin {
        is_trusted: false,
        ..PROXY
    };
    super::is_the_same_in_pieces(bytes, |seen| {
        read(seen, &stranger, &mut Vec::new()).transpose()
    });
    let mut passed = Vec::new();
    if let Ok(Some((request, length))) = read(bytes, &stranger, &mut passed) {
        assert!(length <= bytes.len().min(head::LONGEST));
        let mut again = Vec::new();
        let same = read(&passed, &PROXY, &mut again);
        let expected = Request {
            version: Version::Http11,
            persists: true,
            ..request
        };
        // What is added may be what makes a head too large for another one like us.
        if passed.len() <= length {
            assert_eq!(same, Ok(Some((expected, passed.len()))));
        }
        if let Ok(Some((again_read, _))) = same {
            assert_eq!(again_read, expected);
            assert_eq!(lines(&again), lines(&passed));
        }
        answers(bytes, &request);
    }
    let asked = Request {
        method: Method::Get,
        version: Version::Http11,
        length: Length::Exact(0),
        persists: true,
        upgrades: true,
        is_private: false,
    };
    answers(bytes, &asked);
}

/// Reads a request, and writes what is passed on.
fn read(bytes: &[u8], origin: &Origin<'_>, out: &mut Vec<u8>) -> head::Read<Request> {
    let mut room = head::room();
    let read = head::request(bytes, &mut room)?;
    Ok(read.map(|(received, length)| {
        received.write(origin, out);
        (received.request, length)
    }))
}

/// A response that is passed on is read as the same.
fn answers(bytes: &[u8], asked: &Request) {
    let mut passed = Vec::new();
    let Ok(Some((response, length))) = head::response(bytes, asked, &REPLY, &mut passed) else {
        return;
    };
    assert!(length <= bytes.len().min(head::LONGEST));
    if let Ok(Some((again, length))) = head::response(&passed, asked, &REPLY, &mut Vec::new()) {
        assert_eq!((again.status, length), (response.status, passed.len()));
        if asked.version == Version::Http11 {
            assert_eq!(again.length, response.length);
        }
    }
}

/// The lines of a head, in no order.
fn lines(head: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<_> = head.split(|&byte| byte == b'\n').collect();
    lines.sort_unstable();
    lines
}
