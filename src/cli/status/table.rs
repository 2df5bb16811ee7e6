//! The instances as a table of 80 columns, or one of them in full. Pure.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Color, Style};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::numbers::{bytes, left, share, span, took};
use super::view::View;
use crate::admin::machine::inventory::Socket;
use crate::config::Manager;
use crate::report::record::http::Requests;
use crate::report::record::{LastFailure, Moment, RecordedState, Work};
use crate::report::text;
use crate::util::text::one_line;

/// Wide enough for most names; a longer one is cut where there is no more room.
const NAME: usize = 16;
const STATE: usize = 13;

/// Every column but the first, and those about requests.
const REST: usize = 64;

/// A longer host is cut.
const HOST: usize = 4;
const LONGEST_HOST: usize = 30;

/// The column with the number of requests.
const REQUESTS: usize = 9;

/// A failure that was followed by a successful wake is shown for so long, in seconds.
const RECENT: f64 = 86_400.0;

const DIM: Style = Style::new().dimmed();
const BOLD: Style = Style::new().bold();
const WARNING: Style = colour(AnsiColor::Yellow);
const ERROR: Style = colour(AnsiColor::Red);

const fn colour(colour: AnsiColor) -> Style {
    Style::new().fg_color(Some(Color::Ansi(colour)))
}

/// All of them, a line each, and below it what needs attention.
pub(super) fn table(views: &[View], width: Option<usize>, now: Moment) -> String {
    let longest = views.iter().map(|view| name(view).chars().count()).max();
    // Only where there are requests: the others have 80 columns.
    let hosts = views.iter().filter_map(hosts);
    let hosts = hosts.map(|hosts| hosts.chars().count().clamp(HOST, LONGEST_HOST));
    let hosts = hosts.max();
    let rest = hosts.map_or(REST, |hosts| REST + hosts + 2 + REQUESTS);
    let room = width.map_or(usize::MAX, |width| width.saturating_sub(rest).max(NAME));
    let first = longest.unwrap_or(0).clamp(NAME, room);
    let mut text = String::new();
    let titles = [
        "FOR", "CLIENTS", "WAKES", "MEDIAN", "LAST", "ASLEEP", "FREED",
    ];
    let host = |text: &str| match hosts {
        Some(hosts) => format!("  {:hosts$}", cut(text, hosts)),
        None => String::new(),
    };
    let header = format!(
        "{:first$}{}  {:STATE$}{}",
        "NAME",
        host("HOST"),
        "STATE",
        right(titles, hosts.map(|_| "REQUESTS"))
    );
    let _ = writeln!(text, "{BOLD}{header}{BOLD:#}");
    for view in views {
        let (name, style) = (cut(&name(view), first), style(view.state));
        let requests = or_dash(requests(view));
        let numbers = [
            &or_dash(view.for_seconds.map(span)),
            &clients(view),
            &or_dash(view.since.map(|_| view.wakes.total.to_string())),
            &or_dash(view.wakes.median_seconds.map(took)),
            &or_dash(view.wakes.last_seconds.map(took)),
            &or_dash(view.asleep_share.map(share)),
            &or_dash(view.memory_freed_bytes.map(bytes)),
        ];
        let _ = writeln!(
            text,
            "{name:first$}{}  {style}{:STATE$}{style:#}{}",
            host(&or_dash(self::hosts(view))),
            state(view),
            right(numbers.map(String::as_str), hosts.map(|_| &*requests))
        );
        for (style, note) in notes(view, now) {
            let _ = writeln!(text, "  {style}{}{style:#}", one_line(&note));
        }
    }
    text
}

/// The columns with numbers.
fn right(columns: [&str; 7], requests: Option<&str>) -> String {
    let [lasts, clients, wakes, median, last, asleep, freed] = columns;
    let requests = match requests {
        Some(requests) => format!(" {requests:>8}"),
        None => String::new(),
    };
    format!(
        "  {lasts:>5} {clients:>7}{requests} {wakes:>5} {median:>6} {last:>6} {asleep:>6} {freed:>6}"
    )
}

/// The first of its hosts, and how many more there are.
fn hosts(view: &View) -> Option<String> {
    let mut hosts = view.http.as_ref()?.hosts.keys();
    let first = one_line(hosts.next()?);
    Some(match hosts.count() {
        0 => first,
        more => format!("{first} +{more}"),
    })
}

/// How many requests have ended.
fn requests(view: &View) -> Option<String> {
    let hosts = view.http.as_ref()?.hosts.values();
    Some(hosts.map(Requests::total).sum::<u64>().to_string())
}

/// One of them in full.
pub(super) fn details(view: &View, now: Moment) -> String {
    let mut text = String::new();
    let service = view.service.as_deref().unwrap_or("not woken yet");
    let _ = writeln!(text, "{BOLD}{}{BOLD:#} - {}", name(view), one_line(service));
    let mut say = |what: &str, value: String| {
        let _ = writeln!(text, "{what:>11}: {value}");
    };
    let style = style(view.state);
    let since = view.since.zip(view.for_seconds);
    let since = since.map(|(at, seconds)| format!(" since {}; {}", date(at), span(seconds)));
    let (state, since) = (state(view), since.unwrap_or_default());
    say("State", format!("{style}{state}{style:#}{since}"));
    if let Some(unit) = &view.unit {
        say("Unit", one_line(unit));
    }
    for socket in view.sockets.iter().flatten() {
        let addresses = one_line(&socket.listen.join(" "));
        let state = [&socket.unit, &socket.state, &socket.enabled].map(|word| one_line(word));
        say("Socket", format!("{addresses} ({})", state.join(", ")));
    }
    if let Some(since) = view.counting_since {
        let c = view.clients;
        let gone = c.refused_failed + c.refused_silent + c.refused_rate + c.refused_address;
        say(
            "Clients",
            format!(
                "{} now, {} waiting; {} served, {gone} refused, {} gave up",
                c.active, c.waiting, c.served, c.gave_up
            ),
        );
        for (host, requests) in view.http.iter().flat_map(|http| &http.hosts) {
            let ended = requests.codes.iter().filter(|(_, count)| **count > 0);
            let ended = ended.map(|(code, count)| format!(", {count} {code}"));
            let Requests {
                active, waiting, ..
            } = requests;
            say(
                "Requests",
                format!(
                    "{}: {active} now, {waiting} waiting; {} ended{}",
                    one_line(host),
                    requests.total(),
                    ended.collect::<String>()
                ),
            );
        }
        let (up, down) = (bytes(view.bytes.up), bytes(view.bytes.down));
        say("Bytes", format!("{up} to the service, {down} from it"));
        if let Some(dropped) = dropped(view) {
            say("Dropped", dropped);
        }
        let wakes = view.wakes;
        let times = wakes.median_seconds.zip(wakes.last_seconds);
        let times =
            times.map(|(median, last)| format!(", median {}, last {}", took(median), took(last)));
        let (total, times) = (wakes.total, times.unwrap_or_default());
        say("Wakes", format!("{total}{times}"));
        if view.thaws.total > 0 {
            let thaws = view.thaws;
            let times = thaws.median_seconds.zip(thaws.last_seconds);
            let times = times
                .map(|(median, last)| format!(", median {}, last {}", took(median), took(last)));
            say(
                "Thaws",
                format!("{}{}", thaws.total, times.unwrap_or_default()),
            );
        }
        let (asleep, since) = (or_dash(view.asleep_share.map(share)), date(since));
        say("Asleep", format!("{asleep} of the time since {since}"));
    }
    let freed = view.memory_freed_bytes.map(bytes);
    let freed = freed.map(|freed| format!("{freed} by the last sleep"));
    say("Freed", or_dash(freed));
    if let Some(failure) = &view.last_failure {
        let count = view.failures.values().sum::<u64>();
        let last = last_failure(failure, now);
        say("Failures", format!("{count}, last {last}"));
    }
    for (style, note) in attention(view) {
        let _ = writeln!(text, "{:>13}{style}{}{style:#}", "", one_line(&note));
    }
    text
}

/// The datagrams that were not passed on, if there are any.
fn dropped(view: &View) -> Option<String> {
    let dropped = view.datagrams_dropped.iter();
    let dropped: Vec<_> = dropped.filter(|(_, count)| **count > 0).collect();
    let all = dropped.iter().map(|(_, count)| **count);
    let all = all.fold(0, u64::saturating_add);
    let reasons = dropped.iter();
    let reasons: Vec<_> = reasons
        .map(|(why, count)| format!("{count} {}", one_line(why)))
        .collect();
    (all > 0).then(|| format!("{}: {}", text::count(all, "datagram"), reasons.join(", ")))
}

/// The notes below a line: what needs attention, and the last failure while it is recent.
fn notes(view: &View, now: Moment) -> Vec<(Style, String)> {
    let mut notes = attention(view);
    if let Some(failure) = &view.last_failure {
        let failed = view.state == Some(RecordedState::Failed);
        let recent = ago(failure.at, now).is_some_and(|seconds| seconds < RECENT);
        if failed || recent || view.wakes.total == 0 {
            let style = if failed { ERROR } else { WARNING };
            notes.push((style, format!("failed {}", last_failure(failure, now))));
        }
    }
    notes
}

/// What needs attention, or explains a dash.
fn attention(view: &View) -> Vec<(Style, String)> {
    let mut notes = Vec::new();
    match view.sockets.as_deref() {
        Some([]) => notes.push((
            DIM,
            "known from its record only: no socket unit starts it".into(),
        )),
        Some(sockets) => {
            for socket in sockets.iter().filter(|socket| socket.state != "active") {
                let Socket { unit, state, .. } = socket;
                let style = if state == "failed" { ERROR } else { WARNING };
                let ctl = view.manager.systemctl();
                notes.push((
                    style,
                    format!("its port is closed: {unit} is {state}; `{ctl} start {unit}` opens it"),
                ));
            }
        }
        None => (),
    }
    if view.state.is_none() {
        let text = "wakeport runs and keeps no record: its unit has no StateDirectory=";
        notes.push((DIM, text.into()));
    }
    if let Some(at) = view.wakes.not_before
        && matches!(
            view.state,
            Some(RecordedState::Asleep | RecordedState::Failed)
        )
    {
        let text = format!("woken too often: no wake before {} (--wake-rate)", date(at));
        notes.push((WARNING, text));
    }
    if let Some(remark) = &view.remark {
        notes.push((WARNING, remark.clone()));
    }
    if let Some(holds) = text::holds(&view.holds) {
        notes.push((DIM, holds));
    }
    if !view.kept_awake.is_empty() {
        let text = format!("kept awake: {}", Work::told(&view.kept_awake));
        notes.push((DIM, text));
    }
    if let Some(waits_for) = &view.waits_for {
        notes.push((WARNING, format!("waits for {}", waits_for.why)));
    }
    if view.state == Some(RecordedState::Unattended) {
        let text = "wakeport was terminated: the service may be running, and is not stopped before the next client has come and left";
        notes.push((WARNING, text.into()));
    }
    notes
}

fn last_failure(failure: &LastFailure, now: Moment) -> String {
    let when = match ago(failure.at, now) {
        Some(seconds) => format!("{} ago", span(seconds)),
        None => date(failure.at),
    };
    let (kind, why) = (failure.kind.name(), one_line(&failure.why));
    format!("{when} ({kind}): {why}")
}

/// Seconds since then; nothing if that was not in the past.
fn ago(at: Timestamp, now: Moment) -> Option<f64> {
    let seconds = now.wall.duration_since(at).as_secs_f64();
    (seconds >= 0.0).then_some(seconds)
}

fn name(view: &View) -> String {
    match view.manager {
        Manager::System => one_line(&view.name),
        Manager::User => format!("{} (user)", one_line(&view.name)),
    }
}

/// The state, and for how much longer.
fn state(view: &View) -> String {
    let name = view.state.map_or("-", RecordedState::name);
    match view.left_seconds.filter(|seconds| *seconds > 0.0) {
        Some(seconds) => format!("{name} {}", left(seconds)),
        None => name.into(),
    }
}

/// Connected clients, and after `+` those that wait.
fn clients(view: &View) -> String {
    match (view.clients.active, view.clients.waiting) {
        (0, 0) => "-".into(),
        (active, 0) => active.to_string(),
        (active, waiting) => format!("{active}+{waiting}"),
    }
}

fn style(state: Option<RecordedState>) -> Style {
    match state {
        None => DIM,
        Some(RecordedState::Asleep) => colour(AnsiColor::Blue),
        Some(RecordedState::Waking | RecordedState::Stopping) => WARNING,
        Some(RecordedState::Awake) => colour(AnsiColor::Green),
        Some(RecordedState::Cooling | RecordedState::Frozen) => colour(AnsiColor::Cyan),
        Some(RecordedState::Failed) => ERROR.bold(),
        Some(RecordedState::Unattended) => colour(AnsiColor::Magenta),
    }
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".into())
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.into();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

fn date(at: Timestamp) -> String {
    let zoned = at.to_zoned(TimeZone::system());
    zoned.strftime("%a %F %T %Z").to_string()
}

#[cfg(test)]
mod tests;
