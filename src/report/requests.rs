//! The requests of a service as they are counted in this process: by atomics, and without a message for
//! each. The record has the sums.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::record::http::{CODES, Connections, FAILURES, Http};
use super::record::wakes::BOUNDS;
use crate::util::lock::locked;
use crate::util::per_thread::PerThread;

/// All counts of a service.
#[derive(Debug)]
pub struct Counts {
    hosts: Mutex<BTreeMap<String, Arc<Requests>>>,
    front: Arc<Front>,
    news: Arc<News>,
}

/// The requests for one host.
#[derive(Debug)]
pub struct Requests {
    /// Where their connections are counted.
    pub front: Arc<Front>,
    news: Arc<News>,
    parts: PerThread<Part>,
}

/// What a thread has counted. One that begins on it may end on another.
#[derive(Debug, Default)]
struct Part {
    begun: AtomicU64,
    waiting: AtomicU64,
    codes: [AtomicU64; CODES.len()],
    waits: [AtomicU64; BOUNDS.len()],
    waited: AtomicU64,
    waited_micros: AtomicU64,
    pages: AtomicU64,
    quiet: AtomicU64,
    retries: AtomicU64,
    failures: [AtomicU64; FAILURES.len()],
}

/// The connections that requests come over, and what of that belongs to no service.
#[derive(Debug)]
pub struct Front {
    news: Arc<News>,
    parts: PerThread<FrontPart>,
}

#[derive(Debug, Default)]
struct FrontPart {
    connections: AtomicU64,
    active: AtomicU64,
    unrouted: AtomicU64,
}

/// Whether something was counted that is not in the record yet.
struct News {
    there_are: AtomicBool,
    tell: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("News").field(&self.there_are).finish()
    }
}

impl News {
    /// Tells once, until the record has it: no more often than that is written. What was counted before
    /// is in the record then, as all of this is in one order (`SeqCst`).
    fn tell(&self) {
        if !self.there_are.load(Ordering::SeqCst) && !self.there_are.swap(true, Ordering::SeqCst) {
            (self.tell)();
        }
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// The sum of what each thread has counted.
fn sum<T>(parts: &PerThread<T>, counter: impl Fn(&T) -> &AtomicU64) -> u64 {
    let read = |part| counter(part).load(Ordering::SeqCst);
    let sum = parts.all().map(read).fold(0, u64::wrapping_add);
    // One that came on a thread which was read before, and went on one that was read then.
    if sum > u64::MAX / 2 { 0 } else { sum }
}

impl Counts {
    /// Nothing yet. `tell` is called when there is something, until [`Counts::take_news`] is.
    pub fn new(tell: impl Fn() + Send + Sync + 'static) -> Self {
        let news = Arc::new(News {
            there_are: AtomicBool::new(false),
            tell: Box::new(tell),
        });
        Self {
            hosts: Mutex::default(),
            front: Arc::new(Front {
                news: news.clone(),
                parts: PerThread::default(),
            }),
            news,
        }
    }

    /// Where the requests for a host are counted, by its pattern.
    pub fn of(&self, host: &str) -> Arc<Requests> {
        let mut hosts = locked(&self.hosts);
        let new = || Arc::new(Requests::new(self.front.clone(), self.news.clone()));
        hosts.entry(host.to_owned()).or_insert_with(new).clone()
    }

    /// Whether something was counted since the last time that it was taken.
    pub fn have_news(&self) -> bool {
        self.news.there_are.load(Ordering::SeqCst)
    }

    /// What is counted by now is about to be read.
    pub fn take_news(&self) {
        self.news.there_are.swap(false, Ordering::SeqCst);
    }

    /// Adds all to what was counted before this process, if there may be requests.
    pub fn add_to(&self, http: &mut Option<Http>) {
        let hosts = locked(&self.hosts);
        if hosts.is_empty() {
            return;
        }
        let http = http.get_or_insert_default();
        let front = &self.front.parts;
        let active = sum(front, |part| &part.active);
        http.connections = Connections {
            idle: sum(front, |part| &part.connections).saturating_sub(active),
            active,
        };
        http.unrouted += sum(front, |part| &part.unrouted);
        for (host, counted) in &*hosts {
            counted.add_to(http.hosts.entry(host.clone()).or_default());
        }
    }
}

impl Requests {
    fn new(front: Arc<Front>, news: Arc<News>) -> Self {
        let parts = PerThread::default();
        Self { front, news, parts }
    }

    fn add_to(&self, total: &mut super::record::http::Requests) {
        let parts = &self.parts;
        // One that ends meanwhile is active rather than missing.
        let waiting = sum(parts, |part| &part.waiting);
        let mut ended = 0;
        for (index, code) in CODES.iter().enumerate() {
            let count = sum(parts, |part| &part.codes[index]);
            *total.codes.entry((*code).to_owned()).or_default() += count;
            ended += count;
        }
        let under_way = sum(parts, |part| &part.begun).saturating_sub(ended);
        (total.active, total.waiting) = (under_way.saturating_sub(waiting), waiting);
        for (index, bucket) in total.waits.buckets.iter_mut().enumerate() {
            bucket.count += sum(parts, |part| &part.waits[index]);
        }
        total.waits.total += sum(parts, |part| &part.waited);
        total.waits.seconds += sum(parts, |part| &part.waited_micros) as f64 / 1e6;
        total.pages += sum(parts, |part| &part.pages);
        total.quiet += sum(parts, |part| &part.quiet);
        total.retries += sum(parts, |part| &part.retries);
        for (index, code) in FAILURES.iter().enumerate() {
            let count = sum(parts, |part| &part.failures[index]);
            *total.upstream_errors.entry((*code).to_owned()).or_default() += count;
        }
    }

    /// One begins.
    pub fn begins(&self) {
        self.parts.own().begun.fetch_add(1, Ordering::SeqCst);
        self.news.tell();
    }

    /// One that has begun goes on elsewhere, where it is counted.
    pub fn leaves(&self) {
        self.parts.own().begun.fetch_sub(1, Ordering::SeqCst);
        self.news.tell();
    }

    /// One ends, with this status.
    pub fn ends(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, CODES.len());
        self.parts.own().codes[class - 1].fetch_add(1, Ordering::SeqCst);
        self.news.tell();
    }

    /// One begins to wait.
    pub fn waits(&self) {
        add(&self.parts.own().waiting, 1);
        self.begins();
    }

    /// One waits no more.
    pub fn waited(&self, waited: Duration) {
        let micros = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        let seconds = waited.as_secs_f64();
        // No bucket may have more than there are in all.
        add(&self.parts.own().waited, 1);
        add(&self.parts.own().waited_micros, micros);
        if let Some(index) = BOUNDS.iter().position(|le| seconds <= *le) {
            add(&self.parts.own().waits[index], 1);
        }
        self.parts.own().waiting.fetch_sub(1, Ordering::SeqCst);
        self.news.tell();
    }

    /// One goes on elsewhere that waits.
    pub fn leaves_waiting(&self) {
        self.parts.own().waiting.fetch_sub(1, Ordering::SeqCst);
        self.leaves();
    }

    /// One is answered with the waiting page.
    pub fn page(&self) {
        add(&self.parts.own().pages, 1);
    }

    /// A quiet one has ended.
    pub fn quiet(&self) {
        self.parts.own().quiet.fetch_add(1, Ordering::SeqCst);
        self.news.tell();
    }

    /// One is sent once more.
    pub fn retry(&self) {
        add(&self.parts.own().retries, 1);
    }

    /// The service fails one, which is answered with this status.
    pub fn failure(&self, status: u16) {
        let index = usize::from(status).checked_sub(502);
        if let Some(count) = index.and_then(|index| self.parts.own().failures.get(index)) {
            add(count, 1);
        }
    }
}

impl Front {
    /// A connection comes.
    pub fn connects(&self) {
        self.parts.own().connections.fetch_add(1, Ordering::SeqCst);
        self.news.tell();
    }

    /// A connection without a request is closed.
    pub fn closes(&self) {
        self.parts.own().connections.fetch_sub(1, Ordering::SeqCst);
        self.news.tell();
    }

    /// A connection has a request now, and had none.
    pub fn activates(&self) {
        add(&self.parts.own().active, 1);
    }

    /// A connection has no request any more.
    pub fn rests(&self) {
        self.parts.own().active.fetch_sub(1, Ordering::SeqCst);
        self.news.tell();
    }

    /// A request has ended that belongs to no service.
    pub fn unrouted(&self) {
        self.parts.own().unrouted.fetch_add(1, Ordering::SeqCst);
        self.news.tell();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn what_was_counted_before_stays_and_is_told_once() {
        let told = Arc::new(AtomicUsize::new(0));
        let tell = told.clone();
        let counts = Counts::new(move || {
            tell.fetch_add(1, Ordering::SeqCst);
        });
        let mut http = None;
        counts.add_to(&mut http);
        assert_eq!(http, None);
        let requests = counts.of("*.example.org");
        for status in [200, 204, 499] {
            requests.begins();
            requests.ends(status);
        }
        requests.waits();
        requests.begins();
        assert_eq!(told.load(Ordering::SeqCst), 1);
        assert!(counts.have_news());
        counts.take_news();
        counts.add_to(&mut http);
        let first = http.clone().expect("there is a host");
        let of_host = &first.hosts["*.example.org"];
        assert_eq!((of_host.codes["2xx"], of_host.codes["4xx"]), (2, 1));
        assert_eq!(
            (of_host.active, of_host.waiting, of_host.total()),
            (1, 1, 3)
        );
        requests.waited(Duration::from_millis(200));
        assert_eq!(told.load(Ordering::SeqCst), 2);
        // As in the next process: what is there by now, and what was before.
        counts.add_to(&mut http);
        let second = http.expect("there is a host");
        let of_host = &second.hosts["*.example.org"];
        assert_eq!((of_host.codes["2xx"], of_host.codes["4xx"]), (4, 2));
        assert_eq!((of_host.active, of_host.waiting), (2, 0));
        assert_eq!(
            (of_host.waits.total, of_host.waits.buckets[3].count),
            (1, 1)
        );
        assert_eq!(of_host.waits.seconds, 0.2);
    }

    #[test]
    fn every_status_has_a_class() {
        let counts = Counts::new(|| ());
        let requests = counts.of("*");
        for status in [0, 101, 599, 999, u16::MAX] {
            requests.ends(status);
            requests.failure(status);
        }
        let mut http = None;
        counts.add_to(&mut http);
        let of_host = &http.expect("there is a host").hosts["*"];
        assert_eq!((of_host.codes["1xx"], of_host.codes["5xx"]), (2, 3));
        assert_eq!(of_host.active, 0);
    }
}
