//! Files of the repository, and a scratch tree for `systemd-analyze verify`.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A scratch tree with our units in it, a stand-in for every program they name, and the host's targets.
pub(crate) struct Tree {
    dir: TempDir,
    user: bool,
}

impl Tree {
    /// As `systemd/install` leaves a machine.
    pub(crate) fn system() -> Self {
        let tree = Self {
            dir: tempfile::tempdir().expect("a scratch directory"),
            user: false,
        };
        for name in [
            "wakeport@.socket",
            "wakeport@.service",
            "wakeport-exporter.socket",
            "wakeport-exporter.service",
            "wakeport-reclaim@.service",
        ] {
            let unit = read(&repo("systemd").join(name));
            tree.write(&format!("/usr/local/lib/systemd/system/{name}"), &unit);
        }
        tree.copy_targets("/usr/lib/systemd/system");
        for program in [
            "/usr/local/bin/wakeport",
            "/bin/sh",
            "/usr/bin/kill",
            "/usr/bin/python3",
            "/usr/bin/java",
            "/usr/bin/docker",
            "/usr/lib/systemd/systemd-socket-proxyd",
        ] {
            tree.write(program, "#!/bin/sh\n");
            fs::set_permissions(tree.path(program), fs::Permissions::from_mode(0o755))
                .expect("a file of ours");
        }
        tree
    }

    /// The same for a user's manager. `systemd-analyze` knows no other root for it, so the program gets a path.
    pub(crate) fn user() -> Self {
        let tree = Self {
            dir: tempfile::tempdir().expect("a scratch directory"),
            user: true,
        };
        for name in ["wakeport@.socket", "wakeport@.service"] {
            let unit = read(&repo("systemd/user").join(name))
                .replace("ExecStart=wakeport", "ExecStart=/bin/true");
            tree.write(&format!("/systemd/user/{name}"), &unit);
        }
        tree.copy_targets("/usr/lib/systemd/user");
        tree
    }

    /// Puts a file below the tree's root.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        let parent = path.parent().expect("a path below the tree's root");
        fs::create_dir_all(parent).expect("a scratch directory");
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// `systemd-analyze verify` finds nothing in any unit written here.
    pub(crate) fn verify(&self) {
        let units = self.units();
        assert!(!units.is_empty(), "nothing to verify");
        let output = self.verify_output(&units);
        assert!(
            output.status.success() && text(&output).is_empty(),
            "verify {units:?}:\n{}",
            text(&output)
        );
    }

    /// The findings of `systemd-analyze verify` in these units.
    pub(crate) fn verify_output(&self, units: &[String]) -> Output {
        let mut command = Command::new("systemd-analyze");
        if self.user {
            command
                .arg("--user")
                .env("XDG_RUNTIME_DIR", self.dir.path());
            command.env("SYSTEMD_UNIT_PATH", self.path("/systemd/user"));
        } else {
            command.arg(format!("--root={}", self.dir.path().display()));
        }
        // The man pages that they name are not installed here.
        run(command.args(["--man=no", "verify"]).args(units), "systemd")
    }

    /// What to verify: the instances that have drop-ins, and whatever else lies beside them. A unit that is not ours
    /// and has nothing but a drop-in gets a body.
    fn units(&self) -> Vec<String> {
        let dir = if self.user {
            "/systemd/user"
        } else {
            "/etc/systemd/system"
        };
        let mut units = BTreeSet::new();
        for entry in fs::read_dir(self.path(dir)).expect("drop-ins") {
            let name = entry
                .expect("a listed file")
                .file_name()
                .into_string()
                .expect("unit names are UTF-8");
            if name.ends_with(".target") || name.starts_with("wakeport@.") {
                continue;
            }
            let unit = name.strip_suffix(".d").unwrap_or(&name);
            if !unit.starts_with("wakeport@") && !self.path(&format!("{dir}/{unit}")).exists() {
                self.write(&format!("{dir}/{unit}"), "[Service]\nExecStart=/bin/sh\n");
            }
            units.insert(unit.to_owned());
        }
        units.into_iter().collect()
    }

    fn copy_targets(&self, from: &str) {
        let to = if self.user { "/systemd/user" } else { from };
        for path in files(Path::new(from))
            .iter()
            .filter(|path| path.extension().is_some_and(|e| e == "target"))
        {
            let name = path
                .file_name()
                .expect("a file has a name")
                .to_string_lossy();
            self.write(&format!("{to}/{name}"), &read(path));
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path.trim_start_matches('/'))
    }
}

/// A path of this repository.
pub(crate) fn repo(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Every regular file below `dir`, in order.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.expect("a listed file").path();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A file's text; whatever is no text in it does not matter here.
pub(crate) fn read(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The output of a program.
pub(crate) fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        .concat()
}

/// Runs a tool that the tests cannot do without.
pub(crate) fn run(command: &mut Command, package: &str) -> Output {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("`{program}` is missing: install {package} (tests/run does)")
        }
        Err(error) => panic!("`{program}`: {error}"),
    }
}
