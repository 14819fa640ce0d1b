//! `cargo xtask bench NAME`: measurements, each in a file of its own.

mod all;
mod authenticated;
mod beside;
mod contender;
mod counts;
mod database;
mod grange;
pub(crate) mod instructions;
mod journal;
mod latency;
mod load;
mod measure;
mod memory;
mod opendkim;
mod options;
mod plot;
mod postfix;
mod relay;
mod samples;
mod sessions;
mod speak;
mod start;

use std::path::{Path, PathBuf};
use std::process::Command;

use self::journal::Journal;
use crate::process::{output, target_dir};
use crate::{Failure, usage};

/// A benchmark: its name, and what runs it with the options after its name.
type Benchmark = (&'static str, fn(&[&str]) -> Result<bool, Failure>);

/// To add one: a module above and a line here.
const BENCHMARKS: &[Benchmark] = &[
    ("all", all::run),
    ("relay", relay::run),
    ("accept", relay::run_accept),
    ("latency", latency::run),
    ("sessions", sessions::run),
    ("backlog", beside::run_backlog),
    ("isolation", beside::run_isolation),
    ("start", start::run),
    ("instructions", instructions::run),
];

/// Runs the benchmark of that name.
pub(crate) fn run(name: &str, words: &[&str]) -> Result<bool, Failure> {
    let names: Vec<&str> = BENCHMARKS.iter().map(|(name, _)| *name).collect();
    let (_, benchmark) = BENCHMARKS
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| usage(format!("no benchmark {name}; there is {}", names.join(", "))))?;
    benchmark(words)
}

/// Takes options that are each followed by a number.
fn numbers(words: &[&str], known: &mut [(&str, &mut usize)]) -> Result<(), Failure> {
    for pair in words.chunks(2) {
        let [name, value] = pair else {
            return Err(usage(format!("{} needs a number", pair.join(" "))));
        };
        let Some((_, field)) = known.iter_mut().find(|(known, _)| known == name) else {
            return Err(usage(format!("bench does not know {name}")));
        };
        **field =
            value.parse().map_err(|_| usage(format!("{name} needs a number, not {value}")))?;
    }
    Ok(())
}

/// Where a round's files are when the target directory is closed to other users: on disk, unlike what /tmp may be.
const ELSEWHERE: &str = "/var/tmp/grange-bench";

/// A folder for what is measured, which its users may pass through.
struct Scratch {
    folder: PathBuf,
    journal: Option<Journal>,
}

impl Scratch {
    /// Makes it; with `journal`, as a file system of its own.
    fn new(name: &str, journal: bool) -> Result<Self, Failure> {
        let mut above = target_dir()?.join("bench");
        if !is_passable(&above)? {
            println!("{} is closed to other users: using {ELSEWHERE}", above.display());
            above = ELSEWHERE.into();
        }
        let folder = above.join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let journal = if journal { Some(Journal::mount(&folder)?) } else { None };
        open_to_all(&folder)?;
        println!(
            "file system: {}; {} CPUs",
            file_system(&folder)?,
            std::thread::available_parallelism()?
        );
        Ok(Self { folder, journal })
    }

    /// Removes it when all went well, else says where it is.
    fn end(self, result: Result<(), Failure>) -> Result<bool, Failure> {
        if let Some(journal) = self.journal {
            journal.unmount(result.is_ok())?;
        }
        if result.is_ok() {
            std::fs::remove_dir_all(&self.folder)?;
        } else {
            eprintln!("xtask: configurations and logs are kept in {}", self.folder.display());
        }
        result.map(|()| true)
    }
}

/// Whether every folder above lets any user through.
fn is_passable(folder: &Path) -> Result<bool, Failure> {
    use std::os::unix::fs::PermissionsExt;
    for above in folder.ancestors().skip(1).filter(|above| above.is_absolute()) {
        if above.try_exists()? && above.metadata()?.permissions().mode() & 0o001 == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes a folder passable for the users that programs run as.
fn open_to_all(folder: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The file system of a folder with its options, as the kernel names them.
fn file_system(folder: &Path) -> Result<String, Failure> {
    let mut command = Command::new("findmnt");
    command.args(["-n", "-o", "FSTYPE,OPTIONS", "--target"]).arg(folder);
    let text = output(&mut command)?;
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_below_a_closed_one_is_not_passable() {
        let closed = std::env::temp_dir().join(format!("xtask-closed-{}", std::process::id()));
        let below = closed.join("a/b");
        std::fs::create_dir_all(&below).expect("a folder");
        for (mode, passable) in [(0o755, true), (0o700, false)] {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&closed, mode).expect("our own");
            assert_eq!(is_passable(&below).expect("it is there"), passable);
        }
        std::fs::remove_dir_all(&closed).expect("our own");
    }

    #[test]
    fn numbers_are_taken_or_refused() {
        let (mut one, mut two) = (1, 2);
        let mut known = [("--one", &mut one), ("--two", &mut two)];
        numbers(&["--two", "7"], &mut known).expect("good options");
        for wrong in [&["--one"][..], &["--three", "3"], &["--one", "x"], &["--one", "-1"]] {
            assert!(numbers(wrong, &mut known).is_err(), "{wrong:?}");
        }
        assert_eq!((one, two), (1, 7));
    }
}
