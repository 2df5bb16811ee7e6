//! Spans of time, and rates: the printed form parses to the same value, and parts add up. The kept
//! spans are compared with the real systemd as well (tests/it/spans.rs).

use std::time::Duration;

use wakeport::config::WakeRate;
use wakeport::config::span::{parse, show};

pub(super) fn property(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    match parse(text) {
        Ok(span) => {
            is_shown_as_it_is(span);
            let more = parse(&format!("{text} 1.5min"));
            if let Some(sum) = span.checked_add(Duration::from_secs(90)) {
                assert_eq!(more, Ok(sum));
            }
        }
        Err(reason) => assert!(super::is_one_line(&reason), "{reason:?}"),
    }
    match text.parse::<WakeRate>() {
        Ok(rate) => {
            let shown = rate.to_string();
            let again: Result<WakeRate, _> = shown.parse();
            assert_eq!(again.map(|rate| rate.to_string()), Ok(shown));
        }
        Err(reason) => assert!(super::is_one_line(&reason), "{reason:?}"),
    }
}

/// Two units are shown, the last one rounded.
fn is_shown_as_it_is(span: Duration) {
    let shown = show(span);
    let again = parse(&shown).unwrap_or_else(|reason| panic!("{shown}: {reason}"));
    assert_eq!(show(again), shown, "{span:?}");
    let most = span / 24 + Duration::from_millis(500);
    assert!(again.abs_diff(span) <= most, "{span:?} is shown as {shown}");
}
