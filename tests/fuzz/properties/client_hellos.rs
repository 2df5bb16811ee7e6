//! ClientHellos: the result does not depend on segmentation, nor on where records end; what another
//! implementation takes is taken, with the same name.

use rustls::server::Acceptor;
use wakeport::net::client_hello::{ClientHello, LONGEST, read};

pub(super) fn property(bytes: &[u8]) {
    super::is_the_same_in_pieces(bytes, |seen| read(seen).transpose());
    let ours = read(bytes);
    if let Some(theirs) = by_rustls(bytes) {
        let Ok(Some(ours)) = &ours else {
            panic!("{ours:?} instead of {theirs:?}");
        };
        let name = ours.name.as_deref().map(|name| name.trim_end_matches('.'));
        let name = name.map(str::to_ascii_lowercase);
        // Dots and such in odd places are a host to ours only: the table has none of that.
        if theirs.is_some() {
            assert_eq!(name, theirs);
        }
    }
    if let Ok(Some(hello)) = ours {
        is_the_same_in_other_records(bytes, &hello);
    }
}

/// The name, in lower case, if another implementation takes all of it.
fn by_rustls(mut bytes: &[u8]) -> Option<Option<String>> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        acceptor.read_tls(&mut bytes).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            let name = accepted
                .client_hello()
                .server_name()
                .map(str::to_ascii_lowercase);
            return Some(name);
        }
    }
    None
}

/// In records of one byte each, and in the longest ones.
fn is_the_same_in_other_records(mut bytes: &[u8], hello: &ClientHello) {
    let mut message = Vec::new();
    while let Some((&[_, _, _, high, low], body)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low])).min(body.len());
        message.extend_from_slice(&body[..length]);
        bytes = &body[length..];
        // What follows need not be of its kind.
        if let Some((&[_, a, b, c], rest)) = message.split_first_chunk()
            && rest.len() >= u32::from_be_bytes([0, a, b, c]) as usize
        {
            break;
        }
    }
    for size in [1, 1 << 14] {
        let record = |part: &[u8]| {
            let [high, low] = u16::try_from(part.len()).unwrap_or(0).to_be_bytes();
            [&[22, 3, 3, high, low], part].concat()
        };
        let records: Vec<u8> = message.chunks(size).flat_map(record).collect();
        if records.len() <= LONGEST {
            assert_eq!(read(&records), Ok(Some(hello.clone())));
        }
    }
}
