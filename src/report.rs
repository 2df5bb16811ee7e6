//! The record of an instance, its file, and the metrics.

pub mod access;
pub mod record;
pub mod state_file;
pub mod metrics;
pub mod scrape;
#[cfg(feature = "kubernetes")]
pub mod keda;
pub mod requests;
pub mod recorder;
pub mod log;
pub mod status;
pub mod text;
