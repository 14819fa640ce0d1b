//! The store thread of an intake: takes events apart, and runs the lanes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mail::MessageId;
use queue::IntakeError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use tokio_postgres::error::SqlState;

use super::accept::{self, Commit, CommitBody};
use super::backlog::Backlog;
use super::bodies::{self, Job};
use super::health::{Health, refusal};
use super::rows::Piece;
use crate::link::{BackOff, Connected};
use crate::random::Ids;
use crate::{Checks, Connection, Database, Fault};

/// How long a closing intake waits for the commits that had begun.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(10);

pub(crate) type Waiter = oneshot::Sender<Result<(), IntakeError>>;
pub(crate) type Answer = (Waiter, Result<(), IntakeError>);

/// What the acceptor asks for.
pub(crate) enum Event {
    /// A row of a body.
    Piece(Piece),
    /// A message to be accepted, once its body's rows are there.
    Commit(Commit),
    /// The rows of a body that nobody needs any more.
    Discard(MessageId),
}

/// What the lanes share.
pub(crate) struct Shared {
    pub(crate) database: Database,
    pub(crate) health: Arc<Health>,
    pub(crate) ids: Ids,
    pub(crate) commits: Backlog<Commit>,
    pub(crate) jobs: Backlog<Job>,
    answers: mpsc::UnboundedSender<Vec<Answer>>,
    /// The connections of the accept lanes.
    pub(crate) connected: Connected,
}

impl Shared {
    /// Tells waiters, all with one wake-up.
    pub(crate) fn answer(&self, answers: Vec<Answer>) {
        let _ = self.answers.send(answers);
    }

    /// A connection could not be made. No draft begins any more, unless only another one is lacking.
    pub(crate) fn unreachable(&self, fault: &Fault) {
        if !fault.is_code(&SqlState::TOO_MANY_CONNECTIONS) || !self.connected.any() {
            self.health.ill(fault);
        }
        let limit = self.database.settings().commit_timeout.0;
        let late = self.commits.take_if(|commit| commit.begun.elapsed() >= limit);
        let refused = late.into_iter().map(|it| (it.waiter, Err(refusal(fault.clone()))));
        let refused: Vec<_> = refused.collect();
        if !refused.is_empty() {
            self.answer(refused);
        }
    }
}

/// Runs until no more events come and the lanes have ended.
pub(crate) async fn run(
    database: Database,
    health: Arc<Health>,
    mut first: Option<Connection>,
    mut events: mpsc::UnboundedReceiver<Event>,
    answers: mpsc::UnboundedSender<Vec<Answer>>,
) {
    let lanes = database.settings().connections;
    let (commits, jobs) = (Backlog::new(), Backlog::new());
    let shared = Rc::new(Shared {
        database,
        health,
        ids: Ids::default(),
        commits,
        jobs,
        answers,
        connected: Connected::default(),
    });
    let probe = tokio::task::spawn_local(probe(shared.clone()));
    let bodies = tokio::task::spawn_local(bodies::lane(shared.clone()));
    let accepts: Vec<_> = (1..=lanes)
        .map(|lane| {
            // The one that waits last is woken first.
            let first = if lane == lanes { first.take() } else { None };
            tokio::task::spawn_local(accept::lane(shared.clone(), first))
        })
        .collect();
    let mut adding = Vec::new();
    while let Some(event) = events.recv().await {
        match event {
            Event::Piece(piece) => shared.jobs.push(Job::Write(piece)),
            Event::Discard(id) => shared.jobs.push(Job::Discard(id)),
            Event::Commit(commit) => match &commit.body {
                CommitBody::Rows(_) => {
                    adding.retain(|task: &tokio::task::JoinHandle<()>| !task.is_finished());
                    adding.push(tokio::task::spawn_local(when_written(shared.clone(), commit)));
                }
                _ => shared.commits.push(commit),
            },
        }
    }
    let drained = timeout(DRAIN_MAX, async {
        for task in adding {
            let _ = task.await;
        }
        shared.commits.close();
        for lane in accepts {
            let _ = lane.await;
        }
        shared.jobs.close();
        let _ = bodies.await;
    });
    if drained.await.is_err() {
        tracing::warn!(database = %shared.database, "commits were still waiting for the database at the end");
    }
    probe.abort();
}

/// Hands a commit on when its body's rows are there.
async fn when_written(shared: Rc<Shared>, commit: Commit) {
    let CommitBody::Rows(rows) = &commit.body else { unreachable!("only those wait") };
    let rows = rows.clone();
    match rows.written().await {
        Ok(()) => shared.commits.push(commit),
        Err(error) => {
            shared.jobs.push(Job::Discard(rows.id()));
            shared.answer(vec![(commit.waiter, Err(error))]);
        }
    }
}

/// Looks, while there is trouble, whether it has ended: without drafts no lane would.
async fn probe(shared: Rc<Shared>) {
    loop {
        shared.health.troubled().await;
        let mut back_off = BackOff::new();
        while shared.health.check().is_err() {
            sleep(back_off.next()).await;
            match Connection::open(&shared.database, Checks::Durable).await {
                Ok(_) => shared.health.well(),
                Err(fault) => shared.health.ill(&fault),
            }
        }
    }
}

/// When what begins now is to have ended.
pub(crate) fn deadline(database: &Database) -> Instant {
    Instant::now() + database.settings().commit_timeout.0
}
