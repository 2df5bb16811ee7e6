//! The loads that clients and services put on a proxy. Both ends are here, and cost as little as they can.

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::datagrams;
use crate::exchange::{self, Exchange, Form, Incoming, receive};
use crate::peers::{Peer, Running, listen};

pub(crate) type Outcome = Result<Vec<(&'static str, f64)>, Box<dyn Error>>;

/// Nobody waits longer than this for a byte.
const STALLED: Duration = Duration::from_secs(10);
/// How often those who wait for events see whether the end has come.
const PROBE_TIMEOUT: Duration = Duration::from_millis(20);
/// What a source writes, and a sink takes, at once.
const CHUNK: usize = 256 * 1024;
/// A large body of a response.
const BODY: usize = 256 * 1024 * 1024;
/// Clients that connect, ask and reset.
const HASTY: usize = 16;
/// What each idle connection has got before it fell silent, and what each hasty client asks.
const SMALL: usize = 64;
/// The number of a listener among the events of an epoll.
const LISTENER: u64 = u64::MAX;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// So many connections, each with one message of this size under way, there and back.
    Ping { size: usize, connections: usize },
    /// So many connections, each with one request under way, whose response has a body of this size.
    Get { size: usize, connections: usize },
    /// So many connections, each as fast as it can, to the client.
    Down(usize),
    /// The same, to the service.
    Up(usize),
    /// So many connections, each with one request after the other for a large body.
    Bodies(usize),
    /// Connect, ask, reset.
    Connects,
    /// So many connections, all silent.
    Idle(usize),
    /// The same, each after a request.
    KeptAlive(usize),
    /// Over UDP.
    Datagrams(datagrams::Load),
}

/// What is measured: not yet, now, no more.
#[derive(Default)]
pub(crate) struct Phase(AtomicU8);

impl Phase {
    pub(crate) fn measures(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 1
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 2
    }

    fn enter(&self, phase: u8) {
        self.0.store(phase, Ordering::Relaxed);
    }
}

/// What has passed while it was measured.
pub(crate) struct Window {
    pub(crate) seconds: f64,
    /// The proxy's processor time; nothing where there is no proxy.
    cpu: Option<f64>,
    pub(crate) count: f64,
}

impl Window {
    /// Lets the load run for a while, then measures.
    pub(crate) fn measure(
        proxy: Option<&Running>,
        phase: &Phase,
        seconds: f64,
        count: impl Fn() -> u64,
    ) -> Self {
        thread::sleep(Duration::from_secs_f64((seconds / 4.0).clamp(0.1, 0.5)));
        let (cpu, counted, began) = (proxy.map(Running::cpu), count(), Instant::now());
        phase.enter(1);
        thread::sleep(Duration::from_secs_f64(seconds));
        phase.enter(2);
        let seconds = began.elapsed().as_secs_f64();
        let count = (count() - counted) as f64;
        let cpu = proxy
            .map(Running::cpu)
            .zip(cpu)
            .map(|(after, before)| after - before);
        Self {
            seconds,
            cpu,
            count,
        }
    }

    pub(crate) fn cpu_per(
        &self,
        name: &'static str,
        amount: f64,
        unit: f64,
    ) -> Option<(&'static str, f64)> {
        self.cpu
            .filter(|_| amount > 0.0)
            .map(|cpu| (name, cpu * unit / amount))
    }
}

impl Load {
    /// Puts the load on a fresh start of this peer, for so many seconds.
    pub(crate) fn run(self, peer: &Peer, dir: &Path, seconds: f64) -> Outcome {
        if let Self::Datagrams(load) = self {
            return load.run(peer, dir, seconds);
        }
        let listener = listen(peer.target())?;
        let mut proxy = peer.start(dir)?;
        let to = peer.entrance();
        match self {
            Self::Ping { size, connections } => {
                let exchange = Exchange::echo(size);
                exchanges(listener, to, &mut proxy, exchange, connections, seconds)
            }
            Self::Get { size, connections } => {
                let exchange = Exchange::get(size);
                exchanges(listener, to, &mut proxy, exchange, connections, seconds)
            }
            Self::Down(streams) => stream(listener, to, &mut proxy, streams, Way::Down, seconds),
            Self::Up(streams) => stream(listener, to, &mut proxy, streams, Way::Up, seconds),
            Self::Bodies(streams) => {
                stream(listener, to, &mut proxy, streams, Way::Bodies, seconds)
            }
            Self::Connects => connects(listener, to, &mut proxy, seconds),
            Self::Idle(connections) => {
                let exchange = Exchange::echo(SMALL);
                idle(listener, to, &mut proxy, exchange, connections)
            }
            Self::KeptAlive(connections) => {
                let exchange = Exchange::get(SMALL);
                idle(listener, to, &mut proxy, exchange, connections)
            }
            Self::Datagrams(_) => unreachable!("they have no listener"),
        }
    }
}

fn exchanges(
    listener: TcpListener,
    to: SocketAddr,
    proxy: &mut Option<Running>,
    exchange: Exchange,
    connections: usize,
    seconds: f64,
) -> Outcome {
    let exchange = Arc::new(exchange);
    let service = if connections == 1 {
        Service::patient(listener, exchange.clone())
    } else {
        Service::answering(listener, exchange.clone(), true)?
    };
    let phase = Phase::default();
    let threads = connections.min(thread::available_parallelism()?.get());
    let (window, times) = thread::scope(|scope| {
        let client = |share: usize| {
            let (exchange, phase) = (&exchange, &phase);
            scope.spawn(move || match connections {
                1 => one_client(to, exchange, phase),
                _ => clients(to, exchange, share, phase),
            })
        };
        let clients: Vec<_> = (0..threads)
            .map(|i| client(connections / threads + usize::from(i < connections % threads)))
            .collect();
        let window = Window::measure(proxy.as_ref(), &phase, seconds, || 0);
        let mut times = Vec::new();
        for client in clients {
            times.extend(client.join().map_err(|_| "a client panicked")??);
        }
        Ok::<_, Box<dyn Error>>((window, times))
    })?;
    end(proxy, service)?;
    latencies(&window, times)
}

/// What is made of the times of all answers, in nanoseconds.
pub(crate) fn latencies(window: &Window, mut times: Vec<u32>) -> Outcome {
    if times.is_empty() {
        return Err("nothing was answered".into());
    }
    times.sort_unstable();
    let at = |share: f64| f64::from(times[((times.len() - 1) as f64 * share) as usize]) / 1000.0;
    let count = times.len() as f64;
    let mut found = vec![
        ("rps", count / window.seconds),
        ("p50_us", at(0.5)),
        ("p99_us", at(0.99)),
    ];
    found.extend(window.cpu_per("cpu_us", count, 1e6));
    Ok(found)
}

/// Ends the proxy, which ends its connections, so that the service can end.
fn end(proxy: &mut Option<Running>, service: Service) -> Result<(), Box<dyn Error>> {
    let ran = proxy.as_mut().is_none_or(Running::runs);
    *proxy = None;
    drop(service);
    if ran {
        Ok(())
    } else {
        Err("it ended under the load".into())
    }
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STALLED))?;
    stream.set_write_timeout(Some(STALLED))?;
    Ok(stream)
}

/// One connection, and the time (ns) from each request to the end of its response.
fn one_client(to: SocketAddr, exchange: &Exchange, phase: &Phase) -> io::Result<Vec<u32>> {
    let mut stream = connect(to)?;
    let mut buffer = exchange.buffer();
    let mut times = Vec::with_capacity(1 << 18);
    while !phase.is_over() {
        let began = Instant::now();
        exchange.ask(&mut stream, &mut buffer)?;
        if phase.measures() {
            times.push(nanoseconds(began));
        }
    }
    Ok(times)
}

/// The same for several connections on one thread.
fn clients(
    to: SocketAddr,
    exchange: &Exchange,
    connections: usize,
    phase: &Phase,
) -> io::Result<Vec<u32>> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut streams = Vec::new();
    let mut buffer = exchange.buffer();
    for number in 0..connections {
        let stream = connect(to)?;
        epoll::add(
            &epoll,
            &stream,
            epoll::EventData::new_u64(number as u64),
            epoll::EventFlags::IN,
        )?;
        streams.push((stream, Incoming::default(), Instant::now()));
    }
    for (stream, _, began) in &mut streams {
        *began = Instant::now();
        stream.write_all(&exchange.request)?;
    }
    let mut times = Vec::with_capacity(1 << 18);
    let mut events = Vec::with_capacity(connections);
    while !phase.is_over() {
        if wait(&epoll, &mut events)? == 0
            && streams
                .iter()
                .all(|(_, _, began)| began.elapsed() > STALLED)
        {
            return Err(io::ErrorKind::TimedOut.into());
        }
        for event in &events {
            let (stream, incoming, began) = &mut streams[event.data.u64() as usize];
            let whole = match recv(&*stream, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((length, _)) => incoming.take(&buffer[..length], exchange.answered)?,
                Err(Errno::AGAIN) => continue,
                Err(error) => return Err(error.into()),
            };
            if whole {
                if phase.measures() {
                    times.push(nanoseconds(*began));
                }
                *began = Instant::now();
                stream.write_all(&exchange.request)?;
            }
        }
    }
    Ok(times)
}

fn nanoseconds(began: Instant) -> u32 {
    began.elapsed().as_nanos().try_into().unwrap_or(u32::MAX)
}

/// Waits for events for a moment; says how many there are.
fn wait(epoll: impl AsFd, events: &mut Vec<epoll::Event>) -> io::Result<usize> {
    events.clear();
    let glance = Timespec::try_from(PROBE_TIMEOUT).ok();
    match epoll::wait(epoll, spare_capacity(events), glance.as_ref()) {
        Ok(count) => Ok(count),
        Err(Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Where streams go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Down,
    Up,
    /// Down, as bodies of responses.
    Bodies,
}

fn stream(
    listener: TcpListener,
    to: SocketAddr,
    proxy: &mut Option<Running>,
    streams: usize,
    way: Way,
    seconds: f64,
) -> Outcome {
    let bytes = Arc::new(AtomicU64::new(0));
    let phase = Phase::default();
    let service = match way {
        Way::Down => Service::source(listener),
        Way::Up => Service::sink(listener, bytes.clone()),
        Way::Bodies => Service::bodies(listener),
    };
    let window = thread::scope(|scope| {
        let (mut sockets, mut clients) = (Vec::new(), Vec::new());
        for _ in 0..streams {
            let mut stream = connect(to)?;
            if way != Way::Bodies {
                // A source sends to whom has asked for it: a proxy may look first whether somebody is there.
                stream.write_all(b".")?;
            }
            sockets.push(stream.try_clone()?);
            let (bytes, phase) = (&bytes, &phase);
            clients.push(scope.spawn(move || {
                match way {
                    Way::Down => take(&stream, bytes),
                    Way::Up => give(stream),
                    Way::Bodies => fetch(stream, bytes)
                        .or_else(|error| if phase.is_over() { Ok(()) } else { Err(error) })?,
                }
                io::Result::Ok(())
            }));
        }
        let window = Window::measure(proxy.as_ref(), &phase, seconds, || {
            bytes.load(Ordering::Relaxed)
        });
        for socket in sockets {
            let _ = socket.shutdown(Shutdown::Both);
        }
        for client in clients {
            client.join().map_err(|_| "a client panicked")??;
        }
        Ok::<_, Box<dyn Error>>(window)
    })?;
    end(proxy, service)?;
    if window.count == 0.0 {
        return Err("nothing came through".into());
    }
    let mut found = vec![("gbps", window.count * 8.0 / window.seconds / 1e9)];
    found.extend(window.cpu_per("cpu_s_gb", window.count, 1e9));
    Ok(found)
}

/// Sends until the end.
fn give(mut stream: TcpStream) {
    static BYTES: [u8; CHUNK] = [b'.'; CHUNK];
    while stream.write_all(&BYTES).is_ok() {}
}

/// Takes and counts until the end. The kernel drops what is taken instead of copying it: what is measured is the
/// proxy and not us.
fn take(stream: &TcpStream, bytes: &AtomicU64) {
    let mut buffer = vec![0; CHUNK];
    while let Ok((_, length @ 1..)) = recv(stream, &mut buffer[..], RecvFlags::TRUNC) {
        bytes.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// Asks for one large body after the other and takes them in the same way.
fn fetch(mut stream: TcpStream, bytes: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        stream.write_all(exchange::GET.as_bytes())?;
        let mut incoming = Incoming::default();
        let mut rest = BODY;
        while rest == BODY {
            let length = stream.read(&mut buffer[..SMALL])?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            incoming.take(&buffer[..length], Form::Http(BODY))?;
            rest = incoming.rest().unwrap_or(BODY);
        }
        bytes.fetch_add((BODY - rest) as u64, Ordering::Relaxed);
        while rest > 0 {
            let (_, length) = recv(&stream, &mut buffer[..rest.min(CHUNK)], RecvFlags::TRUNC)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            rest -= length;
            bytes.fetch_add(length as u64, Ordering::Relaxed);
        }
    }
}

fn connects(
    listener: TcpListener,
    to: SocketAddr,
    proxy: &mut Option<Running>,
    seconds: f64,
) -> Outcome {
    let exchange = Arc::new(Exchange::echo(SMALL));
    let service = Service::answering(listener, exchange.clone(), false)?;
    let phase = Phase::default();
    let (done, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let window = thread::scope(|scope| {
        for _ in 0..HASTY {
            scope.spawn(|| {
                while !phase.is_over() {
                    let count = if hasty(to, &exchange).is_ok() {
                        &done
                    } else {
                        &failed
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Window::measure(proxy.as_ref(), &phase, seconds, || {
            done.load(Ordering::Relaxed)
        })
    });
    end(proxy, service)?;
    if window.count == 0.0 {
        return Err("nobody was answered".into());
    }
    let mut found = vec![("cps", window.count / window.seconds)];
    found.extend(window.cpu_per("cpu_us", window.count, 1e6));
    let failed = failed.into_inner();
    if failed > 0 {
        found.push(("failed", failed as f64));
    }
    Ok(found)
}

/// Connects, asks, and resets as soon as the answer is there.
fn hasty(to: SocketAddr, exchange: &Exchange) -> io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(STALLED))?;
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    exchange.ask(&mut stream, &mut [0; 4096])
}

fn idle(
    listener: TcpListener,
    to: SocketAddr,
    proxy: &mut Option<Running>,
    exchange: Exchange,
    connections: usize,
) -> Outcome {
    const SETTLED: Duration = Duration::from_millis(500);
    let exchange = Arc::new(exchange);
    let service = Service::answering(listener, exchange.clone(), true)?;
    let memory = |proxy: &Option<Running>| {
        thread::sleep(SETTLED);
        proxy.as_ref().map(Running::memory).unwrap_or_default()
    };
    // It has relayed something, so that all it needs to start with is there.
    hasty(to, &exchange)?;
    let before = memory(proxy);
    let mut clients = Vec::new();
    let mut buffer = exchange.buffer();
    for _ in 0..connections {
        let mut stream = connect(to)?;
        exchange.ask(&mut stream, &mut buffer)?;
        clients.push(stream);
    }
    let after = memory(proxy);
    drop(clients);
    end(proxy, service)?;
    let each = |before: f64, after: f64| (after - before) / connections as f64;
    Ok(vec![
        ("kb", each(before.pss, after.pss)),
        ("private_kb", each(before.uss, after.uss)),
        ("resident_kb", before.pss),
    ])
}

/// The other end: what the proxy relays to.
struct Service {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// One thread's part of a service that answers.
struct Worker {
    epoll: rustix::fd::OwnedFd,
    /// Each connection, and how much of a request has come.
    connections: Mutex<HashMap<u64, (TcpStream, Incoming)>>,
}

impl Service {
    /// A thread for each connection, which answers every whole request.
    fn patient(listener: TcpListener, exchange: Arc<Exchange>) -> Self {
        Self::each(listener, move |mut stream| {
            let mut buffer = exchange.buffer();
            while exchange.answer(&mut stream, &mut buffer).is_ok() {}
        })
    }

    /// A thread for each connection, which answers every request with a large body.
    fn bodies(listener: TcpListener) -> Self {
        Self::each(listener, |mut stream| {
            static BYTES: [u8; CHUNK] = [b'.'; CHUNK];
            let mut buffer = vec![0; 4096];
            while receive(&mut stream, &mut buffer, Form::Http(0)).is_ok()
                && stream.write_all(&exchange::head(BODY)).is_ok()
                && (0..BODY / CHUNK).all(|_| stream.write_all(&BYTES).is_ok())
            {}
        })
    }

    fn source(listener: TcpListener) -> Self {
        Self::each(listener, |mut stream| {
            if stream.read_exact(&mut [0]).is_ok() {
                give(stream);
            }
        })
    }

    fn sink(listener: TcpListener, bytes: Arc<AtomicU64>) -> Self {
        Self::each(listener, move |stream| take(&stream, &bytes))
    }

    fn each(listener: TcpListener, serve: impl Fn(TcpStream) + Clone + Send + 'static) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let accept = thread::spawn(move || {
            let mut threads = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                let glance = Timespec::try_from(PROBE_TIMEOUT).ok();
                let came = poll(
                    &mut [PollFd::new(&listener, PollFlags::IN)],
                    glance.as_ref(),
                );
                if came != Ok(1) {
                    continue;
                }
                if let Ok((stream, _)) = listener.accept() {
                    let _ = stream.set_nodelay(true);
                    let _ = stream.set_read_timeout(Some(STALLED));
                    let _ = stream.set_write_timeout(Some(STALLED));
                    let serve = serve.clone();
                    threads.push(thread::spawn(move || serve(stream)));
                }
            }
            for thread in threads {
                let _ = thread.join();
            }
        });
        Self {
            over,
            threads: vec![accept],
        }
    }

    /// One thread for each core, which answers every whole request. A connection belongs to the next thread in turn
    /// when they are spread, and to the one that took it in when they are short.
    fn answering(listener: TcpListener, exchange: Arc<Exchange>, spread: bool) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let mut workers = Vec::new();
        for _ in 0..thread::available_parallelism()?.get() {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            epoll::add(
                &epoll,
                &listener,
                epoll::EventData::new_u64(LISTENER),
                epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE,
            )?;
            workers.push(Worker {
                epoll,
                connections: Mutex::default(),
            });
        }
        let shared = Arc::new((listener, workers, AtomicU64::new(0)));
        let over = Arc::new(AtomicBool::new(false));
        let threads = (0..shared.1.len()).map(|own| {
            let (shared, over, exchange) = (shared.clone(), over.clone(), exchange.clone());
            thread::spawn(move || {
                let (listener, workers, count) = &*shared;
                let mut events = Vec::with_capacity(256);
                let mut buffer = exchange.buffer();
                while !over.load(Ordering::Relaxed)
                    && wait(&workers[own].epoll, &mut events).is_ok()
                {
                    for event in &events {
                        match event.data.u64() {
                            LISTENER => {
                                // Somebody else may have been faster.
                                let Ok((stream, _)) = listener.accept() else {
                                    continue;
                                };
                                let number = count.fetch_add(1, Ordering::Relaxed);
                                let whose = if spread {
                                    number as usize % workers.len()
                                } else {
                                    own
                                };
                                workers[whose].take(stream, number);
                            }
                            number => workers[own].turn(number, &exchange, &mut buffer),
                        }
                    }
                }
            })
        });
        Ok(Self {
            threads: threads.collect(),
            over,
        })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Worker {
    fn take(&self, stream: TcpStream, number: u64) {
        let _ = stream.set_nodelay(true);
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if epoll::add(
            &self.epoll,
            &stream,
            epoll::EventData::new_u64(number),
            epoll::EventFlags::IN,
        )
        .is_ok()
        {
            connections.insert(number, (stream, Incoming::default()));
        }
    }

    /// Reads what has come, and answers when it is a whole request.
    fn turn(&self, number: u64, exchange: &Exchange, buffer: &mut [u8]) {
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some((stream, incoming)) = connections.get_mut(&number) else {
            return;
        };
        let stays = match recv(&*stream, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => false,
            Ok((length, _)) => match incoming.take(&buffer[..length], exchange.asked) {
                Ok(true) => stream.write_all(&exchange.response).is_ok(),
                Ok(false) => true,
                Err(_) => false,
            },
            Err(error) => error == Errno::AGAIN,
        };
        if !stays {
            connections.remove(&number);
        }
    }
}
