//! A worker process: takes up the role its manager handed it, opens the stores that role may use, and runs the stage.

use std::process::ExitCode;

use farm::Worker;
use serde::{Deserialize, Serialize};

use crate::stores::{self, Stores};
use crate::{logging, metrics, status};

/// Everything a worker is handed, as a value; it never reads the configuration file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Handed {
    /// How to log.
    pub log: logging::Settings,
    /// Where messages are kept.
    pub stores: Stores,
    /// What to be.
    pub role: Role,
}

/// What a worker may be.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "role", content = "assignment", rename_all = "snake_case")]
pub enum Role {
    /// Speaks SMTP.
    Smtpserver(Box<smtpserver::Assignment>),
    /// Looks at messages before they are accepted.
    Contentfilter(Box<contentfilter::Assignment>),
    /// Decides channel, host and user.
    Router(Box<router::Assignment>),
    /// Manages the queue.
    Scheduler(Box<scheduler::Assignment>),
    /// Re-sends what was accepted.
    Requeue(Box<requeue::Assignment>),
    /// Copies what lives out of segments that are mostly dead.
    Compact(compact::Assignment),
    /// Delivers over SMTP or LMTP.
    AgentSmtp(Box<agent_smtp::Assignment>),
    /// Delivers into Maildirs.
    AgentLocal(Box<agent_local::Assignment>),
    /// Writes delivery reports.
    AgentError(Box<agent_error::Assignment>),
    /// Answers scrapes.
    Metrics(metrics::Assignment),
    /// Tells other hosts how this one's farms stand.
    Status(status::Assignment),
}

/// The most blocking threads of a worker: they wait for disks, not for cores.
const BLOCKING_THREADS_MAX: usize = 16;

/// Runs this process as a worker.
pub fn main() -> ExitCode {
    let worker = match Worker::start() {
        Ok(worker) => worker,
        Err(error) => {
            eprintln!("grange worker: {error}");
            return ExitCode::from(64);
        }
    };
    let handed: Handed = match worker.settings() {
        Ok(handed) => handed,
        Err(error) => {
            eprintln!("{}: {error}", worker.name());
            return ExitCode::from(70);
        }
    };
    // Before there are other threads.
    let policy = sys::work_in_batches();
    let _flush = logging::start(&handed.log, worker.name());
    if let Err(error) = policy {
        tracing::warn!(%error, "cannot choose how cores are shared");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build_local(tokio::runtime::LocalOptions::default());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the runtime");
            return ExitCode::from(71);
        }
    };
    match runtime.block_on(work(worker, handed)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the worker cannot go on");
            ExitCode::from(71)
        }
    }
}

async fn work(worker: Worker, handed: Handed) -> anyhow::Result<()> {
    let Handed { stores, role, .. } = handed;
    match role {
        Role::Smtpserver(assignment) => {
            let intake = stores.intake(&worker).await?;
            let left = smtpserver::run(worker.clone(), *assignment, intake).await?;
            stores::leave_to_requeue(&worker, left).await;
        }
        Role::Contentfilter(assignment) => {
            let reader = stores.reader()?;
            let opener = worker.clone();
            let open_intake = Box::new(move || {
                let (stores, opener) = (stores.clone(), opener.clone());
                Box::pin(async move {
                    stores.intake(&opener).await.map_err(|error| format!("{error:#}"))
                }) as queue::Local<'static, _>
            });
            contentfilter::run(worker, *assignment, reader, open_intake).await?;
        }
        Role::Router(assignment) => {
            router::run(worker, *assignment, stores.reader()?).await?;
        }
        Role::Scheduler(assignment) => {
            let (hostname, pid) = (&assignment.hostname, std::process::id());
            let holder = format!("{} on {hostname}, process {pid}", worker.name());
            let ownership = stores.ownership(&holder)?;
            scheduler::run(worker, *assignment, ownership).await?;
        }
        Role::Requeue(assignment) => {
            requeue::run(worker, *assignment, stores.recovery()?).await?;
        }
        Role::Compact(assignment) => {
            compact::run(worker, assignment, stores.compaction()?).await?;
        }
        Role::AgentSmtp(assignment) => {
            agent_smtp::run(worker, *assignment, stores.reader()?).await?;
        }
        Role::AgentLocal(assignment) => {
            agent_local::run(worker, *assignment, stores.reader()?).await?;
        }
        Role::AgentError(assignment) => {
            let intake = stores.intake(&worker).await?;
            let reader = stores.reader()?;
            let left = agent_error::run(worker.clone(), *assignment, reader, intake).await?;
            stores::leave_to_requeue(&worker, left).await;
        }
        Role::Metrics(assignment) => metrics::run(worker, assignment).await?,
        Role::Status(assignment) => status::run(worker, assignment).await?,
    }
    Ok(())
}
