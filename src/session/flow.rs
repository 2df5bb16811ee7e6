//! One client's datagrams, from the first one until there was none for a while: a flow. It enters or waits as
//! a connection does, and has a socket of its own that is connected to the target.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, sleep, sleep_until};

use super::Route;
use super::held::{Held, Holding};
use crate::config::UdpSettings;
use crate::config::address::Peer;
use crate::net::datagram::{DatagramSocket, Dropped, Ecn, Received, Segments, Sent};
use crate::net::relay::Interrupt;
use crate::service::{Permit, Queued, Traffic, Verdict};
use crate::util::backoff::Backoff;
use crate::util::lock::locked;

/// How many datagrams of one flow are held, and how many bytes.
const MOST_HELD: usize = 16;
const MOST_HELD_BYTES: usize = 64 << 10;

/// How long a flow may be quiet before it makes room for another one.
pub const MAKES_ROOM_AFTER: Duration = Duration::from_secs(10);

/// So many pieces are read of one target before the other flows of the thread have their turn.
const PIECES: usize = 8;

/// The pauses between attempts to reach a target that has just been started.
const REFUSED: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(250));

/// A target that refuses what is sent to it is doubted no more often than that.
const DOUBT: Duration = Duration::from_secs(1);

/// How far away the end of a flow is that has none.
const NEVER: Duration = Duration::from_secs(86400 * 365);

/// What the flows of a service go by.
#[derive(Clone, Debug)]
pub struct FlowRules {
    /// What was given.
    pub settings: UdpSettings,
    /// How long a datagram is held, and a target that refuses them tried.
    pub start_timeout: Duration,
}

/// A flow.
#[derive(Debug)]
pub struct Flow {
    route: Arc<Route>,
    /// The client,
    client: SocketAddr,
    /// and the address that it sends to.
    local: Option<IpAddr>,
    /// Where it sends to, and gets its replies from.
    listener: Arc<DatagramSocket>,
    began: Instant,
    /// When a datagram showed last that the client is there, in milliseconds since it began.
    seen: AtomicU64,
    /// The last datagram of the client did not show that.
    quiet: AtomicBool,
    up: AtomicU64,
    down: AtomicU64,
    way: Mutex<Way>,
    permit: Mutex<Option<Permit>>,
    room: Mutex<FlowRoom>,
    holding: Arc<Holding>,
    /// The target refused a datagram.
    refused: AtomicBool,
    /// Notified of that, and of its end.
    news: Notify,
}

/// Where datagrams of the client go.
#[derive(Debug)]
enum Way {
    /// They are held.
    Held(VecDeque<Held>),
    /// To the target.
    Open(Arc<DatagramSocket>),
    /// To another flow.
    Ended,
}

/// Room for a flow.
#[derive(Debug, Default)]
pub struct FlowRoom {
    /// Held to its end.
    pub connection: Option<OwnedSemaphorePermit>,
    /// Held until the target answers.
    pub unanswered: Option<OwnedSemaphorePermit>,
}

/// How a flow begins.
#[derive(Debug)]
pub enum FlowEntry {
    /// It was let through.
    Inside(Permit),
    /// It waits for the verdict.
    Waiting(Box<Queued>),
    /// It has a permit already; or none, and does not keep the service awake: nothing shows that a client is
    /// there.
    AsItIs,
}

/// A flow that has paused, for the next process.
#[derive(Debug)]
pub struct LeftFlow {
    /// The name of its listener.
    pub listener: String,
    /// The name of its service.
    pub service: String,
    /// The client.
    pub client: SocketAddr,
    /// The address that the client sends to.
    pub local: Option<IpAddr>,
    /// Its socket; none while it waits.
    pub target: Option<Arc<DatagramSocket>>,
    /// What is held.
    pub held: Vec<Vec<u8>>,
    /// Bytes of the client.
    pub up: u64,
    /// Bytes of the target.
    pub down: u64,
}

/// Why it is not relayed any more.
enum End {
    Over,
    Refused,
}

impl Route {
    /// How a flow begins with these datagrams, unless they do not wake the service.
    pub fn enter_flow(&self, client: SocketAddr, first: Segments<'_>) -> Option<FlowEntry> {
        let wake = &self.context.flows.settings.wake;
        if self.renew(first) {
            if let Some(permit) = self.entrance.enter() {
                return Some(FlowEntry::Inside(permit));
            }
        } else if self.entrance.is_open() {
            return Some(FlowEntry::AsItIs);
        }
        let wakes = wake.is_any() || first.datagrams().any(|datagram| wake.wakes(datagram));
        wakes.then(|| {
            let queued = self.entrance.arrive(&self.listener, Peer::tcp(client));
            FlowEntry::Waiting(Box::new(queued))
        })
    }

    /// How a flow goes on that is to wait, or was waiting.
    fn enter_again(&self, client: SocketAddr) -> FlowEntry {
        match self.permit_or_queue(Peer::tcp(client)) {
            Ok(permit) => FlowEntry::Inside(permit),
            Err(queued) => FlowEntry::Waiting(queued),
        }
    }

    /// A flow that has paused in an earlier process, and how it goes on: one with a target is inside, and keeps
    /// the service from being stopped.
    pub fn resume_flow(
        self: &Arc<Self>,
        listener: &Arc<DatagramSocket>,
        left: LeftFlow,
        room: FlowRoom,
        holding: &Arc<Holding>,
    ) -> (Arc<Flow>, FlowEntry) {
        let flow = Flow::begin(self, listener, (left.client, left.local), room, holding);
        flow.up.store(left.up, Ordering::Relaxed);
        flow.down.store(left.down, Ordering::Relaxed);
        let entry = match left.target {
            Some(target) => {
                // Before a datagram comes, which would find it without one.
                *locked(&flow.permit) = Some(self.entrance.resume());
                *locked(&flow.way) = Way::Open(target);
                FlowEntry::AsItIs
            }
            None => {
                for datagram in &left.held {
                    flow.pass(Segments::one(datagram, Ecn::default()));
                }
                self.enter_again(left.client)
            }
        };
        (flow, entry)
    }

    /// Which datagrams wake the service.
    pub fn udp(&self) -> &UdpSettings {
        &self.context.flows.settings
    }

    /// Whether a client may send datagrams; one that is not is told of if it is `news`.
    pub fn admits_datagrams(&self, client: SocketAddr, is_news: impl FnOnce() -> bool) -> bool {
        let peer = Peer::tcp(client);
        let admits = self.context.access.admits(peer);
        if !admits && is_news() {
            self.entrance.denied(&self.listener, peer);
        }
        admits
    }

    fn renew(&self, segments: Segments<'_>) -> bool {
        let wake = &self.context.flows.settings.wake;
        wake.is_any() || segments.datagrams().any(|datagram| wake.renews(datagram))
    }
}

impl Flow {
    /// A flow that begins with what was received. It holds that until it runs.
    pub fn new(
        route: &Arc<Route>,
        listener: &Arc<DatagramSocket>,
        received: Received<'_>,
        room: FlowRoom,
        holding: &Arc<Holding>,
    ) -> Arc<Self> {
        let flow = Self::begin(route, listener, (received.from, received.to), room, holding);
        flow.pass(received.segments);
        flow
    }

    fn begin(
        route: &Arc<Route>,
        listener: &Arc<DatagramSocket>,
        (client, local): (SocketAddr, Option<IpAddr>),
        room: FlowRoom,
        holding: &Arc<Holding>,
    ) -> Arc<Self> {
        Arc::new(Self {
            route: route.clone(),
            client,
            local,
            listener: listener.clone(),
            began: Instant::now(),
            seen: AtomicU64::new(0),
            quiet: AtomicBool::new(false),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            way: Mutex::new(Way::Held(VecDeque::new())),
            permit: Mutex::new(None),
            room: Mutex::new(room),
            holding: holding.clone(),
            refused: AtomicBool::new(false),
            news: Notify::new(),
        })
    }

    /// Passes datagrams of the client on, or holds them; `false` if it has ended.
    pub fn pass(self: &Arc<Self>, segments: Segments<'_>) -> bool {
        let renews = self.route.renew(segments);
        let mut way = locked(&self.way);
        match &mut *way {
            Way::Ended => return false,
            Way::Held(held) => {
                for datagram in segments.datagrams() {
                    held.push_back(self.holding.hold(self, datagram, segments.ecn));
                    let bytes = |held: &VecDeque<Held>| held.iter().map(Held::len).sum::<usize>();
                    while held.len() > MOST_HELD || held.len() > 1 && bytes(held) > MOST_HELD_BYTES
                    {
                        held.pop_front();
                        self.route.entrance.dropped(Dropped::Held, 1);
                    }
                }
                drop(way);
                self.holding.limit();
            }
            Way::Open(target) => {
                let target = target.clone();
                drop(way);
                let mut permit = locked(&self.permit);
                if permit.is_none() {
                    if renews {
                        *permit = self.route.entrance.enter();
                    }
                    if permit.is_none() && !self.route.entrance.is_open() {
                        drop(permit);
                        self.end();
                        return false;
                    }
                }
                drop(permit);
                let sent = target.send(segments);
                let length = segments.bytes.len() as u64;
                self.up.fetch_add(length, Ordering::Relaxed);
                self.account(sent);
                if sent.refused {
                    self.refused.store(true, Ordering::Relaxed);
                    self.news.notify_one();
                }
            }
        }
        self.quiet.store(!renews, Ordering::Relaxed);
        if renews {
            self.see();
        }
        true
    }

    /// Passes datagrams of the target on.
    fn reply(&self, segments: Segments<'_>) {
        let sent = self.listener.send_to(self.client, self.local, segments);
        self.account(sent);
        let before = self
            .down
            .fetch_add(segments.bytes.len() as u64, Ordering::Relaxed);
        if before == 0 {
            locked(&self.room).unanswered = None;
        }
        if !self.quiet.load(Ordering::Relaxed) {
            self.see();
        }
    }

    fn account(&self, sent: Sent) {
        if let Some((count, why)) = sent.unsent {
            self.route.entrance.dropped(why.into(), count);
        }
    }

    /// Drops a datagram that is held, if it is the oldest.
    pub(super) fn drop_held(&self, token: &Arc<()>) {
        if let Way::Held(held) = &mut *locked(&self.way)
            && held.front().is_some_and(|oldest| oldest.is(token))
        {
            held.pop_front();
            self.route.entrance.dropped(Dropped::Held, 1);
        }
    }

    fn see(&self) {
        let now = self.began.elapsed().as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        self.seen.store(now, Ordering::Relaxed);
    }

    fn seen(&self) -> Instant {
        self.began + Duration::from_millis(self.seen.load(Ordering::Relaxed))
    }

    /// How long no datagram has shown that the client is there.
    pub fn idle(&self) -> Duration {
        self.seen().elapsed()
    }

    /// By which way it has come.
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// Whether the target has sent anything.
    pub fn is_answered(&self) -> bool {
        self.down.load(Ordering::Relaxed) > 0
    }

    /// Ends it, and leaves its room to another one.
    pub fn make_room(&self) -> FlowRoom {
        self.end();
        mem::take(&mut *locked(&self.room))
    }

    /// Ends it; what is held is dropped.
    fn end(&self) {
        let before = mem::replace(&mut *locked(&self.way), Way::Ended);
        if let Way::Held(held) = before {
            let count = held.len() as u64;
            self.route.entrance.dropped(Dropped::Failed, count);
        }
        self.news.notify_one();
    }

    fn has_ended(&self) -> bool {
        matches!(*locked(&self.way), Way::Ended)
    }

    /// Waits until it is ended.
    async fn ended(&self) {
        while !self.has_ended() {
            self.news.notified().await;
        }
    }

    /// Serves it to its end; `false` if it has paused.
    pub async fn run(self: &Arc<Self>, entry: FlowEntry) -> bool {
        let abort = self.route.context.abort.clone();
        let interrupt = tokio::select! {
            biased;
            interrupt = abort.triggered() => Some(interrupt),
            () = self.serve(entry) => None,
        };
        if interrupt == Some(Interrupt::Pause) && !self.has_ended() {
            return false;
        }
        self.end();
        if let Some(mut permit) = locked(&self.permit).take() {
            permit.traffic = Traffic {
                up: self.up.load(Ordering::Relaxed),
                down: self.down.load(Ordering::Relaxed),
                ..Traffic::default()
            };
        }
        mem::take(&mut *locked(&self.room));
        true
    }

    /// What is known of it, if it has paused and keeps the service awake or waits.
    pub fn left(self: &Arc<Self>) -> Option<LeftFlow> {
        let way = locked(&self.way);
        let (target, held) = match &*way {
            Way::Ended => return None,
            Way::Open(target) => (Some(target.clone()), Vec::new()),
            Way::Held(held) => (
                None,
                held.iter().map(|held| held.bytes().to_vec()).collect(),
            ),
        };
        drop(way);
        // The client of one that does not keep the service awake begins anew.
        let goes_on = !held.is_empty() || target.is_some() && locked(&self.permit).is_some();
        goes_on.then(|| LeftFlow {
            listener: self.route.listener.to_string(),
            service: self.route.service.to_string(),
            client: self.client,
            local: self.local,
            target,
            held,
            up: self.up.load(Ordering::Relaxed),
            down: self.down.load(Ordering::Relaxed),
        })
    }

    /// How one goes on that has paused.
    pub fn resume(self: &Arc<Self>) -> FlowEntry {
        let is_open = matches!(*locked(&self.way), Way::Open(_));
        match is_open || locked(&self.permit).is_some() {
            true => FlowEntry::AsItIs,
            false => self.route.enter_again(self.client),
        }
    }

    async fn serve(self: &Arc<Self>, entry: FlowEntry) {
        let mut queued = match entry {
            FlowEntry::Inside(permit) => {
                *locked(&self.permit) = Some(permit);
                None
            }
            FlowEntry::Waiting(queued) => Some(*queued),
            FlowEntry::AsItIs => None,
        };
        let open = match &*locked(&self.way) {
            Way::Open(target) => Some(target.clone()),
            Way::Held(_) | Way::Ended => None,
        };
        let mut target = open.and_then(|target| watch(target).ok());
        let mut doubted: Option<Instant> = None;
        loop {
            if let Some(mut queued) = queued.take() {
                let verdict = tokio::select! {
                    verdict = queued.verdict() => verdict,
                    () = self.ended() => return,
                };
                match verdict {
                    Verdict::Admitted(permit, _) => *locked(&self.permit) = Some(permit),
                    Verdict::Rejected => return self.end(),
                }
            }
            loop {
                let end = match self.reach(&mut target).await {
                    Ok(target) => self.relay(target).await,
                    Err(end) => end,
                };
                match end {
                    End::Over => return,
                    // A client of a service that is down is to wake it, and not to wait here for ever.
                    End::Refused => {
                        let is_late = doubted.is_none_or(|doubted| doubted.elapsed() > DOUBT);
                        if is_late || !self.route.entrance.is_open() {
                            break;
                        }
                    }
                }
            }
            doubted = Some(Instant::now());
            let permit = locked(&self.permit).take();
            let Some(permit) = permit else { return };
            let mut way = locked(&self.way);
            match &*way {
                Way::Ended => return *locked(&self.permit) = Some(permit),
                Way::Held(_) => (),
                Way::Open(_) => *way = Way::Held(VecDeque::new()),
            }
            drop(way);
            let (listener, client) = (&self.route.listener, Peer::tcp(self.client));
            let why = "it refuses datagrams".to_owned();
            queued = Some(permit.refused(listener, client, why));
        }
    }

    /// Sends what is held, as soon as the target takes it; then what comes goes there at once.
    async fn reach<'a>(
        &self,
        socket: &'a mut Option<AsyncFd<Arc<DatagramSocket>>>,
    ) -> Result<&'a AsyncFd<Arc<DatagramSocket>>, End> {
        let limit = self.route.context.flows.start_timeout;
        let began = Instant::now();
        let mut pauses = REFUSED;
        loop {
            if socket.is_none() {
                *socket = self.open().await.ok();
            }
            let all_sent = |socket: &AsyncFd<_>| self.send_held(socket.get_ref(), limit);
            if socket.as_ref().is_some_and(all_sent) {
                break;
            }
            if began.elapsed() >= limit {
                self.end();
            }
            tokio::select! {
                () = sleep(pauses.pause()) => (),
                () = self.ended() => return Err(End::Over),
            }
            if !self.route.entrance.is_open() {
                return Err(End::Refused);
            }
        }
        socket.as_ref().ok_or(End::Over)
    }

    async fn open(&self) -> io::Result<AsyncFd<Arc<DatagramSocket>>> {
        let dialer = &self.route.context.dialer;
        watch(dialer.connect_datagrams(&self.route.target).await?)
    }

    /// Sends what is held; whether nothing was refused.
    fn send_held(&self, target: &Arc<DatagramSocket>, limit: Duration) -> bool {
        loop {
            let mut way = locked(&self.way);
            let held = match &mut *way {
                Way::Held(held) => held,
                Way::Open(_) => return true,
                Way::Ended => return false,
            };
            let Some(next) = held.front() else {
                // The answer to what was held is still to come, however long that took.
                self.see();
                *way = Way::Open(target.clone());
                return true;
            };
            if next.at.elapsed() > limit {
                held.pop_front();
                self.route.entrance.dropped(Dropped::Failed, 1);
                continue;
            }
            let sent = target.send(next.datagram());
            if target.is_refused() {
                return false;
            }
            self.account(sent);
            self.up.fetch_add(next.len() as u64, Ordering::Relaxed);
            held.pop_front();
        }
    }

    /// Passes on what the target sends, until it refuses what it gets or there was nothing for long.
    async fn relay(&self, target: &AsyncFd<Arc<DatagramSocket>>) -> End {
        let timeout = self.route.context.flows.settings.idle_timeout.min(NEVER);
        let mut idle = pin!(sleep_until(self.seen() + timeout));
        loop {
            tokio::select! {
                biased;
                ready = target.readable() => {
                    let Ok(mut ready) = ready else { return End::Over };
                    let read = ready.try_io(|target| {
                        target.get_ref().receive(PIECES, |received| self.reply(received.segments))
                    });
                    if let Ok(Err(error)) = read
                        && error.kind() == io::ErrorKind::ConnectionRefused
                    {
                        return End::Refused;
                    }
                }
                () = self.news.notified() => {
                    if self.has_ended() {
                        return End::Over;
                    }
                    if self.refused.swap(false, Ordering::Relaxed) {
                        return End::Refused;
                    }
                }
                () = idle.as_mut() => {
                    let end = self.seen() + timeout;
                    if end <= Instant::now() {
                        return End::Over;
                    }
                    idle.as_mut().reset(end);
                }
            }
        }
    }
}

/// Has the event loop of this thread watch a socket.
pub fn watch(socket: impl Into<Arc<DatagramSocket>>) -> io::Result<AsyncFd<Arc<DatagramSocket>>> {
    // Deprecated because a type could close what it lends; this one cannot. The replacement needs unsafe
    // code.
    #[expect(deprecated)]
    AsyncFd::with_interest(socket.into(), Interest::READABLE)
}
