//! Trying until it is known what became of a transaction: what may be repeated is repeated, as it was.
//!
//! ```text
//!              ┌──── Away, Again ◀───┐          ┌──── anything but done ◀──┐
//! connected ─▶ first attempt ────────┴ Unknown ─▶ attempt after unknown ───┴─▶ done, or given up: it may have been done
//!              └─▶ done, or refused: it was not done
//! ```

use std::rc::Rc;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::worker::{Shared, deadline};
use crate::link::{BackOff, Link};
use crate::{Cause, Connection, Fault};

/// Which attempt it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// It was not done before.
    First,
    /// One before it was not answered, so it may have been done.
    AfterUnknown,
}

/// Why it was given up.
pub(crate) struct GivenUp {
    pub(crate) fault: Fault,
    /// [`Attempt::AfterUnknown`]: it may have been done all the same.
    pub(crate) last: Attempt,
}

/// Runs `send` on the link's connection, and on others, until it is known to be done or not, or its time is over.
///
/// `send` must lead to the same whether it is done once or more often.
pub(crate) async fn persist(
    shared: &Shared,
    link: &mut Link,
    send: impl AsyncFn(Rc<Connection>, Attempt) -> Result<(), Fault>,
) -> Result<(), GivenUp> {
    let limit = shared.database.settings().statement_timeout.0;
    let deadline = deadline(&shared.database);
    let (mut attempt, mut back_off) = (Attempt::First, BackOff::new());
    loop {
        let connection = match link.get(deadline, |fault| shared.unreachable(fault)).await {
            Ok(connection) => connection,
            Err(fault) => return Err(GivenUp { fault, last: attempt }),
        };
        let until = deadline.min(Instant::now() + limit);
        let sent = timeout_at(until, send(connection, attempt)).await;
        let fault = match sent.unwrap_or_else(|_| Err(unanswered(shared, limit))) {
            Ok(()) => {
                shared.health.well();
                return Ok(());
            }
            Err(fault) => fault,
        };
        match &fault {
            Fault::Unknown { .. } => {
                if attempt == Attempt::First {
                    tracing::warn!(error = %fault.whole(), "it is committed again");
                }
                attempt = Attempt::AfterUnknown;
                link.cut();
            }
            Fault::Away { .. } => link.cut(),
            Fault::Again { .. } => {}
            _ if attempt == Attempt::First => return Err(GivenUp { fault, last: attempt }),
            _ => {}
        }
        let again = Instant::now() + back_off.next();
        if again >= deadline {
            return Err(GivenUp { fault, last: attempt });
        }
        sleep_until(again).await;
    }
}

fn unanswered(shared: &Shared, limit: std::time::Duration) -> Fault {
    Fault::Unknown { database: shared.database.name().clone(), cause: Cause::Late(limit) }
}
