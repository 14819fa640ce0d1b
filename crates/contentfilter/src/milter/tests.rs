//! What a milter says of a message, and what comes of it.

use job::inspect::Verdict;
use mail::Edit;
use proptest::prelude::*;

use super::changes;
use super::heard::{hear, message, session};
use super::received::Received;
use crate::filter::{FilterError, Finding};

/// A packet with its length.
fn framed(packet: &[u8]) -> Vec<u8> {
    let mut bytes = (packet.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(packet);
    bytes
}

/// What is found when the milter agrees to all and says this at the end of the message. It answers nothing before.
fn found(packets: &[&[u8]]) -> Result<Finding, FilterError> {
    // Version 6, all changes, no answers to DATA, fields, the end of the header section, and the body.
    let mut said = framed(b"O\0\0\0\x06\0\0\x01\xff\0\x0d\0\x80");
    said.extend(packets.iter().flat_map(|packet| framed(packet)));
    hear(&said)
}

fn leaves(packets: &[&[u8]]) -> String {
    let found = found(packets).expect("a finding");
    let left = message().with(&found.edits, found.body.as_deref()).whole();
    let text = String::from_utf8(left.to_vec()).expect("a text");
    // Without our own field, whose date and id are of no matter.
    let (before, rest) = text.split_once("Received: from a ").expect("our own field");
    let (_, behind) = rest.split_once("\r\n\tnow\r\n").expect("its end");
    format!("{before}[ours]\r\n{behind}").replace("\r\n", "|")
}

#[test]
fn each_change_is_made_where_the_milter_meant_it() {
    let as_it_was = "[ours]|Received: from elsewhere|Subject: hello|X-A: 1|X-A: 2||The body.|";
    assert_eq!(leaves(&[b"c"]), as_it_was);
    assert_eq!(leaves(&[b"a"]), as_it_was);
    for (packet, expected) in [
        (&b"hX-B\0b\0"[..], as_it_was.replace("X-A: 2|", "X-A: 2|X-B: b|")),
        // Our own field counts for the place.
        (b"i\0\0\0\0X-B\0b\0", as_it_was.replace("[ours]|", "X-B: b|[ours]|")),
        (b"i\0\0\0\x01X-B\0b\n\tc\0", as_it_was.replace("[ours]|", "[ours]|X-B: b|\tc|")),
        (b"i\0\0\0\x63X-B\0b\0", as_it_was.replace("X-A: 2|", "X-A: 2|X-B: b|")),
        (b"m\0\0\0\x02X-A\0new\0", as_it_was.replace("X-A: 2|", "X-A: new|")),
        (b"m\0\0\0\x01x-a\0\0", as_it_was.replace("X-A: 1|", "")),
        // The first that the milter was shown.
        (b"m\0\0\0\x01Received\0\0", as_it_was.replace("Received: from elsewhere|", "")),
        (b"bnew\n", as_it_was.replace("The body.", "new")),
        (b"b", as_it_was.replace("The body.|", "")),
    ] {
        assert_eq!(leaves(&[packet, b"c"]), expected, "{:?}", packet.escape_ascii().to_string());
    }
}

#[test]
fn the_envelope_is_changed() {
    let address = |text: &str| text.parse::<mail::Address>().expect("an address");
    let all = found(&[
        b"e<new@y.test>\0SIZE=1\0",
        b"+<d@x.test>\0",
        b"2<e@x.test>\0NOTIFY=NEVER\0",
        b"+<B@x.test>\0",
        b"+<b@X.test>\0",
        b"+<root>\0",
        b"-<c@X.TEST>\0",
        b"-<nobody@x.test>\0",
        b"c",
    ])
    .expect("a finding");
    assert_eq!(all.sender, Some(Some(address("new@y.test"))));
    let added: Vec<&str> = all.add.iter().map(|recipient| recipient.address.as_str()).collect();
    assert_eq!(added, ["d@x.test", "e@x.test", "B@x.test", "root@mx.test"]);
    assert_eq!(all.add[1].notify, Some(mail::Notify::NEVER));
    assert_eq!(all.remove, [1]);
    // Taken out and put in again; put in and taken out again.
    let again =
        found(&[b"-<b@x.test>\0", b"+<b@x.test>\0", b"+<d@x.test>\0", b"-<d@x.test>\0", b"c"]);
    let again = again.expect("a finding");
    assert_eq!((again.remove, again.add.len()), (vec![0], 1));
    assert_eq!(found(&[b"e<>\0", b"c"]).expect("a finding").sender, Some(None));
    for wrong in [&b"+<a b@x.test>\0"[..], b"+<>\0", b"2<d@x.test>\0NOTIFY=SOMETIMES\0", b"e<a@>\0"]
    {
        assert!(matches!(found(&[wrong, b"c"]), Err(FilterError::Malformed(_))), "{wrong:?}");
    }
}

/// What one milter takes out and another puts in is in, and the other way round.
#[test]
fn changes_follow_those_of_the_milters_before() {
    let session = crate::filter::Session {
        added: vec![mail::Recipient::from(
            "d@x.test".parse::<mail::Address>().expect("an address"),
        )],
        removed: [0].into(),
        ..session()
    };
    let received = Received::of(&message(), &session);
    let change = |changes: Vec<::milter::Change>| {
        changes::finding(changes, &session, &received, "milter", "mx.test").expect("a finding")
    };
    let add = |address: &str| ::milter::Change::AddRecipient {
        address: address.to_owned(),
        parameters: String::new(),
    };
    let found =
        change(vec![add("<b@x.test>"), add("<c@x.test>"), add("<D@X.test>"), add("<d@X.test>")]);
    let added: Vec<&str> = found.add.iter().map(|one| one.address.as_str()).collect();
    assert_eq!(added, ["b@x.test", "D@X.test"]);
    let found = change(vec![::milter::Change::RemoveRecipient("<d@X.TEST>".to_owned())]);
    let retracted: Vec<&str> = found.retract.iter().map(mail::Address::as_str).collect();
    assert_eq!((retracted, found.remove), (vec!["d@x.test"], vec![]));
}

#[test]
fn verdicts() {
    let verdict = |packets: &[&[u8]]| found(packets).expect("a finding").verdict;
    assert_eq!(verdict(&[b"d"]), Verdict::Discard);
    let code = |packet: &[u8]| match verdict(&[b"hX-B\0b\0", packet]) {
        Verdict::Reject(refusal) => (5, refusal.code, refusal.status.to_string(), refusal.text),
        Verdict::Tempfail(refusal) => (4, refusal.code, refusal.status.to_string(), refusal.text),
        other => panic!("{other:?}"),
    };
    assert_eq!(code(b"r").1, 550);
    assert_eq!(code(b"t").1, 451);
    assert_eq!(code(b"f").1, 421);
    assert_eq!(code(b"4").1, 421);
    assert_eq!(code(b"y550 no\0"), (5, 550, "5.7.1".to_owned(), "no".to_owned()));
    assert_eq!(
        code(b"y451-4.2.0 one\r\n451 4.2.0 two\0"),
        (4, 451, "4.2.0".to_owned(), "one\ntwo".to_owned())
    );
    let held = |packets: &[&[u8]]| match verdict(packets) {
        Verdict::Quarantine { reason } => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(held(&[b"qlooks bad\0", b"c"]), "looks bad");
    assert_eq!(held(&[b"q\0", b"a"]), "milter asks for it");
    // Whoever refuses does not change.
    assert!(found(&[b"hX-B\0b\0", b"r"]).expect("a finding").edits.is_empty());
}

/// Attack A29: what was said before the connection went is not taken for all that was to be said.
#[test]
fn a29_no_change_without_the_answer() {
    for said in [&[&b"bhalf"[..]][..], &[b"bhalf", b"p"], &[b"qheld\0"], &[]] {
        assert!(matches!(found(said), Err(FilterError::Lost(_))), "{said:?}");
    }
    assert!(matches!(found(&[b"bhalf", b"?"]), Err(FilterError::Malformed(_))));
}

/// Attack A18: nothing that a milter adds can begin another line.
#[test]
fn a18_no_field_can_be_smuggled_in() {
    for value in ["b\r\nX-C: c", "b\rX-C: c", "b\n\nbody", "b\r\n\r\nbody", "\r\n", "b\n \n\n"] {
        for packet in [format!("hX-B\0{value}\0"), format!("i\0\0\0\0X-B\0{value}\0")] {
            let found = found(&[packet.as_bytes(), b"c"]).expect("a finding");
            let left = message().with(&found.edits, None);
            assert_eq!(mail::header::count(left.head(), "X-C"), 0, "{value:?}");
            assert_eq!(mail::header::count(left.head(), "Subject"), 1, "{value:?}");
            assert_eq!(left.body(), message().body(), "{value:?}");
        }
    }
}

#[test]
fn our_own_received_field_is_the_one_with_the_id() {
    let session = session();
    let received = Received::of(&message(), &session);
    assert!(received.is_at(0) && !received.is_at(1));
    assert_eq!((received.nth("received", 1), received.nth("X-A", 1)), (2, 1));
    let edits = [Edit::Prepend { name: "Received".to_owned(), value: "from a filter".to_owned() }];
    let received = Received::of(&message().with(&edits, None), &session);
    assert!(received.is_at(1));
    assert_eq!((received.nth("Received", 1), received.nth("Received", 2)), (1, 3));
    let gone = [Edit::Change { name: "Received".to_owned(), nth: 1, value: None }];
    let received = Received::of(&message().with(&gone, None), &session);
    assert!(!received.is_at(0));
    assert_eq!(received.nth("Received", 1), 1);
}

/// What is no packet, or not all of one, is an error like any other.
#[test]
fn a29_what_ends_in_the_middle() {
    let agreed = framed(b"O\0\0\0\x06\0\0\x01\xff\0\0\0\0");
    let progress = framed(b"p");
    for said in [&b""[..], b"\0\rO", &agreed, &[&*agreed, &*progress, &*progress, b"\0\0"].concat()]
    {
        assert!(matches!(hear(said), Err(FilterError::Lost(_))), "{said:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_an_error_or_well_formed(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = hear(&bytes);
        let _ = hear(&[&*framed(b"O\0\0\0\x06\0\0\x01\xff\0\0\0\0"), &bytes].concat());
    }

    #[test]
    fn whatever_a_milter_says_what_leaves_is_well_formed(
        letters in proptest::collection::vec((0_usize..19, proptest::collection::vec(any::<u8>(), 0..40)), 0..12),
    ) {
        let packets: Vec<Vec<u8>> = letters
            .into_iter()
            .map(|(letter, data)| {
                let letter = *b"+-2abcdefhimpqrsty4".get(letter).unwrap_or(&b'c');
                [&[letter][..], &data].concat()
            })
            .collect();
        let packets: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
        let _ = found(&packets);
    }

    #[test]
    fn whatever_a_header_value_holds_it_is_one_field(value in "[a-z \\t\\r\\n:]{0,60}") {
        let packet = format!("hX-B\0{value}\0");
        let found = found(&[packet.as_bytes(), b"c"]).expect("a finding");
        let left = message().with(&found.edits, None);
        prop_assert_eq!(mail::header::fields(left.head()).count(), 6);
    }
}
