//! A shell that keeps a server: it ends it, and removes what it had, when the test's process is gone, however that ended.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take to answer after its start, or to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait before looking again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Starts a server and waits for its pipe: a line `keep` leaves the directory, anything else removes it.
///
/// QUIT ends PostgreSQL at once; pgbouncer, whom the shell lets ignore that, ends with TERM.
const KEEPER: &str = r#"
trap '' INT TERM HUP
dir=$1; shift
"$@" >>"$dir/log" 2>&1 </dev/null &
pid=$!
echo $pid
read -r word
kill -QUIT $pid 2>/dev/null
kill -TERM $pid 2>/dev/null
kill -CONT $pid 2>/dev/null
wait $pid
test "$word" = keep || rm -rf -- "$dir"
"#;

/// A directory below `/tmp` that belongs to whoever runs servers, and is gone when this is dropped.
pub(super) struct Home {
    dir: PathBuf,
    kept: Option<Kept>,
}

/// A server that runs.
struct Kept {
    keeper: Child,
    pid: Pid,
}

impl Home {
    pub(super) fn make() -> Self {
        let dir = tempfile::Builder::new().prefix("grange-pg-").tempdir().expect("/tmp is there");
        let dir = dir.keep();
        if let Some((uid, gid)) = other_user() {
            std::os::unix::fs::chown(&dir, Some(uid), Some(gid)).expect("root may");
        }
        Self { dir, kept: None }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the server has said.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Starts a server, and waits until `is_ready`.
    pub(super) fn start(&mut self, program: &Path, words: &[&str], is_ready: impl FnMut() -> bool) {
        assert!(self.kept.is_none(), "it runs");
        let mut command = as_other_user(Command::new("sh"));
        command.args(["-c", KEEPER, "keeper"]).arg(&self.dir).arg(program).args(words);
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
        // It would say how the server ended.
        command.stderr(Stdio::null());
        let mut keeper = command.spawn().expect("there is a shell");
        let mut line = String::new();
        let output = keeper.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut line).expect("the keeper tells");
        let pid = line.trim().parse().ok().and_then(Pid::from_raw).expect("it tells a process");
        self.kept = Some(Kept { keeper, pid });
        until(is_ready, || self.log());
    }

    /// The server's processes: itself, and those that it has started.
    pub(super) fn processes(&self) -> Vec<Pid> {
        let Some(kept) = &self.kept else { return Vec::new() };
        let path = format!("/proc/{0}/task/{0}/children", kept.pid.as_raw_nonzero());
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let children = text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        [kept.pid].into_iter().chain(children).collect()
    }

    /// Sends a signal to the server, or to all its processes.
    pub(super) fn signal(&self, processes: &[Pid], signal: Signal) {
        for process in processes {
            // One that has ended already needs none.
            let _ = kill_process(*process, signal);
        }
    }

    /// Waits until the server, which was told to, has ended; its directory stays.
    pub(super) fn ended(&mut self, is_gone: impl FnMut() -> bool) {
        let Some(mut kept) = self.kept.take() else { return };
        until(is_gone, || self.log());
        let mut pipe = kept.keeper.stdin.take().expect("it is piped");
        pipe.write_all(b"keep\n").expect("the keeper reads");
        kept.keeper.wait().expect("the keeper ends");
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.signal(&self.processes(), Signal::CONT);
        match self.kept.take() {
            Some(mut kept) => {
                drop(kept.keeper.stdin.take());
                drop(kept.keeper.wait());
            }
            None => drop(std::fs::remove_dir_all(&self.dir)),
        }
    }
}

/// Waits until something holds.
pub(super) fn until(mut holds: impl FnMut() -> bool, explain: impl Fn() -> String) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it does not come to pass: {}", explain());
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Lets a command run as whoever may run the servers.
pub(super) fn as_other_user(mut command: Command) -> Command {
    if let Some((uid, gid)) = other_user() {
        command.uid(uid).gid(gid);
    }
    command
}

/// Whom servers run as when we are root, which they refuse to be: `postgres`, or `nobody`.
pub fn other_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("there are users");
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(find("postgres").or_else(|| find("nobody")).expect("there is a user for it"))
}
