//! The start: the ledger is waited for until it is this worker's, and everything that it says is taken into memory, unless the worker
//! is told to stop meanwhile.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use queue::{Ledger, LedgerError, Ownership, Tenure};

use crate::machine::Scheduler;

/// A worker that has not got the ledger after so long stands by.
const STANDS_BY_AFTER: Duration = Duration::from_secs(1);

/// Waits until the ledger is this worker's; nothing if it is told to stop before.
pub(super) async fn acquire(
    worker: &farm::Worker,
    ownership: &dyn Ownership,
) -> Result<Option<Tenure>, LedgerError> {
    worker.hear();
    let begun = Instant::now();
    let mut acquired = ownership.acquire();
    let mut draining = pin!(worker.draining());
    let mut patience = pin!(tokio::time::sleep(STANDS_BY_AFTER));
    let mut is_patient = true;
    let tenure = poll_fn(|context| {
        if let Poll::Ready(tenure) = acquired.as_mut().poll(context) {
            return Poll::Ready(Some(tenure));
        }
        if is_patient && patience.as_mut().poll(context).is_ready() {
            is_patient = false;
            worker.stand_by();
        }
        draining.as_mut().poll(context).map(|()| None)
    });
    let tenure = tenure.await.transpose()?;
    if tenure.is_some() && !is_patient {
        let after_s = begun.elapsed().as_secs();
        tracing::info!(after_s, "the ledger is this host's: takes over");
        worker.take_over();
    }
    Ok(tenure)
}

/// Replays the ledger into the machine. Says whether it came to the end: a worker that drains has no use for the rest, and nothing to
/// write.
pub(super) async fn replay(
    worker: &farm::Worker,
    ledger: &dyn Ledger,
    scheduler: &mut Scheduler,
) -> Result<bool, LedgerError> {
    farm::fault::point("scheduler.replay.before");
    let begun = Instant::now();
    let mut records = 0u64;
    let mut take = |record| {
        records += 1;
        scheduler.replay(&record);
    };
    worker.hear();
    let mut replayed = ledger.replay(&mut take);
    let mut draining = pin!(worker.draining());
    let ended = poll_fn(|context| match draining.as_mut().poll(context) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => replayed.as_mut().poll(context).map(Some),
    });
    let ended = ended.await.transpose()?.is_some();
    drop(replayed);
    let took_ms = begun.elapsed().as_millis() as u64;
    if ended {
        tracing::info!(messages = scheduler.messages(), records, took_ms, "ledger replayed");
    } else {
        tracing::info!(records, took_ms, "told to stop while the ledger was replayed");
    }
    Ok(ended)
}
