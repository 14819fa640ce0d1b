//! The client session: tables, whole conversations, and properties.

use mail::{Address, Notify, Ret};
use proptest::prelude::*;

use super::*;

const HELLO: &str = "220 mx.example.test\r\n";
const ALL: &str = "250-mx.example.test\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 DSN\r\n";
const PIPELINING: &str = "250-mx.example.test\r\n250 PIPELINING\r\n";
const PLAIN: &str = "250 mx.example.test\r\n";

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

/// What the server says is given, what the client writes comes back.
fn say(client: &mut Client, bytes: &str) -> String {
    client.receive(bytes.as_bytes());
    written(client)
}

fn written(client: &mut Client) -> String {
    String::from_utf8(std::mem::take(client.output())).unwrap()
}

fn ready(protocol: Protocol, offer: &str) -> Client {
    let mut client = Client::new(protocol, "mta.example.test", "mx.example.test[192.0.2.1]");
    assert_eq!(client.step(), Step::Receive(Phase::Greeting));
    let hello = say(&mut client, HELLO);
    assert_eq!(
        hello,
        if protocol == Protocol::Smtp {
            "EHLO mta.example.test\r\n"
        } else {
            "LHLO mta.example.test\r\n"
        }
    );
    assert_eq!(say(&mut client, offer), "");
    assert_eq!(client.step(), Step::Idle);
    client
}

fn begin(client: &mut Client, message: &Message<'_>, recipients: &[&str]) -> String {
    let addresses: Vec<Address> = recipients.iter().map(|text| address(text)).collect();
    let recipients: Vec<Recipient<'_>> = addresses
        .iter()
        .map(|address| Recipient { address, original: None, notify: None, orcpt: None })
        .collect();
    client.begin(message, &recipients);
    written(client)
}

/// A verdict in short: `+ status`, `~ status` or `- status`, `again`, `?`.
fn short(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Outcome(Outcome::Delivered(delivered)) => {
            let passed = delivered.report == SuccessReport::PassedOn;
            format!("+ {}{}", delivered.reply.status, if passed { " dsn" } else { "" })
        }
        Verdict::Outcome(Outcome::Deferred(reply)) => format!("~ {}", reply.status),
        Verdict::Outcome(Outcome::Failed(reply)) => format!("- {}", reply.status),
        Verdict::Again => "again".to_owned(),
        Verdict::Unknown => "?".to_owned(),
    }
}

fn verdicts(client: &mut Client) -> Vec<String> {
    client.take_verdicts().iter().map(short).collect()
}

/// A pipelined transaction to recipients r0, r1 …: the replies in order, whether a body is asked for, and the verdicts.
struct Case {
    protocol: Protocol,
    replies: &'static [&'static str],
    recipients: usize,
    body: bool,
    after: &'static [&'static str],
    verdicts: &'static [&'static str],
    ends: Option<(Phase, Cause)>,
}

const SMTP: Case = Case {
    protocol: Protocol::Smtp,
    replies: &[],
    recipients: 1,
    body: true,
    after: &["250 2.0.0 queued"],
    verdicts: &[],
    ends: None,
};
const LMTP: Case = Case { protocol: Protocol::Lmtp, ..SMTP };

fn check(case: &Case, offer: &str) {
    let mut client = ready(case.protocol, offer);
    let recipients: Vec<String> =
        (0..case.recipients).map(|number| format!("r{number}@example.test")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    begin(&mut client, &Message::default(), &recipients);
    for reply in case.replies {
        assert!(matches!(client.step(), Step::Receive(_)), "{:?} before {reply}", client.step());
        say(&mut client, &format!("{reply}\r\n"));
    }
    assert_eq!(client.step() == Step::Body, case.body, "{:?} {:?}", case.replies, client.step());
    if case.body {
        client.body(b"Subject: x\r\n\r\n.\r\n");
        client.end_body();
        assert_eq!(written(&mut client), "Subject: x\r\n\r\n..\r\n.\r\n");
        case.after.iter().for_each(|reply| drop(say(&mut client, &format!("{reply}\r\n"))));
    }
    let end = if case.ends.is_some() { Step::Ended } else { Step::Done };
    assert_eq!(client.step(), end, "{:?}", case.replies);
    assert_eq!(client.failure().map(|failure| (failure.phase, failure.cause)), case.ends);
    assert_eq!(verdicts(&mut client), case.verdicts, "{:?}", case.replies);
    if case.ends.is_none() {
        assert_eq!(client.step(), Step::Idle);
    }
}

#[test]
fn replies_are_matched_by_order() {
    for case in [
        Case { replies: &["250 ok", "250 ok", "354 go"], verdicts: &["+ 2.0.0"], ..SMTP },
        Case {
            replies: &["250 ok", "250 ok", "550 5.1.1 no", "451 4.2.0 later", "354 go"],
            recipients: 3,
            verdicts: &["+ 2.0.0", "- 5.1.1", "~ 4.2.0"],
            ..SMTP
        },
        Case {
            replies: &["250 ok", "250 ok", "354 go"],
            after: &["554 5.6.0 no"],
            verdicts: &["- 5.6.0"],
            ..SMTP
        },
        Case {
            replies: &["250 ok", "250 ok", "250 ok", "452 4.3.1 full"],
            recipients: 2,
            body: false,
            verdicts: &["~ 4.3.1", "~ 4.3.1"],
            ..SMTP
        },
        // Too many recipients: the rest goes into another transaction. A full mailbox is not that.
        Case {
            replies: &[
                "250 ok",
                "250 ok",
                "452 too many",
                "552 5.5.3 too many",
                "452 4.2.2 full",
                "354 go",
            ],
            recipients: 4,
            verdicts: &["+ 2.0.0", "again", "again", "~ 4.2.2"],
            ..SMTP
        },
        // Each recipient has a reply of its own behind the dot.
        Case {
            replies: &["250 ok", "250 ok", "550 no", "250 ok", "250 ok", "354 go"],
            recipients: 4,
            after: &["250 2.1.5 ok", "452 4.2.2 full", "550 5.7.1 no"],
            verdicts: &["+ 2.1.5", "- 5.0.0", "~ 4.2.2", "- 5.7.1"],
            ..LMTP
        },
        Case {
            replies: &["250 ok", "550 no", "503 no recipients"],
            body: false,
            verdicts: &["- 5.0.0"],
            ..LMTP
        },
    ] {
        check(&case, PIPELINING);
    }
}

#[test]
fn a_message_nobody_gets_ends_with_a_lone_dot() {
    for (replies, verdicts) in [
        (&["451 4.0.0 no", "503 bad", "503 bad", "354 go"], &["~ 4.0.0", "~ 4.0.0"]),
        (&["250 ok", "550 5.1.1 no", "450 4.2.1 no", "354 go"], &["- 5.1.1", "~ 4.2.1"]),
    ] {
        let mut client = ready(Protocol::Smtp, PIPELINING);
        begin(&mut client, &Message::default(), &["a@example.test", "b@example.test"]);
        let written: String =
            replies.iter().map(|reply| say(&mut client, &format!("{reply}\r\n"))).collect();
        assert_eq!(written, ".\r\n");
        assert_eq!(client.step(), Step::Receive(Phase::Dot));
        // Whatever it says, it is not about our message.
        say(&mut client, "250 queued\r\n");
        assert_eq!(client.step(), Step::Done);
        assert_eq!(self::verdicts(&mut client), verdicts);
    }
    // LMTP has no reply that such a dot could wait for.
    let case = Case {
        replies: &["250 ok", "550 no", "354 go"],
        body: false,
        verdicts: &["- 5.0.0"],
        ends: Some((Phase::Data, Cause::Nonsense)),
        ..LMTP
    };
    check(&case, PIPELINING);
}

#[test]
fn without_pipelining_each_command_waits() {
    let mut client = ready(Protocol::Smtp, PLAIN);
    let recipients = ["a@example.test", "b@example.test"];
    assert_eq!(begin(&mut client, &Message::default(), &recipients), "MAIL FROM:<>\r\n");
    assert_eq!(say(&mut client, "250 ok\r\n"), "RCPT TO:<a@example.test>\r\n");
    assert_eq!(say(&mut client, "550 no\r\n"), "RCPT TO:<b@example.test>\r\n");
    assert_eq!(say(&mut client, "550 no\r\n"), "", "nobody is left to send DATA for");
    assert_eq!(verdicts(&mut client), ["- 5.0.0", "- 5.0.0"]);
    // The server still holds the envelope.
    assert_eq!(begin(&mut client, &Message::default(), &recipients), "RSET\r\n");
    assert_eq!(say(&mut client, "250 ok\r\n"), "MAIL FROM:<>\r\n");
    assert_eq!(say(&mut client, "451 no\r\n"), "");
    assert_eq!(verdicts(&mut client), ["~ 4.0.0", "~ 4.0.0"]);
    client.quit();
    assert_eq!(written(&mut client), "QUIT\r\n");
    say(&mut client, "221 bye\r\n");
    assert_eq!((client.step(), client.failure()), (Step::Ended, None));
}

#[test]
fn parameters_are_sent_where_they_are_known() {
    let (sender, original, to) =
        (address("s@example.org"), address("a+b=c@example.org"), address("r@example.test"));
    let message = Message {
        sender: Some(&sender),
        size: Some(123),
        eight_bit: true,
        smtputf8: true,
        ret: Some(Ret::Hdrs),
        envid: Some("QQ+3D1"),
        ..Message::default()
    };
    let notify = Some(Notify { success: true, failure: true, delay: false });
    let first = Recipient { address: &to, original: Some(&original), notify, orcpt: None };
    let second = Recipient { notify: Some(Notify::NEVER), orcpt: Some("rfc822;x@y"), ..first };
    let evil = Recipient { orcpt: Some("x\r\nRSET"), notify: None, original: None, ..first };
    let mut client = ready(Protocol::Smtp, ALL);
    client.begin(&message, &[first, second, evil]);
    assert_eq!(
        written(&mut client),
        "MAIL FROM:<s@example.org> SIZE=123 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+3D1\r\n\
         RCPT TO:<r@example.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+2Bb+3Dc@example.org\r\n\
         RCPT TO:<r@example.test> NOTIFY=NEVER ORCPT=rfc822;x@y\r\n\
         RCPT TO:<r@example.test>\r\n\
         DATA\r\n"
    );
    say(&mut client, "250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    client.end_body();
    written(&mut client);
    say(&mut client, "250 2.6.0 ok\r\n");
    assert_eq!(verdicts(&mut client), ["+ 2.6.0 dsn", "+ 2.6.0 dsn", "+ 2.6.0 dsn"]);
    let mut client = ready(Protocol::Smtp, PIPELINING);
    client.begin(&message, &[first]);
    let plain = "MAIL FROM:<s@example.org>\r\nRCPT TO:<r@example.test>\r\nDATA\r\n";
    assert_eq!(written(&mut client), plain);
}

#[test]
fn what_the_server_cannot_take_fails_at_once() {
    let utf8 = address("ü@example.org");
    let needs = Message { smtputf8: true, utf8_header: true, ..Message::default() };
    let asks = Message { smtputf8: true, ..Message::default() };
    let from = Message { sender: Some(&utf8), ..Message::default() };
    let large = Message { size: Some(1001), ..Message::default() };
    for (offer, message, to, expected) in [
        (PLAIN, &needs, "a@example.test", &["- 5.6.7"][..]),
        (PLAIN, &from, "a@example.test", &["- 5.6.7"]),
        (PLAIN, &Message::default(), "ü@example.test", &["- 5.6.7"]),
        (ALL, &large, "a@example.test", &["- 5.3.4"]),
        (PLAIN, &large, "a@example.test", &[]),
        (PLAIN, &asks, "a@example.test", &[]),
        (ALL, &needs, "ü@example.test", &[]),
    ] {
        let mut client = ready(Protocol::Smtp, offer);
        let written = begin(&mut client, message, &[to]);
        assert_eq!(client.step() == Step::Done, !expected.is_empty(), "{message:?} {written}");
        if client.step() == Step::Done {
            assert_eq!(written, "");
            assert_eq!(verdicts(&mut client), expected);
        }
    }
    // One recipient that cannot be sent to does not stop the other.
    let mut client = ready(Protocol::Smtp, PIPELINING);
    let written = begin(&mut client, &Message::default(), &["ü@example.test", "a@example.test"]);
    assert_eq!(written, "MAIL FROM:<>\r\nRCPT TO:<a@example.test>\r\nDATA\r\n");
    say(&mut client, "250 ok\r\n250 ok\r\n354 go\r\n");
    client.end_body();
    self::written(&mut client);
    say(&mut client, "250 ok\r\n");
    assert_eq!(verdicts(&mut client), ["- 5.6.7", "+ 2.0.0"]);
}

#[test]
fn hello_falls_back_and_refusals_end_the_session() {
    let mut client = Client::new(Protocol::Smtp, "a.test", "mx");
    say(&mut client, HELLO);
    assert_eq!(say(&mut client, "502 what\r\n"), "HELO a.test\r\n");
    assert_eq!(client.step(), Step::Receive(Phase::Hello));
    say(&mut client, "250 hi\r\n");
    assert_eq!((client.step(), client.offered()), (Step::Idle, &Capabilities::default()));
    assert_eq!(client.server_name(), "hi");
    assert_eq!(ready(Protocol::Smtp, ALL).server_name(), "mx.example.test");

    let refused = |class| Cause::Refused(class);
    for (protocol, replies, phase, cause) in [
        (Protocol::Smtp, &["554 5.7.1 go away"][..], Phase::Greeting, refused(Class::Permanent)),
        (Protocol::Smtp, &["421 busy"], Phase::Greeting, Cause::ShuttingDown),
        (Protocol::Smtp, &["220 hi", "451 no"], Phase::Hello, refused(Class::Transient)),
        (Protocol::Smtp, &["220 hi", "500 no", "500 no"], Phase::Hello, refused(Class::Permanent)),
        (Protocol::Lmtp, &["220 hi", "500 no"], Phase::Hello, refused(Class::Permanent)),
        (Protocol::Smtp, &["220 hi", "354 no"], Phase::Hello, Cause::Nonsense),
        (Protocol::Smtp, &["HTTP/1.1 400 Bad"], Phase::Greeting, Cause::Nonsense),
        (Protocol::Smtp, &["220 hi", "250 hi", "250 and again"], Phase::Idle, Cause::Nonsense),
        (Protocol::Smtp, &["220 hi", "250 hi", "421 idle"], Phase::Idle, Cause::ShuttingDown),
    ] {
        let mut client = Client::new(protocol, "a.test", "mx");
        replies.iter().for_each(|reply| drop(say(&mut client, &format!("{reply}\r\n"))));
        assert_eq!(client.step(), Step::Ended, "{replies:?}");
        let failure = client.failure().unwrap();
        assert_eq!((failure.phase, failure.cause), (phase, cause), "{replies:?}");
    }
}

#[test]
fn a25_a_reply_that_fits_no_command_ends_the_session_and_delivers_nothing() {
    for (replies, after, phase) in [
        (&["354 go"][..], &[][..], Phase::Mail),
        (&["250 ok", "354 go"], &[], Phase::Rcpt),
        (&["250 ok", "250 ok", "250 ok"], &[], Phase::Data),
        // The server answers a dot that was not sent.
        (&["250 ok", "250 ok", "354 go\r\n250 queued"], &[], Phase::Body),
        (&["250 ok", "250 ok", "354 go"], &["354 go"], Phase::Dot),
    ] {
        let case = Case {
            replies,
            after,
            body: !after.is_empty(),
            verdicts: &["?"],
            ends: Some((phase, Cause::Nonsense)),
            ..SMTP
        };
        check(&case, PIPELINING);
    }
    // What was said before the nonsense stays said.
    let case = Case {
        replies: &["250 ok", "250 ok", "354 go"],
        after: &["250 queued", "250 queued again"],
        verdicts: &["+ 2.0.0"],
        ends: Some((Phase::Idle, Cause::Nonsense)),
        ..SMTP
    };
    check(&case, PIPELINING);
}

#[test]
fn a26_421_in_a_transaction_keeps_what_was_said_before() {
    let ends = |phase| Some((phase, Cause::ShuttingDown));
    for case in [
        Case {
            replies: &["421 bye"],
            body: false,
            verdicts: &["?"],
            ends: ends(Phase::Mail),
            ..SMTP
        },
        Case {
            replies: &["250 ok", "550 5.1.1 no", "250 ok", "421 bye"],
            recipients: 4,
            body: false,
            verdicts: &["- 5.1.1", "?", "?", "?"],
            ends: ends(Phase::Rcpt),
            ..SMTP
        },
        Case {
            replies: &["250 ok", "250 ok", "354 go"],
            after: &["421 4.7.0 later"],
            verdicts: &["?"],
            ends: ends(Phase::Dot),
            ..SMTP
        },
        Case {
            replies: &["250 ok", "250 ok", "250 ok", "354 go"],
            recipients: 2,
            after: &["250 ok", "421 bye"],
            verdicts: &["+ 2.0.0", "?"],
            ends: ends(Phase::Dot),
            ..LMTP
        },
    ] {
        check(&case, PIPELINING);
    }
}

#[test]
fn a26_a_connection_lost_at_any_byte_delivers_what_was_answered_and_no_more() {
    let envelope = "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n";
    for (protocol, dots, ends) in [
        (Protocol::Smtp, "250 2.0.0 queued\r\n", [18, 18]),
        (Protocol::Lmtp, "250 2.0.0 a\r\n250 2.0.0 b\r\n", [13, 26]),
    ] {
        for cut in 0..=envelope.len() + dots.len() {
            let mut client = ready(protocol, PIPELINING);
            begin(&mut client, &Message::default(), &["a@example.test", "b@example.test"]);
            client.receive(&envelope.as_bytes()[..cut.min(envelope.len())]);
            if client.step() == Step::Body {
                client.end_body();
                written(&mut client);
                client.receive(&dots.as_bytes()[..cut.saturating_sub(envelope.len())]);
            }
            client.lost(None);
            let expected =
                ends.map(|end| if cut >= envelope.len() + end { "+ 2.0.0" } else { "?" });
            assert_eq!(verdicts(&mut client), expected, "{protocol:?} {cut}");
        }
    }
}

#[test]
fn a_refusal_before_the_dot_is_final_and_no_dot_follows() {
    let mut client = ready(Protocol::Smtp, PIPELINING);
    begin(&mut client, &Message::default(), &["a@example.test"]);
    say(&mut client, "250 ok\r\n250 ok\r\n354 go\r\n");
    client.body(b"half a mess");
    assert_eq!(say(&mut client, "552 5.3.4 too large\r\n"), "");
    assert_eq!(client.step(), Step::Ended);
    assert_eq!(verdicts(&mut client), ["- 5.3.4"]);
}

#[test]
fn a25_a_reply_before_its_command_counts_for_nobody() {
    // The second of two replies to MAIL is none to RCPT, which was not written yet.
    for surplus in ["250 ok", "550 5.1.1 no", "452 4.5.3 too many"] {
        let mut client = ready(Protocol::Smtp, PLAIN);
        begin(&mut client, &Message::default(), &["a@example.test", "b@example.test"]);
        say(&mut client, &format!("250 ok\r\n{surplus}\r\n"));
        let failure = client.failure().map(|failure| (failure.phase, failure.cause));
        assert_eq!(failure, Some((Phase::Rcpt, Cause::Nonsense)), "{surplus}");
        assert_eq!(verdicts(&mut client), ["?", "?"], "{surplus}");
    }
    // A message whose dot was not written is nobody's yet; a refusal of it is one.
    for (protocol, said, expected, cause) in [
        (Protocol::Smtp, "250 2.0.0 queued", "?", Cause::Nonsense),
        (Protocol::Lmtp, "250 2.0.0 queued", "?", Cause::Nonsense),
        (Protocol::Smtp, "552 5.3.4 too large", "- 5.3.4", Cause::Abandoned),
        (Protocol::Lmtp, "452 4.3.1 full", "~ 4.3.1", Cause::Abandoned),
    ] {
        let mut client = ready(protocol, PIPELINING);
        begin(&mut client, &Message::default(), &["a@example.test", "b@example.test"]);
        say(&mut client, "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
        client.body(b"Subject: x\r\n");
        client.end_body();
        assert_eq!(say(&mut client, &format!("{said}\r\n")), "", "what is left is not written");
        let failure = client.failure().map(|failure| (failure.phase, failure.cause));
        assert_eq!(failure, Some((Phase::Dot, cause)), "{said}");
        assert_eq!(verdicts(&mut client), [expected, expected], "{said}");
    }
}

#[test]
fn an_international_orcpt_travels_in_ascii() {
    let to = address("r@example.test");
    let (original, plain) = (address("grün+x@example.org"), address("g@example.org"));
    let long = format!("utf-8;{}@example.org", "ü".repeat(100));
    for (orcpt, original, expected) in [
        (Some("utf-8;grün@bücher.example"), None, r" ORCPT=utf-8;gr\x{FC}n@b\x{FC}cher.example"),
        // What is encoded already stays as it is.
        (Some(r"UTF-8;\x{5C}ü+2B"), None, r" ORCPT=UTF-8;\x{5C}\x{FC}+2B"),
        (Some(r"utf-8;gr\x{FC}n@example.org"), None, r" ORCPT=utf-8;gr\x{FC}n@example.org"),
        (None, Some(&original), r" ORCPT=utf-8;gr\x{FC}n\x{2B}x@example.org"),
        // One that would not stay a word, or is not of that type, is left out.
        (Some("utf-8;ü\r\nRSET"), None, ""),
        (Some("utf-8;ü x"), Some(&plain), ""),
        (Some(&long), None, ""),
        (Some("rfc822;ü@example.org"), None, ""),
    ] {
        let mut client = ready(Protocol::Smtp, ALL);
        let recipient = Recipient { address: &to, original, notify: None, orcpt };
        client.begin(&Message::default(), &[recipient]);
        let line = format!("RCPT TO:<r@example.test>{expected}\r\n");
        assert_eq!(written(&mut client).split_inclusive('\n').nth(1), Some(line.as_str()));
    }
}

#[test]
fn losses_are_said_in_words() {
    let mut client = ready(Protocol::Smtp, PIPELINING);
    begin(&mut client, &Message::default(), &["a@example.test"]);
    client.timed_out();
    client.lost(None);
    let failure = client.failure().unwrap();
    assert_eq!((failure.phase, failure.cause), (Phase::Mail, Cause::TimedOut), "the first stays");
    assert_eq!(failure.reply.status, StatusCode::new(4, 4, 2));
    let text = "conversation with mx.example.test[192.0.2.1] timed out while sending MAIL FROM";
    assert_eq!(failure.reply.text, text);
}

fn stuffed(pieces: &[&[u8]]) -> Vec<u8> {
    let (mut stuffing, mut output) = (Stuffing::default(), Vec::new());
    pieces.iter().for_each(|piece| stuffing.piece(piece, &mut output));
    stuffing.end(&mut output);
    output
}

#[test]
fn bodies_are_stuffed() {
    for (body, expected) in [
        ("", ".\r\n"),
        ("a\r\n", "a\r\n.\r\n"),
        ("a", "a\r\n.\r\n"),
        (".", "..\r\n.\r\n"),
        ("a\r\n.\r\n..b\r\nc.d\r\n", "a\r\n..\r\n...b\r\nc.d\r\n.\r\n"),
    ] {
        assert_eq!(
            stuffed(&[body.as_bytes()]).escape_ascii().to_string(),
            expected.as_bytes().escape_ascii().to_string()
        );
    }
}

#[test]
fn a2_stray_line_ends_never_leave() {
    for end in ["\r", "\n", "\r\n", "\r\r\n", "\n\r", "\r\n\r", "\n\n"] {
        for last in ["\r", "\n", "\r\n", "\r\r\n"] {
            let evil = format!("a{end}.{last}MAIL FROM:<>\r\n");
            let output = stuffed(&[evil.as_bytes()]);
            assert_eq!(as_server(&output).1, b"", "{}", evil.escape_debug());
            assert!(is_clean(&output), "{}", evil.escape_debug());
        }
    }
}

/// What the laxest of servers makes of it: every CR, LF or CRLF ends a line, the first line of one dot the message.
fn as_server(bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let text: Vec<u8> = normal(bytes);
    let (mut body, mut rest) = (Vec::new(), text.as_slice());
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").expect("a dot comes") + 2;
        let (line, after) = rest.split_at(end);
        rest = after;
        if line == b".\r\n" {
            return (body, rest.to_vec());
        }
        body.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
}

fn normal(bytes: &[u8]) -> Vec<u8> {
    let text = bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
    let text = text.replace("\r\n", "\n").replace('\r', "\n").replace('\n', "\r\n");
    text.chars().map(|character| character as u8).collect()
}

fn is_clean(bytes: &[u8]) -> bool {
    normal(bytes) == bytes
}

proptest! {
    #[test]
    fn a2_any_body_in_any_pieces_arrives_and_nothing_behind_it(pieces in prop::collection::vec("[\r\n.a]{0,6}", 0..8)) {
        let bytes: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
        let output = stuffed(&bytes);
        prop_assert!(is_clean(&output));
        let mut whole = normal(&bytes.concat());
        if !whole.is_empty() && !whole.ends_with(b"\r\n") {
            whole.extend_from_slice(b"\r\n");
        }
        prop_assert_eq!(as_server(&output), (whole, Vec::new()));
    }

    #[test]
    fn garbage_never_panics_and_never_delivers_without_a_dot(bytes in prop::collection::vec(prop_oneof![
        Just(b"250 ok\r\n".to_vec()), Just(b"354 go\r\n".to_vec()), Just(b"550 no\r\n".to_vec()), Just(b"452 x\r\n".to_vec()),
        Just(b"250-PIPELINING\r\n".to_vec()), Just(b"220 hi\r\n".to_vec()), Just(b"421 bye\r\n".to_vec()), prop::collection::vec(any::<u8>(), 0..5),
    ], 0..20), cut in 1usize..12, lmtp in any::<bool>()) {
        let mut client = Client::new(if lmtp { Protocol::Lmtp } else { Protocol::Smtp }, "a.test", "mx");
        for piece in bytes.concat().chunks(cut) {
            client.receive(piece);
            client.output().clear();
            match client.step() {
                Step::Idle => { begin(&mut client, &Message::default(), &["a@example.test", "b@example.test"]); }
                Step::Body => client.body(piece),
                Step::Done | Step::Ended => {
                    let delivered = client.take_verdicts().iter().any(|verdict| matches!(verdict, Verdict::Outcome(Outcome::Delivered(_))));
                    prop_assert!(!delivered);
                }
                Step::Receive(_) => {}
            }
        }
    }

    /// However replies are cut, each recipient gets the one that was meant for it.
    #[test]
    fn replies_in_any_pieces_reach_the_right_recipient(codes in prop::collection::vec(prop_oneof![Just(250u16), Just(450), Just(550)], 1..12), after in prop::collection::vec(prop_oneof![Just(250u16), Just(451), Just(554)], 12), cut in 1usize..40, lmtp in any::<bool>(), pipelining in any::<bool>()) {
        let mut client = ready(if lmtp { Protocol::Lmtp } else { Protocol::Smtp }, if pipelining { PIPELINING } else { PLAIN });
        let recipients: Vec<String> = (0..codes.len()).map(|number| format!("r{number}@example.test")).collect();
        begin(&mut client, &Message::default(), &recipients.iter().map(String::as_str).collect::<Vec<_>>());
        let accepted: Vec<usize> = (0..codes.len()).filter(|index| codes[*index] == 250).collect();
        let data = if accepted.is_empty() { if pipelining { "503 none\r\n" } else { "" } } else { "354 go\r\n" };
        let said: String = codes.iter().enumerate().map(|(index, code)| format!("{code}-{}.0.{index}\r\n{code} x\r\n", code / 100)).collect();
        for reply in format!("250 ok\r\n{said}{data}").split_inclusive('\n') {
            reply.as_bytes().chunks(cut).for_each(|piece| client.receive(piece));
            // Without PIPELINING a server has no command to answer before it was written.
            if !pipelining {
                written(&mut client);
            }
        }
        let mut expected: Vec<String> = codes.iter().enumerate().map(|(index, code)| format!("{} {}.0.{index}", if *code == 450 { "~" } else { "-" }, code / 100)).collect();
        if !accepted.is_empty() {
            prop_assert_eq!(client.step(), Step::Body);
            client.end_body();
            written(&mut client);
            let dots = if lmtp { accepted.len() } else { 1 };
            let said: String = after.iter().take(dots).enumerate().map(|(turn, code)| format!("{code} {}.1.{turn}\r\n", code / 100)).collect();
            for piece in said.as_bytes().chunks(cut) {
                client.receive(piece);
            }
            for (turn, index) in accepted.iter().enumerate() {
                let turn = if lmtp { turn } else { 0 };
                let sign = match after[turn] { 250 => "+", 451 => "~", _ => "-" };
                expected[*index] = format!("{sign} {}.1.{turn}", after[turn] / 100);
            }
        }
        prop_assert_eq!(client.step(), Step::Done);
        prop_assert_eq!(verdicts(&mut client), expected);
    }
}
