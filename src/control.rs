//! The control socket of an instance, which speaks varlink (<https://varlink.org>): what goes over it,
//! and its client.
//!
//! By hand, and not with a library: messages of more than a few kilobytes are refused, and what was read
//! of a connection goes to the next process with it.

pub mod client;
pub mod interface;
pub mod message;

use std::path::{Path, PathBuf};

/// The folder of the control sockets, below the one of the manager's sockets.
const FOLDER: &str = "wakeport.control";

/// The template of the socket unit.
pub const UNIT: &str = "wakeport-control@";

/// The control socket of the instance called `stem`, where the manager has its sockets in `runtime`.
pub fn path(runtime: &Path, stem: &str) -> PathBuf {
    runtime.join(FOLDER).join(stem)
}
