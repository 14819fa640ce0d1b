//! Whether workers are there at all: one that hangs, or was stopped, says nothing by itself.
//!
//! ```text
//! ready, with something in hand ─ twice a minute, Probe ─▶ Here
//!                                      └─ nothing for ten seconds ─▶ silent: replaced, and drains if it is there again
//! ```
//!
//! Only workers that have something in hand are probed, and all before one is retired for being too many: else those that serve
//! could be retired beside some that do not. A farm of one is left alone: whoever stopped its worker wants it to stay.

use std::time::{Duration, Instant};

use socket::STANDSTILL;

use super::Manager;
use super::fleet::Wake;
use crate::handover::{self, ToWorker};

/// How often workers with something in hand are probed.
const EVERY: Duration = Duration::from_secs(30);
/// How long a worker may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(10);

impl Manager<'_> {
    /// Probes when it is time, and has silent workers replaced.
    pub(super) fn probe(&mut self, now: Instant, wake: &mut Wake) {
        if self.next_probe <= now {
            self.next_probe = now + EVERY;
            self.probe_where(now, |jobs| jobs > 0);
        }
        wake.at(self.next_probe);
        for child in self.children.iter_mut().filter(|child| child.serves()) {
            let Some(due) = child.probed.map(|probed| probed + PATIENCE) else { continue };
            if due > now {
                wake.at(due);
            } else if now.duration_since(due) > STANDSTILL {
                // We were stopped, and perhaps the workers with us.
                child.probed = Some(now);
                wake.at(now + PATIENCE);
            } else {
                tracing::warn!(worker = %child.name(), pid = child.pid(), after_s = PATIENCE.as_secs(), "a worker is silent: replaced");
                child.probed = None;
                child.superseded = true;
            }
        }
    }

    /// Probes all that serve.
    pub(super) fn probe_all(&mut self, now: Instant) {
        self.probe_where(now, |_| true);
    }

    fn probe_where(&mut self, now: Instant, is_meant: impl Fn(u32) -> bool) {
        let serving = self.children.iter_mut().filter(|child| child.serves());
        for child in serving.filter(|child| child.probed.is_none()) {
            // Of one that is just dying the end is heard.
            if is_meant(child.jobs())
                && handover::tell(&child.control, &ToWorker::Probe, &[]).is_ok()
            {
                child.probed = Some(now);
            }
        }
    }
}
