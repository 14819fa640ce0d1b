//! The part that gives back the message, or its header section.

use super::{Part, Report, header};

/// How much of a header section is given back, in bytes.
pub const RETURNED_HEADER_BYTES_MAX: usize = 64 << 10;
/// The longest Message-ID that is repeated in References.
const MESSAGE_ID_BYTES_MAX: usize = 250;

/// What is given back of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returned<'a> {
    /// Nothing: it could not be read.
    Nothing,
    /// The header section of the message that begins with these bytes, up to [`RETURNED_HEADER_BYTES_MAX`].
    Headers(&'a [u8]),
    /// The whole message.
    Message(&'a [u8]),
}

impl<'a> Returned<'a> {
    /// The Message-ID of the message, if it is well-formed enough to be repeated.
    pub(super) fn message_id(&self) -> Option<&'a str> {
        let (Self::Headers(bytes) | Self::Message(bytes)) = *self else { return None };
        let bytes = bytes.get(..RETURNED_HEADER_BYTES_MAX).unwrap_or(bytes);
        let raw = header::first(bytes, "Message-ID")?.raw_value();
        let text = std::str::from_utf8(raw).ok()?.trim_ascii();
        let id = text.strip_prefix('<')?.strip_suffix('>')?;
        let is_id_byte = |byte: u8| byte.is_ascii_graphic() && !b"<>()\"\\,;".contains(&byte);
        let well_formed = text.len() <= MESSAGE_ID_BYTES_MAX
            && id.bytes().all(is_id_byte)
            && id
                .split_once('@')
                .is_some_and(|(left, right)| !left.is_empty() && !right.is_empty());
        well_formed.then_some(text)
    }
}

pub(super) fn part(report: &Report<'_>) -> Option<Part> {
    let utf8 = report.original.smtputf8;
    match report.returned {
        Returned::Nothing => None,
        Returned::Headers(message) => Some(Part {
            content_type: if utf8 { "message/global-headers" } else { "text/rfc822-headers" },
            description: "Header of the message",
            content: legal_lines(whole_fields(message), usize::MAX),
        }),
        Returned::Message(message) => Some(Part {
            content_type: if utf8 { "message/global" } else { "message/rfc822" },
            description: "Message",
            content: legal_lines(message, header::section(message).header),
        }),
    }
}

/// The header section, cut behind a whole field if it is too long.
fn whole_fields(message: &[u8]) -> &[u8] {
    let section = header::section_of(message);
    let mut length = 0;
    for field in header::fields(section) {
        if length + field.raw().len() > RETURNED_HEADER_BYTES_MAX {
            break;
        }
        length += field.raw().len();
    }
    section.get(..length).unwrap_or_default()
}

/// A message whose every line ends with CRLF and is at most [`header::LINE_BYTES_MAX`] long, without NUL.
///
/// Stored messages are mostly so already. A longer line is broken: with a fold in the first `header_bytes`.
fn legal_lines(message: &[u8], header_bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 2);
    let mut rest = message;
    while !rest.is_empty() {
        let in_header = message.len() - rest.len() < header_bytes;
        let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(rest.len());
        let (line, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
        push_line(&mut out, line, if in_header { b" " } else { b"" });
        rest = after.strip_prefix(b"\r\n").or_else(|| after.get(1..)).unwrap_or_default();
    }
    out
}

/// Adds a line, broken if it is too long, but not within a character; each further piece begins with `fold`.
fn push_line(out: &mut Vec<u8>, line: &[u8], fold: &[u8]) {
    let mut begun = out.len();
    let mut left = line.len();
    for byte in line.iter().copied().filter(|byte| *byte != 0) {
        let column = out.len() - begun;
        let ends_soon = left <= header::LINE_BYTES_MAX.saturating_sub(column);
        let in_character = matches!(byte, 0x80..=0xbf);
        if column >= header::LINE_BYTES_MAX
            || (!ends_soon && column + 3 >= header::LINE_BYTES_MAX && !in_character)
        {
            out.extend_from_slice(b"\r\n");
            begun = out.len();
            out.extend_from_slice(fold);
        }
        out.push(byte);
        left = left.saturating_sub(1);
    }
    out.extend_from_slice(b"\r\n");
}
