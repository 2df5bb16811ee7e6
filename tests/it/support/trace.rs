//! The system calls of `wakeport`, and injected errors: strace(1).

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::{Run, directory};

/// Watches some system calls, and may have some of them fail.
pub(crate) struct Trace {
    dir: TempDir,
    words: Vec<String>,
}

impl Trace {
    /// Watches these system calls, as in `pipe2,splice`.
    pub(crate) fn of(calls: &str) -> Self {
        let dir = directory();
        // In the background, so that the process that the test starts is the one that it watches.
        let words = ["strace", "--daemonize", "-f", "--seccomp-bpf", "-qq"];
        let mut words = words.map(str::to_owned).to_vec();
        words.push(format!("--output={}", dir.path().join("trace").display()));
        words.push("--signal=none".into());
        words.push(format!("--trace={calls}"));
        Self { dir, words }
    }

    /// Watches `wakeport` alone, not the programs that it runs.
    pub(crate) fn alone(mut self) -> Self {
        self.words.retain(|word| word != "--seccomp-bpf");
        self.words.push("--detach-on=execve".into());
        self
    }

    /// Has system calls fail, as in `splice:error=EINVAL`.
    pub(crate) fn inject(mut self, what: &str) -> Self {
        self.words.push(format!("--inject={what}"));
        self
    }

    pub(crate) fn around(&self, run: Run) -> Run {
        let words: Vec<_> = self.words.iter().map(String::as_str).collect();
        run.under(&words)
    }

    /// The calls so far, each in a line that begins with the number of its thread.
    pub(crate) fn text(&self) -> String {
        let bytes = fs::read(self.path()).expect("strace is installed (tests/run does)");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The calls so far in which all of `words` occur.
    pub(crate) fn count(&self, words: &[&str]) -> usize {
        let text = self.text();
        let lines = text.lines();
        lines
            .filter(|line| words.iter().all(|word| line.contains(word)))
            .count()
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("trace")
    }
}
