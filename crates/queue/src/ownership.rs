//! Whose the ledger is: one scheduler writes it, and others may stand by.

use std::rc::Rc;

use crate::{Ledger, LedgerError, Local};

/// The way to the ledger: one contender owns it at a time. Held by the scheduler alone.
pub trait Ownership {
    /// Waits, if need be for days, until the ledger is this contender's. Dropping the future gives the place in the line up.
    ///
    /// # Errors
    ///
    /// What waiting does not mend: a ledger of a newer version, or one that is held by a store in which nobody stands by.
    fn acquire(&self) -> Local<'_, Result<Tenure, LedgerError>>;
}

/// An owner's time with the ledger; it ends with the ledger it holds, or at [`Ledger::owned_until`].
pub struct Tenure {
    /// The ledger, which is still to be replayed.
    pub ledger: Rc<dyn Ledger>,
    /// Nobody else can have a job in hand for this ledger: the owner before gave it up in order, or there was none. Otherwise what
    /// it had sent may be under way yet, and be reported to this one.
    pub is_clean: bool,
}

/// The ownership of a ledger that its store lets one process open at a time: to open it is to own it, for as long as it lives.
pub struct Sole<F>(
    /// Opens it.
    pub F,
);

impl<F: Fn() -> Result<Rc<dyn Ledger>, LedgerError>> Ownership for Sole<F> {
    fn acquire(&self) -> Local<'_, Result<Tenure, LedgerError>> {
        let opened = (self.0)();
        Box::pin(std::future::ready(opened.map(|ledger| Tenure { ledger, is_clean: true })))
    }
}
