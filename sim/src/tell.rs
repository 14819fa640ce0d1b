//! Telling what happens, for whoever looks into one seed.

use std::sync::atomic::{AtomicBool, Ordering};

static TELLS: AtomicBool = AtomicBool::new(false);

/// From now on every step is told on stdout.
pub fn tell_all() {
    TELLS.store(true, Ordering::Relaxed);
}

/// Whether it is.
pub(crate) fn tells() -> bool {
    TELLS.load(Ordering::Relaxed)
}

/// Tells something, if anybody wants to hear it.
macro_rules! tell {
    ($clock:expr, $($words:tt)+) => {
        if crate::tell::tells() {
            let at = $clock.mono;
            println!("{:>7}.{:03} {}", at / 1000, at % 1000, format!($($words)+));
        }
    };
}
pub(crate) use tell;
