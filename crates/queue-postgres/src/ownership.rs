//! Standing in line for the ledger, and the thread of whoever owns it.
//!
//! ```text
//!  look … look ─▶ claim ─▶ granted: lease, writer and reader, three tasks with a connection each ─▶ given up, or over
//! ```

use std::rc::Rc;
use std::sync::Arc;

use queue::{Ledger, LedgerError, Local, Ownership, Tenure};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Duration, sleep, timeout};

use crate::fault::told;
use crate::lease::{self, Claimed, Seen};
use crate::ledger::tenancy::{Owned, Progress, Tenancy, first};
use crate::ledger::{Ask, Command, Granted, PostgresLedger, Ways, Writer, serve};
use crate::link::BackOff;
use crate::thread::StoreThread;
use crate::{Checks, Connection, Database, Fault};

/// How long a renewal that is under way is waited for before the lease is given up.
const RENEWAL_MAX: Duration = Duration::from_secs(1);

/// The way to the scheduler's ledger in a database.
pub struct PostgresOwnership {
    database: Database,
    holder: String,
}

/// Whether one that finds the ledger taken waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    Waits,
    AsksOnce,
}

type Grant = Box<dyn FnOnce(Result<Granted, LedgerError>) + Send>;

impl PostgresOwnership {
    pub(crate) fn new(database: &Database, holder: &str) -> Self {
        Self { database: database.clone(), holder: holder.to_owned() }
    }

    /// Takes the ledger if nobody has it.
    pub(crate) fn acquire_now(&self) -> Result<PostgresLedger, LedgerError> {
        let (sender, granted) = std::sync::mpsc::channel();
        let grant: Grant = Box::new(move |granted| drop(sender.send(granted)));
        let (ways, thread) = self.start(Patience::AsksOnce, grant)?;
        let granted = granted.recv().unwrap_or_else(|_| Err(no_thread()))?;
        Ok(PostgresLedger::new(granted, ways, thread))
    }

    fn start(&self, patience: Patience, grant: Grant) -> Result<(Ways, StoreThread), LedgerError> {
        let (commands, from_commands) = mpsc::unbounded_channel();
        let (asks, from_asks) = mpsc::unbounded_channel();
        let (wanted, unwanted) = oneshot::channel();
        let contender =
            Contender { database: self.database.clone(), holder: self.holder.clone(), patience };
        let work = move || async move {
            contender.run(grant, unwanted, from_commands, from_asks).await;
        };
        let thread = StoreThread::start("pg-ledger", work).map_err(|source| LedgerError::Io {
            context: "a thread for the ledger".into(),
            source: Arc::new(source),
        })?;
        Ok((Ways { commands, asks, _wanted: wanted }, thread))
    }
}

fn no_thread() -> LedgerError {
    LedgerError::Fenced("its thread has ended".to_owned())
}

impl Ownership for PostgresOwnership {
    fn acquire(&self) -> Local<'_, Result<Tenure, LedgerError>> {
        Box::pin(async {
            let (sender, granted) = oneshot::channel();
            let grant: Grant = Box::new(move |granted| drop(sender.send(granted)));
            let (ways, thread) = self.start(Patience::Waits, grant)?;
            // Dropped with this future, in this order: the ways, then the thread, which ends with them.
            let waiting = (ways, thread);
            let granted = granted.await.unwrap_or_else(|_| Err(no_thread()))?;
            let is_clean = granted.claimed.is_clean;
            let (ways, thread) = waiting;
            let ledger: Rc<dyn Ledger> = Rc::new(PostgresLedger::new(granted, ways, thread));
            Ok(Tenure { ledger, is_clean })
        })
    }
}

/// One that stands in line, on its thread.
struct Contender {
    database: Database,
    holder: String,
    patience: Patience,
}

impl Contender {
    async fn run(
        self,
        grant: Grant,
        unwanted: oneshot::Receiver<()>,
        commands: mpsc::UnboundedReceiver<Command>,
        asks: mpsc::UnboundedReceiver<Ask>,
    ) {
        let Ok(acquired) = first(self.contend(), unwanted).await else { return };
        let (claimed, connection) = match acquired {
            Ok(acquired) => acquired,
            Err(error) => return grant(Err(error)),
        };
        let owned = Owned::until(claimed.until);
        let (progress, progressed) = watch::channel(Progress::default());
        let tenancy = Rc::new(Tenancy {
            database: self.database,
            epoch: claimed.epoch,
            owned: owned.clone(),
            progress,
            suspicions: watch::channel(0).0,
        });
        grant(Ok(Granted { claimed, owned, progress: progressed }));
        let (stop, stopped) = oneshot::channel::<()>();
        let its = tenancy.clone();
        let keeper = tokio::task::spawn_local(async move {
            let _ = first(lease::keep(its, None), stopped).await;
        });
        let reader = tokio::task::spawn_local(serve(tenancy.clone(), None, asks));
        let stop_lease = async move || {
            drop(stop);
            let _ = timeout(RENEWAL_MAX, keeper).await;
        };
        Writer::new(&tenancy, Some(connection)).run(commands, stop_lease).await;
        reader.abort();
    }

    /// Waits until the lease is ours; an error is one that waiting does not mend.
    async fn contend(&self) -> Result<(Claimed, Connection), LedgerError> {
        let mut back_off = BackOff::new();
        let mut is_away = false;
        let mut connection = None;
        loop {
            let pause = match self.try_once(&mut connection).await {
                Ok(Ok(claimed)) => {
                    if let Some(connection) = connection {
                        let Claimed { epoch, is_clean, .. } = claimed;
                        tracing::info!(epoch, is_clean, "the ledger is ours");
                        return Ok((claimed, connection));
                    }
                    Duration::ZERO
                }
                Ok(Err(holder)) if self.patience == Patience::AsksOnce => {
                    return Err(LedgerError::Held(holder));
                }
                Ok(Err(_holder)) => {
                    is_away = false;
                    back_off = BackOff::new();
                    self.database.settings().standby_look.0
                }
                Err(fault) if fault.may_pass() && self.patience == Patience::Waits => {
                    connection = None;
                    if !std::mem::replace(&mut is_away, true) {
                        tracing::warn!(error = %fault.whole(), "the ledger is waited for");
                    }
                    back_off.next()
                }
                Err(fault) => return Err(unopened(fault)),
            };
            sleep(pause).await;
        }
    }

    /// Claims the lease, or says who has it.
    async fn try_once(
        &self,
        connection: &mut Option<Connection>,
    ) -> Result<Result<Claimed, String>, Fault> {
        let open = match connection.take().filter(|connection| !connection.is_closed()) {
            Some(open) => open,
            None => Connection::open(&self.database, Checks::Durable).await?,
        };
        let open = connection.insert(open);
        match lease::look(open).await? {
            Seen::Held(holder) => Ok(Err(holder)),
            Seen::Free => match lease::claim(open, &self.holder).await? {
                Some(claimed) => Ok(Ok(claimed)),
                None => Ok(Err("another that was faster".to_owned())),
            },
        }
    }
}

fn unopened(fault: Fault) -> LedgerError {
    match fault {
        Fault::Version { .. } => LedgerError::Damaged(fault.whole()),
        fault => {
            let (context, source) = told(fault);
            LedgerError::Io { context, source }
        }
    }
}
