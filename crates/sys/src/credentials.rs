//! Who is at the other end of a Unix socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The peer of a Unix socket, as the kernel recorded it when the connection was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its process id; 0 when it is outside our pid namespace.
    pub pid: u32,
    /// Its effective user id.
    pub uid: u32,
    /// Its effective group id, then its supplementary groups.
    pub gids: Vec<u32>,
}

/// The most supplementary groups the kernel allows (NGROUPS_MAX).
const GROUPS_MAX: usize = 65_536;

/// Says who is at the other end of a connected Unix socket (SO_PEERCRED and SO_PEERGROUPS).
pub fn peer_identity(socket: impl AsFd) -> io::Result<PeerIdentity> {
    let socket = socket.as_fd();
    let mut credentials = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `credentials`, which outlives the call; the kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut gids = vec![credentials.gid];
    gids.extend(peer_groups(socket.as_raw_fd())?);
    Ok(PeerIdentity {
        pid: u32::try_from(credentials.pid).unwrap_or(0),
        uid: credentials.uid,
        gids,
    })
}

fn peer_groups(socket: i32) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    loop {
        let mut length = (groups.len() * size_of::<u32>()) as libc::socklen_t;
        // SAFETY: the pointer and the length describe `groups`, which outlives the call; the kernel writes at most `length` bytes.
        let result = unsafe {
            libc::getsockopt(
                socket,
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result == 0 {
            groups.truncate(length as usize / size_of::<u32>());
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || groups.len() >= GROUPS_MAX {
            return Err(error);
        }
        groups.resize(GROUPS_MAX, 0);
    }
}

/// The effective user and group of this process.
pub fn effective_ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socketpair_shows_ourselves() {
        let (one, _two) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = peer_identity(&one).unwrap();
        let (uid, gid) = effective_ids();
        assert_eq!((peer.pid, peer.uid), (std::process::id(), uid));
        assert_eq!(peer.gids.first(), Some(&gid));
    }
}
