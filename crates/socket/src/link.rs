//! One connection's bytes: what is read becomes lines, what is written waits for the end of the turn.
//!
//! ```text
//! epoll says ready ─▶ tasks of the connections read, handle, append to any link ─▶ flusher: one write per dirty link
//!                     (all that were runnable)                                     (woken by the first append, so it runs last)
//! ```

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::frame::{Lines, TooLong};
use crate::stream::{Brought, Reader, Stream, Writer, Written};

/// After so many reads of one connection the others get their turn.
const READS_PER_TURN: usize = 4;
/// A peer that does not read what it is sent is not read from either while more than this waits for it.
const PAUSE_BYTES: usize = 1 << 20;
/// A peer for which more than this waits, and which does not read, is dropped.
pub(crate) const OUT_BYTES_MAX: usize = 32 << 20;
/// An empty buffer larger than this is given back.
const KEEP_BYTES: usize = 256 << 10;

/// Takes the lines of a connection.
pub(crate) trait Sink {
    /// A line, without its end; says whether to go on.
    fn line(&self, line: &[u8], now: Instant) -> bool;
    /// A line was too long; the connection ends after this.
    fn too_long(&self);
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("the peer closed")]
    Eof,
    #[error("closed here")]
    Closed,
    #[error("{0}")]
    Failed(#[source] io::Error),
}

/// The reading side of a connection, and what came before it was looked at.
pub(crate) struct Half {
    read: Reader,
    first: Vec<u8>,
}

impl Half {
    /// What was read already comes first.
    pub(crate) fn after(mut self, first: Vec<u8>) -> Self {
        self.first.splice(..0, first);
        self
    }
}

/// The writing side of a connection, and whether it is up at all.
pub(crate) struct Link {
    write: RefCell<Option<Writer>>,
    out: RefCell<Vec<u8>>,
    dirty: Cell<bool>,
    blocked: Cell<bool>,
    /// Ended here: what the peer may still have said is not read.
    closed: Cell<bool>,
    close_when_flushed: Cell<bool>,
    /// Wakes the reading task: it also waits for room to write, and for the end.
    waker: RefCell<Option<Waker>>,
    flusher: Rc<Flusher>,
}

impl Link {
    /// Takes charge of a stream; the other half is for [`run`].
    pub(crate) fn new(stream: Stream) -> (Rc<Self>, Half) {
        let (write, read, first) = stream.into_split();
        let link = Self {
            write: RefCell::new(Some(write)),
            out: RefCell::default(),
            dirty: Cell::new(false),
            blocked: Cell::new(false),
            closed: Cell::new(false),
            close_when_flushed: Cell::new(false),
            waker: RefCell::default(),
            flusher: Flusher::current(),
        };
        (Rc::new(link), Half { read, first })
    }

    /// Whether the connection is up, as far as this process has looked: whether something can be sent.
    pub(crate) fn is_up(&self) -> bool {
        self.write.borrow().is_some()
    }

    /// Whether the connection is up, as the kernel knows now.
    pub(crate) fn is_up_now(&self) -> bool {
        self.write.borrow().as_ref().is_some_and(|write| !write.hung_up())
    }

    /// Appends to what goes out at the end of this turn; nothing happens if the connection is down.
    pub(crate) fn append(self: &Rc<Self>, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.is_up() {
            return;
        }
        let length = {
            let mut out = self.out.borrow_mut();
            write(&mut out);
            out.len()
        };
        if self.blocked.get() {
            if length > OUT_BYTES_MAX {
                tracing::warn!(bytes = length, "dropping a peer that does not read");
                self.close();
            }
            return;
        }
        if length > OUT_BYTES_MAX {
            self.flush();
        } else if !self.dirty.replace(true) {
            self.flusher.add(self.clone());
        }
    }

    /// Whether nothing waits to be written.
    pub(crate) fn is_flushed(&self) -> bool {
        self.out.borrow().is_empty() && !self.blocked.get()
    }

    /// Ends the connection now.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.stop_writing();
        self.wake();
    }

    /// The peer takes nothing any more, but what it said before it closed still counts: [`run`] reads to its end.
    fn stop_writing(&self) {
        self.write.borrow_mut().take();
        self.out.take();
        self.blocked.set(false);
    }

    /// Ends the connection when all that was appended has been written.
    pub(crate) fn close_when_flushed(&self) {
        self.close_when_flushed.set(true);
        if self.is_flushed() {
            self.close();
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Writes what it can. What is left goes out when the peer has read.
    pub(crate) fn flush(&self) {
        self.dirty.set(false);
        if self.blocked.get() {
            return;
        }
        match self.write_out() {
            Ok(()) if self.close_when_flushed.get() => self.close(),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.blocked.set(true);
                self.wake();
            }
            Err(_) if self.close_when_flushed.get() => self.close(),
            Err(_) => self.stop_writing(),
        }
    }

    fn write_out(&self) -> io::Result<()> {
        let mut out = self.out.borrow_mut();
        let write = self.write.borrow();
        let Some(write) = &*write else {
            return Ok(());
        };
        let mut written = Written::default();
        let result = write.write(&out, &mut written);
        self.flusher.writes.set(self.flusher.writes.get() + written.calls);
        out.drain(..written.bytes);
        if out.is_empty() && out.capacity() > KEEP_BYTES {
            *out = Vec::new();
        }
        result
    }

    /// Waits for room while the peer does not read.
    fn poll_room(&self, cx: &mut Context<'_>) {
        while self.blocked.get() {
            let room = match &*self.write.borrow() {
                None => return,
                Some(write) => write.poll_ready(cx),
            };
            match room {
                Poll::Pending => return,
                Poll::Ready(Ok(())) => {
                    self.blocked.set(false);
                    self.flush();
                }
                Poll::Ready(Err(_)) => self.stop_writing(),
            }
        }
    }
}

/// Reads a connection's lines until it ends.
pub(crate) async fn run(link: &Link, half: Half, sink: &impl Sink) -> End {
    let Half { mut read, first } = half;
    let mut lines = Lines::default();
    if let Some(end) = take_bytes(&mut lines, &first, sink) {
        link.close();
        return end;
    }
    let end = poll_fn(|cx| {
        remember(&link.waker, cx);
        link.poll_room(cx);
        for _ in 0..READS_PER_TURN {
            if link.closed.get() {
                return Poll::Ready(End::Closed);
            }
            if link.blocked.get() && link.out.borrow().len() > PAUSE_BYTES {
                return Poll::Pending;
            }
            match poll_read(&mut read, cx, &mut lines, sink) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(end)) => return Poll::Ready(end),
                Poll::Ready(None) => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    // What was answered in this turn may still reach a peer that closed only its writing side, such as socat's.
    link.flush();
    link.close();
    end
}

/// One read, and what it brought. Only what is left of a line is kept by its connection.
fn poll_read(
    read: &mut Reader,
    cx: &mut Context<'_>,
    lines: &mut Lines,
    sink: &impl Sink,
) -> Poll<Option<End>> {
    read.poll_read(cx, |bytes| take_bytes(lines, bytes, sink)).map(|brought| match brought {
        Ok(Brought::Bytes(end)) => end,
        Ok(Brought::Eof) => Some(End::Eof),
        Err(error) => Some(End::Failed(error)),
    })
}

fn take_bytes(lines: &mut Lines, bytes: &[u8], sink: &impl Sink) -> Option<End> {
    let now = Instant::now();
    let mut ended = false;
    let result = lines.feed(bytes, |line| {
        ended = !sink.line(line, now);
        !ended
    });
    if result == Err(TooLong) {
        sink.too_long();
        ended = true;
    }
    ended.then_some(End::Closed)
}

fn remember(slot: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    let mut slot = slot.borrow_mut();
    if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *slot = Some(cx.waker().clone());
    }
}

thread_local! {
    static FLUSHER: RefCell<Option<Rc<Flusher>>> = const { RefCell::new(None) };
}

/// Writes at the end of a turn what the turn appended: one task for all links of a runtime.
#[derive(Default)]
struct Flusher {
    dirty: RefCell<Vec<Rc<Link>>>,
    waker: RefCell<Option<Waker>>,
    /// Its task has gone with its runtime.
    over: Cell<bool>,
    writes: Cell<u64>,
}

impl Flusher {
    fn current() -> Rc<Self> {
        FLUSHER.with_borrow_mut(|slot| match slot {
            Some(flusher) if !flusher.over.get() => flusher.clone(),
            _ => {
                let flusher = Rc::new(Self::default());
                tokio::task::spawn_local(FlushTask(flusher.clone()));
                *slot = Some(flusher.clone());
                flusher
            }
        })
    }

    fn add(&self, link: Rc<Link>) {
        let first = {
            let mut dirty = self.dirty.borrow_mut();
            dirty.push(link);
            dirty.len() == 1
        };
        if first && let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

struct FlushTask(Rc<Flusher>);

impl Future for FlushTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        remember(&self.0.waker, cx);
        let mut dirty = self.0.dirty.take();
        for link in dirty.drain(..) {
            link.flush();
        }
        // The list is used again, unless a flush has begun a new one.
        let mut slot = self.0.dirty.borrow_mut();
        if slot.is_empty() {
            *slot = dirty;
        }
        Poll::Pending
    }
}

impl Drop for FlushTask {
    fn drop(&mut self) {
        self.0.over.set(true);
        self.0.dirty.take();
    }
}

/// How many writes this thread's connections have made, for tests of batching.
#[cfg(test)]
pub(crate) fn writes() -> u64 {
    FLUSHER.with_borrow(|flusher| flusher.as_ref().map_or(0, |flusher| flusher.writes.get()))
}
