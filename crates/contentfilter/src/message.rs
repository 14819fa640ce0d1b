//! A message as filters are shown it: in memory, with the changes of those before.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use mail::Edit;
use mail::header;
use mail_parser::{HeaderName, HeaderValue, MessageParser};
use tokio::sync::OwnedSemaphorePermit;

use crate::mime::{self, Parts, TooComplex, header_length};

/// A message as the filters before left it. Cheap to clone, and may go to another thread.
#[derive(Debug, Clone)]
pub(crate) struct Message(Arc<Inner>);

/// What is known of a message from when it was received.
#[derive(Debug)]
struct Received {
    /// Its size in bytes.
    size: u64,
    scan_bytes_max: usize,
    /// The right to hold it in memory.
    #[allow(dead_code, reason = "it is held, not looked at")]
    memory: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct Inner {
    received: Arc<Received>,
    /// As it is stored: as it was received, unless a filter gave it another body.
    stored: Bytes,
    is_replaced: bool,
    edits: Vec<Edit>,
    /// The header section with its empty line, if it has one.
    head: Bytes,
    body: Bytes,
    whole: OnceLock<Bytes>,
    headers: OnceLock<Vec<(String, String)>>,
    parts: OnceLock<Result<Parts, TooComplex>>,
}

impl Message {
    /// A message without changes. Rules look at its first `scan_bytes_max` bytes. `memory` is held as long as any part of it is.
    pub(crate) fn new(
        size: u64,
        received: Bytes,
        scan_bytes_max: usize,
        memory: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self::changed(
            Arc::new(Received { size, scan_bytes_max, memory }),
            received,
            false,
            Vec::new(),
        )
    }

    fn changed(
        received: Arc<Received>,
        stored: Bytes,
        is_replaced: bool,
        edits: Vec<Edit>,
    ) -> Self {
        let (head, rest) = match edits.is_empty() {
            true => {
                let rest = section(&stored).body;
                (stored.slice(..rest), rest)
            }
            false => {
                let leaving = header::leaving(&stored, true, &edits);
                (Bytes::from(leaving.head), leaving.rest)
            }
        };
        Self(Arc::new(Inner {
            body: stored.slice(rest..),
            received,
            stored,
            is_replaced,
            edits,
            head,
            whole: OnceLock::new(),
            headers: OnceLock::new(),
            parts: OnceLock::new(),
        }))
    }

    /// The message with more changes. `body` is made text in CRLF lines.
    pub(crate) fn with(&self, edits: &[Edit], body: Option<&[u8]>) -> Self {
        let old = &*self.0;
        let stored = body.map(|body| {
            let header = old.stored.get(..section(&old.stored).header).unwrap_or_default();
            Bytes::from([header, b"\r\n", &mail::crlf(body)].concat())
        });
        let is_replaced = old.is_replaced || stored.is_some();
        let stored = stored.unwrap_or_else(|| old.stored.clone());
        let edits = old.edits.iter().chain(edits).cloned().collect();
        Self::changed(Arc::clone(&old.received), stored, is_replaced, edits)
    }

    /// Its size when it was received, in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.0.received.size
    }

    /// The header section with the empty line behind it, if there is one.
    pub(crate) fn head(&self) -> &Bytes {
        &self.0.head
    }

    /// What follows the header section.
    pub(crate) fn body(&self) -> &Bytes {
        &self.0.body
    }

    /// All of it, byte for byte as it would leave.
    pub(crate) fn whole(&self) -> Bytes {
        let inner = &*self.0;
        if inner.edits.is_empty() {
            return inner.stored.clone();
        }
        inner.whole.get_or_init(|| Bytes::from([&*inner.head, &*inner.body].concat())).clone()
    }

    /// All changes to the header section, in order.
    pub(crate) fn edits(&self) -> &[Edit] {
        &self.0.edits
    }

    /// What is to be stored in its place, if a filter gave it another body; the edits are not in it.
    pub(crate) fn replaced(&self) -> Option<&Bytes> {
        self.0.is_replaced.then_some(&self.0.stored)
    }

    /// Its own header fields, unfolded and with encoded words (RFC 2047) decoded.
    pub(crate) fn decoded_headers(&self) -> &[(String, String)] {
        self.0.headers.get_or_init(|| decoded_headers(&self.scanned()))
    }

    /// Its MIME parts.
    pub(crate) fn parts(&self) -> Result<&Parts, TooComplex> {
        let parts = self.0.parts.get_or_init(|| mime::parts(&self.scanned()));
        parts.as_ref().map_err(|error| *error)
    }

    /// How many bytes rules look at.
    pub(crate) fn scanned_bytes(&self) -> usize {
        (self.0.head.len() + self.0.body.len()).min(self.0.received.scan_bytes_max)
    }

    fn scanned(&self) -> Bytes {
        let whole = self.whole();
        whole.slice(..self.0.received.scan_bytes_max.min(whole.len()))
    }
}

fn section(message: &[u8]) -> header::Section {
    header::section(message.get(..header::SECTION_BYTES_MAX).unwrap_or(message))
}

pub(crate) fn decoded_headers(content: &[u8]) -> Vec<(String, String)> {
    let section = content.get(..header_length(content)).unwrap_or_default();
    // With an entry of its own, the parser's choice by name gives way to text for all.
    let parser = MessageParser::new().header_text(HeaderName::Subject).default_header_text();
    let parsed = parser.parse_headers(section);
    let headers = parsed.as_ref().map(|message| message.headers()).unwrap_or_default();
    let text = |value: &HeaderValue<'_>| match value {
        HeaderValue::Text(text) => text.clone().into_owned(),
        _ => String::new(),
    };
    headers.iter().map(|header| (header.name.as_str().to_owned(), text(&header.value))).collect()
}

#[cfg(test)]
mod tests;
