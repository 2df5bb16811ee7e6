//! The pages: every link has a target, code is run or verified, quoted messages exist.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use crate::pages::{Page, anchor};
use crate::repository::{files, read, repo, run, text};

/// The languages of code blocks; `tests/docs/pages.rs` says what each means.
const LANGUAGES: [&str; 10] = [
    "sh", "text", "ini", "toml", "bash", "nginx", "haproxy", "caddy", "js", "",
];

/// How a line to be typed begins.
const TYPED: [&str; 9] = [
    "$ ",
    "sudo ",
    "wakeport ",
    "systemctl ",
    "journalctl ",
    "cargo ",
    "curl ",
    "docker run ",
    "apt ",
];

/// The lines of a page outside code blocks.
fn prose(page: &Page) -> String {
    let mut code = false;
    let lines = page.text.lines().filter(|line| {
        let fence = line.starts_with("```");
        code ^= fence;
        !code && !fence
    });
    lines.map(|line| format!("{line}\n")).collect()
}

/// Every page, those for contributors included.
fn pages() -> Vec<Page> {
    let mut pages = Page::all();
    for path in [
        "benches/README.md",
        "tests/README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
    ] {
        pages.push(Page::at(Path::new(path)));
    }
    pages
}

/// The targets of a page's links and pictures.
fn links(page: &Page) -> Vec<String> {
    let prose = prose(page);
    let ends = prose.split("](").skip(1);
    ends.map(|rest| rest.split(')').next().unwrap_or_default().to_owned())
        .collect()
}

/// The headings of a page, as links call them.
fn anchors(page: &Page) -> BTreeSet<String> {
    let prose = prose(page);
    let headings = prose.lines().filter_map(|line| {
        let heading = line.trim_start_matches('#');
        (heading != line).then_some(heading.strip_prefix(' ')?)
    });
    headings.map(anchor).collect()
}

/// `base/../path` without the dots.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        if component == Component::ParentDir {
            assert!(plain.pop(), "{} leaves the repository", path.display());
        } else {
            plain.push(component);
        }
    }
    plain
}

#[test]
fn every_link_has_a_target() {
    let mut seen = 0;
    for page in pages() {
        for link in links(&page).iter().filter(|link| !link.contains("://")) {
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let folder = Path::new(&page.path).parent().expect("a file");
            let target = match path {
                "" => PathBuf::from(&page.path),
                path => plain(&folder.join(path)),
            };
            assert!(
                repo(&target.to_string_lossy()).exists(),
                "{}: {link}",
                page.path
            );
            if !heading.is_empty() {
                let there = anchors(&Page::at(&target));
                assert!(
                    there.contains(heading),
                    "{}: {link}: there are {there:?}",
                    page.path
                );
            }
            seen += 1;
        }
    }
    assert!(seen > 100, "only {seen} links were found");
}

/// A file of ours that a page names in code, `like/this.rs`.
#[test]
fn every_file_of_the_repository_that_is_named_exists() {
    let mut seen = 0;
    for page in pages() {
        let prose = prose(&page);
        for code in prose.split('`').skip(1).step_by(2) {
            let folder = code.split('/').next().unwrap_or_default();
            let is_path = ["src", "tests", "docs", "systemd", "benches"].contains(&folder)
                && code.ends_with(".rs");
            if is_path {
                assert!(repo(code).exists(), "{}: no {code}", page.path);
                seen += 1;
            }
        }
    }
    assert!(seen > 50, "only {seen} files were found");
}

#[test]
fn every_page_of_the_guide_is_in_its_index() {
    let index = links(&Page::at(Path::new("docs/README.md")));
    for page in Page::all() {
        let Some(name) = page.path.strip_prefix("docs/") else {
            continue;
        };
        assert!(
            name == "README.md" || index.iter().any(|link| link == name),
            "docs/README.md does not list {name}"
        );
    }
}

#[test]
fn every_test_module_is_in_the_table_of_tests() {
    let table = read(&repo("tests/README.md"));
    for suite in ["it", "systemd"] {
        let main = read(&repo(&format!("tests/{suite}/main.rs")));
        let modules = main.lines().filter_map(|line| line.strip_prefix("mod "));
        for module in modules.map(|module| module.trim_end_matches(';')) {
            assert!(
                table.contains(&format!("`tests/{suite}/{module}.rs`"))
                    || table.contains(&format!("`{module}.rs`"))
                    || module == "pages",
                "tests/README.md: no {suite}::{module}"
            );
        }
    }
}

#[test]
fn code_is_what_its_language_says() {
    for page in Page::all() {
        let prose = prose(&page);
        let mut last = "";
        for line in prose.lines() {
            // A line of a list that goes on is indented, too.
            assert!(
                !(last.is_empty() && line.starts_with("    ")),
                "{}: fence what is code: {line}",
                page.path
            );
            last = line;
        }
        for section in page.sections() {
            let mut before = "";
            for block in &section.blocks {
                let (place, code) = (&section.place, &block.text);
                assert!(
                    LANGUAGES.contains(&block.language.as_str()),
                    "{place}: {}",
                    block.language
                );
                if block.is("text") {
                    assert_eq!(before, "sh", "{place}: no command prints this:\n{code}");
                } else if !block.is("sh") {
                    let typed = code
                        .lines()
                        .find(|line| TYPED.iter().any(|word| line.starts_with(word)));
                    assert!(typed.is_none(), "{place}: {typed:?} is a command: ```sh");
                }
                before = &block.language;
            }
        }
    }
}

/// Inline code that begins with one of our commands has only options of that command.
#[test]
fn no_page_names_an_unknown_option() {
    let words = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        words
            .filter(|word| word.starts_with("--"))
            .map(str::to_owned)
            .collect()
    };
    let mut seen = 0;
    for page in Page::all() {
        let prose = prose(&page);
        for code in prose.split('`').skip(1).step_by(2) {
            let mut typed = code.split_whitespace().skip_while(|word| *word == "sudo");
            let (Some("wakeport"), Some(command)) = (typed.next(), typed.next()) else {
                continue;
            };
            if !["run", "init", "check", "status", "exporter"].contains(&command) {
                continue;
            }
            let help = run(
                Command::new(env!("CARGO_BIN_EXE_wakeport")).args([command, "--help"]),
                "wakeport",
            );
            let known = words(&text(&help));
            for option in words(code) {
                assert!(known.contains(&option), "{}: `{code}`: {option}", page.path);
                seen += 1;
            }
        }
    }
    assert!(seen > 5, "only {seen} options were found");
}

/// What troubleshooting.md has in italics is a message of wakeport.
#[test]
fn every_quoted_message_is_in_the_source() {
    let sources = files(&repo("src"))
        .into_iter()
        .filter(|path| !path.ends_with("tests.rs"));
    let sources: String = sources.map(|path| read(&path)).collect();
    // A string that goes on in the next line of the source is one line.
    let sources = sources.replace("\\\n", " ");
    let sources = sources.split_whitespace().collect::<Vec<_>>().join(" ");
    let page = prose(&Page::at(Path::new("docs/troubleshooting.md")));
    let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
    let quotes: Vec<_> = page.split('*').skip(1).step_by(2).collect();
    assert!(quotes.len() > 5, "{quotes:?}");
    for quote in quotes {
        let parts = quote
            .split(['…'])
            .flat_map(|part| part.split("myapp.service"));
        for part in parts.map(str::trim) {
            assert!(
                sources.contains(part),
                "no source has `{part}` of `{quote}`"
            );
        }
    }
}
