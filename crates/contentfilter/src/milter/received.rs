//! Our own Received field, which milters are not shown.

use mail::header;

use crate::filter::Session;
use crate::message::Message;

/// Where our own Received field stands, if it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received {
    place: Option<usize>,
    /// How many fields of that name stand before it.
    before: u32,
}

impl Received {
    /// Ours names the message's id.
    pub(super) fn of(message: &Message, session: &Session) -> Self {
        let mut before = 0;
        if let Some(id) = &session.id {
            for (place, field) in header::fields(message.head()).enumerate() {
                if !field.is("Received") {
                    continue;
                }
                let id = id.as_str().as_bytes();
                if field.raw_value().windows(id.len()).any(|bytes| bytes == id) {
                    return Self { place: Some(place), before };
                }
                before += 1;
            }
        }
        Self { place: None, before: u32::MAX }
    }

    pub(super) fn is_at(&self, place: usize) -> bool {
        self.place == Some(place)
    }

    /// Which field of that name is the nth that was shown.
    pub(super) fn nth(&self, name: &str, nth: u32) -> u32 {
        let is_behind = name.eq_ignore_ascii_case("Received") && nth > self.before;
        if is_behind { nth.saturating_add(1) } else { nth }
    }
}
