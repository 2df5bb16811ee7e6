//! Bytes both ways: with back-pressure, each half-close passed on, each reset passed on.

mod copy;

use std::io;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::stream::Stream;

/// One end of a relay.
#[derive(Debug)]
struct Side<'a> {
    stream: &'a Stream,
    /// A write has failed. The kernel tells of a reset only once: whoever reads after that finds
    /// an end that looks like any other.
    broken: AtomicBool,
}

/// How many bytes went each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// From the client to the target.
    pub up: u64,
    /// From the target to the client.
    pub down: u64,
}

/// How one direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The source said that no more will come, and the sink was told.
    Finished,
    /// The source is broken; all that it had sent was passed on.
    SourceBroken,
    /// The sink is broken; nobody is there to pass anything to.
    SinkBroken,
}

/// How long bytes that were passed on may take to leave before a reset overtakes them.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Both sides said that no more would come.
    Closed,
    /// One side broke off; the other is to be reset.
    Broken,
}

/// Relays until both directions have ended. `said` is what the target has said already.
/// Counts in `totals` as it goes, so that whoever drops this knows how far it came.
pub async fn relay(client: &Stream, target: &Stream, said: &[u8], totals: &mut Totals) -> Ended {
    let ends = {
        let (here, there) = (Side::new(client), Side::new(target));
        let up = copy::direction(&here, &there, &[], &mut totals.up);
        let down = copy::direction(&there, &here, said, &mut totals.down);
        both(up, down).await
    };
    let survivor = match ends {
        (End::Finished, End::Finished) => return Ended::Closed,
        (End::SourceBroken, _) | (_, End::SinkBroken) => target,
        (End::SinkBroken, _) | (_, End::SourceBroken) => client,
    };
    // A reset drops what is not sent yet; without us it would have been on its way.
    survivor.flush(FLUSH_LIMIT).await;
    Ended::Broken
}

impl<'a> Side<'a> {
    fn new(stream: &'a Stream) -> Self {
        Self {
            stream,
            broken: AtomicBool::new(false),
        }
    }
}

/// Waits for both directions. When a source breaks there is nothing left to pass on, either way.
/// When a sink breaks, its other direction may still hold what it had sent before.
async fn both(up: impl Future<Output = End>, down: impl Future<Output = End>) -> (End, End) {
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    tokio::select! {
        end = &mut up => match end {
            End::SourceBroken => (end, End::SinkBroken),
            End::Finished | End::SinkBroken => (end, down.await),
        },
        end = &mut down => match end {
            End::SourceBroken => (End::SinkBroken, end),
            End::Finished | End::SinkBroken => (up.await, end),
        },
    }
}

/// Whether an error only says that there is nothing to do right now.
fn is_would_block(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
