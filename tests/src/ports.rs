//! Ports of 127.0.0.1 that no other test of this machine takes.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

/// Below the range from which the kernel gives ports to clients.
const FIRST: u16 = 20_000;
const LAST: u16 = 31_999;

/// A port that is ours until this is dropped.
#[derive(Debug)]
pub struct Port {
    /// Its number.
    pub number: u16,
    _lock: File,
}

/// Takes a port that nobody listens on and no other test has taken. Each is a file under a lock, which a test's death frees.
pub fn free_port() -> Port {
    let registry = std::env::temp_dir().join("grange-test-ports");
    std::fs::create_dir_all(&registry).expect("the port registry can be made");
    let count = u32::from(LAST - FIRST) + 1;
    // Where the search begins does not matter; that two tests begin in different places saves them time.
    let start = std::process::id().wrapping_mul(37) % count;
    for step in 0..count {
        let number = FIRST + u16::try_from((start + step) % count).expect("the range has so many");
        let lock =
            File::create(registry.join(number.to_string())).expect("a lock file can be made");
        if lock.try_lock().is_ok() && nobody_listens(number) {
            return Port { number, _lock: lock };
        }
    }
    panic!("no port from {FIRST} to {LAST} is free");
}

/// Whether the port could be listened on. It is not listened on to find out: a process that another thread is starting holds a copy of
/// every socket until it runs its program, and so would keep whoever wants the port next from it.
fn nobody_listens(port: u16) -> bool {
    let look = || {
        let socket =
            socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    };
    look().is_ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_is_taken_while_somebody_listens() {
        let port = free_port();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number)).expect("it is free");
        assert!(!nobody_listens(port.number));
        drop(listener);
        // A process that another test starts may hold a copy for a moment.
        crate::until("nobody listens", || nobody_listens(port.number).then_some(()));
        assert_ne!(free_port().number, port.number, "one that is held is given to nobody else");
    }
}
