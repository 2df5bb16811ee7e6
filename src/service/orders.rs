//! What is asked of the backend: orders, one at a time, and queries. Each is a task that reports to
//! the inbox.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::Settings;
use super::guard::Measured;
use super::handle::{Handle, LastOrder, Message, Report, Stopped, Waiter};
use crate::backend::{StopScope, WakeOrder};
use crate::config::span;
use crate::core::lifecycle::Phase;
use crate::net::dial::Target;
use crate::util::backoff::Backoff;

/// The order before, which is to be waited for; it says what it has started.
type Previous = Pin<Box<dyn Future<Output = StopScope> + Send>>;

/// The pauses between two looks at a service that is stopped and still answers.
const STILL: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));

/// How long a process that ends waits for a thaw, whatever becomes of it.
const THAW_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a stop waits to hear what the service has used.
const USAGE_TIMEOUT: Duration = Duration::from_secs(1);

/// The inbox, for what comes of these orders. New settings bring new orders: what is in the inbox of those
/// before says nothing of the service any more.
#[derive(Clone, Debug)]
struct Reports {
    handle: Handle,
    number: u64,
}

impl Reports {
    fn post(&self, report: Report) {
        self.handle.post(Message::Reported(self.number, report));
    }
}

/// The order under way or last carried out; the next one waits for it.
#[derive(Debug)]
pub(super) struct Orders {
    settings: Arc<Settings>,
    reports: Reports,
    tasks: TaskTracker,
    last: Option<JoinHandle<StopScope>>,
    /// Cancelled when the latest start is given up.
    given_up: CancellationToken,
    watch: Option<AbortOnDropHandle<()>>,
}

impl Orders {
    pub(super) fn new(settings: Arc<Settings>, handle: Handle, tasks: TaskTracker) -> Self {
        Self {
            settings,
            reports: Reports {
                number: handle.unique(),
                handle,
            },
            tasks,
            last: None,
            given_up: CancellationToken::new(),
            watch: None,
        }
    }

    /// Whether what is reported with this number comes of these.
    pub(super) fn have(&self, number: u64) -> bool {
        self.reports.number == number
    }

    /// Has changes of the service reported from now on.
    pub(super) fn watch(&mut self) {
        let (backend, reports) = (self.settings.backend.clone(), self.reports.clone());
        let watch = async move { backend.watch(move || reports.post(Report::Changed)).await };
        self.watch = Some(AbortOnDropHandle::new(self.tasks.spawn(watch)));
    }

    /// Finds out what the service does; with `explain` also why, if it is down.
    pub(super) fn query(&self, explain: bool) {
        let (backend, reports) = (self.settings.backend.clone(), self.reports.clone());
        self.tasks.spawn(async move {
            let seen = backend.query().await;
            let why = match seen {
                Ok(Phase::Down) if explain => backend.failure_reason().await,
                _ => None,
            };
            reports.post(Report::Queried(seen, why));
        });
    }

    /// Whether one is under way.
    pub(super) fn is_under_way(&self) -> bool {
        self.last.as_ref().is_some_and(|order| !order.is_finished())
    }

    /// Has the service started for a connection to `target`.
    pub(super) fn start(&mut self, target: Arc<Target>, first: &Waiter) {
        self.given_up = CancellationToken::new();
        let order = WakeOrder {
            target,
            listener: first.listener.clone(),
            client: first.peer,
            limit: self.settings.config.timing.start_timeout,
            given_up: self.given_up.clone(),
        };
        self.begin(|previous, settings, reports| async move {
            previous.await;
            let woken = settings.backend.wake(order).await;
            reports.post(Report::Started(woken.result));
            woken.started
        });
    }

    /// Has the service stopped.
    pub(super) fn stop(&mut self) {
        self.begin(|previous, settings, reports| async move {
            previous.await;
            stop(&settings, &reports, StopScope::All).await
        });
    }

    /// Has the service frozen.
    pub(super) fn freeze(&mut self) {
        self.begin(|previous, settings, reports| async move {
            previous.await;
            reports.post(Report::Froze(settings.backend.freeze().await));
            StopScope::Nothing
        });
    }

    /// Has the service thawed.
    pub(super) fn thaw(&mut self) {
        self.begin(|previous, settings, reports| async move {
            previous.await;
            let backend = &settings.backend;
            let result = match backend.thaw().await {
                Ok(()) => Ok(()),
                // If it cannot be read, it may well be frozen still.
                Err(why) => Err((why, backend.query().await.unwrap_or(Phase::Frozen))),
            };
            reports.post(Report::Thawed(result));
            StopScope::Nothing
        });
    }

    /// Ends the start that is under way, and with `undo` has stopped what it started.
    pub(super) fn give_up(&mut self, undo: bool) {
        self.given_up.cancel();
        self.begin(move |previous, settings, reports| async move {
            let started = previous.await;
            match undo {
                true => stop(&settings, &reports, started).await,
                false => started,
            }
        });
    }

    /// Ends what is under way, and thaws and stops the service if told to, whatever its state. Whether it
    /// is known to be down.
    pub(super) async fn close(mut self, LastOrder { stop, thaw, limit }: LastOrder) -> bool {
        self.given_up.cancel();
        self.begin(move |previous, settings, _| async move {
            previous.await;
            if thaw && let Err(why) = settings.backend.thaw().await {
                tracing::warn!("failed to thaw the service: {why}");
            }
            if !stop {
                return StopScope::All;
            }
            match settings.backend.sleep(StopScope::All).await {
                Ok(_) => StopScope::Nothing,
                Err(why) => {
                    tracing::warn!("failed to stop the service: {why}");
                    StopScope::All
                }
            }
        });
        let mut running = StopScope::All;
        let limit = if thaw {
            limit.saturating_add(THAW_TIMEOUT)
        } else {
            limit
        };
        if let Some(order) = self.last.take()
            && let Ok(Ok(rest)) = timeout(limit, order).await
        {
            running = rest;
        }
        // Without us, systemd's own dependencies stop what they have started.
        running == StopScope::Nothing || !self.settings.backend.can_start()
    }

    /// Begins an order, which is to wait for the one before, whatever that was.
    fn begin<F, T>(&mut self, order: F)
    where
        F: FnOnce(Previous, Arc<Settings>, Reports) -> T,
        T: Future<Output = StopScope> + Send + 'static,
    {
        let previous = self.last.take();
        let previous: Previous = Box::pin(async move {
            match previous {
                Some(order) => order.await.unwrap_or(StopScope::Nothing),
                None => StopScope::Nothing,
            }
        });
        let (settings, reports) = (self.settings.clone(), self.reports.clone());
        self.last = Some(self.tasks.spawn(order(previous, settings, reports)));
    }
}

impl Settings {
    /// Waits until no target of the service, which is stopped, answers, or until the limit after
    /// `began`: then says which one does.
    async fn gone(&self, began: Instant, reports: &Reports) -> Option<String> {
        let mut backoff = STILL;
        let stop_timeout = self.config.timing.stop_timeout;
        let limit = span::show(stop_timeout);
        let mut told = false;
        loop {
            let address = self.answering().await?;
            let left = stop_timeout.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Some(format!(
                    "`{address}` still answered {limit} after the order to stop: its process runs \
                     on; KillMode=control-group ends it, for a target PartOf= in its services"
                ));
            }
            if !std::mem::replace(&mut told, true) {
                reports.post(Report::Remark(format!(
                    "`{address}` still answers after the stop; clients wait until it does not, at \
                     most {limit}"
                )));
            }
            sleep(backoff.pause().min(left)).await;
        }
    }

    /// A target that answers.
    async fn answering(&self) -> Option<&Target> {
        for target in &self.targets {
            if self.still_answers(target).await {
                return Some(target);
            }
        }
        None
    }
}

/// Stops what `scope` names, and reports. What may still serve clients then is given time to end: it
/// would take them along.
async fn stop(settings: &Settings, reports: &Reports, scope: StopScope) -> StopScope {
    let backend = &settings.backend;
    let began = Instant::now();
    let measured = match scope {
        StopScope::All => timeout(USAGE_TIMEOUT, Measured::of(backend)).await.ok(),
        StopScope::Units(_) | StopScope::Nothing => None,
    };
    let measured = measured.and_then(Result::ok);
    let result = match backend.sleep(scope).await {
        Ok(slept) => {
            let left = match slept.may_answer {
                true => settings.gone(began, reports).await,
                false => None,
            };
            let remark = left.or(slept.remark);
            Ok(Stopped { measured, remark })
        }
        // If it cannot be read, it may well be running still.
        Err(why) => Err((why, backend.query().await.unwrap_or(Phase::Stopping))),
    };
    reports.post(Report::Stopped(result));
    StopScope::Nothing
}
