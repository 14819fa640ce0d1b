//! A timer of the kernel's, for waits shorter than an event loop's own timers can tell apart.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A timer that goes off once for each time it is set; its descriptor is readable then.
#[derive(Debug)]
pub struct Timer {
    fd: OwnedFd,
}

impl Timer {
    /// Makes one that is not set.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self { fd: timerfd_create(TimerfdClockId::Monotonic, flags)? })
    }

    /// Has it go off after a time, in place of what it was set to; a time of zero is a nanosecond.
    pub fn set(&self, after: Duration) -> io::Result<()> {
        let after = after.max(Duration::from_nanos(1));
        let value = Timespec::try_from(after).map_err(|_| io::ErrorKind::InvalidInput)?;
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    /// Takes note that it went off, so that its descriptor is no longer readable; `WouldBlock` when it did not.
    pub fn clear(&self) -> io::Result<()> {
        rustix::io::read(&self.fd, &mut [0; 8])?;
        Ok(())
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Interest, is_readable, poll};

    #[test]
    fn goes_off_once() {
        let timer = Timer::new().unwrap();
        assert_eq!(timer.clear().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        timer.set(Duration::from_micros(100)).unwrap();
        let mut interests = [Interest::new(timer.as_fd())];
        assert_eq!(poll(&mut interests, Some(Duration::from_secs(60))).unwrap(), 1);
        timer.clear().unwrap();
        assert!(!is_readable(&timer));
    }
}
