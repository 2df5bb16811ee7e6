//! What is known of an instance, and how it is told: the record, its file, the metrics.

pub mod record;
pub mod state_file;
pub mod metrics;
pub mod scrape;
