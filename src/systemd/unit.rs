//! Which unit we are.

use crate::config::Manager;
use crate::util::proc;

/// The unit that a manager has started this process for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its name: `wakeport@nginx.service`.
    pub name: String,
    /// Whose manager that is.
    pub manager: Manager,
}

/// The unit that we are, if we are one. A process that a unit has started is not.
pub fn own() -> Option<Unit> {
    // systemd.exec(5): the process that the manager itself has forked.
    let forked = std::env::var("SYSTEMD_EXEC_PID").ok()?;
    if forked != std::process::id().to_string() {
        return None;
    }
    Unit::innermost(proc::services("self"))
}

impl Unit {
    fn innermost(mut services: Vec<String>) -> Option<Self> {
        let name = services.pop()?;
        let manager = match services.iter().any(|name| name.starts_with("user@")) {
            true => Manager::User,
            false => Manager::System,
        };
        Some(Self { name, manager })
    }

    /// What people call it: `nginx` for `wakeport@nginx.service`, `shop-door` for
    /// `shop-door.service`.
    pub fn label(&self) -> &str {
        let stem = self.name.strip_suffix(".service").unwrap_or(&self.name);
        stem.strip_prefix("wakeport@").unwrap_or(stem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_service_is_ours() {
        for (services, manager, label) in [
            (&["wakeport@nginx.service"][..], Manager::System, "nginx"),
            (
                &["wakeport@postgresql@15-main.service"],
                Manager::System,
                "postgresql@15-main",
            ),
            (&["shop-door.service"], Manager::System, "shop-door"),
            (
                &["user@1000.service", "wakeport@notes.service"],
                Manager::User,
                "notes",
            ),
        ] {
            let services: Vec<_> = services.iter().map(|&name| name.to_owned()).collect();
            let name = services.last().cloned();
            let unit = Unit::innermost(services).unwrap();
            assert_eq!((Some(&unit.name), unit.manager), (name.as_ref(), manager));
            assert_eq!(unit.label(), label);
        }
        assert_eq!(Unit::innermost(Vec::new()), None);
    }
}
