//! Other programs beside `wakeport`: servers and clients from Debian's packages.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{Place, directory, soon};

/// A program that runs in a directory of its own until this is dropped. What it prints is in the file `log` there.
pub(crate) struct Program {
    name: String,
    process: Child,
    dir: TempDir,
}

impl Program {
    /// Runs a command line in a directory with these files.
    pub(crate) fn start(command: &[&str], files: &[(&str, &str)]) -> Self {
        let dir = directory();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("a file of ours");
        }
        let log = fs::File::create(dir.path().join("log")).expect("a file of ours");
        let process = Command::new(command[0])
            .args(&command[1..])
            .current_dir(&dir)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", dir.path())
            .env("NODE_PATH", "/usr/share/nodejs")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn();
        let name = command[0].to_owned();
        let process = process
            .unwrap_or_else(|error| panic!("`{name}`: {error}; install it (tests/run does)"));
        Self { name, process, dir }
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// What it has printed.
    pub(crate) fn log(&self) -> String {
        let log = fs::read(self.path("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Waits for something, as long as it runs.
    pub(crate) fn until<T>(
        &mut self,
        what: &str,
        mut attempt: impl FnMut(&Self) -> Option<T>,
    ) -> T {
        soon(what, || {
            let ended = self.process.try_wait().expect("it is ours");
            let value = attempt(self);
            let name = &self.name;
            assert!(
                value.is_some() || ended.is_none(),
                "`{name}`: {ended:?}:\n{}",
                self.log()
            );
            value
        })
    }

    /// Waits until it listens there.
    pub(crate) fn listens(mut self, place: &Place) -> Self {
        self.until("it listens", |_| place.answers().then_some(()));
        self
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let name = self.name.clone();
        soon(&format!("`{name}` ends"), || {
            self.process.try_wait().expect("it is ours")
        })
    }

    /// Waits until it has ended well, and returns what it has printed.
    pub(crate) fn output(mut self) -> String {
        let status = self.wait();
        assert!(
            status.success(),
            "`{}`: {status}:\n{}",
            self.name,
            self.log()
        );
        self.log()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().cast_signed()).expect("a process ID");
        kill_process(pid, signal).expect("it runs");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "only a test that fails says this")]
            {
                eprintln!("-- `{}` has printed:\n{}", self.name, self.log());
            }
        }
    }
}
