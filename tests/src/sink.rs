//! Next hops: one of our own that answers as a test says, and Postfix's smtp-sink.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{Process, find, is_root, until};

/// What a client has just sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// Nothing: it has connected.
    Connect,
    /// A command line, without its end.
    Command(&'a str),
    /// A message, to its end.
    Message(&'a Received),
}

/// What the sink does about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What an ordinary server says.
    Usual,
    /// These lines, whose ends are added.
    Say(String),
    /// These bytes, then the connection is closed.
    Last(Vec<u8>),
    /// Nothing more, with the connection left open.
    Stall,
    /// These bytes again and again.
    Forever(Vec<u8>),
}

/// A message as the sink was given it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// MAIL's argument, with its parameters.
    pub sender: String,
    /// RCPT's arguments, with their parameters.
    pub recipients: Vec<String>,
    /// The message, dots unstuffed, line ends as they came.
    pub data: String,
    /// When its end came, in milliseconds since 1970.
    pub at_ms: u64,
}

/// How often each token stands in these messages: the local part of the Message-ID that [`crate::burst`] gave, in a report that of
/// the message it returns. One that is none of a burst's counts as `none`.
pub fn count_tokens<'a>(messages: impl Iterator<Item = &'a str>) -> BTreeMap<String, usize> {
    let mut tokens = BTreeMap::new();
    for message in messages {
        *tokens.entry(token_of(message).unwrap_or("none").to_owned()).or_default() += 1;
    }
    tokens
}

/// The token of a message, or of the one that a report returns.
pub fn token_of(message: &str) -> Option<&str> {
    let mut ids = message.lines().filter_map(|line| line.strip_prefix("Message-ID: <"));
    ids.find_map(|id| id.trim_end().strip_suffix("@source.example>"))
}

/// What an ordinary server offers.
const USUAL: &[&str] =
    &["PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "SIZE 100000000"];

type Script = dyn Fn(Event<'_>) -> Answer + Send + Sync;

/// An SMTP server that keeps what it takes. Dropped, it stops listening and ends its connections.
pub struct Sink {
    shared: Arc<Shared>,
    socket: Arc<TcpListener>,
    listener: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    script: Box<Script>,
    extensions: Vec<String>,
    /// How much of each message is kept.
    keeps_bytes: usize,
    received: Mutex<Vec<Received>>,
    ended: AtomicBool,
}

impl Sink {
    /// Listens on a port and takes everything.
    pub fn start(port: u16) -> Self {
        Self::scripted(port, |_| Answer::Usual)
    }

    /// Listens on a port and answers as the script says.
    pub fn scripted(
        port: u16,
        script: impl Fn(Event<'_>) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::offering(port, USUAL, script)
    }

    /// Listens on a port, offers these extensions, and answers as the script says.
    pub fn offering(
        port: u16,
        extensions: &[&str],
        script: impl Fn(Event<'_>) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::begin(loopback(port), extensions, usize::MAX, script)
    }

    /// Listens on an address of the network that this thread is in, and answers as the script says.
    pub fn at(
        address: SocketAddr,
        script: impl Fn(Event<'_>) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::begin(address, USUAL, usize::MAX, script)
    }

    /// Listens on a port, answers as the script says, and keeps only the beginning of each message.
    pub fn keeping(
        port: u16,
        bytes: usize,
        script: impl Fn(Event<'_>) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::begin(loopback(port), USUAL, bytes, script)
    }

    fn begin(
        address: SocketAddr,
        extensions: &[&str],
        keeps_bytes: usize,
        script: impl Fn(Event<'_>) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            script: Box::new(script),
            extensions: extensions.iter().map(|name| (*name).to_owned()).collect(),
            keeps_bytes,
            received: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        // A process that is being started may hold a copy of an ended sink's socket for a moment yet.
        let bound = until("the sink's port is free", || TcpListener::bind(address).ok());
        let socket = Arc::new(bound);
        let (listening, accepting) = (Arc::clone(&shared), Arc::clone(&socket));
        let listener = std::thread::spawn(move || {
            for stream in accepting.incoming() {
                if listening.ended.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let shared = Arc::clone(&listening);
                std::thread::spawn(move || {
                    // What a client does to its connection is no concern of the sink's.
                    let _ = Session::new(stream, shared).and_then(|mut session| session.run());
                });
            }
        });
        Self { shared, socket, listener: Some(listener) }
    }

    /// What was taken so far.
    pub fn received(&self) -> MutexGuard<'_, Vec<Received>> {
        self.shared.received.lock().expect("no session panicked")
    }

    /// How often each token has come.
    pub fn tokens(&self) -> BTreeMap<String, usize> {
        count_tokens(self.received().iter().map(|message| message.data.as_str()))
    }

    /// Waits until so many messages have come.
    pub fn wait(&self, count: usize) {
        until(&format!("the sink has {count} messages"), || {
            (self.received().len() >= count).then_some(())
        });
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        // Wakes the listener, which then lets go of the port.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

struct Session {
    reader: BufReader<TcpStream>,
    shared: Arc<Shared>,
    draft: Received,
}

impl Session {
    fn new(stream: TcpStream, shared: Arc<Shared>) -> std::io::Result<Self> {
        // So that a session sees that its sink has ended.
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(stream), shared, draft: empty() })
    }

    fn run(&mut self) -> std::io::Result<()> {
        self.answer(Event::Connect, "220 sink.example ESMTP\r\n".to_owned())?;
        while let Some(line) = self.line()? {
            let line = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            let usual = self.usual(&verb, &line);
            let accepted = self.answer(Event::Command(&line), usual)?;
            match verb.as_str() {
                "DATA" if accepted => self.message()?,
                "QUIT" => return Ok(()),
                _ => {}
            }
        }
        Ok(())
    }

    fn usual(&mut self, verb: &str, line: &str) -> String {
        let argument = line.split_once(':').map(|(_, argument)| argument.to_owned());
        match verb {
            "EHLO" | "LHLO" => {
                let mut reply = String::from("250-sink.example\r\n");
                for extension in &self.shared.extensions {
                    reply.push_str(&format!("250-{extension}\r\n"));
                }
                reply + "250 HELP\r\n"
            }
            "MAIL" => {
                self.draft = empty();
                self.draft.sender = argument.unwrap_or_default();
                "250 2.1.0 Ok\r\n".to_owned()
            }
            "DATA" if self.draft.recipients.is_empty() => {
                "554 5.5.1 No valid recipients\r\n".to_owned()
            }
            "DATA" => "354 Go on\r\n".to_owned(),
            "QUIT" => "221 2.0.0 Bye\r\n".to_owned(),
            "RCPT" | "RSET" | "NOOP" | "HELO" => "250 2.0.0 Ok\r\n".to_owned(),
            _ => "500 5.5.1 What?\r\n".to_owned(),
        }
    }

    /// Gives the script's answer, or the usual one; says whether it was positive.
    fn answer(&mut self, event: Event<'_>, usual: String) -> std::io::Result<bool> {
        let text = match (self.shared.script)(event) {
            Answer::Usual => usual,
            Answer::Say(text) => text.trim_end().replace('\n', "\r\n") + "\r\n",
            Answer::Last(bytes) => {
                self.reader.get_mut().write_all(&bytes)?;
                return Err(std::io::ErrorKind::ConnectionAborted.into());
            }
            Answer::Stall => {
                while self.line()?.is_some() {}
                return Err(std::io::ErrorKind::ConnectionAborted.into());
            }
            Answer::Forever(bytes) => loop {
                self.reader.get_mut().write_all(&bytes)?;
                if self.shared.ended.load(Ordering::Acquire) {
                    return Err(std::io::ErrorKind::ConnectionAborted.into());
                }
            },
        };
        self.reader.get_mut().write_all(text.as_bytes())?;
        let positive = text.starts_with('2') || text.starts_with('3');
        if let Event::Command(line) = event
            && positive
            && let Some((verb, argument)) = line.split_once(':')
            && verb.eq_ignore_ascii_case("RCPT TO")
        {
            self.draft.recipients.push(argument.to_owned());
        }
        Ok(positive)
    }

    fn message(&mut self) -> std::io::Result<()> {
        let mut data = Vec::new();
        loop {
            let Some(line) = self.line()? else {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            };
            if line == b".\r\n" {
                break;
            }
            data.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
        let mut message = std::mem::replace(&mut self.draft, empty());
        data.truncate(self.shared.keeps_bytes);
        message.data = String::from_utf8_lossy(&data).into_owned();
        message.at_ms = now_ms();
        // Kept before the answer, so that whoever has heard it finds the message here.
        let usual = "250 2.0.0 Taken\r\n".to_owned();
        let shared = Arc::clone(&self.shared);
        let place = {
            let mut received = shared.received.lock().expect("no session panicked");
            received.push(message.clone());
            received.len() - 1
        };
        let accepted = self.answer(Event::Message(&message), usual);
        if !matches!(accepted, Ok(true)) {
            let mut received = shared.received.lock().expect("no session panicked");
            // Others may have been taken away before it.
            let place = received.iter().take(place + 1).rposition(|other| *other == message);
            if let Some(place) = place {
                received.remove(place);
            }
        }
        accepted.map(|_| ())
    }

    /// A line with its end, or nothing when the client or the sink has ended.
    fn line(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        loop {
            match self.reader.read_until(b'\n', &mut line) {
                Ok(_) if line.ends_with(b"\n") => return Ok(Some(line)),
                Ok(_) => return Ok(None),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if self.shared.ended.load(Ordering::Acquire) {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Now, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn empty() -> Received {
    Received { sender: String::new(), recipients: Vec::new(), data: String::new(), at_ms: 0 }
}

/// Postfix's own sink, which counts.
pub struct SmtpSink {
    _process: Process,
    messages: Arc<AtomicU64>,
}

impl SmtpSink {
    /// Starts it and waits until it listens.
    pub fn start(port: u16) -> Self {
        let mut command = Command::new(find("smtp-sink"));
        if is_root() {
            command.args(["-u", "nobody"]);
        }
        command.args(["-c", "-m", "1000", &format!("127.0.0.1:{port}"), "1000"]);
        let mut process =
            Process::spawn("smtp-sink", command.stdin(Stdio::null()).stdout(Stdio::piped()));
        let messages = Arc::new(AtomicU64::new(0));
        let stdout = process.child().stdout.take().expect("its standard output is piped");
        let counter = Arc::clone(&messages);
        std::thread::spawn(move || count(stdout, &counter));
        until("smtp-sink listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok());
        Self { _process: process, messages }
    }

    /// How many messages it has taken.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Acquire)
    }
}

/// Follows the running counter, `sess=1 quit=0 mesg=7` and a carriage return.
fn count(stdout: impl Read, messages: &AtomicU64) {
    for chunk in BufReader::new(stdout).split(b'\r').map_while(Result::ok) {
        let text = String::from_utf8_lossy(&chunk);
        let number = text.rsplit_once("mesg=").and_then(|(_, number)| number.trim().parse().ok());
        messages.fetch_max(number.unwrap_or(0), Ordering::Release);
    }
}
