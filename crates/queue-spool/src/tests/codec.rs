//! Records: whatever happens to their bytes, no wrong byte comes out.

use mail::{MessageId, Timestamp};
use proptest::prelude::*;

use crate::codec::{
    Entry, FileHead, FileKind, HEAD_BYTES, Head, Kept, Kind, Mended, NewRecord, Nonce, align,
    begin_record, end_record, entries, footer, head, trailer, whole_record,
};

fn id(number: u64) -> MessageId {
    MessageId::new(Timestamp::from_millis(number), number)
}

/// A record with its padding, and its length without.
fn record(payload: &[u8], nonce: &Nonce, offset: u64) -> (Vec<u8>, u32) {
    let mut bytes = Vec::new();
    let start = begin_record(&mut bytes);
    bytes.extend_from_slice(payload);
    let accept_bytes = (payload.len() / 2) as u32;
    let new = NewRecord { kind: Kind::Message, id: id(7), accept_bytes };
    let length = end_record(&mut bytes, start, new, nonce, offset);
    (bytes, length)
}

fn whole(bytes: &[u8], length: u32, nonce: &Nonce, offset: u64) -> Option<Head> {
    whole_record(bytes.get(..length as usize)?, nonce, offset)
}

proptest! {
    #[test]
    fn a_record_comes_back(payload in prop::collection::vec(any::<u8>(), 0..5000), slot in 1u64..1000) {
        let (nonce, offset) = (Nonce([3; 16]), slot * 64);
        let (bytes, length) = record(&payload, &nonce, offset);
        prop_assert_eq!(bytes.len() as u64, align(u64::from(length)));
        let head = whole(&bytes, length, &nonce, offset).expect("it is whole");
        prop_assert_eq!(head.payload_bytes as usize, payload.len());
        prop_assert_eq!(head.id, id(7));
        // Nowhere else, and in no other file.
        prop_assert_eq!(whole(&bytes, length, &nonce, offset + 64), None);
        prop_assert_eq!(whole(&bytes, length, &Nonce([4; 16]), offset), None);
    }

    #[test]
    fn garbage_is_no_record(bytes in prop::collection::vec(any::<u8>(), 0..300), slot in 1u64..1000) {
        prop_assert_eq!(whole_record(&bytes, &Nonce([3; 16]), slot * 64), None);
        prop_assert_eq!(head(&bytes, &Nonce([3; 16]), slot * 64), None);
        prop_assert_eq!(trailer(&bytes, &Nonce([3; 16]), slot * 64), None);
        prop_assert_eq!(FileHead::decode(&bytes), None);
    }

    #[test]
    fn a_footer_comes_back(count in 0usize..200, slot in 1u64..1000) {
        let listed: Vec<_> = (0..count as u64).map(|number| Entry {
            offset: 64 * (number + 1),
            length: 64 + number as u32,
            id: id(number),
            accepted_at: Timestamp::from_millis(number * 1000),
            body: if number % 2 == 0 { Kept::Within } else { Kept::Apart },
        }).collect();
        let (nonce, offset) = (Nonce([3; 16]), slot * 64);
        let bytes = footer(&listed, &nonce, offset);
        let (rest, last) = bytes.split_at(bytes.len() - HEAD_BYTES);
        let found = trailer(last, &nonce, offset + rest.len() as u64);
        let (at, length) = found.expect("it is a trailer");
        prop_assert_eq!(at, offset);
        let head = whole(&bytes, length, &nonce, offset).expect("it is whole");
        prop_assert_eq!(head.kind, Kind::Footer);
        prop_assert_eq!(entries(&bytes[HEAD_BYTES..length as usize]), Some(listed));
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let (nonce, offset) = (Nonce(*b"0123456789abcdef"), 6400);
    let payload: Vec<u8> = (0..=255).chain(0..90).collect();
    let (bytes, length) = record(&payload, &nonce, offset);
    for bit in 0..8 * length as usize {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(whole(&damaged, length, &nonce, offset), None, "bit {bit}");
    }
    for cut in 0..length {
        assert_eq!(whole(&bytes, cut, &nonce, offset), None, "cut at {cut}");
    }
}

#[test]
fn every_flipped_bit_of_a_file_head_is_noticed() {
    let head = FileHead {
        kind: FileKind::Log,
        nonce: Nonce([9; 16]),
        number: 77,
        created_at: Timestamp::from_millis(1_700_000_000_000),
        previous_number: 76,
        previous_synced: 4096,
    };
    let bytes = head.encode();
    assert_eq!(FileHead::decode(&bytes), Some(head));
    for bit in 0..8 * HEAD_BYTES {
        let mut damaged = bytes;
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(FileHead::decode(&damaged), None, "bit {bit}");
        assert_eq!(FileHead::decode_or_mend(&damaged), Some((head, Mended::OneBit)), "bit {bit}");
        damaged[(bit / 8 + 1) % HEAD_BYTES] ^= 1;
        assert_eq!(FileHead::decode_or_mend(&damaged), None, "bit {bit} and another");
    }
}

#[test]
fn handles_come_back_and_others_are_refused() {
    use crate::place::Place;
    use queue::Handle;

    let id = id(5);
    for text in [
        format!("spool:1.2.64.100.{id}.m"),
        format!("spool:1.2.64.100.{id}.f"),
        format!("spool:1.2.64.100.{id}.mx"),
        format!("spool:1.2.64.100.{id}.fx"),
        format!("spool:4294967295.18446744073709551615.64.64.{id}.d"),
        format!("spool:1.1000000.{id}.b"),
    ] {
        let place = Place::parse(&Handle::parse(&text).expect("a handle")).expect("it is ours");
        assert_eq!(place.handle().as_str(), text);
    }
    for text in [
        format!("other:1.2.64.100.{id}.m"),
        format!("spool:01.2.64.100.{id}.m"),
        format!("spool:+1.2.64.100.{id}.m"),
        format!("spool:1.2.65.100.{id}.m"),
        format!("spool:1.2.0.100.{id}.m"),
        format!("spool:1.2.64.63.{id}.m"),
        format!("spool:1.2.64.4294967295.{id}.m"),
        format!("spool:1.2.64.100.{id}.z"),
        format!("spool:1.2.64.100.{id}.m.m"),
        "spool:1.2.64.100.../../../etc.m".to_owned(),
        "spool:1.2.64.100.m".to_owned(),
        "spool:x".to_owned(),
    ] {
        assert_eq!(Place::parse(&Handle::parse(&text).expect("a handle")), None, "{text}");
    }
}

mod frames {
    use std::path::Path;

    use mail::Timestamp;

    use crate::codec::{FileHead, FileKind, Nonce};
    use crate::disk::Disk as _;
    use crate::disk::simulated::SimulatedDisk;
    use crate::ledger::frame::{
        FrameKind, Frames, Stretch, gone_of, gone_payload, push_frame, standing_of,
        standing_payload,
    };
    use crate::place::{SegmentName, Stripe};

    /// The frames, and where some were passed over.
    fn frames_of(bytes: &[u8], nonce: &Nonce) -> (Vec<Vec<u8>>, Vec<Stretch>) {
        let disk = SimulatedDisk::new(1);
        let file = disk.create(Path::new("/log")).expect("it can be created");
        file.write_at(bytes, 64).expect("it can be written");
        let head = FileHead {
            kind: FileKind::Log,
            nonce: *nonce,
            number: 1,
            created_at: Timestamp::default(),
            previous_number: 0,
            previous_synced: 0,
        };
        let mut frames = Frames::new(&*file, &head, 0).expect("it can be read");
        let mut found = Vec::new();
        while let Some((kind, payload)) = frames.next().expect("it can be read") {
            assert_eq!(kind, FrameKind::Records);
            found.push(payload.to_vec());
        }
        (found, frames.damage)
    }

    #[test]
    fn whatever_bit_flips_only_whole_frames_come_out() {
        let nonce = Nonce([5; 16]);
        let written: Vec<Vec<u8>> =
            (0..4u8).map(|number| vec![number; 40 + 9 * usize::from(number)]).collect();
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for payload in &written {
            starts.push(bytes.len());
            let synced = 64 + bytes.len() as u64;
            push_frame(&mut bytes, FrameKind::Records, payload, &nonce, 64, synced);
        }
        assert_eq!(frames_of(&bytes, &nonce), (written.clone(), Vec::new()));
        for bit in 0..8 * bytes.len() {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let (found, passed) = frames_of(&damaged, &nonce);
            // Padding is no part of a frame; else this one frame is missing, and noticed if another follows.
            let hit = starts.iter().rposition(|start| *start <= bit / 8).expect("it is in a frame");
            let is_padding = bit / 8 >= starts[hit] + 32 + written[hit].len();
            let mut expected = written.clone();
            let mut stretches = Vec::new();
            if !is_padding {
                expected.remove(hit);
                stretches.extend(starts.get(hit + 1).map(|end| Stretch {
                    offset: 64 + starts[hit] as u64,
                    bytes: (end - starts[hit]) as u64,
                }));
            }
            assert_eq!((found, passed), (expected, stretches), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            let (found, _) = frames_of(&bytes[..cut], &nonce);
            assert_eq!(found, written[..found.len()], "cut at {cut}");
        }
    }

    #[test]
    fn what_a_checkpoint_saves_comes_back() {
        let segment = SegmentName { stripe: Stripe(300), sequence: u64::MAX };
        let (mut retired, mut moved) = (vec![u32::MAX, 1, 200, 7], vec![0]);
        let payload = standing_payload(segment, &mut retired, &mut moved);
        assert_eq!(standing_of(&payload), Some((segment, vec![1, 7, 200, u32::MAX], vec![0])));
        for cut in 0..payload.len() {
            assert_eq!(standing_of(&payload[..cut]), None, "cut at {cut}");
        }
        let payload = gone_payload([segment, segment]);
        assert_eq!(gone_of(&payload), Some(vec![segment, segment]));
        assert_eq!(gone_of(&payload[..payload.len() - 1]), None);
    }
}
