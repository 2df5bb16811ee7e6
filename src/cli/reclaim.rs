//! `wakeport reclaim`, hidden: has the kernel reclaim the memory of a control group while that is frozen.
//! `wakeport-reclaim@.service` runs it, since it takes root.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{Exit, Fatal, output};

/// So much between two looks at whether it is still frozen: a client waits for none of it, and what is reclaimed
/// after a thaw has to come back.
const STEP: u64 = 16 << 20;

/// What to reclaim from.
#[derive(Debug, clap::Args)]
pub(super) struct Reclaim {
    /// The folder of the control group
    cgroup: PathBuf,
}

/// Reclaims once all that it has.
pub(super) fn run(reclaim: &Reclaim) -> ExitCode {
    match all(&reclaim.cgroup) {
        Ok(said) => {
            output::line(&said);
            ExitCode::SUCCESS
        }
        Err(message) => output::fatal(&Fatal::new(Exit::Unavailable, message)),
    }
}

fn all(cgroup: &Path) -> Result<String, String> {
    let before = current(cgroup)?;
    let mut left = before;
    let end = loop {
        if read(cgroup, "cgroup.freeze")?.trim() != "1" {
            break "it was thawed";
        }
        let step = left.min(STEP);
        if step == 0 {
            break "that is all";
        }
        match write(cgroup, step) {
            Ok(()) => left -= step,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                break "the rest is in use, or there is no swap for it";
            }
            Err(error) => return Err(wrong(cgroup, "memory.reclaim", &error)),
        }
    };
    let freed = before.saturating_sub(current(cgroup)?);
    Ok(format!("reclaimed {freed} of {before} bytes: {end}"))
}

/// How much memory it has.
fn current(cgroup: &Path) -> Result<u64, String> {
    let text = read(cgroup, "memory.current")?;
    let odd = || wrong(cgroup, "memory.current", &ErrorKind::InvalidData.into());
    text.trim().parse().map_err(|_| odd())
}

fn read(cgroup: &Path, file: &str) -> Result<String, String> {
    fs::read_to_string(cgroup.join(file)).map_err(|error| wrong(cgroup, file, &error))
}

/// The kernel takes a number for each write, and refuses if it could not reclaim so much.
fn write(cgroup: &Path, bytes: u64) -> io::Result<()> {
    let file = cgroup.join("memory.reclaim");
    let mut file = OpenOptions::new().write(true).open(file)?;
    file.write_all(format!("{bytes}\n").as_bytes())
}

fn wrong(cgroup: &Path, file: &str, error: &io::Error) -> String {
    format!(
        "cannot reclaim memory by `{}`: {error}; that takes Linux 5.19 and the memory controller of control groups of version 2",
        cgroup.join(file).display()
    )
}
