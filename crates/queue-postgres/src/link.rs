//! One connection after another: what a task keeps instead of a connection that may end.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
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

/// The connections that links of a kind have.
#[derive(Default, Clone)]
pub(crate) struct Connected(Rc<RefCell<Vec<Weak<Connection>>>>);

impl Connected {
    fn add(&self, connection: Connection) -> Rc<Connection> {
        let connection = Rc::new(connection);
        let mut all = self.0.borrow_mut();
        all.retain(|one| one.strong_count() > 0);
        all.push(Rc::downgrade(&connection));
        connection
    }

    /// Whether one of them is open.
    pub(crate) fn any(&self) -> bool {
        let is_open = |one: &Weak<Connection>| one.upgrade().is_some_and(|one| !one.is_closed());
        self.0.borrow().iter().any(is_open)
    }
}

/// A connection that is made when it is needed, and made again when it has ended.
pub(crate) struct Link {
    database: Database,
    checks: Checks,
    connection: Option<Rc<Connection>>,
    connected: Connected,
    /// The host that is tried first, counted round and round.
    first_host: usize,
}

impl Link {
    /// With a connection that is there already, if any.
    pub(crate) fn new(
        database: Database,
        checks: Checks,
        first: Option<Connection>,
        connected: &Connected,
    ) -> Self {
        let connection = first.map(|first| connected.add(first));
        Self { database, checks, connection, connected: connected.clone(), first_host: 0 }
    }

    /// The connection, if need be after trying again and again until `deadline`; `tried` is told of each failure.
    pub(crate) async fn get(
        &mut self,
        deadline: Instant,
        mut tried: impl FnMut(&Fault),
    ) -> Result<Rc<Connection>, Fault> {
        self.connection.take_if(|connection| connection.is_closed());
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        let mut back_off = BackOff::new();
        loop {
            match Connection::open_from(&self.database, self.checks, self.first_host).await {
                Ok(connection) => {
                    let connection = self.connected.add(connection);
                    return Ok(self.connection.insert(connection).clone());
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

    /// Cuts the connection: its state is not known. The next one is looked for at the other hosts first: a primary that has
    /// been left behind takes writes, and does not answer them.
    pub(crate) fn cut(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.first_host = connection.host() + 1;
        }
    }

    /// Whether this is the connection that it has.
    pub(crate) fn has(&self, connection: &Rc<Connection>) -> bool {
        self.connection.as_ref().is_some_and(|it| Rc::ptr_eq(it, connection))
    }
}
