//! Running other programs: with their output shown, read, or kept until it is wanted.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Failure, root};

/// A `cargo` command, run in the repository's root by the cargo that runs us.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs a command with its output shown; says whether it succeeded.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool, Failure> {
    println!("$ {}", shown(command));
    let status =
        command.status().map_err(|error| format!("cannot run {}: {error}", shown(command)))?;
    Ok(status.success())
}

/// Runs a command and hands each line of its standard output to `on_line` as it comes; says whether it succeeded.
pub(crate) fn lines(command: &mut Command, mut on_line: impl FnMut(&str)) -> Result<bool, Failure> {
    println!("$ {}", shown(command));
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run {}: {error}", shown(command)))?;
    if let Some(stdout) = child.stdout.take() {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            on_line(String::from_utf8_lossy(&line).trim_end());
            line.clear();
        }
    }
    Ok(child.wait()?.success())
}

/// Runs a command and gives its standard output; its failure is ours.
pub(crate) fn output(command: &mut Command) -> Result<String, Failure> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run {}: {error}", shown(command)))?;
    if !output.status.success() {
        return Err(format!("{} ended with {}", shown(command), output.status).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where cargo puts what it builds, whatever environment and configuration say of it.
pub(crate) fn target_dir() -> Result<PathBuf, Failure> {
    let metadata =
        output(&mut cargo(&["metadata", "--format-version", "1", "--no-deps", "--offline"]))?;
    let (_, rest) = metadata
        .split_once("\"target_directory\":\"")
        .ok_or("cargo metadata does not tell the target directory")?;
    let (path, _) = rest.split_once('"').ok_or("cargo metadata is cut short")?;
    Ok(PathBuf::from(path))
}

/// Where a program stands: in `PATH`, or in the folders of system programs, which a user's `PATH` often lacks.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Whether we run as root, as the kernel says.
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| {
        line.strip_prefix("Uid:").is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0"))
    })
}

/// A child that ends with its owner: asked by SIGTERM, killed if it does not listen.
pub(crate) struct Guarded {
    child: Child,
    name: &'static str,
}

impl Guarded {
    /// Starts a child.
    pub(crate) fn spawn(name: &'static str, command: &mut Command) -> Result<Self, Failure> {
        let child =
            command.spawn().map_err(|error| format!("cannot run {}: {error}", shown(command)))?;
        Ok(Self { child, name })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Closes its standard input and waits for its end, which that brings about.
    pub(crate) fn finish(&mut self) -> Result<(), Failure> {
        let status = self.child.wait()?;
        match status.success() {
            true => Ok(()),
            false => Err(format!("{} ended with {status}", self.name).into()),
        }
    }

    /// The child's standard output, once.
    pub(crate) fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// An error if it has ended, which it should not have yet.
    pub(crate) fn alive(&mut self) -> Result<(), Failure> {
        match self.child.try_wait()? {
            Some(status) => Err(format!("{} ended early with {status}", self.name).into()),
            None => Ok(()),
        }
    }

    /// Asks it to end and waits until it has, so long at most; says how long that took.
    pub(crate) fn stop(&mut self, longest: Duration) -> Result<Duration, Failure> {
        let begun = Instant::now();
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status()?;
        while begun.elapsed() < longest {
            if self.child.try_wait()?.is_some() {
                return Ok(begun.elapsed());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(format!("{} does not end when asked", self.name).into())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let has_ended = matches!(self.child.try_wait(), Ok(Some(_)));
        if has_ended || self.stop(Duration::from_secs(15)).is_ok() {
            return;
        }
        eprintln!("xtask: {} does not end when asked; killing it", self.name);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}
