//! How often a key is present in all workers of a farm: a table in shared memory, each worker with counts of its own.
//!
//! A key's bucket is found by its hash, among a few neighbours. A worker adds to its own count there and sums everybody's. A
//! bucket whose counts are all zero may be taken over by another key; a worker remembers where its keys are, so a count is always
//! taken back where it was given. Two workers that take over one bucket at the same instant may miscount for as long as those
//! sessions last: the tally is a limit, not a ledger.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use crate::scoreboard::Board;

/// A key's bucket is one of so many neighbours.
const NEIGHBOURS: usize = 32;

/// This worker's part of the tally.
#[derive(Default)]
pub(super) struct Tally {
    /// Where each of this worker's keys is counted, and how often; no bucket when the table had no room.
    own: RefCell<HashMap<u64, (Option<usize>, u32)>>,
    full: Cell<bool>,
}

impl Tally {
    pub(super) fn enter(&self, board: &Board, slot: usize, key: u64) -> u32 {
        // Zero marks an empty bucket.
        let key = key.max(1);
        let mut own = self.own.borrow_mut();
        let (bucket, count) = own.entry(key).or_insert_with(|| (find(board, slot, key), 0));
        *count += 1;
        match *bucket {
            Some(bucket) => {
                store(board, slot, bucket, *count);
                total(board, bucket)
            }
            None => {
                if board.tally_buckets() > 0 && !self.full.replace(true) {
                    tracing::warn!(
                        "the tally of client addresses is full: some are counted by worker only"
                    );
                }
                *count
            }
        }
    }

    pub(super) fn leave(&self, board: &Board, slot: usize, key: u64) {
        let key = key.max(1);
        let mut own = self.own.borrow_mut();
        let Some((bucket, count)) = own.get_mut(&key) else {
            tracing::error!("a key left the tally that had not entered");
            return;
        };
        *count -= 1;
        if let Some(bucket) = *bucket {
            store(board, slot, bucket, *count);
        }
        if *count == 0 {
            own.remove(&key);
        }
    }
}

fn store(board: &Board, slot: usize, bucket: usize, count: u32) {
    let count = u16::try_from(count).unwrap_or(u16::MAX);
    board.tally_count(slot, bucket).store(count, Relaxed);
}

fn total(board: &Board, bucket: usize) -> u32 {
    (0..board.slot_count())
        .map(|slot| u32::from(board.tally_count(slot, bucket).load(Relaxed)))
        .sum()
}

/// The key's bucket, taken if it had none yet.
fn find(board: &Board, slot: usize, key: u64) -> Option<usize> {
    let buckets = board.tally_buckets();
    if buckets == 0 {
        return None;
    }
    // The key is a hash, but of whose making is unknown: spread it once more.
    let start = (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize % buckets;
    let near = || (0..NEIGHBOURS.min(buckets)).map(|step| (start + step) % buckets);
    if let Some(bucket) = near().find(|bucket| holds(board, slot, key, *bucket)) {
        return Some(bucket);
    }
    near().find(|bucket| {
        let seen = board.tally_key(*bucket).load(Relaxed);
        let is_free = seen == 0 || seen == key || total(board, *bucket) == 0;
        is_free && take_over(board, slot, key, *bucket, seen)
    })
}

/// Whether the bucket is the key's; then it is counted there.
fn holds(board: &Board, slot: usize, key: u64, bucket: usize) -> bool {
    if board.tally_key(bucket).load(Relaxed) != key {
        return false;
    }
    // Our count keeps others from taking the bucket over; seen once more, it is the key's.
    store(board, slot, bucket, 1);
    let still = board.tally_key(bucket).load(Relaxed) == key;
    if !still {
        store(board, slot, bucket, 0);
    }
    still
}

/// Gives a bucket that was seen free to the key. Another worker that met the same key at the same time may have done so already:
/// that is as good.
fn take_over(board: &Board, slot: usize, key: u64, bucket: usize, seen: u64) -> bool {
    let _ = board.tally_key(bucket).compare_exchange(seen, key, Relaxed, Relaxed);
    holds(board, slot, key, bucket)
}

#[cfg(test)]
mod tests;
