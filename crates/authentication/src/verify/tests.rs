//! All together: DNS that is slow, lies, loops or is broken gives `temperror` or a failure, never a pass (attack A28).

use super::*;
use crate::key::Kind;
use crate::zone::{Zone, message, policy, run, signed, signer};

fn terms() -> Terms {
    Terms { dkim: policy(), iprev: true, time: Duration::from_secs(10), chance: 0 }
}

fn report(zone: &Zone, helo: &str, sender: &str, message: &Message) -> Report {
    let sender = Address::parse(sender).ok();
    let facts = Facts { client: "192.0.2.1".parse().unwrap(), helo, sender: sender.as_ref() };
    run(verify(&facts, message, &terms(), zone))
}

fn words(report: &Report) -> String {
    let value = report.header_value("mx.test");
    let methods = value.split(";\r\n\t").skip(1).map(|entry| entry.split(' ').next().unwrap());
    methods.collect::<Vec<_>>().join(" ")
}

fn good_zone() -> (Zone, Message) {
    let mut zone = Zone::of(
        "
        a.test TXT v=spf1 ip4:192.0.2.1 -all
        mail.a.test TXT v=spf1 a -all
        mail.a.test A 192.0.2.1
        1.2.0.192.in-addr.arpa PTR mail.a.test
        _dmarc.a.test TXT v=DMARC1; p=reject
        ",
    );
    let text = message("From: a@a.test\nSubject: x\n\nbody\n");
    let signed = signed(&text, &[signer(&mut zone, "a.test", "s", Kind::Ed25519)]);
    (zone, signed)
}

#[test]
fn a_good_message_passes_all() {
    let (zone, text) = good_zone();
    let found = report(&zone, "mail.a.test", "x@a.test", &text);
    assert_eq!(words(&found), "iprev=pass spf=pass spf=pass dkim=pass dmarc=pass arc=none");
    assert_eq!((found.policy(), found.is_undecided()), (Policy::None, false));
}

#[test]
fn a24_a_null_sender_is_judged_by_its_helo() {
    let (zone, _) = good_zone();
    let unsigned = message("From: a@a.test\n\nbody\n");
    let found = report(&zone, "mail.a.test", "", &unsigned);
    assert_eq!(words(&found), "iprev=pass spf=pass dkim=none dmarc=pass arc=none");
    let found = report(&zone, "evil.test", "", &unsigned);
    assert_eq!(words(&found), "iprev=pass spf=none dkim=none dmarc=fail arc=none");
    assert_eq!(found.policy(), Policy::Reject);
    // A sender that is not null is not judged by HELO.
    let found = report(&zone, "mail.a.test", "x@evil.test", &unsigned);
    assert_eq!(found.policy(), Policy::Reject);
    let found = report(&zone, "[192.0.2.1]", "", &unsigned);
    assert_eq!(words(&found), "iprev=pass spf=none dkim=none dmarc=fail arc=none");
}

#[test]
fn a28_dns_that_gives_no_answer_is_a_temperror() {
    for broken in ["!timeout", "!never"] {
        let (_, text) = good_zone();
        let mut zone = Zone::default();
        for name in [
            "a.test",
            "mail.a.test",
            "_dmarc.a.test",
            "s._domainkey.a.test",
            "1.2.0.192.in-addr.arpa",
        ] {
            zone.add(name, "*", broken);
        }
        let found = report(&zone, "mail.a.test", "x@a.test", &text);
        let expected =
            "iprev=temperror spf=temperror spf=temperror dkim=temperror dmarc=temperror arc=none";
        assert_eq!(words(&found), expected);
        assert_eq!((found.policy(), found.is_undecided()), (Policy::None, true));
    }
}

#[test]
fn a28_with_one_part_silent_the_rest_is_told() {
    let (mut zone, text) = good_zone();
    zone.add("slow.test", "*", "!never");
    let found = report(&zone, "slow.test", "x@slow.test", &text);
    // What is known at once is told also when the time has passed.
    assert_eq!(
        words(&found),
        "iprev=pass spf=temperror spf=temperror dkim=pass dmarc=pass arc=none"
    );
    assert!(!found.is_undecided());
}

#[test]
fn a28_loops_and_lies_of_dns_pass_nothing() {
    let (_, text) = good_zone();
    let zone = Zone::of(
        "
        a.test CNAME b.test
        b.test CNAME a.test
        _dmarc.a.test CNAME _dmarc.b.test
        _dmarc.b.test CNAME _dmarc.a.test
        s._domainkey.a.test CNAME s._domainkey.a.test
        1.2.0.192.in-addr.arpa PTR other.test
        other.test A 198.51.100.1
        ",
    );
    let found = report(&zone, "a.test", "x@a.test", &text);
    let expected = "iprev=fail spf=temperror spf=temperror dkim=temperror dmarc=temperror arc=none";
    assert_eq!(words(&found), expected);
    let mut zone = Zone::default();
    zone.add_bytes("a.test", "TXT", &[0xff; 60_000]);
    zone.add_bytes("_dmarc.a.test", "TXT", &[0; 60_000]);
    zone.add_bytes("s._domainkey.a.test", "TXT", &b"v=DKIM1; p=".repeat(5000));
    for number in 0..10_000 {
        zone.add("1.2.0.192.in-addr.arpa", "PTR", &format!("x\"{number}\\.test"));
        zone.add("many.test", "A", "192.0.2.1");
    }
    let found = report(&zone, "a.test", "x@a.test", &text);
    assert_eq!(words(&found), "iprev=fail spf=none spf=none dkim=permerror dmarc=none arc=none");
}
