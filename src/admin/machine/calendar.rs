//! Calendar events (systemd.time(7)), as systemd itself reads them.

use std::process::{Command, Stdio};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::util::text::one_line;

/// What reads them.
const PROGRAM: &str = "systemd-analyze";

/// How far back an event is looked for, in seconds: a little at first, since it may be each second.
const WINDOWS: [i64; 4] = [60, 900, 10_800, 86_400];

/// How many events are asked for at once, and how often.
const EVENTS: usize = 200;
const ROUNDS: usize = 60;

/// Whether an event is one; if not, why, in one line.
pub fn verify(event: &str) -> Result<(), String> {
    ask(event, &[]).map(drop)
}

/// The last time that an event was, within a day before `now`.
pub fn last(event: &str, now: Timestamp) -> Result<Option<Timestamp>, String> {
    for window in WINDOWS {
        let last = within(event, now, window)?;
        if last.is_some() {
            return Ok(last);
        }
    }
    Ok(None)
}

fn within(event: &str, now: Timestamp, window: i64) -> Result<Option<Timestamp>, String> {
    let (mut last, mut base) = (None, now.as_second() - window);
    for _ in 0..ROUNDS {
        let base_time = format!("--base-time=@{base}");
        let said = ask(event, &[&base_time, &format!("--iterations={EVENTS}")])?;
        let events = elapses(&said);
        let before = events.iter().copied().filter(|at| *at <= now);
        let Some(latest) = before.max() else { break };
        last = Some(latest);
        if events.iter().any(|at| *at > now) || events.len() < EVENTS {
            break;
        }
        base = latest.as_second();
    }
    Ok(last)
}

fn ask(event: &str, options: &[&str]) -> Result<String, String> {
    let output = Command::new(PROGRAM)
        .arg("calendar")
        .args(options)
        .args(["--", event])
        .env("LC_ALL", "C.UTF-8")
        .env("SYSTEMD_COLORS", "0")
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|error| format!("cannot run `{PROGRAM} calendar`: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or_default();
    Err(format!(
        "`{}` is not a calendar event, as `Mon..Fri 08:00` is ({}); see systemd.time(7)",
        one_line(event),
        one_line(said)
    ))
}

/// The times in what `systemd-analyze calendar` prints: each in local time, and in another line in UTC
/// unless that is the same.
fn elapses(said: &str) -> Vec<Timestamp> {
    let mut times = Vec::new();
    for line in said.lines() {
        let Some((key, value)) = line.split_once(": ") else {
            continue;
        };
        let key = key.trim();
        if key == "Next elapse" || key.starts_with("Iter") {
            times.push(utc(value));
        } else if key == "(in UTC)"
            && let Some(last) = times.last_mut()
        {
            *last = utc(value);
        }
    }
    times.into_iter().flatten().collect()
}

/// `Fri 2026-11-27 08:00:00 UTC`.
fn utc(text: &str) -> Option<Timestamp> {
    let text = text.trim().strip_suffix("UTC")?.trim();
    let (_, text) = text.split_once(' ')?;
    let time: DateTime = text.parse().ok()?;
    TimeZone::UTC.to_timestamp(time).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_utc() {
        let said = "  Original form: Mon..Fri 08:00\n\
                    Normalized form: Mon..Fri *-*-* 08:00:00\n\
                        Next elapse: Fri 2026-11-27 08:00:00 CET\n\
                           (in UTC): Fri 2026-11-27 07:00:00 UTC\n\
                           From now: 1 day 2h ago\n\
                       Iteration #2: Mon 2026-11-30 08:00:00 CET\n\
                           (in UTC): Mon 2026-11-30 07:00:00 UTC\n\
                           From now: 20h left\n";
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let expected = [at("2026-11-27T07:00:00Z"), at("2026-11-30T07:00:00Z")];
        assert_eq!(elapses(said), expected);
        let in_utc = "Next elapse: Fri 2026-11-27 08:00:00 UTC\n";
        assert_eq!(elapses(in_utc), [at("2026-11-27T08:00:00Z")]);
        assert_eq!(elapses("Next elapse: never\n"), []);
    }
}
