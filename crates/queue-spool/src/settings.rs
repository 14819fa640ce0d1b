//! What the `[queue]` section says of the spool.

use std::time::Duration;

use config::{ByteSize, Problem, Span};
use serde::{Deserialize, Serialize};

/// What the `[queue]` section says of the spool. Every setting has a default; a file need not name any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A segment is sealed when it has grown to this. Default 64 MiB.
    pub segment_bytes: ByteSize,
    /// Bodies larger than this go to a file of their own. Default 256 KiB.
    pub body_file_bytes_min: ByteSize,
    /// How long a commit waits at most for others to share its sync; it does not when more than half of the messages in work in its
    /// process wait already. Counted from when the last sync began. The ledger's syncs are never closer than this. Default 2 ms.
    pub sync_spacing: Span,
    /// A segment that gets no more mail is sealed after this. Default 1 m.
    pub seal_after: Span,
    /// Mail is refused with `452` while less than this is free in the file system. Default 64 MiB.
    pub free_bytes_min: ByteSize,
    /// What the smaller bodies may hold in one worker's memory, all together, until they are committed; more are refused with
    /// `451`. Default 256 MiB.
    pub draft_bytes_max: ByteSize,
    /// Bodies that one worker writes to files of their own at a time; more are refused with `451`. Default 32.
    pub large_bodies_max: u32,
    /// The ledger is synced this long after its first unsynced record, if nothing waits for it sooner. Default 20 ms.
    pub ledger_sync_after: Span,
    /// What the ledger's next file is preallocated with. Default 16 MiB.
    pub ledger_bytes: ByteSize,
    /// Segments that a reader keeps open. Default 32.
    pub reader_files_max: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            segment_bytes: ByteSize(64 << 20),
            body_file_bytes_min: ByteSize(256 << 10),
            sync_spacing: Span::millis(2),
            seal_after: Span::seconds(60),
            free_bytes_min: ByteSize(64 << 20),
            draft_bytes_max: ByteSize(256 << 20),
            large_bodies_max: 32,
            ledger_sync_after: Span::millis(20),
            ledger_bytes: ByteSize(16 << 20),
            reader_files_max: 32,
        }
    }
}

/// So many of the largest bodies that stay in memory must have room there at once.
const DRAFTS_MIN: u64 = 4;

impl Settings {
    /// Looks for what cannot work.
    pub fn check(&self) -> Result<(), Problem> {
        let wrong = |key: &str, wrong: String, right: &str| {
            Err(Problem::new(format!("queue.{key}"), wrong, right))
        };
        let sizes = [
            ("segment_bytes", self.segment_bytes, 64 << 10, 1 << 30),
            ("body_file_bytes_min", self.body_file_bytes_min, 0, 16 << 20),
            ("free_bytes_min", self.free_bytes_min, 0, 1 << 50),
            ("draft_bytes_max", self.draft_bytes_max, 1 << 20, 1 << 40),
            ("ledger_bytes", self.ledger_bytes, 64 << 10, 1 << 30),
        ];
        for (key, size, min, max) in sizes {
            if !(min..=max).contains(&size.0) {
                let right = format!("from {} to {}", ByteSize(min), ByteSize(max));
                return wrong(key, format!("{size} is out of range"), &right);
            }
        }
        let room = self.body_file_bytes_min.0.saturating_mul(DRAFTS_MIN);
        if self.draft_bytes_max.0 < room {
            let right =
                format!("{} or more: {DRAFTS_MIN} times body_file_bytes_min", ByteSize(room));
            return wrong(
                "draft_bytes_max",
                format!("{} is too little", self.draft_bytes_max),
                &right,
            );
        }
        let spans = [
            ("sync_spacing", self.sync_spacing, Duration::ZERO, Duration::from_secs(1)),
            ("seal_after", self.seal_after, Duration::from_secs(1), Duration::from_secs(86_400)),
            ("ledger_sync_after", self.ledger_sync_after, Duration::ZERO, Duration::from_secs(1)),
        ];
        for (key, span, min, max) in spans {
            if !(min..=max).contains(&span.0) {
                let right = format!("from {} to {}", Span(min), Span(max));
                return wrong(key, format!("{span} is out of range"), &right);
            }
        }
        let counts = [
            ("large_bodies_max", self.large_bodies_max, 1, 10_000),
            ("reader_files_max", self.reader_files_max, 1, 10_000),
        ];
        for (key, count, min, max) in counts {
            if !(min..=max).contains(&count) {
                return wrong(
                    key,
                    format!("{count} is out of range"),
                    &format!("from {min} to {max}"),
                );
            }
        }
        Ok(())
    }
}
