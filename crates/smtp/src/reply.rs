//! Replies as a server sends them (RFC 5321 section 4.2, RFC 2034): bytes in any pieces in, whole replies out.
//!
//! A server is a stranger. A line, a reply and a text have limits, a reply that breaks the grammar ends the session, and
//! no byte outside printable ASCII leaves this module: what a server says goes into logs, ledgers and reports.

use mail::StatusCode;

#[cfg(test)]
mod tests;

/// The longest line of a reply with its line end, in bytes; RFC 5321 section 4.5.3.1.5 allows 512.
pub const LINE_BYTES_MAX: usize = 4096;
/// The most lines of one reply.
pub const LINES_MAX: usize = 100;
/// How much of a line, and of the one-line text of a whole reply, is kept, in bytes.
pub const TEXT_BYTES_MAX: usize = 512;

/// One whole reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    status: Option<StatusCode>,
    /// What stands behind the code on each line, in printable ASCII, joined by line feeds.
    lines: String,
}

/// Why bytes are not a reply. The session cannot go on: what follows could answer anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// A line does not begin with a code from 200 to 599 and a space or hyphen.
    #[error("a line that is not a reply")]
    Malformed,
    /// A line is longer than [`LINE_BYTES_MAX`].
    #[error("a reply line longer than {LINE_BYTES_MAX} bytes")]
    LineTooLong,
    /// The reply has more than [`LINES_MAX`] lines.
    #[error("a reply of more than {LINES_MAX} lines")]
    TooManyLines,
    /// The lines of one reply have codes of different classes.
    #[error("a reply whose lines contradict each other")]
    MixedCodes,
}

/// What the first digit of a code says (RFC 5321 section 4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// 2yz: done.
    Positive,
    /// 3yz: go on.
    Intermediate,
    /// 4yz: not now.
    Transient,
    /// 5yz: never.
    Permanent,
}

impl Reply {
    /// The code, 200 to 599.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// What the code's first digit says.
    pub fn class(&self) -> Class {
        match self.code / 100 {
            2 => Class::Positive,
            3 => Class::Intermediate,
            4 => Class::Transient,
            _ => Class::Permanent,
        }
    }

    /// The enhanced status code that the server gave (RFC 2034), if it fits the code's class.
    pub fn enhanced(&self) -> Option<StatusCode> {
        self.status
    }

    /// The enhanced status code, or `X.0.0` of the code's class if the server gave none that fits.
    pub fn status(&self) -> StatusCode {
        let class = match self.class() {
            Class::Positive | Class::Intermediate => 2,
            Class::Transient => 4,
            Class::Permanent => 5,
        };
        self.status.unwrap_or(StatusCode::new(class, 0, 0))
    }

    /// What stands behind the code on each line.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.split('\n')
    }

    /// The whole reply on one line, code first, at most [`TEXT_BYTES_MAX`] bytes; a repeated enhanced code is left out.
    pub fn text(&self) -> String {
        let mut text = self.code.to_string();
        let mut before: Option<&str> = None;
        for line in self.lines() {
            let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
            let repeated = before == Some(first) && first.parse::<StatusCode>().is_ok();
            let line = if repeated { rest } else { line };
            before = Some(first);
            if !line.is_empty() {
                text.push(' ');
                text.push_str(line);
            }
        }
        // All of it is ASCII, so that any place is a border between characters.
        text.truncate(TEXT_BYTES_MAX);
        text
    }

    /// The reply as an outcome carries it, said by `remote`.
    pub fn said_by(&self, remote: &str) -> mail::Reply {
        mail::Reply { status: self.status(), text: self.text(), remote: Some(remote.to_owned()) }
    }
}

/// Puts replies together from bytes in any pieces. After an error it must not be used again.
#[derive(Debug, Default)]
pub struct Parser {
    /// A line whose end has not come.
    line: Vec<u8>,
    /// The reply whose last line has not come, and how many lines of it have.
    partial: Option<(Reply, usize)>,
}

impl Parser {
    /// Takes bytes from `input` up to the end of one reply; nothing means that all were taken and more are needed.
    pub fn take(&mut self, input: &mut &[u8]) -> Result<Option<Reply>, ReplyError> {
        while !input.is_empty() {
            let Some(end) = memchr::memchr(b'\n', input) else {
                self.keep(input)?;
                *input = &[];
                return Ok(None);
            };
            let (line, rest) = input.split_at_checked(end + 1).unwrap_or((input, &[]));
            *input = rest;
            let finished = if self.line.is_empty() {
                self.take_line(line)?
            } else {
                self.keep(line)?;
                let line = std::mem::take(&mut self.line);
                self.take_line(&line)?
            };
            if finished.is_some() {
                return Ok(finished);
            }
        }
        Ok(None)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), ReplyError> {
        if self.line.len() + bytes.len() > LINE_BYTES_MAX {
            return Err(ReplyError::LineTooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn take_line(&mut self, line: &[u8]) -> Result<Option<Reply>, ReplyError> {
        if line.len() > LINE_BYTES_MAX {
            return Err(ReplyError::LineTooLong);
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (code, is_last, text) = take_apart(line).ok_or(ReplyError::Malformed)?;
        let (mut reply, count) = match self.partial.take() {
            None => (Reply { code, status: None, lines: String::new() }, 0),
            Some((reply, _)) if reply.code / 100 != code / 100 => {
                return Err(ReplyError::MixedCodes);
            }
            Some((_, LINES_MAX..)) => return Err(ReplyError::TooManyLines),
            Some((mut reply, count)) => {
                reply.code = code;
                reply.lines.push('\n');
                (reply, count)
            }
        };
        let start = reply.lines.len();
        reply.lines.extend(text.iter().take(TEXT_BYTES_MAX).map(|byte| printable(*byte)));
        if reply.status.is_none() {
            reply.status = enhanced(reply.lines.get(start..).unwrap_or_default(), code);
        }
        if is_last {
            return Ok(Some(reply));
        }
        self.partial = Some((reply, count + 1));
        Ok(None)
    }
}

/// Code, whether it is the reply's last line, and what stands behind.
fn take_apart(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    let code = digits.iter().try_fold(0u16, |code, byte| {
        byte.is_ascii_digit().then(|| code * 10 + u16::from(byte - b'0'))
    })?;
    if !(200..=599).contains(&code) {
        return None;
    }
    match rest.split_first() {
        None => Some((code, true, rest)),
        Some((b' ', text)) => Some((code, true, text)),
        Some((b'-', text)) => Some((code, false, text)),
        Some(_) => None,
    }
}

/// What a byte from outside looks like in a text.
fn printable(byte: u8) -> char {
    match byte {
        b' '..=b'~' => char::from(byte),
        b'\t' => ' ',
        _ => '?',
    }
}

fn enhanced(text: &str, code: u16) -> Option<StatusCode> {
    let first = text.split(' ').next().unwrap_or_default();
    let status: StatusCode = first.parse().ok()?;
    (u16::from(status.class) == code / 100).then_some(status)
}
