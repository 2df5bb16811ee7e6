//! What holds a service awake without being a client: a permit, and a reason.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tokio_util::sync::CancellationToken;

use super::handle::{Handle, Permit};
use crate::util::lock::locked;

/// All holds of a service.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<BTreeMap<u64, (String, CancellationToken)>>);

impl Holds {
    /// Why it is held, for each of them, the first one first.
    pub(super) fn reasons(&self) -> Vec<String> {
        let holds = locked(&self.0);
        holds.values().map(|(reason, _)| reason.clone()).collect()
    }

    /// Ends all.
    pub(super) fn end(&self) {
        let holds = locked(&self.0);
        holds.values().for_each(|(_, ended)| ended.cancel());
    }
}

/// Holds a service awake until it is dropped.
#[derive(Debug)]
pub struct Hold {
    number: u64,
    service: Handle,
    ended: CancellationToken,
    /// Dropped after it is no hold any more.
    _permit: Permit,
}

impl Permit {
    /// The same as a hold, for this reason.
    pub fn holds(self, reason: String) -> Hold {
        let service = self.service().clone();
        let (number, ended) = (service.unique(), CancellationToken::new());
        let hold = (reason, ended.clone());
        locked(&service.holds().0).insert(number, hold);
        service.look();
        Hold {
            number,
            service,
            ended,
            _permit: self,
        }
    }
}

impl Hold {
    /// Waits until the service is stopped all the same.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        locked(&self.service.holds().0).remove(&self.number);
        self.service.look();
    }
}
