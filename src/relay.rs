//! Bytes both ways: with back-pressure, each half-close passed on, each reset passed on.

mod direction;
mod pipe;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::stream::Stream;

/// One side, as both directions see it.
#[derive(Debug)]
struct Side<'a> {
    stream: &'a Stream,
    /// It is known to be broken. The kernel tells of a reset only once: whoever reads after that
    /// finds an end that looks like any other.
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
    SourceBroken(Cause),
    /// The sink is broken; nobody is there to pass anything to.
    SinkBroken(Cause),
}

/// Why a connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The peer broke it off.
    Reset,
    /// The peer is not there any more: keepalive or a retransmission had no answer.
    Vanished,
}

impl From<&io::Error> for Cause {
    fn from(error: &io::Error) -> Self {
        let gone = [io::ErrorKind::TimedOut, io::ErrorKind::HostUnreachable];
        if gone.contains(&error.kind()) {
            Self::Vanished
        } else {
            Self::Reset
        }
    }
}

/// How long bytes that were passed on may take to leave before a reset overtakes them.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Both sides said that no more would come.
    Closed,
    /// No byte moved for as long as is allowed.
    Idle,
    /// One side broke off; the other is to be reset.
    Reset,
    /// One side is not there any more; the other is to be reset.
    Vanished,
}

/// Relays until both directions have ended, or no byte has moved for `idle`. `said` is what the
/// target has said already. Counts in `totals` as it goes, so that whoever drops this knows how
/// far it came.
pub async fn relay(
    client: &Stream,
    target: &Stream,
    said: &[u8],
    idle: Duration,
    totals: &mut Totals,
) -> Ended {
    let pulse = (idle < Duration::MAX).then(Pulse::new);
    let ends = {
        let (client, target) = (Side::new(client), Side::new(target));
        let up = direction::direction(&client, &target, &[], pulse.as_ref(), &mut totals.up);
        let down = direction::direction(&target, &client, said, pulse.as_ref(), &mut totals.down);
        tokio::select! {
            ends = both(up, down) => ends,
            () = Pulse::stopped(pulse.as_ref(), idle) => return Ended::Idle,
        }
    };
    let (survivor, cause) = match ends {
        (End::Finished, End::Finished) => return Ended::Closed,
        (_, End::SinkBroken(cause)) | (End::SourceBroken(cause), _) => (target, cause),
        (End::SinkBroken(cause), _) | (_, End::SourceBroken(cause)) => (client, cause),
    };
    // A reset drops what is not sent yet; without us it would have been on its way.
    survivor.flush(FLUSH_LIMIT).await;
    match cause {
        Cause::Reset => Ended::Reset,
        Cause::Vanished => Ended::Vanished,
    }
}

/// Waits for both directions. When a source breaks there is nothing left to pass on, either way.
/// When a sink breaks, its other direction may still hold what it had sent before.
async fn both(up: impl Future<Output = End>, down: impl Future<Output = End>) -> (End, End) {
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    tokio::select! {
        end = &mut up => match end {
            End::SourceBroken(cause) => (end, End::SinkBroken(cause)),
            End::Finished | End::SinkBroken(_) => (end, down.await),
        },
        end = &mut down => match end {
            End::SourceBroken(cause) => (End::SinkBroken(cause), end),
            End::Finished | End::SinkBroken(_) => (up.await, end),
        },
    }
}

impl<'a> Side<'a> {
    fn new(stream: &'a Stream) -> Self {
        Self {
            stream,
            broken: AtomicBool::new(false),
        }
    }
}

/// When the last byte moved.
#[derive(Debug)]
struct Pulse {
    began: Instant,
    last: AtomicU64,
}

impl Pulse {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    /// A byte has moved.
    fn beat(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    /// Waits until no byte has moved for `limit`; for ever if nobody counts.
    async fn stopped(pulse: Option<&Self>, limit: Duration) {
        let Some(pulse) = pulse else {
            return std::future::pending().await;
        };
        loop {
            let last = pulse.last.load(Ordering::Relaxed);
            match pulse
                .began
                .checked_add(Duration::from_millis(last).saturating_add(limit))
            {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
            if pulse.last.load(Ordering::Relaxed) == last {
                return;
            }
        }
    }
}

/// Whether an error only says that there is nothing to do right now.
fn is_would_block(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
