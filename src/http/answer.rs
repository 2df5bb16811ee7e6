//! The responses that are not the target's. 503 says that nothing has reached it, so that anything may be
//! sent again; 502 and 504 say that it may have.

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

use super::head::Method;

/// A response with this status. It ends the connection.
pub fn answer(status: u16, why: &str, method: Method) -> Vec<u8> {
    let reason = reason(status);
    let body = format!("{status} {reason}: {why}\n");
    let extra = match status {
        405 => "Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n",
        503 => "Retry-After: 1\r\n",
        _ => "",
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\nCache-Control: no-store\r\n{extra}Connection: close\r\n\r\n"
    );
    let mut answer = head.into_bytes();
    if method != Method::Head {
        answer.extend_from_slice(body.as_bytes());
    }
    answer
}

/// The response with the time at which it is made (RFC 9110, section 6.6.1).
pub fn dated(mut response: Vec<u8>, now: Timestamp) -> Vec<u8> {
    let line = response.windows(2).position(|end| end == b"\r\n");
    let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&now);
    if let (Some(line), Ok(date)) = (line, date) {
        let field = format!("Date: {date}\r\n");
        response.splice(line + 2..line + 2, field.into_bytes());
    }
    response
}

/// The response to a request for which no service is woken.
pub fn quiet_answer(status: u16, persists: bool) -> Vec<u8> {
    let connection = match persists {
        true => "Keep-Alive: timeout=145",
        false => "Connection: close",
    };
    // Neither of the two has a length (RFC 9110, section 8.6).
    let length = match status {
        204 | 304 => "",
        _ => "Content-Length: 0\r\n",
    };
    format!(
        "HTTP/1.1 {status} {}\r\n{length}Cache-Control: no-store\r\nX-Wakeport-State: asleep\r\n\
         {connection}\r\n\r\n",
        reason(status)
    )
    .into_bytes()
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        414 => "URI Too Long",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_has_its_date_behind_the_first_line() {
        let now = Timestamp::from_second(784_111_777).expect("a time");
        assert_eq!(
            dated(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(), now),
            b"HTTP/1.1 204 No Content\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n"
        );
    }
}
