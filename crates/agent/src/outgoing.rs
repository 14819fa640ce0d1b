//! The message as it leaves: the stored body with the accept record's changes.

use bytes::{Bytes, BytesMut};
use mail::header;
use queue::{Accepted, Body, Handle, ReadError, Reader, Stored};

/// A message on its way out: the accept record's edits applied to its header section. Pieces are CRLF text as stored, without dot-stuffing.
///
/// A message without changes passes through as it is stored, piece by piece. With changes, only its header section is
/// held in memory, up to [`header::SECTION_BYTES_MAX`]; a header section longer than that is changed in its first part.
pub struct Outgoing {
    accepted: Accepted,
    /// What comes before the rest of `body`: the changed header section and what was read behind it.
    head: Option<Bytes>,
    body: Box<dyn Body>,
    size: u64,
}

impl Outgoing {
    /// Opens a message.
    ///
    /// An error, here and in [`Outgoing::next`], means that nothing that was read may be sent as a whole message.
    pub async fn open(reader: &dyn Reader, handle: &Handle) -> Result<Self, ReadError> {
        let stored = reader.open(handle).await?;
        let accept = &stored.accepted.accept;
        if accept.edits.is_empty() {
            let size = stored.body.size();
            return Ok(Self { accepted: stored.accepted, head: None, body: stored.body, size });
        }
        // Boxed, because few messages are changed, and whoever opens one would have room for it.
        Box::pin(Self::open_changed(stored)).await
    }

    async fn open_changed(stored: Stored) -> Result<Self, ReadError> {
        let (accepted, mut body) = (stored.accepted, stored.body);
        let (first, is_whole) = first_bytes(body.as_mut()).await?;
        let leaving = header::leaving(&first, is_whole, &accepted.accept.edits);
        let mut head = BytesMut::from(leaving.head.as_slice());
        head.extend_from_slice(first.get(leaving.rest..).unwrap_or_default());
        let size = body.size().saturating_sub(first.len() as u64) + head.len() as u64;
        Ok(Self { accepted, head: Some(head.freeze()), body, size })
    }

    /// The message's accept record.
    pub fn accepted(&self) -> &Accepted {
        &self.accepted
    }

    /// The next piece; nothing at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        match self.head.take() {
            Some(head) if !head.is_empty() => Ok(Some(head)),
            _ => self.body.next().await,
        }
    }

    /// How many bytes will come, all in all: what SIZE= may say.
    pub fn size(&self) -> Option<u64> {
        Some(self.size)
    }
}

/// The first bytes of a body, at least the header section or as much of it as may be held; and whether that is all of it.
async fn first_bytes(body: &mut dyn Body) -> Result<(Bytes, bool), ReadError> {
    let mut bytes = BytesMut::new();
    while let Some(piece) = body.next().await? {
        bytes.extend_from_slice(&piece);
        if bytes.len() >= header::SECTION_BYTES_MAX || header::section(&bytes).complete {
            return Ok((bytes.freeze(), false));
        }
    }
    Ok((bytes.freeze(), true))
}

#[cfg(test)]
mod tests;
