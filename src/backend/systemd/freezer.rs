//! Freezes and thaws the units, as the slice that holds them and nothing else.

use tokio::time::timeout;

use super::explain::BusError;
use super::{BUS_TIMEOUT, Units, phase};
use crate::backend::Failure;
use crate::config::{UnitName, slice};
use crate::core::lifecycle::Phase;
use crate::systemd::dbus::{self, UnitStatus};

/// A service that may not be frozen: one line, with the remedy.
fn refusal(why: String) -> BusError {
    BusError::Final(Failure(why))
}

impl Units {
    /// Freezes them. They may be frozen in part if that fails.
    pub async fn freeze(&self) -> Result<(), Failure> {
        // Whatever was refused before.
        self.monitor.has_refused();
        self.repeat("frozen", || self.try_freeze()).await
    }

    /// Thaws them, if they are frozen, by us or not.
    pub async fn thaw(&self) -> Result<(), Failure> {
        self.repeat("thawed", || self.try_thaw()).await
    }

    /// Gives an order until the bus has taken it, for as long as one may take.
    async fn repeat<F>(&self, done: &str, order: impl Fn() -> F) -> Result<(), Failure>
    where
        F: Future<Output = Result<(), BusError>>,
    {
        let carried_out = async {
            while let Err(error) = order().await {
                self.monitor.ride_out(error, BUS_TIMEOUT).await?;
            }
            Ok(())
        };
        let late = || Failure(format!("systemd has not {done} it within 10s"));
        timeout(BUS_TIMEOUT, carried_out)
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    async fn try_freeze(&self) -> Result<(), BusError> {
        let units = self.monitor.statuses(&self.names).await?;
        if phase::of_all(&units) != Phase::Up {
            return Err(refusal("it is not up any more".into()));
        }
        let slice = self.slice_to_freeze(&units).await?;
        self.monitor.freeze(&slice).await?;
        if let (Some(reclaimer), Ok(link)) = (&self.reclaimer, self.monitor.link().await) {
            reclaimer.begin(link, &slice);
        }
        Ok(())
    }

    async fn try_thaw(&self) -> Result<(), BusError> {
        let units = self.monitor.statuses(&self.names).await?;
        self.thaw_slice(&units).await?;
        for (name, unit) in self.names.iter().zip(&units) {
            if unit.phase() == Phase::Up && self.monitor.is_frozen(unit).await? {
                self.monitor.thaw(name).await?;
            }
        }
        Ok(())
    }

    /// Thaws the slices of ours that hold them, unless these run: also after all in them was killed, since
    /// nothing starts in a frozen one.
    pub(super) async fn thaw_slice(&self, units: &[UnitStatus]) -> Result<(), BusError> {
        for unit in units {
            let Some(slice) = self.slice_of(unit).await?.filter(|it| self.is_ours(it)) else {
                continue;
            };
            let state = self.monitor.freezer_state(&slice).await?;
            if !["running", ""].contains(&state.as_str()) {
                self.monitor.thaw(&slice).await?;
            }
        }
        Ok(())
    }

    fn is_ours(&self, name: &UnitName) -> bool {
        slice::is_ours(name.as_str(), self.monitor.manager)
    }

    /// The slice that holds a unit.
    async fn slice_of(&self, unit: &UnitStatus) -> Result<Option<UnitName>, BusError> {
        let Some(interface) = dbus::interface(&unit.id) else {
            return Ok(None);
        };
        let slice: String = self.monitor.property(unit, interface, "Slice").await?;
        Ok(slice.parse().ok().filter(|_| !slice.is_empty()))
    }

    /// The slice that holds all of them, if it is safe to freeze that.
    async fn slice_to_freeze(&self, units: &[UnitStatus]) -> Result<UnitName, BusError> {
        let mut common = None;
        for (name, unit) in self.names.iter().zip(units) {
            let slice = self
                .slice_of(unit)
                .await?
                .filter(|slice| self.is_ours(slice));
            let Some(slice) = slice else {
                return Err(refusal(format!(
                    "`{name}` is in no slice of its own; `wakeport init` with `--freeze-after` writes one"
                )));
            };
            if common.get_or_insert_with(|| slice.clone()) != &slice {
                return Err(refusal(format!(
                    "`{name}` is in another slice than the units before it; `wakeport init` with \
                     `--freeze-after` puts all into one"
                )));
            }
            if self.is_watched(unit).await? {
                return Err(refusal(format!(
                    "`{name}` has WatchdogSec=, and this systemd kills what it does not hear of while it \
                     is frozen; WatchdogSec=0, or systemd 262"
                )));
            }
        }
        let slice = common.ok_or_else(|| refusal("there is no unit".into()))?;
        let [status] = &self.monitor.statuses(std::slice::from_ref(&slice)).await?[..] else {
            return Err(refusal(format!("`{slice}` is not there")));
        };
        let mut properties = self.monitor.properties(&status.path, "Unit").await?;
        if properties.get("CanFreeze") == Some(false) {
            return Err(refusal(format!(
                "`{slice}` cannot be frozen: that takes control groups of version 2 (boot with \
                 `systemd.unified_cgroup_hierarchy=1`)"
            )));
        }
        let mut others: Vec<String> = properties.take("SliceOf").unwrap_or_default();
        others.retain(|other| units.iter().all(|unit| unit.id != *other));
        match others.first() {
            Some(other) => Err(refusal(format!(
                "`{other}` is in `{slice}` as well, and would be frozen along; take `Slice={slice}` out of it"
            ))),
            None => Ok(slice),
        }
    }

    /// Whether systemd kills the unit when it is silent, also if it is frozen.
    async fn is_watched(&self, unit: &UnitStatus) -> Result<bool, BusError> {
        if !unit.id.ends_with(".service") {
            return Ok(false);
        }
        let watchdog: u64 = self
            .monitor
            .property(unit, "Service", "WatchdogUSec")
            .await?;
        if [0, u64::MAX].contains(&watchdog) {
            return Ok(false);
        }
        Ok(!slice::suspends_watchdogs(&self.monitor.version().await?))
    }
}
