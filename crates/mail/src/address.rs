//! An address as SMTP knows it: a local part and a domain (RFC 5321 section 4.1.2, RFC 6531).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest address we take, in octets (RFC 5321 section 4.5.3.1.3 allows a path of 256 with its brackets).
pub const ADDRESS_BYTES_MAX: usize = 254;
/// The longest local part, in octets (RFC 5321 section 4.5.3.1.1).
pub const LOCAL_PART_BYTES_MAX: usize = 64;
/// The longest domain, in octets (RFC 5321 section 4.5.3.1.2).
pub const DOMAIN_BYTES_MAX: usize = 255;

/// A mailbox address, `local-part@domain`, kept as it was written.
///
/// The local part may be a quoted string and keeps its quotes and its case. The domain is a host name,
/// an address literal in brackets, or a name in UTF-8. `postmaster` alone, which RFC 5321 section 4.5.1
/// demands, is an address without a domain. Source routes are dropped by the grammar; `%` and `!` mean nothing.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    text: Box<str>,
    /// Where the `@` that separates the parts stands; the length of the text if there is none.
    at: u16,
}

/// Why a text is not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The address is longer than [`ADDRESS_BYTES_MAX`].
    #[error("address is longer than {ADDRESS_BYTES_MAX} octets")]
    TooLong,
    /// The local part is longer than [`LOCAL_PART_BYTES_MAX`].
    #[error("local part is longer than {LOCAL_PART_BYTES_MAX} octets")]
    LocalPartTooLong,
    /// The local part is empty or holds what RFC 5321 does not allow.
    #[error("malformed local part")]
    LocalPart,
    /// There is no domain, and the local part is not `postmaster`.
    #[error("domain is missing")]
    NoDomain,
    /// The domain is neither a host name nor an address literal.
    #[error("malformed domain")]
    Domain,
}

impl Address {
    /// Takes an address apart and checks it against RFC 5321 section 4.1.2, with RFC 6531's UTF-8.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.len() > ADDRESS_BYTES_MAX {
            return Err(AddressError::TooLong);
        }
        let at = local_part_length(text)?;
        let (local, rest) = text.split_at(at);
        if local.len() > LOCAL_PART_BYTES_MAX {
            return Err(AddressError::LocalPartTooLong);
        }
        match rest.strip_prefix('@') {
            Some(domain) => check_domain(domain)?,
            None if rest.is_empty() && local.eq_ignore_ascii_case("postmaster") => {}
            None if rest.is_empty() => return Err(AddressError::NoDomain),
            None => return Err(AddressError::LocalPart),
        }
        let at = u16::try_from(at).map_err(|_| AddressError::TooLong)?;
        Ok(Self { text: text.into(), at })
    }

    /// The whole address as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The local part as it was written, with its quotes if it has any.
    pub fn local_part(&self) -> &str {
        self.text.split_at(usize::from(self.at)).0
    }

    /// The domain as it was written, or nothing for a bare `postmaster`.
    pub fn domain(&self) -> &str {
        self.text.split_at(usize::from(self.at)).1.strip_prefix('@').unwrap_or("")
    }

    /// Whether every octet is ASCII, so that a next hop without SMTPUTF8 can take it.
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }
}

/// Finds where the local part ends: a dot-string or a quoted string.
fn local_part_length(text: &str) -> Result<usize, AddressError> {
    if text.starts_with('"') {
        return quoted_string_length(text);
    }
    let length = text.find('@').unwrap_or(text.len());
    let local = text.split_at(length).0;
    let well_formed = !local.is_empty()
        && local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext));
    if well_formed { Ok(length) } else { Err(AddressError::LocalPart) }
}

fn quoted_string_length(text: &str) -> Result<usize, AddressError> {
    let mut characters = text.char_indices().skip(1);
    while let Some((index, character)) = characters.next() {
        match character {
            '"' if index == 1 => return Err(AddressError::LocalPart),
            '"' => return Ok(index + 1),
            '\\' => match characters.next() {
                Some((_, ' '..='~')) => {}
                _ => return Err(AddressError::LocalPart),
            },
            ' '..='~' => {}
            _ if !character.is_ascii() && !character.is_control() => {}
            _ => return Err(AddressError::LocalPart),
        }
    }
    Err(AddressError::LocalPart)
}

fn is_atext(character: char) -> bool {
    match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' => true,
        _ if character.is_ascii() => "!#$%&'*+-/=?^_`{|}~".contains(character),
        _ => !character.is_control(),
    }
}

fn check_domain(domain: &str) -> Result<(), AddressError> {
    if domain.is_empty() || domain.len() > DOMAIN_BYTES_MAX {
        return Err(AddressError::Domain);
    }
    let well_formed = match domain.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
        Some(Some(literal)) => is_address_literal(literal),
        Some(None) => false,
        None => domain.split('.').all(is_label),
    };
    if well_formed { Ok(()) } else { Err(AddressError::Domain) }
}

fn is_address_literal(literal: &str) -> bool {
    match literal.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("ipv6:") => {
            literal.get(5..).is_some_and(|rest| rest.parse::<std::net::Ipv6Addr>().is_ok())
        }
        _ => literal.parse::<std::net::Ipv4Addr>().is_ok(),
    }
}

/// A label of letters, digits, hyphens and, as real host names have them, underscores; or UTF-8 (RFC 6531).
fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= 63
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.chars().all(|character| {
            character.is_ascii_alphanumeric()
                || character == '-'
                || character == '_'
                || (!character.is_ascii() && !character.is_control() && !character.is_whitespace())
        })
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "<{}>", self.text)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::from_text(deserializer)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.text.into()
    }
}

#[cfg(test)]
mod tests;
