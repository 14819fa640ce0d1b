//! The memory of a process and all below it: the proportional set size, in which a shared page counts once.

use std::collections::{BTreeMap, BTreeSet};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::Failure;

/// How often a watch looks: seldom, for looking costs calls and time of its own.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looks at the memory of processes and their descendants now and then, and keeps the most.
pub(super) struct Watch {
    done: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Watch {
    /// Starts looking.
    pub(super) fn start(roots: Vec<u32>) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            loop {
                most = most.max(roots.iter().map(|root| of_tree(*root).unwrap_or(0)).sum());
                if told.load(Ordering::Acquire) {
                    return most;
                }
                std::thread::park_timeout(LOOK_EVERY);
            }
        });
        Self { done, thread }
    }

    /// Looks once more and says what was the most, in bytes.
    pub(super) fn stop(self) -> u64 {
        self.done.store(true, Ordering::Release);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or(0)
    }
}

/// Bytes of the proportional set size of a process and its descendants.
pub(super) fn of_tree(root: u32) -> Result<u64, Failure> {
    let mut total = 0;
    for pid in tree(root, &parents()?) {
        // A process that has just ended has none.
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        total += proportional(&text);
    }
    Ok(total)
}

/// Every process's parent.
fn parents() -> Result<BTreeMap<u32, u32>, Failure> {
    let mut parents = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if let Some(parent) = parent(&stat) {
            parents.insert(pid, parent);
        }
    }
    Ok(parents)
}

/// The CPU time that a process and all that it started have used, as far as they still run.
pub(super) fn cpu_of_tree(root: u32) -> Result<Duration, Failure> {
    let ticks: u64 = tree(root, &parents()?)
        .into_iter()
        .filter_map(|pid| ticks(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
        .sum();
    // The kernel tells hundredths of a second, whatever it counts in.
    Ok(Duration::from_millis(ticks * 10))
}

/// User and system time in a line of `/proc/PID/stat`.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// The parent in a line of `/proc/PID/stat`; the name before it may hold anything, a parenthesis too.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn tree(root: u32, parents: &BTreeMap<u32, u32>) -> BTreeSet<u32> {
    let mut tree = BTreeSet::from([root]);
    loop {
        let below: Vec<u32> = parents
            .iter()
            .filter(|(pid, parent)| tree.contains(parent) && !tree.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if below.is_empty() {
            return tree;
        }
        tree.extend(below);
    }
}

fn proportional(rollup: &str) -> u64 {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kibibytes: u64 = line
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0);
    kibibytes * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        assert_eq!(parent("12 (odd) name) S 7 12 12 0 -1"), Some(7));
        assert_eq!(
            proportional("00-ff ---p 00 00:00 0 [rollup]\nRss:   90 kB\nPss:    12 kB\n"),
            12_288
        );
        let stat = "12 (odd) name) S 7 12 12 0 -1 4194560 1 2 3 4 50 25 0 0";
        assert_eq!(ticks(stat), Some(75));
        let parents = BTreeMap::from([(2, 1), (3, 2), (4, 3), (9, 1)]);
        assert_eq!(tree(2, &parents), BTreeSet::from([2, 3, 4]));
    }

    #[test]
    fn this_process_has_memory() {
        assert!(of_tree(std::process::id()).expect("our own") > 64 * 1024);
    }
}
