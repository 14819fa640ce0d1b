//! A client and a server of our own, for what Postfix's tools do not tell: how long each message took.
//!
//! ```text
//! client ── end of data ─▶ server under test ── … ──▶ sink
//!        ◀──── 250 ──────                              arrival, known by the token in the message's Subject
//! ```

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Failure;

/// How long one reply may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The field that carries a message's token.
const TOKEN: &str = "Subject: token ";

/// A connection to a port of this machine that waits for no reply for ever.
pub(super) fn connect(port: u16) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A session with a server, past its greeting and EHLO.
pub(super) struct Session {
    reader: BufReader<TcpStream>,
    line: String,
}

impl Session {
    /// Connects and greets.
    pub(super) fn open(port: u16) -> Result<Self, Failure> {
        let stream = connect(port)?;
        let mut session = Self { reader: BufReader::new(stream), line: String::new() };
        session.expect("220")?;
        session.say("EHLO client.example\r\n", "250")?;
        Ok(session)
    }

    /// Sends a line and waits for its reply.
    pub(super) fn say(&mut self, line: &str, code: &str) -> Result<(), Failure> {
        self.reader.get_mut().write_all(line.as_bytes())?;
        self.expect(code)
    }

    /// Sends one message with a token to a recipient; says when its last byte was written and when it was accepted.
    pub(super) fn message(
        &mut self,
        recipient: &str,
        token: u64,
        body: &[u8],
    ) -> Result<(Instant, Instant), Failure> {
        self.say("MAIL FROM:<sender@source.example>\r\n", "250")?;
        self.say(&format!("RCPT TO:<{recipient}>\r\n"), "250")?;
        self.say("DATA\r\n", "354")?;
        let mut text = format!("{TOKEN}{token}\r\n\r\n").into_bytes();
        text.extend_from_slice(body);
        text.extend_from_slice(b".\r\n");
        self.reader.get_mut().write_all(&text)?;
        let sent = Instant::now();
        self.expect("250")?;
        Ok((sent, Instant::now()))
    }

    fn expect(&mut self, code: &str) -> Result<(), Failure> {
        loop {
            self.line.clear();
            if self.reader.read_line(&mut self.line)? == 0 {
                return Err(format!("the server hung up instead of {code}").into());
            }
            if !self.line.starts_with(code) {
                return Err(format!("{code} was expected, not {}", self.line.trim_end()).into());
            }
            if self.line.as_bytes().get(3) != Some(&b'-') {
                return Ok(());
            }
        }
    }
}

/// Lines of text, so many bytes in all.
pub(super) fn body(length: usize) -> Vec<u8> {
    let line = b"The quick brown fox jumps over the lazy dog, and nobody minds it.\r\n";
    let mut body: Vec<u8> = line.iter().copied().cycle().take(length.saturating_sub(2)).collect();
    body.extend_from_slice(b"\r\n");
    body
}

/// When each token arrived.
pub(super) type Arrivals = Arc<Mutex<HashMap<u64, Instant>>>;

/// An SMTP server that takes everything and notes when, a thread for each connection. It lives as long as we do.
pub(super) struct Sink {
    /// Where it listens.
    pub(super) port: u16,
    /// What has come.
    pub(super) arrivals: Arrivals,
    kept: Option<Kept>,
}

/// Whole messages.
type Kept = Arc<Mutex<Vec<String>>>;

impl Sink {
    /// Starts it.
    pub(super) fn start() -> Result<Self, Failure> {
        Self::listen(None)
    }

    /// Starts one that keeps the messages too.
    pub(super) fn keeping() -> Result<Self, Failure> {
        Self::listen(Some(Kept::default()))
    }

    fn listen(kept: Option<Kept>) -> Result<Self, Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let arrivals = Arrivals::default();
        let shared = (Arc::clone(&arrivals), kept.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (arrivals, kept) = shared.clone();
                // A peer that hangs up ends its thread, and is not missed.
                std::thread::spawn(move || drop(serve(stream, &arrivals, kept.as_ref())));
            }
        });
        Ok(Self { port, arrivals, kept })
    }

    /// The messages so far, if they are kept.
    pub(super) fn kept(&self) -> Vec<String> {
        let kept =
            self.kept.as_ref().map(|kept| kept.lock().unwrap_or_else(PoisonError::into_inner));
        kept.map(|kept| kept.clone()).unwrap_or_default()
    }

    /// How many have come.
    pub(super) fn count(&self) -> usize {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

fn serve(stream: TcpStream, arrivals: &Arrivals, kept: Option<&Kept>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(64 * 1024, stream);
    let mut line = Vec::new();
    let mut token = None;
    let mut message = String::new();
    let mut in_data = false;
    reader.get_mut().write_all(b"220 sink.example ESMTP\r\n")?;
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let text = line.trim_ascii_end();
        let reply: &[u8] = if in_data {
            if text != b"." {
                token = token.or_else(|| read_token(text));
                if kept.is_some() {
                    let line = line.strip_prefix(b".").unwrap_or(&line);
                    message.push_str(&String::from_utf8_lossy(line));
                }
                continue;
            }
            in_data = false;
            if let Some(kept) = kept {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push(std::mem::take(&mut message));
            }
            if let Some(token) = token.take() {
                let mut arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
                arrivals.entry(token).or_insert_with(Instant::now);
            }
            b"250 2.0.0 taken\r\n"
        } else {
            match text.get(..4).unwrap_or(text).to_ascii_uppercase().as_slice() {
                b"EHLO" => b"250-sink.example\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
                b"DATA" => {
                    in_data = true;
                    b"354 go on\r\n"
                }
                b"QUIT" => {
                    reader.get_mut().write_all(b"221 2.0.0 bye\r\n")?;
                    return Ok(());
                }
                _ => b"250 2.0.0 fine\r\n",
            }
        };
        reader.get_mut().write_all(reply)?;
    }
}

fn read_token(line: &[u8]) -> Option<u64> {
    std::str::from_utf8(line).ok()?.strip_prefix(TOKEN)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_and_sink_understand_each_other() {
        let sink = Sink::start().expect("a port");
        let mut session = Session::open(sink.port).expect("a greeting");
        for token in [7, 8] {
            let (sent, accepted) =
                session.message("recipient@sink.example", token, &body(4096)).expect("taken");
            assert!(accepted >= sent);
        }
        assert_eq!(sink.count(), 2);
        assert_eq!(body(4096).len(), 4096);
    }
}
