//! ARC: each result, and chains that are wrong.

use mail::Edit;

use super::*;
use crate::key::{Kind, SigningKey};
use crate::message::Message;
use crate::seal::{Sealed, Sealer};
use crate::sign::SignedFields;
use crate::zone::{Zone, edited, message, policy, run};

const TEXT: &str = "From: A <a@sender.test>\nTo: b@b.test\nSubject: one\n\nHello\n";

fn sealer(zone: &mut Zone, domain: &str, kind: Kind) -> Sealer {
    let key = SigningKey::from_pem(crate::zone::pem(kind).as_bytes()).unwrap();
    zone.add(&format!("arc._domainkey.{domain}"), "TXT", &key.record());
    Sealer {
        domain: domain.to_owned(),
        selector: "arc".to_owned(),
        key,
        fields: SignedFields::default(),
        authserv_id: format!("mx.{domain}"),
    }
}

fn seal(zone: &Zone, sealer: &Sealer, message: &Message) -> Sealed {
    let time = std::time::Duration::from_secs(5);
    run(sealer.seal(message, &policy(), time, zone))
}

fn sealed(zone: &Zone, sealer: &Sealer, message: &Message) -> Message {
    match seal(zone, sealer, message) {
        Sealed::Set(edits) => edited(message, &edits),
        other => panic!("{other:?}"),
    }
}

fn result(zone: &Zone, message: &Message) -> String {
    let view = View::of(message);
    let finding = run(verify(&view, &policy(), zone));
    match finding.reason {
        Some(reason) => format!("{}: {reason}", finding.result.name()),
        None => format!("{} {}", finding.result.name(), finding.instances),
    }
}

fn changed(message: &Message, from: &str, to: &str) -> Message {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().replacen(from, to, 1);
    Message::new(text(message.header()).into(), text(message.body()).into())
}

#[test]
fn each_result_comes() {
    let mut zone = Zone::default();
    let first = sealer(&mut zone, "one.test", Kind::Rsa(2048));
    let second = sealer(&mut zone, "two.test", Kind::Ed25519);
    let plain = message(TEXT);
    assert_eq!(result(&zone, &plain), "none 0");
    let once = sealed(&zone, &first, &plain);
    assert_eq!(result(&zone, &once), "pass 1");
    let twice = sealed(&zone, &second, &once);
    assert_eq!(result(&zone, &twice), "pass 2");
    let thrice = sealed(&zone, &first, &twice);
    assert_eq!(result(&zone, &thrice), "pass 3");
    // A list may change a message before it seals it: only the newest signature must match.
    let renamed = changed(&once, "Subject: one", "Subject: [list] one");
    let seen = Edit::Prepend {
        name: "Authentication-Results".to_owned(),
        value: "mx.two.test; spf=pass; arc=pass (i=1)".to_owned(),
    };
    let listed = sealed(&zone, &second, &edited(&renamed, &[seen]));
    assert_eq!(result(&zone, &listed), "pass 2");
    assert_eq!(seal(&zone, &second, &renamed), Sealed::Broken);
    assert_eq!(result(&zone, &changed(&twice, "Hello", "Help")), "fail: body has changed");
    let header = changed(&twice, "Subject: one", "Subject: two");
    assert_eq!(result(&zone, &header), "fail: message signature does not match");
    let mut slow = Zone::default();
    slow.add("arc._domainkey.one.test", "TXT", "!timeout");
    assert_eq!(result(&slow, &once), "temperror: key not found in time");
    assert_eq!(result(&Zone::default(), &once), "fail: no key");
}

#[test]
fn a24_gaps_doubles_and_too_many_sets_fail() {
    let mut zone = Zone::default();
    let sealer = sealer(&mut zone, "one.test", Kind::Ed25519);
    let once = sealed(&zone, &sealer, &message(TEXT));
    let twice = sealed(&zone, &sealer, &once);
    let without = |nth, name: &str| {
        let edit = Edit::Change { name: name.to_owned(), nth, value: None };
        edited(&twice, &[edit])
    };
    for name in [RESULTS_FIELD, SIGNATURE_FIELD, SEAL_FIELD] {
        for nth in [1, 2] {
            assert_eq!(
                result(&zone, &without(nth, name)),
                "fail: an instance is missing",
                "{name}"
            );
        }
    }
    for (from, to, expected) in [
        ("i=2", "i=3", "fail: an instance is missing"),
        ("i=2", "i=1", "fail: an instance is there twice"),
        ("i=2", "i=0", "fail: an instance is missing"),
        ("i=2", "i=99999999999", "fail: an instance is missing"),
        ("cv=pass", "cv=fail", "fail: an earlier host found the chain broken"),
        ("cv=pass", "cv=none", "fail: an earlier host found the chain broken"),
        ("cv=none", "cv=pass", "fail: an earlier host found the chain broken"),
        ("cv=pass;", "cv=pass; h=From;", "fail: seal lists header fields"),
    ] {
        assert_eq!(result(&zone, &changed(&twice, from, to)), expected, "{from} {to}");
    }
    let double = Edit::Prepend { name: SEAL_FIELD.to_owned(), value: "i=2; cv=pass".to_owned() };
    assert_eq!(result(&zone, &edited(&twice, &[double])), "fail: an instance is there twice");
    let mut long = message(TEXT);
    for _ in 0..SETS_MAX {
        long = sealed(&zone, &sealer, &long);
    }
    assert_eq!(result(&zone, &long), "pass 50");
    assert_eq!(seal(&zone, &sealer, &long), Sealed::Broken);
    let set = [RESULTS_FIELD, SIGNATURE_FIELD, SEAL_FIELD]
        .map(|name| Edit::Prepend { name: name.to_owned(), value: "i=51; cv=pass".to_owned() });
    assert_eq!(result(&zone, &edited(&long, &set)), "fail: more than 50 sets");
}

#[test]
fn a_chain_that_is_not_known_to_be_valid_is_not_sealed() {
    let mut zone = Zone::default();
    let sealer = sealer(&mut zone, "one.test", Kind::Ed25519);
    let once = sealed(&zone, &sealer, &message(TEXT));
    assert_eq!(seal(&zone, &sealer, &changed(&once, "Hello", "Help")), Sealed::Broken);
    let mut slow = Zone::default();
    slow.add("arc._domainkey.one.test", "TXT", "!never");
    assert_eq!(seal(&slow, &sealer, &once), Sealed::Unknown);
}
