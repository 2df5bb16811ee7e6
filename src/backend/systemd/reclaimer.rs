//! Has a unit of root's reclaim the memory of what is frozen. Nothing waits for that: the unit itself ends when
//! what it reclaims from is thawed.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;

use super::monitor::Link;
use crate::backend::Failure;
use crate::config::{UnitName, slice};
use crate::util::lock::locked;

/// The order that is under way, and whether one has failed.
#[derive(Debug, Default)]
pub(super) struct Reclaimer {
    order: Mutex<JoinSet<()>>,
    has_failed: Arc<AtomicBool>,
}

impl Reclaimer {
    /// Has the memory of a slice reclaimed that was just frozen, instead of an order before this one. It is told
    /// once if that cannot be.
    pub(super) fn begin(&self, link: Arc<Link>, slice: &UnitName) {
        let (slice, has_failed) = (slice.to_string(), Arc::clone(&self.has_failed));
        let mut order = locked(&self.order);
        *order = JoinSet::new();
        order.spawn(async move {
            let Err(why) = start(&link, &slice).await else {
                return;
            };
            if !has_failed.swap(true, Ordering::Relaxed) {
                tracing::warn!("the memory of `{slice}` is not reclaimed: {why}");
            }
        });
    }
}

async fn start(link: &Link, slice: &str) -> Result<(), Failure> {
    let file = format!("/sys/fs/cgroup{}/memory.reclaim", slice::cgroup(slice));
    if !Path::new(&file).exists() {
        let needs =
            "that takes Linux 5.19 and the memory controller of control groups of version 2";
        return Err(Failure(format!(
            "there is no `{file}`; {needs}, `wakeport check` says what is missing"
        )));
    }
    match slice::reclaimer(slice) {
        Some(unit) => link.start(&unit).await,
        None => Err(Failure("it is a slice of a user's manager".into())),
    }
}
