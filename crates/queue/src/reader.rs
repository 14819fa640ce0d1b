//! Reading messages by handle.

use bytes::Bytes;
use mail::MessageId;
use serde::{Deserialize, Serialize};

use crate::{Accept, Handle, Local, ReadError};

/// The right to read stored messages. Held by whoever is given handles.
pub trait Reader {
    /// Opens an accepted message. Every byte it hands out has been checked against its checksum.
    fn open(&self, handle: &Handle) -> Local<'_, Result<Stored, ReadError>>;

    /// Opens the body of a finished draft, which has no accept record yet.
    fn open_draft(&self, handle: &Handle) -> Local<'_, Result<Box<dyn Body>, ReadError>>;
}

/// An accepted message: what its acceptor said, and its body as received.
pub struct Stored {
    /// The accept record.
    pub accepted: Accepted,
    /// The body, before the accept record's edits.
    pub body: Box<dyn Body>,
}

/// An accept record as it is read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The message's id.
    pub id: MessageId,
    /// The size of its body in bytes.
    pub size: u64,
    /// What the acceptor said.
    #[serde(flatten)]
    pub accept: Accept,
}

/// The bytes of a stored body, in order.
pub trait Body {
    /// How many bytes the whole body has.
    fn size(&self) -> u64;

    /// The next piece, at most 256 KiB; nothing at the end. An error ends the body: what came before must not be used as a whole message.
    fn next(&mut self) -> Local<'_, Result<Option<Bytes>, ReadError>>;
}
