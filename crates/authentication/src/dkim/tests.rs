//! DKIM: each result, and attacks.

use super::*;
use crate::key::Kind;
use crate::message::Message;
use crate::sign::Form as SignForm;
use crate::zone::{NOW, Zone, edited, message, policy, run, signed, signer};

/// A public RSA key of 512 bits.
const SMALL: &str = "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBALjDXaAzp4NY4RYXxmMnaM3SnPMZSNz2cE2aZUR81hBSPkfc6PykRbAn6nNlNFXQ2RoOlT7SWGegsSpiYgIUuXcCAwEAAQ==";

const TEXT: &str =
    "From: A <a@sender.test>\nTo: b@b.test\nSubject: one\n two\nDate: now\n\nHello,  world \n\n\n";

fn results(zone: &Zone, message: &Message, policy: &DkimPolicy) -> Vec<String> {
    let view = View::of(message);
    let findings = run(verify(&view, policy, zone));
    findings
        .iter()
        .map(|finding| match finding.reason {
            Some(reason) => format!("{}: {reason}", finding.result.name()),
            None => finding.result.name().to_owned(),
        })
        .collect()
}

fn check(zone: &Zone, message: &Message, expected: &[&str]) {
    assert_eq!(results(zone, message, &policy()), expected);
}

/// The message with its text changed.
fn changed(message: &Message, from: &str, to: &str) -> Message {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().replace(from, to);
    let found = Message::new(text(message.header()).into(), text(message.body()).into());
    assert!(found.header() != message.header() || found.body() != message.body(), "{from}");
    found
}

#[test]
fn what_we_sign_passes() {
    for kind in [Kind::Ed25519, Kind::Rsa(2048)] {
        for (header, body) in [
            (SignForm::Relaxed, SignForm::Relaxed),
            (SignForm::Simple, SignForm::Simple),
            (SignForm::Relaxed, SignForm::Simple),
            (SignForm::Simple, SignForm::Relaxed),
        ] {
            let mut zone = Zone::default();
            let signer = signer(&mut zone, "sender.test", "s1", kind);
            let signer = crate::sign::Signer { header, body, seconds: Some(60), ..signer };
            for text in [TEXT, "From: a@sender.test\n\n", "From: a@sender.test\n"] {
                let found = signed(&message(text), std::slice::from_ref(&signer));
                check(&zone, &found, &["pass"]);
            }
        }
    }
}

#[test]
fn each_result_comes() {
    let mut zone = Zone::default();
    let signer = signer(&mut zone, "sender.test", "s1", Kind::Ed25519);
    let record = signer.key.record();
    let found = signed(&message(TEXT), &[signer]);
    check(&zone, &message(TEXT), &[]);
    check(&zone, &found, &["pass"]);
    check(&zone, &changed(&found, "world", "words"), &["fail: body has changed"]);
    check(
        &zone,
        &changed(&found, "Subject: one", "Subject: two"),
        &["fail: signature does not match"],
    );
    check(&zone, &changed(&found, "Subject: one\r\n two", "subject:\tone \r\n\ttwo"), &["pass"]);
    check(&zone, &changed(&found, "v=1", "v=2"), &["neutral: unknown version"]);
    check(
        &zone,
        &changed(&found, "a=ed25519-sha256", "a=rsa-sha1"),
        &["policy: rsa-sha1 is not accepted"],
    );
    check(
        &zone,
        &changed(&found, "a=ed25519-sha256", "a=rsa-sha256"),
        &["permerror: key is for another algorithm"],
    );
    let partial = changed(&found, "\th=From:From:", "\th=");
    check(&zone, &partial, &["permerror: From is not signed"]);
    for (data, expected) in [
        ("!timeout", "temperror: key not found in time"),
        ("v=DKIM1; k=ed25519; p=", "permerror: key is revoked"),
        ("v=DKIM2; k=ed25519; p=AAAA", "permerror: key of an unknown version"),
        ("v=DKIM1; k=lattice; p=AAAA", "permerror: key of an unknown type"),
        ("v=DKIM1; k=ed25519; p=AAAA", "permerror: key cannot be read"),
        ("v=DKIM1; k=ed25519; p=!", "permerror: key cannot be read"),
        ("garbage", "permerror: key cannot be read"),
    ] {
        let mut zone = Zone::default();
        zone.add("s1._domainkey.sender.test", "TXT", data);
        check(&zone, &found, &[expected]);
    }
    for (change, expected) in [
        ("h=sha1; k=", "permerror: key is for another hash"),
        ("s=tlsrpt; k=", "permerror: key is not for mail"),
        ("s=email:other; k=", "pass"),
        ("t=y; k=", "pass: key is for tests"),
    ] {
        let mut zone = Zone::default();
        zone.add("s1._domainkey.sender.test", "TXT", &record.replace("h=sha256; k=", change));
        check(&zone, &found, &[expected]);
    }
    check(&Zone::default(), &found, &["permerror: no key"]);
    let mut zone = Zone::default();
    zone.add_bytes("s1._domainkey.sender.test", "TXT", b"v=DKIM1;\0\xff p=\0");
    check(&zone, &found, &["permerror: key cannot be read"]);
}

#[test]
fn a22_a_longer_body_than_l_says_is_no_pass() {
    let mut zone = Zone::default();
    let signer = signer(&mut zone, "sender.test", "s1", Kind::Ed25519);
    let whole = message("From: a@sender.test\n\nHello\n");
    let found = signed_with(&signer, &whole, "; l=7");
    check(&zone, &found, &["pass"]);
    let longer = Message::new(
        found.header().to_vec().into(),
        "Hello\r\n<html>Give us your password</html>\r\n".to_owned().into(),
    );
    check(&zone, &longer, &["policy: body longer than signed"]);
    let lenient = DkimPolicy { partial_body: true, ..policy() };
    assert_eq!(results(&zone, &longer, &lenient), ["pass"]);
    let shorter = Message::new(found.header().to_vec().into(), "Hell".to_owned().into());
    check(&zone, &shorter, &["fail: body has changed"]);
    let nothing = signed_with(&signer, &message("From: a@sender.test\n\n"), "; l=0");
    check(&zone, &nothing, &["pass"]);
    let grown = Message::new(nothing.header().to_vec().into(), "anything\r\n".to_owned().into());
    check(&zone, &grown, &["policy: body longer than signed"]);
}

/// Signs as we never do: with more tags.
fn signed_with(signer: &crate::sign::Signer, message: &Message, more: &str) -> Message {
    let view = View::of(message);
    let which = BodyHash { canonicalization: RELAXED, length: None };
    let hash = crate::tags::encode(&run(view.body_hash(which)).0);
    let mut value = format!(
        "v=1; a={}; c=relaxed/relaxed; d=sender.test; s=s1; h=From; bh={hash}{more}; b=",
        signer.key.algorithm().name()
    );
    let data = crate::sign::unsigned("DKIM-Signature", &value, |field| {
        canonical(RELAXED, view.signed(&["From".to_owned()]), (field.name(), field.raw_value()))
    });
    value.push_str(&crate::tags::encode(&signer.key.sign(&data.unwrap()).unwrap()));
    let edit = mail::Edit::Prepend { name: "DKIM-Signature".to_owned(), value };
    edited(message, &[edit])
}

#[test]
fn a22_time_and_identity_are_checked() {
    let mut zone = Zone::default();
    let signer = signer(&mut zone, "sender.test", "s1", Kind::Ed25519);
    let text = message("From: a@sender.test\n\nHello\n");
    let (past, future) = (NOW - 1, NOW + 1);
    for (more, expected) in [
        (format!("; x={past}"), "policy: signature has expired"),
        (format!("; x={NOW}"), "policy: signature has expired"),
        (format!("; x={future}"), "pass"),
        (format!("; t={future}; x={future}"), "permerror: expires before it was made"),
        ("; x=soon".to_owned(), "neutral: not a number"),
        ("; x=99999999999999999999999".to_owned(), "pass"),
        ("; i=a@sender.test".to_owned(), "pass"),
        ("; i=@below.sender.test".to_owned(), "pass"),
        ("; i=a@other.test".to_owned(), "neutral: identity is not the signer's"),
        ("; i=a@notsender.test".to_owned(), "neutral: identity is not the signer's"),
        ("; q=http/well-known".to_owned(), "neutral: unknown way to find the key"),
        ("; q=dns/txt".to_owned(), "pass"),
        ("; d=other.test".to_owned(), "neutral: cannot be read"),
    ] {
        check(&zone, &signed_with(&signer, &text, &more), &[expected]);
    }
    let record = signer.key.record().replace("h=sha256", "h=sha256; t=s");
    let mut strict = Zone::default();
    strict.add("s1._domainkey.sender.test", "TXT", &record);
    let below = signed_with(&signer, &text, "; i=@below.sender.test");
    check(&strict, &below, &["permerror: key is not for subdomains"]);
    check(&strict, &signed_with(&signer, &text, ""), &["pass"]);
    let tests = signer.key.record().replace("h=sha256", "t=y");
    let mut testing = Zone::default();
    testing.add("s1._domainkey.sender.test", "TXT", &tests);
    let broken = changed(&signed_with(&signer, &text, ""), "Hello", "Help");
    check(&testing, &broken, &["neutral: key is for tests"]);
}

#[test]
fn a22_small_and_huge_keys_never_pass() {
    let mut zone = Zone::default();
    let found = signed(&message(TEXT), &[signer(&mut zone, "sender.test", "s1", Kind::Rsa(2048))]);
    let strict = DkimPolicy { rsa_bits_min: 4096, ..policy() };
    assert_eq!(results(&zone, &found, &strict), ["policy: key is too small"]);
    let mut zone = Zone::default();
    zone.add("s1._domainkey.sender.test", "TXT", &format!("v=DKIM1; p={SMALL}"));
    check(&zone, &found, &["policy: key is too small"]);
    // A key of 400,000 bits: 30 82 … 02 82 C3 50 …
    let mut der = vec![0x30, 0x83, 0x00, 0xc3, 0x60, 0x02, 0x83, 0x00, 0xc3, 0x51, 0x00];
    der.extend(vec![0xff; 50_000]);
    der.extend([0x02, 0x03, 0x01, 0x00, 0x01]);
    let mut zone = Zone::default();
    zone.add("s1._domainkey.sender.test", "TXT", &format!("p={}", crate::tags::encode(&der)));
    check(&zone, &found, &["fail: signature does not match"]);
}

#[test]
fn a22_fields_that_were_added_break_the_signature() {
    let mut zone = Zone::default();
    let found = signed(&message(TEXT), &[signer(&mut zone, "sender.test", "s1", Kind::Ed25519)]);
    for name in ["From", "Subject", "To", "Cc", "Reply-To", "Date", "Content-Type"] {
        let edit = mail::Edit::Prepend { name: name.to_owned(), value: "x@evil.test".to_owned() };
        check(&zone, &edited(&found, &[edit]), &["fail: signature does not match"]);
        let edit = mail::Edit::Append { name: name.to_owned(), value: "x@evil.test".to_owned() };
        check(&zone, &edited(&found, &[edit]), &["fail: signature does not match"]);
    }
}

#[test]
fn a22_only_so_many_signatures_are_looked_at() {
    let mut zone = Zone::default();
    let signer = signer(&mut zone, "sender.test", "s1", Kind::Ed25519);
    let found = signed(&message(TEXT), &[signer]);
    let forged = |number: usize| mail::Edit::Prepend {
        name: "DKIM-Signature".to_owned(),
        value: format!(
            "v=1; a=rsa-sha256; d=d{number}.test; s=s; h=From; bh=AAAA; l={number}; b=AAAA{number:04}"
        ),
    };
    let edits: Vec<mail::Edit> = (0..500).map(forged).collect();
    let flooded = edited(&found, &edits);
    let before = zone.questions();
    assert_eq!(results(&zone, &flooded, &policy()).len(), 10);
    assert!(zone.questions() - before <= 10);
    // Those at the top, where whoever handed the message on last puts theirs.
    let few = edited(&found, edits.get(..9).unwrap());
    assert_eq!(results(&zone, &few, &policy()).last().unwrap(), "pass");
}

#[test]
fn signatures_of_one_domain_are_told_apart() {
    let mut zone = Zone::default();
    let one = signer(&mut zone, "sender.test", "rsa", Kind::Rsa(2048));
    let two = signer(&mut zone, "sender.test", "ed", Kind::Ed25519);
    let found = signed(&message(TEXT), &[one, two]);
    let view = View::of(&found);
    let findings = run(verify(&view, &policy(), &zone));
    let algorithms: Vec<_> = findings.iter().map(|one| one.algorithm.unwrap()).collect();
    assert_eq!(algorithms, ["ed25519-sha256", "rsa-sha256"]);
    assert!(findings.iter().all(|one| one.result == DkimResult::Pass));
    assert!(findings.iter().all(|one| one.signature.as_ref().unwrap().len() >= 8));
    assert_ne!(findings[0].signature, findings[1].signature);
}
