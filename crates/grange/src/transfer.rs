//! A queue as one stream of bytes, to carry it from one store to another: `grange queue export` and `import`.
//!
//! ```text
//! {"queue":{"version":1}}
//! {"message":{"accepted":{…},"routed":{…},"bytes":5}}      without routed: accepted, and not yet routed
//! hello                                                     so many bytes, as they came; then a line end
//! {"checksum":"9a71bb4c"}                                   CRC-32C of them
//! {"record":{…}}                                            lanes suspended, strikes, routings asked for
//! {"end":{"messages":1}}
//! ```
//!
//! A stream without its end is not whole, and is known not to be.

use std::io::{BufRead, Read, Write};

use bytes::Bytes;
use queue::{Accepted, Record, Routed};
use serde::{Deserialize, Serialize};

/// The version of the form that is written and read.
const VERSION: u32 = 1;
/// The longest line that is read, in bytes: an envelope of 100,000 recipients, each with its routing, is shorter.
const LINE_BYTES_MAX: u64 = 256 << 20;
/// What is read of a body at a time, in bytes.
const PIECE_BYTES: usize = 64 << 10;

/// A line of the stream.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// The first.
    Queue { version: u32 },
    /// A message, whose body follows.
    Message(Box<Message>),
    /// What follows a body.
    Checksum(String),
    /// What belongs to no routed message.
    Record(Box<Record>),
    /// The last.
    End { messages: u64 },
}

/// A message in the stream, but for its body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Its accept record.
    pub accepted: Accepted,
    /// Where it stands, if it has been routed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routed: Option<Routed>,
    /// How long its body is.
    pub bytes: u64,
}

/// Why a stream could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// It could not be read at all.
    #[error("cannot read it")]
    Io(#[from] std::io::Error),
    /// It is not what this program writes, or was cut off or changed.
    #[error("{0}")]
    Wrong(String),
}

/// Writes a stream.
pub struct Writer<W> {
    out: W,
    messages: u64,
    /// The checksum of the body so far, and how many bytes are to come.
    body: Option<(u32, u64)>,
}

impl<W: Write> Writer<W> {
    /// Begins a stream.
    pub fn begin(out: W) -> std::io::Result<Self> {
        let mut writer = Self { out, messages: 0, body: None };
        writer.line(&Line::Queue { version: VERSION })?;
        Ok(writer)
    }

    /// Begins a message; its body follows, in pieces.
    pub fn message(&mut self, message: Message) -> std::io::Result<()> {
        self.messages += 1;
        self.body = Some((0, message.bytes));
        self.line(&Line::Message(Box::new(message)))
    }

    /// Adds to the body.
    pub fn body(&mut self, piece: &[u8]) -> std::io::Result<()> {
        if let Some((checksum, left)) = &mut self.body {
            *checksum = crc32c::crc32c_append(*checksum, piece);
            *left = left.saturating_sub(piece.len() as u64);
        }
        self.out.write_all(piece)
    }

    /// Ends the body.
    pub fn end_body(&mut self) -> std::io::Result<()> {
        let (checksum, left) = self.body.take().unwrap_or_default();
        if left > 0 {
            return Err(std::io::Error::other("a body is shorter than its message says"));
        }
        self.out.write_all(b"\n")?;
        self.line(&Line::Checksum(format!("{checksum:08x}")))
    }

    /// Writes what belongs to no routed message.
    pub fn record(&mut self, record: Record) -> std::io::Result<()> {
        self.line(&Line::Record(Box::new(record)))
    }

    /// Ends the stream, and says how many messages are in it.
    pub fn end(mut self) -> std::io::Result<(W, u64)> {
        self.line(&Line::End { messages: self.messages })?;
        self.out.flush()?;
        Ok((self.out, self.messages))
    }

    fn line(&mut self, line: &Line) -> std::io::Result<()> {
        serde_json::to_writer(&mut self.out, line)?;
        self.out.write_all(b"\n")
    }
}

/// What comes next in a stream.
#[derive(Debug)]
pub enum Item {
    /// A message, whose body is to be read next, by [`Reader::piece`], to its end.
    Message(Box<Message>),
    /// What belongs to no routed message.
    Record(Record),
}

/// Reads a stream.
pub struct Reader<R> {
    input: R,
    messages: u64,
    lines: u64,
    /// The checksum of the body so far, and how many bytes are to come.
    body: Option<(u32, u64)>,
}

impl<R: BufRead> Reader<R> {
    /// Begins to read a stream.
    pub fn begin(input: R) -> Result<Self, TransferError> {
        let mut reader = Self { input, messages: 0, lines: 0, body: None };
        match reader.line()? {
            Line::Queue { version: VERSION } => Ok(reader),
            Line::Queue { version } => Err(TransferError::Wrong(format!(
                "it has version {version}, and this program reads {VERSION}"
            ))),
            _ => Err(reader.wrong("it does not begin as an exported queue does")),
        }
    }

    /// What comes next; nothing at the end.
    pub fn next(&mut self) -> Result<Option<Item>, TransferError> {
        match self.line()? {
            Line::Message(message) => {
                if message.bytes != message.accepted.size {
                    return Err(self.wrong("a message and its body differ in size"));
                }
                self.messages += 1;
                self.body = Some((0, message.bytes));
                Ok(Some(Item::Message(message)))
            }
            Line::Record(record) => Ok(Some(Item::Record(*record))),
            Line::End { messages } if messages == self.messages => Ok(None),
            Line::End { messages } => {
                let read = self.messages;
                Err(self.wrong(&format!("it should hold {messages} messages and holds {read}")))
            }
            Line::Queue { .. } | Line::Checksum(_) => Err(self.wrong("a line is out of place")),
        }
    }

    /// The next piece of the body; nothing at its end, when all of it has proved right.
    pub fn piece(&mut self) -> Result<Option<Bytes>, TransferError> {
        let Some((checksum, left)) = self.body else { return Ok(None) };
        if left == 0 {
            self.body = None;
            let mut end = [0];
            self.input.read_exact(&mut end)?;
            return match self.line()? {
                Line::Checksum(told) if told == format!("{checksum:08x}") => Ok(None),
                _ => Err(self.wrong("the body above is not what was written")),
            };
        }
        let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(left).unwrap_or(PIECE_BYTES))];
        self.input.read_exact(&mut piece)?;
        let checksum = crc32c::crc32c_append(checksum, &piece);
        self.body = Some((checksum, left - piece.len() as u64));
        Ok(Some(piece.into()))
    }

    fn line(&mut self) -> Result<Line, TransferError> {
        let mut line = Vec::new();
        self.lines += 1;
        (&mut self.input).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Err(self.wrong("it is cut off"));
        }
        serde_json::from_slice(&line).map_err(|error| self.wrong(&error.to_string()))
    }

    fn wrong(&self, what: &str) -> TransferError {
        let Self { lines, messages, .. } = self;
        TransferError::Wrong(format!(
            "{what} (at line {lines}, bodies left out, after {messages} messages)"
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use queue::Handle;
    use queue::conformance::{accept, pattern, routed};

    use super::*;

    fn message(number: u64, bytes: usize) -> Message {
        let id = mail::MessageId::new(mail::Timestamp::from_millis(5), number);
        let accepted = Accepted { id, size: bytes as u64, accept: accept("a@example.test", 2) };
        let handle = Handle::parse(&format!("spool:1.{number}")).expect("a handle");
        let routed = match routed(id, &handle, 1) {
            Record::Routed(routed) if number.is_multiple_of(2) => Some(*routed),
            _ => None,
        };
        Message { accepted, routed, bytes: bytes as u64 }
    }

    fn written(sizes: &[usize]) -> Vec<u8> {
        let mut writer = Writer::begin(Vec::new()).expect("memory takes all");
        for (number, bytes) in sizes.iter().enumerate() {
            writer.message(message(number as u64, *bytes)).expect("memory takes all");
            pattern(*bytes, 3).chunks(1000).for_each(|piece| {
                writer.body(piece).expect("memory takes all");
            });
            writer.end_body().expect("memory takes all");
        }
        let suspended = Record::Suspend { channel: "smtp".into(), host: None, until: None };
        writer.record(suspended).expect("memory takes all");
        writer.end().expect("memory takes all").0
    }

    /// Reads all of it; gives the messages and the bytes of each.
    fn read(bytes: &[u8]) -> Result<Vec<(Message, Vec<u8>)>, TransferError> {
        let mut reader = Reader::begin(bytes)?;
        let mut messages = Vec::new();
        while let Some(item) = reader.next()? {
            let Item::Message(message) = item else { continue };
            let mut body = Vec::new();
            while let Some(piece) = reader.piece()? {
                body.extend_from_slice(&piece);
            }
            messages.push((*message, body));
        }
        Ok(messages)
    }

    #[test]
    fn what_is_written_is_read() {
        let sizes = [0, 1, 65_536, 200_000];
        let read = read(&written(&sizes)).expect("it is whole");
        assert_eq!(read.len(), sizes.len());
        for (number, ((read, body), bytes)) in read.into_iter().zip(sizes).enumerate() {
            assert_eq!(read, message(number as u64, bytes));
            assert_eq!(body, pattern(bytes, 3));
        }
    }

    #[test]
    fn what_is_cut_off_or_of_another_kind_is_refused() {
        let whole = written(&[10, 3000]);
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length} bytes of {}", whole.len());
        }
        assert!(read(b"{\"queue\":{\"version\":9}}\n{\"end\":{\"messages\":0}}\n").is_err());
        assert!(read(b"From a@example.test\n").is_err());
    }

    proptest! {
        #[test]
        fn a_changed_byte_of_a_body_is_known(place in 0usize..3000) {
            let mut changed = written(&[3000]);
            let body = pattern(3000, 3);
            let begin = changed.windows(3000).position(|window| window == body).expect("it is there");
            changed[begin + place] ^= 0x10;
            prop_assert!(read(&changed).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = read(&bytes);
        }
    }
}
