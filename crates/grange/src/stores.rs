//! The stores a role may use: the only place that names a concrete `queue-*`.

mod settings;

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use job::requeue::{Requeue, RequeueRequest};
use queue::{Compaction, Handle, Intake, Ledger, Ownership, Reader, Recovery, Sole, Standing};
use queue_postgres::Database;
use serde::{Deserialize, Serialize};
use socket::ClientSettings;

pub use self::settings::Settings;

/// Says of a handle whether its message has ended.
type IsRetired = Box<dyn Fn(&Handle) -> bool>;

/// Where messages are kept: the spool in `data_dir`, or a database.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stores {
    /// Spool, and mail for the local channel.
    pub data_dir: PathBuf,
    /// The `[queue]` section.
    pub settings: Settings,
}

impl Stores {
    /// The database, if messages are kept in one.
    pub fn database(&self) -> anyhow::Result<Option<Database>> {
        self.settings
            .database()
            .map_err(|problem| anyhow::anyhow!("{}: {}", problem.key, problem.wrong))
    }

    /// Opens the queue for an acceptor. What a dead one left in the spool is adopted first; then requeue is asked for a pass.
    pub async fn intake(&self, worker: &farm::Worker) -> anyhow::Result<Rc<dyn Intake>> {
        let opening = "cannot open the queue for writing";
        if let Some(database) = self.database()? {
            return Ok(queue_postgres::open_intake(&database).context(opening)?);
        }
        let (intake, adopted) =
            queue_spool::open_intake(&self.data_dir, &self.settings.spool).context(opening)?;
        if adopted.segments > 0 {
            let queue_spool::Adopted { segments, messages, bodies_removed, damaged_bytes } =
                adopted;
            tracing::info!(segments, messages, bodies_removed, damaged_bytes, "adopted");
        }
        if adopted.needs_requeue() {
            let reason = format!("{} adopted a stripe", worker.name());
            tokio::task::spawn_local(ask_for_requeue(worker, reason, ADOPTED_DEADLINE));
        }
        Ok(intake)
    }

    /// Opens the queue for reading.
    pub fn reader(&self) -> anyhow::Result<Rc<dyn Reader>> {
        let opening = "cannot open the queue for reading";
        if let Some(database) = self.database()? {
            return Ok(queue_postgres::open_reader(&database).context(opening)?);
        }
        let reader =
            queue_spool::open_reader(&self.data_dir, &self.settings.spool).context(opening)?;
        Ok(reader)
    }

    /// The way to the scheduler's ledger. `holder` says to other hosts who has it.
    pub fn ownership(&self, holder: &str) -> anyhow::Result<Rc<dyn Ownership>> {
        if let Some(database) = self.database()? {
            return Ok(queue_postgres::open_ownership(&database, holder));
        }
        let (data_dir, settings) = (self.data_dir.clone(), self.settings.spool.clone());
        Ok(Rc::new(Sole(move || {
            let ledger: Rc<dyn Ledger> = queue_spool::open_ledger(&data_dir, &settings)?;
            Ok(ledger)
        })))
    }

    /// Opens the queue for listing.
    pub fn recovery(&self) -> anyhow::Result<Rc<dyn Recovery>> {
        let opening = "cannot open the queue for listing";
        if let Some(database) = self.database()? {
            return Ok(queue_postgres::open_recovery(&database).context(opening)?);
        }
        let recovery = queue_spool::open_recovery(&self.data_dir).context(opening)?;
        Ok(recovery)
    }

    /// Opens the queue for messages of another store.
    pub fn for_import(&self) -> anyhow::Result<(Rc<dyn Intake>, Rc<dyn Recovery>)> {
        let opening = "cannot open the queue for writing";
        if let Some(database) = self.database()? {
            let intake = queue_postgres::open_intake(&database).context(opening)?;
            return Ok((intake, self.recovery()?));
        }
        let (intake, _) =
            queue_spool::open_intake(&self.data_dir, &self.settings.spool).context(opening)?;
        Ok((intake, self.recovery()?))
    }

    /// Opens the queue for compacting it.
    pub fn compaction(&self) -> anyhow::Result<Rc<dyn Compaction>> {
        if self.settings.is_database() {
            return Ok(queue_postgres::open_compaction());
        }
        let opening = "cannot open the queue for compacting";
        let compaction =
            queue_spool::open_compaction(&self.data_dir, &self.settings.spool).context(opening)?;
        Ok(compaction)
    }

    /// What a command may do to the store: look.
    pub fn read_only(&self) -> anyhow::Result<(Rc<dyn Reader>, Rc<dyn Recovery>)> {
        Ok((self.reader()?, self.recovery()?))
    }

    /// Whether a queue was ever kept there, as far as can be told without asking a database.
    pub fn is_there(&self) -> std::io::Result<bool> {
        if self.settings.is_database() {
            return Ok(true);
        }
        self.data_dir.join("spool").try_exists()
    }

    /// Refuses a queue that a newer program wrote, before anything in it is touched.
    pub fn check_version(&self) -> anyhow::Result<()> {
        // A database is looked at by whoever opens it, before it uses it.
        if self.settings.is_database() {
            return Ok(());
        }
        Ok(queue_spool::check_version(&self.data_dir)?)
    }

    /// Says of a handle whether its message has ended, by the ledger as it lies on disk: for a list while no scheduler runs.
    pub fn retired(&self) -> anyhow::Result<IsRetired> {
        if self.database()?.is_some() {
            // What has ended is not there any more.
            return Ok(Box::new(|_| false));
        }
        let standings =
            queue_spool::read_standings(&self.data_dir).context("cannot read the ledger")?;
        Ok(Box::new(move |handle| standings.standing(handle) == Standing::Retired))
    }
}

/// How long requeue may take to hear of an adopted stripe.
const ADOPTED_DEADLINE: Duration = Duration::from_secs(60);
/// How long it may take to hear of a worker that is about to end.
const LEFT_DEADLINE: Duration = Duration::from_secs(1);

/// An acceptor has ended and its intake is closed: what it accepted and could not tell router of is requeue's now.
pub async fn leave_to_requeue(worker: &farm::Worker, messages: usize) {
    if messages > 0 {
        tracing::info!(messages, "accepted and not known to be routed: left to requeue");
        let reason = format!("{} ended", worker.name());
        ask_for_requeue(worker, reason, LEFT_DEADLINE).await;
    }
}

/// Best effort: requeue's timer finds what this does not tell it of.
fn ask_for_requeue(
    worker: &farm::Worker,
    reason: String,
    deadline: Duration,
) -> impl Future<Output = ()> + use<> {
    let settings = ClientSettings { deadline, waiting_max: 1, ..ClientSettings::default() };
    let client = worker.client::<Requeue>("requeue.requeue", settings);
    async move {
        if let Err(error) = client.call(&RequeueRequest { reason }).await {
            tracing::debug!(%error, "requeue was not asked");
        }
    }
}

/// Whether an error says that this program does not know the queue's format.
pub fn is_newer(error: &anyhow::Error) -> bool {
    let newer = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref(), Some(queue_spool::OpenError::Newer { .. }))
            || matches!(cause.downcast_ref(), Some(queue_postgres::Fault::Version { .. }))
    };
    error.chain().any(newer)
}
