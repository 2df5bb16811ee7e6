//! The process: what there is once, whatever the number of services.

pub mod accept;
pub mod limits;
pub mod workers;
