//! Scenarios on a real systemd: each boots one of its own in namespaces and looks at it from the outside.
//!
//! They need root, so plain `cargo test` leaves them out and says so; `tests/run` runs them.
//! `rig.rs` is the machine; the other files are what its users see.

mod rig;

mod itself;
