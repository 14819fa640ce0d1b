//! A body on its way to rows of `body`: what both sides know of it, and the brake on its writer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mail::MessageId;
use queue::IntakeError;
use tokio::sync::Notify;

use super::memory::Held;

/// How much of a body may wait for the database before [`queue::Draft::room`] holds its writer back, in bytes.
pub(crate) const UNWRITTEN_BYTES_MAX: usize = 1 << 20;

/// How many bodies are going to rows because they are large.
pub(crate) struct Large {
    open: AtomicUsize,
    open_max: usize,
}

impl Large {
    pub(crate) fn new(open_max: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), open_max })
    }

    /// Whether there is a place.
    pub(crate) fn check(&self) -> Result<(), IntakeError> {
        if self.open.load(Ordering::Relaxed) < self.open_max {
            Ok(())
        } else {
            Err(IntakeError::Busy)
        }
    }

    /// Takes a place. Only one thread does.
    pub(crate) fn take(self: &Arc<Self>) -> Result<Place, IntakeError> {
        self.check()?;
        self.open.fetch_add(1, Ordering::Relaxed);
        Ok(Place(self.clone()))
    }
}

/// A place among the large bodies, free again when it is dropped.
pub(crate) struct Place(Arc<Large>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One body's rows.
pub(crate) struct Rows {
    id: MessageId,
    state: Mutex<State>,
    changed: Notify,
    _place: Option<Place>,
}

#[derive(Default)]
struct State {
    pieces: i32,
    size: u64,
    unwritten: usize,
    failure: Option<IntakeError>,
}

/// A row to be.
pub(crate) struct Piece {
    pub(crate) rows: Arc<Rows>,
    pub(crate) seq: i32,
    pub(crate) data: Vec<u8>,
    pub(crate) _held: Held,
}

impl Rows {
    pub(crate) fn new(id: MessageId, place: Option<Place>) -> Arc<Self> {
        let state = Mutex::default();
        Arc::new(Self { id, state, changed: Notify::new(), _place: place })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn id(&self) -> MessageId {
        self.id
    }

    /// How many there are.
    pub(crate) fn pieces(&self) -> i32 {
        self.state().pieces
    }

    /// How many bytes they have together.
    pub(crate) fn size(&self) -> u64 {
        self.state().size
    }

    /// Makes the next row.
    pub(crate) fn piece(self: &Arc<Self>, data: Vec<u8>, held: Held) -> Piece {
        let mut state = self.state();
        let seq = state.pieces;
        state.pieces += 1;
        state.size += data.len() as u64;
        // One without a byte is to be waited for as well.
        state.unwritten += data.len() + 1;
        Piece { rows: self.clone(), seq, data, _held: held }
    }

    /// A row is there, or failed for good.
    pub(crate) fn note(&self, piece: &Piece, result: Result<(), IntakeError>) {
        let mut state = self.state();
        state.unwritten -= piece.data.len() + 1;
        if let Err(error) = result {
            state.failure = Some(error);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Whether one has failed.
    pub(crate) fn check(&self) -> Result<(), IntakeError> {
        self.state().failure.clone().map_or(Ok(()), Err)
    }

    /// Waits until little is unwritten.
    pub(crate) async fn room(&self) -> Result<(), IntakeError> {
        self.until(UNWRITTEN_BYTES_MAX).await
    }

    /// Waits until everything is written.
    pub(crate) async fn written(&self) -> Result<(), IntakeError> {
        self.until(0).await
    }

    async fn until(&self, unwritten_max: usize) -> Result<(), IntakeError> {
        loop {
            // Made before looking: it hears of every change that comes after.
            let changed = self.changed.notified();
            {
                let state = self.state();
                if let Some(error) = &state.failure {
                    return Err(error.clone());
                }
                if state.unwritten <= unwritten_max {
                    return Ok(());
                }
            }
            changed.await;
        }
    }
}
