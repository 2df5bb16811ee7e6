//! What polkit lets a user do with units.

use std::collections::HashMap;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use zbus::connection::Builder;
use zbus::{Variant, proxy};

use crate::admin::checks::{Permission, VERBS};

/// polkit may have to be started first.
const ANSWER: Duration = Duration::from_secs(10);

type Subject<'a> = (&'a str, HashMap<&'a str, Variant<'a>>);

#[proxy(
    interface = "org.freedesktop.PolicyKit1.Authority",
    default_service = "org.freedesktop.PolicyKit1",
    default_path = "/org/freedesktop/PolicyKit1/Authority"
)]
trait Authority {
    fn check_authorization(
        &self,
        subject: &Subject<'_>,
        action_id: &str,
        details: HashMap<&str, &str>,
        flags: u32,
        cancellation_id: &str,
    ) -> zbus::Result<(bool, bool, HashMap<String, String>)>;
}

/// Whether the user with these IDs may start, stop and reset `units`. polkit tells only root, and
/// decides about processes, so there has to be one: it does nothing, and ends with this question.
pub async fn permissions(units: &[String], (uid, gid): (u32, u32)) -> Vec<Permission> {
    let answers = match uid {
        0 => Ok(vec![true; units.len() * VERBS.len()]),
        _ => ask(units, uid, gid).await,
    };
    let questions = units.iter().flat_map(|unit| VERBS.map(|verb| (unit, verb)));
    questions
        .enumerate()
        .map(|(index, (unit, verb))| Permission {
            unit: unit.clone(),
            verb,
            allowed: match &answers {
                Ok(answers) => Ok(answers.get(index).copied().unwrap_or_default()),
                Err(reason) => Err(reason.clone()),
            },
        })
        .collect()
}

async fn ask(units: &[String], uid: u32, gid: u32) -> Result<Vec<bool>, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("polkit tells only root; run it as root".to_owned());
    }
    let mut nobody = Command::new("sleep");
    nobody
        .arg("60")
        .uid(uid)
        .gid(gid)
        .current_dir("/")
        .env_clear()
        .env("PATH", "/usr/bin:/bin");
    nobody
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mut nobody = nobody
        .spawn()
        .map_err(|error| format!("no process can be made for it ({error})"))?;
    let pid = nobody.id().unwrap_or_default();
    let started = started(pid).ok_or("its process cannot be looked at")?;
    let ask = async {
        let connection = Builder::system().method_timeout(ANSWER).build().await?;
        let authority = AuthorityProxy::new(&connection).await?;
        let subject: HashMap<_, Variant<'_>> = HashMap::from([
            ("pid", pid.into()),
            ("start-time", started.into()),
            ("uid", uid.cast_signed().into()),
        ]);
        let subject = ("unix-process", subject);
        let mut answers = Vec::new();
        for unit in units {
            for verb in VERBS {
                let details = HashMap::from([("unit", unit.as_str()), ("verb", verb)]);
                let action = "org.freedesktop.systemd1.manage-units";
                let answer = authority
                    .check_authorization(&subject, action, details, 0, "")
                    .await?;
                answers.push(answer.0);
            }
        }
        Ok(answers)
    };
    let answers: zbus::Result<Vec<bool>> = ask.await;
    // It has served its purpose; waiting for it leaves no zombie behind.
    let _ = nobody.kill().await;
    answers.map_err(|error| format!("polkit does not answer ({error}); `systemctl status polkit`"))
}

/// When a process was started, as polkit tells one from another with the same ID
/// (proc_pid_stat(5), field 22).
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}
