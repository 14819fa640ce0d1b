//! An owner's time, as its threads and tasks know it: until when it surely lasts, how far it has written, and why it is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use queue::LedgerError;
use tokio::sync::watch;

use crate::{Database, Fault};

/// Until when the ledger is surely this owner's.
pub(crate) struct Owned {
    begun: Instant,
    /// Milliseconds since then.
    until: AtomicU64,
}

/// How far the owner has come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    pub(crate) written: u64,
    pub(crate) synced: u64,
    /// It is over.
    pub(crate) over: Option<LedgerError>,
}

/// What the tasks of an owner's thread share.
pub(crate) struct Tenancy {
    pub(crate) database: Database,
    pub(crate) epoch: i64,
    pub(crate) owned: Arc<Owned>,
    pub(crate) progress: watch::Sender<Progress>,
    /// Counts the connections that the lease has lost: others may be dead too, and not know it yet.
    pub(crate) suspicions: watch::Sender<u64>,
}

impl Owned {
    pub(crate) fn until(until: Instant) -> Arc<Self> {
        let owned = Self { begun: Instant::now(), until: AtomicU64::new(0) };
        owned.extend(until);
        Arc::new(owned)
    }

    pub(crate) fn extend(&self, until: Instant) {
        let millis = until.saturating_duration_since(self.begun).as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        self.until.fetch_max(millis, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Instant {
        self.begun + Duration::from_millis(self.until.load(Ordering::Relaxed))
    }
}

impl Tenancy {
    /// The owner's time is over: nothing is written any more. The first reason counts.
    pub(crate) fn end(&self, why: String) {
        self.progress.send_if_modified(|progress| {
            let is_first = progress.over.is_none();
            if is_first {
                progress.over = Some(LedgerError::Fenced(why));
            }
            is_first
        });
    }

    /// Why it is over.
    pub(crate) fn error(&self) -> LedgerError {
        let over = self.progress.borrow().over.clone();
        over.unwrap_or_else(|| LedgerError::Fenced("it is over".to_owned()))
    }

    pub(crate) fn is_over(&self) -> bool {
        self.progress.borrow().over.is_some()
    }

    /// Resolves when it is over.
    pub(crate) async fn over(&self) {
        let mut progress = self.progress.subscribe();
        // The sender is ours: it is there.
        let _ = progress.wait_for(|progress| progress.over.is_some()).await;
    }

    /// Does work until it is done or the owner's time is over.
    pub(crate) async fn unless_over<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        first(work, self.over()).await.ok()
    }

    /// How long it is worth to wait for a connection now.
    pub(crate) fn deadline(&self) -> tokio::time::Instant {
        self.owned.get().into()
    }

    /// What a fault that more tries do not mend makes of the owner: it begins again, from what is written.
    pub(crate) fn end_by(&self, fault: &Fault) {
        match fault {
            Fault::Fenced { .. } => self.end(fault.whole()),
            fault => {
                tracing::error!(error = %fault.whole(), "the ledger cannot be kept in the database");
                self.end(fault.whole());
            }
        }
    }
}

/// Waits for the first of two; what the other has begun is dropped.
pub(crate) async fn first<A, B>(
    one: impl Future<Output = A>,
    other: impl Future<Output = B>,
) -> Result<A, B> {
    use std::task::Poll;
    let (mut one, mut other) = (std::pin::pin!(one), std::pin::pin!(other));
    std::future::poll_fn(|context| match one.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Ok(value)),
        Poll::Pending => other.as_mut().poll(context).map(Err),
    })
    .await
}
