//! What the kernel tells in /proc: processes, control groups, listening sockets.

use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// A process that runs (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its process group.
    pub group: i32,
    /// When it began, in clock ticks since boot: tells it from others with the same ID.
    pub started_ticks: u64,
}

/// The process with this ID. One that has ended and was not waited for does not run.
pub fn process(pid: u32) -> Option<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // PID (NAME) STATE PARENT GROUP …; the name may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let runs = !matches!(fields.next()?, "Z" | "X");
    let process = Process {
        group: fields.nth(1)?.parse().ok()?,
        started_ticks: fields.nth(16)?.parse().ok()?,
    };
    runs.then_some(process)
}

/// The IDs of all processes.
pub fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The name of a process.
pub fn name(pid: u32) -> String {
    read(&format!("/proc/{pid}/comm")).trim().to_owned()
}

/// The services that a process runs in, the outermost first. `self` is ourselves.
pub fn services(pid: &str) -> Vec<String> {
    services_in(&read(&format!("/proc/{pid}/cgroup")))
}

/// The services on the path of a control group (cgroups(7)): `0::/a.slice/b.service`, or with
/// version 1 `1:name=systemd:/a.slice/b.service`; one of the two has the units.
fn services_in(cgroup: &str) -> Vec<String> {
    let services = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let path = rest
            .strip_prefix("name=systemd:")
            .or_else(|| rest.strip_prefix(':'))?;
        let services = path.split('/').filter(|part| part.ends_with(".service"));
        let services: Vec<_> = services.map(str::to_owned).collect();
        (!services.is_empty()).then_some(services)
    };
    cgroup.lines().find_map(services).unwrap_or_default()
}

/// A setting of the kernel, by its path below /proc/sys.
pub fn setting(path: &str) -> Option<usize> {
    read(&format!("/proc/sys/{path}")).trim().parse().ok()
}

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListeningSocket {
    /// Its address, as `ListenStream=` takes it: `127.0.0.1:80`, `/path`, `@abstract`.
    pub at: String,
    /// What tells it from others.
    pub inode: u64,
    /// Its user; unknown for a Unix socket.
    pub uid: Option<u32>,
}

/// All listening stream sockets.
pub fn listening() -> Vec<ListeningSocket> {
    let rows = |name: &str, parse: fn(&str) -> Option<ListeningSocket>| {
        let table = read(&format!("/proc/net/{name}"));
        table.lines().filter_map(parse).collect::<Vec<_>>()
    };
    [rows("tcp", tcp), rows("tcp6", tcp), rows("unix", unix)].concat()
}

/// A row of /proc/net/tcp or tcp6 (proc_pid_net(5)), if it listens.
fn tcp(row: &str) -> Option<ListeningSocket> {
    let fields: Vec<_> = row.split_whitespace().collect();
    let (ip, port) = fields.get(1)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let ip = words(ip)?;
    let at = match <[u8; 4]>::try_from(&*ip) {
        Ok(ip) => SocketAddr::from((Ipv4Addr::from(ip), port)),
        Err(_) => SocketAddr::from((Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?), port)),
    };
    let socket = ListeningSocket {
        at: at.to_string(),
        inode: fields.get(9)?.parse().ok()?,
        uid: fields.get(7)?.parse().ok(),
    };
    // TCP_LISTEN in include/net/tcp_states.h.
    (fields[3] == "0A").then_some(socket)
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

/// A row of /proc/net/unix, if it listens.
fn unix(row: &str) -> Option<ListeningSocket> {
    let fields: Vec<_> = row.split_whitespace().collect();
    let socket = ListeningSocket {
        at: fields.get(7)?.to_string(),
        inode: fields.get(6)?.parse().ok()?,
        uid: None,
    };
    // __SO_ACCEPTCON in include/linux/net.h.
    (fields[3] == "00010000").then_some(socket)
}

/// The processes that have the sockets, by inode, of those that we may look into. A socket that
/// systemd has passed on is open in two; the later one is named.
pub fn socket_owners() -> HashMap<u64, u32> {
    let mut owners = HashMap::new();
    for pid in pids() {
        let files = fs::read_dir(format!("/proc/{pid}/fd"));
        let files = files.into_iter().flatten().flatten();
        for link in files.filter_map(|file| fs::read_link(file.path()).ok()) {
            let link = link.to_string_lossy();
            let inode = link.strip_prefix("socket:[");
            let inode = inode.and_then(|rest| rest.strip_suffix(']'));
            if let Some(inode) = inode.and_then(|inode| inode.parse().ok()) {
                let owner = owners.entry(inode).or_insert(pid);
                *owner = pid.max(*owner);
            }
        }
    }
    owners
}

/// A file as text; empty if it cannot be read.
fn read(path: &str) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_by_when_it_began() {
        let us = process(std::process::id()).expect("we run");
        assert!(us.started_ticks > 0);
        let group = rustix::process::getpgrp().as_raw_nonzero().get();
        assert_eq!(us.group, group);
        assert_eq!(process(u32::MAX), None);
    }

    #[test]
    fn listeners_are_read_as_the_kernel_prints_them() {
        let row = "  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 4242 1 0000000000000000 100 0 0 10 0";
        let v6 = "   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 7 1 0 100 0 0 10 0";
        if cfg!(target_endian = "little") {
            let socket = tcp(row).expect("it listens");
            assert_eq!(socket.at, "127.0.0.1:8080");
            assert_eq!((socket.inode, socket.uid), (4242, Some(101)));
            let socket = tcp(v6).expect("it listens");
            assert_eq!(socket.at, "[::1]:80");
        }
        for row in [
            "",
            "  sl  local_address rem_address   st",
            &row.replace(" 0A ", " 01 "),
        ] {
            assert_eq!(tcp(row), None, "{row}");
        }
        for (row, at) in [
            (
                "Num       RefCount Protocol Flags    Type St Inode Path",
                None,
            ),
            (
                "0: 00000002 00000000 00010000 0001 01 21 /run/x.sock",
                Some("/run/x.sock"),
            ),
            ("0: 00000003 00000000 00000000 0001 03 22 /run/x.sock", None),
            ("0: 00000002 00000000 00010000 0001 01 23 @x", Some("@x")),
        ] {
            let found = unix(row).map(|socket| socket.at);
            assert_eq!(found.as_deref(), at, "{row}");
        }
    }

    #[test]
    fn a_control_group_tells_the_services() {
        for (cgroup, services) in [
            ("0::/system.slice/nginx.service", &["nginx.service"][..]),
            (
                "0::/system.slice/system-postgresql.slice/postgresql@15-main.service",
                &["postgresql@15-main.service"],
            ),
            (
                "12:pids:/x\n1:name=systemd:/system.slice/a.service/sub\n0::/",
                &["a.service"],
            ),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/notes.service",
                &["user@1000.service", "notes.service"],
            ),
            (
                "1:name=systemd:/\n0::/system.slice/a.service",
                &["a.service"],
            ),
            ("2:cpu:/a.service", &[]),
            ("0::/init.scope", &[]),
            ("0::/user.slice/user-0.slice/session-1.scope", &[]),
            ("", &[]),
        ] {
            assert_eq!(services_in(cgroup), services, "{cgroup}");
        }
    }
}
