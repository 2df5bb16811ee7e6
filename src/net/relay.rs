//! Bytes both ways: with back-pressure, each half-close passed on, each reset passed on.

pub(crate) mod direction;
mod pipe;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, Sleep, sleep};

use crate::net::stream::AsyncStream;
use direction::Direction;

/// How one direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The source half-closed, and so was the sink.
    Finished,
    /// The source is broken; all that it had sent was passed on.
    SourceBroken(Cause),
    /// The sink is broken.
    SinkBroken(Cause),
    /// There was no memory to write with; the sink itself is well.
    Failed,
}

/// Why a connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// By a reset of the peer.
    Reset,
    /// The peer timed out: keepalive or a retransmission had no answer.
    TimedOut,
}

impl From<&io::Error> for Cause {
    fn from(error: &io::Error) -> Self {
        let gone = [io::ErrorKind::TimedOut, io::ErrorKind::HostUnreachable];
        if gone.contains(&error.kind()) {
            Self::TimedOut
        } else {
            Self::Reset
        }
    }
}

/// How long bytes that were passed on may take to leave before a reset overtakes them.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// What leaves at once: ten segments (RFC 6928) of a network whose packets are small.
const FIRST_FLIGHT: u64 = 8 * 1024;

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Both sides half-closed.
    Closed,
    /// No byte moved for the idle timeout.
    Idle,
    /// One side reset; the other is to be reset.
    Reset,
    /// One side timed out; the other is to be reset.
    Vanished,
}

/// A connection whose bytes do not move just now: what has to be known to go on where it was left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Paused {
    /// From the client to the target.
    pub up: Way,
    /// From the target to the client.
    pub down: Way,
    /// How long no byte had moved.
    pub idle: Duration,
}

/// One of its directions.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// What was read and could not be written yet.
    pub rest: Vec<u8>,
    /// How it has ended, if it has.
    pub end: Option<End>,
    /// Bytes were still unsent when the sink was half-closed.
    pub has_unsent: bool,
}

impl Paused {
    /// At the beginning; `up` and `down` were read from the client and the target already.
    pub fn after(up: Vec<u8>, down: Vec<u8>) -> Option<Box<Self>> {
        if up.is_empty() && down.is_empty() {
            return None;
        }
        let mut paused = Box::<Self>::default();
        (paused.up.rest, paused.down.rest) = (up, down);
        Some(paused)
    }
}

/// What a relay is to do when it is not to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// To end, as if one side had reset.
    Reset,
    /// To stop where it is.
    Pause,
}

/// Relays until both directions have ended, no byte has moved for `idle`, or `interrupt` is ready: then
/// how far it is, if it is to pause. Goes on where it was paused. Counts the bytes as they move, so
/// that the counts hold when this is dropped.
pub fn relay<'a>(
    client: &'a AsyncStream,
    target: &'a AsyncStream,
    paused: Option<Box<Paused>>,
    idle: Duration,
    interrupt: impl Future<Output = Interrupt> + Unpin + Send + 'a,
    (up, down): (&'a mut u64, &'a mut u64),
) -> impl Future<Output = Result<Ended, Box<Paused>>> + Send + 'a {
    let paused = paused.map_or_else(Paused::default, |paused| *paused);
    let mut relay = Relay {
        up: Direction::new(client, target, paused.up, up),
        down: Direction::new(target, client, paused.down, down),
        idle: IdleTimer::new(idle, paused.idle),
        interrupt,
    };
    async move {
        let outcome = poll_fn(|cx| relay.poll(cx)).await;
        let (survivor, last, cause) = match outcome {
            Outcome::Closed => return Ok(Ended::Closed),
            Outcome::Idle => return Ok(Ended::Idle),
            Outcome::Interrupted(Interrupt::Reset) => return Ok(Ended::Reset),
            Outcome::Interrupted(Interrupt::Pause) => {
                return Err(pause(relay.up, relay.down, relay.idle));
            }
            Outcome::ClientBroken(cause) => (target, &relay.up, cause),
            Outcome::TargetBroken(cause) => (client, &relay.down, cause),
        };
        // A reset drops what is not sent yet, and a direct connection would have sent it.
        if last.total() >= FIRST_FLIGHT {
            let has_unsent = last.has_unsent();
            let sent = async move {
                match has_unsent {
                    true => survivor.wait_peer_eof(FLUSH_LIMIT).await,
                    false => survivor.flush(FLUSH_LIMIT).await,
                }
            };
            let interrupt = relay.interrupt;
            let interrupted = Box::pin(async move {
                tokio::select! {
                    () = sent => None,
                    interrupt = interrupt => Some(interrupt),
                }
            });
            if interrupted.await == Some(Interrupt::Pause) {
                return Err(pause(relay.up, relay.down, relay.idle));
            }
        }
        match cause {
            Cause::Reset => Ok(Ended::Reset),
            Cause::TimedOut => Ok(Ended::Vanished),
        }
    }
}

fn pause(up: Direction<'_>, down: Direction<'_>, idle: Option<Box<IdleTimer>>) -> Box<Paused> {
    Box::new(Paused {
        up: up.pause(),
        down: down.pause(),
        idle: idle.map_or(Duration::ZERO, |timer| timer.elapsed()),
    })
}

/// A connection while its bytes move. Polled by hand: futures within futures would take ten times
/// the memory, and most connections are idle most of the time.
struct Relay<'a, A> {
    up: Direction<'a>,
    down: Direction<'a>,
    idle: Option<Box<IdleTimer>>,
    interrupt: A,
}

enum Outcome {
    Closed,
    Idle,
    Interrupted(Interrupt),
    ClientBroken(Cause),
    TargetBroken(Cause),
}

impl<A: Future<Output = Interrupt> + Unpin> Relay<'_, A> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let before = self.moved();
        if let Poll::Ready(interrupt) = Pin::new(&mut self.interrupt).poll(cx) {
            return Poll::Ready(Outcome::Interrupted(interrupt));
        }
        let (up, down) = (&mut self.up, &mut self.down);
        up.poll(cx, down);
        down.poll(cx, up);
        if let Some(outcome) = self.outcome() {
            return Poll::Ready(outcome);
        }
        let (up, down) = (&mut self.up, &mut self.down);
        up.poll_sink(cx, down);
        down.poll_sink(cx, up);
        if let Some(outcome) = self.outcome() {
            return Poll::Ready(outcome);
        }
        let moved = self.moved() != before;
        match &mut self.idle {
            Some(timer) => timer.poll(cx, moved).map(|()| Outcome::Idle),
            None => Poll::Pending,
        }
    }

    /// A broken source leaves nothing to pass on, either way. A broken sink may have sent bytes
    /// before that the other direction still holds.
    fn outcome(&self) -> Option<Outcome> {
        match (self.up.end(), self.down.end()) {
            (Some(End::SourceBroken(cause)), _) => Some(Outcome::ClientBroken(cause)),
            (_, Some(End::SourceBroken(cause))) => Some(Outcome::TargetBroken(cause)),
            (Some(End::Failed), _) | (_, Some(End::Failed)) => {
                Some(Outcome::ClientBroken(Cause::Reset))
            }
            (Some(End::Finished), Some(End::Finished)) => Some(Outcome::Closed),
            (Some(_), Some(End::SinkBroken(cause))) => Some(Outcome::ClientBroken(cause)),
            (Some(End::SinkBroken(cause)), Some(_)) => Some(Outcome::TargetBroken(cause)),
            (None, _) | (_, None) => None,
        }
    }

    fn moved(&self) -> (u64, u64) {
        (self.up.total(), self.down.total())
    }
}

/// The idle timeout: when the last byte moved, and how long ago that may be.
pub(crate) struct IdleTimer {
    limit: Duration,
    last: Instant,
    alarm: Pin<Box<Sleep>>,
}

impl IdleTimer {
    pub(crate) fn new(limit: Duration, idle: Duration) -> Option<Box<Self>> {
        let timer = || Self {
            limit,
            last: Instant::now()
                .checked_sub(idle)
                .unwrap_or_else(Instant::now),
            alarm: Box::pin(sleep(limit.saturating_sub(idle))),
        };
        (limit < Duration::MAX).then(|| Box::new(timer()))
    }

    /// How long no byte has moved.
    pub(crate) fn elapsed(&self) -> Duration {
        self.last.elapsed()
    }

    /// Ready when no byte has moved for too long.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, moved: bool) -> Poll<()> {
        if moved {
            self.last = Instant::now();
        }
        loop {
            ready!(self.alarm.as_mut().poll(cx));
            match self.last.checked_add(self.limit) {
                Some(at) if at > Instant::now() => self.alarm.as_mut().reset(at),
                Some(_) => return Poll::Ready(()),
                None => return Poll::Pending,
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
