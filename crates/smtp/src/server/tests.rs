//! A driver that decides by the names it sees, and what sessions with it come to.

mod attacks;
mod golden;
mod properties;

use std::rc::Rc;

use super::*;

/// A message that the driver took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) envelope: mail::Envelope,
    pub(super) body: Vec<u8>,
}

/// A session with a driver whose answers depend on the addresses alone: what is at `unknown.test` is refused, what is at
/// `later.test` is put off, a body that says `reject me` is refused, all else is taken.
pub(super) struct Driven {
    pub(super) session: Session,
    pub(super) out: Vec<u8>,
    pub(super) taken: Vec<Taken>,
    pub(super) asked: Vec<usize>,
    pub(super) closed: bool,
    input: Vec<u8>,
    body: Vec<u8>,
}

pub(super) fn limits() -> Limits {
    Limits { message_bytes_max: 2000, recipients_max: 5, line_bytes_max: 998, errors_max: 10 }
}

pub(super) fn config(limits: Limits, pipelining: Pipelining) -> Rc<Config> {
    Rc::new(Config {
        hostname: "mx.example.test".to_owned(),
        banner: "ESMTP Grange".to_owned(),
        extensions: Extension::ALL.to_vec(),
        limits,
        pipelining,
    })
}

impl Driven {
    pub(super) fn new(config: Rc<Config>, bare_newline: BareNewline) -> Self {
        let mut session = Session::new(config, bare_newline);
        let mut out = Vec::new();
        session.greet(false, &mut out);
        let (input, body) = (Vec::new(), Vec::new());
        Self { session, out, taken: Vec::new(), asked: Vec::new(), closed: false, input, body }
    }

    pub(super) fn lenient(bare_newline: BareNewline) -> Self {
        Self::new(config(limits(), Pipelining::Lenient), bare_newline)
    }

    /// Gives bytes to the session until it wants more.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if self.closed {
            return;
        }
        self.input.extend_from_slice(bytes);
        let input = std::mem::take(&mut self.input);
        let mut at = 0;
        while !self.closed {
            let (behind, event) = self.session.next(&input[at..], &mut self.out);
            at += behind;
            match event {
                Event::Input => break,
                Event::Body(bytes) => self.body.extend_from_slice(bytes),
                Event::GaveUp(_) => self.body.clear(),
                Event::MailRefused(reply) => assert!(!reply.is_positive()),
                Event::Close(_) => self.closed = true,
                Event::Helo => self.session.hello(Ok(()), &mut self.out),
                Event::Mail => self.session.mail(Ok(()), &mut self.out),
                Event::Recipients => self.recipients(),
                Event::Data => self.session.data(Ok(()), &mut self.out),
                Event::Message => self.message(),
            }
        }
        self.input = input[at..].to_vec();
        let room = crate::grammar::ENVELOPE_COMMAND_BYTES_MAX;
        assert!(self.closed || self.input.len() < room, "a session leaves less than a line");
    }

    fn recipients(&mut self) {
        let answers: Vec<_> = self
            .session
            .asked()
            .map(|recipient| match recipient.address.domain() {
                "unknown.test" => Err(Reply::new(550, 1, 1, "No such user")),
                "later.test" => Err(Reply::new(451, 3, 0, "Later")),
                _ => Ok(()),
            })
            .collect();
        self.asked.push(answers.len());
        self.session.recipients(answers, &mut self.out);
    }

    fn message(&mut self) {
        let envelope = self.session.take_envelope().expect("there is a transaction");
        let body = std::mem::take(&mut self.body);
        let reply = if body.windows(9).any(|window| window == b"reject me") {
            Reply::new(554, 7, 1, "Not this")
        } else {
            self.taken.push(Taken { envelope, body });
            Reply::new(250, 0, 0, format!("Ok: queued as {}", self.taken.len()))
        };
        self.session.message(&reply, &mut self.out);
    }

    /// Takes what has been said since the last time.
    pub(super) fn said(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.out)).expect("replies are ASCII")
    }

    /// The codes of the last lines of the replies since the last time.
    pub(super) fn codes(&mut self) -> Vec<u16> {
        let said = self.said();
        let last_lines = said.lines().filter(|line| line.as_bytes()[3] == b' ');
        last_lines.map(|line| line[..3].parse().expect("a code")).collect()
    }

    /// Goes on to where text is taken.
    pub(super) fn in_data(mut self) -> Self {
        self.feed(b"EHLO client.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n");
        assert_eq!(self.codes(), [220, 250, 250, 250, 354]);
        self
    }
}
