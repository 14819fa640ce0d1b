//! What each command does.

use mail::{Envelope, Recipient};

use super::{Event, Pending, Question, Session, Transaction};
use crate::grammar::{COMMAND_BYTES_MAX, Command, CommandError, Helo, MailCommand, is_rcpt, parse};
use crate::server::{IDLE_COMMANDS_MAX, Pipelining, Reply};

impl Session {
    /// Carries out one command. `ahead` says that the client has already sent more.
    pub(super) fn command<'i>(
        &mut self,
        line: &[u8],
        ahead: bool,
        out: &mut Vec<u8>,
    ) -> Option<Event<'i>> {
        let command = parse(line);
        if ahead && self.must_wait(&command) {
            return self.close(Reply::out_of_step(), out);
        }
        let long = line.len() + 2 > COMMAND_BYTES_MAX;
        match command {
            Ok(Command::Mail(mail)) => self.mail_command(mail, out),
            Ok(Command::Rcpt(recipient)) => self.rcpt_command(Ok(recipient), out),
            Err(error) if is_rcpt(line) => self.rcpt_command(Err(error.into()), out),
            Err(CommandError::Http) => self.close(CommandError::Http.into(), out),
            Err(
                error @ (CommandError::Sender(_)
                | CommandError::Parameter(_)
                | CommandError::AddressNotUtf8),
            ) => {
                let reply = Reply::from(error);
                self.refuse(&reply, out);
                Some(Event::MailRefused(reply))
            }
            _ if long => self.say(&Reply::line_too_long(), out),
            Err(error) => self.say(&error.into(), out),
            Ok(Command::Data) => self.data_command(out),
            Ok(Command::Quit) => {
                self.shut(&Reply::new(221, 0, 0, "Bye"), out);
                None
            }
            Ok(Command::Helo(helo, name)) => {
                self.offered = Some((helo, name.into()));
                self.ask(Question::Helo)
            }
            Ok(Command::Rset) => {
                self.transaction = None;
                self.say_idle(&Reply::ok(), out)
            }
            Ok(Command::Noop) => self.say_idle(&Reply::ok(), out),
            Ok(Command::Help) => self.say_idle(&help(), out),
            Ok(Command::Vrfy) => self.say_idle(&vrfy(), out),
            Ok(Command::Expn) => self.say(&CommandError::NotImplemented.into(), out),
        }
    }

    /// Whether a client had to wait for the reply to this command (RFC 2920 section 3.1).
    fn must_wait(&self, command: &Result<Command<'_>, CommandError>) -> bool {
        let groups = matches!(self.helo, Some((Helo::Ehlo, _)));
        let ends_group = match command {
            Ok(Command::Helo(..) | Command::Data | Command::Noop | Command::Vrfy) => true,
            Ok(Command::Expn | Command::Help) => true,
            Ok(Command::Quit) => return false,
            Ok(Command::Mail(_) | Command::Rcpt(_) | Command::Rset) | Err(_) => false,
        };
        self.config.pipelining == Pipelining::Strict && (ends_group || !groups)
    }

    fn say<'i>(&mut self, reply: &Reply, out: &mut Vec<u8>) -> Option<Event<'i>> {
        self.refuse(reply, out);
        None
    }

    fn say_idle<'i>(&mut self, reply: &Reply, out: &mut Vec<u8>) -> Option<Event<'i>> {
        self.idle(reply, out);
        None
    }

    /// Answers a command that brings no message nearer. After many of them, each counts as an error.
    pub(super) fn idle(&mut self, reply: &Reply, out: &mut Vec<u8>) {
        self.idle_commands = self.idle_commands.saturating_add(1);
        if self.idle_commands > IDLE_COMMANDS_MAX {
            self.errors = self.errors.saturating_add(1);
        }
        reply.write(out);
    }

    fn mail_command<'i>(&mut self, mail: MailCommand, out: &mut Vec<u8>) -> Option<Event<'i>> {
        if self.helo.is_none() {
            return self.say(&Reply::sequence("Say EHLO or HELO first"), out);
        }
        if self.transaction.is_some() {
            return self.say(&Reply::sequence("A message has already begun"), out);
        }
        let MailCommand { sender, parameters } = mail;
        let is_ascii = sender.as_ref().is_none_or(mail::Address::is_ascii);
        let reply = match parameters.size {
            _ if !is_ascii && !parameters.smtputf8 => Reply::utf8_needed(),
            Some(size) if size > self.config.limits.message_bytes_max => Reply::too_large(),
            _ => {
                let envelope = Envelope {
                    sender,
                    recipients: Vec::new(),
                    body: parameters.body.unwrap_or_default(),
                    smtputf8: parameters.smtputf8,
                    ret: parameters.ret,
                    envid: parameters.envid,
                };
                self.transaction = Some(Box::new(Transaction {
                    envelope,
                    declared_bytes: parameters.size,
                    pending: Vec::new(),
                    excess: 0,
                }));
                return self.ask(Question::Mail);
            }
        };
        self.refuse(&reply, out);
        Some(Event::MailRefused(reply))
    }

    fn rcpt_command<'i>(
        &mut self,
        recipient: Result<Recipient, Reply>,
        out: &mut Vec<u8>,
    ) -> Option<Event<'i>> {
        let is_full = self.is_full();
        let Some(transaction) = &mut self.transaction else {
            return self.say(&Reply::sequence("Say MAIL first"), out);
        };
        let pending = match recipient {
            Err(reply) => Pending::Refused(reply),
            Ok(recipient) if !transaction.envelope.smtputf8 && !is_ascii(&recipient) => {
                Pending::Refused(Reply::utf8_needed())
            }
            Ok(_) if is_full => Pending::Excess,
            Ok(recipient) => Pending::Ask(recipient),
        };
        transaction.pending.push(pending);
        None
    }

    fn data_command<'i>(&mut self, out: &mut Vec<u8>) -> Option<Event<'i>> {
        match &self.transaction {
            None => self.say(&Reply::sequence("Say MAIL first"), out),
            Some(transaction) if transaction.envelope.recipients.is_empty() => {
                self.say(&Reply::new(554, 5, 1, "No valid recipients"), out)
            }
            Some(_) => self.ask(Question::Data),
        }
    }
}

/// Whether a next hop without SMTPUTF8 could take this recipient.
fn is_ascii(recipient: &Recipient) -> bool {
    recipient.address.is_ascii() && recipient.orcpt.as_ref().is_none_or(|orcpt| orcpt.is_ascii())
}

fn help() -> Reply {
    Reply::new(214, 0, 0, "EHLO HELO MAIL RCPT DATA RSET NOOP VRFY QUIT HELP\nSee RFC 5321")
}

fn vrfy() -> Reply {
    Reply::new(252, 0, 0, "Cannot say; send it and see")
}
