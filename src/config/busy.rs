//! What keeps a service awake although no client is here.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::CommandLine;

/// What is asked before the service is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Busy {
    /// Connections to its targets that bypass wakeport.
    pub direct_connections: DirectConnections,
    /// A program that may object.
    pub hook: Option<CommandLine>,
    /// More CPU than that.
    pub cpu: Option<Percent>,
    /// More bytes than that from and to disks.
    pub io: Option<Rate>,
    /// More bytes than that from and to networks.
    pub net: Option<Rate>,
    /// How long it is kept awake at most; [`Duration::MAX`] is for ever.
    pub limit: Duration,
}

impl Busy {
    /// Work that takes a night is not interrupted.
    pub const LIMIT: &str = "infinity";

    /// The first option given that measures units.
    pub fn measured(&self) -> Option<&'static str> {
        let given = [
            (self.cpu.is_some(), "busy-cpu"),
            (self.io.is_some(), "busy-io"),
            (self.net.is_some(), "busy-net"),
        ];
        given.into_iter().find_map(|(is, key)| is.then_some(key))
    }

    /// What the units have to set to `yes`, as systemd does not measure it by default.
    pub fn accounting(&self) -> impl Iterator<Item = &'static str> + use<> {
        let needed = [
            (self.io.is_some(), "IOAccounting"),
            (self.net.is_some(), "IPAccounting"),
        ];
        needed
            .into_iter()
            .filter_map(|(is, name)| is.then_some(name))
    }
}

/// What connections that bypass wakeport mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectConnections {
    /// They keep the service awake.
    Count,
    /// Nothing.
    Ignore,
}

impl FromStr for DirectConnections {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "count" => Ok(Self::Count),
            "ignore" => Ok(Self::Ignore),
            _ => Err("write `count` or `ignore`".into()),
        }
    }
}

/// A share of one core, in thousandths of a percent.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Percent(pub u64);

/// The limits that are proposed, in percent.
const LIMITS: [u64; 7] = [1, 2, 5, 10, 20, 50, 100];

impl Percent {
    /// What so many nanoseconds of CPU time in so long a time come to.
    pub fn of(nanos: u64, time: Duration) -> Self {
        let nanoseconds = time.as_nanos().max(1);
        // To two decimals.
        let share = (u128::from(nanos) * 10_000 + nanoseconds / 2) / nanoseconds * 10;
        Self(u64::try_from(share).unwrap_or(u64::MAX))
    }

    /// A limit for a service that uses so much when idle. Three times as much is idle still.
    pub fn limit(self) -> Option<Self> {
        let mut limits = LIMITS.into_iter().map(|percent| Self(percent * 1_000));
        limits.find(|limit| *limit >= Self(self.0.saturating_mul(3)))
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').unwrap_or(text).trim();
        thousandths(number).map(Self).ok_or_else(|| {
            "write it like `1%`: a percentage of one core, with at most three decimals".into()
        })
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        decimal(f, self.0)?;
        f.write_str("%")
    }
}

/// Bytes in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

/// As systemd counts rates (systemd.resource-control(5), `IOReadBandwidthMax=`).
const UNITS: [(char, u64); 4] = [
    ('K', 1_000),
    ('M', 1_000_000),
    ('G', 1_000_000_000),
    ('T', 1_000_000_000_000),
];

impl Rate {
    /// What so many bytes in so long a time come to.
    pub fn of(bytes: u64, time: Duration) -> Self {
        let rate = u128::from(bytes) * 1_000 / time.as_millis().max(1);
        Self(u64::try_from(rate).unwrap_or(u64::MAX))
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unit = |(letter, factor)| Some((text.strip_suffix(letter)?, factor));
        let (number, factor) = UNITS.into_iter().find_map(unit).unwrap_or((text, 1));
        let bytes = thousandths(number.trim()).and_then(|number| number.checked_mul(factor));
        bytes.map(|bytes| Self(bytes / 1_000)).ok_or_else(|| {
            "write it like `100K`: bytes a second, with K, M, G or T for thousands, millions and so on"
                .into()
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.into_iter().rev().find(|&(_, size)| self.0 >= size);
        let (letter, size) = unit.map_or((None, 1), |(letter, size)| (Some(letter), size));
        // Three digits at least say enough.
        let thousandths = u128::from(self.0) * 1_000 / u128::from(size);
        let rounded = u64::try_from(thousandths).unwrap_or(u64::MAX) / 100 * 100;
        decimal(f, rounded)?;
        letter.map_or(Ok(()), |letter| write!(f, "{letter}"))?;
        f.write_str("B/s")
    }
}

/// A number of at most three decimals, times 1000.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(decimals) || decimals.len() > 3 {
        return None;
    }
    let decimals: u64 = format!("{decimals:0<3}").parse().ok()?;
    let whole: u64 = whole.parse().ok()?;
    whole.checked_mul(1_000)?.checked_add(decimals)
}

fn decimal(f: &mut fmt::Formatter<'_>, thousandths: u64) -> fmt::Result {
    let (whole, rest) = (thousandths / 1_000, thousandths % 1_000);
    match rest {
        0 => write!(f, "{whole}"),
        _ => write!(f, "{whole}.{}", format!("{rest:03}").trim_end_matches('0')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_of_one_core() {
        for (text, shown) in [
            ("1%", "1%"),
            ("0.5", "0.5%"),
            ("12.345%", "12.345%"),
            ("250 %", "250%"),
            ("0", "0%"),
        ] {
            let percent: Percent = text.parse().expect(text);
            assert_eq!(percent.to_string(), shown, "{text}");
        }
        for text in [
            "",
            "%",
            "-1",
            "1e3",
            ".5",
            "1.",
            "0.0001",
            "inf",
            "99999999999999999999",
        ] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
        let second = Duration::from_secs(1);
        assert_eq!(Percent::of(10_000_000, second).to_string(), "1%");
        assert_eq!(Percent::of(u64::MAX, Duration::ZERO).0, u64::MAX);
    }

    #[test]
    fn a_proposed_limit_leaves_a_margin_and_is_a_core_at_most() {
        for (idle, limit) in [
            ("0", Some("1%")),
            ("0.03", Some("1%")),
            ("0.333", Some("1%")),
            ("0.34", Some("2%")),
            ("5", Some("20%")),
            ("30", Some("100%")),
            ("33.3", Some("100%")),
            ("33.4", None),
            ("250", None),
        ] {
            let idle: Percent = idle.parse().unwrap();
            let proposed = idle.limit().map(|limit| limit.to_string());
            assert_eq!(proposed.as_deref(), limit, "{idle}");
        }
        assert_eq!(Percent(u64::MAX).limit(), None);
    }

    #[test]
    fn rates_are_bytes_a_second() {
        for (text, bytes, shown) in [
            ("100K", 100_000, "100KB/s"),
            ("1.5M", 1_500_000, "1.5MB/s"),
            ("2 G", 2_000_000_000, "2GB/s"),
            ("999", 999, "999B/s"),
            ("12345", 12_345, "12.3KB/s"),
            ("0", 0, "0B/s"),
        ] {
            let rate: Rate = text.parse().expect(text);
            assert_eq!((rate.0, &*rate.to_string()), (bytes, shown), "{text}");
        }
        for text in ["", "K", "1k", "1X", "-1K", "99999999999T"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        assert_eq!(Rate::of(3_000, Duration::from_secs(2)).0, 1_500);
        assert_eq!(Rate::of(u64::MAX, Duration::ZERO).0, u64::MAX);
    }
}
