//! Listing what was accepted: in parts by key, so that no answer is large and no statement long.
//!
//! A segment is a range of message ids, which sort by time. `unrouted:` ranges leave out what has a row in `routed`: with a
//! million deferred messages a pass of requeue asks the scheduler about those few that it may lack.

use std::rc::Rc;

use mail::Timestamp;
use queue::{Listed, Local, ReadError, Recovery, Segment};
use tokio_postgres::types::Type;

use crate::ask::Asker;
use crate::connection::Parameter;
use crate::fault::unreadable;
use crate::name::Name;
use crate::{Checks, Connection, Database, Fault};

/// So many messages are in a segment when it is named; those that come later go to the last one.
const SEGMENT_MESSAGES: i64 = 4096;
/// A segment gives no more than this, should it have grown; the rest is listed the next time.
const LISTED_MAX: i64 = 16 * SEGMENT_MESSAGES;
/// Below every message id, and above every one.
const FIRST: &str = "";
const LAST: &str = "~";

/// The last id of the segment that begins behind another id.
const BOUNDARY: &str = "SELECT id FROM message WHERE id > $1 ORDER BY id OFFSET $2 LIMIT 1";
const ALL: &str =
    "SELECT id, accepted_at FROM message WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3";
/// Both tables are asked for the range, so that neither is walked through.
const UNROUTED: &str = "\
SELECT id, accepted_at FROM message WHERE id > $1 AND id <= $2 AND NOT EXISTS (
    SELECT 1 FROM routed WHERE shard = 0 AND message_id = message.id AND message_id > $1 AND message_id <= $2
) ORDER BY id LIMIT $3";

/// This process's right to list messages. Clones share it.
#[derive(Clone)]
pub struct PostgresRecovery(Rc<Asker>);

/// A range of ids: above the first, up to the last.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    which: Which,
    above: String,
    up_to: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    Unrouted,
}

impl Range {
    fn segment(&self) -> Segment {
        let which = match self.which {
            Which::All => "all",
            Which::Unrouted => "unrouted",
        };
        Segment(format!("{which}:{}:{}", self.above, self.up_to))
    }

    fn parse(segment: &Segment) -> Option<Self> {
        let (which, range) = segment.0.split_once(':')?;
        let (above, up_to) = range.split_once(':')?;
        let which = match which {
            "all" => Which::All,
            "unrouted" => Which::Unrouted,
            _ => return None,
        };
        Some(Self { which, above: above.to_owned(), up_to: up_to.to_owned() })
    }
}

impl PostgresRecovery {
    pub(crate) fn open(database: &Database) -> Result<Self, Fault> {
        Ok(Self(Rc::new(Asker::open("pg-recovery", database, Checks::Schema)?)))
    }

    async fn list(&self, which: Which) -> Result<Vec<Segment>, ReadError> {
        let (mut segments, mut above) = (Vec::new(), FIRST.to_owned());
        loop {
            let from = above.clone();
            let boundary = self.0.ask(async move |connection| boundary(connection, &from).await);
            let Some(up_to) = boundary.await.map_err(unreadable)? else { break };
            let range = Range { which, above, up_to: up_to.clone() };
            segments.push(range.segment());
            above = up_to;
        }
        segments.push(Range { which, above, up_to: LAST.to_owned() }.segment());
        Ok(segments)
    }
}

impl Recovery for PostgresRecovery {
    fn segments(&self, all: bool) -> Local<'_, Result<Vec<Segment>, ReadError>> {
        Box::pin(self.list(if all { Which::All } else { Which::Unrouted }))
    }

    fn accepted(&self, segment: &Segment) -> Local<'_, Result<Vec<Listed>, ReadError>> {
        let range = Range::parse(segment);
        Box::pin(async move {
            let Some(range) = range else { return Ok(Vec::new()) };
            let listed = self.0.ask(async move |connection| listed(connection, &range).await);
            listed.await.map_err(unreadable)
        })
    }
}

async fn boundary(connection: &Connection, above: &str) -> Result<Option<String>, Fault> {
    let parameters: [Parameter; 2] = [(&above, Type::TEXT), (&(SEGMENT_MESSAGES - 1), Type::INT8)];
    let row =
        connection.limited(connection.client().query_typed_opt(BOUNDARY, &parameters)).await?;
    row.map(|row| row.try_get(0)).transpose().map_err(|error| connection.fault(error))
}

async fn listed(connection: &Connection, range: &Range) -> Result<Vec<Listed>, Fault> {
    let statement = match range.which {
        Which::All => ALL,
        Which::Unrouted => UNROUTED,
    };
    let parameters: [Parameter; 3] =
        [(&range.above, Type::TEXT), (&range.up_to, Type::TEXT), (&LISTED_MAX, Type::INT8)];
    let rows = connection.limited(connection.client().query_typed(statement, &parameters)).await?;
    let mut listed = Vec::with_capacity(rows.len());
    for row in rows {
        let id: &str = row.try_get(0).map_err(|error| connection.fault(error))?;
        let accepted_at: i64 = row.try_get(1).map_err(|error| connection.fault(error))?;
        // Nobody could open what has no id of ours.
        let Ok(id) = id.parse() else {
            tracing::error!(id = %id.escape_debug(), "a row of message has no message id");
            continue;
        };
        let accepted_at = Timestamp::from_millis(u64::try_from(accepted_at).unwrap_or(0));
        listed.push(Listed { handle: Name::Message(id).handle(), id, accepted_at });
    }
    Ok(listed)
}
