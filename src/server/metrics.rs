//! The metrics of this process alone.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::control::Controlled;
use crate::net::listen::Listener;
use crate::report::{metrics, scrape, state_file};

/// Serves those of `services` as long as the process lives.
pub(super) async fn serve(listener: Listener, services: watch::Receiver<Vec<Controlled>>) {
    let source: scrape::Source = Arc::new(move || {
        let services = services.borrow().clone();
        Box::pin(async move {
            let mut instances = Vec::new();
            for service in services {
                let alive = true;
                let record = service.handle.record().await;
                instances.extend(record.map(|record| metrics::Instance { record, alive }));
            }
            metrics::page(&instances, 0, state_file::moment())
        })
    });
    if let Err(error) = scrape::serve(vec![listener], Duration::MAX, source).await {
        tracing::warn!("cannot serve the metrics: {error}");
    }
}
