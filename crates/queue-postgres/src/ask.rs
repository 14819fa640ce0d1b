//! A thread that others ask: each question is a function of the connection, many may be under way on it.

use std::rc::Rc;

use queue::Local;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::connection::late;
use crate::link::{Connected, Link};
use crate::thread::StoreThread;
use crate::{Cause, Checks, Connection, Database, Fault};

/// A question is asked so often: the connection may have ended unnoticed, or what is away may just be coming back.
const TRIES: usize = 2;

type Job = Box<dyn FnOnce(Rc<Asked>) -> Local<'static, ()> + Send>;

/// The asking side. Dropping it ends the thread; what was asked and is not answered is not waited for.
pub(crate) struct Asker {
    database: Database,
    jobs: Option<mpsc::UnboundedSender<Job>>,
    _thread: StoreThread,
}

/// The thread's side.
struct Asked {
    database: Database,
    link: Mutex<Link>,
}

impl Asker {
    /// Starts a thread with a connection that passes `checks`. A database that is away is no error.
    pub(crate) fn open(name: &str, database: &Database, checks: Checks) -> Result<Self, Fault> {
        let (jobs, mut from) = mpsc::unbounded_channel::<Job>();
        let its_database = database.clone();
        let thread = StoreThread::open(name, database, checks, move |first| async move {
            let link = Mutex::new(Link::new(
                its_database.clone(),
                checks,
                first.ok(),
                &Connected::default(),
            ));
            let asked = Rc::new(Asked { database: its_database, link });
            while let Some(job) = from.recv().await {
                tokio::task::spawn_local(job(asked.clone()));
            }
        })?;
        Ok(Self { database: database.clone(), jobs: Some(jobs), _thread: thread })
    }

    /// Asks. The question changes nothing, or leads to the same when it is asked twice.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl AsyncFn(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(|asked| {
            Box::pin(async move {
                let _ = answer.send(asked.answer(question).await);
            })
        });
        let gone = || Fault::Away {
            database: self.database.name().clone(),
            cause: Cause::Other("its thread has ended".into()),
        };
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(job).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        // The thread is waited for once this is closed.
        drop(self.jobs.take());
    }
}

impl Asked {
    async fn answer<T>(
        &self,
        question: impl AsyncFn(&Connection) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let limit = self.database.settings().statement_timeout.0;
        let mut tries = 1;
        loop {
            let connection = self.connection().await?;
            let answer = timeout(limit, question(&connection)).await;
            match answer.unwrap_or_else(|_| Err(late(&self.database, limit))) {
                Err(fault) if fault.may_pass() && tries < TRIES => tries += 1,
                answer => return answer,
            }
            let mut link = self.link.lock().await;
            if link.has(&connection) {
                link.cut();
            }
        }
    }

    /// Whoever waits behind others that cannot connect waits no longer than one of them does.
    async fn connection(&self) -> Result<Rc<Connection>, Fault> {
        let limit = self.database.settings().connect_timeout.0;
        let deadline = Instant::now() + limit;
        let connection = async { self.link.lock().await.get(deadline, |_| {}).await };
        timeout_at(deadline, connection).await.unwrap_or_else(|_| Err(late(&self.database, limit)))
    }
}
