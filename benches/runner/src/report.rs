//! What was measured, and what is made of it: medians, tables, marks, files.

use std::fmt::Write;

use crate::peers::title;

/// One figure of one round.
pub(crate) struct Sample {
    pub(crate) round: u32,
    pub(crate) load: &'static str,
    pub(crate) metric: &'static str,
    pub(crate) who: String,
    pub(crate) value: f64,
}

/// A load, and what is measured under it; the first figure is what the chart shows.
pub(crate) struct Subject {
    pub(crate) load: &'static str,
    pub(crate) title: &'static str,
    pub(crate) metrics: &'static [Metric],
}

pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) more_is_better: bool,
}

const fn more(name: &'static str, unit: &'static str) -> Metric {
    Metric {
        name,
        unit,
        more_is_better: true,
    }
}

const fn less(name: &'static str, unit: &'static str) -> Metric {
    Metric {
        name,
        unit,
        more_is_better: false,
    }
}

const PING: &[Metric] = &[
    more("rps", "requests/s"),
    less("p50_us", "p50, µs"),
    less("p99_us", "p99, µs"),
    less("cpu_us", "CPU µs/request"),
];
const STREAM: &[Metric] = &[more("gbps", "Gbit/s"), less("cpu_s_gb", "CPU s/GB")];
const CONNECTS: &[Metric] = &[
    more("cps", "connections/s"),
    less("cpu_us", "CPU µs/connection"),
    less("failed", "failed"),
];
const IDLE: &[Metric] = &[
    less("kb", "kB/connection"),
    less("private_kb", "private kB/connection"),
    less("resident_kb", "kB without any"),
];
const WAKE: &[Metric] = &[less("ms", "ms"), less("p95_ms", "p95, ms")];
const ECHO: &[Metric] = &[
    less("cpu_us", "CPU µs/round trip"),
    more("rps", "round trips/s"),
    less("p50_us", "p50, µs"),
    less("p99_us", "p99, µs"),
    less("lost", "lost, %"),
];
const BULK: &[Metric] = &[
    less("cpu_us", "CPU µs/datagram"),
    more("arrived", "arrived/s"),
    less("lost", "lost, %"),
];
const ASLEEP: &[Metric] = &[
    less("kb", "kB of PID 1 each"),
    less("processes", "processes"),
];

/// Every load, in the order in which they are run and shown.
pub(crate) const SUBJECTS: [Subject; 24] = [
    Subject {
        load: "ping-64-1",
        title: "64 B ping-pong, 1 connection",
        metrics: PING,
    },
    Subject {
        load: "ping-64-16",
        title: "64 B ping-pong, 16 connections",
        metrics: PING,
    },
    Subject {
        load: "ping-64-64",
        title: "64 B ping-pong, 64 connections",
        metrics: PING,
    },
    Subject {
        load: "ping-16k-1",
        title: "16 KiB ping-pong, 1 connection",
        metrics: PING,
    },
    Subject {
        load: "ping-16k-16",
        title: "16 KiB ping-pong, 16 connections",
        metrics: PING,
    },
    Subject {
        load: "ping-16k-64",
        title: "16 KiB ping-pong, 64 connections",
        metrics: PING,
    },
    Subject {
        load: "down-1",
        title: "1 stream down",
        metrics: STREAM,
    },
    Subject {
        load: "up-1",
        title: "1 stream up",
        metrics: STREAM,
    },
    Subject {
        load: "down-16",
        title: "16 streams down",
        metrics: STREAM,
    },
    Subject {
        load: "up-16",
        title: "16 streams up",
        metrics: STREAM,
    },
    Subject {
        load: "connects",
        title: "Connect, 64 B, reset",
        metrics: CONNECTS,
    },
    Subject {
        load: "idle",
        title: "3,000 idle connections",
        metrics: IDLE,
    },
    Subject {
        load: "wake",
        title: "Cold wake, to the first byte",
        metrics: WAKE,
    },
    Subject {
        load: "wake-simple",
        title: "The same, service of Type=simple",
        metrics: WAKE,
    },
    Subject {
        load: "thaw-postgresql",
        title: "PostgreSQL, to the first result",
        metrics: WAKE,
    },
    Subject {
        load: "thaw-150m",
        title: "150 MB in Python, to the first byte",
        metrics: WAKE,
    },
    Subject {
        load: "asleep",
        title: "1,000 sleeping services",
        metrics: ASLEEP,
    },
    Subject {
        load: "http-64-1",
        title: "64 B response, 1 connection",
        metrics: PING,
    },
    Subject {
        load: "http-64-64",
        title: "64 B response, 64 connections",
        metrics: PING,
    },
    Subject {
        load: "http-16k-64",
        title: "16 KiB response, 64 connections",
        metrics: PING,
    },
    Subject {
        load: "http-large-4",
        title: "4 bodies of 256 MiB",
        metrics: STREAM,
    },
    Subject {
        load: "http-idle",
        title: "3,000 idle connections after a request",
        metrics: IDLE,
    },
    Subject {
        load: "udp-64-64",
        title: "64 B echoed, 64 flows, 4 under way each",
        metrics: ECHO,
    },
    Subject {
        load: "udp-bulk",
        title: "1200 B, 100,000/s in trains of 10",
        metrics: BULK,
    },
];

/// What wakeport has to reach beside others.
struct Mark {
    load: &'static str,
    metric: &'static str,
    /// Which wakeport.
    who: &'static str,
    /// The best of these counts; without any the figure itself.
    against: &'static [&'static str],
    ratio: f64,
}

const RELAYS: &[&str] = &["haproxy", "haproxy-tuned", "nginx", "nginx-tuned"];
const ALL: &[&str] = &[
    "socket-proxyd",
    "haproxy",
    "haproxy-tuned",
    "nginx",
    "nginx-tuned",
];
const SOCKET_PROXYD: &[&str] = &["socket-proxyd"];
const HAPROXY: &[&str] = &["haproxy", "haproxy-tuned"];
const NGINX: &[&str] = &["nginx", "nginx-tuned"];
/// Those that copy bodies.
const COPIES: &[&str] = &["haproxy", "nginx", "nginx-tuned"];
const SPLICES: &[&str] = &["haproxy-tuned"];

const fn mark(
    load: &'static str,
    metric: &'static str,
    against: &'static [&'static str],
    ratio: f64,
) -> Mark {
    Mark {
        load,
        metric,
        who: "wakeport",
        against,
        ratio,
    }
}

/// A cold wake beside the one of systemd-socket-proxyd without a sandbox.
const fn wake(load: &'static str, who: &'static str, ratio: f64) -> Mark {
    Mark {
        load,
        metric: "ms",
        who,
        against: SOCKET_PROXYD,
        ratio,
    }
}

/// The first answer of a frozen service, in ms.
const fn thaw(load: &'static str) -> Mark {
    Mark {
        load,
        metric: "ms",
        who: "wakeport, frozen",
        against: &[],
        ratio: 50.0,
    }
}

const MARKS: [Mark; 42] = [
    mark("down-1", "gbps", RELAYS, 1.5),
    mark("up-1", "gbps", RELAYS, 1.5),
    mark("down-16", "gbps", RELAYS, 1.5),
    mark("up-16", "gbps", RELAYS, 1.5),
    mark("down-1", "cpu_s_gb", RELAYS, 0.35),
    mark("up-1", "cpu_s_gb", RELAYS, 0.35),
    mark("down-16", "cpu_s_gb", RELAYS, 0.35),
    mark("up-16", "cpu_s_gb", RELAYS, 0.35),
    mark("down-1", "gbps", SOCKET_PROXYD, 1.1),
    mark("up-1", "gbps", SOCKET_PROXYD, 1.1),
    mark("down-1", "cpu_s_gb", SOCKET_PROXYD, 0.95),
    mark("up-1", "cpu_s_gb", SOCKET_PROXYD, 0.95),
    mark("ping-64-64", "rps", RELAYS, 1.1),
    mark("ping-64-1", "p50_us", ALL, 1.0),
    mark("ping-16k-1", "rps", ALL, 1.1),
    mark("ping-16k-16", "rps", ALL, 1.1),
    mark("ping-16k-64", "rps", ALL, 1.1),
    mark("ping-16k-1", "p99_us", ALL, 0.8),
    mark("ping-16k-16", "p99_us", ALL, 1.0),
    mark("ping-16k-64", "p99_us", ALL, 0.8),
    mark("connects", "cps", HAPROXY, 1.05),
    mark("connects", "cpu_us", HAPROXY, 1.0),
    mark("idle", "kb", HAPROXY, 0.45),
    mark("idle", "resident_kb", SOCKET_PROXYD, 1.5),
    wake("wake", "wakeport", 1.0),
    wake("wake", "wakeport, Wants=", 1.0),
    wake("wake", "wakeport, installed", 1.3),
    wake("wake-simple", "wakeport, Wants=", 1.0),
    wake("wake-simple", "wakeport, installed", 1.3),
    thaw("thaw-postgresql"),
    thaw("thaw-150m"),
    mark("http-64-64", "rps", RELAYS, 1.15),
    mark("http-16k-64", "rps", RELAYS, 1.15),
    mark("http-64-64", "cpu_us", NGINX, 0.85),
    mark("http-large-4", "cpu_s_gb", COPIES, 0.5),
    mark("http-large-4", "cpu_s_gb", SPLICES, 1.0),
    mark("http-64-1", "p50_us", RELAYS, 1.0),
    mark("http-64-64", "p99_us", RELAYS, 1.0),
    mark("http-idle", "kb", &[], 2.0),
    mark("udp-64-64", "cpu_us", NGINX, 1.0),
    mark("udp-bulk", "cpu_us", NGINX, 0.35),
    mark("udp-bulk", "lost", &[], 0.0),
];

/// All figures of a run.
#[derive(Default)]
pub(crate) struct Results {
    samples: Vec<Sample>,
}

impl Results {
    pub(crate) fn add(
        &mut self,
        round: u32,
        load: &'static str,
        who: &str,
        figures: Vec<(&'static str, f64)>,
    ) {
        let sample = |(metric, value)| Sample {
            round,
            load,
            metric,
            who: who.to_owned(),
            value,
        };
        self.samples.extend(figures.into_iter().map(sample));
    }

    fn of(&self, load: &str, metric: &str, who: &str) -> impl Iterator<Item = &Sample> {
        self.samples
            .iter()
            .filter(move |s| s.load == load && s.metric == metric && s.who == who)
    }

    fn sorted(&self, load: &str, metric: &str, who: &str) -> Vec<f64> {
        let mut values: Vec<_> = self
            .of(load, metric, who)
            .map(|sample| sample.value)
            .collect();
        values.sort_by(f64::total_cmp);
        values
    }

    /// The median over all rounds.
    pub(crate) fn median(&self, load: &str, metric: &str, who: &str) -> Option<f64> {
        // The wakes are noted one by one.
        if metric == "p95_ms" {
            let values = self.sorted(load, "ms", who);
            return values
                .get(values.len().saturating_sub(1) * 95 / 100)
                .copied();
        }
        median(&self.sorted(load, metric, who))
    }

    /// Who has taken part in a load, in order of appearance.
    pub(crate) fn who(&self, load: &str) -> Vec<&str> {
        let mut found: Vec<&str> = Vec::new();
        for sample in self.samples.iter().filter(|sample| sample.load == load) {
            if !found.contains(&sample.who.as_str()) {
                found.push(&sample.who);
            }
        }
        // The first round may have begun with anybody.
        found.sort_by_key(|who| rank(who));
        found
    }

    /// Medians, a row for each figure and a column for each who took part.
    pub(crate) fn tables(&self) -> String {
        let mut text = String::new();
        let mut last = Vec::new();
        for subject in &SUBJECTS {
            let who = self.who(subject.load);
            if who.is_empty() {
                continue;
            }
            // One table as long as the same take part; nothing is relayed between nobody and direct.
            let same = who == last
                || (who.iter().all(|who| last.contains(who)) && subject.load.ends_with("idle"));
            if !same {
                let titles: Vec<_> = who.iter().map(|who| title(who)).collect();
                let _ = writeln!(
                    text,
                    "\n| load | figure | {} |\n|---|---{}|",
                    titles.join(" | "),
                    "|--:".repeat(who.len())
                );
                last.clone_from(&who);
            }
            let mut name = subject.title;
            for metric in subject.metrics {
                let values: Vec<_> = last
                    .iter()
                    .map(|who| self.median(subject.load, metric.name, who))
                    .collect();
                if values.iter().all(Option::is_none) {
                    continue;
                }
                let cells: Vec<_> = values
                    .into_iter()
                    .map(|value| value.map_or("–".to_owned(), show))
                    .collect();
                let _ = writeln!(text, "| {name} | {} | {} |", metric.unit, cells.join(" | "));
                name = "";
            }
        }
        text
    }

    /// wakeport's ratios to others, and what they should be.
    pub(crate) fn marks(&self) -> String {
        let mut text = String::from(
            "| load | figure | against | should be | is | rounds | |\n|---|---|---|--:|--:|--:|---|\n",
        );
        let mut any = false;
        for mark in &MARKS {
            let Some(subject) = SUBJECTS.iter().find(|subject| subject.load == mark.load) else {
                continue;
            };
            let Some(metric) = subject
                .metrics
                .iter()
                .find(|metric| metric.name == mark.metric)
            else {
                continue;
            };
            let others = mark
                .against
                .iter()
                .filter_map(|who| Some((*who, self.median(mark.load, mark.metric, who)?)));
            let best = match metric.more_is_better {
                _ if mark.against.is_empty() => Some(("–", 1.0)),
                true => others.max_by(|a, b| a.1.total_cmp(&b.1)),
                false => others.min_by(|a, b| a.1.total_cmp(&b.1)),
            };
            let (Some(ours), Some((best, theirs))) =
                (self.median(mark.load, mark.metric, mark.who), best)
            else {
                continue;
            };
            any = true;
            let ratio = ours / theirs;
            let (bound, reached) = match metric.more_is_better {
                true => ("at least", ratio >= mark.ratio),
                false => ("at most", ratio <= mark.ratio),
            };
            let range = self.range(mark, best);
            let verdict = if reached {
                "✓"
            } else {
                "**✗ not reached**"
            };
            let _ = writeln!(
                text,
                "| {}{} | {} | {} | {bound} {} | {ratio:.2} | {range} | {verdict} |",
                subject.title,
                mark.who.trim_start_matches("wakeport"),
                metric.unit,
                title(best),
                mark.ratio
            );
        }
        if any { text } else { String::new() }
    }

    /// The least and the greatest ratio in any round.
    fn range(&self, mark: &Mark, other: &str) -> String {
        let rounds = self
            .of(mark.load, mark.metric, mark.who)
            .map(|sample| sample.round);
        let rounds: std::collections::BTreeSet<_> = rounds.collect();
        let at = |who: &str, round| {
            let mut values: Vec<_> = self
                .of(mark.load, mark.metric, who)
                .filter(|s| s.round == round)
                .map(|s| s.value)
                .collect();
            values.sort_by(f64::total_cmp);
            median(&values)
        };
        let theirs = |round| match mark.against {
            [] => Some(1.0),
            _ => at(other, round),
        };
        let ratios = rounds
            .into_iter()
            .filter_map(|round| Some(at(mark.who, round)? / theirs(round)?));
        let mut ratios: Vec<_> = ratios.collect();
        ratios.sort_by(f64::total_cmp);
        match (ratios.first(), ratios.last()) {
            (Some(least), Some(most)) => format!("{least:.2}–{most:.2}"),
            _ => "–".into(),
        }
    }

    pub(crate) fn csv(&self) -> String {
        let mut text = String::from("load,metric,who,round,value\n");
        for Sample {
            round,
            load,
            metric,
            who,
            value,
        } in &self.samples
        {
            let _ = writeln!(text, "{load},{metric},\"{who}\",{round},{value}");
        }
        text
    }

    /// Everything, with what is known about the machine.
    pub(crate) fn json(&self, about: &[(&str, String)]) -> String {
        let pairs: Vec<_> = about
            .iter()
            .map(|(key, value)| format!("    {}: {}", quote(key), quote(value)))
            .collect();
        let mut medians = Vec::new();
        for subject in &SUBJECTS {
            for who in self.who(subject.load) {
                for metric in subject.metrics {
                    if let Some(value) = self.median(subject.load, metric.name, who) {
                        let (load, metric, who) =
                            (quote(subject.load), quote(metric.name), quote(who));
                        medians.push(format!("    {{\"load\": {load}, \"metric\": {metric}, \"who\": {who}, \"median\": {value}}}"));
                    }
                }
            }
        }
        let samples = self.samples.iter().map(|Sample { round, load, metric, who, value }| {
            let (load, metric, who) = (quote(load), quote(metric), quote(who));
            format!("    {{\"load\": {load}, \"metric\": {metric}, \"who\": {who}, \"round\": {round}, \"value\": {value}}}")
        });
        format!(
            "{{\n  \"about\": {{\n{}\n  }},\n  \"medians\": [\n{}\n  ],\n  \"samples\": [\n{}\n  ]\n}}\n",
            pairs.join(",\n"),
            medians.join(",\n"),
            samples.collect::<Vec<_>>().join(",\n")
        )
    }
}

/// The order in which those who take part are shown; what is not listed is another wakeport.
fn rank(who: &str) -> usize {
    const ORDER: [&str; 13] = [
        "direct",
        "socket-proxyd",
        "socket-proxyd, same sandbox",
        "haproxy",
        "haproxy-tuned",
        "nginx",
        "nginx-tuned",
        "wakeport",
        "wakeport, Wants=",
        "wakeport, installed",
        "wakeport, installed, filter",
        "wakeport, cold start",
        "wakeport, frozen",
    ];
    let place = ORDER.iter().position(|name| *name == who);
    place.unwrap_or(ORDER.len())
}

/// Of sorted values.
fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// A number with three digits that count, or all of those before the point.
pub(crate) fn show(value: f64) -> String {
    let decimals = match value.abs() {
        v if v == 0.0 || v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let (sign, digits) = text
        .strip_prefix('-')
        .map_or(("", text.as_str()), |rest| ("-", rest));
    let (whole, rest) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{rest}")
}

fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            c if c < ' ' => quoted.push(' '),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::{Results, SUBJECTS, median, quote, show};

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[1.0, 2.0, 9.0]), Some(2.0));
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), Some(3.0));
    }

    #[test]
    fn numbers_are_short() {
        let shown: Vec<_> = [0.0, 0.0954, 1.0, 12.34, 999.6, 1234567.0, -2.5]
            .map(show)
            .into();
        assert_eq!(
            shown,
            ["0", "0.095", "1.00", "12.3", "1,000", "1,234,567", "-2.50"]
        );
        assert_eq!(quote("a \"b\"\n"), r#""a \"b\"\n""#);
    }

    #[test]
    fn a_mark_is_reached_or_not() {
        let mut results = Results::default();
        for (who, gbps) in [("haproxy", 20.0), ("nginx", 30.0), ("wakeport", 46.0)] {
            results.add(1, "down-1", who, vec![("gbps", gbps), ("cpu_s_gb", 0.3)]);
        }
        let marks = results.marks();
        assert!(
            marks.contains(
                "| 1 stream down | Gbit/s | nginx | at least 1.5 | 1.53 | 1.53–1.53 | ✓ |"
            ),
            "{marks}"
        );
        assert!(
            marks.contains("at most 0.35 | 1.00 | 1.00–1.00 | **✗ not reached** |"),
            "{marks}"
        );
        assert!(
            results
                .tables()
                .contains("| 1 stream down | Gbit/s | 20.0 | 30.0 | 46.0 |"),
            "{}",
            results.tables()
        );
    }

    #[test]
    fn a_mark_without_others_is_about_the_figure_itself() {
        let mut results = Results::default();
        for (round, kb) in [(1, 1.5), (2, 1.7), (3, 2.5)] {
            results.add(round, "http-idle", "wakeport", vec![("kb", kb)]);
        }
        let marks = results.marks();
        assert!(
            marks.contains("| kB/connection | – | at most 2 | 1.70 | 1.50–2.50 | ✓ |"),
            "{marks}"
        );
    }

    #[test]
    fn each_load_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> =
            SUBJECTS.iter().map(|subject| subject.load).collect();
        assert_eq!(names.len(), SUBJECTS.len());
    }
}
