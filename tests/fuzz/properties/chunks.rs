//! Bodies in chunks: the result does not depend on segmentation; what is passed on is read as the
//! same, and holds the same data as the body without its chunks.

use wakeport::http::chunked::{Chunks, Malformed};

pub(super) fn property(bytes: &[u8]) {
    let Some((&cut, body)) = bytes.split_first() else {
        return;
    };
    let whole = passed(&[body], true);
    let (first, second) = body.split_at(usize::from(cut).min(body.len()));
    assert_eq!(passed(&[first, second], true), whole);
    let bytes: Vec<&[u8]> = body.chunks(1).collect();
    assert_eq!(passed(&bytes, true), whole);
    let Ok((out, taken, done)) = whole else {
        return;
    };
    assert!(done || taken == body.len());
    assert_eq!(passed(&[&out], true), Ok((out.clone(), out.len(), done)));
    let data = passed(&[body], false);
    assert_eq!(
        passed(&[&out], false).map(|(data, ..)| data),
        data.map(|(data, ..)| data)
    );
}

/// What is passed on of a body in these pieces, how much of them was the body, and whether it is complete.
fn passed(pieces: &[&[u8]], keeps_chunks: bool) -> Result<(Vec<u8>, usize, bool), Malformed> {
    let (mut chunks, mut out, mut taken) = (Chunks::new(keeps_chunks), Vec::new(), 0);
    for piece in pieces {
        taken += chunks.pass(piece, &mut out)?;
    }
    Ok((out, taken, chunks.is_done()))
}
