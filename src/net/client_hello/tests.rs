use super::*;

/// Behind its count.
fn vector(width: usize, bytes: &[u8]) -> Vec<u8> {
    let count = bytes.len().to_be_bytes();
    [&count[count.len() - width..], bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes(), &vector(2, data)[..]].concat()
}

/// The extension with these names.
fn names(names: &[(u8, &str)]) -> Vec<u8> {
    let entry = |(kind, name): &(u8, &str)| [&[*kind], &vector(2, name.as_bytes())[..]].concat();
    let list: Vec<u8> = names.iter().flat_map(entry).collect();
    extension(0, &vector(2, &list))
}

/// The body up to the extensions.
fn fields(version: [u8; 2]) -> Vec<u8> {
    [
        &version[..],
        &[7; 32],
        &vector(1, &[9; 32]),
        &vector(2, &[0x13, 1, 0xc0, 0x2f]),
        &vector(1, &[0]),
    ]
    .concat()
}

fn message(body: &[u8]) -> Vec<u8> {
    [&[CLIENT_HELLO], &vector(3, body)[..]].concat()
}

/// In records of so many bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[HANDSHAKE, 3, 1], &vector(2, part)[..]].concat();
    message.chunks(size).flat_map(record).collect()
}

fn hello_with(extensions: &[Vec<u8>]) -> Vec<u8> {
    let body = [fields(TLS_1_2), vector(2, &extensions.concat())].concat();
    records(&message(&body), LONGEST_RECORD)
}

fn hello_for(name: &str) -> Vec<u8> {
    let versions = extension(43, &[2, 3, 4]);
    hello_with(&[extension(0x0a0a, &[]), names(&[(0, name)]), versions])
}

#[track_caller]
fn named(bytes: &[u8]) -> Option<String> {
    let hello = read(bytes).expect("it is valid").expect("it is complete");
    hello.name
}

#[track_caller]
fn refused(bytes: &[u8], description: u8) {
    let alert = read(bytes).expect_err("it is not valid");
    assert_eq!(
        alert.record(),
        [21, 3, 3, 0, 2, 2, description],
        "{alert:?}"
    );
}

#[test]
fn the_name_is_read() {
    assert_eq!(
        named(&hello_for("Docs.example.org")),
        Some("Docs.example.org".into())
    );
    assert_eq!(named(&hello_with(&[])), None);
    // What is sent before the answer follows.
    let early = [&hello_for("a")[..], &[20, 3, 3, 0, 1, 1, 23, 3, 3, 0]].concat();
    assert_eq!(named(&early), Some("a".into()));
    // Before TLS 1.2 there may be no extensions.
    let old = records(&message(&fields([3, 1])), LONGEST_RECORD);
    assert_eq!(named(&old), None);
}

#[test]
fn segments_and_records_end_anywhere() {
    let whole = hello_for("docs.example.org");
    let handshake = &whole[5..];
    for size in [1, 2, 3, 4, 5, 39, 100, handshake.len() - 1] {
        let bytes = records(handshake, size);
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), Ok(None), "{size}, {end}");
        }
        assert_eq!(named(&bytes), Some("docs.example.org".into()));
    }
}

#[test]
fn what_is_no_host_is_no_name() {
    for name in [
        "192.0.2.1",
        "2001:db8::1",
        "[::1]",
        "a:443",
        "a/b",
        "m\u{fc}nchen.de",
        "a\0b",
        " ",
    ] {
        assert_eq!(named(&hello_for(name)), None, "{name}");
    }
    for name in ["a_b.c-d", "xn--mnchen-3ya.de", "example.org.", "1.2.3"] {
        assert_eq!(named(&hello_for(name)), Some(name.into()));
    }
}

#[test]
fn what_is_not_tls_is_refused_at_its_first_byte() {
    refused(b"GET / HTTP/1.1\r\n", UNEXPECTED_MESSAGE);
    refused(b"G", UNEXPECTED_MESSAGE);
    refused(&[0x80, 0x2e, 1, 0, 2], UNEXPECTED_MESSAGE);
    refused(&[HANDSHAKE, 2], PROTOCOL_VERSION);
    refused(&[HANDSHAKE, 3, 1, 0, 1, 2], UNEXPECTED_MESSAGE);
    refused(&[HANDSHAKE, 3, 1, 0, 0], UNEXPECTED_MESSAGE);
    refused(&[HANDSHAKE, 3, 1, 0x40, 1], RECORD_OVERFLOW);
    let whole = hello_for("a");
    let (first, rest) = whole[5..].split_at(9);
    let between = [
        records(first, 9),
        vec![20, 3, 3, 0, 1, 1],
        records(rest, 99),
    ]
    .concat();
    refused(&between, UNEXPECTED_MESSAGE);
}

#[test]
fn what_is_malformed_is_refused() {
    let body = |extensions: &[u8]| records(&message(&[&fields(TLS_1_2), extensions].concat()), 999);
    for wrong in [
        // More than the extensions, less than they say, half of one.
        body(&[0, 0, 1]),
        body(&[0, 1]),
        body(&[0]),
        body(&vector(2, &[0, 5, 0])),
        // Names: none, an empty one, two, another kind, more than the list, more than the extension.
        body(&vector(2, &extension(0, &[]))),
        body(&vector(2, &names(&[]))),
        hello_for(""),
        hello_with(&[names(&[(0, "a"), (0, "b")])]),
        hello_with(&[names(&[(1, "a")])]),
        body(&vector(2, &extension(0, &[0, 9, 0, 0, 1, b'a']))),
        body(&vector(2, &extension(0, &[0, 4, 0, 0, 1, b'a', 0]))),
        // A body that ends early, no cipher, half a cipher, no compression, a long session.
        records(&message(&fields(TLS_1_2)[..40]), 999),
        records(
            &message(&[&[3, 3][..], &[0; 32], &[0], &[0, 0], &[1, 0]].concat()),
            999,
        ),
        records(
            &message(&[&[3, 3][..], &[0; 32], &[0], &[0, 1, 1], &[1, 0]].concat()),
            999,
        ),
        records(
            &message(&[&[3, 3][..], &[0; 32], &[0], &[0, 2, 1, 1], &[0]].concat()),
            999,
        ),
        records(
            &message(
                &[
                    &[3, 3][..],
                    &[0; 32],
                    &vector(1, &[0; 33]),
                    &[0, 2, 1, 1],
                    &[1, 0],
                ]
                .concat(),
            ),
            999,
        ),
    ] {
        refused(&wrong, DECODE_ERROR);
    }
    refused(
        &hello_with(&[names(&[(0, "a")]), names(&[(0, "a")])]),
        ILLEGAL_PARAMETER,
    );
}

#[test]
fn it_has_an_end() {
    let padded = |size: usize| hello_with(&[names(&[(0, "a")]), extension(21, &vec![0; size])]);
    let most = LONGEST - padded(0).len();
    assert_eq!(named(&padded(most)), Some("a".into()));
    refused(&padded(most + 1), DECODE_ERROR);
    // At once when it says so, and at the end if records make it longer.
    refused(
        &[HANDSHAKE, 3, 1, 0, 4, CLIENT_HELLO, 0, 0x40, 1],
        DECODE_ERROR,
    );
    let tiny = records(&padded(most)[5..], 1);
    assert_eq!(read(&tiny[..LONGEST - 1]), Ok(None));
    refused(&tiny[..LONGEST], DECODE_ERROR);
}

#[test]
fn an_unknown_name_is_told_in_the_version_of_the_client() {
    for (version, told) in [([3, 1], [3, 1]), ([3, 3], [3, 3]), ([3, 4], [3, 3])] {
        let bytes = records(&message(&fields(version)), 999);
        let hello = read(&bytes).expect("valid").expect("complete");
        let [major, minor] = told;
        assert_eq!(
            hello.unrecognized_name().record(),
            [21, major, minor, 0, 2, 2, 112]
        );
    }
}
