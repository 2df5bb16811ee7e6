//! What decides about a service. Pure: no clock, no socket, no bus, nothing of ours but plain types.

pub mod lifecycle;
pub mod wake_limiter;
