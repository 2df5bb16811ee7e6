//! `wakeport run`: takes the sockets, wires everything, and waits for the end.

use std::io;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::observed::{Observed, serve_metrics};
use super::options::Options;
use super::plan::Plan;
use super::{Exit, Fatal};
use crate::backend::Backend;
use crate::config::{Config, ServiceKind, UnitName, span};
use crate::net::dial::Dialer;
use crate::net::listen::{self, Inherited, ListenError, Listener};
use crate::program::Launcher;
use crate::server::accept::Acceptor;
use crate::server::limits;
use crate::server::workers::Workers;
use crate::service::probe::Prober;
use crate::service::{Driver, Reporter, now};
use crate::session::Sessions;
use crate::systemd::journal;
use crate::systemd::message_id as message;
use crate::systemd::notify::{self, Notifier};

/// systemd counts how often a socket starts its service: no life is shorter than this, whatever
/// ends it.
const SHORTEST_LIFE: Duration = Duration::from_millis(250);

/// Descriptors that are not clients': the log, the bus, the listeners, a program's output.
const SPARE_FILES: u64 = 64;

/// While we drain, systemd is told every so often that it takes so much longer.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
const EXTEND_BY: Duration = Duration::from_secs(15);

/// Between two attempts to exit.
const EXIT_RETRY: Duration = Duration::from_millis(50);

/// What a stop may take beyond its time-out, until it is known to have failed.
const DRAIN_GRACE: Duration = Duration::from_secs(10);

/// Runs to the end.
pub(super) fn run(options: Options) -> ExitCode {
    // Before anything else: this changes the environment, which threads could be reading.
    let mut inherited = listen::inherit();
    let log = {
        let (format, level) = options.log();
        journal::start(format, level)
    };
    let mut observed = options.observed();
    let planned = options.load().and_then(|config| {
        if let Some(error) = inherited.errors.pop() {
            return Err(error.into());
        }
        let plan = Plan::new(&config, &inherited)?;
        let metrics = observed.listen(!inherited.listeners.is_empty())?;
        Ok((config, plan, metrics))
    });
    let code = match planned {
        Err(fatal) => fail(&fatal, &inherited),
        Ok((config, plan, metrics)) => {
            let observed = (observed, metrics);
            match serve_to_the_end(config, plan, inherited.listeners, observed) {
                Ok(()) => ExitCode::SUCCESS,
                Err(fatal) => {
                    let code = fail(&fatal, &Inherited::default());
                    // Whoever waits is left to the next instance.
                    thread::sleep(SHORTEST_LIFE);
                    code
                }
            }
        }
    };
    drop(log);
    code
}

/// Ends with an error before clients can be served: says so, and resets who waits.
pub(super) fn fail(fatal: &Fatal, inherited: &Inherited) -> ExitCode {
    tracing::error!("{fatal}");
    inherited.reject_all(SHORTEST_LIFE);
    ExitCode::from(fatal.exit as u8)
}

impl From<ListenError> for Fatal {
    fn from(error: ListenError) -> Self {
        let message = error.to_string();
        match error {
            ListenError::NotActivated | ListenError::Both => Self::usage(message),
            ListenError::Malformed(_)
            | ListenError::NotForUs(_)
            | ListenError::NotAStream(_)
            | ListenError::Connected(_)
            | ListenError::Family(_)
            | ListenError::Bind { .. }
            | ListenError::TakeOver { .. } => Self::config(message),
        }
    }
}

impl From<io::Error> for Fatal {
    fn from(error: io::Error) -> Self {
        Self {
            message: format!("cannot begin: {error}"),
            exit: Exit::Software,
        }
    }
}

fn serve_to_the_end(
    config: Config,
    plan: Plan,
    inherited: Vec<Listener>,
    observed: (Observed, Option<Listener>),
) -> Result<(), Fatal> {
    // tokio begins with six files, and panics where it cannot have the two for its signals.
    drop([
        UnixStream::pair()?,
        UnixStream::pair()?,
        UnixStream::pair()?,
    ]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve(config, plan, inherited, observed));
    // A name that is still being resolved holds nobody up.
    runtime.shutdown_background();
    result
}

/// Serves clients until nobody needs us, or somebody ends us.
async fn serve(
    config: Config,
    plan: Plan,
    inherited: Vec<Listener>,
    (observed, metrics): (Observed, Option<Listener>),
) -> Result<(), Fatal> {
    let Config {
        process,
        mut services,
    } = config;
    let config = services.swap_remove(0);
    let began = now();
    // Before READY=1: from then on somebody may signal us.
    let mut signals = Signals::new()?;
    let notifier = Notifier::start();
    notifier.ready();

    let open_files = limits::raise_open_files()?;
    // Every client takes two: its own connection and the target's.
    let enough = usize::try_from(open_files.raised.saturating_sub(SPARE_FILES) / 2);
    let enough = enough.unwrap_or(usize::MAX).max(1);
    let seats = process.limits.max_connections.unwrap_or(enough).min(enough);
    if let Some(wanted) = process
        .limits
        .max_connections
        .filter(|&wanted| wanted > seats)
    {
        tracing::warn!(
            "`--max-connections {wanted}` needs more open files than the limit of {}; it is {seats} now: raise `LimitNOFILE=`",
            open_files.raised
        );
    }
    let launcher = Launcher::new(open_files.original);
    let Plan {
        bound,
        entrances,
        targets,
        ours,
    } = plan;
    let dialer = Dialer::new(ours, config.liveness).announcing(config.send_proxy);
    let backend = Backend::new(&config, &targets, &dialer, &launcher);
    let prober = Prober::new(&config, dialer.clone(), launcher);
    let service = label(&config.kind);
    let (books, record) = observed.books(&config, process.stay, service.clone());
    let story = Reporter::new(
        service,
        notifier.clone(),
        books,
        notify::watchdog_interval(),
    );
    let tasks = TaskTracker::new();
    let driver = Driver::new(
        backend,
        targets,
        prober,
        &config.timing,
        tasks.clone(),
        story,
    )
    .waking_at_most(config.wake_rate);
    let (handle, mut idle) = (driver.handle(), driver.idle());
    // Nobody waits for whoever asks for metrics when we end.
    let _metrics = metrics.map(|listener| {
        AbortOnDropHandle::new(tasks.spawn(serve_metrics(listener, handle.clone())))
    });
    let hall = Sessions::new(
        handle.clone(),
        dialer,
        Workers::new(process.limits.threads),
        (seats, process.limits.max_waiting),
        config.liveness,
        config.admission,
    );
    let listeners = inherited.into_iter().chain(bound).zip(entrances);
    let mut doors = Doors::new(listeners.map(|(listener, entrance)| {
        let listener = listener.with_keepalive(config.liveness);
        Acceptor::new(listener, entrance, hall.clone())
    }));

    doors.open();
    // After the doors: whoever waits is known to the driver before it does anything.
    let mut driver = tasks.spawn(driver.run());
    let signal = loop {
        tokio::select! {
            signal = signals.next() => break signal,
            // What `wait_for` returns locks the value; kept for the whole arm it would stop the driver.
            () = async { drop(idle.wait_for(|idle| *idle).await) }, if !process.stay => {
                sleep_until((began + SHORTEST_LIFE).into()).await;
                // As long as the disk takes its time, clients may come.
                record.settled().await;
                doors.close().await;
                if handle.may_exit().await && !doors.last_call() {
                    tracing::info!(message_id = message::EXITING, "exiting: nobody is here");
                    notifier.stopping();
                    handle.close(false, Duration::ZERO);
                    let _ = driver.await;
                    return Ok(());
                }
                doors.open();
                // Somebody came in, or may have; what comes of it is known in a moment.
                sleep(EXIT_RETRY).await;
            }
            _ = &mut driver => {
                let message = "the driver has ended, which is a defect of wakeport".into();
                return Err(Fatal { message, exit: Exit::Software });
            }
            Some(_) = doors.broken() => {
                let message = "an accept loop has ended, which is a defect of wakeport".into();
                return Err(Fatal { message, exit: Exit::Software });
            }
        }
    };

    doors.close().await;
    drop(doors);
    let end = async {
        drain(&hall, signal, process.drain_timeout).await;
        // A child process ends with us; a hook that runs is not cut off.
        let sleeps = config.stop_on_exit || matches!(config.kind, ServiceKind::Exec(_));
        let limit = match config.kind {
            _ if sleeps => config.timing.stop_timeout.saturating_add(DRAIN_GRACE),
            ServiceKind::Hooks { .. } => process.drain_timeout,
            ServiceKind::Relay | ServiceKind::Units { .. } | ServiceKind::Exec(_) => Duration::ZERO,
        };
        handle.close(sleeps, limit);
        let _ = driver.await;
    };
    tokio::select! {
        () = end => (),
        () = keep_extending(&notifier) => (),
        signal = signals.next() => tracing::warn!("{signal} once more: ending at once"),
    }
    notifier.stopping();
    Ok(())
}

/// Waits until the clients that are here have left, at most `limit`, then resets the others.
async fn drain(hall: &Sessions, signal: &str, limit: Duration) {
    let clients = hall.clients();
    if clients == 0 {
        tracing::info!(
            message_id = message::DRAINING,
            "{signal}: ending, nobody is here"
        );
        return;
    }
    tracing::info!(
        message_id = message::DRAINING,
        "{signal}: waiting until {clients} clients have left, at most {}",
        span::show(limit)
    );
    if timeout(limit, hall.empty()).await.is_err() {
        tracing::warn!(
            "resetting {} clients that have not left in time",
            hall.clients()
        );
        hall.cut().await;
    }
}

/// Has systemd wait as long as we do. Never returns.
async fn keep_extending(notifier: &Notifier) {
    loop {
        notifier.extend(EXTEND_BY);
        sleep(EXTEND_EVERY).await;
    }
}

/// What the service is called in the log.
fn label(service: &ServiceKind) -> String {
    match service {
        ServiceKind::Relay => "the target".into(),
        ServiceKind::Units { units, .. } => units
            .iter()
            .map(UnitName::as_str)
            .collect::<Vec<_>>()
            .join(" "),
        ServiceKind::Hooks { .. } => "the service".into(),
        ServiceKind::Exec(command) => command.to_string(),
    }
}

/// The signals that end us.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
            _ = self.hup.recv() => "SIGHUP",
        }
    }
}

/// All listeners, opened and closed together.
struct Doors {
    acceptors: Vec<Arc<Acceptor>>,
    running: JoinSet<()>,
    stop: CancellationToken,
}

impl Doors {
    fn new(acceptors: impl Iterator<Item = Acceptor>) -> Self {
        Self {
            acceptors: acceptors.map(Arc::new).collect(),
            running: JoinSet::new(),
            stop: CancellationToken::new(),
        }
    }

    fn open(&mut self) {
        self.stop = CancellationToken::new();
        for acceptor in &self.acceptors {
            let (acceptor, stop) = (acceptor.clone(), self.stop.clone());
            self.running.spawn(async move { acceptor.run(stop).await });
        }
    }

    /// Stops accepting. Every client that was accepted is known to the driver then.
    async fn close(&mut self) {
        self.stop.cancel();
        while self.running.join_next().await.is_some() {}
    }

    /// Takes in who waits after all; says whether somebody did.
    fn last_call(&self) -> bool {
        self.acceptors.iter().any(|acceptor| acceptor.accept_now())
    }

    /// Waits until an accept loop has ended that was not told to.
    async fn broken(&mut self) -> Option<Result<(), JoinError>> {
        self.running.join_next().await
    }
}
