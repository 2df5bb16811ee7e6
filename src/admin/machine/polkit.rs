//! What polkit lets a user do with units.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::admin::system::Permission;
use crate::config::Manager;
use crate::systemd::dbus::{Bus, PolkitSubject};
use crate::util::proc;

/// The verbs that wakeport needs.
const VERBS: [&str; 3] = ["start", "stop", "reset-failed"];

/// polkit may have to be started first.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether the user with these IDs may start, stop and reset `units`. polkit tells only root, and
/// decides about processes, so there has to be one: it does nothing, and ends with this question.
pub async fn permissions(units: &[String], (uid, gid): (u32, u32)) -> Vec<Permission> {
    let answers = match uid {
        0 => vec![true; units.len() * VERBS.len()],
        _ => match ask(units, uid, gid).await {
            Ok(answers) => answers,
            Err(reason) => return unknown(units, &reason),
        },
    };
    debug_assert_eq!(answers.len(), units.len() * VERBS.len());
    let answers = units.iter().zip(answers.chunks(VERBS.len()));
    let permission = |(unit, allowed): (&String, &[bool])| {
        let denied = VERBS
            .into_iter()
            .zip(allowed)
            .filter(|(_, allowed)| !**allowed);
        Permission {
            unit: unit.clone(),
            denied: Ok(denied.map(|(verb, _)| verb).collect()),
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

async fn ask(units: &[String], uid: u32, gid: u32) -> Result<Vec<bool>, String> {
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
        bus.may_manage(subject, units, &VERBS).await
    };
    let answers = ask.await;
    // Waiting for it leaves no zombie behind.
    let _ = idle.kill().await;
    answers.map_err(|error| format!("polkit does not answer ({error}); `systemctl status polkit`"))
}
