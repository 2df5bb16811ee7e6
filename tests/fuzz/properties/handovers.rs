//! Lines about connections that an earlier process has left: rejected in one line, or read, written and
//! read again as the same, in messages that the kernel passes on whole.

use wakeport::server::handover::wire;

pub(super) fn property(bytes: &[u8]) {
    let connections = match wire::read(bytes) {
        Ok(connections) => connections,
        Err(error) => {
            assert!(super::is_one_line(&error.to_string()), "{error}");
            return;
        }
    };
    let mut rest = &connections[..];
    while !rest.is_empty() {
        let (these, others) = rest.split_at(wire::fitting(rest));
        let line = wire::write(these);
        assert_eq!(wire::read(&line).as_deref(), Ok(these));
        assert!(line.len() <= wire::LONGEST || these.len() == 1);
        assert!(wire::descriptors(these) <= 2 * wire::MOST + 1);
        rest = others;
    }
}
