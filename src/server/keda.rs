//! What KEDA asks of the services of this process, and of those in front of the same workloads.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::control::Controlled;
use crate::net::listen::Listener;
use crate::report::keda::{self, Load, Scaler};
use crate::report::record::RecordedState;
use crate::util::lock::locked;
use crate::util::text::encoded;

/// How long another wakeport may take to say how many clients it has.
const PEER_TIMEOUT: Duration = Duration::from_millis(500);

/// More than it says.
const LONGEST: u64 = 64 * 1024;

/// What knows of all services.
#[derive(Clone)]
struct Services {
    all: watch::Receiver<Vec<Controlled>>,
    /// Where other wakeports are asked: they have the port that we have.
    port: Option<u16>,
    /// What others have said last, by their address and the service.
    known: Arc<Mutex<HashMap<(IpAddr, String), Load>>>,
}

/// Serves KEDA as long as the process lives; connections from before the cancellation of `ending` are in `tasks`.
pub(super) async fn serve(
    listener: Listener,
    services: watch::Receiver<Vec<Controlled>>,
    ending: CancellationToken,
    tasks: TaskTracker,
) {
    let services = Services {
        all: services,
        port: listener.address.port(),
        known: Arc::default(),
    };
    if let Err(error) = keda::serve(listener, services, ending, tasks).await {
        tracing::warn!("cannot serve KEDA: {error}");
    }
}

impl Services {
    /// The service with this name, or the only one.
    fn called(&self, name: &str) -> Result<Controlled, String> {
        let all = self.all.borrow();
        let names = || {
            let names: Vec<_> = all.iter().map(|service| service.name.as_str()).collect();
            names.join("`, `")
        };
        match (&all[..], name) {
            ([only], "") => Ok(only.clone()),
            (_, "") => Err(format!(
                "this wakeport has several services; add `service` to the trigger's metadata, one of `{}`",
                names()
            )),
            (all, name) => {
                let found = all.iter().find(|service| service.name == name);
                found.cloned().ok_or_else(|| {
                    format!(
                        "there is no service `{name}` here; those that there are: `{}`",
                        names()
                    )
                })
            }
        }
    }

    /// What the others in front of the same workloads have. One that is silent has what it had last.
    async fn of_others(&self, addresses: Vec<IpAddr>, service: &str) -> Vec<Load> {
        let Some(port) = self.port else {
            return Vec::new();
        };
        let mut asked = JoinSet::new();
        for address in &addresses {
            let (address, service) = (*address, service.to_owned());
            asked.spawn(async move {
                let place = SocketAddr::new(address, port);
                let said = timeout(PEER_TIMEOUT, ask(place, &service))
                    .await
                    .ok()
                    .flatten();
                ((address, service), said)
            });
        }
        let mut loads = Vec::new();
        while let Some(asked) = asked.join_next().await {
            let Ok((of, said)) = asked else { continue };
            let mut known = locked(&self.known);
            match said {
                Some(said) => _ = known.insert(of, said),
                None => loads.extend(known.get(&of)),
            }
            loads.extend(said);
        }
        locked(&self.known).retain(|(address, of), _| of != service || addresses.contains(address));
        loads
    }
}

impl Scaler for Services {
    async fn load(&self, name: &str, whole: bool) -> Result<Load, String> {
        let service = self.called(name)?;
        let ended = || format!("service `{name}` ends");
        let is_down = service.handle.is_down().await;
        let backend = service.handle.backend().await.ok_or_else(ended)?;
        let record = service.handle.record().await.ok_or_else(ended)?;
        let clients = record.clients;
        let requests = record.http.map(|http| {
            let hosts = http.hosts.values();
            hosts.map(|of| of.active + of.waiting).sum()
        });
        let mut load = Load {
            is_active: !is_down || clients.waiting > 0 || backend.is_claimed_by_others(),
            is_held: clients.waiting > 0 && record.state == RecordedState::Waking,
            waiting: clients.waiting,
            active: clients.active,
            requests,
        };
        if whole {
            for other in self.of_others(backend.others().await, name).await {
                load.waiting = load.waiting.saturating_add(other.waiting);
                load.active = load.active.saturating_add(other.active);
                let requests = other.requests.unwrap_or_default();
                load.requests = load.requests.map(|ours| ours.saturating_add(requests));
            }
        }
        Ok(load)
    }

    async fn rises(&self, name: &str) {
        if let Ok(service) = self.called(name) {
            let mut idle = service.idle;
            // What is so already is known.
            idle.mark_unchanged();
            while idle.changed().await.is_ok() {
                if !*idle.borrow_and_update() {
                    return;
                }
            }
        }
        std::future::pending::<()>().await;
    }
}

/// What another wakeport has of a service.
async fn ask(place: SocketAddr, service: &str) -> Option<Load> {
    let mut stream = TcpStream::connect(place).await.ok()?;
    let service = encoded(service);
    let head = format!("GET /load?service={service} HTTP/1.1\r\nHost: {place}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut text = Vec::new();
    stream.take(LONGEST).read_to_end(&mut text).await.ok()?;
    let end = text.windows(4).position(|four| four == b"\r\n\r\n")?;
    serde_json::from_slice(&text[end + 4..]).ok()
}
