//! Arming the fault points of the program under test, which is built with them (`grange`'s feature `faults`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::until;

/// The directory of armed points of a site. The points themselves, and what may be done at them, are described in
/// `crates/sys/src/fault.rs`.
#[derive(Debug, Clone)]
pub struct Faults {
    folder: PathBuf,
}

/// A point that struck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fired {
    /// The point.
    pub point: String,
    /// What was done there.
    pub action: String,
    /// By which process, to itself.
    pub pid: u32,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

impl Faults {
    /// Where the armed points of a site in `folder` are.
    pub(crate) fn folder_in(folder: &Path) -> PathBuf {
        folder.join("faults")
    }

    /// Makes the directory; programs that are started afterwards look there.
    pub(crate) fn new(folder: PathBuf) -> Self {
        let open = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
        };
        if !folder.is_dir() {
            fs::create_dir(&folder).expect("a directory of our own");
            // Workers of any user disarm points.
            open(&folder, 0o777);
            fs::write(folder.join("fired"), "").expect("a file of our own");
            open(&folder.join("fired"), 0o666);
        }
        Self { folder }
    }

    /// Whoever comes by `point` next does this: `kill`, `stop`, `abort`, a system error; with ` always` behind it, everyone until
    /// it is disarmed.
    pub fn arm(&self, point: &str, action: &str) {
        // Seen whole or not at all.
        let (aside, path) = (self.folder.join(".aside"), self.folder.join(point));
        fs::write(&aside, action).expect("a file of our own");
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o644)).expect("our own file");
        fs::rename(&aside, &path).expect("a file of our own");
    }

    /// Takes a point back; says whether it was still armed.
    pub fn disarm(&self, point: &str) -> bool {
        fs::remove_file(self.folder.join(point)).is_ok()
    }

    /// Whether a point has not struck yet.
    pub fn is_armed(&self, point: &str) -> bool {
        self.folder.join(point).try_exists().expect("our own directory")
    }

    /// Whoever takes a job of a message of this sender in this stage aborts.
    pub fn poison(&self, stage: &str, sender: &str) {
        self.arm(&format!("poison.{stage}"), sender);
    }

    /// What struck so far, in order.
    pub fn fired(&self) -> Vec<Fired> {
        let text = fs::read_to_string(self.folder.join("fired")).expect("our own file");
        let parse = |line: &str| {
            let mut words = line.split(' ');
            let (point, action) = (words.next()?.to_owned(), words.next()?.to_owned());
            let (pid, at_ms) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            Some(Fired { point, action, pid, at_ms })
        };
        let fired = |line| parse(line).unwrap_or_else(|| panic!("not a line of fired: {line}"));
        text.lines().map(fired).collect()
    }

    /// Waits until a point has struck so often, and gives the last time.
    pub fn wait(&self, point: &str, times: usize) -> Fired {
        until(&format!("{point} strikes {times} times (is the program built with faults?)"), || {
            let fired = self.fired().into_iter().filter(|fired| fired.point == point);
            fired.collect::<Vec<_>>().get(times - 1).cloned()
        })
    }
}
