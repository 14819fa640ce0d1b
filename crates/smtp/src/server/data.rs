//! The text after DATA: where it ends, which dots were stuffed, and which line ends are not line ends.
//!
//! ```text
//!              CRLF                 bare CR or LF (normalise)
//!   Start ◀──────────── Within ───────────────────────▶ NormalisedStart
//!     │ ".CRLF": end      ▲                                  │ ".CRLF": a line with a dot
//!     └─ anything else ───┴──────────── anything ────────────┘
//! ```
//!
//! Only the five bytes CRLF.CRLF as sent end a message. A dot that begins a line is removed unless it is the whole line.

use memchr::memchr2;

use super::BareNewline;

/// Takes the text after DATA apart, in whatever pieces it comes.
#[derive(Debug, Clone)]
pub(super) struct Unstuffer {
    policy: BareNewline,
    place: Place,
    /// Bytes of the line so far, without its end.
    line_bytes: usize,
    /// The longest line so far.
    longest_line_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Behind CRLF as sent, or behind the CRLF of DATA.
    Start,
    /// Behind a line end that we made.
    NormalisedStart,
    Within,
}

/// What came next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'i> {
    /// Bytes of the message, never empty.
    Bytes(&'i [u8]),
    /// The end of the message.
    End,
    /// Nothing can be said before more bytes come; at most two bytes were left.
    Input,
    /// A CR or LF that stands alone, and is not to be normalised.
    BareNewline,
}

impl Unstuffer {
    pub(super) fn new(policy: BareNewline) -> Self {
        Self { policy, place: Place::Start, line_bytes: 0, longest_line_bytes: 0 }
    }

    /// The longest line so far, without its end, in bytes.
    pub(super) fn longest_line_bytes(&self) -> usize {
        self.longest_line_bytes.max(self.line_bytes)
    }

    /// Takes the next piece from the start of `input`, and says how many bytes of it are behind us.
    pub(super) fn next<'i>(&mut self, input: &'i [u8]) -> (usize, Piece<'i>) {
        let mut begin = 0;
        if self.place != Place::Within {
            match self.line_start(input) {
                LineStart::Input => return (0, Piece::Input),
                LineStart::End => return (3, Piece::End),
                LineStart::Dot => begin = 1,
                LineStart::Text => {}
            }
            self.place = Place::Within;
        }
        let (end, found) = self.run(input, begin);
        let bytes = input.get(begin..end).unwrap_or_default();
        if !bytes.is_empty() {
            return (end, Piece::Bytes(bytes));
        }
        match found {
            Found::BareNewline if self.policy == BareNewline::Normalise => {
                self.end_line(Place::NormalisedStart);
                (end + 1, Piece::Bytes(b"\r\n"))
            }
            Found::BareNewline => (end, Piece::BareNewline),
            Found::Pause => (end, Piece::Input),
        }
    }

    /// Judges the first bytes of a line.
    fn line_start(&self, input: &[u8]) -> LineStart {
        match input {
            [] | [b'.'] | [b'.', b'\r'] => LineStart::Input,
            [b'.', b'\r', b'\n', ..] if self.place == Place::Start => LineStart::End,
            // A dot that is a whole line but not the end is data: it will be stuffed when it leaves.
            [b'.', b'\r' | b'\n', ..] => LineStart::Text,
            [b'.', ..] => LineStart::Dot,
            _ => LineStart::Text,
        }
    }

    /// Goes through whole lines up to one that begins with a dot, a lone CR or LF, or the end of the input.
    fn run(&mut self, input: &[u8], begin: usize) -> (usize, Found) {
        let mut at = begin;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            let Some(length) = memchr2(b'\r', b'\n', rest) else {
                self.line_bytes += rest.len();
                return (input.len(), Found::Pause);
            };
            self.line_bytes += length;
            at += length;
            match rest.split_at(length).1 {
                [b'\r', b'\n', next @ ..] => {
                    at += 2;
                    self.end_line(Place::Start);
                    if matches!(next, [] | [b'.', ..]) {
                        return (at, Found::Pause);
                    }
                    self.place = Place::Within;
                }
                [b'\r'] => return (at, Found::Pause),
                _ => return (at, Found::BareNewline),
            }
        }
    }

    fn end_line(&mut self, place: Place) {
        self.longest_line_bytes = self.longest_line_bytes();
        self.line_bytes = 0;
        self.place = place;
    }
}

enum LineStart {
    Input,
    End,
    Dot,
    Text,
}

enum Found {
    /// Nothing more to say of these bytes; behind them the input ends, or a line begins with a dot.
    Pause,
    BareNewline,
}
