//! Postfix's test tools as source and sink.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::options::Options;
use crate::Failure;
use crate::process::{Guarded, find, is_root};

/// How long a contender may take for what it has accepted before the round is called off.
const STALL: Duration = Duration::from_secs(120);

/// An SMTP server that takes everything and counts it.
pub(super) struct Sink {
    child: Guarded,
    /// Where it listens.
    pub(super) port: u16,
    messages: Arc<AtomicU64>,
}

impl Sink {
    /// Starts `smtp-sink` and waits until it listens.
    pub(super) fn start() -> Result<Self, Failure> {
        let port = free_port()?;
        let mut command = Command::new(find("smtp-sink").ok_or("smtp-sink is not installed")?);
        if is_root() {
            // It insists on a user when root starts it.
            command.args(["-u", "nobody"]);
        }
        command.args(["-c", "-m", "1000", &format!("127.0.0.1:{port}"), "1000"]);
        let mut child = Guarded::spawn("smtp-sink", command.stdout(Stdio::piped()))?;
        let messages = Arc::new(AtomicU64::new(0));
        let stdout = child.stdout().ok_or("smtp-sink has no standard output")?;
        let counter = Arc::clone(&messages);
        std::thread::spawn(move || count(stdout, &counter));
        wait_for_port(port, &mut child)?;
        Ok(Self { child, port, messages })
    }

    /// Messages taken so far.
    pub(super) fn messages(&self) -> u64 {
        self.messages.load(Ordering::Acquire)
    }

    /// Waits until so many messages were taken; an error when none came for long.
    pub(super) fn wait(&mut self, messages: u64) -> Result<(), Failure> {
        let mut last = (self.messages(), Instant::now());
        while self.messages() < messages {
            self.child.alive()?;
            if self.messages() != last.0 {
                last = (self.messages(), Instant::now());
            }
            if last.1.elapsed() > STALL {
                return Err(format!(
                    "the sink has {} of {messages} and nothing more came for {} s",
                    last.0,
                    STALL.as_secs()
                )
                .into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// Follows smtp-sink's running counter, `sess=1 quit=0 mesg=7` and a carriage return.
fn count(mut stdout: impl Read, messages: &AtomicU64) {
    let mut buffer = [0; 64 * 1024];
    let mut line = String::new();
    while let Ok(length @ 1..) = stdout.read(&mut buffer) {
        for byte in buffer.iter().take(length) {
            match byte {
                b'\r' | b'\n' => {
                    let number = line
                        .rsplit_once("mesg=")
                        .and_then(|(_, number)| number.trim().parse().ok());
                    messages.fetch_max(number.unwrap_or(0), Ordering::Release);
                    line.clear();
                }
                byte => line.push(char::from(*byte)),
            }
        }
    }
}

/// Sends the messages of a round to a port and returns when the last was accepted.
pub(super) fn send(options: &Options, messages: usize, port: u16) -> Result<(), Failure> {
    send_to(options, messages, port, "sink.example")
}

/// The same, for a domain.
pub(super) fn send_to(
    options: &Options,
    messages: usize,
    port: u16,
    domain: &str,
) -> Result<(), Failure> {
    let mut command = Command::new(find("smtp-source").ok_or("smtp-source is not installed")?);
    command
        .args(["-s", &options.sessions.min(messages).to_string()])
        .args(["-m", &messages.to_string()])
        .args(["-l", &options.length.to_string()])
        .args(["-r", &options.recipients.to_string()])
        .args(["-f", "sender@source.example", "-t", &format!("recipient@{domain}")])
        .args(options.reuse.then_some("-d"))
        .arg(format!("127.0.0.1:{port}"));
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("smtp-source ended with {status}").into()) }
}

/// A port of 127.0.0.1 that nobody listens on now.
pub(super) fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Waits until something listens on a port.
pub(super) fn wait_for_port(port: u16, child: &mut Guarded) -> Result<(), Failure> {
    let until = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        child.alive()?;
        if Instant::now() > until {
            return Err(format!("nothing listens on port {port} after 30 s").into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
