//! Whether another user could run a program, read a file or reach a Unix socket.

use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

use crate::admin::sandbox::Sandbox;
use crate::admin::system::Unit;
use crate::config::CommandLine;

/// What to do with a program or a file that the sandbox hides.
const PROGRAMS: &str = "move it to /usr/local/libexec";

/// The user that would run a program, and what is visible to it.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The groups.
    pub gids: Vec<u32>,
    /// Its PATH.
    pub path: String,
    /// What its sandbox hides.
    pub sandbox: Sandbox,
}

impl Identity {
    /// Our own, without a sandbox.
    pub fn own() -> Self {
        let (uid, gid) = super::own_ids();
        let groups = rustix::process::getgroups().unwrap_or_default();
        let mut gids: Vec<u32> = groups.into_iter().map(|group| group.as_raw()).collect();
        gids.push(gid);
        Self {
            uid,
            gids,
            path: std::env::var("PATH").unwrap_or_default(),
            ..Self::default()
        }
    }

    /// polkit's, where it has a user of its own.
    pub fn polkit() -> Option<Self> {
        Self::of("polkitd", &[])
    }

    /// That of an instance that is being made: the sandbox is the template's, unless its service
    /// has one already.
    pub fn of_template(service: Option<&Unit>) -> Self {
        let service = service.filter(|service| service.load == "loaded");
        // A user that is not there yet owns nothing.
        let nobody = || Self {
            uid: u32::MAX,
            gids: Vec::new(),
            ..Self::own()
        };
        Self {
            sandbox: service.map_or_else(Sandbox::installed, |service| service.sandbox.clone()),
            ..Self::of("wakeport", &[]).unwrap_or_else(nobody)
        }
    }

    /// That of the user `name`, with these groups as well, without a sandbox.
    pub fn of(name: &str, more: &[String]) -> Option<Self> {
        let (uid, gid) = super::identity(name)?;
        let mut gids = vec![gid];
        let is_in = |group: &super::Group| {
            group.members.iter().any(|member| member == name) || more.contains(&group.name)
        };
        let groups = super::groups().into_iter().filter(is_in);
        gids.extend(groups.map(|group| group.gid));
        Some(Self {
            uid,
            gids,
            ..Self::default()
        })
    }

    /// Whether `command` could be run, as far as file modes tell; if not, why, and what to do.
    pub fn can_run(&self, command: &CommandLine) -> Result<(), String> {
        let program = Path::new(&command.program);
        if command.program.contains('/') {
            return self.can_execute(program);
        }
        let path = &self.path;
        let mut outcome = Err(format!("it is not in PATH ({path}); give its full path"));
        for directory in std::env::split_paths(&self.path) {
            let path = directory.join(program);
            if path.exists() {
                outcome = self.can_execute(&path);
            }
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    fn can_execute(&self, path: &Path) -> Result<(), String> {
        if !path.is_absolute() {
            return Err("its path is relative; give the full one".to_owned());
        }
        let real = self.outside(path, PROGRAMS)?;
        let meta = fs::metadata(&real).map_err(|error| why(path, &error))?;
        self.can_enter(&real)?;
        let (shown, mode) = (path.display(), meta.mode() & 0o7777);
        if !meta.is_file() {
            return Err(format!("`{shown}` is not a file"));
        }
        if !self.may_execute(&meta) {
            return Err(format!("its mode is {mode:o}; `chmod 755 {shown}`"));
        }
        match interpreter(&real) {
            Some(missing) if !missing.exists() => Err(format!(
                "its first line names `{}`, which does not exist",
                missing.display()
            )),
            _ => Ok(()),
        }
    }

    /// Whether the file at `path` could be read, as far as file modes tell; if not, why.
    pub fn can_read(&self, path: &Path) -> Result<(), String> {
        let real = self.outside(path, PROGRAMS)?;
        let meta = fs::metadata(&real).map_err(|error| why(path, &error))?;
        self.can_enter(&real)?;
        let (shown, mode) = (path.display(), meta.mode() & 0o7777);
        match self.may_read(&meta) {
            true => Ok(()),
            false => Err(format!("its mode is {mode:o}; `chmod 644 {shown}`")),
        }
    }

    /// Whether the socket of a target could be connected to, if it is there, or else whether its
    /// directory could be entered; if not, why. `unit` is the one that makes it, `ours` the service
    /// that relays. Connects where `listens` says that this wakes nothing.
    pub fn can_connect(
        &self,
        path: &Path,
        unit: Option<&Unit>,
        ours: &str,
        listens: bool,
    ) -> Result<(), String> {
        let real = match path.starts_with("/run") {
            true => self.outside(path, "let the service listen somewhere else")?,
            false => self.outside(path, "let the service listen below /run")?,
        };
        let runtime = unit.and_then(|unit| unit.runtime_directory(&real).map(|dir| (unit, dir)));
        if let Some((unit, (directory, mode))) = runtime {
            let mut groups = super::groups().into_iter();
            let group = groups.find(|group| group.name == unit.group);
            let gid = group.map_or(0, |group| group.gid);
            let member = mode & 0o010 != 0 && self.gids.contains(&gid);
            let entered = self.uid == 0 || mode & 0o001 != 0 || member;
            if !entered {
                return Err(format!(
                    "the directory `{0}` gets the mode {mode:o}; `systemctl edit {1}`: RuntimeDirectoryMode=0755{2}",
                    directory.display(),
                    unit.id,
                    membership(mode & 0o010 != 0, &unit.group, ours)
                ));
            }
        }
        if !real.exists() {
            // It comes with the service.
            return match real.ancestors().skip(1).find(|folder| folder.exists()) {
                Some(folder) => self.can_enter(&folder.join("socket")),
                None => Ok(()),
            };
        }
        self.can_enter(&real)?;
        let meta = fs::metadata(&real).map_err(|error| why(&real, &error))?;
        if !meta.file_type().is_socket() {
            return Err("it is not a socket".to_owned());
        }
        if !(self.uid == 0 || self.has(&meta, 1)) {
            let mode = meta.mode() & 0o777;
            let mut groups = super::groups().into_iter();
            let group = groups.find(|group| group.gid == meta.gid());
            let group = group.map_or_else(|| meta.gid().to_string(), |group| group.name);
            return Err(format!(
                "its mode is {mode:o}, and its group is `{group}`; let the service make it 666{}",
                membership(mode & 0o020 != 0, &group, ours)
            ));
        }
        match listens {
            true => self.try_connect(&real),
            false => Ok(()),
        }
    }

    /// Connects as this user, for what modes do not tell: access lists, SELinux, AppArmor.
    fn try_connect(&self, path: &Path) -> Result<(), String> {
        let (own, _) = super::own_ids();
        if own != 0 && own != self.uid {
            return Ok(());
        }
        let connect = || -> io::Result<()> {
            if own != self.uid {
                let gids: Vec<_> = self.gids.iter().map(|&gid| Gid::from_raw(gid)).collect();
                set_thread_groups(&gids)?;
                set_thread_gid(gids[0])?;
                set_thread_uid(Uid::from_raw(self.uid))?;
            }
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            Ok(rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?)
        };
        // The thread ends as the user that it has become.
        let connected = thread::scope(|scope| scope.spawn(connect).join());
        match connected {
            Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => Err(format!(
                "connecting to it fails ({error}); see its access list (`getfacl {}`), and the log of SELinux or AppArmor",
                path.display()
            )),
            _ => Ok(()),
        }
    }

    /// Whether the files in `folder` can be found, as far as modes tell; if not, why.
    pub fn can_list(&self, folder: &Path) -> Result<(), String> {
        let Ok(meta) = fs::metadata(folder) else {
            return Ok(());
        };
        let (shown, mode) = (folder.display(), meta.mode() & 0o7777);
        match self.may_read(&meta) {
            true => self.can_enter(&folder.join("file")),
            false => Err(format!(
                "the mode of `{shown}` is {mode:o}; `chmod 755 {shown}`"
            )),
        }
    }

    /// Whether the mode lets it read.
    pub fn may_read(&self, meta: &Metadata) -> bool {
        self.uid == 0 || self.has(meta, 2)
    }

    /// Whether every directory above `real` may be searched.
    fn can_enter(&self, real: &Path) -> Result<(), String> {
        for folder in real.ancestors().skip(1) {
            let meta = fs::metadata(folder).map_err(|error| why(folder, &error))?;
            if !self.may_execute(&meta) {
                let folder = folder.display();
                return Err(format!(
                    "it has no access to the directory `{folder}`; `chmod o+x {folder}`, or move the file"
                ));
            }
        }
        Ok(())
    }

    /// Where a path of the sandbox is on this machine, without links, or what hides it; `remedy` is
    /// another one than loosening the sandbox.
    pub fn outside(&self, path: &Path, remedy: &str) -> Result<PathBuf, String> {
        let linked = resolved(path);
        for place in [path, &linked] {
            let Some(mount) = self.sandbox.above(place) else {
                continue;
            };
            let below = place.strip_prefix(&mount.at).unwrap_or(place);
            let inside = mount.from.as_ref().map(|from| from.join(below));
            let seen = |inside: &PathBuf| {
                inside == place || inside.parent().is_some_and(|folder| folder.is_dir())
            };
            let (what, undo) = &mount.text;
            let inside = inside.filter(seen);
            return inside
                .map(|inside| resolved(&inside))
                .ok_or_else(|| format!("{what}; {remedy}, or {undo}"));
        }
        Ok(linked)
    }

    fn may_execute(&self, meta: &Metadata) -> bool {
        let mode = meta.mode();
        if self.uid == 0 {
            return meta.is_dir() || mode & 0o111 != 0;
        }
        self.has(meta, 0)
    }

    /// Whether the mode grants this bit: 2 is reading, 0 executing.
    fn has(&self, meta: &Metadata, bit: u32) -> bool {
        let shift = match () {
            () if meta.uid() == self.uid => 6,
            () if self.gids.contains(&meta.gid()) => 3,
            () => 0,
        };
        meta.mode() >> (shift + bit) & 1 == 1
    }
}

/// What to set to belong to a group, where that helps.
fn membership(helps: bool, group: &str, ours: &str) -> String {
    match helps && !group.is_empty() {
        true => format!(", or `systemctl edit {ours}`: SupplementaryGroups={group}"),
        false => String::new(),
    }
}

fn why(path: &Path, error: &io::Error) -> String {
    match error.kind() == io::ErrorKind::NotFound {
        true => format!("`{}` does not exist; check the path", path.display()),
        false => format!("cannot read `{}`: {error}", path.display()),
    }
}

/// A path without links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    match (fs::canonicalize(path), path.parent(), path.file_name()) {
        (Ok(real), ..) => real,
        (Err(_), Some(folder), Some(name)) => resolved(folder).join(name),
        (Err(_), ..) => path.to_owned(),
    }
}

/// The interpreter that a script's first line names.
fn interpreter(path: &Path) -> Option<PathBuf> {
    let mut start = Vec::new();
    let file = fs::File::open(path).ok()?;
    file.take(256).read_to_end(&mut start).ok()?;
    let start = String::from_utf8_lossy(&start);
    let line = start.strip_prefix("#!")?.lines().next()?;
    line.split_whitespace().next().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn identity(path: &str) -> Identity {
        Identity {
            uid: 4242,
            gids: vec![4242],
            path: path.into(),
            sandbox: Sandbox::default(),
        }
    }

    #[test]
    fn a_program_that_cannot_be_run_is_found_with_the_reason() {
        let dir = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        let make = |name: &str, text: &str, mode: u32| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path.display().to_string()
        };
        let good = make("good", "#!/bin/sh\n", 0o755);
        let closed = make("closed", "#!/bin/sh\n", 0o700);
        let plain = make("plain", "#!/bin/sh\n", 0o644);
        let broken = make("broken", "#!/no/such/shell\n", 0o755);
        let path = dir.path().display().to_string();
        let run = |identity: &Identity, program: &str| {
            let command = CommandLine {
                program: program.into(),
                arguments: Vec::new(),
            };
            identity.can_run(&command)
        };
        let identity = identity(&path);
        assert_eq!(run(&identity, &good), Ok(()));
        assert_eq!(run(&identity, "good"), Ok(()));
        for (program, words) in [
            (closed.as_str(), "its mode is 700; `chmod 755 "),
            (&plain, "its mode is 644; `chmod 755 "),
            (&broken, "`/no/such/shell`, which does not exist"),
            (&path, "is not a file"),
            ("nothing", "it is not in PATH"),
            ("./good", "its path is relative"),
            ("/no/such/program", "`/no/such/program` does not exist"),
        ] {
            let said = run(&identity, program).expect_err(program);
            assert!(said.contains(words), "{program}: {said}");
        }
        let owner = Identity {
            uid: fs::metadata(&closed).unwrap().uid(),
            ..identity.clone()
        };
        assert_eq!(run(&owner, &closed), Ok(()));
        let sandboxed = Identity {
            sandbox: Sandbox::installed(),
            ..identity
        };
        assert!(
            run(&sandboxed, "/home/alice/x")
                .expect_err("hidden")
                .contains("ProtectHome=no")
        );
        assert!(
            run(&sandboxed, "/tmp/x")
                .expect_err("hidden")
                .contains("PrivateTmp=no")
        );
    }
}
