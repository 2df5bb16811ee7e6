//! The access log: a line for each request.

use std::time::Duration;

use super::text::precise;
use crate::config::address::Peer;
use crate::systemd::message_id;

/// A request that has ended.
#[derive(Clone, Debug)]
pub struct Access {
    /// The client, as a trusted proxy tells it.
    pub client: Peer,
    /// The host that it asks for.
    pub host: String,
    /// How it asks.
    pub method: String,
    /// For what, without the query: secrets are in there.
    pub path: String,
    /// What a trusted proxy calls the request.
    pub request_id: Option<String>,
    /// The status of its response.
    pub status: u16,
    /// How long it has waited for the service.
    pub waited: Duration,
    /// From its head to the end of its response.
    pub took: Duration,
    /// Bytes to the target.
    pub up: u64,
    /// Bytes to the client.
    pub down: u64,
}

impl Access {
    /// A request of this client of which nothing more is known.
    pub fn of(client: Peer) -> Self {
        Self {
            client,
            host: "-".into(),
            method: "-".into(),
            path: "-".into(),
            request_id: None,
            status: 0,
            waited: Duration::ZERO,
            took: Duration::ZERO,
            up: 0,
            down: 0,
        }
    }

    /// Logs it.
    pub fn log(&self) {
        let Self {
            client,
            host,
            method,
            path,
            status,
            up,
            down,
            ..
        } = self;
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let waited = match self.waited {
            Duration::ZERO => String::new(),
            waited => format!(", {} of it waiting", precise(waited)),
        };
        tracing::info!(
            message_id = message_id::REQUEST,
            client = %client,
            host,
            method,
            path,
            status,
            wait_usec = micros(self.waited),
            usec = micros(self.took),
            bytes_up = up,
            bytes_down = down,
            request_id = self.request_id,
            "{client} {method} {host}{path}: {status} in {}{waited}",
            precise(self.took),
        );
    }
}
