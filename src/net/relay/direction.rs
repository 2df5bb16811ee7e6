//! One direction: copies through a buffer of the thread, so that an idle connection holds none;
//! bulk transfers move through a pipe instead, by splice(2).

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use tokio::io::Interest;

use super::pipe::Pipe;
use super::{Cause, End, FIRST_FLIGHT, Way, is_would_block};
use crate::net::stream::AsyncStream;

/// How much one read may return. More gains nothing; less costs system calls.
const BUFFER: usize = 64 * 1024;

/// From this size on it costs less to move bytes through a pipe than to copy them.
const LARGE: usize = 16 * 1024;

/// So many large reads in a row make a bulk transfer.
const BULK: u8 = 4;

/// So many small moves in a row end it. Fewer only mean that we are faster than the source.
const SMALL: usize = LARGE / 2;
const NO_BULK: u8 = 16;

/// How many bytes one connection may move before it yields.
const TURN: u64 = 8 << 20;

/// The kernel copies faster to and from whole pages.
const PAGE: usize = 4096;

/// Room to begin at a page, and large enough to be mapped (`M_MMAP_THRESHOLD` in mallopt(3)), so
/// that only the part in use takes memory.
const ROOM: usize = 256 * 1024;

/// Not limited: to the end of the source.
const ALL: u64 = u64::MAX;

thread_local! {
    static SHARED: RefCell<Vec<u8>> = RefCell::new(vec![0; ROOM]);
}

/// Lends the thread's buffer.
pub(crate) fn with_buffer<T>(use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    SHARED.with_borrow_mut(|shared| {
        let start = shared.as_ptr().align_offset(PAGE);
        use_it(&mut shared[start..start + BUFFER])
    })
}

/// One direction of a connection, and how far it is.
pub(crate) struct Direction<'a> {
    source: &'a AsyncStream,
    sink: &'a AsyncStream,
    mode: Mode,
    /// Held only while bytes move.
    pipe: Option<Box<Pipe>>,
    /// What was read and could not be written yet.
    rest: Vec<u8>,
    /// How many bytes were passed on.
    total: &'a mut u64,
    /// How many bytes the source is still read for; `ALL` is to its end.
    left: u64,
    end: Option<End>,
    /// Bytes were still unsent when the sink was half-closed.
    has_unsent: bool,
    /// Tells when the sink breaks; only while it is neither read nor written.
    watch: Option<Pin<Box<dyn Future<Output = io::Error> + Send + 'a>>>,
}

/// How bytes are moved.
#[derive(Clone, Copy)]
enum Mode {
    /// By copies, of which so many in a row were large.
    Copy { large: u8 },
    /// Through a pipe; so many moves in a row were small.
    Splice { small: u8 },
    /// By copies, since these sockets cannot be spliced.
    OnlyCopy,
}

/// What one step of reading and writing came to.
enum Step {
    /// So many bytes were read, and all of them written.
    Moved(usize),
    /// The sink took only a part.
    Blocked,
    /// It took some of the rest.
    Resumed,
    /// There is nothing to read.
    Empty,
    /// These sockets cannot be spliced.
    Refused,
    /// The direction has ended.
    Over(End),
}

impl<'a> Direction<'a> {
    /// Passes bytes from `source` to `sink`, from where it was paused, and counts them in `total`.
    pub(crate) fn new(
        source: &'a AsyncStream,
        sink: &'a AsyncStream,
        way: Way,
        total: &'a mut u64,
    ) -> Self {
        Self {
            source,
            sink,
            mode: Mode::Copy { large: 0 },
            pipe: None,
            rest: way.rest,
            total,
            left: ALL,
            end: way.end,
            has_unsent: way.has_unsent,
            watch: None,
        }
    }

    /// Stops where it is.
    pub(crate) fn pause(mut self) -> Way {
        if let Some(mut pipe) = self.pipe.take() {
            // It holds bytes only while there is no other rest.
            match pipe.read_out() {
                Ok(rest) if !rest.is_empty() => self.rest = rest,
                Ok(_) => (),
                Err(error) => self.end = Some(End::SourceBroken(Cause::from(&error))),
            }
            pipe.give_back();
        }
        Way {
            rest: self.rest,
            end: self.end,
            has_unsent: self.has_unsent,
        }
    }

    /// How it has ended, if it has.
    pub(super) fn end(&self) -> Option<End> {
        self.end
    }

    /// Whether bytes were still unsent when the sink was half-closed.
    pub(super) fn has_unsent(&self) -> bool {
        self.has_unsent
    }

    pub(crate) fn total(&self) -> u64 {
        *self.total
    }

    /// Goes on until there is nothing to do right now.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, other: &Self) {
        if self.end.is_none()
            && let Poll::Ready(end) = self.advance(cx, other.end)
        {
            self.finish(end);
        }
    }

    /// Has `first` passed on, which was read already, then so many bytes of the source and no more. If
    /// it is all, the sink is half-closed in the end.
    pub(crate) fn pass(&mut self, first: &[u8], left: Option<u64>) {
        self.left = left.unwrap_or(ALL);
        let mut written = 0;
        if self.rest.is_empty() && !first.is_empty() {
            // Whatever is wrong is found by the next attempt, too.
            written = self.sink.try_write(first).unwrap_or(0);
            *self.total += written as u64;
        }
        self.rest.extend_from_slice(&first[written..]);
    }

    /// How many bytes of the source are still to be passed on; `None` is all.
    pub(crate) fn left(&self) -> Option<u64> {
        Some(self.left).filter(|&left| left != ALL)
    }

    /// Whether bytes that were read could not be passed on yet.
    pub(crate) fn is_behind(&self) -> bool {
        !self.rest.is_empty() || self.pipe.as_ref().is_some_and(|pipe| pipe.held() > 0)
    }

    /// Ready when all of that was passed on, or cannot be; `other` is how the other direction has ended.
    pub(crate) fn poll_passed(&mut self, cx: &mut Context<'_>, other: Option<End>) -> Poll<End> {
        let end = ready!(self.advance(cx, other));
        self.release_pipe();
        Poll::Ready(end)
    }

    /// Notices a broken sink where moving bytes would not.
    pub(super) fn poll_sink(&mut self, cx: &mut Context<'_>, other: &Self) {
        if !self.waits_for_source() || other.waits_for_source() {
            return;
        }
        if let Poll::Ready(cause) = self.poll_broken(cx) {
            self.finish(End::SinkBroken(cause));
        }
    }

    /// Ready when the sink is broken.
    pub(crate) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        let sink = self.sink;
        let watch = self.watch.get_or_insert_with(|| Box::pin(sink.broken()));
        watch.as_mut().poll(cx).map(|error| Cause::from(&error))
    }

    fn waits_for_source(&self) -> bool {
        self.end.is_none() && self.rest.is_empty() && self.pipe.is_none()
    }

    fn finish(&mut self, end: End) {
        self.end = Some(end);
        self.release_pipe();
    }

    fn release_pipe(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            pipe.give_back();
        }
    }

    fn advance(&mut self, cx: &mut Context<'_>, other: Option<End>) -> Poll<End> {
        let before = *self.total;
        while *self.total - before < TURN {
            match self.step(other) {
                Step::Moved(bytes) => self.choose_mode(bytes),
                Step::Resumed => (),
                Step::Blocked => {
                    // A broken sink is noticed by the next write.
                    if let Err(error) = ready!(self.sink.poll_writable(cx)) {
                        return Poll::Ready(End::SinkBroken(Cause::from(&error)));
                    }
                }
                Step::Empty => {
                    self.release_pipe();
                    if let Err(error) = ready!(self.source.poll_readable(cx)) {
                        return Poll::Ready(End::SourceBroken(Cause::from(&error)));
                    }
                }
                Step::Refused => {
                    self.mode = Mode::OnlyCopy;
                    self.pipe = None;
                }
                Step::Over(end) => return Poll::Ready(end),
            }
        }
        // The other direction is not to come before an end that is here already.
        if self.has_passed() {
            return Poll::Ready(End::Finished);
        }
        // Other tasks get their turn, and new events theirs.
        let _ = pin!(tokio::task::yield_now()).poll(cx);
        Poll::Pending
    }

    /// So many bytes were moved at once: is it bulk?
    fn choose_mode(&mut self, bytes: usize) {
        self.mode = match self.mode {
            Mode::Copy { .. } if bytes < LARGE => Mode::Copy { large: 0 },
            Mode::Copy { large } if large + 1 == BULK => Mode::Splice { small: 0 },
            Mode::Copy { large } => Mode::Copy { large: large + 1 },
            Mode::Splice { .. } if bytes >= SMALL => Mode::Splice { small: 0 },
            Mode::Splice { small } if small + 1 == NO_BULK => Mode::Copy { large: 0 },
            Mode::Splice { small } => Mode::Splice { small: small + 1 },
            Mode::OnlyCopy => Mode::OnlyCopy,
        };
        if !self.splices() {
            self.release_pipe();
        }
    }

    /// Whether all was passed on that is to be.
    fn has_passed(&self) -> bool {
        self.left == 0 && !self.is_behind()
    }

    fn splices(&self) -> bool {
        matches!(self.mode, Mode::Splice { .. })
    }

    fn step(&mut self, other: Option<End>) -> Step {
        if !self.rest.is_empty() {
            return self.write_rest();
        }
        if self.has_passed() {
            return Step::Over(End::Finished);
        }
        if self.splices() && self.pipe.is_none() {
            self.pipe = Pipe::take();
        }
        match self.pipe.take() {
            Some(mut pipe) => {
                let step = self.through(&mut pipe, other);
                self.pipe = Some(pipe);
                step
            }
            None => self.copy(other),
        }
    }

    fn count_read(&mut self, bytes: usize) {
        if self.left != ALL {
            self.left -= bytes as u64;
        }
    }

    fn write_rest(&mut self) -> Step {
        match self.sink.try_write(&self.rest) {
            Ok(written) => {
                *self.total += written as u64;
                self.rest.drain(..written);
                if self.rest.is_empty() {
                    self.rest = Vec::new();
                }
                Step::Resumed
            }
            Err(error) if is_would_block(&error) => Step::Blocked,
            Err(error) => Step::Over(cannot_write(&error)),
        }
    }

    fn copy(&mut self, other: Option<End>) -> Step {
        with_buffer(|buffer| {
            let most = BUFFER.min(usize::try_from(self.left).unwrap_or(BUFFER));
            let buffer = &mut buffer[..most];
            let n = match self.source.try_read_all(buffer) {
                Ok(0) => return self.over(other),
                Ok(n) => n,
                Err(error) if is_would_block(&error) => return Step::Empty,
                Err(error) => return Step::Over(End::SourceBroken(Cause::from(&error))),
            };
            self.count_read(n);
            let written = match self.sink.try_write(&buffer[..n]) {
                Ok(written) => written,
                Err(error) if is_would_block(&error) => 0,
                Err(error) => return Step::Over(cannot_write(&error)),
            };
            *self.total += written as u64;
            if written == n {
                Step::Moved(n)
            } else {
                self.rest = buffer[written..n].to_vec();
                Step::Blocked
            }
        })
    }

    fn through(&mut self, pipe: &mut Pipe, other: Option<End>) -> Step {
        let (source, sink) = (self.source, self.sink);
        if pipe.held() == 0 {
            match source.try_io(Interest::READABLE, || pipe.fill(source, self.left)) {
                Ok(0) => return self.over(other),
                Ok(n) => self.count_read(n),
                Err(error) if is_would_block(&error) => return Step::Empty,
                Err(error) if is_refusal(&error) => return Step::Refused,
                Err(error) => return Step::Over(End::SourceBroken(Cause::from(&error))),
            }
        }
        let held = pipe.held();
        while pipe.held() > 0 {
            match sink.try_io(Interest::WRITABLE, || pipe.drain(sink)) {
                Ok(moved) => *self.total += moved as u64,
                Err(error) if is_would_block(&error) => return Step::Blocked,
                Err(error) if is_refusal(&error) => match pipe.read_out() {
                    Ok(rest) => {
                        self.rest = rest;
                        return Step::Refused;
                    }
                    Err(error) => return Step::Over(End::SourceBroken(Cause::from(&error))),
                },
                Err(error) => return Step::Over(cannot_write(&error)),
            }
        }
        Step::Moved(held)
    }

    /// The source has ended, before its time if more was to come: half-closes the sink, unless the end
    /// is what is left of a reset, which the kernel reports only once; later reads find an end like any
    /// other.
    fn over(&mut self, other: Option<End>) -> Step {
        if self.left != ALL {
            return Step::Over(End::SourceBroken(Cause::Reset));
        }
        if let Some(End::SinkBroken(cause)) = other {
            return Step::Over(End::SourceBroken(cause));
        }
        // Asked before the half-close, since the kernel does not say afterwards.
        self.has_unsent = other.is_none() && *self.total >= FIRST_FLIGHT && self.sink.has_unsent();
        Step::Over(match self.sink.finish_writing() {
            Ok(()) => End::Finished,
            Err(error) => End::SinkBroken(Cause::from(&error)),
        })
    }
}

/// How a direction ends whose sink fails with `error`.
fn cannot_write(error: &io::Error) -> End {
    match Errno::from_io_error(error) {
        Some(Errno::NOBUFS | Errno::NOMEM) => End::Failed,
        _ => End::SinkBroken(Cause::from(error)),
    }
}

/// Whether splice(2) does not work here: not between these sockets, or not in this sandbox. Copying
/// finds any other error.
fn is_refusal(error: &io::Error) -> bool {
    let errors = [Errno::INVAL, Errno::PERM, Errno::NOSYS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|error| errors.contains(&error))
}
