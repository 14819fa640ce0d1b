//! Rules about what people read.

use std::path::Path;

use super::Tree;
use crate::Failure;

/// Complains of relative links to files that are not there.
pub(super) fn links(tree: &Tree) -> Result<Vec<String>, Failure> {
    let mut complaints = Vec::new();
    for file in tree.matching("", ".md") {
        let folder = tree.root.join(&file.path).parent().map(Path::to_owned).unwrap_or_default();
        let mut fenced = false;
        for (number, line) in (1..).zip(file.text.lines()) {
            fenced ^= line.trim_start().starts_with("```");
            if fenced {
                continue;
            }
            for target in targets(line) {
                let path = target.split(['#', ' ']).next().unwrap_or_default();
                if path.is_empty() || path.contains(':') || folder.join(path).try_exists()? {
                    continue;
                }
                complaints.push(format!("{}:{number}: {target} is not there", file.path));
            }
        }
    }
    Ok(complaints)
}

/// The targets of `[text](target)` in a line.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// The commands that must have a manual page, when there is any page at all.
const MAN: &str = "man/";

/// Complains of manual pages that are missing: `grange.1`, and one for every command it names as `grange-COMMAND(1)`.
pub(super) fn manual_pages(tree: &Tree) -> Result<Vec<String>, Failure> {
    let mut complaints = Vec::new();
    if tree.file("man/grange.1").is_none() {
        complaints.push("man/grange.1 is missing".to_owned());
    }
    for page in tree.matching(MAN, ".1") {
        // roff writes a hyphen as `\-`.
        let text = page.text.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "");
        for name in
            text.split_whitespace().filter_map(|word| word.split_once("(1)").map(|(name, _)| name))
        {
            if name.starts_with("grange") && tree.file(&format!("{MAN}{name}.1")).is_none() {
                complaints.push(format!("{} names {name}(1), which is missing", page.path));
            }
        }
    }
    complaints.dedup();
    Ok(complaints)
}

/// Complains of a reference of the configuration that is not what the source says.
pub(super) fn reference(tree: &Tree) -> Result<Vec<String>, Failure> {
    let current = crate::document::reference()?;
    match tree.file(crate::document::REFERENCE) {
        Some(file) if file.text == current => Ok(Vec::new()),
        _ => Ok(vec![format!(
            "{} is not current: run cargo xtask document",
            crate::document::REFERENCE
        )]),
    }
}

/// Complains of licence files that are missing.
pub(super) fn licences(tree: &Tree) -> Result<Vec<String>, Failure> {
    let needed = ["LICENSE-MIT", "LICENSE-APACHE"];
    Ok(needed
        .iter()
        .filter(|name| tree.file(name).is_none_or(|file| file.text.len() < 1000))
        .map(|name| format!("{name} is missing"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_targets_are_found() {
        let found: Vec<&str> = targets("see [a](docs/a.md#x) and ![b](b.png), not (c)").collect();
        assert_eq!(found, ["docs/a.md#x", "b.png"]);
    }
}
