//! Writing messages: begin, write, finish or commit.

use mail::{Edit, Envelope, MessageId, Origin, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Handle, IntakeError, Local};

/// The right to add messages to the queue. Held by acceptors: smtpserver, the error agent.
pub trait Intake {
    /// Begins a draft (S0). It is refused when the store is full or cannot be written to.
    fn begin(&self, hint: SizeHint) -> Result<Box<dyn Draft>, IntakeError>;

    /// Begins a draft of a message that comes from another store and keeps its id, which must not be in this one.
    fn begin_as(&self, id: MessageId, hint: SizeHint) -> Result<Box<dyn Draft>, IntakeError>;
}

/// How large a message may become, from `SIZE=` or a limit; lets the store refuse before a byte is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SizeHint {
    /// The size the client declared, in bytes.
    pub declared_bytes: Option<u64>,
}

/// A message being written (S0). Dropping it aborts it: nothing of it remains.
pub trait Draft {
    /// The id the message will have.
    fn id(&self) -> MessageId;

    /// Adds to the body; takes what it is given without waiting.
    ///
    /// After each call on a body that may be large, await [`Draft::room`].
    fn write(&mut self, bytes: &[u8]) -> Result<(), IntakeError>;

    /// Waits until the store has caught up with what was written: the brake on a fast client.
    fn room(&mut self) -> Local<'_, Result<(), IntakeError>>;

    /// Ends the body so that any [`Reader`](crate::Reader) may read it, for a filter. Not durable yet.
    fn finish(&mut self) -> Local<'_, Result<Handle, IntakeError>>;

    /// Accepts the message (S1). Once begun it is the store's: dropping the future does not undo it.
    ///
    /// Resolves when body and accept record are synced. Only then may `250` be said.
    fn commit(self: Box<Self>, accept: Accept) -> Local<'static, Result<Handle, IntakeError>>;
}

/// What an acceptor says of a message it accepts; written in the accept record, beside the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accept {
    /// The envelope.
    pub envelope: Envelope,
    /// Where it came from.
    pub origin: Origin,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Header edits that the agent applies as the message leaves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<Edit>,
    /// Why the whole message is held: a quarantine's reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// A filter's replacement of all that was received, header section and body: a finished draft of its own, adopted by this record.
    ///
    /// The store takes it over as the message is committed and leaves this out of what is read back:
    /// [`Stored::body`](crate::Stored) is then the replacement. The other draft must live until the commit has resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_body: Option<Handle>,
}
