//! What a test takes where it does not matter.

use super::busy::{Busy, DirectConnections};
use super::*;

impl Default for UdpSettings {
    fn default() -> Self {
        Self {
            wake: UdpWake::Any,
            idle_timeout: span::parse(Self::IDLE_TIMEOUT).unwrap(),
        }
    }
}

impl Default for Liveness {
    fn default() -> Self {
        let read = |text| span::parse(text).expect("the defaults are spans");
        Self {
            idle_timeout: read(Self::IDLE_TIMEOUT),
            keepalive_time: read(Self::KEEPALIVE_TIME),
            keepalive_interval: read(Self::KEEPALIVE_INTERVAL),
            keepalive_probes: Self::KEEPALIVE_PROBES,
            user_timeout: read(Self::USER_TIMEOUT),
        }
    }
}

impl Default for Busy {
    fn default() -> Self {
        Self {
            direct_connections: DirectConnections::Count,
            hook: None,
            cpu: None,
            io: None,
            net: None,
            limit: Duration::MAX,
        }
    }
}
