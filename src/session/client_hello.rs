//! A TLS connection: which service it is for, by the name in its ClientHello. What was read is the first
//! that the service gets.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::time::timeout;

use super::http::close;
use super::{Arrival, Entry, Lead, Leads, Left, Reached, Route, Session, Way, lost};
use crate::config::address::Peer;
use crate::net::client_hello::{self, Alert, ClientHello, LONGEST};
use crate::net::relay::Interrupt;
use crate::net::relay::direction::with_buffer;
use crate::net::stream::AsyncStream;

/// How long a ClientHello may take, from the beginning of the connection: a client has it at hand.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an alert may take to be written.
const ALERT_TIMEOUT: Duration = Duration::from_secs(1);

/// Where it goes, and how far it is there.
type Found<P> = (Arc<Route>, Entry<P>);

/// Why it goes nowhere.
enum Ends {
    /// The client is told.
    Refused(Alert),
    /// The time is over.
    Late,
    As(Reached),
}

impl<P: Send + 'static> Session<P> {
    /// Finds out for which service the connection is. It has entered there, or waits, when this returns;
    /// `None` if it is over, or has paused.
    pub(super) async fn find_by_name(self) -> Option<Self> {
        let Self {
            route,
            client,
            mut arrival,
            entry,
            mut said,
        } = self;
        let Entry::Hello(pending, mut leads) = entry else {
            return None;
        };
        let peer = arrival.peer;
        let client = client.watch();
        let client = client.inspect_err(|error| lost(peer, error)).ok()?;
        let found = tokio::select! {
            biased;
            found = Box::pin(find(&route, &mut leads, &client, &mut arrival, &mut said)) => found,
            () = client.gone() => Err(Ends::As(Reached::ClientGone)),
            interrupt = route.context.abort.triggered() => Err(Ends::As(match interrupt {
                Interrupt::Reset => Reached::Rejected,
                Interrupt::Pause => Reached::Paused,
            })),
        };
        let peer = arrival.peer;
        let why = match found {
            Ok((route, entry)) => {
                let client = client.unwatch();
                let client = client.inspect_err(|error| lost(peer, error)).ok()?;
                // The service knows of it before it is pending no more.
                drop(pending);
                return Some(Self {
                    route,
                    client,
                    arrival,
                    entry,
                    said,
                });
            }
            Err(Ends::As(Reached::Paused)) => {
                Left::keep(route, client, arrival, Entry::Hello((), leads), said);
                return None;
            }
            Err(Ends::As(Reached::Rejected)) => {
                client.reset();
                return None;
            }
            Err(Ends::As(Reached::ClientGone | Reached::ClientIdle | Reached::Target(..))) => {
                "it has closed"
            }
            Err(Ends::Late) => "no ClientHello came in time",
            Err(Ends::Refused(alert)) => {
                let _ = timeout(ALERT_TIMEOUT, client.write_all(&alert.record())).await;
                close(&client).await;
                alert.why
            }
        };
        tracing::debug!(client = %peer, "{peer} is not served: {why}");
        None
    }
}

/// Reads what names the service, and enters there.
async fn find<P>(
    first: &Route,
    leads: &mut Leads,
    client: &AsyncStream,
    arrival: &mut Arrival,
    said: &mut Vec<u8>,
) -> Result<Found<P>, Ends> {
    if !arrival.identified {
        first.identify(client, arrival).await.map_err(Ends::As)?;
    }
    let hello = timeout(HELLO_TIMEOUT, receive(client, said)).await;
    let hello = hello.unwrap_or(Err(Ends::Late))?;
    loop {
        let entered = enter(&leads.look(), &hello, arrival.peer)?;
        if let Some(entered) = entered {
            return Ok(entered);
        }
        let released = leads.released().await;
        // The listener has gone.
        released.map_err(|_| Ends::As(Reached::Rejected))?;
    }
}

/// Reads the ClientHello, and what comes with it.
async fn receive(client: &AsyncStream, said: &mut Vec<u8>) -> Result<ClientHello, Ends> {
    loop {
        match client_hello::read(said) {
            Ok(Some(hello)) => return Ok(hello),
            Ok(None) => (),
            Err(alert) => return Err(Ends::Refused(alert)),
        }
        let read: io::Result<usize> = with_buffer(|buffer| {
            let read = client.try_read_all(&mut buffer[..LONGEST - said.len()])?;
            said.extend_from_slice(&buffer[..read]);
            Ok(read)
        });
        match read {
            Ok(1..) => (),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let ready = client.ready(Interest::READABLE).await;
                ready.map_err(|_| Ends::As(Reached::ClientGone))?;
            }
            Ok(0) | Err(_) => return Err(Ends::As(Reached::ClientGone)),
        }
    }
}

/// Enters where the name leads, while the gate is open, and waits there otherwise; `None` while it is not
/// known where it leads from now on.
fn enter<P>(lead: &Lead, hello: &ClientHello, peer: Peer) -> Result<Option<Found<P>>, Ends> {
    // One that names no host is for the service that has all.
    let name = hello.name.as_deref().unwrap_or_default();
    let route = match &lead.way {
        Some(Way::ByName(table)) => table.find(Some(name.as_bytes()), "/"),
        // Since a reload.
        Some(Way::Whole(route)) => Some(route),
        Some(Way::ByHost(_)) | None => None,
    };
    let route = route.ok_or_else(|| Ends::Refused(hello.unrecognized_name()))?;
    if lead.holds(route) {
        return Ok(None);
    }
    if !route.context.access.admits(peer) {
        route.entrance.denied(&route.listener, peer);
        return Err(Ends::As(Reached::Rejected));
    }
    Ok(Some((route.clone(), route.enter(peer))))
}
