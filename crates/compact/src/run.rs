//! The worker: passes, until nobody asks for another and nothing is left to be copied.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use farm::{Worker, WorkerError};
use job::Acknowledged;
use job::compact::{Compact, CompactRequest};
use queue::Compaction;
use socket::{ClientSettings, Responder, Service};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

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
/// How long a worker that has done its passes waits for one who is about to ask.
const LINGER: Duration = Duration::from_millis(500);
/// The longest reason that is logged, in characters.
const REASON_MAX: usize = 200;

/// Runs a worker of farm `compact`: one pass, and those that are asked for meanwhile; then returns.
pub async fn run(
    worker: Worker,
    assignment: Assignment,
    compaction: Rc<dyn Compaction>,
) -> Result<(), Error> {
    let client = ClientSettings { deadline: HOME_DEADLINE, waiting_max: 16 };
    let pass = Pass {
        settings: assignment.settings,
        compaction,
        scheduler: worker.client("scheduler.home", client),
        now: || SystemTime::now().into(),
    };
    let asked = Rc::new(Asked::default());
    worker.serve::<Compact>("compact.compact", Rc::clone(&asked) as Rc<dyn Service<Compact>>)?;
    worker.ready();
    until_drained(&worker, passes(&pass, &asked, |counter, add| worker.count(counter, add))).await;
    Ok(())
}

/// Passes are harmless to cut off at any point: what was not done is done by the next.
async fn until_drained(worker: &Worker, passes: impl Future<Output = ()>) {
    let mut passes = std::pin::pin!(passes);
    let mut draining = std::pin::pin!(worker.draining());
    std::future::poll_fn(|context| match passes.as_mut().poll(context) {
        std::task::Poll::Ready(()) => std::task::Poll::Ready(()),
        std::task::Poll::Pending => draining.as_mut().poll(context),
    })
    .await;
}

/// Makes passes until nobody asked since the last began, and it left nothing that it might have copied.
pub(crate) async fn passes(pass: &Pass, asked: &Asked, count: impl Fn(usize, u64)) {
    loop {
        asked.begin();
        let more = one(pass, &count).await;
        if more || asked.is_asked() {
            continue;
        }
        // Whoever made the manager start this worker has connected, and may not have been heard yet.
        if timeout(LINGER, asked.wait()).await.is_err() {
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

/// Who asked for a pass.
#[derive(Default)]
pub(crate) struct Asked {
    is_asked: Cell<bool>,
    last_reason: RefCell<String>,
    asked: Notify,
}

impl Asked {
    /// Somebody asks for a pass.
    pub(crate) fn ask(&self, reason: &str) {
        self.is_asked.set(true);
        self.last_reason.replace(reason.chars().take(REASON_MAX).collect());
        self.asked.notify_one();
    }

    /// A pass begins: it serves all that asked until now.
    fn begin(&self) {
        if self.is_asked.take() {
            tracing::debug!(reason = %self.last_reason.borrow().escape_debug(), "a compact pass was asked for");
        }
    }

    fn is_asked(&self) -> bool {
        self.is_asked.get()
    }

    async fn wait(&self) {
        while !self.is_asked() {
            self.asked.notified().await;
        }
    }
}

impl Service<Compact> for Asked {
    fn call(&self, request: CompactRequest, responder: Responder<Compact>) {
        self.ask(&request.reason);
        responder.answer(&Acknowledged {});
    }
}
