//! Text: types that are read straight from it, and lines that end as they must in mail.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{Deserializer, Error, Visitor};

/// Reads something from the text that stands for it, as a type's `Deserialize` may.
///
/// # Errors
///
/// What the format says when there is no text, and what the type says of one that it cannot be read from.
pub fn from_text<'de, D: Deserializer<'de>, T>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr,
    T::Err: Display,
{
    deserializer.deserialize_str(Text(PhantomData))
}

struct Text<T>(PhantomData<T>);

impl<T> Visitor<'_> for Text<T>
where
    T: FromStr,
    T::Err: Display,
{
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// Text in CRLF lines: a CR or an LF that stands alone becomes CRLF, and the last line gets its end (RFC 5321 section 2.3.8).
pub fn crlf(text: &[u8]) -> Cow<'_, [u8]> {
    let mut bytes = text.iter().copied().peekable();
    let mut out = Vec::with_capacity(text.len() + 2);
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' => {
                bytes.next_if_eq(&b'\n');
                out.extend_from_slice(b"\r\n");
            }
            b'\n' => out.extend_from_slice(b"\r\n"),
            byte => out.push(byte),
        }
    }
    if !out.is_empty() && !out.ends_with(b"\n") {
        out.extend_from_slice(b"\r\n");
    }
    match out == text {
        true => Cow::Borrowed(text),
        false => Cow::Owned(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_in_crlf() {
        for (text, expected) in [
            ("", ""),
            ("a", "a\r\n"),
            ("a\nb\r\nc\rd\r\r\n", "a\r\nb\r\nc\r\nd\r\n\r\n"),
            ("\n\r", "\r\n\r\n"),
            ("a\r\n", "a\r\n"),
        ] {
            assert_eq!(crlf(text.as_bytes()), expected.as_bytes(), "{text:?}");
        }
    }
}
