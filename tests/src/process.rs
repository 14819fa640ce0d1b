//! Children that end with their owner, and what `/proc` says of a process.

use std::fs;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::until_within;

/// How long a child may take to end after SIGTERM. A drain takes ten seconds at most.
const END: Duration = Duration::from_secs(30);

/// A child process; dropped, it is asked to end, then killed, with everything it started.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts a program.
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { child, name: name.to_owned() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child itself, for its standard streams.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child can be waited for")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        signal_pid(self.pid(), signal);
    }

    /// Asks it to end and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let name = self.name.clone();
        until_within(END, &format!("{name} ends after SIGTERM"), || self.ended())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let family = descendants(self.pid());
        self.signal(Signal::TERM);
        let begun = std::time::Instant::now();
        while begun.elapsed() < END {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                _ => return,
            }
        }
        eprintln!("{} does not end; killing it", self.name);
        for pid in family {
            signal_pid(pid, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process that this test started, directly or not.
pub(crate) fn signal_pid(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    // It may have ended by itself meanwhile.
    let _ = kill_process(pid, signal);
}

/// The processes that a process started, and those that they started.
pub fn descendants(pid: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> =
        processes().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(&ancestor) = family.get(next) {
        family.extend(parents.iter().filter(|(_, parent)| *parent == ancestor).map(|(pid, _)| pid));
        next += 1;
    }
    family.split_off(1)
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The numbers of `/proc/PID/stat` from the state on, which is the third.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// The letter of a process's state, if there is such a process: `S` sleeps, `Z` has ended and not been waited for.
pub fn state_of(pid: u32) -> Option<char> {
    stat(pid)?.first()?.chars().next()
}

/// CPU time that a process has used, in hundredths of a second.
pub fn cpu_ticks(pid: u32) -> Option<u64> {
    let stat = stat(pid)?;
    let field = |place: usize| stat.get(place)?.parse::<u64>().ok();
    Some(field(11)? + field(12)?)
}

/// How many threads a process has.
pub fn threads(pid: u32) -> Option<usize> {
    Some(fs::read_dir(format!("/proc/{pid}/task")).ok()?.count())
}

/// Resident memory of a process, in KiB.
pub fn rss_kib(pid: u32) -> Option<u64> {
    memory(pid, "VmRSS:")
}

/// What of it is its own: neither read from a file nor shared.
pub fn own_kib(pid: u32) -> Option<u64> {
    memory(pid, "RssAnon:")
}

fn memory(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// How many descriptors a process has open.
pub fn descriptors(pid: u32) -> Option<usize> {
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
}

/// The file that a process executes.
pub fn executable(pid: u32) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// What `ps` shows of a process.
pub fn title(pid: u32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
    Some(text.trim_end().to_owned())
}
