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

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::SeqCst)
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
                connections: AtomicU64::new(0),
                active: AtomicU64::new(0),
                unrouted: AtomicU64::new(0),
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
        let active = read(&self.front.active);
        http.connections = Connections {
            idle: read(&self.front.connections).saturating_sub(active),
            active,
        };
        http.unrouted += read(&self.front.unrouted);
        for (host, counted) in &*hosts {
            counted.add_to(http.hosts.entry(host.clone()).or_default());
        }
    }
}

impl Requests {
    fn new(front: Arc<Front>, news: Arc<News>) -> Self {
        Self {
            front,
            news,
            begun: AtomicU64::default(),
            waiting: AtomicU64::default(),
            codes: Default::default(),
            waits: Default::default(),
            waited: AtomicU64::default(),
            waited_micros: AtomicU64::default(),
            pages: AtomicU64::default(),
            quiet: AtomicU64::default(),
            retries: AtomicU64::default(),
            failures: Default::default(),
        }
    }

    fn add_to(&self, sum: &mut super::record::http::Requests) {
        // One that ends meanwhile is active rather than missing.
        let waiting = read(&self.waiting);
        let mut ended = 0;
        for (code, count) in CODES.iter().zip(&self.codes) {
            let count = read(count);
            *sum.codes.entry((*code).to_owned()).or_default() += count;
            ended += count;
        }
        let under_way = read(&self.begun).saturating_sub(ended);
        (sum.active, sum.waiting) = (under_way.saturating_sub(waiting), waiting);
        for (bucket, count) in sum.waits.buckets.iter_mut().zip(&self.waits) {
            bucket.count += read(count);
        }
        sum.waits.total += read(&self.waited);
        sum.waits.seconds += read(&self.waited_micros) as f64 / 1e6;
        sum.pages += read(&self.pages);
        sum.quiet += read(&self.quiet);
        sum.retries += read(&self.retries);
        for (code, count) in FAILURES.iter().zip(&self.failures) {
            *sum.upstream_errors.entry((*code).to_owned()).or_default() += read(count);
        }
    }

    /// One begins.
    pub fn begins(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.news.tell();
    }

    /// One that has begun goes on elsewhere, where it is counted.
    pub fn leaves(&self) {
        self.begun.fetch_sub(1, Ordering::SeqCst);
        self.news.tell();
    }

    /// One ends, with this status.
    pub fn ends(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, CODES.len());
        self.codes[class - 1].fetch_add(1, Ordering::SeqCst);
        self.news.tell();
    }

    /// One begins to wait.
    pub fn waits(&self) {
        add(&self.waiting, 1);
        self.begins();
    }

    /// One waits no more.
    pub fn waited(&self, waited: Duration) {
        let micros = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        let seconds = waited.as_secs_f64();
        // No bucket may have more than there are in all.
        add(&self.waited, 1);
        add(&self.waited_micros, micros);
        if let Some(index) = BOUNDS.iter().position(|le| seconds <= *le) {
            add(&self.waits[index], 1);
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        self.news.tell();
    }

    /// One goes on elsewhere that waits.
    pub fn leaves_waiting(&self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        self.leaves();
    }

    /// One is answered with the waiting page.
    pub fn page(&self) {
        add(&self.pages, 1);
    }

    /// A quiet one has ended.
    pub fn quiet(&self) {
        self.quiet.fetch_add(1, Ordering::SeqCst);
        self.news.tell();
    }

    /// One is sent once more.
    pub fn retry(&self) {
        add(&self.retries, 1);
    }

    /// The service fails one, which is answered with this status.
    pub fn failure(&self, status: u16) {
        let index = usize::from(status).checked_sub(502);
        if let Some(count) = index.and_then(|index| self.failures.get(index)) {
            add(count, 1);
        }
    }
}

impl Front {
    /// A connection comes.
    pub fn connects(&self) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        self.news.tell();
    }

    /// A connection without a request is closed.
    pub fn closes(&self) {
        self.connections.fetch_sub(1, Ordering::SeqCst);
        self.news.tell();
    }

    /// A connection has a request now, and had none.
    pub fn activates(&self) {
        add(&self.active, 1);
    }

    /// A connection has no request any more.
    pub fn rests(&self) {
        self.active.fetch_sub(1, Ordering::SeqCst);
        self.news.tell();
    }

    /// A request has ended that belongs to no service.
    pub fn unrouted(&self) {
        self.unrouted.fetch_add(1, Ordering::SeqCst);
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
