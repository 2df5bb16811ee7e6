//! Which unit we are.

use crate::util::proc;

/// The unit that a manager has started this process for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its name: `wakeport@nginx.service`.
    pub name: String,
    /// Whether its manager is a user's.
    pub of_a_user: bool,
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
        let of_a_user = services.iter().any(|name| name.starts_with("user@"));
        Some(Self { name, of_a_user })
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
        for (services, of_a_user, label) in [
            (&["wakeport@nginx.service"][..], false, "nginx"),
            (
                &["wakeport@postgresql@15-main.service"],
                false,
                "postgresql@15-main",
            ),
            (&["shop-door.service"], false, "shop-door"),
            (
                &["user@1000.service", "wakeport@notes.service"],
                true,
                "notes",
            ),
        ] {
            let services: Vec<_> = services.iter().map(|&name| name.to_owned()).collect();
            let name = services.last().cloned();
            let unit = Unit::innermost(services).unwrap();
            assert_eq!(
                (Some(&unit.name), unit.of_a_user),
                (name.as_ref(), of_a_user)
            );
            assert_eq!(unit.label(), label);
        }
        assert_eq!(Unit::innermost(Vec::new()), None);
    }
}
