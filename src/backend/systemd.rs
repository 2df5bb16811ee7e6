//! Units of a service manager, over D-Bus.
//!
//! Everything here goes by the units' state, read anew each time: signals only say when to
//! read, and how a job ended only helps to explain. So nothing gets stuck when a signal is
//! lost, the bus restarts, systemd re-executes itself or somebody else interferes.

mod bus;
mod unit;
mod words;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::timeout;
use zbus::OwnedObjectPath;

use crate::backend::{Failure, StopScope, WakeOrder, Woken};
use crate::config::{Manager, UnitName};
use crate::core::lifecycle::Phase;
use bus::Bus;
use unit::Status;
use words::{BusError, LastRun};

/// How long a bus that is gone is waited for. A dbus-daemon restarts within a second, and
/// systemd takes another to connect to it.
const BUS_TIMEOUT: Duration = Duration::from_secs(10);

/// As [`BUS_TIMEOUT`], for those who only look, and can look again.
const IMPATIENCE: Duration = Duration::from_secs(1);

/// ChangeFeed may get lost (a bus restarts, a match rule comes too late), so those who wait look
/// at least this often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A job's end may reach us a little later than the state that it has led to.
const JOB_GRACE: Duration = Duration::from_millis(100);

/// A change seldom comes alone: a start is three or four of them.
const SETTLE: Duration = Duration::from_millis(5);

/// The order to stop goes out even if nobody wants to wait for what becomes of it.
const SHORTEST: Duration = Duration::from_secs(1);

/// How slowly a lost bus is looked for while nobody needs it.
const SLOWEST: Duration = Duration::from_secs(5);

/// The units that make up the service.
#[derive(Debug)]
pub struct Units {
    names: Vec<UnitName>,
    bus: Bus,
    stop_timeout: Duration,
    /// The last round was a good one: the units stayed up until we put them to sleep.
    in_order: AtomicBool,
}

/// How far an order to start or stop has come; outlives the loss of the bus.
#[derive(Debug, Default)]
struct Progress {
    /// All units were told to start, as far as they were not up.
    ordered: bool,
    /// The units that we have started.
    started: Vec<UnitName>,
    /// The jobs that we were given.
    jobs: Vec<(UnitName, OwnedObjectPath)>,
    /// When the latest order was given, as systemd counts: µs of CLOCK_MONOTONIC.
    ordered_at: u64,
    /// The units whose start limit we may not reset (any more).
    limited: Vec<UnitName>,
    /// All units were up when told to stop.
    in_order: bool,
    /// What is waited for, in words.
    state: String,
}

impl Units {
    /// The units `names` of `manager`, started together and stopped together. Connects when
    /// first asked for something.
    pub fn new(names: Vec<UnitName>, manager: Manager, stop_timeout: Duration) -> Self {
        Self {
            bus: Bus::new(manager, names.clone()),
            names,
            stop_timeout,
            in_order: true.into(),
        }
    }

    /// Whether they run.
    pub async fn look(&self) -> Result<Phase, Failure> {
        loop {
            match self.bus.statuses(&self.names).await {
                Ok(units) => return Ok(unit::all_in_all(&units)),
                Err(trouble) => self.bus.outlast(trouble, IMPATIENCE).await?,
            }
        }
    }

    /// Starts those that are not up. Returns when all are up, or restart themselves.
    pub async fn wake(&self, order: WakeOrder) -> Woken {
        let mut progress = self.begin();
        // Starts that follow good rounds may be as many as they like; failures may not.
        if !self.in_order.swap(false, Ordering::Relaxed) {
            progress.limited.clone_from(&self.names);
        }
        let result = tokio::select! {
            result = self.start(&mut progress) => Some(result),
            () = order.given_up.cancelled() => None,
        };
        let given_up = || {
            Err(Failure(format!(
                "{} as the start is given up",
                progress.state
            )))
        };
        let result = result.unwrap_or_else(given_up);
        let started = match progress.started {
            none if none.is_empty() => StopScope::Nothing,
            units => StopScope::Units(units),
        };
        Woken { started, result }
    }

    /// Stops those in `extent`. Returns when they are down.
    pub async fn sleep(&self, extent: StopScope) -> Result<(), Failure> {
        let names = match extent {
            StopScope::Nothing => return Ok(()),
            StopScope::Units(names) => names,
            StopScope::All => self.names.clone(),
        };
        let mut progress = self.begin();
        let limit = self.stop_timeout.max(SHORTEST);
        let stopped = timeout(limit, self.stop(&names, &mut progress)).await;
        stopped.unwrap_or_else(|_| {
            let Progress { state, .. } = progress;
            let limit = limit.as_secs();
            Err(Failure(format!(
                "{state} {limit} s after the order to stop"
            )))
        })
    }

    /// Why one of them is down, by its own account. An order to start that fails has said so
    /// itself; this is for units that go down later.
    pub async fn failure_reason(&self) -> Option<String> {
        let units = self.bus.statuses(&self.names).await.ok()?;
        let mut units = self.names.iter().zip(&units);
        let (name, unit) = units.find(|(_, unit)| unit.phase() == Phase::Down)?;
        let run = self.last_run(unit).await.ok()?;
        Some(words::gone_down(name.as_str(), &run, self.bus.manager()))
    }

    /// How much memory they take together, in bytes, as far as the manager accounts for it.
    pub async fn memory(&self) -> Option<u64> {
        timeout(IMPATIENCE, self.try_memory()).await.ok()?.ok()?
    }

    async fn try_memory(&self) -> Result<Option<u64>, BusError> {
        let mut sum = None;
        for unit in self.bus.statuses(&self.names).await? {
            let Some(interface) = unit.interface() else {
                continue;
            };
            let properties = self.bus.properties(&unit.path, interface).await?;
            if let Some(bytes) = words::memory(&properties) {
                sum = Some(bytes.saturating_add(sum.unwrap_or(0)));
            }
        }
        Ok(sum)
    }

    /// Calls `changed` when one of them may have changed.
    pub async fn watch(&self, changed: impl Fn() + Send + Sync) {
        let mut news = self.bus.news();
        let mut pause = SETTLE;
        loop {
            if self.bus.link().await.is_err() {
                pause = (pause * 2).min(SLOWEST);
                news.come(pause).await;
                continue;
            }
            // When the bus is back, that is news enough.
            if pause == SETTLE {
                news.settle(SETTLE).await;
            }
            pause = SETTLE;
            changed();
        }
    }

    fn begin(&self) -> Progress {
        let state = format!("{} did not answer", words::manager(self.bus.manager()));
        Progress {
            state,
            ..Progress::default()
        }
    }

    async fn start(&self, progress: &mut Progress) -> Result<(), Failure> {
        while let Err(trouble) = self.try_start(progress).await {
            self.bus.outlast(trouble, BUS_TIMEOUT).await?;
        }
        Ok(())
    }

    async fn try_start(&self, progress: &mut Progress) -> Result<(), BusError> {
        let mut news = self.bus.news();
        if !progress.ordered {
            self.order_start_of_all(progress).await?;
        }
        loop {
            let units = self.bus.statuses(&self.names).await?;
            let mut pending = false;
            for (name, unit) in self.names.iter().zip(&units) {
                let Some(job) = progress.job(name) else {
                    continue;
                };
                if unit.is_started() {
                    continue;
                }
                if unit.phase() == Phase::Down {
                    let (failure, limited) =
                        self.explain(name, unit, &job, progress.ordered_at).await?;
                    if !limited || progress.limited.contains(name) {
                        return Err(BusError::Final(failure));
                    }
                    progress.limited.push(name.clone());
                    self.bus.reset_failed(name).await?;
                    self.order_start(name, progress).await?;
                }
                pending = true;
                progress.state = format!("`{name}` is still {}", unit.in_words());
            }
            if !pending {
                return Ok(());
            }
            news.come(LOOK_AGAIN).await;
        }
    }

    /// Orders those to start that are not up. A client waits, so the orders go out right behind
    /// the question what is up: a unit that is takes no notice, and was not started by us.
    async fn order_start_of_all(&self, progress: &mut Progress) -> Result<(), BusError> {
        self.bus.link().await?;
        progress.state = format!(
            "`{}` was just being told to start",
            bus::in_a_row(&self.names)
        );
        progress.ordered_at = monotonic_usec();
        let (units, jobs) = tokio::join!(
            biased;
            self.bus.statuses(&self.names),
            async {
                let mut jobs = Vec::new();
                for name in &self.names {
                    jobs.push(self.bus.start(name).await);
                }
                jobs
            },
        );
        for ((name, unit), job) in self.names.iter().zip(units?).zip(jobs) {
            if unit.phase() != Phase::Up {
                progress.starts(name, job?);
            }
        }
        progress.ordered = true;
        Ok(())
    }

    async fn order_start(&self, name: &UnitName, progress: &mut Progress) -> Result<(), BusError> {
        progress.state = format!("`{name}` was just being told to start");
        progress.ordered_at = monotonic_usec();
        let job = self.bus.start(name).await?;
        progress.starts(name, job);
        Ok(())
    }

    /// Why a unit is down after its start job, and whether its start limit is the reason.
    async fn explain(
        &self,
        name: &UnitName,
        unit: &Status,
        job: &OwnedObjectPath,
        ordered_at: u64,
    ) -> Result<(Failure, bool), BusError> {
        let mut news = self.bus.news();
        let heard = async {
            loop {
                match self.bus.outcome(job) {
                    Some(outcome) => return outcome,
                    None => news.come(JOB_GRACE).await,
                }
            }
        };
        let outcome = timeout(JOB_GRACE, heard).await.ok();
        let mut run = self.last_run(unit).await?;
        let outcome = outcome.as_deref();
        run.detect_start_limit(outcome, ordered_at);
        let failure = words::not_up(name.as_str(), outcome, &run, self.bus.manager());
        Ok((failure, run.is_limited()))
    }

    async fn last_run(&self, unit: &Status) -> Result<LastRun, BusError> {
        let mut properties = self.bus.properties(&unit.path, "Unit").await?;
        if let Some(interface) = unit.interface() {
            properties.extend(self.bus.properties(&unit.path, interface).await?);
        }
        Ok(LastRun::new(&properties))
    }

    async fn stop(&self, names: &[UnitName], progress: &mut Progress) -> Result<(), Failure> {
        while let Err(trouble) = self.try_stop(names, progress).await {
            self.bus.outlast(trouble, BUS_TIMEOUT).await?;
        }
        self.in_order.fetch_or(progress.in_order, Ordering::Relaxed);
        Ok(())
    }

    async fn try_stop(&self, names: &[UnitName], progress: &mut Progress) -> Result<(), BusError> {
        let mut news = self.bus.news();
        let mut refused = None;
        let units = self.bus.statuses(names).await?;
        progress.in_order |= unit::all_in_all(&units) == Phase::Up;
        for (name, unit) in names.iter().zip(&units) {
            if unit.phase() == Phase::Down || progress.job(name).is_some() {
                continue;
            }
            progress.state = format!("`{name}` is still {}", unit.in_words());
            match self.bus.stop(name).await {
                Ok(job) => progress.jobs.push((name.clone(), job)),
                Err(BusError::Final(failure)) => refused = Some(failure),
                Err(trouble) => return Err(trouble),
            }
        }
        loop {
            let units = self.bus.statuses(names).await?;
            let Some((name, unit)) = names
                .iter()
                .zip(&units)
                .find(|(_, unit)| unit.phase() != Phase::Down)
            else {
                return Ok(());
            };
            if let Some(failure) = refused {
                return Err(BusError::Final(failure));
            }
            progress.state = format!("`{name}` is still {}", unit.in_words());
            for (name, unit) in names.iter().zip(&units) {
                // A stop job of whomever is as good as ours.
                if matches!(unit.phase(), Phase::Up | Phase::Starting) {
                    let outcome = progress.job(name).and_then(|job| self.bus.outcome(&job));
                    return Err(BusError::Final(Failure(format!(
                        "`{name}` was told to stop and is {}: somebody else started it meanwhile \
                         (its stop job: {})",
                        unit.in_words(),
                        outcome.as_deref().unwrap_or("unknown"),
                    ))));
                }
            }
            news.come(LOOK_AGAIN).await;
        }
    }
}

/// The clock that systemd's `…TimestampMonotonic` properties are read from.
fn monotonic_usec() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1_000
}

impl Progress {
    /// A start of `name` was ordered, in the place of any before.
    fn starts(&mut self, name: &UnitName, job: OwnedObjectPath) {
        self.jobs.retain(|(unit, _)| unit != name);
        self.jobs.push((name.clone(), job));
        if !self.started.contains(name) {
            self.started.push(name.clone());
        }
    }

    fn job(&self, name: &UnitName) -> Option<OwnedObjectPath> {
        self.jobs
            .iter()
            .find(|(unit, _)| unit == name)
            .map(|(_, job)| job.clone())
    }
}
