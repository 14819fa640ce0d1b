//! The retry schedule.

use crate::Settings;

/// How long to wait after the failure number `failures` (from 1), in milliseconds; the last step repeats.
pub(super) fn delay(settings: &Settings, failures: u32) -> u64 {
    let step = (failures as usize).saturating_sub(1);
    let span = settings.retry.get(step).or(settings.retry.last());
    span.map_or(60_000, |span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX))
}

/// The longest step, in milliseconds: nothing ever waits longer, whatever the wall clock does.
pub(super) fn longest(settings: &Settings) -> u64 {
    let longest = settings.retry.iter().max().map_or(60_000, |span| span.0.as_millis());
    u64::try_from(longest).unwrap_or(u64::MAX)
}

/// A span up to 20 % shorter or longer, by chance.
pub(super) fn jittered(millis: u64, chance: u64) -> u64 {
    let thousandths = 800 + chance % 401;
    u64::try_from(u128::from(millis) * u128::from(thousandths) / 1000).unwrap_or(u64::MAX)
}

/// A setting's span in milliseconds.
pub(super) fn millis(span: config::Span) -> u64 {
    u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX)
}
