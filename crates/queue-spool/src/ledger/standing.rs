//! What the ledger knows of every message in the segments that exist. Pure.
//!
//! Fed by the records as they pass. A message's mark goes one way:
//!
//! ```text
//! (unknown) ──Routed, Snapshot──▶ routed ──Retired appended──▶ retiring ──synced──▶ retired
//!                                    └──Moved: its old place counts as ended, its new one is a place of its own
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
    /// Moved messages that have not ended.
    moved: HashSet<(SegmentName, u32)>,
    /// Segments that were there at the last survey.
    existing: HashSet<SegmentName>,
    /// Every segment of a stripe up to this number had been made then.
    horizon: HashMap<Stripe, u64>,
    /// Segments that were given back and of which the last survey says nothing.
    gone: HashSet<SegmentName>,
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
fn slot(record: &RecordPlace) -> u32 {
    u32::try_from(record.offset / ALIGNMENT).unwrap_or(u32::MAX)
}

impl Standings {
    /// Takes note of a record that is appended or replayed. `retired` is the mark for what it ends.
    pub(crate) fn apply(&mut self, record: &Record, retired: Mark) -> Option<Ending> {
        match record {
            Record::Routed(routed) | Record::Snapshot(routed) => {
                if let Some(place) = message_place(&routed.handle) {
                    self.routed(&place);
                }
                None
            }
            Record::Retired { handle, .. } => {
                let place = message_place(handle)?;
                match place.home {
                    Home::Segment => self.mark(&place.record, retired),
                    Home::Moved => {
                        self.moved.remove(&(place.record.segment, slot(&place.record)));
                        self.mark(&place.record, retired);
                    }
                }
                Some(Ending::Retired(place))
            }
            Record::Moved { handle, .. } => {
                let place = message_place(handle).filter(|place| place.home == Home::Moved)?;
                self.moved.insert((place.record.segment, slot(&place.record)));
                // Until it is synced the old place is the one that counts.
                if retired == Mark::Retired {
                    self.mark(&place.record, Mark::Moved);
                }
                Some(Ending::Moved(place))
            }
            _ => None,
        }
    }

    fn routed(&mut self, place: &MessagePlace) {
        match place.home {
            Home::Segment if self.is_gone(place.record.segment) => {}
            Home::Segment => {
                let standing = self.segments.entry(place.record.segment).or_default();
                standing.marks.entry(slot(&place.record)).or_insert_with(|| {
                    standing.open += 1;
                    Mark::Routed
                });
            }
            Home::Moved => {
                self.moved.insert((place.record.segment, slot(&place.record)));
                self.mark(&place.record, Mark::Moved);
            }
        }
    }

    /// Sets a mark; one that says more is kept.
    fn mark(&mut self, record: &RecordPlace, mark: Mark) {
        if self.is_gone(record.segment) {
            return;
        }
        let standing = self.segments.entry(record.segment).or_default();
        let old = standing.marks.get(&slot(record)).copied();
        if matches!((old, mark), (Some(Mark::Retired), _) | (Some(Mark::Moved), Mark::Routed)) {
            return;
        }
        standing.marks.insert(slot(record), mark);
        standing.open -= usize::from(old.is_some_and(Mark::is_open));
        standing.open += usize::from(mark.is_open());
    }

    /// The record that ended a message is synced.
    pub(crate) fn ended(&mut self, ending: &Ending) {
        match ending {
            Ending::Retired(place) => self.mark(&place.record, Mark::Retired),
            Ending::Moved(place) => self.mark(&place.record, Mark::Moved),
        }
    }

    /// What is known of a message.
    pub(crate) fn standing(&self, handle: &Handle) -> Standing {
        // Another store's message is not known here; whoever reads it will say what is wrong.
        let Some(place) = message_place(handle) else { return Standing::Unknown };
        let (segment, slot) = (place.record.segment, slot(&place.record));
        if place.home == Home::Moved {
            let live = self.moved.contains(&(segment, slot));
            return if live { Standing::Routed } else { Standing::Retired };
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
    /// Gives the segments that were given back and are there again: a power cut undid their unlinking.
    pub(crate) fn survey(
        &mut self,
        existing: HashSet<SegmentName>,
        horizon: HashMap<Stripe, u64>,
    ) -> Vec<SegmentName> {
        self.existing = existing;
        // Of a stripe whose number cannot be read now, what was known stays true.
        self.horizon.extend(horizon);
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
        again
    }

    /// A segment was given back.
    pub(crate) fn forget(&mut self, segment: SegmentName) {
        self.segments.remove(&segment);
        self.existing.remove(&segment);
        self.gone.insert(segment);
    }

    /// Loads what a checkpoint saved of a segment.
    pub(crate) fn load(&mut self, segment: SegmentName, retired: Vec<u32>, moved: Vec<u32>) {
        let standing = self.segments.entry(segment).or_default();
        let marks = retired.into_iter().map(|slot| (slot, Mark::Retired));
        for (slot, mark) in marks.chain(moved.into_iter().map(|slot| (slot, Mark::Moved))) {
            let old = standing.marks.insert(slot, mark);
            standing.open -= usize::from(old.is_some_and(Mark::is_open));
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
    let slot = |entry: &Entry| u32::try_from(entry.offset / ALIGNMENT).unwrap_or(u32::MAX);
    entries.iter().map(slot).collect()
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
