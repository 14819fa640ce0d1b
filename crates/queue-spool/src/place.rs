//! Where things are: handles as text, and the paths that follow from them. Pure.
//!
//! ```text
//! spool:STRIPE.SEQ.OFFSET.LENGTH.ID.m   an accepted message, its body in the segment
//! spool:STRIPE.SEQ.OFFSET.LENGTH.ID.f   …, its body in a file of its own
//! spool:….mx  spool:….fx                …, moved from that place to a file of its own
//! spool:STRIPE.SEQ.OFFSET.LENGTH.ID.d   a draft's body in a segment
//! spool:STRIPE.SIZE.ID.b                a draft's body in a file of its own
//! ```
//!
//! A path is made of numbers and a message id that has been checked, never of text from a handle.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use mail::MessageId;
use queue::Handle;

use crate::codec::{HEAD_BYTES, Kept, PAYLOAD_BYTES_MAX};

/// How many fields a handle has at most.
const FIELDS_MAX: usize = 6;

/// The store's name in handles.
pub const STORE: &str = "spool";

/// The number of a stripe: a directory with one writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stripe(pub u32);

/// The name of a segment; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentName {
    /// Its stripe.
    pub stripe: Stripe,
    /// Its number in the stripe.
    pub sequence: u64,
}

/// A record in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordPlace {
    /// The segment.
    pub segment: SegmentName,
    /// Where the record begins; a multiple of 64.
    pub offset: u64,
    /// Its length with its head, so that one read takes it whole.
    pub length: u32,
    /// The message that it must belong to.
    pub id: MessageId,
}

/// An accepted message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessagePlace {
    /// Its accept record, as it was first written.
    pub record: RecordPlace,
    /// Where its body is.
    pub body: Kept,
    /// Where the record is now.
    pub home: Home,
}

/// Where a message's accept record is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Home {
    /// Where it was written.
    Segment,
    /// Copied to a file of its own, behind the file's head.
    Moved,
}

/// A body in a file of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BodyPlace {
    /// The stripe in whose directory it is.
    pub stripe: Stripe,
    /// The message, which names the file.
    pub id: MessageId,
    /// Its size in bytes, without the heads of its blocks.
    pub size: u64,
}

/// What a handle of this store names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// An accepted message.
    Message(MessagePlace),
    /// A draft's body in a segment.
    Draft(RecordPlace),
    /// A draft's body in a file of its own.
    DraftFile(BodyPlace),
}

impl Place {
    /// Takes a handle apart; nothing when it is not of this store or malformed.
    pub fn parse(handle: &Handle) -> Option<Self> {
        let (STORE, name) = handle.parts() else { return None };
        let mut fields = [""; FIELDS_MAX];
        let mut count = 0;
        for field in name.split('.') {
            *fields.get_mut(count)? = field;
            count += 1;
        }
        match *fields.get(..count)? {
            [stripe, size, id, "b"] => Some(Self::DraftFile(BodyPlace {
                stripe: Stripe(number(stripe)?),
                id: id.parse().ok()?,
                size: number(size)?,
            })),
            [stripe, sequence, offset, length, id, kind] => {
                let record = RecordPlace {
                    segment: SegmentName {
                        stripe: Stripe(number(stripe)?),
                        sequence: number(sequence)?,
                    },
                    offset: number(offset)?,
                    length: number(length)?,
                    id: id.parse().ok()?,
                };
                record.is_plausible().then_some(())?;
                let message = |body, home| Some(Self::Message(MessagePlace { record, body, home }));
                match kind {
                    "m" => message(Kept::Within, Home::Segment),
                    "f" => message(Kept::Apart, Home::Segment),
                    "mx" => message(Kept::Within, Home::Moved),
                    "fx" => message(Kept::Apart, Home::Moved),
                    "d" => Some(Self::Draft(record)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The handle that names this place.
    pub fn handle(&self) -> Handle {
        Handle::parse(&self.to_string()).expect("numbers and an id make a well-formed handle")
    }
}

impl RecordPlace {
    fn is_plausible(&self) -> bool {
        self.offset >= HEAD_BYTES as u64
            && self.offset.is_multiple_of(crate::codec::ALIGNMENT)
            && (HEAD_BYTES as u32..=HEAD_BYTES as u32 + PAYLOAD_BYTES_MAX).contains(&self.length)
    }
}

/// A number as we write it: digits alone, no sign, no leading zero, so that a place has one handle.
fn number<T: FromStr>(text: &str) -> Option<T> {
    let canonical =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (record, kind) = match self {
            Self::Message(message) => (
                message.record,
                match (message.body, message.home) {
                    (Kept::Within, Home::Segment) => "m",
                    (Kept::Apart, Home::Segment) => "f",
                    (Kept::Within, Home::Moved) => "mx",
                    (Kept::Apart, Home::Moved) => "fx",
                },
            ),
            Self::Draft(record) => (*record, "d"),
            Self::DraftFile(BodyPlace { stripe, id, size }) => {
                return write!(formatter, "{STORE}:{}.{size}.{id}.b", stripe.0);
            }
        };
        let RecordPlace { segment, offset, length, id } = record;
        write!(formatter, "{STORE}:{segment}.{offset}.{length}.{id}.{kind}")
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.stripe.0, self.sequence)
    }
}

impl FromStr for SegmentName {
    type Err = NotASegment;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (stripe, sequence) = text.split_once('.').ok_or(NotASegment)?;
        Ok(Self {
            stripe: Stripe(number(stripe).ok_or(NotASegment)?),
            sequence: number(sequence).ok_or(NotASegment)?,
        })
    }
}

/// The text does not name a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a segment is STRIPE.SEQ, two numbers")]
pub struct NotASegment;

/// The directories and files of a spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

/// What a file in a stripe's directory is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StripeFile {
    /// `SEQ.seg`.
    Segment(u64),
    /// `ID.body`.
    Body(MessageId),
    /// `SEQ.OFFSET.moved`.
    Moved(u64, u64),
    /// `lock`, `next`, or none of ours.
    Other,
}

impl Layout {
    /// The layout below `data_dir`.
    pub fn new(data_dir: &Path) -> Self {
        Self { root: data_dir.join("spool") }
    }

    /// `spool`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `spool/intake`.
    pub fn intake(&self) -> PathBuf {
        self.root.join("intake")
    }

    /// `spool/ledger`.
    pub fn ledger(&self) -> PathBuf {
        self.root.join("ledger")
    }

    /// `spool/intake/STRIPE`.
    pub fn stripe(&self, stripe: Stripe) -> PathBuf {
        self.intake().join(stripe.0.to_string())
    }

    /// `spool/intake/STRIPE/lock`.
    pub fn stripe_lock(&self, stripe: Stripe) -> PathBuf {
        self.stripe(stripe).join("lock")
    }

    /// `spool/intake/STRIPE/SEQ.seg`.
    pub fn segment(&self, name: SegmentName) -> PathBuf {
        self.stripe(name.stripe).join(format!("{}.seg", name.sequence))
    }

    /// `spool/intake/STRIPE/ID.body`.
    pub fn body(&self, stripe: Stripe, id: MessageId) -> PathBuf {
        self.stripe(stripe).join(format!("{id}.body"))
    }

    /// `spool/intake/STRIPE/SEQ.OFFSET.moved`.
    pub fn moved(&self, record: &RecordPlace) -> PathBuf {
        self.copy(record.segment, record.offset)
    }

    /// The same, by what stands in its name.
    pub(crate) fn copy(&self, segment: SegmentName, offset: u64) -> PathBuf {
        let name = format!("{}.{offset}.moved", segment.sequence);
        self.stripe(segment.stripe).join(name)
    }

    /// `spool/compact`.
    pub fn compact(&self) -> PathBuf {
        self.root.join("compact")
    }

    /// `spool/damaged`.
    pub fn damaged(&self) -> PathBuf {
        self.root.join("damaged")
    }

    /// `spool/ledger/SEQ.log`.
    pub fn log(&self, sequence: u64) -> PathBuf {
        self.ledger().join(format!("{sequence}.log"))
    }
}

/// The stripe that a directory's name stands for.
pub fn stripe_of(name: &str) -> Option<Stripe> {
    number(name).map(Stripe)
}

/// What a file in a stripe's directory is.
pub fn stripe_file_of(name: &str) -> StripeFile {
    let parts: Vec<&str> = name.split('.').collect();
    let file = match *parts.as_slice() {
        [sequence, "seg"] => number(sequence).map(StripeFile::Segment),
        [id, "body"] => id.parse().ok().map(StripeFile::Body),
        [sequence, offset, "moved"] => number(sequence)
            .zip(number(offset))
            .map(|(sequence, at)| StripeFile::Moved(sequence, at)),
        _ => None,
    };
    file.unwrap_or(StripeFile::Other)
}

/// The number of a log by its file's name.
pub fn log_of(name: &str) -> Option<u64> {
    number(name.strip_suffix(".log")?)
}
