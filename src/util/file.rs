//! Files: written whole or not at all, opened without waiting.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Puts a file with this content in place of the one at `path`. After a crash or a power cut the
/// path holds the old content or the new one: the draft is synced before the rename. The directory
/// is not synced, so the old one may be back after a power cut. The umask does not count.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let draft = draft(path);
    let written = write(&draft, content, mode).and_then(|()| fs::rename(&draft, path));
    written.inspect_err(|_| drop(fs::remove_file(&draft)))
}

/// The same for a file that others have made: what a link leads to is replaced, and mode and owner stay.
/// One that is not there yet gets `mode`.
pub fn rewrite(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let Ok(old) = fs::metadata(&path) else {
        return replace(&path, content, mode);
    };
    let draft = draft(&path);
    let written = write(&draft, content, old.mode() & 0o7777)
        .and_then(|()| chown(&draft, Some(old.uid()), Some(old.gid())))
        .and_then(|()| fs::rename(&draft, &path));
    written.inspect_err(|_| drop(fs::remove_file(&draft)))
}

/// Always the same, so that what a crash leaves behind is overwritten. The suffix keeps systemd
/// and polkit from reading it.
fn draft(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

fn write(draft: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let create = || OpenOptions::new().write(true).create_new(true).open(draft);
    let mut file = match create() {
        // Opening what is there could wait for a pipe's reader, or follow a link.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(draft)?;
            create()
        }
        created => created,
    }?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_data()
}

/// Makes a directory, whatever the umask is. One that is there stays as it is.
pub fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode))),
    }
}

/// Makes a directory that is there ours, with this mode.
pub fn take_over_directory(path: &Path, mode: u32) -> io::Result<()> {
    let own = rustix::process::geteuid();
    if fs::metadata(path)?.uid() != own.as_raw() {
        chown(path, Some(own.as_raw()), None)?;
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Opens a regular file; anything else is an error, without following a link or waiting for the
/// other end of a pipe.
pub fn open_regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let options = options.custom_flags(flags.bits().cast_signed());
    let file = options.open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("not a regular file")),
    }
}
