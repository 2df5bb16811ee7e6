//! What threads would otherwise contend for, in parts: each thread uses its own.

use std::array;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many parts there are. Where there are more threads, some share one.
const PARTS: usize = 8;

/// One of them, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Part<T>(T);

impl<T> Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A value in parts.
#[derive(Debug, Default)]
pub struct PerThread<T>([Part<T>; PARTS]);

impl<T> PerThread<T> {
    /// Each part made by this.
    pub fn new(part: impl Fn() -> T) -> Self {
        Self(array::from_fn(|_| Part(part())))
    }

    /// The part of the thread that calls.
    pub fn own(&self) -> &T {
        &self.0[own()]
    }

    /// All parts.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(Deref::deref)
    }
}

/// Which part is that of the thread that calls.
fn own() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: usize = THREADS.fetch_add(1, Ordering::Relaxed) % PARTS;
    }
    OWN.with(|own| *own)
}

/// A value of which there are several references for every thread, counted for each of these by itself.
#[derive(Debug)]
pub struct References<T>([Local<T>; PARTS]);

/// A reference to such a value.
pub type Local<T> = Arc<Part<Arc<T>>>;

impl<T> References<T> {
    /// This value.
    pub fn new(value: &Arc<T>) -> Self {
        Self(array::from_fn(|_| Arc::new(Part(value.clone()))))
    }

    /// A reference for the thread that calls. It may be dropped on any.
    pub fn local(&self) -> Local<T> {
        self.0[own()].clone()
    }
}

impl<T> Deref for References<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0[0]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use super::*;

    #[test]
    fn no_count_and_no_reference_gets_lost() {
        let counts: PerThread<AtomicU64> = PerThread::default();
        let value = Arc::new(1);
        let shared = References::new(&value);
        let (counts, shared) = (&counts, &shared);
        let sum = || {
            counts
                .all()
                .map(|it| it.load(Ordering::Relaxed))
                .sum::<u64>()
        };
        let locals: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..2 * PARTS)
                .map(|_| {
                    scope.spawn(|| {
                        counts.own().fetch_add(1, Ordering::Relaxed);
                        shared.local()
                    })
                })
                .collect();
            let threads = threads.into_iter();
            threads.map(|it| it.join().expect("no panic")).collect()
        });
        assert_eq!(sum(), 2 * PARTS as u64);
        assert_eq!(
            locals.iter().map(|local| ****local).sum::<i32>(),
            2 * PARTS as i32
        );
        assert_eq!(**shared, 1);
        drop(locals);
        assert_eq!(Arc::strong_count(&value), 1 + PARTS);
    }
}
