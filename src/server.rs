//! The process: what there is once, whatever the number of services. Opens the listeners, runs the
//! services, drains on a signal, reloads the file, and exits when no service needs it.

mod control;
mod datagrams;
pub mod handover;
mod instance;
#[cfg(feature = "kubernetes")]
mod keda;
pub mod limits;
mod listeners;
mod metrics;
mod routes;
mod running;
mod signals;
mod slots;
mod status_line;
mod unit_lock;
pub mod workers;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, span};
use crate::net::listen::{Listener, Stored};
use crate::program::Launcher;
use crate::service::now;
use crate::systemd::message_id as message;
use crate::systemd::notify::Notifier;

pub use instance::Instance;
pub use routes::Routes;
pub use signals::Signals;

use control::Control;
use listeners::{Listeners, Sessions, count};
use running::{End, Services, Surroundings};
use slots::PendingCount;
use status_line::StatusLine;

/// systemd counts how often a socket starts its service: no life is shorter than this, whatever
/// ends it.
pub const SHORTEST_LIFE: Duration = Duration::from_millis(250);

/// Between two attempts to exit.
const EXIT_RETRY: Duration = Duration::from_millis(50);

/// How long those who ask may take to read their last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

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
    /// The control sockets.
    pub control: Vec<Listener>,
    /// What an earlier process has left in the file descriptor store.
    pub stored: Stored,
    /// What we are called.
    pub instance: Instance,
    /// Where metrics are served.
    pub metrics: Option<Listener>,
    /// Where KEDA asks.
    pub keda: Option<Listener>,
    /// What SIGHUP does; without it, SIGHUP drains like SIGTERM.
    pub reload: Option<Reload>,
}

/// Serves until no service needs us, or a signal ends us.
pub async fn serve(setup: Setup) -> io::Result<()> {
    let (config, listeners) = (setup.config, setup.listeners);
    let began = now();
    // Before READY=1: from then on signals may come.
    let mut signals = Signals::new()?;
    let notifier = Notifier::start();
    notifier.ready();

    let open_files = limits::raise_open_files()?;
    let changed = Arc::new(Notify::new());
    let pending = PendingCount::new(changed.clone());
    let sessions = Sessions::new(&config.process.limits, open_files.raised, pending.clone());
    let launcher = Launcher::new(open_files.original);
    // Nothing waits for these when we end.
    let mut background = JoinSet::new();
    background.spawn(launcher.clone().reap_orphans());
    background.spawn(notifier.clone().feed_watchdog());
    let own = listeners.iter().filter_map(|own| own.address.tcp());
    let own_udp = listeners.iter().filter_map(|own| own.address.udp());
    let unit = setup.instance.unit.clone();
    let surroundings = Surroundings {
        ours: own.collect(),
        ours_udp: own_udp.collect(),
        launcher,
        instance: setup.instance,
        status_line: StatusLine::new(notifier.clone()),
        tasks: TaskTracker::new(),
        abort: sessions.abort(),
        changed: changed.clone(),
        stays: config.process.stay,
        drain_timeout: config.process.drain_timeout,
    };
    let mut services = Services::new(surroundings, config.services, &setup.routes);
    let ending = CancellationToken::new();
    if let Some(listener) = setup.metrics {
        background.spawn(metrics::serve(listener, services.handles(), ending.clone()));
    }
    let last_answers = TaskTracker::new();
    #[cfg(feature = "kubernetes")]
    if let Some(listener) = setup.keda {
        let (ending, answers) = (ending.clone(), last_answers.clone());
        background.spawn(keda::serve(listener, services.handles(), ending, answers));
    }
    let routes = services.routes(&listeners, &setup.routes);
    let mut listeners = Listeners::new(listeners.into_iter().zip(routes), &sessions);

    let mut control = Control::new(setup.control, services.handles(), pending.clone());

    // Before anything is asked or stopped: they count as connected from the beginning.
    handover::take(setup.stored, (&listeners, &control), &notifier);
    listeners.open();
    control.open();
    // After the listeners: a connection that waits is known to its service before that does anything.
    services.run();
    let signal = loop {
        tokio::select! {
            signal = signals.next() => match &setup.reload {
                Some(reload) if signal == "SIGHUP" => services.reload(reload(), &listeners).await,
                _ => break signal,
            },
            () = changed.notified() => {
                if services.reap().await && let Some(reload) = &setup.reload {
                    services.reload(reload(), &listeners).await;
                }
                if config.process.stay || !services.are_idle() || !pending.is_empty() {
                    continue;
                }
                sleep_until((began + SHORTEST_LIFE).into()).await;
                // As long as the disk takes its time, connections may come.
                services.settled().await;
                listeners.close().await;
                control.close().await;
                // One that was pending is known to its service when it is pending no more.
                let may_exit = pending.is_empty() && services.may_exit().await;
                if may_exit && !listeners.accept_now() {
                    tracing::info!(message_id = message::EXITING, "idle; exiting");
                    notifier.stopping();
                    services.close_all(End::Idle).await;
                    return Ok(());
                }
                listeners.open();
                control.open();
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

    ending.cancel();
    if !config.process.drain_delay.is_zero() {
        let delay = span::show(config.process.drain_delay);
        tracing::info!(
            message_id = message::DRAINING,
            "{signal}: accepting connections for {delay} more"
        );
        tokio::select! {
            () = sleep(config.process.drain_delay) => (),
            () = notifier.keep_extending() => (),
            () = services.failed() => (),
            _ = listeners.run() => (),
            signal = signals.next() => {
                tracing::warn!("second signal ({signal}): exiting immediately");
                notifier.stopping();
                return Ok(());
            }
        }
    }
    listeners.close().await;
    control.close().await;
    let drain_timeout = config.process.drain_timeout;
    let end = async {
        let unit = unit.as_ref();
        let connections = (&sessions, &listeners, &control);
        match handover::hand_over(connections, &services, &notifier, unit, drain_timeout).await {
            Some(_handed_over) => services.close_all(End::Restart).await,
            None => {
                // Holders do not delay the end, and come again.
                control.end().await;
                services.ending();
                listeners.drain();
                sessions.drain(signal, drain_timeout, listeners).await;
                services.close_all(End::Signal).await;
            }
        }
    };
    tokio::select! {
        () = end => (),
        () = notifier.keep_extending() => (),
        signal = signals.next() => {
            tracing::warn!("second signal ({signal}): exiting immediately");
        }
    }
    // One whose stream is cut off comes back later than one whose stream has ended.
    last_answers.close();
    let _ = timeout(LAST_ANSWERS, last_answers.wait()).await;
    notifier.stopping();
    Ok(())
}
