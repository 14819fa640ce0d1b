//! One connection to a next hop: moves the session machine's bytes and keeps its time.

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use agent::Gate;
use farm::fault;
use smtp::client::{Client, Phase, Step};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant as TokioInstant, Sleep};

use crate::delivery::gate_reply;
use crate::settings::Timeouts;

/// How much of the message is gathered before it is written, in bytes.
const WRITE_BYTES: usize = 128 << 10;
/// A rest of the message up to so many bytes leaves in one write with the dot: the socket's empty buffer surely takes it at once.
const WITH_DOT_BYTES: usize = 16 << 10;
/// How much room for output a connection keeps between messages, in bytes.
const OUTPUT_BYTES_KEPT: usize = 32 << 10;
/// How much is read at once, in bytes.
const READ_BYTES: usize = 4096;

/// A connection and its session.
pub(crate) struct Connection {
    stream: TcpStream,
    pub(crate) client: Client,
    /// How much of the client's output has been written.
    written: usize,
    alarm: Alarm,
    /// What the alarm was last set for.
    waiting_for: Option<(Phase, u64, u64)>,
    /// Bytes written in all.
    pub(crate) sent: u64,
    pub(crate) peer: Peer,
    /// Transactions that were begun.
    pub(crate) deliveries: u32,
    pub(crate) since: Instant,
}

/// Whom a connection leads to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// The lane's host has other addresses, which may be tried if this one fails.
    pub(crate) has_others: bool,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, client: Client, peer: Peer, now: Instant) -> Self {
        Self {
            stream,
            client,
            peer,
            written: 0,
            alarm: Alarm::new(now),
            waiting_for: None,
            sent: 0,
            deliveries: 0,
            since: now,
        }
    }

    /// Writes and reads until there is something else to do than that. Each phase has its time, and none lasts past `bound`.
    pub(crate) async fn turn(&mut self, timeouts: &Timeouts, bound: Option<Instant>) -> Step {
        loop {
            if self.client.output().is_empty() {
                match self.client.step() {
                    Step::Receive(_) => {}
                    step => return step,
                }
            }
            self.exchange(timeouts, bound, None).await;
        }
    }

    /// Writes what has gathered of the message once it is worth a write. Only while [`Step::Body`]; leaves another step if
    /// the session ended.
    pub(crate) async fn write_gathered(&mut self, timeouts: &Timeouts, bound: Option<Instant>) {
        if self.client.output().len() >= WRITE_BYTES {
            self.turn(timeouts, bound).await;
        }
    }

    /// Writes the rest of the message if it is so long that the dot, in the same write, could have to wait behind it for
    /// longer than the dot gate knows. Only while [`Step::Body`].
    pub(crate) async fn write_before_dot(&mut self, timeouts: &Timeouts, bound: Option<Instant>) {
        if self.client.output().len() > WITH_DOT_BYTES {
            self.turn(timeouts, bound).await;
        }
    }

    /// Ends the message: writes what is left of it with its dot. Only while [`Step::Body`]; the reply comes with
    /// [`Connection::turn`].
    ///
    /// The gate is asked before each write and bounds the wait for room: a dot that had to wait leaves only if it still may. Part of the
    /// message may wait with it for the scheduler's word.
    pub(crate) async fn end_body(&mut self, timeouts: &Timeouts, gate: &Gate) {
        gate.leased().await;
        self.client.end_body();
        fault::point("smtp.dot.before");
        while !self.client.output().is_empty() {
            self.exchange(timeouts, gate.deadline(), Some(gate)).await;
        }
        fault::point("smtp.dot.after");
    }

    /// Whether the server has said nothing and not closed since the last reply: nothing can come between transactions but 421.
    pub(crate) fn is_quiet(&self) -> bool {
        let quiet = |error: std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        self.stream.try_read(&mut [0]).is_err_and(quiet)
    }

    /// Says goodbye and waits for the answer for as long as the setting says. Only when idle.
    pub(crate) async fn quit(mut self: Box<Self>, timeouts: &Timeouts) {
        self.client.quit();
        self.turn(timeouts, None).await;
    }

    /// Gives back memory that only a large message needs.
    pub(crate) fn rest(&mut self) {
        self.client.output().shrink_to(OUTPUT_BYTES_KEPT);
    }

    /// One round: writes what can be written, reads what has come, and waits if neither is possible. Behind a closed `gate`
    /// nothing is written any more.
    async fn exchange(&mut self, timeouts: &Timeouts, bound: Option<Instant>, gate: Option<&Gate>) {
        let phase = self.client.phase();
        let waiting_for = (phase, self.client.replies(), self.sent);
        if self.waiting_for != Some(waiting_for) {
            self.waiting_for = Some(waiting_for);
            let limit = Instant::now() + timeouts.of(phase);
            self.alarm.set(bound.map_or(limit, |bound| bound.min(limit)));
        }
        poll_fn(|context| {
            // From here to the write nothing waits.
            if gate.is_some_and(|gate| !gate.is_open()) {
                self.client.abandon(gate_reply("before the end of the message"));
                return Poll::Ready(());
            }
            let moved = self.poll_write(context) | self.poll_read(context);
            if moved {
                return Poll::Ready(());
            }
            self.alarm.poll(context).map(|()| self.client.timed_out())
        })
        .await;
    }

    /// Writes once; says whether anything changed.
    fn poll_write(&mut self, context: &mut Context<'_>) -> bool {
        let output = self.client.output();
        let Some(rest) = output.get(self.written..).filter(|rest| !rest.is_empty()) else {
            // The session ended and took its output back.
            output.clear();
            self.written = 0;
            return false;
        };
        match Pin::new(&mut self.stream).poll_write(context, rest) {
            Poll::Pending => false,
            Poll::Ready(Ok(length)) => {
                self.sent += length as u64;
                self.written += length;
                if self.written >= output.len() {
                    output.clear();
                    self.written = 0;
                }
                true
            }
            Poll::Ready(Err(error)) => {
                // What the server said before it closed may be the reason why.
                while self.poll_read(context) && self.client.step() != Step::Ended {}
                self.client.lost(Some(&error));
                true
            }
        }
    }

    /// Reads once; says whether anything came, or the connection ended.
    fn poll_read(&mut self, context: &mut Context<'_>) -> bool {
        let mut bytes = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut bytes);
        match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
            Poll::Pending => false,
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                self.client.lost(None);
                true
            }
            Poll::Ready(Ok(())) => {
                self.client.receive(buffer.filled());
                true
            }
            Poll::Ready(Err(error)) => {
                self.client.lost(Some(&error));
                true
            }
        }
    }
}

/// A deadline that costs the timer wheel nothing as long as it only moves away: the timer is set anew when it rings too early.
struct Alarm {
    sleep: Pin<Box<Sleep>>,
    deadline: Instant,
}

impl Alarm {
    fn new(now: Instant) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep_until(now.into())), deadline: now }
    }

    fn set(&mut self, deadline: Instant) {
        self.deadline = deadline;
        if self.sleep.deadline() > TokioInstant::from_std(deadline) {
            self.sleep.as_mut().reset(deadline.into());
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.sleep.as_mut().poll(context).is_ready() {
            if self.sleep.deadline() >= TokioInstant::from_std(self.deadline) {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(self.deadline.into());
        }
        Poll::Pending
    }
}
