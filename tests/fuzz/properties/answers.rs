//! The answer to an HTTP probe: the result does not depend on segmentation, and no header turns a
//! server's failure into a success.

use wakeport::service::probe;

pub(super) fn property(bytes: &[u8]) {
    let verdict = |seen: &[u8]| {
        let status = probe::status(seen).map_err(drop);
        status.transpose()
    };
    super::is_the_same_in_pieces(bytes, verdict);
    if let Some(Ok(status)) = verdict(bytes) {
        assert!(!(100..200).contains(&status), "{status} only precedes");
        let line = format!(" {status:03}");
        let said = bytes
            .windows(line.len())
            .any(|word| word == line.as_bytes());
        assert!(said, "no answer has {status}");
    }
}
