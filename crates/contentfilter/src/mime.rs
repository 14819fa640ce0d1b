//! The parts of a MIME message (RFC 2045, 2046), as far as filters look at them: names of attachments, and decoded text.
//!
//! The walk is a loop over a worklist, not a recursion, and it is bounded: a message that nests or splits further than any honest
//! one is [`TooComplex`], and never costs a stack. Headers are mail-parser's to read.

use std::borrow::Cow;
use std::rc::Rc;

use mail_parser::decoders::charsets::map::charset_decoder;
use mail_parser::{ContentType, Header, HeaderName, HeaderValue, MessageParser};

use crate::decode;

/// How deep parts may nest.
pub const MIME_DEPTH_MAX: usize = 50;
/// How many parts a message may have.
pub const MIME_PARTS_MAX: usize = 10_000;
/// The longest boundary that is looked for, in bytes; RFC 2046 allows 70.
const BOUNDARY_BYTES_MAX: usize = 256;

/// A message nests deeper than [`MIME_DEPTH_MAX`] or has more parts than [`MIME_PARTS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the message has more than {MIME_PARTS_MAX} MIME parts, or nests deeper than {MIME_DEPTH_MAX}"
)]
pub struct TooComplex;

/// What filters look at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    /// Names that parts have, from `Content-Disposition` and `Content-Type`.
    pub(crate) names: Vec<String>,
    /// Media types of parts, `application/pdf`, in lower case.
    pub(crate) types: Vec<String>,
    /// Text parts, without transfer encoding and in UTF-8.
    pub(crate) texts: Vec<String>,
}

/// A part on the worklist: a range of bytes that are the message's, or were decoded.
struct Entity {
    bytes: Rc<[u8]>,
    start: usize,
    end: usize,
    depth: usize,
    is_in_digest: bool,
}

impl Entity {
    fn within(&self, start: usize, end: usize, is_in_digest: bool) -> Self {
        Self { bytes: Rc::clone(&self.bytes), start, end, depth: self.depth + 1, is_in_digest }
    }

    fn content(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }
}

/// Takes a message, or the first bytes of one, apart.
pub(crate) fn parts(message: &[u8]) -> Result<Parts, TooComplex> {
    let mut found = Parts::default();
    let root = Entity {
        bytes: message.into(),
        start: 0,
        end: message.len(),
        depth: 0,
        is_in_digest: false,
    };
    let mut worklist = vec![root];
    let parser = MessageParser::new().with_mime_headers().default_header_ignore();
    let mut count = 0;
    while let Some(entity) = worklist.pop() {
        count += 1;
        if count > MIME_PARTS_MAX || entity.depth > MIME_DEPTH_MAX {
            return Err(TooComplex);
        }
        let first_child = worklist.len();
        let header = header_length(entity.content());
        take(&entity, header, &parser, &mut found, &mut worklist);
        // Whoever reads the message may take its header section to end at the first line that is no field, and show what follows.
        let early = (entity.depth == 0).then(|| mail::header::section(entity.content()));
        if let Some(early) = early.filter(|early| early.complete && early.body < header) {
            take(&entity, early.body, &parser, &mut found, &mut worklist);
        }
        if worklist.len() > MIME_PARTS_MAX {
            return Err(TooComplex);
        }
        // The list is worked off from its end; parts are looked at in their order.
        if let Some(children) = worklist.get_mut(first_child..) {
            children.reverse();
        }
    }
    Ok(found)
}

/// Notes the names and text of an entity whose header section has this length, and puts what is within it on the worklist.
fn take(
    entity: &Entity,
    header_length: usize,
    parser: &MessageParser,
    found: &mut Parts,
    worklist: &mut Vec<Entity>,
) {
    let (headers, body) = entity.content().split_at(header_length);
    let body_start = entity.start + headers.len();
    let parsed = parser.parse_headers(headers);
    let headers = parsed.as_ref().map(|message| message.headers()).unwrap_or_default();
    let content_type = structured(headers, &HeaderName::ContentType);
    found.names.extend(headers.iter().filter_map(name_in));
    let kind = content_type.map(|value| {
        let subtype = value.subtype().unwrap_or_default().to_ascii_lowercase();
        (value.ctype().to_ascii_lowercase(), subtype)
    });
    let (kind, subtype) = match &kind {
        Some((kind, subtype)) => (kind.as_str(), subtype.as_str()),
        None if entity.is_in_digest => ("message", "rfc822"),
        None => ("text", "plain"),
    };
    found.types.push(format!("{kind}/{subtype}"));
    match (kind, content_type.and_then(|value| value.attribute("boundary"))) {
        ("multipart", Some(boundary))
            if !boundary.is_empty() && boundary.len() <= BOUNDARY_BYTES_MAX =>
        {
            let is_digest = subtype == "digest";
            let parts = split(body, boundary.as_bytes());
            if parts.is_empty() {
                found.texts.push(to_text(body, None));
            }
            let within =
                |(start, end)| entity.within(body_start + start, body_start + end, is_digest);
            worklist.extend(parts.into_iter().map(within));
        }
        ("message", _) if ["rfc822", "global", "news"].contains(&subtype) => {
            let decoded = decoded(headers, body);
            worklist.push(match decoded {
                Cow::Borrowed(_) => entity.within(body_start, entity.end, false),
                Cow::Owned(bytes) => Entity {
                    start: 0,
                    end: bytes.len(),
                    bytes: bytes.into(),
                    depth: entity.depth + 1,
                    is_in_digest: false,
                },
            });
        }
        // A multipart that says no boundary is read as the text that it is.
        ("text" | "message" | "multipart", _) => {
            let charset = content_type.and_then(|value| value.attribute("charset"));
            found.texts.push(to_text(&decoded(headers, body), charset));
        }
        _ => {}
    }
}

/// The name that a header field gives its part; of a field that is there twice, both count.
fn name_in(header: &Header<'_>) -> Option<String> {
    let attribute = match header.name {
        HeaderName::ContentDisposition => "filename",
        HeaderName::ContentType => "name",
        _ => return None,
    };
    match &header.value {
        HeaderValue::ContentType(value) => value.attribute(attribute).map(str::to_owned),
        _ => None,
    }
}

fn structured<'a, 'x>(
    headers: &'a [Header<'x>],
    name: &HeaderName<'_>,
) -> Option<&'a ContentType<'x>> {
    headers.iter().rev().find(|header| header.name == *name).and_then(|header| {
        match &header.value {
            HeaderValue::ContentType(value) => Some(value),
            _ => None,
        }
    })
}

fn decoded<'a>(headers: &[Header<'_>], body: &'a [u8]) -> Cow<'a, [u8]> {
    let encoding = headers.iter().rev().find_map(|header| match (&header.name, &header.value) {
        (HeaderName::ContentTransferEncoding, HeaderValue::Text(text)) => Some(text.trim()),
        _ => None,
    });
    match encoding {
        Some(name) if name.eq_ignore_ascii_case("base64") => decode::base64(body).into(),
        Some(name) if name.eq_ignore_ascii_case("quoted-printable") => {
            decode::quoted_printable(body).into()
        }
        _ => body.into(),
    }
}

fn to_text(bytes: &[u8], charset: Option<&str>) -> String {
    match charset.and_then(|name| charset_decoder(name.as_bytes())) {
        Some(decoder) => decoder(bytes),
        None => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// How long the header section is, with the empty line that ends it.
pub(crate) fn header_length(content: &[u8]) -> usize {
    let mut at = 0;
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        at += line.len();
        if line == b"\r\n" || line == b"\n" {
            break;
        }
    }
    at
}

/// The parts between lines that begin with `--boundary`, without the line end before each.
fn split(body: &[u8], boundary: &[u8]) -> Vec<(usize, usize)> {
    let mut parts = Vec::new();
    let mut open: Option<usize> = None;
    let mut at = 0;
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        let begin = at;
        at += line.len();
        let Some(after) = line.strip_prefix(b"--").and_then(|rest| rest.strip_prefix(boundary))
        else {
            continue;
        };
        let after = after.trim_ascii_end();
        // The boundary of an outer part may begin with that of an inner one.
        if !after.is_empty() && after != b"--" {
            continue;
        }
        if let Some(start) = open.take() {
            parts.push((start, without_line_end(body, start, begin)));
        }
        if after.is_empty() {
            open = Some(at);
        }
        if parts.len() > MIME_PARTS_MAX {
            break;
        }
    }
    // A part that is not closed goes to the end, as readers show it.
    parts.extend(open.map(|start| (start, body.len())));
    parts
}

fn without_line_end(body: &[u8], start: usize, end: usize) -> usize {
    let part = body.get(start..end).unwrap_or_default();
    let part = part.strip_suffix(b"\n").unwrap_or(part);
    start + part.strip_suffix(b"\r").unwrap_or(part).len()
}

#[cfg(test)]
mod tests;
