//! A body in the forms in which it is signed (RFC 6376 section 3.4).
//!
//! Not mail-auth's, which takes a line of nothing but space at the end of a body for text where RFC 6376 ignores it.

#[cfg(test)]
mod tests;

use aws_lc_rs::digest::{Context, SHA256};
use mail_auth::dkim::Canonicalization;

/// The SHA-256 of a canonical body, or of its first `length` bytes; and how long all of it is.
pub(crate) fn hash(
    canonicalization: Canonicalization,
    body: &[u8],
    length: Option<u64>,
) -> (Vec<u8>, u64) {
    let mut context = Context::new(&SHA256);
    let (mut left, mut whole) = (length.unwrap_or(u64::MAX), 0_u64);
    write(canonicalization, body, &mut |part| {
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(part.len());
        context.update(part.get(..room).unwrap_or(part));
        left -= room as u64;
        whole += part.len() as u64;
    });
    (context.finish().as_ref().to_vec(), whole)
}

fn write(canonicalization: Canonicalization, body: &[u8], out: &mut dyn FnMut(&[u8])) {
    // Empty lines count only once something follows them.
    let mut empty_lines = 0_u64;
    let mut is_empty = true;
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = match canonicalization {
            Canonicalization::Relaxed => without_space_at_end(line),
            Canonicalization::Simple => line,
        };
        if line.is_empty() {
            empty_lines += 1;
            continue;
        }
        for _ in 0..std::mem::take(&mut empty_lines) {
            out(b"\r\n");
        }
        is_empty = false;
        match canonicalization {
            Canonicalization::Relaxed => write_relaxed(line, out),
            Canonicalization::Simple => out(line),
        }
        out(b"\r\n");
    }
    if is_empty && canonicalization == Canonicalization::Simple {
        out(b"\r\n");
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn without_space_at_end(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|byte| !is_space(*byte)).map_or(0, |last| last + 1);
    line.get(..end).unwrap_or(line)
}

/// A line with every run of space as one blank.
fn write_relaxed(mut line: &[u8], out: &mut dyn FnMut(&[u8])) {
    while !line.is_empty() {
        // Where a run begins that is not one blank already.
        let odd = line.windows(2).position(|pair| match *pair {
            [b'\t', _] => true,
            [b' ', next] => is_space(next),
            _ => false,
        });
        let Some((before, rest)) = odd.and_then(|odd| line.split_at_checked(odd)) else {
            return out(line);
        };
        out(before);
        out(b" ");
        let end = rest.iter().position(|byte| !is_space(*byte)).unwrap_or(rest.len());
        line = rest.get(end..).unwrap_or_default();
    }
}
