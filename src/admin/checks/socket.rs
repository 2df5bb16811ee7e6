//! The socket units, which hold the ports.

use crate::admin::Finding;
use crate::admin::system::SocketUnit;
use crate::config::Manager;
use crate::config::address::Bound;

/// Of UDP: less than that is full before wakeport has started, where clients send much.
const SMALL_BUFFER: u64 = 1 << 20;

/// Addresses of an instance that cannot be had both, by the unit that should change.
fn collisions(socket: &SocketUnit, all: &[SocketUnit], ctl: &str) -> Vec<Finding> {
    let name = &socket.name;
    let mut findings = Vec::new();
    for (index, at) in socket.at.iter().enumerate() {
        let others = all.iter().flat_map(|other| &other.at);
        if !socket.ipv6_only && at.leaves_ipv4(others) {
            findings.push(Finding::error(format!(
                "`{name}` listens on {at}, which takes the IPv4 addresses as well, and these are another listener's; `{ctl} edit {name}`: BindIPv6Only=ipv6-only"
            )));
        } else if socket.at[..index].contains(at) {
            findings.push(Finding::error(format!(
                "`{name}` listens on {at} twice; remove one ListenStream= or ListenDatagram="
            )));
        }
    }
    findings
}

/// What is wrong with a socket unit, which is one of `all` of its instance.
pub fn socket(socket: &SocketUnit, all: &[SocketUnit], manager: Manager) -> Vec<Finding> {
    let (name, unit, ctl) = (&socket.name, &socket.unit, manager.systemctl());
    let mut findings = Vec::from_iter(super::unit::reload(unit, manager));
    let mut error = |text: String| findings.push(Finding::error(text));
    if unit.load == "masked" {
        error(format!("`{name}` is masked; `{ctl} unmask {name}`"));
        return findings;
    }
    if socket.is_empty() {
        error(format!(
            "`{name}` has no address; `wakeport init` with `--listen ADDR` adds one, or a drop-in with ListenStream="
        ));
        return findings;
    }
    if unit.load != "loaded" {
        error(super::unit::not_loaded(name, unit));
        return findings;
    }
    for other in &socket.others {
        error(format!(
            "`{name}` listens on {other}, and wakeport relays streams of TCP and Unix sockets, and datagrams of UDP; use ListenStream=, or ListenDatagram= with a port"
        ));
    }
    if socket.accept {
        error(format!(
            "`{name}` has Accept=yes, and wakeport accepts by itself; `{ctl} edit {name}`: Accept=no"
        ));
    }
    let collisions = collisions(socket, all, ctl);
    match unit.active.as_str() {
        "active" => (),
        // Starting it once more would fail as well.
        _ if !collisions.is_empty() => (),
        "failed" => error(format!(
            "`{name}` has failed ({}), and its port is closed; `{ctl} reset-failed {name} && {ctl} start {name}`",
            unit.result
        )),
        _ => error(format!(
            "`{name}` is not started, and its port is closed; `{ctl} start {name}`"
        )),
    }
    findings.extend(collisions);
    let mut warning = |text: String| findings.push(Finding::warning(text));
    if unit.file_state == "disabled" {
        warning(format!(
            "`{name}` is not enabled, so its port stays closed after the next boot; `{ctl} enable {name}`"
        ));
    }
    if socket.flush {
        warning(format!(
            "`{name}` has FlushPending=yes, which drops clients that connect while wakeport exits; `{ctl} edit {name}`: FlushPending=no"
        ));
    }
    if socket.at.iter().any(Bound::is_udp) && socket.receive_buffer < SMALL_BUFFER {
        warning(format!(
            "`{name}` has the kernel's receive buffer, and datagrams that come while wakeport starts are lost once that is full, some 250 of them; `{ctl} edit {name}`: ReceiveBuffer=4M"
        ));
    }
    if !socket.trigger_limit.is_zero() {
        warning(format!(
            "`{name}` has a trigger limit: a burst of clients makes it fail and closes the port; `{ctl} edit {name}`: TriggerLimitIntervalSec=0"
        ));
    }
    findings
}
