//! What an alias stands for.

use std::fmt;

use mail::Address;

/// One value of an alias (aliases(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An address, to be looked up in its turn.
    Address(Address),
    /// A local part, in the domain of the address that was looked up.
    Name(String),
    /// `\name`: this mailbox itself, without a further look-up.
    Mailbox(String),
    /// A program, a file or an inclusion, which is not supported: mail for it fails, and loading warns.
    Unsupported(String),
}

impl Target {
    /// Takes one value apart; the error says what is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let bare = text.strip_prefix('"').unwrap_or(text);
        if bare.starts_with('|') || bare.starts_with('/') || bare.starts_with(":include:") {
            return Ok(Self::Unsupported(text.to_owned()));
        }
        if let Some(name) = text.strip_prefix('\\') {
            return local_part(name).map(Self::Mailbox);
        }
        let text = within_brackets(text)?;
        if let Ok(name) = local_part(text) {
            return Ok(Self::Name(name));
        }
        Address::parse(text)
            .map(Self::Address)
            .map_err(|error| format!("{text:?} is neither an address nor a name: {error}"))
    }

    /// What kind of unsupported target this is, in words for a warning.
    pub(crate) fn unsupported(&self) -> Option<&str> {
        match self {
            Self::Unsupported(text) => Some(text),
            Self::Address(_) | Self::Name(_) | Self::Mailbox(_) => None,
        }
    }
}

/// `Anna <anna@example.test>` is `anna@example.test`.
fn within_brackets(text: &str) -> Result<&str, String> {
    match text.strip_suffix('>') {
        None => Ok(text),
        Some(open) => open
            .rsplit_once('<')
            .map(|(_, address)| address.trim())
            .ok_or_else(|| format!("{text:?} has a closing bracket only")),
    }
}

/// A local part by itself. Whether it is one is the address grammar's to say.
pub(crate) fn local_part(text: &str) -> Result<String, String> {
    match Address::parse(&format!("{text}@a.test")) {
        Ok(address) if address.local_part() == text => Ok(text.to_owned()),
        _ => Err(format!("{text:?} is not the local part of an address")),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(formatter),
            Self::Name(name) => formatter.write_str(name),
            Self::Mailbox(name) => write!(formatter, "\\{name}"),
            Self::Unsupported(text) => write!(formatter, "{}", text.escape_debug()),
        }
    }
}
