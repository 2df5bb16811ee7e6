//! Numbers as people read them, in few columns. Pure.

/// A span, in the largest unit that fits: `42s`, `14min`, `23h`, `3d`.
pub(super) fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..60 => format!("{whole}s"),
        60..3_600 => format!("{}min", whole / 60),
        3_600..172_800 => format!("{}h", whole / 3_600),
        _ => format!("{}d", whole / 86_400),
    }
}

/// A countdown: never less than what is left.
pub(super) fn left(seconds: f64) -> String {
    span(if seconds < 60.0 {
        seconds.ceil()
    } else {
        seconds
    })
}

/// How long a wake took: `212ms`, `1.21s`, `12.3s`, `125s`.
pub(super) fn took(seconds: f64) -> String {
    if seconds < 0.9995 {
        format!("{:.0}ms", seconds * 1e3)
    } else if seconds < 9.995 {
        format!("{seconds:.2}s")
    } else if seconds < 99.95 {
        format!("{seconds:.1}s")
    } else {
        format!("{seconds:.0}s")
    }
}

/// An amount of memory, as systemctl has it: `512B`, `48.3M`, `1.2G`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would be shown as 1024.0 is one of the next.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1}{}", UNITS[unit])
}

/// A share: `93%`. What is not all is not shown as all, what is not nothing not as nothing.
pub(super) fn share(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 99.0 && percent < 100.0 {
        format!("{:.1}%", (percent * 10.0).floor() / 10.0)
    } else if percent > 0.0 && percent < 1.0 {
        "<1%".into()
    } else {
        format!("{percent:.0}%")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (seconds, text) in [
            (-1.0, "0s"),
            (0.4, "0s"),
            (59.9, "59s"),
            (60.0, "1min"),
            (3599.0, "59min"),
            (7200.0, "2h"),
            (86_400.0 * 365.0, "365d"),
        ] {
            assert_eq!(span(seconds), text);
        }
        assert_eq!((left(0.1), left(59.2)), ("1s".into(), "1min".into()));
        for (seconds, text) in [
            (0.0, "0ms"),
            (0.0123, "12ms"),
            (0.9996, "1.00s"),
            (1.207, "1.21s"),
            (9.999, "10.0s"),
            (99.99, "100s"),
        ] {
            assert_eq!(took(seconds), text);
        }
        for (amount, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0K"),
            (50_646_220, "48.3M"),
            (1_073_741_823, "1.0G"),
            (u64::MAX, "16.0E"),
        ] {
            assert_eq!(bytes(amount), text);
        }
        for (of_one, text) in [
            (0.0, "0%"),
            (0.001, "<1%"),
            (0.934, "93%"),
            (0.9999, "99.9%"),
            (1.0, "100%"),
        ] {
            assert_eq!(share(of_one), text);
        }
    }
}
