//! Regressions named after the ids of the attack list.

use super::*;

/// Every way to write an end of data that is not CRLF.CRLF.
const FALSE_ENDS: [&[u8]; 12] = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\r\r\n.\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\0\n.\r\n",
    b"\r\0\n.\r\n",
    b"\n\r.\r\n",
];

const SMUGGLED: &[u8] =
    b"MAIL FROM:<evil@x.test>\r\nRCPT TO:<victim@d.test>\r\nDATA\r\nSubject: two\r\n\r\n";

fn attempt(end: &[u8], policy: BareNewline, split: usize) -> Driven {
    let mut driven = Driven::lenient(policy).in_data();
    let text = [b"Subject: one\r\n\r\nbody", end, SMUGGLED, b".\r\nQUIT\r\n"].concat();
    let (first, second) = text.split_at(split.min(text.len()));
    driven.feed(first);
    driven.feed(second);
    driven
}

#[test]
fn a1_only_crlf_dot_crlf_ends_a_message() {
    for end in FALSE_ENDS {
        for split in 15..40 {
            let mut driven = attempt(end, BareNewline::Reject, split);
            if end.contains(&0) && !has_bare_newline(end) {
                let body = &driven.taken[0].body;
                assert_eq!(driven.taken.len(), 1, "{}", end.escape_ascii());
                assert!(body.windows(9).any(|window| window == b"MAIL FROM"));
                continue;
            }
            assert_eq!(driven.codes(), [521], "{} split at {split}", end.escape_ascii());
            assert!(driven.closed && driven.taken.is_empty());
        }
    }
}

fn has_bare_newline(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "");
    text.contains(['\r', '\n'])
}

#[test]
fn a1_normalised_line_ends_do_not_end_a_message() {
    for end in FALSE_ENDS {
        for split in 15..40 {
            let mut driven = attempt(end, BareNewline::Normalise, split);
            assert_eq!(driven.codes(), [250, 221], "{}", end.escape_ascii());
            assert_eq!(driven.taken.len(), 1, "{} split at {split}", end.escape_ascii());
            let body = &driven.taken[0].body;
            assert!(body.windows(9).any(|window| window == b"MAIL FROM"));
            assert!(!has_bare_newline(body), "{}", body.escape_ascii());
        }
    }
}

#[test]
fn a1_crlf_dot_crlf_after_a_bare_cr_ends_the_message_where_it_stands() {
    let mut driven = Driven::lenient(BareNewline::Normalise).in_data();
    driven.feed(b"body\r\r\n.\r\nNOOP\r\n");
    assert_eq!(driven.codes(), [250, 250]);
    assert_eq!(driven.taken[0].body, b"body\r\n\r\n");
}

#[test]
fn a1_bare_line_ends_in_commands_close() {
    for command in ["NOOP\nNOOP\r\n", "NO\rOP\r\n", "NOOP\r\r\n", "\n", "NOOP\r\nNOOP\n\r\n"] {
        let mut driven = Driven::lenient(BareNewline::Reject);
        driven.said();
        driven.feed(command.as_bytes());
        assert_eq!(driven.codes().last(), Some(&521), "{command:?}");
        assert!(driven.closed);
    }
}

#[test]
fn a3_what_comes_before_it_may_is_refused() {
    let strict = || {
        let mut driven = Driven::new(config(limits(), Pipelining::Strict), BareNewline::Reject);
        driven.said();
        driven
    };
    // Before the reply to EHLO, in groups without ESMTP, and before 354.
    for early in [
        "EHLO c.test\r\nMAIL FROM:<a@b.test>\r\n",
        "HELO c.test\r\nMAIL FROM:<a@b.test>\r\n",
        "NOOP\r\nNOOP\r\n",
    ] {
        let mut driven = strict();
        driven.feed(early.as_bytes());
        assert_eq!(driven.codes(), [554], "{early:?}");
        assert!(driven.closed);
    }
    let mut driven = strict();
    driven.feed(b"EHLO c.test\r\n");
    driven.feed(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nSubject: x\r\n");
    assert_eq!(driven.codes(), [250, 250, 250, 554]);
    // A group that ends as it may.
    let mut driven = strict();
    driven.feed(b"EHLO c.test\r\n");
    driven.feed(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n");
    driven.feed(b"x\r\n.\r\nMAIL FROM:<a@b.test>\r\nRSET\r\nQUIT\r\nQUIT\r\nNOOP\r\n");
    assert_eq!(driven.codes(), [250, 250, 250, 354, 250, 250, 250, 221]);
    assert!(driven.closed);
}

#[test]
fn a3_who_talks_before_the_greeting_is_sent_away() {
    for (pipelining, code) in [(Pipelining::Strict, "554"), (Pipelining::Lenient, "220")] {
        let mut session = Session::new(config(limits(), pipelining), BareNewline::Reject);
        let mut out = Vec::new();
        session.greet(true, &mut out);
        assert!(out.starts_with(code.as_bytes()));
        let (_, event) = session.next(b"", &mut out);
        assert_eq!(event == Event::Close(None), code == "554");
    }
}

#[test]
fn a5_nothing_is_left_of_a_refused_message() {
    let mut driven = Driven::lenient(BareNewline::Reject).in_data();
    driven.feed(b"reject me\r\n.\r\nRCPT TO:<c@d.test>\r\nDATA\r\n");
    assert_eq!(driven.codes(), [554, 503, 503]);
    let mut driven = Driven::lenient(BareNewline::Reject).in_data();
    let large = [&b"x\r\n".repeat(1000)[..], b".\r\nRCPT TO:<c@d.test>\r\nDATA\r\n"].concat();
    driven.feed(&large);
    assert_eq!(driven.codes(), [552, 503, 503]);
    assert!(driven.taken.is_empty());
    driven.feed(b"VRFY\r\nRCPT TO:<c@d.test>\r\n");
    assert_eq!(driven.codes(), [501, 503]);
    driven.feed(b"MAIL FROM:<a@b.test>\r\nMAIL FROM:<x@b.test>\r\nRSET\r\nRCPT TO:<c@d.test>\r\n");
    assert_eq!(driven.codes(), [250, 503, 250, 503]);
    driven.feed(b"MAIL FROM:<a@b.test>\r\nEHLO again.test\r\nRCPT TO:<c@d.test>\r\n");
    assert_eq!(driven.codes(), [250, 250, 503]);
}

#[test]
fn a7_over_long_lines_are_skipped() {
    for length in [999, 1000, 1999, 2000, 2001, 10_000, 1 << 20] {
        let mut driven = Driven::lenient(BareNewline::Reject);
        driven.said();
        let line = [b"NOOP ", &b"x".repeat(length)[..], b"\r\nNOOP\r\n"].concat();
        for piece in line.chunks(4096) {
            driven.feed(piece);
        }
        assert_eq!(driven.codes(), [500, 250], "{length}");
    }
    let mut driven = Driven::lenient(BareNewline::Reject).in_data();
    driven.feed(&b"x".repeat(999));
    driven.feed(b"\r\n.\r\n");
    assert_eq!(driven.codes(), [500]);
    let mut driven = Driven::lenient(BareNewline::Reject).in_data();
    driven.feed(&b"x".repeat(998));
    driven.feed(b"\r\n.\r\n");
    assert_eq!(driven.codes(), [250]);
}

#[test]
fn a7_a_line_without_an_end_is_not_read_for_ever() {
    for (length, codes) in [(1 << 20, &[500, 250][..]), (2 << 20, &[421]), (8 << 20, &[421])] {
        for end in [&b"\r\nNOOP\r\n"[..], b"\nNOOP\r\n"] {
            let line = [b"NOOP ", &b"x".repeat(length)[..], end].concat();
            let mut whole = Driven::lenient(BareNewline::Normalise);
            whole.said();
            whole.feed(&line);
            assert_eq!(whole.codes(), codes, "{length}");
            let mut split = Driven::lenient(BareNewline::Normalise);
            split.said();
            for piece in line.chunks(4099) {
                split.feed(piece);
            }
            assert_eq!((split.codes(), split.closed), (codes.to_vec(), codes == [421]), "{length}");
        }
    }
    // The end stands astride the limit: what is said does not hang on where the bytes were split.
    let line = [&b"x".repeat((1 << 20) + 1999)[..], b"\r\nNOOP\r\n"].concat();
    for size in [1999, 4096, line.len()] {
        let mut driven = Driven::lenient(BareNewline::Reject);
        driven.said();
        for piece in line.chunks(size) {
            driven.feed(piece);
        }
        assert_eq!(driven.codes(), [421], "pieces of {size}");
    }
}

#[test]
fn a7_bytes_that_are_no_text() {
    let mut driven = Driven::lenient(BareNewline::Reject);
    driven.said();
    driven.feed(b"NO\0OP\r\nEHLO x\0y\r\nNOOP \xff\xfe\r\nEHLO c.test\r\n");
    assert_eq!(driven.codes(), [500, 500, 500, 250]);
    driven.feed(
        b"MAIL FROM:<\xff@b.test>\r\nMAIL FROM:<\xc3\xbc@b.test>\r\nMAIL FROM:<a\0@b.test>\r\n",
    );
    assert_eq!(driven.codes(), [553, 553, 500]);
    driven.feed("MAIL FROM:<ü@b.test> SMTPUTF8\r\nRCPT TO:<ö@d.test>\r\n".as_bytes());
    assert_eq!(driven.codes(), [250, 250]);
    driven.feed("RSET\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<ö@d.test>\r\n".as_bytes());
    driven.feed("RCPT TO:<c@d.test> ORCPT=utf-8;ö@d.test\r\n".as_bytes());
    assert_eq!(driven.codes(), [250, 250, 553, 553]);
}

#[test]
fn a7_errors_have_an_end() {
    let mut driven = Driven::lenient(BareNewline::Reject);
    driven.said();
    driven.feed(&b"WHAT\r\n".repeat(1000));
    assert_eq!(driven.codes(), [vec![500; 10], vec![421]].concat());
    assert!(driven.closed);
    let mut driven = Driven::lenient(BareNewline::Reject);
    driven.said();
    driven.feed(&b"NOOP\r\n".repeat(1000));
    assert_eq!(driven.codes(), [vec![250; 110], vec![421]].concat());
}

#[test]
fn a9_what_size_says_is_not_believed() {
    let mut driven = Driven::lenient(BareNewline::Reject);
    driven.said();
    driven
        .feed(b"EHLO c.test\r\nMAIL FROM:<a@b.test> SIZE=2001\r\nMAIL FROM:<a@b.test> SIZE=1\r\n");
    assert_eq!(driven.codes(), [250, 552, 250]);
    driven.feed(b"RCPT TO:<c@d.test>\r\nDATA\r\n");
    driven.feed(&b"From x\r\n".repeat(251));
    driven.feed(b".\r\n");
    assert_eq!(driven.codes(), [250, 354, 552]);
    assert!(driven.taken.is_empty());
}

#[test]
fn a9_a_message_without_an_end_is_not_read_for_ever() {
    let mut driven = Driven::lenient(BareNewline::Reject).in_data();
    let piece = b"x\r\n".repeat(100_000);
    for _ in 0..1000 {
        driven.feed(&piece);
    }
    assert_eq!(driven.codes(), [552]);
    assert!(driven.closed);
}

#[test]
fn a10_recipients_have_an_end() {
    let mut driven = Driven::lenient(BareNewline::Reject);
    driven.feed(b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\n");
    driven.said();
    driven.feed(&b"RCPT TO:<c@d.test>\r\n".repeat(10_000));
    let codes = driven.codes();
    let count = |wanted| codes.iter().filter(|code| **code == wanted).count();
    assert_eq!((count(250), codes.last()), (5, Some(&421)));
    assert!(codes.len() < 10_000 && driven.closed);
}

#[test]
fn a10_recipients_put_off_have_an_end() {
    let mut driven = Driven::lenient(BareNewline::Reject);
    driven.feed(b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\n");
    driven.said();
    driven.feed(&b"RCPT TO:<c@later.test>\r\n".repeat(10_000));
    let codes = driven.codes();
    let (last, others) = codes.split_last().expect("there are replies");
    assert_eq!((*last, others.len(), driven.closed), (421, RECIPIENTS_OVERSHOOT_MAX + 10, true));
    assert!(others.iter().all(|code| *code == 451));
}

#[test]
fn a10_a_client_may_overshoot_and_go_on() {
    let mut driven = Driven::lenient(BareNewline::Reject);
    driven.feed(b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\n");
    driven.said();
    driven.feed(&b"RCPT TO:<c@d.test>\r\n".repeat(1000));
    driven.feed(b"DATA\r\nx\r\n.\r\n");
    let codes = driven.codes();
    assert_eq!(codes[..5], [250; 5]);
    assert_eq!(codes[5..1000], [452; 995]);
    assert_eq!(codes[1000..], [354, 250]);
    assert_eq!(driven.taken[0].envelope.recipients.len(), 5);
}

#[test]
fn a10_routes_are_dropped_and_never_read() {
    let mut driven = Driven::lenient(BareNewline::Reject);
    driven.feed(b"EHLO c.test\r\nMAIL FROM:<@x.test:a@b.test>\r\n");
    driven.feed(b"RCPT TO:<@relay.test,@other.test:c@d.test>\r\n");
    driven.feed(b"RCPT TO:<c%relay.test@d.test>\r\nDATA\r\nx\r\n.\r\n");
    let envelope = &driven.taken[0].envelope;
    let recipients: Vec<_> = envelope.recipients.iter().map(|r| r.address.as_str()).collect();
    assert_eq!(recipients, ["c@d.test", "c%relay.test@d.test"]);
    assert_eq!(envelope.sender.as_ref().map(mail::Address::as_str), Some("a@b.test"));
}

#[test]
fn a11_names_with_syntax_are_refused() {
    let mut driven = Driven::lenient(BareNewline::Reject);
    driven.said();
    driven.feed(b"EHLO a b\r\nHELO a\tb\r\nEHLO \x1b]0;x\x07\r\nMAIL FROM:<a@b.test>\r\n");
    assert_eq!(driven.codes(), [501, 501, 501, 503]);
    driven.feed(b"XCLIENT ADDR=10.0.0.1\r\nXFORWARD NAME=x\r\nPROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n");
    assert_eq!(driven.codes(), [500, 500, 500]);
}

#[test]
fn a12_http_is_sent_away() {
    let mut driven = Driven::lenient(BareNewline::Reject);
    driven.said();
    driven.feed(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nEHLO c.test\r\nMAIL FROM:<a@b.test>\r\n");
    assert_eq!(driven.codes(), [521]);
    assert!(driven.closed);
}

#[test]
fn a21_hops_are_counted_in_the_header_only() {
    let message = b"Received: a\r\nRECEIVED:b\r\n received: folded\r\nX-Received: c\r\nReceivedx: d\r\n\r\nReceived: e\r\n";
    for size in 1..=message.len() {
        let mut counter = HopCounter::default();
        for piece in message.chunks(size) {
            counter.feed(piece);
        }
        assert_eq!(counter.hops(), 2, "pieces of {size}");
    }
}
