//! Whose mail a filter is for, told by whether the client may relay.

use serde::{Deserialize, Serialize};

use crate::filter::Session;

/// Whose mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clients {
    /// Of clients that may not relay.
    Strangers,
    /// Of clients that may: our own.
    Trusted,
    /// Of all.
    All,
}

impl Clients {
    /// Whether this session's client is meant.
    pub(crate) fn include(self, session: &Session) -> bool {
        match self {
            Self::Strangers => !session.trusted,
            Self::Trusted => session.trusted,
            Self::All => true,
        }
    }
}
