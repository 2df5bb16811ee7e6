//! `wakeport child`, hidden: sets what only the process itself can set, and executes a program of
//! the administrator's. (The usual place for that is between fork and exec, which takes unsafe
//! code.)

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::server::limits;

/// What to execute, and how.
#[derive(Debug, clap::Args)]
pub struct Child {
    /// The soft limit on open files
    #[arg(long)]
    open_files: u64,
    /// The process to die with
    #[arg(long)]
    parent: i32,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// As in shells: the program does not exist.
const NOT_FOUND: u8 = 127;
/// As in shells: the program exists and cannot be executed.
const NOT_RUN: u8 = 126;

/// Executes the program. Returns only if that fails, with the exit code.
pub fn run(child: Child) -> ExitCode {
    let Some((program, arguments)) = child.command.split_first() else {
        return ExitCode::from(NOT_FOUND);
    };
    // If this fails, the program runs with a higher limit.
    let _ = limits::set_open_files(child.open_files);
    if let Err(error) = die_with(child.parent) {
        return refuse(program, &error);
    }
    refuse(program, &Command::new(program).args(arguments).exec())
}

/// Makes the kernel kill us when `parent` ends, in whatever way. Programs that it starts are
/// not covered, and neither are set-user-ID programs (PR_SET_PDEATHSIG(2const)).
fn die_with(parent: i32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before.
    match getppid() {
        Some(now) if Pid::from_raw(parent) == Some(now) => Ok(()),
        _ => Err(io::Error::other("wakeport has ended")),
    }
}

/// Says why a program cannot be run; the exit code is as in shells.
pub(super) fn refuse(program: &OsString, error: &io::Error) -> ExitCode {
    // Fails if standard error is closed.
    let _ = writeln!(io::stderr(), "cannot run `{}`: {error}", program.display());
    let code = if error.kind() == io::ErrorKind::NotFound {
        NOT_FOUND
    } else {
        NOT_RUN
    };
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::process::{Output, Stdio};

    use super::*;
    use crate::program::tests::{Mark, until};

    const INNER: &str = "cli::child::tests::inner";
    const PARENT: &str = "WAKEPORT_TEST_PARENT";
    const PROGRAM: &str = "WAKEPORT_TEST_PROGRAM";

    /// Not a test in itself: the others run it in a process of its own, which it replaces.
    #[test]
    fn inner() {
        let (Ok(parent), Some(program)) = (env::var(PARENT), env::var_os(PROGRAM)) else {
            return;
        };
        let parent = parent.parse().expect("a number");
        let command = [
            &program,
            &"-c".into(),
            &env::var_os("SCRIPT").unwrap_or_default(),
        ];
        let command = command.into_iter().cloned().collect();
        panic!(
            "{:?}",
            run(Child {
                open_files: 100,
                parent,
                command
            })
        );
    }

    fn outer(program: &str, script: &str, parent: u32) -> Output {
        Command::new(env::current_exe().expect("we run"))
            .args([INNER, "--exact", "--nocapture"])
            .env(PARENT, parent.to_string())
            .env(PROGRAM, program)
            .env("SCRIPT", script)
            .output()
            .expect("it runs")
    }

    #[test]
    fn the_program_takes_over_with_its_limit() {
        let output = outer("sh", "ulimit -Sn; exit 7", std::process::id());
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.lines().any(|line| line == "100"), "{output:?}");
        assert_eq!(output.status.code(), Some(7), "{output:?}");
    }

    #[test]
    fn a_program_that_cannot_be_run_is_named() {
        for (program, code) in [("/no/such", 127), ("/", 126)] {
            let output = outer(program, "", std::process::id());
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(
                text.contains(&format!("cannot run `{program}`: ")),
                "{text}"
            );
            assert!(
                text.contains(&format!("unix_exit_status({code})")),
                "{text}"
            );
        }
    }

    #[test]
    fn without_its_parent_nothing_is_run() {
        let output = outer("sh", "exit 7", std::process::id() + 1);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            text.contains("cannot run `sh`: wakeport has ended"),
            "{text}"
        );
        assert_ne!(output.status.code(), Some(7));
    }

    #[tokio::test]
    async fn the_program_dies_with_its_parent() {
        let (dir, mark) = (tempfile::tempdir().expect("a directory"), Mark::new());
        let ready = dir.path().join("ready");
        let middle = format!("{PARENT}=$$ \"$0\" {INNER} --exact & wait");
        let mut middle = Command::new("sh")
            .args([
                "-c".as_ref(),
                middle.as_ref(),
                env::current_exe().expect("we run").as_os_str(),
            ])
            .env(Mark::NAME, mark.value())
            .env(PROGRAM, "sh")
            .env(
                "SCRIPT",
                format!("touch {}; exec sleep 1000", ready.display()),
            )
            .stdout(Stdio::null())
            .spawn()
            .expect("it runs");
        until(|| ready.exists()).await;
        assert_eq!(mark.alive(), 2);
        middle.kill().expect("it runs");
        middle.wait().expect("it ends");
        until(|| mark.alive() == 0).await;
    }
}
