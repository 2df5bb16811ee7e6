//! Our side of the service contract: notifications, the journal, the unit that we run in; and the
//! client of the service manager's D-Bus interface.

pub mod dbus;
pub mod notify;
mod event;
pub mod journal;
pub mod message_id;
pub mod restart;
pub mod unit;
