//! Helpers that any part may use, each with one owner; they know nothing of ours.

pub mod backoff;
pub mod file;
pub mod lock;
pub mod per_thread;
pub mod proc;
pub mod text;
