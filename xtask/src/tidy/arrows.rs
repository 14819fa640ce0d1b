//! Which crate may use which: the table of the layout, checked against every manifest.

use super::Tree;
use crate::Failure;

/// What every stage may use.
const STAGE: &[&str] =
    &["farm", "job", "queue", "config", "mail", "smtp", "lookup", "dns", "tls", "socket"];
/// What every transport agent may use.
const AGENT: &[&str] =
    &["agent", "config", "job", "queue", "mail", "farm", "socket", "smtp", "dns", "tls"];
/// What every queue may use.
const QUEUE: &[&str] = &["queue", "sys", "mail", "config"];

/// A crate of ours and the crates of ours that it may use. Dev-dependencies are free.
///
/// The reasons behind what is wider than the plain layout stand in
/// `docs/decisions/0040-arrows-beyond-the-layout.md`.
const ARROWS: &[(&str, &[&str])] = &[
    ("mail", &[]),
    ("config", &[]),
    ("sys", &[]),
    ("smtp", &["mail"]),
    ("queue", &["mail"]),
    ("job", &["mail", "queue", "socket"]),
    ("queue-spool", QUEUE),
    ("queue-memory", QUEUE),
    ("queue-postgres", QUEUE),
    ("socket", &["sys", "tls"]),
    ("farm", &["socket", "sys", "config", "tls"]),
    ("lookup", &["config", "mail"]),
    ("dns", &["config", "mail"]),
    ("tls", &["config"]),
    ("authentication", &["config", "mail", "dns"]),
    ("milter", &["mail"]),
    ("smtpserver", STAGE),
    ("contentfilter", STAGE),
    ("router", STAGE),
    ("scheduler", STAGE),
    ("requeue", STAGE),
    ("compact", STAGE),
    ("agent", &["farm", "job", "queue", "config", "mail", "socket"]),
    ("agent-smtp", AGENT),
    ("agent-local", AGENT),
    ("agent-pipe", AGENT),
    ("agent-error", AGENT),
];

/// Arrows that single crates may have beside their kind's.
const BESIDE: &[(&str, &str)] = &[
    ("contentfilter", "authentication"),
    ("contentfilter", "milter"),
    ("smtpserver", "sys"),
    ("agent-local", "sys"),
    ("agent-pipe", "sys"),
    ("agent-error", "socket"),
];

/// These may use everything.
const FREE: &[&str] = &["grange", "tests", "sim", "bench", "xtask", "fuzz"];

/// Complains of every arrow that is not in the table.
pub(super) fn check(tree: &Tree) -> Result<Vec<String>, Failure> {
    let ours: Vec<&str> =
        tree.matching("crates/", "/Cargo.toml").filter_map(|file| folder(&file.path)).collect();
    let mut complaints = Vec::new();
    for file in tree.matching("crates/", "/Cargo.toml") {
        let Some(name) = folder(&file.path) else { continue };
        if FREE.contains(&name) {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
            complaints.push(format!("{name} is not in the table of xtask/src/tidy/arrows.rs"));
            continue;
        };
        for used in dependencies(&file.text).filter(|used| ours.contains(used)) {
            if !allowed.contains(&used) && !BESIDE.contains(&(name, used)) {
                complaints.push(format!("{name} may not use {used} ({})", file.path));
            }
        }
    }
    Ok(complaints)
}

/// Complains of a crate that does not take the workspace's lints, among them the ban on unsafe code.
pub(super) fn lints(tree: &Tree) -> Result<Vec<String>, Failure> {
    let own = ["crates/sys/Cargo.toml", "fuzz/Cargo.toml", "Cargo.toml"];
    Ok(tree
        .matching("", "Cargo.toml")
        .filter(|file| !own.contains(&file.path.as_str()))
        .filter(|file| !file.text.contains("[lints]\nworkspace = true"))
        .map(|file| format!("{} does not take the workspace's lints", file.path))
        .collect())
}

fn folder(manifest: &str) -> Option<&str> {
    manifest.strip_prefix("crates/")?.strip_suffix("/Cargo.toml")
}

/// The names under `[dependencies]`, also of single targets and as tables of their own, but not `[dev-dependencies]`.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    manifest.lines().filter_map(move |line| {
        if let Some(header) = line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']'))
        {
            inside = header.rsplit('.').next() == Some("dependencies")
                && !header.starts_with("workspace");
            return header.strip_prefix("dependencies.");
        }
        let name = line.split(['=', '.', ' ']).next()?;
        (inside && !name.is_empty() && !name.starts_with('#')).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_found() {
        let manifest = "[package]\nname = \"x\"\n\n[dependencies]\nmail.workspace = true\nqueue = { path = \"q\" }\n\
            # socket = 1\n\n[dev-dependencies]\nsys.workspace = true\n\n[dependencies.job]\nworkspace = true\n\n\
            [target.'cfg(unix)'.dependencies]\nfarm.workspace = true\n";
        let found: Vec<&str> = dependencies(manifest).collect();
        assert_eq!(found, ["mail", "queue", "job", "farm"]);
    }
}
