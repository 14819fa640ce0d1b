//! A client session against a server that means no good: it ends or goes on, and what is reported is one clean line.
//!
//! The first byte says how the rest, the server's replies, is split.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smtp::client::{Client, Message, Protocol, Recipient, Step, Verdict};

fuzz_target!(|bytes: &[u8]| {
    let [split, input @ ..] = bytes else { return };
    let protocol = if split % 2 == 0 { Protocol::Smtp } else { Protocol::Lmtp };
    let sender = mail::Address::parse("alice@example.test").expect("an address");
    let first = mail::Address::parse("bob@example.org").expect("an address");
    let second = mail::Address::parse("jörg@example.org").expect("an address");
    let message = Message { sender: Some(&sender), size: Some(1000), ..Message::default() };
    let mut client = Client::new(protocol, "mta.example.test", "mx.example.org");
    let mut transactions = 0;
    for piece in input.chunks(usize::from(*split / 2) + 1) {
        client.receive(piece);
        loop {
            client.output().clear();
            match client.step() {
                Step::Receive(_) => break,
                Step::Ended => {
                    check(&client.take_verdicts());
                    return;
                }
                Step::Idle if transactions == 3 => client.quit(),
                Step::Idle => {
                    transactions += 1;
                    let recipients = [recipient(&first), recipient(&second)];
                    client.begin(&message, &recipients);
                }
                Step::Body => {
                    client.body(b"Subject: x\r\n\r\n.\r\nx\r\n");
                    client.end_body();
                }
                Step::Done => check(&client.take_verdicts()),
            }
        }
    }
    client.lost(None);
    check(&client.take_verdicts());
});

fn recipient(address: &mail::Address) -> Recipient<'_> {
    Recipient { address, original: None, notify: None, orcpt: None }
}

/// What the server said must not break a log line, a report or a frame.
fn check(verdicts: &[Verdict]) {
    for verdict in verdicts {
        let reply = match verdict {
            Verdict::Outcome(mail::Outcome::Delivered(delivered)) => &delivered.reply,
            Verdict::Outcome(mail::Outcome::Deferred(reply) | mail::Outcome::Failed(reply)) => {
                reply
            }
            Verdict::Again | Verdict::Unknown => continue,
        };
        assert!(!reply.text.contains(|character: char| character.is_control()), "{reply:?}");
        assert!(reply.text.len() < 2000, "replies are cut");
    }
}
