//! Lists of `tag=value` as DKIM, ARC and DMARC write them (RFC 6376 section 3.2).

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// The most tags of one list.
const TAGS_MAX: usize = 64;

/// A list whose tags are each there once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tags<'a> {
    tags: Vec<(&'a str, &'a str)>,
}

impl<'a> Tags<'a> {
    /// Takes a list apart; nothing if it is none, or says a tag twice.
    pub(crate) fn parse(text: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let text = text.trim_matches(is_space);
        let text = text.strip_suffix(';').unwrap_or(text);
        let mut tags: Vec<(&str, &str)> = Vec::new();
        for part in text.split(';') {
            let (name, value) = part.split_once('=')?;
            let (name, value) = (name.trim_matches(is_space), value.trim_matches(is_space));
            let well_formed = name.starts_with(|first: char| first.is_ascii_alphabetic())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            let clean = value.chars().all(|one| is_space(one) || !one.is_control());
            if !well_formed || !clean || tags.len() >= TAGS_MAX {
                return None;
            }
            if tags.iter().any(|(other, _)| *other == name) {
                return None;
            }
            tags.push((name, value));
        }
        Some(Self { tags })
    }

    /// A tag's value without space around it.
    pub(crate) fn value(&self, name: &str) -> Option<&'a str> {
        self.tags.iter().find(|(other, _)| *other == name).map(|(_, value)| *value)
    }

    /// The first tag, which some lists want to be the version.
    pub(crate) fn first(&self) -> Option<(&'a str, &'a str)> {
        self.tags.first().copied()
    }

    /// The parts of a value between colons.
    pub(crate) fn list(&self, name: &str) -> Option<impl Iterator<Item = &'a str> + use<'a>> {
        Some(self.value(name)?.split(':').map(|part| part.trim_matches(is_space)))
    }

    /// A value in base64, in which space counts for nothing.
    pub(crate) fn bytes(&self, name: &str) -> Option<Option<Vec<u8>>> {
        Some(decode(self.value(name)?))
    }

    /// A number of digits alone; the inner nothing is a value that is none.
    pub(crate) fn number(&self, name: &str) -> Option<Option<u64>> {
        let value = self.value(name)?;
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        Some(if digits { Some(value.parse().unwrap_or(u64::MAX)) } else { None })
    }
}

/// What a fold may leave.
pub(crate) fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r' | '\n')
}

/// Base64 with and without padding.
fn decode(text: &str) -> Option<Vec<u8>> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, config);
    let packed: String = text.chars().filter(|one| !is_space(*one)).collect();
    engine.decode(packed).ok()
}

/// A header field's value with what `b=` says taken out, as it is signed (RFC 6376 section 3.7).
pub(crate) fn without_signature(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    for (number, part) in value.split(|byte| *byte == b';').enumerate() {
        if number > 0 {
            out.push(b';');
        }
        let equals = part.iter().position(|byte| *byte == b'=');
        match equals.and_then(|equals| part.split_at_checked(equals + 1)) {
            Some((name, _))
                if name.trim_ascii().strip_suffix(b"=").map(<[u8]>::trim_ascii) == Some(b"b") =>
            {
                out.extend_from_slice(name);
            }
            _ => out.extend_from_slice(part),
        }
    }
    out
}

/// Bytes in base64.
pub(crate) fn encode(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
