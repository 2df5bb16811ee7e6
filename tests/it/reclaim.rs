//! What reclaims the memory of a frozen service, on folders that stand for its control group. Not shown here: that the
//! kernel reclaims anything, and how it refuses what it cannot reclaim.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use crate::repository::run;

const STEP: u64 = 16 << 20;
/// What ends the numbers that the kernel would get.
const END: &str = "end";

/// A folder for a control group, with a pipe where the kernel is told how much to reclaim.
struct Group {
    dir: TempDir,
    pipe: File,
}

impl Group {
    fn with(bytes: u64) -> Self {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let reclaim = dir.path().join("memory.reclaim");
        let made = run(Command::new("mkfifo").arg(&reclaim), "coreutils");
        assert!(made.status.success());
        // For both, so that it is never closed.
        let pipe = OpenOptions::new().read(true).write(true).open(&reclaim);
        let group = Self {
            pipe: pipe.expect("a pipe"),
            dir,
        };
        group.write("memory.current", &bytes.to_string());
        group.write("cgroup.freeze", "1");
        group
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// As the kernel would, whole or not at all.
    fn write(&self, file: &str, text: &str) {
        let new = self.path("new");
        fs::write(&new, format!("{text}\n")).expect("a scratch file");
        fs::rename(new, self.path(file)).expect("a scratch file");
    }

    /// What it was told, until it ends.
    fn steps(&self, mut reclaim: Child) -> (Vec<u64>, Output) {
        let pipe = self.pipe.try_clone().expect("a descriptor");
        let reader = std::thread::spawn(move || {
            let lines = BufReader::new(pipe).lines();
            let lines = lines.map(|line| line.expect("a line"));
            let steps = lines.take_while(|line| line != END);
            steps.map(|step| step.parse().expect("a number")).collect()
        });
        reclaim.wait().expect("it was started");
        writeln!(&self.pipe, "{END}").expect("a pipe");
        let steps = reader.join().expect("the reader does not panic");
        (
            steps,
            reclaim.wait_with_output().expect("it was waited for"),
        )
    }
}

fn reclaim(group: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wakeport"));
    command.arg("reclaim").arg(group).env_clear();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("wakeport can be run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn all_memory_is_reclaimed_once_step_by_step() {
    let bytes = 2 * STEP + 5;
    let group = Group::with(bytes);
    let (steps, output) = group.steps(reclaim(group.dir.path()));
    assert_eq!(steps, [STEP, STEP, 5]);
    assert_eq!(output.status.code(), Some(0));
    let said = text(&output.stdout);
    assert_eq!(said, format!("reclaimed 0 of {bytes} bytes: that is all\n"));
}

#[test]
fn a_thaw_ends_it_after_the_step_under_way() {
    // More steps than the pipe holds, so that it waits for us in one of them.
    let all = 1 << 20;
    let group = Group::with(all * STEP);
    let reclaim = reclaim(group.dir.path());
    group.write("cgroup.freeze", "0");
    let (steps, output) = group.steps(reclaim);
    assert!((steps.len() as u64) < all, "{} steps", steps.len());
    let said = text(&output.stdout);
    assert!(said.ends_with("it was thawed\n"), "{said}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn what_is_thawed_already_is_left_alone() {
    let group = Group::with(STEP);
    group.write("cgroup.freeze", "0");
    let (steps, output) = group.steps(reclaim(group.dir.path()));
    assert_eq!(steps, [0; 0]);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn without_the_memory_controller_it_fails_in_one_line_with_the_remedy() {
    for missing in ["memory.current", "memory.reclaim", "cgroup.freeze"] {
        let group = Group::with(STEP);
        fs::remove_file(group.path(missing)).expect("a scratch file");
        let output = reclaim(group.dir.path()).wait_with_output();
        let output = output.expect("it was started");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(missing), "{said}");
        assert!(said.contains("takes Linux 5.19"), "{said}");
    }
}

#[test]
fn a_number_that_is_none_is_an_error() {
    let group = Group::with(STEP);
    group.write("memory.current", "max");
    let output = reclaim(group.dir.path()).wait_with_output();
    assert_eq!(output.expect("it was started").status.code(), Some(69));
}
