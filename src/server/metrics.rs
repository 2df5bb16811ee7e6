//! The metrics of this process alone, and what a cluster asks of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::control::Controlled;
use crate::net::listen::Listener;
use crate::report::record::Record;
use crate::report::scrape::{Answers, Pages, Question, Source};
use crate::report::{metrics, scrape, state_file};

/// How long a service may take to answer before the process counts as stuck.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// Serves those of `services` as long as the process lives. It is ready while it accepts connections, and is not
/// `ending`: whether anything can be woken is another question, and an outage of that must not take proxies out.
pub(super) async fn serve(
    listener: Listener,
    services: watch::Receiver<Vec<Controlled>>,
    ending: CancellationToken,
) {
    let answers = answers(services.clone(), ending);
    let metrics: Source = Arc::new(move || {
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
    let pages = Pages {
        metrics,
        answers: Some(answers),
    };
    if let Err(error) = scrape::serve(vec![listener], Duration::MAX, pages).await {
        tracing::warn!("cannot serve the metrics: {error}");
    }
}

fn answers(services: watch::Receiver<Vec<Controlled>>, ending: CancellationToken) -> Answers {
    Arc::new(move |question| {
        let services = services.borrow().clone();
        let ending = ending.is_cancelled();
        Box::pin(async move {
            match (question, ending) {
                (Question::Ready, true) => (false, "wakeport: ending\n".into()),
                (Question::Ready, false) => (true, "ok\n".into()),
                (Question::Live, _) => match timeout(ANSWER_TIMEOUT, records(services)).await {
                    Ok(_) => (true, "ok\n".into()),
                    Err(_) => (false, "wakeport: a service does not answer\n".into()),
                },
                (Question::Load, _) => (true, load(&records(services).await)),
            }
        })
    })
}

async fn records(services: Vec<Controlled>) -> Vec<Record> {
    let mut records = Vec::new();
    for service in services {
        records.extend(service.handle.record().await);
    }
    records
}

/// The clients of all services, as JSON.
fn load(records: &[Record]) -> String {
    let waiting: u64 = records.iter().map(|record| record.clients.waiting).sum();
    let active: u64 = records.iter().map(|record| record.clients.active).sum();
    let connections = waiting + active;
    format!("{{\"waiting\":{waiting},\"active\":{active},\"connections\":{connections}}}\n")
}
