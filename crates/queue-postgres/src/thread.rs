//! The thread of an opened role: a runtime of its own for its connections, which outlives the caller's futures.

use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

use crate::{Checks, Connection, Database, Fault};

/// A thread that runs one future on its own runtime. Dropping it waits until that future has ended: whoever holds it closes
/// first what the future reads from, and the future bounds what it still waits for.
pub(crate) struct StoreThread(Option<JoinHandle<()>>);

impl StoreThread {
    /// Starts a thread; `work` is called on it and may spawn local tasks.
    pub(crate) fn start<F>(
        name: &str,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<Self>
    where
        F: Future<Output = ()> + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let mut runtime = runtime;
            match runtime.enable_all().build_local(Default::default()) {
                Ok(runtime) => {
                    runtime.block_on(async { work().await });
                    // A name may still be looked up, for as long as that takes.
                    runtime.shutdown_background();
                }
                Err(error) => tracing::error!(%error, "no runtime for the database"),
            }
        })?;
        Ok(Self(Some(thread)))
    }

    /// Starts a thread that connects before anything else. `work` is then called with the connection, or with why there is none
    /// when that may pass, before this returns.
    ///
    /// Waits for that first connection, at most `connect_timeout` for each host. Whatever more waiting would not change is an
    /// error: another schema, a wrong password, a server that may lose what it has.
    pub(crate) fn open<F>(
        name: &str,
        database: &Database,
        checks: Checks,
        work: impl FnOnce(Result<Connection, Fault>) -> F + Send + 'static,
    ) -> Result<Self, Fault>
    where
        F: Future<Output = ()> + 'static,
    {
        let (opened, first) = mpsc::channel();
        let its_database = database.clone();
        let thread = Self::start(name, move || async move {
            let connection = Connection::open(&its_database, checks).await;
            match connection {
                Err(fault) if !fault.may_pass() => drop(opened.send(Err(fault))),
                connection => {
                    let work = work(connection);
                    drop(opened.send(Ok(())));
                    work.await;
                }
            }
        });
        let failed = |error: io::Error| Fault::Refused {
            database: database.name().clone(),
            cause: error.into(),
        };
        let thread = thread.map_err(failed)?;
        first.recv().map_err(|error| failed(io::Error::other(error)))??;
        Ok(thread)
    }

    /// Waits until the future has ended.
    pub(crate) fn finish(&mut self) {
        if let Some(thread) = self.0.take()
            && thread.join().is_err()
        {
            tracing::error!("a thread of the database panicked");
        }
    }
}

impl Drop for StoreThread {
    fn drop(&mut self) {
        self.finish();
    }
}
