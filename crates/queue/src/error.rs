//! What a store may answer instead of doing as asked, sorted by what the caller should do about it.

use std::sync::Arc;

/// Why a message could not be accepted. Nothing of it is kept; the client hears 4xx.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IntakeError {
    /// No space, no inodes, or less free than `free_bytes_min`: `452 4.3.1`.
    #[error("no space in the queue: {0}")]
    Full(String),
    /// The store cannot be written to now: `451 4.3.0`. After a failed sync this lasts until a new segment has synced.
    #[error("cannot write to the queue: {context}")]
    Io {
        /// What was being done, to what.
        context: String,
        /// The system's error.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The store is shutting down or was never opened for writing.
    #[error("the queue is closed")]
    Closed,
    /// Too much is being written at once, large bodies or small ones in memory; come back a little later: `451 4.3.2`.
    #[error("too many messages are being written at once")]
    Busy,
}

/// Why a stored message could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The record is not there: defer, never send.
    #[error("{0} is gone: {1}")]
    Gone(crate::Handle, String),
    /// The message is there and fails its checks: hold it, never send. Says what is damaged and where.
    #[error("{0} is damaged: {1}")]
    Damaged(crate::Handle, String),
    /// The handle belongs to another store or is malformed.
    #[error("{0} is not a handle of this store")]
    Foreign(crate::Handle),
    /// The store could not be read.
    #[error("cannot read the queue: {context}")]
    Io {
        /// What was being done, to what.
        context: String,
        /// The system's error.
        #[source]
        source: Arc<std::io::Error>,
    },
}

/// Why the ledger could not do as asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// Another process holds the ledger.
    #[error("the ledger is in use by another process ({0})")]
    Held(String),
    /// The ledger cannot be written or synced: nothing may be dispatched until a checkpoint has synced.
    #[error("cannot write the ledger: {context}")]
    Io {
        /// What was being done, to what.
        context: String,
        /// The system's error.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// Another owns the ledger by now, or this holder's time with it has passed. Nothing of what was asked was done, and nothing
    /// will be: whoever still needs it stands in line again.
    #[error("the ledger is no longer this process's: {0}")]
    Fenced(String),
    /// The ledger's files do not fit together or are from a newer version.
    #[error("the ledger cannot be read: {0}")]
    Damaged(String),
}
