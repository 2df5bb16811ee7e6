//! How often a service may be woken, as it is typed: `6/1h`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::span;

/// So many wakes in so long a time at most: `6/1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WakeRate {
    /// Orders to start.
    pub wakes: usize,
    /// In any such time.
    pub per: Duration,
}

impl WakeRate {
    /// The time of each one is kept.
    const MOST: usize = 1000;
    /// A year.
    const LONGEST: Duration = Duration::from_secs(366 * 86_400);
}

impl FromStr for WakeRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (wakes, per) = text
            .split_once('/')
            .ok_or("write it like `6/1h`: so many wakes in such a time")?;
        let wakes = wakes.trim().parse().ok();
        let wakes = wakes.filter(|wakes| (1..=Self::MOST).contains(wakes));
        let wakes = wakes.ok_or_else(|| {
            format!(
                "before the `/` comes a number of wakes from 1 to {}",
                Self::MOST
            )
        })?;
        let per = span::parse(per)?;
        if !(Duration::from_secs(1)..=Self::LONGEST).contains(&per) {
            return Err("after the `/` comes a time from 1s to a year".into());
        }
        Ok(Self { wakes, per })
    }
}

impl fmt::Display for WakeRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.wakes, span::show(self.per))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_in_such_a_time() {
        for (text, wakes, seconds, shown) in [
            ("6/1h", 6, 3600, "6/1h"),
            (" 1 / 90 ", 1, 90, "1/1min 30s"),
            ("1000/1h 30min", 1000, 5400, "1000/1h 30min"),
            ("2/1s", 2, 1, "2/1s"),
            ("2/366d", 2, 366 * 86_400, "2/366d"),
        ] {
            let rate: WakeRate = text.parse().unwrap();
            let per = Duration::from_secs(seconds);
            assert_eq!(rate, WakeRate { wakes, per }, "{text}");
            assert_eq!(rate.to_string(), shown);
        }
        for text in [
            "",
            "6",
            "/1h",
            "6/",
            "0/1h",
            "1001/1h",
            "-1/1h",
            "1.5/1h",
            "6/0",
            "6/999ms",
            "6/367d",
            "6/infinity",
            "6/1h/2",
            "x/1h",
            "6/hour",
        ] {
            assert!(text.parse::<WakeRate>().is_err(), "{text}");
        }
    }
}
