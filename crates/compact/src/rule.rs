//! Which segments are worth copying from. Pure.

use mail::Timestamp;
use queue::{Held, Sealed};

use crate::Settings;

/// What a copy takes on a disk is a multiple of this: the block of most file systems, in bytes.
const BLOCK_BYTES: u64 = 4096;
/// What a store of its own puts around a message, in bytes: not more than this.
const AROUND_BYTES: u64 = 128;
/// A segment of which at least half lives may stay: it keeps the store within twice its live bytes.
const HALF_PERCENT: u64 = 50;
/// A clock may have been set back since a message was accepted; one from further ahead than this is not young, in milliseconds.
const AHEAD_MS_MAX: u64 = 5_000;

/// A message that still lives in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Survivor {
    pub(crate) held: Held,
    /// The bytes of its body.
    pub(crate) size: u64,
}

impl Survivor {
    /// What a copy of it takes.
    pub(crate) fn copy_bytes(&self) -> u64 {
        self.held.copy_bytes(self.size)
    }

    fn blocks_bytes(&self) -> u64 {
        (self.copy_bytes() + AROUND_BYTES).next_multiple_of(BLOCK_BYTES)
    }
}

/// A segment and what lives in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) sealed: Sealed,
    pub(crate) survivors: Vec<Survivor>,
    /// Whether its youngest message is too young for it to be copied from without need.
    pub(crate) is_young: bool,
}

impl Candidate {
    pub(crate) fn live_bytes(&self) -> u64 {
        self.survivors.iter().map(Survivor::copy_bytes).sum()
    }

    /// Whether less than so much of it lives.
    fn is_below(&self, percent: u64) -> bool {
        self.live_bytes().saturating_mul(100) < self.sealed.bytes.saturating_mul(percent)
    }

    /// Whether copies take less of a disk than the segment does.
    fn is_worth_it(&self) -> bool {
        let blocks: u64 = self.survivors.iter().map(Survivor::blocks_bytes).sum();
        blocks < self.sealed.bytes
    }

    /// What it takes beyond twice what lives in it.
    fn excess_bytes(&self) -> u64 {
        self.sealed.bytes.saturating_sub(self.live_bytes().saturating_mul(2))
    }
}

/// Whether a message is too young to be copied without need.
pub(crate) fn is_young(settings: &Settings, accepted_at: Timestamp, now: Timestamp) -> bool {
    let is_ahead = accepted_at.millis() > now.millis().saturating_add(AHEAD_MS_MAX);
    !is_ahead && now.since(accepted_at) < settings.age_min.0
}

/// Whether so much of a segment lives that it stays, however much more does.
pub(crate) fn stays(settings: &Settings, sealed: &Sealed, live_bytes: u64) -> bool {
    let percent = HALF_PERCENT.max(u64::from(settings.live_max));
    live_bytes.saturating_mul(100) >= sealed.bytes.saturating_mul(percent)
}

/// Chooses the segments to copy from, the emptiest first. Those in which nothing lives go by themselves.
///
/// With `spare_bytes`, what the store may take in segments beyond twice its live bytes.
pub(crate) fn choose(
    settings: &Settings,
    candidates: Vec<Candidate>,
    spare_bytes: u64,
) -> Vec<Candidate> {
    let live_max = u64::from(settings.live_max);
    let useful =
        candidates.into_iter().filter(|one| !one.survivors.is_empty() && one.is_worth_it());
    let (mut chosen, mut rest): (Vec<_>, Vec<_>) =
        useful.partition(|one| !one.is_young && one.is_below(live_max));
    rest.retain(|one| one.is_below(HALF_PERCENT));
    let mut excess: u64 = rest.iter().map(Candidate::excess_bytes).sum();
    sort(&mut rest);
    for one in rest {
        if excess <= spare_bytes {
            break;
        }
        excess -= one.excess_bytes();
        chosen.push(one);
    }
    sort(&mut chosen);
    chosen
}

/// By the share that lives.
fn sort(candidates: &mut [Candidate]) {
    candidates.sort_by_key(|one| {
        u128::from(one.live_bytes()) * 1_000_000 / u128::from(one.sealed.bytes.max(1))
    });
}

#[cfg(test)]
mod tests;
