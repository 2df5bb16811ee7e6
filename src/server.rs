//! The process: what there is once, whatever the number of services.

pub mod accept;
pub mod limits;
pub mod unit_lock;
pub mod workers;
