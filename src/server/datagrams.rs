//! Reads the datagrams of a listener, and passes each on to its flow. All flows of a listener are on one
//! relay thread: what is received is sent on before the next is read, and nothing waits for a lock.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::listeners::{PAUSES, Sessions, Warned};
use super::slots::Lacking;
use super::workers::WorkerSlot;
use crate::net::datagram::{DatagramSocket, Dropped, Received, filter, is_unicast};
use crate::net::listen::Listener;
use crate::session::flow::{Flow, FlowEntry, FlowRoom, LeftFlow, MAKES_ROOM_AFTER, watch};
use crate::session::{Lead, Leader, Route, Way};
use crate::util::backoff::Backoff;
use crate::util::lock::locked;

/// How many flows are ended at once for others, if so many have been quiet for long.
const ENDED_AT_ONCE: usize = 64;

/// How often it is told that a sender is denied.
const TELLS_DENIED: Duration = Duration::from_millis(100);

/// So many addresses of ours are known to be such.
const OURS: usize = 1024;

/// How many batches are read before an exit at most. Whoever sends more keeps us here.
const LAST_BATCHES: usize = 256;

/// Who sends, and to which address.
type Key = (SocketAddr, Option<IpAddr>);

/// A listener of datagrams, and its flows.
#[derive(Debug)]
pub(super) struct Datagrams {
    pub(super) listener: Listener,
    socket: Arc<DatagramSocket>,
    pub(super) lead: Leader,
    sessions: Sessions,
    /// The thread of all its flows.
    home: OnceLock<(WorkerSlot, Handle)>,
    flows: Mutex<Flows>,
    warned: Warned,
}

#[derive(Debug, Default)]
struct Flows {
    all: HashMap<Key, Arc<Flow>>,
    /// Addresses that a reply can come from.
    ours: HashSet<IpAddr>,
    /// No flow has been quiet for long before that, and none that was not answered.
    all_busy_until: [Option<Instant>; 2],
    /// When it was told last that a sender is denied.
    denied_at: Option<Instant>,
}

impl Datagrams {
    /// The listener, if it is one of datagrams, and where they go.
    pub(super) fn new(
        listener: Listener,
        way: Option<Way>,
        sessions: &Sessions,
    ) -> Result<Arc<Self>, Box<(Listener, Option<Way>)>> {
        let Some(socket) = listener.datagrams().cloned() else {
            return Err(Box::new((listener, way)));
        };
        Ok(Arc::new(Self {
            listener,
            socket,
            lead: Leader::new(&Lead::to(way)),
            sessions: sessions.clone(),
            home: OnceLock::new(),
            flows: Mutex::default(),
            warned: Warned::default(),
        }))
    }

    /// The thread on which to run.
    pub(super) fn home(&self) -> &Handle {
        let (_, home) = self.home.get_or_init(|| self.sessions.worker());
        home
    }

    /// Whether there are flows.
    pub(super) fn has_flows(&self) -> bool {
        !locked(&self.flows).all.is_empty()
    }

    /// Begins to take what comes: the kernel drops nothing from now on.
    pub(super) fn open(self: &Arc<Self>) {
        if let Err(error) = filter::detach(&*self.socket) {
            let name = &self.listener.name;
            tracing::warn!("cannot take the filter off `{name}`: {error}");
        }
        let _ = self.receive();
    }

    /// Passes datagrams on until `stop` is cancelled.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => (),
            // Nothing is lost where it waits: all that was received was passed on.
            () = self.relay() => (),
        }
    }

    /// Passes datagrams on for ever.
    async fn relay(self: &Arc<Self>) {
        let mut backoff = PAUSES;
        let socket = loop {
            match watch(self.socket.clone()) {
                Ok(socket) => break socket,
                Err(error) => self.cannot(&error, &mut backoff).await,
            }
        };
        loop {
            let mut ready = match socket.readable().await {
                Ok(ready) => ready,
                Err(error) => {
                    self.cannot(&error, &mut backoff).await;
                    continue;
                }
            };
            match ready.try_io(|_| self.receive()) {
                Ok(Ok(Taken::Held)) => self.lead.released().await,
                Ok(Ok(Taken::All { .. })) => backoff.reset(),
                Ok(Err(error)) => self.cannot(&error, &mut backoff).await,
                Err(_would_block) => (),
            }
        }
    }

    async fn cannot(&self, error: &io::Error, backoff: &mut Backoff) {
        let name = &self.listener.name;
        let why = || format!("cannot receive on `{name}`: {error}; datagrams stay in its buffer");
        self.warned.wait(backoff, why).await;
    }

    /// Takes a batch of datagrams, unless they are held.
    fn receive(self: &Arc<Self>) -> io::Result<Taken> {
        let lead = self.lead.look();
        let route = lead.way.as_ref().and_then(Way::first);
        if route.is_some_and(|route| lead.holds(route)) {
            return Ok(Taken::Held);
        }
        let mut flows = locked(&self.flows);
        let mut counts = false;
        self.socket.receive(usize::MAX, |received| {
            if let Some(route) = route {
                counts |= self.take(route, &mut flows, received);
            }
        })?;
        self.warned.clear();
        Ok(Taken::All { counts })
    }

    /// Passes on what was received; whether the service is to know of it.
    fn take(
        self: &Arc<Self>,
        route: &Arc<Route>,
        flows: &mut Flows,
        received: Received<'_>,
    ) -> bool {
        let key = (received.from, received.to);
        if let Some(flow) = flows.all.get(&key) {
            if flow.pass(received.segments) {
                return true;
            }
            flows.all.remove(&key);
        }
        let dropped = |why| route.entrance.dropped(why, received.segments.count());
        let mut is_news = || {
            let told = flows
                .denied_at
                .is_some_and(|at| at.elapsed() < TELLS_DENIED);
            if !told {
                flows.denied_at = Some(Instant::now());
            }
            !told
        };
        if !route.admits_datagrams(received.from, &mut is_news) {
            dropped(Dropped::Denied);
            return true;
        }
        if !flows.is_ours(received.to) {
            dropped(Dropped::Broadcast);
            return false;
        }
        let Some(room) = self.room(flows) else {
            dropped(Dropped::Room);
            return false;
        };
        let Some(entry) = route.enter_flow(received.from, received.segments) else {
            dropped(Dropped::Quiet);
            return false;
        };
        let flow = Flow::new(route, &self.socket, received, room, self.sessions.holding());
        flows.all.insert(key, flow.clone());
        self.serve(key, flow, entry);
        true
    }

    /// Has a flow served. One that pauses stays known.
    fn serve(self: &Arc<Self>, key: Key, flow: Arc<Flow>, entry: FlowEntry) {
        let datagrams = self.clone();
        let run = async move {
            if flow.run(entry).await {
                datagrams.forget(key, &flow);
            }
        };
        self.sessions.spawn_on(run, self.home());
    }

    /// The flows that have paused, as far as they go by such routes.
    pub(super) fn left(&self, goes_on: impl Fn(&Route) -> bool) -> Vec<LeftFlow> {
        let flows = locked(&self.flows);
        let these = flows.all.values().filter(|flow| goes_on(flow.route()));
        these.filter_map(Flow::left).collect()
    }

    /// Has all flows go on that have paused.
    pub(super) fn resume_left(self: &Arc<Self>) {
        let flows: Vec<_> = locked(&self.flows).all.clone().into_iter().collect();
        for (key, flow) in flows {
            let entry = flow.resume();
            self.serve(key, flow, entry);
        }
    }

    /// Has a flow of an earlier process go on, if the listener leads to its service.
    pub(super) fn resume(self: &Arc<Self>, left: LeftFlow) {
        let lead = self.lead.look();
        let route = lead.way.as_ref().and_then(|way| way.of(&left.service));
        drop(lead);
        let Some(route) = route else { return };
        let key = (left.client, left.local);
        let room = self.sessions.room_for_resumed_flow();
        let holding = self.sessions.holding();
        let (flow, entry) = route.resume_flow(&self.socket, left, room, holding);
        locked(&self.flows).all.insert(key, flow.clone());
        self.serve(key, flow, entry);
    }

    /// A flow has ended.
    fn forget(&self, key: Key, flow: &Arc<Flow>) {
        let mut flows = locked(&self.flows);
        if flows
            .all
            .get(&key)
            .is_some_and(|known| Arc::ptr_eq(known, flow))
        {
            flows.all.remove(&key);
        }
    }

    /// Room for one more flow: flows that have been quiet for long make some.
    fn room(&self, flows: &mut Flows) -> Option<FlowRoom> {
        match self.sessions.room_for_flow() {
            Ok(room) => Some(room),
            Err(lacking) => {
                flows.make_room(lacking)?;
                self.sessions.room_for_flow().ok()
            }
        }
    }

    /// Before we exit: the kernel drops from now on what does not wake the service, and what is there already
    /// is taken. Whether the service is to know of any of it.
    pub(super) fn take_last(self: &Arc<Self>) -> bool {
        let lead = self.lead.look();
        if let Some(route) = lead.way.as_ref().and_then(Way::first)
            && let Err(error) = filter::attach(&*self.socket, &route.udp().wake)
        {
            let name = &self.listener.name;
            tracing::warn!("cannot filter `{name}`: {error}; every datagram starts wakeport");
        }
        drop(lead);
        let mut any = false;
        for _ in 0..LAST_BATCHES {
            match self.receive() {
                Ok(Taken::All { counts }) => any |= counts,
                Ok(Taken::Held) => return true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return any,
                Err(_) => return true,
            }
        }
        true
    }
}

/// What has become of a batch.
enum Taken {
    /// Datagrams are held, in the buffer of the socket.
    Held,
    /// They were taken.
    All {
        /// The service is to know of one of them.
        counts: bool,
    },
}

impl Flows {
    /// Whether a reply can come from this address.
    fn is_ours(&mut self, to: Option<IpAddr>) -> bool {
        let Some(to) = to else { return true };
        if self.ours.contains(&to) {
            return true;
        }
        let is_ours = is_unicast(to);
        if is_ours && self.ours.len() < OURS {
            self.ours.insert(to);
        }
        is_ours
    }

    /// Ends some of the flows that have been quiet for the longest time, if any has for long.
    fn make_room(&mut self, lacking: Lacking) -> Option<()> {
        let now = Instant::now();
        let all_busy_until = &mut self.all_busy_until[lacking as usize];
        if all_busy_until.is_some_and(|until| now < until) {
            return None;
        }
        let mut idle: Vec<(Duration, Key)> = Vec::new();
        let mut longest = Duration::ZERO;
        let could = |flow: &&Arc<Flow>| lacking == Lacking::Any || !flow.is_answered();
        for (key, flow) in self.all.iter().filter(|(_, flow)| could(flow)) {
            let quiet = flow.idle();
            longest = longest.max(quiet);
            if quiet > MAKES_ROOM_AFTER {
                idle.push((quiet, *key));
            }
        }
        if idle.is_empty() {
            *all_busy_until = Some(now + MAKES_ROOM_AFTER.saturating_sub(longest));
            return None;
        }
        idle.sort_unstable_by(|a, b| b.cmp(a));
        for (_, key) in idle.into_iter().take(ENDED_AT_ONCE) {
            if let Some(flow) = self.all.remove(&key) {
                drop(flow.make_room());
            }
        }
        Some(())
    }
}
