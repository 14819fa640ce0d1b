//! The start: everything that the ledger says is taken into memory, unless the worker is told to stop meanwhile.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use queue::{Ledger, LedgerError};

use crate::machine::Scheduler;

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
