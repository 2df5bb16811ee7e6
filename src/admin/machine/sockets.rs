//! Who listens where on this machine, from /proc, and from systemd for its own sockets.

use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Bus;
use crate::admin::system::{Holder, Listening};
use crate::config::Manager;
use crate::config::address::Bound;

/// A socket in /proc/net.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    at: Bound,
    inode: u64,
    uid: Option<u32>,
}

/// Everybody who listens. Whose a socket is, only root and its owner can see, but for systemd's
/// own: systemd tells everybody about those.
pub async fn listening(manager: Manager, bus: Option<&Bus>) -> Vec<Listening> {
    let text = |name: &str| fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default();
    let mut rows: Vec<Row> = ["tcp", "tcp6"]
        .iter()
        .flat_map(|name| tcp(&text(name)))
        .collect();
    rows.extend(unix(&text("unix")));
    let sockets = match bus {
        Some(bus) => bus.sockets().await.unwrap_or_default(),
        None => Vec::new(),
    };
    let owners = owners();
    let holder = |row: &Row| {
        let unit = sockets.iter().find(|(_, at)| at.contains(&row.at));
        match (unit, owners.get(&row.inode), row.uid) {
            (Some((unit, _)), _, _) => Holder::Unit(unit.clone()),
            (None, Some(&pid), _) => process(pid, manager),
            (None, None, Some(uid)) => Holder::User(uid),
            (None, None, None) => Holder::Somebody,
        }
    };
    let found = |row: Row| Listening {
        holder: holder(&row),
        at: row.at,
    };
    rows.into_iter().map(found).collect()
}

/// The listeners in /proc/net/tcp or tcp6 (proc_pid_net(5)).
fn tcp(text: &str) -> Vec<Row> {
    let row = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // TCP_LISTEN in include/net/tcp_states.h.
        if fields.get(3) != Some(&"0A") {
            return None;
        }
        let (ip, port) = fields.get(1)?.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let at = match ip.len() {
            8 => SocketAddr::from((Ipv4Addr::from(<[u8; 4]>::try_from(words(ip)?).ok()?), port)),
            _ => SocketAddr::from((Ipv6Addr::from(<[u8; 16]>::try_from(words(ip)?).ok()?), port)),
        };
        Some(Row {
            at: Bound::Tcp(at),
            inode: fields.get(9)?.parse().ok()?,
            uid: fields.get(7)?.parse().ok(),
        })
    };
    text.lines().filter_map(row).collect()
}

/// The bytes of an address; the kernel prints it as numbers of four bytes each.
fn words(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for start in (0..text.len()).step_by(8) {
        let word = u32::from_str_radix(text.get(start..start + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    Some(bytes)
}

/// The listeners in /proc/net/unix.
fn unix(text: &str) -> Vec<Row> {
    let row = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // __SO_ACCEPTCON in include/linux/net.h.
        if fields.get(3) != Some(&"00010000") {
            return None;
        }
        let at = fields.get(7)?.parse().ok()?;
        Some(Row {
            at,
            inode: fields.get(6)?.parse().ok()?,
            uid: None,
        })
    };
    text.lines().filter_map(row).collect()
}

/// Which process has which socket, of those that we may look into. What systemd has passed on
/// is in two hands, and belongs to the other.
fn owners() -> HashMap<u64, u32> {
    let mut owners = HashMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let files = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        for link in files.filter_map(|file| fs::read_link(file.path()).ok()) {
            let link = link.to_string_lossy();
            let inode = link
                .strip_prefix("socket:[")
                .and_then(|rest| rest.strip_suffix(']'));
            if let Some(inode) = inode.and_then(|inode| inode.parse().ok()) {
                owners
                    .entry(inode)
                    .and_modify(|owner| *owner = pid.max(*owner))
                    .or_insert(pid);
            }
        }
    }
    owners
}

/// The unit of a process, or its name if it is in none of this manager's services.
fn process(pid: u32, manager: Manager) -> Holder {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    match unit(&read("cgroup"), manager) {
        Some(unit) => Holder::Unit(unit),
        None => Holder::Program(read("comm").trim().to_owned()),
    }
}

/// The service whose control group this is (/proc/PID/cgroup), as `manager` knows it.
fn unit(cgroup: &str, manager: Manager) -> Option<String> {
    // There may be a hierarchy for each version of control groups; one of them has the units.
    let paths = cgroup.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.strip_prefix("name=systemd:")
            .or_else(|| rest.strip_prefix(':'))
    });
    let unit = |path: &str| {
        let mut services = path.split('/').filter(|part| part.ends_with(".service"));
        let first = services.next()?.to_owned();
        match manager {
            Manager::User if first.starts_with("user@") => services.next().map(str::to_owned),
            Manager::System | Manager::User => Some(first),
        }
    };
    paths.filter_map(unit).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_as_the_kernel_prints_them() {
        let v4 = "  sl  local_address rem_address   st\n\
             \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 4242 1 0000000000000000 100 0 0 10 0\n\
             \x20  1: 0100007F:1F91 0100007F:0050 01 00000000:00000000 00:00000000 00000000   101        0 4243 1 0000000000000000 100 0 0 10 0\n";
        let v6 = "   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 7 1 0 100 0 0 10 0\n";
        if cfg!(target_endian = "little") {
            let rows = tcp(v4);
            assert_eq!(rows.len(), 1);
            assert_eq!(rows[0].at.to_string(), "127.0.0.1:8080");
            assert_eq!((rows[0].inode, rows[0].uid), (4242, Some(101)));
            assert_eq!(tcp(v6)[0].at.to_string(), "[::1]:80");
        }
        let text = "Num       RefCount Protocol Flags    Type St Inode Path\n\
             0000000000000000: 00000002 00000000 00010000 0001 01 21 /run/x.sock\n\
             0000000000000000: 00000003 00000000 00000000 0001 03 22 /run/x.sock\n\
             0000000000000000: 00000002 00000000 00010000 0001 01 23 @x\n";
        let places: Vec<_> = unix(text).iter().map(|row| row.at.to_string()).collect();
        assert_eq!(places, ["/run/x.sock", "@x"]);
    }

    #[test]
    fn a_control_group_tells_the_unit() {
        use Manager::{System, User};
        let app = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/notes.service";
        for (cgroup, manager, expected) in [
            (
                "0::/system.slice/nginx.service",
                System,
                Some("nginx.service"),
            ),
            (
                "0::/system.slice/system-postgresql.slice/postgresql@15-main.service",
                System,
                Some("postgresql@15-main.service"),
            ),
            (
                "12:pids:/x\n1:name=systemd:/system.slice/a.service/sub\n0::/",
                System,
                Some("a.service"),
            ),
            (app, User, Some("notes.service")),
            (app, System, Some("user@1000.service")),
            (
                "1:name=systemd:/\n0::/system.slice/a.service",
                System,
                Some("a.service"),
            ),
            ("0::/init.scope", System, None),
            ("0::/user.slice/user-0.slice/session-1.scope", System, None),
            ("", System, None),
        ] {
            assert_eq!(unit(cgroup, manager).as_deref(), expected, "{cgroup}");
        }
    }
}
