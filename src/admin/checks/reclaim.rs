//! What keeps the memory of what is frozen from being reclaimed.

use super::Finding;
use crate::admin::system::{Permission, Reclaim};

/// The first version of Linux that has `memory.reclaim`.
const SINCE: (u32, u32) = (5, 19);

pub(super) fn findings(reclaim: &Reclaim) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut warning = |text: String| findings.push(Finding::warning(text));
    if !reclaim.controller {
        warning(
            "no memory can be reclaimed (`--freeze-reclaim`): the kernel has no memory controller for control groups of version 2; boot with systemd.unified_cgroup_hierarchy=1, and without cgroup_disable=memory".into(),
        );
    }
    if version(&reclaim.kernel).is_some_and(|version| version < SINCE) {
        warning(format!(
            "no memory can be reclaimed (`--freeze-reclaim`): that takes Linux 5.19 or later, and this is {}",
            reclaim.kernel
        ));
    }
    if !reclaim.swap {
        warning(
            "there is no swap, so `--freeze-reclaim` drops caches and keeps everything else; add swap, as zram, or leave the option out".into(),
        );
    }
    for unit in reclaim.units.iter().filter(|unit| unit.load != "loaded") {
        warning(format!(
            "`{}` is not installed, so no memory is reclaimed (`--freeze-reclaim`); run systemd/install",
            unit.id
        ));
    }
    for Permission { unit, denied } in &reclaim.permissions {
        match denied {
            Ok(denied) if denied.is_empty() => (),
            Ok(_) => findings.push(Finding::warning(format!(
                "`{unit}` may not be started by wakeport's user (polkit denies it), so no memory is reclaimed; `wakeport init` with `--freeze-reclaim` writes what authorizes it"
            ))),
            Err(reason) => findings.push(Finding::note(format!(
                "whether wakeport's user may start `{unit}` is not known: {reason}"
            ))),
        }
    }
    findings
}

fn version(kernel: &str) -> Option<(u32, u32)> {
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
