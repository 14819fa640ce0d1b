//! Scratch PostgreSQL servers for tests: made in a moment, killed and promoted at will, and gone with the process that made them.
//!
//! ```text
//! test process ── pipe ─▶ sh, a keeper ─▶ postgres or pgbouncer, in a directory of its own below /tmp
//! ```
//!
//! A [`Proxy`] stands between a client and a server and cuts connections at a COMMIT. No server of the system is touched or
//! needed; Debian's packages `postgresql-15` and `pgbouncer` are.

use std::sync::OnceLock;

use crate::{Database, Settings};

mod bouncer;
mod keeper;
mod proxy;
mod server;

pub use bouncer::Bouncer;
pub use keeper::other_user;
pub use proxy::{Cut, Proxy};
pub use server::{ADMIN, End, Options, PORT, Server, USER};

/// The server that the tests of one program share, which ends with it.
pub fn shared() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(Options::default()))
}

/// Settings with which a server that syncs nothing will do.
pub fn settings() -> Settings {
    Settings { may_lose: vec![crate::MayLose::Fsync], ..Settings::default() }
}

/// Makes the tables in a database.
pub fn init(url: &str) {
    let database = Database::new(url, &settings()).expect("it is a URL");
    block_on(crate::init(&database)).expect("the tables can be made");
}

/// Runs a future on a runtime of its own.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("a runtime can be built");
    runtime.block_on(work)
}
