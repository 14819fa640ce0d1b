//! Waiting for descriptors, without a runtime.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// A descriptor waited for, and after [`poll`], whether it may be read or has hung up.
#[derive(Debug)]
pub struct Interest<'fd> {
    fd: BorrowedFd<'fd>,
    /// Set by [`poll`]: reading will not wait (there is data, an end, or an error).
    pub readable: bool,
}

impl<'fd> Interest<'fd> {
    /// Waits for a descriptor to become readable.
    pub fn new(fd: BorrowedFd<'fd>) -> Self {
        Self { fd, readable: false }
    }
}

/// Waits until one of the descriptors is readable or the time has passed; without a time, for ever. Returns how many are.
pub fn poll(interests: &mut [Interest<'_>], timeout: Option<Duration>) -> io::Result<usize> {
    let timeout = timeout.map(|time| Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    });
    let mut polled: Vec<PollFd<'_>> = interests
        .iter()
        .map(|interest| PollFd::from_borrowed_fd(interest.fd, PollFlags::IN))
        .collect();
    let count = match rustix::event::poll(&mut polled, timeout.as_ref()) {
        Ok(count) => count,
        Err(Errno::INTR) => 0,
        Err(error) => return Err(error.into()),
    };
    let flags: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
    for (interest, flags) in interests.iter_mut().zip(flags) {
        interest.readable = !flags.is_empty();
    }
    Ok(count)
}

/// Whether reading, or accepting, will not wait at this moment.
pub fn is_readable(fd: impl AsFd) -> bool {
    looks(fd.as_fd(), PollFlags::IN)
}

/// Whether the other end of a stream socket has closed or the connection has failed, as the kernel knows at this moment.
pub fn hung_up(socket: impl AsFd) -> bool {
    looks(socket.as_fd(), PollFlags::RDHUP)
}

fn looks(fd: BorrowedFd<'_>, flags: PollFlags) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(fd, flags)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut polled, Some(&now)) {
        Ok(_) => polled.iter().any(|polled| !polled.revents().is_empty()),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn tells_which_is_readable() {
        let (one, mut two) = UnixStream::pair().unwrap();
        let (three, _four) = UnixStream::pair().unwrap();
        two.write_all(b"x").unwrap();
        let mut interests = [Interest::new(three.as_fd()), Interest::new(one.as_fd())];
        assert_eq!(poll(&mut interests, Some(Duration::ZERO)).unwrap(), 1);
        assert!(!interests[0].readable && interests[1].readable);
    }

    #[test]
    fn a_closed_peer_has_hung_up() {
        let (one, two) = UnixStream::pair().unwrap();
        assert!(!hung_up(&one));
        assert!(!is_readable(&one));
        drop(two);
        assert!(hung_up(&one) && is_readable(&one));
    }
}
