//! Rows of `body`: written in small transactions before the message that names them, and removed when nobody will.
//!
//! They need not be durable before that message is: whoever accepts it counts them in its own transaction, whose COMMIT is behind
//! theirs in the server's log.

use std::rc::Rc;

use mail::MessageId;
use tokio_postgres::types::Type;

use super::accept::{BATCH_BYTES_MAX, committed};
use super::backlog::Batched;
use super::health::refusal;
use super::persist::{GivenUp, persist};
use super::rows::Piece;
use super::worker::Shared;
use crate::checksum::of_piece;
use crate::connection::{Connection, Parameter, in_order};
use crate::link::{Connected, Link};
use crate::{Checks, Fault};

/// What the lane is to do.
pub(crate) enum Job {
    /// Write a row.
    Write(Piece),
    /// Remove a body's rows, if no message has them.
    Discard(MessageId),
}

/// So many rows are written, or bodies removed, in one transaction.
const JOBS_MAX: usize = 64;

/// What these transactions begin with: none of them is waited for by anybody who says 250.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = off; \
     SET LOCAL idle_in_transaction_session_timeout = 10000";

const INSERT: &str = "\
INSERT INTO body (id, seq, data, crc)
SELECT * FROM unnest($1::text[], $2::integer[], $3::bytea[], $4::bigint[])
ON CONFLICT (id, seq) DO NOTHING";

/// To be done before rows are removed that no message names: accept transactions hold the rows that theirs will name, and the
/// statement behind this sees every message that was accepted meanwhile.
pub(crate) const LOCK_BODIES: &str =
    "SELECT 1 FROM body WHERE id = ANY ($1::text[]) ORDER BY id, seq FOR UPDATE";
const REMOVE: &str = "\
DELETE FROM body WHERE id = ANY ($1::text[])
AND NOT EXISTS (SELECT 1 FROM message WHERE message.body_id = body.id)";

/// Takes what waits, again and again, until nothing more comes.
pub(crate) async fn lane(shared: Rc<Shared>) {
    let mut link = Link::new(shared.database.clone(), Checks::Schema, None, &Connected::default());
    while let Some(jobs) = shared.jobs.next().await {
        let (mut pieces, mut discards) = (Vec::new(), Vec::new());
        for job in jobs {
            match job {
                Job::Write(piece) => pieces.push(piece),
                Job::Discard(id) => discards.push(id),
            }
        }
        if !pieces.is_empty() {
            write(&shared, &mut link, &pieces).await;
        }
        if !discards.is_empty() {
            discard(&shared, &mut link, &discards).await;
        }
    }
}

impl Batched for Job {
    const TOGETHER_MAX: usize = JOBS_MAX;
    const BYTES_MAX: usize = BATCH_BYTES_MAX;

    fn bytes(&self) -> usize {
        match self {
            Self::Write(piece) => piece.data.len(),
            Self::Discard(_) => 0,
        }
    }

    fn joins(&self, first: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(first)
    }
}

async fn write(shared: &Shared, link: &mut Link, pieces: &[Piece]) {
    let ids: Vec<_> = pieces.iter().map(|piece| piece.rows.id().to_string()).collect();
    let seqs: Vec<_> = pieces.iter().map(|piece| piece.seq).collect();
    let data: Vec<_> = pieces.iter().map(|piece| &piece.data[..]).collect();
    let crc = |piece: &Piece| of_piece(piece.rows.id(), piece.seq, &piece.data);
    let crcs: Vec<_> = pieces.iter().map(crc).collect();
    let written = persist(shared, link, async |connection: Rc<Connection>, _| {
        let parameters: [Parameter; 4] = [
            (&ids, Type::TEXT_ARRAY),
            (&seqs, Type::INT4_ARRAY),
            (&data, Type::BYTEA_ARRAY),
            (&crcs, Type::INT8_ARRAY),
        ];
        let insert = connection.client().execute_typed(INSERT, &parameters);
        committed(&connection, BEGIN, async { insert.await.map(drop) }).await
    });
    let written = written.await.map_err(|GivenUp { fault, .. }| {
        tracing::warn!(error = %fault.whole(), "a body was not written");
        refusal(fault)
    });
    for piece in pieces {
        piece.rows.note(piece, written.clone());
    }
}

/// Best effort: what is left is swept an hour later.
async fn discard(shared: &Shared, link: &mut Link, ids: &[MessageId]) {
    let ids: Vec<_> = ids.iter().map(MessageId::to_string).collect();
    let removed = async {
        let connection = link.get(tokio::time::Instant::now(), |_| {}).await?;
        let client = connection.client();
        let work = async {
            let these: [Parameter; 1] = [(&ids, Type::TEXT_ARRAY)];
            let lock = client.execute_typed(LOCK_BODIES, &these);
            let remove = client.execute_typed(REMOVE, &these);
            let (locked, removed) = in_order(lock, remove).await;
            locked.and(removed).map(drop)
        };
        let limit = shared.database.settings().statement_timeout.0;
        let done = tokio::time::timeout(limit, committed(&connection, BEGIN, work)).await;
        done.unwrap_or_else(|_| Err(crate::connection::late(&shared.database, limit)))
    };
    if let Err(fault) = removed.await {
        if !matches!(fault, Fault::Again { .. }) {
            link.cut();
        }
        tracing::debug!(error = %fault.whole(), "rows of bodies are left to be swept");
    }
}
