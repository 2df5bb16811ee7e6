//! The pages with instructions, cut into sections and blocks of code. What a block's language means:
//!
//! - `sh`: commands, which the scenarios run on a booted machine (`tests/systemd/guide.rs`);
//! - `text` behind it in the same section: what the commands print, with `…` for what may differ;
//! - `ini`, `bash` and the like, beginning with a path as a comment: a file, put in place before the commands
//!   that follow; the units among them are verified;
//! - none: not run.

use std::fs;
use std::path::{Path, PathBuf};

/// The languages of files.
const FILES: [&str; 6] = ["ini", "toml", "bash", "nginx", "haproxy", "caddy"];

/// A page.
pub(crate) struct Page {
    /// Below the root of the repository.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// What stands below a heading of the second degree, or above the first one.
pub(crate) struct Section {
    /// As in a link: `docs/recipes.md#a-web-application`.
    pub(crate) place: String,
    pub(crate) blocks: Vec<Block>,
}

/// A block of code.
pub(crate) struct Block {
    pub(crate) language: String,
    pub(crate) text: String,
}

impl Page {
    /// Every page for users and administrators.
    pub(crate) fn all() -> Vec<Self> {
        let mut paths = vec![PathBuf::from("README.md"), "systemd/README.md".into()];
        for dir in ["docs", "examples"] {
            paths.extend(markdown(Path::new(dir)));
        }
        let pages: Vec<_> = paths.into_iter().map(|path| Self::at(&path)).collect();
        assert!(pages.len() > 15, "only {} pages were found", pages.len());
        pages
    }

    /// The page at a path below the root.
    pub(crate) fn at(path: &Path) -> Self {
        let file = root().join(path);
        let text = fs::read_to_string(&file);
        Self {
            path: path.display().to_string(),
            text: text.unwrap_or_else(|error| panic!("{}: {error}", file.display())),
        }
    }

    /// The sections, in order.
    pub(crate) fn sections(&self) -> Vec<Section> {
        let mut sections = vec![Section {
            place: self.path.clone(),
            blocks: Vec::new(),
        }];
        let mut open: Option<Block> = None;
        for line in self.text.lines() {
            let last = sections.last_mut().expect("there is one from the start");
            match (line.strip_prefix("```"), open.as_mut()) {
                (Some(language), None) => {
                    let (language, text) = (language.to_owned(), String::new());
                    open = Some(Block { language, text });
                }
                (Some(_), Some(_)) => last.blocks.extend(open.take()),
                (None, Some(block)) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, None) => {
                    if let Some(heading) = line.strip_prefix("## ") {
                        sections.push(Section {
                            place: format!("{}#{}", self.path, anchor(heading)),
                            blocks: Vec::new(),
                        });
                    }
                }
            }
        }
        assert!(open.is_none(), "{}: a block without an end", self.path);
        sections
    }
}

impl Block {
    pub(crate) fn is(&self, language: &str) -> bool {
        self.language == language
    }

    /// The file that this is: where it lies, and its text.
    pub(crate) fn file(&self) -> Option<(&str, &str)> {
        let mut lines = self.text.lines();
        let first = lines.next()?;
        let comment = if first.starts_with("#!") {
            lines.next()?
        } else {
            first
        };
        let path = comment.strip_prefix("# ")?;
        let is_path = path.starts_with(['/', '~']) && !path.contains(' ');
        (FILES.contains(&self.language.as_str()) && is_path).then_some((path, self.text.as_str()))
    }
}

/// What a heading is called in a link.
pub(crate) fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        _ if c.is_alphanumeric() || "-_".contains(c) => Some(c),
        _ => None,
    });
    kept.collect()
}

/// The pages below a folder, as paths below the root.
fn markdown(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(dir)).expect("a folder of the repository") {
        let entry = entry.expect("a listed file");
        let path = dir.join(entry.file_name());
        if entry.file_type().expect("a listed file").is_dir() {
            found.extend(markdown(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
