//! Finding accepted messages again.

use mail::{MessageId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Handle, Local, ReadError};

/// The right to list what was accepted, segment by segment. Held by requeue, and by `queue list` when no scheduler answers.
pub trait Recovery {
    /// The segments that no living acceptor writes to, oldest first; with `all`, the others too.
    ///
    /// Messages that were moved out of theirs are listed too, in parts of the store that are named as segments are. A store
    /// that can tell may leave out, but not with `all`, what the scheduler has written down as routed.
    fn segments(&self, all: bool) -> Local<'_, Result<Vec<Segment>, ReadError>>;

    /// The accept records of a segment, in its order. A segment that has gone meanwhile is empty.
    fn accepted(&self, segment: &Segment) -> Local<'_, Result<Vec<Listed>, ReadError>>;
}

/// The name of a part of the store, as the store gives it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Segment(pub String);

/// One accepted message, without its envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The message's handle.
    pub handle: Handle,
    /// Its id.
    pub id: MessageId,
    /// When it was accepted.
    pub accepted_at: Timestamp,
}
