//! Packets: each kind, what is none, and bytes in any pieces.

use proptest::prelude::*;

use super::*;

/// The packet with its length.
fn framed(packet: &[u8]) -> Vec<u8> {
    let mut bytes = (packet.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(packet);
    bytes
}

fn read(packet: &[u8]) -> Result<Packet, Malformed> {
    let mut packets = Packets::default();
    packets.buffer().extend_from_slice(&framed(packet));
    let found = packets.take()?.expect("a whole packet");
    assert!(packets.is_empty());
    Ok(found)
}

fn replied(text: &str) -> Result<Reply, Malformed> {
    match read(&[b"y", text.as_bytes(), b"\0"].concat())? {
        Packet::Answer(Answer::Reply(reply)) => Ok(reply),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_kind() {
    let text = str::to_owned;
    for (packet, expected) in [
        (&b"c"[..], Packet::Answer(Answer::Continue)),
        (b"a", Packet::Answer(Answer::Accept)),
        (b"r", Packet::Answer(Answer::Reject)),
        (b"t", Packet::Answer(Answer::Tempfail)),
        (b"d", Packet::Answer(Answer::Discard)),
        (b"s", Packet::Answer(Answer::Skip)),
        (b"f", Packet::Answer(Answer::ConnectionFails)),
        (b"4", Packet::Answer(Answer::ShutDown)),
        (b"p", Packet::Progress),
        (b"bnew", Packet::Body(Bytes::from_static(b"new"))),
        (b"b", Packet::Body(Bytes::new())),
        (b"hX-A\0b\0", Packet::Change(Change::AddHeader { name: text("X-A"), value: text("b") })),
        (
            b"i\0\0\0\x02X-A\0b\n\tc\0",
            Packet::Change(Change::InsertHeader {
                index: 2,
                name: text("X-A"),
                value: text("b\n\tc"),
            }),
        ),
        (
            b"m\0\0\0\0X-A\0\0",
            Packet::Change(Change::ChangeHeader { nth: 1, name: text("X-A"), value: text("") }),
        ),
        (
            b"e<a@x.test>\0",
            Packet::Change(Change::Sender { address: text("<a@x.test>"), parameters: text("") }),
        ),
        (
            b"2<a@x.test>\0NOTIFY=NEVER\0",
            Packet::Change(Change::AddRecipient {
                address: text("<a@x.test>"),
                parameters: text("NOTIFY=NEVER"),
            }),
        ),
        (b"-a@x.test\0", Packet::Change(Change::RemoveRecipient(text("a@x.test")))),
        (b"qbad\r\nX\0", Packet::Change(Change::Quarantine(text("bad  X")))),
    ] {
        assert_eq!(read(packet), Ok(expected), "{:?}", packet.escape_ascii().to_string());
    }
}

#[test]
fn a29_what_is_none() {
    for (packet, expected) in [
        (&b""[..], Malformed::Empty),
        (b"?", Malformed::Unknown(b'?')),
        (b"\0", Malformed::Unknown(0)),
        (b"c\0", Malformed::Data(b'c')),
        (b"hX-A\0b", Malformed::Data(b'h')),
        (b"hX-A\0", Malformed::Data(b'h')),
        (b"hX-A\0b\0c\0", Malformed::Data(b'h')),
        (b"hX A\0b\0", Malformed::Data(b'h')),
        (b"hX:\0b\0", Malformed::Data(b'h')),
        (b"hX\r\nY\0b\0", Malformed::Data(b'h')),
        (b"h\0b\0", Malformed::Data(b'h')),
        (b"i\0\0", Malformed::Data(b'i')),
        (b"m\0\0\0\x01", Malformed::Data(b'm')),
        (b"+", Malformed::Data(b'+')),
        (b"+a\0b\0c\0", Malformed::Data(b'+')),
        (b"-", Malformed::Data(b'-')),
        // Another address would be written to.
        (b"+caf\xe9@x.test\0", Malformed::Data(b'+')),
        (b"ecaf\xe9@x.test\0", Malformed::Data(b'e')),
        (b"qno end", Malformed::Data(b'q')),
        (b"O\0\0\0\x06", Malformed::Data(b'O')),
        (b"y550 x", Malformed::Data(b'y')),
        (b"y550 x\0y\0", Malformed::Data(b'y')),
    ] {
        assert_eq!(read(packet), Err(expected), "{:?}", packet.escape_ascii().to_string());
    }
    for text in
        ["", "5", "55\u{e9}", "250 ok", "999 x", "350 x", "5500 x", "550x", "550-a\r\n250 b"]
    {
        assert_eq!(replied(text), Err(Malformed::Reply), "{text:?}");
    }
    assert_eq!(replied(&"550-x\r\n".repeat(LINES_MAX + 1)), Err(Malformed::Reply));
    // What is no packet is told by its first bytes.
    for start in [&b"\xff\xff\xff\xffc"[..], b"HTTP/1.1", b"\0\x10\0\x01"] {
        let mut packets = Packets::default();
        packets.buffer().extend_from_slice(start);
        assert!(matches!(packets.take(), Err(Malformed::TooLong(_))), "{start:?}");
    }
    let mut packets = Packets::default();
    packets.buffer().extend_from_slice(b"\0\0\x10\0?");
    assert_eq!(packets.take(), Err(Malformed::Unknown(b'?')));
}

#[test]
fn replies() {
    let status = |text: &str| text.parse::<StatusCode>().ok();
    for (text, code, of, lines) in [
        ("550 5.7.1 no", 550, "5.7.1", &["no"][..]),
        ("451 later", 451, "", &["later"]),
        ("550 4.7.1 other class", 550, "", &["4.7.1 other class"]),
        ("550", 550, "", &[""]),
        ("554 100%% spam", 554, "", &["100% spam"]),
        (
            "550-5.7.1 one\r\n550-5.7.1 two\r\n550 5.7.1 three",
            550,
            "5.7.1",
            &["one", "two", "three"],
        ),
        ("550-one\n550 two\r\n", 550, "", &["one", "two"]),
        ("550 a\rb\u{7f}", 550, "", &["a b?"]),
    ] {
        let reply = replied(text).expect(text);
        assert_eq!((reply.code, reply.status), (code, status(of)), "{text:?}");
        assert_eq!(reply.lines, lines, "{text:?}");
    }
    let long = replied(&format!("550 {}", "\u{e9}".repeat(1000))).expect("a reply");
    assert!(long.lines[0].len() <= TEXT_BYTES_MAX);
}

proptest! {
    #[test]
    fn in_any_pieces(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0_usize..300) {
        // Letters are likelier than chance would have them.
        let letter = bytes.first().and_then(|byte| LETTERS.get(usize::from(*byte) % LETTERS.len()));
        let packet: Vec<u8> = letter.into_iter().chain(bytes.get(1..).unwrap_or_default()).copied().collect();
        let all = framed(&packet);
        let mut whole = Packets::default();
        whole.buffer().extend_from_slice(&all);
        let expected = whole.take();
        let (first, rest) = all.split_at(cut.min(all.len()));
        let mut pieces = Packets::default();
        pieces.buffer().extend_from_slice(first);
        let mut found = pieces.take();
        if found == Ok(None) {
            pieces.buffer().extend_from_slice(rest);
            found = pieces.take();
        }
        prop_assert_eq!(found, expected);
    }
}
