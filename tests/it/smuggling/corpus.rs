//! Requests that readers have taken in different ways, and what `wakeport` makes of each.
//!
//! A request is written so: a line ends with CR LF, `␊` is a lone LF, `␍` a lone CR, `␀` a NUL, `/@/` has the
//! number of the case, and `{S}` is a request of 40 bytes (28 in hexadecimal) that no server may ever see, since it is a body. Behind
//! each case another request is sent, `probe`.
//!
//! What is meant is said so: `a` is a request for `/@/a` that is passed on, `a=S` has that body, `a?` may be refused by
//! the target, `(a)` may have reached it, but the client gets no response of its; a number is a response of wakeport's
//! own, behind which there is nothing. Without `probe` at the end the connection ends before it.

/// A case: its name, what is sent, what is meant.
pub(crate) type Case = (String, String, String);

const HEAD: &str = "/@/a HTTP/1.1\nHost: a\n";

/// Those of the first part of a head: `{}` stands for what differs.
fn each(name: &str, request: &str, meant: &str, variants: &[&str]) -> Vec<Case> {
    let case = |variant: &&str| {
        let text = request.replace("{}", variant);
        (format!("{name}: {variant}"), text, meant.to_owned())
    };
    variants.iter().map(case).collect()
}

pub(crate) fn cases() -> Vec<Case> {
    let post = format!("POST {HEAD}");
    let get = format!("GET {HEAD}");
    let with_length = format!("{post}{{}}Content-Length: 40\n\n{{S}}");
    let with_chunks = format!("{post}Transfer-Encoding: chunked\n{{}}\n28\n{{S}}\n0\n\n");
    let coding = format!("{post}Transfer-Encoding:{{}}\n\n28\n{{S}}\n0\n\n");
    let length = format!("{post}Content-Length:{{}}\n\n{{S}}");
    let chunks = format!("{post}Transfer-Encoding: chunked\n\n{{}}");
    let huge = "x".repeat(40_000);
    let fields: String = (0..101).map(|number| format!("X-{number}: y\n")).collect();
    let mut all = Vec::new();
    let mut add = |name: &str, request: &str, meant: &str, variants: &[&str]| {
        all.extend(each(name, request, meant, variants));
    };

    // -- both lengths, or none that is clear
    let both = format!("{post}{{}}\n0\n\n{{S}}");
    add(
        "both",
        &both,
        "400",
        &[
            "Content-Length: 45\nTransfer-Encoding: chunked\n",
            "Transfer-Encoding: chunked\nContent-Length: 45\n",
            "Content-Length: 45\nTransfer-Encoding: xchunked\n",
            "Content-Length: 45\ntRANSFER-eNCODING:chunked\n",
            "Content-Length: 45\nTransfer-Encoding:\tchunked\n",
            "Content-Length: 45\nTransfer-Encoding: identity\n",
            "Content-Length: 45\nTransfer-Encoding:\n",
            "Content-Length: 0\nContent-Length: 45\nTransfer-Encoding: chunked\n",
        ],
    );
    add(
        "coding",
        &coding,
        "a=S probe",
        &[
            " chunked",
            "chunked",
            "\tchunked",
            " Chunked",
            " CHUNKED",
            " chunked \t",
        ],
    );
    add(
        "coding",
        &coding,
        "501",
        &[
            " xchunked",
            " chunked, identity",
            " identity",
            " identity, chunked",
            " chunked, chunked",
            " chunked;q=1",
            " \"chunked\"",
            " 'chunked'",
            " chunked,",
            " ,chunked",
            " gzip, chunked",
            " x",
            "",
            " chunked\u{a0}",
            " chun\tked",
            " chunked\nTransfer-Encoding: chunked",
            " chunked\nTransfer-Encoding: identity",
            " identity\nTransfer-Encoding: chunked",
            "\nTransfer-Encoding: chunked",
            " chunked chunked",
        ],
    );
    add(
        "coding",
        &coding,
        "400",
        &[
            " ␀chunked",
            " chunked␀",
            " chunked␍",
            " \u{b}chunked",
            " chunked\u{b}",
            " \u{7f}chunked",
            "\n chunked",
            "\n\tchunked",
            "␊ chunked",
            " chunked␊X: y",
        ],
    );
    add(
        "name",
        &with_length,
        "400",
        &[
            "Transfer-Encoding : chunked\n",
            "Transfer-Encoding\t: chunked\n",
            " Transfer-Encoding: chunked\n",
            "Transfer-Encoding␀: chunked\n",
            "Transfer Encoding: chunked\n",
            "Transfer-Encoding chunked\n",
            "Transfer-Encoding\n: chunked\n",
            "X: y\n Transfer-Encoding: chunked\n",
            "X: y␍Transfer-Encoding: chunked\n",
            "X: y␊Transfer-Encoding: chunked\n",
            "X: y␍␍\nTransfer-Encoding: chunked\n",
            ": chunked\n",
            "\"Transfer-Encoding\": chunked\n",
            "Transfer-Encoding\u{a0}: chunked\n",
            "(x): chunked\n",
            "X␀: y\n",
            "X: ␀\n",
            "X: \u{1b}\n",
            "X\n",
            "\tX: y\n",
            "X: y␍z\n",
            "Content-Length : 0\n",
            "Content-Length\t: 0\n",
        ],
    );
    // Names that applications take for another one.
    add(
        "name",
        &with_length,
        "a=S probe",
        &[
            "Transfer_Encoding: chunked\n",
            "Content_Length: 0\n",
            "TE: chunked\n",
            "Transfer-Encodin: chunked\n",
            "X-Transfer-Encoding: chunked\n",
            "TransferEncoding: chunked\n",
            "Trailer: Content-Length\n",
            "X: \u{e9}\n",
            "X:\n",
            "Connection: content-length\n",
            "Connection: Content-Length, host, cookie\n",
            "Connection: transfer-encoding\n",
            "Proxy-Connection: close\n",
            "Keep-Alive: max=1\n",
            "Connection:\n",
            "Content-Encoding: chunked\n",
            "Host_: b\n",
            "X-HTTP-Method-Override: GET\n",
        ],
    );
    add(
        "length",
        &length,
        "a=S probe",
        &[" 40", "40", "\t40", " 40 \t", " 00040"],
    );
    add(
        "length",
        &length,
        "400",
        &[
            " +40",
            " -40",
            " 0x28",
            " 4 0",
            " 40;",
            " 4_0",
            " 40.0",
            " 4e1",
            "",
            " 40, 40",
            " 40,",
            " ,40",
            " 0, 40",
            " \u{664}\u{660}",
            " 18446744073709551656",
            " 9223372036854775808",
            " 40\nContent-Length: 40",
            " 0\nContent-Length: 40",
            " 40\nContent-Length: 0",
            " 40\ncontent-length: 40",
            "\n 40",
            " 40␍",
            " ␀40",
            " \"40\"",
            " 40\u{a0}",
            " 40 0",
            " x",
        ],
    );

    // -- chunks
    add(
        "chunks",
        &chunks,
        "a=S probe",
        &[
            "28\n{S}\n0\n\n",
            "028\n{S}\n0\n\n",
            "0000000000000028\n{S}\n0\n\n",
            "28;x=y\n{S}\n0\n\n",
            "28;x=\"y\"\n{S}\n0;z\n\n",
            "28 ;x\n{S}\n0 \n\n",
            "28\n{S}\n00\n\n",
            "28\n{S}\n0\nX: y\n\n",
            "28\n{S}\n0\nContent-Length: 5\n\n",
            "28\n{S}\n0\nTransfer-Encoding: chunked\n\n",
            "28\n{S}\n0\nHost: b\n\n",
            "28\n{S}\n0\nETag: \"1\"\nConnection: close\n\n",
            "28;{S\n{S}\n0\n\n",
            "28;\u{e9}\n{S}\n0\n\n",
        ],
    );
    add(
        "chunks",
        &chunks,
        "(a) 400",
        &[
            "+28\n{S}\n0\n\n",
            "-28\n{S}\n0\n\n",
            "0x28\n{S}\n0\n\n",
            "2_8\n{S}\n0\n\n",
            "28h\n{S}\n0\n\n",
            " 28\n{S}\n0\n\n",
            "\n28\n{S}\n0\n\n",
            "00000000000000028\n{S}\n0\n\n",
            "100000000000000028\n{S}\n0\n\n",
            "8000000000000000\n{S}\n0\n\n",
            "ffffffffffffffff\n{S}\n0\n\n",
            "28␊{S}\n0\n\n",
            "28␍␍\n{S}\n0\n\n",
            "28␍{S}\n0\n\n",
            "28\n{S}0\n\n",
            "28\n{S}␊0\n\n",
            "28\n{S}␍0\n\n",
            "28\n{S}\n0␊␊",
            "28\n{S}\n0\n␊",
            "28\n{S}\n-0\n\n",
            "28\n{S}xx\n0\n\n",
            "27\n{S}\n0\n\n",
            "28;x␊\n{S}\n0\n\n",
            "28;x␀\n{S}\n0\n\n",
            "28;x=\"\n\"\n{S}\n0\n\n",
            "28;␍x\n{S}\n0\n\n",
            "28\n{S}\n0\nX : y\n\n",
            "28\n{S}\n0\n X: y\n\n",
            "28\n{S}\n0\nX: y␊Y: z\n\n",
            "28\n{S}\n0\nX: y\n z\n\n",
            "28\n{S}\n0\nX␀: y\n\n",
            "28\n{S}\n0\nno field\n\n",
            "28,x\n{S}\n0\n\n",
            "\u{ff12}8\n{S}\n0\n\n",
            "g\n{S}\n0\n\n",
            "28\n{S}\n\n0\n\n",
        ],
    );
    let long = format!("28;{}\n{{S}}\n0\n\n", "x".repeat(300));
    let trailers = format!("28\n{{S}}\n0\nX: {}\n\n", "x".repeat(9000));
    add(
        "chunks, long",
        &chunks.replace("{}", &long),
        "(a) 400",
        &[""],
    );
    add(
        "chunks, long trailers",
        &chunks.replace("{}", &trailers),
        "(a) 400",
        &[""],
    );
    add(
        "chunks and",
        &with_chunks,
        "a=S probe",
        &[
            "TE: trailers\n",
            "Connection: transfer-encoding\n",
            "Connection: te, transfer-encoding\nTE: trailers\n",
            "Content_Length: 0\n",
            "Trailer: x\n",
            "Expect: 100-continue\n",
        ],
    );
    add(
        "chunks of 1.0",
        "POST /@/a HTTP/1.0\nHost: a\n{}\n28\n{S}\n0\n\n",
        "400",
        &[
            "Transfer-Encoding: chunked\n",
            "Transfer-Encoding: chunked\nConnection: keep-alive\n",
            "Transfer-Encoding: identity\n",
            "Transfer-Encoding: chunked\nContent-Length: 40\n",
        ],
    );

    // -- lines
    add(
        "lines",
        "{}",
        "400",
        &[
            "GET /@/a HTTP/1.1␊Host: a␊␊",
            "GET /@/a HTTP/1.1␊Host: a\n\n",
            "GET /@/a HTTP/1.1\nHost: a␊\n",
            "GET /@/a HTTP/1.1\nHost: a\n␊",
            "GET /@/a HTTP/1.1\nHost: a␍␍",
            "GET /@/a HTTP/1.1␍Host: a\n\n",
            "␊GET /@/a HTTP/1.1\nHost: a\n\n",
            " GET /@/a HTTP/1.1\nHost: a\n\n",
            "GET  /@/a HTTP/1.1\nHost: a\n\n",
            "GET\t/@/a HTTP/1.1\nHost: a\n\n",
            "GET /@/a\tHTTP/1.1\nHost: a\n\n",
            "GET /@/a HTTP/1.1 \nHost: a\n\n",
            "GET /@/a\nHost: a\n\n",
            "GET /@/a\n",
            "GET /@/a␀ HTTP/1.1\nHost: a\n\n",
            "GET /@/\u{e9} HTTP/1.1\nHost: a\n\n",
            "G␀T /@/a HTTP/1.1\nHost: a\n\n",
            "GE(T /@/a HTTP/1.1\nHost: a\n\n",
            "GET @/a HTTP/1.1\nHost: a\n\n",
            "GET * HTTP/1.1\nHost: a\n\n",
            "GET /@/a HTTP/1.1\n Host: a\n\n",
            "GET /@/a HTTP/1.1\n\tX: y\nHost: a\n\n",
            "GET /@/a\u{b}HTTP/1.1\nHost: a\n\n",
            "GET /@/a HTTP/1.1\u{c}\nHost: a\n\n",
            "PRI * HTTP/1.1\nHost: a\n\n",
            "GET a:1 HTTP/1.1\nHost: a\n\n",
            "connect a:1 HTTP/1.1\nHost: a\n\n",
            "\u{feff}GET /@/a HTTP/1.1\nHost: a\n\n",
            "GET ?@/a HTTP/1.1\nHost: a\n\n",
        ],
    );
    add(
        "lines",
        "{}",
        "505",
        &[
            "GET /@/a HTTP/1.2\nHost: a\n\n",
            "GET /@/a  HTTP/1.1\nHost: a\n\n",
            "GET /@/a b HTTP/1.1\nHost: a\n\n",
            "GET /@/a HTTP/2.0\nHost: a\n\n",
            "GET /@/a HTTP/0.9\nHost: a\n\n",
            "GET /@/a HTTP/01.1\nHost: a\n\n",
            "GET /@/a http/1.1\nHost: a\n\n",
            "GET /@/a HTTP/1,1\nHost: a\n\n",
            "GET /@/a HTTPS/1.1\nHost: a\n\n",
        ],
    );
    add(
        "lines",
        "{}",
        "a probe",
        &["\nGET /@/a HTTP/1.1\nHost: a\n\n"],
    );
    add(
        "method",
        "{} /@/a HTTP/1.1\nHost: a\n\n",
        "a? probe",
        &[
            "FOO", "get", "GETX", "HEAD", "OPTIONS", "DELETE", "PURGE", "TRACE", "M-SEARCH", "PRI",
            "_",
        ],
    );
    add(
        "with a body",
        "{} /@/a HTTP/1.1\nHost: a\nContent-Length: 40\n\n{S}",
        "a=S? probe",
        &[
            "GET", "HEAD", "OPTIONS", "DELETE", "PUT", "PATCH", "TRACE", "FOO",
        ],
    );
    add(
        "connect",
        "CONNECT {} HTTP/1.1\nHost: a\n\n{S}",
        "405",
        &["a:1", "/@/a", "http://a/@/a"],
    );
    add(
        "too large",
        &format!("GET /@/{huge} HTTP/1.1\nHost: a\n\n"),
        "414",
        &[""],
    );
    add("too large", &format!("{get}X: {huge}\n\n"), "431", &[""]);
    add("too many", &format!("{get}{fields}\n"), "431", &[""]);

    // -- who is meant
    add(
        "host",
        "GET /@/a HTTP/1.1\n{}\n",
        "400",
        &[
            "",
            "Host: a\nHost: a\n",
            "Host: a\nHost: b\n",
            "Host: a\nhost: b\n",
            "Host:\n",
            "Host: a, b\n",
            "Host: a b\n",
            "Host: a/b\n",
            "Host: a@b\n",
            "Host : a\n",
            "Host: a␀\n",
            "Host: a?b\n",
            "Host: a#b\n",
            "Host: a\\b\n",
            "Host: \u{e9}\n",
            "Host:\n a\n",
            "Host_: a\n",
            "Host: a\nHost:\n",
            "Host: http://a\n",
            "Host: a\"b\n",
        ],
    );
    add(
        "host",
        "GET /@/a HTTP/1.1\n{}\n",
        "a probe",
        &[
            "Host: A\n",
            "Host: a:80\n",
            "hOST:a\n",
            "Host: [::1]:80\n",
            "Host: a\nConnection: host\n",
            "Host: a\nX-Forwarded-Host: b\nForwarded: host=b\n",
            "Host: a.\n",
        ],
    );
    add(
        "absolute",
        "GET {} HTTP/1.1\nHost: a\n\n",
        "a probe",
        &[
            "http://a/@/a",
            "HTTP://b/@/a",
            "https://a:443/@/a",
            "http://b/@/a",
        ],
    );
    add(
        "absolute",
        "GET {} HTTP/1.1\nHost: a\n\n",
        "400",
        &[
            "http:///@/a",
            "http://a@b/@/a",
            "ftp://a/@/a",
            "http:/@/a",
            "http://a\\b/@/a",
            "file:///@/a",
            "http://",
            "a/@/a",
        ],
    );
    add(
        "absolute without Host",
        "GET http://a/@/a HTTP/1.1\n\n",
        "400",
        &[""],
    );
    add(
        "absolute and Host",
        "GET http://a/@/a HTTP/1.1\n{}\n",
        "400",
        &["Host: a\nHost: b\n", "Host: b c\n"],
    );
    add(
        "path",
        "GET {} HTTP/1.1\nHost: a\n\n",
        "a? probe",
        &[
            "//a/@/a",
            "/../@/a",
            "/%2e%2e/@/a",
            "/x/../@/a",
            "/%00/@/a",
            "/%/@/a",
            "/\\/@/a",
            "/@/a",
        ],
    );

    // -- HTTP/1.0, and the end of a connection
    add(
        "1.0",
        "GET /@/a HTTP/1.0\n{}\n",
        "a",
        &[
            "",
            "Host: a\n",
            "Connection: close\n",
            "Connection: x\n",
            "Connection: keep-alive, close\n",
            "Keep-Alive: timeout=5\n",
        ],
    );
    add(
        "1.0",
        "GET /@/a HTTP/1.0\n{}\n",
        "a probe",
        &["Connection: keep-alive\n", "Connection: Keep-Alive, x\n"],
    );
    add(
        "1.0 with a body",
        "POST /@/a HTTP/1.0\n{}Content-Length: 40\n\n{S}",
        "a=S",
        &["", "Expect: 100-continue\n"],
    );
    let lasts = format!(
        "POST /@/a HTTP/1.0\n{}Content-Length: 40\n\n{{S}}",
        "Connection: keep-alive\n"
    );
    add("1.0 that lasts", &lasts, "a=S probe", &[""]);
    add(
        "last",
        &format!("{get}{{}}\n"),
        "a",
        &[
            "Connection: close\n",
            "Connection: Close\n",
            "Connection: x, close\n",
            "Connection: keep-alive, close\n",
            "Connection: keep-alive\nConnection: close\n",
            "Connection:close,close\n",
        ],
    );

    // -- other protocols, and bodies that wait
    let upgrade = "Connection: upgrade\nUpgrade: x\n";
    add(
        "upgrade",
        &with_length.replace("{}", "{}Connection: upgrade\n"),
        "a=S probe",
        &[
            "Upgrade: x\n",
            "Upgrade: h2c\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\n",
            "Upgrade: TLS/1.0\n",
            "",
        ],
    );
    add(
        "upgrade",
        &format!("GET {HEAD}{upgrade}{{}}"),
        "a=S probe",
        &["Content-Length: 40\n\n{S}"],
    );
    add(
        "upgrade",
        &format!("GET {HEAD}{upgrade}{{}}"),
        "a=S probe",
        &["Transfer-Encoding: chunked\n\n28\n{S}\n0\n\n"],
    );
    add(
        "upgrade",
        &format!("{get}{{}}\n"),
        "a probe",
        &[
            upgrade,
            "Connection: upgrade, http2-settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\n",
            "Connection: upgrade\nUpgrade: x, h2c\n",
            "Upgrade: x\n",
            "Connection: upgrade\n",
            "Connection: upgrade\nUpgrade: x\nContent-Length: 0\n",
            "Connection: upgrade\nUpgrade:\n",
        ],
    );
    add(
        "upgrade of 1.0",
        &format!("GET /@/a HTTP/1.0\n{upgrade}\n"),
        "a",
        &[""],
    );
    add(
        "expect",
        &with_length,
        "a=S? probe",
        &[
            "Expect: 100-continue\n",
            "Expect: 200-ok\n",
            "expect: 100-Continue\n",
        ],
    );
    add(
        "expect",
        &format!("{get}Expect: 100-continue\n\n"),
        "a probe",
        &[""],
    );

    // -- several at once
    let b = "GET /@/b HTTP/1.1\nHost: a\n\n";
    for (name, first, meant) in [
        ("get", format!("{get}\n"), "a b probe"),
        ("head", format!("HEAD {HEAD}\n"), "a b probe"),
        ("length", with_length.replace("{}", ""), "a=S b probe"),
        (
            "length of nothing",
            format!("{post}Content-Length: 0\n\n"),
            "a b probe",
        ),
        ("chunks", with_chunks.replace("{}", ""), "a=S b probe"),
        (
            "no chunks",
            format!("{post}Transfer-Encoding: chunked\n\n0\n\n"),
            "a b probe",
        ),
        (
            "trailers",
            with_chunks
                .replace("{}", "")
                .replace("0\n\n", "0\nX: y\n\n"),
            "a=S b probe",
        ),
        (
            "get with a body",
            format!("{get}Content-Length: 40\n\n{{S}}"),
            "a=S b probe",
        ),
        ("upgrade", format!("{get}{upgrade}\n"), "a b probe"),
        (
            "expect",
            with_length.replace("{}", "Expect: 100-continue\n"),
            "a=S b probe",
        ),
    ] {
        add(
            &format!("then another: {name}"),
            &format!("{first}{b}"),
            meant,
            &[""],
        );
        let refused = meant.replace(" b probe", " 400");
        add(
            &format!("then nonsense: {name}"),
            &format!("{first}GET /@/b HTTP/1.1\nHost : a\n\n"),
            &refused,
            &[""],
        );
    }
    all
}

/// What ends in its midst.
pub(crate) fn broken_off() -> Vec<Case> {
    let post = format!("POST {HEAD}");
    let mut all = each(
        "broken off",
        "{}",
        "",
        &["GET /@/a HTT", "GET /@/a HTTP/1.1\nHost: a\n", "\n"],
    );
    for body in [
        "Content-Length: 100\n\n{S}",
        "Content-Length: 41\n\n{S}",
        "Content-Length: 1\n\n",
        "Transfer-Encoding: chunked\n\n",
        "Transfer-Encoding: chunked\n\n28\n{S}",
        "Transfer-Encoding: chunked\n\n28\n{S}\n",
        "Transfer-Encoding: chunked\n\n28\n{S}\n0",
        "Transfer-Encoding: chunked\n\n28\n{S}\n0\n",
        "Transfer-Encoding: chunked\n\n28\n{S}\n0\nX: y\n",
        "Transfer-Encoding: chunked\n\n100\n{S}",
        "Expect: 100-continue\nContent-Length: 100\n\n{S}",
    ] {
        all.extend(each("broken off", &format!("{post}{{}}"), "(a)", &[body]));
    }
    all
}
