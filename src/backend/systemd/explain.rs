//! A refusal, a failed unit or a lost bus in one line, with the remedy. Pure.

use zbus::{DBusError, Error};

use crate::backend::Failure;
use crate::config::Manager;
use crate::systemd::dbus::Properties;

/// Why there is no reply, or not the wanted one.
#[derive(Debug)]
pub(super) enum BusError {
    /// The bus or the manager is gone; a retry may succeed.
    Transient(Failure),
    /// A retry would fail as well.
    Final(Failure),
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Query,
    Start,
    Stop,
    Reset,
    Freeze,
    Thaw,
}

/// What a unit says about its last run; empty where it says nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LastRun {
    /// `Result`.
    result: String,
    /// When it last left the inactive state, in µs of CLOCK_MONOTONIC.
    left_inactive_at: u64,
    /// How its main process exited.
    exit: Option<MainExit>,
    /// `Type=oneshot` without `RemainAfterExit=yes`.
    ends_when_done: bool,
    /// A `Condition*=` is not met.
    unwanted: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum MainExit {
    Status(i32),
    Signal(i32),
}

impl LastRun {
    /// From the properties of the interfaces `Unit` and `Service`, or the like.
    pub(super) fn new(properties: &Properties) -> Self {
        let text = |name| properties.get::<&str>(name);
        let number = |name| properties.get::<i32>(name);
        let moment = |name| properties.get::<u64>(name).unwrap_or_default();
        let is_no = |name| properties.get(name) == Some(false);
        // The codes are those of waitid(2): CLD_EXITED, CLD_KILLED, CLD_DUMPED.
        let exit = match (number("ExecMainCode"), number("ExecMainStatus")) {
            (Some(1), Some(status)) => Some(MainExit::Status(status)),
            (Some(2 | 3), Some(signal)) => Some(MainExit::Signal(signal)),
            _ => None,
        };
        Self {
            result: text("Result").unwrap_or_default().to_owned(),
            left_inactive_at: moment("InactiveExitTimestampMonotonic"),
            exit,
            ends_when_done: text("Type") == Some("oneshot") && is_no("RemainAfterExit"),
            unwanted: is_no("ConditionResult") && moment("ConditionTimestampMonotonic") > 0,
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

/// What a unit takes of something; systemd reports the highest number where that is not accounted.
pub(super) fn counter(properties: &Properties, name: &str) -> Option<u64> {
    properties.get(name).filter(|&count| count < u64::MAX)
}

/// The manager, in words.
pub(super) fn manager(manager: Manager) -> &'static str {
    match manager {
        Manager::System => "systemd on the system bus",
        Manager::User => "the user's systemd on its bus",
    }
}

/// What `error` means as the reply of `of` to `verb` with `unit`.
pub(super) fn bus_error(error: &Error, verb: Verb, unit: &str, of: Manager) -> BusError {
    let (name, text) = if let Error::MethodError(name, text, _) = error {
        (name.to_string(), text.as_deref())
    } else if let Error::FDO(error) = error {
        (error.name().to_string(), error.description())
    } else {
        return BusError::Transient(unreachable(&error.to_string(), of));
    };
    let text = text.unwrap_or(&name);
    if is_transient(&name) {
        return BusError::Transient(unreachable(text, of));
    }
    BusError::Final(refused(&name, text.trim_end_matches('.'), verb, unit, of))
}

/// Whether the manager is gone, rather than unwilling.
fn is_transient(name: &str) -> bool {
    match name.strip_prefix("org.freedesktop.DBus.Error.") {
        Some(
            "NoReply" | "ServiceUnknown" | "NameHasNoOwner" | "Disconnected" | "Timeout"
            | "TimedOut" | "LimitsExceeded",
        ) => true,
        Some(name) => name.starts_with("Spawn."),
        None => false,
    }
}

fn unreachable(cause: &str, of: Manager) -> Failure {
    let remedy = match of {
        Manager::System => "is it running? see `systemctl status dbus`",
        Manager::User => {
            "is XDG_RUNTIME_DIR set, and does the user have a session or `loginctl enable-linger`?"
        }
    };
    Failure(format!(
        "{} does not answer: {cause}; {remedy}",
        manager(of)
    ))
}

fn refused(name: &str, text: &str, verb: Verb, unit: &str, of: Manager) -> Failure {
    let ctl = of.systemctl();
    let what = match verb {
        Verb::Query => "query",
        Verb::Start => "start",
        Verb::Stop => "stop",
        Verb::Reset => "reset the start limit of",
        Verb::Freeze => "freeze",
        Verb::Thaw => "thaw",
    };
    let why = match name.rsplit('.').next().unwrap_or_default() {
        "UnitMasked" => format!("it is masked; `{ctl} unmask {unit}`"),
        "NoSuchUnit" => {
            format!("no such unit; check its name, or run `{ctl} daemon-reload` if its file is new")
        }
        "LoadFailed" | "BadUnitSetting" => {
            format!("invalid unit file ({text}); `systemd-analyze verify {unit}`")
        }
        "AccessDenied" | "InteractiveAuthorizationRequired"
            if unit.ends_with(".slice") && of == Manager::System =>
        {
            "not authorized by D-Bus and polkit; `wakeport init` with `--freeze-after` writes what does"
                .to_owned()
        }
        "AccessDenied" if verb == Verb::Thaw => {
            format!("not authorized: before systemd 262 only root may; `{ctl} thaw {unit}`")
        }
        "AccessDenied" | "InteractiveAuthorizationRequired"
            if verb != Verb::Query && of == Manager::System =>
        {
            "not authorized by polkit; `wakeport init` writes the rule, or add the unit to /etc/polkit-1/rules.d/50-wakeport.rules"
                .to_owned()
        }
        "OnlyByDependency" => {
            "RefuseManualStart= or RefuseManualStop= is set; name a unit that requires it"
                .to_owned()
        }
        "TransactionIsDestructive" | "ShuttingDown" => {
            format!("the system, or what the unit needs, is shutting down ({text})")
        }
        _ => text.to_owned(),
    };
    Failure(format!("cannot {what} `{unit}`: {why}"))
}

/// Why `unit` is down although it was told to start: by how its start job ended, if that is
/// known, and by what the unit itself says.
pub(super) fn not_up(unit: &str, job: Option<&str>, run: &LastRun, of: Manager) -> Failure {
    let ctl = of.systemctl();
    let status = format!("see `{ctl} status {unit}`");
    let why = match job {
        Some("dependency") => format!("a unit that it requires failed; see `{ctl} --failed`"),
        Some("canceled") => "its start job was cancelled by another process".to_owned(),
        Some("timeout") => "its start job exceeded its JobTimeoutSec=".to_owned(),
        Some("skipped") => "ExecCondition= not met".to_owned(),
        Some("assert") => format!("Assert*= not met; {status}"),
        Some("invalid") => format!("its state allows no start; {status}"),
        Some("unsupported") => "units of its type are not supported on this system".to_owned(),
        Some("collected") => format!("its start job was discarded; {status}"),
        Some("once") => "it may run only once per boot".to_owned(),
        Some("frozen") => format!("it is frozen; `{ctl} thaw {unit}`"),
        Some("concurrency") => "its slice has reached ConcurrencyHardMax=".to_owned(),
        Some("done" | "failed") | None => cause(unit, run, of),
        Some(other) => format!("its start job ended with `{other}`; {status}"),
    };
    Failure(format!("`{unit}` failed to start: {why}"))
}

/// Why `unit` was not stopped, which is frozen.
pub(super) fn frozen(unit: &str, of: Manager) -> Failure {
    let ctl = of.systemctl();
    Failure(format!(
        "`{unit}` cannot be stopped while it is frozen; `{ctl} thaw {unit}`"
    ))
}

/// How `unit` has ended, which was told to stop and counts as failed.
pub(super) fn stopped_as_failed(unit: &str, run: &LastRun, of: Manager) -> String {
    let log = format!("see `{}`", of.journalctl(unit));
    let (how, remedy) = match (run.result.as_str(), &run.exit) {
        ("exit-code", Some(MainExit::Status(status @ 1..))) => (
            format!("status {status}"),
            format!("set SuccessExitStatus={status}"),
        ),
        ("signal" | "core-dump", Some(MainExit::Signal(signal))) => {
            (format!("signal {signal}"), log)
        }
        ("timeout", _) => (
            "timeout".to_owned(),
            "it exceeds its TimeoutStopSec=".to_owned(),
        ),
        (result, _) => (format!("`{result}`"), log),
    };
    format!("`{unit}` stopped, but ended as failed ({how}); {remedy}")
}

/// Why `unit` is down, by its own account.
pub(super) fn gone_down(unit: &str, run: &LastRun, of: Manager) -> String {
    format!("`{unit}` is down: {}", cause(unit, run, of))
}

fn cause(unit: &str, run: &LastRun, of: Manager) -> String {
    let ctl = of.systemctl();
    let exit = match run.exit {
        Some(MainExit::Status(203)) => ": its program cannot be executed (status 203)".to_owned(),
        Some(MainExit::Status(status)) => format!(": main process exited with status {status}"),
        Some(MainExit::Signal(signal)) => format!(": main process killed by signal {signal}"),
        None => String::new(),
    };
    match run.result.as_str() {
        LIMITED => format!("`start-limit-hit`: started too often; `{ctl} reset-failed {unit}`"),
        "timeout" => "`timeout`: it exceeded its TimeoutStartSec=".to_owned(),
        "success" | "" if run.unwanted => {
            format!("Condition*= not met; see `{ctl} status {unit}`")
        }
        "success" | "" if run.ends_when_done => {
            "a Type=oneshot is down when its program is done; set RemainAfterExit=yes".to_owned()
        }
        "success" | "" if run.exit.is_some() => {
            "main process exited at once without an error; it has to stay in the foreground"
                .to_owned()
        }
        // A unit that nothing refers to is unloaded when it is down, with what it could tell.
        "success" | "" => format!(
            "it stopped at once without an error: main process exited, or Condition*= or \
             ExecCondition= not met; see `{ctl} status {unit}`"
        ),
        "exec-condition" => "ExecCondition= not met".to_owned(),
        result => format!("`{result}`{exit}; see `{}`", of.journalctl(unit)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use zbus::Variant;

    use super::*;

    fn properties(properties: &[(&str, Variant<'_>)]) -> Properties {
        let owned = |value: &Variant<'_>| value.try_to_owned().expect("holds no descriptor");
        let all = properties.iter();
        Properties(HashMap::from_iter(
            all.map(|(name, value)| ((*name).to_owned(), owned(value))),
        ))
    }

    fn run(all: &[(&str, Variant<'_>)]) -> LastRun {
        LastRun::new(&properties(all))
    }

    #[test]
    fn a_refusal_names_the_unit_and_the_remedy() {
        const SYSTEMD: &str = "org.freedesktop.systemd1.";
        const DBUS: &str = "org.freedesktop.DBus.Error.";
        const VERIFY: &str = "systemd-analyze verify x.service";
        const RULES: &str = "not authorized by polkit; `wakeport init` writes the rule, or add the unit to /etc/polkit-1/rules.d/50-wakeport.rules";
        use Verb::{Start, Stop};
        for (prefix, name, verb, words) in [
            (SYSTEMD, "UnitMasked", Start, "systemctl unmask x.service"),
            (SYSTEMD, "NoSuchUnit", Start, "systemctl daemon-reload"),
            (SYSTEMD, "LoadFailed", Start, VERIFY),
            (SYSTEMD, "BadUnitSetting", Start, VERIFY),
            (SYSTEMD, "OnlyByDependency", Stop, "RefuseManualStop="),
            (SYSTEMD, "TransactionIsDestructive", Start, "shutting down"),
            (SYSTEMD, "ShuttingDown", Start, "shutting down"),
            (SYSTEMD, "NeverSeenBefore", Start, "TEXT"),
            (DBUS, "AccessDenied", Stop, RULES),
            (DBUS, "InteractiveAuthorizationRequired", Start, RULES),
        ] {
            let name = format!("{prefix}{name}");
            let Failure(line) = refused(&name, "TEXT", verb, "x.service", Manager::System);
            assert!(line.starts_with("cannot "), "{line}");
            assert!(line.contains(" `x.service`: "), "{line}");
            assert!(line.contains(words), "{line}");
            assert!(!is_transient(&name), "{name}");
        }
        for name in [
            "NoReply",
            "ServiceUnknown",
            "Disconnected",
            "Spawn.ChildExited",
        ] {
            assert!(is_transient(&format!("{DBUS}{name}")), "{name}");
        }
    }

    #[test]
    fn a_lost_bus_may_come_back() {
        let broken = Error::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        for (of, words) in [
            (Manager::System, "status dbus"),
            (Manager::User, "enable-linger"),
        ] {
            match bus_error(&broken, Verb::Start, "x.service", of) {
                BusError::Transient(Failure(line)) => assert!(line.contains(words), "{line}"),
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
        let (failed, done) = (Some("failed"), Some("done"));
        let unknown = [("Result", Variant::from(1u8))];
        for (job, run, words) in [
            (
                failed,
                exit(1, 7, "exit-code"),
                "`exit-code`: main process exited with status 7;",
            ),
            (
                done,
                exit(1, 1, "exit-code"),
                "`exit-code`: main process exited with status 1;",
            ),
            (
                done,
                exit(3, 11, "core-dump"),
                "`core-dump`: main process killed by signal 11;",
            ),
            (
                failed,
                exit(0, 0, "exit-code"),
                "`exit-code`; see `journalctl -u x.service`",
            ),
            (None, exit(1, 203, "exit-code"), "cannot be executed"),
            (
                failed,
                exit(0, 0, LIMITED),
                "systemctl reset-failed x.service",
            ),
            (failed, exit(2, 15, "timeout"), "TimeoutStartSec="),
            (done, exit(1, 0, "success"), "stay in the foreground"),
            (done, run(&oneshot), "RemainAfterExit=yes"),
            (done, run(&condition), "Condition*="),
            (done, run(&[]), "stopped at once without"),
            (Some("dependency"), run(&[]), "requires"),
            (Some("canceled"), run(&[]), "cancelled by another process"),
            (Some("timeout"), run(&[]), "JobTimeoutSec="),
            (Some("skipped"), run(&[]), "ExecCondition="),
            (Some("frozen"), run(&[]), "systemctl thaw x.service"),
            (Some("never-seen"), run(&unknown), "`never-seen`"),
        ] {
            let Failure(line) = not_up("x.service", job, &run, Manager::System);
            assert!(line.starts_with("`x.service` failed to start: "), "{line}");
            assert!(line.contains(words), "{job:?} {run:?}: {line}");
        }
        let Failure(line) = not_up("x.service", None, &exit(1, 1, "exit-code"), Manager::User);
        assert!(line.ends_with("`journalctl --user -u x.service`"), "{line}");
    }

    #[test]
    fn a_unit_that_ended_as_failed_is_told_how_to_end_well() {
        let run = |code: i32, status: i32, result| LastRun {
            result: String::from(result),
            exit: match code {
                1 => Some(MainExit::Status(status)),
                2 => Some(MainExit::Signal(status)),
                _ => None,
            },
            ..LastRun::default()
        };
        for (run, words) in [
            (
                run(1, 143, "exit-code"),
                "(status 143); set SuccessExitStatus=143",
            ),
            (
                run(2, 9, "timeout"),
                "(timeout); it exceeds its TimeoutStopSec=",
            ),
            (
                run(2, 6, "signal"),
                "(signal 6); see `journalctl -u x.service`",
            ),
            // It was ExecStop= that failed.
            (
                run(1, 0, "exit-code"),
                "(`exit-code`); see `journalctl -u x.service`",
            ),
        ] {
            let line = stopped_as_failed("x.service", &run, Manager::System);
            let expected = format!("`x.service` stopped, but ended as failed {words}");
            assert_eq!(line, expected);
        }
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
    fn memory_that_is_not_accounted_is_unknown() {
        let said = |bytes: u64| properties(&[("MemoryCurrent", bytes.into())]);
        assert_eq!(
            counter(&said(50_646_220), "MemoryCurrent"),
            Some(50_646_220)
        );
        assert_eq!(counter(&said(u64::MAX), "MemoryCurrent"), None);
        assert_eq!(counter(&Properties::default(), "MemoryCurrent"), None);
    }
}
