//! Loads of datagrams: echoed ones, and trains in one direction. Both ends are here, and cost as little as they can.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::loads::{Outcome, Phase, Window, latencies};
use crate::peers::{Peer, Running, datagrams};

/// Who hears nothing for so long takes what is under way for lost, and sends anew.
const LOST: Duration = Duration::from_millis(200);
/// How often those who wait see whether the end has come.
const LOOK: Duration = Duration::from_millis(20);
/// How long what is under way may take when no more is sent.
const REST: Duration = Duration::from_millis(300);
/// What a receive may bring when datagrams come joined.
const JOINED: usize = 64 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// So many clients, each with so many datagrams of this size under way, there and back.
    Echo {
        size: usize,
        flows: usize,
        outstanding: usize,
    },
    /// One client that sends at this rate, so many at once, to a service that only counts.
    Bulk {
        size: usize,
        per_second: u32,
        train: usize,
    },
}

impl Load {
    /// Puts the load on a fresh start of this peer, for so many seconds.
    pub(crate) fn run(self, peer: &Peer, dir: &Path, seconds: f64) -> Outcome {
        let service = datagrams(peer.target())?;
        service.set_read_timeout(Some(LOOK))?;
        let over = AtomicBool::new(false);
        // It is not asked whether it listens; whether it relays is.
        let started = thread::scope(|scope| {
            scope.spawn(|| echo(&service, &over));
            let started = peer.start(dir).map_err(|error| error.to_string());
            over.store(true, Ordering::Relaxed);
            started
        });
        let mut proxy = started?;
        let to = peer.entrance();
        let figures = match self {
            Self::Echo {
                size,
                flows,
                outstanding,
            } => echoes(
                &service,
                to,
                proxy.as_ref(),
                (size, flows, outstanding),
                seconds,
            ),
            Self::Bulk {
                size,
                per_second,
                train,
            } => bulk(
                &service,
                to,
                proxy.as_ref(),
                (size, per_second, train),
                seconds,
            ),
        }?;
        match proxy.as_mut().is_none_or(Running::runs) {
            true => Ok(figures),
            false => Err("it ended under the load".into()),
        }
    }
}

/// Sends everything back, until it is over.
fn echo(service: &UdpSocket, over: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !over.load(Ordering::Relaxed) {
        while let Ok((length, client)) = service.recv_from(&mut buffer) {
            // A client that is gone is no matter.
            let _ = service.send_to(&buffer[..length], client);
        }
    }
}

fn echoes(
    service: &UdpSocket,
    to: SocketAddr,
    proxy: Option<&Running>,
    (size, flows, outstanding): (usize, usize, usize),
    seconds: f64,
) -> Outcome {
    let (phase, over) = (Phase::default(), AtomicBool::new(false));
    let (window, outcome) = thread::scope(|scope| {
        scope.spawn(|| echo(service, &over));
        let clients = scope.spawn(|| clients(to, &phase, (size, flows, outstanding)));
        let window = Window::measure(proxy, &phase, seconds, || 0);
        let outcome = clients.join();
        over.store(true, Ordering::Relaxed);
        (window, outcome)
    });
    let (times, lost) = outcome.map_err(|_| "a client panicked")??;
    let lost = 100.0 * lost as f64 / (times.len() as f64 + lost as f64);
    let mut found = latencies(&window, times)?;
    found.push(("lost", lost));
    Ok(found)
}

/// A client of the echo.
struct Client {
    socket: UdpSocket,
    /// When each of those that are under way was sent, by its number; `None` has come back.
    sent: Vec<Option<Instant>>,
    heard: Instant,
}

/// The times of those that came back while it was measured, in nanoseconds, and how many did not.
fn clients(
    to: SocketAddr,
    phase: &Phase,
    (size, flows, outstanding): (usize, usize, usize),
) -> io::Result<(Vec<u32>, u64)> {
    let mut clients = Vec::new();
    for _ in 0..flows {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(to)?;
        socket.set_nonblocking(true)?;
        clients.push(Client {
            socket,
            sent: vec![None; outstanding],
            heard: Instant::now(),
        });
    }
    let (mut times, mut lost) = (Vec::new(), 0);
    let mut datagram = vec![b'.'; size];
    let mut buffer = [0; 2048];
    while !phase.is_over() {
        let now = Instant::now();
        for client in &mut clients {
            let silent = now.duration_since(client.heard) > LOST;
            let is_new = client.sent.iter().all(Option::is_none);
            if !silent && !is_new {
                continue;
            }
            for number in 0..outstanding {
                lost += u64::from(client.sent[number].is_some() && phase.measures());
                client.send(number, &mut datagram)?;
            }
            client.heard = now;
        }
        let mut ready: Vec<_> = clients
            .iter()
            .map(|client| PollFd::new(&client.socket, PollFlags::IN))
            .collect();
        let limit = Timespec {
            tv_sec: 0,
            tv_nsec: LOOK.subsec_nanos().into(),
        };
        poll(&mut ready, Some(&limit))?;
        let ready: Vec<_> = ready.iter().map(|it| !it.revents().is_empty()).collect();
        for (client, _) in clients.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            while let Ok(length) = client.socket.recv(&mut buffer) {
                client.heard = Instant::now();
                let number = usize::from(buffer[0]);
                let sent = client.sent.get_mut(number).and_then(Option::take);
                if length != size {
                    return Err(io::Error::other(format!("{length} bytes came back")));
                }
                // One that was taken for lost comes a second time.
                let Some(sent) = sent else { continue };
                if phase.measures() {
                    let time = client.heard.duration_since(sent).as_nanos();
                    times.push(u32::try_from(time).unwrap_or(u32::MAX));
                }
                client.send(number, &mut datagram)?;
            }
        }
    }
    Ok((times, lost))
}

impl Client {
    fn send(&mut self, number: usize, datagram: &mut [u8]) -> io::Result<()> {
        datagram[0] = u8::try_from(number).unwrap_or_default();
        self.sent[number] = Some(Instant::now());
        match self.socket.send(datagram) {
            // The target was not there yet, or the queue is full: it is lost.
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn bulk(
    service: &UdpSocket,
    to: SocketAddr,
    proxy: Option<&Running>,
    (size, per_second, train): (usize, u32, usize),
    seconds: f64,
) -> Outcome {
    let (phase, over) = (Phase::default(), AtomicBool::new(false));
    let (arrived, sent) = (AtomicU64::new(0), AtomicU64::new(0));
    let (window, outcome) = thread::scope(|scope| {
        let counter = scope.spawn(|| count(service, size, &arrived, &over));
        let sender = scope.spawn(|| send(to, &phase, (size, per_second, train), &sent));
        let count = || arrived.load(Ordering::Relaxed);
        let window = Window::measure(proxy, &phase, seconds, count);
        let mut outcome = sender.join().map_err(|_| "the sender panicked");
        thread::sleep(REST);
        over.store(true, Ordering::Relaxed);
        let counted = counter.join().map_err(|_| "the service panicked");
        if let Ok(Err(error)) = counted {
            outcome = Ok(Err(error));
        }
        (window, outcome)
    });
    outcome??;
    let (arrived, sent) = (arrived.into_inner() as f64, sent.into_inner() as f64);
    if window.count == 0.0 {
        return Err("nothing arrived".into());
    }
    let mut found = vec![
        ("arrived", window.count / window.seconds),
        ("sent", sent),
        ("lost", 100.0 * (sent - arrived).max(0.0) / sent),
    ];
    found.extend(window.cpu_per("cpu_us", window.count, 1e6));
    Ok(found)
}

/// Sends trains until the end, each when it is due.
fn send(
    to: SocketAddr,
    phase: &Phase,
    (size, per_second, train): (usize, u32, usize),
    sent: &AtomicU64,
) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let state = UdpSocketState::new((&socket).into())?;
    socket.set_nonblocking(false)?;
    if state.max_gso_segments() < train {
        return Err(io::Error::other("the kernel sends no trains (UDP_SEGMENT)"));
    }
    let contents = vec![b'.'; size * train];
    let transmit = Transmit {
        destination: to,
        ecn: None,
        contents: &contents,
        segment_size: Some(size),
        src_ip: None,
    };
    let pause = Duration::from_secs(1) * train as u32 / per_second;
    let began = Instant::now();
    let mut trains = 0;
    while !phase.is_over() {
        // As many as are due: a sleep is never as short as that.
        while began + pause * trains <= Instant::now() && !phase.is_over() {
            state.try_send((&socket).into(), &transmit)?;
            trains += 1;
            sent.fetch_add(train as u64, Ordering::Relaxed);
        }
        thread::sleep(pause);
    }
    Ok(())
}

/// Counts what arrives, until it is over.
fn count(
    service: &UdpSocket,
    size: usize,
    arrived: &AtomicU64,
    over: &AtomicBool,
) -> io::Result<()> {
    let state = UdpSocketState::new(service.into())?;
    // It makes the socket non-blocking.
    service.set_nonblocking(true)?;
    let mut storage = vec![[0; JOINED]; BATCH_SIZE];
    let mut meta = [RecvMeta::default(); BATCH_SIZE];
    while !over.load(Ordering::Relaxed) {
        let limit = Timespec {
            tv_sec: 0,
            tv_nsec: LOOK.subsec_nanos().into(),
        };
        poll(&mut [PollFd::new(service, PollFlags::IN)], Some(&limit))?;
        loop {
            let mut buffers: Vec<_> = storage
                .iter_mut()
                .map(|buffer| IoSliceMut::new(buffer))
                .collect();
            match state.recv(service.into(), &mut buffers, &mut meta) {
                Ok(length) => {
                    for meta in &meta[..length] {
                        // Those that asked whether it relays are not of that size.
                        if meta.stride == size {
                            let count = meta.len.div_ceil(meta.stride) as u64;
                            arrived.fetch_add(count, Ordering::Relaxed);
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => (),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
