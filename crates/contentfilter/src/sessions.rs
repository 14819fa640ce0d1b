//! The sessions that a worker remembers: what its filters know of them, and other bodies of their messages.
//!
//! Nothing is lost when one is forgotten: every request carries all facts, and the filters are told anew. A message whose other body is
//! forgotten before its commit is put off.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::bodies::Replacement;
use crate::chain::Looks;

/// The most sessions that are remembered; of more, the one that has been silent longest is forgotten.
const SESSIONS_MAX: usize = 10_000;
/// How long a session may be silent before it is forgotten.
const SILENT_MAX: Duration = Duration::from_secs(15 * 60);
/// The most other bodies that are kept.
const BODIES_MAX: usize = 1000;
/// How long another body is kept at most: until then smtpserver has stored its message or given up.
const BODY_KEPT_MAX: Duration = Duration::from_secs(120);

/// Sessions by their names.
#[derive(Default)]
pub(crate) struct Sessions {
    known: RefCell<HashMap<String, Known>>,
}

struct Known {
    looks: Option<Looks>,
    body: Option<Replacement>,
    used: Instant,
}

impl Sessions {
    /// Takes out what is known of a session; the other body of its last message is dropped.
    pub(crate) fn take(&self, name: &str) -> Option<Looks> {
        self.known.borrow_mut().remove(name)?.looks
    }

    /// Keeps what is known of a session now.
    pub(crate) fn keep(&self, name: &str, looks: Option<Looks>, body: Option<Replacement>) {
        if looks.is_none() && body.is_none() {
            return;
        }
        let mut known = self.known.borrow_mut();
        if known.len() >= SESSIONS_MAX
            && let Some(oldest) = known.iter().min_by_key(|(_, known)| known.used)
        {
            let oldest = oldest.0.clone();
            known.remove(&oldest);
        }
        known.insert(name.to_owned(), Known { looks, body, used: Instant::now() });
    }

    /// Whether another body can be kept.
    pub(crate) fn has_room(&self) -> bool {
        self.bodies() < BODIES_MAX
    }

    /// How many other bodies are kept.
    pub(crate) fn bodies(&self) -> usize {
        self.known.borrow().values().filter(|known| known.body.is_some()).count()
    }

    /// Forgets what nobody has asked about for long.
    pub(crate) fn sweep(&self, now: Instant) {
        self.known.borrow_mut().retain(|_, known| {
            let silent = now.saturating_duration_since(known.used);
            if silent >= BODY_KEPT_MAX {
                known.body = None;
            }
            silent < SILENT_MAX && (known.looks.is_some() || known.body.is_some())
        });
    }
}

#[cfg(test)]
mod tests;
