//! Header lines: where the header section ends, what its fields say, and how they are written and changed.
//!
//! Stored messages are CRLF text. Nothing here trusts that: a line ends at its LF, with or without a CR before it, and
//! what is no field ends the section, as it does for Postfix.

use std::borrow::Cow;
use std::collections::VecDeque;

use crate::Edit;

/// The longest header section that is looked at, in bytes; what follows is taken for body.
pub const SECTION_BYTES_MAX: usize = 1 << 20;
/// The longest line of a message, in octets without its CRLF (RFC 5322 section 2.1.1).
pub const LINE_BYTES_MAX: usize = 998;
/// Where lines of our own are folded, in octets without the CRLF (RFC 5322 section 2.1.1).
pub const FOLD_BYTES: usize = 78;

/// Where the header section of a message ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// How many bytes of whole header lines there are.
    pub header: usize,
    /// Where the body begins: behind the empty line, or at the first line that is no field.
    pub body: usize,
    /// Whether the end was found; if not, the bytes ran out after `header`, and more of them may be header.
    pub complete: bool,
}

/// Finds the end of the header section in the first bytes of a message.
///
/// A line that is neither a field nor the continuation of one ends the section, although no empty line stands there.
pub fn section(bytes: &[u8]) -> Section {
    let mut at = 0;
    let mut inside_field = false;
    for line in lines(bytes) {
        let Some(text) = line.strip_suffix(b"\n") else { break };
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let continues = inside_field && starts_with_space(text);
        if text.is_empty() {
            return Section { header: at, body: at + line.len(), complete: true };
        }
        if !continues && name_length(text).is_none() {
            return Section { header: at, body: at, complete: true };
        }
        inside_field = true;
        at += line.len();
    }
    Section { header: at, body: at, complete: false }
}

/// The header section of a whole message, without the empty line.
pub fn section_of(message: &[u8]) -> &[u8] {
    let head = message.get(..SECTION_BYTES_MAX).unwrap_or(message);
    let section = section(head);
    match section.complete || head.len() < message.len() {
        true => head.get(..section.header).unwrap_or(head),
        false => head,
    }
}

/// One field of a header section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    raw: &'a [u8],
    name: &'a str,
    value: &'a [u8],
}

impl<'a> Field<'a> {
    /// The field as it stands, with its folds and its last line end.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The name as it was written.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Whether the field has this name, in whatever case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// What stands behind the colon, with folds and space.
    pub fn raw_value(&self) -> &'a [u8] {
        self.value
    }

    /// The value unfolded, without space at its ends.
    pub fn value(&self) -> Cow<'a, [u8]> {
        unfold(self.value)
    }
}

/// The fields of a header section in order; ends where the section does.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

/// Goes through the fields of a message, or of its header section alone.
pub fn fields(message: &[u8]) -> Fields<'_> {
    Fields { rest: section_of(message) }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let name_bytes = name_length(self.rest)?;
        let mut length = 0;
        for line in lines(self.rest) {
            if length > 0 && !starts_with_space(line) {
                break;
            }
            length += line.len();
        }
        let (raw, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        let (before, value) = raw.split_at_checked(raw.iter().position(|byte| *byte == b':')?)?;
        let name = std::str::from_utf8(before.get(..name_bytes)?).ok()?;
        Some(Field { raw, name, value: value.get(1..)? })
    }
}

/// The first field of that name.
pub fn first<'a>(message: &'a [u8], name: &str) -> Option<Field<'a>> {
    fields(message).find(|field| field.is(name))
}

/// How many fields of that name there are.
pub fn count(message: &[u8], name: &str) -> usize {
    fields(message).filter(|field| field.is(name)).count()
}

/// Removes the line ends of folds, and space at both ends (RFC 5322 section 2.2.3).
pub fn unfold(value: &[u8]) -> Cow<'_, [u8]> {
    let value = value.trim_ascii();
    if !value.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        return Cow::Borrowed(value);
    }
    Cow::Owned(value.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect())
}

/// Whether a field may have this name: printable ASCII without a colon (RFC 5322 section 3.6.8).
pub fn is_field_name(name: &str) -> bool {
    !name.is_empty() && name.len() < FOLD_BYTES && name.bytes().all(is_name_byte)
}

/// Whether a character could break a line or turn its reading: control characters, what Unicode counts as line ends, and what
/// turns the direction of writing.
pub fn is_unsafe(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Makes a text safe to stand in a header line, a log or a reply: line ends and tabs become spaces; other control
/// characters, what Unicode counts as line ends, and what turns the direction of writing become `?`.
pub fn sanitise(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let safe = text.chars().map(|character| match character {
        '\r' | '\n' | '\t' => ' ',
        bad if is_unsafe(bad) => '?',
        good => good,
    });
    Cow::Owned(safe.collect())
}

/// Writes a field of our own, sanitised and folded at spaces to [`FOLD_BYTES`] where that can be; several spaces become one.
///
/// A word longer than [`LINE_BYTES_MAX`] is broken, since nothing else keeps the line legal.
pub fn write(out: &mut Vec<u8>, name: &str, value: &str) {
    let value = sanitise(value);
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    let mut column = name.len() + 1;
    for (number, word) in value.split(' ').filter(|word| !word.is_empty()).enumerate() {
        if number > 0 && column + 1 + word.len() > FOLD_BYTES {
            out.extend_from_slice(b"\r\n");
            column = 0;
        }
        out.push(b' ');
        column += 1;
        column = push_broken(out, word, column);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a field of our own whose spaces matter, such as an address with a quoted local part: sanitised, not folded.
pub fn write_unfolded(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    push_broken(out, sanitise(value).trim(), name.len() + 2);
    out.extend_from_slice(b"\r\n");
}

/// Applies edits, in order, to a header section without its empty line.
///
/// A `Change` counts the fields as earlier edits left them; one that names a field that is not there adds it, or does
/// nothing when it was to remove it. An edit whose name no field can have changes nothing. Values keep their folds;
/// a line end that is no fold becomes one, and NUL is dropped.
pub fn edit(section: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut fields: VecDeque<Cow<'_, [u8]>> =
        Fields { rest: section }.map(|field| Cow::Borrowed(field.raw())).collect();
    if let Some(last) = fields.back_mut()
        && !last.ends_with(b"\n")
    {
        last.to_mut().extend_from_slice(b"\r\n");
    }
    for edit in edits {
        match edit {
            Edit::Prepend { name, value } if is_field_name(name) => {
                fields.push_front(Cow::Owned(edited(name, value)));
            }
            Edit::Append { name, value } if is_field_name(name) => {
                fields.push_back(Cow::Owned(edited(name, value)));
            }
            Edit::Insert { index, name, value } if is_field_name(name) => {
                let place = usize::try_from(*index).unwrap_or(usize::MAX).min(fields.len());
                fields.insert(place, Cow::Owned(edited(name, value)));
            }
            Edit::Change { name, nth, value } if is_field_name(name) => {
                change(&mut fields, name, *nth, value.as_deref());
            }
            _ => {}
        }
    }
    let mut out = Vec::with_capacity(fields.iter().map(|field| field.len()).sum());
    for field in &fields {
        out.extend_from_slice(field);
    }
    out
}

/// The beginning of a message as it leaves, see [`leaving`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// The changed header section, with the empty line behind it if there is to be one.
    pub head: Vec<u8>,
    /// Where what follows `head` begins in the bytes that were given.
    pub rest: usize,
}

/// Changes the header section of a message of which these are the first bytes: what stands before its body as it leaves.
///
/// `first` is at least the header section with its end, or [`SECTION_BYTES_MAX`] bytes, or all of the message (`is_whole`); of a
/// longer header section the first part is changed. Whoever signs a message and whoever sends it both ask this, so that they come to
/// the same bytes. A message without edits leaves as it is stored.
pub fn leaving(first: &[u8], is_whole: bool, edits: &[Edit]) -> Leaving {
    let looked_at = first.get(..SECTION_BYTES_MAX).unwrap_or(first);
    let found = section(looked_at);
    let ends = found.complete || (is_whole && looked_at.len() == first.len());
    let mut head = edit(first.get(..found.header).unwrap_or_default(), edits);
    // Without an empty line, what follows the new header lines would be taken for one of them.
    if found.body > found.header || (ends && !head.is_empty()) {
        head.extend_from_slice(b"\r\n");
    }
    Leaving { head, rest: found.body }
}

fn change(fields: &mut VecDeque<Cow<'_, [u8]>>, name: &str, nth: u32, value: Option<&str>) {
    let before = usize::try_from(nth.saturating_sub(1)).unwrap_or(usize::MAX);
    let found = fields
        .iter()
        .enumerate()
        .filter(|(_, raw)| Fields { rest: raw }.next().is_some_and(|field| field.is(name)))
        .nth(before)
        .map(|(index, _)| index);
    match (found, value) {
        (Some(index), Some(value)) => {
            if let Some(field) = fields.get_mut(index) {
                *field = Cow::Owned(edited(name, value));
            }
        }
        (Some(index), None) => {
            fields.remove(index);
        }
        (None, Some(value)) => fields.push_back(Cow::Owned(edited(name, value))),
        (None, None) => {}
    }
}

/// A field of an edit: as given, but nothing in it can end the field early.
fn edited(name: &str, value: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + value.len() + 4);
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    let mut column = out.len();
    if !value.starts_with([' ', '\t']) {
        out.push(b' ');
        column += 1;
    }
    let normal = value.trim_end().replace("\r\n", "\n").replace('\r', "\n").replace('\0', "");
    for (number, line) in normal.split('\n').filter(|line| !line.trim().is_empty()).enumerate() {
        if number > 0 {
            out.extend_from_slice(b"\r\n");
            column = 0;
            if !line.starts_with([' ', '\t']) {
                out.push(b' ');
                column = 1;
            }
        }
        // A break must not leave a line of nothing but space behind it.
        let line = if column + line.len() > LINE_BYTES_MAX { line.trim_end() } else { line };
        column = push_broken(&mut out, line, column);
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// Adds text of one line, broken where it would pass [`LINE_BYTES_MAX`]; gives the column it ends at.
fn push_broken(out: &mut Vec<u8>, text: &str, mut column: usize) -> usize {
    for character in text.chars() {
        if column + character.len_utf8() > LINE_BYTES_MAX {
            out.extend_from_slice(b"\r\n ");
            column = 1;
        }
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        column += character.len_utf8();
    }
    column
}

/// Lines with their ends; the last may lack one.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n')
}

fn starts_with_space(line: &[u8]) -> bool {
    matches!(line.first(), Some(b' ' | b'\t'))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b':'
}

/// Whether a message in CRLF lines begins with a header field, or with an empty line and so without any, as far as this beginning of
/// it tells; nothing while it does not. Where it does not so begin, fields put before it need an empty line behind them.
pub fn opens_with_field(text: &[u8]) -> Option<bool> {
    let name = text.iter().take_while(|byte| is_name_byte(**byte)).count();
    let after = text.get(name..)?.iter().find(|byte| !matches!(byte, b' ' | b'\t'));
    match (text.first()?, after) {
        (b'\r', _) => Some(true),
        (b' ' | b'\t', _) => Some(false),
        (_, Some(after)) => Some(name > 0 && *after == b':'),
        (_, None) => (text.len() > LINE_BYTES_MAX).then_some(false),
    }
}

/// How long the name of the field is that begins here; nothing when none does. Space before the colon is obsolete syntax.
fn name_length(line: &[u8]) -> Option<usize> {
    let name = line.iter().take_while(|byte| is_name_byte(**byte)).count();
    let after = line.get(name..)?.iter().find(|byte| !matches!(byte, b' ' | b'\t'))?;
    (name > 0 && *after == b':').then_some(name)
}

#[cfg(test)]
mod tests;
