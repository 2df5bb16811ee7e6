//! A message on its way to the other side: what was read already, then what the source still sends of
//! it, and no byte more.

use std::io;
use std::task::{Context, Poll, ready};

use serde::{Deserialize, Serialize};

use super::chunked::{Chunks, Malformed};
use super::framing::Length;
use crate::net::relay::direction::{Direction, with_buffer};
use crate::net::relay::{Cause, End, Way};
use crate::net::stream::AsyncStream;

/// What is passed on of a message at once, and what then remains of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Begun {
    /// The bytes.
    pub first: Vec<u8>,
    /// How many more, as they come; `None` is all.
    left: Option<u64>,
    chunks: Option<Chunks>,
}

/// A message whose bytes do not move just now; what was read of it and not passed on is kept elsewhere.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    left: Option<u64>,
    chunks: Option<Chunks>,
    over: Vec<u8>,
}

/// A way on which messages pass, one after the other.
pub struct Body<'a> {
    source: &'a AsyncStream,
    direction: Direction<'a>,
    chunks: Option<Chunks>,
    /// What was read and is behind the message.
    pub over: Vec<u8>,
}

/// How a message has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// As a relay's direction ends.
    As(End),
    /// It is not what it should be.
    Malformed(Malformed),
}

impl Passed {
    /// It has passed as a whole.
    pub const WHOLE: Self = Self::As(End::Finished);
}

/// From this size on a chunk need not be copied.
const LARGE: u64 = 64 * 1024;

/// How often the source is read in a row before others get their turn.
const TURN: usize = 64;

impl Begun {
    /// A message with this head, whose body ends as `length` says; `come` has come behind the head. How
    /// much of that belongs to it. `keeps_chunks` is whether the other side knows chunks.
    pub fn new(
        mut head: Vec<u8>,
        come: &[u8],
        length: Length,
        keeps_chunks: bool,
    ) -> Result<(Self, usize), Malformed> {
        let (left, chunks, taken) = match length {
            Length::Exact(length) => {
                let all = usize::try_from(length).unwrap_or(usize::MAX);
                let taken = come.len().min(all);
                head.extend_from_slice(&come[..taken]);
                (Some(length - taken as u64), None, taken)
            }
            Length::UntilClose => {
                head.extend_from_slice(come);
                (None, None, come.len())
            }
            Length::Chunked => {
                let mut chunks = Chunks::new(keeps_chunks);
                let taken = chunks.pass(come, &mut head)?;
                (Some(0), Some(chunks), taken)
            }
        };
        let begun = Self {
            first: head,
            left,
            chunks,
        };
        Ok((begun, taken))
    }

    /// Whether nothing remains.
    pub fn is_whole(&self) -> bool {
        self.left == Some(0) && self.chunks.as_ref().is_none_or(Chunks::is_done)
    }
}

impl<'a> Body<'a> {
    /// A way from `source` to `sink`. Counts the bytes in `total`.
    pub fn new(source: &'a AsyncStream, sink: &'a AsyncStream, total: &'a mut u64) -> Self {
        let mut direction = Direction::new(source, sink, Way::default(), total);
        direction.pass(&[], Some(0));
        Self {
            source,
            direction,
            chunks: None,
            over: Vec::new(),
        }
    }

    /// Goes on where it was paused; `rest` is what was read of it.
    pub fn resume(
        source: &'a AsyncStream,
        sink: &'a AsyncStream,
        total: &'a mut u64,
        (rest, part): (Vec<u8>, Part),
    ) -> Self {
        let way = Way {
            rest,
            ..Way::default()
        };
        let mut direction = Direction::new(source, sink, way, total);
        direction.pass(&[], part.left);
        Self {
            source,
            direction,
            chunks: part.chunks,
            over: part.over,
        }
    }

    /// Stops where it is, unless bytes would be lost.
    pub fn pause(self) -> Option<(Vec<u8>, Part)> {
        let part = Part {
            left: self.direction.left(),
            chunks: self.chunks,
            over: self.over,
        };
        let way = self.direction.pause();
        way.end.is_none().then_some((way.rest, part))
    }

    /// Ready when the other side is broken, where moving bytes would not find out.
    pub fn poll_sink(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        self.direction.poll_broken(cx)
    }

    /// How many bytes have passed.
    pub fn total(&self) -> u64 {
        self.direction.total()
    }

    /// Has these bytes pass, and nothing of the source.
    pub fn write(&mut self, bytes: &[u8]) {
        self.direction.pass(bytes, Some(0));
    }

    /// Has a message pass.
    pub fn begin(&mut self, begun: &Begun) {
        self.direction.pass(&begun.first, begun.left);
        self.chunks.clone_from(&begun.chunks);
    }

    /// Whether bytes that were read could not be passed on yet.
    pub fn is_behind(&self) -> bool {
        self.direction.is_behind()
    }

    /// Ready when all has passed, or cannot; `other` is how the way back has ended.
    pub fn poll(&mut self, cx: &mut Context<'_>, other: Option<End>) -> Poll<Passed> {
        for _ in 0..TURN {
            match ready!(self.direction.poll_passed(cx, other)) {
                End::Finished => (),
                end @ (End::SourceBroken(_) | End::SinkBroken(_) | End::Failed) => {
                    return Poll::Ready(Passed::As(end));
                }
            }
            let Some(chunks) = self.chunks.as_mut().filter(|chunks| !chunks.is_done()) else {
                return Poll::Ready(Passed::WHOLE);
            };
            match chunks.data_left() {
                left @ LARGE.. => {
                    self.direction.pass(&[], Some(left));
                    chunks.skip(left);
                }
                _ => match self.read_chunks() {
                    Ok(Ok(())) => (),
                    Ok(Err(malformed)) => return Poll::Ready(Passed::Malformed(malformed)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if let Err(error) = ready!(self.source.poll_readable(cx)) {
                            return Poll::Ready(broken(&error));
                        }
                    }
                    Err(error) => return Poll::Ready(broken(&error)),
                },
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads what there is, and has it pass.
    fn read_chunks(&mut self) -> io::Result<Result<(), Malformed>> {
        let Self {
            source,
            direction,
            chunks,
            over,
        } = self;
        let Some(chunks) = chunks else {
            return Ok(Ok(()));
        };
        let mut out = Vec::new();
        with_buffer(|buffer| {
            let read = source.try_read_all(buffer)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(chunks.pass(&buffer[..read], &mut out).map(|taken| {
                over.extend_from_slice(&buffer[taken..read]);
            }))
        })
        .inspect(|_| direction.pass(&out, Some(0)))
    }
}

fn broken(error: &io::Error) -> Passed {
    Passed::As(End::SourceBroken(Cause::from(error)))
}
