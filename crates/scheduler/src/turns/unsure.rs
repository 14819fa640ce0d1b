//! Requests about messages of which the ledger cannot tell at once how they stand: they wait, in their order, until it has looked.
//!
//! ```text
//!  arrives ─ standing is known ─▶ this turn
//!      └──── is not ──▶ waiting ── one look-up at a time, of all that wait ──▶ looked up ── a later turn
//! ```

use std::collections::HashSet;

use job::home::HomeRequest;
use queue::{Handle, Ledger, LedgerError, Local};

use super::Arrival;
use crate::machine::Token;

/// What waits; bounded by the windows of the sockets that it came over.
#[derive(Default)]
pub(super) struct Unsure {
    waiting: Vec<Arrival>,
    looked_up: Vec<Arrival>,
    /// What both are about: another request about the same stays behind.
    handles: HashSet<Handle>,
}

impl Unsure {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.looked_up.is_empty()
    }

    /// Gives an arrival back if it can be taken now, else has it wait.
    pub(super) fn admit(&mut self, ledger: &dyn Ledger, arrival: Arrival) -> Option<Arrival> {
        let handles = handles(&arrival);
        let stays = handles.iter().any(|handle| self.handles.contains(*handle))
            || !handles.is_empty() && ledger.look_up(&handles).is_some();
        if !stays {
            return Some(arrival);
        }
        let handles: Vec<Handle> = handles.into_iter().cloned().collect();
        self.handles.extend(handles);
        self.waiting.push(arrival);
        None
    }

    /// Begins to look up what waits, unless a look-up is under way. What it gives is to be waited for, and then its result to be given
    /// to [`Unsure::take`].
    pub(super) fn look_up(
        &mut self,
        ledger: &dyn Ledger,
    ) -> Option<Local<'static, Result<(), LedgerError>>> {
        if self.waiting.is_empty() || !self.looked_up.is_empty() {
            return None;
        }
        self.looked_up = std::mem::take(&mut self.waiting);
        let handles: Vec<&Handle> = self.looked_up.iter().flat_map(handles).collect();
        Some(ledger.look_up(&handles).unwrap_or_else(|| Box::pin(std::future::ready(Ok(())))))
    }

    /// Takes out what was looked up.
    pub(super) fn take(&mut self) -> Vec<Arrival> {
        let taken = std::mem::take(&mut self.looked_up);
        self.handles = self.waiting.iter().flat_map(handles).cloned().collect();
        taken
    }
}

/// The messages whose standing counts for what is made of a request.
fn handles(arrival: &Arrival) -> Vec<&Handle> {
    match arrival {
        Arrival::Enqueue { request, .. } => vec![&request.handle],
        Arrival::Known(_, request) => request.messages.iter().map(|one| &one.handle).collect(),
        Arrival::Home(_, HomeRequest::Where(request)) => {
            request.messages.iter().map(|one| &one.handle).collect()
        }
        Arrival::Home(_, HomeRequest::Moved(request)) => {
            request.messages.iter().map(|one| &one.from).collect()
        }
        Arrival::Strike(_, request) => vec![&request.handle],
        _ => Vec::new(),
    }
}

/// Whom the refusal of such a request is to be told.
pub(super) fn token(arrival: &Arrival) -> Option<Token> {
    match arrival {
        Arrival::Enqueue { token, .. }
        | Arrival::Known(token, _)
        | Arrival::Home(token, _)
        | Arrival::Strike(token, _) => Some(*token),
        _ => None,
    }
}
