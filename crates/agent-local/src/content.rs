//! What is written into a mailbox: the trace lines of final delivery, then the message, in the mailbox's line ends.

use agent::Outgoing;
use bytes::{Bytes, BytesMut};
use job::deliver::{DeliverRecipient, DeliverRequest};
use mail::header;
use queue::{ReadError, Reader};

use crate::LineEnding;

/// A message as it is read for delivery: its header section in memory, the rest in pieces.
pub(crate) struct Message {
    /// The header section without the Return-Path lines of others, then whatever was read behind it.
    pub(crate) head: Bytes,
    /// The bytes of `head` that are header section.
    header_bytes: usize,
    outgoing: Outgoing,
}

impl Message {
    /// Opens a message and reads its header section.
    pub(crate) async fn open(
        reader: &dyn Reader,
        request: &DeliverRequest,
    ) -> Result<Self, ReadError> {
        let mut outgoing = Outgoing::open(reader, &request.handle).await?;
        let mut bytes = BytesMut::new();
        let section = loop {
            let piece = outgoing.next().await?;
            bytes.extend_from_slice(piece.as_deref().unwrap_or_default());
            let section = header::section(&bytes);
            let enough = bytes.len() >= header::SECTION_BYTES_MAX;
            if section.complete || enough || piece.is_none() {
                break section;
            }
        };
        let (fields, rest) = bytes.split_at_checked(section.header).unwrap_or((&bytes, &[]));
        let mut head = BytesMut::with_capacity(bytes.len() + 2);
        for field in header::fields(fields).filter(|field| !field.is("Return-Path")) {
            head.extend_from_slice(field.raw());
        }
        let header_bytes = head.len();
        if section.complete && section.header == section.body {
            // The lines that are put before it must not make a header of what is none.
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(rest);
        Ok(Self { head: head.freeze(), header_bytes, outgoing })
    }

    /// Reads on; nothing at the end. The first piece comes behind `head`.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        self.outgoing.next().await
    }

    /// Whether the message has been delivered to this recipient before, and came back.
    pub(crate) fn loops_to(&self, recipient: &DeliverRecipient) -> bool {
        let section = self.head.get(..self.header_bytes).unwrap_or_default();
        let address = recipient.address.as_str().as_bytes();
        header::fields(section)
            .filter(|field| field.is("Delivered-To"))
            .any(|field| field.value().eq_ignore_ascii_case(address))
    }
}

/// The lines that final delivery puts before a message (RFC 5321 section 4.4).
pub(crate) fn trace(request: &DeliverRequest, recipient: &DeliverRecipient) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let sender = request.sender.as_ref().map_or("", |sender| sender.as_str());
    header::write_unfolded(&mut out, "Return-Path", &format!("<{sender}>"));
    if let Some(original) = &recipient.original {
        header::write_unfolded(&mut out, "X-Original-To", original.as_str());
    }
    header::write_unfolded(&mut out, "Delivered-To", recipient.address.as_str());
    out
}

/// Puts CRLF text into a mailbox's line ends, piece by piece.
#[derive(Debug)]
pub(crate) struct Converter {
    line_ending: LineEnding,
    /// A CR ended the last piece; whether it belongs to a line end shows in the next.
    owes_cr: bool,
}

impl Converter {
    pub(crate) fn new(line_ending: LineEnding) -> Self {
        Self { line_ending, owes_cr: false }
    }

    /// Adds a piece to `out`.
    pub(crate) fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        if self.line_ending == LineEnding::Crlf {
            return out.extend_from_slice(piece);
        }
        out.reserve(piece.len() + 1);
        if self.owes_cr && !piece.is_empty() {
            self.owes_cr = false;
            if piece.first() != Some(&b'\n') {
                out.push(b'\r');
            }
        }
        let mut rest = piece;
        while let Some(at) = rest.iter().position(|byte| *byte == b'\r') {
            let (line, after) = rest.split_at_checked(at).unwrap_or((rest, &[]));
            out.extend_from_slice(line);
            rest = after.get(1..).unwrap_or_default();
            match rest.first() {
                Some(b'\n') => {}
                Some(_) => out.push(b'\r'),
                None => self.owes_cr = true,
            }
        }
        out.extend_from_slice(rest);
    }

    /// Ends the text.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.owes_cr) {
            out.push(b'\r');
        }
    }
}

#[cfg(test)]
mod tests;
