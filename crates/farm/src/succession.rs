//! Going on as another program: how a supervisor or a manager executes a new one in place, and how that one takes up what the
//! old one had. The process stays, so do its children, its sockets and its locks.
//!
//! ```text
//! grange upgrade ── path in run_dir/upgrade, SIGUSR2 ─▶ supervisor: rehearse, execve ─▶ (new) supervisor
//!                                                        (new) supervisor ── Upgrade + open program ─▶ managers: execve
//! ```
//!
//! What stays open is named by number in a sealed memory file. Nothing that waits to be read is lost: signals remain pending,
//! packets remain in their socketpairs, connections in their listeners' queues.

use std::fs::File;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sys::{Ended, Interest, Replacement, Signal, Spawn};

use crate::handover::{HandedTcp, MANAGER_VARIABLE};
use crate::manager::ManagerError;
use crate::notify::Notifier;

/// Names the descriptor of the memory file in which the program before says what it left.
pub(crate) const STATE_VARIABLE: &str = "GRANGE_UPGRADE_FD";
/// Set for a program that is only to say, by its exit status, whether it could begin; its value names the directories.
const REHEARSAL_VARIABLE: &str = "GRANGE_REHEARSAL";
/// The file in `run_dir` that names the program to go on as.
pub(crate) const REQUEST_FILE: &str = "upgrade";
/// Counted up when the state of a supervisor or manager, or the layout of the scoreboard, changes its meaning.
const VERSION: u32 = 1;
/// A rehearsal may take so long; everything else waits for it.
const REHEARSAL_MAX: Duration = Duration::from_secs(10);
/// The longest path that is read from the request.
const PATH_BYTES_MAX: u64 = 4096;

/// What one program leaves to the next. These fields mean the same in every version; what `state` says, only in its own.
#[derive(Serialize, Deserialize)]
struct Legacy {
    version: u32,
    /// Listeners that must stay open, whatever becomes of the rest.
    tcp: Vec<HandedTcp>,
    /// All other descriptors that were kept.
    descriptors: Vec<i32>,
    state: Box<RawValue>,
}

/// Listeners by their configured address.
pub(crate) type Listeners = Vec<(SocketAddr, TcpListener)>;

/// Takes up what the program before left, if this one was executed in place of another: its listeners, and its state if that is
/// of our version (else what it held besides is closed, and whoever was at the other ends takes it for dead). To be called once.
pub(crate) fn inherited<T: DeserializeOwned>() -> io::Result<Option<(Listeners, Option<T>)>> {
    let Some(variable) = std::env::var_os(STATE_VARIABLE) else {
        return Ok(None);
    };
    let number = variable.to_str().and_then(|text| text.parse().ok());
    let number =
        number.ok_or_else(|| io::Error::other(format!("{STATE_VARIABLE} is no number")))?;
    let memory = sys::take_descriptor(number)?;
    let legacy: Legacy = serde_json::from_slice(&sys::read_memfd(&memory)?)?;
    let mut listeners = Vec::new();
    for tcp in legacy.tcp {
        listeners.push((tcp.address, TcpListener::from(sys::take_descriptor(tcp.fd)?)));
    }
    if legacy.version == VERSION {
        match serde_json::from_str(legacy.state.get()) {
            Ok(state) => return Ok(Some((listeners, Some(state)))),
            Err(error) => tracing::error!(%error, "cannot understand the program before"),
        }
    }
    tracing::warn!(
        version = legacy.version,
        ours = VERSION,
        "the program before left what this one does not know: only listeners are taken over"
    );
    for number in legacy.descriptors {
        drop(sys::take_descriptor(number));
    }
    Ok(Some((listeners, None)))
}

/// A successor in preparation.
pub(crate) struct Succession<'fd> {
    replacement: Replacement<'fd>,
    tcp: Vec<HandedTcp>,
    descriptors: Vec<i32>,
}

impl<'fd> Succession<'fd> {
    pub(crate) fn new(program: &'fd File) -> Self {
        let replacement = Replacement::new(program.as_fd()).without_variable(MANAGER_VARIABLE);
        Self { replacement, tcp: Vec::new(), descriptors: Vec::new() }
    }

    /// Keeps a descriptor; its number is to be named in the state.
    pub(crate) fn keep(&mut self, fd: BorrowedFd<'fd>) -> i32 {
        let number = self.replacement.keep(fd);
        self.descriptors.push(number);
        number
    }

    /// Keeps a listener.
    pub(crate) fn keep_tcp(&mut self, address: SocketAddr, listener: &'fd TcpListener) {
        let fd = self.replacement.keep(listener.as_fd());
        self.tcp.push(HandedTcp { name: String::new(), address, fd });
    }

    /// Becomes the new program; returns only when that fails, and then everything is as it was.
    pub(crate) fn execute(self, state: &impl Serialize) -> io::Error {
        let memory = match self.write(state) {
            Ok(memory) => memory,
            Err(error) => return error,
        };
        let mut replacement = self.replacement;
        let number = replacement.keep(memory.as_fd());
        replacement.variable(STATE_VARIABLE, number.to_string()).execute()
    }

    fn write(&self, state: &impl Serialize) -> io::Result<OwnedFd> {
        let copy = |tcp: &HandedTcp| HandedTcp { name: String::new(), ..*tcp };
        let legacy = Legacy {
            version: VERSION,
            tcp: self.tcp.iter().map(copy).collect(),
            descriptors: self.descriptors.clone(),
            state: serde_json::value::to_raw_value(state)?,
        };
        sys::sealed_memfd("grange-upgrade", &serde_json::to_vec(&legacy)?)
    }
}

/// Opens the program that `run_dir/upgrade` asks to go on as. Only root or this process's own user may ask, and only for a program
/// that nobody else could have changed.
pub(crate) fn requested(run_dir: &Path) -> Result<File, String> {
    let path = run_dir.join(REQUEST_FILE);
    let failed = |error: io::Error| format!("cannot read {}: {error}", path.display());
    // Looked at before it is opened: opening a named pipe would wait.
    if !path.symlink_metadata().map_err(failed)?.is_file() {
        return Err(format!("{} is no file", path.display()));
    }
    let file = File::open(&path).map_err(failed)?;
    check_owner(&file, &path)?;
    let mut text = String::new();
    file.take(PATH_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    open_program(Path::new(text.trim_end_matches('\n')))
}

/// Opens a program, if it may be gone on as.
pub(crate) fn open_program(path: &Path) -> Result<File, String> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(format!("the program {shown} has no absolute path"));
    }
    let file = File::open(path).map_err(|error| format!("cannot open {shown}: {error}"))?;
    let metadata = check_owner(&file, path)?;
    if !metadata.is_file() || metadata.mode() & 0o111 == 0 {
        return Err(format!("{shown} is no program"));
    }
    Ok(file)
}

fn check_owner(file: &File, path: &Path) -> Result<std::fs::Metadata, String> {
    let shown = path.display();
    let metadata = file.metadata().map_err(|error| format!("cannot look at {shown}: {error}"))?;
    let ours = sys::effective_ids().0;
    if metadata.uid() != 0 && metadata.uid() != ours {
        return Err(format!("{shown} belongs to user {}: not used", metadata.uid()));
    }
    // A user's own group may write what the user runs; for root that would be somebody else.
    let others = if ours == 0 && metadata.gid() != 0 { 0o022 } else { 0o002 };
    if metadata.mode() & others != 0 {
        return Err(format!("{shown} may be written by others: not used (chmod go-w {shown})"));
    }
    Ok(metadata)
}

/// Where an instance is: what a new program must find unchanged.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Place {
    run_dir: PathBuf,
    data_dir: PathBuf,
}

/// Starts the program as this one was started, up to the point where it would begin to work: it runs here, and finds the
/// configuration right. Nothing else is done meanwhile, but the service manager is told that this process lives.
pub(crate) fn rehearse(
    program: &File,
    run_dir: &Path,
    data_dir: &Path,
    notifier: &mut Notifier,
) -> Result<(), String> {
    let place = Place { run_dir: run_dir.to_owned(), data_dir: data_dir.to_owned() };
    let begin = || {
        Spawn::new(std::env::args_os())
            .program(program.as_fd())
            .variable(REHEARSAL_VARIABLE, serde_json::to_string(&place)?)
            .without_variable(STATE_VARIABLE)
            .without_variable(MANAGER_VARIABLE)
            .without_variable("NOTIFY_SOCKET")
            .start()
    };
    let failed = |error: io::Error| format!("the new program cannot be executed: {error}");
    let process = begin().map_err(failed)?;
    let end = Instant::now() + REHEARSAL_MAX;
    loop {
        let now = Instant::now();
        let left = end.saturating_duration_since(now);
        let ping = notifier.ping(now).map_or(left, |next| next.saturating_duration_since(now));
        sys::poll(&mut [Interest::new(process.as_fd())], Some(left.min(ping))).map_err(failed)?;
        match process.ended().map_err(failed)? {
            Some(Ended::Exit(0)) => return Ok(()),
            Some(ended) => {
                return Err(format!("the new program would not begin: it ended with {ended}"));
            }
            None if left.is_zero() => {
                let _ = process.signal(Signal::Kill);
                let _ = sys::poll(&mut [Interest::new(process.as_fd())], Some(REHEARSAL_MAX));
                let _ = process.ended();
                return Err("the new program did not get ready to begin in time".to_owned());
            }
            None => {}
        }
    }
}

/// Whether this process is a rehearsal, and if so, what came of it: it ends at once.
pub(crate) fn rehearsal(run_dir: &Path, data_dir: &Path) -> Option<Result<(), ManagerError>> {
    let expected = std::env::var(REHEARSAL_VARIABLE).ok()?;
    let found = Place { run_dir: run_dir.to_owned(), data_dir: data_dir.to_owned() };
    Some(match serde_json::from_str::<Place>(&expected) {
        Ok(expected) if expected == found => Ok(()),
        _ => Err(ManagerError::Setup("run_dir and data_dir change only by a restart".to_owned())),
    })
}
