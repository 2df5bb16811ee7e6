//! The `MESSAGE_ID=` of each kind of change (systemd.journal-fields(7)). They never change their
//! meaning, since monitoring relies on them.

/// A client wakes the service.
pub const WAKING: &str = "e726da7a13f24d9e89c70f6d760e5235";
/// The service is up and clients are admitted.
pub const AWAKE: &str = "e000bedd8e01442e8ee8efddcd1fef92";
/// The last client has left, or a running service without clients was found.
pub const COOLING: &str = "334f2ba325dd48fca988c16f4efcf468";
/// Work that is not that of a client keeps the service awake.
pub const KEPT_AWAKE: &str = "40360ffe17cd4c6d951140a9e06b2291";
/// The service is frozen.
pub const FROZEN: &str = "68def02ba81449b3a8fc91e5d7241133";
/// The service is being thawed.
pub const THAWING: &str = "e5f71e59b158440e86d03774204ffd44";
/// The service was not frozen.
pub const FREEZE_FAILED: &str = "86a5dc2e352b4d9d9630d3c84fa1fad9";
/// The service could not be thawed.
pub const THAW_FAILED: &str = "1b0c637e1bb74d9aa35368e63209676d";
/// The service is being stopped.
pub const STOPPING: &str = "e6f5097570474a83be68ff04e836dfbc";
/// The service is down.
pub const ASLEEP: &str = "cdec4603f1d94a2eb12e8e4afa4b56a9";
/// The service could not be started, or did not answer.
pub const WAKE_FAILED: &str = "4834a34d6ece4b81b04e457b2c3d3b4e";
/// The service is not woken for now: it was too often.
pub const WOKEN_TOO_OFTEN: &str = "294b1bb18ba74134b742ce3eb02f2bf6";
/// The service could not be stopped.
pub const SLEEP_FAILED: &str = "3195398212f24132a257674e8cc9597a";
/// A request has ended, in the access log.
pub const REQUEST: &str = "44df43a9a8ce4314954cbb42ab1cee2b";
/// The process exits, as it is idle.
pub const EXITING: &str = "90358c94a3624df8b3310cf3c8219c75";
/// The process was told to stop, and drains.
pub const DRAINING: &str = "9d8c6fd7ac514493910758794eb1537a";
/// Connections are left to the next process.
pub const HANDED_OVER: &str = "241715f63b864b6dbad78d3854180140";
/// Connections of the process before go on.
pub const TAKEN_OVER: &str = "6174af5d6cae49efba77406244b6f5c5";
/// Connections cannot go on in the next process.
pub const HANDOVER_FAILED: &str = "17c5232d19d34119ba9e0b874839da15";
