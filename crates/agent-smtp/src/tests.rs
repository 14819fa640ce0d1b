//! The agent against scripted servers.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::Instant;

use agent::Gate;
use bytes::Bytes;
use config::Span;
use job::deliver::{DeliverRecipient, DeliverRequest};
use mail::{Address, BodyType, Envelope, MessageId, Origin, Outcome, SuccessReport, Timestamp};
use queue::{Accept, Accepted, Body, Handle, ReadError, Stored};

use super::*;

mod connections;
mod hostile;
#[allow(dead_code)]
#[path = "../../dns/src/tests/server.rs"]
mod names;
mod server;
mod sink;

use server::{HELLO, ONE, Script, Server};

/// A store with one message, whatever the handle.
struct Shelf {
    body: Bytes,
    piece: usize,
    /// Called when the last piece was handed out.
    at_end: Rc<dyn Fn()>,
    /// The body cannot be read to its end.
    is_damaged: bool,
}

struct Pieces {
    rest: Bytes,
    size: u64,
    piece: usize,
    at_end: Rc<dyn Fn()>,
    is_damaged: bool,
}

impl Shelf {
    fn of(body: &'static str) -> Self {
        let body = Bytes::from_static(body.as_bytes());
        Self { body, piece: 64 << 10, at_end: Rc::new(|| ()), is_damaged: false }
    }
}

impl Reader for Shelf {
    fn open(&self, _: &Handle) -> Local<'_, Result<Stored, ReadError>> {
        let envelope = Envelope {
            sender: None,
            recipients: Vec::new(),
            body: BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
        };
        let accept = Accept {
            envelope,
            origin: Origin::default(),
            accepted_at: Timestamp::from_millis(1),
            edits: Vec::new(),
            hold: None,
            replaced_body: None,
        };
        let id = MessageId::new(Timestamp::from_millis(1), 1);
        let size = self.body.len() as u64;
        let body = Pieces {
            rest: self.body.clone(),
            size,
            piece: self.piece,
            at_end: Rc::clone(&self.at_end),
            is_damaged: self.is_damaged,
        };
        let stored = Stored { accepted: Accepted { id, size, accept }, body: Box::new(body) };
        Box::pin(async { Ok(stored) })
    }

    fn open_draft(&self, handle: &Handle) -> Local<'_, Result<Box<dyn Body>, ReadError>> {
        let error = ReadError::Foreign(handle.clone());
        Box::pin(async { Err(error) })
    }
}

impl Body for Pieces {
    fn size(&self) -> u64 {
        self.size
    }

    fn next(&mut self) -> Local<'_, Result<Option<Bytes>, ReadError>> {
        let piece = self.rest.split_to(self.piece.min(self.rest.len()));
        let damaged = self.is_damaged && self.rest.is_empty();
        if piece.is_empty() {
            (self.at_end)();
        }
        Box::pin(async move {
            match piece.is_empty() {
                true if damaged => {
                    Err(ReadError::Gone(Handle::parse("spool:x").unwrap(), "damaged".into()))
                }
                true => Ok(None),
                false => Ok(Some(piece)),
            }
        })
    }
}

/// An agent, the counts it made, and what it is to be asked.
struct Bench {
    smtp: Rc<Smtp>,
    counts: Rc<RefCell<HashMap<usize, u64>>>,
    gate: Gate,
}

impl Bench {
    fn new(shelf: Shelf, change: impl FnOnce(&mut Assignment)) -> Self {
        let mut assignment = Assignment {
            settings: Settings::default(),
            hostname: "mta.example.test".to_owned(),
            channel: "smtp".to_owned(),
            dns: dns::Settings::default(),
        };
        assignment.settings.reuse_idle = Span::seconds(60);
        change(&mut assignment);
        assert_eq!(assignment.settings.check("smtp"), Ok(()));
        let counts: Rc<RefCell<HashMap<usize, u64>>> = Rc::default();
        let counting = Rc::clone(&counts);
        let counters = Counters::for_test(move |counter, add| {
            *counting.borrow_mut().entry(counter).or_default() += add;
        });
        let smtp = Rc::new(Smtp::new(assignment, Rc::new(shelf), counters));
        Self { smtp, counts, gate: Gate::open_for_test() }
    }

    /// With every time limit short.
    fn hasty(shelf: Shelf) -> Self {
        Self::new(shelf, |assignment| {
            let span = Span::millis(200);
            assignment.settings.timeouts = Timeouts {
                connect: span,
                greeting: span,
                hello: span,
                reset: span,
                mail: span,
                rcpt: span,
                data: span,
                body: span,
                dot: span,
                quit: span,
            };
        })
    }

    async fn deliver(&self, host: &str, recipients: &[&str]) -> DeliverAnswer {
        self.ask(request(host, recipients)).await
    }

    async fn ask(&self, request: DeliverRequest) -> DeliverAnswer {
        Rc::clone(&self.smtp).deliver(Job { request, gate: self.gate.clone() }).await
    }

    fn count(&self, counter: usize) -> u64 {
        self.counts.borrow().get(&counter).copied().unwrap_or(0)
    }
}

fn request(host: &str, recipients: &[&str]) -> DeliverRequest {
    let recipient = |(index, address): (usize, &&str)| DeliverRecipient {
        index: index as u32 + 7,
        address: Address::parse(address).unwrap(),
        original: None,
        user: (*address).to_owned(),
        notify: None,
        orcpt: None,
        outcome: None,
    };
    DeliverRequest {
        handle: Handle::parse("spool:x").unwrap(),
        id: MessageId::new(Timestamp::from_millis(1), 1),
        sender: Some(Address::parse("s@example.org").unwrap()),
        size: 1,
        accepted_at: Timestamp::from_millis(1),
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        host: host.to_owned(),
        attempt: 1,
        routing: 1,
        settled: None,
        recipients: recipients.iter().enumerate().map(recipient).collect(),
        report: None,
    }
}

/// The outcomes by recipient in short, `?` where there is none; then `lane` and its status if the lane failed.
fn short(answer: &DeliverAnswer, recipients: usize) -> String {
    let of = |index: usize| {
        let found = answer.outcomes.iter().filter(|outcome| outcome.index as usize == index + 7);
        let found: Vec<String> = found
            .map(|outcome| match &outcome.outcome {
                Outcome::Delivered(delivered) => format!("+{}", delivered.reply.status),
                Outcome::Deferred(reply) => format!("~{}", reply.status),
                Outcome::Failed(reply) => format!("-{}", reply.status),
            })
            .collect();
        if found.is_empty() { "?".to_owned() } else { found.join("!") }
    };
    let mut words: Vec<String> = (0..recipients).map(of).collect();
    words.extend(answer.lane.as_ref().map(|reply| format!("lane {}", reply.status)));
    words.join(" ")
}

fn on_loop<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(30), work).await.expect("it ends in time")
    })
}

fn script(parts: &[Script]) -> Vec<&'static str> {
    parts.concat()
}

const TEXT: &str = "Subject: x\r\n\r\n.\r\nHello\r\n";

#[test]
fn a_connection_carries_one_message_after_the_other() {
    on_loop(async {
        let again: Script = &["> 250 2.6.0 queued"];
        let server = Server::start(vec![script(&[HELLO, ONE, again, ONE, again])]).await;
        let bench = Bench::new(Shelf::of(TEXT), |_| ());
        for _ in 0..2 {
            let answer = bench.deliver(&server.host(), &["r@example.test"]).await;
            assert_eq!(short(&answer, 1), "+2.6.0");
            let Outcome::Delivered(delivered) = &answer.outcomes[0].outcome else { panic!() };
            assert_eq!(delivered.report, SuccessReport::Relayed);
            assert_eq!(delivered.reply.text, "250 2.6.0 queued");
            let remote = format!("127.0.0.1[127.0.0.1]:{}", server.address.port());
            assert_eq!(delivered.reply.remote, Some(remote));
        }
        bench.smtp.pool.close(&Timeouts::default()).await;
        let transaction =
            ["MAIL FROM:<s@example.org>", "RCPT TO:<r@example.test>", "DATA", "message of 25"];
        let heard =
            [&["EHLO mta.example.test"][..], &transaction, &transaction, &["QUIT"]].concat();
        assert_eq!(server.heard(), [heard]);
        assert_eq!((bench.count(counter::CONNECTIONS), bench.count(counter::REUSED)), (1, 1));
        assert_eq!(bench.count(counter::OUTCOMES), 2);
    });
}

#[test]
fn recipients_are_spread_over_transactions() {
    on_loop(async {
        let first: Script = &[
            "< MAIL",
            "< RCPT TO:<a@",
            "< RCPT TO:<b@",
            "< RCPT TO:<c@",
            "< DATA",
            "> 250 ok",
            "> 250 ok",
            "> 452 too many",
            "> 550 5.1.1 no",
            "> 354 go",
            ".",
            "> 250 ok",
        ];
        // Those that one transaction does not take come in the next, behind the ones that wait anyway.
        let second: Script = &[
            "< MAIL",
            "< RCPT TO:<d@",
            "< RCPT TO:<b@",
            "< DATA",
            "> 250 ok",
            "> 450 4.2.0 later",
            "> 250 ok",
            "> 354 go",
            ".",
            "> 250 2.0.1 ok",
        ];
        let server = Server::start(vec![script(&[HELLO, first, second])]).await;
        let bench =
            Bench::new(Shelf::of(TEXT), |assignment| assignment.settings.recipients_max = 3);
        let recipients = ["a@example.test", "b@example.test", "c@example.test", "d@example.test"];
        let answer = bench.deliver(&server.host(), &recipients).await;
        assert_eq!(short(&answer, 4), "+2.0.0 +2.0.1 -5.1.1 ~4.2.0");
    });
}

fn large() -> Shelf {
    let line = "The quick brown fox jumps over the lazy dog, and nobody knows why.\r\n";
    let body = format!("Subject: x\r\n\r\n{}", line.repeat(60_000));
    Shelf { body: Bytes::from(body), piece: 10_007, ..Shelf::of("") }
}

#[test]
fn a_large_message_is_streamed() {
    on_loop(async {
        let server = Server::start(vec![script(&[HELLO, ONE, &["> 250 ok"]])]).await;
        let bench = Bench::new(large(), |_| ());
        let answer = bench.deliver(&server.host(), &["r@example.test"]).await;
        assert_eq!(short(&answer, 1), "+2.0.0");
        let said = format!("message of {}", large().body.len());
        assert!(server.heard()[0].contains(&said), "{:?}", server.heard());
        assert!(bench.count(counter::SENT_BYTES) > large().body.len() as u64);
    });
}

#[test]
fn lmtp_answers_for_each_recipient() {
    on_loop(async {
        let session: Script = &[
            "> 220 hi",
            "< LHLO mta.example.test",
            "> 250-hi",
            "> 250 PIPELINING",
            "< MAIL",
            "< RCPT",
            "< RCPT",
            "< RCPT",
            "< DATA",
            "> 250 ok",
            "> 250 ok",
            "> 550 5.1.1 no",
            "> 250 ok",
            "> 354 go",
            ".",
            "> 250 2.1.5 ok",
            "> 452 4.2.2 full",
        ];
        let dying: Script = &[
            "< MAIL",
            "< RCPT",
            "< RCPT",
            "< RCPT",
            "< DATA",
            "> 250 ok",
            "> 250 ok",
            "> 250 ok",
            "> 250 ok",
            "> 354 go",
            ".",
            "> 250 2.1.5 ok",
            "> 550 5.7.1 no",
            "reset",
        ];
        let server = Server::start(vec![script(&[session, dying])]).await;
        let bench = Bench::new(Shelf::of(TEXT), |assignment| {
            assignment.settings.protocol = Protocol::Lmtp;
        });
        let recipients = ["a@example.test", "b@example.test", "c@example.test"];
        let answer = bench.deliver(&server.host(), &recipients).await;
        assert_eq!(short(&answer, 3), "+2.1.5 -5.1.1 ~4.2.2");
        // Half accepted: what was said counts, the rest is tried again.
        let answer = bench.deliver(&server.host(), &recipients).await;
        assert_eq!(short(&answer, 3), "+2.1.5 -5.7.1 ~4.4.2");
    });
}

#[test]
fn what_a_next_hop_cannot_take_is_known_before_it_is_asked() {
    on_loop(async {
        let server = Server::start(vec![script(&[HELLO, ONE, &["> 250 ok"]])]).await;
        let bench = Bench::new(Shelf::of("Subject: Grüße\r\n\r\nx\r\n"), |_| ());
        let mut utf8 = request(&server.host(), &["r@example.test"]);
        utf8.smtputf8 = true;
        assert_eq!(short(&bench.ask(utf8).await, 1), "-5.6.7");
        // Without SMTPUTF8 it is an 8-bit message like any other, and the connection was kept.
        assert_eq!(short(&bench.deliver(&server.host(), &["r@example.test"]).await, 1), "+2.0.0");
    });
}

#[test]
fn a_message_that_may_hold_eight_bits_says_so() {
    let hello: Script = &["> 220 hi", "< EHLO", "> 250-hi", "> 250-8BITMIME", "> 250 PIPELINING"];
    let text = "Subject: x\r\n\r\nGrüße\r\n";
    for (shelf, expected) in [
        (Shelf::of(TEXT), ""),
        (Shelf::of(text), " BODY=8BITMIME"),
        // The first piece is ASCII, as that of a message is whose body a filter replaced.
        (Shelf { piece: 14, ..Shelf::of(text) }, " BODY=8BITMIME"),
    ] {
        on_loop(async {
            let server = Server::start(vec![script(&[hello, ONE, &["> 250 ok"]])]).await;
            let bench = Bench::new(shelf, |_| ());
            bench.deliver(&server.host(), &["r@example.test"]).await;
            let said = format!("MAIL FROM:<s@example.org>{expected}");
            assert_eq!(server.heard()[0][1], said);
        });
    }
}

#[test]
fn settings_are_checked_and_travel() {
    let change = |change: fn(&mut Settings)| {
        let mut settings = Settings::default();
        change(&mut settings);
        settings.check("smtp").map_err(|problem| problem.key)
    };
    assert_eq!(change(|_| ()), Ok(()));
    assert_eq!(change(|settings| settings.helo = Some("[192.0.2.1]".into())), Ok(()));
    assert_eq!(change(|settings| settings.port = Some(0)), Err("channel.smtp.port".into()));
    for helo in ["", "a b", "a\r\nQUIT", "ä.example"] {
        let settings = Settings { helo: Some(helo.into()), ..Settings::default() };
        assert_eq!(
            settings.check("x").map_err(|problem| problem.key),
            Err("channel.x.helo".into())
        );
    }
    assert_eq!(
        change(|settings| settings.recipients_max = 0),
        Err("channel.smtp.recipients_max".into())
    );
    assert_eq!(
        change(|settings| settings.reuse_deliveries_max = 0),
        Err("channel.smtp.reuse_deliveries_max".into())
    );
    assert_eq!(
        change(|settings| settings.timeouts.dot = Span::seconds(0)),
        Err("channel.smtp.timeouts.dot".into())
    );
    // The scheduler does not wait longer for the job.
    assert_eq!(change(|settings| settings.timeouts.dot = Span::seconds(600)), Ok(()));
    assert_eq!(
        change(|settings| settings.timeouts.dot = Span::seconds(601)),
        Err("channel.smtp.timeouts.dot".into())
    );
    assert_eq!(change(|settings| settings.workers.max = 0), Err("channel.smtp.workers.max".into()));
    let written = serde_json::to_string(&Settings::default()).unwrap();
    assert_eq!(serde_json::from_str::<Settings>(&written).unwrap(), Settings::default());
    let read: Settings = serde_json::from_str(
        r#"{"protocol":"lmtp","ip_version":"ipv6","timeouts":{"dot":"5m"},"bind_ipv4":"192.0.2.1"}"#,
    )
    .unwrap();
    assert_eq!(
        (read.port(), read.timeouts.dot, read.timeouts.mail),
        (24, Span::seconds(300), Span::seconds(300))
    );
    assert!(serde_json::from_str::<Settings>(r#"{"agent":"smtp"}"#).is_err());
}
