//! Where a mailbox is: a path with places for what an address says, which is never taken as it is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The longest name made from an address, in bytes. Every local part that SMTP allows fits, whatever must be escaped in it.
pub const NAME_BYTES_MAX: usize = 200;
/// How much is kept of a name that is longer, before its hash.
const NAME_BYTES_KEPT: usize = 160;

/// A path of a mailbox with `{data_dir}`, `{domain}` and `{user}` in it.
///
/// `{domain}` and `{user}` are put in lower case, and every byte but `a-z`, `0-9` and `. _ + = -` becomes `%` and two
/// hexadecimal digits, a leading dot too: they can neither leave their directory nor name two of them. A name longer than
/// [`NAME_BYTES_MAX`] is cut and ends in a hash of the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    DataDir,
    Domain,
    User,
}

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It does not begin at a known place.
    #[error("the path begins neither with / nor with {{data_dir}}")]
    Relative,
    /// It does not end with a slash.
    #[error("only Maildirs can be written, and a Maildir's path ends with a slash")]
    NotMaildir,
    /// A placeholder is not known.
    #[error("there is no placeholder {0}; there are {{data_dir}}, {{domain}} and {{user}}")]
    Unknown(String),
    /// A brace is open, or closed without having been opened.
    #[error("a brace has no partner")]
    Brace,
    /// `{data_dir}` stands elsewhere than at the beginning.
    #[error("{{data_dir}} can only stand at the beginning")]
    DataDir,
    /// It is not a plain path.
    #[error("the path has .. or a control character in it")]
    Path,
}

impl Template {
    /// Takes a template apart and checks it.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if !text.starts_with('/') && !text.starts_with("{data_dir}/") {
            return Err(TemplateError::Relative);
        }
        if !text.ends_with('/') {
            return Err(TemplateError::NotMaildir);
        }
        if text.contains(char::is_control) || text.split('/').any(|name| name == "..") {
            return Err(TemplateError::Path);
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or(TemplateError::Brace)?;
            if before.contains('}') {
                return Err(TemplateError::Brace);
            }
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(match name {
                "data_dir" if pieces.is_empty() => Piece::DataDir,
                "data_dir" => return Err(TemplateError::DataDir),
                "domain" => Piece::Domain,
                "user" => Piece::User,
                other => return Err(TemplateError::Unknown(format!("{{{other}}}"))),
            });
            rest = after;
        }
        if rest.contains('}') {
            return Err(TemplateError::Brace);
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self(pieces))
    }

    /// The Maildir of a user in a domain.
    pub fn path(&self, data_dir: &Path, domain: &str, user: &str) -> PathBuf {
        let mut path = OsString::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => path.push(text),
                Piece::DataDir => path.push(data_dir),
                Piece::Domain => path.push(escaped(domain)),
                Piece::User => path.push(escaped(user)),
            }
        }
        PathBuf::from(path)
    }
}

/// A name that is safe as part of a path, and different for different texts that differ in more than case.
fn escaped(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    for (index, byte) in text.to_lowercase().bytes().enumerate() {
        match byte {
            b'.' if index == 0 => name.push_str("%2E"),
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'+' | b'=' | b'-' => {
                name.push(char::from(byte));
            }
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    if name.is_empty() {
        return "%".to_owned();
    }
    if name.len() > NAME_BYTES_MAX {
        let hash = fnv1a(name.as_bytes());
        name.truncate(NAME_BYTES_KEPT);
        // No escape is `%-`, so no other name can look like this one.
        name.push_str(&format!("%-{hash:016x}"));
    }
    name
}

/// FNV-1a. It need not resist an attacker: only domains, which the operator routes here, become long enough to be hashed.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests;
