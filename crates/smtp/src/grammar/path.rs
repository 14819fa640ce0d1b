//! Reverse-paths and forward-paths (RFC 5321 section 4.1.2).

use mail::{Address, AddressError};

/// A path as MAIL or RCPT gave it, without its source route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Path {
    /// `<>`.
    Null,
    /// A mailbox.
    Mailbox(Address),
}

/// Why a text is not a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The brackets or what stands around them are wrong.
    #[error("malformed path")]
    Brackets,
    /// The source route is malformed.
    #[error("malformed source route")]
    Route,
    /// The mailbox is malformed.
    #[error(transparent)]
    Address(#[from] AddressError),
}

impl Path {
    /// Takes a path from the start of what follows `FROM:` or `TO:`, and gives what follows the path.
    ///
    /// Spaces before the path are forgiven, and so are missing brackets, as printers and scripts send them.
    pub fn parse(text: &str) -> Result<(Self, &str), PathError> {
        let text = text.trim_start_matches(' ');
        let Some(bracketed) = text.strip_prefix('<') else {
            let (mailbox, rest) = text.split_at(text.find(' ').unwrap_or(text.len()));
            return Ok((Self::Mailbox(Address::parse(mailbox)?), rest));
        };
        let end = closing_bracket(bracketed).ok_or(PathError::Brackets)?;
        let (inner, rest) = bracketed.split_at(end);
        let rest = rest.strip_prefix('>').unwrap_or(rest);
        if !(rest.is_empty() || rest.starts_with(' ')) {
            return Err(PathError::Brackets);
        }
        if inner.is_empty() {
            return Ok((Self::Null, rest));
        }
        Ok((Self::Mailbox(Address::parse(without_route(inner)?)?), rest))
    }
}

/// Where the `>` stands that is not part of a quoted local part.
fn closing_bracket(text: &str) -> Option<usize> {
    let mut quoted = false;
    let mut bytes = text.bytes().enumerate();
    while let Some((index, byte)) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => {
                bytes.next();
            }
            b'>' if !quoted => return Some(index),
            b'<' if !quoted => return None,
            _ => {}
        }
    }
    None
}

/// Drops `@a,@b:` before a mailbox. RFC 5321 appendix F.2: it must be taken and should be ignored.
fn without_route(path: &str) -> Result<&str, PathError> {
    if !path.starts_with('@') {
        return Ok(path);
    }
    let (route, mailbox) = path.split_once(':').ok_or(PathError::Route)?;
    let well_formed = route.split(',').all(|hop| {
        hop.strip_prefix('@').is_some_and(|host| {
            !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_[]".contains(&byte))
        })
    });
    if well_formed { Ok(mailbox) } else { Err(PathError::Route) }
}
