//! `cargo xtask tidy`: the rules of the tree that can be checked, each a function from the files to its complaints.

mod arrows;
mod docs;
mod golden;
mod text;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::output;
use crate::{Failure, root};

/// A rule: its name, and what it finds wrong.
type Rule = (&'static str, fn(&Tree) -> Result<Vec<String>, Failure>);

const RULES: &[Rule] = &[
    ("arrows between crates", arrows::check),
    ("lints", arrows::lints),
    ("unsafe only in sys", text::no_unsafe),
    ("words", text::words),
    ("first lines", text::first_lines),
    ("golden frames", golden::check),
    ("links", docs::links),
    ("manual pages", docs::manual_pages),
    ("configuration reference", docs::reference),
    ("licences", docs::licences),
];

/// From this many lines on a file is mentioned; it fails nothing.
const LONG_LINES: usize = 1000;

/// Checks every rule and prints what each found; says whether all was well.
pub(crate) fn run() -> Result<bool, Failure> {
    let tree = Tree::read(&root())?;
    let mut tidy = true;
    for (name, rule) in RULES {
        for complaint in rule(&tree)? {
            println!("tidy: {name}: {complaint}");
            tidy = false;
        }
    }
    for file in tree.files.iter().filter(|file| file.path.ends_with(".rs")) {
        let lines = file.text.lines().count();
        if lines > LONG_LINES {
            println!("note: {} has {lines} lines", file.path);
        }
    }
    println!("tidy: {} files, {}", tree.files.len(), if tidy { "all well" } else { "see above" });
    Ok(tidy)
}

/// The text files that git knows, or would after `git add`.
pub(crate) struct Tree {
    root: PathBuf,
    files: Vec<SourceFile>,
}

/// One of them.
struct SourceFile {
    /// From the root, with `/`.
    path: String,
    text: String,
}

impl Tree {
    fn read(root: &Path) -> Result<Self, Failure> {
        let arguments = ["ls-files", "--cached", "--others", "--exclude-standard", "-z"];
        // A checkout may belong to another user than the one who checks it; nothing of it is run by listing its files.
        let safe = format!("safe.directory={}", root.display());
        let mut git = Command::new("git");
        let names = output(git.args(["-c", &safe, "-C"]).arg(root).args(arguments))?;
        let mut files = Vec::new();
        for path in names.split('\0').filter(|name| !name.is_empty()) {
            // A file may be deleted and not yet committed; one that is not text has nothing for us.
            if let Ok(text) = std::fs::read_to_string(root.join(path)) {
                files.push(SourceFile { path: path.to_owned(), text });
            }
        }
        Ok(Self { root: root.to_owned(), files })
    }

    /// The files whose path begins and ends so.
    fn matching<'a>(
        &'a self,
        begin: &'a str,
        end: &'a str,
    ) -> impl Iterator<Item = &'a SourceFile> + 'a {
        self.files
            .iter()
            .filter(move |file| file.path.starts_with(begin) && file.path.ends_with(end))
    }

    fn file(&self, path: &str) -> Option<&SourceFile> {
        self.files.iter().find(|file| file.path == path)
    }
}
