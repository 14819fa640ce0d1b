//! `milter` and `rspamd`: filters that speak the milter protocol.
//!
//! ```text
//! session ── connect, HELO ─▶ MAIL, RCPT … ─▶ DATA, header fields, body, end of message ─▶ changes, verdict
//!                 ▲                ▲                                        │
//!                 │                └──────────── the next message ◀─────────┤
//!                 └── the next session, over the same connection ◀──────────┘
//! ```
//!
//! A connection serves one session, or, if the setting `reuse` says so, one after another. Our own Received field is not shown, as in Sendmail and Postfix, but counts for the place of an inserted field.

mod changes;
#[cfg(any(test, fuzzing))]
mod heard;
mod look;
mod macros;
mod received;
#[cfg(test)]
mod tests;
mod words;

#[cfg(fuzzing)]
pub(crate) use heard::hear;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ::milter::{Client, Error};
use config::Problem;
use job::inspect::Steps;

use crate::endpoint::{Endpoint, Stream};
use crate::filter::{Filter, FilterError, Look, Session};
use crate::kinds::Setup;
use crate::settings::{EarlyStep, FilterSetting};
use look::AtMilter;

/// How many connections without a session are kept for a milter.
const IDLE_MAX: usize = 32;
/// How long a client's name is looked for at most; a client whose name servers are slow must not use up the milter's own time.
const NAME_TIME: Duration = Duration::from_secs(3);
/// How long one is kept.
const IDLE_TIME: Duration = Duration::from_secs(30);
/// Checks an entry; `key` is where it stands.
pub(crate) fn check(setting: &FilterSetting, key: &str) -> Result<(), Problem> {
    let mut rest = setting.steps.as_deref().unwrap_or_default();
    while let [step, others @ ..] = rest {
        if others.contains(step) {
            return Err(Problem::new(format!("{key}.steps"), "a step twice", "each once"));
        }
        rest = others;
    }
    Ok(())
}

/// The early steps it wants to hear of as they happen: by default all for a milter, which may refuse at any of them, and none for
/// rspamd, which decides at the end.
pub(crate) fn steps(setting: &FilterSetting) -> Steps {
    let usual = if setting.milter.is_some() { Steps::ALL } else { Steps::NONE };
    let Some(wanted) = &setting.steps else { return usual };
    let has = |step| wanted.contains(&step);
    Steps {
        connect: has(EarlyStep::Connect),
        helo: has(EarlyStep::Helo),
        mail: has(EarlyStep::Mail),
        recipient: has(EarlyStep::Recipient),
    }
}

/// Makes it ready.
pub(crate) fn make(setting: &FilterSetting, setup: &Setup) -> Result<Rc<dyn Filter>, String> {
    let endpoint = setting.milter.clone().or_else(|| setting.rspamd.clone());
    Ok(Rc::new(Milter {
        name: setup.name.clone(),
        endpoint: endpoint.ok_or("there is no milter")?,
        connect_time: setting.timeouts.connect.0,
        name_time: NAME_TIME.min(setting.timeouts.command.0 / 4),
        reuses: setting.reuse,
        hostname: setup.hostname.clone(),
        resolver: Rc::clone(&setup.resolver),
        idle: RefCell::default(),
    }))
}

type Connection = Client<Box<dyn Stream>>;

struct Milter {
    name: String,
    endpoint: Endpoint,
    connect_time: Duration,
    /// How long a client's name is looked for.
    name_time: Duration,
    /// Whether connections are used for one session after another.
    reuses: bool,
    /// Our own name.
    hostname: String,
    resolver: Rc<dns::Resolver>,
    /// Connections without a session, and since when.
    idle: RefCell<Vec<(Connection, Instant)>>,
}

impl Filter for Milter {
    fn open(self: Rc<Self>, _: &Session) -> Box<dyn Look> {
        Box::new(AtMilter::new(self))
    }

    fn sweep(&self) {
        self.idle.borrow_mut().retain(|(_, since)| since.elapsed() < IDLE_TIME);
    }
}

impl Milter {
    /// A connection that had a session before, if there is one.
    fn idle(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some((mut connection, since)) = idle.pop() {
            if since.elapsed() < IDLE_TIME && connection.is_fresh() {
                return Some(connection);
            }
        }
        None
    }

    async fn new_connection(&self) -> Result<Connection, FilterError> {
        let stream = self.endpoint.connect(self.connect_time).await?;
        Ok(Client::negotiate(stream).await?)
    }

    /// Takes a connection back whose session is over.
    fn give_back(&self, mut connection: Connection) {
        let mut idle = self.idle.borrow_mut();
        if !self.reuses || !connection.may_have_another() || idle.len() >= IDLE_MAX {
            return connection.quit();
        }
        if connection.next_session() {
            idle.push((connection, Instant::now()));
        }
    }
}

impl From<Error> for FilterError {
    fn from(error: Error) -> Self {
        match error {
            Error::Lost(error) => Self::Lost(error.to_string()),
            Error::Malformed(wrong) => Self::Malformed(wrong.to_string()),
        }
    }
}
