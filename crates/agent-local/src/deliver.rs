//! One job: the message into the Maildir of each recipient.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use agent::{Agent, Counters, Gate, Job, Trail, damage, unreadable};
use bytes::Bytes;
use config::Problem;
use job::deliver::{DeliverAnswer, DeliverRecipient, DeliverRequest, RecipientOutcome};
use mail::{Address, Delivered, Outcome, Reply, StatusCode, SuccessReport};
use queue::{Local, ReadError, Reader};
use tokio::sync::Semaphore;

use crate::content::{Converter, Message, trace};
use crate::maildir::{Place, Published, Waiting, Writing};
use crate::publish::{PublishError, Publisher};
use crate::{Assignment, LineEnding, Template, counter};

/// A message up to this size is read once, and written by one call for each recipient. A larger one is read again for each.
const HELD_BYTES_MAX: usize = 1 << 20;
/// How much of messages a worker holds in memory at once, in KiB; further jobs wait.
const HELD_KIB_IN_ALL: usize = 128 << 10;
/// What a job of a large message counts for, in KiB: its header section and a piece.
const LARGE_JOB_KIB: usize = 2 << 10;

/// Writes messages into Maildirs.
pub struct LocalAgent {
    inner: Rc<Inner>,
}

struct Inner {
    template: Template,
    data_dir: PathBuf,
    hostname: String,
    line_ending: LineEnding,
    reader: Rc<dyn Reader>,
    counters: Counters,
    /// The disk threads' slots.
    disk: Rc<Semaphore>,
    /// KiB of messages that may be held in memory.
    memory: Semaphore,
    publisher: Rc<Publisher>,
}

/// Why a message is not in a recipient's mailbox.
enum Refusal {
    Read(ReadError),
    Disk(io::Error),
    GateClosed,
    Loop,
}

impl LocalAgent {
    /// Makes the agent of a channel.
    pub fn new(
        assignment: &Assignment,
        reader: Rc<dyn Reader>,
        counters: Counters,
    ) -> Result<Self, Problem> {
        let settings = &assignment.settings;
        settings.check(&assignment.channel)?;
        let template = Template::parse(&settings.mailbox).map_err(|error| {
            Problem::new("mailbox", error.to_string(), "a template that was checked")
        })?;
        let disk = Rc::new(Semaphore::new(settings.disk_threads as usize));
        let inner = Inner {
            template,
            data_dir: assignment.data_dir.clone(),
            hostname: assignment.hostname.clone(),
            line_ending: settings.line_ending,
            reader,
            publisher: Publisher::new(Rc::clone(&disk), counters.clone()),
            counters,
            disk,
            memory: Semaphore::new(HELD_KIB_IN_ALL),
        };
        Ok(Self { inner: Rc::new(inner) })
    }
}

impl Agent for LocalAgent {
    fn deliver(self: Rc<Self>, job: Job) -> Local<'static, DeliverAnswer> {
        let inner = Rc::clone(&self.inner);
        Box::pin(async move {
            let answer = inner.deliver(&Rc::new(job)).await;
            inner.counters.outcomes(counter::OUTCOMES, &answer);
            answer
        })
    }
}

impl Inner {
    async fn deliver(self: &Rc<Self>, job: &Rc<Job>) -> DeliverAnswer {
        let request = &job.request;
        let began = Instant::now();
        let is_small = request.size <= HELD_BYTES_MAX as u64;
        let kib = if is_small { request.size as usize / 1024 + 1 } else { LARGE_JOB_KIB };
        let _held = self.memory.acquire_many(u32::try_from(kib).unwrap_or(u32::MAX)).await;
        let waited = began.elapsed();
        let mut results = Vec::with_capacity(request.recipients.len());
        if is_small {
            match self.read_whole(request).await {
                Ok((message, pieces)) => results = self.deliver_small(job, &message, pieces).await,
                Err(error) => return unreadable(request, &error),
            }
        } else {
            for recipient in &request.recipients {
                results.push(self.deliver_large(job, recipient).await);
            }
        }
        let answer = answer(request, results);
        let stages = [waited, began.elapsed().saturating_sub(waited)];
        Trail { remote: None, stages }.log(request, &answer);
        answer
    }

    async fn read_whole(
        &self,
        request: &DeliverRequest,
    ) -> Result<(Message, Arc<[Bytes]>), ReadError> {
        let mut message = Message::open(self.reader.as_ref(), request).await?;
        let mut pieces = vec![message.head.clone()];
        while let Some(piece) = message.next().await? {
            pieces.push(piece);
        }
        Ok((message, pieces.into()))
    }

    /// Writes a message that is in memory, for all recipients at once.
    async fn deliver_small(
        self: &Rc<Self>,
        job: &Rc<Job>,
        message: &Message,
        pieces: Arc<[Bytes]>,
    ) -> Vec<Result<Published, Refusal>> {
        let recipients = &job.request.recipients;
        let mut running = Vec::with_capacity(recipients.len());
        for recipient in recipients {
            if message.loops_to(recipient) {
                running.push(None);
                continue;
            }
            let (inner, pieces) = (Rc::clone(self), Arc::clone(&pieces));
            let place = self.place(&job.request, recipient);
            let (head, gate) = (trace(&job.request, recipient), job.gate.clone());
            let work = async move {
                let line_ending = inner.line_ending;
                let written =
                    inner.on_disk(move || write_whole(place, line_ending, &head, &pieces));
                let (file, bytes) = written.await.map_err(Refusal::Disk)?;
                inner.counters.add(counter::BYTES, bytes);
                inner.publish(file, gate).await
            };
            running.push(Some(tokio::task::spawn_local(work)));
        }
        let mut results = Vec::with_capacity(running.len());
        for work in running {
            results.push(match work {
                None => Err(Refusal::Loop),
                Some(work) => work.await.unwrap_or_else(|error| {
                    Err(Refusal::Disk(io::Error::other(error.to_string())))
                }),
            });
        }
        results
    }

    /// Writes a message piece by piece, for one recipient.
    async fn deliver_large(
        self: &Rc<Self>,
        job: &Rc<Job>,
        recipient: &DeliverRecipient,
    ) -> Result<Published, Refusal> {
        let opened = Message::open(self.reader.as_ref(), &job.request).await;
        let mut message = opened.map_err(Refusal::Read)?;
        if message.loops_to(recipient) {
            return Err(Refusal::Loop);
        }
        let place = self.place(&job.request, recipient);
        let mut converter = Converter::new(self.line_ending);
        let mut bytes = Vec::new();
        converter.push(&trace(&job.request, recipient), &mut bytes);
        converter.push(&message.head, &mut bytes);
        let created = self.on_disk(move || Writing::create(place)).await;
        let mut file = created.map_err(Refusal::Disk)?;
        let mut total = 0;
        loop {
            let piece = message.next().await;
            let at_end = matches!(piece, Ok(None));
            let converted = std::mem::take(&mut bytes);
            total += converted.len() as u64;
            let written = self.on_disk(move || {
                file.write(&converted)?;
                Ok(file)
            });
            file = written.await.map_err(Refusal::Disk)?;
            match piece {
                Ok(Some(piece)) => converter.push(&piece, &mut bytes),
                Ok(None) => converter.finish(&mut bytes),
                Err(error) => {
                    let removed = self.on_disk(move || {
                        drop(file);
                        Ok(())
                    });
                    let _ = removed.await;
                    return Err(Refusal::Read(error));
                }
            }
            if at_end {
                break;
            }
        }
        total += bytes.len() as u64;
        let synced = self.on_disk(move || {
            file.write(&bytes)?;
            file.sync()
        });
        let file = synced.await.map_err(Refusal::Disk)?;
        self.counters.add(counter::BYTES, total);
        self.publish(file, job.gate.clone()).await
    }

    async fn publish(&self, file: Waiting, gate: Gate) -> Result<Published, Refusal> {
        let published = self.publisher.publish(file, gate).await;
        if let Ok(Published::Before) = published {
            self.counters.add(counter::REPEATED, 1);
        }
        published.map_err(|error| match error {
            PublishError::GateClosed => Refusal::GateClosed,
            PublishError::Io(error) => Refusal::Disk(error),
        })
    }

    /// Does blocking work on a disk thread, when one is free.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let _slot = self.disk.acquire().await;
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }

    fn place(&self, request: &DeliverRequest, recipient: &DeliverRecipient) -> Place {
        let named = Address::parse(&recipient.user).ok().filter(|user| !user.domain().is_empty());
        let address = named.as_ref().unwrap_or(&recipient.address);
        let user = match (&named, recipient.user.as_str()) {
            (Some(_), _) | (None, "") => address.local_part(),
            (None, user) => user,
        };
        let domain = match address.domain() {
            "" => &self.hostname,
            domain => domain,
        };
        let maildir = self.template.path(&self.data_dir, domain, &unquoted(user));
        let (id, index) = (request.id, recipient.index);
        Place::new(maildir, request.accepted_at, id, index, &self.hostname)
    }
}

/// Writes and syncs a file; gives its size too.
fn write_whole(
    place: Place,
    line_ending: LineEnding,
    head: &[u8],
    pieces: &[Bytes],
) -> io::Result<(Waiting, u64)> {
    let mut converter = Converter::new(line_ending);
    let size = pieces.iter().map(Bytes::len).sum::<usize>() + head.len();
    let mut content = Vec::with_capacity(size);
    converter.push(head, &mut content);
    for piece in pieces {
        converter.push(piece, &mut content);
    }
    converter.finish(&mut content);
    let mut file = Writing::create(place)?;
    file.write(&content)?;
    Ok((file.sync()?, content.len() as u64))
}

/// A local part without its quotes (RFC 5321 section 4.1.2: they are no part of the name).
fn unquoted(local_part: &str) -> String {
    let inner = local_part.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let Some(inner) = inner else { return local_part.to_owned() };
    let mut out = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => out.extend(characters.next()),
            other => out.push(other),
        }
    }
    out
}

fn answer(request: &DeliverRequest, results: Vec<Result<Published, Refusal>>) -> DeliverAnswer {
    let damaged = results.iter().find_map(|result| match result {
        Err(Refusal::Read(error)) => damage(error),
        _ => None,
    });
    let outcomes: Vec<RecipientOutcome> = request
        .recipients
        .iter()
        .zip(results)
        .map(|(recipient, result)| {
            let outcome = outcome(request, recipient, result);
            RecipientOutcome { index: recipient.index, outcome }
        })
        .collect();
    DeliverAnswer { outcomes, damaged, ..DeliverAnswer::default() }
}

fn outcome(
    request: &DeliverRequest,
    recipient: &DeliverRecipient,
    result: Result<Published, Refusal>,
) -> Outcome {
    let reply = |class, subject, detail, text: &str| {
        Reply::ours(StatusCode::new(class, subject, detail), text)
    };
    match result {
        Ok(published) => {
            let text = match published {
                Published::Now => "delivered to the mailbox",
                Published::Before => "was in the mailbox already",
            };
            let reply = reply(2, 0, 0, text);
            Outcome::Delivered(Delivered { reply, report: SuccessReport::Final })
        }
        Err(Refusal::Loop) => Outcome::Failed(reply(
            5,
            4,
            6,
            "mail loop: the message has been delivered to this address before",
        )),
        Err(Refusal::GateClosed) => {
            Outcome::Deferred(reply(4, 3, 2, "the time for this attempt ran out"))
        }
        Err(Refusal::Read(error)) => {
            tracing::warn!(id = %request.id, handle = %request.handle, %error, "message cannot be read");
            Outcome::Deferred(reply(4, 3, 0, "message cannot be read from the queue"))
        }
        Err(Refusal::Disk(error)) => {
            let recipient = recipient.address.as_str().escape_debug();
            tracing::error!(id = %request.id, %recipient, %error, "cannot write to the mailbox");
            let (subject, detail, text) = disk_words(error.kind());
            Outcome::Deferred(reply(4, subject, detail, text))
        }
    }
}

/// Subject and detail of the status of class 4, and the words, for what a file system refuses.
fn disk_words(kind: ErrorKind) -> (u16, u16, &'static str) {
    match kind {
        ErrorKind::StorageFull => (3, 1, "no space left for mailboxes"),
        ErrorKind::QuotaExceeded => (2, 2, "mailbox is full"),
        ErrorKind::PermissionDenied => (2, 0, "mailbox may not be written to"),
        ErrorKind::ReadOnlyFilesystem => (3, 0, "mailboxes are read-only now"),
        _ => (2, 0, "mailbox cannot be written to"),
    }
}

#[cfg(test)]
mod tests;
