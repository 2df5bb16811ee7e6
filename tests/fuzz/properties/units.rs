//! Names of units, and of listeners as parts of those.

use wakeport::admin::{stem, unit_text};
use wakeport::config::UnitName;

pub(super) fn property(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    match text.parse::<UnitName>() {
        Err(reason) => assert!(
            super::is_one_line(&reason) || text.contains(|c: char| c.is_control()),
            "{reason:?}"
        ),
        Ok(unit) => {
            let shown = unit.to_string();
            assert!(shown == text || shown == format!("{text}.service"));
            assert!(shown.len() <= 255, "systemd knows no such name: {shown}");
            assert_eq!(shown.parse(), Ok(unit.clone()), "{shown}");
            // The name of the instance that wakes it is understood as that unit.
            assert_eq!(stem(&unit).parse(), Ok(unit), "{shown}");
        }
    }
    let part = unit_text::escape(text);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    assert!(part.bytes().all(allowed), "{part}");
    assert_eq!(unescaped(&part), bytes, "{part}");
}

/// What was escaped: no two names become the same part of a unit's name.
fn unescaped(part: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), part.as_bytes());
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..2).and_then(|digits| str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if *first == b'_' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}
