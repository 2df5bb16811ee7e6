//! Helpers that any part may use, each with one owner. They know no more of ours than what an
//! address is.

pub mod backoff;
pub mod file;
pub mod proc;
pub mod text;
