//! Which unit we are.

use std::fs;

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
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    cgroups.lines().find_map(of_cgroup)
}

/// The unit that a line of `/proc/PID/cgroup` names (cgroups(7)): `0::/a.slice/b.service`, or with
/// the old hierarchies `1:name=systemd:/a.slice/b.service`.
fn of_cgroup(line: &str) -> Option<Unit> {
    let path = line
        .strip_prefix("0::")
        .or_else(|| line.split_once(":name=systemd:").map(|(_, path)| path))?;
    let mut above = path.split('/');
    // A unit with `Delegate=` may have moved us further down.
    let name = above.rfind(|name| name.ends_with(".service"))?;
    Some(Unit {
        name: name.to_owned(),
        of_a_user: above.any(|name| name.starts_with("user@") && name.ends_with(".service")),
    })
}

impl Unit {
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
    fn the_cgroup_names_the_unit() {
        for (line, name, of_a_user, label) in [
            (
                "0::/system.slice/system-wakeport.slice/wakeport@nginx.service",
                "wakeport@nginx.service",
                false,
                "nginx",
            ),
            (
                "0::/system.slice/system-wakeport.slice/wakeport@postgresql@15-main.service",
                "wakeport@postgresql@15-main.service",
                false,
                "postgresql@15-main",
            ),
            (
                "1:name=systemd:/system.slice/shop-door.service",
                "shop-door.service",
                false,
                "shop-door",
            ),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/wakeport@notes.service",
                "wakeport@notes.service",
                true,
                "notes",
            ),
        ] {
            let unit = of_cgroup(line).unwrap();
            assert_eq!((unit.name.as_str(), unit.of_a_user), (name, of_a_user));
            assert_eq!(unit.label(), label);
        }
        for line in [
            "0::/",
            "",
            "2:cpu:/a.service",
            "0::/user.slice/session-1.scope",
        ] {
            assert_eq!(of_cgroup(line), None, "{line}");
        }
    }
}
