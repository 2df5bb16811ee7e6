//! `wakeport status`: the state of every instance on the machine. Only reads.

mod table;
mod view;
mod numbers;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use terminal_size::{Height, Width};
use tokio::time::{MissedTickBehavior, interval};

use super::{Fatal, instances, output, runtime};
use crate::admin::machine::inventory::{Inventory, inventory};
use crate::config::Manager;
use crate::report::record::Record;
use crate::report::state_file;
use crate::server::Signals;
use crate::util::text::one_line;

use view::View;

/// Show every instance on the machine, asleep ones included
///
/// The numbers come from the records that instances keep in their state directories, and whether a
/// port is open from the service manager. This wakes nothing, and needs no privilege; it shows the
/// system's instances and those of the calling user.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// Show this instance, or this service of one, in full: by name, by unit, or by the unit that
    /// it wakes
    unit: Option<String>,

    /// Print JSON; docs/observing.md lists the fields. With --watch one line a second
    #[arg(long)]
    json: bool,

    /// Refresh every second, until Ctrl-C
    #[arg(long)]
    watch: bool,

    /// Read records from this directory only, and ask no service manager. May be repeated
    #[arg(long, value_name = "DIR")]
    state_dir: Vec<PathBuf>,
}

/// The layout of the JSON; it changes when a field is removed or changes its meaning.
const JSON_VERSION: u32 = 1;

/// What is shown.
#[derive(Debug, Serialize)]
struct Snapshot {
    version: u32,
    instances: Vec<View>,
    /// Records that cannot be used, a line each.
    problems: Vec<String>,
}

/// Shows what there is.
pub(super) fn run(status: &Status) -> ExitCode {
    let runtime = runtime().map_err(Fatal::from);
    match runtime.and_then(|runtime| runtime.block_on(show(status))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => output::fatal(&fatal),
    }
}

async fn show(status: &Status) -> Result<(), Fatal> {
    let snapshot = read(status).await?;
    let ended = if status.watch {
        watch(status, snapshot).await?
    } else {
        print(&text(status, &snapshot, None))
    };
    match ended {
        // The reader needs no more.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        ended => ended.map_err(|error| Fatal::software(format!("cannot write: {error}"))),
    }
}

/// Shows it every second until a signal comes: on a terminal in one place, elsewhere one below the
/// other.
async fn watch(status: &Status, mut snapshot: Snapshot) -> Result<io::Result<()>, Fatal> {
    let mut signals = Signals::new()?;
    let screen = io::stdout().is_terminal() && !status.json;
    let screen = screen.then(Screen::take);
    let mut beat = interval(Duration::from_secs(1));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat.tick().await;
    loop {
        let shown = match &screen {
            Some(_) => Screen::draw(&text(status, &snapshot, terminal())),
            None => print(&text(status, &snapshot, None)),
        };
        if shown.is_err() {
            return Ok(shown);
        }
        tokio::select! {
            _ = beat.tick() => (),
            _ = signals.next() => break,
        }
        snapshot = read(status).await?;
    }
    drop(screen);
    Ok(Ok(()))
}

/// All that there is to print.
fn text(status: &Status, snapshot: &Snapshot, size: Option<(usize, usize)>) -> String {
    if status.json {
        let text = match status.watch {
            true => serde_json::to_string(snapshot),
            false => serde_json::to_string_pretty(snapshot),
        };
        return text.unwrap_or_default() + "\n";
    }
    let now = state_file::moment();
    let width = size.or_else(terminal).map(|(width, _)| width);
    let mut text = match &snapshot.instances[..] {
        [] => "no instance: no socket unit starts wakeport, and there is no record\n".into(),
        all if status.unit.is_some() => {
            let all = all.iter().map(|one| table::details(one, now));
            all.collect::<Vec<_>>().join("\n")
        }
        all => table::table(all, width, now),
    };
    for problem in &snapshot.problems {
        text += &one_line(problem);
        text.push('\n');
    }
    if status.watch && size.is_none() {
        text.push('\n');
    }
    text
}

// -- reading

async fn read(status: &Status) -> Result<Snapshot, Fatal> {
    let mut snapshot = if status.state_dir.is_empty() {
        read_everywhere().await
    } else {
        let (records, problems) = state_file::records(&status.state_dir);
        snapshot(&records, None, None, problems)
    };
    snapshot
        .instances
        .sort_by(|one, other| (one.manager, &one.name).cmp(&(other.manager, &other.name)));
    if let Some(word) = &status.unit {
        let names = snapshot.instances.iter().map(|view| view.name.clone());
        let names: Vec<_> = names.collect();
        snapshot.instances.retain(|view| view.answers_to(word));
        if snapshot.instances.is_empty() {
            return Err(Fatal::usage(format!(
                "no instance has the name `{}`; there {}",
                one_line(word),
                match &names[..] {
                    [] => "is none".into(),
                    names => format!("is `{}`", one_line(&names.join("`, `"))),
                }
            )));
        }
    }
    Ok(snapshot)
}

async fn read_everywhere() -> Snapshot {
    let places = state_file::usual_places();
    let (mut found, mut problems) = state_file::records(&places);
    let units = |found: &[Record], manager| -> Vec<String> {
        let ours = found
            .iter()
            .filter(|record| record.units_manager == manager);
        ours.flat_map(|record| record.units.clone()).collect()
    };
    let (system, user) = (units(&found, Manager::System), units(&found, Manager::User));
    let (system, user) = tokio::join!(
        inventory(Manager::System, &system),
        inventory(Manager::User, &user)
    );
    // An instance that runs as another user keeps its record elsewhere.
    let mut others: Vec<_> = system
        .iter()
        .flat_map(|inventory| inventory.services.values())
        .flat_map(|service| service.state_directories.clone())
        .filter(|directory| !places.contains(directory))
        .collect();
    others.sort();
    others.dedup();
    let (more, more_problems) = state_file::records(&others);
    found.extend(more);
    problems.extend(more_problems);
    snapshot(&found, system.as_ref(), user.as_ref(), problems)
}

fn snapshot(
    records: &[Record],
    system: Option<&Inventory>,
    user: Option<&Inventory>,
    problems: Vec<String>,
) -> Snapshot {
    let now = state_file::moment();
    let inventory = |manager| match manager {
        Manager::System => system,
        Manager::User => user,
    };
    let known = records.iter().map(|record| {
        let alive = state_file::is_alive(record);
        View::of(record, alive, inventory(record.manager), now)
    });
    let mut instances: Vec<_> = known.collect();
    for manager in [Manager::System, Manager::User] {
        for (unit, service) in inventory(manager)
            .iter()
            .flat_map(|inventory| &inventory.services)
        {
            let ours = |view: &&View| view.manager == manager && view.unit.as_ref() == Some(unit);
            let known = instances.iter().filter(ours);
            let known: Vec<String> = known.map(|view| view.name.clone()).collect();
            let named = |name: &str| {
                let end = format!("/{name}");
                known.iter().any(|known| known.ends_with(&end))
            };
            // Of a file that is wrong, or that we may not read, the services are not known.
            let config = instances::config(unit, &service.command, &service.variables);
            let in_file = config.map_or_else(|_| Vec::new(), |config| config.services);
            let in_file: Vec<_> = in_file
                .iter()
                .filter_map(|one| Some((one.name.as_deref()?, one.units())))
                .collect();
            if in_file.is_empty() && known.is_empty() {
                instances.push(View::unknown(unit, manager, service));
            }
            for (name, units) in in_file.into_iter().filter(|(name, _)| !named(name)) {
                let view = View::unknown(unit, manager, service);
                instances.push(view.of_service(name, units));
            }
        }
    }
    Snapshot {
        version: JSON_VERSION,
        instances,
        problems,
    }
}

// -- showing

/// An instance in every form.
#[cfg(any(test, fuzzing))]
pub(super) fn shown(
    record: &Record,
    alive: bool,
    now: crate::report::record::Moment,
) -> [String; 3] {
    let view = View::of(record, alive, None, now);
    let (details, json) = (table::details(&view, now), serde_json::to_string(&view));
    [
        table::table(&[view], Some(80), now),
        details,
        json.unwrap_or_default(),
    ]
}

fn print(text: &str) -> io::Result<()> {
    // Without colours where there is no terminal, and with `NO_COLOR`.
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Columns and lines of the terminal that we write to, if it is one.
fn terminal() -> Option<(usize, usize)> {
    let (Width(width), Height(height)) = terminal_size::terminal_size_of(io::stdout())?;
    Some((width.into(), height.into()))
}

/// The terminal's alternate screen. Dropping it restores what was there before.
struct Screen;

impl Screen {
    /// Without a cursor, and with long lines cut rather than wrapped.
    fn take() -> Self {
        let _ = Self::write("\x1b[?1049h\x1b[?25l\x1b[?7l");
        Self
    }

    /// Draws over what is there, line by line, so that nothing flickers.
    fn draw(text: &str) -> io::Result<()> {
        let height = terminal().map_or(usize::MAX, |(_, height)| height);
        // What steers the terminal must get there even without colours.
        let colours = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
        let plain = (!colours).then(|| anstream::adapter::strip_str(text).to_string());
        let lines: Vec<_> = plain.as_deref().unwrap_or(text).lines().collect();
        let hidden = lines.len().saturating_sub(height.saturating_sub(1));
        let mut page = String::from("\x1b[H");
        for line in &lines[..lines.len() - hidden] {
            page += line;
            page += "\x1b[K\r\n";
        }
        if hidden > 0 {
            page += &format!("… {hidden} more lines\x1b[K");
        }
        page += "\x1b[J";
        Self::write(&page)
    }

    fn write(text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = Self::write("\x1b[?7h\x1b[?25h\x1b[?1049l");
    }
}
