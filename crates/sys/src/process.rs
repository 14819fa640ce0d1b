//! This process and its children.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, WaitId, WaitIdOptions, WaitOptions};

use crate::Signal;

/// A child process, named by a pidfd: signals and waits can reach no other, whatever becomes of its number.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    fd: OwnedFd,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this status.
    Exit(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Ended {
    /// Whether it ended by SIGKILL or SIGTERM: somebody ended it, and it is not to blame.
    pub fn is_killed(self) -> bool {
        matches!(self, Self::Signal(libc::SIGKILL | libc::SIGTERM))
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exit(status) => write!(f, "exit status {status}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

impl Process {
    /// Takes charge of a child that has not been waited for.
    pub(crate) fn of_child(pid: i32) -> io::Result<Self> {
        let number = Pid::from_raw(pid).ok_or_else(|| io::Error::other("process id zero"))?;
        let fd = rustix::process::pidfd_open(number, PidfdFlags::empty())?;
        Ok(Self { pid: pid.unsigned_abs(), fd })
    }

    /// Takes charge of a child that this process had before it executed another program (see [`crate::Replacement`]). Nobody may
    /// have waited for it yet: only then is the number surely still its own, even if it has ended meanwhile.
    pub fn adopt(pid: u32) -> io::Result<Self> {
        Self::of_child(i32::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?)
    }

    /// Its process id, for people and for logs.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal. One that has ended already is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.fd, named(signal)) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// How it ended, if it has; never waits, and says so only once. The descriptor is readable from then on.
    pub fn ended(&self) -> io::Result<Option<Ended>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = rustix::io::retry_on_intr(|| {
            rustix::process::waitid(WaitId::PidFd(self.fd.as_fd()), options)
        })?;
        Ok(status.and_then(|status| {
            let exit = status.exit_status().map(Ended::Exit);
            exit.or(status.terminating_signal().map(Ended::Signal))
        }))
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn named(signal: Signal) -> rustix::process::Signal {
    match signal {
        Signal::Terminate => rustix::process::Signal::TERM,
        Signal::Interrupt => rustix::process::Signal::INT,
        Signal::Hangup => rustix::process::Signal::HUP,
        Signal::Upgrade => rustix::process::Signal::USR2,
        Signal::Child => rustix::process::Signal::CHILD,
        Signal::Kill => rustix::process::Signal::KILL,
    }
}

/// Sends a signal to a process by its number; only for processes that are no children of ours.
pub fn send_signal(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(rustix::process::kill_process(pid, named(signal))?)
}

/// Takes one child of this process that has ended, whichever: orphans too, for a subreaper. `Ok(None)`: there are children and
/// none has ended. An error of kind `NotFound`: there is no child left.
pub fn reap_any() -> io::Result<Option<(u32, Ended)>> {
    match rustix::io::retry_on_intr(|| rustix::process::wait(WaitOptions::NOHANG)) {
        Ok(None) => Ok(None),
        Ok(Some((pid, status))) => {
            let exit = status.exit_status().map(Ended::Exit);
            let ended = exit.or(status.terminating_signal().map(Ended::Signal));
            Ok(ended.map(|ended| (pid.as_raw_nonzero().get().unsigned_abs(), ended)))
        }
        Err(rustix::io::Errno::CHILD) => Err(io::ErrorKind::NotFound.into()),
        Err(error) => Err(error.into()),
    }
}

/// Makes orphans among this process's descendants its children, so that none outlives it unseen.
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Names this process as `ps -o comm` shows it; what is over 15 bytes is cut off.
pub fn name_process(name: &str) -> io::Result<()> {
    let short: Vec<u8> = name.bytes().filter(|byte| *byte != 0).take(15).collect();
    let name = CString::new(short).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(rustix::thread::set_name(&name)?)
}

/// Raises the limit of open files as far as this process may, and returns it.
pub fn raise_open_files() -> io::Result<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        rustix::process::setrlimit(Resource::Nofile, raised)?;
    }
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// The processor time this thread has used.
pub fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Takes over a descriptor that this process was started with, and makes it close-on-exec. Fails if it is not open. Each
/// number may be taken once, and only one that the starter handed over.
pub fn take_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a standard descriptor"));
    }
    // SAFETY: F_SETFD changes no memory; on a number that is not open it fails with EBADF.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and by this function's contract nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Binds a Unix listening socket whose file has exactly this mode (its low nine bits) from its first moment on: nothing is
/// changed by its path afterwards, which somebody might have put something else under. Swaps this process's file mode mask for the
/// moment, so another thread that makes files meanwhile gets them with the mode it asked for.
pub fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The kernel gives the socket's file the mode that the socket itself has at this moment.
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode & 0o777))?;
    let address = SocketAddrUnix::new(path)?;
    let mask = rustix::process::umask(Mode::empty());
    let bound = rustix::net::bind(&fd, &address);
    rustix::process::umask(mask);
    bound?;
    rustix::net::listen(&fd, LISTEN_BACKLOG)?;
    Ok(UnixListener::from(fd))
}

/// Opens a directory itself: not what a symbolic link of that name leads to.
pub fn open_directory(path: &Path) -> io::Result<std::fs::File> {
    use rustix::fs::OFlags;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// Takes the next connection of a listening TCP socket, non-blocking and close-on-exec; never waits if the socket does not.
pub fn accept_tcp(listener: impl AsFd) -> io::Result<(std::net::TcpStream, std::net::SocketAddr)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (fd, address) = rustix::net::acceptfrom_with(listener, flags)?;
    let address = address.and_then(|address| std::net::SocketAddr::try_from(address).ok());
    let address = address.ok_or(io::ErrorKind::ConnectionAborted)?;
    Ok((fd.into(), address))
}

/// Takes the next connection of a listening Unix socket, as [`accept_tcp`] does.
pub fn accept_unix(listener: impl AsFd) -> io::Result<std::os::unix::net::UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::accept_with(listener, flags)?.into())
}

/// Connects to a named socket without waiting: `WouldBlock` when too many wait there already.
pub fn connect_unix(path: &Path) -> io::Result<std::os::unix::net::UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
    Ok(fd.into())
}

/// Lets a TCP socket, or every connection that is accepted from a listening one, send what is written at once (TCP_NODELAY).
pub fn send_at_once(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_tcp_nodelay(socket, true)?)
}

/// How a TCP connection notices that its peer has gone without a word. Whole seconds count.
#[derive(Debug, Clone, Copy)]
pub struct PeerWatch {
    /// The peer is asked for a sign of life after so long without one (TCP_KEEPIDLE) …
    pub after: Duration,
    /// … and again so often (TCP_KEEPINTVL).
    pub every: Duration,
    /// The connection ends when what was sent, or asked so, is unanswered for so long (TCP_USER_TIMEOUT, RFC 5482).
    pub dead_after: Duration,
}

/// Sets how a TCP connection notices that its peer has gone.
pub fn watch_peer(socket: impl AsFd, watch: &PeerWatch) -> io::Result<()> {
    use rustix::net::sockopt;
    let socket = socket.as_fd();
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, watch.after)?;
    sockopt::set_tcp_keepintvl(socket, watch.every)?;
    let dead_after = u32::try_from(watch.dead_after.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(socket, dead_after)?)
}

/// Connections that may wait to be accepted; the kernel lowers it to net.core.somaxconn.
const LISTEN_BACKLOG: i32 = 4096;

/// Makes a listening TCP socket that does not block: with SO_REUSEADDR, for IPv6 alone when the address is of IPv6, and with
/// a long backlog.
pub fn listen_tcp(address: std::net::SocketAddr) -> io::Result<std::net::TcpListener> {
    listen_on(address, true)
}

/// Makes a listening TCP socket as [`listen_tcp`] does, for all addresses of this host, of IPv6 and IPv4; of IPv4 alone where there is no
/// IPv6.
pub fn listen_tcp_everywhere(port: u16) -> io::Result<std::net::TcpListener> {
    match listen_on((std::net::Ipv6Addr::UNSPECIFIED, port).into(), false) {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            listen_on((std::net::Ipv4Addr::UNSPECIFIED, port).into(), false)
        }
        listener => listener,
    }
}

fn listen_on(address: std::net::SocketAddr, v6_only: bool) -> io::Result<std::net::TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    rustix::net::sockopt::set_socket_reuseaddr(&fd, true)?;
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&fd, v6_only)?;
    }
    rustix::net::bind(&fd, &address)?;
    rustix::net::listen(&fd, LISTEN_BACKLOG)?;
    Ok(std::net::TcpListener::from(fd))
}
