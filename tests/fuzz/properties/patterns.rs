//! Which datagrams wake: the printed form parses to the same kind, and what wakes a service renews a flow. The first
//! line is the kind, the rest a datagram.

use wakeport::config::udp_wake::UdpWake;

pub(super) fn property(bytes: &[u8]) {
    let mut lines = bytes.splitn(2, |&byte| byte == b'\n');
    let (kind, datagram) = (lines.next().unwrap_or_default(), lines.next());
    let Ok(text) = str::from_utf8(kind) else {
        return;
    };
    let wake: UdpWake = match text.parse() {
        Ok(wake) => wake,
        Err(reason) => return assert!(super::is_one_line(&reason), "{reason:?}"),
    };
    assert_eq!(wake.to_string().parse(), Ok(wake.clone()), "{wake}");
    let datagram = datagram.unwrap_or_default();
    assert!(
        wake.renews(datagram) || !wake.wakes(datagram),
        "{wake}: {datagram:?}"
    );
    if matches!(wake, UdpWake::Begins(_)) && wake.wakes(datagram) {
        let more = [datagram, b"more"].concat();
        assert!(wake.wakes(&more), "{wake}: {more:?}");
    }
}
