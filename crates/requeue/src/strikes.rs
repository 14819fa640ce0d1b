//! Telling the scheduler which messages were in hand when a router crashed.
//!
//! Two words meet here, in any order: that a connection to a process was lost with messages on it, and that this process
//! crashed. A process that was killed by an operator is never said to have crashed, and its messages get no strike.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use job::strike::StrikeRequest;
use mail::MessageId;
use queue::Handle;
use tokio::sync::Notify;

/// Strikes on their way to the scheduler.
#[derive(Debug, Default)]
pub(crate) struct Strikes {
    crashed: RefCell<HashSet<u32>>,
    lost: RefCell<HashMap<u32, Vec<StrikeRequest>>>,
    due: RefCell<Vec<StrikeRequest>>,
    changed: Notify,
}

impl Strikes {
    /// A process crashed.
    pub(crate) fn crashed(&self, pid: u32) {
        let is_new = self.crashed.borrow_mut().insert(pid);
        let lost = self.lost.borrow_mut().remove(&pid).unwrap_or_default();
        if is_new || !lost.is_empty() {
            self.due.borrow_mut().extend(lost);
            self.changed.notify_one();
        }
    }

    /// The connection to a process ended with this message unanswered; nothing else was in its hand if it was `alone`.
    pub(crate) fn lost(&self, pid: u32, handle: Handle, id: MessageId, alone: bool) {
        let strike = StrikeRequest { handle, id, stage: "router".to_owned(), alone };
        if self.crashed.borrow().contains(&pid) {
            self.due.borrow_mut().push(strike);
        } else {
            self.lost.borrow_mut().entry(pid).or_default().push(strike);
        }
        self.changed.notify_one();
    }

    /// Takes the strikes that are due.
    pub(crate) fn take_due(&self) -> Vec<StrikeRequest> {
        self.due.take()
    }

    /// Whether there are lost messages of which it is not known whether their worker crashed.
    pub(crate) fn is_unsure(&self) -> bool {
        !self.lost.borrow().is_empty()
    }

    /// Forgets the lost messages of which no crash was told.
    pub(crate) fn forget_lost(&self) {
        self.lost.borrow_mut().clear();
    }

    /// Waits for a word of either kind.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use mail::Timestamp;

    use super::*;

    fn strike(handle: Handle, id: MessageId, alone: bool) -> StrikeRequest {
        StrikeRequest { handle, id, stage: "router".to_owned(), alone }
    }

    fn message(number: u64) -> (Handle, MessageId) {
        let handle = Handle::parse(&format!("memory:{number}")).expect("well-formed");
        (handle, MessageId::new(Timestamp::from_millis(1), number))
    }

    #[test]
    fn the_two_words_meet_in_any_order() {
        let strikes = Strikes::default();
        let (handle, id) = message(1);
        strikes.lost(7, handle.clone(), id, true);
        assert!(strikes.is_unsure() && strikes.take_due().is_empty());
        strikes.crashed(8);
        assert!(strikes.take_due().is_empty(), "another process");
        strikes.crashed(7);
        assert_eq!(strikes.take_due(), [strike(handle, id, true)]);
        assert!(!strikes.is_unsure());
        let (handle, id) = message(2);
        strikes.lost(8, handle.clone(), id, false);
        assert_eq!(strikes.take_due(), [strike(handle, id, false)]);
        strikes.crashed(8);
        assert!(strikes.take_due().is_empty(), "told once");
    }
}
