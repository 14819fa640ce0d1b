//! One client's session: the machine of crate `smtp` between a connection and the other farms.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use job::inspect::Step;
use job::verify::{Client as VerifyClient, Verified, VerifyReply, VerifyRequest};
use queue::{IntakeError, SizeHint};
use smtp::server::{Event, GaveUp, Reply};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;

mod filters;

use crate::Counter;
use crate::door::{Client, Stage};
use crate::input::Input;
use crate::inspection::{Inspection, Known};
use crate::neighbours::Unavailable;
use crate::received::Received;
use crate::transaction::{Incoming, intake_reply};
use crate::watch::{Drain, Interrupt, Timer};

/// How long a client that we send away has to read why, and to close.
const LINGER: Duration = Duration::from_secs(2);
/// How much of what such a client still sends is read, in bytes.
const LINGER_BYTES_MAX: usize = 1 << 20;
/// A larger buffer for replies than this is given up when it is empty.
const OUT_BYTES_KEPT: usize = 512;

/// One session.
pub(crate) struct Session {
    stage: Rc<Stage>,
    stream: TcpStream,
    client: Client,
    /// What the filters know of it, if there are any.
    inspection: Option<Box<Inspection>>,
    machine: smtp::server::Session,
    input: Input,
    /// Replies that have not been sent.
    out: Vec<u8>,
    timer: Rc<Timer>,
    began: Instant,
    /// The message that is being received.
    incoming: Option<Box<Incoming>>,
    /// When the message that is being received must have ended.
    message_deadline: Instant,
}

/// How a session ended.
#[derive(Debug)]
enum End {
    /// The client said QUIT, or closed.
    Client,
    /// We sent it away, with this reply.
    Refused(Reply),
    /// It took too long.
    TimedOut { was_receiving: bool },
    /// The worker drains, or the session was too old.
    Drained,
    /// The connection broke.
    Lost(io::Error),
}

impl Session {
    /// Puts a session together. Call within the runtime.
    pub(crate) fn new(stage: Rc<Stage>, stream: TcpStream, client: Client) -> Self {
        let began = Instant::now();
        let timer = stage.watch.timer();
        timer.set(began + stage.settings.command_timeout.0);
        Self {
            machine: smtp::server::Session::new(
                Rc::clone(&stage.config),
                stage.bare_newline(&client),
            ),
            input: Input::new(Rc::clone(&stage.pool)),
            inspection: stage.inspect.then(Box::default),
            stage,
            stream,
            client,
            out: Vec::new(),
            timer,
            began,
            incoming: None,
            message_deadline: began,
        }
    }

    /// Holds the session to its end.
    pub(crate) async fn run(mut self) {
        let (Ok(end) | Err(end)) = self.talk().await;
        self.log(&end);
        self.tell_filters(Step::Quit);
        if matches!(end, End::Refused(_) | End::TimedOut { .. } | End::Drained) {
            self.linger().await;
        }
    }

    async fn talk(&mut self) -> Result<End, End> {
        if let Some(reply) = self.greet().await? {
            self.flush().await?;
            return Ok(End::Refused(reply));
        }
        loop {
            let (behind, event) = self.machine.next(self.input.bytes(), &mut self.out);
            match event {
                Event::Body(bytes) => {
                    let written = self.incoming.as_mut().map(|incoming| incoming.write(bytes));
                    self.input.consume(behind);
                    self.written(written.unwrap_or(Ok(()))).await;
                    continue;
                }
                Event::Close(None) => return Ok(self.close().await),
                Event::Close(Some(reply)) => {
                    self.flush().await?;
                    return Ok(End::Refused(reply));
                }
                Event::Input => {
                    self.input.consume(behind);
                    self.wait().await?;
                    continue;
                }
                Event::Mail if self.is_to_end() => {
                    self.input.consume(behind);
                    return Ok(self.end_between().await);
                }
                Event::Mail => {
                    self.input.consume(behind);
                    self.mail().await;
                    continue;
                }
                Event::Helo => {
                    self.input.consume(behind);
                    self.hello().await;
                    continue;
                }
                Event::MailRefused(reply) => {
                    self.stage.neighbours.count(Counter::Rejected, 1);
                    self.log_refusal("sender refused", &reply, None);
                }
                Event::GaveUp(reason) => self.gave_up(reason),
                Event::Data => self.data(),
                Event::Recipients => {
                    self.input.consume(behind);
                    self.recipients().await;
                    continue;
                }
                Event::Message => {
                    self.input.consume(behind);
                    self.message().await;
                    continue;
                }
            }
            self.input.consume(behind);
        }
    }

    /// Says the greeting, or why there is none.
    async fn greet(&mut self) -> Result<Option<Reply>, End> {
        if self.stage.steps.connect
            && let Some(reply) = Box::pin(self.ask_filters(Step::Connect)).await
        {
            self.machine.shut(&reply, &mut self.out);
            return Ok(Some(reply));
        }
        // Lets the runtime look at the connection once, so that bytes sent before our greeting are seen.
        tokio::task::yield_now().await;
        let look = |context: &mut Context<'_>| {
            Poll::Ready(self.input.poll_read(&mut self.stream, context))
        };
        let early = match poll_fn(look).await {
            Poll::Ready(Ok(0)) => return Err(End::Client),
            Poll::Ready(Ok(_)) => true,
            Poll::Pending => false,
            Poll::Ready(Err(error)) => return Err(End::Lost(error)),
        };
        Ok(self.machine.greet(early, &mut self.out))
    }

    /// Sends what was said and waits for more, unless this is the moment to end the session.
    async fn wait(&mut self) -> Result<(), End> {
        let between = self.machine.is_between_transactions();
        if between && self.is_to_end() {
            return Err(self.end_between().await);
        }
        let now = Instant::now();
        let settings = &self.stage.settings;
        if self.machine.is_receiving() {
            if now >= self.message_deadline {
                return Err(self.time_out().await);
            }
            self.timer.set(self.message_deadline.min(now + settings.data_timeout.0));
        } else if !self.out.is_empty() {
            // Only a reply begins a new wait: a command that comes byte by byte has one deadline for all of it.
            self.timer.set(now + settings.command_timeout.0);
        }
        self.flush().await?;
        let drain = if between { Drain::Ends } else { Drain::Waits };
        match self.timer.guard(drain, self.input.read(&mut self.stream)).await {
            Ok(Ok(0)) => Err(End::Client),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(End::Lost(error)),
            Err(Interrupt::Draining) => Err(self.end_between().await),
            Err(Interrupt::Expired) => Err(self.time_out().await),
        }
    }

    /// Whether no other message is to begin in this session.
    fn is_to_end(&self) -> bool {
        self.timer.is_draining() || self.began.elapsed() > self.stage.settings.session_timeout.0
    }

    async fn time_out(&mut self) -> End {
        let was_receiving = self.machine.is_receiving();
        self.send_away(Reply::new(421, 4, 2, "You took too long, closing")).await;
        End::TimedOut { was_receiving }
    }

    async fn end_between(&mut self) -> End {
        let reply = Reply::new(421, 3, 2, "Service is ending this session, connect again");
        self.send_away(reply).await;
        End::Drained
    }

    /// Says a last reply.
    async fn send_away(&mut self, reply: Reply) -> End {
        self.incoming = None;
        self.machine.shut(&reply, &mut self.out);
        self.timer.set(Instant::now() + LINGER);
        match self.flush().await {
            Err(end @ End::Lost(_)) => end,
            _ => End::Refused(reply),
        }
    }

    /// Says the last reply to a client that goes by itself, and closes our half with it.
    async fn close(&mut self) -> End {
        let last =
            self.stream.try_io(Interest::WRITABLE, || sys::send_last(&self.stream, &self.out));
        match last {
            Ok(count) => drop(self.out.drain(..count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return End::Lost(error),
        }
        // What found no room, and nearly always nothing.
        match self.flush().await {
            Ok(()) => End::Client,
            Err(end) => end,
        }
    }

    /// Closes our half, and reads on for a moment: closing with bytes unread would reset the connection, and the client would never
    /// see what we said last.
    async fn linger(&mut self) {
        self.timer.set(Instant::now() + LINGER);
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let mut read = 0;
        while read < LINGER_BYTES_MAX {
            let left = self.input.bytes().len();
            self.input.consume(left);
            match self.timer.guard(Drain::Waits, self.input.read(&mut self.stream)).await {
                Ok(Ok(count)) if count > 0 => read += count,
                _ => return,
            }
        }
    }

    /// Sends all that has been said in one write, as long as the client takes it.
    async fn flush(&mut self) -> Result<(), End> {
        let mut sent = 0;
        while let Some(rest) = self.out.get(sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.try_write(rest) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match self.timer.guard(Drain::Waits, self.stream.writable()).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return Err(End::Lost(error)),
                        Err(_) => return Err(End::TimedOut { was_receiving: false }),
                    }
                }
                Err(error) => return Err(End::Lost(error)),
            }
        }
        self.out.clear();
        self.out.shrink_to(OUT_BYTES_KEPT);
        Ok(())
    }

    /// Asks router about the recipients that came together.
    async fn recipients(&mut self) {
        let request = VerifyRequest {
            sender: self.machine.envelope().and_then(|envelope| envelope.sender.clone()),
            recipients: self.machine.asked().map(|recipient| recipient.address.clone()).collect(),
            client: VerifyClient {
                address: Some(self.client.address),
                may_relay: self.client.may_relay,
            },
        };
        self.stage.neighbours.count(Counter::Recipients, request.recipients.len() as u64);
        let mut answers: Vec<Result<(), Reply>> = match self.stage.neighbours.verify(&request).await
        {
            Ok(answer) => answer.recipients.into_iter().map(verified).collect(),
            Err(error) => {
                self.stage.neighbours.count(Counter::VerifyFailures, 1);
                let reply = match error {
                    Unavailable::Deadline => {
                        Reply::new(451, 4, 3, "Recipient cannot be verified now, try again later")
                    }
                    Unavailable::Crashed | Unavailable::Failed(_) => {
                        tracing::warn!(reason = %error, "router cannot verify recipients");
                        Reply::new(451, 3, 0, "Recipient cannot be verified now, try again later")
                    }
                };
                request.recipients.iter().map(|_| Err(reply.clone())).collect()
            }
        };
        if self.inspection.is_some() {
            Box::pin(self.ask_filters_of(&mut answers)).await;
        }
        let refused = answers.iter().filter(|answer| answer.is_err()).count();
        if refused > 0 {
            self.stage.neighbours.count(Counter::RecipientsRefused, refused as u64);
            let first = answers.iter().zip(&request.recipients);
            let mut first = first.filter_map(|(answer, to)| Some((answer.as_ref().err()?, to)));
            if let Some((reply, recipient)) = first.next() {
                self.log_refusal("recipient refused", reply, Some((recipient.as_str(), refused)));
            }
        }
        self.machine.recipients(answers, &mut self.out);
    }

    /// Begins a draft, with our Received field first.
    fn data(&mut self) {
        let hint = SizeHint { declared_bytes: self.machine.declared_bytes() };
        let begun = self.stage.intake.begin(hint).and_then(|draft| {
            let mut incoming = Incoming::new(draft, &self.stage);
            let recipients = self.machine.envelope().map(|envelope| &*envelope.recipients);
            let received = Received {
                helo: self.machine.helo(),
                client: self.client.address,
                hostname: &self.stage.hostname,
                protocol: self.machine.protocol(),
                id: incoming.id(),
                recipient: match recipients {
                    Some([only]) => Some(&only.address),
                    _ => None,
                },
                at: std::time::SystemTime::now().into(),
            };
            incoming.write_own(received.field().as_bytes())?;
            Ok(incoming)
        });
        match begun {
            Ok(incoming) => {
                self.incoming = Some(Box::new(incoming));
                self.message_deadline = Instant::now() + self.stage.settings.message_timeout.0;
                self.machine.data(Ok(()), &mut self.out);
            }
            Err(error) => {
                let reply = self.intake_failed(&error);
                self.machine.data(Err(reply), &mut self.out);
            }
        }
    }

    /// Goes on after bytes of a message were written, or refuses the message.
    async fn written(&mut self, written: Result<(), IntakeError>) {
        let Some(incoming) = &mut self.incoming else { return };
        let result = match written {
            Ok(()) => incoming.room().await,
            Err(error) => Err(error),
        };
        let reply = match result {
            Err(error) => self.intake_failed(&error),
            Ok(()) if incoming.goes_in_circles() => {
                let reply = Reply::new(554, 4, 6, "Too many hops: this message goes in circles");
                self.log_refusal("message refused", &reply, None);
                self.stage.neighbours.count(Counter::Rejected, 1);
                reply
            }
            Ok(()) => return,
        };
        self.incoming = None;
        self.machine.refuse_body(reply);
    }

    fn gave_up(&mut self, reason: GaveUp) {
        self.incoming = None;
        let reply = match reason {
            GaveUp::TooLarge => Reply::new(552, 3, 4, "message too large"),
            GaveUp::LineTooLong => Reply::new(500, 5, 6, "line too long"),
        };
        self.log_refusal("message refused", &reply, None);
        self.stage.neighbours.count(Counter::Rejected, 1);
    }

    /// Decides on a whole message, and stores it.
    async fn message(&mut self) {
        let protocol = self.machine.protocol();
        let (Some(incoming), Some(envelope)) = (self.incoming.take(), self.machine.take_envelope())
        else {
            unreachable!("a message ends that has begun, with an envelope")
        };
        let stage = Rc::clone(&self.stage);
        let known = Known { protocol, ..self.known() };
        let reply = incoming.end(&stage, known, self.inspection.as_deref(), envelope).await;
        self.tell_filters(Step::End);
        self.machine.message(&reply, &mut self.out);
    }

    fn intake_failed(&self, error: &IntakeError) -> Reply {
        self.stage.neighbours.count(Counter::Tempfailed, 1);
        let reply = intake_reply(error);
        tracing::error!(
            client = %self.client.address,
            error = error_chain(error),
            reply = reply.code,
            "cannot store a message"
        );
        reply
    }

    fn log_refusal(&self, what: &'static str, reply: &Reply, recipient: Option<(&str, usize)>) {
        let envelope = self.machine.envelope();
        // Before a sender is taken there is none, which is another thing than the null sender.
        let sender = envelope
            .map(|envelope| envelope.sender.as_ref().map_or("<>", |sender| sender.as_str()));
        tracing::info!(
            client = %self.client.address,
            helo = self.machine.helo(),
            sender,
            recipient = recipient.map(|(recipient, _)| recipient),
            refused = recipient.map(|(_, refused)| refused),
            reply = %reply,
            "{what}"
        );
    }

    fn log(&self, end: &End) {
        let client = self.client.address;
        let helo = self.machine.helo();
        match end {
            End::Refused(reply) => {
                self.stage.neighbours.count(Counter::SessionsRefused, 1);
                tracing::info!(%client, helo, reply = %reply, "session refused");
            }
            End::TimedOut { was_receiving } => {
                self.stage.neighbours.count(Counter::SessionsTimedOut, 1);
                tracing::info!(%client, helo, was_receiving, "session timed out");
            }
            End::Lost(error) => {
                tracing::debug!(%client, helo, %error, "connection lost");
            }
            End::Client | End::Drained if self.machine.is_receiving() => {
                tracing::info!(%client, helo, "connection ended within a message");
            }
            End::Client | End::Drained => {}
        }
    }
}

/// Router's verdict as an answer to RCPT.
fn verified(verdict: Verified) -> Result<(), Reply> {
    match verdict {
        Verified::Deliverable => Ok(()),
        Verified::Unknown(reply) => Err(refusal(reply, 5, 550)),
        Verified::RelayDenied(reply) => Err(refusal(reply, 5, 554)),
        Verified::Tempfail(reply) => Err(refusal(reply, 4, 451)),
    }
}

/// A refusal in router's words; a code that contradicts the verdict is mended.
fn refusal(reply: VerifyReply, class: u16, fallback: u16) -> Reply {
    let code = if reply.code / 100 == class { reply.code } else { fallback };
    Reply::new(code, reply.status.subject, reply.status.detail, reply.text)
}

/// An error with its causes.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
