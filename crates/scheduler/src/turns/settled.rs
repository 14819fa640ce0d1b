//! How many answers of each agent's connection are written down, so that the agent need not keep what they said.
//!
//! ```text
//!  answer ── came ──▶ of this turn ── its records are written ──▶ settled ── told with the next job ──▶ agent forgets
//! ```

use std::collections::HashMap;

use socket::PeerId;

use crate::machine::{ChannelId, Peer};

/// A connection to an agent.
pub(super) type Connection = (ChannelId, PeerId);

pub(super) struct Settled {
    /// Whether agents are told at all.
    tells: bool,
    /// The answers that came since the last turn ended, in order.
    came: Vec<Connection>,
    counts: HashMap<Connection, u64>,
}

impl Settled {
    /// Counts where another scheduler may need what agents know: where the ledger may become another's.
    pub(super) fn new(tells: bool) -> Self {
        Self { tells, came: Vec::new(), counts: HashMap::new() }
    }

    /// An answer came.
    pub(super) fn came(&mut self, from: Option<Connection>) {
        if self.tells {
            self.came.extend(from);
        }
    }

    /// Takes the answers of the turn that ends.
    pub(super) fn take(&mut self) -> Vec<Connection> {
        std::mem::take(&mut self.came)
    }

    /// What answers said is written down.
    pub(super) fn settle(&mut self, answers: &[Connection]) {
        for connection in answers {
            *self.counts.entry(*connection).or_default() += 1;
        }
    }

    /// How many answers of a connection are settled.
    pub(super) fn of(&self, connection: Connection) -> Option<u64> {
        self.tells.then(|| self.counts.get(&connection).copied().unwrap_or(0))
    }

    /// Forgets the connections of a channel that have ended.
    pub(super) fn keep(&mut self, channel: ChannelId, peers: &[Peer]) {
        self.counts.retain(|(its, peer), _| {
            *its != channel || peers.iter().any(|present| present.id == *peer)
        });
    }

    /// What some answer said could not be written: nothing that is counted from now on would be true.
    pub(super) fn end(&mut self) {
        self.tells = false;
        self.came.clear();
        self.counts.clear();
    }
}
