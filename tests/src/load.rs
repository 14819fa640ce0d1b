//! Many messages at once, each known by a token, from clients that remember exactly which of them got `250`.

mod strict;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use self::strict::{Load, Manner, Sessions};
use crate::Client;

/// How long a client goes on trying to reach a server that is away.
const AWAY: Duration = Duration::from_secs(120);

/// What became of the messages of a burst. A token is the local part of the message's Message-ID.
#[derive(Debug, Default)]
pub struct Burst {
    /// Those that got `250`: they must arrive.
    pub accepted: BTreeSet<String>,
    /// Those whose connection was lost after the end of data: they may arrive.
    pub unsure: BTreeSet<String>,
    /// Those refused for now after the end of data: they may arrive only if a disk failed under them.
    pub refused: BTreeSet<String>,
    /// How many were turned away before the end of data, or not even greeted.
    pub turned_away: usize,
}

/// A message of a load, but for its token.
#[derive(Debug, Clone)]
pub struct Mail {
    /// Who gets it.
    pub recipient: String,
    /// How long its text is.
    pub lines: usize,
}

impl Mail {
    /// An ordinary message.
    pub fn to(recipient: &str) -> Self {
        Self { recipient: recipient.to_owned(), lines: 20 }
    }
}

/// Sends messages in several sessions until so many were accepted. What is lost or refused for now is sent again under a new token.
pub fn burst(port: u16, count: usize, sessions: usize, recipient: &str) -> Burst {
    let server = (Ipv4Addr::LOCALHOST, port).into();
    let left = AtomicUsize::new(count);
    let result = Mutex::new(Burst::default());
    std::thread::scope(|scope| {
        for _ in 0..sessions {
            let (left, result) = (&left, &result);
            scope.spawn(move || {
                let mut sender = Sender::new(server, |_| Mail::to(recipient));
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                    .is_ok()
                {
                    sender.one(result);
                }
            });
        }
    });
    result.into_inner().expect("no session panicked")
}

/// Sessions that send until they are told to stop.
pub struct Traffic {
    stopped: Arc<AtomicBool>,
    sent: Arc<Mutex<Burst>>,
    sessions: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Starts sessions that pause between two messages; `mix` says what each session's next message is to be, by its number.
    pub fn start(
        port: u16,
        sessions: usize,
        pause: Duration,
        mix: impl Fn(usize) -> Mail + Clone + Send + 'static,
    ) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, port).into(), sessions, pause, mix)
    }

    /// Does the same to a server on another host, from the network that this thread is in.
    pub fn start_at(
        server: SocketAddr,
        sessions: usize,
        pause: Duration,
        mix: impl Fn(usize) -> Mail + Clone + Send + 'static,
    ) -> Self {
        let (stopped, sent) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let begin = |_| {
            let (stopped, sent, mix) = (Arc::clone(&stopped), Arc::clone(&sent), mix.clone());
            std::thread::spawn(move || {
                let mut sender = Sender::new(server, mix);
                while !stopped.load(Ordering::Relaxed) {
                    sender.one(&sent);
                    std::thread::sleep(pause);
                }
            })
        };
        let sessions = (0..sessions).map(begin).collect();
        Self { stopped, sent, sessions }
    }

    /// How many were accepted so far.
    pub fn accepted(&self) -> usize {
        self.sent.lock().expect("no session panicked").accepted.len()
    }

    /// How many were refused for now so far, in any phase.
    pub fn refused(&self) -> usize {
        let sent = self.sent.lock().expect("no session panicked");
        sent.refused.len() + sent.turned_away
    }

    /// Ends the sessions, each after its message, and says what became of all of them.
    pub fn stop(self) -> Burst {
        self.stopped.store(true, Ordering::Relaxed);
        for session in self.sessions {
            session.join().expect("no session panicked");
        }
        std::mem::take(&mut self.sent.lock().expect("no session panicked"))
    }
}

struct Sender<M> {
    server: SocketAddr,
    session: usize,
    sent: usize,
    mix: M,
    client: Option<Client>,
}

impl<M: Fn(usize) -> Mail> Sender<M> {
    fn new(server: SocketAddr, mix: M) -> Self {
        static SESSIONS: AtomicUsize = AtomicUsize::new(0);
        let session = SESSIONS.fetch_add(1, Ordering::Relaxed);
        Self { server, session, sent: 0, mix, client: None }
    }

    /// Sends until one message was accepted.
    fn one(&mut self, result: &Mutex<Burst>) {
        let begun = Instant::now();
        loop {
            self.sent += 1;
            let token = format!("{}.{}.{}", std::process::id(), self.session, self.sent);
            match self.attempt(&token) {
                Ok(true) => {
                    result.lock().expect("no session panicked").accepted.insert(token);
                    return;
                }
                Ok(false) => {
                    result.lock().expect("no session panicked").refused.insert(token);
                }
                Err(Lost::AfterData) => {
                    result.lock().expect("no session panicked").unsure.insert(token);
                }
                Err(Lost::Before) => {
                    result.lock().expect("no session panicked").turned_away += 1;
                }
            }
            assert!(begun.elapsed() < AWAY, "no message was accepted for {AWAY:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn attempt(&mut self, token: &str) -> Result<bool, Lost> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => greeted(self.server).map_err(|_| Lost::Before)?,
        };
        let mail = (self.mix)(self.sent);
        let before = |_| Lost::Before;
        let envelope = format!(
            "MAIL FROM:<sender@source.example>\r\nRCPT TO:<{}>\r\nDATA\r\n",
            mail.recipient
        );
        client.write(envelope.as_bytes()).map_err(before)?;
        for expected in [250, 250, 354] {
            let reply = client.reply().map_err(before)?;
            if reply.code != expected {
                return Err(Lost::Before);
            }
        }
        let message = format!(
            "From: <sender@source.example>\r\nTo: <{}>\r\nSubject: test\r\nMessage-ID: <{token}@source.example>\r\n\r\n{}\r\n.\r\n",
            mail.recipient,
            "A line of a message that is not very long.\r\n".repeat(mail.lines)
        );
        client.write(message.as_bytes()).map_err(before)?;
        let reply = client.reply().map_err(|_| Lost::AfterData)?;
        if reply.code == 250 {
            self.client = Some(client);
        }
        Ok(reply.code == 250)
    }
}

enum Lost {
    Before,
    AfterData,
}

fn greeted(server: SocketAddr) -> std::io::Result<Client> {
    let mut client = Client::open_at(server)?;
    let greeting = client.reply()?;
    let hello = client.command("EHLO client.example")?;
    match (greeting.code, hello.code) {
        (220, 250) => Ok(client),
        _ => Err(std::io::Error::other("not now")),
    }
}
