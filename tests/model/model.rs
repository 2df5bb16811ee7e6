//! Looks at everything that can happen around wakeport's core: a small world of clients, the
//! kernel's backlog, gates, systemd, an administrator, a bus and a process is taken through every
//! order of events there is, with the real [`core::service::Service`] and [`core::gate::Word`] in
//! the middle. `docs/internals/proof.md` says what is checked, within which bounds, and what is not.
//!
//! - `world.rs` is everything there is; `step.rs` says what can happen next;
//! - `effects.rs` tells the core of it, and carries out what the core says; `orders.rs` is the
//!   backend below;
//! - `defects.rs` distorts what passes between core and world, to see whether that is found;
//! - `check.rs` visits the states and follows the runs that never end;
//! - `tests.rs` says how large the world is; `walk.rs` goes far instead of everywhere.

mod check;
mod defects;
mod effects;
mod orders;
mod step;
mod tests;
mod walk;
mod world;

use wakeport_model::core;
