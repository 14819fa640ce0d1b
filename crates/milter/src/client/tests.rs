//! Conversations with a milter of the test's own, byte for byte.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use bytes::BytesMut;

use super::*;

/// All actions, each event told and answered.
const AGREES: &[u8] = &[0, 0, 0, 13, b'O', 0, 0, 0, 6, 0, 0, 1, 0xff, 0, 0, 0, 0];

fn agrees(version: u8, protocol: u32) -> Vec<u8> {
    let mut packet = AGREES.to_vec();
    packet[8] = version;
    packet[13..].copy_from_slice(&protocol.to_be_bytes());
    packet
}

/// A client that has agreed to this, and the milter's end.
async fn agreed(answer: &[u8]) -> (Client<DuplexStream>, DuplexStream) {
    let (ours, mut theirs) = duplex(1 << 20);
    theirs.write_all(answer).await.unwrap();
    let client = Client::negotiate(ours).await.expect("both agree");
    let mut offer = [0; 17];
    theirs.read_exact(&mut offer).await.unwrap();
    assert_eq!(offer, *b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xf7\xff");
    (client, theirs)
}

fn nothing(_: &str) -> Option<String> {
    None
}

/// What the milter has got by now.
async fn got(theirs: &mut DuplexStream) -> String {
    let mut bytes = BytesMut::new();
    let mut context = Context::from_waker(Waker::noop());
    loop {
        let mut piece = [0; 4096];
        let mut piece = ReadBuf::new(&mut piece);
        match Pin::new(&mut *theirs).poll_read(&mut context, &mut piece) {
            Poll::Ready(Ok(())) if !piece.filled().is_empty() => {
                bytes.extend_from_slice(piece.filled());
            }
            _ => return bytes.escape_ascii().to_string(),
        }
    }
}

/// Asks, and has the milter say this when it has heard the question; gives what it has heard, too.
async fn answered<T>(
    milter: &mut DuplexStream,
    said: &[u8],
    asking: impl Future<Output = T>,
) -> (T, String) {
    let answering = async {
        let mut question = BytesMut::with_capacity(4096);
        milter.read_buf(&mut question).await.unwrap();
        milter.write_all(said).await.unwrap();
        question.escape_ascii().to_string()
    };
    tokio::join!(asking, answering)
}

/// Room for what these tests change.
const LIMITS: Limits = Limits { body: 100, changes: 100 };

#[tokio::test]
async fn a_session_as_it_goes_over_the_wire() {
    let (mut client, mut milter) = agreed(AGREES).await;
    let value_of = |name: &str| match name {
        "j" => Some("mx.test".to_owned()),
        "{client_addr}" => Some("192.0.2.1".to_owned()),
        "i" => Some("abc".to_owned()),
        _ => None,
    };
    let peer = Peer { address: "192.0.2.1".parse().ok(), port: 0x1234 };
    let sender = ["<a@x.test>".to_owned(), "BODY=8BITMIME".to_owned()];
    let recipient = ["<b@y.test>".to_owned()];
    for (command, expected) in [
        (
            Command::Connect { name: "client.test", peer },
            "\\x00\\x00\\x00$DCj\\x00mx.test\\x00{client_addr}\\x00192.0.2.1\\x00\
             \\x00\\x00\\x00\\x1aCclient.test\\x004\\x124192.0.2.1\\x00",
        ),
        (Command::Helo("client.test"), "\\x00\\x00\\x00\\rHclient.test\\x00"),
        (
            Command::Mail(&sender),
            "\\x00\\x00\\x00\\x08DMi\\x00abc\\x00\
             \\x00\\x00\\x00\\x1aM<a@x.test>\\x00BODY=8BITMIME\\x00",
        ),
        (
            Command::Recipient(&recipient),
            "\\x00\\x00\\x00\\x08DRi\\x00abc\\x00\\x00\\x00\\x00\\x0cR<b@y.test>\\x00",
        ),
        (Command::Data, "\\x00\\x00\\x00\\x08DTi\\x00abc\\x00\\x00\\x00\\x00\\x01T"),
        (
            Command::Header("Subject", b" a\0b\r\n\tc"),
            "\\x00\\x00\\x00\\x0fLSubject\\x00ab\\n\\tc\\x00",
        ),
        (Command::EndOfHeader, "\\x00\\x00\\x00\\x08DNi\\x00abc\\x00\\x00\\x00\\x00\\x01N"),
        (Command::Body(b"hello\r\n"), "\\x00\\x00\\x00\\x08Bhello\\r\\n"),
    ] {
        let said = b"\0\0\0\x01p\0\0\0\x01c";
        let (answer, told) = answered(&mut milter, said, client.tell(command, value_of)).await;
        assert_eq!((answer.unwrap(), &*told), (Answer::Continue, expected), "{command:?}");
    }
    let said = b"\0\0\0\x06hX\0y\0z";
    let (ended, _) = answered(&mut milter, said, client.end_of_message(value_of, LIMITS)).await;
    assert!(matches!(ended, Err(Error::Malformed(Malformed::Data(b'h')))));
}

#[tokio::test]
async fn what_is_not_wanted_is_not_told_and_what_is_not_answered_is_not_waited_for() {
    // No connect, no answer to header fields.
    let (mut client, mut milter) = agreed(&agrees(6, 0x81)).await;
    let peer = Peer { address: None, port: 0 };
    let connect = Command::Connect { name: "unknown", peer };
    assert_eq!(client.tell(connect, nothing).await.unwrap(), Answer::Continue);
    assert_eq!(client.tell(Command::Header("A", b"b"), nothing).await.unwrap(), Answer::Continue);
    assert_eq!(got(&mut milter).await, "");
    client.flush().await.unwrap();
    assert_eq!(got(&mut milter).await, "\\x00\\x00\\x00\\x05LA\\x00b\\x00");
    // There is no DATA before version 4.
    let (mut client, mut milter) = agreed(&agrees(2, 0)).await;
    assert_eq!(client.tell(Command::Data, nothing).await.unwrap(), Answer::Continue);
    assert_eq!(got(&mut milter).await, "");
    assert!(!client.next_session());
}

#[tokio::test]
async fn it_is_asked_for_the_macros_that_it_wants() {
    let names = b"\0\0\0\0j client_addr, {x}\0\0\0\0\x01\0";
    let mut answer = agrees(6, 0);
    answer[3] += names.len() as u8;
    answer.extend_from_slice(names);
    let (client, _milter) = agreed(&answer).await;
    let of = |stage| client.options().macros(stage).collect::<Vec<_>>();
    assert_eq!(of(crate::Stage::Connect), ["j", "{client_addr}", "{x}"]);
    assert!(of(crate::Stage::Helo).is_empty());
    assert_eq!(of(crate::Stage::EndOfMessage), ["i"]);
}

#[tokio::test]
async fn changes_come_before_the_answer_to_the_end() {
    let (mut client, mut milter) = agreed(AGREES).await;
    let said = b"\0\0\0\x05bnew \0\0\0\x01p\0\0\0\x03qx\0\0\0\0\x05bbody\0\0\0\x01c";
    let (ended, _) = answered(&mut milter, said, client.end_of_message(nothing, LIMITS)).await;
    let ended = ended.unwrap();
    assert_eq!((ended.answer, ended.body), (Answer::Continue, Some(b"new body".to_vec())));
    assert_eq!(ended.changes, [Change::Quarantine("x".to_owned())]);
    // Of more than there may be none is taken.
    let body = [&b"\0\0\0\x66b"[..], &[b'x'; 101], b"\0\0\0\x01c"].concat();
    let small = b"\0\0\0\x03qx\0\0\0\0\x03qx\0\0\0\0\x01c";
    for said in [&body[..], small] {
        let (mut client, mut milter) = agreed(AGREES).await;
        let (ended, _) = answered(&mut milter, said, client.end_of_message(nothing, LIMITS)).await;
        assert!(matches!(ended, Err(Error::Malformed(Malformed::TooMuch(100)))));
    }
}

#[tokio::test]
async fn a29_what_is_out_of_place() {
    for said in [&b"\0\0\0\x01s"[..], b"\0\0\0\x05bnew ", AGREES] {
        let (mut client, mut milter) = agreed(AGREES).await;
        let asking = client.tell(Command::Helo("x"), nothing);
        let (answer, _) = answered(&mut milter, said, asking).await;
        assert!(matches!(answer, Err(Error::Malformed(Malformed::OutOfPlace))), "{said:?}");
    }
    // What is said twice is not taken for the answer to what comes next, with the first or behind it.
    for late in [false, true] {
        let (mut client, mut milter) = agreed(AGREES).await;
        let said: &[u8] = if late { b"\0\0\0\x01c" } else { b"\0\0\0\x01c\0\0\0\x01c" };
        let asking = client.tell(Command::Helo("x"), nothing);
        assert!(answered(&mut milter, said, asking).await.0.is_ok());
        if late {
            milter.write_all(b"\0\0\0\x01c").await.unwrap();
        }
        let next = client.tell(Command::Data, nothing).await;
        assert!(matches!(next, Err(Error::Malformed(Malformed::Unasked))));
    }
    // Progress means nothing, whenever it comes.
    let (mut client, mut milter) = agreed(AGREES).await;
    milter.write_all(b"\0\0\0\x01p").await.unwrap();
    let asking = client.tell(Command::Data, nothing);
    assert!(answered(&mut milter, b"\0\0\0\x01c", asking).await.0.is_ok());
    // A body may be skipped if that was agreed on, and only that.
    let (mut client, mut milter) = agreed(&agrees(6, 0x400)).await;
    let skip = b"\0\0\0\x01s";
    let asking = client.tell(Command::Body(b"x"), nothing);
    assert_eq!(answered(&mut milter, skip, asking).await.0.unwrap(), Answer::Skip);
    let asking = client.tell(Command::Data, nothing);
    assert!(answered(&mut milter, skip, asking).await.0.is_err());
    // A change that the milter said it would not make.
    let mut without = AGREES.to_vec();
    without[9..13].copy_from_slice(&0_u32.to_be_bytes());
    let (mut client, mut milter) = agreed(&without).await;
    let said = b"\0\0\0\x05bnew \0\0\0\x01c";
    let (ended, _) = answered(&mut milter, said, client.end_of_message(nothing, LIMITS)).await;
    assert!(matches!(ended, Err(Error::Malformed(Malformed::NotAgreed))));
}

#[tokio::test]
async fn who_does_not_agree() {
    for (answer, expected) in [
        (agrees(1, 0), Malformed::Version(1)),
        (agrees(7, 0), Malformed::Version(7)),
        (agrees(6, 0x20_0000), Malformed::Wishes(0x20_0000)),
        (b"\0\0\0\x01c".to_vec(), Malformed::OutOfPlace),
    ] {
        let (ours, mut theirs) = duplex(1000);
        theirs.write_all(&answer).await.unwrap();
        match Client::negotiate(ours).await.map(|_| ()) {
            Err(Error::Malformed(wrong)) => assert_eq!(wrong, expected),
            other => panic!("{other:?}"),
        }
    }
    // What means nothing to us: refused recipients, sizes of packets.
    agreed(&agrees(6, 0x3000_0800)).await;
    let (ours, theirs) = duplex(1000);
    drop(theirs);
    assert!(matches!(Client::negotiate(ours).await, Err(Error::Lost(_))));
}

#[tokio::test]
async fn sessions_end_and_begin_anew() {
    let (mut client, mut milter) = agreed(AGREES).await;
    client.abort();
    assert_eq!(got(&mut milter).await, "", "there was no transaction");
    let sender = ["<>".to_owned()];
    let asking = client.tell(Command::Mail(&sender), nothing);
    answered(&mut milter, b"\0\0\0\x01c", asking).await.0.unwrap();
    client.abort();
    assert_eq!(got(&mut milter).await, "\\x00\\x00\\x00\\x01A");
    assert!(!client.next_session(), "it would not be heard there");
    for (said, may) in
        [(&b"\0\0\0\x01a"[..], false), (b"\0\0\0\x01r", false), (b"\0\0\0\x01c", true)]
    {
        let asking = client.end_of_message(nothing, LIMITS);
        answered(&mut milter, said, asking).await.0.unwrap();
        assert_eq!(client.may_have_another(), may, "{said:?}");
    }
    assert!(client.next_session());
    assert_eq!(got(&mut milter).await, "\\x00\\x00\\x00\\x01K");
    assert!(client.is_fresh());
    milter.write_all(b"\0\0\0\x01c").await.unwrap();
    assert!(!client.is_fresh(), "it says something unasked");
    let (client, mut milter) = agreed(AGREES).await;
    client.quit();
    assert_eq!(got(&mut milter).await, "\\x00\\x00\\x00\\x01Q");
    let (mut client, milter) = agreed(AGREES).await;
    drop(milter);
    assert!(!client.is_fresh(), "the milter is gone");
}
