//! The lease of a connection: for how long its client still stands behind what it asked.
//!
//! Whether a connection is up says little where hosts are cut off from each other, or where a client has lost the right to ask while it
//! was stopped. So the server asks, and acts only as long as it was told that it may:
//!
//! ```text
//! client ── use {version, leased: true} ─────────────▶ server
//! client ── requests ────────────────────────────────▶ server
//! client ◀─ ping, while requests are unanswered ────── server   sent at T, every 2 s
//! client ── {lease_ms: N} ───────────────────────────▶ server   may act until T + N, by its own clock
//! ```
//!
//! The client knows how long the last of what it granted lasts at most, and takes a lost connection for lost only then.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::frame;
use crate::link::Link;

/// A client grants no more than this at once.
pub(crate) const LEASE_MAX: Duration = Duration::from_secs(10);
/// A lease is asked for anew so long after it was asked for last …
const ASK_EVERY: Duration = Duration::from_secs(2);
/// … or sooner, when what was granted is short; but not sooner than this.
const ASK_AGAIN_MIN: Duration = Duration::from_millis(200);
/// How long somebody who is about to act may wait for a lease.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// Says for how long what is asked now may be acted on; nothing: for as long as its connection is up.
pub type LeaseLeft = Rc<dyn Fn() -> Option<Duration>>;

/// What a client answers when it is asked for a lease.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Granted {
    /// Nothing, where a program does not know what it was asked.
    #[serde(default)]
    lease_ms: u64,
}

impl Granted {
    /// What may be granted now.
    pub(crate) fn of(left: &LeaseLeft) -> Self {
        let span = left().map_or(LEASE_MAX, |left| left.min(LEASE_MAX));
        Self { lease_ms: u64::try_from(span.as_millis()).unwrap_or(0) }
    }

    pub(crate) fn span(&self) -> Duration {
        Duration::from_millis(self.lease_ms).min(LEASE_MAX)
    }
}

/// The lease of a connection, at the server.
#[derive(Default)]
pub(crate) struct Lease {
    until: Cell<Option<Instant>>,
    /// The question that is not answered yet, and when it was sent.
    open: Cell<Option<(u64, Instant)>>,
    /// When to ask next.
    next: Cell<Option<Instant>>,
    count: Cell<u64>,
    keeping: Cell<bool>,
    /// Wakes the keeper: an answer has come.
    answered: Notify,
    /// Wakes those who wait for a lease.
    granted: Notify,
}

impl Lease {
    /// Whether what was asked may be acted on now.
    pub(crate) fn holds(&self) -> bool {
        self.until.get().is_some_and(|until| Instant::now() < until)
    }

    /// Resolves when the lease holds, when its connection has gone, or after a little while: see then.
    pub(crate) async fn wait(&self, link: &Link) {
        let end = Instant::now() + WAIT_MAX;
        while !self.holds() && link.is_up() {
            if tokio::time::timeout_at(end.into(), self.granted.notified()).await.is_err() {
                return;
            }
        }
    }

    /// Takes an answer; says whether it is one to the last question.
    pub(crate) fn answered(&self, id: u64, granted: &Granted) -> bool {
        let Some((_, sent)) = self.open.get().filter(|(asked, _)| *asked == id) else {
            return false;
        };
        self.open.set(None);
        let span = granted.span();
        self.until.set(Some(sent + span));
        self.next.set(Some(sent + (span / 2).clamp(ASK_AGAIN_MIN, ASK_EVERY)));
        self.answered.notify_one();
        self.granted.notify_waiters();
        true
    }

    /// Asks when it is time, if the last question is answered; says when to look again.
    fn ask(&self, link: &Rc<Link>, now: Instant) -> Instant {
        if self.open.get().is_some() {
            // Its answer sets when the next is due.
            return now + ASK_EVERY;
        }
        if let Some(next) = self.next.get().filter(|next| *next > now) {
            return next;
        }
        let id = self.count.get() + 1;
        self.count.set(id);
        self.open.set(Some((id, now)));
        link.append(|out| frame::write_request(out, id, "ping", (None, false), b"{}"));
        now + ASK_EVERY
    }
}

/// Keeps a lease fresh as long as requests are unanswered, which is as long as `link` gives their connection. Does nothing where that
/// is done already.
pub(crate) fn keep(lease: &Rc<Lease>, link: impl Fn() -> Option<Rc<Link>> + 'static) {
    if lease.keeping.replace(true) {
        return;
    }
    let lease = Rc::clone(lease);
    tokio::task::spawn_local(async move {
        while let Some(link) = link().filter(|link| link.is_up()) {
            let look = lease.ask(&link, Instant::now());
            drop(link);
            // An answer says when the next question is due.
            let _ = tokio::time::timeout_at(look.into(), lease.answered.notified()).await;
        }
        lease.keeping.set(false);
    });
}

#[cfg(test)]
mod tests;
