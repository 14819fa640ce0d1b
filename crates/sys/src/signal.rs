//! Signals as a descriptor to poll.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The signals that farms know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Stop: SIGTERM.
    Terminate,
    /// Stop, from a terminal: SIGINT.
    Interrupt,
    /// Reload: SIGHUP.
    Hangup,
    /// Go on as another program: SIGUSR2.
    Upgrade,
    /// A child has ended: SIGCHLD.
    Child,
    /// End at once: SIGKILL; only to be sent.
    Kill,
}

impl Signal {
    pub(crate) fn raw(self) -> i32 {
        match self {
            Self::Terminate => libc::SIGTERM,
            Self::Interrupt => libc::SIGINT,
            Self::Hangup => libc::SIGHUP,
            Self::Upgrade => libc::SIGUSR2,
            Self::Child => libc::SIGCHLD,
            Self::Kill => libc::SIGKILL,
        }
    }

    fn from_raw(raw: u32) -> Option<Self> {
        [Self::Terminate, Self::Interrupt, Self::Hangup, Self::Upgrade, Self::Child]
            .into_iter()
            .find(|signal| u32::try_from(signal.raw()) == Ok(raw))
    }
}

/// Signals that are blocked in this process and read from here instead.
#[derive(Debug)]
pub struct SignalFd {
    fd: OwnedFd,
}

impl SignalFd {
    /// Blocks the signals for this thread, and for those it starts from now on: call it before there is another thread, or
    /// a signal may end the process through that one.
    pub fn new(signals: &[Signal]) -> io::Result<Self> {
        let mut set: libc::sigset_t = empty_set();
        for signal in signals {
            // SAFETY: `set` is an initialised signal set of ours and the number is a valid signal's.
            unsafe { libc::sigaddset(&raw mut set, signal.raw()) };
        }
        // SAFETY: `set` is initialised and outlives both calls; no old mask is asked for.
        let blocked =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if blocked != 0 {
            return Err(io::Error::from_raw_os_error(blocked));
        }
        // SAFETY: `set` is initialised; -1 asks for a new descriptor.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nobody else has it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// The next signal that has come, if any.
    pub fn take(&self) -> io::Result<Option<Signal>> {
        loop {
            let mut record = [0u8; size_of::<libc::signalfd_siginfo>()];
            match rustix::io::read(&self.fd, &mut record[..]) {
                Ok(length) if length == record.len() => {}
                Ok(_) => return Ok(None),
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            // The record begins with the signal's number (signalfd(2)).
            let number = u32::from_ne_bytes([record[0], record[1], record[2], record[3]]);
            if let Some(signal) = Signal::from_raw(number) {
                return Ok(Some(signal));
            }
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for SignalFd {
    fn as_raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

pub(crate) fn empty_set() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the whole set and cannot fail on a valid pointer.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read_from_the_descriptor() {
        let signals = SignalFd::new(&[Signal::Hangup]).unwrap();
        assert_eq!(signals.take().unwrap(), None);
        // SAFETY: raises a signal that is blocked in this very thread.
        unsafe { libc::raise(libc::SIGHUP) };
        assert_eq!(signals.take().unwrap(), Some(Signal::Hangup));
        assert_eq!(signals.take().unwrap(), None);
    }
}
