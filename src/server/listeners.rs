//! Accepts connections as long as there is room for them; the others stay in the kernel's backlog.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::datagrams::Datagrams;
use super::handover::Received;
use super::slots::{ConnectionSlot, Lacking, Pending, PendingCount, Slots};
use super::workers::{WorkerSlot, Workers};
use crate::config::address::Peer;
use crate::config::{Limits, span};
use crate::net::listen::Listener;
use crate::net::relay::Interrupt;
use crate::net::stream::RawStream;
use crate::report::text;
use crate::session::flow::{FlowRoom, LeftFlow};
use crate::session::{Abort, Holding, Lead, Leader, Leads, Left, Route, Session, Way};
use crate::systemd::message_id as message;
use crate::util::backoff::Backoff;

/// How long to wait when nothing can be taken from a listener for want of something: descriptors, memory.
pub(super) const PAUSES: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));

/// It was logged that nothing can be taken from a listener, and nothing was since.
#[derive(Debug, Default)]
pub(super) struct Warned(AtomicBool);

impl Warned {
    /// Something was taken.
    pub(super) fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Waits until it may be tried again; says why, but not each time.
    pub(super) async fn wait(&self, backoff: &mut Backoff, why: impl FnOnce() -> String) {
        if !self.0.swap(true, Ordering::Relaxed) {
            tracing::warn!("{}", why());
        }
        sleep(backoff.pause()).await;
    }
}

/// What the accept loops share: room, threads, and the sessions that they begin.
#[derive(Clone, Debug)]
pub(super) struct Sessions {
    slots: Slots,
    workers: Arc<Workers>,
    tasks: TaskTracker,
    pending: PendingCount,
    abort: Arc<Abort>,
    holding: Arc<Holding>,
}

impl Sessions {
    /// Sessions within these limits.
    pub(super) fn new(limits: &Limits, open_files: u64, pending: PendingCount) -> Self {
        Self {
            slots: Slots::new(limits, open_files),
            workers: Arc::new(Workers::new(limits.threads)),
            tasks: TaskTracker::new(),
            pending,
            abort: Arc::default(),
            holding: Arc::default(),
        }
    }

    /// What flows hold in all.
    pub(super) fn holding(&self) -> &Arc<Holding> {
        &self.holding
    }

    /// Room for a flow, if there is some right now.
    pub(super) fn room_for_flow(&self) -> Result<FlowRoom, Lacking> {
        self.slots.try_get_flow()
    }

    /// What room there is for a flow of an earlier process, which is never refused.
    pub(super) fn room_for_resumed_flow(&self) -> FlowRoom {
        self.room_for_flow().unwrap_or_default()
    }

    /// A thread for all flows of a listener.
    pub(super) fn worker(&self) -> (WorkerSlot, Handle) {
        self.workers.slot(None)
    }

    /// Has a flow served.
    pub(super) fn spawn_on(&self, flow: impl Future<Output = ()> + Send + 'static, on: &Handle) {
        self.tasks.spawn_on(flow, on);
    }

    /// What ends all of them.
    pub(super) fn abort(&self) -> Arc<Abort> {
        self.abort.clone()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.tasks.len()
    }

    /// Waits until all have ended.
    async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }

    /// Waits until all have ended, at most `limit`, then resets the others. Until then `listeners` take
    /// datagrams; what comes later is left to the next process.
    pub(super) async fn drain(&self, signal: &str, limit: Duration, mut listeners: Listeners) {
        let what = match self.count() {
            0 => "no open connections; exiting".to_owned(),
            open => format!("draining {} for at most {}", count(open), span::show(limit)),
        };
        tracing::info!(message_id = message::DRAINING, "{signal}: {what}");
        self.abort.close_idle();
        let timed_out = timeout(limit, self.ended()).await.is_err();
        listeners.close().await;
        if timed_out {
            let left = count(self.count());
            tracing::warn!("drain timed out; resetting {left}");
            self.abort.trigger(Interrupt::Reset);
            self.ended().await;
        }
    }

    /// Has all of them pause. They count as gone.
    pub(super) async fn pause(&self) -> Vec<Left> {
        self.abort.trigger(Interrupt::Pause);
        self.ended().await;
        self.abort.left()
    }

    /// Has one go on that has paused, here or in an earlier process.
    pub(super) fn resume(&self, left: Left) {
        let slot = self.slots.resume(left.relayed().is_none());
        let session = left.resume(|| self.pending.register());
        self.run(session, slot, None);
    }

    /// Begins one, for a connection that was accepted on thread number `own`.
    fn begin(
        &self,
        route: &Arc<Route>,
        leads: impl FnOnce() -> Leads,
        (client, peer): (RawStream, Peer),
        slot: ConnectionSlot,
        own: Option<usize>,
    ) {
        let pending = || self.pending.register();
        if let Some(session) = route.accept(client, peer, leads, pending) {
            self.run(session, slot, own);
        }
    }

    fn run(&self, session: Session<Pending>, slot: ConnectionSlot, own: Option<usize>) {
        let (worker, runtime) = self.workers.slot(own);
        let waits = self.slots.waits(slot.waiting);
        let session = session.run(waits, (slot.connection, worker));
        self.tasks.spawn_on(session, &runtime);
    }
}

/// So many connections, in words.
pub(super) fn count(connections: usize) -> String {
    text::count(connections as u64, "connection")
}

/// A listener, and where its connections go.
#[derive(Debug)]
struct Acceptor {
    listener: Listener,
    lead: Leader,
    sessions: Sessions,
    warned: Warned,
}

impl Acceptor {
    /// Accepts until `stop` is cancelled. The services know of every connection that was accepted by
    /// then.
    async fn run(self: Arc<Self>, stop: CancellationToken, own: Option<usize>) {
        tokio::select! {
            biased;
            () = stop.cancelled() => (),
            // Nothing is lost where it waits: a session begins as soon as a connection was accepted.
            () = self.accept(own) => (),
        }
    }

    /// Accepts for ever.
    async fn accept(&self, own: Option<usize>) {
        let mut backoff = PAUSES;
        let socket = loop {
            match self.listener.watch() {
                Ok(socket) => break socket,
                Err(error) => self.cannot(&error, &mut backoff).await,
            }
        };
        loop {
            // While a connection waits, and not before, it takes a slot.
            if let Err(error) = socket.readable().await {
                self.cannot(&error, &mut backoff).await;
                continue;
            }
            let slot = match self.sessions.slots.try_get(self.waits()) {
                Some(slot) => slot,
                // For one that was accepted already nothing is to make room.
                None if !socket.has_waiting() => continue,
                None => self.sessions.slots.get(self.waits()).await,
            };
            match self.begin(|| socket.try_accept(), slot, own) {
                None => self.lead.released().await,
                Some(Ok(())) => backoff.reset(),
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => (),
                Some(Err(error)) if concerns_one_client(&error) => (),
                Some(Err(error)) => self.cannot(&error, &mut backoff).await,
            }
        }
    }

    /// Whether connections wait, and not the requests on them.
    fn waits(&self) -> bool {
        !matches!(self.lead.look().way, Some(Way::ByHost(_)))
    }

    /// Accepts a connection and begins its session, unless they are held. No connection goes where
    /// the listener led before.
    fn begin(
        &self,
        accept: impl FnOnce() -> io::Result<(RawStream, Peer)>,
        slot: ConnectionSlot,
        own: Option<usize>,
    ) -> Option<io::Result<()>> {
        let lead = self.lead.look();
        if let Some(Way::Whole(route)) = &lead.way
            && lead.holds(route)
        {
            return None;
        }
        let route = lead.way.as_ref().and_then(Way::first);
        Some(accept().map(|connection| {
            self.warned.clear();
            match route {
                Some(route) => {
                    let leads = || self.lead.follow();
                    self.sessions.begin(route, leads, connection, slot, own);
                }
                None => connection.0.reset(),
            }
        }))
    }

    async fn cannot(&self, error: &io::Error, backoff: &mut Backoff) {
        let name = &self.listener.name;
        let why = || format!("cannot accept on `{name}`: {error}; connections stay in the backlog");
        self.warned.wait(backoff, why).await;
    }

    /// Accepts a connection that waits right now; says whether there was one.
    fn accept_now(&self) -> bool {
        let Some(slot) = self.sessions.slots.try_get(self.waits()) else {
            return true;
        };
        match self.begin(|| self.listener.try_accept(), slot, None) {
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => false,
            // One may wait; it is found when accepting goes on.
            None | Some(Ok(()) | Err(_)) => true,
        }
    }
}

/// Errors that accept(2) passes on from a connection that is over already; the next one is fine.
fn concerns_one_client(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errors = [
        Errno::CONNABORTED,
        Errno::INTR,
        Errno::PROTO,
        Errno::NETDOWN,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
        Errno::PERM,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| errors.contains(&Errno::from_raw_os_error(code)))
}

/// All listeners, opened and closed together. The main thread accepts until there is a relay thread;
/// then every relay thread does.
#[derive(Debug)]
pub(super) struct Listeners {
    acceptors: Vec<Arc<Acceptor>>,
    datagrams: Vec<Arc<Datagrams>>,
    sessions: Sessions,
    running: JoinSet<()>,
    stop: CancellationToken,
    /// Ends the accept loops of the main thread.
    hand_over: CancellationToken,
    /// How many threads accept.
    threads: usize,
}

impl Listeners {
    /// These listeners, each with the place where its connections go.
    pub(super) fn new(
        listeners: impl IntoIterator<Item = (Listener, Option<Way>)>,
        sessions: &Sessions,
    ) -> Self {
        let mut datagrams = Vec::new();
        let mut streams = Vec::new();
        for (listener, way) in listeners {
            match Datagrams::new(listener, way, sessions) {
                Ok(listener) => datagrams.push(listener),
                Err(stream) => streams.push(*stream),
            }
        }
        let acceptor = |(mut listener, way): (Listener, Option<Way>)| {
            if let Some(liveness) = way.as_ref().and_then(Way::liveness) {
                listener = listener.with_keepalive(liveness);
            }
            Arc::new(Acceptor {
                listener,
                lead: Leader::new(&Lead::to(way)),
                sessions: sessions.clone(),
                warned: Warned::default(),
            })
        };
        Self {
            acceptors: streams.into_iter().map(acceptor).collect(),
            datagrams,
            sessions: sessions.clone(),
            running: JoinSet::new(),
            stop: CancellationToken::new(),
            hand_over: CancellationToken::new(),
            threads: 0,
        }
    }

    /// The listeners, those of datagrams last.
    pub(super) fn all(&self) -> impl Iterator<Item = &Listener> {
        let streams = self.acceptors.iter().map(|acceptor| &acceptor.listener);
        streams.chain(self.datagrams.iter().map(|datagrams| &datagrams.listener))
    }

    /// Where each of them leads.
    fn leads(&self) -> impl Iterator<Item = &Leader> {
        let streams = self.acceptors.iter().map(|acceptor| &acceptor.lead);
        streams.chain(self.datagrams.iter().map(|datagrams| &datagrams.lead))
    }

    /// Has the next connections and requests go these ways, one for each listener.
    pub(super) fn reroute(&self, ways: impl IntoIterator<Item = Option<Way>>) {
        for (lead, way) in self.leads().zip(ways) {
            lead.change(|lead| *lead = Lead::to(way.clone()));
        }
    }

    /// Leaves the connections of the listeners whose route is one of these in the backlog, until they
    /// are released or go by other routes. The services know of all that were accepted before.
    pub(super) fn hold(&self, is_held: impl Fn(&Route) -> bool) {
        for lead in self.leads() {
            lead.change(|lead| {
                let routes = lead.way.iter().flat_map(Way::routes);
                lead.held = routes.filter(|route| is_held(route)).cloned().collect();
            });
        }
    }

    /// Has the connections that are held go where they went before.
    pub(super) fn release(&self) {
        for lead in self.leads() {
            lead.change(|lead| lead.held.clear());
        }
    }

    /// Has connections of an earlier process go on, each to where its listener leads now. The services
    /// know of all of them when this returns. Without such a listener they are reset.
    pub(super) fn resume(&self, received: Vec<Received>) {
        let mut strays: BTreeMap<String, usize> = BTreeMap::new();
        for received in received {
            let session = match self.way_of(&received) {
                Some((way, leads)) => received.session(&way, leads),
                None => Err(Box::new(received)),
            };
            match session {
                Ok(session) => self.sessions.resume(session),
                Err(received) => {
                    received.reset();
                    *strays.entry(received.connection.listener).or_default() += 1;
                }
            }
        }
        for (listener, count) in strays {
            tracing::warn!(
                "{count} connections to `{listener}` were left by the process before, and no listener \
                 of that name leads to a service that knows what to do with them: reset"
            );
        }
    }

    /// The flows that have paused, as far as they go by such routes.
    pub(super) fn left_flows(&self, goes_on: impl Fn(&Route) -> bool) -> Vec<LeftFlow> {
        let datagrams = self.datagrams.iter();
        datagrams
            .flat_map(|datagrams| datagrams.left(&goes_on))
            .collect()
    }

    /// Has all flows go on that have paused here.
    pub(super) fn resume_left_flows(&self) {
        self.datagrams.iter().for_each(Datagrams::resume_left);
    }

    /// Has flows of an earlier process go on. Those whose listener is not there, or leads to another service,
    /// end; their clients begin anew.
    pub(super) fn resume_flows(&self, flows: Vec<LeftFlow>) {
        for flow in flows {
            let mut named = self.datagrams.iter();
            if let Some(datagrams) = named.find(|own| own.listener.name == flow.listener) {
                datagrams.resume(flow);
            }
        }
    }

    /// Where the listener leads that a connection came in by: if several have its name, the one with
    /// its port.
    fn way_of(&self, received: &Received) -> Option<(Way, Leads)> {
        let port = received.client.local_port();
        let acceptors = self.acceptors.iter();
        let named = acceptors.filter(|a| a.listener.name == received.connection.listener);
        let acceptor = named.min_by_key(|a| a.listener.address.port() != port)?;
        let way = acceptor.lead.look().way.clone()?;
        Some((way, acceptor.lead.follow()))
    }

    /// Begins to accept.
    pub(super) fn open(&mut self) {
        // Most likely a connection waits: that is why we were started. Its service then knows of it
        // before it does anything else.
        for acceptor in &self.acceptors {
            acceptor.accept_now();
        }
        self.stop = CancellationToken::new();
        self.hand_over = self.stop.child_token();
        self.threads = 0;
        for acceptor in &self.acceptors {
            let (acceptor, stop) = (acceptor.clone(), self.hand_over.clone());
            self.running.spawn(acceptor.run(stop, None));
        }
        self.open_datagrams();
    }

    /// Begins to take datagrams.
    fn open_datagrams(&mut self) {
        for datagrams in &self.datagrams {
            datagrams.open();
            let runs = datagrams.clone().run(self.stop.clone());
            self.running.spawn_on(runs, datagrams.home());
        }
    }

    /// Takes datagrams only, after all was closed: flows go on while connections drain. Where there is none,
    /// what comes is left to the next process.
    pub(super) fn drain(&mut self) {
        self.acceptors.clear();
        self.datagrams.retain(|datagrams| datagrams.has_flows());
        self.stop = CancellationToken::new();
        self.open_datagrams();
    }

    /// Has every new relay thread accept. Returns when an accept loop has failed.
    pub(super) async fn run(&mut self) -> JoinError {
        loop {
            let workers = self.sessions.workers.clone();
            tokio::select! {
                threads = workers.grown(self.threads) => self.accept_on(&threads),
                Some(Err(error)) = self.running.join_next() => return error,
            }
        }
    }

    fn accept_on(&mut self, threads: &[Handle]) {
        for thread in threads {
            for acceptor in &self.acceptors {
                let accepts = acceptor.clone().run(self.stop.clone(), Some(self.threads));
                self.running.spawn_on(accepts, thread);
            }
            self.threads += 1;
        }
        self.hand_over.cancel();
    }

    /// Stops accepting. The services know of every connection that was accepted by then.
    pub(super) async fn close(&mut self) {
        self.stop.cancel();
        while self.running.join_next().await.is_some() {}
    }

    /// Accepts the connections that wait after all, one for each listener, and takes all datagrams; says
    /// whether there was one that counts. From then on the kernel drops those that would not.
    pub(super) fn accept_now(&self) -> bool {
        let acceptors = self.acceptors.iter();
        let any = acceptors.fold(false, |any, acceptor| acceptor.accept_now() | any);
        let datagrams = self.datagrams.iter();
        datagrams.fold(any, |any, datagrams| datagrams.take_last() | any)
    }
}
