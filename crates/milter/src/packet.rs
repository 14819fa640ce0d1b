//! What a milter sends: packets from bytes in any pieces.
//!
//! A milter may be broken or hostile: each packet, text and reply has a limit, what has no meaning is an error, and after an error
//! nothing more is read, for what follows could mean anything.

use bytes::{Buf, Bytes, BytesMut};
use mail::StatusCode;

use crate::options::Offer;

/// The longest packet that a milter may send, in bytes, without its length.
pub const PACKET_BYTES_MAX: usize = 1 << 20;
/// The largest piece of a body in one packet, in bytes.
pub const PIECE_BYTES_MAX: usize = 65_535;
/// The most lines of a reply.
pub const LINES_MAX: usize = 32;
/// How much of each line of a reply, and of a reason, is kept, in bytes.
pub const TEXT_BYTES_MAX: usize = 400;

/// The bytes of a packet's length.
const LENGTH_BYTES: usize = 4;

/// One packet of a milter's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// What it wants of the conversation; the answer to the negotiation alone.
    Offer(Offer),
    /// What a command comes to.
    Answer(Answer),
    /// A change to the message, before the answer to its end.
    Change(Change),
    /// A piece of another body, at the same place.
    Body(Bytes),
    /// It is still at work.
    Progress,
}

/// What a command comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Go on.
    Continue,
    /// It needs to know nothing more: of the session at connect and HELO, else of the message.
    Accept,
    /// Refuse it for good.
    Reject,
    /// Refuse it for now.
    Tempfail,
    /// Take it and forget it.
    Discard,
    /// Refuse it in these words.
    Reply(Reply),
    /// It needs no more pieces of the body.
    Skip,
    /// Take nothing more of this client, as if the connection had failed.
    ConnectionFails,
    /// Take nothing more of this client: 421.
    ShutDown,
}

/// A refusal in a milter's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The reply code, 400 to 599.
    pub code: u16,
    /// The enhanced status code, if it gave one of the code's class.
    pub status: Option<StatusCode>,
    /// The text behind the codes, each line at most [`TEXT_BYTES_MAX`] bytes, at most [`LINES_MAX`] of them.
    pub lines: Vec<String>,
}

/// A change to a message, but for its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A header field at the end of the section.
    AddHeader {
        /// Its name.
        name: String,
        /// Its value; folds are line feeds.
        value: String,
    },
    /// A header field at a place.
    InsertHeader {
        /// How many fields stand before it.
        index: u32,
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// Another value for the nth field of a name, from 1; an empty one removes it.
    ChangeHeader {
        /// Which of several.
        nth: u32,
        /// Its name.
        name: String,
        /// Its new value.
        value: String,
    },
    /// Another sender.
    Sender {
        /// The address as it was written, mostly in angle brackets.
        address: String,
        /// Its parameters, as behind MAIL.
        parameters: String,
    },
    /// A recipient more.
    AddRecipient {
        /// The address as it was written.
        address: String,
        /// Its parameters, as behind RCPT.
        parameters: String,
    },
    /// A recipient less.
    RemoveRecipient(String),
    /// Hold the message for this reason.
    Quarantine(String),
}

/// Why bytes make no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A packet of no bytes.
    #[error("an empty packet")]
    Empty,
    /// A packet longer than [`PACKET_BYTES_MAX`].
    #[error("a packet of {0} bytes")]
    TooLong(u32),
    /// A letter that the protocol does not have.
    #[error("an unknown answer {:?}", char::from(*.0))]
    Unknown(u8),
    /// Data that do not fit their letter.
    #[error("wrong data behind {:?}", char::from(*.0))]
    Data(u8),
    /// A reply without a code from 400 to 599, or of more than [`LINES_MAX`] lines.
    #[error("a reply that is none")]
    Reply,
    /// A letter that has no place here.
    #[error("an answer out of place")]
    OutOfPlace,
    /// Something was said without a question.
    #[error("an answer without a question")]
    Unasked,
    /// A change that was not agreed on.
    #[error("a change that was not agreed on")]
    NotAgreed,
    /// A version of the protocol that we do not speak.
    #[error("version {0} of the protocol")]
    Version(u32),
    /// Wishes that we do not know.
    #[error("unknown wishes {0:#x} in the negotiation")]
    Wishes(u32),
    /// More changes than a message may have.
    #[error("changes of more than {0} bytes")]
    TooMuch(usize),
}

/// Puts packets together from bytes in any pieces. After an error it must not be used again.
#[derive(Debug, Default)]
pub struct Packets {
    buffer: BytesMut,
}

impl Packets {
    /// Where bytes that have come are put.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Whether nothing is left that was not taken.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Takes the next packet, if all of it is there.
    ///
    /// # Errors
    ///
    /// The bytes make no sense.
    pub fn take(&mut self) -> Result<Option<Packet>, Malformed> {
        let Some(length) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length);
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if bytes > PACKET_BYTES_MAX {
            return Err(Malformed::TooLong(length));
        }
        // A length that is nonsense is found at once, not when a megabyte more has come.
        if let Some(letter) = self.buffer.get(LENGTH_BYTES).filter(|_| bytes > 0)
            && !LETTERS.contains(letter)
        {
            return Err(Malformed::Unknown(*letter));
        }
        if self.buffer.len() < LENGTH_BYTES + bytes {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        packet(self.buffer.split_to(bytes).freeze()).map(Some)
    }
}

/// All letters that a packet may begin with.
const LETTERS: &[u8] = b"+-24abcdefhimOpqrsty";

fn packet(bytes: Bytes) -> Result<Packet, Malformed> {
    let Some((letter, data)) = bytes.split_first() else { return Err(Malformed::Empty) };
    let letter = *letter;
    let wrong = Malformed::Data(letter);
    let alone = |answer| data.is_empty().then_some(Packet::Answer(answer)).ok_or(wrong);
    let change = |change: Option<Change>| change.map(Packet::Change).ok_or(wrong);
    match letter {
        b'O' => Offer::parse(data).map(Packet::Offer).ok_or(wrong),
        b'c' => alone(Answer::Continue),
        b'a' => alone(Answer::Accept),
        b'r' => alone(Answer::Reject),
        b't' => alone(Answer::Tempfail),
        b'd' => alone(Answer::Discard),
        b's' => alone(Answer::Skip),
        b'f' => alone(Answer::ConnectionFails),
        b'4' => alone(Answer::ShutDown),
        b'p' => data.is_empty().then_some(Packet::Progress).ok_or(wrong),
        b'y' => reply(data).map(|reply| Packet::Answer(Answer::Reply(reply))),
        b'b' => Ok(Packet::Body(bytes.slice(1..))),
        b'h' => change(header(data).map(|(name, value)| Change::AddHeader { name, value })),
        b'i' => change(numbered(data).map(|(index, name, value)| Change::InsertHeader {
            index,
            name,
            value,
        })),
        b'm' => change(numbered(data).map(|(nth, name, value)| Change::ChangeHeader {
            nth: nth.max(1),
            name,
            value,
        })),
        b'e' => change(
            address(data).map(|(address, parameters)| Change::Sender { address, parameters }),
        ),
        b'+' | b'2' => change(
            address(data).map(|(address, parameters)| Change::AddRecipient { address, parameters }),
        ),
        b'-' => change(address(data).map(|(address, _)| Change::RemoveRecipient(address))),
        b'q' => change(only(data).map(|reason| Change::Quarantine(plain(&reason)))),
        _ => Err(Malformed::Unknown(letter)),
    }
}

/// Texts that each end with NUL.
fn texts(data: &[u8]) -> Option<Vec<String>> {
    if data.is_empty() {
        return Some(Vec::new());
    }
    let data = data.strip_suffix(&[0])?;
    Some(data.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into()).collect())
}

/// The texts, if there are so many.
fn fixed<const N: usize>(data: &[u8]) -> Option<[String; N]> {
    texts(data)?.try_into().ok()
}

fn only(data: &[u8]) -> Option<String> {
    fixed(data).map(|[text]| text)
}

fn header(data: &[u8]) -> Option<(String, String)> {
    let [name, value] = fixed(data)?;
    mail::header::is_field_name(&name).then_some((name, value))
}

fn numbered(data: &[u8]) -> Option<(u32, String, String)> {
    let (number, rest) = data.split_first_chunk()?;
    let (name, value) = header(rest)?;
    Some((u32::from_be_bytes(*number), name, value))
}

/// An address, with parameters or without. One that is not UTF-8 is none, for another would be written to.
fn address(data: &[u8]) -> Option<(String, String)> {
    std::str::from_utf8(data).ok()?;
    let mut texts = texts(data)?.into_iter();
    let (address, parameters) = (texts.next()?, texts.next().unwrap_or_default());
    texts.next().is_none().then_some((address, parameters))
}

/// A reply as `smfi_setreply` and `smfi_setmlreply` make it: each line has the code; `%%` is a `%`.
fn reply(data: &[u8]) -> Result<Reply, Malformed> {
    let text = only(data).ok_or(Malformed::Data(b'y'))?;
    let text = text.trim_end_matches(['\r', '\n']);
    let code = text.get(..3).filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()));
    let digits = code.ok_or(Malformed::Reply)?;
    let code: u16 = digits.parse().map_err(|_| Malformed::Reply)?;
    if !(400..600).contains(&code) {
        return Err(Malformed::Reply);
    }
    let mut reply = Reply { code, status: None, lines: Vec::new() };
    for (number, line) in text.split('\n').enumerate() {
        if number >= LINES_MAX {
            return Err(Malformed::Reply);
        }
        let line = line.strip_suffix('\r').unwrap_or(line);
        let rest = line.strip_prefix(digits).ok_or(Malformed::Reply)?;
        let rest = match rest.strip_prefix([' ', '-']) {
            Some(rest) => rest,
            None if rest.is_empty() => rest,
            None => return Err(Malformed::Reply),
        };
        let (status, rest) = with_status(rest, code);
        reply.status = reply.status.or(status);
        reply.lines.push(plain(&rest.replace("%%", "%")));
    }
    Ok(reply)
}

/// Takes an enhanced status code of the reply code's class from the beginning of a line.
fn with_status(line: &str, code: u16) -> (Option<StatusCode>, &str) {
    let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
    match first.parse::<StatusCode>() {
        Ok(status) if u16::from(status.class) == code / 100 => (Some(status), rest),
        _ => (None, line),
    }
}

/// A text of a milter's as it may stand in a reply or a reason.
fn plain(text: &str) -> String {
    let text = mail::header::sanitise(text);
    let most = text.floor_char_boundary(TEXT_BYTES_MAX);
    text.get(..most).unwrap_or_default().trim_end().to_owned()
}

#[cfg(test)]
mod tests;
