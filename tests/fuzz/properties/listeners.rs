//! systemd's variables for passed sockets: `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES`, one
//! line each.

use wakeport::net::listen;

pub(super) fn property(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.splitn(3, '\0');
    let mut line = || lines.next().unwrap_or_default();
    let (fds, pid, names) = (line(), line(), line());
    // A million is slow, and like any other number.
    if fds
        .parse()
        .is_ok_and(|count: u32| (5_000..1 << 20).contains(&count))
    {
        return;
    }
    let is_name = |name: &str| !name.is_empty() && !name.contains(|c: char| c.is_control());
    match listen::names(fds, pid, names, 4711) {
        Err(error) => assert!(super::is_one_line(&error.to_string()), "{error}"),
        Ok(found) => {
            assert_eq!(pid, "4711");
            assert_eq!(fds.parse(), Ok(found.len()), "one name for each socket");
            let given: Vec<_> = names.split(':').collect();
            for (index, name) in found.iter().enumerate() {
                let given = given.get(index).filter(|name| is_name(name));
                assert_eq!(given.copied().unwrap_or("unknown"), name);
            }
        }
    }
}
