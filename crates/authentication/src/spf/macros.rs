//! Macros in SPF records (RFC 7208 section 7).

use std::net::IpAddr;

use crate::domain::DOMAIN_BYTES_MAX;

/// A domain that may hold macros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DomainSpec {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Macro(Macro),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Macro {
    letter: char,
    /// An upper case letter: what is not unreserved is written as `%XX`.
    escape: bool,
    /// How many parts at the right are kept.
    parts: usize,
    reverse: bool,
    delimiters: String,
}

/// What macros stand for.
pub(super) struct Values<'a> {
    /// The sender, always with a local part.
    pub(super) sender: &'a str,
    /// The domain whose record is read.
    pub(super) domain: &'a str,
    pub(super) client: IpAddr,
    pub(super) helo: &'a str,
    /// The client's confirmed name, or `unknown`.
    pub(super) name: &'a str,
}

impl DomainSpec {
    /// A `domain-spec`: macros and text that ends in a label that could be a top-level domain, or in a macro.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let spec = Self::parse_macro_string(text)?;
        let ends_well = match spec.pieces.last()? {
            Piece::Macro(_) => true,
            Piece::Text(_) => ends_in_top_label(text),
        };
        ends_well.then_some(spec)
    }

    /// A `macro-string`.
    pub(super) fn parse_macro_string(text: &str) -> Option<Self> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            rest = rest.get(character.len_utf8()..)?;
            if character != '%' {
                if !character.is_ascii_graphic() {
                    return None;
                }
                plain.push(character);
                continue;
            }
            let kind = rest.chars().next()?;
            rest = rest.get(kind.len_utf8()..)?;
            match kind {
                '%' => plain.push('%'),
                '_' => plain.push(' '),
                '-' => plain.push_str("%20"),
                '{' => {
                    let (inside, after) = rest.split_once('}')?;
                    if !plain.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut plain)));
                    }
                    pieces.push(Piece::Macro(Macro::parse(inside)?));
                    rest = after;
                }
                _ => return None,
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Some(Self { pieces })
    }

    /// Whether the client's name must be known.
    pub(super) fn needs_name(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Macro(one) if one.letter == 'p'))
    }

    /// The domain that is meant, without a final dot; labels at its left go where it is too long.
    pub(super) fn expand(&self, values: &Values<'_>) -> String {
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Macro(one) => one.expand(values, &mut out),
            }
        }
        let mut domain = out.strip_suffix('.').unwrap_or(&out);
        while domain.len() > DOMAIN_BYTES_MAX {
            let Some((_, rest)) = domain.split_once('.') else { break };
            domain = rest;
        }
        domain.to_owned()
    }
}

impl Macro {
    fn parse(text: &str) -> Option<Self> {
        let first = text.chars().next()?;
        let letter = first.to_ascii_lowercase();
        if !"slodiphv".contains(letter) {
            return None;
        }
        let rest = text.get(1..)?;
        let digits_end = rest.find(|one: char| !one.is_ascii_digit()).unwrap_or(rest.len());
        let (digits, rest) = rest.split_at_checked(digits_end)?;
        let parts = match digits {
            "" => usize::MAX,
            // However many there are, a domain has fewer parts.
            digits => match digits.parse::<usize>().unwrap_or(usize::MAX) {
                0 => return None,
                parts => parts,
            },
        };
        let (reverse, delimiters) = match rest.strip_prefix(['r', 'R']) {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        if delimiters.chars().any(|one| !".-+,/_=".contains(one)) {
            return None;
        }
        let delimiters = if delimiters.is_empty() { "." } else { delimiters }.to_owned();
        Some(Self { letter, escape: first.is_ascii_uppercase(), parts, reverse, delimiters })
    }

    fn expand(&self, values: &Values<'_>, out: &mut String) {
        let (local_part, sender_domain) = values.sender.rsplit_once('@').unwrap_or_default();
        let value = match self.letter {
            's' => values.sender.to_owned(),
            'l' => local_part.to_owned(),
            'o' => sender_domain.to_owned(),
            'd' => values.domain.to_owned(),
            'i' => dotted(values.client),
            'p' => values.name.to_owned(),
            'h' => values.helo.to_owned(),
            _ => if values.client.is_ipv4() { "in-addr" } else { "ip6" }.to_owned(),
        };
        let mut parts: Vec<&str> = value.split(|one: char| self.delimiters.contains(one)).collect();
        if self.reverse {
            parts.reverse();
        }
        let kept = parts.get(parts.len().saturating_sub(self.parts)..).unwrap_or(&parts);
        let joined = kept.join(".");
        if !self.escape {
            return out.push_str(&joined);
        }
        for byte in joined.bytes() {
            match byte {
                b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
                byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
                byte => out.push_str(&format!("%{byte:02X}")),
            }
        }
    }
}

/// An address as its macro has it: IPv6 as 32 hexadecimal digits with dots between.
fn dotted(client: IpAddr) -> String {
    match client {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let digits = format!("{:032x}", u128::from(address));
            let mut out = String::with_capacity(63);
            for (place, digit) in digits.chars().enumerate() {
                if place > 0 {
                    out.push('.');
                }
                out.push(digit);
            }
            out
        }
    }
}

/// `"." toplabel ["."]` at the end: letters, digits and inner hyphens, not digits alone.
fn ends_in_top_label(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    text.rsplit_once('.').is_some_and(|(_, label)| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
            && !label.bytes().all(|byte| byte.is_ascii_digit())
    })
}
