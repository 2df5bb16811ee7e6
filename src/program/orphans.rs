//! The init process of a container, process 1, is the parent of all orphans in it. One that has ended
//! and is not waited for stays a zombie, and is there for a program that waits with `kill -0`.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, waitid, waitpid};
use tokio::signal::unix::{SignalKind, signal};

use crate::util::lock::locked;
use crate::util::proc;

/// The programs that are waited for where they were started.
#[derive(Clone, Debug, Default)]
pub(super) struct Ours(Arc<Mutex<HashSet<Pid>>>);

/// One of them, as long as it is waited for.
#[derive(Debug)]
pub(super) struct Started(Ours, Pid);

impl Ours {
    pub(super) fn add(&self, pid: Pid) -> Started {
        locked(&self.0).insert(pid);
        Started(self.clone(), pid)
    }

    /// Waits for all others that end. Returns at once where they are not our children.
    pub(super) async fn reap_others(&self) {
        let us = std::process::id();
        if us != 1 {
            return;
        }
        let mut ended = match signal(SignalKind::child()) {
            Ok(ended) => ended,
            Err(error) => return tracing::warn!("cannot wait for orphans: {error}"),
        };
        loop {
            let peek = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            if let Ok(Some(_)) = waitid(WaitId::All, peek) {
                for pid in proc::zombies_of(us) {
                    let pid = Pid::from_raw(pid.cast_signed());
                    if pid.is_some_and(|pid| !locked(&self.0).contains(&pid)) {
                        let _ = waitpid(pid, WaitOptions::NOHANG);
                    }
                }
            }
            if ended.recv().await.is_none() {
                return;
            }
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        locked(&self.0.0).remove(&self.1);
    }
}
