//! The process: what there is once, whatever the number of services. Opens the listeners, runs the
//! services, drains on a signal, reloads the file, and exits when no service needs it.

mod instance;
pub mod limits;
mod listeners;
mod routes;
mod running;
mod slots;
mod status_line;
mod unit_lock;
pub mod workers;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::config::address::Bound;
use crate::config::{Config, ProcessConfig, span};
use crate::net::listen::Listener;
use crate::program::Launcher;
use crate::report::{metrics, scrape, state_file};
use crate::service::{Handle, now};
use crate::systemd::message_id as message;
use crate::systemd::notify::{self, Notifier};

pub use instance::Instance;
pub use routes::Routes;

use listeners::{Listeners, Sessions};
use running::{Services, Surroundings};
use slots::{PendingCount, Slots};
use status_line::StatusLine;
use workers::Workers;

/// systemd counts how often a socket starts its service: no life is shorter than this, whatever
/// ends it.
pub const SHORTEST_LIFE: Duration = Duration::from_millis(250);

/// Descriptors that are not connections': the log, the bus, the listeners, a program's output.
const SPARE_FILES: u64 = 64;

/// While connections drain, systemd is told every so often that it takes so much longer.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
const EXTEND_BY: Duration = Duration::from_secs(15);

/// Between two attempts to exit.
const EXIT_RETRY: Duration = Duration::from_millis(50);

/// Reads the configuration anew; an error is one line.
pub type Reload = Box<dyn Fn() -> Result<Config, String>>;

/// What a server begins with.
pub struct Setup {
    /// What to do.
    pub config: Config,
    /// The listeners.
    pub listeners: Vec<Listener>,
    /// Where each of them leads.
    pub routes: Routes,
    /// What another version has left in the file descriptor store, by name.
    pub unknown: Vec<String>,
    /// What we are called.
    pub instance: Instance,
    /// Where metrics are served.
    pub metrics: Option<Listener>,
    /// What SIGHUP does; without it, SIGHUP drains like SIGTERM.
    pub reload: Option<Reload>,
}

/// Serves until no service needs us, or a signal ends us.
pub async fn serve(setup: Setup) -> io::Result<()> {
    let Setup {
        config,
        listeners,
        routes,
        unknown,
        instance,
        metrics,
        reload,
    } = setup;
    let began = now();
    // Before READY=1: from then on signals may come.
    let mut signals = Signals::new()?;
    let notifier = Notifier::start();
    notifier.ready();
    for name in &unknown {
        tracing::warn!(
            "`{name}` in the file descriptor store is not known to this version: removed"
        );
    }
    notifier.forget(unknown);

    let open_files = limits::raise_open_files()?;
    let slots = slots(&config.process, open_files.raised);
    let changed = Arc::new(Notify::new());
    let pending = PendingCount::new(changed.clone());
    let workers = Workers::new(config.process.limits.threads);
    let sessions = Sessions::new(slots, workers, pending.clone());
    let tasks = TaskTracker::new();
    let launcher = Launcher::new(open_files.original);
    let _orphans = AbortOnDropHandle::new(tasks.spawn(launcher.clone().reap_orphans()));
    let surroundings = Surroundings {
        ours: listeners.iter().filter_map(tcp_address).collect(),
        launcher,
        instance,
        status_line: StatusLine::new(notifier.clone()),
        tasks: tasks.clone(),
        abort: sessions.abort(),
        changed: changed.clone(),
        stays: config.process.stay,
        drain_timeout: config.process.drain_timeout,
    };
    let mut services = Services::new(surroundings, config.services, &routes);
    let handles = Arc::new(Mutex::new(services.handles()));
    // Nothing waits for it when we end.
    let _metrics = metrics.map(|listener| {
        AbortOnDropHandle::new(tasks.spawn(serve_metrics(listener, handles.clone())))
    });
    let watchdog = notify::watchdog_interval();
    let _watchdog = watchdog.map(|interval| {
        AbortOnDropHandle::new(tasks.spawn(feed_watchdog(notifier.clone(), interval)))
    });
    let routed = services.routes(&listeners, &routes);
    let listeners = listeners.into_iter().zip(routed);
    let listeners = listeners.map(|(listener, route)| match route {
        Some(route) => (
            listener.with_keepalive(route.context.liveness()),
            Some(route),
        ),
        None => (listener, None),
    });
    let mut listeners = Listeners::new(listeners, &sessions);

    listeners.open();
    // After the listeners: who waits is known to the service before it does anything.
    services.run();
    let signal = loop {
        tokio::select! {
            signal = signals.next() => match &reload {
                Some(reload) if signal == "SIGHUP" => {
                    services.reload(reload(), &listeners).await;
                    *handles.lock().unwrap_or_else(|lock| lock.into_inner()) = services.handles();
                }
                _ => break signal,
            },
            () = changed.notified() => {
                services.reap().await;
                if config.process.stay || !services.are_idle() || !pending.is_empty() {
                    continue;
                }
                sleep_until((began + SHORTEST_LIFE).into()).await;
                // As long as the disk takes its time, connections may come.
                services.settled().await;
                listeners.close().await;
                // One that was pending is known to its service when it is pending no more.
                let may_exit = pending.is_empty() && services.may_exit().await;
                if may_exit && !listeners.accept_now() {
                    tracing::info!(message_id = message::EXITING, "idle; exiting");
                    notifier.stopping();
                    services.close_all(false).await;
                    return Ok(());
                }
                listeners.open();
                // A connection came in, or may have; what comes of it is known soon.
                sleep(EXIT_RETRY).await;
                changed.notify_one();
            }
            () = services.failed() => {
                return Err(io::Error::other("internal error: service task exited"));
            }
            error = listeners.run() => {
                return Err(io::Error::other(format!("internal error: accept task exited: {error}")));
            }
        }
    };

    listeners.close().await;
    drop(listeners);
    let drain_timeout = config.process.drain_timeout;
    let end = async {
        drain(&sessions, signal, drain_timeout).await;
        services.close_all(true).await;
    };
    tokio::select! {
        () = end => (),
        () = keep_extending(&notifier) => (),
        signal = signals.next() => {
            tracing::warn!("second signal ({signal}): exiting immediately");
        }
    }
    notifier.stopping();
    Ok(())
}

/// Room for as many connections as the limit on open files allows: every one takes two.
fn slots(process: &ProcessConfig, open_files: u64) -> Slots {
    let enough = usize::try_from(open_files.saturating_sub(SPARE_FILES) / 2);
    let enough = enough.unwrap_or(usize::MAX).max(1);
    let wanted = process.limits.max_connections;
    let connections = wanted.unwrap_or(enough).min(enough);
    if let Some(wanted) = wanted.filter(|&wanted| wanted > connections) {
        tracing::warn!(
            "`--max-connections {wanted}` needs more open files than the limit of {open_files}; it \
             is {connections} now: raise `LimitNOFILE=`"
        );
    }
    Slots::new(connections, process.limits.max_waiting)
}

fn tcp_address(listener: &Listener) -> Option<SocketAddr> {
    match listener.address {
        Bound::Tcp(address) => Some(address),
        Bound::Unix(_) => None,
    }
}

/// Waits until the connections have closed, at most `limit`, then resets the others.
async fn drain(sessions: &Sessions, signal: &str, limit: Duration) {
    let count = |n| match n {
        1 => "1 connection".to_owned(),
        n => format!("{n} connections"),
    };
    let open = sessions.count();
    if open == 0 {
        tracing::info!(
            message_id = message::DRAINING,
            "{signal}: no open connections; exiting"
        );
        return;
    }
    tracing::info!(
        message_id = message::DRAINING,
        "{signal}: draining {} for at most {}",
        count(open),
        span::show(limit)
    );
    if timeout(limit, sessions.ended()).await.is_err() {
        let left = count(sessions.count());
        tracing::warn!("drain timed out; resetting {left}");
        sessions.reset().await;
    }
}

/// Has systemd wait as long as we do. Never returns.
async fn keep_extending(notifier: &Notifier) {
    loop {
        notifier.extend(EXTEND_BY);
        sleep(EXTEND_EVERY).await;
    }
}

/// Tells the service manager that the event loop turns. Never returns.
async fn feed_watchdog(notifier: Notifier, interval: Duration) {
    loop {
        notifier.alive();
        sleep(interval).await;
    }
}

/// Serves the metrics of this process alone, as long as it lives.
async fn serve_metrics(listener: Listener, services: Arc<Mutex<Vec<Handle>>>) {
    let source: scrape::Source = Arc::new(move || {
        let services = services
            .lock()
            .unwrap_or_else(|lock| lock.into_inner())
            .clone();
        Box::pin(async move {
            let mut instances = Vec::new();
            for service in services {
                let record = service.record().await;
                instances.extend(record.map(|record| metrics::Instance {
                    record,
                    alive: true,
                }));
            }
            metrics::page(&instances, 0, state_file::moment())
        })
    });
    if let Err(error) = scrape::serve(vec![listener], Duration::MAX, source).await {
        tracing::warn!("cannot serve the metrics: {error}");
    }
}

/// The signals that end us, or have us reload.
pub struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    /// From now on they are caught.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
            _ = self.hup.recv() => "SIGHUP",
        }
    }
}
