//! A message as signatures see it: fields by name, counted from the bottom, and a body that is hashed.

use std::cell::RefCell;
use std::collections::HashMap;

use bytes::Bytes;
use mail::header::{Field, fields};
use mail_auth::dkim::Canonicalization;

use crate::body;

/// A message: its header section without the empty line, and its body. Both CRLF text.
#[derive(Debug, Clone, Default)]
pub struct Message {
    header: Bytes,
    body: Bytes,
}

/// Bodies larger than this are hashed on a thread for blocking work, so that the others of this thread need not wait.
const INLINE_BYTES_MAX: usize = 256 << 10;

impl Message {
    /// A message of a header section, without the empty line, and a body.
    pub fn new(header: Bytes, body: Bytes) -> Self {
        Self { header, body }
    }

    /// The header section.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

/// The fields of a message in an order in which signatures can find them.
pub(crate) struct View<'a> {
    pub(crate) fields: Vec<Field<'a>>,
    places: HashMap<String, Vec<usize>>,
    body: &'a Bytes,
    /// Hashes of the body that were needed before.
    hashes: RefCell<Vec<(BodyHash, Hashed)>>,
}

/// A hash, and how long what could be hashed is.
type Hashed = (Vec<u8>, u64);

/// Which hash of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BodyHash {
    pub(crate) canonicalization: Canonicalization,
    /// How many first bytes of the canonical body count; nothing is all.
    pub(crate) length: Option<u64>,
}

impl<'a> View<'a> {
    pub(crate) fn of(message: &'a Message) -> Self {
        let fields: Vec<Field<'a>> = fields(&message.header).collect();
        let mut places: HashMap<String, Vec<usize>> = HashMap::new();
        for (place, field) in fields.iter().enumerate() {
            places.entry(field.name().to_ascii_lowercase()).or_default().push(place);
        }
        Self { fields, places, body: &message.body, hashes: RefCell::default() }
    }

    /// The fields of a name, the first first.
    pub(crate) fn all<'b>(&'b self, name: &str) -> impl Iterator<Item = &'b Field<'a>> {
        let places = self.places.get(&name.to_ascii_lowercase()).map_or(&[][..], Vec::as_slice);
        places.iter().filter_map(|place| self.fields.get(*place))
    }

    /// The fields that a list of names signs: each name takes the next one from the bottom (RFC 6376 section 5.4.2).
    pub(crate) fn signed<'b>(&'b self, names: &[String]) -> Vec<&'b Field<'a>> {
        let mut taken: HashMap<String, usize> = HashMap::new();
        let mut signed = Vec::with_capacity(names.len());
        for name in names {
            let name = name.to_ascii_lowercase();
            let Some(places) = self.places.get(&name) else { continue };
            let before = taken.entry(name).or_default();
            if let Some(place) = places.iter().rev().nth(*before) {
                *before += 1;
                signed.extend(self.fields.get(*place));
            }
        }
        signed
    }

    /// The hash of the body by SHA-256, and how long all of the canonical body is.
    pub(crate) async fn body_hash(&self, wanted: BodyHash) -> Hashed {
        if let Some((_, hash)) = self.hashes.borrow().iter().find(|(which, _)| *which == wanted) {
            return hash.clone();
        }
        let body = self.body.clone();
        let BodyHash { canonicalization, length } = wanted;
        let hash = blocking(body.len(), move || body::hash(canonicalization, &body, length)).await;
        self.hashes.borrow_mut().push((wanted, hash.clone()));
        hash
    }
}

/// Does work on so many bytes: here, or on a thread where it may take its time.
async fn blocking<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if bytes <= INLINE_BYTES_MAX {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => unreachable!("work that has begun is never cancelled"),
        },
    }
}

/// Header fields in the form in which they are hashed. The last of them has no line end (RFC 6376 section 3.7).
pub(crate) fn canonical<'a>(
    canonicalization: Canonicalization,
    fields: impl IntoIterator<Item = &'a Field<'a>>,
    last: (&str, &[u8]),
) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        push_canonical(canonicalization, field, &mut out);
    }
    match canonicalization {
        Canonicalization::Relaxed => {
            let (name, value) = last;
            let line = std::iter::once((name.as_bytes(), value));
            canonicalization.canonicalize_headers(line, &mut out);
        }
        Canonicalization::Simple => {
            out.extend_from_slice(last.0.as_bytes());
            out.push(b':');
            out.extend_from_slice(last.1);
        }
    }
    while out.last().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
        out.pop();
    }
    out
}

/// One field and its line end.
pub(crate) fn push_canonical(
    canonicalization: Canonicalization,
    field: &Field<'_>,
    out: &mut Vec<u8>,
) {
    match canonicalization {
        Canonicalization::Relaxed => {
            let line = std::iter::once((field.name().as_bytes(), field.raw_value()));
            canonicalization.canonicalize_headers(line, out);
        }
        Canonicalization::Simple => out.extend_from_slice(field.raw()),
    }
    if !out.ends_with(b"\n") {
        out.extend_from_slice(b"\r\n");
    }
}
