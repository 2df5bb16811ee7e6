//! A unit has one instance that stops it: an exclusive flock(2) on `units/UNIT` in the state
//! directory, which all instances of a machine share.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::config::UnitName;
use crate::util::file;

/// Where the locks are, below the state directory. Only their owner may open them: a lock can be
/// taken through any descriptor, one for reading included.
const UNITS: &str = "units";

/// The name of an instance has at most as many bytes (`--name`).
const LONGEST_NAME: u64 = 200;

/// The units of one instance. The kernel releases them when it is dropped and when the process
/// ends, however that happens. The files stay: one that is unlinked could be locked twice.
#[derive(Debug)]
pub(super) struct UnitLock {
    _files: Vec<File>,
}

/// Why a unit is not locked.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    /// Another instance has this unit; its name, where it has left that.
    #[error("`{0}` is woken and stopped by `{by}` already", by = .1.as_deref().unwrap_or("another instance"))]
    Held(UnitName, Option<String>),
    /// The lock cannot be taken at all.
    #[error("cannot lock `{path}`: {1}", path = .0.display())]
    Io(PathBuf, io::Error),
}

impl UnitLock {
    /// Locks all of `units` for `instance`, or none. Does not wait.
    pub(super) fn acquire<'a>(
        state_dir: &Path,
        instance: &str,
        units: impl IntoIterator<Item = &'a UnitName>,
    ) -> Result<Self, LockError> {
        let directory = state_dir.join(UNITS);
        file::make_directory(&directory, 0o700)
            .map_err(|error| LockError::Io(directory.clone(), error))?;
        // All in one order: of several instances that want the same units, one gets them.
        let mut units: Vec<_> = units.into_iter().collect();
        units.sort_by_key(|unit| unit.as_str());
        units.dedup();
        let mut files = Vec::new();
        for unit in units {
            let path = directory.join(unit.as_str());
            match lock(&path, instance) {
                Ok(Ok(file)) => files.push(file),
                Ok(Err(by)) => return Err(LockError::Held(unit.clone(), by)),
                Err(error) => return Err(LockError::Io(path, error)),
            }
        }
        Ok(Self { _files: files })
    }
}

/// The locked file, or the name that its owner has left in it.
fn lock(path: &Path, instance: &str) -> io::Result<Result<File, Option<String>>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = file::open_regular(options.mode(0o600), path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            file.set_len(0)?;
            file.write_all(instance.as_bytes())?;
            Ok(Ok(file))
        }
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut bytes = Vec::new();
            file.take(LONGEST_NAME).read_to_end(&mut bytes)?;
            let name = String::from_utf8(bytes).ok();
            let name =
                name.filter(|name| !name.is_empty() && !name.contains(|c: char| c.is_control()));
            Ok(Err(name))
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::fs;
    use std::io::{BufRead, BufReader};
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Child, Command, Stdio};
    use std::thread;
    use std::time::Duration;

    use super::*;

    const INNER: &str = "server::unit_lock::tests::inner";
    const DIRECTORY: &str = "WAKEPORT_TEST_LOCKS";

    fn units(names: &[&str]) -> Vec<UnitName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn acquire(directory: &Path, instance: &str, names: &[&str]) -> Result<UnitLock, LockError> {
        UnitLock::acquire(directory, instance, &units(names))
    }

    /// Until it can be had: a process that another test starts has the lock, too, up to its exec.
    fn acquire_released(directory: &Path, instance: &str, names: &[&str]) -> UnitLock {
        for _ in 0..3000 {
            match acquire(directory, instance, names) {
                Err(LockError::Held(..)) => thread::sleep(Duration::from_millis(10)),
                outcome => return outcome.unwrap(),
            }
        }
        panic!("the lock is held for good");
    }

    /// Who has it, and which one.
    #[track_caller]
    fn held(outcome: Result<UnitLock, LockError>) -> (String, Option<String>) {
        match outcome {
            Err(LockError::Held(unit, by)) => (unit.to_string(), by),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_instance_has_a_unit_and_the_other_learns_which() {
        let directory = tempfile::tempdir().unwrap();
        let web = acquire(directory.path(), "web", &["a", "b"]).unwrap();
        let refused = acquire(directory.path(), "media", &["c", "b"]);
        let text = refused.as_ref().unwrap_err().to_string();
        assert_eq!(text, "`b.service` is woken and stopped by `web` already");
        assert_eq!(held(refused), ("b.service".into(), Some("web".into())));
        // All or none.
        let media = acquire(directory.path(), "media", &["c"]).unwrap();
        drop(web);
        let b = acquire_released(directory.path(), "m", &["b", "b"]);
        let refused = held(acquire(directory.path(), "web", &["a", "b"]));
        assert_eq!(refused, ("b.service".into(), Some("m".into())));
        drop((media, b));
        acquire_released(directory.path(), "web", &["a", "b", "c"]);
    }

    #[test]
    fn only_the_owner_may_open_a_lock() {
        let directory = tempfile::tempdir().unwrap();
        let _lock = acquire(directory.path(), "web", &["a"]).unwrap();
        let mode = |path: &str| {
            let meta = fs::metadata(directory.path().join(path)).unwrap();
            meta.permissions().mode() & 0o777
        };
        assert_eq!((mode("units"), mode("units/a.service")), (0o700, 0o600));
    }

    #[test]
    fn what_cannot_be_locked_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let locks = directory.path().join(UNITS);
        file::make_directory(&locks, 0o700).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", locks.join("link.service")).unwrap();
        fs::create_dir(locks.join("folder.service")).unwrap();
        for unit in ["link", "folder"] {
            let error = acquire(directory.path(), "web", &[unit]).unwrap_err();
            let expected = format!("cannot lock `{}/{unit}.service`: ", locks.display());
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
        let nowhere = directory.path().join("not/there");
        assert!(matches!(
            acquire(&nowhere, "web", &["a"]),
            Err(LockError::Io(..))
        ));
    }

    /// Not a test in itself: the next one runs it in a process of its own.
    #[test]
    fn inner() {
        let Some(directory) = env::var_os(DIRECTORY) else {
            return;
        };
        let _lock = acquire(directory.as_ref(), "other", &["a"]).unwrap();
        writeln!(io::stdout(), "\nlocked").unwrap();
        // Until it is killed, or the test ends.
        let _ = io::stdin().read_line(&mut String::new());
    }

    #[test]
    fn a_killed_process_holds_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut other: Child = Command::new(env::current_exe().unwrap())
            .args([INNER, "--exact", "--nocapture"])
            .env(DIRECTORY, directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(other.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "locked"));
        let refused = held(acquire(directory.path(), "web", &["a"]));
        assert_eq!(refused, ("a.service".into(), Some("other".into())));
        other.kill().unwrap();
        other.wait().unwrap();
        acquire_released(directory.path(), "web", &["a"]);
    }
}
