//! Datagrams that are held until the service answers, of all flows of the process: they are limited, and
//! the oldest makes room, since clients repeat what was not answered.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use tokio::time::Instant;

use super::flow::Flow;
use crate::net::datagram::{Ecn, Segments};
use crate::util::lock::locked;

/// The most that is held in all, in bytes.
const MOST: usize = 4 << 20;
/// What each takes beside its bytes, or a little more.
const OVERHEAD: usize = 128;
/// The order is cleaned up when there are so many in it, and more than twice as many as are held.
const ORDER: usize = 1024;

/// What is held in all.
#[derive(Debug, Default)]
pub struct Holding {
    bytes: AtomicUsize,
    count: AtomicUsize,
    /// In the order in which they came, also those that are held no more.
    order: Mutex<VecDeque<(Weak<()>, Weak<Flow>)>>,
}

/// A datagram that is held.
#[derive(Debug)]
pub(super) struct Held {
    bytes: Box<[u8]>,
    ecn: Ecn,
    /// When it came.
    pub(super) at: Instant,
    token: Arc<()>,
    holding: Arc<Holding>,
}

impl Holding {
    /// Holds a datagram of a flow.
    pub(super) fn hold(self: &Arc<Self>, flow: &Arc<Flow>, datagram: &[u8], ecn: Ecn) -> Held {
        self.bytes
            .fetch_add(datagram.len() + OVERHEAD, Ordering::Relaxed);
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let token = Arc::new(());
        let mut order = locked(&self.order);
        if order.len() > ORDER.max(2 * count) {
            order.retain(|(token, _)| token.strong_count() > 0);
        }
        order.push_back((Arc::downgrade(&token), Arc::downgrade(flow)));
        Held {
            bytes: datagram.into(),
            ecn,
            at: Instant::now(),
            token,
            holding: self.clone(),
        }
    }

    /// Drops the oldest ones until the others are not too many. No flow is locked by the caller.
    pub(super) fn limit(&self) {
        while self.bytes.load(Ordering::Relaxed) > MOST {
            let Some((token, flow)) = locked(&self.order).pop_front() else {
                return;
            };
            if let (Some(token), Some(flow)) = (token.upgrade(), flow.upgrade()) {
                flow.drop_held(&token);
            }
        }
    }
}

impl Held {
    /// How many bytes it has.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it is the one with this token.
    pub(super) fn is(&self, token: &Arc<()>) -> bool {
        Arc::ptr_eq(&self.token, token)
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The datagram.
    pub(super) fn datagram(&self) -> Segments<'_> {
        Segments::one(&self.bytes, self.ecn)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = self.bytes.len() + OVERHEAD;
        self.holding.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.holding.count.fetch_sub(1, Ordering::Relaxed);
    }
}
