//! Runs a page on a machine, section by section: puts its files in place, runs its commands, and compares their output
//! with the page. `tests/docs/pages.rs` says what the blocks of a page mean.

use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::pages::{Block, Page, Section};
use crate::rig::Rig;

/// The checkout, as a rig sees it.
pub(crate) const SOURCE: &str = "/run/rig/source";
/// A clone of the repository: the parts of it that pages use.
pub(crate) const CLONE: &str = "/run/rig/clone";

/// The blocks of commands that no scenario runs: how each begins, and why not.
pub(crate) const NOT_RUN: [(&str, &str); 6] = [
    ("tests/run", "it runs the scenarios themselves"),
    (
        "tests/fuzz/run",
        "tests/run runs it, for as long as a test may take",
    ),
    (
        "cargo test -p wakeport-model",
        "tests/run runs it, for as long as a test may take",
    ),
    (
        "WAKEPORT_SOAK=",
        "tests/run runs it, for as long as a test may take",
    ),
    (
        "cargo install cargo-deb",
        "package.rs makes the package and installs it",
    ),
    (
        "deploy/image",
        "tests/k8s/image builds it, and there is no registry to push it to",
    ),
];

/// Runs a command without asking for a password; `-u` switches the user.
const SUDO: &str = "#!/bin/sh
if [ \"$1\" = -u ]; then user=$2; shift 2; exec runuser -u \"$user\" -- \"$@\"; fi
exec \"$@\"
";

/// The program is built already.
const CARGO: &str = "#!/bin/sh
case $* in
'build --release') exec install -D /run/rig/wakeport target/release/wakeport ;;
'run --release -- '*) shift 3; exec /run/rig/wakeport \"$@\" ;;
esac
echo \"cargo $*: not here\" >&2
exit 1
";

/// A command left running, as in another terminal; it ends with the rig.
pub(crate) struct Left(Child);

impl Drop for Left {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) struct PageRunner<'a> {
    rig: &'a Rig,
    /// The prefix of a command line.
    shell: String,
    /// Where `~` is.
    home: String,
    changed: Box<dyn Fn(&str) -> String>,
}

impl<'a> PageRunner<'a> {
    /// An administrator, in a clone of the repository.
    pub(crate) fn new(rig: &'a Rig) -> Self {
        rig.run(&format!(
            "mkdir -p {CLONE} && cp -r {SOURCE}/systemd {SOURCE}/examples {CLONE}/"
        ));
        rig.script("/usr/local/sbin/sudo", SUDO);
        rig.script("/usr/local/sbin/cargo", CARGO);
        // Scenarios edit files themselves.
        rig.script("/usr/local/sbin/sudoedit", "#!/bin/sh\ntest -f \"$1\"\n");
        // `/` is read-only in a rig.
        rig.run("mountpoint -q /srv || mount -t tmpfs tmpfs /srv");
        Self {
            rig,
            shell: "/bin/sh -c".into(),
            home: "/root".into(),
            changed: Box::new(str::to_owned),
        }
    }

    /// An ordinary user who has a service manager.
    pub(crate) fn user(rig: &'a Rig, name: &str) -> Self {
        let runner = Self::new(rig);
        let home = format!("/var/lib/{name}");
        rig.run(&format!(
            "test -d {home} || useradd --home-dir {home} --create-home --shell /bin/sh {name}"
        ));
        let id = rig.run(&format!("id -u {name}"));
        let id = id.trim();
        rig.systemctl(&format!("start user@{id}.service"));
        Self {
            shell: format!(
                "runuser -u {name} -- env HOME={home} USER={name} XDG_RUNTIME_DIR=/run/user/{id} /bin/sh -c"
            ),
            home,
            ..runner
        }
    }

    /// Changes something everywhere, as the page asks its readers to.
    pub(crate) fn with_edits(self, changed: impl Fn(&str) -> String + 'static) -> Self {
        Self {
            changed: Box::new(changed),
            ..self
        }
    }

    /// Runs the section at `place`, say `docs/recipes.md#a-web-application`.
    #[track_caller]
    pub(crate) fn run_section(&self, place: &str) {
        let section = section(place);
        let mut blocks = section.blocks.iter().peekable();
        let mut played = 0;
        while let Some(block) = blocks.next() {
            if let Some((path, text)) = block.file() {
                self.put_file(path, text);
            } else if block.is("sh")
                && !NOT_RUN
                    .iter()
                    .any(|(begins, _)| block.text.starts_with(begins))
            {
                let commands = (self.changed)(&block.text);
                let shown = blocks.next_if(|block| block.is("text"));
                self.run_block(place, &commands, shown);
                played += 1;
            }
        }
        assert!(played > 0, "{place} has no commands");
    }

    /// Runs the only block of commands in the section at `place` in the background.
    pub(crate) fn run_in_background(&self, place: &str) -> Left {
        let section = section(place);
        let blocks = section.blocks.iter().filter(|block| block.is("sh"));
        let [block] = blocks.collect::<Vec<_>>()[..] else {
            panic!("{place} has one block of commands")
        };
        let script = format!("cd {CLONE}; {}", (self.changed)(&block.text));
        let words = self.shell.split(' ').map(str::to_owned);
        let mut command = self.rig.command(words.chain([script]));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Left(command.spawn().expect("nsenter can be run"))
    }

    /// Puts a file in place.
    fn put_file(&self, path: &str, text: &str) {
        let path = (self.changed)(path).replace('~', &self.home);
        let text = (self.changed)(text);
        if text.starts_with("#!") {
            self.rig.script(&path, &text);
        } else {
            self.rig.write(&path, &text);
        }
        if path.starts_with(&self.home) {
            self.rig
                .run(&format!("chown -R --reference={0} {0}", self.home));
        }
    }

    /// Runs commands; the output that a page shows has to appear, sooner or later.
    #[track_caller]
    fn run_block(&self, place: &str, commands: &str, shown: Option<&Block>) {
        let mut said = self.output_of(commands, shown.is_none());
        let Some(shown) = shown else { return };
        let shown = (self.changed)(&shown.text);
        let mut missing = missing(&shown, &said);
        for _ in 0..300 {
            if missing.is_empty() {
                return;
            }
            sleep(Duration::from_millis(100));
            said = self.output_of(commands, false);
            missing = self::missing(&shown, &said);
        }
        panic!(
            "{place}: `{commands}` does not print\n{}\nbut\n{said}",
            missing.join("\n")
        );
    }

    fn output_of(&self, commands: &str, must_succeed: bool) -> String {
        let script =
            format!("cd {CLONE}; journalctl -q --sync 2>/dev/null; set -e; exec 2>&1\n{commands}");
        let words = self.shell.split(' ').map(str::to_owned);
        let output = self.rig.command(words.chain([script])).output();
        let output = output.expect("nsenter can be run");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() || !must_succeed,
            "`{commands}`: {}\n{said}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        said
    }
}

fn section(place: &str) -> Section {
    let path = place.split('#').next().unwrap_or_default();
    let sections = Page::at(Path::new(path)).sections();
    let section = sections.into_iter().find(|section| section.place == place);
    section.unwrap_or_else(|| panic!("there is no {place}"))
}

/// The shown lines that were not printed.
fn missing(shown: &str, said: &str) -> Vec<String> {
    let said: Vec<_> = said.lines().map(plain).collect();
    let shown = shown.lines().filter(|line| !line.trim().is_empty());
    let missing = shown.filter(|line| !said.iter().any(|said| shows(&plain(line), said)));
    missing.map(str::to_owned).collect()
}

/// A line with a single space for any white space, and a single digit for any number: no two runs are alike in them.
fn plain(line: &str) -> String {
    let mut plain = String::new();
    for c in line.chars() {
        let c = match c {
            '0'..='9' => '0',
            c if c.is_whitespace() => ' ',
            c => c,
        };
        if !("0 ".contains(c) && plain.ends_with(c)) {
            plain.push(c);
        }
    }
    plain.trim().to_owned()
}

/// Whether `said` contains what is `shown`, in which `…` stands for anything.
fn shows(shown: &str, said: &str) -> bool {
    let mut rest = said;
    shown
        .split('…')
        .map(str::trim)
        .all(|part| match rest.find(part) {
            Some(at) => {
                rest = &rest[at + part.len()..];
                true
            }
            None => false,
        })
}

#[test]
fn the_output_of_a_page_is_compared_with_what_was_printed() {
    let said = "Nov 21 07:01:12 rig wakeport[12]: web answers after 312ms\n";
    for (shown, right) in [
        ("web answers after 8ms", true),
        ("… rig wakeport[1]: web answers …", true),
        ("web   answers", true),
        ("web … after … now", false),
        ("web is silent", false),
    ] {
        assert_eq!(missing(shown, said).is_empty(), right, "{shown}");
    }
}
