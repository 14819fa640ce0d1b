//! Replaying beside the runtime: a thread reads and decodes, the runtime applies what it has found, batch by batch.
//!
//! ```text
//!  logs ─▶ thread: frames, records, standings ─▶ a few batches ─▶ runtime: apply, then let others run
//! ```

use queue::{LedgerError, Record};
use tokio::sync::mpsc;

use super::log::{self, Found, failed};
use super::machine::Book;
use super::standing::Ending;
use crate::place::Layout;

/// Records and recipients that are applied before others may run: about a millisecond's work, and little memory.
const BATCH_WEIGHT: usize = 500;
/// Batches that wait to be applied.
const BATCHES_MAX: usize = 8;

/// Hands every record of the logs that count to `apply`; gives the logs back, with what the records ended. Dropped, it stops reading.
pub(super) async fn all(
    found: Found,
    layout: Layout,
    book: Book,
    apply: &mut dyn FnMut(Record),
) -> Result<(Found, Vec<Ending>), LedgerError> {
    let (sender, mut batches) = mpsc::channel(BATCHES_MAX);
    let ledger = layout.ledger();
    let reader = std::thread::Builder::new()
        .name("spool-replay".into())
        .spawn(move || read(found, &layout, &book, sender))
        .map_err(|error| failed(&ledger, error))?;
    while let Some(batch) = batches.recv().await {
        let batch: Vec<Record> = batch;
        batch.into_iter().for_each(&mut *apply);
        tokio::task::yield_now().await;
    }
    // It has let go of the channel: this waits for nothing. Its panic is ours.
    reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn read(
    found: Found,
    layout: &Layout,
    book: &Book,
    sender: mpsc::Sender<Vec<Record>>,
) -> Result<(Found, Vec<Ending>), LedgerError> {
    let mut endings = Vec::new();
    let (mut batch, mut weight) = (Vec::new(), 0);
    // Once nobody takes them any more, what is read does not matter.
    let mut hand_over = |record| {
        weight += weight_of(&record);
        batch.push(record);
        if weight >= BATCH_WEIGHT {
            weight = 0;
            let _ = sender.blocking_send(std::mem::take(&mut batch));
        }
    };
    for log in found.logs.get(found.start..).unwrap_or_default() {
        log::replay(log, layout, &book.standings, &mut hand_over, &mut endings)?;
    }
    let _ = sender.blocking_send(batch);
    Ok((found, endings))
}

fn weight_of(record: &Record) -> usize {
    1 + match record {
        Record::Routed(routed) | Record::Snapshot(routed) => routed.recipients.len(),
        Record::Outcome { recipients, .. } => recipients.len(),
        _ => 0,
    }
}
