//! The files of the records: `instances/NAME.json` in the state directory, readable by all users. A
//! thread of its own writes them, since a disk may block.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::report::record::{Moment, Process, Record};
use crate::util::file;
use crate::util::lock::locked;
use crate::util::proc;

/// The folder of the records in the state directory. What hooks and child processes keep beside it
/// is private.
const INSTANCES: &str = "instances";

/// The longest file that is read; a record has some 3 KB.
const LONGEST: u64 = 1 << 20;

/// How often the end of a write is polled; a divisor of [`FLUSH_TIMEOUT`].
const WRITE_POLL: Duration = Duration::from_millis(5);

/// How long the exit waits for the last write.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// The records of the system's instances, and after them those of the calling user's.
///
/// systemd gives `StateDirectory=` of a user's unit a place below `$XDG_STATE_HOME`, before version
/// 254 below `$XDG_CONFIG_HOME`.
pub fn usual_places() -> Vec<PathBuf> {
    let absolute = |name| {
        let path = std::env::var_os(name).map(PathBuf::from)?;
        path.is_absolute().then_some(path)
    };
    let home = absolute("HOME");
    let below_home = |folder| home.as_ref().map(|home| home.join(folder));
    let bases = [
        absolute("XDG_STATE_HOME").or_else(|| below_home(".local/state")),
        absolute("XDG_CONFIG_HOME").or_else(|| below_home(".config")),
    ];
    let users = bases.into_iter().flatten();
    let all = [PathBuf::from("/var/lib")].into_iter().chain(users);
    all.map(|base| base.join("wakeport")).collect()
}

// -- reading

/// A record, or why it cannot be read, in one line.
pub type Found = Result<Record, String>;

/// The record of the instance `name` in `directory`, if it has one.
pub fn read(directory: &Path, name: &str) -> Option<Found> {
    let path = path(directory, name);
    match read_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(format!("cannot read `{}`: {error}", path.display()))),
        Ok(text) => {
            let record = Record::from_text(&text);
            Some(record.map_err(|why| format!("cannot use `{}`: {why}", path.display())))
        }
    }
}

/// All records in these directories, as far as they exist; and what is wrong with the others, a line
/// each.
pub fn records(directories: &[PathBuf]) -> (Vec<Record>, Vec<String>) {
    let (mut records, mut problems) = (Vec::new(), Vec::new());
    for found in directories.iter().flat_map(|directory| read_all(directory)) {
        match found {
            Ok(record) => records.push(record),
            Err(problem) => problems.push(problem),
        }
    }
    (records, problems)
}

/// All records in `directory`, if it exists.
fn read_all(directory: &Path) -> Vec<Found> {
    let directory_of_records = directory.join(INSTANCES);
    let entries = match fs::read_dir(&directory_of_records) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            let path = directory_of_records.display();
            return vec![Err(format!("cannot read `{path}`: {error}"))];
        }
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    let mut names: Vec<_> = names
        .filter_map(|name| Some(name.to_str()?.strip_suffix(".json")?.replace('+', "/")))
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    let found = names.iter().filter_map(|name| {
        let mut record = read(directory, name)?;
        // The file's name counts: no two are the same.
        if let Ok(record) = &mut record {
            record.name.clone_from(name);
        }
        Some(record)
    });
    found.collect()
}

/// The directory's owner may have put anything there: a link, a pipe, a large file.
fn read_file(path: &Path) -> io::Result<String> {
    let file = file::open_regular(OpenOptions::new().read(true), path)?;
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// One of several services is `INSTANCE/SERVICE`; a `+` is in no unit's name.
fn path(directory: &Path, name: &str) -> PathBuf {
    let file = name.replace('/', "+");
    directory.join(INSTANCES).join(format!("{file}.json"))
}

// -- processes and clocks

/// This process, as its record names it.
pub fn this_process() -> Process {
    Process {
        pid: std::process::id(),
        started_ticks: proc::process(std::process::id()).map_or(0, |us| us.started_ticks),
        ..Process::default()
    }
}

/// Whether the process that keeps `record` still runs.
pub fn is_alive(record: &Record) -> bool {
    let Some(process) = record.process else {
        return false;
    };
    proc::process(process.pid).is_some_and(|found| found.started_ticks == process.started_ticks)
}

/// Now, on both clocks.
pub fn moment() -> Moment {
    let monotonic = clock_gettime(ClockId::Monotonic);
    Moment {
        wall: jiff::Timestamp::now(),
        monotonic: monotonic.tv_sec as f64 + monotonic.tv_nsec as f64 / 1e9,
    }
}

// -- writing

/// Takes records to be written, without waiting. While the disk is busy only the latest is kept.
#[derive(Clone, Debug, Default)]
pub struct StateWriter(Option<Arc<Shared>>);

/// Dropping it waits for the last write, for a moment.
#[derive(Debug)]
pub struct Closing(StateWriter);

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Pending {
    next: Option<Record>,
    writing: bool,
    closing: bool,
}

impl Pending {
    fn is_busy(&self) -> bool {
        self.next.is_some() || self.writing
    }
}

impl StateWriter {
    /// Writes the record of the instance `name` in `directory`.
    pub fn start(directory: &Path, name: &str) -> (Self, Closing) {
        let shared = Arc::new(Shared::default());
        let (writer, path) = (shared.clone(), path(directory, name));
        let started = thread::Builder::new()
            .name("record".into())
            .spawn(move || writer.write_all(&path));
        if let Err(error) = &started {
            tracing::warn!(
                "cannot start the thread that writes the record: {error}; `wakeport status` and the metrics are stale"
            );
        }
        let writer = Self(started.is_ok().then_some(shared));
        (writer.clone(), Closing(writer))
    }

    /// One that writes nothing.
    pub fn none() -> (Self, Closing) {
        (Self(None), Closing(Self(None)))
    }

    /// Whether anything is written.
    pub fn keeps(&self) -> bool {
        self.0.is_some()
    }

    /// Has `record` written.
    pub fn keep(&self, record: Record) {
        if let Some(shared) = &self.0 {
            locked(&shared.pending).next = Some(record);
            shared.changed.notify_all();
        }
    }
}

impl Closing {
    /// Waits until all is written, for a moment. The drop then need not wait.
    pub async fn settled(&self) {
        let Some(shared) = &self.0.0 else { return };
        let mut left = FLUSH_TIMEOUT;
        while locked(&shared.pending).is_busy() && !left.is_zero() {
            tokio::time::sleep(WRITE_POLL).await;
            left -= WRITE_POLL;
        }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(shared) = &self.0.0 {
            let mut pending = locked(&shared.pending);
            pending.closing = true;
            shared.changed.notify_all();
            let is_busy = |pending: &mut Pending| pending.is_busy();
            let wait = shared
                .changed
                .wait_timeout_while(pending, FLUSH_TIMEOUT, is_busy);
            drop(wait);
        }
    }
}

impl Shared {
    fn write_all(&self, path: &Path) {
        let mut reported = false;
        while let Some(record) = self.next() {
            match write(path, &record) {
                Ok(()) => reported = false,
                Err(error) if !std::mem::replace(&mut reported, true) => tracing::warn!(
                    "cannot write `{}`: {error}; `wakeport status` and the metrics are stale until this is fixed",
                    path.display()
                ),
                Err(_) => (),
            }
        }
    }

    /// Waits for a record; `None` when closing.
    fn next(&self) -> Option<Record> {
        let mut pending = locked(&self.pending);
        pending.writing = false;
        self.changed.notify_all();
        let idle = |pending: &mut Pending| pending.next.is_none() && !pending.closing;
        let pending = self.changed.wait_while(pending, idle);
        let mut pending = pending.unwrap_or_else(PoisonError::into_inner);
        let next = pending.next.take();
        pending.writing = next.is_some();
        next
    }
}

fn write(path: &Path, record: &Record) -> io::Result<()> {
    let text = record.to_text();
    // The unit's UMask= would hide it from other users.
    let attempt = || file::replace(path, text.as_bytes(), 0o644);
    match attempt() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            file::make_directory(path.parent().unwrap_or(Path::new(".")), 0o755)?;
            attempt()
        }
        written => written,
    }
}

/// The record of `name` in `directory`, or a new one. One that cannot be read is renamed.
pub fn open(directory: &Path, name: &str) -> Record {
    match read(directory, name) {
        None => Record::default(),
        Some(Ok(record)) => record,
        Some(Err(why)) => {
            let path = path(directory, name);
            let aside = path.with_extension("json.old");
            tracing::warn!(
                "{why}; starting a new record, the old one is `{}`",
                aside.display()
            );
            let _ = fs::rename(&path, &aside);
            Record::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Writes one record, and waits until it is written.
    fn keep(directory: &Path, record: &Record) {
        let (writer, closing) = StateWriter::start(directory, "app");
        writer.keep(record.clone());
        drop(closing);
    }

    fn counted(served: u64) -> Record {
        let mut record = Record {
            name: "app".into(),
            ..Record::default()
        };
        record.clients.served = served;
        record
    }

    #[test]
    fn a_written_record_is_readable_by_all_users() {
        let directory = tempfile::tempdir().unwrap();
        keep(directory.path(), &counted(3));
        keep(directory.path(), &counted(4));
        assert_eq!(read_all(directory.path()), [Ok(counted(4))]);
        assert_eq!(open(directory.path(), "app"), counted(4));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let file = path(directory.path(), "app");
        assert_eq!(mode(&file), 0o644);
        assert_eq!(mode(file.parent().unwrap()), 0o755);
    }

    #[test]
    fn a_service_of_several_has_a_file_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let (writer, closing) = StateWriter::start(directory.path(), "web/jellyfin");
        writer.keep(counted(3));
        drop(closing);
        let expected = Record {
            name: "web/jellyfin".into(),
            ..counted(3)
        };
        assert_eq!(read_all(directory.path()), [Ok(expected)]);
        assert_eq!(open(directory.path(), "web/jellyfin"), counted(3));
        assert_eq!(read(directory.path(), "web"), None);
        let file = directory.path().join(INSTANCES).join("web+jellyfin.json");
        assert!(file.exists());
    }

    #[test]
    fn of_many_records_the_latest_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let (writer, closing) = StateWriter::start(directory.path(), "app");
        (0..10_000).for_each(|served| writer.keep(counted(served)));
        drop(closing);
        assert_eq!(open(directory.path(), "app"), counted(9_999));
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        keep(directory.path(), &counted(3));
        // A directory is in the draft's way, for root as well.
        let draft = directory.path().join(INSTANCES).join(".app.json.new");
        fs::create_dir(&draft).unwrap();
        keep(directory.path(), &counted(4));
        assert_eq!(open(directory.path(), "app"), counted(3));
        fs::remove_dir(&draft).unwrap();
        keep(directory.path(), &counted(5));
        assert_eq!(open(directory.path(), "app"), counted(5));
    }

    #[test]
    fn an_unreadable_record_is_renamed() {
        let directory = tempfile::tempdir().unwrap();
        keep(directory.path(), &counted(3));
        let file = path(directory.path(), "app");
        fs::write(&file, "{\"version\": 99}").unwrap();
        let found = read_all(directory.path());
        assert!(
            matches!(&found[..], [Err(why)] if why.contains("app.json") && why.contains("newer")),
            "{found:?}"
        );
        assert_eq!(open(directory.path(), "app"), Record::default());
        assert!(!file.exists() && file.with_extension("json.old").exists());
        assert_eq!(read_all(directory.path()), []);
    }

    #[test]
    fn pipes_and_links_are_not_read() {
        let directory = tempfile::tempdir().unwrap();
        file::make_directory(&directory.path().join(INSTANCES), 0o755).unwrap();
        let pipe = path(directory.path(), "pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path(directory.path(), "link")).unwrap();
        let found = read_all(directory.path());
        assert!(found.len() == 2 && found.iter().all(Result::is_err));
    }

    #[test]
    fn this_process_is_alive_and_another_one_with_its_number_is_not() {
        let mut record = Record {
            process: Some(this_process()),
            ..Record::default()
        };
        assert!(is_alive(&record));
        record.process.as_mut().unwrap().started_ticks += 1;
        assert!(!is_alive(&record));
        record.process = None;
        assert!(!is_alive(&record));
    }
}
