//! Every conversation has golden frames beside it.

use super::Tree;
use crate::Failure;

/// Complains of a conversation in crate job without a golden request and answer, and of frames without a conversation.
pub(super) fn check(tree: &Tree) -> Result<Vec<String>, Failure> {
    let mut conversations = Vec::new();
    let mut complaints = Vec::new();
    for file in tree.matching("crates/job/src/", ".rs") {
        let Some((_, rest)) = file.text.split_once("const NAME: &'static str = \"") else {
            continue;
        };
        let Some((name, _)) = rest.split_once('"') else { continue };
        conversations.push(name);
        if !file.path.ends_with(&format!("/{name}.rs")) {
            complaints.push(format!("{} holds the conversation {name}", file.path));
        }
        for part in ["request", "answer"] {
            let has = |frame: &&super::SourceFile| {
                frame.path.split('/').next_back().is_some_and(|file| {
                    file.starts_with(&format!("{name}.")) && file.contains(&format!(".{part}."))
                })
            };
            if tree.matching("crates/job/tests/golden/", ".json").find(has).is_none() {
                complaints.push(format!("{name} has no golden {part} in crates/job/tests/golden"));
            }
        }
    }
    for frame in tree.matching("crates/job/tests/golden/", ".json") {
        let name = frame.path.split('/').next_back().and_then(|file| file.split('.').next());
        if !name.is_some_and(|name| name == "connection" || conversations.contains(&name)) {
            complaints.push(format!("{} belongs to no conversation", frame.path));
        }
    }
    Ok(complaints)
}
