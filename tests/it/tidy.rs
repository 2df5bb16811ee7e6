//! What the architecture page in src/lib.rs promises, and what has to be changed together.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::repository::{files, read, repo, run, text};

/// Which module may use which: a module, with its folder, and the modules it may use. A new line here changes the
/// architecture, and belongs in src/lib.rs as well.
const KNOWS: [(&str, &[&str]); 17] = [
    ("core", &[]),
    ("config", &["util"]),
    (
        "server",
        &[
            "backend", "config", "control", "core", "net", "program", "report", "service",
            "session", "systemd", "util",
        ],
    ),
    (
        "service",
        &[
            "backend", "config", "core", "net", "program", "report", "util",
        ],
    ),
    ("session", &["config", "http", "net", "service", "util"]),
    ("control", &["config", "util"]),
    ("http", &["config", "net"]),
    ("net", &["config", "util"]),
    (
        "backend",
        &[
            "config",
            "core",
            "kubernetes",
            "net",
            "program",
            "systemd",
            "util",
        ],
    ),
    ("kubernetes", &["config", "util"]),
    ("program", &["config", "util"]),
    ("systemd", &["config", "util"]),
    ("report", &["config", "core", "net", "systemd", "util"]),
    ("admin", &["config", "kubernetes", "systemd", "util"]),
    ("util", &[]),
    (
        "cli",
        &[
            "admin", "config", "control", "net", "report", "server", "systemd", "util",
        ],
    ),
    ("main", &[]),
];

/// A source file, without its comments and tests.
struct Source {
    /// Below src/.
    path: PathBuf,
    code: String,
}

impl Source {
    /// All files of the program.
    fn all() -> Vec<Self> {
        let root = repo("src");
        let rust = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
        let sources: Vec<_> = files(&root)
            .into_iter()
            .filter(rust)
            .filter(|path| !path.ends_with("tests.rs") && !path.ends_with("scripted.rs"))
            .filter(|path| {
                !path
                    .parent()
                    .is_some_and(|folder| folder.ends_with("tests"))
            })
            .map(|path| Self {
                code: code(&read(&path)),
                path: path
                    .strip_prefix(&root)
                    .expect("a file below src")
                    .to_owned(),
            })
            .collect();
        assert!(
            sources.len() > 20,
            "only {} files were found",
            sources.len()
        );
        sources
    }

    /// The module it belongs to: `service` for service.rs and service/permit.rs.
    fn module(&self) -> String {
        let first = self.path.components().next().expect("a file has a name");
        Path::new(&first)
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned()
    }

    /// The names it uses of `root`, as in `root::name`.
    fn uses(&self, root: &str) -> BTreeSet<String> {
        let prefix = format!("{root}::");
        let mut uses = BTreeSet::new();
        for (at, _) in self.code.match_indices(&prefix) {
            let before = self.code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            let rest = &self.code[at + prefix.len()..];
            if let Some(list) = rest.strip_prefix('{') {
                panic!(
                    "{}: write one `use` for each module: {{{}",
                    self.path.display(),
                    &list[..list.len().min(40)]
                );
            }
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            uses.insert(rest[..end].to_owned());
        }
        uses
    }
}

/// The text without comments and without its tests.
fn code(text: &str) -> String {
    let text = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default();
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| format!("{line}\n")).collect()
}

fn module<'a>(sources: &'a [Source], name: &'a str) -> impl Iterator<Item = &'a Source> {
    sources.iter().filter(move |source| source.module() == name)
}

#[test]
fn the_core_names_no_clock_no_socket_and_nothing_of_ours() {
    let sources = Source::all();
    for source in module(&sources, "core") {
        for word in [
            "tokio",
            "zbus",
            "tracing",
            "rustix",
            "std::net",
            "std::fs",
            "std::env",
            "std::process",
            "Instant::now",
            "SystemTime",
            "async ",
            "crate::",
        ] {
            assert!(
                !source.code.contains(word),
                "{} names `{word}`",
                source.path.display()
            );
        }
    }
}

#[test]
fn config_opens_nothing() {
    let sources = Source::all();
    for source in module(&sources, "config") {
        for word in [
            "tokio",
            "zbus",
            "tracing",
            "rustix",
            "socket2",
            "clap",
            "std::fs",
            "std::env",
            "std::process",
            "std::os::fd",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "Instant::now",
        ] {
            assert!(
                !source.code.contains(word),
                "{} names `{word}`",
                source.path.display()
            );
        }
        for line in source
            .code
            .lines()
            .filter_map(|line| line.strip_prefix("use "))
        {
            let root = line.split([':', ';', ' ']).next().unwrap_or_default();
            assert!(
                [
                    "std", "super", "crate", "toml", "access", "address", "busy", "host", "quiet",
                    "span"
                ]
                .contains(&root),
                "{}: use {line}",
                source.path.display()
            );
        }
    }
}

#[test]
fn modules_use_only_what_the_architecture_allows() {
    let allowed: BTreeMap<_, _> = KNOWS.into_iter().collect();
    let mut seen = BTreeMap::<String, BTreeSet<String>>::new();
    for source in Source::all()
        .iter()
        .filter(|source| source.path != Path::new("lib.rs"))
    {
        let module = source.module();
        let known = allowed.get(module.as_str());
        let known = known
            .unwrap_or_else(|| panic!("{} is new: say who may know it", source.path.display()));
        for used in source.uses("crate") {
            assert!(
                used == module || known.contains(&used.as_str()),
                "{} uses `crate::{used}`, which `{module}` must not know",
                source.path.display()
            );
            seen.entry(module.clone()).or_default().insert(used);
        }
    }
    for (module, known) in KNOWS {
        let seen = seen.remove(module).unwrap_or_default();
        let unused: Vec<_> = known.iter().filter(|name| !seen.contains(**name)).collect();
        assert!(
            unused.is_empty(),
            "`{module}` does not know {unused:?} any more"
        );
    }
}

#[test]
fn every_task_is_waited_for_and_every_guard_dropped() {
    for source in Source::all() {
        for word in [
            "tokio::spawn",
            "task::spawn",
            "process::exit",
            "std::mem::forget",
            "unsafe",
        ] {
            let found = source.code.lines().find(|line| line.contains(word));
            assert!(
                found.is_none(),
                "{} uses `{word}`: {found:?}",
                source.path.display()
            );
        }
    }
}

#[test]
fn the_map_names_every_file_and_no_others() {
    let lib = read(&repo("src/lib.rs"));
    let map = lib
        .split("//! ```text\n")
        .nth(1)
        .and_then(|rest| rest.split("//! ```").next());
    let map = map.expect("src/lib.rs has a map");
    // The first words of each line are files and folders; one that is indented lies in the folder above it.
    let mut named = BTreeSet::new();
    let mut folder = String::new();
    for line in map
        .lines()
        .filter_map(|line| line.strip_prefix("//! "))
        .filter(|line| !line.starts_with("--"))
    {
        let names = line
            .split_whitespace()
            .take_while(|word| word.ends_with(".rs") || word.ends_with('/'));
        let indented = line.starts_with(' ');
        for name in names {
            if name.ends_with('/') {
                folder = name.to_owned();
            }
            named.insert(if indented {
                format!("{folder}{name}")
            } else {
                name.to_owned()
            });
        }
    }
    for source in Source::all()
        .iter()
        .filter(|source| source.path != Path::new("lib.rs"))
    {
        let path = source.path.display().to_string();
        let folder = path.split_once('/').map(|(folder, _)| format!("{folder}/"));
        assert!(
            named.contains(&path) || folder.is_some_and(|folder| named.contains(&folder)),
            "src/{path} is not on the map in src/lib.rs"
        );
    }
    for name in named {
        assert!(
            repo("src").join(&name).exists(),
            "src/{name} is on the map, but not there"
        );
    }
}

/// The page that has the table of options.
const OPTIONS: &str = "docs/options.md";

/// The long options in a help text.
fn options(help: &str) -> BTreeSet<String> {
    let words = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let options = words.filter_map(|word| word.strip_prefix("--"));
    options
        .filter(|option| !option.is_empty())
        .map(str::to_owned)
        .collect()
}

fn help(command: &str) -> String {
    let wakeport = env!("CARGO_BIN_EXE_wakeport");
    text(&run(
        Command::new(wakeport).args([command, "--help"]),
        "wakeport",
    ))
}

#[test]
fn every_option_is_in_the_docs_and_has_its_variable() {
    let (help, page) = (help("run"), read(&repo(OPTIONS)));
    let options = options(&help);
    assert!(options.len() > 15, "{options:?}");
    for option in options
        .iter()
        .filter(|option| !["help", "version"].contains(&option.as_str()))
    {
        assert!(
            page.contains(&format!("--{option}")),
            "{OPTIONS} does not name --{option}"
        );
        let variable = format!("WAKEPORT_{}", option.to_uppercase().replace('-', "_"));
        assert!(
            help.contains(&format!("[env: {variable}=")),
            "--{option} cannot be given as {variable}"
        );
    }
}

#[test]
fn the_readme_names_no_unknown_option() {
    for command in ["run", "init", "check"] {
        let known = options(&help(command));
        let words = format!("wakeport {command}");
        for page in ["README.md", OPTIONS] {
            for line in read(&repo(page)).lines() {
                let Some((_, line)) = line.split_once(&words) else {
                    continue;
                };
                for option in options(line) {
                    assert!(known.contains(&option), "{page}: {command} --{option}");
                }
            }
        }
    }
}

#[test]
fn the_other_commands_take_the_options_of_run_and_their_own_are_in_the_docs() {
    let (run, page) = (options(&help("run")), read(&repo(OPTIONS)));
    for command in ["init", "check"] {
        let known = options(&help(command));
        let missing: Vec<_> = run.difference(&known).collect();
        assert!(missing.is_empty(), "{command} does not know {missing:?}");
        for option in &known {
            assert!(
                page.contains(&format!("--{option}")) || option == "help",
                "{OPTIONS} does not name --{option} of {command}"
            );
        }
    }
}

#[test]
fn the_changelog_has_one_heading_for_what_comes_next() {
    let changelog = read(&repo("CHANGELOG.md"));
    let version = env!("CARGO_PKG_VERSION");
    let headings: Vec<_> = changelog
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    let current = headings
        .iter()
        .filter(|heading| heading.contains("Unreleased") || heading.contains(version));
    assert_eq!(current.count(), 1, "{headings:?}");
}

/// Whether there is a test `suite::file::name`, or `module::name` for one of ours.
fn is_a_test(path: &str, name: &str) -> bool {
    let file = path.replace("::", "/");
    let files = match path.split_once("::").map(|(suite, _)| suite) {
        Some("it" | "systemd") => vec![repo(&format!("tests/{file}.rs"))],
        _ => vec![
            repo(&format!("src/{file}.rs")),
            repo(&format!("src/{}.rs", file.trim_end_matches("/tests"))),
        ],
    };
    let sources = files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok());
    sources.into_iter().any(|source| {
        // Other attributes may stand between the one that makes it a test and its name.
        let mut tests = source
            .split("::test")
            .flat_map(|text| text.split("#[test]"));
        tests.any(|text| {
            let function = text.lines().find(|line| line.contains("fn "));
            function.is_some_and(|line| line.contains(&format!("fn {name}(")))
        })
    })
}

#[test]
fn every_fault_and_threat_names_existing_tests() {
    for (page, least) in [
        ("docs/internals/faults.md", 80),
        ("docs/internals/threat-model.md", 25),
    ] {
        let text = read(&repo(page));
        let tables = text.split("\n\n").filter(|part| part.starts_with('|'));
        let proofs = |table: &&str| {
            let heading = table.lines().next().unwrap_or_default();
            heading.to_lowercase().ends_with("shown by |")
        };
        let rows = tables
            .filter(proofs)
            .flat_map(|table| table.lines().skip(2));
        let mut count = 0;
        for row in rows.filter(|row| !row.starts_with("| **")) {
            let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            let [_, what, shown] = cells[..] else {
                panic!("{page}: three columns: {row}")
            };
            let words = shown.split('`').skip(1).step_by(2);
            let tests: Vec<_> = words.filter_map(|word| word.rsplit_once("::")).collect();
            let is_shown = !tests.is_empty() || shown.contains("Cannot be: ");
            assert!(is_shown && !what.is_empty(), "{page}: nothing shows: {row}");
            for (path, name) in tests {
                assert!(is_a_test(path, name), "{page}: no test `{path}::{name}`");
            }
            count += 1;
        }
        assert!(count > least, "{page}: only {count} rows were found");
    }
}

#[test]
fn each_scenario_of_the_quarter_exists_once_and_they_are_a_quarter() {
    let quarter = read(&repo("tests/systemd/quarter"));
    let mut names = BTreeSet::new();
    for name in quarter.lines().filter(|line| line.contains("::")) {
        let (module, test) = name.rsplit_once("::").expect("it was just seen");
        assert!(
            is_a_test(&format!("systemd::{module}"), test) && names.insert(name),
            "tests/systemd/quarter: `{name}` is no scenario, or is there twice"
        );
    }
    let sources = files(&repo("tests/systemd")).into_iter();
    let sources = sources.filter(|path| path.extension().is_some_and(|ending| ending == "rs"));
    let scenarios: usize = sources
        .map(|path| read(&path).matches("\n#[ignore").count())
        .sum();
    let count = names.len();
    assert!(
        count > 40 && count * 4 >= scenarios,
        "tests/systemd/quarter: {count} of {scenarios} are less than a quarter"
    );
}

#[test]
fn the_package_has_the_version_of_the_program() {
    let changelog = read(&repo("systemd/debian/changelog"));
    let version = format!("wakeport ({}-1) ", env!("CARGO_PKG_VERSION"));
    assert!(changelog.starts_with(&version), "no `{version}`");
}

#[test]
fn the_explanation_of_a_wake_says_how_to_refuse_clients() {
    let catalog = read(&repo("systemd/wakeport.catalog"));
    let waking = catalog.split("-- ").nth(1).expect("WAKING is the first");
    assert!(waking.contains("wakes") && waking.contains("WAKEPORT_ALLOW="));
}

#[test]
fn each_kind_of_message_has_an_id_of_its_own() {
    let text = read(&repo("src/systemd/message_id.rs"));
    let ids: Vec<_> = text
        .lines()
        .filter_map(|line| line.split('"').nth(1))
        .collect();
    let distinct: BTreeSet<_> = ids.iter().collect();
    assert!(ids.len() > 5 && distinct.len() == ids.len(), "{ids:?}");
    let catalog = read(&repo("systemd/wakeport.catalog"));
    let explained: Vec<_> = catalog
        .lines()
        .filter_map(|line| line.strip_prefix("-- "))
        .collect();
    assert_eq!(
        explained, ids,
        "the catalog explains each one, in the same order"
    );
    for id in ids {
        assert!(
            id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()),
            "{id}"
        );
    }
}
