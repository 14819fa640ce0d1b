//! The stores a role may use: the only place that names a concrete `queue-*`.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use job::requeue::{Requeue, RequeueRequest};
use queue::{Compaction, Handle, Intake, Ledger, Ownership, Reader, Recovery, Sole, Standing};
use socket::ClientSettings;

use crate::configuration::Configuration;
use queue_spool::Settings;

/// Opens the queue for an acceptor. What a dead one left is adopted first; then requeue is asked for a pass.
pub async fn intake(
    data_dir: &Path,
    settings: &Settings,
    worker: &farm::Worker,
) -> anyhow::Result<Rc<dyn Intake>> {
    let (intake, adopted) = queue_spool::open_intake(data_dir, settings)
        .context("cannot open the queue for writing")?;
    if adopted.segments > 0 {
        let queue_spool::Adopted { segments, messages, bodies_removed, damaged_bytes } = adopted;
        tracing::info!(segments, messages, bodies_removed, damaged_bytes, "adopted");
    }
    if adopted.needs_requeue() {
        let reason = format!("{} adopted a stripe", worker.name());
        tokio::task::spawn_local(ask_for_requeue(worker, reason, ADOPTED_DEADLINE));
    }
    Ok(intake)
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
    let settings = ClientSettings { deadline, waiting_max: 1 };
    let client = worker.client::<Requeue>("requeue.requeue", settings);
    async move {
        if let Err(error) = client.call(&RequeueRequest { reason }).await {
            tracing::debug!(%error, "requeue was not asked");
        }
    }
}

/// Opens the queue for reading.
pub fn reader(data_dir: &Path, settings: &Settings) -> anyhow::Result<Rc<dyn Reader>> {
    let reader = queue_spool::open_reader(data_dir, settings)
        .context("cannot open the queue for reading")?;
    Ok(reader)
}

/// The way to the scheduler's ledger.
pub fn ownership(data_dir: &Path, settings: &Settings) -> Rc<dyn Ownership> {
    let (data_dir, settings) = (data_dir.to_owned(), settings.clone());
    Rc::new(Sole(move || {
        let ledger: Rc<dyn Ledger> = queue_spool::open_ledger(&data_dir, &settings)?;
        Ok(ledger)
    }))
}

/// Opens the queue for listing.
pub fn recovery(data_dir: &Path) -> anyhow::Result<Rc<dyn Recovery>> {
    let recovery =
        queue_spool::open_recovery(data_dir).context("cannot open the queue for listing")?;
    Ok(recovery)
}

/// Opens the queue for compacting it.
pub fn compaction(data_dir: &Path, settings: &Settings) -> anyhow::Result<Rc<dyn Compaction>> {
    let compaction = queue_spool::open_compaction(data_dir, settings)
        .context("cannot open the queue for compacting")?;
    Ok(compaction)
}

/// Whether a queue was ever kept there.
pub fn is_there(data_dir: &Path) -> std::io::Result<bool> {
    data_dir.join("spool").try_exists()
}

/// Refuses a queue that a newer program wrote, before anything in it is touched.
pub fn check_version(configuration: &Configuration) -> anyhow::Result<()> {
    Ok(queue_spool::check_version(&configuration.top.data_dir)?)
}

/// Whether an error says that a newer program is needed.
pub fn is_newer(error: &anyhow::Error) -> bool {
    let newer = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref(), Some(queue_spool::OpenError::Newer { .. }))
    };
    error.chain().any(newer)
}

/// What a command may do to the store: look.
pub fn read_only(
    configuration: &Configuration,
) -> anyhow::Result<(Rc<dyn Reader>, Rc<dyn Recovery>)> {
    let data_dir = &configuration.top.data_dir;
    Ok((reader(data_dir, &configuration.queue)?, recovery(data_dir)?))
}

/// Says of a handle whether its message has ended, by the ledger as it lies on disk: for a list while no scheduler runs.
pub fn retired(configuration: &Configuration) -> anyhow::Result<impl Fn(&Handle) -> bool> {
    let standings = queue_spool::read_standings(&configuration.top.data_dir)
        .context("cannot read the ledger")?;
    Ok(move |handle: &Handle| standings.standing(handle) == Standing::Retired)
}
