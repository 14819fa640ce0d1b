//! Rules about words and lines.

use super::Tree;
use crate::Failure;

/// Complains of `unsafe` outside crate sys. The lints forbid it too; this also sees what is compiled out.
pub(super) fn no_unsafe(tree: &Tree) -> Result<Vec<String>, Failure> {
    let mut complaints = Vec::new();
    for file in tree.matching("", ".rs") {
        if file.path.starts_with("crates/sys/") {
            continue;
        }
        for (number, line) in (1..).zip(file.text.lines()) {
            let code = line.split("//").next().unwrap_or_default();
            let keyword = ["{", "fn", "impl", "extern", "trait"];
            let mut words =
                code.split_whitespace().skip_while(|word| *word != concat!("un", "safe"));
            if words.next().is_some() && words.next().is_some_and(|next| keyword.contains(&next)) {
                complaints.push(format!("{}:{number}", file.path));
            }
        }
    }
    Ok(complaints)
}

/// What may not be left in code, put together so that this file does not hold it.
const LEFTOVERS: &[&str] = &[
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("db", "g!("),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
];

/// The manual page of the command `grange farm`, named as man names the pages of commands with subcommands.
const MAN_PAGE: &str = concat!("grange", "-farm");

/// Complains of words with a second meaning and of leftovers.
pub(super) fn words(tree: &Tree) -> Result<Vec<String>, Failure> {
    let mut complaints = Vec::new();
    for file in &tree.files {
        if file.path == "Cargo.lock" || file.path.starts_with("LICENSE") {
            continue;
        }
        for (number, line) in (1..).zip(file.text.lines()) {
            if file.path.ends_with(".rs") {
                for leftover in LEFTOVERS.iter().filter(|leftover| line.contains(**leftover)) {
                    complaints.push(format!("{}:{number}: {leftover}", file.path));
                }
            }
            if joins_farm(&line.replace(MAN_PAGE, "")) {
                complaints.push(format!(
                    "{}:{number}: the word farm is never joined to another by a hyphen",
                    file.path
                ));
            }
        }
    }
    Ok(complaints)
}

/// Whether `farm` or `farms` is joined to a word by a hyphen.
fn joins_farm(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    let mut words = line.split(|character: char| !character.is_alphanumeric() && character != '-');
    words.any(|word| {
        let parts: Vec<&str> = word.split('-').collect();
        let named = |part: &&str| matches!(*part, "farm" | "farms");
        parts.windows(2).any(|pair| match pair {
            [left, right] => {
                (named(left) && !right.is_empty()) || (named(right) && !left.is_empty())
            }
            _ => false,
        })
    })
}

/// Complains of a source file that does not say in its first line what it is for. `x/tests.rs` is for the tests of `x.rs`.
pub(super) fn first_lines(tree: &Tree) -> Result<Vec<String>, Failure> {
    Ok(tree
        .matching("", ".rs")
        .filter(|file| !file.path.ends_with("/tests.rs") && !file.text.starts_with("//! "))
        .map(|file| format!("{} does not begin with a `//!` line", file.path))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn farm_is_never_joined() {
        let joined = concat!("a far", "m-like thing");
        assert!(joins_farm(joined));
        assert!(joins_farm(concat!("the server-", "farms")));
        for line in [
            "a farm - of one",
            "farm's",
            "`farm`-",
            "farms, --only FARM,…",
            "--farm",
            "farmhouse-like",
        ] {
            assert!(!joins_farm(line), "{line}");
        }
    }
}
