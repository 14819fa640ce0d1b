//! Which keys sign which mail, and which fields.

use super::*;
use crate::key::Kind;
use crate::zone::{NOW, Zone, message, run, signer};

fn domains_of(signers: &[Signer], from: &str) -> Vec<String> {
    let text = message(&format!("{from}\n\nbody\n"));
    let signers: Vec<&Signer> = signers.iter().collect();
    let edits = run(sign(&signers, &text, NOW)).unwrap();
    let domain = |edit: Edit| match edit {
        Edit::Prepend { value, .. } => {
            let (_, rest) = value.split_once(" d=").unwrap();
            rest.split(';').next().unwrap().to_owned()
        }
        other => panic!("{other:?}"),
    };
    edits.into_iter().map(domain).collect()
}

#[test]
fn the_closest_keys_sign() {
    let zone = &mut Zone::default();
    let mut with = |domains| Signer { domains, ..signer(zone, "a.test", "s", Kind::Ed25519) };
    let one = |text: &str| Domains::One(text.to_owned());
    let below = |text: &str| Domains::AndBelow(text.to_owned());
    let signers = [
        with(one("a.test")),
        with(one("a.test")),
        with(below("b.test")),
        with(below("c.b.test")),
        with(Domains::Any),
    ];
    for (from, expected) in [
        ("From: x@a.test", &["a.test", "a.test"][..]),
        ("From: x@A.TEST", &["a.test", "a.test"]),
        ("From: x@m.a.test", &["m.a.test"]),
        ("From: x@b.test", &["b.test"]),
        ("From: x@m.b.test", &["b.test"]),
        ("From: x@m.c.b.test", &["c.b.test"]),
        ("From: x@notb.test", &["notb.test"]),
        // Whom should a signature be by?
        ("From: x@a.test, y@b.test", &[]),
        ("From: x@a.test\nFrom: x@a.test", &[]),
        ("Subject: x", &[]),
    ] {
        assert_eq!(domains_of(&signers, from), expected, "{from}");
    }
    assert_eq!(domains_of(&signers[..4], "From: x@other.test"), [""; 0]);
}

#[test]
fn fields_are_oversigned_or_signed() {
    let text =
        message("From: a@a.test\nReceived: x\nReceived: y\nSubject: s\nsubject: t\nX-Mine: 1\n\n");
    let view = View::of(&text);
    let fields = SignedFields {
        oversigned: vec!["Subject".to_owned(), "from".to_owned(), "Cc".to_owned()],
        signed: vec!["Received".to_owned(), "X-Mine".to_owned(), "X-None".to_owned()],
    };
    let expected =
        ["From", "From", "Subject", "Subject", "Subject", "Cc", "Received", "Received", "X-Mine"];
    assert_eq!(fields.names(&view), expected);
    let many = message(&format!("From: a@a.test\n{}\n", "Received: x\n".repeat(5000)));
    assert!(fields.names(&View::of(&many)).len() <= FIELDS_MAX);
}

#[test]
fn lines_are_short() {
    let zone = &mut Zone::default();
    let signers = [signer(zone, "a.test", "s", Kind::Rsa(2048))];
    let text = message(&format!("From: a@a.test\n{}\nbody\n", "To: x\n".repeat(50)));
    let edits = run(sign(&[&signers[0]], &text, NOW)).unwrap();
    let raw = header::edit(&[], &edits);
    let raw = String::from_utf8(raw).unwrap();
    assert!(raw.lines().all(|line| line.len() <= 78), "{raw}");
}
