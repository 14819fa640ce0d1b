//! The name of a message: in replies, in `Received`, in every log line and every command.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Timestamp;

/// Twenty characters of base 32 (Crockford's alphabet in lower case): 48 bits of time, then 52 of chance.
///
/// Ids sort by the time of their making. Their uniqueness does not rest on the clock: two of the same
/// millisecond are told apart by 52 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId([u8; MessageId::LENGTH]);

/// The text is not a message id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message id is {} characters of 0-9 and a-z without i, l, o and u", MessageId::LENGTH)]
pub struct MessageIdError;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl MessageId {
    /// How many characters an id has.
    pub const LENGTH: usize = 20;

    /// Makes the id of a message begun at `at`; `chance` must be fresh random bits.
    pub fn new(at: Timestamp, chance: u64) -> Self {
        let value = (u128::from(at.millis() & 0xffff_ffff_ffff) << 52)
            | u128::from(chance & 0xf_ffff_ffff_ffff);
        let mut text = [0; Self::LENGTH];
        for (place, byte) in text.iter_mut().rev().enumerate() {
            let digit = (value >> (5 * place)) & 31;
            *byte = ALPHABET.get(digit as usize).copied().unwrap_or(b'0');
        }
        Self(text)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The id as bytes, all of them ASCII.
    pub fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// Takes an id from bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MessageIdError> {
        let text: [u8; Self::LENGTH] = bytes.try_into().map_err(|_| MessageIdError)?;
        if text.iter().all(|byte| is_digit(*byte)) { Ok(Self(text)) } else { Err(MessageIdError) }
    }
}

/// Whether a byte is of [`ALPHABET`].
fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'z') && !matches!(byte, b'i' | b'l' | b'o' | b'u')
}

impl fmt::Display for MessageId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for MessageId {
    type Err = MessageIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_bytes(text.as_bytes())
    }
}

impl Serialize for MessageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for MessageId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::from_text(deserializer)
    }
}

#[cfg(test)]
mod tests;
