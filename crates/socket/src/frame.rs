//! Frames: one JSON-RPC 2.0 object a line, at most [`LINE_BYTES_MAX`] bytes with its line feed.

mod plain;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{ErrorObject, codes};

pub(crate) use plain::{PlainRequest, plain_answer, plain_request};

/// The most bytes of a frame, its line feed included.
pub const LINE_BYTES_MAX: usize = 1 << 20;
/// A request's frame around its parameters takes at most so many bytes.
pub(crate) const FRAME_BYTES: usize = 256;
/// The most bytes of an id that is a text.
const ID_BYTES_MAX: usize = 128;
/// The longest deadline a request may name; a longer one counts as this.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 3600);
/// The most bytes of an error's message: it may quote what the peer sent.
const MESSAGE_BYTES_MAX: usize = 400;

/// A frame, borrowed from its line.
#[derive(Debug)]
pub(crate) enum Frame<'a> {
    /// Wants an answer.
    Request {
        id: Id,
        method: Cow<'a, str>,
        deadline: Option<Duration>,
        alone: bool,
        params: &'a RawValue,
    },
    /// Wants none.
    Notification { method: Cow<'a, str>, params: &'a RawValue },
    /// Answers a request.
    Answer { id: Id, result: &'a RawValue },
    /// Answers a request with an error, or tells of a line that could not be read.
    Error { id: Option<Id>, error: ErrorObject },
}

/// The id of a request, given back as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Id {
    Number(u64),
    /// JSON text: a string, or a number that is not ours.
    Text(Box<str>),
}

/// A line that is no frame: what to answer.
#[derive(Debug)]
pub(crate) struct Malformed {
    pub(crate) id: Option<Id>,
    pub(crate) error: ErrorObject,
}

/// A line longer than [`LINE_BYTES_MAX`]; the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow, default)]
    method: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(default)]
    deadline_ms: Option<u64>,
    #[serde(default)]
    alone: bool,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<ErrorObject>,
}

#[derive(Deserialize)]
struct OnlyId<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
}

/// Reads one line, without its line feed.
pub(crate) fn parse(line: &[u8]) -> Result<Frame<'_>, Malformed> {
    let raw: Raw<'_> = serde_json::from_slice(line).map_err(|error| malformed(line, &error))?;
    let id = match raw.id {
        None => None,
        Some(raw) if raw.get() == "null" => None,
        Some(raw) => Some(Id::read(raw).ok_or_else(|| invalid(None, "the id is not usable"))?),
    };
    if let Some(Text(method)) = raw.method {
        let params = raw.params.unwrap_or_else(no_params);
        let deadline = raw.deadline_ms.map(|ms| Duration::from_millis(ms).min(DEADLINE_MAX));
        return Ok(match (id, raw.id) {
            (Some(id), _) => Frame::Request { id, method, deadline, alone: raw.alone, params },
            (None, Some(_)) => return Err(invalid(None, "a request with the id null")),
            (None, None) => Frame::Notification { method, params },
        });
    }
    match (id, raw.result, raw.error) {
        (id, None, Some(error)) => Ok(Frame::Error { id, error }),
        (Some(id), Some(result), None) => Ok(Frame::Answer { id, result }),
        (id, ..) => Err(invalid(id, "neither a method, nor a result, nor an error")),
    }
}

fn malformed(line: &[u8], error: &serde_json::Error) -> Malformed {
    if error.is_data() {
        let id = serde_json::from_slice::<OnlyId<'_>>(line).ok();
        let id = id.and_then(|only| only.id).and_then(Id::read);
        return invalid(id, &format!("not a request: {error}"));
    }
    Malformed {
        id: None,
        error: ErrorObject::new(codes::PARSE, shortened(&format!("not JSON: {error}"))),
    }
}

fn invalid(id: Option<Id>, message: &str) -> Malformed {
    Malformed { id, error: ErrorObject::new(codes::INVALID_REQUEST, shortened(message)) }
}

/// Cuts a text at a character's border, so that an error's message stays a line.
pub(crate) fn shortened(message: &str) -> String {
    let end = message.floor_char_boundary(MESSAGE_BYTES_MAX);
    message.get(..end).unwrap_or_default().to_owned()
}

/// The parameters of a request that has none: an empty object.
fn no_params<'a>() -> &'a RawValue {
    serde_json::from_str("{}").expect("an empty object is JSON")
}

/// Keeps a `null` apart from a member that is missing.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// A text borrowed from the line where it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

impl Id {
    fn read(raw: &RawValue) -> Option<Self> {
        let text = raw.get();
        if let Ok(number) = text.parse() {
            return Some(Self::Number(number));
        }
        let first = text.as_bytes().first()?;
        let usable = *first == b'"' || *first == b'-' || first.is_ascii_digit();
        (usable && text.len() <= ID_BYTES_MAX).then(|| Self::Text(text.into()))
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Number(number) => crate::write_json(number, out),
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
        }
    }
}

fn push(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// Appends a request. `params` is JSON already; `method` is a plain word of ours.
pub(crate) fn write_request(
    out: &mut Vec<u8>,
    id: u64,
    method: &str,
    (deadline, alone): (Option<Duration>, bool),
    params: &[u8],
) {
    push(out, plain::BEGIN);
    crate::write_json(&id, out);
    push(out, plain::METHOD);
    push(out, method);
    push(out, "\"");
    if let Some(deadline) = deadline {
        push(out, plain::DEADLINE);
        crate::write_json(&u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX), out);
    }
    if alone {
        push(out, ",\"alone\":true");
    }
    push(out, plain::PARAMS);
    out.extend_from_slice(params);
    out.extend_from_slice(b"}\n");
}

/// Appends an answer; one that is too long for a frame becomes an error.
pub(crate) fn write_answer<T: Serialize>(out: &mut Vec<u8>, id: &Id, answer: &T) {
    let begin = out.len();
    push(out, plain::BEGIN);
    id.write(out);
    push(out, plain::RESULT);
    crate::write_json(answer, out);
    out.extend_from_slice(b"}\n");
    if out.len() - begin > LINE_BYTES_MAX {
        out.truncate(begin);
        let error = ErrorObject::new(codes::INTERNAL, "the answer is longer than a frame may be");
        write_error(out, Some(id), &error);
    }
}

/// Appends an error reply.
pub(crate) fn write_error(out: &mut Vec<u8>, id: Option<&Id>, error: &ErrorObject) {
    push(out, plain::BEGIN);
    match id {
        Some(id) => id.write(out),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"error\":");
    let short = ErrorObject { code: error.code, message: shortened(&error.message) };
    crate::write_json(&short, out);
    out.extend_from_slice(b"}\n");
}

/// Appends a notification.
pub(crate) fn write_notification<T: Serialize>(out: &mut Vec<u8>, method: &str, params: &T) {
    push(out, "{\"jsonrpc\":\"2.0\",\"method\":\"");
    push(out, method);
    push(out, "\"");
    push(out, plain::PARAMS);
    crate::write_json(params, out);
    out.extend_from_slice(b"}\n");
}

/// Cuts a stream into lines, keeping what is not whole yet.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes bytes as they came and calls `on_line` for each line that they complete, without its line end; empty lines are
    /// left out. Stops early when `on_line` says false: what follows is dropped with the connection.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut on_line: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), TooLong> {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            if self.partial.len() + line.len() + 1 > LINE_BYTES_MAX {
                return Err(TooLong);
            }
            let go_on = if self.partial.is_empty() {
                call(line, &mut on_line)
            } else {
                self.partial.extend_from_slice(line);
                let whole = std::mem::take(&mut self.partial);
                call(&whole, &mut on_line)
            };
            if !go_on {
                return Ok(());
            }
        }
        if self.partial.len() + bytes.len() >= LINE_BYTES_MAX {
            return Err(TooLong);
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }
}

fn call(line: &[u8], on_line: &mut impl FnMut(&[u8]) -> bool) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.is_empty() || on_line(line)
}

#[cfg(test)]
mod tests;
