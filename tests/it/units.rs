//! The files in `systemd/`: units and scripts; and the drop-ins in the pages.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::pages::Page;
use crate::repository::{Tree, files, read, repo, run, text};

#[test]
fn every_drop_in_that_a_page_shows_verifies() {
    let mut verified = 0;
    for section in Page::all().iter().flat_map(Page::sections) {
        let blocks = section.blocks.iter().filter(|block| block.is("ini"));
        let drop_ins: Vec<_> = blocks
            .map(|block| {
                block.file().unwrap_or_else(|| {
                    panic!("{}: where does this lie?\n{}", section.place, block.text)
                })
            })
            .collect();
        if drop_ins.is_empty() {
            continue;
        }
        let user = drop_ins.iter().any(|(path, _)| path.starts_with('~'));
        let tree = if user { Tree::user() } else { Tree::system() };
        for (path, text) in &drop_ins {
            let path = path.strip_prefix("~/.config").unwrap_or(path);
            tree.write(path, text);
            // What `wakeport init` adds: without an address there is no instance.
            let unit = path.rsplit_once(".d/").map(|(unit, _)| unit);
            let instance = unit
                .and_then(|unit| unit.rsplit_once('.'))
                .map(|(name, _)| name);
            if let Some(name) = instance.filter(|name| name.contains("/wakeport@")) {
                tree.write(
                    &format!("{name}.socket.d/10-init.conf"),
                    "[Socket]\nListenStream=8080\n",
                );
            }
        }
        tree.verify();
        verified += drop_ins.len();
    }
    assert!(verified >= 12, "only {verified} drop-ins were found");
}

#[test]
fn an_instance_without_an_address_is_refused() {
    let tree = Tree::system();
    tree.write(
        "/etc/systemd/system/wakeport@app.socket.d/other.conf",
        "[Socket]\nBacklog=16\n",
    );
    let output = tree.verify_output(&["wakeport@app.socket".into()]);
    assert!(
        text(&output).contains("has no Listen setting"),
        "{}",
        text(&output)
    );
}

#[test]
fn the_exporter_verifies() {
    let units = ["wakeport-exporter.socket", "wakeport-exporter.service"].map(str::to_owned);
    let output = Tree::system().verify_output(&units);
    assert_eq!(text(&output), "");
}

#[test]
fn the_sandbox_is_tight() {
    // In tenths: 15 is what the sandbox may leave exposed to be set up quickly for each wake, the others are no worse
    // than today; a user's manager can do much less.
    for (unit, threshold) in [
        ("wakeport@.service", 15),
        ("wakeport-exporter.service", 10),
        ("wakeport-reclaim@.service", 10),
        ("user/wakeport@.service", 62),
    ] {
        let output = run(
            Command::new("systemd-analyze")
                .args(["security", "--offline=true"])
                .arg(format!("--threshold={threshold}"))
                .arg(repo("systemd").join(unit)),
            "systemd",
        );
        assert!(
            output.status.success(),
            "{unit} is more exposed than {threshold} tenths:\n{}",
            text(&output)
        );
    }
}

#[test]
fn every_script_passes_shellcheck() {
    let scripts: Vec<_> = ["systemd", "examples", "tests", "benches", "deploy", ".ci"]
        .iter()
        .flat_map(|dir| files(&repo(dir)))
        .filter(|path| {
            let mut start = Vec::new();
            let file = fs::File::open(path).expect("a file that was just listed");
            file.take(64)
                .read_to_end(&mut start)
                .expect("readable files");
            let first = String::from_utf8_lossy(&start);
            ["#!/bin/sh", "#!/bin/bash", "#!/usr/bin/env bash"]
                .iter()
                .any(|shell| first.starts_with(shell))
        })
        .collect();
    assert!(scripts.len() >= 5, "too few scripts found: {scripts:?}");
    let output = run(Command::new("shellcheck").args(&scripts), "shellcheck");
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn uninstall_leaves_nothing_behind() {
    let dest = tempfile::tempdir().expect("a scratch directory");
    for prefix in ["/usr/local", "/usr"] {
        let output = install(&dest, prefix, "/bin/true");
        assert!(output.status.success(), "{}", text(&output));
        let installed: Vec<_> = files(dest.path());
        assert_eq!(installed.len(), 31, "{installed:#?}");
        for (path, mode) in [
            ("bin/wakeport", 0o755),
            ("lib/systemd/system/wakeport@.service", 0o644),
        ] {
            let path = dest.path().join(&prefix[1..]).join(path);
            let meta =
                fs::metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(
                meta.permissions().mode() & 0o777,
                mode,
                "{}",
                path.display()
            );
        }

        let output = uninstall(&dest, prefix);
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(
            fs::read_dir(dest.path())
                .expect("the scratch directory")
                .count(),
            0
        );
    }
}

#[test]
fn the_administrators_list_is_never_lost() {
    let dest = tempfile::tempdir().expect("a scratch directory");
    let rules = dest.path().join("etc/polkit-1/rules.d/50-wakeport.rules");
    assert!(install(&dest, "/usr/local", "/bin/true").status.success());
    let mine = read(&rules).replace("    // \"jellyfin.service\",", "    \"jellyfin.service\",");
    fs::write(&rules, &mine).expect("the rules that were just installed");

    let output = install(&dest, "/usr/local", "/bin/true");
    assert!(
        text(&output).contains("kept /etc/polkit-1/rules.d/50-wakeport.rules"),
        "{}",
        text(&output)
    );
    assert_eq!(read(&rules), mine);

    let output = uninstall(&dest, "/usr/local");
    assert!(text(&output).contains("left: "), "{}", text(&output));
    assert_eq!(files(dest.path()), [rules]);
}

#[test]
fn install_reports_an_error_in_one_line() {
    let dest = tempfile::tempdir().expect("a scratch directory");
    for (prefix, binary, remedy) in [
        (
            "/usr/local",
            "/nonexistent/wakeport",
            "cargo build --release",
        ),
        (
            "/usr/local",
            "/etc/passwd",
            "name the program that cargo built",
        ),
        ("/opt/wakeport", "/bin/true", "use /usr/local or /usr"),
        ("/usr/local", "--frobnicate", "--help"),
    ] {
        let output = install(&dest, prefix, binary);
        let said = text(&output);
        assert!(
            !output.status.success(),
            "installed {binary} below {prefix}: {said}"
        );
        assert!(said.contains(remedy) && said.lines().count() == 1, "{said}");
    }
    assert_eq!(
        fs::read_dir(dest.path())
            .expect("the scratch directory")
            .count(),
        0
    );
}

/// Every variable in a unit, an example or their texts is one that the program or its hooks know.
#[test]
fn every_variable_exists() {
    let help = run(
        Command::new(env!("CARGO_BIN_EXE_wakeport")).args(["run", "--help"]),
        "the program itself",
    );
    let mut known = variables(&text(&help));
    assert!(
        known.contains("WAKEPORT_TO"),
        "`wakeport run --help` names no variables:\n{}",
        text(&help)
    );
    known.extend(
        [
            "EVENT",
            "TARGET",
            "LISTENER",
            "CLIENT",
            "ATTEMPT",
            "TIMEOUT_SEC",
            // How long tests/it/soak.rs takes.
            "SOAK",
            // Fields of the journal.
            "STATE",
            "WAKE_USEC",
            "THAW_USEC",
            "BYTES_UP",
            "BYTES_DOWN",
            "METHOD",
            "USEC",
            "WAIT_USEC",
            "REQUEST_ID",
        ]
        .map(|name| format!("WAKEPORT_{name}")),
    );
    for path in ["systemd", "examples", "docs"]
        .iter()
        .flat_map(|dir| files(&repo(dir)))
    {
        let unknown: Vec<_> = variables(&read(&path))
            .difference(&known)
            .cloned()
            .collect();
        assert!(
            unknown.is_empty(),
            "{}: no such variable: {unknown:?}",
            path.display()
        );
    }
}

fn variables(text: &str) -> BTreeSet<String> {
    text.match_indices("WAKEPORT_")
        .map(|(start, _)| {
            let word = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            let end = text[start..]
                .find(|c| !word(c))
                .map_or(text.len(), |length| start + length);
            text[start..end].to_owned()
        })
        .collect()
}

fn install(dest: &TempDir, prefix: &str, binary: &str) -> Output {
    run(
        Command::new(repo("systemd/install"))
            .arg(binary)
            .env("DESTDIR", dest.path())
            .env("PREFIX", prefix),
        "the repository",
    )
}

fn uninstall(dest: &TempDir, prefix: &str) -> Output {
    run(
        Command::new(repo("systemd/uninstall"))
            .env("DESTDIR", dest.path())
            .env("PREFIX", prefix),
        "the repository",
    )
}
