//! Executing another program in place: the same process, with the same children and those descriptors that are named.

use std::ffi::{CStr, CString, OsStr, OsString, c_char};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::FdFlags;

/// Another program that this process is to become: with the arguments that this one was started with, its own environment but
/// for what is changed here, and of the descriptors only standard input, output and error and those that are kept.
///
/// Children remain children. Blocked signals remain blocked, and those that wait remain waiting: a new [`crate::SignalFd`] finds
/// them.
#[derive(Debug)]
pub struct Replacement<'fd> {
    program: BorrowedFd<'fd>,
    environment: Vec<(OsString, OsString)>,
    kept: Vec<BorrowedFd<'fd>>,
}

impl<'fd> Replacement<'fd> {
    /// Begins with the open file of a program.
    pub fn new(program: BorrowedFd<'fd>) -> Self {
        Self { program, environment: std::env::vars_os().collect(), kept: Vec::new() }
    }

    /// Takes a variable out of the environment.
    pub fn without_variable(mut self, name: &str) -> Self {
        self.environment.retain(|(key, _)| key != OsStr::new(name));
        self
    }

    /// Sets an environment variable.
    pub fn variable(self, name: &str, value: impl Into<OsString>) -> Self {
        let mut this = self.without_variable(name);
        this.environment.push((name.into(), value.into()));
        this
    }

    /// Keeps a descriptor, which has the same number in the new program; returns that number.
    pub fn keep(&mut self, fd: BorrowedFd<'fd>) -> RawFd {
        self.kept.push(fd);
        fd.as_raw_fd()
    }

    /// Becomes the program. Only for a process with a single thread: others would just end. Returns only when that fails, and
    /// then everything is as it was.
    pub fn execute(self) -> io::Error {
        let result = self.prepare();
        for fd in &self.kept {
            let _ = rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC);
        }
        match result {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    fn prepare(&self) -> io::Result<std::convert::Infallible> {
        let mut arguments = Vec::new();
        for argument in std::env::args_os() {
            arguments.push(CString::new(argument.as_bytes())?);
        }
        let mut environment = Vec::new();
        for (key, value) in &self.environment {
            environment.push(CString::new([key.as_bytes(), b"=", value.as_bytes()].concat())?);
        }
        for fd in &self.kept {
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        }
        let (arguments, environment) = (pointers(&arguments), pointers(&environment));
        let empty: &CStr = c"";
        // SAFETY: both lists end with a null pointer and point to strings that outlive the call; the descriptor is open. It
        // returns only when it has failed, and has changed nothing then.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                self.program.as_raw_fd(),
                empty.as_ptr(),
                arguments.as_ptr(),
                environment.as_ptr(),
                libc::c_long::from(libc::AT_EMPTY_PATH),
            );
        }
        Err(io::Error::last_os_error())
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Whether a process runs the program in that file, as its device and inode say; `false` for a process that has gone or that
/// this one may not look at.
pub fn same_program(pid: u32, program: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let of = |path: &Path| path.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    match (of(Path::new(&format!("/proc/{pid}/exe"))), of(program)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_is_no_program_changes_nothing() {
        let file = tempfile::tempfile().unwrap();
        let kept = std::fs::File::open("/dev/null").unwrap();
        let mut replacement = Replacement::new(file.as_fd()).variable("SYS_EXECUTE", "1");
        assert_eq!(replacement.keep(kept.as_fd()), kept.as_raw_fd());
        assert_eq!(replacement.execute().kind(), io::ErrorKind::PermissionDenied);
        assert!(rustix::io::fcntl_getfd(&kept).unwrap().contains(FdFlags::CLOEXEC));
        assert!(std::env::var_os("SYS_EXECUTE").is_none());
    }

    #[test]
    fn this_process_runs_this_program() {
        let ours = std::env::current_exe().unwrap();
        assert!(same_program(std::process::id(), &ours));
        assert!(!same_program(std::process::id(), Path::new("/bin/sh")));
        assert!(!same_program(u32::MAX, &ours));
    }
}
