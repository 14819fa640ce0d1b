//! Messages by handle: one row, and the pieces of large bodies as they are asked for. Every byte is checked.

use std::rc::Rc;

use bytes::Bytes;
use mail::MessageId;
use queue::{Accepted, Body, Handle, Local, ReadError, Reader, Stored};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::ask::Asker;
use crate::checksum::{MessageFields, of_piece};
use crate::connection::Parameter;
use crate::fault::unreadable;
use crate::name::Name;
use crate::{Checks, Connection, Database, Fault, PIECE_BYTES};

/// This process's right to read messages. Clones share it.
#[derive(Clone)]
pub struct PostgresReader(Rc<Asker>);

const MESSAGE: &str =
    "SELECT accepted_at, accepted, size, crc, body, body_id FROM message WHERE id = $1";
const PIECE: &str = "SELECT data, crc FROM body WHERE id = $1 AND seq = $2";

/// A row of `message`.
struct Message {
    accepted_at: i64,
    accepted: Vec<u8>,
    size: i64,
    crc: i64,
    body: Option<Bytes>,
    body_id: Option<String>,
}

impl PostgresReader {
    pub(crate) fn open(database: &Database) -> Result<Self, Fault> {
        Ok(Self(Rc::new(Asker::open("pg-reader", database, Checks::Schema)?)))
    }

    async fn find(&self, handle: &Handle) -> Result<Stored, ReadError> {
        let id = match Name::parse(handle) {
            Some(Name::Message(id)) => id,
            Some(Name::Body(..)) => {
                return Err(ReadError::Gone(handle.clone(), "it is a draft".into()));
            }
            None => return Err(ReadError::Foreign(handle.clone())),
        };
        let found = self.0.ask(async move |connection| find_message(connection, id).await).await;
        let Some(message) = found.map_err(unreadable)? else {
            return Err(ReadError::Gone(handle.clone(), "there is no such message".into()));
        };
        message.open(handle, id, &self.0)
    }

    async fn find_draft(&self, handle: &Handle) -> Result<Box<dyn Body>, ReadError> {
        let (id, size) = match Name::parse(handle) {
            Some(Name::Body(id, size)) => (id, size),
            Some(Name::Message(_)) => {
                return Err(ReadError::Gone(handle.clone(), "it is no draft".into()));
            }
            None => return Err(ReadError::Foreign(handle.clone())),
        };
        let mut body = PiecesBody::new(self.0.clone(), handle.clone(), id, size);
        body.first = Some(body.fetch(0).await?);
        Ok(Box::new(body))
    }
}

impl Reader for PostgresReader {
    fn open(&self, handle: &Handle) -> Local<'_, Result<Stored, ReadError>> {
        let handle = handle.clone();
        Box::pin(async move { self.find(&handle).await })
    }

    fn open_draft(&self, handle: &Handle) -> Local<'_, Result<Box<dyn Body>, ReadError>> {
        let handle = handle.clone();
        Box::pin(async move { self.find_draft(&handle).await })
    }
}

async fn find_message(connection: &Connection, id: MessageId) -> Result<Option<Message>, Fault> {
    let client = connection.client();
    let id = id.as_str();
    let row = connection.limited(client.query_typed_opt(MESSAGE, &[(&id, Type::TEXT)])).await?;
    let row = row.map(|row| Message::of(&row)).transpose();
    row.map_err(|error| connection.fault(error))
}

impl Message {
    fn of(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            accepted_at: row.try_get(0)?,
            accepted: row.try_get(1)?,
            size: row.try_get(2)?,
            crc: row.try_get(3)?,
            body: row.try_get::<_, Option<&[u8]>>(4)?.map(Bytes::copy_from_slice),
            body_id: row.try_get(5)?,
        })
    }

    /// Checks the row and opens its body.
    fn open(self, handle: &Handle, id: MessageId, asker: &Rc<Asker>) -> Result<Stored, ReadError> {
        let damaged =
            |what: &str| ReadError::Damaged(handle.clone(), format!("its row in message: {what}"));
        let fields = MessageFields {
            id: id.as_str(),
            accepted_at: self.accepted_at,
            accepted: &self.accepted,
            size: self.size,
            body: self.body.as_deref().unwrap_or_default(),
            body_id: self.body_id.as_deref(),
        };
        if fields.crc() != self.crc {
            return Err(damaged("its checksum is wrong"));
        }
        let accept = serde_json::from_slice(&self.accepted)
            .map_err(|error| damaged(&format!("the accept record cannot be read: {error}")))?;
        let size = u64::try_from(self.size).map_err(|_| damaged("its size is below nothing"))?;
        let body: Box<dyn Body> = match (self.body, self.body_id) {
            (Some(body), None) if body.len() as u64 == size => {
                Box::new(InlineBody { size, rest: body })
            }
            (None, Some(body_id)) => {
                let body_id = body_id.parse().map_err(|_| damaged("its body's id is none"))?;
                Box::new(PiecesBody::new(asker.clone(), handle.clone(), body_id, size))
            }
            _ => return Err(damaged("it has not one body of its size")),
        };
        Ok(Stored { accepted: Accepted { id, size, accept }, body })
    }
}

/// A body that came with its message.
struct InlineBody {
    size: u64,
    rest: Bytes,
}

impl Body for InlineBody {
    fn size(&self) -> u64 {
        self.size
    }

    fn next(&mut self) -> Local<'_, Result<Option<Bytes>, ReadError>> {
        let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
        Box::pin(std::future::ready(Ok((!piece.is_empty()).then_some(piece))))
    }
}

/// A body in rows of `body`.
struct PiecesBody {
    asker: Rc<Asker>,
    handle: Handle,
    id: MessageId,
    size: u64,
    seq: i32,
    /// How much is still to come.
    rest: u64,
    /// The first piece, when it was looked at to see whether there is a body.
    first: Option<Bytes>,
}

impl PiecesBody {
    fn new(asker: Rc<Asker>, handle: Handle, id: MessageId, size: u64) -> Self {
        Self { asker, handle, id, size, seq: 0, rest: size, first: None }
    }

    async fn fetch(&self, seq: i32) -> Result<Bytes, ReadError> {
        let id = self.id;
        let found = self.asker.ask(async move |connection| {
            let (client, id) = (connection.client(), id.as_str());
            let which: [Parameter; 2] = [(&id, Type::TEXT), (&seq, Type::INT4)];
            let piece = client.query_typed_opt(PIECE, &which);
            let Some(row) = connection.limited(piece).await? else { return Ok(None) };
            let piece = |row: &Row| -> Result<(Bytes, i64), tokio_postgres::Error> {
                Ok((Bytes::copy_from_slice(row.try_get(0)?), row.try_get(1)?))
            };
            piece(&row).map(Some).map_err(|error| connection.fault(error))
        });
        let Some((data, crc)) = found.await.map_err(unreadable)? else {
            return Err(self.missing(seq).await);
        };
        let expected = (self.size - u64::from(seq.unsigned_abs()) * PIECE_BYTES as u64)
            .min(PIECE_BYTES as u64);
        if of_piece(id, seq, &data) != crc || data.len() as u64 != expected {
            let what = format!("row {seq} of its body {id} has a wrong checksum or size");
            return Err(ReadError::Damaged(self.handle.clone(), what));
        }
        Ok(data)
    }

    /// A draft's body ends with it, and a message's with that; else it is damage.
    async fn missing(&self, seq: i32) -> ReadError {
        let what = format!("row {seq} of its body {} is not there", self.id);
        let handle = self.handle.clone();
        let Some(Name::Message(id)) = Name::parse(&handle) else {
            return ReadError::Gone(handle, what);
        };
        match self.asker.ask(async move |connection| find_message(connection, id).await).await {
            Ok(Some(_)) => ReadError::Damaged(handle, what),
            Ok(None) => ReadError::Gone(handle, "it has ended".into()),
            Err(fault) => unreadable(fault),
        }
    }

    async fn next_piece(&mut self) -> Result<Option<Bytes>, ReadError> {
        if self.rest == 0 {
            return Ok(None);
        }
        let piece = match self.first.take() {
            Some(first) => first,
            None => self.fetch(self.seq).await?,
        };
        self.seq += 1;
        self.rest -= piece.len() as u64;
        Ok(Some(piece))
    }
}

impl Body for PiecesBody {
    fn size(&self) -> u64 {
        self.size
    }

    fn next(&mut self) -> Local<'_, Result<Option<Bytes>, ReadError>> {
        Box::pin(self.next_piece())
    }
}
