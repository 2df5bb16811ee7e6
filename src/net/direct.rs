//! Connections to a target that bypass us, as the kernel lists them. Only those of our network
//! namespace can be seen.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::dial::{Target, on_a_thread, resolve};
use super::reach::reaches_over_tcp;
use crate::config::address::{Address, UnixAddress, canonical};
use crate::util::backoff::Backoff;
use crate::util::proc::{self, SocketState, TcpSocket, UnixSocket};

/// A server may take a moment to close its end of a connection that has just ended, and one of ours may
/// end while the tables are read: what is there is counted again after these pauses, and the least
/// counts.
const RECOUNTS: usize = 5;
const RECOUNT: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(400));

/// How many read the tables at once.
static READERS: Semaphore = Semaphore::const_new(1);

/// How many connections there are to `targets` that are not ours.
pub async fn count(targets: &[Arc<Target>]) -> io::Result<usize> {
    let (mut tcp, mut unix) = (Vec::new(), Vec::new());
    for target in targets {
        match &**target {
            Address::Tcp { host, port } => {
                tcp.extend(resolve(host, port.unwrap_or_default()).await?);
            }
            // A socket that only sends has no connection.
            Address::Udp { .. } => (),
            Address::Unix(address) => unix.push(address.clone()),
            // Its pods have networks of their own, whose tables are not ours to read.
            Address::Service(_) => (),
        }
    }
    let (mut counts, mut pauses) = (vec![once(&tcp, &unix).await?], RECOUNT);
    for _ in 0..RECOUNTS {
        counts.push(once(&tcp, &unix).await?);
        if least(&counts) == 0 {
            break;
        }
        sleep(pauses.pause()).await;
    }
    Ok(least(&counts))
}

/// The least of what was counted at least twice in a row: the kernel leaves out sockets when others of the
/// table close while it is read.
fn least(counts: &[usize]) -> usize {
    let twice = counts.windows(2).map(|two| two[0].max(two[1]));
    twice.min().unwrap_or_default()
}

/// The tables may be long: they are read once at a time, however fast clients come and go, and reading
/// ends early when the count is not waited for any more.
async fn once(tcp: &[SocketAddr], unix: &[UnixAddress]) -> io::Result<usize> {
    let (tcp, unix) = (tcp.to_vec(), unix.to_vec());
    let turn = READERS.acquire().await.map_err(io::Error::other)?;
    let unwanted = CancellationToken::new();
    let _waits = unwanted.clone().drop_guard();
    let read = move || {
        let _turn = turn;
        let go_on = || match unwanted.is_cancelled() {
            true => Err(io::Error::from(io::ErrorKind::Interrupted)),
            false => Ok(()),
        };
        let mut count = 0;
        if !tcp.is_empty() {
            let known = |address: SocketAddr| tcp.iter().any(|it| it.port() == address.port());
            let is_target = |it: &TcpSocket| known(it.local) || known(it.peer);
            let sockets = proc::tcp_sockets(|it| go_on().map(|()| is_target(it)))?;
            count += over_tcp(&tcp, &sockets, proc::own_sockets);
        }
        if !unix.is_empty() {
            let is_target = |it: &UnixSocket| unix.iter().any(|at| is_called(&it.name, at));
            let is_target = |it: &UnixSocket| go_on().map(|()| is_target(it));
            count += over_unix(&proc::unix_sockets(is_target)?, proc::own_sockets);
        }
        Ok(count)
    };
    on_a_thread("direct", read).await
}

/// Those of `sockets` that are connections to one of `targets`; `ours` are ours.
fn over_tcp(
    targets: &[SocketAddr],
    sockets: &[TcpSocket],
    ours: impl FnOnce() -> HashSet<u64>,
) -> usize {
    let is = |state| move |socket: &&TcpSocket| socket.state == state;
    let listening: Vec<_> = sockets.iter().filter(is(SocketState::Listens)).collect();
    let connected: Vec<_> = sockets.iter().filter(is(SocketState::Connected)).collect();
    if connected.is_empty() {
        return 0;
    }
    let ours = ours();
    let mut listeners = Vec::new();
    for &target in targets {
        let reached = listening.iter().filter(|listener| {
            !ours.contains(&listener.inode) && reaches_over_tcp(target, listener.local)
        });
        let reached: Vec<_> = reached.map(|listener| listener.local).collect();
        // One that listens on the very address gets its connections.
        let concrete = |at: &&SocketAddr| !at.ip().to_canonical().is_unspecified();
        match reached.iter().find(concrete) {
            Some(&concrete) => listeners.push(concrete),
            None => listeners.extend(reached),
        }
    }
    let accepted = |socket: &TcpSocket| {
        let local = canonical(socket.local);
        listeners.iter().any(|&listener| {
            let wildcard = listener.ip().is_unspecified()
                && listener.port() == local.port()
                && listener.is_ipv4() == socket.local.is_ipv4();
            wildcard || canonical(listener) == local
        })
    };
    // Of one whose other end is here as well, both have to be open.
    let alive = |socket: &TcpSocket| {
        let (local, peer) = (canonical(socket.local), canonical(socket.peer));
        let is_other =
            |other: &&TcpSocket| canonical(other.local) == peer && canonical(other.peer) == local;
        let other = sockets.iter().find(is_other);
        other.is_none_or(|other| {
            other.state == SocketState::Connected && !ours.contains(&other.inode)
        })
    };
    let direct = connected
        .iter()
        .filter(|socket| !ours.contains(&socket.inode) && accepted(socket) && alive(socket));
    direct.count()
}

/// The same for Unix sockets, all of which have the name of a target.
fn over_unix(sockets: &[UnixSocket], ours: impl FnOnce() -> HashSet<u64>) -> usize {
    let mut connected = sockets.to_vec();
    connected.retain(|socket| socket.state == SocketState::Connected);
    if connected.is_empty() {
        return 0;
    }
    let ours = ours();
    connected.retain(|socket| !ours.contains(&socket.inode));
    connected.len()
}

/// Whether a socket with this name is that of `address`, which may lead there by a link.
fn is_called(name: &str, address: &UnixAddress) -> bool {
    match address {
        UnixAddress::Path(path) => {
            let bound = Path::new(OsStr::from_bytes(name.as_bytes()));
            let same = || Some(fs::canonicalize(bound).ok()? == fs::canonicalize(path).ok()?);
            bound == path || bound.file_name() == path.file_name() && same() == Some(true)
        }
        UnixAddress::Abstract(abstracted) => {
            let name = name.strip_prefix('@').map(str::as_bytes);
            name == Some(abstracted)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(local: &str, peer: &str, state: SocketState, inode: u64) -> TcpSocket {
        TcpSocket {
            local: local.parse().expect("an address"),
            peer: peer.parse().expect("an address"),
            state,
            inode,
            uid: 0,
        }
    }

    fn listener(at: &str, inode: u64) -> TcpSocket {
        let any = if at.starts_with('[') {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        socket(at, any, SocketState::Listens, inode)
    }

    fn connection(local: &str, peer: &str, inode: u64) -> TcpSocket {
        socket(local, peer, SocketState::Connected, inode)
    }

    /// Sockets 1 to 9 are ours.
    fn direct(target: &str, sockets: &[TcpSocket]) -> usize {
        let target = target.parse().expect("an address");
        over_tcp(&[target], sockets, || (1..10).collect())
    }

    #[test]
    fn a_connection_to_the_targets_address_is_direct() {
        let sockets = [
            listener("127.0.0.1:5432", 20),
            connection("127.0.0.1:5432", "127.0.0.1:40000", 21),
            connection("127.0.0.1:40000", "127.0.0.1:5432", 30),
            connection("127.0.0.1:5432", "127.0.0.1:40001", 22),
            connection("127.0.0.1:40001", "127.0.0.1:5432", 31),
        ];
        assert_eq!(direct("127.0.0.1:5432", &sockets), 2);
        assert_eq!(direct("127.0.0.1:5433", &sockets), 0);
        assert_eq!(direct("192.0.2.7:5432", &sockets), 0, "on another machine");
    }

    #[test]
    fn a_server_on_all_addresses_has_direct_connections_on_all() {
        let (there, here) = ("198.51.100.9:1000", "203.0.113.1:5432");
        let v4 = connection(here, there, 21);
        assert_eq!(
            direct("127.0.0.1:5432", &[listener("0.0.0.0:5432", 20), v4]),
            1
        );
        let mapped = connection(
            "[::ffff:203.0.113.1]:5432",
            "[::ffff:198.51.100.9]:1000",
            21,
        );
        assert_eq!(
            direct("127.0.0.1:5432", &[listener("[::]:5432", 20), mapped]),
            1
        );
        let v6 = connection("[2001:db8::1]:5432", "[2001:db8::2]:1000", 21);
        assert_eq!(direct("[::1]:5432", &[listener("[::]:5432", 20), v6]), 1);
        let other = [
            listener("127.0.0.1:5432", 20),
            listener("[::]:5432", 25),
            v6,
        ];
        assert_eq!(direct("127.0.0.1:5432", &other), 0, "another server's");
    }

    #[test]
    fn what_is_ours_does_not_count() {
        let ours = [
            listener("127.0.0.1:5432", 20),
            connection("127.0.0.1:5432", "127.0.0.1:40000", 21),
            connection("127.0.0.1:40000", "127.0.0.1:5432", 1),
        ];
        assert_eq!(direct("127.0.0.1:5432", &ours), 0, "a connection of ours");
        let clients = [
            listener("[::]:5432", 2),
            listener("127.0.0.1:5432", 20),
            connection("[2001:db8::1]:5432", "[2001:db8::2]:1000", 3),
        ];
        assert_eq!(direct("127.0.0.1:5432", &clients), 0, "a client of ours");
        let remote = [
            listener("0.0.0.0:80", 20),
            connection("203.0.113.1:80", "198.51.100.9:1000", 21),
        ];
        assert_eq!(
            direct("192.0.2.7:80", &remote),
            0,
            "the target is elsewhere"
        );
    }

    #[test]
    fn a_connection_of_which_one_end_is_closed_does_not_count() {
        let sockets = [
            listener("127.0.0.1:5432", 20),
            connection("127.0.0.1:5432", "127.0.0.1:40000", 21),
            socket("127.0.0.1:40000", "127.0.0.1:5432", SocketState::Other, 0),
        ];
        assert_eq!(direct("127.0.0.1:5432", &sockets), 0);
    }

    #[test]
    fn a_socket_that_the_kernel_leaves_out_once_counts() {
        for counts in [&[0, 1][..], &[1, 0], &[1, 1, 0, 1], &[0, 1, 0, 2]] {
            assert_ne!(least(counts), 0, "{counts:?}");
        }
        for counts in [&[0, 0][..], &[2, 1, 0, 0]] {
            assert_eq!(least(counts), 0, "{counts:?}");
        }
    }

    #[tokio::test]
    async fn connections_of_others_are_found_and_our_own_are_not() {
        // In this process, all are ours.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let here = listener.local_addr().expect("it is bound");
        let _client = std::net::TcpStream::connect(here).expect("connects");
        let _accepted = listener.accept().expect("accepts");
        let target: Target = here.to_string().parse().expect("an address");
        let targets = [Arc::new(target)];
        let count = count(&targets).await.expect("it can be read");
        assert_eq!(count, 0);
    }

    #[test]
    fn a_unix_socket_is_known_by_its_name_and_by_a_link_to_it() {
        let path = |path: &str| UnixAddress::Path(path.into());
        assert!(is_called("/run/x", &path("/run/x")));
        assert!(!is_called("/run/x", &path("/run/y")));
        assert!(!is_called("@/run/x", &path("/run/x")));
        assert!(is_called("@x", &UnixAddress::Abstract(b"x".to_vec())));
        let folder = tempfile::tempdir().expect("a folder");
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::create_dir(&real).expect("a folder");
        fs::write(real.join("x"), "").expect("a file");
        std::os::unix::fs::symlink(&real, &link).expect("a link");
        let name = real.join("x").display().to_string();
        assert!(is_called(&name, &UnixAddress::Path(link.join("x"))));
    }

    #[test]
    fn unix_connections_count_unless_they_are_ours() {
        let socket = |state, inode| UnixSocket {
            name: "/run/x".into(),
            state,
            inode,
        };
        let sockets = [
            socket(SocketState::Listens, 20),
            socket(SocketState::Connected, 21),
            socket(SocketState::Connected, 3),
            socket(SocketState::Other, 22),
        ];
        assert_eq!(over_unix(&sockets, || (1..10).collect()), 1);
    }
}
