//! The name of a stored message, passed between farms instead of the message.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Opaque text that names a store and a message in it: `spool:…`, `pg:…`.
///
/// At most [`Handle::BYTES_MAX`] printable ASCII characters without spaces. Only the store that made a
/// handle looks behind its colon.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(Box<str>);

/// The text is not a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a handle is STORE:NAME in at most {} printable characters", Handle::BYTES_MAX)]
pub struct HandleError;

impl Handle {
    /// The longest handle, in bytes.
    pub const BYTES_MAX: usize = 200;

    /// Takes a handle from text.
    pub fn parse(text: &str) -> Result<Self, HandleError> {
        let well_formed = text.len() <= Self::BYTES_MAX
            && text.bytes().all(|byte| byte.is_ascii_graphic())
            && text
                .split_once(':')
                .is_some_and(|(store, name)| !store.is_empty() && !name.is_empty());
        if well_formed { Ok(Self(text.into())) } else { Err(HandleError) }
    }

    /// The whole handle.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The store's name and what stands behind the colon.
    pub fn parts(&self) -> (&str, &str) {
        self.0.split_once(':').unwrap_or((&self.0, ""))
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::str::FromStr for Handle {
    type Err = HandleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for Handle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        mail::from_text(deserializer)
    }
}
