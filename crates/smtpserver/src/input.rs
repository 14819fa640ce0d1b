//! Bytes from a client that have not been taken apart yet, in a buffer that is borrowed only while there are any.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

/// How large the buffers are that sessions borrow, in bytes: the most that one read brings.
pub(crate) const BUFFER_BYTES: usize = 64 << 10;
/// How many buffers that nobody borrows are kept.
const SPARE_BUFFERS_MAX: usize = 32;

/// The buffers of a worker.
#[derive(Default)]
pub(crate) struct Pool {
    spare: RefCell<Vec<Box<[u8]>>>,
}

impl Pool {
    fn take(&self) -> Box<[u8]> {
        let spare = self.spare.borrow_mut().pop();
        spare.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
    }

    fn give(&self, buffer: Box<[u8]>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_BUFFERS_MAX {
            spare.push(buffer);
        }
    }
}

/// What a session has read and not yet consumed: in a buffer while the session works, else a remnant of its own size.
pub(crate) struct Input {
    pool: Rc<Pool>,
    buffer: Option<Box<[u8]>>,
    begin: usize,
    end: usize,
    remnant: Box<[u8]>,
}

impl Input {
    pub(crate) fn new(pool: Rc<Pool>) -> Self {
        Self { pool, buffer: None, begin: 0, end: 0, remnant: Box::default() }
    }

    /// What has not been consumed.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.buffer {
            Some(buffer) => buffer.get(self.begin..self.end).unwrap_or_default(),
            None => &self.remnant,
        }
    }

    /// Takes `count` bytes off the front.
    pub(crate) fn consume(&mut self, count: usize) {
        assert!(count <= self.bytes().len(), "a session consumes what it was given");
        match &self.buffer {
            Some(_) => self.begin += count,
            None => self.remnant = self.remnant.get(count..).unwrap_or_default().into(),
        }
    }

    /// Gives the buffer back, keeping what has not been consumed. To be called before a wait for the client.
    pub(crate) fn release(&mut self) {
        let remnant = self.bytes().into();
        if let Some(buffer) = self.buffer.take() {
            self.remnant = remnant;
            self.pool.give(buffer);
        }
    }

    /// Reads what has come: how many bytes, 0 at the end of the stream. Holds no buffer while nothing has.
    ///
    /// A read that did not fill the buffer tells the runtime that the connection is empty, so that the wait after it begins
    /// without another call to the system; and each read is paid for, so that a client that is always fast cannot keep the
    /// others from their turn.
    pub(crate) fn poll_read(
        &mut self,
        stream: &mut TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(self.room());
        let polled = Pin::new(stream).poll_read(context, &mut room);
        let count = room.filled().len();
        self.end += count;
        if polled.is_pending() {
            self.release();
        }
        polled.map_ok(|()| count)
    }

    /// Waits for bytes and reads them: how many, 0 at the end of the stream. Holds no buffer while it waits.
    pub(crate) async fn read(&mut self, stream: &mut TcpStream) -> io::Result<usize> {
        poll_fn(|context| self.poll_read(stream, context)).await
    }

    /// The free end of the buffer, which is borrowed if there is none; never empty.
    fn room(&mut self) -> &mut [u8] {
        let (begin, end) = (self.begin, self.end);
        let buffer = match self.buffer.take() {
            Some(mut buffer) => {
                buffer.copy_within(begin..end, 0);
                (self.begin, self.end) = (0, end - begin);
                buffer
            }
            None => {
                let mut buffer = self.pool.take();
                let remnant = std::mem::take(&mut self.remnant);
                if let Some(front) = buffer.get_mut(..remnant.len()) {
                    front.copy_from_slice(&remnant);
                }
                (self.begin, self.end) = (0, remnant.len());
                buffer
            }
        };
        let room = self.buffer.insert(buffer).get_mut(self.end..).unwrap_or_default();
        assert!(!room.is_empty(), "a session leaves less than a line, which is less than a buffer");
        room
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.pool.give(buffer);
        }
    }
}

#[cfg(test)]
mod tests;
