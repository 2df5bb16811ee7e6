//! Who a client is when a load balancer stands between it and us: the PROXY header that comes
//! first, read to its last byte and no further.

use std::io;
use std::sync::{Arc, Once};
use std::time::Duration;

use tokio::time::timeout;

use crate::config::address::Peer;
use crate::net::proxy_header::{self, Origin};
use crate::net::stream::AsyncStream as Stream;
use crate::service::Permit;

/// Where clients are introduced.
#[derive(Clone, Debug)]
pub(super) struct ProxyHeaderReader {
    /// Whether it was said aloud that an introduction was missing.
    complained: Arc<Once>,
}

/// What came of waiting for an introduction.
pub(super) enum HeaderOutcome {
    /// On whose behalf the client comes; `None` if it is who it seems to be.
    Made(Option<Origin>),
    /// It has left, and wanted nothing.
    Left,
    /// Whoever it is, it does not come by the load balancer.
    Missing,
}

/// A balancer sends the header as soon as it has connected. The specification wants 3 s at least,
/// for a packet that is lost.
const LIMIT: Duration = Duration::from_secs(5);

impl ProxyHeaderReader {
    pub(super) fn new() -> Self {
        Self {
            complained: Arc::new(Once::new()),
        }
    }

    /// Waits for the introduction.
    pub(super) async fn receive(&self, client: &Stream, permit: &Permit) -> HeaderOutcome {
        let peer = permit.peer();
        let late = || Err(io::Error::other("no PROXY header came in time"));
        let header = timeout(LIMIT, take_header(client)).await;
        match header.unwrap_or_else(|_| late()) {
            Ok(origin) if is_for_somebody(origin, peer) => HeaderOutcome::Made(Some(origin)),
            // Perhaps only to see whether we are there: then no more is said, and nobody is woken
            // or kept awake.
            Ok(_) => match timeout(LIMIT, client.wait_first_byte()).await {
                Ok(false) => HeaderOutcome::Left,
                Ok(true) | Err(_) => HeaderOutcome::Made(None),
            },
            Err(error) if error.kind() == io::ErrorKind::Other => {
                self.complain(permit, &error);
                HeaderOutcome::Missing
            }
            Err(_) => HeaderOutcome::Left,
        }
    }

    /// Loud the first time only: whoever can reach the port can make us say it.
    fn complain(&self, permit: &Permit, why: &io::Error) {
        let (listener, client) = (permit.listener(), permit.peer());
        tracing::debug!(client = %client, "resetting a client of `{listener}`: {why}");
        self.complained.call_once(|| {
            tracing::warn!(
                client = %client,
                "{client} was reset: {why}; with `--accept-proxy` only the load balancer may \
                 connect to `{listener}` (said once; from now on at log level debug)"
            );
        });
    }
}

async fn take_header(client: &Stream) -> io::Result<Origin> {
    let mut buffer = vec![0; proxy_header::LONGEST];
    let found = client.peek(&mut buffer, |seen| proxy_header::read(seen).transpose());
    let (origin, length) = found.await?.map_err(io::Error::other)?;
    client.read_exact(&mut buffer[..length]).await?;
    Ok(origin)
}

/// Whether whoever has connected, `peer`, does so on somebody else's behalf. With version 1 HAProxy
/// gives its own address when it does not.
fn is_for_somebody(origin: Origin, peer: Peer) -> bool {
    match origin {
        Origin::Tcp { client, .. } => peer != Peer::Tcp(client),
        Origin::Unix => true,
        Origin::Local | Origin::Unknown => false,
    }
}
