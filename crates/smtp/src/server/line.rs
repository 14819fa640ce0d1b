//! Command lines out of a buffer: what ends them, and what is refused.

use memchr::memchr2;

use super::BareNewline;

/// What stands at the start of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line<'i> {
    /// A whole line, without its end, and how many bytes it takes with it.
    Complete { line: &'i [u8], bytes: usize },
    /// Not yet a whole line.
    Partial,
    /// More than a line may have: so many bytes are to be skipped, and what follows up to a line end.
    TooLong { bytes: usize },
    /// A CR or LF that stands alone.
    BareNewline,
}

/// Looks for a line of at most `limit` bytes with its end. What it says of a prefix stays true when more bytes come.
pub(super) fn split(input: &[u8], limit: usize, policy: BareNewline) -> Line<'_> {
    let window = input.get(..limit).unwrap_or(input);
    let full = window.len() == limit;
    match memchr2(b'\r', b'\n', window) {
        None if full => Line::TooLong { bytes: limit },
        None => Line::Partial,
        Some(at) => {
            let (line, end) = window.split_at(at);
            match (end, policy) {
                ([b'\r', b'\n', ..], _) => Line::Complete { line, bytes: at + 2 },
                ([b'\r'], _) if full => Line::TooLong { bytes: at },
                ([b'\r'], _) => Line::Partial,
                ([b'\n', ..], BareNewline::Normalise) => Line::Complete { line, bytes: at + 1 },
                // A client that ends lines with CR alone could never be answered: whether an LF follows is only known later.
                _ => Line::BareNewline,
            }
        }
    }
}

/// What skipping the rest of an over-long line came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Skipped {
    /// The line's end was found; so many bytes are behind us.
    ToEnd(usize),
    /// So many bytes are behind us, and the end has not come yet.
    Part(usize),
    /// A CR or LF that stands alone.
    BareNewline,
}

/// Skips the rest of an over-long line.
pub(super) fn skip(input: &[u8], policy: BareNewline) -> Skipped {
    let Some(at) = memchr2(b'\r', b'\n', input) else { return Skipped::Part(input.len()) };
    match (input.split_at(at).1, policy) {
        ([b'\r', b'\n', ..], _) => Skipped::ToEnd(at + 2),
        ([b'\r'], _) => Skipped::Part(at),
        ([b'\n', ..], BareNewline::Normalise) => Skipped::ToEnd(at + 1),
        _ => Skipped::BareNewline,
    }
}
