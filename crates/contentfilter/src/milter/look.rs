//! What a milter knows of a session: the conversation with it, step by step, and what its answers come to.

use std::rc::Rc;

use ::authentication::iprev;
use ::authentication::lookup::Limited;
use ::milter::{Answer, Command, Ended, Error, Event, Limits, Malformed, PIECE_BYTES_MAX, Peer};
use job::inspect::{Refusal, Step, Verdict};
use mail::{Recipient, StatusCode, header};
use queue::Local;

use super::macros::{self, Facts};
use super::received::Received;
use super::{Connection, Milter, changes, words};
use crate::chain::BODY_BYTES_MAX;
use crate::filter::{FilterError, Finding, Look, Session};
use crate::message::Message;
use crate::run::ANSWER_BYTES_MAX;

/// The longest header field that a milter can be told, in bytes: Sendmail's library reads no more at once.
const FIELD_BYTES_MAX: usize = 65_000;
/// The most header fields that a milter is told: each may cost a round trip.
const FIELDS_MAX: usize = 10_000;
/// How much a milter may change.
const LIMITS: Limits = Limits { body: BODY_BYTES_MAX, changes: ANSWER_BYTES_MAX };

/// What a milter knows of a session.
pub(super) struct AtMilter {
    milter: Rc<Milter>,
    /// Taken out while something is under way, so that it goes with a call that is dropped in the middle.
    connection: Option<Connection>,
    client_name: Option<String>,
    done: Done,
    /// What it said at connect or HELO of all that follows.
    of_session: Verdict,
    /// It said at a recipient that the message is to be forgotten.
    discards: bool,
}

/// What a milter needs to know no more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    No,
    Message,
    Session,
}

impl Look for AtMilter {
    fn step<'a>(
        &'a mut self,
        session: &'a Session,
        step: Step,
    ) -> Local<'a, Result<Finding, FilterError>> {
        Box::pin(async move {
            if self.done != Done::No {
                return Ok(Finding::from(self.of_session.clone()));
            }
            let (mut connection, found) = match step {
                Step::Connect => self.connect(session).await?,
                Step::Mail => self.fresh(session).await?,
                _ => (self.taken()?, Finding::default()),
            };
            let found = match step {
                Step::Helo => self.hello(&mut connection, session).await?,
                Step::Mail if self.done == Done::No => self.mail(&mut connection, session).await?,
                Step::Recipient => self.recipients(&mut connection, session).await?,
                _ => found,
            };
            connection.flush().await?;
            self.connection = Some(connection);
            Ok(found)
        })
    }

    fn message<'a>(
        &'a mut self,
        session: &'a Session,
        message: &'a Message,
    ) -> Local<'a, Result<Finding, FilterError>> {
        Box::pin(async move {
            if self.discards {
                return Ok(Finding::from(Verdict::Discard));
            }
            if self.done != Done::No {
                return Ok(Finding::from(self.of_session.clone()));
            }
            let mut connection = self.taken()?;
            let found = self.whole(&mut connection, session, message).await?;
            self.connection = Some(connection);
            Ok(found)
        })
    }

    fn reset(&mut self) {
        if self.done == Done::Message {
            self.done = Done::No;
        }
        self.discards = false;
        if let Some(connection) = &mut self.connection {
            connection.abort();
        }
    }
}

impl Drop for AtMilter {
    fn drop(&mut self) {
        match self.connection.take() {
            Some(connection) if self.done == Done::Session => connection.quit(),
            Some(connection) => self.milter.give_back(connection),
            None => {}
        }
    }
}

impl AtMilter {
    pub(super) fn new(milter: Rc<Milter>) -> Self {
        Self {
            milter,
            connection: None,
            client_name: None,
            done: Done::No,
            of_session: Verdict::Accept,
            discards: false,
        }
    }

    /// A session that has been told up to its recipients.
    #[cfg(any(test, fuzzing))]
    pub(super) fn with(milter: Rc<Milter>, connection: Connection) -> Self {
        let mut look = Self::new(milter);
        look.connection = Some(connection);
        look
    }

    fn taken(&mut self) -> Result<Connection, FilterError> {
        self.connection.take().ok_or_else(|| FilterError::Lost("there is no connection".to_owned()))
    }

    /// The connection to begin a transaction over. Between two the milter may have been started anew, or have closed what was silent for
    /// long; then it is told of the session again, and may see it in another way.
    async fn fresh(&mut self, session: &Session) -> Result<(Connection, Finding), FilterError> {
        let mut connection = self.taken()?;
        if connection.is_fresh() {
            return Ok((connection, Finding::default()));
        }
        connection = self.milter.new_connection().await?;
        let mut found = self.greet(&mut connection, session).await?;
        if self.done == Done::No {
            found = self.hello(&mut connection, session).await?;
        }
        Ok((connection, found))
    }

    /// Begins a session. A connection that had one before may be closed by now, which is no failure.
    async fn connect(&mut self, session: &Session) -> Result<(Connection, Finding), FilterError> {
        self.client_name = self.name_of(session).await;
        if let Some(mut idle) = self.milter.idle()
            && let Ok(found) = self.greet(&mut idle, session).await
        {
            return Ok((idle, found));
        }
        let mut connection = self.milter.new_connection().await?;
        let found = self.greet(&mut connection, session).await?;
        Ok((connection, found))
    }

    /// The client's name, if its address leads to one that leads back.
    async fn name_of(&self, session: &Session) -> Option<String> {
        let lookup = Limited::new(&*self.milter.resolver, self.milter.name_time);
        iprev::look_up(session.address?, &lookup).await.name
    }

    async fn greet(
        &mut self,
        connection: &mut Connection,
        session: &Session,
    ) -> Result<Finding, FilterError> {
        // Without a name it is called by its address, as Sendmail and Postfix do.
        let name = self.client_name.clone().unwrap_or_else(|| macros::bracketed(session.address));
        let name = name.as_str();
        let peer = Peer { address: session.address, port: session.port };
        let answer = self.tell(connection, session, Command::Connect { name, peer }, None).await?;
        connection.flush().await?;
        self.of_session(answer)
    }

    async fn hello(
        &mut self,
        connection: &mut Connection,
        session: &Session,
    ) -> Result<Finding, FilterError> {
        let Some(name) = session.helo.as_deref() else { return Ok(Finding::default()) };
        let answer = self.tell(connection, session, Command::Helo(name), None).await?;
        self.of_session(answer)
    }

    async fn mail(
        &mut self,
        connection: &mut Connection,
        session: &Session,
    ) -> Result<Finding, FilterError> {
        let words = session.envelope.as_deref().map(words::of_mail).unwrap_or_default();
        let answer = self.tell(connection, session, Command::Mail(&words), None).await?;
        Ok(Finding::from(self.of_message(answer)))
    }

    async fn recipients(
        &mut self,
        connection: &mut Connection,
        session: &Session,
    ) -> Result<Finding, FilterError> {
        let mut found = Finding::default();
        for (place, recipient) in session.new_recipients() {
            // It wants no more of this client.
            if self.done == Done::Session {
                found.recipients.push((place, self.of_session.clone()));
                continue;
            }
            let words = words::of_recipient(recipient);
            let command = Command::Recipient(&words);
            let answer = self.tell(connection, session, command, Some(recipient)).await?;
            match self.of_message(answer) {
                Verdict::Accept => {}
                Verdict::Discard => self.discards = true,
                // A refusal is of the recipient alone, unless the client is to be heard no more.
                verdict => {
                    if self.done == Done::Message {
                        self.done = Done::No;
                    }
                    found.recipients.push((place, verdict));
                }
            }
            if self.done == Done::Message {
                break;
            }
        }
        Ok(found)
    }

    /// A message from DATA to its end.
    async fn whole(
        &mut self,
        connection: &mut Connection,
        session: &Session,
        message: &Message,
    ) -> Result<Finding, FilterError> {
        let received = Received::of(message, session);
        let verdict = self.content(connection, session, message, &received).await?;
        if verdict != Verdict::Accept || self.done != Done::No {
            return Ok(Finding::from(verdict));
        }
        let facts = self.facts(session, None);
        let value_of = |name: &str| facts.value(name);
        let Ended { changes, body, answer } = connection.end_of_message(value_of, LIMITS).await?;
        let verdict = self.of_message(answer);
        if self.done == Done::No {
            self.done = Done::Message;
        }
        if verdict != Verdict::Accept {
            return Ok(Finding::from(verdict));
        }
        let (name, hostname) = (&*self.milter.name, &*self.milter.hostname);
        let found = changes::finding(changes, session, &received, name, hostname)?;
        Ok(Finding { body, ..found })
    }

    /// All of it before its end, as far as the milter wants it; the verdict if that is one already.
    async fn content(
        &mut self,
        connection: &mut Connection,
        session: &Session,
        message: &Message,
        received: &Received,
    ) -> Result<Verdict, FilterError> {
        let answer = self.tell(connection, session, Command::Data, None).await?;
        let mut verdict = self.of_message(answer);
        if connection.options().tells(Event::Header) {
            for (place, field) in header::fields(message.head()).enumerate() {
                if place >= FIELDS_MAX {
                    let why = format!("more than {FIELDS_MAX} header fields cannot be told");
                    return Err(FilterError::Message(why));
                }
                if verdict != Verdict::Accept || self.done != Done::No {
                    return Ok(verdict);
                }
                if received.is_at(place) {
                    continue;
                }
                let value = field.raw_value();
                if field.raw().len() > FIELD_BYTES_MAX {
                    let bytes = field.raw().len();
                    let why = format!("a header field of {bytes} bytes cannot be told");
                    return Err(FilterError::Message(why));
                }
                // White space at its end is part of it, and of what is signed.
                let value = value.strip_suffix(b"\n").unwrap_or(value);
                let value = value.strip_suffix(b"\r").unwrap_or(value);
                let command = Command::Header(field.name(), value);
                let answer = self.tell(connection, session, command, None).await?;
                verdict = self.of_message(answer);
            }
        }
        if verdict == Verdict::Accept && self.done == Done::No {
            let answer = self.tell(connection, session, Command::EndOfHeader, None).await?;
            verdict = self.of_message(answer);
        }
        if !connection.options().tells(Event::Body) {
            return Ok(verdict);
        }
        for piece in message.body().chunks(PIECE_BYTES_MAX) {
            if verdict != Verdict::Accept || self.done != Done::No {
                break;
            }
            match self.tell(connection, session, Command::Body(piece), None).await? {
                Answer::Skip => break,
                answer => verdict = self.of_message(answer),
            }
        }
        Ok(verdict)
    }

    async fn tell(
        &self,
        connection: &mut Connection,
        session: &Session,
        command: Command<'_>,
        recipient: Option<&Recipient>,
    ) -> Result<Answer, FilterError> {
        let facts = self.facts(session, recipient);
        Ok(connection.tell(command, |name| facts.value(name)).await?)
    }

    fn facts<'a>(&'a self, session: &'a Session, recipient: Option<&'a Recipient>) -> Facts<'a> {
        Facts {
            hostname: &self.milter.hostname,
            client_name: self.client_name.as_deref(),
            session,
            recipient,
        }
    }

    /// What an answer at connect or HELO comes to.
    fn of_session(&mut self, answer: Answer) -> Result<Finding, FilterError> {
        match verdict_of(answer) {
            Err(Goes::On) => Ok(Finding::default()),
            Err(Goes::Unasked) => {
                self.done = Done::Session;
                Ok(Finding::default())
            }
            // Of which message?
            Ok(Verdict::Discard) => Err(Error::from(Malformed::OutOfPlace).into()),
            Ok(verdict) => {
                self.done = Done::Session;
                self.of_session = verdict.clone();
                Ok(Finding::from(verdict))
            }
        }
    }

    /// What an answer within a message comes to. With 421 it is for all that follows.
    fn of_message(&mut self, answer: Answer) -> Verdict {
        let verdict = match verdict_of(answer) {
            Err(Goes::On) => return Verdict::Accept,
            Err(Goes::Unasked) => Verdict::Accept,
            Ok(verdict) => verdict,
        };
        self.done = Done::Message;
        if matches!(&verdict, Verdict::Tempfail(refusal) if refusal.code == 421) {
            self.done = Done::Session;
            self.of_session = verdict.clone();
        }
        verdict
    }
}

/// What follows from an answer that is no verdict.
enum Goes {
    /// The milter is told what is next.
    On,
    /// The milter is told no more of this.
    Unasked,
}

fn verdict_of(answer: Answer) -> Result<Verdict, Goes> {
    let refusal = |code, status, text: &str| Refusal { code, status, text: text.to_owned() };
    Ok(match answer {
        Answer::Continue | Answer::Skip => return Err(Goes::On),
        Answer::Accept => return Err(Goes::Unasked),
        Answer::Discard => Verdict::Discard,
        Answer::Reject => {
            Verdict::Reject(refusal(550, StatusCode::new(5, 7, 1), "refused by a filter"))
        }
        Answer::Tempfail => Verdict::Tempfail(refusal(
            451,
            StatusCode::new(4, 7, 1),
            "put off by a filter, try again later",
        )),
        Answer::ConnectionFails | Answer::ShutDown => {
            Verdict::Tempfail(refusal(421, StatusCode::new(4, 3, 2), "try again later"))
        }
        Answer::Reply(reply) => {
            let class = if reply.code < 500 { 4 } else { 5 };
            let status = reply.status.unwrap_or(StatusCode::new(class, 7, 1));
            let refusal = Refusal { code: reply.code, status, text: reply.lines.join("\n") };
            if class == 4 { Verdict::Tempfail(refusal) } else { Verdict::Reject(refusal) }
        }
    })
}
