//! Scenarios on a real systemd: each boots one of its own in namespaces and looks at it from the outside.
//!
//! They need root, so plain `cargo test` leaves them out and says so; `tests/run` runs them.
//! `rig.rs` is the machine, `asleep.rs` and `echo.rs` the services on it, and `reader.rs` somebody who does what a page
//! says; the other files are what their users see.

mod asleep;
mod echo;
#[path = "../docs/pages.rs"]
mod pages;
mod reader;
mod rig;

mod access;
mod check;
mod failure;
mod filters;
mod guide;
mod herd;
mod hooks;
mod interference;
mod itself;
mod kills;
mod memory;
mod observe;
mod operator;
mod outages;
mod package;
mod security;
mod setup;
mod sockets;
mod stories;
mod told;
mod upstream;
mod wake;
