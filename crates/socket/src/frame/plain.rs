//! Frames as this program itself writes them: told by their beginning, so that what they carry is read once and not twice.
//!
//! Whoever takes one must read what it carries to the end, as one JSON value. Where that fails it was another frame, or none, and
//! [`super::parse`] says which.

use std::time::Duration;

use super::DEADLINE_MAX;

/// How each of our requests and answers begins.
pub(super) const BEGIN: &str = "{\"jsonrpc\":\"2.0\",\"id\":";
pub(super) const METHOD: &str = ",\"method\":\"";
pub(super) const DEADLINE: &str = ",\"deadline_ms\":";
pub(super) const PARAMS: &str = ",\"params\":";
pub(super) const RESULT: &str = ",\"result\":";

/// A request whose parameters were not looked at.
pub(crate) struct PlainRequest<'a> {
    pub(crate) id: u64,
    pub(crate) method: &'a str,
    pub(crate) deadline: Option<Duration>,
    pub(crate) params: &'a str,
}

/// Takes a line for a request, if it begins as ours do.
pub(crate) fn plain_request(line: &[u8]) -> Option<PlainRequest<'_>> {
    let (id, rest) = begin(line)?;
    let (method, mut rest) = rest.strip_prefix(METHOD)?.split_once('"')?;
    let mut deadline = None;
    if let Some(number) = rest.strip_prefix(DEADLINE) {
        let (ms, after) = digits(number)?;
        deadline = Some(Duration::from_millis(ms).min(DEADLINE_MAX));
        rest = after;
    }
    let params = rest.strip_prefix(PARAMS)?.strip_suffix('}')?;
    Some(PlainRequest { id, method, deadline, params })
}

/// Takes a line for an answer, if it begins as ours do: the id, and the result that was not looked at.
pub(crate) fn plain_answer(line: &[u8]) -> Option<(u64, &str)> {
    let (id, rest) = begin(line)?;
    Some((id, rest.strip_prefix(RESULT)?.strip_suffix('}')?))
}

fn begin(line: &[u8]) -> Option<(u64, &str)> {
    digits(std::str::from_utf8(line).ok()?.strip_prefix(BEGIN)?)
}

/// A number as JSON has it, and what follows.
fn digits(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit())?;
    let (digits, rest) = text.split_at_checked(end)?;
    let is_json = digits == "0" || !digits.starts_with('0');
    Some((digits.parse().ok().filter(|_| is_json)?, rest))
}
