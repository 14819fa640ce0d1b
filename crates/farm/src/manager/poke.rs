//! Asking another farm for something, once, without waiting: how a crash leads to a requeue pass.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

/// The most that is read of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// So long an answer may take; an on-demand farm must be started first.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request under way.
#[derive(Debug)]
pub(super) struct Poke {
    stream: UnixStream,
    answer: Vec<u8>,
    /// When it is given up.
    pub(super) until: Instant,
}

impl Poke {
    /// Connects to `run_dir/sockets/NAME` and sends one request. The connection is kept until the answer has come, since a server
    /// need not read what a peer that has gone had said.
    pub(super) fn send(run_dir: &Path, name: &str, reason: &str, now: Instant) -> io::Result<Self> {
        let mut stream = sys::connect_unix(&run_dir.join("sockets").join(name))?;
        let method = name.rsplit('.').next().unwrap_or(name);
        let choose = json!({"jsonrpc": "2.0", "method": "use", "params": {"version": 1}});
        let request =
            json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"reason": reason}});
        stream.write_all(format!("{choose}\n{request}\n").as_bytes())?;
        Ok(Self { stream, answer: Vec::new(), until: now + PATIENCE })
    }

    /// Reads what has come, and says whether that was all there is to wait for.
    pub(super) fn is_done(&mut self) -> bool {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return true,
                Ok(length) => {
                    self.answer.extend_from_slice(chunk.get(..length).unwrap_or_default());
                    // The hello is one line, the answer the next.
                    let lines = self.answer.iter().filter(|byte| **byte == b'\n').count();
                    if lines >= 2 || self.answer.len() > ANSWER_BYTES_MAX {
                        return true;
                    }
                }
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }
}

impl AsFd for Poke {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
