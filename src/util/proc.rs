//! What the kernel tells in /proc: processes, control groups, sockets.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
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
    let (fields, runs) = stat(pid)?;
    let mut fields = fields.split(' ');
    let process = Process {
        group: fields.nth(2)?.parse().ok()?,
        started_ticks: fields.nth(16)?.parse().ok()?,
    };
    runs.then_some(process)
}

/// The children of process `parent` that have ended and were not waited for.
pub fn zombies_of(parent: u32) -> impl Iterator<Item = u32> {
    pids().filter(move |&pid| {
        let is_child = |fields: &str| fields.split(' ').nth(1) == Some(&parent.to_string());
        stat(pid).is_some_and(|(fields, runs)| !runs && is_child(&fields))
    })
}

/// What is behind the name in a process's stat, `STATE PARENT GROUP …`, and whether it runs.
fn stat(pid: u32) -> Option<(String, bool)> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // PID (NAME) STATE …; the name may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    Some((fields.to_owned(), !fields.starts_with(['Z', 'X'])))
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

/// Whether the processes of a control group are known not to be frozen (cgroups(7), version 2).
pub fn is_thawed(cgroup: &str) -> bool {
    let events = read(&format!("/sys/fs/cgroup{cgroup}/cgroup.events"));
    events.lines().any(|line| line == "frozen 0")
}

/// A setting of the kernel, by its path below /proc/sys.
pub fn setting(path: &str) -> Option<usize> {
    read(&format!("/proc/sys/{path}")).trim().parse().ok()
}

/// What a stream socket does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketState {
    /// It waits for connections.
    Listens,
    /// It is an end of a connection, neither of which was closed.
    Connected,
    /// Anything else.
    Other,
}

/// A TCP or a UDP socket of our network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// Its own address; one over IPv4 may be written as `::ffff:a.b.c.d`.
    pub local: SocketAddr,
    /// The address of the other end.
    pub peer: SocketAddr,
    /// What it does.
    pub state: SocketState,
    /// What tells it from others; 0 until it is accepted, and once it is closed.
    pub inode: u64,
    /// Its user.
    pub uid: u32,
}

/// A Unix stream socket of our network namespace that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixSocket {
    /// Its name, which those have, too, that were accepted from it: `/path`, `@abstract`.
    pub name: String,
    /// What it does.
    pub state: SocketState,
    /// What tells it from others.
    pub inode: u64,
}

/// Those TCP sockets that are to be kept; an error of `keep` ends it.
pub fn tcp_sockets(keep: impl Fn(&TcpSocket) -> io::Result<bool>) -> io::Result<Vec<TcpSocket>> {
    let mut sockets = table("tcp", tcp, &keep)?;
    match table("tcp6", tcp, &keep) {
        Ok(more) => sockets.extend(more),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => (),
        Err(error) => return Err(error),
    }
    Ok(sockets)
}

/// The same for UDP sockets, of which none listens, and some are connected.
pub fn udp_sockets(keep: impl Fn(&TcpSocket) -> io::Result<bool>) -> io::Result<Vec<TcpSocket>> {
    let mut sockets = table("udp", tcp, &keep)?;
    match table("udp6", tcp, &keep) {
        Ok(more) => sockets.extend(more),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (),
        Err(error) => return Err(error),
    }
    Ok(sockets)
}

/// The same for Unix stream sockets.
pub fn unix_sockets(keep: impl Fn(&UnixSocket) -> io::Result<bool>) -> io::Result<Vec<UnixSocket>> {
    table("unix", unix, keep)
}

/// The rows of a table below /proc/self/net (proc_pid_net(5)) that are to be kept.
fn table<T>(
    name: &str,
    row: fn(&str) -> Option<T>,
    keep: impl Fn(&T) -> io::Result<bool>,
) -> io::Result<Vec<T>> {
    // /proc/net is hidden by `ProcSubset=pid`.
    let mut table = BufReader::new(File::open(format!("/proc/self/net/{name}"))?);
    // Row by row: there may be megabytes of them.
    let (mut text, mut kept) = (Vec::new(), Vec::new());
    while table.read_until(b'\n', &mut text)? > 0 {
        let line = text.strip_suffix(b"\n").unwrap_or(&text);
        if let Some(socket) = row(&String::from_utf8_lossy(line))
            && keep(&socket)?
        {
            kept.push(socket);
        }
        text.clear();
    }
    Ok(kept)
}

/// A row of the tables tcp and tcp6, or udp and udp6, which are written alike.
fn tcp(row: &str) -> Option<TcpSocket> {
    let mut fields = row.split_ascii_whitespace().skip(1);
    let (local, peer) = (address(fields.next()?)?, address(fields.next()?)?);
    // include/net/tcp_states.h
    let state = match fields.next()? {
        "0A" => SocketState::Listens,
        "01" => SocketState::Connected,
        _ => SocketState::Other,
    };
    Some(TcpSocket {
        local,
        peer,
        state,
        uid: fields.nth(3)?.parse().ok()?,
        inode: fields.nth(1)?.parse().ok()?,
    })
}

/// An address of these tables; the kernel prints its bytes as numbers of four bytes each.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = [0; 16];
    let words = ip.len().div_ceil(8);
    for (index, word) in bytes.chunks_exact_mut(4).take(words).enumerate() {
        let text = ip.get(index * 8..index * 8 + 8)?;
        word.copy_from_slice(&u32::from_str_radix(text, 16).ok()?.to_ne_bytes());
    }
    match words {
        1 => Some((Ipv4Addr::from(*bytes.first_chunk()?), port).into()),
        4 => Some((Ipv6Addr::from(bytes), port).into()),
        _ => None,
    }
}

/// A row of the table unix, if it is that of a stream socket with a name.
fn unix(row: &str) -> Option<UnixSocket> {
    let mut fields = row.trim_start().splitn(4, ' ').skip(3);
    let [flags, kind, state, rest] = fields.next()?.splitn(4, ' ').collect::<Vec<_>>()[..] else {
        return None;
    };
    // Only the inode is padded, and a name may hold anything.
    let (inode, name) = rest.trim_start().split_once(' ')?;
    let state = match (flags, state) {
        // __SO_ACCEPTCON and SS_CONNECTED in include/linux/net.h
        ("00010000", _) => SocketState::Listens,
        (_, "03") => SocketState::Connected,
        _ => SocketState::Other,
    };
    (kind == "0001").then(|| UnixSocket {
        name: name.to_owned(),
        state,
        inode: inode.parse().unwrap_or_default(),
    })
}

/// The sockets that we have ourselves, by inode.
pub fn own_sockets() -> HashSet<u64> {
    sockets_of("self").collect()
}

/// The sockets of a process that we may look into.
fn sockets_of(pid: &str) -> impl Iterator<Item = u64> {
    let files = fs::read_dir(format!("/proc/{pid}/fd"));
    let files = files.into_iter().flatten().flatten();
    files.filter_map(|file| {
        let link = fs::read_link(file.path()).ok()?;
        let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        inode.parse().ok()
    })
}

/// The processes that have the sockets, by inode, of those that we may look into. A socket that
/// systemd has passed on is open in two; the later one is named.
pub fn socket_owners() -> HashMap<u64, u32> {
    let mut owners = HashMap::new();
    for pid in pids() {
        for inode in sockets_of(&pid.to_string()) {
            let owner = owners.entry(inode).or_insert(pid);
            *owner = pid.max(*owner);
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
    fn tcp_sockets_are_read_as_the_kernel_prints_them() {
        let row = "  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 4242 1 0000000000000000 100 0 0 10 0";
        let v6 = "   0: 00000000000000000000000001000000:0050 0000000000000000FFFF00000100007F:C350 01 0:0 00:0 0 0 0 7 1 0 100 0 0 10 0";
        if cfg!(target_endian = "little") {
            let socket = tcp(row).expect("a socket");
            assert_eq!(socket.local.to_string(), "127.0.0.1:8080");
            assert_eq!((socket.inode, socket.uid), (4242, 101));
            assert_eq!(socket.state, SocketState::Listens);
            let socket = tcp(v6).expect("a socket");
            assert_eq!(socket.local.to_string(), "[::1]:80");
            assert_eq!(socket.peer.to_string(), "[::ffff:127.0.0.1]:50000");
            assert_eq!(socket.state, SocketState::Connected);
        }
        let closing = tcp(&row.replace(" 0A ", " 08 ")).expect("a socket");
        assert_eq!(closing.state, SocketState::Other);
        for row in [
            "",
            "  sl  local_address rem_address   st",
            "0: 0100007F:1F90",
            "0: 01:1 01:1 01 0 0 0 0 0 0",
        ] {
            assert_eq!(tcp(row), None, "{row}");
        }
    }

    #[test]
    fn unix_sockets_are_read_as_the_kernel_prints_them() {
        use SocketState::{Connected, Listens, Other};
        for (row, expected) in [
            (
                "0000000000000000: 00000002 00000000 00010000 0001 01 21 /run/x.sock",
                Some(("/run/x.sock", Listens)),
            ),
            (
                "00000000b1946ac9: 00000003 00000000 00000000 0001 03    22 /run/an x",
                Some(("/run/an x", Connected)),
            ),
            (
                "0: 00000002 00000000 00010000 0001 01 23 @x",
                Some(("@x", Listens)),
            ),
            (
                "0: 00000002 00000000 00000000 0001 02 24 @x",
                Some(("@x", Other)),
            ),
            (
                "0: 00000002 00000000 00010000 0005 01 25 /run/seqpacket",
                None,
            ),
            ("0: 00000003 00000000 00000000 0001 03 26", None),
            (
                "Num       RefCount Protocol Flags    Type St Inode Path",
                None,
            ),
            ("", None),
        ] {
            let found = unix(row);
            let found = found.as_ref().map(|socket| (&*socket.name, socket.state));
            assert_eq!(found, expected, "{row}");
        }
    }

    #[test]
    fn our_own_sockets_are_known() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let here = listener.local_addr().expect("it is bound");
        let listens = |socket: &TcpSocket| Ok(socket.local == here);
        let found = tcp_sockets(listens).expect("it can be read");
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].state, SocketState::Listens);
        assert!(own_sockets().contains(&found[0].inode));
    }

    #[test]
    fn udp_sockets_are_read_as_well() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
        let here = socket.local_addr().expect("it is bound");
        let found = || udp_sockets(|socket| Ok(socket.local == here)).expect("it can be read");
        assert_eq!(found()[0].state, SocketState::Other);
        socket.connect("127.0.0.1:9").expect("connects");
        assert_eq!(found()[0].state, SocketState::Connected);
        assert!(own_sockets().contains(&found()[0].inode));
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
