//! The message to the next hop as the client's machine sends it: a session for each, dots stuffed.

use std::hint::black_box;

use mail::{Address, Outcome};
use smtp::client::{Client, Message, Protocol, Recipient, Step, Verdict};

use crate::example::{RECIPIENT, SENDER, address, body};

/// How much of a body an agent hands over at once, in bytes.
const PIECE_BYTES: usize = 64 << 10;
/// What the next hop says to EHLO.
const OFFER: &[u8] =
    b"250-next.example\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n250 DSN\r\n";

pub(crate) fn run(count: u32) {
    let (sender, recipient, body) = (address(SENDER), address(RECIPIENT), body());
    for _ in 0..count {
        session(&sender, &recipient, black_box(&body));
    }
}

fn session(sender: &Address, recipient: &Address, body: &[u8]) {
    let mut client = Client::new(Protocol::Smtp, "mta.example", "next.example[192.0.2.2]");
    hear(&mut client, b"220 next.example ESMTP\r\n");
    hear(&mut client, OFFER);
    let message =
        Message { sender: Some(sender), size: Some(body.len() as u64), ..Message::default() };
    let recipients = [Recipient { address: recipient, original: None, notify: None, orcpt: None }];
    client.begin(&message, &recipients);
    write(&mut client);
    hear(&mut client, b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 Go on\r\n");
    assert_eq!(client.step(), Step::Body);
    for piece in body.chunks(PIECE_BYTES) {
        client.body(piece);
    }
    client.end_body();
    write(&mut client);
    hear(&mut client, b"250 2.0.0 Ok: queued as 4bXyZ1\r\n");
    let verdicts = client.take_verdicts();
    assert!(matches!(verdicts.as_slice(), [Verdict::Outcome(Outcome::Delivered(_))]));
    client.quit();
    write(&mut client);
    hear(&mut client, b"221 2.0.0 Bye\r\n");
    assert_eq!(client.step(), Step::Ended);
}

/// Takes what the server said, and writes what follows.
fn hear(client: &mut Client, said: &[u8]) {
    client.receive(black_box(said));
    write(client);
}

fn write(client: &mut Client) {
    black_box(client.output()).clear();
}
