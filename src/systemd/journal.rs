//! The log: to the journal with its fields, as readable lines, or as JSON. A thread of its own writes it,
//! so that a journal or a terminal that blocks delays no client.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::event;
use crate::util::text::{escape_controls, in_colours};

/// Where the log goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// The journal when stderr is the journal, readable lines otherwise
    #[default]
    Auto,
    /// The journal, with fields
    Journal,
    /// Readable lines on stderr
    Text,
    /// A JSON object a line on stderr, with the journal's fields
    Json,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogLevel {
    /// What failed
    Error,
    /// And what needs attention
    Warn,
    /// And every change of state
    #[default]
    Info,
    /// And every connection
    Debug,
    /// And everything else
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// The thread that writes the log. Dropping this waits for it to write the rest, for a moment.
#[derive(Debug)]
pub struct Log {
    queue: Option<SyncSender<Entry>>,
    ended: Receiver<()>,
}

#[derive(Debug)]
enum Entry {
    Line(Line),
    End,
}

/// One event, with the fields that the journal knows by name.
#[derive(Debug, Default)]
struct Line {
    level: Option<Level>,
    message: String,
    fields: BTreeMap<&'static str, String>,
}

/// Lines that wait to be written. More are dropped, and counted.
const QUEUE: usize = 4096;

/// How long the exit waits for the log. It takes so long only where the journal or a terminal stands
/// still.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Where journald takes messages, one after the other.
const SOCKET: &str = "/run/systemd/journal/socket";

/// Starts to log.
pub fn start(format: LogFormat, level: LogLevel) -> Log {
    let (queue, entries) = sync_channel(QUEUE);
    let (end, ended) = sync_channel(1);
    let dropped = Arc::new(AtomicU64::new(0));
    let forward = Forward {
        queue: queue.clone(),
        dropped: dropped.clone(),
    };
    // h2 tells of every frame that a client sends, and the others of every call to the API of Kubernetes.
    let filter = Targets::new()
        .with_default(LevelFilter::from(level))
        .with_target("h2", LevelFilter::WARN)
        .with_target("hyper_util", LevelFilter::WARN)
        .with_target("kube_client", LevelFilter::WARN)
        .with_target("rustls", LevelFilter::WARN)
        .with_target("tower", LevelFilter::WARN);
    let of_journal = filter.clone();
    // Fails only where a log was started before, as in tests.
    let _ = tracing_subscriber::registry()
        .with(forward.with_filter(filter))
        .try_init();
    let journal = match format {
        LogFormat::Journal => true,
        LogFormat::Text | LogFormat::Json => false,
        LogFormat::Auto => stderr_is_the_journal(),
    };
    let started = thread::Builder::new().name("log".into()).spawn(move || {
        match journal.then(journal_layer).flatten() {
            Some(layer) => {
                let subscriber = tracing_subscriber::registry().with(layer.with_filter(of_journal));
                tracing::subscriber::with_default(subscriber, || write(&entries, &dropped, emit));
                let _ = until_read();
            }
            None if format == LogFormat::Json => write(&entries, &dropped, print_json),
            None => write(&entries, &dropped, print),
        }
        let _ = end.send(());
    });
    if let Err(error) = &started {
        let _ = writeln!(
            std::io::stderr(),
            "cannot start the log thread: {error}; nothing will be logged"
        );
    }
    Log {
        queue: started.is_ok().then_some(queue),
        ended,
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let Some(queue) = self.queue.take() else {
            return;
        };
        let mut left = FLUSH_TIMEOUT;
        while let Err(TrySendError::Full(_)) = queue.try_send(Entry::End) {
            if left.is_zero() {
                return;
            }
            let nap = left.min(Duration::from_millis(10));
            thread::sleep(nap);
            left -= nap;
        }
        let _: Result<(), RecvTimeoutError> = self.ended.recv_timeout(left);
    }
}

fn write(entries: &Receiver<Entry>, dropped: &AtomicU64, line: fn(&Line)) {
    while let Ok(Entry::Line(next)) = entries.recv() {
        line(&next);
        let dropped = dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let message = format!("{dropped} log messages dropped: queue full");
            line(&Line {
                level: Some(Level::WARN),
                message,
                ..Line::default()
            });
        }
    }
}

/// Whether stderr is connected to the journal (`$JOURNAL_STREAM`, systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    rustix::fs::fstat(rustix::stdio::stderr())
        .is_ok_and(|stderr| stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

fn journal_layer() -> Option<tracing_journald::Layer> {
    let priorities = PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        ..PriorityMappings::new()
    };
    let layer = tracing_journald::layer().ok()?;
    Some(
        layer
            .with_field_prefix(None)
            .with_syslog_identifier("wakeport".into())
            .with_priority_mappings(priorities),
    )
}

/// Waits until journald has read everything that was written. It looks up the unit of a message's
/// process when it reads the message, and may find none if the process has gone by then.
///
/// A socket with the smallest buffer can be written to again once the one message in it has been read
/// (unix_writable() in net/unix/af_unix.c). A comment is read and not kept (server_process_entry() in
/// journald-native.c).
fn until_read() -> std::io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    rustix::net::sockopt::set_socket_send_buffer_size(&socket, 0)?;
    let mut comment = [b'#'; 4096];
    comment[4095] = b'\n';
    socket.connect(SOCKET)?;
    socket.send(&comment)?;
    let mut socket = [PollFd::new(&socket, PollFlags::OUT)];
    rustix::event::poll(&mut socket, None)?;
    Ok(())
}

/// Writes a line to the journal. A field that the line does not have is left out.
fn emit(line: &Line) {
    let field = |name| line.fields.get(name);
    macro_rules! emit_at {
        ($level:ident) => {
            tracing::$level!(
                MESSAGE_ID = field("message_id"),
                WAKEPORT_STATE = field("state"),
                WAKEPORT_UNIT = field("unit"),
                WAKEPORT_CLIENT = field("client"),
                WAKEPORT_WAKE_USEC = field("wake_usec"),
                WAKEPORT_THAW_USEC = field("thaw_usec"),
                WAKEPORT_BYTES_UP = field("bytes_up"),
                WAKEPORT_BYTES_DOWN = field("bytes_down"),
                WAKEPORT_HOST = field("host"),
                WAKEPORT_METHOD = field("method"),
                WAKEPORT_PATH = field("path"),
                WAKEPORT_STATUS = field("status"),
                WAKEPORT_WAIT_USEC = field("wait_usec"),
                WAKEPORT_USEC = field("usec"),
                WAKEPORT_REQUEST_ID = field("request_id"),
                "{}",
                line.message
            )
        };
    }
    match line.level {
        Some(Level::ERROR) => emit_at!(error),
        Some(Level::WARN) => emit_at!(warn),
        Some(Level::DEBUG) => emit_at!(debug),
        Some(Level::TRACE) => emit_at!(trace),
        Some(_) | None => emit_at!(info),
    }
}

/// Writes a readable line; on a terminal the level has a colour.
fn print(line: &Line) {
    let level = line.level.unwrap_or(Level::INFO);
    let colour = match level {
        Level::ERROR => "31",
        Level::WARN => "33",
        Level::INFO => "32",
        _ => "2",
    };
    let (on, off) = match in_colours(&std::io::stderr()) {
        true => (format!("\x1b[{colour}m"), "\x1b[0m"),
        false => (String::new(), ""),
    };
    let time = jiff::Zoned::now().strftime("%F %T%.3f");
    let _ = writeln!(
        std::io::stderr(),
        "{time} {on}{level:>5}{off} {}",
        line.message
    );
}

/// Writes a line of JSON (RFC 8259), which has no control characters in it.
fn print_json(line: &Line) {
    let _ = writeln!(
        std::io::stderr(),
        "{}",
        as_json(line, jiff::Timestamp::now())
    );
}

fn as_json(line: &Line, time: jiff::Timestamp) -> serde_json::Value {
    let level = line.level.unwrap_or(Level::INFO);
    let mut json = serde_json::json!({
        "time": format!("{time:.3}"),
        "level": level.as_str().to_lowercase(),
        "message": line.message,
    });
    for (field, value) in &line.fields {
        let number = match *field {
            "wake_usec" | "thaw_usec" | "bytes_up" | "bytes_down" | "status" | "wait_usec"
            | "usec" => value.parse::<u64>().ok(),
            _ => None,
        };
        json[*field] = number.map_or_else(|| value.as_str().into(), Into::into);
    }
    if let Some(event) = line.fields.get("message_id").and_then(|id| event::name(id)) {
        json["event"] = event.into();
    }
    json
}

/// Queues every event for the thread.
struct Forward {
    queue: SyncSender<Entry>,
    dropped: Arc<AtomicU64>,
}

impl<S: Subscriber> Layer<S> for Forward {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line {
            level: Some(*event.metadata().level()),
            ..Line::default()
        };
        event.record(&mut line);
        if let Some(program) = line.fields.remove("program") {
            line.message.insert_str(0, &format!("{program}: "));
        }
        if let Cow::Owned(safe) = escape_controls(&line.message) {
            line.message = safe;
        }
        if self.queue.try_send(Entry::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Line {
    fn set(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message.insert_str(0, &value),
            name @ ("message_id" | "program" | "state" | "unit" | "client" | "wake_usec"
            | "thaw_usec" | "bytes_up" | "bytes_down" | "host" | "method" | "path"
            | "status" | "wait_usec" | "usec" | "request_id") => {
                self.fields.insert(name, value);
            }
            // Without a name in the journal: part of the message.
            name => _ = write!(self.message, " {name}={value}"),
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::systemd::message_id;

    #[test]
    fn a_line_of_json_has_the_journal_s_fields_and_the_name_of_the_message() {
        let line = Line {
            level: Some(Level::WARN),
            message: "\"a\" = \u{fffd}".into(),
            fields: BTreeMap::from([
                ("message_id", message_id::AWAKE.to_owned()),
                ("state", "awake".to_owned()),
                ("wake_usec", "1500".to_owned()),
                ("path", "7".to_owned()),
            ]),
        };
        let time = "2026-01-02T03:04:05.678Z".parse().expect("a time");
        let expected = serde_json::json!({
            "time": "2026-01-02T03:04:05.678Z",
            "level": "warn",
            "message": "\"a\" = \u{fffd}",
            "message_id": message_id::AWAKE,
            "event": "awake",
            "state": "awake",
            "wake_usec": 1500,
            "path": "7",
        });
        assert_eq!(as_json(&line, time), expected);
        assert!(!as_json(&line, time).to_string().contains('\n'));
        let bare = as_json(&Line::default(), time);
        assert_eq!(
            (&bare["level"], &bare["event"]),
            (&"info".into(), &serde_json::Value::Null)
        );
    }
}
