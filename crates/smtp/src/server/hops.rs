//! How often a message has been received before: the count of its Received fields (RFC 5321 section 6.3).

use memchr::memchr;

const NAME: &[u8] = b"received:";

/// Counts Received fields in the header section of a message that comes in pieces, in CRLF lines.
#[derive(Debug, Clone, Default)]
pub struct HopCounter {
    hops: u32,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// So many bytes of the line have been the name's.
    Name(usize),
    /// Somewhere in a line that does not begin with the name.
    Line,
    /// The header section is over.
    Body,
}

impl Default for Place {
    fn default() -> Self {
        Self::Name(0)
    }
}

impl HopCounter {
    /// How many Received fields there were so far.
    pub fn hops(&self) -> u32 {
        self.hops
    }

    /// Looks at the next piece; costs nothing once the header section is over.
    pub fn feed(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while let Some((first, after)) = rest.split_first() {
            match self.place {
                Place::Body => return,
                Place::Line => {
                    let Some(end) = memchr(b'\n', rest) else { return };
                    rest = rest.get(end + 1..).unwrap_or_default();
                    self.place = Place::Name(0);
                }
                Place::Name(0) if *first == b'\r' => self.place = Place::Body,
                Place::Name(matched) => {
                    let wanted = NAME.get(matched).copied();
                    if wanted != Some(first.to_ascii_lowercase()) {
                        self.place = Place::Line;
                        continue;
                    }
                    rest = after;
                    self.place = Place::Name(matched + 1);
                    if matched + 1 == NAME.len() {
                        self.hops = self.hops.saturating_add(1);
                        self.place = Place::Line;
                    }
                }
            }
        }
    }
}
