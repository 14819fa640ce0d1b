//! Putting synced files into `new/`, many with one sync.
//!
//! While a directory's sync runs, what comes for the same directory waits for the next one: a burst of mail for one mailbox
//! costs few directory syncs, and a lone message waits for nobody.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use agent::{Counters, Gate};
use farm::fault;
use tokio::sync::{Semaphore, oneshot};

use crate::counter;
use crate::maildir::{Published, Waiting, sync_directory};

/// Why a file did not come into `new/`.
#[derive(Debug)]
pub(crate) enum PublishError {
    /// The dot gate had closed: another may be delivering by now.
    GateClosed,
    /// The file system refused.
    Io(io::Error),
}

/// Publishes files, one batch at a time in each directory.
pub(crate) struct Publisher {
    /// What waits, by directory. A directory is listed as long as a batch of it is under way.
    waiting: RefCell<HashMap<PathBuf, Vec<Entry>>>,
    disk: Rc<Semaphore>,
    counters: Counters,
}

struct Entry {
    file: Waiting,
    gate: Gate,
    done: oneshot::Sender<Result<Published, PublishError>>,
}

impl Publisher {
    pub(crate) fn new(disk: Rc<Semaphore>, counters: Counters) -> Rc<Self> {
        Rc::new(Self { waiting: RefCell::default(), disk, counters })
    }

    /// Puts a file into `new/` if its gate is still open, and waits until that is durable.
    pub(crate) async fn publish(
        self: &Rc<Self>,
        file: Waiting,
        gate: Gate,
    ) -> Result<Published, PublishError> {
        gate.leased().await;
        let (done, result) = oneshot::channel();
        let directory = file.directory();
        let entry = Entry { file, gate, done };
        let is_first = {
            let mut waiting = self.waiting.borrow_mut();
            let is_first = !waiting.contains_key(&directory);
            waiting.entry(directory.clone()).or_default().push(entry);
            is_first
        };
        if is_first {
            tokio::task::spawn_local(Rc::clone(self).publish_all(directory));
        }
        result.await.unwrap_or_else(|_| {
            Err(PublishError::Io(io::Error::other("the disk thread ended without a word")))
        })
    }

    /// Publishes what waits for a directory until nothing does.
    async fn publish_all(self: Rc<Self>, directory: PathBuf) {
        loop {
            let permit = self.disk.acquire().await;
            let Some(batch) = self.next_batch(&directory) else { return };
            // From here to the links nothing waits for another message: the gate is asked as late as can be.
            let (open, closed): (Vec<Entry>, Vec<Entry>) =
                batch.into_iter().partition(|entry| entry.gate.is_open());
            let (files, answers): (Vec<Waiting>, Vec<_>) =
                open.into_iter().map(|entry| (entry.file, entry.done)).unzip();
            let (late, refused): (Vec<Waiting>, Vec<_>) =
                closed.into_iter().map(|entry| (entry.file, entry.done)).unzip();
            self.counters.add(counter::SYNCS, u64::from(!files.is_empty()));
            let path = directory.clone();
            let work = tokio::task::spawn_blocking(move || {
                drop(late);
                link_all(&files, &path)
            });
            let results = work.await.unwrap_or_default();
            drop(permit);
            for done in refused {
                let _ = done.send(Err(PublishError::GateClosed));
            }
            for (done, result) in answers.into_iter().zip(results) {
                let _ = done.send(result.map_err(PublishError::Io));
            }
        }
    }

    fn next_batch(&self, directory: &PathBuf) -> Option<Vec<Entry>> {
        let mut waiting = self.waiting.borrow_mut();
        match waiting.get_mut(directory).map(std::mem::take) {
            Some(batch) if !batch.is_empty() => Some(batch),
            _ => {
                waiting.remove(directory);
                None
            }
        }
    }
}

/// Links the files and syncs their directory once. A failed sync takes back what was linked, since nobody will be told it is there.
fn link_all(files: &[Waiting], directory: &std::path::Path) -> Vec<io::Result<Published>> {
    if files.is_empty() {
        return Vec::new();
    }
    fault::point("local.link.before");
    let mut results: Vec<io::Result<Published>> = files.iter().map(Waiting::publish).collect();
    fault::point("local.link.after");
    if let Err(error) =
        fault::fallible("local.sync_dir.before").and_then(|()| sync_directory(directory))
    {
        for (file, result) in files.iter().zip(&mut results) {
            if matches!(result, Ok(Published::Now)) {
                file.withdraw();
            }
            if result.is_ok() {
                *result = Err(io::Error::new(error.kind(), error.to_string()));
            }
        }
    }
    results
}
