//! What decides about a service. Pure: no clock, no socket, no bus, no text; knows std only.
//!
//! [`service::Service`] is the whole of it: an [`service::Input`] and the time go in,
//! [`service::Effect`]s come out. [`lifecycle`] holds its states, [`gate`] the rules by which
//! connections come and go without asking it.

pub mod gate;
pub mod lifecycle;
pub mod service;
pub mod wake_limiter;
