//! Golden reports, and hostile input that must not break their structure.

use mail_parser::{MessageParser, MimeHeaders, PartType};
use proptest::prelude::*;

use super::*;
use crate::Delivered;

const MESSAGE: &[u8] = b"Received: from client.example.test by mta.example.test;\r\n\tMon, 23 Nov 2026 17:00:00 +0000\r\nFrom: Ada <ada@example.test>\r\nTo: brian@example.org\r\nSubject: Lunch\r\nMessage-ID: <1@example.test>\r\n\r\nAt noon?\r\n";

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn remote(status: StatusCode, text: &str) -> Reply {
    Reply { status, text: text.into(), remote: Some("mx.example.org".into()) }
}

fn about<'a>(address: &'a Address, outcome: &'a Outcome) -> Recipient<'a> {
    Recipient {
        address,
        original: None,
        orcpt: None,
        outcome: Some(outcome),
        last_attempt_at: None,
    }
}

fn report<'a>(kind: Kind, sender: &'a Address, recipients: Vec<Recipient<'a>>) -> Report<'a> {
    Report {
        kind,
        id: MessageId::new(Timestamp::from_millis(1_795_455_753_120), 7),
        hostname: "mta.example.test",
        written_at: Timestamp::from_millis(1_795_455_753_120),
        sender,
        original: Original {
            id: MessageId::new(Timestamp::from_millis(1_795_452_000_000), 5),
            accepted_at: Timestamp::from_millis(1_795_452_000_000),
            envid: None,
            smtputf8: false,
        },
        recipients,
        will_retry_until: None,
        returned: Returned::Headers(MESSAGE),
    }
}

fn text(written: &Written) -> String {
    String::from_utf8(written.message.clone()).unwrap().replace("\r\n", "\n")
}

#[test]
fn a_failure() {
    let sender = address("ada@example.test");
    let (brian, carol) = (address("brian@example.org"), address("carol@mail.example.org"));
    let alias = address("carol@example.test");
    let unknown = Outcome::Failed(remote(
        StatusCode::new(5, 1, 1),
        "550 5.1.1 <brian@example.org>: no such user here",
    ));
    let expired = Outcome::Failed(Reply::ours(StatusCode::new(4, 4, 7), "connection timed out"));
    let mut recipients = vec![about(&brian, &unknown), about(&carol, &expired)];
    recipients[0].orcpt = Some("rfc822;Brian+2BLunch@example.org");
    recipients[1].original = Some(&alias);
    recipients[1].last_attempt_at = Some(Timestamp::from_millis(1_795_455_700_000));
    let mut report = report(Kind::Failure, &sender, recipients);
    report.original.envid = Some("QQ+2D314159");
    report.returned = Returned::Message(MESSAGE);
    let written = write(&report);
    assert_eq!((written.body, written.smtputf8), (BodyType::SevenBit, false));
    insta::assert_snapshot!(text(&written));
}

#[test]
fn a_delay() {
    let sender = address("ada@example.test");
    let brian = address("brian@example.org");
    let busy = Outcome::Deferred(remote(StatusCode::new(4, 2, 2), "452 4.2.2 mailbox full"));
    let mut report = report(Kind::Delay, &sender, vec![about(&brian, &busy)]);
    report.will_retry_until = Some(Timestamp::from_millis(1_795_884_000_000));
    insta::assert_snapshot!(text(&write(&report)));
}

#[test]
fn a_success_in_utf8() {
    let sender = address("ada@bücher.example");
    let (green, far) = (address("grün@example.test"), address("brian@example.org"));
    let done = |status, report| Outcome::Delivered(Delivered { reply: status, report });
    let here =
        done(Reply::ours(StatusCode::new(2, 0, 0), "delivered to mailbox"), SuccessReport::Final);
    let relayed = done(
        remote(StatusCode::new(2, 0, 0), "250 2.0.0 gut gemacht, schön"),
        SuccessReport::Relayed,
    );
    let mut recipients = vec![about(&green, &here), about(&far, &relayed)];
    recipients[0].orcpt = Some("utf-8;grün@example.test");
    let mut report = report(Kind::Success, &sender, recipients);
    report.original.smtputf8 = true;
    report.returned = Returned::Headers("Subject: schön\r\n\r\n".as_bytes());
    let written = write(&report);
    assert_eq!((written.body, written.smtputf8), (BodyType::EightBitMime, true));
    insta::assert_snapshot!(text(&written));
}

#[test]
fn a_message_that_is_gone_leaves_two_parts() {
    let (sender, brian) = (address("ada@example.test"), address("brian@example.org"));
    let failed = Outcome::Failed(Reply::ours(StatusCode::new(5, 0, 0), "no"));
    let mut report = report(Kind::Failure, &sender, vec![about(&brian, &failed)]);
    report.returned = Returned::Nothing;
    let written = write(&report);
    assert_eq!(parts(&written).len(), 2);
    assert!(text(&written).contains("cannot be attached"));
}

#[test]
fn malformed_parameters_are_left_out() {
    for orcpt in [
        "brian@example.org",
        ";x",
        "rfc 822;x",
        "rfc822;a=b",
        "rfc822;a+0D+0Ab",
        "rfc822;a b",
        "rfc822;grün",
    ] {
        let (sender, brian) = (address("ada@example.test"), address("brian@example.org"));
        let failed = Outcome::Failed(Reply::ours(StatusCode::new(5, 0, 0), "no"));
        let mut recipient = about(&brian, &failed);
        recipient.orcpt = Some(orcpt);
        let mut report = report(Kind::Failure, &sender, vec![recipient]);
        report.original.envid = Some("evil+0D+0AX: y");
        let text = text(&write(&report));
        assert!(!text.contains("Original-Recipient"), "{orcpt}: {text}");
        assert!(!text.contains("Original-Envelope-Id"), "{text}");
    }
}

#[test]
fn only_a_well_formed_message_id_is_repeated() {
    for (id, repeated) in [
        ("<1@example.test>", true),
        ("<1@example.test>\r\n <2@example.test>", false),
        ("<1 2@example.test>", false),
        ("<example.test>", false),
        ("1@example.test", false),
        ("<ü@example.test>", false),
    ] {
        let message = format!("Message-ID: {id}\r\n\r\n");
        let found = Returned::Headers(message.as_bytes()).message_id().is_some();
        assert_eq!(found, repeated, "{id:?}");
    }
}

#[test]
fn a_remote_is_named_as_dns_knows_it() {
    for (remote, name) in [
        ("mx.example.org[192.0.2.1]", "mx.example.org"),
        ("mx.example.org[2001:db8::1]:2526", "mx.example.org"),
        ("mx.example.org", "mx.example.org"),
        ("192.0.2.1[192.0.2.1]:2526", "[192.0.2.1]"),
        ("2001:db8::1[2001:db8::1]", "[IPv6:2001:db8::1]"),
        ("[192.0.2.1]", "[192.0.2.1]"),
    ] {
        let (sender, brian) = (address("ada@example.test"), address("brian@example.org"));
        let mut reply = Reply::ours(StatusCode::new(5, 1, 1), "550 no");
        reply.remote = Some(remote.to_owned());
        let failed = Outcome::Failed(reply);
        let text = text(&write(&report(Kind::Failure, &sender, vec![about(&brian, &failed)])));
        assert!(text.contains(&format!("\nRemote-MTA: dns; {name}\n")), "{remote}: {text}");
    }
}

#[test]
fn long_lines_are_broken_between_characters() {
    let (sender, brian) = (address("ada@example.test"), address("brian@example.org"));
    let failed = Outcome::Failed(Reply::ours(StatusCode::new(5, 0, 0), "no"));
    let mut report = report(Kind::Failure, &sender, vec![about(&brian, &failed)]);
    let exact = "x".repeat(998);
    let message =
        format!("Subject: {}\r\n\r\n{exact}\r\n{}\r\n", "y".repeat(3000), "ü".repeat(3000));
    report.returned = Returned::Message(message.as_bytes());
    let text = text(&write(&report));
    assert!(text.lines().all(|line| line.len() <= 998));
    assert!(text.contains(&format!("\n{exact}\n")), "a line that is legal is not broken");
    assert_eq!(text.matches('ü').count(), 3000);
    assert_eq!(text.matches("\n yyy").count(), 3, "header lines are folded");
}

/// The parts as an independent parser sees them.
fn parts(written: &Written) -> Vec<(String, Vec<u8>)> {
    let message = MessageParser::new().parse(&written.message).unwrap();
    let PartType::Multipart(children) = &message.parts[0].body else { panic!("no multipart") };
    let content_type = message.content_type().unwrap();
    assert_eq!(content_type.subtype(), Some("report"));
    assert_eq!(content_type.attribute("report-type"), Some("delivery-status"));
    children
        .iter()
        .map(|child| {
            let part = &message.parts[*child as usize];
            let kind = part.content_type().unwrap();
            let name = format!("{}/{}", kind.c_type, kind.subtype().unwrap_or_default());
            let (begin, end) = (part.offset_body as usize, part.offset_end as usize);
            (name, written.message[begin..end].to_vec())
        })
        .collect()
}

/// Text that attacks: controls, boundaries, header lines, long words.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "(?s).{0,30}",
        Just("\r\n".to_owned()),
        Just("\n\n--".to_owned()),
        Just("\r\n--report_00sqzd46n00000000007_0--\r\n".to_owned()),
        Just("Action: delivered".to_owned()),
        Just("w".repeat(2500)),
        Just("ü".repeat(700)),
        Just("\0\u{85}\u{2028}".to_owned()),
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn nothing_breaks_the_structure(
        words in hostile(),
        host in hostile(),
        orcpt in hostile(),
        envid in hostile(),
        message in hostile(),
        full in any::<bool>(),
    ) {
        let (sender, brian) = (address("ada@example.test"), address("brian@example.org"));
        let mut reply = remote(StatusCode::new(5, 1, 1), &words);
        reply.remote = Some(host);
        let failed = Outcome::Failed(reply);
        let mut recipient = about(&brian, &failed);
        recipient.orcpt = Some(&orcpt);
        let mut report = report(Kind::Failure, &sender, vec![recipient]);
        report.original.envid = Some(&envid);
        let message = format!("X: {message}");
        let own = format!("{message}\r\n--{}", boundary(report.id, [].iter()));
        report.returned = match full {
            true => Returned::Message(own.as_bytes()),
            false => Returned::Headers(own.as_bytes()),
        };
        let written = write(&report);
        let raw = &written.message;
        for (at, byte) in raw.iter().enumerate() {
            match byte {
                b'\n' => prop_assert!(at > 0 && raw[at - 1] == b'\r', "bare LF"),
                b'\r' => prop_assert!(raw.get(at + 1) == Some(&b'\n'), "bare CR"),
                0 => prop_assert!(false, "NUL"),
                _ => {}
            }
        }
        prop_assert!(raw.split(|byte| *byte == b'\n').all(|line| line.len() <= 999));
        let parts = parts(&written);
        let third = if full { "message/rfc822" } else { "text/rfc822-headers" };
        let names: Vec<&str> = parts.iter().map(|(name, _)| name.as_str()).collect();
        prop_assert_eq!(names, ["text/plain", "message/delivery-status", third]);
        let status = String::from_utf8(parts[1].1.clone()).unwrap();
        prop_assert!(status.is_ascii());
        prop_assert_eq!(status.matches("\r\n\r\n").count(), 1, "one block for the message, one for the recipient: {}", status);
        prop_assert_eq!(status.matches("\r\nAction: ").count(), 1);
    }
}
