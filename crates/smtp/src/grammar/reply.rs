//! How a server's replies are written (RFC 5321 section 4.2, RFC 2034).

use mail::StatusCode;

/// The longest line of a reply with its line end, in bytes (RFC 5321 section 4.5.3.1.5).
pub const REPLY_LINE_BYTES_MAX: usize = 512;

/// How many digits a reply's code has.
const CODE_DIGITS: usize = 3;

/// Appends a reply. Text with line feeds, or too long for one line, becomes a multi-line reply; whatever is not
/// printable ASCII becomes `?`, so that no text from elsewhere can end a line or begin another reply.
///
/// The status code is repeated on each line, as RFC 2034 wants it, and takes the class of `code` if the two differ.
pub fn write_reply(out: &mut Vec<u8>, code: u16, status: Option<StatusCode>, text: &str) {
    let code = if (200..=599).contains(&code) { code } else { 451 };
    let begin = out.len();
    write_prefix(out, code, status);
    let prefix = out.len() - begin;
    let room = REPLY_LINE_BYTES_MAX - "\r\n".len() - prefix;
    let mut lines = text.split('\n').flat_map(|line| pieces(line, room)).peekable();
    let mut line_begin = begin;
    while let Some(line) = lines.next() {
        write_printable(out, line);
        out.extend_from_slice(b"\r\n");
        let is_last = lines.peek().is_none();
        if let Some(separator) = out.get_mut(line_begin + CODE_DIGITS) {
            *separator = if is_last { b' ' } else { b'-' };
        }
        if !is_last {
            line_begin = out.len();
            out.extend_from_within(begin..begin + prefix);
        }
    }
}

/// Appends what each line of a reply begins with.
fn write_prefix(out: &mut Vec<u8>, code: u16, status: Option<StatusCode>) {
    write_number(out, code);
    out.push(b' ');
    if let Some(status) = status {
        write_number(out, code / 100);
        out.push(b'.');
        write_number(out, status.subject);
        out.push(b'.');
        write_number(out, status.detail);
        out.push(b' ');
    }
}

/// Appends a number in decimal digits.
fn write_number(out: &mut Vec<u8>, number: u16) {
    let mut above = 10_000;
    while above > 1 && number < above {
        above /= 10;
    }
    while above > 0 {
        out.push(b'0' + (number / above % 10) as u8);
        above /= 10;
    }
}

/// Appends text with a `?` for each byte that is not printable ASCII.
fn write_printable(out: &mut Vec<u8>, text: &str) {
    let is_printable = |byte: &u8| matches!(byte, b' '..=b'~');
    if text.as_bytes().iter().all(is_printable) {
        return out.extend_from_slice(text.as_bytes());
    }
    out.extend(text.bytes().map(|byte| if is_printable(&byte) { byte } else { b'?' }));
}

/// Cuts a line into pieces of at most `room` bytes, at least one.
fn pieces(line: &str, room: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest.take()?;
        let (piece, after) = line.split_at(line.floor_char_boundary(room));
        rest = (!after.is_empty()).then_some(after);
        Some(piece)
    })
}
