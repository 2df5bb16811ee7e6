//! The control socket: answers requests, and holds services as long as their connections last. On the
//! main thread, and without a part in the relay.

use std::io::{self, Write};
use std::os::unix::net;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::handover::wire;
use super::slots::{Pending, PendingCount};
use crate::control::interface::{Error, Request, Verb};
use crate::control::message::{self, Call, LONGEST_CALL, Reply};
use crate::net::listen::{AsyncListener, CONTROL, Listener};
use crate::net::stream::RawStream;
use crate::report::record::Work;
use crate::service::{Entrance, Handle, Hold, Permit, Verdict, now};
use crate::util::backoff::Backoff;
use crate::util::lock::locked;

/// How many connections there may be: each is a file, and some are spare for these.
const MOST: usize = 32;

/// How long a connection may take to say something as long as it holds nothing. The process does not exit
/// before.
const SILENCE: Duration = Duration::from_secs(10);

/// How long the other side may take to read a reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// Pauses while nothing can be accepted.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));

/// A service, as it can be asked for.
#[derive(Clone, Debug)]
pub(super) struct Controlled {
    /// Its name in the file; empty where it is the only one, without a file.
    pub(super) name: String,
    /// How it is shown.
    pub(super) label: String,
    /// How to reach it.
    pub(super) handle: Handle,
    /// The way to its first target.
    pub(super) entrance: Option<Entrance>,
    /// Whether it has nothing to do.
    #[cfg(feature = "kubernetes")]
    pub(super) idle: watch::Receiver<bool>,
    /// It ends with this process.
    pub(super) ends_with_us: bool,
}

/// The control sockets of the process; there is one as installed.
#[derive(Debug)]
pub(super) struct Control {
    listeners: Vec<Arc<Listener>>,
    shared: Arc<Shared>,
    accepting: JoinSet<()>,
    stop: CancellationToken,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    services: watch::Receiver<Vec<Controlled>>,
    listener: Arc<str>,
    pending: PendingCount,
    tasks: TaskTracker,
    /// Cancelled when they are to end, or to be left.
    ending: CancellationToken,
    left: Mutex<Vec<Parked>>,
}

/// A connection that goes to the next process, on no thread.
#[derive(Debug)]
pub(super) struct Parked {
    /// Its socket.
    pub(super) socket: RawStream,
    /// What was read and not answered yet.
    pub(super) said: Vec<u8>,
    /// The service that it holds, and how.
    pub(super) held: Option<(String, wire::Held)>,
    /// The service is held until this process ends.
    _hold: Option<Hold>,
}

impl Control {
    /// These control sockets, for these services.
    pub(super) fn new(
        listeners: Vec<Listener>,
        services: watch::Receiver<Vec<Controlled>>,
        pending: PendingCount,
    ) -> Self {
        Self {
            listeners: listeners.into_iter().map(Arc::new).collect(),
            shared: Arc::new(Shared {
                services,
                listener: CONTROL.into(),
                pending,
                tasks: TaskTracker::new(),
                ending: CancellationToken::new(),
                left: Mutex::default(),
            }),
            accepting: JoinSet::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Begins to accept.
    pub(super) fn open(&mut self) {
        self.stop = CancellationToken::new();
        for listener in &self.listeners {
            let accept = self.shared.clone().accept(listener.clone());
            let stop = self.stop.clone();
            self.accepting
                .spawn(async move { _ = stop.run_until_cancelled_owned(accept).await });
        }
    }

    /// Stops accepting. Every connection that was accepted by then is pending.
    pub(super) async fn close(&mut self) {
        self.stop.cancel();
        while self.accepting.join_next().await.is_some() {}
    }

    /// How many connections there are.
    pub(super) fn count(&self) -> usize {
        self.shared.tasks.len()
    }

    /// Ends all connections, as they are. Those that can go to the next process are returned.
    pub(super) async fn end(&self) -> Vec<Parked> {
        self.shared.ending.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        std::mem::take(&mut *locked(&self.shared.left))
    }

    /// Goes on with a connection of an earlier process. What it holds is held when this returns.
    pub(super) fn resume(
        &self,
        socket: RawStream,
        said: Vec<u8>,
        held: Option<(String, wire::Held)>,
    ) {
        let RawStream::Unix(socket) = socket else {
            return;
        };
        let Ok(stream) = UnixStream::from_std(socket) else {
            return;
        };
        let mut conversation = Conversation::new(stream, self.shared.pending.register());
        conversation.said = said;
        if let Some((service, held)) = held {
            let wire::Held {
                reason,
                left,
                replies,
            } = held;
            let services = self.shared.services.borrow();
            let service = services.iter().find(|known| known.name == service);
            let Some(entrance) = service.and_then(|service| service.entrance.as_ref()) else {
                return;
            };
            let limit = left.map_or(Duration::MAX, Duration::from_millis);
            let name = service
                .map(|service| service.name.clone())
                .unwrap_or_default();
            let held = Held::new(entrance.resume(), name, reason, limit, replies);
            conversation.held = Some(held);
        }
        let shared = self.shared.clone();
        self.shared.tasks.spawn(shared.converse(conversation));
    }
}

impl Shared {
    /// Accepts for ever.
    async fn accept(self: Arc<Self>, listener: Arc<Listener>) {
        let mut pauses = PAUSES;
        loop {
            let accepted = match listener.watch() {
                Ok(socket) => self.accept_on(&socket, &mut pauses).await,
                Err(error) => error,
            };
            tracing::debug!("cannot accept on `{}`: {accepted}", self.listener);
            sleep(pauses.pause()).await;
        }
    }

    /// Accepts until that fails.
    async fn accept_on(
        self: &Arc<Self>,
        socket: &AsyncListener<'_>,
        pauses: &mut Backoff,
    ) -> io::Error {
        loop {
            match socket.accept().await {
                Ok((RawStream::Unix(client), _)) => {
                    pauses.reset();
                    self.begin(client);
                }
                // A TCP socket asks nothing about the user.
                Ok((client, _)) => client.reset(),
                Err(error) => return error,
            }
        }
    }

    fn begin(self: &Arc<Self>, mut client: net::UnixStream) {
        if self.tasks.len() >= MOST {
            let reply = message::write(&Reply::from(Error::TooManyConnections));
            // Into an empty socket that does not block.
            let _ = client.write(&reply);
            return;
        }
        let Ok(stream) = UnixStream::from_std(client) else {
            return;
        };
        let conversation = Conversation::new(stream, self.pending.register());
        self.tasks.spawn(self.clone().converse(conversation));
    }

    /// Serves a connection to its end, or until it is left.
    async fn converse(self: Arc<Self>, mut conversation: Conversation) {
        let ended = tokio::select! {
            biased;
            () = self.ending.cancelled() => false,
            () = conversation.run(&self) => true,
        };
        if !ended && let Some(parked) = self.park(conversation) {
            locked(&self.left).push(parked);
        }
    }

    /// What there is of a connection for the next process.
    fn park(&self, conversation: Conversation) -> Option<Parked> {
        let Conversation {
            stream,
            said,
            unsent,
            held,
            ..
        } = conversation;
        if !unsent.is_empty() {
            return None;
        }
        let (held, hold) = match held {
            None => (None, None),
            Some(held) => {
                let services = self.services.borrow();
                let service = services.iter().find(|known| known.name == held.service)?;
                if service.ends_with_us {
                    return None;
                }
                let left = held
                    .until
                    .map(|until| until.saturating_duration_since(now()));
                let left = left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
                let wire = wire::Held {
                    reason: held.reason,
                    left,
                    replies: held.replies,
                };
                (Some((held.service, wire)), Some(held.hold))
            }
        };
        Some(Parked {
            socket: RawStream::Unix(stream.into_std().ok()?),
            said,
            held,
            _hold: hold,
        })
    }

    /// The service with this name, or all.
    fn meant(&self, name: Option<&str>) -> Result<Vec<Controlled>, Error> {
        let services = self.services.borrow();
        let named = |service: &&Controlled| name.is_none_or(|name| name == service.name);
        let meant: Vec<_> = services.iter().filter(named).cloned().collect();
        match meant.is_empty() {
            true => Err(Error::NoSuchService(names(&services))),
            false => Ok(meant),
        }
    }

    /// The service with this name, or the only one.
    fn one(&self, name: Option<&str>) -> Result<Controlled, Error> {
        let mut meant = self.meant(name)?;
        match (meant.pop(), meant.is_empty()) {
            (Some(one), true) => Ok(one),
            _ => Err(Error::NoSuchService(names(&self.services.borrow()))),
        }
    }

    /// Waits until a service is awake.
    async fn admitted(&self, service: &Controlled) -> Result<Permit, Error> {
        let entrance = service.entrance.as_ref();
        let entrance = entrance.ok_or_else(|| Error::Failed("it has no listener".into()))?;
        let mut queued = entrance.hold(&self.listener);
        match queued.verdict().await {
            Verdict::Admitted(permit, _) => Ok(permit),
            Verdict::Rejected => Err(Error::Failed(service.failure().await)),
        }
    }
}

fn names(services: &[Controlled]) -> Vec<String> {
    let names = services.iter().map(|service| service.name.clone());
    names.collect()
}

impl Controlled {
    /// Why it cannot be had.
    async fn failure(&self) -> String {
        let Some(record) = self.handle.record().await else {
            return "wakeport exits".into();
        };
        if record.wakes.not_before.is_some() {
            return "it was woken too often (--wake-rate)".into();
        }
        let failure = record.last_failure.map(|failure| failure.why);
        failure.unwrap_or_else(|| "it does not answer".into())
    }

    async fn describe(&self) -> Option<Value> {
        let record = self.handle.record().await?;
        Some(json!({
            "name": record.name,
            "service": record.service,
            "state": record.state.name(),
            "clients": record.clients.active,
            "waiting": record.clients.waiting,
            "holds": record.holds,
            "keptAwake": match record.kept_awake.is_empty() {
                true => Vec::new(),
                false => vec![Work::told(&record.kept_awake)],
            },
        }))
    }
}

/// A service that a connection holds.
#[derive(Debug)]
struct Held {
    hold: Hold,
    /// The service's name.
    service: String,
    reason: String,
    until: Option<Instant>,
    /// The end is to be told.
    replies: bool,
}

impl Held {
    fn new(
        permit: Permit,
        service: String,
        reason: String,
        limit: Duration,
        replies: bool,
    ) -> Self {
        Self {
            hold: permit.holds(reason.clone()),
            service,
            reason,
            until: now().checked_add(limit),
            replies,
        }
    }
}

/// Waits until the time of a hold is over, or the service was stopped by force: whether it was. Nothing
/// else ends, least of all what is not there.
async fn over(held: Option<&Held>) -> bool {
    let Some(held) = held else {
        return std::future::pending().await;
    };
    let time = async {
        match held.until {
            Some(until) => sleep_until(until.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = held.hold.ended() => true,
        () = time => false,
    }
}

/// One connection.
#[derive(Debug)]
struct Conversation {
    stream: UnixStream,
    /// What was read, with the request that is being answered.
    said: Vec<u8>,
    /// What is left of a reply.
    unsent: Vec<u8>,
    held: Option<Held>,
    _pending: Pending,
}

/// What happens next on a connection.
enum Next {
    /// A whole message is there.
    Message,
    /// What it holds is over; by force or not.
    Over(bool),
    /// It is of no more use.
    Gone,
}

impl Conversation {
    fn new(stream: UnixStream, pending: Pending) -> Self {
        Self {
            stream,
            said: Vec::new(),
            unsent: Vec::new(),
            held: None,
            _pending: pending,
        }
    }

    /// Goes on to the end. What was read stays in `said` until it is answered.
    async fn run(&mut self, shared: &Shared) {
        loop {
            let reply = match self.next().await {
                Next::Gone => return,
                Next::Over(forced) => {
                    let told = self.held.take().is_some_and(|held| held.replies);
                    if !told {
                        return;
                    }
                    Some(match forced {
                        true => Error::Ended("the service was stopped by force".into()).into(),
                        false => Reply::with(json!({ "state": "over" })),
                    })
                }
                Next::Message => {
                    let message = message::first(&self.said).unwrap_or_default();
                    let length = message.len() + 1;
                    let Some(call) = message::read::<Call>(message) else {
                        return;
                    };
                    let (oneway, more) = (call.oneway, call.more);
                    let Some(answer) = self.answer(shared, call).await else {
                        return;
                    };
                    self.said.drain(..length);
                    let reply = answer.unwrap_or_else(Reply::from);
                    let continues = more && reply.continues;
                    (!oneway).then_some(Reply { continues, ..reply })
                }
            };
            if let Some(reply) = reply
                && self.send(&reply).await.is_err()
            {
                return;
            }
        }
    }

    /// Waits for a message, or the end of what it holds.
    async fn next(&mut self) -> Next {
        let silence = sleep(SILENCE);
        tokio::pin!(silence);
        while message::first(&self.said).is_none() {
            let Self {
                stream, said, held, ..
            } = self;
            tokio::select! {
                more = hear(stream, said) => if !more {
                    return Next::Gone;
                },
                () = &mut silence, if held.is_none() => return Next::Gone,
                forced = over(held.as_ref()) => return Next::Over(forced),
            }
        }
        Next::Message
    }

    /// What a call comes to; nothing if the other side has gone meanwhile.
    async fn answer(&mut self, shared: &Shared, call: Call) -> Option<Result<Reply, Error>> {
        let replies = call.more && !call.oneway;
        let (name, verb) = match Request::read(call) {
            Ok(Request::Known(parameters)) => return Some(Ok(Reply::with(parameters.into()))),
            Ok(Request::Of(name, verb)) => (name, verb),
            Err(error) => return Some(Err(error)),
        };
        if self.held.is_some() && matches!(verb, Verb::Hold { .. }) {
            return Some(Err(Error::AlreadyHeld));
        }
        let name = name.as_deref();
        let work = async {
            match verb {
                Verb::Wake => {
                    let service = shared.one(name)?;
                    drop(shared.admitted(&service).await?);
                    service.handle.look();
                    Ok((Reply::default(), None))
                }
                Verb::Hold { limit, reason } => {
                    let service = shared.one(name)?;
                    let permit = shared.admitted(&service).await?;
                    let reply = Reply {
                        continues: true,
                        ..Reply::with(json!({ "state": "held" }))
                    };
                    let label = service.label;
                    let held = Held::new(permit, service.name, reason, limit, replies);
                    Ok((reply, Some((held, label))))
                }
                Verb::Sleep { force } => {
                    let service = shared.one(name)?;
                    let slept = service.handle.sleep(force).await;
                    slept.map_err(Error::InUse)?;
                    Ok((Reply::default(), None))
                }
                Verb::Describe => {
                    let mut services = Vec::new();
                    for service in shared.meant(name)? {
                        services.extend(service.describe().await);
                    }
                    Ok((Reply::with(json!({ "services": services })), None))
                }
            }
        };
        let Self { stream, said, .. } = &mut *self;
        let outcome = tokio::select! {
            biased;
            outcome = work => outcome,
            // Nothing holds a service for a connection that has ended.
            () = async { while hear(stream, said).await {} } => return None,
        };
        Some(outcome.map(|(reply, held)| {
            if let Some((held, label)) = held {
                self.tell(&held, &label);
                self.held = Some(held);
            }
            reply
        }))
    }

    /// Logs who holds a service.
    fn tell(&self, held: &Held, label: &str) {
        let pid = sockopt::socket_peercred(&self.stream);
        let whose = pid.map_or_else(
            |_| String::new(),
            |peer| format!(" by process {}", peer.pid.as_raw_nonzero()),
        );
        let why = match held.reason.is_empty() {
            true => String::new(),
            false => format!(": {}", held.reason),
        };
        tracing::info!(unit = label, "{label} is held{whose}{why}");
    }

    /// Sends a reply; what is left of it stays in `unsent` if this is dropped.
    async fn send(&mut self, reply: &Reply) -> io::Result<()> {
        self.unsent = message::write(reply);
        timeout(REPLY_TIMEOUT, async {
            while !self.unsent.is_empty() {
                let sent = self.stream.write(&self.unsent).await?;
                if sent == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                self.unsent.drain(..sent);
            }
            Ok(())
        })
        .await?
    }
}

/// Reads what comes, at most as much as one request has; whether there may be more.
async fn hear(stream: &mut UnixStream, said: &mut Vec<u8>) -> bool {
    if said.len() > LONGEST_CALL {
        return false;
    }
    let mut room = stream.take((LONGEST_CALL + 1 - said.len()) as u64);
    matches!(room.read_buf(said).await, Ok(1..))
}
