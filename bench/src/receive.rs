//! A client's whole session as the server's machine sees it, with the replies.

use std::hint::black_box;
use std::rc::Rc;

use smtp::server::{BareNewline, Config, Event, Extension, Limits, Pipelining, Reply, Session};

use crate::example::{BODY_BYTES, RECIPIENT, SENDER, body_on_the_wire};

/// How much a server reads at once, in bytes.
const READ_BYTES: usize = 16 << 10;

pub(crate) fn run(count: u32) {
    let config = config();
    let pieces = [
        b"EHLO client.example\r\n".to_vec(),
        format!("MAIL FROM:<{SENDER}> SIZE={BODY_BYTES}\r\nRCPT TO:<{RECIPIENT}>\r\nDATA\r\n")
            .into_bytes(),
        body_on_the_wire(),
        b"QUIT\r\n".to_vec(),
    ];
    for _ in 0..count {
        let mut driver = Driver::new(config.clone());
        for piece in pieces.iter().flat_map(|piece| piece.chunks(READ_BYTES)) {
            driver.take(black_box(piece));
        }
        assert!(driver.is_closed && driver.taken == 1, "the session takes one message and ends");
    }
}

fn config() -> Rc<Config> {
    Rc::new(Config {
        hostname: "mx.example".into(),
        banner: "ESMTP Grange".into(),
        extensions: Extension::ALL.to_vec(),
        limits: Limits {
            message_bytes_max: 50 << 20,
            recipients_max: 1000,
            line_bytes_max: 2000,
            errors_max: 10,
        },
        pipelining: Pipelining::Strict,
    })
}

/// Takes everything, and keeps the body as smtpserver does.
struct Driver {
    session: Session,
    replies: Vec<u8>,
    body: Vec<u8>,
    taken: u32,
    is_closed: bool,
}

impl Driver {
    fn new(config: Rc<Config>) -> Self {
        let mut session = Session::new(config, BareNewline::Reject);
        let mut replies = Vec::new();
        session.greet(false, &mut replies);
        Self { session, replies, body: Vec::new(), taken: 0, is_closed: false }
    }

    /// Gives bytes to the session until it wants more, and sends what it said.
    fn take(&mut self, mut input: &[u8]) {
        loop {
            let (behind, event) = self.session.next(input, &mut self.replies);
            input = input.get(behind..).unwrap_or_default();
            match event {
                Event::Input => break,
                Event::Helo => self.session.hello(Ok(()), &mut self.replies),
                Event::Mail => self.session.mail(Ok(()), &mut self.replies),
                Event::Recipients => {
                    let answers: Vec<_> = self.session.asked().map(|_| Ok(())).collect();
                    self.session.recipients(answers, &mut self.replies);
                }
                Event::Data => self.session.data(Ok(()), &mut self.replies),
                Event::Body(bytes) => self.body.extend_from_slice(bytes),
                Event::Message => self.message(),
                Event::Close(_) => {
                    self.is_closed = true;
                    break;
                }
                Event::MailRefused(_) | Event::GaveUp(_) => {
                    unreachable!("nothing of the example is refused")
                }
            }
        }
        assert!(input.is_empty(), "every piece ends with a line");
        black_box(&self.replies);
        self.replies.clear();
    }

    fn message(&mut self) {
        let envelope = self.session.take_envelope();
        assert!(envelope.is_some_and(|envelope| envelope.recipients.len() == 1));
        assert_eq!(black_box(&self.body).len(), BODY_BYTES);
        self.taken += 1;
        let reply = Reply::new(250, 0, 0, "Ok: queued as 1hf8s5t0z0example000");
        self.session.message(&reply, &mut self.replies);
    }
}
