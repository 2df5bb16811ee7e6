//! Finds out whether work keeps a service awake although no client is here.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::handle::{Handle, Message};
use super::now;
use super::settings::Settings;
use crate::backend::{Backend, Usage};
use crate::config::busy::{Busy, DirectConnections, Percent, Rate};
use crate::core::lifecycle::{Event, State};
use crate::core::service::Fact;
use crate::net::direct;
use crate::report::record::Work;
use crate::report::text::count;
use crate::util::lock::locked;

/// How long each of those that are asked may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// CPU, disks and networks are measured for so long. Less would take a pause for the end.
const WINDOW: Duration = Duration::from_secs(30);

/// A timer may be a little early or late.
const SLACK: Duration = Duration::from_secs(1);

/// The exit code of a busy hook that objects.
const BUSY: i32 = 1;

/// What may keep a service awake.
#[derive(Clone, Debug)]
struct Guard {
    settings: Arc<Settings>,
    measured: Arc<Mutex<Option<Measured>>>,
}

/// The questions before a stop, one at a time.
#[derive(Debug)]
pub(super) struct Questions {
    guard: Guard,
    handle: Handle,
    tasks: TaskTracker,
    asked: Option<(u64, AbortOnDropHandle<()>)>,
    prepared: Option<AbortOnDropHandle<()>>,
    /// The cooldown, or the one before the stop, is measured for the record.
    idle: bool,
}

impl Questions {
    pub(super) fn new(settings: Arc<Settings>, handle: Handle, tasks: TaskTracker) -> Self {
        let measured = Arc::default();
        Self {
            guard: Guard { settings, measured },
            handle,
            tasks,
            asked: None,
            prepared: None,
            idle: false,
        }
    }

    /// Asks, and asks no more what was asked before.
    pub(super) fn ask(&mut self, number: u64) {
        let (guard, handle) = (self.guard.clone(), self.handle.clone());
        let task = self.tasks.spawn(async move {
            let answer = guard.ask().await;
            handle.post(Message::Busy(number, answer));
        });
        self.asked = Some((number, AbortOnDropHandle::new(task)));
    }

    /// The question with this number is answered; whether it is the one that was asked last.
    pub(super) fn is_answered(&mut self, number: u64) -> bool {
        let asked = self.asked.take_if(|(asked, _)| *asked == number);
        asked.is_some()
    }

    /// The service is in another state: what is measured has to be measured in time.
    pub(super) fn follow(&mut self, fact: &Fact) {
        if fact.cause == Event::CutShort {
            return;
        }
        self.prepared = None;
        if let State::Stopping(_) = fact.to {
            return;
        }
        self.idle = false;
        self.guard.keep(None);
        let (State::Cooling { .. }, Some(at)) = (fact.to, fact.to.deadline()) else {
            return;
        };
        self.idle = idles(fact.cause, at, now());
        if self.idle || self.guard.busy().measured().is_some() {
            let task = self.tasks.spawn(self.guard.clone().prepare(at));
            self.prepared = Some(AbortOnDropHandle::new(task));
        }
    }

    /// The CPU that the service, which is stopped, has used at the end of its cooldown, as `--busy-cpu`
    /// counts it, if that is known.
    pub(super) fn idle_cpu(&self, after: Option<Measured>) -> Option<Percent> {
        let after = after.filter(|_| self.idle)?;
        let before = self.guard.before(after)?;
        let (then, now) = (before.usage.cpu_nanos?, after.usage.cpu_nanos?);
        let time = after.at.saturating_duration_since(before.at);
        Some(Percent::of(counted(then, now), time))
    }
}

/// What had been used at some time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    at: Instant,
    pub(super) usage: Usage,
}

impl Measured {
    /// What a service has used by now.
    pub(super) async fn of(backend: &Backend) -> Result<Self, String> {
        let usage = backend.usage().await.map_err(|why| why.0)?;
        Ok(Self { at: now(), usage })
    }
}

/// What keeps the service awake, and what could not be found out.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) work: BTreeMap<Work, String>,
    pub(super) unknown: Vec<String>,
}

impl Answer {
    /// What there is if those that were asked say nothing at all.
    pub(super) fn late() -> Self {
        Self {
            unknown: vec!["no answer in time".into()],
            ..Self::default()
        }
    }
}

/// One objection, or none; or why it is not known.
type Found = Result<Option<String>, String>;

impl Guard {
    fn busy(&self) -> &Busy {
        &self.settings.config.busy
    }

    /// Asks all at once.
    async fn ask(&self) -> Answer {
        let (direct, units, hook, usage) = tokio::join!(
            in_time("direct connections", self.direct()),
            in_time("units that require it", self.units()),
            in_time("the busy hook", self.hook()),
            self.usage(),
        );
        let mut answer = Answer::default();
        let found = [
            (Work::Direct, direct),
            (Work::Units, units),
            (Work::Hook, hook),
        ];
        for (kind, found) in found.into_iter().chain(usage) {
            match found {
                Ok(Some(objection)) => _ = answer.work.insert(kind, objection),
                Ok(None) => (),
                Err(why) => answer.unknown.push(why),
            }
        }
        answer
    }

    async fn direct(&self) -> Found {
        if self.busy().direct_connections == DirectConnections::Ignore {
            return Ok(None);
        }
        match direct::count(&self.settings.targets).await {
            Ok(0) => Ok(None),
            Ok(n) => Ok(Some(count(n as u64, "direct connection"))),
            Err(error) => Err(format!("direct connections cannot be read: {error}")),
        }
    }

    async fn units(&self) -> Found {
        let units = self.settings.backend.dependents().await;
        match &units.map_err(|why| why.to_string())?[..] {
            [] => Ok(None),
            [unit] => Ok(Some(format!("{unit} is running"))),
            units => Ok(Some(format!("{} are running", units.join(", ")))),
        }
    }

    async fn hook(&self) -> Found {
        let Some(hook) = &self.busy().hook else {
            return Ok(None);
        };
        let mut variables = vec![("WAKEPORT_EVENT", "busy".to_owned())];
        if let Some(target) = self.settings.targets.first() {
            variables.push(("WAKEPORT_TARGET", target.to_string()));
        }
        // Dropping it ends it.
        let never = CancellationToken::new();
        let run = self
            .settings
            .launcher
            .run("busy hook", hook, &variables, Duration::MAX, &never);
        let status = run.await.map_err(|error| error.to_string())?;
        match status.code() {
            Some(0) => Ok(None),
            Some(BUSY) => Ok(Some("the busy hook says so".into())),
            _ => Err(format!("the busy hook `{hook}` failed ({status})")),
        }
    }

    // -- what is measured

    /// Begins to measure so early that it has lasted for long enough when the service would be
    /// stopped.
    async fn prepare(self, stop_at: Instant) {
        let begin = stop_at.checked_sub(WINDOW).unwrap_or(stop_at);
        sleep_until(begin.into()).await;
        self.keep(Measured::of(&self.settings.backend).await.ok());
    }

    fn keep(&self, measured: Option<Measured>) {
        *locked(&self.measured) = measured;
    }

    /// What was measured first, if that is long enough before `after`.
    fn before(&self, after: Measured) -> Option<Measured> {
        let kept = *locked(&self.measured);
        kept.filter(|before| is_long(after.at.saturating_duration_since(before.at)))
    }

    async fn usage(&self) -> Vec<(Work, Found)> {
        if self.busy().measured().is_none() {
            return Vec::new();
        }
        match in_time("what it uses", Measured::of(&self.settings.backend)).await {
            Ok(after) => compare(self.busy(), self.before(after), after),
            Err(why) => vec![(Work::Cpu, Err(why))],
        }
    }
}

/// Whether what is measured for so long says something.
fn is_long(time: Duration) -> bool {
    time + SLACK >= WINDOW
}

/// Whether a cooldown until `stop_at` is measured for the record: not after work, and not each time
/// that one of many clients leaves.
fn idles(cause: Event, stop_at: Instant, now: Instant) -> bool {
    !matches!(cause, Event::Busy(_)) && is_long(stop_at.saturating_duration_since(now))
}

/// What was counted from one time to a later one. A counter that is smaller then has begun anew.
fn counted(then: u64, now: u64) -> u64 {
    now.checked_sub(then).unwrap_or(now)
}

/// What was used too much between two times. Without the first, it has to be measured first.
fn compare(busy: &Busy, before: Option<Measured>, after: Measured) -> Vec<(Work, Found)> {
    let times = (before, after);
    let mut found = Vec::new();
    if let Some(limit) = busy.cpu {
        let of = |usage: Usage| usage.cpu_nanos.ok_or("CPUAccounting");
        found.push((Work::Cpu, over("CPU", times, of, Percent::of, limit)));
    }
    if let Some(limit) = busy.io {
        let of = |usage: Usage| usage.io.ok_or("IOAccounting");
        found.push((Work::Io, over("I/O", times, of, Rate::of, limit)));
    }
    if let Some(limit) = busy.net {
        let of = |usage: Usage| usage.net.ok_or("IPAccounting");
        found.push((Work::Net, over("network", times, of, Rate::of, limit)));
    }
    found
}

/// Compares the `mean` use of one thing with its limit; `of` is what was used of it, or the setting
/// without which that is not measured.
fn over<T: Ord + Display>(
    what: &str,
    (before, after): (Option<Measured>, Measured),
    of: fn(Usage) -> Result<u64, &'static str>,
    mean: fn(u64, Duration) -> T,
    limit: T,
) -> Found {
    let now = of(after.usage).map_err(|setting| {
        format!("what it uses is not measured; set {setting}=yes in its units")
    })?;
    let Some(before) = before else {
        return Ok(Some(format!("{what} is being measured")));
    };
    let count = counted(of(before.usage).unwrap_or(now), now);
    let mean = mean(count, after.at.saturating_duration_since(before.at));
    Ok((mean > limit).then(|| format!("{what} {mean}, more than {limit}")))
}

async fn in_time<T>(
    what: &str,
    answer: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let late = || format!("no answer about {what} within 10s");
    timeout(ANSWER_TIMEOUT, answer)
        .await
        .unwrap_or_else(|_| Err(late()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(seconds: u64, counts: Option<u64>) -> Measured {
        // Any time will do.
        let began = now();
        Measured {
            at: began + Duration::from_secs(seconds),
            usage: Usage {
                cpu_nanos: counts,
                io: counts,
                ..Usage::default()
            },
        }
    }

    #[test]
    fn more_than_the_limit_is_work() {
        let busy = Busy {
            cpu: Some(Percent(1_000)),
            io: Some(Rate(20_000_000)),
            ..Busy::default()
        };
        let (before, after) = (measured(0, Some(0)), measured(30, Some(600_000_000)));
        let found = compare(&busy, Some(before), after);
        let cpu = "CPU 2%, more than 1%".to_owned();
        assert_eq!(found, [(Work::Cpu, Ok(Some(cpu))), (Work::Io, Ok(None))]);
        let found = compare(&busy, None, after);
        let io = "I/O is being measured".to_owned();
        assert_eq!(found[1], (Work::Io, Ok(Some(io))));
    }

    #[test]
    fn a_short_cooldown_and_one_after_work_ask_nothing_for_the_record() {
        let (now, second) = (now(), Duration::from_secs(1));
        assert!(idles(Event::Left, now + WINDOW, now));
        assert!(!idles(Event::Left, now + WINDOW - second * 2, now));
        assert!(!idles(Event::Busy(WINDOW), now + WINDOW, now));
    }

    #[test]
    fn what_is_not_accounted_is_not_known() {
        let busy = Busy {
            net: Some(Rate(1)),
            ..Busy::default()
        };
        let found = compare(&busy, None, measured(30, None));
        assert!(matches!(&found[..], [(Work::Net, Err(why))] if why.contains("IPAccounting=yes")));
    }

    #[test]
    fn a_counter_that_has_begun_anew_counts_from_there() {
        let busy = Busy {
            io: Some(Rate(9)),
            ..Busy::default()
        };
        let found = |now| {
            compare(
                &busy,
                Some(measured(0, Some(1_000))),
                measured(30, Some(now)),
            )
        };
        assert_eq!(
            found(300)[0],
            (Work::Io, Ok(Some("I/O 10B/s, more than 9B/s".into())))
        );
        assert_eq!(found(1_240)[0], (Work::Io, Ok(None)));
    }
}
