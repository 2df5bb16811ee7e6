//! Our side of the service contract: notifications, the journal, the unit that we run in.

pub mod notify;
pub mod journal;
pub mod message_id;
pub mod unit;
