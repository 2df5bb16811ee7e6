//! What a refusal, a failed unit or a lost bus is in one line, with what to do about it. Pure.

use std::collections::HashMap;

use zbus::{DBusError, Error, OwnedVariant};

use crate::backend::Failure;
use crate::config::Manager;

/// Why there is no answer, or not the wanted one.
#[derive(Debug)]
pub(super) enum BusError {
    /// Nobody answered; somebody may, in a moment.
    Passing(Failure),
    /// It will be the same the next time.
    Final(Failure),
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Look,
    Start,
    Stop,
    Reset,
}

/// What a unit says about its last run; empty where it says nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LastRun {
    /// `Result`.
    result: String,
    /// When it was inactive last, in µs of CLOCK_MONOTONIC.
    left_inactive_at: u64,
    /// How its main process ended, or is that of another process.
    exit: Option<Exit>,
    /// `Type=oneshot` without `RemainAfterExit=yes`.
    ends_when_done: bool,
    /// A `Condition*=` was looked at and is not met.
    unwanted: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Exit {
    Status(i32),
    Signal(i32),
}

impl LastRun {
    /// From the properties of the interfaces `Unit` and `Service`, or the like.
    pub(super) fn new(properties: &HashMap<String, OwnedVariant>) -> Self {
        let text = |name| {
            properties
                .get(name)
                .and_then(|value| <&str>::try_from(&**value).ok())
        };
        let number = |name| {
            properties
                .get(name)
                .and_then(|value| i32::try_from(&**value).ok())
        };
        let moment = |name| {
            properties
                .get(name)
                .and_then(|value| u64::try_from(&**value).ok())
        };
        let is = |name, wanted: bool| {
            properties
                .get(name)
                .and_then(|value| bool::try_from(&**value).ok())
                == Some(wanted)
        };
        // The codes are those of waitid(2): CLD_EXITED, CLD_KILLED, CLD_DUMPED.
        let exit = match (number("ExecMainCode"), number("ExecMainStatus")) {
            (Some(1), Some(status)) => Some(Exit::Status(status)),
            (Some(2 | 3), Some(signal)) => Some(Exit::Signal(signal)),
            _ => None,
        };
        Self {
            result: text("Result").unwrap_or_default().to_owned(),
            left_inactive_at: moment("InactiveExitTimestampMonotonic").unwrap_or_default(),
            exit,
            ends_when_done: text("Type") == Some("oneshot") && is("RemainAfterExit", false),
            unwanted: is("ConditionResult", false)
                && moment("ConditionTimestampMonotonic").is_some_and(|at| at > 0),
        }
    }
}

const LIMITED: &str = "start-limit-hit";

impl LastRun {
    /// A unit that has failed before keeps that `Result` when it hits its start limit (seen with
    /// systemd 252). What gives it away is a start job that failed without a start.
    pub(super) fn detect_start_limit(&mut self, job: Option<&str>, ordered_at: u64) {
        if job == Some("failed") && self.left_inactive_at < ordered_at {
            self.result = LIMITED.to_owned();
        }
    }

    /// Whether its start limit is why it did not start.
    pub(super) fn is_limited(&self) -> bool {
        self.result == LIMITED
    }
}

/// What a unit takes, in bytes. Where nobody counts, systemd says the highest number there is.
pub(super) fn memory(properties: &HashMap<String, OwnedVariant>) -> Option<u64> {
    let current = properties.get("MemoryCurrent")?;
    u64::try_from(&**current)
        .ok()
        .filter(|&bytes| bytes < u64::MAX)
}

/// How people call the manager.
pub(super) fn manager(manager: Manager) -> &'static str {
    match manager {
        Manager::System => "systemd on the system bus",
        Manager::User => "the user's systemd on its bus",
    }
}

/// The command that people type to reach the manager.
fn systemctl(manager: Manager) -> &'static str {
    match manager {
        Manager::System => "systemctl",
        Manager::User => "systemctl --user",
    }
}

/// What `error` means when we asked `of` to do `verb` with `unit`.
pub(super) fn trouble(error: &Error, verb: Verb, unit: &str, of: Manager) -> BusError {
    let (name, text) = if let Error::MethodError(name, text, _) = error {
        (name.to_string(), text.as_deref())
    } else if let Error::FDO(error) = error {
        (error.name().to_string(), error.description())
    } else {
        return BusError::Passing(unreachable(&error.to_string(), of));
    };
    let text = text.unwrap_or(&name);
    if is_passing(&name) {
        return BusError::Passing(unreachable(text, of));
    }
    BusError::Final(refused(&name, text.trim_end_matches('.'), verb, unit, of))
}

/// Whether the bus says that the manager is not there, rather than the manager that it won't.
fn is_passing(name: &str) -> bool {
    name.strip_prefix("org.freedesktop.DBus.Error.")
        .is_some_and(|name| {
            let gone = [
                "NoReply",
                "ServiceUnknown",
                "NameHasNoOwner",
                "Disconnected",
                "Timeout",
                "TimedOut",
                "LimitsExceeded",
            ];
            gone.contains(&name) || name.starts_with("Spawn.")
        })
}

fn unreachable(cause: &str, of: Manager) -> Failure {
    let remedy = match of {
        Manager::System => "is it running? see `systemctl status dbus`",
        Manager::User => {
            "is XDG_RUNTIME_DIR set, and does the user have a session or `loginctl enable-linger`?"
        }
    };
    Failure(format!(
        "{} does not answer ({cause}); {remedy}",
        manager(of)
    ))
}

fn refused(name: &str, text: &str, verb: Verb, unit: &str, of: Manager) -> Failure {
    let ctl = systemctl(of);
    let tried = match verb {
        Verb::Look => "looked at",
        Verb::Start => "started",
        Verb::Stop => "stopped",
        Verb::Reset => "started again after `start-limit-hit`",
    };
    let why = match name.rsplit('.').next().unwrap_or_default() {
        "UnitMasked" => format!("it is masked; `{ctl} unmask {unit}` if it may run"),
        "NoSuchUnit" => {
            format!(
                "there is no such unit; is the name right? after adding its file, `{ctl} daemon-reload`"
            )
        }
        "LoadFailed" | "BadUnitSetting" => {
            format!(
                "its unit file cannot be used ({text}); `systemd-analyze verify {unit}` says why"
            )
        }
        "AccessDenied" | "InteractiveAuthorizationRequired"
            if verb != Verb::Look && of == Manager::System =>
        {
            "polkit does not let us; `wakeport init` writes the rule, or add the unit to /etc/polkit-1/rules.d/50-wakeport.rules"
                .to_owned()
        }
        "OnlyByDependency" => {
            "its file says RefuseManualStart= or RefuseManualStop=; name a unit that requires it"
                .to_owned()
        }
        "TransactionIsDestructive" | "ShuttingDown" => {
            format!("the system, or what the unit needs, is shutting down ({text})")
        }
        _ => text.to_owned(),
    };
    Failure(format!("`{unit}` cannot be {tried}: {why}"))
}

/// Why `unit` is down although it was told to start: by how its start job ended, if that is
/// known, and by what the unit itself says.
pub(super) fn not_up(unit: &str, job: Option<&str>, run: &LastRun, of: Manager) -> Failure {
    let ctl = systemctl(of);
    let status = format!("see `{ctl} status {unit}`");
    let why = match job {
        Some("dependency") => format!("a unit that it requires failed; see `{ctl} --failed`"),
        Some("canceled") => "somebody else stopped it, or cancelled its start".to_owned(),
        Some("timeout") => "its start job took longer than its JobTimeoutSec=".to_owned(),
        Some("skipped") => "its ExecCondition= says no".to_owned(),
        Some("assert") => format!("an Assert*= of it is not met; {status}"),
        Some("invalid") => format!("its state allows no start; {status}"),
        Some("unsupported") => "this system does not support units of its kind".to_owned(),
        Some("collected") => format!("its start job was thrown away; {status}"),
        Some("once") => "it may run only once after the system was booted".to_owned(),
        Some("frozen") => format!("it is frozen; `{ctl} thaw {unit}`"),
        Some("concurrency") => {
            "its slice runs as many jobs as ConcurrencyHardMax= allows".to_owned()
        }
        Some("done" | "failed") | None => by_its_own_account(unit, run, of),
        Some(other) => format!("its start job ended with `{other}`; {status}"),
    };
    Failure(format!("`{unit}` did not start: {why}"))
}

/// Why `unit` is down, by its own account.
pub(super) fn gone_down(unit: &str, run: &LastRun, of: Manager) -> String {
    format!("`{unit}` is down: {}", by_its_own_account(unit, run, of))
}

fn by_its_own_account(unit: &str, run: &LastRun, of: Manager) -> String {
    let ctl = systemctl(of);
    let exit = match run.exit {
        Some(Exit::Status(203)) => ": its program cannot be executed (status 203)".to_owned(),
        Some(Exit::Status(status)) => format!(": its main process ended with status {status}"),
        Some(Exit::Signal(signal)) => format!(": signal {signal} ended its main process"),
        None => String::new(),
    };
    match run.result.as_str() {
        LIMITED => {
            format!("`start-limit-hit`: it was started too often; `{ctl} reset-failed {unit}`")
        }
        "timeout" => "`timeout`: it took longer than its TimeoutStartSec=".to_owned(),
        "success" | "" if run.unwanted => {
            format!("a Condition*= of it is not met; see `{ctl} status {unit}`")
        }
        "success" | "" if run.ends_when_done => {
            "a Type=oneshot is down when its program is done; it needs RemainAfterExit=yes"
                .to_owned()
        }
        "success" | "" if run.exit.is_some() => {
            "its main process ended at once, without an error; it has to stay in the foreground"
                .to_owned()
        }
        // A unit that nothing refers to is forgotten when it is down, and what it could tell.
        "success" | "" => format!(
            "it went down at once, without an error; either its main process ended, or a \
             Condition*= or ExecCondition= is not met: see `{ctl} status {unit}`"
        ),
        "exec-condition" => "its ExecCondition= says no".to_owned(),
        result => {
            let user = if of == Manager::User { "--user " } else { "" };
            format!("`{result}`{exit}; see `journalctl {user}-u {unit}`")
        }
    }
}

#[cfg(test)]
mod tests {
    use zbus::Variant;

    use super::*;

    fn run(properties: &[(&str, Variant<'_>)]) -> LastRun {
        let owned = |value: &Variant<'_>| value.try_to_owned().expect("holds no descriptor");
        LastRun::new(
            &properties
                .iter()
                .map(|(name, value)| ((*name).to_owned(), owned(value)))
                .collect(),
        )
    }

    #[test]
    fn a_refusal_names_the_unit_and_the_remedy() {
        const SYSTEMD: &str = "org.freedesktop.systemd1.";
        const DBUS: &str = "org.freedesktop.DBus.Error.";
        for (prefix, name, verb, words) in [
            (
                SYSTEMD,
                "UnitMasked",
                Verb::Start,
                "systemctl unmask x.service",
            ),
            (
                SYSTEMD,
                "NoSuchUnit",
                Verb::Start,
                "systemctl daemon-reload",
            ),
            (
                SYSTEMD,
                "LoadFailed",
                Verb::Start,
                "systemd-analyze verify x.service",
            ),
            (
                SYSTEMD,
                "BadUnitSetting",
                Verb::Start,
                "systemd-analyze verify x.service",
            ),
            (SYSTEMD, "OnlyByDependency", Verb::Stop, "RefuseManualStop="),
            (
                SYSTEMD,
                "TransactionIsDestructive",
                Verb::Start,
                "shutting down",
            ),
            (SYSTEMD, "ShuttingDown", Verb::Start, "shutting down"),
            (SYSTEMD, "NeverSeenBefore", Verb::Start, "TEXT"),
            (DBUS, "AccessDenied", Verb::Stop, "50-wakeport.rules"),
            (
                DBUS,
                "InteractiveAuthorizationRequired",
                Verb::Start,
                "50-wakeport.rules",
            ),
        ] {
            let name = format!("{prefix}{name}");
            let Failure(line) = refused(&name, "TEXT", verb, "x.service", Manager::System);
            assert!(line.starts_with("`x.service` cannot be "), "{line}");
            assert!(line.contains(words), "{line}");
            assert!(!is_passing(&name), "{name}");
        }
        for name in [
            "NoReply",
            "ServiceUnknown",
            "Disconnected",
            "Spawn.ChildExited",
        ] {
            assert!(is_passing(&format!("{DBUS}{name}")), "{name}");
        }
    }

    #[test]
    fn a_lost_bus_may_come_back() {
        let broken = Error::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        for (of, words) in [
            (Manager::System, "status dbus"),
            (Manager::User, "enable-linger"),
        ] {
            match trouble(&broken, Verb::Start, "x.service", of) {
                BusError::Passing(Failure(line)) => assert!(line.contains(words), "{line}"),
                BusError::Final(failure) => panic!("{failure}"),
            }
        }
    }

    #[test]
    fn a_failed_start_is_explained_by_job_and_unit() {
        let exit = |code: i32, status: i32, result| {
            run(&[
                ("ExecMainCode", code.into()),
                ("ExecMainStatus", status.into()),
                ("Result", Variant::from(result)),
            ])
        };
        let oneshot = [
            ("Type", Variant::from("oneshot")),
            ("RemainAfterExit", false.into()),
        ];
        let condition = [
            ("ConditionResult", false.into()),
            ("ConditionTimestampMonotonic", 7u64.into()),
        ];
        for (job, run, words) in [
            (
                Some("failed"),
                exit(1, 7, "exit-code"),
                "`exit-code`: its main process ended with status 7;",
            ),
            (
                Some("done"),
                exit(1, 1, "exit-code"),
                "`exit-code`: its main process ended with status 1;",
            ),
            (
                Some("done"),
                exit(3, 11, "core-dump"),
                "`core-dump`: signal 11 ended its main process;",
            ),
            (
                Some("failed"),
                exit(0, 0, "exit-code"),
                "`exit-code`; see `journalctl -u x.service`",
            ),
            (None, exit(1, 203, "exit-code"), "cannot be executed"),
            (
                Some("failed"),
                exit(0, 0, "start-limit-hit"),
                "systemctl reset-failed x.service",
            ),
            (Some("failed"), exit(2, 15, "timeout"), "TimeoutStartSec="),
            (
                Some("done"),
                exit(1, 0, "success"),
                "stay in the foreground",
            ),
            (Some("done"), run(&oneshot), "RemainAfterExit=yes"),
            (Some("done"), run(&condition), "Condition*="),
            (Some("done"), run(&[]), "went down at once, without"),
            (Some("dependency"), run(&[]), "requires"),
            (Some("canceled"), run(&[]), "somebody else"),
            (Some("timeout"), run(&[]), "JobTimeoutSec="),
            (Some("skipped"), run(&[]), "ExecCondition="),
            (Some("frozen"), run(&[]), "systemctl thaw x.service"),
            (
                Some("never-seen"),
                run(&[("Result", Variant::from(1u8))]),
                "`never-seen`",
            ),
        ] {
            let Failure(line) = not_up("x.service", job, &run, Manager::System);
            assert!(line.starts_with("`x.service` did not start: "), "{line}");
            assert!(line.contains(words), "{job:?} {run:?}: {line}");
        }
        let Failure(line) = not_up("x.service", None, &exit(1, 1, "exit-code"), Manager::User);
        assert!(line.ends_with("`journalctl --user -u x.service`"), "{line}");
    }

    #[test]
    fn a_start_job_that_fails_without_a_start_means_the_limit() {
        let before = [
            ("Result", "signal".into()),
            ("InactiveExitTimestampMonotonic", 5u64.into()),
        ];
        for (job, ordered_at, limited) in [
            (Some("failed"), 9, true),
            (Some("failed"), 4, false),
            (Some("done"), 9, false),
            (None, 9, false),
        ] {
            let mut run = run(&before);
            run.detect_start_limit(job, ordered_at);
            assert_eq!(run.is_limited(), limited, "{job:?} {ordered_at}");
        }
    }

    #[test]
    fn memory_that_nobody_counts_is_not_known() {
        let said = |bytes: u64| {
            let value = Variant::from(bytes)
                .try_to_owned()
                .expect("holds no descriptor");
            HashMap::from([("MemoryCurrent".to_owned(), value)])
        };
        assert_eq!(memory(&said(50_646_220)), Some(50_646_220));
        assert_eq!(memory(&said(u64::MAX)), None);
        assert_eq!(memory(&HashMap::new()), None);
    }
}
