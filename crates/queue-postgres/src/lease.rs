//! The lease on the scheduler's rows: claimed, renewed and given up by the database's clock alone.
//!
//! ```text
//!  look, every second ─ the lease has run out ─▶ claim: epoch + 1, lease, in one transaction ─▶ renew … renew ─▶ give up
//!     ▲                                            │ somebody was faster                          │ not in time
//!     └────────────────────────────────────────────┘                                              ▼ over
//! ```
//!
//! Who changes both rows changes the epoch first, as the fence reads it first: nobody waits in a circle. The claim waits until the
//! commits of the owner before, that had begun, have ended. An owner counts its own time from before it sent the renewal, and by a
//! margin less.

use std::rc::Rc;
use std::time::{Duration, Instant};

use mail::Timestamp;
use tokio::time::{sleep_until, timeout_at};
use tokio_postgres::types::Type;

use crate::connection::Parameter;
use crate::ledger::statements::Statement;
use crate::ledger::tenancy::Tenancy;
use crate::ledger::transaction::{Wait, transact};
use crate::link::{Connected, Link};
use crate::{Checks, Connection, Fault, Settings};

/// How long a claim may wait for the commits of the owner before, and for anything else.
const CLAIM_MAX: Duration = Duration::from_secs(20);
/// A renewal that failed is tried again after so long.
const RETRY: Duration = Duration::from_millis(300);

const LOOK: &str = "\
SELECT coalesce(shard_epoch.owner, ''), shard_lease.lease_until < clock_timestamp()
FROM shard_lease JOIN shard_epoch USING (shard) WHERE shard = 0";
const CLAIM_EPOCH: &str =
    "UPDATE shard_epoch SET epoch = epoch + 1, owner = $1 WHERE shard = 0 RETURNING epoch";
const CLAIM_LOOK: &str =
    "SELECT clean FROM shard_lease WHERE shard = 0 AND lease_until < clock_timestamp() FOR UPDATE";
const CLAIM_LEASE: &str = "\
UPDATE shard_lease SET lease_until = clock_timestamp() + $1 * interval '1 millisecond', clean = false
WHERE shard = 0 RETURNING (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
const RENEW: &str = "\
UPDATE shard_lease SET lease_until = clock_timestamp() + $1 * interval '1 millisecond' WHERE shard = 0";
const RELEASE: &str =
    "UPDATE shard_lease SET lease_until = clock_timestamp(), clean = $1 WHERE shard = 0";

/// What a look at the lease shows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Somebody has it: whoever claimed it last, in its own words.
    Held(String),
    /// It has run out, or was given up.
    Free,
}

/// A lease that was claimed.
pub(crate) struct Claimed {
    pub(crate) epoch: i64,
    /// The owner before gave it up with nothing in hand, or there was none.
    pub(crate) is_clean: bool,
    /// When, by the database's clock.
    pub(crate) at: Timestamp,
    /// Until when it surely lasts.
    pub(crate) until: Instant,
}

/// Looks whether the lease can be claimed; changes and locks nothing.
pub(crate) async fn look(connection: &Connection) -> Result<Seen, Fault> {
    let row = connection.limited(connection.client().query_typed_one(LOOK, &[])).await?;
    let owner: String = row.try_get(0).map_err(|error| connection.fault(error))?;
    let is_free: bool = row.try_get(1).map_err(|error| connection.fault(error))?;
    Ok(if is_free { Seen::Free } else { Seen::Held(owner) })
}

/// Claims the lease if it is still free. After an error the connection is to be dropped; the lease may have been claimed, and runs
/// out by itself.
pub(crate) async fn claim(connection: &Connection, owner: &str) -> Result<Option<Claimed>, Fault> {
    let claimed = tokio::time::timeout(CLAIM_MAX, try_claim(connection, owner)).await;
    claimed.unwrap_or_else(|_| Err(crate::connection::late(connection.database(), CLAIM_MAX)))
}

async fn try_claim(connection: &Connection, owner: &str) -> Result<Option<Claimed>, Fault> {
    let client = connection.client();
    let failed = |error| connection.fault(error);
    let millis = CLAIM_MAX.as_millis();
    let begin = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = {millis}; \
         SET LOCAL idle_in_transaction_session_timeout = {millis}; SET LOCAL client_min_messages = warning"
    );
    client.batch_execute(&begin).await.map_err(failed)?;
    let owner: [Parameter; 1] = [(&owner, Type::TEXT)];
    let row = client.query_typed_one(CLAIM_EPOCH, &owner).await.map_err(failed)?;
    let epoch: i64 = row.try_get(0).map_err(failed)?;
    let Some(row) = client.query_typed_opt(CLAIM_LOOK, &[]).await.map_err(failed)? else {
        client.batch_execute("ROLLBACK").await.map_err(failed)?;
        return Ok(None);
    };
    let is_clean = row.try_get(0).map_err(failed)?;
    let settings = connection.database().settings();
    let (until, span) = (ends(settings, Instant::now()), span(settings));
    let span: [Parameter; 1] = [(&span, Type::FLOAT8)];
    let row = client.query_typed_one(CLAIM_LEASE, &span).await.map_err(failed)?;
    let at: i64 = row.try_get(0).map_err(failed)?;
    let warnings = connection.warnings();
    let committed = client.batch_execute("COMMIT").await;
    committed.map_err(|error| Fault::of_commit(connection.database().name(), error))?;
    connection.proven(warnings)?;
    let at = Timestamp::from_millis(u64::try_from(at).unwrap_or(0));
    Ok(Some(Claimed { epoch, is_clean, at, until }))
}

/// Until when a lease that is asked for now surely lasts.
fn ends(settings: &Settings, now: Instant) -> Instant {
    now + settings.lease.0.saturating_sub(settings.lease_margin.0)
}

fn span(settings: &Settings) -> f64 {
    settings.lease.0.as_millis() as f64
}

/// Gives the lease up.
pub(crate) fn release(is_clean: bool) -> Statement {
    Statement::new(RELEASE).with(is_clean, Type::BOOL)
}

/// Keeps the lease, on a connection of its own, until the owner's time is over. Dropping this keeps it no longer.
pub(crate) async fn keep(tenancy: Rc<Tenancy>, first: Option<Connection>) {
    let settings = tenancy.database.settings().clone();
    let mut link =
        Link::new(tenancy.database.clone(), Checks::Durable, first, &Connected::default());
    // At once: then there is a connection, and the time that the claim took counts no more.
    let mut next = Instant::now();
    while !tenancy.is_over() {
        let ends = tenancy.owned.get();
        sleep_until(next.min(ends).into()).await;
        if Instant::now() >= ends {
            let why = "its time has passed and it could not be renewed";
            tenancy.end(why.to_owned());
            return;
        }
        let sent = Instant::now();
        let limit = (sent + patience(&settings)).min(ends);
        let renewal = timeout_at(limit.into(), renew(&tenancy, &mut link)).await;
        let late = || Err(crate::connection::late(&tenancy.database, limit.duration_since(sent)));
        match renewal.unwrap_or_else(|_| late()) {
            Ok(()) => {
                tenancy.owned.extend(self::ends(&settings, sent));
                next = sent + settings.lease_renewal.0;
            }
            Err(fault) if fault.may_pass() => {
                tracing::warn!(error = %fault.whole(), "the lease on the ledger could not be renewed yet");
                link.cut();
                tenancy.suspicions.send_modify(|suspicions| *suspicions += 1);
                next = Instant::now() + RETRY;
            }
            Err(fault) => {
                tenancy.end_by(&fault);
                return;
            }
        }
    }
}

/// How long a renewal may take before another connection is tried: there is time for that one too.
fn patience(settings: &Settings) -> Duration {
    let rest = settings.lease.0.saturating_sub(settings.lease_margin.0 + settings.lease_renewal.0);
    rest * 3 / 5
}

async fn renew(tenancy: &Tenancy, link: &mut Link) -> Result<(), Fault> {
    let connection = link.get(tenancy.deadline(), |_| {}).await?;
    let span = span(tenancy.database.settings());
    let renewal = Statement::new(RENEW).with(span, Type::FLOAT8);
    transact(&connection, tenancy.epoch, Wait::Synced, [&renewal]).await.map(drop)
}
