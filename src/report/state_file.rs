//! The directory in which each instance keeps its record: `instances/NAME.json`, readable by
//! everybody. A thread of its own writes, because a disk may take its time.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::time::{ClockId, clock_gettime};

use crate::report::record::{Moment, Process, Record};
use crate::util::file;
use crate::util::proc;

/// Where the records are, below the state directory. What hooks and child processes keep beside it
/// is not for everybody.
const INSTANCES: &str = "instances";

/// A record has some 3 KB; nobody makes us read more than that.
const LONGEST: u64 = 1 << 20;

/// What a write takes where it is quick; a divisor of [`LAST_WORD`].
const A_WRITE: Duration = Duration::from_millis(5);

/// How long the end of the process waits for the last write.
const LAST_WORD: Duration = Duration::from_secs(1);

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

/// A record, or in one line why there is none.
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

/// All records in `directory`. One that is not there has none.
pub fn read_all(directory: &Path) -> Vec<Found> {
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
        // What it is called is what its file is called: no two have the same name.
        if let Ok(record) = &mut record {
            record.name.clone_from(name);
        }
        Some(record)
    });
    found.collect()
}

/// Whoever owns the directory may have put anything there.
fn read_file(path: &Path) -> io::Result<String> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
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

/// Takes a record to be written. Never waits; of those that come while the disk is busy the latest
/// is written.
#[derive(Clone, Debug, Default)]
pub struct StateWriter(Option<Arc<Shared>>);

/// Dropping it writes what is left, for a moment.
#[derive(Debug)]
pub struct Closing(StateWriter);

#[derive(Debug, Default)]
struct Shared {
    slot: Mutex<Slot>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Slot {
    next: Option<Record>,
    writing: bool,
    closing: bool,
    over: bool,
}

impl StateWriter {
    /// Keeps the record of the instance `name` in `directory`.
    pub fn start(directory: &Path, name: &str) -> (Self, Closing) {
        let desk = Arc::new(Shared::default());
        let (other, path) = (desk.clone(), path(directory, name));
        let started = thread::Builder::new()
            .name("record".into())
            .spawn(move || other.write_all(&path));
        if let Err(error) = &started {
            tracing::warn!(
                "cannot start the thread that keeps the record ({error}); `wakeport status` and the metrics stand still"
            );
        }
        let keeper = Self(started.is_ok().then_some(desk));
        (keeper.clone(), Closing(keeper))
    }

    /// Keeps nothing.
    pub fn none() -> (Self, Closing) {
        (Self(None), Closing(Self(None)))
    }

    /// Whether anything is kept.
    pub fn keeps(&self) -> bool {
        self.0.is_some()
    }

    /// Has `record` written.
    pub fn keep(&self, record: Record) {
        if let Some(desk) = &self.0 {
            desk.slot().next = Some(record);
            desk.changed.notify_all();
        }
    }
}

impl Closing {
    /// Waits until all is written, for a moment: who does so before the end need not wait then.
    pub async fn settled(&self) {
        let Some(desk) = &self.0.0 else { return };
        let is_busy = || {
            let slot = desk.slot();
            slot.next.is_some() || slot.writing
        };
        let mut left = LAST_WORD;
        while is_busy() && !left.is_zero() {
            tokio::time::sleep(A_WRITE).await;
            left -= A_WRITE;
        }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(desk) = &self.0.0 {
            desk.slot().closing = true;
            desk.changed.notify_all();
            let wait = desk
                .changed
                .wait_timeout_while(desk.slot(), LAST_WORD, |slot| !slot.over);
            drop(wait);
        }
    }
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, path: &Path) {
        let mut complained = false;
        while let Some(record) = self.next() {
            match write(path, &record) {
                Ok(()) => complained = false,
                Err(error) if !std::mem::replace(&mut complained, true) => tracing::warn!(
                    "cannot write `{}`: {error}; `wakeport status` and the metrics stand still until that is put right",
                    path.display()
                ),
                Err(_) => (),
            }
        }
        self.slot().over = true;
        self.changed.notify_all();
    }

    /// Waits for a record; none comes any more when closing.
    fn next(&self) -> Option<Record> {
        let idle = |slot: &mut Slot| {
            slot.writing = false;
            slot.next.is_none() && !slot.closing
        };
        let slot = self.changed.wait_while(self.slot(), idle);
        let mut slot = slot.unwrap_or_else(PoisonError::into_inner);
        let next = slot.next.take();
        slot.writing = next.is_some();
        next
    }
}

fn write(path: &Path, record: &Record) -> io::Result<()> {
    let text = record.to_text();
    // The unit's UMask= would hide it from other users.
    let attempt = || file::replace(path, text.as_bytes(), 0o644);
    match attempt() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            file::make_directory(path.parent().unwrap_or(Path::new(".")))?;
            attempt()
        }
        written => written,
    }
}

/// Begins the record of `name`, or goes on with the one in `directory`. One that cannot be read is
/// put aside, and counting begins anew.
pub fn open(directory: &Path, name: &str) -> Record {
    match read(directory, name) {
        None => Record::default(),
        Some(Ok(record)) => record,
        Some(Err(why)) => {
            let path = path(directory, name);
            let aside = path.with_extension("json.old");
            tracing::warn!(
                "{why}; counting begins anew, and the file is `{}` now",
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
        let (keeper, closing) = StateWriter::start(directory, "app");
        keeper.keep(record.clone());
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
    fn what_is_kept_is_found_by_everybody() {
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
    fn of_many_the_latest_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let (keeper, closing) = StateWriter::start(directory.path(), "app");
        (0..10_000).for_each(|served| keeper.keep(counted(served)));
        drop(closing);
        assert_eq!(open(directory.path(), "app"), counted(9_999));
    }

    #[test]
    fn where_nothing_can_be_written_the_old_file_stays() {
        let directory = tempfile::tempdir().unwrap();
        keep(directory.path(), &counted(3));
        // Something is in the draft's way, whoever runs this test.
        let draft = directory.path().join(INSTANCES).join(".app.json.new");
        fs::create_dir(&draft).unwrap();
        keep(directory.path(), &counted(4));
        assert_eq!(open(directory.path(), "app"), counted(3));
        fs::remove_dir(&draft).unwrap();
        keep(directory.path(), &counted(5));
        assert_eq!(open(directory.path(), "app"), counted(5));
    }

    #[test]
    fn what_cannot_be_read_is_put_aside() {
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
    fn what_is_no_file_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        file::make_directory(&directory.path().join(INSTANCES)).unwrap();
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
