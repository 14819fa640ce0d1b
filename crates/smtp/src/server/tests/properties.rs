//! What holds for all input.

use proptest::prelude::*;

use super::*;

/// Stuffs dots as a client does whose lines end with CRLF.
fn stuffed(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        if line.first() == Some(&b'.') {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    out
}

/// Text in which dots, CR and LF are common.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        &b"."[..],
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n.",
        b"\r\n.\r\n",
        b"x",
        b"\0",
        b"..",
        b"word",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// Lines of a body, without CR and LF in them.
fn lines() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec("[.a\\x00é ]{0,5}", 0..20).prop_map(|lines| {
        lines.iter().flat_map(|line| format!("{line}\r\n").into_bytes()).collect()
    })
}

/// Whole sessions of commands that make sense and of some that do not.
fn session() -> impl Strategy<Value = Vec<u8>> {
    let command = prop::sample::select(vec![
        &b"EHLO c.test\r\n"[..],
        b"HELO c.test\r\n",
        b"MAIL FROM:<a@b.test>\r\n",
        b"RCPT TO:<c@d.test>\r\n",
        b"RCPT TO:<c@unknown.test>\r\n",
        b"RCPT TO:<c@later.test> NOTIFY=NEVER\r\n",
        b"RCPT TO:<\xff>\r\n",
        b"DATA\r\n",
        b"text\r\n..dot\r\n.\r\n",
        b".\r\n",
        b"reject me\r\n",
        b"RSET\r\n",
        b"QUIT\r\n",
        b"WHAT\r\n",
        b"x\n",
        b"\r",
    ]);
    let commands = prop::collection::vec(command, 0..30).prop_map(|commands| commands.concat());
    (any::<bool>(), commands).prop_map(|(begun, commands)| {
        let start: &[u8] = if begun {
            b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n"
        } else {
            b""
        };
        [start, &commands].concat()
    })
}

fn policy() -> impl Strategy<Value = BareNewline> {
    prop::sample::select(vec![BareNewline::Reject, BareNewline::Normalise])
}

fn run(pieces: &[&[u8]], policy: BareNewline) -> (String, Vec<Taken>, bool) {
    let mut driven = Driven::lenient(policy);
    for piece in pieces {
        driven.feed(piece);
    }
    (driven.said(), driven.taken, driven.closed)
}

fn cut(bytes: &[u8], mut sizes: Vec<usize>) -> Vec<&[u8]> {
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let size = sizes.pop().unwrap_or(rest.len()).clamp(1, rest.len());
        let (piece, after) = rest.split_at(size);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_split_comes_to_the_same(
        input in session(),
        sizes in prop::collection::vec(1usize..20, 0..60),
        policy in policy(),
    ) {
        let whole = run(&[&input], policy);
        prop_assert_eq!(&run(&cut(&input, sizes), policy), &whole);
        prop_assert_eq!(&run(&cut(&input, vec![1; input.len()]), policy), &whole);
    }

    #[test]
    fn any_split_of_text_comes_to_the_same(
        text in text(),
        sizes in prop::collection::vec(1usize..6, 0..80),
        policy in policy(),
    ) {
        let start: &[u8] = b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n";
        let input = [start, &text, b"\r\n.\r\n"].concat();
        let whole = run(&[&input], policy);
        prop_assert_eq!(&run(&cut(&input, sizes), policy), &whole);
        prop_assert_eq!(&run(&cut(&input, vec![1; input.len()]), policy), &whole);
    }

    #[test]
    fn no_bytes_make_a_session_panic(
        input in prop::collection::vec(any::<u8>(), 0..300),
        begun: bool,
        policy in policy(),
    ) {
        let mut driven = Driven::lenient(policy);
        if begun {
            driven = driven.in_data();
        }
        driven.feed(&input);
    }

    #[test]
    fn what_is_unstuffed_is_what_was_stuffed(body in lines(), policy in policy()) {
        let mut driven = Driven::lenient(policy).in_data();
        driven.feed(&[&stuffed(&body), &b".\r\n"[..]].concat());
        prop_assert_eq!(&driven.taken[0].body, &body);
    }

    #[test]
    fn a_normalised_body_has_no_bare_line_ends(text in text()) {
        let mut driven = Driven::lenient(BareNewline::Normalise).in_data();
        driven.feed(&[&text, &b"\r\n.\r\n"[..]].concat());
        for taken in &driven.taken {
            let rest = String::from_utf8_lossy(&taken.body).replace("\r\n", "");
            prop_assert!(!rest.contains(['\r', '\n']));
            // Stuffed again, it comes back whole: no line of it can end it at the next hop.
            let mut next = Driven::lenient(BareNewline::Reject).in_data();
            next.feed(&[&stuffed(&taken.body), &b".\r\n"[..]].concat());
            prop_assert_eq!(&next.taken[0].body, &taken.body);
        }
    }
}
