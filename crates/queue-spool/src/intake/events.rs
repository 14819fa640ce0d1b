//! What a writer is asked and what it answers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mail::MessageId;
use queue::{Accept, IntakeError};

use crate::Settings;
use crate::codec::Nonce;
use crate::place::{MessagePlace, RecordPlace};

/// What a writer is asked. `T` is whoever waits for the answer.
pub enum Event<T> {
    /// Write the body of a draft, so that others may read it.
    Draft {
        /// The message.
        id: MessageId,
        /// Its body.
        body: Vec<u8>,
        /// Waits for [`Answer::Drafted`].
        waiter: T,
    },
    /// Accept a message.
    Commit {
        /// The message.
        id: MessageId,
        /// What its acceptor says.
        accept: Box<Accept>,
        /// Its body.
        body: CommitBody,
        /// Waits for [`Answer::Committed`].
        waiter: T,
    },
    /// So many messages are in work in this process, from the first byte to the answer: who may join a sync.
    Company(u32),
    /// A draft that was written is dropped.
    Release(MessageId),
    /// Look at the free space, and say how the writer is.
    Look,
}

/// The body of a message that is accepted.
pub enum CommitBody {
    /// Not written yet.
    Whole(Vec<u8>),
    /// Written by [`Event::Draft`].
    Drafted(RecordPlace),
    /// In a body file, synced with its directory.
    File {
        /// The file's nonce.
        nonce: Nonce,
        /// The size of the body.
        size: u64,
    },
}

/// What a writer answers.
pub enum Answer<T> {
    /// To a draft.
    Drafted(T, Result<RecordPlace, IntakeError>),
    /// To a commit: synced, or not accepted.
    Committed(T, Result<MessagePlace, IntakeError>),
    /// How the writer is.
    Health(Health),
}

/// Whether a new message makes sense.
#[derive(Debug, Clone)]
pub struct Health {
    /// Why nothing can be written now.
    pub trouble: Option<IntakeError>,
    /// Free bytes in the file system, when they could be asked for.
    pub free_bytes: Option<u64>,
}

/// The writer's settings.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A segment is closed when it has grown to this.
    pub segment_bytes: u64,
    /// How long after the last sync began the next one does at the latest, when commits wait for it.
    pub sync_spacing: Duration,
    /// A segment that gets no more records is closed after this.
    pub seal_after: Duration,
}

impl Limits {
    /// As the settings say.
    pub fn of(settings: &Settings) -> Self {
        Self {
            segment_bytes: settings.segment_bytes.0,
            sync_spacing: settings.sync_spacing.0,
            seal_after: settings.seal_after.0,
        }
    }
}

/// Sorts a failure of the disk by what the client should hear.
pub(crate) fn refusal(context: String, error: io::Error) -> IntakeError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            IntakeError::Full(format!("{context}: {error}"))
        }
        _ => IntakeError::Io { context, source: Arc::new(error) },
    }
}
