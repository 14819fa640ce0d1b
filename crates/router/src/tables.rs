//! Keeping tables fresh without waiting for them, and without a timer.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lookup::{Refreshed, Table};
use tokio::sync::Notify;

/// A file is looked at no more often than this.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Who finds tables that were last looked at longer ago than this waits for a look: after an idle night, the first message
/// must see the alias that was written in the evening.
const STALE_AFTER: Duration = Duration::from_secs(2);

/// The tables of a worker.
pub(crate) struct Tables {
    tables: Vec<Arc<dyn Table>>,
    looked_at: Cell<Option<Instant>>,
    is_looking: Cell<bool>,
    looked: Notify,
    told: Box<dyn Fn(usize, usize)>,
}

impl Tables {
    /// Takes charge of tables; `told` hears how many were read, and how many failed.
    pub(crate) fn new(
        tables: Vec<Arc<dyn Table>>,
        told: impl Fn(usize, usize) + 'static,
    ) -> Rc<Self> {
        Rc::new(Self {
            tables,
            looked_at: Cell::new(None),
            is_looking: Cell::new(false),
            looked: Notify::new(),
            told: Box::new(told),
        })
    }

    /// Says whether the tables may be asked now. Begins a look at their files when the last is a while ago.
    pub(crate) fn are_fresh(self: &Rc<Self>, now: Instant) -> bool {
        if self.tables.is_empty() {
            return true;
        }
        let age = self.looked_at.get().map(|at| now.saturating_duration_since(at));
        if age.is_none_or(|age| age >= LOOK_EVERY) && !self.is_looking.replace(true) {
            tokio::task::spawn_local(Self::look(Rc::clone(self)));
        }
        age.is_some_and(|age| age < STALE_AFTER)
    }

    /// Waits until the tables may be asked.
    pub(crate) async fn fresh(self: &Rc<Self>) {
        loop {
            let looked = self.looked.notified();
            if self.are_fresh(Instant::now()) {
                return;
            }
            looked.await;
        }
    }

    async fn look(self: Rc<Self>) {
        let tables = self.tables.clone();
        let refreshed = tokio::task::spawn_blocking(move || {
            tables
                .iter()
                .map(|table| (table.name().to_owned(), table.refresh()))
                .collect::<Vec<_>>()
        });
        let refreshed =
            refreshed.await.expect("a table's refresh does not panic and is not aborted");
        let (mut read, mut failed) = (0, 0);
        for (table, refreshed) in refreshed {
            match refreshed {
                Refreshed::Unchanged => {}
                Refreshed::Read { entries, warnings } => {
                    read += 1;
                    tracing::info!(%table, entries, "table read");
                    for warning in warnings {
                        tracing::warn!(%table, "{}", warning.escape_debug());
                    }
                }
                Refreshed::Failed(error) => {
                    failed += 1;
                    let error = error.to_string();
                    tracing::error!(%table, error = %error.escape_debug(), "table not read: what it held before stays; if it held nothing, what needs it is put off");
                }
            }
        }
        (self.told)(read, failed);
        self.looked_at.set(Some(Instant::now()));
        self.is_looking.set(false);
        self.looked.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
