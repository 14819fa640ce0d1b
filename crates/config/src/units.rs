//! Values with units as an operator writes them: `"5m"`, `"5d"`, `"64MiB"`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

/// A length of time: a number and `ms`, `s`, `m`, `h`, `d` or `w`, as in `"90s"`; several may follow each other, `"1h30m"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(into = "String")]
pub struct Span(pub Duration);

/// A size in bytes: a whole number, or a text with `k`, `M`, `G` (powers of 1000) or `KiB`, `MiB`, `GiB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "NumberOrText", into = "u64")]
pub struct ByteSize(pub u64);

/// The text is not a value with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a length of time.
    #[error("not a length of time; a number and ms, s, m, h, d or w, as in \"5m\"")]
    Span,
    /// Not a size.
    #[error("not a size; a number of bytes, or a text such as \"50MiB\"")]
    Size,
}

const SPANS: &[(&str, u64)] = &[
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("ms", 1),
    ("m", 60_000),
    ("s", 1000),
];

const SIZES: &[(&str, u64)] = &[
    ("", 1),
    ("k", 1000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

impl Span {
    /// A span of so many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// A span of so many milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut rest = text.trim();
        let mut total = 0u64;
        if rest.is_empty() {
            return Err(UnitError::Span);
        }
        while !rest.is_empty() {
            let (number, after) = leading_number(rest).ok_or(UnitError::Span)?;
            let (unit, millis) =
                SPANS.iter().find(|(unit, _)| after.starts_with(unit)).ok_or(UnitError::Span)?;
            rest = after.strip_prefix(unit).unwrap_or_default();
            let part = number.checked_mul(*millis).ok_or(UnitError::Span)?;
            total = total.checked_add(part).ok_or(UnitError::Span)?;
        }
        Ok(Self(Duration::from_millis(total)))
    }
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at_checked(length)?;
    Some((number.parse().ok()?, rest))
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = leading_number(text.trim()).ok_or(UnitError::Size)?;
        let (_, factor) =
            SIZES.iter().find(|(name, _)| *name == unit.trim()).ok_or(UnitError::Size)?;
        number.checked_mul(*factor).map(Self).ok_or(UnitError::Size)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if millis == 0 {
            return formatter.write_str("0s");
        }
        for (unit, size) in
            [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)]
        {
            if millis >= size {
                write!(formatter, "{}{unit}", millis / size)?;
                millis %= size;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= size && self.0.is_multiple_of(size) {
                return write!(formatter, "{}{unit}", self.0 / size);
            }
        }
        write!(formatter, "{}", self.0)
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(SpanText)
    }
}

/// Takes a text for a length of time, and says so when it is given something else: a number has no unit.
struct SpanText;

impl Visitor<'_> for SpanText {
    type Value = Span;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a length of time with its unit, in quotes, as in \"5m\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
        text.parse().map_err(E::custom)
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

/// What a size may be written as.
#[derive(Deserialize)]
#[serde(untagged, expecting = "not a size; a number of bytes, or a text such as \"50MiB\"")]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl TryFrom<NumberOrText> for ByteSize {
    type Error = UnitError;

    fn try_from(value: NumberOrText) -> Result<Self, Self::Error> {
        match value {
            NumberOrText::Number(bytes) => Ok(Self(bytes)),
            NumberOrText::Text(text) => text.parse(),
        }
    }
}

impl From<ByteSize> for u64 {
    fn from(size: ByteSize) -> Self {
        size.0
    }
}

#[cfg(test)]
mod tests;
