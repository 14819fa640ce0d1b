//! The text of a table: aliases(5), virtual(5), or a list of keys.
//!
//! ```text
//! # a comment
//! postmaster: anna                      a name, a colon, values
//! sales:  berta, carl,
//!         sales@example.org             a line that begins with white space goes on with the one before
//! info@example.test anna@example.test   without a colon: virtual(5)
//! @example.org: anna                    everyone else of a domain
//! anna                                  a key alone, in a list of keys
//! ```

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::target::local_part;
use crate::{Entry, Kind, Target};

/// The entries of a table, by key in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// What it holds.
    pub entries: HashMap<String, Arc<Entry>>,
    /// The domains that its keys name.
    pub domains: HashSet<String>,
    /// What is legal but hardly meant: line, and what.
    pub warnings: Vec<(usize, String)>,
}

/// What is wrong on which line, from 1.
pub type LineError = (usize, String);

/// Reads the text of a table.
pub fn parse(text: &str, kind: Kind) -> Result<Content, LineError> {
    let mut content = Content::default();
    for (line, logical) in logical_lines(text)? {
        let (key, values) = split_entry(&logical).map_err(|wrong| (line, wrong))?;
        let targets = match kind {
            Kind::Keys => Vec::new(),
            Kind::Aliases => parse_targets(&[values.to_owned()]).map_err(|wrong| (line, wrong))?,
        };
        content.add(line, key, kind, targets).map_err(|wrong| (line, wrong))?;
    }
    Ok(content)
}

impl Content {
    /// Adds an entry; of several with one key the first holds, as in Postfix.
    pub(crate) fn add(
        &mut self,
        line: usize,
        key: &str,
        kind: Kind,
        targets: Vec<Target>,
    ) -> Result<(), String> {
        if kind == Kind::Aliases {
            check_alias_key(key)?;
        }
        let unsupported = targets.iter().filter_map(Target::unsupported).map(|text| {
            let text = text.escape_debug();
            let wrong = "programs, files and inclusions are not supported, and mail for it fails";
            (line, format!("{key}: {text}: {wrong}"))
        });
        self.warnings.extend(unsupported);
        match self.entries.entry(canonical(key)) {
            Slot::Occupied(first) => {
                let first = first.get().line;
                self.warnings
                    .push((line, format!("{key} stands already on line {first}, which holds")));
            }
            Slot::Vacant(slot) => {
                if let Some((_, domain)) = slot.key().rsplit_once('@') {
                    self.domains.insert(domain.to_owned());
                }
                slot.insert(Arc::new(Entry { line, targets }));
            }
        }
        Ok(())
    }
}

/// A key as it is compared: lower case, without quotes that are not needed.
pub(crate) fn canonical(key: &str) -> String {
    let (local, domain) = match key.rfind('"') {
        Some(end) if key.starts_with('"') && end > 0 => key.split_at(end + 1),
        _ => return key.to_ascii_lowercase(),
    };
    let bare = local.trim_matches('"');
    let local = if local_part(bare).is_ok() { bare } else { local };
    format!("{local}{domain}").to_ascii_lowercase()
}

/// Joins continuation lines, drops comments and empty lines; each with the number of its first line.
fn logical_lines(text: &str) -> Result<Vec<(usize, String)>, LineError> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        if let Some(position) = trimmed.find(|c: char| c.is_control() && c != '\t') {
            return Err((index + 1, format!("control character after {position} bytes")));
        }
        match lines.last_mut() {
            _ if !line.starts_with(char::is_whitespace) => {
                lines.push((index + 1, trimmed.to_owned()));
            }
            Some((_, logical)) => {
                logical.push(' ');
                logical.push_str(trimmed);
            }
            None => {
                let wrong =
                    "begins with white space, but there is no entry that it could go on with";
                return Err((index + 1, wrong.to_owned()));
            }
        }
    }
    Ok(lines)
}

/// Splits an entry into key and values, at the first colon or white space outside quotes and brackets.
fn split_entry(line: &str) -> Result<(&str, &str), String> {
    let mut quoted = false;
    let mut bracketed = false;
    let mut escaped = false;
    let mut end = line.len();
    for (index, character) in line.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '[' if !quoted => bracketed = true,
            ']' if !quoted => bracketed = false,
            _ if !quoted && !bracketed && (character == ':' || character.is_whitespace()) => {
                end = index;
                break;
            }
            _ => {}
        }
    }
    if quoted {
        return Err("a quote is not closed".to_owned());
    }
    let (key, rest) = line.split_at(end);
    if key.is_empty() {
        return Err("a key is missing before the colon".to_owned());
    }
    let rest = rest.trim();
    let values = match rest.strip_prefix(':') {
        Some(values)
            if !rest.starts_with(":include:") || line.as_bytes().get(end) == Some(&b':') =>
        {
            values.trim()
        }
        _ => rest,
    };
    Ok((key, values))
}

/// Takes values apart: texts, each of one or several separated by commas.
pub(crate) fn parse_targets(texts: &[String]) -> Result<Vec<Target>, String> {
    let mut targets = Vec::new();
    for text in texts {
        for piece in split_commas(text)? {
            if !piece.trim().is_empty() {
                targets.push(Target::parse(piece)?);
            }
        }
    }
    if targets.is_empty() {
        return Err("an alias without an address; right would be name: address, address".to_owned());
    }
    Ok(targets)
}

fn split_commas(text: &str) -> Result<Vec<&str>, String> {
    let mut quoted = false;
    let mut escaped = false;
    let pieces = text
        .split(|character| {
            match character {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                ',' => return !quoted,
                _ => {}
            }
            false
        })
        .collect();
    if quoted { Err("a quote is not closed".to_owned()) } else { Ok(pieces) }
}

fn check_alias_key(key: &str) -> Result<(), String> {
    let whole = if key.starts_with('@') { format!("a{key}") } else { key.to_owned() };
    if local_part(key).is_ok() || mail::Address::parse(&whole).is_ok() {
        return Ok(());
    }
    Err(format!("{key:?} is not a name, an address or @domain"))
}

#[cfg(test)]
mod tests;
