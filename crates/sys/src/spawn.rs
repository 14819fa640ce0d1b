//! Fork and exec, with everything that the child shall have and nothing else.

use std::ffi::{CString, OsStr, OsString, c_char};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use rustix::io::FdFlags;

use crate::Process;

/// The first descriptor handed to a child: after standard input, output and error.
const FIRST: RawFd = 3;

/// A process to be started from this very program (`/proc/self/exe`), so that there is no version skew after a package was
/// replaced.
///
/// The child gets the arguments, the environment and the descriptors named here and nothing else: standard input is
/// `/dev/null`, output and error are ours, the signal mask is empty, every signal has its default action, and it leads a
/// process group of its own (so that a terminal's Ctrl-C reaches only the one who started us).
#[derive(Debug)]
pub struct Spawn<'fd> {
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    descriptors: Vec<BorrowedFd<'fd>>,
    identity: Option<(u32, u32)>,
    program: Option<BorrowedFd<'fd>>,
}

impl<'fd> Spawn<'fd> {
    /// Starts with the program's name and arguments, as `ps` shows them.
    pub fn new<A: Into<OsString>>(arguments: impl IntoIterator<Item = A>) -> Self {
        Self {
            arguments: arguments.into_iter().map(Into::into).collect(),
            environment: std::env::vars_os().collect(),
            descriptors: Vec::new(),
            identity: None,
            program: None,
        }
    }

    /// Executes this open file instead of our own program.
    pub fn program(mut self, program: BorrowedFd<'fd>) -> Self {
        self.program = Some(program);
        self
    }

    /// Takes a variable out of the environment, which otherwise is our own.
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

    /// Hands a descriptor over; returns the number that it will have in the child.
    pub fn descriptor(&mut self, fd: BorrowedFd<'fd>) -> RawFd {
        self.descriptors.push(fd);
        FIRST + self.descriptors.len() as RawFd - 1
    }

    /// Makes the child this user and group, without supplementary groups, and for ever without new privileges.
    pub fn identity(mut self, identity: Option<(u32, u32)>) -> Self {
        self.identity = identity;
        self
    }

    /// Starts the process. An error between fork and exec, such as a user that may not be taken, is reported here too.
    pub fn start(self) -> io::Result<Process> {
        let plan = Plan::new(&self)?;
        let (mut reader, writer) = pipe_above(plan.above)?;
        // SAFETY: between fork and exec the child runs only `Plan::execute`, which makes nothing but async-signal-safe calls on
        // memory prepared before the fork; it never returns.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        if pid == 0 {
            // SAFETY: this is the child, alone in its address space, and `plan` is whole.
            unsafe { plan.execute(writer.as_raw_fd()) }
        }
        drop(writer);
        let process = Process::of_child(pid)?;
        let mut code = [0u8; 4];
        match reader.read_exact(&mut code) {
            // The pipe was closed by a successful exec.
            Err(_) => Ok(process),
            Ok(()) => {
                let _ = rustix::process::waitid(
                    rustix::process::WaitId::PidFd(process.as_fd()),
                    rustix::process::WaitIdOptions::EXITED,
                );
                Err(io::Error::from_raw_os_error(i32::from_ne_bytes(code)))
            }
        }
    }
}

/// Everything the child needs, laid out before the fork, since it may not allocate after.
struct Plan {
    /// An open file, or else `/proc/self/exe`.
    program: Option<OwnedFd>,
    null: OwnedFd,
    /// Copies of the descriptors, all above the numbers that they will get: no copying can overwrite one still needed.
    sources: Vec<OwnedFd>,
    /// The first number not handed over.
    above: RawFd,
    identity: Option<(u32, u32)>,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    _strings: Vec<CString>,
}

impl Plan {
    fn new(spawn: &Spawn<'_>) -> io::Result<Self> {
        let above = FIRST + spawn.descriptors.len() as RawFd;
        let mut sources = Vec::with_capacity(spawn.descriptors.len());
        for fd in &spawn.descriptors {
            // Two above: `above` itself is where the child moves its error pipe.
            sources.push(rustix::io::fcntl_dupfd_cloexec(fd, above + 1)?);
        }
        let null = File::options().read(true).open("/dev/null")?;
        let null = rustix::io::fcntl_dupfd_cloexec(&null, above + 1)?;
        let mut strings = Vec::new();
        for argument in &spawn.arguments {
            strings.push(CString::new(argument.as_bytes())?);
        }
        for (key, value) in &spawn.environment {
            let mut entry = key.as_bytes().to_vec();
            entry.push(b'=');
            entry.extend_from_slice(value.as_bytes());
            strings.push(CString::new(entry)?);
        }
        let pointers: Vec<*const c_char> = strings.iter().map(|string| string.as_ptr()).collect();
        let (arguments, environment) = pointers.split_at(spawn.arguments.len());
        let ended = |list: &[*const c_char]| {
            list.iter().copied().chain([std::ptr::null()]).collect::<Vec<_>>()
        };
        Ok(Self {
            program: spawn
                .program
                .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, above + 1))
                .transpose()?,
            null,
            sources,
            above,
            identity: spawn.identity,
            arguments: ended(arguments),
            environment: ended(environment),
            _strings: strings,
        })
    }

    /// Becomes the new program, or writes the error's number to the pipe and exits.
    ///
    /// # Safety
    ///
    /// Only in a freshly forked child.
    unsafe fn execute(&self, error_pipe: RawFd) -> ! {
        // SAFETY: only async-signal-safe calls on prepared memory, see each below.
        unsafe {
            let (pipe, code) = match libc::dup3(error_pipe, self.above, libc::O_CLOEXEC) {
                moved if moved < 0 => (error_pipe, errno()),
                moved => (moved, self.prepare_and_exec()),
            };
            let code = code.to_ne_bytes();
            libc::write(pipe, code.as_ptr().cast(), code.len());
            libc::_exit(127)
        }
    }

    /// Returns only when something failed: errno.
    ///
    /// # Safety
    ///
    /// Only in a freshly forked child.
    unsafe fn prepare_and_exec(&self) -> i32 {
        // SAFETY: raw system calls and libc's async-signal-safe wrappers; pointers are to memory of `self`, which is whole.
        unsafe {
            if libc::dup2(self.null.as_raw_fd(), 0) < 0 {
                return errno();
            }
            for (index, source) in self.sources.iter().enumerate() {
                if libc::dup2(source.as_raw_fd(), FIRST + index as RawFd) < 0 {
                    return errno();
                }
            }
            // Closed by the exec, which itself still needs the program's file.
            let first = (self.above + 1) as libc::c_uint;
            let flags = libc::CLOSE_RANGE_CLOEXEC;
            if libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) < 0 {
                return errno();
            }
            if let Err(code) = self.take_identity() {
                return code;
            }
            libc::setpgid(0, 0);
            // SIGKILL and SIGSTOP refuse, which is as well.
            for signal in 1..=libc::SIGRTMAX() {
                libc::signal(signal, libc::SIG_DFL);
            }
            let empty = crate::signal::empty_set();
            if libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut()) < 0 {
                return errno();
            }
            let (arguments, environment) = (self.arguments.as_ptr(), self.environment.as_ptr());
            if let Some(program) = &self.program {
                let flags = libc::AT_EMPTY_PATH as libc::c_long;
                let (number, itself) = (program.as_raw_fd(), c"".as_ptr());
                libc::syscall(libc::SYS_execveat, number, itself, arguments, environment, flags);
            } else {
                libc::execve(c"/proc/self/exe".as_ptr(), arguments, environment);
            }
            errno()
        }
    }

    /// Gives up root, by raw system calls: the library's wrappers speak to other threads, of which there are none here.
    ///
    /// # Safety
    ///
    /// Only in a freshly forked child.
    unsafe fn take_identity(&self) -> Result<(), i32> {
        let Some((uid, gid)) = self.identity else {
            return Ok(());
        };
        // SAFETY: system calls without pointers, but for one to an empty list.
        unsafe {
            let nothing: *const libc::gid_t = std::ptr::null();
            if libc::syscall(libc::SYS_setgroups, 0usize, nothing) < 0
                || libc::syscall(libc::SYS_setresgid, gid, gid, gid) < 0
                || libc::syscall(libc::SYS_setresuid, uid, uid, uid) < 0
                || libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0
            {
                return Err(errno());
            }
        }
        Ok(())
    }
}

/// A close-on-exec pipe whose writing end is above `above`, so that the child can move it there.
fn pipe_above(above: RawFd) -> io::Result<(File, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let high = rustix::io::fcntl_dupfd_cloexec(&writer, above + 1)?;
    debug_assert!(rustix::io::fcntl_getfd(&high)?.contains(FdFlags::CLOEXEC));
    Ok((File::from(reader), high))
}

fn errno() -> i32 {
    // SAFETY: the location is this thread's own and always valid.
    unsafe { *libc::__errno_location() }
}

/// Closes nothing and owns nothing: only for tests of numbers.
#[cfg(test)]
fn borrowed(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: used in tests on numbers that stay open.
    unsafe { BorrowedFd::borrow_raw(number) }
}

#[cfg(test)]
mod tests;
