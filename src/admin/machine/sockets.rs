//! What listens where on this machine, from /proc, and from systemd for its own sockets.

use super::Bus;
use crate::admin::system::{Holder, Listening};
use crate::config::Manager;
use crate::config::address::Bound;
use crate::util::proc::{self, SocketState};

/// All listening sockets. Whose one is, only root and its owner can see, but for systemd's own,
/// which systemd tells.
pub async fn listening(manager: Manager, bus: Option<&Bus>) -> Vec<Listening> {
    let of_units = match bus {
        Some(bus) => bus.sockets().await.unwrap_or_default(),
        None => Vec::new(),
    };
    let owners = proc::socket_owners();
    let listening = |at: Bound, inode: u64, uid: Option<u32>| {
        let mut units = of_units.iter();
        let unit = units.find(|(_, addresses)| addresses.contains(&at));
        let holder = match (unit, owners.get(&inode), uid) {
            (Some((unit, _)), _, _) => Holder::Unit(unit.clone()),
            (None, Some(&pid), _) => process(pid, manager),
            (None, None, Some(uid)) => Holder::User(uid),
            (None, None, None) => Holder::Unknown,
        };
        Listening { at, holder }
    };
    let tcp = proc::tcp_sockets(|it| Ok(it.state == SocketState::Listens));
    let tcp = tcp.into_iter().flatten();
    let tcp = tcp.map(|it| listening(Bound::Tcp(it.local), it.inode, Some(it.uid)));
    let udp = proc::udp_sockets(|it| Ok(it.state == SocketState::Other));
    let udp = udp.into_iter().flatten();
    let udp = udp.map(|it| listening(Bound::Udp(it.local), it.inode, Some(it.uid)));
    let unix = proc::unix_sockets(|it| Ok(it.state == SocketState::Listens));
    let unix = unix.into_iter().flatten();
    // Of those the user is not told.
    let unix = unix.filter_map(|it| Some(listening(it.name.parse().ok()?, it.inode, None)));
    tcp.chain(udp).chain(unix).collect()
}

/// The unit of a process, or its name if it is in none of this manager's services.
fn process(pid: u32, manager: Manager) -> Holder {
    match unit(proc::services(&pid.to_string()), manager) {
        Some(unit) => Holder::Unit(unit),
        None => Holder::Program(proc::name(pid)),
    }
}

/// Which of the services that a process runs in `manager` knows.
fn unit(services: Vec<String>, manager: Manager) -> Option<String> {
    let of_a_user = |unit: &String| unit.starts_with("user@");
    let skip = usize::from(manager == Manager::User && services.first().is_some_and(of_a_user));
    services.into_iter().nth(skip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_manager_has_a_unit_for_the_process() {
        use Manager::{System, User};
        let app = ["user@1000.service", "notes.service"];
        for (services, manager, expected) in [
            (&["nginx.service"][..], System, Some("nginx.service")),
            (&["nginx.service"], User, Some("nginx.service")),
            (&app, User, Some("notes.service")),
            (&app, System, Some("user@1000.service")),
            (&[], System, None),
        ] {
            let owned = services.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(unit(owned, manager).as_deref(), expected, "{services:?}");
        }
    }
}
