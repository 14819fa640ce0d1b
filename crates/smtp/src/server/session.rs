//! The session itself.

use std::rc::Rc;

use mail::{Envelope, Recipient};

use super::data::{Piece, Unstuffer};
use super::line::{Line, Skipped, skip, split};
use super::{
    BareNewline, Config, Pipelining, RECIPIENT_BATCH_MAX, RECIPIENTS_OVERSHOOT_MAX, Reply,
};
use crate::grammar::{ENVELOPE_COMMAND_BYTES_MAX, Helo, is_rcpt};

mod commands;

/// How much of a refused message is read and dropped beyond the largest that would be taken, in bytes; then the session ends.
const DROPPED_BYTES_MAX: u64 = 64 << 20;
/// How much of an over-long command line is skipped while its end is looked for, in bytes; then the session ends.
const SKIPPED_BYTES_MAX: usize = 1 << 20;

/// One SMTP session. See the module for its states.
#[derive(Debug)]
pub struct Session {
    config: Rc<Config>,
    bare_newline: BareNewline,
    state: State,
    helo: Option<(Helo, Box<str>)>,
    /// What HELO or EHLO said that has not been answered.
    offered: Option<(Helo, Box<str>)>,
    transaction: Option<Box<Transaction>>,
    errors: u32,
    idle_commands: u32,
}

#[derive(Debug)]
enum State {
    /// Nothing has been said yet.
    Greeting,
    Command,
    /// In an over-long line, up to its end.
    SkipLine {
        /// How many bytes of it are behind us.
        skipped: usize,
    },
    Asked(Question),
    Body(Box<Body>),
    Closed,
}

/// What the driver has been asked and has not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    Helo,
    Mail,
    Recipients,
    Data,
    Message,
}

#[derive(Debug)]
struct Transaction {
    envelope: Envelope,
    declared_bytes: Option<u64>,
    /// RCPT commands in their order that have not been answered.
    pending: Vec<Pending>,
    /// Recipients refused for now: for being too many, or by the driver.
    excess: usize,
}

#[derive(Debug)]
enum Pending {
    Ask(Recipient),
    Refused(Reply),
    /// Not asked about: there are already as many as there may be.
    Excess,
}

#[derive(Debug)]
struct Body {
    unstuffer: Unstuffer,
    bytes: u64,
    /// The message is read and dropped, and this is said at its end.
    refused: Option<Reply>,
}

/// What a session wants of its driver.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'i> {
    /// Send what was written, then read more.
    Input,
    /// HELO or EHLO asks ([`Session::offered`]): answer with [`Session::hello`].
    Helo,
    /// MAIL asks: answer with [`Session::mail`].
    Mail,
    /// MAIL was refused by the session itself, in these words; nothing is asked.
    MailRefused(Reply),
    /// One or more RCPT ask ([`Session::asked`]): answer with [`Session::recipients`].
    Recipients,
    /// DATA asks: answer with [`Session::data`].
    Data,
    /// Bytes of the message, never empty.
    Body(&'i [u8]),
    /// The message is refused before its end: drop it. The session goes on and says so when the end comes.
    GaveUp(GaveUp),
    /// The message is whole: answer with [`Session::message`].
    Message,
    /// Send what was written, then close. With the reply that ended the session, unless the client did.
    Close(Option<Reply>),
}

/// Why a session refused a message that it was reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GaveUp {
    /// It is larger than allowed.
    TooLarge,
    /// One of its lines is longer than allowed.
    LineTooLong,
}

type Step<'i> = (usize, Option<Event<'i>>);

impl Session {
    /// Begins a session; nothing is said before [`Session::greet`].
    pub fn new(config: Rc<Config>, bare_newline: BareNewline) -> Self {
        Self {
            config,
            bare_newline,
            state: State::Greeting,
            helo: None,
            offered: None,
            transaction: None,
            errors: 0,
            idle_commands: 0,
        }
    }

    /// Says the greeting. A client from which bytes have come already (`early`) is sent away instead, if pipelining is strict:
    /// with the reply that this gives back, after which the session is over.
    pub fn greet(&mut self, early: bool, out: &mut Vec<u8>) -> Option<Reply> {
        if early && self.config.pipelining == Pipelining::Strict {
            let reply = Reply::out_of_step();
            self.shut(&reply, out);
            return Some(reply);
        }
        self.state = State::Command;
        Reply::plain(220, self.config.greeting()).write(out);
        None
    }

    /// Ends the session with a reply of the driver's: at a time-out, when draining, or instead of a greeting. An unfinished
    /// transaction is forgotten.
    pub fn shut(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        reply.write(out);
        self.state = State::Closed;
        self.transaction = None;
    }

    /// Takes what `input` begins with, and says how many bytes of it are behind us and what is to be done. Replies are
    /// appended to `out`. What it says does not depend on how the bytes were split, except for who did not wait.
    pub fn next<'i>(&mut self, input: &'i [u8], out: &mut Vec<u8>) -> (usize, Event<'i>) {
        let mut behind = 0;
        loop {
            let rest = input.get(behind..).unwrap_or_default();
            let (bytes, event) = match self.state {
                State::Command => self.command_line(rest, out),
                State::SkipLine { skipped } => self.skip_line(rest, skipped, out),
                State::Body(_) => self.body(rest, out),
                State::Closed => (rest.len(), Some(Event::Close(None))),
                State::Greeting => unreachable!("the driver greets before it reads"),
                State::Asked(question) => {
                    unreachable!("the driver answers {question:?} before it goes on")
                }
            };
            behind += bytes;
            if let Some(event) = event {
                return (behind, event);
            }
        }
    }

    /// Whether no transaction has begun: the moment in which a session may be ended without harm.
    pub fn is_between_transactions(&self) -> bool {
        self.transaction.is_none() && matches!(self.state, State::Command | State::SkipLine { .. })
    }

    /// Whether the text of a message is being read, be it to be dropped.
    pub fn is_receiving(&self) -> bool {
        matches!(self.state, State::Body(_))
    }

    /// The client's name as it gave it: printable ASCII without spaces. Empty before HELO.
    pub fn helo(&self) -> &str {
        self.helo.as_ref().map_or("", |(_, name)| name)
    }

    /// The name that the client gives at [`Event::Helo`].
    pub fn offered(&self) -> &str {
        self.offered.as_ref().map_or("", |(_, name)| name)
    }

    /// The protocol as a Received field names it (RFC 3848, RFC 6531 section 4.3).
    pub fn protocol(&self) -> &'static str {
        match (self.offered.as_ref().or(self.helo.as_ref()), &self.transaction) {
            (_, Some(transaction)) if transaction.envelope.smtputf8 => "UTF8SMTP",
            (Some((Helo::Ehlo, _)), _) => "ESMTP",
            _ => "SMTP",
        }
    }

    /// The envelope of the present transaction: the sender, and the recipients accepted so far.
    pub fn envelope(&self) -> Option<&Envelope> {
        self.transaction.as_ref().map(|transaction| &transaction.envelope)
    }

    /// The size that MAIL declared.
    pub fn declared_bytes(&self) -> Option<u64> {
        self.transaction.as_ref()?.declared_bytes
    }

    /// Takes the envelope out, at [`Event::Message`].
    pub fn take_envelope(&mut self) -> Option<Envelope> {
        self.transaction.take().map(|transaction| transaction.envelope)
    }

    /// The recipients asked about at [`Event::Recipients`], in order.
    pub fn asked(&self) -> impl Iterator<Item = &Recipient> {
        let pending = self.transaction.iter().flat_map(|transaction| &transaction.pending);
        pending.filter_map(|pending| match pending {
            Pending::Ask(recipient) => Some(recipient),
            Pending::Refused(_) | Pending::Excess => None,
        })
    }

    /// Answers [`Event::Helo`]. If it is refused, all stays as it was.
    pub fn hello(&mut self, answer: Result<(), Reply>, out: &mut Vec<u8>) {
        self.answered(Question::Helo);
        let offered = self.offered.take();
        if let Err(reply) = answer {
            return self.refuse(&reply, out);
        }
        let text = match offered {
            Some((Helo::Ehlo, _)) => self.config.ehlo(),
            _ => self.config.hostname.clone(),
        };
        self.transaction = None;
        self.helo = offered;
        self.idle(&Reply::plain(250, text), out);
    }

    /// Answers [`Event::Mail`].
    pub fn mail(&mut self, answer: Result<(), Reply>, out: &mut Vec<u8>) {
        self.answered(Question::Mail);
        match answer {
            Ok(()) => Reply::new(250, 1, 0, "Sender ok").write(out),
            Err(reply) => {
                self.transaction = None;
                self.refuse(&reply, out);
            }
        }
    }

    /// Answers [`Event::Recipients`]: one answer for each that was asked about. One that is missing is `451`.
    pub fn recipients(
        &mut self,
        answers: impl IntoIterator<Item = Result<(), Reply>>,
        out: &mut Vec<u8>,
    ) {
        self.answered(Question::Recipients);
        let mut answers = answers.into_iter();
        let pending = match &mut self.transaction {
            Some(transaction) => std::mem::take(&mut transaction.pending),
            None => Vec::new(),
        };
        for pending in pending {
            // With too many errors the session ends here, as it would had the commands come one by one.
            if self.errors >= self.config.limits.errors_max {
                return;
            }
            match pending {
                Pending::Refused(reply) => self.refuse(&reply, out),
                Pending::Excess => self.refuse_recipient(&Reply::too_many_recipients(), out),
                Pending::Ask(recipient) => {
                    let answer = answers.next();
                    match answer.unwrap_or_else(|| Err(Reply::new(451, 3, 0, "Try again later"))) {
                        _ if self.is_full() => {
                            self.refuse_recipient(&Reply::too_many_recipients(), out);
                        }
                        Ok(()) => self.add(recipient, out),
                        Err(reply) => self.refuse_recipient(&reply, out),
                    }
                }
            }
        }
    }

    /// Refuses a recipient. One that is refused for now is not the client's fault, unless it goes on and on.
    fn refuse_recipient(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        self.refuse(reply, out);
        if let Some(transaction) = &mut self.transaction
            && reply.code < 500
        {
            transaction.excess += 1;
            if transaction.excess > RECIPIENTS_OVERSHOOT_MAX {
                self.errors = self.errors.saturating_add(1);
            }
        }
    }

    fn add(&mut self, recipient: Recipient, out: &mut Vec<u8>) {
        if let Some(transaction) = &mut self.transaction {
            transaction.envelope.recipients.push(recipient);
        }
        Reply::new(250, 1, 5, "Recipient ok").write(out);
    }

    fn is_full(&self) -> bool {
        let envelope = self.envelope();
        let most = self.config.limits.recipients_max;
        envelope.is_some_and(|envelope| envelope.recipients.len() >= most)
    }

    /// Answers [`Event::Data`].
    pub fn data(&mut self, answer: Result<(), Reply>, out: &mut Vec<u8>) {
        self.answered(Question::Data);
        match answer {
            Ok(()) => {
                Reply::plain(354, "End data with <CR><LF>.<CR><LF>").write(out);
                let unstuffer = Unstuffer::new(self.bare_newline);
                self.state = State::Body(Box::new(Body { unstuffer, bytes: 0, refused: None }));
            }
            Err(reply) => {
                self.transaction = None;
                self.refuse(&reply, out);
            }
        }
    }

    /// Refuses the message that is being read: the rest of it is read and dropped, and this is said at its end.
    pub fn refuse_body(&mut self, reply: Reply) {
        if let State::Body(body) = &mut self.state {
            body.refused.get_or_insert(reply);
        }
    }

    /// Answers [`Event::Message`]: the reply to the message, after which the next may come.
    pub fn message(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        self.answered(Question::Message);
        self.transaction = None;
        if reply.is_positive() {
            self.errors = 0;
            self.idle_commands = 0;
            reply.write(out);
        } else {
            self.refuse(reply, out);
        }
    }

    fn answered(&mut self, answer: Question) {
        match self.state {
            State::Asked(question) if question == answer => self.state = State::Command,
            _ => unreachable!("the driver answers what was asked, not {answer:?}"),
        }
    }

    fn ask<'i>(&mut self, question: Question) -> Option<Event<'i>> {
        self.state = State::Asked(question);
        Some(match question {
            Question::Helo => Event::Helo,
            Question::Mail => Event::Mail,
            Question::Recipients => Event::Recipients,
            Question::Data => Event::Data,
            Question::Message => Event::Message,
        })
    }

    /// Writes a refusal and counts it; one that says "later" is not the client's fault.
    fn refuse(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        reply.write(out);
        if reply.code >= 500 {
            self.errors = self.errors.saturating_add(1);
        }
    }

    fn close<'i>(&mut self, reply: Reply, out: &mut Vec<u8>) -> Option<Event<'i>> {
        self.shut(&reply, out);
        Some(Event::Close(Some(reply)))
    }

    fn skip_line<'i>(&mut self, rest: &'i [u8], skipped: usize, out: &mut Vec<u8>) -> Step<'i> {
        // What lies beyond the limit is not looked at, so that it does not matter how the bytes were split.
        let within = rest.get(..SKIPPED_BYTES_MAX.saturating_sub(skipped)).unwrap_or(rest);
        match skip(within, self.bare_newline) {
            Skipped::Part(_) if within.len() < rest.len() => {
                (rest.len(), self.close(Reply::line_without_end(), out))
            }
            Skipped::Part(bytes) => {
                self.state = State::SkipLine { skipped: skipped + bytes };
                (bytes, Some(Event::Input))
            }
            Skipped::BareNewline => (rest.len(), self.close(Reply::bare_newline(), out)),
            Skipped::ToEnd(bytes) => {
                self.state = State::Command;
                self.refuse(&Reply::line_too_long(), out);
                (bytes, None)
            }
        }
    }

    fn command_line<'i>(&mut self, rest: &'i [u8], out: &mut Vec<u8>) -> Step<'i> {
        let line = split(rest, ENVELOPE_COMMAND_BYTES_MAX, self.bare_newline);
        let pending = self.transaction.as_ref().map_or(0, |transaction| transaction.pending.len());
        let collects = pending < RECIPIENT_BATCH_MAX
            && matches!(line, Line::Complete { line, .. } if is_rcpt(line));
        if pending > 0 && !collects {
            return (0, self.ask_recipients(out));
        }
        if pending == 0 && self.errors >= self.config.limits.errors_max {
            return (rest.len(), self.close(Reply::too_many_errors(), out));
        }
        match line {
            Line::Partial => (0, Some(Event::Input)),
            Line::BareNewline => (rest.len(), self.close(Reply::bare_newline(), out)),
            Line::TooLong { bytes } => {
                self.state = State::SkipLine { skipped: 0 };
                (bytes, None)
            }
            Line::Complete { line, bytes } => {
                let ahead = rest.len() > bytes;
                (bytes, self.command(line, ahead, out))
            }
        }
    }

    /// Asks about the collected recipients, or answers if there is nothing to ask.
    fn ask_recipients<'i>(&mut self, out: &mut Vec<u8>) -> Option<Event<'i>> {
        let event = self.ask(Question::Recipients);
        if self.asked().next().is_some() {
            return event;
        }
        self.recipients([], out);
        None
    }

    fn body<'i>(&mut self, rest: &'i [u8], out: &mut Vec<u8>) -> Step<'i> {
        let limits = &self.config.limits;
        let State::Body(body) = &mut self.state else {
            unreachable!("text is taken apart after 354 only")
        };
        let (behind, piece) = body.unstuffer.next(rest);
        match piece {
            Piece::Input => (behind, Some(Event::Input)),
            Piece::BareNewline => (rest.len(), self.close(Reply::bare_newline(), out)),
            Piece::Bytes(bytes) => {
                body.bytes = body.bytes.saturating_add(bytes.len() as u64);
                if let Some(reply) = &body.refused {
                    let most = limits.message_bytes_max.saturating_add(DROPPED_BYTES_MAX);
                    if body.bytes <= most {
                        return (behind, None);
                    }
                    let reply = reply.clone();
                    return (rest.len(), self.close(reply, out));
                }
                let (gave_up, reply) = if body.bytes > limits.message_bytes_max {
                    (GaveUp::TooLarge, Reply::too_large())
                } else if body.unstuffer.longest_line_bytes() > limits.line_bytes_max {
                    (GaveUp::LineTooLong, Reply::line_too_long())
                } else {
                    return (behind, Some(Event::Body(bytes)));
                };
                body.refused = Some(reply);
                (behind, Some(Event::GaveUp(gave_up)))
            }
            Piece::End => match body.refused.take() {
                None => (behind, self.ask(Question::Message)),
                Some(reply) => {
                    self.state = State::Command;
                    self.transaction = None;
                    self.refuse(&reply, out);
                    (behind, None)
                }
            },
        }
    }
}
