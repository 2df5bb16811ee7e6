//! The slice that holds the units of one service and nothing else. Slices are frozen, never units: a slice
//! outlives what is killed in it, so that its state is always right.

use std::fmt::Write;

use super::Manager;

/// What the name begins with: below which slice it is, and that it is ours.
fn prefix(manager: Manager) -> &'static str {
    match manager {
        Manager::System => r"system-wakeport\x2d",
        Manager::User => r"app-wakeport\x2d",
    }
}

/// The slice of the service of this instance; a file may name several.
pub fn of(instance: &str, service: Option<&str>, manager: Manager) -> String {
    let mut slice = prefix(manager).to_owned();
    let parts = [instance].into_iter().chain(service);
    for byte in parts.collect::<Vec<_>>().join("-").bytes() {
        // As systemd-escape(1): a dash would be another slice below.
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => {
                slice.push(char::from(byte));
            }
            _ => _ = write!(slice, r"\x{byte:02x}"),
        }
    }
    slice + ".slice"
}

/// Whether `wakeport init` may have made it: `system.slice` is never frozen by a typing error.
pub fn is_ours(name: &str, manager: Manager) -> bool {
    let rest = name.strip_prefix(prefix(manager));
    let rest = rest.and_then(|rest| rest.strip_suffix(".slice"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains('-'))
}

/// The control group of a slice of ours of the system's manager, below /sys/fs/cgroup.
pub fn cgroup(slice: &str) -> String {
    format!("/system.slice/{slice}")
}

/// The unit that reclaims the memory of a slice of ours of the system's manager.
pub fn reclaimer(slice: &str) -> Option<String> {
    let rest = slice.strip_prefix(prefix(Manager::System));
    let rest = rest.and_then(|rest| rest.strip_suffix(".slice"))?;
    Some(format!("wakeport-reclaim@{rest}.service"))
}

/// Whether everyone may ask this version of systemd to freeze, as polkit decides about it.
pub fn anyone_may_freeze(version: &str) -> bool {
    numbers(version) >= (262, 0)
}

/// Whether this version of systemd, as it calls itself, hears nothing of a service that is frozen without
/// killing it for `WatchdogSec=`.
pub fn suspends_watchdogs(version: &str) -> bool {
    // 257.13 does so for units, and not for what is in a slice; since when both hold is not known.
    numbers(version) >= (262, 0)
}

fn numbers(version: &str) -> (u32, u32) {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|number| number.parse().ok());
    (number().unwrap_or(0), number().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_known_to_be_suspended_from_262_on() {
        for (version, expected) in [
            ("252.38-1~deb12u1", false),
            ("257.9-1~deb13u1", false),
            ("257.13-1~deb13u1", false),
            ("261.4", false),
            ("262-1", true),
            ("262.1-1", true),
            ("263~rc1", true),
            ("v257", false),
            ("", false),
        ] {
            assert_eq!(suspends_watchdogs(version), expected, "{version}");
        }
    }

    #[test]
    fn each_slice_of_the_system_has_a_unit_that_reclaims_its_memory() {
        for (instance, service, unit) in [
            ("echo", None, Some("wakeport-reclaim@echo.service")),
            (
                "web",
                Some("docs"),
                Some(r"wakeport-reclaim@web\x2ddocs.service"),
            ),
        ] {
            let slice = of(instance, service, Manager::System);
            assert_eq!(reclaimer(&slice).as_deref(), unit);
        }
        assert_eq!(reclaimer(&of("echo", None, Manager::User)), None);
        assert_eq!(reclaimer("system.slice"), None);
    }

    #[test]
    fn each_service_has_a_slice_of_its_own_that_is_known_by_its_name() {
        use Manager::{System, User};
        for (instance, service, manager, expected) in [
            ("echo", None, System, r"system-wakeport\x2decho.slice"),
            ("echo", None, User, r"app-wakeport\x2decho.slice"),
            (
                "postgresql@15-main",
                None,
                System,
                r"system-wakeport\x2dpostgresql\x4015\x2dmain.slice",
            ),
            (
                r"a\x2db",
                None,
                System,
                r"system-wakeport\x2da\x5cx2db.slice",
            ),
            (
                "web",
                Some("docs"),
                System,
                r"system-wakeport\x2dweb\x2ddocs.slice",
            ),
        ] {
            let slice = of(instance, service, manager);
            assert_eq!(slice, expected);
            assert!(is_ours(&slice, manager));
        }
        for other in [
            "system.slice",
            "-.slice",
            "",
            r"system-wakeport\x2d.slice",
            r"system-wakeport\x2decho-other.slice",
            r"system-wakeport\x2decho",
            "system-wakeport.slice",
            r"app-wakeport\x2decho.slice",
        ] {
            assert!(!is_ours(other, System), "{other}");
        }
    }
}
