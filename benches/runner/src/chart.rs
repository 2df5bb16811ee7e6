//! The chart: a small panel for each load, a bar for each who took part.

use std::fmt::Write;

use crate::peers::title;
use crate::report::{Results, SUBJECTS, Subject, show};

const COLUMNS: usize = 3;
const PANEL: f64 = 380.0;
const GAP: f64 = 20.0;
const MARGIN: f64 = 28.0;
const ROW: f64 = 23.0;
const HEAD: f64 = 58.0;
const NAMES: f64 = 152.0;
const BAR: f64 = 98.0;

const STYLE: &str = "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;fill:#1f2933}\
.h{font-size:20px;font-weight:650}.t{font-size:13.5px;font-weight:600}.s{font-size:11px;fill:#66727f}\
.n{font-size:11.5px;fill:#3e4c59}.v{font-size:11.5px;font-weight:600}.o{font-weight:400;fill:#7b8794;font-size:10.5px}\
.w{font-weight:700;fill:#0b7a75}";

/// As SVG, on a white ground of its own.
pub(crate) fn draw(results: &Results, about: &str) -> String {
    let panels: Vec<_> = SUBJECTS
        .iter()
        .filter(|subject| !rows(results, subject).is_empty())
        .collect();
    let width = MARGIN * 2.0 + PANEL * COLUMNS as f64 + GAP * (COLUMNS - 1) as f64;
    let mut y = 84.0;
    let mut body = String::new();
    for line in panels.chunks(COLUMNS) {
        let most = line
            .iter()
            .map(|subject| rows(results, subject).len())
            .max()
            .unwrap_or(0);
        let height = HEAD + ROW * most as f64 + 2.0;
        for (column, subject) in line.iter().enumerate() {
            let x = MARGIN + (PANEL + GAP) * column as f64;
            panel(&mut body, results, subject, x, y, height);
        }
        y += height + GAP;
    }
    let height = y + MARGIN - GAP;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\">\n\
         <title>wakeport and its peers, side by side</title>\n<style>{STYLE}</style>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"10\" fill=\"#ffffff\"/>\n\
         <text x=\"{MARGIN}\" y=\"40\" class=\"h\">wakeport and its peers, side by side</text>\n\
         <text x=\"{MARGIN}\" y=\"62\" class=\"s\">{}</text>\n{body}</svg>\n",
        escape(about)
    )
}

/// Who took part, and the first figure of each.
fn rows<'a>(results: &'a Results, subject: &Subject) -> Vec<(&'a str, f64)> {
    let who = results.who(subject.load).into_iter();
    who.filter_map(|who| {
        Some((
            who,
            results.median(subject.load, subject.metrics[0].name, who)?,
        ))
    })
    .collect()
}

fn panel(body: &mut String, results: &Results, subject: &Subject, x: f64, y: f64, height: f64) {
    let [first, others @ ..] = subject.metrics else {
        return;
    };
    let rows = rows(results, subject);
    // Without the proxy everything may be so much faster that nothing else could be told apart.
    let most = rows
        .iter()
        .map(|row| row.1)
        .fold(f64::MIN_POSITIVE, f64::max);
    let better = if first.more_is_better {
        "more is better"
    } else {
        "less is better"
    };
    let others: Vec<_> = others
        .iter()
        .filter(|metric| !["failed", "private_kb", "p50_us"].contains(&metric.name))
        .collect();
    let units: Vec<_> = others.iter().map(|metric| metric.unit).collect();
    let more = if units.is_empty() {
        String::new()
    } else {
        format!(" · beside it: {}", units.join(" · "))
    };
    let _ = writeln!(
        body,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{PANEL}\" height=\"{height}\" rx=\"8\" fill=\"#f8fafb\" stroke=\"#e4e9ed\"/>\n\
         <text x=\"{}\" y=\"{}\" class=\"t\">{}</text>\n<text x=\"{}\" y=\"{}\" class=\"s\">{}, {better}{}</text>",
        x + 14.0,
        y + 23.0,
        escape(subject.title),
        x + 14.0,
        y + 40.0,
        escape(first.unit),
        escape(&more)
    );
    for (index, (who, value)) in rows.iter().enumerate() {
        let top = y + HEAD - 6.0 + ROW * index as f64;
        let (colour, ours) = match *who {
            "direct" => ("#d5dce2", ""),
            who if ["socket-proxyd", "haproxy", "nginx"]
                .iter()
                .any(|peer| who.starts_with(peer)) =>
            {
                ("#9fb0bf", "")
            }
            _ => ("#12a594", " w"),
        };
        let length = (value / most * BAR).max(1.5);
        let beside: Vec<_> = others
            .iter()
            .filter_map(|metric| results.median(subject.load, metric.name, who))
            .map(show)
            .collect();
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{}\" class=\"n{ours}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{}\" y=\"{top}\" width=\"{length:.1}\" height=\"15\" rx=\"2.5\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{}\" class=\"v\">{}<tspan class=\"o\" dx=\"6\">{}</tspan></text>",
            x + NAMES,
            top + 11.5,
            escape(&short(who)),
            x + NAMES + 8.0,
            x + NAMES + 8.0 + length + 6.0,
            top + 11.5,
            show(*value),
            beside.join(" · ")
        );
    }
}

/// A name that fits beside its bar.
fn short(who: &str) -> String {
    match who.strip_prefix("socket-proxyd, ") {
        Some(rest) => format!("proxyd, {rest}"),
        None => title(who).to_owned(),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
