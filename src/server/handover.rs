//! Hands connections over to the next process, by queues in systemd's file descriptor store: what is
//! in flight in a socket stays there while nothing runs. PID 1 compares each stored descriptor with
//! each other, so there is one for thousands of connections.

pub mod wire;

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair, sockopt,
};

use tokio::time::{sleep, timeout};

use super::control::{Control, Parked};
use super::count;
use super::listeners::{Listeners, Sessions};
use super::running::Services;
use crate::config::address::Peer;
use crate::net::datagram::DatagramSocket;
use crate::net::listen::{CONNECTIONS, CONTROL, Stored};
use crate::net::relay;
use crate::net::stream::RawStream;
use crate::service::{Permit, Traffic};
use crate::session::flow::LeftFlow;
use crate::session::{Arrival, Leads, Left, Relayed, Way};
use crate::systemd::message_id as message;
use crate::systemd::notify::Notifier;
use crate::systemd::restart::Store;
use crate::systemd::unit::Unit;
use wire::{Connection, Unreadable};

/// Descriptors of one message: what the kernel takes at most (SCM_MAX_FD).
const MOST_DESCRIPTORS: usize = 253;

/// How much a queue may hold; the kernel grants `net.core.wmem_max`.
const QUEUE_SIZE: usize = 4 << 20;

/// How often it is looked whether nothing is bound to this process any more.
const LOOK: Duration = Duration::from_millis(20);

/// What is left to the next process. Until this one ends, its services count these connections.
#[derive(Debug)]
pub(super) struct HandedOver {
    _left: Vec<Left>,
    _parked: Vec<Parked>,
    _flows: Vec<LeftFlow>,
    _held: Vec<Permit>,
}

/// If our unit starts anew, leaves all connections to the next process; `None` if they are to drain:
/// all of them are here then.
pub(super) async fn hand_over(
    (sessions, listeners, control): (&Sessions, &Listeners, &Control),
    services: &Services,
    notifier: &Notifier,
    unit: Option<&Unit>,
    limit: Duration,
) -> Option<HandedOver> {
    let all = sessions.count() + control.count();
    if all == 0 {
        return None;
    }
    let unit = unit?;
    // What was said before is heard by then. Without a manager that hears, all is to drain.
    let heard = notifier.store(CONNECTIONS, &[]).await;
    if heard.as_ref().is_err_and(|error| !is_too_many(error)) {
        return None;
    }
    let store = Store::of_restart(unit).await?;
    let fails = |connections, why: &str| {
        let connections = count(connections);
        tracing::warn!(
            message_id = message::HANDOVER_FAILED,
            "restarting: {connections} cannot be handed over: {why}"
        );
        None
    };
    if store.room() == 0 {
        return fails(all, &no_room(&store));
    }
    if heard.is_err() {
        return fails(all, TOO_MANY);
    }
    // Connections are served meanwhile, and those that cannot be handed over drain.
    sessions.abort().finish_fixed();
    let free = async {
        while services.are_bound().await || sessions.abort().fixed() > 0 {
            sleep(LOOK).await;
        }
    };
    let _ = timeout(limit, free).await;
    let held = services.hold();
    let left = sessions.pause().await;
    let (ending, left): (Vec<_>, Vec<_>) = left
        .into_iter()
        .partition(|left| left.relayed().is_some() && services.ends_with_us(&left.route));
    let parked = control.end().await;
    // Clients of what ends with us begin anew.
    let flows = listeners.left_flows(|route| !services.ends_with_us(route));
    let mut queues = Vec::new();
    let outcome = match pack(&left, &parked, &flows, store.room(), &mut queues) {
        Ok(true) => put_away(&queues, &store, notifier).await,
        Ok(false) => Err(no_room(&store)),
        Err(error) if is_too_many(&error) => Err(TOO_MANY.to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let Err(why) = outcome else {
        let connections = count(left.len() + parked.len() + flows.len());
        tracing::info!(
            message_id = message::HANDED_OVER,
            "restarting: handed {connections} over"
        );
        ending.into_iter().for_each(Left::reset);
        return Some(HandedOver {
            _left: left,
            _parked: parked,
            _flows: flows,
            _held: held,
        });
    };
    queues.into_iter().for_each(Queue::empty);
    notifier.forget(vec![CONNECTIONS.into()]);
    let connections = left.len() + flows.len();
    listeners.resume_left_flows();
    for left in ending.into_iter().chain(left) {
        sessions.resume(left);
    }
    fails(connections, &why)
}

const TOO_MANY: &str = "the limit on open files is too small; raise LimitNOFILE=";

/// Whether more descriptors than that are on their way, those of other processes of our user included:
/// the kernel sends none then, not even to the manager.
fn is_too_many(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::TOOMANYREFS.raw_os_error())
}

fn no_room(store: &Store) -> String {
    format!(
        "FileDescriptorStoreMax={} of the unit is too small; set it to 64",
        store.most
    )
}

/// Has the manager store the queues.
async fn put_away(queues: &[Queue], store: &Store, notifier: &Notifier) -> Result<(), String> {
    let outputs: Vec<BorrowedFd<'_>> = queues.iter().map(|queue| queue.output.as_fd()).collect();
    let all = store.full + outputs.len();
    match notifier.store(CONNECTIONS, &outputs).await {
        Ok(()) if store.stored().await == Some(all) => Ok(()),
        Err(error) if is_too_many(&error) => Err(TOO_MANY.to_owned()),
        _ => Err("systemd has not stored them".to_owned()),
    }
}

/// Goes on with the connections that an earlier process has left.
pub(super) fn take(
    stored: Stored,
    (listeners, control): (&Listeners, &Control),
    notifier: &Notifier,
) {
    let Stored { queues, unknown } = stored;
    for name in &unknown {
        tracing::warn!(
            "`{name}` in the file descriptor store is not known to this version: removed"
        );
    }
    // Ours first: what waits for the manager is limited.
    let mut names = Vec::new();
    if !queues.is_empty() {
        names.push(CONNECTIONS.into());
    }
    names.extend(unknown);
    let (mut received, mut flows) = (Vec::new(), Vec::new());
    for queue in queues {
        let (these, those, problem) = receive(queue);
        received.extend(these);
        flows.extend(those);
        if let Some(problem) = problem {
            tracing::warn!(
                message_id = message::HANDOVER_FAILED,
                "connections that the process before has left are reset: {problem}"
            );
        }
    }
    notifier.forget(names);
    let all = received.len() + flows.len();
    if all > 0 {
        let connections = count(all);
        tracing::info!(
            message_id = message::TAKEN_OVER,
            "took {connections} over from the process before"
        );
    }
    let is_control = |received: &Received| received.connection.control.is_some();
    let (requests, received): (Vec<_>, Vec<_>) = received.into_iter().partition(is_control);
    for Received {
        connection,
        client,
        rests: [said, ..],
        ..
    } in requests
    {
        let held = connection.control.and_then(|control| control.held);
        let held = held.map(|held| (connection.service, held));
        control.resume(client, said, held);
    }
    listeners.resume(received);
    listeners.resume_flows(flows);
}

/// Connections on their way: what was written to one end is read from the other one, by whatever
/// process has it.
#[derive(Debug)]
struct Queue {
    input: OwnedFd,
    output: OwnedFd,
}

/// One connection, to be written into a queue.
struct Parcel<'a> {
    connection: Connection,
    sockets: Vec<BorrowedFd<'a>>,
    /// What is left to be passed on, and what is said about the exchange, as [`Connection::rests`] counts it.
    rests: [&'a [u8]; 4],
}

/// Writes these connections into queues; whether they fit into at most `room`. The sockets stay open
/// here as well.
fn pack(
    sessions: &[Left],
    parked: &[Parked],
    flows: &[LeftFlow],
    room: usize,
    queues: &mut Vec<Queue>,
) -> io::Result<bool> {
    let exchanges: Vec<Vec<u8>> = sessions
        .iter()
        .map(exchange_of)
        .collect::<io::Result<_>>()?;
    let sessions = sessions.iter().zip(&exchanges);
    let sessions = sessions.map(|(session, exchange)| describe(session, exchange));
    let held: Vec<Vec<u8>> = flows
        .iter()
        .map(|flow| wire::write_held(&flow.held))
        .collect();
    let flows = flows.iter().zip(&held);
    let flows = flows.map(|(flow, held)| describe_flow(flow, held));
    let parcels: Vec<Parcel<'_>> = sessions
        .chain(parked.iter().map(describe_parked))
        .chain(flows)
        .collect();
    let connections = parcels.iter().map(|parcel| parcel.connection.clone());
    let connections: Vec<Connection> = connections.collect();
    let mut packed = 0;
    while packed < parcels.len() {
        let these = packed..packed + wire::fitting(&connections[packed..]);
        if !put(
            queues,
            room,
            &connections[these.clone()],
            &parcels[these.clone()],
        )? {
            return Ok(false);
        }
        packed = these.end;
    }
    Ok(true)
}

/// Writes one message into the last queue, or into a new one if that is full; whether there was room.
fn put(
    queues: &mut Vec<Queue>,
    room: usize,
    connections: &[Connection],
    parcels: &[Parcel<'_>],
) -> io::Result<bool> {
    let line = wire::write(connections);
    let rest = rest_of(parcels)?;
    let sockets = parcels.iter().flat_map(|parcel| parcel.sockets.clone());
    let descriptors: Vec<BorrowedFd<'_>> = sockets.chain(rest.as_ref().map(AsFd::as_fd)).collect();
    if let Some(last) = queues.last()
        && last.send(&line, &descriptors)?
    {
        return Ok(true);
    }
    if queues.len() == room {
        return Ok(false);
    }
    let queue = Queue::new()?;
    let sent = queue.send(&line, &descriptors)?;
    queues.push(queue);
    Ok(sent)
}

/// What is written down of the request that is under way.
fn exchange_of(session: &Left) -> io::Result<Vec<u8>> {
    let exchange = session.exchange().map(serde_json::to_vec);
    Ok(exchange.transpose()?.unwrap_or_default())
}

/// A file with what is left to be passed on, if anything is, and what is said about exchanges.
fn rest_of(parcels: &[Parcel<'_>]) -> io::Result<Option<OwnedFd>> {
    let mut file = None;
    for mut bytes in parcels.iter().flat_map(|parcel| parcel.rests) {
        while !bytes.is_empty() {
            let file = match &file {
                Some(file) => file,
                None => {
                    let new = rustix::fs::memfd_create("wakeport-rest", MemfdFlags::CLOEXEC);
                    &*file.insert(new?)
                }
            };
            match rustix::io::write(file, bytes)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => bytes = &bytes[written..],
            }
        }
    }
    Ok(file)
}

impl Queue {
    fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (input, output) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // Whether or not that is granted, there is some room.
        let _ = sockopt::set_socket_send_buffer_size(&input, QUEUE_SIZE);
        Ok(Self { input, output })
    }

    /// Writes a message; whether there was room for it.
    fn send(&self, line: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<bool> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match sendmsg(&self.input, &[IoSlice::new(line)], &mut control, flags) {
            Ok(sent) if sent == line.len() => Ok(true),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes everything out again: what is left in a queue that is stored would stay open.
    /// The connections themselves go on here, so none is reset.
    fn empty(self) {
        drop(self.input);
        let _ = read(&self.output, &mut Vec::new(), &mut Vec::new());
    }
}

/// What is written down of a connection.
fn describe<'a>(session: &'a Left, exchange: &'a [u8]) -> Parcel<'a> {
    let Arrival {
        peer,
        header,
        identified,
    } = session.arrival;
    let target = session.relayed();
    let relayed = target.map(|relayed| {
        let way = |way: &relay::Way, total| wire::Way {
            total,
            rest: way.rest.len() as u64,
            end: way.end,
            unsent: way.has_unsent,
        };
        let Relayed {
            paused, traffic, ..
        } = relayed;
        wire::Relayed {
            up: way(&paused.up, traffic.up),
            down: way(&paused.down, traffic.down),
            idle: u64::try_from(paused.idle.as_millis()).unwrap_or(u64::MAX),
        }
    });
    let rest = |way: fn(&relay::Paused) -> &relay::Way| -> &[u8] {
        target.map_or(&[], |relayed| &way(&relayed.paused).rest)
    };
    let sockets = [session.client.as_fd()].into_iter();
    Parcel {
        connection: Connection {
            listener: session.route.listener.to_string(),
            peer: match peer {
                Peer::Tcp(address) => Some(address),
                Peer::Unix => None,
            },
            header,
            identified,
            service: session.route.service.to_string(),
            said: session.said.len() as u64,
            exchange: exchange.len() as u64,
            relayed,
            control: None,
            flow: None,
        },
        sockets: sockets
            .chain(target.map(|relayed| relayed.target.as_fd()))
            .collect(),
        rests: [
            &session.said,
            rest(|paused| &paused.up),
            rest(|paused| &paused.down),
            exchange,
        ],
    }
}

/// The same of a connection of the control socket.
fn describe_parked(parked: &Parked) -> Parcel<'_> {
    let (service, held) = parked.held.clone().unzip();
    Parcel {
        connection: Connection {
            listener: CONTROL.into(),
            peer: None,
            header: None,
            identified: true,
            service: service.unwrap_or_default(),
            said: parked.said.len() as u64,
            exchange: 0,
            relayed: None,
            control: Some(wire::Control { held }),
            flow: None,
        },
        sockets: vec![parked.socket.as_fd()],
        rests: [&parked.said, &[], &[], &[]],
    }
}

/// The same of a flow.
fn describe_flow<'a>(left: &'a LeftFlow, held: &'a [u8]) -> Parcel<'a> {
    Parcel {
        connection: Connection {
            listener: left.listener.clone(),
            peer: Some(left.client),
            header: None,
            identified: true,
            service: left.service.clone(),
            said: held.len() as u64,
            exchange: 0,
            relayed: None,
            control: None,
            flow: Some(wire::Flow {
                local: left.local,
                connected: left.target.is_some(),
                up: left.up,
                down: left.down,
            }),
        },
        sockets: left.target.iter().map(AsFd::as_fd).collect(),
        rests: [held, &[], &[], &[]],
    }
}

/// A connection of an earlier process.
#[derive(Debug)]
pub(super) struct Received {
    /// What is known of it.
    pub(super) connection: Connection,
    /// The client's socket.
    pub(super) client: RawStream,
    target: Option<RawStream>,
    rests: [Vec<u8>; 4],
}

/// Takes all connections out of a queue; if some cannot be had, these are reset, and it is said why.
fn receive(queue: OwnedFd) -> (Vec<Received>, Vec<LeftFlow>, Option<String>) {
    let (mut received, mut flows) = (Vec::new(), Vec::new());
    let why = read(&queue, &mut received, &mut flows).err();
    let why = why.map(|(lost, why)| {
        for socket in lost {
            let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
        }
        why
    });
    (received, flows, why)
}

type Lost = (Vec<OwnedFd>, String);

fn read(
    queue: &OwnedFd,
    received: &mut Vec<Received>,
    flows: &mut Vec<LeftFlow>,
) -> Result<(), Lost> {
    let failed = |error: Errno| (Vec::new(), format!("they cannot be read: {error}"));
    rustix::io::ioctl_fionbio(queue, true).map_err(failed)?;
    let (mut bytes, mut descriptors) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 4 * wire::LONGEST];
    let mut problem: Option<Unreadable> = None;
    let mut lost = Vec::new();
    loop {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let read = recvmsg(
            queue,
            &mut [IoSliceMut::new(&mut buffer)],
            &mut control,
            flags,
        );
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sockets) = message {
                descriptors.extend(sockets);
            }
        }
        let read = match read {
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => break,
            Err(error) if error == Errno::NOTSOCK => return Err(failed(error)),
            // What was read before is of use.
            Err(_) => break,
        };
        if read.bytes == 0 {
            break;
        }
        if read.flags.contains(ReturnFlags::CTRUNC) {
            problem.get_or_insert(Unreadable::Malformed);
        }
        // Descriptors come with the first byte of their message, and never with an earlier one.
        bytes.extend_from_slice(&buffer[..read.bytes]);
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = bytes.drain(..=end).collect();
            let sockets = std::mem::take(&mut descriptors);
            match message(&line, sockets, received, flows) {
                Ok(()) => (),
                Err((sockets, why)) => {
                    lost.extend(sockets);
                    problem.get_or_insert(why);
                }
            }
        }
    }
    if !bytes.is_empty() || !descriptors.is_empty() {
        lost.extend(descriptors);
        problem.get_or_insert(Unreadable::Malformed);
    }
    match problem {
        Some(problem) => Err((lost, problem.to_string())),
        None => Ok(()),
    }
}

/// Takes the connections of one message.
fn message(
    line: &[u8],
    mut descriptors: Vec<OwnedFd>,
    received: &mut Vec<Received>,
    flows: &mut Vec<LeftFlow>,
) -> Result<(), (Vec<OwnedFd>, Unreadable)> {
    let connections = match wire::read(line) {
        Ok(connections) if wire::descriptors(&connections) == descriptors.len() => connections,
        Ok(_) => return Err((descriptors, Unreadable::Malformed)),
        Err(why) => return Err((descriptors, why)),
    };
    let has_rest = |connection: &Connection| connection.rests() != [0; 4];
    let has_rest = connections.iter().any(has_rest);
    let file = descriptors.pop_if(|_| has_rest);
    let rests = match file.map(|file| rests(&connections, &file)) {
        Some(Ok(rests)) => rests,
        Some(Err(_)) => return Err((descriptors, Unreadable::Malformed)),
        None => vec![Default::default(); connections.len()],
    };
    let mut descriptors = descriptors.into_iter();
    for (connection, rests) in connections.into_iter().zip(rests) {
        if let Some(flow) = connection.flow {
            let socket = flow.connected.then(|| descriptors.next()).flatten();
            let target = socket.map(DatagramSocket::connected).transpose();
            // What is no socket of ours is closed.
            if let (Ok(target), Some(client)) = (target, connection.peer) {
                flows.push(LeftFlow {
                    listener: connection.listener,
                    service: connection.service,
                    client,
                    local: flow.local,
                    target: target.map(Arc::new),
                    held: wire::read_held(&rests[0]),
                    up: flow.up,
                    down: flow.down,
                });
            }
            continue;
        }
        let mut socket = || RawStream::from_socket(descriptors.next()?).ok();
        let client = socket();
        let target = connection.relayed.and_then(|_| socket());
        // What is no socket of ours is closed.
        if let Some(client) = client.filter(|_| target.is_some() == connection.relayed.is_some()) {
            received.push(Received {
                connection,
                client,
                target,
                rests,
            });
        }
    }
    Ok(())
}

/// What is left to be passed on, for each connection.
fn rests(connections: &[Connection], file: &OwnedFd) -> io::Result<Vec<[Vec<u8>; 4]>> {
    let size = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
    let mut offset = 0;
    let mut next = |length: u64| -> io::Result<Vec<u8>> {
        let end = length.checked_add(offset).filter(|&end| end <= size);
        let end = end.ok_or(io::ErrorKind::InvalidData)?;
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        let mut read = 0;
        while read < bytes.len() {
            match rustix::io::pread(file, &mut bytes[read..], offset + read as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => read += count,
            }
        }
        offset = end;
        Ok(bytes)
    };
    let mut rests = |connection: &Connection| {
        let [said, up, down, exchange] = connection.rests();
        Ok([next(said)?, next(up)?, next(down)?, next(exchange)?])
    };
    connections.iter().map(&mut rests).collect()
}

impl Received {
    /// The session, on this way, unless that does not lead to its service any more.
    pub(super) fn session(self, way: &Way, leads: Leads) -> Result<Left, Box<Self>> {
        // What is under way stays with its service; requests find their way by themselves.
        let route = way.of(&self.connection.service);
        let is_bound = self.target.is_some() && !matches!(way, Way::Whole(_));
        let any = || way.first().filter(|_| !is_bound).cloned();
        let Some(route) = route.or_else(any) else {
            return Err(Box::new(self));
        };
        let exchange = match self.rests[3].is_empty() {
            true => None,
            false => match serde_json::from_slice(&self.rests[3]) {
                Ok(paused) if route.speaks_http() => Some(paused),
                _ => return Err(Box::new(self)),
            },
        };
        let Connection {
            peer,
            header,
            identified,
            relayed,
            ..
        } = self.connection;
        let arrival = Arrival {
            peer: peer.map_or(Peer::Unix, Peer::Tcp),
            header,
            identified,
        };
        let [said, up, down, _] = self.rests;
        let (Some(relayed), Some(target)) = (relayed, self.target) else {
            return Ok(route.waited(self.client, arrival, said, leads));
        };
        let way = |way: wire::Way, rest| relay::Way {
            rest,
            end: way.end,
            has_unsent: way.unsent,
        };
        let paused = relay::Paused {
            up: way(relayed.up, up),
            down: way(relayed.down, down),
            idle: Duration::from_millis(relayed.idle),
        };
        let traffic = Traffic {
            up: relayed.up.total,
            down: relayed.down.total,
            ..Traffic::default()
        };
        let exchange = exchange.map(|paused| (paused, said, leads));
        let relayed = (target, paused, traffic);
        Ok(route.relayed(self.client, arrival, relayed, exchange))
    }

    /// Resets it.
    pub(super) fn reset(&self) {
        self.client.reset();
        self.target.iter().for_each(RawStream::reset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systemd::restart::QUEUE_HOLDS;

    #[test]
    fn a_queue_holds_as_many_connections_as_is_said() {
        let queue = Queue::new().unwrap();
        sockopt::set_socket_send_buffer_size(&queue.input, 212_992).unwrap();
        let line = [b' '; wire::LONGEST];
        let connections = wire::LONGEST / 300;
        let sockets = vec![queue.output.as_fd(); 2 * connections];
        for _ in 0..QUEUE_HOLDS.div_ceil(connections) {
            assert!(queue.send(&line, &sockets).unwrap());
        }
        queue.empty();
    }
}
