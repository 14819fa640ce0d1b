//! Replies: tables and properties.

use proptest::prelude::*;

use super::*;

fn parse(bytes: &[u8]) -> Result<Vec<Reply>, ReplyError> {
    let (mut parser, mut input, mut replies) = (Parser::default(), bytes, Vec::new());
    while let Some(reply) = parser.take(&mut input)? {
        replies.push(reply);
    }
    Ok(replies)
}

/// One reply: its text on one line and its status.
fn check(bytes: &[u8], text: &str, status: &str) {
    let replies = parse(bytes).unwrap();
    let [reply] = replies.as_slice() else { panic!("{replies:?}") };
    assert_eq!((reply.text().as_str(), reply.status().to_string().as_str()), (text, status));
}

#[test]
fn replies_are_put_on_one_line() {
    check(b"250 2.1.5 ok\r\n", "250 2.1.5 ok", "2.1.5");
    check(b"250\r\n", "250", "2.0.0");
    check(b"354 go on\n", "354 go on", "2.0.0");
    check(b"450 come back\r\n", "450 come back", "4.0.0");
    check(b"550-5.1.1 no such\r\n550 5.1.1 user\r\n", "550 5.1.1 no such user", "5.1.1");
    check(b"550-no such\r\n550-\r\n550 5.7.1 user\r\n", "550 no such 5.7.1 user", "5.7.1");
    check(b"250-a.test\r\n250-SIZE\r\n250 DSN\r\n", "250 a.test SIZE DSN", "2.0.0");
    // The last line's code counts if it is of the same class.
    check(b"550-a\r\n554 b\r\n", "554 a b", "5.0.0");
}

#[test]
fn a25_enhanced_codes_that_do_not_fit_are_not_believed() {
    check(b"550 2.0.0 accepted\r\n", "550 2.0.0 accepted", "5.0.0");
    check(b"250 5.1.1 x\r\n", "250 5.1.1 x", "2.0.0");
    check(b"550 5.1.1.1 x\r\n", "550 5.1.1.1 x", "5.0.0");
    check(b"550 5.9999.1 x\r\n", "550 5.9999.1 x", "5.0.0");
}

#[test]
fn a25_texts_are_printable_and_short() {
    check(b"550 a\0b\tc\x1b[31m\xff\r\x0c\r\n", "550 a?b c?[31m???", "5.0.0");
    let long = [b"550 ".as_slice(), &[b'x'; 3000], b"\r\n"].concat();
    assert_eq!(parse(&long).unwrap()[0].text().len(), TEXT_BYTES_MAX);
}

#[test]
fn a25_nonsense_ends_the_session() {
    for (bytes, error) in [
        (b"hello\r\n".as_slice(), ReplyError::Malformed),
        (b"\r\n", ReplyError::Malformed),
        (b"25\r\n", ReplyError::Malformed),
        (b"2500 x\r\n", ReplyError::Malformed),
        (b"150 x\r\n", ReplyError::Malformed),
        (b"999 x\r\n", ReplyError::Malformed),
        (b"250-a\r\nb\r\n", ReplyError::Malformed),
        (b"250-a\r\n550 b\r\n", ReplyError::MixedCodes),
    ] {
        assert_eq!(parse(bytes), Err(error), "{}", bytes.escape_ascii());
    }
    assert_eq!(parse(&[b'2'; LINE_BYTES_MAX + 1]), Err(ReplyError::LineTooLong));
    let with_end = [b"250 ".as_slice(), &[b'x'; LINE_BYTES_MAX], b"\n"].concat();
    assert_eq!(parse(&with_end), Err(ReplyError::LineTooLong));
    assert_eq!(parse(&b"250-x\r\n".repeat(LINES_MAX + 1)), Err(ReplyError::TooManyLines));
    let longest = [b"250-x\r\n".repeat(LINES_MAX - 1), b"250 x\r\n".to_vec()].concat();
    assert_eq!(parse(&longest).map(|replies| replies.len()), Ok(1));
}

proptest! {
    #[test]
    fn pieces_do_not_matter(lines in prop::collection::vec("[2-5][0-9]{2}[ -][ -~]{0,40}\r?\n", 0..20), cuts in prop::collection::vec(1usize..30, 1..20)) {
        let bytes = lines.concat().into_bytes();
        let whole = parse(&bytes);
        let (mut parser, mut replies, mut rest, mut cut) = (Parser::default(), Vec::new(), bytes.as_slice(), cuts.iter().cycle());
        let pieces = loop {
            if rest.is_empty() { break Ok(replies) }
            let (mut piece, after) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
            rest = after;
            let result = loop {
                match parser.take(&mut piece) {
                    Ok(Some(reply)) => replies.push(reply),
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            if let Err(error) = result { break Err(error) }
        };
        prop_assert_eq!(whole, pieces);
    }

    #[test]
    fn any_bytes_are_taken_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for reply in parse(&bytes).unwrap_or_default() {
            prop_assert!(reply.text().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert!((200..600).contains(&reply.code()));
        }
    }
}
