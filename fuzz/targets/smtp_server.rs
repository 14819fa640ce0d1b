//! A server session against a client that means no good: the same however its bytes are split, and no message but by CRLF.CRLF.
//!
//! The first byte says how the rest is split, the second whether bare newlines are normalised.
#![no_main]

use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use smtp::server::{BareNewline, Config, Event, Extension, Limits, Pipelining, Reply, Session};

fuzz_target!(|bytes: &[u8]| {
    let [split, newline, input @ ..] = bytes else { return };
    let newline = if newline % 2 == 0 { BareNewline::Reject } else { BareNewline::Normalise };
    let whole = run(input, input.len().max(1), newline);
    let split = run(input, usize::from(*split) + 1, newline);
    assert_eq!(whole.messages, split.messages, "what is taken does not depend on how it came");
    for text in [&whole.said, &split.said] {
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            assert!(line.ends_with(b"\r\n") && line.len() <= 514, "a reply's line is whole");
            assert!(
                line.get(..3).is_some_and(|code| code.iter().all(u8::is_ascii_digit)),
                "and begins with a code"
            );
        }
    }
    for message in &whole.messages {
        assert!(message.is_empty() || message.ends_with(b"\r\n"), "a message is lines");
        let mut last = 0;
        for &byte in message {
            assert_eq!(byte == b'\n', last == b'\r', "no CR and no LF stands alone");
            last = byte;
        }
    }
});

#[derive(Default)]
struct Outcome {
    messages: Vec<Vec<u8>>,
    said: Vec<u8>,
}

fn run(input: &[u8], piece: usize, newline: BareNewline) -> Outcome {
    let config = Config {
        hostname: "mx.example.test".to_owned(),
        banner: "ESMTP Grange".to_owned(),
        extensions: Extension::ALL.to_vec(),
        limits: Limits {
            message_bytes_max: 2000,
            recipients_max: 5,
            line_bytes_max: 998,
            errors_max: 10,
        },
        pipelining: Pipelining::Lenient,
    };
    let mut session = Session::new(Rc::new(config), newline);
    let mut outcome = Outcome::default();
    session.greet(false, &mut outcome.said);
    let (mut waiting, mut body) = (Vec::new(), Vec::new());
    for piece in input.chunks(piece) {
        waiting.extend_from_slice(piece);
        let mut at = 0;
        loop {
            let (behind, event) = session.next(&waiting[at..], &mut outcome.said);
            at += behind;
            match event {
                Event::Input => break,
                Event::Close(_) => return outcome,
                Event::Body(bytes) => body.extend_from_slice(bytes),
                Event::GaveUp(_) => body.clear(),
                Event::MailRefused(_) => {}
                Event::Helo => session.hello(Ok(()), &mut outcome.said),
                Event::Mail => session.mail(Ok(()), &mut outcome.said),
                Event::Recipients => {
                    let answers = session.asked().map(|_| Ok(())).collect::<Vec<_>>();
                    session.recipients(answers, &mut outcome.said);
                }
                Event::Data => session.data(Ok(()), &mut outcome.said),
                Event::Message => {
                    session.take_envelope().expect("there is a transaction");
                    outcome.messages.push(std::mem::take(&mut body));
                    session.message(&Reply::new(250, 0, 0, "Ok"), &mut outcome.said);
                }
            }
        }
        waiting.drain(..at);
    }
    outcome
}
