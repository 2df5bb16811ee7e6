//! One direction. It begins with copies through a buffer that belongs to the thread, so that an
//! idle connection holds none; while bytes come in bulk it moves them through a pipe instead,
//! without touching them.

use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::sync::atomic::Ordering;

use tokio::io::Interest;

use super::pipe::Pipe;
use super::{Cause, End, Pulse, Side, is_would_block};
use crate::stream::Stream;

/// As much as one read may return. Larger ones gain nothing; smaller ones cost system calls.
const BUFFER: usize = 64 * 1024;

/// How many full reads in a row make a bulk transfer.
const BULK: usize = 4;

/// How many bytes one connection may move before the others get their turn.
const TURN: usize = 1 << 20;

thread_local! {
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// What one step of reading and writing came to.
enum Step {
    /// So many bytes were read, and all of them written.
    Moved(usize),
    /// The sink took only a part; this is the rest.
    Stuck(Vec<u8>),
    /// The sink took only a part; the rest is in the pipe.
    Full,
    /// Nothing is there to be read.
    Dry,
    /// These sockets cannot be spliced.
    Refused,
    /// The direction has ended.
    Over(End),
}

/// How bytes are moved.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By copies, of which so many in a row were full.
    Copy { full: usize },
    /// Through a pipe.
    Splice,
    /// By copies, since these sockets cannot be spliced.
    OnlyCopy,
}

/// Passes bytes from `source` to `sink` until one of them ends, `said` first. Counts what was
/// passed on in `total`.
pub(super) async fn direction(
    source: &Side<'_>,
    sink: &Side<'_>,
    said: &[u8],
    pulse: Option<&Pulse>,
    total: &mut u64,
) -> End {
    let end = pass_on(source, sink.stream, said, pulse, total).await;
    if matches!(end, End::SinkBroken(_)) {
        sink.broken.store(true, Ordering::Relaxed);
    }
    end
}

async fn pass_on(
    source: &Side<'_>,
    sink: &Stream,
    said: &[u8],
    pulse: Option<&Pulse>,
    total: &mut u64,
) -> End {
    if let Err(error) = sink.write_all(said).await {
        return End::SinkBroken(Cause::from(&error));
    }
    *total += said.len() as u64;
    let mut way = Way::Copy { full: 0 };
    let mut moved = 0;
    // Held only while bytes move: a connection that waits needs none.
    let mut pipe: Option<Pipe> = None;
    let mut broken = pin!(sink.broken());
    loop {
        if way == Way::Splice && pipe.is_none() {
            pipe = Pipe::take();
        }
        let step = match &mut pipe {
            Some(pipe) => through(pipe, source, sink, total),
            None => copy(source, sink, total),
        };
        if let (Some(pulse), Step::Moved(_) | Step::Stuck(_) | Step::Full) = (pulse, &step) {
            pulse.beat();
        }
        match step {
            Step::Moved(bytes) => {
                way = match way {
                    Way::Copy { full } if bytes == BUFFER && full + 1 == BULK => Way::Splice,
                    Way::Copy { full } if bytes == BUFFER => Way::Copy { full: full + 1 },
                    Way::Copy { .. } => Way::Copy { full: 0 },
                    Way::Splice if bytes < BUFFER / 4 => Way::Copy { full: 0 },
                    Way::Splice | Way::OnlyCopy => way,
                };
                if way != Way::Splice
                    && let Some(pipe) = pipe.take()
                {
                    pipe.give_back();
                }
                moved += bytes;
                if moved >= TURN {
                    moved = 0;
                    tokio::task::yield_now().await;
                }
            }
            Step::Stuck(rest) => {
                if let Err(error) = sink.write_all(&rest).await {
                    return End::SinkBroken(Cause::from(&error));
                }
                *total += rest.len() as u64;
            }
            Step::Full => {
                // An error makes it ready, too, and is found by the next attempt.
                let _ = sink.ready(Interest::WRITABLE).await;
            }
            Step::Dry => {
                moved = 0;
                if let Some(pipe) = pipe.take() {
                    pipe.give_back();
                }
                tokio::select! {
                    biased;
                    _ = source.stream.ready(Interest::READABLE) => (),
                    error = &mut broken => return End::SinkBroken(Cause::from(&error)),
                }
            }
            Step::Refused => {
                way = Way::OnlyCopy;
                pipe = None;
            }
            Step::Over(end) => {
                if let Some(pipe) = pipe.take() {
                    pipe.give_back();
                }
                return end;
            }
        }
    }
}

fn copy(source: &Side<'_>, sink: &Stream, total: &mut u64) -> Step {
    SHARED.with_borrow_mut(|buffer| {
        let n = match source.stream.try_read_all(buffer) {
            Ok(0) => return over(source, sink),
            Ok(n) => n,
            Err(error) if is_would_block(&error) => return Step::Dry,
            Err(error) => return Step::Over(End::SourceBroken(Cause::from(&error))),
        };
        let written = match sink.try_write(&buffer[..n]) {
            Ok(written) => written,
            Err(error) if is_would_block(&error) => 0,
            Err(error) => return Step::Over(End::SinkBroken(Cause::from(&error))),
        };
        *total += written as u64;
        if written == n {
            Step::Moved(n)
        } else {
            Step::Stuck(buffer[written..n].to_vec())
        }
    })
}

fn through(pipe: &mut Pipe, source: &Side<'_>, sink: &Stream, total: &mut u64) -> Step {
    if pipe.held() == 0 {
        match source
            .stream
            .try_io(Interest::READABLE, || pipe.fill(source.stream))
        {
            Ok(0) => return over(source, sink),
            Ok(_) => (),
            Err(error) if is_would_block(&error) => return Step::Dry,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Step::Refused,
            Err(error) => return Step::Over(End::SourceBroken(Cause::from(&error))),
        }
    }
    let held = pipe.held();
    while pipe.held() > 0 {
        match sink.try_io(Interest::WRITABLE, || pipe.drain(sink)) {
            Ok(moved) => *total += moved as u64,
            Err(error) if is_would_block(&error) => return Step::Full,
            Err(error) => return Step::Over(End::SinkBroken(Cause::from(&error))),
        }
    }
    Step::Moved(held)
}

/// The source has ended; the sink is told, unless that is only what is left of a reset.
fn over(source: &Side<'_>, sink: &Stream) -> Step {
    if source.broken.load(Ordering::Relaxed) {
        return Step::Over(End::SourceBroken(Cause::Reset));
    }
    Step::Over(match sink.finish_writing() {
        Ok(()) => End::Finished,
        Err(error) => End::SinkBroken(Cause::from(&error)),
    })
}
