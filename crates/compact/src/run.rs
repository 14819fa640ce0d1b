//! The worker: passes, until nobody asks for another and nothing is left to be copied.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use farm::{Asked, Worker, WorkerError};
use job::Acknowledged;
use job::compact::{Compact, CompactRequest};
use queue::Compaction;
use socket::{ClientSettings, Responder, Service};
use tokio::time::Instant;

use crate::pass::{Pass, Report};
use crate::{Assignment, counter};

/// Why a worker could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The worker could not begin.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// How long the scheduler may take to answer: it may be replaying its ledger, and it answers when that is synced.
const HOME_DEADLINE: Duration = Duration::from_secs(10);

/// Runs a worker of farm `compact`: one pass, and those that are asked for meanwhile; then returns.
pub async fn run(
    worker: Worker,
    assignment: Assignment,
    compaction: Rc<dyn Compaction>,
) -> Result<(), Error> {
    let client =
        ClientSettings { deadline: HOME_DEADLINE, waiting_max: 16, ..ClientSettings::default() };
    let pass = Pass {
        settings: assignment.settings,
        compaction,
        scheduler: worker.client("scheduler.home", client),
        now: || SystemTime::now().into(),
    };
    let asked = Rc::new(Asked::default());
    worker.serve::<Compact>("compact.compact", Rc::new(Asking(Rc::clone(&asked))))?;
    worker.ready();
    // Passes are harmless to cut off: what was not done is done by the next.
    worker.until_draining(passes(&pass, &asked, |counter, add| worker.count(counter, add))).await;
    Ok(())
}

/// Makes passes until nobody asked since the last began, and it left nothing that it might have copied.
pub(crate) async fn passes(pass: &Pass, asked: &Asked, count: impl Fn(usize, u64)) {
    loop {
        asked.begin();
        let more = one(pass, &count).await;
        if more || asked.is_asked() {
            continue;
        }
        if !asked.lingers().await {
            return;
        }
    }
}

/// Makes one pass; says whether it got on and left something for another.
async fn one(pass: &Pass, count: &impl Fn(usize, u64)) -> bool {
    let begun = Instant::now();
    let mut report = Report::default();
    let result = pass.go(&mut report).await;
    count(counter::PASSES, 1);
    report.counts().into_iter().for_each(|(counter, add)| count(counter, add));
    let elapsed_ms = begun.elapsed().as_millis() as u64;
    let Report { examined, emptied, moved, damaged, copied_bytes, removed, more } = report;
    if let Err(error) = result {
        count(counter::CUT_SHORT, 1);
        tracing::warn!(%error, moved, elapsed_ms, "compact pass cut short; the next will do the rest");
        return false;
    }
    if moved + damaged + removed > 0 {
        tracing::info!(
            examined,
            emptied,
            moved,
            damaged,
            copied_bytes,
            removed,
            elapsed_ms,
            "compact pass"
        );
    } else {
        tracing::debug!(examined, elapsed_ms, "compact pass, nothing to be moved");
    }
    more && moved > 0
}

/// Those who ask for passes.
struct Asking(Rc<Asked>);

impl Service<Compact> for Asking {
    fn call(&self, request: CompactRequest, responder: Responder<Compact>) {
        self.0.ask(&request.reason);
        responder.answer(&Acknowledged {});
    }
}
