//! The services of the process, as they run: built from their settings, reconfigured by a reload,
//! let go when they are idle.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::task::TaskTracker;

use super::control::Controlled;
use super::instance::Instance;
use super::listeners::Listeners;
use super::routes::{Places, Routes};
use super::status_line::StatusLine;
use super::unit_lock::{LockError, UnitLock};
use crate::backend::Backend;
use crate::config::host::{HostPattern, Table};
use crate::config::{Config, ServiceConfig, ServiceKind};
use crate::net::dial::{Dialer, Target};
use crate::net::listen::Listener;
use crate::program::Launcher;
use crate::report::state_file::Closing;
use crate::service::{Entrance, Handle, LastOrder, Permit, Reporter, Service, Settings};
use crate::session::flow::FlowRules;
use crate::session::{Abort, Route, SessionContext, Way};
use crate::util::per_thread::References;

/// What a stop may take beyond its time-out, until it is known to have failed.
const DRAIN_GRACE: Duration = Duration::from_secs(10);

/// The last order of a service that is left as it is.
const NO_ORDER: LastOrder = LastOrder {
    stop: false,
    thaw: false,
    limit: Duration::ZERO,
};

/// What a service finds around it.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// The addresses that no target may have.
    pub(super) ours: Vec<SocketAddr>,
    /// The same of datagrams.
    pub(super) ours_udp: Vec<SocketAddr>,
    pub(super) launcher: Launcher,
    pub(super) instance: Instance,
    pub(super) status_line: StatusLine,
    pub(super) tasks: TaskTracker,
    pub(super) abort: Arc<Abort>,
    /// Notified when a service has become idle.
    pub(super) changed: Arc<Notify>,
    /// We do not exit when idle.
    pub(super) stays: bool,
    pub(super) drain_timeout: Duration,
}

/// A new configuration, where it has listeners lead, and which of its services go on as before.
type Plan = (Config, Routes, Vec<Option<String>>);

/// All of them.
pub(super) struct Services {
    surroundings: Surroundings,
    services: Vec<Running>,
    /// How to reach them, for the metrics and the control socket.
    handles: watch::Sender<Vec<Controlled>>,
    tasks: JoinSet<()>,
}

/// Why all services end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// They are idle.
    Idle,
    /// A signal ends us.
    Signal,
    /// The same, and the next process goes on with the connections.
    Restart,
}

/// One of them.
struct Running {
    config: ServiceConfig,
    targets: Vec<Arc<Target>>,
    handle: Handle,
    entrances: Vec<Entrance>,
    context: Arc<SessionContext>,
    idle: watch::Receiver<bool>,
    record: Closing,
    /// Its place in STATUS=.
    place: usize,
    /// What keeps other instances from stopping its units.
    lock: Option<UnitLock>,
    /// It is not in the file any more: it ends when it is idle.
    leaving: bool,
    /// The file says that it starts something else: that applies when it is idle.
    outdated: bool,
    /// Until it runs.
    service: Option<Box<Service>>,
}

impl Services {
    /// The services that `configs` describe, with their targets. They do not run yet.
    pub(super) fn new(
        surroundings: Surroundings,
        configs: Vec<ServiceConfig>,
        routes: &Routes,
    ) -> Self {
        let configs = configs.into_iter().zip(&routes.targets);
        let services: Vec<_> = configs
            .map(|(config, targets)| Running::new(&surroundings, config, targets.clone()))
            .collect();
        Self {
            surroundings,
            handles: watch::Sender::new(handles(&services)),
            services,
            tasks: JoinSet::new(),
        }
    }

    /// Has those run that do not yet.
    pub(super) fn run(&mut self) {
        for running in &mut self.services {
            if let Some(service) = running.service.take() {
                self.tasks.spawn(service.run());
            }
        }
    }

    /// How to reach them, also after a reload.
    pub(super) fn handles(&self) -> watch::Receiver<Vec<Controlled>> {
        self.handles.subscribe()
    }

    /// Where each listener leads.
    pub(super) fn routes<'a>(
        &self,
        listeners: impl IntoIterator<Item = &'a Listener>,
        routes: &Routes,
    ) -> Vec<Option<Way>> {
        type ToRoute<'a> = &'a dyn Fn(&HostPattern, (usize, usize)) -> Option<Arc<Route>>;
        let table =
            |places: &Table<_>, route: ToRoute<'_>| Arc::new(places.clone().filter_map(route));
        let way = |(listener, leads): (&Listener, &Places)| match leads {
            Places::Nowhere => None,
            Places::To(place) => Some(Way::Whole(self.route(listener, None, *place)?)),
            Places::ByHost(places) => Some(Way::ByHost(table(places, &|host, place| {
                self.route(listener, Some(host), place)
            }))),
            Places::ByName(places) => Some(Way::ByName(table(places, &|_, place| {
                self.route(listener, None, place)
            }))),
        };
        listeners
            .into_iter()
            .zip(&routes.listeners)
            .map(way)
            .collect()
    }

    fn route(
        &self,
        listener: &Listener,
        host: Option<&HostPattern>,
        (service, target): (usize, usize),
    ) -> Option<Arc<Route>> {
        let running = self.services.get(service)?;
        let entrance = running.entrances.get(target)?.clone();
        Some(Arc::new(Route {
            listener: listener.name.as_str().into(),
            service: running.config.name.as_deref().unwrap_or_default().into(),
            requests: host.map(|host| References::new(&entrance.requests(host))),
            entrance,
            target: running.targets[target].clone(),
            authority: running.targets[target].authority(),
            context: running.context.clone(),
        }))
    }

    /// Whether all might let the process exit.
    pub(super) fn are_idle(&self) -> bool {
        self.services.iter().all(Running::is_idle)
    }

    /// Whether all let the process exit, all that they were told before counted.
    pub(super) async fn may_exit(&self) -> bool {
        for running in &self.services {
            if !running.handle.may_exit().await {
                return false;
            }
        }
        true
    }

    /// Waits until what was to be written is written, or the disk takes too long.
    pub(super) async fn settled(&self) {
        for running in &self.services {
            running.record.settled().await;
        }
    }

    /// Waits until one has ended that was not told to.
    pub(super) async fn failed(&mut self) {
        // One that was told to is waited for elsewhere.
        if self.tasks.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Ends those that have left the file and are idle. Whether one is idle that waited for that to
    /// start something else.
    pub(super) async fn reap(&mut self) -> bool {
        let is_over = |running: &Running| running.leaving && running.is_idle();
        while let Some(index) = self.services.iter().position(is_over) {
            let running = self.services.remove(index);
            if !running.handle.may_exit().await {
                self.services.push(running);
                break;
            }
            tracing::info!(
                "{} is idle and no longer in the file: removed",
                running.name()
            );
            running.handle.close(NO_ORDER);
            let _: Option<Result<(), JoinError>> = self.tasks.join_next().await;
            self.surroundings.status_line.remove(running.place);
            self.handles.send_replace(handles(&self.services));
        }
        let due = |running: &Running| running.outdated && !running.leaving && running.is_idle();
        self.services.iter().any(due)
    }

    /// Keeps all from being stopped, until what is returned is dropped.
    pub(super) fn hold(&self) -> Vec<Permit> {
        let held = self.services.iter();
        held.filter_map(|running| Some(running.entrances.first()?.resume()))
            .collect()
    }

    /// Whether one has something under way that would end with this process: a hook that runs, a
    /// connection to a child process.
    pub(super) async fn are_bound(&self) -> bool {
        for running in &self.services {
            let bound = match running.config.kind {
                ServiceKind::Hooks { .. } => running.handle.has_order().await,
                ServiceKind::Exec(_) => running.entrances.iter().any(|way| way.inside() > 0),
                ServiceKind::Scale(_) => running.handle.has_order().await,
                ServiceKind::Relay | ServiceKind::Units { .. } => false,
            };
            if bound {
                return true;
            }
        }
        false
    }

    /// Whether the target of a route ends with this process.
    pub(super) fn ends_with_us(&self, route: &Route) -> bool {
        let ours = |running: &&Running| Arc::ptr_eq(&running.context, &route.context);
        let running = self.services.iter().find(ours);
        running.is_some_and(|running| matches!(running.config.kind, ServiceKind::Exec(_)))
    }

    /// Has all thawed that are frozen: a signal ends us, and nothing else would do it then.
    pub(super) fn ending(&self) {
        self.services
            .iter()
            .for_each(|running| running.handle.ending());
    }

    /// Ends all.
    pub(super) async fn close_all(&mut self, end: End) {
        let drain_timeout = self.surroundings.drain_timeout;
        for running in &self.services {
            running.handle.close(match (end, &running.config.kind) {
                (End::Signal, _) | (End::Restart, ServiceKind::Exec(_)) => {
                    last_order(&running.config, drain_timeout)
                }
                (End::Restart, _) => NO_ORDER,
                (End::Idle, _) => LastOrder {
                    thaw: true,
                    ..NO_ORDER
                },
            });
        }
        while self.tasks.join_next().await.is_some() {}
        self.services.clear();
    }

    /// Goes on with what was read from the file, or as before if that is wrong.
    pub(super) async fn reload(&mut self, read: Result<Config, String>, listeners: &Listeners) {
        let planned = match read {
            Ok(config) => {
                // Or a connection would wait at a target that its service has no more.
                listeners.hold(|route| self.changes(route, &config));
                self.plan(config, listeners).await
            }
            Err(why) => Err(why),
        };
        let (config, routes, outdated) = match planned {
            Ok(planned) => planned,
            Err(why) => {
                listeners.release();
                tracing::error!("cannot reload: {why}; nothing was changed");
                // Not to be tried again and again.
                self.services.iter_mut().for_each(|it| it.outdated = false);
                return;
            }
        };
        let (mut before, count) = (std::mem::take(&mut self.services), config.services.len());
        for (config, targets) in config.services.into_iter().zip(&routes.targets) {
            let same = |running: &Running| running.config.name == config.name;
            let running = match before.iter().position(same) {
                Some(index) => {
                    let mut running = before.remove(index);
                    running.leaving = false;
                    running.outdated = outdated.contains(&running.config.name);
                    if running.outdated {
                        let name = running.name();
                        tracing::warn!("{name} is in use: its new settings apply when it sleeps");
                    }
                    running
                        .reconfigure(&self.surroundings, config, targets)
                        .await;
                    running
                }
                None => {
                    let running = Running::new(&self.surroundings, config, targets.clone());
                    tracing::info!("{} added", running.name());
                    running
                }
            };
            self.services.push(running);
        }
        self.run();
        let routes = self.routes(listeners.all(), &routes);
        for (listener, way) in listeners.all().zip(&routes) {
            if let Some(liveness) = way.as_ref().and_then(Way::liveness) {
                listener.set_keepalive(&liveness);
            }
        }
        listeners.reroute(routes);
        for mut running in before {
            if !std::mem::replace(&mut running.leaving, true) {
                let name = running.name();
                tracing::info!("{name} is no longer in the file: it ends when it is idle");
            }
            self.services.push(running);
        }
        self.handles.send_replace(handles(&self.services));
        // One that leaves may be idle already.
        self.surroundings.changed.notify_one();
        tracing::info!("reloaded: {count} services");
    }

    /// Whether a route leads to a service that has other settings in `next`.
    fn changes(&self, route: &Route, next: &Config) -> bool {
        let is_its_own = |running: &&Running| Arc::ptr_eq(&running.context, &route.context);
        let running = self.services.iter().find(is_its_own);
        running.is_some_and(|running| {
            let mut next = next.services.iter();
            next.any(|next| next.name == running.config.name && *next != running.config)
        })
    }

    /// What a new configuration comes to, unless it is wrong. Services that are in use and would start
    /// something else go on as before until they are idle.
    async fn plan(&self, mut config: Config, listeners: &Listeners) -> Result<Plan, String> {
        let mut outdated = Vec::new();
        for service in &mut config.services {
            for running in &self.services {
                if running.config.name == service.name {
                    if running.must_end_before(service) && !running.handle.is_down().await {
                        outdated.push(service.name.clone());
                        *service = running.config.clone();
                    }
                    continue;
                }
                let theirs = running.config.units();
                let shared = service.units().iter().find(|unit| theirs.contains(unit));
                if let Some(unit) = shared {
                    return Err(format!(
                        "{} wakes `{unit}`, which {} wakes; restart wakeport to give it to another \
                         service",
                        name(service),
                        running.name(),
                    ));
                }
            }
        }
        let all: Vec<&Listener> = listeners.all().collect();
        let routes = Routes::new(&config, &all)?;
        Ok((config, routes, outdated))
    }
}

impl Running {
    fn new(surroundings: &Surroundings, config: ServiceConfig, targets: Vec<Arc<Target>>) -> Self {
        if config.wake_rate.is_some()
            && surroundings.instance.state_dir.is_none()
            && !surroundings.stays
        {
            tracing::warn!(
                "`--wake-rate` counts only the wakes since wakeport was started, and it exits when \
                 idle: give it a `StateDirectory=` or `--state-dir`, or `--stay`"
            );
        }
        let (settings, context, lock) = build(surroundings, config.clone(), targets.clone(), None);
        let (recorder, record) = surroundings.instance.recorder(&config);
        let place = surroundings.status_line.add();
        let status_line = surroundings.status_line.clone();
        let say = Box::new(move |text: &str, state| status_line.say(place, text, state));
        let reporter = Reporter::new(settings.clone(), recorder, say);
        let (tasks, changed) = (surroundings.tasks.clone(), surroundings.changed.clone());
        let service = Service::new(settings, reporter, tasks, changed);
        Self {
            handle: service.handle(),
            entrances: service.entrances(),
            idle: service.idle(),
            context: Arc::new(context),
            config,
            targets,
            record,
            place,
            lock,
            leaving: false,
            outdated: false,
            service: Some(Box::new(service)),
        }
    }

    fn is_idle(&self) -> bool {
        *self.idle.borrow()
    }

    /// Whether what it starts by now would be left running for ever with `next`, or, as a child
    /// process, be out of reach.
    fn must_end_before(&self, next: &ServiceConfig) -> bool {
        if self.config == *next {
            return false;
        }
        match (&self.config.kind, &next.kind) {
            (
                ServiceKind::Units { units, manager },
                ServiceKind::Units {
                    units: next,
                    manager: theirs,
                },
            ) => manager != theirs || units.iter().any(|unit| !next.contains(unit)),
            (ServiceKind::Relay, _) | (ServiceKind::Hooks { .. }, ServiceKind::Hooks { .. }) => {
                false
            }
            (ServiceKind::Scale(scale), ServiceKind::Scale(next)) => {
                scale.namespace != next.namespace
                    || scale.lease != next.lease
                    || scale.workloads != next.workloads
            }
            (
                ServiceKind::Units { .. }
                | ServiceKind::Hooks { .. }
                | ServiceKind::Exec(_)
                | ServiceKind::Scale(_),
                _,
            ) => true,
        }
    }

    fn name(&self) -> String {
        name(&self.config)
    }

    /// Goes on with other settings, if they are other ones.
    async fn reconfigure(
        &mut self,
        surroundings: &Surroundings,
        config: ServiceConfig,
        targets: &[Arc<Target>],
    ) {
        if self.config == config && self.targets == targets {
            return;
        }
        let last = LastOrder {
            stop: self.must_end_before(&config),
            ..last_order(&self.config, surroundings.drain_timeout)
        };
        // What is under way ends first: only then another lock may be taken.
        let lock = self.lock.take();
        let (settings, context, lock) = build(surroundings, config.clone(), targets.to_vec(), lock);
        if let Some(entrances) = self.handle.reconfigure(settings, last).await {
            self.entrances = entrances;
        }
        (self.context, self.lock) = (Arc::new(context), lock);
        (self.config, self.targets) = (config, targets.to_vec());
        tracing::info!("{} reconfigured", self.name());
    }
}

fn name(config: &ServiceConfig) -> String {
    format!("service `{}`", config.name.as_deref().unwrap_or_default())
}

fn handles(services: &[Running]) -> Vec<Controlled> {
    let controlled = |running: &Running| Controlled {
        name: running.config.name.clone().unwrap_or_default(),
        label: running.config.label(),
        handle: running.handle.clone(),
        entrance: running.entrances.first().cloned(),
        #[cfg(feature = "kubernetes")]
        idle: running.idle.clone(),
        ends_with_us: matches!(running.config.kind, ServiceKind::Exec(_)),
    };
    services.iter().map(controlled).collect()
}

/// What a service and its sessions need; `held` is the lock that it has already.
fn build(
    surroundings: &Surroundings,
    config: ServiceConfig,
    targets: Vec<Arc<Target>>,
    held: Option<UnitLock>,
) -> (Arc<Settings>, SessionContext, Option<UnitLock>) {
    let (launcher, instance) = (&surroundings.launcher, &surroundings.instance);
    let dialer = Dialer::new(
        surroundings.ours.iter().copied(),
        config.liveness,
        config.send_proxy,
    );
    let dialer = dialer.without_datagrams_to(surroundings.ours_udp.iter().copied());
    drop(held);
    let (backend, lock) = match lock(instance, &config) {
        Ok(lock) => (Backend::new(&config, &targets, &dialer, launcher), lock),
        Err(why) => {
            tracing::warn!("{why}; relaying only, the unit is neither started nor stopped");
            (Backend::Relay, None)
        }
    };
    let (admission, liveness) = (config.admission.clone(), config.liveness);
    let abort = surroundings.abort.clone();
    let flows = FlowRules {
        settings: config.udp.clone(),
        start_timeout: config.timing.start_timeout,
    };
    let context = SessionContext::new(dialer.clone(), admission, liveness, flows, abort);
    let settings = Settings {
        config,
        backend,
        targets,
        dialer,
        launcher: launcher.clone(),
    };
    (Arc::new(settings), context, lock)
}

/// Keeps other instances from stopping the units of a service; why not, if one of them has a unit.
fn lock(instance: &Instance, config: &ServiceConfig) -> Result<Option<UnitLock>, String> {
    let (units, Some(directory)) = (config.units(), &instance.state_dir) else {
        return Ok(None);
    };
    if units.is_empty() {
        return Ok(None);
    }
    match UnitLock::acquire(directory, &instance.shown(config), units) {
        Ok(lock) => Ok(Some(lock)),
        Err(held @ LockError::Held(..)) => Err(held.to_string()),
        Err(error @ LockError::Io(..)) => {
            tracing::warn!("{error}; another instance may stop the unit");
            Ok(None)
        }
    }
}

/// What a service does last when a signal ends us: whether it is stopped, and how long what is under
/// way may take. A child process ends with us; a hook that runs is not cut off.
fn last_order(config: &ServiceConfig, drain_timeout: Duration) -> LastOrder {
    let stop = config.stop_on_exit || matches!(config.kind, ServiceKind::Exec(_));
    let limit = match config.kind {
        _ if stop => config.timing.stop_timeout.saturating_add(DRAIN_GRACE),
        // An order that is under way there is not to be repeated by the next process.
        ServiceKind::Hooks { .. } | ServiceKind::Scale(_) => drain_timeout,
        ServiceKind::Relay | ServiceKind::Units { .. } | ServiceKind::Exec(_) => Duration::ZERO,
    };
    LastOrder {
        stop,
        thaw: true,
        limit,
    }
}
