//! Copying the few messages that still live out of segments in which most have ended.

use std::sync::Arc;

use mail::{MessageId, Timestamp};

use crate::{Handle, Listed, Local, ReadError, Segment};

/// The right to copy stored messages to places of their own. Held by compact alone; one holder works at a time.
///
/// A copy ends nothing and changes nothing: a message lives where the ledger says. The scheduler alone makes the copy the
/// message's place, by [`Record::Moved`](crate::Record), and only when that is synced may the store give the old place back.
/// Until then there may be two of a message; nobody reads the copy.
pub trait Compaction {
    /// Begins a look at the whole store, and takes the right to work, which is kept until this is dropped.
    fn survey(&self) -> Local<'_, Result<Survey, CompactionError>>;

    /// The messages of a sealed segment, in its order; none when it has gone meanwhile.
    fn held(&self, segment: &Segment) -> Local<'_, Result<Vec<Held>, CompactionError>>;

    /// Every copy that is there, whatever became of its message.
    fn copies(&self) -> Local<'_, Result<Vec<Listed>, CompactionError>>;

    /// Copies messages, each to a place of its own, and gives the handle of each copy. Every byte is checked on the way: a
    /// message that is not whole is not copied. A copy that is there already, and is whole, is taken as it is.
    ///
    /// Resolves when the copies are durable. After an error none of them counts, though they may be there.
    fn copy(
        &self,
        messages: Vec<Handle>,
    ) -> Local<'_, Result<Vec<Result<Handle, ReadError>>, CompactionError>>;

    /// Removes copies whose messages have ended, as the scheduler has said.
    fn discard(&self, copies: Vec<Handle>) -> Local<'_, Result<(), CompactionError>>;
}

/// The right to compact a store in which there is never anything to do, as each message's space is its own. It is told which
/// handles are of that store.
pub struct NothingToCompact<F>(
    /// Whether a handle is.
    pub F,
);

fn ready<T: 'static>(value: T) -> Local<'static, Result<T, CompactionError>> {
    Box::pin(std::future::ready(Ok(value)))
}

impl<F: Fn(&Handle) -> bool> Compaction for NothingToCompact<F> {
    fn survey(&self) -> Local<'_, Result<Survey, CompactionError>> {
        ready(Survey::default())
    }

    fn held(&self, _segment: &Segment) -> Local<'_, Result<Vec<Held>, CompactionError>> {
        ready(Vec::new())
    }

    fn copies(&self) -> Local<'_, Result<Vec<Listed>, CompactionError>> {
        ready(Vec::new())
    }

    fn copy(
        &self,
        messages: Vec<Handle>,
    ) -> Local<'_, Result<Vec<Result<Handle, ReadError>>, CompactionError>> {
        let refused = |handle: Handle| match (self.0)(&handle) {
            true => Err(ReadError::Gone(handle, "it has no other place".into())),
            false => Err(ReadError::Foreign(handle)),
        };
        ready(messages.into_iter().map(refused).collect())
    }

    fn discard(&self, _copies: Vec<Handle>) -> Local<'_, Result<(), CompactionError>> {
        ready(())
    }
}

/// What a look at the store shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// The segments that nobody writes to any more, oldest first.
    pub segments: Vec<Sealed>,
    /// How many bytes more than twice its live ones the store may take in segments: two whole segments for each writer that
    /// there was, less what is being written to.
    pub spare_bytes: u64,
}

/// A segment that nobody writes to any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Its name.
    pub segment: Segment,
    /// The space it takes.
    pub bytes: u64,
}

/// A message in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its handle.
    pub handle: Handle,
    /// Its id.
    pub id: MessageId,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// The size of its accept record, with the body when that is in it.
    pub record_bytes: u64,
    /// Whether its body is in the segment too, in the accept record or beside it.
    pub body_within: bool,
}

impl Held {
    /// What a copy of it takes, its body having `body_bytes`.
    pub fn copy_bytes(&self, body_bytes: u64) -> u64 {
        let beside = self.body_within && self.record_bytes <= body_bytes;
        self.record_bytes + if beside { body_bytes } else { 0 }
    }
}

/// Why the store could not be looked at, or not be written to.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CompactionError {
    /// Another process is at this work.
    #[error("another process is compacting the queue")]
    Busy,
    /// The store could not be read or written.
    #[error("cannot compact the queue: {context}")]
    Io {
        /// What was being done, to what.
        context: String,
        /// The system's error.
        #[source]
        source: Arc<std::io::Error>,
    },
}
