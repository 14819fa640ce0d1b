//! How a server's replies are written (RFC 5321 section 4.2, RFC 2034).

use mail::StatusCode;

/// The longest line of a reply with its line end, in bytes (RFC 5321 section 4.5.3.1.5).
pub const REPLY_LINE_BYTES_MAX: usize = 512;

/// Appends a reply. Text with line feeds, or too long for one line, becomes a multi-line reply; whatever is not
/// printable ASCII becomes `?`, so that no text from elsewhere can end a line or begin another reply.
///
/// The status code is repeated on each line, as RFC 2034 wants it, and takes the class of `code` if the two differ.
pub fn write_reply(out: &mut Vec<u8>, code: u16, status: Option<StatusCode>, text: &str) {
    let code = if (200..=599).contains(&code) { code } else { 451 };
    let status = status.map(|status| {
        let class = u8::try_from(code / 100).unwrap_or(4);
        format!("{} ", StatusCode { class, ..status })
    });
    let status = status.as_deref().unwrap_or("");
    let room = REPLY_LINE_BYTES_MAX - "250-\r\n".len() - status.len();
    let mut lines = text.split('\n').flat_map(|line| pieces(line, room)).peekable();
    while let Some(line) = lines.next() {
        out.extend_from_slice(code.to_string().as_bytes());
        out.push(if lines.peek().is_some() { b'-' } else { b' ' });
        out.extend_from_slice(status.as_bytes());
        out.extend(line.bytes().map(|byte| if matches!(byte, b' '..=b'~') { byte } else { b'?' }));
        out.extend_from_slice(b"\r\n");
    }
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
