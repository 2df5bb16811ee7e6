//! Times and counts as the log and STATUS= show them.

use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::config::span;
use crate::core::lifecycle::State;

/// Hours and minutes.
pub(super) fn time_of_day(time: SystemTime) -> String {
    local(Timestamp::try_from(time).unwrap_or_default(), "%H:%M")
}

/// What the clock will show then, never too early.
pub(super) fn in_so_long(span: Duration) -> String {
    const HOUR: i64 = 3600;
    let seconds = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    let (step, format) = match seconds {
        0..HOUR => (1, "%H:%M:%S"),
        HOUR..43_200 => (60, "%H:%M"),
        _ => (60, "%Y-%m-%d %H:%M"),
    };
    let then = SystemTime::now().checked_add(span);
    let then = then.and_then(|then| Timestamp::try_from(then).ok());
    let then = then.unwrap_or(Timestamp::MAX).as_second();
    let rounded = Timestamp::from_second((then / step + 1).saturating_mul(step));
    local(rounded.unwrap_or(Timestamp::MAX), format)
}

fn local(time: Timestamp, format: &str) -> String {
    let local = time.to_zoned(TimeZone::system());
    local.strftime(format).to_string()
}

/// When a service without connections is stopped.
pub(super) fn stops(at: Option<Instant>, now: Instant) -> String {
    match at {
        Some(at) => format!("stopping in {}", left(at, now)),
        None => "never stopping".into(),
    }
}

/// When a service without connections is frozen or stopped, whichever comes first.
pub(super) fn rests(state: State, now: Instant) -> String {
    if let State::Cooling {
        freeze_at: Some(at),
        sleep_at,
    } = state
        && sleep_at.is_none_or(|stop| at < stop)
    {
        return format!("freezing in {}", left(at, now));
    }
    let at = match state {
        State::Freezing { sleep_at } => sleep_at,
        State::Cooling { .. } | State::Frozen { .. } | State::Thawing { .. } => state.deadline(),
        State::Asleep | State::Waking { .. } | State::Awake => None,
        State::Stopping(_) | State::Failed { .. } => None,
    };
    stops(at, now)
}

/// What is left until `at`. A countdown never says less than that.
pub(super) fn left(at: Instant, now: Instant) -> String {
    let millis = at.saturating_duration_since(now).as_millis();
    // Whole seconds, but for the shortest spans.
    let step = if millis > 900 { 1000 } else { 10 };
    let rounded = u64::try_from(millis.div_ceil(step) * step).unwrap_or(u64::MAX);
    span::show(Duration::from_millis(rounded))
}

pub(super) fn precise(span: Duration) -> String {
    match span.as_millis() {
        millis @ 0..10_000 => format!("{millis}ms"),
        _ => span::show(span),
    }
}

/// So many of these.
pub fn count(n: u64, thing: &str) -> String {
    if n == 1 {
        format!("1 {thing}")
    } else {
        format!("{n} {thing}s")
    }
}

/// How many reasons are shown.
const SHOWN: usize = 3;

/// Why a service is held, if it is: `2 holds (backup, schedule)`.
pub fn holds(reasons: &[String]) -> Option<String> {
    if reasons.is_empty() {
        return None;
    }
    let given = reasons.iter().filter(|reason| !reason.is_empty());
    let mut given: Vec<&str> = given.map(String::as_str).collect();
    if given.len() > SHOWN {
        given.truncate(SHOWN);
        given.push("…");
    }
    let holds = count(reasons.len() as u64, "hold");
    Some(match given[..] {
        [] => holds,
        _ => format!("{holds} ({})", given.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_are_counted_and_some_reasons_shown() {
        let told = |reasons: &[&str]| {
            let reasons: Vec<_> = reasons.iter().map(|&it| it.to_owned()).collect();
            holds(&reasons).unwrap_or_default()
        };
        assert_eq!(told(&[]), "");
        assert_eq!(told(&[""]), "1 hold");
        assert_eq!(told(&["backup", ""]), "2 holds (backup)");
        let many = ["a", "b", "c", "d"];
        assert_eq!(told(&many), "4 holds (a, b, c, …)");
    }
}
