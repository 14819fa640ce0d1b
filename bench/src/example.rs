//! The message that goes through each part, and what is said of it there.

use std::time::{Duration, Instant};

use job::deliver::{DeliverAnswer, DeliverRecipient, DeliverRequest, RecipientOutcome};
use job::enqueue::EnqueueRequest;
use job::route::{RouteFacts, RouteRequest};
use mail::{
    Address, BodyType, Delivered, Envelope, MessageId, Origin, Outcome, Recipient, Reply,
    StatusCode, SuccessReport, Timestamp,
};
use queue::{Accept, Handle, RoutedRecipient, State};

/// Bytes of the body.
pub(crate) const BODY_BYTES: usize = 4096;
/// Who sends it.
pub(crate) const SENDER: &str = "sender@client.example";
/// Who gets it.
pub(crate) const RECIPIENT: &str = "recipient@destination.example";
/// The next hop.
pub(crate) const HOST: &str = "destination.example";
/// The channel that takes it there.
pub(crate) const CHANNEL: &str = "smtp";
/// When everything begins.
const BEGIN_MS: u64 = 1_700_000_000_000;
/// Text characters of a line of the body.
const LINE_BYTES: usize = 70;
/// One line of so many begins with a dot.
const DOT_EVERY: usize = 10;

/// The body as it is stored: a header section, lines of text, a dot before some.
pub(crate) fn body() -> Vec<u8> {
    let header = format!(
        "From: <{SENDER}>\r\nTo: <{RECIPIENT}>\r\nSubject: a message of 4 KiB\r\n\
         Date: Tue, 14 Nov 2023 22:13:20 +0000\r\nMessage-ID: <1@client.example>\r\n\r\n"
    );
    let mut body = header.into_bytes();
    let mut line = 0;
    while body.len() < BODY_BYTES - 2 {
        let most = BODY_BYTES - 2 - body.len();
        let text = (b'a'..=b'z').cycle().skip(line).take(LINE_BYTES.min(most));
        let start = body.len();
        body.extend(text);
        if let Some(first) = body.get_mut(start).filter(|_| line.is_multiple_of(DOT_EVERY)) {
            *first = b'.';
        }
        body.extend_from_slice(b"\r\n");
        line += 1;
    }
    body.truncate(BODY_BYTES - 2);
    body.extend_from_slice(b"\r\n");
    body
}

/// The body as it goes over the wire: dots stuffed, and the final dot.
pub(crate) fn body_on_the_wire() -> Vec<u8> {
    let mut wire = Vec::new();
    let mut stuffing = smtp::client::Stuffing::default();
    stuffing.piece(&body(), &mut wire);
    stuffing.end(&mut wire);
    wire
}

pub(crate) fn address(text: &str) -> Address {
    text.parse().expect("the example's addresses are well-formed")
}

/// The id of a message, by its number.
pub(crate) fn id(number: u32) -> MessageId {
    // Spread as chance would have it, and the same in each run.
    MessageId::new(
        Timestamp::from_millis(BEGIN_MS),
        u64::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
    )
}

pub(crate) fn envelope() -> Envelope {
    Envelope {
        sender: Some(address(SENDER)),
        recipients: vec![Recipient::from(address(RECIPIENT))],
        body: BodyType::default(),
        smtputf8: false,
        ret: None,
        envid: None,
    }
}

pub(crate) fn accept() -> Accept {
    Accept {
        envelope: envelope(),
        origin: Origin {
            service: "mx".into(),
            client: Some([192, 0, 2, 1].into()),
            helo: Some("client.example".into()),
            protocol: Some("ESMTP".into()),
            ..Origin::default()
        },
        accepted_at: Timestamp::from_millis(BEGIN_MS),
        edits: Vec::new(),
        hold: None,
        replaced_body: None,
    }
}

pub(crate) fn route(handle: Handle, id: MessageId) -> RouteRequest {
    let facts = RouteFacts {
        envelope: envelope(),
        size: BODY_BYTES as u64,
        accepted_at: Timestamp::from_millis(BEGIN_MS),
        hold: None,
    };
    RouteRequest { handle, id, routing: 1, facts: Some(facts) }
}

pub(crate) fn enqueue(handle: Handle, id: MessageId) -> EnqueueRequest {
    EnqueueRequest {
        handle,
        id,
        routing: 1,
        part: 0,
        more: false,
        sender: Some(address(SENDER)),
        size: BODY_BYTES as u64,
        accepted_at: Timestamp::from_millis(BEGIN_MS),
        body: BodyType::default(),
        smtputf8: false,
        ret: None,
        envid: None,
        hold: None,
        recipients: vec![RoutedRecipient {
            index: 0,
            address: address(RECIPIENT),
            original: None,
            orcpt: None,
            notify: None,
            channel: CHANNEL.into(),
            host: HOST.into(),
            user: RECIPIENT.into(),
            state: State::default(),
        }],
    }
}

pub(crate) fn deliver(handle: Handle, id: MessageId) -> DeliverRequest {
    DeliverRequest {
        handle,
        id,
        sender: Some(address(SENDER)),
        size: BODY_BYTES as u64,
        accepted_at: Timestamp::from_millis(BEGIN_MS),
        body: BodyType::default(),
        smtputf8: false,
        ret: None,
        envid: None,
        host: HOST.into(),
        attempt: 1,
        routing: 1,
        settled: None,
        recipients: vec![DeliverRecipient {
            index: 0,
            address: address(RECIPIENT),
            original: None,
            user: RECIPIENT.into(),
            notify: None,
            orcpt: None,
            outcome: None,
        }],
        report: None,
    }
}

/// What the agent answers: delivered.
pub(crate) fn delivered() -> DeliverAnswer {
    let outcome = Outcome::Delivered(Delivered {
        reply: Reply::ours(StatusCode::new(2, 0, 0), "250 2.0.0 Ok: queued as 4bXyZ1"),
        report: SuccessReport::PassedOn,
    });
    let outcomes = vec![RecipientOutcome { index: 0, outcome }];
    DeliverAnswer { outcomes, ..DeliverAnswer::default() }
}

/// Time that passes only when told to.
#[derive(Clone)]
pub(crate) struct Clock {
    base: Instant,
    passed_ms: u64,
}

impl Clock {
    #[allow(clippy::disallowed_methods, reason = "any moment will do, and no other is looked at")]
    pub(crate) fn new() -> Self {
        Self { base: Instant::now(), passed_ms: 0 }
    }

    pub(crate) fn pass(&mut self, span: Duration) {
        self.passed_ms += span.as_millis() as u64;
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_millis(BEGIN_MS + self.passed_ms)
    }

    /// As the scheduler takes it.
    pub(crate) fn of_scheduler(&self) -> scheduler::machine::Now {
        scheduler::machine::Now { wall: self.wall(), mono: self.passed_ms }
    }

    /// As the spool takes it.
    pub(crate) fn of_spool(&self) -> queue_spool::Now {
        let at = self.base + Duration::from_millis(self.passed_ms);
        queue_spool::Now { at, wall: self.wall() }
    }
}
