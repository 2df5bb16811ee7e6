//! Until when a service is held.

use std::str::FromStr;
use std::time::Duration;

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};
use tokio::time::{Instant, sleep, sleep_until};

use crate::admin::machine::calendar;
use crate::config::span;

/// A clock that is set is noticed after so long.
const LOOK: Duration = Duration::from_secs(20);

/// The end of a hold.
#[derive(Debug)]
pub(super) enum Deadline {
    /// After a span, if there is one.
    In(Option<Instant>),
    /// When the clock shows this.
    At(Timestamp),
}

impl Deadline {
    /// What is left of a span. By the clock, that is not known: it may be set.
    pub(super) fn left(&self) -> Option<Duration> {
        match self {
            Self::In(until) => Some(until.as_ref()?.saturating_duration_since(Instant::now())),
            Self::At(_) => None,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::In(until) => until.is_some_and(|until| until <= Instant::now()),
            Self::At(at) => *at <= Timestamp::now(),
        }
    }

    /// Waits until it is over.
    pub(super) async fn over(&self) {
        match self {
            Self::In(Some(until)) => sleep_until(*until).await,
            Self::In(None) => std::future::pending().await,
            Self::At(at) => {
                while !self.is_over() {
                    let left = at.duration_since(Timestamp::now());
                    let left = Duration::try_from(left).unwrap_or_default();
                    sleep(left.min(LOOK)).await;
                }
            }
        }
    }

    /// What follows `is held`.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::In(None) => String::new(),
            Self::In(Some(until)) => {
                let left = until.saturating_duration_since(Instant::now());
                format!(" for {}", span::show(left))
            }
            Self::At(at) => {
                let at = at.to_zoned(TimeZone::system());
                format!(" until {}", at.strftime("%F %H:%M:%S"))
            }
        }
    }
}

/// A time as it is typed.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) enum Moment {
    /// A time of day.
    Daily(Time),
    /// One on a date.
    Once(DateTime),
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        // What is read as a time may have a date, too, and the other way round.
        let read = match (text.contains('-'), text.contains(':')) {
            (true, true) => text.parse().map(Self::Once).ok(),
            (false, true) => text.parse().map(Self::Daily).ok(),
            (_, false) => None,
        };
        read.ok_or_else(|| "not a time; write it like `18:00` or `2026-12-24 18:00`".to_owned())
    }
}

impl Moment {
    /// When that is: for a time of day, the first one after the last event of a calendar, or after now.
    pub(super) fn after(self, calendar: Option<&str>) -> Result<Timestamp, String> {
        let now = Timestamp::now();
        let began = match calendar {
            None => Some(now),
            Some(event) => calendar::last(event, now)?,
        };
        let zone = TimeZone::system();
        match (self, began) {
            (Self::Once(at), _) => {
                let at = zone.to_zoned(at).map_err(|error| error.to_string())?;
                Ok(at.timestamp())
            }
            (Self::Daily(time), Some(began)) => {
                next(time, &began.to_zoned(zone)).map_err(|error| error.to_string())
            }
            // It was longer ago than a day.
            (Self::Daily(_), None) => Ok(now),
        }
    }
}

/// The first time that a clock shows `time` after `began`.
fn next(time: Time, began: &Zoned) -> Result<Timestamp, jiff::Error> {
    let day = began.date();
    let at = |day: jiff::civil::Date| began.time_zone().to_zoned(day.to_datetime(time));
    let today = at(day)?;
    if today > *began {
        return Ok(today.timestamp());
    }
    Ok(at(day.checked_add(1.day())?)?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_is_the_next_one() {
        let zone = TimeZone::get("Europe/Berlin").unwrap_or(TimeZone::UTC);
        let zoned = |text: &str| {
            let time: DateTime = text.parse().expect("a time");
            zone.to_zoned(time).expect("a time")
        };
        for (time, began, ends) in [
            ("18:00", "2026-11-27 08:00", "2026-11-27 18:00"),
            ("06:00", "2026-11-27 22:00", "2026-11-28 06:00"),
            ("08:00", "2026-11-27 08:00", "2026-11-28 08:00"),
            ("02:30:15", "2026-12-31 23:59:59", "2027-01-01 02:30:15"),
        ] {
            let Ok(Moment::Daily(time)) = time.parse() else {
                panic!("{time}");
            };
            let got = next(time, &zoned(began)).expect("a time");
            assert_eq!(got, zoned(ends).timestamp(), "{time} after {began}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "soon", "25:00", "18", "2026-13-01 18:00", "18:00 UTC"] {
            let read = text.parse::<Moment>();
            assert!(read.is_err(), "{text}: {read:?}");
        }
        let once = "2026-12-24 18:00".parse();
        assert!(matches!(once, Ok(Moment::Once(_))), "{once:?}");
    }
}
