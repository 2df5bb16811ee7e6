//! The world around the lifecycle. Each file says which part of the real thing it stands for.

pub(crate) mod driver;
pub(crate) mod orders;
pub(crate) mod step;
pub(crate) mod world;
