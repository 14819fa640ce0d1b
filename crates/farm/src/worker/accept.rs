//! Accepting evenly: the kernel would give long-lived connections to whoever is first.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use socket::{Conversation, Server};
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};

use super::control::watch;
use super::inner::{Begin, Connection, Inner};

/// A worker with more connections than another looks again after these times, for the other to take the new one, and then takes it
/// itself: the other may be at work. Whoever is idle takes it within the first; a client waits for the greeting meanwhile.
const LOOKS: [Duration; 3] =
    [Duration::from_micros(100), Duration::from_micros(300), Duration::from_micros(600)];
/// Pause after a failed accept, such as for want of descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// A failure that goes on is told of this often.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// A listener to accept on, once the worker is ready.
pub(super) struct Accept {
    pub(super) listener: OwnedFd,
    /// Where its connections are counted.
    pub(super) gauge: usize,
    /// Whether the worker's concurrency bounds them.
    pub(super) limited: bool,
}

impl Accept {
    pub(super) fn tcp(self, take: impl Fn(TcpStream, SocketAddr, Connection) + 'static) -> Begin {
        self.begin(
            |fd| sys::accept_tcp(fd),
            move |(stream, address), connection| match TcpStream::from_std(stream) {
                Ok(stream) => take(stream, address, connection),
                Err(error) => tracing::warn!(%error, "cannot use a connection"),
            },
        )
    }

    pub(super) fn unix<C: Conversation>(self, server: Server<C>) -> Begin {
        self.begin(
            |fd| sys::accept_unix(fd),
            move |stream, connection| match UnixStream::from_std(stream) {
                Ok(stream) => server.take(stream, Some(Box::new(connection))),
                Err(error) => tracing::warn!(%error, "cannot use a connection"),
            },
        )
    }

    fn begin<T: 'static>(
        self,
        accept: impl Fn(&OwnedFd) -> io::Result<T> + 'static,
        take: impl Fn(T, Connection) + 'static,
    ) -> Begin {
        Box::new(move |inner: &Rc<Inner>| {
            if inner.drain.get().is_some() {
                return;
            }
            let this = inner.clone();
            let task = tokio::task::spawn_local(async move {
                if let Err(error) = self.run(&this, accept, take).await {
                    tracing::error!(worker = %this.given.worker, %error, "cannot accept any more");
                }
            });
            inner.accepting.borrow_mut().push(task.abort_handle());
        })
    }

    async fn run<T>(
        self,
        inner: &Rc<Inner>,
        accept: impl Fn(&OwnedFd) -> io::Result<T>,
        take: impl Fn(T, Connection),
    ) -> io::Result<()> {
        let (gauge, limited) = (self.gauge, self.limited);
        let listener = watch(self.listener)?;
        let timer = watch(sys::Timer::new()?)?;
        let mut told: Option<Instant> = None;
        loop {
            while limited && inner.tcp_connections.get() >= inner.given.concurrency {
                inner.room.notified().await;
            }
            let mut ready = listener.readable().await?;
            if inner.slot().should_wait(gauge)
                && !leave_to_others(inner, gauge, &listener, &timer).await?
            {
                ready.clear_ready();
                continue;
            }
            if limited && inner.tcp_connections.get() >= inner.given.concurrency {
                continue;
            }
            match ready.try_io(|fd| accept(fd.get_ref())) {
                // Another worker took it.
                Err(_would_block) => {}
                Ok(Ok(stream)) => take(stream, Connection::new(inner, gauge)),
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Ok(Err(error)) => {
                    if told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
                        told = Some(Instant::now());
                        tracing::warn!(worker = %inner.given.worker, %error, "cannot accept");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Gives another worker time to take what waits; says whether something still waits then.
async fn leave_to_others(
    inner: &Inner,
    gauge: usize,
    listener: &AsyncFd<OwnedFd>,
    timer: &AsyncFd<sys::Timer>,
) -> io::Result<bool> {
    let _waiting = Waiting::new(inner, gauge);
    for wait in LOOKS {
        timer.get_ref().set(wait)?;
        let mut gone_off = timer.readable().await?;
        match gone_off.get_inner().clear() {
            // The event loop was mistaken: the other had less time, and nothing is lost.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            cleared => cleared?,
        }
        // It goes off once for each time that it is set.
        gone_off.clear_ready();
        if !sys::is_readable(listener.get_ref()) {
            return Ok(false);
        }
        if !inner.slot().should_wait(gauge) {
            break;
        }
    }
    Ok(true)
}

/// Marks this worker as one that looks away from a listener: others leave connections to it meanwhile only when it has far fewer, so
/// that they do not all wait for each other.
struct Waiting<'a> {
    inner: &'a Inner,
    gauge: usize,
}

impl<'a> Waiting<'a> {
    fn new(inner: &'a Inner, gauge: usize) -> Self {
        inner.slot().set_waiting(gauge, true);
        Self { inner, gauge }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.inner.slot().set_waiting(self.gauge, false);
    }
}
