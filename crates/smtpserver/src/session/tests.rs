//! Sessions over real loopback connections, with a queue and neighbours that the test holds in its hand.

mod fakes;
mod filters;

use std::time::Duration;

use config::{ByteSize, Span};
use job::inspect::{Refusal, Verdict};
use mail::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::OnFilterCrash;
use crate::settings::{Mixed, Settings};
use fakes::{Failure, Farm};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);
const HELLO: &str = "EHLO client.example.org\r\n";
const ENVELOPE: &str = "MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n";

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") });
}

/// A client that waits for replies.
struct Caller(TcpStream, Vec<u8>);

impl Caller {
    async fn new(farm: &Farm) -> Self {
        let mut caller = Self(farm.connect().await, Vec::new());
        assert_eq!(caller.codes(1).await, [220]);
        caller
    }

    async fn greeted(farm: &Farm) -> Self {
        let mut caller = Self::new(farm).await;
        caller.say(HELLO).await;
        assert_eq!(caller.codes(1).await, [250]);
        caller
    }

    async fn say(&mut self, text: impl AsRef<[u8]>) {
        self.0.write_all(text.as_ref()).await.expect("the session takes it");
    }

    /// The next reply, all its lines.
    async fn reply(&mut self) -> String {
        loop {
            let text = String::from_utf8(self.1.clone()).expect("replies are ASCII");
            let mut length = 0;
            for line in text.split_inclusive("\r\n") {
                length += line.len();
                if line.ends_with("\r\n") && line.as_bytes()[3] == b' ' {
                    self.1.drain(..length);
                    return text[..length].to_owned();
                }
            }
            let count = self.0.read_buf(&mut self.1).await.expect("replies come");
            assert!(count > 0, "the connection ended after {text:?}");
        }
    }

    async fn codes(&mut self, count: usize) -> Vec<u16> {
        let mut codes = Vec::new();
        for _ in 0..count {
            codes.push(self.reply().await[..3].parse().expect("a code"));
        }
        codes
    }

    /// Whether nothing more comes.
    async fn is_over(&mut self) -> bool {
        let mut rest = std::mem::take(&mut self.1);
        self.0.read_to_end(&mut rest).await.is_ok() && rest.is_empty()
    }
}

#[test]
fn a_message_is_stored_answered_and_hinted() {
    run(async {
        let farm = Farm::new(|_| {}).await;
        let mut caller = Caller::greeted(&farm).await;
        caller.say(ENVELOPE).await;
        assert_eq!(caller.codes(3).await, [250, 250, 354]);
        caller.say("Subject: one\r\n\r\n..dot\r\n.\r\n").await;
        let reply = caller.reply().await;
        let stored = farm.stored();
        let [message] = &stored[..] else { panic!("{stored:?}") };
        assert_eq!(reply, format!("250 2.0.0 Ok: queued as {}\r\n", message.id));
        let body = String::from_utf8(message.body.clone()).expect("text");
        let (received, rest) = body.split_once("+0000\r\n").expect("a Received field");
        assert_eq!(rest, "Subject: one\r\n\r\n.dot\r\n");
        assert!(received.starts_with("Received: from client.example.org ([127.0.0.1])\r\n\tby mx.example.test (Grange) with ESMTP id "));
        assert!(received.contains(&format!("id {}\r\n\tfor <b@example.test>;\r\n", message.id)));
        let origin = &message.accept.origin;
        assert_eq!(origin.helo.as_deref(), Some("client.example.org"));
        assert_eq!((origin.service.as_str(), origin.protocol.as_deref()), ("mx", Some("ESMTP")));
        let hints = farm.hints();
        let facts = hints[0].facts.as_ref().expect("the envelope travels along");
        assert_eq!((hints.len(), &hints[0].id, facts.size), (1, &message.id, body.len() as u64));
        assert_eq!(facts.envelope, message.accept.envelope);
        assert_eq!(farm.counted(Counter::Accepted), 1);
        caller.say("QUIT\r\n").await;
        assert_eq!(caller.codes(1).await, [221]);
        assert!(caller.is_over().await);
    });
}

#[test]
fn a18_nothing_a_client_sends_continues_our_own_field() {
    for (sent, kept) in [
        (
            "\tby evil.example; 1 Jan 2001\r\nSubject: x\r\n\r\n",
            "\r\n\tby evil.example; 1 Jan 2001\r\nSubject: x\r\n\r\n",
        ),
        ("first line of text\r\nX: y\r\n", "\r\nfirst line of text\r\nX: y\r\n"),
        ("\r\ntext\r\n", "\r\ntext\r\n"),
        ("Subject : x\r\n\r\n", "Subject : x\r\n\r\n"),
        ("", ""),
    ] {
        run(async {
            let farm = Farm::new(|_| {}).await;
            let mut caller = Caller::greeted(&farm).await;
            caller.say(ENVELOPE).await;
            assert_eq!(caller.codes(3).await, [250, 250, 354]);
            // A byte at a time, as it shows only late what it is.
            for byte in sent.as_bytes() {
                caller.say([*byte]).await;
                tokio::task::yield_now().await;
            }
            caller.say(".\r\n").await;
            assert_eq!(caller.codes(1).await, [250]);
            let stored = farm.stored();
            let body = String::from_utf8(stored[0].body.clone()).expect("text");
            let (_, rest) = body.split_once("+0000\r\n").expect("a Received field");
            assert_eq!(rest, kept);
        });
    }
}

#[test]
fn what_is_answered_can_be_read_back() {
    for inspect in [false, true] {
        run(async move {
            let memory = queue_memory::Memory::new();
            let farm = Farm::writing_to(memory.intake(), inspect).await;
            farm.judge(Some(Verdict::Accept));
            let mut caller = Caller::greeted(&farm).await;
            for number in 0..10 {
                caller.say(ENVELOPE).await;
                assert_eq!(caller.codes(3).await, [250, 250, 354]);
                caller.say(format!("Subject: {number}\r\n\r\n.\r\n")).await;
                let reply = caller.reply().await;
                let hint = farm.hints().pop().expect("a hint");
                assert_eq!(reply, format!("250 2.0.0 Ok: queued as {}\r\n", hint.id));
                let mut stored = memory.reader().open(&hint.handle).await.expect("it is there");
                assert_eq!(stored.accepted.id, hint.id);
                let facts = hint.facts.expect("the envelope travels along");
                assert_eq!(stored.accepted.accept.envelope, facts.envelope);
                assert_eq!(stored.accepted.size, facts.size);
                let mut body = Vec::new();
                while let Some(piece) = stored.body.next().await.expect("it can be read") {
                    body.extend_from_slice(&piece);
                }
                let end = format!("+0000\r\nSubject: {number}\r\n\r\n");
                assert!(body.starts_with(b"Received: ") && body.ends_with(end.as_bytes()));
                assert_eq!(body.len() as u64, facts.size);
            }
            assert_eq!(memory.messages(), 10);
        });
    }
}

#[test]
fn pipelined_recipients_are_asked_about_together() {
    run(async {
        let farm = Farm::new(|_| {}).await;
        let mut caller = Caller::greeted(&farm).await;
        let recipients = "RCPT TO:<b@example.test>\r\nRCPT TO:<c@unknown.test>\r\nRCPT TO:<d@denied.test>\r\nRCPT TO:<e@later.test>\r\n";
        caller.say(format!("MAIL FROM:<>\r\n{recipients}DATA\r\n")).await;
        assert_eq!(caller.codes(6).await, [250, 250, 550, 554, 451, 354]);
        caller
            .say("text\r\n.\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<c@unknown.test>\r\nDATA\r\n")
            .await;
        assert_eq!(caller.codes(4).await, [250, 250, 550, 554]);
        let asked: Vec<usize> =
            farm.verified().iter().map(|asked| asked.recipients.len()).collect();
        assert_eq!(asked, [4, 1]);
        assert!(farm.verified()[0].client.may_relay);
        assert_eq!(farm.stored()[0].accept.envelope.recipients.len(), 1);
        assert_eq!(farm.counted(Counter::RecipientsRefused), 4);
    });
}

#[test]
fn many_recipients_travel_by_handle() {
    run(async {
        let farm = Farm::new(|_| {}).await;
        let mut caller = Caller::greeted(&farm).await;
        caller
            .say(format!("MAIL FROM:<>\r\n{}DATA\r\n", "RCPT TO:<b@example.test>\r\n".repeat(101)))
            .await;
        assert_eq!(caller.codes(103).await[102], 354);
        caller.say("text\r\n.\r\n").await;
        assert_eq!(caller.codes(1).await, [250]);
        assert_eq!(farm.hints()[0].facts, None);
        assert!(!String::from_utf8_lossy(&farm.stored()[0].body).contains("for <"));
    });
}

#[test]
fn a1_nothing_is_stored_after_a_bare_line_end() {
    run(async {
        let farm = Farm::new(|settings| settings.relay_from.clear()).await;
        let mut caller = Caller::greeted(&farm).await;
        caller.say(ENVELOPE).await;
        assert_eq!(caller.codes(3).await, [250, 250, 354]);
        caller.say("one\n.\r\nMAIL FROM:<x@example.org>\r\n.\r\nQUIT\r\n").await;
        assert_eq!(caller.codes(1).await, [521]);
        assert!(caller.is_over().await && farm.stored().is_empty());
        assert!(!farm.verified()[0].client.may_relay);
        assert_eq!(farm.counted(Counter::SessionsRefused), 1);
    });
}

#[test]
fn a1_our_own_clients_line_ends_are_mended() {
    run(async {
        let farm = Farm::new(|_| {}).await;
        let mut caller = Caller::greeted(&farm).await;
        caller.say(ENVELOPE.replace('\r', "")).await;
        assert_eq!(caller.codes(3).await, [250, 250, 354]);
        caller.say("one\n.\ntwo\n\r\n.\r\n").await;
        assert_eq!(caller.codes(1).await, [250]);
        assert!(farm.stored()[0].body.ends_with(b"one\r\n.\r\ntwo\r\n\r\n"));
    });
}

#[test]
fn a3_who_talks_first_is_sent_away() {
    run(async {
        let farm = Farm::new(|_| {}).await;
        let mut caller = Caller(farm.connect_and_say(HELLO).await, Vec::new());
        assert_eq!(caller.codes(1).await, [554]);
        assert!(caller.is_over().await);
        assert_eq!(farm.counted(Counter::SessionsRefused), 1);
    });
}

#[test]
fn a8_time_has_an_end() {
    run(async {
        let farm = Farm::new(|settings| {
            settings.command_timeout = Span::millis(1500);
            settings.data_timeout = Span::millis(300);
            settings.message_timeout = Span::millis(1200);
        })
        .await;
        // A command that comes byte by byte.
        let mut caller = Caller::greeted(&farm).await;
        for byte in [b"N", b"O", b"O", b"P"] {
            caller.say(byte).await;
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        assert!(caller.reply().await.starts_with("421 4.4.2 "));
        assert!(caller.is_over().await);
        // A message that pauses.
        let mut caller = Caller::greeted(&farm).await;
        caller.say(ENVELOPE).await;
        assert_eq!(caller.codes(3).await, [250, 250, 354]);
        caller.say("text\r\n").await;
        assert_eq!(caller.codes(1).await, [421]);
        // A message that drips.
        let mut caller = Caller::greeted(&farm).await;
        caller.say(ENVELOPE).await;
        assert_eq!(caller.codes(3).await, [250, 250, 354]);
        for _ in 0..12 {
            if caller.0.write_all(b"x").await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        assert_eq!(caller.codes(1).await, [421]);
        assert!(farm.stored().is_empty());
        assert_eq!(farm.counted(Counter::SessionsTimedOut), 3);
    });
}

#[test]
fn a9_a_store_that_cannot_take_it_is_no_loss() {
    for (failure, expect, codes) in [
        (Failure::Begin, vec![250, 250, 452], "452 4.3.1 "),
        (Failure::Write, vec![250, 250, 354, 451], "451 4.3.0 "),
        (Failure::Room, vec![250, 250, 354, 451], "451 4.3.2 "),
        (Failure::Commit, vec![250, 250, 354, 451], "451 4.3.0 "),
    ] {
        run(async {
            let farm = Farm::new(|_| {}).await;
            farm.fail(failure);
            let mut caller = Caller::greeted(&farm).await;
            caller.say(ENVELOPE).await;
            let mut found = Vec::new();
            for code in &expect {
                if found.last() == Some(&354) {
                    caller.say("text\r\n".repeat(20_000)).await;
                    caller.say(".\r\n").await;
                }
                let reply = caller.reply().await;
                found.push(reply[..3].parse().expect("a code"));
                if *code >= 400 {
                    assert!(reply.starts_with(codes), "{failure:?}: {reply}");
                }
            }
            assert_eq!(found, expect, "{failure:?}");
            assert!(farm.stored().is_empty() && farm.hints().is_empty());
            farm.fail(Failure::Never);
            caller.say(ENVELOPE).await;
            assert_eq!(caller.codes(3).await, [250, 250, 354]);
            caller.say(".\r\n").await;
            assert_eq!(caller.codes(1).await, [250]);
        });
    }
}

#[test]
fn a9_a_large_message_waits_for_the_store() {
    run(async {
        let farm = Farm::new(|settings| settings.message_bytes_max = ByteSize(4 << 20)).await;
        let mut caller = Caller::greeted(&farm).await;
        caller.say(ENVELOPE).await;
        assert_eq!(caller.codes(3).await, [250, 250, 354]);
        let line = format!(".{}\r\n", "x".repeat(76));
        let body = line.repeat((4 << 20) / line.len() - 10);
        caller
            .say(format!("{}.\r\n", body.replace("\r\n.", "\r\n..").replacen('.', "..", 1)))
            .await;
        assert_eq!(caller.codes(1).await, [250]);
        assert!(farm.stored()[0].body.ends_with(body.as_bytes()));
        assert!(farm.rooms() > 50, "the store was asked {} times", farm.rooms());
        caller.say(ENVELOPE).await;
        assert_eq!(caller.codes(3).await, [250, 250, 354]);
        caller.say(line.repeat(60_000)).await;
        caller.say(".\r\n").await;
        assert!(caller.reply().await.starts_with("552 5.3.4 "));
        assert_eq!((farm.stored().len(), farm.drafts()), (1, 0));
    });
}

#[test]
fn a10_ten_thousand_recipients_end_the_session() {
    run(async {
        let farm = Farm::new(|_| {}).await;
        let mut caller = Caller::greeted(&farm).await;
        caller.say("MAIL FROM:<a@example.org>\r\n").await;
        let (mut reader, mut writer) = caller.0.into_split();
        let writing = tokio::task::spawn_local(async move {
            let _ =
                writer.write_all("RCPT TO:<b@example.test>\r\n".repeat(10_000).as_bytes()).await;
            writer
        });
        let mut replies = Vec::new();
        reader.read_to_end(&mut replies).await.expect("the session closes in order");
        let replies = String::from_utf8(replies).expect("text");
        assert_eq!(replies.matches("250 2.1.5").count(), 1000);
        assert!(replies.contains("452 4.5.3"));
        assert!(replies.ends_with("421 4.7.0 Too many errors, closing\r\n"));
        drop(writing);
    });
}

#[test]
fn a21_a_message_in_a_loop_is_refused() {
    run(async {
        let farm = Farm::new(|settings| settings.hops_max = 3).await;
        for (hops, code) in [(3, 250), (4, 554)] {
            let mut caller = Caller::greeted(&farm).await;
            caller.say(ENVELOPE).await;
            assert_eq!(caller.codes(3).await, [250, 250, 354]);
            caller.say(format!("{}\r\ntext\r\n.\r\n", "Received: x\r\n".repeat(hops))).await;
            assert_eq!(caller.codes(1).await, [code]);
        }
        assert_eq!((farm.stored().len(), farm.drafts()), (1, 0));
    });
}

#[test]
fn a28_without_an_answer_recipients_are_put_off() {
    run(async {
        let farm = Farm::new(|_| {}).await;
        for (unavailable, expect) in [(true, "451 4.4.3 "), (false, "451 4.3.0 ")] {
            farm.silence_router(if unavailable {
                Unavailable::Deadline
            } else {
                Unavailable::Failed("no".to_owned())
            });
            let mut caller = Caller::greeted(&farm).await;
            caller.say("MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.test>\r\nRCPT TO:<c@example.test>\r\n").await;
            assert_eq!(caller.codes(1).await, [250]);
            assert!(caller.reply().await.starts_with(expect));
            assert!(caller.reply().await.starts_with(expect));
        }
    });
}

#[test]
fn a29_verdicts_are_kept_and_silence_lets_nothing_through() {
    let refusal =
        |code| Refusal { code, status: StatusCode::new(5, 7, 1), text: "Spam".to_owned() };
    let cases = [
        (Some(Verdict::Accept), "250 2.0.0 ", 1, None),
        (Some(Verdict::Reject(refusal(550))), "550 5.7.1 Spam", 0, None),
        (Some(Verdict::Tempfail(refusal(450))), "450 4.7.1 Spam", 0, None),
        (Some(Verdict::Discard), "250 2.0.0 ", 0, None),
        (Some(Verdict::Quarantine { reason: "odd".to_owned() }), "250 2.0.0 ", 1, Some("odd")),
        (None, "451 4.3.0 ", 0, None),
    ];
    for (verdict, expect, stored, hold) in cases {
        run(async {
            let farm = Farm::filtered(|settings| settings.mixed = Mixed::Quarantine).await;
            farm.judge(verdict.clone());
            let mut caller = Caller::greeted(&farm).await;
            caller.say(ENVELOPE).await;
            assert_eq!(caller.codes(3).await, [250, 250, 354]);
            caller.say("text\r\n.\r\n").await;
            let reply = caller.reply().await;
            assert!(reply.starts_with(expect), "{verdict:?}: {reply}");
            let messages = farm.stored();
            assert_eq!((messages.len(), farm.hints().len(), farm.drafts()), (stored, stored, 0));
            assert_eq!(messages.first().and_then(|first| first.accept.hold.as_deref()), hold);
            let inspected = farm.inspected();
            assert_eq!(inspected.len(), 1);
            let draft = inspected[0].draft.as_ref().expect("the draft is named");
            assert!(draft.size > 6 && inspected[0].envelope.is_some());
        });
    }
}

#[test]
fn a36_a_message_that_filters_crash_at_follows_their_rule() {
    let reason = "contentfilter crashed at the message";
    for (rule, expect, stored, hold) in [
        (OnFilterCrash::Tempfail, "451 4.3.0 ", 0, None),
        (OnFilterCrash::Accept, "250 2.0.0 ", 1, None),
        (OnFilterCrash::Quarantine, "250 2.0.0 ", 1, Some(reason)),
    ] {
        run(async {
            let farm = Farm::crashing(rule).await;
            let mut caller = Caller::greeted(&farm).await;
            caller.say(ENVELOPE).await;
            assert_eq!(caller.codes(3).await, [250, 250, 354]);
            caller.say("text\r\n.\r\n").await;
            let reply = caller.reply().await;
            assert!(reply.starts_with(expect), "{rule:?}: {reply}");
            let messages = farm.stored();
            assert_eq!((messages.len(), farm.hints().len(), farm.drafts()), (stored, stored, 0));
            assert_eq!(messages.first().and_then(|first| first.accept.hold.as_deref()), hold);
            assert_eq!(farm.counted(Counter::InspectFailures), 1);
        });
    }
}

#[test]
fn filters_are_told_all_recipients_within_what_a_frame_holds() {
    run(async {
        let farm = Farm::filtered(|settings| settings.recipients_max = 10_000).await;
        farm.judge(Some(Verdict::Accept));
        let mut caller = Caller::greeted(&farm).await;
        let orcpt = "x".repeat(400);
        let recipient = format!("RCPT TO:<b@example.test> ORCPT=rfc822;{orcpt}\r\n");
        caller.say("MAIL FROM:<>\r\n").await;
        assert_eq!(caller.codes(1).await, [250]);
        let mut codes = Vec::new();
        for _ in 0..20 {
            caller.say(recipient.repeat(50)).await;
            codes.extend(caller.codes(50).await);
        }
        let taken = codes.iter().filter(|code| **code == 250).count();
        assert!((500..1000).contains(&taken), "{taken}");
        assert!(codes[taken..].iter().all(|code| *code == 452));
        caller.say("DATA\r\n").await;
        assert_eq!(caller.codes(1).await, [354]);
        caller.say("text\r\n.\r\n").await;
        assert_eq!(caller.codes(1).await, [250]);
        let inspected = farm.inspected().pop().expect("a question");
        let told = inspected.envelope.as_ref().map(|envelope| envelope.recipients.len());
        assert_eq!(told, Some(taken));
        let json = serde_json::to_string(&inspected).expect("JSON");
        assert!(json.len() < socket::LINE_BYTES_MAX, "{}", json.len());
    });
}

#[test]
fn draining_ends_idle_sessions_at_once_and_others_after_their_message() {
    run(async {
        let farm = Farm::new(|_| {}).await;
        let mut idle = Caller::greeted(&farm).await;
        let mut busy = Caller::greeted(&farm).await;
        busy.say(ENVELOPE).await;
        assert_eq!(busy.codes(3).await, [250, 250, 354]);
        farm.drain();
        assert!(idle.reply().await.starts_with("421 4.3.2 "));
        assert!(idle.is_over().await);
        busy.say("text\r\n.\r\n").await;
        assert_eq!(busy.codes(2).await, [250, 421]);
        assert!(busy.is_over().await);
        assert_eq!(farm.stored().len(), 1);
    });
}

#[test]
fn draining_ends_a_session_that_never_waits() {
    run(async {
        let farm = Farm::new(|_| {}).await;
        let mut caller = Caller::greeted(&farm).await;
        caller.say(ENVELOPE).await;
        assert_eq!(caller.codes(3).await, [250, 250, 354]);
        farm.drain();
        caller.say(format!("text\r\n.\r\n{ENVELOPE}")).await;
        assert_eq!(caller.codes(2).await, [250, 421]);
        assert!(caller.is_over().await);
        assert_eq!(farm.stored().len(), 1);
    });
}

#[test]
fn a_session_that_is_too_old_begins_no_message() {
    run(async {
        let farm = Farm::new(|settings| {
            settings.pipelining = crate::Pipelining::Lenient;
            settings.session_timeout = Span::seconds(1);
        })
        .await;
        let (stream, client) = farm.pair().await;
        let mut caller = Caller(client, Vec::new());
        // All of it is there before the session begins, which therefore never waits.
        caller.say(format!("{HELLO}{ENVELOPE}")).await;
        let who = farm.stage.client(([127, 0, 0, 1], 40_000).into(), crate::Service::Mx);
        let mut session = Session::new(Rc::clone(&farm.stage), stream, who);
        let age = Duration::from_secs(2);
        session.began = session.began.checked_sub(age).expect("a clock that has run so long");
        tokio::task::spawn_local(session.run());
        assert_eq!(caller.codes(3).await, [220, 250, 421]);
        assert!(caller.is_over().await);
    });
}

#[test]
fn a_client_may_go_at_every_byte() {
    let script = format!("{HELLO}{ENVELOPE}Subject: one\r\n\r\ntext\r\n.\r\n");
    run(async {
        let farm = Farm::new(|settings| settings.pipelining = crate::Pipelining::Lenient).await;
        for cut in 0..=script.len() {
            let before = farm.stored().len();
            let mut stream = farm.connect().await;
            stream.write_all(&script.as_bytes()[..cut]).await.expect("bytes are taken");
            stream.shutdown().await.expect("the connection closes");
            let mut replies = Vec::new();
            stream.read_to_end(&mut replies).await.expect("the session closes");
            let stored = farm.stored().len() - before;
            let is_whole = cut == script.len();
            assert_eq!(stored, usize::from(is_whole), "cut at {cut}");
            assert_eq!(farm.drafts(), 0, "cut at {cut}");
        }
    });
}

#[test]
fn a_refused_session_hears_why() {
    run(async {
        let farm = Farm::new(|_| {}).await;
        farm.refuse_next();
        let mut caller = Caller(farm.connect().await, Vec::new());
        assert_eq!(caller.codes(1).await, [421]);
        assert!(caller.is_over().await);
        assert_eq!(farm.counted(Counter::SessionsRefused), 1);
    });
}

#[test]
fn an_idle_session_is_small() {
    run(async {
        let farm = Farm::new(|_| {}).await;
        let (stream, _client) = farm.pair().await;
        let client = farm.stage.client(([127, 0, 0, 1], 40_000).into(), crate::Service::Mx);
        let session = Session::new(Rc::clone(&farm.stage), stream, client);
        let bytes = std::mem::size_of_val(&session.run());
        assert!(bytes <= 3072, "the task of a session holds {bytes} bytes");
    });
}
