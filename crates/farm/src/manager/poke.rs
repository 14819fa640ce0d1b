//! Asking another farm for something, once, without waiting: how a crash leads to a requeue pass.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use socket::codes;

/// The most that is read of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// So long an answer may take; an on-demand farm must be started first.
const PATIENCE: Duration = Duration::from_secs(30);
/// A worker that drains does not take the request, or ends without a word: so often it is sent to the next.
const AGAIN_MAX: u32 = 3;
/// The id of the request.
const ID: u64 = 1;

/// A request under way.
#[derive(Debug)]
pub(super) struct Poke {
    path: PathBuf,
    request: String,
    stream: UnixStream,
    answer: Vec<u8>,
    again: u32,
    /// When it is given up.
    pub(super) until: Instant,
}

/// What matters of a line that a server sends.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    id: serde_json::Value,
    #[serde(default)]
    error: Option<socket::ErrorObject>,
}

impl Poke {
    /// Connects to `run_dir/sockets/NAME` and sends one request. The connection is kept until the answer has come, since a server
    /// need not read what a peer that has gone had said.
    pub(super) fn send(run_dir: &Path, name: &str, reason: &str, now: Instant) -> io::Result<Self> {
        let path = run_dir.join("sockets").join(name);
        let method = name.rsplit('.').next().unwrap_or(name);
        let choose = json!({"jsonrpc": "2.0", "method": "use", "params": {"version": 1}});
        let request =
            json!({"jsonrpc": "2.0", "id": ID, "method": method, "params": {"reason": reason}});
        let request = format!("{choose}\n{request}\n");
        let stream = connect(&path, &request)?;
        let answer = Vec::new();
        Ok(Self { path, request, stream, answer, again: AGAIN_MAX, until: now + PATIENCE })
    }

    /// Reads what has come, and returns what there still is to wait for: this, or the same request to another worker.
    pub(super) fn hear(mut self) -> Option<Self> {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return self.once_more(),
                Ok(length) => {
                    self.answer.extend_from_slice(chunk.get(..length).unwrap_or_default());
                    match self.answered() {
                        Some(Some(codes::NOT_TAKEN)) => return self.once_more(),
                        Some(_) => return None,
                        None if self.answer.len() > ANSWER_BYTES_MAX => return None,
                        None => {}
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Some(self),
                Err(_) => return self.once_more(),
            }
        }
    }

    /// The answer's error code, if there is an answer, and if it is an error.
    fn answered(&self) -> Option<Option<i32>> {
        let whole = self.answer.split_inclusive(|byte| *byte == b'\n');
        let mut lines = whole.filter_map(|line| serde_json::from_slice::<Line>(line).ok());
        let answer = lines.find(|line| line.id == ID)?;
        Some(answer.error.map(|error| error.code))
    }

    fn once_more(mut self) -> Option<Self> {
        self.again = self.again.checked_sub(1)?;
        self.stream = connect(&self.path, &self.request).ok()?;
        self.answer.clear();
        Some(self)
    }
}

fn connect(path: &Path, request: &str) -> io::Result<UnixStream> {
    let mut stream = sys::connect_unix(path)?;
    stream.write_all(request.as_bytes())?;
    Ok(stream)
}

impl AsFd for Poke {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Accepts the request and begins to talk, as a worker does.
    fn accept(listener: &UnixListener) -> UnixStream {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().contains("use"));
        let request = lines.next().unwrap().unwrap();
        assert!(request.contains(r#""method":"requeue""#) && request.contains("a crash"));
        stream.write_all(b"{\"method\":\"hello\",\"params\":{}}\n").unwrap();
        stream.write_all(b"{\"method\":\"workers\",\"params\":{\"workers\":1}}\n").unwrap();
        stream
    }

    #[test]
    fn only_the_answer_ends_it_and_what_was_not_taken_is_sent_again() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("sockets")).unwrap();
        let listener = UnixListener::bind(directory.path().join("sockets/requeue.requeue"));
        let listener = listener.unwrap();
        let now = Instant::now();
        let poke = Poke::send(directory.path(), "requeue.requeue", "a crash", now).unwrap();
        let mut draining = accept(&listener);
        let poke = poke.hear().expect("two lines are no answer");
        draining
            .write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32001,\"message\":\"drains\"}}\n")
            .unwrap();
        let poke = poke.hear().expect("it was not taken");
        drop(accept(&listener));
        let poke = poke.hear().expect("it was not answered");
        let mut last = accept(&listener);
        last.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"res").unwrap();
        let poke = poke.hear().expect("half of an answer");
        last.write_all(b"ult\":{}}\n").unwrap();
        assert!(poke.hear().is_none());
    }
}
