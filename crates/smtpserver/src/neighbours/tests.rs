//! The clients against servers of the test's on real sockets, which crash when told to.

mod ask;

use std::cell::RefCell;

use socket::{Ownership, bind};
use tokio::net::{UnixListener, UnixStream};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") });
}

async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Nothing is counted.
struct Uncounted;

impl Tally for Uncounted {
    fn count(&self, _: Counter, _: u64) {}

    fn job(&self) -> Job {
        Job::uncounted()
    }
}

struct Case {
    directory: tempfile::TempDir,
    verify: Client<Verify>,
    farms: Farms,
}

impl Case {
    fn new() -> Self {
        Self::with_deadline(Duration::from_secs(5))
    }

    fn with_deadline(deadline: Duration) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let settings = ClientSettings { deadline, waiting_max: 10, ..ClientSettings::default() };
        let path = |name: &str| directory.path().join(name);
        let clients = Clients {
            verify: Client::new(path("verify"), settings.clone()),
            inspect: Client::new(path("inspect"), settings.clone()),
            route: Client::new(path("route"), settings.clone()),
            strike: Client::new(path("strike"), settings),
        };
        let verify = clients.verify.clone();
        let farms = Farms::new(clients, Duration::from_secs(5), Rc::new(Uncounted));
        Self { directory, verify, farms }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }
}
