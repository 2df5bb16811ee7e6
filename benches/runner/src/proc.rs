//! What `/proc` tells of a process and its children: processor time and memory.

use std::fs;
use std::path::Path;

/// What a process and its children hold, in kB.
#[derive(Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Resident, with a share of what is shared.
    pub(crate) pss: f64,
    /// Resident and shared with nobody.
    pub(crate) uss: f64,
}

/// A process and all below it.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        next += 1;
        for thread in threads(parent) {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{thread}/children"));
            let children = children.unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
        }
    }
    found
}

/// Seconds of processor time, user and system.
pub(crate) fn cpu(pids: &[u32]) -> f64 {
    pids.iter().map(|&pid| cpu_of(pid)).sum()
}

/// By the scheduler's account, which is exact, or else utime and stime, which come in hundredths of a second.
fn cpu_of(pid: u32) -> f64 {
    let mut total = 0.0;
    for thread in threads(pid) {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")) else {
            return utime_and_stime(pid);
        };
        let first = text.split_whitespace().next();
        total += first.and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9;
    }
    total
}

fn utime_and_stime(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in brackets, may contain anything.
    let after = stat.rsplit(')').next().unwrap_or_default();
    let fields = after.split_whitespace().skip(11).take(2);
    fields
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

fn threads(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// What these processes hold together.
pub(crate) fn memory(pids: &[u32]) -> Memory {
    let mut total = Memory::default();
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let kb = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_default();
            line.split_whitespace()
                .next()
                .and_then(|kb| kb.parse().ok())
                .unwrap_or(0.0)
        };
        total.pss += kb("Pss:");
        total.uss += kb("Private_Clean:") + kb("Private_Dirty:");
    }
    total
}

/// The first line of a file in `/proc` that has this key, without the key.
pub(crate) fn line(path: impl AsRef<Path>, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim_start_matches([':', ' ', '\t']).trim().to_owned())
}
