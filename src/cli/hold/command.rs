//! The command for which a service is held: its signals, and its exit code.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use rustix::process::{Pid, getpgrp, kill_process};
use rustix::termios::tcgetpgrp;
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};

use super::super::child;

/// A signal that is to end us, or means something to the command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signal(rustix::process::Signal);

impl Signal {
    /// The exit code of what it ends, as in shells.
    pub(super) fn exit(self) -> ExitCode {
        ExitCode::from(ended_by(self.0.as_raw()))
    }
}

fn ended_by(signal: i32) -> u8 {
    128_u8.saturating_add(u8::try_from(signal).unwrap_or(u8::MAX))
}

/// Signals that are caught.
pub(super) struct Signals([unix::Signal; 6]);

impl Signals {
    /// From now on they are caught.
    pub(super) fn new() -> io::Result<Self> {
        let [a, b, c, d, e, f] = KINDS.map(|(kind, _)| unix::signal(kind()));
        Ok(Self([a?, b?, c?, d?, e?, f?]))
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Signal {
        let [a, b, c, d, e, f] = &mut self.0;
        let index = tokio::select! {
            _ = a.recv() => 0,
            _ = b.recv() => 1,
            _ = c.recv() => 2,
            _ = d.recv() => 3,
            _ = e.recv() => 4,
            _ = f.recv() => 5,
        };
        Signal(KINDS[index].1)
    }
}

/// Makes one kind of signal.
type Kind = fn() -> SignalKind;

const KINDS: [(Kind, rustix::process::Signal); 6] = [
    (SignalKind::terminate, rustix::process::Signal::TERM),
    (SignalKind::interrupt, rustix::process::Signal::INT),
    (SignalKind::hangup, rustix::process::Signal::HUP),
    (SignalKind::quit, rustix::process::Signal::QUIT),
    (SignalKind::user_defined1, rustix::process::Signal::USR1),
    (SignalKind::user_defined2, rustix::process::Signal::USR2),
];

/// The command, as it runs.
pub(super) struct Running(Child);

impl Running {
    /// Starts it; if that fails, it is said why, and the exit code is as in shells.
    pub(super) fn start(program: &OsString, arguments: &[OsString]) -> Result<Self, ExitCode> {
        let started = Command::new(program).args(arguments).spawn();
        started
            .map(Self)
            .map_err(|error| child::refuse(program, &error))
    }

    /// Passes a signal on, unless the terminal does that.
    pub(super) fn signal(&self, Signal(signal): Signal) {
        let by_terminal = [
            rustix::process::Signal::INT,
            rustix::process::Signal::QUIT,
            rustix::process::Signal::HUP,
        ];
        if by_terminal.contains(&signal) && is_in_foreground() {
            return;
        }
        let pid = self.0.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            // It may have ended just now.
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits until it has ended: its exit code, or as in shells what stands for a signal.
    pub(super) async fn ended(&mut self) -> ExitCode {
        let status = self.0.wait().await;
        ExitCode::from(status.map_or(u8::MAX, code))
    }
}

fn code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, Some(signal)) => ended_by(signal),
        (None, None) => u8::MAX,
    }
}

/// Whether the terminal sends its signals to us and the command, which is in our process group.
fn is_in_foreground() -> bool {
    let input = io::stdin();
    input.is_terminal() && tcgetpgrp(&input).is_ok_and(|group| group == getpgrp())
}
