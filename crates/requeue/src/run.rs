//! The worker: passes, until nobody asks for another and nothing young is left.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use farm::{Asked, Worker, WorkerError};
use job::Acknowledged;
use job::requeue::{Requeue, RequeueRequest};
use queue::{Recovery, Segment};
use socket::{ClientSettings, Responder, Service};
use tokio::time::{Instant, timeout_at};

use crate::pass::{Pass, Progress};
use crate::strikes::Strikes;
use crate::{Assignment, counter};

/// Why a worker could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The worker could not begin.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// How long the scheduler may take to say what it knows: it may be replaying its ledger.
const KNOWN_DEADLINE: Duration = Duration::from_secs(10);

/// Runs a worker of farm `requeue`: one pass, and those that are asked for meanwhile; then returns.
pub async fn run(
    worker: Worker,
    assignment: Assignment,
    recovery: Rc<dyn Recovery>,
) -> Result<(), Error> {
    let route_deadline = assignment.route_deadline.0;
    let client =
        |deadline| ClientSettings { deadline, waiting_max: 16, ..ClientSettings::default() };
    let strikes = Rc::new(Strikes::default());
    let pass = Pass {
        old_after: route_deadline.saturating_mul(2),
        route_deadline,
        recovery,
        scheduler: worker.client("scheduler.known", client(KNOWN_DEADLINE)),
        router: worker.client("router.route", client(route_deadline)),
        striker: worker.client("scheduler.strike", client(KNOWN_DEADLINE)),
        strikes: Rc::clone(&strikes),
        progress: Rc::new(Progress::default()),
        now: || SystemTime::now().into(),
        settings: assignment.settings,
    };
    pass.router.on_crash(move |pid| strikes.crashed(pid));
    pass.scheduler.connect();
    pass.router.connect();
    let asked = Rc::new(Asked::default());
    worker.serve::<Requeue>("requeue.requeue", Rc::new(Asking(Rc::clone(&asked))))?;
    worker.ready();
    // Passes are harmless to cut off: what was not done is done by the next.
    worker.until_draining(passes(&pass, &asked, |counter, add| worker.count(counter, add))).await;
    Ok(())
}

/// Makes passes until nobody asked since the last began, and nothing was left because it was too young.
pub(crate) async fn passes(pass: &Pass, asked: &Asked, count: impl Fn(usize, u64)) {
    let mut only: Option<Vec<Segment>> = None;
    loop {
        if only.is_none() {
            asked.begin();
        }
        let (young, come_again_at) = one(pass, only.take(), &count).await;
        if asked.is_asked() {
            continue;
        }
        let Some(come_again_at) = come_again_at else {
            if !asked.lingers().await {
                return;
            }
            continue;
        };
        // Whoever asks now is served by a whole pass, which covers the young ones too.
        if timeout_at(come_again_at, asked.wait()).await.is_err() {
            only = Some(young);
        }
    }
}

/// Makes one pass; gives the segments to come again to, and when.
async fn one(
    pass: &Pass,
    only: Option<Vec<Segment>>,
    count: &impl Fn(usize, u64),
) -> (Vec<Segment>, Option<Instant>) {
    let begun = Instant::now();
    let result = pass.go(only).await;
    let struck = pass.strike().await;
    let (routed, failed) = pass.progress.take_counts();
    count(counter::PASSES, 1);
    count(counter::ROUTED, routed);
    count(counter::FAILED, failed);
    count(counter::STRIKES, struck);
    let elapsed_ms = begun.elapsed().as_millis() as u64;
    match result {
        Ok(report) => {
            report.counts().into_iter().for_each(|(counter, add)| count(counter, add));
            let (segments, examined, young) =
                (report.segments, report.examined, report.young.len());
            if report.wanted > 0 {
                tracing::info!(
                    segments,
                    examined,
                    wanted = report.wanted,
                    routed,
                    failed,
                    young,
                    elapsed_ms,
                    "requeue pass"
                );
            } else {
                tracing::debug!(segments, examined, elapsed_ms, "requeue pass, nothing wanted");
            }
            (report.young, report.come_again_in.map(|wait| Instant::now() + wait))
        }
        Err(error) => {
            count(counter::CUT_SHORT, 1);
            tracing::warn!(%error, routed, failed, elapsed_ms, "requeue pass cut short; the next will do the rest");
            (Vec::new(), None)
        }
    }
}

/// Those who ask for passes.
struct Asking(Rc<Asked>);

impl Service<Requeue> for Asking {
    fn call(&self, request: RequeueRequest, responder: Responder<Requeue>) {
        self.0.ask(&request.reason);
        responder.answer(&Acknowledged {});
    }
}
