//! The API server of Kubernetes: its client, and what can go wrong with a call.

pub mod api;
pub mod trouble;
