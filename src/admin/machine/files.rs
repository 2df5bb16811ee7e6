//! The files of an instance that are there already.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::programs::Identity;
use crate::admin::system::Present;
use crate::admin::unit_files::{DROP_IN, Places, WOKEN_DROP_IN, is_rule, may_be_ours};

/// What is there of `planned`, and of all that an instance may consist of.
pub(super) fn present(places: &Places, planned: impl Iterator<Item = PathBuf>) -> Vec<Present> {
    let mut paths: BTreeSet<PathBuf> = planned.collect();
    for path in entries(&places.units) {
        match path.is_dir() {
            true if may_be_ours(&path) => paths.extend(entries(&path)),
            true => _ = paths.insert(path.join(WOKEN_DROP_IN)),
            false if may_be_ours(&path) => _ = paths.insert(path),
            false => (),
        }
    }
    let rules = entries(&places.rules)
        .into_iter()
        .chain(entries(&places.policies));
    paths.extend(rules.filter(|path| may_be_ours(path)));
    paths.into_iter().filter_map(read).collect()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// A file, if there is one. One in a directory that is closed to us counts as none.
fn read(path: PathBuf) -> Option<Present> {
    let text = match fs::read(&path) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| "it is not text".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(_) if fs::symlink_metadata(&path).is_err() => return None,
        Err(error) => Err(error.to_string()),
    };
    let access = defect(&path);
    Some(Present { path, text, access })
}

/// What is wrong with the mode or the owner of a file as `wakeport init` writes it, or of the
/// directory of a drop-in.
fn defect(path: &Path) -> Option<String> {
    let folder = path.parent().filter(|_| path.ends_with(DROP_IN));
    let mut all = [Some((path, 0o644)), folder.map(|folder| (folder, 0o755))].into_iter();
    all.find_map(|it| it.and_then(|(path, wanted)| differs(path, wanted)))
}

fn differs(path: &Path, wanted: u32) -> Option<String> {
    let meta = fs::metadata(path).ok()?;
    let (shown, mode) = (path.display(), meta.mode() & 0o777);
    let (uid, trusted) = (meta.uid(), [0, super::own_ids().0]);
    if !trusted.contains(&uid) {
        return Some(format!("`{shown}` belongs to the user with the ID {uid}"));
    }
    // A rule may be for polkit alone.
    let readable = match Identity::polkit().filter(|_| is_rule(path)) {
        Some(polkit) => polkit.may_read(&meta),
        None => mode & wanted & 0o555 == wanted & 0o555,
    };
    (!readable || mode & 0o022 != 0)
        .then(|| format!("`{shown}` has the mode {mode:o} instead of {wanted:o}"))
}
