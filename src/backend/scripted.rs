//! A service that follows a test's script.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::{Awaited, Failure, StopScope, Usage, WakeOrder, Woken};
use crate::core::lifecycle::Phase;

/// A service with its script.
#[derive(Debug)]
pub struct Service {
    script: Mutex<Script>,
    changed: Notify,
}

/// The script, changed by the test as it goes.
#[derive(Clone, Debug)]
pub struct Script {
    pub phase: Phase,
    pub start_takes: Duration,
    pub stop_takes: Duration,
    /// How long a start that is given up takes to end.
    pub giving_up_takes: Duration,
    /// How long a query takes to report.
    pub query_takes: Duration,
    /// What would be stopped along; `None` is not known.
    pub dependents: Option<Vec<String>>,
    /// How long it takes to find that out.
    pub dependents_take: Duration,
    pub usage: Usage,
    pub awaited: Option<Awaited>,
    pub start_fails: bool,
    pub stop_fails: bool,
    pub freeze_fails: bool,
    pub thaw_fails: bool,
    pub starts: usize,
    pub stops: usize,
    pub freezes: usize,
    pub thaws: usize,
    pub queries: usize,
    under_way: usize,
}

impl Service {
    pub fn new(phase: Phase) -> Self {
        let script = Script {
            phase,
            start_takes: Duration::from_secs(1),
            stop_takes: Duration::from_secs(1),
            giving_up_takes: Duration::ZERO,
            query_takes: Duration::ZERO,
            dependents: Some(Vec::new()),
            dependents_take: Duration::ZERO,
            usage: Usage::default(),
            awaited: None,
            start_fails: false,
            stop_fails: false,
            freeze_fails: false,
            thaw_fails: false,
            starts: 0,
            stops: 0,
            freezes: 0,
            thaws: 0,
            queries: 0,
            under_way: 0,
        };
        Self {
            script: Mutex::new(script),
            changed: Notify::new(),
        }
    }

    /// Changes the script, and signals it as a change of the service.
    pub fn set(&self, change: impl FnOnce(&mut Script)) {
        self.quietly(change);
        self.changed.notify_one();
    }

    /// The same without the signal.
    pub fn quietly(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }

    pub fn script(&self) -> Script {
        self.script.lock().unwrap().clone()
    }

    pub async fn query(&self) -> Phase {
        let (seen, takes) = {
            let mut script = self.script.lock().unwrap();
            script.queries += 1;
            (script.phase, script.query_takes)
        };
        pass(takes).await;
        seen
    }

    pub async fn dependents(&self) -> Result<Vec<String>, Failure> {
        let script = self.script();
        pass(script.dependents_take).await;
        script.dependents.ok_or_else(|| Failure("not known".into()))
    }

    pub async fn wake(&self, order: WakeOrder) -> Woken {
        if self.script().phase == Phase::Up {
            return Woken {
                started: StopScope::Nothing,
                result: Ok(()),
            };
        }
        let takes = self.begin(|script| {
            script.starts += 1;
            script.phase = Phase::Starting;
            script.start_takes
        });
        tokio::select! {
            () = sleep(takes) => (),
            () = order.given_up.cancelled() => pass(self.script().giving_up_takes).await,
        }
        let failed = self.script().start_fails || order.given_up.is_cancelled();
        self.end(if failed { Phase::Down } else { Phase::Up });
        let result = if failed {
            Err(Failure("told to fail".into()))
        } else {
            Ok(())
        };
        Woken {
            started: StopScope::All,
            result,
        }
    }

    pub async fn sleep(&self) -> Result<(), Failure> {
        let takes = self.begin(|script| {
            script.stops += 1;
            script.phase = Phase::Stopping;
            script.stop_takes
        });
        sleep(takes).await;
        let failed = self.script().stop_fails;
        self.end(if failed { Phase::Up } else { Phase::Down });
        if failed {
            Err(Failure("told to fail".into()))
        } else {
            Ok(())
        }
    }

    pub async fn freeze(&self) -> Result<(), Failure> {
        self.begin(|script| script.freezes += 1);
        sleep(Duration::from_millis(1)).await;
        let failed = self.script().freeze_fails;
        self.end(if failed { Phase::Up } else { Phase::Frozen });
        if failed {
            Err(Failure("told to fail".into()))
        } else {
            Ok(())
        }
    }

    pub async fn thaw(&self) -> Result<(), Failure> {
        self.begin(|script| script.thaws += 1);
        sleep(Duration::from_millis(1)).await;
        let failed = self.script().thaw_fails;
        self.end(if failed { Phase::Frozen } else { Phase::Up });
        if failed {
            Err(Failure("told to fail".into()))
        } else {
            Ok(())
        }
    }

    pub async fn watch(&self, changed: impl Fn()) {
        loop {
            self.changed.notified().await;
            changed();
        }
    }

    fn begin<T>(&self, start: impl FnOnce(&mut Script) -> T) -> T {
        let mut script = self.script.lock().unwrap();
        assert_eq!(script.under_way, 0, "one order at a time");
        script.under_way = 1;
        start(&mut script)
    }

    fn end(&self, phase: Phase) {
        let mut script = self.script.lock().unwrap();
        script.under_way = 0;
        script.phase = phase;
    }
}

/// Even a sleep of zero takes a while.
async fn pass(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}
