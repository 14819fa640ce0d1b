//! Whom a message says it is from: the domains of its From fields, read so that no reader finds one that we did not.
//!
//! What programs show as the author differs where a field is malformed (attack A20 of the test suite's list). So a field that RFC 5322
//! allows gives its addresses; of any other, whatever stands behind an `@` counts, also in encoded words.

#[cfg(test)]
mod tests;

use crate::domain;
use crate::message::View;

/// The authors of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Authors {
    /// The domains, each once, in A-labels; at most [`AUTHORS_MAX`].
    pub(crate) domains: Vec<String>,
    /// What is wrong with the fields.
    pub(crate) problem: Option<&'static str>,
    /// There were more domains.
    pub(crate) too_many: bool,
}

/// The most domains of authors that are looked at.
pub(crate) const AUTHORS_MAX: usize = 8;
/// The longest From field that is taken apart, in bytes.
const FIELD_BYTES_MAX: usize = 16 << 10;

impl Authors {
    pub(crate) fn of(view: &View<'_>) -> Self {
        let mut authors = Self::default();
        let mut count = 0;
        for field in view.all("From") {
            count += 1;
            let value = field.value();
            if value.len() > FIELD_BYTES_MAX {
                authors.problem = Some("From is too long");
                authors.too_many = true;
                continue;
            }
            let text = String::from_utf8_lossy(&value);
            match mailboxes(&text) {
                Some(addresses) if !addresses.is_empty() => {
                    for address in addresses {
                        authors.add(&address);
                    }
                }
                _ => {
                    authors.problem = Some("From cannot be read");
                    authors.add_all_of(&text);
                    authors.add_all_of(&mail_decoded(&text));
                }
            }
        }
        match count {
            0 => authors.problem = Some("no From"),
            1 => {}
            _ => authors.problem = Some("several From fields"),
        }
        authors
    }

    fn add(&mut self, domain: &str) {
        let Some(domain) = domain::normal(domain) else {
            self.problem = Some("From names no domain");
            return;
        };
        if self.domains.contains(&domain) {
            return;
        }
        if self.domains.len() >= AUTHORS_MAX {
            self.too_many = true;
        } else {
            self.domains.push(domain);
        }
    }

    /// Adds every domain that a lenient reader could find.
    fn add_all_of(&mut self, text: &str) {
        for after in text.split('@').skip(1) {
            let end = after
                .find(|one: char| !(one.is_alphanumeric() || matches!(one, '-' | '_' | '.')))
                .unwrap_or(after.len());
            let domain = after.get(..end).unwrap_or_default().trim_matches('.');
            if domain.contains('.') {
                self.add(domain);
            }
        }
    }
}

/// The text with encoded words decoded, as a careless reader has it.
fn mail_decoded(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("=?") {
        out.push_str(before);
        let mut parts = after.splitn(4, '?');
        let (_, encoding, word, tail) = (parts.next(), parts.next(), parts.next(), parts.next());
        let (Some(encoding), Some(word), Some(tail)) = (encoding, word, tail) else { break };
        out.push_str(&String::from_utf8_lossy(&decoded(encoding, word)));
        rest = tail.strip_prefix('=').unwrap_or(tail);
    }
    out.push_str(rest);
    out
}

fn decoded(encoding: &str, word: &str) -> Vec<u8> {
    use base64::Engine as _;
    if encoding.eq_ignore_ascii_case("b") {
        return base64::engine::general_purpose::STANDARD.decode(word).unwrap_or_default();
    }
    let mut out = Vec::new();
    let mut bytes = word.bytes();
    while let Some(byte) = bytes.next() {
        let hex = || {
            let digits = [bytes.clone().next()?, bytes.clone().nth(1)?];
            u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()
        };
        match (byte, hex()) {
            (b'=', Some(value)) => {
                out.push(value);
                bytes.next();
                bytes.next();
            }
            (b'_', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
    }
    out
}

/// The domains of a mailbox list (RFC 5322 section 3.4, with groups of RFC 6854); nothing if it is none.
fn mailboxes(text: &str) -> Option<Vec<String>> {
    let tokens = Token::all(text)?;
    let mut domains = Vec::new();
    let mut mailbox = Vec::new();
    let mut in_group = false;
    for token in tokens {
        match token {
            Token::Special(',') if mailbox.is_empty() => {}
            Token::Special(',') => {
                domains.push(domain_of(&std::mem::take(&mut mailbox))?);
            }
            Token::Special(':') if !in_group && is_phrase(&mailbox) => {
                mailbox.clear();
                in_group = true;
            }
            Token::Special(';') if in_group => {
                in_group = false;
                if !mailbox.is_empty() {
                    domains.push(domain_of(&std::mem::take(&mut mailbox))?);
                }
            }
            token => mailbox.push(token),
        }
    }
    if in_group {
        return None;
    }
    if !mailbox.is_empty() {
        domains.push(domain_of(&mailbox)?);
    }
    Some(domains)
}

/// A token of a structured field, comments and space left out.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// Atoms and dots, or a domain literal.
    Word(String),
    Quoted,
    Special(char),
}

/// How deep comments may nest.
const COMMENT_DEPTH_MAX: usize = 10;

impl Token {
    fn all(text: &str) -> Option<Vec<Self>> {
        let mut tokens = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(character) = rest.next() {
            match character {
                ' ' | '\t' => {}
                '(' => skip_comment(&mut rest, COMMENT_DEPTH_MAX)?,
                '"' => {
                    skip_until(&mut rest, '"')?;
                    tokens.push(Self::Quoted);
                }
                '<' | '>' | '@' | ',' | ':' | ';' => tokens.push(Self::Special(character)),
                ')' | '[' | ']' | '\\' => return None,
                one if one.is_control() => return None,
                first => {
                    let mut word = String::from(first);
                    while let Some(next) = rest.next_if(|one| is_word(*one)) {
                        word.push(next);
                    }
                    tokens.push(Self::Word(word));
                }
            }
        }
        Some(tokens)
    }
}

fn is_word(character: char) -> bool {
    !character.is_control() && !" \t()\"<>@,:;[]\\".contains(character)
}

fn skip_until(rest: &mut impl Iterator<Item = char>, end: char) -> Option<()> {
    loop {
        match rest.next()? {
            '\\' => {
                rest.next()?;
            }
            one if one == end => return Some(()),
            _ => {}
        }
    }
}

/// Skips a comment (RFC 5322 section 3.2.2) behind its opening bracket; nothing when it has no end, or nests deeper than that.
pub(crate) fn skip_comment(rest: &mut impl Iterator<Item = char>, depth_max: usize) -> Option<()> {
    let mut depth = 1;
    loop {
        match rest.next()? {
            '\\' => {
                rest.next()?;
            }
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(());
        }
        if depth > depth_max {
            return None;
        }
    }
}

fn is_phrase(tokens: &[Token]) -> bool {
    !tokens.is_empty() && tokens.iter().all(|token| !matches!(token, Token::Special(_)))
}

/// The domain of `[phrase] <local@domain>` or `local@domain`.
fn domain_of(tokens: &[Token]) -> Option<String> {
    let address = match tokens.iter().position(|token| *token == Token::Special('<')) {
        Some(open) => {
            let (phrase, rest) = tokens.split_at_checked(open)?;
            let [_, address @ .., Token::Special('>')] = rest else { return None };
            (phrase.is_empty() || is_phrase(phrase)).then_some(address)?
        }
        None => tokens,
    };
    match address {
        [Token::Word(local), Token::Special('@'), Token::Word(domain)] => {
            // An encoded word is no part of an address, but some readers decode it there.
            let plain = !local.contains("=?") && is_dot_atom(local);
            (plain && is_dot_atom(domain)).then(|| domain.clone())
        }
        [Token::Quoted, Token::Special('@'), Token::Word(domain)] => {
            is_dot_atom(domain).then(|| domain.clone())
        }
        _ => None,
    }
}

fn is_dot_atom(text: &str) -> bool {
    text.split('.').all(|atom| !atom.is_empty())
}
