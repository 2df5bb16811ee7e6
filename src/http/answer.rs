//! The responses that are not the target's. 503 says that nothing has reached it, so that anything may be
//! sent again; 502 and 504 say that it may have.

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
