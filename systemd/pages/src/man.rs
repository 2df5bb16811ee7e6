//! The man pages: each is a text in `text/` with the parts that the command line itself knows put in.

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::Made;

/// Pages of commands, and their texts.
const COMMANDS: [(&str, &str); 9] = [
    ("wakeport", include_str!("../text/wakeport.1")),
    ("wakeport-run", include_str!("../text/wakeport-run.1")),
    ("wakeport-init", include_str!("../text/wakeport-init.1")),
    ("wakeport-check", include_str!("../text/wakeport-check.1")),
    ("wakeport-status", include_str!("../text/wakeport-status.1")),
    ("wakeport-wake", include_str!("../text/wakeport-wake.1")),
    ("wakeport-hold", include_str!("../text/wakeport-hold.1")),
    ("wakeport-sleep", include_str!("../text/wakeport-sleep.1")),
    (
        "wakeport-exporter",
        include_str!("../text/wakeport-exporter.1"),
    ),
];

/// The page of the units, and by what other names it is found.
const UNITS: (&str, &str) = (
    "wakeport@.service",
    include_str!("../text/wakeport@.service.8"),
);
const ALSO: [&str; 5] = [
    "wakeport@.socket",
    "wakeport-control@.socket",
    "wakeport-exporter.service",
    "wakeport-exporter.socket",
    "wakeport-reclaim@.service",
];

/// Lines end before this, where they can.
const WIDTH: usize = 78;

pub(crate) fn pages() -> Vec<Made> {
    let mut root = wakeport::cli::command().disable_help_subcommand(true);
    root.build();
    let mut pages = Vec::new();
    for (name, text) in COMMANDS {
        let command = match name.strip_prefix("wakeport-") {
            Some(name) => root.find_subcommand(name).expect("a command of its own"),
            None => &root,
        };
        pages.push(page(name, 1, &root, &fill(text, command)));
    }
    let known = root
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    assert_eq!(known.count() + 1, COMMANDS.len(), "a command has no page");
    let (name, text) = UNITS;
    pages.push(page(name, 8, &root, text));
    pages.extend(ALSO.map(|also| made(also, 8, format!(".so man8/{name}.8\n"))));
    pages
}

fn made(name: &str, section: u8, text: String) -> Made {
    Made {
        path: format!("man/{name}.{section}").into(),
        text,
    }
}

fn page(name: &str, section: u8, root: &Command, body: &str) -> Made {
    let title = name.to_uppercase().replace('-', "\\-");
    let version = root.get_version().expect("a version");
    // Without a date, as systemd's own: the version says as much.
    let head = format!(
        ".\\\" Made by systemd/pages, of the command line and systemd/pages/text/{name}.{section}.\n\
         .TH {title} {section} \"\" \"wakeport {version}\" \"wakeport\"\n.nh\n"
    );
    made(name, section, wrapped(&(head + body)))
}

/// The text with what the command says of itself.
fn fill(text: &str, command: &Command) -> String {
    let mut page = String::new();
    for line in text.lines() {
        match line {
            "@NAME@" => page += &name(command),
            "@DESCRIPTION@" => page += &description(command),
            "@COMMANDS@" => page += &commands(command),
            "@OPTIONS@" => page += &options(command),
            _ => page = page + line + "\n",
        }
    }
    page
}

fn name(command: &Command) -> String {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let about = command.get_about().expect("what it does, in a line");
    let mut roff = Roff::new();
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{name} - {about}"))]);
    roff.to_roff()
}

/// What the long help says before its options; the first line of it is in NAME already.
fn description(command: &Command) -> String {
    let mut roff = Roff::new();
    roff.control("SH", ["DESCRIPTION"]);
    let long = command.get_long_about().expect("help").to_string();
    for (index, paragraph) in long.split("\n\n").skip(1).enumerate() {
        if index > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(paragraph.replace('\n', " "))]);
    }
    roff.to_roff()
}

fn commands(command: &Command) -> String {
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    for one in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        let name = one.get_display_name().expect("built");
        roff.control("TP", []);
        roff.text([bold(name), roman("(1)")]);
        roff.text([roman(one.get_about().expect("help").to_string())]);
    }
    roff.to_roff()
}

/// All options, with their headings below OPTIONS, and their variables.
fn options(command: &Command) -> String {
    let mut bytes = Vec::new();
    let man = Man::new(command.clone());
    man.render_options_section(&mut bytes).expect("memory");
    let text = String::from_utf8(bytes).expect("roff is text");
    let headings: Vec<_> = command
        .get_arguments()
        .filter_map(|argument| argument.get_help_heading())
        .collect();
    let mut section = String::new();
    for line in text.lines() {
        let heading = line.strip_prefix(".SH ").map(|name| name.trim_matches('"'));
        let heading = headings
            .iter()
            .find(|known| heading == Some(&known.to_uppercase()));
        if let Some(heading) = heading {
            section += &format!(".SS {heading}\n");
        } else if line.is_empty() {
            section += ".IP\n";
        } else if !line.contains("ds Aq") {
            section += &line.replace("\\*(Aq", "\\(aq");
            section.push('\n');
        }
    }
    section
}

/// Text lines that end where one would end them by hand. The tag after `.TP` is one line, and code is as it is.
fn wrapped(page: &str) -> String {
    let mut text = String::new();
    let (mut tag, mut code) = (false, false);
    for line in page.lines().map(str::trim_end) {
        let whole = tag || code || line.starts_with('.');
        tag = line == ".TP";
        code = line == ".nf" || code && line != ".fi";
        let mut rest = line;
        while !whole && rest.len() > WIDTH {
            let Some(end) = rest[..WIDTH].rfind(' ') else {
                break;
            };
            text = text + &rest[..end] + "\n";
            rest = &rest[end + 1..];
            // At the beginning of a line these would be a command.
            if rest.starts_with(['.', '\'']) {
                text += "\\&";
            }
        }
        text = text + rest + "\n";
    }
    text
}
