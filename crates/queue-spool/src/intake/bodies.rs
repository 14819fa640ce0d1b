//! The machine that writes bodies too large for a segment, each to a file of its own.
//!
//! ```text
//! Open ─▶ ID.body ◀─ Block … ─▶ Finish: readable, not durable
//!                              ─▶ Commit: file synced, directory synced, then the accept record goes to the writer
//!                              ─▶ Abort: unlinked
//! ```

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use mail::MessageId;
use queue::{Accept, IntakeError};

use crate::codec::{self, FileHead, FileKind, HEAD_BYTES, Kind, NewRecord, Nonce};
use crate::disk::{Disk, DiskFile};
use crate::intake::writer::{self, CommitBody, refusal};
use crate::place::{BodyPlace, Layout, Place, Stripe};
use crate::read::{BLOCK_BYTES, BlockReader, Fault, OpenFile, Pieces, draft_bytes};
use crate::thread::{Machine, Next, Now};

/// What is asked of the bodies' thread. `T` is whoever waits for the answer.
pub enum Event<T> {
    /// Begin a file.
    Open {
        /// The message.
        id: MessageId,
    },
    /// Add to it: exactly [`BLOCK_BYTES`], or less for the last.
    Block {
        /// The message.
        id: MessageId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Say that everything has been written.
    Finish {
        /// The message.
        id: MessageId,
        /// Waits for [`Answer::Finished`].
        waiter: T,
    },
    /// Sync the file and accept the message.
    Commit {
        /// The message.
        id: MessageId,
        /// What its acceptor says.
        accept: Box<Accept>,
        /// Waits for the writer's answer, or [`Answer::Failed`].
        waiter: T,
    },
    /// Accept a message with a copy of another draft's body.
    Adopt {
        /// The message.
        id: MessageId,
        /// The other draft.
        from: Place,
        /// What its acceptor says.
        accept: Box<Accept>,
        /// Waits for the writer's answer, or [`Answer::Failed`].
        waiter: T,
    },
    /// Remove the file.
    Abort {
        /// The message.
        id: MessageId,
    },
}

/// What the bodies' thread answers.
pub enum Answer<T> {
    /// So much of a body has been written.
    Wrote(MessageId, u64),
    /// A body cannot be written.
    Broken(MessageId, IntakeError),
    /// To [`Event::Finish`].
    Finished(T, Result<BodyPlace, IntakeError>),
    /// A commit that failed before it came to the writer.
    Failed(T, IntakeError),
    /// A commit whose body is durable, for the writer.
    Forward(writer::Event<T>),
}

/// Writes body files in one stripe.
pub struct Bodies<T> {
    disk: Arc<dyn Disk>,
    layout: Layout,
    stripe: Stripe,
    /// Bodies larger than this go to a file.
    file_bytes_min: u64,
    open: HashMap<MessageId, Body>,
    waits: std::marker::PhantomData<fn() -> T>,
}

/// A body file that is being written, or why it cannot be.
struct Body {
    path: PathBuf,
    state: Result<Growing, IntakeError>,
}

struct Growing {
    file: Box<dyn DiskFile>,
    nonce: Nonce,
    end: u64,
    size: u64,
}

impl<T: Send + 'static> Bodies<T> {
    /// For the stripe that this process holds.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        layout: Layout,
        stripe: Stripe,
        file_bytes_min: u64,
    ) -> Self {
        let waits = std::marker::PhantomData;
        Self { disk, layout, stripe, file_bytes_min, open: HashMap::new(), waits }
    }

    fn on_event(&mut self, event: Event<T>, now: Now, answers: &mut Vec<Answer<T>>) {
        match event {
            Event::Open { id } => self.open(id, now, answers),
            Event::Block { id, bytes } => self.block(id, &bytes, answers),
            Event::Finish { id, waiter } => {
                let finished = match self.open.get(&id).map(|body| &body.state) {
                    Some(Ok(body)) => Ok(BodyPlace { stripe: self.stripe, id, size: body.size }),
                    Some(Err(error)) => Err(error.clone()),
                    None => Err(IntakeError::Closed),
                };
                answers.push(Answer::Finished(waiter, finished));
            }
            Event::Commit { id, accept, waiter } => match self.make_durable(id) {
                Ok(body) => {
                    answers.push(Answer::Forward(writer::Event::Commit {
                        id,
                        accept,
                        body,
                        waiter,
                    }));
                }
                Err(error) => {
                    self.abort(id);
                    answers.push(Answer::Failed(waiter, error));
                }
            },
            Event::Adopt { id, from, accept, waiter } => {
                match self.adopt(id, &from, now, answers) {
                    Ok(body) => {
                        answers.push(Answer::Forward(writer::Event::Commit {
                            id,
                            accept,
                            body,
                            waiter,
                        }));
                    }
                    Err(error) => {
                        self.abort(id);
                        answers.push(Answer::Failed(waiter, error));
                    }
                }
            }
            Event::Abort { id } => self.abort(id),
        }
    }

    fn open(&mut self, id: MessageId, now: Now, answers: &mut Vec<Answer<T>>) {
        let path = self.layout.body(self.stripe, id);
        let state = self.create(&path, now).map_err(|error| {
            let error = refusal(format!("cannot begin the body of {id}"), error);
            answers.push(Answer::Broken(id, error.clone()));
            error
        });
        self.open.insert(id, Body { path, state });
    }

    fn create(&self, path: &std::path::Path, now: Now) -> io::Result<Growing> {
        let nonce = self.disk.nonce()?;
        let file = self.disk.create(path)?;
        let head = FileHead {
            kind: FileKind::Body,
            nonce,
            number: 0,
            created_at: now.wall,
            previous_number: 0,
            previous_synced: 0,
        };
        file.write_at(&head.encode(), 0)?;
        Ok(Growing { file, nonce, end: HEAD_BYTES as u64, size: 0 })
    }

    fn block(&mut self, id: MessageId, bytes: &[u8], answers: &mut Vec<Answer<T>>) {
        let Some(body) = self.open.get_mut(&id) else { return };
        if let Ok(growing) = &mut body.state
            && let Err(error) = growing.write(id, bytes)
        {
            let error = refusal(format!("cannot write the body of {id}"), error);
            answers.push(Answer::Broken(id, error.clone()));
            body.state = Err(error);
        }
        answers.push(Answer::Wrote(id, bytes.len() as u64));
    }

    /// Syncs the file and the directory that names it.
    fn make_durable(&mut self, id: MessageId) -> Result<CommitBody, IntakeError> {
        let Some(body) = self.open.get(&id) else { return Err(IntakeError::Closed) };
        let growing = body.state.as_ref().map_err(Clone::clone)?;
        growing
            .file
            .sync()
            .and_then(|()| self.disk.sync_dir(&self.layout.stripe(self.stripe)))
            .map_err(|error| refusal(format!("cannot sync the body of {id}"), error))?;
        let durable = CommitBody::File { nonce: growing.nonce, size: growing.size };
        self.open.remove(&id);
        Ok(durable)
    }

    /// Copies the body of a draft, which may be another process's, so that it is ours and durable.
    fn adopt(
        &mut self,
        id: MessageId,
        from: &Place,
        now: Now,
        answers: &mut Vec<Answer<T>>,
    ) -> Result<CommitBody, IntakeError> {
        let unreadable = |fault| match fault {
            Fault::Gone(why) => {
                let error = io::Error::new(io::ErrorKind::NotFound, why);
                refusal(format!("the replaced body of {id}"), error)
            }
            Fault::Damaged(what) => {
                let error = io::Error::new(io::ErrorKind::InvalidData, what);
                refusal(format!("the replaced body of {id}"), error)
            }
            Fault::Io(context, source) => IntakeError::Io { context, source },
        };
        let mut pieces = self.draft(from).map_err(unreadable)?;
        if let Pieces::Whole(bytes) = &mut pieces
            && bytes.as_ref().is_some_and(|bytes| bytes.len() as u64 <= self.file_bytes_min)
        {
            return Ok(CommitBody::Whole(bytes.take().unwrap_or_default()));
        }
        self.open(id, now, answers);
        while let Some(piece) = pieces.next().map_err(unreadable)? {
            for block in piece.chunks(BLOCK_BYTES) {
                let Some(Body { state: Ok(growing), .. }) = self.open.get_mut(&id) else { break };
                growing
                    .write(id, block)
                    .map_err(|error| refusal(format!("cannot write the body of {id}"), error))?;
            }
        }
        self.make_durable(id)
    }

    fn draft(&self, from: &Place) -> Result<Pieces, Fault> {
        match from {
            Place::Draft(record) => {
                let path = self.layout.segment(record.segment);
                let file = OpenFile::open(&*self.disk, &path, FileKind::Segment)?;
                Ok(Pieces::Whole(Some(draft_bytes(&file, record)?)))
            }
            Place::DraftFile(body) => {
                Ok(Pieces::File(BlockReader::open(&*self.disk, &self.layout, body, None)?))
            }
            Place::Message(_) => Err(Fault::Gone("it is no draft".into())),
        }
    }

    fn abort(&mut self, id: MessageId) {
        let Some(body) = self.open.remove(&id) else { return };
        match self.disk.unlink(&body.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(id = %id, %error, "cannot remove a body file; adoption will");
            }
            _ => {}
        }
    }
}

impl Growing {
    fn write(&mut self, id: MessageId, bytes: &[u8]) -> io::Result<()> {
        let mut record = Vec::with_capacity(2 * HEAD_BYTES + bytes.len());
        let start = codec::begin_record(&mut record);
        record.extend_from_slice(bytes);
        let new = NewRecord { kind: Kind::Block, id, accept_bytes: 0 };
        codec::end_record(&mut record, start, new, &self.nonce, self.end);
        self.file.write_at(&record, self.end)?;
        self.end += record.len() as u64;
        self.size += bytes.len() as u64;
        Ok(())
    }
}

impl<T: Send + 'static> Machine for Bodies<T> {
    type Event = Event<T>;
    type Answer = Answer<T>;

    fn turn(&mut self, now: Now, events: &mut Vec<Event<T>>, answers: &mut Vec<Answer<T>>) -> Next {
        for event in events.drain(..) {
            self.on_event(event, now, answers);
        }
        Next::Event
    }

    fn close(&mut self, _now: Now, _answers: &mut Vec<Answer<T>>) {
        let left: Vec<_> = self.open.keys().copied().collect();
        left.into_iter().for_each(|id| self.abort(id));
    }

    fn is_urgent(_event: &Event<T>) -> bool {
        true
    }
}
