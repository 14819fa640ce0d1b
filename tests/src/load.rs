//! Many messages at once, each known by a token, from clients that remember exactly which of them got `250`.

mod strict;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub use self::strict::{Load, Manner, Sessions};
use crate::Client;

/// How long a client goes on trying to reach a server that is away.
const AWAY: Duration = Duration::from_secs(60);

/// What became of the messages of a burst. A token is the local part of the message's Message-ID.
#[derive(Debug, Default)]
pub struct Burst {
    /// Those that got `250`: they must arrive.
    pub accepted: BTreeSet<String>,
    /// Those whose connection was lost after the end of data: they may arrive.
    pub unsure: BTreeSet<String>,
}

/// Sends messages in several sessions until so many were accepted. What is lost or refused for now is sent again under a new token.
pub fn burst(port: u16, count: usize, sessions: usize, recipient: &str) -> Burst {
    let left = AtomicUsize::new(count);
    let result = Mutex::new(Burst::default());
    std::thread::scope(|scope| {
        for session in 0..sessions {
            let (left, result) = (&left, &result);
            scope.spawn(move || {
                let mut sender = Sender { port, session, sent: 0, recipient, client: None };
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

struct Sender<'a> {
    port: u16,
    session: usize,
    sent: usize,
    recipient: &'a str,
    client: Option<Client>,
}

impl Sender<'_> {
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
                Ok(false) => {}
                Err(Lost::AfterData) => {
                    result.lock().expect("no session panicked").unsure.insert(token);
                }
                Err(Lost::Before) => {}
            }
            assert!(begun.elapsed() < AWAY, "no message was accepted for {AWAY:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn attempt(&mut self, token: &str) -> Result<bool, Lost> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => greeted(self.port).map_err(|_| Lost::Before)?,
        };
        let before = |_| Lost::Before;
        let envelope = format!(
            "MAIL FROM:<sender@source.example>\r\nRCPT TO:<{}>\r\nDATA\r\n",
            self.recipient
        );
        client.write(envelope.as_bytes()).map_err(before)?;
        for expected in [250, 250, 354] {
            let reply = client.reply().map_err(before)?;
            if reply.code != expected {
                return Ok(false);
            }
        }
        let message = format!(
            "From: <sender@source.example>\r\nTo: <{}>\r\nSubject: test\r\nMessage-ID: <{token}@source.example>\r\n\r\n{}\r\n.\r\n",
            self.recipient,
            "A line of a message that is not very long.\r\n".repeat(20)
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

fn greeted(port: u16) -> std::io::Result<Client> {
    let mut client = Client::open(port)?;
    let greeting = client.reply()?;
    let hello = client.command("EHLO client.example")?;
    match (greeting.code, hello.code) {
        (220, 250) => Ok(client),
        _ => Err(std::io::Error::other("not now")),
    }
}
