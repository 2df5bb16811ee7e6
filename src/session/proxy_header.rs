//! The PROXY header by which a load balancer tells the client's address, read to its last byte and no
//! further.

use std::io;
use std::sync::{Arc, Once};
use std::time::Duration;

use tokio::time::timeout;

use super::Arrival;
use crate::config::address::Peer;
use crate::net::proxy_header::{self, Origin};
use crate::net::stream::AsyncStream;

/// Reads headers.
#[derive(Clone, Debug)]
pub(super) struct ProxyHeaderReader {
    /// A missing header was logged as a warning.
    warned: Arc<Once>,
}

/// What has come in place of a header.
pub(super) enum HeaderOutcome {
    /// The client that the header names; `None` if the connection is the balancer's own.
    Read(Option<Origin>),
    /// The connection was closed without a byte.
    Left,
    /// No header: the connection does not come from a load balancer.
    Missing,
}

/// A balancer sends the header as soon as it has connected. The specification wants 3 s at least,
/// for a packet that is lost.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

impl ProxyHeaderReader {
    pub(super) fn new() -> Self {
        Self {
            warned: Arc::new(Once::new()),
        }
    }

    /// Waits for the header, unless it was read already.
    pub(super) async fn receive(
        &self,
        client: &AsyncStream,
        listener: &str,
        arrival: &mut Arrival,
    ) -> HeaderOutcome {
        let peer = arrival.peer;
        let header = match arrival.header {
            Some(origin) => Ok(origin),
            None => {
                let late = || Err(io::Error::other("no PROXY header came in time"));
                let header = timeout(HEADER_TIMEOUT, take_header(client)).await;
                header.unwrap_or_else(|_| late())
            }
        };
        arrival.header = header.as_ref().ok().copied();
        match header {
            Ok(origin) if names_a_client(origin, peer) => HeaderOutcome::Read(Some(origin)),
            // Perhaps a health check: then nothing more is sent, and it neither wakes the service nor
            // keeps it awake.
            Ok(_) => match timeout(HEADER_TIMEOUT, client.wait_first_byte()).await {
                Ok(false) => HeaderOutcome::Left,
                Ok(true) | Err(_) => HeaderOutcome::Read(None),
            },
            Err(error) if error.kind() == io::ErrorKind::Other => {
                self.warn(listener, peer, &error);
                HeaderOutcome::Missing
            }
            Err(_) => HeaderOutcome::Left,
        }
    }

    /// Loud the first time only: every client that can reach the port can cause this line.
    fn warn(&self, listener: &str, client: Peer, why: &io::Error) {
        tracing::debug!(client = %client, "resetting a connection to `{listener}`: {why}");
        self.warned.call_once(|| {
            tracing::warn!(
                client = %client,
                "connection from {client} reset: {why}; with `--accept-proxy` only the load \
                 balancer may connect to `{listener}` (logged once; from now on at log level debug)"
            );
        });
    }
}

async fn take_header(client: &AsyncStream) -> io::Result<Origin> {
    let mut buffer = vec![0; proxy_header::LONGEST];
    let found = client.peek(&mut buffer, |seen| proxy_header::read(seen).transpose());
    let (origin, length) = found.await?.map_err(io::Error::other)?;
    client.read_exact(&mut buffer[..length]).await?;
    Ok(origin)
}

/// Whether the header names another client than `peer`, which has connected. For its own health
/// checks HAProxy gives its own address in version 1.
fn names_a_client(origin: Origin, peer: Peer) -> bool {
    match origin {
        Origin::Tcp { client, .. } => peer != Peer::Tcp(client),
        Origin::Unix => true,
        Origin::Local | Origin::Unknown => false,
    }
}
