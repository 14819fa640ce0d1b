//! What the points do in a program built for tests of faults.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, getpid, kill_process};

/// The variable that names the directory of armed points.
const VARIABLE: &str = "GRANGE_FAULTS";
/// Behind what is to be done: again and again, as long as the file is there.
const ALWAYS: &str = " always";

fn folder() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOLDER.get_or_init(|| std::env::var_os(VARIABLE).map(PathBuf::from)).as_deref()
}

pub(super) fn point(name: &str) {
    if let Some(action) = folder().and_then(|folder| strike(folder, name)) {
        act(name, &action).unwrap_or_else(|error| panic!("{name} cannot fail with {error}"));
    }
}

pub(super) fn fallible(name: &str) -> io::Result<()> {
    folder().and_then(|folder| strike(folder, name)).map_or(Ok(()), |action| act(name, &action))
}

pub(super) fn taken(stage: &str, sender: &str) {
    let Some(folder) = folder() else { return };
    let name = format!("poison.{stage}");
    let Ok(poison) = fs::read_to_string(folder.join(&name)) else { return };
    if sender == poison.trim() {
        note(folder, &name, "abort");
        std::process::abort();
    }
}

/// What is to be done at a point, if it is armed and no other process was there first.
fn strike(folder: &Path, name: &str) -> Option<String> {
    let path = folder.join(name);
    let action = fs::read_to_string(&path).ok()?.trim().to_owned();
    let action = match action.strip_suffix(ALWAYS) {
        Some(action) => action.to_owned(),
        None => fs::remove_file(&path).ok().map(|()| action)?,
    };
    note(folder, name, &action);
    Some(action)
}

/// One write, so that lines of several processes do not mix.
fn note(folder: &Path, name: &str, action: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let line = format!("{name} {action} {} {}\n", std::process::id(), now.as_millis());
    let file = OpenOptions::new().append(true).open(folder.join("fired"));
    let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
    written.unwrap_or_else(|error| panic!("cannot tell of {name}: {error}"));
}

fn act(name: &str, action: &str) -> io::Result<()> {
    let errno = match action {
        "abort" => std::process::abort(),
        "kill" => return end(getpid(), Signal::KILL),
        "stop" => return end(getpid(), Signal::STOP),
        "EIO" => Errno::IO,
        "ENOSPC" => Errno::NOSPC,
        "EROFS" => Errno::ROFS,
        "EMFILE" => Errno::MFILE,
        "EACCES" => Errno::ACCESS,
        _ => panic!("{name} is to {action}, which nobody can"),
    };
    Err(errno.into())
}

fn end(process: Pid, signal: Signal) -> io::Result<()> {
    Ok(kill_process(process, signal)?)
}
