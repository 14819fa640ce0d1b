//! What the service manager (systemd) is told, when there is one: `NOTIFY_SOCKET`, `WATCHDOG_USEC`.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// This process's line to the service manager. A manager that a supervisor started has none: its variables were taken away.
#[derive(Debug)]
pub(crate) struct Notifier {
    watchdog: Option<(Duration, Instant)>,
}

impl Notifier {
    /// Reads the environment.
    pub(crate) fn new(now: Instant) -> Self {
        // Twice in the time that the service manager allows.
        Self { watchdog: sd_notify::watchdog_enabled().map(|every| (every / 2, now)) }
    }

    /// Pings if it is time; returns when the next ping is due.
    pub(crate) fn ping(&mut self, now: Instant) -> Option<Instant> {
        let (every, next) = self.watchdog.as_mut()?;
        if now >= *next {
            *next = now + *every;
            tell(&[NotifyState::Watchdog]);
        }
        Some(*next)
    }

    /// All is up.
    pub(crate) fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// The configuration is being read anew; [`Notifier::ready`] is told when that is over.
    pub(crate) fn reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            tell(&[NotifyState::Reloading, now]);
        }
    }

    /// The end has begun.
    pub(crate) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }
}

/// Whether it was heard changes nothing for us.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}
