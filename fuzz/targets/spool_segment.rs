//! A segment of the spool with records of whatever content, then damaged: nothing is found that was not written.
//!
//! The first byte is how many bytes are damaged, three bytes each: where, and what with; the rest becomes records, each with a byte
//! for its kind, one for the length of its accept record, and one for its own length.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mail::{MessageId, Timestamp};
use queue_spool::codec::{self, Entry, FileHead, FileKind, Kept, Kind, NewRecord, Nonce};
use queue_spool::place::{Layout, SegmentName, Stripe};

const NONCE: Nonce = Nonce(*b"sixteen bytes ok");

static DATA_DIR: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("grange-fuzz-{}", std::process::id())));

fuzz_target!(|input: &[u8]| {
    let Some((&damages, rest)) = input.split_first() else { return };
    let Some((damages, mut rest)) = rest.split_at_checked(usize::from(damages % 8) * 3) else {
        return;
    };
    let head = FileHead {
        kind: FileKind::Segment,
        nonce: NONCE,
        number: 1,
        created_at: Timestamp::from_millis(1),
        previous_number: 0,
        previous_synced: 0,
    };
    let mut file = head.encode().to_vec();
    let mut entries = Vec::new();
    let mut written = 0;
    while let [kind, accept, length, more @ ..] = rest {
        let (payload, after) = more.split_at(usize::from(*length).min(more.len()));
        rest = after;
        written += 1;
        let id = MessageId::new(Timestamp::from_millis(1), written);
        let kinds = [Kind::Message, Kind::Draft, Kind::Accept, Kind::Block];
        let record = NewRecord {
            kind: kinds[usize::from(kind % 4)],
            id,
            accept_bytes: u32::from(*accept).min(payload.len() as u32),
        };
        let start = codec::begin_record(&mut file);
        file.extend_from_slice(payload);
        let length = codec::end_record(&mut file, start, record, &NONCE, start as u64);
        if kind & 128 != 0 {
            entries.push(Entry {
                offset: start as u64,
                length,
                id,
                accepted_at: Timestamp::from_millis(1),
                body: Kept::Within,
            });
        }
    }
    if !entries.is_empty() {
        let end = file.len() as u64;
        file.extend_from_slice(&codec::footer(&entries, &NONCE, end));
        written += 1;
    }
    let whole = file.clone();
    for damage in damages.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([damage[0], damage[1]])) % file.len();
        file[at] ^= damage[2];
    }
    let layout = Layout::new(&DATA_DIR);
    let segment = layout.segment(SegmentName { stripe: Stripe(0), sequence: 1 });
    std::fs::create_dir_all(segment.parent().expect("a folder")).expect("a folder of our own");
    std::fs::write(&segment, &file).expect("a file of our own");
    let Ok(report) = queue_spool::check(&DATA_DIR) else { return };
    let records: u64 = report.segments.iter().map(|segment| segment.records).sum();
    assert!(records <= written, "{records} records of {written}: {report:?}");
    if file == whole {
        assert_eq!(records, written, "{report:?}");
    }
});
