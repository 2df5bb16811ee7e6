//! Spans of time in systemd's spelling (systemd.time(7)): `5min 20s`, `90`, `1.5h`, `infinity`.

use std::time::Duration;

/// Reads a span. A bare number counts seconds; `infinity` is [`Duration::MAX`].
pub fn parse(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text == "infinity" {
        return Ok(Duration::MAX);
    }
    let bare = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let with_unit = if bare {
        format!("{text}s")
    } else {
        text.to_owned()
    };
    humantime::parse_duration(&with_unit)
        .map_err(|error| format!("{error}; write it like `90s`, `5min 20s` or `infinity`"))
}

/// Writes a span as systemd does, to the nearest second: `4min 12s`. Two units are precise enough.
/// What is left of a span is always a little short of what somebody typed; it is shown as that.
pub fn show(span: Duration) -> String {
    if span == Duration::MAX {
        return "infinity".into();
    }
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
    let millis = span.as_nanos().div_ceil(1_000_000);
    if (1..1000).contains(&millis) {
        return format!("{millis}ms");
    }
    let mut left = u64::try_from((millis + 500) / 1000).unwrap_or(u64::MAX);
    let mut words = Vec::new();
    for (unit, size) in UNITS {
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
            ("2 h", Duration::from_secs(7200)),
            (" infinity ", Duration::MAX),
        ] {
            assert_eq!(parse(text), Ok(span), "{text}");
        }
        for text in ["", "fast", "5 parsecs", "-3s", "99999999999999999999s", "."] {
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
