//! The message on its way out: line ends made CRLF, dots stuffed, and the one final dot (RFC 5321 section 4.5.2).
//!
//! ```text
//!           any byte but CR, LF           CR, LF or CRLF: out goes CRLF
//!  inside a line ──────────────▶ inside a line ──────────────▶ at a line's start ── "." ──▶ out goes ".."
//! ```
//!
//! **Invariant:** whatever comes in, a CR leaves only before an LF, an LF only behind a CR, and a line of one dot only from
//! [`Stuffing::end`]. So no next hop, however it reads line ends, sees the message end earlier than we do.

use memchr::memchr2;

/// Where a body stands between two of its pieces.
#[derive(Debug, Clone)]
pub struct Stuffing {
    at_line_start: bool,
    /// The last piece ended with a CR: a line end, and an LF that follows belongs to it.
    after_cr: bool,
}

impl Default for Stuffing {
    /// At the start of a body, which the line end of `DATA` makes a line's start.
    fn default() -> Self {
        Self { at_line_start: true, after_cr: false }
    }
}

impl Stuffing {
    /// Appends a piece of the body to `output` as it has to leave. Stretches that need no change are copied whole.
    pub fn piece(&mut self, piece: &[u8], output: &mut Vec<u8>) {
        let mut rest = piece;
        if self.after_cr && !rest.is_empty() {
            // The CRLF itself left with the CR.
            self.after_cr = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        // What lies from `rest`'s start to `looked` has been looked at and needs no change.
        let mut looked = 0;
        loop {
            if self.at_line_start && rest.get(looked) == Some(&b'.') {
                emit(&mut rest, looked, output);
                output.push(b'.');
                looked = 0;
            }
            let Some(found) = rest.get(looked..).and_then(|bytes| memchr2(b'\r', b'\n', bytes))
            else {
                self.at_line_start &= rest.len() == looked;
                output.extend_from_slice(rest);
                return;
            };
            let end = looked + found;
            self.at_line_start = true;
            match (rest.get(end), rest.get(end + 1)) {
                (Some(b'\r'), Some(b'\n')) => looked = end + 2,
                (stray, next) => {
                    self.after_cr = stray == Some(&b'\r') && next.is_none();
                    emit(&mut rest, end, output);
                    output.extend_from_slice(b"\r\n");
                    rest = rest.get(1..).unwrap_or_default();
                    looked = 0;
                }
            }
        }
    }

    /// Ends the body: its last line's end if that is missing, and the final dot.
    pub fn end(&mut self, output: &mut Vec<u8>) {
        if !self.at_line_start {
            output.extend_from_slice(b"\r\n");
        }
        output.extend_from_slice(b".\r\n");
        *self = Self::default();
    }
}

/// Copies the first `length` bytes of `rest` out and leaves the others.
fn emit(rest: &mut &[u8], length: usize, output: &mut Vec<u8>) {
    let (clean, after) = rest.split_at_checked(length).unwrap_or((rest, &[]));
    output.extend_from_slice(clean);
    *rest = after;
}
