//! Looks at everything that can happen around wakeport's lifecycle: a small world of clients, the
//! kernel's backlog, systemd, an administrator, a bus and wakeport itself is taken through every
//! order of events there is, with the real [`wakeport::core::lifecycle`] in the middle. `docs/internals/proof.md`
//! says what is checked, within which bounds, and what is not.
//!
//! - `model.rs` is the world, also for the tests of the real driver, which is played the same
//!   events (`src/service/tests/replay.rs`);
//! - `check.rs` visits the states and follows the runs that never end;
//! - `tests.rs` says how large the world is, and makes sure that defects are found.
#![cfg(test)]

use wakeport::core;

mod check;
// As the driver's tests have it: its own modules are beside it.
#[path = "model.rs"]
mod model;
mod tests;
