//! A steady load from clients that take nothing amiss for granted: a session that does not go through from connecting to `221`,
//! each of its messages taken, is a failure.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{Client, until};

/// How a client sends.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Messages in a session.
    pub messages: usize,
    /// How long it rests before each message, and before it says goodbye.
    pub rest: Duration,
    /// How long it stays in the middle of each message.
    pub dwell: Duration,
}

impl Manner {
    /// Sessions of a message each, one after the other.
    pub const SHORT: Self =
        Self { messages: 1, rest: Duration::from_millis(20), dwell: Duration::ZERO };
    /// Sessions of many messages that outlive what happens meanwhile.
    pub const LONG: Self =
        Self { messages: 12, rest: Duration::from_millis(250), dwell: Duration::ZERO };
    /// Sessions that outlive most of it.
    pub const LASTING: Self =
        Self { messages: 30, rest: Duration::from_millis(250), dwell: Duration::ZERO };
    /// Sessions that are in the midst of a message nearly all the time.
    pub const DRIPPING: Self =
        Self { messages: 2, rest: Duration::from_millis(20), dwell: Duration::from_millis(900) };
}

/// What became of the sessions of a load.
#[derive(Debug, Default)]
pub struct Sessions {
    /// How many went through.
    pub whole: usize,
    /// What went wrong in each of the others.
    pub failed: Vec<String>,
    /// The id under which each message was taken, by the local part of its Message-ID.
    pub accepted: BTreeMap<String, String>,
}

/// Clients that send until they are told to stop.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    accepted: AtomicUsize,
    serial: AtomicU64,
    sessions: Mutex<Sessions>,
}

impl Load {
    /// Starts a client for each manner; they send to these recipients by turns.
    pub fn start(port: u16, manners: &[Manner], recipients: &[&str]) -> Self {
        let shared = Arc::<Shared>::default();
        let recipients: Vec<String> = recipients.iter().map(|one| (*one).to_owned()).collect();
        let clients = manners.iter().map(|manner| {
            let (manner, shared, recipients) = (*manner, shared.clone(), recipients.clone());
            std::thread::spawn(move || {
                while !shared.stop.load(Ordering::Relaxed) {
                    let ended = session(port, manner, &recipients, &shared);
                    let mut sessions = shared.sessions.lock().expect("no session panicked");
                    match ended {
                        Ok(()) => sessions.whole += 1,
                        Err(why) => sessions.failed.push(why),
                    }
                }
            })
        });
        let clients = clients.collect();
        Self { shared, clients }
    }

    /// How many messages were taken so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Waits until so many more messages were taken.
    pub fn more(&self, count: usize) {
        let enough = self.accepted() + count;
        until("the load goes on", || (self.accepted() >= enough).then_some(()));
    }

    /// Lets every session come to its end, begins no other, and tells what became of all.
    pub fn stop(self) -> Sessions {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("no session panicked");
        }
        std::mem::take(&mut *self.shared.sessions.lock().expect("no session panicked"))
    }
}

/// One session; an error says where it was and what came.
fn session(
    port: u16,
    manner: Manner,
    recipients: &[String],
    shared: &Shared,
) -> Result<(), String> {
    let mut client = Client::open(port).map_err(|error| format!("connecting: {error}"))?;
    expect(&mut client, "greeting", 220)?;
    say(&mut client, "EHLO client.example\r\n", 250)?;
    for _ in 0..manner.messages {
        std::thread::sleep(manner.rest);
        let serial = shared.serial.fetch_add(1, Ordering::Relaxed);
        let recipient = recipients.get(serial as usize % recipients.len()).expect("a recipient");
        let token = format!("{}.{serial}", std::process::id());
        let id = message(&mut client, &token, recipient, manner.dwell)?;
        shared.sessions.lock().expect("no session panicked").accepted.insert(token, id);
        shared.accepted.fetch_add(1, Ordering::Relaxed);
    }
    std::thread::sleep(manner.rest);
    say(&mut client, "QUIT\r\n", 221)?;
    match client.is_closed() {
        true => Ok(()),
        false => Err("after 221: the connection stays".to_owned()),
    }
}

/// Sends a message and gives the id under which it was taken.
fn message(
    client: &mut Client,
    token: &str,
    recipient: &str,
    dwell: Duration,
) -> Result<String, String> {
    say(client, "MAIL FROM:<sender@source.example>\r\n", 250)?;
    say(client, &format!("RCPT TO:<{recipient}>\r\n"), 250)?;
    say(client, "DATA\r\n", 354)?;
    let head = format!(
        "From: <sender@source.example>\r\nTo: <{recipient}>\r\nSubject: test\r\nMessage-ID: <{token}@source.example>\r\n\r\n"
    );
    let half = "A line of a message that is not very long.\r\n".repeat(10);
    let lost = |error| format!("in the midst of a message: {error}");
    client.write(format!("{head}{half}").as_bytes()).map_err(lost)?;
    std::thread::sleep(dwell);
    client.write(format!("{half}.\r\n").as_bytes()).map_err(lost)?;
    let reply = expect(client, "end of data", 250)?;
    reply.queued_as().ok_or_else(|| format!("end of data: no id in {reply:?}"))
}

fn say(client: &mut Client, line: &str, code: u16) -> Result<(), String> {
    let what = line.trim_end();
    client.write(line.as_bytes()).map_err(|error| format!("{what}: {error}"))?;
    expect(client, what, code).map(drop)
}

fn expect(client: &mut Client, what: &str, code: u16) -> Result<crate::Reply, String> {
    let reply = client.reply().map_err(|error| format!("reply to {what}: {error}"))?;
    if reply.code == code { Ok(reply) } else { Err(format!("reply to {what}: {reply:?}")) }
}
