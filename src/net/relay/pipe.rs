//! Pipes for splice(2): opened when needed, as large as allowed, few, and pooled only when empty.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::pipe::{
    PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice,
};

use crate::util::proc;

/// A pipe, and how many bytes are in it.
#[derive(Debug)]
pub(super) struct Pipe {
    output: OwnedFd,
    input: OwnedFd,
    size: usize,
    held: usize,
    _share: Share,
}

/// The largest that an unprivileged process may ask for by default (`fs.pipe-max-size`, pipe(7)).
/// One stream costs a fifth less CPU with it than with a quarter of it.
const WANTED: usize = 1 << 20;

/// Below that a copy is as good. Over `fs.pipe-user-pages-soft` a user gets pipes of two pages.
const LEAST: usize = 64 * 1024;

/// How many pipes a thread keeps in its pool.
const KEPT: usize = 8;

thread_local! {
    static POOL: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// How many bytes all our pipes may hold, and how many they could hold now.
static BUDGET: LazyLock<usize> = LazyLock::new(budget);
static SPENT: AtomicUsize = AtomicUsize::new(0);

/// A quarter of the user's share, which is for all of the user's processes.
fn budget() -> usize {
    let pages = match proc::setting("fs/pipe-user-pages-soft") {
        // No limit.
        Some(0) => 65_536,
        pages => pages.unwrap_or(16_384),
    };
    pages / 4 * rustix::param::page_size()
}

impl Pipe {
    /// An empty pipe, if the budget allows.
    pub(super) fn take() -> Option<Box<Self>> {
        POOL.with_borrow_mut(Vec::pop)
            .or_else(Self::open)
            .map(Box::new)
    }

    fn open() -> Option<Self> {
        let share = Share::take()?;
        let (output, input) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Whether or not that was granted, the pipe has some size.
        let _ = fcntl_setpipe_size(&input, WANTED);
        let size = fcntl_getpipe_size(&input)
            .ok()
            .filter(|&size| size >= LEAST)?;
        Some(Self {
            _share: share,
            output,
            input,
            size,
            held: 0,
        })
    }

    /// Returns it to the pool if it is empty; closes it otherwise.
    pub(super) fn give_back(self) {
        if self.held == 0 {
            POOL.with_borrow_mut(|pool| {
                if pool.len() < KEPT {
                    pool.push(self);
                }
            });
        }
    }

    /// How many bytes are in it.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Takes bytes from `source`, at most so many. Only to be filled when empty: then `WouldBlock` means
    /// that the source has none, not that the pipe is full.
    pub(super) fn fill(&mut self, source: impl AsFd, most: u64) -> io::Result<usize> {
        let most = usize::try_from(most).map_or(self.size, |most| most.min(self.size));
        let moved = transfer(source, &self.input, most)?;
        self.held += moved;
        Ok(moved)
    }

    /// Takes out what is in it.
    pub(super) fn read_out(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.held];
        let mut read = 0;
        while read < bytes.len() {
            match rustix::io::read(&self.output, &mut bytes[read..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => read += n,
            }
        }
        self.held = 0;
        Ok(bytes)
    }

    /// Passes bytes to `sink`. `WouldBlock` means that it takes none right now.
    pub(super) fn drain(&mut self, sink: impl AsFd) -> io::Result<usize> {
        let moved = transfer(&self.output, sink, self.held)?;
        self.held -= moved;
        Ok(moved)
    }
}

fn transfer(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    Ok(splice(from, None, to, None, most, SpliceFlags::NONBLOCK)?)
}

/// One pipe's share of the budget.
#[derive(Debug)]
struct Share;

impl Share {
    /// Takes one, if one is left.
    fn take() -> Option<Self> {
        let more = |spent: usize| Some(spent + WANTED).filter(|&spent| spent <= *BUDGET);
        SPENT
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()
            .map(|_| Self)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        SPENT.fetch_sub(WANTED, Ordering::Relaxed);
    }
}
