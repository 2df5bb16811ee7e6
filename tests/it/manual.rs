//! The man pages and completions in `systemd/`, as readers and shells use them. That they are up to date is tested
//! beside their generator, in `systemd/pages`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::repository::{files, read, repo, run, text};
use crate::support;

/// The pages, without those that only include another.
fn pages() -> Vec<PathBuf> {
    let mut pages = files(&repo("systemd/man"));
    pages.retain(|page| !read(page).starts_with(".so "));
    assert!(pages.len() >= 7, "{pages:?}");
    pages
}

fn rendered(page: &PathBuf) -> String {
    let mut mandoc = Command::new("mandoc");
    let output = run(
        mandoc.args(["-T", "utf8", "-O", "width=200"]).arg(page),
        "mandoc",
    );
    // Bold and underlined letters are struck twice.
    let struck: Vec<_> = String::from_utf8_lossy(&output.stdout).chars().collect();
    let mut text = String::new();
    for letter in struck {
        match letter {
            '\u{8}' => drop(text.pop()),
            letter => text.push(letter),
        }
    }
    text
}

/// The long options that a text names.
fn options(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_lowercase() && c != '-')
        .filter_map(|word| word.strip_prefix("--"))
        .filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
        .map(str::to_owned)
        .collect()
}

fn help(command: &str) -> String {
    let mut wakeport = Command::new(env!("CARGO_BIN_EXE_wakeport"));
    wakeport.args(command.split_whitespace()).arg("--help");
    text(&run(&mut wakeport, "the program itself"))
}

#[test]
fn every_page_passes_mandoc_lint() {
    for page in pages() {
        let mut mandoc = Command::new("mandoc");
        let output = run(mandoc.args(["-T", "lint"]).arg(&page), "mandoc");
        let said = text(&output);
        // There is none: a page would be another one every day.
        let said: Vec<_> = said
            .lines()
            .filter(|line| !line.contains("missing date"))
            .collect();
        assert!(said.is_empty(), "{said:#?}");
    }
}

#[test]
fn every_page_has_the_usual_sections() {
    for page in pages() {
        let text = rendered(&page);
        for chapter in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "FILES",
            "EXAMPLES",
            "SEE ALSO",
        ] {
            let there = text.lines().any(|line| line == chapter);
            assert!(
                there || chapter == "FILES",
                "{}: no {chapter}",
                page.display()
            );
        }
    }
}

#[test]
fn every_option_and_variable_is_in_the_page_of_its_command() {
    for command in [
        "", "run", "init", "check", "status", "exporter", "wake", "hold", "sleep",
    ] {
        let name = format!("wakeport-{command}.1");
        let page = rendered(&repo("systemd/man").join(name.replace("-.", ".")));
        let help = help(command);
        let (there, known) = (options(&page), options(&help));
        let missing: Vec<_> = known.difference(&there).collect();
        assert!(missing.is_empty(), "{name} does not know {missing:?}");
        let variables = help.split("[env: ").skip(1);
        for variable in variables.filter_map(|rest| rest.split('=').next()) {
            assert!(page.contains(variable), "{name}: no {variable}");
        }
    }
}

#[test]
fn no_page_names_an_unknown_option() {
    let mut known: BTreeSet<_> = [
        "", "run", "init", "check", "status", "exporter", "wake", "hold", "sleep",
    ]
    .iter()
    .flat_map(|command| options(&help(command)))
    .collect();
    // Other programs', in examples.
    known.extend(["bind", "now", "append", "file", "groups", "port"].map(str::to_owned));
    for page in pages() {
        let unknown: Vec<_> = options(&rendered(&page))
            .difference(&known)
            .cloned()
            .collect();
        assert!(unknown.is_empty(), "{}: {unknown:?}", page.display());
    }
}

/// A shell with the completion loaded, on a machine with a few units.
fn shell(program: &str, script: &str) -> Vec<String> {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let units = "#!/bin/sh\ncase \"$*\" in\n\
         *wakeport@*) echo 'wakeport@nginx.socket loaded active listening Port' ;;\n\
         *list-unit-files*) printf '%s\\n' 'nginx.service disabled enabled' 'postgresql@.service indirect' \
             'wakeport@.service static' ;;\n\
         *) echo 'postgresql@15-main.service loaded active running PostgreSQL' ;;\nesac\n";
    support::script(&dir.path().join("systemctl"), units);
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("timeout");
    shell
        .args(["60", program, "-c", script])
        .env("PATH", format!("{}:{path}", dir.path().display()))
        .env("HOME", dir.path())
        .current_dir(repo("systemd/completions"));
    let Output { stdout, stderr, .. } = run(&mut shell, "coreutils");
    let stderr = String::from_utf8_lossy(&stderr);
    assert_eq!(stderr, "", "{program} complains");
    let said = String::from_utf8_lossy(&stdout).into_owned();
    said.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_units() {
    // As bash does it: it takes words apart at `@`, and asks with the last piece and the word before it.
    let completes = |words: &str, line: &str| {
        let ask = format!(
            "source ./wakeport.bash
             COMP_WORDS=({words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) COMP_LINE='{line}' COMP_POINT=${{#COMP_LINE}}
             _wakeport_units wakeport \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        shell("bash", &ask)
    };
    assert_eq!(completes("wakeport ini", "wakeport ini"), ["init"]);
    assert_eq!(
        completes("wakeport init --standal", "wakeport init --standal"),
        ["--standalone"]
    );
    assert_eq!(
        completes("wakeport init ''", "wakeport init "),
        ["nginx", "postgresql@15-main"]
    );
    assert_eq!(
        completes("wakeport init ngi", "wakeport init ngi"),
        ["nginx"]
    );
    assert_eq!(
        completes(
            "wakeport init postgresql @ 15",
            "wakeport init postgresql@15"
        ),
        ["15-main"]
    );
    assert_eq!(
        completes("wakeport run --unit ''", "wakeport run --unit ").len(),
        2
    );
    assert_eq!(completes("wakeport check ''", "wakeport check "), ["nginx"]);
    assert_eq!(completes("wakeport hold ''", "wakeport hold "), ["nginx"]);
    assert_eq!(
        completes("wakeport run --unit = ngi", "wakeport run --unit=ngi"),
        ["nginx"]
    );
    assert_eq!(
        completes("wakeport run --user = y", "wakeport run --user=y"),
        ["yes"]
    );
    assert!(
        !completes("wakeport ''", "wakeport ").contains(&"child".to_owned()),
        "that is hidden"
    );
}

#[test]
fn fish_completes_commands_options_and_units() {
    let completes = |line: &str| {
        let found = shell(
            "fish",
            &format!("source ./wakeport.fish; complete -C '{line}'"),
        );
        let words = found.iter().filter_map(|line| line.split('\t').next());
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(completes("wakeport ini"), ["init"]);
    assert_eq!(completes("wakeport init --standal"), ["--standalone"]);
    assert_eq!(
        completes("wakeport init --user="),
        ["--user=no", "--user=yes"]
    );
    assert_eq!(completes("wakeport init post"), ["postgresql@15-main"]);
    assert_eq!(completes("wakeport run --unit ngi"), ["nginx"]);
    assert_eq!(completes("wakeport status "), ["nginx"]);
    assert_eq!(completes("wakeport wake "), ["nginx"]);
}

#[test]
fn zsh_completes_commands_options_and_units() {
    // Only a shell on a terminal completes: one is made for it. What it makes of a line stands between < and >.
    const ASK: &str = r#"
        zmodload zsh/zpty
        zpty it zsh -f -i
        zpty -w it 'fpath=($PWD $fpath); autoload -Uz compinit; compinit -D -u; stty -echo; print REA""DY'
        zpty -r it seen '*READY*'
        zpty -w it 'ours() { zle complete-word; print -r -- "<$BUFFER>" }; zle -N ours; bindkey "^I" ours; print GO""ON'
        zpty -r it seen '*GOON*'
        zpty -w -n it 'LINE'$'\t'
        zpty -r it seen '*<*>*'
        print -r -- "$seen"
    "#;
    let completes = |line: &str| {
        let seen = shell("zsh", &ASK.replace("LINE", line)).join("\n");
        let between = seen
            .rsplit_once('<')
            .and_then(|(_, rest)| rest.split_once('>'));
        let (line, _) = between.unwrap_or_else(|| panic!("{seen:?}"));
        line.trim_end().to_owned()
    };
    assert_eq!(completes("wakeport ini"), "wakeport init");
    assert_eq!(
        completes("wakeport init --standal"),
        "wakeport init --standalone"
    );
    assert_eq!(
        completes("wakeport init --user=y"),
        "wakeport init --user=yes"
    );
    assert_eq!(
        completes("wakeport init post"),
        "wakeport init postgresql@15-main"
    );
    assert_eq!(
        completes("wakeport run --unit ngi"),
        "wakeport run --unit nginx"
    );
    assert_eq!(completes("wakeport status "), "wakeport status nginx");
    assert_eq!(completes("wakeport sleep "), "wakeport sleep nginx");
}
