//! Spans of time in systemd's spelling (systemd.time(7)): `5min 20s`, `90`, `1.5h`, `infinity`.

use std::time::Duration;

/// The units, in nanoseconds. A month is what systemd takes for one: a twelfth of 365.25 days.
const UNITS: [(&[&str], u128); 9] = [
    (&["usec", "us", "µs", "μs"], 1_000),
    (&["msec", "ms"], 1_000_000),
    (&["seconds", "second", "sec", "s", ""], SECOND),
    (&["minutes", "minute", "min", "m"], 60 * SECOND),
    (&["hours", "hour", "hr", "h"], 3_600 * SECOND),
    (&["days", "day", "d"], 86_400 * SECOND),
    (&["weeks", "week", "w"], 604_800 * SECOND),
    (&["months", "month", "M"], 2_629_800 * SECOND),
    (&["years", "year", "y"], 31_557_600 * SECOND),
];

const SECOND: u128 = 1_000_000_000;

/// Reads a span. A number without a unit counts seconds; `infinity` is [`Duration::MAX`].
pub fn parse(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    if rest == "infinity" {
        return Ok(Duration::MAX);
    }
    if rest.is_empty() {
        return Err("no time is given; write it like `90s`, `5min 20s` or `infinity`".into());
    }
    let mut sum = Some(0);
    while !rest.is_empty() {
        let (span, tail) = first(rest).ok_or_else(|| {
            let rest = rest.escape_debug();
            format!("`{rest}` is not a time; write it like `90s`, `5min 20s` or `infinity`")
        })?;
        sum = sum.zip(span).and_then(|(sum, span)| span.checked_add(sum));
        rest = tail.trim_start();
    }
    let whole = sum.and_then(|sum| u64::try_from(sum / SECOND).ok().zip(Some(sum % SECOND)));
    whole
        .map(|(seconds, nanos)| Duration::new(seconds, nanos as u32))
        .ok_or_else(|| "too long; write `infinity`".into())
}

/// The first number with its unit, in nanoseconds if it is not too large, and what follows.
fn first(text: &str) -> Option<(Option<u128>, &str)> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, mut rest) = text.split_at(digits(text));
    let mut fraction = "";
    if let Some(tail) = rest.strip_prefix('.') {
        (fraction, rest) = tail.split_at(digits(tail));
        // `5.` is nothing, `.5` is half of one.
        if fraction.is_empty() {
            return None;
        }
    } else if whole.is_empty() {
        return None;
    }
    let word = rest.trim_start();
    let (unit, tail) = word.split_at(
        word.find(|c: char| !c.is_alphabetic())
            .unwrap_or(word.len()),
    );
    // Without a unit white space has to follow, or nothing.
    if unit.is_empty() && !rest.is_empty() && word.len() == rest.len() {
        return None;
    }
    let (_, size) = UNITS.iter().find(|(names, _)| names.contains(&unit))?;
    let number = |text: &str| format!("0{text}").parse::<u64>().ok();
    let billionths = number(&format!("{fraction:0<9}")[..9]).map(|n| u128::from(n) * size / SECOND);
    let whole = number(whole).map(|n| u128::from(n) * size);
    Some((
        whole.zip(billionths).map(|(whole, part)| whole + part),
        tail,
    ))
}

/// Writes a span as systemd does, to the nearest second: `4min 12s`. Two units are precise enough.
/// What is left of a span is a little short of what was typed, and is shown as typed.
pub fn show(span: Duration) -> String {
    if span == Duration::MAX {
        return "infinity".into();
    }
    const SHOWN: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
    let millis = span.as_nanos().div_ceil(1_000_000);
    if (1..1000).contains(&millis) {
        return format!("{millis}ms");
    }
    let mut left = u64::try_from((millis + 500) / 1000).unwrap_or(u64::MAX);
    let mut words = Vec::new();
    for (unit, size) in SHOWN {
        if left >= size && words.len() < 2 {
            words.push(format!("{}{unit}", left / size));
            left %= size;
        }
    }
    if words.is_empty() {
        "0s".into()
    } else {
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_systemd_reads() {
        for (text, span) in [
            ("0", Duration::ZERO),
            ("90", Duration::from_secs(90)),
            ("1.5", Duration::from_millis(1500)),
            ("90s", Duration::from_secs(90)),
            ("100ms", Duration::from_millis(100)),
            ("5min", Duration::from_secs(300)),
            ("5min 20s", Duration::from_secs(320)),
            ("1h30min", Duration::from_secs(5400)),
            ("5min 20", Duration::from_secs(320)),
            ("1 30s", Duration::from_secs(31)),
            (".5", Duration::from_millis(500)),
            ("0.33min", Duration::from_millis(19_800)),
            ("1M", Duration::from_secs(2_629_800)),
            ("3μs", Duration::from_micros(3)),
            ("2 h", Duration::from_secs(7200)),
            (" infinity ", Duration::MAX),
        ] {
            assert_eq!(parse(text), Ok(span), "{text}");
        }
        for text in [
            "",
            "fast",
            "5 parsecs",
            "-3s",
            "99999999999999999999s",
            ".",
            "5.",
            "1.5.2",
            "5s s",
            "1ns",
            "18446744073709551615s 999ms 1ms",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn writes_what_systemd_writes() {
        for (span, text) in [
            (Duration::ZERO, "0s"),
            (Duration::from_nanos(1), "1ms"),
            (Duration::from_millis(100), "100ms"),
            (Duration::from_micros(299_900), "300ms"),
            (Duration::from_micros(999_900), "1s"),
            (Duration::from_micros(89_999_900), "1min 30s"),
            (Duration::from_secs(252), "4min 12s"),
            (Duration::from_secs(3600), "1h"),
            (Duration::from_secs(90_061), "1d 1h"),
            (Duration::MAX, "infinity"),
        ] {
            assert_eq!(show(span), text);
        }
    }
}
