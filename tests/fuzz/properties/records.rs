//! Records: rejected with a cause, or parsed, written and read again as the same, continued, and
//! shown on a terminal and to Prometheus.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use wakeport::cli::test_api;
use wakeport::config::busy::Percent;
use wakeport::report::metrics::{Instance, page};
use wakeport::report::record::{Kind, Moment, Process, Record, RecordedState};

pub(super) fn property(bytes: &[u8]) {
    // As state_dir reads a file.
    let text = String::from_utf8_lossy(bytes);
    let record = match Record::from_text(&text) {
        Ok(record) => record,
        Err(reason) => {
            assert!(super::is_one_line(&reason.to_string()), "{reason}");
            return;
        }
    };
    is_shown(&record);
    assert_eq!(again(&record), record);
    let lived = lived_on(record);
    is_shown(&lived);
    // Impossible counts are corrected.
    let kept = again(&lived);
    assert_eq!(again(&kept), kept);
}

/// Written and read again.
fn again(record: &Record) -> Record {
    let text = record.to_text();
    Record::from_text(&text).unwrap_or_else(|reason| panic!("{reason}\n{text}"))
}

/// Continued by a process of its instance.
fn lived_on(mut record: Record) -> Record {
    let at = |seconds: i64| Moment {
        wall: NOW.wall + Duration::from_secs(seconds.unsigned_abs()),
        monotonic: NOW.monotonic + seconds as f64,
    };
    record.begin(Process::default(), at(0));
    record.transition(RecordedState::Waking, at(1));
    record.lasts(Some(Duration::MAX), at(2));
    record.wakes.add(Duration::from_secs(1));
    record.transition(RecordedState::Awake, at(3));
    for &kind in Kind::ALL {
        record.fails(kind, "x\n\u{1b}[31m", at(4).wall);
    }
    record.idles(Percent(
        record.usual_idle_cpu().map_or(u64::MAX, |cpu| cpu.0 / 2),
    ));
    record.end(at(5));
    record
}

const NOW: Moment = Moment {
    wall: Timestamp::constant(1_760_000_000, 0),
    monotonic: 1e6,
};

fn is_shown(record: &Record) {
    for alive in [true, false] {
        let instance = |record: &Record| Instance {
            record: record.clone(),
            alive,
        };
        let mut other = record.clone();
        other.name.push('2');
        is_a_page(&page(&[instance(record), instance(&other)], 1, NOW));
        let [line, details, json] = test_api::status(record, alive, NOW);
        for shown in [line, details] {
            let safe = |c: char| !c.is_control() || c == '\n' || c == '\u{1b}';
            assert!(shown.chars().all(safe), "{shown:?}");
            // Each escape is one of our own: a colour.
            for style in shown.split('\u{1b}').skip(1) {
                let end = style.find(|c: char| !"[0123456789;".contains(c));
                assert!(style.starts_with('[') && style[end.unwrap_or(0)..].starts_with('m'));
            }
        }
        serde_json::from_str::<serde_json::Value>(&json).expect("JSON");
    }
}

/// The rules of the text format, version 0.0.4.
fn is_a_page(page: &str) {
    let mut families = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut buckets: BTreeMap<String, f64> = BTreeMap::new();
    for line in page
        .strip_suffix('\n')
        .expect("a last line feed")
        .split('\n')
    {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(rest.contains(' '), "{line}");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect(line);
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(families.insert(name.to_owned(), kind), None, "{line}");
            continue;
        }
        let (name, labels, value) = sample(line).unwrap_or_else(|| panic!("no sample: {line:?}"));
        let parts = ["_bucket", "_sum", "_count"].iter();
        let mut stems = parts.filter_map(|part| name.strip_suffix(part));
        let of_histogram = stems.any(|stem| families.get(stem) == Some(&"histogram"));
        assert!(of_histogram || families.contains_key(name), "{line}");
        assert!(seen.insert((name.to_owned(), labels.clone())), "{line}");
        if name.ends_with("_total") {
            assert!(value >= 0.0, "{line}");
        }
        let stem = ["_bucket", "_count"]
            .iter()
            .find_map(|part| name.strip_suffix(part));
        let instance = labels.get("name").cloned().unwrap_or_default();
        let instance = format!("{} {instance}", stem.unwrap_or_default());
        if labels.contains_key("le") {
            let before = buckets.insert(instance, value).unwrap_or_default();
            assert!(value >= before, "{line}");
        } else if name.ends_with("_count") {
            assert_eq!(buckets.get(&instance), Some(&value), "{line}");
        }
    }
}

/// A line as name, labels and value.
fn sample(line: &str) -> Option<(&str, BTreeMap<String, String>, f64)> {
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let end = line.find(|c: char| !is_name(c))?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(list) = rest.strip_prefix('{') {
        rest = list;
        loop {
            let (label, tail) = rest.split_once("=\"")?;
            if !label.chars().all(is_name) {
                return None;
            }
            let mut value = String::new();
            let mut chars = tail.char_indices();
            let end = loop {
                match chars.next()? {
                    (end, '"') => break end,
                    (_, '\\') => value.push(match chars.next()?.1 {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        _ => return None,
                    }),
                    (_, c) => value.push(c),
                }
            };
            if labels.insert(label.to_owned(), value).is_some() {
                return None;
            }
            rest = &tail[end + 1..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}')?;
    }
    let value = rest.strip_prefix(' ')?.parse().ok()?;
    Some((name, labels, value))
}
