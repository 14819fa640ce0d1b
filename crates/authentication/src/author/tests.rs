//! Who is the author: fields that programs read differently (attack A20).

use super::*;
use crate::zone::message;

fn authors(from: &str) -> (String, Option<&'static str>) {
    let text = message(&format!("{from}\nTo: t@to.test\n\n"));
    let authors = Authors::of(&View::of(&text));
    (authors.domains.join(" "), authors.problem)
}

#[test]
fn what_rfc_5322_allows_is_read() {
    for (from, expected) in [
        ("a@a.test", "a.test"),
        ("<a@a.test>", "a.test"),
        ("A B <a@a.test>", "a.test"),
        ("\"A @evil.test, B\" <a@a.test>", "a.test"),
        ("A. B. (c@evil.test) <a@a.test>", "a.test"),
        ("a@a.test (c (d) \\) e@evil.test)", "a.test"),
        ("=?utf-8?q?x=40evil.test?= <a@a.test>", "a.test"),
        ("\"a b\"@a.test", "a.test"),
        ("a@a.test, B <b@b.test>,", "a.test b.test"),
        ("a@a.test, b@A.test", "a.test"),
        ("Group: a@a.test, b@b.test;", "a.test b.test"),
        ("J\u{fc}rgen <a@b\u{fc}cher.test>", "xn--bcher-kva.test"),
        ("A\n <a@a.test>", "a.test"),
    ] {
        assert_eq!(authors(&format!("From: {from}")), (expected.to_owned(), None), "{from}");
    }
}

#[test]
fn a20_of_what_cannot_be_read_every_domain_counts() {
    for (from, expected) in [
        ("ceo@bank.test <a@evil.test>", "bank.test evil.test"),
        ("<ceo@bank.test> <a@evil.test>", "bank.test evil.test"),
        ("<ceo@bank.test>, <a@evil.test", "bank.test evil.test"),
        ("a@evil.test ceo@bank.test", "evil.test bank.test"),
        ("<a@evil.test>ceo@bank.test", "evil.test bank.test"),
        ("<@evil.test:ceo@bank.test>", "evil.test bank.test"),
        ("=?utf-8?B?Y2VvQGJhbmsudGVzdA==?=", "bank.test"),
        ("=?utf-8?Q?ceo=40bank.test?= a@evil.test", "evil.test bank.test"),
        ("<=?utf-8?Q?ceo=40bank.test?=@evil.test>", "evil.test bank.test"),
        ("\"ceo@bank.test\\\" <a@evil.test>", "bank.test evil.test"),
        ("(ceo@bank.test <a@evil.test>", "bank.test evil.test"),
        ("a@evil.test\u{0}ceo@bank.test", "evil.test bank.test"),
        ("a@[192.0.2.1], ceo@bank.test", "bank.test"),
        ("Group: ceo@bank.test", "bank.test"),
        ("undisclosed", ""),
    ] {
        let found = authors(&format!("From: {from}"));
        assert_eq!(found, (expected.to_owned(), Some("From cannot be read")), "{from:?}");
    }
    assert_eq!(authors("Subject: x"), (String::new(), Some("no From")));
    let two = authors("From: a@a.test\nFROM: b@b.test");
    assert_eq!(two, ("a.test b.test".to_owned(), Some("several From fields")));
    assert_eq!(authors("From:"), (String::new(), Some("From cannot be read")));
    let bad = authors("From: a@.a.test");
    assert_eq!(bad.1, Some("From cannot be read"));
    let long = format!("From: {}a@a.test", "x ".repeat(FIELD_BYTES_MAX));
    assert_eq!(authors(&long).1, Some("From is too long"));
    let deep = format!("From: {}a@a.test", "(".repeat(10_000));
    assert_eq!(authors(&deep), ("a.test".to_owned(), Some("From cannot be read")));
}
