//! Units of a service manager, over D-Bus.
//!
//! Everything here goes by the units' state, read anew each time: signals only say when to
//! read, and the result of a job only helps to explain. So nothing gets stuck when a signal is
//! lost, the bus restarts, systemd re-executes itself or units are changed from outside.

mod explain;
mod freezer;
mod monitor;
mod phase;
mod reclaimer;

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::param::clock_ticks_per_second;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::timeout;
use zbus::OwnedObjectPath;

use crate::backend::{Failure, Slept, StopScope, Usage, WakeOrder, Woken};
use crate::config::{Manager, UnitName, span};
use crate::core::lifecycle::Phase;
use crate::systemd::dbus::{self, UnitStatus};
use crate::systemd::unit;
use crate::util::backoff::Backoff;
use crate::util::lock::locked;
use crate::util::proc;
use explain::{BusError, LastRun};
use monitor::Monitor;
use reclaimer::Reclaimer;

/// How long an order waits for a bus that is gone. A dbus-daemon restarts within a second, and
/// systemd takes another to connect to it.
const BUS_TIMEOUT: Duration = Duration::from_secs(10);

/// As [`BUS_TIMEOUT`], for a query, which can be repeated.
const QUERY_TIMEOUT: Duration = Duration::from_secs(1);

/// A signal may get lost (a bus restarts, a match rule comes too late), so the state is read at
/// least this often while it is waited for.
const POLL: Duration = Duration::from_secs(1);

/// A job's result may reach us a little later than the state that it has led to.
const JOB_GRACE: Duration = Duration::from_millis(100);

/// A change seldom comes alone: a start is three or four of them.
const SETTLE: Duration = Duration::from_millis(5);

/// The order to stop goes out even where the limit leaves no time to wait for the result.
const SHORTEST_STOP: Duration = Duration::from_secs(1);

/// Units that systemd starts in one transaction with this process start at most so long before or
/// after it.
const ALONG_USEC: u64 = 1_000_000;

/// Pauses between attempts to reconnect while no order waits for the bus.
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(5));

/// The units that make up the service.
#[derive(Debug)]
pub struct Units {
    names: Vec<UnitName>,
    monitor: Monitor,
    stop_timeout: Duration,
    /// They may be frozen by us, as their slice.
    freezes: bool,
    /// Their memory is reclaimed then.
    reclaimer: Option<Reclaimer>,
    /// The last round was a good one: the units stayed up until we put them to sleep.
    in_order: AtomicBool,
    /// The units that the last start found up, as far as systemd may have started them along with
    /// this process, by a `Wants=` of our own unit: so it is with the first start.
    found_up: Mutex<Option<Vec<UnitName>>>,
}

/// How far an order to start or stop has come; outlives the loss of the bus.
#[derive(Debug, Default)]
struct Progress {
    /// All units were told to start, as far as they were not up.
    ordered: bool,
    /// The units that were up before.
    found_up: Vec<UnitName>,
    /// The jobs that we were given, the latest one of each unit.
    jobs: HashMap<UnitName, OwnedObjectPath>,
    /// When the latest order was given, as systemd counts: µs of CLOCK_MONOTONIC.
    ordered_at: u64,
    /// The units whose start limit we may not reset, or not again.
    limited: Vec<UnitName>,
    /// All units were up when told to stop.
    in_order: bool,
    /// What is waited for.
    state: String,
}

impl Units {
    /// The units `names` of `manager`, started together and stopped together. Connects when
    /// first asked for something.
    pub fn new(
        names: Vec<UnitName>,
        manager: Manager,
        stop_timeout: Duration,
        freezes: bool,
        reclaims: bool,
    ) -> Self {
        Self {
            freezes,
            reclaimer: reclaims.then(Reclaimer::default),
            monitor: Monitor::new(manager, names.clone()),
            names,
            stop_timeout,
            in_order: true.into(),
            found_up: Mutex::default(),
        }
    }

    /// Whether they run.
    pub async fn query(&self) -> Result<Phase, Failure> {
        loop {
            match self.try_query().await {
                Ok(phase) => return Ok(phase),
                Err(error) => self.monitor.ride_out(error, QUERY_TIMEOUT).await?,
            }
        }
    }

    async fn try_query(&self) -> Result<Phase, BusError> {
        let units = self.monitor.statuses(&self.names).await?;
        let phase = phase::of_all(&units);
        if phase == Phase::Up {
            for unit in &units {
                if self.monitor.is_frozen(unit).await? {
                    // It has refused an order of another process, which will be given again.
                    let refused = self.freezes && self.monitor.has_refused();
                    return Ok(if refused {
                        Phase::Starting
                    } else {
                        Phase::Frozen
                    });
                }
            }
        }
        Ok(phase)
    }

    /// Starts those that are not up. Returns when all are up, or restart by themselves.
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
        let given_up = || Err(Failure(format!("{}; start cancelled", progress.state)));
        let result = result.unwrap_or_else(given_up);
        let mut started = self.ordered(&progress);
        // Which of them are ours is asked when it matters: now a client waits.
        let mut found_up = locked(&self.found_up);
        let first = found_up.is_none();
        let along = found_up.insert(progress.found_up);
        if !first {
            along.clear();
        }
        started.extend_from_slice(along);
        drop(found_up);
        let started = match started {
            none if none.is_empty() => StopScope::Nothing,
            units => StopScope::Units(units),
        };
        Woken { started, result }
    }

    /// Stops those in `scope`. Returns when they are down.
    pub async fn sleep(&self, scope: StopScope) -> Result<Slept, Failure> {
        let names = match scope {
            StopScope::Nothing => return Ok(Slept::default()),
            StopScope::Units(names) => self.ours(names).await,
            StopScope::All => self.names.clone(),
        };
        let mut progress = self.begin();
        let limit = self.stop_timeout.max(SHORTEST_STOP);
        let stopped = timeout(limit, self.stop(&names, &mut progress)).await;
        match stopped {
            Ok(stopped) => stopped?,
            Err(_) => {
                let Progress { state, .. } = progress;
                let limit = span::show(limit);
                return Err(Failure(format!("{state} {limit} after the order to stop")));
            }
        }
        let slept = timeout(QUERY_TIMEOUT, self.slept(&progress)).await;
        Ok(slept.ok().and_then(Result::ok).unwrap_or_default())
    }

    /// What the units say that were told to stop: whether one has ended as failed, and why. systemd
    /// ends neither all processes of each unit nor the services of each target; but where a socket of
    /// its own listens for a unit, it answers and starts that unit.
    async fn slept(&self, progress: &Progress) -> Result<Slept, BusError> {
        let names = self.ordered(progress);
        let units = self.monitor.statuses(&names).await?;
        let mut failed = names.iter().zip(&units);
        let remark = match failed.find(|(_, unit)| unit.active == "failed") {
            Some((name, unit)) => {
                let run = self.last_run(unit).await?;
                let of = self.monitor.manager;
                Some(explain::stopped_as_failed(name.as_str(), &run, of))
            }
            None => None,
        };
        let may_answer = !names.is_empty() && !self.monitor.has_socket(&units).await?;
        Ok(Slept { remark, may_answer })
    }

    /// Those of `names` that a wake has started, be it by an order or along with this process.
    async fn ours(&self, names: Vec<UnitName>) -> Vec<UnitName> {
        let found_up = locked(&self.found_up).clone().unwrap_or_default();
        if found_up.is_empty() {
            return names;
        }
        let along = process_started_usec();
        let units = self.monitor.statuses(&names).await.unwrap_or_default();
        let mut ours = Vec::new();
        for (name, unit) in names.into_iter().zip(&units) {
            let is_ours = !found_up.contains(&name)
                || (self.monitor.properties(&unit.path, "Unit").await)
                    .ok()
                    .and_then(|unit| unit.get("InactiveExitTimestampMonotonic"))
                    .is_some_and(|started: u64| started.abs_diff(along) <= ALONG_USEC);
            if is_ours {
                ours.push(name);
            }
        }
        ours
    }

    /// Why one of them is down. An order to start that fails says so itself; this is for units
    /// that stop later.
    pub async fn failure_reason(&self) -> Option<String> {
        let units = self.monitor.statuses(&self.names).await.ok()?;
        let mut units = self.names.iter().zip(&units);
        let (name, unit) = units.find(|(_, unit)| unit.phase() == Phase::Down)?;
        let run = self.last_run(unit).await.ok()?;
        Some(explain::gone_down(
            name.as_str(),
            &run,
            self.monitor.manager,
        ))
    }

    /// What they have used together, as far as the manager accounts for it.
    pub async fn usage(&self) -> Result<Usage, Failure> {
        let counters: [&[&str]; 4] = [
            &["CPUUsageNSec"],
            &["IOReadBytes", "IOWriteBytes"],
            &["IPIngressBytes", "IPEgressBytes"],
            &["MemoryCurrent"],
        ];
        loop {
            match self.sums(counters).await {
                Ok([cpu_nanos, io, net, memory]) => {
                    return Ok(Usage {
                        cpu_nanos,
                        io,
                        net,
                        memory,
                    });
                }
                Err(error) => self.monitor.ride_out(error, BUS_TIMEOUT).await?,
            }
        }
    }

    /// For each list of properties, the sum over all units that say something.
    async fn sums<const N: usize>(
        &self,
        lists: [&[&str]; N],
    ) -> Result<[Option<u64>; N], BusError> {
        let mut sums = [None; N];
        for unit in self.monitor.statuses(&self.names).await? {
            let Some(interface) = dbus::interface(&unit.id) else {
                continue;
            };
            let properties = self.monitor.properties(&unit.path, interface).await?;
            for (sum, names) in sums.iter_mut().zip(lists) {
                for count in names
                    .iter()
                    .filter_map(|name| explain::counter(&properties, name))
                {
                    *sum = Some(count.saturating_add(sum.unwrap_or(0)));
                }
            }
        }
        Ok(sums)
    }

    /// Other units that would be stopped along with these, and that run or start.
    pub async fn dependents(&self) -> Result<Vec<String>, Failure> {
        loop {
            match self.try_dependents().await {
                Ok(units) => return Ok(units),
                Err(error) => self.monitor.ride_out(error, BUS_TIMEOUT).await?,
            }
        }
    }

    async fn try_dependents(&self) -> Result<Vec<String>, BusError> {
        let woken = self.monitor.statuses(&self.names).await?;
        let mut others = BTreeSet::new();
        for unit in &woken {
            let mut properties = self.monitor.properties(&unit.path, "Unit").await?;
            for dependency in dbus::STOPPED_ALONG {
                others.extend(
                    properties
                        .take::<Vec<String>>(dependency)
                        .unwrap_or_default(),
                );
            }
        }
        // With `Requires=` in our own unit, it is we whom systemd would stop.
        let own = unit::own().map(|own| own.name);
        let stem = own.as_deref().and_then(|own| own.strip_suffix(".service"));
        others.retain(|other| {
            let name = other
                .strip_suffix(".service")
                .or(other.strip_suffix(".socket"));
            woken.iter().all(|unit| unit.id != *other) && (stem.is_none() || name != stem)
        });
        let others: Vec<UnitName> = others.iter().filter_map(|name| name.parse().ok()).collect();
        if others.is_empty() {
            return Ok(Vec::new());
        }
        let others = self.monitor.statuses(&others).await?;
        let busy = others
            .into_iter()
            .filter(|unit| matches!(unit.phase(), Phase::Up | Phase::Starting));
        Ok(busy.map(|unit| unit.id).collect())
    }

    /// Calls `changed` when one of them may have changed.
    pub async fn watch(&self, changed: impl Fn() + Send + Sync) {
        let mut changes = self.monitor.changes();
        let mut reconnect = RECONNECT;
        loop {
            let mut lost = false;
            while self.monitor.link().await.is_err() {
                lost = true;
                changes.wait(reconnect.pause()).await;
            }
            // That the bus is back is a change by itself.
            if !lost {
                changes.settle(SETTLE).await;
            }
            reconnect.reset();
            changed();
        }
    }

    /// The units that were told to start or to stop.
    fn ordered(&self, progress: &Progress) -> Vec<UnitName> {
        let mut names = self.names.clone();
        names.retain(|name| progress.jobs.contains_key(name));
        names
    }

    fn begin(&self) -> Progress {
        let state = format!(
            "{} has not answered",
            explain::manager(self.monitor.manager)
        );
        Progress {
            state,
            ..Progress::default()
        }
    }

    async fn start(&self, progress: &mut Progress) -> Result<(), Failure> {
        while let Err(error) = self.try_start(progress).await {
            self.monitor.ride_out(error, BUS_TIMEOUT).await?;
        }
        Ok(())
    }

    async fn try_start(&self, progress: &mut Progress) -> Result<(), BusError> {
        let mut changes = self.monitor.changes();
        if !progress.ordered {
            self.order_start_of_all(progress).await?;
        }
        loop {
            let units = self.monitor.statuses(&self.names).await?;
            let mut pending = false;
            for (name, unit) in self.names.iter().zip(&units) {
                let Some(job) = progress.jobs.get(name) else {
                    continue;
                };
                if unit.is_started() {
                    continue;
                }
                if unit.phase() == Phase::Down {
                    let (failure, limited) =
                        self.explain(name, unit, job, progress.ordered_at).await?;
                    if !limited || progress.limited.contains(name) {
                        return Err(BusError::Final(failure));
                    }
                    progress.limited.push(name.clone());
                    self.monitor.reset_failed(name).await?;
                    self.order_start(name, progress).await?;
                }
                pending = true;
                progress.state = format!("`{name}` is still {}", unit.state());
            }
            if !pending {
                return Ok(());
            }
            changes.wait(POLL).await;
        }
    }

    /// Starts those that are not up and have no job to start: with `Wants=` in our own unit systemd
    /// is at it already, and an order costs the client who waits polkit's answer.
    async fn order_start_of_all(&self, progress: &mut Progress) -> Result<(), BusError> {
        progress.state = format!("`{}` is being started", monitor::joined(&self.names));
        progress.ordered_at = monotonic_usec();
        let units = self.monitor.statuses(&self.names).await?;
        // In a slice that is frozen nothing starts.
        if self.freezes {
            self.thaw_slice(&units).await?;
        }
        for (name, unit) in self.names.iter().zip(units) {
            if unit.phase() == Phase::Up {
                if self.monitor.is_frozen(&unit).await? {
                    progress.state = format!("`{name}` is being thawed");
                    self.monitor.thaw(name).await?;
                    tracing::info!(
                        unit = name.as_str(),
                        "`{name}` was frozen; thawed for a client"
                    );
                }
                progress.found_up.push(name.clone());
            } else if unit.job == "start" {
                progress.jobs.insert(name.clone(), unit.job_path);
            } else {
                self.order_start(name, progress).await?;
            }
        }
        progress.ordered = true;
        Ok(())
    }

    async fn order_start(&self, name: &UnitName, progress: &mut Progress) -> Result<(), BusError> {
        progress.state = format!("`{name}` is being started");
        progress.ordered_at = monotonic_usec();
        let job = self.monitor.start(name).await?;
        progress.jobs.insert(name.clone(), job);
        Ok(())
    }

    /// Why a unit is down after its start job, and whether its start limit is the reason.
    async fn explain(
        &self,
        name: &UnitName,
        unit: &UnitStatus,
        job: &OwnedObjectPath,
        ordered_at: u64,
    ) -> Result<(Failure, bool), BusError> {
        let mut changes = self.monitor.changes();
        let result = async {
            loop {
                match self.monitor.job_result(job) {
                    Some(result) => return result,
                    None => changes.wait(JOB_GRACE).await,
                }
            }
        };
        let result = timeout(JOB_GRACE, result).await.ok();
        let result = result.as_deref();
        let mut run = self.last_run(unit).await?;
        run.detect_start_limit(result, ordered_at);
        let failure = explain::not_up(name.as_str(), result, &run, self.monitor.manager);
        Ok((failure, run.is_limited()))
    }

    async fn last_run(&self, unit: &UnitStatus) -> Result<LastRun, BusError> {
        let mut properties = self.monitor.properties(&unit.path, "Unit").await?;
        if let Some(interface) = dbus::interface(&unit.id) {
            let more = self.monitor.properties(&unit.path, interface).await?;
            properties.0.extend(more.0);
        }
        Ok(LastRun::new(&properties))
    }

    async fn stop(&self, names: &[UnitName], progress: &mut Progress) -> Result<(), Failure> {
        while let Err(error) = self.try_stop(names, progress).await {
            self.monitor.ride_out(error, BUS_TIMEOUT).await?;
        }
        self.in_order.fetch_or(progress.in_order, Ordering::Relaxed);
        Ok(())
    }

    async fn try_stop(&self, names: &[UnitName], progress: &mut Progress) -> Result<(), BusError> {
        let mut changes = self.monitor.changes();
        let mut refused = None;
        let units = self.monitor.statuses(names).await?;
        progress.in_order |= phase::of_all(&units) == Phase::Up;
        // If it cannot be thawed, the job says so.
        if self.freezes
            && let Err(error @ BusError::Transient(_)) = self.thaw_slice(&units).await
        {
            return Err(error);
        }
        for (name, unit) in names.iter().zip(&units) {
            if unit.phase() == Phase::Down || progress.jobs.contains_key(name) {
                continue;
            }
            progress.state = format!("`{name}` is still {}", unit.state());
            // From systemd 256 on, a frozen unit cannot be stopped. If it cannot be thawed, the job says so.
            if unit.phase() == Phase::Up && self.monitor.is_frozen(unit).await? {
                let _ = self.monitor.thaw(name).await;
            }
            match self.monitor.stop(name).await {
                Ok(job) => _ = progress.jobs.insert(name.clone(), job),
                Err(BusError::Final(failure)) => refused = Some(failure),
                Err(error) => return Err(error),
            }
        }
        loop {
            let units = self.monitor.statuses(names).await?;
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
            progress.state = format!("`{name}` is still {}", unit.state());
            for (name, unit) in names.iter().zip(&units) {
                // A stop job of another process is as good as ours.
                if matches!(unit.phase(), Phase::Up | Phase::Starting) {
                    let job = progress.jobs.get(name);
                    let result = job.and_then(|job| self.monitor.job_result(job));
                    if result.as_deref() == Some("frozen") {
                        let failure = explain::frozen(name.as_str(), self.monitor.manager);
                        return Err(BusError::Final(failure));
                    }
                    return Err(BusError::Final(Failure(format!(
                        "`{name}` is {} after the order to stop: another process started it \
                         (stop job: {})",
                        unit.state(),
                        result.as_deref().unwrap_or("unknown"),
                    ))));
                }
            }
            changes.wait(POLL).await;
        }
    }
}

/// The clock that systemd's `…TimestampMonotonic` properties are read from.
fn monotonic_usec() -> u64 {
    usec(ClockId::Monotonic)
}

/// When the service manager forked this process, on the same clock.
fn process_started_usec() -> u64 {
    let Some(us) = proc::process(std::process::id()) else {
        return monotonic_usec();
    };
    let started = us.started_ticks * 1_000_000 / clock_ticks_per_second();
    let age = usec(ClockId::Boottime).saturating_sub(started);
    monotonic_usec().saturating_sub(age)
}

fn usec(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1_000
}
