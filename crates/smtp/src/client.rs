//! The client's side of an SMTP or LMTP session: replies in, commands and outcomes out, no I/O.
//!
//! ```text
//!            220          250                  begin             354           end_body       reply(ies)
//! Greeting ──────▶ Hello ──────▶ Idle ◀──────────────▶ Envelope ──────▶ Body ──────────▶ Dot ──────────▶ Idle
//!                    │ 5xx: HELO   │                      │ refused: Idle (a lone dot first, if 354 came all the same)
//!                    └──▶ Hello    └── quit ──▶ Quitting ──▶ Ended ◀── 421, lost, timed out, nonsense: from everywhere
//! ```
//!
//! The driver moves bytes and keeps time:
//! 1. write what [`Client::output`] holds;
//! 2. look at [`Client::step`];
//! 3. read, and hand bytes to [`Client::receive`], or stream the body with [`Client::body`] and, **through the dot gate**,
//!    [`Client::end_body`], or take the verdicts.
//!
//! With PIPELINING a transaction leaves in one write: MAIL, every RCPT and DATA. Replies are matched to commands by their
//! order and nothing else; a reply to nothing, or to what is still in the output, ends the session, so that none can ever
//! count for the wrong command.

use std::collections::VecDeque;
use std::ops::Range;

use mail::{Delivered, Outcome, StatusCode, SuccessReport};

use crate::reply::{Class, Parser, Reply};

mod body;
mod commands;
mod phase;
#[cfg(test)]
mod tests;
mod transaction;

pub use body::Stuffing;
pub use commands::Capabilities;
pub use phase::{Cause, Failure, Phase, Step};
pub use transaction::{Message, Recipient, Verdict};
use transaction::{Place, Transaction, is_too_many, refusal};

/// Which protocol is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 5321.
    #[default]
    Smtp,
    /// RFC 2033: LHLO, and a reply for each recipient behind the dot.
    Lmtp,
}

/// A session with a server.
#[derive(Debug)]
pub struct Client {
    protocol: Protocol,
    helo: String,
    remote: String,
    state: State,
    offered: Capabilities,
    server_name: String,
    parser: Parser,
    replies: u64,
    output: Vec<u8>,
    /// Commands that were sent and not answered, in order.
    sent: VecDeque<Command>,
    /// Without PIPELINING: commands that wait for the reply to the one before, and where they stand in `held_text`.
    held: VecDeque<(Command, Range<usize>)>,
    held_text: Vec<u8>,
    transaction: Option<Transaction>,
    stuffing: Stuffing,
    /// The server may still hold an envelope that led to nothing.
    reset_due: bool,
    failure: Option<Box<Failure>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Hello,
    Idle,
    Envelope,
    Body,
    Dot,
    Done,
    Quitting,
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Greeting,
    Ehlo,
    Helo,
    Reset,
    Mail,
    Rcpt(usize),
    Data,
    /// The dot of an empty message that nobody is to get.
    LoneDot,
    /// The dot; with LMTP the reply for one recipient.
    Dot(Option<usize>),
    Quit,
}

impl Client {
    /// Begins a session on a new connection, which waits for the greeting. `helo` is our name, `remote` the server's for texts.
    pub fn new(protocol: Protocol, helo: impl Into<String>, remote: impl Into<String>) -> Self {
        Self {
            protocol,
            helo: helo.into(),
            remote: remote.into(),
            state: State::Hello,
            offered: Capabilities::default(),
            server_name: String::new(),
            parser: Parser::default(),
            replies: 0,
            output: Vec::new(),
            sent: VecDeque::from([Command::Greeting]),
            held: VecDeque::new(),
            held_text: Vec::new(),
            transaction: None,
            stuffing: Stuffing::default(),
            reset_due: false,
            failure: None,
        }
    }

    /// The server's name as given.
    pub fn remote(&self) -> &str {
        &self.remote
    }

    /// What the server offers.
    pub fn offered(&self) -> &Capabilities {
        &self.offered
    }

    /// The name that the server gave in its answer to our hello; empty if it gave none.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    /// How many whole replies have come.
    pub fn replies(&self) -> u64 {
        self.replies
    }

    /// Bytes to be written; the driver removes what it has written.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Why the session ended, if it ended early.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_deref()
    }

    /// What to do next.
    pub fn step(&self) -> Step {
        match self.state {
            State::Idle => Step::Idle,
            State::Body => Step::Body,
            State::Done => Step::Done,
            State::Ended => Step::Ended,
            State::Hello | State::Envelope | State::Dot | State::Quitting => {
                Step::Receive(self.phase())
            }
        }
    }

    /// What is being waited for.
    pub fn phase(&self) -> Phase {
        match (self.sent.front(), self.state) {
            (Some(command), _) => command.phase(),
            (None, State::Body) => Phase::Body,
            (None, _) => Phase::Idle,
        }
    }

    /// Begins a transaction with a message for recipients; the verdicts come in the same order. Only when idle.
    ///
    /// What can be said without asking the server (too large for it, SMTPUTF8 needed and not offered: RFC 6531 section 3.4)
    /// is said at once.
    pub fn begin(&mut self, message: &Message<'_>, recipients: &[Recipient<'_>]) {
        assert!(self.state == State::Idle, "a transaction begins only when none is under way");
        let mut transaction = Transaction::new(recipients.len());
        transaction.refuse_ourselves(message, recipients, &self.offered, &self.remote);
        let is_open = |place: &&Place| **place == Place::Open;
        let open = transaction.places.iter().filter(is_open).count();
        self.state = if open == 0 { State::Done } else { State::Envelope };
        if open > 0 {
            self.write_envelope(message, recipients, &transaction.places);
        }
        self.transaction = Some(transaction);
    }

    /// Takes bytes that the server sent.
    pub fn receive(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while self.state != State::Ended {
            match self.parser.take(&mut rest) {
                Ok(Some(reply)) => self.take(&reply),
                Ok(None) => return,
                Err(error) => self.nonsense(error),
            }
        }
    }

    /// Appends a piece of the body to the output, its line ends made CRLF and its dots stuffed. Only while [`Step::Body`].
    pub fn body(&mut self, piece: &[u8]) {
        assert!(self.state == State::Body, "a body is sent only where the server asked for it");
        self.stuffing.piece(piece, &mut self.output);
    }

    /// Appends the final dot to the output: from its writing on the message may be delivered. Only while [`Step::Body`].
    pub fn end_body(&mut self) {
        assert!(self.state == State::Body, "a body is ended only where the server asked for it");
        self.stuffing.end(&mut self.output);
        self.state = State::Dot;
        match (self.protocol, &self.transaction) {
            (Protocol::Lmtp, Some(transaction)) => self
                .sent
                .extend(transaction.accepted_places().map(|(index, _)| Command::Dot(Some(index)))),
            _ => self.sent.push_back(Command::Dot(None)),
        }
    }

    /// Takes the verdicts of the transaction, by its recipients' order, and leaves the session idle, or ended as it was.
    pub fn take_verdicts(&mut self) -> Vec<Verdict> {
        if self.state == State::Done {
            self.state = State::Idle;
        }
        let places = self.transaction.take().map(|transaction| transaction.places);
        let verdict = |place| match place {
            Place::Ended(verdict) => verdict,
            Place::Open | Place::Accepted => Verdict::Unknown,
        };
        places.unwrap_or_default().into_iter().map(verdict).collect()
    }

    /// Says goodbye. Only when idle.
    pub fn quit(&mut self) {
        assert!(self.state == State::Idle, "QUIT is sent only between transactions");
        self.state = State::Quitting;
        self.send(Command::Quit, b"QUIT\r\n");
    }

    /// The connection was closed or reset, as the system's `error` says; a clean end has none.
    pub fn lost(&mut self, error: Option<&std::io::Error>) {
        let because = error.map(|error| format!(": {}", error.kind())).unwrap_or_default();
        self.end_in_our_words(Cause::Lost, StatusCode::new(4, 4, 2), |remote, doing| {
            format!("lost connection with {remote} while {doing}{because}")
        });
    }

    /// Nothing came within the phase's time.
    pub fn timed_out(&mut self) {
        self.end_in_our_words(Cause::TimedOut, StatusCode::new(4, 4, 2), |remote, doing| {
            format!("conversation with {remote} timed out while {doing}")
        });
    }

    /// We cannot or may not go on, in these words: the connection is dropped before the dot.
    pub fn abandon(&mut self, reply: mail::Reply) {
        self.end(Cause::Abandoned, reply);
    }
}

impl Client {
    fn write_envelope(
        &mut self,
        message: &Message<'_>,
        recipients: &[Recipient<'_>],
        places: &[Place],
    ) {
        let utf8 = message.smtputf8
            || message.sender.is_some_and(|sender| !sender.is_ascii())
            || recipients.iter().any(|recipient| !recipient.address.is_ascii());
        let mut text = std::mem::take(&mut self.held_text);
        text.clear();
        let mut note = |command, text: &Vec<u8>, start| {
            self.held.push_back((command, start..text.len()));
            text.len()
        };
        let mut start = 0;
        if std::mem::take(&mut self.reset_due) {
            text.extend_from_slice(b"RSET\r\n");
            start = note(Command::Reset, &text, start);
        }
        commands::mail(message, &self.offered, utf8, &mut text);
        start = note(Command::Mail, &text, start);
        let open = places.iter().enumerate().filter(|(_, place)| **place == Place::Open);
        for (index, recipient) in
            open.filter_map(|(index, _)| Some((index, recipients.get(index)?)))
        {
            commands::rcpt(recipient, &self.offered, &mut text);
            start = note(Command::Rcpt(index), &text, start);
        }
        text.extend_from_slice(b"DATA\r\n");
        note(Command::Data, &text, start);
        self.held_text = text;
        self.send_held();
    }

    /// Sends what may be sent now: all that is held, or without PIPELINING one command once the last was answered.
    fn send_held(&mut self) {
        while self.offered.pipelining || self.sent.is_empty() {
            let Some((command, range)) = self.held.pop_front() else { return };
            self.output.extend_from_slice(self.held_text.get(range).unwrap_or_default());
            self.sent.push_back(command);
        }
    }

    fn send(&mut self, command: Command, text: &[u8]) {
        self.output.extend_from_slice(text);
        self.sent.push_back(command);
    }

    /// Takes one reply: the one to the oldest unanswered command.
    fn take(&mut self, reply: &Reply) {
        self.replies += 1;
        let command = self.sent.front().copied();
        match (command, reply.class()) {
            (Some(Command::Quit), _) => self.state = State::Ended,
            (_, _) if reply.code() == 421 => {
                self.end(Cause::ShuttingDown, reply.said_by(&self.remote));
            }
            (None, Class::Transient | Class::Permanent) if self.state == State::Body => {
                self.refused_early(reply);
            }
            (None, _) => self.nonsense("a reply to nothing"),
            (Some(Command::Dot(_)), Class::Transient | Class::Permanent)
                if !self.output.is_empty() =>
            {
                self.refused_early(reply);
            }
            (Some(command), _) if self.is_unsent(command) => {
                self.nonsense("a reply to what was not sent yet");
            }
            (Some(command), class) => {
                if let Err(what) = self.answer(command, class, reply) {
                    return self.nonsense(what);
                }
                // A failure keeps the command it is about in front.
                if self.state != State::Ended {
                    self.sent.pop_front();
                    self.go_on(command, class);
                }
            }
        }
    }

    /// Whether a command, the oldest unanswered one, waits in the output: no reply can be meant for it. Of a pipelined
    /// envelope the first commands may have left, so there the order alone decides.
    fn is_unsent(&self, command: Command) -> bool {
        let alone = !self.offered.pipelining || matches!(command, Command::Dot(_));
        alone && !self.output.is_empty()
    }

    /// What a reply means to its command; an error says that it means nothing.
    fn answer(
        &mut self,
        command: Command,
        class: Class,
        reply: &Reply,
    ) -> Result<(), &'static str> {
        match (command, class) {
            // LMTP has no reply that a lone dot could wait for.
            (Command::Data, Class::Intermediate)
                if self.protocol == Protocol::Lmtp && self.accepted() == 0 =>
            {
                return Err("354 where nobody is to get a message");
            }
            (Command::Data, Class::Intermediate) => {}
            (_, Class::Intermediate) | (Command::Data, Class::Positive) => {
                return Err("a reply that does not fit the command");
            }
            // What follows an envelope that was refused as a whole says nothing more.
            (Command::Rcpt(_), _) if self.mail_refused() => {}
            (Command::LoneDot, _) => {}
            (Command::Ehlo, Class::Positive) => {
                self.offered = Capabilities::of(reply);
                self.server_name = first_word(reply);
            }
            (Command::Helo, Class::Positive) => self.server_name = first_word(reply),
            (Command::Ehlo, Class::Permanent) if self.protocol == Protocol::Smtp => {}
            (Command::Greeting | Command::Reset, Class::Positive) => {}
            (
                Command::Greeting | Command::Ehlo | Command::Helo | Command::Reset,
                Class::Transient | Class::Permanent,
            ) => self.end(Cause::Refused(class), reply.said_by(&self.remote)),
            (Command::Mail | Command::Quit, Class::Positive) => {}
            (Command::Mail, _) => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.mail_refused = true;
                    transaction.end_all(&refusal(class, reply, &self.remote));
                }
            }
            (Command::Rcpt(index), _) => self.answer_rcpt(index, class, reply),
            (Command::Data | Command::Dot(None), _) => {
                let verdict = self.verdict(class, reply);
                if let Some(transaction) = &mut self.transaction {
                    transaction.end_accepted(&verdict);
                }
            }
            (Command::Dot(Some(index)), _) => {
                let verdict = self.verdict(class, reply);
                if let Some(transaction) = &mut self.transaction {
                    transaction.set(index, Place::Ended(verdict));
                }
            }
            (Command::Quit, _) => {}
        }
        if command == Command::Ehlo && class == Class::Permanent && self.state != State::Ended {
            let hello = format!("HELO {}\r\n", self.helo);
            self.send(Command::Helo, hello.as_bytes());
        }
        Ok(())
    }

    fn answer_rcpt(&mut self, index: usize, class: Class, reply: &Reply) {
        let remote = &self.remote;
        let Some(transaction) = &mut self.transaction else { return };
        let place = if class == Class::Positive {
            transaction.accepted += 1;
            Place::Accepted
        } else if transaction.accepted > 0 && is_too_many(reply) {
            Place::Ended(Verdict::Again)
        } else if reply.enhanced().is_some() && is_too_many(reply) {
            // RFC 5321 section 4.5.3.1.10: old servers say 552 where they mean 452.
            Place::Ended(refusal(Class::Transient, reply, remote))
        } else {
            Place::Ended(refusal(class, reply, remote))
        };
        transaction.set(index, place);
    }

    /// Goes on after `command` was answered and nothing ended the session.
    fn go_on(&mut self, command: Command, class: Class) {
        let accepted = self.accepted();
        match command {
            Command::Greeting => {
                let verb = if self.protocol == Protocol::Lmtp { "LHLO" } else { "EHLO" };
                let hello = format!("{verb} {}\r\n", self.helo);
                self.send(Command::Ehlo, hello.as_bytes());
            }
            Command::Ehlo | Command::Helo if self.sent.is_empty() => self.state = State::Idle,
            Command::Mail if self.mail_refused() && !self.held.is_empty() => self.finish(),
            Command::Rcpt(_) if accepted == 0 && self.held.len() == 1 => {
                // Without PIPELINING nobody has asked for DATA yet, and nobody will.
                self.reset_due = true;
                self.finish();
            }
            Command::Reset | Command::Mail | Command::Rcpt(_) => self.send_held(),
            Command::Data if class != Class::Intermediate => {
                self.reset_due = true;
                self.finish();
            }
            Command::Data if accepted > 0 => self.state = State::Body,
            Command::Data => {
                // The server asks for a message that nobody is to get (RFC 2920 section 3.1): an empty one it is.
                self.send(Command::LoneDot, b".\r\n");
            }
            Command::LoneDot => self.finish(),
            Command::Dot(_) if self.sent.is_empty() => self.finish(),
            Command::Ehlo | Command::Helo | Command::Dot(_) | Command::Quit => {}
        }
    }

    fn finish(&mut self) {
        self.held.clear();
        self.state = State::Done;
    }

    /// The server refuses the message before it has it whole: what is not sent yet never will be, so the connection ends.
    fn refused_early(&mut self, reply: &Reply) {
        let verdict = self.verdict(reply.class(), reply);
        if let Some(transaction) = &mut self.transaction {
            transaction.end_accepted(&verdict);
        }
        self.end(Cause::Abandoned, reply.said_by(&self.remote));
    }

    fn verdict(&self, class: Class, reply: &Reply) -> Verdict {
        if class != Class::Positive {
            return refusal(class, reply, &self.remote);
        }
        let report =
            if self.offered.dsn { SuccessReport::PassedOn } else { SuccessReport::Relayed };
        let reply = reply.said_by(&self.remote);
        Verdict::Outcome(Outcome::Delivered(Delivered { reply, report }))
    }

    fn accepted(&self) -> usize {
        self.transaction.as_ref().map_or(0, |transaction| transaction.accepted)
    }

    fn mail_refused(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| transaction.mail_refused)
    }

    fn nonsense(&mut self, what: impl std::fmt::Display) {
        self.end_in_our_words(Cause::Nonsense, StatusCode::new(4, 5, 0), |remote, doing| {
            format!("{remote} sent {what} while {doing}")
        });
    }

    fn end_in_our_words(
        &mut self,
        cause: Cause,
        status: StatusCode,
        text: impl FnOnce(&str, &str) -> String,
    ) {
        let text = text(&self.remote, self.phase().doing());
        self.end(cause, mail::Reply::ours(status, text));
    }

    /// Ends the session. The first failure stays.
    fn end(&mut self, cause: Cause, mut reply: mail::Reply) {
        if self.state != State::Ended {
            // Whatever was said, it is no last word on any recipient: those have their verdicts.
            reply.status.class = 4;
            self.failure = Some(Box::new(Failure { phase: self.phase(), cause, reply }));
            self.state = State::Ended;
            self.output.clear();
        }
    }
}

impl Command {
    fn phase(self) -> Phase {
        match self {
            Self::Greeting => Phase::Greeting,
            Self::Ehlo | Self::Helo => Phase::Hello,
            Self::Reset => Phase::Reset,
            Self::Mail => Phase::Mail,
            Self::Rcpt(_) => Phase::Rcpt,
            Self::Data => Phase::Data,
            Self::LoneDot | Self::Dot(_) => Phase::Dot,
            Self::Quit => Phase::Quit,
        }
    }
}

fn first_word(reply: &Reply) -> String {
    let line = reply.lines().next().unwrap_or_default();
    line.split(' ').next().unwrap_or_default().to_owned()
}
