//! What the ledger knows of every message in the segments that exist. Pure.
//!
//! Fed by the records as they pass. A message's mark goes one way:
//!
//! ```text
//! (unknown) ──Routed, Snapshot──▶ routed ──Retired appended──▶ retiring ──synced──▶ retired
//!                                    └──Moved, synced: its old place counts as ended, its new one is a place of its own
//!
//! a place of its own: live ──Retired appended──▶ ending ──synced──▶ ended ──its file is durably gone──▶ (forgotten)
//! ```

use std::collections::{HashMap, HashSet};

use queue::{Handle, Record, Standing};

use crate::codec::{ALIGNMENT, Entry};
use crate::place::{Home, MessagePlace, Place, RecordPlace, SegmentName, Stripe};

/// What is known of one message's place in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Routed,
    Moved,
    /// Its `Retired` record is not synced.
    Retiring,
    Retired,
}

/// What a record asks of the store, once it is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Retired(MessagePlace),
    Moved(MessagePlace),
}

#[derive(Debug, Default)]
pub(crate) struct Standings {
    segments: HashMap<SegmentName, SegmentStanding>,
    /// Messages that were moved, by the places they had.
    moved: HashMap<Slot, Moved>,
    /// Files of moved messages, there at the last survey, of which nothing is known and whose segments are not there either:
    /// nobody but the file tells of them.
    strangers: HashSet<Slot>,
    /// Segments that were there at the last survey.
    existing: HashSet<SegmentName>,
    /// Every segment of a stripe up to this number had been made then.
    horizon: HashMap<Stripe, u64>,
    /// Segments that were given back and of which the last survey says nothing.
    gone: HashSet<SegmentName>,
}

/// A place in a segment.
pub(crate) type Slot = (SegmentName, u32);

/// How it stands with a message that was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    Live,
    /// Its `Retired` record is not synced.
    Ending,
    /// Until its file is durably gone.
    Ended(MessagePlace),
}

/// What a survey found to be there again, or still, that was given back.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Again {
    /// Segments: a power cut undid their unlinking.
    pub(crate) segments: Vec<SegmentName>,
    /// Messages that have ended, and whose own files are there.
    pub(crate) files: Vec<Ending>,
}

#[derive(Debug, Default)]
struct SegmentStanding {
    marks: HashMap<u32, Mark>,
    /// Messages routed or retiring.
    open: usize,
    /// What its footer lists, once it is sealed and somebody looked, but for the messages that were found to have ended.
    listed: Option<Vec<u32>>,
}

/// Records stand at multiples of 64, so a slot fits in 32 bits.
pub(crate) fn slot_at(offset: u64) -> u32 {
    u32::try_from(offset / ALIGNMENT).unwrap_or(u32::MAX)
}

fn slot(record: &RecordPlace) -> u32 {
    slot_at(record.offset)
}

fn key(record: &RecordPlace) -> Slot {
    (record.segment, slot(record))
}

impl Standings {
    /// Takes note of a record that is appended or replayed. `retired` is the mark for what it ends.
    pub(crate) fn apply(&mut self, record: &Record, retired: Mark) -> Option<Ending> {
        match record {
            Record::Routed(routed) | Record::Snapshot(routed) => {
                let place = message_place(&routed.handle)?;
                match place.home {
                    Home::Segment => {
                        self.routed(&place);
                        None
                    }
                    Home::Moved => self.moved(place, retired),
                }
            }
            Record::Retired { handle, .. } => {
                let place = message_place(handle)?;
                if place.home == Home::Moved {
                    let ended = match retired {
                        Mark::Retired => Moved::Ended(place),
                        _ => Moved::Ending,
                    };
                    self.moved.insert(key(&place.record), ended);
                }
                self.mark(&place.record, retired);
                Some(Ending::Retired(place))
            }
            Record::Moved { handle, .. } => {
                let place = message_place(handle).filter(|place| place.home == Home::Moved)?;
                // What was routed in a log that lost it lives where it was, as if it had never been told of.
                self.is_known(&place.record).then(|| self.moved(place, retired)).flatten()
            }
            _ => None,
        }
    }

    fn is_known(&self, record: &RecordPlace) -> bool {
        let standing = self.segments.get(&record.segment);
        self.moved.contains_key(&key(record))
            || standing.is_some_and(|standing| standing.marks.contains_key(&slot(record)))
    }

    fn routed(&mut self, place: &MessagePlace) {
        if self.is_gone(place.record.segment) {
            return;
        }
        let standing = self.segments.entry(place.record.segment).or_default();
        standing.marks.entry(slot(&place.record)).or_insert_with(|| {
            standing.open += 1;
            Mark::Routed
        });
    }

    /// A record says that a message lives at a place of its own. Until that is synced its old place is the one that counts.
    fn moved(&mut self, place: MessagePlace, retired: Mark) -> Option<Ending> {
        let key = key(&place.record);
        self.moved.entry(key).or_insert(Moved::Live);
        self.strangers.remove(&key);
        if retired == Mark::Retired {
            self.mark(&place.record, Mark::Moved);
        }
        let standing = self.segments.get(&key.0);
        let mark = standing.and_then(|standing| standing.marks.get(&key.1));
        let is_known = standing.is_none() || matches!(mark, Some(Mark::Moved | Mark::Retired));
        (!is_known).then_some(Ending::Moved(place))
    }

    /// Sets a mark; one that says more is kept.
    fn mark(&mut self, record: &RecordPlace, mark: Mark) {
        if self.is_gone(record.segment) {
            return;
        }
        let standing = self.segments.entry(record.segment).or_default();
        let old = standing.marks.get(&slot(record)).copied();
        // What has moved needs its old place no more, whatever becomes of it until that is durable.
        let is_less = matches!(
            (old, mark),
            (Some(Mark::Retired), _) | (Some(Mark::Moved), Mark::Routed | Mark::Retiring)
        );
        if is_less {
            return;
        }
        standing.marks.insert(slot(record), mark);
        standing.open -= usize::from(old.is_some_and(Mark::is_open));
        standing.open += usize::from(mark.is_open());
    }

    /// The record that ended a message is synced.
    pub(crate) fn ended(&mut self, ending: &Ending) {
        match ending {
            Ending::Retired(place) => {
                if place.home == Home::Moved {
                    self.moved.insert(key(&place.record), Moved::Ended(*place));
                }
                self.mark(&place.record, Mark::Retired);
            }
            Ending::Moved(place) => self.mark(&place.record, Mark::Moved),
        }
    }

    /// What is known of a message.
    pub(crate) fn standing(&self, handle: &Handle) -> Standing {
        // Another store's message is not known here; whoever reads it will say what is wrong.
        let Some(place) = message_place(handle) else { return Standing::Unknown };
        let (segment, slot) = (place.record.segment, slot(&place.record));
        if place.home == Home::Moved {
            return match self.moved.get(&(segment, slot)) {
                Some(Moved::Live) => Standing::Routed,
                None if self.strangers.contains(&(segment, slot)) => Standing::Unknown,
                Some(Moved::Ending | Moved::Ended(_)) | None => Standing::Retired,
            };
        }
        let mark =
            self.segments.get(&segment).and_then(|standing| standing.marks.get(&slot).copied());
        match mark {
            Some(Mark::Routed | Mark::Moved) => Standing::Routed,
            // Moved first, ended at its new place: the old handle's mark says so too.
            Some(Mark::Retiring | Mark::Retired) => Standing::Retired,
            None if self.is_gone(segment) => Standing::Retired,
            None => Standing::Unknown,
        }
    }

    fn is_gone(&self, segment: SegmentName) -> bool {
        let made_before =
            self.horizon.get(&segment.stripe).is_some_and(|last| segment.sequence <= *last);
        self.gone.contains(&segment) || (made_before && !self.existing.contains(&segment))
    }

    /// Takes note of what is on the disk, and forgets what is not.
    ///
    /// Gives what was given back and is there again, or still.
    pub(crate) fn survey(&mut self, found: Found) -> Again {
        self.existing = found.existing;
        // Of a stripe whose number cannot be read now, what was known stays true.
        self.horizon.extend(found.horizon);
        let known = std::mem::take(&mut self.gone);
        let (again, rest): (Vec<_>, Vec<_>) =
            known.into_iter().partition(|segment| self.existing.contains(segment));
        // Of those that are durably gone the horizon says as much.
        let beyond = rest.into_iter().filter(|segment| {
            self.horizon.get(&segment.stripe).is_none_or(|last| segment.sequence > *last)
        });
        self.gone = beyond.chain(again.iter().copied()).collect();
        let lost: Vec<_> =
            self.segments.keys().copied().filter(|segment| self.is_gone(*segment)).collect();
        for segment in lost {
            self.segments.remove(&segment);
        }
        self.moved
            .retain(|key, moved| !matches!(moved, Moved::Ended(_)) || found.copies.contains(key));
        let unknown = found.copies.into_iter().filter(|key| !self.moved.contains_key(key));
        self.strangers = unknown.filter(|key| !self.existing.contains(&key.0)).collect();
        Again { segments: again, files: self.ended_files().collect() }
    }

    /// Moved messages that have ended and whose files are not durably gone.
    pub(crate) fn ended_files(&self) -> impl Iterator<Item = Ending> + '_ {
        self.moved.values().filter_map(|moved| match moved {
            Moved::Ended(place) => Some(Ending::Retired(*place)),
            Moved::Live | Moved::Ending => None,
        })
    }

    /// Whether a message was moved out of this place, and its file is the ledger's.
    pub(crate) fn is_moved(&self, slot: Slot) -> bool {
        self.moved.contains_key(&slot)
    }

    /// Whether a message in a segment is known and has not ended.
    pub(crate) fn has_open(&self, segment: SegmentName) -> bool {
        self.segments.get(&segment).is_some_and(|standing| standing.open > 0)
    }

    /// Whether the ledger knows of a copy whose message has not ended.
    pub(crate) fn has_copy(&self, segment: SegmentName, offset: u64) -> bool {
        matches!(self.moved.get(&(segment, slot_at(offset))), Some(Moved::Live))
    }

    /// A segment was given back.
    pub(crate) fn forget(&mut self, segment: SegmentName) {
        self.segments.remove(&segment);
        self.existing.remove(&segment);
        self.gone.insert(segment);
    }

    /// Loads what a checkpoint saved of a segment, of messages that no record before it told of.
    ///
    /// Of all others the records say as much. A checkpoint that did not end may say more: what had been written and was lost
    /// when a sync failed. Then those messages live.
    pub(crate) fn load(&mut self, segment: SegmentName, retired: Vec<u32>, moved: Vec<u32>) {
        let standing = self.segments.entry(segment).or_default();
        let marks = retired.into_iter().map(|slot| (slot, Mark::Retired));
        for (slot, mark) in marks.chain(moved.into_iter().map(|slot| (slot, Mark::Moved))) {
            standing.marks.entry(slot).or_insert(mark);
        }
    }

    /// Segments of which something is to be saved by a checkpoint.
    pub(crate) fn to_save(&self) -> Vec<SegmentName> {
        self.segments.keys().copied().collect()
    }

    /// What a checkpoint saves of a segment: its retired and its moved slots.
    pub(crate) fn saved(&self, segment: SegmentName) -> (Vec<u32>, Vec<u32>) {
        let (mut retired, mut moved) = (Vec::new(), Vec::new());
        let marks = self.segments.get(&segment).into_iter().flat_map(|standing| &standing.marks);
        for (slot, mark) in marks {
            match mark {
                Mark::Retired => retired.push(*slot),
                Mark::Moved => moved.push(*slot),
                Mark::Routed | Mark::Retiring => {}
            }
        }
        (retired, moved)
    }

    /// Segments given back that the directory may not tell of after a restart.
    pub(crate) fn gone(&self) -> impl Iterator<Item = SegmentName> + '_ {
        self.gone.iter().copied()
    }

    /// Segments of which every message that was ever routed has ended, whose footer is not known yet.
    pub(crate) fn candidates(&self) -> Vec<SegmentName> {
        let ended = |standing: &SegmentStanding| {
            standing.open == 0 && !standing.marks.is_empty() && standing.listed.is_none()
        };
        let found = self.segments.iter().filter(|(_, standing)| ended(standing));
        found.map(|(segment, _)| *segment).collect()
    }

    /// Whether a segment is worth a look: none of its messages is open.
    pub(crate) fn may_have_ended(&self, segment: SegmentName) -> bool {
        self.segments.get(&segment).is_some_and(|standing| standing.open == 0)
    }

    /// Takes note of what a sealed segment's footer lists.
    pub(crate) fn sealed(&mut self, segment: SegmentName, slots: Vec<u32>) {
        if let Some(standing) = self.segments.get_mut(&segment) {
            standing.listed = Some(slots);
        }
    }

    /// Whether a segment is sealed and every message that its footer lists has ended: looks at so many of them at most.
    ///
    /// What has ended stays so and is not looked at again.
    pub(crate) fn check_ended(&mut self, segment: SegmentName, slots_max: usize) -> Checked {
        let Some(standing) = self.segments.get_mut(&segment) else { return Checked::Live };
        let Some(listed) = &mut standing.listed else { return Checked::Live };
        for _ in 0..slots_max {
            let Some(slot) = listed.last() else { return Checked::Ended };
            if !matches!(standing.marks.get(slot), Some(Mark::Retired | Mark::Moved)) {
                return Checked::Live;
            }
            listed.pop();
        }
        Checked::Unsure
    }
}

/// What a look at the directories shows.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The segments that are there.
    pub(crate) existing: HashSet<SegmentName>,
    /// Every segment of a stripe up to this number had been made before the look.
    pub(crate) horizon: HashMap<Stripe, u64>,
    /// The files of moved messages that are there.
    pub(crate) copies: HashSet<Slot>,
}

/// What is known of a segment's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checked {
    /// Some have not ended, or it is not known which there are.
    Live,
    /// All have.
    Ended,
    /// There are more to be looked at.
    Unsure,
}

/// The slots of what a footer lists.
pub(crate) fn slots(entries: &[Entry]) -> Vec<u32> {
    entries.iter().map(|entry| slot_at(entry.offset)).collect()
}

impl Mark {
    fn is_open(self) -> bool {
        matches!(self, Self::Routed | Self::Retiring)
    }
}

fn message_place(handle: &Handle) -> Option<MessagePlace> {
    match Place::parse(handle)? {
        Place::Message(place) => Some(place),
        Place::Draft(_) | Place::DraftFile(_) => None,
    }
}
