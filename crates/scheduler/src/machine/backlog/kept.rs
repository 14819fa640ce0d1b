//! Where messages are kept: packed while they wait, unpacked while something happens to them.
//!
//! ```text
//!  put, get, get_mut ──▶ unpacked, noted ── pack, at the end of a turn ──▶ packed, unless it has something in hand
//!                              ▲                                              │ look: a copy for as long as it is looked at
//!                              └──────────────── get, get_mut ────────────────┘
//! ```

use std::cell::{Cell, OnceCell, RefCell};
use std::ops::Deref;

use super::Slot;
use super::message::Message;

/// Every message by its slot.
#[derive(Default)]
pub(super) struct Kept {
    places: Vec<Option<Home>>,
    free: Vec<Slot>,
    /// Messages that were unpacked or used since the last packing.
    noted: RefCell<Vec<Slot>>,
}

/// Where one message is.
#[derive(Debug)]
struct Home {
    /// Empty when it was never packed, or has changed since.
    packed: Box<[u8]>,
    open: OnceCell<Box<Open>>,
}

#[derive(Debug)]
struct Open {
    message: Message,
    /// Whether it stands among the noted.
    noted: Cell<bool>,
}

impl Home {
    /// The message, unpacked if it was not, and noted.
    fn message(&self, slot: Slot, noted: &RefCell<Vec<Slot>>) -> &Message {
        let open = self.open.get_or_init(|| {
            let message = Message::unpack(&self.packed);
            Box::new(Open { message, noted: Cell::new(false) })
        });
        if !open.noted.replace(true) {
            noted.borrow_mut().push(slot);
        }
        &open.message
    }
}

impl Kept {
    /// Takes a message in.
    pub(super) fn put(&mut self, message: Message) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            Slot(u32::try_from(self.places.len() - 1).expect("fewer messages than 2^32"))
        });
        let open = Box::new(Open { message, noted: Cell::new(true) });
        if let Some(place) = self.places.get_mut(slot.0 as usize) {
            *place = Some(Home { packed: Box::default(), open: OnceCell::from(open) });
        }
        self.noted.get_mut().push(slot);
        slot
    }

    /// Gives a message away; its slot is used again.
    pub(super) fn take(&mut self, slot: Slot) -> Option<Message> {
        let Home { packed, open } = self.places.get_mut(slot.0 as usize)?.take()?;
        self.free.push(slot);
        Some(open.into_inner().map_or_else(|| Message::unpack(&packed), |open| open.message))
    }

    fn home(&self, slot: Slot) -> Option<&Home> {
        self.places.get(slot.0 as usize)?.as_ref()
    }

    /// The message in a slot.
    pub(super) fn get(&self, slot: Slot) -> Option<&Message> {
        Some(self.home(slot)?.message(slot, &self.noted))
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Message> {
        let home = self.places.get_mut(slot.0 as usize)?.as_mut()?;
        home.message(slot, &self.noted);
        home.packed = Box::default();
        home.open.get_mut().map(|open| &mut open.message)
    }

    /// The same, for a look that leaves a packed one packed.
    pub(super) fn look(&self, slot: Slot) -> Option<Look<'_>> {
        let home = self.home(slot)?;
        Some(match home.open.get() {
            Some(open) => Look::Open(&open.message),
            None => Look::Copy(Box::new(Message::unpack(&home.packed))),
        })
    }

    /// Whether a message, or a recipient of it, is held.
    pub(super) fn has_hold(&self, slot: Slot) -> bool {
        let Some(home) = self.home(slot) else { return false };
        match home.open.get() {
            Some(open) => open.message.has_hold(),
            None => Message::packed_has_hold(&home.packed),
        }
    }

    /// How many were unpacked or used since the last packing.
    pub(super) fn unpacked(&mut self) -> usize {
        self.noted.get_mut().len()
    }

    /// Packs those that were used and may be packed. What may not is noted again when it is used again.
    pub(super) fn pack(&mut self) {
        for slot in self.noted.get_mut().drain(..) {
            let home = self.places.get_mut(slot.0 as usize).and_then(Option::as_mut);
            // Noted twice, or used again by another message: that is noted too.
            let Some((home, open)) = home.and_then(|home| {
                let open = home.open.take()?;
                Some((home, open))
            }) else {
                continue;
            };
            if !open.message.may_be_packed() {
                open.noted.set(false);
                home.open = OnceCell::from(open);
            } else if home.packed.is_empty() {
                home.packed = open.message.pack();
            }
        }
    }
}

/// A message that is looked at.
#[derive(Debug)]
pub(crate) enum Look<'a> {
    /// It is unpacked.
    Open(&'a Message),
    /// It stays packed.
    Copy(Box<Message>),
}

impl Deref for Look<'_> {
    type Target = Message;

    fn deref(&self) -> &Message {
        match self {
            Self::Open(message) => message,
            Self::Copy(message) => message,
        }
    }
}
