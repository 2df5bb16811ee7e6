//! Our side of the service contract: READY, STATUS, STOPPING, WATCHDOG (sd_notify(3)), and the
//! journal. Everything here may block when its receiver hangs, so each has a thread of its own.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::util::text::one_line;

/// Tells the service manager how we are. Without one it tells nobody.
#[derive(Clone, Debug)]
pub struct Notifier(Mode);

/// How words get there.
#[derive(Clone, Debug)]
enum Mode {
    /// Not at all: nobody listens.
    None,
    Thread(SyncSender<Word>),
    /// From the thread that has something to say, where there is no other: a manager that is never
    /// told that we are ready ends us.
    Here,
}

#[derive(Debug)]
enum Word {
    Ready,
    Status(String),
    Alive,
    Extend(Duration),
    Stopping(SyncSender<()>),
}

/// More than that waits only when the manager hangs; then the rest may be lost.
const QUEUE: usize = 64;

/// How long we wait at the end for a manager that hangs.
const LAST_WORD: Duration = Duration::from_secs(1);

impl Notifier {
    /// Begins, if `NOTIFY_SOCKET` says that somebody listens.
    pub fn start() -> Self {
        if std::env::var_os("NOTIFY_SOCKET").is_none_or(|path| path.is_empty()) {
            return Self::silent();
        }
        let (post, words) = sync_channel(QUEUE);
        let started = thread::Builder::new()
            .name("notify".into())
            .spawn(move || send_all(&words));
        Self(started.map_or(Mode::Here, |_| Mode::Thread(post)))
    }

    /// Tells nobody.
    pub fn silent() -> Self {
        Self(Mode::None)
    }

    /// The sockets are ours.
    pub fn ready(&self) {
        self.say(Word::Ready);
    }

    /// What is going on, in words.
    pub fn status(&self, text: String) {
        self.say(Word::Status(text));
    }

    /// The driver's loop turns.
    pub fn alive(&self) {
        self.say(Word::Alive);
    }

    /// Ending takes that much longer.
    pub fn extend(&self, time: Duration) {
        self.say(Word::Extend(time));
    }

    /// The process ends. Returns when that is said.
    pub fn stopping(&self) {
        let (said, heard) = sync_channel(1);
        if self.say(Word::Stopping(said)) {
            let _ = heard.recv_timeout(LAST_WORD);
        }
    }

    fn say(&self, word: Word) -> bool {
        match &self.0 {
            Mode::None => false,
            Mode::Thread(post) => post.try_send(word).is_ok(),
            Mode::Here => {
                send(word);
                true
            }
        }
    }
}

/// While we begin, process 1 has something better to do than to listen to us: it starts the service
/// that a client waits for.
const NOTIFY_DELAY: Duration = Duration::from_millis(20);

fn send_all(words: &Receiver<Word>) {
    thread::sleep(NOTIFY_DELAY);
    while let Ok(word) = words.recv() {
        send(word);
    }
}

fn send(word: Word) {
    // Nobody is there to be told of a failure but the one who does not listen.
    let _ = match &word {
        Word::Ready => sd_notify::notify(&[NotifyState::Ready]),
        // A newline would end the field, and the manager takes 4096 bytes in all.
        Word::Status(text) => {
            let text: String = one_line(text).chars().take(512).collect();
            sd_notify::notify(&[NotifyState::Status(&text)])
        }
        Word::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
        Word::Extend(time) => {
            let usec = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
            sd_notify::notify(&[NotifyState::ExtendTimeoutUsec(usec)])
        }
        Word::Stopping(_) => sd_notify::notify(&[NotifyState::Stopping]),
    };
    if let Word::Stopping(said) = word {
        let _ = said.send(());
    }
}

/// How often the manager wants to hear that we are alive: twice within its limit.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
        .filter(|limit| !limit.is_zero())
        .map(|limit| limit / 2)
}
