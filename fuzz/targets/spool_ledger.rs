//! A log of the ledger with frames of whatever content, then damaged: it is read past all damage, and nothing is found that was not written.
//!
//! The first byte is how many bytes are damaged, three bytes each: where, and what with; the rest becomes frames, each with a byte for
//! its kind and one for its length.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mail::Timestamp;
use queue_spool::codec::{FileHead, FileKind, Nonce};
use queue_spool::ledger::{FrameKind, push_frame};
use queue_spool::place::Layout;

const NONCE: Nonce = Nonce(*b"sixteen bytes ok");

static DATA_DIR: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("grange-fuzz-log-{}", std::process::id())));

fuzz_target!(|input: &[u8]| {
    let Some((&damages, rest)) = input.split_first() else { return };
    let Some((damages, mut rest)) = rest.split_at_checked(usize::from(damages % 8) * 3) else {
        return;
    };
    let head = FileHead {
        kind: FileKind::Log,
        nonce: NONCE,
        number: 1,
        created_at: Timestamp::from_millis(1),
        previous_number: 0,
        previous_synced: 0,
    };
    let mut file = head.encode().to_vec();
    while let [kind, length, more @ ..] = rest {
        let (payload, after) = more.split_at(usize::from(*length).min(more.len()));
        rest = after;
        let kinds = [
            FrameKind::Records,
            FrameKind::Begin,
            FrameKind::End,
            FrameKind::Standing,
            FrameKind::Gone,
        ];
        let synced = file.len() as u64;
        push_frame(&mut file, kinds[usize::from(kind % 5)], payload, &NONCE, 0, synced);
    }
    let whole = file.clone();
    for damage in damages.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([damage[0], damage[1]])) % file.len();
        file[at] ^= damage[2];
    }
    let log = Layout::new(&DATA_DIR).log(1);
    std::fs::create_dir_all(log.parent().expect("a folder")).expect("a folder of our own");
    std::fs::create_dir_all(Layout::new(&DATA_DIR).intake()).expect("a folder of our own");
    std::fs::write(&log, &file).expect("a file of our own");
    let report = queue_spool::check(&DATA_DIR).expect("whatever it holds, it can be looked at");
    let valid = report.logs.first().map_or(0, |log| log.valid_bytes);
    assert!(valid <= whole.len() as u64, "{report:?}");
    if file == whole && whole.len() > 64 {
        assert_eq!(valid, whole.len() as u64, "{report:?}");
    }
    // What its frames say may be nonsense; that is an answer too.
    let _ = queue_spool::read_standings(&DATA_DIR);
});
