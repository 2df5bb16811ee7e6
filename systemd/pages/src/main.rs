//! Makes wakeport's man pages and completions: what `wakeport --help` says, from the same source, and the chapters
//! in `text/` that help has no place for. They lie in `systemd/man` and `systemd/completions`, ready to be packaged.
//!
//! After a change to the command line or to a chapter: `cargo run -p wakeport-pages`. A test here says when that
//! was forgotten.

mod completions;
mod man;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A file that is made here, below `systemd/`.
struct Made {
    path: PathBuf,
    text: String,
}

/// Every file.
fn all() -> Vec<Made> {
    let mut made = man::pages();
    made.extend(completions::scripts());
    made
}

fn systemd() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn main() -> io::Result<()> {
    for folder in ["man", "completions"] {
        let folder = systemd().join(folder);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir(&folder)?;
    }
    for made in all() {
        fs::write(systemd().join(made.path), made.text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_systemd_is_what_the_command_line_says() {
        let mut made = 0;
        for Made { path, text } in all() {
            let there = fs::read_to_string(systemd().join(&path)).unwrap_or_default();
            assert!(
                there == text,
                "systemd/{} is not up to date: run `cargo run -p wakeport-pages`",
                path.display()
            );
            made += 1;
        }
        let folders = ["man", "completions"].map(|folder| systemd().join(folder));
        let there = folders.map(|folder| fs::read_dir(folder).expect("a folder").count());
        assert_eq!(
            there.iter().sum::<usize>(),
            made,
            "a file without a generator"
        );
    }
}
