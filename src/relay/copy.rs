//! One direction, copied through a buffer that belongs to the thread: an idle connection holds
//! none.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use tokio::io::Interest;

use super::{End, Side, is_would_block};
use crate::stream::Stream;

/// As much as one read may return. Larger ones gain nothing; smaller ones cost system calls.
const BUFFER: usize = 64 * 1024;

/// How many full reads in a row before other connections get their turn.
const TURN: usize = 16;

thread_local! {
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// What one turn of reading and writing came to.
enum Step {
    /// All that was read was written.
    Moved,
    /// The sink took only a part; this is the rest.
    Stuck(Vec<u8>),
    /// Nothing is there to be read.
    Dry,
    /// The direction has ended.
    Over(End),
}

/// Passes bytes from `source` to `sink` until one of them ends, `said` first. Counts what was
/// passed on in `total`.
pub(super) async fn direction(
    source: &Side<'_>,
    sink: &Side<'_>,
    said: &[u8],
    total: &mut u64,
) -> End {
    let end = pass_on(source, sink.stream, said, total).await;
    if end == End::SinkBroken {
        sink.broken.store(true, Ordering::Relaxed);
    }
    end
}

async fn pass_on(source: &Side<'_>, sink: &Stream, said: &[u8], total: &mut u64) -> End {
    if !said.is_empty() && sink.write_all(said).await.is_err() {
        return End::SinkBroken;
    }
    *total += said.len() as u64;
    let mut moved = 0;
    loop {
        match step(source, sink, total) {
            Step::Moved => {
                moved += 1;
                if moved == TURN {
                    moved = 0;
                    tokio::task::yield_now().await;
                }
            }
            Step::Stuck(rest) => {
                if sink.write_all(&rest).await.is_err() {
                    return End::SinkBroken;
                }
                *total += rest.len() as u64;
            }
            Step::Dry => {
                moved = 0;
                tokio::select! {
                    biased;
                    _ = source.stream.ready(Interest::READABLE) => (),
                    () = sink.broken() => return End::SinkBroken,
                }
            }
            Step::Over(end) => return end,
        }
    }
}

fn step(source: &Side<'_>, sink: &Stream, total: &mut u64) -> Step {
    SHARED.with_borrow_mut(|buffer| {
        let n = match source.stream.try_read(buffer) {
            Ok(0) if source.broken.load(Ordering::Relaxed) => {
                return Step::Over(End::SourceBroken);
            }
            Ok(0) => {
                let told = sink.finish_writing();
                return Step::Over(if told.is_ok() {
                    End::Finished
                } else {
                    End::SinkBroken
                });
            }
            Ok(n) => n,
            Err(error) if is_would_block(&error) => return Step::Dry,
            Err(_) => return Step::Over(End::SourceBroken),
        };
        let written = match sink.try_write(&buffer[..n]) {
            Ok(written) => written,
            Err(error) if is_would_block(&error) => 0,
            Err(_) => return Step::Over(End::SinkBroken),
        };
        *total += written as u64;
        if written == n {
            Step::Moved
        } else {
            Step::Stuck(buffer[written..n].to_vec())
        }
    })
}
