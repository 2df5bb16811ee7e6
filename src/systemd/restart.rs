//! Whether our own unit is about to start anew, and its file descriptor store.

use std::time::Duration;

use tokio::time::timeout;
use zbus::OwnedObjectPath;

use super::dbus::Bus;
use super::unit::Unit;

/// How long the manager may take to answer. Connections are served meanwhile.
const LIMIT: Duration = Duration::from_secs(5);

/// How many connections a queue in the store holds, with `net.core.wmem_max` as the kernel sets it and
/// up to 300 bytes to be written down of each.
pub const QUEUE_HOLDS: usize = 1000;

/// The file descriptor store of a unit that is about to start anew.
#[derive(Debug)]
pub struct Store {
    bus: Bus,
    path: OwnedObjectPath,
    /// How many descriptors there were in it.
    pub full: usize,
    /// How many there may be: `FileDescriptorStoreMax=`.
    pub most: usize,
}

impl Store {
    /// The store of `unit`, which was told to end, if it is known to start again at once.
    pub async fn of_restart(unit: &Unit) -> Option<Self> {
        timeout(LIMIT, Self::find(unit)).await.ok()?
    }

    async fn find(unit: &Unit) -> Option<Self> {
        let bus = Bus::open(unit.manager, LIMIT).await.ok()?;
        let mut rows = bus.systemd.list_units_by_names(&[&unit.name]).await.ok()?;
        let row = rows.pop()?;
        let mut store = Self {
            bus,
            path: row.path,
            full: 0,
            most: 0,
        };
        let setting: Option<String> = match &*row.job {
            "" => store.get("Restart").await,
            _ => None,
        };
        if !starts_again(&row.job, setting.as_deref()) {
            return None;
        }
        let most: u32 = store.get("FileDescriptorStoreMax").await?;
        store.most = usize::try_from(most).ok()?;
        store.full = store.stored().await?;
        Some(store)
    }

    /// How many more descriptors there is room for.
    pub fn room(&self) -> usize {
        self.most.saturating_sub(self.full)
    }

    /// How many descriptors are in it.
    pub async fn stored(&self) -> Option<usize> {
        let stored: u32 = self.get("NFileDescriptorStore").await?;
        usize::try_from(stored).ok()
    }

    async fn get<T: TryFrom<zbus::OwnedVariant>>(&self, property: &str) -> Option<T> {
        let property = self.bus.property(&self.path, "Service", property);
        timeout(LIMIT, property).await.ok()?.ok()
    }
}

/// Whether a unit with this job starts again when its process has ended well; `setting` is its
/// `Restart=`.
fn starts_again(job: &str, setting: Option<&str>) -> bool {
    match job {
        "restart" | "try-restart" => true,
        "" => matches!(setting, Some("always" | "on-success")),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_starts_again_by_its_job_or_else_by_its_setting() {
        for (job, setting, again) in [
            ("restart", "no", true),
            ("stop", "always", false),
            ("start", "always", false),
            ("", "on-failure", false),
            ("", "always", true),
            ("", "on-success", true),
        ] {
            assert_eq!(starts_again(job, Some(setting)), again, "{job} {again}");
        }
        assert!(!starts_again("", None));
    }
}
