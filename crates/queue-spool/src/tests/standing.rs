//! What the ledger knows of messages, beyond what the conformance suite asks: moved messages, and segments that went.

use std::collections::{HashMap, HashSet};

use mail::{MessageId, Timestamp};
use queue::conformance::routed;
use queue::{Handle, Record, Standing};

use crate::codec::{Entry, Kept};
use crate::ledger::standing::{Checked, Found, Mark, Standings, slots};
use crate::place::{Home, MessagePlace, Place, RecordPlace, SegmentName, Stripe};

fn segment(sequence: u64) -> SegmentName {
    SegmentName { stripe: Stripe(1), sequence }
}

fn place(sequence: u64, number: u64, home: Home) -> Handle {
    let id = MessageId::new(Timestamp::default(), number);
    let record = RecordPlace { segment: segment(sequence), offset: 64 * number, length: 100, id };
    Place::Message(MessagePlace { record, body: Kept::Within, home }).handle()
}

fn id(number: u64) -> MessageId {
    MessageId::new(Timestamp::default(), number)
}

fn entry(number: u64) -> Entry {
    Entry {
        offset: 64 * number,
        length: 100,
        id: id(number),
        accepted_at: Timestamp::default(),
        body: Kept::Within,
    }
}

fn has_ended(standings: &mut Standings) -> bool {
    loop {
        match standings.check_ended(segment(5), 1) {
            Checked::Live => return false,
            Checked::Ended => return true,
            Checked::Unsure => {}
        }
    }
}

#[test]
fn a_segment_has_ended_when_all_that_its_footer_lists_has() {
    let mut standings = Standings::default();
    let handles = [place(5, 1, Home::Segment), place(5, 2, Home::Segment)];
    for (number, handle) in (1..).zip(&handles) {
        standings.apply(&routed(id(number), handle, 1), Mark::Retiring);
    }
    let retire = |standings: &mut Standings, number: u64, handle: &Handle| {
        let record = Record::Retired { id: id(number), handle: handle.clone() };
        let ending = standings.apply(&record, Mark::Retiring).expect("it ends something");
        assert!(!has_ended(standings), "not before it is synced");
        standings.ended(&ending);
    };
    retire(&mut standings, 1, &handles[0]);
    assert_eq!(standings.candidates(), []);
    retire(&mut standings, 2, &handles[1]);
    assert_eq!(standings.candidates(), [segment(5)]);
    assert!(!has_ended(&mut standings), "not without a footer");
    standings.sealed(segment(5), slots(&[entry(1), entry(2), entry(3)]));
    assert!(!has_ended(&mut standings), "one was never routed");
    retire(&mut standings, 3, &place(5, 3, Home::Segment));
    assert!(has_ended(&mut standings));
    standings.forget(segment(5));
    assert_eq!(standings.standing(&handles[0]), Standing::Retired);
}

#[test]
fn a_moved_message_lives_on_at_its_new_place() {
    let mut standings = Standings::default();
    let (old, new) = (place(5, 1, Home::Segment), place(5, 1, Home::Moved));
    standings.apply(&routed(id(1), &old, 1), Mark::Retiring);
    standings.sealed(segment(5), slots(&[entry(1)]));
    let moved = Record::Moved { id: id(1), handle: new.clone() };
    let ending = standings.apply(&moved, Mark::Retiring).expect("it ends something");
    assert!(!has_ended(&mut standings), "not before it is synced");
    standings.ended(&ending);
    assert!(has_ended(&mut standings));
    standings.forget(segment(5));
    assert_eq!(standings.standing(&new), Standing::Routed);
    let retired = Record::Retired { id: id(1), handle: new.clone() };
    standings.apply(&retired, Mark::Retiring).expect("it ends something");
    assert_eq!(standings.standing(&new), Standing::Retired);
    assert_eq!(standings.standing(&old), Standing::Retired);
}

#[test]
fn only_a_segment_that_was_there_can_have_gone() {
    let mut standings = Standings::default();
    standings.forget(segment(3));
    standings.forget(segment(4));
    let existing = HashSet::from([segment(3), segment(7)]);
    let horizon = HashMap::from([(Stripe(1), 8)]);
    let again = standings.survey(Found { existing, horizon, copies: HashSet::new() });
    assert_eq!(again.segments, [segment(3)], "a power cut undid its unlinking");
    for (sequence, expected) in [
        (3, Standing::Retired),
        (4, Standing::Retired),
        (6, Standing::Retired),
        (7, Standing::Unknown),
        (8, Standing::Retired),
        (9, Standing::Unknown),
        (100, Standing::Unknown),
    ] {
        let handle = place(sequence, 1, Home::Segment);
        assert_eq!(standings.standing(&handle), expected, "{sequence}");
    }
}
