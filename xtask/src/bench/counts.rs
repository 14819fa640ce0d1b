//! System calls and syncs of the whole machine while something is measured, by `perf stat`.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::Failure;
use crate::process::{Guarded, find, succeeds};

/// The tracepoints, in the order of [`Counts`]' fields: the first is all system calls, the others are those that wait for a disk.
const EVENTS: &str = "raw_syscalls:sys_enter,syscalls:sys_enter_fdatasync,syscalls:sys_enter_fsync,syscalls:sys_enter_sync";
/// Where the kernel shows its tracepoints.
const TRACING: &str = "/sys/kernel/tracing";

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Counts {
    /// Calls to the kernel.
    pub(super) calls: f64,
    /// Those of them that wait until a disk has something.
    pub(super) syncs: f64,
}

/// Counts from its start until it is asked.
pub(super) struct Counter {
    perf: Guarded,
    file: PathBuf,
}

/// Whether this machine lets us count; if not, says why once, and the columns stay empty.
pub(super) fn available() -> bool {
    let Some(perf) = find("perf") else {
        println!("system calls are not counted: perf is not installed (Debian's linux-perf)");
        return false;
    };
    let trace = PathBuf::from(TRACING);
    if trace.join("events").is_dir() {
        return true;
    }
    // Mounting what the kernel offers anyway changes nothing for others.
    let _ = succeeds(Command::new("mount").args(["-t", "tracefs", "tracefs", TRACING]));
    let works = Command::new(perf)
        .args(["stat", "-a", "-e", EVENTS, "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !works {
        println!("system calls are not counted: the kernel shows no tracepoints here");
    }
    works
}

impl Counter {
    /// Begins to count; the file is for what perf says at the end.
    pub(super) fn start(file: PathBuf) -> Result<Self, Failure> {
        let mut command = Command::new(find("perf").ok_or("perf is not installed")?);
        command.args(["stat", "-a", "-x", ",", "-e", EVENTS, "-o"]).arg(&file);
        // `cat` ends when its standard input does: perf counts until then.
        command.args(["--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null());
        Ok(Self { perf: Guarded::spawn("perf", &mut command)?, file })
    }

    /// Ends, and says what came together.
    pub(super) fn stop(mut self) -> Result<Counts, Failure> {
        self.perf.finish()?;
        let text = std::fs::read_to_string(&self.file)?;
        parse(&text).ok_or_else(|| format!("perf's counts are not understood: {text}").into())
    }
}

/// Reads perf's lines, `NUMBER,,EVENT,…`.
fn parse(text: &str) -> Option<Counts> {
    let number = |event: &str| -> Option<f64> {
        let line = text.lines().find(|line| line.split(',').nth(2) == Some(event))?;
        line.split(',').next()?.parse().ok()
    };
    let mut events = EVENTS.split(',').map(number);
    let calls = events.next()??;
    let syncs = events.sum::<Option<f64>>()?;
    Some(Counts { calls, syncs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_perf_writes_is_read() {
        let text = "# started on a day\n\n204,,raw_syscalls:sys_enter,1,100.00,,\n5,,syscalls:sys_enter_fdatasync,1,100.00,,\n\
                    2,,syscalls:sys_enter_fsync,1,100.00,,\n1,,syscalls:sys_enter_sync,1,100.00,,\n";
        assert_eq!(parse(text), Some(Counts { calls: 204.0, syncs: 8.0 }));
        assert_eq!(parse("<not supported>,,raw_syscalls:sys_enter,0,100.00,,\n"), None);
    }
}
