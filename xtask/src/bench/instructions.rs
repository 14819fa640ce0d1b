//! `cargo xtask bench instructions`: how many instructions each part of a message's path takes, beside a limit.
//!
//! Valgrind counts the user-space instructions of `hot_path` (folder `bench`), once with fewer and once with more messages: the
//! difference is what those messages take. Unlike time it hardly differs between two runs, so a limit can be close.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{cargo, find, output, succeeds, target_dir};
use crate::test::Count;
use crate::{Failure, packages, usage};

/// The parts, and the instructions that each took for a message when this was last renewed: see `docs/performance.md`.
const PARTS: &[(&str, u64)] = &[
    ("receive", 33_339),
    ("jobs", 75_422),
    ("store", 47_521),
    ("schedule", 40_683),
    ("send", 38_393),
];

/// The compiler with which it was.
const COMPILER: &str = "rustc 1.95.";
/// How far above what it took a part may come, in parts of a hundred.
const TOLERANCE_PERCENT: u64 = 5;
/// How many messages the two runs of a part have.
const MESSAGES: (u64, u64) = (200, 1200);

/// What a part takes.
struct Counted {
    part: &'static str,
    instructions: u64,
    /// What it took when the table was renewed.
    before: u64,
}

impl Counted {
    fn limit(&self) -> u64 {
        self.before + self.before * TOLERANCE_PERCENT / 100
    }

    fn is_within(&self) -> bool {
        self.instructions <= self.limit()
    }

    /// Whether so much was gained that the table should say so.
    fn is_far_below(&self) -> bool {
        self.instructions < self.before - self.before * TOLERANCE_PERCENT / 100
    }
}

/// Counts every part, and says whether all keep their limits.
pub(super) fn run(words: &[&str]) -> Result<bool, Failure> {
    if let [word, ..] = words {
        return Err(usage(format!("bench instructions does not know {word}")));
    }
    check().map(|count| count.is_well())
}

/// Counts every part; each is a test that passes within its limit.
pub(crate) fn check() -> Result<Count, Failure> {
    let mut count = Count::default();
    if let Some(other) = other_machine()? {
        println!(
            "not counted: the limits are those of x86-64 with AVX2 and {COMPILER}, and this is {other}"
        );
        return Ok(count);
    }
    packages::provide_counter()?;
    let binary = build()?;
    println!("{:<10} {:>24} {:>10}", "part", "instructions a message", "limit");
    let mut remarks = Vec::new();
    for (part, before) in PARTS {
        let instructions = instructions_a_message(&binary, part)?;
        let counted = Counted { part, instructions, before: *before };
        println!("{:<10} {:>24} {:>10}", part, instructions, counted.limit());
        count.add(Count::one(counted.is_within()));
        remarks.extend(remark(&counted));
    }
    remarks.iter().for_each(|remark| println!("{remark}"));
    Ok(count)
}

/// What is other here than where the table was made, and would make other instructions.
fn other_machine() -> Result<Option<String>, Failure> {
    #[cfg(target_arch = "x86_64")]
    let fits = std::arch::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    let fits = false;
    if !fits {
        return Ok(Some("another processor".to_owned()));
    }
    let version = output(Command::new("rustc").arg("--version"))?;
    Ok((!version.starts_with(COMPILER)).then(|| version.trim().to_owned()))
}

/// What is to be said of a part beside its number.
fn remark(counted: &Counted) -> Option<String> {
    let Counted { part, instructions, before } = counted;
    if !counted.is_within() {
        let limit = counted.limit();
        return Some(format!(
            "{part} takes {instructions} instructions a message, over its limit of {limit}: see docs/performance.md, \"Instructions a message\""
        ));
    }
    counted.is_far_below().then(|| {
        format!(
            "{part} takes {instructions} instructions a message, where it took {before}: renew xtask/src/bench/instructions.rs, so that this is kept"
        )
    })
}

/// Builds the program that is counted, as it is shipped.
fn build() -> Result<PathBuf, Failure> {
    if !succeeds(&mut cargo(&["build", "--quiet", "--release", "--package", "bench"]))? {
        return Err("hot_path does not build".into());
    }
    Ok(target_dir()?.join("release/hot_path"))
}

fn instructions_a_message(binary: &Path, part: &str) -> Result<u64, Failure> {
    let (fewer, more) = MESSAGES;
    let (first, second) = (instructions(binary, part, fewer)?, instructions(binary, part, more)?);
    let difference = second.checked_sub(first);
    let difference =
        difference.ok_or_else(|| format!("{part}: more messages took fewer instructions"))?;
    Ok(difference / (more - fewer))
}

/// How many instructions a part takes with so many messages, the program's start included.
fn instructions(binary: &Path, part: &str, messages: u64) -> Result<u64, Failure> {
    let valgrind = find("valgrind").ok_or("valgrind is not there")?;
    let mut command = Command::new(valgrind);
    command.args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]);
    command.arg(binary).args([part, &messages.to_string()]);
    let output = command.output().map_err(|error| format!("cannot run valgrind: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let counted = said.lines().find_map(counted).filter(|_| output.status.success());
    counted.ok_or_else(|| {
        format!("{part} under valgrind ended with {}:\n{said}", output.status).into()
    })
}

/// What a line `==1== I   refs:      1,234,567` says.
fn counted(line: &str) -> Option<u64> {
    let (name, number) = line.rsplit_once("refs:")?;
    let digits: String = number.chars().filter(char::is_ascii_digit).collect();
    if name.trim_end().ends_with('I') { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valgrinds_count_is_read() {
        assert_eq!(counted("==12== I   refs:      1,234,567"), Some(1_234_567));
        assert_eq!(counted("==12== I refs:        7"), Some(7));
        assert_eq!(counted("==12== D   refs:      9"), None);
        assert_eq!(counted("==12== Cachegrind, a cache profiler"), None);
    }

    #[test]
    fn a_part_is_held_to_what_it_took_and_a_little_more() {
        let part = |instructions| Counted { part: "send", instructions, before: 1000 };
        assert!(part(1050).is_within() && !part(1051).is_within());
        assert!(part(949).is_far_below() && !part(950).is_far_below());
        assert!(remark(&part(1051)).is_some_and(|text| text.contains("limit of 1050")));
        assert!(remark(&part(1000)).is_none() && remark(&part(900)).is_some());
    }
}
