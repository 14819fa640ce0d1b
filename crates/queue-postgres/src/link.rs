//! One connection after another: what a task keeps instead of a connection that may end.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::{Checks, Connection, Database, Fault};

/// How long to wait after a first failure to connect; doubled with each one that follows.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
/// How long at most.
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// The time until the next try, which grows while tries fail.
pub(crate) struct BackOff(Duration);

impl BackOff {
    pub(crate) fn new() -> Self {
        Self(BACK_OFF_MIN)
    }

    /// How long to wait now.
    pub(crate) fn next(&mut self) -> Duration {
        let now = self.0;
        self.0 = (self.0 * 2).min(BACK_OFF_MAX);
        now
    }
}

/// How many links of a kind have a connection, as far as they have looked.
pub(crate) type Connected = Rc<Cell<usize>>;

/// A connection that is made when it is needed, and made again when it has ended.
pub(crate) struct Link {
    database: Database,
    checks: Checks,
    connection: Option<Linked>,
    connected: Connected,
}

/// A connection, counted while it is kept.
struct Linked(Rc<Connection>, Connected);

impl Linked {
    fn new(connection: Connection, connected: &Connected) -> Self {
        connected.set(connected.get() + 1);
        Self(Rc::new(connection), connected.clone())
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        self.1.set(self.1.get() - 1);
    }
}

impl Link {
    /// With a connection that is there already, if any.
    pub(crate) fn new(
        database: Database,
        checks: Checks,
        first: Option<Connection>,
        connected: &Connected,
    ) -> Self {
        let connection = first.map(|first| Linked::new(first, connected));
        Self { database, checks, connection, connected: connected.clone() }
    }

    /// The connection, if need be after trying again and again until `deadline`; `tried` is told of each failure.
    pub(crate) async fn get(
        &mut self,
        deadline: Instant,
        mut tried: impl FnMut(&Fault),
    ) -> Result<Rc<Connection>, Fault> {
        self.connection.take_if(|linked| linked.0.is_closed());
        if let Some(linked) = &self.connection {
            return Ok(linked.0.clone());
        }
        let mut back_off = BackOff::new();
        loop {
            match Connection::open(&self.database, self.checks).await {
                Ok(connection) => {
                    let linked = Linked::new(connection, &self.connected);
                    return Ok(self.connection.insert(linked).0.clone());
                }
                Err(fault) => {
                    tried(&fault);
                    let again = Instant::now() + back_off.next();
                    if again >= deadline {
                        return Err(fault);
                    }
                    sleep_until(again).await;
                }
            }
        }
    }

    /// Cuts the connection: its state is not known.
    pub(crate) fn cut(&mut self) {
        self.connection = None;
    }

    /// Whether this is the connection that it has.
    pub(crate) fn has(&self, connection: &Rc<Connection>) -> bool {
        self.connection.as_ref().is_some_and(|linked| Rc::ptr_eq(&linked.0, connection))
    }
}
