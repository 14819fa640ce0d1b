//! `cargo xtask plant`: bugs planted on purpose, one at a time, in a copy of the tree. The simulation must catch each.
//!
//! A simulation that finds nothing proves nothing unless it is known what it would find.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::process::{cargo, succeeds, target_dir};
use crate::{Failure, root};

/// A bug: what it is, and the text that is replaced to make it.
struct Bug {
    name: &'static str,
    file: &'static str,
    right: &'static str,
    wrong: &'static str,
}

/// How many seeds are run against each.
const SEEDS: &str = "1000";

/// What of the tree the simulation is built from.
const COPIED: &[&str] =
    &["Cargo.toml", "Cargo.lock", ".cargo", "bench", "crates", "sim", "xtask", "tests"];

const BUGS: &[Bug] = &[
    Bug {
        name: "a segment's sync is skipped",
        file: "crates/queue-spool/src/intake/writer.rs",
        right: "if let Err(error) = current.file.sync() {",
        wrong: "if let Err(error) = Ok::<(), std::io::Error>(()) {",
    },
    Bug {
        name: "250 before the sync",
        file: "crates/queue-spool/src/intake/writer.rs",
        right: "answers.extend(drafted.map(|(waiter, place)| Answer::Drafted(waiter, Ok(place))));",
        wrong: "answers.extend(drafted.map(|(waiter, place)| Answer::Drafted(waiter, Ok(place))));
        answers.extend(self.commits.drain(..).map(|(waiter, place, _)| Answer::Committed(waiter, Ok(place))));",
    },
    Bug {
        name: "a new segment's name is not synced",
        file: "crates/queue-spool/src/intake/writer.rs",
        right: "self.disk.sync_dir(&self.hold.dir)?;",
        wrong: "",
    },
    Bug {
        name: "acted on before the record is written",
        file: "crates/scheduler/src/turns.rs",
        right: "if has_records || !self.pending.is_empty() {",
        wrong: "if has_records && actions.batch == 0 {",
    },
    Bug {
        name: "the ledger tells of a sync too much",
        file: "crates/queue-spool/src/ledger/machine.rs",
        right: "self.synced = syncing.written;",
        wrong: "self.synced = self.taken;",
    },
    Bug {
        name: "a torn end is accepted",
        file: "crates/queue-spool/src/codec.rs",
        right: "&& payload_crc(nonce, offset, payload) == head.payload_crc",
        wrong: "&& (payload_crc(nonce, offset, payload) == head.payload_crc || true)",
    },
    Bug {
        name: "the ledger's order is swapped",
        file: "crates/queue-spool/src/ledger/machine.rs",
        right: "self.waiting.extend(events.drain(..));",
        wrong: "self.waiting.extend(events.drain(..).rev());",
    },
    Bug {
        name: "a segment is unlinked early",
        file: "crates/queue-spool/src/ledger/standing.rs",
        right: "if !matches!(standing.marks.get(slot), Some(Mark::Retired | Mark::Moved)) {",
        wrong: "if matches!(standing.marks.get(slot), Some(Mark::Routed)) {",
    },
    Bug {
        name: "space is given back before the sync",
        file: "crates/queue-spool/src/ledger/machine.rs",
        right: "self.endings.pop_front_if(|(mark, _)| *mark <= self.synced) {",
        wrong: "self.endings.pop_front_if(|(mark, _)| *mark <= self.taken) {",
    },
    Bug {
        name: "what stands behind a torn end counts",
        file: "crates/queue-spool/src/ledger/frame.rs",
        right: "self.torn = Some(hole);\n                    return Ok(None);",
        wrong: "self.offset = offset;\n                    return self.next();",
    },
    Bug {
        name: "a lane gets a job too many",
        file: "crates/scheduler/src/machine/lane.rs",
        right: "self.active >= self.limit(settings)",
        wrong: "self.active > self.limit(settings)",
    },
    Bug {
        name: "what is told late is acknowledged and forgotten",
        file: "crates/scheduler/src/machine/late.rs",
        right: "if !changes.is_empty() {",
        wrong: "if changes.len() > 1000 {",
    },
    Bug {
        name: "slow lanes take a channel whole",
        file: "crates/scheduler/src/machine/channel.rs",
        right: "self.slow_in_use < (self.slots() / 2).max(1);",
        wrong: "self.slow_in_use < self.slots().max(1);",
    },
];

/// Plants every bug, one at a time; says whether each was caught.
pub(crate) fn run() -> Result<bool, Failure> {
    let tree = target_dir()?.join("plant");
    copy(&tree)?;
    let sound = simulate(&tree)?;
    if !sound.status.success() {
        return Err("the simulation fails without a planted bug".into());
    }
    println!("{:<40} {:>6}  invariant", "bug", "seed");
    let mut caught = true;
    for bug in BUGS {
        let path = tree.join(bug.file);
        let text = fs::read_to_string(&path)?;
        if text.matches(bug.right).count() != 1 {
            println!("{:<40} {:>6}  its text is not in {} once", bug.name, "-", bug.file);
            caught = false;
            continue;
        }
        fs::write(&path, text.replace(bug.right, bug.wrong))?;
        let output = simulate(&tree);
        fs::write(&path, text)?;
        caught &= tell(bug, &output?);
    }
    fs::remove_dir_all(&tree)?;
    Ok(caught)
}

/// Copies what the simulation is built from.
fn copy(tree: &Path) -> Result<(), Failure> {
    fs::create_dir_all(tree)?;
    for name in COPIED {
        let source = root().join(name);
        if !succeeds(Command::new("cp").arg("-R").arg(source).arg(tree))? {
            return Err(format!("cannot copy {name}").into());
        }
    }
    Ok(())
}

/// Builds the copy and runs its seeds.
fn simulate(tree: &Path) -> Result<Output, Failure> {
    let arguments = [
        "run",
        "--quiet",
        "--profile",
        "simulation",
        "--package",
        "sim",
        "--",
        "--stop",
        "--seeds",
        SEEDS,
    ];
    let mut command = cargo(&arguments);
    command.current_dir(tree).env("CARGO_TARGET_DIR", target_dir()?);
    Ok(command.output()?)
}

/// Prints what caught a bug, and says whether anything did.
fn tell(bug: &Bug, output: &Output) -> bool {
    let text = String::from_utf8_lossy(&output.stdout);
    let first = text.lines().find_map(|line| line.strip_prefix("seed ")?.split_once(": "));
    match first {
        Some((seed, words)) => {
            let invariant = words.split(':').next().unwrap_or(words);
            println!("{:<40} {seed:>6}  {invariant}", bug.name);
            true
        }
        None => {
            let errors = String::from_utf8_lossy(&output.stderr);
            let built = if errors.contains("error") { "it does not compile" } else { "NOT CAUGHT" };
            println!("{:<40} {:>6}  {built}", bug.name, "-");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_still_has_its_place() {
        for bug in BUGS {
            let text = fs::read_to_string(root().join(bug.file)).expect("the file is there");
            assert_eq!(text.matches(bug.right).count(), 1, "{}", bug.name);
        }
    }
}
