//! What polkit lets a user do with units.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::admin::system::Permission;
use crate::config::Manager;
use crate::systemd::dbus::{Bus, PolkitSubject};
use crate::util::proc;

/// The verbs that wakeport needs.
pub const VERBS: &[&str] = &["start", "stop", "reset-failed"];
/// The same for a slice, to freeze what is in it.
pub const FREEZER_VERBS: &[&str] = &["freeze", "thaw"];

/// The same for what reclaims memory.
pub const RECLAIM_VERBS: &[&str] = &["start"];

/// polkit may have to be started first.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether the user with these IDs may do what these `verbs` say with `units`. polkit tells only root, and
/// decides about processes, so there has to be one: it does nothing, and ends with this question.
pub async fn permissions(
    units: &[String],
    verbs: &'static [&'static str],
    (uid, gid): (u32, u32),
) -> Vec<Permission> {
    let answers = match uid {
        0 => vec![true; units.len() * verbs.len()],
        _ => match ask(units, verbs, uid, gid).await {
            Ok(answers) => answers,
            Err(reason) => return unknown(units, &reason),
        },
    };
    debug_assert_eq!(answers.len(), units.len() * verbs.len());
    let answers = units.iter().zip(answers.chunks(verbs.len()));
    let permission = |(unit, allowed): (&String, &[bool])| {
        let denied = verbs.iter().zip(allowed).filter(|(_, allowed)| !**allowed);
        Permission {
            unit: unit.clone(),
            denied: Ok(denied.map(|(verb, _)| *verb).collect()),
        }
    };
    answers.map(permission).collect()
}

/// The same where it cannot be known.
pub fn unknown(units: &[String], reason: &str) -> Vec<Permission> {
    let permission = |unit: &String| Permission {
        unit: unit.clone(),
        denied: Err(reason.to_owned()),
    };
    units.iter().map(permission).collect()
}

async fn ask(units: &[String], verbs: &[&str], uid: u32, gid: u32) -> Result<Vec<bool>, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("polkit tells only root; run it as root".to_owned());
    }
    let mut idle = Command::new("sleep");
    idle.arg("60")
        .uid(uid)
        .gid(gid)
        .current_dir("/")
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let idle = idle.spawn();
    let mut idle = idle.map_err(|error| format!("cannot start a process for it: {error}"))?;
    let pid = idle.id().unwrap_or_default();
    let process = proc::process(pid).ok_or("cannot read its process from /proc")?;
    let subject = PolkitSubject {
        pid,
        started_ticks: process.started_ticks,
        uid,
    };
    let ask = async {
        let bus = Bus::open(Manager::System, REPLY_TIMEOUT).await?;
        bus.may_manage(subject, units, verbs).await
    };
    let answers = ask.await;
    // Waiting for it leaves no zombie behind.
    let _ = idle.kill().await;
    answers.map_err(|error| format!("polkit does not answer ({error}); `systemctl status polkit`"))
}
