//! Whether the database takes mail, as both sides see it.

use std::sync::{Mutex, PoisonError};

use queue::IntakeError;
use tokio::sync::Notify;

use crate::Fault;
use crate::fault::told;

/// The trouble there is, if any.
#[derive(Default)]
pub(crate) struct Health {
    trouble: Mutex<Option<Fault>>,
    troubled: Notify,
}

impl Health {
    /// Refuses while there is trouble.
    pub(crate) fn check(&self) -> Result<(), IntakeError> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.as_ref().map_or(Ok(()), |fault| Err(refusal(fault.clone())))
    }

    /// The database does not do as it should: no draft begins until [`Self::well`].
    pub(crate) fn ill(&self, fault: &Fault) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.replace(fault.clone()).is_none() {
            tracing::warn!(error = %fault.whole(), "no mail is taken until the database is back");
            self.troubled.notify_one();
        }
    }

    /// It does.
    pub(crate) fn well(&self) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.take().is_some() {
            tracing::info!("the database is back, mail is taken");
        }
    }

    /// Waits until there is trouble.
    pub(crate) async fn troubled(&self) {
        while self.trouble.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            self.troubled.notified().await;
        }
    }
}

/// What an acceptor hears of a fault.
pub(crate) fn refusal(fault: Fault) -> IntakeError {
    match fault {
        Fault::Full { .. } => IntakeError::Full(fault.whole()),
        fault => {
            let (context, source) = told(fault);
            IntakeError::Io { context, source }
        }
    }
}
